"""``negspace settings``: every setting, its value and where it came from."""

from __future__ import annotations

import click

from negspace import settings
from negspace.cli import output


@click.command("settings")
@output.json_option
def group(as_json: bool) -> None:
    """Show every setting, its value and its source; secrets as ***."""
    rows = settings.described(settings.load())
    output.show_rows(rows, ["name", "value", "source", "meaning"], as_json=as_json)
