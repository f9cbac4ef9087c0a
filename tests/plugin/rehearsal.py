"""An analyser that behaves as its parameters say: takes its time, fails, kills its process."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from negspace.analysis import Analysis
from negspace.errors import AnalysisError, InvalidInputError

log = logging.getLogger("somebody.elses")

DEFAULTS: dict[str, Any] = {
    # well | sleep | nap | hold | break | refuse | flaky | die | abort | mutter | gorge
    # reserve | speak
    "behave": "well",
    "mark": "",  # a folder: a file is made there whenever a computation begins
    "until": "",  # sleep lasts until this file exists
    "ms": 0,  # a nap's length; lines that are spoken
}


class Rehearsal:
    """See DEFAULTS."""

    name = "rehearsal"
    version = "1.0.0"
    schema: ClassVar[dict[str, Any]] = {"type": "object"}
    profiles: ClassVar[dict[str, dict[str, Any]]] = {"fast": {}}

    def resolve(self, parameters: Any) -> dict[str, Any]:
        for name in parameters:
            if name not in DEFAULTS:
                raise InvalidInputError(f"no parameter {name!r}", hint=", ".join(DEFAULTS))
        return DEFAULTS | dict(parameters)

    def analyze(self, image: Any, parameters: Any) -> Analysis:
        if parameters["mark"]:
            Path(parameters["mark"], f"{os.getpid()}-{time.time_ns()}").touch()
        self._behave(parameters["behave"], parameters)
        pixels = image.read()
        return Analysis.checked(
            negative_space_data={"schema": "rehearsal/1", "darkest": int(pixels.min())},
            anomalies=[],
            confidence_score=0.5,
            quality_metrics={"mean": float(pixels.mean())},
            mask=pixels.reshape(*pixels.shape[:2], -1)[:, :, 0] < 100,
            provenance={"analyzer": self.name},
        )

    def _behave(self, how: str, parameters: Any) -> None:
        wait = 30.0 if parameters["until"] else 0.0
        deadline = time.monotonic() + wait
        if how == "break":
            raise AnalysisError("this analysis always breaks")
        if how == "nap":
            time.sleep(parameters["ms"] / 1000)
        if how in ("speak", "die"):
            for number in range(parameters["ms"]):
                log.info("line %s", number)
        if how == "gorge":
            kept = [np.ones(2**21) for _ in range(128)]  # 2 GB, touched
            assert kept
        if how == "reserve":
            kept = [np.empty(2**21) for _ in range(128)]
            assert kept
        if how == "mutter":
            print("muttered on stderr", file=sys.stderr)
        if how == "abort":  # as the C library does when the heap is broken
            kept = np.ones(2**24)  # 128 MB, touched
            assert kept.size
            os.write(2, b"free(): invalid pointer\n")
            time.sleep(0.5)
            os.abort()
        if how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "flaky" and len(list(Path(parameters["mark"]).iterdir())) < 3:
            raise RuntimeError("the weather was bad")
        if how == "hold":  # a foreign call that doesn't come back to the interpreter for long
            hashlib.pbkdf2_hmac("sha256", b"", b"", 200_000_000)
        if how == "sleep" and parameters["ms"]:
            log.info("waiting")
        while how == "sleep" and time.monotonic() < deadline:
            if Path(parameters["until"]).exists():
                break
            time.sleep(0.01)
