"""Housekeeping: the steps, that one of many does each, and that failing is not silent."""

from __future__ import annotations

import os
import re
import threading
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from doctoring import change, faults, well
from negspace import database as db
from negspace import upkeep
from negspace.database import Database
from negspace.errors import InvalidInputError
from negspace.storage import Storage
from schema_rows import add
from tampering import settle

STEPS = [step.name for step in upkeep.STEPS]


@pytest.fixture
def env(database, tmp_path):
    return database.environment | {"NEGSPACE_STORAGE": str(tmp_path / "storage")}


@pytest.fixture
def owned(database):
    with Database(database.owner) as opened:
        yield opened


@pytest.fixture
def keeping(services, owned, tmp_path):
    return upkeep.Keeping(services, Storage(tmp_path / "storage"), owned)


@pytest.fixture
def superuser(database):
    with db.connect(database.superuser, autocommit=True) as connection:
        yield connection


def by_step(outcomes: list[upkeep.Outcome]) -> dict[str, upkeep.Outcome]:
    return {one.step: one for one in outcomes}


def test_the_page_has_every_step():
    page = (Path(__file__).parent.parent / "docs/maintain.md").read_text("utf-8")
    written: dict[str, str] = {}
    for names, every in re.findall(r"^\| ([a-z, ]+) \| (1 \w+) \|", page, re.M):
        written |= dict.fromkeys(names.split(", "), every)
    spans = {50: "1 minute", 3600: "1 hour", 86400: "1 day"}
    assert written == {one.name: spans[int(one.every.total_seconds())] for one in upkeep.STEPS}
    assert len(set(STEPS)) == len(STEPS)


def test_every_step_is_done_and_noted(keeping, superuser):
    done = upkeep.maintain(keeping)
    assert [(one.step, one.state) for one in done] == [(name, "done") for name in STEPS]
    noted = db.rows(superuser, "select step from upkeep_steps where ended_at is not null")
    assert {row["step"] for row in noted} == set(STEPS)
    assert {one.state for one in upkeep.maintain(keeping, due_only=True)} == {"not due"}
    superuser.execute(
        "update upkeep_steps set ended_at = now() - interval '61 minutes' where step = 'keys'"
    )
    again = upkeep.maintain(keeping, due_only=True)
    assert [one.step for one in again if one.state == "done"] == ["keys"]


def test_each_step_does_its_work(keeping, superuser):
    image = add(superuser, "images")
    add(superuser, "analysis_cache", created_at="2026-01-01", expires_at="2026-01-02")
    add(superuser, "cached_values")
    add(superuser, "job_logs", logged_at="2020-01-01")
    stray = keeping.storage.put(b"x", "png")
    os.utime(keeping.storage.path(stray), (0, 0))
    settle(keeping.database)
    done = by_step(upkeep.maintain(keeping))
    for name in ("audit seals", "cache", "cached values", "job logs", "storage", "accounts"):
        if name != "accounts":
            assert done[name].count == 1 or name == "audit seals", (name, done[name])
    assert done["audit seals"].count >= 1
    assert done["statistics"].count >= 4
    assert db.only(superuser, "select id from images where id = %s", [image["id"]])


def test_parents_have_fresh_statistics(keeping, superuser):
    add(superuser, "security_audit")
    upkeep.maintain(keeping)
    known = "select count(*) as n from pg_statistic where starelid = 'security_audit'::regclass"
    assert db.only(superuser, known)["n"] > 0


def test_one_works_and_the_others_say_so(keeping, superuser):
    holder = db.only(
        superuser, "select * from begin_upkeep('keys', '0', interval '1 hour', 'elsewhere:7')"
    )
    assert holder["state"] == "yours"
    done = by_step(upkeep.maintain(keeping))
    assert (done["keys"].state, done["keys"].said) == ("busy", "elsewhere:7 is at it")
    assert done["accounts"].state == "done"
    superuser.execute("update upkeep_steps set leased_until = now() where step = 'keys'")
    assert by_step(upkeep.maintain(keeping))["keys"].state == "done"
    superuser.execute("select end_upkeep('keys', %s, 99)", [holder["token"]])  # it comes too late
    assert db.only(superuser, "select done from upkeep_steps where step = 'keys'")["done"] == 0


