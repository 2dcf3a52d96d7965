"""What is wrong with stored rows, or worth knowing, by their content alone. Pure: a table in, findings out.

An `error` cannot be true of any market; a `warning` may be the exchange's own doing; an `info` is true and worth knowing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .. import grid, registry
from ..grid import Times
from ..model import Finding, Series, Severity
from ..ranges import DAY, HOUR, MAX_TIME, MINUTE, Interval, TimeRange, intersection, iso, subtract, union
from ..schema import booleans, integers
from ..schema import mask as mask_of
from ..schema import times as times_of
from . import normalize, quality

Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.float64]

_PRICES = ("open", "high", "low", "close")
# Sums of rounded decimals, in another order than the exchange's.
_ROUNDING = 1e-9
# Volumes are rounded, of the cheapest trades to few digits.
_COARSE = 0.01
# Caps are at 2 to 3 % (binance-facts 6), by exception somewhat above.
_WILD_RATE = 0.25
# So many times of rows a finding lists that is no error; its count tells of all.
_LISTED = 10_000
# So many distances on each side of one tell what is usual there. An hourly spell lasts 16 settlements at least.
_AROUND = 4
# So many bounds are compared with all times one by one.
_FEW = 8


def of_rows(series: Series, rows: pa.Table, period: TimeRange) -> Iterator[Finding]:
    """Order, keys, grid, and values of the rows of one file, which holds `period`."""
    times = times_of(series.dataset, rows)
    if not len(times):
        return
    yield from _of_keys(series, rows, times, period)
    yield from _of_bars(series, rows, times) if series.interval else _of_settlements(series, rows, times)


def of_coverage(series: Series, times: Times, covered: Sequence[TimeRange], holes: Sequence[TimeRange]) -> Iterator[Finding]:
    """Whether a file records what it holds: each row was answered for; of bars, no hole has a row, and each absence is a hole.

    An absence before the first row, or behind the last one, may be no life: `of_edges`. Settlements have no holes: `skipped`.
    """
    if not len(times):
        return
    if not series.interval:
        asked = [*covered, *_young(times, covered)]
        outside = ~_inside(times, union(asked))
        yield from _At(series, times).where(outside, "footer", "error", "lie where nobody was asked")
        return
    for what, spans in (
        ("lie where nobody was asked", subtract([TimeRange(0, MAX_TIME)], covered)),
        ("lie in a recorded hole", holes),
    ):
        yield from _At(series, times).where(_inside(times, spans), "footer", "error", what)
    life = TimeRange(int(times.min()), int(times.max()) + 1)
    interval = _interval(series)
    ascending = times if (times[1:] > times[:-1]).all() else np.unique(times)
    runs = [run for span in intersection(covered, [life]) for run in grid.absent(interval, span, ascending)]
    yield from _unrecorded(series, interval, subtract(runs, holes))


def _unrecorded(series: Series, interval: Interval, unrecorded: Sequence[TimeRange]) -> Iterator[Finding]:
    if unrecorded:
        count = sum(interval.count(run) for run in unrecorded)
        message = f"{count} bars are absent and not recorded as missing, first {iso(unrecorded[0].start)}"
        opens = tuple(open for run in unrecorded for open in interval.opens(run))
        yield Finding(series, "footer", "error", _hull(unrecorded), count, message, opens)


def of_edges(
    series: Series, rows: TimeRange, covered: Sequence[TimeRange], holes: Sequence[TimeRange], lives: Sequence[TimeRange]
) -> Iterator[Finding]:
    """Whether each absence before and behind the `rows` of a file is recorded, where the series certainly lived."""
    if not series.interval:
        return
    interval = _interval(series)
    unrecorded = [run for run in subtract(intersection(covered, lives), [rows, *holes]) if interval.count(run)]
    yield from _unrecorded(series, interval, unrecorded)


def _young(times: Times, covered: Sequence[TimeRange]) -> Iterator[TimeRange]:
    """The last settlement's hour, which a run that came in it does not record, because another rate type may follow."""
    hour = int(times.max()) // HOUR * HOUR
    if times.min() >= hour or any(span.start < hour <= span.end for span in covered):
        yield TimeRange(hour, hour + HOUR)


@dataclass(frozen=True, slots=True)
class Skip:
    """A stretch that was answered without a settlement, though some were `due` in it, by those around (ms UTC)."""

    span: TimeRange
    due: tuple[int, ...]


