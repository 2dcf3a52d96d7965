"""What the archive sends, good and bad: against Python's zipfile, csv and float, recorded zips, and bytes that mean harm."""

import contextlib
import csv
import hashlib
import io
import math
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
from xml.sax.saxutils import escape

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.errors import BadAnswer, Transient
from etl.extract import bulk
from etl.schema import arrow_schema

NAME = "BTCUSDT-1m-2024-01.zip"
MEMBER = "BTCUSDT-1m-2024-01.csv"
HEADER = "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
ROW = "1675209600000,0.2413,0.2418,0.2413,0.2418,283971.0,1675209659999,68569.21705,270,179373.9,43319.35309,0"
FLOATS = ("open", "high", "low", "close", "volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED, comment: bytes = b"") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about two members of one name
        for name, content in members or ((MEMBER, f"{ROW}\n".encode()),):
            archive.writestr(name, content)
        archive.comment = comment
    return file.getvalue()


def plain(table: pa.Table) -> list[dict]:
    """The rows, with times as ms."""
    times = [field.name for field in table.schema if pa.types.is_timestamp(field.type)]
    for name in times:
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, table[name].cast(pa.int64()))
    return table.to_pylist()


def klines(*lines: str, ending: str = "\n") -> list[dict]:
    rows = bulk.rows("".join(line + ending for line in lines).encode(), "klines")
    assert rows.schema == arrow_schema("klines")
    return plain(rows)


# ---- CSV


def bar(line: str) -> dict:
    """A line in ms, read by hand."""
    f = line.split(",")
    names = HEADER.split(",")[:-1]
    whole = {"open_time", "close_time", "count"}
    return {name: int(text) if name in whole else float(text) for name, text in zip(names, f, strict=False)}


LINES = {
    "um": ROW,
    "zero volume, padded": "1676342220000,0.2420,0.2420,0.2420,0.2420,0.0,1676342279999,0.00000,0,0.0,0.00000,0",
    "zero volume, bare": "1706857920000,0.1601,0.1601,0.1601,0.1601,0,1706857979999,0,0,0,0,0",
    "cm": "1698364800000,34161.6,34182.5,33977.4,34024.2,409953,1698368399999,1202.97118037,15095,192220,564.12041453,0",
    "spot in ms": "1577836800000,7195.24000000,7196.25000000,7183.14000000,7186.68000000,51.64281200,1577836859999,"
    "371233.51835535,493,19.59823000,140888.41428273,0",
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES.keys())
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_recorded_lines(line, header, ending):
    assert klines(*([HEADER] if header else []), line, line, ending=ending) == [bar(line)] * 2


def test_microseconds_are_floored_and_every_time_decides_for_itself():
    micro = "1735689600000000,1,1,1,1,1,1735689659999999,1,1,1,1,0"
    odd = "1735689660000999,1,1,1,1,1,1735689719999,1,1,1,1,0"
    opens = [(row["open_time"], row["close_time"]) for row in klines(micro, odd, ROW)]
    assert opens == [
        (1735689600000, 1735689659999),
        (1735689660000, 1735689719999),
        (1675209600000, 1675209659999),
    ]


def test_the_border_between_ms_and_microseconds():
    assert [row["open_time"] for row in klines("99999999999999,1,1,1,1,1,100000000000000,1,1,1,1,0")] == [99999999999999]
    assert [row["close_time"] for row in klines("99999999999999,1,1,1,1,1,100000000000000,1,1,1,1,0")] == [100000000000]


def test_settlements_by_header_and_by_position():
    line = "1751328000007,8,0.00008191"
    expected = [{"funding_time": 1751328000007, "funding_rate": 0.00008191, "mark_price": None, "rate_type": None}]
    for text in ("calc_time,funding_interval_hours,last_funding_rate\n" + line, line + "\n", line):
        rows = bulk.rows(text.encode(), "funding")
        assert rows.schema == arrow_schema("funding")
        assert plain(rows) == expected


