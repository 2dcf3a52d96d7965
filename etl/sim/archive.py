"""The bulk archive: listing, zip and CHECKSUM objects, published by the exchange's clock; a function of a request.

Nothing here knows sockets. Rules: binance-facts 9.1 (listing), 9.2 (layout), 9.3 (objects), 9.4 (columns), 9.5 (publication).
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from heapq import merge
from threading import Lock
from xml.sax.saxutils import escape

from ..model import Series
from ..ranges import DAY, HOUR, MINUTE, Interval, TimeRange, iso, parse_time
from ..registry import DATASETS, INTERVALS, MARKETS
from .defects import BYTES, CHECKSUM, ROWS, TEXT, ZIP, Defect, Defects, Place, Rows
from .exchange import Answer, Request, http_date
from .world import World
from .zips import Member, pack

BUCKET = "data.binance.vision"
_PAGE = 1000
_LISTING = {"prefix", "delimiter", "marker", "max-keys"}
_LAST = "\U0010ffff"  # sorts after every name
_XML = '<?xml version="1.0" encoding="UTF-8"?>\n'

_OF_CONTENT = {*ROWS, *TEXT, *ZIP}

_WEEKS = Interval("", 7 * DAY, 4 * DAY)
_FIRST_MONTH = parse_time("2020-01-01")
_FIRST_DAY = {"mark_klines": parse_time("2019-12-23"), "index_klines": parse_time("2019-12-23")}
_FIRST_DAY_OF_OTHERS = parse_time("2019-12-31")
_HEADERS_FROM, _BARE_ZERO_FROM, _NEWLINE_FROM = parse_time("2022-05-01"), parse_time("2024-01-01"), parse_time("2025-01-01")
_MICROSECONDS_FROM = parse_time("2025-01-01")

HEADER = b"open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore\n"
FUNDING_HEADER = b"calc_time,funding_interval_hours,last_funding_rate\n"

_ROOM_OF_FILE = 1024  # for the headers of a zip and of its CSV


@dataclass(frozen=True, slots=True)
class File:
    """A zip of the archive: where it lies, which rows it holds, when it appears (ms UTC)."""

    key: str
    series: Series
    span: TimeRange
    published: int

    @property
    def name(self) -> str:
        """The file's name without `.zip`."""
        return self.key.rpartition("/")[2].removesuffix(".zip")


