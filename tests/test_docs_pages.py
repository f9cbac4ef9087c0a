"""The tutorial is followed, the common queries are asked, the site is built."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import skimage

from conftest import clean_environment
from negspace import database as db
from negspace import migrate
from negspace.database import Database
from negspace.generate import Plan, generate
from test_migrate_docs import examples

DOCS = Path(__file__).parent.parent / "docs"
PICTURES = Path(skimage.__file__).parent / "data"


def fits(said: str, expected: str) -> bool:
    """Whether it is what the page says; … stands for anything."""
    pattern = ".*?".join(re.escape(part.strip(" ")) for part in expected.strip().split("…"))
    spaced = re.sub(r"(\\ )+", r"\\s+", pattern)
    return re.fullmatch(spaced, said.strip(), re.DOTALL) is not None


def test_what_fits_and_what_does_not():
    assert fits("a 1\nb\nc", "a …\nc")
    assert not fits("a 1\nb\nd", "a …\nc")
    assert not fits("more\na", "a")


def test_the_tutorial_leads_where_it_says(home, tmp_path):
    place = tmp_path / "work"
    (place / "dark").mkdir(parents=True)
    for name in ("coins.png", "moon.png"):
        shutil.copy(PICTURES / name, place)
    page = DOCS / "tutorial.md"
    (place / "dark/dark.py").write_text(examples("python", page)[0])
    (place / "dark/pyproject.toml").write_text(examples("toml", page)[0])
    site = tmp_path / "site"
    # What the page calls pip: without a network, and not into the environment of the tests.
    pip = tmp_path / "bin/pip"
    pip.parent.mkdir()
    pip.write_text(
        f'#!/bin/sh\nexec {sys.executable} -m pip "$@" --no-deps --no-build-isolation'
        f" --no-index --target {site}\n"
    )
    pip.chmod(0o755)
    environment = clean_environment(home) | {
        "NEGSPACE_USER": "ada@example.org",
        "PATH": f"{pip.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(site),
        "COLUMNS": "200",
    }
    commands = [c for block in examples("console", page) for c in block.split("$ ")[1:]]
    try:
        for example in commands:
            command, _, expected = example.partition("\n")
            without = environment | ({"NEGSPACE_USER": ""} if "users add" in command else {})
            done = subprocess.run(
                ["bash", "-c", f"exec 2>&1; {command}"],
                cwd=place,
                env={name: value for name, value in without.items() if value},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            assert fits(done.stdout, expected), f"{command}\n{done.stdout}"
    finally:
        subprocess.run(
            [sys.executable, "-m", "negspace", "server", "stop"], env=environment, check=False
        )
    assert len(commands) > 12


@pytest.fixture(scope="module")
def filled(postgres, template):
    """A database with a year of data, up to tomorrow, and something that was copied out."""
    made = postgres.create(template)
    with Database(made.owner) as connected:
        plan = Plan(images=1500, events=4000, metrics=20_000, users=12)
        generate(
            connected, Plan(**vars(plan) | {"until": (datetime.now(UTC) + timedelta(1)).date()})
        )
    yield made
    postgres.drop(made.name)


def drawn(number: int) -> dict[str, int]:
    return {"drawn": number}


@pytest.mark.parametrize(
    "page", ["README.md", *(f"docs/{n}.md" for n in ("analysis", "cache", "jobs", "metrics"))]
)
def test_a_python_example_runs(page, bench, monkeypatch):
    (code,) = examples("python", DOCS.parent / page)
    for name, value in bench.environment.items():
        monkeypatch.setenv(name, value)
    given = {
        "database": bench.services,
        "draw": drawn,
        "durations": [3.0, 4.0],
        "image_id": bench.add_image(),
        "pixels": skimage.data.coins(),
        "yesterday": datetime.now(UTC) - timedelta(1),
    }
    names = dict(given)
    exec(compile(code, page, "exec"), names)
    assert set(names) - set(given) - {"__builtins__"}, "something came of it"


def test_the_linter_s_example_runs(empty_database, tmp_path, monkeypatch):
    migrate.new(tmp_path / "migrations", "one")
    monkeypatch.chdir(tmp_path)
    (code,) = examples("python", DOCS / "lint.md")
    names = {"address": empty_database.owner}
    exec(compile(code, "docs/lint.md", "exec"), names)
    assert names["applied"].ok


QUERIES = examples("sql", DOCS / "queries.md")


@pytest.mark.parametrize("query", QUERIES, ids=[q.split("from ")[-1][:30].strip() for q in QUERIES])
def test_a_common_query_finds_something(filled, query):
    with db.connect(filled.owner) as connection:
        assert connection.execute(query.encode()).fetchall(), query


def test_the_site_is_built_and_its_links_lead_somewhere(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path / "site")],
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        cwd=DOCS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for page in DOCS.glob("*.md"):
        built = tmp_path / "site" / ("" if page.stem == "index" else page.stem) / "index.html"
        assert built.exists(), page.name
