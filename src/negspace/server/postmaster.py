"""The server's process: start it, see it, end it.

Alive is what answers on the socket; a process id in a file proves nothing. No limit is set
on crash recovery, which may take minutes and tells how far it is.
"""

from __future__ import annotations

import os
import random
import select
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from negspace.database import Answer, ping
from negspace.errors import ServerError
from negspace.server import logs
from negspace.server.layout import Mode, private_file, write_state

if TYPE_CHECKING:
    from negspace.server.account import Account
    from negspace.server.binaries import Binaries
    from negspace.server.layout import Layout, Progress, State

SIGNALS: Final[Mapping[Mode, signal.Signals]] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}
PORTS: Final = range(20_000, 32_000)  # below what kernels give to outgoing connections
PAUSE: Final = 0.02  # seconds between two looks
SILENCE: Final = 20.0  # seconds that a process may run and not answer at all
LEFTOVERS: Final = 60.0  # seconds for processes of a crashed server to go
LAST_WORDS: Final = 0.2  # seconds that a collector has for them
LARGEST_LOG: Final = 16 * 1024 * 1024  # bytes; a larger one is put aside at the next start


@dataclass(frozen=True)
class Launch:
    """What a start needs to know."""

    layout: Layout
    binaries: Binaries
    account: Account
    options: Mapping[str, str]
    progress: Progress


def answer(layout: Layout, port: int) -> Answer:
    """What the server says on its socket; needs no password."""
    return ping(host=str(layout.sockets), port=port)


def free_port() -> int:
    """A port on the loopback address that nobody listens on."""
    # No secret: it only keeps several homes on one machine apart.
    candidates = random.sample(PORTS, len(PORTS))
    for port in candidates:
        if is_free(port):
            return port
    raise ServerError(
        f"no port from {PORTS.start} to {PORTS.stop} is free on 127.0.0.1",
        hint="end what listens there",
    )


