"""Settings from the environment: ``DB_*``, ``DATABASE_URL`` and ``NEGSPACE_*``.

Without ``DATABASE_URL`` and without any ``DB_*`` connection variable, negspace uses its
embedded PostgreSQL. Each value knows where it came from, a secret prints as ``***``, and an
unknown or malformed variable is refused by name. Why this is no pydantic-settings class:
docs/decisions/0002-settings-without-pydantic.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from negspace.errors import SettingsError

DEFAULT_PASSWORD: Final = "change_me_in_production"  # noqa: S105  the request's own default


class Secret:
    """A text that shows itself only when asked with ``reveal``."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself."""
        return self._text

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


def _boolean(text: str) -> bool:
    known = {"true": True, "1": True, "yes": True, "on": True}
    known |= {"false": False, "0": False, "no": False, "off": False}
    try:
        return known[text.strip().lower()]
    except KeyError:
        raise ValueError("true or false") from None


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.strip().isdecimal() or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return parse


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 86_400:
        raise ValueError("a number of seconds from 0 to 86400")
    return value


def _client(text: str) -> str:
    if text not in {"pg", "postgres", "postgresql"}:
        raise ValueError("pg: PostgreSQL is the only client")
    return "pg"


def _text(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError("a text of at least one character")
    return text


def _url(text: str) -> Secret:
    if urlsplit(text).scheme not in {"postgresql", "postgres"}:
        raise ValueError("an address like postgresql://user@host:5432/database")
    return Secret(text)


def _path(text: str) -> Path:
    return Path(_text(text)).expanduser()


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split(",") if (name := part.strip()))


@dataclass(frozen=True)
class _Variable:
    name: str
    parse: Callable[[str], Any]
    default: Any
    meaning: str
    connects: bool = False  # naming it means: not the embedded server


_VARIABLES: Final = (
    _Variable("DB_CLIENT", _client, "pg", "the database's kind; only pg"),
    _Variable("DB_HOST", _text, "localhost", "host name, address or socket folder", True),
    _Variable("DB_PORT", _integer(1, 65535), 5432, "port", True),
    _Variable("DB_NAME", _text, "negative_space", "database", True),
    _Variable("DB_USER", _text, "app_user", "role of the services", True),
    _Variable("DB_PASSWORD", Secret, Secret(DEFAULT_PASSWORD), "its password", True),
    _Variable("DB_SSL", _boolean, False, "TLS with the server's certificate verified"),
    _Variable("DB_SSL_ROOT_CERT", _path, None, "certificate authorities; the system's if unset"),
    _Variable("DB_POOL_MIN", _integer(0, 1000), 2, "connections kept open"),
    _Variable("DB_POOL_MAX", _integer(1, 1000), 10, "connections at most"),
    _Variable("DB_POOL_ACQUIRE_TIMEOUT", _seconds, 30.0, "seconds to wait for a connection"),
    _Variable("DB_POOL_IDLE_TIMEOUT", _seconds, 30.0, "seconds an idle connection is kept"),
    _Variable("DATABASE_URL", _url, None, "all of DB_HOST … DB_PASSWORD in one", True),
    _Variable("NEGSPACE_OWNER_URL", _url, None, "the owner's connection, for migrations"),
    _Variable("NEGSPACE_REPLICA_URL", _url, None, "a standby, for negspace --replica"),
    _Variable("NEGSPACE_REPLICA_MAX_LAG", _seconds, 60.0, "seconds it may be behind"),
    _Variable("NEGSPACE_HOME", _path, None, "folder of the embedded server and of the images"),
    _Variable("NEGSPACE_STORAGE", _path, None, "folder of the image files"),
    _Variable("NEGSPACE_SERVER_USER", _text, None, "whom the embedded server runs as, under root"),
    _Variable("NEGSPACE_MAX_PIXELS", _integer(1, 10**11), 500_000_000, "largest image, in pixels"),
    _Variable("NEGSPACE_ANALYZERS", _names, None, "allow-list of analysers; all if unset"),
    _Variable("NEGSPACE_USER", _text, None, "e-mail of the user who acts"),
    _Variable("NEGSPACE_PATIENCE", _seconds, 60.0, "seconds a lost server is waited for"),
)


