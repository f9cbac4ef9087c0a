"""Generated data: accounts, images, duplicates, results, jobs and events in every state."""

from __future__ import annotations

from datetime import datetime, timedelta
from random import Random

from negspace import database
from negspace.database import Connection, Row
from schema_rows import add, digest
from schema_specification import ENUMS

DAYS = 60


def fill(connection: Connection, seed: int) -> None:
    """Fill an empty schema; the same seed gives the same data but for the time of it."""
    made = Maker(connection, Random(seed))
    users = [made.user(n) for n in range(7)]
    images = [image for user in users[1:] for image in made.images(user)]
    for image in images:
        made.results(image)
        made.jobs(image)
    made.events([user["id"] for user in users[1:]])


class Maker:
    def __init__(self, connection: Connection, random: Random) -> None:
        self.connection = connection
        self.random = random
        self.now: datetime = database.rows(connection, "select now()")[0]["now"]
        oldest = self.now - timedelta(days=DAYS)
        database.rows(connection, "select ensure_partitions(0, %s)", [oldest])

    def time(self) -> datetime:
        """A time of the last weeks, in whole hours, so that some are equal."""
        return self.now - timedelta(hours=self.random.randrange(DAYS * 24))

    def maybe(self, value: object) -> object:
        return value if self.random.random() < 0.7 else None

    def user(self, number: int) -> Row:
        role = ENUMS["user_role"][number % 4]
        last = self.maybe(self.time())
        return add(self.connection, "users", role=role, last_login_at=last, is_active=number != 3)

    def images(self, user: Row) -> list[Row]:
        made: list[Row] = []
        for _ in range(self.random.randrange(1, 12)):
            originals = [image for image in made if not image["is_duplicate"]]
            row: Row = {"user_id": user["id"], "uploaded_at": self.time()}
            if originals and self.random.random() < 0.4:
                original = self.random.choice(originals)
                row |= {"file_hash": original["file_hash"], "file_size": original["file_size"]}
                row |= {"is_duplicate": True, "duplicate_of": original["id"]}
            else:
                row |= {"file_hash": digest(), "file_size": self.random.randrange(1, 10**9)}
            row["analysis_status"] = self.random.choice(ENUMS["analysis_status"])
            made.append(add(self.connection, "images", **row))
        return made

    def results(self, image: Row) -> None:
        created = self.time()
        for number in range(self.random.randrange(4)):
            hit = self.random.random() < 0.3
            add(
                self.connection,
                "analysis_results",
                image_id=image["id"],
                user_id=image["user_id"],
                algorithm_version=f"1.{number}.0",
                processing_time_ms=self.random.choice([0, 999, 1000, 4999, 5000, 60000]),
                confidence_score=round(self.random.random(), 6),
                created_at=created if self.random.random() < 0.5 else self.time(),
                cache_hit=hit,
                cached_at=self.now if hit else None,
            )

    def jobs(self, image: Row) -> None:
        for number in range(self.random.randrange(5)):
            status = self.random.choice(ENUMS["queue_status"])
            created = self.time()
            planned = created + timedelta(hours=self.random.choice([0, 0, 1, 50, 5000]))
            begun = planned + timedelta(seconds=self.random.randrange(-100, 5000))
            has_begun = status not in ("queued", "cancelled") or self.random.random() < 0.5
            add(
                self.connection,
                "processing_queue",
                image_id=image["id"],
                user_id=image["user_id"],
                algorithm_version=f"1.0.{number}",
                status=status,
                priority=self.random.randrange(1, 11),
                created_at=created,
                scheduled_at=planned,
                started_at=begun if has_begun else None,
                worker_id="worker-1",
            )

    def events(self, users: list[int]) -> None:
        for _ in range(1300):
            event = add(
                self.connection,
                "security_audit",
                user_id=self.maybe(self.random.choice(users)),
                action=self.random.choice(ENUMS["audit_action"]),
                status=self.random.choice(ENUMS["audit_status"]),
                timestamp=self.time(),
            )
            for _ in range(self.random.choice([0, 0, 0, 1, 2])):
                add(
                    self.connection,
                    "audit_log_details",
                    audit_id=event["id"],
                    audit_timestamp=event["timestamp"],
                    duration_ms=self.maybe(self.random.randrange(10**6) / 1000),
                )
