"""Duplicates with their pictures, as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from negspace import images
from negspace.database import Database
from negspace.duplicates.exact import Duplicates, report
from negspace.duplicates.reviewing import Group, review
from negspace.errors import FileError, NegspaceError
from negspace.images import Image
from negspace.storage import Storage

_SIDE: Final = 240  # pixels of a thumbnail's longer side
_MOST_PICTURES: Final = 24  # of a group
_MOST_PAIRS: Final = 50


@dataclass(frozen=True)
class Shown:
    """One image in the page.

    Attributes:
        image: Its row.
        picture: A thumbnail as a data URI, or None where the file can't be read.
    """

    image: Image
    picture: str | None


def write(
    database: Database,
    storage: Storage,
    path: Path,
    *,
    user_id: int,
    most_groups: int = 200,
) -> Path:
    """Write an account's duplicates as a page: groups to decide on first.

    Writing it is one export_data event.

    Args:
        database: Where.
        storage: The image files.
        path: The file to write; its folder is made.
        user_id: Whose images.
        most_groups: Groups of near duplicates, and as many of exact ones; the page says how many
            there are.

    Returns:
        The path.

    Raises:
        FileError: The file can't be written there.
    """
    with database.transaction() as connection:
        purpose = "a report of an account's duplicates, with thumbnails"
        connection.execute("select record_export('user', %s, %s)", [str(user_id), purpose])
    html = _drawn(database, storage, user_id, most_groups)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(html, encoding="utf-8")
    except OSError as error:
        raise FileError(
            f"{path} can't be written: {error.strerror}",
            hint="name a file in a folder that is writable",
        ) from error
    return path


def _drawn(database: Database, storage: Storage, user_id: int, most_groups: int) -> str:
    near = sorted(
        review(database, user_id=user_id, everything=True), key=lambda group: not group.undecided
    )
    exact = report(database, user_id=user_id)
    wanted = {i for group in near[:most_groups] for i in group.image_ids[:_MOST_PICTURES]}
    wanted |= {one.original_id for one in exact[:most_groups]}
    return _template().render(
        made_at=datetime.now(UTC),
        near=near[:most_groups],
        exact=exact[:most_groups],
        left_out=max(0, len(near) - most_groups) + max(0, len(exact) - most_groups),
        counts=_counts(near, exact),
        most_pictures=_MOST_PICTURES,
        most_pairs=_MOST_PAIRS,
        shown={i: _shown(database, storage, i) for i in sorted(wanted)},
    )


def _counts(near: list[Group], exact: list[Duplicates]) -> dict[str, int]:
    return {
        "groups": len(near),
        "undecided": sum(group.undecided > 0 for group in near),
        "exact": sum(one.duplicate_count for one in exact),
    }


def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("negspace.duplicates", "."),
        autoescape=True,  # file names are whatever somebody called a file
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["clock"] = lambda at: f"{at:%Y-%m-%d %H:%M}"
    return environment.get_template("page.html.j2")


def _shown(database: Database, storage: Storage, image_id: int) -> Shown:
    image = images.find(database, image_id)
    try:
        return Shown(image, _thumbnail(storage.existing(image.file_path)))
    except NegspaceError:  # the page says that there is no picture; `images check` says why
        return Shown(image, None)


def _thumbnail(path: Path) -> str:
    from negspace.analysis import overlay
    from negspace.analysis.reading import open_image

    with open_image(path) as opened:
        picture = overlay.thumbnail(opened, _SIDE)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
