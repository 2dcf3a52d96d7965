"""Budgets of the exchange's rate limits: what they decide is pure, the caller brings the time and does the waiting.

Time is the exchange's and never known exactly: a `Now` is the interval that certainly holds it. A request is counted by the
server at some unknown moment between sending and answer, so it is charged to everything that this moment may belong to; what
is charged is therefore never less than what the server counts.

All that is counted lies in one `State`, which a `Shelf` hands out exclusively: `Own` keeps it in this process, and
`shared.SharedFile` in a file, where all processes of this host count together.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from dataclasses import dataclass
from threading import Lock
from typing import Annotated, NamedTuple, Protocol

import msgspec

from ..errors import Refused, UsageError
from ..ranges import DAY, MINUTE, SECOND, iso
from ..registry import FUNDING_LIMIT, FUNDING_WINDOW

# No request is under way for longer: `http` gives up after a minute. What was in flight when its process died, or when its
# machine slept, counts for so long; then it has been counted, or never will be.
LONGEST_FLIGHT = 2 * MINUTE
# A ban lasts two minutes at first, doubles with each that follows, and is three days at most (binance-facts 4.3).
FIRST_BAN = 2 * MINUTE
LONGEST_BAN = 3 * DAY
# A shorter wait for a budget is part of its pace, and not worth a line (ms).
LONG_WAIT = 5 * SECOND
# So many minutes are kept, those that were charged last: a flight touches four at most, and clocks differ by less than one.
_MINUTES = 6


class Now(NamedTuple):
    """The exchange's clock lies between `earliest` and `latest` (ms UTC)."""

    earliest: int
    latest: int


class Blocked(int):
    """Milliseconds to wait because a 429 said so; every other wait is for the budget."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """The right to send one request of `weight`, given at `sent`; hand it to `settle` once it is answered or failed."""

    weight: int
    sent: Now


# ---- what is counted

Weight = Annotated[int, msgspec.Meta(ge=0)]


class Flights(msgspec.Struct, frozen=True, array_like=True):
    """What one pool has under way: its weight, and when the last of it is answered or given up at the latest (ms UTC)."""

    weight: Weight
    over: int


class Ban(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nobody may send before `until` (ms UTC, the exchange's clock), `length` ms after `message` was told."""

    until: int
    length: Weight
    message: str


class State(msgspec.Struct, forbid_unknown_fields=True):
    """Everything that all who draw on one pool must agree on. Times are the exchange's, in ms UTC; minutes count from 1970."""

    limit: Weight = 0
    """What the exchange says that its limit is; 0 until it says so."""
    charged: dict[int, Weight] = {}
    """Weight by minute, as we count it."""
    others: dict[int, Weight] = {}
    """Weight by minute that the server counted and we did not."""
    answered: list[int] = []
    """When the requests of the window were answered, ascending."""
    flights: dict[int, Flights] = {}
    """What is under way, by pools: each process has one of its own, with a number that it drew."""
    blocked_until: int = 0
    ban: Ban | None = None


class Shelf(Protocol):
    """Where a State lies: SEAM between the budgets and what keeps their counts."""

    @property
    def name(self) -> str:
        """Where that is, for people."""

    def open(self, now: Now | None) -> AbstractContextManager[State]:
        """The state, exclusively, to be changed in place; `now` is the exchange's clock, if known. An exception changes nothing
        on a shelf that outlives the process.
        """

    def recall(self) -> Now | None:
        """Where the exchange's clock should be by what the shelf remembers; None if it cannot have heard of it."""


class Own:
    """A state of this process alone."""

    name = "this process"

    def __init__(self) -> None:
        self._lock = Lock()
        self._state = State()

    @contextmanager
    def open(self, now: Now | None) -> Iterator[State]:  # noqa: ARG002 - nobody asks this shelf for the time
        """The state, for one thread at a time."""
        with self._lock:
            yield self._state

    def recall(self) -> None:
        """Nothing: whoever has this state knows the time as well."""


# ---- pools


