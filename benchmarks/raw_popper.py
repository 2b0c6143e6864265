"""The floor of the latency on Redis: BZPOPMIN, and no more."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import redis


def pop(url: str, key: str, jobs: int) -> list[float]:
    delays: list[float] = []
    client: Any = redis.Redis.from_url(url)
    print(json.dumps("ready"), flush=True)
    while len(delays) < jobs:
        found = client.bzpopmin(key, timeout=5)
        if found is not None:
            delays.append(time.time() - json.loads(found[1])["at"])
    client.close()
    return delays


if __name__ == "__main__":
    print(json.dumps(pop(**json.loads(sys.argv[2]))), flush=True)
