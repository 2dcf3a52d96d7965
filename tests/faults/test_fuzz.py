"""Every parser against documents that are nearly right, and against noise: what comes out is typed, whole, or an EtlError.

A second a parser here; with ETL_SOAK=1 two hundred times as many examples.
"""

import hashlib
import json
import math
import os
import shutil
from dataclasses import fields
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from etl import config, registry
from etl.errors import EtlError
from etl.extract import bulk, wire
from etl.extract.conversation import http_date, judge, retry_after, used_weight
from etl.extract.http import Answer
from etl.lake.store import FOOTER_KEY, Store, encode
from etl.lake.symbols import Symbols
from etl.model import SOURCES, Coverage, Partition, Series, SymbolRules
from etl.ranges import DAY, MAX_TIME, TimeRange, iso, parse_duration, parse_time
from etl.schema import arrow_schema
from etl.sim.archive import Archive
from etl.sim.exchange import Exchange, Request
from etl.sim.faults import Faults
from etl.sim.market import GeneratedWorld
from etl.sim.replay import ReplayWorld
from etl.sim.zips import Member, pack

from .mutations import reshaped, wrong, wrong_json

SOAK = os.environ.get("ETL_SOAK") == "1"
NOW = parse_time("2026-03-01T12:00:30")
JANUARY = TimeRange(parse_time("2026-01-01"), parse_time("2026-02-01"))


def fuzz(**documents):
    """Runs the test with so many documents that it takes some seconds at most; files may be written anew each time."""
    health = [
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
    ]
    bounded = settings(max_examples=20_000 if SOAK else 100, suppress_health_check=health)
    return lambda test: bounded(given(**documents)(test))


def asked(path, **params):
    """A true body of the exchange."""
    answer = Exchange(WORLD).answer(Request(path, {name: str(value) for name, value in params.items()}), NOW)
    assert answer.status == 200
    return answer.body


WORLD = GeneratedWorld(seed=5, symbols=4)
PAGE = {"symbol": "BTCUSDT", "startTime": JANUARY.start, "limit": 3}
KLINES = asked("/fapi/v1/klines", interval="1h", **PAGE)
MARKS = asked("/fapi/v1/markPriceKlines", interval="1h", **PAGE)
FUNDING = asked("/fapi/v1/fundingRate", **PAGE)
INFO = json.dumps(
    json.loads(asked("/fapi/v1/exchangeInfo")) | {"symbols": json.loads(asked("/fapi/v1/exchangeInfo"))["symbols"][:2]}
).encode()
NAME = "BTCUSDT-1h-2026-01"
LINES = b"".join(line + b"\n" for line in WORLD.lines(Series("um", "klines", "BTCUSDT", "1h"), JANUARY).splitlines()[:4])
HEADER = b"open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore\n"
RATES = b"calc_time,funding_interval_hours,last_funding_rate\n1751328000007,8,0.00008191\n1751356800000,8,-0.0001\n"
ZIP = pack([Member(f"{NAME}.csv", HEADER + LINES)], JANUARY.end)
LISTING = (
    Archive(WORLD)
    .answer(Request("/", {"prefix": "data/futures/um/monthly/klines/BTCUSDT/1d/", "delimiter": "/", "max-keys": "3"}), NOW)
    .body
)
CHECKSUM = f"{hashlib.sha256(ZIP).hexdigest()}  {NAME}.zip\n".encode()


def attempt(parse, *arguments):
    """What comes out, None where an EtlError does."""
    try:
        return parse(*arguments)
    except EtlError:
        return None


def assert_rows(table, dataset):
    """Exactly the declared columns, every number finite, every time one that can be written."""
    assert table.schema == arrow_schema(dataset)
    table.validate(full=True)
    for column in registry.dataset(dataset).columns:
        values = table[column.name]
        assert column.nullable or values.null_count == 0
        if column.type == "float" and len(values) > values.null_count:
            assert pc.all(pc.is_finite(values)).as_py()
        if column.type == "time":
            assert all(0 <= time <= MAX_TIME for time in values.cast(pa.int64()).to_pylist())


# ---- what the exchange says


PAGES = {"klines": KLINES, "mark_klines": MARKS, "funding": FUNDING}


@pytest.mark.parametrize("dataset", PAGES)
@fuzz(data=st.data())
def test_pages(dataset, data):
    table = attempt(wire.decoder(dataset), data.draw(wrong_json(PAGES[dataset])))
    if table is not None:
        assert_rows(table, dataset)


@fuzz(body=wrong_json(FUNDING))
def test_pages_of_all_symbols(body):
    tables = attempt(wire.decoder_by_symbol("funding"), body) or {}
    for symbol, table in tables.items():
        assert isinstance(symbol, str)
        assert_rows(table, "funding")


