"""Each measurement: ours, raw, ours, raw, … in empty places, so that a noisy minute hits both."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from benchmarks import work
from benchmarks.report import Figure, Limit
from benchmarks.store import Store


@dataclass(frozen=True, slots=True)
class Counts:
    """How much work a measurement is."""

    single: int = 5_000
    bulk: int = 50_000
    drain: int = 20_000
    latency: int = 300
    memory: int = 1_000_000
    history: int = 1_000_000


QUICK = Counts(single=1_500, bulk=20_000, drain=10_000, latency=100, memory=200_000, history=200_000)
GAP = 0.02
SLEEP = 0.002
TURNS = 10


@dataclass(frozen=True, slots=True)
class Bench:
    """A store, the amount of work, and how often."""

    store: Store
    counts: Counts
    rounds: int
    tell: Callable[[str], None]

    def each_round(self, name: str, rounds: int | None = None) -> Iterable[int]:
        rounds = rounds or self.rounds
        for number in range(1, rounds + 1):
            self.tell(f"{name}: round {number} of {rounds}")
            yield number


Measure = Callable[[Bench], list[Figure]]


def single(bench: Bench) -> list[Figure]:
    figure = Figure("single add", "/s", *bench.store.limits["single"])
    # Each add waits for the disk, whose pace changes within seconds: many short turns instead of two long ones.
    turn = bench.counts.single // TURNS
    for _ in bench.each_round("single"):
        with bench.store.fresh() as place, bench.store.fresh() as raw_place:
            bench.store.settle(place)
            bench.store.settle(raw_place)
            pairs = [(work.single(place, turn), bench.store.raw_single(raw_place, turn)) for _ in range(TURNS)]
            bench.store.check_added(place, turn * TURNS)
            bench.store.check_added(raw_place, turn * TURNS)
        ours, raw = zip(*pairs, strict=True)
        figure.add(statistics.harmonic_mean(ours), statistics.harmonic_mean(raw))
    return [figure]


def bulk(bench: Bench) -> list[Figure]:
    figure = Figure("bulk add", "/s", *bench.store.limits["bulk"])
    for _ in bench.each_round("bulk"):
        figure.add(
            _adding(bench, work.bulk, bench.counts.bulk), _adding(bench, bench.store.raw_bulk, bench.counts.bulk)
        )
    return [figure]


def drain(bench: Bench) -> list[Figure]:
    return _draining(bench, drain=True, sleep=False)


def sleep(bench: Bench) -> list[Figure]:
    return _draining(bench, drain=False, sleep=True)


def drain_and_sleep(bench: Bench) -> list[Figure]:
    return _draining(bench, drain=True, sleep=True)


def _draining(bench: Bench, *, drain: bool, sleep: bool) -> list[Figure]:
    """Both are measured against the same raw drain."""
    drains = Figure("drain", "/s", *bench.store.limits["drain"])
    sleeps = Figure("drain, 2 ms sleep", "/s", *bench.store.limits["sleep"])
    memory = Figure("worker memory", "MB", Limit(), Limit(at_most=60))
    cost = Figure("CPU s per 1,000 jobs", "s", Limit(), Limit(at_most=0.03))
    for _ in bench.each_round("drain" if drain else "sleep"):
        ours = _our_drain(bench, None) if drain else None
        raw = _raw_drain(bench)
        if ours is not None:
            drains.add(ours["rate"], raw)
            memory.add(ours["megabytes"])
            cost.add(ours["cpu"])
        if sleep:
            sleeps.add(_our_drain(bench, SLEEP)["rate"], raw)
    return [*([drains] if drain else []), *([sleeps] if sleep else []), *([memory, cost] if drain else [])]


def latency(bench: Bench) -> list[Figure]:
    middle = Figure("pick-up p50", "ms", *bench.store.limits["latency"])
    tail = Figure("pick-up p99", "ms", Limit(), bench.store.limits["latency"][1])
    jobs = bench.counts.latency
    for _ in bench.each_round("latency"):
        with bench.store.fresh() as place:
            ours = work.latencies(place, jobs, GAP)
        with bench.store.fresh() as place:
            raw = bench.store.raw_latencies(place, jobs, GAP)
        middle.add(_percentile(ours, 50) * 1000, _percentile(raw, 50) * 1000)
        tail.add(_percentile(ours, 99) * 1000, _percentile(raw, 99) * 1000)
    return [middle, tail]


def memory(bench: Bench) -> list[Figure]:
    figure = Figure(f"{bench.counts.memory:,} bulk: growth", "MB", Limit(at_most=40), Limit(at_most=30))
    bench.tell("memory")
    with bench.store.fresh() as place:
        found = work.bulk_memory(place, bench.counts.memory)
    figure.add(found["peak"] - found["before"])
    return [figure]


def history(bench: Bench) -> list[Figure]:
    finished = bench.counts.history
    figure = Figure(f"drain, {finished:,} finished", "/s", Limit(at_least=0.9), Limit(at_least=0.9), "an empty table")
    with bench.store.fresh() as full:
        bench.tell(f"history: adding {finished:,} finished jobs")
        bench.store.add_history(full, finished)
        for number in bench.each_round("history", 2 * bench.rounds):
            # The bound is close to 1: more rounds, and each side is the first in half of them.
            empty = _our_drain(bench, None)["rate"] if number % 2 else None
            ours = _drain_in(bench, full, None)["rate"]
            figure.add(ours, empty or _our_drain(bench, None)["rate"])
    return [figure]


MEASURES: dict[str, Measure] = {
    "drain": drain,
    "sleep": sleep,
    "single": single,
    "bulk": bulk,
    "latency": latency,
    "memory": memory,
    "history": history,
}


def chosen(names: Iterable[str]) -> list[Measure]:
    """The measurements of these names; drain and sleep share their reference."""
    wanted = set(names)
    both = {"drain", "sleep"} <= wanted
    picked = [MEASURES[name] for name in MEASURES if name in wanted and not (both and name in ("drain", "sleep"))]
    return [drain_and_sleep, *picked] if both else picked


def _adding(bench: Bench, add: Callable[[str, int], float], jobs: int) -> float:
    with bench.store.fresh() as place:
        bench.store.settle(place)
        rate = add(place, jobs)
        bench.store.check_added(place, jobs)
        return rate


def _our_drain(bench: Bench, sleep: float | None) -> dict[str, float]:
    with bench.store.fresh() as place:
        return _drain_in(bench, place, sleep)


def _drain_in(bench: Bench, place: str, sleep: float | None) -> dict[str, float]:
    jobs = bench.counts.drain
    work.bulk(place, jobs)
    bench.store.settle(place)
    found = work.drain(place, jobs, sleep)
    bench.store.check_drained(place, jobs)
    return found


def _raw_drain(bench: Bench) -> float:
    with bench.store.fresh() as place:
        rate = bench.store.raw_drain(place, bench.counts.drain, lambda: bench.store.settle(place))
        bench.store.check_drained(place, bench.counts.drain)
        return rate


def _percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
