"""Many ends of jobs in one call: what is applied, what is fenced off, all or nothing."""

from __future__ import annotations

from typing import Any

import pytest

from bench import Bench, png
from negspace.database import Jsonb, only, rows
from negspace.errors import ConstraintError, InvalidInputError, NegspaceError
from queue_steps import ALL, enlist

FOUND = {
    "negative_space_data": {"schema": "rehearsal/1"},
    "confidence_score": 0.5,
    "processing_time_ms": 12,
    "pixel_hash": "a" * 64,
    "perceptual_hash": -5,
    "perceptual_hash_algorithm": "test",
}
RESULTS_READ = (
    "select coalesce(sum(idx_tup_fetch), 0) as n from pg_stat_xact_user_tables"
    " where relname = 'analysis_results'"
)


def ask(bench: Bench, query: Any, given: list[Any]) -> list[dict[str, Any]]:
    with bench.services.transaction() as connection:
        return rows(connection, query, given)


def claim(bench: Bench, count: int, worker: str = "w1") -> list[dict[str, Any]]:
    """The leases of jobs as a worker hands them in again."""
    query = "select id as job, attempt, lease_token::text as token from claim_jobs(%s, %s, %s)"
    return ask(bench, query, [worker, count, list(ALL)])


def complete(bench: Bench, held: list[dict[str, Any]], **changes: Any) -> list[tuple[Any, ...]]:
    ends = [FOUND | lease | changes for lease in held]
    found = ask(bench, "select * from complete_jobs(%s)", [Jsonb(ends)])
    return [tuple(row.values()) for row in found]


def fail(bench: Bench, ends: list[dict[str, Any]], *, counts: bool = True) -> dict[int, str]:
    found = ask(bench, "select * from fail_jobs(%s, %s)", [Jsonb(ends), counts])
    return {row["job_id"]: row["outcome"] for row in found}


def answer(bench: Bench, held: list[dict[str, Any]]) -> dict[int, tuple[str, int | None]]:
    found = ask(bench, "select * from answer_jobs(%s)", [Jsonb(held)])
    return {row["job_id"]: (row["outcome"], row["result_id"]) for row in found}


def effects(bench: Bench) -> dict[str, Any]:
    """Everything an end leaves behind, counted."""
    query = """
        select (select array_agg(status::text order by id) from processing_queue) as jobs,
               (select array_agg(analysis_status::text order by id) from images) as images,
               (select count(*) from images where pixel_hash is not null) as hashed,
               (select count(*) from analysis_results) as results,
               (select count(*) from analysis_cache) as cache,
               (select count(*) from security_audit where action = 'run_analysis') as events,
               (select count(*) from audit_log_details d
                join security_audit a on a.id = d.audit_id and a.timestamp = d.audit_timestamp
                where d.event_data ? 'job_id') as details,
               (select count(*) from performance_metrics) as samples,
               (select sum(jobs_completed) from workers) as completed,
               (select sum(jobs_failed) from workers) as failed"""
    found = only(bench.owner, query)
    assert found is not None
    return found


@pytest.fixture
def worker(bench: Bench) -> str:
    return enlist(bench)


def test_a_batch_is_applied_whole_and_says_what_was_fenced_off(bench: Bench, worker: str) -> None:
    ids = bench.enqueue(bench.add_images(4))
    held = claim(bench, 4)
    stale = [held[2] | {"attempt": 2}, held[3] | {"token": held[0]["token"]}]
    outcomes = complete(bench, [*held[:2], *stale, held[0] | {"job": 10**9}])
    results = [outcome[2] for outcome in outcomes[:2]]
    assert outcomes == [
        (ids[0], "completed", results[0]),
        (ids[1], "completed", results[1]),
        (ids[2], "lost", None),
        (ids[3], "lost", None),
        (10**9, "lost", None),
    ]
    assert effects(bench) == {
        "jobs": ["completed", "completed", "processing", "processing"],
        "images": ["completed", "completed", "processing", "processing"],
        "hashed": 2,
        "results": 2,
        "cache": 2,
        "events": 2,
        "details": 2,
        "samples": 4,
        "completed": 2,
        "failed": 0,
    }
    # the same ends once more: what was done stays done, once
    assert [outcome[1] for outcome in complete(bench, held)] == [
        "lost", "lost", "completed", "completed",
    ]  # fmt: skip
    assert effects(bench)["events"] == effects(bench)["results"] == 4
    told = "select image_id, changes_after -> 'result_id' as result from security_audit a"
    told += " join analysis_results r on r.id = (changes_after ->> 'result_id')::bigint"
    told += " where a.resource_id <> r.image_id::text"
    assert bench.all(told) == []


