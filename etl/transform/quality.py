"""What is not there: absent bars by content, and how much of an answer may be trusted as an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from .. import grid, publication, registry
from ..grid import Times
from ..model import ArchiveFile, Finding, Series
from ..ranges import DAY, HOUR, MAX_TIME, MINUTE, TimeRange, intersection, iso, union
from ..schema import integers
from ..schema import mask as mask_of
from ..schema import times as times_of

# A bar that closed less than this ago may simply not be published yet: its absence is no answer (contract 5).
PUBLICATION_DELAY = 10 * MINUTE
# Settlements are at most eight hours apart (binance-facts 6); a day without one is no interval.
SETTLES_WITHIN = DAY


def absent(series: Series, times: Times, spans: Iterable[TimeRange]) -> tuple[TimeRange, ...]:
    """The runs of bars that lie in `spans` and not among `times` (ms UTC, sorted); () for a series without a grid."""
    if series.interval is None:
        return ()
    interval = registry.interval(series.interval)
    return union(run for span in union(spans) for run in grid.absent(interval, span, times))


def unsettled(times: Times, spans: Iterable[TimeRange]) -> tuple[TimeRange, ...]:
    """The parts of `spans` without a settlement that are too long for any funding interval: there the contract did not live.

    A settlement takes its whole minute, by which the sources agree on it.
    """
    found = []
    for span in union(spans):
        minutes = times[np.searchsorted(times, span.start) : np.searchsorted(times, span.end)] // MINUTE * MINUTE
        starts, ends = [span.start, *(minutes + MINUTE).tolist()], [*minutes.tolist(), span.end]
        found += [TimeRange(*each) for each in zip(starts, ends, strict=True) if each[1] - each[0] >= SETTLES_WITHIN]
    return tuple(found)


def too_young(series: Series, times: Times, spans: Iterable[TimeRange], now: int) -> tuple[TimeRange, ...]:
    """The parts of the answered `spans` whose emptiness at the exchange's time `now` proves nothing yet.

    For bars: absent ones that closed less than ten minutes ago. For settlements, which come at full hours: the last hour's
    beginning, within its first ten minutes, whatever is there already: a second rate type may follow.
    """
    settled = now - PUBLICATION_DELAY
    if series.interval is not None:
        interval = registry.interval(series.interval)
        first_young = interval.floor(settled)  # the first bar that closes after `settled`
        recent = intersection(spans, [TimeRange(first_young, max(now, first_young))])
        return absent(series, times, recent)
    hour = now - now % HOUR
    return () if settled >= hour else (TimeRange(hour, hour + HOUR),)


def admissible(
    series: Series,
    rows: pa.Table,
    file: ArchiveFile,
    *,
    onboard: int | None = None,
    ends: int | None = None,
    listed: bool = False,
    filled: Sequence[TimeRange] = (),
    has_days: Callable[[TimeRange], bool] = lambda _: False,
) -> tuple[pa.Table, list[Finding], tuple[TimeRange, ...]]:
    """The rows of an archive file that can be true, what was kept out (binance-facts 9.6), and what time is `filled` with it.

    Out stay rows outside the time of the `file`, rows from the `ends` of the contract on, and rows that only fill the time of
    the file, because nothing happened, where `_filling` proves it, or has proven it of other files (`filled`). Times in ms UTC.
    """
    moments = times_of(series.dataset, rows)
    ends = MAX_TIME if ends is None else ends
    filling = {f"filling, of which another file says that it is outside of the contract's life ({one})": one for one in filled}
    if len(rows):
        filling |= _filling(series, rows, file, onboard, listed=listed, has_days=has_days)
    reasons = {
        f"outside of the file's own time {file.span}": (moments < file.span.start) | (moments >= file.span.end),
        f"after the contract's end at {iso(ends)}": moments >= ends,
        **{
            reason: (moments >= span.start) & (moments < span.end) & is_filling(series, rows)
            for reason, span in filling.items()
        },
    }
    findings, out = [], np.zeros(len(rows), dtype=bool)
    for reason, mask in reasons.items():
        if (mask & ~out).any():
            span = TimeRange(int(moments[mask].min()), int(moments[mask].max()) + 1)
            message = f"{int(mask.sum())} rows of the archive's file are kept out, from {iso(span.start)} on: {reason}"
            findings.append(Finding(series, "foreign", "warning", span, int(mask.sum()), message))
        out |= mask
    return (rows.filter(mask_of(~out)) if out.any() else rows), findings, tuple(filling.values())


def _filling(
    series: Series,
    rows: pa.Table,
    file: ArchiveFile,
    onboard: int | None,
    *,
    listed: bool,
    has_days: Callable[[TimeRange], bool],
) -> dict[str, TimeRange]:
    """In which parts of the file's time rows without content are proven to be no part of a contract's life, and why.

    The exchange proves it of the time before it listed a contract (`onboard`), where no other one can have lived: no file is of
    an earlier month, or the file of the listing comes after a break, and it has no content before. Where the exchange says
    nothing, files prove it of a day of bars that lacks none, up to a bound of a file with content, at a break. Less than a
    day may be quiet. A rate of zero proves nothing: it stays for days (binance-facts 6). A break is a month without a file,
    in whose week beside this one there are no files of days (`has_days`); of what has none, as weeks, a month may just be lost.
    """
    interval = registry.interval(series.interval) if series.interval else None
    moments, span, week = times_of(series.dataset, rows), file.span, registry.BETWEEN_LIVES
    content = moments[~is_filling(series, rows)]
    first, last = int(content.min(initial=span.end)), int(content.max(initial=span.start))

    def no_days(start: int) -> bool:
        return publication.has_daily(series) and not has_days(TimeRange(start, start + week))

    told = {}
    # The bar that holds the listing may be one of the contract's own.
    begins = interval.floor(onboard) if interval and onboard is not None else onboard
    if onboard is not None and begins is not None and span.start < begins and first >= min(begins, span.end):
        is_first = file.begun is not None and file.begun >= registry.interval("1M").floor(begins)
        if is_first or (begins < span.end and file.opens and no_days(span.start - week)):
            told[f"placeholders before the listing at {iso(onboard)}"] = TimeRange(span.start, min(first, onboard, span.end))
    if interval is None or not len(content) or (listed and span.end > (begins or 0)):
        return told

    def is_filled(start: int, end: int) -> bool:
        return end - start >= DAY and not absent(series, np.sort(moments), [TimeRange(start, end)])

    last = interval.next(last)
    if file.opens and is_filled(span.start, first) and no_days(span.start - week):
        told["placeholders before the contract began"] = TimeRange(span.start, first)
    if file.closes and is_filled(last, span.end) and no_days(span.end):
        told["filling after the contract's end"] = TimeRange(last, span.end)
    return told


def is_filling(series: Series, rows: pa.Table) -> npt.NDArray[np.bool_]:
    """Rows without content: bars without a trade, prices that do not move, rates of zero."""
    if "count" in rows.column_names:
        return np.equal(integers(rows["count"]), 0)
    if series.interval is None:
        same = pc.equal(rows["funding_rate"], 0.0)
    else:
        high, low, close = (pc.equal(rows["open"], rows[name]) for name in ("high", "low", "close"))
        same = pc.and_(pc.and_(high, low), close)
    return np.equal(integers(pc.cast(same, pa.int64())), 1)
