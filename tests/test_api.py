"""`etl.connect` and `etl.load`: the lake of the settings, or the one that is named."""

import pandas as pd
import pytest

import etl
from etl.pipeline import Pipeline, Selection
from etl.ranges import DAY, parse_time
from etl.sim.clock import Clock
from etl.sim.market import GeneratedWorld
from etl.sim.server import Simulator

from .exchange import settings

START = parse_time("2026-02-20")


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lake") / "lake"
    clock = Clock(parse_time("2026-02-25T00:30"), frozen=True)
    with Simulator(GeneratedWorld(seed=6), clock=clock) as exchange, Pipeline(settings(exchange, folder)) as pipeline:
        outcome = pipeline.sync("backfill", [Selection("um", ("klines", "funding"), ("BTCUSDT",), ("1h",), START)])
    assert outcome.exit_code == 0
    return folder


def test_load_gives_aware_times_and_numbers(lake):
    frame = etl.load("klines", "BTCUSDT", "1h", start="2026-02-21", end="2026-02-22", lake=lake)
    assert frame["open_time"].tolist() == list(pd.date_range("2026-02-21", periods=24, freq="h", tz="UTC"))
    assert all(pd.api.types.is_numeric_dtype(frame[name]) for name in ("open", "high", "low", "close", "volume", "count"))
    table = etl.load("funding", "BTCUSDT", start=START, end=START + DAY, lake=lake, output="arrow")
    assert table.num_rows == 3


def test_the_lake_of_the_environment(lake, monkeypatch):
    monkeypatch.setenv("ETL_LAKE", str(lake))
    assert len(etl.load("klines", "BTCUSDT", "1h")) == 5 * 24
    with etl.connect() as connection:
        assert connection.sql("SELECT count(*) FROM klines").fetchall() == [(120,)]


def test_a_series_that_is_not_there(lake, tmp_path):
    with pytest.raises(etl.EtlError, match="BTCUSDT"):
        etl.load("klines", "BTCUSD", "1h", lake=lake)
    with pytest.raises(etl.EtlError, match="no lake"):
        etl.connect(tmp_path / "nowhere")
