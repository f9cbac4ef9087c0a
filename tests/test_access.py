"""Whose rows one sees is the database's decision: each check, and a twin that breaks it.

Every check runs as ``app_user``, the role of a service for people, after that role was seen to
be no superuser, to have no BYPASSRLS, to own nothing and to be a member of nothing. It returns
what it found wrong; its twins break the control in a database of their own and must make it
find something.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import psycopg
import pytest

import role_table
from acting import ROLES, Person, acting, by_key, join
from conftest import Postgres, TestDatabase
from negspace import access, keys, sessions, users
from negspace import database as db
from negspace.database import Actor, Connection, Database, Jsonb, PoolSize, sql
from negspace.errors import AccessError, NotFoundError, RefusedError
from role_table import TABLE, VERBS, whose
from schema_rows import complete

WHO = """
    select r.rolsuper, r.rolbypassrls, r.rolcreaterole, r.rolcreatedb, r.rolreplication,
           exists (select from pg_shdepend d where d.refobjid = r.oid and d.deptype = 'o') as owns,
           exists (select from pg_auth_members m where m.member = r.oid) as member,
           pg_has_role('operator_role', 'usage') as operator
    from pg_roles r where r.rolname = current_user"""


@dataclass(frozen=True)
class Ground:
    """A database with two accounts of each role."""

    database: TestDatabase
    one: dict[str, Person]
    other: dict[str, Person]
    major: int

    @cached_property
    def web(self) -> str:
        """Where app_user logs in, which is nobody special."""
        with db.connect(self.database.web) as connection:
            row = db.only(connection, WHO)
        assert row is not None
        assert not any(row.values()), row
        return self.database.web


def ground(database: TestDatabase, postgres: Postgres) -> Ground:
    with db.connect(database.owner) as owner:
        one, other = ({role: join(owner, role) for role in ROLES} for _ in range(2))
    return Ground(database, one, other, postgres.major)


@pytest.fixture(scope="module")
def here(schema: TestDatabase, postgres: Postgres) -> Ground:
    return ground(schema, postgres)


@pytest.fixture
def broken(database: TestDatabase, postgres: Postgres) -> Ground:
    return ground(database, postgres)


def count(connection: Connection, query: str) -> int:
    row = db.only(connection, f"select count(*) as n from ({query}) q")  # pyright: ignore
    assert row is not None
    return row["n"]


# ── the tables of roles ──────────────────────────────────────────────────────────────────


def tried(connection: Connection, relation: str, verb: str, person: Person, owner_row: dict) -> int:
    """How many rows an act touched; 0 where it was refused."""
    name, number = sql.Identifier(relation), person.rows[relation]
    try:
        with connection.transaction():
            if verb == "read":
                query = sql.SQL("select id from {} where id = %s").format(name)
                return len(connection.execute(query, [number]).fetchall())
            if verb == "add":
                query = sql.SQL("insert into {} ({}) values ({})").format(
                    name,
                    sql.SQL(", ").join(map(sql.Identifier, owner_row)),
                    sql.SQL(", ").join(sql.Placeholder() * len(owner_row)),
                )
                values = [Jsonb(v) if isinstance(v, dict) else v for v in owner_row.values()]
                return connection.execute(query, values).rowcount
            if verb == "remove":
                query = sql.SQL("delete from {} where id = %s").format(name)
                return connection.execute(query, [number]).rowcount
            column = sql.Identifier(CHANGED[relation])
            query = sql.SQL("update {} set {} = {} where id = %s").format(name, column, column)
            return connection.execute(query, [number]).rowcount
    except psycopg.errors.InsufficientPrivilege:
        return 0


CHANGED = {
    "images": "metadata",
    "analysis_results": "notes",
    "processing_queue": "priority",
    "analysis_cache": "hit_count",
    "users": "full_name",
    "api_keys": "name",
    "sessions": "ended_at",
    "security_audit": "error_message",
    "audit_log_details": "event_name",
}


UNOWNED = {"users", "analysis_cache", "audit_log_details"}  # no user_id, and nobody adds to them


def new_row(owner: Connection, relation: str, person: Person) -> dict:
    """What would be added for a person, from nothing that the person would have to see."""
    given: dict[str, object] = {} if relation in UNOWNED else {"user_id": person.id}
    if relation in {"analysis_results", "processing_queue"}:
        given["image_id"] = person.rows["images"]
        given["algorithm_version"] = "2.0.0"
    row = complete(owner, relation, **given)
    owner.rollback()
    return row


def roles_differ(found: Ground) -> list[str]:
    with db.connect(found.database.owner) as owner:
        return list(differences(found, owner))


def differences(found: Ground, owner: Connection) -> Iterator[str]:
    for relation in TABLE:
        for role in role_table.ROLES:
            me = found.one.get(role)
            mine, others = me or found.one["analyst"], found.other["analyst"]
            rows = [new_row(owner, relation, person) for person in (mine, others)]
            with acting(found.web, me) as connection:
                for verb in VERBS:
                    may = whose(relation, verb, role)
                    expected = {"all": (1, 1), "own": (1, 0), "none": (0, 0)}[may]
                    for person, row, n in zip(
                        (others, mine), rows[::-1], expected[::-1], strict=True
                    ):
                        done = tried(connection, relation, verb, person, row)
                        if done != n:
                            whom = "own" if person is mine else "another's"
                            yield f"{role} {verb} {relation}, {whom}: {done}, not {n}"


def test_each_role_may_what_the_table_says(here: Ground) -> None:
    assert roles_differ(here) == []


def test_the_page_has_the_table() -> None:
    page = role_table.PAGE.read_text(encoding="utf-8")
    assert role_table.written(page) == page, "run python tests/role_table.py"


def test_the_pages_example_runs(database: TestDatabase, web: Database) -> None:
    (example,) = re.findall(
        r"^```python\n(.*?)^```", role_table.PAGE.read_text(encoding="utf-8"), re.M | re.S
    )
    (me,) = members(database, "analyst")
    names = {"database": web, "token": me.token}
    exec(example, names)
    assert names["found"] == [{"id": me.rows["images"], "original_filename": "void.png"}]


GRANTS = {"read": "select", "add": "insert", "change": "update", "remove": "delete"}
CATALOG = """
    select c.relrowsecurity and c.relforcerowsecurity as forced,
           has_table_privilege('app_user', c.oid, %(grant)s)
           or exists (select from pg_attribute a, aclexplode(a.attacl) g
                      where a.attrelid = c.oid and g.grantee = 'app_user'::regrole
                        and lower(g.privilege_type) = %(grant)s) as granted,
           exists (select from pg_policy p
                   where p.polrelid = c.oid and p.polcmd in ('*', %(command)s)
                     and 'app_user'::regrole = any (p.polroles)) as policy
    from pg_class c where c.oid = %(relation)s::regclass"""


def catalog_differs(found: Ground) -> list[str]:
    wrong = []
    with db.connect(found.web) as connection:
        for relation, verbs in TABLE.items():
            for verb, cells in verbs.items():
                given = {
                    "relation": f"public.{relation}",
                    "grant": GRANTS[verb],
                    "command": {"read": "r", "add": "a", "change": "w", "remove": "d"}[verb],
                }
                row = db.only(connection, CATALOG, given)
                assert row is not None
                anybody = any(cell != "none" for cell in cells)
                if not row["forced"]:
                    wrong.append(f"{relation}: row security is not forced")
                if anybody != (row["granted"] and row["policy"]) or row["granted"] > anybody:
                    wrong.append(f"{relation} {verb}: {row}")
    return wrong


def test_the_catalog_says_the_same(here: Ground) -> None:
    assert catalog_differs(here) == []


OPERATORS_ALONE = """
    select p.proname as name from pg_proc p
    where p.pronamespace = 'public'::regnamespace and p.prorettype <> 'trigger'::regtype
      and has_function_privilege('operator_role', p.oid, 'execute')
      and not has_function_privilege('app_user', p.oid, 'execute')
    union
    select c.relname from pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm')
      and has_table_privilege('operator_role', c.oid, 'select')
      and not has_table_privilege('app_user', c.oid, 'select')
      and not has_any_column_privilege('app_user', c.oid, 'select')"""


def operators_differ(found: Ground) -> list[str]:
    """What is the operator's alone is that of the table: nothing more, and nothing less."""
    said = {name for names in role_table.OPERATORS.values() for name in " ".join(names).split()}
    if found.major < 15:
        said |= set(VIEWS)
    with db.connect(found.web) as connection:
        is_so = {row["name"] for row in db.rows(connection, OPERATORS_ALONE)}
    return sorted(said ^ is_so)


