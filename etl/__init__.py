"""Historical market data of Binance futures: extract, verify, store as Parquet, query in SQL.

What is public is imported when it is first used, so that `import etl` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import connect, load, universe
    from .errors import BadAnswer, EtlError, LakeError, Refused, Rejected, Transient, UsageError
    from .extract.client import BinanceFuturesClient, int_2_timestamp, spread_in_ticks, timestamp_2_int

__version__ = "0.1.0"

_HOMES = {
    "BadAnswer": ".errors",
    "BinanceFuturesClient": ".extract.client",
    "EtlError": ".errors",
    "LakeError": ".errors",
    "Refused": ".errors",
    "Rejected": ".errors",
    "Transient": ".errors",
    "UsageError": ".errors",
    "connect": ".api",
    "int_2_timestamp": ".extract.client",
    "load": ".api",
    "spread_in_ticks": ".extract.client",
    "timestamp_2_int": ".extract.client",
    "universe": ".api",
}

__all__ = [
    "BadAnswer",
    "BinanceFuturesClient",
    "EtlError",
    "LakeError",
    "Refused",
    "Rejected",
    "Transient",
    "UsageError",
    "connect",
    "int_2_timestamp",
    "load",
    "spread_in_ticks",
    "timestamp_2_int",
    "universe",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'etl' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
