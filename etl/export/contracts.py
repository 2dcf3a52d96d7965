"""What a tool has to know of a symbol: which kind of contract it is, of which assets, under which rules. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..lake.symbols import ended
from ..model import Series
from ..ranges import ALWAYS, TimeRange

Kind = Literal["spot", "perpetual", "delivery"]
Row = Mapping[str, Any]

# For symbols that the exchange has forgotten: what their names may end with besides the quote assets that the lake knows.
_QUOTES = {
    "um": {"USDT", "USDC", "BUSD", "BTC"},
    "cm": {"USD"},
    "spot": {"USDT", "USDC", "BUSD", "FDUSD", "TUSD", "BTC", "ETH", "BNB", "EUR", "TRY"},
}
_DELIVERY = re.compile(r".+_\d{6}")


@dataclass(frozen=True, slots=True)
class Contract:
    """A symbol of a market; assets are None where neither the exchange nor the name tells them."""

    market: str
    symbol: str
    kind: Kind
    base: str | None
    quote: str | None
    told: bool
    """Whether the exchange told the assets; else they are read off the symbol."""
    rules: Row
    """The row of the latest contract of that time in `symbols`; empty where there is none."""
    lives: tuple[int | None, ...] = (None,)
    """When each contract that had the symbol in that time began (ms UTC, None if unknown), oldest first."""


def contract(series: Series, rows: Sequence[Row], quotes: Iterable[str], span: TimeRange = ALWAYS) -> Contract:
    """The contract of a series in a time, of the rows that `symbols` has for it, oldest first.

    `quotes` are the quote assets known in its market.
    """
    rows = _lived(rows, span)
    rules = rows[-1] if rows else {}
    base, quote = rules.get("base_asset"), rules.get("quote_asset")
    told = bool(base and quote)
    kind = _kind(series, rules.get("contract_type"))
    if not told:
        name = series.symbol.rpartition("_")[0] if kind == "delivery" else series.symbol
        base, quote = _split(name, {*quotes, *_QUOTES[series.market]})
    lives = tuple(map(_began, rows)) or (None,)
    return Contract(series.market, series.symbol, kind, base, quote, told, rules, lives)


def _lived(rows: Sequence[Row], span: TimeRange) -> Sequence[Row]:
    """The contracts that lived in the span; where that is told of none, the last one that had begun."""
    begun = [row for row in rows if (_began(row) or 0) < span.end] or rows[:1]
    return [row for row in begun if ended(row) > span.start] or begun[-1:]


def _began(row: Row) -> int | None:
    first: int | None = row["first_time"]
    onboard: int | None = row["onboard_time"]
    return onboard if first is None else first


def _kind(series: Series, contract_type: str | None) -> Kind:
    if series.market == "spot":
        return "spot"
    if contract_type:
        return "perpetual" if "PERPETUAL" in contract_type else "delivery"
    return "delivery" if _DELIVERY.fullmatch(series.symbol) else "perpetual"


def _split(name: str, quotes: set[str]) -> tuple[str | None, str | None]:
    """Base and quote asset of a name that is nothing but the two; the longest quote asset that fits is it."""
    for quote in sorted(quotes, key=lambda one: (-len(one), one)):
        base = name.removesuffix(quote)
        if base and base != name and "_" not in base:
            return base, quote
    return None, None
