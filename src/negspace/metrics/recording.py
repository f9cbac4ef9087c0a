"""Recording samples: at once, or collected and recorded by the second."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from negspace.database import Connection, Database, Jsonb, only
from negspace.errors import InvalidInputError, NegspaceError, UnavailableError
from negspace.metrics.samples import Sample

log = logging.getLogger("negspace.metrics")

INTERVAL: Final = 1.0  # seconds
ROOM: Final = 100_000  # samples


def record(database: Database, *samples: Sample) -> None:
    """Record samples, all or none.

    Raises:
        InvalidInputError: A sample is of a month that retention has let go.
        NegspaceError: The database was not reached, or refuses a sample.
    """
    if not samples:
        return
    oldest = min(sample.recorded_at for sample in samples)
    copied = (
        "copy performance_metrics (metric_name, metric_type, value, unit, labels, context,"
        " recorded_at, sample_count, percentile_p50, percentile_p95, percentile_p99) from stdin"
    )
    with database.transaction() as connection:
        if oldest < datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0):
            _open_months(connection, oldest)
        with connection.cursor() as cursor, cursor.copy(copied) as copy:
            for sample in samples:
                copy.write_row(
                    (
                        sample.name,
                        sample.kind,
                        sample.value,
                        sample.unit,
                        Jsonb(dict(sample.labels)),
                        Jsonb(dict(sample.context)),
                        sample.recorded_at,
                        sample.sample_count,
                        *(sample.percentiles or (sample.value,) * 3),
                    )
                )


def _open_months(connection: Connection, oldest: datetime) -> None:
    """Make the months since then, where retention has not let them go."""
    query = "select rows_since as at from rollup_progress where table_name = 'performance_metrics'"
    since = only(connection, query)
    if since is not None and since["at"] is not None and oldest < since["at"]:
        raise InvalidInputError(
            f"samples of {oldest:%Y-%m-%d %H:%M} are kept no more, only their roll-ups",
            hint=f"record samples before their retention ends; kept are those since {since['at']}",
        )
    connection.execute("select ensure_partitions(oldest => %s)", [oldest])


class Recorder:
    """Collects samples and records them many at a time, by COPY, from a thread of its own.

    ``add`` never waits for the database. What is collected is recorded every second, so a
    crash loses the last second at most. While the database can't be reached samples are kept,
    the newest of them where there are too many. Safe to share between threads. Use it as a
    context manager, or call ``close`` at the end.

    Attributes:
        dropped: How many samples were given up, since there was no room or they were refused.
    """

    def __init__(
        self, database: Database, *, size: int = 1000, interval: float = INTERVAL, room: int = ROOM
    ) -> None:
        """Make one; its thread starts with the first sample.

        Args:
            database: Where.
            size: As many are recorded without waiting for the second to end.
            interval: Seconds between two recordings.
            room: How many are kept at most.
        """
        self.dropped = 0
        self._database = database
        self._size = size
        self._interval = interval
        self._samples: deque[Sample] = deque()
        self._room = room
        self._lock = threading.Lock()  # of the samples; held for moments
        self._recording = threading.Lock()  # one COPY at a time, so that failures keep the order
        self._wanted = threading.Event()
        self._ended = False
        self._thread: threading.Thread | None = None

    def add(self, sample: Sample) -> None:
        """Collect a sample."""
        with self._lock:
            self._samples.append(sample)
            self._fit()
            if len(self._samples) >= self._size:
                self._wanted.set()
            if self._thread is None and not self._ended:
                self._thread = threading.Thread(
                    target=self._run, name="negspace-metrics", daemon=True
                )
                self._thread.start()

    def flush(self) -> int:
        """Record what is collected; how many that was.

        Raises:
            UnavailableError: The database was not reached; the samples stay collected.
        """
        with self._recording:
            with self._lock:
                taken, self._samples = list(self._samples), deque()
            try:
                return self._record(taken)
            except BaseException:
                with self._lock:
                    self._samples.extendleft(reversed(taken))
                    self._fit()
                raise

    def close(self) -> None:
        """Record the rest and end the thread.

        Raises:
            UnavailableError: The database was not reached.
        """
        with self._lock:
            self._ended, thread = True, self._thread
        self._wanted.set()
        if thread is not None:
            thread.join()
        self.flush()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        while not self._ended:
            self._wanted.wait(self._interval)
            self._wanted.clear()
            try:
                self.flush()
            except UnavailableError as error:
                log.warning("metrics wait: %s", error.message)
                self._database.close()
                self._wanted.wait(self._interval)  # or a full buffer would ask without a pause

    def _record(self, samples: Sequence[Sample]) -> int:
        """All of them; one by one where the database refuses some, which are given up."""
        try:
            record(self._database, *samples)
        except UnavailableError:
            raise
        except NegspaceError as error:
            if len(samples) == 1:
                log.warning("a sample of %s was refused: %s", samples[0].name, error.message)
                self.dropped += 1
                return 0
            half = len(samples) // 2
            return self._record(samples[:half]) + self._record(samples[half:])
        return len(samples)

    def _fit(self) -> None:
        """Give up the oldest that are too many."""
        while len(self._samples) > self._room:
            self._samples.popleft()
            self.dropped += 1
