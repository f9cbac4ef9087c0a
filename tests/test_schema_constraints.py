"""Each constraint refuses what it should, alone; driven from the catalog, so none is left out."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest

from negspace import database
from negspace.database import sql
from schema_cases import CHECKS, FOREIGN_KEYS
from schema_rows import TABLES, add, complete, insert
from schema_specification import COLUMNS, DEFAULTS, ENUMS, NOW, VIEWS
from schema_unique import UNIQUE

CONSTRAINTS = """
    select c.conname as name, c.conrelid::regclass::text as relation, c.contype::text as kind,
           c.confdeltype::text as on_delete
    from pg_constraint c join pg_class r on r.oid = c.conrelid
    where c.connamespace = 'public'::regnamespace and not r.relispartition
      and c.contype in ('c', 'f') and c.conparentid = 0"""


def constraints(connection, kind):
    return {
        row["name"]: row for row in database.rows(connection, CONSTRAINTS) if row["kind"] == kind
    }


def resolved(connection, table, columns):
    row = complete(connection, table, **{k: v for k, v in columns.items() if not callable(v)})
    return row | {k: v(connection, row) for k, v in columns.items() if callable(v)}


# ── checks and foreign keys ──────────────────────────────────────────────────────────────


def test_every_check_has_a_case(owner):
    assert set(constraints(owner, "c")) == set(CHECKS)


def test_every_foreign_key_has_a_case(owner):
    assert set(constraints(owner, "f")) == set(FOREIGN_KEYS)


@pytest.mark.parametrize("name", [*CHECKS, *FOREIGN_KEYS])
def test_refuses(owner, name):
    case = (CHECKS | FOREIGN_KEYS)[name]
    owner.execute(case.before)
    rows = [resolved(owner, case.table, columns) for columns in case.refused]
    for row in rows:
        with pytest.raises(psycopg.IntegrityError) as caught, owner.transaction():
            insert(owner, case.table, row)
        assert caught.value.diag.constraint_name == name, row
    # Without it each of them is taken: nothing else refused it.
    drop = sql.SQL("alter table {} drop constraint {}")
    owner.execute(drop.format(sql.Identifier(case.table), sql.Identifier(name)))
    for row in rows:
        with owner.transaction(force_rollback=True):
            insert(owner, case.table, row)


@pytest.mark.parametrize("name", [*CHECKS, *FOREIGN_KEYS])
def test_accepts_the_neighbour(owner, name):
    case = (CHECKS | FOREIGN_KEYS)[name]
    for columns in case.accepted:
        with owner.transaction(force_rollback=True):
            insert(owner, case.table, resolved(owner, case.table, columns))


def test_details_of_no_event_are_refused_with_a_hint(owner):
    with pytest.raises(psycopg.IntegrityError) as caught:
        add(owner, "audit_log_details", audit_id=-1)
    said = caught.value.diag
    assert said.constraint_name == "audit_log_details_audit_id_fkey"
    assert said.message_primary == "there is no audit event -1"
    assert said.message_hint


# ── what goes with what ──────────────────────────────────────────────────────────────────


def test_foreign_keys_cascade(owner):
    on_delete = {name: row["on_delete"] for name, row in constraints(owner, "f").items()}
    assert on_delete.pop("images_duplicate_of_fkey") == "a"  # delete_image finds an heir
    assert set(on_delete.values()) == {"c"}


def test_a_removed_account_takes_everything_along_but_the_audit_trail(owner):
    user = add(owner, "users")["id"]
    image = add(owner, "images", user_id=user)["id"]
    add(owner, "images", user_id=user, is_duplicate=True, duplicate_of=image)
    result = add(owner, "analysis_results", user_id=user, image_id=image)["id"]
    add(owner, "analysis_cache", image_id=image, analysis_id=result)
    for status in ENUMS["queue_status"]:
        version = f"{len(status)}.0.{ENUMS['queue_status'].index(status)}"
        job = {"user_id": user, "image_id": image, "algorithm_version": version}
        add(owner, "processing_queue", status=status, **job)
    add(owner, "api_keys", user_id=user)
    event = add(owner, "security_audit", user_id=user)["id"]
    add(owner, "audit_log_details", audit_id=event)
    owner.execute("delete from users where id = %s", [user])
    for table in ("images", "analysis_results", "processing_queue", "api_keys"):
        count = sql.SQL("select count(*) as n from {} where user_id = %s")
        assert database.only(owner, count.format(sql.Identifier(table)), [user])["n"] == 0, table
    assert not database.rows(owner, "select from analysis_cache where image_id = %s", [image])
    assert database.rows(owner, "select from security_audit where id = %s", [event])
    assert database.rows(owner, "select from audit_log_details where audit_id = %s", [event])


# ── unique keys ──────────────────────────────────────────────────────────────────────────


def test_every_unique_key_has_a_case(owner):
    found = database.rows(
        owner,
        """
        select c.relname as name from pg_index i join pg_class c on c.oid = i.indexrelid
        where c.relnamespace = 'public'::regnamespace and i.indisunique
          and not c.relispartition""",
    )
    assert {row["name"] for row in found} == set(UNIQUE)


@pytest.mark.parametrize("name", UNIQUE)
def test_not_twice(owner, name):
    case = UNIQUE[name]
    first = add(owner, case.table, **case.shared)
    again = case.shared | {column: first[column] for column in case.own}
    again |= {"email": again["email"].lower()} if "email" in again else {}
    with pytest.raises(psycopg.errors.UniqueViolation) as caught, owner.transaction():
        add(owner, case.table, **again)
    # of a partitioned table the partition's key says it
    assert caught.value.diag.constraint_name.startswith(case.table)
    assert caught.value.diag.constraint_name.endswith(name.rsplit("_", 1)[1])
    differs = {k: v(owner) if callable(v) else v for k, v in case.differs.items()}
    add(owner, case.table, **(again | differs))


def test_one_hash_is_taken_again_as_a_duplicate_and_by_somebody_else(owner):
    first = add(owner, "images", file_hash="a" * 64)
    same = {"file_hash": "a" * 64, "is_duplicate": True, "duplicate_of": first["id"]}
    for _ in range(2):
        add(owner, "images", user_id=first["user_id"], **same)
    add(owner, "images", file_hash="a" * 64)


# ── columns, types, defaults ─────────────────────────────────────────────────────────────


def test_enum_values(owner):
    found = database.rows(
        owner,
        """
        select t.typname as name, array_agg(e.enumlabel::text order by e.enumsortorder) as labels
        from pg_enum e join pg_type t on t.oid = e.enumtypid group by t.typname""",
    )
    ours = {"duplicate_decision": ["undecided", "same", "different"]}
    assert {row["name"]: row["labels"] for row in found} == ENUMS | ours


@pytest.mark.parametrize("table", COLUMNS)
def test_specified_columns(owner, table):
    found = database.rows(
        owner,
        """
        select attname as name, format_type(atttypid, atttypmod) as type from pg_attribute
        where attrelid = %s::regclass and attnum > 0 and not attisdropped""",
        [table],
    )
    types = {row["name"]: row["type"] for row in found}
    assert {name: types.get(name) for name in COLUMNS[table]} == COLUMNS[table]


def test_specified_views(owner):
    found = database.rows(
        owner, "select viewname as name from pg_views where schemaname = 'public'"
    )
    assert {row["name"] for row in found} == VIEWS


@pytest.mark.parametrize("table", DEFAULTS)
def test_defaults(owner, table):
    now = database.only(owner, "select now()")["now"]
    row = add(owner, table)
    expected = {name: now if value is NOW else value for name, value in DEFAULTS[table].items()}
    assert {name: row[name] for name in expected} == expected


def test_the_cache_keeps_for_a_day(owner):
    entry = add(owner, "analysis_cache", cached_result={"a": "ü"})
    assert entry["expires_at"] - entry["created_at"] == timedelta(days=1)
    assert entry["size_bytes"] == len('{"a": "ü"}'.encode())


@pytest.mark.parametrize("table", TABLES)
def test_what_must_be_given_is(owner, table):
    # they would fill in audit_timestamp and recorded_in
    owner.execute("drop trigger audit_log_details_find_timestamp on audit_log_details")
    owner.execute("drop trigger audit_log_details_hash on audit_log_details")
    owner.execute("drop trigger security_audit_hash on security_audit")
    found = database.rows(
        owner,
        """
        select a.attname as name, coalesce(a.attnum = any (p.partattrs::int2[]), false) as key
        from pg_attribute a left join pg_partitioned_table p on p.partrelid = a.attrelid
        where a.attrelid = %s::regclass and a.attnum > 0 and a.attnotnull
          and a.attgenerated = '' and a.attidentity = ''""",
        [table],
    )
    assert found
    for column in found:
        row = complete(owner, table) | {column["name"]: None}
        with pytest.raises(psycopg.IntegrityError) as caught, owner.transaction():
            insert(owner, table, row)
        if column["key"]:  # no partition takes it
            assert isinstance(caught.value, psycopg.errors.CheckViolation)
        else:
            assert isinstance(caught.value, psycopg.errors.NotNullViolation)
            assert caught.value.diag.column_name == column["name"]
