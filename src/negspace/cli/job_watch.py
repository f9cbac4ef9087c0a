"""``negspace jobs watch``: the queue as it runs."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from negspace import queue_state, server, settings
from negspace.cli import output
from negspace.cli.times import lasting, short
from negspace.database import Database, PoolSize
from negspace.errors import UnavailableError
from negspace.queue_state import HEARD, QueueState, Times

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_LONGEST_WAIT: Final = 5.0  # seconds between two looks for a server that went away
_LEVELS: Final = "▁▂▃▄▅▆▇█"


@click.command()
@click.option(
    "--every",
    type=click.FloatRange(0.1, 3600),
    default=2.0,
    show_default=True,
    metavar="S",
    help="Seconds between two looks.",
)
@click.option("--once", is_flag=True, help="Look once.")
@output.json_option
def watch(every: float, once: bool, as_json: bool) -> int:
    """Show the queue as it runs, until Ctrl-C.

    In a terminal in place; in a pipe block after block; with --json one object a line.
    """
    with server.open_database(settings.load(), progress=output.note) as first:
        address = first.address
    size = PoolSize(1, 1, acquire_timeout=2.0)
    with Database(address, pool=size) as database:
        if once:
            _show(queue_state.read(database), as_json=as_json)
            return 0
        with _leaving() as told:
            _watch(_looks(database, every, told), as_json=as_json)
    return 0


@dataclass
class _Told:
    """Whether to leave. No lock, so that a signal may come at any moment."""

    leave: bool = False


@contextmanager
def _leaving() -> Generator[_Told]:
    """Leave the block at SIGINT or SIGTERM.

    An interrupt may be lost where Python can't raise it, as in a finaliser; what was told isn't.
    """
    told = _Told()

    def leave(number: int, frame: object) -> None:
        del number, frame
        told.leave = True
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, leave) for number in numbers]
    try:
        yield told
    except KeyboardInterrupt:
        pass  # how one leaves it
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _looks(
    database: Database, every: float, told: _Told
) -> Iterator[QueueState | UnavailableError]:
    """What is seen at each look; an error once where there is no server, which is waited for."""
    away = False
    while not told.leave:
        began = time.monotonic()
        try:
            yield queue_state.read(database)
            away = False
        except UnavailableError as error:
            database.close()
            if not away:
                yield error
            away = True
        pause = min(every, _LONGEST_WAIT) if away else every
        time.sleep(max(0.0, began + pause - time.monotonic()))


def _watch(looks: Iterator[QueueState | UnavailableError], *, as_json: bool) -> None:
    if not as_json and sys.stdout.isatty():
        _watch_in_place(looks)
        return
    for seen in looks:
        if isinstance(seen, UnavailableError):
            output.note(_absence(seen))
        else:
            _show(seen, as_json=as_json)


def _watch_in_place(looks: Iterator[QueueState | UnavailableError]) -> None:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    shown: RenderableType = Text("")
    console = Console(highlight=False, markup=False)
    with Live(shown, console=console, auto_refresh=False) as live:
        for seen in looks:
            if isinstance(seen, UnavailableError):
                live.update(Group(shown, Text(_absence(seen), style="bold red")), refresh=True)
            else:
                shown = drawn(seen)
                live.update(shown, refresh=True)


def _absence(error: UnavailableError) -> str:
    return f"no database: {error.message}; waiting for it"


def _show(state: QueueState, *, as_json: bool) -> None:
    if as_json:
        output.show_json_line(state)
    else:
        output.show_rich(drawn(state))
        output.show_text()


def drawn(state: QueueState) -> RenderableType:
    """The queue's state as rich draws it: the numbers, the workers, the failures."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    numbers = Table.grid(padding=(0, 2))
    for name, value in _numbers(state):
        numbers.add_row(Text(name, style="bold"), value)
    parts: list[RenderableType] = [numbers]
    if state.workers:
        workers = _table(
            "worker", "process", "holds", "computes", "heartbeat", "completed", "failed tries"
        )
        for one in state.workers:
            workers.add_row(
                one.hostname,
                str(one.process_id),
                f"{one.held:,}",
                "–" if one.computing is None else str(one.computing),
                f"{lasting(one.silent_seconds)} ago",
                f"{one.completed:,}",
                f"{one.failed:,}",
                style=None if one.silent_seconds < HEARD else "red",
            )
        parts += [Text(""), workers]
    if state.failures:
        failures = _table("error", "failed tries", "failed jobs")
        for kind in state.failures:
            name = f"{kind.algorithm_name}: {kind.error_class}"
            failures.add_row(name, f"{kind.tries:,}", f"{kind.jobs:,}")
        parts += [Text(""), failures]
    if state.reasons:
        reasons = _table("jobs", "failed for good in the last hour")
        for reason in state.reasons:
            reasons.add_row(f"{reason.jobs:,}", (reason.text.splitlines() or ["–"])[0])
        parts += [Text(""), reasons]
    return Group(*parts)


def _table(*heads: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        words = head.startswith(("worker", "error", "failed for"))
        table.add_column(
            head,
            justify="left" if words else "right",
            overflow="ellipsis",
            no_wrap=True,
        )
    return table


def _numbers(state: QueueState) -> Iterator[tuple[str, str]]:
    yield "time", f"{state.at.astimezone():%H:%M:%S}"
    yield "jobs", "   ".join(f"{status} {count:,}" for status, count in state.depth.items())
    oldest = state.oldest_waiting_seconds
    yield "oldest", "none waits" if oldest is None else f"has waited for {lasting(oldest)}"
    failed = state.failed_per_second
    more = f", {short(failed)} failed tries/s" if failed else ""
    pace = f"{short(state.completed_per_second)} jobs/s{more}"
    yield "throughput", f"{pace}   {_line(state.bars)}"
    yield "waited", _times(state.waiting)
    yield "ran", _times(state.running)
    yield "workers", f"{state.live_workers} run"
    yield "done in", _left(state)


def _times(times: Times | None) -> str:
    if times is None:
        return "–"
    return f"p50 {lasting(times.p50_seconds)}   p95 {lasting(times.p95_seconds)}"


def _left(state: QueueState) -> str:
    if state.open == 0:
        return "nothing is left"
    if state.seconds_left is not None:
        return lasting(state.seconds_left)
    return "not known yet" if state.live_workers else "never: no worker runs"


def _line(bars: tuple[int | None, ...]) -> str:
    """A bar's height is its share of the highest; a dot where nothing is known."""
    most = max((bar for bar in bars if bar is not None), default=0)
    return "".join(
        "·" if bar is None else " " if bar == 0 else _LEVELS[(bar * 8 - 1) // most] for bar in bars
    )
