"""Dependencies raced: producers, workers, cancels, retries and rescues at once, against a ledger outside the queue."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from chaos.ledger import Fleet, Ledger, Line, draw_seed, fleet
from support import until

from dataqueue import BatchRef, DependsOn, Job, JobHandle, JobQueue, NewJob, StoreUnavailable, Unique
from dataqueue.backends.base import Claimed, Completed, Failed, Outcome, Released, WorkerInfo

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")

LEASE = 2.0
TAGS = [f"tag-{n}" for n in range(4)]
RECENT = 40
"""Of how many jobs, the last that were added, others are made to depend."""
UNFINISHED = 600
"""Jobs beyond which producers wait for workers."""
TYPE = "linked"
_NO_DELAY = timedelta(0)


def now() -> float:
    return time.clock_gettime(time.CLOCK_MONOTONIC)


@dataclass(frozen=True)
class Entry:
    """A job as its producer knows it. Between ``begun`` and ``known`` it was added and committed."""

    id: int
    named: tuple[int, ...]
    by_tags: frozenset[str]
    tags: frozenset[str]
    anyway: bool
    begun: float
    known: float


@dataclass
class Book:
    """What was asked of the queue, outside of it."""

    entries: dict[int, Entry] = field(default_factory=dict[int, Entry])
    undone: list[int] = field(default_factory=list[int])
    """Ids of jobs whose transactions were rolled back."""
    cancelled: set[int] = field(default_factory=set[int])
    retried: set[int] = field(default_factory=set[int])
    """What somebody tried to cancel or to run again, whatever came of it."""
    deadlocks: int = 0
    """Of hand workers' round trips, which they repeat, as a worker does."""

    def recent(self, chance: random.Random, most: int) -> list[int]:
        """Some of the last jobs, in any order."""
        last = list(self.entries)[-RECENT:]
        return chance.sample(last, min(len(last), most))

    def note(self, news: Sequence[NewJob], handles: Sequence[JobHandle[Any]], begun: float) -> None:
        known, ids = now(), [handle.id for handle in handles]
        for new, handle in zip(news, handles, strict=True):
            if not handle.created:
                continue
            given = new.options.get("depends_on")
            depends = given if isinstance(given, DependsOn) else DependsOn(given or ())  # type: ignore[arg-type]
            named = tuple(ids[item.position] if isinstance(item, BatchRef) else item for item in depends.jobs)
            tags = frozenset(new.options.get("tags") or ())
            anyway = depends.on_failure == "run"
            self.entries[handle.id] = Entry(
                handle.id,
                named,  # type: ignore[arg-type]
                frozenset(depends.tags),
                tags,
                anyway,
                begun,
                known,
            )


# -- who adds -------------------------------------------------------------------------------------------


