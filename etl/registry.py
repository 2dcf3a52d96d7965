"""The one place to extend: markets, datasets and intervals, as declarations.

Sources of the numbers: binance-facts 1-3 (page limits and weights), 8 (COIN-M and spot), 9.2 (archive paths).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from .errors import UsageError
from .model import ArchiveLayout, Column, Dataset, Endpoint, Market, PageTier
from .ranges import DAY, HOUR, MINUTE, Interval

INTERVALS = {
    interval.name: interval
    for interval in (
        Interval("1m", MINUTE),
        Interval("3m", 3 * MINUTE),
        Interval("5m", 5 * MINUTE),
        Interval("15m", 15 * MINUTE),
        Interval("30m", 30 * MINUTE),
        Interval("1h", HOUR),
        Interval("2h", 2 * HOUR),
        Interval("4h", 4 * HOUR),
        Interval("6h", 6 * HOUR),
        Interval("8h", 8 * HOUR),
        Interval("12h", 12 * HOUR),
        Interval("1d", DAY),
        Interval("1w", 7 * DAY, 4 * DAY),  # the epoch was a Thursday; weeks open on Monday
        Interval("1M", 0),
    )
}

MARKETS = {
    market.name: market
    for market in (
        Market(
            name="um",
            url="https://fapi.binance.com",
            testnet_url="https://testnet.binancefuture.com",
            prefix="/fapi/v1",
            archive_path="futures/um",
            weight_limit=2400,
            pool="futures",
            exchange_info_weight=1,
            first_time=1_567_296_000_000,  # 2019-09-01: the first BTCUSDT bar is of 2019-09-08, and its month opens here
            funding_info="/fapi/v1/fundingInfo",
            archived=1_577_836_800_000,  # 2020-01-01, its first month; of klines it has 2019-12-31, too (binance-facts 9.2)
        ),
        Market(
            name="cm",
            url="https://dapi.binance.com",
            testnet_url="https://testnet.binancefuture.com",
            prefix="/dapi/v1",
            archive_path="futures/cm",
            weight_limit=2400,
            pool="futures",  # one pool with um since 2026-06-30
            exchange_info_weight=1,
            first_time=1_590_969_600_000,  # 2020-06-01
            max_span=200 * DAY,
            newest_first=True,
        ),
        Market(
            name="spot",
            url="https://api.binance.com",
            testnet_url="https://testnet.binance.vision",
            prefix="/api/v3",
            archive_path="spot",
            weight_limit=6000,
            pool="spot",
            exchange_info_weight=20,
            first_time=1_500_000_000_000,  # 2017-07-14; the first bars are of 2017-08-17
        ),
    )
}

_FUTURES_TIERS = (PageTier(99, 1), PageTier(499, 2), PageTier(1000, 5), PageTier(1500, 10))
_SPOT_TIERS = (PageTier(1000, 2),)

_BAR_COLUMNS = (
    Column("open_time", "time"),
    Column("open", "float"),
    Column("high", "float"),
    Column("low", "float"),
    Column("close", "float"),
    Column("volume", "float"),
    Column("close_time", "time"),
    Column("quote_volume", "float"),
    Column("count", "int"),
    Column("taker_buy_volume", "float"),
    Column("taker_buy_quote_volume", "float"),
)

# The archive's columns are those of REST, in the same order (binance-facts 9.4).
_KLINES = Dataset(
    name="klines",
    columns=_BAR_COLUMNS,
    key=("open_time",),
    wire=tuple(column.name for column in _BAR_COLUMNS),
    archive=ArchiveLayout("klines", (*(column.name for column in _BAR_COLUMNS), "_")),
    endpoints={
        "um": Endpoint("/fapi/v1/klines", _FUTURES_TIERS),
        "cm": Endpoint("/dapi/v1/klines", _FUTURES_TIERS),
        "spot": Endpoint("/api/v3/klines", _SPOT_TIERS),
    },
)

_PRICE_BARS = replace(
    _KLINES,
    columns=tuple(c for c in _BAR_COLUMNS if c.name in {"open_time", "open", "high", "low", "close", "close_time"}),
    wire=("open_time", "open", "high", "low", "close", "_", "close_time"),
    archive=ArchiveLayout("", ("open_time", "open", "high", "low", "close", "_", "close_time", *["_"] * 5)),
)


def _price_bars(name: str, path: str, symbol_param: str = "symbol") -> Dataset:
    def endpoint(prefix: str) -> Endpoint:
        return Endpoint(f"{prefix}/{path}", _FUTURES_TIERS, symbol_param="pair" if symbol_param == "pair" else "symbol")

    endpoints = {"um": endpoint("/fapi/v1"), "cm": endpoint("/dapi/v1")}
    return replace(_PRICE_BARS, name=name, endpoints=endpoints, archive=replace(_PRICE_BARS.archive, folder=path))


DATASETS = {
    dataset.name: dataset
    for dataset in (
        _KLINES,
        Dataset(
            name="funding",
            columns=(
                Column("funding_time", "time"),
                Column("funding_rate", "float"),
                Column("mark_price", "float", nullable=True),
                Column("rate_type", "text", nullable=True),
            ),
            key=("funding_time", "rate_type"),
            wire=("fundingTime", "fundingRate", "markPrice", "rateType"),
            archive=ArchiveLayout("fundingRate", ("funding_time", "_", "funding_rate"), daily=False),
            endpoints={
                "um": Endpoint("/fapi/v1/fundingRate", (PageTier(1000, 1),), pool="funding", without_symbol=True),
                "cm": Endpoint("/dapi/v1/fundingRate", (PageTier(1000, 1),)),
            },
            has_interval=False,
        ),
        _price_bars("mark_klines", "markPriceKlines"),
        _price_bars("index_klines", "indexPriceKlines", symbol_param="pair"),
        _price_bars("premium_klines", "premiumIndexKlines"),
    )
}

# So long an absence of bars that no source fills lies between two contracts: no outage ever lasted a week.
BETWEEN_LIVES = 7 * DAY

# The bulk archive, for all markets, and its listing (binance-facts 9.1).
ARCHIVE_URL = "https://data.binance.vision"
ARCHIVE_INDEX_URL = "https://s3-ap-northeast-1.amazonaws.com/data.binance.vision"

# Requests that the exchange answers on fundingRate in five minutes; it sends no header (binance-facts 4.1).
FUNDING_LIMIT = 500
FUNDING_WINDOW = 5 * MINUTE
# The size of a page of settlements when no limit is given (binance-facts 2.4): no smaller answer was ever seen to be cut.
DEFAULT_SETTLEMENTS = 100
# Settlements are at most so far apart while a contract lives (binance-facts 6).
LONGEST_FUNDING = 8 * HOUR

# So many answers must lack a bar before it counts as absent: a server that leaves out one answer of five is believed wrongly
# once in 15,000 times. Real holes are rare and cost weight 1 a question. Beyond the end of a contract none is expected.
DENIALS = 6
EXPECTED_DENIALS = 2


def heaviest(market: Market) -> int:
    """The weight of the heaviest request that a run cannot do without: the rules, or a page. Smaller pages than the thriftiest
    would weigh less, but who may use so little of the limit would wait for months.
    """
    endpoints = (dataset.endpoints.get(market.name) for dataset in DATASETS.values())
    return max(market.exchange_info_weight, *(one.thriftiest.weight for one in endpoints if one and one.pool == "weight"))


def market(name: str) -> Market:
    """The market of that name; UsageError with the known ones otherwise."""
    return _find(MARKETS, "market", name)


def dataset(name: str) -> Dataset:
    """The dataset of that name; UsageError with the known ones otherwise."""
    return _find(DATASETS, "dataset", name)


def interval(name: str) -> Interval:
    """The interval of that name; UsageError with the known ones otherwise."""
    if name == "3d":
        raise UsageError(
            "interval 3d is not stored: its grid changed in 2023; store 1d and ask SQL for resample(symbol, '1d', '3d')"
        )
    return _find(INTERVALS, "interval", name)


def fills(name: str, target: str) -> bool:
    """Whether whole bars of the interval `name` make up those of the coarser `target`."""
    step, wide = INTERVALS[name].step, INTERVALS[target].step
    return 0 < step <= DAY and name != target and (not wide or wide % step == 0)


_T = TypeVar("_T")


def _find(known: dict[str, _T], kind: str, name: str) -> _T:
    try:
        return known[name]
    except KeyError:
        raise UsageError(f"unknown {kind} '{name}'; known are {', '.join(known)}") from None
