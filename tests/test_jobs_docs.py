"""docs/jobs.md: its examples in other languages run, and the tests that it names are there."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bench import PATIENCE, Bench

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/jobs.md"
PG = "pg@8.16.3"


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where node finds pg."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text('{"private": true}')  # or npm looks further up
    install = [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefer-offline", PG]
    try:
        subprocess.run(install, cwd=folder, check=True, capture_output=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"{PG} can't be installed from npm: {error}")
    shutil.copy(ROOT / "docs/examples/worker.mjs", folder)
    return folder


def run(node: Path, bench: Bench, *images: int) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        ["node", "worker.mjs", *map(str, images)],
        cwd=node,
        env={"DATABASE_URL": bench.database.app, "PATH": bench.environment["PATH"]},
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done


def test_a_worker_in_javascript_enqueues_listens_claims_and_completes(
    node: Path, bench: Bench
) -> None:
    images = bench.add_images(12)
    done = run(node, bench, *images)
    assert done.stdout.count(": queued\n") == 12
    assert done.stdout.count(": completed\n") == 12
    results = bench.all("select * from analysis_results order by image_id")
    assert [row["image_id"] for row in results] == images
    assert {row["algorithm_name"] for row in results} == {"brightness"}
    assert results[0]["negative_space_data"]["shade"] == images[0] % 256
    [worker] = bench.all("select * from workers")
    assert (worker["jobs_completed"], worker["last_words"]) == (12, "nothing left to do")
    assert worker["sleeping_since"] is None

    again = run(node, bench, *images)
    assert again.stdout.count(": cached\n") == 12
    assert "completed" not in again.stdout


def test_the_tests_it_names_are_there() -> None:
    named = re.findall(r"`(test_\w+)(…?)`", PAGE.read_text("utf-8"))
    assert len(named) > 12
    there = [
        name
        for file in sorted((ROOT / "tests").glob("test_*.py"))
        for name in re.findall(r"^def (test_\w+)", file.read_text("utf-8"), re.M)
    ]
    for name, cut in named:
        assert any(one.startswith(name) if cut else one == name for one in there), name
