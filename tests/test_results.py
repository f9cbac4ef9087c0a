"""Results: listed, read for a purpose, taken out; nothing leaves without an event."""

from __future__ import annotations

import csv
import io
import json

import pytest

import queue_singly as leases
from bench import Bench
from negspace import results
from negspace.database import Actor
from negspace.errors import InvalidInputError, NotFoundError
from negspace.results import Selection
from queue_steps import claimed, completion, enlist


def analysed(bench: Bench, count: int = 1, **found: object) -> list[int]:
    """Images with a result each."""
    enlist(bench)
    images = bench.add_images(count)
    for image in images:
        bench.enqueue(image)
        data = {"schema": "rehearsal/1", "negative_fraction": 0.25, "void_count": image}
        leases.complete(
            bench.services, claimed(bench), completion(negative_space_data=data, **found)
        )
    return images


def events(bench: Bench, action: str) -> list[dict[str, object]]:
    query = (
        "select a.user_id, a.resource_id, a.status, a.changes_after, d.event_name,"
        " d.event_description"
        " from security_audit a left join audit_log_details d on d.audit_id = a.id"
        " where a.action = %s::audit_action order by a.id"
    )
    return bench.all(query, [action])


def test_results_are_listed_by_page_and_selection(bench: Bench) -> None:
    images = analysed(bench, 3)
    listed = results.list_results(bench.services, limit=2)
    assert [one.image_id for one in listed] == [images[2], images[1]]
    older = results.list_results(bench.services, before=listed[-1].result_id)
    assert [one.image_id for one in older] == [images[0]]
    assert older[0].performance_category == "fast"
    [only] = results.list_results(bench.services, Selection(image=images[1]))
    assert only.image_id == images[1]
    assert results.list_results(bench.services, Selection(algorithm="none")) == []
    assert results.list_results(bench.services, Selection(user=bench.user + 1)) == []
    assert events(bench, "view_results") == []


def test_reading_leaves_who_and_why(bench: Bench) -> None:
    [image] = analysed(bench)
    reader = bench.services.acting_as(Actor(user_id=bench.user, ip_address="10.1.2.3"))
    [found] = results.read(reader, image, "second opinion")
    assert found.negative_space_data["void_count"] == image
    assert found.confidence_score == 0.5
    [event] = events(bench, "view_results")
    assert (event["user_id"], event["resource_id"]) == (bench.user, str(image))
    assert event["event_description"] == "second opinion"
    assert results.newest(bench.services, bench.add_image(), "look") is None
    with pytest.raises(NotFoundError, match="no image 999"):
        results.read(bench.services, 999, "look")
    with pytest.raises(InvalidInputError, match="purpose"):
        results.read(bench.services, image, "")
    assert [e["status"] for e in events(bench, "view_results")] == [
        *["success"] * 2,
        *["failure"] * 2,
    ]


def test_nothing_is_exported_without_an_event(bench: Bench) -> None:
    images = analysed(bench, 3)
    exported = results.export(bench.services, "yearly report", Selection(algorithm="rehearsal"))
    name, first = next(exported)
    assert (first.image_id, name.endswith(".png")) == (images[0], True)
    exported.close()  # the reader stops early: what was read was read
    [event] = events(bench, "export_data")
    assert event["event_description"] == "yearly report"
    assert event["changes_after"] == {"algorithm": "rehearsal"}
    with pytest.raises(InvalidInputError, match="purpose"):
        next(results.export(bench.services, " "))
    assert [one["status"] for one in events(bench, "export_data")] == ["success", "failure"]


def test_the_command_line_lists_shows_and_exports(bench: Bench) -> None:
    [image] = analysed(bench, optimization_suggestions=["a smaller file"])
    bench.owner.execute("update images set original_filename = '=cmd()'")
    listed = bench.cli("results", "list", "--json")
    assert [one["image_id"] for one in listed.json] == [image]
    assert "=cmd()" in bench.cli("results", "list").out
    assert bench.cli("results", "show", str(image)).status == 2, "no purpose"
    shown = bench.cli("results", "show", str(image), "--purpose", "check")
    assert "negative fraction" in shown.out
    assert "a smaller file" in shown.out
    taken = bench.cli("results", "export", "--purpose", "check")
    [row] = csv.DictReader(io.StringIO(taken.out))
    assert (row["negative_fraction"], row["original_filename"]) == ("0.25", "'=cmd()")
    file = bench.folder / "out.json"
    command = ["results", "export", "--purpose", "check", "--format", "json", "-o", str(file)]
    assert bench.cli(*command).status == 0
    [whole] = json.loads(file.read_text())
    assert whole["quality_metrics"] == {}
    again = bench.cli(*command)
    assert (again.status, "can't be written" in again.err) == (1, True)
    assert bench.cli("results", "export", "--purpose", "x", "--image", "99", "--json").json == []
    assert len(events(bench, "export_data")) == 3, "none where nothing could be written"
