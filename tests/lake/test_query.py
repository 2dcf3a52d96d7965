"""Reading a lake: series as frames, queries in their sandbox, results in every form."""

import csv
import io
import json
import os
import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from etl.errors import LakeError, UsageError
from etl.lake.query import Room, connect, load, run, write_result

from .test_views import HOUR, KLINES, at, bar, fill, minutes, ms, settlement, write


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """BTCUSDT: six minutes around the new year of 2024 and two settlements; ETHUSDT: one hour."""
    folder = tmp_path / "lake"
    write(folder, "klines", "BTCUSDT", "1m", "2023", minutes("2023-12-31T23:57", 3, 100.0))
    write(folder, "klines", "BTCUSDT", "1m", "2024", minutes("2024-01-01", 3, 103.0))
    write(folder, "klines", "ETHUSDT", "1h", "2024", [bar("2024-01-01", HOUR)])
    write(
        folder,
        "funding",
        "BTCUSDT",
        None,
        "2024",
        [settlement("2024-01-01T00:00:00.007", 0.0001), settlement("2024-01-01T08:00", -0.0002, "Regular")],
    )
    return folder


def answer(lake: Path, sql: str, form: str = "json", **options) -> str:
    out = io.BytesIO()
    with run(lake, sql) as result:
        write_result(result, form, out, **options)
    return out.getvalue().decode()


# connect


def test_a_connection_has_the_views_in_utc_and_opens_no_catalog(lake):
    (lake / "catalog.duckdb").write_bytes(b"broken")
    with connect(lake) as connection:
        assert connection.execute("SELECT count(*) FROM klines").fetchone() == (7,)
        assert connection.execute("SELECT close FROM bars('ETHUSDT', '1h')").fetchone() == (1.0,)
        assert connection.execute("SELECT current_setting('TimeZone')").fetchone() == ("UTC",)
        assert connection.execute("SELECT current_setting('temp_directory')").fetchone() != (".tmp",)


def test_no_lake_is_a_mistake_of_the_command(tmp_path):
    with pytest.raises(UsageError, match=r"there is no lake at .*nowhere; make one with etl backfill"):
        connect(tmp_path / "nowhere")


def test_an_asof_join_over_the_views_is_no_nested_loop(lake):
    with connect(lake) as connection:
        plan = connection.execute(
            "EXPLAIN SELECT * FROM klines AS b ASOF JOIN funding AS f ON b.symbol = f.symbol AND b.close_time >= f.funding_time"
            " WHERE b.symbol = 'BTCUSDT'"
        ).fetchall()[0][1]
        assert "NESTED" not in plan.upper()


# load


def test_load_gives_sorted_numeric_rows_with_utc_times(lake):
    frame = load(lake, "klines", "BTCUSDT", "1m")
    assert list(frame.columns) == list(KLINES)
    assert frame["close"].tolist() == [100.0, 101.0, 102.0, 103.0, 104.0, 105.0]
    assert frame["open_time"].is_monotonic_increasing
    assert frame["open_time"].is_unique
    assert frame["open_time"].iloc[0] == pd.Timestamp("2023-12-31T23:57", tz="UTC")
    assert frame["close_time"].iloc[-1] == pd.Timestamp("2024-01-01T00:02:59.999", tz="UTC")
    assert [str(frame[name].dtype.tz) for name in ("open_time", "close_time")] == ["UTC", "UTC"]
    assert {name: frame[name].dtype.kind for name in KLINES if KLINES[name] in ("DOUBLE", "BIGINT")} == dict.fromkeys(
        ("open", "high", "low", "close", "volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume"), "f"
    ) | {"count": "i"}
    assert frame[["market", "symbol", "interval"]].drop_duplicates().to_numpy().tolist() == [["um", "BTCUSDT", "1m"]]


