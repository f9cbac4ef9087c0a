"""``negspace demo``: real images through the whole system, once, with a report."""

from __future__ import annotations

import hashlib
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from negspace import images, intake, jobs, migrate, report, samples, server, settings, users
from negspace.cli import output
from negspace.cli.migrate_options import OWN_MIGRATIONS
from negspace.database import Actor, Database, program_agent
from negspace.errors import NegspaceError, NotFoundError, ServerError
from negspace.images import Image
from negspace.jobs import Enqueued
from negspace.report import Report
from negspace.samples import Sample
from negspace.settings import Settings
from negspace.storage import Storage
from negspace.users import User

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

_EMAIL: Final = "demo@negspace.example"
_WORKERS: Final = 2


@dataclass(frozen=True)
class Taken:
    """What became of one sample at the door."""

    sample: Sample
    image: Image | None
    refusal: str | None


@click.command("demo")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Where the report and the derived files go.",
)
@output.json_option
def group(folder: Path, as_json: bool) -> None:
    """Take real images through the whole system and write a report.

    Starts the embedded PostgreSQL where no server is configured, migrates, takes in images
    that come inside packages, analyses them with two worker processes, and shows what was
    found. A second time every result is in the cache.
    """
    began = time.monotonic()
    given = settings.load()
    _migrate(given)
    actor = Actor(ip_address="127.0.0.1", user_agent=program_agent())
    with server.open_database(given, actor=actor) as opened:
        user = _user(opened)
        database = opened.acting_as(replace(actor, user_id=user.id))
        taken = _take_in(database, given, user, folder)
        asked = _enqueue(database, taken)
        _work(database, asked, folder)
        gathered = report.gather(database, user_id=user.id)
        page = report.write(
            gathered,
            folder / "report.html",
            storage=server.storage_folder(given),
            title="negspace demo",
        )
    if as_json:
        output.show_json({"report": page, "asked": asked, "found": gathered})
        return
    _show(gathered, taken, asked, page, time.monotonic() - began)


def _migrate(given: Settings) -> None:
    address = server.address(given, owner=True, progress=output.note)
    done = migrate.up(address, OWN_MIGRATIONS)
    if done.failure is not None:
        raise done.failure.error()
    if done.steps:
        output.note(f"applied {len(done.steps)} migrations")


def _user(database: Database) -> User:
    try:
        return users.find(database, _EMAIL)
    except NotFoundError:
        password = secrets.token_urlsafe(24)  # nobody logs in as the demo
        return users.add(database, _EMAIL, password, role="analyst", full_name="Demo Analyst")


def _take_in(database: Database, given: Settings, user: User, folder: Path) -> list[Taken]:
    """Every sample's row: the one that is there from an earlier demo, or a new one."""
    chosen = samples.inside_packages()
    chosen += samples.write_derived(chosen, folder / "files")
    there = {
        (image.original_filename, image.file_hash): image
        for image in images.list_images(database, user_id=user.id, limit=10_000)
    }
    storage = Storage(server.storage_folder(given))
    taken: list[Taken] = []
    with _bars() as bars:
        bar = bars.add_task("taking in", total=len(chosen))
        for sample in chosen:
            known = there.get((sample.path.name, _hash(sample.path)))
            taken.append(
                Taken(sample, known, None)
                if known
                else _add(database, given, user, storage, sample)
            )
            bars.advance(bar)
    return taken


def _add(
    database: Database, given: Settings, user: User, storage: Storage, sample: Sample
) -> Taken:
    try:
        image = intake.add(
            database,
            storage,
            sample.path,
            user_id=user.id,
            max_pixels=given.max_pixels,
            metadata={"profile": sample.profile, "shows": sample.shows},
        )
    except NegspaceError as error:
        return Taken(sample, None, error.message)
    return Taken(sample, image, None)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _enqueue(database: Database, taken: Sequence[Taken]) -> list[Enqueued]:
    """A job per image and its profile; what is broken and failed before is left as it is."""
    asked: list[Enqueued] = []
    for one in taken:
        if one.image is None:
            continue
        if not (one.sample.broken and one.image.analysis_status == "failed"):
            what = jobs.wanted(profile=one.sample.profile)
            asked += jobs.enqueue(database, [one.image.id], what)
    return asked


