"""The lake on disk: which file holds what, how it is read, and how it is replaced.

A file holds the rows of one partition and, in its footer under the key `etl`, what was asked and answered. So rows and coverage
commit together, and everything else that is known about the lake can be derived from its files (docs/format.md).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.parquet as pq

from .. import registry
from ..errors import Cancelled, Damaged, LakeError, LakeLocked, UsageError
from ..model import SOURCES, Coverage, Dataset, Partition, Series
from ..ranges import HOUR, MAX_TIME, TimeRange, from_datetime, iso, months, parse_time, years
from ..schema import arrow_schema, empty
from .files import (
    MANIFEST,
    check_file,
    cure,
    in_the_way,
    is_there,
    listed,
    looking_at,
    quarantined,
    remove_file,
    remove_left_over,
    replace_file,
    set_aside,
    why_no_file,
    why_no_folder,
    why_no_target,
)

FORMAT = 1
FOOTER_KEY = b"etl"
ROW_GROUP = 131_072
LONGEST_NAME = 200
_INTERVALS = {interval.path_name: name for name, interval in registry.INTERVALS.items()}
# What lies in a lake beside its series, each in a folder of its own.
_BESIDE = ("symbols", "runs", "snapshots", "quarantine", ".tmp")
_log = logging.getLogger("etl")


@dataclass(frozen=True, slots=True)
class Stored:
    """What one file says of itself; `first` and `last` are times of rows (ms UTC), None where it holds none."""

    partition: Partition
    path: Path
    rows: int
    first: int | None
    last: int | None
    size: int
    coverage: tuple[Coverage, ...]
    holes: tuple[TimeRange, ...]
    wanted: int | None = None
    """Since when the series was asked for by the run that wrote the file."""
    lost: tuple[TimeRange, ...] = ()
    """What was asked for and failed, and is not covered since."""


class Store:
    """One lake. Reading needs no lock; `lock` must be held to write.

    Who reads all that the views show, whatever the lake's layout, gives none.
    """

    def __init__(self, root: Path, layout: str) -> None:
        self.root = root
        self.layout = layout

    @classmethod
    def open(cls, root: Path, *, network: str, layout: str) -> Store:
        """The lake at `root`, or what `create` would make there; the layout of an existing lake stands.

        UsageError if the lake there belongs to another network.
        """
        path = root / "lake.json"
        if why := why_no_file(path):
            raise LakeError(f"{path} cannot be read (it {why}); it says what the lake is: restore it before going on")
        try:
            about = json.loads(path.read_text())
            version, owner, stands = about["format"], about["network"], about["partition"]
        except FileNotFoundError:
            if any(is_there(root / dataset) for dataset in registry.DATASETS):
                raise LakeError(f"{root} holds data but no lake.json, which says what the lake is: restore it") from None
            return cls(root, layout)
        except NotADirectoryError:
            file = in_the_way(root) or root
            raise UsageError(
                f"{file} is no folder, so no lake can lie there; name another one with --lake or ETL_LAKE"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise LakeError(f"{path} cannot be read ({error}); it says what the lake is: restore it before going on") from error
        if version != FORMAT:
            raise LakeError(f"{path} says format {version}, this version knows format {FORMAT}: use a newer version")
        if owner != network:
            raise UsageError(f"the lake at {root} holds data of {owner}, not of {network}: use another --lake for {network}")
        if stands not in ("year", "month"):  # a list may stand there, which no set can be asked for
            raise LakeError(f"{path} says partition {stands!r}, which is neither year nor month: restore it before going on")
        return cls(root, stands)

    @property
    def exists(self) -> bool:
        """Whether there is a lake."""
        return is_there(self.root / "lake.json")

    def create(self, network: str) -> None:
        """Make the lake, for that network, if it is not there yet."""
        if not self.exists:
            about = {"format": FORMAT, "network": network, "partition": self.layout}
            replace_file(self.root, self.root / "lake.json", (json.dumps(about) + "\n").encode())

    # Names

    def partitions(self, series: Series, span: TimeRange) -> list[Partition]:
        """The partitions of the series that `span` touches: calendar months for bars below 1h in a month lake, else years."""
        periods = months if self._by_month(series) else years
        return [Partition(series, name, period) for name, period in periods(span)]

    def _by_month(self, series: Series) -> bool:
        step = registry.interval(series.interval).step if series.interval else 0
        return self.layout == "month" and 0 < step < HOUR

    def folder(self, series: Series) -> Path:
        """The folder of a series; UsageError for a symbol that cannot be a folder's name."""
        encoded = quote(series.symbol, safe="", errors="replace")
        if (
            encoded in {"", ".", ".."}
            or "\0" in series.symbol
            or len(encoded) > LONGEST_NAME
            or unquote(encoded) != series.symbol
        ):
            raise UsageError(
                f"symbol {series.symbol[:40]!r} cannot be stored: empty, a dot name, with NUL, too long, or no text"
            )
        folder = self.root / series.dataset / f"market={series.market}"
        if series.interval:
            folder /= f"interval={registry.interval(series.interval).path_name}"
        return folder / f"symbol={encoded}"

    def path(self, partition: Partition) -> Path:
        """The file of a partition."""
        return self.folder(partition.series) / f"{partition.name}.parquet"

    # Reading

    def series(self) -> Iterator[Series]:
        """Every series that has a folder in the lake, sorted; then those that are only wanted."""
        wanted = self.wanted()
        for series, _, why in self._places():
            if why is None:
                wanted.pop(series, None)
                yield series
        yield from sorted(wanted)

    def strays(self, *, beside: bool = False) -> list[tuple[Series, LakeError]]:
        """What is none of this lake and has the place of a series, or of a file of one, where the views show it, or keeps one
        from being there; and the series that its path says, as far as it says one. With `beside` also what is in the way of the
        lake's own folders and records: a run tells of that when it needs them.
        """
        strays: list[tuple[Series, Path, str]] = []
        for series, path, why in self._places():
            strays += [(series, path, why)] if why else self._of_other_layout(series)
        strays += self._rules()
        strays += self._beside() if beside else ()
        return [(_in_text(series), LakeError(_told(f"{path} {why}: move it away"))) for series, path, why in strays]

    def _rules(self) -> Iterator[tuple[Series, Path, str]]:
        """As `_places`, for the rules of symbols: only what is wrong."""
        for folder in listed(self.root / "symbols"):
            key, _, market = folder.name.partition("=")
            if key == "market":
                file = folder / "symbols.parquet"
                if why := why_no_folder(folder):
                    yield Series(market, "symbols", ""), folder, why
                elif market not in registry.MARKETS:
                    yield Series(market, "symbols", ""), folder, _foreign(f"there is no market {market}")
                elif why := why_no_file(file):
                    yield Series(market, "symbols", ""), file, why

    def _beside(self) -> Iterator[tuple[Series, Path, str]]:
        for name in _BESIDE:
            if why := why_no_folder(self.root / name):
                yield Series("", name, ""), self.root / name, why
        for path in listed(self.root / "runs"):
            if path.suffix == ".jsonl" and (why := why_no_file(path)):
                yield Series("", "runs", ""), path, why

    def _places(self) -> Iterator[tuple[Series, Path, str | None]]:
        """What has the place of a series' folder, sorted, or stands in the way of some: the series that its path says, and why
        it is not the folder of that series, if it is not.
        """
        for dataset in registry.DATASETS.values():
            places = [self.root / dataset.name]
            for key in ("market", "interval", "symbol") if dataset.has_interval else ("market", "symbol"):
                inner: list[Path] = []
                for place in places:
                    if why := why_no_folder(place):
                        yield self._said(dataset, place), place, why
                    else:
                        inner += [path for path in listed(place) if path.name.startswith(f"{key}=")]
                places = inner
            for place in places:
                series = self._said(dataset, place)
                yield series, place, why_no_folder(place) or self._why_foreign(dataset, series, place)

    def _said(self, dataset: Dataset, folder: Path) -> Series:
        """The series that the path says, whether or not there can be such a one."""
        values = dict(part.split("=", 1) for part in folder.relative_to(self.root / dataset.name).parts)
        interval = _INTERVALS.get(values.get("interval", ""), values.get("interval"))
        return Series(values.get("market", ""), dataset.name, unquote(values.get("symbol", "")), interval)

    def _why_foreign(self, dataset: Dataset, series: Series, folder: Path) -> str | None:
        if series.market not in dataset.endpoints:
            return _foreign(f"market {series.market} has no {dataset.name}")
        if dataset.has_interval and series.interval not in registry.INTERVALS:
            return _foreign(f"there is no interval {series.interval}")
        try:
            own = self.folder(series)
        except UsageError as error:
            return _foreign(str(error))
        return None if own == folder else _foreign(f"that of the series is {own.relative_to(self.root)}")

    def wanted(self) -> dict[Series, int]:
        """Series that were asked for and have no file yet, and since when (ms UTC): what runs that were cut short have left."""
        path = self.root / "wanted.json"
        with looking_at(path):
            if not path.exists():
                return {}
            check_file(path)
            content = path.read_bytes()
        try:
            wanted = _wanted(json.loads(content))
            _ = [self.folder(series) for series in wanted]  # there can be such series
            return wanted
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError) as error:
            raise LakeError(
                f"{path} cannot be read ({error}); remove it, and run the backfill again of which it kept what was not fetched"
            ) from error

    def want(self, series: Mapping[Series, int]) -> None:
        """Let these be the series that are wanted; whoever calls this holds the lock."""
        path = self.root / "wanted.json"
        if not series:
            if is_there(path):
                remove_file(path)
        elif series != self.wanted():
            lines = ",\n".join(json.dumps({**one.as_dict(), "since": iso(series[one])}) for one in sorted(series))
            replace_file(self.root, path, f"[\n{lines}\n]\n".encode())

    def files(self, series: Series) -> list[Stored]:
        """What is stored of the series, one entry a file, by time. Reads footers only."""
        return [self.read(series, path) for path in self.paths(series)]

    def sound(self, series: Series) -> tuple[list[Stored], list[Damaged]]:
        """As `files`, and beside them the files that do not hold what they should."""
        stored: list[Stored] = []
        damaged: list[Damaged] = []
        for path in self.paths(series):
            try:
                stored.append(self.read(series, path))
            except Damaged as error:
                damaged.append(error)
        return stored, damaged

    def paths(self, series: Series) -> list[Path]:
        """The files of the series, by time; without those of the other layout, whose rows would count twice: `strays`."""
        return [path for path in self._parquet(series) if not self._has_other_layout(series, path)]

    def _parquet(self, series: Series) -> list[Path]:
        return [path for path in listed(self.folder(series)) if path.suffix == ".parquet"]

    def _has_other_layout(self, series: Series, path: Path) -> bool:
        """Whether the file is named after a year where the lake has months, or after a month where it has years."""
        of_month = len(path.stem) > len("2024")
        return bool(self.layout) and of_month != self._by_month(series) and self.period(path) is not None

    def _of_other_layout(self, series: Series) -> Iterator[tuple[Series, Path, str]]:
        """The files that no run may merge or delete, because nobody knows which of them is right; and why they are no files."""
        why = f"is no file of this lake, which has one file a {'month' if self._by_month(series) else 'year'} of such a series,"
        why += " but SQL shows its rows, and twice those that another file holds, too"
        yield from ((series, path, why) for path in self._parquet(series) if self._has_other_layout(series, path))

    def holds(self, partition: Partition) -> bool:
        """Whether the partition has a file."""
        return is_there(self.path(partition))

    def read(self, series: Series, path: Path) -> Stored:
        """What the file says of itself, from its footer; Damaged if it is none of this series."""
        dataset = registry.dataset(series.dataset)
        if why := why_no_target(path):
            raise LakeError(f"{path} {why}: bring that back, or remove the link, and the next run fetches the file again")
        with _reading(self.root, path):
            metadata = pq.read_metadata(path)
            about = json.loads((metadata.metadata or {})[FOOTER_KEY])
            version = about["format"]
            if isinstance(version, int) and version > FORMAT:
                raise LakeError(f"{path} says format {version}, this version knows format {FORMAT}: use a newer version")
            if {name: about[name] for name in series.as_dict()} != series.as_dict():
                raise ValueError(f"it says that it belongs to {about['symbol']} {about['interval']}")
            column = dataset.columns.index(next(c for c in dataset.columns if c.name == dataset.time_column))
            first = last = None
            for group in range(metadata.num_row_groups if metadata.num_rows else 0):
                statistics = metadata.row_group(group).column(column).statistics
                if statistics is None or not statistics.has_min_max:
                    raise ValueError(f"no statistics of {dataset.time_column}")
                low, high = _milliseconds(statistics.min), _milliseconds(statistics.max)
                first = low if first is None else min(first, low)
                last = high if last is None else max(last, high)
            coverage = tuple(_coverage(entry) for entry in about["coverage"])
            holes, lost = (tuple(_span(*span) for span in spans) for spans in (about["holes"], about.get("lost", ())))
            period = self.period(path)
            if period is None:
                raise ValueError(f"'{path.stem}' names no period")
            wanted = _time(about["wanted"]) if "wanted" in about else None
        return Stored(
            Partition(series, path.stem, period),
            path,
            metadata.num_rows,
            first,
            last,
            path.stat().st_size,
            coverage,
            holes,
            wanted,
            lost,
        )

    def period(self, path: Path) -> TimeRange | None:
        """The calendar year or month that the file's name says, None where it says none."""
        try:
            start = from_datetime(datetime(int(path.stem[:4]), int(path.stem[5:7] or 1), 1, tzinfo=UTC))
        except ValueError:
            return None
        name, period = next((months if len(path.stem) > 4 else years)(TimeRange(start, start + 1)))
        return period if name == path.stem and period.end <= MAX_TIME else None  # the last year has no end that can be told

    def stored(self, partition: Partition) -> Stored | None:
        """What the partition's file says of itself, None where there is no file."""
        path = self.path(partition)
        return self.read(partition.series, path) if self.holds(partition) else None

    def rows(self, partition: Partition) -> pa.Table:
        """The stored rows of a partition, empty where there is no file; Damaged where they cannot be read."""
        path = self.path(partition)
        return self.content(partition.series, path) if self.holds(partition) else empty(partition.series.dataset)

    def content(self, series: Series, path: Path) -> pa.Table:
        """The rows in a file of the series; LakeError also where there is none."""
        schema = arrow_schema(series.dataset)
        with _reading(self.root, path):
            return pq.ParquetFile(path, page_checksum_verification=True).read(columns=schema.names).cast(schema)

    def foreign_columns(self, partition: Partition) -> str:
        """In what the columns of a file differ from those of its dataset, which other Parquet readers rely on; else nothing."""
        path = self.path(partition)
        with _reading(self.root, path):
            found = [f"{field.name} {field.type}" for field in pq.read_schema(path)]
        declared = [f"{field.name} {field.type}" for field in arrow_schema(partition.series.dataset)]
        return ", ".join(
            [*(one for one in found if one not in declared), *(f"no {one}" for one in declared if one not in found)]
        )

    # Writing

    def set_aside(self, path: Path) -> Path:
        """Move a file that does not hold what it should out of the data, into `quarantine`; where it lies now."""
        return set_aside(self.root, path)

    def keep(self, partition: Partition) -> None:
        """Put a copy of the partition's file into `quarantine`, before rows of it go."""
        path = self.path(partition)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise LakeError(f"{path} cannot be read: {error}") from error
        replace_file(self.root, quarantined(self.root, path), content)

    def replace(
        self,
        partition: Partition,
        rows: pa.Table,
        coverage: Sequence[Coverage],
        holes: Sequence[TimeRange],
        *,
        wanted: int | None = None,
        lost: Sequence[TimeRange] = (),
    ) -> None:
        """Replace the partition's file by one that holds `rows` (sorted, unique) and says what was asked and answered."""
        series = partition.series
        path = self.path(partition)
        self._refuse_second_spelling(path.parent)
        endpoint = registry.dataset(series.dataset).endpoints[series.market]
        about = {
            "format": FORMAT,
            **series.as_dict(),
            "coverage": [_entry(c, endpoint.path) for c in coverage],
            "holes": [[hole.start, hole.end] for hole in holes],
        }
        if lost:
            about["lost"] = [[span.start, span.end] for span in lost]
        if wanted is not None:
            about["wanted"] = wanted
        footer = json.dumps(about, separators=(",", ":"), ensure_ascii=False)
        replace_file(self.root, path, memoryview(encode(rows, footer)))

    def _refuse_second_spelling(self, folder: Path) -> None:
        """Whether the folder itself exists says nothing: to a case-blind file system every spelling does."""
        names = {path.name for path in listed(folder.parent)}
        for other in names if folder.name not in names else ():
            if other.casefold() == folder.name.casefold():
                raise LakeError(f"{folder.name} is not stored: a case-blind file system would mix it with {other}")

    def check_writable(self) -> None:
        """UsageError for a snapshot, which nobody writes."""
        if is_there(self.root / MANIFEST):
            raise UsageError(f"{self.root} is a snapshot, which is never changed; name the lake that it was taken of")

    @contextlib.contextmanager
    def lock(self, wait: float = 0.0, sleep: Callable[[float], object] = time.sleep) -> Iterator[None]:
        """Be the lake's only writer; LakeLocked if another one stays longer than `wait` seconds.

        `sleep` pauses for some seconds and may say by a true result that the wait is to end: Cancelled. The system drops the
        lock with the process, so a dead writer never blocks. Left-over temporary files of dead writers go. UsageError for a
        snapshot, which nobody writes.
        """
        self.check_writable()
        with _writing(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            file = (self.root / ".lock").open("a+")
        with _closing(file, self.root):
            deadline, said = time.monotonic() + wait, None
            while not _locked(file.fileno()):
                with looking_at(self.root / ".lock"), (self.root / ".lock").open() as lock:
                    owner = lock.read().strip() or "another process"
                busy = f"{owner} is writing to the lake {self.root}"
                if time.monotonic() >= deadline:
                    raise LakeLocked(f"{busy}; wait for it with --wait[=SECONDS]")
                if said != busy:
                    _log.info("%s; waiting for it", busy)
                    said = busy
                if sleep(0.2):
                    raise Cancelled(f"stopped while another process was writing to the lake {self.root}; nothing was done")
            with _writing(self.root):
                file.truncate(0)
                file.write(f"process {os.getpid()}")
                file.flush()
                remove_left_over(self.root)
            yield


def _wanted(entries: object) -> dict[Series, int]:
    if not isinstance(entries, list):
        raise TypeError("it is no list")
    return {_wanted_series(entry): parse_time(entry["since"]) for entry in entries}


def _wanted_series(entry: Mapping[str, str]) -> Series:
    dataset, interval = registry.dataset(entry["dataset"]), entry["interval"]
    if dataset.has_interval != (interval is not None):
        raise ValueError(f"{dataset.name} at {interval}")
    return Series(
        registry.market(entry["market"]).name, dataset.name, entry["symbol"], interval and registry.interval(interval).name
    )


def encode(rows: pa.Table, footer: str) -> pa.Buffer:
    """The bytes of a Parquet file; the same rows and footer give the same bytes. Figures for each choice: docs/adr/0002."""
    kinds = {field.name: field.type for field in rows.schema}
    plain = {name: "PLAIN" for name, kind in kinds.items() if pa.types.is_floating(kind)}
    delta = {
        name: "DELTA_BINARY_PACKED" for name, kind in kinds.items() if pa.types.is_timestamp(kind) or pa.types.is_integer(kind)
    }
    text = [name for name, kind in kinds.items() if pa.types.is_string(kind)]
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        rows.schema,
        compression="zstd",
        compression_level=-1,
        use_dictionary=text,
        column_encoding=plain | delta,
        write_page_checksum=True,
        store_schema=False,
    ) as writer:
        writer.write_table(rows, row_group_size=ROW_GROUP)
        writer.add_key_value_metadata({FOOTER_KEY.decode(): footer})
    return sink.getvalue()