@pytest.mark.parametrize(
    ("start", "end", "closes"),
    [
        ("2023-12-31T23:59", "2024-01-01T00:01", [102.0, 103.0]),
        (date(2024, 1, 1), None, [103.0, 104.0, 105.0]),
        (None, at("2023-12-31T23:58"), [100.0]),
        (datetime.fromisoformat("2024-01-01T05:31+05:30"), ms("2024-01-01T00:02"), [104.0]),
        (pd.Timestamp("2024-01-01T00:02", tz="UTC"), "2030-01-01", [105.0]),
        ("2024-01-01T00:00:00.001", "2024-01-01T00:01", []),
        ("2030-01-01", "2031-01-01", []),
    ],
)
def test_load_takes_half_open_ranges_in_every_spelling(lake, start, end, closes):
    frame = load(lake, "klines", "BTCUSDT", "1m", start, end)
    assert frame["close"].tolist() == closes
    assert str(frame["open_time"].dtype).endswith("UTC]")


def test_load_of_funding_as_arrow(lake):
    table = load(lake, "funding", "BTCUSDT", output="arrow")
    assert table.column_names == ["market", "symbol", "funding_time", "funding_rate", "mark_price", "rate_type"]
    assert table["funding_time"].to_pylist() == [datetime(2024, 1, 1, 0, 0, 0, 7000, UTC), datetime(2024, 1, 1, 8, tzinfo=UTC)]
    assert table["rate_type"].to_pylist() == [None, "Regular"]
    assert table["mark_price"].type == pa.float64()


def test_load_opens_only_the_files_of_the_series(lake):
    write(lake, "klines", "AAAUSDT", "1m", "2024", []).write_bytes(b"broken")
    assert len(load(lake, "klines", "BTCUSDT", "1m")) == 6
    with pytest.raises(LakeError, match=r"AAAUSDT/2024\.parquet"):
        load(lake, "klines", "AAAUSDT", "1m")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("klines", "BTCUSTD", "1m"), "no such series in the lake: um klines BTCUSTD 1m; did you mean BTCUSDT"),
        (("klines", "btcusdt", "1m"), "did you mean BTCUSDT"),
        (("klines", "BTCUSDT", "1h"), "stored intervals of BTCUSDT are 1m"),
        (("klines", "XYZ", "1m"), "stored are BTCUSDT, ETHUSDT"),
        (("mark_klines", "BTCUSDT", "1m"), "holds no mark_klines of um; etl backfill fetches them"),
        (("klines", "../..", "1m"), "no such series"),
        (("klines", "BTCUSDT"), "klines needs an interval"),
        (("funding", "BTCUSDT", "1m"), "funding has no interval"),
        (("candles", "BTCUSDT", "1m"), "unknown dataset 'candles'; known are klines"),
        (("klines", "BTCUSDT", "7m"), "unknown interval '7m'; known are 1m"),
        (("klines", "BTCUSDT", "3d"), "resample"),
    ],
)
def test_load_of_what_is_not_stored_says_what_is(lake, asked, message):
    with pytest.raises(UsageError, match=message):
        load(lake, *asked)


# run


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) AS n FROM klines",
        "FROM (SELECT count(*) AS n FROM klines);",
        "-- how many\nWITH k AS (FROM klines) SELECT count(*) AS n FROM k",
        "SELECT count(*) AS n FROM bars('BTCUSDT', '1m') UNION ALL SELECT count(*) FROM bars('ETHUSDT', '1h')",
        "VALUES (7)",
        "DESCRIBE klines",
        "SHOW TABLES",
        "SUMMARIZE funding",
        "EXPLAIN SELECT 1",
        "explain analyze select count(*) from klines",
        "-- a plan\nEXPLAIN (FORMAT json) SELECT 1",
        "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r WHERE i < 3) FROM r",
    ],
)
def test_questions_are_answered(lake, sql):
    assert json.loads(answer(lake, sql))


def test_parameters_are_bound(lake):
    with run(lake, "SELECT close FROM bars(?, ?) WHERE open_time = ?", ["BTCUSDT", "1m", at("2024-01-01")]) as result:
        assert [row for batch in result.batches() for row in batch.to_pylist()] == [{"close": 103.0}]
    with run(lake, "SELECT $a + $b AS c", {"a": 1, "b": 2}) as result:
        assert [row for batch in result.batches() for row in batch.to_pylist()] == [{"c": 3}]


