"""How one gets in: the roles of the embedded server, their addresses, their passwords."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias
from urllib.parse import quote, urlencode

from negspace import database
from negspace.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from negspace.database import Connection
    from negspace.server.layout import Layout, State

Role: TypeAlias = Literal["app", "owner", "superuser"]

ROLES: Final[dict[Role, str]] = {
    "app": "app_user",
    "owner": "negspace_owner",
    "superuser": "postgres",
}
DATABASE: Final = "negative_space"


def socket_address(layout: Layout, state: State, role: Role, name: str = DATABASE) -> str:
    """The address by the server's socket, for this machine's own processes.

    The client insists on SCRAM, so whoever else might listen there never gets a password.
    """
    who = _credentials(state, role)
    query = {
        "host": str(layout.sockets),
        "port": state.port,
        "require_auth": "scram-sha-256",
        "sslmode": "disable",
    }
    return f"postgresql://{who}@/{quote(name, safe='')}?{urlencode(query, quote_via=quote)}"


def url(state: State, role: Role, name: str = DATABASE) -> str:
    """The address on the loopback interface, for any client."""
    return f"postgresql://{_credentials(state, role)}@127.0.0.1:{state.port}/{quote(name, safe='')}"


def _credentials(state: State, role: Role) -> str:
    name = ROLES[role]
    return f"{quote(name)}:{quote(state.passwords[name].reveal(), safe='')}"


def set_password(connection: Connection, role: str, password: str) -> None:
    """Give a role a password.

    It is hashed here: the server, its log and its statistics see a SCRAM verifier alone.

    Args:
        connection: Of a role that may alter the other.
        role: The role's name.
        password: At least one character, no NUL.

    Raises:
        InvalidInputError: The password is empty or holds a NUL.
        NotFoundError: There is no such role.
        AccessError: The connection's role may not do that.
    """
    if not password or "\0" in password:
        raise InvalidInputError("a password has at least one character and no NUL")
    with database.translated():
        if not role_exists(connection, role):
            raise NotFoundError(
                f"the server has no role {role!r}",
                hint="negspace migrate up makes app_user" if role == ROLES["app"] else None,
            )
        verifier = connection.pgconn.encrypt_password(
            password.encode(), role.encode(), b"scram-sha-256"
        )
        connection.execute(
            database.sql.SQL("alter role {} password {}").format(
                database.sql.Identifier(role), database.sql.Literal(verifier.decode())
            )
        )


def role_exists(connection: Connection, role: str) -> bool:
    """Whether the server has a role of that name."""
    found = database.only(connection, "select from pg_catalog.pg_roles where rolname = %s", [role])
    return found is not None


def lend_to_owner(connection: Connection) -> None:
    """Let the owner's role act as whoever owns the database's tables, where that is another.

    So it is where a backup of somebody else's server was restored.
    """
    owners = database.rows(
        connection,
        "select distinct pg_get_userbyid(c.relowner) as name from pg_class c"
        " join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname = 'public' and c.relkind in ('r', 'p')",
    )
    for name in {row["name"] for row in owners} - set(ROLES.values()):
        grant = database.sql.SQL("grant {} to {}")
        connection.execute(
            grant.format(database.sql.Identifier(name), database.sql.Identifier(ROLES["owner"]))
        )
