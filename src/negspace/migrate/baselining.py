"""Baseline: a database that has a schema and no ledger gets the ledger that fits it.

At which version it is, its catalog says: the migrations run on a shadow database one by one,
and after each the two are compared by meaning. Or the history of another tool says it, and
the catalog is held against that. Nothing but the ledger is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from negspace.database import Connection, translated
from negspace.errors import InvalidInputError, RefusedError
from negspace.migrate.adopting import adopted
from negspace.migrate.files import Folder, Migration, read_folder
from negspace.migrate.fingerprint import of_database
from negspace.migrate.ledger import Holder, Ledger, NewEntry, RunLock
from negspace.migrate.live import Live, read_live
from negspace.migrate.meaning import differences
from negspace.migrate.ordering import built
from negspace.migrate.plan import check, find
from negspace.migrate.session import open_session
from negspace.migrate.shadow import Ground
from negspace.migrate.trial import Built, Trial

__all__ = ["Baseline", "baseline"]

_SHOWN = 5


@dataclass(frozen=True)
class Baseline:
    """What was recorded as applied.

    Attributes:
        migrations: Their names, in order; empty where the database is empty too.
        tool: Whose history said so, or None where the catalog did, or the caller.
        compared: Whether the catalog was held against them.
    """

    migrations: tuple[str, ...]
    tool: str | None
    compared: bool
    dry_run: bool


def baseline(
    place: Callable[[], Ground],
    address: str,
    folder: Path,
    *,
    version: str | None = None,
    adopt: bool = False,
    tool: str | None = None,
    revisions: Path | None = None,
    unchecked: bool = False,
    dry_run: bool = False,
    strip_transaction: bool = False,
    on_wait: Callable[[Holder], None] | None = None,
) -> Baseline:
    """Record in the ledger which migrations a database has already.

    Args:
        place: Where shadows are made.
        address: Of the database, which has no ledger, or nothing applied in it.
        folder: The migrations.
        version: The last that it has; recognised by the catalog when None.
        adopt: Take it from another tool's history.
        tool: Whose; None where there is only one. See ``adopting.TOOLS``.
        revisions: The folder of Alembic's revision files.
        unchecked: Don't hold the catalog against the version or the history.
        dry_run: Write nothing.
        strip_transaction: Leave out the files' own BEGIN and COMMIT.
        on_wait: Called with who holds the lock, when there is somebody to wait for.

    Raises:
        RefusedError: What it is at can't be told, or it has a ledger: nothing was written.
        MigrationFileError: A file is invalid.
        MigrationError: A migration fails on the shadow.
        InvalidInputError: There is no such version, or what was asked contradicts itself.
        UnavailableError: No server was reached.
    """
    asked = _Asked(place, version, adopt, tool, revisions, unchecked)
    check(there := read_folder(folder, strip_transaction=strip_transaction))
    with open_session(address) as connection, RunLock(address, on_wait):
        return asked.baseline(connection, there, dry_run=dry_run)


@dataclass(frozen=True)
class _Asked:
    """What a baseline goes by."""

    place: Callable[[], Ground]
    version: str | None
    adopt: bool
    tool: str | None
    revisions: Path | None
    unchecked: bool

    def __post_init__(self) -> None:
        if self.adopt and self.version is not None:
            raise InvalidInputError("a version and a history to adopt exclude each other")
        if self.unchecked and not self.adopt and self.version is None:
            raise InvalidInputError("nothing to go by", hint="name the version")

    def baseline(self, connection: Connection, folder: Folder, *, dry_run: bool) -> Baseline:
        """Find out which migrations the database has, and write it down."""
        _refuse_ledger(connection)
        live = read_live(connection)
        whose: str | None = None
        if self.adopt:
            found = adopted(connection, folder, tool=self.tool, revisions=self.revisions)
            whose, chosen = found.tool, found.migrations
        elif self.version is not None:
            last = find(folder, self.version).key
            chosen = tuple(m for m in folder.migrations if m.key <= last)
        else:
            chosen = _recognised(self.place(), folder, live)
        if not self.unchecked and (self.adopt or self.version is not None):
            _refuse_difference(built(self.place(), chosen), live)
        if not dry_run:
            _record(connection, chosen, whose)
        names = tuple(migration.name for migration in chosen)
        return Baseline(names, whose, not self.unchecked, dry_run)


def _refuse_ledger(connection: Connection) -> None:
    applied = Ledger(connection).standing().applied
    if applied:
        raise RefusedError(
            f"the ledger has {len(applied)} migrations as applied already",
            hint="negspace migrate status lists them; drift compares them with the database",
        )


def _differing(expected: Built, live: Live) -> list[str]:
    return [one.identity for one in differences(*live.beside(expected))]


def _recognised(place: Ground, folder: Folder, live: Live) -> tuple[Migration, ...]:
    """The migrations after which the shadow is as the database."""
    fits: list[int] = []
    nearest: tuple[int, int, list[str]] | None = None
    with Trial(place, folder.migrations) as trial:
        trial.start(0, filled=False)
        for count in range(len(folder.migrations) + 1):
            if count:
                failure = trial.up(folder.migrations[count - 1])
                if failure is not None:
                    raise failure.error()
            differing = _differing(trial.built(), live)
            if not differing:
                fits.append(count)
            if nearest is None or len(differing) <= nearest[0]:
                nearest = len(differing), count, differing
    if len(fits) == 1:
        return folder.migrations[: fits[0]]
    if fits:
        raise _several([folder.migrations[count - 1].name if count else "0" for count in fits])
    raise _none(folder, nearest)


def _several(names: Sequence[str]) -> RefusedError:
    return RefusedError(
        f"the catalog is the same at {', '.join(names)}",
        hint="say which it is, they differ in data alone: negspace migrate baseline VERSION",
        versions=list(names),
    )


def _none(folder: Folder, nearest: tuple[int, int, list[str]] | None) -> RefusedError:
    _, count, differing = nearest or (0, 0, [])
    name = folder.migrations[count - 1].name if count else "an empty database"
    return RefusedError(
        f"the database is at none of the folder's versions; nearest is {name},"
        f" which differs in {_listed(differing)}",
        hint="make these alike, or say the version: negspace migrate baseline VERSION --unchecked",
        objects=differing,
    )


def _refuse_difference(expected: Built, live: Live) -> None:
    differing = _differing(expected, live)
    if differing:
        raise RefusedError(
            f"the database is not what these migrations make: {_listed(differing)} differ",
            hint="make them alike, or leave the comparison out (--unchecked) and see drift",
            objects=differing,
        )


def _listed(identities: Sequence[str]) -> str:
    more = f" and {len(identities) - _SHOWN} more" if len(identities) > _SHOWN else ""
    return ", ".join(identities[:_SHOWN]) + more


def _record(connection: Connection, chosen: Sequence[Migration], tool: str | None) -> None:
    """Rows as up writes them, which say that nothing ran."""
    with translated(), connection.transaction():
        fingerprint = of_database(connection)
        ledger = Ledger(connection)
        ledger.create()
        batch = ledger.standing().last_batch + 1
        said = {"baseline": tool or "catalog"}
        ledger.write(
            [
                NewEntry(
                    migration.name,
                    migration.version,
                    migration.up,
                    batch,
                    "up",
                    "success",
                    metadata=said
                    | {"file": migration.up.path.name}
                    | ({"catalog_before": fingerprint} if migration is chosen[0] else {})
                    | ({"catalog_after": fingerprint} if migration is chosen[-1] else {}),
                )
                for migration in chosen
            ]
        )
