"""A small lake with a gap and with names that break careless pages, made once, and what the exchange knows of it."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from etl.model import Series
from etl.pipeline import Pipeline, Selection
from etl.ranges import HOUR, parse_time
from etl.sim.clock import Clock
from etl.sim.contracts import Contract
from etl.sim.market import GeneratedWorld, Hole
from etl.sim.server import Simulator

from ..exchange import settings, truth

START, NOW = parse_time("2026-01-15"), parse_time("2026-03-01T12:30:30")
# Twenty hours; of the two candles of 6 h at its ends five and one hour stay, those between are absent.
HOLE = (parse_time("2026-02-03T05:00"), parse_time("2026-02-04T01:00"))
SCRIPT, ARABIC = "<script>alert(1)</script>&USDT", "\u202eسوقUSDT"
SYMBOLS = ("BTCUSDT", SCRIPT, ARABIC)


@dataclass(frozen=True)
class Made:
    folder: Path
    bars: list[tuple]
    """Of BTCUSDT, from the exchange: open_time, open, high, low, close, volume, …"""
    settlements: list[tuple]


def contract(symbol: str, price: str) -> Contract:
    first = parse_time("2025-12-01")
    return Contract(
        *("um", symbol, symbol[:3], "USDT", price, "0.01", "0.001", first),
        pair=symbol,
        onboard=first - HOUR,
        funding=((0, 8),),
    )


@pytest.fixture(scope="session")
def lake(tmp_path_factory) -> Made:
    contracts = [contract(symbol, price) for symbol, price in zip(SYMBOLS, ("60000", "100", "7"), strict=True)]
    world = GeneratedWorld(seed=3, symbols=contracts, holes=(Hole("um", "BTCUSDT", "klines", *HOLE),))
    folder = tmp_path_factory.mktemp("pictures") / "lake"
    with Simulator(world, clock=Clock(NOW, frozen=True)) as exchange:
        wanted = [
            Selection("um", ("klines", "funding"), SYMBOLS, ("1h",), START),
            Selection("um", ("mark_klines",), ("BTCUSDT",), ("1d",), START),
        ]
        with Pipeline(settings(exchange, folder), source="rest") as pipeline:
            assert pipeline.sync("backfill", wanted, stored=None).exit_code == 0
        bars = truth(exchange, Series("um", "klines", "BTCUSDT", "1h"), START, parse_time("2026-03-01T12:00"))
        settlements = truth(exchange, Series("um", "funding", "BTCUSDT"), START, NOW)
    return Made(folder, bars, settlements)
