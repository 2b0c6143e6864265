"""Background jobs on the database you already run.

Start with :class:`JobQueue`.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from dataqueue.version import __version__ as __version__

# In a checkout the folders that the wheel puts into this package (migrations, docs, …) lie beside it.
_checkout = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - pathlib is slow to import
if os.path.exists(os.path.join(_checkout, "migrations", "0001_initial.sql")):  # noqa: PTH110, PTH118
    __path__.append(_checkout)

if TYPE_CHECKING:
    from dataqueue.cron_jobs import CatchUp, CronChanges, CronOptions, CronSchedule
    from dataqueue.definitions import JobDefinition
    from dataqueue.dependencies import BatchRef, DependsOn, batch_ref
    from dataqueue.errors import (
        ConfigError,
        DataQueueError,
        InvalidJob,
        InvalidPayload,
        InvalidSchedule,
        JobCancelled,
        JobFailed,
        JobNotFound,
        LeaseLost,
        ProcessDied,
        ReadOnlyQueue,
        RemoteError,
        ResultTimeout,
        ScheduleExists,
        ScheduleNotFound,
        SchemaError,
        StepsChanged,
        StoreUnavailable,
        UnknownJobType,
        WrongLoop,
    )
    from dataqueue.events import Hook
    from dataqueue.explain import Explanation, Reason
    from dataqueue.failures import FailureGroup, FailureSummary
    from dataqueue.filters import JobFilters
    from dataqueue.jobs import AddedJobs, ErrorEntry, Job, JobEvent, JobHandle, JobPage, JobStatus
    from dataqueue.limits import LimitState, Rate
    from dataqueue.options import DefinitionOptions, JobChanges, JobDefaults, JobOptions, NewJob
    from dataqueue.queue import JobQueue
    from dataqueue.schedule import next_occurrence, validate_cron
    from dataqueue.status import QueueStatus
    from dataqueue.steps import Step
    from dataqueue.sync import SyncJobHandle, SyncJobQueue
    from dataqueue.tls import TLS
    from dataqueue.tokens import Token, TokenCompleted, TokenFailed, TokenNotFound, TokenResult
    from dataqueue.unique import Unique
    from dataqueue.worker.context import JobContext, SyncJobContext
    from dataqueue.worker.options import ProcessorOptions
    from dataqueue.worker.processor import DrainResult, Processor
    from dataqueue.worker.supervisor import Supervisor, SupervisorOptions, SupervisorResult

_WHERE = {
    "cron_jobs": ("CatchUp", "CronChanges", "CronOptions", "CronSchedule"),
    "definitions": ("JobDefinition",),
    "dependencies": ("BatchRef", "DependsOn", "batch_ref"),
    "errors": (
        "ConfigError",
        "DataQueueError",
        "InvalidJob",
        "InvalidPayload",
        "InvalidSchedule",
        "JobCancelled",
        "JobFailed",
        "JobNotFound",
        "LeaseLost",
        "ProcessDied",
        "ReadOnlyQueue",
        "RemoteError",
        "ResultTimeout",
        "ScheduleExists",
        "ScheduleNotFound",
        "SchemaError",
        "StepsChanged",
        "StoreUnavailable",
        "UnknownJobType",
        "WrongLoop",
    ),
    "events": ("Hook",),
    "explain": ("Explanation", "Reason"),
    "failures": ("FailureGroup", "FailureSummary"),
    "filters": ("JobFilters",),
    "jobs": ("AddedJobs", "ErrorEntry", "Job", "JobEvent", "JobHandle", "JobPage", "JobStatus"),
    "limits": ("LimitState", "Rate"),
    "options": ("DefinitionOptions", "JobChanges", "JobDefaults", "JobOptions", "NewJob"),
    "queue": ("JobQueue",),
    "schedule": ("next_occurrence", "validate_cron"),
    "status": ("QueueStatus",),
    "steps": ("Step",),
    "sync": ("SyncJobHandle", "SyncJobQueue"),
    "tls": ("TLS",),
    "tokens": ("Token", "TokenCompleted", "TokenFailed", "TokenNotFound", "TokenResult"),
    "unique": ("Unique",),
    "worker.context": ("JobContext", "SyncJobContext"),
    "worker.options": ("ProcessorOptions",),
    "worker.processor": ("DrainResult", "Processor"),
    "worker.supervisor": ("Supervisor", "SupervisorOptions", "SupervisorResult"),
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "TLS",
    "AddedJobs",
    "BatchRef",
    "CatchUp",
    "ConfigError",
    "CronChanges",
    "CronOptions",
    "CronSchedule",
    "DataQueueError",
    "DefinitionOptions",
    "DependsOn",
    "DrainResult",
    "ErrorEntry",
    "Explanation",
    "FailureGroup",
    "FailureSummary",
    "Hook",
    "InvalidJob",
    "InvalidPayload",
    "InvalidSchedule",
    "Job",
    "JobCancelled",
    "JobChanges",
    "JobContext",
    "JobDefaults",
    "JobDefinition",
    "JobEvent",
    "JobFailed",
    "JobFilters",
    "JobHandle",
    "JobNotFound",
    "JobOptions",
    "JobPage",
    "JobQueue",
    "JobStatus",
    "LeaseLost",
    "LimitState",
    "NewJob",
    "ProcessDied",
    "Processor",
    "ProcessorOptions",
    "QueueStatus",
    "Rate",
    "ReadOnlyQueue",
    "Reason",
    "RemoteError",
    "ResultTimeout",
    "ScheduleExists",
    "ScheduleNotFound",
    "SchemaError",
    "Step",
    "StepsChanged",
    "StoreUnavailable",
    "Supervisor",
    "SupervisorOptions",
    "SupervisorResult",
    "SyncJobContext",
    "SyncJobHandle",
    "SyncJobQueue",
    "Token",
    "TokenCompleted",
    "TokenFailed",
    "TokenNotFound",
    "TokenResult",
    "Unique",
    "UnknownJobType",
    "WrongLoop",
    "__version__",
    "batch_ref",
    "next_occurrence",
    "validate_cron",
]


def __getattr__(name: str) -> Any:
    """Load a name when it is first used, so that ``import dataqueue`` stays fast."""
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'dataqueue' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"dataqueue.{module}"), name)
    globals()[name] = value
    return value
