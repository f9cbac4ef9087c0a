"""The doctor's checks that need a server of their own, with settings of its own."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from conftest import at
from doctoring import change, faults, look, well
from negspace import server
from negspace.doctor.connecting import leaves_machine
from servers import start


@pytest.fixture(scope="module")
def other(run, tmp_path_factory):
    """A server that keeps logical slots and prepared transactions."""
    folder = Path(tempfile.mkdtemp(dir=run))
    folder.chmod(0o711)
    made = start(folder, wal_level="logical", max_prepared_transactions="2")
    storage = str(tmp_path_factory.mktemp("storage"))
    yield (
        made,
        {
            "DATABASE_URL": made.url("operator"),
            "NEGSPACE_OWNER_URL": made.url("superuser"),
            "NEGSPACE_STORAGE": storage,
        },
    )
    server.stop(at(folder), mode="immediate")
    shutil.rmtree(folder, ignore_errors=True)


def let_in(made, line: str) -> None:
    file = made.home / "server/data/pg_hba.conf"
    file.write_text(f"{line}\n{file.read_text()}")
    change(made.url("superuser"), "select pg_reload_conf()")


def test_what_is_committed_is_safe(other):
    assert well("durability", other[1])


def test_a_prepared_transaction_that_nobody_ends(other):
    made, env = other
    change(made.url("superuser"), "begin; create table t (); prepare transaction 'left'")
    said = faults("vacuum horizon", env, snapshot=timedelta(0))
    assert "prepared transaction left of postgres" in said[0]
    assert well("vacuum horizon", env)
    change(made.url("superuser"), "rollback prepared 'left'")
    assert well("vacuum horizon", env, snapshot=timedelta(0))


def test_a_replication_slot_without_a_reader(other):
    made, env = other
    make = "select pg_create_logical_replication_slot('left', 'pgoutput')"
    change(made.url("superuser"), make)
    assert "slot left lags" in faults("vacuum horizon", env, held_transactions=0)[0]
    assert "slot left has no reader" in faults("vacuum horizon", env, retained_wal=0)[0]
    assert well("vacuum horizon", env)
    remedy = look("vacuum horizon", env, retained_wal=0)[0].remedy or ""
    change(made.url("superuser"), remedy.partition(", or ")[2])
    assert well("vacuum horizon", env, retained_wal=0)


def test_the_default_password(other):
    made, env = other
    change(made.url("superuser"), "alter role app_user password 'change_me_in_production'")
    where = {"DB_HOST": "127.0.0.1", "DB_PORT": str(made.port)}
    by_default = where | {k: env[k] for k in ("NEGSPACE_STORAGE", "NEGSPACE_OWNER_URL")}
    assert "is the default" in faults("password", by_default)[0]
    change(made.url("superuser"), "alter role app_user password 'another'")
    assert well("password", by_default | {"DB_PASSWORD": "another"})


def test_a_server_that_lets_anybody_in(other):
    made, env = other
    change(made.url("superuser"), "create role guest login")
    let_in(made, "host all guest 127.0.0.1/32 trust")
    guest = f"postgresql://guest@127.0.0.1:{made.port}/postgres"
    assert "lets guest in without" in faults("password", env | {"DATABASE_URL": guest})[0]


def relayed(listener: socket.socket, port: int) -> None:
    """Pass what the first client sends on to that port of the loopback, and what comes back."""
    client, _ = listener.accept()
    with client, socket.create_connection(("127.0.0.1", port)) as there:
        back = threading.Thread(target=passed_on, args=(there, client))
        back.start()
        passed_on(client, there)
        back.join()


def passed_on(source: socket.socket, target: socket.socket) -> None:
    while content := source.recv(65536):
        target.sendall(content)
    target.shutdown(socket.SHUT_WR)


def test_a_way_that_anybody_can_listen_on(other):
    made, env = other
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has no address beside the loopback's")
        own = probe.getsockname()[0]
    with socket.create_server((own, 0)) as listener:
        relay = threading.Thread(target=relayed, args=(listener, made.port))
        relay.start()
        beyond = f"{own}:{listener.getsockname()[1]}"
        address = made.url("superuser").replace(f"127.0.0.1:{made.port}", beyond)
        said = faults("encryption", env | {"DATABASE_URL": address})
        relay.join()
    assert said == [f"the connection to {own} is not encrypted"]


@pytest.mark.parametrize(
    ("address", "leaves"),
    [
        ("127.0.0.1", False),
        ("127.8.8.8", False),
        ("::1", False),
        ("", False),
        ("192.168.1.4", True),
        ("2001:db8::1", True),
        ("fe80::1%eth0", True),
    ],
)
def test_which_addresses_leave_the_machine(address, leaves):
    assert leaves_machine(address) is leaves
