"""Counting of weight and requests, refusals and bans, on a clock of its own."""

from __future__ import annotations

from etl.ranges import MINUTE, SECOND
from etl.sim.limits import Limits

NOW = 1_000 * MINUTE + 30 * SECOND


def test_a_minute_is_a_fixed_window_of_the_clock() -> None:
    limits = Limits({"futures": 10})
    assert [limits.charge("futures", 5, NOW).used for _ in range(2)] == [5, 10]
    assert limits.charge("futures", 1, NOW + 29_999).status == 429
    assert limits.charge("futures", 1, NOW + 30_000).used == 1


def test_pools_count_apart() -> None:
    limits = Limits({"futures": 10, "spot": 10}, funding=2)
    limits.charge("futures", 10, NOW)
    assert limits.charge("spot", 10, NOW).status == 200
    five = 5 * MINUTE
    start = NOW // five * five
    assert [limits.charge("funding", 1, start + at).status for at in (0, 1, 2, five)] == [200, 200, 429, 200]


def test_going_on_brings_a_ban_that_doubles() -> None:
    limits = Limits({"futures": 1}, ban_after=2)
    assert [limits.charge("futures", 1, NOW).status for _ in range(4)] == [200, 429, 429, 418]
    banned = limits.charge("futures", 1, NOW + SECOND)
    assert (banned.status, banned.banned_until) == (418, NOW + 120 * SECOND)
    later = NOW + 120 * SECOND
    assert [limits.charge("futures", 1, later).status for _ in range(4)] == [200, 429, 429, 418]
    assert limits.charge("futures", 1, later).banned_until == later + 240 * SECOND
    assert limits.counters() == {"weight_max": {"futures": 4}, "bans": 2, "banned_until": later + 240 * SECOND}


def test_a_few_refusals_each_minute_bring_no_ban() -> None:
    limits = Limits({"futures": 1}, ban_after=2)
    for minute in range(5):
        assert [limits.charge("futures", 1, NOW + minute * MINUTE).status for _ in range(3)] == [200, 429, 429]


def test_counting_without_refusing() -> None:
    limits = Limits({"futures": 1}, enforce=False)
    assert [limits.charge("futures", 7, NOW).status for _ in range(3)] == [200] * 3
    assert limits.counters()["weight_max"] == {"futures": 21}
    limits.reset()
    assert limits.charge("futures", 7, NOW).used == 7
