"""Budgets of the exchange's rate limits: pure, thread-safe, O(1) a request; the caller brings the time and does the waiting.

Time is the exchange's and never known exactly: a `Now` is the interval that certainly holds it. A request is counted by the
server at some unknown moment between sending and answer, so it is charged to everything that this moment may belong to; what
is charged is therefore never less than what the server counts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple

from ..errors import Refused
from ..ranges import MINUTE
from ..registry import FUNDING_LIMIT, FUNDING_WINDOW


class Now(NamedTuple):
    """The exchange's clock lies between `earliest` and `latest` (ms UTC)."""

    earliest: int
    latest: int


@dataclass(frozen=True, slots=True)
class Ticket:
    """The right to send one request of `weight`, given at `sent`; hand it to `settle` once it is answered or failed."""

    weight: int
    sent: Now


class Pool(ABC):
    """What the pools have in common: after a 429 nobody sends for a while, after a refusal nobody ever."""

    def __init__(self, limit: int, share: float) -> None:
        self._lock = Lock()
        self._share = share
        self._cap = _cap(limit, share)
        self._in_flight = 0
        self._blocked_until = 0
        self._refusal: Refused | None = None

    def reserve(self, weight: int, now: Now) -> Ticket | int:
        """A ticket for a request of `weight`, or the milliseconds to wait before asking again; Refused after `refuse`."""
        self.check()
        with self._lock:
            wait = self._blocked_until - now.earliest
            if wait > 0 or (wait := self._wait(weight, now)) > 0:
                return wait
            self._in_flight += weight
            return Ticket(weight, now)

    def settle(self, ticket: Ticket, now: Now, used: int | None = None) -> None:
        """The request of `ticket` is over at `now`; `used` is the server's count that came with the answer, if any."""
        with self._lock:
            self._in_flight -= ticket.weight
            self._charge(ticket, now)
            if used is not None and used > 0:  # some endpoints send -1 (binance-facts 4.2)
                self._synchronise(ticket, now, used)

    def block_until(self, time: int) -> None:
        """Nothing may be sent before `time` (ms UTC)."""
        with self._lock:
            self._blocked_until = max(self._blocked_until, time)

    def refuse(self, error: Refused) -> None:
        """Nothing may be sent any more: every later `reserve` raises this error."""
        with self._lock:
            self._refusal = self._refusal or error

    def check(self) -> None:
        """Raises the Refused that `refuse` was told, if any."""
        if self._refusal is not None:
            raise Refused(str(self._refusal), self._refusal.until)

    def learn(self, limit: int) -> None:
        """The exchange says that its limit is `limit`."""
        with self._lock:
            self._cap = _cap(limit, self._share)

    def _fits(self, weight: int, used: int) -> bool:
        """A request heavier than the whole budget goes alone rather than never."""
        return used + weight <= self._cap or used == 0

    @abstractmethod
    def _wait(self, weight: int, now: Now) -> int:
        """How long, in ms, a request of that weight has to wait; 0 if it may leave."""

    @abstractmethod
    def _charge(self, ticket: Ticket, now: Now) -> None:
        """Count what has left."""

    def _synchronise(self, ticket: Ticket, now: Now, used: int) -> None:  # noqa: B027 - not every pool has such counts
        """Counts of the server; a pool without them has nothing to learn."""


class WeightBudget(Pool):
    """The weight limit a minute, which starts anew with each minute of the exchange's clock (binance-facts 4.1).

    A request counts in every minute that the time from sending to answer touches; one in flight may still be counted in any
    minute from now on. What others use behind the same address is learned from `x-mbx-used-weight-1m`, for the running minute.
    """

    def __init__(self, limit: int, share: float) -> None:
        super().__init__(limit, share)
        self._charged: dict[int, int] = {}
        self._others: dict[int, int] = {}

    def _wait(self, weight: int, now: Now) -> int:
        for minute in (now.latest // MINUTE, now.earliest // MINUTE):
            own = self._charged.get(minute, 0) + self._in_flight
            if not self._fits(weight, own + (self._others.get(minute, 0) if weight <= self._cap else 0)):
                return (minute + 1) * MINUTE - now.earliest
        return 0

    def _charge(self, ticket: Ticket, now: Now) -> None:
        first = ticket.sent.earliest // MINUTE
        last = max(first, now.latest // MINUTE)  # the clock may have been set back between the two
        for minute in range(first, last + 1):
            self._charged[minute] = self._charged.get(minute, 0) + ticket.weight
        for counts in (self._charged, self._others):
            for minute in [m for m in counts if m < now.earliest // MINUTE - 1]:
                del counts[minute]

    def _synchronise(self, ticket: Ticket, now: Now, used: int) -> None:
        minute = ticket.sent.earliest // MINUTE
        if minute == now.latest // MINUTE:  # else nobody knows which minute was counted
            others = used - self._charged[minute] - self._in_flight
            self._others[minute] = max(self._others.get(minute, 0), others)


class RequestPool(Pool):
    """A number of requests in any window of time, for endpoints that send no count (fundingRate, binance-facts 4.1).

    Each request counts one, whatever its weight, from its sending until a whole window after its answer.
    """

    def __init__(self, limit: int = FUNDING_LIMIT, window_ms: int = FUNDING_WINDOW, share: float = 0.9) -> None:
        super().__init__(limit, share)
        self._window = window_ms
        self._done: deque[int] = deque()

    def reserve(self, weight: int, now: Now) -> Ticket | int:  # noqa: ARG002 - one request is one, whatever it weighs
        """As for every pool; the weight does not matter."""
        return super().reserve(1, now)

    def _wait(self, weight: int, now: Now) -> int:
        while self._done and self._done[0] + self._window < now.earliest:
            self._done.popleft()
        if self._fits(weight, len(self._done) + self._in_flight):
            return 0
        # Where everything is in flight the first to come back leaves no sooner than a window from now.
        return (self._done[0] - now.earliest if self._done else 0) + self._window + 1

    def _charge(self, ticket: Ticket, now: Now) -> None:  # noqa: ARG002 - it was in flight from its sending on
        self._done.append(max(now.latest, self._done[-1] if self._done else 0))


def _cap(limit: int, share: float) -> int:
    return max(1, int(limit * share))
