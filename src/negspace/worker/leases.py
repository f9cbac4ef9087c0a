"""The queue's functions as a worker calls them: claim a job, and end it while it is held."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal, LiteralString, TypeAlias
from uuid import UUID

from negspace.database import Database, Jsonb, only, rows
from negspace.worker.lines import Line

How: TypeAlias = Literal["complete", "fail", "die", "give_back", "ask", "note"]
Outcome: TypeAlias = Literal["completed", "retrying", "failed", "held", "lost", "unstored"]

_FUNCTIONS: Final[dict[How, LiteralString]] = {
    "complete": "select job_id, outcome from complete_jobs(%s)",
    "fail": "select job_id, outcome from fail_jobs(%s)",
    "die": "select job_id, outcome from fail_jobs(count_deaths(%s))",
    "give_back": "select job_id, outcome from fail_jobs(%s, counts => false)",
    "ask": "select job_id, outcome from answer_jobs(%s)",
    "note": (
        "select (e.value ->> 'job')::bigint as job_id, 'held' as outcome"
        " from jsonb_array_elements(%s) e"
    ),
}
# They don't wait for the disk, because a crash of the server may undo them: a claim that is undone
# leaves its job waiting, and the token that the worker has opens nothing.
_UNFLUSHED: Final[LiteralString] = "set_config('synchronous_commit', 'off', true)"
CLAIM: Final[LiteralString] = (
    f"(select w.* from {_UNFLUSHED}, claim_work(%s, %s, %s, %s::numeric) w)"
)
_REASON_LENGTH: Final = 10_000  # characters, as fail_jobs keeps


@dataclass(frozen=True)
class Claimed:
    """A job that this worker holds.

    Attributes:
        id: The job.
        token: The lease: known to who holds the job.
        attempt: How often it was claimed, this time included.
        image_id: The image.
        owner: Whose image it is, by number: answers are not shared between accounts.
        file_path: Its file, below the storage folder.
        file_hash: SHA-256 of the file, 64 hexadecimal digits.
        original_filename: The name that the file came with.
        algorithm_name: The analyser.
        algorithm_version: Its version.
        algorithm_parameters: Its parameters.
        answered: Whether its result was there when it was claimed: to be asked for.
        deadline: When it is to be done, by this machine's monotonic clock; None: it has none.
    """

    id: int
    token: UUID
    attempt: int
    image_id: int
    owner: int
    file_path: str
    file_hash: str
    original_filename: str
    algorithm_name: str
    algorithm_version: str
    algorithm_parameters: Mapping[str, Any]
    answered: bool
    deadline: float | None = None

    def is_overdue(self) -> bool:
        """Whether its deadline has passed."""
        return self.deadline is not None and time.monotonic() > self.deadline


@dataclass(frozen=True)
class Completion:
    """What a job's analysis gave, as ``complete_jobs`` takes it.

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


@dataclass(frozen=True)
class Log:
    """What was logged while a try was computed.

    Attributes:
        worker: Who ran it.
        lines: Its first lines and its last ones.
        left_out: How many there were between them.
    """

    worker: str
    lines: Sequence[Line]
    left_out: int

    def as_dict(self, job: Claimed) -> dict[str, Any]:
        """The log as ``keep_job_logs`` takes it."""
        lines = [
            {
                "logged_at": line.logged_at.isoformat(),
                "level": line.level,
                "logger": storable(line.logger),
                "message": storable(line.message),
            }
            for line in self.lines
        ]
        mine = {"job": job.id, "attempt": job.attempt, "worker": self.worker}
        return mine | {"lines": lines, "left_out": self.left_out}


@dataclass(frozen=True)
class End:
    """How a job that the worker holds is to end.

    Attributes:
        job: The job.
        how: ``complete``: its result is there. ``fail``: the try failed. ``die``: its process
            ended with it. ``give_back``: it waits again, no try is counted. ``ask``: it ends
            where the cache has the answer, else the worker goes on with it. ``note``: it goes
            on, and what it said so far is kept.
        completion: Its result.
        reason: Why it failed, or is given back.
        error: The kind of error, as failures are counted by it.
        again: Whether another try may help.
        log: What it said, where that isn't stored yet.
    """

    job: Claimed
    how: How
    completion: Completion | None = None
    reason: str = ""
    error: str = ""
    again: bool = True
    log: Log | None = None

    def as_dict(self) -> dict[str, Any]:
        """The end as the functions of the queue take it."""
        mine = {"job": self.job.id, "attempt": self.job.attempt, "token": str(self.job.token)}
        if self.completion is not None:
            return mine | vars(self.completion)
        said = {"reason": storable(self.reason), "error": self.error, "again": self.again}
        return mine | said


