"""The conversation with one market: keeps every request inside the limits, repeats what is worth repeating, obeys refusals,
and knows the exchange's time.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Literal, Self, TypeVar

from ..errors import BadAnswer, EtlError, NotServed, Refused, Rejected, Transient, UsageError
from ..model import ExchangeInfo, Market
from ..ranges import MAX_TIME, MINUTE, SECOND, from_datetime, iso
from ..text import masked
from . import wire
from .http import Answer, Http, Params
from .limits import Blocked, Now, Pool, RequestPool, Ticket, WeightBudget
from .retry import Effort, Persistence, Stats, Stop

_T = TypeVar("_T")

_log = logging.getLogger("etl")


class Conversation:
    """Asks one market, from any number of threads at once; close it, or use it as a context manager.

    Conversations that share a pool of the exchange (um and cm) are given the same `budget`; those of several processes budgets
    and funding pools that lie in the same files (`shared.SharedPools`). What is `Transient` or a `BadAnswer` is asked again, at
    most `attempts` times in all and for `patience` seconds of trying; waiting for the budget does not count. Time comes from
    `clock` (monotonic seconds), every pause goes through `stop`.
    """

    def __init__(
        self,
        market: Market,
        base_url: str,
        *,
        share: float = 0.9,
        stop: Stop | None = None,
        http: Http | None = None,
        budget: WeightBudget | None = None,
        funding: RequestPool | None = None,
        attempts: int = 6,
        patience: float = 120.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise UsageError(f"the address '{masked(base_url)}' of market {market.name} must begin with https:// or http://")
        self.market = market
        self._base_url = base_url.rstrip("/")
        self._persist = Persistence(stop, attempts, patience, (Transient, BadAnswer))
        self._http = http or Http()
        self._owns_http = http is None
        self._pools: dict[str, Pool] = {
            "weight": budget or WeightBudget(market.weight_limit, share),
            "funding": funding or RequestPool(share=share),
        }
        self._clock = clock
        self._sample: _Sample | None = None
        self._guess: _Sample | None = None
        self._sampling = threading.Lock()

    @property
    def refusal(self) -> Refused | None:
        """Why the exchange refuses this host, if it does."""
        return next((pool.refusal for pool in self._pools.values() if pool.refusal), None)

    # ---- questions

    def get(
        self,
        path: str,
        params: Params | None = None,
        *,
        weight: int,
        pool: Literal["weight", "funding"] = "weight",
        decode: Callable[[bytes], _T],
    ) -> _T:
        """GET `path` below the base URL, paid with `weight` from `pool`, as `decode` reads the body.

        Raises Transient and BadAnswer (the answer is wrong) after the last attempt, Rejected (our request is wrong), Refused
        (this host is refused; from then on at once and without asking) and Cancelled (`stop` was set); messages name the URL.
        """
        self._keep_time()

        def attempt(effort: Effort) -> _T:
            return self._read(self._ask(path, params, weight, pool, effort).answer, pool, decode)

        return self._persist(attempt)

    def now(self) -> int:
        """The exchange's clock in ms UTC: what it has surely reached; the local clock plays no part."""
        self._keep_time()
        return self._time().earliest

    def exchange_info(self) -> ExchangeInfo:
        """The rules of all symbols; the budget learns the exchange's weight limit from them."""
        path, weight = f"{self.market.prefix}/exchangeInfo", self.market.exchange_info_weight
        info = self.get(path, weight=weight, decode=wire.exchange_info)
        if info.weight_limit is not None and info.weight_limit > 0:
            self._pools["weight"].learn(info.weight_limit)
        return info

    def funding_steps(self) -> dict[str, int]:
        """How far apart settlements are now, in ms by symbol; nothing of other symbols, and of markets that do not tell."""
        path = self.market.funding_info
        return self.get(path, weight=0, pool="funding", decode=wire.funding_steps) if path else {}

    @property
    def stats(self) -> Stats:
        """A consistent snapshot."""
        return self._persist.stats

    def close(self) -> None:
        """Closes the connections, unless they were passed in."""
        if self._owns_http:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # ---- one attempt

    def _ask(self, path: str, params: Params | None, weight: int, pool: str, effort: Effort) -> _Reply:
        limits = self._pools[pool]
        # Without a clock there is no budget: see _ask_time.
        ticket = self._admit(limits, weight) if self._sample or self._guess else None
        self._persist.count(requests=1, weight=weight if pool == "weight" else 0)
        sent = received = self._clock()
        used = None
        try:
            answer = self._http.get(self._base_url + path, params)
            used = used_weight(answer.headers)
        finally:
            received = self._clock()
            effort.spent += received - sent
            if ticket:
                limits.settle(ticket, self._instant(), used)
        self._persist.count(bytes_downloaded=answer.downloaded)
        return _Reply(answer, sent, received)

    def _admit(self, limits: Pool, weight: int) -> Ticket:
        while True:
            self._persist.go_on()
            answer = limits.reserve(weight, self._instant())
            if isinstance(answer, Ticket):
                return answer
            if why := limits.told(answer):
                _log.info("%s waits %.0f s before %s is asked on: %s", self.market.name, answer / SECOND, self._base_url, why)
            cause = "because of a 429" if isinstance(answer, Blocked) else "for its budget"
            _log.debug("%s waits %.1f s %s", self.market.name, answer / SECOND, cause)
            self._persist.pause(answer / SECOND)

    def _read(self, answer: Answer, pool: str, decode: Callable[[bytes], _T]) -> _T:
        match judge(answer, self._time().latest if self._sample else None):
            case Throttled() as error if now := self._moment(answer):
                until = now.latest + math.ceil(error.wait * SECOND)
                self._pools[pool].block_until(until, now)
                _log.warning("%s; nobody asks again before %s", error, iso(until))
                raise error
            case Throttled() as error:  # there is no clock yet by which the pool could be blocked
                raise Transient(str(error), error.wait)
            case Refused() as error:
                for each in self._pools.values():  # 451 is about the place, not about what we sent: no pause mends it
                    each.refuse(error, self._moment(answer), outlives=answer.status != 451)
                raise error
            case EtlError() as error:
                raise error
            case None:
                pass
        try:
            return decode(answer.body)
        except Transient as wrong:
            raise Transient(f"GET {answer.url}: {wrong}", wrong.retry_after) from wrong
        except BadAnswer as wrong:
            raise BadAnswer(f"GET {answer.url}: {wrong}") from wrong

    # ---- time

    def _keep_time(self) -> None:
        """Asks the exchange for the time, at first and now and then."""
        if self._sample is None:
            with self._sampling:
                if self._sample is None:
                    budget = self._pools["weight"]
                    budget.check()
                    self._guess = _guess(budget.recall(), self._clock())
                    first = self._persist(self._ask_time)
                    # The first request also pays for DNS, TCP and TLS; where that took long, a second tells the time better.
                    self._sample = min(first, self._persist(self._ask_time), key=_width) if _width(first) > 0.1 else first
        elif self._clock() - self._sample.received > _SAMPLE_AGE and self._sampling.acquire(blocking=False):
            try:  # whoever comes meanwhile goes by the old sample, and so do all while there is no new one
                with suppress(Transient):
                    self._sample = self._ask_time(Effort())
            finally:
                self._sampling.release()

    def _ask_time(self, effort: Effort) -> _Sample:
        budget = self._pools["weight"]
        budget.check()
        reply = self._ask(f"{self.market.prefix}/time", None, 1, "weight", effort)
        sample = _Sample(self._read(reply.answer, "weight", wire.server_time), reply.sent, reply.received)
        if self._sample is None:  # asked without a ticket, or with one for the minute that was guessed: pay now
            now = _slack(sample.now(reply.received))
            ticket = budget.reserve(1, now)
            if isinstance(ticket, Ticket):
                budget.settle(ticket, now, used_weight(reply.answer.headers))
        return sample

    def _time(self) -> Now:
        known = self._sample or self._guess
        if known is None:
            raise RuntimeError("the time was never asked for")
        return known.now(self._clock())

    def _moment(self, answer: Answer) -> Now | None:
        """The exchange's clock at an answer; the answer's own Date header stands above a guess. None while nobody knows."""
        if self._sample is None and self._guess is not None:
            date = http_date(answer.headers.get("date"))
            self._guess = self._guess if date is None else _guess(Now(date, date + SECOND), self._clock())
        return self._instant() if self._sample or self._guess else None

    def _instant(self) -> Now:
        return _slack(self._time())


