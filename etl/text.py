"""Text for people: its width on a terminal, columns in line in any script, names that were meant, no passwords."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches


def width(text: str) -> int:
    """Columns on a terminal: East Asian wide characters take two, combining ones none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def padded(text: str, columns: int, *, right: bool) -> str:
    """The text filled up to that many columns, flush right or left."""
    padding = " " * (columns - width(text))
    return padding + text if right else text + padding


# Control characters, those that change the direction of writing, and halves of characters.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """The text with what would not be seen, or turns round what follows, by its code point: `⟨U+202E⟩`."""
    return _UNSEEN.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text)


def masked(text: str) -> str:
    """The text without the user names and passwords of the URLs in it: `http://me:secret@host` is `http://***@host`."""
    # To the last @ of the word: a password may hold any character that should have been encoded.
    return re.sub(r"(?<=://)\S*@", "***@", text)


def meant(name: str, known: Iterable[str]) -> str:
    """`; did you mean A, B?`, of the known names that are close, or that one which is the same but for case; else nothing."""
    by_folded = {one.casefold(): one for one in known}
    folded = name.casefold()
    found = [folded] if folded in by_folded else get_close_matches(folded, by_folded, n=3)
    return f"; did you mean {', '.join(by_folded[one] for one in found)}?" if found else ""
