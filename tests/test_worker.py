"""Real worker processes, real signals, a real database: nothing is lost, nothing done twice."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import skimage

from bench import Bench, png, until
from negspace import cache, jobs
from negspace.database import sql


def once(bench: Bench, image: int, job: int) -> None:
    """The job has its whole effect, exactly once."""
    found = bench.job(job)
    assert (found.status, found.error_message) == ("completed", None)
    assert len(bench.all("select from analysis_results where image_id = %s", [image])) == 1
    assert [event["status"] for event in bench.audit(image)] == ["success"]
    status = "select analysis_status::text from images where id = %s"
    assert bench.value(status, [image]) == "completed"


def away(bench: Bench) -> None:
    """The server lets no worker in, and no worker has a connection."""
    cut = (
        "select count(pg_terminate_backend(pid)) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()"
    )
    limit = sql.SQL("alter database {} connection limit 0")
    bench.owner.execute(limit.format(sql.Identifier(bench.database.name)))
    assert bench.value(cut) >= 2


def back(bench: Bench) -> None:
    limit = sql.SQL("alter database {} connection limit -1")
    bench.owner.execute(limit.format(sql.Identifier(bench.database.name)))


def test_two_processes_do_every_job_exactly_once(bench: Bench) -> None:
    images = bench.add_images(30)
    ids = bench.enqueue(images)
    twins = [bench.add_image(png(0)) for _ in range(3)]
    twin_ids = bench.enqueue(twins, priority=1)

    ran = bench.drain("--processes", "2")

    for image, job in zip(images + twins, ids + twin_ids, strict=True):
        once(bench, image, job)
    assert bench.begun() == 30, "the same bytes again are answered from the cache"
    cached = "select count(*) from analysis_results where cache_hit"
    assert bench.value(cached) == 3
    assert cache.stats(bench.services).hits == 3
    assert (ran["completed"], ran["failed"], ran["restarts"]) == (33, 0, 0)
    workers = bench.all("select jobs_completed, jobs_failed, stopped_at, last_words from workers")
    assert sum(w["jobs_completed"] for w in workers) == 33
    assert {w["last_words"] for w in workers} == {"nothing left to do"}
    metrics = (
        "select metric_name, sum(sample_count)::integer as n from performance_metrics"
        " group by 1 order by 1"
    )
    assert [tuple(m.values()) for m in bench.all(metrics)] == [
        ("job_run_ms", 33),
        ("job_wait_ms", 33),
    ]
    agents = {event["user_agent"] for image in images for event in bench.audit(image)}
    assert all(agent.startswith("negspace worker ") for agent in agents)


def test_a_real_image_is_analysed_hashed_and_drawn(bench: Bench) -> None:
    coins = Path(skimage.__file__).parent / "data" / "coins.png"
    image = bench.add_image(coins.read_bytes())
    [asked] = jobs.enqueue(bench.services, [image], jobs.wanted(profile="photo"))
    bench.drain()
    assert bench.job(asked.job_id).status == "completed"
    [result] = bench.all("select * from analysis_results")
    assert result["negative_space_data"]["schema"] == "negspace.negative_space/1"
    assert result["algorithm_parameters"]["mode"] == "texture"
    assert set(result["performance_stats"]["steps_ms"]) == {
        "open",
        "decode_and_hash",
        "analyze",
        "draw",
    }
    assert result["performance_stats"]["process_max_rss_bytes"] > 2**20
    assert result["optimization_suggestions"] == []
    drawn = bench.storage.folder / result["visualization_path"]
    assert drawn.read_bytes().startswith(b"\x89PNG")
    [row] = bench.all("select * from images")
    assert len(row["pixel_hash"]) == 64
    assert row["perceptual_hash_algorithm"].startswith("dct-phash")


def test_broken_files_fail_for_good_and_stop_nothing(bench: Bench) -> None:
    contents = [b"this is a text", png(1)[:60], png(2)]
    images = [bench.add_image(content) for content in contents]
    gone = bench.add_image()
    bench.storage.remove(bench.value("select file_path from images where id = %s", [gone]))
    broken_a, broken_b, good = bench.enqueue(images)
    missing = bench.enqueue(gone, max_retries=0)
    refused = bench.enqueue(bench.add_image(), behave="break")

    ran = bench.drain()

    assert (ran["completed"], ran["failed"]) == (1, 4)
    once(bench, images[2], good)
    for job in (broken_a, broken_b, missing, refused):
        found = bench.job(job)
        assert (found.status, found.attempt) == ("failed", 1)
        assert str(bench.storage.folder) not in found.error_message
    failed = "select analysis_status::text, failure_reason from images where id = %s"
    [row] = bench.all(failed, [images[0]])
    assert row["analysis_status"] == "failed"
    assert row["failure_reason"] == bench.job(broken_a).error_message
    assert [event["status"] for event in bench.audit(images[0])] == ["failure"]


def test_a_transient_error_is_tried_again_with_backoff(bench: Bench) -> None:
    image = bench.add_image()
    job = bench.enqueue(image, behave="flaky")
    run = bench.start("--drain")
    until(lambda: bench.hurry() or bench.status(job) == "completed", "the third try succeeds")
    ran = run.ended()
    once(bench, image, job)
    found = bench.job(job)
    assert (found.attempt, found.retry_count) == (3, 2)
    assert (ran["completed"], ran["failed"]) == (1, 2)
    retries = "select analysis_retry_count from images where id = %s"
    assert bench.value(retries, [image]) == 2


def test_a_killed_process_is_replaced_and_its_job_done_once(bench: Bench) -> None:
    image, door = bench.add_image(), bench.folder / "door"
    job = bench.enqueue(image, behave="sleep", until=door)
    run = bench.start("--drain")
    until(bench.begun, "the analysis begins")
    first = bench.computing()
    os.kill(first, signal.SIGKILL)
    until(lambda: bench.hurry() or bench.begun() == 2, "the job begins again")
    assert bench.computing() != first
    door.touch()
    assert run.ended()["restarts"] == 1
    once(bench, image, job)
    assert bench.job(job).retry_count == 1
    assert "was killed by SIGKILL" in run.said


def test_a_killed_worker_leaves_its_jobs_to_others(bench: Bench) -> None:
    image, door = bench.add_image(), bench.folder / "door"
    job = bench.enqueue(image, behave="sleep", until=door)
    bench.start()
    first = bench.holder(job)
    said = "select %s = any (computing) from workers"
    until(lambda: bench.begun() and bench.value(said, [job]), "its worker says it computes it")
    computing = bench.computing()
    os.kill(first, signal.SIGKILL)
    bench.runs[0].process.wait()
    until(lambda: not Path(f"/proc/{computing}").exists(), "its computing process ends with it")
    run = bench.start("--drain")
    until(lambda: bench.hurry() or bench.begun() == 2, "the job is rescued and begins again")
    door.touch()
    run.ended()
    once(bench, image, job)
    assert bench.job(job).retry_count == 1


def test_a_stopped_worker_that_wakes_up_finds_itself_fenced(bench: Bench) -> None:
    image, door = bench.add_image(), bench.folder / "door"
    job = bench.enqueue(image, behave="sleep", until=door)
    zombie = bench.start("--drain")
    first = bench.holder(job)
    until(bench.begun, "the analysis begins")
    os.kill(first, signal.SIGSTOP)
    bench.start("--drain")
    until(lambda: bench.hurry() or bench.begun() >= 2, "another worker begins the job")
    door.touch()
    until(lambda: bench.status(job) == "completed", "the other completes it")
    os.kill(first, signal.SIGCONT)
    assert zombie.ended()["completed"] == 0
    once(bench, image, job)
    assert "no longer ours" in zombie.said or "dropped" in zombie.said


def test_sigterm_finishes_the_running_job_and_takes_no_other(bench: Bench) -> None:
    image, door = bench.add_image(), bench.folder / "door"
    job = bench.enqueue(image, behave="sleep", until=door, priority=10)
    other = bench.enqueue(bench.add_image())
    run = bench.start()
    bench.holder(job)
    until(bench.begun, "the analysis begins")
    run.signal(signal.SIGTERM)
    until(lambda: "stopping" in run.said, "the signal is heard")
    door.touch()
    ran = run.ended()
    assert (ran["stopped"], ran["completed"]) == (True, 1)
    once(bench, image, job)
    assert bench.status(other) == "queued"
    assert bench.value("select last_words from workers") == "told to stop"


@pytest.mark.parametrize("behave", ["sleep", "hold"])
def test_a_second_sigterm_gives_the_job_back_at_once(bench: Bench, behave: str) -> None:
    """Even out of a foreign call that never comes back to the interpreter."""
    image, door = bench.add_image(), bench.folder / "door"
    job = bench.enqueue(image, behave=behave, until=door)
    run = bench.start()
    bench.holder(job)
    until(bench.begun, "the analysis begins")
    run.signal(signal.SIGTERM)
    until(lambda: "stopping" in run.said, "the signal is heard")
    run.signal(signal.SIGINT)
    ran = run.ended()
    assert (ran["completed"], ran["failed"]) == (0, 0)
    found = bench.job(job)
    assert (found.status, found.retry_count) == ("retrying", 0)
    assert bench.audit(image) == []


def test_a_cancelled_running_job_is_dropped_and_the_next_one_done(bench: Bench) -> None:
    image, other = bench.add_images(2)
    job = bench.enqueue(image, behave="hold", priority=10)
    run = bench.start("--drain")
    bench.holder(job)
    until(bench.begun, "the analysis begins")
    assert jobs.cancel(bench.services, [job], reason="not needed") == [job]
    next_job = bench.enqueue(other)
    ran = run.ended()
    once(bench, other, next_job)
    assert bench.status(job) == "cancelled"
    assert bench.audit(image) == []
    assert (ran["completed"], ran["failed"], ran["restarts"]) == (1, 0, 1)


def test_a_finished_analysis_waits_for_a_database_that_went_away(bench: Bench) -> None:
    images, door = bench.add_images(2), bench.folder / "door"
    first = bench.enqueue(images[0], behave="sleep", until=door, priority=10)
    second = bench.enqueue(images[1])
    run = bench.start("--drain")
    bench.holder(first)
    until(bench.begun, "the analysis begins")
    away(bench)
    door.touch()  # the analysis is done, and there is nowhere to store it
    until(lambda: "waits for it" in run.said, "the worker notices")
    back(bench)
    assert run.ended()["completed"] == 2
    for image, job in zip(images, (first, second), strict=True):
        once(bench, image, job)
        assert bench.job(job).attempt == 1


def test_an_idle_worker_goes_on_when_the_server_is_back(bench: Bench) -> None:
    run = bench.start()
    until(lambda: bench.value("select sleeping_since from workers"), "it sleeps")
    away(bench)
    until(lambda: "waits for it" in run.said, "the worker notices")
    back(bench)
    image = bench.add_image()
    job = bench.enqueue(image)
    until(lambda: bench.status(job) == "completed", "the job is done")
    run.signal(signal.SIGTERM)
    assert run.ended()["completed"] == 1
    once(bench, image, job)


def test_told_twice_without_a_server_it_ends_and_another_does_the_job(bench: Bench) -> None:
    image, door = bench.add_image(), bench.folder / "door"
    job = bench.enqueue(image, behave="sleep", until=door)
    run = bench.start()
    bench.holder(job)
    until(bench.begun, "the analysis begins")
    away(bench)
    until(lambda: "waits for it" in run.said, "the worker notices")
    run.signal(signal.SIGTERM)
    until(lambda: "stopping" in run.said, "the signal is heard")
    run.signal(signal.SIGTERM)
    assert run.ended()["stopped"]
    back(bench)
    door.touch()
    run = bench.start("--drain")
    until(lambda: bench.hurry() or bench.status(job) == "completed", "another rescues the job")
    run.ended()
    once(bench, image, job)


def test_a_claim_whose_answer_was_lost_is_given_back(bench: Bench) -> None:
    run = bench.start()
    worker = until(lambda: bench.all("select id, process_id from workers"), "a worker is there")[0]
    # As if the connection had broken after the claim's commit: the worker knows of no job.
    # It stands still meanwhile, or it would be quicker.
    os.kill(worker["process_id"], signal.SIGSTOP)
    image = bench.add_image()
    job = bench.enqueue(image)
    assert len(bench.all("select * from claim_jobs(%s)", [worker["id"]])) == 1
    os.kill(worker["process_id"], signal.SIGCONT)
    until(lambda: bench.status(job) == "completed", "the job is given back and done")
    run.signal(signal.SIGTERM)
    run.ended()
    once(bench, image, job)
    assert bench.job(job).attempt == 2
    assert bench.job(job).retry_count == 0


def test_an_idle_worker_does_what_comes_later(bench: Bench) -> None:
    run = bench.start()
    until(lambda: bench.value("select id from workers"), "a worker registers")
    image = bench.add_image()
    job = bench.enqueue(image)
    until(lambda: bench.status(job) == "completed", "the job is done")
    run.signal(signal.SIGINT)
    assert run.ended()["completed"] == 1


def test_a_worker_mends_what_an_idle_year_left(bench: Bench) -> None:
    """A job older than every partition ends; expired answers go; other jobs are left alone."""
    image = bench.add_image()
    job = bench.enqueue(image)
    newer = jobs.Wanted("rehearsal", "2.0.0", {})  # which this worker doesn't have
    [left] = jobs.enqueue(bench.services, [image], newer)
    later = bench.enqueue(bench.add_image(), scheduled_at=datetime.now(UTC) + timedelta(days=1))
    long_ago = "update processing_queue set created_at = now() - interval '14 months'"
    bench.owner.execute(long_ago)
    bench.owner.execute(
        "insert into analysis_cache (cache_key, algorithm_fingerprint, cached_result,"
        " created_at, expires_at) values ('old', repeat('0', 64), '{}', now() - interval '2 days',"
        " now() - interval '1 day')"
    )
    assert bench.drain()["completed"] == 1
    assert bench.status(job) == "completed"
    assert {bench.status(left.job_id), bench.status(later)} == {"queued"}
    assert bench.value("select count(*) from analysis_cache where cache_key = 'old'") == 0
    counted = "select audit_event_count from users where id = %s"
    assert bench.value(counted, [bench.user]) > 0


def test_what_stands_in_the_way_is_said(bench: Bench) -> None:
    nobody = {"DATABASE_URL": "postgresql://app_user@127.0.0.1:1/nothing"}
    run = bench.start(**nobody)
    run.process.wait(timeout=40)
    assert run.process.returncode == 5
    assert "can't reach" in run.said
    run = bench.start(NEGSPACE_ANALYZERS="none_such")
    run.process.wait(timeout=40)
    assert run.process.returncode == 1
    assert "no analyser can be used" in run.said
    assert bench.cli("worker", "run", "--heartbeat", "5", "--lease", "6").status == 2
