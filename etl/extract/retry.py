"""Asking again what is worth asking again, and counting what it cost: for whoever talks over HTTP."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from ..errors import BadAnswer, Cancelled, EtlError, Transient

_T = TypeVar("_T")

_log = logging.getLogger("etl")


class Stop(Protocol):
    """What ends a conversation from outside; a `threading.Event` is one. Every pause is a `wait` on it."""

    def is_set(self) -> bool:
        """Whether to end."""

    def wait(self, timeout: float) -> bool:
        """Wait `timeout` seconds, or less if set; whether it is set."""


@dataclass(frozen=True, slots=True)
class Stats:
    """What a conversation has cost so far: `weight` in the market's pool, `bytes_downloaded` as they came over the wire."""

    requests: int = 0
    weight: int = 0
    bytes_downloaded: int = 0
    retries: int = 0
    waited_s: float = 0.0


@dataclass(slots=True)
class Effort:
    """Seconds that the attempts of one question have taken so far; whoever attempts adds to them."""

    spent: float = 0.0


class Persistence:
    """Repeats what fails as one of `again`, at most `attempts` times in all and for `patience` seconds of trying; thread-safe.

    Between attempts it waits with full jitter, on top of what the server asked for. Waiting for a budget is no trying.
    """

    def __init__(
        self, stop: Stop | None, attempts: int, patience: float, again: tuple[type[EtlError], ...] = (Transient,)
    ) -> None:
        self._again = again
        self._stop = stop or threading.Event()
        self._attempts = attempts
        self._patience = patience
        self._stats = Stats()
        self._counting = threading.Lock()

    def __call__(self, attempt: Callable[[Effort], _T]) -> _T:
        """What `attempt` returns in the end; the last error says how often it was tried, one of another kind passes at once."""
        effort = Effort()

        def enough(state: RetryCallState) -> bool:
            spent = effort.spent + state.idle_for + state.upcoming_sleep
            return state.attempt_number >= self._attempts or spent > self._patience

        retrying = Retrying(
            retry=retry_if_exception_type(self._again),
            wait=_back_off,
            stop=enough,
            sleep=self.pause,
            before_sleep=self._announce,
            reraise=True,
        )
        try:
            return retrying(attempt, effort)
        except self._again as error:
            tried = retrying.statistics["attempt_number"]
            if isinstance(error, Transient):
                raise Transient(f"{error} (given up after {tried} attempts; run again later)", error.retry_after) from error
            raise BadAnswer(f"{error} (given up after {tried} answers; if it stays so, report it)") from error

    def pause(self, seconds: float) -> None:
        """Waits; Cancelled if stopped meanwhile."""
        self.count(waited_s=seconds)
        self._stop.wait(seconds)
        self.go_on()

    def go_on(self) -> None:
        """Cancelled if stopped."""
        if self._stop.is_set():
            raise Cancelled("stopped; what was finished is stored")

    @property
    def stats(self) -> Stats:
        """A consistent snapshot of what was counted."""
        return self._stats

    def count(
        self, *, requests: int = 0, weight: int = 0, bytes_downloaded: int = 0, retries: int = 0, waited_s: float = 0.0
    ) -> None:
        """Adds to the stats."""
        with self._counting:
            old = self._stats
            self._stats = Stats(
                old.requests + requests,
                old.weight + weight,
                old.bytes_downloaded + bytes_downloaded,
                old.retries + retries,
                old.waited_s + waited_s,
            )

    def _announce(self, state: RetryCallState) -> None:
        self.count(retries=1)
        error = state.outcome.exception() if state.outcome else None
        level = logging.INFO if state.attempt_number < 3 else logging.WARNING
        _log.log(
            level, "attempt %d of %d: %s; again in %.1f s", state.attempt_number, self._attempts, error, state.upcoming_sleep
        )


_jitter = wait_random_exponential(multiplier=0.5, max=30)
# Who answers nonsense is not overloaded.
_soon = wait_random_exponential(multiplier=0.1, max=2)


def _back_off(state: RetryCallState) -> float:
    """Full jitter, on top of what the server asked for; where a pool is blocked, the pool does the waiting."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, BadAnswer):
        return _soon(state)
    return _jitter(state) + ((error.retry_after or 0.0) if isinstance(error, Transient) else 0.0)
