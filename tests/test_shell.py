"""`etl shell` as a person at a terminal and a script at a pipe meet it."""

import fcntl
import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from select import select

import pytest

from etl import shell
from etl.shell import Session, Statements, completions, remembered

from .lake.test_views import HOUR, bar, minutes, settlement, write

ETL = [sys.executable, "-m", "etl"]
# Makes the terminal on stdin the one whose keys signal to the command, as a login does.
AT_TERMINAL = (
    "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
# Hours of work for DuckDB.
LONG = "SELECT count(*) FROM range(1000000000000) AS r(i) WHERE i % 7 = 1;"


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    folder = tmp_path / "lake"
    write(folder, "klines", "BTCUSDT", "1m", "2024", minutes("2024-01-01", 3, 103.0))
    write(folder, "klines", "ETHUSDT", "1h", "2024", [bar("2024-01-01", HOUR)])
    (folder / "lake.json").write_text('{"format": 1, "network": "mainnet", "partition": "year"}')
    return folder


@pytest.fixture
def env(lake: Path, tmp_path: Path) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("ETL_")}
    return clean | {"ETL_LAKE": str(lake), "ETL_STATE_DIR": str(tmp_path / "state"), "TERM": "dumb"}


@dataclass
class Answered:
    out: str
    told: list[str]
    exit_code: int


@pytest.fixture
def piped(lake: Path):
    """What a session answers to a script, in this process."""

    def run(text: str, **parameters: object) -> Answered:
        out, told = io.BytesIO(), []
        with closing(
            Session(
                lake, parameters, out, io.StringIO(), lambda error: told.append(str(error)), limit=None, columns=lambda: None
            )
        ) as session:
            shell.run(session, shell.piped(io.StringIO(text)), None, lambda _: None)
        return Answered(out.getvalue().decode(), told, session.exit_code)

    return run


