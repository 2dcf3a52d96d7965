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


# When a contract has content: from 9 days and 5 hours of the month on, until 10 days and 15 hours before its end.
LIFE = ("2024-04-10T05:00", "2024-04-20T09:00")
ALL = ("2024-04-01T00", "2024-04-30T23", 720)
LATE, EARLY = ("2024-04-10T05", "2024-04-30T23", 499), ("2024-04-01T00", "2024-04-20T08", 465)
BOTH = {"opens": True, "closes": True}


def judged(rows: pa.Table, dataset: str = "klines", *, days=(), span: TimeRange = MONTH, **told):
    """What is admissible of a file, of whose neighbours `days` are listed as files of days."""
    begun = parse_time(told.pop("begun")) if "begun" in told else None
    file = ArchiveFile(span, "x.zip", 1, "e", begun, told.pop("opens", False), told.pop("closes", False))
    told["filled"] = [TimeRange(parse_time(time), MONTH.end) for time in told.pop("filled", [])]
    if "onboard" in told:
        told |= {"onboard": parse_time(told["onboard"]), "listed": True}
    listed = [ArchiveFile(TimeRange(parse_time(day), parse_time(day) + DAY), day) for day in days]
    one = Series("um", dataset, "X", None if dataset == "funding" else "1h")
    rows, findings, _ = admissible(one, rows, file, has_days=lambda span: any(f.span.intersect(span) for f in listed), **told)
    return rows, findings


@pytest.mark.parametrize("dataset", ["klines", "mark_klines"])
@pytest.mark.parametrize(
    ("told", "expected"),
    [
        # Nobody says anything of the contract, and the month is one of many: its quiet hours may be true.
        ({}, ALL),
        ({"opens": True}, LATE),
        ({"closes": True}, EARLY),
        (BOTH, ("2024-04-10T05", "2024-04-20T08", 244)),
        # Beside a month that lacks are files of days: no contract ends or begins there.
        (BOTH | {"days": ["2024-03-25", "2024-05-07"]}, ALL),
        (BOTH | {"days": ["2024-03-24", "2024-05-08"]}, ("2024-04-10T05", "2024-04-20T08", 244)),
        # The exchange lists it: then it says since when.
        (BOTH | {"listed": True}, ALL),
        (BOTH | {"onboard": "2024-01-03"}, ALL),
        ({"onboard": "2024-04-10T03:30", "begun": "2024-04-01"}, ("2024-04-10T04", "2024-04-30T23", 500)),
        # It had content before: another contract lived, or the date is wrong.
        ({"onboard": "2024-04-10T07:00", "begun": "2024-04-01"}, ALL),
        # The archive has older files, which may be those of another contract.
        ({"onboard": "2024-04-10T03:30", "begun": "2021-01-01"}, ALL),
        ({"onboard": "2024-04-10T03:30"}, ALL),
        ({"onboard": "2024-04-10T03:30", "begun": "2021-01-01", "opens": True}, ("2024-04-10T04", "2024-04-30T23", 500)),
        ({"onboard": "2024-04-10T03:30", "begun": "2021-01-01", "opens": True, "days": ["2024-03-30"]}, ALL),
        ({"onboard": "2024-04-02", "begun": "2021-01-01", "opens": True}, ("2024-04-02T00", "2024-04-30T23", 696)),
        ({"onboard": "2024-05-02", "begun": "2021-01-01", "opens": True}, LATE),
        # What it lists is a later contract of that name.
        (BOTH | {"onboard": "2024-09-01", "begun": "2021-01-01"}, ("2024-04-10T05", "2024-04-20T08", 244)),
        # Another file says so of the last two days.
        ({"filled": ["2024-04-29"]}, ("2024-04-01T00", "2024-04-28T23", 672)),
    ],
)
def test_rows_that_only_fill_a_file_outside_of_a_contract_s_life(dataset, told, expected):
    rows, findings = judged(hours(*LIFE, dataset), dataset, **told)
    assert kept(rows) == expected
    assert sum(finding.count for finding in findings) == 720 - expected[2]


@pytest.mark.parametrize(
    "rows",
    [
        hours("2024-04-01T23:00", "2024-04-30T01:00"),  # 23 hours: nobody may have traded for so long
        hours("2024-04-01", "2024-04-20").slice(0, 29 * 24),  # ends before the file does: so nobody fills a file
        pa.concat_tables([hours(*LIFE).slice(0, 700), hours(*LIFE).slice(701)]).slice(3),  # with an hour that lacks
        hours("2024-05-01", "2024-05-01"),  # nothing in the file shows when the contract lived
    ],
    ids=["quiet", "short", "gap", "empty"],
)
def test_what_may_be_true_is_kept(rows):
    assert judged(rows, **BOTH) == (rows, [])


def test_weeks_beside_a_month_that_lacks_may_be_quiet():
    """No files of days tell whether it was a break, or a file was lost."""
    weeks = hours("2024-04-08", "2024-04-09").take(list(range(0, 720, 168)))
    file = ArchiveFile(MONTH, "x.zip", 1, "e", None, opens=True, closes=True)
    assert admissible(Series("um", "klines", "X", "1w"), weeks, file)[:2] == (weeks, [])


def test_a_rate_of_zero_may_be_true():
    """TSLAUSDT had it for whole days (binance-facts 6); only before its listing a contract certainly had none."""
    times = range(MONTH.start, MONTH.end, 8 * HOUR)
    values = {"funding_time": list(times), "funding_rate": [0.0] * 45 + [0.0001] + [0.0] * 44}
    rows = pa.table(values | dict.fromkeys(("mark_price", "rate_type"), [None] * 90), arrow_schema("funding"))
    assert judged(rows, "funding", **BOTH) == (rows, [])
    assert judged(rows, "funding", onboard="2024-04-10T07:00", begun="2021-01-01", opens=True) == (rows, [])
    rows, (finding,) = judged(rows, "funding", onboard="2024-04-10T07:00", begun="2024-04-01")
    assert (len(rows), finding.count) == (62, 28)


@pytest.mark.parametrize(("begun", "there"), [("2024-04-01", 0), ("2024-04-07", 0), ("2024-03-01", 24), ("2021-01-01", 24)])
def test_a_quiet_day_before_the_listing(begun, there):
    """Of the first contract of a ticker it is none; of an older one it may be true: the month's file would keep it, too."""
    day = TimeRange(parse_time("2024-04-08"), parse_time("2024-04-09"))
    rows = hours(*LIFE).slice(7 * 24, 24)
    assert len(judged(rows, span=day, onboard="2024-04-10T03:00", begun=begun)[0]) == there
