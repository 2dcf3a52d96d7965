"""Pages made whole: against an exchange in memory that is honest in the end, however it shuffles, repeats or cuts its pages.

The exchange stands behind the `get` and `now` of a conversation, gives JSON to the real decoders, and refuses requests that
the real one refuses. Spoilers change its pages; expected rows come from what it was made with.
"""

import json
import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.errors import BadAnswer
from etl.extract.rest import RestSource
from etl.model import Partition, Series, Window
from etl.plan import Want, pages, plan
from etl.ranges import DAY, HOUR, MINUTE, TimeRange, parse_time, years
from etl.registry import INTERVALS

Rows = list[Any]
MAX_LIMIT = {"um": 1500, "cm": 1500, "spot": 1000}
START = parse_time("2024-03-01")


class Inline(Executor):
    """Does at once, in the caller's thread, what is submitted: one order of requests, so that a failure can be replayed."""

    def submit(self, work, /, *args, **kwargs):
        future = Future()
        try:
            future.set_result(work(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - a future holds whatever was raised
            future.set_exception(error)
        return future


@dataclass
class Request:
    path: str
    params: dict[str, Any]
    weight: int
    pool: str


@dataclass
class Exchange:
    """Bars of one interval at `opens`, or settlements `(time, rate type, symbol)`.

    `spoil(number, page, request, honest)` may lie, from the first request, number 0, on.
    """

    market: str = "um"
    opens: Iterable[int] = ()
    interval: str = "1m"
    settlements: Iterable[tuple[int, str | None, str]] = ()
    spoil: Callable[..., Rows] = lambda _number, page, *_: page
    clock: int = parse_time("2030-01-01")
    newest_first: bool | None = None
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._opens = sorted(self.opens)
        self._days = sorted({time - time % DAY for time in self.opens})
        self._settlements = sorted(self.settlements, key=lambda one: (one[0], one[2], str(one[1])))

    def now(self) -> int:
        return self.clock

    def get(self, path, params, *, weight, pool, decode):
        request = Request(path, dict(params), weight, pool)
        number = len(self.requests)
        self.requests.append(request)
        limit, start, end = params["limit"], params["startTime"], params.get("endTime", self.clock)
        funding = path.endswith("fundingRate")
        assert 1 <= limit <= (1000 if funding else MAX_LIMIT[self.market])
        assert 1 <= start <= end, "startTime=0 counts as absent; start after end is an error"
        if self.market == "cm":
            assert end - start + 1 <= 200 * DAY
        if funding:
            assert (weight, pool) == ((1, "funding") if self.market == "um" else (1, "weight"))
        elif self.market == "spot":
            assert (weight, pool) == (2, "weight")
        else:
            assert (weight, pool) == (1 if limit < 100 else 2 if limit < 500 else 5 if limit <= 1000 else 10, "weight")
        return decode(json.dumps(self.spoil(number, self.page(request.params), request.params, self.page)).encode())

    def page(self, params: dict[str, Any]) -> Rows:
        """The honest answer: the oldest `limit` rows of the inclusive range, or the newest where the market is so."""
        start, end, limit = params["startTime"], params.get("endTime", self.clock), params["limit"]
        newest = self.market == "cm" if self.newest_first is None else self.newest_first
        if "interval" in params:
            opens = self._opens if params["interval"] == self.interval else self._days
            found = opens[bisect_left(opens, start) : bisect_right(opens, end)]
            return [bar(time, params["interval"]) for time in (found[-limit:] if newest else found[:limit])]
        symbol = params.get("symbol")
        settled = [one for one in self._settlements if start <= one[0] <= end and symbol in {None, one[2]}]
        return [settlement(*one) for one in (settled[-limit:] if newest or symbol is None else settled[:limit])]


def bar(open: int, interval: str = "1m") -> Rows:
    price = open // 1000 % 9973 + 0.25
    close = INTERVALS[interval].next(open) - 1
    return [
        open,
        f"{price}",
        f"{price + 2}",
        f"{price - 1}",
        f"{price + 1}",
        "3.5",
        close,
        "77.00",
        open // 60_000 % 50,
        "1.5",
        "33.0",
        "0",
    ]


def settlement(time: int, kind: str | None, symbol: str) -> dict[str, Any]:
    row = {
        "symbol": symbol,
        "fundingTime": time,
        "fundingRate": f"{time % 97 / 1e6:.8f}",
        "markPrice": "" if kind is None else "12.5",
    }
    return row if kind is None else {**row, "rateType": kind}


def stored_bar(open: int, interval: str = "1m") -> tuple[Any, ...]:
    row = bar(open, interval)
    return (open, *map(float, row[1:6]), row[6], float(row[7]), row[8], float(row[9]), float(row[10]))


def stored_settlement(time: int, kind: str | None, symbol: str) -> tuple[Any, ...]:
    return (time, float(f"{time % 97 / 1e6:.8f}"), None if kind is None else 12.5, kind)


def plain(tables) -> list[tuple[Any, ...]]:
    """Rows of tables as tuples, times as milliseconds; repeats and order as they came."""
    rows = []
    for table in tables:
        columns = [column.cast("int64") if str(column.type).startswith("timestamp") else column for column in table.columns]
        rows += zip(*(column.to_pylist() for column in columns), strict=True)
    return rows


def source(exchange: Exchange) -> RestSource:
    return RestSource(lambda market: exchange)


def series_of(exchange: Exchange) -> Series:
    return Series(exchange.market, "klines", "BTCUSDT", exchange.interval)


def window(start: int, end: int, interval: str = "1m") -> Window:
    count = INTERVALS[interval].count(TimeRange(start, end))
    return Window(TimeRange(start, end), count, 1, 1, count)


def ask(exchange: Exchange, *windows: Window, series: Series | None = None) -> set[tuple[Any, ...]]:
    """The rows of all windows; every row lies in its window."""
    series = series or series_of(exchange)
    found: set[tuple[Any, ...]] = set()
    for each in windows:
        rows = plain(source(exchange).answer([series], each)[series])
        assert all(row[0] in each.span for row in rows)
        found |= set(rows)
    return found


# ---- bars


# A spoiler that keeps all rows, or adds some, is harmless; one that lacks rows may come once, because two answers decide.


def shuffled(page: Rows, *_: Any) -> Rows:
    return random.Random(len(page)).sample(page, len(page))


def twice(page: Rows, *_: Any) -> Rows:
    return page + page


def last_again(page: Rows, *_: Any) -> Rows:
    return page + page[-1:]


def open_bar_extra(page: Rows, params: dict[str, Any], _honest: Any) -> Rows:
    return [*page, bar(parse_time("2029-12-31"), params["interval"])]


def overlap(page: Rows, params: dict[str, Any], honest: Any) -> Rows:
    """The page begins earlier and has no room for its last rows."""
    return honest({**params, "startTime": max(1, params["startTime"] - 2 * INTERVALS[params["interval"]].typical_step)})


def both_ends_extra(page: Rows, params: dict[str, Any], _honest: Any) -> Rows:
    step = INTERVALS[params["interval"]].typical_step
    return [bar(params["startTime"] - step, params["interval"]), *page, bar(params["endTime"] + 1 + step, params["interval"])]


def empty(_page: Rows, *_: Any) -> Rows:
    return []


def short(page: Rows, *_: Any) -> Rows:
    return page[: len(page) // 2]


def without_last(page: Rows, *_: Any) -> Rows:
    return page[:-1]


def without_first(page: Rows, *_: Any) -> Rows:
    return page[1:]


def without_middle(page: Rows, *_: Any) -> Rows:
    third = len(page) // 3
    return page[:third] + page[2 * third + 1 :]


def every_third(page: Rows, *_: Any) -> Rows:
    return page[::3]


HARMLESS = [shuffled, twice, last_again]
LACKING = [empty, short, without_last, without_first, without_middle, every_third]
# These hold rows that were not asked for. Asked for a hole they say nothing about it: three such answers are too many.
FOREIGN = [open_bar_extra, both_ends_extra]


def spoilers(by_number: dict[int, Callable[..., Rows]]) -> Callable[..., Rows]:
    def spoil(number: int, page: Rows, params: dict[str, Any], honest: Any) -> Rows:
        return by_number.get(number, lambda page, *_: page)(page, params, honest)

    return spoil


@st.composite
def lies(draw, most: int = 12):
    """Harmless spoilers at any request, at most one that lacks rows and at most two with foreign rows."""
    numbers = st.integers(0, most)
    found = dict(draw(st.lists(st.tuples(numbers, st.sampled_from(HARMLESS)), max_size=4)))
    found |= dict(draw(st.lists(st.tuples(numbers, st.sampled_from(FOREIGN)), max_size=2)))
    return found | dict(draw(st.lists(st.tuples(numbers, st.sampled_from(LACKING)), max_size=1)))


@st.composite
def bars_in_a_window(draw):
    """A window of 1 to 40 bars, any subset of them and of bars around it, and a market."""
    market = draw(st.sampled_from(["um", "cm", "spot"]))
    interval = draw(st.sampled_from(["1m", "4h", "1w", "1M"])) if market != "cm" else "1m"
    grid = INTERVALS[interval].opens(TimeRange(parse_time("2019-01-01"), parse_time("2029-01-01")))[-60:]
    first = draw(st.integers(3, 40))
    last = draw(st.integers(first + 1, min(first + 40, 57)))
    lacking = set(draw(st.lists(st.sampled_from(list(grid)), max_size=draw(st.sampled_from([0, 2, 60])))))
    start = grid[first] - draw(st.integers(0, grid[first] - grid[first - 1] - 1))  # a window may begin between two opens
    return market, interval, set(grid) - lacking, window(start, grid[last], interval)


@given(bars_in_a_window(), lies())
@settings(max_examples=200)
def test_a_window_brings_exactly_the_bars_there_are(case, spoiled):
    market, interval, opens, asked = case
    exchange = Exchange(market, opens, interval, spoil=spoilers(spoiled))
    assert ask(exchange, asked) == {stored_bar(time, interval) for time in opens if time in asked.span}
    assert len(exchange.requests) <= 50 * (1 + len(spoiled))  # up to eight holes are asked for one by one
    assert all(
        asked.span.start <= one.params["startTime"] <= one.params["endTime"] < asked.span.end for one in exchange.requests
    )


def test_a_whole_page_is_asked_for_once():
    exchange = Exchange(opens=range(START, START + DAY, MINUTE))
    assert len(ask(exchange, window(START, START + DAY))) == 1440
    (request,) = exchange.requests
    assert request.path == "/fapi/v1/klines"
    assert request.params == {
        "symbol": "BTCUSDT",
        "interval": "1m",
        "startTime": START,
        "endTime": START + DAY - 1,
        "limit": 1440,
    }


def test_a_hole_is_asked_for_again_and_no_more_than_it_holds():
    hole = range(START + 100 * MINUTE, START + 110 * MINUTE, MINUTE)
    exchange = Exchange(opens=set(range(START, START + DAY, MINUTE)) - set(hole))
    assert len(ask(exchange, window(START, START + DAY))) == 1430
    again = {(one.params["startTime"], one.params["endTime"], one.params["limit"]) for one in exchange.requests[1:]}
    assert again == {(hole[0], hole[-1] + MINUTE - 1, 10)}
    assert len(exchange.requests) <= 8


def test_many_holes_are_asked_for_together():
    exchange = Exchange(opens=range(START, START + DAY, 2 * MINUTE))
    assert len(ask(exchange, window(START, START + DAY))) == 720
    assert len(exchange.requests) <= 8


def test_where_there_is_nothing_one_row_is_enough_to_see_it_again():
    exchange = Exchange()
    assert ask(exchange, window(START, START + DAY)) == set()
    limits = [one.params["limit"] for one in exchange.requests]
    assert limits[0] == 1440
    assert set(limits[1:]) == {1}
    assert len(limits) <= 8


def test_an_empty_page_that_is_not_true_costs_two_more_requests():
    exchange = Exchange(opens=range(START, START + DAY, MINUTE), spoil=spoilers({0: empty}))
    assert len(ask(exchange, window(START, START + DAY))) == 1440
    assert [one.params["limit"] for one in exchange.requests] == [1440, 1, 1439]


def test_rows_after_the_announced_end_are_all_found():
    """A window that expects nothing asks for one row; what it finds says nothing of the rows behind it."""
    life = range(START, START + 3000 * MINUTE, MINUTE)
    exchange = Exchange(opens=life, spoil=spoilers({1: empty}))
    afterlife = Window(TimeRange(START, START + 30 * DAY), 1, 2, 2, 0)
    assert ask(exchange, afterlife) == {stored_bar(time) for time in life}
    assert len(exchange.requests) < 10


def test_an_exchange_whose_every_page_begins_early_is_understood():
    exchange = Exchange(opens=range(START - DAY, START + DAY, MINUTE), spoil=lambda _number, *rest: overlap(*rest))
    assert ask(exchange, window(START, START + 500 * MINUTE)) == {
        stored_bar(time) for time in range(START, START + 500 * MINUTE, MINUTE)
    }
    assert len(exchange.requests) == 2


@pytest.mark.parametrize("market", ["um", "cm"])
def test_a_page_that_never_changes_is_given_up(market):
    stuck = [bar(time) for time in range(START - DAY, START, MINUTE)]
    exchange = Exchange(market, range(START, START + DAY, MINUTE), spoil=lambda *_: stuck)
    with pytest.raises(BadAnswer, match=r"klines BTCUSDT 1m: 3 answers for 2024-03-01T00:00:00Z.* held other bars"):
        ask(exchange, window(START, START + DAY))
    assert len(exchange.requests) == 3


def test_a_page_that_never_changes_after_a_good_beginning_is_given_up():
    beginning = [bar(START + n * MINUTE) for n in range(100)]
    exchange = Exchange(opens=range(START, START + DAY, MINUTE), spoil=lambda *_: beginning)
    with pytest.raises(BadAnswer, match="held other bars"):
        ask(exchange, window(START, START + DAY))
    assert len(exchange.requests) == 4


@given(st.integers(1, 60))
@settings(max_examples=20)
def test_pages_that_are_always_too_short_bring_everything_in_the_end(most):
    exchange = Exchange(opens=range(START, START + 200 * MINUTE, MINUTE), spoil=lambda _number, page, *_: page[:most])
    assert len(ask(exchange, window(START, START + 200 * MINUTE))) == 200
    assert len(exchange.requests) == -(-200 // most)


@pytest.mark.parametrize("market", ["um", "cm", "spot"])
@pytest.mark.parametrize("interval", ["4h", "1d", "1w"])
@pytest.mark.parametrize("scarce", [True, False])
def test_a_plan_of_years_brings_every_bar_of_any_market(market, interval, scarce):
    """Planner and source together: newest-first pages and the limit of 200 days lose nothing."""
    span = TimeRange(parse_time("2021-01-01"), parse_time("2023-01-02"))
    grid = INTERVALS[interval].opens(span)
    dice = random.Random(7)
    opens = {time for time in grid if dice.random() > 0.01 and not 50 < grid.index(time) < 70}
    exchange = Exchange(market, opens, interval)
    want = Want(series_of(exchange), span, first_row=span.start)
    jobs = plan([want], lambda series, span: [Partition(series, *one) for one in years(span)], lambda _: 0 if scarce else 1e9)
    windows = [page for job in jobs for window in job.windows for page in pages(job.series[0], window)]
    assert ask(exchange, *windows) == {stored_bar(time, interval) for time in opens}


def test_datasets_of_pairs_are_asked_by_pair():
    exchange = Exchange(opens=[START])
    index = Series("um", "index_klines", "BTCUSDT", "1m")
    source(exchange).answer([index], window(START, START + MINUTE))
    assert exchange.requests[0].path == "/fapi/v1/indexPriceKlines"
    assert exchange.requests[0].params["pair"] == "BTCUSDT"
    assert "symbol" not in exchange.requests[0].params


# ---- the first bar


@given(st.integers(0, 800), st.integers(0, 800 * DAY // MINUTE), st.sampled_from(["um", "cm", "spot"]), st.booleans())
@settings(max_examples=50)
def test_the_first_bar_at_or_after_a_time(listed, asked, market, ends):
    """Hourly bars from the half hour of some day on; asked at any minute."""
    first = parse_time("2021-01-01") + listed * DAY + 5 * HOUR
    end = first + 40 * DAY if ends else parse_time("2024-01-01")
    start = INTERVALS["1h"].ceil(parse_time("2021-01-01") + asked * MINUTE)
    exchange = Exchange(market, range(first, end, HOUR), "1h", clock=parse_time("2024-01-01"))
    found = source(exchange).first_bar(series_of(exchange), start)
    expected = max(first, start) if start < end else None
    if market == "cm" and expected is not None and start > end - DAY:
        assert found is None or found <= expected  # the last day's bar says that there was something, not until when
    elif expected is None and market == "cm":
        assert found is None or start <= found < start + DAY
    else:
        assert found == expected


@pytest.mark.parametrize("market", ["um", "cm", "spot"])
@pytest.mark.parametrize("lie", LACKING)
@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_one_answer_that_lacks_the_first_bar_is_not_believed(market, lie, number):
    """What lies before the first bar is recorded as empty, never to be asked for again: so two answers must agree."""
    first = START + 5 * HOUR
    exchange = Exchange(market, range(first, first + 10 * DAY, HOUR), "1h", spoil=spoilers({number: lie}))
    assert source(exchange).first_bar(series_of(exchange), START - 250 * DAY) == first


def test_a_first_bar_where_one_was_looked_for_needs_no_second_answer():
    exchange = Exchange(opens=range(START, START + DAY, MINUTE))
    assert source(exchange).first_bar(series_of(exchange), START) == START
    assert [one.params for one in exchange.requests] == [
        {"symbol": "BTCUSDT", "interval": "1m", "startTime": START, "limit": 1}
    ]


def test_an_answer_of_earlier_rows_alone_is_asked_again():
    opens = range(START - 50 * DAY, START + 50 * DAY, HOUR)
    exchange = Exchange("um", opens, "1h", spoil=spoilers({0: lambda *_: [bar(opens[0], "1h")]}))
    assert source(exchange).first_bar(series_of(exchange), START) == START


@pytest.mark.parametrize("market", ["um", "cm"])
def test_rows_from_before_the_question_are_not_the_first_bar(market):
    opens = range(START - 50 * DAY, START + 50 * DAY, HOUR)
    exchange = Exchange(
        market, opens, "1h", spoil=lambda number, page, params, honest: [bar(opens[0], params["interval"]), *page]
    )
    assert source(exchange).first_bar(series_of(exchange), START) == START


@pytest.mark.parametrize("market", ["um", "cm"])
def test_there_is_no_first_bar_yet(market):
    exchange = Exchange(market, clock=START)
    assert source(exchange).first_bar(series_of(exchange), START - 300 * DAY) is None


def test_a_week_of_coin_m_opens_before_its_first_day_of_trading():
    listed = parse_time("2024-03-06")  # a Wednesday; the week's bar opens on Monday
    monday = parse_time("2024-03-04")
    exchange = Exchange(
        "cm", [monday, *range(monday + 7 * DAY, monday + 70 * DAY, 7 * DAY)], "1w", clock=parse_time("2024-06-01")
    )
    days = range(listed, listed + 60 * DAY, DAY)
    exchange.page = (
        lambda params: (  # days and weeks are not one grid here
            [bar(day, "1d") for day in days if params["startTime"] <= day <= params["endTime"]][-params["limit"] :]
            if params["interval"] == "1d"
            else Exchange.page(exchange, params)
        )
    )
    assert source(exchange).first_bar(series_of(exchange), parse_time("2023-01-02")) == monday


# ---- settlements of one symbol


FUNDING = Series("um", "funding", "BTCUSDT")


def funding_window(start: int, end: int) -> Window:
    return Window(TimeRange(start, end), 1000, 2, 2, 1)


def history(*steps: tuple[int, int], start: int = START, jitter: int = 47) -> list[tuple[int, str | None, str]]:
    """Settlements `count` times every `hours`, each some milliseconds late."""
    dice, time, found = random.Random(3), start, []
    for hours, count in steps:
        for _ in range(count):
            found.append((time + dice.randint(0, jitter), "Regular", "BTCUSDT"))
            time += hours * HOUR
    return found


def ask_funding(exchange: Exchange, start: int, end: int) -> list[tuple[Any, ...]]:
    """Unique rows by time and rate type; none with two contents."""
    rows = ask(exchange, funding_window(start, end), series=Series(exchange.market, "funding", "BTCUSDT"))
    assert len({(row[0], row[3]) for row in rows}) == len(rows)
    return sorted(rows, key=str)


def rows_of(settlements) -> list[tuple[Any, ...]]:
    return sorted({stored_settlement(*one) for one in settlements}, key=str)


def test_ten_thousand_settlements_across_changes_of_the_interval():
    settled = history((8, 1500), (4, 1100), (1, 10_500), (4, 7), (8, 3))
    exchange = Exchange(settlements=settled)
    assert ask_funding(exchange, START, settled[-1][0] + 1) == rows_of(settled)
    assert len(exchange.requests) <= 14 + 3


@pytest.mark.parametrize("market", ["um", "cm"])
def test_a_few_settlements_take_two_requests(market):
    settled = history((8, 21))
    exchange = Exchange(market, settlements=settled)
    assert ask_funding(exchange, START, START + 7 * DAY) == rows_of(settled)
    assert len(exchange.requests) == 2


def test_two_settlements_at_one_time_may_be_cut_by_the_end_of_a_page():
    settled = history((8, 999), (8, 1), (8, 5), jitter=0)
    special = (settled[999][0], "Special", "BTCUSDT")
    exchange = Exchange(settlements=[*settled, special])
    assert ask_funding(exchange, START, settled[-1][0] + 1) == rows_of([*settled, special])


def test_settlements_before_the_exchange_began_are_not_asked_for():
    exchange = Exchange(settlements=history((8, 3)))
    assert ask_funding(exchange, 0, START + DAY) == rows_of(history((8, 3)))
    assert {one.params["startTime"] for one in exchange.requests} == {parse_time("2019-09-01")}
    assert ask_funding(exchange, 0, parse_time("2019-08-01")) == []


@pytest.mark.parametrize(("hours", "requests"), [(4, 2), (8, 2), (9, 6), (24, 6)])
def test_a_range_without_settlements_is_asked_for_again_the_more_so_where_one_is_due(hours, requests):
    exchange = Exchange()
    assert ask_funding(exchange, START, START + hours * HOUR) == []
    assert len(exchange.requests) == requests


@pytest.mark.parametrize("newest_first", [True, False])
def test_coin_m_is_asked_in_200_days_and_may_begin_or_end_in_any_of_them(newest_first):
    settled = history((1, 5000), (8, 300), start=parse_time("2021-05-05"))
    exchange = Exchange("cm", settlements=settled, newest_first=newest_first)
    assert ask_funding(exchange, parse_time("2020-06-01"), parse_time("2024-06-01")) == rows_of(settled)


@st.composite
def settled(draw):
    """Settlements in steps of 1, 4 or 8 h, some with a special one at the same time, some older ones without a rate type."""
    steps = draw(st.lists(st.tuples(st.sampled_from([1, 4, 8]), st.integers(1, 12)), max_size=4))
    rows = history(*steps, jitter=draw(st.sampled_from([0, 47])))
    bare = draw(st.integers(0, len(rows)))
    rows = [(time, None if n < bare else kind, symbol) for n, (time, kind, symbol) in enumerate(rows)]
    doubled = draw(st.lists(st.sampled_from(rows), max_size=3)) if rows else []
    return rows + [(time, "Special", symbol) for time, _, symbol in doubled]


FUNDING_LIES = [shuffled, twice, last_again]


@given(settled(), st.data(), st.sampled_from(["um", "cm"]))
@settings(max_examples=120)
def test_a_window_brings_exactly_the_settlements_there_are(rows, data, market):
    numbers = st.integers(0, 6)
    spoiled = dict(data.draw(st.lists(st.tuples(numbers, st.sampled_from(FUNDING_LIES)), max_size=3)))
    spoiled |= dict(data.draw(st.lists(st.tuples(numbers, st.sampled_from(LACKING)), max_size=1)))
    exchange = Exchange(market, settlements=rows, spoil=spoilers(spoiled))
    start = START + data.draw(st.integers(-5, 100)) * HOUR
    end = start + data.draw(st.integers(1, 400)) * HOUR
    assert ask_funding(exchange, start, end) == rows_of(one for one in rows if start <= one[0] < end)
    assert len(exchange.requests) <= 20 + 8 * len(spoiled)


@pytest.mark.parametrize("lie", LACKING)
@pytest.mark.parametrize("overdue", [True, False])
def test_one_page_that_lacks_a_settlement_is_not_believed(lie, overdue):
    """Also where the end is missing several settlements, which alone would be asked for again; and behind a full page."""
    for count, number in ((1, 0), (2, 0), (3, 0), (5, 0), (150, 0), (1001, 0), (1001, 1)):
        settled = history((8, count))
        exchange = Exchange(settlements=settled, spoil=spoilers({number: lie}))
        end = settled[-1][0] + (3 * DAY if overdue else 1)
        assert ask_funding(exchange, START, end) == rows_of(settled)


@pytest.mark.parametrize("most", [100, 200, 500, 999])
def test_an_exchange_that_sends_fewer_rows_than_asked_for_is_followed_to_the_end(most):
    settled = history((8, 500), (4, 1000), (1, 700))
    exchange = Exchange(settlements=settled, spoil=lambda _number, page, *_: page[:most])
    assert ask_funding(exchange, START, settled[-1][0] + DAY) == rows_of(settled)


@pytest.mark.parametrize("market", ["um", "cm"])
def test_funding_pages_that_always_begin_early_are_understood(market):
    settled = history((8, 300), (4, 300))

    def early(_number, _page, params, honest):
        return honest({**params, "startTime": params["startTime"] - 8 * HOUR})

    exchange = Exchange(market, settlements=settled, spoil=early)
    exchange_start = START + 10 * DAY
    expected = rows_of(one for one in settled if one[0] >= exchange_start)
    assert ask_funding(exchange, exchange_start, settled[-1][0] + DAY) == expected


@pytest.mark.parametrize("first_page", ["before", "within"])
def test_a_funding_page_that_never_changes_is_given_up(first_page):
    settled = history((8, 3000))
    stuck = [settlement(*one) for one in settled[:1000]]
    exchange = Exchange(settlements=settled, spoil=lambda *_: stuck)
    start = START if first_page == "within" else settled[1500][0]
    with pytest.raises(BadAnswer, match="funding BTCUSDT"):
        ask_funding(exchange, start, settled[-1][0] + 1)
    assert len(exchange.requests) <= 4


def test_an_exchange_that_forgets_what_it_said_is_given_up():
    exchange = Exchange(settlements=history((8, 30)), spoil=lambda number, page, *_: page if number == 0 else [])
    with pytest.raises(BadAnswer, match="funding BTCUSDT"):
        ask_funding(exchange, START, START + 20 * DAY)
    assert len(exchange.requests) == 4


# ---- settlements of all symbols


def ask_together(exchange: Exchange, symbols: list[str], *windows: Window) -> dict[str, list[tuple[Any, ...]]]:
    series = [Series("um", "funding", symbol) for symbol in symbols]
    found: dict[str, set[tuple[Any, ...]]] = {symbol: set() for symbol in symbols}
    for each in windows:
        for one, tables in source(exchange).answer(series, each).items():
            rows = plain(tables)
            assert all(row[0] in each.span for row in rows)
            found[one.symbol] |= set(rows)
    return {symbol: sorted(rows, key=str) for symbol, rows in found.items()}


def universe(symbols: int, start: int, hours: Iterable[int]) -> list[tuple[int, str | None, str]]:
    dice = random.Random(5)
    return [(start + hour * HOUR + dice.randint(0, 47), "Regular", f"S{n}") for hour in hours for n in range(symbols)]


def by_symbol(settled, symbols, start, end) -> dict[str, list[tuple[Any, ...]]]:
    return {s: rows_of(one for one in settled if one[2] == s and start <= one[0] < end) for s in symbols}


def test_all_symbols_are_asked_for_at_once_and_twice():
    settled = universe(300, START, [0, 1, 2])
    exchange = Exchange(settlements=settled)
    symbols = [f"S{n}" for n in range(50)] + ["NONE"]
    window = funding_window(START, START + 4 * HOUR)
    assert ask_together(exchange, symbols, window) == by_symbol(settled, symbols, START, START + 4 * HOUR)
    assert [one.params for one in exchange.requests] == [
        {"startTime": START, "endTime": START + 4 * HOUR - 1, "limit": 1000}
    ] * 2


def test_a_full_page_is_asked_again_in_halves_and_then_by_symbol():
    settled = universe(600, START, [0, 1, 3]) + universe(1100, START, [2])
    exchange = Exchange(settlements=settled)
    symbols = [f"S{n}" for n in range(0, 1100, 100)]
    window = funding_window(START, START + 4 * HOUR)
    assert ask_together(exchange, symbols, window) == by_symbol(settled, symbols, START, START + 4 * HOUR)
    named = [one.params["symbol"] for one in exchange.requests if "symbol" in one.params]
    assert sorted(set(named)) == sorted(symbols)
    assert len(named) == 2 * len(symbols)
    assert all(one.params["startTime"] >= START + 2 * HOUR for one in exchange.requests if "symbol" in one.params)


@given(st.integers(0, 3), st.sampled_from([*LACKING, shuffled, twice]), st.integers(1, 1100))
@settings(max_examples=20)
def test_one_lie_about_all_symbols_is_healed(number, lie, symbols):
    settled = universe(symbols, START, [1])
    exchange = Exchange(settlements=settled, spoil=spoilers({number: lie}))
    asked = ["S0", f"S{symbols - 1}", f"S{symbols // 2}", f"S{symbols // 3}"]
    window = funding_window(START, START + 4 * HOUR)
    assert ask_together(exchange, asked, window) == by_symbol(settled, asked, START, START + 4 * HOUR)


def test_a_page_of_all_symbols_that_never_changes_is_given_up():
    settled = universe(100, START, range(12))
    stuck = [settlement(*one) for one in settled[:100]]
    exchange = Exchange(settlements=settled, spoil=lambda *_: stuck)
    with pytest.raises(BadAnswer, match="funding"):
        ask_together(exchange, ["S0", "S1"], funding_window(START + 4 * HOUR, START + 8 * HOUR))
    assert len(exchange.requests) == 3


# ---- failures and their neighbours
