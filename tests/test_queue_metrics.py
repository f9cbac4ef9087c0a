"""The queue as Prometheus scrapes it."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import queue_singly as leases
from bench import PATIENCE, Bench
from negspace import metrics, queue_metrics
from negspace.metrics import Sample
from queue_steps import claimed, completion, enlist

CONVENTION = ("_seconds", "_bytes", "_total", "_jobs", "_workers")


def scraped(text: str) -> dict[str, Any]:
    """What the parser of Prometheus' own client reads: sample → labels → value."""
    found: dict[str, Any] = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            by_labels = found.setdefault(sample.name, {})
            labels = frozenset(sample.labels.items())
            assert labels not in by_labels, "a series twice"
            by_labels[labels] = sample.value
    return found


def test_an_empty_queue_is_there_with_noughts(bench: Bench) -> None:
    found = scraped(queue_metrics.exposition(bench.services))
    nothing = frozenset[Any]()
    assert found["negspace_queue_oldest_waiting_seconds"] == {nothing: 0}
    assert found["negspace_queue_jobs_completed_total"] == {nothing: 0}
    assert set(found["negspace_queue_workers"].values()) == {0}


def test_depth_ages_counters_workers_and_quantiles(bench: Bench) -> None:
    worker = enlist(bench)
    bench.enqueue(bench.add_images(5), max_retries=1)
    for _ in range(2):
        leases.complete(bench.services, claimed(bench), completion())
    leases.fail(bench.services, claimed(bench), "torn", again=True)
    claimed(bench)
    bench.owner.execute(
        "update processing_queue set scheduled_at = now() - interval '1 hour'"
        " where status = 'queued'"
    )
    enlist(bench, "gone")
    silent = "update workers set heartbeat_at = now() - interval '5 minutes' where id = 'gone'"
    bench.owner.execute(silent)
    ran = bench.cli("metrics", "export")
    assert ran.status == 0
    found = scraped(ran.out)

    depth = {dict(labels)["status"]: n for labels, n in found["negspace_queue_jobs"].items()}
    assert depth == {"queued": 1, "processing": 1, "completed": 2, "retrying": 1}
    assert {dict(labels)["algorithm"] for labels in found["negspace_queue_jobs"]} == {"rehearsal"}
    [oldest] = found["negspace_queue_oldest_waiting_seconds"].values()
    assert oldest == pytest.approx(3600, abs=PATIENCE)
    assert list(found["negspace_queue_jobs_completed_total"].values()) == [2]
    unknown = frozenset({("algorithm", "rehearsal"), ("error", "Unknown")})
    assert found["negspace_queue_tries_failed_total"] == {unknown: 1}
    assert found["negspace_queue_jobs_failed_total"] == {unknown: 0}, "it is tried again"
    states = {dict(labels)["state"]: n for labels, n in found["negspace_queue_workers"].items()}
    assert states == {"running": 1, "silent": 1}
    counts = {
        dict(labels)["outcome"]: n for labels, n in found["negspace_job_run_seconds_count"].items()
    }
    assert counts == {"completed": 2, "failed": 1}
    quantiles = [
        labels for labels in found["negspace_job_wait_seconds"] if "quantile" in dict(labels)
    ]
    assert len(quantiles) == 3 * 2
    assert worker


def test_what_ended_stays_counted_when_it_is_purged(bench: Bench) -> None:
    enlist(bench)
    bench.enqueue(bench.add_image())
    leases.complete(bench.services, claimed(bench), completion())
    bench.owner.execute("delete from processing_queue")
    found = scraped(queue_metrics.exposition(bench.services))
    assert "negspace_queue_jobs" not in found
    assert list(found["negspace_queue_jobs_completed_total"].values()) == [1]
    assert list(found["negspace_job_run_seconds_count"].values()) == [1]


def test_a_metric_of_the_same_name_takes_another(bench: Bench) -> None:
    metrics.record(bench.services, Sample("queue_jobs", 7, kind="gauge"))
    found = scraped(queue_metrics.exposition(bench.services))
    assert list(found["negspace_queue_jobs_gauge"].values()) == [7]


def test_names_end_with_what_they_are_in(bench: Bench) -> None:
    with bench.services.transaction(read_only=True) as connection:
        for family in queue_metrics.families(connection):
            assert family.name.endswith(CONVENTION)
            assert family.name.endswith("_total") == (family.kind == "counter")
            assert family.help.endswith(".")
