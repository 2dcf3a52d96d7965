"""Pages of the REST interface, made whole: a window is asked until every bar of its grid is there or was denied.

The server's pages may be short, empty, doubled, shuffled or cut at either end; a row counts by its content, and a bar is absent
only when several answers for its range lacked it (design: trap 2). So no rule depends on the order or the length of a page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from .. import grid, registry
from ..errors import BadAnswer
from ..grid import Times
from ..model import Series, Window
from ..ranges import DAY, HOUR, MAX_TIME, MINUTE, TimeRange
from ..registry import DENIALS, EXPECTED_DENIALS
from ..schema import mask
from ..schema import times as times_of
from . import wire
from .conversation import Conversation

# A server that keeps sending what was not asked for is given up after so many requests.
MAX_STUCK = 3
# A page that contradicts itself is asked for again so often; then its other rows are used.
MAX_CONTRADICTIONS = 6
# More holes than this in one window are asked for with one request over all of them instead of one each.
MAX_SINGLE_HOLES = 8


_Key = tuple[int, object]


class RestSource:
    """Answers windows over conversations, one a market. Thread-safe."""

    def __init__(self, conversation: Callable[[str], Conversation]) -> None:
        self._conversation = conversation

    def answer(self, series: Sequence[Series], window: Window) -> dict[Series, list[pa.Table]]:
        """The pages by series: exactly what lies in the window, repeats included."""
        if len(series) > 1:
            return self._all_settlements(series, window.span)
        one = series[0]
        return {one: self.bars(one, window) if one.interval else self.settlements(one, window.span)}

    def first_bar(self, series: Series, start: int, denials: int = DENIALS) -> int | None:
        """The open of the first bar at or after `start`, None if so many answers held none; one row where pages go forward."""
        market = registry.market(series.market)
        if not market.newest_first:
            # startTime=0 counts as "not given" on some endpoints (binance-facts 1.6).
            for _ in range(denials):
                found = times_of(series.dataset, self.page(series, TimeRange(max(start, 1), MAX_TIME), 1, bounded=False))
                if (found >= start).any():
                    return int(found[found >= start].min())
            return None
        # The market answers newest first within 200 days: walk to the first such range with a bar, then take its oldest one.
        assert market.max_span is not None  # noqa: S101 - declared together with newest_first
        now = self._conversation(series.market).now()
        daily = Series(series.market, series.dataset, series.symbol, "1d")
        at = max(start, market.first_time)
        for opens in range(at - at % DAY, now, market.max_span):
            day = self._oldest(daily, TimeRange(opens, opens + market.max_span), market.max_span // DAY)
            if day is not None:
                exact = self._oldest(series, TimeRange(max(day, start), day + DAY), 1500)
                interval = registry.interval(series.interval or "1d")
                return exact if exact is not None else interval.floor(max(day, start))
        return None

    def _oldest(self, series: Series, span: TimeRange, limit: int) -> int | None:
        """The first row of a range that a page can hold: when several answers for what lies before it were empty."""
        oldest, denials = None, 0
        while span and denials < DENIALS:
            times = times_of(series.dataset, self.page(series, span, limit))
            times = times[(times >= span.start) & (times < span.end)]
            if len(times):
                oldest = int(times.min())
                span, limit, denials = TimeRange(span.start, oldest), 1, 0
            else:
                denials += 1
        return oldest

    def bars(self, series: Series, window: Window) -> list[pa.Table]:
        """The pages that together hold every bar of the window that the exchange does not deny; repeats included."""
        interval = registry.interval(series.interval or "")
        max_limit = registry.dataset(series.dataset).endpoints[series.market].max_limit
        needed = DENIALS if window.rows else EXPECTED_DENIALS
        pending, limit = [(window.span, 0)], window.limit
        pages: list[pa.Table] = []
        seen: Times = np.empty(0, dtype=np.int64)
        stuck = 0
        while pending:
            span, denials = pending.pop()
            page = self.page(series, span, limit)
            times = times_of(series.dataset, page)
            inside = (times >= span.start) & (times < span.end)
            known, seen = len(seen), _union(seen, times[inside])
            if len(seen) > known:
                pages.append(page if inside.all() else page.filter(mask(inside)))
                stuck = 0
                denials = 0 if len(page) >= limit else 1  # a full page says nothing of the bars that it has no room for
            elif inside.all():
                denials, stuck = denials + 1, 0
            else:
                stuck += 1
                if stuck == MAX_STUCK:
                    raise BadAnswer(
                        f"{series}: {stuck} answers for {span} held other bars; the exchange does not keep its protocol"
                    )
            if denials < needed:
                runs = grid.absent(interval, span, seen)
                # Scattered holes are no cut or empty page: one more answer for all of them settles it.
                scattered = len(runs) > MAX_SINGLE_HOLES
                pending += [(left, max(denials, needed - 1) if scattered else denials) for left in _few(runs)]
            # The same question in one row is enough to see whether a range is empty; otherwise the page that holds it, and
            # room for as many rows as came unasked.
            rows = max((interval.count(left) for left, _ in pending), default=1) if len(seen) else 1
            limit = max(1, min(max_limit, rows + len(page) - int(inside.sum())))
        return pages

    def settlements(self, series: Series, span: TimeRange) -> list[pa.Table]:
        """The settlements of one symbol, each range asked until two answers in a row brought nothing new.

        No interval is assumed (contract G10). A full page goes on from its last time, which is asked for again, because two
        settlements may share it and the page may end between them. Any other page is asked for again as a whole, because
        nothing in it shows that a row is lacking; and where its distances let one expect, several times.
        """
        market = registry.market(series.market)
        limit = registry.dataset(series.dataset).endpoints[series.market].max_limit
        start = max(span.start, market.first_time)
        longest = market.max_span or MAX_TIME
        pending = [(TimeRange(at, min(at + longest, span.end)), 0) for at in range(start, span.end, longest)]
        pages: list[pa.Table] = []
        seen: set[_Key] = set()
        heard: dict[frozenset[_Key], TimeRange] = {}
        stuck = 0
        while pending:
            asked, denials = pending.pop()
            page = self.page(series, asked, limit)
            times = times_of(series.dataset, page)
            inside = (times >= asked.start) & (times < asked.end)
            answer = frozenset(zip(times.tolist(), page["rate_type"].to_pylist(), strict=True))
            keys = {key for key in answer if key[0] in asked}
            full = len(keys) >= limit
            known = {key for key in seen if key[0] in asked}
            if not keys <= seen:
                seen |= keys
                pages.append(page.filter(mask(inside)))
                denials, stuck = 0 if full else 1, 0
                pending += [(gap, 1) for gap in _few(_irregular(times[inside]))]
            elif not (full or known <= keys) or (not inside.all() and (not keys or heard.get(answer, asked) != asked)):
                stuck += 1  # it lacks what is known, or holds rows of elsewhere only, or repeats the answer to another question
                if stuck == MAX_STUCK:
                    raise BadAnswer(
                        f"{series}: {stuck} answers for {asked} were not about it; the exchange does not keep its protocol"
                    )
            else:
                denials, stuck = denials + 1, 0
            heard.setdefault(answer, asked)
            overdue = _overdue(seen, asked)
            if not full and denials < (DENIALS if overdue else EXPECTED_DENIALS):
                # After the second answer for the whole, what is overdue is asked for from the last settlement on: the page may
                # have been cut.
                last = max((time for time, _ in seen if time < asked.end), default=0) if denials >= EXPECTED_DENIALS else 0
                pending.append((TimeRange(max(asked.start, last), asked.end), denials))
            elif len(keys) >= registry.DEFAULT_SETTLEMENTS:
                first, last = (int(pick(time for time, _ in keys)) for pick in (min, max))
                behind = [TimeRange(last, asked.end)] + [TimeRange(asked.start, first + 1)] * market.newest_first
                pending += [(left, denials) for left in behind if left != asked]
        return pages

    def _all_settlements(self, series: Sequence[Series], span: TimeRange) -> dict[Series, list[pa.Table]]:
        """The settlements of all symbols in `span`, asked twice because nothing in one answer shows that a row is lacking, and
        more often where all are empty. A full page may hide rows, so it is asked again in halves, and within an hour by symbol.
        """
        first = series[0]
        endpoint = registry.dataset(first.dataset).endpoints[first.market]
        pages: dict[Series, list[pa.Table]] = {one: [] for one in series}
        by_symbol = {one.symbol: one for one in series}
        answers = stuck = 0
        while answers < (EXPECTED_DENIALS if any(pages.values()) else DENIALS):
            answer = self._settlements_of_all(first, span)
            if sum(len(page) for page in answer.values()) >= endpoint.max_limit:
                return self._split(series, span)
            times = {symbol: times_of(first.dataset, page) for symbol, page in answer.items()}
            inside = {symbol: (some >= span.start) & (some < span.end) for symbol, some in times.items()}
            for symbol in answer.keys() & by_symbol.keys():
                if inside[symbol].any():
                    pages[by_symbol[symbol]].append(answer[symbol].filter(mask(inside[symbol])))
            if answer and not any(some.any() for some in inside.values()):
                stuck += 1
                if stuck == MAX_STUCK:
                    raise BadAnswer(
                        f"{first.market} {first.dataset}: {stuck} answers for {span} held other settlements; "
                        "the exchange does not keep its protocol"
                    )
            else:
                answers += 1
        return pages

    def _settlements_of_all(self, first: Series, span: TimeRange) -> dict[str, pa.Table]:
        endpoint = registry.dataset(first.dataset).endpoints[first.market]
        for _ in range(MAX_CONTRADICTIONS):
            answer = self._conversation(first.market).get(
                endpoint.path,
                {"startTime": span.start, "endTime": span.end - 1, "limit": endpoint.max_limit},
                weight=endpoint.weight(endpoint.max_limit),
                pool=endpoint.pool,
                decode=wire.decoder_by_symbol(first.dataset),
            )
            if not any(_contradicts_itself(first.dataset, page) for page in answer.values()):
                break
        return answer

    def _split(self, series: Sequence[Series], span: TimeRange) -> dict[Series, list[pa.Table]]:
        if span.end - span.start <= HOUR:
            return {one: self.settlements(one, span) for one in series}
        middle = (span.start + span.end) // 2
        early = self._all_settlements(series, TimeRange(span.start, middle))
        late = self._all_settlements(series, TimeRange(middle, span.end))
        return {one: [*early[one], *late[one]] for one in series}

    def page(self, series: Series, span: TimeRange, limit: int, *, bounded: bool = True) -> pa.Table:
        """One page, as the server sends it; a start of 0 is not sent, nor, without `bounded`, the end.

        One that holds two different rows for one key is asked for again; whoever merges pages judges what stays so.
        """
        endpoint = registry.dataset(series.dataset).endpoints[series.market]
        limit = min(limit, endpoint.max_limit)
        params: dict[str, str | int] = {endpoint.symbol_param: series.symbol}
        if series.interval:
            params["interval"] = series.interval
        if span.start:
            params["startTime"] = span.start
        if bounded:
            params["endTime"] = span.end - 1
        params["limit"] = limit
        for _ in range(MAX_CONTRADICTIONS):
            page = self._conversation(series.market).get(
                endpoint.path, params, weight=endpoint.weight(limit), pool=endpoint.pool, decode=wire.decoder(series.dataset)
            )
            if not _contradicts_itself(series.dataset, page):
                break
        return page


def _contradicts_itself(dataset: str, page: pa.Table) -> bool:
    """Whether two different rows have one key. Sorted times without a repeat, the rule, cost a comparison."""
    if (np.diff(times_of(dataset, page)) > 0).all():
        return False
    distinct = page.group_by(page.schema.names, use_threads=False).aggregate([])
    return len(distinct.group_by(registry.dataset(dataset).key, use_threads=False).aggregate([])) < len(distinct)


def _union(some: Times, more: Times) -> Times:
    """Sorted and unique. No time is negative; np.union1d says the same, but hashes, and takes 0.03 ms more a page."""
    both = np.sort(np.concatenate((some, more)))
    return both[np.diff(both, prepend=-1) > 0]


def _overdue(seen: set[_Key], asked: TimeRange) -> bool:
    """Whether another settlement is to be expected in `asked`, by the distance of the last two, or the longest there is."""
    last = sorted({time for time, _ in seen if time < asked.end})[-2:]
    distance = last[1] - last[0] if len(last) == 2 else registry.LONGEST_FUNDING
    return asked.end - (last[-1] if last else asked.start) > distance + MINUTE


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
