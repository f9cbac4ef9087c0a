"""Checks of the schema: migrations, drift, partitions, indexes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, LiteralString

from negspace import migrate
from negspace.doctor.examining import Check, Fault, Patient, listed, size
from negspace.errors import RefusedError
from negspace.fit import MIGRATIONS

__all__ = ["CHECKS"]

# What a migration's state means to an operator; those not here are well.
_STATES: Final = {
    "pending": ("not applied yet", "negspace migrate up"),
    "failed": ("failed when last tried", "negspace migrate up, and see negspace migrate history"),
    "interrupted": ("begun and never ended", "negspace migrate up"),
    "late": ("not applied, though a later one is", "negspace migrate up"),
    "edited": ("changed since they were applied", "negspace migrate validate"),
    "gone": ("not known to this negspace", "install a newer negspace on this machine"),
}


def migrations(patient: Patient) -> Iterator[Fault]:
    """All migrations are applied, and as this negspace has them."""
    stands = migrate.status(_operator(patient), MIGRATIONS)
    if not any(one.state == "applied" for one in stands):
        row = patient.row("select to_regclass('public.processing_queue') is not null as there")
        if row["there"]:
            yield Fault(
                "no ledger says which migrations the schema has",
                "negspace migrate baseline; then negspace migrate up",
            )
            return
    for state, (meaning, remedy) in _STATES.items():
        names = [one.name for one in stands if one.state == state]
        if names:
            yield Fault(f"{meaning}: {listed(names)}", remedy)


def drift(patient: Patient) -> Iterator[Fault]:
    """The catalog is what the applied migrations make."""
    where = _operator(patient)
    found = migrate.drift(migrate.ground(patient.settings), where, MIGRATIONS)
    names = [f"{one.identity} ({one.state})" for one in found.objects]
    if names:
        yield Fault(f"not as the migrations make it: {listed(names)}", "negspace migrate drift")


def _operator(patient: Patient) -> str:
    if patient.connection is None or patient.operator is None:
        raise RefusedError("the database wasn't reached")
    return patient.operator


def partitions(patient: Patient) -> Iterator[Fault]:
    """The months to come have their partitions."""
    found = patient.rows(
        "select m.name from (select date_trunc('month', now() at time zone 'UTC') as month) t,"
        " public.missing_partitions(t.month, t.month + make_interval(months => %s)) m",
        [patient.limits.months_ahead],
    )
    if found:
        yield Fault(
            f"partitions are missing: {listed([row['name'] for row in found])}",
            "negspace maintain; a running worker does it every hour",
        )
    for row in patient.rows(_WITHOUT_MONTH):
        name = f"processing_queue_ended_{row['month']:%Y%m}"
        first, next_one = f"{row['month']:%Y-%m-%d}", f"{row['next_month']:%Y-%m-%d}"
        yield Fault(
            f"{row['jobs']} jobs wait or run that can't end: their month, {name}, isn't there",
            f"negspace maintain; for more than two years ago: create table public.{name}"
            " partition of public.processing_queue_ended"
            f" for values from ('{first} 00:00+00') to ('{next_one} 00:00+00')",
        )


_WITHOUT_MONTH: Final[LiteralString] = (
    "select m.month, m.month + interval '1 month' as next_month, count(*) as jobs"
    " from public.processing_queue q"
    " cross join lateral (select date_trunc('month', q.created_at at time zone 'UTC') as month) m"
    " where q.status in ('queued', 'processing', 'retrying')"
    " and to_regclass('public.processing_queue_ended_' || to_char(m.month, 'YYYYMM')) is null"
    " group by 1 order by 1"
)


def invalid_indexes(patient: Patient) -> Iterator[Fault]:
    """Every index is whole."""
    found = patient.rows(
        "select i.indexrelid::regclass::text as name,"
        " c.relname ~ '_cc(new|old)[0-9]*$' as is_left_over"
        " from pg_index i join pg_class c on c.oid = i.indexrelid"
        " where not (i.indisvalid and i.indisready)"
        " and c.relnamespace = 'public'::regnamespace order by 1"
    )
    for row in found:
        name = row["name"]
        verb = "drop index" if row["is_left_over"] else "reindex index"
        yield Fault(f"{name} is not valid", f"{verb} concurrently {name}")


def unused_indexes(patient: Patient) -> Iterator[Fault]:
    """Every large index is read. Unique ones guard, whether they are read or not."""
    found = patient.rows(
        "select s.indexrelid::regclass::text as name, pg_relation_size(s.indexrelid) as bytes,"
        " t.since::date::text as since"
        " from pg_stat_user_indexes s join pg_index i using (indexrelid),"
        " (select coalesce(d.stats_reset, pg_postmaster_start_time()) as since"
        "  from pg_stat_database d where d.datname = current_database()) t"
        " where s.schemaname = 'public' and s.idx_scan = 0 and not i.indisunique"
        " and pg_relation_size(s.indexrelid) >= %s and t.since <= now() - %s"
        " order by 2 desc, 1",
        [patient.limits.unused_index, patient.limits.unused_for],
    )
    for row in found:
        yield Fault(
            f"nothing has read {row['name']} ({size(row['bytes'])}) since {row['since']}",
            f"negspace migrate new drop_{row['name'].rpartition('.')[2]}",
        )


CHECKS: Final = (
    Check("migrations", "programs and schema no longer fit each other", migrations),
    Check("drift", "migrations, backups and other machines expect another schema", drift, "deep"),
    Check("partitions", "events, metrics and ended jobs of that month can't be stored", partitions),
    Check("invalid indexes", "it costs every write and serves no query", invalid_indexes),
    Check("unused indexes", "each costs every write, memory and disk", unused_indexes),
)