@pytest.mark.parametrize("dataset", ["mark_klines", "index_klines", "premium_klines"])
def test_price_bars_have_no_volume(dataset):
    line = "1691603820000,-0.00042931,-0.00023641,-0.00059406,-0.00043659,0,1691603879999,0,12,0,0,0"
    for text in (f"{HEADER}\n{line}\n", f"{line}\n"):
        rows = bulk.rows(text.encode(), dataset)
        assert rows.schema == arrow_schema(dataset)
        assert plain(rows) == [{k: v for k, v in bar(line).items() if k in rows.column_names}]


def test_rows_stay_as_they_are_out_of_order_and_twice():
    late = ROW.replace("1675209600000", "1675209660000")
    assert [row["open_time"] for row in klines(late, ROW, late)] == [1675209660000, 1675209600000, 1675209660000]


def test_a_header_decides_where_columns_are():
    names, fields = HEADER.split(","), ROW.split(",")
    header, line = ",".join(["new", *reversed(names)]), ",".join(["an ünknown text", *reversed(fields)])
    assert klines(header, line) == [bar(ROW)]


def test_more_columns_than_known_are_tolerated_without_a_header_too():
    assert klines(ROW + ",abc,7") == [bar(ROW)]


@pytest.mark.parametrize("dataset", ["klines", "funding", "mark_klines"])
@pytest.mark.parametrize("text", [b"", b"\n", b"\r\n\r\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
def test_an_empty_file_is_no_rows(dataset, text):
    rows = bulk.rows(text, dataset)
    assert len(rows) == 0
    assert rows.schema == arrow_schema(dataset)


@pytest.mark.parametrize("ending", ["", "\n", "\r\n", "\n\n"])
def test_a_header_alone_is_no_rows(ending):
    rows = bulk.rows((HEADER + ending).encode(), "klines")
    assert len(rows) == 0
    assert rows.schema == arrow_schema("klines")


def test_no_line_end_at_the_end_and_a_mark_at_the_beginning():
    for text in (ROW, f"\ufeff{ROW}", f"\ufeff{HEADER}\r\n{ROW}"):
        assert plain(bulk.rows(text.encode(), "klines")) == [bar(ROW)]


def replaced(place: int, text: str) -> str:
    fields = ROW.split(",")
    fields[place] = text
    return ",".join(fields)


BAD_LINES = {
    "text as price": replaced(1, "abc"),
    "text as time": replaced(6, "abc"),
    "text as count": replaced(8, "abc"),
    "no price": replaced(1, ""),
    "no time": replaced(6, ""),
    "no count": replaced(8, ""),
    "null": replaced(1, "null"),
    "NaN": replaced(1, "nan"),
    "infinity": replaced(5, "inf"),
    "minus infinity": replaced(9, "-Infinity"),
    "overflow": replaced(10, "1e999"),
    "negative time": replaced(6, "-1"),
    "negative count": replaced(8, "-270"),
    "time beyond year 9999": replaced(6, "253402300800000000"),
    "time beyond 64 bits": replaced(6, "99999999999999999999"),
    "fractional time": replaced(6, "1675209659999.5"),
    "fractional count": replaced(8, "1.5"),
    "hexadecimal count": replaced(8, "0x10"),
    "quoted": replaced(1, '"0.2413"'),
    "underscore": replaced(1, "1_0"),
    "NUL": replaced(1, "1\0"),
    "short line": ROW.rpartition(",")[0],
    "long line": ROW + ",1",
    "cut line": ROW[:40],
    "repeated header": HEADER,
    "blank": " ",
    "semicolons": ROW.replace(",", ";"),
    "arabic digits": replaced(1, "٣"),
}


@pytest.mark.parametrize("line", BAD_LINES.values(), ids=BAD_LINES.keys())
@pytest.mark.parametrize("header", [True, False])
def test_a_bad_line_spoils_the_file(line, header):
    with pytest.raises(BadAnswer):
        klines(*([HEADER] if header else []), ROW, line, ROW)


@pytest.mark.parametrize(
    "line",
    [
        "open,high,low",
        HEADER.replace("taker_buy_volume", "taker"),
        HEADER + ",count",
        HEADER.upper(),
        ROW.rpartition(",")[0],
        "1675209600000",
        " ",
        "<html>",
        "0x1F" + ROW,
    ],
)
def test_a_bad_first_line_spoils_the_file(line):
    with pytest.raises(BadAnswer):
        klines(line)
    with pytest.raises(BadAnswer):
        klines(line, ROW)


@pytest.mark.parametrize("place", [1, 11, 12])
def test_what_is_not_utf_8_is_refused_in_any_column(place):
    fields = [*ROW.split(","), "1"]
    fields[place] = "\udcff"
    with pytest.raises(BadAnswer, match="UTF-8"):
        bulk.rows(",".join(fields).encode("utf-8", "surrogateescape"), "klines")


@pytest.mark.parametrize("cut", [b"\xef\xbb", b"\xff\xfe1\0,\0"])
def test_half_a_mark_and_utf_16_are_refused(cut):
    with pytest.raises(BadAnswer, match="UTF-8"):
        bulk.rows(cut + ROW.encode(), "klines")


NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.decimals(min_value=0, max_value=10**9, places=8, allow_nan=False, allow_infinity=False).map(lambda d: f"{d:f}"),
    st.sampled_from(["0", "0.0", "0.00000", "-0.0", "1e-7", "5E+3", "00.50", "0.1", "123456789.12345678"]),
)
TIMES = st.one_of(st.integers(0, 10**14 - 1), st.integers(10**14, 253_402_300_799_999_999))
COUNTS = st.integers(0, 2**63 - 1)
BARS = st.tuples(TIMES, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, TIMES, NUMBERS, COUNTS, NUMBERS, NUMBERS, st.just(0))


@given(
    bars=st.lists(BARS, min_size=1, max_size=20),
    order=st.permutations(range(12)),
    header=st.booleans(),
    ending=st.sampled_from(["\n", "\r\n"]),
    mark=st.booleans(),
    extra=st.integers(0, 2),
)
def test_csv_comes_back_as_python_reads_it(bars, order, header, ending, mark, extra):
    order = order if header else range(12)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator=ending)
    if header:
        writer.writerow([*(HEADER.split(",")[i] for i in order), *(f"more{i}" for i in range(extra))])
    for row in bars:
        writer.writerow([*(row[i] for i in order), *["text"] * extra])
    encoded = text.getvalue().encode("utf-8-sig" if mark else "utf-8")
    expected = [
        {
            name: float(value) if name in FLOATS else value // 1000 if "time" in name and value >= 10**14 else value
            for name, value in zip(HEADER.split(",")[:-1], row, strict=False)
        }
        for row in bars
    ]
    found = plain(bulk.rows(encoded, "klines"))
    assert found == expected
    signs = [[math.copysign(1, row[name]) for name in FLOATS] for row in found]
    assert signs == [[math.copysign(1, row[name]) for name in FLOATS] for row in expected]