class Pool(ABC):
    """What the pools have in common: after a 429 nobody sends for a while, after a refusal nobody of this process ever."""

    def __init__(self, limit: int, share: float, shelf: Shelf | None = None) -> None:
        self._limit = limit
        self._share = share
        self._shelf = shelf or Own()
        self._number = secrets.randbits(48)
        self.refusal: Refused | None = None  # what `refuse` was told
        self._untold = Lock()

    def reserve(self, weight: int, now: Now) -> Ticket | int:
        """A ticket for a request of `weight`, or the milliseconds to wait before asking again, which are `Blocked` after a 429;
        Refused after `refuse`, and as long as a ban lasts that any process was told of; UsageError as `require`.
        """
        self._obey_own()
        with self._shelf.open(now) as state:
            self._obey(state, now)
            self._require(state, weight)
            if ahead(state.blocked_until, now):
                return Blocked(state.blocked_until - now.earliest)
            self._land(state, now)
            if (wait := self._wait(state, weight, now)) > 0:
                return wait
            self._fly(state, weight, now)
            return Ticket(weight, now)

    def settle(self, ticket: Ticket, now: Now, used: int | None = None) -> None:
        """The request of `ticket` is over at `now`; `used` is the server's count that came with the answer, if any."""
        with self._shelf.open(now) as state:
            self._fly(state, -ticket.weight, now)
            self._charge(state, ticket, now)
            if used is not None and used > 0:  # some endpoints send -1 (binance-facts 4.2)
                self._land(state, now)
                self._synchronise(state, ticket, now, used)

    def block_until(self, time: int, now: Now | None = None) -> None:
        """Nothing may be sent before `time` (ms UTC)."""
        with self._shelf.open(now) as state:
            if now is not None:
                time = min(time, now.earliest + LONGEST_BAN)
            if now is None or ahead(state.blocked_until, now):
                time = max(time, state.blocked_until)
            state.blocked_until = time

    def refuse(self, error: Refused, now: Now | None = None, *, outlives: bool = True) -> None:
        """Nothing may be sent any more: every later `reserve` of this process raises this error. If it `outlives` the process,
        no process sends until the error's own end; where it names none, for two minutes, and twice as long as the last time if
        that is less than a day ago.
        """
        self.refusal = self.refusal or error
        now = now or self._shelf.recall()
        if outlives and now is not None:
            with self._shelf.open(now) as state:
                state.ban = banned(state.ban, error, now)

    def check(self) -> None:
        """Raises the Refused that `refuse` was told, here or in another process whose ban is not over."""
        self._obey_own()
        if (now := self._shelf.recall()) is not None:
            with self._shelf.open(None) as state:
                self._obey(state, now)

    def recall(self) -> Now | None:
        """Where the exchange's clock should be, for a process that has not asked yet: good enough for one request."""
        return self._shelf.recall()

    def learn(self, limit: int) -> None:
        """The exchange says that its limit is `limit`."""
        with self._shelf.open(None) as state:
            self._limit = state.limit = limit

    def require(self, weight: int) -> None:
        """UsageError if the share can never pay a request of `weight`, though the exchange's limit could."""
        with self._shelf.open(None) as state:
            self._require(state, weight)

    def told(self, wait: int) -> str | None:
        """What to say of a wait that `reserve` asked for: once, and of a long one for the budget only; None otherwise."""
        if isinstance(wait, Blocked) or wait <= LONG_WAIT or not self._untold.acquire(blocking=False):  # nobody gives it back
            return None
        with self._shelf.open(None) as state:
            cap, limit = self._cap(state), state.limit or self._limit
        share = f"ETL_WEIGHT_SHARE is {self._share:g}"
        used = "they are used up for now, by this process and all others that share the limit"
        return f"{cap:,} of {limit:,} {self._unit} may be used ({share}), and {used}"

    def _require(self, state: State, weight: int) -> None:
        cap, limit = self._cap(state), state.limit or self._limit
        if cap < weight <= limit:
            raise UsageError(
                f"ETL_WEIGHT_SHARE is {self._share:g}, which leaves {cap:,} of the exchange's {limit:,} {self._unit}, and one "
                f"request that is needed weighs {weight}: set it to {least_share(weight, limit):g} at least"
            )

    def _obey_own(self) -> None:
        if self.refusal is not None:
            raise copy(self.refusal)

    def _obey(self, state: State, now: Now) -> None:
        if state.ban is not None and ahead(state.ban.until, now):
            raise Refused(
                f"nothing is sent before {iso(state.ban.until)}, as a process of this host was told: {state.ban.message}; kept "
                f"in {self._shelf.name}, which may be removed if the host has another address by now",
                state.ban.until,
            )

    def _fly(self, state: State, weight: int, now: Now) -> None:
        """So much more of this pool is under way; what a process has said when it dies holds until its flights have landed."""
        before = state.flights.pop(self._number, Flights(0, 0))
        if before.weight + weight > 0:
            over = now.latest + LONGEST_FLIGHT if weight > 0 else before.over
            state.flights[self._number] = Flights(before.weight + weight, max(before.over, over))

    def _land(self, state: State, now: Now) -> None:
        """Drop the flights that cannot matter any more, and those of another clock."""
        since, until = self._since(now), now.latest + 2 * LONGEST_FLIGHT
        for number in [number for number, flights in state.flights.items() if not since <= flights.over <= until]:
            del state.flights[number]

    def _fits(self, state: State, weight: int, used: int) -> bool:
        """A request heavier than the exchange's whole limit goes alone rather than never; see `_require` for the share."""
        return used + weight <= self._cap(state) or used == 0

    def _cap(self, state: State) -> int:
        return max(1, int((state.limit or self._limit) * self._share))

    @property
    @abstractmethod
    def _unit(self) -> str:
        """What the limit counts."""

    @abstractmethod
    def _since(self, now: Now) -> int:
        """What was over before this time does not count any more."""

    @abstractmethod
    def _wait(self, state: State, weight: int, now: Now) -> int:
        """How long, in ms, a request of that weight has to wait; 0 if it may leave."""

    @abstractmethod
    def _charge(self, state: State, ticket: Ticket, now: Now) -> None:
        """Count what has left."""

    def _synchronise(self, state: State, ticket: Ticket, now: Now, used: int) -> None:  # noqa: B027 - not every pool has counts
        """Counts of the server; a pool without them has nothing to learn."""


