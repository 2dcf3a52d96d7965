"""Recorded files as a market: rows are served in the text in which they were recorded; nothing is filled in.

Read are bars as CSV in the archive's layout (`SYMBOL-INTERVAL-….csv`, with or without header, ms or µs) or as raw JSON pages
(`klines_INTERVAL/SYMBOL.json`), settlements as CSV, as JSON or as Feather in freqtrade's layout, and raw bodies named
`exchangeInfo-…`, `bookTicker-…`, `depth-…`, `fundingInfo-…` `.json`. A path with the word `spot` (or `cm`) is of that market.
Where files overlap, the preferred one stands, row by row: archive-named CSV, then JSON, other CSV, Feather, zip; then by path.
Two settlements of the same UTC minute are one.

In the archive all rows are served in its layout. Zips and CHECKSUM files named like its own are served as they are, of any
dataset; where a CHECKSUM is not there, it is made.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np

from ..errors import UsageError
from ..model import Series
from ..ranges import MAX_TIME, MINUTE, TimeRange, iso, parse_time
from ..registry import DATASETS, MARKETS
from .rows import Block, bar_lines, joined, settlement_lines
from .world import INTERVALS, Selection

_INTERVAL = "|".join(["1mo", *INTERVALS])
_BARS_NAME = re.compile(rf"(?P<symbol>.+)-(?P<interval>{_INTERVAL})-\d{{4}}[-_\d]*")
_PAGES_FOLDER = re.compile(rf"(?:klines_)?(?P<interval>{_INTERVAL})")
_FUNDING_NAME = re.compile(r"(?P<symbol>[^-]+)-funding(?:Rate)?-.*")
_FREQTRADE_NAME = re.compile(r"(?P<base>[^_]+)_(?P<quote>[^_]+)_[^_]+-.*funding_rate.*")
_OBJECT_NAME = re.compile(r"(?P<symbol>.+)-(?P<what>\w+)-(?P<date>\d{4}-\d\d(?P<day>-\d\d)?)\.zip(\.CHECKSUM)?")
_RAW_NAME = re.compile(r"(?P<kind>exchangeInfo|bookTicker|depth|fundingInfo)-(?P<rest>.*)")
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][-+]?\d+)?")
_FOLDERS = {"markPriceKlines": "mark_klines", "indexPriceKlines": "index_klines", "premiumIndexKlines": "premium_klines"}

# Field names of the files at hand, without case and separators, by field of the wire row.
_BAR_FIELDS = (
    {"opentime", "timestamp"},
    {"open"},
    {"high"},
    {"low"},
    {"close"},
    {"volume"},
    {"closetime"},
    {"quotevolume", "quoteassetvolume"},
    {"count", "trades", "numberoftrades"},
    {"takerbuyvolume", "takerbuybase", "takerbuybaseassetvolume"},
    {"takerbuyquotevolume", "takerbuyquote", "takerbuyquoteassetvolume"},
    {"ignore"},
)
_BAR_NAMES = (*(column.name for column in DATASETS["klines"].columns), "ignore")
_FUNDING_TIMES, _FUNDING_RATES = {"fundingtime", "calctime", "timestamp"}, {"fundingrate", "lastfundingrate"}

_MICROSECONDS = 10**14  # times from here on are µs (binance-facts 9.4)


# What reading a file of another kind than its name says ends in.
_UNREADABLE = (
    ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, OSError, EOFError, zlib.error, csv.Error,
)  # fmt: skip  # a table, read by its rows


class _LeftOut(Exception):
    """A file that is not served, and why."""


@dataclass(slots=True)
class _Recording:
    """Rows of one series out of one file: (key, time in ms, JSON text)."""

    series: Series
    rows: list[tuple[object, int, bytes]] = field(default_factory=list)


class ReplayWorld:
    """The recorded files below `path`, served as one exchange.

    What is served and what is left out, and why, is written to stderr, a line a file, unless `quiet`; `served` and `left_out`
    hold it by path. UsageError if nothing below `path` can be served.
    """

    def __init__(self, path: Path | str, *, quiet: bool = False) -> None:
        root = Path(path)
        if not root.is_dir():
            raise UsageError(f"{root} is no folder; --replay takes a folder of recorded files")
        self.served: dict[str, str] = {}
        self.left_out: dict[str, str] = {}
        self._objects: dict[str, bytes] = {}
        self._raw: dict[tuple[str, str], list[tuple[str, Any]]] = defaultdict(list)
        merged: dict[Series, dict[object, tuple[int, bytes]]] = defaultdict(dict)
        for file in sorted((one for one in root.rglob("*") if one.is_file()), key=lambda one: (_rank(one), one)):
            name = str(file.relative_to(root))
            try:
                self.served[name] = self._read(file, Path(root.resolve().name, name), merged)
            except _LeftOut as reason:
                self.left_out[name] = str(reason)
        if not self.served:
            raise UsageError(f"{root} holds nothing that can be served: no bars, settlements or raw bodies of the exchange")
        for key, zipped in list(self._objects.items()):
            if key.endswith(".zip"):
                line = f"{hashlib.sha256(zipped).hexdigest()}  {key.rpartition('/')[2]}\n"
                self._objects.setdefault(f"{key}.CHECKSUM", line.encode())
        self.recorded: Mapping[str, bytes] = self._objects
        if not quiet:
            sys.stderr.writelines(
                [
                    *(f"serve {name}: {text}\n" for name, text in sorted(self.served.items())),
                    *(f"leave out {name}: {text}\n" for name, text in sorted(self.left_out.items())),
                ]
            )
        self._blocks = {
            series: joined(*zip(*((time, text) for time, text in sorted(rows.values())), strict=True))
            for series, rows in merged.items()
        }
        digests = sorted((str(series), hashlib.sha256(block.text).hexdigest()) for series, block in self._blocks.items())
        self.tag = hashlib.sha256(repr(digests).encode()).hexdigest()
        self._info = {market: self._listing(market) for market in MARKETS}
        self._known = {(market, one["symbol"]) for market, info in self._info.items() for one in info["symbols"]}
        self._everybody = {market: self._all_settlements(market) for market in MARKETS}

    # --- reading

    def _read(self, file: Path, place: Path, merged: dict[Series, dict[object, tuple[int, bytes]]]) -> str:
        market = _market(place)
        raw = _RAW_NAME.fullmatch(file.stem) if file.suffix == ".json" else None
        if raw:
            self._raw[market, raw["kind"]].append((raw["rest"], _load(file)))
            return f"{market} {raw['kind']}"
        archived = _archive_key(file, place, market)
        if archived:
            self._objects[archived] = file.read_bytes()
        try:
            recordings = _recordings(file, place, market)
        except _LeftOut as reason:
            if archived:
                return f"{archived} as it is; of its rows none, because {reason}"
            raise
        texts = [f"{archived} as it is"] if archived else []
        for recording in recordings:
            rows, known = merged[recording.series], len(merged[recording.series])
            for key, time, text in recording.rows:
                rows.setdefault(key, (time, text))
            times = [time for _, time, _ in recording.rows]
            new = len(rows) - known
            other = f", {len(times) - new} of them stand as in a preferred file" if new < len(times) else ""
            texts.append(f"{recording.series} {len(times)} rows {iso(min(times))}..{iso(max(times))}{other}")
        return "; ".join(texts)

    def _listing(self, market: str) -> dict[str, Any]:
        recorded: dict[str, Any] = {"exchangeFilters": [], "symbols": []}
        if self._raw[market, "exchangeInfo"]:
            recorded = dict(max(self._raw[market, "exchangeInfo"])[1])
        # Server time and limits are those of the running server.
        info = {key: value for key, value in recorded.items() if key not in {"timezone", "serverTime", "rateLimits"}}
        listed = {one["symbol"] for one in info["symbols"]}
        # What a recorded list lacks was no longer trading then; without a list nothing is known but the names.
        status = "SETTLING" if listed else "TRADING"
        field_name = "contractStatus" if market == "cm" else "status"
        missing = sorted({series.symbol for series in self._blocks if series.market == market} - listed)
        added = [{"symbol": symbol, "pair": symbol.partition("_")[0], field_name: status, "filters": []} for symbol in missing]
        return info | {"symbols": [*info["symbols"], *added]}

    def _all_settlements(self, market: str) -> Block:
        rows = sorted(
            (time, series.symbol, row)
            for series, block in self._blocks.items()
            if (series.market, series.dataset) == (market, "funding")
            for time, row in _rows(block)
        )
        return joined([time for time, _, _ in rows], [row for _, _, row in rows])

    # --- the market

    def exchange_info(self, market: str, now: int) -> dict[str, Any]:  # noqa: ARG002 - a recording does not change
        """The recorded exchangeInfo and the bare names of what it lacks."""
        return self._info[market]

    def known(self, market: str, dataset: str, symbol: str) -> bool:  # noqa: ARG002 - listed is listed
        """Whether exchangeInfo lists the symbol."""
        return (market, symbol) in self._known

    def closed(self, market: str, symbol: str, now: int) -> bool:  # noqa: ARG002 - recorded bars are served
        """Never: whatever is recorded is served."""
        return False

    def bars(self, series: Series, selection: Selection, now: int) -> bytes:
        """The recorded bars of the selection that have begun by `now`."""
        return _cut(self._blocks.get(series), selection, now)

    def funding(self, market: str, symbol: str | None, selection: Selection, now: int) -> bytes:
        """The recorded settlements of the selection."""
        block = self._everybody[market] if symbol is None else self._blocks.get(Series(market, "funding", symbol))
        return _cut(block, selection, now)

    def funding_info(self, now: int) -> list[dict[str, Any]]:  # noqa: ARG002 - a recording does not change
        """The recorded fundingInfo, or no rows."""
        recorded: list[dict[str, Any]] = max(self._raw["um", "fundingInfo"], default=("", []))[1]
        return recorded

    def book_ticker(self, market: str, symbol: str | None, now: int) -> dict[str, Any] | list[dict[str, Any]] | None:  # noqa: ARG002 - a recording does not change
        """The recorded quote."""
        bodies = [body for _, body in self._raw[market, "bookTicker"]]
        everything: list[dict[str, Any]] | None = next((body for body in bodies if isinstance(body, list)), None)
        if symbol is None:
            return everything
        single = [body for body in bodies if isinstance(body, dict)]
        return next((row for row in [*single, *(everything or [])] if row["symbol"] == symbol), None)

    def depth(self, market: str, symbol: str, limit: int, now: int) -> dict[str, Any] | None:  # noqa: ARG002 - a recording does not change
        """The recorded order book, cut to `limit` levels."""
        for rest, body in self._raw[market, "depth"]:
            if rest.partition("-")[0] == symbol:
                return {**body, "bids": body["bids"][:limit], "asks": body["asks"][:limit]}
        return None

    # --- the archive

    def folders(self, market: str, dataset: str) -> Sequence[str]:
        """The recorded symbols."""
        return sorted({one.symbol for one in self._blocks if (one.market, one.dataset) == (market, dataset)})

    def extent(self, series: Series) -> TimeRange:
        """From the first row to the last one."""
        block = self._blocks.get(series)
        return TimeRange(int(block.times[0]), int(block.times[-1]) + 1) if block else TimeRange(0, 0)

    def count(self, series: Series, span: TimeRange) -> int:
        """How many lines `span` has."""
        return self.lines(series, span).count(b"\n")

    def room(self, series: Series) -> int | None:  # noqa: ARG002 - lines of any length may be recorded
        """Nobody knows."""
        return None

    def lines(self, series: Series, span: TimeRange, unit: int = 1) -> bytes:
        """The rows of `span` as lines of CSV."""
        rows = _cut(self._blocks.get(series), Selection(span, 1 << 62), MAX_TIME)
        return bar_lines(rows, unit) if series.interval else settlement_lines(rows)

    def truth(self, market: str, dataset: str, symbol: str, interval: str | None, start_ms: int, end_ms: int) -> list[Any]:  # noqa: PLR0917 - as in World
        """Every recorded row in [start_ms, end_ms), as on the wire."""
        block = self._blocks.get(Series(market, dataset, symbol, interval))
        if block is None:
            return []
        low, high = np.searchsorted(block.times, [start_ms, end_ms])
        rows: list[Any] = json.loads(b"[%s]" % block.rows(int(low), int(high))) if low < high else []
        return rows


def _cut(block: Block | None, selection: Selection, now: int) -> bytes:
    if block is None:
        return b""
    low, high = (int(at) for at in np.searchsorted(block.times, [selection.span.start, min(selection.span.end, now + 1)]))
    low, high = (max(low, high - selection.limit), high) if selection.newest else (low, min(high, low + selection.limit))
    return block.rows(low, high) if low < high else b""


def _rows(block: Block) -> Iterator[tuple[int, bytes]]:
    return ((time, block.rows(at, at + 1)) for at, time in enumerate(block.times.tolist()))


# --- files


def _rank(file: Path) -> int:
    archive_named = _BARS_NAME.fullmatch(file.stem) or _FUNDING_NAME.fullmatch(file.stem)
    if file.suffix == ".csv":
        return 0 if archive_named else 2
    return {".json": 1, ".feather": 3}.get(file.suffix, 4)


def _market(place: Path) -> str:
    words = set(re.split(r"[^a-z0-9]+", str(place).lower()))
    return next((market for market in ("spot", "cm") if market in words), "um")


def _archive_key(file: Path, place: Path, market: str) -> str | None:
    """Where the archive has a zip or CHECKSUM of that name; None if it is nothing of the kind."""
    name = _OBJECT_NAME.fullmatch(file.name)
    try:
        parse_time(name["date"] if name["day"] else f"{name['date']}-01") if name else None
    except UsageError:
        name = None
    if name is None:
        return None
    bars = name["what"] in _INTERVAL.split("|")
    folder = next((part for part in place.parts if part in _FOLDERS), "klines") if bars else name["what"]
    parts = [MARKETS[market].archive_path, "daily" if name["day"] else "monthly", folder, name["symbol"]]
    return "/".join(["data", *parts, *([name["what"]] if bars else []), file.name])


def _recordings(file: Path, place: Path, market: str) -> list[_Recording]:
    readers = {".csv": _read_csv, ".json": _read_json, ".feather": _read_feather, ".zip": _read_zip}
    if file.suffix not in readers:
        raise _LeftOut("only .csv, .json, .feather and .zip files are read")
    try:
        recordings = [one for one in readers[file.suffix](file, place, market) if one.rows]
    except _UNREADABLE as error:
        raise _LeftOut(f"it is not what its name says: {error}") from error
    if not recordings:
        raise _LeftOut("it holds no rows")
    if not all(0 <= time <= MAX_TIME for one in recordings for _, time, _ in one.rows):
        raise _LeftOut("it holds times outside 1970 … 9999")
    return recordings


def _read_csv(file: Path, place: Path, market: str) -> list[_Recording]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        return _csv(file, place, market, list(csv.reader(stream)))


def _read_zip(file: Path, place: Path, market: str) -> list[_Recording]:
    try:
        with ZipFile(file) as zipped:
            text = zipped.read(zipped.infolist()[0]).decode("utf-8-sig")
    except (BadZipFile, IndexError, UnicodeDecodeError) as error:
        raise _LeftOut(f"it is no zip of a text: {error}") from error
    return _csv(file, place, market, list(csv.reader(text.splitlines())))


def _csv(file: Path, place: Path, market: str, lines: list[list[str]]) -> list[_Recording]:
    if not lines:
        raise _LeftOut("it is empty")
    head = [re.sub(r"[^a-z]", "", name.lower()) for name in lines[0]]
    if lines[0][0].isdecimal():  # no header: the columns are those of the archive
        return [_bars(file, place, market, lines, range(len(_BAR_NAMES)))]
    if _FUNDING_RATES & set(head) and _FUNDING_TIMES & set(head):
        return _funding_csv(file, market, head, lines[1:])
    if {"open", "high", "low", "close"} <= set(head):
        lacking = [
            name for name, names in zip(_BAR_NAMES, _BAR_FIELDS, strict=True) if not names & set(head) and name != "ignore"
        ]
        if lacking:
            raise _LeftOut(f"its bars lack {', '.join(lacking)}")
        where = [next((at for at, name in enumerate(head) if name in names), -1) for names in _BAR_FIELDS]
        return [_bars(file, place, market, lines[1:], where)]
    raise _LeftOut("it holds neither bars nor settlements")


def _bars(file: Path, place: Path, market: str, lines: Iterable[Sequence[Any]], where: Sequence[int]) -> _Recording:
    """Bars out of rows whose fields stand at the positions `where` (-1: the unused last one is not there)."""
    if name := _BARS_NAME.fullmatch(file.stem):
        symbol, interval = name["symbol"], name["interval"]
    elif folder := _PAGES_FOLDER.fullmatch(file.parent.name):
        symbol, interval = file.stem, folder["interval"]
    else:
        raise _LeftOut("its name does not say of what the bars are (SYMBOL-INTERVAL-….csv)")
    dataset = next((_FOLDERS[part] for part in place.parts if part in _FOLDERS), "klines")
    recording = _Recording(Series(market, dataset, symbol, "1M" if interval == "1mo" else interval))
    for number, line in enumerate(lines, 1):
        try:
            texts = [str(line[at]) if at >= 0 else "0" for at in where]
        except IndexError:
            raise _LeftOut(f"row {number} has {len(line)} fields") from None
        if not all(_NUMBER.fullmatch(text) for text in texts):
            raise _LeftOut(f"row {number} holds something that is no number: {','.join(texts)[:80]}")
        opens, closes = _ms(texts[0]), _ms(texts[6])
        cells = [str(opens), *(f'"{text}"' for text in texts[1:6]), str(closes), f'"{texts[7]}"', texts[8]]
        text = ",".join([*cells, *(f'"{text}"' for text in texts[9:])])
        recording.rows.append((opens, opens, f"[{text}]".encode()))
    return recording


def _funding_csv(file: Path, market: str, head: list[str], lines: list[list[str]]) -> list[_Recording]:
    named = _FUNDING_NAME.fullmatch(file.stem)
    if "symbol" not in head and not named:
        raise _LeftOut("nothing says of which symbol the settlements are")
    time_at = next(at for at, name in enumerate(head) if name in _FUNDING_TIMES)
    rate_at = next(at for at, name in enumerate(head) if name in _FUNDING_RATES)
    settlements = []
    for number, line in enumerate(lines, 1):
        if len(line) != len(head) or not line[time_at].isdecimal() or not _NUMBER.fullmatch(line[rate_at]):
            raise _LeftOut(f"row {number} is no settlement: {','.join(line)[:80]}")
        symbol = named["symbol"] if named else line[head.index("symbol")]
        settlements.append({"symbol": symbol, "fundingTime": _ms(line[time_at]), "fundingRate": line[rate_at], "markPrice": ""})
    return _funding(market, settlements)


def _read_json(file: Path, place: Path, market: str) -> list[_Recording]:
    body = _load(file)
    if not isinstance(body, list) or not body:
        raise _LeftOut("it holds no list of rows")
    if isinstance(body[0], list):
        return [_bars(file, place, market, body, range(len(_BAR_NAMES)))]
    if isinstance(body[0], dict) and {"symbol", "fundingTime", "fundingRate"} <= body[0].keys():
        return _funding(market, body)
    if isinstance(body[0], dict) and {"coin", "funding_rate", "time"} <= body[0].keys():
        # renamed fields; a bare coin is its USDT contract
        renamed = [
            {"symbol": f"{row['coin']}USDT", "fundingTime": row["time"], "fundingRate": row["funding_rate"]} for row in body
        ]
        return _funding(market, [{**row, "markPrice": ""} for row in renamed])
    raise _LeftOut("it holds neither bars nor settlements, and is no body that is served")


def _read_feather(file: Path, _place: Path, market: str) -> list[_Recording]:
    name = _FREQTRADE_NAME.fullmatch(file.stem)
    if not name:
        raise _LeftOut("its bars lack close_time, quote_volume, count, taker_buy_volume, taker_buy_quote_volume")
    import pyarrow as pa  # noqa: PLC0415 - 0.3 s of CPU that folders without Feather need not pay
    from pyarrow import feather  # noqa: PLC0415 - heavy

    table = feather.read_table(file)
    times = table["date"].cast(pa.timestamp("ms", tz="UTC"), safe=False).cast(pa.int64()).to_pylist()
    symbol = name["base"] + name["quote"]
    # freqtrade keeps the rate in `open`, as a double; eight decimals are the exchange's own text of it.
    rows = zip(times, table["open"].to_pylist(), strict=True)
    return _funding(
        market, [{"symbol": symbol, "fundingTime": time, "fundingRate": _rate(rate), "markPrice": ""} for time, rate in rows]
    )


def _rate(rate: float) -> str:
    text = f"{rate:.8f}"
    return text if float(text) == rate else repr(rate)


def _funding(market: str, settlements: Iterable[Mapping[str, Any]]) -> list[_Recording]:
    recordings: dict[str, _Recording] = {}
    for row in settlements:
        symbol, time = row["symbol"], row["fundingTime"]
        if not isinstance(symbol, str) or type(time) is not int:
            raise _LeftOut(f"it holds a row that is no settlement: {str(row)[:80]}")
        recording = recordings.setdefault(symbol, _Recording(Series(market, "funding", symbol)))
        text = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()
        # The archive and REST may differ by milliseconds: the minute identifies a settlement.
        recording.rows.append(((time // MINUTE, row.get("rateType", "Regular")), time, text))
    return list(recordings.values())


def _ms(text: str) -> int:
    time = int(text)
    return time // 1000 if time >= _MICROSECONDS else time


def _load(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _LeftOut(f"it is no JSON: {error}") from error
