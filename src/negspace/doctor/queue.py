"""Checks of the queue: what waits, what is stuck, and who works."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, LiteralString

from negspace.doctor.examining import Check, Fault, Patient, listed, span

__all__ = ["CHECKS"]

_WAITING: Final[LiteralString] = (
    "select count(*) as jobs,"
    " extract(epoch from now() - min(greatest(q.created_at, q.scheduled_at)))::float as seconds"
    " from public.processing_queue q"
    " where q.status in ('queued', 'retrying') and q.scheduled_at <= now()"
)
# Jobs that came and ended within the span leave the queue as it was.
_GROWTH: Final[LiteralString] = (
    "select (select count(*) from public.processing_queue q"
    "        where q.status in ('queued', 'processing', 'retrying')"
    "        and q.created_at > now() - %(span)s) as came,"
    " (select count(*) from public.processing_queue q"
    "  where q.status in ('completed', 'failed', 'cancelled')"
    "  and q.completed_at > now() - %(span)s and q.created_at <= now() - %(span)s) as ended"
)
_LIVING: Final[LiteralString] = (
    "select w.* from public.workers w"
    " where w.stopped_at is null and w.heartbeat_at > now() - %(silence)s"
)
_ABANDONED: Final[LiteralString] = (
    "select q.id from public.processing_queue q left join (" + _LIVING + ") w on w.id = q.worker_id"
    " where q.status = 'processing' and w.id is null and q.started_at <= now() - %(silence)s"
    " order by q.id"
)
_ENDLESS: Final[LiteralString] = (
    "select q.id from public.processing_queue q"
    " where q.status = 'processing' and q.started_at <= now() - %s order by q.id"
)
_UNWANTED: Final[LiteralString] = (
    "with living as (" + _LIVING + ")"
    " select q.algorithm_name || '@' || q.algorithm_version as analyser, count(*) as jobs"
    " from public.processing_queue q"
    " where q.status in ('queued', 'retrying') and q.scheduled_at <= now()"
    " and exists (select from living)"
    " and not exists (select from living w"
    "                 where q.algorithm_name || '@' || q.algorithm_version = any (w.algorithms))"
    " group by 1 order by 1"
)


def backlog(patient: Patient) -> Iterator[Fault]:
    """Jobs are taken soon, and no faster do they come than they end."""
    limits = patient.limits
    row = patient.row(_WAITING)
    if row["jobs"] and row["seconds"] >= limits.waiting.total_seconds():
        yield Fault(
            f"{row['jobs']} jobs could run, and one has waited for {span(row['seconds'])}",
            "negspace worker run --processes 2, on more machines too",
        )
    row = patient.row(_GROWTH, {"span": limits.backlog_span})
    growth = row["came"] - row["ended"]
    if growth > 0 and growth >= limits.backlog_growth:
        yield Fault(
            f"the queue grew by {growth} jobs in {span(limits.backlog_span.total_seconds())}",
            "negspace worker run --processes 2, on more machines too",
        )


def stuck(patient: Patient) -> Iterator[Fault]:
    """Each job that runs has a worker, and each that waits can get one."""
    limits = patient.limits
    silence = {"silence": limits.silence}
    jobs = [str(row["id"]) for row in patient.rows(_ABANDONED, silence)]
    if jobs:
        yield Fault(
            f"the workers of these jobs are gone: {listed(jobs)}",
            "negspace worker run: any worker takes them over",
        )
    jobs = [str(row["id"]) for row in patient.rows(_ENDLESS, [limits.running])]
    if jobs:
        yield Fault(
            f"running for more than {span(limits.running.total_seconds())}: job {listed(jobs)}",
            f"negspace jobs cancel {jobs[0]}",
        )
    for row in patient.rows(_UNWANTED, silence):
        yield Fault(
            f"{row['jobs']} jobs wait for {row['analyser']}, which no worker has",
            "install the plug-in where workers run, or negspace jobs list --status queued"
            " and cancel them; see negspace worker list",
        )


def workers(patient: Patient) -> Iterator[Fault]:
    """Workers that run are heard of, and there is one where jobs wait."""
    silence = {"silence": patient.limits.silence}
    gone = patient.rows(
        "select w.id, extract(epoch from now() - w.heartbeat_at)::float as seconds"
        " from public.workers w"
        " where w.stopped_at is null and w.heartbeat_at <= now() - %(silence)s"
        " order by w.heartbeat_at desc, w.id",
        silence,
    )
    if gone:
        names = [f"{row['id']} (for {span(row['seconds'])})" for row in gone]
        yield Fault(
            f"silent, and never said goodbye: {listed(names)}",
            "negspace worker run; once they are known to be dead:"
            f" select stop_worker('{gone[0]['id']}', 'gone')",
        )
    waiting = patient.row(_WAITING)["jobs"]
    if waiting and not patient.rows(_LIVING, silence):
        yield Fault(f"{waiting} jobs wait and no worker runs", "negspace worker run")


CHECKS: Final = (
    Check("backlog", "results come later and later", backlog),
    Check("stuck jobs", "their images stay in processing", stuck),
    Check("workers", "what they held waits, and fewer work than you think", workers),
)