class WeightBudget(Pool):
    """The weight limit a minute, which starts anew with each minute of the exchange's clock (binance-facts 4.1).

    A request counts in every minute that the time from sending to answer touches; one in flight may still be counted in any
    minute from now on. What others use behind the same address is learned from `x-mbx-used-weight-1m`, for the running minute:
    others are all whose weight is not in the same state.
    """

    _unit = "weight a minute"

    def _since(self, now: Now) -> int:
        return now.earliest - now.earliest % MINUTE

    def _wait(self, state: State, weight: int, now: Now) -> int:
        in_flight = _in_flight(state)
        for minute in (now.latest // MINUTE, now.earliest // MINUTE):
            own = state.charged.get(minute, 0) + in_flight
            if not self._fits(state, weight, own + (state.others.get(minute, 0) if weight <= self._cap(state) else 0)):
                return (minute + 1) * MINUTE - now.earliest
        return 0

    def _charge(self, state: State, ticket: Ticket, now: Now) -> None:
        first = ticket.sent.earliest // MINUTE
        last = max(first, now.latest // MINUTE)  # the clock may have been set back between the two
        for minute in range(max(first, last - _MINUTES + 1), last + 1):
            _put(state.charged, minute, state.charged.get(minute, 0) + ticket.weight)

    def _synchronise(self, state: State, ticket: Ticket, now: Now, used: int) -> None:
        minute = ticket.sent.earliest // MINUTE
        if minute == now.latest // MINUTE:  # else nobody knows which minute was counted
            others = used - state.charged[minute] - _in_flight(state)
            _put(state.others, minute, max(state.others.get(minute, 0), others))


class RequestPool(Pool):
    """A number of requests in any window of time, for endpoints that send no count (fundingRate, binance-facts 4.1).

    Each request counts one, whatever its weight, from its sending until a whole window after its answer.
    """

    def __init__(
        self,
        limit: int = FUNDING_LIMIT,
        window_ms: int = FUNDING_WINDOW,
        share: float = 0.9,
        shelf: Shelf | None = None,
    ) -> None:
        super().__init__(limit, share, shelf)
        self._window = window_ms

    @property
    def _unit(self) -> str:
        return f"requests in {self._window // SECOND} s"

    def reserve(self, weight: int, now: Now) -> Ticket | int:  # noqa: ARG002 - one request is one, whatever it weighs
        """As for every pool; the weight does not matter."""
        return super().reserve(1, now)

    def _since(self, now: Now) -> int:
        return now.earliest - self._window

    def _wait(self, state: State, weight: int, now: Now) -> int:
        answered = state.answered
        del answered[bisect_right(answered, now.latest + self._window) :]  # of another clock
        del answered[: bisect_left(answered, self._since(now))]
        if self._fits(state, weight, len(answered) + _in_flight(state)):
            return 0
        # Where everything is in flight the first to come back leaves no sooner than a window from now.
        return (answered[0] - now.earliest if answered else 0) + self._window + 1

    def _charge(self, state: State, ticket: Ticket, now: Now) -> None:  # noqa: ARG002 - it was in flight from its sending on
        insort(state.answered, now.latest)


# ---- pure parts


def ahead(time: int, now: Now) -> bool:
    """Whether `time` is still to come, and near enough to have been meant by this clock: no wait is longer than three days."""
    return 0 < time - now.earliest <= LONGEST_BAN


def least_share(weight: int, limit: int) -> float:
    """The smallest share with four decimals that pays a request of `weight`, which the limit can pay."""
    parts = -(-weight * 10_000 // limit)
    return (parts if int(limit * (parts / 10_000)) >= weight else parts + 1) / 10_000


def banned(before: Ban | None, error: Refused, now: Now) -> Ban:
    """The ban that `error`, told at `now`, means after the last one; sixteen threads that are told at once mean one."""
    pending = before is not None and ahead(before.until, now)
    if error.until is not None and error.until > now.earliest:
        until = min(error.until, now.earliest + LONGEST_BAN)
    elif before is None or not 0 <= now.earliest - before.until < DAY:
        until = now.latest + FIRST_BAN  # not of the earliest, which may be a second before: so long at least
    else:
        until = now.latest + min(2 * before.length, LONGEST_BAN)
    if before is not None and pending and (error.until is None or before.until >= until):
        return before
    return Ban(until, max(0, until - now.latest), str(error)[:500])


def _in_flight(state: State) -> int:
    return sum(flights.weight for flights in state.flights.values())


def _put(counts: dict[int, int], minute: int, count: int) -> None:
    """Set the count of a minute, and forget what was set longest ago."""
    counts.pop(minute, None)
    counts[minute] = max(0, count)
    while len(counts) > _MINUTES:
        del counts[next(iter(counts))]
