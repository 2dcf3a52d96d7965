"""What the bulk archive sends → typed values: zips, CSV, CHECKSUM files and listings, never a file on disk.

Every function takes bytes alone and raises `BadAnswer` for what is not the documented shape; whoever asked adds the key.
Source of the formats: binance-facts 9.
"""

from __future__ import annotations

import re
import struct
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from isal import isal_zlib

from .. import registry
from ..errors import BadAnswer, Transient
from ..model import ColumnType
from ..ranges import MAX_TIME
from ..schema import arrow_schema
from .wire import excerpt

MEBIBYTE = 2**20
# A month of 1m bars is 5 MB, packed 3:1; bars without trades pack 20:1.
MAX_MEMBER = 256 * MEBIBYTE
MAX_RATIO = 200


def table(zipped: bytes, name: str, dataset: str) -> pa.Table:
    """The rows in the zip called `name`, in file order, with exactly `arrow_schema(dataset)`; nothing is sorted or left out.

    A file is published because there are rows: one without any is broken, BadAnswer.
    """
    found = rows(member(zipped, name), dataset)
    if not len(found):
        raise BadAnswer("a zip whose CSV holds no row")
    return found


# ---- zip
#
# `zipfile` searches for an end anywhere, tolerates bytes around the archive and reads directories of any length. Ours hold one
# member, so both records are read where they have to be; what is elsewhere or disagrees is refused before anything is inflated.

_END = struct.Struct("<4s4H2LH")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_ENCRYPTED = 0x2041  # plain, strong, and with a masked directory
_STORED, _DEFLATED = 0, 8


def member(zipped: bytes, name: str) -> bytes:
    """The one member of the zip called `name`: a CSV of the same name, stored or deflated, of the size and CRC it declares.

    At most 256 MiB and 200 times what it takes packed; no more than the declared size is ever inflated.
    """
    flags, method, crc, packed, size, begin = _directory(zipped, (name.removesuffix(".zip") + ".csv").encode())
    if flags & _ENCRYPTED or method not in {_STORED, _DEFLATED}:
        raise BadAnswer(f"a zip whose member is encrypted or packed in another way (flags {flags:#x}, method {method})")
    if size > MAX_MEMBER or size > MAX_RATIO * packed:
        raise BadAnswer(f"a zip that unpacks from {packed} to {size} bytes: more than {MAX_MEMBER}, or than {MAX_RATIO}:1")
    inside = memoryview(zipped)[begin : begin + packed]
    content = _inflate(inside, size) if method == _DEFLATED else bytes(inside)
    if len(content) != size or isal_zlib.crc32(content) != crc:
        raise BadAnswer("a zip whose member has not the size or the CRC that it declares")
    return content


def _directory(zipped: bytes, expected: bytes) -> tuple[int, int, int, int, int, int]:
    """Flags, method, CRC, packed and declared size of the one member, which must have that name, and where its bytes begin."""
    end = len(zipped) - _END.size
    mark, disk, first, here, members, length, start, comment = _END.unpack(zipped[max(end, 0) :].ljust(_END.size, b"\0"))
    if mark != b"PK\5\6" or comment:
        raise BadAnswer(f"no zip, or one that is cut off or has something behind its end; it begins {excerpt(zipped)}")
    if (disk, first, here, members) != (0, 0, 1, 1):
        raise BadAnswer(f"a zip of {members} members instead of one")
    if length < _ENTRY.size or start + length != end:
        raise BadAnswer("a zip whose directory is not where it says")
    mark, _, _, flags, method, _, _, crc, packed, size, named, extra, comment, *_, local = _ENTRY.unpack_from(zipped, start)
    if mark != b"PK\1\2" or _ENTRY.size + named + extra + comment != length:
        raise BadAnswer("a zip with a damaged directory")
    found = zipped[start + _ENTRY.size :][:named]
    if found != expected:
        raise BadAnswer(f"a zip with the member {excerpt(found)} instead of {excerpt(expected)}")
    begin = _LOCAL.size + named
    if local != 0 or zipped[:4] != b"PK\3\4" or zipped[_LOCAL.size : begin] != expected:
        raise BadAnswer("a zip that does not begin with its member")
    begin += _LOCAL.unpack_from(zipped)[-1]
    if begin + packed > start:
        raise BadAnswer("a zip whose member runs into its directory")
    return flags, method, crc, packed, size, begin


