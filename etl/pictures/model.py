"""What the pictures show: plain values, read from a lake by `reading`, drawn by `page` and `charts`."""

from __future__ import annotations

from dataclasses import dataclass

from ..model import Finding, Series
from ..ranges import TimeRange

# The worst first: a month is as good as its worst day.
VERDICTS = ("lost", "missing", "outage", "partial", "complete", "not_listed")
ABSENT = VERDICTS[:3]


@dataclass(frozen=True, slots=True)
class Candle:
    """A bar as stored, or several of them in one; `bars` says how many, `time` is its open (ms UTC)."""

    time: int
    open: float
    high: float
    low: float
    close: float
    volume: float | None
    """None for datasets without volume."""
    bars: int


@dataclass(frozen=True, slots=True)
class Chart:
    """Candles of one series and the settlements of their time. Everything is in the order of time."""

    series: Series
    interval: str
    """Of the candles: that of the series, or a coarser one of the exchange's grids."""
    span: TimeRange
    """Of whole candles; at both ends they may be absent."""
    candles: tuple[Candle, ...]
    gaps: tuple[TimeRange, ...]
    """Where candles are absent, because none of their bars is stored."""
    short: int
    """How many candles lack some of their bars, and were made from the others."""
    funding: tuple[tuple[int, float], ...]
    """Time (ms UTC) and rate of the settlements, or their sums by candle."""
    summed: bool
    """Whether `funding` has one sum for each candle."""

    @property
    def made_of(self) -> str:
        """The candles, and which bars they were made from."""
        one = f"{self.interval} candles"
        return one if self.interval == self.series.interval else f"{one} made from {self.series.interval} bars"


@dataclass(frozen=True, slots=True)
class Month:
    """What the ledger says of one month of a series, or of several series."""

    verdict: str
    """The worst of them, and `partial` where not all of the month was asked for."""
    cells: dict[str, int]
    """How many days have which verdict (of intervals from 1d on: the month itself); of several series, how many of them."""
    missing: int
    """Absent bars."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What is stored of a series, by `etl status` and the ledger; `months` are named as in `2024-01`."""

    series: Series
    months: dict[str, Month]
    expected: int | None
    """Bars that the series should have where it was asked for, by the ledger; None for a series without a grid."""
    missing: int | None
    first: str | None
    last: str | None
    rows: int
    lag_s: int | None
    bytes: int


@dataclass(frozen=True, slots=True)
class Kind:
    """All series of one market, dataset and interval together."""

    market: str
    dataset: str
    interval: str | None
    series: int
    rows: int
    bytes: int
    months: dict[str, Month]
    by_source: dict[str, int]
    """How many days of series (months, for intervals from 1d on) each source answered for."""

    @property
    def name(self) -> str:
        """As in `um klines 1m`."""
        return " ".join(part for part in (self.market, self.dataset, self.interval) if part)


@dataclass(frozen=True, slots=True)
class Gap:
    """Days in a row with the same verdict in one series; `missing` bars are absent, None where there is no grid."""

    series: Series
    first: str
    last: str
    verdict: str
    missing: int | None


@dataclass(frozen=True, slots=True)
class Gaps:
    """The largest gaps, and how many there are in all."""

    largest: tuple[Gap, ...]
    total: int


@dataclass(frozen=True, slots=True)
class Zoom:
    """One view of a chart, drawn."""

    label: str
    chart: Chart
    svg: str


@dataclass(frozen=True, slots=True)
class State:
    """Everything that the page tells of a lake, as of `at` (ms UTC)."""

    lake: str
    network: str
    at: int
    version: str
    kept: tuple[Kept, ...]
    """What asks for attention first, then the largest."""
    kinds: tuple[Kind, ...]
    gaps: Gaps
    findings: tuple[Finding, ...] | None
    """The worst first; None where the rows were not checked."""
    rows_checked: int = 0
