"""Pages into rows: one table per series, sorted, unique, closed. Content decides, never the order in which pages came."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import BadAnswer
from ..grid import Times
from ..model import Series
from ..ranges import MINUTE, TimeRange, union
from ..schema import array, arrow_schema, booleans, empty, integers, mask, numbers, times

# A settlement without rate type is a Regular one: the field exists since about 2026-07-23 (binance-facts 1.7).
REGULAR = "Regular"


@dataclass(frozen=True, slots=True)
class Merged:
    """Stored and fresh rows together: `new` fresh ones without a stored twin, and the times of those that differ."""

    rows: pa.Table
    new: int
    changed: tuple[int, ...]


def merge_pages(series: Series, pages: Sequence[pa.Table]) -> tuple[pa.Table, tuple[int, ...], BadAnswer | None]:
    """The rows of all pages, sorted and unique, without those for whose key two different rows came.

    The times of the latter come second (ms UTC), and an error that names both rows of the first of them.
    """
    # Pages come as they are answered. In the order of their rows they need no sorting of rows, as a rule.
    in_order = sorted((page for page in pages if len(page)), key=lambda page: int(times(series.dataset, page)[0]))
    rows, repeats, differs = _sorted(series, _bare_last(series, in_order))
    if not differs.any():
        return _by_time(series, rows.filter(mask(~repeats)) if repeats.any() else rows), (), None
    second = int(np.flatnonzero(differs)[0])
    one, other = rows.slice(second - 1, 1).to_pylist()[0], rows.slice(second, 1).to_pylist()[0]
    error = BadAnswer(f"the exchange gave two different rows of {series} for one key: {_text(one)} and {_text(other)}")
    moments = times(series.dataset, rows)
    keys = _identity(series, moments)
    disputed = np.isin(keys, keys[differs])
    kept = _by_time(series, rows.filter(mask(~repeats & ~disputed)))
    return kept, tuple(np.unique(moments[disputed]).tolist()), error


def merge(series: Series, stored: pa.Table, fresh: pa.Table) -> Merged:
    """Stored rows and fresh ones; where both have a key the fresh row stands."""
    if not len(fresh):
        return Merged(stored, 0, ())
    rows, repeats, differs = _sorted(series, [stored, fresh])
    # A stored row comes before the fresh one of its key, because the sort is stable: keep the last of each pair.
    superseded = np.append(repeats[1:], False)
    changed = tuple(int(time) for time in times(series.dataset, rows)[differs])
    kept = _by_time(series, rows.filter(mask(~superseded)) if superseded.any() else rows)
    return Merged(kept, len(fresh) - int(repeats.sum()), changed)


def within(series: Series, rows: pa.Table, span: TimeRange) -> pa.Table:
    """The rows whose key time lies in `span`."""
    moments = times(series.dataset, rows)
    inside = (moments >= span.start) & (moments < span.end)
    return rows if inside.all() else rows.filter(mask(inside))


def inside(series: Series, rows: pa.Table, spans: Iterable[TimeRange]) -> pa.Table:
    """The rows whose key time lies in one of the spans, in their order."""
    there = _in_any(times(series.dataset, rows), spans)
    return rows if there.all() else rows.filter(mask(there))


def outside(series: Series, rows: pa.Table, spans: Iterable[TimeRange]) -> pa.Table:
    """The rows whose key time lies in none of the spans, in their order."""
    there = _in_any(times(series.dataset, rows), spans)
    return rows.filter(mask(~there)) if there.any() else rows


def _in_any(moments: Times, spans: Iterable[TimeRange]) -> npt.NDArray[np.bool_]:
    ranges = union(spans)
    # An odd number of the bounds lie at or before a time inside.
    bounds = np.array([bound for span in ranges for bound in (span.start, span.end)], dtype=np.int64)
    return np.asarray(np.searchsorted(bounds, moments, side="right") % 2 == 1)


def moments(series: Series, tables: Iterable[pa.Table]) -> Times:
    """The key times (ms UTC) in all the tables, sorted and unique."""
    found = [times(series.dataset, table) for table in tables if len(table)]
    if not found:
        return np.empty(0, dtype=np.int64)
    every = np.concatenate(sorted(found, key=lambda each: int(each[0])))
    # As a rule they come in order; finding that out costs a tenth of `unique`.
    return every if (every[1:] > every[:-1]).all() else np.unique(every)


def closed(rows: pa.Table, now: int) -> pa.Table:
    """The rows that are final: bars whose close_time lies before the exchange's time `now` (ms UTC); settlements always are."""
    if "close_time" not in rows.column_names:
        return rows
    final = integers(rows["close_time"]) < now
    return rows if final.all() else rows.filter(mask(final))


