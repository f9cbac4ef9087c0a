"""Who may do what with whose rows: the tables of docs/security.md, as data.

A service for people logs in as ``app_user`` and proves who acts; what a role may do is said
for its sessions, for ``api_user`` for a key with every scope that it may have. ``all``: rows
of every account; ``own``: of the account itself, images' jobs and results being the image's
owner's; ``none``: no row, or no right to try.

What works on rows of all accounts at once is the operator's alone, and has a table of its own.

python tests/role_table.py    writes the page's tables anew
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, TypeAlias

Whose: TypeAlias = Literal["all", "own", "none"]
Verb: TypeAlias = Literal["read", "add", "change", "remove"]

VERBS: Final[tuple[Verb, ...]] = ("read", "add", "change", "remove")
ROLES: Final = ("admin", "analyst", "viewer", "api_user", "nobody")

NOBODY: Final[tuple[Whose, ...]] = ("none",) * len(ROLES)

# relation → verb → whose rows, for admin, analyst, viewer, api_user, and nobody proven.
TABLE: Final[dict[str, dict[Verb, tuple[Whose, ...]]]] = {
    "images": {
        "read": ("all", "own", "own", "own", "none"),
        "add": ("all", "own", "none", "own", "none"),
        "change": ("all", "own", "none", "own", "none"),
        "remove": ("all", "own", "none", "own", "none"),
    },
    "analysis_results": {
        "read": ("all", "own", "own", "own", "none"),
        "add": NOBODY,
        "change": ("all", "own", "none", "own", "none"),
        "remove": NOBODY,
    },
    "processing_queue": {
        "read": ("all", "own", "own", "own", "none"),
        "add": NOBODY,
        "change": NOBODY,
        "remove": NOBODY,
    },
    "analysis_cache": {"read": NOBODY, "add": NOBODY, "change": NOBODY, "remove": NOBODY},
    "users": {
        "read": ("all", "own", "own", "none", "none"),
        "add": NOBODY,
        "change": ("all", "own", "none", "none", "none"),
        "remove": NOBODY,
    },
    "api_keys": {
        "read": ("all", "own", "own", "none", "none"),
        "add": ("all", "own", "none", "none", "none"),
        "change": ("all", "own", "none", "none", "none"),
        "remove": NOBODY,
    },
    "sessions": {
        "read": ("all", "own", "own", "none", "none"),
        "add": NOBODY,
        "change": NOBODY,
        "remove": NOBODY,
    },
    "security_audit": {
        "read": ("all", "own", "own", "none", "none"),
        "add": NOBODY,
        "change": NOBODY,
        "remove": NOBODY,
    },
    "audit_log_details": {
        "read": ("all", "own", "own", "none", "none"),
        "add": NOBODY,
        "change": NOBODY,
        "remove": NOBODY,
    },
}


# What for → the functions and the relations that the operator has, and app_user hasn't.
OPERATORS: Final[dict[str, tuple[str, str]]] = {
    "jobs of any account": (
        "enqueue_jobs cancel_jobs retry_jobs limit_running_jobs fail_overdue_jobs purge_jobs"
        " drop_ended_months",
        "queue_depth queue_limits queue_status_summary",
    ),
    "workers": (
        "register_worker heartbeat rest_worker wake_workers stop_worker claim_jobs claim_work"
        " answer_jobs complete_job complete_job_from_cache complete_jobs fail_job fail_jobs"
        " give_back_job lost_jobs rescue_jobs count_deaths say_computing keep_job_logs"
        " purge_job_logs set_image_hashes",
        "workers job_logs",
    ),
    "counts of the queue": (
        "fold_queue_counts reconcile_queue_counts fold_job_failures failures_by_error"
        " sum_ended_jobs ended_job_summary ended_job_percentiles split_waits measure_algorithms",
        "algorithm_speeds ended_job_days ended_job_waits ended_job_spans ended_job_changes"
        " job_failures",
    ),
    "cached answers and values": (
        "cleanup_expired_cache trim_cache count_cache_uses find_cached_value store_cached_value"
        " renew_cached_value count_cached_value_uses cleanup_cached_values trim_cached_values"
        " purge_cached_values",
        "analysis_cache analysis_cache_uses analysis_cache_misses analysis_cache_days"
        " cached_values cached_value_leases cached_value_uses",
    ),
    "near images and duplicates of all accounts": (
        "near_images near_hashes scan_duplicates decide_duplicates mark_duplicate_images",
        "duplicate_pairs unscanned_images",
    ),
    "accounts, logins, tokens": (
        "finish_login change_password end_sessions unlock_account issue_account_token"
        " redeem_account_token purge_account_tokens rotate_api_key count_api_key_uses"
        " refresh_login_counters refresh_user_counters",
        "",
    ),
    "the audit trail": ("seal_audit hold_audit", ""),
    "housekeeping": (
        "begin_upkeep end_upkeep analyze_parent roll_up_metrics roll_up_summaries",
        "upkeep_steps",
    ),
}


def whose(relation: str, verb: Verb, role: str) -> Whose:
    """Whose rows of a relation a role may read, add, change or remove."""
    return TABLE[relation][verb][ROLES.index(role)]


def _cell(relation: str, role: str) -> str:
    """Such as ``own: read, add``; a role's verbs on a relation are all on the same rows."""
    may = {verb: whose(relation, verb, role) for verb in VERBS}
    verbs = [verb for verb, rows in may.items() if rows != "none"]
    return f"{may[verbs[0]]}: {', '.join(verbs)}" if verbs else "–"


def markdown() -> str:
    """The table as the page has it."""
    lines = [f"| relation | {' | '.join(ROLES)} |", "| --- |" + " --- |" * len(ROLES)]
    for relation in TABLE:
        cells = " | ".join(_cell(relation, role) for role in ROLES)
        lines.append(f"| `{relation}` | {cells} |")
    return "\n".join(lines) + "\n"


def operators() -> str:
    """The table of what is the operator's alone."""
    lines = ["| the operator's alone | functions | relations |", "| --- | --- | --- |"]
    for what, names in OPERATORS.items():
        cells = [", ".join(f"`{name}`" for name in sorted(text.split())) for text in names]
        lines.append(f"| {what} | {cells[0]} | {cells[1]} |".replace("|  |", "| |"))
    return "\n".join(lines) + "\n"


PAGE: Final = Path(__file__).parent.parent / "docs/security.md"
BEGIN, THEN, END = (f"<!-- {name} -->\n" for name in ("tests/role_table.py", "operator", "end"))


def written(page: str) -> str:
    """The page with the tables as they are here."""
    for begin, table in ((BEGIN, markdown()), (THEN, operators())):
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(END)
        page = before + begin + table + END + after
    return page


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
