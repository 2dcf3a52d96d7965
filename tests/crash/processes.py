"""Real processes to kill: the command line (or a script) against an exchange and a lake, forked from a preloaded parent."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from etl import registry

_names = itertools.count()


class Parent:
    """Starts processes; a context manager. What still runs at its end is killed."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("parent.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._running: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self._running:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.communicate(timeout=10)

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def start(
        self, argv: Sequence[str], *, env: dict[str, str], cwd: Path, gate: Path | None = None, user: int | None = None
    ) -> Child:
        """A new process; with `gate`, a FIFO, it waits there. `user` is an id to become."""
        name = next(_names)
        out, err = cwd / f"{name}.out", cwd / f"{name}.err"
        out.touch()
        err.touch()  # a process may be killed before it opens them
        order = {"argv": list(argv), "env": env, "cwd": str(cwd), "out": str(out), "err": str(err), "user": user}
        pid = self._ask({**order, "gate": gate and str(gate)})["pid"]
        self._running.add(pid)
        return Child(self, pid, out, err)

    def poll(self, pid: int) -> int | None:
        """The exit code, negative for a signal, or None; once a process."""
        code: int | None = self._ask({"poll": pid})["exit"]
        if code is not None:
            self._running.discard(pid)
        return code


@dataclass
class Child:
    """One process."""

    parent: Parent
    pid: int
    out: Path
    err: Path
    code: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for the signal that killed it; None while it runs."""
        if self.code is None:
            self.code = self.parent.poll(self.pid)
        return self.code

    def wait(self, timeout: float = 60) -> int:
        """The exit code; the process is killed, and the test fails, if that takes too long."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"still running after {timeout} s: {self.stderr[-2000:]}")
            time.sleep(0.003)
        return code

    def alive_after(self, seconds: float) -> bool:
        """Whether it still runs after so many seconds."""
        deadline = time.monotonic() + seconds
        while self.poll() is None and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, 0.005))
        return self.poll() is None

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal; one that came too late is none."""
        if self.poll() is None:
            os.kill(self.pid, number)

    @property
    def stdout(self) -> str:
        return self.out.read_text()

    @property
    def stderr(self) -> str:
        return self.err.read_text()


@dataclass(frozen=True)
class Shell:
    """Where processes run: their folder and what they know of the exchange."""

    parent: Parent
    cwd: Path
    url: str

    @property
    def env(self) -> dict[str, str]:
        """No variable of this machine but the path; and no certificates, which take a tenth of a second to read."""
        urls = {f"ETL_{name.upper()}_URL": self.url for name in (*registry.MARKETS, "archive", "archive_index")}
        own = {"HOME": str(self.cwd), "ETL_STATE_DIR": str(self.cwd / "state"), "TMPDIR": str(self.cwd)}
        own["SSL_CERT_DIR"] = str(self.cwd / "none")
        return {"PATH": os.environ["PATH"], **own, **urls}

    def start(self, *argv: str, gate: Path | None = None, user: int | None = None) -> Child:
        """Start `etl …` or a script."""
        return self.parent.start(argv, env=self.env, cwd=self.cwd, gate=gate, user=user)

    def run(self, *argv: str, check: int | None = 0) -> Child:
        """The same, until it has ended with that exit code."""
        child = self.start(*argv)
        code = child.wait()
        assert "Traceback" not in child.stderr, child.stderr
        assert check is None or code == check, f"exit {code}: {child.stderr}"
        return child
