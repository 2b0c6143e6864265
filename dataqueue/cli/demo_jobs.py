"""The jobs of ``dataqueue demo``: the background work of a small shop, with its troubles.

Read it as an example. A worker of your own can go on with it:
``DATAQUEUE_URL=embedded: dataqueue worker dataqueue.cli.demo_jobs:queue``
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TypedDict

from dataqueue import JobContext, JobQueue, NewJob, SyncJobContext

SCHEMA = "dataqueue_demo"
queue = JobQueue.from_url(schema=SCHEMA, key_prefix=SCHEMA)


@dataclass
class Email:
    to: str
    template: str


@dataclass
class Image:
    name: str
    width: int = 200


@dataclass
class Delivery:
    order: int
    url: str


@dataclass
class Payment:
    order: int
    cents: int


@dataclass
class Report:
    month: str
    parts: int = 5


class Thumbnail(TypedDict):
    name: str
    sha256: str


class ServiceUnavailable(Exception):
    """The other side has a bad moment: worth another try."""


class CardDeclined(Exception):
    """No further try would help."""


@queue.job(max_attempts=5, timeout=timedelta(seconds=10))
async def send_email(email: Email) -> str:
    await asyncio.sleep(random.uniform(0.01, 0.06))
    return f"sent {email.template} to {email.to}"


@queue.job(priority=100)
async def reset_password(email: Email) -> str:
    """Someone waits for this one, so it overtakes the rest."""
    return await send_email(email)


@queue.job
def make_thumbnail(image: Image, ctx: SyncJobContext) -> Thumbnail:
    """A plain function: it runs in a thread."""
    digest = hashlib.sha256(image.name.encode() * 10_000).hexdigest()
    time.sleep(random.uniform(0.02, 0.08))
    return {"name": f"{image.name}-{image.width}.webp", "sha256": digest}


@queue.job(max_attempts=4, retry_delay=timedelta(seconds=1), retry_backoff=False)
async def call_webhook(delivery: Delivery, ctx: JobContext) -> int:
    """The partner's server refuses every fourth call at first."""
    await asyncio.sleep(random.uniform(0.02, 0.08))
    if delivery.order % 4 == 0 and ctx.attempt == 1:
        raise ServiceUnavailable(f"503 from {delivery.url}: try again later")
    return 200


@queue.job(priority=10, max_attempts=1)
async def charge_card(payment: Payment) -> str:
    await asyncio.sleep(random.uniform(0.03, 0.1))
    if payment.order % 13 == 0:
        raise CardDeclined(f"order {payment.order}: the bank declined {payment.cents / 100:.2f}")
    return f"receipt-{payment.order}"


@queue.job
async def build_report(report: Report, ctx: JobContext) -> str:
    for part in range(report.parts):
        await asyncio.sleep(random.uniform(0.05, 0.15))
        await ctx.set_progress(100 * (part + 1) / report.parts)
    return f"report-{report.month}.pdf"


@queue.job
async def send_reminder(email: Email) -> str:
    """Added with a delay: not before a moment."""
    return await send_email(email)


@queue.job
async def export_everything(report: Report, ctx: JobContext) -> None:
    """Takes its time. The demo cancels it while it runs."""
    for part in range(report.parts):
        await asyncio.sleep(0.1)
        await ctx.set_progress(100 * (part + 1) / report.parts)


def mixture(count: int, tag: str) -> Iterator[NewJob]:
    """So many jobs as a busy hour of the shop would bring, in a random but repeatable order."""
    rng = random.Random(1)
    for number in range(1, count + 1):
        email = Email(f"customer{number}@example.com", "welcome")
        kind = rng.random()
        if kind < 0.50:
            yield send_email.new(email, tags=[tag])
        elif kind < 0.75:
            yield make_thumbnail.new(Image(f"product-{number}"), tags=[tag])
        elif kind < 0.87:
            delivery = Delivery(number, "https://partner.example/hooks/orders")
            yield call_webhook.new(delivery, tags=[tag])
        elif kind < 0.95:
            yield charge_card.new(Payment(number, rng.randrange(500, 20_000)), tags=[tag])
        elif kind < 0.98:
            delay = timedelta(seconds=rng.uniform(1, 2))
            yield send_reminder.new(email, tags=[tag], delay=delay)
        else:
            yield build_report.new(Report(f"2026-{number % 12 + 1:02d}"), tags=[tag])