class Producer:
    def __init__(self, queue: JobQueue, book: Book, chance: random.Random, pg_url: str | None) -> None:
        self.queue, self.book, self.chance, self.pg_url = queue, book, chance, pg_url

    async def produce(self, rounds: int) -> None:
        shapes = [self.chained, self.diamond, self.fan_in, self.fan_out, self.web, self.web, self.tagged, self.unique]
        for _ in range(rounds):
            while (await self.unfinished()) > UNFINISHED:
                await asyncio.sleep(0.02)
            news = self.chance.choice(shapes)()
            if self.pg_url is not None and self.chance.random() < 0.4:
                await self.within_a_transaction(self.pg_url, news)
            else:
                begun = now()
                self.book.note(news, list(await self.queue.add_jobs(news)), begun)

    async def unfinished(self) -> int:
        counts = (await self.queue.stats()).by_status
        return counts.get("pending", 0) + counts.get("processing", 0)

    async def within_a_transaction(self, pg_url: str, news: list[NewJob]) -> None:
        """Beside something of the application's own, which takes its time and may come to nothing."""
        commits, begun = self.chance.random() < 0.8, now()
        async with await psycopg.AsyncConnection.connect(pg_url) as conn:
            first = list(await self.queue.add_jobs(news, conn=conn))
            more = [self.job(depends_on=self.depends(5)) for _ in range(3)]
            await asyncio.sleep(self.chance.choice((0, 0.02, 0.2)))
            second = list(await self.queue.add_jobs(more, conn=conn))
            await (conn.commit() if commits else conn.rollback())
        if commits:
            self.book.note(news, first, begun)
            self.book.note(more, second, begun)
        else:
            self.book.undone += [handle.id for handle in (*first, *second) if handle.created]

    def job(self, **options: Any) -> NewJob:
        """One in ten fails with its last attempt."""
        most = self.chance.choice((1, 2, 3))
        fails = self.chance.choices((0, 1, most), (16, 2, 2))[0]
        seconds = self.chance.choice((0, 0, 0.002, 0.01))
        payload = {"fails": fails, "seconds": seconds}
        return NewJob(
            TYPE, payload, {"max_attempts": most, "retry_backoff": False, "retry_delay": _NO_DELAY, **options}
        )

    def depends(self, most: int, jobs: Sequence[Any] = (), tags: Sequence[str] = ()) -> DependsOn:
        on_failure = self.chance.choice(("cancel", "cancel", "run"))
        return DependsOn([*jobs, *self.book.recent(self.chance, most)], tags, on_failure)  # type: ignore[arg-type]

    def chained(self) -> list[NewJob]:
        links = self.chance.randint(2, 6)
        return [self.job(depends_on=[BatchRef(n - 1)]) if n else self.job() for n in range(links)]

    def diamond(self) -> list[NewJob]:
        sides = self.chance.randint(2, 6)
        beside = [self.job(depends_on=self.depends(2, [BatchRef(0)])) for _ in range(sides)]
        return [self.job(), *beside, self.job(depends_on=self.depends(0, [BatchRef(n + 1) for n in range(sides)]))]

    def fan_in(self) -> list[NewJob]:
        count = self.chance.choice((20, 200))
        own = [BatchRef(n) for n in self.chance.sample(range(count), count)]
        plain = [NewJob(TYPE, {"fails": 0, "seconds": 0}, {"max_attempts": 100}) for _ in range(count)]
        return [*plain, *(self.job(depends_on=self.depends(3, own)) for _ in range(2))]

    def fan_out(self) -> list[NewJob]:
        return [self.job(), *(self.job(depends_on=self.depends(1, [BatchRef(0)])) for _ in range(30))]

    def web(self) -> list[NewJob]:
        """Many that share what they wait for, and whom they let wait, in any order."""
        return [self.job(depends_on=self.depends(10, [BatchRef(m) for m in range(n)])) for n in range(8)]

    def tagged(self) -> list[NewJob]:
        before = [self.job(tags=self.chance.sample(TAGS, 2)) for _ in range(3)]
        tags = self.chance.sample(TAGS, self.chance.choice((1, 1, 2)))
        return [*before, *(self.job(tags=tags, depends_on=self.depends(1, (), tags)) for _ in range(2))]

    def unique(self) -> list[NewJob]:
        key = Unique(str(self.chance.randint(1, 3)))
        return [
            self.job(unique=key),
            self.job(unique=key, depends_on=self.depends(3)),
            self.job(depends_on=[BatchRef(0)]),
        ]


# -- who works and who disturbs ---------------------------------------------------------------------------


class HandWorker:
    """A worker that takes many jobs at a time and tells of their ends in any order, with one word for many."""

    def __init__(self, queue: JobQueue, name: str, book: Book, ledger: Ledger, chance: random.Random) -> None:
        self.queue, self.name, self.book, self.ledger, self.chance = queue, name, book, ledger, chance
        self.lives = 0

    async def work(self, over: asyncio.Event) -> None:
        backend = await self.queue.open()
        worker = await self.sign_on()
        held: list[Claimed] = []
        outcomes: list[Outcome] = []
        while not over.is_set():
            try:
                cycle = await backend.cycle(worker, outcomes, [TYPE], self.chance.choice((3, 20, 100)), True)
            except StoreUnavailable as error:
                assert isinstance(error.__cause__, psycopg.errors.DeadlockDetected), error
                self.book.deadlocks += 1
                continue
            for outcome in outcomes:
                if (outcome.id, outcome.lease_id) in cycle.lost:
                    self.ledger.note("refused", job=outcome.id, lease=outcome.lease_id)
            held += cycle.jobs
            for job in cycle.jobs:
                self.ledger.note("start", job=job.id, lease=job.lease_id, worker=worker, attempt=job.attempts)
            if held and self.chance.random() < 0.02:
                held, outcomes, worker = [], [], await self.die(worker)
                continue
            self.chance.shuffle(held)
            ending = self.chance.randint(0, len(held))
            outcomes, held = [self.end(job) for job in held[:ending]], held[ending:]
            await asyncio.sleep(0.002 if cycle.jobs or outcomes else 0.02)

    def end(self, job: Claimed) -> Outcome:
        if self.chance.random() < 0.02:
            return Released(job.id, job.lease_id)
        if job.attempts > json.loads(job.payload)["fails"]:
            self.ledger.note("end", job=job.id, lease=job.lease_id)
            return Completed(job.id, job.lease_id)
        retry_ms = 0 if job.attempts < job.max_attempts else None
        return Failed(job.id, job.lease_id, "no", "handler_error", retry_ms)

    async def sign_on(self) -> str:
        self.lives += 1
        name = f"{self.name}-{self.lives}"
        assert await (await self.queue.open()).register_worker(_info(name, 3600.0))
        return name

    async def die(self, worker: str) -> str:
        """Its jobs are lost; another one takes its place."""
        heart = (await self.queue.open()).heart()
        await asyncio.to_thread(heart.beat, _info(worker, 0.0), [])
        heart.close()
        return await self.sign_on()


