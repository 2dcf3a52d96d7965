"""The archive as a source: what it names, what it hands out, and all that can be wrong with it; from a bucket on loopback."""

import datetime as dt
import hashlib
import io
import re
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from xml.sax.saxutils import escape

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.errors import BadAnswer, Cancelled, NotPublished, Refused, Rejected, Transient, UsageError
from etl.extract.archive import ArchiveSource
from etl.extract.http import Http
from etl.model import ArchiveFile, Series
from etl.publication import file_of
from etl.ranges import MAX_TIME, TimeRange
from etl.schema import arrow_schema


def ms(text: str) -> int:
    return int(dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC).timestamp()) * 1000


def listed(archive, series, since=0):
    """All that the listing names of periods that end after `since`: months, then days."""
    months = tuple(file for file in archive.monthly(series) if file.span.end > since)
    return (*months, *(archive.daily(series, TimeRange(since, MAX_TIME)) if series.interval else ()))


BTC = Series("um", "klines", "BTCUSDT", "1m")
FUNDING = Series("um", "funding", "BTCUSDT")
JANUARY = ms("2024-01-01")
KEY = "data/futures/um/monthly/klines/BTCUSDT/1m/BTCUSDT-1m-2024-01.zip"
FILE = ArchiveFile(TimeRange(JANUARY, ms("2024-02-01")), KEY)
LISTED = ArchiveFile(FILE.span, KEY, 100, "v1")
DATE = "Wed, 07 Feb 2024 10:11:12 GMT"


def csv(rows: int = 3, start: int = JANUARY) -> bytes:
    """Bars with prices that do not pack well, so that a zip has some size."""
    lines = []
    for i in range(rows):
        price = hashlib.sha256(b"%d" % i).digest()[0] + i / 7
        at = start + i * 60_000
        lines.append(f"{at},{price:.8f},{price + 2:.8f},{price - 1:.8f},{price + 1:.8f},1.5,{at + 59_999},3.25,7,0.5,1.25,0\n")
    return "".join(lines).encode()


