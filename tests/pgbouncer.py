"""A real PgBouncer in transaction mode on the loopback interface."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

CONFIGURATION = """
[databases]
* = host={host} port={port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users.txt
pool_mode = transaction
max_client_conn = 500
default_pool_size = 20
server_idle_timeout = 5
log_connections = 0
log_disconnections = 0
"""


@contextmanager
def pgbouncer(address: str, folder: Path) -> Iterator[int]:
    """Start it before the server of an address, for that address's user; gives its port."""
    assert PROGRAM
    target = urlsplit(address)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.chmod(0o711)
    (folder / "users.txt").write_text(f'"{target.username}" "{target.password}"\n')
    (folder / "pgbouncer.ini").write_text(
        CONFIGURATION.format(host=target.hostname, port=target.port, listen=port, folder=folder)
    )
    # It refuses to run as root.
    other = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
    process = subprocess.Popen(
        [PROGRAM, str(folder / "pgbouncer.ini")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=log,
        **other,
    )
    os.close(log)
    try:
        give_up = time.monotonic() + 30
        while not _answers(port):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < give_up, (folder / "log").read_text()
            time.sleep(0.02)
        yield port
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def through(address: str, port: int) -> str:
    """The same address by PgBouncer."""
    target = urlsplit(address)
    return target._replace(netloc=f"{target.username}:{target.password}@127.0.0.1:{port}").geturl()
