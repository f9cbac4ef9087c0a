"""The queries of the product on data that is large enough for indexes: each uses its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from negspace import database as db
from negspace.database import Database

ROOT = Path(__file__).parent.parent

# Read from end to end, whatever its size, on purpose: what it says of them is of all of them.
WHOLE = {"the queue by status (negspace jobs stats)": {"processing_queue_hot"}}


@pytest.fixture(scope="module")
def queries() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))  # where a script finds those beside it
        patch.syspath_prepend(str(ROOT))
        from benchmarks import queries

        yield queries


@pytest.fixture(scope="module")
def filled(postgres, template_with_ledger, queries):
    """A database of its own, the parameters of the queries, and what is small in it."""
    made = postgres.create(template_with_ledger)
    with Database(made.owner) as owner:
        queries.fill(owner, queries.QUICK)
        yield made, queries.given(owner)
    postgres.drop(made.name)


@pytest.fixture(scope="module")
def ran(queries, filled):
    """Every query run once, and the indexes that no query used."""
    database, given = filled
    before = queries.counted(database.owner)
    # As one whom row security leaves alone: behind it the planner may not look at statistics for
    # operators that are not leakproof, and would rather read tables as small as some here.
    found = queries.run_all(database.superuser, database.owner, given)
    patience = time.monotonic() + 10  # PostgreSQL 14 counts a little later
    while time.monotonic() < patience:
        idle = queries.unused(before, queries.counted(database.owner))
        if not [index for index in idle if not index.is_key]:
            break
        time.sleep(0.2)
    return found, idle


def test_no_query_reads_a_table_from_end_to_end(ran):
    found, _ = ran
    sequential = {one.query.name: set(one.sequential) for one in found if one.sequential}
    assert sequential == WHOLE


def test_every_index_is_used_or_holds_a_key(ran):
    _, idle = ran
    assert [index.name for index in idle if not index.is_key] == []


def test_every_query_has_its_plan_on_record(queries, ran):
    found, _ = ran
    kept = queries.kept()
    assert [one.query.name for one in found] == list(kept)
    scans = {scan for one in kept.values() for scan in one}
    assert not [scan for scan in scans if scan.startswith("Seq Scan") and "hot" not in scan]


def test_without_its_index_a_query_is_noticed(queries, filled):
    """The twin: what the first test says where an index is gone."""
    database, given = filled
    query = next(q for q in queries.queries() if q.name == "images by metadata")
    with db.connect(database.owner) as connection:
        assert not queries.run(connection, query, given, frozenset()).sequential
        connection.execute("drop index images_metadata_idx")
        assert queries.run(connection, query, given, frozenset()).sequential == {"images"}
        connection.rollback()
