"""Every act that must be on record, with its event and what it was before and after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

import images_on_disk as disk
import queue_singly as leases
from conftest import TestDatabase
from negspace import (
    audit,
    duplicates,
    images,
    intake,
    jobs,
    keys,
    queue,
    recovery,
    results,
    sessions,
    users,
)
from negspace import database as db
from negspace.database import Actor, Database
from negspace.errors import NegspaceError
from negspace.storage import Storage
from negspace.worker import registry
from queue_steps import completion
from schema_rows import add, insert

PASSWORD = "correct horse"
WANTED = jobs.Wanted("rehearsal", "1.0.0", {})
ACTOR = Actor(None, None, "192.0.2.7", "a browser", "request 5")


@dataclass
class World:
    """A database with an account that acts, and what it acts on, made where it is asked for."""

    database: TestDatabase
    services: Database
    folder: Path
    marks: list[int] = field(default_factory=list)

    @cached_property
    def ada(self) -> users.User:
        return users.add(self.services, "ada@example.org", PASSWORD, role="admin", cost=4)

    @cached_property
    def acting(self) -> Database:
        return self.services.acting_as(
            Actor(self.ada.id, None, ACTOR.ip_address, ACTOR.user_agent, ACTOR.request_id)
        )

    @cached_property
    def storage(self) -> Storage:
        return Storage(self.folder / "storage")

    @cached_property
    def image(self) -> int:
        return self.taken_in("a")

    @cached_property
    def key(self) -> keys.NewKey:
        return keys.create(self.services, self.ada.id, "a key")

    @cached_property
    def result(self) -> int:
        with db.connect(self.database.owner) as owner:
            row = add(owner, "analysis_results", image_id=self.image, user_id=self.ada.id)
        return row["id"]

    def taken_in(self, name: str) -> int:
        file = disk.png(self.folder / f"{name}.png", seed=ord(name))
        return intake.add(
            self.services, self.storage, file, user_id=self.ada.id, max_pixels=10**7
        ).id

    def ready(self) -> None:
        """From here on events are the act's."""
        with self.services.transaction() as connection:
            row = db.only(connection, "select max(id) as id from security_audit")
        self.marks.append((row and row["id"]) or 0)

    def events(self) -> list[audit.Event]:
        found = audit.events(self.services, limit=1000).events
        return [event for event in reversed(found) if event.id > self.marks[-1]]

    def sql(self, query: str, *given: Any, address: str | None = None) -> None:
        """As the services with their actor; as somebody else at another address."""
        if address is None:
            with self.acting.transaction() as connection:
                connection.execute(query.encode(), given or None)
        else:
            with db.connect(address) as connection:
                connection.execute(query.encode(), given or None)

    def job(self) -> leases.Claimed:
        """A job that is claimed."""
        registry.register(self.services, "w1", "here", 1, ["rehearsal@1.0.0"])
        jobs.enqueue(self.services, [self.image], WANTED, requested_by=self.ada.id)
        claimed = leases.claim(self.services, "w1", ["rehearsal@1.0.0"])
        assert claimed is not None
        return claimed


@dataclass(frozen=True)
class Act:
    """What is done, and the event that must be there then.

    ``before`` and ``after`` are what the event says at least; None: nothing.
    """

    name: str
    action: str
    resource_type: str
    do: Callable[[World], object]
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
    status: str = "success"
    needs: str | None = None
    alone: bool = True  # the actor is stated


def login(world: World, password: str = PASSWORD) -> object:
    return sessions.login(world.acting, world.ada.email, password, cost=4)


def logout(world: World) -> None:
    made = sessions.login(world.services, world.ada.email, PASSWORD, cost=4)
    world.ready()
    sessions.logout(world.acting, made.token.reveal())


def rubbish(world: World) -> None:
    file = world.folder / "rubbish.png"
    file.write_bytes(b"no picture")
    intake.add(world.acting, world.storage, file, user_id=world.ada.id, max_pixels=10**7)


def complete(world: World) -> None:
    held = world.job()
    world.ready()
    leases.complete(world.acting, held, completion())


def fail(world: World) -> None:
    held = world.job()
    world.ready()
    leases.fail(world.acting, held, "it broke", again=False)


