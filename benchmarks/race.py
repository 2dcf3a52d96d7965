"""One contestant against one fresh exchange, measured from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

from etl.ranges import DAY, MINUTE, iso, parse_time

LATENCY_MS = 30
WEIGHT_LIMIT = 2400
WEIGHT_SHARE = 0.9
# The page with the most rows per weight (binance-facts 11).
THRIFTY_ROWS, THRIFTY_WEIGHT = 499, 2


@dataclass(frozen=True)
class Scenario:
    """1m bars of the exchange's first `symbols` contracts in [start, end); its clock stands at `clock` plus the phase."""

    title: str
    symbols: int
    start: str
    end: str
    peers: bool
    frozen: bool = False
    clock: str = "2026-11-20T12:00"

    def least(self, phase: int) -> tuple[int, int]:
        """The least weight of this work, and how many seconds later than its first request its last one must leave."""
        bars = (parse_time(self.end) - parse_time(self.start)) // MINUTE
        weight = self.symbols * -(-bars // THRIFTY_ROWS) * THRIFTY_WEIGHT
        later = (weight - 1) // int(WEIGHT_LIMIT * WEIGHT_SHARE)
        return weight, 60 * later - phase if later else 0


def race(contestant: str, scenario: Scenario, phase: int, folder: Path) -> dict[str, Any]:
    """Let a contestant fill `folder`/output: what it took (seconds, MB of 10^6 bytes), and what the exchange counted."""
    now = parse_time(scenario.clock) + phase * 1000
    with _exchange(now, folder, frozen=scenario.frozen) as url:
        listed = [one["symbol"] for one in _ask(f"{url}/fapi/v1/exchangeInfo")["symbols"]]
        symbols = listed[: scenario.symbols]
        _generate(url, symbols, scenario)
        command = _command(contestant, scenario, url, symbols)
        _ask(f"{url}/sim/reset")
        _ask(f"{url}/sim/clock?set={now}")
        took = _measure(command, folder, {"ETL_UM_URL": url, "ETL_STATE_DIR": "state", "ETL_WEIGHT_SHARE": str(WEIGHT_SHARE)})
        requests = _ask(f"{url}/sim/requests")
    weight = sum(one["weight"] for one in requests)
    refused = sum(one["status"] in {418, 429} for one in requests)
    return {"symbols": symbols, **took, "requests": len(requests), "weight": weight, "refused": refused}


def _generate(url: str, symbols: Sequence[str], scenario: Scenario) -> None:
    """Let the exchange generate its rows beforehand: the real one has them, and here it takes a processor from the contestant.

    It generates days and keeps 768 of them, so a row of each is enough.
    """
    days = range(parse_time(scenario.start), parse_time(scenario.end), DAY)
    rows = [
        f"{url}/fapi/v1/klines?symbol={quote(symbol)}&interval=1m&startTime={day}&limit=1" for symbol in symbols for day in days
    ]
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(_ask, rows[-768:]):
            pass


def _command(contestant: str, scenario: Scenario, url: str, symbols: Sequence[str]) -> list[str]:
    if contestant == "etl":
        span = ["--interval", "1m", "--start", scenario.start, "--end", scenario.end]
        return ["-m", "etl", "backfill", "klines", "--symbols", ",".join(symbols), *span, "--lake", "output", "--json", "-q"]
    times = [str(parse_time(scenario.start)), str(parse_time(scenario.end))]
    return [str(Path(__file__).with_name("contestants.py")), contestant, url, "output", *times, *symbols]


def _measure(command: Sequence[str], folder: Path, settings: dict[str, str]) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ETL_")} | settings
    with (folder / "stderr").open("w+") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *command], cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=errors
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        errors.seek(0)
        said = errors.read().strip().splitlines()
    process.returncode = os.waitstatus_to_exitcode(status)
    return {
        "wall_s": wall,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6,
        "exit_code": process.returncode,
        "error": said[-1] if process.returncode and said else "",
    }


@contextmanager
def _exchange(now: int, folder: Path, *, frozen: bool) -> Iterator[str]:
    """The URL of an embedded exchange in a process of its own."""
    options = ["--latency", str(LATENCY_MS), "--weight-limit", str(WEIGHT_LIMIT), *(["--frozen"] if frozen else [])]
    command = [sys.executable, "-m", "etl", "sim", "-q", "--clock", iso(now), *options]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip() if process.stdout else ""
        finally:
            process.terminate()


def _ask(url: str) -> Any:
    with urlopen(url) as answer:
        return json.load(answer)
