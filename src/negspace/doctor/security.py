"""Checks of access: what the services' role may do, by the catalog and by trying it.

What is tried is rolled back, and touches no row even where it is allowed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, LiteralString

from negspace import database
from negspace.doctor.examining import Check, Fault, Patient, listed
from negspace.errors import RefusedError

__all__ = ["CHECKS"]

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
    " join pg_roles r on r.oid = m.member where r.rolname = %s order by 1"
)
_GUARDED: Final = ["security_audit", "audit_log_details", "audit_seals", "negspace_migrations"]
_REFUSED: Final = {"42501", "NS002", "NS006"}

# What the services' role must not be able to do.
_FORBIDDEN: Final[dict[str, bytes]] = {
    "change audit events": b"update public.security_audit set status = status where false",
    "remove audit events": b"delete from public.security_audit where false",
    "change jobs without the queue's functions": (
        b"update public.processing_queue set priority = priority where false"
    ),
    "make objects in the schema": b"create table public.negspace_doctor_probe ()",
    "read the roles' passwords": b"select rolpassword from pg_catalog.pg_authid limit 0",
    "read the server's files": b"select pg_catalog.pg_read_file('PG_VERSION')",
}


def role(patient: Patient) -> Iterator[Fault]:
    """The services' role is nobody special, and owns nothing."""
    name = database.libpq_environment(patient.services).get("PGUSER", "app_user")
    for row in patient.rows(_POWERS, [name]):
        powers = [power for power, has in row.items() if has]
        if powers:
            taken = " ".join(f"no{power}" for power in powers)
            yield Fault(f"{name} has {listed(powers)}", f'alter role "{name}" {taken}')
    owned = [row["name"] for row in patient.rows(_OWNED, [name])]
    if owned:
        yield Fault(
            f"{name} owns {listed(owned)}",
            f'as a superuser: reassign owned by "{name}" to negspace_owner',
        )
    for row in patient.rows(_MEMBER_OF, [name]):
        yield Fault(f"{name} is a member of {row['name']}", f'revoke "{row["name"]}" from "{name}"')


def row_security(patient: Patient) -> Iterator[Fault]:
    """Where rows have policies, these hold for the owner's functions too."""
    found = patient.rows(
        "select c.oid::regclass::text as name, c.relrowsecurity as is_on"
        " from pg_class c where c.relnamespace = 'public'::regnamespace"
        " and c.relkind in ('r', 'p') and not (c.relrowsecurity and c.relforcerowsecurity)"
        " and (c.relrowsecurity or exists (select from pg_policy p where p.polrelid = c.oid))"
        " order by 1"
    )
    for row in found:
        name, state = row["name"], "not forced" if row["is_on"] else "off, in spite of its policies"
        yield Fault(
            f"row security of {name} is {state}",
            f"alter table {name} enable row level security, force row level security",
        )


def functions(patient: Patient) -> Iterator[Fault]:
    """What runs as the owner has a fixed search path, and is not everybody's."""
    found = patient.rows(
        "select p.oid::regprocedure::text as name,"
        " coalesce(array_to_string(p.proconfig, ';') ~ 'search_path=.*pg_temp(;|$)', false)"
        "  as pinned,"
        " exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) g"
        "         where g.grantee = 0 and g.privilege_type = 'EXECUTE') as everybodys"
        " from pg_proc p where p.prosecdef and p.pronamespace = 'public'::regnamespace order by 1"
    )
    for row in found:
        name = row["name"]
        if not row["pinned"]:
            yield Fault(
                f"{name} runs as its owner and searches the caller's temporary objects",
                f"alter function {name} set search_path = pg_catalog, public, pg_temp",
            )
        if row["everybodys"]:
            yield Fault(
                f"{name} runs as its owner, and everybody may call it",
                f"revoke execute on function {name} from public",
            )


def guards(patient: Patient) -> Iterator[Fault]:
    """No trigger that guards the audit trail or the ledger is switched off."""
    found = patient.rows(
        "select t.tgname as name, t.tgrelid::regclass::text as relation"
        " from pg_trigger t join pg_class c on c.oid = t.tgrelid"
        " left join pg_inherits h on h.inhrelid = c.oid"
        " left join pg_class r on r.oid = h.inhparent"
        " where not t.tgisinternal and t.tgenabled in ('D', 'R')"
        " and c.relnamespace = 'public'::regnamespace"
        " and coalesce(r.relname, c.relname) = any (%s) order by 2, 1",
        [_GUARDED],
    )
    for row in found:
        yield Fault(
            f"the trigger {row['name']} of {row['relation']} is switched off",
            f"alter table {row['relation']} enable always trigger {row['name']}",
        )


def attempts(patient: Patient) -> Iterator[Fault]:
    """As the services: what must be refused is refused. Each try is rolled back."""
    with database.connect(patient.services, autocommit=True) as services:
        for what, statement in _FORBIDDEN.items():
            with services.transaction(force_rollback=True):
                services.execute("set local lock_timeout = '2s'")
                failure = database.attempt(services, statement)
            if failure is None:
                yield Fault(
                    f"the services can {what}", "negspace migrate drift, and revoke what it shows"
                )
            elif failure.sqlstate not in _REFUSED:
                raise RefusedError(f"couldn't try to {what}: {failure.message}")


CHECKS: Final = (
    Check("role", "whoever breaks into a service is held by nothing", role, "security"),
    Check(
        "row security", "rows are shown to people they don't belong to", row_security, "security"
    ),
    Check("functions", "a caller can make the owner run the caller's code", functions, "security"),
    Check("guards", "the trail can be changed and nobody sees it", guards, "security"),
    Check("attempts", "least privilege is not what the schema says", attempts, "security"),
)
