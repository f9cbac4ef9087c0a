"""A whole platform for tests of backups: a server of its own, images, a sealed audit trail."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import images_on_disk as disk
from conftest import MIGRATIONS, at, programs
from negspace import audit, images, intake, server, users
from negspace import database as db
from negspace import migrate as runner
from negspace.database import Database, PoolSize
from negspace.settings import Settings
from negspace.storage import Storage

# Which views a service for people reads, each showing it the rows that it may see.
GUARDED = """
    select array_agg(c.relname::text order by c.relname) from pg_class c
    where c.relkind = 'v' and c.relnamespace = 'public'::regnamespace
      and has_table_privilege('app_user', c.oid, 'select')
      and 'security_invoker=true' = any (c.reloptions)
      and not c.relacl::text like '%operator_role%'"""
VIEWS = [
    "analysis_performance_summary",
    "audit_summary_by_user",
    "duplicate_images_report",
    "image_analysis_status",
    "recent_audit_events",
    "user_activity_summary",
]


@dataclass
class Plant:
    """One platform, in a home of its own."""

    home: Path
    services: Database
    user: int
    images: list[images.Image] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        return at(self.home)

    @property
    def storage(self) -> Storage:
        return Storage(server.storage_folder(self.settings))

    @property
    def superuser(self) -> str:
        return server.ensure(self.settings, binaries=programs()).url("superuser")

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process take it for somebody else's server."""
        return {"DATABASE_URL": self.superuser, "NEGSPACE_STORAGE": str(self.home / "images")}

    def add_image(self) -> images.Image:
        with tempfile.TemporaryDirectory() as folder:
            source = disk.png(Path(folder) / "sky.png", seed=len(self.images) + 1)
            image = intake.add(
                self.services, self.storage, source, user_id=self.user, max_pixels=10**7
            )
        self.images.append(image)
        return image

    def ask(self, query: str) -> object:
        return ask_at(self.superuser, query)


def ask_at(address: str, query: str) -> object:
    with db.connect(address, autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        row = cursor.fetchone() if cursor.description else None
    return None if row is None else next(iter(row.values()))


@contextmanager
def planted(home: Path, images: int = 3) -> Iterator[Plant]:
    """A migrated server with images and seals; the home's owner stops it."""
    settings = at(home)
    made = server.ensure(settings, binaries=programs())
    done = runner.up(made.url("owner"), MIGRATIONS)
    assert done.ok, done.failure
    with Database(made.url("operator"), pool=PoolSize(0, 2)) as services:
        user = users.add(services, "ada@example.org", "correct horse", role="analyst", cost=4)
        plant = Plant(home, services, user.id)
        for _ in range(images):
            plant.add_image()
        assert audit.seal(services) > 0
        yield plant


@contextmanager
def with_programs() -> Iterator[None]:
    """The version under test is found on PATH, as a machine has it."""
    before, found = os.environ["PATH"], programs()
    if found is not None:
        os.environ["PATH"] = f"{found.folder}{os.pathsep}{before}"
    try:
        yield
    finally:
        os.environ["PATH"] = before