TEXTS = st.text(alphabet="0123456789.,-+eExX naninf\"'\r\n\0\ufeffé", max_size=200).map(str.encode)


@given(st.one_of(st.binary(max_size=300), TEXTS), st.sampled_from(["klines", "funding", "mark_klines"]), st.booleans())
def test_any_csv_is_rows_or_a_bad_answer(text, dataset, header):
    if header:
        titles = "calc_time,funding_interval_hours,last_funding_rate" if dataset == "funding" else HEADER
        text = titles.encode() + b"\n" + text
    try:
        rows = bulk.rows(text, dataset)
    except BadAnswer:
        return
    assert rows.schema == arrow_schema(dataset)
    rows.validate(full=True)
    assert all(row[name] >= 0 for row in plain(rows) for name in row if name in {"count", "open_time", "funding_time"})


def test_a_large_file_is_read_in_blocks_and_loses_nothing():
    lines = [replaced(8, str(i)) for i in range(40_000)]  # some 4 MB
    rows = bulk.rows("\n".join(lines).encode(), "klines")
    assert rows["count"].to_pylist() == list(range(40_000))
    assert rows["count"].num_chunks > 1


# ---- zip


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("content", [b"", b"x", str(list(range(100_000))).encode()], ids=["empty", "byte", "long"])
def test_the_member_of_a_zip(method, content):
    assert bulk.member(zipped((MEMBER, content), method=method), NAME) == content


