"""Checks of the way to the server: that it answers, who is let in, versions, clocks."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Final

from negspace import database
from negspace.doctor.examining import Check, Fault, Patient
from negspace.errors import NegspaceError
from negspace.settings import DEFAULT_PASSWORD

__all__ = ["CHECKS", "SUPPORTED"]

SUPPORTED: Final = range(14, 19)  # major versions of PostgreSQL


def connection(patient: Patient) -> Iterator[Fault]:
    """The services get in, and the operator too."""
    if patient.unreached is not None:
        error = patient.unreached
        yield Fault(error.message, error.hint or "negspace server status")
    elif patient.address is not None:
        try:
            database.connect(patient.address).close()
        except NegspaceError as error:
            yield Fault(f"services: {error.message}", error.hint or "negspace server password")


def versions(patient: Patient) -> Iterator[Fault]:
    """The server's version is supported, and texts sort as when the indexes were made."""
    major = patient.reached.info.server_version // 10_000
    if major not in SUPPORTED:
        yield Fault(
            f"the server is PostgreSQL {major}; negspace is tested on"
            f" {SUPPORTED.start} to {SUPPORTED.stop - 1}",
            "upgrade the older of the two: a newer negspace, or pg_upgrade",
        )
    if major >= 15:  # the first to know
        row = patient.row(
            "select d.datname as name, d.datcollversion as made,"
            " pg_database_collation_actual_version(d.oid) as now"
            " from pg_database d where d.datname = current_database()"
        )
        if row["made"] is not None and row["made"] != row["now"]:
            name = row["name"]
            yield Fault(
                f"texts sorted by version {row['made']} of their collation when {name} was made,"
                f" and by {row['now']} now",
                f'reindex database "{name}"; alter database "{name}" refresh collation version',
            )


def clock(patient: Patient) -> Iterator[Fault]:
    """This machine and the server agree on the time, as far as one query can tell."""
    before = patient.now()
    there = float(patient.row("select extract(epoch from clock_timestamp()) as now")["now"])
    after = patient.now()
    skew = max(before - there, there - after)
    if skew > patient.limits.clock_skew:
        side = "ahead of" if before > there else "behind"
        yield Fault(
            f"this machine's clock is {skew:.1f} s {side} the server's",
            "keep both by NTP: timedatectl set-ntp true",
        )


def password(patient: Patient) -> Iterator[Fault]:
    """Services log in with a password of their own."""
    if patient.settings.embedded or patient.address is None:
        return  # random ones, and the client insists on SCRAM
    given = database.libpq_environment(patient.address)
    role = given.get("PGUSER", "operator_role")
    remedy = f"negspace server password {role} --generate; then set DB_PASSWORD or DATABASE_URL"
    if given.get("PGPASSWORD") == DEFAULT_PASSWORD:
        yield Fault("the services' password is the default, which everybody knows", remedy)
        return
    with database.connect(patient.address) as opened:
        server = opened.pgconn
        by_socket = server.host.startswith(b"/")  # the system may vouch for the user
        if not (server.used_password or server.ssl_in_use or by_socket):
            yield Fault(
                f"the server lets {role} in without a password",
                f"scram-sha-256 instead of trust in pg_hba.conf; {remedy}",
            )


def encryption(patient: Patient) -> Iterator[Fault]:
    """What leaves this machine is encrypted."""
    if patient.address is None:
        return
    with database.connect(patient.address) as opened:
        server = opened.pgconn
        if not server.ssl_in_use and leaves_machine(server.hostaddr.decode()):
            yield Fault(
                f"the connection to {server.host.decode()} is not encrypted",
                "turn TLS on in the server, and set DB_SSL=true",
            )


def leaves_machine(address: str) -> bool:
    """Whether an address is neither a socket's nor of the loopback interface."""
    try:
        return not ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


CHECKS: Final = (
    Check("connection", "nothing works without the database", connection),
    Check(
        "versions",
        "what was never tested may fail, and indexes in another order find nothing",
        versions,
    ),
    Check("password", "whoever reaches the port is let in as the services", password),
    Check("encryption", "passwords' proofs and data can be read on the way", encryption),
    Check("clock", "times of this machine's files and logs don't fit the database's", clock),
)