@dataclass(frozen=True)
class Settings:
    """The values of one run, and where each came from.

    Attributes are the variables in lower case, ``NEGSPACE_`` left out: ``db_host``,
    ``database_url``, ``home``. ``source[attribute]`` is ``"environment"`` or ``"default"``.
    """

    db_client: str
    db_host: str
    db_port: int
    db_name: str
    db_user: str
    db_password: Secret
    db_ssl: bool
    db_ssl_root_cert: Path | None
    db_pool_min: int
    db_pool_max: int
    db_pool_acquire_timeout: float
    db_pool_idle_timeout: float
    database_url: Secret | None
    owner_url: Secret | None
    replica_url: Secret | None
    replica_max_lag: float
    home: Path | None
    storage: Path | None
    server_user: str | None
    max_pixels: int
    analyzers: tuple[str, ...] | None
    user: str | None
    patience: float
    embedded: bool
    source: Mapping[str, str] = field(repr=False)


def load(environment: Mapping[str, str] | None = None) -> Settings:
    """Read the settings.

    Args:
        environment: The variables; the process's own when None.

    Returns:
        Values, each parsed; ``embedded`` is true when nothing names a server.

    Raises:
        SettingsError: A variable of ours is unknown or malformed, or two are at odds.
    """
    given = os.environ if environment is None else environment
    known = {variable.name for variable in _VARIABLES}
    for name in sorted(given):
        if name.startswith(("NEGSPACE_", "DB_")) and name not in known:
            import difflib

            near = difflib.get_close_matches(name, known, n=1)
            raise SettingsError(
                f"{name} is no setting of negspace",
                hint=f"did you mean {near[0]}?" if near else "negspace settings lists them",
                variable=name,
            )
    values: dict[str, Any] = {}
    source: dict[str, str] = {}
    for variable in _VARIABLES:
        attribute = variable.name.removeprefix("NEGSPACE_").lower()
        values[attribute], source[attribute] = _value(variable, given)
    named = [v.name for v in _VARIABLES if v.connects and v.name in given]
    if "DATABASE_URL" in named and len(named) > 1:
        raise SettingsError(
            f"DATABASE_URL and {named[0]} are both set",
            hint="unset one of the two: both name the server",
            variable=named[0],
        )
    if values["db_pool_min"] > values["db_pool_max"]:
        raise SettingsError(
            f"DB_POOL_MIN ({values['db_pool_min']}) is above DB_POOL_MAX ({values['db_pool_max']})",
            hint="raise DB_POOL_MAX or lower DB_POOL_MIN",
            variable="DB_POOL_MIN",
        )
    return Settings(**values, embedded=not named, source=source)


def _value(variable: _Variable, given: Mapping[str, str]) -> tuple[Any, str]:
    text = given.get(variable.name)
    if text is None:
        return variable.default, "default"
    try:
        return variable.parse(text), "environment"
    except ValueError as error:
        raise SettingsError(
            f"{variable.name} is not valid",
            hint=f"it takes {error}",
            variable=variable.name,
        ) from None


def described(settings: Settings) -> list[dict[str, object]]:
    """One row per variable: name, value (secrets as ``***``), source, meaning."""
    rows: list[dict[str, object]] = []
    for variable in _VARIABLES:
        attribute = variable.name.removeprefix("NEGSPACE_").lower()
        value = getattr(settings, attribute)
        shown = value if value is None or isinstance(value, bool | int | float) else str(value)
        rows.append(
            {
                "name": variable.name,
                "value": ",".join(value) if isinstance(value, tuple) else shown,
                "source": settings.source[attribute],
                "meaning": variable.meaning,
            }
        )
    return rows
