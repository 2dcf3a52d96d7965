"""The lake on disk against docs/format.md: what is written, what is read back, what is refused, who may write."""

import hashlib
import json
import os
import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.errors import Cancelled, LakeError, LakeLocked, UsageError
from etl.lake.store import Store, Stored, encode
from etl.model import Coverage, Partition, Series
from etl.ranges import HOUR, MAX_TIME, MINUTE, TimeRange, parse_time
from etl.registry import INTERVALS
from etl.schema import arrow_schema

BARS = Series("um", "klines", "BTCUSDT", "1m")
FUNDING = Series("um", "funding", "BTCUSDT")
YEAR = TimeRange(parse_time("2024-01-01"), parse_time("2025-01-01"))
CHECKED = parse_time("2025-01-10")
COVERAGE = (Coverage(YEAR, "rest", CHECKED),)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "lake", network="mainnet", layout="year")


def partition(series: Series = BARS, name: str = "2024", period: TimeRange = YEAR) -> Partition:
    return Partition(series, name, period)


def bars(opens, price: float = 1.5) -> pa.Table:
    opens = list(opens)
    n = len(opens)
    columns = [
        opens,
        [price] * n,
        [price + 1] * n,
        [0.1] * n,
        [1.25] * n,
        [7.0] * n,
        [t + MINUTE - 1 for t in opens],
        [9.0] * n,
    ]
    columns += [range(n), [3.0] * n, [4.0] * n]
    return pa.table(
        [pa.array(list(column), field.type) for column, field in zip(columns, arrow_schema("klines"), strict=True)],
        schema=arrow_schema("klines"),
    )


def replace(store: Store, rows: pa.Table, *, at: Partition | None = None, coverage=COVERAGE, holes=()) -> Path:
    at = at or partition()
    store.replace(at, rows, coverage, holes)
    return store.path(at)


def python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )


# ---- rows


VALUES = {
    "timestamp[ms]": st.integers(0, MAX_TIME),
    "double": st.floats(allow_nan=False, allow_infinity=False),
    "int64": st.integers(0, 2**63 - 1),
    "string": st.text(max_size=10),
}


@st.composite
def tables(draw, dataset: str):
    schema = arrow_schema(dataset)
    count = draw(st.integers(0, 12))
    columns = []
    for field in schema:
        values = VALUES[str(field.type)]
        columns.append(draw(st.lists(values | st.none() if field.nullable else values, min_size=count, max_size=count)))
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)


@pytest.mark.parametrize("dataset", ["klines", "funding", "mark_klines", "index_klines", "premium_klines"])
@given(data=st.data())
@settings(max_examples=15)
def test_rows_come_back_as_they_were_stored(tmp_path_factory, dataset, data):
    rows = data.draw(tables(dataset))
    store = Store.open(tmp_path_factory.mktemp("lake"), network="mainnet", layout="year")
    place = partition(Series("um", dataset, "BTCUSDT", None if dataset == "funding" else "1m"))
    replace(store, rows, at=place)
    assert store.rows(place).equals(rows)
    assert store.rows(place).schema.equals(arrow_schema(dataset))
    stored = store.stored(place)
    times = sorted(rows.column(0).cast("int64").to_pylist())
    assert (stored.rows, stored.first, stored.last) == (len(rows), times[0] if times else None, times[-1] if times else None)


def test_a_partition_without_a_file_has_no_rows(store):
    assert store.stored(partition()) is None
    assert store.rows(partition()).equals(arrow_schema("klines").empty_table())
    assert store.files(BARS) == []
    assert list(store.series()) == []
    assert not store.exists


def test_a_file_says_what_it_holds(store):
    rows = bars(range(YEAR.start + HOUR, YEAR.start + 2 * HOUR, MINUTE))
    holes = (TimeRange(YEAR.start + 2 * HOUR, YEAR.end),)
    path = replace(store, rows, holes=holes)
    assert store.files(BARS) == [
        Stored(
            partition=partition(),
            path=path,
            rows=60,
            first=YEAR.start + HOUR,
            last=YEAR.start + 2 * HOUR - MINUTE,
            size=path.stat().st_size,
            coverage=COVERAGE,
            holes=holes,
        )
    ]
    assert store.stored(partition()) == store.files(BARS)[0]


