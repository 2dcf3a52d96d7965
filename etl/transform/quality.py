"""What is not there: absent bars by content, and how much of an answer may be trusted as an answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from .. import grid, registry
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
# For so long a contract that ends may be quiet before, or one that begins after its first bar.
LONGEST_FILLED = 8 * HOUR


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
) -> tuple[pa.Table, list[Finding], tuple[TimeRange, ...]]:
    """The rows of an archive file that can be true, what was kept out (binance-facts 9.6), and what time is `filled` with it.

    Out stay rows outside the time of the `file`, rows from the `ends` of the contract on, and rows that only fill the time of
    the file, because nothing happened: before the contract was listed (`onboard`), and, of one that the exchange does not
    list (any more), from the beginning of its first month and up to the end of its last one, or in what other files `filled`.
    Times in ms UTC.
    """
    moments = times_of(series.dataset, rows)
    ends = MAX_TIME if ends is None else ends
    over = not listed or (onboard is not None and file.span.end <= onboard)
    filling = _filling(series, rows, file, onboard, filled, over=over) if len(rows) else {}
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
    series: Series, rows: pa.Table, file: ArchiveFile, onboard: int | None, filled: Sequence[TimeRange], *, over: bool
) -> dict[str, TimeRange]:
    """In which parts of the file's time rows without content are no part of the contract's life, and why.

    Of a contract that is not listed nobody says when it lived, and its last bars may be quiet ones: only rows that fill hours,
    up to the very bound of the file, are none of its own.
    """
    told = {f"filling, of which another file says that it is outside of the contract's life ({span})": span for span in filled}
    earlier = onboard is not None and file.span.start < onboard
    if not (earlier or (over and (file.opens or file.closes))):
        return told
    moments, span = times_of(series.dataset, rows), file.span
    content = moments[~is_filling(series, rows)]
    first, last = int(content.min(initial=span.end)), int(content.max(initial=span.start - 1))
    if onboard is not None and earlier and (onboard < span.end or not len(content)):
        told[f"placeholders before the listing at {iso(onboard)}"] = TimeRange(span.start, min(first, onboard))
    reach = registry.interval(series.interval).typical_step if series.interval else LONGEST_FILLED
    if over and file.opens and moments.min() < span.start + reach and first >= span.start + LONGEST_FILLED:
        told["placeholders before the contract began"] = TimeRange(span.start, first)
    if over and file.closes and moments.max() >= span.end - reach and last < span.end - LONGEST_FILLED:
        told["filling after the contract's end"] = TimeRange(last + 1, span.end)
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
