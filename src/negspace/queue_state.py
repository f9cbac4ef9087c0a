"""The queue as it stands now: what waits, how fast it goes, who works, what fails.

Cheap enough to ask every second, however long the queue is: kept counters, and queries that read
the front of an index or a bounded number of the newest rows. Nothing here counts jobs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, LiteralString

from negspace.database import Connection, Database, only, rows
from negspace.queue import Failures

BAR_SECONDS: Final = 2  # of the minute that QueueState.bars draws
MOST_ENDS: Final = 20_000  # newest ends of tries that speeds are worked out from
HEARD: Final = 60.0  # seconds since its heartbeat in which a worker counts as running
_ENOUGH: Final = 10  # ends in the last minute, for a pace of that minute
_BARS: Final = 60 // BAR_SECONDS


@dataclass(frozen=True)
class Times:
    """Percentiles of a time, in seconds."""

    p50_seconds: float
    p95_seconds: float


@dataclass(frozen=True)
class WorkerState:
    """A worker that was heard of within the hour.

    Attributes:
        id: Its name.
        hostname: Its machine.
        process_id: Its process there.
        held: Jobs it holds.
        computing: Those of them that it computes; None where it doesn't say.
        silent_seconds: Since its last heartbeat, by the database's clock.
        completed: Jobs it completed.
        failed: Tries of jobs that failed on it.
    """

    id: str
    hostname: str
    process_id: int
    held: int
    computing: int | None
    silent_seconds: float
    completed: int
    failed: int


@dataclass(frozen=True)
class Reason:
    """Why jobs failed for good within the hour.

    Attributes:
        text: As it is said, ``N`` where it has a number and ``FILE`` where it names its file.
        jobs: How many, of the newest 1,000.
        last_at: When the last of them failed.
    """

    text: str
    jobs: int
    last_at: datetime


@dataclass(frozen=True)
class QueueState:
    """The queue at one moment.

    Attributes:
        at: When, by the database's clock.
        depth: Jobs by status; all six are there.
        oldest_waiting_seconds: How long the job that waits longest has been ready to run; None
            where none is ready.
        completed_per_second: In the last minute.
        failed_per_second: Tries that failed in the last minute.
        bars: Jobs completed in each two seconds of the last minute, oldest first; None where
            they were too many to look so far back.
        waiting: How long jobs waited before their tries of the last 15 minutes (the newest
            20,000 of them); None where there are none.
        running: How long those tries took.
        workers: Those that were heard of within the hour, the newest heartbeat first; at most 50.
        failures: Tries that failed in this hour of the clock and the one before, by analyser
            and error, most first.
        reasons: Why jobs failed for good within the hour, most first; at most 10.
        seconds_left: Until all that wait or run have ended, at the pace of the last minute, or
            of 15 where fewer than ten ended in it; None where nothing ends.
    """

    at: datetime
    depth: Mapping[str, int]
    oldest_waiting_seconds: float | None
    completed_per_second: float
    failed_per_second: float
    bars: tuple[int | None, ...]
    waiting: Times | None
    running: Times | None
    workers: tuple[WorkerState, ...]
    failures: tuple[Failures, ...]
    reasons: tuple[Reason, ...]
    seconds_left: float | None

    @property
    def open(self) -> int:
        """Jobs that wait or run."""
        return sum(self.depth[status] for status in ("queued", "processing", "retrying"))

    @property
    def live_workers(self) -> int:
        """Workers that run."""
        return sum(worker.silent_seconds < HEARD for worker in self.workers)


_DEPTH: Final[LiteralString] = """
    select s.status::text, coalesce(sum(d.job_count), 0)::bigint as jobs
    from unnest(enum_range(null::queue_status)) as s (status)
    left join queue_depth d on d.status = s.status
    group by s.status order by s.status"""

# The front of each of the claim's twenty lists: processing_queue_hot_claim_idx and _planned_idx.
_OLDEST: Final[LiteralString] = """
    select extract(epoch from clock_timestamp() - min(w.since))::float as seconds
    from generate_series(1, 10) as p (priority)
    cross join lateral (
        (select q.scheduled_at as since from processing_queue q
         where q.priority = p.priority and q.status in ('queued', 'retrying')
           and q.scheduled_at <= q.created_at
         order by q.scheduled_at, q.id limit 1)
        union all
        (select q.scheduled_at from processing_queue q
         where q.priority = p.priority and q.status in ('queued', 'retrying')
           and q.scheduled_at > q.created_at and q.scheduled_at <= clock_timestamp()
         order by q.scheduled_at, q.id limit 1)
    ) w"""

_PACE: Final[LiteralString] = """
    with ends as materialized (
        select extract(epoch from clock_timestamp() - m.recorded_at)::float as age,
               m.labels ->> 'outcome' as outcome, m.value / 1000 as seconds
        from performance_metrics m
        where m.metric_name = 'job_run_ms'
          and m.recorded_at > now() - interval '15 minutes'
        order by m.recorded_at desc limit %(most)s
    ), waits as (
        select m.value / 1000 as seconds
        from performance_metrics m
        where m.metric_name = 'job_wait_ms'
          and m.recorded_at > now() - interval '15 minutes'
        order by m.recorded_at desc limit %(most)s
    )
    select clock_timestamp() as at, e.*, w.waiting,
           array(select count(d.outcome)
                 from generate_series(%(bars)s - 1, 0, -1) as b (bar)
                 left join ends d on d.outcome = 'completed'
                                 and floor(d.age / %(bar_seconds)s) = b.bar
                 group by b.bar order by b.bar desc) as bars
    from (select count(*) as ends, max(age) as reach,
                 count(*) filter (where outcome = 'completed') as completed,
                 count(*) filter (where outcome = 'completed' and age < 60) as completed_now,
                 count(*) filter (where outcome = 'failed' and age < 60) as failed_now,
                 max(age) filter (where age < 60) as reach_now,
                 (percentile_cont(array[0.5, 0.95]) within group (order by seconds))::float[]
                     as running
          from ends) e
    cross join (
        select (percentile_cont(array[0.5, 0.95]) within group (order by seconds))::float[]
                   as waiting
        from waits) w"""

_WORKERS: Final[LiteralString] = """
    select w.id, w.hostname, w.process_id,
           (select count(*) from processing_queue q
            where q.worker_id = w.id and q.status = 'processing') as held,
           cardinality(w.computing) as computing,
           extract(epoch from clock_timestamp() - w.heartbeat_at)::float as silent_seconds,
           w.jobs_completed as completed, w.jobs_failed as failed
    from workers w
    where w.stopped_at is null and w.heartbeat_at > now() - interval '1 hour'
    order by w.heartbeat_at desc, w.id limit 50"""

_FAILURES: Final[LiteralString] = "select * from failures_by_error(now() - interval '1 hour')"

_REASONS: Final[LiteralString] = """
    select f.text, count(*) as jobs, max(f.at) as last_at
    from (select q.last_error_at as at,
                 regexp_replace(
                     replace(left(q.error_message, 500), i.original_filename, 'FILE'),
                     '[0-9]+', 'N', 'g') as text
          from (select h.image_id, h.error_message, h.last_error_at from processing_queue h
                where h.status = 'failed' and h.last_error_at > now() - interval '1 hour'
                order by h.last_error_at desc limit 1000) q
          join images i on i.id = q.image_id) f
    where f.text is not null
    group by f.text order by count(*) desc, max(f.at) desc limit 10"""

QUERIES: Final[Mapping[str, LiteralString]] = {
    "depth": _DEPTH,
    "oldest": _OLDEST,
    "pace": _PACE,
    "workers": _WORKERS,
    "failures": _FAILURES,
    "reasons": _REASONS,
}
PARAMETERS: Final = {"most": MOST_ENDS, "bars": _BARS, "bar_seconds": BAR_SECONDS}


def read(database: Database) -> QueueState:
    """The queue at this moment, in one short transaction.

    Raises:
        UnavailableError: The database was not reached.
    """
    with database.transaction(read_only=True) as connection:
        return read_within(connection)


def read_within(connection: Connection) -> QueueState:
    """The same in the caller's transaction."""
    depth = {row["status"]: int(row["jobs"]) for row in rows(connection, _DEPTH)}
    [pace] = rows(connection, _PACE, PARAMETERS)
    return QueueState(
        at=pace["at"],
        depth=depth,
        oldest_waiting_seconds=oldest_waiting(connection),
        completed_per_second=_per_second(pace, "completed_now"),
        failed_per_second=_per_second(pace, "failed_now"),
        bars=_bars(pace),
        waiting=_times(pace["waiting"]),
        running=_times(pace["running"]),
        workers=tuple(WorkerState(**row) for row in rows(connection, _WORKERS)),
        failures=tuple(Failures(**row) for row in rows(connection, _FAILURES)),
        reasons=tuple(Reason(**row) for row in rows(connection, _REASONS)),
        seconds_left=_seconds_left(depth, pace),
    )