def test_a_file_may_hold_coverage_and_no_rows(store):
    replace(store, bars([]))
    stored = store.stored(partition())
    assert (stored.rows, stored.first, stored.last, stored.coverage) == (0, None, None, COVERAGE)
    assert len(store.rows(partition())) == 0


def test_what_is_replaced_is_gone(store):
    replace(store, bars([YEAR.start, YEAR.start + MINUTE]))
    replace(store, bars([YEAR.start + HOUR]), coverage=())
    assert store.rows(partition()).column(0).cast("int64").to_pylist() == [YEAR.start + HOUR]
    assert store.stored(partition()).coverage == ()
    assert [path.name for path in store.path(partition()).parent.iterdir()] == ["2024.parquet"]
    assert list((store.root / ".tmp").iterdir()) == []


# ---- bytes


def test_the_footer_is_that_of_the_format(store):
    series = Series("um", "klines", "币安人生USDT", "1M")
    coverage = (Coverage(TimeRange(1704067200000, 1735689600000), "rest", 1736467200000),)
    path = replace(store, bars([]), at=partition(series), coverage=coverage, holes=(TimeRange(1711929600000, 1711929720000),))
    metadata = pq.read_metadata(path).metadata
    assert list(metadata) == [b"etl"]
    assert "币安人生USDT".encode() in metadata[b"etl"]
    assert json.loads(metadata[b"etl"]) == {
        "format": 1,
        "market": "um",
        "dataset": "klines",
        "symbol": "币安人生USDT",
        "interval": "1M",
        "coverage": [
            {
                "start": 1704067200000,
                "end": 1735689600000,
                "source": "rest",
                "source_url": "/fapi/v1/klines",
                "sha256": None,
                "checked": 1736467200000,
            }
        ],
        "holes": [[1711929600000, 1711929720000]],
    }
    path = replace(store, arrow_schema("funding").empty_table(), at=partition(Series("cm", "funding", "BTCUSD_PERP")))
    about = json.loads(pq.read_metadata(path).metadata[b"etl"])
    assert (about["interval"], about["coverage"][0]["source_url"]) == (None, "/dapi/v1/fundingRate")


def test_what_is_known_of_a_file_of_the_archive_is_kept(store):
    coverage = (Coverage(YEAR, "archive", CHECKED, "data/a.zip", "bb", "e2", ("aa",), ("cc", "dd")),)
    path = replace(store, bars([]), coverage=coverage)
    assert store.stored(partition()).coverage == coverage
    (entry,) = json.loads(pq.read_metadata(path).metadata[b"etl"])["coverage"]
    assert (entry["sha256"], entry["etag"], entry["former"], entry["later"]) == ("bb", "e2", ["aa"], ["cc", "dd"])


def test_the_encoding_is_that_of_the_format(store):
    rows = bars(range(YEAR.start, YEAR.start + 131_073 * MINUTE, MINUTE))
    metadata = pq.read_metadata(replace(store, rows))
    stored = store.stored(partition())
    assert (stored.first, stored.last) == (YEAR.start, YEAR.start + 131_072 * MINUTE)
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [131_072, 1]
    columns = {metadata.row_group(0).column(n).path_in_schema: metadata.row_group(0).column(n) for n in range(11)}
    assert {column.compression for column in columns.values()} == {"ZSTD"}
    for name in ("open_time", "close_time", "count"):
        assert "DELTA_BINARY_PACKED" in columns[name].encodings
    for name in set(columns) - {"open_time", "close_time", "count"}:
        assert "PLAIN" in columns[name].encodings
        assert not columns[name].has_dictionary_page
    assert columns["open_time"].statistics.has_min_max


def test_any_parquet_reader_finds_the_declared_columns(store):
    path = replace(store, bars([YEAR.start]))
    assert pq.ParquetFile(path).schema_arrow.equals(arrow_schema("klines"))


