"""Frozen, named states of a lake: `snapshots/NAME/` is a lake of hard links, with the SHA-256 of every file in its manifest.

A file of a lake is only ever replaced by rename, so what a hard link holds stays for ever, and takes no bytes until the lake's
own file is another one. A snapshot knows no wall clock: the same lake gives the same manifest (docs/snapshots.md).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from .. import registry
from ..errors import Cancelled, LakeError, UsageError
from ..model import Series
from ..ranges import from_datetime, iso, parse_time
from .files import (
    MANIFEST,
    check_file,
    cure,
    listed,
    looking_at,
    publish_folder,
    remove_folder,
    remove_left_over,
    temporary,
    why_no_file,
)
from .store import Store, Stored
from .views import CATALOG, unusable_catalog, write_catalog

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

FORMAT = 1
LIVE = "now"
"""Where a snapshot is named, the lake as it is."""

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}")
_RECORDS = ("lake.json", "symbols/market=*/symbols.parquet", "runs/*.jsonl")


@dataclass(frozen=True, slots=True)
class File:
    """A file of a lake: its place below the root, and rows where it is a partition; no digest where none was computed."""

    path: str
    bytes: int
    rows: int | None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A state of a lake: its files by path. `as_of` is the latest time (ms UTC) that an answer in it reaches, by the exchange's
    clock; None where nothing was answered.
    """

    name: str
    folder: Path
    as_of: int | None
    files: Mapping[str, File]

    def as_dict(self) -> dict[str, Any]:
        """What `etl snapshot` tells of it."""
        return {
            "name": self.name,
            "as_of": None if self.as_of is None else iso(self.as_of),
            "files": len(self.files),
            "rows": sum(file.rows or 0 for file in self.files.values()),
            "bytes": sum(file.bytes for file in self.files.values()),
        }


@dataclass(slots=True)
class Change:
    """In what a series differs: names of partitions, counts of rows, the time of the first such row (ms UTC), and as example
    the first row that is in both with other values.

    A partition may differ in its footer alone, in what was asked and answered.
    """

    series: Series
    partitions_added: tuple[str, ...] = ()
    partitions_removed: tuple[str, ...] = ()
    partitions_changed: tuple[str, ...] = ()
    rows_added: int = 0
    rows_removed: int = 0
    rows_changed: int = 0
    first: int | None = None
    example: dict[str, Any] | None = None
    """`time`, and the row `before` and `after`."""

    def as_dict(self) -> dict[str, Any]:
        """One element of `series` in the document of `etl snapshot diff`."""
        told = {name: getattr(self, name) for name in self.__slots__ if name != "series"}
        return {**self.series.as_dict(), **told, "first": None if self.first is None else iso(self.first)}


@dataclass(frozen=True, slots=True)
class Difference:
    """The series that differ, and what else does: `added`, `removed` or `changed` by the path of the file."""

    series: tuple[Change, ...]
    files: Mapping[str, str]


# Names


def names(lake: Path) -> list[str]:
    """The snapshots of the lake, sorted."""
    return [path.name for path in listed(lake / "snapshots") if _NAME.fullmatch(path.name) and path.is_dir()]


def folder(lake: Path, name: str) -> Path:
    """Where the snapshot lies, which is a lake of its own; UsageError, with those that there are, for another name."""
    if name not in (known := names(lake)):
        raise UsageError(f"the lake at {lake} has no snapshot '{name}'; it has {', '.join(known) or 'none'}")
    return lake / "snapshots" / name


def _check_free(lake: Path, name: str) -> None:
    if not _NAME.fullmatch(name) or name == LIVE:
        raise UsageError(
            f"a snapshot cannot be named '{name}': up to 200 of A-Z a-z 0-9 - _ . are allowed, no dot at the start, and not now"
        )
    for other in names(lake):
        if other.casefold() == name.casefold():  # one name to some file systems
            raise UsageError(
                f"there is a snapshot '{other}' already, and none is ever changed: choose another name, or drop it"
            )


# Reading


def live(store: Store) -> Snapshot:
    """The lake as it is, without digests; Damaged for a partition that cannot be read."""
    stored = [file for series in store.series() for file in store.files(series)]
    files = [File(_place(store.root, file.path), file.size, file.rows) for file in stored]
    with looking_at(store.root):
        records = [path for pattern in _RECORDS for path in sorted(store.root.glob(pattern))]
        for path in records:
            check_file(path)
        files += [File(_place(store.root, path), path.stat().st_size, None) for path in records]
    as_of = max((answer.span.end for file in stored for answer in file.coverage), default=None)
    return Snapshot(LIVE, store.root, as_of, {file.path: file for file in sorted(files, key=lambda file: file.path)})


