"""The heartbeat's own connection, used from its own thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import RedisError

from dataqueue.backends.base import Held, Pulse, WorkerInfo
from dataqueue.backends.redis.call import Scripts, store_errors
from dataqueue.backends.redis.layout import pack_id
from dataqueue.backends.redis.records import worker_arguments

_PIECE = 1000
"""Jobs asked about in one script call: Redis serves nobody else meanwhile."""


class RedisHeart:
    """One client, made at the first beat and anew after a failure."""

    def __init__(self, make_client: Callable[[], Any], scripts: Scripts, where: str) -> None:
        self._make_client = make_client
        self._scripts = scripts
        self._where = where
        self._client: Any = None

    def beat(self, worker: WorkerInfo, held: Sequence[Held]) -> Pulse:
        answer: list[int] = []
        with store_errors(self._where):
            try:
                if self._client is None:
                    self._client = self._make_client()
                for start in range(0, max(1, len(held)), _PIECE):  # at least once: the lease is renewed
                    arguments = worker_arguments(worker)
                    for job_id, lease_id in held[start : start + _PIECE]:
                        arguments += (pack_id(job_id), lease_id)
                    answer += self._scripts.call_sync(self._client, "beat", *arguments)
            except (RedisError, OSError):
                self.close()
                raise
        lost = [item for item, state in zip(held, answer, strict=True) if state == 0]
        cancelled = [item for item, state in zip(held, answer, strict=True) if state == 2]
        return Pulse(lost, cancelled)

    def close(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            client.close()
