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
    """Put back what was moved to `old`, in the place of what is new there, then remove the rest."""
    if part.is_symlink() or part.is_file():
        part.unlink()  # what a link leads to is not ours
    if not part.exists():
        return
    for old in sorted((part / "old").glob(_FOLDERS)):
        target, new = (below / old.relative_to(part / "old") for below in (folder, part / "new"))
        if os.path.lexists(target):
            new.parent.mkdir(parents=True, exist_ok=True)
            target.rename(new)
        target.parent.mkdir(parents=True, exist_ok=True)
        old.rename(target)
    shutil.rmtree(part)
