"""The contract by hand: what a good Python developer would write for the tables of by_hand.sql.

Everything that ours stores for a job, in batches of 500: one statement claims jobs and begins
their images, one ends them with their results, cache entries, images, events and metrics.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, LiteralString

import listening
import psycopg
from line import ALGORITHM, PARAMETERS, RESULT, VERSION, answer, go, serve
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

BATCH = 500
ENQUEUE: LiteralString = """
    insert into processing_queue (image_id, user_id, algorithm_name, algorithm_version,
                                  algorithm_parameters, complexity_score)
    select i.id, i.user_id, %(algorithm)s, %(version)s, %(parameters)s,
           (i.image_dimensions ->> 'width')::numeric
               * (i.image_dimensions ->> 'height')::numeric / 1000000
    from unnest(%(images)s::bigint[]) with ordinality w (id, place)
    join images i on i.id = w.id
    where i.analysis_status <> 'archived'
    order by w.place
    on conflict (image_id, algorithm_name, algorithm_version, algorithm_parameters)
        where status in ('queued', 'processing', 'retrying') do nothing
    returning id, image_id
"""
CLAIM: LiteralString = """
    with next as (
        select id, image_id from processing_queue
        where status in ('queued', 'retrying')
        order by priority desc, created_at, id
        limit %(limit)s
        for update skip locked
    ), begun as (
        update images i
        set analysis_status    = 'processing',
            processing_history = processing_history
                || jsonb_build_object('at', now(), 'from', i.analysis_status, 'to', 'processing')
        from next
        where i.id = next.image_id and i.analysis_status = 'pending'
    )
    update processing_queue q
    set status = 'processing', worker_id = %(worker)s, started_at = clock_timestamp(),
        estimated_completion_at = clock_timestamp() + %(expected)s
    from next join images i on i.id = next.image_id
    where q.id = next.id
    returning q.id, q.user_id, q.algorithm_name, q.algorithm_version,
              q.algorithm_parameters::text as parameters, i.file_hash
"""
END: LiteralString = """
    with given as (
        select * from jsonb_to_recordset(%(ends)s)
            as g (job_id bigint, cache_key text, fingerprint text, found jsonb, stats jsonb)
    ), ended as (
        update processing_queue q
        set status = 'completed', completed_at = clock_timestamp(), error_message = null
        from given g
        -- as a case, which the planner takes for every second row: it took a plain comparison
        -- for a few rows, and then compared each result with each job
        where q.id = g.job_id and case when q.worker_id = %(worker)s then true else false end
        returning q.*, g.*, nextval('security_audit_id_seq') as audit_id
    ), results as (
        insert into analysis_results as r (image_id, user_id, algorithm_name, algorithm_version,
            algorithm_parameters, negative_space_data, anomalies, confidence_score,
            processing_time_ms, quality_metrics, visualization_path, performance_stats, cached_at)
        select e.image_id, e.user_id, e.algorithm_name, e.algorithm_version,
            e.algorithm_parameters, f.negative_space_data, f.anomalies, f.confidence_score,
            f.processing_time_ms, f.quality_metrics, f.visualization_path, e.stats, now()
        from ended e
        cross join jsonb_to_record(e.found) as f (negative_space_data jsonb, anomalies jsonb,
            confidence_score numeric, processing_time_ms integer, quality_metrics jsonb,
            visualization_path text)
        on conflict (image_id, algorithm_name, algorithm_version, algorithm_parameters)
            do update set cached_at = excluded.cached_at
        returning r.id, r.image_id, r.algorithm_name, r.algorithm_version, r.algorithm_parameters
    ), done as (
        select e.*, r.id as result_id
        from ended e
        join results r using (image_id, algorithm_name, algorithm_version, algorithm_parameters)
    ), settled as (
        update images i
        set analysis_status = 'completed', processed_at = clock_timestamp(), failure_reason = null,
            processing_history = processing_history
                || jsonb_build_object('at', now(), 'from', i.analysis_status, 'to', 'completed')
        -- not by the index of the status, which is full of the dead entries of a drain
        from (select distinct image_id from ended) e
        where i.id = e.image_id and i.analysis_status::text = 'processing'
    ), events as (
        insert into security_audit (id, user_id, action, resource_type, resource_id, changes_after)
        select audit_id, user_id, 'run_analysis', 'image', image_id::text,
               jsonb_build_object('result_id', result_id)
        from done
    ), details as (
        insert into audit_log_details (audit_id, event_name, event_data, duration_ms, success_count)
        select audit_id, 'job_completed',
               jsonb_build_object('job_id', id, 'algorithm', algorithm_name,
                                  'version', algorithm_version, 'attempt', retry_count + 1,
                                  'worker_id', worker_id),
               extract(epoch from completed_at - started_at) * 1000, 1
        from done
    ), metrics as (
        insert into performance_metrics (metric_name, value, unit, labels, context,
                                         percentile_p50, percentile_p95, percentile_p99)
        select m.name, m.ms, 'ms',
               jsonb_build_object('algorithm', e.algorithm_name, 'outcome', e.status),
               jsonb_build_object('job_id', e.id), m.ms, m.ms, m.ms
        from ended e
        cross join lateral (values
            ('job_wait_ms', round(extract(epoch from e.started_at - e.created_at) * 1000, 4)),
            ('job_run_ms', round(extract(epoch from e.completed_at - e.started_at) * 1000, 4))
        ) as m (name, ms)
    ), cached as (
        insert into analysis_cache (cache_key, image_id, analysis_id, algorithm_fingerprint,
                                    cached_result, expires_at, size_bytes)
        select distinct on (cache_key) cache_key, image_id, result_id, fingerprint, found,
               now() + interval '1 day', pg_column_size(found)
        from done
        order by cache_key
        on conflict (cache_key) do update
            set image_id = excluded.image_id, analysis_id = excluded.analysis_id,
                cached_result = excluded.cached_result, created_at = excluded.created_at,
                expires_at = excluded.expires_at, size_bytes = excluded.size_bytes
    )
    select count(*) from ended
