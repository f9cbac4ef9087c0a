"""Runners as processes of their own, to be killed at a point that a test names."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from conftest import clean_environment

DRIVER = Path(__file__).parent / "kill_driver.py"


class Drivers:
    """A driver for each thread, each a process that forks runners."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._mine = threading.local()
        self._all: list[subprocess.Popen[str]] = []

    def run(self, address: str, folder: Path, **more: Any) -> dict[str, Any]:
        driver = self._driver()
        assert driver.stdin
        assert driver.stdout
        print(json.dumps({"address": address, "folder": str(folder), **more}), file=driver.stdin)
        driver.stdin.flush()
        return json.loads(driver.stdout.readline())

    def _driver(self) -> subprocess.Popen[str]:
        if not hasattr(self._mine, "driver"):
            self._mine.driver = subprocess.Popen(
                [sys.executable, str(DRIVER)],
                env=clean_environment(self._home),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            self._all.append(self._mine.driver)
        return self._mine.driver

    def close(self) -> None:
        for driver in self._all:
            driver.communicate(timeout=60)
