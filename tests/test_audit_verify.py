"""Whatever somebody with every right changes in the audit trail, verification names it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from negspace import audit
from negspace import database as db
from negspace.audit import offline
from negspace.errors import (
    AlreadyExistsError,
    FileError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
)
from tampering import master, rewrite, seal_all, settle


@pytest.fixture
def key(tmp_path) -> Path:
    audit.keygen(tmp_path / "key")
    return tmp_path / "key"


@pytest.fixture
def trail(services):
    """Ten events in seals of three, each with a detail; the numbers of the events."""
    numbers: list[int] = []
    for number in range(10):
        with services.transaction() as connection:
            numbers.append(audit.record(connection, "export_data", "image", number))
            connection.execute(
                "select record_event_details(%s, 'exported', %s)", [numbers[-1], f"why {number}"]
            )
    settle(services)
    with services.transaction() as connection:
        connection.execute("select seal_audit(3)")
    assert audit.verify(services).fine
    return numbers


def first(services, anchor_file=None) -> audit.Problem:
    found = audit.verify(services, anchor_file)
    assert not found.fine
    return found.problems[0]


# ── check 11: what a superuser changes is named ──────────────────────────────────────────


def test_an_edit_is_named_by_its_row(services, database, trail):
    with master(database.superuser) as connection:
        connection.execute("update security_audit set resource_id = '99' where id = %s", [trail[4]])
    problem = first(services)
    assert (problem.kind, problem.relation, problem.row) == ("row", "security_audit", trail[4])
    assert problem.seal == 2


def test_an_edited_detail_is_named_by_its_row(services, database, trail):
    with master(database.superuser) as connection:
        connection.execute("update audit_log_details set event_description = 'a good reason'"
                           " where audit_id = %s", [trail[0]])  # fmt: skip
    problem = first(services)
    assert (problem.kind, problem.relation) == ("row", "audit_log_details")


def test_an_edit_whose_hash_was_made_anew_is_named_by_its_batch(services, database, trail):
    with master(database.superuser) as connection:
        connection.execute("update security_audit set resource_id = '99' where id = %s", [trail[4]])
        connection.execute("update security_audit a set leaf_hash = audit_leaf(a)")
    problem = first(services)
    assert (problem.kind, problem.seal) == ("batch", 2)
    assert "not those that were sealed" in problem.message


def test_an_edit_with_a_new_root_is_named_by_its_seal(services, database, trail):
    with master(database.superuser) as connection:
        connection.execute("update audit_seals set merkle_root = previous_hash where number = 2")
    assert (first(services).kind, first(services).seal) == ("seal", 2)


def test_a_seal_made_anew_is_named_by_the_next(services, database, trail):
    with master(database.superuser) as connection:
        connection.execute("update audit_seals set merkle_root = previous_hash where number = 2")
        connection.execute(
            "update audit_seals s set seal_hash = audit_seal_hash(s) where number = 2"
        )
    assert (first(services).kind, first(services).seal) == ("seal", 3)


@pytest.mark.parametrize("index", [0, 4, 9])
def test_a_deletion_is_named_by_its_batch(services, database, trail, index):
    with master(database.superuser) as connection:
        connection.execute("delete from audit_log_details where audit_id = %s", [trail[index]])
        connection.execute("delete from security_audit where id = %s", [trail[index]])
    found = audit.verify(services).problems
    assert [p.kind for p in found] == ["batch", "batch"]
    assert found[0].seal == index // 3 + 1
    assert "are there" in found[0].message


def test_a_row_put_in_afterwards_is_named_by_its_batch(services, database, trail):
    with master(database.superuser) as connection:
        connection.execute(
            "insert into security_audit (id, action, resource_type, recorded_in)"
            " overriding system value select 0, 'login', 'user', recorded_in from security_audit"
            " where id = %s",
            [trail[4]],
        )
        connection.execute("update security_audit a set leaf_hash = audit_leaf(a) where id = 0")
    assert (first(services).kind, first(services).seal) == ("batch", 2)


def swap(connection, one: int, other: int) -> None:
    """Two events in each other's place."""
    connection.execute(
        "update security_audit a set recorded_in = b.recorded_in from security_audit b"
        " where (a.id, b.id) in ((%(x)s, %(y)s), (%(y)s, %(x)s))",
        {"x": one, "y": other},
    )