@dataclass(frozen=True, slots=True)
class _Object:
    """What a key holds; the body is made when it is asked for."""

    key: str
    etag: str
    modified: int
    size: int
    body: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A folder of zips: `path` ends in a slash."""

    path: str
    series: Series
    daily: bool


@dataclass(frozen=True, slots=True)
class _Content:
    """What a zip holds, with what is wrong with that."""

    file: File
    wrong: tuple[Defect, ...]

    def modified(self, published: int) -> int:
        """When it was published last."""
        times: list[int] = [one.args["at"] for one in self.wrong if one.name == "republished"]
        return max([published, *times])

    def zipped(self, world: World, size: int) -> bytes:
        """The zip, `size` bytes long or longer."""
        members = [Member(f"{self.file.name}.csv", self._text(world))]
        for one in self.wrong:
            if one.name in ZIP:
                members = ZIP[one.name](members[0], **one.args) + members[1:]
        return pack(members, self.file.published, size)

    def _text(self, world: World) -> bytes:
        """The CSV: its header, unit of time and zeros go by market and date (binance-facts 9.4)."""
        series, span = self.file.series, self.file.span
        unit = 1000 if series.market == "spot" and span.start >= _MICROSECONDS_FROM else 1

        def lines(span: TimeRange) -> bytes:
            text = world.lines(series, span, unit)
            bare = series.dataset == "klines" and series.market != "spot" and span.start >= _BARE_ZERO_FROM
            return re.sub(rb",0\.00*(?=,)", b",0", text) if bare else text

        text = lines(span)
        if any(one.name in ROWS for one in self.wrong):
            grid = INTERVALS[series.interval] if series.interval else Interval("", 8 * HOUR)
            place = Place(span, grid, unit, lambda span: _rows(lines(span)))
            rows = _rows(text)
            for one in self.wrong:
                if one.name in ROWS and rows:
                    rows = ROWS[one.name](place, rows, **one.args)
            text = "".join(f"{','.join(row)}\n" for row in rows).encode()
        header = HEADER if series.interval else FUNDING_HEADER
        if not series.interval or (series.market != "spot" and span.start >= _HEADERS_FROM):
            text = header + text
        for one in self.wrong:
            if one.name in TEXT:
                text = TEXT[one.name](text, header, **one.args)
        return text


def _rows(text: bytes) -> Rows:
    return [line.split(",") for line in text.decode().splitlines()]


class Archive:
    """The archive of a world, with what is declared to be wrong with it. `cache_bytes` bounds the zips that are kept."""

    def __init__(self, world: World, defects: Defects | None = None, *, cache_bytes: int = 64 << 20) -> None:
        self.world = world
        self._defects = defects or Defects()
        self._folders = dict(sorted(_folders()))
        self._symbols = lru_cache(maxsize=None)(self._list_symbols)
        self._recorded = sorted(world.recorded)
        self._cache_bytes, self._kept = cache_bytes, 0
        self._zips: OrderedDict[str, tuple[bytes, str]] = OrderedDict()
        self._lock = Lock()

    @staticmethod
    def serves(request: Request) -> bool:
        """Whether the request is for the archive and not for REST."""
        root = request.path.partition("/")[2].partition("/")[0]
        return root in {"", "data", BUCKET}

    def answer(self, request: Request, now: int) -> Answer:
        """The response to a request at `now` (ms UTC of the exchange's clock)."""
        path = request.path.removeprefix("/").removeprefix(BUCKET).removeprefix("/")
        if not path and (_LISTING & request.params.keys() or BUCKET in request.path):
            return self._listing(request.params, now)
        if not path:
            return Answer(
                body=b"<!DOCTYPE html><html><body><h1>Binance Data Collection</h1></body></html>",
                headers={"content-type": "text/html"},
            )
        market = next((name for name, one in MARKETS.items() if path.startswith(f"data/{one.archive_path}/")), None)
        found = self._find(path, now, asked=request.method == "GET")
        if found is None:
            answer = _error(404, "NoSuchKey", "The specified key does not exist.", _tag("Key", path))
        else:
            answer = _sent(found, request.headers)
        return replace(answer, market=market)

    # --- objects

    def _find(self, key: str, now: int, *, asked: bool) -> _Object | None:
        """What is published under a key; `asked`: it is answered now."""
        if key in self.world.recorded:
            return self._as_recorded(key, now)
        zip_key = key.removesuffix(".CHECKSUM")
        folder = key[: key.rfind("/") + 1]
        leaf = next(self._leaves(folder, folder), None)
        file = next(self._files(leaf, zip_key, now), None) if leaf and leaf.path == folder else None
        return self._object(file, key, now, asked=asked) if file and file.key == zip_key else None

    def _as_recorded(self, key: str, now: int) -> _Object | None:
        body, published = self.world.recorded[key], _published_by_name(key)
        etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
        return _Object(key, etag, published, len(body), lambda: body) if published <= now else None

    def _object(self, file: File, key: str, now: int, *, asked: bool = False, listing: bool = False) -> _Object | None:
        """The zip or the CHECKSUM of a file, with its defects; None where it is not, or not named by a listing."""
        wrong = self._defects.of(file.key, key, now, asked=asked)
        published = file.published
        for one in wrong:
            if one.name == "late":
                published += int(one.args["days"] * DAY)
            hidden = one.name == "unlisted" or (one.name == "stale_listing" and file.span.end > one.args["until"])
            if one.name == "never" or (one.name == "no_checksum" and key != file.key) or (listing and hidden):
                return None
        if published > now:
            return None
        content = _Content(file, tuple(one for one in wrong if one.name in _OF_CONTENT))
        return (self._zip if key == file.key else self._checksum)(content, wrong, published)

    def _zip(self, content: _Content, wrong: Sequence[Defect], published: int) -> _Object:
        broken = [one for one in wrong if one.name in BYTES]

        def body() -> bytes:
            made = self._made(content)[0]
            for one in broken:
                made = BYTES[one.name](made, **one.args)
            return made

        size = (0 if broken else self._size(content)) or len(body())
        etag = self._etag(content.file.key, [*content.wrong, *broken])
        return _Object(content.file.key, etag, content.modified(published), size, body)

    def _checksum(self, content: _Content, wrong: Sequence[Defect], published: int) -> _Object:
        broken = [one for one in wrong if one.name in CHECKSUM]
        name, key = content.file.name, f"{content.file.key}.CHECKSUM"

        def line(digest: str) -> bytes:
            text = f"{digest}  {name}.zip"
            for one in broken:
                text = CHECKSUM[one.name](text)
            return (text + ("\n" if content.file.span.start >= _NEWLINE_FROM else "")).encode()

        etag = self._etag(key, [*content.wrong, *broken])
        size = len(line("0" * 64))
        return _Object(key, etag, content.modified(published), size, lambda: line(self._made(content)[1]))

    def _etag(self, key: str, wrong: Sequence[Defect]) -> str:
        return hashlib.md5(f"{self.world.tag}/{key}/{wrong}".encode(), usedforsecurity=False).hexdigest()

    def _size(self, content: _Content) -> int:
        """What a zip is filled up to, so that a listing knows its size before it is made; 0 where it is not."""
        series, span = content.file.series, content.file.span
        room = None if content.wrong else self.world.room(series)
        return _ROOM_OF_FILE + room * self.world.count(series, span) if room else 0

    def _made(self, content: _Content) -> tuple[bytes, str]:
        """A zip and its digest, made or remembered."""
        key = f"{content.file.key}/{content.wrong}"
        with self._lock:
            if key in self._zips:
                self._zips.move_to_end(key)
                return self._zips[key]
        size = self._size(content)
        made = content.zipped(self.world, size)
        if size and len(made) > size:
            raise ValueError(f"{content.file.key} takes {len(made)} bytes, but listings say {size}: World.room is too small")
        found = made, hashlib.sha256(made).hexdigest()
        with self._lock:
            if key not in self._zips:
                self._kept += len(made)
            self._zips[key] = found
            while self._kept > self._cache_bytes:
                self._kept -= len(self._zips.popitem(last=False)[1][0])
        return found

    # --- listing

    def _listing(self, params: Mapping[str, str], now: int) -> Answer:
        """A page of the keys after the marker, those below a delimiter as one common prefix (S3, version 1)."""
        prefix, delimiter, marker = (params.get(name, "") for name in ("prefix", "delimiter", "marker"))
        text = params.get("max-keys", str(_PAGE))
        if delimiter not in {"", "/"} or not text.isascii() or not text.isdecimal():
            return _error(400, "InvalidArgument", "Only the delimiter / and a number of keys are known here.")
        most = min(int(text), _PAGE)
        entries: list[tuple[str, _Object | None]] = []
        keys = self._keys(prefix, marker, now)
        while len(entries) <= most and (found := next(keys, None)):
            rest = found.key[len(prefix) :]
            if delimiter and delimiter in rest:
                common = prefix + rest[: rest.index(delimiter) + 1]
                if common != marker:
                    entries.append((common, None))
                keys = self._keys(prefix, common + _LAST, now)
            else:
                entries.append((found.key, found))
        more, entries = len(entries) > most, entries[:most]
        parts = [f"<Name>{BUCKET}</Name>", _tag("Prefix", prefix), _tag("Marker", marker)]
        if more and delimiter and entries:
            parts.append(_tag("NextMarker", entries[-1][0]))
        parts += [f"<MaxKeys>{most}</MaxKeys>", _tag("Delimiter", delimiter) if delimiter else ""]
        parts.append(f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>")
        parts += [_contents(one) for _, one in entries if one]
        parts += [f"<CommonPrefixes>{_tag('Prefix', key)}</CommonPrefixes>" for key, one in entries if not one]
        body = f'{_XML}<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{"".join(parts)}</ListBucketResult>'
        return Answer(body=body.encode(), headers={"content-type": "application/xml"})

    def _keys(self, prefix: str, after: str, now: int) -> Iterator[_Object]:
        """What is published, in the order of keys: those that begin with `prefix` and sort after `after`."""
        recorded = (self._as_recorded(key, now) for key in self._recorded[bisect_left(self._recorded, max(prefix, after)) :])
        made = (
            one
            for leaf in self._leaves(prefix, after)
            for file in self._files(leaf, max(prefix, after), now)
            for key in (file.key, f"{file.key}.CHECKSUM")
            if key > after and key not in self.world.recorded and (one := self._object(file, key, now, listing=True))
        )
        for one in merge((one for one in recorded if one), made, key=lambda one: one.key):
            if one.key > after and one.key.startswith(prefix):
                yield one

    def _leaves(self, prefix: str, after: str) -> Iterator[_Leaf]:
        """The folders of zips that may hold such keys, in their order."""
        for path in _alive(list(self._folders), prefix, after):
            market, dataset, daily = self._folders[path]
            for folder in _alive(self._symbols(path), prefix, after):
                symbol = folder[len(path) : -1]
                if not DATASETS[dataset].has_interval:
                    yield _Leaf(folder, Series(market, dataset, symbol), daily)
                    continue
                intervals = {
                    f"{folder}{one.path_name}/": name for name, one in INTERVALS.items() if not daily or 0 < one.step <= DAY
                }
                for below in _alive(sorted(intervals), prefix, after):
                    yield _Leaf(below, Series(market, dataset, symbol, intervals[below]), daily)

    def _list_symbols(self, path: str) -> list[str]:
        market, dataset, _ = self._folders[path]
        return sorted(f"{path}{symbol}/" for symbol in self.world.folders(market, dataset))

    def _files(self, leaf: _Leaf, after: str, now: int) -> Iterator[File]:
        """The zips of a folder that are published, in order; those whose checksum sorts before `after` are left out."""
        series = leaf.series
        grid = Interval("", DAY if leaf.daily else 0)
        label = INTERVALS[series.interval].path_name if series.interval else DATASETS[series.dataset].archive.folder
        extent = self.world.extent(series)
        start, end = max(grid.floor(extent.start), _first(series, daily=leaf.daily)), min(extent.end, now)
        starts: Sequence[int] = range(start, end, DAY)
        if not leaf.daily:
            months = _months(grid.floor(now))
            starts = months[bisect_left(months, start) : bisect_left(months, end)]

        def key(start: int) -> str:
            return f"{leaf.path}{series.symbol}-{label}-{iso(start)[: 10 if leaf.daily else 7]}.zip"

        for start in starts[bisect_left(starts, after, key=lambda start: f"{key(start)}.CHECKSUM") :]:
            span = TimeRange(start, grid.next(start))
            published = _published(series, span, daily=leaf.daily)
            if published <= now and self.world.count(series, span):
                yield File(key(start), series, span, published)


def _folders() -> Iterator[tuple[str, tuple[str, str, bool]]]:
    """Every folder of symbols, and which market, dataset and kind of files it holds."""
    for dataset in DATASETS.values():
        for market in dataset.endpoints:
            for kind in ("daily", "monthly") if dataset.archive.daily else ("monthly",):
                path = f"data/{MARKETS[market].archive_path}/{kind}/{dataset.archive.folder}/"
                yield path, (market, dataset.name, kind == "daily")


@lru_cache(8)
def _months(last: int) -> Sequence[int]:
    """The months of the exchange until `last`."""
    return Interval("", 0).opens(TimeRange(min(MARKETS["spot"].first_time, last), last + 1))


def _alive(paths: Sequence[str], prefix: str, after: str) -> Iterator[str]:
    """Of sorted folders those that may hold keys that begin with `prefix` and sort after `after`."""
    low = max(prefix, after)
    at = bisect_left(paths, low)
    if at and low.startswith(paths[at - 1]):
        at -= 1
    for path in paths[at:]:
        if not path.startswith(prefix) and not prefix.startswith(path):
            return
        yield path


def _first(series: Series, *, daily: bool) -> int:
    """Since when there are files; of spot everything is there (binance-facts 9.2)."""
    if series.market == "spot":
        return 0
    return _FIRST_DAY.get(series.dataset, _FIRST_DAY_OF_OTHERS) if daily else _FIRST_MONTH


def _published(series: Series, span: TimeRange, *, daily: bool) -> int:
    """When a file appears: the next day, the first Monday of the next month, settlements on its first day (facts 9.5)."""
    if daily:
        return span.end + 8 * HOUR
    if series.interval is None:
        return span.end + 8 * HOUR + 6 * MINUTE
    return _WEEKS.ceil(span.end) + 8 * HOUR


_DATED = re.compile(r"data/.*/(?P<kind>daily|monthly)/(?P<folder>[^/]+)/.*-(?P<date>\d{4}-\d\d(-\d\d)?)\.zip(\.CHECKSUM)?")


def _published_by_name(key: str) -> int:
    """When a recorded object appears: like others of its date; at once if its name has none."""
    named = _DATED.fullmatch(key)
    if named is None:
        return 0
    daily = named["kind"] == "daily"
    start = parse_time(named["date"] if daily else f"{named['date']}-01")
    interval = None if named["folder"] == DATASETS["funding"].archive.folder else "1d"
    span = TimeRange(start, Interval("", DAY if daily else 0).next(start))
    return _published(Series("", "", "", interval), span, daily=daily)


# --- answers


def _tag(name: str, text: str) -> str:
    return f"<{name}>{escape(text)}</{name}>"


def _contents(one: _Object) -> str:
    time = f"{iso(one.modified)[:19]}.000Z"
    facts = f"<LastModified>{time}</LastModified><ETag>&quot;{one.etag}&quot;</ETag><Size>{one.size}</Size>"
    return f"<Contents>{_tag('Key', one.key)}{facts}<StorageClass>STANDARD</StorageClass></Contents>"


def _error(status: int, code: str, message: str, more: str = "") -> Answer:
    text = f"<Code>{code}</Code><Message>{message}</Message>{more}<RequestId>SIM</RequestId><HostId>SIM</HostId>"
    body = f"{_XML}<Error>{text}</Error>"
    return Answer(status, body.encode(), {"content-type": "application/xml"})


def _sent(found: _Object, asked: Mapping[str, str]) -> Answer:
    """An object, or the range of it that was asked for (RFC 9110, 13.1.5 and 14.2)."""
    modified = http_date(found.modified)
    headers = {
        "content-type": "application/zip" if found.key.endswith(".zip") else "binary/octet-stream",
        "last-modified": modified,
        "etag": f'"{found.etag}"',
        "accept-ranges": "bytes",
    }
    span = re.fullmatch(r"bytes=(\d*)-(\d*)", asked.get("range", ""))
    if span is None or not any(span.groups()) or asked.get("if-range", headers["etag"]) not in {headers["etag"], modified}:
        return Answer(200, found.body(), headers)
    if span[1]:
        start, end = int(span[1]), min(int(span[2] or found.size) + 1, found.size)
    else:
        start, end = max(found.size - int(span[2]), 0), found.size
    if start >= end:
        refused = _error(416, "InvalidRange", "The requested range is not satisfiable")
        return replace(refused, headers=refused.headers | {"content-range": f"bytes */{found.size}"})
    return Answer(206, found.body()[start:end], headers | {"content-range": f"bytes {start}-{end - 1}/{found.size}"})
