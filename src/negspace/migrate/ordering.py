"""Late migrations: taken when both orders, the files' and the database's, come to the same.

A migration is late when a newer one is applied already, as happens when two branches meet.
New databases get the two in the order of the files, this one would get them the other way
round. Both are tried on shadow databases before anything is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from negspace.errors import MigrationError, RefusedError
from negspace.migrate.catalog import Catalog
from negspace.migrate.files import Folder, Migration, read_folder
from negspace.migrate.ledger import Ledger, Standing
from negspace.migrate.meaning import differences
from negspace.migrate.names import Key, key_of
from negspace.migrate.plan import Plan
from negspace.migrate.session import open_session
from negspace.migrate.shadow import Ground
from negspace.migrate.trial import Built, Trial

__all__ = ["applied_files", "built", "either_order"]


def either_order(
    place: Callable[[], Ground],
    address: str,
    folder: Path,
    *,
    strip_transaction: bool = False,
) -> Callable[[Plan], None]:
    """A guard for ``up`` that lets late migrations through where the order makes no difference.

    Args:
        place: Where shadows are made; asked when there is a late migration.
        address: Of the database: what is applied there, and in which order.
        folder: The migrations.
        strip_transaction: As for the run.

    Returns:
        A function that raises RefusedError where one of the orders fails, or where they give
        different catalogs; compared by meaning, so that the order of columns does not count.
    """

    def guard(plan: Plan) -> None:
        there = read_folder(folder, strip_transaction=strip_transaction)
        with open_session(address) as connection:
            applied = applied_files(there, Ledger(connection).standing())
        pending = {key_of(step.name) for step in plan.steps}
        here = [*applied, *(m for m in there.migrations if m.key in pending)]
        elsewhere = sorted(here, key=lambda migration: migration.key)
        if here != elsewhere:
            _refuse_difference(place(), here, elsewhere)

    return guard


def applied_files(folder: Folder, standing: Standing) -> tuple[Migration, ...]:
    """The migrations that a database has, in the order in which they were applied.

    Where the file of one is gone, the squash that replaces it is in its place.
    """
    by_key = {migration.key: migration for migration in folder.migrations}
    squashes = {
        key_of(name): migration
        for migration in folder.migrations
        for names in migration.up.replaces
        for name in names
    }
    keys = [key_of(row.name) for row in standing.applied]
    needed = {squashes[key].key for key in keys if key not in by_key and key in squashes}
    found: dict[Key, Migration] = {}
    for key in keys:
        squash = squashes.get(key)
        if squash is not None and squash.key in needed:
            found[squash.key] = squash
        elif key in by_key:
            found[key] = by_key[key]
    return tuple(found.values())


def built(place: Ground, migrations: Sequence[Migration]) -> Built:
    """What migrations make of an empty database, in that order.

    Raises:
        MigrationError: One of them fails.
        RefusedError: No shadow database can be made.
    """
    with Trial(place, migrations) as trial:
        trial.start(len(migrations), filled=False)
        return trial.built()


def _refuse_difference(
    place: Ground, here: Sequence[Migration], elsewhere: Sequence[Migration]
) -> None:
    found: list[Catalog] = []
    for order, said in ((elsewhere, "of the files"), (here, "that this database would have")):
        try:
            found.append(built(place, order).catalog)
        except MigrationError as error:
            raise RefusedError(
                f"in the order {said}, a migration fails: {error.message}",
                hint="nothing was touched; give the late migration a number above the newest",
            ) from error
    differing = [difference.identity for difference in differences(*found)]
    if differing:
        raise RefusedError(
            f"the order makes a difference to {', '.join(differing)}",
            hint="nothing was touched; give the late migration a number above the newest",
            objects=differing,
        )
