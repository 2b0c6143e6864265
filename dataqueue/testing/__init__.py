"""For tests of applications that use dataqueue: run what is due, ask what was added, let time pass.

With pytest installed, its fixtures are there by themselves (:mod:`dataqueue.testing.plugin`): a server of the tests' own,
an empty store for each test, and ``dataqueue_bind``, which lets the application's queue use it. The functions here work
with any test runner. Each takes a queue first and is as blocking as the queue is: ``await`` it for a
:class:`dataqueue.JobQueue`, call it for a :class:`dataqueue.SyncJobQueue`.
"""

from __future__ import annotations

from dataqueue.testing.added import assert_enqueued, assert_not_enqueued, enqueued
from dataqueue.testing.binding import blocking, bound
from dataqueue.testing.clock import advance_clock
from dataqueue.testing.drain import Drained, drain

__all__ = [
    "Drained",
    "advance_clock",
    "assert_enqueued",
    "assert_not_enqueued",
    "blocking",
    "bound",
    "drain",
    "enqueued",
]
