"""The tools that can be exported to: one entry each, with what it takes, under which name, and in which form. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote

import pyarrow as pa

from .. import registry
from ..errors import UsageError
from ..model import Series
from . import tables
from .contracts import Contract

Form = Literal["csv", "parquet", "feather", "catalog"]

# freqtrade's own names of the kinds of candles; those of spot have none.
_CANDLES = {
    "klines": "futures",
    "mark_klines": "mark",
    "index_klines": "index",
    "premium_klines": "premiumIndex",
    "funding": "funding_rate",
}
# `funding_fee_timeframe` and `mark_ohlcv_timeframe` of freqtrade's exchanges: it looks for these two files and no others.
FREQTRADE_FUNDING = "1h"
_STEPS = {"m": "MINUTE", "h": "HOUR", "d": "DAY", "w": "WEEK", "M": "MONTH"}


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool; `path` and `table` say where below the folder a series goes, and as what.

    `path` raises UsageError for a contract that the tool cannot represent.
    """

    name: str
    form: Form
    markets: tuple[str, ...]
    datasets: tuple[str, ...]
    """What it can take."""
    usual: tuple[str, ...]
    """What it is given where no dataset is named."""
    path: Callable[[Series, Contract], str]
    table: Callable[[str, pa.Table], pa.Table]
    needs: Mapping[str, str] = field(default_factory=dict)
    """Intervals that belong to a dataset whichever are named."""
    refuses: Mapping[str, str] = field(default_factory=dict)
    """Why it does not take a market or dataset."""


def tool(name: str) -> Tool:
    """The tool of that name; UsageError with the known ones otherwise."""
    if name not in TOOLS:
        raise UsageError(f"unknown tool '{name}'; known are {', '.join(TOOLS)}")
    return TOOLS[name]


def check(chosen: Tool, market: str, datasets: tuple[str, ...]) -> None:
    """UsageError, with the reason, if the tool does not take the market or one of the datasets."""
    if market not in chosen.markets:
        reason = chosen.refuses.get(market, f"it takes {', '.join(chosen.markets)}")
        raise UsageError(f"{chosen.name} cannot take market {market}: {reason}; --to csv takes every market")
    for dataset in datasets:
        if dataset not in chosen.datasets:
            reason = chosen.refuses.get(dataset, f"it takes {', '.join(chosen.datasets)}")
            raise UsageError(f"{chosen.name} cannot take {dataset}: {reason}; --to csv takes every dataset")


def file_name(text: str) -> str:
    """The text as one part of a path: letters and digits of any script stay, the rest is percent-encoded."""
    encoded = "".join(one if one.isalnum() or one in "-_~." else quote(one, safe="") for one in text)
    return f"%2E{encoded[1:]}" if encoded.startswith(".") else encoded


def freqtrade_pair(contract: Contract) -> str:
    """`BTC/USDT` of spot, `BTC/USDT:USDT` of a perpetual; UsageError for what freqtrade does not trade."""
    if contract.kind == "delivery":
        raise UsageError(f"freqtrade trades perpetuals only, and {contract.symbol} is delivered; --to csv takes it")
    if contract.base is None:
        raise UsageError(
            f"freqtrade needs base and quote asset of {contract.symbol}, which the exchange has forgotten and its name does not"
            " tell; --to csv takes it"
        )
    pair = f"{contract.base}/{contract.quote}"
    return pair if contract.kind == "spot" else f"{pair}:{contract.quote}"


def nautilus_id(contract: Contract) -> str:
    """The instrument's id as nautilus' own adapter of the exchange spells it, `BTCUSDT-PERP.BINANCE`.

    UsageError where the lake lacks what an instrument needs.
    """
    lacking = [name for name in ("tick_size", "step_size") if not contract.rules.get(name)]
    lacking += ["base_asset"] if contract.base is None else []
    lacking += ["delivery_time"] if contract.kind == "delivery" and contract.rules.get("delivery_time") is None else []
    if lacking:
        raise UsageError(
            f"nautilus needs {', '.join(lacking)} of {contract.symbol}, which the exchange has not told this lake: etl update"
            " over REST learns the rules of what is listed, and --to csv takes the rest"
        )
    suffix = "-PERP" if contract.kind == "perpetual" else ""
    return f"{contract.symbol}{suffix}.BINANCE"


def nautilus_bars(series: Series, contract: Contract) -> str:
    """The bar type, `BTCUSDT-PERP.BINANCE-1-MINUTE-LAST-EXTERNAL`."""
    interval = series.interval or ""
    return f"{nautilus_id(contract)}-{interval[:-1]}-{_STEPS[interval[-1]]}-LAST-EXTERNAL"


def _in_folders(ending: str) -> Callable[[Series, Contract], str]:
    def path(series: Series, _: Contract) -> str:
        parts = [series.symbol, *([registry.interval(series.interval).path_name] if series.interval else [])]
        return f"{series.market}/{series.dataset}/{file_name('-'.join(parts))}.{ending}"

    return path


def _freqtrade_path(series: Series, contract: Contract) -> str:
    pair = re.sub(r"[/ .@$+:]", "_", freqtrade_pair(contract))
    if contract.kind == "spot":
        return f"{pair}-{(series.interval or '').replace('M', 'Mo')}.feather"
    timeframe = (series.interval or FREQTRADE_FUNDING).replace("M", "Mo")
    return f"futures/{pair}-{timeframe}-{_CANDLES[series.dataset]}.feather"


def _nautilus_path(series: Series, contract: Contract) -> str:
    return nautilus_bars(series, contract) if series.interval else nautilus_id(contract)


_ALL = tuple(registry.MARKETS)
_BARS = tuple(name for name, dataset in registry.DATASETS.items() if "open" in {column.name for column in dataset.columns})

TOOLS = {
    one.name: one
    for one in (
        Tool(
            "freqtrade", "feather", ("um", "spot"), tuple(_CANDLES), ("klines", "funding", "mark_klines"), _freqtrade_path,
            tables.freqtrade, needs={"mark_klines": FREQTRADE_FUNDING}, refuses={"cm": "it trades linear perpetuals and spot"},
        ),
        Tool(
            "nautilus", "catalog", ("um", "spot"), ("klines", "funding"), ("klines", "funding"), _nautilus_path, tables.plain,
            refuses={"cm": "an inverse contract needs its size in USD, which the lake does not keep"},
        ),
        Tool(
            "backtesting", "csv", _ALL, _BARS, ("klines",), _in_folders("csv"), tables.backtesting,
            refuses={"funding": "it knows bars only"},
        ),
        Tool(
            "vectorbt", "parquet", _ALL, _BARS, ("klines",), _in_folders("parquet"), tables.vectorbt,
            refuses={"funding": "it knows bars only"},
        ),
        Tool("csv", "csv", _ALL, tuple(registry.DATASETS), tuple(registry.DATASETS), _in_folders("csv"), tables.plain),
    )
}  # fmt: skip  # a table, read by its rows
