"""The floor of the latency on Postgres: LISTEN, claim, and no more."""

from __future__ import annotations

import json
import sys
import time
from typing import LiteralString, cast

import psycopg

from benchmarks.raw_postgres import CHANNEL, CLAIM_SOME


def listen(url: str, jobs: int, planner: str) -> list[float]:
    delays: list[float] = []
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(cast(LiteralString, planner))
        conn.execute(f"LISTEN {CHANNEL}")
        print(json.dumps("ready"), flush=True)
        while len(delays) < jobs:
            for _ in conn.notifies(timeout=5, stop_after=1):
                pass
            for _, payload in conn.execute(CLAIM_SOME):
                if payload["at"] is not None:
                    delays.append(time.time() - payload["at"])
    return delays


if __name__ == "__main__":
    print(json.dumps(listen(**json.loads(sys.argv[2]))), flush=True)
