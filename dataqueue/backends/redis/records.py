"""Specs and heads to records, and back."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from dataqueue.backends.base import Claimed, FailedJob, Timing, WorkerInfo, WorkerRecord
from dataqueue.backends.redis.layout import (
    EVENT_CODES,
    FLAGS,
    NEVER,
    NO_PROGRESS,
    REASON_CODES,
    STATUS_CODES,
    Head,
    decode_events,
    unpack_int,
)
from dataqueue.jobs import ErrorEntry, Job, JobEvent
from dataqueue.options import INT4_MAX, JobSpec
from dataqueue.retry import RetryPolicy
from dataqueue.steps import StepRecord

STATUS_NAMES: dict[int, Any] = {code: name for name, code in STATUS_CODES.items()}
_REASON_NAMES: dict[int, Any] = {code: name for name, code in REASON_CODES.items()}
_EVENT_NAMES = {code: name for name, code in EVENT_CODES.items()}
_NOTHING: dict[str, Any] = {}


def moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def moment_or_none(milliseconds: int) -> datetime | None:
    return moment(milliseconds) if milliseconds else None


def milliseconds_of(when: datetime) -> int:
    return -(-(when - _EPOCH) // timedelta(milliseconds=1))


def floor_ms(when: datetime) -> int:
    return (when - _EPOCH) // timedelta(milliseconds=1)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def encode_spec(spec: JobSpec) -> bytes:
    """Options that only an edit changes, as JSON with only what is not the default; a newline; the payload."""
    options: dict[str, Any] = {}
    if spec.timeout_ms is not None:
        options["timeout"] = spec.timeout_ms
    if spec.tags is not None:
        options["tags"] = spec.tags
    if spec.idempotency_key is not None:
        options["key"] = spec.idempotency_key
    if not spec.retry.is_legacy:
        options["retry"] = [spec.retry.delay, spec.retry.backoff, spec.retry.delay_max]
    if spec.dead_letter is not None:
        options["dl"] = spec.dead_letter
    if spec.unique is not None:
        options["uq"] = spec.unique.key
    if spec.dependencies is not None and spec.dependencies.tags:
        options["ont"] = spec.dependencies.tags
    text = json.dumps(options, separators=(",", ":")) if options else ""
    return f"{text}\n{spec.payload}".encode()


_JOB = struct.Struct(">HBHIQQH")
_UNIQUE = struct.Struct(">QB")


def pack_job(spec: JobSpec, type_index: int, named: Sequence[int] = (), by_tags: Sequence[int] = ()) -> bytes:
    """A new job as one argument of the script: each argument has its price in the client and in Lua.

    ``named`` and ``by_tags`` are what it waits for: ids, and positions in the same script call as negative numbers (-1
    is the first).
    """
    run_at = NEVER if spec.run_at is None else max(0, milliseconds_of(spec.run_at))
    texts = more = b""
    unique = spec.unique
    if spec.idempotency_key or spec.group or spec.tags or unique:
        names = (spec.idempotency_key or "", spec.group or "", unique.key if unique else "")
        texts = "\0".join((*names, *(spec.tags or ()), "")).encode()
    flags = FLAGS["dead"] if spec.dead_letter is not None else 0
    if unique is not None:
        flags |= FLAGS["unique"]
        more += _UNIQUE.pack(unique.window_ms or 0, unique.replace)
    if spec.dependencies is not None and spec.dependencies.run_anyway:
        flags |= FLAGS["anyway"]
    if named or by_tags:
        flags |= FLAGS["depends"]
        several = (*named, *by_tags)
        more += struct.pack(f">II{len(several)}q", len(named), len(several), *several)
    fixed = _JOB.pack(type_index, flags, spec.max_attempts, inverted(spec.priority), run_at, spec.delay_ms, len(texts))
    return fixed + texts + more + encode_spec(spec)


def decode_spec(data: bytes) -> tuple[dict[str, Any], str]:
    options, _, payload = data.partition(b"\n")
    return (json.loads(options) if options else _NOTHING), payload.decode()


def inverted(priority: int) -> int:
    return INT4_MAX - priority


def job_from(
    job_id: int,
    head: Head,
    spec: bytes,
    job_type: str,
    output: bytes | None,
    errors: bytes | None,
    values: bool = True,
    wait: StepRecord | None = None,
) -> Job:
    options, payload = decode_spec(spec)
    timeout = options.get("timeout")
    return Job(
        id=job_id,
        job_type=job_type,
        payload=json.loads(payload) if values else None,
        status=STATUS_NAMES[head["status"]],
        priority=inverted(head["prio"]),
        created_at=moment(head["created"]),
        updated_at=moment(head["updated"]),
        run_at=moment(head["run_at"]),
        attempts=head["attempts"],
        max_attempts=head["max"],
        next_attempt_at=moment_or_none(head["next_at"]) if head["status"] == STATUS_CODES["failed"] else None,
        started_at=moment_or_none(head["started"]),
        completed_at=moment_or_none(head["completed"]),
        last_failed_at=moment_or_none(head["failed"]),
        last_retried_at=moment_or_none(head["retried"]),
        last_cancelled_at=moment_or_none(head["cancelled"]),
        locked_at=moment_or_none(head["locked"]),
        locked_by=head.worker,
        cancel_requested_at=moment_or_none(head["cancel_req"]),
        failure_reason=_REASON_NAMES[head["reason"]],
        error_history=tuple(_error(line) for line in (errors or b"").splitlines()),
        timeout=None if timeout is None else timedelta(milliseconds=timeout),
        tags=tuple(options.get("tags", ())),
        idempotency_key=options.get("key"),
        group=head.group,
        retry=RetryPolicy(*options["retry"]) if "retry" in options else RetryPolicy(),
        progress=None if head["progress"] == NO_PROGRESS else head["progress"],
        output=None if output is None else json.loads(output),
        pending_reason=_cascade(head) if head["flags"] and head["status"] == STATUS_CODES["cancelled"] else None,
        dead_letter=options.get("dl"),
        dead_lettered_at=moment(options["dla"]) if "dla" in options else None,
        dead_letter_job_id=options.get("dli"),
        depends_on=tuple(options.get("on", ())),
        depends_on_tags=tuple(options.get("ont", ())),
        runs_anyway=head.has("anyway"),
        blocked=head["status"] in (STATUS_CODES["pending"], STATUS_CODES["waiting"]) and head.has("blocked"),
        wait_until=moment_or_none(head["next_at"]) if head["status"] == STATUS_CODES["waiting"] else None,
        wait_token_id=wait.token_id if wait is not None and not head["next_at"] else None,
        unique_key=options.get("uq"),
    )


def _cascade(head: Head) -> str | None:
    """Which job's end cancelled this one, as the event says."""
    kind, _, metadata = (decode_events(head.events) or [(0, 0, b"")])[-1]
    if kind == EVENT_CODES["cancelled"] and b"dependencyCascade" in metadata:
        return json.dumps(json.loads(metadata), separators=(",", ":"))
    return None


