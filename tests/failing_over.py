"""A primary that is killed while workers work and enqueuers enqueue, and what became of it all.

Shared by the test and by benchmarks/failover.py.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from bench import Bench, until
from conftest import TestDatabase, at, migrate_up
from negspace import database, jobs, server
from negspace.database import Database, PoolSize, again
from negspace.server import Server
from standby import copied, killed, several, started, synchronous, told

NAP = 20  # milliseconds that a job takes
PAUSE = 0.02  # seconds between two jobs of an enqueuer
UNNOTICED = 1.0  # seconds until whoever promotes the standby has noticed
STOCK = 200  # images that are made at once


class Pair:
    """A primary and its synchronous standby, and the next pair after it."""

    def __init__(self, home: Path, say: Callable[[str], None]) -> None:
        self._home, self._say = home, say
        self._names = iter(f"node{n}" for n in range(100))
        self.primary = started(home / next(self._names))
        migrate_up(self.database)
        self.standby: Server | None = None
        self._free_port: int | None = None
        self.address = self.superuser = ""

    @property
    def database(self) -> TestDatabase:
        """The primary's, by addresses of its own."""
        urls = [self.primary.url(role) for role in ("owner", "operator", "app", "superuser")]
        return TestDatabase("negative_space", *urls)

    def follow(self) -> None:
        """Give the primary a synchronous standby."""
        name = next(self._names)
        copied(self.primary, self._home / name, name, self._free_port)
        self.standby = started(self._home / name)
        # or it would wait for a standby of its own as soon as it is promoted
        told(self.standby, "alter system set synchronous_standby_names = ''")
        told(self.standby, "select pg_reload_conf()")
        synchronous(self.primary, name)
        self.address = several([self.primary, self.standby])
        self.superuser = several([self.primary, self.standby], "superuser")
        self._say(f"{name} is synchronous")

    def close(self) -> None:
        """Its servers are stopped with the folder that they lie in."""

    def fail_over(self) -> float:
        """Kill the primary, wait until that was noticed, promote the standby.

        Returns:
            When it was dead, by the monotonic clock.
        """
        assert self.standby
        killed(self.primary)
        dead = time.monotonic()
        time.sleep(UNNOTICED)
        told(self.standby, "select pg_promote()")
        server.stop(at(self.primary.home), mode="immediate")
        shutil.rmtree(self.primary.home)
        self._free_port = self.primary.port  # the next one is found by the same address
        self.primary, self.standby = self.standby, None
        return dead


class Images:
    """Images that nobody asked for yet: more are made when they run out, however long it takes."""

    def __init__(self, pair: Failing, bench: Bench) -> None:
        self._pair, self._bench = pair, bench
        self._one_at_a_time = threading.Lock()
        self._left = self._made()

    def next(self) -> int:
        with self._one_at_a_time:
            if not self._left:
                self._left = again(self._made)
            return self._left.pop()

    def _made(self) -> list[int]:
        """Some more; those that a failover lets nobody know of have no job."""
        if self._bench.owner.closed:
            self._bench.owner = database.connect(self._pair.superuser, autocommit=True)
        with database.translated(), self._bench.owner.transaction():
            return self._bench.add_images(STOCK)


@dataclass
class Enqueuer(threading.Thread):
    """Asks for one job after another; remembers which were acknowledged, and when.

    Attributes:
        images: What to enqueue; shared with the others.
        acknowledged: Image and moment, by the monotonic clock.
    """

    address: str
    images: Images
    wanted: jobs.Wanted
    over: threading.Event
    acknowledged: list[tuple[int, float]] = field(default_factory=list)
    repeated: int = 0
    error: BaseException | None = None

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        with Database(self.address, pool=PoolSize(0, 1, acquire_timeout=5)) as services:
            try:
                while not self.over.wait(PAUSE):
                    image = self.images.next()
                    again(lambda image=image: self._ask(services, image), of=services,
                          on_wait=self._count)  # fmt: skip
                    self.acknowledged.append((image, time.monotonic()))
            except BaseException as error:
                self.error = error

    def _ask(self, services: Database, image: int) -> None:
        jobs.enqueue(services, [image], self.wanted)

    def _count(self, _: object) -> None:
        self.repeated += 1