def test_what_is_the_operators_alone(here: Ground) -> None:
    assert operators_differ(here) == []


# ── what else shows rows ─────────────────────────────────────────────────────────────────

# View → what tells whose row it is: the account, or its image where somebody else asked.
VIEWS = {
    "user_activity_summary": ("user_id", "users"),
    "audit_summary_by_user": ("user_id", "users"),
    "recent_audit_events": ("user_id", "users"),
    "duplicate_images_report": ("user_id", "users"),
    "image_analysis_status": ("image_id", "images"),
    "analysis_performance_summary": ("image_id", "images"),
}


def views_leak(found: Ground) -> list[str]:
    """No view shows more than its tables; on PostgreSQL 14 it shows nothing to a service."""
    wrong, me = [], found.one["analyst"]
    for view, (column, relation) in VIEWS.items():
        query = sql.SQL("select {} as whose from {}").format(
            sql.Identifier(column), sql.Identifier(view)
        )
        with acting(found.web, me) as connection:
            try:
                seen = {row["whose"] for row in connection.execute(query)}
            except psycopg.errors.InsufficientPrivilege:
                seen = set() if found.major < 15 else {None}
        if not seen <= {me.rows[relation]}:
            wrong.append(f"{view}: {seen}")
    return wrong


def partitions_leak(found: Ground) -> list[str]:
    parts = """
        select c.oid::regclass::text as name from pg_class c
        where c.relispartition and c.relkind in ('r', 'p')
          and (has_table_privilege(c.oid, 'select, insert, update, delete, truncate')
               or has_any_column_privilege(c.oid, 'select, insert, update'))"""
    with db.connect(found.web) as connection:
        assert count(connection, "select from pg_class where relispartition and relkind = 'r'") > 4
        return [row["name"] for row in db.rows(connection, parts)]


