"""The clock can be real, frozen, fast, set and moved."""

from __future__ import annotations

import time

from etl.sim.clock import Clock


class Watch:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_runs_with_our_time_by_default() -> None:
    before = time.time_ns() // 1_000_000
    now = Clock().now()
    assert before - 5 <= now <= time.time_ns() // 1_000_000 + 5


def test_runs_at_its_speed_from_where_it_was_set() -> None:
    watch = Watch()
    clock = Clock(1_000, speed=60, elapsed=watch)
    watch.seconds += 2
    assert clock.now() == 1_000 + 120_000
    clock.set(5_000)
    watch.seconds += 1
    assert clock.now() == 5_000 + 60_000
    clock.advance(-5_000)
    assert clock.now() == 60_000
    clock.run(0)
    watch.seconds += 50
    assert (clock.now(), clock.speed) == (60_000, 0)


def test_stands_still_when_frozen_and_moves_by_hand() -> None:
    watch = Watch()
    clock = Clock(1_000, frozen=True, elapsed=watch)
    watch.seconds += 9
    assert clock.now() == 1_000
    clock.advance(250)
    assert clock.now() == 1_250
