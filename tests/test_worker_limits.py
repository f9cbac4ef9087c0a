"""What a job may do to its process, and what is known of it afterwards."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pytest

from bench import Bench, until
from negspace import jobs
from negspace.errors import InvalidInputError
from negspace.worker import Options, logs
from negspace.worker.lines import FIRST, LAST

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux says how much memory is in use"
)


def said(bench: Bench, job: int) -> list[list[str]]:
    """What each try of a job said."""
    found = logs.of_job(bench.services, job)
    return [[line["message"] for line in one.lines] for one in found]


def failed(bench: Bench, job: int) -> tuple[int, str]:
    """How often a failed job was tried, and why it failed."""
    found = bench.job(job)
    assert found.status == "failed"
    return found.attempt, str(found.error_message)


@needs_proc
def test_a_job_that_takes_too_much_memory_fails_and_the_next_is_done(bench: Bench) -> None:
    greedy = bench.enqueue(bench.add_image(), behave="gorge", priority=10)
    modest = bench.enqueue(bench.add_image())
    ran = bench.drain("--memory-limit", "500")
    assert bench.status(modest) == "completed"
    attempt, why = failed(bench, greedy)
    assert attempt == 1, "it would take as much again"
    assert why.endswith("more than the 500 MB allowed")
    assert (ran["completed"], ran["failed"], ran["restarts"]) == (1, 1, 1)


@needs_proc
def test_memory_that_is_reserved_and_never_touched_is_not_counted(bench: Bench) -> None:
    """As numpy's libraries do, a stack and buffers for each core."""
    job = bench.enqueue(bench.add_image(), behave="reserve")
    bench.drain("--memory-limit", "500")
    assert bench.status(job) == "completed"


def test_a_job_that_hangs_in_foreign_code_ends_with_its_process(bench: Bench) -> None:
    """It holds the interpreter's lock: no thread of its process would ever run again."""
    hanging = bench.enqueue(bench.add_image(), behave="hold", priority=10, max_retries=0)
    other = bench.enqueue(bench.add_image())
    bench.drain("--time-limit", "1.5")
    assert bench.status(other) == "completed"
    _, why = failed(bench, hanging)
    assert why.startswith("not done within the 1.5 s allowed, when it was in _behave (rehearsal")
    [words] = said(bench, hanging)
    assert any("rehearsal.py" in line for line in words), words


def test_a_job_that_ends_its_process_three_times_fails_for_good(bench: Bench) -> None:
    deadly = bench.enqueue(bench.add_image(), behave="die", ms=2, max_retries=10)
    other = bench.enqueue(bench.add_image())
    run = bench.start("--drain")
    until(lambda: bench.hurry() or bench.status(deadly) == "failed", "it fails for good")
    ran = run.ended()
    attempt, why = failed(bench, deadly)
    assert attempt == 3
    assert re.fullmatch(
        r"its process was killed by SIGKILL(, \d+ MB of memory at its peak)?;"
        r" its last words: line 1",
        why,
    )
    assert bench.status(other) == "completed"
    assert (ran["completed"], ran["failed"], ran["restarts"]) == (1, 3, 3)
    tries = said(bench, deadly)
    assert [lines[:2] for lines in tries] == [["line 0", "line 1"]] * 3
    assert all(lines[-1].startswith("the process was killed by SIGKILL") for lines in tries)


