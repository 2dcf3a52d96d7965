"""What is not there: absent bars by content, and how much of an answer may be trusted as an answer."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pyarrow as pa

from .. import grid, registry
from ..grid import Times
from ..model import Finding, Series
from ..ranges import DAY, HOUR, MAX_TIME, MINUTE, TimeRange, intersection, iso, union
from ..schema import integers
from ..schema import mask as mask_of
from ..schema import times as times_of

# A bar that closed less than this ago may simply not be published yet: its absence is no answer (contract 5).
PUBLICATION_DELAY = 10 * MINUTE
# Settlements are at most eight hours apart (binance-facts 6); a day without one is no interval.
LONGEST_FUNDING = DAY


def absent(series: Series, times: Times, spans: Iterable[TimeRange]) -> tuple[TimeRange, ...]:
    """The runs of bars that lie in `spans` and not among `times` (ms UTC, sorted); () for a series without a grid."""
    if series.interval is None:
        return ()
    interval = registry.interval(series.interval)
    return union(run for span in union(spans) for run in grid.absent(interval, span, times))


def unsettled(times: Times, spans: Iterable[TimeRange]) -> tuple[TimeRange, ...]:
    """The parts of `spans` without a settlement that are too long for any funding interval: there the contract did not live."""
    found = []
    for span in union(spans):
        inside = times[np.searchsorted(times, span.start) : np.searchsorted(times, span.end)]
        bounds = [span.start - 1, *inside.tolist(), span.end]
        found += [TimeRange(before + 1, after) for before, after in pairwise(bounds) if after - before > LONGEST_FUNDING]
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
    series: Series, rows: pa.Table, file: TimeRange, onboard: int | None, ends: int | None
) -> tuple[pa.Table, list[Finding]]:
    """The rows of an archive file that can be true, and what was kept out (binance-facts 9.6).

    Out stay rows outside the time of the `file`, rows from the `ends` of the contract on, and placeholders: bars without a
    trade before the first trade in the file and before the contract was listed (`onboard`). Times in ms UTC.
    """
    moments = times_of(series.dataset, rows)
    ends = MAX_TIME if ends is None else ends
    reasons = {
        f"outside of the file's own time {file}": (moments < file.start) | (moments >= file.end),
        f"after the contract's end at {iso(ends)}": moments >= ends,
    }
    if onboard is not None and "count" in rows.column_names:
        traded = integers(rows["count"]) > 0
        first = int(moments[traded].min()) if traded.any() else MAX_TIME
        reasons[f"placeholders before the listing at {iso(onboard)}"] = (moments < first) & (moments < onboard)
    findings, out = [], np.zeros(len(rows), dtype=bool)
    for reason, mask in reasons.items():
        if (mask & ~out).any():
            span = TimeRange(int(moments[mask].min()), int(moments[mask].max()) + 1)
            message = f"{int(mask.sum())} rows of the archive's file are kept out, from {iso(span.start)} on: {reason}"
            findings.append(Finding(series, "foreign", "warning", span, int(mask.sum()), message))
        out |= mask
    return (rows.filter(mask_of(~out)) if out.any() else rows), findings
