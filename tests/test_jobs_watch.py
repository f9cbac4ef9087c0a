"""The queue as it is seen while it runs: its numbers, what they cost, and how they are shown."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import queue_singly as leases
from bench import PATIENCE, Bench, until
from negspace import jobs, queue_state
from negspace.cli.times import lasting
from negspace.database import sql
from queue_steps import claimed, completion, enlist

EMPTY = dict.fromkeys(jobs.STATUSES, 0)


@pytest.fixture
def worker(bench: Bench) -> str:
    return enlist(bench)


def test_an_empty_queue(bench: Bench) -> None:
    state = queue_state.read(bench.services)
    assert state.depth == EMPTY
    assert (state.oldest_waiting_seconds, state.waiting, state.running) == (None, None, None)
    assert (state.workers, state.failures, state.reasons) == ((), (), ())
    assert state.seconds_left == 0
    assert state.bars == (0,) * 30


def test_what_waits_runs_and_ended(bench: Bench, worker: str) -> None:
    ids = bench.enqueue(bench.add_images(7), max_retries=0)
    for _ in range(2):
        leases.complete(bench.services, claimed(bench), completion())
    for number in (1, 22):
        held = claimed(bench)
        name = held.original_filename
        leases.fail(bench.services, held, f"{name}: page {number} is torn", again=False)
    running = claimed(bench)
    long_ago = "update processing_queue set scheduled_at = scheduled_at - interval '1 hour'"
    bench.owner.execute(long_ago + " where id = %s", [ids[5]])

    state = queue_state.read(bench.services)

    assert state.depth == EMPTY | {"queued": 2, "processing": 1, "completed": 2, "failed": 2}
    assert running.id == ids[4]
    assert state.open == 3
    assert state.oldest_waiting_seconds == pytest.approx(3600, abs=PATIENCE)
    assert state.completed_per_second == pytest.approx(2 / 60)
    assert state.failed_per_second == pytest.approx(2 / 60)
    assert sum(bar or 0 for bar in state.bars) == 2
    [one] = state.workers
    assert (one.id, one.hostname, one.held, one.completed, one.failed) == (
        worker,
        "here",
        1,
        2,
        2,
    )
    assert state.live_workers == 1
    [reason] = state.reasons
    assert (reason.text, reason.jobs) == ("FILE: page N is torn", 2)
    [kind] = state.failures
    assert (kind.algorithm_name, kind.tries, kind.jobs) == ("rehearsal", 2, 2)
    assert state.seconds_left is not None
    assert 1 <= state.seconds_left <= PATIENCE  # three jobs, at two in the time since


def test_planned_jobs_are_not_late_before_their_time(bench: Bench) -> None:
    bench.enqueue(bench.add_image())
    planned = "update processing_queue set created_at = now() - interval '3 hours', scheduled_at = "
    bench.owner.execute(planned + "now() + interval '1 hour'")
    assert queue_state.read(bench.services).oldest_waiting_seconds is None
    bench.owner.execute(planned + "now() - interval '2 hours'")
    oldest = queue_state.read(bench.services).oldest_waiting_seconds
    assert oldest == pytest.approx(7200, abs=PATIENCE)


def test_percentiles_are_those_of_the_tries(bench: Bench) -> None:
    measure(bench, "job_run_ms", [100.0 * n for n in range(1, 101)], "1 minute")
    measure(bench, "job_run_ms", [1e6] * 100, "20 minutes")
    measure(bench, "job_wait_ms", [1000, 3000], "1 minute")
    state = queue_state.read(bench.services)
    assert state.running == queue_state.Times(5.05, pytest.approx(9.505))
    assert state.waiting == queue_state.Times(2, pytest.approx(2.9))


def test_the_pace_of_more_ends_than_are_looked_at(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second's worth of jobs is seen: the pace is right, the bars before it are unknown."""
    for second in range(0, 30):
        measure(bench, "job_run_ms", [5.0] * 100, f"{second} seconds")
    monkeypatch.setattr(queue_state, "MOST_ENDS", 1000)
    monkeypatch.setitem(queue_state.PARAMETERS, "most", 1000)
    state = queue_state.read(bench.services)
    assert state.completed_per_second == pytest.approx(1000 / 9, rel=0.3)
    assert state.bars[:20] == (None,) * 20
    assert state.bars[-2] == 200


def measure(bench: Bench, name: str, values: list[float], ago: str) -> None:
    bench.owner.execute(
        "insert into performance_metrics (metric_name, value, unit, labels, recorded_at)"
        " select %s, v, 'ms', '{\"outcome\": \"completed\"}', clock_timestamp() - %s::interval"
        " from unnest(%s::numeric[]) v",
        [name, ago, values],
    )


# ── what it costs ────────────────────────────────────────────────────────────────────────