@fuzz(body=wrong_json(INFO))
def test_exchange_info(body):
    info = attempt(wire.exchange_info, body)
    if info is None:
        return
    assert 0 <= info.server_time <= MAX_TIME
    assert info.weight_limit is None or isinstance(info.weight_limit, int)
    for rules in info.symbols:
        for field in fields(SymbolRules):
            value = getattr(rules, field.name)
            if value is None:
                assert field.name != "symbol"
            elif field.name.endswith("_time"):
                assert iso(value)  # a time that nobody could write down
            else:
                assert isinstance(value, str) or math.isfinite(value)


@fuzz(body=wrong_json(b'{"serverTime":1772366430000}'))
def test_server_time(body):
    time = attempt(wire.server_time, body)
    assert time is None or 0 <= time <= MAX_TIME


@fuzz(body=wrong_json(asked("/fapi/v1/ticker/bookTicker", symbol="BTCUSDT")))
def test_book_tickers(body):
    for ticker in attempt(wire.book_tickers, body) or ():
        assert all(map(math.isfinite, (ticker.bid, ticker.bid_qty, ticker.ask, ticker.ask_qty)))


@fuzz(body=wrong_json(asked("/fapi/v1/depth", symbol="BTCUSDT", limit=5)))
def test_depth(body):
    book = attempt(wire.depth, body)
    if book is not None:
        assert all(math.isfinite(level.price) and math.isfinite(level.qty) for level in (*book.bids, *book.asks))


HEADERS = ["x-mbx-used-weight-1m", "retry-after", "date", "location"]
HEADER_VALUES = (
    st.text(max_size=40)
    | st.from_regex(r"-?[0-9]{1,400}(\.[0-9]+)?(e[0-9]+)?", fullmatch=True)
    | wrong(b"Wed, 21 Oct 2026 07:28:00 GMT").map(lambda raw: raw.decode("latin-1"))
    | st.sampled_from(["nan", "inf", "-1", "٣", "Mon, 01 Jan 0001 00:00:00 +2359", "Fri, 31 Dec 9999 23:59:59 -2359"])
)


@fuzz(
    status=st.sampled_from([200, 302, 400, 403, 408, 418, 429, 451, 500, 503, 600]),
    headers=st.dictionaries(st.sampled_from(HEADERS), HEADER_VALUES),
    body=wrong_json(b'{"code":-1003,"msg":"Way too many requests; IP banned until 1772366430000."}'),
    now=st.none() | st.just(NOW),
)
@example(status=418, headers={"retry-after": "0", "date": "31 DEC 9999 23:55:0-5"}, body=b"", now=None)
def test_statuses_and_headers(status, headers, body, now):
    """Nothing in an answer stops the judgement of it, nor makes anybody wait for ever."""
    weight = used_weight(headers)
    assert weight is None or 0 <= weight < 10**9
    wait = retry_after(headers, now)
    assert wait is None or 0 <= wait <= 3 * 86_400
    date = http_date(headers.get("date"))
    assert date is None or isinstance(date, int)
    error = judge(Answer("https://fapi.binance.com/x", status, headers, body, len(body)), now)
    assert (error is None) == (status == 200)
    assert error is None or (isinstance(error, EtlError) and str(error))


# ---- what the archive says


@pytest.mark.parametrize(
    ("csv", "dataset"), [(HEADER + LINES, "klines"), (LINES, "klines"), (RATES, "funding")], ids=["header", "bare", "funding"]
)
@fuzz(data=st.data())
def test_csv(csv, dataset, data):
    table = attempt(bulk.rows, data.draw(wrong(csv)), dataset)
    if table is not None:
        assert_rows(table, dataset)


@fuzz(zipped=wrong(ZIP))
def test_zips(zipped):
    """The CRC stands for every byte of the member; a zip that is accepted holds what was packed."""
    member = attempt(bulk.member, zipped, f"{NAME}.zip")
    assert member in {None, HEADER + LINES}


@fuzz(csv=wrong(HEADER + LINES), method=st.sampled_from([0, 8]), name=st.sampled_from([NAME, f"../../{NAME}", "x"]))
def test_sound_zips_of_anything(csv, method, name):
    table = attempt(bulk.table, pack([Member(f"{name}.csv", csv, method)], JANUARY.end), f"{NAME}.zip", "klines")
    if table is not None:
        assert name == NAME
        assert len(table)
        assert_rows(table, "klines")


@fuzz(body=wrong(CHECKSUM))
def test_checksums(body):
    digest = attempt(bulk.checksum, body, f"{NAME}.zip")
    if digest is not None:
        assert len(bytes.fromhex(digest)) == 32
        assert f"{NAME}.zip".encode() in body