def test_a_zip_that_was_written_as_a_stream():
    class Stream(io.RawIOBase):
        """Cannot seek, so zipfile puts sizes behind the member and zeros in front of it."""

        def __init__(self):
            self.data = b""

        def writable(self):
            return True

        def write(self, data):
            self.data += bytes(data)
            return len(data)

    stream = Stream()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MEMBER, ROW)
    assert stream.data[6] & 8, "sizes stand behind the member"
    assert bulk.member(stream.data, NAME) == ROW.encode()


def test_a_symbol_in_another_script():
    assert bulk.member(zipped(("币安人生USDT-1m-2026-01.csv", b"1")), "币安人生USDT-1m-2026-01.zip") == b"1"


@pytest.mark.parametrize("header", [True, False])
def test_a_table_from_a_zip(header):
    content = f"{HEADER}\n{ROW}\n" if header else f"{ROW}\n"
    assert plain(bulk.table(zipped((MEMBER, content.encode())), NAME, "klines")) == [bar(ROW)]


def patched(data: bytes, place: int, form: str, value: int) -> bytes:
    """`data` with another value at `place` of its directory entry."""
    changed = bytearray(data)
    struct.pack_into(form, changed, data.rindex(b"PK\1\2") + place, value)
    return bytes(changed)


def behind(front: bytes) -> bytes:
    """A zip that begins behind `front`, as a self-extracting one does."""
    file = io.BytesIO(front)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(MEMBER, ROW)
    return file.getvalue()


FLAGS, METHOD, CRC, PACKED, SIZE, LOCAL = (8, "<H"), (10, "<H"), (16, "<L"), (20, "<L"), (24, "<L"), (42, "<L")
GOOD = zipped()
BOMB = zipped((MEMBER, bytes(50_000_000)))
CONTENT = f"{ROW}\n".encode()

