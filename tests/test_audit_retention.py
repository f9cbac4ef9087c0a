"""How long the audit trail is kept: holds, exports, and months that leave."""

from __future__ import annotations

import gzip
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from negspace import audit
from negspace import database as db
from negspace.database import Database
from negspace.errors import (
    AccessError,
    AlreadyExistsError,
    FileError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
)
from schema_rows import add
from tampering import master, seal_all


@pytest.fixture
def owner(database):
    with Database(database.owner) as opened:
        yield opened


def month_of(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m}"


@pytest.fixture
def old(owner) -> datetime:
    """A time of two months ago, at which five events with details lie; ten are of today."""
    with owner.transaction() as connection:
        row = db.only(connection, "select now() - interval '2 months' as at")
        assert row is not None
        at: datetime = row["at"]
        connection.execute("select ensure_partitions(oldest => %s)", [at])
        for day in range(5):
            time = at.replace(day=1) + timedelta(days=day)
            event = add(connection, "security_audit", timestamp=time)["id"]
            add(connection, "audit_log_details", audit_id=event, created_at=time)
        for _ in range(10):
            add(connection, "audit_log_details")
    return at


@pytest.fixture
def key(tmp_path) -> Path:
    audit.keygen(tmp_path / "key")
    return tmp_path / "key"


@pytest.fixture
def anchors(services, old, key) -> Path:
    """The anchors of all of it."""
    seal_all(services)
    audit.anchor(services, key.with_name("anchors"), key)
    return key.with_name("anchors")


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "exports").mkdir()
    return tmp_path / "exports"


def retain(owner, old, anchors, folder) -> audit.Leaving:
    """What became of the old month."""
    before = (old.replace(day=1) + timedelta(days=31)).replace(day=1, hour=0, minute=0, second=0)
    found = audit.retain(owner, before.replace(tzinfo=UTC), anchors, folder)
    assert [month.month for month in found] == [month_of(old)]
    return found[0]


def count(database, table) -> int:
    with database.transaction(read_only=True) as connection:
        query = db.sql.SQL("select count(*) as n from {}").format(db.sql.Identifier(table))
        row = db.only(connection, query)
    assert row is not None
    return row["n"]


# ── months that leave ────────────────────────────────────────────────────────────────────


def test_a_month_leaves_with_an_event_and_its_seals_stay(services, owner, old, anchors, folder):
    before = {table: count(services, table) for table in ("audit_log_details", "audit_seals")}
    left = retain(owner, old, anchors, folder)
    assert (left.left, left.reason) == (True, None)
    assert count(services, "audit_log_details") == before["audit_log_details"] - 5
    assert count(services, "audit_seals") == before["audit_seals"]
    event = audit.events(services, resource_type="audit_month").events[0]
    assert (event.resource_id, event.action) == (month_of(old), "config_change")
    assert event.changes_before == {"event_count": 5, "detail_count": 5}
    seal_all(services)
    found = audit.verify(services, anchors)
    assert (found.fine, found.retired, found.rows) == (True, 2, 21)
    made = audit.check_export(left.file)
    assert (made.rows, len(made.seals)) == (10, 2)
    with owner.transaction(read_only=True) as connection:
        row = db.only(connection, "select export_sha256 from audit_retirements")
    assert row == {"export_sha256": made.sha256}
    assert audit.retain(owner, old.replace(day=1), anchors, folder) == []


def test_a_month_that_was_just_dropped_is_named(services, database, owner, old, anchors):
    """The twin: without the retirement, what is gone was deleted."""
    with db.connect(database.owner) as connection:
        for parent in ("audit_log_details", "security_audit"):
            name = f"{parent}_{old:%Y%m}"
            connection.execute(f"alter table {parent} detach partition {name}".encode())
            connection.execute(f"drop table {name}".encode())
    found = audit.verify(services)
    assert [problem.kind for problem in found.problems] == ["batch", "batch"]


def test_nothing_unsealed_leaves(services, owner, old, anchors, folder):
    with owner.transaction() as connection:
        add(connection, "security_audit", timestamp=old.replace(day=2))
    left = retain(owner, old, anchors, folder)
    assert not left.left
    assert "not sealed yet" in left.reason


