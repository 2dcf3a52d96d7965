"""The budgets against a simulated server whose clock the client knows only within bounds, with many requests in flight."""

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field
from inspect import signature

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from etl.errors import Refused, UsageError
from etl.extract.http import Http
from etl.extract.limits import LONGEST_FLIGHT, Ban, Now, Own, Pool, RequestPool, Ticket, WeightBudget, banned

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
START = 1_700_000_040_000 // MINUTE * MINUTE


@dataclass
class World:
    """Workers that ask without pause, in virtual time; the server counts each request at some moment of its flight.

    Each pool is a process: it knows the time in its own way and has its share of the workers, who end with it if it `dies`.
    """

    pool: Pool
    weights: list[int]
    workers: int
    latency: int
    uncertainty: int
    seed: int
    others: int = 0
    """Weight that somebody else uses, all of it in the first second of each minute."""
    counted: list[tuple[int, int]] = field(default_factory=list)
    more: tuple[Pool, ...] = ()
    dies: int | None = None
    """When the last of the pools is killed, whatever it has in flight."""

    def run(self, begin: int, end: int) -> None:
        rng = random.Random(self.seed)
        pools = (self.pool, *self.more)
        errors = [rng.randint(-self.uncertainty, self.uncertainty) for _ in pools]

        def now(time: int, process: int) -> Now:
            return Now(time + errors[process] - self.uncertainty, time + errors[process] + self.uncertainty)

        per_minute: Counter[int] = Counter()
        events: list[tuple[int, int, str, tuple]] = []

        def at(time: int, kind: str, *what: object) -> None:
            heapq.heappush(events, (time, len(self.counted) + rng.getrandbits(40), kind, what))

        for worker in range(self.workers):
            at(begin + rng.randint(0, 50), "ask", worker)
        while events and events[0][0] < end:
            time, _, kind, (worker, *what) = heapq.heappop(events)
            process = worker % len(pools)
            if kind != "count" and self.dies is not None and process == len(pools) - 1 and time >= self.dies:
                continue
            if kind == "ask":
                ticket = pools[process].reserve(rng.choice(self.weights), now(time, process))
                if isinstance(ticket, Ticket):
                    flight = rng.randint(1, self.latency)
                    at(time + rng.randint(0, flight), "count", worker, ticket, time + flight)
                else:
                    assert ticket > 0
                    at(time + ticket, "ask", worker)
            elif kind == "count":
                ticket, back = what
                per_minute[time // MINUTE] += ticket.weight
                self.counted.append((time, ticket.weight))
                used = per_minute[time // MINUTE] + self.others
                at(back, "answer", worker, ticket, used if rng.random() < 0.9 else rng.choice([None, -1]))
            else:
                ticket, used = what
                pools[process].settle(ticket, now(time, process), used)
                at(time, "ask", worker)

    def by_minute(self) -> Counter[int]:
        used: Counter[int] = Counter()
        for time, weight in self.counted:
            used[time // MINUTE] += weight
        return used


worlds = {
    "workers": st.integers(1, 40),
    "latency": st.integers(1, 4_000),
    "uncertainty": st.integers(0, 1_500),
    "phase": st.integers(0, MINUTE - 1),
    "seed": st.integers(0, 2**32),
}


@settings(max_examples=25)
@given(
    **worlds,
    limit=st.integers(20, 2400),
    share=st.sampled_from([0.25, 0.9, 1.0]),
    weights=st.sampled_from([[1], [2], [10], [1, 2, 5, 10]]),
)
def test_no_minute_of_the_server_ever_holds_more_than_the_share(
    workers, latency, uncertainty, phase, seed, limit, share, weights
):
    assume(limit * share >= max(weights))  # else it is refused, as below
    world = World(WeightBudget(limit, share), weights, workers, latency, uncertainty, seed)
    world.run(START + phase, START + phase + 3 * MINUTE)
    assert max(world.by_minute().values()) <= limit * share


@settings(max_examples=10)
@given(workers=st.integers(8, 40), latency=st.integers(1, 200), uncertainty=st.integers(0, 300), seed=st.integers(0, 2**32))
def test_under_demand_nearly_all_of_the_share_is_used(workers, latency, uncertainty, seed):
    world = World(WeightBudget(2400, 0.9), [2, 10], workers, latency, uncertainty, seed)
    world.run(START + 30_000, START + 5 * MINUTE)
    used = world.by_minute()
    for minute in range(START // MINUTE + 1, START // MINUTE + 5):
        assert 0.97 * 2160 <= used[minute] <= 2160


@settings(max_examples=10)
@given(others=st.integers(0, 2000), workers=st.integers(1, 8), seed=st.integers(0, 2**32))
def test_what_others_use_is_left_to_them(others, workers, seed):
    world = World(WeightBudget(2400, 0.9), [2], workers, 100, 50, seed, others=others)
    world.run(START, START + 3 * MINUTE)
    # Only the requests that were in flight at once can be too many: their counts come back together.
    for used in world.by_minute().values():
        assert used + others <= max(2160, others) + 4 * workers


@settings(max_examples=15)
@given(**worlds, limit=st.integers(2, 60))
def test_no_window_of_requests_ever_holds_more_than_the_share(workers, latency, uncertainty, phase, seed, limit):
    pool = RequestPool(limit, 30_000, 0.9)
    world = World(pool, [1], workers, latency, uncertainty, seed)
    world.run(START + phase, START + phase + 200_000)
    times = sorted(time for time, _ in world.counted)
    cap = max(1, int(limit * 0.9))
    assert all(later - time > 30_000 for time, later in zip(times, times[cap:], strict=False))


def test_under_demand_nearly_all_requests_of_a_window_are_used():
    world = World(RequestPool(500, 300_000, 0.9), [1], 8, 200, 50, seed=1)
    world.run(START, START + 1_500_000)
    assert len(world.counted) >= 0.97 * 5 * 450


def exactly(time: int) -> Now:
    return Now(time, time)


def test_the_weight_of_a_full_minute_is_free_again_in_the_next():
    budget = WeightBudget(100, 0.5)
    tickets = [budget.reserve(10, exactly(START + 1_000)) for _ in range(5)]
    for ticket in tickets:
        budget.settle(ticket, exactly(START + 2_000))
    assert budget.reserve(1, exactly(START + 15_000)) == 45_000
    assert budget.reserve(1, Now(START + 14_990, START + 15_010)) == 45_010
    assert isinstance(budget.reserve(50, exactly(START + MINUTE)), Ticket)


def test_a_request_in_flight_counts_in_every_minute_that_it_touches():
    budget = WeightBudget(100, 1.0)
    early = budget.reserve(60, exactly(START + 59_000))
    assert budget.reserve(60, exactly(START + MINUTE + 1)) == MINUTE - 1
    budget.settle(early, exactly(START + MINUTE + 500))
    assert budget.reserve(60, exactly(START + MINUTE + 1_000)) == MINUTE - 1_000
    assert isinstance(budget.reserve(40, exactly(START + MINUTE + 1_000)), Ticket)


def test_where_the_minute_is_uncertain_both_must_have_room():
    budget = WeightBudget(100, 1.0)
    budget.settle(budget.reserve(100, exactly(START + 1_000)), exactly(START + 1_100))
    assert budget.reserve(1, Now(START + 59_990, START + MINUTE + 10)) == 10
    budget.settle(budget.reserve(100, exactly(START + MINUTE)), exactly(START + MINUTE + 5))
    assert budget.reserve(1, Now(START + 59_995, START + MINUTE + 10)) == MINUTE + 5


def test_the_servers_count_reveals_what_others_use():
    budget = WeightBudget(100, 1.0)
    budget.settle(budget.reserve(10, exactly(START)), exactly(START + 50), used=70)
    assert isinstance(budget.reserve(30, exactly(START + 100)), Ticket)
    assert budget.reserve(1, exactly(START + 100)) == MINUTE - 100
    assert isinstance(budget.reserve(100, exactly(START + 2 * MINUTE)), int), "the ticket of 30 is still in flight"
    assert isinstance(budget.reserve(70, exactly(START + 2 * MINUTE)), Ticket), "the new minute starts without the old count"


def test_an_answer_across_the_minute_does_not_poison_the_new_one():
    budget = WeightBudget(100, 1.0)
    budget.settle(budget.reserve(1, exactly(START + 59_990)), exactly(START + MINUTE + 10), used=99)
    assert isinstance(budget.reserve(99, exactly(START + MINUTE + 20)), Ticket)


@pytest.mark.parametrize("junk", [None, -1, 0])
def test_a_count_that_is_none_changes_nothing(junk):
    budget = WeightBudget(100, 1.0)
    budget.settle(budget.reserve(10, exactly(START)), exactly(START + 50), used=junk)
    assert isinstance(budget.reserve(90, exactly(START + 100)), Ticket)


def test_a_request_heavier_than_the_limit_goes_alone_rather_than_never():
    """Only the exchange can say that it is too heavy: what it announces may be wrong, or not be about this request."""
    budget = WeightBudget(20, 0.5)
    heavy = budget.reserve(21, exactly(START))
    assert isinstance(heavy, Ticket)
    assert budget.reserve(1, exactly(START + 1)) == MINUTE - 1
    budget.settle(heavy, exactly(START + 2))
    assert budget.reserve(21, exactly(START + 3)) == MINUTE - 3


@pytest.mark.parametrize(
    ("limit", "share", "weight", "least"),
    [(20, 0.5, 20, 1.0), (2400, 0.0005, 2, 0.0009), (6000, 0.001, 20, 0.0034), (100, 0.1, 29, 0.2901)],  # 0.29 x 100 is 28.99…
)
def test_a_share_that_can_never_pay_is_refused_with_the_least_that_can(limit, share, weight, least):
    budget = WeightBudget(1, share)
    budget.learn(limit)
    for ask in (lambda: budget.require(weight), lambda: budget.reserve(weight, exactly(START))):
        with pytest.raises(UsageError, match="ETL_WEIGHT_SHARE") as told:
            ask()
        for part in (f"is {share:g}", f"{limit:,} weight", f"weighs {weight}", f"to {least:g} at least"):
            assert part in str(told.value)
    assert isinstance(budget.reserve(1, exactly(START)), Ticket), "what was refused is not charged"
    enough = WeightBudget(limit, least)
    enough.require(weight)
    assert isinstance(enough.reserve(weight, exactly(START)), Ticket)


def test_settlements_are_paid_by_any_share():
    pool = RequestPool(500, 300_000, 0.001)
    pool.require(1)
    assert isinstance(pool.reserve(1, exactly(START)), Ticket)


def test_a_learned_limit_counts_at_once():
    budget = WeightBudget(2400, 0.5)
    budget.learn(20)
    assert isinstance(budget.reserve(10, exactly(START)), Ticket)
    assert budget.reserve(1, exactly(START)) == MINUTE


@pytest.mark.parametrize("pool", [WeightBudget(100, 1.0), RequestPool(100, 1_000)])
def test_a_block_holds_for_everybody_and_is_never_shortened(pool):
    pool.block_until(START + 5_000)
    pool.block_until(START + 3_000)
    assert pool.reserve(1, Now(START - 20, START + 20)) == 5_020
    assert isinstance(pool.reserve(1, exactly(START + 5_000)), Ticket)


@pytest.mark.parametrize("pool", [WeightBudget(100, 1.0), RequestPool(100, 1_000)])
def test_after_a_refusal_nobody_sends_any_more(pool):
    pool.check()
    pool.refuse(Refused("banned", START))
    pool.refuse(Refused("another"))
    for again in (pool.check, lambda: pool.reserve(1, exactly(START))):
        with pytest.raises(Refused, match="banned") as caught:
            again()
        assert caught.value.until == START


def test_a_clock_that_is_set_back_still_charges():
    budget = WeightBudget(100, 1.0)
    budget.settle(budget.reserve(60, exactly(START)), exactly(START - MINUTE))
    assert isinstance(budget.reserve(60, exactly(START)), int)


# ---- several processes, one state


@settings(max_examples=25)
@given(
    **worlds,
    processes=st.integers(2, 5),
    killed=st.integers(0, 2 * MINUTE),
    limit=st.integers(20, 2400),
    weights=st.sampled_from([[1], [2], [1, 2, 5, 10]]),
)
def test_processes_together_never_exceed_the_share_even_if_one_is_killed(
    workers, latency, uncertainty, phase, seed, processes, killed, limit, weights
):
    shelf = Own()
    first, *more = (WeightBudget(limit, 0.9, shelf) for _ in range(processes))
    begin = START + phase
    world = World(first, weights, workers, latency, uncertainty, seed, more=tuple(more), dies=begin + killed)
    world.run(begin, begin + 3 * MINUTE)
    assert max(world.by_minute().values()) <= max(int(limit * 0.9), *weights)


@settings(max_examples=15)
@given(**worlds, processes=st.integers(2, 4), killed=st.integers(0, 100_000), limit=st.integers(2, 60))
def test_processes_together_never_send_more_requests_than_a_window_may_hold(
    workers, latency, uncertainty, phase, seed, processes, killed, limit
):
    shelf = Own()
    first, *more = (RequestPool(limit, 30_000, 0.9, shelf) for _ in range(processes))
    begin = START + phase
    world = World(first, [1], workers, latency, uncertainty, seed, more=tuple(more), dies=begin + killed)
    world.run(begin, begin + 200_000)
    times = sorted(time for time, _ in world.counted)
    cap = max(1, int(limit * 0.9))
    assert all(later - time > 30_000 for time, later in zip(times, times[cap:], strict=False))


def test_what_a_killed_process_had_in_flight_is_free_again_when_it_can_no_longer_count():
    shelf = Own()
    budgets = [WeightBudget(2400, 0.9, shelf) for _ in range(4)]
    killed = START + 30_500
    world = World(budgets[0], [2, 10], 32, 400, 50, seed=3, more=tuple(budgets[1:]), dies=killed)
    world.run(START + 30_000, START + 8 * MINUTE)
    used = world.by_minute()
    over = (killed + 400 + LONGEST_FLIGHT) // MINUTE + 1
    for minute in range(over, START // MINUTE + 8):
        assert 0.97 * 2160 <= used[minute] <= 2160, "together they use all of the share, as one process does"
    with shelf.open(None) as state:
        assert len(state.flights) <= 3


def test_no_request_is_in_flight_for_longer_than_budgets_think():
    assert signature(Http).parameters["deadline"].default * 1000 < LONGEST_FLIGHT


def test_the_weight_of_the_other_processes_is_not_that_of_others():
    shelf = Own()
    one, two = WeightBudget(100, 1.0, shelf), WeightBudget(100, 1.0, shelf)
    two.settle(two.reserve(40, exactly(START)), exactly(START + 10), used=40)
    flying = two.reserve(20, exactly(START + 20))
    one.settle(one.reserve(10, exactly(START + 20)), exactly(START + 50), used=70)
    assert isinstance(one.reserve(30, exactly(START + 60)), Ticket), "40 + 20 + 10 are ours, 30 are left"
    assert one.reserve(1, exactly(START + 60)) == MINUTE - 60
    two.settle(flying, exactly(START + 70), used=75)
    with shelf.open(None) as state:
        assert state.others[START // MINUTE] == 0, "75 are less than what is charged and in flight"


def test_a_limit_that_one_process_learns_holds_for_all():
    shelf = Own()
    one, two = WeightBudget(2400, 0.5, shelf), WeightBudget(2400, 0.5, shelf)
    one.learn(20)
    assert isinstance(two.reserve(10, exactly(START)), Ticket)
    assert two.reserve(1, exactly(START)) == MINUTE


@pytest.mark.parametrize(
    "make", [lambda shelf: WeightBudget(100, 1.0, shelf), lambda shelf: RequestPool(100, 1_000, 1.0, shelf)]
)
def test_a_block_and_a_ban_hold_in_every_process_until_they_are_over(make):
    shelf = Own()
    one, two = make(shelf), make(shelf)
    one.block_until(START + 5_000, exactly(START))
    assert two.reserve(1, exactly(START + 1_000)) == 4_000
    one.refuse(Refused("HTTP 418", START + HOUR), exactly(START))
    with pytest.raises(Refused, match=r"2023-11-14T23:14:00Z.*HTTP 418.*this process") as caught:
        two.reserve(1, exactly(START + HOUR - 1))
    assert caught.value.until == START + HOUR
    assert isinstance(two.reserve(1, exactly(START + HOUR)), Ticket)
    with pytest.raises(Refused, match=r"^HTTP 418$"):
        one.reserve(1, exactly(START + HOUR))


def test_a_refusal_that_is_about_the_place_ends_with_its_process():
    shelf = Own()
    WeightBudget(100, 1.0, shelf).refuse(Refused("HTTP 451"), exactly(START), outlives=False)
    assert isinstance(WeightBudget(100, 1.0, shelf).reserve(1, exactly(START)), Ticket)


def test_what_another_clock_left_behind_holds_nobody_up():
    """An embedded exchange of 2039 was at the same port before."""
    later, shelf = 2_200_000_000_000, Own()
    foreign = WeightBudget(100, 1.0, shelf)
    foreign.reserve(100, exactly(later))
    foreign.block_until(later + 30_000, exactly(later))
    foreign.refuse(Refused("banned"), exactly(later))
    budget = WeightBudget(100, 1.0, shelf)
    assert isinstance(budget.reserve(100, exactly(START)), Ticket)
    budget.block_until(START + 7_000, exactly(START))
    assert budget.reserve(1, exactly(START)) == 7_000
    requests = RequestPool(2, 1_000, 1.0, shelf := Own())
    requests.settle(requests.reserve(1, exactly(later)), exactly(later))
    assert [isinstance(requests.reserve(1, exactly(START)), Ticket) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(
    ("before", "until", "expected"),
    [
        (None, START + HOUR, HOUR),
        (None, START + 30 * DAY, 3 * DAY),
        (None, None, 2 * MINUTE),
        (None, START - 1, 2 * MINUTE),
        (Ban(START - HOUR, 2 * MINUTE, ""), None, 4 * MINUTE),
        (Ban(START - HOUR, 2 * DAY, ""), None, 3 * DAY),
        (Ban(START - DAY, 8 * MINUTE, ""), None, 2 * MINUTE),
        (Ban(START - HOUR, 8 * MINUTE, ""), START + 5_000, 5_000),
        # The other threads of the process that was told:
        (Ban(START + 9_000, 10_000, ""), None, 9_000),
        (Ban(START + 9_000, 10_000, ""), START + 8_000, 9_000),
        (Ban(START + 9_000, 10_000, ""), START + 12_000, 12_000),
        # What another clock left:
        (Ban(START + 30 * DAY, MINUTE, ""), None, 2 * MINUTE),
    ],
)
def test_how_long_a_ban_lasts(before, until, expected):
    assert banned(before, Refused("told", until), exactly(START)).until == START + expected


def test_a_wait_is_never_longer_than_the_longest_ban():
    budget = WeightBudget(100, 1.0)
    budget.block_until(START + 400 * DAY, exactly(START))
    assert budget.reserve(1, exactly(START)) == 3 * DAY
