"""What the pictures show, read from a lake: the ledger by month, what `etl status` and `etl verify` say, and candles by SQL."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from .. import pipeline, registry, verify
from ..errors import LakeError, UsageError
from ..lake import query
from ..lake.store import Store
from ..model import Series
from ..ranges import DAY, Interval, TimeRange
from .model import ABSENT, VERDICTS, Candle, Chart, Gap, Gaps, Kept, Kind, Month, State

# The ledger of one dataset by series, month, verdict and source; of what is absent the days, so that runs of them can be told.
_LEDGER = """
SELECT l.market, l.symbol, l.interval, date_trunc('month', l.day)::DATE AS month, l.verdict, l.source,
  count(*) AS cells, sum(l.expected)::BIGINT AS expected, coalesce(sum(l.missing), 0)::BIGINT AS missing,
  list({'day': l.day, 'missing': l.missing}) FILTER (l.verdict IN ('lost', 'missing', 'outage')) AS absent
FROM ledger AS l
WHERE l.dataset = ?
GROUP BY ALL
"""
_CANDLES = """
SELECT epoch_ms(g.bucket) AS time, arg_min(g.open, g.open_time) AS open, max(g.high) AS high, min(g.low) AS low,
  arg_max(g.close, g.open_time) AS close, {volume} AS volume, count(*) AS bars