def cancel(world: World) -> None:
    done = jobs.enqueue(world.services, [world.image], WANTED)
    world.ready()
    jobs.cancel(world.acting, [done[0].job_id or 0], reason="not needed")


def retry(world: World) -> None:
    held = world.job()
    leases.fail(world.services, held, "it broke", again=False)
    world.ready()
    jobs.retry(world.acting, [held.id])


def lock(world: World) -> None:
    for _ in range(5):
        with pytest.raises(NegspaceError):
            login(world, "a wrong horse")
    world.ready()
    users.unlock(world.acting, world.ada.id)


def verify_email(world: World) -> None:
    token = recovery.issue(world.services, world.ada.id, "verify_email").token
    world.ready()
    recovery.verify_email(world.acting, token.reveal())


def reset_password(world: World) -> None:
    token = recovery.issue(world.services, world.ada.id, "reset_password").token
    world.ready()
    recovery.reset_password(world.acting, token.reveal(), "another horse", cost=4)


def change_limit(world: World, most: int | None) -> None:
    queue.limit_running(world.services, 3, group="night")
    world.ready()
    queue.limit_running(world.acting, most, group="night")


def release(world: World) -> None:
    number = audit.hold(world.services, "matter 7")
    world.ready()
    world.sql("select release_audit_hold(%s, 'closed')", number, address=world.database.owner)


def mark_duplicates(world: World) -> None:
    for name in ("c", "d"):
        world.sql(
            "update images set pixel_hash = repeat('a', 64) where id = %s", world.taken_in(name)
        )
    world.ready()
    duplicates.mark(world.acting)


def stored(world: World, address: str) -> None:
    with db.connect(address) as connection:
        add(connection, "analysis_results", image_id=world.image, user_id=world.ada.id)


def owners(statement: str, *given: Callable[[World], Any]) -> Callable[[World], None]:
    def do(world: World) -> None:
        world.sql(statement, *[one(world) for one in given], address=world.database.owner)

    return do


def update(statement: str, *given: Callable[[World], Any]) -> Callable[[World], None]:
    def do(world: World) -> None:
        world.sql(statement, *[one(world) for one in given])

    return do


def ada(world: World) -> int:
    return world.ada.id


def key(world: World) -> int:
    return world.key.key.id


def image(world: World) -> int:
    return world.image


def result(world: World) -> int:
    return world.result


NOBODY: dict[str, Any] = {"status": "failure"}
PERMISSION, CONFIG = "permission_change", "config_change"

