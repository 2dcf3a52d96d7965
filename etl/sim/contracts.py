"""The listed contracts of the generated market: ordinary ones, and every odd kind that the exchange really has."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from ..ranges import DAY, HOUR, MINUTE, parse_time

PERPETUAL_END = 4_133_404_800_000  # deliveryDate of a perpetual that is not being delisted (binance-facts 5)


@dataclass(frozen=True, slots=True)
class Contract:
    """One listed contract. Prices move in `tick`, quantities in `step` (decimal text as on the wire); times in ms UTC."""

    market: str
    symbol: str
    base: str
    quote: str
    price: str
    """Centre of the generated prices."""
    tick: str
    step: str
    first: int | None
    """Open of the first 1m bar; None where trading never began."""
    end: int | None = None
    """Nothing trades from here on."""
    kind: str = "PERPETUAL"
    pair: str = ""
    onboard: int = 0
    mark_first: int | None = None
    """First mark and index bar, where it is not `first`."""
    funding: tuple[tuple[int, int], ...] = ()
    """(from, hours): the settlement interval and since when."""
    quiet: int = 2
    """Minutes without a trade, of 1024."""
    turnover: int = 100_000
    """Typical quote volume of a minute."""
    closed_error: bool = False
    """Whether bars are refused with -1122 once it has ended."""
    contract_size: int = 0
    """USD a contract, COIN-M only."""
    forgotten: bool = False
    """Whether only the archive still has it: REST and exchangeInfo do not know it, or know another contract of its name."""

    def status(self, now: int) -> str:
        """`status` of exchangeInfo."""
        if self.first is None or now < self.first:
            return "PENDING_TRADING"
        return "SETTLING" if self.end is not None and now >= self.end else "TRADING"

    def delivery(self, now: int) -> int:
        """`deliveryDate` of exchangeInfo; a perpetual's is set a week before it is delisted."""
        announced = self.end is not None and ("_" in self.symbol or now >= self.end - 7 * DAY)
        return self.end if announced and self.end is not None else PERPETUAL_END


# base asset and centre price of ordinary contracts; figures are round on purpose, this is no market data
_BASES = {
    "BTC": "60000",
    "ETH": "2500",
    "BNB": "450",
    "SOL": "120",
    "XRP": "0.6",
    "ADA": "0.5",
    "DOGE": "0.12",
    "AVAX": "25",
    "LINK": "14",
    "DOT": "7",
    "TRX": "0.12",
    "LTC": "80",
    "BCH": "300",
    "UNI": "8",
    "ATOM": "9",
    "ETC": "22",
    "XLM": "0.11",
    "FIL": "5",
    "APT": "9",
    "NEAR": "5",
    "ARB": "1.1",
    "OP": "2",
    "INJ": "20",
    "SUI": "1.5",
    "AAVE": "120",
    "ALGO": "0.2",
    "SAND": "0.45",
    "MANA": "0.45",
    "AXS": "7",
    "GRT": "0.2",
    "EGLD": "40",
    "THETA": "1.2",
    "XTZ": "0.9",
    "EOS": "0.7",
    "CHZ": "0.09",
    "FTM": "0.5",
    "SNX": "3",
    "CRV": "0.5",
    "COMP": "55",
    "ZEC": "30",
    "DASH": "30",
    "KAVA": "0.7",
    "RUNE": "5",
    "ENJ": "0.3",
    "ZIL": "0.02",
    "IOTA": "0.2",
    "QTUM": "3",
    "BAT": "0.2",
    "ZRX": "0.4",
    "OMG": "0.6",
    "ONT": "0.2",
    "YFI": "7000",
    "MKR": "2000",
    "SUSHI": "1",
    "DYDX": "2",
    "GALA": "0.03",
    "IMX": "1.5",
    "LDO": "2",
    "APE": "1.5",
    "GMT": "0.2",
    "TIA": "6",
    "SEI": "0.4",
    "WLD": "3",
    "JUP": "0.8",
    "PYTH": "0.4",
    "STRK": "1",
}