def zipped(key: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(key.rpartition("/")[2].removesuffix(".zip") + ".csv", content)
    return file.getvalue()


def checksum(key: str, body: bytes, form: str = "{}  {}\n") -> bytes:
    return form.format(hashlib.sha256(body).hexdigest(), key.rpartition("/")[2]).encode()


class Bucket:
    """As S3 and the site answer: listings (version 1) under `/index`, objects elsewhere; 404 for what is not there."""

    def __init__(self, kit, *, page: int = 1000, next_marker: bool = True) -> None:
        self.kit = kit
        self.objects: dict[str, bytes] = {}
        self.page = page
        self.next_marker = next_marker
        self.server = kit.serve(self.answer, server_time=None)
        self.index = f"{self.server.url}/index"

    def put(self, key: str, content: bytes, form: str = "{}  {}\n") -> bytes:
        body = zipped(key, content)
        self.objects |= {key: body, f"{key}.CHECKSUM": checksum(key, body, form)}
        return body

    @property
    def asked(self) -> list[str]:
        return [request.path.removeprefix("/") for request in self.server.requests]

    def answer(self, peer, request) -> bytes:
        if request.path == "/index":
            return self.kit.answer(self.listing(**request.params), content_type="application/xml", date=DATE)
        key = request.path.removeprefix("/")
        if key not in self.objects:
            return self.kit.answer(b"<Error><Code>NoSuchKey</Code></Error>", 404, date=DATE)
        body = self.objects[key]
        tag = f'"{hashlib.md5(body).hexdigest()}"'
        if "range" in request.headers and request.headers.get("if-range") == tag:
            start = int(request.headers["range"].removeprefix("bytes=").removesuffix("-"))
            span = f"bytes {start}-{len(body) - 1}/{len(body)}"
            return self.kit.answer(body[start:], 206, etag=tag, content_range=span, date=DATE)
        return self.kit.answer(body, etag=tag, date=DATE)

    def listing(self, prefix: str = "", delimiter: str = "", marker: str = "") -> bytes:
        names = set()
        for key in self.objects:
            if key.startswith(prefix):
                more = key[len(prefix) :].find(delimiter) if delimiter else -1
                names.add(key if more < 0 else key[: len(prefix) + more + 1])
        names = sorted(name for name in names if name > marker)
        page, more = names[: self.page], len(names) > self.page
        parts = [f"<IsTruncated>{str(more).lower()}</IsTruncated>"]
        if more and self.next_marker:
            parts.append(f"<NextMarker>{escape(page[-1])}</NextMarker>")
        for name in page:
            if name in self.objects:
                size, tag = len(self.objects[name]), hashlib.md5(self.objects[name]).hexdigest()
                parts.append(f"<Contents><Key>{escape(name)}</Key><ETag>&quot;{tag}&quot;</ETag><Size>{size}</Size></Contents>")
            else:
                parts.append(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>")
        space = "http://s3.amazonaws.com/doc/2006-03-01/"
        return f'<?xml version="1.0"?><ListBucketResult xmlns="{space}">{"".join(parts)}</ListBucketResult>'.encode()


@pytest.fixture
def bucket(kit):
    return Bucket(kit)


@pytest.fixture
def source(kit):
    """Opens sources that wait in no time."""
    opened = []

    def start(at, **options) -> ArchiveSource:
        """At a bucket, or at a scripted server."""
        url, index = (at.server.url, at.index) if isinstance(at, Bucket) else (at.url, at.url)
        opened.append(ArchiveSource(url, index, stop=options.pop("stop", None) or kit.FakeTime(), **options))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


# ---- names

NAMES = [
    (BTC, "monthly", "2024-01-01", KEY, "2024-02-01"),
    (BTC, "daily", "2024-02-29", "data/futures/um/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2024-02-29.zip", "2024-03-01"),
    (
        Series("cm", "index_klines", "BTCUSD", "1h"),
        "monthly",
        "2023-12-01",
        "data/futures/cm/monthly/indexPriceKlines/BTCUSD/1h/BTCUSD-1h-2023-12.zip",
        "2024-01-01",
    ),
    (
        Series("spot", "klines", "ETHBTC", "1M"),
        "monthly",
        "2024-02-01",
        "data/spot/monthly/klines/ETHBTC/1mo/ETHBTC-1mo-2024-02.zip",
        "2024-03-01",
    ),
    (
        FUNDING,
        "monthly",
        "2026-07-01",
        "data/futures/um/monthly/fundingRate/BTCUSDT/BTCUSDT-fundingRate-2026-07.zip",
        "2026-08-01",
    ),
    (
        Series("um", "mark_klines", "币安人生USDT", "1d"),
        "daily",
        "2025-12-31",
        "data/futures/um/daily/markPriceKlines/币安人生USDT/1d/币安人生USDT-1d-2025-12-31.zip",
        "2026-01-01",
    ),
    (
        Series("um", "premium_klines", "BTCUSDT", "5m"),
        "daily",
        "2024-06-30",
        "data/futures/um/daily/premiumIndexKlines/BTCUSDT/5m/BTCUSDT-5m-2024-06-30.zip",
        "2024-07-01",
    ),
]


@pytest.mark.parametrize(("series", "kind", "start", "key", "end"), NAMES)
def test_the_file_of_a_period(series, kind, start, key, end):
    file = file_of(series, kind, ms(start))
    assert file == ArchiveFile(TimeRange(ms(start), ms(end)), key)
    assert not file.listed


# ---- listings

DAYS = [f"2024-01-{day:02d}" for day in range(1, 32)]
JUNK = [
    "BTCUSDT-1m-2024-01.csv",
    "BTCUSDT-1m-2024-13.zip",
    "BTCUSDT-1m-2024-1.zip",
    "BTCUSDT-1m-202401.zip",
    "BTCUSDT-1m-2024-W01.zip",
    "BTCUSDT-1m-2024-01-32.zip",
    "BTCUSDT-1m-2023-02-29.zip",
    "BTCUSDT-1m-20240101.zip",
    "BTCUSDT-1m-2024-01-01T00.zip",
    "BTCUSDT-1m-２０２４-01.zip",
    "BTCUSDT-1m-.zip",
    "BTCUSDT-1m.zip",
    "BTCUSDT-5m-2024-01.zip",
    "ETHUSDT-1m-2024-01.zip",
    "BTCUSDT-1m-2024-01.zip.zip",
    ".zip",
]


def fill(bucket: Bucket) -> None:
    folders = [f"data/futures/um/{kind}/klines/BTCUSDT/1m/" for kind in ("monthly", "daily")]
    names = [*(f"BTCUSDT-1m-2023-{month:02d}.zip" for month in range(1, 13)), "BTCUSDT-1m-2024-01.zip"]
    for folder, dated in zip(folders, (names, [f"BTCUSDT-1m-{day}.zip" for day in DAYS]), strict=True):
        for name in dated:
            bucket.objects |= {folder + name: name.encode(), f"{folder}{name}.CHECKSUM": b"x"}
        bucket.objects |= {folder + name: b"junk" for name in JUNK if folder + name not in bucket.objects}
    bucket.objects["data/futures/um/monthly/klines/BTCUSDT/1mo/BTCUSDT-1mo-2024-01.zip"] = b"other"
    bucket.objects["data/futures/um/monthly/klines/BTCUSDTX/1m/BTCUSDTX-1m-2024-01.zip"] = b"other"


@pytest.mark.parametrize("page", [1, 7, 1000])
@pytest.mark.parametrize("next_marker", [True, False])
def test_the_files_that_the_listing_names(kit, source, page, next_marker):
    bucket = Bucket(kit, page=page, next_marker=next_marker)
    fill(bucket)
    files = listed(source(bucket), BTC)
    months = [f"2023-{month:02d}" for month in range(1, 13)] + ["2024-01"]
    assert [file.key.rpartition("/")[2] for file in files] == [f"BTCUSDT-1m-{each}.zip" for each in [*months, *DAYS]]
    assert [file.key.split("/")[3] for file in files] == ["monthly"] * 13 + ["daily"] * 31
    assert files[12] == ArchiveFile(FILE.span, KEY, len("BTCUSDT-1m-2024-01.zip"), files[12].etag)
    assert files[12].etag == hashlib.md5(b"BTCUSDT-1m-2024-01.zip").hexdigest()
    assert files[13].span == TimeRange(ms("2024-01-01"), ms("2024-01-02"))
    assert all(file.listed for file in files)


def test_only_what_is_wanted_is_listed(bucket, source):
    fill(bucket)
    files = listed(source(bucket), BTC, since=ms("2024-01-29T12:00"))
    assert [file.key.rpartition("/")[2] for file in files] == [
        "BTCUSDT-1m-2024-01.zip",
        "BTCUSDT-1m-2024-01-29.zip",
        "BTCUSDT-1m-2024-01-30.zip",
        "BTCUSDT-1m-2024-01-31.zip",
    ]
    monthly, daily = (request.params for request in bucket.server.requests)
    assert monthly["prefix"] == "data/futures/um/monthly/klines/BTCUSDT/1m/"
    assert monthly["marker"] == "data/futures/um/monthly/klines/BTCUSDT/1m/BTCUSDT-1m-1970-01"
    assert daily["prefix"] == "data/futures/um/daily/klines/BTCUSDT/1m/"
    assert daily["marker"] == "data/futures/um/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2024-01-29"


def test_monthly_files_and_the_daily_ones_of_some_days(kit, source):
    bucket = Bucket(kit, page=6)
    fill(bucket)
    archive = source(bucket)
    months = archive.monthly(BTC)
    assert [file.key.rpartition("/")[2] for file in months[-2:]] == ["BTCUSDT-1m-2023-12.zip", "BTCUSDT-1m-2024-01.zip"]
    assert len(months) == 13
    bucket.server.requests.clear()
    days = archive.daily(BTC, TimeRange(ms("2024-01-03T12:00"), ms("2024-01-05")))
    assert [file.key.rpartition("/")[2] for file in days] == ["BTCUSDT-1m-2024-01-03.zip", "BTCUSDT-1m-2024-01-04.zip"]
    assert len(bucket.server.requests) == 1, "what lies behind is not listed"
    assert archive.daily(BTC, TimeRange(JANUARY, JANUARY)) == ()
    assert [file.span.end for file in archive.daily(BTC, TimeRange(JANUARY, ms("2024-01-02") + 1))] == [
        ms("2024-01-02"),
        ms("2024-01-03"),
    ]


def test_a_file_that_no_listing_names_can_be_there(bucket, source):
    archive = source(bucket)
    assert not archive.published(FILE)
    bucket.put(KEY, csv())
    assert archive.published(FILE)
    assert bucket.asked == [f"{KEY}.CHECKSUM"] * 2


def test_a_server_that_knows_no_markers_names_no_more(bucket, source):
    fill(bucket)
    plain = bucket.listing
    bucket.listing = lambda marker="", **params: plain(**params)
    assert len(listed(source(bucket), BTC, since=ms("2024-01-29"))) == 1 + 3


def test_settlements_have_monthly_files_only(bucket, source):
    for kind in ("monthly", "daily"):
        bucket.objects[f"data/futures/um/{kind}/fundingRate/BTCUSDT/BTCUSDT-fundingRate-2024-01.zip"] = b"x"
        bucket.objects[f"data/futures/um/{kind}/fundingRate/BTCUSDT/BTCUSDT-fundingRate-2024-01-01.zip"] = b"x"
    (file,) = listed(source(bucket), FUNDING)
    assert file.key == "data/futures/um/monthly/fundingRate/BTCUSDT/BTCUSDT-fundingRate-2024-01.zip"
    assert len(bucket.asked) == 1


def test_nothing_is_listed_of_what_is_not_there(bucket, source):
    assert listed(source(bucket), BTC) == ()
    assert source(bucket).symbols("um", "klines") == ()


@pytest.mark.parametrize("page", [1, 1000])
def test_symbols_of_both_trees(kit, source, page):
    bucket = Bucket(kit, page=page)
    for key in [
        "data/futures/um/monthly/klines/BTCUSDT/1m/x.zip",
        "data/futures/um/monthly/klines/BTCUSDT/5m/x.zip",
        "data/futures/um/monthly/klines/LUNAUSDT_SETTLED/1m/x.zip",
        "data/futures/um/monthly/klines/A&BUSDT/1m/x.zip",
        "data/futures/um/monthly/klines/readme.txt",
        "data/futures/um/daily/klines/币安人生USDT/1m/x.zip",
        "data/futures/um/daily/klines/BTCUSDT/1m/x.zip",
        "data/futures/um/daily/metrics/OTHER/x.zip",
        "data/futures/cm/daily/klines/BTCUSD_PERP/1m/x.zip",
        "data/spot/daily/klines/ETHBTC/1m/x.zip",
    ]:
        bucket.objects[key] = b"x"
    archive = source(bucket)
    assert archive.symbols("um", "klines") == ("A&BUSDT", "BTCUSDT", "LUNAUSDT_SETTLED", "币安人生USDT")
    assert archive.symbols("cm", "klines") == ("BTCUSD_PERP",)
    assert archive.symbols("spot", "klines") == ("ETHBTC",)
    assert archive.symbols("um", "funding") == ()


def page(inner: str) -> bytes:
    return f"<ListBucketResult><IsTruncated>true</IsTruncated>{inner}</ListBucketResult>".encode()


@pytest.mark.parametrize(
    "inner",
    [
        "",
        "<NextMarker>data/a</NextMarker>",
        "<CommonPrefixes><Prefix>data/futures/um/daily/klines/BTCUSDT/</Prefix></CommonPrefixes>",
    ],
)
def test_a_listing_that_does_not_advance_is_left(kit, source, inner):
    server = kit.serve(kit.answer(page(inner)))
    with pytest.raises(BadAnswer, match="does not advance"):
        listed(source(server), BTC)
    assert len(server.requests) <= 2


def test_a_listing_that_is_cut_off_is_asked_again(kit, source):
    bucket = Bucket(kit)
    fill(bucket)
    whole = bucket.listing(prefix="data/futures/um/monthly/klines/BTCUSDT/1m/", delimiter="/")
    # with a version, as if it were a file: there is nothing to go on with
    cut = kit.answer(whole[:-20], etag='"x"')
    server = kit.serve(cut, kit.answer(b"<!DOCTYPE html><html></html>"), kit.answer(whole, etag='"x"'))
    archive = source(server)
    assert len(listed(archive, Series("um", "funding", "X"))) == 0
    assert archive.stats.retries == 2
    assert all("range" not in request.headers for request in server.requests)


def test_another_document_than_a_listing_is_a_bad_answer(kit, source):
    server = kit.serve(kit.answer(b"<Error><Code>InternalError</Code></Error>"))
    with pytest.raises(BadAnswer, match=f"GET {server.url}.*shape"):
        listed(source(server), BTC)
    assert len(server.requests) == 1


def test_no_index_at_that_address(kit, source):
    with pytest.raises(Rejected, match="404"):
        source(kit.serve(kit.answer(b"", 404))).symbols("um", "klines")


SERIES = st.sampled_from([each[0] for each in NAMES])


@given(SERIES, st.sampled_from(["monthly", "daily"]), st.integers(0, 4_102_444_800_000))
def test_the_file_that_holds_a_time(series, kind, time):
    file = file_of(series, kind, time)
    assert time in file.span
    moment = dt.datetime.fromtimestamp(time / 1000, dt.UTC)
    text = f"{moment:%Y-%m-%d}" if kind == "daily" else f"{moment:%Y-%m}"
    assert file.key.endswith(f"-{text}.zip")
    assert file == file_of(series, kind, file.span.start) == file_of(series, kind, file.span.end - 1)


# ---- files


def bars(table: pa.Table) -> list[tuple]:
    """Time and prices of each row."""
    times = table["open_time"].cast(pa.int64()).to_pylist()
    return list(zip(times, *(table[name].to_pylist() for name in ("open", "high", "low", "close")), strict=True))


def written(content: bytes) -> list[tuple]:
    return [(int(f[0]), *map(float, f[1:5])) for f in (line.split(",") for line in content.decode().splitlines())]


@pytest.mark.parametrize("form", ["{}  {}\n", "{}  {}", "{} *{}\r\n"])
def test_a_file_is_fetched_verified_and_read(bucket, source, form):
    content = csv(2000, start=JANUARY - 600_000) + csv(3)  # rows outside of its month, and some twice: not this module's matter
    body = bucket.put(KEY, content, form)
    archive = source(bucket)
    found = archive.fetch(BTC, FILE)
    assert found.rows.schema == arrow_schema("klines")
    assert bars(found.rows) == written(content)
    assert (found.sha256, found.size) == (hashlib.sha256(body).hexdigest(), len(body))
    assert found.etag == hashlib.md5(body).hexdigest()
    assert bucket.asked == [f"{KEY}.CHECKSUM", KEY]
    assert (archive.stats.requests, archive.stats.weight, archive.stats.retries) == (2, 0, 0)
    assert archive.stats.bytes_downloaded == len(body) + len(bucket.objects[f"{KEY}.CHECKSUM"])


def test_a_symbol_in_another_script_is_fetched(bucket, source):
    series = Series("um", "funding", "币安人生USDT")
    file = file_of(series, "monthly", ms("2026-07-01"))
    bucket.put(file.key, b"calc_time,funding_interval_hours,last_funding_rate\n1782864000007,8,-0.0001\n")
    rows = source(bucket).fetch(series, file).rows
    assert rows.schema == arrow_schema("funding")
    assert rows["funding_rate"].to_pylist() == [-0.0001]
    assert "币" not in bucket.server.requests[0].line


def test_a_base_address_with_a_path(bucket, source):
    body = zipped(KEY, csv())
    bucket.objects |= {f"mirror/{KEY}": body, f"mirror/{KEY}.CHECKSUM": checksum(KEY, body)}
    with ArchiveSource(f"{bucket.server.url}/mirror/", bucket.index) as archive:
        assert len(archive.fetch(BTC, FILE).rows) == 3


def test_a_server_without_versions(kit, source):
    body = zipped(KEY, csv())
    archive = source(kit.serve(kit.answer(checksum(KEY, body)), kit.answer(body)))
    assert archive.fetch(BTC, FILE).etag is None


def test_what_is_not_there(bucket, source):
    with pytest.raises(NotPublished, match=re.escape(KEY)):
        source(bucket).fetch(BTC, FILE)
    assert bucket.asked == [f"{KEY}.CHECKSUM"]
    with pytest.raises(NotPublished, match=re.escape(KEY)):
        source(bucket).fetch(BTC, LISTED)  # which a stale listing may name
    assert bucket.asked[1:] == [f"{KEY}.CHECKSUM", KEY]


def test_a_checksum_whose_zip_is_not_there_yet(bucket, source):
    bucket.put(KEY, csv())
    del bucket.objects[KEY]
    with pytest.raises(NotPublished, match=re.escape(KEY)):
        source(bucket).fetch(BTC, FILE)


def test_what_cannot_be_verified_is_not_used_and_not_even_read(bucket, source):
    bucket.put(KEY, csv(5000))
    del bucket.objects[f"{KEY}.CHECKSUM"]
    archive = source(bucket)
    with pytest.raises(BadAnswer, match=f"{re.escape(KEY)}: .*cannot be verified.*not used$"):
        archive.fetch(BTC, LISTED)
    assert archive.stats.bytes_downloaded < 100


def test_another_digest_is_looked_at_twice_and_refused(bucket, source):
    bucket.put(KEY, csv())
    bucket.objects[KEY] = zipped(KEY, csv(4))
    digest = hashlib.sha256(bucket.objects[KEY]).hexdigest()
    with pytest.raises(BadAnswer, match=f"{re.escape(KEY)}: its SHA-256 is {digest}, but .*not used"):
        source(bucket).fetch(BTC, FILE)
    assert bucket.asked == [f"{KEY}.CHECKSUM", KEY] * 2


@pytest.mark.parametrize(
    "stated",
    [checksum("BTCUSDT-1m-2024-02.zip", b"x"), b"<html>", b"", b"0" * 2000],
    ids=["other name", "html", "empty", "long"],
)
def test_a_checksum_that_is_none(bucket, source, stated):
    bucket.put(KEY, csv())
    bucket.objects[f"{KEY}.CHECKSUM"] = stated
    with pytest.raises(BadAnswer, match=f"{re.escape(KEY)}: .*not used"):
        source(bucket).fetch(BTC, FILE)
    assert KEY not in bucket.asked


def test_a_file_that_is_replaced_between_checksum_and_zip(kit, bucket, source):
    old = bucket.put(KEY, csv())
    before = bucket.objects[f"{KEY}.CHECKSUM"]
    new = bucket.put(KEY, csv(9))
    stale = iter([before])
    plain = bucket.answer

    def answer(peer, request):
        if request.path.endswith(".CHECKSUM"):
            bucket.objects[f"{KEY}.CHECKSUM"] = next(stale, checksum(KEY, new))
        return plain(peer, request)

    server = kit.serve(answer, server_time=None)
    found = source(server).fetch(BTC, FILE)
    assert old != new
    assert (len(found.rows), found.sha256) == (9, hashlib.sha256(new).hexdigest())
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (zipped(KEY, csv())[:-5], "cut off"),
        (zipped(KEY.replace("BTC", "ETH"), csv()), "instead of"),
        (zipped(KEY, b"what,is,this\n1,2,3\n"), "header"),
        (zipped(KEY, csv()[:-30]), "CSV"),
    ],
)
def test_a_file_that_is_verified_and_wrong_is_asked_for_once(bucket, source, body, said):
    bucket.objects |= {KEY: body, f"{KEY}.CHECKSUM": checksum(KEY, body)}
    with pytest.raises(BadAnswer, match=f"{re.escape(KEY)}: .*{said}.*not used"):
        source(bucket).fetch(BTC, FILE)
    assert len(bucket.asked) == 2


