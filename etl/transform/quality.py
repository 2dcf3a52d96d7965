"""What is not there: absent bars by content, and how much of an answer may be trusted as an answer."""

from __future__ import annotations

from collections.abc import Iterable

from .. import grid, registry
from ..grid import Times
from ..model import Series
from ..ranges import HOUR, MINUTE, TimeRange, intersection, union

# A bar that closed less than this ago may simply not be published yet: its absence is no answer (contract 5).
PUBLICATION_DELAY = 10 * MINUTE


def absent(series: Series, times: Times, spans: Iterable[TimeRange]) -> tuple[TimeRange, ...]:
    """The runs of bars that lie in `spans` and not among `times` (ms UTC, sorted); () for a series without a grid."""
    if series.interval is None:
        return ()
    interval = registry.interval(series.interval)
    return union(run for span in union(spans) for run in grid.absent(interval, span, times))


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