_HOURS_8 = ((0, 8),)
# A contract that settled every 8, then 4, then every hour: over 10,000 hourly settlements by 2025 (design.md, trap 4).
_FASTER = ((0, 8), (parse_time("2022-03-01"), 4), (parse_time("2022-06-01T02:00"), 1))
# Back and forth, with the odd first steps of 1, 2 and 3 h that recorded histories show.
_RESTLESS = (
    (0, 8),
    (parse_time("2024-02-04T16:00"), 4),
    (parse_time("2024-03-12T01:00"), 1),
    (parse_time("2024-03-14T12:00"), 4),
    (parse_time("2024-08-05T03:00"), 1),
    (parse_time("2024-08-07T22:00"), 4),
    (parse_time("2025-02-28T18:00"), 1),
    (parse_time("2025-03-10T17:00"), 2),
    (parse_time("2025-03-20T00:00"), 8),
    (parse_time("2026-03-08T12:00"), 1),
    (parse_time("2026-03-17T00:00"), 4),
)
_FUNDING = {"AVAX": ((0, 4),), "INJ": ((0, 4),), "NEAR": ((0, 1),), "SOL": _FASTER, "LINK": _RESTLESS}


def ticks(price: str, market: str) -> tuple[str, str]:
    """A tick and a step for a price: 10,000 to 100,000 ticks a price, coarser quantities for cheaper assets."""
    exponent = Decimal(price).adjusted()
    tick = f"{Decimal(1).scaleb(exponent - 4):f}"
    if market == "cm":
        return tick, "1"
    step = f"{Decimal(1).scaleb(-exponent):f}" if exponent > 0 else "1"
    return tick, ("0.00001" if market == "spot" else step)


def _perpetuals(count: int) -> Iterator[Contract]:
    names = list(_BASES.items())
    names += [(f"SIM{index:04d}", "1") for index in range(len(names), count)]
    start = parse_time("2020-01-20T07:00")
    for index, (base, price) in enumerate(names[:count]):
        # After the first two, a listing every 27 days from 2020 to 2024, at minutes that lie on no hour.
        first = start + (index * 27 % 1701) * DAY + index * 7 * MINUTE
        contract = {"BTC": BTC, "ETH": ETH}.get(base)
        if contract is None:
            tick, step = ticks(price, "um")
            contract = Contract(
                "um", f"{base}USDT", base, "USDT", price, tick, step, first,
                pair=f"{base}USDT", onboard=first - first % HOUR - 30 * MINUTE, funding=_FUNDING.get(base, _HOURS_8),
            )  # fmt: skip  # a table
        yield contract


BTC = Contract(
    "um", "BTCUSDT", "BTC", "USDT", "60000", "0.10", "0.001", parse_time("2019-09-08T17:57"), pair="BTCUSDT",
    onboard=parse_time("2019-09-08T17:55"), mark_first=parse_time("2019-12-23T11:58"), turnover=2_000_000,
    funding=((parse_time("2019-09-10T08:00"), 8),), quiet=1,
)  # fmt: skip  # a table
ETH = Contract(
    "um", "ETHUSDT", "ETH", "USDT", "2500", "0.01", "0.001", parse_time("2019-11-27T07:45"), pair="ETHUSDT",
    onboard=parse_time("2019-11-27T07:30"), mark_first=parse_time("2019-12-23T11:58"), turnover=1_000_000,
    funding=_HOURS_8, quiet=1,
)  # fmt: skip  # a table


