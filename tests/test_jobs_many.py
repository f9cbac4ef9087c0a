"""Many images asked for at once: the short way for new ones in their order, and the way around."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

import queue_singly as leases
from bench import Bench, until
from negspace import jobs
from negspace.database import Connection, Jsonb, connect, rows
from queue_steps import claimed, completion, enlist

SHORT, AROUND = "insert_new_jobs", "insert_jobs"
JOBS = (
    "select image_id, user_id, algorithm_name, algorithm_version, algorithm_parameters,"
    " parameters_hash, status, priority, max_retries, complexity_score, processing_metadata,"
    " deadline_at, job_group, created_at - min(created_at) over () as after,"
    " scheduled_at = created_at as at_once,"
    " estimated_completion_at - greatest(created_at, scheduled_at) as takes"
    " from processing_queue where id = any (%s) order by id"
)
LATER = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture
def worker(bench: Bench) -> str:
    return enlist(bench)


def ways(connection: Connection) -> list[str]:
    """Which functions have put jobs in, in this transaction."""
    query = (
        "select funcname from pg_stat_xact_user_functions"
        " where funcname in ('insert_jobs', 'insert_new_jobs') order by 1"
    )
    return [row["funcname"] for row in rows(connection, query)]


def asked(
    bench: Bench, images: Sequence[int], **more: Any
) -> tuple[list[str], list[str], list[dict[str, Any]]]:
    """The ways, the outcomes and the new jobs of a request that is taken back."""
    with connect(bench.database.superuser) as connection:
        connection.execute("set track_functions = 'all'")
        answers = jobs.enqueue_within(connection, images, bench.wanted(), **more)
        queued = [one.job_id for one in answers if one.outcome == "queued"]
        assert queued == sorted(queued), "jobs come in the order of the images"
        found = rows(connection, JOBS, [queued])
        taken = ways(connection)
        connection.rollback()
    return taken, [one.outcome for one in answers], found


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"weight": 7.25, "priority": 8, "max_retries": 0, "job_group": "night"},
        {"use_cache": False, "deadline_at": LATER + timedelta(days=1), "scheduled_at": LATER},
        {"requested_by": True},
    ],
    ids=["plain", "weight", "planned", "requested"],
)
@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (3, 0, 4, 2, 1)], ids=["by number", "mixed"])
def test_both_ways_make_the_same_jobs(
    bench: Bench, worker: str, more: dict[str, Any], order: Sequence[int]
) -> None:
    images = bench.add_images(4)
    images.append(bench.add_image(user=bench.add_user("grace@example.org")))
    sized = "update images set image_dimensions = %s where id = %s"
    for image, size in zip(
        images,
        [
            '{"width": 4294967295, "height": 4294967295, "channels": 3}',
            '{"width": 4e3, "height": 3001.0, "channels": 3}',
            None,
        ],
        strict=False,
    ):
        bench.owner.execute(sized, [size, image])
    bench.owner.execute(
        "insert into algorithm_speeds (algorithm_name, algorithm_version, ms_per_job,"
        " ms_per_megapixel, jobs_ahead, jobs_before, live_workers) values"
        " ('rehearsal', '1.0.0', 2000, 30, 4, '{4,4,4,4,3,2,1,0,0,0}', 2)"
    )
    if "requested_by" in more:
        more = {"requested_by": bench.user}
    waiting = bench.add_image()
    jobs.enqueue(bench.services, [waiting], bench.wanted())
    images = [images[n] for n in order]
    way, outcomes, new = asked(bench, images, **more)
    around, told, same = asked(bench, [*images, waiting], **more)
    assert (way, around) == ([SHORT], [AROUND, SHORT])
    assert outcomes == ["queued"] * 5
    assert told == [*outcomes, "waiting"]
    assert asked(bench, [*images, *images[::-1]], **more) == (way, outcomes, new), "each once"
    assert new == same
    assert [row["image_id"] for row in new] == images
    assert [row["after"] for row in new] == [timedelta(microseconds=n) for n in range(5)]


def test_what_waits_already_is_told_and_the_rest_is_new(bench: Bench) -> None:
    images = bench.add_images(4)
    first = bench.enqueue(images[2], behave="well")
    wanted = bench.wanted(behave="well", mark=str(bench.mark))
    written = "select n_tup_ins as n from pg_stat_xact_user_tables"
    written += " where relname = 'processing_queue_hot'"
    with connect(bench.database.superuser) as connection:
        answers = jobs.enqueue_within(connection, images, wanted)
        assert rows(connection, written.encode()) == [{"n": 3}], "none in vain"
    assert [one.outcome for one in answers] == ["queued", "queued", "waiting", "queued"]
    assert answers[2].job_id == first
    other = jobs.enqueue(bench.services, images, bench.wanted(behave="well", mark="another"))
    assert {one.outcome for one in other} == {"queued"}, "another analysis of the same images"


def test_images_that_were_analysed_wait_again(bench: Bench, worker: str) -> None:
    images = bench.add_images(3)
    bench.enqueue(images)
    leases.complete(bench.services, claimed(bench), completion())
    answers = jobs.enqueue(bench.services, images, bench.wanted(mark="another"))
    assert [one.outcome for one in answers] == ["queued"] * 3
    assert {
        bench.value("select analysis_status from images where id = %s", [i]) for i in images
    } == {"pending"}


def by_hand(connection: Connection, bench: Bench, image: int) -> None:
    """The job that ``bench.wanted()`` asks for, written by the tables' owner without any lock."""
    what = bench.wanted()
    connection.execute(
        "insert into processing_queue (image_id, user_id, algorithm_name, algorithm_version,"
        " algorithm_parameters) values (%s, %s, %s, %s, %s)",
        [image, bench.user, what.algorithm_name, what.algorithm_version,
         Jsonb(dict(what.algorithm_parameters))],
    )  # fmt: skip