def copy_leaks(found: Ground) -> list[str]:
    wrong = []
    for query in (
        b"copy images (user_id) to stdout",
        b"copy (select user_id from images) to stdout",
        b"copy (select i.user_id from images i join processing_queue q on q.image_id = i.id)"
        b" to stdout",
    ):
        me = found.one["analyst"]
        with (
            acting(found.web, me) as connection,
            connection.cursor() as cursor,
            cursor.copy(query) as copy,
        ):
            seen = {int(bytes(line).decode()) for line in copy}
        if seen != {me.id}:
            wrong.append(f"{query.decode()}: {seen}")
    return wrong


def plans_leak(found: Ground) -> list[str]:
    """A plan that was prepared while another acted, in the same connection."""
    wrong = []
    one, other = found.one["analyst"], found.other["analyst"]
    with db.connect(found.web, autocommit=True) as connection:
        for mode in ("force_generic_plan", "force_custom_plan"):
            connection.execute(f"set plan_cache_mode = {mode}")
            connection.execute(f"prepare p_{mode} as select user_id from images")
            for person in (one, other, None):
                with connection.transaction():
                    if person:
                        connection.execute(*person.proof)
                    rows = db.rows(connection, f"execute p_{mode}")
                    seen = {row["user_id"] for row in rows}
                if seen != ({person.id} if person else set()):
                    wrong.append(f"{mode}: {seen} for {person and person.id}")
    return wrong


def cursors_leak(found: Ground) -> list[str]:
    """A cursor that was opened and not read while another acted, or nobody."""
    wrong = []
    one, other = found.one["analyst"], found.other["analyst"]
    with db.connect(found.web) as connection:
        connection.execute("declare early cursor for select user_id from images")
        connection.execute(*one.proof)
        connection.execute("declare later cursor for select user_id from images")
        try:
            with connection.transaction():
                connection.execute(*other.proof)
                wrong.append("two accounts act in one transaction")
        except psycopg.Error as error:
            if error.sqlstate != "NS006":
                wrong.append(str(error))
        for cursor in ("early", "later"):
            seen = {row["user_id"] for row in db.rows(connection, f"fetch all from {cursor}")}
            if not seen <= {one.id}:
                wrong.append(f"{cursor}: {seen}")
        connection.rollback()
    return wrong


LEAKY = """
    create function pg_temp.see(text) returns boolean language plpgsql cost 0.0000001 as $$
    begin
        raise notice '%', $1;
        return true;
    end $$"""


def planner_leaks(found: Ground) -> list[str]:
    """A cheap function of the reader's own sees no row before the policy does."""
    me, wrong = found.one["analyst"], []
    queries = {
        "images": "select from images where pg_temp.see(user_id::text)",
        "results": "select from analysis_results where pg_temp.see(image_id::text)",
        "joined": "select from images join users u on u.id = user_id and pg_temp.see(u.id::text)",
        "jobs": "select from processing_queue where pg_temp.see(image_id::text)",
    }
    allowed = {str(me.id), str(me.rows["images"])}
    for name, query in queries.items():
        told: list[str] = []
        with acting(found.web, me) as connection:
            connection.add_notice_handler(lambda d, told=told: told.append(d.message_primary))
            connection.execute(LEAKY)
            connection.execute(query)
        if not told or not set(told) <= allowed:
            wrong.append(f"{name}: {sorted(set(told) - allowed)}")
    return wrong


# Calls with somebody's number, and of what.
CALLS = {
    "read_results(%s, 'a look')": "images",
    "near_images(%s)": "images",
    "delete_image(%s)": "images",
    "archive_image(%s)": "images",
    "enqueue_own_jobs(array[%s::bigint])": "images",
    "cancel_own_jobs(array[%s::bigint])": "processing_queue",
    "retry_own_jobs(array[%s::bigint])": "processing_queue",
    "register_image(%s, 'a', 'a', 'a', 1, 'image/png', repeat('0', 64))": "users",
    "issue_account_token(%s, 'reset_password', repeat('0', 64), interval '1 hour')": "users",
    "change_password(%s, 'x')": "users",
    "end_sessions(%s)": "users",
    "unlock_account(%s)": "users",
    "enqueue_jobs(array[%s::bigint])": "images",
    "cancel_jobs(array[%s::bigint])": "processing_queue",
    "retry_jobs(array[%s::bigint])": "processing_queue",
    "set_image_hashes(%s, null, null, null)": "images",
}


def functions_leak(found: Ground) -> list[str]:
    """What can be called with another's numbers says no more of them than of nobody's."""
    wrong, me, other = [], found.one["analyst"], found.other["analyst"]
    for call, relation in CALLS.items():
        told: list[str] = []
        for number in (other.rows[relation], 1 << 40):
            with acting(found.web, me) as connection:
                try:
                    told.append(str(db.rows(connection, f"select {call}", [number])))
                except psycopg.Error as error:
                    words = f"{error.diag.message_primary} ({error.diag.message_hint})"
                    told.append(f"{error.sqlstate} {words}".replace(str(number), "N"))
        if told[0] != told[1] or (
            "[]" not in told[0] and not told[0].startswith(("NS003", "42501"))
        ):
            wrong.append(f"{call}: {told}")
    return wrong


