"""Runs of absent bars against a walk over the grid, bar by bar."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.grid import absent
from etl.ranges import DAY, HOUR, MINUTE, TimeRange, parse_time
from etl.registry import INTERVALS


def times(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


@st.composite
def series(draw):
    """An interval, a range off its grid, and the bars that are there: in the range, around it, and off the grid."""
    interval = INTERVALS[draw(st.sampled_from(["1m", "5m", "8h", "1d", "1w", "1M"]))]
    start = draw(st.integers(parse_time("2019-12-01"), parse_time("2024-03-01")))
    span = TimeRange(start, start + draw(st.integers(0, 40 * interval.typical_step)))
    around = interval.opens(
        TimeRange(start - 40 * DAY if interval.step == 0 else start - 3 * interval.step, span.end + 3 * interval.typical_step)
    )
    here = draw(st.sets(st.sampled_from(list(around)))) if len(around) else set()
    off_grid = draw(st.sets(st.integers(span.start, span.end + 5), max_size=2))
    return interval, span, here | off_grid


@given(series())
@settings(max_examples=100)
def test_the_runs_are_those_of_a_walk_over_the_grid(case):
    interval, span, here = case
    runs: list[list[int]] = []
    for time in interval.opens(span):
        if time in here:
            continue
        after = interval.next(time)
        if runs and runs[-1][1] == time:
            runs[-1][1] = after
        else:
            runs.append([time, after])
    assert absent(interval, span, times(*sorted(here))) == [TimeRange(start, end) for start, end in runs]


def test_what_is_whole_has_no_runs():
    span = TimeRange(0, 10 * MINUTE)
    assert absent(INTERVALS["1m"], span, times(*range(0, span.end, MINUTE))) == []
    assert absent(INTERVALS["1m"], TimeRange(5, 5), times()) == []


def test_as_many_bars_as_the_grid_has_are_not_enough_if_they_are_other_bars():
    assert absent(INTERVALS["1m"], TimeRange(0, 3 * MINUTE), times(0, 1, MINUTE)) == [TimeRange(2 * MINUTE, 3 * MINUTE)]


def test_a_run_ends_at_the_next_open_also_beyond_the_range():
    assert absent(INTERVALS["1h"], TimeRange(HOUR - 1, HOUR + 1), times()) == [TimeRange(HOUR, 2 * HOUR)]
    february = TimeRange(parse_time("2024-02-01"), parse_time("2024-02-02"))
    assert absent(INTERVALS["1M"], february, times()) == [TimeRange(february.start, parse_time("2024-03-01"))]