def read(lake: Path, name: str) -> Snapshot:
    """What the manifest of the snapshot says; UsageError where there is none of that name, LakeError if it cannot be read."""
    path = folder(lake, name) / MANIFEST
    check_file(path)
    try:
        about = json.loads(path.read_bytes())
        if (version := msgspec.convert(about, _Version).format) > FORMAT:
            raise LakeError(f"{path} says format {version}, this version knows format {FORMAT}: use a newer version")
        told = msgspec.convert(about, _Manifest)
        files = {entry.path: File(entry.path, entry.bytes, entry.rows, entry.sha256) for entry in told.files}
        as_of = None if told.as_of is None else parse_time(told.as_of)
    except (OSError, ValueError, RecursionError, UsageError) as error:
        raise LakeError(
            f"{path} cannot be read ({error}): restore it, or drop the snapshot with etl snapshot drop {name}"
        ) from error
    return Snapshot(name, path.parent, as_of, files)


_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Version(msgspec.Struct):
    """The part of a manifest that says how the others are to be read."""

    format: int


class _Entry(msgspec.Struct):
    """A file in a manifest."""

    path: str
    bytes: _Count
    rows: _Count | None
    sha256: str

    def __post_init__(self) -> None:
        if "\0" in self.path or {"", ".", ".."} & {*self.path.split("/")}:
            raise ValueError(f"{self.path!r} is no place below a snapshot")


class _Manifest(msgspec.Struct):
    """What is read of a manifest of format 1."""

    as_of: str | None
    files: list[_Entry]


def listing(lake: Path) -> list[dict[str, Any]]:
    """The snapshots by name: what they hold, when they were made (by this machine's clock), and `own_bytes`, which nothing but
    the one snapshot holds any more. Where one cannot be read there is an `error`, and nothing else.
    """
    rows = []
    for name in names(lake):
        row: dict[str, Any] = {"name": name, **dict.fromkeys(LISTED[1:])}
        rows.append(row)
        try:
            snapshot = read(lake, name)
            stats = [(snapshot.folder / path).stat() for path in snapshot.files]
            made = (snapshot.folder / MANIFEST).stat().st_mtime
        except (LakeError, OSError) as error:
            row["error"] = str(error)
            continue
        own = sum(stat.st_size for stat in stats if stat.st_nlink == 1)
        row |= {**snapshot.as_dict(), "created": iso(int(made) * 1000), "own_bytes": own}
    return rows


LISTED = ("name", "created", "as_of", "files", "rows", "bytes", "own_bytes")


def verify(lake: Path, name: str) -> list[dict[str, str]]:
    """What of the snapshot is not as it was made: `path` and `message` of each file that is gone, changed or foreign.

    Its catalog is written anew where the lake was moved, by each version in other words: it only has to be there and usable.
    """
    snapshot = read(lake, name)
    found = []
    for path, file in snapshot.files.items():
        try:
            digest = _sha256(snapshot.folder / path)
        except FileNotFoundError:
            found.append({"path": path, "message": "is gone"})
        except OSError as error:
            found.append({"path": path, "message": f"cannot be read: {error.strerror}"})
        else:
            if digest != file.sha256:
                found.append({"path": path, "message": f"has changed: its SHA-256 was {file.sha256} and is {digest}"})
    with looking_at(snapshot.folder):
        there = sorted(path for path in snapshot.folder.rglob("*") if path.is_symlink() or not path.is_dir())
    known = {*snapshot.files, MANIFEST, *CATALOG}
    foreign = (place for path in there if (place := _place(snapshot.folder, path)) not in known)
    found += [{"path": path, "message": "does not belong to it"} for path in foreign]
    unusable = unusable_catalog(snapshot.folder)
    found += [{"path": path, "message": f"{why}: etl status --rebuild makes it anew"} for path, why in unusable.items()]
    return found


# Writing


def planned(store: Store, name: str) -> Snapshot:
    """What `create` would freeze, without digests; its errors, too."""
    store.check_writable()
    _check_free(store.root, name)
    return replace(live(store), name=name)


def create(
    store: Store,
    name: str,
    *,
    wait: float = 0.0,
    sleep: Callable[[float], object] = time.sleep,
    link: Callable[[Path, Path], object] = os.link,
) -> Snapshot:
    """Freeze the lake as it is under a new name. What cannot be linked is copied.

    It is there as a whole or, if anything fails, not at all. `wait` and `sleep` are those of the lock; a true result of `sleep`
    ends the work also between two files: Cancelled. UsageError for a name that is taken or not allowed, Damaged for a partition
    that cannot be read.
    """
    _check_free(store.root, name)
    with store.lock(wait, sleep), _writing(name):
        _check_free(store.root, name)
        state = live(store)
        target = store.root / "snapshots" / name
        beside = temporary(target.parent)  # else it could not be renamed where snapshots lie on another file system
        beside.mkdir()
        try:
            made = replace(state, name=name, folder=target, files=_fill(beside, state, _readable(store.root), sleep, link))
            _write_catalog(beside, target)
            _write_synced(beside / MANIFEST, _manifest(store, made))
            publish_folder(beside, target)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
    return made


