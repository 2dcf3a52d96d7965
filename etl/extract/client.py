"""The public client: the exchange's market data as pandas frames and plain values, for one market, without an account."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Literal, Self, TypedDict, TypeVar, overload

import pyarrow as pa
import pyarrow.compute as pc

from .. import registry
from ..errors import UsageError
from ..model import Endpoint, SymbolRules
from ..ranges import HOUR, MAX_TIME, Interval, TimeRange, from_datetime, iso, parse_time
from ..schema import arrow_schema
from . import wire
from .conversation import Conversation, Stats
from .http import Params

if TYPE_CHECKING:
    from types import TracebackType

    import pandas as pd

Time = str | int | date | datetime
"""A date or date-time, as text or object, UTC unless it carries a zone; or milliseconds UTC."""

_T = TypeVar("_T")

# Weight by limit (binance-facts 2.1; for spot the exchange's own REST documentation).
_FUTURES_DEPTHS = {5: 2, 10: 2, 20: 2, 50: 2, 100: 5, 500: 10, 1000: 20}
_SPOT_DEPTHS = {5: 5, 10: 5, 20: 5, 50: 5, 100: 5, 500: 25, 1000: 50, 5000: 250}


class BestPrice(TypedDict):
    """Best bid and ask: prices in quote asset, quantities in base asset (cm: contracts); `time` is None on spot."""

    symbol: str
    bid: float
    bid_qty: float
    ask: float
    ask_qty: float
    time: pd.Timestamp | None


class OrderBook(TypedDict):
    """`bids` from the highest down, `asks` from the lowest up: columns price, qty."""

    bids: pd.DataFrame
    asks: pd.DataFrame


class BinanceFuturesClient:
    """Market data of one market (`um`, `cm` or `spot`) of the exchange, of its test network (`mainnet=False`) or of `base_url`.

    Keeps its connections open and keeps to the exchange's rate limits by itself; threads may share it. Use it as a context
    manager, or close it. Every method raises Transient (network, after several attempts), Rejected (our request is wrong),
    Refused (this host is refused), BadAnswer, or UsageError (mostly before anything is sent).
    """

    def __init__(
        self,
        mainnet: bool = True,  # noqa: FBT001, FBT002 - the public name, used positionally
        base_url: str | None = None,
        market: str = "um",
        *,
        conversation: Conversation | None = None,
    ) -> None:
        self._market = conversation.market if conversation else registry.market(market)
        url = base_url or (self._market.url if mainnet else self._market.testnet_url)
        self._conversation = conversation or Conversation(self._market, url)
        self._owned = conversation is None

    def close(self) -> None:
        """Closes the connections, unless the conversation was passed in."""
        if self._owned:
            self._conversation.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def stats(self) -> Stats:
        """What the client has asked so far."""
        return self._conversation.stats

    # ---- the present

    def get_server_time(self) -> pd.Timestamp:
        """The exchange's clock, UTC. Source: `time`, weight 1."""
        return _timestamp(self._ask("time", weight=1, decode=wire.server_time))

    @overload
    def get_best_price(self, symbol: str) -> BestPrice: ...
    @overload
    def get_best_price(self, symbol: None = None) -> pd.DataFrame: ...
    def get_best_price(self, symbol: str | None = None) -> BestPrice | pd.DataFrame:
        """Best bid and ask of `symbol` as a dict of floats, or of all symbols as a frame with the same columns.

        Prices are in the quote asset, quantities in the base asset (cm: contracts), `time` is UTC, and None (NaT) on spot. A
        contract that no longer trades is still listed, with zeros. Source: `ticker/bookTicker`, weight 2, for all 5 (spot 4).
        """
        if symbol is None:
            schema = pa.schema([("symbol", pa.string()), *((n, pa.float64()) for n in _PRICES), ("time", _MS)])
            return _frame(_records(schema, self._tickers(None)))
        ticker = self._ticker(symbol)
        return {
            "symbol": ticker.symbol,
            "bid": ticker.bid,
            "bid_qty": ticker.bid_qty,
            "ask": ticker.ask,
            "ask_qty": ticker.ask_qty,
            "time": None if ticker.time is None else _timestamp(ticker.time),
        }

    def get_order_book(self, symbol: str, limit: int = 100) -> OrderBook:
        """The `limit` best bids and asks of `symbol`, as two frames with the columns price (quote asset) and qty (base asset).

        The exchange allows 5, 10, 20, 50, 100, 500 and 1000 (spot also 5000); others are a UsageError. Source: `depth`, weight
        2 to 20 (spot 5 to 250) with the limit.
        """
        weights = _SPOT_DEPTHS if self._market.name == "spot" else _FUTURES_DEPTHS
        if limit not in weights:
            raise UsageError(f"the order book is not served with limit {limit}; choose one of {', '.join(map(str, weights))}")
        book = self._ask("depth", {"symbol": _named(symbol), "limit": limit}, weight=weights[limit], decode=wire.depth)
        schema = pa.schema([("price", pa.float64()), ("qty", pa.float64())])
        return {"bids": _frame(_records(schema, book.bids)), "asks": _frame(_records(schema, book.asks))}

    def get_symbol_info(self, symbol: str | None = None) -> pd.DataFrame:
        """The trading rules of all symbols, or of `symbol` alone (UsageError if it is not listed).

        Columns: symbol, pair, base_asset, quote_asset, contract_type, status, onboard_time, delivery_time (UTC), tick_size,
        step_size, min_qty, max_qty, min_price, min_notional; prices and notional in the quote asset, quantities in the base
        asset (cm: contracts). What the exchange leaves out is missing; a perpetual has no delivery_time. Source:
        `exchangeInfo`, weight 1 (spot 20).
        """
        text = {"symbol", "pair", "base_asset", "quote_asset", "contract_type", "status"}
        schema = pa.schema(
            (f.name, pa.string() if f.name in text else _MS if f.name.endswith("_time") else pa.float64())
            for f in fields(SymbolRules)
        )
        return _frame(_records(schema, self._rules(symbol)))

    def get_spread_in_ticks(self, symbol: str) -> int:
        """How many ticks the best ask of `symbol` lies above its best bid. Source: `exchangeInfo`, `ticker/bookTicker`."""
        (rules,) = self._rules(symbol)
        if rules.tick_size is None:
            raise UsageError(f"the exchange states no tick size for '{symbol}'")
        ticker = self._ticker(symbol)
        return spread_in_ticks(ticker.bid, ticker.ask, rules.tick_size)

    # ---- the past

    def get_klines(
        self,
        symbol: str,
        interval: str = "1h",
        *,
        limit: int | None = None,
        start: Time | None = None,
        end: Time | None = None,
    ) -> pd.DataFrame:
        """Bars of `symbol` that open in [start, end), ascending, as the exchange answered: **the last one may still be open**.

        With `start`, all of them in as many pages as that takes, or the first `limit`; without, the newest `limit` (500). A
        `limit` is at most one page: 1500, on spot 1000. Columns and units are those of `klines` in the lake: open_time and
        close_time UTC, prices in the quote asset, volume in the base asset, quote_volume in the quote asset (cm: contracts and
        base asset). Source: `klines`, weight 1 to 10 a page with its size (spot 2).
        """
        grid = registry.interval(interval)
        pages = self._pages("klines", symbol, limit, interval=interval)
        if start is None and not self._market.newest_first:
            return pages.frame([pages.ask(None, None if end is None else _ms(end), limit or 500)], last=limit or 500)
        if start is None:  # a page of this market ends after `max_span`
            return pages.frame(pages.bars_backward(self._range(0, end), grid, limit or 500), last=limit or 500)
        span = self._range(start, end)
        if not self._market.newest_first:
            return pages.frame(pages.bars(span, grid, limit), first=limit)
        if limit is not None:
            near = TimeRange(span.start, min(span.end, grid.ceil(span.start) + limit * grid.typical_step))
            frame = pages.frame(pages.bars_backward(near, grid), first=limit)
            if len(frame) == limit or near == span:
                return frame
        return pages.frame(pages.bars_backward(span, grid), first=limit)

    def get_funding_rate(
        self, symbol: str, start: Time | None = None, end: Time | None = None, limit: int | None = None
    ) -> pd.DataFrame:
        """Settlements of `symbol` in [start, end), ascending.

        With `start`, all of them in as many pages as that takes, or the first `limit`; without, the newest `limit` (1000,
        which is also the most). Columns: funding_time (UTC, up to 50 ms after the hour), funding_rate (of the position's value,
        for that settlement), mark_price (quote asset; missing before late 2023), rate_type (`Regular` or `Special`; missing
        before July 2026). Source: `fundingRate`, 500 requests in 5 minutes (cm: weight 1 each).
        """
        pages = self._pages("funding", symbol, limit)
        most = pages.endpoint.max_limit
        if start is None and end is None:
            return pages.frame([pages.ask(None, None, limit or most)], last=limit or most)
        if start is None:  # what the exchange does with an end alone is not documented (binance-facts 2.4)
            return pages.frame(pages.settlements(self._range(self._market.first_time, end)), last=limit or most)
        return pages.frame(pages.settlements(self._range(start, end), limit), first=limit)

    # ---- helpers

    def _ask(self, path: str, params: Params | None = None, *, weight: int, decode: Callable[[bytes], _T]) -> _T:
        return self._conversation.get(f"{self._market.prefix}/{path}", params, weight=weight, decode=decode)

    def _tickers(self, symbol: str | None) -> list[wire.BookTicker]:
        weight = (2 if symbol else 4) if self._market.name == "spot" else (2 if symbol else 5)
        return self._ask("ticker/bookTicker", {"symbol": symbol}, weight=weight, decode=wire.book_tickers)

    def _ticker(self, symbol: str) -> wire.BookTicker:
        found = [ticker for ticker in self._tickers(_named(symbol)) if ticker.symbol == symbol]
        if not found:
            raise UsageError(f"market {self._market.name} quotes no symbol '{symbol}'")
        return found[0]

    def _rules(self, symbol: str | None) -> list[SymbolRules]:
        # The futures endpoint ignores a symbol and always answers with all of them (binance-facts 1.8).
        found = [rules for rules in self._conversation.exchange_info().symbols if symbol in {None, rules.symbol}]
        if symbol is not None and not found:
            raise UsageError(f"market {self._market.name} lists no symbol '{symbol}'")
        return found

    def _range(self, start: Time, end: Time | None) -> TimeRange:
        # startTime=0 counts as "not given" on some endpoints (binance-facts 1.6).
        first = max(1, _ms(start))
        last = max(first, self._conversation.now() + 1) if end is None else _ms(end)
        if last < first:
            raise UsageError(f"the range ends before it starts: {iso(first)} > {iso(last)}")
        return TimeRange(first, last)

    def _pages(self, dataset: str, symbol: str, limit: int | None, **params: str) -> _Pages:
        endpoint = registry.dataset(dataset).endpoints.get(self._market.name)
        if endpoint is None:
            raise UsageError(f"market {self._market.name} has no {dataset}")
        if limit is not None and not 1 <= limit <= endpoint.max_limit:
            raise UsageError(
                f"limit {limit} of {dataset} must lie between 1 and {endpoint.max_limit}; for more rows give start"
            )
        return _Pages(self._conversation, dataset, endpoint, {endpoint.symbol_param: _named(symbol), **params})


