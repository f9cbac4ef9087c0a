"""An entity diagram as SVG: a box per table, a line per foreign key. Pure.

Tables stand in columns from left to right: a table is one column behind the last that it refers
to. Those that refer to nothing, and that nothing refers to, stand below. Within a column the
order is that of the tables referred to, which keeps most lines from crossing (the barycentre
heuristic of Sugiyama, Tagawa and Toda, 1981).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

LINE, HEAD, WIDTH, GAP_X, GAP_Y, MARGIN = 15, 22, 236, 90, 24, 20
SHOWN: Final = 7  # fields beside the keys


@dataclass(frozen=True)
class Field:
    """One column; ``target`` is the table that it refers to."""

    name: str
    type: str
    is_primary: bool
    target: str | None


@dataclass(frozen=True)
class Entity:
    """One table."""

    name: str
    fields: tuple[Field, ...]

    @property
    def targets(self) -> set[str]:
        return {f.target for f in self.fields if f.target and f.target != self.name}

    @property
    def shown(self) -> tuple[Field, ...]:
        """All keys, and the first of the others."""
        keys = [f for f in self.fields if f.is_primary or f.target]
        others = [f for f in self.fields if f not in keys][:SHOWN]
        return tuple(f for f in self.fields if f in keys or f in others)

    @property
    def height(self) -> int:
        more = len(self.fields) > len(self.shown)
        return HEAD + LINE * (len(self.shown) + more) + 6


Places = dict[str, tuple[int, int]]


def draw(entities: Sequence[Entity]) -> str:
    """The picture, the same bytes for the same tables."""
    places = _placed(entities)
    named = {entity.name: entity for entity in entities}
    width = max(x for x, _ in places.values()) + WIDTH + MARGIN
    height = max(y + named[name].height for name, (_, y) in places.items()) + MARGIN
    lines = [_edge(one, field, places, named) for one in entities for field in _references(one)]
    boxes = [_box(entity, *places[entity.name]) for entity in entities]
    style = (
        "text{font:11px ui-monospace,Menlo,Consolas,monospace;fill:#1b2733}"
        ".t{font-weight:700;fill:#fff}.m{fill:#68788a}"
        ".b{fill:#fff;stroke:#40607f}.h{fill:#40607f}"
        ".e{fill:none;stroke:#8296aa;stroke-width:1.2}"
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
            f' width="{width}" height="{height}" role="img">',
            "<title>The tables of negspace and their foreign keys</title>",
            f"<style>{style}</style>",
            '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8"'
            ' markerHeight="8" orient="auto"><path d="M0 0 8 4 0 8z" fill="#8296aa"/></marker>'
            "</defs>",
            f'<rect width="{width}" height="{height}" fill="#f6f8fa"/>',
            *lines,
            *boxes,
            "</svg>",
            "",
        ]
    )


def _references(entity: Entity) -> list[Field]:
    return [field for field in entity.shown if field.target]


def _placed(entities: Sequence[Entity]) -> Places:
    named = {entity.name: entity for entity in entities}
    wanted = {target for entity in entities for target in entity.targets}
    bound = [e for e in entities if e.targets or e.name in wanted]
    depth: dict[str, int] = {}

    def deep(name: str, above: frozenset[str] = frozenset()) -> int:
        if name not in depth:
            targets = named[name].targets - above - {name}
            depth[name] = max((deep(t, above | {name}) + 1 for t in targets), default=0)
        return depth[name]

    columns: dict[int, list[Entity]] = {}
    for entity in sorted(bound, key=lambda e: e.name):
        columns.setdefault(deep(entity.name), []).append(entity)
    places: Places = {}
    for number in sorted(columns):
        x, y = MARGIN + number * (WIDTH + GAP_X), MARGIN
        for entity in sorted(columns[number], key=lambda e: (_centre(e, places), e.name)):
            places[entity.name] = (x, y)
            y += entity.height + GAP_Y
    below = max(y + named[name].height for name, (_, y) in places.items()) + 2 * GAP_Y
    across = max(columns) + 1
    heights = [below] * across
    for entity in sorted((e for e in entities if e not in bound), key=lambda e: e.name):
        at = heights.index(min(heights))
        places[entity.name] = (MARGIN + at * (WIDTH + GAP_X), heights[at])
        heights[at] += entity.height + GAP_Y
    return places


def _centre(entity: Entity, places: Places) -> float:
    heights = [places[target][1] for target in entity.targets if target in places]
    return sum(heights) / len(heights) if heights else 0.0


def _row(entity: Entity, field: Field) -> int:
    return HEAD + LINE * entity.shown.index(field) + LINE // 2 + 2


def _edge(entity: Entity, field: Field, places: Places, named: dict[str, Entity]) -> str:
    assert field.target is not None
    x, y = places[entity.name]
    to_x, to_y = places[field.target]
    y += _row(entity, field)
    to_y += HEAD // 2
    if to_x < x:
        to_x += WIDTH
        middle = max(GAP_X // 2, (x - to_x) // 3)
        path = f"M{x} {y}C{x - middle} {y} {to_x + middle} {to_y} {to_x} {to_y}"
    else:  # itself, or one above or below it
        x, to_x = x + WIDTH, to_x + WIDTH
        path = f"M{x} {y}C{x + 40} {y} {to_x + 40} {to_y} {to_x} {to_y}"
    said = f"{entity.name}.{field.name} → {field.target}"
    return f'<path class="e" marker-end="url(#a)" d="{path}"><title>{escape(said)}</title></path>'


def _box(entity: Entity, x: int, y: int) -> str:
    parts = [
        f'<g transform="translate({x} {y})" id="{escape(entity.name)}">',
        f'<rect class="b" width="{WIDTH}" height="{entity.height}" rx="4"/>',
        f'<path class="h" d="M0 {HEAD}V4a4 4 0 0 1 4-4H{WIDTH - 4}a4 4 0 0 1 4 4V{HEAD}z"/>',
        f'<text class="t" x="8" y="15">{escape(entity.name)}</text>',
    ]
    for field in entity.shown:
        at = _row(entity, field) + 4
        mark = "• " if field.is_primary else "→ " if field.target else "  "
        kind = field.type.replace("timestamp with time zone", "timestamptz")
        kind = kind.replace("character varying", "varchar")[:16]
        parts.append(
            f'<text x="8" y="{at}" xml:space="preserve">{escape(mark + field.name)}</text>'
        )
        parts.append(
            f'<text class="m" x="{WIDTH - 8}" y="{at}" text-anchor="end">{escape(kind)}</text>'
        )
    more = len(entity.fields) - len(entity.shown)
    if more:
        parts.append(f'<text class="m" x="8" y="{entity.height - 8}">  … {more} more</text>')
    return "\n".join([*parts, "</g>"])