@pytest.fixture
def command(env: dict[str, str], tmp_path: Path):
    """The command itself, with its stdin a pipe."""

    def run(given: bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([*ETL, "shell", *arguments], input=given, env=env, cwd=tmp_path, capture_output=True, check=False)

    return run


def computing(process: subprocess.Popen, seconds: float) -> None:
    """Wait until the process has computed for so long from now on."""

    def spent() -> float:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    begun = spent()
    while spent() < begun + seconds:
        assert process.poll() is None
        time.sleep(0.01)


class Terminal:
    """A person at a terminal of 80 columns: types, and waits for what is to come."""

    def __init__(self, env: dict[str, str], folder: Path) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        command = [sys.executable, "-c", AT_TERMINAL, *ETL, "shell"]
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=env, cwd=folder)
        os.close(slave)
        self._seen = ""

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def until(self, pattern: str) -> str:
        """What has come since the last time, up to and with the pattern."""
        assert self._comes(pattern, 60), self._seen
        found = re.search(pattern, self._seen)
        seen, self._seen = self._seen[: found.end()], self._seen[found.end() :]
        return seen

    def interrupt(self) -> None:
        """Press Ctrl-C. Python's readline misses a signal that comes between two looks at the keyboard, until the next key."""
        for _ in range(10):
            self.type("\x03")
            if self._comes("cancelled\n", 5):
                break
        self.until("cancelled\n")
        self.until("etl> ")

    def _comes(self, pattern: str, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self._seen):
            if not select([self._master], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return False
            try:
                self._seen += os.read(self._master, 65_536).decode().replace("\r", "")
            except OSError:  # the other side has hung up
                pytest.fail(f"ended with {self._seen!r}")
        return True

    def end(self) -> int:
        code = self.process.wait(60)
        os.close(self._master)
        return code


@pytest.fixture
def terminal(env, tmp_path):
    opened = []

    def open_terminal() -> Terminal:
        opened.append(Terminal(env, tmp_path))
        return opened[-1]

    yield open_terminal
    for one in opened:
        one.process.kill()
        one.process.wait()


# A person


def test_a_session_at_a_terminal(terminal, lake):
    person = terminal()
    assert str(lake) in person.until("etl> ")
    person.type("SELECT symbol, -- which\n")
    person.until(r"\.\.\.> ")
    person.type("count(*) AS n FROM klines GROUP BY ALL ORDER BY ALL; SELECT 7 AS seven;\n")
    assert "symbol  | n\n--------+--\nBTCUSDT | 3\nETHUSDT | 1\n(2 rows)\nseven\n-----\n    7\n(1 row)\n" in person.until(
        "etl> "
    )
    # a mistake does not end it
    person.type("SELECT opentime FROM klines;\n")
    assert "did you mean open_time" in person.until("etl> ")
    # Ctrl-C ends the query,
    person.type(f"{LONG}\n")
    person.until(re.escape(LONG))
    computing(person.process, 0.5)
    person.interrupt()
    # and what was typed.
    person.type("SELECT nonsense\n")
    person.until(r"\.\.\.> ")
    person.type("FROM")
    person.until("FROM")
    person.interrupt()
    # Rows that come while it runs, the first of their dataset.
    person.type("SELECT count(*) AS n FROM funding;\n")
    assert "\n0\n(1 row)" in person.until("etl> ")
    write(lake, "funding", "BTCUSDT", None, "2024", [settlement("2024-01-01T08:00", 0.0001)])
    write(lake, "klines", "BTCUSDT", "1m", "2024", minutes("2024-01-01", 4, 103.0))
    person.type("SELECT count(*) AS n FROM funding;\nSELECT count(*) AS n FROM bars('BTCUSDT', '1m');\n")
    person.until(r"\n1\n\(1 row\)")
    person.until(r"\n4\n\(1 row\)")
    person.until("etl> ")
    # A table is no wider than the terminal.
    person.type("FROM bars('BTCUSDT', '1m');\n")
    table = person.until(r"\(4 rows, \d of 14 columns\)")
    assert max(map(len, table.splitlines()[1:])) <= 80
    person.until("etl> ")
    person.type("\x04")
    assert person.end() == 0


def test_completion_and_history(terminal, tmp_path):
    person = terminal()
    person.until("etl> ")
    person.type("SELECT sum(taker_buy_q\t) AS s\n")
    assert "taker_buy_quote_volume) AS s" in person.until(r"\.\.\.> ")
    person.type("FROM bars_w\t'BTCUSDT', '1m');\n")
    person.until(r"\(1 row\)\n")
    person.until("etl> ")
    person.type("\\q\n")
    assert person.end() == 0
    kept = "SELECT sum(taker_buy_quote_volume) AS s FROM bars_with_funding('BTCUSDT', '1m');"
    assert (tmp_path / "state" / "shell_history").read_text().splitlines() == [kept, "\\q"]
    again = terminal()
    again.until("etl> ")
    again.type("\x10\x10\n")  # Ctrl-P, twice
    assert "(1 row)" in again.until(r"\(1 row\)\n")
    again.type("exit\n")
    assert again.end() == 0


def test_ctrl_c_ends_etl_sql(env, tmp_path):
    process = subprocess.Popen([*ETL, "sql", LONG], env=env, cwd=tmp_path, stderr=subprocess.PIPE)
    try:
        computing(process, 1.5)  # it starts in less
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, told.decode().splitlines()[-1]) == (130, "etl: interrupted")