def skipped(times: Times, covered: Iterable[TimeRange], lives: Sequence[TimeRange]) -> tuple[Skip, ...]:
    """Where in `covered` settlements lack, by the `times` of all that are stored: due is what lies in `lives`.

    Between two settlements some lack that are farther apart than any interval, or several times as far as is usual around them,
    unless that is an interval itself. At the ends of what was answered, where the interval may have been another one, only the
    times tell at which every interval is settled.
    """
    minutes = np.unique(times // MINUTE * MINUTE)
    skips = [
        Skip(skip.span, due)
        for span in union(covered)
        for skip in _skipped(minutes[slice(*np.searchsorted(minutes, (span.start - MINUTE + 1, span.end)))], span)
        if (due := tuple(time for time in skip.due if any(time in life for life in lives)))
    ]
    return tuple(skips)


def _skipped(minutes: Times, span: TimeRange) -> Iterator[Skip]:
    # What is due in the last minute may come in the next one.
    end, longest = span.end - MINUTE + 1, registry.LONGEST_FUNDING
    always = -(-span.start // longest) * longest  # every interval divides the longest one, and begins with the day
    if not len(minutes):
        yield Skip(span, tuple(range(always, end, longest)))
        return
    steps, first, last = np.diff(minutes), int(minutes[0]), int(minutes[-1])
    usual = np.minimum(_usual(steps), longest) if len(steps) else np.array([longest])
    if always < first:
        due = range(first - int(usual[0]), span.start - 1, -int(usual[0]))
        yield Skip(TimeRange(span.start, first), tuple(sorted(due)))
    several = (steps > usual) & (steps % usual == 0) & ~_intervals(minutes, steps) if len(steps) else np.zeros(0, bool)
    for i in np.flatnonzero(several | (steps > longest)):
        here, there = int(minutes[i]), int(minutes[i + 1])
        yield Skip(TimeRange(here + MINUTE, there), tuple(range(here + int(usual[i]), there, int(usual[i]))))
    if (last // longest + 1) * longest < end:
        yield Skip(TimeRange(last + MINUTE, span.end), tuple(range(last + int(usual[-1]), end, int(usual[-1]))))


def _intervals(minutes: Times, steps: Times) -> Mask:
    """Which distances are an interval: two equal ones at least, settled at its hours. What is lost leaves one distance alone.

    The exchange goes from 1 h to 4 h after 16 quiet settlements, and may soon go back (binance-facts 6).
    """
    settled = (registry.LONGEST_FUNDING % steps == 0) & (minutes[:-1] % steps == 0)
    same = steps[1:] == steps[:-1]
    return np.asarray(settled & (np.append(False, same) | np.append(same, False)))


def _usual(steps: Times) -> Times:
    """Of each distance the median with its neighbours: where the interval changes for longer than these, it is the distance."""
    around = np.pad(steps, _AROUND, mode="edge")  # a change may have just come
    windows = np.lib.stride_tricks.sliding_window_view(around, 2 * _AROUND + 1)
    return np.asarray(np.median(windows, axis=1).astype(np.int64))


def of_skips(series: Series, due: Sequence[int]) -> Iterator[Finding]:
    """Settlements that were due and are not there. Even one that seems certain may be the exchange's own pause: a warning."""
    absent = np.array(due, dtype=np.int64)
    yield from _At(series, absent).where(np.ones(len(absent), bool), "funding_gap", "warning", "are not there, it seems")


@dataclass(frozen=True, slots=True)
class Still:
    """Where there are rows, apart at breaks between two contracts; and where so many of them tell nothing new."""

    lived: tuple[TimeRange, ...]
    runs: tuple[tuple[TimeRange, int], ...]


def still(series: Series, rows: pa.Table) -> Still:
    """Bars without content for a day, or one rate for a week: filling has the last rate, or 0, and true ones may be the same
    for days (binance-facts 6).
    """
    times = times_of(series.dataset, rows)
    if not len(times) or (times[1:] < times[:-1]).any():
        return Still((), ())
    starts = times if series.interval else times // MINUTE * MINUTE
    ends = _ends(_interval(series), times) if series.interval else starts + registry.LONGEST_FUNDING
    says = quality.is_filling(series, rows).astype(np.float64) if series.interval else _numbers(rows, "funding_rate")
    apart, long = starts[1:] - ends[:-1] >= registry.BETWEEN_LIVES, DAY if series.interval else registry.BETWEEN_LIVES

    def runs(cuts: Mask, chosen: Mask, least: int) -> Iterator[tuple[TimeRange, int]]:
        first = np.append(0, np.flatnonzero(cuts) + 1)
        last = np.append(first[1:], len(times)) - 1
        for i in np.flatnonzero(chosen[first] & (ends[last] - starts[first] >= least)):
            yield TimeRange(int(starts[first[i]]), int(ends[last[i]])), int(last[i] - first[i] + 1)

    every = np.ones(len(times), dtype=bool)
    quiet = runs(apart | (says[1:] != says[:-1]), says == 1 if series.interval else every, long)
    return Still(tuple(span for span, _ in runs(apart, every, 0)), tuple(quiet))


def of_life(series: Series, times: Times, lives: Sequence[TimeRange]) -> Iterator[Finding]:
    """Rows outside of the life spans of the contracts that had the ticker; nothing where none is known.

    A bar that holds a part of a life is none: the first week and month open before the contract was listed. Nor are rows that a
    week and more without any parts from the first life that is known: the exchange tells of the latest contract only, and what
    the archive fills a file with adjoins the listing.
    """
    if lives and len(times):
        ends = times
        if series.interval:
            interval = _interval(series)
            lives = union(TimeRange(interval.floor(life.start), life.end) for life in lives if life)
            ends = _ends(interval, times)
        begins = min((life.start for life in lives), default=0)
        parted = np.flatnonzero(np.minimum(np.append(times[1:], begins), begins) - ends >= registry.BETWEEN_LIVES)
        earlier = np.arange(len(times)) <= parted.max(initial=-1)
        outside = ~_inside(times, lives) & ~earlier
        yield from _At(series, times).where(outside, "life", "warning", "lie outside of the contract's life")


def of_intervals(series: Series, rows: pa.Table, finer: Series, fine: pa.Table) -> tuple[list[Finding], pa.Table]:
    """Whether bars equal the sums of finer ones, where all of those are there; and the bars that could not be compared."""
    times, parts = times_of(series.dataset, rows), times_of(finer.dataset, fine)
    interval, small = _interval(series), _interval(finer)
    if not registry.fills(small.name, interval.name):  # no weeks make up a month
        return [], rows
    ends = _ends(interval, times)
    begin, stop = np.searchsorted(parts, times), np.searchsorted(parts, ends)
    if interval.step:
        expected = np.full(len(times), interval.step // small.step)
    else:
        expected = np.array([small.count(TimeRange(int(a), int(b))) for a, b in zip(times, ends, strict=True)])
    whole = (stop - begin == expected) & (expected > 0)
    if not whole.any():
        return [], rows
    begin, stop = begin[whole], stop[whole]

    def over(function: np.ufunc, name: str) -> Numbers:
        values = _numbers(fine, name)
        # Of each pair of bounds the first piece counts; a bound at the very end needs a value to stand on.
        bounds = np.stack([begin, stop], axis=1).ravel()
        return np.asarray(function.reduceat(np.append(values, 0.0), bounds)[::2])

    wrong = np.zeros(len(begin), dtype=bool)
    wrong |= _numbers(rows, "open")[whole] != _numbers(fine, "open")[begin]
    wrong |= _numbers(rows, "close")[whole] != _numbers(fine, "close")[stop - 1]
    wrong |= _numbers(rows, "high")[whole] != over(np.maximum, "high")
    wrong |= _numbers(rows, "low")[whole] != over(np.minimum, "low")
    for name in ("volume", "quote_volume", "count", "taker_buy_volume", "taker_buy_quote_volume"):
        if name in rows.column_names:
            total = over(np.add, name)
            wrong |= ~np.isclose(_numbers(rows, name)[whole], total, rtol=_ROUNDING, atol=_ROUNDING)
    found = _At(series, times[whole]).where(wrong, "sums", "warning", f"differ from their {finer.interval} bars")
    return list(found), rows.filter(mask_of(~whole))


def of_difference(
    series: Series, rows: pa.Table, others: pa.Table, whose: str, *, worst: Severity = "warning"
) -> Iterator[Finding]:
    """Where the `others`, which are those of a source, differ from the stored rows of that time (which is as bad as `worst`),
    are not stored, or lack.

    Of settlements that come without mark price and rate type, as the archive's, the rates of regular ones are compared.
    """
    if not series.interval and len(others) and others["mark_price"].null_count == len(others):
        rows = _bare(rows)
    merged = normalize.merge(series, rows, others)
    if merged.changed:
        times = np.array(sorted(set(merged.changed)), dtype=np.int64)
        yield from _At(series, times).where(np.ones(len(times), bool), "differs", worst, f"differ from those of {whose}")
    here, there = times_of(series.dataset, rows), times_of(series.dataset, others)
    if not series.interval:
        here, there = here // MINUTE, there // MINUTE
    yield from _At(series, times_of(series.dataset, rows)).where(
        ~np.isin(here, there), "extra", "info", f"are unknown to {whose}"
    )
    new = ~np.isin(there, here)
    yield from _At(series, times_of(series.dataset, others)).where(new, "absent", "error", f"of {whose} are not stored")


# ---- parts


def _bare(rows: pa.Table) -> pa.Table:
    """The regular settlements, without what the archive does not tell."""
    kinds = rows["rate_type"].to_pylist()
    regular = rows.filter(mask_of(np.array([kind in {None, normalize.REGULAR} for kind in kinds], dtype=bool)))
    for name in ("mark_price", "rate_type"):
        place = rows.schema.get_field_index(name)
        regular = regular.set_column(place, rows.schema.field(name), pa.nulls(len(regular), rows.schema.field(name).type))
    return regular


def _of_keys(series: Series, rows: pa.Table, times: Times, period: TimeRange) -> Iterator[Finding]:
    keys = times if series.interval else times // MINUTE
    behind = np.append(False, times[1:] < times[:-1])
    yield from _At(series, times).where(behind, "order", "error", "come after a later one")
    # Rows that are in order, as all should be, are not copied.
    order = np.argsort(keys, kind="stable") if behind.any() or not series.interval else slice(None)
    same = np.append(False, keys[order][1:] == keys[order][:-1])
    if not series.interval and not isinstance(order, slice) and same.any():
        kinds = [kind or normalize.REGULAR for kind in rows["rate_type"].to_pylist()]
        same &= np.array([False, *(kinds[one] == kinds[other] for one, other in pairwise(order))])
    yield from _At(series, times[order]).where(same, "duplicate", "error", "have the key of another one")
    yield from _At(series, times).where(
        ~_inside(times, [period]), "period", "error", f"do not belong into the file of {period}"
    )


def _of_bars(series: Series, rows: pa.Table, times: Times) -> Iterator[Finding]:
    interval = _interval(series)
    on_grid = (times - interval.offset) % interval.step == 0 if interval.step else np.isin(times, _opens(interval, times))
    yield from _At(series, times).where(~on_grid, "grid", "error", f"open off the grid of {interval.name}")
    closes = integers(rows["close_time"])
    wrong = on_grid & (closes != _ends(interval, times) - 1)
    yield from _At(series, times).where(wrong, "close_time", "error", "do not close at the end of their bar")
    opens, highs, lows, ends = (_numbers(rows, name) for name in _PRICES)
    finite = np.isfinite(opens) & np.isfinite(highs) & np.isfinite(lows) & np.isfinite(ends)
    fits = finite & (highs >= np.maximum(opens, ends)) & (lows <= np.minimum(opens, ends))
    yield from _At(series, times).where(
        ~fits, "ohlc", "error", "have a high or low that their open or close exceeds, or no number"
    )
    if series.dataset != "premium_klines":
        yield from _At(series, times).where(finite & (lows <= 0), "price", "error", "have a price that is not above 0")
    if series.dataset == "klines":
        yield from _of_trades(series, rows, times)


def _of_trades(series: Series, rows: pa.Table, times: Times) -> Iterator[Finding]:
    volume, quote, taker, taker_quote = (
        _numbers(rows, name) for name in ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")
    )
    count = _numbers(rows, "count")
    good = np.ones(len(times), dtype=bool)
    for values in (volume, quote, taker, taker_quote, count):
        good &= np.isfinite(values) & (values >= 0)
    yield from _At(series, times).where(~good, "volume", "error", "have a volume or count below 0, or no number")
    more = good & ((taker > volume * (1 + _ROUNDING)) | (taker_quote > quote * (1 + _ROUNDING)))
    yield from _At(series, times).where(more, "taker", "error", "have more volume of takers than of all")
    yield from _At(series, times).where(
        good & _mispriced(series, rows, volume, quote),
        "quote",
        "warning",
        "have volumes whose mean price no trade can have had",
    )
    mismatch = good & ((count == 0) != (volume == 0))
    yield from _At(series, times).where(mismatch, "trades", "warning", "have volume without trades, or trades without volume")
    yield from _At(series, times).where(good & (volume == 0), "no_trade", "info", "had no trade")


def _mispriced(series: Series, rows: pa.Table, volume: Numbers, quote: Numbers) -> Mask:
    """Whether quote per volume lies outside of low and high; of COIN-M nobody can say, whose contracts have a size."""
    if series.market == "cm":
        return np.zeros(len(rows), dtype=bool)
    lows, highs = (_numbers(rows, name) for name in ("low", "high"))
    return np.asarray((quote < volume * lows * (1 - _COARSE)) | (quote > volume * highs * (1 + _COARSE)))


def _of_settlements(series: Series, rows: pa.Table, times: Times) -> Iterator[Finding]:
    rates = _numbers(rows, "funding_rate")
    yield from _At(series, times).where(~np.isfinite(rates), "rate", "error", "have a rate that is no number")
    marks = _numbers(rows, "mark_price")  # an absent one is NaN
    told = booleans(rows["mark_price"].is_valid())
    good = np.isfinite(marks) & (marks > 0)
    yield from _At(series, times).where(told & ~good, "price", "error", "have a mark price that is not above 0, or no number")
    wild = np.abs(rates) > _WILD_RATE
    yield from _At(series, times).where(wild, "rate", "warning", f"have a rate beyond {_WILD_RATE:.0%}, far above every cap")
    yield from _At(series, times).where(times % HOUR >= MINUTE, "funding_time", "warning", "were not settled at a full hour")
    hours = np.unique(times // MINUTE * MINUTE)
    steps = np.diff(hours)
    changes = np.flatnonzero(steps[1:] != steps[:-1]) + 1
    mask = np.zeros(len(hours), dtype=bool)
    mask[changes] = True
    yield from _At(series, hours).where(
        mask, "funding_step", "info", "have another distance to the next one than to the one before"
    )


@dataclass(frozen=True, slots=True)
class _At:
    """The rows of a series, by their times."""

    series: Series
    times: Times

    def where(self, mask: Mask, check: str, severity: Severity, what: str) -> Iterator[Finding]:
        """One finding for all rows that the mask names, none where it names none."""
        if not mask.any():
            return
        named = np.sort(self.times[mask])
        first, last, rows = int(named[0]), int(named[-1]), "bars" if self.series.interval else "settlements"
        message = f"{len(named)} {rows} {what}, first {iso(first)}"
        span, listed = TimeRange(first, last + 1), tuple(named[: None if severity == "error" else _LISTED].tolist())
        yield Finding(self.series, check, severity, span, len(named), message, listed)


def _interval(series: Series) -> Interval:
    return registry.interval(series.interval or "")


def _opens(interval: Interval, times: Times) -> Times:
    return np.array(interval.opens(TimeRange(int(times.min()), int(times.max()) + 1)), dtype=np.int64)


def _ends(interval: Interval, times: Times) -> Times:
    """Where the bars end that open at those times."""
    return times + interval.step if interval.step else np.array([interval.next(int(time)) for time in times], dtype=np.int64)


def _numbers(rows: pa.Table, name: str) -> Numbers:
    """A column as numbers; what is absent is NaN."""
    if pa.types.is_integer(rows.schema.field(name).type):
        return integers(rows[name]).astype(np.float64)
    pieces = [np.empty(0)]
    for chunk in rows[name].chunks:
        values = np.frombuffer(chunk.buffers()[1], np.float64, len(chunk), chunk.offset * 8)
        pieces.append(np.where(booleans(pa.chunked_array([chunk.is_valid()])), values, np.nan) if chunk.null_count else values)
    return pieces[1] if len(pieces) == 2 else np.concatenate(pieces)


def _inside(times: Times, spans: Iterable[TimeRange]) -> Mask:
    bounds = np.array([bound for span in spans for bound in (span.start, span.end)], dtype=np.int64)
    if len(bounds) <= _FEW:  # seven times as fast
        return np.asarray(np.logical_xor.reduce([times >= bound for bound in bounds] or [np.zeros(len(times), bool)]))
    return np.asarray(np.searchsorted(bounds, times, side="right") % 2 == 1)


def _hull(spans: Sequence[TimeRange]) -> TimeRange:
    return TimeRange(spans[0].start, spans[-1].end)
