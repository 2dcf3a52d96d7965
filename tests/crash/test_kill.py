"""SIGKILL, SIGTERM and SIGINT at random moments of backfills and updates, over both sources."""

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
from etl.ranges import DAY, TimeRange, intersection, parse_time, subtract
from etl.sim.clock import Clock
from etl.sim.server import Simulator

from ..exchange import stored, truth
from .battery import digests, unreadable
from .conftest import NOW, SOAK

SYMBOLS = ("BTCUSDT", "ETHUSDT")
LATER, LOOKBACK = NOW + 2 * DAY, 3 * DAY
STARTS = {"4h": "2025-09-01", "1d": "2024-11-01", None: "2025-09-01"}  # by interval
SELECTED = ["--symbols", ",".join(SYMBOLS), "--interval"]
# The exchange's clock, what is run then, and of whom it asks which rows.
PHASES = (
    (
        NOW,
        [
            "backfill",
            "klines",
            "funding",
            *SELECTED,
            "4h",
            "--start",
            STARTS["4h"],
            "--end",
            "2026-02-01",
            "--source",
            "archive",
        ],
        {("archive", "4h"), ("archive", None)},
    ),
    (NOW, ["backfill", "klines", *SELECTED, "1d", "--start", STARTS["1d"], "--source", "rest"], {("rest", "1d")}),
    (LATER, ["update", "--lookback", "3d"], {("rest", "4h"), ("rest", "1d"), ("rest", None)}),
)
SERIES = [
    *(Series("um", "klines", symbol, interval) for symbol in SYMBOLS for interval in ("4h", "1d")),
    *(Series("um", "funding", symbol) for symbol in SYMBOLS),
]
KINDS = (("klines", "4h"), ("funding", None))
KILLS = 25  # in each test
_FILE = re.compile(r"/(?P<symbol>\w+)-(?:fundingRate|(?P<interval>\w+))-(?P<period>\d{4}-\d\d(-\d\d)?)\.zip$")


@pytest.fixture
def exchange(world):
    """As the others have it, but it takes its time."""
    with Simulator(world, clock=Clock(NOW, frozen=True), enforce=False, latency_ms=10) as running:
        yield running


@pytest.fixture
def smooth(shell, exchange, tmp_path):
    """By phase, undisturbed: the digests of a lake that equals the exchange row by row, and how many requests it took."""
    lake, found = tmp_path / "smooth", []
    for now, command, sources in PHASES:
        exchange.clock.set(now)
        exchange.reset()
        shell.run("etl", *command, "--lake", str(lake))
        found.append((digests(lake), len(exchange.requests)))
        # What asks for rows once more would be seen: now the lake has all that was asked for.
        assert {(source, interval) for source, _, interval, _ in asked_again(exchange, answered(lake), now)} >= sources
    assert len(found[-1][0]) == 2 * (2 + 2 + 3) + 1
    for series in SERIES:
        rows = truth(exchange, series, parse_time(STARTS[series.interval]), closed_end(series.interval, LATER))
        mine = stored(lake, series)
        assert rows
        assert mine == rows if series.interval else [row[:2] for row in mine] == [row[:2] for row in rows], series
    return found


def answered(lake):
    """What the footers in the lake say was answered, as spans by (source, symbol, interval)."""
    spans = defaultdict(list)
    for path in lake.glob("*/market=*/**/20*.parquet"):
        about = json.loads(pq.read_metadata(path).metadata[b"etl"])
        for entry in about["coverage"]:
            spans[entry["source"], about["symbol"], about["interval"]].append(TimeRange(entry["start"], entry["end"]))
    return spans


def asked(requests):
    """What was asked for, as (source, symbol, interval, span); first bars and listings are not rows."""
    for request in requests:
        if request.page and request.params.get("limit") != "1":
            span = TimeRange(int(request.params["startTime"]), int(request.params["endTime"]) + 1)
            yield "rest", request.params["symbol"], request.params.get("interval"), span
        elif match := _FILE.search(request.path):
            period = match["period"]
            start = parse_time(period if len(period) == 10 else f"{period}-01")
            yield (
                "archive",
                match["symbol"],
                match["interval"],
                TimeRange(start, start + DAY * (1 if len(period) == 10 else 28)),
            )


def asked_again(exchange, before, until):
    """The requests of which every row had been answered before, and lies before `until`."""
    settled = [TimeRange(0, until)]
    return [
        (source, symbol, interval, span)
        for source, symbol, interval, span in asked(exchange.requests)
        if not subtract([span], intersection(before[source, symbol, interval], settled))
    ]


def strike(child, exchange, chance, number, requests):
    """Send the signal at a random moment: after some answer of the exchange, or a third of a second after the last one."""
    after = chance.randint(0, requests)
    deadline = time.monotonic() + 60
    while len(exchange.requests) < after and child.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    if child.alive_after(chance.uniform(0, 0.05 if after < requests else 0.35)):
        began = time.monotonic()
        child.kill(number)
        child.wait(10)
        assert time.monotonic() - began < 10


