"""Pages of the REST interface, made whole: a window is asked until every bar of its grid is there or was denied.

The server's pages may be short, empty, doubled, shuffled or cut at either end; a row counts by its content, and a bar is absent
only when two answers for its range lacked it (design: trap 2). So no rule depends on the order or the length of a page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from .. import grid, registry
from ..errors import BadAnswer, Cancelled, EtlError, Refused
from ..grid import Times
from ..model import Series, Window
from ..ranges import DAY, HOUR, MAX_TIME, MINUTE, TimeRange
from . import wire
from .conversation import Conversation

# So many answers must lack a bar before it counts as absent; fewer where none is expected, beyond the end of a contract.
DENIALS = 4
EXPECTED_DENIALS = 2
# A server that keeps sending what was not asked for is given up after so many requests.
MAX_STUCK = 3
# More holes than this in one window are asked for with one request over all of them instead of one each.
MAX_SINGLE_HOLES = 8


@dataclass(frozen=True, slots=True)
class Fetched:
    """The answer for one window: pages by series, exactly what lies in the window, repeats included; or the error instead."""

    window: Window
    pages: Mapping[Series, Sequence[pa.Table]]
    error: EtlError | None = None


class RestSource:
    """Fetches windows over conversations, one a market; several at once, on the threads of `pages`."""

    def __init__(self, conversation: Callable[[str], Conversation], pages: Executor) -> None:
        self._conversation = conversation
        self._pages = pages

    def fetch(self, series: Sequence[Series], windows: Sequence[Window]) -> Iterator[Fetched]:
        """The answers in the order in which they arrive; after Refused or Cancelled nothing more is asked."""
        futures = {self._pages.submit(self._window, series, window): window for window in windows}
        for future in as_completed(futures):
            try:
                yield Fetched(futures[future], future.result())
            except EtlError as error:
                if isinstance(error, Refused | Cancelled):
                    for waiting in futures:
                        waiting.cancel()
                    yield Fetched(futures[future], {}, error)
                    return
                yield Fetched(futures[future], {}, error)

    def first_bar(self, series: Series, start: int) -> int | None:
        """The open of the first bar at or after `start`, None if there is none yet; one row where the market pages forward."""
        market = registry.market(series.market)
        if not market.newest_first:
            # startTime=0 counts as "not given" on some endpoints (binance-facts 1.6).
            for _ in range(DENIALS):
                found = _times(series, self._page(series, TimeRange(max(start, 1), MAX_TIME), 1, bounded=False))
                if (found >= start).any():
                    return int(found[found >= start].min())
            return None
        # The market answers newest first within 200 days: walk to the first such range with a bar, then take its oldest one.
        assert market.max_span is not None  # noqa: S101 - declared together with newest_first
        now = self._conversation(series.market).now()
        at = max(start, market.first_time)
        daily = Series(series.market, series.dataset, series.symbol, "1d")
        while at < now:
            span = TimeRange(at, at + market.max_span)
            if len(self._page(daily, span, 1)):
                day = int(_times(daily, self._page(daily, span, market.max_span // DAY)).min())
                exact = _times(series, self._page(series, TimeRange(max(day, start), day + DAY), 1500))
                interval = registry.interval(series.interval or "1d")
                return int(exact.min()) if len(exact) else interval.floor(max(day, start))
            at = span.end
        return None

    def _window(self, series: Sequence[Series], window: Window) -> Mapping[Series, Sequence[pa.Table]]:
        if len(series) > 1:
            return self._all_settlements(series, window.span)
        one = series[0]
        return {one: self._bars(one, window) if one.interval else self._settlements(one, window.span)}

    def _bars(self, series: Series, window: Window) -> list[pa.Table]:
        interval = registry.interval(series.interval or "")
        max_limit = registry.dataset(series.dataset).endpoints[series.market].max_limit
        needed = DENIALS if window.rows else EXPECTED_DENIALS
        pending, limit = [(window.span, 0)], window.limit
        pages: list[pa.Table] = []
        seen: Times = np.empty(0, dtype=np.int64)
        stuck = 0
        while pending:
            span, denials = pending.pop()
            page = self._page(series, span, limit)
            times = _times(series, page)
            inside = (times >= span.start) & (times < span.end)
            fresh = np.setdiff1d(times[inside], seen)
            if len(page) and not len(fresh) and not inside.all():
                stuck += 1
                if stuck == MAX_STUCK:
                    raise BadAnswer(
                        f"{series}: {stuck} answers for {span} held other bars; the exchange does not keep its protocol"
                    )
                pending.append((span, denials))
                continue
            if len(fresh):
                pages.append(page if inside.all() else page.filter(pa.array(inside)))
                seen = np.union1d(seen, fresh)
            denials = 1 if len(fresh) else denials + 1
            if denials < needed:
                pending += [(left, denials) for left in _few(grid.absent(interval, span, seen))]
            # The same question in one row is enough to see whether a range is empty; otherwise the page that holds it.
            limit = (
                1 if not len(seen) else max(1, min(max_limit, max((interval.count(left) for left, _ in pending), default=1)))
            )
        return pages

    def _settlements(self, series: Series, span: TimeRange) -> list[pa.Table]:
        """Pages by the last settlement's own time, until a page brings nothing new: no interval is assumed (contract G10).

        The last time is asked for again, because two settlements may share it and the page may end between them; so an honest
        answer is never empty once there was a row. What the settlements so far let expect is asked for several times.
        """
        market = registry.market(series.market)
        limit = registry.dataset(series.dataset).endpoints[series.market].max_limit
        start = max(span.start, market.first_time)
        longest = market.max_span or MAX_TIME
        pending = [(TimeRange(at, min(at + longest, span.end)), 0) for at in range(start, span.end, longest)]
        pages: list[pa.Table] = []
        seen: set[tuple[int, object]] = set()
        stuck = 0
        while pending:
            asked, denials = pending.pop()
            page = self._page(series, asked, limit)
            times = _times(series, page)
            inside = (times >= asked.start) & (times < asked.end)
            rows, times = page.filter(pa.array(inside)), times[inside]
            keys = set(zip(times.tolist(), rows["rate_type"].to_pylist(), strict=True))
            again = any(time == asked.start for time, _ in seen)
            if keys <= seen and (not inside.all() or (again and not keys)):
                stuck += 1
                if stuck == MAX_STUCK:
                    raise BadAnswer(
                        f"{series}: {stuck} answers for {asked} were not about it; the exchange does not keep its protocol"
                    )
                pending.append((asked, denials))
            elif keys <= seen:
                if denials + 1 < (DENIALS if _overdue(seen, asked) else 1 if again else EXPECTED_DENIALS):
                    pending.append((asked, denials + 1))
            else:
                seen |= keys
                pages.append(rows)
                pending.append((TimeRange(int(times.max()), asked.end), 0))
                if market.newest_first and len(page) >= limit:
                    pending.append((TimeRange(asked.start, int(times.min()) + 1), 0))
                pending += [(gap, 0) for gap in _irregular(times)]
        return pages

    def _all_settlements(self, series: Sequence[Series], span: TimeRange) -> Mapping[Series, Sequence[pa.Table]]:
        """The settlements of all symbols in `span`, asked twice because nothing in one answer shows that a row is lacking.

        A full page may hide rows, so it is asked again in halves, and within an hour by symbol.
        """
        first = series[0]
        endpoint = registry.dataset(first.dataset).endpoints[first.market]
        pages: dict[Series, list[pa.Table]] = {one: [] for one in series}
        by_symbol = {one.symbol: one for one in series}
        for _ in range(EXPECTED_DENIALS):
            answer = self._conversation(first.market).get(
                endpoint.path,
                {"startTime": span.start, "endTime": span.end - 1, "limit": endpoint.max_limit},
                weight=endpoint.weight(endpoint.max_limit),
                pool=endpoint.pool,
                decode=wire.decoder_by_symbol(first.dataset),
            )
            if sum(len(page) for page in answer.values()) >= endpoint.max_limit:
                return self._split(series, span)
            for symbol, page in answer.items():
                if symbol in by_symbol:
                    times = _times(first, page)
                    pages[by_symbol[symbol]].append(page.filter(pa.array((times >= span.start) & (times < span.end))))
        return pages

    def _split(self, series: Sequence[Series], span: TimeRange) -> Mapping[Series, Sequence[pa.Table]]:
        if span.end - span.start <= HOUR:
            return {one: self._settlements(one, span) for one in series}
        middle = (span.start + span.end) // 2
        early = self._all_settlements(series, TimeRange(span.start, middle))
        late = self._all_settlements(series, TimeRange(middle, span.end))
        return {one: [*early[one], *late[one]] for one in series}

    def _page(self, series: Series, span: TimeRange, limit: int, *, bounded: bool = True) -> pa.Table:
        endpoint = registry.dataset(series.dataset).endpoints[series.market]
        limit = min(limit, endpoint.max_limit)
        params: dict[str, str | int] = {endpoint.symbol_param: series.symbol}
        if series.interval:
            params["interval"] = series.interval
        params["startTime"] = span.start
        if bounded:
            params["endTime"] = span.end - 1
        params["limit"] = limit
        return self._conversation(series.market).get(
            endpoint.path, params, weight=endpoint.weight(limit), pool=endpoint.pool, decode=wire.decoder(series.dataset)
        )


def _times(series: Series, page: pa.Table) -> Times:
    column = page[registry.dataset(series.dataset).time_column]
    return np.asarray(column.cast(pa.int64()).to_numpy())


def _overdue(seen: set[tuple[int, object]], asked: TimeRange) -> bool:
    """Whether the last two settlements before the end of `asked` let expect another one in it."""
    last = sorted({time for time, _ in seen if time < asked.end})[-2:]
    return len(last) == 2 and asked.end - last[1] > (last[1] - last[0]) + MINUTE


def _irregular(times: Times) -> list[TimeRange]:
    """The spaces between settlements that are longer than those on both sides: a settlement may have been left out there."""
    moments = np.unique(times)
    steps = np.diff(moments)
    if len(steps) < 3:
        return []
    longer = (steps[1:-1] > steps[:-2] + MINUTE) & (steps[1:-1] > steps[2:] + MINUTE)
    return [TimeRange(int(moments[i]), int(moments[i + 1])) for i in np.flatnonzero(longer) + 1]


def _few(runs: list[TimeRange]) -> list[TimeRange]:
    return runs if len(runs) <= MAX_SINGLE_HOLES else [TimeRange(runs[0].start, runs[-1].end)]
