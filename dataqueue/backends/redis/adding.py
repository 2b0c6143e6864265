"""Adding jobs: what the scripts are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dataqueue.backends.base import Added, JobFilter
from dataqueue.backends.redis.records import encode_spec, inverted, pack_job
from dataqueue.options import JobSpec
from dataqueue.unique import latest_of_replaced

if TYPE_CHECKING:
    from dataqueue.backends.redis.backend import RedisBackend

CHUNK = 1000
"""Jobs a script call: more would keep Redis from serving others for too long."""


async def add_chunk(backend: RedisBackend, specs: Sequence[JobSpec], before: Sequence[int]) -> list[Added]:
    """``before``: the ids of the jobs of the same call that were added already."""
    if len(specs) == 1 and (added := await _add_plain(backend, specs[0])):
        return [(added, True)]
    types: dict[str, int] = {}
    jobs: list[bytes] = []
    specs = latest_of_replaced(specs)
    for index, spec in enumerate(specs):
        named, by_tags = await _prerequisites(backend, specs, index, before)
        jobs.append(pack_job(spec, types.setdefault(spec.job_type, len(types) + 1), named, by_tags))
    answer = await backend.call("add", len(types), *types, *jobs)
    return [(answer[n], bool(answer[n + 1])) for n in range(0, len(answer), 2)]


async def _prerequisites(
    backend: RedisBackend, specs: Sequence[JobSpec], index: int, before: Sequence[int]
) -> tuple[list[int], list[int]]:
    """What the job at this index waits for, by name and by tags: ids, and positions among ``specs`` as negative
    numbers."""
    dependencies = specs[index].dependencies
    if dependencies is None:
        return [], []
    # Of this call's jobs, those before these specs have their ids.
    named = [
        number if number > 0 else before[-number - 1] if -number <= len(before) else number + len(before)
        for number in dependencies.jobs
    ]
    by_tags: list[int] = []
    if tags := set(dependencies.tags):
        by_tags = [-n - 1 for n, other in enumerate(specs[:index]) if tags <= set(other.tags or ())]
        by_tags += await _unfinished_with(backend, dependencies.tags)
    return named, [number for number in by_tags if number not in named]


async def _unfinished_with(backend: RedisBackend, tags: tuple[str, ...]) -> list[int]:
    where = JobFilter(statuses=("pending", "processing", "waiting", "failed"), tags=tags)
    found: list[int] = []
    cursor: int | None = None
    while page := await backend.list_jobs(where, CHUNK, cursor, 0, values=False):
        found += [job.id for job in page if not job.is_finished]
        cursor = page[-1].id
    return found


async def _add_plain(backend: RedisBackend, spec: JobSpec) -> int:
    """The id of a job without anything special, by a shorter script; 0 if it takes the longer one."""
    if spec != JobSpec(
        spec.job_type,
        spec.payload,
        priority=spec.priority,
        max_attempts=spec.max_attempts,
        timeout_ms=spec.timeout_ms,
        retry=spec.retry,
    ):
        return 0
    return await backend.call("add_one", spec.job_type, inverted(spec.priority), spec.max_attempts, encode_spec(spec))
