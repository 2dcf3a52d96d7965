"""One writer at a time, readers at any time."""

import json
import signal
import time

import duckdb
import pytest

import etl
from etl.lake.query import run
from etl.ranges import parse_time

from .conftest import SOAK

SOME = ["backfill", "klines", "--symbols", "BTCUSDT", "--interval", "4h", "--start", "2025-01-01", "--source", "rest"]


@pytest.fixture
def lake(tmp_path):
    return tmp_path / "lake"


@pytest.fixture
def busy(shell, exchange, lake):
    """A run that holds the lock and waits for the exchange's answers."""
    shell.run("etl", *SOME, "--end", "2025-01-03", "--lake", str(lake))
    exchange.latency_ms = 1500
    child = shell.start("etl", *SOME, "--lake", str(lake))
    deadline = time.monotonic() + 20
    while (lake / ".lock").read_text() != f"process {child.pid}":
        assert time.monotonic() < deadline
        time.sleep(0.005)
    yield child
    exchange.latency_ms = 0
    child.kill()


def test_a_second_writer_stops_or_waits(shell, exchange, busy, lake):
    exchange.latency_ms = 0
    busy.kill(signal.SIGSTOP)  # it holds the lock for as long as the others take to start
    second = shell.run("etl", *SOME, "--lake", str(lake), "--json", check=1)
    assert busy.poll() is None
    document = json.loads(second.stdout)
    assert document["error"]["type"] == "LakeLocked"
    assert f"process {busy.pid}" in document["error"]["message"]
    assert "--wait" in second.stderr
    waiting = shell.start("etl", *SOME, "--lake", str(lake), "--json", "--wait")
    says = f"I process {busy.pid} is writing to the lake {lake}; waiting for it"
    deadline = time.monotonic() + 20
    while says not in waiting.stderr:
        assert waiting.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    busy.kill(signal.SIGCONT)
    assert waiting.wait() == 0
    assert busy.wait() == 0
    assert json.loads(waiting.stdout)["rows_written"] == 0


def test_a_killed_owner_frees_the_lock(shell, exchange, busy, lake):
    busy.kill()
    assert busy.wait() == -9
    exchange.latency_ms = 0
    shell.run("etl", *SOME, "--lake", str(lake))


def test_of_ten_starts_at_once_one_works(shell, exchange, lake):
    exchange.latency_ms = 100
    children = [shell.start("etl", *SOME, "--lake", str(lake), "--json") for _ in range(10)]
    codes = sorted(child.wait() for child in children)
    documents = [json.loads(child.stdout) for child in children]
    losers = [one for one in documents if one["exit_code"] == 1]
    assert codes == [0] * (10 - len(losers)) + [1] * len(losers)
    assert {one["error"]["type"] for one in losers} <= {"LakeLocked"}
    assert len(losers) >= 5
    assert len([one for one in documents if one.get("rows_written")]) == 1
    (runs,) = lake.glob("runs/*.jsonl")
    assert len(runs.read_text().splitlines()) == 10 - len(losers)


def test_ten_that_wait_work_one_after_the_other(shell, lake):
    children = [shell.start("etl", *SOME, "--lake", str(lake), "--json", "--wait") for _ in range(10)]
    assert [child.wait() for child in children] == [0] * 10
    written = sorted(json.loads(child.stdout)["rows_written"] for child in children)
    assert written == [0] * 9 + [(parse_time("2026-03-01T12:00") - parse_time("2025-01-01")) // 14_400_000]
    (runs,) = lake.glob("runs/*.jsonl")
    assert len(runs.read_text().splitlines()) == 10


def test_readers_see_old_or_new_while_partitions_are_replaced(shell, exchange, lake):
    """The year 2025 grows month by month; every answer is one of the counts that a finished run has left."""
    months = [f"2025-{month:02}-01" for month in range(2, 13 if SOAK else 8)]
    counts = {(parse_time(end) - parse_time("2025-01-01")) // 14_400_000 for end in months}
    shell.run("etl", *SOME, "--end", months[0], "--lake", str(lake))
    (file,) = lake.glob("klines/*/*/*/2025.parquet")
    seen: list[int] = []

    def look():
        seen.append(len(etl.load("klines", "BTCUSDT", "4h", lake=lake, output="arrow")))
        for query in ("SELECT count(*) AS n FROM klines", "SELECT count(DISTINCT open_time) AS n FROM bars('BTCUSDT', '4h')"):
            with run(lake, query) as result:
                seen.extend(row["n"] for batch in result.batches() for row in batch.to_pylist())
            before = file.stat().st_ino
            try:
                with duckdb.connect(str(lake / "catalog.duckdb"), read_only=True) as plain:
                    seen.extend(plain.sql(query).fetchall()[0])
            except duckdb.Error:  # another client asks again itself (docs/reliability.md)
                assert file.stat().st_ino != before

    for end in months[1:]:
        writer = shell.start("etl", *SOME, "--end", end, "--lake", str(lake))
        while writer.poll() is None:
            look()
        assert writer.wait() == 0
        look()
        assert seen[-1] == (parse_time(end) - parse_time("2025-01-01")) // 14_400_000
    assert set(seen) <= counts