def drop(store: Store, name: str, *, wait: float = 0.0, sleep: Callable[[float], object] = time.sleep) -> None:
    """Take the snapshot away; the lake and other snapshots keep what they share with it."""
    folder(store.root, name)
    with store.lock(wait, sleep), _writing(name):
        remove_folder(folder(store.root, name))


def rebuild(store: Store) -> None:
    """Write the catalogs of all snapshots anew, as after the lake was moved; who does so holds the lock."""
    for name in names(store.root):
        place = folder(store.root, name)
        (place / "catalog.sql").unlink(missing_ok=True)
        _write_catalog(place, place)


def _fill(
    beside: Path,
    state: Snapshot,
    others: list[Snapshot],
    sleep: Callable[[float], object],
    link: Callable[[Path, Path], object],
) -> dict[str, File]:
    """Put the files of the lake into the folder `beside`, and what they are."""
    files = {}
    for path, file in state.files.items():
        if sleep(0):
            raise Cancelled("stopped while a snapshot was made; nothing was done")
        linked = _put(state.folder / path, beside / path, link)
        known = _known(others, state.folder, path) if linked else None
        files[path] = replace(file, sha256=known or _sha256(beside / path))
    return files


def _write_catalog(place: Path, home: Path) -> None:
    write_catalog(place, home)
    remove_left_over(place)  # of a rebuild that was killed
    (place / ".tmp").rmdir()


