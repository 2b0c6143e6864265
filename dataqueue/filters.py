"""The conditions by which jobs are listed and changed, and their check."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, TypedDict

from dataqueue.backends.base import JobFilter
from dataqueue.checks import check_statuses, check_tag_mode, several
from dataqueue.jobs import JobStatus, TagMode
from dataqueue.options import (
    INT4_MAX,
    INT4_MIN,
    check_aware,
    check_integer,
    check_job_type,
    check_name,
    check_names,
    check_tags,
)


class JobFilters(TypedDict, total=False):
    """Conditions that must all hold; one that is left out, or None, holds for every job."""

    status: JobStatus | Iterable[JobStatus] | None
    """One, or several of which any will do."""
    job_type: str | Iterable[str] | None
    """Likewise."""
    priority: int | None
    """Exactly this one."""
    tags: Iterable[str] | None
    """Labels, to which ``tag_mode`` applies."""
    tag_mode: TagMode
    """``all`` of them (the default), ``any``, ``exact`` (the same set), ``none``."""
    run_after: datetime | None
    """Due at or after this moment."""
    run_before: datetime | None
    """Due before it."""
    created_after: datetime | None
    """Added at or after this moment."""
    created_before: datetime | None
    """Added before it."""
    error_contains: str | None
    """Part of the message of any of its errors, whatever its case."""
    group: str | None
    """Exactly this one."""


def make_filter(filters: Mapping[str, Any]) -> JobFilter:
    """Check conditions and give the record that a backend reads.

    Raises:
        InvalidJob: an unknown condition, or one of the wrong type or range.
    """
    check_names(filters, JobFilters.__annotations__)
    get = filters.get
    priority, tags, error, group = get("priority"), get("tags"), get("error_contains"), get("group")
    return JobFilter(
        statuses=check_statuses(get("status")),
        job_types=tuple(check_job_type(name) for name in several(get("job_type"), "job_type")),
        priority=None if priority is None else check_integer(priority, "priority", INT4_MIN, INT4_MAX),
        tags=None if tags is None else check_tags(tags) or (),
        tag_mode=check_tag_mode(get("tag_mode", "all")),
        error_contains=None if error is None else check_name(error, "error_contains"),
        group=None if group is None else check_name(group, "group"),
        run_after=_moment(filters, "run_after"),
        run_before=_moment(filters, "run_before"),
        created_after=_moment(filters, "created_after"),
        created_before=_moment(filters, "created_before"),
    )


def _moment(filters: Mapping[str, Any], name: str) -> datetime | None:
    moment = filters.get(name)
    return None if moment is None else check_aware(moment, name)