FINDINGS = (
    "select negative_space_data from analysis_results",
    "select anomalies from analysis_results",
    "select quality_metrics, provenance from analysis_results",
    "select r from analysis_results r",
    "select to_jsonb(r) from analysis_results r",
    "select from analysis_results where negative_space_data @> '{}'",
    "update analysis_results set notes = notes returning anomalies",
    "update analysis_results set notes = negative_space_data::text",
    "table analysis_results",
)


def findings_leak(found: Ground) -> list[str]:
    """What an analysis found is shown by read_results() alone, with an event that says why."""
    wrong, me = [], found.one["analyst"]
    with acting(found.web, me) as connection:
        for statement in FINDINGS:
            try:
                with connection.transaction():
                    connection.execute(statement)
                wrong.append(statement)
            except psycopg.errors.InsufficientPrivilege:
                pass
        shown = db.rows(connection, "select * from read_results(%s, 'why')", [me.rows["images"]])
        event = db.rows(
            connection,
            "select a.user_id, d.event_description from security_audit a"
            " join audit_log_details d on d.audit_id = a.id where a.action = 'view_results'",
        )
        if len(shown) != 1 or event != [{"user_id": me.id, "event_description": "why"}]:
            wrong.append(f"{len(shown)} results, {event}")
    return wrong


def details_forged(found: Ground) -> list[str]:
    """Details of an event come with it: of another's, or an older one, as of one that isn't."""
    wrong, me, other = [], found.one["analyst"], found.other["analyst"]
    add_to = "select record_event_details(%s, 'made up')"
    for what, person, event in (
        ("another's event", me, other.rows["security_audit"]),
        ("an event of before", me, me.rows["security_audit"]),
        ("as nobody", None, me.rows["security_audit"]),
        ("none", me, 1 << 40),
    ):
        with acting(found.web, person) as connection:
            try:
                db.rows(connection, add_to, [event])
                wrong.append(what)
            except psycopg.errors.ForeignKeyViolation:
                pass
    with acting(found.web, me) as connection:
        own = db.rows(connection, "select record_event('config_change', 'x') as id")[0]["id"]
        if not db.rows(connection, add_to, [own]):
            wrong.append("none of one's own")
    return wrong


STATED = """
    select array_agg(distinct tablename::text order by tablename::text) as names from (
        select tablename from pg_stats union all select tablename from pg_stats_ext
        union all select tablename from pg_stats_ext_exprs) s
    where exists (select from pg_class c
                  where c.oid = to_regclass('public.' || quote_ident(tablename))
                    and (c.relname = any (%s) or c.relispartition or c.relkind = 'i'))"""
COUNTED = {"api_keys_id_seq", "audit_seals_seen"}  # to draw a key's number; the trail's tail
SERVERS_OWN = ("pg_statistic", "pg_statistic_ext_data")


def statistics_leak(found: Ground) -> list[str]:
    """What the planner knows of values is hidden where rows are."""
    with db.connect(found.database.superuser, autocommit=True) as superuser:
        superuser.execute("analyze images, users, security_audit")
        row = db.only(superuser, STATED, [list(TABLE)])
        assert row is not None
        assert {"images", "users"} <= set(row["names"])
    wrong = []
    with acting(found.web, found.one["analyst"]) as connection:
        row = db.only(connection, STATED, [list(TABLE)])
        wrong += row["names"] or [] if row else []
        for name in SERVERS_OWN:
            try:
                with connection.transaction():
                    count(connection, f"select from {name}")
                wrong.append(name)
            except psycopg.errors.InsufficientPrivilege:
                pass
        counted = "select sequencename as name from pg_sequences where last_value is not null"
        wrong += {row["name"] for row in db.rows(connection, counted)} - COUNTED
    return wrong


def errors_tell(found: Ground) -> list[str]:
    """What fails on a row, and says the row's values, never comes to a row of another."""
    wrong = []
    for query in (
        "select from images where (original_filename || '!')::integer = 0",
        "select from users where email::inet = '::1'",
        "select from images where 1 / (file_size - file_size) = 1",
        "select from images i join users u on (u.email || i.id)::boolean",
        "select from analysis_results where algorithm_version::integer = 0",
        "select from processing_queue order by (algorithm_name || id)::integer",
    ):
        with acting(found.web, None) as connection:
            try:
                connection.execute(query)
            except psycopg.errors.DataError as error:
                wrong.append(f"{query}: {error}")
    return wrong


def scopes_escalate(found: Ground) -> list[str]:
    """Nobody gives himself a role, a key of another, or more than the role has."""
    wrong, me, admin = [], found.one["analyst"], found.one["admin"]
    for statement in (
        f"update users set role = 'admin' where id = {me.id}",
        f"update users set password_hash = password_hash where id = {me.id}",
        f"update api_keys set key_hash = repeat('0', 64) where user_id = {me.id}",
        f"update api_keys set user_id = {admin.id} where user_id = {me.id}",
        f"update api_keys set scopes = '[\"manage:accounts\"]' where user_id = {me.id}",
        f"update images set user_id = {admin.id} where user_id = {me.id}",
        f"insert into api_keys (user_id, key_hash, name) values ({admin.id}, repeat('0', 64), 'x')",
        "select password_hash from users",
        "select key_hash from api_keys",
        "select token_hash from sessions",
        "select finish_login('a@example.org', null)",
        "select from claim_jobs('w')",
        "select from account_tokens",
        "select from login_attempts",
        "select from api_key_limits",
    ):
        with acting(found.web, me) as connection:
            try:
                done = connection.execute(statement).rowcount
                wrong.append(f"{statement}: {done} rows")
            except psycopg.Error as error:
                if error.sqlstate not in {"42501", "NS004"}:
                    wrong.append(f"{statement}: {error}")
    return wrong


