"""``negspace jobs``: the queue."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import click

from negspace import jobs, queue, users
from negspace.cli import output, session
from negspace.cli.analyze import parsed
from negspace.cli.asking import see_wanted
from negspace.cli.job_log import log
from negspace.cli.job_watch import watch
from negspace.cli.times import ahead, span
from negspace.errors import InvalidInputError
from negspace.images import list_images
from negspace.jobs import Job

_PAGE: Final = 10_000
_NONE: Final = "no jobs; negspace jobs enqueue IMAGE makes one"


@click.group("jobs")
def group() -> None:
    """The queue: what waits, runs and failed. JOB and IMAGE are numbers."""


group.add_command(log)
group.add_command(watch)


@group.command()
@click.argument("images", metavar="IMAGE...", nargs=-1, type=int)
@click.option("--pending", is_flag=True, help="All images of the acting user that are pending.")
@click.option("--profile", metavar="NAME", help="A named set of parameters, such as astronomy.")
@click.option("--set", "changes", metavar="KEY=VALUE", multiple=True, help="Change a parameter.")
@click.option("--analyzer", default="negative_space", show_default=True, help="Which analyser.")
@click.option("--priority", type=int, default=5, show_default=True, help="1 to 10; 10 is first.")
@click.option(
    "--max-retries", type=int, default=3, show_default=True, help="Tries after the first."
)
@click.option("--at", type=ahead, metavar="TIME", help="Not before: 2h from now, or a date.")
@click.option("--deadline", type=ahead, metavar="TIME", help="Fails where it hasn't begun by then.")
@click.option("--weight", type=float, metavar="MP", help="Megapixels, where not the image's.")
@click.option("--group", "job_group", metavar="NAME", help="What jobs limit --group limits.")
@click.option("--no-cache", is_flag=True, help="Compute, even where the result is there.")
@output.json_option
@session.repeated
def enqueue(
    images: tuple[int, ...],
    pending: bool,
    profile: str | None,
    changes: tuple[str, ...],
    analyzer: str,
    priority: int,
    max_retries: int,
    at: datetime | None,
    deadline: datetime | None,
    weight: float | None,
    job_group: str | None,
    no_cache: bool,
    as_json: bool,
) -> None:
    """Ask for an analysis of images. Where one is refused, none is asked for.

    Asked for by the acting user (--as, NEGSPACE_USER), else by each image's owner.
    """
    if pending == bool(images):
        raise InvalidInputError("which images?", hint="their numbers, or --pending")
    with session.opened() as opened:
        images = images or _pending(opened)
        wanted = jobs.wanted(
            analyzer,
            profile=profile,
            parameters=parsed(changes),
            allowed=opened.settings.analyzers,
        )
        answers = jobs.enqueue(
            opened.database,
            images,
            wanted,
            requested_by=opened.user and opened.user.id,
            priority=priority,
            max_retries=max_retries,
            scheduled_at=at,
            use_cache=not no_cache,
            deadline_at=deadline,
            weight=weight,
            job_group=job_group,
        )
    columns = ["image_id", "job_id", "result_id", "outcome"]
    output.show_rows(answers, columns, as_json=as_json, empty="no image is pending")
    if not answers:
        return
    if any(answer.job_id for answer in answers):
        output.note("next: negspace worker run --drain")
    else:
        output.note(f"nothing to compute; next: negspace results list --image {images[0]}")


@group.command("list")
@click.option("--status", "statuses", multiple=True, type=click.Choice(jobs.STATUSES))
@click.option("--image", type=int, help="Only that image's.")
@click.option("--user", help="Only what that account asked for: e-mail address or number.")
@click.option("--before", type=int, metavar="JOB", help="Only jobs with a lower number.")
@output.limit_option
@output.json_option
def list_(
    statuses: tuple[str, ...],
    image: int | None,
    user: str | None,
    before: int | None,
    limit: int,
    as_json: bool,
) -> None:
    """List jobs, newest first."""
    with session.opened() as opened:
        found = jobs.list_jobs(
            opened.database,
            statuses=statuses,
            image=image,
            user=None if user is None else users.find(opened.database, user).id,
            before=before,
            limit=limit,
        )
    if as_json:
        output.show_json(found)
        return
    output.show_rows(
        [_row(job) for job in found],
        ["id", "image_id", "analyser", "status", "priority", "tries", "created", "error"],
        as_json=False,
        empty="no such jobs" if statuses or image or user else _NONE,
    )
    if len(found) == limit:
        output.note(f"older ones: --before {found[-1].id}")


@group.command()
@click.argument("most", metavar="N|none")
@click.option("--user", help="Of an account's jobs: e-mail address or number.")
@click.option("--group", "job_group", metavar="NAME", help="Of the jobs of a group.")
@output.json_option
@session.repeated
def limit(most: str, user: str | None, job_group: str | None, as_json: bool) -> None:
    """Set how many jobs of a user, or of a group, may run at once."""
    if most != "none" and not most.isdecimal():
        raise click.BadParameter("a number, or none", param_hint="N")
    if (user is None) == (job_group is None):
        raise InvalidInputError("whose jobs?", hint="--user USER, or --group NAME")
    number = None if most == "none" else int(most)
    with session.opened() as opened:
        account = None if user is None else users.find(opened.database, user).id
        running = queue.limit_running(opened.database, number, user=account, group=job_group)
    whose = {"user": user} if job_group is None else {"job_group": job_group}
    output.show_fields({**whose, "max_running": number, "running": running}, as_json=as_json)
    output.note("next: negspace jobs status")


@group.command()
@click.argument("job", type=int)
@output.json_option
def show(job: int, as_json: bool) -> None:
    """Show one job."""
    with session.opened() as opened:
        output.show_fields(jobs.show(opened.database, job), as_json=as_json)


@group.command()
@click.argument("numbers", metavar="JOB...", nargs=-1, required=True, type=int)
@click.option("--deadline", type=ahead, metavar="TIME", help="A new one: fails where not begun.")
@output.json_option
def retry(numbers: tuple[int, ...], deadline: datetime | None, as_json: bool) -> int:
    """Let failed jobs be tried again; exit status 1 where one couldn't."""
    with session.opened() as opened:
        changed = jobs.retry(opened.database, numbers, deadline_at=deadline)
    return _show_changed("waits again", "hasn't failed, or waits anew", numbers, changed, as_json)


