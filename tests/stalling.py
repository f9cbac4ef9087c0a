"""A way to a server that can be closed: a small TCP proxy that stops forwarding."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit


class Way(threading.Thread):
    """Forwards what comes, until it is stalled: then it accepts, reads, and passes on nothing."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(daemon=True)
        self._target = (host, port)
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._door.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._door, selectors.EVENT_READ)
        self._peers: dict[socket.socket, socket.socket] = {}
        self._after: list[bytes] = []
        self._ended = threading.Event()
        self.stalled = threading.Event()

    def stall(self) -> None:
        """From now on nothing comes through, in either direction."""
        self.stalled.set()

    def stall_after(self, *words: bytes) -> None:
        """Stall when a client has sent these, one after the other; the last still goes through."""
        self._after = list(words)

    def open(self) -> None:
        """Let everything through again that is sent from now on."""
        self._after = []
        self.stalled.clear()

    def run(self) -> None:
        while not self._ended.is_set():
            for key, _ in self._selector.select(0.05):
                if key.fileobj is self._door:
                    self._accept()
                elif key.fileobj in self._peers:  # not closed with its peer just now
                    self._forward(key.fileobj)  # type: ignore[arg-type]

    def _accept(self) -> None:
        client, _ = self._door.accept()
        try:
            server = socket.create_connection(self._target)
        except OSError:
            client.close()
            return
        for one, other in ((client, server), (server, client)):
            self._peers[one] = other
            self._selector.register(one, selectors.EVENT_READ, one is client)

    def _forward(self, source: socket.socket) -> None:
        from_client = self._selector.get_key(source).data
        try:
            data = source.recv(65_536)
        except OSError:
            data = b""
        if not data:
            self._close(source)
        elif not self.stalled.is_set():
            try:
                self._peers[source].sendall(data)
            except OSError:
                self._close(source)
                return
            if from_client and self._after and self._after[0] in data:
                del self._after[0]
                if not self._after:
                    self.stall()

    def _close(self, source: socket.socket) -> None:
        for one in (source, self._peers[source]):
            self._selector.unregister(one)
            one.close()
        self._peers.pop(self._peers.pop(source))

    def end(self) -> None:
        self._ended.set()
        self.join()
        for one in [*self._peers, self._door]:
            one.close()
        self._selector.close()


@contextmanager
def way_to(address: str) -> Iterator[Way]:
    """A way to the server of an address."""
    target = urlsplit(address)
    assert target.hostname
    assert target.port
    made = Way(target.hostname, target.port)
    made.start()
    try:
        yield made
    finally:
        made.end()


def by(address: str, way: Way, **parameters: object) -> str:
    """The same address by that way; what libpq is told is quick, so that tests are."""
    target = urlsplit(address)
    given = {"connect_timeout": 2, "tcp_user_timeout": 1000} | parameters
    query = "&".join(f"{name}={value}" for name, value in given.items())
    where = f"{target.username}:{target.password}@127.0.0.1:{way.port}"
    return target._replace(netloc=where, query=query).geturl()