def _work(database: Database, asked: Sequence[Enqueued], folder: Path) -> None:
    """Two worker processes until nothing waits or runs; how far they are is shown."""
    waiting = [one for one in asked if one.outcome != "cached"]
    if not waiting:
        return
    log = folder / "worker.log"
    command = [sys.executable, "-m", "negspace", "-v", "worker", "run"]
    with (
        log.open("w", encoding="utf-8") as file,
        subprocess.Popen(
            [*command, "--processes", str(_WORKERS), "--drain"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=os.environ,
        ) as workers,
        _bars() as bars,
    ):
        bar = bars.add_task("analysing", total=len(waiting))
        while workers.poll() is None:
            bars.update(bar, completed=len(waiting) - jobs.progress(database).open)
            time.sleep(0.2)
        bars.update(bar, completed=len(waiting) - jobs.progress(database).open)
    if workers.returncode != 0:
        raise ServerError(
            f"the workers ended with exit status {workers.returncode}", hint=f"see {log}"
        )


def _bars() -> Bars:
    """Progress on stderr; in a pipe nothing but the last state of each."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    return Bars(
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )


def _show(
    found: Report, taken: Sequence[Taken], asked: Sequence[Enqueued], page: Path, seconds: float
) -> None:
    for title, lines in _tables(found).items():
        output.show_rows(lines, list(lines[0]) if lines else [], as_json=False, title=title)
        output.show_text()
    _show_duplicates(found)
    _show_failures(found, taken)
    output.show_text(f"{_sum(found, asked)}, in {seconds:.1f} s")
    output.show_text(f"report: {page}")
    output.show_text(
        "next: open the report · .venv/bin/negspace images list ·"
        ' psql "$(.venv/bin/negspace server url)" · .venv/bin/negspace server stop'
    )


def _tables(found: Report) -> dict[str, Sequence[Mapping[str, object]]]:
    """What is shown as tables: by title, rows whose keys are the columns."""
    return {
        "Images": [
            {
                "id": entry.image_id,
                "image": entry.name,
                "status": entry.status,
                "voids": entry.voids,
                "empty": None if entry.empty_fraction is None else f"{entry.empty_fraction:.1%}",
                "confidence": None if entry.confidence is None else round(entry.confidence, 2),
                "unusual": entry.anomalies,
                "time": _time(entry),
            }
            for entry in found.images
        ],
        "Times": [
            {"jobs": t.what, "tries": t.jobs}
            | {name: f"{getattr(t, name):.0f} ms" for name in ("p50", "p95", "p99")}
            for t in found.timings
        ],
        "Audit trail, newest first": [
            {
                "id": event["id"],
                "time": f"{event['timestamp']:%H:%M:%S}",
                "who": event["email"] or "the system",
                "action": event["action"],
                "of": f"{event['resource_type']} {event['resource_id'] or ''}",
                "status": event["status"],
            }
            for event in found.events
        ],
    }


def _sum(found: Report, asked: Sequence[Enqueued]) -> str:
    cached = {entry.image_id for entry in found.images if entry.cache_hit}
    known = [one for one in asked if one.outcome == "cached"]
    if len(known) == len(asked):
        return f"nothing was analysed again: {len(known)} results were in the cache"
    new = {one.image_id for one in asked if one.outcome != "cached"}
    failed = {entry.image_id for entry in found.failed} & new
    return (
        f"{len(new - failed - cached)} images analysed, {len(failed)} failed,"
        f" {len(known) + len(new & cached)} answered from the cache"
    )


def _time(entry: report.Entry) -> str | None:
    if entry.milliseconds is None:
        return None
    return "cached" if entry.cache_hit else f"{entry.milliseconds / 1000:.2f} s"


def _show_duplicates(found: Report) -> None:
    output.show_text("Duplicates")
    for row in found.duplicates:
        names = ", ".join(row["duplicate_filenames"])
        output.show_text(f"{row['original_filename']} is there again as {names}; stored once")
    for row in found.near:
        output.show_text(
            f"{row['original_filename']} and {row['near_filename']} look alike:"
            f" {row['bits']} of 64 bits differ"
        )
    output.show_text()


def _show_failures(found: Report, taken: Sequence[Taken]) -> None:
    output.show_text("Failed")
    for one in taken:
        if one.refusal is not None:
            output.show_text(f"{one.sample.path.name}: refused: {one.refusal}")
    for entry in found.failed:
        output.show_text(f"{entry.name}: {entry.reason}")
    output.show_text()