ACTS = [
    # ── logins ──
    Act("log in", "login", "user", login),
    Act("fail to log in", "login", "user", lambda w: login(w, "wrong horse"), status="failure"),
    Act("log out", "logout", "session", logout),
    # ── images ──
    Act("take an image in", "create_image", "image",
        lambda w: intake.add(w.acting, w.storage, disk.png(w.folder / "b.png"),
                             user_id=w.ada.id, max_pixels=10**7),
        after={"original_filename": "b.png", "mime_type": "image/png"}),
    Act("fail to take an image in", "create_image", "image", rubbish, status="failure"),
    Act("remove an image", "delete_image", "image",
        lambda w: images.delete(w.acting, w.storage, w.image),
        before={"original_filename": "a.png"}, needs="image"),
    Act("fail to remove an image", "delete_image", "image",
        lambda w: images.delete(w.acting, w.storage, 999), status="failure"),
    Act("change an image's metadata", CONFIG, "image",
        lambda w: images.set_metadata(w.acting, w.image, {"filter": "F814W"}),
        {"metadata": {"filter": None}}, {"metadata": {"filter": "F814W"}}, needs="image"),
    Act("archive an image", CONFIG, "image", lambda w: images.archive(w.acting, w.image),
        {"analysis_status": "pending"}, {"analysis_status": "archived"}, needs="image"),
    Act("fail to archive an image", CONFIG, "image", lambda w: images.archive(w.acting, 999),
        status="failure"),
    Act("mark duplicates", CONFIG, "image", mark_duplicates,
        {"is_duplicate": False}, {"is_duplicate": True}),
    # ── analyses and results ──
    Act("analyse an image", "run_analysis", "image", complete, after={"result_id": ...}),
    Act("fail to analyse an image", "run_analysis", "image", fail, status="failure"),
    Act("fail to ask for an analysis", "run_analysis", "image",
        lambda w: jobs.enqueue(w.acting, [999], WANTED), status="failure"),
    Act("store a result as the services", "run_analysis", "image",
        lambda w: stored(w, w.database.app), after={"confidence_score": 0.5}, needs="image",
        alone=False),
    Act("store a result as the owner", "run_analysis", "image",
        lambda w: stored(w, w.database.owner), after={"confidence_score": 0.5}, needs="image",
        alone=False),
    Act("change a result", CONFIG, "result",
        update("update analysis_results set notes = 'odd' where id = %s", result),
        {"notes": None}, {"notes": "odd"}, needs="result"),
    Act("remove a result", CONFIG, "result",
        owners("delete from analysis_results where id = %s", result),
        before={"notes": None}, needs="result", alone=False),
    Act("take a job back", CONFIG, "job", cancel, {"status": "queued"}, {"status": "cancelled"}),
    Act("try a job again", CONFIG, "job", retry, {"status": "failed"}, {"status": "retrying"}),
    # ── reads ──
    Act("read results", "view_results", "image",
        lambda w: results.read(w.acting, w.image, "review"), needs="result"),
    Act("fail to read results", "view_results", "image",
        lambda w: results.read(w.acting, 999, "review"), status="failure"),
    Act("take results out", "export_data", "result",
        lambda w: list(results.export(w.acting, "a paper", results.Selection(image=w.image))),
        after={"image": "1"}, needs="result"),
    Act("fail to take results out", "export_data", "result",
        lambda w: list(results.export(w.acting, " ")), status="failure"),
    Act("take an image out", "export_data", "image",
        lambda w: images.export(w.acting, w.storage, w.image, w.folder / "o.png", "a paper"),
        needs="image"),
    Act("fail to take an image out", "export_data", "image",
        lambda w: images.export(w.acting, w.storage, 999, w.folder, "a paper"), status="failure"),
    # ── accounts ──
    Act("make an account", PERMISSION, "user",
        lambda w: users.add(w.acting, "bob@example.org", PASSWORD, cost=4),
        after={"email": "bob@example.org", "role": "viewer", "is_active": True}),
    Act("fail to make an account", PERMISSION, "user",
        lambda w: users.add(w.acting, w.ada.email, PASSWORD, cost=4), status="failure"),
    Act("give a role", PERMISSION, "user", lambda w: users.set_role(w.acting, w.ada.id, "viewer"),
        {"role": "admin"}, {"role": "viewer"}),
    Act("fail to give a role", PERMISSION, "user",
        lambda w: users.set_role(w.acting, 999, "viewer"), status="failure"),
    Act("switch an account off", PERMISSION, "user",
        lambda w: users.set_active(w.acting, w.ada.id, active=False),
        {"is_active": True}, {"is_active": False}),
    Act("give a password", PERMISSION, "user",
        lambda w: users.set_password(w.acting, w.ada.id, "another horse", cost=4), {}, {}),
    Act("reset a password", PERMISSION, "user", reset_password, {}, {}),
    Act("verify an address", CONFIG, "user", verify_email,
        {"is_email_verified": False}, {"is_email_verified": True}),
    Act("ask for a token", CONFIG, "user",
        lambda w: recovery.issue(w.acting, w.ada.id, "verify_email"),
        after={"token_issued": "verify_email"}),
    Act("unlock an account", PERMISSION, "user", lock, {"account_locked_until": ...},
        {"account_locked_until": None}),
    Act("fail to unlock an account", PERMISSION, "user", lambda w: users.unlock(w.acting, 999),
        status="failure"),
    Act("change a name", CONFIG, "user",
        update("update users set full_name = 'Ada' where id = %s", ada),
        {"full_name": None}, {"full_name": "Ada"}),
    Act("change a setting of an account", CONFIG, "user",
        update("update users set security_settings = '{\"a\": 1}' where id = %s", ada),
        {"security_settings": {}}, {"security_settings": {"a": 1}}),
    Act("remove an account", PERMISSION, "user",
        owners("delete from users where id = %s", ada),
        before={"email": "ada@example.org"}, alone=False),
    # ── keys ──
    Act("make a key", PERMISSION, "api_key",
        lambda w: keys.create(w.acting, w.ada.id, "another"),
        after={"name": "another", "is_active": True}),
    Act("fail to make a key", PERMISSION, "api_key", lambda w: keys.create(w.acting, 999, "x"),
        status="failure"),
    Act("revoke a key", PERMISSION, "api_key", lambda w: keys.revoke(w.acting, key(w)),
        {"is_active": True}, {"is_active": False}, needs="key"),
    Act("fail to revoke a key", PERMISSION, "api_key", lambda w: keys.revoke(w.acting, 999),
        status="failure"),
    Act("rotate a key", PERMISSION, "api_key", lambda w: keys.rotate(w.acting, key(w)),
        after={"replaces": 1}, needs="key"),
    Act("end a key by rotation", PERMISSION, "api_key", lambda w: keys.rotate(w.acting, key(w)),
        {"expires_at": None}, {"expires_at": ...}, needs="key"),
    Act("fail to rotate a key", PERMISSION, "api_key", lambda w: keys.rotate(w.acting, 999),
        status="failure"),
    Act("widen a key", PERMISSION, "api_key",
        update("update api_keys set rate_limit_per_minute = 7 where id = %s", key),
        {"rate_limit_per_minute": 100}, {"rate_limit_per_minute": 7}, needs="key"),
    Act("use a key", "api_call", "api_key", lambda w: keys.check(w.acting, w.key.text.reveal()),
        after={"scope": None}, needs="key"),
    Act("use a key that is refused", "api_call", "api_key",
        lambda w: keys.check(w.acting, w.key.text.reveal(), scope="manage:accounts"),
        after={"scope": "manage:accounts"}, status="failure", needs="key"),
    Act("remove a key", PERMISSION, "api_key",
        owners("delete from api_keys where id = %s", key),
        before={"name": "a key"}, needs="key", alone=False),
    # ── settings ──
    Act("set a limit", CONFIG, "queue_limit",
        lambda w: queue.limit_running(w.acting, 3, group="night"),
        after={"max_running": 3, "job_group": "night", "user_id": None}),
    Act("change a limit", CONFIG, "queue_limit", lambda w: change_limit(w, 4),
        {"max_running": 3}, {"max_running": 4}),
    Act("take a limit away", CONFIG, "queue_limit", lambda w: change_limit(w, None),
        before={"max_running": 3}),
    Act("hold the trail", CONFIG, "audit_hold", lambda w: audit.hold(w.acting, "matter 7"),
        after={"reason": "matter 7"}),
    Act("release the trail", CONFIG, "audit_hold", release, {"released_at": None},
        {"released_at": ..., "reason": "closed"}, alone=False),
]  # fmt: skip