def test_each_end_is_its_own_jobs_in_whatever_order(bench: Bench, worker: str) -> None:
    images = bench.add_images(4)
    bench.enqueue(images)
    held = claim(bench, 4)

    def end(place: int, score: float) -> dict[str, Any]:
        found = {"negative_space_data": {"schema": "rehearsal/1", "place": place}}
        return FOUND | found | {"confidence_score": score, "pixel_hash": f"{place}" * 64}

    ends = [
        end(9, 0.9) | held[0],  # the job is named again: the last one counts
        end(3, 0.3) | held[3],
        end(8, 0.8) | held[2] | {"token": held[0]["token"]},
        end(1, 0.1) | held[1],
        end(0, 0.0) | held[0],
    ]
    for key in ("pixel_hash", "perceptual_hash", "perceptual_hash_algorithm"):
        del ends[3][key]
    outcomes = ask(bench, "select outcome from complete_jobs(%s)", [Jsonb(ends)])
    assert [one["outcome"] for one in outcomes] == ["completed", "completed", "lost", "completed"]
    stored = """
        select i.id, left(i.pixel_hash, 1) as hashed, i.perceptual_hash,
               (r.negative_space_data ->> 'place')::integer as place,
               r.confidence_score::float as score,
               c.cached_result -> 'negative_space_data' = r.negative_space_data as cached
        from images i
        left join analysis_results r on r.image_id = i.id
        left join analysis_cache c on c.image_id = i.id
        order by i.id"""
    assert [tuple(row.values()) for row in bench.all(stored)] == [
        (images[0], "0", -5, 0, 0.0, True),
        (images[1], None, None, 1, 0.1, True),
        (images[2], None, None, None, None, None),
        (images[3], "3", -5, 3, 0.3, True),
    ]


def test_one_refused_result_refuses_the_batch(bench: Bench, worker: str) -> None:
    bench.enqueue(bench.add_images(3))
    held = claim(bench, 3)
    before = effects(bench)
    ends = [FOUND | lease for lease in held]
    ends[1]["confidence_score"] = 1.5
    with pytest.raises(ConstraintError) as caught:
        ask(bench, "select * from complete_jobs(%s)", [Jsonb(ends)])
    assert caught.value.details["constraint"] == "analysis_results_confidence_score_range"
    assert effects(bench) == before
    assert [one[1] for one in complete(bench, held)] == ["completed"] * 3


@pytest.mark.parametrize(
    "ends", [{}, "jobs", [1], [{"job": 1, "attempt": 1}], [{"job": None, "attempt": 1, "token": 1}]]
)
def test_malformed_ends_are_refused_with_a_hint(bench: Bench, ends: Any) -> None:
    for query in ("select complete_jobs(%s)", "select fail_jobs(%s)", "select answer_jobs(%s)"):
        with pytest.raises(InvalidInputError) as caught:
            ask(bench, query, [Jsonb(ends)])
        assert "claim_jobs()" in str(caught.value.hint)
    bench.enqueue(bench.add_image())
    [held] = claim(bench, 1)
    with pytest.raises(NegspaceError, match="uuid"):
        complete(bench, [held], token="no token")


def test_nothing_to_end_ends_nothing(bench: Bench, worker: str) -> None:
    assert complete(bench, []) == []
    assert fail(bench, []) == {}
    assert answer(bench, []) == {}


def test_equal_bytes_in_one_batch_share_a_cache_entry(bench: Bench, worker: str) -> None:
    content = png(77)
    ones = [bench.add_image(content), bench.add_image(content)]
    bench.enqueue(ones)
    assert [one[1] for one in complete(bench, claim(bench, 2))] == ["completed"] * 2
    assert (effects(bench)["results"], effects(bench)["cache"]) == (2, 1)