def claim(
    database: Database,
    worker: str,
    algorithms: Sequence[str],
    how_many: int,
    capacity: float | None = None,
) -> list[Claimed]:
    """The most urgent jobs that one of the analysers can do, now held by the worker.

    Args:
        database: Where.
        worker: Who.
        algorithms: Its analysers, as ``name@version``.
        how_many: So many at most.
        capacity: None heavier than so many megapixels; None: any.
    """
    found = database.call(CLAIM, [worker, how_many, list(algorithms), capacity])
    now = time.monotonic()
    lefts = [row.pop("seconds_left") for row in found]
    deadlines = [None if left is None else now + left for left in lefts]
    return [Claimed(**row, deadline=at) for row, at in zip(found, deadlines, strict=True)]


def is_drained(
    database: Database, algorithms: Sequence[str], capacity: float | None = None
) -> bool:
    """Whether no job of these analysers runs or waits that is no heavier than the capacity.

    Planned ones that aren't due are left out.
    """
    query = (
        "select exists (select from processing_queue"
        " where status in ('queued', 'processing', 'retrying')"
        " and algorithm_name || '@' || algorithm_version = any (%s)"
        " and (%s::numeric is null or complexity_score is null or complexity_score <= %s)"
        " and (status <> 'queued' or scheduled_at <= clock_timestamp())) as left"
    )
    given = [list(algorithms), capacity, capacity]
    with database.transaction(read_only=True) as connection:
        row = only(connection, query, given)
    return row is not None and not row["left"]


def rest(database: Database, worker: str, lease: timedelta, *, resting: bool | None) -> int:
    """Say that a worker sleeps, or is awake; None: as before.

    Returns:
        How many others of those that were heard of within the lease sleep longer.
    """
    query = (
        "select count(*) as n from workers w join workers mine on mine.id = %s"
        " where w.stopped_at is null and w.heartbeat_at > clock_timestamp() - %s"
        " and (w.sleeping_since, w.id) < (mine.sleeping_since, mine.id)"
    )
    with database.transaction() as connection:
        if resting is not None:
            connection.execute(f"select rest_worker(%s, %s) from {_UNFLUSHED}", [worker, resting])
        row = only(connection, query, [worker, lease])
    return row["n"] if row else 0


def finish(database: Database, how: How, ends: Sequence[End]) -> dict[int, Outcome]:
    """End jobs that the worker holds, all in the same way, in one transaction.

    Returns:
        What became of each job. ``lost``: the worker no longer held it, and nothing of its end
        was applied.

    Raises:
        InvalidInputError: An end holds what the database can't store; none was applied.
        ConstraintError: A result breaks a rule of the schema; none was applied.
    """
    given = Jsonb([end.as_dict() for end in ends])
    logs = [end.log.as_dict(end.job) for end in ends if end.log is not None]
    with database.transaction() as connection:
        found = rows(connection, _FUNCTIONS[how], [given])
        if logs:
            connection.execute("select keep_job_logs(%s)", [Jsonb(logs)])
    return {row["job_id"]: row["outcome"] for row in found}


def say_computing(database: Database, worker: str, jobs: Sequence[int]) -> None:
    """Say which jobs a worker computes: should it be gone, the others have cost no try."""
    with database.transaction() as connection:
        connection.execute("select say_computing(%s, %s::bigint[])", [worker, list(jobs)])


def lost(database: Database, held: Mapping[UUID, int]) -> list[int]:
    """Those of the jobs that are no longer held with these tokens: cancelled, or given away."""
    query = "select lost_jobs(%s::bigint[], %s::uuid[]) as ids"
    with database.transaction(read_only=True) as connection:
        row = only(connection, query, [list(held.values()), list(held)])
    return row["ids"] if row else []


def give_back_strays(database: Database, worker: str, jobs: frozenset[int]) -> list[int]:
    """Give back those of the jobs that the database says the worker holds.

    A claim whose answer was lost with the connection leaves such a job: held by a worker that
    lives and doesn't know of it.
    """
    query = (
        "select job_id from fail_jobs(counts => false, ends => ("
        " select coalesce(jsonb_agg(jsonb_build_object('job', id, 'attempt', attempt,"
        "  'token', lease_token, 'reason', 'claimed, and the answer was lost')), '[]')"
        " from processing_queue"
        " where id = any (%s) and worker_id = %s and status = 'processing'))"
        " where outcome <> 'lost'"
    )
    with database.transaction() as connection:
        return [row["job_id"] for row in rows(connection, query, [list(jobs), worker])]


def storable(text: str) -> str:
    """The text without what PostgreSQL refuses: NUL, and bytes of file names that are no UTF-8."""
    clean = text.encode("utf-8", "replace").decode("utf-8").replace("\0", "�")
    return clean[:_REASON_LENGTH]