OWNED = """
    select c.relname as name from pg_class c join pg_attribute a on a.attrelid = c.oid
    where c.relkind in ('r', 'p') and not c.relispartition
      and c.relnamespace = 'public'::regnamespace
      and a.attname in ('user_id', 'image_id', 'account_hash') and not a.attisdropped
      and not (c.relrowsecurity and c.relforcerowsecurity
               and exists (select from pg_policy p where p.polrelid = c.oid))
      and (has_table_privilege(c.oid, 'select, insert, update, delete, truncate')
           or has_any_column_privilege(c.oid, 'select, insert, update'))"""


def owned_rows_are_open(found: Ground) -> list[str]:
    """Whatever names an account or an image has forced policies, or no rights for services."""
    with db.connect(found.web) as connection:
        return [row["name"] for row in db.rows(connection, OWNED)]


CHECKS: dict[str, Callable[[Ground], list[str]]] = {
    check.__name__: check
    for check in (
        roles_differ,
        catalog_differs,
        operators_differ,
        views_leak,
        partitions_leak,
        copy_leaks,
        plans_leak,
        cursors_leak,
        planner_leaks,
        functions_leak,
        findings_leak,
        details_forged,
        errors_tell,
        statistics_leak,
        scopes_escalate,
        owned_rows_are_open,
    )
}


CALLED_WITH_NUMBERS = """
    select distinct p.proname as name from pg_proc p
    where p.pronamespace = 'public'::regnamespace and p.provolatile <> 'i'
      and p.proargtypes::regtype[]::text[] && '{bigint,bigint[]}'
      and has_function_privilege('app_user', p.oid, 'execute')"""
# Of keys: check 15. Who acts and details: what is recorded is who is proven, details_forged.
# The sums read as their caller, from one event's number to another's.
TRIED_ELSEWHERE = {
    "act_with_key",
    "verify_api_key",
    "record_event",
    "record_event_details",
    "audit_sums",
}


def test_every_function_that_takes_a_number_is_tried_with_anothers(here: Ground) -> None:
    with db.connect(here.web) as connection:
        there = {row["name"] for row in db.rows(connection, CALLED_WITH_NUMBERS)}
    assert len(there) > 10
    assert there <= {call.partition("(")[0] for call in CALLS} | TRIED_ELSEWHERE


@pytest.mark.parametrize("check", [name for name in CHECKS if "differ" not in name])
def test_nothing_else_shows_rows(here: Ground, check: str) -> None:
    assert CHECKS[check](here) == []


OPEN = "create policy images_open on images for select to app_user using (true)"
ANYBODYS = """do $$ begin
    execute replace(pg_get_functiondef('read_results'::regproc),
                    'public.is_trusted_session()', 'true');
end $$"""
ANY_EVENT = """do $$ begin
    execute replace(pg_get_functiondef('find_audit_timestamp'::regproc),
                    'and public.is_trusted_session()', '');
end $$"""
TWINS: list[tuple[str, str]] = [
    ("roles_differ", OPEN),
    ("roles_differ", "alter table images disable row level security"),
    (
        "roles_differ",
        "grant insert on analysis_results to app_user; "
        "create policy r on analysis_results for insert to app_user with check (true)",
    ),
    ("roles_differ", "drop policy analysis_results_change on analysis_results"),
    ("catalog_differs", "alter table images no force row level security"),
    ("catalog_differs", "grant delete on processing_queue to app_user"),
    ("catalog_differs", "drop policy images_add on images"),
    ("operators_differ", "grant execute on function near_images to app_user"),
    ("operators_differ", "grant select on workers to app_user"),
    ("operators_differ", "revoke execute on function claim_jobs from operator_role"),
    ("partitions_leak", "grant select on processing_queue_hot to app_user"),
    ("copy_leaks", OPEN),
    ("plans_leak", OPEN),
    ("cursors_leak", OPEN),
    ("planner_leaks", "alter table processing_queue disable row level security"),
    ("planner_leaks", OPEN),
    ("functions_leak", ANYBODYS),
    ("findings_leak", "grant select on analysis_results to app_user"),
    ("findings_leak", "grant select (anomalies) on analysis_results to app_user"),
    ("functions_leak", "grant execute on function cancel_jobs(bigint[], text) to app_user"),
    ("functions_leak", "grant execute on function end_sessions(bigint, bigint) to app_user"),
    ("details_forged", ANY_EVENT),
    ("errors_tell", OPEN),
    ("errors_tell", "alter table users disable row level security"),
    ("statistics_leak", "alter table images disable row level security"),
    ("statistics_leak", "grant select on security_audit_id_seq to app_user"),
    ("scopes_escalate", "grant update (role) on users to app_user"),
    ("scopes_escalate", "grant select (key_hash) on api_keys to app_user"),
    ("scopes_escalate", "grant execute on function claim_jobs to app_user"),
    ("owned_rows_are_open", "alter table sessions no force row level security"),
    ("owned_rows_are_open", "grant select on account_tokens to app_user"),
]
VIEW_TWINS = {
    True: "alter view image_analysis_status set (security_invoker = false)",
    False: "grant select on image_analysis_status to app_user",
}