def test_rows_in_another_order_are_named_by_their_batch(services, database, trail):
    with master(database.superuser) as connection:
        swap(connection, trail[3], trail[4])
    problem = first(services)
    assert (problem.kind, problem.seal) == ("batch", 2)


def test_a_cut_tail_of_rows_is_named(services, database, trail):
    with master(database.superuser) as connection:
        connection.execute("delete from audit_log_details where audit_id >= %s", [trail[8]])
        connection.execute("delete from security_audit where id >= %s", [trail[8]])
    assert (first(services).kind, first(services).seal) == ("batch", 3)


def cut(connection) -> None:
    """The seals from 5 on, with their rows: all details."""
    connection.execute("delete from audit_log_details")
    connection.execute("delete from audit_seals where number >= 5")


def test_a_cut_tail_of_rows_and_seals_is_named(services, database, trail):
    with services.transaction() as connection:  # the next round has seen those of the last
        connection.execute("select seal_audit()")
    with master(database.superuser) as connection:
        cut(connection)
    problem = first(services)
    assert (problem.kind, problem.seal) == ("tail", 5)


def test_a_cut_tail_that_hides_its_mark_is_named_by_an_anchor(services, database, trail, key):
    anchors = key.with_name("anchors")
    audit.anchor(services, anchors, key)
    with master(database.superuser) as connection:
        cut(connection)
        connection.execute("select setval('audit_seals_seen', 4)")
    assert audit.verify(services).fine
    assert (first(services, anchors).kind, first(services, anchors).seal) == ("tail", 5)


def test_a_full_rewrite_is_named_by_an_anchor_alone(services, database, trail, key):
    anchors = key.with_name("anchors")
    assert audit.anchor(services, anchors, key).last == 8
    assert audit.verify(services, anchors).anchored == 8
    with master(database.superuser) as connection:
        connection.execute("update security_audit set resource_id = '99' where id = %s", [trail[4]])
        rewrite(connection)
    settle(services)
    with services.transaction() as connection:
        connection.execute("select seal_audit(3)")
    assert audit.verify(services).fine  # why there are anchors
    problem = first(services, anchors)
    assert (problem.kind, problem.seal) == ("anchor", 1)  # sealed at another time, all of them


def test_a_guard_that_is_switched_off_is_named(services, database, trail):
    with db.connect(database.owner) as owner:
        owner.execute("alter table security_audit disable trigger security_audit_append_only")
    found = audit.verify(services).problems
    assert found[0].kind == "guard"
    assert "security_audit_append_only of security_audit" in found[0].message
    assert len(found) == 5  # the table and its four months


def test_what_is_not_sealed_is_hashed_too(services, database, trail):
    with services.transaction() as connection:
        late = audit.record(connection, "login", "user")
    assert audit.verify(services).unsealed == 1
    with master(database.superuser) as connection:
        connection.execute("update security_audit set status = 'failure' where id = %s", [late])
    problem = first(services)
    assert (problem.kind, problem.row, problem.seal) == ("row", late, None)


def test_an_empty_trail_is_fine(services):
    found = audit.verify(services)
    assert (found.fine, found.seals, found.rows) == (True, 0, 0)


# ── a verifier that looks away is caught by the tests above ──────────────────────────────


def test_a_check_that_only_reads_stored_hashes_would_miss_an_edit(services, database, trail):
    """The twin: the stored leaves alone still give the sealed root."""
    with master(database.superuser) as connection:
        connection.execute("update security_audit set resource_id = '99' where id = %s", [trail[4]])
        row = db.only(
            connection,
            "select merkle_root((select array_agg(leaf_hash order by recorded_in, id)"
            " from security_audit where id between %s and %s)) = merkle_root as same"
            " from audit_seals where number = 2",
            [trail[3], trail[5]],
        )
    assert row is not None
    assert row["same"]
    assert not audit.verify(services).fine


