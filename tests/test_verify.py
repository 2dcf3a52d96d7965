"""`etl verify` over whole lakes: nothing where the lake is right, each kind of damage where it is not."""

import json
import os
import subprocess
import sys
from datetime import UTC

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from etl.lake.store import Store
from etl.model import Series
from etl.pipeline import Pipeline, Selection, Stop
from etl.ranges import DAY, HOUR, MINUTE, iso, parse_time
from etl.repair import repair as repairing
from etl.sim.clock import Clock
from etl.sim.faults import Faults
from etl.sim.market import GeneratedWorld
from etl.sim.server import Simulator
from etl.verify import compare, verify

from .exchange import pages, partitions, settings, truth

NOW = parse_time("2026-03-01T12:00:30")
HOURS = Series("um", "klines", "BTCUSDT", "1h")
MINUTES = Series("um", "klines", "BTCUSDT", "1m")
FLAT = {"defect": "flat_bar", "key": "-1h-2026-01", "time": "2026-01-17T20:00"}


@pytest.fixture(scope="module")
def exchange():
    with Simulator(GeneratedWorld(seed=5, symbols=4), clock=Clock(NOW, frozen=True)) as running:
        yield running


@pytest.fixture
def lake(exchange, tmp_path):
    exchange.faults = Faults([])
    exchange.archive._defects = exchange.faults.defects
    return tmp_path / "lake"


def backfill(exchange, lake, *selections, source="auto"):
    with Pipeline(settings(exchange, lake), source=source) as pipeline:
        outcome = pipeline.sync("backfill", selections)
    assert outcome.exit_code == 0


def select(datasets, symbols, intervals, start, end=None, market="um"):
    times = [time and parse_time(time) for time in (start, end)]
    return Selection(market, tuple(datasets.split()), tuple(symbols.split()), tuple(intervals.split()), *times)


def opened(lake):
    return Store.open(lake, network="mainnet", layout="year")


def found(lake):
    return [(f.severity, f.check, f.series.symbol, f.series.interval, f.count) for f in verify(opened(lake)).findings]


def rewrite(lake, series, change):
    """Let the only file of the series hold what `change` makes of its rows, with the footer that it had."""
    (path,) = opened(lake).paths(series)
    table = pq.read_table(path, partitioning=None)
    footer = pq.read_metadata(path).metadata[b"etl"]
    rows = pa.Table.from_pylist(change(table.to_pylist()), schema=table.schema)
    with pq.ParquetWriter(path, rows.schema) as writer:
        writer.write_table(rows)
        writer.add_key_value_metadata({"etl": footer.decode()})


def mended(settings, **options):
    return repairing(settings, lambda _: True, **options)


def test_a_right_lake_has_no_error(exchange, lake):
    backfill(
        exchange,
        lake,
        select("klines mark_klines premium_klines", "BTCUSDT", "1m 1h 1d 1w 1M", "2026-01-01"),
        select("klines", "LUNAUSDT SRMUSDT OCEANUSDT TSLAUSDT", "1w 1M", None),  # these begin in the middle of their first bars
        select("funding klines", "LUNAUSDT SRMUSDT OCEANUSDT TSLAUSDT", "12h 1d", None),
        select("klines", "BTCUSD_PERP", "1h 1d", "2026-01-01", market="cm"),
        select("klines", "BTCUSDT", "1h 1d", "2021-08-01", "2021-09-01", market="spot"),
    )
    result = verify(opened(lake))
    assert result.sound
    assert {(f.severity, f.check) for f in result.findings} <= {
        ("info", "no_trade"),
        ("info", "outage"),
        ("info", "funding_step"),
    }
    assert result.rows == sum(file.rows for series in opened(lake).series() for file in opened(lake).files(series))
    assert [(f.series.market, f.count) for f in result.findings if f.check == "outage"] == [("spot", 4)]


def test_holes_are_told_by_who_was_asked(exchange, lake):
    backfill(exchange, lake, select("klines", "BTCUSDT", "1h", "2021-08-01", "2021-09-01", market="spot"), source="rest")
    assert [finding for finding in found(lake) if finding[1] != "no_trade"] == [("warning", "missing", "BTCUSDT", "1h", 4)]


AT = parse_time("2026-02-10T05:00")


def edited(rows, **fields):
    return [row | fields if row["open_time"].timestamp() * 1000 == AT else row for row in rows]


