"""``get_or_compute``: one computation at a time, whoever asks; bounds; counts."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest

from negspace import cache
from negspace import database as db
from negspace.cache import Cache
from negspace.database import Database
from negspace.errors import ConstraintError, InvalidInputError, RefusedError
from pgbouncer import PROGRAM, pgbouncer, through

DRIVER = Path(__file__).parent / "cache_driver.py"
HOUR = timedelta(hours=1)


@pytest.fixture
def owner(database):
    with db.connect(database.owner, autocommit=True) as connection:
        connection.execute("create table computed (key int not null, pid int not null)")
        connection.execute("grant all on computed to app_user")
        yield connection


@pytest.fixture
def values(services):
    with Cache(services) as made:
        yield made


def one(connection, query, *given):
    row = db.only(connection, query, given)
    assert row is not None
    return next(iter(row.values()))


def computing(values: Cache, key: str, **options) -> tuple[threading.Thread, threading.Event, list]:
    """Somebody who computes until the event is set."""
    begun, end, got = threading.Event(), threading.Event(), []

    def compute() -> str:
        begun.set()
        assert end.wait(30)
        return "new"

    thread = threading.Thread(
        target=lambda: got.append(values.get_or_compute(key, compute, ttl=HOUR, **options))
    )
    thread.start()
    assert begun.wait(30)
    return thread, end, got


def driver(address: str, *given: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(DRIVER), address, *map(str, given)], stdout=subprocess.PIPE, text=True
    )


def ask_all(address: str, processes: int, threads: int, keys: int) -> None:
    process = driver(address, processes, threads, keys)
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0
    assert [json.loads(line) for line in out.splitlines()] == [{"wrong": []}] * processes


def test_a_value_is_computed_once_and_then_read(values):
    calls = []
    for _ in range(3):
        found = values.get_or_compute(
            "a", lambda: calls.append(1) or {"voids": [1, 2.5, None, "ñ"]}, ttl=HOUR
        )
        assert found == {"voids": [1, 2.5, None, "ñ"]}
    assert calls == [1]
    assert values.get("a") == found
    assert values.get("b") is None


def test_who_computes_gets_what_others_read(values):
    assert values.get_or_compute("a", lambda: (1, (2,)), ttl=HOUR) == [1, [2]]
    assert values.get("a") == [1, [2]]


@pytest.mark.parametrize(("processes", "threads"), [(64, 1), (4, 16)])
def test_64_that_ask_compute_each_of_100_keys_once(database, owner, processes, threads):
    ask_all(database.app, processes, threads, 100)
    found = db.rows(owner, "select key, count(*) as n from computed group by key order by key")
    assert [(row["key"], row["n"]) for row in found] == [(key, 1) for key in range(100)]
    assert len(db.rows(owner, "select distinct pid from computed")) > 1, "nobody shared the work"
    uses = db.only(owner, "select sum(hits + misses)::int as n from cached_value_uses")
    assert uses == {"n": 64 * 100}
    assert one(owner, "select count(*) from cached_value_leases") == 0


def test_who_takes_the_lease_as_the_value_is_stored_computes_nothing(database, owner, services):
    find = "select * from find_cached_value('a', '1 minute', '0', 'me')"
    with db.connect(database.app) as first:
        mine = db.only(first, find)
        got: list[object] = []
        other = threading.Thread(target=lambda: got.append(services.ask(find)))
        other.start()  # it sees neither value nor lease, and waits to take one
        waiting = "select count(*) from pg_locks where not granted"
        give_up = time.monotonic() + 30
        while not one(owner, waiting):
            assert time.monotonic() < give_up
            time.sleep(0.01)
        first.execute("select store_cached_value('a', %s, '7', '1 hour')", [mine["token"]])
        first.commit()
        other.join()
    assert got == [{"state": "fresh", "value": 7, "token": None}]
    assert one(owner, "select count(*) from cached_value_leases") == 0


@pytest.mark.skipif(PROGRAM is None, reason="pgbouncer is not installed")
def test_the_same_through_pgbouncer_in_transaction_mode(database, owner):
    with (
        tempfile.TemporaryDirectory() as place,
        pgbouncer(database.app, Path(place)) as port,
    ):
        ask_all(through(database.app, port), 2, 8, 10)
    assert one(owner, "select count(*) from computed") == 10


def test_a_process_that_dies_is_replaced_when_its_lease_ends(database, owner, values):
    process = driver(database.app, 1, 1, 1, "die")
    assert process.stdout is not None
    assert process.stdout.readline() == "computing\n"
    process.kill()
    process.communicate()
    assert one(owner, "select count(*) from cached_value_leases") == 1
    assert values.get_or_compute("key:0", lambda: "mine", ttl=HOUR) == "mine"


def test_a_long_computation_keeps_its_lease(services, owner):
    with Cache(services, lease=timedelta(seconds=0.3)) as short:
        thread, end, got = computing(short, "a")
        taken = one(owner, "select leased_until from cached_value_leases")
        with pytest.raises(RefusedError, match="still being computed"):
            short.get_or_compute("a", lambda: "other", ttl=HOUR, patience=timedelta(seconds=1))
        assert one(owner, "select leased_until from cached_value_leases") > taken
        end.set()
        thread.join()
    assert got == ["new"]


def test_what_raises_gives_the_lease_back(values, owner):
    with pytest.raises(ZeroDivisionError):
        values.get_or_compute("a", lambda: 1 / 0, ttl=HOUR)
    assert one(owner, "select count(*) from cached_value_leases where leased_until > now()") == 0
    quick = timedelta(0)
    assert values.get_or_compute("a", lambda: 2, ttl=HOUR, patience=quick) == 2


def test_who_lost_the_lease_stores_nothing(values, owner, caplog):
    def slow() -> str:
        owner.execute("update cached_value_leases set token = gen_random_uuid()")
        return "late"

    assert values.get_or_compute("a", slow, ttl=HOUR) == "late"
    assert values.get("a") is None
    assert "another computes it too" in caplog.text


def expire(owner, key: str) -> None:
    owner.execute(
        "update cached_values set computed_at = now() - interval '1 day',"
        " expires_at = now() - interval '1 minute', kept_until = now() + interval '1 minute'"
        " where key = %s",
        [key],
    )


def test_an_expired_value_stands_in_while_another_is_computed(values, owner):
    values.get_or_compute("a", lambda: "old", ttl=HOUR, stale=HOUR)
    expire(owner, "a")
    assert values.get("a") is None
    thread, end, got = computing(values, "a", stale=HOUR)
    stood_in = values.get_or_compute("a", lambda: "never", ttl=HOUR, stale=HOUR)
    with pytest.raises(RefusedError):  # who wants none that has expired waits
        values.get_or_compute("a", lambda: "never", ttl=HOUR, patience=timedelta(0))
    end.set()
    thread.join()
    assert (stood_in, got) == ("old", ["new"])
    values.flush()
    assert cache.value_stats(values._database).stale_hits_today == 1


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), "no JSON"),
        ({"a": [float("inf")]}, "no JSON"),
        (object(), "no JSON"),
        ("\ud800", "no JSON"),
        (["x" * 2**20] * 1024, "64 MB"),  # a gigabyte, of which one is in memory
        ("\0", "unsupported Unicode"),
    ],
)
def test_a_value_that_is_refused_leaves_what_was_there(values, owner, value, said):
    values.get_or_compute("a", lambda: "old", ttl=HOUR, stale=HOUR)
    expire(owner, "a")
    with pytest.raises(InvalidInputError, match=said):
        values.get_or_compute("a", lambda: value, ttl=HOUR)
    assert one(owner, "select value from cached_values") == "old"
    assert values.get_or_compute("a", lambda: "new", ttl=HOUR, patience=timedelta(0)) == "new"


@pytest.mark.parametrize("ttl", [timedelta(0), -HOUR, timedelta(days=4000)])
def test_times_that_mean_nothing_are_refused(values, ttl):
    def never() -> None:
        raise AssertionError("it was computed all the same")

    with pytest.raises(InvalidInputError, match="can't be kept"):
        values.get_or_compute("a", never, ttl=ttl)
    if ttl != timedelta(0):
        with pytest.raises(InvalidInputError, match="can't stand in"):
            values.get_or_compute("a", never, ttl=HOUR, stale=ttl)


@pytest.mark.parametrize("key", ["", "k" * 513, "a\0b"])
def test_keys_that_are_none_are_refused(values, key):
    with pytest.raises(InvalidInputError):
        values.get_or_compute(key, lambda: 1, ttl=HOUR)


def test_the_database_refuses_what_the_service_does(services, owner):
    token = "00000000-0000-0000-0000-000000000000"
    for ttl in ("0", "-1 hour", "11 years"):
        with pytest.raises(InvalidInputError, match="kept for more than nothing"):
            services.ask("select store_cached_value('a', %s, '1', %s::interval)", [token, ttl])
    found = services.ask("select * from find_cached_value('a', '1 minute', '0', 'me')")
    store = "select store_cached_value('a', %s, to_jsonb(repeat('x', 67108864)), '1 hour') as done"
    with pytest.raises(ConstraintError):
        services.ask(store, [found["token"]])
    assert services.ask("select store_cached_value('a', %s, '1', '1 hour') as done", [token]) == {
        "done": False
    }


def test_what_was_not_used_for_longest_goes_first(services, owner):
    with Cache(services, most_bytes=10_000) as small:
        for key in range(8):
            small.get_or_compute(f"{key}", lambda: "x" * 998, ttl=HOUR)  # 1000 bytes as JSON
        owner.execute("update cached_values set last_used_at = now() - interval '1 hour'")
        small.get("0")
        small.flush()
        for key in range(8, 12):
            small.get_or_compute(f"{key}", lambda: "x" * 998, ttl=HOUR)
    kept = {row["key"] for row in db.rows(owner, "select key from cached_values")}
    assert len(kept) == 10
    assert {"0", "8", "9", "10", "11"} <= kept
    assert cache.trim(services, 3_000) == 7
    assert one(owner, "select sum(size_bytes)::int from cached_values") == 3_000


def test_expired_values_are_removed_once_they_stand_in_no_more(services, values, owner):
    for key in "abc":
        values.get_or_compute(key, lambda: 1, ttl=HOUR)
    expire(owner, "a")
    assert cache.remove_expired_values(services) == 0
    owner.execute("update cached_values set kept_until = expires_at where key = 'a'")
    with db.connect(owner.info.dsn, password=owner.info.password) as other:
        other.execute("select from cached_values where key = 'a' for update")
        assert cache.remove_expired_values(services) == 0  # held: nobody waits
    assert cache.remove_expired_values(services) == 1


def test_reads_write_nothing_until_they_are_counted(services, values, owner):
    values.get_or_compute("a", lambda: 1, ttl=HOUR)
    for _ in range(5):
        values.get("a")
    values.get("b")
    assert one(owner, "select hit_count from cached_values") == 0
    values.flush()
    assert one(owner, "select hit_count from cached_values") == 5
    found = cache.value_stats(services)
    assert (found.values, found.hits_today, found.misses_today) == (1, 5, 2)


def test_a_thousand_reads_are_counted_without_being_asked(values, owner):
    values.get_or_compute("a", lambda: 1, ttl=HOUR)
    for _ in range(999):
        values.get("a")
    assert one(owner, "select hit_count from cached_values") == 999


def test_counting_never_breaks_a_read(services, values, owner, caplog):
    values.get_or_compute("a", lambda: 1, ttl=HOUR)
    owner.execute("revoke execute on all functions in schema public from operator_role")
    assert values.get("a") == 1
    values.flush()
    assert "are not counted" in caplog.text


def test_purging_by_prefix(cli, database, values):
    for key in ("report:1", "report:2", "tile:1"):
        values.get_or_compute(key, lambda: 1, ttl=HOUR)
    env = database.environment
    dry = cli("cache", "purge", "--values", "report:", "--dry-run", "--json", env=env).json
    assert dry == {"answers": 2, "removed": False}
    assert (
        "removed 2 values\n" in cli("cache", "purge", "--values", "report:", "--yes", env=env).out
    )
    stats = cli("cache", "stats", "--json", env=env).json
    assert (stats["values"], stats["computing"], stats["entries"]) == (1, 0, 0)


def test_a_cache_of_nothing_is_refused(services: Database) -> None:
    with pytest.raises(InvalidInputError):
        Cache(services, most_bytes=0)
    with pytest.raises(InvalidInputError):
        Cache(services, lease=timedelta(0))