@given(st.integers(0, 3), st.lists(st.integers(1, 140_000), max_size=4))
@settings(max_examples=8)
def test_the_bytes_do_not_depend_on_how_the_rows_lie_in_memory(beginning, cuts):
    rows = bars(range(YEAR.start, YEAR.start + 140_000 * MINUTE, MINUTE)).slice(beginning)
    edges = sorted({0, *(cut for cut in cuts if cut < len(rows)), len(rows)})
    pieces = pa.concat_tables([rows.slice(a, b - a) for a, b in pairwise(edges)])
    whole = rows.take(pa.array(range(len(rows))))
    assert encode(pieces, "{}").equals(encode(whole.combine_chunks(), "{}"))


def test_settlements_too_have_the_same_bytes_however_they_lie_in_memory():
    schema = arrow_schema("funding")
    rows = [(YEAR.start + n * HOUR, 0.0001, None if n % 3 else 1.5, None if n < 50 else "Regular") for n in range(100)]
    whole = pa.table([pa.array(list(c), f.type) for c, f in zip(zip(*rows, strict=True), schema, strict=True)], schema=schema)
    pieces = pa.concat_tables([whole.slice(0, 7), whole.slice(7, 60), whole.slice(67)])
    assert encode(pieces, "{}").equals(encode(whole, "{}"))


WRITE = """
import hashlib, sys
from pathlib import Path
import pyarrow as pa
from etl.lake.store import Store
from etl.model import Coverage, Partition, Series
from etl.ranges import TimeRange, iso
from etl.schema import arrow_schema
year = TimeRange(1704067200000, 1735689600000)
rows = pa.table([pa.array(c, f.type) for c, f in zip([[year.start, year.end - 1], [0.5, 1.0], [None, 2.0], [None, "Special"]],
                arrow_schema("funding"))], schema=arrow_schema("funding"))
store = Store.open(Path(sys.argv[1]), network="mainnet", layout="year")
place = Partition(Series("um", "funding", "BTCUSDT"), "2024", year)
store.create("mainnet")
store.replace(place, rows, [Coverage(year, "rest", year.end)], [])
stored = store.stored(place)
print(hashlib.sha256(store.path(place).read_bytes()).hexdigest(), stored.first, stored.last, stored.coverage[0].span)
"""


def test_the_bytes_and_what_is_read_from_them_do_not_depend_on_the_time_zone(tmp_path):
    lines = {
        python(WRITE, str(tmp_path / zone.replace("/", "-")), TZ=zone).stdout
        for zone in ("UTC", "America/New_York", "Asia/Kolkata")
    }
    (line,) = lines
    assert line.split()[1:] == ["1704067200000", "1735689599999", "2024-01-01T00:00:00Z..2025-01-01T00:00:00Z"]


def test_the_same_rows_and_coverage_give_the_same_bytes(tmp_path):
    digests = set()
    for name in ("a", "b"):
        store = Store.open(tmp_path / name, network="mainnet", layout="year")
        path = replace(store, bars(range(YEAR.start, YEAR.end, HOUR)))
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1


# ---- names


@pytest.mark.parametrize(
    ("series", "path"),
    [
        (BARS, "klines/market=um/interval=1m/symbol=BTCUSDT"),
        (Series("um", "klines", "BTCUSDT", "1M"), "klines/market=um/interval=1mo/symbol=BTCUSDT"),
        (Series("cm", "index_klines", "BTCUSD", "1w"), "index_klines/market=cm/interval=1w/symbol=BTCUSD"),
        (FUNDING, "funding/market=um/symbol=BTCUSDT"),
        (Series("um", "funding", "币安人生USDT"), "funding/market=um/symbol=%E5%B8%81%E5%AE%89%E4%BA%BA%E7%94%9FUSDT"),
        (Series("um", "funding", "a b/c%d=e"), "funding/market=um/symbol=a%20b%2Fc%25d%3De"),
        (Series("um", "funding", "A-Z_0.9~"), "funding/market=um/symbol=A-Z_0.9~"),
        (Series("um", "funding", "..."), "funding/market=um/symbol=..."),
        (Series("um", "funding", "../../x"), "funding/market=um/symbol=..%2F..%2Fx"),
        (Series("um", "funding", "x" * 200), "funding/market=um/symbol=" + "x" * 200),
    ],
)
def test_paths(store, series, path):
    assert store.folder(series) == store.root / path
    assert store.path(partition(series)) == store.root / path / "2024.parquet"