@pytest.mark.parametrize(
    ("check", "change"),
    [
        ("ohlc", lambda rows: edited(rows, high=0.5)),
        ("taker", lambda rows: edited(rows, taker_buy_volume=1e12)),
        ("duplicate", lambda rows: [*rows[:50], rows[49], *rows[50:]]),
        ("order", lambda rows: [*rows[:50], rows[51], rows[50], *rows[52:]]),
        ("footer", lambda rows: [*rows[:50], *rows[60:]]),
    ],
)
def test_damage_is_found(exchange, lake, check, change):
    backfill(exchange, lake, select("klines", "BTCUSDT", "1h", "2026-02-08", "2026-02-20"))
    rewrite(lake, HOURS, lambda rows: change([row | {"open_time": row["open_time"].replace(tzinfo=UTC)} for row in rows]))
    errors = [finding for finding in found(lake) if finding[0] == "error"]
    assert [(one[1], one[4]) for one in errors] == [(check, 10 if check == "footer" else 1)]


def test_an_hour_that_its_minutes_contradict(exchange, lake):
    backfill(exchange, lake, select("klines", "BTCUSDT", "1m 1h", "2026-02-08", "2026-02-12"))
    rewrite(lake, HOURS, lambda rows: [row | {"volume": row["volume"] + (index == 53)} for index, row in enumerate(rows)])
    (finding,) = [one for one in verify(opened(lake)).findings if one.check != "no_trade"]
    assert (finding.check, finding.severity, finding.series, finding.times) == ("sums", "warning", HOURS, (AT,))


def test_sums_are_compared_wherever_finer_bars_are(exchange, lake):
    """Minutes since February, hours and days since January: days of January are those of their hours."""
    backfill(exchange, lake, select("klines", "BTCUSDT", "1m 5m", "2026-02-01"))
    backfill(exchange, lake, select("klines", "BTCUSDT", "1h 1d", "2026-01-01"))
    assert [finding for finding in found(lake) if finding[0] != "info"] == []

    def doubled(*days):
        return lambda rows: [row | {"high": row["high"] * (2 if row["open_time"].day in days else 1)} for row in rows]

    rewrite(lake, Series("um", "klines", "BTCUSDT", "1d"), doubled(17))  # of January and of February
    assert [finding[1:] for finding in found(lake) if finding[0] != "info"] == [("sums", "BTCUSDT", "1d", 1)] * 2
    # A minute that cannot be says nothing of its hour, and the other minutes still do.
    rewrite(lake, MINUTES, lambda rows: edited(rows, low=-1.0))
    rewrite(lake, HOURS, doubled(20))
    assert {finding[:2] for finding in found(lake)} >= {("error", "price"), ("warning", "sums")}
    sums = {(interval, count) for _, check, _, interval, count in found(lake) if check == "sums"}
    assert sums == {("1d", 1), ("1d", 2), ("1h", 24)}  # day 20 of January now differs from its hours; day 17 from its own


def test_intervals_of_which_one_does_not_divide_the_other(exchange, lake):
    backfill(exchange, lake, select("klines", "BTCUSDT", "8h 12h 1w 1M", "2026-01-01"))
    assert [finding for finding in found(lake) if finding[0] != "info"] == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda schema: schema.set(0, pa.field("open_time", pa.timestamp("us"))), "open_time timestamp[us]"),
        (lambda schema: schema.set(0, pa.field("open_time", pa.timestamp("ms", "UTC"))), "open_time timestamp[ms, tz=UTC]"),
        (lambda schema: schema.set(8, pa.field("count", pa.int32())), "count int32"),
        (lambda schema: schema.append(pa.field("note", pa.float64())), "note double"),
    ],
)
def test_a_file_with_other_columns_than_those_of_the_format(exchange, lake, change, told):
    backfill(exchange, lake, select("klines", "BTCUSDT", "1h", "2026-02-01"))
    (path,) = opened(lake).paths(HOURS)
    whole = path.read_bytes()
    table = pq.read_table(path, partitioning=None)
    footer = pq.read_metadata(path).metadata[b"etl"]
    schema = change(table.schema)
    columns = [*table.columns, pa.nulls(len(table), pa.float64())][: len(schema)]
    rows = pa.table([column.cast(field.type) for column, field in zip(columns, schema, strict=True)], schema=schema)
    with pq.ParquetWriter(path, schema) as writer:
        writer.write_table(rows)
        writer.add_key_value_metadata({"etl": footer.decode()})
    (finding,) = (finding for finding in verify(opened(lake)).findings if finding.severity == "error")
    assert finding.check == "unreadable"
    assert told in finding.message
    assert mended(settings(exchange, lake)).exit_code == 0
    assert path.read_bytes() == whole


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not a file of ours"])
def test_a_file_that_cannot_be_read(exchange, lake, content):
    backfill(exchange, lake, select("klines", "BTCUSDT ETHUSDT", "1h", "2026-02-08", "2026-02-12"))
    (path,) = opened(lake).paths(HOURS)
    path.write_bytes(content)
    result = verify(opened(lake))
    assert [(f.check, f.severity, f.series) for f in result.findings if f.check != "no_trade"] == [
        ("unreadable", "error", HOURS)
    ]
    assert str(path) in result.findings[0].message
    assert (result.files, result.rows) == (2, 4 * 24)


