"""The cache: seen, keyed as the database keys it, cleared without losing a result."""

from __future__ import annotations

import pytest

import queue_singly as leases
from bench import Bench, png
from negspace import cache
from negspace.errors import InvalidInputError
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
    twin = bench.add_image(png(0), user=bench.add_user("eve@example.org"))
    bench.enqueue(twin)
    found = cache.stats(bench.services)
    assert (found.entries, found.hits, found.expired) == (2, 1, 0)
    assert found.size_bytes > 100
    assert found.last_hit_at is not None


def test_hits_are_carried_to_their_entries_in_batches(bench: Bench) -> None:
    images = filled(bench, 2)
    for n in range(3):
        bench.enqueue(bench.add_image(png(0), user=bench.add_user(f"u{n}@example.org")))
    bench.enqueue(bench.add_image(png(1), user=bench.add_user("eve@example.org")))
    entries = "select array_agg(hit_count order by image_id) from analysis_cache"
    assert bench.value(entries) == [0, 0]
    before = cache.stats(bench.services)
    assert bench.value("select count_cache_uses(3)") == 3
    assert sum(bench.value(entries)) == 3
    assert cache.stats(bench.services) == before
    bench.owner.execute("delete from analysis_cache where image_id = %s", [images[1]])
    assert cache.count_hits(bench.services) == 1  # of an entry that has gone, maybe
    assert bench.value(entries) == [3]
    assert bench.value("select count(*) from analysis_cache_uses") == 0
    assert cache.count_hits(bench.services) == 0
    used = "select last_accessed_at > created_at from analysis_cache"
    assert bench.value(used)


@pytest.mark.parametrize("most", [0, None])
def test_a_batch_of_hits_has_one_at_least(bench: Bench, most: int | None) -> None:
    with pytest.raises(InvalidInputError, match="one hit or more"):
        bench.services.ask("select count_cache_uses(%s)", [most])


def test_keys_are_those_of_the_entries(bench: Bench) -> None:
    filled(bench, 1)
    [row] = bench.all(
        "select r.*, i.file_hash, c.cache_key from analysis_results r"
        " join images i on i.id = r.image_id join analysis_cache c on c.analysis_id = r.id"
    )
    parameters = dict(reversed(row["algorithm_parameters"].items()))  # order means nothing
    made = cache.key(bench.services, row["file_hash"], "rehearsal", "1.0.0", parameters)
    assert made == row["cache_key"]
    other = cache.key(bench.services, row["file_hash"], "rehearsal", "1.0.1", parameters)
    assert other != made


def test_an_expired_answer_is_none(bench: Bench) -> None:
    images = filled(bench, 2)
    bench.owner.execute(
        "update analysis_cache set created_at = now() - interval '2 days',"
        " expires_at = now() - interval '1 day' where image_id = %s",
        [images[0]],
    )
    assert cache.stats(bench.services).expired == 1
    twin = bench.add_image(png(0), user=bench.add_user("eve@example.org"))
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
    assert "2 answers were" in bench.cli("cache", "purge", "--all", "--yes").out
    assert bench.cli("cache", "stats", "--json").json["entries"] == 0