def touched(plan: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Each node that reads the queue's hot partition: how, and how many rows it looked at."""
    if plan.get("Relation Name") == "processing_queue_hot" or "hot" in plan.get("Index Name", ""):
        removed = plan.get("Rows Removed by Filter", 0) + plan.get(
            "Rows Removed by Index Recheck", 0
        )
        yield plan["Node Type"], round((plan["Actual Rows"] + removed) * plan["Actual Loops"])
    for below in plan.get("Plans", []):
        yield from touched(below)


@pytest.mark.parametrize("statistics", ["none", "of an empty queue", "fresh"])
def test_no_query_reads_the_queue(bench: Bench, worker: str, statistics: str) -> None:
    """Whatever the planner believes: at most the front of each list, and what is running."""
    if statistics == "of an empty queue":
        bench.owner.execute("analyze processing_queue, performance_metrics, workers")
    [image] = bench.add_images(1)
    bench.owner.execute(
        "insert into processing_queue (image_id, user_id, algorithm_name, algorithm_version,"
        " algorithm_parameters, priority)"
        " select %s, %s, 'rehearsal', '1.0.0', jsonb_build_object('n', n), n %% 10 + 1"
        " from generate_series(1, 5000) n",
        [image, bench.user],
    )
    running = 3
    assert len(bench.all("select id from claim_jobs(%s, %s)", [worker, running])) == running
    if statistics == "fresh":
        bench.owner.execute("analyze processing_queue, performance_metrics, workers")
    with bench.services.transaction(read_only=True) as connection:
        assert queue_state.read_within(connection).depth["queued"] == 5000 - running
        for name, query in queue_state.QUERIES.items():
            explain = sql.SQL("explain (analyze, format json) ") + sql.SQL(query)
            given = queue_state.PARAMETERS if "%(" in query else None
            row = connection.execute(explain, given).fetchone()
            assert row is not None
            nodes = list(touched(row["QUERY PLAN"][0]["Plan"]))
            assert not [node for node in nodes if node[0] == "Seq Scan"], (name, nodes)
            assert sum(count for _, count in nodes) <= 30, (name, nodes)
            assert bool(nodes) == (name in ("oldest", "workers")), (name, nodes)


# ── the command ──────────────────────────────────────────────────────────────────────────


def test_once_as_a_block_and_as_json(bench: Bench, worker: str) -> None:
    bench.enqueue(bench.add_images(2))
    claimed(bench)
    shown = bench.cli("jobs", "watch", "--once")
    assert (shown.status, shown.err) == (0, "")
    assert re.search(r"^jobs +queued 1   processing 1   completed 0", shown.out, re.M)
    assert re.search(r"^here +1 +1 +– +", shown.out, re.M), "the worker, its process, what it holds"
    ran = bench.cli("jobs", "watch", "--once", "--json")
    assert ran.out.count("\n") == 1
    assert ran.json["depth"] == EMPTY | {"queued": 1, "processing": 1}
    assert ran.json["workers"][0]["held"] == 1


def test_nobody_works_and_it_says_so(bench: Bench) -> None:
    bench.enqueue(bench.add_image())
    assert "never: no worker runs" in bench.cli("jobs", "watch", "--once").out


@contextmanager
def watching(bench: Bench, *options: str, output: Any = subprocess.PIPE) -> Iterator[Any]:
    with subprocess.Popen(
        [sys.executable, "-m", "negspace", "jobs", "watch", "--every", "0.1", *options],
        env=bench.environment | {"TERM": "xterm", "COLUMNS": "120"},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_each_look_is_a_line_for_scripts(bench: Bench, number: int) -> None:
    with watching(bench, "--json") as process:
        first, second = (json.loads(process.stdout.readline()) for _ in range(2))
        assert first["at"] < second["at"]
        bench.enqueue(bench.add_images(3))
        until(lambda: json.loads(process.stdout.readline())["depth"]["queued"] == 3, "it is seen")
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, err) == (0, "")


def test_who_reads_may_go_away(bench: Bench) -> None:
    with watching(bench) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=PATIENCE) == 0
        assert process.stderr.read() == ""


def test_in_a_terminal_it_is_drawn_in_place(bench: Bench) -> None:
    ours, theirs = pty.openpty()
    with watching(bench, output=theirs) as process:
        os.close(theirs)
        seen = b""

        def shows(text: bytes) -> bool:
            nonlocal seen
            if select.select([ours], [], [], 0)[0]:
                seen += os.read(ours, 65536)
            return text in seen

        until(lambda: shows(b"queued 0"), "the empty queue")
        bench.enqueue(bench.add_images(7))
        until(lambda: shows(b"queued 7"), "the jobs that came")
        assert b"\x1b[2K" in seen, "the last picture is wiped"
        process.send_signal(signal.SIGINT)
        until(lambda: shows(b"\x1b[?25h"), "the cursor is there again")
        assert process.wait(timeout=PATIENCE) == 0
        assert process.stderr.read() == ""
    os.close(ours)


def test_a_server_that_goes_away_is_said_once_and_waited_for(bench: Bench) -> None:
    limit = sql.SQL("alter database {} connection limit {}")
    name = sql.Identifier(bench.database.name)
    cut = (
        "select count(pg_terminate_backend(pid)) from pg_stat_activity"
        " where datname = current_database() and usename = 'operator_role'"
    )
    with watching(bench, "--json") as process:
        process.stdout.readline()
        bench.owner.execute(limit.format(name, 0))
        assert bench.value(cut) >= 1
        assert "waiting for it" in process.stderr.readline()
        time.sleep(0.5)  # it looks again meanwhile, and says nothing more
        bench.owner.execute(limit.format(name, -1))
        bench.enqueue(bench.add_image())
        until(lambda: json.loads(process.stdout.readline())["depth"]["queued"] == 1, "it goes on")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, err) == (0, "")


def test_no_server_at_the_start_is_an_error(bench: Bench) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "negspace", "jobs", "watch"],
        env=bench.environment | {"DATABASE_URL": "postgresql://app_user@127.0.0.1:1/nothing"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 5
    assert "can't reach" in done.stderr


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 ms"), (0.0123, "12 ms"), (3.44, "3.44 s"), (89, "89 s"), (90, "1.5 min"),
        (5400, "1.5 h"), (172_800, "2 d"), (1e9, "11,574 d"),
    ],
)  # fmt: skip
def test_times_as_people_say_them(seconds: float, text: str) -> None:
    assert lasting(seconds) == text