@pytest.mark.parametrize("symbol", ["", ".", "..", "A\0B", "x" * 201, "币" * 23, "\udcff"])
def test_symbols_that_cannot_be_a_folders_name_are_refused(store, symbol):
    with pytest.raises(UsageError, match="cannot be stored"):
        store.folder(Series("um", "funding", symbol))


@given(
    st.sets(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12), max_size=4),
    st.sampled_from(["1m", "1M", None]),
)
@settings(max_examples=40)
def test_every_series_is_found_again_by_its_own_name(tmp_path_factory, symbols, interval):
    symbols = {one for one in symbols if one not in {".", ".."} and len(quote(one, safe="")) <= 200}
    symbols = {
        symbol
        for symbol in symbols
        if sum(quote(one, safe="").casefold() == quote(symbol, safe="").casefold() for one in symbols) == 1
    }
    store = Store.open(tmp_path_factory.mktemp("lake"), network="mainnet", layout="year")
    dataset = "klines" if interval else "funding"
    series = {Series("um", dataset, symbol, interval) for symbol in symbols}
    for one in series:
        replace(store, arrow_schema(dataset).empty_table(), at=partition(one))
        assert [stored.partition.series for stored in store.files(one)] == [one]
    assert set(store.series()) == series
    assert len(list(store.series())) == len(series)


def test_series_come_by_dataset_and_path_and_foreign_folders_are_no_series(store):
    names = [
        ("klines", "B", "1m"),
        ("klines", "A", "1M"),
        ("klines", "A", "1m"),
        ("funding", "Z", None),
        ("mark_klines", "A", "1h"),
    ]
    series = [Series("um", dataset, symbol, interval) for dataset, symbol, interval in names]
    for one in series:
        replace(store, arrow_schema(one.dataset).empty_table(), at=partition(one))
    (store.root / "klines" / "market=um" / "interval=7m" / "symbol=A").mkdir(parents=True)
    (store.root / "klines" / "notes").mkdir()
    (store.root / "klines" / "readme.txt").write_text("mine")
    (store.root / "snapshots" / "x" / "funding" / "market=um" / "symbol=A").mkdir(parents=True)
    found = list(store.series())
    assert found == [
        Series("um", "klines", "A", "1m"),
        Series("um", "klines", "B", "1m"),
        Series("um", "klines", "A", "1M"),
        Series("um", "funding", "Z"),
        Series("um", "mark_klines", "A", "1h"),
    ]


def test_a_second_spelling_that_differs_in_case_is_refused(store):
    replace(store, bars([YEAR.start]))
    with pytest.raises(LakeError, match=r"symbol=btcusdt is not stored: .* symbol=BTCUSDT"):
        replace(store, bars([]), at=partition(Series("um", "klines", "btcusdt", "1m")))
    assert [one.symbol for one in store.series()] == ["BTCUSDT"]
    replace(store, bars([]), at=partition(Series("um", "klines", "btcusdt", "5m")))  # another folder
    replace(store, bars([YEAR.start + MINUTE]))


def test_periods_of_a_year_lake(store):
    span = TimeRange(parse_time("2023-12-31T23:59"), parse_time("2025-01-01"))
    for series in (BARS, FUNDING, Series("um", "klines", "BTCUSDT", "1M")):
        assert [one.name for one in store.partitions(series, span)] == ["2023", "2024"]
        assert store.partitions(series, span)[1] == partition(series)
    assert store.partitions(BARS, TimeRange(5, 5)) == []


@pytest.mark.parametrize("interval", INTERVALS)
def test_periods_of_a_month_lake(tmp_path, interval):
    store = Store.open(tmp_path, network="mainnet", layout="month")
    span = TimeRange(parse_time("2023-12-31T23:59"), parse_time("2024-02-01"))
    months = interval in {"1m", "3m", "5m", "15m", "30m"}
    names = [one.name for one in store.partitions(Series("um", "klines", "BTCUSDT", interval), span)]
    assert names == (["2023-12", "2024-01"] if months else ["2023", "2024"])
    assert [one.name for one in store.partitions(FUNDING, span)] == ["2023", "2024"]


