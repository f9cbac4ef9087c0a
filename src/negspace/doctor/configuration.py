"""Checks of the server's settings: fit for production."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from negspace.doctor.examining import Check, Fault, Patient

__all__ = ["CHECKS"]

# What each holds that is well.
_DURABLE: Final = {
    "fsync": {"on"},
    "full_page_writes": {"on"},
    "synchronous_commit": {"on", "local", "remote_write", "remote_apply"},
}


def durability(patient: Patient) -> Iterator[Fault]:
    """What is committed survives a crash, whoever commits it."""
    yield from _other_than(patient, _DURABLE)
    yield from _loosened(patient)


def autovacuum(patient: Patient) -> Iterator[Fault]:
    """Dead rows are cleared away, for all tables."""
    yield from _other_than(patient, {"autovacuum": {"on"}, "track_counts": {"on"}})
    tables = patient.rows(
        "select c.oid::regclass::text as name from pg_class c"
        " where c.relkind in ('r', 'm') and c.relnamespace = 'public'::regnamespace"
        " and exists (select from pg_options_to_table(c.reloptions) o"
        "             where o.option_name = 'autovacuum_enabled' and not o.option_value::boolean)"
        " order by 1"
    )
    for table in tables:
        name = table["name"]
        yield Fault(
            f"autovacuum is off for {name}", f"alter table {name} reset (autovacuum_enabled)"
        )


def _other_than(patient: Patient, wanted: dict[str, set[str]]) -> Iterator[Fault]:
    query = "select name, setting, source from pg_settings where name = any (%s) order by name"
    for row in patient.rows(query, [list(wanted)]):
        name = row["name"]
        if row["setting"] not in wanted[name]:
            yield Fault(
                f"{name} is {row['setting']} (set by: {row['source']})",
                f"alter system set {name} = on; select pg_reload_conf()",
            )


def _loosened(patient: Patient) -> Iterator[Fault]:
    """Where a role or a database has less than the server."""
    found = patient.rows(
        "select coalesce(r.rolname, 'every role') as role, o.option_name as name,"
        " o.option_value as value"
        " from pg_db_role_setting s"
        " cross join lateral pg_options_to_table(s.setconfig) o"
        " left join pg_roles r on r.oid = s.setrole"
        " left join pg_database d on d.oid = s.setdatabase"
        " where o.option_name = 'synchronous_commit' and o.option_value in ('off', 'false', '0')"
        " and (s.setdatabase = 0 or d.datname = current_database())"
    )
    for row in found:
        yield Fault(
            f"{row['name']} is {row['value']} for {row['role']}",
            f"alter role or alter database … reset {row['name']}",
        )


CHECKS: Final = (
    Check("durability", "a crash loses what was committed, or the whole database", durability),
    Check("autovacuum", "tables and indexes grow without end, and queries slow down", autovacuum),
)
