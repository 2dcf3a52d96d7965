"""Crashes and failures at any moment of a program that fills a lake, and what may be found wrong afterwards."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from . import strace
from .processes import Child, Shell

KILL, FULL, BROKEN = "signal=SIGKILL", "error=ENOSPC", "error=EIO"


def digests(lake: Path) -> dict[str, str]:
    """SHA-256 of every Parquet file in place, by its relative path."""
    return {
        str(path.relative_to(lake)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(lake.rglob("*.parquet"))
        if path.is_file() and not {".tmp", "quarantine"} & {*path.relative_to(lake).parts}
    }


@dataclass(frozen=True)
class Program:
    """A program that fills `lake`, from what lies in `before` to what lies in `after`, which an undisturbed run has made.

    `unfit` says what is wrong with a finished lake besides its Parquet files. What `derived` names in the lake may have states
    between old and new while the program runs.
    """

    shell: Shell
    argv: tuple[str, ...]
    lake: Path
    before: Path
    after: Path
    unfit: Callable[[Path], list[str]] = lambda _: []
    derived: str = "symbols"

    def reset(self) -> None:
        """The lake as it was before."""
        shutil.rmtree(self.lake, ignore_errors=True)
        if self.before.exists():
            shutil.copytree(self.before, self.lake)

    def run(self) -> Child:
        """An undisturbed run."""
        child = self.shell.start(*self.argv)
        child.wait()
        return child

    def torn(self) -> list[str]:
        """Which files are neither old nor new, or gone."""
        old, new, now = digests(self.before), digests(self.after), digests(self.lake)
        complaints = [f"{path} is lost" for path in old if path not in now]
        return complaints + [
            f"{path} is torn"
            for path, digest in now.items()
            if digest not in (old.get(path), new.get(path)) and not path.startswith(self.derived)
        ]

    def unfinished(self) -> list[str]:
        """What differs from the lake of an undisturbed run."""
        new, now = digests(self.after), digests(self.lake)
        differing = [
            f"{path} differs from that of a smooth run" for path in sorted({*new, *now}) if new.get(path) != now.get(path)
        ]
        left = [f"{path} was left over" for path in (self.lake / ".tmp").glob("*")]
        return differing + left + self.unfit(self.lake)


def assault(program: Program, points: Iterable[strace.Point], injection: str) -> tuple[int, list[str]]:
    """Disturb the program at each of these moments: how many were met, and what was wrong then or after the next run."""
    met, wrong = 0, []
    for point in points:
        program.reset()
        watched = strace.disturb(program.shell, program.argv, program.lake, point, injection)
        met += watched.injected
        found = program.torn() + _judge(program, watched, injection)
        again = program.run()
        if again.code:
            found.append(f"the next run failed: {again.stderr.strip()}")
        found += program.unfinished()
        wrong += [f"{injection} at {point}: {complaint}" for complaint in found]
    return met, wrong


def _judge(program: Program, watched: strace.Watched, injection: str) -> list[str]:
    """What a process did wrong that met a failing disk."""
    if injection == KILL:
        return []
    said = watched.child.stderr.strip()
    if watched.code == 0:
        return [f"exit 0, although {complaint}" for complaint in program.unfinished() if "left over" not in complaint]
    found = [] if watched.code in (1, 3) else [f"exit {watched.code}"]
    if "Traceback" in said or "this is a bug" in said:
        found.append(f"no clear message: {said}")
    if str(program.lake) not in said:
        found.append(f"no path in the message: {said}")
    return found


def unsynced(calls: Sequence[strace.Call]) -> list[str]:
    """Which writes would not survive a power cut: only a file that is synced, renamed, and whose folder is synced, does."""
    wrong = []
    for call in calls:
        writes = call.kind == "openat" and ("O_WRONLY" in call.text or "O_RDWR" in call.text)
        if writes and not call.path.startswith((".tmp/", ".lock")):
            wrong.append(f"{call.path} is written in place")
    for task in {call.task for call in calls}:
        mine = [call for call in calls if call.task == task]
        for index, call in enumerate(mine):
            made = call.kind == "mkdir" and call.text.endswith("= 0") and call.path not in ("", ".tmp")
            if call.kind != "rename" and not made:
                continue
            new = call.paths[-1]
            after = [one.path for one in _until_rename(mine[index + 1 :]) if one.kind == "fsync"]
            if _folder(new) not in after:
                wrong.append(f"the folder of {new} is not synced after its {call.kind}")
            if call.kind == "rename":
                touched = [one.kind for one in mine[:index] if one.path == call.path and one.kind in ("write", "fsync")]
                if touched[-1:] != ["fsync"]:
                    wrong.append(f"{new} is renamed before it is synced")
    return wrong


def _until_rename(calls: Sequence[strace.Call]) -> Iterable[strace.Call]:
    for call in calls:
        if call.kind == "rename":
            return
        yield call


def _folder(path: str) -> str:
    return "" if "/" not in path else path.rpartition("/")[0]


def unreadable(lake: Path) -> list[str]:
    """What is wrong with the catalog, the views and the records of runs."""
    for path in lake.glob("runs/*.jsonl"):
        for line in path.read_text().splitlines():
            json.loads(line)
    with duckdb.connect() as plain:
        stored = {
            dataset: plain.execute("SELECT count(*) FROM read_parquet(?)", [f"{lake}/{dataset}/**/*.parquet"]).fetchone()
            for dataset in ("klines", "funding")
            if any(lake.glob(f"{dataset}/**/*.parquet"))
        }
    with duckdb.connect(str(lake / "catalog.duckdb"), read_only=True) as catalog:
        shown = {dataset: catalog.execute(f"SELECT count(*) FROM {dataset}").fetchone() for dataset in stored}
    return [] if shown == stored else [f"the catalog shows {shown}, stored are {stored}"]
