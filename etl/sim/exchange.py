"""What the exchange answers: routes, parameter checks, error bodies, range rules and weights, as a function of a request.

Nothing here knows sockets. Rules: binance-facts 2.1-2.4, 4 (limits, headers, error codes), 5 and 8 (COIN-M and spot).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from typing import Any

from ..model import Dataset, Endpoint, Market, Series
from ..ranges import SECOND, TimeRange
from ..registry import DATASETS, FUNDING_LIMIT, MARKETS
from .limits import Limits, Verdict
from .world import INTERVALS, Selection, World

JSON_TYPE = "application/json"
# fundingRate is served by other machines than the rest, and it shows (binance-facts 2.4).
FUNDING_TYPE = "application/json;charset=UTF-8"

_DEPTH_WEIGHTS = {5: 2, 10: 2, 20: 2, 50: 2, 100: 5, 500: 10, 1000: 20}
_SPOT_DEPTH_WEIGHTS = ((100, 5), (500, 25), (1000, 50), (5000, 250))


@dataclass(frozen=True, slots=True)
class Request:
    """A GET or HEAD request: its path, its parameters, each once, and its headers, names in lower case."""

    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "GET"


@dataclass(frozen=True, slots=True)
class Answer:
    """A response before it becomes bytes on a socket; header names in lower case."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    market: str | None = None
    weight: int = 0
    skew_ms: int = 0
    """How far the `Date` header is off."""


class Problem(Exception):
    """A request that the exchange refuses with status 400 and this body."""

    def __init__(self, body: bytes) -> None:
        super().__init__(body.decode())
        self.body = body


def _error(code: int, message: str) -> bytes:
    return _json({"code": code, "msg": message})


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


BAD_SYMBOL = _error(-1121, "Invalid symbol.")
FUNDING_LIMIT_BODY = (
    b'{"status":"ERROR","type":"VALID","code":"000002","errorData":{"limit":"limit can not greater than 1000"},'
    b'"data":null,"subData":null,"params":null}'
)
RESTRICTED_BODY = b"""{
  "code": 0,
  "msg": "Service unavailable from a restricted location according to 'b. Eligibility' in https://www.binance.com/en/terms. \
Please contact customer service if you believe you received this message in error."
}"""


@dataclass(frozen=True, slots=True)
class _Route:
    market: Market
    answer: Callable[[Market, Mapping[str, str], int], bytes]
    weight: Callable[[Mapping[str, str]], int]
    pool: str
    content_type: str = JSON_TYPE


