"""The audit trail sealed: what is hashed, what a seal holds, and that each row is in one."""

from __future__ import annotations

import itertools
import json
from datetime import timedelta

import psycopg
import pytest

from negspace import audit
from negspace import database as db
from negspace.audit import leaves, offline, seals
from negspace.database import sql
from negspace.errors import AccessError, InvalidInputError
from schema_rows import add
from tampering import master, seal_all, settle

# RFC 6962's own example, as the logs of Certificate Transparency test it.
INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657"]
INPUTS.append("606162636465666768696a6b6c6d6e6f")
ROOT = "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"

HOSTILE = "a\nb=3:c\\d\t'\"$$ – 𝔘 é"


def write(database, count: int = 1, kind: str = "setting") -> list[int]:
    """Events of one transaction."""
    with database.transaction() as connection:
        return [audit.record(connection, "config_change", kind, n) for n in range(count)]


def seal(database, size: int | None = 3, most: int | None = 100) -> int:
    settle(database)
    with database.transaction() as connection:
        row = db.only(connection, "select seal_audit(%s, %s) as made", [size, most])
    return row["made"]


def stored(database) -> list[audit.Seal]:
    with database.transaction(read_only=True) as connection:
        return list(seals.after(connection, 0))


# ── leaves ───────────────────────────────────────────────────────────────────────────────


def hostile(connection) -> None:
    """Events and details with everything in them, and with nothing."""
    event = add(
        connection, "security_audit", user_id=7, api_key_id=8, resource_id=HOSTILE,
        ip_address="2001:db8::1/64", user_agent=HOSTILE, request_id="", error_message=HOSTILE,
        changes_before={HOSTILE: [1.50, None, {"é": 1e-7}], "z": 10**30}, changes_after={},
        status="partial",
    )["id"]  # fmt: skip
    add(connection, "security_audit", ip_address="192.0.2.7")
    add(
        connection, "audit_log_details", audit_id=event, event_name=HOSTILE,
        event_description=HOSTILE, event_data={"n": 0.1}, system_state={HOSTILE: HOSTILE},
        duration_ms="0.10", success_count=3,
    )  # fmt: skip
    add(connection, "audit_log_details", audit_id=event)


SETTINGS = (
    "set timezone to 'Asia/Kolkata'; set datestyle to 'German, DMY'; set bytea_output to escape;"
    " set extra_float_digits to -15; set intervalstyle to sql_standard; set lc_numeric to 'C'"
)


def test_a_leaf_is_the_same_by_sql_and_by_the_offline_page_whatever_the_settings(owner):
    hostile(owner)
    owner.execute(SETTINGS)
    for relation, fields in offline.FIELDS.items():  # the same again, under those settings
        columns = sql.SQL(", ").join(sql.Identifier(name) for name in fields if name != "id")
        again = sql.SQL("insert into {0} ({1}) select {1} from {0}")
        owner.execute(again.format(sql.Identifier(relation), columns))
    found = {r: list(leaves.read(owner, r, leaves.Span())) for r in leaves.RELATIONS}
    assert {relation: len(rows) for relation, rows in found.items()} == dict.fromkeys(found, 4)
    for relation, rows in found.items():
        for leaf in rows:
            assert offline.leaf(relation, leaf.fields).hex() == leaf.stored
        anew = leaves.hashed(owner, relation, leaves.Span(), 10)
        assert list(anew.ids) == [leaf.place[1] for leaf in rows]
        assert [one.hex() for one in anew.computed] == [leaf.stored for leaf in rows]
        assert anew.stored == anew.computed
        assert anew.end == rows[-1].place


def test_every_column_is_under_the_leaf(owner):
    for relation, fields in offline.FIELDS.items():
        columns = db.rows(
            owner,
            "select attname as name from pg_attribute"
            " where attrelid = %s::regclass and attnum > 0 and not attisdropped",
            [relation],
        )
        assert {row["name"] for row in columns} == {*fields, "recorded_in", "leaf_hash"}


