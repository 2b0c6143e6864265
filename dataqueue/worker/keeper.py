"""Where the steps of an attempt are kept: in the store, as the worker that runs the handler reaches it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from dataqueue.errors import LeaseLost, StoreUnavailable
from dataqueue.steps import StepRecord
from dataqueue.tokens import Token, TokenNotFound, TokenSpec
from dataqueue.worker.steps import told

if TYPE_CHECKING:
    from dataqueue.worker.attempt import Attempt

_FIRST_PAUSE, _LAST_PAUSE = 0.1, 2.0
_PATIENCE = 30.0
"""Seconds for which a step that was done is not given up: to record it twice is harmless, to do it twice is not."""


class StoreKeeper:
    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self.job = attempt.job

    async def load_steps(self) -> tuple[list[StepRecord], dict[str, Token], datetime]:
        return await self._attempt.queue.backend.load_steps(self.job.id)

    async def save_step(self, step: StepRecord, token: TokenSpec | None = None) -> None:
        backend = self._attempt.queue.backend
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + _PATIENCE, _FIRST_PAUSE
        while True:
            try:
                stored = await backend.save_step(self.job.id, self.job.lease_id, step, token)
                break
            except StoreUnavailable:
                if loop.time() > until or self._attempt.is_over:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LAST_PAUSE)
        if not stored:
            raise LeaseLost(self.job.id)

    async def read_token(self, token_id: str) -> Token:
        token = await self._attempt.queue.backend.get_token(token_id)
        if token is None:
            raise TokenNotFound(token_id)
        return token

    async def read_jobs(self, job_ids: Sequence[int]) -> list[dict[str, Any]]:
        jobs = [await self._attempt.queue.backend.get_job(job_id) for job_id in dict.fromkeys(job_ids)]
        return [told(job) for job in jobs if job is not None]

    async def store_now(self) -> datetime:
        return await self._attempt.queue.backend.now()
