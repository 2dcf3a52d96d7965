"""Readers beside a writer: a query that met the replacement of a file is asked again.

DuckDB 2.0 opens a file by its path several times: to plan, and to read in each thread. Over one that is replaced in between, a
matter of milliseconds, it lays the old footer, and the query fails ("don't know what type"): one in forty did beside 20
replacements a second of the one file that was read. Where the columns of both versions begin at the same bytes, it mixes them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from .. import registry
from ..errors import EtlError, LakeError

_T = TypeVar("_T")

_TIMES = 8
# Times of files come from the kernel's own clock, which may be a tick behind (s).
_TICK = 0.05


def of_one_version(files: Callable[[], Sequence[Path]], ask: Callable[[Sequence[Path]], _T]) -> _T:
    """What `ask` gives for the files while none of them was replaced; its error, if none was."""
    for _ in range(_TIMES):
        paths = files()
        before = _versions(paths)
        try:
            answer = ask(paths)
        except EtlError:
            if _versions(paths) == before:
                raise
        else:
            if _versions(paths) == before:
                return answer
    raise LakeError(f"{paths[0].parent} is written to all the time; read it again later")


def again(lake: Path, ask: Callable[[], _T]) -> _T:
    """What `ask` gives, or its error if no file of the lake was replaced meanwhile."""
    for _ in range(_TIMES):
        began = time.time() - _TICK
        try:
            return ask()
        except EtlError:
            if not _replaced(lake, began):
                raise
    return ask()


def _versions(paths: Sequence[Path]) -> list[tuple[int, int] | None]:
    found: list[tuple[int, int] | None] = []
    for path in paths:
        try:
            stat = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((stat.st_ino, stat.st_mtime_ns))
    return found


def _replaced(lake: Path, since: float) -> bool:
    """Whether a file of the lake has its name since then (s)."""
    folders = (*registry.DATASETS, "symbols", "runs")
    try:
        return any(path.stat().st_ctime >= since for folder in folders for path in (lake / folder).rglob("*.*"))
    except OSError:  # a file went away while it was looked at
        return True