@fuzz(body=wrong(LISTING))
@example(body=LISTING.replace(b"<Size>", b"<Size>-"))
def test_listings(body):
    page = attempt(bulk.listing, body)
    if page is not None:
        assert all(isinstance(one.key, str) and isinstance(one.etag, str) and one.size >= 0 for one in page.objects)
        assert all(isinstance(folder, str) for folder in page.folders)


# ---- what users write


TOML = b'lake = "data/lake"\nworkers = 4\nweight_share = 0.5\num_url = "https://fapi.binance.com"\npartition = "month"\n'
UNIVERSE = (
    b'[[series]]\nmarket = "um"\ndatasets = ["klines", "funding"]\nsymbols = ["BTCUSDT"]\n'
    b'interval = ["1m", "1h"]\nstart = 2024-01-01\n'
)
DEEP = b"x = " + b"[" * 100_000


@fuzz(content=wrong(TOML))
@example(content=DEEP)
def test_configuration(tmp_path, content):
    path = tmp_path / "etl.toml"
    path.write_bytes(content)
    found = attempt(lambda: config.load({"config": str(path)}, env={"HOME": str(tmp_path)}, cwd=tmp_path))
    if found is not None:
        assert found.workers >= 1
        assert 0 < found.weight_share <= 1
        assert found.lake.is_absolute()


@fuzz(content=wrong(UNIVERSE))
@example(content=DEEP)
@example(content=UNIVERSE.replace(b"2024-01-01", b"0001-01-01T00:00:00+23:59"))
@example(content=UNIVERSE.replace(b"2024-01-01", b"12:30:00"))
def test_universe(tmp_path, content):
    path = tmp_path / "universe.toml"
    path.write_bytes(content)
    for entry in attempt(config.load_universe, path) or ():
        assert all(isinstance(symbol, str) and symbol for symbol in entry.symbols)
        assert entry.start is None or 0 <= entry.start <= MAX_TIME


@fuzz(text=wrong(b"2024-01-31T12:00:00.123+05:30").map(lambda raw: raw.decode("utf-8", "replace")))
@example(text="9" * 5000)
@example(text="0001-01-01T00:00:00+23:59")
def test_times(text):
    time = attempt(parse_time, text)
    assert time is None or 0 <= time <= MAX_TIME


@fuzz(
    text=wrong(b"90min").map(lambda raw: raw.decode("utf-8", "replace"))
    | st.from_regex(r"[0-9]{1,30}[a-z]{0,3}", fullmatch=True)
)
@example(text="9" * 5000 + "d")
@example(text="٣d")
@example(text="²s")
def test_durations(text):
    duration = attempt(parse_duration, text)
    assert duration is None or duration >= 0


FAULTS = b"""seed = 7
[[rule]]
path = "klines"
every = 3
action = "short_page"
drop = 5
[[archive]]
key = "1m"
defect = "crlf"
"""


@pytest.mark.parametrize("suffix", ["toml", "json"])
@fuzz(data=st.data())
def test_fault_files(tmp_path, suffix, data):
    as_json = b'{"seed":7,"rule":[{"path":"klines","every":3,"action":"short_page","drop":5}],"archive":[{"defect":"crlf"}]}'
    path = tmp_path / f"faults.{suffix}"
    path.write_bytes(data.draw(st.just(DEEP) | (wrong(FAULTS) if suffix == "toml" else wrong_json(as_json))))
    faults = attempt(Faults.load, path)
    assert faults is None or all(rule.every > 0 for rule in faults.rules)


REPLAYED = {
    "um/BTCUSDT-1h.csv": HEADER + LINES,
    "um/BTCUSDT-1h-2026-01.csv": LINES,
    "um/fundingRate-BTCUSDT.json": FUNDING,
    "um/klines-BTCUSDT-1h.json": KLINES,
    "um/exchangeInfo.json": INFO,
    f"um/{NAME}.zip": ZIP,
}


@pytest.mark.parametrize("name", REPLAYED)
@fuzz(data=st.data())
def test_replays(tmp_path, name, data):
    """A recorded file is served or left out, and what is served can be asked for."""
    folder = tmp_path / "recorded"
    shutil.rmtree(folder, ignore_errors=True)
    path = folder / name
    path.parent.mkdir(parents=True)
    original = REPLAYED[name]
    path.write_bytes(data.draw(wrong_json(original) if path.suffix == ".json" else wrong(original)))
    world = attempt(lambda: ReplayWorld(folder, quiet=True))
    if world is not None:
        assert {*world.served} == {name}


# ---- what lies in the lake


