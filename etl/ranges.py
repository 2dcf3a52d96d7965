"""The only time arithmetic: half-open ranges of UTC milliseconds, interval grids, calendar periods. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from .errors import UsageError

SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

# Year 9999 ends the range of datetime; the exchange has nothing beyond it.
MAX_TIME = 253_402_300_799_999


@dataclass(frozen=True, slots=True, order=True)
class TimeRange:
    """Half-open range [start, end) in milliseconds UTC."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if self.start > self.end:
            raise ValueError(f"a range ends before it starts: {iso(self.start)} > {iso(self.end)}")

    def __bool__(self) -> bool:
        return self.start < self.end

    def __contains__(self, time: int) -> bool:
        return self.start <= time < self.end

    def __str__(self) -> str:
        return f"{iso(self.start)}..{iso(self.end)}"

    def intersect(self, other: TimeRange) -> TimeRange:
        """The common part; empty, at this range's start, where there is none."""
        start, end = max(self.start, other.start), min(self.end, other.end)
        return TimeRange(start, end) if start < end else TimeRange(self.start, self.start)


ALWAYS = TimeRange(0, MAX_TIME)


def union(ranges: Iterable[TimeRange]) -> tuple[TimeRange, ...]:
    """Sorted, disjoint ranges that hold the same times; touching ranges are joined."""
    merged: list[TimeRange] = []
    for one in sorted(r for r in ranges if r):
        if merged and one.start <= merged[-1].end:
            merged[-1] = TimeRange(merged[-1].start, max(merged[-1].end, one.end))
        else:
            merged.append(one)
    return tuple(merged)


def subtract(wanted: Iterable[TimeRange], covered: Iterable[TimeRange]) -> tuple[TimeRange, ...]:
    """What of `wanted` no range of `covered` holds."""
    holes = union(covered)
    left: list[TimeRange] = []
    for one in union(wanted):
        start = one.start
        for hole in holes:
            if hole.end <= start:
                continue
            if hole.start >= one.end:
                break
            if hole.start > start:
                left.append(TimeRange(start, hole.start))
            start = max(start, hole.end)
        if start < one.end:
            left.append(TimeRange(start, one.end))
    return tuple(left)


def intersection(first: Iterable[TimeRange], second: Iterable[TimeRange]) -> tuple[TimeRange, ...]:
    """The times that both hold."""
    one = union(first)
    return subtract(one, subtract(one, second))


@dataclass(frozen=True, slots=True)
class Interval:
    """The grid of a bar size: opens at `offset` + k * `step` ms from the epoch; `step` 0 means calendar months.

    Weeks open on Monday 00:00 UTC, months on their first day (binance-facts 3).
    """

    name: str
    step: int
    offset: int = 0

    @property
    def path_name(self) -> str:
        """The name in paths: the month is `1mo`, as in the archive, because `1M` and `1m` are one name to some file systems."""
        return "1mo" if self.step == 0 else self.name

    @property
    def typical_step(self) -> int:
        """Length of a bar in ms; 31 days for months."""
        return self.step or 31 * DAY

    def floor(self, time: int) -> int:
        """The open of the bar that holds `time`."""
        if self.step:
            return time - (time - self.offset) % self.step
        moment = to_datetime(time)
        return _first(moment.year, moment.month)

    def next(self, time: int) -> int:
        """The first open after `time`."""
        if self.step:
            return self.floor(time) + self.step
        moment = to_datetime(time)
        year, month = divmod(moment.year * 12 + moment.month, 12)
        return _first(year, month + 1)

    def ceil(self, time: int) -> int:
        """The first open at or after `time`."""
        floor = self.floor(time)
        return floor if floor == time else self.next(time)

    def on_grid(self, span: TimeRange) -> TimeRange:
        """The span from open to open that holds the same opens."""
        return TimeRange(self.ceil(span.start), self.ceil(span.end))

    def opens(self, span: TimeRange) -> Sequence[int]:
        """Every open in `span`, ascending."""
        if self.step:
            return range(self.ceil(span.start), span.end, self.step)
        opens = []
        time = self.ceil(span.start)
        while time < span.end:
            opens.append(time)
            time = self.next(time)
        return opens

    def count(self, span: TimeRange) -> int:
        """Number of opens in `span`."""
        return len(self.opens(span))


def years(span: TimeRange) -> Iterator[tuple[str, TimeRange]]:
    """The calendar years (UTC) that `span` touches, as ("2024", range)."""
    if span:
        for year in range(to_datetime(span.start).year, to_datetime(span.end - 1).year + 1):
            yield f"{year:04d}", TimeRange(_first(year, 1), _first(year + 1, 1))


def months(span: TimeRange) -> Iterator[tuple[str, TimeRange]]:
    """The calendar months (UTC) that `span` touches, as ("2024-01", range)."""
    if span:
        first, last = to_datetime(span.start), to_datetime(span.end - 1)
        for index in range(first.year * 12 + first.month - 1, last.year * 12 + last.month):
            year, month = divmod(index, 12)
            after, next_month = divmod(index + 1, 12)
            yield f"{year:04d}-{month + 1:02d}", TimeRange(_first(year, month + 1), _first(after, next_month + 1))


def _first(year: int, month: int) -> int:
    return from_datetime(datetime(year, month, 1, tzinfo=UTC)) if year <= 9999 else MAX_TIME + 1


def to_datetime(time: int) -> datetime:
    """Milliseconds UTC as an aware datetime, exact to the millisecond."""
    seconds, ms = divmod(time, SECOND)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=ms * 1000)


def from_datetime(moment: datetime) -> int:
    """A datetime as milliseconds UTC, floored; a naive one is UTC."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return delta.days * DAY + delta.seconds * SECOND + delta.microseconds // 1000


def iso(time: int) -> str:
    """Milliseconds UTC as ISO-8601 with `Z`; milliseconds only where there are any."""
    moment = to_datetime(time)
    text = moment.strftime("%Y-%m-%dT%H:%M:%S") if moment.year >= 1000 else moment.isoformat()[:19]
    return f"{text}.{moment.microsecond // 1000:03d}Z" if moment.microsecond else f"{text}Z"


def parse_time(text: str) -> int:
    """A date or date-time, UTC unless it carries a zone, as milliseconds UTC; UsageError for anything else."""
    try:
        moment = datetime.fromisoformat(text.strip())
        time = from_datetime(moment)
    except (ValueError, OverflowError):
        raise UsageError(f"'{text}' is no date or date-time; write 2024-01-31 or 2024-01-31T12:00 (UTC)") from None
    if not 0 <= time <= MAX_TIME:
        raise UsageError(f"'{text}' lies outside 1970 … 9999")
    return time


_UNITS = {"ms": 1, "s": SECOND, "m": MINUTE, "min": MINUTE, "h": HOUR, "d": DAY, "w": 7 * DAY}


def parse_duration(text: str) -> int:
    """A duration such as `90s`, `15m`, `12h`, `3d` as milliseconds; a bare number is seconds."""
    text = text.strip()
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = text[len(digits) :] or "s"
    if unit not in _UNITS or not digits.isascii() or not digits.isdecimal():
        raise UsageError(f"'{text}' is no duration; write for example 90s, 15m, 12h or 3d")
    if len(digits) > len(str(MAX_TIME)):  # more of them Python does not even read
        raise UsageError(f"'{text[:40]}…' is longer than all time; write for example 90s, 15m, 12h or 3d")
    return int(digits) * _UNITS[unit]
