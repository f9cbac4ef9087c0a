"""New jobs wake sleeping workers where notifications come through, and are found where not."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from bench import Bench, until
from negspace.database import rows
from negspace.worker import Options, leases
from negspace.worker.claimer import Claimer
from negspace.worker.reach import Identity
from negspace.worker.wakeups import Wakeups
from pgbouncer import PROGRAM, pgbouncer, through
from queue_steps import ALL, enlist

LONG = 3600.0  # seconds between two polls: only a wake-up finds a job


def asleep(bench: Bench) -> int:
    return bench.value("select count(*) from workers where sleeping_since is not null")


class Sleeper:
    """A worker's claimer with nothing to do, and no polls."""

    def __init__(self, bench: Bench, name: str) -> None:
        self.jobs: list[int] = []
        options = Options(poll=LONG)
        identity = Identity(name, ("rehearsal@1.0.0",), bench.database.app, options)
        bench.value("select register_worker(%s, 'here', 1, '{}')", [name])
        self.claimer = Claimer(
            identity,
            lambda jobs: self.jobs.extend(job.id for job in jobs),
            drained=lambda: None,
            failed=lambda error: None,
        )
        self.claimer.start()
        self.claimer.want(1)

    def end(self) -> None:
        self.claimer.stop()
        self.claimer.join()


def test_as_many_sleepers_wake_as_there_are_jobs_and_the_longest_first(bench: Bench) -> None:
    sleepers = []
    for number in range(3):
        sleepers.append(Sleeper(bench, f"w{number}"))
        until(lambda n=number: asleep(bench) == n + 1, "it says that it sleeps")
        until(lambda n=number: sleepers[n].claimer.asleep, "it has looked once more")
    first = bench.enqueue(bench.add_image())
    until(lambda: sleepers[0].jobs == [first], "who sleeps longest wakes")
    second, third = bench.enqueue(bench.add_images(2))
    until(lambda: sleepers[1].jobs and sleepers[2].jobs, "the two others wake")
    assert sorted(sleepers[1].jobs + sleepers[2].jobs) == [second, third]
    until(lambda: asleep(bench) == 0, "they say that they are awake")
    for sleeper in sleepers:
        sleeper.end()


def test_a_job_that_came_while_it_fell_asleep_is_found(bench: Bench) -> None:
    """The notification was sent to nobody: it was not yet known to sleep."""
    job = bench.enqueue(bench.add_image())
    sleeper = Sleeper(bench, "w")
    until(lambda: sleeper.jobs == [job], "it looks once more")
    sleeper.end()


def test_notifications_are_found_to_come_through(bench: Bench) -> None:
    heard: list[int] = []
    identity = Identity("w", (), bench.database.app, Options())
    wakeups = Wakeups(identity, heard.append)
    wakeups.start()
    until(lambda: wakeups.work, "the probe arrives")
    bench.owner.execute("select pg_notify('negspace_jobs', '7'), pg_notify('negspace_jobs', 'x')")
    until(lambda: heard == [7], "a count is heard, and nothing else")
    wakeups.end()


@pytest.mark.skipif(PROGRAM is None, reason="pgbouncer is not installed")
def test_behind_a_pooler_a_worker_polls(bench: Bench) -> None:
    with (
        tempfile.TemporaryDirectory() as place,
        pgbouncer(bench.database.app, Path(place)) as port,
    ):
        run = bench.start(DATABASE_URL=through(bench.database.app, port))
        until(lambda: "new jobs are polled for" in run.said, "it finds that out")
        job = bench.enqueue(bench.add_image())
        until(lambda: bench.status(job) == "completed", "the job is found all the same")
        assert asleep(bench) == 0
        run.signal(15)
        assert run.ended()["completed"] == 1


def test_a_claim_reads_the_images_of_its_jobs_alone(bench: Bench) -> None:
    """The planner knows nothing of how many are claimed; what wakes a worker is to be quick."""
    bench.owner.execute(
        "insert into images (user_id, file_name, original_filename, file_path, file_size,"
        " mime_type, file_hash) select id, n, n, n, 1, 'image/png', sha256_hex(n)"
        " from users, lateral (select n::text from generate_series(1, 3000) n) s"
    )
    bench.owner.execute("analyze images")
    given = [enlist(bench), 1, list(ALL), None]
    with bench.services.transaction() as connection:
        plan = rows(connection, "explain (costs off) " + leases.CLAIM, given)
    said = "\n".join(row["QUERY PLAN"] for row in plan)
    assert "Index Scan using images_pkey on images" in said
    assert "Seq Scan on images" not in said