@dataclass(frozen=True, slots=True)
class _Pages:
    """The pages of one series. An empty page ends a range only if the same question is answered so twice."""

    conversation: Conversation
    dataset: str
    endpoint: Endpoint
    params: Mapping[str, str]

    def ask(self, start: int | None, end: int | None, limit: int) -> pa.Table:
        """One page; what does not lie in [start, end) is dropped."""
        times = {"startTime": start, "endTime": None if end is None else end - 1}
        page = self.conversation.get(
            self.endpoint.path,
            {**self.params, **times, "limit": limit},
            weight=self.endpoint.weight(limit),
            pool=self.endpoint.pool,
            decode=wire.decoder(self.dataset),
        )
        time = page[0].cast(pa.int64())
        return page.filter(pc.and_(pc.greater_equal(time, start or 0), pc.less(time, MAX_TIME + 1 if end is None else end)))

    def bars(self, span: TimeRange, grid: Interval, want: int | None) -> Iterator[pa.Table]:
        """Pages from the oldest bar on, until the range ends or `want` rows are there."""
        at, denials, left = grid.ceil(span.start), 0, want or MAX_TIME
        while at < span.end and denials < 2 and left > 0:
            page = self.ask(at, span.end, min(self.endpoint.max_limit, left, grid.count(TimeRange(at, span.end))))
            if len(page):
                yield page
                at, denials, left = grid.next(_last(page)), 0, left - len(page)
            else:
                denials += 1

    def bars_backward(self, span: TimeRange, grid: Interval, want: int | None = None) -> Iterator[pa.Table]:
        """Pages from the newest bar back, for a market whose pages keep the newest rows of at most `max_span`."""
        market = self.conversation.market
        start = max(span.start, market.first_time)
        end, denials, left = span.end, 0, want or MAX_TIME
        while start < end and left > 0:
            low = max(start, end - (market.max_span or MAX_TIME))
            page = self.ask(low, end, max(1, min(self.endpoint.max_limit, left, grid.count(TimeRange(low, end)))))
            if len(page):
                yield page
                end, denials, left = _first(page), 0, left - len(page)
            else:
                denials += 1
                if denials == 2:
                    end, denials = low, 0

    def settlements(self, span: TimeRange, want: int | None = None) -> Iterator[pa.Table]:
        """Pages by the last settlement's own time, which is asked for again: two may share it, and a page end between them."""
        market, most = self.conversation.market, self.endpoint.max_limit
        # No two regular settlements are closer than an hour: such a piece fits into a page, whichever end a page keeps.
        longest = most // 2 * HOUR if market.newest_first else MAX_TIME
        at, denials = max(span.start, market.first_time), 0
        seen: set[tuple[object, ...]] = set()
        while at < span.end and (want is None or len(seen) < want):
            end = min(span.end, at + longest)
            page = self.ask(at, end, most if want is None else min(most, want + 1))
            keys = set(zip(page["funding_time"].to_pylist(), page["rate_type"].to_pylist(), strict=True))
            if keys - seen:
                yield page
                seen |= keys
                at, denials = _last(page), 0
            else:
                denials += 1
                if keys or denials == 2:
                    at, denials = end, 0

    def frame(self, pages: Iterable[pa.Table], *, first: int | None = None, last: int | None = None) -> pd.DataFrame:
        """All pages as one frame, sorted and unique by the dataset's key; its `first` or `last` rows."""
        key = list(registry.dataset(self.dataset).key)
        frame = _frame(pa.concat_tables([arrow_schema(self.dataset).empty_table(), *pages]))
        frame = frame.drop_duplicates(key).sort_values(key, ignore_index=True)
        return frame.head(first) if first is not None else frame.tail(last).reset_index(drop=True) if last else frame


