"""What a scheduler gets of a run: its exit code, its log, its record in the lake."""

import json
import os
import signal
import subprocess
import sys
import time

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from etl.lake.store import Store
from etl.ranges import parse_time
from etl.sim.clock import Clock
from etl.sim.faults import Faults
from etl.sim.market import GeneratedWorld
from etl.sim.server import Simulator

from .exchange import pages

NOW = "2026-03-01T12:30:30"
NUMBERS = ("rows_written", "partitions_written", "requests", "weight", "bytes_downloaded", "elapsed_s")
COLUMNS = ["run_id", "command", "started_at", *[NUMBERS[-1], *NUMBERS[:-1]], "failed", "exit_code"]
BACKFILL = ("backfill", "klines", "--symbols", "BTCUSDT", "--interval", "1h", "--start", "2026-02-20", "--end", "2026-02-25")
BOTH = (*BACKFILL, "--symbols", "ETHUSDT", "--source", "rest")
BAD_ETH = {"action": "object_instead_of_list", "symbol": "ETHUSDT", "path": "klines"}


@pytest.fixture(scope="module")
def world():
    return GeneratedWorld(seed=4)


@pytest.fixture
def exchange(world):
    with Simulator(world, clock=Clock(parse_time(NOW), frozen=True)) as running:
        yield running


