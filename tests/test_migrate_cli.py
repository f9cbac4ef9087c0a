"""``negspace migrate``, as a process: what it prints and its exit status."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import clean_environment
from negspace.database import connect

NEGSPACE = [sys.executable, "-m", "negspace"]

FILES = {
    "001_users.up.sql": "create table users (id int);",
    "001_users.down.sql": "drop table users;",
    "002_posts.up.sql": "create table posts (id int);",
    "002_posts.down.sql": "drop table posts;",
}


@pytest.fixture
def folder(tmp_path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    return tmp_path


@pytest.fixture
def migrate(cli, empty_database, folder):
    """``negspace migrate …`` on the test's database and folder."""

    def call(verb: str, *arguments: str, env: dict[str, str] | None = None):
        where = () if verb in {"history", "dump"} else ("--dir", str(folder))
        return cli("migrate", verb, *where, *arguments, env=env or empty_database.environment)

    return call


def test_a_day_with_migrations(migrate, folder):
    ran = migrate("status", "--check")
    assert ran.status == 3
    assert "pending" in ran.out
    ran = migrate("up", "--dry-run")
    assert (ran.status, "dry run: 2 of 2 migrations would work; " in ran.out) == (0, True)
    assert migrate("status", "--check").status == 3
    ran = migrate("up")
    assert ran.status == 0
    assert ran.out.startswith("applied 2 migrations as batch 1 in ")
    assert "up   001_users  success" in ran.err
    ran = migrate("up")
    assert (ran.status, ran.out) == (0, "nothing to do\n")
    ran = migrate("status", "--check")
    assert ran.status == 0
    lines = ran.out.splitlines()
    assert lines[0].split() == ["version", "name", "state", "batch", "applied", "at", "ms"]
    assert lines[1].split()[:4] == ["001", "users", "applied", "1"]
    assert lines[-1] == "all 2 applied"
    assert migrate("validate").out == "valid\n"
    ran = migrate("down", "--yes", "--accept-loss", "public.posts")
    assert (ran.status, ran.out.split(" in ")[0]) == (0, "undid 1 migration")
    found = migrate("history", "1", "--json").json
    assert [(e["name"], e["status"]) for e in found] == [("002_posts", "rolled_back")]
    assert len(migrate("history", "--json").json) == 3
    assert migrate("history").out.splitlines()[0].split()[:3] == ["id", "when", "batch"]


def test_validate_says_what_has_no_way_down(migrate, folder):
    """It is allowed, and said on stderr; with a reason in the file it is not."""
    assert "no way down" not in migrate("validate").err
    (folder / "002_posts.down.sql").unlink()
    (folder / "001_users.down.sql").unlink()
    (folder / "001_users.up.sql").write_text("-- negspace: irreversible why not\nselect 1;")
    for ran in (migrate("validate"), migrate("validate", "--offline")):
        assert (ran.status, ran.out) == (0, "valid\n")
        assert "no way down: 002_posts\n" in ran.err


def test_a_failure_points_at_the_place_and_exits_1(migrate, folder):
    (folder / "002_posts.up.sql").write_text("create table posts (\n  id nt\n);")
    ran = migrate("up")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.splitlines()[-5:] == [
        f'{folder}/002_posts.up.sql:2:6: type "nt" does not exist',
        "  2 |   id nt",
        "    |      ^",
        "  SQLSTATE: 42704",
        "rolled back: nothing was changed",
    ]
    ran = migrate("up", "--json")
    assert ran.status == 1
    assert ran.json["failure"]["line"] == 2
    assert [step["status"] for step in ran.json["steps"]] == ["undone", "failed"]
    assert migrate("status", "--json").json[1]["state"] == "failed"
    assert "failed  " in migrate("history").out


def test_a_failure_outside_a_transaction_says_what_stays(migrate, folder):
    (folder / "002_posts.up.sql").write_text(
        "-- negspace: no-transaction\ncreate table posts ();\nselect 1 / 0;"
    )
    ran = migrate("up")
    assert ran.status == 1
    assert ran.err.splitlines()[-2:] == [
        "002_posts runs outside a transaction: 1 of its statements stay",
        "done before it, and stays: 001_users",
    ]
    ran = migrate("up", "--dry-run")
    assert (ran.status, ran.out[:46]) == (0, "dry run: 0 of 1 migration would work, 1 not re")


def test_invalid_files_exit_3_and_touch_nothing(migrate, folder):
    (folder / "002_posts.up.sql").write_text("\n  commit;")
    for ran in (migrate("up"), migrate("validate"), migrate("validate", "--offline")):
        assert ran.status == 3
        assert "002_posts.up.sql:2:3: COMMIT" in ran.out + ran.err
        assert "hint: take BEGIN and COMMIT out" in ran.out + ran.err
    (problem,) = migrate("validate", "--json").json
    assert (problem["line"], problem["column"]) == (2, 3)
    assert migrate("up", "--json").error["code"] == "migration_file"
    assert migrate("status", "--json").json[0]["state"] == "pending"


