"""The audit trail read: filters, pages, details, who saw what."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

import images_on_disk as disk
from negspace import audit, images, intake, users
from negspace import database as db
from negspace.audit import Cursor
from negspace.errors import InvalidInputError, NotFoundError
from negspace.storage import Storage


@pytest.fixture
def ada(services):
    return users.add(services, "ada@example.org", "correct horse", role="analyst", cost=4)


@pytest.fixture
def acting(services, ada):
    return services.acting_as(db.Actor(ada.id, None, "192.0.2.7", "a browser", "request 5"))


@pytest.fixture
def image(services, ada, tmp_path):
    return intake.add(
        services,
        Storage(tmp_path / "storage"),
        disk.png(tmp_path / "a.png"),
        user_id=ada.id,
        max_pixels=10**7,
    )


def record(database, action: audit.Action, number: int, **more) -> int:
    with database.transaction() as connection:
        return audit.record(connection, action, "setting", number, **more)


def test_an_event_keeps_who_from_where_and_what_changed(services, acting, ada):
    number = record(
        acting,
        "config_change",
        7,
        status="partial",
        changes_before={"level": 1},
        changes_after={"level": 2},
        error_message="half of it",
    )
    found = audit.find(services, number)
    assert found.details == ()
    event = found.event
    assert (event.user_id, event.user_email, event.ip_address) == (ada.id, ada.email, "192.0.2.7")
    assert (event.user_agent, event.request_id) == ("a browser", "request 5")
    assert (event.action, event.resource_type, event.resource_id) == (
        *("config_change", "setting", "7"),
    )
    assert (event.changes_before, event.changes_after) == ({"level": 1}, {"level": 2})
    assert (event.status, event.error_message) == ("partial", "half of it")
    with pytest.raises(NotFoundError):
        audit.find(services, number + 1000)


def test_an_event_goes_with_its_transaction(services, acting):
    def log_out_and_break() -> None:
        with acting.transaction() as connection:
            audit.record(connection, "logout", "user", 1)
            connection.execute("select delete_image(999)")  # there is none: all is undone

    with pytest.raises(NotFoundError):
        log_out_and_break()
    assert audit.events(services, action="logout").events == ()


def test_filters_choose(services, acting, ada):
    record(services, "logout", 1)
    record(acting, "logout", 2, status="failure")
    record(acting, "export_data", 2)

    def numbers(**filters) -> list[str | None]:
        page = audit.events(services, resource_type="setting", **filters)
        return [f"{e.action} {e.resource_id}" for e in page.events]

    assert numbers() == ["export_data 2", "logout 2", "logout 1"]
    assert numbers(user_id=ada.id) == ["export_data 2", "logout 2"]
    assert numbers(action="logout") == ["logout 2", "logout 1"]
    assert numbers(status="failure") == ["logout 2"]
    assert numbers(resource_id=1) == ["logout 1"]
    now = datetime.now(UTC)
    assert len(numbers(since=now - timedelta(minutes=5), until=now + timedelta(minutes=5))) == 3
    assert numbers(since=now + timedelta(minutes=5)) == []
    assert numbers(until=now - timedelta(minutes=5)) == []
    with pytest.raises(InvalidInputError, match="no action 'dance'"):
        audit.events(services, action="dance")
    with pytest.raises(InvalidInputError, match="no status 'fine'"):
        audit.events(services, status="fine")


def test_pages_hold_every_event_once_while_new_ones_come(services):
    with services.transaction() as connection:  # one time for all: the number tells them apart
        for number in range(25):
            audit.record(connection, "logout", "setting", number)
    seen: list[str | None] = []
    page = audit.events(services, action="logout", limit=10)
    while True:
        seen += [e.resource_id for e in page.events]
        record(services, "logout", 1000)
        if page.next is None:
            break
        place = Cursor.parse(str(page.next))
        assert place == page.next
        page = audit.events(services, action="logout", limit=10, before=place)
    assert seen == [str(number) for number in reversed(range(25))]
    for wrong in ("", "x/1", "2026-01-01T00:00:00+00:00/x"):
        with pytest.raises(InvalidInputError):
            Cursor.parse(wrong)


def test_who_saw_an_image_and_what_for(services, acting, ada, image, tmp_path):
    bob = users.add(services, "bob@example.org", "correct horse", cost=4)
    as_bob = services.acting_as(db.Actor(bob.id))
    for database, purpose in ((acting, "review"), (acting, "review"), (as_bob, "teaching")):
        with database.transaction() as connection:
            connection.execute("select from read_results(%s, %s)", [image.id, purpose])
    images.export(as_bob, Storage(tmp_path / "storage"), image.id, tmp_path / "out.png", "a copy")
    found = {(s.user_email, s.action): s for s in audit.who_saw(services, image.id)}
    assert {key: (s.times, s.purposes) for key, s in found.items()} == {
        (ada.email, "view_results"): (2, ("review",)),
        (bob.email, "view_results"): (1, ("teaching",)),
        (bob.email, "export_data"): (1, ("a copy",)),
    }
    event = audit.events(services, action="view_results", user_id=bob.id).events[0]
    detail = audit.find(services, event.id).details[0]
    assert (detail.event_name, detail.event_description) == ("results_read", "teaching")
    assert audit.who_saw(services, image.id + 1) == []
    late = datetime.now(UTC) + timedelta(minutes=5)
    assert audit.who_saw(services, image.id, since=late) == []


def test_events_outlive_the_image(services, acting, ada, image, tmp_path):
    with acting.transaction() as connection:
        connection.execute("select from read_results(%s, 'review')", [image.id])
    images.delete(services, Storage(tmp_path / "storage"), image.id)
    assert [s.user_email for s in audit.who_saw(services, image.id)] == [ada.email]


# ── the command line ─────────────────────────────────────────────────────────────────────


def test_the_commands_list_show_and_answer(cli, database, services, acting, ada, image):
    env = database.environment
    with acting.transaction() as connection:
        connection.execute("select from read_results(%s, 'review')", [image.id])
    listed = cli("audit", "list", "--resource", f"image:{image.id}", "--since", "1h", "--json",
                 env=env)  # fmt: skip
    assert [e["action"] for e in listed.json["events"]] == ["view_results", "create_image"]
    assert listed.json["next"] is None
    first = cli("audit", "list", "-n", "1", "--json", env=env).json
    second = cli("audit", "list", "-n", "1", "--before", first["next"], "--json", env=env).json
    assert first["events"][0]["id"] > second["events"][0]["id"]
    number = str(listed.json["events"][0]["id"])
    assert cli("audit", "show", number, "--json", env=env).json["details"][0][
        "event_description"
    ] == "review"  # fmt: skip
    assert "review" in cli("audit", "show", number, env=env).out
    saw = cli("audit", "who-saw", str(image.id), "--json", env=env).json
    assert [(s["user_email"], s["purposes"]) for s in saw] == [(ada.email, ["review"])]
    did = cli("audit", "what-did", ada.email, env=env)
    assert "view_results" in did.out
    assert cli("audit", "list", "--since", "soon", env=env).status == 2
    assert cli("audit", "list", "--before", "x", "--json", env=env).error["code"] == (
        "invalid_input"
    )
