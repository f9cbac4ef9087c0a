"""The scripts in benchmarks/: they start, and say what holds and what is missed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(
    path.name
    for path in (ROOT / "benchmarks").glob("*.py")
    if "__main__" in path.read_text(encoding="utf-8")
)


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.queueing import page

    return page


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_starts(script: str) -> None:
    """One named queue.py is not taken for the standard library's by those beside it."""
    ran = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / script, "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
    assert {"--quick", "--json"} <= set(ran.stdout.replace("[", " ").split())


def test_claims_are_written_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import claims

    claims.write(None, [claims.Claim("nowhere", 1)])
    claims.write(tmp_path / "c.json", [claims.Claim("drain", 3.0, 4.0, "peer", 0.75, 1.0, False)])
    assert json.loads((tmp_path / "c.json").read_text()) == [
        {"name": "drain", "ours": 3.0, "reference": 4.0, "peer": "peer", "ratio": 0.75,
         "goal": 1.0, "holds": False}
    ]  # fmt: skip


def test_the_standard_librarys_queue_is_found_beside_ours() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", "import queue; print(queue.Queue.__module__, queue.__file__)"],
        cwd=ROOT / "benchmarks",
        capture_output=True,
        text=True,
        check=True,
    )
    module, file = ran.stdout.split()
    assert module == "queue"
    assert not file.startswith(str(ROOT / "benchmarks"))


def results(page, *, drain: float):
    from benchmarks.queueing.course import Result
    from benchmarks.queueing.meter import Cost
    from benchmarks.queueing.systems import BARE, OURS, REFERENCE

    def cost(rate: float) -> Cost:
        return Cost(jobs=100, seconds=100 / rate, cpu=0.1, wal=1000, commits=1)

    ours = Result(OURS, enqueue=cost(70), copy=cost(100), drain=cost(drain), two=cost(200),
                  dirty=cost(95), latencies=[1.0, 2.0, 20.0])  # fmt: skip
    reference = Result(REFERENCE, drain=cost(100), latencies=[3.0, 3.0, 3.0])
    return [ours, Result(BARE, drain=cost(100)), reference]


def test_goals_that_hold_and_goals_that_are_missed(page) -> None:
    lines = {line.name: line for line in page.goals(results(page, drain=99))}
    assert lines["bulk enqueue"].holds is True
    assert lines["drain, 1 process"].holds is False
    assert lines["drain, 1 process"].ratio == pytest.approx(0.99)
    assert lines["drain, 2 processes"].holds is True
    assert lines["dirty drain"].holds is True
    assert lines["idle latency p50"].holds is True
    assert lines["idle latency p99"].holds is False


def test_a_missed_goal_is_printed_as_missed(page) -> None:
    missed = page.goals_table(page.goals(results(page, drain=99)))
    held = page.goals_table(page.goals(results(page, drain=100)))
    assert (
        "| drain, 1 process | 99/s | 100/s | the reference | 0.99 × | ≥ 1 × | **missed** |"
        in missed
    )
    assert "| drain, 1 process | 100/s | 100/s | the reference | 1.00 × | ≥ 1 × | yes |" in held
