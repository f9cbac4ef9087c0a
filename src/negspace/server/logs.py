"""What the embedded server says: where it stands, how it is kept small, how it is followed.

home/server.log             what it says while it starts, before its collector runs
home/server/log/*.log       the rest: a new file each day, and after 16 MB
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from negspace.server.layout import Layout

__all__ = ["COLLECTED", "files", "follow", "last", "newest", "prune", "since", "sizes"]

KEPT: Final = 10  # files; the oldest go
_LOOK: Final = 0.2  # seconds between two looks for more
_MOST: Final = 65_536  # bytes of a file that are looked at for a reason

COLLECTED: Final[Mapping[str, str]] = {
    "logging_collector": "on",
    "log_destination": "stderr",
    "log_filename": "server-%Y%m%dT%H%M%S.log",
    "log_rotation_age": "1d",
    "log_rotation_size": "16MB",
    "log_file_mode": "0600",
    "log_timezone": "UTC",  # the names are in order, whatever the clocks do
}


def files(layout: Layout) -> list[Path]:
    """The files of the log; the one that was written last comes last."""
    written: list[tuple[int, Path]] = []
    for path in (layout.log, *layout.logs.glob("server-*.log")):
        with suppress(FileNotFoundError):
            written.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(written)]


def newest(layout: Layout) -> Path:
    """Where it wrote last."""
    return next(reversed(files(layout)), layout.log)


def prune(layout: Layout) -> None:
    """Remove the oldest files, so that a few are left; who comes first does it."""
    for path in sorted(layout.logs.glob("server-*.log"))[:-KEPT]:
        path.unlink(missing_ok=True)


def sizes(layout: Layout) -> dict[Path, int]:
    """How long each file is now, for ``since``."""
    return {path: path.stat().st_size for path in files(layout)}


def since(layout: Layout, before: Mapping[Path, int]) -> str:
    """What was said since then, or the end of it."""
    said = b""
    for path in files(layout):
        with suppress(FileNotFoundError), path.open("rb") as file:
            size = path.stat().st_size
            file.seek(max(before.get(path, 0), size - _MOST))
            said += file.read()
    return said.decode(errors="replace")


def last(layout: Layout, count: int) -> list[str]:
    """The last lines, of all files together."""
    found: deque[str] = deque()
    for path in reversed(files(layout)):
        with suppress(FileNotFoundError), path.open(encoding="utf-8", errors="replace") as file:
            lines = deque(file, maxlen=count - len(found))
            found.extendleft(line.rstrip("\n") for line in reversed(lines))
        if len(found) >= count:
            break
    return list(found)


def follow(layout: Layout) -> Iterator[str]:
    """What it says from now on, a line at a time, without end; into the next file, too."""
    before = sizes(layout)
    rest = ""
    while True:
        more = since(layout, before)
        before = sizes(layout)
        *lines, rest = (rest + more).split("\n")
        yield from lines
        time.sleep(_LOOK)