def test_the_cap_of_a_zip(bucket, source):
    body = bucket.put(KEY, csv(1000))
    assert len(source(bucket, max_zip=len(body)).fetch(BTC, FILE).rows) == 1000
    with pytest.raises(BadAnswer, match=f"{re.escape(KEY)}: .*{len(body)} bytes"):
        source(bucket, max_zip=len(body) - 1).fetch(BTC, FILE)


def test_a_zip_that_is_cut_off_is_gone_on_with(kit, bucket, source):
    body = bucket.put(KEY, csv(2000))
    plain, cuts = bucket.answer, iter([10_000, 20_000])

    def answer(peer, request):
        whole = plain(peer, request)
        length = next(cuts, None) if request.path.endswith(".zip") else None
        if length is None:
            return whole
        peer.sendall(whole[: whole.index(b"\r\n\r\n") + 4 + length])
        return None

    server = kit.serve(answer, server_time=None)
    archive = source(server)
    assert archive.fetch(BTC, FILE).sha256 == hashlib.sha256(body).hexdigest()
    assert [request.headers.get("range") for request in server.requests] == [None, None, "bytes=10000-", "bytes=30000-"]
    assert archive.stats.bytes_downloaded == len(body) + len(bucket.objects[f"{KEY}.CHECKSUM"]), "no byte came twice"
    assert (archive.stats.requests, archive.stats.retries) == (4, 2)