def disturbed(shell, exchange, lake, smooth, chance, number, times):
    """All phases, each stopped at so many random moments and then left alone; the codes of the stopped runs."""
    codes = []
    for (now, command, _), (digest, requests) in zip(PHASES, smooth, strict=True):
        exchange.clock.set(now)
        for _ in range(times):
            exchange.reset()
            before = answered(lake)
            child = shell.start("etl", *command, "--lake", str(lake))
            strike(child, exchange, chance, number, requests)
            assert asked_again(exchange, before, now - LOOKBACK) == []
            # One that comes when all is done and said may still meet the interpreter on its way out.
            assert "Traceback" not in child.stderr.partition(" done: ")[0], child.stderr
            codes.append(child.code)
            if child.code == 0:
                break
            if number == signal.SIGKILL:  # the others may store a part of a partition; it is checked when the rest is there
                assert torn(lake, [digest for digest, _ in smooth]) == []
        exchange.reset()
        before = answered(lake)
        finished = shell.run("etl", *command, "--lake", str(lake), "--json")
        assert asked_again(exchange, before, now - LOOKBACK) == []
        assert digests(lake) == digest, finished.stderr
        assert list((lake / ".tmp").glob("*")) == []
        assert unreadable(lake) == []
        verified = json.loads(shell.run("etl", "verify", "--lake", str(lake), "--json").stdout)
        assert [one for one in verified["findings"] if one["severity"] != "info"] == []
    return codes


def torn(lake, states):
    """The partitions that are in none of those states; the rules of symbols may be in between."""
    found = digests(lake).items()
    return [path for path, one in found if one not in {state.get(path) for state in states} and not path.startswith("symbols")]


def repeat(shell, exchange, tmp_path, smooth, seed, number, wanted):
    """Lakes until so many runs were stopped by the signal: the codes of all runs that were to be stopped."""
    chance, codes = random.Random(f"{number} {seed}"), []
    while sum(code != 0 for code in codes) < wanted:
        lake = tmp_path / f"lake-{len(codes)}"
        codes += disturbed(shell, exchange, lake, smooth, chance, number, times=min(6, wanted))
        assert len(codes) < 10 * wanted, "the signals come too late"
    return codes


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20 if SOAK else 2))
def test_a_kill_at_any_moment_loses_nothing_and_asks_nothing_twice(shell, exchange, tmp_path, smooth, seed):
    codes = repeat(shell, exchange, tmp_path, smooth, seed, signal.SIGKILL, KILLS)
    assert set(codes) <= {0, -signal.SIGKILL}


def test_what_a_killed_run_did_not_come_to_is_fetched_by_update(shell, exchange, tmp_path):
    """The command is not known any more: a scheduled update has to know what it was for."""
    lake = tmp_path / "lake"
    since = ["--start", "2026-02-01", "--source", "rest", "--lake", str(lake)]
    shell.run("etl", "backfill", "klines", *SELECTED, "1d", *since)
    child = shell.start("etl", "backfill", "klines", "funding", *SELECTED, "4h", *since)
    deadline = time.monotonic() + 60
    while not (lake / "wanted.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    wanted = json.loads((lake / "wanted.json").read_text())
    series = sorted(Series(*("um", dataset, symbol, grid)) for symbol in SYMBOLS for dataset, grid in KINDS)
    assert wanted == [{**one.as_dict(), "since": "2026-02-01T00:00:00Z"} for one in series]
    told = json.loads(shell.run("etl", "status", "--lake", str(lake), "--at", "2026-03-01", "--json").stdout)["series"]
    gone = {(one["symbol"], one["interval"]): one for one in told if not one["rows"]}
    assert {(one["lost"], one["lag_s"]) for (_, grid), one in gone.items() if grid} == {(28 * 6, 28 * 86_400)}
    found = json.loads(shell.run("etl", "verify", "--lake", str(lake), "--json").stdout)["findings"]
    assert {(one["symbol"], one["interval"]) for one in found if one["check"] == "lost"} == {*gone}
    shell.run("etl", "update", "--lake", str(lake))
    assert not (lake / "wanted.json").exists()
    for one in series:
        rows = truth(exchange, one, parse_time("2026-02-01"), closed_end(one.interval, NOW))
        assert [row[:2] for row in stored(lake, one)] == [row[:2] for row in rows], one
        assert rows


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_at_any_moment_ends_the_run_with_its_code(shell, exchange, tmp_path, smooth, number, code):
    codes = repeat(shell, exchange, tmp_path, smooth, 0, number, 50 if SOAK else 5)
    # Before the command has begun, and after it has ended, the system ends the process: shells say the same code then.
    assert {128 - one if one < 0 else one for one in codes} <= {0, code}
    assert code in codes


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("command", [PHASES[1][1], ["status"]], ids=["backfill", "status"])
def test_an_interrupted_outcome_is_one_document(strace, shell, tmp_path, command, number):
    shell.run("etl", *PHASES[1][1], "--lake", str(tmp_path / "lake"))
    command = ["etl", *command, "--lake", str(tmp_path / "lake"), "--json"]
    # The first write to it is an empty one.
    watched = strace.watch(shell, command, ["-e", "trace=write", "-e", f"inject=write:signal={number}:when=2"], ["{out}"])
    assert number in watched.trace
    document = json.loads(watched.child.stdout)
    assert document.get("exit_code", 0) == watched.code
