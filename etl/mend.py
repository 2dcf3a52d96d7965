"""Stored rows that are known to be wrong, and what takes their place. Pure: rows and entries in, rows and entries out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from . import coverage, registry
from .errors import Damaged
from .model import Coverage, Finding, Partition, Series, Source
from .ranges import MINUTE, TimeRange, intersection, iso, subtract, union
from .schema import times as times_of
from .transform import normalize, quality


@dataclass(frozen=True, slots=True)
class Wrong:
    """What is stored and cannot be right: the times of rows by series, and whole files."""

    spans: Mapping[Series, tuple[TimeRange, ...]] = field(default_factory=dict)
    damaged: Sequence[tuple[Series, Damaged]] = ()


@dataclass(frozen=True, slots=True)
class Fresh:
    """The rows of one series that one source gave, sorted and unique, and its answers."""

    source: Source
    answers: Sequence[Coverage]
    rows: pa.Table
    has: Mapping[str | None, Sequence[TimeRange]] = field(default_factory=dict)
    """Where each file of the archive has rows, by its key."""


@dataclass(frozen=True, slots=True)
class Mended:
    """A file without its wrong rows: the rows that are `kept`, the entries for these, and what was taken out."""

    kept: pa.Table
    entries: tuple[Coverage, ...]
    taken: pa.Table


def about(series: Series, times: Iterable[int]) -> tuple[TimeRange, ...]:
    """What to ask for again where rows of those times (ms UTC) are wrong: their bars, or the minutes of settlements."""
    if series.interval is None:
        return union(TimeRange(time // MINUTE * MINUTE, (time // MINUTE + 1) * MINUTE) for time in times)
    interval = registry.interval(series.interval)
    return union(TimeRange(interval.floor(time), interval.next(time)) for time in times)


def without(
    partition: Partition, stored: pa.Table, entries: Sequence[Coverage], fresh: Sequence[Fresh], wrong: Sequence[TimeRange]
) -> Mended:
    """The file without those of the `wrong` rows that the `fresh` answers replace, or that their own source does not have.

    What another source does not have stays: that one said so is no proof. What is kept is sorted and unique.
    """
    series, period = partition.series, partition.period
    wrong = intersection(wrong, [period])
    out: list[TimeRange] = []
    unowned = subtract(wrong, (entry.span for entry in entries))
    for one in fresh:
        asked = intersection(wrong, union(answer.span for answer in one.answers))
        own = intersection(asked, union(entry.span for entry in entries if entry.source == one.source))
        out += [*_there(series, one.rows, asked), *own, *intersection(asked, unowned)]
    inside = normalize.within(series, stored, period)
    kept, disputed, _ = normalize.merge_pages(series, [normalize.outside(series, inside, out)])
    cut = union([*out, *about(series, disputed)])
    again = coverage.by_file(answer for one in fresh for answer in one.answers)
    left: list[Coverage] = []
    for entry in entries:
        anew = [answer.span for answer in again.get(entry.key or "", ())]  # then `coverage.after` keeps the former digest
        left += [replace(entry, span=span) for span in subtract([entry.span], subtract(cut, anew))]
    return Mended(kept, tuple(left), normalize.inside(series, inside, out))


def told(series: Series, mended: Mended, rows: pa.Table) -> tuple[int, list[Finding]]:
    """How many of the file's present `rows` are as those that were taken out, and what is to be said of the others."""
    if not len(mended.taken):
        return 0, []
    times = times_of(series.dataset, mended.taken)
    again = normalize.inside(series, rows, about(series, times.tolist()))
    taken, _, _ = normalize.merge_pages(series, [mended.taken])
    merged = normalize.merge(series, taken, again)
    same = len(again) - merged.new - len(merged.changed)
    wrong, right = len(mended.taken) - same, len(again) - same
    if not wrong:
        return same, []
    span = TimeRange(int(times.min()), int(times.max()) + 1)
    message = f"{wrong} wrong rows gave way to {right} of the source, the first of {iso(span.start)}"
    return same, [Finding(series, "mended", "warning", span, wrong, message)]


def _there(series: Series, rows: pa.Table, spans: Sequence[TimeRange]) -> tuple[TimeRange, ...]:
    """What of `spans` the rows are about."""
    times = times_of(series.dataset, rows)
    if series.interval is None:
        return intersection(spans, about(series, times.tolist()))
    return subtract(spans, quality.absent(series, times, spans))
