"""What a dry run saw, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from negspace.cli import output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from negspace.migrate import Exceeded, Gate, Rehearsal, RunResult

_MOST_LOCKS: Final = 15
_MOST_STATEMENTS: Final = 10
_WIDEST: Final = 60
# Weaker ones hold up neither reads nor writes: --json has them.
_SHOWN: Final = {"share", "share_row_exclusive", "exclusive", "access_exclusive"}


def exceeded(result: RunResult, gates: Sequence[Gate]) -> tuple[Exceeded, ...]:
    """The gates that the dry run ran into, each said on stderr."""
    if result.rehearsal is None or not gates:
        return ()
    from negspace.migrate import gates as judge

    found = judge.exceeded(result.rehearsal, gates)
    for one in found:
        where = f" ({one.what})" if one.what else ""
        seen = "can't be told" if one.value is None else f"{one.value:,.0f}"
        output.note(f"fails on {one.gate}: {seen}{where}")
    return found


def as_plain(result: RunResult, found: Sequence[Exceeded]) -> dict[str, Any]:
    """A run for ``--json``."""
    plain: dict[str, Any] = output.plain(result)
    return plain | ({"exceeded": output.plain(found)} if result.dry_run else {})


def show(rehearsal: Rehearsal) -> None:
    """The locks, held longest first, and the statements, longest first."""
    if not rehearsal.statements:
        return
    _show_locks(rehearsal)
    _show_statements(rehearsal)
    for name in rehearsal.rewrites:
        output.show_text(f"rewritten: {name}")
    wal = "unknown" if rehearsal.wal_bytes is None else _size(rehearsal.wal_bytes)
    output.show_text(
        f"the run: {rehearsal.duration_ms:.0f} ms, {rehearsal.rows:,} rows written, WAL {wal}"
    )


def _show_locks(rehearsal: Rehearsal) -> None:
    strongest: dict[str, Any] = {}
    for lock in rehearsal.locks:
        if lock.mode in _SHOWN and not lock.new:
            known = strongest.get(lock.table)
            # One mode of each relation: the one that holds up most.
            if known is None or (known.blocks != lock.blocks and "reads" in lock.blocks):
                strongest[lock.table] = lock
    if not strongest:
        output.show_text("no lock that holds up reads or writes of what was there")
        return
    locks = sorted(strongest.values(), key=lambda lock: -lock.held_ms)
    output.show_columns(
        ["held", "lock", "on", "blocks", "taken by"],
        [
            (
                f"{lock.held_ms:.0f} ms",
                lock.mode,
                lock.table if lock.kind == "table" else f"{lock.kind} {lock.table}",
                lock.blocks,
                _place(lock),
            )
            for lock in locks[:_MOST_LOCKS]
        ],
    )
    _say_more(len(locks) - _MOST_LOCKS, "locks")


def _show_statements(rehearsal: Rehearsal) -> None:
    longest = sorted(rehearsal.statements, key=lambda one: -one.duration_ms)
    output.show_columns(
        ["took", "rows", "WAL", "statement", "at"],
        [
            (
                f"{one.duration_ms:.0f} ms",
                one.rows,
                None if one.wal_bytes is None else _size(one.wal_bytes),
                _short(one.statement),
                _place(one),
            )
            for one in longest[:_MOST_STATEMENTS]
        ],
    )
    _say_more(len(longest) - _MOST_STATEMENTS, "statements")


def _place(one: Any) -> str:
    return one.migration if one.line is None else f"{one.migration}:{one.line}"


def _say_more(count: int, what: str) -> None:
    if count > 0:
        output.show_text(f"… and {count} more {what}: --json has all")


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _WIDEST else f"{words[:_WIDEST]}…"


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GB"
