"""Small helps with tasks and loops."""

from __future__ import annotations

import asyncio
from typing import Any

_AGAIN_AFTER = 1.0


async def end_tasks(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel tasks and wait until they have ended, however they end.

    A cancel that comes just when what a task waits for is there may be swallowed by a client library on the way:
    it is given again until the task has ended.
    """
    left = {task for task in tasks if task is not None}
    while left:
        for task in left:
            task.cancel()
        ended, left = await asyncio.wait(left, timeout=_AGAIN_AFTER)
        for task in ended:
            if not task.cancelled():
                task.exception()  # it was told to end: how it took that interests nobody


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop that runs in this thread, if any."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
