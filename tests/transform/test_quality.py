"""Absent bars and answers that come too early, against a look at every bar."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.model import ArchiveFile, Series
from etl.ranges import DAY, HOUR, MINUTE, TimeRange, iso, parse_time
from etl.registry import INTERVALS
from etl.schema import arrow_schema
from etl.transform.quality import absent, admissible, too_young

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


# Filling

MONTH = TimeRange(parse_time("2024-04-01"), parse_time("2024-05-01"))
HOURS = range(MONTH.start, MONTH.end, HOUR)


def hours(first: str, last: str, dataset: str = "klines") -> pa.Table:
    """A month of hours, of which those in [first, last) have content."""
    alive = [parse_time(first) <= time < parse_time(last) for time in HOURS]
    values = {name: [1] * len(HOURS) for name in arrow_schema(dataset).names}
    values |= {"open_time": list(HOURS), "high": [1.5 if one else 1.0 for one in alive]}
    if dataset == "klines":
        values["count"] = [int(one) for one in alive]
    return pa.table(values, arrow_schema(dataset))


def kept(rows: pa.Table) -> tuple[str, str, int]:
    times = rows["open_time"].cast(pa.int64()).to_pylist()
    return iso(min(times))[:13], iso(max(times))[:13], len(times)


@pytest.mark.parametrize("dataset", ["klines", "mark_klines"])
@pytest.mark.parametrize(
    ("told", "expected"),
    [
        # Nobody says anything of the contract, and the month is one of many: its quiet hours may be true.
        ({}, ("2024-04-01T00", "2024-04-30T23", 720)),
        ({"opens": True}, ("2024-04-03T05", "2024-04-30T23", 667)),
        ({"closes": True}, ("2024-04-01T00", "2024-04-28T08", 657)),
        ({"opens": True, "closes": True}, ("2024-04-03T05", "2024-04-28T08", 604)),
        # The exchange lists it: then it says since when, and until when.
        ({"opens": True, "closes": True, "listed": True}, ("2024-04-01T00", "2024-04-30T23", 720)),
        ({"listed": True, "onboard": "2024-04-03T03:00"}, ("2024-04-03T03", "2024-04-30T23", 669)),
        ({"listed": True, "onboard": "2024-04-03T07:00"}, ("2024-04-03T05", "2024-04-30T23", 667)),
        ({"listed": True, "onboard": "2024-01-03"}, ("2024-04-01T00", "2024-04-30T23", 720)),
        # What it lists is a later contract of that name.
        ({"closes": True, "listed": True, "onboard": "2024-09-01"}, ("2024-04-01T00", "2024-04-28T08", 657)),
        # Another file says so of the last two days.
        ({"filled": ["2024-04-29"]}, ("2024-04-01T00", "2024-04-28T23", 672)),
    ],
)
def test_rows_that_only_fill_a_file_outside_of_a_contract_s_life(dataset, told, expected):
    told = dict(told)
    file = ArchiveFile(MONTH, "x.zip", 1, "e", opens=told.pop("opens", False), closes=told.pop("closes", False))
    told["filled"] = [TimeRange(parse_time(time), MONTH.end) for time in told.pop("filled", [])]
    if "onboard" in told:
        told["onboard"] = parse_time(told["onboard"])
    rows, findings, _ = admissible(
        Series("um", dataset, "X", "1h"), hours("2024-04-03T05:00", "2024-04-28T09:00", dataset), file, **told
    )
    assert kept(rows) == expected
    assert sum(finding.count for finding in findings) == 720 - expected[2]


def test_a_quiet_end_of_some_hours_is_no_filling():
    file = ArchiveFile(MONTH, "x.zip", 1, "e", opens=True, closes=True)
    rows, findings, filled = admissible(series("1h"), hours("2024-04-01T07:00", "2024-04-30T17:00"), file)
    assert (len(rows), findings, filled) == (720, [], ())
    # Nor is one that ends before the file does: so nobody fills a file.
    short = hours("2024-04-01", "2024-04-20").slice(0, 29 * 24)
    assert len(admissible(series("1h"), short, file)[0]) == 29 * 24


def test_a_month_without_any_content_before_the_listing():
    file = ArchiveFile(MONTH, "x.zip", 1, "e")
    rows, *_ = admissible(series("1h"), hours("2024-05-01", "2024-05-01"), file, listed=True, onboard=MONTH.end + DAY)
    assert len(rows) == 0