@pytest.mark.parametrize(
    ("sql", "given", "message"),
    [
        ("SELECT $a", {}, r"needs a value for \$a; give it with -p a=VALUE$"),
        ("SELECT $symbol, $b", {"symbl": 1}, r"for \$b, \$symbol; give it with -p b=VALUE -p symbol=VALUE$"),
        ("SELECT $symbol", {"symbl": 1}, r"-p symbol=VALUE; did you mean symbl\?"),
        ("SELECT ? + ?", {"1": 1}, r"needs a value for \$2"),
        ("EXPLAIN SELECT $a", {}, r"needs a value for \$a"),
        ("SELECT $symbol", {"symbol": 1, "symbols": 2}, r"the query has no \$symbols; it has \$symbol; did you mean symbol\?"),
        ("SELECT 1", {"a": 1}, r"the query has no \$a; it has none"),
    ],
)
def test_parameters_that_do_not_fit_are_told(lake, sql, given, message):
    with pytest.raises(UsageError, match=message):
        run(lake, sql, given)


def test_the_case_of_a_parameter_does_not_matter(lake):
    with run(lake, "SELECT $Symbol AS s, $SYMBOL AS t", {"symboL": "x"}) as result:
        assert [row for batch in result.batches() for row in batch.to_pylist()] == [{"s": "x", "t": "x"}]


def test_a_room_answers_one_question_after_the_other_and_sees_what_is_new(lake):
    def ask(sql, **options):
        with room.ask(sql, {"symbol": "BTCUSDT"}, strict=False) as result:
            return [tuple(row.values()) for batch in result.batches() for row in batch.to_pylist()]

    with Room(lake) as room:
        assert ask("SELECT count(*) FROM klines WHERE symbol = $symbol") == [(6,)]
        with pytest.raises(UsageError, match="did you mean open_time"):
            ask("SELECT opentime FROM klines")
        with pytest.raises(UsageError, match="boo"):
            ask("SELECT CASE WHEN i < 999999 THEN i ELSE error('boo') END AS i FROM range(1000000) AS r(i)")
        room.ask("SELECT i FROM range(1000000) AS r(i)").close()  # nobody reads it
        assert ask("SELECT count(*) FROM mark_klines") == [(0,)]
        write(
            lake, "mark_klines", "BTCUSDT", "1h", "2024", [(ms("2024-01-01"), 1.0, 2.0, 0.5, 1.5, ms("2024-01-01T01:00") - 1)]
        )
        write(lake, "klines", "BTCUSDT", "1m", "2024", minutes("2024-01-01", 4, 103.0))
        write(lake, "klines", "NEWUSDT", "1m", "2024", minutes("2024-01-01", 1))
        assert ask("SELECT count(*) FROM mark_klines") == [(1,)]
        assert ask("SELECT symbol, count(*) FROM klines GROUP BY ALL ORDER BY ALL") == [
            ("BTCUSDT", 7),
            ("ETHUSDT", 1),
            ("NEWUSDT", 1),
        ]
        with pytest.raises(UsageError, match="and nothing else"):
            ask("FROM read_text('/etc/passwd')")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret.csv").write_text("a\nsecret\n")
    return folder


