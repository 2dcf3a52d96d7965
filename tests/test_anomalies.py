"""What is known to be odd in recorded data is met or found, and nothing in it is called an error."""

import csv
from collections import defaultdict

import pytest

from etl.lake.store import Store
from etl.model import Series
from etl.pipeline import Pipeline, Selection
from etl.ranges import MINUTE, iso, parse_time
from etl.sim.clock import Clock
from etl.sim.replay import ReplayWorld
from etl.sim.server import Simulator
from etl.verify import verify

from .exchange import settings, stored, truth

LATER = "2026-09-01T00:30"  # when all that was recorded is closed


@pytest.fixture(scope="module")
def world(real_data):
    return ReplayWorld(real_data, quiet=True)


@pytest.fixture(scope="module")
def anomalies(real_data, world):
    """Of the files that are served: the rows of ANOMALIES.tsv, by their kind."""
    found = defaultdict(list)
    with (real_data / "ANOMALIES.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if row["file"] in world.served:
                found[row["kind"]].append(row)
    return found


@pytest.fixture
def checked(world, tmp_path):
    """Fetch something at a time of the exchange, and check what is stored then."""

    def run(now, dataset, symbols, start, end=None, interval="1d", market="um", source="rest"):
        lake = tmp_path / "lake"
        span = (parse_time(start), end and parse_time(end))
        with Simulator(world, clock=Clock(parse_time(now), frozen=True)) as exchange:
            with Pipeline(settings(exchange, lake), source=source) as pipeline:
                outcome = pipeline.sync("backfill", [Selection(market, (dataset,), tuple(symbols), (interval,), *span)])
            assert (outcome.exit_code, outcome.failed) == (0, [])
            store = Store.open(lake, network="mainnet", layout="year")
            found = verify(store)
            assert found.sound
            if source == "rest":
                for series in store.series():
                    there = truth(exchange, series, span[0], span[1] or parse_time(now))
                    assert stored(lake, series) == [row for row in there if dataset == "funding" or row[6] < parse_time(now)]
        return store, found

    return run


def symbol_of(row):
    return row["file"].rpartition("/")[2].partition(".")[0].partition("-")[0].replace("_USDT_USDT", "USDT")


def test_the_step_of_funding_changes_where_it_did(anomalies, checked):
    known = {(symbol_of(row), parse_time(row["first_utc"]) // MINUTE * MINUTE) for row in anomalies["funding_step_change"]}
    store, found = checked(LATER, "funding", sorted({symbol for symbol, _ in known}), "2025-03-01", "2026-04-01")
    told = {(f.series.symbol, time) for f in found.findings if f.check == "funding_step" for time in f.times}
    begins = {(series.symbol, store.files(series)[0].first // MINUTE * MINUTE) for series in store.series()}
    assert len(known) == 46
    assert told == known - begins  # a recording's first settlement has none before it to differ from
    assert {f.check for f in found.findings} <= {"funding_step", "funding_gap"}
    spans = {series: [file for file in store.files(series) if file.rows] for series in store.series()}
    within = [
        (f.series.symbol, iso(time))
        for f in found.findings
        if f.check == "funding_gap"
        for time in f.times
        if spans[f.series][0].first < time < spans[f.series][-1].last
    ]
    assert within == []  # before and behind it what was not recorded does lack


def test_the_candle_that_was_open_when_it_was_recorded_is_not_stored(anomalies, checked):
    rows = anomalies["open_last_candle"]
    store, found = checked("2025-06-29T06:45", "klines", sorted(symbol_of(row) for row in rows), "2025-06-17")
    last = {series.symbol: store.files(series)[-1].last or 0 for series in store.series()}
    assert len(last) > 50
    # Of a contract that was settled in April the exchange gave frozen bars in June: they are not asked for.
    assert {symbol_of(row) for row in rows} - set(last) == {"NULSUSDT"}
    assert [row for row in rows if last.get(symbol_of(row), 0) >= parse_time(row["first_utc"])] == []
    assert {f.check for f in found.findings} <= {"no_trade", "life"}


def test_minutes_without_a_trade_are_kept_and_told(anomalies, checked):
    (row,) = [row for row in anomalies["no_trade_candles"] if "NEARUSDT-1m" in row["file"]]
    _, found = checked(LATER, "klines", ["NEARUSDT"], "2023-09-01", "2023-10-01", interval="1m")
    assert [(f.check, f.count) for f in found.findings] == [("no_trade", int(row["count"]))]


def test_the_hour_that_the_archive_has_flat(anomalies, checked):
    known = {parse_time(row["first_utc"]) for row in anomalies["no_trade_candles"] if row["file"].endswith("2024-10-28.zip")}
    store, found = checked(LATER, "klines", ["BTCUSDT"], "2024-10-28", "2024-10-29", interval="1h", source="archive")
    assert {time for f in found.findings if f.check == "no_trade" for time in f.times} == known != set()
    assert [file.rows for file in store.files(Series("um", "klines", "BTCUSDT", "1h"))] == [24]


def test_microseconds_are_milliseconds(anomalies, checked):
    (row,) = anomalies["time_unit"]
    store, found = checked(LATER, "klines", ["BTCUSDT"], "2025-01-01", "2025-02-01", interval="1h", market="spot")
    assert [file.rows for file in store.files(Series("spot", "klines", "BTCUSDT", "1h"))] == [int(row["count"])]
    assert found.findings == ()
