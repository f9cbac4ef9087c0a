"""Workers: processes that take jobs from the queue and analyse images.

``run`` starts them and stays until they have ended. What they promise (docs/worker.md) rests
on the database: a job is held by a lease, and only who has the lease can end it.

    options    what a run is asked for
    pool       the parent: starts the processes, replaces those that die, passes signals on
    process    one worker process: claim, analyse, complete, again
    keeper     its second thread: heartbeats, and jobs that it no longer holds
    listener   its third: signals, and the end of the parent
    work       one job, from the file to its result
    leases     the queue's functions, as a worker calls them
    registry   the workers there are
    housekeeping   what must happen now and then
"""

from __future__ import annotations

from negspace.worker.options import Options
from negspace.worker.pool import Ran, run
from negspace.worker.registry import Worker, list_workers

__all__ = ["Options", "Ran", "Worker", "list_workers", "run"]