def is_free(port: int) -> bool:
    """Whether PostgreSQL could listen on that port of the loopback address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def recorded(layout: Layout) -> int | None:
    """The process id in ``postmaster.pid``, whoever has it now."""
    try:
        first = (layout.data / "postmaster.pid").read_text(errors="replace").partition("\n")[0]
        return abs(int(first))
    except (FileNotFoundError, ValueError):
        return None


def running(layout: Layout) -> int | None:
    """The process id of a server that works in this data directory, ready or not."""
    process = recorded(layout)
    return process if process and _works_in(process, layout.data) else None


def _works_in(process: int, data: Path) -> bool:
    if Path("/proc/self/cwd").exists():
        try:
            # A zombie has no folder, a recycled process id another one.
            return Path(f"/proc/{process}/cwd").samefile(data)
        except OSError:
            return False
    command = ["ps", "-o", "command=", "-p", str(process)]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return str(data) in said


def launch(launch: Launch, state: State) -> State:
    """Start the server and wait until it answers at all; the caller holds the lock.

    Returns:
        The state, with the port it got.

    Raises:
        ServerError: It ended, with what PostgreSQL said of it.
    """
    layout, patience = launch.layout, time.monotonic() + LEFTOVERS
    _put_log_aside(layout)
    while True:
        port = state.port if is_free(state.port) else free_port()
        now = replace(state, port=port, version=launch.binaries.version)
        state = state if now == state else write_state(layout, now)
        before = logs.sizes(layout)
        if _spawn_and_see(launch, state):
            return state
        said = logs.since(layout, before)
        if "could not create any TCP/IP sockets" in said:
            continue  # somebody took the port since we looked
        if "pre-existing shared memory block" in said and time.monotonic() < patience:
            launch.progress("waiting for the last processes of a crashed server to end …")
            time.sleep(0.5)
            continue
        raise ServerError(
            f"PostgreSQL {launch.binaries.version} didn't start: {_reason(said)}",
            hint=f"{logs.newest(layout)} has all it said",
            home=str(layout.home),
        )


def _spawn_and_see(launch: Launch, state: State) -> bool:
    """Spawn; True when it answers or has been silent for long, False when it ended before."""
    patience = time.monotonic() + SILENCE
    alive, ended = os.pipe()
    try:
        try:
            _spawn(launch, state, ended)
        finally:
            os.close(ended)
        while answer(launch.layout, state.port) is Answer.NONE and time.monotonic() < patience:
            # The pipe's other end is open in the server alone: it reads as ended when that is.
            if select.select([alive], [], [], PAUSE)[0]:
                return False
        return True
    finally:
        os.close(alive)


def _spawn(launch: Launch, state: State, held: int) -> None:
    layout = launch.layout
    fixed = {
        "listen_addresses": "127.0.0.1",
        "port": str(state.port),
        "unix_socket_directories": '"' + str(layout.sockets).replace('"', '""') + '"',
        "log_directory": str(layout.logs),
        **logs.COLLECTED,
    }
    command = [launch.binaries.program("postgres"), "-D", str(layout.data)]
    for name, value in {**launch.options, **fixed}.items():
        command += ["-c", f"{name}={value}"]
    stale = recorded(layout)
    # PostgreSQL takes any live process named in postmaster.pid for a server, except its
    # parent's parent as this variable names it. We have seen that it is none.
    excused = {"PG_GRANDPARENT_PID": str(stale)} if stale and not running(layout) else {}
    log = private_file(layout, layout.log, os.O_WRONLY | os.O_APPEND)
    try:
        # The shell ends at once, so that the server is nobody's child and outlives us.
        subprocess.run(
            ["/bin/sh", "-c", '"$@" &', "sh", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=(held,),
            umask=0o077,
            check=True,
            **launch.account.popen(**excused),
        )
    finally:
        os.close(log)


def wait_until_ready(layout: Layout, port: int, progress: Progress) -> None:
    """Wait until the server takes connections, however long it recovers.

    Raises:
        ServerError: It ended meanwhile, or it runs and doesn't answer at all.
    """
    start = heard = told = time.monotonic()
    pause = PAUSE
    while (said := answer(layout, port)) is not Answer.READY:
        now = time.monotonic()
        if said is Answer.BUSY:
            heard = now
        elif running(layout) is None:
            raise ServerError(
                f"PostgreSQL ended while it started: {_reason(_last_words(layout))}",
                hint=f"{logs.newest(layout)} has all it said",
                home=str(layout.home),
            )
        elif now - heard > SILENCE:
            raise ServerError(
                f"PostgreSQL runs (process {recorded(layout)}) but doesn't answer"
                f" in {layout.sockets}",
                hint="negspace server stop, then negspace server start",
                home=str(layout.home),
            )
        if now - told >= 1:
            told = now
            progress(f"PostgreSQL recovers, or stops, {now - start:.0f} s …")
        time.sleep(pause)
        pause = min(2 * pause, 0.5)  # each look leaves a line in the log


def end(layout: Layout, mode: Mode, progress: Progress) -> None:
    """End the server and wait until it has gone; the caller holds the lock."""
    process = running(layout)
    if process is None:
        return
    try:
        os.kill(process, SIGNALS[mode])
    except ProcessLookupError:
        return
    told = time.monotonic()
    while running(layout) == process:
        if time.monotonic() - told >= 1:
            told = time.monotonic()
            progress("PostgreSQL writes out what it holds …")
        time.sleep(PAUSE)
    if layout.sockets != layout.server:
        with suppress(OSError):
            layout.sockets.rmdir()


def _put_log_aside(layout: Layout) -> None:
    """Begin a new log where the old one has grown large; one old one is kept."""
    logs.prune(layout)
    if layout.log.exists() and layout.log.stat().st_size > LARGEST_LOG:
        layout.log.replace(layout.log.with_suffix(".log.1"))


def _last_words(layout: Layout) -> str:
    """The end of the log; its collector outlives the server by a moment."""
    time.sleep(LAST_WORDS)
    return logs.since(layout, {layout.log: layout.log.stat().st_size})


def _reason(said: str) -> str:
    """The line of the log that says why it ended."""
    looks = "FATAL:  the database system is "  # starting up, shutting down: told to ourselves
    lines = [line for line in said.strip().splitlines() if looks not in line]
    for mark in ("PANIC:", "FATAL:", "ERROR:"):
        for line in reversed(lines):
            if mark in line:
                return line.partition(mark)[2].strip()
    return lines[-1] if lines else "it said nothing"
