"""Statements put together from what the server printed."""

from __future__ import annotations

from typing import Any

from negspace.database import sql

__all__ = ["Printed"]


class Printed(sql.Composable):
    """SQL that the server itself printed: a name quoted where need be, a type, an expression.

    Never anything else: it is taken as it stands.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._text = text

    def as_bytes(self, context: Any = None) -> bytes:
        """The text in the client's encoding, which is UTF-8."""
        del context
        return self._text.encode()