@pytest.fixture
def world(database, services, tmp_path):
    made = World(database, services, tmp_path)
    assert made.ada
    return made


def fits(wanted: dict[str, Any] | None, found: Any) -> bool:
    """Whether an event says what is wanted; ``...`` is any value but null."""
    if wanted is None or not wanted:
        return (found or None) is None
    return found is not None and all(
        name in found and (found[name] is not None if value is ... else found[name] == value)
        for name, value in wanted.items()
    )


def done(world: World, act: Act) -> list[audit.Event]:
    """The events that an act leaves and that are its own."""
    if act.needs:
        getattr(world, act.needs)
    world.ready()
    try:
        act.do(world)
    except NegspaceError:
        assert act.status == "failure"
    return [
        event
        for event in world.events()
        if (event.action, event.resource_type, event.status)
        == (act.action, act.resource_type, act.status)
        and fits(act.before, event.changes_before)
        and (act.status == "failure" or fits(act.after, event.changes_after))
    ]


@pytest.mark.parametrize("act", ACTS, ids=[act.name for act in ACTS])
def test_each_act_leaves_its_event(world, act):
    (event,) = done(world, act)
    assert event.error_message if act.status == "failure" else event.error_message is None
    if act.alone:
        said = (event.user_id, event.ip_address, event.user_agent, event.request_id)
        assert said == (world.ada.id, ACTOR.ip_address, ACTOR.user_agent, ACTOR.request_id)


def test_the_table_holds_every_action_and_its_failures():
    assert {act.action for act in ACTS} == set(audit.ACTIONS)
    assert len({act.name for act in ACTS}) == len(ACTS)
    failed = {act.action for act in ACTS if act.status == "failure"}
    assert failed == set(audit.ACTIONS) - {"logout"}  # one that is no session ends nothing