def test_files_of_a_month_lake_come_by_time(tmp_path):
    store = Store.open(tmp_path, network="mainnet", layout="month")
    places = store.partitions(BARS, TimeRange(parse_time("2023-11-01"), parse_time("2024-03-01")))
    for place in reversed(places):
        replace(store, bars([place.period.start]), at=place)
    assert [stored.partition for stored in store.files(BARS)] == places
    assert [stored.first for stored in store.files(BARS)] == [place.period.start for place in places]


# ---- what is not a file of this lake


@pytest.fixture(scope="module")
def good_file(tmp_path_factory) -> bytes:
    store = Store.open(tmp_path_factory.mktemp("lake"), network="mainnet", layout="year")
    dice = random.Random(1)
    rows = bars(range(YEAR.start, YEAR.start + 300 * MINUTE, MINUTE))
    noise = pa.array([dice.random() for _ in range(300)])
    return replace(store, rows.set_column(4, rows.schema.field(4), noise)).read_bytes()


def put(store: Store, content: bytes, name: str = "2024.parquet") -> Path:
    path = store.folder(BARS) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@given(st.data())
@settings(max_examples=40)
def test_a_truncated_file_is_an_error_that_names_it(tmp_path_factory, good_file, data):
    store = Store.open(tmp_path_factory.mktemp("lake"), network="mainnet", layout="year")
    path = put(store, good_file[: data.draw(st.integers(0, len(good_file) - 1))])
    for read in (lambda: store.files(BARS), lambda: store.stored(partition()), lambda: store.rows(partition())):
        with pytest.raises(LakeError) as caught:
            read()
        assert str(path) in str(caught.value)


@given(st.data())
@settings(max_examples=100)
def test_a_flipped_bit_never_changes_a_row_silently(tmp_path_factory, good_file, data):
    """Page checksums are written to be looked at: what they cover is the rows. The footer's text is not covered."""
    store = Store.open(tmp_path_factory.mktemp("lake"), network="mainnet", layout="year")
    path = put(store, good_file)
    whole = store.rows(partition())
    footer = int.from_bytes(good_file[-8:-4], "little") + 8
    at, bit = data.draw(st.integers(0, len(good_file) - footer - 1)), data.draw(st.integers(0, 7))
    path.write_bytes(good_file[:at] + bytes([good_file[at] ^ (1 << bit)]) + good_file[at + 1 :])
    try:
        rows = store.rows(partition())
    except LakeError:
        return
    assert rows.equals(whole)


def rewritten(change=lambda about: about, rows: pa.Table | None = None, **options) -> bytes:
    """A file whose footer is changed, as a foreign writer may leave it."""
    about = change({"format": 1, **BARS.as_dict(), "coverage": [], "holes": []})
    rows = bars([YEAR.start]) if rows is None else rows
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, rows.schema, **options) as writer:
        writer.write_table(rows)
        if about is not None:
            writer.add_key_value_metadata({"etl": about if isinstance(about, str) else json.dumps(about)})
    return sink.getvalue().to_pybytes()


FOREIGN = {
    "no footer": rewritten(lambda _: None),
    "no JSON": rewritten(lambda _: "{"),
    "a list": rewritten(lambda _: "[]"),
    "null": rewritten(lambda _: "null"),
    "no coverage": rewritten(lambda about: {k: v for k, v in about.items() if k != "coverage"}),
    "no holes": rewritten(lambda about: {k: v for k, v in about.items() if k != "holes"}),
    "a coverage that ends before it starts": rewritten(
        lambda about: about | {"coverage": [{"start": 2, "end": 1, "source": "rest", "checked": 0}]}
    ),
    "a coverage without source": rewritten(lambda about: about | {"coverage": [{"start": 1, "end": 2, "checked": 0}]}),
    "holes that are no pairs": rewritten(lambda about: about | {"holes": [[1]]}),
    "no statistics": rewritten(write_statistics=False),
    "text for times": rewritten(rows=pa.table({"open_time": ["a"]})),
    "times that no calendar has": rewritten(rows=bars([2**62])),
    "times behind the year 9999": rewritten(rows=bars([2**50])),
}


