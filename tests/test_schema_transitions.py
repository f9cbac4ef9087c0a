"""Every change of status that an image or a job may make, and every one that it may not."""

from __future__ import annotations

import itertools
import json

import psycopg
import pytest

from negspace import database
from schema_rows import add

IMAGE = ("pending", "processing", "completed", "failed", "archived")
IMAGE_ALLOWED = {
    ("pending", "processing"),
    ("pending", "failed"),
    ("pending", "archived"),
    ("processing", "completed"),
    ("processing", "failed"),
    # additions of the specification's settled contradictions
    ("failed", "pending"),
    ("completed", "pending"),
    ("completed", "archived"),
    ("failed", "archived"),
}

JOB = ("queued", "processing", "completed", "failed", "retrying", "cancelled")
JOB_ALLOWED = {
    ("queued", "processing"),
    ("queued", "cancelled"),
    ("processing", "completed"),
    ("processing", "failed"),
    ("failed", "retrying"),
    ("failed", "cancelled"),
    # additions
    ("retrying", "processing"),
    ("retrying", "cancelled"),
    ("processing", "cancelled"),
}
HOT = {"queued", "processing", "retrying"}


def what_follows(allowed: set[tuple[str, str]], before: str) -> set[str]:
    return {after for source, after in allowed if source == before}


def see_refused(caught, what, number, before, after, allowed):
    said = caught.value.diag
    assert said.sqlstate == "NS001"
    assert said.message_primary == f"{what} {number} may not go from {before} to {after}"
    begins = f"from {before} it may go to: "
    assert said.message_hint.startswith(begins)
    names = said.message_hint.removeprefix(begins)
    follows = what_follows(allowed, before)
    if follows:
        assert set(names.split(", ")) == follows
    else:
        assert names == "nothing else, it has ended"


@pytest.mark.parametrize(("before", "after"), [*itertools.product(IMAGE, IMAGE)])
def test_image(owner, before, after):
    image = add(owner, "images", analysis_status=before)
    change = "update images set analysis_status = %s where id = %s returning *"
    if before != after and (before, after) not in IMAGE_ALLOWED:
        with pytest.raises(psycopg.Error) as caught:
            owner.execute(change, [after, image["id"]])
        see_refused(caught, "image", image["id"], before, after, IMAGE_ALLOWED)
        return
    changed = database.only(owner, change, [after, image["id"]])
    assert changed["analysis_status"] == after
    steps = [(step["from"], step["to"]) for step in changed["processing_history"]]
    assert steps == ([] if before == after else [(before, after)])  # the same is no transition


@pytest.mark.parametrize(("before", "after"), [*itertools.product(JOB, JOB)])
def test_job(owner, before, after):
    job = add(owner, "processing_queue", status=before)
    change = """
        update processing_queue
        set status = %s, worker_id = 'worker-1', started_at = now(), completed_at = now()
        where id = %s returning status"""
    if before != after and (before, after) not in JOB_ALLOWED:
        with pytest.raises(psycopg.Error) as caught:
            owner.execute(change, [after, job["id"]])
        see_refused(caught, "job", job["id"], before, after, JOB_ALLOWED)
        return
    assert database.only(owner, change, [after, job["id"]])["status"] == after
    found = database.rows(
        owner,
        "select status, tableoid::regclass::text as partition from processing_queue where id = %s",
        [job["id"]],
    )
    assert [row["status"] for row in found] == [after]
    expected = "processing_queue_hot" if after in HOT else "processing_queue_ended_"
    assert found[0]["partition"].startswith(expected)


@pytest.mark.parametrize(
    ("trigger", "allowed"),
    [
        ("images_status_transition", IMAGE_ALLOWED),
        ("processing_queue_status_transition", JOB_ALLOWED),
    ],
)
def test_hint_says_what_the_guard_allows(owner, trigger, allowed):
    # The guard's WHEN clause is proved by the changes above; the hint is a second list.
    found = database.only(
        owner,
        "select tgargs from pg_trigger where tgname = %s and tgparentid = 0",
        [trigger],
    )
    hint = json.loads(bytes(found["tgargs"]).split(b"\0")[2])
    said = {(before, after) for before, names in hint.items() for after in names.split(", ")}
    assert said == allowed


def test_a_partition_is_guarded_like_its_parent(owner):
    job = add(owner, "processing_queue")
    with pytest.raises(psycopg.Error) as caught:
        owner.execute(
            "update processing_queue_hot set status = 'retrying' where id = %s", [job["id"]]
        )
    assert caught.value.sqlstate == "NS001"


def test_the_services_are_guarded_too(app):
    image = add(app, "images")
    with pytest.raises(psycopg.Error) as caught:
        app.execute("update images set analysis_status = 'completed' where id = %s", [image["id"]])
    assert caught.value.sqlstate == "NS001"
