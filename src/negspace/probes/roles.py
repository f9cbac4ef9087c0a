"""Probes of the services' role: what it is, what it owns, what it may do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, LiteralString

from negspace import database
from negspace.errors import RefusedError
from negspace.probes.probing import Ground, Leak, Probe, listed

__all__ = ["PROBES"]

_POWERS: Final[LiteralString] = (
    "select r.rolsuper as superuser, r.rolbypassrls as bypassrls, r.rolcreaterole as createrole,"
    " r.rolcreatedb as createdb, r.rolreplication as replication"
    " from pg_roles r where r.rolname = %s"
)
_OWNED: Final[LiteralString] = (
    "select c.oid::regclass::text as name from pg_class c join pg_roles r on r.oid = c.relowner"
    " where r.rolname = %s and c.relnamespace = 'public'::regnamespace"
    " and c.relkind in ('r', 'p', 'v', 'm', 'f') order by 1"
)
_MEMBER_OF: Final[LiteralString] = (
    "select g.rolname as name from pg_auth_members m join pg_roles g on g.oid = m.roleid"
    " join pg_roles r on r.oid = m.member where r.rolname = %s"
    " and g.rolname <> 'app_user' order by 1"  # whose rights the operator has
)
_PARTITIONS: Final[LiteralString] = (
    "select distinct c.oid::regclass::text as name,"
    " case when g.grantee = 0 then 'public' else pg_get_userbyid(g.grantee) end as role"
    " from pg_class c"
    " cross join lateral (select c.relacl as acl union all"
    "  select a.attacl from pg_attribute a where a.attrelid = c.oid and a.attacl is not null) r"
    " cross join lateral aclexplode(r.acl) g"
    " where c.relispartition and c.relkind in ('r', 'p')"
    " and c.relnamespace = 'public'::regnamespace and g.grantee <> c.relowner"
    " order by 1, 2"
)
_REFUSED: Final = {"42501", "NS002", "NS006"}

# What the services' role must not be able to do.
_FORBIDDEN: Final[dict[str, bytes]] = {
    "change audit events": b"update public.security_audit set status = status where false",
    "remove audit events": b"delete from public.security_audit where false",
    "empty the audit trail's details": b"truncate public.audit_log_details",
    "remove seals": b"delete from public.audit_seals where false",
    "change the migrations' ledger": (
        b"update public.negspace_migrations set status = status where false"
    ),
    "change jobs without the queue's functions": (
        b"update public.processing_queue set priority = priority where false"
    ),
    "make objects in the schema": b"create table public.negspace_doctor_probe ()",
    "read the roles' passwords": b"select rolpassword from pg_catalog.pg_authid limit 0",
    "read the server's files": b"select pg_catalog.pg_read_file('PG_VERSION')",
}


def _role(ground: Ground) -> Iterator[Leak]:
    name = ground.role
    for row in ground.rows(_POWERS, [name]):
        powers = [power for power, has in row.items() if has]
        if powers:
            taken = " ".join(f"no{power}" for power in powers)
            yield Leak(f"{name} has {listed(powers)}", f'alter role "{name}" {taken}')
    owned = [row["name"] for row in ground.rows(_OWNED, [name])]
    if owned:
        yield Leak(f"{name} owns {listed(owned)}")
    for row in ground.rows(_MEMBER_OF, [name]):
        yield Leak(f"{name} is a member of {row['name']}", f'revoke "{row["name"]}" from "{name}"')


def _partitions(ground: Ground) -> Iterator[Leak]:
    for row in ground.rows(_PARTITIONS):
        name, role = row["name"], row["role"]
        whom = role if role == "public" else f'"{role}"'
        yield Leak(
            f"{role} has rights on the partition {name} itself", f"revoke all on {name} from {whom}"
        )


def _attempts(ground: Ground) -> Iterator[Leak]:
    with database.connect(ground.services, autocommit=True) as services:
        for what, statement in _FORBIDDEN.items():
            with services.transaction(force_rollback=True):
                services.execute("set local lock_timeout = '2s'")
                failure = database.attempt(services, statement)
            if failure is None:
                yield Leak(f"the services can {what}")
            elif failure.sqlstate not in _REFUSED:
                raise RefusedError(f"couldn't try to {what}: {failure.message}")


PROBES: Final = (
    Probe(
        "role",
        "The services' role is nobody special, and owns nothing.",
        "whoever breaks into a service is held by nothing",
        "as a superuser: reassign owned by the services' role to negspace_owner",
        _role,
    ),
    Probe(
        "partition rights",
        "Partitions are reached through their table alone.",
        "what guards the table, its policies first, is walked round",
        "revoke all on the partition from the services' role",
        _partitions,
    ),
    Probe(
        "attempts",
        "As the services: what must be refused is refused. Each try is rolled back.",
        "least privilege is not what the schema says",
        "negspace migrate drift, and revoke what it shows",
        _attempts,
    ),
)