def files_below(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.parametrize(
    "sql",
    [
        "FROM '{outside}/secret.csv'",
        "FROM read_csv('{outside}/secret.csv')",
        "FROM read_csv('{lake}/../outside/secret.csv')",
        "FROM read_csv('{lake}/link.csv')",
        "FROM read_csv('{lake}/folder/secret.csv')",
        "FROM read_text('/etc/passwd')",
        "FROM read_blob('/proc/self/environ')",
        "FROM glob('/etc/*')",
        "FROM sniff_csv('{outside}/secret.csv')",
        "FROM parquet_metadata('{outside}/secret.csv')",
        "FROM read_csv('http://127.0.0.1:9/x.csv')",
        "FROM 's3://bucket/x.parquet'",
        "SELECT getenv('HOME')",
        "FROM lake",  # a variable of ours
        "COPY (SELECT 1) TO '{lake}/made.csv'",
        "COPY klines TO '{outside}/made.parquet'",
        "EXPLAIN COPY (SELECT 1) TO '{lake}/made.csv'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{lake}/made.csv'",
        "explain (analyze) copy (select 1) to '{lake}/made.csv'",
        "EXPLAIN (FORMAT /*) SELECT '*/ json) ANALYZE COPY (SELECT 1) TO '{lake}/made.csv' --'",
        "WITH x AS (COPY (SELECT 1) TO '{lake}/made.csv') SELECT 1",
        "EXPLAIN ANALYZE WITH x AS (COPY (SELECT 1) TO '{lake}/made.csv') SELECT 1",
        "SELECT (WITH x AS (COPY (SELECT 1) TO '{lake}/made.csv') SELECT 1)",
        "FROM query('WITH x AS (COPY (SELECT 1) TO ''{lake}/made.csv'') SELECT 1')",
        "FROM enable_logging(storage := 'file', storage_path := '{lake}/made')",
        "SELECT * FROM main.enable_profiling(save_location := '{lake}/made.json')",
        "ATTACH '{lake}/made.duckdb' AS made",
        "ATTACH '{outside}/made.duckdb' AS made",
        "EXPORT DATABASE '{lake}/made'",
        "IMPORT DATABASE '{outside}'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET lock_configuration = false",
        "RESET allowed_directories",
        "SET VARIABLE lake = '{outside}'",
        "PRAGMA enable_profiling",
        "CALL enable_logging()",
        "CREATE TABLE made AS SELECT 1",
        "CREATE SECRET (TYPE s3)",
        "INSERT INTO klines VALUES (1)",
        "DROP VIEW klines",
        "UPDATE klines SET close = 0",
        "USE memory",
        "BEGIN",
        "CHECKPOINT",
        "SELECT 1; SELECT 2",
        "SELECT 1; COPY (SELECT 1) TO '{lake}/made.csv'",
        "PREPARE p AS SELECT 1",
        "",
        "-- nothing",
    ],
)
def test_the_sandbox_has_no_way_out(lake, outside, sql):
    (lake / "link.csv").symlink_to(outside / "secret.csv")
    (lake / "folder").symlink_to(outside)
    before = files_below(lake) | files_below(outside)
    with pytest.raises(UsageError) as error:
        answer(lake, sql.replace("{lake}", str(lake)).replace("{outside}", str(outside)))
    assert "secret\n" not in str(error.value)
    assert files_below(lake) | files_below(outside) == before


def test_a_lake_behind_a_link_can_be_read(lake, tmp_path):
    (tmp_path / "link").symlink_to(lake)
    assert json.loads(answer(tmp_path / "link", "SELECT count(*) AS n FROM klines")) == [{"n": 7}]


@pytest.mark.parametrize("name", ["quo'te", "we[ird]", "st*r", "wh?t"])
def test_a_lake_may_lie_anywhere(tmp_path, name):
    lake = tmp_path / name
    write(lake, "klines", "X", "1m", "2024", minutes("2024-01-01", 2), [])
    assert json.loads(answer(lake, "SELECT count(*) AS n FROM klines")) == [{"n": 2}]
    assert json.loads(answer(lake, "SELECT count(*) AS n FROM bars('X', '1m')")) == [{"n": 2}]
    assert len(load(lake, "klines", "X", "1m")) == 2


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELEC 1", r"syntax error at or near"),
        (
            "FROM kline",
            r"did you mean klines, .*\nviews: klines, .*runs; macros: bars, resample, bars_with_funding, gaps, universe",
        ),
        ("FROM main.Fundings", r"did you mean funding\?\nviews: "),
        ("FROM bars", r"did you mean bars\?\nviews: "),  # it takes arguments
        ("FROM klines('BTCUSDT')", r"does not run klines\(\)"),
        ("FROM candles('BTCUSDT')", r"macros: bars, "),
        ("FROM univers('2024-01-01')", r"does not run univers\(\)[^;]*; did you mean universe\?\nmacros: bars, "),
        ("FROM bars('BTCUSDT')", r"Candidate macros:\n\tbars\(symbol, interval, market := 'um'\)"),
        ("FROM bars('BTCUSDT', '1m', markt := 'um')", r"Candidate macros:\n\tbars\(symbol, interval, market := 'um'\)"),
        (
            "SELECT opentime FROM klines",
            r'"opentime" not found in FROM clause; did you mean open_time, .*\ncolumns of klines: market, symbol, interval, ',
        ),
        ("SELECT k.hihg FROM klines AS k", r'"hihg"; did you mean high\?\ncolumns of klines: '),
        (
            "SELECT funding_rat FROM bars_with_funding('BTCUSDT', '1m')",
            r"did you mean funding_rate, .*\ncolumns of bars_with_funding: market, .*, funding_time, funding_rate$",
        ),
        ("FROM klines JOIN funding USING (symbl)", r"did you mean symbol\?\ncolumns of klines: .*\ncolumns of funding: "),
        (
            "SELECT rate FROM klines AS k JOIN funding AS f USING (symbol)",
            r"columns of klines: [\s\S]*columns of funding: market, symbol, funding_time",
        ),
        ("FROM bars('BTCUSTD', '1m')", r"no such series in the lake: um klines BTCUSTD 1m; did you mean BTCUSDT"),
        ("FROM resample('BTCUSDT', '1M', '1M')", r"bars of 1M do not fill bars of 1M"),
        ("FROM bars('BTCUSDT', '1M')", r"um klines BTCUSDT 1M; stored intervals of BTCUSDT are 1m"),
        ("FROM bars_with_funding('BTCUSDT', '3d')", r"3d is not stored"),
        ("FROM bars('BTC''USDT', '1m', market := 'cm')", r"cm klines BTC'USDT 1m; the lake at .* holds no klines of cm"),
        ("FROM read_text('/etc/passwd')", r"etl sql reads the lake at .* and nothing else"),
        ("SELECT 1; SELECT 2", r"exactly one SELECT, or EXPLAIN of one, and reads only; this is SELECT, SELECT"),
        ("DROP VIEW klines", r"this is DROP"),
        ("SELECT 'x'::INTEGER", r"Could not convert string 'x'"),
        ("SELECT error('boo') FROM klines", r"boo"),
    ],
)
def test_mistakes_are_explained(lake, sql, message):
    with pytest.raises(UsageError, match=message):
        answer(lake, sql)


