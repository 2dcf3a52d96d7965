"""The bulk archive over the wire: layout, listing, publication, ranges, content, and each declared defect."""

from __future__ import annotations

import hashlib
import http.client
import io
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.errors import UsageError
from etl.ranges import DAY, HOUR, MINUTE, iso, parse_time
from etl.sim import defects as module
from etl.sim.archive import Archive
from etl.sim.clock import Clock
from etl.sim.contracts import default_contracts
from etl.sim.defects import DEFECTS
from etl.sim.exchange import Request
from etl.sim.faults import Faults
from etl.sim.market import GeneratedWorld, Hole
from etl.sim.replay import ReplayWorld
from etl.sim.server import Simulator

from .conftest import NOW, Reply, fetch

Start = Callable[..., Simulator]
Row = list[str]
UM, CM = "data/futures/um", "data/futures/cm"
DAY_KEY = f"{UM}/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2024-05-17.zip"
HOURS = f"{UM}/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2024-05.zip"
MAY = parse_time("2024-05-01")
FUNDING_HEADER = "calc_time,funding_interval_hours,last_funding_rate"
HEADER = "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"


def get(sim: Simulator, key: str, method: str = "GET", **headers: str) -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", int(sim.url.rpartition(":")[2]), timeout=30)
    try:
        connection.request(method, f"/{quote(key)}", headers={name.replace("_", "-"): text for name, text in headers.items()})
        response = connection.getresponse()
        return Reply(response.status, {name.lower(): text for name, text in response.getheaders()}, response.read())
    finally:
        connection.close()


def listed(sim: Simulator, path: str = "/", **params: object) -> tuple[list[dict[str, str]], list[str], dict[str, str]]:
    """Contents, common prefixes and the other fields of a page of the listing."""
    reply = fetch(sim, path, **{name.replace("_", "-"): value for name, value in params.items()})
    assert (reply.status, reply.headers["content-type"]) == (200, "application/xml")
    namespace = "{http://s3.amazonaws.com/doc/2006-03-01/}"
    root = ET.fromstring(reply.raw)
    assert root.tag == f"{namespace}ListBucketResult"
    contents = [
        {field.tag.removeprefix(namespace): field.text or "" for field in one} for one in root.iter(f"{namespace}Contents")
    ]
    prefixes = [one[0].text or "" for one in root.iter(f"{namespace}CommonPrefixes")]
    fields = {one.tag.removeprefix(namespace): one.text or "" for one in root if not len(one)}
    return contents, prefixes, fields


def every_key(sim: Simulator, prefix: str, **params: Any) -> list[str]:
    keys: list[str] = []
    while True:
        contents, prefixes, fields = listed(sim, prefix=prefix, marker=keys[-1] if keys else "", **params)
        keys += sorted([one["Key"] for one in contents] + prefixes)
        if fields["IsTruncated"] == "false":
            return keys
        assert fields.get("NextMarker", keys[-1]) == keys[-1]


def member(reply: Reply) -> tuple[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(reply.raw)) as zipped:
        assert zipped.testzip() is None
        (name,) = zipped.namelist()
        return name, zipped.read(name)


def table(sim: Simulator, key: str) -> list[Row]:
    """The rows of a sound zip, without its header; its CHECKSUM fits."""
    reply = get(sim, key)
    assert reply.status == 200, reply.raw
    name, text = member(reply)
    assert name == key.rpartition("/")[2].replace(".zip", ".csv")
    line = get(sim, f"{key}.CHECKSUM").raw.decode()
    assert line.rstrip("\n") == f"{hashlib.sha256(reply.raw).hexdigest()}  {key.rpartition('/')[2]}"
    assert text.endswith(b"\n")
    rows = [line.split(",") for line in text.decode().splitlines()]
    return rows[1:] if not rows[0][0].isdecimal() else rows


