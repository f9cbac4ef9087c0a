"""The queue against its peers, in one run on one server of its own, fsync on.

    python benchmarks/queue.py                  everything, peers too: minutes
    python benchmarks/queue.py --quick          ours, the same by hand, the reference; 2,000 jobs:
                                                under a minute
    python benchmarks/queue.py --quick --page   the same, and write docs/benchmarks.md with it
    python benchmarks/queue.py --peers pgqueuer,pg-boss    these peers; "" for none
    python benchmarks/queue.py --only latency,writers      these runs: drain, two, dirty, enqueue,
                                                           writers, estimate, latency

The peers are installed into .servers/queue from PyPI and npm; one that can't be is said so.
"""

from __future__ import annotations

import sys
from pathlib import Path

# Python looks for modules in a script's folder first, where this file would be taken for the
# standard library's ``queue``, by this script and by those beside it.
FOLDER = Path(__file__).resolve().parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != FOLDER]

if __name__ == "__main__":
    sys.path.insert(0, str(FOLDER.parent))
    from benchmarks.queueing.run import main

    main(__doc__ or "")
else:
    del sys.modules[__name__]
    import queue  # noqa: F401  the import system hands on what it finds in sys.modules

    sys.path.append(str(FOLDER))  # behind the standard library: others here are found as before