def test_nothing_leaves_that_is_not_anchored(services, owner, old, anchors, folder):
    with owner.transaction() as connection:
        add(connection, "security_audit", timestamp=old.replace(day=2))
    seal_all(services)
    left = retain(owner, old, anchors, folder)
    assert not left.left
    assert "is not anchored" in left.reason


def test_an_export_of_another_time_is_not_taken(services, owner, old, anchors, folder, key):
    audit.export_month(services, month_of(old), folder)
    with owner.transaction() as connection:
        add(connection, "security_audit", timestamp=old.replace(day=2))
    seal_all(services)
    audit.anchor(services, anchors, key)
    left = retain(owner, old, anchors, folder)
    assert not left.left
    assert "is of another time" in left.reason
    left.file.unlink()
    assert retain(owner, old, anchors, folder).left


def test_no_month_leaves_that_has_not_ended(owner, anchors):
    with pytest.raises(RefusedError, match="it has not ended"), owner.transaction() as connection:
        connection.execute("select retire_audit_month(now(), 1, '\\x00', %s)", ["a" * 64])
    with pytest.raises(NotFoundError), owner.transaction() as connection:
        connection.execute("select retire_audit_month('2001-01-01', 1, '\\x00', %s)", ["a" * 64])


def test_the_database_itself_refuses_what_is_not_sealed_or_anchored(services, owner, old):
    def retire(*anchor) -> None:
        with owner.transaction() as connection:
            connection.execute(
                "select retire_audit_month(%s, %s, %s, %s)", [old, *anchor, "a" * 64]
            )

    with pytest.raises(RefusedError, match="10 of its rows are not sealed"):
        retire(1, bytes(32))
    seal_all(services)
    with pytest.raises(RefusedError, match="its seals are not anchored"):
        retire(1, bytes(32))
    with services.transaction() as connection:
        number = db.only(connection, "select seal_hash from audit_seals where number = 1")
    assert number is not None
    with pytest.raises(RefusedError, match="its seals are not anchored"):
        retire(1, number["seal_hash"])  # details of the month are sealed later


def test_details_of_a_later_month_keep_their_events(services, owner, old, folder, key):
    with owner.transaction() as connection:
        event = add(connection, "security_audit", timestamp=old.replace(day=2))["id"]
        add(connection, "audit_log_details", audit_id=event)
    seal_all(services)
    anchors = key.with_name("later")
    audit.anchor(services, anchors, key)
    left = retain(owner, old, anchors, folder)
    assert not left.left
    assert "details of other months" in left.reason


def test_the_services_let_nothing_leave(services, old):
    for call in (
        "select retire_audit_month(now(), 1, '\\x00', 'a')",
        "select release_audit_hold(1, 'why')",
        "update audit_holds set released_at = now()",
        "delete from audit_retirements",
        "insert into audit_retirements select * from audit_retirements",
    ):
        with pytest.raises(AccessError), services.transaction() as connection:
            connection.execute(call.encode())


# ── holds ────────────────────────────────────────────────────────────────────────────────


def test_a_hold_keeps_a_month_until_it_is_released(services, owner, old, anchors, folder):
    number = audit.hold(services, "matter 7", since=old.replace(day=3))
    left = retain(owner, old, anchors, folder)
    assert (left.left, f"hold {number} keeps it" in left.reason) == (False, True)
    audit.release(owner, number, "the matter is closed")
    assert retain(owner, old, anchors, folder).left
    events = audit.events(services, resource_type="audit_hold").events
    assert [event.resource_id for event in events] == [str(number)] * 2
    assert events[0].changes_after["reason"] == "the matter is closed"
    found = audit.holds(services)[0]
    assert found.released_at is not None
    assert replace(found, released_at=None).reason == "matter 7"


def test_a_hold_of_another_time_keeps_nothing(services, owner, old, anchors, folder):
    audit.hold(services, "matter 8", until=old.replace(day=1) - timedelta(days=2))
    audit.hold(services, "matter 9", since=datetime.now(UTC))
    assert retain(owner, old, anchors, folder).left