def _foreign(why: str) -> str:
    return f"is no folder of this lake ({why}), but SQL shows what lies there"


def _in_text(series: Series) -> Series:
    interval = series.interval and _told(series.interval)
    return Series(_told(series.market), series.dataset, _told(series.symbol), interval)


def _told(name: str) -> str:
    """A name that is no UTF-8, in characters that can be printed."""
    return name.encode(errors="backslashreplace").decode()


def _entry(coverage: Coverage, rest_path: str) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "start": coverage.span.start,
        "end": coverage.span.end,
        "source": coverage.source,
        "source_url": rest_path if coverage.source == "rest" else coverage.key,
        "sha256": coverage.sha256,
        "checked": coverage.checked,
    }
    more = {"etag": coverage.etag, "former": coverage.former, "later": coverage.later}
    return entry | {name: value for name, value in more.items() if value}


def _coverage(entry: dict[str, Any]) -> Coverage:
    source = entry["source"]
    if source not in SOURCES:
        raise ValueError(f"{source!r} is no source")
    key, sha256, etag = entry["source_url"] if source == "archive" else None, entry["sha256"], entry.get("etag")
    former, later = (tuple(entry.get(name, ())) for name in ("former", "later"))
    if wrong := [text for text in (key, sha256, etag, *former, *later) if not isinstance(text, str | None)]:
        raise TypeError(f"{wrong[0]!r} is no text")
    return Coverage(_span(entry["start"], entry["end"]), source, _time(entry["checked"]), key, sha256, etag, former, later)


