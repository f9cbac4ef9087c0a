"""The queue's functions for one job at a time, as a client in another language calls them."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from negspace.database import Database, Jsonb, only, rows
from negspace.worker import leases
from negspace.worker.leases import Claimed, Completion, is_drained, storable

__all__ = ["claim", "complete", "complete_from_cache", "fail", "give_back", "is_drained"]


def claim(database: Database, worker: str, algorithms: Sequence[str]) -> Claimed | None:
    """The most urgent job, now held by the worker."""
    return next(iter(leases.claim(database, worker, algorithms, 1)), None)


def complete_from_cache(database: Database, job: Claimed) -> int | None:
    """End the job with the result that is there already."""
    with database.transaction() as connection:
        row = only(
            connection, "select complete_job_from_cache(%s, %s) as result", [job.id, job.token]
        )
    return row["result"] if row else None


def complete(database: Database, job: Claimed, done: Completion) -> int:
    """End the job with its result, everything that belongs to it in one transaction."""
    query = (
        "select complete_job(job => %s, token => %s, negative_space_data => %s,"
        " anomalies => %s, confidence_score => %s::numeric, processing_time_ms => %s,"
        " quality_metrics => %s, provenance => %s, visualization_path => %s,"
        " performance_stats => %s, optimization_suggestions => %s) as result"
    )
    given = [
        job.id,
        job.token,
        Jsonb(done.negative_space_data),
        Jsonb(done.anomalies),
        done.confidence_score,
        done.processing_time_ms,
        Jsonb(done.quality_metrics),
        Jsonb(done.provenance),
        done.visualization_path,
        Jsonb(done.performance_stats),
        Jsonb(done.optimization_suggestions),
    ]
    hashes = [
        job.image_id,
        done.pixel_hash,
        done.perceptual_hash,
        done.perceptual_hash_algorithm,
    ]
    with database.transaction() as connection:
        row = rows(connection, query, given)[0]
        connection.execute("select set_image_hashes(%s, %s, %s, %s)", hashes)
    return row["result"]


def fail(database: Database, job: Claimed, reason: str, *, again: bool) -> str:
    """End a try of the job."""
    with database.transaction() as connection:
        row = only(
            connection,
            "select fail_job(%s, %s, %s, %s)::text as status",
            [job.id, job.token, storable(reason), again],
        )
    return row["status"] if row else "failed"


def give_back(database: Database, job: int, token: UUID, reason: str) -> None:
    """Let a job wait again at once; no try is counted."""
    with database.transaction() as connection:
        connection.execute("select give_back_job(%s, %s, %s)", [job, token, storable(reason)])
