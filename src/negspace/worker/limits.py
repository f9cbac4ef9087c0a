"""How much memory a process has in use, had at most, and whether the kernel ran out of it.

Neither RLIMIT_AS nor RLIMIT_RSS would do: the first counts what numpy's libraries reserve and
never touch (gigabytes on a machine of many cores), the second is ignored by Linux. What is
resident and not backed by a file is what the machine runs out of; a file that is mapped into
memory can be dropped again, and isn't counted.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_PEAK: Final = re.compile(rb"^VmHWM:\s+(\d+) kB", re.MULTILINE)
_OOM_KILLS: Final = re.compile(rb"^oom_kill (\d+)", re.MULTILINE)
_COUNTED: Final = re.compile(rb"^Rss(?:Anon|Shmem):\s+(\d+) kB", re.MULTILINE)


def memory_in_use(process: int) -> int | None:
    """Bytes that a process has in memory and in no file; None where that can't be known.

    Known on Linux from 4.5, and for a process that hasn't ended.
    """
    found = _COUNTED.findall(_read(f"/proc/{process}/status"))
    return 1024 * sum(map(int, found)) if found else None


def peak_memory(process: int) -> int | None:
    """The most that a process ever had in memory, files included; None where unknown."""
    found = _PEAK.search(_read(f"/proc/{process}/status"))
    return 1024 * int(found[1]) if found else None


def oom_kills() -> int | None:
    """How many processes the kernel has killed for want of memory; None where unknown.

    On the whole machine, and in every container of it: another's count too.
    """
    found = _OOM_KILLS.search(_read("/proc/vmstat"))
    return int(found[1]) if found else None


def megabytes(size: int) -> str:
    """A size as people read it."""
    return f"{size / 1e6:.0f} MB"


def _read(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError:
        return b""
