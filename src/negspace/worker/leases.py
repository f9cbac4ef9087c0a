"""The queue's functions as a worker calls them: claim a job, and end it while it is held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, LiteralString
from uuid import UUID

from negspace.database import Database, Jsonb, only, rows

_REASON_LENGTH: Final = 10_000  # characters, as fail_job keeps


@dataclass(frozen=True)
class Claimed:
    """A job that this worker holds.

    Attributes:
        id: The job.
        token: The lease: known to who holds the job.
        attempt: How often it was claimed, this time included.
        image_id: The image.
        file_path: Its file, below the storage folder.
        original_filename: The name that the file came with.
        algorithm_name: The analyser.
        algorithm_version: Its version.
        algorithm_parameters: Its parameters.
    """

    id: int
    token: UUID
    attempt: int
    image_id: int
    file_path: str
    original_filename: str
    algorithm_name: str
    algorithm_version: str
    algorithm_parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Completion:
    """What a job's analysis gave, as ``complete_job`` and ``set_image_hashes`` take it.

    Attributes:
        pixel_hash: SHA-256 of the decoded pixels, 64 hexadecimal digits.
        perceptual_hash: 64 bits, signed; None for an image of one brightness.
        perceptual_hash_algorithm: How they were computed; None where there are none.
        processing_time_ms: Reading, analysis and picture together.
        visualization_path: The picture, below the storage folder; None where there is none.

    The others are named as the columns of ``analysis_results``.
    """

    negative_space_data: Mapping[str, Any]
    anomalies: Sequence[Mapping[str, Any]]
    confidence_score: float
    quality_metrics: Mapping[str, Any]
    provenance: Mapping[str, Any]
    pixel_hash: str
    perceptual_hash: int | None
    perceptual_hash_algorithm: str | None
    processing_time_ms: int
    visualization_path: str | None
    performance_stats: Mapping[str, Any]
    optimization_suggestions: Sequence[str]


def claim(database: Database, worker: str, algorithms: Sequence[str]) -> Claimed | None:
    """The most urgent job that one of the analysers can do, now held by the worker."""
    query: LiteralString = (
        "with claimed as materialized (select * from claim_jobs(%s, 1, %s))"
        " select c.id, c.lease_token as token, c.attempt, c.image_id, i.file_path,"
        " i.original_filename,"
        " c.algorithm_name, c.algorithm_version, c.algorithm_parameters"
        " from claimed c join images i on i.id = c.image_id"
    )
    with database.transaction() as connection:
        row = only(connection, query, [worker, list(algorithms)])
    return Claimed(**row) if row else None


def is_drained(database: Database, algorithms: Sequence[str]) -> bool:
    """Whether no job of these analysers runs or waits, planned ones that aren't due left out."""
    query = (
        "select exists (select from processing_queue"
        " where status in ('queued', 'processing', 'retrying')"
        " and algorithm_name || '@' || algorithm_version = any (%s)"
        " and (status <> 'queued' or scheduled_at <= clock_timestamp())) as left"
    )
    with database.transaction(read_only=True) as connection:
        row = only(connection, query, [list(algorithms)])
    return row is not None and not row["left"]


def complete_from_cache(database: Database, job: Claimed) -> int | None:
    """End the job with the result that is there already.

    Returns:
        The result's number; None where there is none and the job goes on.

    Raises:
        LeaseLostError: The worker no longer holds the job.
    """
    with database.transaction() as connection:
        row = only(
            connection, "select complete_job_from_cache(%s, %s) as result", [job.id, job.token]
        )
    return row["result"] if row else None


def complete(database: Database, job: Claimed, done: Completion) -> int:
    """End the job with its result, everything that belongs to it in one transaction.

    Returns:
        The result's number.

    Raises:
        LeaseLostError: The worker no longer holds the job; nothing was applied.
        InvalidInputError: The result holds what the database can't store.
        ConstraintError: The result breaks a rule of the schema.
    """
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
    """End a try of the job.

    Args:
        database: Where.
        job: Held by this worker.
        reason: What went wrong.
        again: Whether another try may help.

    Returns:
        ``retrying``, or ``failed`` where it is over.

    Raises:
        LeaseLostError: The worker no longer holds the job.
    """
    with database.transaction() as connection:
        row = only(
            connection,
            "select fail_job(%s, %s, %s, %s)::text as status",
            [job.id, job.token, storable(reason), again],
        )
    return row["status"] if row else "failed"


def give_back(database: Database, job: int, token: UUID, reason: str) -> None:
    """Let a job wait again at once; no try is counted.

    Raises:
        LeaseLostError: The worker no longer holds the job.
    """
    with database.transaction() as connection:
        connection.execute("select give_back_job(%s, %s, %s)", [job, token, storable(reason)])


def give_back_strays(database: Database, worker: str, jobs: frozenset[int]) -> list[int]:
    """Give back those of the jobs that the database says the worker holds.

    A claim whose answer was lost with the connection leaves such a job: held by a worker that
    lives and doesn't know of it.
    """
    query = (
        "select id, lease_token as token from processing_queue"
        " where id = any (%s) and worker_id = %s and status = 'processing'"
    )
    with database.transaction() as connection:
        found = rows(connection, query, [list(jobs), worker])
        for row in found:
            connection.execute(
                "select give_back_job(%s, %s, %s)",
                [row["id"], row["token"], "claimed, and the answer was lost"],
            )
    return [row["id"] for row in found]


def storable(text: str) -> str:
    """The text without what PostgreSQL refuses: NUL, and bytes of file names that are no UTF-8."""
    clean = text.encode("utf-8", "replace").decode("utf-8").replace("\0", "�")
    return clean[:_REASON_LENGTH]
