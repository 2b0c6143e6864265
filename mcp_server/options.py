"""What a server may do and show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from dataqueue.errors import ConfigError

Toolset = Literal["docs", "queue"]
TOOLSETS: tuple[Toolset, ...] = get_args(Toolset)
Values = Literal["shape", "redacted", "full"]
VALUES: tuple[Values, ...] = get_args(Values)

LEAST_OUTPUT = 2_000


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Settings of one server.

    Args:
        toolsets: which groups of tools there are.
        allow_writes: whether tools that change jobs exist at all.
        values: how payloads and outputs are shown unless a call asks otherwise. ``full`` is only to be had here.
        max_output: bytes that an answer has at most.
    """

    toolsets: tuple[Toolset, ...] = TOOLSETS
    allow_writes: bool = False
    values: Values = "shape"
    max_output: int = 40_000

    def __post_init__(self) -> None:
        unknown = [name for name in self.toolsets if name not in TOOLSETS]
        if unknown or not self.toolsets:
            raise ConfigError(f"Toolsets are {', '.join(TOOLSETS)}; {', '.join(unknown) or 'none'} was given.")
        if self.values not in VALUES:
            raise ConfigError(f"Payloads are shown as {', '.join(VALUES)}, not {self.values!r}.")
        if self.max_output < LEAST_OUTPUT:
            raise ConfigError(f"max_output must be at least {LEAST_OUTPUT:,} bytes, not {self.max_output}.")
        if self.allow_writes and "queue" not in self.toolsets:
            raise ConfigError("Writes need the toolset queue.")
