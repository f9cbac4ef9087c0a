"""``negspace jobs log``: what a job said."""

from __future__ import annotations

import click

from negspace import jobs
from negspace.cli import output, session


@click.command("log")
@click.argument("job", type=int)
@output.json_option
def log(job: int, as_json: bool) -> None:
    """Show what the tries of a job logged."""
    from negspace.worker import logs

    with session.opened() as opened:
        jobs.show(opened.database, job)
        found = logs.of_job(opened.database, job)
    if as_json:
        output.show_json(found)
        return
    if not found:
        output.note(f"job {job} logged nothing")
    for one in found:
        output.show_text(f"try {one.attempt}, on {one.worker_id}")
        for line in one.lines:
            when = str(line["logged_at"])[:23].replace("T", " ")
            output.show_text(f"{when} {line['level']} {line['logger']}: {line['message']}")
        if one.left_out:
            output.note(f"{one.left_out} lines between the first and the last ones were left out")
