"""Who may do what with whose rows: the table of docs/security.md, as data.

A service for people logs in as ``app_user`` and proves who acts; what a role may do is said
for its sessions, for ``api_user`` for a key with every scope that it may have. ``all``: rows
of every account; ``own``: of the account itself, images' jobs and results being the image's
owner's; ``none``: no row, or no right to try.

python tests/role_table.py    writes the page's table anew
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


PAGE: Final = Path(__file__).parent.parent / "docs/security.md"
BEGIN, END = "<!-- tests/role_table.py -->\n", "<!-- end -->\n"


def written(page: str) -> str:
    """The page with the table as it is here."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + markdown() + END + after


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
