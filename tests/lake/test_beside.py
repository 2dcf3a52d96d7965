"""Readers beside a writer that replaces a partition again and again."""

import threading

import pyarrow as pa
import pytest

from etl.errors import UsageError
from etl.lake import query
from etl.lake.store import Store
from etl.model import Coverage, Partition, Series
from etl.ranges import HOUR, TimeRange, parse_time
from etl.schema import arrow_schema

HOURS = Series("um", "klines", "BTCUSDT", "1h")
START = parse_time("2026-01-01")
YEAR = Partition(HOURS, "2026", TimeRange(START, parse_time("2027-01-01")))


def bars(count):
    """So many rows, each with the count in its values: a row of another version would be seen."""
    columns = {}
    for field in arrow_schema("klines"):
        if pa.types.is_timestamp(field.type):
            shift = HOUR - 1 if field.name == "close_time" else 0
            columns[field.name] = pa.array([START + n * HOUR + shift for n in range(count)], pa.int64()).cast(field.type)
        else:
            columns[field.name] = pa.array([count + n * 7919 % 100 for n in range(count)], field.type)
    return pa.table(columns, schema=arrow_schema("klines"))


@pytest.fixture
def busy(tmp_path):
    """A lake whose only file is replaced 30 times a second, by one with 500, 700 … rows."""
    store = Store.open(tmp_path / "lake", network="mainnet", layout="year")
    store.create("mainnet")
    versions = [bars(count) for count in range(500, 3000, 200)]
    entries = [Coverage(TimeRange(START, START + 5000 * HOUR), "rest", START)]
    over = threading.Event()

    def write():
        number = 0
        while not over.is_set():
            store.replace(YEAR, versions[number % len(versions)], entries, ())
            number += 1
            over.wait(0.03)

    store.replace(YEAR, versions[0], entries, ())
    writer = threading.Thread(target=write)
    writer.start()
    yield tmp_path / "lake"
    over.set()
    writer.join()


def test_a_query_sees_one_version_whole(busy):
    seen = set()
    for _ in range(15):
        closes = query.load(busy, "klines", "BTCUSDT", "1h", output="arrow")["close"].to_pylist()
        assert {close // 100 * 100 for close in closes} == {len(closes)}
        with query.run(
            busy, "SELECT count(*), min(floor(close / 100)) * 100, max(floor(close / 100)) * 100 FROM klines"
        ) as result:
            (row,) = (tuple(row.values()) for batch in result.batches() for row in batch.to_pylist())
        assert set(row) == {row[0]}
        seen |= {len(closes), row[0]}
    assert len(seen) > 3


def test_what_is_wrong_with_a_query_is_still_told(busy):
    with pytest.raises(UsageError, match="nonsense"):
        query.run(busy, "SELECT nonsense FROM klines")
