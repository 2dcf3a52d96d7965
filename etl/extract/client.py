"""The public client: the exchange's market data as pandas frames and plain values, for one market, without an account."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, TypedDict, TypeVar, overload

import pyarrow as pa

from .. import config, registry
from ..config import Settings
from ..errors import UsageError
from ..model import Market, Series, SymbolRules, Window
from ..ranges import MAX_TIME, TimeRange, from_datetime, iso, parse_time
from ..schema import arrow_schema
from . import wire
from .conversation import Conversation
from .http import Params
from .rest import RestSource
from .retry import Stats
from .shared import SharedPools

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

    Keeps its connections open and keeps to the exchange's rate limits by itself, together with all other clients and runs of
    this host: of `settings` (by default those of the environment, as on the command line) it takes `state_dir`, where all of
    them count, and `weight_share`. Threads may share a client. Use it as a context manager, or close it. Every method raises
    Transient (network, after several attempts), Rejected (our request is wrong), Refused (this host is refused), BadAnswer, or
    UsageError (mostly before anything is sent).
    """

    def __init__(
        self,
        mainnet: bool = True,  # noqa: FBT001, FBT002 - the public name, used positionally
        base_url: str | None = None,
        market: str = "um",
        *,
        settings: Settings | None = None,
        conversation: Conversation | None = None,
    ) -> None:
        self._market = conversation.market if conversation else registry.market(market)
        url = base_url or (self._market.url if mainnet else self._market.testnet_url)
        self._conversation = conversation or _conversation(self._market, url, settings)
        self._owned = conversation is None
        self._source = RestSource(lambda _: self._conversation)

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
            return _utc(_records(schema, self._tickers(None)))
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
        return {"bids": _utc(_records(schema, book.bids)), "asks": _utc(_records(schema, book.asks))}

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
        return _utc(_records(schema, self._rules(symbol)))

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
        series = self._series("klines", symbol, registry.interval(interval).name, limit)
        if start is None:
            return _frame(series, [self._newest(series, limit or 500, end)])
        return _frame(series, self._bars(series, self._range(start, end), limit))[:limit]

    def get_funding_rate(
        self, symbol: str, start: Time | None = None, end: Time | None = None, limit: int | None = None
    ) -> pd.DataFrame:
        """Settlements of `symbol` in [start, end), ascending.

        With `start`, all of them in as many pages as that takes, or the first `limit`; without, the newest `limit` (1000,
        which is also the most). Columns: funding_time (UTC, up to 50 ms after the hour), funding_rate (of the position's value,
        for that settlement), mark_price (quote asset; missing before late 2023), rate_type (`Regular` or `Special`; missing
        before July 2026). Source: `fundingRate`, 500 requests in 5 minutes (cm: weight 1 each).
        """
        series = self._series("funding", symbol, None, limit)
        if start is None and end is None:
            return _frame(series, [self._newest(series, limit or _page_limit(series))])
        # What the exchange does with an end alone is not documented (binance-facts 2.4): all of them, and then the newest.
        span = self._range(self._market.first_time if start is None else start, end)
        rows = _frame(series, self._source.settlements(series, span))
        return rows[:limit] if start is not None else rows[-(limit or _page_limit(series)) :].reset_index(drop=True)

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

    def _series(self, dataset: str, symbol: str, interval: str | None, limit: int | None) -> Series:
        if self._market.name not in registry.dataset(dataset).endpoints:
            raise UsageError(f"market {self._market.name} has no {dataset}")
        series = Series(self._market.name, dataset, _named(symbol), interval)
        if limit is not None and not 1 <= limit <= _page_limit(series):
            raise UsageError(f"limit {limit} of {dataset} is not in 1 … {_page_limit(series)}; for more rows give start")
        return series

    def _newest(self, series: Series, limit: int, end: Time | None = None) -> pa.Table:
        return self._source.page(series, TimeRange(0, MAX_TIME if end is None else _ms(end)), limit, bounded=end is not None)

    def _bars(self, series: Series, span: TimeRange, most: int | None) -> Iterator[pa.Table]:
        """The pages of the range from its first bar on, until it ends or `most` rows are there."""
        first = self._source.first_bar(series, span.start)
        grid = registry.interval(series.interval or "")
        opens = grid.opens(TimeRange(min(first or span.end, span.end), span.end))
        rows = 0
        for at in range(0, len(opens), size := min(most or MAX_TIME, _page_limit(series))):
            page = opens[at : at + size]
            window = Window(TimeRange(page[0], grid.next(page[-1])), len(page), 1, 0, len(page))
            for table in self._source.bars(series, window):
                yield table
                rows += len(table)
            if most is not None and rows >= most:
                return


def _conversation(market: Market, url: str, settings: Settings | None) -> Conversation:
    settings = settings or config.load(env=os.environ, cwd=Path.cwd())
    pools = SharedPools(settings.state_dir, settings.weight_share)
    return Conversation(market, url, budget=pools.weight(market, url), funding=pools.funding(market, url))


def _page_limit(series: Series) -> int:
    return registry.dataset(series.dataset).endpoints[series.market].max_limit


def depth_limits(market: str) -> tuple[int, ...]:
    """The numbers of levels that the market's order book may be asked for."""
    return tuple(_SPOT_DEPTHS if market == "spot" else _FUTURES_DEPTHS)


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
    import pandas as pd  # noqa: PLC0415 - heavy, and not every call needs it

    return pd.Timestamp(time, unit="ms", tz="UTC")


def _records(schema: pa.Schema, records: Sequence[object]) -> pa.Table:
    return pa.Table.from_arrays([pa.array([getattr(r, f.name) for r in records], f.type) for f in schema], schema=schema)


def _utc(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas()
    for field in table.schema:
        if pa.types.is_timestamp(field.type):
            frame[field.name] = frame[field.name].dt.tz_localize("UTC")
    return frame


def _frame(series: Series, pages: Iterable[pa.Table]) -> pd.DataFrame:
    """All pages as one frame, sorted and unique by the dataset's key."""
    key = list(registry.dataset(series.dataset).key)
    frame = _utc(pa.concat_tables([arrow_schema(series.dataset).empty_table(), *pages]))
    return frame.drop_duplicates(key).sort_values(key, ignore_index=True)


def _named(symbol: str) -> str:
    if not symbol:  # without a symbol the exchange answers for all, at many times the weight
        raise UsageError("the symbol is empty")
    return symbol