# ---- pure parts

# Drift of a clock that nobody disciplines, in seconds a second, and how long a sample of the exchange's clock is good for.
_DRIFT = 1e-4
_SAMPLE_AGE = 600.0
# The servers that count need not have quite the clock of the one that told the time (ms).
_SLACK = 20
# A ban lasts three days at most (binance-facts 4.3).
_LONGEST_WAIT = 3 * 86_400.0
# Codes by which the exchange says that it is its own fault, whatever the status (binance-facts 4.4).
_THEIR_FAULT = {-1001, -1006, -1007, -1008}
# Bars of a contract that is over (binance-facts 4.4).
_NOT_SERVED = -1122
_TOO_MANY = -1003


@dataclass(frozen=True, slots=True)
class _Reply:
    answer: Answer
    sent: float
    received: float


@dataclass(frozen=True, slots=True)
class _Sample:
    """The exchange's clock was at `time` ms UTC at some moment between `sent` and `received` of ours."""

    time: int
    sent: float
    received: float

    def now(self, at: float) -> Now:
        drift = _DRIFT * (at - self.received)
        return Now(
            self.time + math.floor((at - self.received - drift) * SECOND),
            self.time + math.ceil((at - self.sent + drift) * SECOND) + 1,
        )


def _guess(now: Now | None, at: float) -> _Sample | None:
    """What somebody else knows of the exchange's clock, as if it had been asked for when ours showed `at`."""
    return None if now is None else _Sample(now.earliest, at - (now.latest - now.earliest) / SECOND, at)


