"""Commands called in this process, which spares a start of Python and its imports each time."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

from negspace.cli import main


@dataclass(frozen=True)
class Ran:
    """What a command gave back."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """The error that --json prints on stderr."""
        return json.loads(self.err)["error"]


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """These variables and no others, inside the block."""
    kept = dict(os.environ)
    try:
        os.environ.clear()
        os.environ.update(variables)
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)


def called(variables: Mapping[str, str], *arguments: str, given: str = "") -> Ran:
    """Run a command in this process, which is quicker than in one of its own."""
    out, err, logger = io.StringIO(), io.StringIO(), logging.getLogger("negspace")
    kept = logger.handlers[:], logger.propagate, logger.level, sys.stdin
    sys.stdin = io.StringIO(given)
    try:
        with environment(variables), redirect_stdout(out), redirect_stderr(err):
            status = main(arguments)
    finally:
        logger.handlers[:], logger.propagate = kept[:2]
        logger.setLevel(kept[2])
        sys.stdin = kept[3]
    return Ran(status, out.getvalue(), err.getvalue())
