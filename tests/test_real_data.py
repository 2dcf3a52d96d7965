"""Recorded exchange data, served over HTTP by the simulator's replay and backfilled by the real command, field by field."""

import csv
import json
import os
import subprocess
import sys

import pytest

from etl.model import Series

from .exchange import stored

pytestmark = pytest.mark.real_data

BARS = [
    (["vision_um_csv/AVAXUSDT-1m-2026-06.csv", "vision_um_csv/AVAXUSDT-1m-2026-07.csv"], "AVAXUSDT", "1m"),
    (["klines_um/BTCUSDT-1h-2025-01_2026-07.csv"], "BTCUSDT", "1h"),
    (["vision_um_csv/NEARUSDT-1m-2023-09.csv"], "NEARUSDT", "1m"),
]


@pytest.fixture(scope="module")
def replay(real_data):
    process = subprocess.Popen(
        [sys.executable, "-m", "etl", "sim", "--replay", str(real_data), "--quiet"], stdout=subprocess.PIPE, text=True
    )
    yield process.stdout.readline().strip()
    process.terminate()
    assert process.wait(10) == 0
    process.stdout.close()


@pytest.fixture
def backfill(replay, tmp_path):
    def run(*arguments):
        env = {**os.environ, "ETL_UM_URL": replay, "ETL_SPOT_URL": replay, "ETL_LAKE": str(tmp_path / "lake")}
        finished = subprocess.run(
            [sys.executable, "-m", "etl", "backfill", *arguments, "--json"],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr
        return json.loads(finished.stdout)

    return run


def recorded(path):
    with path.open(newline="") as file:
        return [row for row in csv.reader(file) if row[0].isdecimal()]


@pytest.mark.parametrize(("files", "symbol", "interval"), BARS, ids=[f"{symbol}-{interval}" for _, symbol, interval in BARS])
def test_recorded_bars_come_out_equal(real_data, backfill, tmp_path, files, symbol, interval):
    expected = [
        (int(r[0]), *map(float, r[1:6]), int(r[6]), float(r[7]), int(r[8]), float(r[9]), float(r[10]))
        for file in files
        for r in recorded(real_data / file)
    ]
    span = ["--start", str_of(expected[0][0]), "--end", str_of(expected[-1][6] + 1)]
    document = backfill("klines", "--symbols", symbol, "--interval", interval, *span)
    assert (document["rows_written"], document["gaps"], document["failed"]) == (len(expected), [], [])
    assert stored(tmp_path / "lake", Series("um", "klines", symbol, interval)) == expected


def test_recorded_funding_comes_out_equal(real_data, backfill, tmp_path):
    expected = [
        (int(r[0]), float(r[2]), None, None) for r in recorded(real_data / "funding/BTCUSDT-funding-2025-01_2026-07.csv")
    ]
    document = backfill("funding", "--symbols", "BTCUSDT", "--start", "2025-01-01", "--end", "2026-08-01")
    assert document["rows_written"] == len(expected) == 1731
    assert stored(tmp_path / "lake", Series("um", "funding", "BTCUSDT")) == expected


@pytest.mark.parametrize("symbol", ["COSUSDT", "BARDUSDT", "ANIMEUSDT", "0GUSDT"])
def test_recorded_changes_of_the_funding_interval_come_out_equal(real_data, backfill, tmp_path, symbol):
    expected = [(int(r[0]), float(r[2]), None, None) for r in recorded(real_data / f"funding/rest_csv/{symbol}.csv")]
    backfill("funding", "--symbols", symbol, "--start", "2026-01-01", "--end", "2026-04-01")
    assert stored(tmp_path / "lake", Series("um", "funding", symbol)) == expected


def test_recorded_outages_of_spot_stay_gaps(real_data, backfill, tmp_path):
    """Hours in microseconds and in milliseconds, as the archive wrote them, become one unit."""
    expected = [
        (int(r[0]) // (1000 if len(r[0]) == 16 else 1), float(r[4]), int(r[6]) // (1000 if len(r[6]) == 16 else 1))
        for month in ("2024-12", "2025-01")
        for r in recorded(real_data / f"vision_spot_csv/BTCUSDT-1h-{month}.csv")
    ]
    backfill(
        "klines", "--market", "spot", "--symbols", "BTCUSDT", "--interval", "1h", "--start", "2024-12-01", "--end", "2025-02-01"
    )
    rows = stored(tmp_path / "lake", Series("spot", "klines", "BTCUSDT", "1h"))
    assert [(row[0], row[4], row[6]) for row in rows] == expected


def str_of(time):
    from datetime import UTC, datetime

    return datetime.fromtimestamp(time / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
