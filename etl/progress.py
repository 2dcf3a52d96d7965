"""What a run says while it works: a bar for a person at a terminal, or a line now and then for a log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Display

from .model import Job
from .pipeline import Progress

log = logging.getLogger("etl")

LINE_EVERY_S = 15.0

Weight = Callable[[], int]


class Bar(Progress):
    """A bar with rows a second, weight and the time that is left, on stderr."""

    def __init__(self) -> None:
        self._weight: Weight = lambda: 0
        self._rows = 0
        self._started = time.monotonic()
        self._display = Display(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]} rows/s, weight {task.fields[weight]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )

    def start(self, jobs: Sequence[Job], weight: Weight) -> None:
        self._weight, self._rows = weight, 0
        self._task = self._display.add_task("rows", total=sum(job.rows for job in jobs), rate="-", weight="-")
        if jobs:
            self._display.start()

    def page(self, rows: int) -> None:
        self._rows += rows
        rate = self._rows / max(time.monotonic() - self._started, 0.001)
        self._display.update(self._task, completed=self._rows, rate=f"{rate:,.0f}", weight=f"{self._weight():,}")

    def finish(self) -> None:
        self._display.stop()


class Lines(Progress):
    """A log line every 15 seconds."""

    def __init__(self) -> None:
        self._weight: Weight = lambda: 0
        self._total = self._rows = 0
        self._started = self._said = time.monotonic()

    def start(self, jobs: Sequence[Job], weight: Weight) -> None:
        self._weight = weight
        self._total += sum(job.rows for job in jobs)

    def page(self, rows: int) -> None:
        self._rows += rows
        now = time.monotonic()
        if now - self._said < LINE_EVERY_S:
            return
        self._said = now
        rate = self._rows / (now - self._started)
        left = (self._total - self._rows) / rate if rate else 0
        log.info(
            "%s of %s rows, %s rows/s, weight %s, about %.0f s left",
            f"{self._rows:,}",
            f"{self._total:,}",
            f"{rate:,.0f}",
            f"{self._weight():,}",
            left,
        )
