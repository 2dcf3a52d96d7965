"""What is wrong with files of the bulk archive, declared one by one (binance-facts 9.6).

In a faults file (see `etl.sim.faults`), or as the same tables in code::

    [[archive]]
    key = "BTCUSDT-1m-2024-05"    # regular expression, searched in the key of the zip; any by default
    first = 1                     # only until the file was asked for once; for ever by default
    defect = "missing_day"        # what is wrong; the other keys belong to the defect
    day = "2024-05-17"

All that match apply, in this order: rows, text, zip, bytes, CHECKSUM; in one group as declared. `first` counts GETs of each
file that is spoilt, the zip, or the CHECKSUM where that is spoilt; `never` and `late` count those of either. A CHECKSUM fits
what was done to rows, text and zip, so that it alone cannot tell. Recorded zips are served as they are.

==================  =================================================================================================
rows
missing_day         day: its rows are not there
missing_rows        start, end: nor are these
duplicate_rows      rows = 1: the last ones, twice
shuffled            rows in another order
foreign_rows        rows = 1: at the end those that follow in the next file
after_end           flat rows from the last row to the end of the file's period
placeholder         flat rows from the beginning of the file's period to the first row
flat_bar            time: that bar is flat and without volume
zero_style          style = "0" | "0.0" | "0.00000000": how quantities of zero are written
unit                unit = "ms" | "us"
republished         at: from then on some rows are others; ETag, CHECKSUM and Last-Modified too
text
header              present = true or false
crlf, bom           line ends of DOS, a byte order mark
extra_column        one more column
empty_member        nothing
not_utf8            a byte that is no UTF-8
ragged              the last line ends in its middle
zip
second_member       another CSV
member_path         the member is called ../../NAME
absolute_member     the member is called /tmp/NAME
wrong_member_name   the member is called after another symbol
huge_member         megabytes = 1024 of NUL after the text; honest = true: the headers tell
stored_method       not compressed
encrypted           the headers say so
bytes
flipped_byte        one byte of the data is another
truncated_zip       keep = 0.5 of it
CHECKSUM
wrong_checksum      another digest
wrong_name          it names another file
publication
no_checksum         the CHECKSUM is not there
never               neither zip nor CHECKSUM
late                days: published that much later
unlisted            there, but no listing names it
stale_listing       until: listings do not name what ends later
==================  =================================================================================================
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any, Literal, TypeAlias

from ..errors import UsageError
from ..ranges import DAY, MINUTE, Interval, TimeRange
from .tables import Expression, Time, parse_table
from .zips import Member

Rows: TypeAlias = list[list[str]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where rows are spoilt: the period of the file, its grid, its unit (1: ms, 1000: µs), and true rows of any other range."""

    span: TimeRange
    grid: Interval
    unit: int
    rows: Callable[[TimeRange], Rows]

    def time(self, row: list[str]) -> int:
        """The time of a row in ms."""
        return int(row[0]) // self.unit

    def flat(self, opens: int, like: list[str], price: int) -> list[str]:
        """A bar without trades at a price of another row, or a settlement without money."""
        if len(like) == 3:
            return [str(opens * self.unit), like[1], "0.00000000"]
        return [str(opens * self.unit), *[like[price]] * 4, "0", str(self.grid.next(opens) * self.unit - 1), *["0"] * 5]


# --- defects: keyword parameters are the keys of the file, their annotations what is allowed


def _missing_day(place: Place, rows: Rows, *, day: Time) -> Rows:
    return _missing_rows(place, rows, start=day, end=Time(day + DAY))


def _missing_rows(place: Place, rows: Rows, *, start: Time, end: Time) -> Rows:
    return [row for row in rows if not start <= place.time(row) < end]


def _duplicate_rows(_: Place, all_rows: Rows, *, rows: int = 1) -> Rows:
    return all_rows + all_rows[-rows:]


def _shuffled(_: Place, rows: Rows) -> Rows:
    mixed = random.Random(len(rows)).sample(rows, len(rows))
    return mixed if mixed != rows else rows[::-1]


def _foreign_rows(place: Place, all_rows: Rows, *, rows: int = 1) -> Rows:
    end = place.span.end
    return all_rows + place.rows(TimeRange(end, end + rows * place.grid.typical_step))[:rows]