def test_a_job_that_is_written_by_hand_meanwhile_is_waited_for(bench: Bench) -> None:
    images = bench.add_images(3)
    found: list[list[jobs.Enqueued]] = []
    with connect(bench.database.superuser) as connection:
        by_hand(connection, bench, images[1])
        ask = threading.Thread(
            target=lambda: found.append(jobs.enqueue(bench.services, images, bench.wanted()))
        )
        ask.start()
        waits = "select from pg_stat_activity where wait_event = 'transactionid'"
        until(lambda: bench.all(waits + " and datname = current_database()"), "it waits")
        connection.commit()
    ask.join(60)
    [answers] = found
    assert [one.outcome for one in answers] == ["queued", "waiting", "queued"]
    assert bench.value("select count(*) from processing_queue") == 3
    assert bench.value("select sum(job_count) from queue_depth") == 3, "counted once each"


def test_a_transaction_that_cant_see_a_job_is_told_to_try_again(bench: Bench) -> None:
    images = bench.add_images(2)
    with connect(bench.database.superuser) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        rows(connection, "select from images")
        bench.enqueue(images[1], behave="well")
        wanted = bench.wanted(behave="well", mark=str(bench.mark))
        with pytest.raises(psycopg.errors.SerializationFailure):
            jobs.enqueue_within(connection, images, wanted)
        connection.rollback()
        answers = jobs.enqueue_within(connection, images, wanted)
    assert [one.outcome for one in answers] == ["queued", "waiting"]


# ── what is there already ────────────────────────────────────────────────────────────────


def test_a_result_answers_without_an_entry_and_an_entry_without_a_result(
    bench: Bench, worker: str
) -> None:
    images = bench.add_images(5)
    bench.enqueue(images[1:3], behave="well")
    for _ in range(2):
        leases.complete(bench.services, claimed(bench), completion())
    bench.owner.execute("delete from analysis_cache where image_id = %s", [images[1]])
    bench.owner.execute("update analysis_cache set analysis_id = null")
    bench.owner.execute("delete from analysis_results where image_id = %s", [images[2]])
    wanted = bench.wanted(behave="well", mark=str(bench.mark))
    for fingerprint in ("0" * 64, "f" * 64):  # entries of other kinds, before and behind
        bench.owner.execute(
            "insert into analysis_cache (cache_key, algorithm_fingerprint, cached_result)"
            " values (%s, %s, '{}')",
            [fingerprint, fingerprint],
        )
    expected = ["queued", "cached", "cached", "queued", "queued"]
    answers = jobs.enqueue(bench.services, images, wanted)
    assert [one.outcome for one in answers] == expected
    bench.owner.execute("delete from analysis_cache")
    twice = [image for image in images for _ in range(2)]
    again = jobs.enqueue(bench.services, twice, wanted)
    assert [one.outcome for one in again] == [o.replace("queued", "waiting") for o in expected]


def looks(bench: Bench, images: Sequence[int], wanted: jobs.Wanted) -> dict[str, dict[str, int]]:
    """What one request reads of the tables, which is then taken back."""
    query = (
        "select relname, idx_scan as looks, idx_tup_fetch as rows, seq_scan as scans"
        " from pg_stat_xact_user_tables"
        " where relname in ('analysis_cache', 'analysis_results', 'images')"
    )
    with connect(bench.database.superuser) as connection:
        jobs.enqueue_within(connection, images, wanted)
        found = {row["relname"]: row for row in rows(connection, query)}
        connection.rollback()
    return found


def test_no_entry_is_looked_for_where_there_is_none_of_the_kind(bench: Bench, worker: str) -> None:
    """Whatever the planner believes of tables that were empty when statistics were taken."""
    bench.owner.execute("analyze analysis_cache, analysis_results, processing_queue, images")
    analysed, images = bench.add_images(20), bench.add_images(20)
    for kind in "abcd":  # their entries come before and behind in the index
        bench.enqueue(analysed, behave="well", until=kind)
    for _ in range(80):
        leases.complete(bench.services, claimed(bench), completion())
    read = looks(bench, images, bench.wanted(mark="another"))
    assert read["analysis_cache"]["looks"] == 1, "for any of the kind"
    assert read["analysis_cache"]["rows"] <= 1
    assert read["analysis_results"]["rows"] == 0, "by image"
    assert read["images"]["rows"] <= 2 * 20, "locked, and referred to"
    assert not any(table["scans"] for table in read.values())

    bench.owner.execute("delete from analysis_cache")
    wanted = bench.wanted(behave="well", until="a", mark=str(bench.mark))
    assert looks(bench, [*images, analysed[0]], wanted)["analysis_cache"]["looks"] <= 1 + 2
