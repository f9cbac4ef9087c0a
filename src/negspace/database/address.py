"""Addresses: what the settings name, as connection strings of libpq."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from negspace.errors import SettingsError

if TYPE_CHECKING:
    from negspace.settings import Settings


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
    address = settings.owner_url if owner and settings.owner_url else settings.database_url
    if address is not None:
        name = "DATABASE_URL" if address is settings.database_url else "NEGSPACE_OWNER_URL"
        try:
            given = conninfo_to_dict(address.reveal())
        except psycopg.ProgrammingError:
            raise SettingsError(
                f"{name} can't be read",
                hint="it takes postgresql://user:password@host:5432/database",
                variable=name,
            ) from None
    else:
        given = {
            "host": settings.db_host,
            "port": settings.db_port,
            "dbname": settings.db_name,
            "user": settings.db_user,
            "password": settings.db_password.reveal(),
        }
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