def test_a_flipped_byte_is_found(exchange, lake):
    backfill(exchange, lake, select("klines", "BTCUSDT", "1h", "2026-02-08", "2026-02-12"))
    (path,) = opened(lake).paths(HOURS)
    body = bytearray(path.read_bytes())
    body[200] ^= 1
    path.write_bytes(body)
    assert [one[:2] for one in found(lake)] == [("error", "unreadable")]
    (finding,) = verify(opened(lake)).findings
    assert iso(finding.span.start) == f"{opened(lake).paths(finding.series)[0].stem}-01-01T00:00:00Z"  # the year of the file


# ---- against a source


def compared(exchange, lake, source):
    store = opened(lake)
    result = compare(verify(store), store, settings(exchange, lake), source, stop=Stop(), chosen=lambda _: True)
    assert result.failed == ()
    return [f for f in result.findings if f.check not in {"no_trade", "outage", "funding_step"}]


@pytest.mark.parametrize("source", ["archive", "rest"])
def test_no_difference_is_found_where_none_is(exchange, lake, source):
    backfill(exchange, lake, select("klines funding", "BTCUSDT", "1h", "2025-11-20", "2026-02-20"))
    before = partitions(lake)
    assert compared(exchange, lake, source) == []
    assert partitions(lake) == before


def test_where_archive_and_rest_disagree(exchange, lake):
    exchange.faults = Faults([], archive=[FLAT])
    exchange.archive._defects = exchange.faults.defects
    at = parse_time(FLAT["time"])
    backfill(exchange, lake, select("klines", "BTCUSDT", "1h", "2026-01-10", "2026-01-20"), source="archive")
    exchange.reset()
    (differs,) = compared(exchange, lake, "rest")
    assert (differs.check, differs.severity, differs.times) == ("differs", "warning", (at,))
    assert pages(exchange) <= 4
    assert compared(exchange, lake, "archive") == []
    exchange.faults = Faults([])
    exchange.archive._defects = exchange.faults.defects
    published, differs = sorted(compared(exchange, lake, "archive"), key=lambda f: f.check, reverse=True)
    assert (published.check, differs.check, differs.times) == ("republished", "differs", (at,))


def test_a_row_that_is_not_as_in_the_file_that_it_comes_from(exchange, lake):
    backfill(exchange, lake, select("klines", "BTCUSDT", "1h", "2026-01-01", "2026-02-20"), source="archive")
    (path,) = opened(lake).paths(HOURS)
    rows = pq.read_table(path, partitioning=None)
    rewrite(lake, HOURS, lambda rows: edited(rows, volume=rows[0]["volume"] + 1.0))
    (finding,) = (one for one in compared(exchange, lake, "archive") if one.severity == "error")
    assert (finding.check, finding.count, finding.span.start) == ("differs", 1, AT)
    assert mended(settings(exchange, lake), against="archive").exit_code == 0
    assert pq.read_table(path, partitioning=None) == rows


def test_rows_that_are_lost_are_seen_by_comparing(exchange, lake):
    backfill(exchange, lake, select("klines", "BTCUSDT", "1h", "2026-02-08", "2026-02-12"))
    rewrite(lake, HOURS, lambda rows: [*rows[:50], *rows[60:]])
    times = tuple(row[0] for row in truth(exchange, HOURS, parse_time("2026-02-08"), parse_time("2026-02-12"))[50:60])
    for source in ("rest", "archive"):
        absent = [f for f in compared(exchange, lake, source) if f.check == "absent"]
        assert absent
        assert {time for f in absent for time in f.times} == set(times)


