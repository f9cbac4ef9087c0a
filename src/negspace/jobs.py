"""Jobs: one analysis of one image each, from waiting to its end.

What happens to a job happens in the functions of the queue in the database
(``enqueue_jobs``, ``cancel_jobs``, ``retry_jobs``, …), usable from any language; this module
resolves what is asked for and returns values. States and guarantees: docs/jobs.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, LiteralString, TypeAlias, get_args

from negspace import analysis, attempts
from negspace.database import Connection, Database, Jsonb, only, rows
from negspace.errors import InvalidInputError, NotFoundError

Status: TypeAlias = Literal["queued", "processing", "retrying", "completed", "failed", "cancelled"]
STATUSES: Final[tuple[str, ...]] = get_args(Status)
Outcome: TypeAlias = Literal["queued", "waiting", "cached"]


@dataclass(frozen=True)
class Wanted:
    """An analysis as the queue keeps it: parameters resolved, version named."""

    algorithm_name: str
    algorithm_version: str
    algorithm_parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Enqueued:
    """What became of one image.

    Attributes:
        image_id: The image.
        job_id: Its job; None where nothing needs to run.
        result_id: Its result; None where it is not there yet.
        outcome: ``queued``: a new job. ``waiting``: the same analysis waits or runs already.
            ``cached``: the result is there.
    """

    image_id: int
    job_id: int | None
    result_id: int | None
    outcome: Outcome


@dataclass(frozen=True)
class Job:
    """A job as it stands."""

    id: int
    image_id: int
    user_id: int
    algorithm_name: str
    algorithm_version: str
    algorithm_parameters: Mapping[str, Any]
    status: Status
    priority: int
    retry_count: int
    max_retries: int
    attempt: int
    error_message: str | None
    last_error_at: datetime | None
    created_at: datetime
    scheduled_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    estimated_completion_at: datetime | None
    worker_id: str | None
    processing_metadata: Mapping[str, Any]


@dataclass(frozen=True)
class StatusSummary:
    """The jobs of one status: the view ``queue_status_summary``; times waited in seconds."""

    status: Status
    job_count: int
    mean_wait_seconds: float | None
    p50_wait_seconds: float | None
    p95_wait_seconds: float | None
    max_wait_seconds: float | None
    oldest_created_at: datetime | None
    newest_created_at: datetime | None


@dataclass(frozen=True)
class Progress:
    """How many jobs stand where."""

    queued: int = 0
    processing: int = 0
    retrying: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def open(self) -> int:
        """Jobs that wait or run."""
        return self.queued + self.processing + self.retrying

    @property
    def ended(self) -> int:
        """Jobs that have ended."""
        return self.completed + self.failed + self.cancelled


_COLUMNS: Final[LiteralString] = (
    "id, image_id, user_id, algorithm_name, algorithm_version, algorithm_parameters,"
    " status::text, priority, retry_count, max_retries, attempt, error_message, last_error_at,"
    " created_at, scheduled_at, started_at, completed_at, estimated_completion_at, worker_id,"
    " processing_metadata"
)

_ENQUEUE: Final[LiteralString] = (
    "enqueue_jobs(%b::bigint[], %s, %s, %s, %s, %s, %s, %s, %s, %s, %s::numeric, %s)"
)


def wanted(
    analyzer: str = "negative_space",
    *,
    profile: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    allowed: Iterable[str] | None = None,
) -> Wanted:
    """The analysis that an analyser makes of a profile and changes to it.

    Args:
        analyzer: Its name.
        profile: One of its profiles, or None for its defaults.
        parameters: Values that differ from the profile.
        allowed: The analysers that may be used, or None for all: ``settings.analyzers``.

    Raises:
        NotFoundError: There is no such analyser.
        RefusedError: It is not allowed here.
        InvalidInputError: It refuses the profile or a parameter.
    """
    found = analysis.get(analyzer, allowed)
    resolved = analysis.parameters_of(found, profile, parameters or {})
    return Wanted(found.name, found.version, resolved)


def enqueue(
    database: Database,
    images: Sequence[int],
    what: Wanted,
    *,
    requested_by: int | None = None,
    priority: int = 5,
    max_retries: int = 3,
    scheduled_at: datetime | None = None,
    use_cache: bool = True,
    deadline_at: datetime | None = None,
    weight: float | None = None,
    job_group: str | None = None,
) -> list[Enqueued]:
    """Ask for an analysis of images, all of them or, where one is refused, none.

    Args:
        database: Where.
        images: Their numbers; one named twice is asked for once.
        what: From ``wanted``.
        requested_by: The user who asks; None: each image's owner.
        priority: 1 to 10; 10 is first.
        max_retries: How often a failed try is repeated, 0 to 100.
        scheduled_at: Not before; None: now.
        use_cache: False: compute, even where the result is there.
        deadline_at: It fails where it has not begun by then; None: no deadline.
        weight: In megapixels; None: the image's.
        job_group: What ``limit_running`` limits it with; None: nothing.

    Raises:
        NotFoundError: An image isn't there.
        RefusedError: An image is archived.
        InvalidInputError: A value is out of its range.
    """
    one = images[0] if len(images) == 1 else None
    how = (priority, max_retries, scheduled_at, use_cache, deadline_at, weight, job_group)
    with attempts.recorded(database, "run_analysis", "image", one):
        _see_asked(priority, max_retries, scheduled_at, deadline_at)
        return database.call_for(Enqueued, _ENQUEUE, _given(images, requested_by, what, how))


def enqueue_within(
    connection: Connection,
    images: Sequence[int],
    what: Wanted,
    *,
    requested_by: int | None = None,
    priority: int = 5,
    max_retries: int = 3,
    scheduled_at: datetime | None = None,
    use_cache: bool = True,
    deadline_at: datetime | None = None,
    weight: float | None = None,
    job_group: str | None = None,
) -> list[Enqueued]:
    """The same in the caller's transaction: no job is there unless it commits.

    Returns:
        One answer per image, in the order given.
    """
    how = (priority, max_retries, scheduled_at, use_cache, deadline_at, weight, job_group)
    _see_asked(priority, max_retries, scheduled_at, deadline_at)
    found = rows(connection, "select * from " + _ENQUEUE, _given(images, requested_by, what, how))
    return [Enqueued(**row) for row in found]


def list_jobs(
    database: Database,
    *,
    statuses: Sequence[str] = (),
    image: int | None = None,
    user: int | None = None,
    before: int | None = None,
    limit: int = 100,
) -> list[Job]:
    """Jobs, newest first.

    Args:
        database: Where.
        statuses: Only those of these statuses; all when empty.
        image: Only those of this image.
        user: Only those that this user asked for.
        before: Only numbers below this one: the last of the page before.
        limit: How many at most.

    Raises:
        InvalidInputError: There is no such status.
    """
    _see_known(statuses)
    query: LiteralString = (
        "select " + _COLUMNS + " from processing_queue"
        " where (cardinality(%(statuses)s::queue_status[]) = 0"
        "        or status = any (%(statuses)s::queue_status[]))"
        " and (%(image)s::bigint is null or image_id = %(image)s)"
        " and (%(user)s::bigint is null or user_id = %(user)s)"
        " and (%(before)s::bigint is null or id < %(before)s)"
        " order by id desc limit %(limit)s"
    )
    given = {"image": image, "user": user, "before": before, "limit": limit}
    with database.transaction(read_only=True) as connection:
        return [Job(**row) for row in rows(connection, query, given | {"statuses": list(statuses)})]


def show(database: Database, job: int) -> Job:
    """One job.

    Raises:
        NotFoundError: There is none of that number.
    """
    query: LiteralString = "select " + _COLUMNS + " from processing_queue where id = %s"
    with database.transaction(read_only=True) as connection:
        row = only(connection, query, [job])
    if row is None:
        raise NotFoundError(
            f"there is no job {job}", hint="negspace jobs list shows those there are"
        )
    return Job(**row)


def cancel(
    database: Database, jobs: Sequence[int], *, reason: str = "cancelled", batch: int = 1000
) -> list[int]:
    """Take jobs back: waiting ones at once, running ones when their worker hears of it.

    Args:
        database: Where.
        jobs: Their numbers.
        reason: Kept with each job and in the audit trail.
        batch: How many a transaction takes, so that many don't hold up others for long.

    Returns:
        Those that were taken back; jobs that have ended, or aren't there, are not among them.
    """
    taken: list[int] = []
    for start in range(0, len(jobs), batch):
        given = [list(jobs[start : start + batch]), reason]
        with database.transaction() as connection:
            row = only(connection, "select cancel_jobs(%s::bigint[], %s) as ids", given)
        taken += row["ids"] if row else []
    return sorted(taken)


def retry(
    database: Database, jobs: Sequence[int], *, deadline_at: datetime | None = None
) -> list[int]:
    """Let failed jobs be tried again, with all their retries.

    Args:
        database: Where.
        jobs: Their numbers.
        deadline_at: Their new deadline; None: the one they have.

    Returns:
        Those that wait again. Not among them: jobs that haven't failed, whose analysis waits
        or runs anew, or whose image is archived.

    Raises:
        RefusedError: The deadline of one has passed, and no new one is given; none is tried.
        InvalidInputError: The new deadline is over already.
    """
    _see_zoned("the deadline", deadline_at)
    given = [list(jobs), deadline_at]
    with database.transaction() as connection:
        row = only(connection, "select retry_jobs(%s::bigint[], %s) as ids", given)
    return row["ids"] if row else []


def summary(database: Database) -> list[StatusSummary]:
    """Every status with its jobs and how long they waited."""
    query = (
        "select status::text, job_count, mean_wait_seconds, p50_wait_seconds, p95_wait_seconds,"
        " max_wait_seconds, oldest_created_at, newest_created_at"
        " from queue_status_summary order by queue_status_summary.status"
    )
    with database.transaction(read_only=True) as connection:
        return [StatusSummary(**row) for row in rows(connection, query)]


def progress(database: Database, *, since: datetime | None = None) -> Progress:
    """How many jobs stand where: cheap enough to ask every second.

    Args:
        database: Where.
        since: Count of the ended jobs only those that ended at or after this time, which reads
            their index; None: all, from the kept counters.
    """
    query = (
        "select status::text, sum(job_count)::bigint as n from queue_depth"
        " where %(since)s::timestamptz is null or status in ('queued', 'processing', 'retrying')"
        " group by status"
        " union all"
        " select status::text, count(*) from processing_queue"
        " where status in ('completed', 'failed', 'cancelled')"
        " and completed_at >= %(since)s::timestamptz group by status"
    )
    with database.transaction(read_only=True) as connection:
        counted = rows(connection, query, {"since": since})
    return Progress(**{row["status"]: row["n"] for row in counted})


def _given(
    images: Sequence[int], requested_by: int | None, what: Wanted, how: Sequence[Any]
) -> list[Any]:
    parameters = Jsonb(dict(what.algorithm_parameters))
    wish = [what.algorithm_name, what.algorithm_version, parameters]
    return [list(images), requested_by, *wish, *how]


def _see_asked(
    priority: int, max_retries: int, scheduled_at: datetime | None, deadline_at: datetime | None
) -> None:
    _see_within("the priority", priority, 1, 10)
    _see_within("the number of retries", max_retries, 0, 100)
    _see_zoned("the planned time", scheduled_at)
    _see_zoned("the deadline", deadline_at)


def _see_known(statuses: Sequence[str]) -> None:
    for status in statuses:
        if status not in STATUSES:
            raise InvalidInputError(
                f"there is no status {status!r}", hint=f"one of {', '.join(STATUSES)}"
            )


def _see_within(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InvalidInputError(f"{what} is {value}", hint=f"a whole number from {low} to {high}")


def _see_zoned(what: str, when: datetime | None) -> None:
    if when is not None and when.tzinfo is None:
        raise InvalidInputError(
            f"{what} has no time zone", hint="say which: 2026-01-31T18:00+01:00"
        )