@pytest.mark.parametrize("act", ["delete", "swap"])
def test_a_check_of_rows_alone_would_miss_what_is_gone_or_moved(services, database, trail, act):
    """The twin: every row that is there fits its own hash."""
    with master(database.superuser) as connection:
        if act == "delete":
            connection.execute("delete from audit_log_details where audit_id = %s", [trail[4]])
            connection.execute("delete from security_audit where id = %s", [trail[4]])
        else:
            swap(connection, trail[3], trail[4])
        wrong = "select count(*) as n from security_audit a where a.leaf_hash <> audit_leaf(a)"
        assert db.only(connection, wrong) == {"n": 0}
    assert not audit.verify(services).fine


# ── anchors ──────────────────────────────────────────────────────────────────────────────


def test_anchors_grow_by_what_is_new(services, trail, key):
    anchors = key.with_name("anchors")
    assert audit.anchor(services, anchors, key).added == 8
    before = anchors.read_bytes()
    assert audit.anchor(services, anchors, key).added == 0
    with services.transaction() as connection:
        audit.record(connection, "login", "user")
    seal_all(services)
    assert audit.anchor(services, anchors, key).added == 1
    assert anchors.read_bytes().startswith(before)
    assert audit.verify(services, anchors).fine


def test_a_key_is_its_owners_alone_and_never_replaced(tmp_path, services, key):
    assert key.stat().st_mode & 0o777 == 0o600
    assert (
        audit.read_public_key(Path(f"{key}.pub"))
        == audit.anchor(services, tmp_path / "anchors", key).key
    )
    with pytest.raises(AlreadyExistsError):
        audit.keygen(key)
    key.chmod(0o640)
    with pytest.raises(RefusedError, match="read by others"):
        audit.anchor(services, tmp_path / "anchors", key)
    with pytest.raises(FileError, match="holds no public key"):
        audit.read_public_key(key)
    (tmp_path / "no key").touch(0o600)
    with pytest.raises(FileError, match="no Ed25519 key"):
        audit.anchor(services, tmp_path / "anchors", tmp_path / "no key")


def test_a_changed_anchor_file_is_refused(services, trail, key):
    anchors = key.with_name("anchors")
    audit.anchor(services, anchors, key)
    lines = anchors.read_text("utf-8").splitlines(keepends=True)
    line = json.loads(lines[1])
    changed = [
        [*lines[:1], json.dumps(line | {"hash": "0" * 64}) + "\n", *lines[2:]],
        [*lines[:1], *lines[2:]],
        [*lines[:1], "{}\n"],
        [*lines[:1], "[]\n"],
        ["no json\n"],
    ]
    for wrong in changed:
        anchors.write_text("".join(wrong), "utf-8")
        with pytest.raises(InvalidInputError):
            audit.verify(services, anchors)
        with pytest.raises(InvalidInputError):
            audit.anchor(services, anchors, key)


def test_another_key_is_refused(services, trail, key, tmp_path):
    anchors = tmp_path / "anchors"
    audit.anchor(services, anchors, key)
    other = audit.keygen(tmp_path / "other")
    with pytest.raises(RefusedError, match="another key"):
        audit.anchor(services, anchors, tmp_path / "other")
    with pytest.raises(RefusedError, match="another key"):
        audit.verify(services, anchors, key=other)


def test_nothing_is_anchored_over_a_rewritten_trail(services, database, trail, key):
    anchors = key.with_name("anchors")
    audit.anchor(services, anchors, key)
    with master(database.superuser) as connection:
        rewrite(connection)
    with pytest.raises(RefusedError, match="not the one"):
        audit.anchor(services, anchors, key)
    seal_all(services)
    with pytest.raises(RefusedError, match="not the one"):
        audit.anchor(services, anchors, key)


# ── proofs ───────────────────────────────────────────────────────────────────────────────


