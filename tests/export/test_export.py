"""`etl export` as a command: what it chooses, what it tells, what it refuses, and what it leaves alone."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from etl.cli import cli
from etl.errors import LakeError, UsageError
from etl.export import files, run, tools
from etl.lake import snapshots
from etl.lake.store import Store
from etl.lake.symbols import Life, Symbols
from etl.model import Series
from etl.pipeline import Selection
from etl.ranges import HOUR, iso, parse_time

from ..exchange import truth
from .conftest import NOW, ROOT, fetch, snippet


def content(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def text(time: int) -> str:
    """As `2026-08-01T00:00:00.000Z`, also where there are no milliseconds."""
    whole = iso(time)
    return whole if "." in whole else f"{whole[:-1]}.000Z"


@pytest.mark.parametrize(
    ("market", "symbol", "interval", "start"),
    [
        ("um", "币安人生USDT", "1h", "2026-07-28"),
        ("um", "BTCUSDT", "1d", "2025-12-01"),  # two files of the lake
        ("um", "BTCUSDT", "1M", "2025-01-01"),
        ("um", "SRMUSDT", "1h", "2022-11-20"),  # from the archive alone
        ("cm", "BTCUSD_PERP", "1h", "2026-08-01"),
        ("spot", "BTCUSDT", "1h", "2026-08-01"),
    ],
)
def test_csv_has_every_row_of_the_exchange(documented, exchange, tmp_path, market, symbol, interval, start):
    done = documented(
        *("klines", "--to", "csv", "--market", market, "--symbols", symbol, "--interval", interval), "-o", str(tmp_path / "out")
    )
    (written,) = done["files"]
    series = Series(market, "klines", symbol, interval)
    end = parse_time("2022-11-28") if symbol == "SRMUSDT" else NOW
    bars = [row for row in truth(exchange, series, parse_time(start), end) if row[6] < NOW]
    assert len(bars) > 15
    header, *lines = content(tmp_path / "out" / written["path"])
    assert header == [
        *("open_time", "open", "high", "low", "close", "volume", "close_time"),
        *("quote_volume", "count", "taker_buy_volume", "taker_buy_quote_volume"),
    ]
    read = [[line[0], *map(float, line[1:6]), line[6], float(line[7]), int(line[8]), *map(float, line[9:])] for line in lines]
    assert read == [[text(row[0]), *row[1:6], text(row[6]), *row[7:]] for row in bars]
    assert {name: written[name] for name in ("rows", "first", "last")} == {
        "rows": len(bars),
        "first": iso(bars[0][0]),
        "last": iso(bars[-1][0]),
    }
    assert (done["tool"], done["left_out"], done["gaps"], done["notes"]) == ("csv", [], [], [])


def test_csv_of_settlements(documented, exchange, tmp_path):
    done = documented("funding", "--to", "csv", "--symbols", "TSLAUSDT", "-o", str(tmp_path / "out"))
    rows = truth(exchange, Series("um", "funding", "TSLAUSDT"), parse_time("2026-07-28"), NOW)
    header, *lines = content(tmp_path / "out" / done["files"][0]["path"])
    assert header == ["funding_time", "funding_rate", "mark_price", "rate_type"]
    assert [[line[0], float(line[1]), float(line[2]), line[3]] for line in lines] == [[text(row[0]), *row[1:]] for row in rows]


def test_the_span_is_half_open_and_what_is_not_named_is_everything(documented, tmp_path):
    done = documented("--to", "csv", "-o", str(tmp_path), "--start", "2026-08-01", "--end", "2026-08-02")
    hours = {one["symbol"] for one in done["files"] if one["dataset"] == "klines" and one["interval"] == "1h"}
    assert hours == {"BTCUSDT", "币安人生USDT", "1000PEPEUSDT", "TSLAUSDT", "LRCUSDT", "BTCUSDT_261225"}
    assert {one["dataset"] for one in done["files"]} == {"klines", "funding", "mark_klines"}
    spans = {(one["first"], one["last"], one["rows"]) for one in done["files"] if one["interval"] == "1h"}
    assert spans == {("2026-08-01T00:00:00Z", "2026-08-01T23:00:00Z", 24)}
    left = {(one["symbol"], one["interval"]) for one in done["left_out"] if one["dataset"] == "klines"}
    assert left == {("SRMUSDT", "1h"), ("XLMUSDT", "1h"), ("BTCUSDT", "1M")}  # the bar of August is still open
    assert all(one["market"] == "um" for one in done["files"])


def test_gaps_are_told(documented, export, tmp_path):
    arguments = ("klines", "--to", "backtesting", "--symbols", "XLMUSDT", "-o", str(tmp_path))
    done = documented(*arguments)
    gap = {"start": "2024-01-17T04:00:00Z", "end": "2024-01-17T05:00:00Z"}
    assert [{name: one[name] for name in gap} for one in done["gaps"]] == [gap]
    assert done["files"][0]["rows"] == 47
    result = export(*arguments)
    assert "gap um klines XLMUSDT 1h: 2024-01-17T04:00:00Z .. 2024-01-17T05:00:00Z is not in the lake" in result.stderr
    assert "XLMUSDT" in result.stdout
    assert "gap" not in result.stdout


def test_freqtrade_is_told_what_a_backtest_lacks(documented, tmp_path):
    def needs(*arguments):
        notes = documented(*arguments, "--to", "freqtrade", "--interval", "1h", "-o", str(tmp_path))["notes"]
        return [note for note in notes if "backtests of futures need" in note]

    cures = [re.search(r"etl backfill .*? fetches", note)[0] for note in needs("klines", "--symbols", "XLMUSDT")]
    assert cures == [
        "etl backfill funding --symbols XLMUSDT fetches",
        "etl backfill mark_klines --symbols XLMUSDT --interval 1h fetches",
    ]
    stored = needs("klines", "--symbols", "BTCUSDT")
    for dataset, note in zip(("funding", "mark_klines"), stored, strict=True):
        assert f"need {dataset}, which is stored for BTCUSDT and was not named; name {dataset}, too" in note
    assert needs("klines", "funding", "mark_klines", "--symbols", "BTCUSDT") == needs("--symbols", "BTCUSDT") == []
    done = documented("--to", "freqtrade", "--symbols", "SRMUSDT", "-o", str(tmp_path))
    assert any("by its name they are SRM and USDT" in note for note in done["notes"])
    done = documented("--to", "freqtrade", "--interval", "1h", "-o", str(tmp_path))
    assert {(one["symbol"], "perpetuals only" in one["reason"]) for one in done["left_out"]} == {("BTCUSDT_261225", True)}


def test_a_ticker_that_was_used_again_is_told(lake, tmp_path):
    copy = tmp_path / "lake"
    shutil.copytree(lake, copy)
    begins = [
        Life(parse_time(start), parse_time(end))
        for start, end in (("2024-01-01", "2024-01-16T20:00"), ("2024-01-17", "2025-01-01"))
    ]
    assert Symbols(copy, "um").update([], {"XLMUSDT": begins})
    wish = run.Wish(symbols=("XLMUSDT",))
    done = run.export(Store(copy, "year"), tools.tool("csv"), wish, tmp_path / "out")
    assert done.notes == [
        "um XLMUSDT is 2 contracts, one after the other, in one series; --start 2024-01-17T00:00:00Z takes the last one alone"
    ]
    later = run.Wish(symbols=("XLMUSDT",), span=run.TimeRange(parse_time("2024-01-17"), parse_time("2024-01-18")))
    assert run.export(Store(copy, "year"), tools.tool("csv"), later, tmp_path / "out").notes == []


@pytest.fixture(scope="module")
def luna(exchange, tmp_path_factory):
    """A lake of the end of one contract LUNAUSDT and the beginning of the next, whose coin is LUNA2."""
    folder = tmp_path_factory.mktemp("luna") / "lake"
    hours = Selection("um", ("klines",), ("LUNAUSDT",), ("1h",), parse_time("2022-05-01"), parse_time("2022-09-12"))
    fetch(exchange, folder, ("auto", hours))
    return folder


OTHER_LUNA = "by its name they are LUNA and USDT"
TWO_LUNAS = "2 contracts, one after the other, in one series; --start 2022-09-10T10:00:00Z takes the last one alone"


@pytest.mark.parametrize(
    ("span", "pair", "told"),
    [
        (("--end", "2022-06-01"), "LUNA_USDT_USDT", [OTHER_LUNA, "um LUNAUSDT traded until 2022-05-13T01:"]),
        (("--end", "2022-09-10T10:00"), "LUNA_USDT_USDT", [OTHER_LUNA, "um LUNAUSDT traded until 2022-05-13T01:"]),
        (("--end", "2022-09-10T11:00"), "LUNA2_USDT_USDT", [TWO_LUNAS]),
        ((), "LUNA2_USDT_USDT", [TWO_LUNAS]),
        (("--start", "2022-07-01"), "LUNA2_USDT_USDT", ["um LUNAUSDT trades since 2022-09-10T10:"]),
        (("--start", "2022-09-10T10:00"), "LUNA2_USDT_USDT", []),
    ],
)
def test_the_contract_is_that_of_the_exported_time(documented, luna, tmp_path, span, pair, told):
    arguments = ("--to", "freqtrade", "--symbols", "LUNAUSDT", "--lake", str(luna), "-o", str(tmp_path))
    done = documented("klines", *arguments, *span)
    assert [one["path"] for one in done["files"]] == [f"futures/{pair}-1h-futures.feather"]
    notes = [note for note in done["notes"] if not note.startswith("freqtrade's backtests")]
    assert len(notes) == len(told)
    assert all(part in note for part, note in zip(told, notes, strict=True)), notes


BEFORE = (
    "klines 1h of um BTCUSDT begin at 2026-07-28T00:00:00Z, after --start 2026-07-27T23:00:00Z; etl backfill klines --symbols"
    " BTCUSDT --interval 1h --start 2026-07-27T23:00:00Z fetches what there is before"
)
AFTER = (
    "klines 1h of um BTCUSDT end at 2026-08-10T12:00:00Z, before --end 2026-08-10T13:00:00Z; etl backfill klines --symbols"
    " BTCUSDT --interval 1h --start 2026-08-10T12:00:00Z --end 2026-08-10T13:00:00Z fetches what there is since"
)


@pytest.mark.parametrize(
    ("symbol", "span", "told"),
    [
        ("BTCUSDT", ("--start", "2026-07-28", "--end", "2026-08-10T12:59"), []),  # the bar of 12:00 is still open
        ("BTCUSDT", ("--start", "2026-07-27T23:01", "--end", "now"), []),
        (
            "BTCUSDT",
            ("--start", "2026-07-27T23:00"),
            [BEFORE],
        ),
        (
            "BTCUSDT",
            ("--end", "2026-08-10T13:00"),
            [AFTER],
        ),
        (
            "LRCUSDT",
            ("--end", "2026-08-09"),
            ["um LRCUSDT traded until 2026-08-03T09:00:00Z; the rest of the time that was asked for is not there to be had"],
        ),
        ("LRCUSDT", ("--end", "2026-08-03T09:00"), []),
    ],
)
def test_an_end_that_is_not_reached_is_told(documented, export, tmp_path, symbol, span, told):
    arguments = ("klines", "--to", "csv", "--symbols", symbol, "--interval", "1h", "-o", str(tmp_path), *span)
    assert documented(*arguments)["notes"] == told
    assert all(note in export(*arguments).stderr for note in told)


def test_ends_are_told_of_all_symbols_together(documented, tmp_path):
    done = documented(
        "--to", "csv", "--symbols", "BTCUSDT,TSLAUSDT", "--interval", "1h", "--start", "2026-07-01", "-o", str(tmp_path)
    )
    begins = "of um BTCUSDT, TSLAUSDT begin at 2026-07-28T00:00:00Z"
    assert [note.split(begins)[0] for note in done["notes"]] == ["klines 1h ", "funding ", "mark_klines 1h "]
    done = documented("funding", "--to", "csv", "--symbols", "BTCUSDT", "--end", "2026-08-10T16:00", "-o", str(tmp_path))
    assert done["notes"] == []  # the next settlement is that of 16:00
    done = documented("funding", "--to", "csv", "--symbols", "BTCUSDT", "--end", "2026-08-10T17:00", "-o", str(tmp_path))
    assert [note.partition(";")[0] for note in done["notes"]] == [
        "funding of um BTCUSDT end at 2026-08-10T08:00:00Z, before --end 2026-08-10T17:00:00Z"
    ]


def test_what_freqtrade_needs_comes_at_its_own_interval_alone(documented, export, tmp_path):
    named = ("klines", "funding", "mark_klines", "--to", "freqtrade", "--symbols", "BTCUSDT", "-o", str(tmp_path))
    done = documented(*named, "--interval", "1m")  # mark prices are stored at 1m, too
    assert {(one["dataset"], one["interval"]) for one in done["files"]} == {
        ("klines", "1m"),
        ("funding", None),
        ("mark_klines", "1h"),
    }
    done = documented("mark_klines", "--to", "freqtrade", "--symbols", "BTCUSDT", "-o", str(tmp_path))
    assert [one["interval"] for one in done["files"]] == ["1h"]
    words = "no mark_klines of XLMUSDT at 1h in um; .* etl backfill mark_klines --symbols XLMUSDT --interval 1h fetches"
    refused = export("mark_klines", "--to", "freqtrade", "--symbols", "XLMUSDT", "-o", str(tmp_path), code=2)
    assert re.search(words, str(refused.exception))


def test_a_lake_that_is_up_to_date_lacks_no_funding(documented, exchange, tmp_path):
    """At 12:30 the newest minute is 12:29, the newest hour of mark prices 11:00, and the next settlement that of 16:00."""
    lake, day = tmp_path / "lake", parse_time("2026-08-10")
    minutes = Selection("um", ("klines", "funding"), ("BTCUSDT",), ("1m",), day)
    marks = ("rest", Selection("um", ("mark_klines",), ("BTCUSDT",), ("1h",), day, parse_time("2026-08-10T11:00")))
    fetch(exchange, lake, ("rest", minutes), marks)
    arguments = ("--to", "freqtrade", "--symbols", "BTCUSDT", "--lake", str(lake), "-o", str(tmp_path / "out"))
    (note,) = documented(*arguments)["notes"]
    assert note.startswith("mark_klines of um BTCUSDT is there from 2026-08-10T00:00:00Z to 2026-08-10T10:00:00Z, 1m bars from")
    assert documented(*arguments, "--end", "2026-08-10T11:59")["notes"] == []  # the hour of 11:00 was not over then
    fetch(exchange, lake, ("rest", Selection("um", ("mark_klines",), ("BTCUSDT",), ("1h",), day)))
    assert documented(*arguments)["notes"] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--to", "backtrader"), "known are freqtrade, nautilus, backtesting, vectorbt, csv"),
        (("trades", "--to", "csv"), "unknown dataset"),
        (("funding", "--to", "vectorbt"), "it knows bars only"),
        (("--to", "freqtrade", "--market", "cm"), "linear perpetuals"),
        (("--to", "freqtrade", "--symbols", "BTCUSDT_261225"), "perpetuals only"),
        (
            ("klines", "--to", "csv", "--symbols", "BTCUSDT,DOGEUSDT"),
            "no klines of DOGEUSDT in um; .* etl backfill klines --symbols DOGE",
        ),
        (("klines", "--to", "csv", "--symbols", "LRCUSDT", "--interval", "1h,5m"), "no klines of LRCUSDT at 5m"),
        (("funding", "--to", "csv", "--symbols", "SRMUSDT"), "no funding of SRMUSDT"),
        (("--to", "csv", "--start", "2026-08-02", "--end", "2026-08-01"), "half-open"),
        (("klines", "--to", "csv", "--symbols", "BTCUSDT", "--start", "2026-09-01"), "no row of this selection"),
        (("--to", "csv", "--snapshot", "q1"), "no snapshot 'q1'"),
    ],
)
def test_what_is_refused(export, tmp_path, arguments, words):
    result = export(*arguments, "-o", str(tmp_path / "out"), code=2)
    assert re.search(words, str(result.exception))
    assert list(tmp_path.rglob("*.csv")) == []


def test_settlements_do_not_stand_for_bars_that_were_named(export, tmp_path):
    out = tmp_path / "out"
    named = ("--to", "freqtrade", "--symbols", "BTCUSDT", "--interval", "5m", "-o", str(out))
    told = str(export(*named, code=2).exception)
    assert "BTCUSDT at 5m" in told
    assert not out.exists()
    export("funding", *named)  # which has no interval, and was named
    assert [path.name for path in out.rglob("*.feather")] == ["BTC_USDT_USDT-1h-funding_rate.feather"]


def test_where_there_is_no_row_nothing_is_made(export, tmp_path):
    out = tmp_path / "out"
    export("klines", "--to", "csv", "--symbols", "BTCUSDT", "--start", "2030-01-01", "-o", str(out), code=2)
    assert not out.exists()


def test_folders_that_are_refused(export, lake, tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder, words in ((lake / "exports", "lies in the lake"), (tmp_path / "file" / "x", "cannot export into")):
        result = export("--to", "csv", "-o", str(folder), code=2)
        assert words in str(result.exception)
    assert not (lake / "exports").exists()


def test_without_nautilus_it_is_told_what_to_install(export, tmp_path):
    result = export("--to", "nautilus", "-o", str(tmp_path / "out"), code=2)
    assert "pip install 'binance-futures-etl[nautilus]'" in str(result.exception)


def test_files_are_replaced_whole_and_nothing_else_is_touched(export, tmp_path):
    def hours(*more):
        export("klines", "--to", "csv", "--symbols", "BTCUSDT,LRCUSDT", "--interval", "1h", "-o", str(tmp_path), *more)

    hours()
    folder = tmp_path / "um" / "klines"
    (folder / "mine.csv").write_text("mine")
    (folder / ".BTCUSDT-1h.csv.part").write_text("left by a crash")
    before = (folder / "LRCUSDT-1h.csv").read_bytes()
    hours("--start", "2026-08-02T22:00", "--symbols", "BTCUSDT")
    assert len(content(folder / "LRCUSDT-1h.csv")) == 1 + 11  # it ended on the 3rd at 9
    assert len(content(folder / "BTCUSDT-1h.csv")) == 1 + (NOW - parse_time("2026-08-02T22:00")) // HOUR
    assert sorted(path.name for path in folder.iterdir()) == ["BTCUSDT-1h.csv", "LRCUSDT-1h.csv", "mine.csv"]
    hours()
    assert (folder / "LRCUSDT-1h.csv").read_bytes() == before  # the same rows give the same bytes

    (folder / "LRCUSDT-1h.csv").unlink()
    (folder / "LRCUSDT-1h.csv").mkdir()
    result = export("klines", "--to", "csv", "--symbols", "LRCUSDT", "-o", str(tmp_path), code=1)
    assert "cannot write" in str(result.exception)
    assert not list(folder.glob(".*"))


def test_one_export_into_a_folder_at_a_time(export, tmp_path):
    handle = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        result = export("--to", "csv", "-o", str(tmp_path), code=1)
        assert "another export" in str(result.exception)
    finally:
        os.close(handle)


@pytest.mark.parametrize("form", ["csv", "parquet", "feather"])
def test_half_a_file_never_has_the_name(tmp_path, form):
    target = tmp_path / f"bars.{form}"
    assert files.write(target, form, [pa.table({"a": [1, 2]}), pa.table({"a": [3]})]) == 3
    before = target.read_bytes()

    def broken():
        yield pa.table({"a": [1]})
        raise LakeError("gone")

    with pytest.raises(LakeError):
        files.write(target, form, broken())
    assert files.write(target, form, [pa.table({"a": pa.array([], pa.int64())})]) == 0
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(target.name, before)]


def test_a_killed_export_leaves_the_old_file(tmp_path):
    script = (
        "import os, pathlib, signal, sys, pyarrow as pa\n"
        "from etl.export import files\n"
        "def tables():\n"
        "    yield pa.table({'a': [1]})\n"
        "    if sys.argv[2:]:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.write(pathlib.Path(sys.argv[1]), 'csv', tables())"
    )
    target = tmp_path / "bars.csv"
    target.write_text("old")
    killed = subprocess.run([sys.executable, "-c", script, target, "killed"], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert target.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    subprocess.run([sys.executable, "-c", script, target], cwd=ROOT, check=True)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["a\n1\n"]


def test_a_snapshot_exports_the_same_for_ever(lake, tmp_path, documented):
    copy = tmp_path / "lake"
    shutil.copytree(lake, copy)
    store = Store(copy, "year")
    snapshots.create(store, "q1")
    arguments = ("--to", "csv", "--symbols", "LRCUSDT", "--lake", str(copy), "-o")
    documented(*arguments, str(tmp_path / "before"))
    shutil.rmtree(copy / "klines" / "market=um" / "interval=1h" / "symbol=LRCUSDT")
    documented(*arguments, str(tmp_path / "after"), "--snapshot", "q1")
    exported = {
        name: {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.csv")}
        for name in ("before", "after")
    }
    assert exported["before"] == exported["after"]
    assert len(exported["after"]) == 3
    inside = run.Wish(symbols=("LRCUSDT",))
    with pytest.raises(UsageError, match="lies in the lake"):
        run.export(Store(snapshots.folder(copy, "q1"), "year"), tools.tool("csv"), inside, copy / "exports")


def test_what_the_page_shows_runs(lake, tmp_path):
    """Its commands in their order, and the Python that needs no tool; that of the tools runs in test_loaded.py."""
    page = (ROOT / "docs" / "exports.md").read_text()
    shell, resampling = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    commands = shell.splitlines()
    assert len(commands) == 5
    runner = CliRunner(env={"ETL_LAKE": str(lake), "HOME": str(tmp_path)})
    with contextlib.chdir(tmp_path):
        for command in commands:
            tool, *arguments = shlex.split(command)
            assert tool == ".venv/bin/etl"
            told = runner.invoke(cli, arguments)
            assert told.exit_code == 0, told.output
            assert "klines" in told.stdout
        assert runner.invoke(cli, shlex.split(resampling)[1:]).exit_code == 0
        assert pq.read_table("hours.parquet").num_rows == 2 * 24  # of two days of minutes
        # The last one has made the CSV anew from the first bar on; the page reads that of the fourth.
        assert runner.invoke(cli, shlex.split(commands[3])[1:]).exit_code == 0
    code = snippet("csv") + "print(len(bars), bars['open_time'].iloc[0], str(funding['funding_time'].dtype)[-4:])"
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert finished.stdout.split() == [str((NOW - parse_time("2026-08-01")) // HOUR), "2026-08-01", "00:00:00+00:00", "UTC]"]
