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
    parts = [cell.encode() if isinstance(cell, str) else _layout(cell) for cell in (*cells, ",")]
    width = sum(len(part) if isinstance(part, bytes) else part.width for part in parts)
    text, keep = np.empty((count, width), np.uint8), np.ones((count, width), np.bool_)
    at = 0
    for part in parts:
        end = at + (len(part) if isinstance(part, bytes) else part.width)
        if isinstance(part, bytes):
            text[:, at:end] = np.frombuffer(part, np.uint8)
        else:
            _write(part, text[:, at:end], keep[:, at:end])
        at = end
    # compress, because indexing by a mask of two dimensions takes four times as long
    kept = np.compress(keep.ravel(), text.ravel()).tobytes()
    return Block(times, kept[:-1], np.cumsum(keep.sum(axis=1)) - 1)


def joined(times: Sequence[int], rows: Sequence[bytes]) -> Block:
    """Rows that are rendered already."""
    ends = np.cumsum([len(row) + 1 for row in rows], dtype=np.int64) - 1
    return Block(np.array(times, np.int64), b",".join(rows), ends)


class _Layout(NamedTuple):
    """A column's room: a sign, whole digits in groups of four, the point, the places, zeros that pad them."""

    column: Decimal
    sizes: Ints
    groups: int
    point: bool
    padding: int

    @property
    def width(self) -> int:
        return 1 + 4 * self.groups + self.point + self.padding


def _layout(column: Decimal) -> _Layout:
    # A number has as many digits as it needs, and at least one before the point.
    sizes = np.maximum(np.searchsorted(_POWERS, np.abs(column.values), "right"), column.places + 1)
    padding = max(column.width - column.places, 0)
    return _Layout(column, sizes, -(-int(sizes.max()) // 4), bool(column.places or padding), padding)


def _write(layout: _Layout, text: _Bytes, keep: _Mask) -> None:
    column, length = layout.column, 4 * layout.groups
    digits = np.empty((len(text), length), np.uint8)
    rest = np.abs(column.values)
    for end in range(length, 0, -4):
        rest, low = np.divmod(rest, 10_000)
        digits[:, end - 4 : end] = _GROUPS[low]
    point = 1 + length - column.places
    text[:, 0] = ord("-")
    keep[:, 0] = column.values < 0
    text[:, 1:point] = digits[:, : point - 1]
    keep[:, 1:point] = np.arange(length, column.places, -1) <= layout.sizes[:, None]
    if layout.point:
        text[:, point] = ord(".")
        text[:, point + 1 : point + 1 + column.places] = digits[:, point - 1 :]
        text[:, point + 1 + column.places :] = ord("0")
