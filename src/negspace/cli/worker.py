"""``negspace worker``: worker processes."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from negspace import settings
from negspace.cli import configure_logging, output, session
from negspace.errors import InvalidInputError
from negspace.worker.options import Options


@click.group("worker")
def group() -> None:
    """Run worker processes, and see those there are."""


@group.command()
@click.option(
    "--processes",
    metavar="N",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Processes that compute, one job each at a time.",
)
@click.option("--drain", is_flag=True, help="End when no job waits or runs.")
@click.option(
    "--heartbeat",
    metavar="S",
    type=float,
    default=Options.heartbeat,
    show_default=True,
    help="Seconds between two signs of life.",
)
@click.option(
    "--lease",
    metavar="S",
    type=float,
    default=Options.lease,
    show_default=True,
    help="Seconds after which a silent worker loses its jobs; the same for all workers.",
)
@click.option(
    "--time-limit",
    metavar="S",
    type=float,
    default=Options.time_limit,
    show_default=True,
    help="Seconds that a job may be computed for.",
)
@click.option(
    "--memory-limit",
    metavar="MB",
    type=click.IntRange(1),
    help="Memory that a job's process may have in use; no limit where it is left out.",
)
@click.option(
    "--capacity",
    metavar="MP",
    type=float,
    help="Megapixels of the heaviest job that it takes; any where it is left out.",
)
@output.json_option
@click.pass_context
def run(ctx: click.Context, memory_limit: int | None, as_json: bool, **given: Any) -> None:
    """Analyse what the queue holds, until told to stop.

    SIGTERM or Ctrl-C finishes the running jobs; a second one gives them back at once.
    """
    from negspace import worker

    if ctx.find_root().obj["replica"]:
        raise InvalidInputError("a worker reads no replica", hint="leave --replica out")
    options = Options(memory_limit=memory_limit and memory_limit * 1_000_000, **given)
    verbose, log_json = ctx.find_root().obj["logging"]
    prepare = partial(configure_logging, verbose + 1, log_json)  # each job is a line
    prepare()
    ran = worker.run(settings.load(), options, prepare=prepare, progress=output.note)
    if as_json:
        output.show_json(ran)
        return
    output.show_text(
        f"{output.counted(ran.completed, 'job')} completed,"
        f" {output.counted(ran.failed, 'try', 'tries')} failed, in {ran.seconds:.1f} s"
    )
    output.note("next: negspace jobs status, or negspace jobs list --status failed")


@group.command("list")
@click.option("--all", "stopped", is_flag=True, help="Those that have stopped too.")
@output.json_option
def list_(stopped: bool, as_json: bool) -> None:
    """List the workers, newest first."""
    from negspace.worker import registry

    with session.opened() as opened:
        found = registry.list_workers(opened.database, stopped=stopped)
    output.show_rows(
        found,
        ["id", "algorithms", "silent_seconds", "jobs_held", "jobs_completed", "jobs_failed"]
        + (["last_words"] if stopped else []),
        as_json=as_json,
        empty="no worker runs; negspace worker run starts one",
    )
