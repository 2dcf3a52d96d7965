"""Symbols as attacks: from users, from files, in SQL, and from an exchange or a listing that is hostile or broken.

They are refused with a message, or handled as data: nothing is ever made outside the lake, and nothing is executed.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from urllib.parse import unquote

import duckdb
import pytest

from etl import config
from etl.errors import UsageError
from etl.lake.query import connect
from etl.lake.store import Store
from etl.model import Series
from etl.pipeline import Pipeline, Selection, status
from etl.ranges import parse_time
from etl.sim.clock import Clock
from etl.sim.market import GeneratedWorld
from etl.sim.server import Simulator
from etl.verify import verify

from ..exchange import settings, stored, truth

NOW = parse_time("2026-03-01T12:00:30")
START, END = parse_time("2026-02-20"), parse_time("2026-02-25")
BITCOIN = Series("um", "klines", "BTCUSDT", "1h")

ATTACKS = [
    "'", '"', "`", "''", "\\", "'; DROP TABLE klines; --", "') UNION SELECT * FROM runs; --", "$$", "{symbol}", "%s", "$(id)",
    "../../etc/passwd", "..\\..\\x", "/etc/passwd", "a/b", "./a", "~root", "-rf", "--lake=/x", "*", "?", "[!a]", "symbol=X",
    "%00", "%2e%2e%2f", "%2F", "CON", "NUL.parquet", "x\ny", "x\r\nHost: evil", "\t", "\x1b[31m", "\u202eTDSUCTB",
    "ВТСUSDT", "BTCUSDT\u200b", "ＢＴＣＵＳＤＴ", "BTCUSDT ", "btcusdt", "😀" * 20,
]  # fmt: skip  # a table, read by its rows
# What can be no folder's name at all.
IMPOSSIBLE = [".", "..", "", "x\0y", "A" * 300, "币" * 100, "\ud800"]
# Names that the exchange has, or could have.
STRANGE = ["币安人生USDT", "1000🐶USDT", "A'BUSDT", 'Q"USDT', "%2e%2eUSDT", "a b", "../../etc", "; DROP TABLE klines; --"]


class Renamed:
    """A world in which other names, too, stand for BTCUSDT: in exchangeInfo, over REST, and in the archive."""

    def __init__(self, world, names):
        self._world, self._names = world, set(names)
        self.tag = f"{world.tag}-{sorted(names)}"

    def __getattr__(self, name):
        return getattr(self._world, name)

    def _symbol(self, symbol):
        return "BTCUSDT" if symbol in self._names else symbol

    def _series(self, series):
        return replace(series, symbol=self._symbol(series.symbol))

    def exchange_info(self, market, now):
        info = self._world.exchange_info(market, now)
        bitcoin = next(one for one in info["symbols"] if one["symbol"] == "BTCUSDT")
        return info | {
            "symbols": [*info["symbols"], *({**bitcoin, "symbol": name, "pair": name} for name in sorted(self._names))]
        }

    def known(self, market, dataset, symbol):
        return self._world.known(market, dataset, self._symbol(symbol))

    def closed(self, market, symbol, now):
        return self._world.closed(market, self._symbol(symbol), now)

    def bars(self, series, selection, now):
        return self._world.bars(self._series(series), selection, now)

    def folders(self, market, dataset):
        return sorted({*self._world.folders(market, dataset), *self._names})

    def extent(self, series):
        return self._world.extent(self._series(series))

    def count(self, series, span):
        return self._world.count(self._series(series), span)

    def room(self, series):
        return self._world.room(self._series(series))

    def lines(self, series, span, unit=1):
        return self._world.lines(self._series(series), span, unit)

    def truth(self, market, dataset, symbol, interval, start_ms, end_ms):
        return self._world.truth(market, dataset, self._symbol(symbol), interval, start_ms, end_ms)


@pytest.fixture(scope="module")
def world():
    return GeneratedWorld(seed=5, symbols=2)


@pytest.fixture
def exchange(world):
    with Simulator(world, clock=Clock(NOW, frozen=True)) as running:
        yield running


@pytest.fixture
def home(tmp_path):
    """A folder deep enough that a path which climbs out of the lake ends where it is seen."""
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    yield folder
    outside = {path for path in tmp_path.rglob("*") if folder / "lake" not in {path, *path.parents}}
    allowed = {folder.parent, folder.parent.parent, folder, *folder.glob("state"), *folder.glob("asked*")}
    allowed |= {*folder.glob("state/*@127.0.0.1*.json")}  # the budgets, which have the exchange's address for a name
    assert outside <= allowed, "something was made outside the lake"


def selection(*symbols):
    return Selection("um", ("klines",), symbols, ("1h",), START, END)


def run(exchange, lake, *symbols, source="rest"):
    with Pipeline(settings(exchange, lake), source=source) as pipeline:
        return pipeline.sync("backfill", [selection(*symbols)])


def etl(exchange, home, *arguments, **env):
    urls = {f"ETL_{market}_URL": exchange.url for market in ("UM", "CM", "SPOT", "ARCHIVE", "ARCHIVE_INDEX")}
    clean = {key: value for key, value in os.environ.items() if not key.startswith("ETL_")}
    return subprocess.run(
        [sys.executable, "-m", "etl", *arguments, "--lake", str(home / "lake"), "--json"],
        cwd=home,
        env={**clean, **urls, "ETL_STATE_DIR": str(home / "state"), **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def plain_tree(lake):
    """Every entry of the lake is a plain file or folder, and every name of a symbol is one that any system can hold."""
    for path in lake.rglob("*"):
        assert not path.is_symlink()
        assert path.name.isascii()
        assert path.name.isprintable()
        if path.name.startswith("symbol="):
            assert path.is_dir()
            assert not set(path.name.removeprefix("symbol=")) & set("/\\:*?\"<>|'; ")
    return {unquote(path.name.removeprefix("symbol=")) for path in lake.rglob("symbol=*")}


# ---- from users


@pytest.mark.parametrize("symbol", [*ATTACKS, *IMPOSSIBLE], ids=ascii)
def test_an_unknown_symbol_is_refused_whatever_it_is(exchange, home, symbol):
    with pytest.raises(UsageError) as raised:
        run(exchange, home / "lake", symbol)
    assert raised.value.exit_code == 2
    assert str(raised.value).isprintable()
    assert not (home / "lake").exists()
    assert {request.path.rpartition("/")[2] for request in exchange.requests} <= {"time", "exchangeInfo", ""}


@pytest.mark.parametrize("symbol", ["../../etc", "'; DROP TABLE klines; --", "x\ny", "\u202eX", "A" * 300, ".."], ids=ascii)
def test_on_the_command_line(exchange, home, symbol):
    finished = etl(exchange, home, "backfill", "klines", f"--symbols={symbol}", "--start", "2026-02-20")
    assert finished.returncode == 2, finished.stderr
    document = json.loads(finished.stdout)
    assert document["exit_code"] == 2
    assert "symbol" in document["error"]["message"]
    assert "Traceback" not in finished.stderr
    assert not (home / "lake").exists()


def test_from_a_file(exchange, home):
    (home / "asked.txt").write_bytes("\n".join(one for one in ATTACKS if "\n" not in one).encode() + b"\n\0\n\xff\xfe\n")
    finished = etl(exchange, home, "backfill", "klines", "--symbols", "@asked.txt", "--start", "2026-02-20")
    assert finished.returncode == 2, finished.stderr
    assert json.loads(finished.stdout)["exit_code"] == 2
    assert "Traceback" not in finished.stderr
    assert not (home / "lake").exists()


@pytest.mark.parametrize("symbol", [one for one in [*ATTACKS, *IMPOSSIBLE] if one and "\ud800" not in one], ids=ascii)
def test_in_a_universe(exchange, home, symbol):
    path = home / "asked.toml"
    path.write_text(
        f'[[series]]\ndatasets = ["klines"]\nsymbols = [{json.dumps(symbol, ensure_ascii=False)}]\ninterval = ["1h"]\n',
        encoding="utf-8",
    )
    (entry,) = config.load_universe(path)
    assert entry.symbols == (symbol,)
    with pytest.raises(UsageError):
        run(exchange, home / "lake", *entry.symbols)
    assert not (home / "lake").exists()


@pytest.mark.parametrize("folder", ["../../x\0y", "s3://bucket/x"], ids=ascii)
def test_a_lake_that_is_no_folder(home, folder):
    with pytest.raises(UsageError, match="lake"):
        config.load({"lake": folder}, env={"HOME": str(home)}, cwd=home)


# ---- in SQL


@pytest.mark.parametrize("symbol", [one for one in [*ATTACKS, *IMPOSSIBLE, *STRANGE] if "\ud800" not in one], ids=ascii)
def test_in_the_argument_of_a_macro(exchange, filled, symbol):
    literal = "'" + symbol.replace("'", "''") + "'"
    with connect(filled) as connection:
        before = connection.sql("SELECT count(*) FROM klines").fetchall()
        for call in (f"bars({literal}, '1h')", f"gaps({literal}, '1h')", f"resample({literal}, '1h', '1d')"):
            assert nothing(connection, call, filled)
        assert connection.execute("SELECT count(*) FROM klines WHERE symbol = ?", [symbol]).fetchall() == [(0,)]
        assert connection.sql("SELECT count(*) FROM klines").fetchall() == before


def nothing(connection, call, lake):
    """Whether there is nothing: no rows, or no file in the one folder of the lake in which the series would lie."""
    try:
        return connection.sql(f"SELECT * FROM {call}").fetchall() == []
    except duckdb.ParserException as error:
        return "\0" in call and "unterminated" in str(error)  # DuckDB 1.5 reads up to it
    except duckdb.IOException as error:
        folder = f"{lake}/klines/market=um/interval=1h/"
        return bool(
            re.search(f'No files found that match the pattern "{re.escape(folder)}symbol=[A-Za-z0-9%._~-]*/', str(error))
        )


@pytest.fixture(scope="module")
def filled(world, tmp_path_factory):
    lake = tmp_path_factory.mktemp("filled") / "lake"
    with Simulator(world, clock=Clock(NOW, frozen=True)) as exchange:
        assert run(exchange, lake, "BTCUSDT").exit_code == 0
    return lake


# ---- from the exchange and from the archive


@pytest.mark.parametrize("source", ["rest", "archive"])
@pytest.mark.parametrize("symbol", STRANGE, ids=ascii)
def test_what_the_exchange_lists_is_data(world, home, symbol, source):
    """Stored below the lake under an encoded name, and read back by every command under its own."""
    lake, series = home / "lake", Series("um", "klines", symbol, "1h")
    with Simulator(Renamed(world, [symbol]), clock=Clock(NOW, frozen=True)) as exchange:
        if source == "archive" and "/" in symbol:  # a listing names folders: no symbol is told of there
            with pytest.raises(UsageError, match="no symbol"):
                run(exchange, lake, symbol, source=source)
            assert not lake.exists()
            return
        outcome = run(exchange, lake, symbol, source=source)
        expected = truth(exchange, series, START, END)
        assert (outcome.exit_code, outcome.failed, outcome.gaps) == (0, [], [])
        assert stored(lake, series) == expected
        assert len(expected) == 120
        assert run(exchange, lake, symbol, source=source).partitions_written == 0
    assert plain_tree(lake) == {symbol}
    store = Store.open(lake, network="mainnet", layout="year")
    assert [row["symbol"] for row in status(store, NOW)] == [symbol]
    assert verify(store).sound
    literal = "'" + symbol.replace("'", "''") + "'"
    with connect(lake) as connection:
        assert connection.sql("SELECT DISTINCT symbol FROM klines").fetchall() == [(symbol,)]
        rows = connection.sql(f"SELECT epoch_ms(open_time), open, close FROM bars({literal}, '1h') ORDER BY 1").fetchall()
    assert rows == [(bar[0], bar[1], bar[4]) for bar in expected]


@pytest.mark.parametrize("symbol", [one for one in IMPOSSIBLE if "\ud800" not in one], ids=ascii)
def test_an_exchange_that_lists_what_can_be_no_folder(world, home, symbol):
    """Asked for by name, it is refused before anything starts; among all it fails alone, and the others are fetched."""
    with Simulator(Renamed(world, [symbol]), clock=Clock(NOW, frozen=True)) as exchange:
        with pytest.raises(UsageError, match="cannot be stored"):
            run(exchange, home / "lake", symbol)
        assert not (home / "lake").exists()
        outcome = run(exchange, home / "lake", "all")
        assert outcome.exit_code == 3
        ((series, error),) = outcome.failed
        assert series == Series("um", "klines", symbol, "1h")
        assert "cannot be stored" in str(error)
        assert {"BTCUSDT", "ETHUSDT"} <= plain_tree(home / "lake")
        assert symbol not in plain_tree(home / "lake")
        assert stored(home / "lake", BITCOIN) == truth(exchange, BITCOIN, START, END)
