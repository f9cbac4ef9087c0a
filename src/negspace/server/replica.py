"""A standby to read from: opened, and asked how far it is behind."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, LiteralString

from negspace import database, fit
from negspace.database import Actor, Connection, Database
from negspace.errors import UnavailableError

if TYPE_CHECKING:
    from negspace.server.layout import Progress
    from negspace.settings import Settings

# Where it is connected and has replayed what came, it has all that the primary sent. Where it
# isn't, what it has is as old as the last transaction that it replayed, or as its checkpoint.
_STANDING: LiteralString = """
    select coalesce(pg_last_wal_receive_lsn()::text, '0/0') as received,
           pg_is_in_recovery()
             and not exists (select from pg_stat_get_wal_receiver() where pid is not null)
             as alone,
           not pg_is_in_recovery() as primary,
           extract(epoch from clock_timestamp() - coalesce(
             pg_last_xact_replay_timestamp(),
             (select checkpoint_time from pg_control_checkpoint())))::float as seconds
"""
_LEFT: LiteralString = """
    select pg_wal_lsn_diff(%s::pg_lsn, pg_last_wal_replay_lsn())::bigint as bytes,
           pg_is_wal_replay_paused() as paused
"""
_LOOKS: Final = 20  # in a second: what has just come is replayed within milliseconds
# An idle primary sends whole pages and keeps the rest of their last record until somebody
# commits: so much of what was received may be of a record that isn't there yet.
_UNFINISHED: Final = 32_768  # bytes


def open_replica(
    settings: Settings,
    *,
    actor: Actor | None = None,
    progress: Progress | None = None,
) -> Database:
    """The standby that ``NEGSPACE_REPLICA_URL`` names; nothing can be written to it.

    Args:
        settings: Which one, and how far it may be behind.
        actor: Who reads.
        progress: Called with a line where it is behind by a second or more.

    Raises:
        SettingsError: None is named.
        UnavailableError: It can't be reached, or is too far behind.
        RefusedError: Its schema is absent, older or newer than this negspace.
    """
    where = database.replica_conninfo(settings)
    opened = Database(where, actor=actor, pool=database.PoolSize.of(settings))
    try:
        with opened.transaction(read_only=True) as connection:
            fit.see(connection)
            behind = seconds_behind(connection)
    except UnavailableError as error:
        opened.close()
        raise UnavailableError(
            f"the replica isn't there: {error.message}",
            hint="without --replica the primary is read; NEGSPACE_REPLICA_URL names the replica",
        ) from error
    except BaseException:
        opened.close()
        raise
    if behind > settings.replica_max_lag:
        opened.close()
        raise UnavailableError(
            f"the replica is {behind:.0f} s behind, and {settings.replica_max_lag:g} s are allowed",
            hint="without --replica the primary is read; NEGSPACE_REPLICA_MAX_LAG allows more",
        )
    if behind >= 1 and progress is not None:
        progress(f"the replica is {behind:.0f} s behind")
    return opened


def seconds_behind(connection: Connection) -> float:
    """How old at most what a server shows is, in seconds; 0 where it is up to date, or a primary.

    A standby learns only after ``wal_receiver_timeout`` that its primary is silent.
    """
    standing = database.only(connection, _STANDING)
    if standing is None or standing["primary"]:
        return 0.0
    left = None
    for _ in range(0 if standing["alone"] else _LOOKS):
        left = database.only(connection, _LEFT, [standing["received"]])
        if left and left["bytes"] <= 0:
            return 0.0
        time.sleep(1 / _LOOKS)
    if left and left["bytes"] <= _UNFINISHED and not left["paused"]:
        return 0.0
    return max(0.0, float(standing["seconds"]))