@group.command()
@click.argument("numbers", metavar="JOB...", nargs=-1, required=True, type=int)
@click.option("--reason", default="cancelled", show_default=True, help="Kept with the job.")
@output.json_option
def cancel(numbers: tuple[int, ...], reason: str, as_json: bool) -> int:
    """Take jobs back, running ones too. Exit status 1 where one has ended, or isn't there."""
    with session.opened() as opened:
        changed = jobs.cancel(opened.database, numbers, reason=reason)
    return _show_changed("cancelled", "has ended, or isn't there", numbers, changed, as_json)


@group.command()
@click.option("--older-than", type=span, required=True, metavar="SPAN", help="Such as 30d.")
@click.option("--dry-run", is_flag=True, help="Only say how many would go.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@output.json_option
def purge(older_than: timedelta, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Remove jobs that ended longer ago. Results and audit events stay."""
    with session.opened() as opened:
        count = queue.count_ended(opened.database, older_than)
        if not dry_run and count:
            see_wanted(output.counted(count, "job"), yes=yes)
            count = queue.purge(opened.database, older_than)
    if as_json:
        output.show_json({"jobs": count, "removed": not dry_run})
    else:
        output.show_text(
            f"{'would remove' if dry_run else 'removed'} {output.counted(count, 'job')}"
        )


@group.command()
@output.json_option
def status(as_json: bool) -> None:
    """Show how many jobs stand where, the limits, and the workers."""
    from negspace.worker import registry

    with session.opened() as opened:
        summary = jobs.summary(opened.database)
        limits = queue.limits(opened.database)
        workers = registry.list_workers(opened.database)
    if as_json:
        output.show_json({"summary": summary, "limits": limits, "workers": workers})
        return
    output.show_rows(
        summary,
        ["status", "job_count", "p50_wait_seconds", "p95_wait_seconds", "max_wait_seconds"],
        as_json=False,
    )
    if limits:
        output.show_text()
        columns = ["user_email", "job_group", "max_running", "running"]
        output.show_rows(limits, columns, as_json=False)
    waiting = sum(s.job_count for s in summary if s.status in ("queued", "retrying"))
    running = [worker.id for worker in workers if worker.silent_seconds < 60]
    output.show_text(f"\nrunning: {output.counted(len(running), 'worker')}")
    if waiting and not running:
        output.note("next: negspace worker run")


def _pending(opened: session.Session) -> tuple[int, ...]:
    """The acting user's pending images, in the order in which they came."""
    found: list[int] = []
    more = partial(
        list_images, opened.database, user_id=opened.acting_user().id, status="pending", limit=_PAGE
    )
    while page := more(before=found[-1] if found else None):
        found += [image.id for image in page]
    return tuple(reversed(found))


def _row(job: Job) -> dict[str, object]:
    error = job.error_message or ""
    return {
        "id": job.id,
        "image_id": job.image_id,
        "analyser": f"{job.algorithm_name}@{job.algorithm_version}",
        "status": job.status,
        "priority": job.priority,
        "tries": job.attempt,
        "created": job.created_at,
        "error": error if len(error) <= 80 else f"{error[:79]}…",
    }


def _show_changed(
    done: str, left: str, asked: Sequence[int], changed: Sequence[int], as_json: bool
) -> int:
    rest = sorted(set(asked) - set(changed))
    if as_json:
        output.show_json({"changed": changed, "unchanged": rest})
    else:
        for job in changed:
            output.show_text(f"job {job}: {done}")
        for job in rest:
            output.show_text(f"job {job}: unchanged, it {left}")
    return 1 if rest else 0
