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
    select coalesce(pg_last_wal_receive_lsn(), '0/0')::text as received,
           mod(pg_wal_lsn_diff(coalesce(pg_last_wal_receive_lsn(), '0/0'), '0/0'),
               current_setting('wal_block_size')::bigint) = 0 as may_be_torn,
           pg_is_in_recovery()
             and not exists (select from pg_stat_get_wal_receiver() where pid is not null)
             as alone,
           not pg_is_in_recovery() as primary,
           extract(epoch from clock_timestamp() - coalesce(
             pg_last_xact_replay_timestamp(),
             (select checkpoint_time from pg_control_checkpoint())))::float as seconds
"""
_REPLAYED: LiteralString = """
    select pg_last_wal_replay_lsn() >= %s::pg_lsn as all, pg_is_wal_replay_paused() as paused
"""
_PAUSE: Final = 0.05  # seconds between two looks
_PATIENCE: Final = 1.0  # seconds: what has just come is replayed within milliseconds
# A primary on which nobody commits sends whole pages, and keeps the rest of their last record:
# it can't be replayed yet, and nothing is missing. So what was received ends with a page. The
# rest comes with the next commit, or when the background writer logs a snapshot: every 15 s
# where anything was written, and 10 s later where it had fallen asleep.
_TORN_PATIENCE: Final = 30.0


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

    Waits for what was received already to be replayed: a second, or 30 where that ends with a page
    and so maybe within a record. A standby learns only after ``wal_receiver_timeout`` that its
    primary is silent.
    """
    standing = database.only(connection, _STANDING)
    if standing is None or standing["primary"]:
        return 0.0
    began = time.monotonic()
    patience = _TORN_PATIENCE if standing["may_be_torn"] else _PATIENCE
    while not standing["alone"] and time.monotonic() < began + patience:
        now = database.only(connection, _REPLAYED, [standing["received"]])
        if now and now["all"]:
            return 0.0
        if now and now["paused"]:
            patience = _PATIENCE  # nothing is replayed, torn or whole
        time.sleep(_PAUSE)
    return max(0.0, float(standing["seconds"]))
