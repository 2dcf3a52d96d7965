"""The command line as users and schedulers meet it: processes, exit codes, what is on stdout and what on stderr."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from etl import __version__
from etl.cli import cli
from etl.lake.store import Store
from etl.model import Series
from etl.ranges import parse_time
from etl.sim.clock import Clock
from etl.sim.faults import Faults
from etl.sim.market import GeneratedWorld
from etl.sim.server import Simulator

from .exchange import pages, stored, truth

NOW = parse_time("2026-03-01T12:30:30")
HOUR_OF_BTC = Series("um", "klines", "BTCUSDT", "1h")


@pytest.fixture(scope="module")
def world():
    return GeneratedWorld(seed=4)


@pytest.fixture
def exchange(world):
    with Simulator(world, clock=Clock(NOW, frozen=True)) as running:
        yield running


@pytest.fixture
def etl(exchange, tmp_path):
    """Runs `etl` in an empty folder against the exchange; the lake is `data/lake` there."""

    def run(*arguments, env=None, stdin=None, check=None):
        urls = {f"ETL_{market}_URL": exchange.url for market in ("UM", "CM", "SPOT", "ARCHIVE", "ARCHIVE_INDEX")}
        clean = {key: value for key, value in os.environ.items() if not key.startswith("ETL_")}
        finished = subprocess.run(
            [sys.executable, "-m", "etl", *arguments],
            cwd=tmp_path,
            env={**clean, **urls, "ETL_STATE_DIR": str(tmp_path / "state"), **(env or {})},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "Traceback" not in finished.stderr, finished.stderr
        if check is not None:
            assert finished.returncode == check, finished.stderr
        return finished

    return run


BACKFILL = ["backfill", "klines", "--symbols", "BTCUSDT", "--interval", "1h", "--start", "2026-02-20", "--end", "2026-02-25"]


def test_help_imports_nothing_heavy():
    script = (
        "import sys; sys.argv = ['etl', '--help']\n"
        "from etl.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'numpy', 'pandas', 'pyarrow', 'duckdb', 'httpx', 'rich', 'ssl', 'asyncio', 'msgspec', 'tenacity',\n"
        "         'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert finished.stderr.strip() == "[]"
    assert "backfill" in finished.stdout


def test_a_backfill_imports_no_pandas(exchange, tmp_path):
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from etl import cli, config, pipeline\n"
        f"env = {{'ETL_UM_URL': '{exchange.url}', 'HOME': '{tmp_path}'}}\n"
        f"settings = config.load({{'lake': '{tmp_path}/lake'}}, env=env, cwd=Path('{tmp_path}'))\n"
        "end = 1_771_977_600_000\n"
        "for start in (1_771_545_600_000, 1_769_904_000_000):\n"
        "    wanted = pipeline.Selection('um', ('klines', 'mark_klines', 'funding'), ('BTCUSDT',), ('1h',), start, end)\n"
        "    with pipeline.Pipeline(settings) as run:\n"
        "        assert run.sync('backfill', [wanted]).rows_written\n"
        "assert 'pyarrow' in sys.modules\n"
        "assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_every_command_has_help(etl):
    for name in cli.commands:
        finished = etl(name, "--help", check=0)
        assert finished.stdout.startswith(f"Usage: python -m etl {name}")
        assert cli.commands[name].help
    assert __version__ in etl("--version", check=0).stdout


def test_backfill_update_status_and_sql(etl, exchange, tmp_path):
    document = json.loads(etl(*BACKFILL, "--json", check=0).stdout)
    assert {
        "rows_written",
        "partitions_written",
        "requests",
        "weight",
        "bytes_downloaded",
        "elapsed_s",
        "gaps",
        "failed",
    } <= set(document)
    assert (document["rows_written"], document["partitions_written"], document["gaps"], document["failed"]) == (120, 1, [], [])
    update = json.loads(etl("update", "--json", check=0).stdout)
    assert update["rows_written"] == 4 * 24 + 12
    lake = tmp_path / "data" / "lake"
    assert stored(lake, HOUR_OF_BTC) == truth(exchange, HOUR_OF_BTC, parse_time("2026-02-20"), parse_time("2026-03-01T12:00"))
    (series,) = json.loads(etl("status", "--json", check=0).stdout)["series"]
    assert series["first"] == "2026-02-20T00:00:00Z"
    assert series["last"] == "2026-03-01T11:00:00Z"
    assert (series["rows"], series["expected"], series["missing"], series["sources"]) == (228, 228, 0, ["rest"])
    assert series["bytes"] == sum(path.stat().st_size for path in lake.glob("klines/**/*.parquet"))
    answer = etl("sql", "SELECT count(*) AS n, max(open_time) AS last FROM bars('BTCUSDT', '1h')", "--json", check=0)
    assert json.loads(answer.stdout) == [{"n": 228, "last": "2026-03-01T11:00:00Z"}]
    by_stdin = etl("sql", "-", "--format", "csv", stdin="SELECT DISTINCT symbol FROM klines", check=0)
    assert by_stdin.stdout == "symbol\nBTCUSDT\n"
    etl("sql", "SELECT DISTINCT symbol FROM klines", "-o", "symbols.csv", check=0)
    assert (tmp_path / "symbols.csv").read_text() == "symbol\nBTCUSDT\n"
    runs = json.loads(
        etl("sql", "SELECT command, rows_written, exit_code FROM runs ORDER BY rows_written DESC", "--json").stdout
    )
    assert [(run["command"], run["rows_written"], run["exit_code"]) for run in runs] == [
        ("backfill", 120, 0),
        ("update", 108, 0),
    ]


def test_lags_are_counted_up_to_the_time_that_is_named(etl):
    etl(
        "backfill",
        "klines",
        "--symbols",
        "BTCUSDT",
        "--interval",
        "1d",
        "--start",
        "2026-02-20",
        "--end",
        "2026-02-25",
        check=0,
    )
    (row,) = json.loads(etl("status", "--at", "2026-02-27", "--max-lag", "3d", "--json", check=0).stdout)["series"]
    assert (row["lag_s"], row["missing"], row["lost"]) == (2 * 86_400, 0, 0)
    assert "2.0 d" in etl("status", "--at", "2026-02-27", check=0).stdout
    etl("status", "--at", "2026-02-27", "--max-lag", "1d", check=1)


def test_status_can_alert_and_rebuild(etl, tmp_path):
    etl(*BACKFILL, check=0)
    late = etl("status", "--max-lag", "1s", "--json", check=1)
    assert json.loads(late.stdout)["exit_code"] == 1
    assert "lag" in late.stderr
    etl("status", "--max-lag", "100000d", check=0)
    moved = tmp_path / "elsewhere"
    (tmp_path / "data" / "lake").rename(moved)
    etl("status", "--lake", str(moved), "--rebuild", check=0)
    assert str(moved) in (moved / "catalog.sql").read_text()
    with duckdb.connect(str(moved / "catalog.duckdb"), read_only=True) as plain:
        for rows in ("klines WHERE symbol = 'BTCUSDT'", "bars('BTCUSDT', '1h')", "bars_with_funding('BTCUSDT', '1h')"):
            assert plain.execute(f"SELECT count(*) FROM {rows}").fetchone() == (120,), rows


def test_a_plan_is_printed_and_nothing_is_written(etl, exchange, tmp_path):
    document = json.loads(etl(*BACKFILL, "--dry-run", "--json", check=0).stdout)
    assert {"jobs", "requests", "weight", "bytes_estimated", "eta_s", "plan"} <= set(document)
    # the clock and the rules, which say that bars go back that far; then one page of 60 rows
    assert document["preparation"] == {"requests": 2, "weight": 2}
    assert (document["jobs"], document["requests"], document["weight"]) == (1, 2 + 1, 2 + 2)
    assert "1 jobs" in etl(*BACKFILL, "--dry-run", check=0).stdout
    assert not (tmp_path / "data").exists()


def test_quote_depth_and_symbols(etl):
    quote = json.loads(etl("quote", "BTCUSDT", "--json", check=0).stdout)
    assert list(quote) == ["symbol", "bid", "bid_qty", "ask", "ask_qty", "spread_ticks", "time"]
    assert quote["bid"] < quote["ask"]
    assert isinstance(quote["spread_ticks"], int)
    depth = json.loads(etl("depth", "BTCUSDT", "--limit", "5", "--json", check=0).stdout)
    assert [len(depth["bids"]), len(depth["asks"])] == [5, 5]
    assert depth["bids"][0][0] < depth["asks"][0][0]
    assert len(etl("depth", "BTCUSDT", "--limit", "3", check=0).stdout.splitlines()) == 1 + 6
    rows = {row["symbol"]: row for row in json.loads(etl("symbols", "--json", check=0).stdout)}
    assert rows["币安人生USDT"]["market"] == "um"
    assert rows["BTCUSDT"]["tick_size"] == 0.1
    early = json.loads(etl("symbols", "--at", "2020-01-01", "--json", check=0).stdout)
    assert "BTCUSDT" in {row["symbol"] for row in early}
    assert "1000PEPEUSDT" not in {row["symbol"] for row in early}
    assert "BTCUSDT" in etl("symbols", check=0).stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["backfill", "klines"],
        ["backfill", "--symbols", "BTCUSDT"],
        ["backfill", "klines", "--symbols", "NOSUCH"],
        ["backfill", "candles", "--symbols", "BTCUSDT"],
        ["backfill", "klines", "--symbols", "BTCUSDT", "--interval", "7m"],
        ["backfill", "klines", "--symbols", "BTCUSDT", "--interval", "3d"],
        ["backfill", "klines", "--symbols", "BTCUSDT", "--market", "xx"],
        ["backfill", "funding", "--symbols", "BTCUSDT", "--market", "spot"],
        ["backfill", "klines", "--symbols", "BTCUSDT", "--start", "yesterday"],
        ["backfill", "klines", "--symbols", "BTCUSDT", "--start", "2026-02-02", "--end", "2026-02-01"],
        ["backfill", "klines", "--symbols", "@missing.txt"],
        ["backfill", "klines", "--symbols", "../../etc"],
        ["backfill", "klines", "--symbols", "BTCUSDT", "--lake", "s3://bucket/lake"],
        ["backfill", "klines", "--symbols", "BTCUSDT", "--weight-share", "2"],
        ["status"],
        ["update"],
        ["sql", "SELECT 1"],
        ["sim", "--faults", "missing.toml"],
        ["quote", "BTCUSDT", "--market", "xx"],
        ["depth", "BTCUSDT", "--limit", "0"],
        ["depth", "BTCUSDT", "--limit", "1001"],
        ["depth", "NOSUCH"],
        ["quote", "NOSUCH"],
        ["backfill", "klines", "--symbols", "BTCUSDT", "--start", "2030-01-01"],
        ["backfill", "klines", "--symbols", "BTCUSDT", "--max-duration", "0"],
        ["backfill", "klines", "--symbols", "BTCUSDT", "--max-duration", "forever"],
        ["nonsense"],
    ],
)
def test_wrong_use_is_exit_2_and_leaves_nothing(etl, tmp_path, arguments):
    finished = etl(*arguments, check=2)
    assert finished.stderr.strip()
    assert finished.stdout == ""
    assert not (tmp_path / "data").exists()
    if arguments[0] != "sim":
        document = json.loads(etl(*arguments, "--json", check=2).stdout)
        assert document["exit_code"] == 2
        assert document["error"]["message"]


@pytest.mark.parametrize(
    "command",
    ["backfill klines", "update", "repair", "status", "verify", "export --to csv -o out", "report --no-charts -o page.html"],
)
@pytest.mark.parametrize("names", ["", ",", "@none.txt"])
def test_symbols_that_name_nothing_are_not_every_symbol(etl, tmp_path, command, names):
    (tmp_path / "none.txt").write_text("# nothing is left of it\n\n")
    finished = etl(*command.split(), "--symbols", names, check=2)
    assert "--symbols" in finished.stderr
    assert "names nothing" in finished.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["none.txt"]


@pytest.mark.parametrize(
    "command", ["backfill klines --symbols BTCUSDT", "export --to csv -o out --symbols BTCUSDT", "plot BTCUSDT -o x.png"]
)
def test_there_is_nothing_from_now_on(etl, command):
    finished = etl(*command.split(), "--start", "now", check=2)
    assert "--start" in finished.stderr
    assert "2024-01-31" in finished.stderr


def test_no_terminal_is_sent_what_a_name_holds():
    """Neither by a line of the log nor by an error; lines of one message stay lines."""
    script = """