def test_holds_that_make_no_sense_are_refused(services, owner):
    with pytest.raises(InvalidInputError, match="has a reason"):
        audit.hold(services, " ")
    now = datetime.now(UTC)
    with pytest.raises(InvalidInputError, match="covers nothing"):
        audit.hold(services, "x", since=now, until=now)
    with pytest.raises(NotFoundError):
        audit.release(owner, 1, "why")
    with pytest.raises(InvalidInputError):
        audit.release(owner, 1, "")


# ── exports ──────────────────────────────────────────────────────────────────────────────


def test_an_export_that_was_changed_is_refused(services, old, anchors, folder):
    made = audit.export_month(services, month_of(old), folder)
    assert made.file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(AlreadyExistsError):
        audit.export_month(services, month_of(old), folder)
    text = gzip.decompress(made.file.read_bytes()).decode()
    assert audit.check_export(made.file) == made
    for wrong in (
        text.replace("config_change", "login", 1),
        text.replace('"leaf_count": 5', '"leaf_count": 4', 1),
        text.replace("export 1", "export 2"),
        "".join(text.splitlines(keepends=True)[1:]),
        "",
        "{}\n",
        "no json",
    ):
        assert wrong != text
        made.file.write_bytes(gzip.compress(wrong.encode()))
        with pytest.raises(InvalidInputError):
            audit.check_export(made.file)
    for raw in (b"", b"no gzip", gzip.compress(text.encode())[:-20]):
        made.file.write_bytes(raw)
        with pytest.raises(InvalidInputError):
            audit.check_export(made.file)
    with pytest.raises(FileError):
        audit.check_export(folder / "none")
    with pytest.raises(InvalidInputError, match="no month"):
        audit.export_month(services, "January", folder)


def test_what_is_not_what_was_sealed_is_not_exported(services, database, old, anchors, folder):
    with master(database.superuser) as connection:
        connection.execute(
            "update security_audit set status = 'partial' where timestamp < %s",
            [old + timedelta(days=31)],
        )
    with pytest.raises(InvalidInputError, match="holds other rows"):
        audit.export_month(services, month_of(old), folder)
    assert list(folder.iterdir()) == []


def test_the_same_month_gives_the_same_file(services, old, anchors, folder):
    (folder / "again").mkdir()
    made = [audit.export_month(services, month_of(old), f) for f in (folder, folder / "again")]
    assert made[0].sha256 == made[1].sha256


def test_a_retirement_is_never_changed(database, owner, old, anchors, folder):
    assert retain(owner, old, anchors, folder).left
    with db.connect(database.superuser) as connection, pytest.raises(psycopg.Error) as caught:
        connection.execute("update audit_retirements set event_count = 0")
    assert caught.value.sqlstate == "NS002"


# ── the command line ─────────────────────────────────────────────────────────────────────


def test_the_commands_hold_export_and_retain(cli, database, old, anchors, folder):
    env = database.environment
    before = (old.replace(day=1) + timedelta(days=32)).strftime("%Y-%m-01T00:00:00+00:00")
    options = ["--before", before, "--anchor", str(anchors), "--folder", str(folder)]
    hold = cli("audit", "hold", "matter 7", "--json", env=env).json["hold"]
    assert "matter 7" in cli("audit", "holds", env=env).out
    dry = cli("audit", "retain", *options, "--dry-run", "--json", env=env)
    assert (dry.status, [m["month"] for m in dry.json]) == (0, [month_of(old)])
    assert cli("audit", "retain", *options, env=env).status == 4  # nobody can be asked
    held = cli("audit", "retain", *options, "--yes", "--json", env=env)
    assert (held.status, held.json[0]["left"]) == (3, False)
    assert cli("audit", "release", str(hold), "over", env=env).status == 0
    done = cli("audit", "retain", *options, "--yes", "--json", env=env)
    assert (done.status, done.json[0]["left"]) == (0, True)
    checked = cli("audit", "check-export", done.json[0]["file"], "--json", env=env)
    assert checked.json["rows"] == 10
    assert cli("audit", "export", month_of(old), str(folder), env=env).status == 1  # is there
    assert cli("audit", "retain", *options, "--yes", env=env).out == "no month is that old\n"
