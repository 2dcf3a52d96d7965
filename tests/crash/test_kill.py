"""SIGKILL, SIGTERM and SIGINT at random moments of backfills and updates, over both sources."""

import itertools
import json
import random
import re
import signal
import time
from collections import defaultdict

import pyarrow.parquet as pq
import pytest

from etl.model import Series
from etl.plan import closed_end
from etl.ranges import DAY, parse_time

from ..exchange import stored, truth
from .battery import digests, unreadable
from .conftest import NOW

SYMBOLS = ("BTCUSDT", "ETHUSDT")
START, LATER = "2024-11-01", NOW + 2 * DAY
BACKFILL = ["backfill", "klines", "funding", "--symbols", ",".join(SYMBOLS), "--interval", "4h,1d", "--start", START]
UPDATE = ["update", "--lookback", "3d"]
LOOKBACK = 3 * DAY
SERIES = [
    *(Series("um", "klines", symbol, interval) for symbol in SYMBOLS for interval in ("4h", "1d")),
    *(Series("um", "funding", symbol) for symbol in SYMBOLS),
]
KILLS = 10


@pytest.fixture
def smooth(shell, exchange, tmp_path):
    """What nobody disturbs: digests after the backfill and after the update, and the seconds that each took."""
    lake, found = tmp_path / "smooth", []
    for now, command in ((NOW, BACKFILL), (LATER, UPDATE)):
        exchange.clock.set(now)
        began = time.monotonic()
        shell.run("etl", *command, "--lake", str(lake))
        found.append((digests(lake), time.monotonic() - began))
        for series in SERIES:
            assert stored(lake, series) == _true(exchange, series, now), series
    assert len(found[0][0]) == len(SERIES) * 3 + 1
    return found


def _true(exchange, series, now):
    start, end = parse_time(START), closed_end(series.interval, now)
    rows = truth(exchange, series, start, end)
    if series.interval:
        return rows
    # What came from the archive has no mark price and no rate type.
    mine = {row[0]: row for row in stored_funding(exchange, series)}
    return [mine.get(row[0], row) for row in rows]


def stored_funding(exchange, series):
    return []


def covered(lake):
    """What the footers say was answered: spans by series and source."""
    spans = defaultdict(list)
    for path in lake.glob("*/market=*/**/20*.parquet"):
        about = json.loads(pq.read_metadata(path).metadata[b"etl"])
        for entry in about["coverage"]:
            spans[about["dataset"], about["symbol"], about["interval"]].append((entry["start"], entry["end"]))
    return spans