def spread_in_ticks(bid: float, ask: float, tick_size: float) -> int:
    """How many ticks `ask` lies above `bid`, exactly: floats are read as the shortest decimals that they stand for.

    UsageError where the tick size is not positive, or the spread is no whole number of ticks.
    """
    low, high, tick = (Decimal(repr(float(value))) for value in (bid, ask, tick_size))
    if not tick > 0 or not (low.is_finite() and high.is_finite() and tick.is_finite()):
        raise UsageError(f"no spread can be told from bid {bid}, ask {ask} and tick size {tick_size}")
    ticks, rest = divmod(high - low, tick)
    if rest:
        raise UsageError(f"the spread {high - low} from {bid} to {ask} is no multiple of the tick size {tick_size}")
    return int(ticks)


# ---- times

_UNITS: dict[int, Literal["s", "ms", "us"]] = {10: "s", 13: "ms", 16: "us"}
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000}


def int_2_timestamp(value: int) -> pd.Timestamp:
    """An integer time as a UTC Timestamp: 10 digits are seconds, 13 milliseconds, 16 microseconds; UsageError otherwise."""
    import pandas as pd  # noqa: PLC0415 - see the end of this module

    try:
        number = operator.index(value)
        unit = _UNITS[len(str(number))] if number > 0 else None
    except (TypeError, KeyError):
        unit = None
    if unit is None:
        raise UsageError(f"{value!r} is no time: give an integer of 10 digits (s), 13 (ms) or 16 (us)")
    return pd.Timestamp(number, unit=unit, tz="UTC")