def check(page: Path, *arguments: Path) -> subprocess.CompletedProcess[str]:
    """The page as a stranger runs it: no packages, no environment."""
    return subprocess.run(
        [sys.executable, "-I", "-S", page, *arguments],
        env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_proof_is_checked_with_the_page_alone(cli, database, services, trail, key, tmp_path):
    anchors, proof, page = tmp_path / "anchors", tmp_path / "proof.json", tmp_path / "check.py"
    audit.anchor(services, anchors, key)
    done = cli("audit", "prove", str(trail[4]), "-o", str(proof), "--page", str(page), "--json",
               env=database.environment)  # fmt: skip
    assert done.json["rows"] == 2
    good = check(page, proof, anchors)
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout.count("(anchored)") == 2
    assert good.stdout.endswith("proven\n")
    text = proof.read_text("utf-8")
    for wrong in (
        text.replace('"resource_id": "4"', '"resource_id": "5"'),
        text.replace("why 4", "why not"),
        text.replace('"side": "left"', '"side": "right"', 1),
        text.replace('"sealed_at": 1', '"sealed_at": 2', 1),
        text.replace("proof 1", "proof 2"),
        "{}",
        "[]",
        "nonsense",
    ):
        assert wrong != text
        proof.write_text(wrong, "utf-8")
        bad = check(page, proof)
        assert (bad.returncode, bad.stdout) == (1, ""), wrong
        assert bad.stderr.startswith("NOT PROVEN: ")
    proof.write_text(text, "utf-8")
    (tmp_path / "empty").touch()
    assert "not the one that was anchored" in check(page, proof, tmp_path / "empty").stderr
    assert check(page).returncode == 2


def test_what_cant_be_proven_says_why(services, database, trail):
    with pytest.raises(NotFoundError):
        audit.prove(services, 10**9)
    with services.transaction() as connection:
        late = audit.record(connection, "login", "user")
    with pytest.raises(RefusedError, match="not sealed yet"):
        audit.prove(services, late)
    with master(database.superuser) as connection:
        connection.execute("update security_audit set resource_id = '99' where id = %s", [trail[4]])
    for number in trail[3:6]:
        with pytest.raises(RefusedError, match="not those that were sealed"):
            audit.prove(services, number)
    audit.prove(services, trail[6])


def test_every_row_can_be_proven(services, trail):
    for number in trail:
        proof = audit.prove(services, number)
        assert len(offline.check({"form": proof.form, "rows": proof.rows})) == 2


# ── the command line ─────────────────────────────────────────────────────────────────────


def test_the_commands_seal_anchor_and_verify(cli, database, services, trail, tmp_path):
    env = database.environment
    key, anchors = str(tmp_path / "key"), str(tmp_path / "anchors")
    assert cli("audit", "keygen", key, env=env).status == 0
    assert cli("audit", "seal", "--json", env=env).json == {"seals": 0}
    done = cli("audit", "anchor", anchors, "--key", key, "--json", env=env)
    assert (done.json["added"], done.json["last"]) == (8, 8)
    good = cli("audit", "verify", "--anchor", anchors, "--public-key", f"{key}.pub", "--json",
               env=env)  # fmt: skip
    assert (good.status, good.json["fine"], good.json["rows"]) == (0, True, 20)
    with master(database.superuser) as connection:
        connection.execute("update security_audit set resource_id = '99' where id = %s", [trail[4]])
    bad = cli("audit", "verify", "--anchor", anchors, env=env)
    assert bad.status == 3
    assert bad.out.startswith(f"row: security_audit {trail[4]} was changed")
    assert cli("audit", "verify", "--anchor", key, env=env).status == 2


def test_progress_tells_of_every_row_and_batches_of_any_size_are_read(services, database):
    """More rows than are read at once, sealed or not, in batches of all sizes."""
    told: list[int] = []
    with services.transaction() as connection:
        connection.execute(
            "select record_event('config_change', 'setting', n::text)"
            " from generate_series(1, 51000) n"
        )
    settle(services)
    for size, most in ((49_000, 1), (1, 3), (600, 1)):
        with services.transaction() as connection:
            connection.execute("select seal_audit(%s, %s)", [size, most])
    found = audit.verify(services, progress=told.append)
    assert found.fine, found.problems
    assert (found.seals, found.rows, found.unsealed) == (5, 49_603, 1397)
    assert len(told) == 1
    assert told[0] >= 50_000