@pytest.mark.parametrize(
    "content", [b"", b"PAR1PAR1", b"symbol,open\n", *FOREIGN.values()], ids=["empty", "magic", "csv", *FOREIGN]
)
def test_a_foreign_file_is_an_error_that_names_it(store, content):
    path = put(store, content)
    with pytest.raises(LakeError, match="is not a readable file of this lake") as caught:
        store.files(BARS)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "rows",
    [
        pa.table({"x": pa.array([], pa.int64())}).select([]),
        bars([YEAR.start]).drop_columns(["close"]),
        bars([YEAR.start]).set_column(1, "open", pa.array(["text"])),
        bars([YEAR.start]).set_column(1, "open", pa.array([None], pa.float64())),
    ],
    ids=["no columns", "a column less", "text for numbers", "null for a number"],
)
def test_rows_of_another_shape_are_an_error_that_names_the_file(store, rows):
    path = put(store, rewritten(rows=rows))
    with pytest.raises(LakeError, match="is not a readable file of this lake") as caught:
        store.rows(partition())
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "2024-13",
        "2024-1",
        "2024-",
        "24",
        "2024 (copy)",
        "copy of 2024",
        "2024-01-01",
        "２０２４",
        "0000",
        "9999",
        "9999-12",
        "99999",
        ".2024",
    ],
)
def test_a_file_whose_name_is_no_period_is_an_error_that_names_it(store, good_file, name):
    path = put(store, good_file, f"{name}.parquet")
    with pytest.raises(LakeError) as caught:
        store.files(BARS)
    assert str(path) in str(caught.value)


def test_other_files_in_a_folder_are_left_alone(store, good_file):
    put(store, good_file)
    put(store, b"mine", "notes.txt")
    put(store, b"", ".DS_Store")
    assert [stored.partition.name for stored in store.files(BARS)] == ["2024"]


# ---- lake.json


def test_a_lake_is_made_once_and_says_what_it_is(tmp_path):
    store = Store.open(tmp_path / "a" / "lake", network="testnet", layout="month")
    assert not store.exists
    assert not (tmp_path / "a").exists()
    store.create("testnet")
    path = store.root / "lake.json"
    assert json.loads(path.read_text()) == {"format": 1, "network": "testnet", "partition": "month"}
    before = path.stat().st_mtime_ns
    store.create("testnet")
    assert path.stat().st_mtime_ns == before
    assert Store.open(store.root, network="testnet", layout="month").exists


def test_the_partition_of_an_existing_lake_stands(tmp_path):
    Store.open(tmp_path, network="mainnet", layout="month").create("mainnet")
    assert Store.open(tmp_path, network="mainnet", layout="year").layout == "month"


def test_a_lake_of_another_network_is_refused(tmp_path):
    Store.open(tmp_path, network="mainnet", layout="year").create("mainnet")
    with pytest.raises(UsageError, match=r"holds data of mainnet, not of testnet: use another --lake"):
        Store.open(tmp_path, network="testnet", layout="year")


def test_unknown_keys_belong_to_later_versions(tmp_path):
    (tmp_path / "lake.json").write_text('{"format": 1, "network": "mainnet", "partition": "year", "codec": "lz4"}')
    assert Store.open(tmp_path, network="mainnet", layout="month").layout == "year"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "cannot be read"),
        (b"{", "cannot be read"),
        (b"[]", "cannot be read"),
        (b"null", "cannot be read"),
        (b'{"format": 1, "network": "mainnet"}', "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b'{"format": 2, "network": "mainnet", "partition": "year"}', "says format 2, .* use a newer version"),
        (b'{"format": 1, "network": "mainnet", "partition": "day"}', "lake.json"),
    ],
)
def test_a_lake_that_does_not_say_what_it_is_is_an_error(tmp_path, content, text):
    (tmp_path / "lake.json").write_bytes(content)
    with pytest.raises(LakeError, match=text) as caught:
        Store.open(tmp_path, network="mainnet", layout="year")
    assert str(tmp_path / "lake.json") in str(caught.value)


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_lake_that_is_a_file_is_refused_as_no_folder(tmp_path, below):
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(UsageError, match=f"{tmp_path / 'file'} is no folder.*--lake"):
        Store.open(tmp_path / "file" / below, network="mainnet", layout="year")