def test_an_edited_file_exits_3(migrate, folder):
    migrate("up")
    (folder / "001_users.up.sql").write_text("create table users (id bigint);")
    assert migrate("status", "--check").status == 3
    ran = migrate("validate")
    assert ran.status == 3
    assert "001_users.up.sql: changed since it was applied (batch 1)" in ran.out
    (folder / "003_more.up.sql").write_text("select 1")
    assert migrate("up").status == 3


def test_misuse_exits_2(migrate, cli, folder):
    assert migrate("down", "--steps", "1", "--batch", "--yes").status == 2
    assert migrate("down", "--steps", "0", "--yes").status == 2
    assert migrate("up", "--to", "77").status == 2
    assert migrate("up", "--lock-timeout", "-1").status == 2
    assert migrate("up", "--database-url", "x").status == 2
    assert cli("migrate", "sideways").status == 2
    assert migrate("up", env={"DATABASE_URL": "postgresql://x", "DB_PORT": "1"}).status == 2


def test_what_is_refused_exits_4(migrate, folder):
    migrate("up")
    ran = migrate("down")
    assert ran.status == 4
    assert "--yes" in ran.err
    (folder / "002_posts.down.sql").unlink()
    ran = migrate("down", "--yes")
    assert ran.status == 4
    assert "002_posts has no way down" in ran.err
    assert "hint: write 002_posts.down.sql" in ran.err
    assert migrate("status", "--check").status == 0


def test_down_asks_at_a_terminal(migrate, empty_database, folder, home):
    migrate("up")
    for answer, status in (("n", 4), ("y", 0)):
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [*NEGSPACE, "migrate", "down", "--development", "--dir", str(folder)],
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=clean_environment(home) | empty_database.environment,
            text=True,
        )
        os.write(ours, f"{answer}\n".encode())
        _, err = process.communicate(timeout=60)
        os.close(ours)
        os.close(theirs)
        assert "Undo migrations (the newest 1)?" in err
        assert process.returncode == status


def test_no_database_exits_5(migrate, folder):
    nowhere = {"DATABASE_URL": "postgresql://a@127.0.0.1:1/x"}
    for verb in ("up", "status", "history", "validate", "dump"):
        ran = migrate(verb, env=nowhere)
        assert ran.status == 5
        assert "can't reach" in ran.err
    assert migrate("validate", "--offline", env=nowhere).status == 0


def test_no_folder_is_an_error(cli, empty_database, tmp_path):
    ran = cli("migrate", "up", "--dir", str(tmp_path / "no"), env=empty_database.environment)
    assert ran.status == 1
    assert "No such file or directory" in ran.err


def test_new_makes_two_files(cli, tmp_path):
    ran = cli("migrate", "new", "add users", "--dir", str(tmp_path))
    up = tmp_path / "001_add_users.up.sql"
    assert ran.out.splitlines() == [str(up), str(tmp_path / "001_add_users.down.sql")]
    assert up.read_text().startswith("-- 001_add_users")
    made = cli("migrate", "new", "more", "--dir", str(tmp_path), "--json").json
    assert made["up"] == str(tmp_path / "002_more.up.sql")


def test_dump_prints_or_writes_the_schema(migrate, tmp_path):
    migrate("up")
    printed = migrate("dump").out
    assert "create table public.users (\n    id integer\n);" in printed
    target = tmp_path / "schema.sql"
    ran = migrate("dump", "--output", str(target))
    assert ran.out == f"wrote {target}\n"
    assert target.read_text() == printed
    assert migrate("dump", "--json").json == {"schema": printed}
    ran = migrate("dump", "--output", str(tmp_path / "no" / "x.sql"))
    assert ran.status == 1
    assert "--output takes a file" in ran.err


def test_json_of_a_run_is_the_whole_result(migrate):
    result = migrate("up", "--json").json
    assert set(result) == {
        "direction",
        "batch",
        "dry_run",
        "steps",
        "failure",
        "duration_ms",
        "lock_wait_ms",
        "rehearsal",
    }
    assert result["failure"] is None
    assert [step["name"] for step in result["steps"]] == ["001_users", "002_posts"]


def test_notices_of_the_server_are_logged(migrate, cli, folder, empty_database):
    (folder / "003_n.up.sql").write_text("do $$ begin raise notice 'seen'; end $$")
    ran = cli("-v", "migrate", "up", "--dir", str(folder), env=empty_database.environment)
    assert "NOTICE: seen" in ran.err
    assert "seen" not in migrate("up").err


def test_the_owner_migrates_and_not_the_application(migrate, empty_database):
    migrate("up")
    with connect(empty_database.superuser) as connection:
        found = connection.execute(
            "select distinct tableowner as owner from pg_tables where schemaname = 'public'"
        ).fetchall()
    assert found == [{"owner": "negspace_owner"}]


def test_a_status_imports_little(empty_database, folder, home):
    """What makes it slow stays out: rich, numpy, the pool, the catalog."""
    code = (
        "import sys; from negspace.cli import main;"
        f"assert main(['migrate', 'status', '--dir', {str(folder)!r}]) == 0;"
        "print(sorted({m.split('.')[0] for m in sys.modules}"
        " & {'rich', 'numpy', 'psycopg_pool', 'importlib_metadata'}"
        " | {'negspace.migrate.catalog', 'negspace.migrate.python_tokens'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean_environment(home) | empty_database.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"
