"""Connections that notice when nobody is at the other end any more.

The kernel notices a machine that is gone: it repeats what isn't acknowledged, and asks with
keepalives. It doesn't notice a proxy, a pooler or a server that is there and does nothing
more: what it sent was acknowledged. And no limit of time is right for every statement. So who
waits for long knocks: a server that computes answers on a new connection, one that is stuck
doesn't.
"""

from __future__ import annotations

import math
import select
import socket
import struct
import time
from collections.abc import Generator
from typing import Any, Final, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import Row

CONNECT_TIMEOUT: Final = 10  # seconds to wait for a server that doesn't answer
_KNOCKS: Final = 2  # that are in vain, before a connection is given up
_SSL_REQUEST: Final = struct.pack("!II", 8, 80877103)  # answered at once, before any login
_TCP_PORT: Final = 5432

# What a connection string says instead counts. A machine that is gone is noticed within a
# minute; Linux alone would take between 15 minutes and two hours.
DEFAULTS: Final[dict[str, str | int]] = {
    "application_name": "negspace",
    "connect_timeout": CONNECT_TIMEOUT,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # milliseconds
}

Given = TypeVar("Given")


def parameters_of(address: str) -> dict[str, Any]:
    """What libpq is given for an address: its parts, and our defaults for the rest."""
    return DEFAULTS | conninfo_to_dict(address)


class Watched(psycopg.Connection[Row]):
    """A connection that knocks when an answer takes longer than its ``tcp_user_timeout``."""

    _answered_at: float = -math.inf

    def answered_within(self, seconds: float) -> bool:
        """Whether the server answered so lately, and has not hung up since.

        A server that ends says so, or its machine's kernel does: there is something to read on
        a connection where nothing was asked. It costs no round trip.
        """
        if time.monotonic() - self._answered_at > seconds:
            return False
        there = select.poll()
        there.register(self.fileno(), select.POLLIN)
        return not there.poll(0)

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Wait for the server, as psycopg does.

        Raises:
            OperationalError: It is silent, and answers on no new connection either.
        """
        answer = super().wait(self._see_alive(gen), interval, timeout)
        self._answered_at = time.monotonic()
        return answer

    def _see_alive(self, gen: Generator[Any, Any, Given]) -> Generator[Any, Any, Given]:
        began = time.monotonic()
        patience: float | None = None
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if ready:
                    began = time.monotonic()
                else:  # nothing came in the meantime
                    patience = self._patience() if patience is None else patience
                    if patience and time.monotonic() - began > patience:
                        self._knock(time.monotonic() - began)
                        began = time.monotonic()
                wanted = gen.send(ready)
        except StopIteration as end:
            return end.value

    def _patience(self) -> float:
        """Seconds; 0: endless."""
        return float(self._said("tcp_user_timeout") or 0) / 1000

    def _said(self, name: str) -> str:
        for option in self.pgconn.info:
            if option.keyword == name.encode():
                return (option.val or b"").decode()
        return ""

    def _knock(self, silent: float) -> None:
        host = (self.pgconn.hostaddr or self.pgconn.host or b"").decode()
        port = int(self.pgconn.port or _TCP_PORT)
        wait = float(self._said("connect_timeout") or CONNECT_TIMEOUT)
        if any(answers(host, port, wait) for _ in range(_KNOCKS)):
            return
        self.pgconn.finish()
        raise psycopg.OperationalError(
            f"no answer from {host}:{port} for {silent:.0f} s, nor on a new connection"
        )


def answers(host: str, port: int, wait: float) -> bool:
    """Whether somebody speaks PostgreSQL's protocol there.

    Args:
        host: An address, or the folder of a Unix socket.
        port: Its port.
        wait: Seconds for the connection, and again for the answer.
    """
    local = host.startswith(("/", "@"))
    family = socket.AF_UNIX if local else socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as door:
            door.settimeout(wait)
            door.connect(f"{host}/.s.PGSQL.{port}" if local else (host, port))
            door.sendall(_SSL_REQUEST)
            return bool(door.recv(1))
    except OSError:
        return False
