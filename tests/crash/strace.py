"""Watching and disturbing the system calls of a process with strace."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from .processes import Child, Shell

# What changes a lake, or makes it readable. Names that a machine does not have are written ?name.
CALLS = {
    "openat": ("openat", "?open"),
    "write": ("write", "writev", "pwrite64"),
    "fsync": ("fsync", "fdatasync"),
    "rename": ("?rename", "?renameat", "renameat2"),
    "link": ("?link", "linkat"),
    "close": ("close",),
    "ftruncate": ("ftruncate",),
    "mkdir": ("?mkdir", "mkdirat"),
    "unlink": ("?unlink", "unlinkat"),
    "read": ("read", "pread64"),
}
_KIND = {name.lstrip("?"): kind for kind, names in CALLS.items() for name in names}
_LINE = re.compile(r"(?P<task>\d+) +(?P<rest>.*)")
_PATH = re.compile(r'"(/[^"]*)"|\d<(/[^>]*?)(?: \(deleted\))?>')
_PID = "{pid}"


@dataclass(frozen=True)
class Call:
    """One system call on the lake; paths are relative to it, with `{pid}` for the process in temporary names."""

    task: int
    kind: str
    paths: tuple[str, ...]
    text: str

    @property
    def path(self) -> str:
        """What it is about; of a rename the old name, by which strace knows it."""
        return self.paths[0]


@dataclass(frozen=True)
class Point:
    """The `when`-th call of that kind about that path, in one thread."""

    kind: str
    path: str
    when: int

    def __str__(self) -> str:
        return f"{self.kind} {self.when} of {self.path or 'the lake'}"


@dataclass
class Watched:
    """A process that ran under strace."""

    child: Child
    code: int
    trace: str
    injected: bool = field(init=False)

    def __post_init__(self) -> None:
        self.injected = self.code == -9 or "(INJECTED)" in self.trace


def need() -> None:
    """Skips, and says why, where system calls cannot be watched."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: crashes at each system call are not tested")
    trial = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, text=True, check=False)
    if trial.returncode:
        pytest.skip(f"strace may not trace here: crashes at each system call are not tested ({trial.stderr.strip()})")


def watch(shell: Shell, argv: Sequence[str], options: Iterable[str], paths: Iterable[Path | str] = ()) -> Watched:
    """Run `argv` under strace from its first step on. `{pid}` and `{out}` (stdout) in paths are filled in; no path
    means every path.
    """
    gate, trace = shell.cwd / "gate", shell.cwd / "trace"
    gate.unlink(missing_ok=True)
    os.mkfifo(gate)
    child = shell.start(*argv, gate=gate)
    names = [str(path).replace(_PID, str(child.pid)).replace("{out}", str(child.out)) for path in paths]
    only = [option for name in names for option in ("-P", name)]
    command = ["strace", "-f", "-y", "-o", str(trace), *options, *only, "-p", str(child.pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        said = strace.stderr.readline()
        gate.open("wb").close()
        code = child.wait()
        strace.communicate(timeout=20)
    if "attached" not in said:
        pytest.skip(f"strace may not attach here: crashes at each system call are not tested ({said.strip()})")
    return Watched(child, code, trace.read_text(errors="replace"))


def calls(watched: Watched, lake: Path) -> list[Call]:
    """Every call on the lake, in the order in which they began."""
    found: list[Call] = []
    pending: dict[int, int] = {}
    for line in watched.trace.splitlines():
        if (match := _LINE.match(line)) is None:
            continue
        task, rest = int(match["task"]), match["rest"]
        if rest.startswith("<..."):
            if task in pending:
                at = pending.pop(task)
                found[at] = Call(task, found[at].kind, found[at].paths, f"{found[at].text} {rest}")
            continue
        pending.pop(task, None)
        kind = _KIND.get(rest.partition("(")[0])
        paths = [Path(one or other) for one, other in _PATH.findall(rest)]
        inside = [str(path.relative_to(lake)) for path in paths if path.is_relative_to(lake)]
        if kind is None or not inside:
            continue
        if rest.endswith("<unfinished ...>"):
            pending[task] = len(found)
        own = f".tmp/{watched.child.pid}-"
        names = tuple("" if name == "." else name.replace(own, f".tmp/{_PID}-") for name in inside)
        found.append(Call(task, kind, names, rest))
    return found


def points(made: Iterable[Call]) -> list[Point]:
    """Every moment at which the calls can be disturbed."""
    seen: Counter[tuple[int, str, str]] = Counter()
    found: dict[Point, None] = {}
    for call in made:
        seen[call.task, call.kind, call.path] += 1
        found[Point(call.kind, call.path, seen[call.task, call.kind, call.path])] = None
    return list(found)


def survey(shell: Shell, argv: Sequence[str], lake: Path) -> list[Call]:
    """The calls on the lake of a run that nobody disturbs."""
    watched = watch(shell, argv, ["-e", "trace=" + ",".join(name for names in CALLS.values() for name in names)])
    assert watched.code == 0, watched.child.stderr
    return calls(watched, lake)


def disturb(shell: Shell, argv: Sequence[str], lake: Path, point: Point, injection: str) -> Watched:
    """Run with an injection (`signal=SIGKILL`, `error=ENOSPC`) at that point."""
    names = ",".join(CALLS[point.kind])
    return watch(
        shell, argv, ["-e", f"trace={names}", "-e", f"inject={names}:{injection}:when={point.when}"], [lake / point.path]
    )
