"""Failures grouped by cause: pure rules, no I/O."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from dataqueue.backends.base import FailedJob

MAX_READ = 10_000
"""Failed jobs that one summary reads at most, newest ids first."""

SAMPLES = 5

# Parts of a message that differ from job to job, most specific first.
_VARIABLE = (
    (re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"), "<uuid>"),
    (re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+"), "<email>"),
    (re.compile(r"\b[a-zA-Z][a-zA-Z0-9+.-]*://[^\s'\"<>]+"), "<url>"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?"), "<time>"),
    (re.compile(r"(?<![\w.])(?:/[\w.@~+-]+){2,}/?"), "<path>"),
    (re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`"), "<text>"),
    (re.compile(r"\b0x[0-9a-fA-F]+\b|\b(?=[0-9a-fA-F]*\d)(?=[0-9a-fA-F]*[a-fA-F])[0-9a-fA-F]{8,}\b"), "<hex>"),
    (re.compile(r"(?<![A-Za-z])[-+]?\d[\d,._]*(?:[eE][-+]?\d+)?"), "<n>"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureGroup:
    """Failed jobs with one cause: the same type of job and error, the same place, and messages that differ in
    numbers, ids, quoted texts and the like only.

    ``message`` is that of the newest one. ``will_retry`` counts those that will be tried again by themselves.
    """

    fingerprint: str
    job_type: str
    error_type: str | None
    frame: str | None
    reason: str | None
    pattern: str
    message: str
    count: int
    will_retry: int
    first_at: datetime
    last_at: datetime
    sample_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureSummary:
    """Groups, largest first. ``total`` counts the jobs in all groups; ``truncated`` says that there may be more
    failed jobs than were read."""

    groups: tuple[FailureGroup, ...]
    total: int
    group_count: int
    truncated: bool


def normalised(message: str) -> str:
    """A message without what differs from job to job: its first lines, shortened."""
    text = " ".join(message[:2000].split())
    for pattern, name in _VARIABLE:
        text = pattern.sub(name, text)
    return text[:300]


def fingerprint(failure: FailedJob) -> tuple[str, str]:
    """A short stable name of a failure's cause, and the pattern of its message."""
    pattern = normalised(failure.message)
    # A line number moves with every edit above it; the function does not.
    place = re.sub(r":\d+ ", " ", failure.frame or "")
    parts = "\0".join((failure.job_type, failure.error_type or failure.reason or "", place, pattern))
    return hashlib.sha256(parts.encode("utf-8", "backslashreplace")).hexdigest()[:12], pattern


def summarize(failures: Iterable[FailedJob], limit: int, truncated: bool) -> FailureSummary:
    """Group failures by cause; at most ``limit`` groups are given."""
    found: dict[str, list[FailedJob]] = {}
    patterns: dict[str, str] = {}
    total = 0
    for failure in failures:
        name, patterns_of = fingerprint(failure)
        found.setdefault(name, []).append(failure)
        patterns[name] = patterns_of
        total += 1
    groups = [_group(name, patterns[name], members) for name, members in found.items()]
    groups.sort(key=lambda group: (-group.count, -group.last_at.timestamp()))
    return FailureSummary(groups=tuple(groups[:limit]), total=total, group_count=len(groups), truncated=truncated)


def _group(name: str, pattern: str, members: list[FailedJob]) -> FailureGroup:
    newest = max(members, key=lambda member: member.failed_at)
    return FailureGroup(
        fingerprint=name,
        job_type=newest.job_type,
        error_type=newest.error_type,
        frame=newest.frame,
        reason=newest.reason,
        pattern=pattern,
        message=newest.message,
        count=len(members),
        will_retry=sum(member.next_attempt_at is not None for member in members),
        first_at=min(member.failed_at for member in members),
        last_at=newest.failed_at,
        sample_ids=tuple(sorted((member.id for member in members), reverse=True)[:SAMPLES]),
    )
