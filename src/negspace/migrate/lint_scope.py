"""Which of squawk's findings apply here: what the plan, the tables and the server make safe.

A finding that doesn't apply is counted with its reason, never dropped in silence.
"""

from __future__ import annotations

from typing import Final

from negspace.migrate.ddl import Change
from negspace.migrate.lint_facts import Facts
from negspace.migrate.lint_locks import hold, keeps_rows
from negspace.migrate.lint_rules import Subject

__all__ = ["why_not"]

# They are about how long a lock lasts on a table that others use.
_LOCKS: Final = {
    "adding-field-with-default",
    "adding-foreign-key-constraint",
    "adding-not-nullable-field",
    "adding-serial-primary-key-field",
    "ban-concurrent-index-creation-in-transaction",
    "constraint-missing-not-valid",
    "disallowed-unique-constraint",
    "require-concurrent-index-creation",
    "require-concurrent-index-deletion",
    "require-concurrent-partition-detach",
    "require-concurrent-reindex",
}
# They are about clients that still use what was.
_CLIENTS: Final = {
    "adding-required-field",
    "ban-drop-column",
    "ban-drop-constraint",
    "ban-drop-domain",
    "ban-drop-function",
    "ban-drop-index",
    "ban-drop-not-null",
    "ban-drop-table",
    "ban-drop-type",
    "ban-drop-view",
    "changing-column-type",
    "prefer-robust-stmts",
    "renaming-column",
    "renaming-object",
    "renaming-table",
}
_TIMEOUTS: Final = {"require-lock-timeout", "require-statement-timeout", "require-timeout-settings"}


def why_not(rule: str, is_down: bool, subjects: list[Subject]) -> str | None:
    """Why a finding of squawk does not apply, or None where it does.

    Args:
        rule: squawk's.
        is_down: The file undoes a migration.
        subjects: The changes of the statement that it is about.
    """
    if rule == "syntax-error":  # squawk's grammar is not the server's
        return "the server tells a syntax error, and what is none"
    if rule in _TIMEOUTS:
        return "the runner sets the time-outs; missing-lock-timeout looks at the tables"
    if is_down and rule.startswith(("ban-drop-", "require-concurrent-index-deletion")):
        return "a down undoes; negspace migrate prove tells what that loses"
    if not subjects or rule not in _LOCKS | _CLIENTS:
        return None
    run = subjects[0].run
    if all(run.has_made(subject.change.object) for subject in subjects):
        return "made in the same run"
    facts = subjects[0].facts
    return None if facts is None else _live(rule, subjects, facts)


def _live(rule: str, subjects: list[Subject], facts: Facts) -> str | None:
    if rule == "changing-column-type":
        changed = [s.change for s in subjects if s.change.kind == "alter column type"]
        safe = changed and all(keeps_rows(change, facts) for change in changed)
        return "the type only gets wider: no row is rewritten" if safe else None
    if rule not in _LOCKS:
        return None
    tables = [s.table() for s in subjects if not s.run.has_made(s.change.object)]
    limit = subjects[0].thresholds.small_bytes
    if tables and all(table is not None and table.bytes <= limit for table in tables):
        return "the table is empty or small"
    if _is_safe([subject.change for subject in subjects], facts):
        return f"PostgreSQL {facts.version // 10_000} neither scans nor rewrites the table for it"
    large = subjects[0].thresholds
    if any(t and (t.bytes >= large.large_bytes or t.rows >= large.large_rows) for t in tables):
        return "said by blocks-large-table"
    return None


def _is_safe(changes: list[Change], facts: Facts) -> bool:
    return _is_known(changes) and not any(hold(change, facts).work for change in changes)


def _is_known(changes: list[Change]) -> bool:
    """Whether the statement does only what ``hold`` knows the work of."""
    return all(change.kind in {"add column", "set not null"} for change in changes)
