"""`etl snapshot` and `etl sql --snapshot` as processes: a frozen state answers the same after the lake has gone on."""

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from etl.cli import cli
from etl.ranges import DAY, parse_time
from etl.sim.clock import Clock
from etl.sim.faults import Faults
from etl.sim.market import GeneratedWorld
from etl.sim.server import Simulator

NOW = parse_time("2026-03-01T12:30:30")
QUERY = "SELECT * FROM bars_with_funding('BTCUSDT', '1h') ORDER BY open_time"
LEDGER = "SELECT * FROM ledger ORDER BY ALL"


@pytest.fixture
def exchange():
    with Simulator(GeneratedWorld(seed=4), clock=Clock(NOW, frozen=True)) as running:
        yield running


@pytest.fixture
def etl(exchange, tmp_path):
    """Runs `etl`, on a lake with five days of BTCUSDT and ETHUSDT, and gives its document."""

    def run(*arguments, check=0):
        urls = {f"ETL_{market}_URL": exchange.url for market in ("UM", "CM", "SPOT", "ARCHIVE", "ARCHIVE_INDEX")}
        clean = {key: value for key, value in os.environ.items() if not key.startswith("ETL_")}
        env = {**clean, **urls, "ETL_STATE_DIR": str(tmp_path / "state"), "ETL_LAKE": str(tmp_path / "lake")}
        command = [sys.executable, "-m", "etl", *arguments]
        finished = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False)
        assert finished.returncode == check, finished.stderr
        return json.loads(finished.stdout) if "--json" in arguments else finished.stdout

    run(
        *("backfill", "klines", "funding", "--symbols", "BTCUSDT,ETHUSDT", "--interval", "1h"),
        *("--start", "2026-02-24", "--source", "rest"),
    )
    return run


def digests(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_a_backtest_can_be_repeated_bit_by_bit(etl, exchange, tmp_path):
    assert etl("snapshot", "list", "--json") == {"snapshots": []}
    planned = etl("snapshot", "create", "q1", "--dry-run", "--json")
    assert etl("snapshot", "list", "--json") == {"snapshots": []}
    made = etl("snapshot", "create", "q1", "--json")
    assert made == planned
    hours = (NOW - parse_time("2026-02-24")) // 3_600_000
    assert (made["name"], made["rows"]) == ("q1", 2 * hours + 2 * 17)
    assert parse_time("2026-03-01T12:00") <= parse_time(made["as_of"]) <= NOW  # the last bar, and the exchange's clock
    frozen = digests(tmp_path / "lake" / "snapshots" / "q1")
    answers = [etl("sql", query, "--snapshot", "q1", "--json") for query in (QUERY, LEDGER)]
    assert answers == [etl("sql", query, "--json") for query in (QUERY, LEDGER)]

    exchange.clock.advance(2 * DAY)
    revised = "2026-03-01T03:00"
    exchange.faults = Faults([{"action": "revise", "path": "klines", "symbol": "ETHUSDT", "open_time": parse_time(revised)}])
    changed = etl("update", "--source", "rest", "--json")["changed"]
    assert [(one["symbol"], one["count"]) for one in changed] == [("ETHUSDT", 1)]
    etl("backfill", "klines", "--symbols", "BTCUSDT", "--interval", "1h", "--start", "2025-12-30", "--end", "2026-02-24")
    assert digests(tmp_path / "lake" / "snapshots" / "q1") == frozen
    assert [etl("sql", query, "--snapshot", "q1", "--json") for query in (QUERY, LEDGER)] == answers
    assert etl("snapshot", "verify", "q1", "--json") == {"findings": [], "exit_code": 0}

    document = etl("snapshot", "diff", "q1", "now", "--json")
    assert (document["before"], document["after"]) == ("q1", "now")
    told = {(one["dataset"], one["symbol"]): one for one in document["series"]}
    assert {
        key: (
            *(one[f"partitions_{kind}"] for kind in ("added", "removed", "changed")),
            *(one[f"rows_{kind}"] for kind in ("added", "removed", "changed")),
        )
        for key, one in told.items()
    } == {
        ("klines", "BTCUSDT"): (["2025"], [], ["2026"], 48 + 48 + 54 * 24, 0, 0),
        ("klines", "ETHUSDT"): ([], [], ["2026"], 48, 0, 1),
        ("funding", "BTCUSDT"): ([], [], ["2026"], 6, 0, 0),
        ("funding", "ETHUSDT"): ([], [], ["2026"], 6, 0, 0),
    }
    assert told["klines", "BTCUSDT"]["first"] == "2025-12-30T00:00:00Z"
    example = told["klines", "ETHUSDT"]["example"]
    assert example["time"] == f"{revised}:00Z"
    assert example["before"] != example["after"]
    shown = etl("snapshot", "diff", "q1")
    assert "+2025,~2026" in shown
    assert f"{revised}:00Z: " in shown

    etl("snapshot", "create", "q1-later", "--wait")
    listed = etl("snapshot", "list", "--json")["snapshots"]
    assert [row["name"] for row in listed] == ["q1", "q1-later"]
    assert listed[0]["own_bytes"] > 0
    assert listed[1]["own_bytes"] == 0
    assert etl("snapshot", "diff", "q1-later", "--json")["series"] == []
    assert etl("snapshot", "drop", "q1", "--json") == {"dropped": "q1"}
    assert not (tmp_path / "lake" / "snapshots" / "q1").exists()
    assert etl("snapshot", "verify", "q1-later").startswith("path")


def test_what_is_wrong_is_told(etl, tmp_path):
    etl("snapshot", "create", "q1")
    for arguments in (
        ("snapshot", "create", "q1"),
        ("sql", "SELECT 1", "--snapshot", "q2"),
        ("status", "--rebuild", "--lake", str(tmp_path / "lake" / "snapshots" / "q1")),
    ):
        assert "q1" in etl(*arguments, "--json", check=2)["error"]["message"]
    manifest = tmp_path / "lake" / "snapshots" / "q1" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"sha256": "', '"sha256": "0', 1))
    assert len(etl("snapshot", "verify", "q1", "--json", check=1)["findings"]) == 1
    manifest.write_text("{")
    document = etl("snapshot", "list", "--json", check=1)
    assert "manifest.json" in document["error"]["message"]
    assert document["snapshots"][0]["name"] == "q1"


def test_every_subcommand_has_help():
    group = cli.commands["snapshot"]
    assert set(group.commands) == {"create", "list", "diff", "drop", "verify"}
    assert all(command.help for command in group.commands.values())


def test_what_the_page_shows_runs(etl, tmp_path):
    """All of its commands in their order, and its Python before the snapshot is dropped."""
    page = (Path(__file__).parents[1] / "docs" / "snapshots.md").read_text()
    (shell,), (code,) = (re.findall(rf"^```{kind}\n(.*?)^```", page, re.MULTILINE | re.DOTALL) for kind in ("sh", "python"))
    *commands, drop = [shlex.split(line) for line in shell.splitlines()]
    env = {**os.environ, "ETL_LAKE": str(tmp_path / "lake")}
    runner = CliRunner(env={"ETL_LAKE": str(tmp_path / "lake")})
    for command in commands:
        assert command[0] == ".venv/bin/etl"
        told = runner.invoke(cli, command[1:])
        assert told.exit_code == 0, told.output
    finished = subprocess.run([sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert finished.stdout.startswith(f"{(NOW - parse_time('2026-02-24')) // 3_600_000} ")
    assert runner.invoke(cli, drop[1:]).exit_code == 0
    assert runner.invoke(cli, ["snapshot", "list", "--json"]).stdout == '{"snapshots": []}\n'