def _odd() -> Iterator[Contract]:
    """Contracts whose names, kinds or lives break careless programs (binance-facts 5 and 10)."""

    def um(symbol: str, base: str, price: str, first: str, **more: Any) -> Contract:
        tick, step = ticks(price, "um")
        more = {"tick": tick, "step": step, "pair": symbol, "quote": "USDT", "funding": _HOURS_8, **more}
        start = parse_time(first)
        return Contract(market="um", symbol=symbol, base=base, price=price, first=start, onboard=start - HOUR, **more)

    yield um("币安人生USDT", "币安人生", "0.15", "2025-10-09T12:15")
    yield um("我踏马来了USDT", "我踏马来了", "0.02", "2026-01-07T09:45")
    yield um("1000PEPEUSDT", "1000PEPE", "0.009", "2023-05-05T16:17", tick="0.0000001", turnover=300_000)
    yield um("1000000MOGUSDT", "1000000MOG", "1.5", "2024-11-07T10:33")
    yield um("BTCUSDC", "BTC", "60000", "2024-01-04T12:31", tick="0.10", quote="USDC")
    yield um("ETHBTC", "ETH", "0.04", "2024-04-02T08:03", quote="BTC", tick="0.000010", step="0.01", turnover=2, quiet=50)
    yield um("TSLAUSDT", "TSLA", "350", "2026-01-28T14:33", kind="TRADIFI_PERPETUAL", quiet=300)
    yield um("XAUUSDT", "XAU", "3500", "2025-12-11T10:01", kind="TRADIFI_PERPETUAL", quiet=100, funding=((0, 4),))
    for code, end, first in (
        ("260626", "2026-06-26T08:00", "2025-12-26T08:03"),
        ("260925", "2026-09-25T08:00", "2026-03-27T08:01"),
        ("261225", "2026-12-25T08:00", "2026-06-26T08:02"),
        ("270326", "2027-03-26T08:00", "2026-09-25T08:01"),
    ):
        kind = "CURRENT_QUARTER" if code <= "261225" else "NEXT_QUARTER"
        common: dict[str, Any] = {"end": parse_time(end), "kind": kind, "pair": "BTCUSDT", "funding": ()}
        yield um(f"BTCUSDT_{code}", "BTC", "60000", first, tick="0.10", quiet=40, **common)
    yield um("ETHUSDT_261225", "ETH", "2500", "2026-06-26T08:02", end=parse_time("2026-12-25T08:00"),
             kind="CURRENT_QUARTER", pair="ETHUSDT", funding=(), tick="0.01", quiet=80)  # fmt: skip  # a table
    yield um("LRCUSDT", "LRC", "0.3", "2020-10-12T07:07", end=parse_time("2026-08-03T09:00"))
    yield um("OCEANUSDT", "OCEAN", "0.6", "2020-10-14T07:11", end=parse_time("2024-07-01T09:00"))
    yield um("UNFIUSDT", "UNFI", "5", "2021-02-24T08:19", end=parse_time("2024-12-10T09:00"))
    yield um("XEMUSDT", "XEM", "0.05", "2021-01-14T07:23", end=parse_time("2024-12-10T09:00"), closed_error=True)
    # What only the archive remembers: a delisted contract, the older one of a re-used ticker, a renamed folder.
    yield um("SRMUSDT", "SRM", "2", "2021-01-12T07:00", end=parse_time("2022-11-28T09:00"), forgotten=True)
    yield um("LUNAUSDT", "LUNA", "60", "2021-03-03T07:00", end=parse_time("2022-05-13T01:00"), forgotten=True)
    yield um("LUNAUSDT", "LUNA2", "2", "2022-09-10T10:30")
    yield um("ICPUSDT_SETTLED", "ICP", "250", "2021-05-11T07:00", end=parse_time("2022-06-10T09:00"), forgotten=True)
    yield um("ICPUSDT", "ICP", "6", "2022-09-27T02:30")
    yield Contract(
        "um", "SOONUSDT", "SOON", "USDT", "1", "0.0001", "1", None, pair="SOONUSDT", onboard=parse_time("2099-01-01")
    )


def _coin_margined() -> Iterator[Contract]:
    def cm(pair: str, price: str, tick: str, size: int, first: str, **more: Any) -> Contract:
        start, suffix = parse_time(first), more.pop("suffix", "PERP")
        more = {"funding": _HOURS_8, "turnover": 3_000 * size, **more}
        return Contract(
            "cm", f"{pair}_{suffix}", pair.removesuffix("USD"), "USD", price, tick, "1", start,
            pair=pair, onboard=start - HOUR, contract_size=size, **more,
        )  # fmt: skip  # a table

    yield cm("BTCUSD", "60000", "0.1", 100, "2020-08-11T06:01")
    yield cm("ETHUSD", "2500", "0.01", 10, "2020-08-19T06:13")
    yield cm("ADAUSD", "0.5", "0.00001", 10, "2020-09-02T07:07", quiet=20)
    yield cm("BTCUSD", "60000", "0.1", 100, "2026-06-26T08:00", suffix="261225", kind="CURRENT_QUARTER", funding=(),
             end=parse_time("2026-12-25T08:00"))  # fmt: skip  # a table
    yield cm("XMRUSD", "150", "0.01", 10, "2021-03-04T07:00", end=parse_time("2024-02-27T09:00"))


def _spot() -> Iterator[Contract]:
    for base, price, tick, step, first in (
        ("BTC", "60000", "0.01", "0.00001", "2017-08-17T04:00"),
        ("ETH", "2500", "0.01", "0.0001", "2017-08-17T04:00"),
        ("BNB", "450", "0.01", "0.001", "2017-11-06T03:54"),
        ("SOL", "120", "0.01", "0.001", "2020-08-11T06:00"),
        ("AVAX", "25", "0.001", "0.01", "2020-09-22T06:30"),
    ):
        start = parse_time(first)
        yield Contract(
            "spot", f"{base}USDT", base, "USDT", price, tick, step, start, pair=f"{base}USDT", onboard=start,
            kind="SPOT", quiet=10 if base != "BTC" else 1,
        )  # fmt: skip  # a table


