"""The embedded server, for real: each test that changes one has a server of its own."""

from __future__ import annotations

from conftest import at
from negspace import server


def test_made_started_and_stopped(home):
    made = server.ensure(at(home))
    assert made.running
    assert server.stop(at(home)).status == "stopped"
