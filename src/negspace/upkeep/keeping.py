"""What housekeeping works on, and how long what is kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from negspace import cache
from negspace.database import Database
from negspace.storage import Storage


@dataclass(frozen=True)
class Policy:
    """How long what is kept, and how much.

    Attributes:
        jobs: Ended jobs, whole months of them; None: for ever. Their results stay.
        job_logs: What jobs said.
        samples: Samples of metrics, once they are rolled up; 31 days at least.
        minutes: Roll-ups by minute; those by hour and day stay.
        cache_bytes: Of each of both caches, as JSON; what was not used for longest goes first.
    """

    jobs: timedelta | None = None
    job_logs: timedelta = timedelta(days=30)
    samples: timedelta = timedelta(days=400)
    minutes: timedelta = timedelta(days=30)
    cache_bytes: int = cache.MOST_BYTES


@dataclass(frozen=True)
class Keeping:
    """What the steps work on.

    Attributes:
        database: As the services reach it.
        storage: The image files; None: what needs them is left out.
        owner: As the schema's owner; None: what needs that is left out.
        policy: How long what is kept.
    """

    database: Database
    storage: Storage | None = None
    owner: Database | None = None
    policy: Policy = field(default_factory=Policy)
