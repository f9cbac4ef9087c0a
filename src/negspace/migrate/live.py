"""A live catalog, as it is held against what migrations make of an empty database."""

from __future__ import annotations

from dataclasses import dataclass

from negspace.database import Connection
from negspace.migrate.catalog import Catalog, read
from negspace.migrate.histories import without_histories
from negspace.migrate.public_schema import everybodys_rights, is_of_unknown_origin, with_rights
from negspace.migrate.trial import Built

__all__ = ["Live", "read_live"]


@dataclass(frozen=True)
class Live:
    """What a database consists of.

    Attributes:
        rights: What PUBLIC may do in the schema public.
        of_unknown_origin: Nothing tells what it might do there at first.
    """

    catalog: Catalog
    rights: frozenset[str]
    of_unknown_origin: bool

    def beside(self, expected: Built) -> tuple[Catalog, Catalog]:
        """The two catalogs to compare: what is expected, and what is found.

        Left out is what no migration is to blame for: the history tables of other tools, and
        the rights of PUBLIC in the schema public that the migrations leave alone, where the
        database may have begun with others than the shadow.
        """
        found = without_histories(self.catalog, expected.catalog)
        if not self.of_unknown_origin:
            return expected.catalog, found
        given = (expected.rights & expected.left) | (self.rights - expected.left)
        return with_rights(expected.catalog, expected.rights), with_rights(found, given)


def read_live(connection: Connection) -> Live:
    """Read a database; it is not changed.

    Raises:
        NegspaceError: What PostgreSQL refused.
    """
    return Live(read(connection), everybodys_rights(connection), is_of_unknown_origin(connection))
