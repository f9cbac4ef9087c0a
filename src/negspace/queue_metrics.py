"""The queue as Prometheus scrapes it, and with it every metric that was recorded."""

from __future__ import annotations

from datetime import timedelta
from typing import Final, LiteralString

from negspace import metrics, queue_state
from negspace.database import Connection, Database, rows
from negspace.metrics.text_format import Family, Value, text

_DEPTH: Final[LiteralString] = """
    select d.status::text, d.algorithm_name as algorithm, sum(d.job_count)::bigint as jobs
    from queue_depth d
    group by d.status, d.algorithm_name order by d.algorithm_name, d.status"""

# The workers' own counter: it only grows, whatever is purged.
_WORKERS: Final[LiteralString] = """
    select count(*) filter (where l.living and l.heard) as running,
           count(*) filter (where l.living and not l.heard) as silent,
           coalesce(sum(w.jobs_completed), 0)::bigint as completed
    from workers w
    cross join lateral (
        select w.stopped_at is null and w.heartbeat_at > now() - interval '1 hour' as living,
               w.heartbeat_at > clock_timestamp() - make_interval(secs => %s) as heard) l"""

_FAILURES: Final[LiteralString] = "select * from failures_by_error()"


def exposition(database: Database, *, span: timedelta = timedelta(hours=1)) -> str:
    """The queue's state, then every metric, in the text format 0.0.4.

    How long jobs waited and ran are metrics that every try records: ``negspace_job_wait_seconds``
    and ``negspace_job_run_seconds``, by analyser and outcome.

    Args:
        database: Where.
        span: What percentiles are of.
    """
    with database.transaction(read_only=True) as connection:
        found = families(connection)
    taken = [family.name for family in found]
    return text(found) + metrics.exposition(database, span=span, taken=taken)


def families(connection: Connection) -> list[Family]:
    """What is to be said of the queue: kept counters and queries that don't grow with it."""
    depth = [
        Value(row["jobs"], {"algorithm": row["algorithm"], "status": row["status"]})
        for row in rows(connection, _DEPTH)
    ]
    oldest = queue_state.oldest_waiting(connection)
    [workers] = rows(connection, _WORKERS, [queue_state.HEARD])
    living = [Value(workers[state], {"state": state}) for state in ("running", "silent")]
    return [
        Family("negspace_queue_jobs", "gauge", "Jobs by status, ended ones while kept.", depth),
        Family(
            "negspace_queue_oldest_waiting_seconds",
            "gauge",
            "How long the job that waits longest has been ready to run; 0: none is ready.",
            [Value(oldest or 0.0, {})],
        ),
        Family(
            "negspace_queue_workers",
            "gauge",
            "Workers heard of in the last minute; silent ones: not since, but within the hour.",
            living,
        ),
        Family(
            "negspace_queue_jobs_completed_total",
            "counter",
            "Jobs that workers completed.",
            [Value(workers["completed"], {})],
        ),
        *_failed(connection),
    ]


def _failed(connection: Connection) -> list[Family]:
    failed = [
        (row, {"algorithm": row["algorithm_name"], "error": row["error_class"]})
        for row in rows(connection, _FAILURES)
    ]
    return [
        Family(
            "negspace_queue_tries_failed_total",
            "counter",
            "Tries that failed, by the kind of error.",
            [Value(row["tries"], labels) for row, labels in failed],
        ),
        Family(
            "negspace_queue_jobs_failed_total",
            "counter",
            "Jobs that failed for good, by the kind of error.",
            [Value(row["jobs"], labels) for row, labels in failed],
        ),
    ]