def _bare_last(series: Series, pages: Sequence[pa.Table]) -> Sequence[pa.Table]:
    """Rows without rate type behind the others: of two rows for one settlement the one that says more comes first."""
    if "rate_type" not in arrow_schema(series.dataset).names:
        return pages
    bare = [pc.is_null(page["rate_type"]) for page in pages]
    typed = [page.filter(pc.invert(mask)) for page, mask in zip(pages, bare, strict=True)]
    return [*typed, *(page.filter(mask) for page, mask in zip(pages, bare, strict=True))]


def _sorted(series: Series, tables: Sequence[pa.Table]) -> tuple[pa.Table, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """All rows by key; which of them repeat the key before them; which of those differ from the row before them."""
    schema = arrow_schema(series.dataset)
    rows = pa.concat_tables([table for table in tables if len(table)] or [empty(series.dataset)]).combine_chunks()
    moments = _identity(series, times(series.dataset, rows))
    has_rate_type = "rate_type" in schema.names
    kinds = _kinds(rows["rate_type"]) if has_rate_type else None
    if len(rows) > 1 and (kinds is not None or not (moments[1:] > moments[:-1]).all()):
        keys = {"time": numbers(moments, pa.int64())} | ({"kind": kinds} if kinds is not None else {})
        # Arrow's sort is not stable; the row's place makes it so.
        keys["place"] = numbers(np.arange(len(rows)), pa.int64())
        order = pc.sort_indices(pa.table(keys), sort_keys=[(key, "ascending") for key in keys])
        rows, moments = rows.take(order), moments[np.frombuffer(order.buffers()[1], np.uint64, len(order))]
        kinds = kinds.take(order) if kinds is not None else None
    repeats = np.zeros(len(rows), dtype=bool)
    repeats[1:] = moments[1:] == moments[:-1]
    if kinds is not None and repeats.any():
        repeats[1:] &= _equal(kinds)
    differs = np.zeros(len(rows), dtype=bool)
    if repeats.any():
        same = np.ones(len(rows) - 1, dtype=bool)
        for name in schema.names:
            same &= _equal(kinds if name == "rate_type" else rows[name])
        differs[1:] = repeats[1:] & ~same
    return rows, repeats, differs


def _identity(series: Series, moments: Times) -> Times:
    """What tells rows apart besides their kind. Of a settlement it is the minute: the sources may differ by milliseconds."""
    return moments if series.interval else moments // MINUTE


def _by_time(series: Series, rows: pa.Table) -> pa.Table:
    """Settlements of one minute but of two kinds need not be of one millisecond."""
    moments = times(series.dataset, rows)
    if series.interval or (moments[1:] >= moments[:-1]).all():
        return rows
    return rows.take(numbers(np.argsort(moments, kind="stable"), pa.int64()))


def _kinds(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pa.chunked_array([array([REGULAR if kind is None else kind for kind in column.to_pylist()], pa.string())])


def _equal(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Whether each value but the first equals the one before it; two nulls are equal."""
    before, after = column.slice(0, len(column) - 1), column.slice(1)
    # False and null is false in Kleene's logic: what is null on one side only differs.
    equal = pc.and_kleene(pc.equal(before, after), pc.and_(pc.is_valid(before), pc.is_valid(after)))
    both_null = pc.and_(pc.is_null(before), pc.is_null(after))
    return booleans(pc.or_(equal, both_null))


def _text(row: dict[str, object]) -> str:
    return ", ".join(f"{name}={_value(value)}" for name, value in row.items())


def _value(value: object) -> str:
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