def _put(source: Path, target: Path, link: Callable[[Path, Path], object]) -> bool:
    """The file under a second name; whether that is a link, which some file systems refuse, and all to another one.

    Of a symbolic link it is what that leads to: the link itself would lead elsewhere from another folder.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        link(source.resolve() if source.is_symlink() else source, target)
    except OSError:
        _write_synced(target, source.read_bytes())
        return False
    return True


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _manifest(store: Store, made: Snapshot) -> bytes:
    """JSON with one line a file."""
    network = json.loads((store.root / "lake.json").read_bytes())["network"]
    as_of = None if made.as_of is None else iso(made.as_of)
    about = {"format": FORMAT, "name": made.name, "as_of": as_of, "network": network, "partition": store.layout}
    lines = ",\n".join(json.dumps(asdict(file)) for file in made.files.values())
    return f'{json.dumps(about)[:-1]}, "files": [\n{lines}\n]}}\n'.encode()


def _readable(lake: Path) -> list[Snapshot]:
    found = []
    for name in names(lake):
        try:
            found.append(read(lake, name))
        except LakeError:
            continue  # `listing` tells of it
    return found


def _known(others: list[Snapshot], root: Path, path: str) -> str | None:
    """The digest of a file of the lake that is still the very file of another snapshot."""
    return next((one.files[path].sha256 for one in others if path in one.files and _one(one.folder / path, root / path)), None)


def _one(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:
        return False


def _sha256(path: Path) -> str:
    if why := why_no_file(path):
        raise OSError(errno.EINVAL, why, str(path))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _place(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


@contextmanager
def _writing(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LakeError(f"the snapshot {name} cannot be written: {error.strerror or error} ({error.filename})") from error


# Comparing


def diff(store: Store, before: str, after: str = LIVE) -> Difference:
    """In what two states differ, by series and rows; `now` is the lake as it is. UsageError for an unknown name."""
    one, two = (live(store) if name == LIVE else read(store.root, name) for name in (before, after))
    return compare(one, two, store.layout)


def compare(one: Snapshot, two: Snapshot, layout: str) -> Difference:
    """In what two states of a lake differ. Only files with different digests are read.

    What runs recorded of themselves is left out. Damaged for a file that cannot be read, LakeError for one that is gone; what a
    writer replaces meanwhile is read as it is then.
    """
    import duckdb  # noqa: PLC0415 - 80 ms that only this function needs

    lakes = Store(one.folder, layout), Store(two.folder, layout)
    by_folder = {_place(lake.root, lake.folder(series)): series for lake in lakes for series in lake.series()}
    paths: defaultdict[Series, list[str]] = defaultdict(list)
    others = {}
    for path in sorted(one.files.keys() | two.files.keys()):
        if path.startswith("runs/"):
            continue
        with _told((one, two), path):
            if _equal(one, two, path):
                continue
            for state in (one, two):
                if path in state.files:
                    (state.folder / path).stat()
        if series := by_folder.get(path.rpartition("/")[0]):
            paths[series].append(path)
        else:
            others[path] = "added" if path not in one.files else "removed" if path not in two.files else "changed"
    with duckdb.connect() as connection:
        changes = [_change(connection, lakes, (one, two), series, paths[series]) for series in sorted(paths)]
    return Difference(tuple(changes), others)


def _equal(one: Snapshot, two: Snapshot, path: str) -> bool:
    if path not in one.files or path not in two.files:
        return False
    if LIVE in {one.name, two.name} and _one(one.folder / path, two.folder / path):
        return True
    digests = [state.files[path].sha256 or _sha256(state.folder / path) for state in (one, two)]
    return digests[0] == digests[1]


@contextmanager
def _told(states: tuple[Snapshot, Snapshot], path: str) -> Iterator[None]:
    """What cannot be read of the file is a LakeError; of a state that should have it and has not, with the cure."""
    try:
        yield
    except (LakeError, OSError) as error:
        for state in states:
            file = state.folder / path
            if path in state.files and not os.path.lexists(file):
                if state.name == LIVE:
                    raise LakeError(f"{file} is gone since the lake was looked at: run etl snapshot diff again") from error
                more = f"etl snapshot verify {state.name} tells what else is not as it was"
                raise LakeError(f"{file} is gone: {cure(state.folder, 'restore it')}; {more}") from error
        if isinstance(error, OSError):
            raise LakeError(f"{error.filename} cannot be read: {error.strerror}") from error
        raise


def _change(
    connection: duckdb.DuckDBPyConnection,
    lakes: tuple[Store, Store],
    states: tuple[Snapshot, Snapshot],
    series: Series,
    paths: list[str],
) -> Change:
    """What became of the series in those files, which differ."""
    change = Change(series)
    firsts: list[int | None] = []
    for path in paths:
        name = Path(path).stem
        there = [path in state.files for state in states]
        with _told(states, path):
            if all(there):
                change.partitions_changed += (name,)
                tables = [lake.content(series, lake.root / path) for lake in lakes]
                added, removed, changed, first, example = _rows(connection, series, *tables)
                change.rows_added += added
                change.rows_removed += removed
                change.rows_changed += changed
                change.example = change.example or example
                firsts.append(first)
            elif there[1]:
                file = _stored(lakes[1], series, path)
                change.partitions_added += (name,)
                change.rows_added += file.rows
                firsts.append(file.first)
            else:
                file = _stored(lakes[0], series, path)
                change.partitions_removed += (name,)
                change.rows_removed += file.rows
                firsts.append(file.first)
    change.first = min((first for first in firsts if first is not None), default=None)
    return change


def _stored(lake: Store, series: Series, path: str) -> Stored:
    return lake.read(series, lake.root / path)


# Rows of one key are one row; for settlements that is the minute and the kind, because the sources differ by milliseconds.
_KEYS = {
    True: "open_time AS k, '' AS kind",
    False: "date_trunc('minute', funding_time) AS k, coalesce(rate_type, 'Regular') AS kind",
}
_DIFFERENCES = """
WITH differences AS (
  SELECT o.t AS was, n.t AS is_now, o.r AS before, n.r AS after, was IS NOT NULL AND is_now IS NOT NULL AS stayed
  FROM (SELECT r, {time} AS t, {keys} FROM old AS r) AS o
  FULL JOIN (SELECT r, {time} AS t, {keys} FROM new AS r) AS n USING (k, kind)
  WHERE o.r IS DISTINCT FROM n.r
)
SELECT count(*) FILTER (was IS NULL), count(*) FILTER (is_now IS NULL), count(*) FILTER (stayed), min(coalesce(was, is_now)),
  arg_min({{'time': was, 'before': before, 'after': after}}, was) FILTER (stayed)
FROM differences
"""


def _rows(
    connection: duckdb.DuckDBPyConnection, series: Series, before: pa.Table, after: pa.Table
) -> tuple[int, int, int, int | None, dict[str, Any] | None]:
    """How many rows were added, removed, changed; the time of the first of them, and the first changed one."""
    connection.register("old", before)
    connection.register("new", after)
    kind = registry.dataset(series.dataset)
    query = _DIFFERENCES.format(time=kind.time_column, keys=_KEYS[kind.has_interval])
    ((added, removed, changed, first, example),) = connection.execute(query).fetchall()
    return added, removed, changed, None if first is None else from_datetime(first), example and _plain(example)


def _plain(value: Any) -> Any:
    """The value with times as ISO texts."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return iso(from_datetime(value)) if isinstance(value, datetime) else value
