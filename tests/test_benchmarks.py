"""The scripts in benchmarks/: they start, and say what holds and what is missed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from benchmarks.queueing.ground import Ground

    from conftest import Postgres

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
    from benchmarks.queueing.systems import BARE, BY_HAND, OURS, PEER_SYSTEMS, REFERENCE

    def cost(rate: float) -> Cost:
        return Cost(jobs=100, seconds=100 / rate, cpu=0.1, wal=1000, commits=1)

    ours = Result(OURS, enqueue=cost(70), copy=cost(100), drain=cost(drain), two=cost(200),
                  dirty=cost(95), latencies=[1.0, 2.0, 20.0])  # fmt: skip
    reference = Result(REFERENCE, drain=cost(100), latencies=[3.0, 3.0, 3.0])
    by_hand = Result(BY_HAND, drain=cost(50), enqueue=cost(140))
    peer = Result(PEER_SYSTEMS["awa"], drain=cost(10))
    return [ours, Result(BARE, drain=cost(100)), by_hand, reference, peer]


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


def test_the_contract_by_hand_stands_in_the_table_without_a_bar(page) -> None:
    lines = page.goals(results(page, drain=100))
    beside = {line.name: line for line in lines if line.peer == "the contract by hand"}
    assert {name: line.ratio for name, line in beside.items()} == {
        "drain, 1 process against the contract by hand": 2.0,
        "bulk enqueue against the contract by hand": 0.5,
    }
    assert {(line.goal, line.holds) for line in beside.values()} == {(None, None)}
    table = page.goals_table(lines)
    assert "| drain, 1 process | 100/s | 50/s | the contract by hand | 2.00 × | – | – |" in table
    assert "| bulk enqueue | 70/s | 140/s | the contract by hand | 0.50 × | – | – |" in table
    assert "awa" not in table  # it does something else


@pytest.fixture
def ground(page, postgres: Postgres) -> Iterator[Ground]:
    from benchmarks.queueing.ground import Ground

    ground = Ground(postgres.server, jobs=1_000)
    yield ground
    ground.admin.close()
    for name in ("template_ours", "template_the contract by hand"):
        postgres.drop(name)


def test_by_hand_the_same_is_stored_as_by_ours_or_nothing_is_measured(ground: Ground) -> None:
    from benchmarks.queueing.course import Course, DifferentError, Size
    from benchmarks.queueing.systems import BY_HAND, OURS

    course = Course(ground, Size())
    course.see_same(OURS, BY_HAND)
    with ground.superuser("template_the contract by hand") as connection:
        connection.execute("""
            create function forget() returns trigger language plpgsql as 'begin return null; end';
            create trigger forget before insert on performance_metrics
                for each row when (new.metric_name = 'job_run_ms') execute function forget()
        """)
    with pytest.raises(DifferentError, match=r"ours: .*'metric'.*job_run_ms.*'rows': 1000"):
        course.see_same(OURS, BY_HAND)
