"""Goals, the table, and the page that shows it."""

from __future__ import annotations

from pathlib import Path

from benchmarks.claims import Claim
from benchmarks.queueing.course import Result, Size
from benchmarks.queueing.meter import Cost
from benchmarks.queueing.systems import BY_HAND

PAGE = Path(__file__).parents[2] / "docs/benchmarks.md"
ESTIMATE = "error of estimated_completion_at"
BEGIN, END = "<!-- queue -->", "<!-- /queue -->"


def least(name: str, ours: Cost | None, other: Cost | None, peer: str, goal: float) -> list[Claim]:
    """Ours must have at least so many times the rate of the other."""
    if not ours or not other:
        return []
    ratio = ours.rate / other.rate
    return [Claim(name, ours.rate, other.rate, peer, ratio, goal, ratio >= goal)]


def most(name: str, ours: float | None, other: float | None, goal: float) -> list[Claim]:
    """Ours must take at most so many milliseconds."""
    if ours is None:
        return []
    ratio = ours / other if other else None
    return [Claim(name, ours, other, "the reference", ratio, goal, ours <= goal)]


def goals(results: list[Result]) -> list[Claim]:
    """What was promised, and whether it holds."""
    found = {result.system.name: result for result in results}
    ours, bare, reference = found["ours"], found["ours, no result"], found["reference"]
    lines = [
        *least("bulk enqueue", ours.enqueue, ours.copy, "COPY, same columns", 0.7),
        *least("drain, 1 process", ours.drain, reference.drain, "the reference", 1.0),
        *least("drain, 1 process, no result", bare.drain, reference.drain, "the reference", 1.0),
        *least("drain, 2 processes", ours.two, ours.drain, "our one process", 1.6),
        *least("dirty drain", ours.dirty, ours.drain, "our clean one", 0.9),
        *most("idle latency p50", ours.latency(50), reference.latency(50), 2.5),
        *most("idle latency p99", ours.latency(99), reference.latency(99), 10.0),
        *least("32 writers, a worker sleeps", ours.asleep, ours.awake, "nobody sleeps", 0.9),
    ]
    lines += [
        Claim(f"{ESTIMATE} {when}, ms", error, None, "its median", None, None, None)
        for when, error in ours.estimate.items()
    ]
    for result in results:
        if result in (ours, bare, reference):
            continue
        lines += [
            Claim(f"{what} against {result.system.name}", mine.rate, theirs.rate,
                 result.system.name, mine.rate / theirs.rate, None, None)
            for what, mine, theirs in (
                ("drain, 1 process", ours.drain, result.drain),
                ("drain, 2 processes", ours.two, result.two),
                ("dirty drain", ours.dirty, result.dirty),
                ("bulk enqueue", ours.enqueue, result.enqueue),
            )
            if mine and theirs and theirs.rate
        ]  # fmt: skip
    return lines


def heading(version: str | None, size: Size, missing: dict[str, str], results: list[Result]) -> str:
    """What the tables hold."""
    said = [f"{when} by {ms:,.0f} ms" for r in results for when, ms in r.estimate.items()]
    text = (
        f"PostgreSQL {version}, fsync on; {size.jobs:,} jobs that do nothing, medians of"
        f" {size.repeats}. Dirty: a snapshot held, {size.finished:,} finished jobs, {size.dead:,}"
        " dead ones, statistics of an empty queue. Latency: from enqueue to start. Small: CPU of"
        " the server, WAL, commits, each per job."
    )
    if said:
        text += f" estimated_completion_at of {size.waits} jobs of 20 ms, one after another, is"
        text += f" wrong {' and '.join(said)} (medians; all of them take {size.waits * 20:,} ms)."
    for result in results:
        if result.failure:
            missing = missing | {result.system.name: result.failure}
    for name, why in missing.items():
        text += f" {name} could not be measured: {why}."
    return text


def _cost(cost: Cost | None) -> str:
    if cost is None:
        return "–"
    return f"{cost.rate:,.0f}/s<br><small>{cost.each()}</small>"


def _rows(head: list[str], body: list[list[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *body))


def systems_table(results: list[Result]) -> str:
    """Every system, every run."""
    head = ["queue", "enqueue", "drain, 1 process", "2 processes", "dirty drain", "p50", "p99"]
    body: list[list[str]] = []
    for result in results:
        times = [result.latency(50), result.latency(99)]
        body.append(
            [
                result.system.name,
                *map(_cost, (result.enqueue, result.drain, result.two, result.dirty)),
                *("–" if time is None else f"{time:,.1f} ms" for time in times),
            ]
        )
        for name, cost in (
            ("plain COPY into our table", result.copy),
            ("ours, 32 writers of one job each, nobody sleeps", result.awake),
            ("… and a worker sleeps, who is told", result.asleep),
        ):
            if cost:
                body.append([name, _cost(cost), *["–"] * 5])
    return _rows(head, body)


def goals_table(lines: list[Claim]) -> str:
    """What was promised."""
    body: list[list[str]] = []
    for line in lines:
        if line.goal is None and line.peer != BY_HAND.name:
            continue  # an estimate, or a peer, which does something else
        time = "latency" in line.name
        unit = " ms" if time else "/s"
        value = "{:,.1f}" if time else "{:,.0f}"
        bar = f"≤ {line.goal:g} ms" if time else f"≥ {line.goal:g} ×" if line.goal else "–"
        body.append(
            [
                line.name.removesuffix(f" against {line.peer}"),
                value.format(line.ours) + unit,
                "–" if line.reference is None else value.format(line.reference) + unit,
                line.peer,
                "–" if line.ratio is None else f"{line.ratio:.2f} ×",
                bar,
                {None: "–", True: "yes", False: "**missed**"}[line.holds],
            ]
        )
    return _rows(["goal", "ours", "other", "which", "ratio", "bar", "holds"], body)


def write_page(text: str) -> None:
    """Put the text between the markers."""
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
