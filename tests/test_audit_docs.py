"""The examples of docs/audit.md, executed in order."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import images_on_disk as disk
from conftest import clean_environment
from tampering import settle
from test_migrate_docs import examples

PAGE = Path(__file__).parent.parent / "docs/audit.md"


def without_hashes(text: str) -> str:
    return re.sub(r"\b[0-9a-f]{64}\b", "HASH", text)


def test_the_examples_of_the_page_do_what_it_says(services, database, tmp_path, home):
    environment = clean_environment(home) | database.environment
    disk.png(tmp_path / "m51.png")
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    commands = 0
    for block in examples("console", PAGE):
        for example in block.split("$ ")[1:]:
            command, _, expected = example.partition("\n")
            settle(services)
            done = subprocess.run(
                ["bash", "-c", f"exec 2>&1; {command}"],
                cwd=tmp_path,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            assert without_hashes(done.stdout) == without_hashes(expected), command
            commands += 1
    assert commands == 17
