"""Things in a lake that are none of it: each is told by its path, and all else goes on."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from etl.errors import LakeError
from etl.lake import snapshots
from etl.lake.query import connect, load
from etl.lake.store import Store
from etl.model import Series
from etl.pipeline import Pipeline, Selection, status
from etl.ranges import parse_time
from etl.repair import repair
from etl.sim.clock import Clock
from etl.sim.market import GeneratedWorld
from etl.sim.server import Simulator
from etl.verify import verify

from ..exchange import partitions, settings, stored, truth

NOW = parse_time("2026-03-01T12:00:30")
START = parse_time("2026-02-20")
CLOSED = parse_time("2026-03-01T12:00")
HOURS = Series("um", "klines", "BTCUSDT", "1h")
OTHER = Series("um", "klines", "ETHUSDT", "1h")
BITCOIN, ETHER = (f"klines/market=um/interval=1h/symbol={symbol}" for symbol in ("BTCUSDT", "ETHUSDT"))


@pytest.fixture(scope="module")
def exchange():
    with Simulator(GeneratedWorld(seed=5, symbols=4), clock=Clock(NOW, frozen=True)) as running:
        yield running


@pytest.fixture(scope="module")
def filled(exchange, tmp_path_factory):
    lake = tmp_path_factory.mktemp("filled") / "lake"
    selection = Selection("um", ("klines",), ("BTCUSDT", "ETHUSDT"), ("1h",), START, parse_time("2026-02-25"))
    with Pipeline(settings(exchange, lake)) as pipeline:
        assert pipeline.sync("backfill", [selection]).exit_code == 0
    return lake


@pytest.fixture
def lake(filled, tmp_path):
    shutil.copytree(filled, tmp_path / "lake")
    return tmp_path / "lake"


def opened(lake):
    return Store.open(lake, network="mainnet", layout="year")


def errors(lake):
    return [(f.check, f.series, f.message) for f in verify(opened(lake)).findings if f.severity == "error"]


def update(exchange, lake):
    with Pipeline(settings(exchange, lake)) as pipeline:
        return pipeline.sync("update", stored=lambda _: True)


def is_up_to_date(exchange, lake, series):
    return stored(lake, series) == truth(exchange, series, START, CLOSED)


def copied(lake, place):
    (lake / place).parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(lake / BITCOIN, lake / place)


def file(lake, place):
    shutil.rmtree(lake / place, ignore_errors=True)
    (lake / place).parent.mkdir(parents=True, exist_ok=True)
    (lake / place).write_bytes(b"mine")


def link(lake, place):
    (lake / place).parent.mkdir(parents=True, exist_ok=True)
    (lake / place).symlink_to("not there")


def circle(lake, place):
    (lake / place).symlink_to(Path(place).name)


@dataclass(frozen=True)
class Stray:
    place: str
    make: object
    series: Series
    said: str


STRAYS = [
    Stray("klines/market=xx/interval=1h/symbol=BTCUSDT", copied, Series("xx", "klines", "BTCUSDT", "1h"), "market xx"),
    Stray("klines/market=um/interval=7m/symbol=BTCUSDT", copied, Series("um", "klines", "BTCUSDT", "7m"), "interval 7m"),
    Stray("klines/market=um/interval=1M/symbol=BTCUSDT", copied, Series("um", "klines", "BTCUSDT", "1M"), "interval=1mo"),
    Stray("klines/market=um/interval=1h/symbol=%2E%2E", copied, Series("um", "klines", "..", "1h"), "cannot be stored"),
    Stray("klines/market=um/interval=1h/symbol=%00", copied, Series("um", "klines", "\0", "1h"), "cannot be stored"),
    Stray("klines/market=um/interval=1h/symbol=BTC USDT", copied, Series("um", "klines", "BTC USDT", "1h"), "BTC%20USDT"),
    Stray("klines/market=um/interval=1h/symbol=BTC%zzUSDT", copied, Series("um", "klines", "BTC%zzUSDT", "1h"), "BTC%25zzUSDT"),
    Stray("klines/market=um/interval=1h/symbol=SOLUSDT", file, Series("um", "klines", "SOLUSDT", "1h"), "no folder"),
    Stray("klines/market=um/interval=1h/symbol=SOLUSDT", link, Series("um", "klines", "SOLUSDT", "1h"), "not there"),
    Stray("klines/market=um/interval=1h/symbol=SOLUSDT", circle, Series("um", "klines", "SOLUSDT", "1h"), "symbolic links"),
    Stray("klines/market=um/interval=1m", file, Series("um", "klines", "", "1m"), "no folder"),
    Stray("funding", file, Series("", "funding", ""), "no folder"),
    Stray("funding", link, Series("", "funding", ""), "not there"),
    Stray("funding/market=spot/symbol=BTCUSDT", copied, Series("spot", "funding", "BTCUSDT"), "market spot has no funding"),
    Stray("symbols/market=xx", copied, Series("xx", "symbols", ""), "market xx"),
    Stray("symbols/market=cm", file, Series("cm", "symbols", ""), "no folder"),
]  # fmt: skip  # a table, read by its rows


@pytest.mark.parametrize("stray", STRAYS, ids=lambda stray: f"{stray.place.rpartition('/')[2]} {stray.make.__name__}")
def test_what_is_no_folder_of_a_series(exchange, lake, stray):
    stray.make(lake, stray.place)
    path, before = str(lake / stray.place), partitions(lake)
    ((check, series, message),) = errors(lake)
    assert (check, series) == ("unreadable", stray.series)
    assert path in message
    assert stray.said in message
    assert "move it away" in message
    assert [(row["symbol"], path in row["error"]) for row in status(opened(lake), NOW) if "error" in row] == [
        (stray.series.symbol, True)
    ]
    outcome = update(exchange, lake)
    assert outcome.exit_code == 3
    assert [(series, path in str(error)) for series, error in outcome.failed] == [(stray.series, True)]
    assert is_up_to_date(exchange, lake, HOURS)
    assert is_up_to_date(exchange, lake, OTHER)
    mended = repair(settings(exchange, lake), lambda _: True)
    assert (mended.exit_code, [series for series, _ in mended.failed]) == (3, [stray.series])
    after = partitions(lake)
    assert {place: after[place] for place in before if "symbol=BTCUSDT/" not in place and "ETHUSDT" not in place} == {
        place: digest for place, digest in before.items() if "symbol=BTCUSDT/" not in place and "ETHUSDT" not in place
    }
    assert os.path.lexists(path)


@pytest.mark.parametrize("name", ["symbols", "runs", ".tmp", "snapshots", "quarantine"])
def test_a_file_in_place_of_a_folder_of_the_lake_is_found_by_verify_and_status(exchange, lake, name):
    file(lake, name)
    ((check, series, message),) = errors(lake)
    assert (check, series) == ("unreadable", Series("", name, ""))
    assert message == f"{lake / name} is no folder: move it away"
    for command in ("verify", "status"):
        done = run(lake, command)
        assert done.returncode == json.loads(done.stdout)["exit_code"] == 1, done.stderr
        assert str(lake / name) in done.stdout
    (lake / name).unlink()
    assert update(exchange, lake).exit_code == 0
    assert errors(lake) == []


PIPES = [f"{BITCOIN}/2026.parquet", "symbols/market=um/symbols.parquet", "runs/2026-03.jsonl", "runs/2026-01.jsonl"]
READERS = [
    ("sql", "SELECT count(*) FROM klines"),
    ("sql", "SELECT count(*) FROM symbols"),
    ("sql", "SELECT count(*) FROM runs"),
    ("status",),
    ("verify",),
    ("report", "-o", "report.html"),
    ("export", "klines", "--to", "csv", "-o", "out"),
    ("snapshot", "create", "now-1"),
]


@pytest.mark.parametrize("place", PIPES)
def test_nobody_waits_for_a_pipe(lake, place):
    """Who would read it says where it is and what to do; a command that waits for it does not end within its minute."""
    (lake / place).unlink(missing_ok=True)
    os.mkfifo(lake / place)
    for arguments in READERS:
        done = run(lake, *arguments)
        assert "Traceback" not in done.stderr
        if done.returncode == 0:  # it does not read such files
            assert (arguments[0], place.partition("/")[0]) in {("export", "symbols"), ("export", "runs"), ("report", "runs")}
            continue
        assert done.returncode == 1, (arguments, done.stderr)
        assert str(lake / place) in done.stdout
        assert "no regular file" in done.stdout
    script = f"import etl; etl.load('klines', 'BTCUSDT', '1h', lake={str(lake)!r})"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert ("no regular file" in loaded.stderr) == (place == PIPES[0])


@pytest.mark.parametrize("name", ["lake.json", "wanted.json", "catalog.sql", "catalog.duckdb"])
def test_nobody_waits_for_a_pipe_in_the_root(lake, name):
    (lake / name).unlink(missing_ok=True)
    os.mkfifo(lake / name)
    for arguments in (("status",), ("verify",), ("status", "--rebuild")):
        done = run(lake, *arguments)
        if name.startswith("catalog"):  # can be made anew
            assert done.returncode == 0, done.stderr
        else:
            assert done.returncode == 1
            assert str(lake / name) in done.stderr
            assert "is no regular file" in done.stderr


@pytest.mark.parametrize("place", ["symbols/market=um/symbols.parquet", "runs/2026-03.jsonl"])
def test_a_run_does_not_wait_for_a_pipe(exchange, lake, place):
    (lake / place).unlink()
    os.mkfifo(lake / place)
    with pytest.raises(LakeError, match="is no regular file: move it away"):
        update(exchange, lake)
    (lake / place).unlink()
    assert update(exchange, lake).exit_code == 0


def test_only_what_is_chosen_is_told(exchange, lake):
    copied(lake, "klines/market=um/interval=1h/symbol=BTC USDT")
    assert [f for f in verify(opened(lake), OTHER.__eq__).findings if f.severity == "error"] == []
    assert [row["symbol"] for row in status(opened(lake), NOW, OTHER.__eq__)] == ["ETHUSDT"]
    with Pipeline(settings(exchange, lake)) as pipeline:
        assert pipeline.sync("update", stored=OTHER.__eq__).exit_code == 0


def test_a_name_that_is_no_text(exchange, lake):
    """Such as another encoding than UTF-8 gives."""
    place = lake / os.fsdecode(b"klines/market=um/interval=1h/symbol=\xffUSDT")
    place.mkdir()
    ((check, _, message),) = errors(lake)
    assert check == "unreadable"
    assert r"symbol=\udcffUSDT" in message
    assert update(exchange, lake).exit_code == 3


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def a_folder(path):
    path.unlink()
    path.mkdir()


def year_9999(path):
    shutil.copy(path, path.with_name("9999.parquet"))


@pytest.mark.parametrize("make", [pipe, a_folder, year_9999])
def test_what_is_no_file_of_a_series_is_found_and_set_aside(exchange, lake, make):
    path = lake / BITCOIN / "2026.parquet"
    make(path)
    ((check, series, message),) = errors(lake)
    assert (check, series) == ("unreadable", HOURS)
    assert str(path.parent) in message
    (row,) = (row for row in status(opened(lake), NOW) if "error" in row)
    assert str(path.parent) in row["error"]
    mended = repair(settings(exchange, lake), lambda _: True)
    assert mended.exit_code == 0
    assert errors(lake) == []
    assert [one.parent for one in (lake / "quarantine").rglob("*.parquet")] == [lake / "quarantine" / BITCOIN]
    assert update(exchange, lake).exit_code == 0
    assert is_up_to_date(exchange, lake, OTHER)
    assert set(truth(exchange, HOURS, START, CLOSED)) <= set(stored(lake, HOURS))  # a year that was lost is fetched whole


@pytest.mark.parametrize("make", [pipe, year_9999])
def test_an_update_sets_it_aside_too(exchange, lake, make):
    make(lake / BITCOIN / "2026.parquet")
    outcome = update(exchange, lake)
    assert outcome.exit_code == 0
    assert [(f.check, f.series) for f in outcome.findings if f.severity == "warning"] == [("damaged", HOURS)]
    assert set(truth(exchange, HOURS, START, CLOSED)) <= set(stored(lake, HOURS))


def run(lake, *arguments):
    env = {key: value for key, value in os.environ.items() if not key.startswith("ETL_")}
    command = [sys.executable, "-m", "etl", *arguments, "--lake", str(lake), "--json"]
    return subprocess.run(command, cwd=lake.parent, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_the_commands_tell_what_sql_shows(lake):
    copied(lake, "klines/market=um/interval=1h/symbol=BTC USDT")
    with connect(lake) as connection:
        shown = connection.execute("SELECT DISTINCT symbol FROM klines ORDER BY symbol").fetchall()
    assert shown == [("BTC USDT",), ("BTCUSDT",), ("ETHUSDT",)]
    for arguments in (("verify",), ("verify", "--symbols", "BTC USDT"), ("status",), ("status", "--symbols", "BTC USDT")):
        done = run(lake, *arguments)
        assert done.returncode == json.loads(done.stdout)["exit_code"] == 1, done.stderr
        assert "symbol=BTC USDT" in done.stdout


def test_a_dangling_link_in_place_of_a_file_is_told_with_its_cure(exchange, lake):
    """It is not set aside: the disk that it leads to may be back tomorrow."""
    path, gone = lake / BITCOIN / "2026.parquet", lake.parent / "other disk" / "2026.parquet"
    gone.parent.mkdir()
    path.rename(gone)
    path.symlink_to(gone)
    assert errors(lake) == []
    gone.rename(gone.with_name("kept"))
    ((_, series, told),) = errors(lake)
    assert series == HOURS
    outcome, mended = update(exchange, lake), repair(settings(exchange, lake), lambda _: True)
    for one in (outcome, mended):
        assert (one.exit_code, [series for series, _ in one.failed]) == (3, [HOURS])
    for message in (told, str(outcome.failed[0][1]), str(mended.failed[0][1])):
        for part in (str(path), str(gone), "a link to something that is not there", "bring that back, or remove the link"):
            assert part in message
    assert path.is_symlink()
    assert is_up_to_date(exchange, lake, OTHER)
    gone.with_name("kept").rename(gone)
    assert update(exchange, lake).exit_code == 0
    assert is_up_to_date(exchange, lake, HOURS)


@pytest.mark.parametrize("in_the_way", ["klines", BITCOIN])
def test_a_series_names_the_file_that_is_in_the_way_of_its_folder(exchange, lake, in_the_way):
    file(lake, in_the_way)
    outcome = backfill(exchange, lake)
    assert outcome.exit_code == 3
    assert f"{lake / in_the_way} is no folder; move it away" in str(outcome.failed[0][1])


def test_a_run_names_the_file_that_is_in_the_way_of_temporary_files(exchange, lake):
    (lake / ".tmp").rmdir()
    (lake / ".tmp").write_bytes(b"mine")
    with pytest.raises(LakeError, match=f"{lake / '.tmp'} is no folder; move it away"):
        backfill(exchange, lake)


def backfill(exchange, lake):
    with Pipeline(settings(exchange, lake)) as pipeline:
        return pipeline.sync("backfill", [Selection("um", ("klines",), ("BTCUSDT",), ("1h",), START, CLOSED)])


@pytest.mark.parametrize(
    ("layout", "interval", "own", "other"),
    [("year", "1m", "2026", "2026-02"), ("month", "1m", "2026-02", "2026"), ("month", "1h", "2026", "2026-02")],
)
def test_a_file_of_the_other_layout_is_told_and_left_alone(exchange, tmp_path, layout, interval, own, other):
    """Its rows are those of the lake's own file, and SQL shows them twice; what reads files by themselves does not."""
    lake, series = tmp_path / "lake", Series("um", "klines", "BTCUSDT", interval)
    day = parse_time("2026-02-24"), parse_time("2026-02-25")
    selection = Selection("um", ("klines",), ("BTCUSDT", "ETHUSDT"), (interval,), *day)
    with Pipeline(replace(settings(exchange, lake), partition=layout)) as pipeline:
        assert pipeline.sync("backfill", [selection]).exit_code == 0
    store = Store.open(lake, network="mainnet", layout="year")
    folder = store.folder(series)
    rows = len(truth(exchange, series, *day))
    path = Path(shutil.copy(folder / f"{own}.parquet", folder / f"{other}.parquet"))
    content = path.read_bytes()

    assert len(load(lake, "klines", "BTCUSDT", interval)) == 2 * rows  # as SQL
    ((check, named, message),) = errors(lake)
    assert (check, named) == ("unreadable", series)
    for part in (str(path), f"one file a {'month' if own == '2026-02' else 'year'}", "shows its rows", "twice", "move it away"):
        assert part in message
    (row,) = (row for row in status(store, NOW) if "error" in row)
    assert str(path) in row["error"]
    assert [row["rows"] for row in status(store, NOW) if "error" not in row] == [rows, rows]
    for done in (update(exchange, lake), repair(settings(exchange, lake), lambda _: True)):
        assert (done.exit_code, [(one, str(path) in str(error)) for one, error in done.failed]) == (3, [(series, True)])
    assert path.read_bytes() == content
    assert not (lake / "quarantine").exists()
    assert f"klines/{path.relative_to(lake / 'klines')}" not in snapshots.create(store, "s").files
    path.unlink()
    assert update(exchange, lake).exit_code == 0
    assert errors(lake) == []
    assert stored(lake, series) == truth(exchange, series, day[0], CLOSED)
