"""What can stop an installation."""

from __future__ import annotations

from dataqueue.errors import DataQueueError


class InstallError(DataQueueError):
    """A file cannot be read, understood or written. Nothing was written, unless the message says otherwise."""


class Malformed(ValueError):
    """A text is not in its format, or has another form than an edit needs.

    Args:
        reason: what is wrong, without a full stop.
        line: where, counted from 1; 0 if that is not known.
    """

    def __init__(self, reason: str, line: int) -> None:
        super().__init__(f"line {line}: {reason}" if line else reason)
        self.reason = reason
        self.line = line