def _info(name: str, lease: float) -> WorkerInfo:
    return WorkerInfo(name, "host", 1, (TYPE,), 100, "0", lease)


async def disturb(queue: JobQueue, book: Book, chance: random.Random, over: asyncio.Event) -> None:
    """Somebody who cancels what others wait for, and runs again what has ended; several at a time, in any order."""
    while not over.is_set():
        await asyncio.sleep(chance.choice((0, 0.005, 0.02)))
        chosen = book.recent(chance, chance.choice((1, 1, 5)))
        match chance.choice(("cancel", "retry", "retry failed", "edit")):
            case "cancel":
                book.cancelled.update(chosen)
                await queue.cancel_jobs(chosen)
            case "retry":
                book.retried.update(chosen)
                await queue.retry_jobs(chosen)
            case "retry failed":
                found = await queue.get_jobs(status=["failed", "cancelled"], limit=20)
                ids = [job.id for job in chance.sample(found, min(3, len(found)))]
                book.retried.update(ids)
                await queue.retry_jobs(ids)
            case _:
                for job_id in chosen:
                    await queue.edit_job(job_id, priority=chance.randint(-5, 5))


async def rescue(queue: JobQueue, over: asyncio.Event) -> None:
    backend = await queue.open()
    while not over.is_set():
        await backend.reclaim_expired(100)
        await asyncio.sleep(0.05)


# -- the campaign -----------------------------------------------------------------------------------------


async def campaign(
    make_queue: Callable[..., JobQueue], store_url: str, workers: Fleet, chance: random.Random, rounds: int, kills: int
) -> None:
    book, ledger = Book(), workers.ledger
    pg_url = store_url if store_url.startswith("postgres") else None
    queue = make_queue(max_connections=10)
    over, quiet = asyncio.Event(), asyncio.Event()

    def drawn() -> random.Random:
        return random.Random(chance.random())

    async def kill() -> None:
        for _ in range(kills):
            name = workers.start(concurrency=20)
            await until(lambda name=name: ledger.lines("start", worker=name), f"a start of {name}")
            await asyncio.sleep(chance.uniform(0, 0.1))
            workers.send(name, signal.SIGKILL)

    async def add() -> None:
        producers = [Producer(make_queue(max_connections=4), book, drawn(), pg_url) for _ in range(3)]
        async with asyncio.TaskGroup() as tasks:
            for producer in producers:
                tasks.create_task(producer.produce(rounds))
            tasks.create_task(kill())
        quiet.set()

    async def all_ended() -> bool:
        counts = (await queue.stats()).by_status
        if counts.get("pending", 0) + counts.get("processing", 0) + counts.get("waiting", 0):
            return False
        return all(job.is_finished for job in await everything(queue, status="failed"))

    async with asyncio.TaskGroup() as tasks:
        for name in ("hand-a", "hand-b", "hand-c"):
            hand = HandWorker(make_queue(max_connections=2), name, book, ledger, drawn())
            tasks.create_task(hand.work(over))
        tasks.create_task(rescue(queue, over))
        disturbing = [tasks.create_task(disturb(make_queue(max_connections=4), book, drawn(), quiet)) for _ in range(2)]
        await add()
        await asyncio.wait(disturbing)  # the last that it runs again shall end, too
        try:
            await until(all_ended, "the end of every job")
        finally:
            over.set()
    await compare(queue, book, ledger)
    await nothing_is_left(queue, pg_url)
    started = len(ledger.lines("start"))
    print(f"{len(book.entries)} jobs, {started} starts, {len(book.retried)} retried, {book.deadlocks} deadlocks")


async def everything(queue: JobQueue, **where: Any) -> list[Job]:
    found: list[Job] = []
    page = await queue.get_jobs(limit=1000, **where)
    while page:
        found += page
        if page.next_cursor is None:
            break
        page = await queue.get_jobs(limit=1000, cursor=page.next_cursor, **where)
    return found