# ---- refusals, repetition, the end


@pytest.mark.parametrize("status", [403, 418, 451])
def test_a_refusal_stands(kit, source, status):
    server = kit.serve(kit.answer(b"<html>", status))
    archive = source(server)
    for ask in (lambda: archive.fetch(BTC, FILE), lambda: listed(archive, BTC), lambda: archive.symbols("um", "klines")):
        with pytest.raises(Refused, match=f"HTTP {status}"):
            ask()
    assert len(server.requests) == 1


def test_what_is_transient_is_asked_again(kit, source):
    body = zipped(KEY, csv())
    server = kit.serve(
        kit.answer(b"", 500),
        kit.answer(b"<Error><Code>SlowDown</Code></Error>", 503),
        kit.reset,
        kit.answer(checksum(KEY, body)),
        kit.answer(b"", 408),
        kit.answer(body),
    )
    time = kit.FakeTime()
    archive = source(server, stop=time)
    assert len(archive.fetch(BTC, FILE).rows) == 3
    assert (archive.stats.requests, archive.stats.retries, len(time.waits)) == (6, 4, 4)
    assert archive.stats.waited_s == pytest.approx(sum(time.waits))


@pytest.mark.parametrize("status", [429, 503])
def test_what_the_server_asks_to_wait_is_waited(kit, source, status):
    body = zipped(KEY, csv())
    server = kit.serve(kit.answer(b"", status, retry_after="7"), kit.answer(checksum(KEY, body)), kit.answer(body))
    time = kit.FakeTime()
    source(server, stop=time).fetch(BTC, FILE)
    assert 7 <= time.waits[0] <= 7.5