def values(rows: list[Row], unit: int = 1) -> list[list[float]]:
    return [[int(row[0]) // unit, *map(float, row[1:6]), int(row[6]) // unit, *map(float, row[7:])] for row in rows]


def expected(world: Any, market: str, dataset: str, symbol: str, interval: str, start: int, end: int) -> list[list[float]]:
    return [[float(text) for text in row] for row in world.truth(market, dataset, symbol, interval, start, end)]


# --- layout and content (binance-facts 9.2-9.4)


@pytest.mark.parametrize(
    ("market", "dataset", "folder", "symbol", "interval", "period"),
    [
        ("um", "klines", "monthly/klines", "BTCUSDT", "1m", "2020-01-01/2020-02-01"),
        ("um", "klines", "monthly/klines", "BTCUSDT", "1M", "2024-05-01/2024-06-01"),
        ("um", "klines", "monthly/klines", "BTCUSDT", "1w", "2024-05-01/2024-06-01"),
        ("um", "klines", "monthly/klines", "XLMUSDT", "5m", "2024-01-01/2024-02-01"),
        ("um", "klines", "daily/klines", "BTCUSDT", "1m", "2019-12-31/2020-01-01"),
        ("um", "klines", "daily/klines", "BTCUSDT", "1d", "2024-05-17/2024-05-18"),
        ("um", "klines", "daily/klines", "币安人生USDT", "1h", "2025-10-09/2025-10-10"),
        ("um", "mark_klines", "daily/markPriceKlines", "BTCUSDT", "1m", "2019-12-23/2019-12-24"),
        ("um", "index_klines", "monthly/indexPriceKlines", "BTCUSDT", "15m", "2022-07-01/2022-08-01"),
        ("um", "premium_klines", "monthly/premiumIndexKlines", "BTCUSDT", "4h", "2024-05-01/2024-06-01"),
        ("cm", "klines", "monthly/klines", "BTCUSD_PERP", "1h", "2020-08-01/2020-09-01"),
        ("cm", "index_klines", "daily/indexPriceKlines", "BTCUSD", "1m", "2024-05-17/2024-05-18"),
        ("spot", "klines", "monthly/klines", "BTCUSDT", "1h", "2024-12-01/2025-01-01"),
        ("spot", "klines", "daily/klines", "BTCUSDT", "1m", "2021-08-13/2021-08-14"),
        ("spot", "klines", "monthly/klines", "BTCUSDT", "1M", "2025-03-01/2025-04-01"),
    ],
)
def test_bars_are_the_truth(
    sim: Simulator, world: GeneratedWorld, market: str, dataset: str, folder: str, symbol: str, interval: str, period: str
) -> None:
    label, date = interval.replace("1M", "1mo"), period[: 10 if "daily" in folder else 7]
    base = {"um": UM, "cm": CM, "spot": "data/spot"}[market]
    key = f"{base}/{folder}/{symbol}/{label}/{symbol}-{label}-{date}.zip"
    start, end = map(parse_time, period.split("/"))
    unit = 1000 if market == "spot" and period >= "2025" else 1
    rows = table(sim, key)
    assert values(rows, unit) == expected(world, market, dataset, symbol, interval, start, end) != []
    assert all(int(row[6]) % unit == unit - 1 for row in rows)


@pytest.mark.parametrize(
    ("key", "header", "newline", "unit"),
    [
        (f"{UM}/monthly/klines/ADAUSDT/1d/ADAUSDT-1d-2022-04.zip", None, False, 13),
        (f"{UM}/monthly/klines/ADAUSDT/1d/ADAUSDT-1d-2022-05.zip", HEADER, False, 13),
        (f"{UM}/monthly/markPriceKlines/ADAUSDT/1d/ADAUSDT-1d-2025-01.zip", HEADER, True, 13),
        (f"{CM}/monthly/klines/ADAUSD_PERP/1d/ADAUSD_PERP-1d-2026-05.zip", HEADER, True, 13),
        ("data/spot/monthly/klines/BNBUSDT/1d/BNBUSDT-1d-2024-12.zip", None, False, 13),
        ("data/spot/monthly/klines/BNBUSDT/1d/BNBUSDT-1d-2025-01.zip", None, True, 16),
        (f"{UM}/monthly/fundingRate/ADAUSDT/ADAUSDT-fundingRate-2024-05.zip", FUNDING_HEADER, False, 13),
    ],
)
def test_headers_units_and_checksums_go_by_market_and_date(
    sim: Simulator, key: str, header: str | None, newline: bool, unit: int
) -> None:
    lines = member(get(sim, key))[1].decode().split("\n")
    assert lines[-1] == ""
    assert (lines[0] if header else None) == header
    assert len(lines[1].partition(",")[0]) == unit
    assert get(sim, f"{key}.CHECKSUM").raw.endswith(b"\n") == newline


@pytest.mark.parametrize(("month", "zero"), [("2023-12", r"0\.0+"), ("2024-01", "0")])
def test_zeros_of_futures_are_bare_since_2024(sim: Simulator, month: str, zero: str) -> None:
    rows = table(sim, f"{UM}/monthly/klines/ETHUSDT/1m/ETHUSDT-1m-{month}.zip")
    quiet = [row for row in rows if float(row[5]) == 0]
    assert quiet
    for row in quiet:
        assert all(re.fullmatch(zero, row[at]) for at in (5, 7, 9, 10)), row
        assert row[8] == row[11] == "0"


def test_settlements_are_the_truth(sim: Simulator, world: GeneratedWorld) -> None:
    for symbol, month, hours in (
        ("BTCUSDT", "2026-07", {"8"}),
        ("NEARUSDT", "2023-11", {"1"}),
        ("SOLUSDT", "2022-06", {"1", "2", "4"}),
    ):
        start = parse_time(f"{month}-01")
        rows = table(sim, f"{UM}/monthly/fundingRate/{symbol}/{symbol}-fundingRate-{month}.zip")
        truth = world.truth("um", "funding", symbol, None, start, start + 31 * DAY)
        truth = [row for row in truth if row["fundingTime"] < parse_time(f"{month[:5]}{int(month[5:]) + 1:02d}-01")]
        assert [(int(row[0]), row[2]) for row in rows] == [(row["fundingTime"], row["fundingRate"]) for row in truth] != []
        assert {row[1] for row in rows} <= hours
    special = table(sim, f"{UM}/monthly/fundingRate/TSLAUSDT/TSLAUSDT-fundingRate-2026-09.zip")
    assert len(special) == 90, "the archive has no column for special rates"


def test_there_are_only_the_files_that_there_are(sim: Simulator) -> None:
    for key in (
        f"{UM}/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2019-12-30.zip",  # before the archive
        f"{UM}/daily/markPriceKlines/BTCUSDT/1m/BTCUSDT-1m-2019-12-22.zip",
        f"{UM}/monthly/klines/BTCUSDT/1m/BTCUSDT-1m-2019-12.zip",
        f"{UM}/daily/klines/BTCUSDT/1w/BTCUSDT-1w-2024-05-13.zip",  # monthly only
        f"{UM}/daily/klines/BTCUSDT/1mo/BTCUSDT-1mo-2024-05-01.zip",
        f"{UM}/daily/fundingRate/BTCUSDT/BTCUSDT-fundingRate-2024-05-01.zip",
        f"{UM}/monthly/klines/BTCUSDT/1M/BTCUSDT-1M-2024-05.zip",
        f"{UM}/monthly/klines/BTCUSDT/1m/ETHUSDT-1m-2024-05.zip",
        f"{UM}/monthly/klines/NOPE/1m/NOPE-1m-2024-05.zip",
        f"{UM}/monthly/klines/SOONUSDT/1m/SOONUSDT-1m-2026-05.zip",
        f"{UM}/monthly/klines/OCEANUSDT/1m/OCEANUSDT-1m-2024-08.zip",  # after its end
        f"{UM}/monthly/fundingRate/BTCUSDT_261225/BTCUSDT_261225-fundingRate-2026-08.zip",
        f"{CM}/monthly/premiumIndexKlines/BTCUSD_261225/1h/BTCUSD_261225-1h-2026-08.zip",
        "data/spot/monthly/markPriceKlines/BTCUSDT/1h/BTCUSDT-1h-2024-05.zip",
        "data/nothing/at/all",
        "data/",
        "data",
        f"{UM}/monthly/klines/BTCUSDT/1m/",
    ):
        reply = get(sim, key)
        assert (reply.status, reply.headers["content-type"]) == (404, "application/xml"), key
        assert ET.fromstring(reply.raw).findtext("Code") == "NoSuchKey"
        assert get(sim, f"{key}.CHECKSUM").status == 404


# --- what only the archive remembers


def test_a_forgotten_contract_is_in_the_archive_alone(sim: Simulator, world: GeneratedWorld) -> None:
    assert fetch(sim, "/fapi/v1/klines", symbol="SRMUSDT", interval="1h").body["code"] == -1121
    assert fetch(sim, "/fapi/v1/fundingRate", symbol="SRMUSDT").body["code"] == -1121
    assert "SRMUSDT" not in {one["symbol"] for one in fetch(sim, "/fapi/v1/exchangeInfo").body["symbols"]}
    everything = world.truth("um", "klines", "SRMUSDT", "1d", 0, NOW)
    keys = [key for key in every_key(sim, f"{UM}/monthly/klines/SRMUSDT/1d/") if key.endswith(".zip")]
    assert values([row for key in keys for row in table(sim, key)]) == [[float(text) for text in row] for row in everything]
    assert (keys[0][-11:-4], keys[-1][-11:-4]) == ("2021-01", "2022-11")
    assert f"{UM}/monthly/fundingRate/SRMUSDT/" in listed(sim, prefix=f"{UM}/monthly/fundingRate/", delimiter="/")[1]


def test_a_reused_ticker_has_both_contracts_in_one_folder(sim: Simulator, world: GeneratedWorld) -> None:
    young = fetch(sim, "/fapi/v1/klines", symbol="LUNAUSDT", interval="1d", startTime=1, limit=1).body[0][0]
    assert young == parse_time("2022-09-10")
    months = re.findall(r"1d-(\d{4}-\d\d)\.zip$", "\n".join(every_key(sim, f"{UM}/monthly/klines/LUNAUSDT/1d/")), re.MULTILINE)
    assert (months[0], months[14:16]) == ("2021-03", ["2022-05", "2022-09"])
    rows = world.truth("um", "klines", "LUNAUSDT", "1d", 0, parse_time("2022-10-01"))
    gaps = [(row[0], later[0]) for row, later in pairwise(rows) if later[0] - row[0] > DAY]
    assert gaps == [(parse_time("2022-05-13"), young)]
    old = table(sim, f"{UM}/monthly/klines/LUNAUSDT/1d/LUNAUSDT-1d-2022-05.zip")
    assert values(old) == [[float(text) for text in row] for row in rows if parse_time("2022-05-01") <= row[0] <= gaps[0][0]]
    settled = every_key(sim, f"{UM}/monthly/klines/ICPUSDT", delimiter="/")
    assert [key.split("/")[-2] for key in settled] == ["ICPUSDT", "ICPUSDT_SETTLED"]
    assert fetch(sim, "/fapi/v1/klines", symbol="ICPUSDT_SETTLED", interval="1h").body["code"] == -1121


# --- publication


@pytest.mark.parametrize(
    ("key", "time"),
    [
        (f"{UM}/daily/klines/BTCUSDT/1h/BTCUSDT-1h-2026-05-31.zip", "2026-06-01T08:00"),
        (f"{UM}/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2026-05.zip", "2026-06-01T08:00"),  # a Monday
        (f"{UM}/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2026-06.zip", "2026-07-06T08:00"),
        (f"{UM}/monthly/fundingRate/BTCUSDT/BTCUSDT-fundingRate-2026-06.zip", "2026-07-01T08:06"),
    ],
)
def test_files_appear_by_the_exchanges_clock(start: Start, world: GeneratedWorld, key: str, time: str) -> None:
    sim = start(clock=Clock(parse_time(time) - 1, frozen=True))
    folder = key[: key.rindex("/") + 1]
    for _ in range(2):
        there = sim.clock.now() >= parse_time(time)
        assert [get(sim, one).status for one in (key, f"{key}.CHECKSUM")] == [200 if there else 404] * 2
        assert (key in [one["Key"] for one in listed(sim, prefix=folder, marker=key[:-6])[0]]) is there
        sim.clock.advance(1)
    headers = get(sim, key).headers
    seconds = ":00 GMT"
    assert headers["last-modified"].endswith(f"{time[-5:]}{seconds}")
    assert headers["date"].endswith(f"{time[-5:]}{seconds}")


# --- listing


def test_folders_are_common_prefixes(sim: Simulator) -> None:
    assert every_key(sim, "data/", delimiter="/") == ["data/futures/", "data/spot/"]
    assert every_key(sim, f"{UM}/", delimiter="/") == [f"{UM}/daily/", f"{UM}/monthly/"]
    folders = every_key(sim, f"{UM}/monthly/", delimiter="/")
    assert [one.split("/")[-2] for one in folders] == [
        "fundingRate",
        "indexPriceKlines",
        "klines",
        "markPriceKlines",
        "premiumIndexKlines",
    ]
    symbols = [one.split("/")[-2] for one in every_key(sim, f"{UM}/monthly/klines/", delimiter="/")]
    assert len(symbols) == len(set(symbols)) > 80
    assert {"BTCUSDT", "SRMUSDT", "ICPUSDT_SETTLED", "LUNAUSDT", "币安人生USDT"} <= set(symbols)
    assert {"SOONUSDT", "NOPE"}.isdisjoint(symbols)
    intervals = [one.split("/")[-2] for one in every_key(sim, f"{UM}/daily/klines/BTCUSDT/", delimiter="/")]
    assert intervals == sorted(
        ["1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d"], key=lambda i: f"{i}/"
    )
    monthly = [one.split("/")[-2] for one in every_key(sim, f"{UM}/monthly/klines/BTCUSDT/", delimiter="/")]
    assert set(monthly) == {*intervals, "1w", "1mo"}


def test_pages_that_follow_each_other_name_every_key_once(sim: Simulator) -> None:
    prefix = f"{UM}/daily/klines/BTCUSDT/1d/"
    days = (NOW - parse_time("2019-12-31")) // DAY
    for params in ({}, {"delimiter": "/"}):
        contents, _, fields = listed(sim, prefix=prefix, **params)
        assert (len(contents), fields["IsTruncated"], fields["MaxKeys"]) == (1000, "true", "1000")
        assert ("NextMarker" in fields) == bool(params)
        keys = every_key(sim, prefix, **params)
        assert keys == sorted(set(keys))
        assert len(keys) == 2 * days
    small = every_key(sim, f"{UM}/monthly/klines/", delimiter="/", max_keys=7)
    assert small == every_key(sim, f"{UM}/monthly/klines/", delimiter="/")
    assert (
        listed(sim, prefix=prefix, marker=keys[-3])[0] == listed(sim, "/data.binance.vision", prefix=prefix, marker=keys[-3])[0]
    )
    assert [one["Key"] for one in listed(sim, "/data.binance.vision/", prefix=prefix, marker=keys[-3])[0]] == keys[-2:]
    assert [one["Key"] for one in listed(sim, prefix=f"{prefix}BTCUSDT-1d-2026-11-1", marker=keys[-5])[0]] == keys[-4:]


@pytest.mark.parametrize(
    "prefix",
    [
        f"{UM}/monthly/klines/ETHBTC/",
        f"{UM}/monthly/premiumIndexKlines/TSLAUSDT/1d/",
        f"{UM}/monthly/fundingRate/SOLUSDT/",
        "data/spot/daily/klines/AVAXUSDT/1d/AVAXUSDT-1d-2025",
        f"{CM}/monthly/markPriceKlines/ETHUSD_PERP/4h/",
        f"{UM}/monthly/klines/1000PEPEUSDT/1d/",
    ],
)
def test_what_a_listing_says_is_true(sim: Simulator, prefix: str) -> None:
    contents = listed(sim, prefix=prefix)[0]
    assert contents
    for one in contents[:: max(len(contents) // 40, 1)]:
        reply = get(sim, one["Key"])
        assert (reply.status, reply.headers["etag"], len(reply.raw)) == (200, one["ETag"], int(one["Size"]))
        assert reply.headers["accept-ranges"] == "bytes"
        assert one["StorageClass"] == "STANDARD"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:00\.000Z", one["LastModified"])


def test_sizes_hold_for_every_kind_of_contract(world: GeneratedWorld) -> None:
    """A zip that needs more room than its listing says is an error; of the coarser bars the lines are longer."""
    archive = Archive(world)
    for contract in default_contracts():
        if contract.first is None:
            continue
        folder = {"um": UM, "cm": CM, "spot": "data/spot"}[contract.market]
        month = iso(min(contract.end or NOW, NOW) - 50 * DAY)[:7]
        key = f"{folder}/monthly/klines/{contract.symbol}/1h/{contract.symbol}-1h-{month}.zip"
        assert archive.answer(Request(f"/{key}"), NOW).status == 200, key


SMALL = GeneratedWorld(symbols=[replace(one, end=parse_time("2020-02-02")) for one in default_contracts(2)[:2]])
SMALL_ARCHIVE = Archive(SMALL)


def all_keys() -> list[str]:
    keys: list[str] = []
    while True:
        params = {"prefix": "data/", "marker": keys[-1] if keys else ""}
        body = SMALL_ARCHIVE.answer(Request("/", params), NOW).body.decode()
        keys += re.findall("<Key>(.*?)</Key>", body)
        if "<IsTruncated>false" in body:
            return keys


SMALL_KEYS = all_keys()


@settings(max_examples=60)
@given(data=st.data())
def test_a_page_is_what_the_list_of_all_keys_says(data: st.DataObject) -> None:
    """Against a plain reading of S3's rules over all keys at once."""
    some = st.sampled_from(SMALL_KEYS)
    cut = some.flatmap(lambda key: st.integers(0, len(key)).map(lambda end: key[:end]))
    prefix, marker = data.draw(cut), data.draw(cut | some | cut.map(lambda text: f"{text}~"))
    delimiter, most = data.draw(st.sampled_from(["", "/"])), data.draw(st.integers(1, 30))
    names: list[str] = []
    for key in SMALL_KEYS:
        rest = key[len(prefix) :]
        if key.startswith(prefix) and key > marker:
            name = prefix + rest[: rest.index("/") + 1] if delimiter and "/" in rest else key
            if name != marker and name not in names:
                names.append(name)
    params = {"prefix": prefix, "marker": marker, "delimiter": delimiter, "max-keys": str(most)}
    body = SMALL_ARCHIVE.answer(Request("/", params), NOW).body.decode()
    found = re.findall("<Key>(.*?)</Key>", body) + re.findall("<CommonPrefixes><Prefix>(.*?)</Prefix>", body)
    assert sorted(found) == names[:most]
    assert ("<IsTruncated>true" in body) == (len(names) > most)


def test_a_listing_is_escaped_and_refuses_what_it_does_not_know(sim: Simulator) -> None:
    contents, prefixes, fields = listed(sim, prefix="a<&>b", delimiter="/")
    assert (contents, prefixes, fields["Prefix"]) == ([], [], "a<&>b")
    assert fetch(sim, "/", prefix="", delimiter="-").status == 400
    assert fetch(sim, "/", **{"max-keys": "x"}).status == 400
    root = fetch(sim, "/")
    assert (root.status, root.headers["content-type"]) == (200, "text/html")
    assert get(sim, f"{DAY_KEY[:-30]}<&>").status == 404


def test_a_day_that_is_one_hole_has_no_file(start: Start) -> None:
    span = parse_time("2024-05-16T12:00"), parse_time("2024-05-18T00:30")
    sim = start(GeneratedWorld(symbols=1, holes=[Hole("um", "BTCUSDT", "klines", *span)]))
    folder = f"{UM}/daily/klines/BTCUSDT"
    assert get(sim, f"{folder}/1m/BTCUSDT-1m-2024-05-17.zip").status == 404
    assert len(table(sim, f"{folder}/1m/BTCUSDT-1m-2024-05-16.zip")) == 720
    assert int(table(sim, f"{folder}/1h/BTCUSDT-1h-2024-05-18.zip")[0][0]) == parse_time("2024-05-18")
    assert get(sim, f"{folder}/1d/BTCUSDT-1d-2024-05-17.zip").status == 404


# --- ranges and methods


def test_ranges(sim: Simulator) -> None:
    whole = get(sim, DAY_KEY)
    size = len(whole.raw)
    for asked, start, end in (("0-9", 0, 10), ("100-", 100, size), ("-7", size - 7, size), (f"5-{size * 2}", 5, size)):
        part = get(sim, DAY_KEY, range=f"bytes={asked}")
        assert (part.status, part.raw) == (206, whole.raw[start:end])
        assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
        assert part.headers["etag"] == whole.headers["etag"]
    beyond = get(sim, DAY_KEY, range=f"bytes={size}-")
    assert (beyond.status, beyond.headers["content-range"]) == (416, f"bytes */{size}")
    for condition, status in ((whole.headers["etag"], 206), (whole.headers["last-modified"], 206), ('"other"', 200)):
        assert get(sim, DAY_KEY, range="bytes=1-2", if_range=condition).status == status
    for odd in ("bytes=1-2,4-5", "lines=1-2", "bytes=-", "bytes=x-"):
        assert get(sim, DAY_KEY, range=odd).raw == whole.raw


def test_head_has_the_headers_alone(sim: Simulator) -> None:
    for key in (DAY_KEY, f"{DAY_KEY}.CHECKSUM", f"{UM}/nothing"):
        there, head = get(sim, key), get(sim, key, "HEAD")
        assert (head.status, head.raw, head.headers) == (there.status, b"", there.headers)
    assert head.headers["content-length"] != "0"


def test_the_archive_is_logged_and_free(start: Start) -> None:
    sim = start(gzip=True)
    assert "content-encoding" not in get(sim, DAY_KEY, accept_encoding="gzip").headers
    get(sim, DAY_KEY, "HEAD")
    get(sim, DAY_KEY, range="bytes=0-1")
    get(sim, f"{DAY_KEY}.CHECKSUM")
    listed(sim, prefix="data/", delimiter="/")
    log = sim.requests
    assert [(one.market, one.status, one.weight, one.page) for one in log[:4]] == [
        ("um", 200, 0, False),
        ("um", 200, 0, False),
        ("um", 206, 0, False),
        ("um", 200, 0, False),
    ]
    assert (log[4].path, log[4].market, log[4].params["prefix"]) == ("/", None, "data/")
    assert (sim.counters()["zips"], sim.counters()["requests"], sim.counters()["pages"]) == (2, 5, 0)
    assert sim.counters()["weight_max"] == {}


# --- rules of the faults file


def test_a_cut_download_can_be_resumed(start: Start) -> None:
    sim = start(faults=Faults([{"path": r"\.zip$", "action": "reset", "when": "body", "first": 1}]))
    connection = http.client.HTTPConnection("127.0.0.1", int(sim.url.rpartition(":")[2]), timeout=10)
    connection.request("GET", f"/{DAY_KEY}")
    response, got = connection.getresponse(), b""
    with suppress(ConnectionResetError):
        while piece := response.read1(65536):
            got += piece
    connection.close()
    assert 0 < len(got) < int(response.headers["content-length"])
    rest = get(sim, DAY_KEY, range=f"bytes={len(got)}-", if_range=response.headers["etag"])
    whole = get(sim, DAY_KEY).raw
    assert (rest.status, got + rest.raw) == (206, whole)
    assert [one.fault for one in sim.requests] == ["reset", None, None]


def test_rules_work_on_the_archive(start: Start) -> None:
    def first(action: str, **args: object) -> Reply:
        return get(start(faults=Faults([{"path": r"\.zip$", "action": action, **args}])), DAY_KEY)

    whole = get(start(), DAY_KEY).raw
    assert (first("status", status=503, body="html").status, "etag" in first("status", status=503).headers) == (503, False)
    assert first("truncated_json", keep=0.25).raw == whole[: len(whole) // 4]
    assert first("slow_drip", bytes_per_second=10_000_000).raw == whole
    assert first("html_200").headers["content-type"] == "text/html"
    assert first("clock_skew", ms=3_600_000).headers["date"] == "Fri, 20 Nov 2026 13:00:30 GMT"
    for edits in ("short_page", "duplicate_rows", "nan", "shuffled", "overlap", "open_bar_extra", "revise", "stuck_page"):
        assert first(edits).raw == whole, edits


# --- defects


def broken(begin: Start, defect: str, key: str = "", **args: object) -> Simulator:
    return begin(faults=Faults(archive=[{"key": key, "defect": defect, **args}]))


def test_missing_rows(start: Start, sim: Simulator) -> None:
    day = "2024-05-17"
    sound = table(sim, HOURS)
    left = [row for row in sound if not parse_time(day) <= int(row[0]) < parse_time(day) + DAY]
    assert table(broken(start, "missing_day", day=day), HOURS) == left
    assert len(left) == len(sound) - 24
    span = {"start": f"{day}T03:00", "end": f"{day}T05:00"}
    assert len(table(broken(start, "missing_rows", **span), HOURS)) == len(sound) - 2
    assert table(broken(start, "missing_day", "ETHUSDT", day=day), HOURS) == sound


def test_rows_too_many_or_in_disorder(start: Start, sim: Simulator, world: GeneratedWorld) -> None:
    sound = table(sim, HOURS)
    assert table(broken(start, "duplicate_rows", rows=2), HOURS) == sound + sound[-2:]
    mixed = table(broken(start, "shuffled"), HOURS)
    assert mixed != sound
    assert sorted(mixed) == sorted(sound)
    foreign = table(broken(start, "foreign_rows", rows=3), HOURS)
    assert foreign[:-3] == sound
    june = parse_time("2024-06-01")
    assert values(foreign[-3:]) == expected(world, "um", "klines", "BTCUSDT", "1h", june, june + 3 * HOUR)


def test_flat_rows_around_a_life(start: Start, sim: Simulator) -> None:
    key = f"{UM}/monthly/klines/LUNAUSDT/1h/LUNAUSDT-1h-2022-05.zip"
    sound, after = table(sim, key), table(broken(start, "after_end"), key)
    assert (len(after), after[: len(sound)]) == (31 * 24, sound)
    assert {tuple(row[1:6]) for row in after[len(sound) :]} == {(*[sound[-1][4]] * 4, "0")}
    assert [int(row[6]) - int(row[0]) for row in after] == [HOUR - 1] * len(after)
    key = key.replace("2022-05", "2022-09")
    sound, before = table(sim, key), table(broken(start, "placeholder"), key)
    assert (len(before), before[-len(sound) :]) == (30 * 24, sound)
    assert before[0][1:] == [*[sound[0][1]] * 4, "0", str(parse_time("2022-09-01T01:00") - 1), *["0"] * 5]
    settlements = table(broken(start, "after_end"), f"{UM}/monthly/fundingRate/LUNAUSDT/LUNAUSDT-fundingRate-2022-05.zip")
    assert (len(settlements), settlements[-1][2]) == (93, "0.00000000")
    flat = table(broken(start, "flat_bar", time="2024-05-28T20:00"), HOURS)
    differ = [(one, other) for one, other in zip(table(sim, HOURS), flat, strict=True) if one != other]
    assert [int(one[0]) for one, _ in differ] == [parse_time("2024-05-28T20:00")]
    assert differ[0][1][2:6] == [differ[0][0][1]] * 3 + ["0"]


@pytest.mark.parametrize("style", ["0", "0.0", "0.00000000"])
def test_zeros(start: Start, style: str) -> None:
    key = f"{UM}/monthly/klines/ETHUSDT/1m/ETHUSDT-1m-2023-12.zip"
    quiet = [row for row in table(broken(start, "zero_style", style=style), key) if float(row[5]) == 0]
    assert quiet
    assert {row[at] for row in quiet for at in (5, 7, 9, 10)} == {style}


@pytest.mark.parametrize(
    ("key", "unit", "digits"), [(HOURS, "us", 16), ("data/spot/daily/klines/BTCUSDT/1d/BTCUSDT-1d-2025-03-01.zip", "ms", 13)]
)
def test_units(start: Start, sim: Simulator, key: str, unit: str, digits: int) -> None:
    rows = table(broken(start, "unit", unit=unit), key)
    assert {len(row[at]) for row in rows for at in (0, 6)} == {digits}
    scale = 1000 if digits == 16 else 1
    sound = 1 if digits == 16 else 1000
    assert values(rows, scale) == values(table(sim, key), sound)


def text_of(begin: Start, defect: str, key: str = HOURS, **args: object) -> bytes:
    sim = broken(begin, defect, **args)
    reply = get(sim, key)
    assert get(sim, f"{key}.CHECKSUM").raw.decode()[:64] == hashlib.sha256(reply.raw).hexdigest()
    return member(reply)[1]


def test_text(start: Start, sim: Simulator) -> None:
    sound = member(get(sim, HOURS))[1]
    old = HOURS.replace("2024-05", "2021-05")
    assert text_of(start, "header", present=False) == sound.partition(b"\n")[2]
    assert text_of(start, "header", present=True) == sound
    assert text_of(start, "header", old, present=True) == f"{HEADER}\n".encode() + member(get(sim, old))[1]
    assert text_of(start, "crlf") == sound.replace(b"\n", b"\r\n")
    assert text_of(start, "bom") == b"\xef\xbb\xbf" + sound
    lines = text_of(start, "extra_column").decode().splitlines()
    assert (lines[0], {line.count(",") for line in lines}) == (f"{HEADER},extra", {12})
    assert text_of(start, "empty_member") == b""
    with pytest.raises(UnicodeDecodeError):
        text_of(start, "not_utf8").decode()
    ragged = text_of(start, "ragged")
    assert sound.startswith(ragged)
    assert 0 < len(sound) - len(ragged) < 130
    assert not ragged.endswith(b"\n")


@pytest.mark.parametrize(
    ("defect", "names"),
    [
        ("second_member", ["BTCUSDT-1h-2024-05.csv", "other-BTCUSDT-1h-2024-05.csv"]),
        ("member_path", ["../../BTCUSDT-1h-2024-05.csv"]),
        ("absolute_member", ["/tmp/BTCUSDT-1h-2024-05.csv"]),
        ("wrong_member_name", ["OTHERBTCUSDT-1h-2024-05.csv"]),
    ],
)
def test_members(start: Start, sim: Simulator, defect: str, names: list[str]) -> None:
    reply = get(broken(start, defect), HOURS)
    with zipfile.ZipFile(io.BytesIO(reply.raw)) as zipped:
        assert zipped.testzip() is None
        assert zipped.namelist() == names
        assert zipped.read(names[0]) == member(get(sim, HOURS))[1]


def test_bombs(start: Start, sim: Simulator) -> None:
    size = len(member(get(sim, HOURS))[1])
    reply = get(broken(start, "huge_member", megabytes=300), HOURS)
    with zipfile.ZipFile(io.BytesIO(reply.raw)) as zipped, zipped.open(zipped.infolist()[0]) as content:
        assert zipped.infolist()[0].file_size == size + 300 * 2**20
        assert len(reply.raw) < 2**20
        found = 0
        while piece := content.read(1 << 24):
            found += len(piece)
        assert found == size + 300 * 2**20, "read to its end, so the check sum was right"
    reply = get(broken(start, "huge_member", megabytes=300, honest=False), HOURS)
    with zipfile.ZipFile(io.BytesIO(reply.raw)) as zipped:
        one = zipped.infolist()[0]
        assert one.file_size == size
        data = reply.raw[30 + len(one.filename) :][: one.compress_size]
    inflate = zlib.decompressobj(-15)
    assert len(inflate.decompress(data, 50 << 20)) == 50 << 20


def test_methods_of_members(start: Start, sim: Simulator) -> None:
    stored = get(broken(start, "stored_method"), HOURS)
    with zipfile.ZipFile(io.BytesIO(stored.raw)) as zipped:
        assert zipped.infolist()[0].compress_type == zipfile.ZIP_STORED
    assert member(stored) == member(get(sim, HOURS))
    with pytest.raises(RuntimeError, match="encrypted"):
        member(get(broken(start, "encrypted"), HOURS))


def test_bytes(start: Start, sim: Simulator) -> None:
    sound = get(sim, HOURS).raw
    spoilt = broken(start, "flipped_byte", first=1)
    checksum = get(spoilt, f"{HOURS}.CHECKSUM").raw
    contents = listed(spoilt, prefix=HOURS)[0]
    flipped, again = get(spoilt, HOURS), get(spoilt, HOURS)
    assert sum(one != other for one, other in zip(flipped.raw, sound, strict=True)) == 1
    assert contents[0]["ETag"] == flipped.headers["etag"] != again.headers["etag"]
    with zipfile.ZipFile(io.BytesIO(flipped.raw)) as zipped, pytest.raises((zipfile.BadZipFile, zlib.error)):
        zipped.read(zipped.namelist()[0])
    assert again.raw == sound
    assert checksum.decode()[:64] == hashlib.sha256(sound).hexdigest()
    cut = get(broken(start, "truncated_zip", keep=0.25), HOURS)
    assert cut.raw == sound[: len(sound) // 4]
    assert cut.headers["content-length"] == str(len(sound) // 4)


def test_checksums(start: Start, sim: Simulator) -> None:
    sound = get(sim, f"{HOURS}.CHECKSUM").raw
    late = broken(start, "wrong_checksum", first=1)
    assert get(late, HOURS, "HEAD").status == 200
    assert get(late, f"{HOURS}.CHECKSUM", "HEAD").status == 200
    wrong = get(late, f"{HOURS}.CHECKSUM").raw
    assert (wrong != sound, wrong[1:], get(late, f"{HOURS}.CHECKSUM").raw) == (True, sound[1:], sound)
    missing = broken(start, "no_checksum")
    assert (get(missing, f"{HOURS}.CHECKSUM").status, get(missing, HOURS).raw) == (404, get(sim, HOURS).raw)
    assert [one["Key"] for one in listed(missing, prefix=HOURS)[0]] == [HOURS]
    named = get(broken(start, "wrong_name"), f"{HOURS}.CHECKSUM").raw.decode()
    assert named == sound.decode().replace("  ", "  OTHER")


def test_publication(start: Start) -> None:
    def names(sim: Simulator) -> list[str]:
        return [one["Key"][-11:-4] for one in listed(sim, prefix=HOURS[:-11])[0] if one["Key"].endswith(".zip")]

    key = HOURS.replace("2024-05", "2026-10")
    never = broken(start, "never", "2026-10")
    assert (get(never, key).status, get(never, f"{key}.CHECKSUM").status, names(never)[-1]) == (404, 404, "2026-09")
    soon = broken(start, "never", first=1)
    assert [get(soon, one).status for one in (key, f"{key}.CHECKSUM", key, f"{key}.CHECKSUM")] == [404, 404, 200, 200]
    late = broken(start, "late", days=20)
    assert (get(late, key).status, names(late)[-1]) == (404, "2026-09")
    late.clock.advance(3 * DAY)
    assert (names(late)[-1], get(late, key).headers["last-modified"]) == ("2026-10", "Sun, 22 Nov 2026 08:00:00 GMT")
    unlisted = broken(start, "unlisted", "2026-0[1-9]")
    assert (names(unlisted)[-2:], get(unlisted, key.replace("-10", "-05")).status) == (["2025-12", "2026-10"], 200)
    stale = broken(start, "stale_listing", until="2026-04-01")
    assert (names(stale)[-1], get(stale, key).status) == ("2026-03", 200)


@pytest.mark.parametrize("key", [HOURS, f"{UM}/monthly/fundingRate/BTCUSDT/BTCUSDT-fundingRate-2024-05.zip"])
def test_a_file_is_published_again(start: Start, key: str) -> None:
    sim = broken(start, "republished", at="2026-11-21")
    before, rows = get(sim, key), table(sim, key)
    listed_before = listed(sim, prefix=key)[0]
    sim.clock.set(parse_time("2026-11-21T00:00"))
    after, changed = get(sim, key), table(sim, key)
    assert [at for at, (one, other) in enumerate(zip(rows, changed, strict=True)) if one != other] == list(
        range(0, len(rows), 100)
    )
    assert [row[0] for row in rows] == [row[0] for row in changed]
    assert after.headers["etag"] != before.headers["etag"]
    assert after.headers["last-modified"] == "Sat, 21 Nov 2026 00:00:00 GMT"
    listed_after = listed(sim, prefix=key)[0]
    assert all(one["ETag"] != other["ETag"] for one, other in zip(listed_before, listed_after, strict=True))
    assert [one["Size"] for one in listed_after] == [str(len(get(sim, one["Key"]).raw)) for one in listed_after]
    assert get(sim, key, range="bytes=5-", if_range=before.headers["etag"]).status == 200


def test_defects_add_up(start: Start, sim: Simulator) -> None:
    tables: list[Mapping[str, object]] = [
        {"defect": "crlf"},
        {"defect": "missing_day", "day": "2024-05-17"},
        {"defect": "header", "present": False},
        {"defect": "duplicate_rows"},
        {"defect": "second_member"},
        {"defect": "stored_method"},
        {"key": "ETH", "defect": "never"},
    ]
    reply = get(start(faults=Faults(archive=tables)), HOURS)
    with zipfile.ZipFile(io.BytesIO(reply.raw)) as zipped:
        assert [one.compress_type for one in zipped.infolist()] == [0, 8]
        lines = zipped.read(zipped.namelist()[0]).split(b"\r\n")
    assert len(lines) == len(table(sim, HOURS)) - 24 + 1 + 1
    assert lines[-2] == lines[-3]


def test_defects_are_read_from_a_file_and_reset(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "faults.toml"
    file.write_text('[[archive]]\nkey = "BTCUSDT-1h-2024"\nfirst = 1\ndefect = "missing_day"\nday = "2024-05-17"\n')
    sim = start(faults=Faults.load(file))
    sizes = (
        [len(table(sim, HOURS)) for _ in range(2)]
        if False
        else [len(member(get(sim, HOURS))[1].splitlines()) for _ in range(2)]
    )
    assert sizes == [30 * 24 + 1, 31 * 24 + 1]
    sim.reset()
    assert len(member(get(sim, HOURS))[1].splitlines()) == 30 * 24 + 1


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"defect": "missing"}, "unknown defect 'missing'; known are missing_day, "),
        ({}, "unknown defect None"),
        ({"defect": "missing_day"}, "defect missing_day needs day"),
        ({"defect": "missing_day", "day": "yesterday"}, "day must be a date or date-time in quotes"),
        ({"defect": "missing_day", "day": 5}, "day must be a date or date-time in quotes"),
        ({"defect": "bom", "day": "2024-05-17"}, "unknown key 'day'; known are defect, first, key"),
        ({"defect": "bom", "key": "("}, "key is no regular expression"),
        ({"defect": "bom", "first": "x"}, "first must be a whole number"),
        ({"defect": "zero_style", "style": "00"}, "style must be one of '0', '0.0', '0.00000000'"),
        ({"defect": "huge_member", "megabytes": 5000}, "megabytes must lie between 1 and 3999"),
    ],
)
def test_wrong_tables_are_refused(table: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        Faults(archive=[{"defect": "bom"}, table], origin="faults.toml")
    assert "faults.toml: archive 2" in str(caught.value)


def test_every_defect_is_documented() -> None:
    assert module.__doc__ is not None
    documented = {
        name for row in module.__doc__.partition("=====")[2].splitlines() for name in re.findall(r"[a-z_0-9]+", row[:19])
    }
    assert set(DEFECTS) <= documented


# --- recorded files


def test_recorded_rows_and_zips(start: Start, tmp_path: Path) -> None:
    row = "{},1.00,2.00,0.50,1.50,3.000,{},4.50000,7,1.000,1.50000,0\n"
    times = [MAY + at * MINUTE for at in (0, 1, 3)]
    folder = tmp_path / "recorded"
    folder.mkdir()
    (folder / "AUSDT-1m-2024-05.csv").write_text("".join(row.format(time, time + MINUTE - 1) for time in times))
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("BUSDT-1m-2024-05-02.csv", row.format(MAY + DAY, MAY + DAY + MINUTE - 1))
    (folder / "BUSDT-1m-2024-05-02.zip").write_bytes(zipped.getvalue())
    (folder / "AUSDT-metrics-2024-05-02.zip").write_bytes(b"anything")
    (folder / "AUSDT-metrics-2024-05-02.zip.CHECKSUM").write_bytes(b"as it was")
    (folder / "AUSDT-metrics-2024-05-99.zip").write_bytes(b"no such day")
    world = ReplayWorld(folder, quiet=True)
    sim = start(world)
    assert [int(one[0]) for one in table(sim, f"{UM}/monthly/klines/AUSDT/1m/AUSDT-1m-2024-05.zip")] == times
    assert len(table(sim, f"{UM}/daily/klines/AUSDT/1m/AUSDT-1m-2024-05-01.zip")) == 3
    key = f"{UM}/daily/klines/BUSDT/1m/BUSDT-1m-2024-05-02.zip"
    assert get(sim, key).raw == zipped.getvalue()
    assert len(table(sim, key)) == 1
    assert [row[0] for row in world.truth("um", "klines", "BUSDT", "1m", 0, 2**62)] == [MAY + DAY]
    metrics = f"{UM}/daily/metrics/AUSDT/AUSDT-metrics-2024-05-02.zip"
    assert (get(sim, metrics).raw, get(sim, f"{metrics}.CHECKSUM").raw) == (b"anything", b"as it was")
    assert "AUSDT-metrics-2024-05-99.zip" in world.left_out
    keys = every_key(sim, f"{UM}/daily/")
    assert keys == sorted(
        {
            *(f"{UM}/daily/klines/AUSDT/1m/AUSDT-1m-2024-05-01.zip{end}" for end in ("", ".CHECKSUM")),
            key,
            f"{key}.CHECKSUM",
            metrics,
            f"{metrics}.CHECKSUM",
        }
    )
    for one in listed(sim, prefix=f"{UM}/daily/")[0]:
        reply = get(sim, one["Key"])
        assert (reply.headers["etag"], len(reply.raw)) == (one["ETag"], int(one["Size"]))


def test_real_zips_are_served_as_they_are(start: Start, real_data: Path) -> None:
    folder = real_data / "vision_zip"
    sim = start(ReplayWorld(folder, quiet=True))
    names = {
        "spot/BTCUSDT-1m-2020-01-01": "spot",
        "spot/BTCUSDT-1h-2024-10-28": "spot",
        "um/BTCUSDT-1h-2024-10-28": "futures/um",
    }
    for name, market in names.items():
        symbol, interval, _ = name.rpartition("/")[2].split("-", 2)
        key = f"data/{market}/daily/klines/{symbol}/{interval}/{name.rpartition('/')[2]}.zip"
        assert get(sim, key).raw == (folder / f"{name}.zip").read_bytes()
        table(sim, key)
    recorded = folder / "spot/BTCUSDT-1m-2020-01-01.zip.CHECKSUM"
    assert get(sim, f"data/spot/daily/klines/BTCUSDT/1m/{recorded.name}").raw == recorded.read_bytes()
    assert get(sim, f"{UM}/daily/metrics/BTCUSDT/BTCUSDT-metrics-2022-01-01.zip").status == 200
    bars = fetch(sim, "/fapi/v1/klines", symbol="BTCUSDT", interval="1h", startTime=1).body
    assert (len(bars), bars[20][5]) == (24, "0")  # REST knows nothing but what was recorded
