"""Columns of integers as JSON rows in the exchange's decimal text, a whole block at a time.

Formatting 1,440 bars one number at a time costs 5 ms, which would make the simulator slower than what it tests; here all
digits of a column are looked up at once and the leading zeros are masked out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Ints: TypeAlias = npt.NDArray[np.int64]
_Bytes: TypeAlias = npt.NDArray[np.uint8]
_Mask: TypeAlias = npt.NDArray[np.bool_]

_GROUPS: _Bytes = np.frombuffer("".join(f"{n:04d}" for n in range(10_000)).encode(), np.uint8).reshape(-1, 4)
_POWERS = 10 ** np.arange(19, dtype=np.int64)


class Decimal(NamedTuple):
    """A column of numbers: integers of 10^-places, written with `width` decimal places (0: as many as `places`)."""

    values: Ints
    places: int = 0
    width: int = 0


class Block(NamedTuple):
    """Rendered rows joined by commas: their times, the text, and where each row ends in it."""

    times: Ints
    text: bytes
    ends: Ints

    def rows(self, low: int, high: int) -> bytes:
        """Text of the rows low … high - 1."""
        return self.text[self.ends[low - 1] + 1 if low else 0 : self.ends[high - 1]]


def block(times: Ints, cells: Sequence[str | Decimal]) -> Block:
    """Rows of literal text and numbers in the order of `cells`."""
    count = len(times)
    if not count:
        return Block(times, b"", times)
    pieces = [piece for cell in (*cells, ",") for piece in (_literal(cell, count) if isinstance(cell, str) else _number(cell))]
    keep = np.concatenate([mask for _, mask in pieces], axis=1)
    text = np.concatenate([chars for chars, _ in pieces], axis=1)[keep].tobytes()
    return Block(times, text[:-1], np.cumsum(keep.sum(axis=1)) - 1)


def joined(times: Sequence[int], rows: Sequence[bytes]) -> Block:
    """Rows that are rendered already."""
    ends = np.cumsum([len(row) + 1 for row in rows], dtype=np.int64) - 1
    return Block(np.array(times, np.int64), b",".join(rows), ends)


def _literal(text: str, count: int) -> list[tuple[_Bytes, _Mask]]:
    chars = np.frombuffer(text.encode(), np.uint8)
    return [(np.broadcast_to(chars, (count, len(chars))), np.ones((count, len(chars)), np.bool_))]


def _number(column: Decimal) -> list[tuple[_Bytes, _Mask]]:
    values, places = np.abs(column.values), column.places
    # A number has as many digits as it needs, and at least one before the point.
    needed = np.maximum(np.searchsorted(_POWERS, values, "right"), places + 1)
    groups = -(-int(needed.max()) // 4)
    digits = np.empty((len(values), 4 * groups), np.uint8)
    rest = values
    for group in reversed(range(groups)):
        rest, low = np.divmod(rest, 10_000)
        digits[:, 4 * group : 4 * group + 4] = _GROUPS[low]
    keep = np.arange(4 * groups) >= (4 * groups - needed)[:, None]
    pieces = [(digits, keep)]
    if places:
        point = 4 * groups - places
        whole, part = (digits[:, :point], keep[:, :point]), (digits[:, point:], keep[:, point:])
        pieces = [whole, *_literal(".", len(values)), part]
    if column.width > places:
        pieces += _literal(("" if places else ".") + "0" * (column.width - places), len(values))
    if (column.values < 0).any():
        minus, negative = _literal("-", len(values))[0][0], (column.values < 0)[:, None]
        pieces.insert(0, (minus, negative))
    return pieces