def test_two_jobs_of_one_image_in_one_batch_settle_it_once(bench: Bench, worker: str) -> None:
    from negspace import jobs

    image = bench.add_image()
    jobs.enqueue(bench.services, [image], bench.wanted())
    jobs.enqueue(bench.services, [image], bench.wanted(mark="another"))
    jobs.enqueue(bench.services, [image], bench.wanted(mark="a third"))
    held = claim(bench, 3)
    complete(bench, held[:2])
    assert effects(bench)["images"] == ["processing"], "a job of it still runs"
    complete(bench, held[2:])
    assert effects(bench)["images"] == ["completed"]
    history = "select processing_history from images"
    assert [step["to"] for step in bench.value(history)] == ["processing", "completed"]


def test_failures_are_tried_again_or_end(bench: Bench, worker: str) -> None:
    ids = bench.enqueue(bench.add_images(4), max_retries=1)
    held = claim(bench, 4)
    ends = [lease | {"reason": f"try of {lease['job']}"} for lease in held]
    ends[1]["again"] = False
    ends[3]["token"] = held[0]["token"]
    assert fail(bench, ends) == dict(
        zip(ids, ["retrying", "failed", "retrying", "lost"], strict=True)
    )
    assert effects(bench) == {
        "jobs": ["retrying", "failed", "retrying", "processing"],
        "images": ["processing", "failed", "processing", "processing"],
        "hashed": 0,
        "results": 0,
        "cache": 0,
        "events": 1,
        "details": 1,
        "samples": 6,
        "completed": 0,
        "failed": 3,
    }
    bench.hurry()
    assert fail(bench, claim(bench, 4)) == {ids[0]: "failed", ids[2]: "failed"}
    assert bench.job(ids[0]).error_message == "no reason given"
    failures = bench.all(
        "select failure_reason as reason from images where analysis_status = 'failed' order by id"
    )
    assert [row["reason"] for row in failures][1] == f"try of {ids[1]}"
    assert {event["status"] for event in bench.audit(bench.job(ids[1]).image_id)} == {"failure"}


def test_what_is_given_back_keeps_its_place_and_its_tries(bench: Bench, worker: str) -> None:
    ids = bench.enqueue(bench.add_images(3), max_retries=0)
    before = [bench.job(job).scheduled_at for job in ids]
    held = claim(bench, 2)
    given = [lease | {"reason": "stopping"} for lease in held]
    assert fail(bench, given, counts=False) == {ids[0]: "retrying", ids[1]: "retrying"}
    after = [bench.job(job) for job in ids]
    assert [job.retry_count for job in after] == [0, 0, 0]
    assert [job.scheduled_at for job in after] == before
    assert effects(bench)["samples"] == 0
    assert effects(bench)["failed"] == 0
    assert [lease["job"] for lease in claim(bench, 3)] == ids


def test_what_the_cache_knows_is_answered_and_the_rest_is_left(bench: Bench, worker: str) -> None:
    content = png(78)
    one, twin, again = (bench.add_image(content) for _ in range(3))
    other, late = bench.add_images(2)
    ids = bench.enqueue([one, twin, other, late])
    ids.append(bench.enqueue(again, use_cache=False))
    held = claim(bench, 5)
    [(_, _, result)] = complete(bench, held[:1])
    lease = held[3] | {"attempt": 7}
    answers = answer(bench, [held[0], held[1], held[2], lease, held[4]])
    assert (answers[ids[0]], answers[ids[2]]) == (("lost", None), ("held", None))
    assert (answers[ids[3]], answers[ids[4]]) == (("lost", None), ("held", None))
    outcome, copied = answers[ids[1]]
    assert outcome == "completed"
    assert copied not in (None, result)
    [row] = bench.all("select image_id, cache_hit from analysis_results where id = %s", [copied])
    assert tuple(row.values()) == (twin, True)
    assert bench.status(ids[1]) == "completed"


def test_a_batch_is_told_of_each_job_whether_its_answer_is_there(bench: Bench, worker: str) -> None:
    contents = [png(1), png(2), png(1), png(3), png(2)]
    ids = bench.enqueue([bench.add_image(content) for content in contents])
    complete(bench, claim(bench, 2))
    query = "select id, answered from claim_work('w1', 9, %s)"
    told = {row["id"]: row["answered"] for row in ask(bench, query, [list(ALL)])}
    assert told == {ids[2]: True, ids[3]: False, ids[4]: True}
    past = "created_at = now() - interval '2 hours', expires_at = now() - interval '1 hour'"
    bench.owner.execute(f"update analysis_cache set {past}".encode())
    held = "select id as job, attempt, lease_token::text as token, 'not now' as reason"
    held += " from processing_queue_hot where status = 'processing'"
    fail(bench, bench.all(held), counts=False)
    again = {row["id"]: row["answered"] for row in ask(bench, query, [list(ALL)])}
    assert again == dict.fromkeys(told, False), "what has expired answers nothing"


