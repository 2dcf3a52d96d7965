"""Absent bars and answers that come too early, against a look at every bar."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.model import Series
from etl.ranges import DAY, HOUR, MINUTE, TimeRange, parse_time
from etl.registry import INTERVALS
from etl.transform.quality import absent, too_young

FUNDING = Series("um", "funding", "BTCUSDT")
START = parse_time("2024-03-01")


def series(interval: str) -> Series:
    return Series("um", "klines", "BTCUSDT", interval)


def array(values) -> np.ndarray:
    return np.array(sorted(values), dtype=np.int64)


def holds(ranges, time: int) -> bool:
    return any(one.start <= time < one.end for one in ranges)


def is_normal(ranges) -> bool:
    return all(one.start < one.end for one in ranges) and all(a.end < b.start for a, b in pairwise(ranges))


@st.composite
def answered(draw):
    """An interval, bars that are there, and ranges that were answered, which may overlap or lie off the grid."""
    name = draw(st.sampled_from(["1m", "4h", "1d", "1w", "1M"]))
    interval = INTERVALS[name]
    begin = draw(st.integers(parse_time("2020-01-01"), parse_time("2023-01-01")))
    whole = TimeRange(begin, begin + 60 * interval.typical_step)
    grid = list(interval.opens(whole))
    here = set(grid) - draw(st.sets(st.sampled_from(grid)))
    moments = st.integers(whole.start, whole.end)
    pieces = draw(st.lists(st.tuples(moments, moments), max_size=4))
    return name, grid, here, [TimeRange(min(piece), max(piece)) for piece in pieces]


@given(answered())
@settings(max_examples=100)
def test_absent_bars_are_those_that_lie_in_the_ranges_and_are_not_there(case):
    name, grid, here, spans = case
    found = absent(series(name), array(here), spans)
    assert is_normal(found)
    assert [open for open in grid if holds(found, open)] == [open for open in grid if holds(spans, open) and open not in here]
    # A run begins with the first absent bar and ends where the next bar opens.
    assert all(one.start in grid and INTERVALS[name].ceil(one.end) == one.end for one in found)


def test_settlements_have_no_grid_to_be_absent_from():
    assert absent(FUNDING, array([]), [TimeRange(START, START + DAY)]) == ()


@given(answered(), st.integers(0, 60 * 60))
@settings(max_examples=100)
def test_absent_bars_are_too_young_for_ten_minutes_after_their_close(case, position):
    name, grid, here, spans = case
    interval = INTERVALS[name]
    now = grid[0] + position * (grid[-1] - grid[0]) // 3600
    found = too_young(series(name), array(here), spans, now)
    for open in grid:
        if not holds(spans, open) or open >= now:
            continue
        close = interval.next(open) - 1
        assert holds(found, open) == (open not in here and close >= now - 10 * MINUTE)


def test_ten_minutes_to_the_millisecond():
    bar = TimeRange(START, START + MINUTE)
    closes = START + MINUTE - 1
    assert too_young(series("1m"), array([]), [bar], closes + 10 * MINUTE) == (bar,)
    assert too_young(series("1m"), array([]), [bar], closes + 10 * MINUTE + 1) == ()
    assert too_young(series("1m"), array([START]), [bar], closes + 10 * MINUTE) == ()


@pytest.mark.parametrize(
    ("here", "age", "young"),
    [
        ([], 0, True),
        ([], 30_000, True),
        ([], 10 * MINUTE - 1, True),
        ([], 10 * MINUTE, False),
        ([], 59 * MINUTE, False),
        ([0], 30_000, True),
        ([47], 30_000, True),
        ([47], 9 * MINUTE, True),
        ([47], 10 * MINUTE, False),
        ([-8 * HOUR], 30_000, True),
        ([-HOUR + 5, MINUTE], 9 * MINUTE, True),
    ],
)
def test_the_beginning_of_the_hour_may_still_bring_a_settlement(here, age, young):
    noon = parse_time("2024-03-01T12:00")
    times = array(noon + one for one in here)
    found = too_young(FUNDING, times, [TimeRange(START, noon + age)], noon + age)
    assert found == ((TimeRange(noon, noon + HOUR),) if young else ())
