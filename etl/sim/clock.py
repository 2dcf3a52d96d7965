"""The exchange's clock: real, set to any time, frozen, or faster than ours; it can be moved while the server runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock


def wall_ms() -> int:
    """The time of this machine in milliseconds UTC."""
    return time.time_ns() // 1_000_000


class Clock:
    """A clock in milliseconds UTC that starts at `start_ms` (None: now) and runs `speed` times as fast as ours."""

    def __init__(
        self,
        start_ms: int | None = None,
        *,
        frozen: bool = False,
        speed: float = 1.0,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        self._elapsed = elapsed
        self._lock = Lock()
        # One tuple, so that a reader needs no lock: (time of the exchange, our reading then, speed).
        self._mark = (wall_ms() if start_ms is None else start_ms, elapsed(), 0.0 if frozen else speed)

    def now(self) -> int:
        """The exchange's time in milliseconds UTC."""
        base, reading, speed = self._mark
        return base + int((self._elapsed() - reading) * 1000 * speed)

    def set(self, time_ms: int) -> None:
        """Make it `time_ms` now; the speed stays."""
        with self._lock:
            self._mark = (time_ms, self._elapsed(), self._mark[2])

    def advance(self, ms: int) -> None:
        """Move the clock by `ms`, backwards if negative."""
        with self._lock:
            self._mark = (self.now() + ms, self._elapsed(), self._mark[2])

    def run(self, speed: float) -> None:
        """Go on from now at `speed`; 0 freezes."""
        with self._lock:
            self._mark = (self.now(), self._elapsed(), speed)

    @property
    def speed(self) -> float:
        """How many times as fast as ours; 0 when frozen."""
        return self._mark[2]
