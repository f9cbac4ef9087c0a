"""Real worker processes, real signals, a real database: nothing is lost, nothing done twice."""

from __future__ import annotations

from bench import Bench


def test_two_processes_do_every_job_exactly_once(bench: Bench) -> None:
    images = bench.add_images(30)
    ids = bench.enqueue(images)
    ran = bench.drain("--processes", "2")
    assert ran["completed"] == 30
    assert {bench.status(job) for job in ids} == {"completed"}
    assert bench.begun() == 30