ATTACKS = {
    "no bytes": b"",
    "html": b"<html>not here</html>",
    "cut": GOOD[:-1],
    "cut in the middle": GOOD[: len(GOOD) // 2],
    "end alone": GOOD[-22:],
    "behind the end": GOOD + b"x",
    "comment": zipped(comment=b"surprise"),
    "in front": b"x" + GOOD,
    "in front, offsets right": behind(b"MZ"),
    "no member": b"PK\5\6" + bytes(18),
    "two members": zipped((MEMBER, CONTENT), ("other.csv", CONTENT)),
    "one member twice": zipped((MEMBER, CONTENT), (MEMBER, CONTENT)),
    "another name": zipped(("ETHUSDT-1m-2024-01.csv", CONTENT)),
    "another case": zipped((MEMBER.lower(), CONTENT)),
    "parent": zipped(("../../" + MEMBER, CONTENT)),
    "absolute": zipped(("/etc/passwd", CONTENT)),
    "folder": zipped(("x/" + MEMBER, CONTENT)),
    "backslash": zipped(("..\\" + MEMBER, CONTENT)),
    "bomb": BOMB,
    "bomb that says it is small": patched(BOMB, *SIZE, 1000),
    "larger than it says": patched(GOOD, *SIZE, len(CONTENT) - 1),
    "smaller than it says": patched(GOOD, *SIZE, len(CONTENT) + 1),
    "empty, it says": patched(GOOD, *SIZE, 0),
    "huge, it says": patched(GOOD, *SIZE, 2**32 - 1),
    "packed size too small": patched(GOOD, *PACKED, 10),
    "packed size too large": patched(GOOD, *PACKED, 2**31),
    "another CRC": patched(GOOD, *CRC, 1),
    "encrypted": patched(GOOD, *FLAGS, 1),
    "strongly encrypted": patched(GOOD, *FLAGS, 0x41),
    "bzip2": zipped(method=zipfile.ZIP_BZIP2),
    "lzma": zipped(method=zipfile.ZIP_LZMA),
    "deflated, it says": patched(zipped(method=zipfile.ZIP_STORED), *METHOD, 8),
    "stored, it says": patched(GOOD, *METHOD, 0),
    "elsewhere": patched(GOOD, *LOCAL, 7),
    "far away": patched(GOOD, *LOCAL, 2**32 - 1),
}


@pytest.mark.parametrize("data", ATTACKS.values(), ids=ATTACKS.keys())
def test_an_attack_by_zip_is_a_bad_answer(data):
    with pytest.raises(BadAnswer):
        bulk.table(data, NAME, "klines")


def test_a_link_is_no_csv():
    link = zipfile.ZipInfo(MEMBER)
    link.external_attr = 0o120777 << 16
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(BadAnswer):
        bulk.table(file.getvalue(), NAME, "klines")


def test_another_local_name_than_in_the_directory():
    data = bytearray(GOOD)
    data[30:31] = b"X"
    with pytest.raises(BadAnswer, match="begin with its member"):
        bulk.member(bytes(data), NAME)


@pytest.mark.parametrize("name", ["bomb", "bomb that says it is small", "larger than it says"])
def test_a_bomb_takes_no_memory(name):
    data = ATTACKS[name]
    tracemalloc.start()
    try:
        with pytest.raises(BadAnswer):
            bulk.member(data, NAME)
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()


def test_the_caps():
    assert len(bulk.member(zipped((MEMBER, bytes(1000))), NAME)) == 1000
    with pytest.raises(BadAnswer, match="200:1"):
        bulk.member(zipped((MEMBER, bytes(100_000))), NAME)


def test_every_flipped_byte_is_noticed_or_says_nothing_about_the_content():
    for place in range(len(GOOD)):
        for bit in (1, 0x80):
            data = bytearray(GOOD)
            data[place] ^= bit
            try:
                content = bulk.member(bytes(data), NAME)
            except BadAnswer:
                continue
            assert content == CONTENT


def test_every_cut_is_noticed():
    for length in range(len(GOOD)):
        with pytest.raises(BadAnswer):
            bulk.member(GOOD[:length], NAME)


@given(st.binary(max_size=200), st.binary(max_size=60))
def test_any_zip_is_content_or_a_bad_answer(junk, tail):
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(tail), len(junk), 0)
    for data in (junk, junk + GOOD[-22:], junk + tail + end):
        with pytest.raises(BadAnswer):
            bulk.member(data, NAME)


@given(st.binary(max_size=2000), st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]), st.data())
def test_zips_come_back_and_damaged_ones_never_differ(content, method, data):
    whole = zipped((MEMBER, content), method=method)
    assert bulk.member(whole, NAME) == content
    start, size = data.draw(st.integers(0, len(whole))), data.draw(st.integers(0, 8))
    damaged = whole[:start] + data.draw(st.binary(max_size=8)) + whole[start + size :]
    with contextlib.suppress(BadAnswer):
        assert bulk.member(damaged, NAME) == content


# ---- CHECKSUM

DIGEST = "dd579c62368ded93d3f01a1904575b932279e32936e181c062763e605793c1c2"


@pytest.mark.parametrize("between", ["  ", " *"])
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_checksum(between, end):
    assert bulk.checksum(f"{DIGEST}{between}{NAME}{end}".encode(), NAME) == DIGEST
    assert bulk.checksum(f"{DIGEST.upper()}{between}{NAME}{end}".encode(), NAME) == DIGEST


@pytest.mark.parametrize(
    "text",
    [
        "",
        DIGEST,
        f"{DIGEST} {NAME}",
        f"{DIGEST}   {NAME}",
        f"{DIGEST[:-1]}  {NAME}",
        f"{DIGEST}0  {NAME}",
        f"g{DIGEST[1:]}  {NAME}",
        f" {DIGEST}  {NAME}",
        f"{DIGEST}  {NAME}\n\n",
        f"{DIGEST}  {NAME}\n{DIGEST}  {NAME}\n",
        f"{DIGEST}  {NAME} ",
        f"{DIGEST}  ETHUSDT-1m-2024-01.zip",
        f"{DIGEST}  ./{NAME}",
        f"{DIGEST}  {NAME.lower()}",
        "<html>",
    ],
)
def test_what_is_no_checksum_of_this_file(text):
    with pytest.raises(BadAnswer, match="CHECKSUM"):
        bulk.checksum(text.encode(), NAME)


