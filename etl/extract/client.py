"""The public client: the exchange's market data as pandas frames and plain values, for one market, without an account."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict

import pyarrow as pa

from .. import registry
from ..errors import UsageError
from ..model import Endpoint, SymbolRules
from ..ranges import MAX_TIME, Interval, TimeRange, from_datetime, iso, parse_time
from ..schema import arrow_schema
from . import wire
from .conversation import Conversation, Stats

if TYPE_CHECKING:
    from types import TracebackType

    import pandas as pd

Time = str | int | date | datetime
"""A date or date-time, as text or object, UTC unless it carries a zone; or milliseconds UTC."""

# Weights that depend on the market: bookTicker with and without a symbol, depth up to each limit (binance-facts 2.1; for spot the
# exchange's REST documentation).
_TICKER_WEIGHTS = {"um": (2, 5), "cm": (2, 5), "spot": (2, 4)}
_FUTURES_DEPTHS = {5: 2, 10: 2, 20: 2, 50: 2, 100: 5, 500: 10, 1000: 20}
_SPOT_DEPTHS = {5: 5, 10: 5, 20: 5, 50: 5, 100: 5, 500: 25, 1000: 50, 5000: 250}

# An empty page ends a range only if the same question is answered so again.
_DENIALS = 2


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
    manager, or close it. Every method raises Transient (network, after several attempts), Rejected (the exchange does not accept
    the request), Refused (this host is refused), BadAnswer, or UsageError (before anything is sent).
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
        """How many ticks the best ask of `symbol` lies above its best bid now. Source: `exchangeInfo` and `ticker/bookTicker`."""
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
        """Bars of `symbol` that open in [start, end), ascending, as the exchange answered: **the last may still be open**.

        With `start` all of the range, in as many pages as that takes, or its first `limit` bars; without it the newest `limit`
        (500) before `end`. `limit` is at most one page (1500, spot 1000). Columns and units: `klines` of the lake (open_time
        and close_time UTC; prices in the quote asset; volume base, quote_volume quote asset; cm: contracts and base asset).
        Source: `klines`, weight 1 to 10 a page with its limit (spot 2).
        """
        grid = registry.interval(interval)
        ask = self._pages("klines", symbol, limit, interval=interval)
        until = self._end(end)
        if start is not None:
            span = _range(_ms(start), until)
            table = ask.bars_back(span, grid, limit) if self._market.newest_first else ask.bars(span, grid, limit)
            return _frame(table, first=limit)
        if self._market.newest_first:
            return _frame(ask.bars_back(_range(0, until), grid, None, newest=limit or 500), last=limit or 500)
        return _frame(ask.page(None, end and until, limit or 500))
