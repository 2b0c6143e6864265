"""What several files of the suite start from."""

from __future__ import annotations

import pytest

from dataqueue import JobQueue

from .durable_hand import Hand


@pytest.fixture
async def hand(queue: JobQueue) -> Hand:
    hand = Hand(queue, await queue.open())
    await hand.register()
    return hand
