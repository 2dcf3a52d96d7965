"""Readers beside a writer: files are held in one version, or a query that met the replacement of one is asked again.

DuckDB 2.0 opens a file by its path several times: to plan, and to read in each thread. Over one that is replaced in between, a
matter of milliseconds, it lays the old footer, and the query fails ("don't know what type"): one in forty did beside 20
replacements a second of the one file that was read. Where the columns of both versions begin at the same bytes, it mixes them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from .. import registry
from ..errors import EtlError
from .files import check_file, looking_at

_T = TypeVar("_T")

_TIMES = 8
# Times of files come from the kernel's own clock, which may be a tick behind (s).
_TICK = 0.05


@contextmanager
def held(paths: Sequence[Path]) -> Iterator[dict[str, Path]]:
    """Names by which DuckDB opens the present versions of the files, whatever is renamed over them, with the paths meant."""
    with ExitStack() as files:
        names: dict[str, Path] = {}
        for path in paths:
            check_file(path)
            with looking_at(path):
                names[f"/proc/self/fd/{files.enter_context(path.open('rb')).fileno()}"] = path
        yield names


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


def _replaced(lake: Path, since: float) -> bool:
    """Whether a file of the lake got its name since then (s), which its folder remembers."""
    levels = [f"{name}/market=*/{'interval=*/' * kind.has_interval}symbol=*" for name, kind in registry.DATASETS.items()]
    try:
        return any(folder.stat().st_mtime >= since for level in (*levels, "symbols/*", "runs") for folder in lake.glob(level))
    except OSError:  # a folder went away while it was looked at
        return True
