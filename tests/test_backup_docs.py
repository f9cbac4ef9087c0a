"""The examples of docs/backup.md, executed in order."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import clean_environment, programs
from plant import planted, with_programs
from test_migrate_docs import examples

PAGE = Path(__file__).parent.parent / "docs/backup.md"


def steady(text: str, here: Path) -> str:
    """Without what differs from run to run: times, numbers, versions, widths."""
    text = text.replace(str(here), "/srv/negspace")
    text = re.sub(r"^.*: \d+ %\n", "", text, flags=re.MULTILINE)  # progress, where it is slow
    text = re.sub(r"\b[0-9A-F]{24}\b", "WAL", text)
    text = re.sub(r"  +", "  ", re.sub(r"\d[\d.,]*", "N", text))
    text = text.replace("N seal,", "N seals,")
    return re.sub(r" +$", "", text, flags=re.MULTILINE)


@pytest.mark.skipif(
    (found := programs()) is not None and found.major < 17,
    reason="the page takes an incremental backup, which PostgreSQL has since 17",
)
def test_the_examples_of_the_page_do_what_it_says(home):
    plant, here = home / "plant", home / "here"
    plant.mkdir(mode=0o711)
    here.mkdir(mode=0o711)
    environment = clean_environment(plant)
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    commands = 0
    with with_programs(), planted(plant):
        for block in examples("console", PAGE):
            for example in block.split("$ ")[1:]:
                command, _, expected = example.partition("\n")
                done = subprocess.run(
                    ["bash", "-c", f"exec 2>&1; {command}"],
                    cwd=here,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert steady(done.stdout, here) == steady(expected, here), command
                commands += 1
    assert commands == 8