def test_no_two_rows_have_the_same_text():
    fields: list[str | None] = ["1", None, None, "login", "user", None, "success"]
    one = [*fields, None, "a\nrequest_id=1:b", None, None, None, None, "0"]
    two = [*fields, None, "a", "b", None, None, None, "0"]
    assert offline.leaf("security_audit", one) != offline.leaf("security_audit", two)


def test_whatever_is_given_for_the_hash_is_overwritten(owner):
    made = add(owner, "security_audit", leaf_hash=bytes(32), recorded_in="1")
    assert made["leaf_hash"] != bytes(32)
    now = db.only(owner, "select pg_current_xact_id()::text as xid")["xid"]
    assert str(made["recorded_in"]) == now


# ── trees ────────────────────────────────────────────────────────────────────────────────


def test_the_tree_is_that_of_rfc_6962(owner):
    import hashlib

    hashed = [hashlib.sha256(b"\0" + bytes.fromhex(text)).digest() for text in INPUTS]
    assert seals.root(hashed).hex() == ROOT
    row = db.only(owner, "select merkle_root(%s::bytea[]) as root", [hashed])
    assert row["root"].hex() == ROOT


@pytest.mark.parametrize("count", [*range(1, 18), 1000])
def test_both_make_the_same_root_and_every_path_leads_there(owner, count):
    found = [n.to_bytes(32) for n in range(count)]
    root = seals.root(found)
    row = db.only(owner, "select merkle_root(%s::bytea[]) as root", [found])
    assert row["root"] == root
    for index in {0, count // 2, count - 1}:
        reached = found[index]
        for step in seals.path(found, index):
            other = bytes.fromhex(step["hash"])
            pair = (other, reached) if step["side"] == "left" else (reached, other)
            reached = offline.node(*pair)
        assert reached == root


# ── seals ────────────────────────────────────────────────────────────────────────────────


def test_seals_hold_everything_once_in_a_chain(services):
    write(services, 7)
    with services.transaction() as connection:
        event = audit.record(connection, "export_data", "image", 1)
        connection.execute("select record_event_details(%s, 'exported', 'why')", [event])
    assert seal(services, 3) == 4  # 8 events, and 1 row of details
    assert seal(services, 3) == 0
    found = stored(services)
    assert [(s.number, s.relation, s.leaf_count) for s in found] == [
        (1, "security_audit", 3),
        (2, "security_audit", 3),
        (3, "security_audit", 2),
        (4, "audit_log_details", 1),
    ]
    assert found[0].previous_hash == "00" * 32
    for before, after in itertools.pairwise(found):
        assert after.previous_hash == before.seal_hash
    assert all(s.computed_hash() == s.seal_hash for s in found)
    write(services)
    assert seal_all(services) == 1
    assert stored(services)[-1].highest_id > found[2].highest_id
    assert audit.verify(services).fine


def test_a_seal_is_of_one_month(services, database):
    with db.connect(database.owner) as owner:
        now = db.only(owner, "select now() as at")["at"]
        for days in (0, 0, 31, 31, 0):
            add(owner, "security_audit", timestamp=now + timedelta(days=days))
    assert seal_all(services) == 3
    assert [s.leaf_count for s in stored(services)] == [2, 2, 1]
    assert audit.verify(services).fine


def sealed_by_horizon(database, late) -> list[int]:
    """What is sealed while a transaction runs, and after it."""
    audit.seal(database)
    during = sum(s.leaf_count for s in stored(database))
    late.commit()
    seal_all(database)
    return [during, sum(s.leaf_count for s in stored(database))]


def test_a_late_commit_is_in_exactly_one_batch(services, database):
    with db.connect(database.app) as late:
        late.execute("select record_event('login', 'user', '1')")  # the lower number …
        write(services)  # … commits later than this
        assert sealed_by_horizon(services, late) == [0, 2]
    found = audit.verify(services)
    assert (found.fine, found.rows, found.unsealed) == (True, 2, 0)


def test_sealing_by_number_would_lose_a_late_commit(services, database):
    with db.connect(database.owner) as owner:
        body = db.only(owner, "select pg_get_functiondef('seal_audit_relation'::regproc) as sql")
        broken = body["sql"].replace(
            "pg_snapshot_xmin(pg_current_snapshot())", "'18446744073709551615'::xid8"
        )
        assert broken != body["sql"]
        owner.execute(broken.encode())
    with db.connect(database.app) as late:
        late.execute("select record_event('login', 'user', '1')")
        write(services)
        sealed_by_horizon(services, late)
    found = audit.verify(services)
    assert not found.fine
    assert found.problems[0].kind == "batch"


def test_what_was_rolled_back_leaves_no_gap(services, database):
    with db.connect(database.app) as other:
        other.execute("select record_event('login', 'user', '1')")
        other.rollback()
    write(services, 2)
    assert seal_all(services) == 1
    found = audit.verify(services)
    assert (found.fine, found.rows) == (True, 2)


def test_only_one_seals_at_a_time(services, database):
    write(services)
    with db.connect(database.app) as other:
        settle(services)
        row = db.only(other, "select seal_audit() as made")
        assert row["made"] == 1
        assert audit.seal(services) == 0  # nobody waits
        other.rollback()
    assert seal_all(services) == 1


ENTRIES = (
    "select sum(pg_stat_get_xact_tuples_returned(i.indexrelid))::bigint as n from pg_index i"
    " join pg_inherits h on h.inhrelid = i.indrelid"
    " where h.inhparent = 'security_audit'::regclass"
    " and pg_get_indexdef(i.indexrelid) like '%(recorded_in, id)'"
)


def read_by_a_batch(database) -> int:
    """How many entries of its index one batch of 1,000 reads, in a month without statistics."""
    with db.connect(database.owner) as owner:
        owner.execute(
            "do $$ declare part regclass; begin"
            " for part in select inhrelid from pg_inherits"
            "             where inhparent = 'security_audit'::regclass loop"
            "   execute format('alter table %s set (autovacuum_enabled = false)', part);"
            " end loop; end $$"
        )
        owner.execute(
            "select record_event('config_change', 'setting', n::text)"
            " from generate_series(1, 20000) n"
        )
    with db.connect(database.owner) as owner:
        assert db.only(owner, "select seal_audit(1000, 1) as made") == {"made": 1}
        row = db.only(owner, ENTRIES)
    assert row is not None
    return row["n"]


def test_a_batch_reads_itself_and_not_all_that_is_left(database):
    assert 1000 <= read_by_a_batch(database) < 2000


def test_a_planner_without_statistics_would_read_all(database):
    """The twin."""
    with db.connect(database.owner) as owner:
        owner.execute("alter function next_audit_seal reset all")
        owner.execute(
            "alter function next_audit_seal set search_path = pg_catalog, public, pg_temp"
        )
    assert read_by_a_batch(database) >= 20_000


def test_the_mark_of_seals_never_runs_ahead(services, database):
    mark = "select last_value as at from audit_seals_seen"
    write(services, 3)
    settle(services)
    with db.connect(database.app) as other:
        for _ in range(2):  # twice in a transaction that is undone
            assert db.only(other, "select seal_audit(1, 1) as made")["made"] == 1
        other.rollback()
        assert db.only(other, mark)["at"] == 0
    assert [seal(services, 1, 1) for _ in range(3)] == [1, 1, 1]
    with db.connect(database.app) as other:
        assert db.only(other, mark)["at"] == 2
    assert audit.verify(services).fine


@pytest.mark.parametrize(("size", "most"), [(0, 1), (100_001, 1), (None, 1), (1, 0), (1, None)])
def test_sizes_out_of_bounds_are_refused(services, size, most):
    with pytest.raises(InvalidInputError) as caught:
        seal(services, size, most)
    assert caught.value.hint


@pytest.mark.parametrize("change", ["delete from audit_seals", "truncate audit_seals",
                                    "update audit_seals set lineage = 1"])  # fmt: skip
def test_nobody_changes_a_seal(services, database, change):
    write(services)
    seal_all(services)
    for address, state in ((database.app, "42501"), (database.owner, "NS002"),
                           (database.superuser, "NS002")):  # fmt: skip
        with db.connect(address) as connection:
            with pytest.raises(psycopg.Error) as caught:
                connection.execute(change.encode())
            assert caught.value.sqlstate == state
    with pytest.raises(AccessError), services.transaction() as connection:
        connection.execute("insert into audit_seals select * from audit_seals")


def test_rows_from_before_there_were_seals_are_sealed_too(services, database):
    from conftest import MIGRATIONS

    down, up = (
        (MIGRATIONS / f"010_seal_audit_trail.{way}.sql").read_text("utf-8").encode()
        for way in ("down", "up")
    )
    with db.connect(database.owner) as owner:
        later = sorted(MIGRATIONS.glob("*.up.sql"))[10:]
        for file in reversed(later):
            owner.execute(file.with_name(file.name.replace(".up.", ".down.")).read_bytes())
        owner.execute(down)
        add(owner, "security_audit")
        add(owner, "audit_log_details")
        owner.execute(up)
        for file in later:
            owner.execute(file.read_bytes())
    write(services)
    assert seal_all(services) == 2
    found = audit.verify(services)
    assert (found.fine, found.rows) == (True, 4)
    proof = audit.prove(services, 1)
    assert offline.check(json.loads(json.dumps({"form": proof.form, "rows": proof.rows})))


# ── loaded into another server ───────────────────────────────────────────────────────────


def come_from_elsewhere(database) -> None:
    """Make it as if a server that had counted 10^9 more transactions had written all of it."""
    shift = "(({0}::text)::bigint + 1000000000)::text::xid8"
    with master(database.superuser) as connection:
        for table, column in (
            ("security_audit", "recorded_in"),
            ("audit_log_details", "recorded_in"),
            ("audit_seals", "last_xid"),
        ):
            connection.execute(f"update {table} set {column} = {shift.format(column)}".encode())
        connection.execute("update audit_seals s set seal_hash = audit_seal_hash(s)")


def test_a_trail_from_another_server_goes_on(services, database):
    first = write(services, 3)
    assert seal_all(services) == 1
    tail = write(services, 2)  # not sealed when the dump was made
    come_from_elsewhere(database)
    assert audit.verify(services).fine
    later = write(services, 4)
    assert seal_all(services) == 2
    assert [(s.lineage, s.leaf_count) for s in stored(services)] == [(0, 3), (0, 2), (later[0], 4)]
    more = write(services)
    assert seal_all(services) == 1
    found = audit.verify(services)
    assert (found.fine, found.rows, found.unsealed) == (True, 10, 0)
    for number in (*first, *tail, *later, *more):
        proof = audit.prove(services, number)
        assert offline.check({"form": proof.form, "rows": proof.rows})


def test_without_a_new_lineage_rows_would_stand_in_old_seals(services, database):
    """The twin: a seal that doesn't notice."""
    with db.connect(database.owner) as owner:
        body = db.only(owner, "select pg_get_functiondef('foreign_audit_rows'::regproc) as sql")
        broken = body["sql"].replace("r.recorded_in < $2", "r.recorded_in < ''0''")
        assert broken != body["sql"]
        owner.execute(broken.replace("using newest.highest_id, newest.last_xid",
                                     "using newest.highest_id").encode())  # fmt: skip
    write(services, 3)
    seal_all(services)
    come_from_elsewhere(database)
    write(services)
    assert seal_all(services) == 0
    assert not audit.verify(services).fine
