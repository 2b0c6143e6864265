"""Figures with their reference and targets, as a table and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Limit:
    """A target, for the ratio where there is a reference, else for the figure itself. Empty: none."""

    at_least: float | None = None
    at_most: float | None = None

    def allows(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __bool__(self) -> bool:
        return self.at_least is not None or self.at_most is not None

    def __str__(self) -> str:
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return "–" if self.at_most is None else f"≤ {self.at_most:g}"


@dataclass(slots=True)
class Figure:
    """One line of the table: a value a round, and the reference of the same round."""

    name: str
    unit: str
    target: Limit
    final: Limit
    reference: str = "raw"
    ours: list[float] = field(default_factory=list[float])
    raw: list[float] = field(default_factory=list[float])

    def add(self, ours: float, raw: float | None = None) -> None:
        self.ours.append(ours)
        if raw is not None:
            self.raw.append(raw)

    @property
    def ratios(self) -> list[float]:
        return [ours / raw for ours, raw in zip(self.ours, self.raw, strict=True)] if self.raw else []

    @property
    def judged(self) -> float:
        """What the limits are about."""
        return statistics.median(self.ratios or self.ours)

    @property
    def is_met(self) -> bool:
        return self.target.allows(self.judged)

    def as_json(self) -> dict[str, Any]:
        verdict = {"ratios": self.ratios, "judged": self.judged, "met": self.is_met}
        return {**asdict(self), **verdict, "final_met": self.final.allows(self.judged)}

    def cells(self) -> list[str]:
        verdict = "–" if not self.target else "ok" if self.is_met else "MISS"
        reached = "ok" if self.final.allows(self.judged) else "not yet"
        return [
            self.name,
            self._spread(self.ours),
            self._spread(self.raw) if self.raw else "–",
            _ratio(self.ratios) if self.raw else "–",
            str(self.target),
            verdict,
            str(self.final),
            reached,
        ]

    def _spread(self, values: list[float]) -> str:
        middle, low, high = (_number(value) for value in (statistics.median(values), min(values), max(values)))
        unit = self.unit if self.unit.startswith("/") else f" {self.unit}"
        return f"{middle}{unit} ({low}–{high})" if len(values) > 1 else f"{middle}{unit}"


_HEADINGS = ("", "ours", "reference", "ratio", "target", "", "final", "")


def table(figures: Sequence[Figure]) -> str:
    """Medians, with the lowest and the highest round in parentheses."""
    rows = [list(_HEADINGS), *(figure.cells() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(len(line) for line in lines), *lines[1:]])


def _number(value: float) -> str:
    if value >= 1000:
        return f"{value / 1000:.1f}k" if value < 100_000 else f"{value / 1000:.0f}k"
    return (
        f"{value:.0f}"
        if value >= 100
        else f"{value:.1f}"
        if value >= 10
        else f"{value:.2f}"
        if value >= 1
        else f"{value:.4f}"
    )


def _ratio(ratios: list[float]) -> str:
    middle = f"{statistics.median(ratios):.2f}"
    return f"{middle} ({min(ratios):.2f}–{max(ratios):.2f})" if len(ratios) > 1 else middle
