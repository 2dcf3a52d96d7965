"""Replacing folders of a catalog: all that belong together or none; what a killed run had moved away comes back."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import EtlError
from ..lake.files import publish_folder
from .files import unwritten

_FOLDERS = "data/*/*"
# Below what was moved away: of each folder that has nothing to take the place of an empty one with its name.
_ADDED = "added"


@contextmanager
def workplace(folder: Path) -> Iterator[Path]:
    """A folder of its own in `folder` to prepare in, gone afterwards; what an earlier run had to leave there is put back first.

    EtlError where the system refuses something, then also when it comes from within.
    """
    # Not inside the lake's `.tmp`: a rename must stay on one file system.
    part = folder / ".etl-export.part"
    try:
        try:
            _tidy(part, folder)
            part.mkdir()
            yield part
        finally:
            with suppress(OSError):  # else the next run does it
                _tidy(part, folder)
    except OSError as error:
        if not any((part / "old").glob(_FOLDERS)):
            raise unwritten(folder, error) from error
        raise EtlError(
            f"cannot write {folder}: {error.strerror or error}; what was exported there before lies in {part / 'old'}, and the"
            " next export into the folder puts it back"
        ) from error


def replace(
    part: Path, folder: Path, gone: Iterable[Path] = (), place: Callable[[Path, Path], None] = publish_folder
) -> set[Path]:
    """Move every folder `data/*/*` of `part / "new"` to its place in `folder`, and take away what is there, and `gone`.

    Where they lie now. What is taken away lies in `part / "old"` until all is done: an end before that undoes it (`workplace`).
    """
    made, old = part / "new", part / "old"
    new = sorted(path.relative_to(made) for path in made.glob(_FOLDERS))
    for one in new:  # before anything is moved: an end between two moves undoes these, too
        if not os.path.lexists(folder / one):
            (old / _ADDED / one).mkdir(parents=True)
    for one in [*gone, *new]:
        if os.path.lexists(folder / one):
            (old / one).parent.mkdir(parents=True, exist_ok=True)
            (folder / one).rename(old / one)
        if one in new:
            place(made / one, folder / one)
    if old.exists():
        old.rename(part / "done")
    return {folder / one for one in new}


def _tidy(part: Path, folder: Path) -> None:
    """Put back what was moved to `old`, in the place of what is new there, then remove the rest, and what is new elsewhere."""
    if part.is_symlink() or part.is_file():
        part.unlink()  # what a link leads to is not ours
    if not part.exists():
        return
    added = part / "old" / _ADDED
    for one in sorted(path.relative_to(added) for path in added.glob(_FOLDERS)):
        if os.path.lexists(folder / one) and not os.path.lexists(part / "new" / one):
            _take_back(part, folder, one)
    for one in sorted(path.relative_to(part / "old") for path in (part / "old").glob(_FOLDERS)):
        if os.path.lexists(folder / one):
            _take_back(part, folder, one)
        (folder / one).parent.mkdir(parents=True, exist_ok=True)
        (part / "old" / one).rename(folder / one)
    shutil.rmtree(part)


def _take_back(part: Path, folder: Path, one: Path) -> None:
    (part / "new" / one).parent.mkdir(parents=True, exist_ok=True)
    (folder / one).rename(part / "new" / one)
