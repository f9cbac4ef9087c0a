"""Addresses: what the settings name, as connection strings of libpq."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from negspace.errors import SettingsError

if TYPE_CHECKING:
    from negspace.settings import Secret, Settings


def conninfo(settings: Settings, *, owner: bool = False) -> str:
    """The connection string of a server that the settings name.

    Args:
        settings: From ``settings.load()``.
        owner: Take ``NEGSPACE_OWNER_URL`` where it is set.

    Returns:
        A libpq connection string.

    Raises:
        SettingsError: The address can't be read, or TLS is asked for in two ways.
    """
    if owner and settings.owner_url is not None:
        return _of_url(settings, settings.owner_url, "NEGSPACE_OWNER_URL")
    if settings.database_url is not None:
        return _of_url(settings, settings.database_url, "DATABASE_URL")
    given = {
        "host": settings.db_host,
        "port": settings.db_port,
        "dbname": settings.db_name,
        "user": settings.db_user,
        "password": settings.db_password.reveal(),
    }
    return make_conninfo("", **(_tls(settings, given) | given))


def replica_conninfo(settings: Settings) -> str:
    """The same of the standby that ``NEGSPACE_REPLICA_URL`` names.

    Raises:
        SettingsError: None is named, or as ``conninfo``.
    """
    if settings.replica_url is None:
        raise SettingsError(
            "no replica is named",
            hint="set NEGSPACE_REPLICA_URL, or leave --replica out",
            variable="NEGSPACE_REPLICA_URL",
        )
    return _of_url(settings, settings.replica_url, "NEGSPACE_REPLICA_URL")


def _of_url(settings: Settings, address: Secret, name: str) -> str:
    try:
        given = conninfo_to_dict(address.reveal())
    except psycopg.ProgrammingError:
        raise SettingsError(
            f"{name} can't be read",
            hint="it takes postgresql://user:password@host:5432/database",
            variable=name,
        ) from None
    return make_conninfo("", **(_tls(settings, given) | given))


def _tls(settings: Settings, given: Mapping[str, Any]) -> dict[str, Any]:
    """TLS verified or none: never switched on without verification."""
    if settings.db_ssl:
        mode = given.get("sslmode", "verify-full")
        if mode != "verify-full":
            raise SettingsError(
                f"DB_SSL is on and the address says sslmode={mode}",
                hint="leave sslmode out: DB_SSL=true means verify-full",
                variable="DB_SSL",
            )
        return {"sslmode": mode, "sslrootcert": str(settings.db_ssl_root_cert or "system")}
    return {} if "sslmode" in given else {"sslmode": "disable"}


def in_database(address: str, name: str) -> str:
    """The address of another database on the same server, for the same role."""
    return make_conninfo(address, dbname=name)


def with_password_of(address: str, other: str) -> str:
    """The address with the password of another."""
    return make_conninfo(address, password=conninfo_to_dict(other).get("password"))


def libpq_environment(address: str) -> dict[str, str]:
    """The address as the variables that psql and its kin read, so that no option shows it."""
    return {
        option.envvar.decode(): option.val.decode()
        for option in pq.Conninfo.parse(address.encode())
        if option.envvar and option.val
    }
