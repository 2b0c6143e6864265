"""Adding and taking out whole lines at the end of a text, so that the one undoes the other exactly."""

from __future__ import annotations


def eol(text: str) -> str:
    """How the lines of a text end: as its first one does."""
    head, found, _ = text.partition("\n")
    return "\r\n" if found and head.endswith("\r") else "\n"


def append(text: str, block: str) -> str:
    """The text, one line end, and the block, which ends with a line end itself.

    Behind a text that ends with a line end that is an empty line.
    """
    end = eol(text)
    return text + end + block.replace("\n", end)


def cut(text: str, start: int, end: int) -> str:
    """The text without a block that ``append`` may have added, and without the line end before it."""
    before, rest = text[:start], text[end:]
    line_end = "\r\n" if before.endswith("\r\n") else "\n"
    if before.endswith(line_end) and (not rest or before.removesuffix(line_end).endswith("\n")):
        before = before.removesuffix(line_end)
    return before + rest
