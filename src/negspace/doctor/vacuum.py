"""Checks of what keeps vacuum from clearing dead rows away, and of what is left then."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, LiteralString

from negspace.doctor.examining import Check, Fault, Patient, size, span

__all__ = ["CHECKS"]

# When a transaction began is shown to its own role and to members of pg_read_all_stats; how
# many have begun since, to everybody.
_SESSIONS: Final[LiteralString] = (
    "select a.pid, a.usename as role, a.application_name as program,"
    " extract(epoch from now() - a.xact_start)::float as seconds,"
    " greatest(age(a.backend_xmin), age(a.backend_xid)) as transactions"
    " from pg_stat_activity a"
    " where (a.backend_xmin is not null or a.backend_xid is not null)"
    " and a.pid <> pg_backend_pid() and coalesce(a.backend_type, '') not like 'autovacuum%%'"
    " and coalesce(a.datname, current_database()) = current_database()"
    " and (a.xact_start <= now() - %s"
    "      or greatest(age(a.backend_xmin), age(a.backend_xid)) >= %s)"
    " order by transactions desc"
)
_PREPARED: Final[LiteralString] = (
    "select p.gid, quote_literal(p.gid) as literal, p.owner,"
    " extract(epoch from now() - p.prepared)::float as seconds"
    " from pg_prepared_xacts p"
    " where p.database = current_database() and p.prepared <= now() - %s order by p.prepared"
)
_SLOTS: Final[LiteralString] = (
    "select s.slot_name as name, quote_literal(s.slot_name) as literal, s.active,"
    " greatest(age(s.xmin), age(s.catalog_xmin)) as transactions,"
    " pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_replay_lsn()"
    "                      else pg_current_wal_lsn() end, s.restart_lsn)::bigint as bytes"
    " from pg_replication_slots s order by s.slot_name"
)


def horizon(patient: Patient) -> Iterator[Fault]:
    """Nothing old holds up what vacuum may clear away."""
    limits = patient.limits
    for row in patient.rows(_SESSIONS, [limits.snapshot, limits.held_transactions]):
        since = "" if row["seconds"] is None else f" for {span(row['seconds'])}"
        yield Fault(
            f"a transaction of {row['role']} ({row['program'] or 'unnamed'}, pid {row['pid']}) is"
            f" open{since}; {row['transactions']} others began since",
            f"select pg_terminate_backend({row['pid']})",
        )
    for row in patient.rows(_PREPARED, [limits.snapshot]):
        yield Fault(
            f"the prepared transaction {row['gid']} of {row['owner']} waits"
            f" for {span(row['seconds'])}",
            f"commit prepared {row['literal']}, or rollback prepared {row['literal']}",
        )
    for row in patient.rows(_SLOTS):
        yield from _slot(row["name"], row["literal"], row, patient)


def _slot(name: str, literal: str, row: dict[str, int | None], patient: Patient) -> Iterator[Fault]:
    held, kept = row["transactions"], row["bytes"]
    remedy = f"start its reader, or select pg_drop_replication_slot({literal})"
    if held is not None and held >= patient.limits.held_transactions:
        yield Fault(f"the replication slot {name} lags by {held} transactions", remedy)
    elif not row["active"] and kept is not None and kept >= patient.limits.retained_wal:
        yield Fault(f"the replication slot {name} has no reader and keeps {size(kept)}", remedy)


def dead_rows(patient: Patient) -> Iterator[Fault]:
    """Tables hold few dead rows beside the living."""
    found = patient.rows(
        "select s.relid::regclass::text as name, s.n_dead_tup as dead, s.n_live_tup as live"
        " from pg_stat_user_tables s"
        " where s.schemaname = 'public' and s.n_dead_tup >= %s"
        " and s.n_dead_tup >= %s * (s.n_live_tup + s.n_dead_tup) order by s.n_dead_tup desc, 1",
        [patient.limits.dead_rows, patient.limits.dead_share],
    )
    for row in found:
        yield Fault(
            f"{row['name']} holds {row['dead']} dead rows beside {row['live']} living",
            f"vacuum (analyze, verbose) {row['name']}",
        )


def claim_index(patient: Patient) -> Iterator[Fault]:
    """The indexes of the waiting jobs are as small as the jobs are few."""
    found = patient.rows(
        "select s.indexrelid::regclass::text as name, pg_relation_size(s.indexrelid) as bytes,"
        " t.n_live_tup as jobs"
        " from pg_stat_user_indexes s join pg_stat_user_tables t using (relid)"
        " where s.relid = to_regclass('public.processing_queue_hot')"
        " and pg_relation_size(s.indexrelid) >= %s + 1024 * t.n_live_tup order by 1",
        [patient.limits.claim_index],
    )
    for row in found:
        yield Fault(
            f"{row['name']} takes {size(row['bytes'])} for {row['jobs']} jobs that wait or run",
            f"reindex index concurrently {row['name']}",
        )


CHECKS: Final = (
    Check("vacuum horizon", "dead rows pile up in every table, and claims slow down", horizon),
    Check("dead rows", "scans read them all; the table grows", dead_rows),
    Check("queue indexes", "every claim reads through the dead entries", claim_index),
)