def _width(sample: _Sample) -> float:
    return sample.received - sample.sent


def _slack(now: Now) -> Now:
    return Now(now.earliest - _SLACK, now.latest + _SLACK)


class Throttled(Transient):
    """429: nobody may send for `wait` seconds. `retry_after` stays None, because the pool is blocked and does the waiting."""

    def __init__(self, message: str, wait: float = 60.0) -> None:
        super().__init__(message)
        self.wait = wait


def judge(answer: Answer, now: int | None) -> EtlError | None:
    """What the status of an answer means (binance-facts 4.3): None for a body worth reading, else the error to raise.

    `now` is the exchange's clock in ms UTC, None while it is unknown; then the answer's own Date header stands in.
    """
    status = answer.status
    if 200 <= status < 300:
        return None
    head = f"GET {answer.url}: HTTP {status}"
    if 300 <= status < 400:
        target = answer.headers.get("location")
        return BadAnswer(f"{head} redirects to {target!r}, which is not followed; check the base URL")
    said = wire.error_body(answer.body)
    message = f"{head}: {wire.excerpt(answer.body)}" if said.msg is None else f"{head}: {said.msg!r} (code {said.code!r})"
    now = now if now is not None else http_date(answer.headers.get("date"))
    wait = retry_after(answer.headers, now)
    if refused := _refused(
        status, message, said.msg or "", None if now is None or wait is None else now + round(wait * SECOND)
    ):
        return refused
    if status == 429 or said.code == _TOO_MANY:
        if wait is None:
            wait = (MINUTE - now % MINUTE) / SECOND if now is not None else MINUTE / SECOND
        return Throttled(f"{message}; the rate limit is used up", wait)
    if status == 408 or status >= 500 or said.code in _THEIR_FAULT:
        return Transient(message, wait)
    over = said.code == _NOT_SERVED
    return NotServed(f"{message}; the archive may have it", status, said.code) if over else Rejected(message, status, said.code)


def _refused(status: int, message: str, said: str, until: int | None) -> Refused | None:
    """The refusals of 418, 403 and 451, with what to do; a ban's own end stands above `until`, which Retry-After says."""
    if banned := re.search(r"banned until ([0-9]{13})(?![0-9])", said):
        until = int(banned[1])
    instead = ""
    if status == 418 or banned:
        end = f"until {iso(until)}" if until else "for an unknown time (2 minutes at first, 3 days at most)"
        advice = f"this address is banned {end}: stop every client and wait, each further call prolongs it"
    elif status == 403:
        advice = (
            "the exchange's firewall refuses this host: stop, wait some minutes, check the address (VPN, proxy, shared cloud)"
        )
    elif status == 451:
        advice = "the exchange does not serve this location"
        instead = "take history with --source archive, or run where Binance is served"
    else:
        return None
    return Refused(f"{message}; {advice}", until, instead)


def used_weight(headers: Mapping[str, str]) -> int | None:
    """The server's count of the running minute; None where it is absent or junk such as -1 (binance-facts 4.2)."""
    text = headers.get("x-mbx-used-weight-1m", "").strip()
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else None


def retry_after(headers: Mapping[str, str], now: int | None) -> float | None:
    """Seconds that Retry-After asks for; a date counts from the answer's own Date header, or else `now`. None if absent."""
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", text):
        return min(float(text), _LONGEST_WAIT)
    until, since = http_date(text), http_date(headers.get("date")) or now
    if until is None or since is None:
        return None
    return min(max(0.0, (until - since) / SECOND), _LONGEST_WAIT)


def http_date(text: str | None) -> int | None:
    """A date header as ms UTC, early enough to add a wait; None where it is absent or no date of four-digit years."""
    try:
        date = from_datetime(parsedate_to_datetime(text)) if text else None
    except (ValueError, TypeError, OverflowError):
        return None
    return None if date is None or not 0 <= date <= MAX_TIME else min(date, MAX_TIME - int(_LONGEST_WAIT) * SECOND)
