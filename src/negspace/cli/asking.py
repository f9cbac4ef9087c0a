"""Asking before something is removed."""

from __future__ import annotations

import sys

import click

from negspace.errors import RefusedError


def see_wanted(what: str, *, yes: bool) -> None:
    """Return where removing it is wanted: by ``--yes``, or said at a terminal.

    Args:
        what: What would be removed, such as "7 jobs".
        yes: Don't ask.

    Raises:
        RefusedError: It isn't wanted, or nobody can be asked.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise RefusedError(f"{what} would be removed, and nobody can be asked", hint="add --yes")
    if not click.confirm(f"Remove {what}?", err=True):
        raise RefusedError("nothing was removed")
