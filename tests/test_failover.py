"""The primary dies under workers and enqueuers; the standby takes over."""

from __future__ import annotations

from bench import PLUGIN
from failing_over import Pair, course


def test_nothing_acknowledged_is_lost_and_nothing_done_twice(home, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(PLUGIN))
    pair = Pair(home, say=lambda line: None)
    counted = course(pair, tmp_path, failovers=1, workers=1, enqueuers=2, between=1.5)
    assert counted.acknowledged > 20
    assert (counted.failovers, counted.lost, counted.doubled) == (1, 0, 0)
