"""`etl.connect`, `etl.load` and `etl.universe`: the lake of the settings, or the one that is named, or a snapshot of it."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import duckdb
import pandas as pd
import pytest

import etl
from etl.lake import snapshots
from etl.lake.store import Store
from etl.pipeline import Pipeline, Selection
from etl.ranges import DAY, HOUR, parse_time
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


def test_the_universe_of_a_day(lake):
    frame = etl.universe("2026-02-21", lake=lake)
    assert frame["symbol"].tolist() == sorted(frame["symbol"])
    assert {"BTCUSDT", "ETHUSDT"} <= set(frame["symbol"])
    assert str(frame["onboard_time"].dtype).endswith("UTC]")
    assert (frame["onboard_time"] <= pd.Timestamp("2026-02-21", tz="UTC")).all()
    listed = frame.set_index("symbol")["onboard_time"]["ETHUSDT"]
    early = etl.universe(listed - pd.Timedelta(milliseconds=1), lake=lake, output="arrow")
    assert "ETHUSDT" not in early["symbol"].to_pylist()
    assert "ETHUSDT" in etl.universe(listed, lake=lake)["symbol"].tolist()
    assert len(etl.universe("2026-02-21", market="cm", lake=lake)) == 0
    with pytest.raises(etl.UsageError, match="market"):
        etl.universe("2026-02-21", market="xx", lake=lake)


def test_a_snapshot_answers_the_same_while_a_backfill_writes(tmp_path):
    """Readers ask all the time, and the writer has months to fetch from an exchange that takes its time."""
    lake = tmp_path / "lake"
    clock = Clock(parse_time("2026-02-25T00:30"), frozen=True)
    months = Selection("um", ("klines",), ("BTCUSDT",), ("1m",), parse_time("2025-12-15"), parse_time("2026-02-25"))
    with Simulator(GeneratedWorld(seed=6), clock=clock) as exchange:
        with Pipeline(settings(exchange, lake)) as pipeline:
            pipeline.sync("backfill", [Selection("um", ("klines",), ("BTCUSDT",), ("1m", "1h"), START)])
        snapshots.create(Store.open(lake, network="mainnet", layout="year"), "before")
        first = etl.load("klines", "BTCUSDT", "1m", lake=lake)
        symbols = etl.universe(START, lake=lake)
        exchange.latency_ms = 50
        with Pipeline(settings(exchange, lake), source="rest") as pipeline, ThreadPoolExecutor(1) as pool:
            writing = pool.submit(pipeline.sync, "backfill", [months])
            asked = 0
            while not writing.done() or not asked:
                asked += 1
                times = etl.load("klines", "BTCUSDT", "1m", lake=lake)["open_time"]
                assert times.is_monotonic_increasing
                assert times.is_unique
                assert set(first["open_time"]) <= set(times)
                pd.testing.assert_frame_equal(etl.load("klines", "BTCUSDT", "1m", lake=lake, snapshot="before"), first)
                pd.testing.assert_frame_equal(etl.universe(START, lake=lake, snapshot="before"), symbols)
            assert writing.result().exit_code == 0
    assert len(etl.load("klines", "BTCUSDT", "1m", lake=lake)) == (parse_time("2026-02-25") - months.start) // 60_000 + 30
    with etl.connect(lake, snapshot="before") as connection:
        assert connection.sql("SELECT count(*) FROM bars('BTCUSDT', '1m')").fetchall() == [(len(first),)]
        assert len(first) == (parse_time("2026-02-25T00:30") - START) // 60_000


def test_an_unknown_snapshot_is_told_with_those_that_there_are(lake):
    for ask in (
        lambda: etl.connect(lake, snapshot="nosuch"),
        lambda: etl.load("klines", "BTCUSDT", "1h", lake=lake, snapshot="nosuch"),
        lambda: etl.universe(START, lake=lake, snapshot=""),
    ):
        with pytest.raises(etl.UsageError, match=r"has no snapshot '\w*'; it has none"):
            ask()


def test_a_snapshot_is_read_by_one_thread(lake):
    """Threads add doubles in the order in which they come, so the last bits differ from one time to the next."""
    snapshots.create(Store.open(lake, network="mainnet", layout="year"), "sums")
    with etl.connect(lake, snapshot="sums") as frozen, etl.connect(lake) as live:
        threads = "SELECT current_setting('threads')"
        assert frozen.sql(threads).fetchall() == [(1,)]
        assert live.sql(threads).fetchall() == [(os.cpu_count(),)]


def test_a_range_that_ends_before_it_starts_is_refused(lake):
    with pytest.raises(etl.UsageError, match="must lie before"):
        etl.load("klines", "BTCUSDT", "1h", start="2026-02-22", end="2026-02-21", lake=lake)


def test_polars_frames(lake):
    pl = pytest.importorskip("polars", reason="polars is not installed: its frames are not tested")
    frame = etl.load("klines", "BTCUSDT", "1h", start="2026-02-21", end="2026-02-22", lake=lake, output="polars")
    assert isinstance(frame, pl.DataFrame)
    assert frame.schema["open_time"].time_zone == "UTC"
    assert frame["open_time"].dt.epoch("ms").to_list() == [START + DAY + hour * HOUR for hour in range(24)]
    expected = etl.load("klines", "BTCUSDT", "1h", start="2026-02-21", end="2026-02-22", lake=lake)
    assert frame["close"].to_list() == expected["close"].tolist()
    assert (
        etl.universe(START, lake=lake, output="polars")["symbol"].to_list() == etl.universe(START, lake=lake)["symbol"].tolist()
    )


def test_without_polars_it_is_told_what_to_install(lake):
    script = (
        "import sys\n"
        "sys.modules['polars'] = None\n"
        "import etl\n"
        "try:\n"
        f"    etl.load('klines', 'BTCUSDT', '1h', lake={str(lake)!r}, output='polars')\n"
        "except etl.UsageError as error:\n"
        "    print(error)"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "pip install 'binance-futures-etl[polars]'" in finished.stdout
    with pytest.raises(etl.UsageError, match="known are pandas, arrow, polars"):
        etl.load("klines", "BTCUSDT", "1h", lake=lake, output="dask")


@pytest.mark.skipif(duckdb.__version__.startswith("1."), reason="DuckDB 1 imports pandas to read any parameter")
def test_frames_are_pandas_only_where_they_are_asked_for(lake):
    script = (
        "import sys, etl\n"
        f"table = etl.load('klines', 'BTCUSDT', '1h', lake={str(lake)!r}, output='arrow')\n"
        "print(table.num_rows, 'pandas' in sys.modules)"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert finished.stdout.split() == ["120", "False"]
