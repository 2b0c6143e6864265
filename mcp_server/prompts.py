"""Prompts: ways to begin that a person can pick in a client."""

from __future__ import annotations

from dataqueue.mcp_server.safety import one_line
from dataqueue.mcp_server.server import Server


def register(server: Server) -> None:
    def diagnose_job(job_id: str) -> str:
        """Find out what is the matter with one job, and what to do."""
        return (
            f"Find out what is the matter with job {one_line(job_id, 20)} of the dataqueue queue. Call explain_job, then "
            "get_job with include=[errors, events]. If it failed, call summarize_failures to see whether others failed "
            "likewise, and look at the code that the error's frame names. Say in this order: what happened, why, what to "
            "do, and whether it is safe to run the job again (handlers run at least once). Change nothing without being "
            "asked."
        )

    def triage_failures(job_type: str = "") -> str:
        """Go through the failures of the last day, the most common first."""
        only = f" for job type {one_line(job_type, 100)}" if job_type else ""
        return (
            f"Call queue_status, then summarize_failures{only} for the last 24 hours. For each of the three largest "
            "groups look at one sample job (get_job with include=[errors, events]). Give a table: cause, how many, since "
            "when, whether they will be tried again by themselves, and what to do. Say which group to mend first, and why."
        )

    def write_handler(description: str) -> str:
        """Write a job handler the way dataqueue wants it."""
        return (
            f"Write a dataqueue job handler for this: {one_line(description, 1000)}\nFirst read how: search_docs for typed "
            "jobs, retries, timeouts and idempotency, and get_doc for what fits. Use @queue.job with a pydantic payload, "
            "make it safe to run twice, set max_attempts and timeout on purpose, and add a test as the manual's page "
            "on testing does. Show where the job is added, too."
        )

    if "queue" in server.options.toolsets:
        server.prompt()(diagnose_job)
        server.prompt()(triage_failures)
    server.prompt()(write_handler)
