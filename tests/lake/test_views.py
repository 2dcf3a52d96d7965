"""Views and macros over lakes that are written here, file by file, with what is in them computed by hand."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.errors import LakeError, UsageError
from etl.lake.views import MACROS, catalog_sql, create_views, signature, write_catalog

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
STEPS = {"1m": MINUTE, "1h": HOUR, "8h": 8 * HOUR, "12h": 12 * HOUR, "1d": DAY, "1w": 7 * DAY}

TIME = pa.timestamp("ms")
PRICES = [("open_time", TIME), *((name, pa.float64()) for name in ("open", "high", "low", "close"))]
SCHEMAS = {
    "klines": pa.schema(
        [
            *PRICES,
            ("volume", pa.float64()),
            ("close_time", TIME),
            ("quote_volume", pa.float64()),
            ("count", pa.int64()),
            ("taker_buy_volume", pa.float64()),
            ("taker_buy_quote_volume", pa.float64()),
        ]
    ),
    "mark_klines": pa.schema([*PRICES, ("close_time", TIME)]),
    "funding": pa.schema(
        [("funding_time", TIME), ("funding_rate", pa.float64()), ("mark_price", pa.float64()), ("rate_type", pa.string())]
    ),
}

BAR = {"market": "VARCHAR", "symbol": "VARCHAR", "interval": "VARCHAR", "open_time": "TIMESTAMP"} | dict.fromkeys(
    ("open", "high", "low", "close"), "DOUBLE"
)
KLINES = BAR | {
    "volume": "DOUBLE",
    "close_time": "TIMESTAMP",
    "quote_volume": "DOUBLE",
    "count": "BIGINT",
    "taker_buy_volume": "DOUBLE",
    "taker_buy_quote_volume": "DOUBLE",
}
CONTRACT = {
    "klines": KLINES,
    "mark_klines": BAR | {"close_time": "TIMESTAMP"},
    "index_klines": BAR | {"close_time": "TIMESTAMP"},
    "premium_klines": BAR | {"close_time": "TIMESTAMP"},
    "funding": {
        "market": "VARCHAR",
        "symbol": "VARCHAR",
        "funding_time": "TIMESTAMP",
        "funding_rate": "DOUBLE",
        "mark_price": "DOUBLE",
        "rate_type": "VARCHAR",
    },
    "symbols": dict.fromkeys(("market", "symbol", "base_asset", "quote_asset", "contract_type", "status"), "VARCHAR")
    | dict.fromkeys(("onboard_time", "delivery_time"), "TIMESTAMP")
    | dict.fromkeys(("tick_size", "step_size", "min_qty", "max_qty", "min_price", "min_notional"), "DOUBLE")
    | dict.fromkeys(("first_time", "last_time"), "TIMESTAMP"),
    "ledger": dict.fromkeys(("market", "dataset", "symbol", "interval"), "VARCHAR")
    | {"day": "DATE"}
    | dict.fromkeys(("source", "source_url", "sha256"), "VARCHAR")
    | dict.fromkeys(("rows", "expected", "missing"), "BIGINT")
    | {"verdict": "VARCHAR", "checked_at": "TIMESTAMP"},
    "runs": {"run_id": "VARCHAR", "command": "VARCHAR", "started_at": "TIMESTAMP", "elapsed_s": "DOUBLE"}
    | dict.fromkeys(
        ("rows_written", "partitions_written", "requests", "weight", "bytes_downloaded", "failed", "exit_code"), "BIGINT"
    ),
}


def ms(text: str) -> int:
    """2024-01-01 or 2024-01-01T00:00 as ms UTC."""
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def answer(
    start: str | int, end: str | int, source: str = "rest", checked: str = "2024-06-01", sha256: str | None = None
) -> dict:
    """One entry of coverage."""
    start, end = (ms(time) if isinstance(time, str) else time for time in (start, end))
    url = "/fapi/v1/klines" if source == "rest" else "/data/futures/um/x.zip"
    return {"start": start, "end": end, "source": source, "source_url": url, "sha256": sha256, "checked": ms(checked)}


def write(
    lake: Path,
    dataset: str,
    symbol: str,
    interval: str | None,
    name: str,
    rows: Sequence[tuple] = (),
    coverage: Sequence[dict] = (),
    holes: Sequence[tuple[str, str]] = (),
    market: str = "um",
) -> Path:
    """One file of a lake as docs/format.md says; `rows` in the order of the schema, times in ms."""
    folder = lake / dataset / f"market={market}"
    if interval:
        folder /= f"interval={'1mo' if interval == '1M' else interval}"
    folder /= f"symbol={quote(symbol, safe='')}"
    folder.mkdir(parents=True, exist_ok=True)
    about = {"format": 1, "market": market, "dataset": dataset, "symbol": symbol, "interval": interval}
    about |= {"coverage": list(coverage), "holes": [[ms(start), ms(end)] for start, end in holes]}
    schema = SCHEMAS[dataset]
    table = pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema=schema)
    with pq.ParquetWriter(folder / f"{name}.parquet", schema, store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"etl": json.dumps(about, ensure_ascii=False)})
    return folder / f"{name}.parquet"


def bar(time: str | int, step: int, price: float = 1.0, volume: float = 10.0) -> tuple:
    """A bar that opens and closes at `price`, one above and one below."""
    time = ms(time) if isinstance(time, str) else time
    return (
        time,
        price,
        price + 1,
        price - 1,
        price,
        volume,
        time + step - 1,
        volume * price,
        3,
        volume / 2,
        volume * price / 2,
    )


def minutes(start: str, count: int, first_price: float = 100.0) -> list[tuple]:
    return [bar(ms(start) + i * MINUTE, MINUTE, first_price + i) for i in range(count)]


def settlement(time: str | int, rate: float, kind: str | None = None) -> tuple:
    return (ms(time) if isinstance(time, str) else time, rate, None, kind)


def write_symbols(lake: Path, *rows: dict, market: str = "um") -> None:
    columns = {
        name: {"VARCHAR": pa.string(), "TIMESTAMP": TIME, "DOUBLE": pa.float64()}[kind]
        for name, kind in CONTRACT["symbols"].items()
    }
    del columns["market"]
    folder = lake / "symbols" / f"market={market}"
    folder.mkdir(parents=True)
    pq.write_table(
        pa.Table.from_pylist(list(rows), schema=pa.schema(list(columns.items()))),
        folder / "symbols.parquet",
        store_schema=False,
    )


def write_run(lake: Path, **record: object) -> None:
    (lake / "runs").mkdir(exist_ok=True)
    with (lake / "runs" / "2024-01.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    folder = tmp_path / "lake"
    folder.mkdir()
    return folder


@pytest.fixture
def sql(lake: Path):
    """Ask a plain connection, as any DuckDB client would have it; it follows a lake that grows."""
    with duckdb.connect() as connection:
        made = None

        def ask(query: str, parameters: Sequence[object] = ()) -> list[tuple]:
            nonlocal made
            if made != (made := catalog_sql(lake)):
                create_views(connection, made, lake)
            return connection.execute(query, list(parameters)).fetchall()

        yield ask


def fill(lake: Path) -> None:
    """A lake with something in every view."""
    day = [answer("2024-01-01", "2024-01-02")]
    write(lake, "klines", "BTCUSDT", "1m", "2024", minutes("2024-01-01", 1440), day)
    for dataset in ("mark_klines", "index_klines", "premium_klines"):
        SCHEMAS[dataset] = SCHEMAS["mark_klines"]
        write(lake, dataset, "BTCUSDT", "1h", "2024", [(ms("2024-01-01"), 1.0, 2.0, 0.5, 1.5, ms("2024-01-01T01:00") - 1)], day)
    write(lake, "funding", "BTCUSDT", None, "2024", [settlement("2024-01-01T08:00", 0.0001)], day)
    write_symbols(lake, {"symbol": "BTCUSDT", "status": "TRADING", "onboard_time": ms("2019-09-08")})
    write_run(lake, run_id="a", command="backfill", started_at="2024-01-02T00:00:00.500Z", elapsed_s=1.5, failed=0, exit_code=0)


@pytest.mark.parametrize("filled", [False, True])
def test_every_view_has_the_columns_of_the_contract(lake, sql, filled):
    if filled:
        fill(lake)
    for view, columns in CONTRACT.items():
        assert [(name, kind) for name, kind, *_ in sql(f"DESCRIBE {view}")] == list(columns.items()), view
        assert bool(sql(f"FROM {view} LIMIT 1")) is filled, view


def test_macros_have_the_columns_of_the_contract(lake, sql):
    fill(lake)
    macros = {
        "bars('BTCUSDT', '1m')": KLINES,
        "resample('BTCUSDT', '1m', '1h')": KLINES | {"bars": "BIGINT", "bars_expected": "BIGINT"},
        "bars_with_funding('BTCUSDT', '1m')": KLINES | {"funding_time": "TIMESTAMP", "funding_rate": "DOUBLE"},
        "gaps('BTCUSDT', '1m')": {"gap_start": "TIMESTAMP", "gap_end": "TIMESTAMP", "missing": "BIGINT", "verdict": "VARCHAR"},
        "universe('2024-01-01')": CONTRACT["symbols"],
    }
    for macro, columns in macros.items():
        assert [(name, kind) for name, kind, *_ in sql(f"DESCRIBE FROM {macro}")] == list(columns.items()), macro
        assert MACROS[macro.partition("(")[0]] == columns
    assert signature("universe") == """universe("at", market := 'um')"""
    assert {signature(macro).partition("(")[0] for macro in MACROS} == set(MACROS)


def test_a_run_is_a_row(lake, sql):
    write_run(
        lake,
        run_id="a",
        command="backfill klines",
        started_at="2024-03-10T02:30:00.250Z",
        elapsed_s=2.5,
        rows_written=7,
        later="x",
    )
    write_run(lake, run_id="b", command="update", started_at="2024-03-11T00:00:00Z", elapsed_s=1, failed=2, exit_code=3)
    assert sql("SELECT run_id, started_at, elapsed_s, rows_written, failed, exit_code FROM runs ORDER BY started_at") == [
        ("a", at("2024-03-10T02:30:00.250"), 2.5, 7, None, None),
        ("b", at("2024-03-11"), 1.0, None, 2, 3),
    ]


# Names and paths


@pytest.mark.parametrize(
    "name", ["plain", "quo'te", "we[ird]", "st*r", "wh?t", "dollar $here $$", "new\nline", "ümläut 币", "a=b", "%41"]
)
def test_a_lake_may_lie_anywhere(tmp_path, name):
    lake, other = tmp_path / name, tmp_path / "star"
    for folder, price in ((other, 1.0), (tmp_path / "what", 1.0), (lake, 7.0)):
        folder.mkdir()
        write(
            folder, "klines", "BTCUSDT", "1m", "2024", [bar("2024-01-01", MINUTE, price)], [answer("2024-01-01", "2024-01-02")]
        )
    write_run(lake, run_id="a")
    with duckdb.connect() as connection:
        create_views(connection, catalog_sql(lake), lake)
        for rows in ("klines", "bars('BTCUSDT', '1m')", "bars_with_funding('BTCUSDT', '1m')"):
            assert connection.execute(f"SELECT symbol, close FROM {rows}").fetchall() == [("BTCUSDT", 7.0)]
        assert connection.execute("SELECT count(*) FROM ledger").fetchone() == (1,)
        assert connection.execute("SELECT run_id FROM runs").fetchone() == ("a",)
    assert write_catalog(lake)


@pytest.mark.parametrize("name", ["back\\slash", "symbol=BTCUSDT", "market=um"])
def test_a_path_that_duckdb_would_misread_is_refused(tmp_path, name):
    lake = tmp_path / name / "lake"
    lake.mkdir(parents=True)
    with pytest.raises(UsageError, match="cannot lie at"):
        catalog_sql(lake)


@pytest.mark.parametrize("symbol", ["币安人生USDT", "A%41", "o'x y/z", "1000SHIBUSDT", "BTCUSDT_240329", "..a", "&=?#", "[A]*"])
def test_symbols_come_back_as_they_are(lake, sql, symbol):
    write(lake, "klines", symbol, "1m", "2024", minutes("2024-01-01", 2), [answer("2024-01-01", "2024-01-01T00:02")])
    write(lake, "funding", symbol, None, "2024", [settlement("2024-01-01", 0.5)], [answer("2024-01-01", "2024-01-02")])
    assert sql("SELECT DISTINCT symbol FROM klines") == [(symbol,)]
    assert sql("SELECT count(*) FROM klines WHERE symbol = ?", [symbol]) == [(2,)]
    assert sql("SELECT symbol, count(*), max(funding_rate) FROM bars_with_funding(?, '1m') GROUP BY ALL", [symbol]) == [
        (symbol, 2, 0.5)
    ]
    assert sql("SELECT DISTINCT symbol FROM ledger") == [(symbol,)]


def test_the_month_is_called_1M(lake, sql):  # noqa: N802 - its name
    write(lake, "klines", "BTCUSDT", "1M", "2024", [bar("2024-02-01", 29 * DAY, 5.0)], [answer("2024-02-01", "2024-03-01")])
    write(lake, "klines", "BTCUSDT", "1m", "2024", minutes("2024-02-01", 1), [answer("2024-02-01", "2024-02-01T00:01")])
    assert sql("SELECT interval, close FROM klines WHERE interval = '1M'") == [("1M", 5.0)]
    assert sql("SELECT interval, close FROM bars('BTCUSDT', '1M')") == [("1M", 5.0)]
    assert sql("SELECT interval, expected, verdict FROM ledger ORDER BY ALL") == [("1M", 1, "complete"), ("1m", 1, "partial")]


def test_a_filter_on_the_names_opens_only_the_files_of_the_series(lake, sql):
    for market, interval, symbol in [(m, i, s) for m in ("cm", "um") for i in ("1h", "1mo") for s in ("A", "B", "C")]:
        for year in ("2023", "2024"):
            name = "1M" if interval == "1mo" else interval
            path = write(lake, "klines", symbol, name, year, [bar(f"{year}-01-01", HOUR)], market=market)
            if (market, interval, symbol) not in {
                ("um", "1mo", "B"),
                ("cm", "1h", "A"),
            }:  # what is asked for, and the first one of all
                path.write_bytes(b"cannot be opened")
    assert sql("SELECT count(*) FROM klines WHERE market = 'um' AND interval = '1M' AND symbol = 'B'") == [(2,)]
    assert sql("SELECT count(*) FROM bars('B', '1M')") == [(2,)]
    with pytest.raises(duckdb.Error):
        sql("SELECT count(close) FROM klines WHERE market = 'um' AND interval = '1M'")


def test_arguments_may_be_bound_or_named(lake, sql):
    write(lake, "klines", "BTCUSDT", "1m", "2024", minutes("2024-01-01", 3))
    write(lake, "klines", "BTCUSD_PERP", "1m", "2024", minutes("2024-01-01", 4), market="cm")
    assert sql("SELECT count(*) FROM bars(?, ?)", ["BTCUSDT", "1m"]) == [(3,)]
    assert sql("SELECT market, count(*) FROM bars('BTCUSD_PERP', '1m', market := 'cm') GROUP BY ALL") == [("cm", 4)]
    assert sql("SELECT bars FROM resample(?, ?, ?, market := ?)", ["BTCUSD_PERP", "1m", "3m", "cm"]) == [(3,)]


@pytest.mark.parametrize(
    "call", ["bars('NOSUCH', '1m')", "bars('BTCUSDT', '*')", "bars('../symbol=BTCUSDT', '1m')", "gaps('NOSUCH', '1m')"]
)
def test_an_unknown_series_is_an_error_that_names_it(lake, sql, call):
    write(lake, "klines", "BTCUSDT", "1m", "2024", minutes("2024-01-01", 3))
    with pytest.raises(duckdb.IOException, match=r"No files found that match the pattern .*/klines/market=um/interval="):
        sql(f"FROM {call}")


# resample


def test_resample_by_hand(lake, sql):
    step = MINUTE
    start = ms("2024-01-01T00:02")
    rows = [  # time, open, high, low, close, volume, close time, quote volume, count, taker volume, taker quote volume
        (start, 1.0, 9.0, 0.5, 2.0, 1.0, start + step - 1, 10.0, 1, 0.25, 2.5),
        (start + step, 3.0, 4.0, 2.0, 3.5, 2.0, start + 2 * step - 1, 20.0, 2, 0.5, 5.0),
        (start + 3 * step, 5.0, 6.0, 0.25, 5.5, 4.0, start + 4 * step - 1, 40.0, 4, 1.0, 10.0),
        (start + 4 * step, 7.0, 7.5, 6.5, 7.0, 8.0, start + 5 * step - 1, 80.0, 8, 2.0, 20.0),
    ]
    write(lake, "klines", "X", "1m", "2024", rows)
    # 00:00 holds 00:02 alone; 00:03 holds 00:03 and 00:05; 00:06 is not over: the last bar closes at 00:07.
    assert sql("SELECT * EXCLUDE (market, symbol, interval) FROM resample('X', '1m', '3m')") == [
        (at("2024-01-01T00:00"), 1.0, 9.0, 0.5, 2.0, 1.0, at("2024-01-01T00:02:59.999"), 10.0, 1, 0.25, 2.5, 1, 3),
        (at("2024-01-01T00:03"), 3.0, 6.0, 0.25, 5.5, 6.0, at("2024-01-01T00:05:59.999"), 60.0, 6, 1.5, 15.0, 2, 3),
    ]
    assert sql("SELECT DISTINCT market, symbol, interval FROM resample('X', '1m', '3m')") == [("um", "X", "3m")]


@pytest.mark.parametrize(
    ("target", "buckets"),
    [
        ("3d", [("2024-01-31", 2, 3), ("2024-02-03", 3, 3), ("2024-02-06", 3, 3), ("2024-02-09", 3, 3)]),
        ("1w", [("2024-01-29", 4, 7), ("2024-02-05", 7, 7)]),
    ],
)
def test_days_fill_the_grids_of_the_exchange(lake, sql, target, buckets):
    # 2024-02-01 was a Thursday; 2026-07-07 and -10 open 3d bars (binance-facts 3), so 2024-02-03 does: 885 days before.
    write(lake, "klines", "X", "1d", "2024", [bar(ms("2024-02-01") + i * DAY, DAY) for i in range(12)])
    found = sql(f"SELECT open_time, bars, bars_expected FROM resample('X', '1d', '{target}')")
    assert found == [(at(day), count, expected) for day, count, expected in buckets]


def test_months_are_calendar_months(lake, sql):
    write(
        lake, "klines", "X", "12h", "2024", [bar(ms("2024-01-31") + i * 12 * HOUR, 12 * HOUR) for i in range(2 + 58 + 62 - 1)]
    )
    # January has its last day only, leap February all of it; the last bar of March is absent.
    assert sql("SELECT open_time, close_time, bars, bars_expected FROM resample('X', '12h', '1M')") == [
        (at("2024-01-01"), at("2024-01-31T23:59:59.999"), 2, 62),
        (at("2024-02-01"), at("2024-02-29T23:59:59.999"), 58, 58),
    ]


@pytest.mark.parametrize(
    ("interval", "target"),
    [("1h", "1m"), ("1h", "1h"), ("8h", "12h"), ("1m", "7m"), ("1w", "1M"), ("1w", "3d"), ("1M", "1w"), ("1d", "")],
)
def test_a_target_that_bars_do_not_fill_is_refused(lake, sql, interval, target):
    write(lake, "klines", "X", interval, "2024", [bar("2024-01-01", DAY)])
    with pytest.raises(
        duckdb.InvalidInputException, match=f"bars of {interval} do not fill bars of {target}; to_interval must be"
    ):
        sql("FROM resample('X', ?, ?)", [interval, target])


RULES = {"3m": "3min", "1h": "1h", "1d": "1D", "1w": "W-MON", "1M": "MS"}


@settings(max_examples=10)
@given(
    target=st.sampled_from(sorted(RULES)),
    opens=st.lists(st.integers(0, 100 * 24 * 60), min_size=1, max_size=60, unique=True),
    values=st.lists(st.integers(1, 10**6), min_size=60, max_size=60),
)
def test_resample_equals_pandas(tmp_path_factory, target, opens, values):
    lake = tmp_path_factory.mktemp("lake")
    opens = sorted(opens)
    rows = [bar(ms("2023-12-01") + minute * MINUTE, MINUTE, float(value)) for minute, value in zip(opens, values, strict=False)]
    for year in ("2023", "2024"):
        write(lake, "klines", "X", "1m", year, [row for row in rows if (row[0] >= ms("2024-01-01")) is (year == "2024")])
    frame = pd.DataFrame(rows, columns=SCHEMAS["klines"].names).set_index("open_time")
    frame.index = pd.to_datetime(frame.index, unit="ms")
    rules = {
        "open": "first",
        "high": "max",
        "low": "min",
        "close": "last",
        "volume": "sum",
        "count": "sum",
        "quote_volume": "sum",
    }
    expected = frame.resample(RULES[target], label="left", closed="left").agg(rules).dropna()
    ends = expected.index.shift(1, freq=RULES[target])
    expected = expected[ends <= frame.index[-1] + timedelta(minutes=1)]
    with duckdb.connect() as connection:
        create_views(connection, catalog_sql(lake), lake)
        found = connection.execute(f"SELECT open_time, {', '.join(rules)} FROM resample('X', '1m', '{target}')").fetchall()
    assert found == [
        (time.to_pydatetime(), *map(float, row)) for time, row in zip(expected.index, expected.to_numpy(), strict=True)
    ]


# bars_with_funding


def test_a_bar_knows_no_later_funding(lake, sql):
    write(
        lake,
        "klines",
        "X",
        "1m",
        "2024",
        [bar(time, MINUTE) for time in ("2024-01-01T07:58", "2024-01-01T07:59", "2024-01-01T08:00", "2024-01-01T08:01")],
    )
    eight = ms("2024-01-01T08:00")
    rows = [
        settlement("2024-01-01T00:00", 0.1),
        settlement(eight - 60_001, 0.2, "Regular"),  # the millisecond at which the bar of 07:58 closes
        settlement(eight, 9.9, "Special"),
        settlement(eight + 7, 0.3, "Regular"),
        settlement(eight + 60_000 + 59_999, 0.4),
        settlement(eight + 60_000 + 60_000, 0.5),
    ]
    write(lake, "funding", "X", None, "2024", rows)
    write(lake, "funding", "Y", None, "2024", [settlement(eight - 1, 7.7)])
    write(lake, "funding", "X", None, "2024", [settlement(eight - 1, 8.8)], market="cm")
    assert sql("SELECT open_time, funding_time, funding_rate FROM bars_with_funding('X', '1m')") == [
        (at("2024-01-01T07:58"), at("2024-01-01T07:58:59.999"), 0.2),
        (at("2024-01-01T07:59"), at("2024-01-01T07:58:59.999"), 0.2),  # 08:00:00.007 is after 07:59:59.999
        (at("2024-01-01T08:00"), at("2024-01-01T08:00:00.007"), 0.3),
        (at("2024-01-01T08:01"), at("2024-01-01T08:01:59.999"), 0.4),
    ]


def test_bars_before_the_first_settlement_have_none(lake, sql):
    write(lake, "klines", "X", "1m", "2024", minutes("2024-01-01", 1))
    query = "SELECT open_time, funding_time, funding_rate FROM bars_with_funding('X', '1m')"
    alone = [(at("2024-01-01"), None, None)]
    assert sql(query) == alone  # no funding in the lake at all
    write(lake, "funding", "Y", None, "2024", [settlement("2023-01-01", 1.0)])
    assert sql(query) == alone  # none of this symbol
    write(lake, "funding", "X", None, "2024", [settlement("2024-01-01T00:01", 1.0)])
    assert sql(query) == alone  # none yet


@pytest.mark.parametrize("rows_of_first_file", [0, 1])
def test_funding_is_joined_without_nested_loops(lake, sql, rows_of_first_file):
    write(lake, "klines", "X", "1m", "2023", minutes("2023-12-31", rows_of_first_file))
    write(lake, "klines", "X", "1m", "2024", minutes("2024-01-01", 5000))
    write(lake, "funding", "X", None, "2024", [settlement(ms("2024-01-01") + i * HOUR, 0.1) for i in range(80)])
    for where in ("", "WHERE open_time >= '2024-01-02' AND open_time < '2024-01-03'"):
        plan = sql(f"EXPLAIN SELECT * FROM bars_with_funding('X', '1m') {where}")[0][1].upper()
        assert "ASOF" in plan
        assert "NESTED" not in plan


# gaps and universe


def test_gaps_by_hand(lake, sql):
    times = (
        ["2023-12-31T23:57", "2023-12-31T23:58"],
        ["2024-01-01T00:02", "2024-01-01T00:03", "2024-01-01T00:05", "2024-01-01T00:09"],
    )
    for name, opens, coverage, holes in [
        ("2023", times[0], [answer(0, "2024-01-01")], [("2023-12-31T23:59", "2024-01-01")]),
        (
            "2024",
            times[1],
            [
                answer("2024-01-01", "2024-01-01T00:06"),
                answer("2024-01-01T00:08", "2024-01-01T00:12"),
                answer("2024-01-01", "2024-01-01T00:05", "archive"),
            ],
            [
                ("2024-01-01", "2024-01-01T00:02"),
                ("2024-01-01T00:04", "2024-01-01T00:05"),
                ("2024-01-01T00:08", "2024-01-01T00:09"),
                ("2024-01-01T00:10", "2024-01-01T00:12"),
            ],
        ),
    ]:
        write(lake, "klines", "X", "1m", name, [bar(time, MINUTE) for time in opens], coverage, holes)
    assert sql("FROM gaps('X', '1m')") == [
        (at("2023-12-31T23:59"), at("2024-01-01T00:02"), 3, "missing"),  # across two files, half of it asked of both
        (at("2024-01-01T00:04"), at("2024-01-01T00:05"), 1, "outage"),  # both sources were asked
        (at("2024-01-01T00:06"), at("2024-01-01T00:09"), 3, None),  # 00:06 and 00:07 were never asked for
        (at("2024-01-01T00:10"), at("2024-01-01T00:12"), 2, "missing"),  # after the last bar
    ]


def test_what_two_files_say_twice_is_no_answer_for_the_rest(lake, sql):
    """A file may say what was answered with nothing before its time, and an older file may come later and say it, too."""
    quarter = ("2023-01-01T00:01", "2023-01-01T00:05")
    for name, opens in (("2023", ["2023-01-01", "2023-01-01T00:05"]), ("2024", ["2024-01-01"])):
        coverage = [answer("2023-01-01", "2023-01-01T00:03"), answer("2023-01-01", "2023-01-01T00:03", "archive")]
        holes = [quarter] if name == "2023" else []
        write(lake, "klines", "X", "1m", name, [bar(time, MINUTE) for time in opens], coverage, holes)
    found = sql("SELECT missing, verdict FROM gaps('X', '1m') ORDER BY gap_start LIMIT 1")
    assert found == [(4, "missing")]  # two of four minutes were asked for, by both files


def test_gaps_of_months_and_of_nothing(lake, sql):
    write(
        lake,
        "klines",
        "X",
        "1M",
        "2024",
        [bar(day, DAY) for day in ("2024-01-01", "2024-02-01", "2024-05-01")],
        [answer("2024-01-01", "2024-06-01")],
        [("2024-03-01", "2024-05-01")],
    )
    write(lake, "klines", "Y", "1m", "2024", [], [answer("2024-01-01", "2024-02-01")])
    assert sql("FROM gaps('X', '1M')") == [(at("2024-03-01"), at("2024-05-01"), 2, "missing")]
    assert sql("FROM gaps('Y', '1m')") == []


def test_universe_of_a_day(lake, sql):
    lives = {
        "ALIVE": {"first_time": ms("2020-01-01"), "onboard_time": ms("2019-12-31")},
        "ENDED": {"first_time": ms("2020-01-01"), "last_time": ms("2023-06-30T23:59")},
        "LISTED": {"onboard_time": ms("2023-06-30"), "delivery_time": ms("2023-09-29T08:00")},
        "UNKNOWN": {},  # it may not have begun
    }
    write_symbols(lake, *({"symbol": symbol, **life} for symbol, life in lives.items()))
    write_symbols(lake, {"symbol": "COIN", "first_time": ms("2020-01-01")}, market="cm")
    expected = {
        "2019-12-31": set(),
        "2020-01-01": {"ALIVE", "ENDED"},
        "2023-06-30 12:00": {"ALIVE", "ENDED", "LISTED"},
        "2023-07-01": {"ALIVE", "LISTED"},
        "2024-01-01": {"ALIVE"},
    }
    for day, symbols in expected.items():
        assert {symbol for (symbol,) in sql(f"SELECT symbol FROM universe('{day}')")} == symbols, day
    assert sql("SELECT market, symbol FROM universe(TIMESTAMP '2024-01-01', market := 'cm')") == [("cm", "COIN")]
    assert [symbol for (symbol,) in sql("SELECT symbol FROM universe(?)", [at("2024-01-01")])] == ["ALIVE"]


# ledger

LEDGER = "SELECT day, rows, expected, missing, verdict FROM ledger"


def test_ledger_of_bars_by_hand(lake, sql):
    first = "2024-01-02T06:00"
    write(lake, "klines", "X", "1h", "2023", [], [answer("2023-12-30T12:00", "2024-01-01")])
    absent = {ms("2024-01-04T05:00"), ms("2024-01-05T03:00"), ms("2024-01-05T04:00")}
    opens = [time for time in range(ms(first), ms("2024-01-06T10:00"), HOUR) if time not in absent]
    write(
        lake,
        "klines",
        "X",
        "1h",
        "2024",
        [bar(time, HOUR) for time in opens],
        [answer(0, "2024-01-06T10:00"), answer("2024-01-05", "2024-01-06", "archive", "2024-06-02", "abc")],
        [("2024-01-04T05:00", "2024-01-04T06:00"), ("2024-01-05T03:00", "2024-01-05T05:00")],
    )
    assert sql(f"{LEDGER} ORDER BY day") == [
        (date(2023, 12, 30), 0, 0, 0, "not_listed"),
        (date(2023, 12, 31), 0, 0, 0, "not_listed"),
        (date(2024, 1, 1), 0, 0, 0, "not_listed"),  # coverage from 0 on makes no days before the file's own period
        (date(2024, 1, 2), 18, 18, 0, "partial"),  # the series begins
        (date(2024, 1, 3), 24, 24, 0, "complete"),
        (date(2024, 1, 4), 23, 24, 1, "missing"),
        (date(2024, 1, 5), 22, 24, 2, "outage"),  # the archive was asked too
        (date(2024, 1, 6), 10, 10, 0, "partial"),  # not over
    ]
    assert sql("SELECT DISTINCT market, dataset, symbol, interval FROM ledger") == [("um", "klines", "X", "1h")]
    assert sql("SELECT source, source_url, sha256, checked_at FROM ledger WHERE day = '2024-01-04'") == [
        ("rest", "/fapi/v1/klines", None, at("2024-06-01"))
    ]
    assert sql("SELECT sum(rows) FROM ledger") == sql("SELECT count(*) FROM klines")


def test_ledger_names_the_answer_that_covers_most_of_the_day(lake, sql):
    rows = [bar(ms("2024-01-01") + i * HOUR, HOUR) for i in range(24)]
    parts = [
        answer("2024-01-01", "2024-01-01T20:00", "archive", "2024-01-03", "abc"),
        answer("2024-01-01T20:00", "2024-01-02", "rest", "2024-01-02"),
    ]
    write(lake, "klines", "X", "1h", "2024", rows, parts)
    assert sql("SELECT source, sha256, expected, verdict, checked_at FROM ledger") == [
        ("archive", "abc", 24, "complete", at("2024-01-03"))
    ]


def test_ledger_of_a_series_whose_middle_was_not_asked(lake, sql):
    coverage = [
        answer("2024-01-01", "2024-01-01T12:00"),
        answer("2024-01-01T18:00", "2024-01-02"),
        answer("2024-01-04", "2024-01-05"),
    ]
    opens = [
        *range(ms("2024-01-01"), ms("2024-01-01T12:00"), HOUR),
        *range(ms("2024-01-01T18:00"), ms("2024-01-02"), HOUR),
        *range(ms("2024-01-04"), ms("2024-01-05"), HOUR),
    ]
    write(lake, "klines", "X", "1h", "2024", [bar(time, HOUR) for time in opens], coverage)
    assert sql(f"{LEDGER} ORDER BY day") == [
        (date(2024, 1, 1), 18, 18, 0, "partial"),
        (date(2024, 1, 4), 24, 24, 0, "complete"),
    ]


def test_ledger_of_a_file_without_rows_after_the_first_bar(lake, sql):
    write(lake, "klines", "X", "12h", "2024", [], [answer("2024-01-01", "2024-01-02")], [("2024-01-01", "2024-01-02")])
    assert sql(LEDGER) == [(date(2024, 1, 1), 0, 2, 2, "missing")]


def test_ledger_of_days_weeks_and_months_goes_by_the_month(lake, sql):
    january = [answer("2024-01-01", "2024-02-11")]
    write(
        lake,
        "klines",
        "D",
        "1d",
        "2024",
        [bar(ms("2024-01-01") + i * DAY, DAY) for i in range(41) if i != 3],
        january,
        [("2024-01-04", "2024-01-05")],
    )
    write(lake, "klines", "W", "1w", "2024", [bar(ms("2024-01-01") + i * 7 * DAY, 7 * DAY) for i in range(6)], january)
    write(lake, "klines", "M", "1M", "2024", [bar("2024-01-01", 31 * DAY)], [answer("2024-01-01", "2024-02-01")])
    assert sql(f"{LEDGER.replace('SELECT', 'SELECT symbol,')} ORDER BY symbol, day") == [
        ("D", date(2024, 1, 1), 30, 31, 1, "missing"),
        ("D", date(2024, 2, 1), 10, 10, 0, "partial"),
        ("M", date(2024, 1, 1), 1, 1, 0, "complete"),
        ("W", date(2024, 1, 1), 5, 5, 0, "complete"),  # Mondays 1, 8, 15, 22, 29
        ("W", date(2024, 2, 1), 1, 1, 0, "partial"),  # Monday 5
    ]


def test_ledger_of_funding_counts_its_rows(lake, sql):
    write(lake, "funding", "X", None, "2023", [], [answer("2023-12-31", "2024-01-01")])
    times = ["2024-01-01T08:00", "2024-01-01T16:00:00.005", "2024-01-02", "2024-01-02T00:00:00.001", "2024-01-04T08:00"]
    write(
        lake,
        "funding",
        "X",
        None,
        "2024",
        [settlement(time, 0.1) for time in times],
        [answer("2024-01-01", "2024-01-04T12:00")],
    )
    assert sql(f"{LEDGER} ORDER BY day") == [
        (date(2023, 12, 31), 0, None, None, "not_listed"),
        (date(2024, 1, 1), 2, None, None, "partial"),  # begins at 08:00
        (date(2024, 1, 2), 2, None, None, "complete"),
        (date(2024, 1, 3), 0, None, None, "missing"),  # no contract settles less often than once a day
        (date(2024, 1, 4), 1, None, None, "partial"),
    ]
    assert sql("SELECT DISTINCT dataset, interval FROM ledger") == [("funding", None)]


@pytest.mark.parametrize(
    ("asked", "times", "expected"),
    [
        # Less than a day without a settlement is no sign of anything: they are up to eight hours apart.
        ("2024-01-01T20:21/2024-01-02T12:00", ["2024-01-02", "2024-01-02T08:00"], ["partial", "partial"]),
        ("2024-01-01T09:00/2024-01-01T13:00", [], ["partial"]),
        ("2024-01-01T09:00/2024-01-01T13:00 2024-01-09/2024-01-10", ["2024-01-09T08:00"], ["partial", "partial"]),
        ("2024-01-01/2024-01-02 2024-01-05T01:00/2024-01-05T07:00", ["2024-01-01T08:00"], ["partial", "partial"]),
        ("2024-01-01/2024-01-02 2024-01-05T01:00/2024-01-06T02:00", ["2024-01-01"], ["complete", "not_listed", "not_listed"]),
        # A day and more, before the first or after the last one.
        ("2024-01-01T18:00/2024-01-03T12:00", ["2024-01-03"], ["not_listed", "not_listed", "partial"]),
        ("2024-01-01/2024-01-02", [], ["not_listed"]),
        ("2024-01-01/2024-01-03T12:00", ["2024-01-01T00:00"], ["complete", "not_listed", "not_listed"]),
    ],
)
def test_ledger_of_less_than_a_day_without_settlements(lake, sql, asked, times, expected):
    parts = [answer(*part.split("/")) for part in asked.split()]
    write(lake, "funding", "X", None, "2024", [settlement(time, 0.1) for time in times], parts)
    assert [verdict for (verdict,) in sql("SELECT verdict FROM ledger ORDER BY day")] == expected


@pytest.mark.parametrize(
    ("contract", "sources", "expected"),
    [
        ({"status": "TRADING", "onboard_time": ms("2023-05-05")}, "rest", ["complete", "missing", "missing"]),
        ({"status": "TRADING", "onboard_time": ms("2023-05-05")}, "rest archive", ["complete", "outage", "outage"]),
        ({"status": "TRADING", "onboard_time": ms("2024-03-01")}, "rest", ["complete", "not_listed", "not_listed"]),
        ({"status": "SETTLING", "onboard_time": ms("2023-05-05")}, "rest", ["complete", "not_listed", "not_listed"]),
    ],
)
def test_a_contract_that_trades_goes_on_after_its_last_settlement(lake, sql, contract, sources, expected):
    write_symbols(lake, {"symbol": "X", **contract})
    answers = [answer("2024-01-01", "2024-01-04", source) for source in sources.split()]
    write(
        lake, "funding", "X", None, "2024", [settlement(f"2024-01-01T{hour}:00", 0.1) for hour in ("00", "08", "16")], answers
    )
    assert [verdict for (verdict,) in sql("SELECT verdict FROM ledger ORDER BY day")] == expected


def test_ledger_of_month_files(lake, sql):
    write(
        lake,
        "klines",
        "X",
        "12h",
        "2024-01",
        [bar(ms("2024-01-31") + i * 12 * HOUR, 12 * HOUR) for i in range(2)],
        [answer(0, "2024-02-01")],
    )
    write(lake, "klines", "X", "12h", "2024-02", [bar(ms("2024-02-01"), 12 * HOUR)], [answer("2024-02-01", "2024-02-01T12:00")])
    found = sql(f"{LEDGER} WHERE day >= '2024-01-30' ORDER BY day")
    assert found == [
        (date(2024, 1, 30), 0, 0, 0, "not_listed"),
        (date(2024, 1, 31), 2, 2, 0, "complete"),
        (date(2024, 2, 1), 1, 1, 0, "partial"),
    ]
    assert sql("SELECT count(*) FROM ledger") == [(32,)]


@settings(max_examples=12)
@given(first=st.integers(0, 60), end=st.integers(1, 96), absent=st.sets(st.integers(0, 95), max_size=20))
def test_ledger_rows_are_the_stored_rows(tmp_path_factory, first, end, absent):
    """Hours over four days at the turn of a year, with any of them absent: counted from the footers as from the content."""
    lake = tmp_path_factory.mktemp("lake")
    start = ms("2023-12-30")
    stored = [hour for hour in range(first, end) if hour not in absent]
    for name, low, high in (("2023", 0, 48), ("2024", 48, 96)):
        hours = [hour for hour in stored if low <= hour < high]
        holes = [hour for hour in range(max(low, min(stored, default=96)), min(high, end)) if hour not in stored]
        covered = [answer(start + low * HOUR, start + min(high, end) * HOUR)] if low < end else []
        path = [
            f"{datetime.fromtimestamp((start + (hour + i) * HOUR) / 1000, UTC):%Y-%m-%dT%H:%M}"
            for hour in holes
            for i in (0, 1)
        ]
        write(
            lake,
            "klines",
            "X",
            "1h",
            name,
            [bar(start + hour * HOUR, HOUR) for hour in hours],
            covered,
            list(zip(path[::2], path[1::2], strict=True)),
        )
    expected: dict[date, int] = {}
    for hour in range(end):
        day = datetime.fromtimestamp((start + hour * HOUR) / 1000, UTC).date()
        expected[day] = expected.get(day, 0) + (hour in stored)
    with duckdb.connect() as connection:
        create_views(connection, catalog_sql(lake), lake)
        assert dict(connection.execute("SELECT day, rows FROM ledger").fetchall()) == expected
        assert connection.execute("SELECT bool_and(rows + missing = expected) FROM ledger").fetchone() == (True,)


# The catalog


CLIENT = """
import sys, duckdb
con = duckdb.connect(sys.argv[1], read_only=True)
print([con.execute(query).fetchall() for query in sys.argv[2:]])
"""


def ask(database: Path, *queries: str, zone: str = "UTC") -> str:
    """What a DuckDB client in another folder sees."""
    command = [sys.executable, "-c", CLIENT, str(database), *queries]
    done = subprocess.run(command, cwd="/", env=os.environ | {"TZ": zone}, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_catalog_is_read_from_anywhere_and_replaced_only_when_needed(lake):
    fill(lake)
    assert write_catalog(lake)
    before = (lake / "catalog.duckdb").stat()
    assert not write_catalog(lake)
    assert (lake / "catalog.duckdb").stat() == before
    assert (lake / "catalog.sql").read_text() == catalog_sql(lake)
    assert list((lake / ".tmp").iterdir()) == []
    counts = [f"SELECT count(*) FROM {rows}" for rows in ("klines", "bars('BTCUSDT', '1m')", "duckdb_tables()")]
    assert ask(lake / "catalog.duckdb", *counts) == "[[(1440,)], [(1440,)], [(0,)]]"


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata"])
def test_no_zone_shifts_a_day(lake, zone):
    fill(lake)
    write_catalog(lake)
    queries = [
        "SELECT min(open_time), max(close_time) FROM bars('BTCUSDT', '1m') WHERE open_time >= '2024-01-01'",
        "SELECT open_time, bars FROM resample('BTCUSDT', '1m', '1d')",
        "SELECT day, rows, verdict, checked_at FROM ledger ORDER BY ALL",
        "SELECT started_at FROM runs",
        "FROM universe('2024-01-01')",
    ]
    here = ask(lake / "catalog.duckdb", *queries)
    assert "datetime.datetime(2024, 1, 1, 0, 0)" in here
    assert ask(lake / "catalog.duckdb", *queries, zone=zone) == here


def test_the_catalog_works_attached_without_use(lake):
    fill(lake)
    write_catalog(lake)
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{lake / 'catalog.duckdb'}' AS data (READ_ONLY)")
        for rows in CONTRACT:
            assert connection.execute(f"SELECT count(*) > 0 FROM data.{rows}").fetchone() == (True,), rows
        calls = (
            "bars('BTCUSDT', '1m')",
            "resample('BTCUSDT', '1m', '1h')",
            "bars_with_funding('BTCUSDT', '1m')",
            "universe('2024-01-01')",
        )
        for rows in calls:
            assert connection.execute(f"SELECT count(*) > 0 FROM data.{rows}").fetchone() == (True,), rows
        assert connection.execute("SELECT count(*) FROM data.gaps('BTCUSDT', '1m')").fetchone() == (0,)


def test_a_reader_keeps_its_catalog_while_it_is_replaced(lake):
    write(lake, "klines", "BTCUSDT", "1m", "2024", minutes("2024-01-01", 5))
    write_catalog(lake)
    with duckdb.connect(str(lake / "catalog.duckdb"), read_only=True) as reader:
        assert reader.execute("SELECT count(*) FROM funding").fetchone() == (0,)
        write(lake, "funding", "BTCUSDT", None, "2024", [settlement("2024-01-01", 0.1)])
        assert write_catalog(lake)  # the first settlement
        assert reader.execute("SELECT count(*) FROM klines").fetchone() == (5,)
    assert ask(lake / "catalog.duckdb", "SELECT count(*) FROM funding") == "[[(1,)]]"


def test_the_variable_lake_redirects_the_catalog(lake, tmp_path):
    fill(lake)
    write_catalog(lake)
    moved = tmp_path / "moved"
    lake.rename(moved)
    counts = {"klines": 1440, "bars('BTCUSDT', '1m')": 1440, "ledger": 5, "runs": 1}
    with duckdb.connect(str(moved / "catalog.duckdb"), read_only=True) as connection:
        connection.execute(f"SET VARIABLE lake = '{moved}'")
        for rows, count in counts.items():
            assert connection.execute(f"SELECT count(*) FROM {rows}").fetchone() == (count,), rows


def test_a_lost_catalog_comes_back(lake):
    write_catalog(lake)
    (lake / "catalog.duckdb").unlink()
    assert write_catalog(lake)
    (lake / "catalog.sql").unlink()
    assert write_catalog(lake)


def test_a_broken_file_is_named(lake):
    path = write(lake, "klines", "BTCUSDT", "1m", "2024", minutes("2024-01-01", 5))
    path.write_bytes(b"torn")
    with pytest.raises(LakeError, match=r"symbol=BTCUSDT/2024\.parquet"):
        write_catalog(lake)
    assert not (lake / "catalog.duckdb").exists()