def _error(line: bytes) -> ErrorEntry:
    at, _, text = line.partition(b" ")
    entry = json.loads(text)
    return ErrorEntry(entry["message"], moment(int(at)), entry.get("type"), entry.get("frame"))


def failure_from(packed: bytes, head: Head, job_type: str, errors: bytes | None) -> FailedJob:
    lines = (errors or b"").splitlines()
    last = _error(lines[-1]) if lines else None
    return FailedJob(
        id=unpack_int(packed),
        job_type=job_type,
        attempts=head["attempts"],
        max_attempts=head["max"],
        failed_at=moment(head["failed"]),
        next_attempt_at=moment_or_none(head["next_at"]),
        reason=_REASON_NAMES[head["reason"]],
        message=last.message if last else "",
        error_type=last.error_type if last else None,
        frame=last.frame if last else None,
    )


def timing_from(head: Head, job_type: str) -> Timing | None:
    status = STATUS_NAMES[head["status"]]
    ended = moment_or_none(head["completed" if status == "completed" else "failed"])
    if status not in ("completed", "failed") or ended is None:
        return None  # something has happened to it since the index was read
    return Timing(
        job_type=job_type,
        status=status,
        created_at=moment(head["created"]),
        run_at=moment(head["run_at"]),
        started_at=moment_or_none(head["started"]),
        ended_at=ended,
        attempts=head["attempts"],
    )


def claimed_from(job_id: int, head: Head, spec: bytes, job_type: str) -> Claimed:
    options, payload = decode_spec(spec)
    retry = options.get("retry", (None, None, None))
    return Claimed(
        job_id,
        head["lease"],
        job_type,
        payload,
        head["attempts"],
        head["max"],
        inverted(head["prio"]),
        options.get("timeout"),
        retry[0],
        retry[1],
        retry[2],
        options.get("tags"),
        moment(head["created"]),
        moment(head["run_at"]),
        head.group,
        head.has("steps"),
    )


def events_from(job_id: int, job_type: str, log: bytes) -> list[JobEvent]:
    """Ids count from 1 within the job: a job's events are one log. What ``added`` says is not stored with it."""
    events: list[JobEvent] = []
    for number, (kind, at, metadata) in enumerate(decode_events(log), 1):
        name = _EVENT_NAMES[kind]
        told: dict[str, Any] | None = {"jobType": job_type} if name == "added" else None
        if metadata:
            # A failure's type and place are in the error history; the log keeps one text for both.
            stored = {key: value for key, value in json.loads(metadata).items() if key not in ("type", "frame")}
            told = {**(told or {}), **stored}
        for key in ("nextAttemptAt", "until", "runAt", "waitUntil"):
            if told and isinstance(told.get(key), int):
                told[key] = moment(told[key]).isoformat()
        events.append(JobEvent(number, job_id, name, moment(at), told))
    return events


def encode_worker(worker: WorkerInfo) -> str:
    return json.dumps(
        {
            "host": worker.host,
            "pid": worker.pid,
            "job_types": worker.job_types,
            "concurrency": worker.concurrency,
            "version": worker.version,
            "lease_ms": lease_ms(worker),
            "group_concurrency": worker.group_concurrency,
        }
    )


def worker_arguments(worker: WorkerInfo) -> list[Any]:
    """What the scripts are told of a worker."""
    return [worker.id, encode_worker(worker), lease_ms(worker), worker.group_concurrency or 0]


def lease_ms(worker: WorkerInfo) -> int:
    return int(worker.lease_seconds * 1000)


def worker_from(name: bytes, stored: bytes, ends: float, now: int, running: int) -> WorkerRecord:
    since, _, text = stored.partition(b" ")
    info = json.loads(text)
    return WorkerRecord(
        id=name.decode(),
        host=info["host"],
        pid=info["pid"],
        job_types=tuple(info["job_types"]),
        concurrency=info["concurrency"],
        version=info["version"],
        started_at=moment(int(since)),
        last_heartbeat_at=moment(int(ends) - info["lease_ms"]),
        lease_expires_at=moment(int(ends)),
        alive=ends > now,
        running=running,
        group_concurrency=info.get("group_concurrency"),
    )


def id_of(member: bytes) -> int:
    """The job id at the end of any member."""
    return unpack_int(member[-6:])
