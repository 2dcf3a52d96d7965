"""Whatever a clock shows: years in which counters end, days that are rarely there, and a local one that is wrong, or jumps."""

import os
import shutil
import subprocess
import sys
import time

import pytest

from etl.model import Series
from etl.pipeline import Pipeline, Selection
from etl.plan import closed_end
from etl.ranges import DAY, HOUR, parse_time
from etl.sim.clock import Clock
from etl.sim.market import GeneratedWorld
from etl.sim.server import Simulator

from ..exchange import settings, stored, truth

BARS = Series("um", "klines", "BTCUSDT", "1h")
RATES = Series("um", "funding", "BTCUSDT")


@pytest.fixture(scope="module")
def world():
    return GeneratedWorld(seed=5, symbols=2)


def run(exchange, lake, start):
    wanted = Selection("um", ("klines", "funding"), ("BTCUSDT",), ("1h",), start)
    with Pipeline(settings(exchange, lake), source="rest") as pipeline:
        return pipeline.sync("backfill", [wanted])


@pytest.mark.parametrize("moment", ["2038-01-19T04:14:07", "2028-03-01T00:30:00", "2100-03-01T00:30:00"])
def test_the_second_2_to_the_31_and_leap_days(world, tmp_path, moment):
    """2028 has a 29th of February, 2100 has none."""
    now = parse_time(moment)
    with Simulator(world, clock=Clock(now, frozen=True)) as exchange:
        start = now - now % DAY - 2 * DAY
        assert run(exchange, tmp_path / "lake", start).exit_code == 0
        for series in (BARS, RATES):
            expected = truth(exchange, series, start, closed_end(series.interval, now))
            assert expected
            assert stored(tmp_path / "lake", series) == expected
        hours = [row[0] for row in stored(tmp_path / "lake", BARS)]
        assert hours == [*range(start, now - now % HOUR, HOUR)]


@pytest.fixture(scope="module")
def wrong_clock():
    """The variables by which a process takes its time from a file."""
    if shutil.which("faketime") is None:
        pytest.skip("faketime is not installed: a wrong local clock is not tested")
    shown = subprocess.run(["faketime", "-m", "-f", "+0", "env"], capture_output=True, text=True, check=True).stdout
    (library,) = (line for line in shown.splitlines() if line.startswith("LD_PRELOAD="))
    return {"LD_PRELOAD": library.partition("=")[2], "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def test_the_local_clock_plays_no_part(world, tmp_path, wrong_clock):
    """A day ahead, then an hour behind, in the middle of a run: what is stored is what is closed by the exchange's clock."""
    now, shift, lake = parse_time("2026-03-01T12:00:30"), tmp_path / "shift", tmp_path / "lake"
    shift.write_text("+1d")
    with Simulator(world, clock=Clock(now, frozen=True), latency_ms=100) as exchange:
        urls = {f"ETL_{name}_URL": exchange.url for name in ("UM", "CM", "SPOT", "ARCHIVE", "ARCHIVE_INDEX")}
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "ETL_LAKE": str(lake), **urls, **wrong_clock}
        command = [
            "backfill",
            "klines",
            "--symbols",
            "BTCUSDT",
            "--interval",
            "1h",
            "--start",
            "2025-06-01",
            "--source",
            "rest",
        ]
        with subprocess.Popen(
            [sys.executable, "-m", "etl", *command, "--workers", "1", "--quiet"],
            env={**env, "FAKETIME_TIMESTAMP_FILE": str(shift)},
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            while sum(request.path.endswith("klines") for request in exchange.requests) < 2:
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.005)
            shift.write_text("-1h")
            _, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (0, "")
        assert stored(lake, BARS) == truth(exchange, BARS, parse_time("2025-06-01"), closed_end("1h", now))
        assert len(exchange.requests) > 5
