"""How well the docs search finds the right page: ``make eval-docs``.

The questions in ``eval/questions.toml`` were written before the pages. A question counts as answered at the place
of the first right page.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

from dataqueue.docs import DocsIndex, load_pages

QUESTIONS = Path(__file__).parent / "eval" / "questions.toml"
TARGETS = {"recall@1": 0.75, "recall@3": 0.90, "MRR": 0.80}


class Missed(NamedTuple):
    question: str
    wanted: list[str]
    found: list[str]


def evaluate() -> tuple[dict[str, float], list[Missed]]:
    """The measures, and the questions whose first answer is wrong."""
    questions = tomllib.loads(QUESTIONS.read_text())["question"]
    index = DocsIndex(load_pages())
    places: list[int] = []
    missed: list[Missed] = []
    for question in questions:
        found = [hit.page.slug for hit in index.search(question["ask"], 20)]
        place = next((n for n, slug in enumerate(found, 1) if slug in question["pages"]), 0)
        places.append(place)
        if place != 1:
            missed.append(Missed(question["ask"], question["pages"], found[:3]))
    count = len(places)
    measures = {
        "recall@1": sum(place == 1 for place in places) / count,
        "recall@3": sum(0 < place <= 3 for place in places) / count,
        "MRR": sum(1 / place for place in places if place) / count,
    }
    return measures, missed


def main() -> None:
    measures, missed = evaluate()
    for question, wanted, found in missed:
        print(f"{question}\n    wanted {', '.join(wanted)}\n    found  {', '.join(found)}")
    for name, value in measures.items():
        print(f"{name:<9} {value:.3f} (at least {TARGETS[name]:.2f})")
    if any(measures[name] < target for name, target in TARGETS.items()):
        sys.exit(1)


if __name__ == "__main__":
    main()
