"""What the views and macros promise whatever is stored: no bar knows the future, and nobody reads what was not asked for."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.lake.query import Room
from etl.lake.views import catalog_sql, create_views, write_catalog

from .test_views import DAY, HOUR, MINUTE, SCHEMAS, answer, at, bar, minutes, ms, settlement, write, write_symbols

BEGIN = ms("2024-02-27")  # a leap day and the end of a month follow
STEPS = {"1m": MINUTE, "1h": HOUR, "8h": 8 * HOUR, "1d": DAY}

# How long after the hour settlements come, in ms; and, rarely, just before or far from it.
LATE = st.one_of(st.integers(0, 60), st.sampled_from([-1, 0, 59_999, 60_000, MINUTE - 1, HOUR - 1, HOUR // 2]))
KINDS = st.sampled_from([None, "Regular", "Regular", "Special", "Other"])


@st.composite
def histories(draw) -> list[tuple]:
    """Settlements whose interval changes, that come late, some of them special, at times two at once."""
    rows, hour = {}, 0
    while hour < 96:
        hour += draw(st.sampled_from([1, 1, 2, 4, 8]))
        late = draw(LATE)
        for kind in draw(st.lists(KINDS, min_size=1, max_size=2)):
            time = BEGIN + hour * HOUR + late
            rows[time, kind or "Regular"] = settlement(time, (1 + len(rows)) / 1e6, kind)
    return [rows[key] for key in sorted(rows)]


def funded(lake: Path, interval: str) -> list[tuple]:
    with duckdb.connect() as connection:
        create_views(connection, catalog_sql(lake), lake)
        columns = "open_time, close_time, funding_time, funding_rate"
        return connection.execute(f"SELECT {columns} FROM bars_with_funding('X', '{interval}')").fetchall()


def fill(lake: Path, rows: Sequence[tuple], interval: str) -> None:
    step = STEPS[interval]
    # Of minutes those around the hours, where it matters.
    offsets = range(-2, 3) if interval == "1m" else range(1)
    opens = {BEGIN + i * max(step, HOUR) + j * MINUTE for i in range(97 * HOUR // max(step, HOUR)) for j in offsets}
    write(lake, "klines", "X", interval, "2024", [bar(time, step) for time in sorted(opens)])
    write(lake, "funding", "X", None, "2024", rows)
    write(lake, "funding", "Y", None, "2024", [settlement(BEGIN + i * HOUR, 9.9) for i in range(96)])


@settings(max_examples=20)
@given(rows=histories(), interval=st.sampled_from(["1m", "1m", "1h", "8h", "1d"]))
def test_no_bar_sees_a_settlement_after_its_close(tmp_path_factory, rows, interval):
    lake = tmp_path_factory.mktemp("lake")
    fill(lake, rows, interval)
    regular = [(at("1970-01-01") + timedelta(milliseconds=row[0]), row[1]) for row in rows if row[3] in {None, "Regular"}]
    found = funded(lake, interval)
    assert len(found) >= 4
    for _, close_time, funding_time, rate in found:
        assert funding_time is None or funding_time <= close_time
        assert (funding_time, rate) == max((one for one in regular if one[0] <= close_time), default=(None, None))


@settings(max_examples=10)
@given(
    rows=histories(),
    interval=st.sampled_from(["1m", "1h"]),
    hours=st.integers(1, 95),
    late=st.sampled_from([-1, -1, 0, 7, MINUTE - 1]),
)
def test_the_future_changes_no_bar_of_the_past(tmp_path_factory, rows, interval, hours, late):
    now = BEGIN + hours * HOUR + late
    whole, past = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("past")
    fill(whole, rows, interval)
    fill(past, [row for row in rows if row[0] <= now], interval)
    until = at("1970-01-01") + timedelta(milliseconds=now)
    known = [[row for row in funded(lake, interval) if row[1] <= until] for lake in (whole, past)]
    assert known[0] == known[1]
    assert known[0]


# Only what was asked for is read


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> Path:
    """Every file but those of symbol A, market um, cannot be read at all: neither its rows nor its footer."""
    lake = tmp_path_factory.mktemp("lake")
    SCHEMAS["premium_klines"] = SCHEMAS["index_klines"] = SCHEMAS["mark_klines"]
    everything = [answer("2023-01-01", "2025-01-01")]
    price = (ms("2024-01-01"), 1.0, 2.0, 0.5, 1.5, ms("2024-01-01T01:00") - 1)
    for symbol in ("A", "AA", "B", "C D"):
        for year in ("2023", "2024"):
            write(lake, "klines", symbol, "1m", year, minutes(f"{year}-01-01", 1440), everything)
            write(lake, "klines", symbol, "1h", year, [bar(f"{year}-01-01", HOUR)], everything)
            write(lake, "funding", symbol, None, year, [settlement(f"{year}-01-01T08:00:00.003", 0.1)], everything)
        for dataset in ("mark_klines", "index_klines", "premium_klines"):
            write(lake, dataset, symbol, "1h", "2024", [price], everything)
    write(lake, "klines", "A", "1m", "2024", minutes("2024-01-01", 3), everything, market="zz")
    write_symbols(lake, {"symbol": "A", "status": "TRADING", "onboard_time": ms("2023-01-01")})
    write_catalog(lake)
    for path in lake.rglob("*.parquet"):
        mine = "symbol=A" in path.parts and "market=um" in path.parts
        if not mine and path.name != "symbols.parquet":
            path.write_bytes(b"nobody may read this")
    return lake


@pytest.mark.parametrize(
    ("rows", "count"),
    [
        ("klines WHERE market = 'um' AND symbol = $symbol AND interval = '1m'", 2880),
        ("klines WHERE market = 'um' AND symbol = $symbol AND interval = '1m' AND open_time >= '2024-01-01'", 1440),
        ("klines WHERE market = 'um' AND symbol IN ($symbol)", 2882),
        ("mark_klines WHERE market = 'um' AND symbol = $symbol", 1),
        ("index_klines WHERE market = 'um' AND symbol = $symbol AND interval = '1h'", 1),
        ("premium_klines WHERE market = 'um' AND symbol = $symbol AND interval = '1h'", 1),
        ("funding WHERE market = 'um' AND symbol = $symbol", 2),
        ("bars($symbol, '1m')", 2880),
        ("bars(symbol := $symbol, \"interval\" := '1h', market := 'um')", 2),
        ("resample($symbol, '1m', '1d')", 2),
        ("bars_with_funding($symbol, '1m')", 2880),
        ("bars_with_funding($symbol, '1m') WHERE open_time >= '2024-01-01'", 1440),
        ("gaps($symbol, '1m')", 1),
        ("universe('2024-01-01') WHERE symbol = $symbol", 1),
        ("funding JOIN bars($symbol, '1h') AS b ON funding_time > open_time WHERE funding.symbol = 'A'", 3),
    ],
)
def test_a_question_about_one_symbol_reads_its_files_only(broken, rows, count):
    bound, spelled = f"SELECT count(*) AS n FROM {rows}", f"SELECT count(*) AS n FROM {rows.replace('$symbol', repr('A'))}"
    with Room(broken) as room, room.ask(bound, {"symbol": "A"}, strict=False) as result:
        assert [batch.to_pylist() for batch in result.batches()] == [[{"n": count}]]
    with duckdb.connect(str(broken / "catalog.duckdb"), read_only=True) as plain:
        assert plain.execute(spelled).fetchall() == [(count,)]
        with pytest.raises(duckdb.Error, match="No magic bytes"):  # what is asked of all does read them
            plain.execute("SELECT sum(close) FROM klines").fetchall()