@pytest.mark.parametrize(("check", "change"), TWINS)
def test_a_broken_control_is_found(broken: Ground, check: str, change: str) -> None:
    with db.connect(broken.database.owner) as owner:
        owner.execute(change.encode())
    assert CHECKS[check](broken) != []


def test_every_check_has_a_twin_and_is_on_the_page() -> None:
    page = (role_table.PAGE.parent / "checks.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\[(\w+)\]`", page)) == set(CHECKS)
    assert {check for check, _ in TWINS} | {"views_leak"} == set(CHECKS)


def test_a_view_that_shows_all_is_found(broken: Ground) -> None:
    with db.connect(broken.database.owner) as owner:
        owner.execute(VIEW_TWINS[broken.major >= 15].encode())
    assert views_leak(broken) != []


def test_every_view_is_guarded_or_the_operators_alone(here: Ground) -> None:
    found = """
        select c.relname as name from pg_class c
        where c.relkind in ('v', 'm') and c.relnamespace = 'public'::regnamespace
          and has_table_privilege('app_user', c.oid, 'select')
          and not coalesce('security_invoker=true' = any (c.reloptions), false)"""
    with db.connect(here.web) as connection:
        assert db.rows(connection, found) == [], "select guard_views() after a view is made anew"


def test_a_plan_tells_that_a_row_is_there_as_the_page_says(here: Ground) -> None:
    """What no control of the database prevents: who sends SQL sees what a policy kept back."""
    other = here.other["analyst"]
    kept = []
    for number in (other.rows["images"], 1 << 40):
        query = sql.SQL("select from images where id = {}").format(sql.Literal(number))
        with acting(here.web, here.one["analyst"]) as connection:
            assert connection.execute(query).rowcount == 0
            plan = sql.SQL("explain (analyze, format json) ") + query
            (row,) = connection.execute(plan).fetchall()
        kept.append(row["QUERY PLAN"][0]["Plan"].get("Rows Removed by Filter", 0))
    assert kept == [1, 0]


# ── who acts ─────────────────────────────────────────────────────────────────────────────

CONTEXT = "select current_setting('negspace.acting', true) as said"


def images_seen(connection: Connection) -> set[int]:
    return {row["user_id"] for row in db.rows(connection, "select user_id from images")}


def said(connection: Connection) -> str:
    row = db.only(connection, CONTEXT)
    assert row is not None
    return row["said"] or ""


def state(connection: Connection, value: str, *, local: bool = True) -> None:
    connection.execute("select set_config('negspace.acting', %s, %s)", [value, local])


def contexts_forged(found: Ground) -> list[str]:
    wrong = []
    me, admin = found.one["viewer"], found.one["admin"]

    def see(what: str, connection: Connection, allowed: set[int]) -> None:
        if not images_seen(connection) <= allowed:
            wrong.append(what)

    with db.connect(found.web) as connection:
        with connection.transaction():
            connection.execute(*me.proof)
            mine = said(connection)
            if images_seen(connection) != {me.id}:
                wrong.append("who acts sees nothing")
            state(connection, mine.replace("|viewer|", "|admin|"))
            see("another role in the same seal", connection, set())
            state(connection, mine.replace(f"{me.id}|", f"{admin.id}|", 1))
            see("another account in the same seal", connection, set())
            seal = mine[-64:]
            state(connection, f"{admin.id}|admin|1||read:images|{seal}")
            see("made up", connection, set())
            for odd in ("|", "x", seal, f"|{seal}", "1|admin|||read:images|", mine * 2, mine[1:]):
                state(connection, odd)
                see(f"odd: {odd}", connection, set())
        with connection.transaction():
            see("a connection that comes back", connection, set())
        state(connection, mine, local=False)
        connection.commit()
        with connection.transaction():
            see("replayed in a later transaction", connection, set())
        with connection.transaction():
            connection.execute("select set_config('negspace.user_id', %s, true)", [str(admin.id)])
            see("stated as the services state it", connection, set())
        for role in ("operator_role", "negspace_owner", "postgres"):
            for statement in ("set role {}", "set session authorization {}"):
                with connection.transaction(force_rollback=True):
                    try:
                        with connection.transaction():
                            connection.execute(sql.SQL(statement).format(sql.Identifier(role)))
                        see(f"set role {role}", connection, set())
                    except psycopg.errors.InsufficientPrivilege:
                        pass
    with db.connect(found.web) as first, db.connect(found.web) as second:
        first.execute(*me.proof)
        state(second, said(first))
        see("brought from another connection", second, set())
    return wrong


def test_who_acts_cannot_be_forged(here: Ground) -> None:
    assert contexts_forged(here) == []


SEAL = """
    create or replace function public.context_seal(said text) returns text language sql stable
    set search_path = pg_catalog, public, pg_temp as $$ select {} $$"""
SEALS = {
    "not checked": "coalesce(right(current_setting('negspace.acting', true), 64), repeat('0', 64))",
    "without the transaction": "encode(sha256(convert_to(said, 'UTF8')), 'hex')",
}


