"""The examples of docs/migrate.md, executed in order."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from conftest import clean_environment
from negspace import migrate

PAGE = Path(__file__).parent.parent / "docs/migrate.md"


def examples(kind: str, page: Path = PAGE) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def timeless(text: str) -> str:
    """Without what differs from run to run: times, durations, and the widths they ask for."""
    text = re.sub(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+00:00  \d+$", "TIME  MS", text, flags=re.MULTILINE
    )
    return re.sub(r"\b\d+(\.\d+)? (ms|s)\b", r"N \2", text)


def test_the_examples_of_the_page_do_what_it_says(empty_database, tmp_path, home):
    environment = clean_environment(home) | {"DATABASE_URL": empty_database.superuser}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    commands = 0
    for block in examples("console"):
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
            said = done.stdout + (f"[exit status {done.returncode}]\n" if done.returncode else "")
            assert timeless(said) == timeless(expected), command
            commands += 1
    assert commands > 10


def test_the_python_example_runs(empty_database, tmp_path, monkeypatch):
    migrate.new(tmp_path / "migrations", "one")
    monkeypatch.chdir(tmp_path)
    (code,) = examples("python")
    names: dict[str, object] = {"address": empty_database.owner}
    exec(code, names)
    assert isinstance(names["result"], migrate.RunResult)
    assert names["result"].ok
