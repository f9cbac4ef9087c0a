"""Results of analyses: an owner's equal bytes are computed once by an analyser and parameters.

Jobs put their results in, and are answered from it, within the database
(``complete_job``, ``store_cached_result``); here one sees it and clears it. docs/cache.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, LiteralString

from negspace.database import Database, Jsonb, only
from negspace.errors import InvalidInputError

_BATCH: Final = 1000
_SELECTED: Final[LiteralString] = (
    " (%(algorithm)s::text is null"
    " or exists (select from analysis_results r where r.id = c.analysis_id"
    "  and r.algorithm_name = %(algorithm)s"
    "  and (%(version)s::text is null or r.algorithm_version = %(version)s)))"
)
# What is counted, and what is not yet.
_TODAY: Final[LiteralString] = (
    "select coalesce(sum(c.hits), 0)::bigint as analysis_hits_today,"
    "  coalesce(sum(c.misses), 0)::bigint as analysis_misses_today"
    " from ("
    "  select day, hits, misses from analysis_cache_days"
    "  union all select used_at, 1, 0 from analysis_cache_uses"
    "  union all select missed_at, 0, misses from analysis_cache_misses"
    " ) c where c.day >= date_trunc('day', now(), 'UTC')"
)


@dataclass(frozen=True)
class Stats:
    """What the cache holds.

    Attributes:
        entries: Answers it has.
        expired: Those of them that answer no more and wait to be removed.
        hits: How often they answered; what was removed took its hits along.
        analysis_hits_today: How often any answered since midnight (UTC), removed ones too.
        analysis_misses_today: Jobs since then that were computed because none did.
        size_bytes: Size of their texts.
        oldest_created_at: When the oldest was put in.
        newest_created_at: When the newest was.
        last_hit_at: When one answered last.
    """

    entries: int
    expired: int
    hits: int
    analysis_hits_today: int
    analysis_misses_today: int
    size_bytes: int
    oldest_created_at: datetime | None
    newest_created_at: datetime | None
    last_hit_at: datetime | None


def stats(database: Database) -> Stats:
    """What the cache holds now."""
    query = (
        "select count(*) as entries, count(*) filter (where c.expires_at <= now()) as expired,"
        " coalesce(sum(c.hit_count + coalesce(u.hits, 0)), 0)::bigint as hits,"
        " coalesce(sum(c.size_bytes), 0)::bigint as size_bytes,"
        " min(c.created_at) as oldest_created_at, max(c.created_at) as newest_created_at,"
        " max(greatest(c.last_accessed_at, u.latest))"
        "  filter (where c.hit_count > 0 or u.hits > 0) as last_hit_at"
        " from analysis_cache c"
        " left join (select entry_id, count(*) as hits, max(used_at) as latest"
        "  from analysis_cache_uses group by entry_id) u on u.entry_id = c.id"
    )
    with database.transaction(read_only=True) as connection:
        row = {**(only(connection, query) or {}), **(only(connection, _TODAY) or {})}
    return Stats(**row)


def count_hits(database: Database) -> int:
    """Carry hits to the entries that answered, and misses to their day; how many rows those were.

    Housekeeping does it.
    """
    return _until_done(database, "select count_cache_uses(%(batch)s) as n", {})


def key(
    database: Database,
    owner: int,
    file_hash: str,
    algorithm: str,
    version: str,
    parameters: Mapping[str, Any],
) -> str:
    """What an answer is found by: 64 hexadecimal digits.

    Args:
        database: Its functions compute the key, so that all languages agree.
        owner: Whose image it is, by number.
        file_hash: SHA-256 of the file, 64 hexadecimal digits.
        algorithm: The analyser.
        version: Its version.
        parameters: Resolved.
    """
    query = "select cache_key(%s, algorithm_fingerprint(%s, %s, %s), %s) as key"
    given = [file_hash, algorithm, version, Jsonb(dict(parameters)), owner]
    with database.transaction(read_only=True) as connection:
        row = only(connection, query, given)
    return row["key"] if row else ""


def purge_expired(database: Database) -> int:
    """Remove what answers no more; how many those were."""
    return _until_done(database, "select cleanup_expired_cache(%(batch)s) as n", {})


def count(database: Database, algorithm: str | None = None, version: str | None = None) -> int:
    """How many answers ``purge`` would remove."""
    query: LiteralString = "select count(*) as n from analysis_cache c where" + _SELECTED
    with database.transaction(read_only=True) as connection:
        row = only(connection, query, {"algorithm": algorithm, "version": version})
    return row["n"] if row else 0


def purge(database: Database, *, algorithm: str | None = None, version: str | None = None) -> int:
    """Remove answers, all or those of an analyser; the results they repeat stay.

    An image that has a result keeps being answered by it; another one with the same bytes is
    computed anew.

    Args:
        database: Where.
        algorithm: Only answers of this analyser.
        version: Only of this version of it.

    Returns:
        How many were removed, in transactions of 1,000.

    Raises:
        InvalidInputError: A version without its analyser.
    """
    if version is not None and algorithm is None:
        raise InvalidInputError(
            f"version {version} of which analyser?", hint="name the analyser too"
        )
    # locked by key, as enqueue_jobs() does: they never wait for each other crosswise
    query: LiteralString = (
        "with gone as (delete from analysis_cache where id = any (array("
        " select c.id from analysis_cache c where"
        + _SELECTED
        + " order by c.cache_key limit %(batch)s for update)) returning 1)"
        " select count(*) as n from gone"
    )
    return _until_done(database, query, {"algorithm": algorithm, "version": version})


def _until_done(database: Database, query: LiteralString, given: dict[str, Any]) -> int:
    total = 0
    while True:
        with database.transaction() as connection:
            row = only(connection, query, given | {"batch": _BATCH})
        removed: int = row["n"] if row else 0
        total += removed
        if removed == 0:
            return total