@given(st.binary(), st.text("BTC币-0123456789.", min_size=1).map(lambda text: text + ".zip"))
def test_checksums_come_back_and_junk_does_not(content, name):
    digest = hashlib.sha256(content).hexdigest()
    assert bulk.checksum(f"{digest}  {name}\n".encode(), name) == digest
    with pytest.raises(BadAnswer):
        bulk.checksum(content, name)


# ---- listings


def xml(keys=(), folders=(), *, more=False, marker=None, namespace=' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"') -> bytes:
    contents = "".join(
        f"<Contents><Key>{escape(key)}</Key><LastModified>2022-03-21T08:58:02.000Z</LastModified>"
        f"<ETag>&quot;{len(key):x}&quot;</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        for size, key in enumerate(keys)
    )
    prefixes = "".join(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in folders)
    following = f"<NextMarker>{escape(marker)}</NextMarker>" if marker is not None else ""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult{namespace}><Name>data.binance.vision</Name>'
        f"<Prefix>data/</Prefix><Marker></Marker>{following}<MaxKeys>1000</MaxKeys><Delimiter>/</Delimiter>"
        f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>{contents}{prefixes}</ListBucketResult>"
    ).encode()


def test_a_listing():
    page = bulk.listing(xml(["data/a.zip", "data/b&c.zip"], ["data/x/", "data/币/"], more=True, marker="data/b&c.zip"))
    assert page.objects == (bulk.Listed("data/a.zip", 0, "a"), bulk.Listed("data/b&c.zip", 1, "c"))
    assert page.folders == ("data/x/", "data/币/")
    assert page.following == "data/b&c.zip"


def test_where_the_next_page_begins():
    assert bulk.listing(xml(["a", "b"], ["c/"])).following is None
    assert bulk.listing(xml(["a", "b"], marker="b")).following is None, "the marker is junk when nothing follows"
    assert bulk.listing(xml(["a", "b"], more=True)).following == "b"
    assert bulk.listing(xml(["a"], ["c/", "b/"], more=True)).following == "c/"
    assert bulk.listing(xml(more=True)).following == ""


@pytest.mark.parametrize("namespace", ["", ' xmlns="urn:other"'])
def test_the_namespace_does_not_matter(namespace):
    assert [each.key for each in bulk.listing(xml(["a"], namespace=namespace)).objects] == ["a"]


def test_names_that_are_percent_encoded():
    encoded = xml(["a%2Bb%E5%B8%81"], more=True, marker="a%2Bb").replace(
        b"<Delimiter>", b"<EncodingType>url</EncodingType><Delimiter>"
    )
    page = bulk.listing(encoded)
    assert ([each.key for each in page.objects], page.following) == (["a+b币"], "a+b")
    assert [each.key for each in bulk.listing(xml(["a%2B"])).objects] == ["a%2B"]


LAUGHS = b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><ListBucketResult>&b;</ListBucketResult>'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><body>no",
        b"<!DOCTYPE html><html></html>",
        LAUGHS,
        LAUGHS.decode().replace('"1.0"', '"1.0" encoding="UTF-16"').encode("utf-16"),
        xml(["a"])[:-1],
        xml(["a"]).decode().encode("utf-16"),
        xml(["a\x01"]),
        b"\xff" + xml(["a"]),
        b'{"code":1}',
        b"<a>&b;</a>",
        b"<a>" * 100_000,
    ],
)
def test_what_is_no_xml_is_worth_another_attempt(body):
    with pytest.raises(Transient, match="listing"):
        bulk.listing(body)


