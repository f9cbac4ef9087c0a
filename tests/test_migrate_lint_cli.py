"""``negspace migrate lint``, and what ``up`` and ``validate`` make of it, as processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import clean_environment
from negspace.database import connect
from test_migrate_docs import examples, timeless

PAGE = Path(__file__).parent.parent / "docs/lint.md"
REFUSED = "create type color as enum ('red'); create table paint (color color);"


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "001_x.up.sql").write_text("drop type color cascade;")
    (tmp_path / "001_x.down.sql").write_text("select 1;")
    return tmp_path


@pytest.fixture
def migrate(cli, empty_database, folder):
    with connect(empty_database.owner, autocommit=True) as connection:
        connection.execute(REFUSED.encode())

    def call(verb: str, *arguments: str):
        return cli(
            "migrate", verb, "--dir", str(folder), *arguments, env=empty_database.environment
        )

    return call


def test_an_error_exits_3_with_its_place_and_remedy(migrate, folder):
    ran = migrate("lint")
    assert ran.status == 3
    place = f"{folder}/001_x.up.sql:1:1"
    said = f"{place}: error: still-used: type color takes along: column color of table paint"
    assert f"{said}\n  hint: drop or change those first, by name\n" in ran.out
    found = migrate("lint", "--json")
    assert found.status == 3
    assert (found.json["ok"], found.json["findings"][-1]["rule"]) == (False, "still-used")


def test_up_and_validate_refuse_it_and_touch_nothing(migrate, folder):
    ran = migrate("up")
    assert ran.status == 3
    assert f"{folder}/001_x.up.sql:1:1: still-used" in ran.err
    assert "allow still-used because" in ran.err
    assert migrate("status", "--json").json[0]["state"] == "pending"
    ran = migrate("validate")
    assert ran.status == 3
    assert "001_x.up.sql:1:1: still-used" in ran.out
    assert migrate("validate", "--offline").status == 0
    ran = migrate("up", "--no-lint")
    assert ran.status == 0


def test_a_reason_lets_it_pass(migrate, folder):
    file = folder / "001_x.up.sql"
    file.write_text(f"-- negspace: allow still-used because paint goes next\n{file.read_text()}")
    ran = migrate("lint", "--strict")
    assert ran.status == 3  # squawk's own warning of the drop is left
    assert "ban-drop-type" in ran.out
    assert "1 allowed by the files" in ran.out
    ran = migrate("up")
    assert ran.status == 0
    assert "warning: ban-drop-type" in ran.err
    assert migrate("lint").out == "nothing pending\n"


def test_the_thresholds_are_options(migrate, folder, empty_database):
    with connect(empty_database.owner, autocommit=True) as connection:
        connection.execute(
            b"create table big as select n, repeat('x', 100) as c"
            b" from generate_series(1, 20000) as n; analyze big"
        )
    (folder / "001_x.up.sql").write_text("create index big_n on big (n);")
    assert "blocks-large-table" in migrate("lint", "--large-table", "1").out
    assert "blocks-large-table" not in migrate("lint").out
    for_ever = ("lint", "--lock-timeout", "0", "--hot-table")
    assert "missing-lock-timeout" in migrate(*for_ever, "0").out
    assert "missing-lock-timeout" not in migrate(*for_ever, "1e9").out
    assert "missing-lock-timeout" not in migrate("lint", "--hot-table", "0").out


def test_nothing_to_do_starts_no_squawk(migrate, empty_database, folder, home):
    (folder / "001_x.up.sql").write_text("select 1;")
    assert migrate("up").status == 0
    code = (
        "import sys; from negspace.cli import main;"
        "assert main(['migrate', sys.argv[1], '--dir', sys.argv[2]]) == 0;"
        "print([m for m in sys.modules if m.endswith(('migrate.lint', 'migrate.squawk'))])"
    )
    for verb in ("up", "status"):
        done = subprocess.run(
            [sys.executable, "-c", code, verb, str(folder)],
            env=clean_environment(home) | empty_database.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.splitlines()[-1] == "[]"
    (folder / "002_y.up.sql").write_text("select 1;")
    done = subprocess.run(
        [sys.executable, "-c", code, "up", str(folder)],
        env=clean_environment(home) | empty_database.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "negspace.migrate.squawk" in done.stdout.splitlines()[-1]


def test_the_examples_of_the_page_do_what_it_says(empty_database, tmp_path, home):
    environment = clean_environment(home) | empty_database.environment
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    (block,) = examples("console", PAGE)
    for example in block.split("$ ")[1:]:
        command, _, expected = example.partition("\n")
        done = subprocess.run(
            ["bash", "-c", f"exec 2>&1; {command}"],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert timeless(done.stdout) == timeless(expected), command


def test_the_python_example_runs(empty_database, tmp_path, monkeypatch):
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations/001_x.up.sql").write_text("create table x (a text)")
    monkeypatch.chdir(tmp_path)
    (code,) = examples("python", PAGE)
    names: dict[str, object] = {"address": empty_database.owner}
    exec(code, names)
    assert names["applied"].ok
