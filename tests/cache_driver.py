"""Processes of a test, of many threads each, that ask one cache for many keys.

python tests/cache_driver.py ADDRESS PROCESSES THREADS KEYS [die]    each says a line of JSON

The processes are forked before anything is opened. Each computation leaves a row in the table
``computed``. With ``die`` the process says "computing" and computes for ever, to be killed.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from datetime import timedelta

from negspace import database
from negspace.cache import Cache
from negspace.database import Database, PoolSize

TTL = timedelta(hours=1)


def compute(address: str, key: int) -> dict[str, int]:
    """Slow enough that the others come meanwhile."""
    with database.connect(address) as connection:
        connection.execute("insert into computed values (%s, %s)", [key, os.getpid()])
    time.sleep(0.02)
    return {"key": key}


def ask(address: str, cache: Cache, keys: list[int], wrong: list[object]) -> None:
    random.shuffle(keys)
    for key in keys:
        found = cache.get_or_compute(f"key:{key}", lambda key=key: compute(address, key), ttl=TTL)
        if found != {"key": key}:
            wrong.append(found)


def for_ever() -> None:
    print("computing", flush=True)
    time.sleep(600)


def one(address: str, threads: int, keys: int, *, dies: bool) -> None:
    with Database(address, pool=PoolSize(1, threads)) as opened, Cache(opened) as cache:
        if dies:
            with Cache(opened, lease=timedelta(seconds=1)) as mortal:
                mortal.get_or_compute("key:0", for_ever, ttl=TTL)
        wrong: list[object] = []
        running = [
            threading.Thread(target=ask, args=(address, cache, list(range(keys)), wrong))
            for _ in range(threads)
        ]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
    sys.stdout.write(json.dumps({"wrong": wrong}) + "\n")  # at once: others write there too
    sys.stdout.flush()


def main() -> None:
    address, processes, threads, keys = sys.argv[1], *map(int, sys.argv[2:5])
    children: list[int] = []
    for _ in range(processes - 1):
        child = os.fork()
        if not child:
            children.clear()
            random.seed()
            break
        children.append(child)
    one(address, threads, keys, dies=sys.argv[5:] == ["die"])
    failed = [child for child in children if os.waitpid(child, 0)[1]]
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
