"""Dead letters: what a job that has failed for good leaves behind, read back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from dataqueue.jobs import Job
from dataqueue.jsonvalue import dumps
from dataqueue.options import MAX_ATTEMPTS, JobSpec


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter and the job that it tells of. ``spec`` is that job anew, for where it is gone."""

    id: int
    source_id: int
    spec: JobSpec


def read_letter(job: Job) -> DeadLetter | None:
    """None if the job is no dead letter: its payload is not of their form."""
    payload = job.payload
    if not isinstance(payload, dict) or "originalPayload" not in payload:
        return None
    envelope = cast("dict[str, Any]", payload)
    original = envelope.get("originalJob")
    if not isinstance(original, dict):
        return None
    said = cast("dict[str, Any]", original)
    source, name, most = said.get("id"), said.get("jobType"), said.get("maxAttempts")
    if not (isinstance(source, int) and source > 0 and isinstance(name, str) and name and isinstance(most, int)):
        return None
    attempts = min(max(1, most), MAX_ATTEMPTS)
    payload_text = dumps(envelope["originalPayload"], "payload")
    return DeadLetter(job.id, source, JobSpec(name, payload_text, max_attempts=attempts, dead_letter=job.job_type))
