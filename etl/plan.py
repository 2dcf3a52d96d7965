"""What to ask: wanted minus covered, cut into jobs and page windows, with its cost. Pure: a plan can be printed and tested."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from . import registry
from .model import Endpoint, Job, PageTier, Partition, Series, Window
from .ranges import DAY, HOUR, MAX_TIME, MINUTE, Interval, TimeRange, intersection, subtract

# Few pages in all: latency is the brake, take the largest page. That is so while the whole plan costs at most this share of one
# minute's weight; beyond it weight is the brake, and the thriftiest page brings the most rows (binance-facts 11).
LATENCY_SHARE = 0.5

# Settlements of one symbol are 8 h apart or less; the estimate feeds --dry-run only.
TYPICAL_SETTLEMENT = 8 * HOUR
# All symbols at once: 4 h hold one settlement of most symbols, about 711 rows of the 1,000 that fit (binance-facts 2.5).
SHARED_SPAN = 4 * HOUR
SHARED_LONGEST = 7 * DAY

# Rows after the announced end of a contract are not expected, but looked for from here on with one cheap request.
AFTERLIFE = DAY

Partitions = Callable[[Series, TimeRange], list[Partition]]


@dataclass(frozen=True, slots=True)
class Want:
    """One series as the planner sees it: the wanted `span`, what the lake has of it, and what is known of its life (ms UTC)."""

    series: Series
    span: TimeRange
    covered: tuple[TimeRange, ...] = ()
    first_row: int | None = None
    """The first row that is stored."""
    ends: int = MAX_TIME
    """When the contract was delivered or delisted."""
    holes: tuple[TimeRange, ...] = ()
    """Absent bars that the lake records."""
    first_bar: int | None = None
    """The first bar at or after the beginning of what is missing: the answer of a probe, or what needs none."""
    probed: bool = False
    wanted: int | None = None
    """Since when the series is wanted, by this run or an earlier one."""

    @property
    def missing(self) -> tuple[TimeRange, ...]:
        """Wanted and not covered."""
        return subtract([self.span], self.covered)

    @property
    def needs_probe(self) -> bool:
        """Whether something is missing before anything is known of the series, so that its first bar should be asked for."""
        if self.series.interval is None or self.probed or self.first_bar is not None:
            return False
        missing = self.missing
        return bool(missing) and (self.first_row is None or missing[0].start < self.first_row)

    @property
    def empty(self) -> tuple[TimeRange, ...]:
        """The missing ranges that a probe answered with nothing: those before the first bar that it found."""
        if not self.probed:
            return ()
        known = min(self.first_bar if self.first_bar is not None else MAX_TIME, self.first_row or MAX_TIME)
        return intersection(self.missing, [TimeRange(0, known)])

    @property
    def life(self) -> TimeRange:
        """From the first known row to the announced end; empty where a probe found no row at all."""
        known = (time for time in (self.first_row, self.first_bar) if time is not None)
        first = min(known, default=self.ends if self.probed else 0)
        return TimeRange(min(first, self.ends), self.ends)


def closed_end(interval_name: str | None, now: int) -> int:
    """Where the closed part of a series ends at the exchange's time `now`: the open of the running bar.

    Settlements come at full hours, up to 47 ms late: the minute after the hour belongs to it, the rest of the hour holds none.
    """
    if interval_name is not None:
        return registry.interval(interval_name).floor(now)
    hour = now - now % HOUR
    return min(now, hour + MINUTE)


def wanted(series: Series, start: int, end: int, now: int) -> TimeRange:
    """The part of [start, end) that is closed at `now`, on the grid of the series."""
    end = min(end, closed_end(series.interval, now))
    if series.interval is not None:
        interval = registry.interval(series.interval)
        start, end = interval.ceil(start), interval.ceil(end)
    return TimeRange(min(start, end), end)


def page_tier(endpoint: Endpoint, counts: Sequence[int], minute_weight: float) -> PageTier:
    """The page size for ranges of so many rows: the largest where latency is the brake, the thriftiest where weight is."""
    for tier in reversed(endpoint.tiers):
        if sum(_weight(endpoint, tier, count) for count in counts) <= minute_weight * LATENCY_SHARE:
            return tier
    return max(endpoint.tiers, key=lambda tier: tier.limit / tier.weight)


def _weight(endpoint: Endpoint, tier: PageTier, count: int) -> int:
    pages, rest = divmod(count, tier.limit)
    return pages * tier.weight + (endpoint.weight(rest) if rest else 0)


def plan(wants: Iterable[Want], partitions: Partitions, minute_weight: Callable[[str], float]) -> tuple[Job, ...]:
    """The jobs that fetch what is missing, in the order of the wants; `minute_weight(market)` is what may be spent in a minute.

    All wants of one dataset and market share a page size, because together they decide which brake holds.
    """
    jobs: list[Job] = []
    for (market, dataset), group in groupby(wants, key=lambda want: (want.series.market, want.series.dataset)):
        todo = [want for want in group if want.missing]
        endpoint = registry.dataset(dataset).endpoints[market]
        if not registry.dataset(dataset).has_interval:
            jobs += _settlements(todo, endpoint, partitions)
            continue
        counts = [_grid(want).count(span) for want in todo for span in subtract(want.missing, want.empty)]
        tier = page_tier(endpoint, counts, minute_weight(market))
        jobs += [job for want in todo for job in _bars(want, endpoint, tier, partitions)]
    return tuple(jobs)


def _grid(want: Want) -> Interval:
    assert want.series.interval is not None  # noqa: S101 - the caller asks for bars only
    return registry.interval(want.series.interval)


def _bars(want: Want, endpoint: Endpoint, tier: PageTier, partitions: Partitions) -> Iterable[Job]:
    """One job a partition; what is known to be empty goes to the first partition after it, or to the last one there is."""
    ask, empty = subtract(want.missing, want.empty), want.empty
    jobs = []
    for partition in partitions(want.series, TimeRange(ask[0].start, ask[-1].end)) if ask else ():
        inside = intersection(ask, [partition.period])
        windows = tuple(window for span in inside for window in _windows(want, endpoint, tier, span))
        if windows:  # there are none where no bar opens, as between New Year and the first Monday
            jobs.append(Job((want.series,), (partition,), "rest", windows, empty, want.life, want.wanted))
            empty = ()
    if empty:
        place = partitions(want.series, TimeRange(empty[-1].end - 1, empty[-1].end))
        jobs.append(Job((want.series,), tuple(place), "rest", (), empty, want.life, want.wanted))
    return jobs


def _windows(want: Want, endpoint: Endpoint, tier: PageTier, span: TimeRange) -> Iterable[Window]:
    """`span` in pages of the tier; what lies well behind the end of the contract in requests for one row."""
    interval = _grid(want)
    longest = registry.market(want.series.market).max_span or MAX_TIME
    afterlife = min(interval.ceil(min(max(want.ends + AFTERLIFE, span.start), span.end)), span.end)
    opens = interval.opens(TimeRange(span.start, afterlife))
    rows = min(tier.limit, longest // interval.typical_step - 1)  # one less, because a span may begin between two opens
    for index in range(0, len(opens), rows):
        page = opens[index : index + rows]
        end = opens[index + rows] if index + rows < len(opens) else afterlife
        start = page[0] if index else span.start
        yield Window(TimeRange(start, end), len(page), 1, endpoint.weight(len(page)), len(page))
    for start in range(afterlife, span.end, longest):
        # nothing is denied twice
        yield Window(TimeRange(start, min(start + longest, span.end)), 1, 2, 2 * endpoint.weight(1), 0)


def _settlements(wants: Sequence[Want], endpoint: Endpoint, partitions: Partitions) -> list[Job]:
    """One job a series, because its pages cross the years; or one for all, where that takes fewer requests."""
    together = _together(wants, endpoint)
    jobs = []
    if together:
        span = TimeRange(min(w.missing[0].start for w in together), max(w.missing[-1].end for w in together))
        cuts = [*range(span.start, span.end, SHARED_SPAN), span.end]
        windows = tuple(
            Window(TimeRange(start, end), endpoint.max_limit, 2, 2 * _price(endpoint), len(together))
            for start, end in pairwise(cuts)
        )
        places = tuple(place for want in together for place in partitions(want.series, span))
        jobs.append(Job(tuple(want.series for want in together), places, "rest", windows))
    shared = {want.series for want in together}
    for want in wants:
        if want.series not in shared:
            missing = want.missing
            span = TimeRange(missing[0].start, missing[-1].end)
            windows = tuple(_settlement_window(want, endpoint, piece) for piece in missing)
            jobs.append(Job((want.series,), tuple(partitions(want.series, span)), "rest", windows, wanted=want.wanted))
    return jobs


def _price(endpoint: Endpoint) -> int:
    """Weight of a page of settlements; nothing where they have a pool of their own."""
    return endpoint.weight(endpoint.max_limit) if endpoint.pool == "weight" else 0


def _settlement_window(want: Want, endpoint: Endpoint, span: TimeRange) -> Window:
    market = registry.market(want.series.market)
    rows = max(1, (span.end - max(span.start, market.first_time)) // TYPICAL_SETTLEMENT)
    full, rest = divmod(rows, endpoint.max_limit)
    requests = full + (3 if rest >= registry.DEFAULT_SETTLEMENTS else 2)  # the last page is asked for again, a long one goes on
    return Window(span, endpoint.max_limit, requests, requests * _price(endpoint), rows)


def _together(wants: Sequence[Want], endpoint: Endpoint) -> Sequence[Want]:
    """The series whose missing settlements are best asked for without symbol, window by window."""
    if not endpoint.without_symbol:
        return ()
    newest = max((want.missing[-1].end for want in wants), default=0)
    recent = [want for want in wants if want.missing[0].start >= newest - SHARED_LONGEST]
    if not recent:
        return ()
    windows = -(-(newest - min(want.missing[0].start for want in recent)) // SHARED_SPAN)
    return recent if len(recent) > windows else ()
