"""The cache: seen, keyed as the database keys it, cleared without losing a result."""

from __future__ import annotations

import pytest

import queue_singly as leases
from acting import acting, join
from bench import Bench, png
from conftest import MIGRATIONS
from negspace import cache
from negspace import database as db
from negspace.database import Jsonb
from negspace.errors import InvalidInputError
from negspace.worker.leases import claim
from queue_steps import claimed, completion, enlist


def filled(bench: Bench, count: int) -> list[int]:
    enlist(bench)
    images = [bench.add_image(png(shade)) for shade in range(count)]
    for image in images:
        bench.enqueue(image)
        leases.complete(bench.services, claimed(bench), completion())
    return images


def test_stats_and_hits(bench: Bench) -> None:
    assert cache.stats(bench.services).entries == 0
    filled(bench, 2)
    twin = bench.add_image(png(0))
    bench.enqueue(twin)
    found = cache.stats(bench.services)
    assert (found.entries, found.hits, found.expired) == (2, 1, 0)
    assert found.size_bytes > 100
    assert found.last_hit_at is not None


def test_hits_are_carried_to_their_entries_in_batches(bench: Bench) -> None:
    images = filled(bench, 2)
    for shade in (0, 0, 0, 1):
        bench.enqueue(bench.add_image(png(shade)))
    entries = "select array_agg(hit_count order by image_id) from analysis_cache"
    assert bench.value(entries) == [0, 0]
    before = cache.stats(bench.services)
    assert (before.analysis_hits_today, before.analysis_misses_today) == (4, 2)
    assert bench.value("select count_cache_uses(3)") == 3 + 2  # two rows of misses besides
    assert sum(bench.value(entries)) == 3
    assert cache.stats(bench.services) == before
    bench.owner.execute("delete from analysis_cache where image_id = %s", [images[1]])
    assert cache.count_hits(bench.services) == 1  # of an entry that has gone, maybe
    assert bench.value(entries) == [3]
    assert bench.value("select count(*) from analysis_cache_uses") == 0
    assert cache.count_hits(bench.services) == 0
    used = "select last_accessed_at > created_at from analysis_cache"
    assert bench.value(used)


def test_misses_are_counted_a_batch_at_a_time(bench: Bench) -> None:
    enlist(bench)
    images = [bench.add_image(png(shade)) for shade in range(5)]
    for image in images[:4]:
        bench.enqueue(image)
    bench.enqueue(images[4], use_cache=False)  # asks for no answer, and misses none
    found = {"negative_space_data": {}, "confidence_score": 0.5, "processing_time_ms": 1}
    leases_of = "select id as job, attempt, lease_token::text as token from claim_jobs('w1', 5)"
    ends = [row | found for row in bench.all(leases_of)]
    bench.services.ask("select count(*) from complete_jobs(%s)", [Jsonb(ends)])
    assert bench.all("select misses from analysis_cache_misses") == [{"misses": 4}]

    def today() -> tuple[int, int]:
        found = cache.stats(bench.services)
        return found.analysis_hits_today, found.analysis_misses_today

    assert today() == (0, 4)
    twin = bench.add_image(png(0))
    bench.enqueue(twin)
    assert today() == (1, 4)
    assert cache.count_hits(bench.services) == 2  # rows, one of either kind
    assert today() == (1, 4)
    assert bench.all("select hits, misses from analysis_cache_days") == [{"hits": 1, "misses": 4}]
    assert bench.value("select count(*) from analysis_cache_misses") == 0
    bench.owner.execute("update analysis_cache_days set day = day - interval '1 day'")
    assert today() == (0, 0)


@pytest.mark.parametrize("most", [0, None])
def test_a_batch_of_hits_has_one_at_least(bench: Bench, most: int | None) -> None:
    with pytest.raises(InvalidInputError, match="one hit or more"):
        bench.services.ask("select count_cache_uses(%s)", [most])


def test_keys_are_those_of_the_entries(bench: Bench) -> None:
    filled(bench, 1)
    [row] = bench.all(
        "select r.*, i.user_id as owner, i.file_hash, c.cache_key from analysis_results r"
        " join images i on i.id = r.image_id join analysis_cache c on c.analysis_id = r.id"
    )
    parameters = dict(reversed(row["algorithm_parameters"].items()))  # order means nothing
    asked = (bench.services, row["owner"], row["file_hash"], "rehearsal")
    made = cache.key(*asked, "1.0.0", parameters)
    assert made == row["cache_key"]
    other = cache.key(*asked, "1.0.1", parameters)
    assert other != made


# ── whose answers ────────────────────────────────────────────────────────────────────────