async def compare(queue: JobQueue, book: Book, ledger: Ledger) -> None:
    """Nothing lost, nothing begun too early, nothing run after what it waited for had failed, attempts counted once."""
    jobs = {job.id: job for job in await everything(queue)}
    assert set(jobs) == set(book.entries), "lost, or stored by a transaction that was rolled back"
    assert not set(jobs) & set(book.undone)
    starts, ends, refused = defaultdict(list[Line]), defaultdict(list[Line]), set[int]()
    for line in ledger.lines():
        if line["what"] == "refused":
            refused.add(line["lease"])
        elif "job" in line:
            {"start": starts, "end": ends}.get(line["what"], defaultdict(list[Line]))[line["job"]].append(line)
    done = {number: [line["at"] for line in lines if line["lease"] not in refused] for number, lines in ends.items()}
    for entry in book.entries.values():
        job, events = jobs[entry.id], [event.event_type for event in await queue.get_job_events(entry.id)]
        try:
            assert job.is_finished and not job.blocked, "not ended"
            counted = events.count("processing") - events.count("released")
            asked = events.count(
                "cancel_requested"
            )  # who hands such a job back ends it, and the attempt does not count
            assert counted - asked <= job.attempts <= counted, "an attempt is counted once"
            leases = [line["lease"] for line in starts[job.id]]
            assert len(leases) == len(set(leases)) <= events.count("processing"), "a start without a claim"
            _compare_cancel(job, jobs, book)
            if job.id not in book.retried:
                begun = min((line["at"] for line in starts[job.id]), default=None)
                _compare_order(job, entry, "processing" in events, begun, jobs, done, book)
        except AssertionError as error:
            around = [jobs[number] for number in (entry.id, *entry.named)]
            told = "\n".join(f"  {one.id} {one.status} {ends[one.id]}" for one in around)
            raise AssertionError(f"job {job.id}: {error}\n{entry}\n{events}\n{starts[job.id]}\n{told}") from None


def _compare_cancel(job: Job, jobs: dict[int, Job], book: Book) -> None:
    """Who is cancelled was so by somebody, or since one that it waited for ended badly."""
    if job.status != "cancelled" or job.id in book.cancelled:
        return
    root = job.cascade_root
    assert root is not None and not job.runs_anyway, "cancelled by nobody"
    assert root in book.retried or jobs[root].status in ("failed", "cancelled"), (
        f"cancelled by {root}, which ended well"
    )


def _compare_order(
    job: Job,
    entry: Entry,
    claimed: bool,
    begun: float | None,
    jobs: dict[int, Job],
    done: dict[int, list[float]],
    book: Book,
) -> None:
    """Of a job that nobody has run again."""
    for number in entry.named:
        before = jobs[number]
        well = before.status == "completed"
        if begun is not None and (well or not entry.anyway) and not (entry.anyway and number in book.retried):
            assert any(at < begun for at in done.get(number, ())), f"begun before {number} had completed"
        if number not in book.retried and not well and not entry.anyway:
            assert not claimed and job.status == "cancelled", f"it ran though {number} had ended badly"
    if begun is None or not entry.by_tags:
        return
    for other in book.entries.values():
        if entry.by_tags <= other.tags and other.known < entry.begun and other.id not in book.retried:
            if jobs[other.id].status != "completed":
                continue  # it may have ended before
            times = done.get(other.id, ())
            assert any(at < begun for at in times), f"begun before {other.id} of its tag had completed"


async def nothing_is_left(queue: JobQueue, pg_url: str | None) -> None:
    if pg_url is not None:
        async with await psycopg.AsyncConnection.connect(pg_url) as conn:
            rows = await (await conn.execute("SELECT * FROM dataqueue_dependencies")).fetchall()
            assert rows == [], "somebody waits still"
    else:
        backend: Any = queue.backend
        for name, count in (("dp", "zcard"), ("un", "hlen"), ("cq", "zcard"), ("uq", "zcard")):
            assert await getattr(backend.client, count)(backend.key(name)) == 0, name
    assert [finding for finding in await queue.doctor(deep=True) if finding.level == "error"] == []


async def test_dependencies_under_load(make_queue: Callable[..., JobQueue], store_url: str, tmp_path: Path) -> None:
    with fleet(store_url, tmp_path, LEASE) as workers:
        await campaign(make_queue, store_url, workers, draw_seed(long=False), rounds=12, kills=1)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
async def test_dependencies_under_load_for_long(
    make_queue: Callable[..., JobQueue], store_url: str, tmp_path: Path
) -> None:
    with fleet(store_url, tmp_path, LEASE) as workers:
        await campaign(make_queue, store_url, workers, draw_seed(long=True), rounds=150, kills=20)
