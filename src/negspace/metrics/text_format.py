"""The text format 0.0.4 of Prometheus: families of samples as lines.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["counter", "gauge", "summary"]


@dataclass(frozen=True)
class Value:
    """One sample.

    Attributes:
        value: Its value.
        labels: What it is told apart by.
        suffix: What its name has after the family's: ``_sum`` and ``_count`` of a summary.
    """

    value: float
    labels: Mapping[str, str]
    suffix: str = ""


@dataclass(frozen=True)
class Family:
    """Samples of one name.

    Attributes:
        name: By Prometheus' conventions: the base unit at its end, ``_total`` for a counter.
        kind: What it is.
        help: What it means, in a sentence.
        values: The samples.
    """

    name: str
    kind: Kind
    help: str
    values: Sequence[Value]


def text(families: Iterable[Family]) -> str:
    """The families as a scraper reads them."""
    return "".join(f"{line}\n" for family in families for line in _lines(family))


def _lines(family: Family) -> Iterator[str]:
    told = family.help.replace("\\", "\\\\").replace("\n", "\\n")
    yield f"# HELP {family.name} {told}"
    yield f"# TYPE {family.name} {family.kind}"
    for value in family.values:
        yield f"{family.name}{value.suffix}{_shown(value.labels)} {_number(value.value)}"


def _shown(labels: Mapping[str, str]) -> str:
    def quoted(value: str) -> str:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    inside = ",".join(f'{name}="{quoted(value)}"' for name, value in labels.items())
    return f"{{{inside}}}" if inside else ""


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))
