"""``python -m negspace`` and the ``negspace`` command."""

from __future__ import annotations

import gc
import sys

# What a command imports stays until its end: to look through it again and again for garbage,
# while it is imported and when it ends, is a tenth of the time of a short command.
gc.set_threshold(50_000)


def main() -> int:
    """Run the command line's command; its exit status."""
    from negspace import cli

    try:
        return cli.main()
    finally:
        gc.freeze()


if __name__ == "__main__":
    sys.exit(main())