def test_a_failure_half_way_is_an_error_of_ours(lake):
    sql = "SELECT CASE WHEN i < 999999 THEN i ELSE error('boo') END AS i FROM range(1000000) AS r(i)"
    with pytest.raises(UsageError, match="boo"):
        answer(lake, sql)


def test_a_broken_file_is_named(lake):
    write(lake, "klines", "ZZZUSDT", "1m", "2024", minutes("2024-01-01", 1)).write_bytes(b"torn")
    with pytest.raises(LakeError, match=r"ZZZUSDT/2024\.parquet"):
        answer(lake, "SELECT max(close) FROM klines")
    assert json.loads(answer(lake, "SELECT max(close) AS c FROM bars('BTCUSDT', '1m')")) == [{"c": 105.0}]


# write_result

ROWS = """
SELECT * FROM (VALUES
  ('币安人生USDT', TIMESTAMP '2024-01-01 00:00:00', 1.5::DOUBLE, 1, DATE '2024-02-29', NULL),
  ('A', TIMESTAMP '2024-01-01 00:00:00.007', 'NaN'::DOUBLE, -20, NULL, 'x, "y"' || chr(10) || 'z')
) AS t(symbol, time, price, n, day, note)
"""


def test_json_is_one_array_of_objects(lake):
    assert json.loads(answer(lake, ROWS)) == [
        {"symbol": "币安人生USDT", "time": "2024-01-01T00:00:00Z", "price": 1.5, "n": 1, "day": "2024-02-29", "note": None},
        {"symbol": "A", "time": "2024-01-01T00:00:00.007Z", "price": None, "n": -20, "day": None, "note": 'x, "y"\nz'},
    ]
    assert json.loads(answer(lake, "SELECT 1 AS a WHERE false")) == []
    assert json.loads(answer(lake, "SELECT i FROM range(120000) AS r(i)")) == [{"i": i} for i in range(120000)]