def timestamp_2_int(dt: datetime, unit: str = "ms") -> int:
    """A datetime or Timestamp as an integer of `unit` (s, ms or us) since 1970 UTC, floored; a naive one is UTC."""
    if unit not in _PER_SECOND:
        raise UsageError(f"unknown unit '{unit}'; known are {', '.join(_PER_SECOND)}")
    if not isinstance(dt, datetime) or dt != dt:  # type: ignore[redundant-expr]  # noqa: PLR0124 - callers err; NaT is a datetime
        raise UsageError(f"{dt!r} is no time: give a datetime or a Timestamp")
    aware = dt if dt.tzinfo else dt.replace(tzinfo=UTC)
    since = aware - datetime(1970, 1, 1, tzinfo=UTC)
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * _PER_SECOND[unit] // 1_000_000


def _ms(time: Time) -> int:
    if isinstance(time, str):
        return parse_time(time)
    if isinstance(time, datetime):
        number = timestamp_2_int(time)
    elif isinstance(time, date):
        number = from_datetime(datetime(time.year, time.month, time.day, tzinfo=UTC))
    else:
        try:
            number = operator.index(time)
        except TypeError:
            raise UsageError(f"{time!r} is no time: give a date, a datetime, a text of one, or milliseconds") from None
        if 10**9 <= number < 10**11:  # as milliseconds this is early 1970: the exchange would answer, with other bars
            raise UsageError(f"{number} looks like seconds; times are milliseconds: {number * 1000}")
    if not 0 <= number <= MAX_TIME:
        raise UsageError(f"{time!r} lies outside 1970 … 9999; integers are milliseconds")
    return number


# ---- frames
#
# pandas costs 760 ms of CPU to import; who uses this module for its signatures or its plain values does not pay that.

_MS = pa.timestamp("ms")
_PRICES = ("bid", "bid_qty", "ask", "ask_qty")


def _timestamp(time: int) -> pd.Timestamp:
    import pandas as pd  # noqa: PLC0415

    return pd.Timestamp(time, unit="ms", tz="UTC")


def _records(schema: pa.Schema, records: Sequence[object]) -> pa.Table:
    return pa.Table.from_arrays([pa.array([getattr(r, f.name) for r in records], f.type) for f in schema], schema=schema)


def _frame(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas()
    for field in table.schema:
        if pa.types.is_timestamp(field.type):
            frame[field.name] = frame[field.name].dt.tz_localize("UTC")
    return frame


def _first(page: pa.Table) -> int:
    time: int = pc.min(page[0].cast(pa.int64())).as_py()
    return time


def _last(page: pa.Table) -> int:
    time: int = pc.max(page[0].cast(pa.int64())).as_py()
    return time


def _named(symbol: str) -> str:
    if not symbol:  # without a symbol the exchange answers for all, at many times the weight
        raise UsageError("the symbol is empty")
    return symbol