@pytest.mark.parametrize("change", SEALS)
def test_a_seal_that_holds_nothing_is_found(broken: Ground, change: str) -> None:
    with db.connect(broken.database.owner) as owner:
        owner.execute(SEAL.format(SEALS[change]).encode())
    assert contexts_forged(broken) != []


def test_the_checks_refuse_to_run_as_somebody_special(broken: Ground) -> None:
    special = Ground(
        TestDatabase("", "", broken.database.app, broken.database.app, ""), {}, {}, broken.major
    )
    with pytest.raises(AssertionError):
        _ = special.web


def test_nobody_but_the_owner_reads_the_key_or_seals(here: Ground) -> None:
    for address in (here.web, here.database.app):
        with db.connect(address) as connection:
            for statement in (
                "select from context_secret",
                "select context_seal('1|admin|1||read:images')",
                "select renew_context_secret()",
                "select state_acting(1, 'admin', 1, null, '{read:images}')",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
                    connection.execute(statement)


def test_a_new_key_ends_what_is_under_way_and_serves_what_comes(database: TestDatabase) -> None:
    with db.connect(database.owner) as owner:
        me = join(owner, "analyst")
    with db.connect(database.web) as connection:
        connection.execute(*me.proof)
        assert images_seen(connection) == {me.id}
        with db.connect(database.owner) as owner:
            owner.execute("select renew_context_secret()")
        assert images_seen(connection) == set()
        connection.commit()
        connection.execute(*me.proof)
        assert images_seen(connection) == {me.id}
        connection.commit()
        with db.connect(database.owner) as owner:
            owner.execute("delete from context_secret")
        with pytest.raises(psycopg.Error, match="key under the seal") as refused:
            connection.execute(*me.proof)
        assert refused.value.sqlstate == "NS006"


def test_a_rolled_back_savepoint_takes_who_acts_along(here: Ground) -> None:
    me = here.one["analyst"]
    with db.connect(here.web) as connection:
        with connection.transaction(force_rollback=True):
            connection.execute(*me.proof)
            assert images_seen(connection) == {me.id}
        assert images_seen(connection) == set()


def test_it_works_in_a_read_only_transaction_whatever_the_settings(here: Ground) -> None:
    me = here.one["analyst"]
    with db.connect(here.web) as connection:
        connection.execute("set transaction read only")
        connection.execute(*me.proof)
        connection.execute("set local timezone = 'Pacific/Auckland'")
        connection.execute("set local datestyle = 'SQL, DMY'")
        connection.execute("set local intervalstyle = 'iso_8601'")
        assert images_seen(connection) == {me.id}


def test_parallel_plans_show_the_same(here: Ground) -> None:
    me = here.one["analyst"]
    name = "debug_parallel_query" if here.major >= 16 else "force_parallel_mode"
    with acting(here.web, me) as connection:
        connection.execute(sql.SQL("set local {} = on").format(sql.Identifier(name)))
        connection.execute("set local parallel_setup_cost = 0")
        connection.execute("set local min_parallel_table_scan_size = 0")
        assert images_seen(connection) == {me.id}


# ── sessions and keys ────────────────────────────────────────────────────────────────────


@pytest.fixture
def web(database: TestDatabase) -> Iterator[Database]:
    """That database as a service for people opens it."""
    with Database(database.web, pool=PoolSize(1, 1)) as opened:
        yield opened


def members(database: TestDatabase, *roles: str) -> list[Person]:
    with db.connect(database.owner) as owner:
        return [join(owner, role) for role in roles]


def count_images(view: Database) -> int:
    with view.transaction(read_only=True) as connection:
        return count(connection, "select from images")


def test_a_session_shows_what_its_account_may_see_and_the_pool_brings_nothing_back(
    database: TestDatabase, web: Database, services: Database
) -> None:
    me, other = members(database, "analyst", "analyst")
    mine = access.with_session(web, me.token)
    assert access.who(mine) == access.Acting(
        me.id, "analyst", me.rows["sessions"], None,
        ["read:images", "write:images", "read:results", "run:analyses", "read:metrics",
         "read:account", "write:account"],
    )  # fmt: skip
    assert count_images(mine) == 1
    assert count_images(web) == 0  # the pool's one connection
    assert access.who(web) is None
    assert count_images(access.with_session(web, other.token)) == 1
    assert count_images(services) == 2
    sessions.logout(services, me.token)
    with pytest.raises(AccessError, match="no such session"):
        count_images(mine)
    for wrong in ("", "x", me.token + "x"):
        with pytest.raises(AccessError, match="no such session"):
            access.who(access.with_session(web, wrong))


def test_an_account_that_is_switched_off_acts_no_more(
    database: TestDatabase, web: Database, services: Database
) -> None:
    (me,) = members(database, "analyst")
    users.set_active(services, me.id, False)
    for view in (access.with_session(web, me.token), access.with_key(web, me.key)):
        with pytest.raises(AccessError):
            access.who(view)


def test_a_key_reaches_as_far_as_its_scopes(
    database: TestDatabase, web: Database, services: Database
) -> None:
    (me,) = members(database, "analyst")
    made = keys.create(services, me.id, "images", scopes=["read:images"]).text.reveal()
    view = access.with_key(web, made)
    assert count_images(view) == 1
    with view.transaction() as connection:
        assert count(connection, "select from analysis_results") == 0
        assert connection.execute("update images set metadata = metadata").rowcount == 0
    with pytest.raises(AccessError):
        access.who(access.with_key(web, made, scope="read:results"))
    with pytest.raises(NotFoundError), view.transaction() as connection:
        connection.execute("select from read_results(%s, 'why')", [me.rows["images"]])
    users.set_role(services, me.id, "viewer")
    wide = access.who(access.with_key(web, me.key))
    assert wide is not None
    assert sorted(wide.scopes) == ["read:images", "read:results"]  # never beyond the role


def test_a_key_that_may_not_be_used_is_refused(
    database: TestDatabase, web: Database, services: Database
) -> None:
    (me,) = members(database, "analyst")
    bound = keys.create(services, me.id, "bound", networks=["192.0.2.0/24"]).text.reveal()
    there = web.acting_as(Actor(ip_address="::ffff:192.0.2.7"))
    assert access.who(access.with_key(there, bound)) is not None
    elsewhere = web.acting_as(Actor(ip_address="203.0.113.1"))
    for view, text in ((web, bound), (elsewhere, bound)):
        with pytest.raises(AccessError, match="may not be used"):
            access.who(access.with_key(view, text))
    revoked = keys.create(services, me.id, "revoked")
    keys.revoke(services, revoked.key.id)
    wrong = me.key[:10] + ("0" if me.key[10] != "0" else "1") + me.key[11:]
    for text in (revoked.text.reveal(), wrong, "nsk_1_short"):
        with pytest.raises(AccessError, match="may not be used"):
            access.who(access.with_key(web, text))


def test_what_is_recorded_is_who_is_proven(
    database: TestDatabase, web: Database, services: Database
) -> None:
    me, other = members(database, "analyst", "analyst")
    stated = web.acting_as(Actor(user_id=other.id, ip_address="192.0.2.9"))
    with access.with_session(stated, me.token).transaction() as connection:
        connection.execute("select record_event('config_change', 'proven')")
        connection.execute("select set_config('negspace.user_id', %s, true)", [str(other.id)])
        connection.execute("select record_event('config_change', 'forged')")
    with stated.transaction() as connection:
        connection.execute("select record_event('config_change', 'stated')")
    found = (
        "select resource_type, user_id from security_audit"
        " where resource_type in ('proven', 'forged', 'stated')"
    )
    with services.transaction() as connection:
        events = {row["resource_type"]: row["user_id"] for row in db.rows(connection, found)}
    assert events == {"proven": me.id, "forged": me.id, "stated": None}
    with services.acting_as(Actor(user_id=other.id)).transaction() as connection:
        connection.execute("select record_event('config_change', 'operator')")
        row = db.only(connection, "select user_id from audit_context()")
    assert row == {"user_id": other.id}


def test_an_image_lives_in_its_owners_hands(
    database: TestDatabase, web: Database, services: Database
) -> None:
    """Taken in, looked at, archived and removed by a person; not by another."""
    me, other = members(database, "analyst", "analyst")
    mine, others = access.with_session(web, me.token), access.with_session(web, other.token)
    register = "select id from register_image(%s, 'a.png', 'a.png', 'aa/a.png', 9, 'image/png', %s)"
    with mine.transaction() as connection:
        first = db.rows(connection, register, [me.id, "ab" * 32])[0]["id"]
        again = db.rows(connection, register, [me.id, "ab" * 32])[0]["id"]
        found = db.only(connection, "select duplicate_of from images where id = %s", [again])
        assert found == {"duplicate_of": first}
    with others.transaction() as connection:  # the same bytes tell nothing of each other
        theirs = db.rows(connection, register, [other.id, "ab" * 32])[0]["id"]
        found = db.only(connection, "select duplicate_of from images where id = %s", [theirs])
        assert found == {"duplicate_of": None}
    for act in ("delete_image", "archive_image", "near_images"):
        told = []
        for number in (first, 1 << 40):  # another's, and nobody's
            try:
                with others.transaction() as connection:
                    query = sql.SQL("select {}(%s)").format(sql.Identifier(act))
                    told.append(db.rows(connection, query, [number]))
            except Exception as error:
                told.append(str(error).replace(str(number), "N"))
        assert told[0] == told[1], act
    with mine.transaction() as connection:
        assert db.rows(connection, "select delete_image(%s) as path", [first]) == [{"path": None}]
    for number in (other.id, 1 << 40):  # for another as for nobody
        with pytest.raises(NotFoundError), mine.transaction() as connection:
            connection.execute(register, [number, "cd" * 32])


def test_one_transaction_acts_for_one_account(
    database: TestDatabase, web: Database, services: Database
) -> None:
    me, other = members(database, "analyst", "viewer")
    with access.with_session(web, me.token).transaction() as connection:
        connection.execute(*by_key(me.key))  # the same account, with less
        with pytest.raises(psycopg.Error) as refused, connection.transaction():
            connection.execute(*other.proof)
        assert refused.value.sqlstate == "NS006"
    with pytest.raises(RefusedError), access.with_session(web, me.token).transaction() as again:
        again.execute(*other.proof)