def test_lake_json_may_be_no_folder(tmp_path):
    (tmp_path / "lake.json").mkdir()
    with pytest.raises(LakeError, match=r"lake\.json cannot be read"):
        Store.open(tmp_path, network="mainnet", layout="year")


# ---- the lock


def test_a_second_writer_is_refused_and_told_who_writes(store):
    refused = pytest.raises(LakeLocked, match=rf"process {os.getpid()} is writing to the lake .*--wait")
    with store.lock(), refused, Store(store.root, "year").lock():
        raise AssertionError("two writers")
    with store.lock():
        pass


def test_of_former_writers_nothing_is_said(store):
    store.root.mkdir()
    (store.root / ".lock").write_text("process 123456789 of long ago")
    with store.lock(), pytest.raises(LakeLocked, match=rf"^process {os.getpid()} is writing"), store.lock():
        raise AssertionError("two writers")


def test_a_second_writer_may_wait(store):
    pauses: list[float] = []
    first = store.lock()

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            first.__exit__(None, None, None)

    first.__enter__()
    with Store(store.root, "year").lock(wait=60, sleep=sleep):
        assert len(pauses) == 3
    assert all(0 < pause <= 1 for pause in pauses)


def test_waiting_has_an_end(store):
    pauses: list[float] = []
    with store.lock(), pytest.raises(LakeLocked), store.lock(wait=0.01, sleep=pauses.append):
        raise AssertionError("two writers")
    assert pauses


def test_who_is_asked_to_stop_waits_no_longer(store):
    """The pause of a run is the `wait` of its stop signal, which returns at once, and true, when it is set."""
    calls: list[float] = []

    def stopped(seconds: float) -> bool:
        calls.append(seconds)
        return True

    cancelled = pytest.raises(Cancelled, match="stopped while another process was writing")
    with store.lock(), cancelled, store.lock(wait=3600, sleep=stopped):
        raise AssertionError("two writers")
    assert len(calls) == 1


def test_an_error_frees_the_lock(store):
    with pytest.raises(ZeroDivisionError), store.lock():
        raise ZeroDivisionError
    with store.lock():
        pass


HOLD = """
import sys
from pathlib import Path
from etl.lake.files import temporary
from etl.lake.store import Store
store = Store.open(Path(sys.argv[1]), network="mainnet", layout="year")
with store.lock():
    temporary(store.root).write_bytes(b"half a file")
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_the_lock_of_a_killed_writer_is_free_and_what_it_left_goes(store):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        try:
            assert writer.stdout.readline() == "locked\n"
            assert len(list((store.root / ".tmp").iterdir())) == 1
            with pytest.raises(LakeLocked, match=f"process {writer.pid} is writing"), store.lock():
                raise AssertionError("two writers")
            assert len(list((store.root / ".tmp").iterdir())) == 1  # that of a living writer stays
        finally:
            writer.kill()
    with store.lock():
        assert list((store.root / ".tmp").iterdir()) == []


def test_a_lake_that_cannot_be_made_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for root in (tmp_path / "file", tmp_path / "file" / "lake"):
        store = Store(root, "year")
        with pytest.raises(LakeError, match="file"):
            store.create("mainnet")
        with pytest.raises(LakeError, match=r"cannot write to the lake .*file"), store.lock():
            raise AssertionError("no lake, no lock")


def test_what_is_in_the_way_of_the_lock_is_an_error_that_names_the_lake(store):
    (store.root / ".lock").mkdir(parents=True)
    with pytest.raises(LakeError, match="cannot write to the lake"), store.lock():
        raise AssertionError("a folder is no lock")