"""
Job = dict[str, Any]


class ByHand:
    """A worker, and whoever asks for an analysis."""

    def __init__(self, address: str) -> None:
        self.name = f"benchmark-{os.getpid()}"
        self.connection = psycopg.Connection[Job].connect(
            address, autocommit=True, row_factory=dict_row
        )
        self._expected = timedelta()

    def images(self, count: int) -> list[int]:
        found = self.connection.execute("select id from images order by id limit %s", [count])
        return [row["id"] for row in found]

    def enqueue(self, images: Sequence[int]) -> list[Job]:
        given = {"images": images, "algorithm": ALGORITHM, "version": VERSION}
        return self.connection.execute(
            ENQUEUE, given | {"parameters": Jsonb(PARAMETERS)}
        ).fetchall()

    def claim(self, how_many: int = BATCH) -> list[Job]:
        given = {"limit": how_many, "worker": self.name, "expected": self._expected}
        return self.connection.execute(CLAIM, given).fetchall()

    def complete(self, held: Sequence[Job]) -> None:
        ends = [end(job, RESULT) for job in held]
        self.connection.execute(END, {"worker": self.name, "ends": Jsonb(ends)})
        self._expected = timedelta(milliseconds=RESULT["processing_time_ms"])


def end(job: Job, result: dict[str, Any]) -> dict[str, Any]:
    """What an analysis found, with its place in the cache."""
    found = {"quality_metrics": {}, "visualization_path": None} | result
    stats = found.pop("performance_stats")
    made = fingerprint(job["algorithm_name"], job["algorithm_version"], job["parameters"])
    key = sha256(f"{job['file_hash']}:{made}:{job['user_id']}")
    return {
        "job_id": job["id"],
        "cache_key": key,
        "fingerprint": made,
        "found": found,
        "stats": stats,
    }


@cache
def fingerprint(algorithm: str, version: str, parameters: str) -> str:
    return sha256(json.dumps([algorithm, version, json.loads(parameters)]))


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def prepare(address: str, _: int) -> None:
    with psycopg.connect(address) as connection:
        connection.execute(Path(__file__).with_name("by_hand.sql").read_bytes())
    answer()


def enqueue(address: str, count: int) -> None:
    by_hand = ByHand(address)
    images = by_hand.images(count)
    go()
    answer(len(by_hand.enqueue(images)))


def drain(address: str, _: int) -> None:
    by_hand = ByHand(address)
    done = 0
    go()
    while held := by_hand.claim():
        by_hand.complete(held)
        done += len(held)
    answer(done)


def latency(address: str, count: int) -> None:
    worker, asker = ByHand(address), ByHand(address)
    images = asker.images(count)

    def enqueue_one(n: int) -> None:
        with asker.connection.transaction():
            asker.enqueue([images[n]])
            asker.connection.execute(listening.NOTIFY)

    listening.latency(
        worker.connection,
        count,
        claim=lambda: worker.claim(1),
        finish=worker.complete,
        enqueue=enqueue_one,
    )


if __name__ == "__main__":
    serve({"prepare": prepare, "enqueue": enqueue, "drain": drain, "latency": latency})