def _span(start: object, end: object) -> TimeRange:
    return TimeRange(_time(start), _time(end))


def _time(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MAX_TIME:
        raise ValueError(f"{value!r} is no time")
    return value


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise LakeError(f"the lake's file system cannot lock files ({error.strerror}); put the lake on a local disk") from error
    return True


def _milliseconds(value: object) -> int:
    if not isinstance(value, datetime):
        raise TypeError(f"{value!r} is no time")
    return from_datetime(value)


@contextlib.contextmanager
def _closing(file: TextIO, root: Path) -> Iterator[None]:
    try:
        yield
    finally:
        with _writing(root):
            file.close()


@contextlib.contextmanager
def _writing(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LakeError(f"cannot write to the lake {root}: {error}; look at the disk, and at who may write there") from error


@contextlib.contextmanager
def _reading(lake: Path, path: Path) -> Iterator[None]:
    try:
        _require_regular(path)
        yield
    except (OSError, pa.ArrowException, ValueError, OverflowError, KeyError, TypeError, RecursionError) as error:
        # The system's own errors have a number, Arrow's about the content have none.
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None):
            raise LakeError(f"{path} cannot be read: {error}") from error
        helps = cure(lake, "etl repair fetches it again")
        raise Damaged(f"{path} is not a readable file of this lake ({error}); {helps}", path) from error


def _require_regular(path: Path) -> None:
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would hold us up for ever
        raise ValueError("it is no regular file")