def default_contracts(perpetuals: int = 64) -> list[Contract]:
    """`perpetuals` ordinary USD-M contracts (BTCUSDT and ETHUSDT first), the odd ones, five of COIN-M and five of spot.

    Two contracts may have one name, one after the other; then all but one are forgotten.
    """
    return [*_perpetuals(perpetuals), *_odd(), *_coin_margined(), *_spot()]


def entry(contract: Contract, now: int) -> dict[str, Any]:
    """The contract's object in `symbols` of exchangeInfo, with the key orders and oddities of the real one."""
    market, shuffle = contract.market, random.Random(contract.symbol)
    filters = [_shuffled(one, shuffle) for one in _filters(contract)]
    if contract.symbol == "ETHBTC":  # a filter that is missing, and one that nobody knows
        filters = [one for one in filters if one["filterType"] != "MIN_NOTIONAL"]
        filters.append({"filterType": "SIM_UNKNOWN_FILTER", "anything": [1, {"two": None}]})
    if market == "spot":
        return {
            "symbol": contract.symbol, "status": "TRADING", "baseAsset": contract.base, "baseAssetPrecision": 8,
            "quoteAsset": contract.quote, "quotePrecision": 8, "quoteAssetPrecision": 8, "orderTypes": ["LIMIT", "MARKET"],
            "icebergAllowed": True, "isSpotTradingAllowed": True, "filters": filters, "permissions": [],
        }  # fmt: skip  # a table
    result: dict[str, Any] = {
        "symbol": contract.symbol, "pair": contract.pair, "contractType": contract.kind,
        "deliveryDate": contract.delivery(now), "onboardDate": contract.onboard,
        "contractStatus" if market == "cm" else "status": contract.status(now),
        "maintMarginPercent": "2.5000", "requiredMarginPercent": "5.0000", "baseAsset": contract.base,
        "quoteAsset": contract.quote, "marginAsset": contract.base if market == "cm" else contract.quote,
        "pricePrecision": decimals(contract.tick), "quantityPrecision": decimals(contract.step), "baseAssetPrecision": 8,
        "quotePrecision": 8, "underlyingType": "EQUITY" if contract.kind.startswith("TRADIFI") else "COIN",
        "underlyingSubType": [], "triggerProtect": "0.0500", "liquidationFee": "0.012500", "marketTakeBound": "0.05",
        "maxMoveOrderLimit": 10000, "filters": filters, "orderTypes": ["LIMIT", "MARKET", "STOP"],
        "timeInForce": ["GTC", "IOC", "FOK", "GTX", "GTD"],
    }  # fmt: skip  # a table
    if market == "cm":
        result |= {"contractSize": contract.contract_size, "equalQtyPrecision": 4}
    if contract.symbol == "1000PEPEUSDT":
        result |= {"simUnknownField": {"nested": [True, None]}, "permissionSets": ["GRID", "COPY"]}
    return result


def _filters(contract: Contract) -> Iterator[dict[str, Any]]:
    notional = "NOTIONAL" if contract.market == "spot" else "MIN_NOTIONAL"
    low, high = (f"{Decimal(contract.price) * Decimal(factor):f}" for factor in ("0.01", "100"))
    yield {"filterType": "PRICE_FILTER", "minPrice": low, "maxPrice": high, "tickSize": contract.tick}
    yield {"filterType": "LOT_SIZE", "minQty": contract.step, "maxQty": "1000000", "stepSize": contract.step}
    yield {"filterType": "MARKET_LOT_SIZE", "minQty": contract.step, "maxQty": "120000", "stepSize": contract.step}
    yield {"filterType": "MAX_NUM_ORDERS", "limit": 200}
    if contract.market == "um":
        yield {"filterType": "MIN_NOTIONAL", "notional": "50" if contract.base == "BTC" else "5"}
    elif contract.market == "spot":
        yield {"filterType": notional, "minNotional": "5.00000000", "applyMinToMarket": True}
    yield {"filterType": "PERCENT_PRICE", "multiplierUp": "1.0500", "multiplierDown": "0.9500", "multiplierDecimal": "4"}
    if contract.market == "um":
        yield {"filterType": "POSITION_RISK_CONTROL", "positionControlSide": "NONE"}


def _shuffled(filter: dict[str, Any], shuffle: random.Random) -> dict[str, Any]:
    return dict(shuffle.sample(list(filter.items()), len(filter)))


def decimals(text: str) -> int:
    """Decimal places of a tick or step as written: 2 for "0.10"."""
    return len(text.partition(".")[2])
