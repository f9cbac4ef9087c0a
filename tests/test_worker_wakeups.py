"""New jobs wake sleeping workers where notifications come through, and are found where not."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path

import pytest

from bench import Bench, until
from negspace.database import Actor, rows
from negspace.worker import Options, leases
from negspace.worker.claimer import Claimer
from negspace.worker.reach import Identity
from negspace.worker.wakeups import Wakeups
from pgbouncer import PROGRAM, pgbouncer, through
from queue_steps import ALL, claimed, completion, enlist

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
    bench.enqueue(bench.add_image())
    given = [enlist(bench), 1, list(ALL), None]
    scans = "select seq_scan, idx_tup_fetch from pg_stat_xact_user_tables where relname = 'images'"
    with bench.services.transaction() as connection:
        assert len(rows(connection, "select * from " + leases.CLAIM + " c", given)) == 1
        [read] = rows(connection, scans)
    assert read["seq_scan"] == 0
    assert read["idx_tup_fetch"] < 10


def test_what_a_claim_fails_on_its_way_is_said_to_be_the_workers(bench: Bench) -> None:
    """A claim is one statement, which states who acts before it does anything."""
    worker = enlist(bench)
    job = bench.enqueue(bench.add_image())
    bench.owner.execute(
        "update processing_queue set deadline_at = clock_timestamp() - interval '1 hour',"
        " scheduled_at = clock_timestamp() - interval '2 hours' where id = %s",
        [job],
    )
    bench.owner.execute("select setval('queue_next_whole_sweep', 1)")
    actor = Actor(user_agent="negspace worker w1")
    assert leases.claim(bench.services.acting_as(actor), worker, ALL, 1) == []
    query = (
        "select e.user_agent from security_audit e join processing_queue q on q.id = %s"
        " where e.resource_id = q.image_id::text and e.status = 'failure'"
    )
    assert bench.value(query, [job]) == "negspace worker w1"


def test_claims_and_naps_dont_wait_for_the_disk_and_ends_do(bench: Bench) -> None:
    """What a crash may undo: see what is set when a transaction commits."""
    waits = f"alter database {bench.database.name} set synchronous_commit = on"
    bench.owner.execute(waits.encode())
    bench.services.drop_connections()
    bench.owner.execute("create table seen (what text, waits text)")
    bench.owner.execute(
        "create function see() returns trigger language plpgsql security definer as $$ begin"
        " insert into seen values (tg_argv[0], current_setting('synchronous_commit'));"
        " return null; end $$"
    )
    for table, what in {"processing_queue_hot": "claim", "workers": "nap"}.items():
        bench.owner.execute(
            f"create constraint trigger see_{what} after update on {table} deferrable"
            f" initially deferred for each row execute function see('{what}')".encode()
        )
    bench.owner.execute(
        "create constraint trigger see_end after insert on analysis_results deferrable"
        " initially deferred for each row execute function see('end')"
    )
    enlist(bench)
    bench.enqueue(bench.add_image())
    job = claimed(bench)
    for resting in (True, False):
        leases.rest(bench.services, "w1", timedelta(seconds=10), resting=resting)
    naps = bench.all("select waits from seen where what = 'nap'")
    assert naps == [{"waits": "off"}] * 2
    leases.finish(bench.services, "complete", [leases.End(job, "complete", completion())])
    seen = bench.all("select what, waits from seen where what <> 'nap' order by what")
    assert seen == [{"what": "claim", "waits": "off"}, {"what": "end", "waits": "on"}]