def oldest_waiting(connection: Connection) -> float | None:
    """Seconds for which the job that waits longest has been ready to run; None: none is."""
    row = only(connection, _OLDEST)
    return row["seconds"] if row else None


def _is_cut(pace: Mapping[str, Any]) -> bool:
    """Whether there were more ends than were read."""
    return pace["ends"] >= MOST_ENDS


def _per_second(pace: Mapping[str, Any], column: str) -> float:
    seconds = pace["reach_now"] if _is_cut(pace) else 60.0
    return pace[column] / max(seconds, 1.0) if pace[column] else 0.0


def _bars(pace: Mapping[str, Any]) -> tuple[int | None, ...]:
    reach = pace["reach"] if _is_cut(pace) else 60.0
    ages = range(60 - BAR_SECONDS, -1, -BAR_SECONDS)  # of the newest end in each bar
    return tuple(
        int(bar) if age + BAR_SECONDS <= max(reach, BAR_SECONDS) else None
        for age, bar in zip(ages, pace["bars"], strict=True)
    )


def _times(pair: list[float] | None) -> Times | None:
    return None if pair is None else Times(*pair)


def _seconds_left(depth: Mapping[str, int], pace: Mapping[str, Any]) -> float | None:
    """From the first end in the span on: a worker may have begun a moment ago."""
    left = depth["queued"] + depth["processing"] + depth["retrying"]
    if left == 0:
        return 0.0
    now = pace["completed_now"] >= _ENOUGH
    done, reach = (
        (pace["completed_now"], pace["reach_now"]) if now else (pace["completed"], pace["reach"])
    )
    return left * max(reach, 1.0) / done if done else None