@pytest.mark.parametrize(
    "body",
    [
        b"<Error><Code>NoSuchKey</Code></Error>",
        b"<ListBucketResult/>",
        xml(["a"]).replace(b"<Size>0", b"<Size>x"),
        xml(["a"]).replace(b"Size>", b"Sise>"),
        xml(["a"]).replace(b"Key>", b"Kye>"),
        xml(["a"]).replace(b"ETag>", b"Etag>"),
        xml([], ["a"]).replace(b"<Prefix>a</Prefix>", b""),
        xml(["a"]).replace(b">false<", b">maybe<"),
    ],
)
def test_xml_of_another_shape_is_a_bad_answer(body):
    with pytest.raises(BadAnswer, match="listing"):
        bulk.listing(body)


def test_a_deep_listing_is_no_harm():
    with pytest.raises(BadAnswer):
        bulk.listing(b"<a>" * 300_000 + b"</a>" * 300_000)


# What XML can hold; a carriage return would come back as a line feed.
XML_TEXT = st.text(st.characters(min_codepoint=0x20, exclude_categories=["Cs", "Cn"]), min_size=1, max_size=20)


@given(st.lists(XML_TEXT), st.lists(XML_TEXT), st.booleans(), st.none() | XML_TEXT)
def test_listings_come_back(keys, folders, more, marker):
    page = bulk.listing(xml(keys, folders, more=more, marker=marker))
    assert [each.key for each in page.objects] == keys
    assert list(page.folders) == folders
    assert page.following == ((marker or max([*keys, *folders], default="")) if more else None)


@given(st.binary(max_size=300), st.integers(0, 700), st.integers(0, 20))
def test_any_listing_is_a_page_or_a_typed_error(junk, start, length):
    whole = xml(["data/a.zip"], ["data/b/"], more=True)
    for body in (junk, whole[:start] + junk + whole[start + length :], whole[:start] + junk[:3] + whole[start + length :]):
        with contextlib.suppress(BadAnswer, Transient):
            assert isinstance(bulk.listing(body), bulk.Page)


@pytest.mark.parametrize(("text", "version"), [('"abc"', "abc"), ('W/"abc"', "abc"), ("abc", "abc"), (' "a-2" ', "a-2")])
def test_versions(text, version):
    assert bulk.etag(text) == version


# ---- recorded zips and the cost


def genuine(path) -> list[list[str]]:
    with zipfile.ZipFile(path) as archive:
        return list(csv.reader(io.TextIOWrapper(archive.open(archive.namelist()[0]), "ascii")))


@pytest.mark.parametrize(
    "path",
    [
        "spot/BTCUSDT-1m-2020-01-01.zip",
        "spot/BTCUSDT-1m-2020-01-02.zip",
        "spot/BTCUSDT-1h-2024-10-28.zip",
        "um/BTCUSDT-1h-2024-10-28.zip",
    ],
)
def test_recorded_zips(real_data, path):
    file = real_data / "vision_zip" / path
    lines = [line for line in genuine(file) if line[0].isdecimal()]
    found = bulk.table(file.read_bytes(), file.name, "klines")
    assert len(found) == (1440 if "1m" in path else 24)
    assert plain(found) == [bar(",".join(line)) for line in lines]


@pytest.mark.parametrize("day", ["2020-01-01", "2020-01-02"])
def test_recorded_checksums(real_data, day):
    file = real_data / "vision_zip" / "spot" / f"BTCUSDT-1m-{day}.zip"
    stated = file.with_name(file.name + ".CHECKSUM").read_bytes()
    assert bulk.checksum(stated, file.name) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_another_dataset_than_asked_for_is_a_bad_answer(real_data):
    file = real_data / "vision_zip" / "um" / "BTCUSDT-metrics-2022-01-01.zip"
    for dataset in ("klines", "funding", "mark_klines"):
        with pytest.raises(BadAnswer, match="header"):
            bulk.table(file.read_bytes(), file.name, dataset)


def test_pandas_is_not_needed():
    """Importing it takes longer than decoding half a million rows."""
    code = f"""
import sys
from etl.extract import archive, bulk
bulk.table({GOOD!r}, {NAME!r}, "klines")
bulk.rows(b"1735689600000000,1,1,1,1,1,1735689659999999,1,1,1,1,0", "klines")
bulk.rows(b"1751328000007,8,0.0001", "funding")
bulk.rows(b"", "klines")
assert "pandas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
