"""Text on a terminal: how wide it is, and columns that stay in line whatever script a symbol is written in."""

from __future__ import annotations

import unicodedata


def width(text: str) -> int:
    """Columns on a terminal: East Asian wide characters take two, combining ones none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def padded(text: str, columns: int, *, right: bool) -> str:
    """The text filled up to that many columns, flush right or left."""
    padding = " " * (columns - width(text))
    return padding + text if right else text + padding