def test_json_of_rarer_types(lake):
    sql = """SELECT sum(5::BIGINT) AS huge, 1.50::DECIMAL(5,2) AS money, [TIMESTAMP '2024-01-01'] AS list,
      {'a': NULL} AS struct,
      TIMESTAMPTZ '2024-01-01 02:00:00+02' AS zoned, INTERVAL '1 month 2 days 1 second' AS span, '\\xAB'::BLOB AS bytes,
      'inf'::DOUBLE AS inf, TIME '10:30:00' AS clock,
      MAP {'k': 1} AS map, TIMESTAMP_NS '1969-12-31 23:59:59.5' AS early, true AS yes"""
    assert json.loads(answer(lake, sql), parse_float=Decimal) == [
        {
            "huge": 5,
            "money": Decimal("1.50"),
            "list": ["2024-01-01T00:00:00Z"],
            "struct": {"a": None},
            "zoned": "2024-01-01T00:00:00Z",
            "span": "P1M2DT1S",
            "bytes": "ab",
            "inf": None,
            "clock": "10:30:00",
            "map": {"k": 1},
            "early": "1969-12-31T23:59:59.500Z",
            "yes": True,
        }
    ]


def test_csv_is_read_back_by_any_reader(lake):
    text = answer(lake, ROWS, "csv")
    assert list(csv.reader(io.StringIO(text))) == [
        ["symbol", "time", "price", "n", "day", "note"],
        ["币安人生USDT", "2024-01-01T00:00:00Z", "1.5", "1", "2024-02-29", ""],
        ["A", "2024-01-01T00:00:00.007Z", "nan", "-20", "", 'x, "y"\nz'],
    ]
    plain = answer(lake, "SELECT symbol, open_time, close, count FROM bars('ETHUSDT', '1h')", "csv")
    assert plain == "symbol,open_time,close,count\nETHUSDT,2024-01-01T00:00:00Z,1,3\n"
    assert answer(lake, """SELECT 1 AS "a,b" WHERE false""", "csv") == '"a,b"\n'
    assert answer(lake, "SELECT [1, 2] AS a, {'b': 'c'} AS d", "csv") == 'a,d\n"[1,2]","{""b"":""c""}"\n'


def test_a_table_is_aligned(lake):
    assert answer(lake, ROWS, "table") == (
        "symbol       | time                    | price |   n | day        | note\n"
        "-------------+-------------------------+-------+-----+------------+----------\n"
        "币安人生USDT | 2024-01-01 00:00:00     |   1.5 |   1 | 2024-02-29 | NULL\n"
        'A            | 2024-01-01 00:00:00.007 |   nan | -20 | NULL       | x, "y"\\nz\n'
    )
    assert answer(lake, "SELECT chr(27) || '[31m' AS name, 1 AS n", "table") == "name     | n\n---------+--\n\\x1b[31m | 1\n"


def test_a_table_may_be_cut_and_says_so(lake):
    notes = io.StringIO()
    text = answer(lake, "SELECT i FROM range(100000) AS r(i)", "table", limit=3, notes=notes)
    assert text == "i\n-\n0\n1\n2\n"
    assert notes.getvalue() == "(3 of 100,000 rows)\n"
    for rows, told in ((0, "(0 rows)"), (1, "(1 row)"), (3, "(3 rows)"), (4_000_000, "(3 of more than 1,000,000 rows)")):
        notes = io.StringIO()
        answer(lake, f"SELECT i FROM range({rows}) AS r(i)", "table", limit=3, notes=notes)
        assert notes.getvalue() == f"{told}\n"
    notes = io.StringIO()
    answer(lake, "SELECT i FROM range(4) AS r(i)", "table", notes=notes)
    assert notes.getvalue() == ""