def _inflate(packed: memoryview, size: int) -> bytes:
    inflate = isal_zlib.decompressobj(wbits=-15)
    try:
        content = inflate.decompress(packed, size + 1)  # one more tells a lie about the size
    except isal_zlib.error as error:  # type: ignore[misc]  # its stub declares an instance
        raise BadAnswer(f"a zip that cannot be unpacked: {error}") from error
    if not inflate.eof or inflate.unused_data:
        raise BadAnswer("a zip whose member does not end where it says")
    return content


# ---- CSV

# What the archive's headers call columns that have another name here (binance-facts 9.4).
_HEADERS = {"funding_time": "calc_time", "funding_rate": "last_funding_rate"}
_TYPES: dict[ColumnType, pa.DataType] = {"time": pa.int64(), "float": pa.float64(), "int": pa.int64(), "text": pa.string()}
_BOM = b"\xef\xbb\xbf"
_LINE = re.compile(rb"[^\r\n]+")
_INTEGER = re.compile(rb"\s*[+-]?[0-9]+\s*")
_HEX = re.compile(rb"[,\r\n]\s*-?0[xX]")
# Blocks of 256 KiB to 2 MiB are read equally fast, larger ones slower.
_BLOCK = MEBIBYTE
# As ms, times from here on would be of the year 5138: they are µs (binance-facts 9.4).
_MICROSECONDS = 10**14


