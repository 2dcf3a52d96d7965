"""The exchange's counters: weight a minute, funding requests in five minutes, 429 and growing bans (binance-facts 4)."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

from ..ranges import MINUTE, SECOND
from ..registry import FUNDING_LIMIT, FUNDING_WINDOW

FIRST_BAN = 120 * SECOND
LONGEST_BAN = 259_200 * SECOND


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a request costs: the pool's count after it, and the refusal, if any (429, or 418 with the end of the ban)."""

    used: int
    status: int = 200
    banned_until: int = 0
    limit: int = 0
    window_end: int = 0


class Limits:
    """Counts of one client address, in fixed windows of the exchange's clock.

    A pool's count grows by every request, refused ones too; beyond its limit the answer is 429. More than `ban_after`
    refused requests in one window bring a ban of 120 s, which doubles with every further ban up to three days; while it
    lasts every request is answered 418 and counts nowhere. Thread-safe.
    """

    def __init__(
        self, weights: dict[str, int], *, funding: int = FUNDING_LIMIT, ban_after: int = 10, enforce: bool = True
    ) -> None:
        self.weights = {**weights, "funding": funding}
        self.enforce = enforce
        self._ban_after = ban_after
        self._lock = Lock()
        self.reset()

    def reset(self) -> None:
        """Forget all counts and bans."""
        with self._lock:
            self._windows: dict[str, tuple[int, int]] = {}
            self._peaks: dict[str, int] = {}
            self._strikes: tuple[int, int] = (-1, 0)
            self._banned_until = 0
            self._bans = 0

    def charge(self, pool: str, weight: int, now: int) -> Verdict:
        """Count a request of `weight` in `pool` at `now` (ms UTC)."""
        length = FUNDING_WINDOW if pool == "funding" else MINUTE
        window = now // length
        limit = self.weights[pool]
        with self._lock:
            if now < self._banned_until:
                return Verdict(0, 418, self._banned_until, limit, self._banned_until)
            last, used = self._windows.get(pool, (window, 0))
            used = (used if last == window else 0) + weight
            self._windows[pool] = (window, used)
            self._peaks[pool] = max(self._peaks.get(pool, 0), used)
            end = (window + 1) * length
            if used <= limit or not self.enforce:
                return Verdict(used, limit=limit, window_end=end)
            minute = now // MINUTE
            self._strikes = (minute, (self._strikes[1] if self._strikes[0] == minute else 0) + 1)
            if self._strikes[1] <= self._ban_after:
                return Verdict(used, 429, limit=limit, window_end=end)
            self._banned_until = now + min(FIRST_BAN * 2**self._bans, LONGEST_BAN)
            self._bans += 1
            self._strikes = (-1, 0)
            return Verdict(used, 418, self._banned_until, limit, self._banned_until)

    def counters(self) -> dict[str, object]:
        """Highest count of any window by pool, the bans so far, and until when the present one lasts (ms UTC, 0: none)."""
        with self._lock:
            return {"weight_max": dict(self._peaks), "bans": self._bans, "banned_until": self._banned_until}