HOURS = Series("um", "klines", "BTCUSDT", "1h")
YEAR = Partition(HOURS, "2026", TimeRange(parse_time("2026-01-01"), parse_time("2027-01-01")))
ENTRIES = [
    Coverage(TimeRange(JANUARY.start, JANUARY.start + DAY), "rest", NOW - NOW % DAY),
    Coverage(
        TimeRange(JANUARY.start + DAY, JANUARY.end), "archive", NOW - NOW % DAY, "data/x.zip", "ab" * 32, "tag", ("cd" * 32,)
    ),
]


@pytest.fixture
def lake(tmp_path):
    store = Store.open(tmp_path / "lake", network="mainnet", layout="year")
    store.create("mainnet")
    rows = bulk.rows(LINES, "klines")
    store.replace(
        YEAR, rows, ENTRIES, [TimeRange(JANUARY.start, JANUARY.start + 3_600_000)], wanted=JANUARY.start, lost=[JANUARY]
    )
    return store


@pytest.fixture
def about(lake):
    """What the footer of the file says, as JSON."""
    return pq.read_metadata(lake.path(YEAR)).metadata[FOOTER_KEY]


def looked_at(lake):
    return attempt(lake.read, HOURS, lake.path(YEAR)), attempt(lake.rows, YEAR)


def assert_stored(stored):
    """What everybody who reads a footer goes on with."""
    spans = [*stored.holes, *stored.lost, *(entry.span for entry in stored.coverage)]
    assert all(type(time) is int for span in spans for time in (span.start, span.end))
    assert all(span.start <= span.end for span in spans)
    assert stored.wanted is None or type(stored.wanted) is int
    for entry in stored.coverage:
        assert entry.source in SOURCES
        assert type(entry.checked) is int
        assert all(text is None or isinstance(text, str) for text in (entry.key, entry.sha256, entry.etag, *entry.former))


@fuzz(data=st.data())
def test_footers(lake, about, data):
    """A file of this lake but for what its footer says."""
    rows = bulk.rows(LINES, "klines")
    said = data.draw(reshaped(about) | wrong_json(about))
    lake.path(YEAR).write_bytes(encode(rows, said.decode("utf-8", "replace")))
    stored, kept = looked_at(lake)
    assert kept == rows
    if stored is not None:
        assert stored.rows == len(rows)
        assert_stored(stored)


@fuzz(data=st.data())
def test_files_of_the_lake(lake, about, data):
    """Any accident to the bytes of a file."""
    original = encode(bulk.rows(LINES, "klines"), about.decode()).to_pybytes()
    lake.path(YEAR).write_bytes(data.draw(wrong(original)))
    stored, kept = looked_at(lake)
    assert kept is None or kept.schema == arrow_schema("klines")
    if stored is not None:
        assert_stored(stored)


@fuzz(content=wrong_json(b'{"format": 1, "network": "mainnet", "partition": "year"}\n'))
@example(content=b"[" * 100_000)
def test_the_file_that_says_what_the_lake_is(tmp_path, content):
    (tmp_path / "lake.json").write_bytes(content)
    store = attempt(lambda: Store.open(tmp_path, network="mainnet", layout="month"))
    assert store is None or store.layout in {"year", "month"}


@fuzz(data=st.data())
def test_symbols_of_the_lake(tmp_path, data):
    path, symbols = tmp_path / "symbols" / "market=um" / "symbols.parquet", Symbols(tmp_path, "um")
    if not path.exists():
        symbols.update(wire.exchange_info(INFO).symbols, {})
        path.rename(tmp_path / "right.parquet")
    path.write_bytes(data.draw(wrong((tmp_path / "right.parquet").read_bytes())))
    contracts = attempt(symbols.contracts)
    assert contracts is None or all(isinstance(rows, list) and rows for rows in contracts.values())


def test_the_documents_are_right_before_they_are_spoilt(lake):
    """So that what the fuzzers start from gets past the first check of each parser."""
    for dataset, body in PAGES.items():
        assert len(wire.decoder(dataset)(body)) == 3
    assert wire.exchange_info(INFO).symbols
    assert len(bulk.table(ZIP, f"{NAME}.zip", "klines")) == 4
    assert len(bulk.rows(RATES, "funding")) == 2
    assert bulk.checksum(CHECKSUM, f"{NAME}.zip") == hashlib.sha256(ZIP).hexdigest()
    keys = [one.key for one in bulk.listing(LISTING).objects]
    assert keys
    assert all(first < second for first, second in pairwise(keys))
    stored, rows = looked_at(lake)
    assert stored.coverage == tuple(ENTRIES)
    assert rows == bulk.rows(LINES, "klines")
