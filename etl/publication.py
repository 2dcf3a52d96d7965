"""What the bulk archive publishes: names of files, and when each must be there. Pure. Source: binance-facts 9.2 and 9.5."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

from . import registry
from .model import ArchiveFile, Series
from .ranges import DAY, HOUR, TimeRange, intersection, iso, months, subtract, union

Kind = Literal["daily", "monthly"]

# Yesterday's file was never seen later than 08:41; a month's comes on the first Monday, which is the 7th at the latest.
DAILY_DUE = 10 * HOUR
MONTHLY_DUE = 7 * DAY + DAILY_DUE
# Files come late by days at times: for so long their absence is no answer (contract 5).
LATEST = 7 * DAY
# A series is over when there was nothing new for so long, beside what is not due.
OVER = 40 * DAY


def folder(market: str, dataset: str, kind: Kind) -> str:
    """The key under which the archive has one folder a symbol (or pair); it ends with a slash."""
    path, layout = registry.market(market).archive_path, registry.dataset(dataset).archive
    return f"data/{path}/{kind}/{layout.folder}/"


def prefix(series: Series, kind: Kind) -> str:
    """What the key of every file of the series begins with; what follows is its period."""
    label = registry.interval(series.interval).path_name if series.interval else registry.dataset(series.dataset).archive.folder
    inner = f"{label}/" if series.interval else ""
    return f"{folder(series.market, series.dataset, kind)}{series.symbol}/{inner}{series.symbol}-{label}-"


def file_of(series: Series, kind: Kind, start: int) -> ArchiveFile:
    """The file of the UTC day or calendar month that holds `start` (ms UTC), whether or not the archive has it."""
    if kind == "monthly":
        name, span = next(months(TimeRange(start, start + 1)))
    else:
        day = start - start % DAY
        name, span = iso(day)[:10], TimeRange(day, day + DAY)
    return ArchiveFile(span, f"{prefix(series, kind)}{name}.zip")


def monthly_files(series: Series, span: TimeRange) -> Iterator[ArchiveFile]:
    """One file for each calendar month that `span` touches, as no listing has named it."""
    return (file_of(series, "monthly", month.start) for _, month in months(span))


def daily_files(series: Series, span: TimeRange) -> Iterator[ArchiveFile]:
    """One file for each UTC day that `span` touches, as no listing has named it; none where the dataset has no daily ones."""
    if has_daily(series):
        yield from (file_of(series, "daily", day) for day in range(span.start - span.start % DAY, span.end, DAY))


def has_daily(series: Series) -> bool:
    """Whether there are daily files of the series; those of intervals above a day are strays."""
    step = registry.interval(series.interval).typical_step if series.interval else 0
    return registry.dataset(series.dataset).archive.daily and step <= DAY


def is_daily(file: ArchiveFile) -> bool:
    """Whether the file holds a day, not a month."""
    return file.span.end - file.span.start == DAY


def due(file: ArchiveFile, now: int) -> bool:
    """Whether the file is published at the exchange's time `now` (ms UTC), unless it comes late."""
    return now >= file.span.end + (DAILY_DUE if is_daily(file) else MONTHLY_DUE)


def overdue(span: TimeRange, now: int) -> bool:
    """Whether the file of that day or month would be there by now if it ever came."""
    return now >= span.end + (DAILY_DUE if span.end - span.start <= DAY else MONTHLY_DUE) + LATEST


def silent_before(series: Series, now: int) -> int:
    """What no file holds of the time before this, none ever will."""
    kind: Kind = "daily" if has_daily(series) else "monthly"
    return file_of(series, kind, now - (DAILY_DUE if kind == "daily" else MONTHLY_DUE) - LATEST).span.start


def over_before(series: Series, now: int) -> int:
    """A series of which the newest file ends before this will have no more: 40 days, and the month that is still to come."""
    return now - OVER - (0 if has_daily(series) else 31 * DAY)


def is_over(series: Series, files: Sequence[ArchiveFile], now: int) -> bool:
    """Whether the newest of the files says that nothing more will come."""
    return bool(files) and max(file.span.end for file in files) < over_before(series, now)


def marked(listed: Sequence[ArchiveFile], now: int) -> tuple[ArchiveFile, ...]:
    """All listed months of a series, with what they say of where its contracts begin and end."""
    starts, ends = {file.span.start for file in listed}, {file.span.end for file in listed}
    return tuple(
        replace(
            file, opens=file.span.start not in ends, closes=file.span.end not in starts and overdue(_month_after(file), now)
        )
        for file in listed
    )


def _month_after(file: ArchiveFile) -> TimeRange:
    return next(months(TimeRange(file.span.end, file.span.end + 1)))[1]


def edges(listed: Sequence[TimeRange], ever: TimeRange) -> tuple[TimeRange, ...]:
    """Where, of the `listed` months, only days tell when there were files: at both ends, around breaks, and since."""
    runs = union(listed)
    ends = [month for month in listed for run in runs if month.start == run.start or month.end == run.end]
    known = [TimeRange(runs[0].start, runs[-1].end)] if runs else []
    return union([*ends, *subtract(known, runs), TimeRange(known[0].end, max(known[0].end, ever.end)) if known else ever])


def lives(listed: Sequence[TimeRange], days: Sequence[TimeRange]) -> tuple[TimeRange, ...]:
    """When the contracts lived of which those months, and at their `edges` those days, are listed: one span for each.

    A break that is too short for two contracts is none, and one inside of listed months is not seen. A month without a listed
    day counts whole: its days may be older than daily files are.
    """
    exact = [month for month in listed if intersection([month], days)]
    inner = [month for month in listed if month not in exact]
    spans = union([*days, *inner])
    found: list[TimeRange] = []
    for span in spans:
        if found and span.start - found[-1].end < registry.BETWEEN_LIVES:
            found[-1] = TimeRange(found[-1].start, span.end)
        else:
            found.append(span)
    return tuple(found)


def expected(series: Series, span: TimeRange, now: int) -> Iterator[ArchiveFile]:
    """The files that should hold `span` when no listing says which there are: monthly ones, and the days since."""
    since = span.start
    for file in monthly_files(series, span):
        if due(file, now):
            since = file.span.end
            yield file
    if since < span.end:
        yield from (file for file in daily_files(series, TimeRange(since, span.end)) if due(file, now))
