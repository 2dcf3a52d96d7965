"""What a person at a terminal sees, and what a log gets instead."""

import os
import pty
import re
import subprocess
import sys

import pytest

from etl.ranges import parse_time
from etl.sim.clock import Clock
from etl.sim.faults import Faults
from etl.sim.market import GeneratedWorld
from etl.sim.server import Simulator


@pytest.fixture(scope="module")
def exchange():
    with Simulator(GeneratedWorld(seed=7), clock=Clock(parse_time("2026-03-01T12:30"), frozen=True), latency_ms=20) as running:
        yield running


def command(lake, *more):
    return [
        sys.executable,
        "-m",
        "etl",
        "backfill",
        "klines",
        "--symbols",
        "BTCUSDT",
        "--start",
        "2026-02-01",
        "--lake",
        str(lake),
        *more,
    ]


def at_a_terminal(exchange, lake):
    """What the terminal is sent, and what comes on stdout."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "ETL_UM_URL": exchange.url, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(command(lake), stdout=subprocess.PIPE, stderr=theirs, env=env, cwd=lake.parent)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(ours)
    stdout, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    return shown.decode(), stdout


def test_a_terminal_gets_a_bar_and_stdout_stays_clean(exchange, tmp_path):
    text, stdout = at_a_terminal(exchange, tmp_path / "lake")
    assert stdout == b""
    assert "rows/s" in text
    assert "weight" in text
    assert "41,070 rows" in text


def test_a_line_that_is_logged_goes_above_the_bar(exchange, tmp_path):
    exchange.faults = Faults([{"action": "status", "status": 503, "path": "klines", "after": 3, "first": 40}])
    try:
        text, _ = at_a_terminal(exchange, tmp_path / "lake")
    finally:
        exchange.faults = Faults([])
    before = [text[: found.start()] for found in re.finditer("W attempt", text)]
    assert before
    assert all(part.endswith(("\r\x1b[2K", "\n")) for part in before)


def test_a_log_gets_lines_and_quiet_is_silent(exchange, tmp_path):
    env = {**os.environ, "ETL_UM_URL": exchange.url}
    logged = subprocess.run(command(tmp_path / "one"), capture_output=True, text=True, env=env, cwd=tmp_path, check=True)
    assert logged.stdout == ""
    assert "\x1b" not in logged.stderr
    assert "41,070 rows" in logged.stderr
    silent = subprocess.run(
        command(tmp_path / "two", "--quiet"), capture_output=True, text=True, env=env, cwd=tmp_path, check=True
    )
    assert (silent.stdout, silent.stderr) == ("", "")
