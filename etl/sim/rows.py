"""Columns of integers as rows of text in the exchange's decimal form, a whole block at a time: JSON, or lines of CSV.

Formatting 1,440 bars one number at a time costs 5 ms, which would make the simulator slower than what it tests; here all
digits of a column are looked up at once, in columns of one width, and what is too wide is NUL and dropped in the end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ..ranges import HOUR

Ints: TypeAlias = npt.NDArray[np.int64]
_Bytes: TypeAlias = npt.NDArray[np.uint8]

_GROUPS: npt.NDArray[np.uint32] = np.frombuffer("".join(f"{n:04d}" for n in range(10_000)).encode(), np.uint32)
_POWERS = 10 ** np.arange(19, dtype=np.int64)


class Decimal(NamedTuple):
    """A column of numbers: integers of 10^-places, written with `width` decimal places (0: as many as `places`)."""

    values: Ints
    places: int = 0
    width: int = 0


class Block(NamedTuple):
    """Rendered rows, each with a separator of one byte between: their times, the text, and where each row ends in it."""

    times: Ints
    text: bytes
    ends: Ints

    def rows(self, low: int, high: int) -> bytes:
        """Text of the rows low … high - 1."""
        return self.text[self.ends[low - 1] + 1 if low else 0 : self.ends[high - 1]]


def block(times: Ints, cells: Sequence[str | Decimal], separator: str = ",") -> Block:
    """Rows of literal text and numbers in the order of `cells`."""
    count = len(times)
    if not count:
        return Block(times, b"", times)
    parts = [cell.encode() if isinstance(cell, str) else _layout(cell) for cell in (*cells, separator)]
    text = np.empty((count, sum(len(part) if isinstance(part, bytes) else part.width for part in parts)), np.uint8)
    lengths, at = np.zeros(count, np.int64), 0
    for part in parts:
        end = at + (len(part) if isinstance(part, bytes) else part.width)
        if isinstance(part, bytes):
            text[:, at:end] = np.frombuffer(part, np.uint8)
            lengths += len(part)
        else:
            _write(part, text[:, at:end])
            lengths += part.width - part.digits + part.sizes - (part.signed and part.column.values >= 0)
        at = end
    return Block(times, text.tobytes().translate(None, b"\0")[:-1], np.cumsum(lengths) - 1)


def bar_lines(rows: bytes, unit: int = 1) -> bytes:
    """JSON rows of bars, joined by commas, as lines of CSV; `unit` 1 leaves the times in ms, 1000 makes them µs."""
    lines = rows.translate(None, b'["').replace(b"],", b"\n").replace(b"]", b"\n")
    return lines if unit == 1 else re.sub(rb"(?m)^(\d+)((?:,[^,]+){5}),(\d+)", rb"\g<1>000\2,\g<3>999", lines)


def settlement_lines(rows: bytes) -> bytes:
    """JSON rows of settlements, joined by commas, as lines of CSV: time, hours since the one before, rate.

    The archive has no column for the type of a rate, so only regular ones are there.
    """
    regular = [row for row in json.loads(b"[%s]" % rows) if row.get("rateType", "Regular") == "Regular"]
    times = [row["fundingTime"] for row in regular]
    hours = [(after - before + HOUR // 2) // HOUR for before, after in pairwise(times)] or [8]
    lines = zip(times, [hours[0], *hours], regular, strict=False)  # where there is one settlement, nobody knows the hours
    return "".join(f"{time},{gap},{row['fundingRate']}\n" for time, gap, row in lines).encode()


def joined(times: Sequence[int], rows: Sequence[bytes]) -> Block:
    """Rows that are rendered already."""
    ends = np.cumsum([len(row) + 1 for row in rows], dtype=np.int64) - 1
    return Block(np.array(times, np.int64), b",".join(rows), ends)


class _Layout(NamedTuple):
    """A column's room: a sign, the digits with a point among them, zeros that pad the places."""

    column: Decimal
    sizes: Ints
    digits: int
    signed: bool
    point: bool
    padding: int

    @property
    def width(self) -> int:
        return self.signed + self.digits + self.point + self.padding


def _layout(column: Decimal) -> _Layout:
    # A number has as many digits as it needs, and at least one before the point.
    low, high = int(column.values.min()), int(column.values.max())
    least, most = (max(len(str(bound)), column.places + 1) for bound in (low, high))
    if low < 0 or least < most:
        sizes = np.maximum(np.searchsorted(_POWERS, np.abs(column.values), "right"), column.places + 1)
        most = int(sizes.max())
    else:
        sizes = np.full(len(column.values), most)
    padding = max(column.width - column.places, 0)
    return _Layout(column, sizes, most, low < 0, bool(column.places or padding), padding)


def _write(layout: _Layout, text: _Bytes) -> None:
    column, groups = layout.column, -(-layout.digits // 4)
    found = np.empty((len(text), groups), np.uint32)
    rest = np.abs(column.values)
    for group in range(groups - 1, 0, -1):
        high = rest // 10_000  # five times as fast as divmod
        found[:, group] = _GROUPS[rest - high * 10_000]
        rest = high
    found[:, 0] = _GROUPS[rest]
    digits = found.view(np.uint8)[:, 4 * groups - layout.digits :]
    if layout.signed:
        text[:, 0] = np.where(column.values < 0, ord("-"), 0)
    point = layout.signed + layout.digits - column.places
    text[:, layout.signed : point] = digits[:, : layout.digits - column.places]
    for drop in range(layout.digits - int(layout.sizes.min())):
        text[layout.sizes < layout.digits - drop, layout.signed + drop] = 0
    if layout.point:
        text[:, point] = ord(".")
        text[:, point + 1 : point + 1 + column.places] = digits[:, layout.digits - column.places :]
        text[:, point + 1 + column.places :] = ord("0")