def test_the_command(exchange, lake):
    backfill(exchange, lake, select("klines", "BTCUSDT", "1m 1h", "2026-02-08", "2026-02-10"))
    urls = {f"ETL_{name}_URL": exchange.url for name in ("UM", "CM", "SPOT", "ARCHIVE", "ARCHIVE_INDEX")}
    clean = {key: value for key, value in os.environ.items() if not key.startswith("ETL_")}

    def etl(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "etl", *arguments, "--lake", str(lake)],
            env={**clean, **urls},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    sound = etl("verify", "--json", "--against", "rest")
    assert (sound.returncode, json.loads(sound.stdout)["rows"]) == (0, 2 * DAY // MINUTE + 2 * DAY // HOUR)
    (path,) = opened(lake).paths(HOURS)
    path.write_bytes(path.read_bytes()[:-7])
    wrong = etl("verify", "klines", "--interval", "1h", "--json")
    assert wrong.returncode == 1
    (finding,) = json.loads(wrong.stdout)["findings"]
    assert {"market", "dataset", "symbol", "interval", "check", "severity", "count", "first", "message"} <= set(finding)
    assert (finding["check"], finding["interval"]) == ("unreadable", "1h")
    table = etl("verify")
    assert table.returncode == 1
    assert "unreadable" in table.stdout
    assert "verify read" in table.stderr
    assert etl("verify", "candles").returncode == 2


def test_what_rest_does_not_list_any_more_is_told_and_not_asked_for(exchange, lake):
    backfill(exchange, lake, select("klines", "SRMUSDT", "1d", "2022-10-01"), source="archive")
    backfill(exchange, lake, select("klines", "BTCUSDT", "1d", "2026-02-01"), source="rest")
    exchange.reset()
    store = opened(lake)
    told = compare(verify(store), store, settings(exchange, lake), "rest", stop=Stop(), chosen=lambda _: True)
    assert told.failed == ()
    assert [(f.severity, f.series.symbol) for f in told.findings if f.check == "unlisted"] == [("info", "SRMUSDT")]
    assert {request.params.get("symbol") for request in exchange.requests if request.page} == {"BTCUSDT"}


def test_a_market_that_cannot_be_asked_fails_alone(exchange, lake, tmp_path):
    """And the document says what the findings and the failures are, and that it is no success."""
    backfill(exchange, lake, select("klines", "BTCUSDT", "1d", "2026-02-01"), source="rest")
    backfill(exchange, lake, select("klines funding", "BTCUSD_PERP", "1d", "2026-02-01", market="cm"), source="rest")
    env = {name: value for name, value in os.environ.items() if not name.startswith("ETL_")}
    urls = {"ETL_UM_URL": exchange.url, "ETL_CM_URL": f"{exchange.url}/nowhere", "ETL_STATE_DIR": str(tmp_path / "state")}
    exchange.reset()
    done = subprocess.run(
        [sys.executable, "-m", "etl", "verify", "--against", "rest", "--json", "--lake", str(lake)],
        env=env | urls,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    told = json.loads(done.stdout)
    assert told["series"] == 3
    assert [(one["market"], one["dataset"], one["symbol"]) for one in told["failed"]] == [
        ("cm", "klines", "BTCUSD_PERP"),
        ("cm", "funding", "BTCUSD_PERP"),
    ]
    assert told["exit_code"] == 3
    assert told["error"]["type"] == "SeriesFailed"
    assert {request.params.get("symbol") for request in exchange.requests if request.page} == {"BTCUSDT"}


def test_errors_that_were_found_are_an_error_of_the_document(exchange, lake, tmp_path):
    backfill(exchange, lake, select("klines", "BTCUSDT", "1d", "2026-02-01"), source="rest")
    (path,) = opened(lake).paths(Series("um", "klines", "BTCUSDT", "1d"))
    path.write_bytes(path.read_bytes()[:-100])
    done = subprocess.run(
        [sys.executable, "-m", "etl", "verify", "--json", "--lake", str(lake)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    told = json.loads(done.stdout)
    errors = [one for one in told["findings"] if one["severity"] == "error"]
    assert errors
    assert (done.returncode, told["exit_code"], told["error"]["type"]) == (1, 1, "EtlError")
    assert str(len(errors)) in told["error"]["message"]