def rows(csv: bytes, dataset: str) -> pa.Table:
    """The rows of a CSV, in file order, with exactly `arrow_schema(dataset)`; columns that the archive does not have are null.

    A first line is a header if its first field is no integer; then columns go by name, else by position. More columns than the
    known ones are tolerated. Times may be ms or µs, and become ms, floored.
    """
    schema = arrow_schema(dataset)
    nothing = pa.Table.from_batches([], schema)
    if not csv.isascii():
        try:
            csv.decode()
        except UnicodeDecodeError as error:
            raise BadAnswer(f"a CSV that is not UTF-8: {error}") from error
    first = _LINE.search(csv, len(_BOM) if csv.startswith(_BOM) else 0)
    if first is None:
        return nothing
    fields = first[0].split(b",")
    if _INTEGER.fullmatch(fields[0]):
        begin, places = first.start(), _by_position(len(fields), dataset)
    else:
        begin, places = first.end(), _by_name([field.strip().decode() for field in fields], dataset)
        if _LINE.search(csv, begin) is None:
            return nothing
    columns = {column.name: column.type for column in registry.dataset(dataset).columns}
    read = _read(csv, begin, len(fields), {str(place): _TYPES[columns[name]] for name, place in places.items()})
    arrays = [
        _checked(name, type, read[str(places[name])]) if name in places else pa.nulls(len(read), schema.field(name).type)
        for name, type in columns.items()
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _by_position(width: int, dataset: str) -> dict[str, int]:
    declared = registry.dataset(dataset).archive.fields
    if width < len(declared):
        raise BadAnswer(f"a CSV of {width} fields a line instead of at least {len(declared)}")
    return {name: place for place, name in enumerate(declared) if name != "_"}


def _by_name(header: Sequence[str], dataset: str) -> dict[str, int]:
    declared = [name for name in registry.dataset(dataset).archive.fields if name != "_"]
    wanted = {name: _HEADERS.get(name, name) for name in declared}
    if wrong := [title for title in wanted.values() if header.count(title) != 1]:
        raise BadAnswer(f"a CSV whose header does not name {', '.join(wrong)} once; it is {','.join(header)[:200]!r}")
    return {name: header.index(title) for name, title in wanted.items()}


def _read(csv: bytes, begin: int, width: int, types: dict[str, pa.DataType]) -> pa.Table:
    """The columns of those positions from `begin` on. One thread: whoever reads several files reads them at once."""
    # Arrow takes 0x10 for an integer. The regex takes ten times as long as these two.
    if (b"x" in csv or b"X" in csv) and _HEX.search(csv, begin):
        raise BadAnswer("a CSV with hexadecimal numbers")
    try:
        return pyarrow.csv.read_csv(
            pa.BufferReader(pa.py_buffer(csv).slice(begin)),
            pyarrow.csv.ReadOptions(use_threads=False, block_size=_BLOCK, column_names=[str(i) for i in range(width)]),
            pyarrow.csv.ParseOptions(quote_char=False),
            pyarrow.csv.ConvertOptions(column_types=types, include_columns=list(types), null_values=[], check_utf8=False),
        )
    except pa.ArrowException as error:
        raise BadAnswer(f"a CSV that cannot be read: {error}") from error


def _checked(name: str, type: ColumnType, values: pa.ChunkedArray) -> pa.ChunkedArray:
    if type == "float" and not pc.all(pc.is_finite(values)).as_py():
        raise BadAnswer(f"a CSV in which {name} is not always finite")
    if type in {"time", "int"}:
        low, high = _bounds(values)
        if type == "time" and high >= _MICROSECONDS:
            values = pa.chunked_array([_milliseconds(chunk) for chunk in values.chunks])
            high = _bounds(values)[1]
        if low < 0 or (type == "time" and high > MAX_TIME):
            raise BadAnswer(f"a CSV in which {name} goes from {low} to {high}")
    return values.cast(pa.timestamp("ms")) if type == "time" else values


def _bounds(values: pa.ChunkedArray) -> tuple[int, int]:
    bounds = pc.min_max(values).as_py()
    return bounds["min"], bounds["max"]


def _milliseconds(times: pa.Array) -> pa.Array:
    """By way of the bare buffer: pyarrow's `to_numpy`, scalars and `empty_table` import pandas, which takes 0.8 s of CPU."""
    raw = np.frombuffer(times.buffers()[1], np.int64)[times.offset : times.offset + len(times)]
    ms = np.where(raw < _MICROSECONDS, raw, raw // 1000)
    return pa.Array.from_buffers(pa.int64(), len(ms), [None, pa.py_buffer(ms)])


# ---- CHECKSUM

_CHECKSUM = re.compile(rb"([0-9a-fA-F]{64}) [ *]([^\r\n]+)\r?\n?")


def checksum(body: bytes, name: str) -> str:
    """The SHA-256, in lower-case hex, that a CHECKSUM file gives for the file called `name`; no other name will do."""
    match = _CHECKSUM.fullmatch(body)
    if match is None:
        raise BadAnswer(f"the CHECKSUM is none: {excerpt(body)}")
    if match[2] != name.encode():
        raise BadAnswer(f"the CHECKSUM is about {excerpt(match[2])}")
    return match[1].decode().lower()


# ---- listings


@dataclass(frozen=True, slots=True)
class Listed:
    """An object that a listing names: its size in bytes, and its version without quotes."""

    key: str
    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a listing: objects, folders (prefixes that end in `/`), and the marker of the page that follows.

    The marker is None at the end, and empty where more follows and nothing says behind what.
    """

    objects: tuple[Listed, ...]
    folders: tuple[str, ...]
    following: str | None


def listing(body: bytes) -> Page:
    """A page of S3's ListObjects (version 1); Transient for what is no XML, or has a DTD: error pages come as HTML."""
    root = _xml(body)
    if _local(root) != "ListBucketResult":
        raise BadAnswer(f"the listing has another shape than documented; it begins {excerpt(body)}")
    fields = _fields(root)
    plain = unquote if fields.get("EncodingType") == "url" else str
    try:
        objects = tuple(
            Listed(plain(each["Key"]), _size(each["Size"]), etag(each["ETag"]))
            for each in (_fields(child) for child in root if _local(child) == "Contents")
        )
        folders = tuple(plain(_fields(child)["Prefix"]) for child in root if _local(child) == "CommonPrefixes")
        more = {"true": True, "false": False}[fields["IsTruncated"]]
    except (KeyError, ValueError) as error:
        raise BadAnswer(f"the listing lacks something or has it wrong: {error}; it begins {excerpt(body)}") from error
    # NextMarker comes only to those who gave a delimiter (binance-facts 9.1).
    last = max((*(each.key for each in objects), *folders), default="")
    return Page(objects, folders, (plain(fields.get("NextMarker", "")) or last) if more else None)


def etag(text: str) -> str:
    """The version that an ETag header or element names, without quotes and the mark of a weak one."""
    return text.strip().removeprefix("W/").strip('"')


def _size(text: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", text):
        raise ValueError(f"{text[:40]!r} is no size")
    return int(text)


def _xml(body: bytes) -> ET.Element:
    try:
        text = body.decode()  # as text, so that no declared encoding can hide a DTD, the root of all attacks by XML
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise Transient(f"the listing is none: it has a DTD; it begins {excerpt(body)}")
        return ET.fromstring(text)  # noqa: S314 - without a DTD there are no entities
    except (ET.ParseError, ValueError) as error:
        raise Transient(f"the listing is no XML ({error}); it begins {excerpt(body)}") from error


def _local(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def _fields(element: ET.Element) -> dict[str, str]:
    return {_local(child): child.text or "" for child in element}
