"""``python -m negspace`` and the ``negspace`` command."""

from __future__ import annotations

import sys

from negspace.cli import main

if __name__ == "__main__":
    sys.exit(main())
