"""Values as the database takes them: JSON of bounded size, or a clear refusal."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any, Final

from negspace.errors import InvalidInputError

MOST_VALUE_BYTES: Final = 64 * 2**20
LONGEST: Final = timedelta(days=3652)
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def encoded(key: str, value: Any) -> str:
    """A value as JSON.

    Args:
        key: For the message.
        value: What JSON knows: no NaN, no infinity.

    Raises:
        InvalidInputError: It is no JSON, or takes more than ``MOST_VALUE_BYTES``. A value of a
            gigabyte is refused after its first 64 MB, before it takes that memory again.
    """
    parts: list[str] = []
    size = 0
    try:
        for part in _ENCODER.iterencode(value):
            size += len(part) if part.isascii() else len(part.encode())
            if size > MOST_VALUE_BYTES:
                raise InvalidInputError(
                    f"the value of {key!r} takes more than {MOST_VALUE_BYTES >> 20} MB as JSON",
                    hint="keep large things as files, and their path here",
                )
            parts.append(part)
    except (TypeError, ValueError, RecursionError) as error:  # lone surrogates are ValueErrors
        raise InvalidInputError(
            f"the value of {key!r} is no JSON: {error}",
            hint="numbers that are finite, texts, booleans, None, lists, and dicts of texts",
        ) from error
    return "".join(parts)


def see_times(ttl: timedelta, stale: timedelta) -> None:
    """Refuse times that mean nothing.

    Raises:
        InvalidInputError: ``ttl`` isn't longer than nothing, ``stale`` is negative, or one is
            longer than ten years.
    """
    if not timedelta() < ttl <= LONGEST:
        raise InvalidInputError(
            f"a value can't be kept for {ttl}", hint="more than nothing, ten years at most"
        )
    if not timedelta() <= stale <= LONGEST:
        raise InvalidInputError(
            f"a value can't stand in for {stale}", hint="nothing or more, ten years at most"
        )
