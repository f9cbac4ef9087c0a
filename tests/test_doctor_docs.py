"""The page of the doctor: its examples executed, its table the checks themselves."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from conftest import clean_environment
from negspace import doctor
from test_migrate_docs import examples

PAGE = Path(__file__).parent.parent / "docs/doctor.md"


def test_the_examples_do_what_the_page_says(cli, home, tmp_path):
    assert cli("migrate", "up").status == 0
    environment = clean_environment(home)
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    commands = 0
    for block in examples("console", PAGE):
        for example in block.removeprefix("$ ").split("\n$ "):
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
            said = done.stdout + (f"[exit status {done.returncode}]\n" if done.returncode else "")
            assert said.strip() == expected.strip(), command
            commands += 1
    assert commands == 5


def test_the_python_example_runs(database, monkeypatch, tmp_path, capsys):
    (code,) = examples("python", PAGE)
    environment = database.environment | {"NEGSPACE_STORAGE": str(tmp_path)}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    exec(code, {})
    assert "durability: fsync is off" in capsys.readouterr().out


def test_each_check_has_a_test_that_causes_its_fault():
    """``faults`` and ``look`` of tests/doctoring.py name the check; ``well`` doesn't count."""
    tests = "".join(path.read_text("utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    caused = set(re.findall(r"\b(?:faults|look)\(\s*\"([^\"]+)\"", tests))
    assert {check.name for check in doctor.CHECKS} == caused


def test_the_table_is_what_is_checked():
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    lines = [row for row in rows if row[0] not in {"check", "---"}]
    assert lines == [
        (
            f"{check.name} (`--{check.asked}`)" if check.asked else check.name,
            (check.look.__doc__ or "").splitlines()[0],
            check.matters,
        )
        for check in doctor.CHECKS
    ]