def test_a_request_that_is_rejected_is_not_repeated(kit, source):
    server = kit.serve(kit.answer(b"<Error/>", 400))
    with pytest.raises(Rejected, match="400"):
        source(server).fetch(BTC, FILE)
    assert len(server.requests) == 1


def test_an_archive_that_fails_and_fails_is_left_alone(kit, source):
    server = kit.serve(kit.answer(b"", 500))
    archive = source(server, attempts=2)
    for _ in range(3):
        with pytest.raises(Transient, match="given up after 2 attempts"):
            archive.fetch(BTC, FILE)
    assert len(server.requests) == 6
    for ask in (lambda: archive.fetch(BTC, FILE), lambda: archive.published(FILE)):
        with pytest.raises(Transient, match="failed 3 times in a row"):
            ask()
    assert len(server.requests) == 6
    # Listings may be answered where files are not; and the other way round.
    for _ in range(3):
        with pytest.raises(Transient, match="given up after 2 attempts"):
            listed(archive, BTC)
    for ask in (lambda: listed(archive, BTC), lambda: archive.symbols("um", "klines")):
        with pytest.raises(Transient, match="failed 3 times in a row"):
            ask()
    assert len(server.requests) == 12


@pytest.mark.parametrize("between", [b"", b"<html>"], ids=["404", "bad answer"])
def test_only_a_row_of_failures_counts(kit, source, between):
    good = kit.answer(b"", 404) if not between else kit.answer(b"<x/>")
    server = kit.serve(*[kit.answer(b"", 500)] * 2, good, *[kit.answer(b"", 500)] * 3)
    archive = source(server, attempts=1)
    for error in (Transient, Transient, (Rejected, BadAnswer), Transient, Transient, Transient):
        with pytest.raises(error):
            listed(archive, BTC)
    with pytest.raises(Transient, match="in a row"):
        listed(archive, BTC)
    assert len(server.requests) == 6


