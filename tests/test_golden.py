"""Lakes that earlier versions have made: they open, verify and update with this one."""

import json
import math
import shutil
from pathlib import Path

import pytest

from etl.lake.query import connect
from etl.lake.store import FORMAT, Store
from etl.model import Series
from etl.pipeline import Pipeline
from etl.plan import closed_end
from etl.ranges import parse_time
from etl.sim.clock import Clock
from etl.sim.market import GeneratedWorld
from etl.sim.server import Simulator
from etl.verify import verify

from .exchange import settings, stored, truth

GOLDEN = Path(__file__).parent / "golden"
MADE, LATER = parse_time("2026-03-01T12:00:30"), parse_time("2026-03-03T12:00:30")


@pytest.fixture(params=sorted(path.name for path in GOLDEN.iterdir() if path.is_dir()))
def golden(request, tmp_path):
    """A copy of the lake, and what it must hold by series."""
    shutil.copytree(GOLDEN / request.param / "lake", tmp_path / "lake")
    expected = json.loads((GOLDEN / request.param / "expected.json").read_text("utf-8"))
    keys = ("market", "dataset", "symbol", "interval")
    return tmp_path / "lake", {Series(*(one.pop(key) for key in keys)): one for one in expected}


def told(series, rows):
    """The same figures of rows that are stored."""
    values = [row[4] if series.interval else row[1] for row in rows]
    return {"rows": len(rows), "first": rows[0][0], "last": rows[-1][0], "sum": math.fsum(values)}


def test_there_is_one_of_each_format_and_all_are_small():
    assert {path.name for path in GOLDEN.iterdir() if path.is_dir()} == {f"format{number}" for number in range(1, FORMAT + 1)}
    for lake in GOLDEN.glob("format*"):
        assert sum(path.stat().st_size for path in lake.rglob("*") if path.is_file()) <= 100_000


def test_a_lake_of_an_earlier_version_opens_verifies_and_updates(golden):
    lake, expected = golden
    store = Store.open(lake, network="mainnet", layout="year")
    assert {*store.series()} == {*expected}
    before = {series: stored(lake, series) for series in expected}
    assert {series: told(series, rows) for series, rows in before.items()} == expected
    found = verify(store)
    assert (found.sound, [one for one in found.findings if one.severity == "error"]) == (True, [])
    with connect(lake) as connection:
        rows = sum(connection.sql(f"SELECT count(*) FROM {view}").fetchall()[0][0] for view in ("klines", "funding"))
        assert rows == sum(one["rows"] for series, one in expected.items() if series.dataset in {"klines", "funding"})
        assert connection.sql("SELECT count(*), sum(failed) FROM runs").fetchall() == [(5, 0)]
        assert connection.sql("SELECT last_time::VARCHAR FROM symbols WHERE symbol = 'SRMUSDT'").fetchall() == [
            ("2022-11-28 00:00:00",)
        ]
    with Simulator(GeneratedWorld(seed=7, symbols=4), clock=Clock(LATER, frozen=True)) as exchange:
        with Pipeline(settings(exchange, lake), source="auto") as pipeline:
            outcome = pipeline.sync("update", stored=lambda _: True)
        assert (outcome.exit_code, outcome.failed, outcome.gaps, outcome.findings) == (0, [], [], [])
        for series, rows in before.items():
            now = stored(lake, series)
            assert now[: len(rows)] == rows
            if series.symbol == "SRMUSDT":  # which is over
                assert now == rows
                continue
            since = rows[-1][0] + 1
            times = [row[0] for row in truth(exchange, series, since, closed_end(series.interval, LATER))]
            assert [row[0] for row in now[len(rows) :]] == times
            assert times or series.interval == "1M"
    assert verify(store).sound