@pytest.fixture
def start(exchange, tmp_path):
    """Starts `etl` as a scheduler would: no terminal, and an environment of its own. The lake is `lake`."""

    def popen(*arguments, **env):
        urls = {f"ETL_{name}_URL": exchange.url for name in ("UM", "CM", "SPOT", "ARCHIVE", "ARCHIVE_INDEX")}
        places = {"ETL_LAKE": str(tmp_path / "lake"), "ETL_STATE_DIR": str(tmp_path / "state")}
        clean = {key: value for key, value in os.environ.items() if not key.startswith("ETL_")}
        return subprocess.Popen(
            [sys.executable, "-m", "etl", *arguments],
            cwd=tmp_path,
            env=clean | urls | places | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return popen


@pytest.fixture
def text(start):
    """Runs `etl` with a log of text; exit code and lines of stderr."""

    def run(*arguments, **env):
        process = start(*arguments, **env)
        _, stderr = process.communicate(timeout=120)
        return process.returncode, stderr.splitlines()

    return run


@pytest.fixture
def logged(text):
    """Runs `etl` with a log of JSON; exit code and the objects on stderr, each with what every one must have."""

    def run(*arguments, **env):
        code, lines = text(*arguments, ETL_LOG_FORMAT="json", **env)
        return code, objects(lines)

    return run


def objects(lines):
    found = [json.loads(line) for line in lines]
    for one in found:
        assert parse_time(one["time"])
        assert one["level"] in {"debug", "info", "warning", "error"}
        assert one["message"]
    return found


def records(tmp_path):
    """The rows of the view `runs` as any DuckDB client sees them, in the order of the records."""
    with duckdb.connect(str(tmp_path / "lake" / "catalog.duckdb"), read_only=True) as connection:
        found = connection.execute("SELECT * FROM runs")
        names = [column[0] for column in found.description]
        assert names == COLUMNS
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def test_the_summary_is_the_last_line_and_there_is_one(text, exchange):
    for arguments, code, said in (
        (BACKFILL, 0, "backfill done: 120 rows in 1 files"),
        (("update",), 0, "update done: 108 rows in 1 files"),
        (("repair",), 0, "repair done: 0 rows in 0 files"),
    ):
        found, lines = text(*arguments)
        assert found == code
        assert said in lines[-1]
        assert sum(" done: " in line for line in lines) == 1
    exchange.faults = Faults([BAD_ETH])
    found, lines = text(*BOTH)
    assert found == 3
    assert "backfill ended with exit code 3: 0 rows" in lines[-1]
    assert sum("ended with exit code" in line for line in lines) == 1


def test_quiet_says_only_what_went_wrong(text, exchange):
    assert text(*BACKFILL, "-q") == (0, [])
    exchange.faults = Faults([BAD_ETH])
    found, lines = text(*BOTH, "-q")
    assert found == 3
    assert "ETHUSDT" in lines[0]
    assert "ended with exit code 3" in lines[-1]


def test_a_run_is_one_record_and_the_log_has_its_numbers(logged, tmp_path):
    runs = []
    for arguments, rows in ((BACKFILL, 120), (("update",), 108), (("repair",), 0)):
        code, lines = logged(*arguments)
        summary = lines[-1]
        assert code == summary["exit_code"] == 0
        assert summary["level"] == "info"
        assert [sum("exit_code" in line for line in lines), summary["rows_written"]] == [1, rows]
        assert {line["run_id"] for line in lines} == {summary["run_id"]}
        assert {line["command"] for line in lines} == {arguments[0]}
        runs.append(summary)
    stored = records(tmp_path)
    assert len({run["run_id"] for run in stored}) == 3
    same = ("run_id", "command", "exit_code", "failed", *NUMBERS)
    assert [[row[name] for name in same] for row in stored] == [[run[name] for name in same] for run in runs]
    assert {row["started_at"].isoformat()[:16] for row in stored} == {NOW[:16]}


def test_the_document_names_the_run_too(start, tmp_path):
    stdout, _ = start(*BACKFILL, "--json").communicate(timeout=120)
    assert [row["run_id"] for row in records(tmp_path)] == [json.loads(stdout)["run_id"]]


def test_a_series_that_failed_is_named_by_its_keys(logged, exchange, tmp_path):
    exchange.faults = Faults([BAD_ETH])
    code, lines = logged(*BOTH)
    assert code == 3
    (failure,) = (line for line in lines if line.get("symbol") == "ETHUSDT" and "error_type" in line)
    assert [failure[key] for key in ("level", "market", "dataset", "symbol", "interval", "error_type")] == [
        *("error", "um", "klines", "ETHUSDT", "1h", "BadAnswer")
    ]
    assert [lines[-1][key] for key in ("level", "exit_code", "failed", "rows_written")] == ["error", 3, 1, 120]
    (row,) = records(tmp_path)
    assert (row["run_id"], row["exit_code"], row["failed"]) == (lines[-1]["run_id"], 3, 1)


def test_a_finding_has_the_keys_of_its_series(logged, tmp_path):
    logged(*BACKFILL)
    (broken,) = tmp_path.glob("lake/klines/market=um/interval=1h/symbol=BTCUSDT/*.parquet")
    broken.write_bytes(b"PAR1 this is no Parquet file PAR1")
    code, lines = logged(*BACKFILL)
    assert code == 0
    (finding,) = (line for line in lines if "check" in line)
    assert [finding[key] for key in ("level", "symbol", "interval", "check", "severity")] == [
        *("warning", "BTCUSDT", "1h", "damaged", "warning")
    ]
    assert lines[-1]["findings"] == 1


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["update"], "update"),  # there is no lake
        (["backfill", "klines"], "backfill"),
        (["backfill", "klines", "--nonsense"], "backfill"),
        (["backfill", "klines", "--symbols", "BTCUSDT", "--interval", ""], "backfill"),
        (["update", "--interval", " , "], "update"),
        (["backfill", "klines", "--symbols", "NOSUCH"], "backfill"),
        (["repair", "--max-duration", "0"], "repair"),
        (["nonsense"], "nonsense"),
    ],
)
def test_wrong_use_is_one_json_line(logged, arguments, command):
    code, lines = logged(*arguments)
    assert code == 2
    assert [(line["command"], line["level"], line["exit_code"], line["error_type"]) for line in lines] == [
        (command, "error", 2, "UsageError")
    ]


def test_wrong_settings_are_one_json_line(logged, tmp_path):
    (tmp_path / "settings.toml").write_text("weight_share = 7\n")
    code, (line,) = logged("update", "--config", "settings.toml")
    assert (code, line["exit_code"], line["error_type"]) == (2, 2, "UsageError")
    assert "weight_share" in line["message"]


def test_a_log_of_json_may_be_a_setting_of_the_file(text, tmp_path):
    (tmp_path / "settings.toml").write_text('log_format = "json"\n')
    code, lines = text(*BACKFILL, "--config", "settings.toml")
    assert code == 0
    assert objects(lines)[-1]["rows_written"] == 120


def test_a_symbol_in_any_script_survives_any_encoding_of_stderr(logged, exchange):
    exchange.faults = Faults([{"action": "object_instead_of_list", "path": "klines"}])
    code, lines = logged(
        *("backfill", "klines", "--symbols", "币安人生USDT", "--interval", "1d", "--source", "rest"), PYTHONIOENCODING="latin-1"
    )
    assert code == 3
    assert {line["symbol"] for line in lines if "symbol" in line} == {"币安人生USDT"}