@pytest.mark.parametrize(
    ("columns", "text", "told"),
    [
        (24, "a |  b | c   |     d | e\n--+----+-----+-------+--\n1 | 22 | xyz | 12345 | v\n", "(1 row)"),
        (23, "a |  b | … |     d | e\n--+----+---+-------+--\n1 | 22 | … | 12345 | v\n", "(1 row, 4 of 5 columns)"),
        (21, "a |  b | … | e\n--+----+---+--\n1 | 22 | … | v\n", "(1 row, 3 of 5 columns)"),
        (3, "a | …\n--+--\n1 | …\n", "(1 row, 1 of 5 columns)"),
    ],
)
def test_a_table_fits_on_the_terminal(lake, columns, text, told):
    notes = io.StringIO()
    sql = "SELECT 1 AS a, 22 AS b, 'xyz' AS c, 12345 AS d, 'v' AS e"
    assert answer(lake, sql, "table", limit=3, columns=columns, notes=notes) == text
    assert notes.getvalue() == f"{told}\n"
    assert answer(lake, "SELECT 'long' AS a", "table", limit=3, columns=2) == "a\n----\nlong\n"


def test_a_plan_is_printed_as_it_is(lake):
    lines = answer(lake, "EXPLAIN SELECT max(close) FROM klines", "table").splitlines()
    assert "explain_value" not in lines[0]
    assert any("max(" in line for line in lines)


def test_parquet_holds_the_types_of_the_result(lake):
    class Pipe(io.BytesIO):
        def seekable(self):
            return False

        def tell(self):
            raise OSError("a pipe has no position")

    pipe = Pipe()
    with run(lake, "FROM bars('BTCUSDT', '1m')") as result:
        assert write_result(result, "parquet", pipe) == 6
    table = pq.read_table(io.BytesIO(pipe.getvalue()))
    assert table["close"].to_pylist() == [100.0, 101.0, 102.0, 103.0, 104.0, 105.0]
    assert table.schema.field("open_time").type == pa.timestamp("us")


@pytest.mark.parametrize("form", ["json", "parquet"])
def test_two_columns_of_one_name_need_two(lake, form):
    with pytest.raises(UsageError, match="a name of its own for every column; these are a, a: use AS"):
        answer(lake, "SELECT 1 AS a, 2 AS a", form)


def test_what_parquet_cannot_hold_is_a_mistake_of_the_query(lake):
    with pytest.raises(UsageError, match="cast it"):
        answer(lake, "SELECT INTERVAL 1 DAY AS a", "parquet")


# Zones

CLIENT = """
import sys
from pathlib import Path
from etl.lake.query import connect, load, run, write_result
lake = Path(sys.argv[1])
print(load(lake, "klines", "BTCUSDT", "1m", "2024-01-01", output="arrow").to_pylist()[::60])
print(connect(lake).execute("SELECT open_time, bars FROM resample('BTCUSDT', '1m', '1d')").fetchall())
print(connect(lake).execute("SELECT TIMESTAMPTZ '2024-01-01' = TIMESTAMPTZ '2024-01-01 00:00:00+00'").fetchall())
sys.stdout.flush()
for form in ("table", "csv", "json"):
    with run(lake, "SELECT *, open_time::TIMESTAMPTZ AS zoned FROM klines ORDER BY open_time") as result:
        write_result(result, form, sys.stdout.buffer)
"""


def test_no_zone_changes_an_answer(tmp_path):
    lake = tmp_path / "lake"
    lake.mkdir()
    fill(lake)

    def seen(zone: str) -> str:
        command = [sys.executable, "-c", CLIENT, str(lake)]
        return subprocess.run(command, env=os.environ | {"TZ": zone}, capture_output=True, text=True, check=True).stdout

    here = seen("UTC")
    assert "[(datetime.datetime(2024, 1, 1, 0, 0), 1440)]\n[(True,)]" in here
    assert '"zoned":"2024-01-01T00:00:00Z"' in here
    assert seen("America/New_York") == here
    assert seen("Asia/Kolkata") == here