def told(bench: Bench) -> list[tuple[str, bool, bool]]:
    """What somebody is told of two files: one that another had analysed, and one that nobody has.

    Of each: what becomes of the question, and whether the worker is told that the answer is
    there, and gets it.
    """
    enlist(bench)
    one, other = (join(bench.owner, "analyst") for _ in range(2))
    bench.enqueue(bench.add_image(png(1), user=one.id))
    leases.complete(bench.services, claimed(bench), completion())
    images = [bench.add_image(png(shade), user=other.id) for shade in (1, 2)]
    ask = "select outcome from enqueue_own_jobs(%s, 'rehearsal', '1.0.0', %s) order by image_id"
    with acting(bench.database.web, other) as web:
        parameters = Jsonb(bench.wanted(behave="well", mark=str(bench.mark)).algorithm_parameters)
        asked = db.rows(web, ask, [images, parameters])
        web.commit()
    held = {job.image_id: job for job in claim(bench.services, "w1", ["rehearsal@1.0.0"], 2)}
    return [
        (
            row["outcome"],
            held[image].answered,
            leases.complete_from_cache(bench.services, held[image]) is not None,
        )
        for row, image in zip(asked, images, strict=True)
    ]


def test_a_file_that_somebody_else_had_analysed_is_as_one_that_nobody_has(bench: Bench) -> None:
    assert told(bench) == [("queued", False, False)] * 2


def test_a_key_without_the_owner_tells_what_others_have(bench: Bench) -> None:
    """The twin."""
    bench.owner.execute(
        "create or replace function cache_key(file_hash text, algorithm_fingerprint text,"
        " owner bigint) returns text language sql immutable"
        " as $$ select sha256_hex(file_hash || ':' || algorithm_fingerprint) $$"
    )
    many = "select replace(pg_get_functiondef('cache_keys'::regproc), %s, '') as made"
    made = db.only(bench.owner, many, [" || ':' || i.user_id"])
    assert made is not None
    bench.owner.execute(made["made"].encode())
    known, unknown = told(bench)
    assert known == ("queued", True, True)
    assert unknown == ("queued", False, False)


def test_a_down_keeps_the_newest_answer_and_an_up_finds_it_again(bench: Bench) -> None:
    enlist(bench)
    owners = bench.user, bench.add_user("eve@example.org")
    for owner in owners:
        bench.enqueue(bench.add_image(png(1), user=owner))
        leases.complete(bench.services, claimed(bench), completion())
    since = [file for file in sorted(MIGRATIONS.glob("*.up.sql")) if file.name >= "032"]
    downs = [file.with_name(file.name.replace(".up.", ".down.")) for file in reversed(since)]
    with db.connect(bench.database.owner) as owner:
        for file in (*downs, *since):
            owner.execute(file.read_bytes())
    [entry] = bench.all(
        "select i.user_id, c.cache_key = cache_key(i.file_hash, c.algorithm_fingerprint, i.user_id)"
        " as fits from analysis_cache c join images i on i.id = c.image_id"
    )
    assert entry == {"user_id": owners[1], "fits": True}


# ── what stays ───────────────────────────────────────────────────────────────────────────


def test_an_expired_answer_is_none(bench: Bench) -> None:
    images = filled(bench, 2)
    bench.owner.execute(
        "update analysis_cache set created_at = now() - interval '2 days',"
        " expires_at = now() - interval '1 day' where image_id = %s",
        [images[0]],
    )
    assert cache.stats(bench.services).expired == 1
    twin = bench.add_image(png(0))
    assert bench.status(bench.enqueue(twin)) == "queued"
    assert cache.purge_expired(bench.services) == 1
    assert cache.stats(bench.services).entries == 1


def test_purging_by_analyser_keeps_results(bench: Bench) -> None:
    filled(bench, 2)
    assert cache.purge(bench.services, algorithm="rehearsal", version="9.9.9") == 0
    assert cache.purge(bench.services, algorithm="negative_space") == 0
    assert cache.count(bench.services, "rehearsal", "1.0.0") == 2
    assert cache.purge(bench.services, algorithm="rehearsal", version="1.0.0") == 2
    assert bench.value("select count(*) from analysis_results") == 2
    with pytest.raises(InvalidInputError, match="of which analyser"):
        cache.purge(bench.services, version="1.0.0")


def test_the_command_line(bench: Bench) -> None:
    filled(bench, 2)
    assert bench.cli("cache", "stats", "--json").json["entries"] == 2
    assert bench.cli("cache", "purge").status == 2
    refused = bench.cli("cache", "purge", "--all")
    assert (refused.status, "--yes" in refused.err) == (4, True)
    dry = bench.cli("cache", "purge", "--all", "--dry-run", "--json").json
    assert dry == {"answers": 2, "removed": False}
    assert "0 answers" in bench.cli("cache", "purge", "--expired").out
    assert "removed 2 answers\n" in bench.cli("cache", "purge", "--all", "--yes").out
    assert bench.cli("cache", "stats", "--json").json["entries"] == 0