FROM (
  SELECT b.*, time_bucket({width}, b.open_time, epoch_ms({origin})) AS bucket
  FROM {bars} AS b
  WHERE b.open_time >= epoch_ms(?) AND b.open_time < epoch_ms(?)
) AS g
GROUP BY g.bucket
ORDER BY g.bucket
"""
_BARS = "bars(?, ?, market := ?)"
_OTHER_BARS = "(SELECT * FROM {dataset} AS v WHERE v.symbol = ? AND v.interval = ? AND v.market = ?)"
_FUNDING = """
SELECT epoch_ms(f.funding_time) AS time, sum(f.funding_rate) AS rate
FROM funding AS f
WHERE f.symbol = ? AND f.market = ? AND f.funding_time >= epoch_ms(?) AND f.funding_time < epoch_ms(?)
GROUP BY f.funding_time
ORDER BY f.funding_time
"""
# A series that is updated every day, or from the archive, is not late.
_LATE = 3 * DAY
# So many of the largest gaps are told.
MOST_GAPS = 100
# Settlements are hours apart; over candles as long as that, their sums are what a position paid.
_SUMMED_FROM = DAY // 3


# The state of a lake


def state(store: Store, now: int, *, network: str, version: str, checked: bool) -> State:
    """What is stored and what is wrong with it, as of `now` (ms UTC). `checked` reads every row, as `etl verify` does.

    LakeError where a file cannot be read.
    """
    rows = pipeline.status(store, now)
    for row in rows:
        if "error" in row:
            raise LakeError(row["error"])
    told = {dataset: list(_select(store.root, _LEDGER, [dataset])) for dataset in sorted({row["dataset"] for row in rows})}
    by_series: dict[Series, list[dict[str, Any]]] = defaultdict(list)
    for dataset, lines in told.items():
        for line in lines:
            by_series[Series(line["market"], dataset, line["symbol"], line["interval"])].append(line)
    kept = [_kept(row, by_series[_series(row)]) for row in rows]
    found = verify.verify(store) if checked else None
    return State(
        lake=store.root.resolve().name,
        network=network,
        at=now,
        version=version,
        kept=tuple(sorted(kept, key=_attention)),
        kinds=tuple(_kinds(kept, by_series)),
        gaps=_gaps(by_series),
        findings=found.findings if found else None,
        rows_checked=found.rows if found else 0,
    )


def _series(row: Mapping[str, Any]) -> Series:
    return Series(row["market"], row["dataset"], row["symbol"], row["interval"])


def _kept(row: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> Kept:
    expected, missing = (
        sum(line[name] or 0 for line in lines) if row["interval"] else None for name in ("expected", "missing")
    )
    told = {name: row[name] for name in ("first", "last", "rows", "lag_s", "bytes")}
    return Kept(_series(row), _months(lines, row["interval"]), expected, missing, **told)


def _months(lines: Iterable[Mapping[str, Any]], interval: str | None) -> dict[str, Month]:
    """The ledger's lines as months of a series; where a month has fewer of them than days, not all of it was asked for."""
    cells: dict[date, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    missing: dict[date, int] = defaultdict(int)
    for line in lines:
        cells[line["month"]][line["verdict"]] += line["cells"]
        missing[line["month"]] += line["missing"]
    monthly = interval is not None and not 0 < registry.interval(interval).step < DAY
    found = {}
    for month in sorted(cells):
        counts = {verdict: cells[month][verdict] for verdict in VERDICTS if cells[month][verdict]}
        worst = next(verdict for verdict in VERDICTS if verdict in counts)
        asked = sum(counts.values())
        if worst == "complete" and (len(counts) > 1 or asked < (1 if monthly else _days(month))):
            worst = "partial"
        found[f"{month:%Y-%m}"] = Month(worst, counts, missing[month])
    return found


def _days(month: date) -> int:
    return (_next(month) - month).days


def _next(month: date) -> date:
    return date(month.year + month.month // 12, month.month % 12 + 1, 1)


def _attention(kept: Kept) -> tuple[object, ...]:
    """What is lost or missing first, then what lags by days more than its bars are long, then the largest."""
    bar = registry.interval(kept.series.interval).typical_step if kept.series.interval else 0
    bad = [sum(month.cells.get(verdict, 0) for month in kept.months.values()) for verdict in ABSENT]
    return (
        *(-count for count in bad),
        -(max(0, (kept.lag_s or 0) * 1000 - bar) // _LATE),
        -kept.bytes,
        kept.series.market,
        kept.series.dataset,
        kept.series.symbol,
        str(kept.series),
    )


def _kinds(kept: Sequence[Kept], lines: Mapping[Series, Sequence[Mapping[str, Any]]]) -> Iterator[Kind]:
    groups: dict[tuple[str, str, str | None], list[Kept]] = defaultdict(list)
    for one in kept:
        groups[one.series.market, one.series.dataset, one.series.interval].append(one)
    for (market, dataset, interval), some in groups.items():
        every = [line for one in some for line in lines[one.series]]
        by_source: dict[str, int] = defaultdict(int)
        for line in every:
            by_source[line["source"] or "nobody"] += line["cells"]
        yield Kind(
            market,
            dataset,
            interval,
            len(some),
            sum(one.rows for one in some),
            sum(one.bytes for one in some),
            _together(some),
            dict(sorted(by_source.items())),
        )


def _together(some: Sequence[Kept]) -> dict[str, Month]:
    """The months of several series, which count by their own verdicts."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    missing: dict[str, int] = defaultdict(int)
    for one in some:
        for name, month in one.months.items():
            counts[name][month.verdict] += 1
            missing[name] += month.missing
    return {
        name: Month(
            next(verdict for verdict in VERDICTS if verdict in counts[name]),
            {verdict: counts[name][verdict] for verdict in VERDICTS if verdict in counts[name]},
            missing[name],
        )
        for name in sorted(counts)
    }


def _gaps(lines: Mapping[Series, Sequence[Mapping[str, Any]]]) -> Gaps:
    gaps: list[tuple[int, Gap]] = []
    for series, some in lines.items():
        for verdict in ABSENT:
            days = sorted(
                (cell["day"], cell["missing"]) for line in some if line["verdict"] == verdict for cell in line["absent"] or ()
            )
            gaps += _runs(series, verdict, days)
    gaps.sort(
        key=lambda one: (ABSENT.index(one[1].verdict), -(one[1].missing or 0), -one[0], one[1].first, one[1].series.symbol)
    )
    return Gaps(tuple(gap for _, gap in gaps[:MOST_GAPS]), len(gaps))


def _runs(series: Series, verdict: str, days: Sequence[tuple[date, int | None]]) -> Iterator[tuple[int, Gap]]:
    """Days in a row as one gap, with their number."""
    monthly = series.interval is not None and not 0 < registry.interval(series.interval).step < DAY
    run: list[tuple[date, int | None]] = []
    for day, missing in [*days, (None, None)]:
        follows = (
            run and day is not None and day == (_next(run[-1][0]) if monthly else date.fromordinal(run[-1][0].toordinal() + 1))
        )
        if run and not follows:
            counts = [count for _, count in run if count is not None]
            yield len(run), Gap(series, str(run[0][0]), str(run[-1][0]), verdict, sum(counts) if counts else None)
            run = []
        if day is not None:
            run.append((day, missing))


# Charts


def find(store: Store, dataset: str, symbol: str, interval: str | None, market: str) -> Series:
    """The stored series of that name; without an interval the finest one that reaches as far back as the others.

    UsageError names what is stored, where this is not.
    """
    kind, market = registry.dataset(dataset), registry.market(market).name
    if not kind.has_interval:
        raise UsageError(f"{dataset} has no bars to draw; it is drawn below the bars of its symbol")
    if market not in kind.endpoints:
        raise UsageError(f"market {market} has no {dataset}")
    wanted = registry.interval(interval).name if interval else None
    every = [series for series in store.series() if series.dataset == dataset and series.market == market]
    same = [series for series in every if series.symbol == symbol]
    spans = {series: _extent(store, series) for series in same if wanted in {None, series.interval}}
    some = {series: span for series, span in spans.items() if span}
    if not some:
        raise _not_stored(every, same, f"{market} {dataset} {symbol}{f' {wanted}' if wanted else ''}")
    longest = max(span.end - span.start for span in some.values())
    enough = [series for series, span in some.items() if span.end - span.start >= longest * 0.9]
    return min(enough, key=lambda series: _grid(series).typical_step)


def largest(store: Store) -> Series | None:
    """The series of klines with the most bytes, else one of other bars; None where no bar is stored."""
    bars = [series for series in store.series() if registry.dataset(series.dataset).has_interval]
    sizes = {series: sum(path.stat().st_size for path in store.paths(series)) for series in bars}
    by_size = sorted(bars, key=lambda series: (series.dataset != "klines", -sizes[series], series))
    return next(filter(lambda series: _extent(store, series), by_size), None)


def _not_stored(every: Sequence[Series], same: Sequence[Series], name: str) -> UsageError:
    if same:
        found = ", ".join(sorted({series.interval or "" for series in same}, key=lambda i: registry.interval(i).typical_step))
        return UsageError(f"no bar of {name} is stored; its intervals that are stored: {found}")
    symbols = sorted({series.symbol for series in every})
    found = (
        f"{', '.join(symbols[:8])}{' …' if len(symbols) > 8 else ''}" if symbols else "none; etl status lists what is stored"
    )
    return UsageError(f"{name} is not stored; symbols of its kind that are: {found}")


def _grid(series: Series) -> Interval:
    assert series.interval is not None  # noqa: S101 - only bars are drawn
    return registry.interval(series.interval)


def _extent(store: Store, series: Series) -> TimeRange | None:
    """From the first stored bar to the end of the last one; None where there is none."""
    files = [file for file in store.files(series) if file.first is not None and file.last is not None]
    if not files:
        return None
    return TimeRange(min(file.first or 0 for file in files), _grid(series).next(max(file.last or 0 for file in files)))


def charts(store: Store, series: Series, most: int) -> Iterator[tuple[str, Chart]]:
    """The series at several scales, the newest part first in each: everything, and shorter stretches up to its end."""
    extent = _extent(store, series)
    if extent is None:
        raise UsageError(f"{series} is stored without any bar")
    shown, interval = extent.end - extent.start, ""
    for label, length in (("All", None), ("1 year", 365), ("90 days", 90), ("30 days", 30), ("7 days", 7), ("1 day", 1)):
        span = TimeRange(extent.end - length * DAY, extent.end) if length else extent
        if length and (span.end - span.start) * 3 > shown * 2:
            continue
        drawn = chart(store.root, series, span, most, extent)
        if drawn and drawn.interval != interval:
            shown, interval = span.end - span.start, drawn.interval
            yield label, drawn


def chart_of(store: Store, series: Series, start: int | None, end: int | None, most: int) -> Chart:
    """At most `most` candles of the series in [start, end), of the finest interval that can do so; None means its own bounds.

    UsageError where nothing is stored there.
    """
    extent = _extent(store, series)
    if extent is None:
        raise UsageError(f"{series} is stored without any bar")
    first, end = extent.start if start is None else start, extent.end if end is None else end
    span = TimeRange(first, max(first, end)).intersect(extent)
    drawn = chart(store.root, series, span, most, extent)
    if drawn is None:
        raise UsageError(
            f"{series} has no whole {coarser(_grid(series), span, most).name} candle in {span}; what is stored is {extent}"
        )
    return drawn


def chart(lake: Path, series: Series, span: TimeRange, most: int, extent: TimeRange) -> Chart | None:
    """Closed candles of the exchange's grid that lie whole in `span`, which is within `extent`, what is stored at all.

    None where there are none.
    """
    grid = _grid(series)
    target = coarser(grid, span, most)
    # The first candle may begin before the first bar: a contract seldom begins at the open of a week.
    first = target.floor(span.start) if span.start == extent.start else target.ceil(span.start)
    bars = _BARS if series.dataset == "klines" else _OTHER_BARS.format(dataset=series.dataset)
    volume = "sum(g.volume)" if series.dataset == "klines" else "NULL"
    width = f"to_milliseconds({target.step})" if target.step else "INTERVAL 1 MONTH"
    sql = _CANDLES.format(bars=bars, volume=volume, width=width, origin=target.offset)
    rows = _select(lake, sql, [series.symbol, series.interval, series.market, first, span.end])
    candles = tuple(Candle(**row) for row in rows if target.next(row["time"]) <= span.end)
    if not candles:
        return None
    shown = TimeRange(first, target.floor(span.end))
    expected = {time: grid.count(TimeRange(time, target.next(time)).intersect(extent)) for time in target.opens(shown)}
    there = {candle.time for candle in candles}
    settled = _select(lake, _FUNDING, [series.symbol, series.market, shown.start, shown.end])
    summed = target.typical_step >= _SUMMED_FROM
    return Chart(
        series,
        target.name,
        shown,
        candles,
        tuple(_absent(target, [time for time in expected if time not in there])),
        sum(candle.bars < expected[candle.time] for candle in candles),
        tuple(_by_candle(target, settled) if summed else ((row["time"], row["rate"]) for row in settled)),
        summed,
    )


def coarser(grid: Interval, span: TimeRange, most: int) -> Interval:
    """The finest interval that the bars fill, and of which at most `most` lie in the span."""
    steps = [i for i in registry.INTERVALS.values() if i == grid or (0 < grid.step <= DAY and i.typical_step > grid.step)]
    fitting = [i for i in steps if (i.step % grid.step == 0 if i.step and grid.step else True)]
    return next((i for i in fitting if span.end - span.start <= most * i.typical_step), fitting[-1])


def _absent(grid: Interval, opens: Sequence[int]) -> Iterator[TimeRange]:
    """Candles in a row as one range."""
    start = end = None
    for time in opens:
        if time != end:
            if start is not None and end is not None:
                yield TimeRange(start, end)
            start = time
        end = grid.next(time)
    if start is not None and end is not None:
        yield TimeRange(start, end)


def _by_candle(grid: Interval, settled: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, float]]:
    sums: dict[int, float] = defaultdict(float)
    for row in settled:
        sums[grid.floor(row["time"])] += row["rate"]
    yield from sums.items()


def _select(lake: Path, sql: str, parameters: Sequence[object]) -> Iterator[dict[str, Any]]:
    with query.run(lake, sql, parameters) as result:
        for batch in result.batches():
            yield from batch.to_pylist()