def test_warnings_of_libraries_and_tracebacks_are_json_too(tmp_path):
    """A fault that nobody foresaw, and a warning that Python prints by itself, in a process that runs the command line."""
    script = (
        "import sys, warnings\n"
        "from etl.cli import cli, main, opening, options\n"
        "@cli.command()\n"
        "@options.common\n"
        "def broken(**given):\n"
        "    opening.load_settings(given)\n"
        "    warnings.warn('old thing', UserWarning)\n"
        "    raise RuntimeError('at https://me:hush@host/x')\n"
        "sys.argv = ['etl', 'broken', '-v']\n"
        "main()\n"
    )
    env = {**os.environ, "ETL_LOG_FORMAT": "json", "ETL_LAKE": str(tmp_path)}
    finished = subprocess.run(
        [sys.executable, "-c", script], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 1
    warning, traceback, failure = objects(finished.stderr.splitlines())
    assert (warning["level"], "old thing" in warning["message"]) == ("warning", True)
    assert "RuntimeError: at https://***@host/x" in traceback["traceback"]
    assert failure["exit_code"] == 1
    assert "hush" not in finished.stderr + finished.stdout


def test_a_refused_run_is_recorded_in_the_lake_that_is_there(logged, exchange, tmp_path):
    refuses = Faults([{"action": "status", "status": 403, "body": "html"}])
    exchange.faults = refuses
    code, lines = logged(*BACKFILL, "--source", "rest", ETL_STATE_DIR=str(tmp_path / "banned"))
    assert (code, lines[-1]["exit_code"], lines[-1]["error_type"]) == (4, 4, "Refused")
    assert not (tmp_path / "lake").exists()
    exchange.faults = Faults([])
    logged(*BACKFILL)
    exchange.faults = refuses
    before = int(time.time())
    code, lines = logged("update", "--source", "rest")
    assert code == 4
    row = records(tmp_path)[-1]
    assert (row["run_id"], row["command"], row["exit_code"]) == (lines[-1]["run_id"], "update", 4)
    # the exchange did not tell the time
    assert row["started_at"].timestamp() - time.timezone >= before - 60


def test_a_lake_in_use_is_exit_1_and_no_record(logged, tmp_path):
    logged(*BACKFILL)
    with Store.open(tmp_path / "lake", network="mainnet", layout="year").lock():
        code, lines = logged("update")
    assert (code, lines[-1]["exit_code"], lines[-1]["error_type"]) == (1, 1, "LakeLocked")
    assert len(records(tmp_path)) == 1


def test_a_disk_that_refuses_is_recorded_where_it_can_be(logged, tmp_path):
    logged(*BACKFILL)
    blocked = tmp_path / "lake" / "symbols"
    for path in sorted(blocked.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    blocked.rmdir()
    blocked.write_bytes(b"in the way")
    code, lines = logged("update")
    assert (code, lines[-1]["exit_code"]) == (1, 1)
    row = records(tmp_path)[-1]
    assert (row["run_id"], row["exit_code"], row["rows_written"]) == (lines[-1]["run_id"], 1, 108)


def test_what_a_repair_leaves_is_in_its_record(logged, tmp_path):
    """A wrong bar of today, of which the archive, the only one that may be asked, has no file yet."""
    assert logged(*BACKFILL[:-2], "--source", "rest")[0] == 0
    (path,) = tmp_path.glob("lake/klines/market=um/interval=1h/symbol=BTCUSDT/*.parquet")
    table, footer = pq.read_table(path, partitioning=None), pq.read_metadata(path).metadata[b"etl"]
    highs = [*table["high"].to_pylist()[:-1], 0.5]
    with pq.ParquetWriter(path, table.schema) as writer:
        column = table.schema.get_field_index("high")
        writer.write_table(table.set_column(column, table.schema.field(column), pa.array(highs)))
        writer.add_key_value_metadata({"etl": footer.decode()})
    code, lines = logged("repair", "--source", "archive")
    assert (code, lines[-1]["exit_code"]) == (1, 1)
    assert [(line["check"], line["severity"], line["level"]) for line in lines if "check" in line] == [
        ("ohlc", "error", "error")
    ]
    assert [(row["command"], row["exit_code"]) for row in records(tmp_path)] == [("backfill", 0), ("repair", 1)]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_is_recorded(start, exchange, tmp_path, number, code):
    exchange.latency_ms = 100
    minutes = ("backfill", "klines", "--symbols", "BTCUSDT", "--start", "2026-01-01", "--source", "rest")
    process = start(*minutes, "--workers", "2", ETL_LOG_FORMAT="json")
    deadline = time.monotonic() + 60
    while pages(exchange) < 6 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert pages(exchange) >= 6
    process.send_signal(number)
    _, stderr = process.communicate(timeout=20)
    lines = objects(stderr.splitlines())
    assert process.returncode == lines[-1]["exit_code"] == code, stderr
    (row,) = records(tmp_path)
    same = ("run_id", "exit_code", *NUMBERS)
    assert [row[name] for name in same] == [lines[-1][name] for name in same]
    assert row["rows_written"] > 0


def test_max_duration_is_exit_3_and_the_next_run_goes_on(logged, exchange, tmp_path):
    exchange.latency_ms = 300
    minutes = ("backfill", "klines", "--symbols", "BTCUSDT", "--start", "2026-02-01", "--end", "2026-02-11", "--source", "rest")
    code, lines = logged(*minutes, "--workers", "1", "--max-duration", "2s")
    assert (code, lines[-1]["exit_code"]) == (3, 3)
    assert any("--max-duration" in line["message"] for line in lines)
    exchange.latency_ms = 0
    code, again = logged(*minutes)
    assert code == 0
    assert lines[-1]["rows_written"] + again[-1]["rows_written"] == 10 * 1440
    assert [row["exit_code"] for row in records(tmp_path)] == [3, 0]


TORN = [
    pytest.param(lambda text: text[:-20], 1, id="cut off"),
    pytest.param(lambda text: text[:-1], 0, id="without its end"),
    pytest.param(lambda text: text + bytes(300), 1, id="power lost"),
    pytest.param(lambda text: text + b'{"run_id": "x\xff\n', 1, id="no text"),
    pytest.param(lambda text: b"[]\n" + text, 1, id="no record"),
    pytest.param(lambda text: text[:-20] + b'{"run_id": "glued"}\n', 1, id="glued"),
]


@pytest.mark.parametrize(("tear", "torn"), TORN)
def test_a_torn_record_costs_itself_and_no_other(start, logged, tmp_path, tear, torn):
    logged(*BACKFILL)
    logged("update")
    (path,) = tmp_path.glob("lake/runs/*.jsonl")
    whole = path.read_bytes()
    path.write_bytes(tear(whole))
    kept = [line for line in whole.splitlines() if line in path.read_bytes().split(b"\n")]
    assert [row["run_id"] for row in records(tmp_path)] == [json.loads(line)["run_id"] for line in kept]
    stdout, _ = start("sql", "SELECT count(*) AS n FROM runs", "--json").communicate(timeout=60)
    assert json.loads(stdout) == [{"n": len(kept)}]
    damaged = path.read_bytes()
    code, lines = logged("update")
    assert code == 0
    told = [line["message"] for line in lines if line["level"] == "warning"]
    aside = tmp_path / "lake" / "quarantine" / "runs" / path.name
    assert [str(path) in message and str(aside) in message for message in told] == [True] * torn
    assert [one.read_bytes() for one in aside.parent.glob("*")] == [damaged] * torn
    *before, last = path.read_bytes().splitlines()
    assert before == kept
    assert json.loads(last)["run_id"] == lines[-1]["run_id"] == records(tmp_path)[-1]["run_id"]


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (1, 2), (0, 1, 2)])
def test_closed_streams_change_nothing(exchange, tmp_path, closed):
    urls = {f"ETL_{name}_URL": exchange.url for name in ("UM", "CM", "SPOT", "ARCHIVE", "ARCHIVE_INDEX")}
    places = {"ETL_LAKE": str(tmp_path / "lake"), "ETL_STATE_DIR": str(tmp_path / "state")}
    shell = ["sh", "-c", '"$@" ' + " ".join(f"{number}>&-" for number in closed), "sh", sys.executable, "-m", "etl"]
    for arguments in (BACKFILL, ["update"], ["update", "--json"]):
        done = subprocess.run(
            [*shell, *arguments], env=os.environ | urls | places, cwd=tmp_path, capture_output=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
    assert [row["exit_code"] for row in records(tmp_path)] == [0, 0, 0]


def test_a_plan_is_no_run(logged, tmp_path):
    logged(*BACKFILL)
    code, _ = logged("update", "--dry-run")
    assert code == 0
    assert len(records(tmp_path)) == 1
