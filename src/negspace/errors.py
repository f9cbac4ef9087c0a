"""Every error negspace raises, on one screen.

Each class has a stable ``code`` for programs, an ``exit_status`` for the command line, and
each instance a message that says what is wrong and a ``hint`` that says what to do.
``from_sqlstate`` turns what the database raised into the class that fits: by SQLSTATE and
constraint name, never by reading the text.
"""

from __future__ import annotations

from typing import ClassVar


class NegspaceError(Exception):
    """Base of the tree: catch this to catch everything negspace raises."""

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details

    def as_dict(self) -> dict[str, object]:
        """The error as ``--json`` prints it."""
        return {"code": self.code, "message": self.message, "hint": self.hint, **self.details}


# ── what the caller got wrong ────────────────────────────────────────────────────────────


class InvalidInputError(NegspaceError):
    """A value the function or the database does not accept."""

    code = "invalid_input"
    exit_status = 2


class SettingsError(InvalidInputError):
    """A setting that is unknown, malformed, or at odds with another."""

    code = "settings"


class NotFoundError(NegspaceError):
    """What was named isn't there."""

    code = "not_found"


class AlreadyExistsError(NegspaceError):
    """What was to be made is there already."""

    code = "already_exists"


class TransitionError(NegspaceError):
    """A status may not follow the one it would follow."""

    code = "transition"


class AccessError(NegspaceError):
    """Who asks may not do this."""

    code = "access"
    exit_status = 4


class RefusedError(NegspaceError):
    """Refused before anything was touched, for the reason in the message."""

    code = "refused"
    exit_status = 4


# ── files and images ─────────────────────────────────────────────────────────────────────


class FileError(NegspaceError):
    """A file that is missing, unreadable, a folder, or changed while it was read."""

    code = "file"


class ImageError(FileError):
    """Bytes that are no image, or one that can't be decoded or is too large."""

    code = "image"


class AnalysisError(NegspaceError):
    """An analyser failed or gave a result that doesn't validate."""

    code = "analysis"


# ── servers and databases ────────────────────────────────────────────────────────────────


class UnavailableError(NegspaceError):
    """No database was reached."""

    code = "unavailable"
    exit_status = 5


class ReadOnlyServerError(UnavailableError):
    """A server was reached that takes no writes: a standby, or one that is set so."""

    code = "read_only_server"


class ServerError(UnavailableError):
    """The embedded server can't be made, started or stopped."""

    code = "server"


class BackupError(NegspaceError):
    """A backup that can't be taken, isn't whole, or can't be restored."""

    code = "backup"


class DatabaseError(NegspaceError):
    """PostgreSQL refused a statement, and no class above says it better."""

    code = "database"


class ConstraintError(DatabaseError):
    """A constraint of the schema refused a row; ``details["constraint"]`` names it."""

    code = "constraint"


class LeaseLostError(DatabaseError):
    """A job that the worker no longer holds; nothing it reported was applied."""

    code = "lease_lost"


# ── migrations ───────────────────────────────────────────────────────────────────────────


class MigrationError(NegspaceError):
    """A migration failed; ``details`` say file, line, column, statement and SQLSTATE."""

    code = "migration"


class MigrationFileError(MigrationError):
    """Migration files that can't be run as they are; nothing was touched."""

    code = "migration_file"
    exit_status = 3


_NEGSPACE_STATES: dict[str, type[NegspaceError]] = {
    "NS001": TransitionError,
    "NS002": AccessError,
    "NS003": NotFoundError,
    "NS004": InvalidInputError,
    "NS005": LeaseLostError,
    "NS006": RefusedError,
}

_STATES: dict[str, type[NegspaceError]] = {
    "23505": AlreadyExistsError,
    "23503": ConstraintError,
    "23502": ConstraintError,
    "23514": ConstraintError,
    "42501": AccessError,
    "25006": ReadOnlyServerError,
    "22P02": InvalidInputError,
    "22003": InvalidInputError,
    "22007": InvalidInputError,
    "22021": InvalidInputError,
    "22P05": InvalidInputError,
}

# Their detail quotes the row, which may be somebody else's, or hold a password's hash.
_DETAIL_QUOTES_ROW = {"23505", "23514", "23502"}

_CLASSES: dict[str, type[NegspaceError]] = {
    "08": UnavailableError,
    "28": UnavailableError,
    "3D": UnavailableError,
    "57": UnavailableError,
    "53": UnavailableError,
}

_NOT_UNAVAILABLE = {"57014"}  # a cancelled or timed-out statement: the server is there

# What to do, where PostgreSQL doesn't say.
_HINTS: dict[str | None, str] = {
    None: "is the server up, and the way to it? What was not acknowledged may be repeated",
    "25006": "name the primary; with several hosts add target_session_attrs=read-write,"
    " and negspace --replica is for reading",
    "53100": "make room on the server's disk; what was committed is kept, and this may be repeated",
    "53200": "see the server's memory: shared_buffers, work_mem and how many connections there are",
    "53300": "raise max_connections, lower DB_POOL_MAX, or put PgBouncer in between",
    "53400": "raise the limit that the message names, such as temp_file_limit",
    "55P03": "somebody holds a lock for long: negspace doctor, or pg_stat_activity, says who",
    "57014": "a statement_timeout of the server, database or role ended it;"
    " raise it for this role, or ask for less",
    "57P01": "the server stops or restarts; what was not acknowledged may be repeated",
    "57P02": "the server crashed and recovers; what was not acknowledged may be repeated",
    "57P03": "the server starts, recovers or stops; wait until it takes connections",
    "57P05": "idle_session_timeout ended the connection; repeat it",
}


def from_sqlstate(
    sqlstate: str | None,
    message: str,
    *,
    hint: str | None = None,
    constraint: str | None = None,
    detail: str | None = None,
) -> NegspaceError:
    """The error that fits what the database raised.

    Args:
        sqlstate: The five characters PostgreSQL sent, or None where no server answered.
        message: The primary message.
        hint: What the database advises, or None.
        constraint: The constraint that refused, or None.
        detail: The detail line, or None. Never kept where it quotes a row.

    Returns:
        An instance to raise; its ``details`` hold sqlstate, constraint and detail.
    """
    details: dict[str, object] = {"sqlstate": sqlstate}
    if constraint:
        details["constraint"] = constraint
    if detail and sqlstate not in _DETAIL_QUOTES_ROW:
        details["detail"] = detail
    hint = hint or _HINTS.get(sqlstate)
    if sqlstate is None:
        return UnavailableError(message, hint=hint, **details)
    found = _NEGSPACE_STATES.get(sqlstate) or _STATES.get(sqlstate)
    if found is None and sqlstate not in _NOT_UNAVAILABLE:
        found = _CLASSES.get(sqlstate[:2])
    return (found or DatabaseError)(message, hint=hint, **details)