def test_a_stop_ends_a_pause_and_every_further_question(kit, source):
    server = kit.serve(kit.answer(b"", 500))
    archive = source(server, stop=kit.FakeTime(stop_after=1))
    for _ in range(2):
        with pytest.raises(Cancelled):
            archive.fetch(BTC, FILE)
    assert len(server.requests) == 1


def test_a_stop_ends_a_download(kit, source):
    stop = threading.Event()
    body = zipped(KEY, csv(5000))

    def slow(peer) -> None:
        whole = kit.answer(body)
        peer.sendall(whole[:10_000])
        stop.set()
        for start in range(10_000, len(whole), 1000):
            time.sleep(0.05)
            peer.sendall(whole[start : start + 1000])

    archive = source(kit.serve(kit.answer(checksum(KEY, body)), slow), stop=stop)
    began = time.monotonic()
    with pytest.raises(Cancelled):
        archive.fetch(BTC, FILE)
    assert time.monotonic() - began < 2


# ---- time, threads, the rest


def test_the_time_is_that_of_the_archive(bucket, source):
    archive = source(bucket)
    assert archive.now() == ms("2024-02-07T10:11:12")
    assert bucket.server.requests[0].params == {"prefix": "data/", "delimiter": "/"}
    assert archive.now() == ms("2024-02-07T10:11:12")
    assert len(bucket.asked) == 1


