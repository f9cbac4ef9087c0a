"""Checks of what is kept: the cache, disks, files, the seals of the audit trail."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, LiteralString

from negspace import server, upkeep
from negspace.database import Database, PoolSize
from negspace.doctor.examining import Check, Fault, Patient, listed, size, span
from negspace.errors import RefusedError

__all__ = ["CHECKS"]


_UNSEALED: Final[LiteralString] = (
    "with seals as (select r.name, public.newest_audit_seal(r.name) as newest"
    "               from unnest(array['security_audit', 'audit_log_details']) as r (name)),"
    " unsealed as ("
    "  select a.timestamp as at from public.security_audit a, seals s"
    "  where s.name = 'security_audit' and a.id >= (s.newest).lineage"
    "  and (a.recorded_in, a.id) > ((s.newest).last_xid, (s.newest).last_id)"
    "  union all"
    "  select d.created_at from public.audit_log_details d, seals s"
    "  where s.name = 'audit_log_details' and d.id >= (s.newest).lineage"
    "  and (d.recorded_in, d.id) > ((s.newest).last_xid, (s.newest).last_id))"
    " select count(*) as rows from unsealed u where u.at <= now() - %s"
)


def seals(patient: Patient) -> Iterator[Fault]:
    """What was written into the audit trail is sealed soon."""
    waiting = patient.row(_UNSEALED, [patient.limits.unsealed])["rows"]
    if waiting:
        since = span(patient.limits.unsealed.total_seconds())
        yield Fault(
            f"{waiting} rows of the audit trail wait for their seal for more than {since}",
            "negspace audit seal; a running worker does it every minute",
        )


def cache(patient: Patient) -> Iterator[Fault]:
    """The result cache is bounded, and what expired is removed."""
    row = patient.row(
        "select pg_total_relation_size('public.analysis_cache') as bytes,"
        " (select count(*) from public.analysis_cache c"
        "  where c.expires_at < now() - interval '1 day') as expired"
    )
    if row["bytes"] >= patient.limits.cache:
        yield Fault(
            f"the result cache takes {size(row['bytes'])}",
            "negspace cache purge --expired, or --analyzer NAME --version OLD",
        )
    if row["expired"]:
        yield Fault(
            f"{row['expired']} answers expired more than a day ago and are still there",
            "negspace cache purge --expired; a running worker does it every hour",
        )


def disk(patient: Patient) -> Iterator[Fault]:
    """Where files are written there is room."""
    folders = [patient.storage.folder]
    if patient.settings.embedded:
        folders.append(server.home(patient.settings))
    seen: set[int] = set()
    for folder in folders:
        device = folder.stat().st_dev
        if device not in seen:
            seen.add(device)
            yield from _full(folder, patient)


def _full(folder: Path, patient: Patient) -> Iterator[Fault]:
    usage = shutil.disk_usage(folder)
    if usage.free < max(patient.limits.free_bytes, patient.limits.free_share * usage.total):
        yield Fault(
            f"{size(usage.free)} of {size(usage.total)} are free below {folder}",
            "make room there; negspace images check --tidy removes files that nothing names",
        )


def files(patient: Patient) -> Iterator[Fault]:
    """Each image has its file, and each file an image or a result."""
    most = patient.limits.files
    many = patient.row(
        "select count(*) > %(most)s as many"
        " from (select from public.images i limit %(most)s + 1) i",
        {"most": most},
    )
    if many["many"] and not patient.deep:
        raise RefusedError(
            f"more than {most} images: their files take a while to look at",
            hint="negspace doctor --deep",
        )
    with Database(patient.services, pool=PoolSize(0, 1)) as database:
        found = upkeep.check(database, patient.storage)
    if found.missing:
        yield Fault(
            f"rows without their file: {listed(found.missing)}",
            "restore the files from a backup, or negspace images add the same files again",
        )
    left = [path for path in found.unnamed if _old(patient.storage.path(path))]
    left += found.unfinished
    if left:
        yield Fault(
            f"files that no row names: {listed(left)}",
            "negspace images check --tidy",
        )


def _old(path: Path) -> bool:
    """Whether its row can't be on its way any more."""
    try:
        return time.time() - path.stat().st_mtime >= upkeep.PATIENCE.total_seconds()
    except FileNotFoundError:
        return False


CHECKS: Final = (
    Check("audit seals", "until it is sealed, a change of the trail leaves no trace", seals),
    Check("cache", "it takes room from what matters", cache),
    Check("disk space", "a full disk stops the server, or refuses every new image", disk),
    Check("files", "an image that is listed can't be analysed, or room is wasted", files),
)
