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


_OLD_SAMPLES: Final[LiteralString] = (
    "select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid"
    " where i.inhparent = 'public.performance_metrics'::regclass and c.relname ~ '_[0-9]{6}$'"
    " and (to_date(right(c.relname, 6), 'YYYYMM') + interval '1 month') at time zone 'UTC'"
    "  <= now() - %s"
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


def housekeeping(patient: Patient) -> Iterator[Fault]:
    """What must happen now and then was done of late, and did not fail."""
    row = patient.row(
        "select now(), (select min(u.created_at) from public.users u) as used_since,"
        " coalesce(jsonb_object_agg(s.step, jsonb_build_array("
        "  extract(epoch from now() - s.ended_at), s.failure)) filter (where s.step is not null),"
        "  '{}') as steps from (select 1) x left join public.upkeep_steps s on true"
    )
    used = 0.0 if row["used_since"] is None else (row["now"] - row["used_since"]).total_seconds()
    late: list[str] = []
    for step in upkeep.STEPS:
        age, failure = row["steps"].get(step.name, (None, None))
        if failure:
            yield Fault(f"{step.name} failed: {failure}", "mend that; then negspace maintain")
        elif (used if age is None else age) > patient.limits.unkept.total_seconds() + (
            2 * step.every.total_seconds()
        ):
            late.append(step.name)
    if "samples" in late and not patient.rows(_OLD_SAMPLES, [upkeep.Policy.samples]):
        late.remove("samples")  # the owner's alone to drop, and there is nothing to drop
    if late:
        yield Fault(
            f"not done for more than {span(patient.limits.unkept.total_seconds())} after it was"
            f" due: {', '.join(late)}",
            "negspace maintain, as a timer's job; or a running worker does it",
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
    Check("housekeeping", "old data piles up, and what comes next has no place", housekeeping),
    Check("disk space", "a full disk stops the server, or refuses every new image", disk),
    Check("files", "an image that is listed can't be analysed, or room is wasted", files),
)
