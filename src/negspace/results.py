"""Results: what the analyses found.

Listing shows which results there are. Reading them, or taking them out, is done for a stated
purpose and leaves an event in the audit trail: docs/results.md.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, LiteralString

from negspace import attempts
from negspace.database import Database, Jsonb, rows
from negspace.errors import InvalidInputError

_FETCHED: Final = 200  # rows of an export that are held in memory


@dataclass(frozen=True)
class Listed:
    """That a result is there, as the view ``analysis_performance_summary`` has it.

    Attributes:
        result_id: The result.
        image_id: Its image.
        user_id: Who asked for it.
        original_filename: The name the image came with.
        algorithm_name: The analyser.
        algorithm_version: Its version.
        confidence_score: 0 to 1.
        processing_time_ms: How long it took.
        performance_category: cached, fast (under 1 s), normal (under 5 s) or slow.
        created_at: When it was stored.
    """

    result_id: int
    image_id: int
    user_id: int
    original_filename: str
    algorithm_name: str
    algorithm_version: str
    confidence_score: float
    processing_time_ms: int
    performance_category: str
    created_at: datetime


@dataclass(frozen=True)
class Result:
    """A result, whole. The keys are the columns of ``analysis_results``."""

    id: int
    image_id: int
    user_id: int
    algorithm_name: str
    algorithm_version: str
    algorithm_parameters: Mapping[str, Any]
    negative_space_data: Mapping[str, Any]
    anomalies: Sequence[Mapping[str, Any]]
    confidence_score: float
    processing_time_ms: int
    quality_metrics: Mapping[str, Any]
    provenance: Mapping[str, Any]
    visualization_path: str | None
    notes: str | None
    cache_hit: bool
    performance_stats: Mapping[str, Any]
    optimization_suggestions: Sequence[str]
    created_at: datetime


@dataclass(frozen=True)
class Selection:
    """Which results; every part narrows them, None does not.

    Attributes:
        image: Of this image.
        user: Asked for by this user.
        algorithm: Of this analyser.
        since: Stored at or after this time.
    """

    image: int | None = None
    user: int | None = None
    algorithm: str | None = None
    since: datetime | None = None

    def as_parameters(self) -> dict[str, Any]:
        """As the queries below take it."""
        return {
            "image": self.image,
            "user": self.user,
            "algorithm": self.algorithm,
            "since": self.since,
        }


ALL: Final = Selection()

_COLUMNS: Final[LiteralString] = (
    "r.id, r.image_id, r.user_id, r.algorithm_name, r.algorithm_version, r.algorithm_parameters,"
    " r.negative_space_data, r.anomalies, r.confidence_score::float, r.processing_time_ms,"
    " r.quality_metrics, r.provenance, r.visualization_path, r.notes, r.cache_hit,"
    " r.performance_stats, r.optimization_suggestions, r.created_at"
)
_SELECTED: Final[LiteralString] = (
    " (%(image)s::bigint is null or r.image_id = %(image)s)"
    " and (%(user)s::bigint is null or r.user_id = %(user)s)"
    " and (%(algorithm)s::text is null or r.algorithm_name = %(algorithm)s)"
    " and (%(since)s::timestamptz is null or r.created_at >= %(since)s)"
)


def list_results(
    database: Database,
    selection: Selection = ALL,
    *,
    before: int | None = None,
    limit: int = 100,
) -> list[Listed]:
    """Which results there are, newest first; what they say is read with ``read``.

    Args:
        database: Where.
        selection: Which.
        before: Only numbers below this one: the last of the page before.
        limit: How many at most.
    """
    query: LiteralString = (
        "select r.result_id, r.image_id, r.user_id, r.original_filename, r.algorithm_name,"
        " r.algorithm_version, r.confidence_score::float, r.processing_time_ms,"
        " r.performance_category, r.created_at"
        " from analysis_performance_summary r where"
        + _SELECTED
        + " and (%(before)s::bigint is null or r.result_id < %(before)s)"
        " order by r.result_id desc limit %(limit)s"
    )
    given = selection.as_parameters() | {"before": before, "limit": limit}
    with database.transaction(read_only=True) as connection:
        return [Listed(**row) for row in rows(connection, query, given)]


def read(database: Database, image: int, purpose: str) -> list[Result]:
    """An image's results, newest first; the audit trail keeps who read them and why.

    Args:
        database: Where; its actor is who reads.
        image: The image.
        purpose: What they are read for, in a few words.

    Raises:
        NotFoundError: There is no such image.
        InvalidInputError: No purpose is given.
    """
    query: LiteralString = "select " + _COLUMNS + " from read_results(%s, %s) r"
    act = attempts.recorded(database, "view_results", "image", image)
    with act, database.transaction() as connection:
        return [Result(**row) for row in rows(connection, query, [image, purpose])]


def newest(database: Database, image: int, purpose: str) -> Result | None:
    """An image's newest result, read as ``read`` does; None where it has none."""
    return next(iter(read(database, image, purpose)), None)


def export(
    database: Database, purpose: str, selection: Selection = ALL
) -> Generator[tuple[str, Result]]:
    """Results to take out, oldest first, each with the name its image came with.

    The event ``export_data`` is written before the first of them is handed out: nothing
    leaves without one. Memory is that of a few rows however many there are.

    Raises:
        InvalidInputError: No purpose is given.
    """
    with attempts.recorded(database, "export_data", "result", selection.image):
        if not purpose.strip():
            raise InvalidInputError(
                "results are exported for a purpose, and none was given",
                hint="say in a few words what they are for; it enters the audit trail",
            )
        given = selection.as_parameters()
        _record_export(database, purpose, given)
        yield from _exported(database, given)


def _exported(database: Database, given: Mapping[str, Any]) -> Generator[tuple[str, Result]]:
    query: LiteralString = (
        "select i.original_filename, "
        + _COLUMNS
        + " from analysis_results r join images i on i.id = r.image_id where"
        + _SELECTED
        + " order by r.id"
    )
    with (
        database.transaction(read_only=True) as connection,
        connection.cursor("negspace_export") as cursor,
    ):
        cursor.itersize = _FETCHED
        cursor.execute(query, given)
        for row in cursor:
            yield row.pop("original_filename"), Result(**row)


def _record_export(database: Database, purpose: str, given: Mapping[str, Any]) -> None:
    chosen = {name: str(value) for name, value in given.items() if value is not None}
    image = str(given["image"]) if given["image"] is not None else None
    with database.transaction() as connection:
        connection.execute(
            "select record_export('result', %s, %s, %s)", [image, purpose, Jsonb(chosen)]
        )