class Failing(Protocol):
    """Two servers of which one takes writes."""

    primary: Server
    standby: Server | None
    address: str
    superuser: str

    @property
    def database(self) -> TestDatabase: ...

    def follow(self) -> None: ...

    def fail_over(self) -> float: ...


@dataclass(frozen=True)
class Counted:
    """What became of it; ``gaps`` are the seconds of each failover without an acknowledgement."""

    failovers: int
    acknowledged: int
    lost: int
    doubled: int
    in_doubt: int
    gaps: list[float]
    tries: int


def course(
    pair: Failing, folder: Path, *, failovers: int, workers: int, enqueuers: int, between: float
) -> Counted:
    """Run it: the pair is made anew after each failover, and nobody stops meanwhile."""
    pair.follow()
    bench = Bench(pair.database, folder, Database(pair.address, pool=PoolSize(0, 2)))
    images = Images(pair, bench)
    over = threading.Event()
    wanted = jobs.wanted("rehearsal", parameters={"behave": "nap", "ms": NAP})
    asking = [Enqueuer(pair.address, images, wanted, over) for _ in range(enqueuers)]
    try:
        for _ in range(workers):
            bench.start(DATABASE_URL=pair.address)
        # Who finds no server at its start ends, for whoever started it to try again.
        registered = "select count(*) from workers"
        until(lambda: bench.value(registered) == workers, "the workers have begun")
        for one in asking:
            one.start()
        gaps = [_one_failover(pair, asking, between) for _ in range(failovers)]
        over.set()
        for one in asking:
            one.join()
            assert one.error is None, one.error
        return _counted(pair, bench, asking, gaps)
    finally:
        over.set()
        bench.close()


def _one_failover(pair: Failing, asking: list[Enqueuer], between: float) -> float:
    if pair.standby is None:
        pair.follow()
    time.sleep(between)
    dead = pair.fail_over()

    def at_work() -> bool:
        for one in asking:
            assert one.error is None, one.error
        return bool(_moments(asking, time.monotonic() - between / 2))

    time.sleep(between)
    until(at_work, "somebody is acknowledged again")
    # What the dead one acknowledged last may be read a moment later: the pause comes after it.
    return max(later - sooner for sooner, later in pairwise([dead, *_moments(asking, dead)]))


def _moments(asking: list[Enqueuer], since: float) -> list[float]:
    """When somebody was acknowledged, in order."""
    return sorted(when for one in asking for _, when in list(one.acknowledged) if when > since)


def _left(bench: Bench) -> str:
    """What waits, and what the workers said last."""
    standing = bench.all(
        "select status::text, count(*), min(error_message) from processing_queue group by 1"
    )
    said = [run.said[-1500:] for run in bench.runs]
    return "\n".join(["jobs end, by workers that stay", *map(str, standing), *said])


def _counted(pair: Failing, bench: Bench, asking: list[Enqueuer], gaps: list[float]) -> Counted:
    bench.owner.close()
    bench.owner = database.connect(pair.primary.url("superuser"), autocommit=True)
    waiting = "select count(*) from processing_queue where status <> 'completed'"

    def fewer(than: int) -> bool:
        assert all(run.process.poll() is None for run in bench.runs), _left(bench)
        return bench.value(waiting) < than

    while left := bench.value(waiting):
        bench.hurry()
        until(lambda left=left: fewer(left), _left(bench))
    acknowledged = [image for one in asking for image, _ in one.acknowledged]
    done = {
        row["image"]: row
        for row in bench.all(
            "select i.id as image,"
            " (select count(*) from analysis_results r where r.image_id = i.id) as results,"
            " (select count(*) from processing_queue q where q.image_id = i.id) as jobs,"
            " (select count(*) from security_audit a where a.action = 'run_analysis'"
            "   and a.status = 'success' and a.resource_id = i.id::text) as events"
            " from images i"
        )
    }
    return Counted(
        failovers=len(gaps),
        acknowledged=len(acknowledged),
        lost=sum(done.get(image, {"results": 0})["results"] == 0 for image in acknowledged),
        doubled=sum(max(row["results"], row["jobs"], row["events"]) > 1 for row in done.values()),
        in_doubt=sum(one.repeated for one in asking),
        gaps=[round(gap, 2) for gap in gaps],
        tries=bench.value("select sum(attempt)::integer from processing_queue"),
    )
