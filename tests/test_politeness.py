"""Several processes behind one address: together they stay below the limit, and what one of them was told holds for all."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from etl.model import Series
from etl.ranges import iso, parse_time
from etl.sim.clock import wall_ms
from etl.sim.faults import Faults
from etl.sim.market import GeneratedWorld
from etl.sim.server import Simulator

from .exchange import stored, truth

MINUTE = 60_000
LIMIT = 200
BARS = Series("um", "klines", "BTCUSDT", "1m")
# 13,680 bars are 28 pages of 499, weight 56: three and a half such backfills are a minute's limit.
SPAN = ["--start", "2026-02-10", "--end", "2026-02-19T12:00"]
BACKFILL = ["backfill", "klines", "--symbols", "BTCUSDT", *SPAN, "--source", "rest", "--json"]


@pytest.fixture(scope="module")
def world():
    return GeneratedWorld(seed=4)


@pytest.fixture
def exchange(world):
    with Simulator(world, weight_limit=LIMIT) as running:
        yield running


class Host:
    """Starts `etl` as processes that share one state folder; each has its own lake, unless it is told otherwise."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"

    def start(self, exchange: Simulator, *arguments: str, lake: str = "lake", **env: str) -> subprocess.Popen[str]:
        urls = {f"ETL_{market}_URL": exchange.url for market in ("UM", "CM", "SPOT", "ARCHIVE", "ARCHIVE_INDEX")}
        clean = {key: value for key, value in os.environ.items() if not key.startswith("ETL_")}
        return subprocess.Popen(
            [sys.executable, "-m", "etl", *arguments],
            cwd=self.folder,
            env={**clean, **urls, "ETL_STATE_DIR": str(self.state), "ETL_LAKE": str(self.folder / lake), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, exchange: Simulator, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        with self.start(exchange, *arguments, **env) as process:
            out, err = process.communicate(timeout=150)
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


@pytest.mark.slow
def test_four_backfills_at_once_stay_below_the_limit_together(host, exchange):
    """Nothing is left as headroom: all of the limit may be used, and not one unit more. The minute ends while they work, and
    answers take so long that the count which comes with them would come too late: 64 requests are under way.
    """
    exchange.latency_ms = 300
    exchange.clock.set(wall_ms() // MINUTE * MINUTE + 45_000)
    lakes = [f"lake{number}" for number in range(4)]
    running = [host.start(exchange, *BACKFILL, lake=lake, ETL_WEIGHT_SHARE="1") for lake in lakes]
    documents = []
    for process in running:
        with process:
            out, err = process.communicate(timeout=150)
        assert process.returncode == 0, err
        documents.append(json.loads(out))
    counters = exchange.counters()
    assert (counters["status_429"], counters["status_418"]) == (0, 0)
    assert counters["weight_max"]["futures"] <= LIMIT
    assert sum(document["weight"] for document in documents) > LIMIT, "else nobody had to wait for another one"
    expected = truth(exchange, BARS, parse_time("2026-02-10"), parse_time("2026-02-19T12:00"))
    for lake in lakes:
        assert stored(host.folder / lake, BARS) == expected


@pytest.mark.slow
def test_a_run_says_why_it_waits_for_its_share(host, exchange):
    """Once, on stderr, in whatever form; with --quiet not at all."""
    exchange.latency_ms = 20
    exchange.clock.set(wall_ms() // MINUTE * MINUTE + 48_000)
    told = {}
    ways = {"text": ("text",), "json": ("json",), "quiet": ("text", "--quiet")}
    running = {
        way: host.start(
            *(exchange, *BACKFILL, *more),
            lake=f"lake {way}",
            ETL_WEIGHT_SHARE="0.2",
            ETL_LOG_FORMAT=form,
            ETL_STATE_DIR=str(host.folder / f"state {way}"),
        )
        for way, (form, *more) in ways.items()
    }
    for way, process in running.items():
        with process:
            out, err = process.communicate(timeout=150)
        assert process.returncode == 0, err
        assert json.loads(out)["rows_written"] == 13_680
        told[way] = [line for line in err.splitlines() if "ETL_WEIGHT_SHARE" in line]
    (line,) = told["text"]
    assert re.search(r"^I um waits \d+ s before .*: 40 of 200 weight a minute may be used \(ETL_WEIGHT_SHARE is 0.2\)", line)
    (line,) = map(json.loads, told["json"])
    assert (line["level"], line["command"], "um waits" in line["message"]) == ("info", "backfill", True)
    assert told["quiet"] == []


@pytest.mark.parametrize("command", ["backfill", "update", "repair"])
def test_a_share_that_can_never_pay_is_wrong_use(host, exchange, command):
    """Before anything is asked for or written; the exchange's limit of 200 a minute would pay a page, which weighs 2."""
    arguments = BACKFILL if command == "backfill" else [command, "--source", "rest", "--json"]
    if command != "backfill":
        assert host.run(exchange, *BACKFILL).returncode == 0
    before = sorted(path for path in host.folder.rglob("*") if path.is_file())
    exchange.reset()
    refused = host.run(exchange, *arguments, ETL_WEIGHT_SHARE="0.005")
    assert refused.returncode == 2, refused.stderr
    document = json.loads(refused.stdout)
    assert (document["exit_code"], document["error"]["type"]) == (2, "UsageError")
    for part in ("ETL_WEIGHT_SHARE is 0.005", "200 weight a minute", "weighs 2", "0.01 at least"):
        assert part in document["error"]["message"]
    assert {request.path.rpartition("/")[2] for request in exchange.requests} <= {"time", "exchangeInfo"}
    lake = host.folder / "lake"
    assert sorted(path for path in lake.rglob("*") if path.is_file()) == [path for path in before if lake in path.parents]


def test_rules_that_a_share_can_never_pay_are_wrong_use_too(host, exchange):
    """Those of spot weigh 20 of 6,000."""
    refused = host.run(exchange, *BACKFILL, "--market", "spot", ETL_WEIGHT_SHARE="0.001")
    assert refused.returncode == 2
    assert "0.0034 at least" in refused.stderr
    assert exchange.requests == []
    assert not (host.folder / "lake").exists()


def test_a_process_that_is_killed_takes_nothing_with_it_for_ever(host, exchange):
    exchange.faults = Faults([{"action": "stall", "path": "klines", "after": 3, "seconds": 60}])
    with host.start(exchange, *BACKFILL) as process:
        while sum(request.path.endswith("klines") for request in exchange.requests) < 10:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    exchange.faults = Faults()
    (file,) = host.state.glob("futures@*")
    assert sum(weight for weight, _ in json.loads(file.read_text())["state"]["flights"].values()) > 8
    exchange.reset()
    then = (wall_ms() // MINUTE + 5) * MINUTE + 1_000  # what was in flight can be counted no more
    exchange.clock.set(then)
    # All of what is left is needed in one minute: 56 for the pages, and up to 8 for the rules, the clock and the first bar, of
    # which the clock may be looked at twice.
    finished = host.run(exchange, *BACKFILL, ETL_WEIGHT_SHARE=str(64 / LIMIT))
    assert finished.returncode == 0, finished.stderr
    minutes = {request.time // MINUTE for request in exchange.requests if request.time >= then}  # not of the killed one
    assert len(minutes) == 1, "it never waited for a minute to end"
    assert json.loads(file.read_text())["state"]["flights"] == {}


@pytest.mark.parametrize("status", [418, 403])
def test_a_process_that_starts_during_a_ban_sends_nothing_and_says_until_when(host, exchange, world, status):
    exchange.faults = Faults([{"action": "status", "status": status, "body": {418: "json", 403: "html"}[status]}])
    began = exchange.clock.now()
    assert host.run(exchange, *BACKFILL).returncode == 4
    told = [request.status for request in exchange.requests]
    assert told == [status]
    exchange.reset()
    exchange.faults = Faults()
    for command in (BACKFILL, ["quote", "BTCUSDT", "--json"], ["depth", "BTCUSDT", "--market", "cm", "--json"]):
        finished = host.run(exchange, *command)
        assert finished.returncode == 4
        document = json.loads(finished.stdout)
        assert (document["exit_code"], document["error"]["type"]) == (4, "Refused")
        until = parse_time(re.search(r"nothing is sent before (\S+Z)", document["error"]["message"])[1])
        # By the Date header of the refusal, which tells whole seconds: up to one more, and never one less.
        assert began + 120_000 <= until <= exchange.clock.now() + 121_100
        assert iso(until) in finished.stderr
        assert str(host.state) in finished.stderr
    assert exchange.requests == []
    # The archive may go on, and another exchange has told nothing.
    assert host.run(exchange, "backfill", "klines", "--symbols", "BTCUSDT", *SPAN).returncode == 0
    assert {request.path.split("/")[1] for request in exchange.requests} <= {"data", ""}
    with Simulator(world) as other:
        assert host.run(other, "quote", "BTCUSDT").returncode == 0


def test_when_the_ban_is_over_it_works_again(host, exchange):
    exchange.faults = Faults([{"action": "retry_after", "status": 403, "seconds": 6}])
    assert host.run(exchange, "quote", "BTCUSDT").returncode == 4
    asked = exchange.requests[-1].time
    exchange.faults = Faults()
    exchange.reset()
    deadline = time.monotonic() + 60
    while (code := host.run(exchange, "quote", "BTCUSDT").returncode) == 4:
        assert time.monotonic() < deadline
    assert code == 0
    assert exchange.requests[0].time >= asked + 6_000


def test_a_refusal_of_the_place_is_asked_about_again(host, exchange):
    exchange.faults = Faults([{"action": "status", "status": 451, "body": "451"}])
    assert host.run(exchange, "quote", "BTCUSDT").returncode == 4
    exchange.faults = Faults()
    assert host.run(exchange, "quote", "BTCUSDT").returncode == 0


def test_a_429_holds_back_the_process_that_starts_after_it(host, exchange):
    exchange.faults = Faults([{"action": "retry_after", "seconds": 8}])
    with host.start(exchange, "quote", "BTCUSDT") as process:
        while not exchange.requests:
            assert process.poll() is None
            time.sleep(0.01)
        (file,) = [*host.state.glob("futures@*")]
        while not json.loads(file.read_text())["state"]["blocked_until"]:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    asked = exchange.requests[-1].time
    exchange.faults = Faults()
    exchange.reset()
    assert host.run(exchange, "quote", "BTCUSDT").returncode == 0
    assert exchange.requests[0].time >= asked + 8_000


def test_exchanges_at_other_addresses_share_nothing(host, exchange, world):
    with Simulator(world) as other:
        for each in (exchange, other):
            assert host.run(each, "quote", "BTCUSDT").returncode == 0
    files = list(host.state.glob("futures@*"))
    assert len(files) == 2
    for file in files:  # the time twice at most, the rules, the quote, and the clock once more: of one process, not of two
        assert 4 <= sum(json.loads(file.read_text())["state"]["charged"].values()) <= 7


def a_damaged_file(host: Host, exchange: Simulator) -> None:
    host.run(exchange, "quote", "BTCUSDT")
    for file in host.state.iterdir():
        file.write_bytes(file.read_bytes()[:40])


def a_file_in_place_of_the_folder(host: Host, _: Simulator) -> None:
    host.state.write_text("mine")


def no_place_for_folders(host: Host, _: Simulator) -> None:
    host.state = Path("/proc/nowhere/state")


@pytest.mark.parametrize("spoil", [a_damaged_file, a_file_in_place_of_the_folder, no_place_for_folders])
def test_whatever_is_wrong_with_the_state_folder_the_run_goes_on(host, exchange, spoil):
    spoil(host, exchange)
    finished = host.run(exchange, *BACKFILL)
    assert finished.returncode == 0
    assert json.loads(finished.stdout)["rows_written"] == 13_680
    assert len([line for line in finished.stderr.splitlines() if "futures@" in line and str(host.state) in line]) == 1
