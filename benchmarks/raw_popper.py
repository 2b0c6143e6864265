"""The floor of the latency on Redis: BZPOPMIN by the asyncio client that the worker uses, and no more."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import redis.asyncio


async def pop(url: str, key: str, jobs: int) -> list[float]:
    delays: list[float] = []
    client: Any = redis.asyncio.Redis.from_url(url)
    await client.ping()
    print(json.dumps("ready"), flush=True)
    while len(delays) < jobs:
        found = await client.bzpopmin(key, timeout=5)
        if found is not None:
            delays.append(time.time() - json.loads(found[1])["at"])
    await client.aclose()
    return delays


if __name__ == "__main__":
    print(json.dumps(asyncio.run(pop(**json.loads(sys.argv[2])))), flush=True)