def test_many_at_once_do_each_step_once(keeping, superuser):
    outcomes: list[upkeep.Outcome] = []
    threads = [
        threading.Thread(target=lambda: outcomes.extend(upkeep.maintain(keeping, due_only=True)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.step for one in outcomes if one.state == "done") == sorted(STEPS)
    assert {one.state for one in outcomes} <= {"done", "busy", "not due"}


def test_a_step_that_fails_is_told_and_the_others_are_done(keeping, superuser, env):
    superuser.execute("revoke execute on function count_api_key_uses(integer) from operator_role")
    done = by_step(upkeep.maintain(keeping))
    assert done["keys"].state == "failed"
    assert "count_api_key_uses" in done["keys"].said
    assert {one.state for one in done.values() if one.step != "keys"} == {"done"}
    assert "keys failed" in faults("housekeeping", env)[0]
    superuser.execute("grant execute on function count_api_key_uses(integer) to operator_role")
    assert by_step(upkeep.maintain(keeping, due_only=True))["keys"].state == "done"
    assert well("housekeeping", env)


def test_falling_behind_is_no_secret(keeping, superuser, env):
    add(superuser, "users", created_at="2026-01-01")
    assert "partitions" in faults("housekeeping", env)[0]  # never done, and used for long
    upkeep.maintain(replace(keeping, owner=None))
    assert well("housekeeping", env)  # no samples are old
    superuser.execute("update upkeep_steps set ended_at = now() - interval '1 day'")
    superuser.execute(
        "create table performance_metrics_200001 partition of performance_metrics"
        " for values from ('2000-01-01 00:00+00') to ('2000-02-01 00:00+00')"
    )
    (said,) = faults("housekeeping", env)
    assert "partitions" in said
    assert "samples" in said
    assert "storage" not in said  # due once a day


def test_months_of_old_jobs_are_made_and_two_years_are_the_most(keeping, database, superuser, env):
    assert by_step(upkeep.maintain(keeping))["partitions"].count == 0  # nothing waits
    job = add(superuser, "processing_queue", created_at="now")
    superuser.execute(
        "update processing_queue set created_at = now() - interval '5 months' where id = %s",
        [job["id"]],
    )
    assert by_step(upkeep.maintain(keeping))["partitions"].count == 4 * 5
    assert by_step(upkeep.maintain(keeping))["partitions"].count == 0
    older = add(superuser, "processing_queue", created_at="2019-06-15")
    assert by_step(upkeep.maintain(keeping))["partitions"].count > 0  # two years back
    month = "select to_char(now() at time zone 'UTC' - interval '5 months', 'YYYYMM') as name"
    name = db.only(superuser, month)["name"]
    assert db.only(
        superuser, "select to_regclass('processing_queue_ended_' || %s) as oid", [name]
    ) != {"oid": None}
    (said,) = faults("partitions", env)
    assert "processing_queue_ended_201906" in said
    remedy = "create table public.processing_queue_ended_201906 partition of"
    from doctoring import look

    text = look("partitions", env)[0].remedy
    assert remedy in text
    change(database.superuser, text[text.index("create table") :])
    assert well("partitions", env)
    assert older["id"]


def test_ended_jobs_leave_by_the_policy_alone(keeping, superuser):
    superuser.execute("select ensure_partitions(oldest => now() - interval '9 months')")
    parts = (
        "select count(*) as n from pg_inherits where inhparent = 'processing_queue_ended'::regclass"
    )
    before = db.only(superuser, parts)["n"]
    assert by_step(upkeep.maintain(keeping))["jobs"].count == 0
    policy = upkeep.Policy(jobs=timedelta(days=90))
    went = by_step(upkeep.maintain(replace(keeping, policy=policy)))["jobs"].count
    assert went >= 5
    assert db.only(superuser, parts)["n"] == before - went
    # they stay away, but for the month that a job needs to end in
    long_ago = "now() - interval '8 months'"
    superuser.execute(f"select ensure_partitions(oldest => {long_ago})")
    assert db.only(superuser, parts)["n"] == before - went
    job = add(superuser, "processing_queue")["id"]
    moved = f"update processing_queue set created_at = {long_ago}, scheduled_at = {long_ago}"
    superuser.execute(f"{moved} where id = %s", [job])
    assert by_step(upkeep.maintain(replace(keeping, policy=policy)))["partitions"].count == 1
    assert db.only(superuser, parts)["n"] == before - went + 1


def test_a_policy_that_keeps_too_little_is_told(keeping):
    wrong = replace(keeping, policy=upkeep.Policy(samples=timedelta(days=1)))
    assert "31 days" in by_step(upkeep.maintain(wrong))["samples"].said
    with pytest.raises(InvalidInputError):
        upkeep.purge_job_logs(keeping.database, timedelta(days=-1))


def test_the_database_refuses_times_that_mean_nothing(services):
    for every, lease in (("-1 second", "1 hour"), ("0", "0"), (None, "1 hour")):
        with pytest.raises(InvalidInputError):
            services.ask(
                "select begin_upkeep('x', %s::interval, %s::interval, 'me')", [every, lease]
            )


def test_the_command(cli, env, superuser):
    add(superuser, "cached_values")
    dry = {one["step"]: one for one in cli("maintain", "--dry-run", "--json", env=env).json}
    assert dry["cached values"]["count"] == 1
    assert {one["state"] for one in dry.values()} == {"would be done"}
    assert db.only(superuser, "select count(*) as n from upkeep_steps")["n"] == 0
    ran = cli("maintain", env=env)
    assert (ran.status, "1 expired values removed" in ran.out) == (0, True)
    assert "not due" in cli("maintain", "--due", env=env).out
    services_only = {k: v for k, v in env.items() if k != "NEGSPACE_OWNER_URL"}
    left = {one["step"]: one for one in cli("maintain", "--json", env=services_only).json}
    assert (left["samples"]["state"], left["samples"]["said"]) == ("left out", "it needs the owner")
    superuser.execute("revoke execute on function count_api_key_uses(integer) from operator_role")
    failed = cli("maintain", "--json", env=env)
    assert (failed.status, [o["step"] for o in failed.json if o["state"] == "failed"]) == (
        1,
        ["keys"],
    )


def test_a_worker_keeps_house(services, superuser):
    from negspace.worker.housekeeping import Housekeeper

    keeper = Housekeeper(services)
    keeper.start()
    query = "select count(*) as n from upkeep_steps where ended_at is not null"
    end = time.monotonic() + 30
    while db.only(superuser, query)["n"] < len(STEPS) - 2:  # all but the owner's and the storage's
        assert time.monotonic() < end
        time.sleep(0.05)
    keeper.end()