def test_a_process_that_dies_leaves_what_it_said_on_stderr_and_its_memory(bench: Bench) -> None:
    quiet = bench.enqueue(bench.add_image(), behave="mutter", priority=10, max_retries=0)
    job = bench.enqueue(bench.add_image(), behave="abort", max_retries=0)
    run = bench.start("--drain")
    run.ended()
    _, why = failed(bench, job)
    found = re.fullmatch(
        r"its process was killed by SIGABRT, in _behave \(rehearsal.py:\d+\), (\d+) MB of memory"
        r" at its peak; on stderr: free\(\): invalid pointer",
        why,
    )
    assert found, why
    assert int(found[1]) > 128, "what it touched"
    [lines] = said(bench, job)
    assert lines[0] == "free(): invalid pointer", "and nothing of the job before"
    assert any("rehearsal.py" in line for line in lines), "where it was"
    assert lines[-1].startswith("the process was killed by SIGABRT, ")
    assert bench.status(quiet) == "completed"
    assert "muttered on stderr" in run.said
    assert "free(): invalid pointer" in run.said, "the worker's own standard error has it too"
    assert "\0" not in run.said


def test_what_a_job_says_is_kept_within_bounds(bench: Bench) -> None:
    job = bench.enqueue(bench.add_image(), behave="speak", ms=FIRST + LAST + 7)
    quiet = bench.enqueue(bench.add_image())
    bench.drain()
    [log] = logs.of_job(bench.services, job)
    assert log.left_out == 7
    first, last = [line["message"] for line in log.lines], log.lines[-1]
    assert first[FIRST - 1 : FIRST + 1] == [f"line {FIRST - 1}", f"line {FIRST + 7}"]
    assert (last["message"], last["level"]) == (f"line {FIRST + LAST + 6}", "INFO")
    assert last["logger"] == "somebody.elses"
    assert logs.of_job(bench.services, quiet) == []


def test_a_failed_try_keeps_where_it_failed(bench: Bench) -> None:
    job = bench.enqueue(bench.add_image(), behave="flaky", max_retries=0)
    bench.drain()
    [lines] = said(bench, job)
    assert (lines[0], "bad" in lines[-1]) == ("Traceback (most recent call last):", True)
    ran = bench.cli("jobs", "log", str(job))
    assert (ran.status, "the weather was bad" in ran.out) == (0, True)
    [told] = bench.cli("jobs", "log", str(job), "--json").json
    assert told["attempt"] == 1
    assert bench.cli("jobs", "log", str(job + 1)).status == 1


def test_what_a_running_job_says_is_seen_before_it_ends(bench: Bench) -> None:
    door = bench.folder / "door"
    job = bench.enqueue(bench.add_image(), behave="sleep", until=door, ms=1)
    run = bench.start("--drain")
    until(lambda: said(bench, job) == [["waiting"]], "its first line is stored")
    assert bench.status(job) == "processing"
    run.signal(signal.SIGKILL)  # and stays, whatever becomes of the worker
    assert said(bench, job) == [["waiting"]]


def test_old_logs_are_removed_and_new_ones_are_kept(bench: Bench) -> None:
    ids = [bench.enqueue(bench.add_image(), behave="speak", ms=1) for _ in range(2)]
    bench.drain()
    long_ago = "update job_logs set logged_at = now() - interval '40 days' where job_id = %s"
    bench.owner.execute(long_ago, [ids[0]])
    assert bench.cli("maintain").status == 0  # workers do the same, an hour after the last time
    assert [said(bench, job) for job in ids] == [[], [["line 0"]]]


@pytest.mark.parametrize(
    "options", [{"time_limit": 0}, {"time_limit": float("nan")}, {"memory_limit": 1000}]
)
def test_limits_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        Options(**options)


def test_a_limit_is_said_in_the_units_of_people(bench: Bench) -> None:
    assert bench.cli("worker", "run", "--memory-limit", "much").status == 2
    assert jobs.list_jobs(bench.services) == []


def test_a_worker_takes_nothing_heavier_than_its_capacity(bench: Bench) -> None:
    heavy = bench.enqueue(bench.add_image(), weight=40, priority=10)
    light = bench.enqueue(bench.add_image(), weight=30)
    bench.drain("--capacity", "30")
    assert (bench.status(heavy), bench.status(light)) == ("queued", "completed")
    for none in (0, -1, float("inf"), float("nan")):
        with pytest.raises(InvalidInputError, match="megapixels"):
            Options(capacity=none)
