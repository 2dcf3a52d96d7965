"""Replace a file as a whole: a reader, or the next run after a crash, sees the old bytes or the new ones, nothing between."""

from __future__ import annotations

import itertools
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import LakeError

MANIFEST = "manifest.json"
"""What lies in the root of a snapshot, and of no other lake."""

_counter = itertools.count()


@contextmanager
def looking_at(path: Path) -> Iterator[None]:
    """What the system refuses to tell of `path` is a LakeError."""
    try:
        yield
    except OSError as error:
        place = error.filename or path
        raise LakeError(
            f"{place} cannot be read: {error.strerror or error}; look at the disk, and at who may read there"
        ) from error


def is_there(path: Path) -> bool:
    """Whether there is such a file or folder."""
    with looking_at(path):
        return path.exists()


def why_no_folder(path: Path) -> str | None:
    """Why nothing can lie below what has that name; None where it is a folder, or nothing has the name."""
    try:
        return None if stat.S_ISDIR(path.stat().st_mode) else "is no folder"
    except FileNotFoundError:
        return why_no_target(path)
    except OSError as error:
        return f"cannot be looked at ({error.strerror})"


def why_no_file(path: Path) -> str | None:
    """Why what has that name has no content; None where it is a file, or nothing has the name."""
    try:
        return None if stat.S_ISREG(path.stat().st_mode) else "is no regular file"
    except OSError:  # who reads it hears of it
        return None


def check_file(path: Path) -> None:
    """LakeError for what is there and no file: a pipe would hold us up for ever."""
    if why := why_no_file(path):
        raise LakeError(f"{path} {why}: move it away")


def why_no_target(path: Path) -> str | None:
    """Why a link leads nowhere; None where it leads somewhere, or is none."""
    try:
        path.stat()
    except FileNotFoundError:
        return f"is a link to something that is not there, {path.readlink()}" if path.is_symlink() else None
    except OSError:  # who reads it hears of it
        pass
    return None


def in_the_way(folder: Path) -> Path | None:
    """What lies where the folder, or one above it, belongs, and is no folder."""
    return next((path for path in (folder, *folder.parents) if os.path.lexists(path) and not os.path.isdir(path)), None)  # noqa: PTH112 - Path.is_dir raises where it may not look


def listed(folder: Path) -> list[Path]:
    """What lies in the folder, sorted; nothing where there is none.

    Other than `glob`, which takes a folder that may not be listed for an empty one.
    """
    with looking_at(folder):
        try:
            return sorted(folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []


def cure(lake: Path, otherwise: str) -> str:
    """What to do about a file of the lake that is broken or gone: nobody writes to a snapshot, so its cure is another one."""
    return "restore it from a backup, or drop the snapshot" if is_there(lake / MANIFEST) else otherwise


def temporary(lake: Path) -> Path:
    """A new name in the lake's `.tmp` folder: on the same file system as the data, and never a `*.parquet` beside it.

    The folder of its snapshots, which may lie on another file system, has one of its own.
    """
    folder = lake / ".tmp"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{os.getpid()}-{next(_counter)}"


def replace_file(lake: Path, target: Path, content: bytes | memoryview) -> None:
    """Put `content` at `target`, whole or not at all: write beside, fsync, rename, fsync the folder; else LakeError."""
    beside = None
    try:
        beside = temporary(lake)
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        publish(beside, target)
    except OSError as error:
        if beside is not None:
            with suppress(OSError):  # else the next writer removes it
                beside.unlink(missing_ok=True)
        if blocking := in_the_way(lake / ".tmp") or in_the_way(target.parent):
            raise LakeError(f"cannot write {target}: {blocking} is no folder; move it away") from error
        raise LakeError(f"cannot write {target}: {error.strerror or error}; the old file, if any, is untouched") from error


def remove_file(target: Path) -> None:
    """Take a file away so that it stays away after a power cut; else LakeError."""
    try:
        target.unlink(missing_ok=True)
        _sync_folder(target.parent)
    except OSError as error:
        raise LakeError(f"cannot remove {target}: {error.strerror or error}") from error


def publish(beside: Path, target: Path) -> None:
    """Rename a complete, synced file over `target` so that the name survives a power cut."""
    _make_folder(target.parent)
    beside.replace(target)
    _sync_folder(target.parent)


def publish_folder(beside: Path, target: Path) -> None:
    """As `publish`, for a folder of complete, synced files, where nothing has the name of `target`."""
    for folder, _, _ in os.walk(beside):
        _sync_folder(Path(folder))
    publish(beside, target)


def remove_folder(folder: Path) -> None:
    """Take a folder away, at once and as a whole: it is moved into the `.tmp` beside it before anything in it is deleted."""
    beside = temporary(folder.parent)
    folder.rename(beside)
    _sync_folder(folder.parent)
    shutil.rmtree(beside)


def remove_left_over(lake: Path) -> None:
    """Empty the `.tmp` folders of the lake and of its snapshots; who does so holds the lock."""
    for left_over in (*(lake / ".tmp").glob("*"), *(lake / "snapshots" / ".tmp").glob("*")):
        if left_over.is_dir() and not left_over.is_symlink():
            shutil.rmtree(left_over)
        else:
            left_over.unlink(missing_ok=True)


def set_aside(lake: Path, path: Path) -> Path:
    """Move a file, or whatever has its name, to a free name below the lake's `quarantine` folder; where it lies now."""
    free = quarantined(lake, path)
    try:
        _make_folder(free.parent)
        path.rename(free)
        _sync_folder(free.parent)
        _sync_folder(path.parent)
    except OSError as error:
        raise LakeError(f"cannot move {path} to {free}: {error.strerror or error}; move it away by hand") from error
    return free


def quarantined(lake: Path, path: Path) -> Path:
    """A name for a file of the lake below `quarantine` that is free there."""
    place = lake / "quarantine" / path.relative_to(lake)
    names = (place.with_name(f"{place.name}.{number}") if number else place for number in itertools.count())
    return next(name for name in names if not os.path.lexists(name))


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
