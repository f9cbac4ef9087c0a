"""docs/reference.md and docs/entities.svg say what the catalog says."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

import entity_diagram
import schema_reference
from entity_diagram import Entity, Field


@pytest.mark.parametrize("what", ["page", "picture"])
def test_it_is_what_the_catalog_says(owner, what):
    made = getattr(schema_reference, what)(owner)
    file = {"page": schema_reference.PAGE, "picture": schema_reference.PICTURE}[what]
    assert made == file.read_text("utf-8"), "make reference writes it anew"


def test_nothing_lacks_its_meaning(owner):
    empty = [line for line in schema_reference.page(owner).splitlines() if line.endswith("|  |")]
    assert empty == []


def test_a_diagram_has_every_table_and_every_foreign_key():
    users = Entity("users", (Field("id", "bigint", True, None),))
    images = Entity(
        "images",
        (
            Field("id", "bigint", True, None),
            Field("user_id", "bigint", False, "users"),
            Field("duplicate_of", "bigint", False, "images"),
            *(Field(f"more_{n}", "text", False, None) for n in range(9)),
        ),
    )
    alone = Entity("alone", (Field("id", "bigint", True, None),))
    drawn = entity_diagram.draw([users, images, alone])
    root = ElementTree.fromstring(drawn)
    space = {"s": "http://www.w3.org/2000/svg"}
    assert {g.get("id") for g in root.findall("s:g", space)} == {"users", "images", "alone"}
    titles = {title.text for title in root.findall("s:path/s:title", space)}
    assert titles == {"images.user_id → users", "images.duplicate_of → images"}
    assert "… 2 more" in drawn


def test_boxes_stand_apart():
    found = [
        Entity(f"t{n}", (Field("id", "int", True, None), Field("up", "int", False, f"t{n // 2}")))
        for n in range(9)
    ]
    places = entity_diagram._placed(found)
    boxes = [
        (x, y, x + entity_diagram.WIDTH, y + e.height) for e in found for x, y in [places[e.name]]
    ]
    for a in boxes:
        for b in boxes:
            apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
            assert a is b or apart
