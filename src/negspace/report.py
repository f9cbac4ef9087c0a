"""What the system holds about some images, gathered for a person and written as HTML.

``gather`` reads the views, so its numbers are the ones that SQL shows; ``write`` draws them
into one file that needs nothing else: styles, overlays and histograms stand inside.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from negspace.database import Connection, Database, Row, rows
from negspace.errors import FileError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_WIDEST: Final = 900  # pixels of an overlay in the page


@dataclass(frozen=True)
class Entry:
    """One image, its newest job and its newest result.

    Attributes:
        image_id: Its number.
        name: The name it came with.
        status: Where it stands.
        duplicate_of: The original it repeats, or None.
        voids: How many voids, or None without a result.
        empty_fraction: Empty share of the valid area, 0 to 1.
        confidence: 0 to 1, a rank within one method.
        anomalies: How many voids are unusual.
        milliseconds: What the analysis took.
        cache_hit: The result was answered from the cache.
        reason: Why the image failed, or None.
        data: ``negative_space_data`` of the result, or None.
        quality: ``quality_metrics`` of the result, or None.
        parameters: The resolved parameters, or None.
        provenance: Versions of what computed it, or None.
        overlay: Path of the overlay below the storage folder, or None.
    """

    image_id: int
    name: str
    status: str
    duplicate_of: int | None
    voids: int | None
    empty_fraction: float | None
    confidence: float | None
    anomalies: int | None
    milliseconds: int | None
    cache_hit: bool | None
    reason: str | None
    data: dict[str, Any] | None
    quality: dict[str, Any] | None
    parameters: dict[str, Any] | None
    provenance: dict[str, Any] | None
    overlay: str | None


@dataclass(frozen=True)
class Timing:
    """How long jobs waited or ran: milliseconds over all of them."""

    what: str
    jobs: int
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Report:
    """Everything the page shows."""

    made_at: datetime
    images: list[Entry]
    duplicates: list[Row]
    near: list[Row]
    timings: list[Timing]
    events: list[Row]

    @property
    def failed(self) -> list[Entry]:
        """The images whose last job gave up."""
        return [entry for entry in self.images if entry.status == "failed"]


def gather(database: Database, *, user_id: int, events: int = 10) -> Report:
    """What is known of a user's images.

    Args:
        database: Of the services.
        user_id: Whose images.
        events: How many of the newest audit events.

    Returns:
        A value to show or to ``write``. Reading it is itself one event: export_data.
    """
    with database.transaction() as connection:
        connection.execute(
            "select record_export('user', %s, 'a report of an account''s images')",
            [str(user_id)],
        )
        return Report(
            made_at=_now(connection),
            images=[Entry(**row) for row in rows(connection, _IMAGES, [user_id])],
            duplicates=rows(
                connection,
                "select original_id, original_filename, duplicate_ids, duplicate_filenames"
                " from duplicate_images_report where user_id = %s order by original_id",
                [user_id],
            ),
            near=rows(connection, _NEAR, [user_id]),
            timings=[Timing(**row) for row in rows(connection, _TIMINGS)],
            events=rows(connection, _EVENTS, [events]),
        )


_IMAGES: Final = """
select s.image_id, s.original_filename as name, s.analysis_status::text as status,
       i.duplicate_of,
       (r.negative_space_data ->> 'void_count')::integer as voids,
       (r.negative_space_data ->> 'negative_fraction')::double precision as empty_fraction,
       r.confidence_score::double precision as confidence,
       jsonb_array_length(r.anomalies) as anomalies,
       r.processing_time_ms as milliseconds, r.cache_hit, i.failure_reason as reason,
       r.negative_space_data as data, r.quality_metrics as quality,
       r.algorithm_parameters as parameters, r.provenance, r.visualization_path as overlay
from image_analysis_status s
join images i on i.id = s.image_id
left join analysis_results r on r.id = s.result_id
where s.user_id = %s
order by s.image_id
"""

_NEAR: Final = """
select i.id as image_id, i.original_filename, n.image_id as near_id,
       o.original_filename as near_filename, n.bits
from images i
cross join lateral near_images(i.id) n
join images o on o.id = n.image_id
where i.user_id = %s and i.id < n.image_id
order by n.bits, i.id
"""

_TIMINGS: Final = """
select case a.metric when 'job_wait_ms' then 'waiting' else 'running' end as what,
       m.sample_count::integer as jobs, m.p50, m.p95, m.p99
from unnest(array['job_wait_ms', 'job_run_ms']) as a (metric)
cross join lateral aggregate_performance_metrics(a.metric, interval '36500 days') m
"""

_EVENTS: Final = """
select id, "timestamp", email, action::text, resource_type, resource_id, status::text,
       error_message
from recent_audit_events
order by "timestamp" desc, id desc
limit %s
"""


def _now(connection: Connection) -> datetime:
    return rows(connection, "select now() as now")[0]["now"]


def write(report: Report, path: Path, *, storage: Path, title: str = "negspace") -> Path:
    """Draw the report into one HTML file.

    Args:
        report: What ``gather`` returned.
        path: The file to write; its folder is made.
        storage: The folder that the overlays' paths start from.
        title: Heading of the page.

    Returns:
        The path.

    Raises:
        FileError: The file can't be written there.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("negspace", "."),
        autoescape=True,  # file names are whatever somebody called a file
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["clock"] = lambda at: f"{at:%Y-%m-%d %H:%M:%S}"
    html = environment.get_template("report.html.j2").render(
        title=title,
        report=report,
        pictures={entry.image_id: _picture(entry, storage) for entry in report.images},
        bars={entry.image_id: _bars(entry) for entry in report.images},
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(html, encoding="utf-8")
    except OSError as error:
        raise FileError(
            f"{path} can't be written: {error.strerror}",
            hint="name a file in a folder that is writable",
        ) from error
    return path


def _picture(entry: Entry, storage: Path) -> str | None:
    """The overlay as a data URI, small enough for a page; None where there is none."""
    if entry.overlay is None or not (storage / entry.overlay).is_file():
        return None
    from PIL import Image

    with Image.open(storage / entry.overlay) as opened:
        picture: Picture = opened.convert("RGB")
    picture.thumbnail((_WIDEST, _WIDEST))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


@dataclass(frozen=True)
class Bar:
    """One bar of a histogram, in shares of the drawing: 0 to 1."""

    left: float
    width: float
    height: float
    label: str
    count: int


def _bars(entry: Entry) -> Sequence[Bar]:
    """The void-size histogram: radii of the inscribed circles, bins of equal ratio."""
    if entry.data is None:
        return []
    histogram = entry.data.get("void_radius_histogram", {"edges_px": [], "counts": []})
    counts, edges = histogram["counts"], histogram["edges_px"]
    most = max(counts, default=0)
    return [
        Bar(
            left=index / len(counts),
            width=1 / len(counts),
            height=count / most,
            label=f"{edges[index]:.3g}–{edges[index + 1]:.3g} px",
            count=count,
        )
        for index, count in enumerate(counts)
    ]
