"""Workers: they take jobs from the queue and analyse images.

``run`` starts one and stays until it has ended. What it promises (docs/worker.md) rests on the
database: a job is held by a lease, and only who has the lease can end it.

    options    what a run is asked for
    running    a run, from its first sign of life to its last
    foreman    the main thread: what is held, who computes it, how each job ends
    stock      jobs that wait in the worker, and how many it should hold
    claimer    a thread: claims jobs
    wakeups    a thread: hears of new jobs, where notifications come through
    finisher   a thread: ends jobs, many in a transaction
    keeper     a thread: heartbeats, cancelled jobs, jobs of workers that are gone
    reach      how these threads wait for a server that went away
    place      a computing process, seen from the worker: its limits, its last words
    process    the same from inside
    work       one job, from the file to its result
    lines      what is logged meanwhile
    words      what is said on standard error meanwhile
    limits     how much memory a process has in use
    leases     the queue's functions, as a worker calls them
    registry   the workers there are
    logs       what jobs said, read again
    housekeeping   a thread: what must happen now and then
"""

from __future__ import annotations

from negspace.worker.options import Options
from negspace.worker.registry import Worker, list_workers
from negspace.worker.running import Ran, run

__all__ = ["Options", "Ran", "Worker", "list_workers", "run"]
