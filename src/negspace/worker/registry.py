"""The workers there are: who they are, that they live, and what the dead ones leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import LiteralString

from negspace.database import Database, only, rows


@dataclass(frozen=True)
class Worker:
    """A worker process, running, stopped or dead.

    Attributes:
        id: Its name, as ``processing_queue.worker_id`` has it.
        hostname: Its machine.
        process_id: Its process there.
        algorithms: The analysers it has, as ``name@version``.
        started_at: When it began.
        heartbeat_at: When it was last heard of.
        silent_seconds: How long ago that is, by the database's clock.
        stopped_at: When it said goodbye; None: it runs, or died.
        jobs_held: Jobs it runs.
        jobs_completed: Jobs it completed.
        jobs_failed: Tries of jobs that failed on it.
        last_words: Why it stopped, as it said.
    """

    id: str
    hostname: str
    process_id: int
    algorithms: Sequence[str]
    started_at: datetime
    heartbeat_at: datetime
    silent_seconds: float
    stopped_at: datetime | None
    jobs_held: int
    jobs_completed: int
    jobs_failed: int
    last_words: str | None


def list_workers(database: Database, *, stopped: bool = False, limit: int = 100) -> list[Worker]:
    """Workers, newest first.

    Args:
        database: Where.
        stopped: Those that said goodbye too.
        limit: How many at most.
    """
    query: LiteralString = (
        "select w.id, w.hostname, w.process_id, w.algorithms, w.started_at, w.heartbeat_at,"
        " extract(epoch from clock_timestamp() - w.heartbeat_at)::float as silent_seconds,"
        " w.stopped_at, count(q.id)::integer as jobs_held, w.jobs_completed, w.jobs_failed,"
        " w.last_words"
        " from workers w"
        " left join processing_queue q on q.worker_id = w.id and q.status = 'processing'"
        " where %s or w.stopped_at is null"
        " group by w.id order by w.started_at desc, w.id limit %s"
    )
    with database.transaction(read_only=True) as connection:
        return [Worker(**row) for row in rows(connection, query, [stopped, limit])]


def counted(database: Database, workers: Sequence[str]) -> tuple[int, int]:
    """How many jobs these workers completed, and how many tries failed on them."""
    query = (
        "select coalesce(sum(jobs_completed), 0)::bigint as completed,"
        " coalesce(sum(jobs_failed), 0)::bigint as failed from workers where id = any (%s)"
    )
    with database.transaction(read_only=True) as connection:
        row = only(connection, query, [list(workers)])
    return (row["completed"], row["failed"]) if row else (0, 0)


def register(
    database: Database, worker: str, hostname: str, process_id: int, algorithms: Sequence[str]
) -> None:
    """A worker begins."""
    with database.transaction() as connection:
        connection.execute(
            "select register_worker(%s, %s, %s, %s)",
            [worker, hostname, process_id, list(algorithms)],
        )


def beat(database: Database, worker: str) -> frozenset[int]:
    """A worker lives.

    Returns:
        The jobs it holds, as the database sees it.

    Raises:
        NotFoundError: The worker isn't registered.
    """
    with database.transaction() as connection:
        row = only(connection, "select heartbeat(%s) as jobs", [worker])
    return frozenset(row["jobs"]) if row else frozenset()


def rescue(database: Database, lease: timedelta) -> int:
    """Take the jobs of workers that were not heard of for the lease; how many those were."""
    with database.transaction() as connection:
        row = only(connection, "select rescue_jobs(%s) as n", [lease])
    return row["n"] if row else 0


def stop(database: Database, worker: str, last_words: str) -> None:
    """A worker says goodbye."""
    with database.transaction() as connection:
        connection.execute("select stop_worker(%s, %s)", [worker, last_words])