def test_every_table_of_the_point_is_audited(world):
    """Whoever inserts, changes or removes a row leaves an event, by whatever way."""
    query = """
        select t.tgrelid::regclass::text || ' ' || v.verb as act
        from pg_trigger t
        join pg_proc p on p.oid = t.tgfoid
        cross join (values (4, 'insert'), (8, 'delete'), (16, 'update')) as v (bit, verb)
        where p.proname like 'audit_%' and t.tgtype & v.bit <> 0 and not t.tgisinternal
          and t.tgenabled <> 'D'"""
    with world.services.transaction(read_only=True) as connection:
        found = {row["act"] for row in db.rows(connection, query)}
    tables = ("users", "api_keys", "images", "analysis_results", "queue_limits")
    assert found == {f"{t} {verb}" for t in tables for verb in ("insert", "update", "delete")}


TRIGGERS = [
    ("analysis_results_audit_insert", "analysis_results", "store a result as the owner"),
    ("queue_limits_audit_insert", "queue_limits", "set a limit"),
    ("queue_limits_audit_update", "queue_limits", "change a limit"),
    ("queue_limits_audit_delete", "queue_limits", "take a limit away"),
    ("users_audit_update", "users", "give a role"),
    ("api_keys_audit_update", "api_keys", "revoke a key"),
    ("images_audit_delete", "images", "remove an image"),
]


@pytest.mark.parametrize(("trigger", "table", "name"), TRIGGERS)
def test_without_its_trigger_an_act_leaves_nothing(world, trigger, table, name):
    """The twin."""
    world.sql(f"alter table {table} disable trigger {trigger}", address=world.database.owner)
    (act,) = [act for act in ACTS if act.name == name]
    assert done(world, act) == []


def test_a_job_tells_of_its_result_once_whoever_the_services_are(world):
    """Also where they log in as the owner: then the trigger looks at who calls."""
    with Database(world.database.owner) as owner:
        world.services = owner
        held = world.job()
        world.ready()
        leases.complete(owner, held, completion())
        assert [event.action for event in world.events()] == ["run_analysis"]
        again = jobs.enqueue(owner, [world.image], WANTED)
        assert [one.outcome for one in again] == ["cached"]


def test_a_function_of_the_same_name_hides_nothing(world):
    assert world.image
    row = {"image_id": world.image, "user_id": world.ada.id}
    with db.connect(world.database.app) as app:
        app.execute(
            "create function pg_temp.complete_jobs(given jsonb) returns void language plpgsql as"
            " $$ begin insert into public.analysis_results (image_id, user_id, algorithm_name,"
            " algorithm_version, negative_space_data, confidence_score, processing_time_ms)"
            " select (given ->> 'image_id')::bigint, (given ->> 'user_id')::bigint, 'forged',"
            " '1.0.0', '{}', 0.5, 1; end $$"
        )
        world.ready()
        app.execute("select pg_temp.complete_jobs(%s)", [db.Jsonb(row)])
        app.commit()
    assert [event.action for event in world.events()] == ["run_analysis"]


def test_jobs_that_begin_and_end_change_no_limit(world):
    queue.limit_running(world.services, 3, user=world.ada.id)
    held = world.job()
    world.ready()
    leases.complete(world.services, held, completion())
    assert [event.resource_type for event in world.events()] == ["image"]


def test_tokens_that_are_long_past_go(world):
    with db.connect(world.database.owner) as owner:
        for days, letter in ((91, "a"), (89, "b")):
            past = datetime.now(UTC) - timedelta(days=days)
            given = {"token_hash": letter * 64, "email": "x@example.org", "purpose": "verify_email"}
            given |= {"user_id": world.ada.id, "created_at": past - timedelta(days=1)}
            insert(owner, "account_tokens", given | {"expires_at": past})
    assert recovery.purge(world.services) == 1
    with db.connect(world.database.owner) as owner:
        left = db.rows(owner, "select left(token_hash, 1) as first from account_tokens")
    assert [row["first"] for row in left] == ["b"]
    with pytest.raises(NegspaceError, match="a day or longer"):
        world.sql("select purge_account_tokens('1 hour')")