class Exchange:
    """Answers requests about a world, and counts what they cost."""

    def __init__(
        self,
        world: World,
        *,
        weight_limit: int = MARKETS["um"].weight_limit,
        spot_weight_limit: int = MARKETS["spot"].weight_limit,
        funding_limit: int = FUNDING_LIMIT,
        ban_after: int = 10,
        enforce: bool = True,
        retry_after: bool = False,
    ) -> None:
        self.world = world
        weights = {MARKETS["um"].pool: weight_limit, MARKETS["spot"].pool: spot_weight_limit}
        self.limits = Limits(weights, funding=funding_limit, ban_after=ban_after, enforce=enforce)
        self._retry_after = retry_after
        self._rendered: dict[str, tuple[dict[str, Any], bytes]] = {}
        self._routes = dict(self._declare())

    def answer(self, request: Request, now: int) -> Answer:
        """The response to a request at `now` (ms UTC of the exchange's clock)."""
        route = self._routes.get(request.path)
        if route is None:
            return Answer(404, b"<html><body><h2>404 Not found</h2></body></html>", {"content-type": "text/html"})
        weight = route.weight(request.params)
        verdict = self.limits.charge(route.pool, weight, now)
        answer = Answer(
            headers=self._headers(route, verdict), market=route.market.name, weight=0 if route.pool == "funding" else weight
        )
        if verdict.status != 200:
            return self._refusal(answer, verdict, now)
        try:
            return replace(answer, body=route.answer(route.market, request.params, now))
        except Problem as problem:
            return replace(answer, body=problem.body, status=400)

    def is_page(self, path: str) -> bool:
        """Whether the path serves rows of a data set."""
        return any(path == endpoint.path for dataset in DATASETS.values() for endpoint in dataset.endpoints.values())

    # --- routes

    def _declare(self) -> list[tuple[str, _Route]]:
        routes = []
        for dataset in DATASETS.values():
            for name, endpoint in dataset.endpoints.items():
                market = MARKETS[name]
                serve = self._bars if dataset.has_interval else self._funding
                free = endpoint.pool == "funding"
                routes.append(
                    (
                        endpoint.path,
                        _Route(
                            market,
                            _bound(serve, dataset, endpoint),
                            _page_weight(endpoint, 500 if dataset.has_interval else 100),
                            "funding" if free else market.pool,
                            FUNDING_TYPE if free else JSON_TYPE,
                        ),
                    )
                )
        for market in MARKETS.values():
            spot = market.name == "spot"
            for path, answer, weight in (
                ("ping", lambda *_: b"{}", _flat(1)),
                ("time", lambda _market, _params, now: b'{"serverTime":%d}' % now, _flat(1)),
                ("exchangeInfo", self._exchange_info, _flat(market.exchange_info_weight)),
                ("ticker/bookTicker", self._book_ticker, _ticker_weight(spot=spot)),
                ("depth", self._depth, _spot_depth_weight if spot else _depth_weight),
            ):
                routes.append((f"{market.prefix}/{path}", _Route(market, answer, weight, market.pool)))
        um = MARKETS["um"]
        routes.append((f"{um.prefix}/fundingInfo", _Route(um, self._funding_info, _flat(1), "funding", FUNDING_TYPE)))
        return routes

    def _headers(self, route: _Route, verdict: Verdict) -> dict[str, str]:
        headers = {"content-type": route.content_type}
        if route.pool != "funding":
            headers["x-mbx-used-weight-1m"] = str(verdict.used)
            if route.market.name == "spot":
                headers["x-mbx-used-weight"] = str(verdict.used)
        return headers

    def _refusal(self, answer: Answer, verdict: Verdict, now: int) -> Answer:
        if verdict.status == 429:
            text = f"Too many requests; current limit of IP(127.0.0.1) is {verdict.limit} requests per minute."
            text += " Please use the websocket for live updates to avoid polling the API."
        else:
            text = f"Way too many requests; IP banned until {verdict.banned_until}."
            text += " Please use the websocket for live updates to avoid bans."
        wait = -((now - verdict.window_end) // SECOND)
        headers = answer.headers | ({"retry-after": str(wait)} if self._retry_after else {})
        return replace(answer, status=verdict.status, body=_error(-1003, text), headers=headers)

    # --- endpoints

    def _exchange_info(self, market: Market, params: Mapping[str, str], now: int) -> bytes:
        info = self.world.exchange_info(market.name, now)
        if market.name == "spot" and params.get("symbol"):  # spot filters, futures do not (binance-facts 5)
            symbols = [one for one in info["symbols"] if one["symbol"] == params["symbol"]]
            if not symbols:
                raise Problem(BAD_SYMBOL)
            rest = json.dumps({**info, "symbols": symbols}, ensure_ascii=False, separators=(",", ":")).encode()
        else:
            known, rest = self._rendered.get(market.name, (None, b""))
            if known is not info:
                rest = json.dumps(info, ensure_ascii=False, separators=(",", ":")).encode()
                self._rendered[market.name] = (info, rest)
        limits = _json(
            [
                {"rateLimitType": kind, "interval": interval, "intervalNum": number, "limit": limit}
                for kind, interval, number, limit in (
                    ("REQUEST_WEIGHT", "MINUTE", 1, self.limits.weights[market.pool]),
                    ("ORDERS", "MINUTE", 1, 1200),
                    ("ORDERS", "SECOND", 10, 300),
                )
            ]
        )
        return b'{"timezone":"UTC","serverTime":%d,"rateLimits":%s,%s' % (now, limits, rest[1:])

    def _bars(self, dataset: Dataset, endpoint: Endpoint, market: Market, params: Mapping[str, str], now: int) -> bytes:
        symbol, interval = _mandatory(params, endpoint.symbol_param), _mandatory(params, "interval")
        limit = _limit(params, 500, endpoint.max_limit)
        start, end = _time(params, "startTime"), _time(params, "endTime")
        if interval not in INTERVALS:
            raise Problem(_error(-1120, "Invalid interval."))
        if not self.world.known(market.name, dataset.name, symbol):
            raise Problem(BAD_SYMBOL)
        if self.world.closed(market.name, symbol, now):
            raise Problem(_error(-1122, "Invalid symbol status."))
        selection = select(market, start, end, limit, now)
        return b"[%s]" % self.world.bars(Series(market.name, dataset.name, symbol, interval), selection, now)

    def _funding(self, dataset: Dataset, endpoint: Endpoint, market: Market, params: Mapping[str, str], now: int) -> bytes:
        symbol = params.get("symbol") or None
        if symbol is None and not endpoint.without_symbol:
            raise Problem(_error(-1102, _malformed("symbol")))
        # startTime=0 counts as absent (binance-facts 2.4)
        start, end = _time(params, "startTime") or None, _time(params, "endTime")
        if endpoint.pool == "funding" and (params.get("limit") or "").isdecimal() and int(params["limit"]) > endpoint.max_limit:
            raise Problem(FUNDING_LIMIT_BODY)  # in a form of its own
        limit = _limit(params, 100, endpoint.max_limit)
        if symbol is not None and not self.world.known(market.name, dataset.name, symbol):
            raise Problem(BAD_SYMBOL)
        span = _span(start, end, now)
        newest = symbol is None or start is None
        return b"[%s]" % self.world.funding(market.name, symbol, Selection(span, limit, newest), now)

    def _funding_info(self, _market: Market, _params: Mapping[str, str], now: int) -> bytes:
        return _json(self.world.funding_info(now))

    def _book_ticker(self, market: Market, params: Mapping[str, str], now: int) -> bytes:
        ticker = self.world.book_ticker(market.name, params.get("symbol") or None, now)
        if ticker is None:
            raise Problem(BAD_SYMBOL)
        return _json(ticker)

    def _depth(self, market: Market, params: Mapping[str, str], now: int) -> bytes:
        symbol = _mandatory(params, "symbol")
        limit = _limit(params, 100 if market.name == "spot" else 500, 5000 if market.name == "spot" else 1000)
        if market.name != "spot" and limit not in _DEPTH_WEIGHTS:
            raise Problem(_error(-4021, f"{limit} is not valid depth limit"))
        depth = self.world.depth(market.name, symbol, limit, now)
        if depth is None:
            raise Problem(BAD_SYMBOL)
        return _json(depth)


def select(market: Market, start: int | None, end: int | None, limit: int, now: int) -> Selection:
    """Which rows answer a request for bars: both ends inclusive, from startTime on the oldest, else the newest.

    COIN-M always keeps the newest rows of at most 200 days before the end (binance-facts 8).
    """
    if market.max_span is None or not market.newest_first:
        return Selection(_span(start, end, now), limit, newest=start is None)
    if end is None and start is not None:
        end = min(start + market.max_span, now)
    span = _span(start, end, now)
    if end is not None:
        span = TimeRange(max(span.start, min(end - market.max_span, span.end)), span.end)
    return Selection(span, limit, newest=True)


def _span(start: int | None, end: int | None, now: int) -> TimeRange:
    """An inclusive range of request times as a half-open one that ends with `now`."""
    if start is not None and end is not None and start > end:
        raise Problem(_error(-1023, "Start time is greater than end time."))
    last = now if end is None else min(end, now)
    first = max(start or 0, 0)
    return TimeRange(first, max(first, last + 1))


def _bound(
    serve: Callable[[Dataset, Endpoint, Market, Mapping[str, str], int], bytes], dataset: Dataset, endpoint: Endpoint
) -> Callable[[Market, Mapping[str, str], int], bytes]:
    return lambda market, params, now: serve(dataset, endpoint, market, params, now)


# --- parameters


def _malformed(name: str) -> str:
    return f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed."


def _mandatory(params: Mapping[str, str], name: str) -> str:
    value = params.get(name)
    if not value:
        raise Problem(_error(-1102, _malformed(name)))
    return value


def _time(params: Mapping[str, str], name: str) -> int | None:
    text = params.get(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise Problem(_error(-1102, _malformed(name)))
    return int(text)


def _limit(params: Mapping[str, str], default: int, most: int) -> int:
    text = params.get("limit")
    if text is None:
        return default
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= most:
        raise Problem(_error(-1130, "Data sent for parameter 'limit' is not valid."))
    return int(text)


# --- weights: charged by what is asked


def _asked(params: Mapping[str, str], default: int, most: int) -> int:
    text = params.get("limit", "")
    return min(int(text), most) if text.isascii() and text.isdecimal() else default


def _page_weight(endpoint: Endpoint, default: int) -> Callable[[Mapping[str, str]], int]:
    return lambda params: endpoint.weight(_asked(params, default, endpoint.max_limit))


def _flat(weight: int) -> Callable[[Mapping[str, str]], int]:
    return lambda _params: weight


def _ticker_weight(*, spot: bool) -> Callable[[Mapping[str, str]], int]:
    return lambda params: 2 if params.get("symbol") else (4 if spot else 5)


def _depth_weight(params: Mapping[str, str]) -> int:
    return _DEPTH_WEIGHTS.get(_asked(params, 500, 1000), 2)


def _spot_depth_weight(params: Mapping[str, str]) -> int:
    asked = _asked(params, 100, 5000)
    return next(weight for most, weight in _SPOT_DEPTH_WEIGHTS if asked <= most)


def http_date(now: int) -> str:
    """Milliseconds UTC as the value of a `Date` header."""
    return formatdate(now / SECOND, usegmt=True)