def test_jobs_whose_result_is_there_are_answered_with_it_and_counted_as_hits(
    bench: Bench, worker: str
) -> None:
    content = png(79)
    one = bench.add_image(content)
    twin = bench.add_image(content)
    other = bench.add_image(png(80))
    ids = bench.enqueue([one, twin, other])
    results = [outcome[2] for outcome in complete(bench, claim(bench, 3))]
    keys = "select count(*) from analysis_cache c join images i on i.id = c.image_id"
    keys += " where c.cache_key = cache_key(i.file_hash, c.algorithm_fingerprint, i.user_id)"
    assert bench.value(keys) == 2, "what a batch stores is found by its owner"
    bench.owner.execute("update analysis_cache set expires_at = now() where image_id = %s", [other])
    bench.owner.execute("update images set analysis_status = 'pending'")
    # as if they had been asked for before: to compute them, were it not for their results
    again = "insert into processing_queue (image_id, user_id, algorithm_name, algorithm_version,"
    again += " algorithm_parameters) select image_id, user_id, algorithm_name, algorithm_version,"
    again += " algorithm_parameters from analysis_results"
    bench.owner.execute(again.encode())
    before = effects(bench)
    held = claim(bench, 3)
    answers = answer(bench, held)
    assert list(answers.values()) == [("completed", result) for result in results]
    assert set(answers).isdisjoint(ids)
    after = effects(bench)
    assert after["images"] == ["completed"] * 3
    for same in ("results", "cache", "events"):
        assert after[same] == before[same], "the result had its event when it came"
    assert bench.value("select count_cache_uses()") == 2 + 1  # hits, and the misses of the batch
    hits = "select hit_count from analysis_cache order by hit_count desc"
    assert [row["hit_count"] for row in bench.all(hits)] == [2, 0], "one, its twin; an old entry"


def test_a_result_is_looked_for_by_its_image(bench: Bench, worker: str) -> None:
    """Whatever the planner believes of a table that was empty when statistics were taken."""
    bench.owner.execute("analyze analysis_results")
    bench.enqueue(bench.add_images(12))
    held = claim(bench, 12)
    stored = "insert into analysis_results (image_id, user_id, algorithm_name, algorithm_version,"
    stored += " algorithm_parameters, negative_space_data, confidence_score, processing_time_ms)"
    stored += " select q.image_id, q.user_id, q.algorithm_name, q.algorithm_version,"
    stored += " q.algorithm_parameters || jsonb_build_object('n', n), '{}', 1, 1"
    stored += " from processing_queue q, generate_series(0, 199) n"
    bench.owner.execute(stored.encode())
    with bench.services.transaction() as connection:
        outcomes = rows(connection, "select outcome from answer_jobs(%s)", [Jsonb(held)])
        assert {row["outcome"] for row in outcomes} == {"held"}
        # an image has 200; of the analyser there are 2,400
        assert rows(connection, RESULTS_READ)[0]["n"] <= 12 * 200


@pytest.mark.parametrize("many", [1, 6])
def test_a_claim_looks_for_results_by_their_images(bench: Bench, worker: str, many: int) -> None:
    """By a plan of the session's first claim, when there were none; all of them were read."""
    bench.enqueue(bench.add_images(24))
    query = "select answered from claim_work('w1', %s, %s)"
    stored = "insert into analysis_results (image_id, user_id, algorithm_name, algorithm_version,"
    stored += " algorithm_parameters, negative_space_data, confidence_score, processing_time_ms)"
    stored += " select q.image_id, q.user_id, q.algorithm_name, q.algorithm_version,"
    stored += " q.algorithm_parameters || jsonb_build_object('n', n), '{}', 1, 1"
    stored += " from processing_queue q, generate_series(0, 99) n"
    with bench.services.transaction() as connection:
        rows(connection, query, [many, list(ALL)])
        bench.owner.execute(stored.encode())
        told = rows(connection, query, [many, list(ALL)])
        assert [row["answered"] for row in told] == [False] * many
        # 200 more where it was time to measure analysers
        assert rows(connection, RESULTS_READ)[0]["n"] <= many * 100 + 200, "2,400 are there"
