"""Search over the manual: SQLite FTS5 in memory. Three rankings are fused: whole pages, their sections, and their
phrases (title, description, headings, and the questions that a page says it answers), each by itself."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dataqueue.docs.pages import Page, Section

# Common words say nothing about which page is meant; bm25 alone gives them too much in short texts.
_STOP = frozenset(
    [
        "a",
        "an",
        "and",
        "any",
        "are",
        "as",
        "at",
        "be",
        "been",
        "but",
        "by",
        "can",
        "could",
        "did",
        "do",
        "does",
        "for",
        "from",
        "get",
        "got",
        "had",
        "has",
        "have",
        "how",
        "i",
        "if",
        "in",
        "into",
        "is",
        "it",
        "its",
        "just",
        "let",
        "like",
        "make",
        "may",
        "me",
        "must",
        "my",
        "need",
        "no",
        "not",
        "of",
        "off",
        "on",
        "one",
        "or",
        "our",
        "out",
        "own",
        "please",
        "shall",
        "should",
        "so",
        "some",
        "than",
        "that",
        "the",
        "their",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "those",
        "to",
        "up",
        "use",
        "used",
        "using",
        "want",
        "was",
        "way",
        "we",
        "were",
        "what",
        "when",
        "where",
        "which",
        "while",
        "who",
        "why",
        "will",
        "with",
        "without",
        "would",
        "you",
        "your",
        "dataqueue",
    ]
)
_RRF = 8.0
"""A small constant trusts the first places more."""
_SNIPPET_WORDS = 40


@dataclass(frozen=True, slots=True)
class Hit:
    """A page that answers, and its section that answers best. A higher score is better; compare within one search."""

    page: Page
    section: Section
    snippet: str
    score: float


class DocsIndex:
    """An index of pages. Building takes a few milliseconds a page; searching is thread-safe."""

    def __init__(self, pages: Sequence[Page]) -> None:
        self.pages = tuple(pages)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(":memory:", check_same_thread=False)
        self._db.execute(
            "CREATE VIRTUAL TABLE pages USING fts5(title, description, questions, headings, body,"
            " tokenize = 'porter unicode61')"
        )
        self._db.execute(
            "CREATE VIRTUAL TABLE sections USING fts5(page UNINDEXED, section UNINDEXED, title, heading, body,"
            " tokenize = 'porter unicode61')"
        )
        self._db.execute(
            "CREATE VIRTUAL TABLE phrases USING fts5(page UNINDEXED, words, tokenize = 'porter unicode61')"
        )
        for number, page in enumerate(self.pages):
            phrases = [f"{page.title} {page.slug.rpartition('/')[2]}", page.description, *page.questions]
            phrases += [section.heading for section in page.sections[1:]]
            self._db.executemany(
                "INSERT INTO phrases (page, words) VALUES (?, ?)", [(number, split_names(text)) for text in phrases]
            )
            self._db.execute(
                "INSERT INTO pages (rowid, title, description, questions, headings, body) VALUES (?, ?, ?, ?, ?, ?)",
                (
                    number,
                    split_names(f"{page.title} {page.slug}"),
                    split_names(page.description),
                    split_names("\n".join(page.questions)),
                    split_names("\n".join(section.heading for section in page.sections[1:])),
                    split_names("\n".join(section.text for section in page.sections)),
                ),
            )
            for at, section in enumerate(page.sections):
                self._db.execute(
                    "INSERT INTO sections (page, section, title, heading, body) VALUES (?, ?, ?, ?, ?)",
                    (number, at, split_names(page.title), split_names(section.heading), split_names(section.text)),
                )

    def close(self) -> None:
        self._db.close()

    def search(self, query: str, limit: int = 5) -> list[Hit]:
        """The pages that fit best, best first; empty when no word of the query occurs."""
        words = query_words(query)
        if not words:
            return []
        match = " OR ".join(f'"{word}"' for word in words)
        with self._lock:
            pages = self._db.execute(
                "SELECT rowid, bm25(pages, 10, 5, 5, 5, 1) AS rank FROM pages WHERE pages MATCH ? ORDER BY rank LIMIT 40",
                (match,),
            ).fetchall()
            sections = self._db.execute(
                "SELECT page, section, bm25(sections, 0, 0, 3, 6, 1) AS rank FROM sections WHERE sections MATCH ?"
                " ORDER BY rank LIMIT 80",
                (match,),
            ).fetchall()
            phrases = self._db.execute(
                "SELECT page FROM phrases WHERE phrases MATCH ? ORDER BY bm25(phrases) LIMIT 80", (match,)
            ).fetchall()
        best: dict[int, int] = {}
        for number, at, _ in sections:
            best.setdefault(number, at)
        said = dict.fromkeys(number for (number,) in phrases)
        # All of a page's words say more than a section's or a phrase's alone.
        scores = _fused([(2.0, [number for number, _ in pages]), (1.0, list(best)), (1.0, list(said))])
        hits: list[Hit] = []
        for number in sorted(scores, key=lambda item: -scores[item])[:limit]:
            page = self.pages[number]
            section = page.sections[best.get(number, 0)]
            text = section.text or page.description
            hits.append(Hit(page, section, snippet(text, words), round(scores[number], 4)))
        return hits


def _fused(rankings: Iterable[tuple[float, Sequence[int]]]) -> dict[int, float]:
    """Reciprocal rank fusion of rankings, each with its weight."""
    scores: dict[int, float] = {}
    for weight, ranking in rankings:
        for place, number in enumerate(ranking):
            scores[number] = scores.get(number, 0.0) + weight / (_RRF + place)
    return scores


def split_names(text: str) -> str:
    """The text, with the parts of identifiers beside them: ``add_job`` is also found by "add" and "job"."""
    extra: list[str] = []
    for name in re.findall(r"[A-Za-z][A-Za-z0-9]*(?:[_.-][A-Za-z0-9]+)+|[a-z]+[A-Z]\w*|[A-Z][a-z]+[A-Z]\w*", text):
        parts = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", re.sub(r"[_.-]", " ", name))
        if parts != name:
            extra.append(parts)
    return f"{text}\n{' '.join(extra)}" if extra else text


def query_words(query: str) -> list[str]:
    """The words of a query that can be searched for, each once."""
    words = re.findall(r"[^\W_]+", split_names(query).lower())
    chosen = [word for word in dict.fromkeys(words) if word not in _STOP]
    return chosen or list(dict.fromkeys(words))


def snippet(text: str, words: Sequence[str], length: int = _SNIPPET_WORDS) -> str:
    """The stretch of a text, in whole words, that holds most of the words."""
    tokens = re.sub(r"```\w*|\n+", " ", text).split()
    if len(tokens) <= length:
        return " ".join(tokens)
    stems = [word[: max(4, len(word) - 3)] for word in words]
    found = [any(stem in token.lower() for stem in stems) for token in tokens]
    best = max(range(0, len(tokens) - length + 1, 5), key=lambda at: sum(found[at : at + length]))
    return (
        ("… " if best else "") + " ".join(tokens[best : best + length]) + (" …" if best + length < len(tokens) else "")
    )
