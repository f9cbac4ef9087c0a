"""How many jobs a worker holds, and in which order they are computed."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from negspace.worker import stock
from negspace.worker.leases import Claimed
from negspace.worker.stock import MOST, Stock, content_of


def job(number: int, **changes: Any) -> Claimed:
    given: dict[str, Any] = {
        "id": number,
        "token": uuid4(),
        "attempt": 1,
        "image_id": number,
        "owner": 1,
        "file_path": "x.png",
        "file_hash": f"{number:064x}",
        "original_filename": "x.png",
        "algorithm_name": "rehearsal",
        "algorithm_version": "1.0.0",
        "algorithm_parameters": {"a": 1, "b": 2},
        "answered": False,
    }
    return Claimed(**given | changes)


def settled(processes: int, seconds: float) -> int:
    """How many it wants, empty, after many jobs of that length."""
    held = Stock(processes)
    for _ in range(30):
        held.learn(seconds)
        held.add([job(1)])
        held.take_all()
    return held.wanted(0)


@pytest.mark.parametrize(
    ("seconds", "wanted"), [(120, 1), (2, 1), (0.5, 4), (0.01, 200), (0.0001, MOST)]
)
def test_it_holds_as_many_as_are_done_in_two_seconds(seconds: float, wanted: int) -> None:
    assert settled(1, seconds) == wanted
    assert settled(3, seconds) == 3 * wanted


def test_it_begins_with_one_for_each_process_and_doubles() -> None:
    held, wishes = Stock(2), []
    for _ in range(4):
        wishes.append(held.wanted(0))
        held.add([job(n) for n in range(wishes[-1])])
        held.take_all()
        held.learn(0.01)
    assert wishes == [2, 2, 4, 8]


def test_it_claims_again_when_half_is_done() -> None:
    held = Stock(1)
    held.learn(0.2)  # ten in two seconds
    for _ in range(5):
        held.add([])
    held.add([job(n) for n in range(5)])
    assert (held.wanted(1), held.wanted(0)) == (0, 5)
    slow = Stock(4)
    assert [slow.wanted(given) for given in (0, 3, 4)] == [4, 1, 0]


def test_the_same_content_is_not_computed_side_by_side() -> None:
    held, first = Stock(2), job(1)
    twin = job(2, file_hash=first.file_hash, algorithm_parameters={"b": 2, "a": 1})
    other = job(3, file_hash=first.file_hash, algorithm_parameters={"a": 2})
    held.add([first, twin, other])
    taken = held.take([])
    assert taken is first
    assert held.take([content_of(first)]) is other
    assert held.take([content_of(first)]) is None
    assert held.take_same(content_of(first)) == [twin]


def test_what_was_not_begun_is_next_again() -> None:
    held, jobs = Stock(1), [job(n) for n in range(4)]
    held.add(jobs)
    taken = [held.take([]), held.take([])]
    held.put_back([one for one in taken if one is not None])
    assert held.take_all() == jobs


def test_jobs_behind_slow_ones_go_to_others_and_are_not_claimed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = Stock(1)
    held.learn(0.01)
    for _ in range(8):
        held.add([])
    waiting = [job(n) for n in range(3)]
    held.add(waiting)
    assert held.take_overdue() == []
    monkeypatch.setattr(stock, "PATIENCE", 0.0)
    assert held.take_overdue() == waiting
    assert held.wanted(1) == 0