import logging
from etl.cli.logs import start_log, tell_error
from etl.errors import EtlError
start_log("text")
logging.getLogger("etl").warning("%s\\nx\\ry", "\\x1b[31mRED")
tell_error(EtlError("a\\nb\\x1b[32mc\\u202ed"))
"""
    env = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, env=env, check=True)
    assert said.stderr.decode() == "W ⟨U+001B⟩[31mRED\nx⟨U+000D⟩y\netl: a\nb⟨U+001B⟩[32mc⟨U+202E⟩d\n"


def test_the_same_selection_means_the_same_everywhere(etl):
    etl(*BACKFILL, check=0)
    etl("backfill", "funding", "--symbols", "ETHUSDT", "--start", "2026-02-20", "--end", "2026-02-25", check=0)
    shown = json.loads(etl("status", "klines", "--symbols", "BTCUSDT", "--json", check=0).stdout)["series"]
    assert [(row["dataset"], row["symbol"]) for row in shown] == [("klines", "BTCUSDT")]
    assert (
        json.loads(etl("status", "--symbols", "ETHUSDT", "--market", "um", "--json", check=0).stdout)["series"][0]["rows"] == 15
    )
    assert json.loads(etl("update", "klines", "--json", check=0).stdout)["rows_written"] == 108
    assert json.loads(etl("update", "--symbols", "all", "--json", check=0).stdout)["rows_written"] == 14


def test_what_names_nothing_that_is_stored_is_no_success(etl):
    """Else an alert with a mistyped name is green for ever."""
    etl("backfill", "klines", "--symbols", "BTCUSDT", "--interval", "1d", "--start", "2026-02-20", check=0)
    for command in (["status"], ["verify"], ["update"], ["repair", "--dry-run"]):
        for selected, hint in {
            ("--symbols", "BTCUSD"): "did you mean BTCUSDT?",
            ("--symbols", "BTCUSDT,btcusdt"): "did you mean BTCUSDT?",
            ("--symbols", "BTCUSDT", "--interval", "1m"): "um klines BTCUSDT 1d and nothing else",
            ("--interval", "1m"): "etl status lists what it holds",
            ("--market", "cm"): "etl status lists what it holds",
            ("funding",): "etl status lists what it holds",
        }.items():
            told = etl(*command, *selected, "--json", check=2)
            assert hint in json.loads(told.stdout)["error"]["message"], (command, selected)
    # What the universe names may come yet.
    assert etl("verify", "--symbols", "ever", "-q", check=0).stdout == ""
    assert "nothing is wrong" in etl("verify", check=0).stderr


def test_settlements_do_not_stand_for_bars_that_were_named(etl):
    """A lake of bars and settlements, as the README makes it, and each name of its own."""
    etl("backfill", "klines", "funding", "--symbols", "BTCUSDT", "--interval", "1d", "--start", "2026-02-20", check=0)
    etl("backfill", "klines", "funding", "--symbols", "ETHUSDT", "--interval", "1h", "--start", "2026-02-28", check=0)
    for selected, named in {
        ("--interval", "5m"): "5m",
        ("--interval", "1d,5m"): "5m",
        ("klines", "mark_klines"): "mark_klines",
        ("--symbols", "all,TYPO"): "TYPO",
        ("--symbols", "ETHUSDT", "--interval", "1d"): "ETHUSDT",
        ("klines", "funding", "--symbols", "BTCUSDT", "--interval", "1h"): "1h",
    }.items():
        for command in (["status", "--max-lag", "99999d"], ["verify"], ["update"]):
            told = etl(*command, *selected, "--json", check=2)
            assert named in json.loads(told.stdout)["error"]["message"], (command, selected)
    for selected in (
        ["--interval", "1d,1h"],
        ["klines", "funding"],
        ["--symbols", "all"],
        ["funding", "--interval", "5m"],  # which has none
        [
            "klines",
            "funding",
            "--symbols",
            "ETHUSDT,BTCUSDT",
            "--interval",
            "1d",
        ],  # of ETHUSDT the settlements, which are named
    ):
        etl("verify", *selected, check=0)


def test_what_the_universe_names_need_not_be_there_yet(etl, tmp_path):
    etl("backfill", "klines", "--symbols", "BTCUSDT", "--interval", "1d", "--start", "2026-02-20", check=0)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "universe.toml").write_text(
        '[[series]]\ndatasets = ["funding"]\nsymbols = ["ETHUSDT"]\nstart = "2026-02-27"\n'
    )
    etl("update", "funding", "--symbols", "ETHUSDT", "--lake", "data/lake", check=0)
    etl("update", "--symbols", "SOLUSDT", "--lake", "data/lake", check=2)


def test_json_on_stdout_whatever_goes_into_the_file(etl, tmp_path):
    etl("backfill", "klines", "--symbols", "BTCUSDT", "--interval", "1d", "--start", "2026-02-20", check=0)
    told = json.loads(etl("sql", "SELECT 1 AS one", "--json", "--format", "csv", check=2).stdout)
    assert "--json" in told["error"]["message"]
    for form, chosen in {
        "parquet": ["-o", "one.parquet"],
        "csv": ["-o", "one.x", "--format", "csv"],
        "json": ["-o", "one.json"],
    }.items():
        document = json.loads(etl("sql", "SELECT 1 AS one", "--json", *chosen, check=0).stdout)
        assert document == {"output": chosen[1], "format": form, "rows": 1}
    assert pq.read_table(tmp_path / "one.parquet").to_pylist() == [{"one": 1}]
    assert (tmp_path / "one.x").read_text() == "one\n1\n"
    assert json.loads((tmp_path / "one.json").read_text()) == [{"one": 1}]


def test_an_ending_that_names_no_format_is_refused(etl, tmp_path):
    etl("backfill", "klines", "--symbols", "BTCUSDT", "--interval", "1d", "--start", "2026-02-20", check=0)
    refused = etl("sql", "SELECT 1 AS one", "-o", "one.xlsx", check=2)
    assert ".parquet" in refused.stderr
    assert not (tmp_path / "one.xlsx").exists()
    etl("sql", "SELECT 1 AS one", "-o", "one.txt", check=0)
    assert (tmp_path / "one.txt").read_text() == "one\n---\n  1\n"


def test_a_lake_of_another_network_is_exit_2_for_readers_too(etl):
    etl(*BACKFILL, check=0)
    for command in (["status"], ["sql", "SELECT 1"]):
        assert "mainnet" in etl(*command, env={"ETL_NETWORK": "testnet"}, check=2).stderr


def test_the_demo_clears_only_what_a_demo_made(etl, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "lake.json").write_text("{}")
    assert "--lake" in etl("demo", "--lake", str(mine), check=2).stderr
    assert (mine / "lake.json").read_text() == "{}"


def test_an_unreadable_file_is_set_aside_and_fetched_again(etl, tmp_path):
    etl(*BACKFILL, check=0)
    lake = tmp_path / "data" / "lake"
    (broken,) = lake.glob("klines/market=um/interval=1h/symbol=BTCUSDT/*.parquet")
    broken.write_bytes(b"PAR1 this is no Parquet file PAR1")
    shown = json.loads(etl("status", "--json", check=1).stdout)
    assert [row["rows"] for row in shown["series"]] == [None]
    assert str(broken) in shown["error"]["message"]
    both = [*BACKFILL, "--symbols", "ETHUSDT", "--json"]
    document = json.loads(etl(*both, check=0).stdout)
    assert [(one["symbol"], one["check"]) for one in document["findings"]] == [("BTCUSDT", "damaged")]
    assert str(broken) in document["findings"][0]["message"]
    assert (lake / "quarantine" / broken.relative_to(lake)).read_bytes() == b"PAR1 this is no Parquet file PAR1"
    shown = json.loads(etl("status", "--json", check=0).stdout)
    assert {row["symbol"]: row["missing"] for row in shown["series"]} == {"BTCUSDT": 0, "ETHUSDT": 0}


def test_a_folder_in_the_place_of_a_file_is_set_aside_too(etl, tmp_path):
    etl(*BACKFILL, check=0)
    lake = tmp_path / "data" / "lake"
    (broken,) = lake.glob("klines/market=um/interval=1h/symbol=BTCUSDT/*.parquet")
    broken.unlink()
    (broken / "precious").mkdir(parents=True)
    etl(*BACKFILL, check=0)
    assert (lake / "quarantine" / broken.relative_to(lake) / "precious").is_dir()
    assert broken.is_file()


def test_what_the_system_refuses_to_read_stays_where_it_is(etl, tmp_path):
    etl(*BACKFILL, check=0)
    (file,) = tmp_path.glob("data/lake/klines/market=um/interval=1h/symbol=BTCUSDT/*.parquet")
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "not mounted")
    document = json.loads(etl(*BACKFILL, "--symbols", "ETHUSDT", "--json", check=3).stdout)
    assert [failure["symbol"] for failure in document["failed"]] == ["BTCUSDT"]
    assert str(file) in document["failed"][0]["error"]
    assert file.is_symlink()


def test_symbols_from_a_file(etl, tmp_path):
    (tmp_path / "names.txt").write_text("# majors\nBTCUSDT\n\nETHUSDT\n")
    document = json.loads(
        etl(
            "backfill", "klines", "--symbols", "@names.txt", "--interval", "1d", "--start", "2026-02-20", "--json", check=0
        ).stdout
    )
    assert document["rows_written"] == 2 * 9


def test_the_universe_is_kept_up_to_date(etl, tmp_path):
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "universe.toml").write_text(
        '[[series]]\ndatasets = ["klines", "funding"]\nsymbols = ["ETHUSDT"]\ninterval = ["1d"]\nstart = 2026-02-20\n'
    )
    assert json.loads(etl("update", "--json", check=0).stdout)["rows_written"] == 9 + 9 * 3 + 2


def test_some_series_failed_is_exit_3(etl, exchange):
    exchange.faults = Faults([{"action": "object_instead_of_list", "symbol": "ETHUSDT", "path": "klines"}])
    finished = etl(*BACKFILL, "--symbols", "ETHUSDT", "--source", "rest", "--json", check=3)
    document = json.loads(finished.stdout)
    assert [failure["symbol"] for failure in document["failed"]] == ["ETHUSDT"]
    assert document["error"]["type"] == "SeriesFailed"
    assert "ETHUSDT" in finished.stderr
    assert document["rows_written"] == 120


@pytest.mark.parametrize(("status", "cure"), [(403, "address"), (418, "ban"), (451, "location")])
def test_a_refusal_is_exit_4_and_says_what_to_do(etl, exchange, status, cure):
    body = {403: "html", 418: "json", 451: "451"}[status]
    exchange.faults = Faults([{"action": "status", "status": status, "body": body}])
    finished = etl(*BACKFILL, "--json", check=4)
    assert json.loads(finished.stdout)["error"]["type"] == "Refused"
    assert cure in finished.stderr
    assert [request.path for request in exchange.requests if request.market] == ["/fapi/v1/time"]


def test_a_locked_lake_is_exit_1_unless_one_waits(etl, tmp_path):
    etl(*BACKFILL, check=0)
    store = Store.open(tmp_path / "data" / "lake", network="mainnet", layout="year")
    with store.lock():
        finished = etl("update", "--json", check=1)
        assert json.loads(finished.stdout)["error"]["type"] == "LakeLocked"
        assert "--wait" in finished.stderr
        etl("update", "--wait", "0.3", check=1)
    etl("update", "--wait", check=0)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_cleanly_and_keeps_what_is_done(exchange, tmp_path, number, code):
    exchange.latency_ms = 100
    lake = tmp_path / "lake"
    command = [
        "backfill",
        "klines",
        "--symbols",
        "BTCUSDT",
        "--start",
        "2026-01-01",
        "--lake",
        str(lake),
        "--workers",
        "2",
        "--json",
    ]
    env = {**os.environ, "ETL_UM_URL": exchange.url, "ETL_STATE_DIR": str(tmp_path / "state")}
    process = subprocess.Popen(
        [sys.executable, "-m", "etl", *command],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    deadline = time.monotonic() + 60
    while pages(exchange) < 6 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr
    document = json.loads(stdout)
    assert document["exit_code"] == code
    assert 0 < document["rows_written"] < 60 * 1440
    series = Series("um", "klines", "BTCUSDT", "1m")
    rows = stored(lake, series)
    everything = truth(exchange, series, parse_time("2026-01-01"), parse_time("2026-03-01T12:30"))
    assert set(rows) <= set(everything)
    assert list((lake / ".tmp").iterdir()) == []
    exchange.latency_ms = 0
    finished = subprocess.run(
        [sys.executable, "-m", "etl", *command], env=env, capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert json.loads(finished.stdout)["rows_written"] == len(everything) - len(rows)
    assert stored(lake, series) == everything


def test_max_duration_ends_cleanly(etl, exchange):
    exchange.latency_ms = 300
    finished = etl("backfill", "klines", "--symbols", "BTCUSDT", "--workers", "1", "--max-duration", "2s", "--json", check=3)
    assert json.loads(finished.stdout)["gaps"][0]["verdict"] == "lost"


def test_no_time_zone_changes_a_byte(etl, exchange, tmp_path):
    exchange.clock.frozen = False  # the digest must not depend on the moment of the run either
    lakes = {}
    for zone in ("UTC", "America/New_York", "Asia/Kolkata"):
        lake = tmp_path / zone.replace("/", "-")
        etl(
            *("backfill", "klines", "funding", "--symbols", "BTCUSDT", "--interval", "5m,1d,1w,1M", "--lake", str(lake)),
            *("--start", "2025-12-01", "--end", "2026-02-27"),
            env={"TZ": zone, "LC_ALL": "C.UTF-8"},
            check=0,
        )
        answer = etl(
            "sql", "SELECT * FROM bars('BTCUSDT', '1d') ORDER BY 4", "--lake", str(lake), "--format", "csv", env={"TZ": zone}
        )
        files = {path.relative_to(lake): hashlib.sha256(path.read_bytes()).hexdigest() for path in lake.rglob("*.parquet")}
        lakes[zone] = (files, answer.stdout)
    assert lakes["UTC"] == lakes["America/New_York"] == lakes["Asia/Kolkata"]
    assert len(lakes["UTC"][0]) > 8


def test_logs_as_json_lines(etl):
    finished = etl(*BACKFILL, env={"ETL_LOG_FORMAT": "json"}, check=0)
    lines = [json.loads(line) for line in finished.stderr.splitlines()]
    assert lines[-1]["level"] == "info"
    assert "120 rows" in lines[-1]["message"]


def test_the_exchange_as_a_command(tmp_path):
    faults = tmp_path / "faults.toml"
    faults.write_text('[[rule]]\npath = "ping"\naction = "status"\nstatus = 503\n')
    process = subprocess.Popen(
        [sys.executable, "-m", "etl", "sim", "--clock", "2026-01-01", "--frozen", "--faults", str(faults)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        env = {**os.environ, "ETL_UM_URL": url, "ETL_STATE_DIR": str(tmp_path)}
        asked = subprocess.run(
            [sys.executable, "-m", "etl", "quote", "ETHUSDT", "--json"], env=env, capture_output=True, text=True, check=True
        )
        assert json.loads(asked.stdout)["time"].startswith("2026-01-01T00:00:00")
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)
    assert process.returncode == 0


def test_the_demo_compares_and_answers(tmp_path):
    finished = subprocess.run(
        [sys.executable, "-m", "etl", "demo"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True
    )
    assert "rows, all equal" in finished.stdout
    assert "long_net_pct" in finished.stdout
    assert "bars_with_funding" in finished.stdout
    assert (tmp_path / "data" / "demo" / "catalog.duckdb").exists()
    assert finished.stderr == ""
    assert Path(tmp_path / "data" / "demo").is_dir()
