"""How much memory a process has in use.

Neither RLIMIT_AS nor RLIMIT_RSS would do: the first counts what numpy's libraries reserve and
never touch (gigabytes on a machine of many cores), the second is ignored by Linux. What is
resident and not backed by a file is what the machine runs out of; a file that is mapped into
memory can be dropped again, and isn't counted.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_COUNTED: Final = re.compile(rb"^Rss(?:Anon|Shmem):\s+(\d+) kB", re.MULTILINE)


def memory_in_use(process: int) -> int | None:
    """Bytes that a process has in memory and in no file; None where that can't be known.

    Known on Linux from 4.5, and for a process that hasn't ended.
    """
    try:
        status = Path(f"/proc/{process}/status").read_bytes()
    except OSError:
        return None
    found = _COUNTED.findall(status)
    return 1024 * sum(map(int, found)) if found else None