def test_a_reader_that_leaves_is_no_mistake(env, tmp_path):
    process = subprocess.Popen(
        [*ETL, "sql", "FROM range(10000000)", "--format", "csv"],
        env=env,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"range\n"
    process.stdout.close()
    assert (process.wait(60), process.stderr.read()) == (0, b"")
    process.stderr.close()


# A pipe


def test_a_script_is_answered_without_prompts(piped):
    text = (
        "SELECT count(*) AS n FROM klines;\n\n-- a; comment\nSELECT 'a;b' AS s,\n  1 AS \"x;y\" /* ; */;;\nSELECT $$;$$ AS last"
    )
    done = piped(text)
    assert done.out == "n\n-\n4\ns   | x;y\n----+----\na;b |   1\nlast\n----\n;\n"
    assert (done.told, done.exit_code) == ([], 0)


def test_a_script_goes_on_after_a_mistake_and_its_exit_code_tells(command, lake):
    (lake / "klines/market=um/interval=1m/symbol=BTCUSDT/2023.parquet").write_bytes(b"torn")
    script = "FROM bars('BTCUSDT', '1m');\nFROM kline;\nSELECT $a AS a;SELECT close FROM bars('ETHUSDT', '1h');"
    done = command(script.encode(), "-p", "a=5")
    assert done.returncode == 1  # that of the first one
    assert done.stdout == b"a\n-\n5\nclose\n-----\n  1.0\n"
    first, *others = done.stderr.decode().split("\netl: ")
    assert "BTCUSDT/2023.parquet" in first
    assert len(others) == 1
    assert "did you mean klines" in others[0]


def test_what_cannot_be_begun_is_told(command, env, lake):
    for given, arguments, told in (
        (b"SELECT 1;", ["--snapshot", "none"], "no snapshot"),
        (b"SELECT '\xff';", [], "UTF-8"),
        (b"SELECT 1;", ["--lake", str(lake.parent / "nowhere")], "there is no lake at"),
    ):
        done = command(given, *arguments)
        assert done.returncode == 2
        assert told in done.stderr.decode()
        assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    "statement",
    [
        "COPY (SELECT 1) TO '{lake}/made.csv'",
        "SET lock_configuration = false",
        "ATTACH '{lake}/made.duckdb' AS made",
        "CREATE TABLE made AS SELECT 1",
        "DROP VIEW klines",
        "FROM read_text('/etc/passwd')",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{lake}/made.csv'",
    ],
)
def test_it_is_the_room_of_etl_sql(piped, lake, statement):
    before = set(lake.rglob("*"))
    done = piped(f"SELECT 1 AS a;{statement.replace('{lake}', str(lake))};SELECT count(*) AS n FROM klines;")
    assert done.out == "a\n-\n1\nn\n-\n4\n"
    assert (len(done.told), done.exit_code) == (1, 2)
    assert set(lake.rglob("*")) == before


def test_commands_of_the_session(piped):
    told = piped("\\d\n").out
    assert re.search(r"^view +klines$", told, re.MULTILINE)
    assert re.search(r"^macro +resample\(symbol, \"interval\", to_interval, market := 'um'\)$", told, re.MULTILINE)
    assert piped("\\d gaps;\n").out.split() == [
        *("column", "type", "gap_start", "TIMESTAMP", "gap_end", "TIMESTAMP", "missing", "BIGINT", "verdict", "VARCHAR")
    ]
    assert "Ctrl-D" in piped("\\?\n").out
    assert piped("SELECT 1 AS a;\n\\q\nSELECT 2 AS b;\n").out == "a\n-\n1\n"
    wrong = piped("\\d fundin\n\\x\n")
    assert "no view or macro fundin; did you mean funding?" in wrong.told[0]
    assert "unknown command \\x; known are \\d" in wrong.told[1]
    assert wrong.exit_code == 2


def test_parameters_of_a_session(piped):
    statements = "SELECT $n AS n;SELECT count(*) AS bars FROM bars($symbol, '1m');SELECT 1 AS a;SELECT $x;"
    done = piped(statements, n=5, Symbol="BTCUSDT")
    assert done.out == "n\n-\n5\nbars\n----\n   3\na\n-\n1\n"
    assert len(done.told) == 1
    assert "needs a value for $x" in done.told[0]


# Parts


def test_lines_become_statements():
    statements = Statements()
    assert statements.add("-- nothing yet") == []
    assert not statements.begun
    assert statements.add("SELECT '") == []
    assert statements.begun
    assert statements.add("\\q;") == []  # it stands in a text
    assert statements.add("' AS 币; SELECT 2") == ["-- nothing yet\nSELECT '\n\\q;\n' AS 币"]
    assert statements.add("; ;") == ["SELECT 2"]
    assert statements.add("  quit ; ") == ["quit"]
    statements.add("SELECT")
    statements.clear()
    assert not statements.begun


def test_completions_are_known_names():
    assert completions("kl") == ["klines"]
    assert completions("BARS") == ["bars(", "bars_with_funding(", "bars", "bars_expected"]
    assert completions("gap_") == ["gap_end", "gap_start"]
    assert completions("xyz") == []


@pytest.mark.parametrize(
    ("statement", "lines"),
    [
        ("SELECT 1", ["SELECT 1;"]),
        ("SELECT\n  'a  b',\n\n 币", ["SELECT 'a  b', 币;"]),
        ("SELECT 1, -- one\n  2", ["SELECT 1, -- one", "2;"]),
    ],
)
def test_history_is_one_line_where_it_can_be(statement, lines):
    assert remembered(statement) == lines