def _after_end(place: Place, rows: Rows) -> Rows:
    opens = place.grid.opens(TimeRange(place.time(rows[-1]) + 1, place.span.end))
    return rows + [place.flat(time, rows[-1], 4) for time in opens]


def _placeholder(place: Place, rows: Rows) -> Rows:
    opens = place.grid.opens(TimeRange(place.span.start, place.time(rows[0]) // MINUTE * MINUTE))
    return [place.flat(time, rows[0], 1) for time in opens] + rows


def _flat_bar(place: Place, rows: Rows, *, time: Time) -> Rows:
    return [place.flat(time, row, 1) if place.time(row) == time else row for row in rows]


def _zero_style(_: Place, rows: Rows, *, style: Literal["0", "0.0", "0.00000000"]) -> Rows:
    return [[style if at in {5, 7, 9, 10} and not float(text) else text for at, text in enumerate(row)] for row in rows]


def _unit(place: Place, rows: Rows, *, unit: Literal["ms", "us"]) -> Rows:
    wanted = 1000 if unit == "us" else 1

    def changed(row: list[str]) -> list[str]:
        closes = [str((int(row[6]) + 1) // place.unit * wanted - 1)] if len(row) > 6 else []
        return [str(place.time(row) * wanted), *row[1:6], *closes, *row[7:]]

    return [changed(row) for row in rows]


def _republished(_: Place, rows: Rows, *, at: Time) -> Rows:  # noqa: ARG001 - it says when, not what
    def altered(row: list[str]) -> list[str]:
        if len(row) == 3:
            return [*row[:2], "0.00010001" if row[2] != "0.00010001" else "0.00010002"]
        # Another close within the bar, or one more trade where the bar is flat: no check of the row alone can tell.
        other = row[3] if row[4] == row[2] else row[2]
        return [*row[:4], other, *row[5:]] if other != row[4] else [*row[:8], str(int(row[8]) + 1), *row[9:]]

    return [altered(row) if number % 100 == 0 else row for number, row in enumerate(rows)]


def _header(text: bytes, header: bytes, *, present: bool) -> bytes:
    has = not text[:1].isdigit()
    if has == present:
        return text
    return header + text if present else text.partition(b"\n")[2]


def _crlf(text: bytes, _: bytes) -> bytes:
    return text.replace(b"\n", b"\r\n")


def _bom(text: bytes, _: bytes) -> bytes:
    return b"\xef\xbb\xbf" + text


def _extra_column(text: bytes, _: bytes) -> bytes:
    text = text.replace(b"\n", b",0\n")
    return text if text[:1].isdigit() else text.replace(b",0\n", b",extra\n", 1)


def _empty_member(_text: bytes, _: bytes) -> bytes:
    return b""


def _not_utf8(text: bytes, _: bytes) -> bytes:
    half = len(text) // 2
    return text[:half] + b"\xff" + text[half + 1 :]


def _ragged(text: bytes, _: bytes) -> bytes:
    start = text.rfind(b"\n", 0, -1) + 1
    return text[: start + (len(text) - start) // 2]


def _second_member(member: Member) -> list[Member]:
    return [member, replace(member, name=f"other-{member.name}")]


def _member_path(member: Member) -> list[Member]:
    return [replace(member, name=f"../../{member.name}")]


def _absolute_member(member: Member) -> list[Member]:
    return [replace(member, name=f"/tmp/{member.name}")]  # noqa: S108 - nothing is written there: that is what is tested


def _wrong_member_name(member: Member) -> list[Member]:
    return [replace(member, name=f"OTHER{member.name}")]


def _huge_member(member: Member, *, megabytes: int = 1024, honest: bool = True) -> list[Member]:
    return [replace(member, bomb=megabytes, honest=honest)]


def _stored_method(member: Member) -> list[Member]:
    return [replace(member, method=0)]


def _encrypted(member: Member) -> list[Member]:
    return [replace(member, flags=1)]


def _flipped_byte(zipped: bytes) -> bytes:
    # The middle of the member's data: its length and that of its name stand in the header of 30 bytes.
    at = 30 + int.from_bytes(zipped[26:28], "little") + int.from_bytes(zipped[18:22], "little") // 2
    return zipped[:at] + bytes([zipped[at] ^ 0xFF]) + zipped[at + 1 :]


def _truncated_zip(zipped: bytes, *, keep: float = 0.5) -> bytes:
    return zipped[: int(len(zipped) * keep)]


def _wrong_checksum(text: str) -> str:
    return ("1" if text[0] == "0" else "0") + text[1:]


def _wrong_name(text: str) -> str:
    digest, _, name = text.partition("  ")
    return f"{digest}  OTHER{name}"


# These change no content; the archive looks at their arguments.
def _no_checksum() -> None: ...
def _never() -> None: ...
def _late(*, days: float) -> None: ...
def _unlisted() -> None: ...
def _stale_listing(*, until: Time) -> None: ...


ROWS: dict[str, Callable[..., Rows]] = {
    "missing_day": _missing_day, "missing_rows": _missing_rows, "duplicate_rows": _duplicate_rows, "shuffled": _shuffled,
    "foreign_rows": _foreign_rows, "after_end": _after_end, "placeholder": _placeholder, "flat_bar": _flat_bar,
    "zero_style": _zero_style, "unit": _unit, "republished": _republished,
}  # fmt: skip  # a table, read by its rows
TEXT: dict[str, Callable[..., bytes]] = {
    "header": _header,
    "crlf": _crlf,
    "bom": _bom,
    "extra_column": _extra_column,
    "empty_member": _empty_member,
    "not_utf8": _not_utf8,
    "ragged": _ragged,
}
ZIP: dict[str, Callable[..., list[Member]]] = {
    "second_member": _second_member,
    "member_path": _member_path,
    "absolute_member": _absolute_member,
    "wrong_member_name": _wrong_member_name,
    "huge_member": _huge_member,
    "stored_method": _stored_method,
    "encrypted": _encrypted,
}
BYTES: dict[str, Callable[..., bytes]] = {"flipped_byte": _flipped_byte, "truncated_zip": _truncated_zip}
CHECKSUM: dict[str, Callable[..., str]] = {"wrong_checksum": _wrong_checksum, "wrong_name": _wrong_name}
PUBLICATION: dict[str, Callable[..., None]] = {
    "no_checksum": _no_checksum,
    "never": _never,
    "late": _late,
    "unlisted": _unlisted,
    "stale_listing": _stale_listing,
}
DEFECTS: dict[str, Callable[..., object]] = {**ROWS, **TEXT, **ZIP, **BYTES, **CHECKSUM, **PUBLICATION}


@dataclass(frozen=True, slots=True)
class Defect:
    """One declared defect (see the module's docstring)."""

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""
    first: int | None = None


class Defects:
    """The declared defects and their counts; thread-safe. `tables` have the keys of the file."""

    def __init__(self, tables: Sequence[Mapping[str, object]] = (), *, origin: str = "faults") -> None:
        self.declared = [parse_defect(table, f"{origin}: archive {number}") for number, table in enumerate(tables, 1)]
        self._lock = Lock()
        self.reset()

    def reset(self) -> None:
        """Count from the beginning."""
        with self._lock:
            self._counts: Counter[tuple[int, str]] = Counter()

    def of(self, zip_key: str, key: str, now: int, *, asked: bool) -> list[Defect]:
        """What is wrong at `now` with the zip or CHECKSUM `key`; `asked` says that it is answered now, which counts."""
        found = []
        for number, one in enumerate(self.declared):
            if not re.search(one.key, zip_key) or (one.name == "republished" and now < one.args["at"]):
                continue
            of_checksum = one.name in CHECKSUM or one.name == "no_checksum"
            spoilt = key if one.name in {"never", "late"} else f"{zip_key}.CHECKSUM" if of_checksum else zip_key
            with self._lock:
                if one.first is None or self._counts[number, spoilt] < one.first:
                    found.append(one)
                    self._counts[number, spoilt] += asked and spoilt == key
        return found


def parse_defect(table: Mapping[str, object], where: str) -> Defect:
    """A defect from its table; UsageError that names an unknown or unfit key and lists the known ones."""
    name, args, match = parse_table(table, "defect", DEFECTS, {"key": Expression, "first": int}, where)
    if "megabytes" in args and not 0 < args["megabytes"] < 4000:
        raise UsageError(f"{where} ({name}): megabytes must lie between 1 and 3999")
    return Defect(name, args, **match)