def test_any_answer_tells_the_time_and_a_cached_one_does_not_turn_it_back(kit, source):
    dates = ("Wed, 07 Feb 2024 10:00:00 GMT", "Wed, 07 Feb 2024 10:00:05 GMT", "Tue, 06 Feb 2024 00:00:00 GMT", "junk")
    archive = source(kit.serve(*(kit.answer(b"", 404, date=date) for date in dates)))
    for expected in ("2024-02-07T10:00:00", "2024-02-07T10:00:05", "2024-02-07T10:00:05", "2024-02-07T10:00:05"):
        with pytest.raises(Rejected):
            archive.symbols("um", "klines")
        assert archive.now() == ms(expected)


def test_an_archive_that_does_not_tell_the_time(kit, source):
    empty = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
    with pytest.raises(BadAnswer, match=r"Date.*--source rest"):
        source(kit.serve(kit.answer(empty))).now()


def test_many_threads_fetch_at_once(bucket, source):
    files = {day: file_of(BTC, "daily", ms(day)) for day in DAYS}
    for day, file in files.items():
        bucket.put(file.key, csv(100, start=ms(day)))
    archive = source(bucket)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda file: archive.fetch(BTC, file), files.values()))
    for each, (day, file) in zip(found, files.items(), strict=True):
        assert bars(each.rows) == written(csv(100, start=ms(day)))
        assert each.sha256 == hashlib.sha256(bucket.objects[file.key]).hexdigest()
    assert archive.stats.requests == 62
    assert archive.stats.bytes_downloaded == sum(map(len, bucket.objects.values()))


@pytest.mark.parametrize("urls", [("data.binance.vision", "https://x"), ("https://x", "s3://bucket")])
def test_an_address_that_is_none(urls):
    with pytest.raises(UsageError, match="must begin with https"):
        ArchiveSource(*urls)


def test_connections_that_were_passed_in_stay_open(bucket, source):
    with Http() as http:
        source(bucket, http=http).close()
        assert http.get(f"{bucket.server.url}/x").status == 404
