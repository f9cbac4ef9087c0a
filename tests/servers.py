"""What the tests of the embedded server share."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

from conftest import at, programs
from negspace import database, server
from negspace.server import layout, logs

ROOT = os.geteuid() == 0


def start(home: Path, **options: str) -> server.Server:
    return server.ensure(at(home), binaries=programs(), options=options)


def ask(address: str, query: str) -> object:
    with database.connect(address) as connection:
        cursor = connection.execute(query.encode())
        row = cursor.fetchone() if cursor.description else None
    return None if row is None else next(iter(row.values()))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def passwords(home: Path) -> dict[str, str]:
    return json.loads((home / "state.json").read_text())["passwords"]


def log_of(home: Path) -> str:
    """All that the server of a home said."""
    return "".join(path.read_text() for path in logs.files(layout.Layout(home)))
