"""Range algebra against sets of integers, grids against the calendar, and times against datetime."""

import calendar
from datetime import UTC, date, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.errors import UsageError
from etl.ranges import (
    DAY,
    HOUR,
    MAX_TIME,
    MINUTE,
    Interval,
    TimeRange,
    from_datetime,
    intersection,
    iso,
    months,
    parse_duration,
    parse_time,
    subtract,
    to_datetime,
    union,
    years,
)
from etl.registry import INTERVALS

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MS = timedelta(milliseconds=1)


def ms(*when: int) -> int:
    return (datetime(*when, tzinfo=UTC) - EPOCH) // MS


small = st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda pair: TimeRange(min(pair), max(pair)))
several = st.lists(small, max_size=6)
any_time = st.integers(0, MAX_TIME)


def times(ranges) -> set[int]:
    return {time for one in ranges for time in range(one.start, one.end)}


def is_normal(ranges) -> bool:
    """Sorted, not empty, and with a hole between any two."""
    return all(one.start < one.end for one in ranges) and all(a.end < b.start for a, b in pairwise(ranges))


class TestAlgebra:
    @given(several)
    def test_union_holds_the_same_times(self, ranges):
        assert times(union(ranges)) == times(ranges)
        assert is_normal(union(ranges))

    @given(several, several)
    def test_subtract_is_set_difference(self, wanted, covered):
        left = subtract(wanted, covered)
        assert times(left) == times(wanted) - times(covered)
        assert is_normal(left)

    @given(several, several)
    def test_intersection_is_set_intersection(self, first, second):
        common = intersection(first, second)
        assert times(common) == times(first) & times(second)
        assert is_normal(common)

    @given(small, small)
    def test_intersect_is_set_intersection(self, one, other):
        assert times([one.intersect(other)]) == times([one]) & times([other])

    @given(small, st.integers(-5, 45))
    def test_a_range_holds_its_start_and_not_its_end(self, one, time):
        assert (time in one) == (time in times([one]))
        assert bool(one) == bool(times([one]))

    def test_an_empty_intersection_stays_where_the_first_range_begins(self):
        assert TimeRange(10, 20).intersect(TimeRange(30, 40)) == TimeRange(10, 10)

    def test_a_range_cannot_end_before_it_starts(self):
        with pytest.raises(ValueError, match=r"1970-01-01T00:00:00.002Z > 1970-01-01T00:00:00.001Z"):
            TimeRange(2, 1)

    def test_text(self):
        assert str(TimeRange(0, ms(2024, 2, 29))) == "1970-01-01T00:00:00Z..2024-02-29T00:00:00Z"


# What an open looks like on the calendar, by name: the candidates' distance in ms and the rule they must meet.
MINUTES = {f"{n}m": (MINUTE, lambda t, n=n: t.minute % n == 0) for n in (1, 3, 5, 15, 30)}
HOURS = {f"{n}h": (HOUR, lambda t, n=n: t.hour % n == 0) for n in (1, 2, 4, 6, 8, 12)}
DAYS = {"1d": (DAY, lambda t: True), "1w": (DAY, lambda t: t.weekday() == calendar.MONDAY), "1M": (DAY, lambda t: t.day == 1)}
CALENDAR = MINUTES | HOURS | DAYS

intervals = st.sampled_from(sorted(CALENDAR))
near = st.integers(ms(2017, 1, 1), ms(2032, 1, 1))


def brute_opens(name: str, start: int, end: int) -> list[int]:
    """Every open in [start, end), found by looking at each candidate."""
    unit, rule = CALENDAR[name]
    return [time for time in range(-(-start // unit) * unit, end, unit) if rule(EPOCH + time * MS)]


def longest(name: str) -> int:
    """A bar and the candidates around it, in ms."""
    return {"1w": 8 * DAY, "1M": 32 * DAY, "1d": 2 * DAY}.get(name, DAY)


class TestIntervals:
    def test_every_interval_is_tested(self):
        assert list(CALENDAR) == list(INTERVALS)

    @given(intervals, near, st.integers(0, 150))
    def test_opens_are_those_of_the_calendar(self, name, start, candidates):
        end = start + candidates * CALENDAR[name][0]
        expected = brute_opens(name, start, end)
        interval = INTERVALS[name]
        assert list(interval.opens(TimeRange(start, end))) == expected
        assert interval.count(TimeRange(start, end)) == len(expected)

    @given(intervals, near)
    def test_floor_next_and_ceil_are_the_neighbours_on_the_grid(self, name, time):
        interval, span = INTERVALS[name], longest(name)
        assert interval.floor(time) == brute_opens(name, time - span, time + 1)[-1]
        assert interval.ceil(time) == brute_opens(name, time, time + span)[0]
        assert interval.next(time) == brute_opens(name, time + 1, time + 1 + span)[0]

    @given(intervals, near)
    def test_an_open_is_its_own_floor_and_ceil(self, name, time):
        interval = INTERVALS[name]
        start = interval.floor(time)
        assert interval.floor(start) == interval.ceil(start) == start
        assert interval.floor(interval.next(start) - 1) == start

    @given(near)
    def test_months_are_as_long_as_the_calendar_says(self, time):
        start = INTERVALS["1M"].floor(time)
        first = EPOCH + start * MS
        assert INTERVALS["1M"].next(start) - start == calendar.monthrange(first.year, first.month)[1] * DAY

    @pytest.mark.parametrize(
        ("name", "start", "close"),
        [  # binance-facts 2.2, 2.3 and 3: bars that the exchange sent, with their close where it is known
            ("1m", 1_789_478_160_000, 1_789_478_219_999),
            ("1m", 1_567_965_420_000, None),
            ("1w", 1_782_691_200_000, None),
            ("1w", 1_783_296_000_000, None),
            ("1w", 1_499_040_000_000, 1_499_644_799_999),
            ("1M", 1_735_689_600_000, 1_738_367_999_999),
        ],
    )
    def test_bars_of_the_exchange_lie_on_the_grid(self, name, start, close):
        assert INTERVALS[name].floor(start) == start
        if close is not None:
            assert INTERVALS[name].next(start) - 1 == close

    def test_weeks_open_on_monday_and_months_on_the_first(self):
        sunday_night = ms(2024, 3, 31, 23, 59)
        assert iso(INTERVALS["1w"].floor(sunday_night)) == "2024-03-25T00:00:00Z"
        assert iso(INTERVALS["1w"].next(sunday_night)) == "2024-04-01T00:00:00Z"
        assert iso(INTERVALS["1M"].floor(ms(2024, 2, 29, 12))) == "2024-02-01T00:00:00Z"
        assert iso(INTERVALS["1M"].next(ms(2024, 12, 31))) == "2025-01-01T00:00:00Z"

    @pytest.mark.parametrize("name", CALENDAR)
    def test_the_last_bar_of_time_ends_after_it(self, name):
        assert INTERVALS[name].next(MAX_TIME) > MAX_TIME

    def test_names_in_paths_differ_also_where_case_does_not_count(self):
        assert INTERVALS["1M"].path_name == "1mo"
        assert len({interval.path_name.lower() for interval in INTERVALS.values()}) == len(INTERVALS)
        assert all(interval.path_name == name for name, interval in INTERVALS.items() if name != "1M")

    def test_typical_steps(self):
        assert INTERVALS["15m"].typical_step == 900_000
        assert INTERVALS["1M"].typical_step == 31 * 86_400_000

    def test_an_offset_shifts_the_grid(self):
        three_days = Interval("3d", 3 * DAY, DAY)  # from 1970-01-02 (binance-facts 3)
        for start in (1_783_900_800_000, 1_783_900_800_000 - 3 * DAY):
            assert three_days.floor(start + 1) == start


spans = st.tuples(near, st.integers(0, 1500)).map(lambda pair: TimeRange(pair[0], pair[0] + pair[1] * (DAY - 7)))


def days_of(span: TimeRange) -> list[date]:
    if not span:
        return []
    first, last = ((EPOCH + time * MS).date() for time in (span.start, span.end - 1))
    return [first + timedelta(n) for n in range((last - first).days + 1)]


class TestPeriods:
    @given(spans)
    def test_years_are_the_calendars_and_leave_no_hole(self, span):
        periods = list(years(span))
        assert [name for name, _ in periods] == sorted({f"{day:%Y}" for day in days_of(span)})
        assert all(one == TimeRange(ms(int(name), 1, 1), ms(int(name) + 1, 1, 1)) for name, one in periods)
        assert not subtract([span], [one for _, one in periods])

    @given(spans)
    def test_months_are_the_calendars_and_leave_no_hole(self, span):
        periods = list(months(span))
        assert [name for name, _ in periods] == sorted({f"{day:%Y-%m}" for day in days_of(span)})
        for name, one in periods:
            year, month = map(int, name.split("-"))
            assert one == TimeRange(ms(year, month, 1), ms(year, month, 1) + calendar.monthrange(year, month)[1] * DAY)
        assert not subtract([span], [one for _, one in periods])

    def test_a_range_that_ends_at_new_year_does_not_touch_the_new_year(self):
        assert [name for name, _ in years(TimeRange(ms(2023, 12, 31), ms(2024, 1, 1)))] == ["2023"]
        assert [name for name, _ in months(TimeRange(ms(2023, 12, 31), ms(2024, 1, 1) + 1))] == ["2023-12", "2024-01"]

    def test_the_last_year_that_a_datetime_knows(self):
        end_of_time = TimeRange(MAX_TIME, MAX_TIME + 1)
        assert list(years(end_of_time)) == [("9999", TimeRange(ms(9999, 1, 1), MAX_TIME + 1))]
        assert list(months(end_of_time)) == [("9999-12", TimeRange(ms(9999, 12, 1), MAX_TIME + 1))]


class TestTimes:
    @given(any_time)
    def test_datetime_and_back(self, time):
        assert to_datetime(time) == EPOCH + time * MS
        assert from_datetime(to_datetime(time)) == time

    @given(any_time)
    def test_iso_is_what_the_standard_library_reads(self, time):
        assert datetime.fromisoformat(iso(time)) == EPOCH + time * MS
        assert parse_time(iso(time)) == time

    @pytest.mark.parametrize(
        ("time", "text"),
        [
            (0, "1970-01-01T00:00:00Z"),
            (1, "1970-01-01T00:00:00.001Z"),
            (1_753_692_520_860, "2025-07-28T08:48:40.860Z"),
            (MAX_TIME, "9999-12-31T23:59:59.999Z"),
        ],
    )
    def test_iso(self, time, text):
        assert iso(time) == text

    @given(st.integers(DAY, MAX_TIME - DAY), st.integers(-14 * 60, 14 * 60))
    def test_a_zone_is_obeyed_and_none_is_utc(self, time, minutes):
        naive = (EPOCH + time * MS).replace(tzinfo=None)
        assert parse_time(naive.isoformat()) == from_datetime(naive) == time
        zoned = naive.replace(tzinfo=timezone(timedelta(minutes=minutes)))
        assert parse_time(zoned.isoformat()) == from_datetime(zoned) == (zoned - EPOCH) // MS

    def test_microseconds_are_floored(self):
        assert from_datetime(EPOCH + timedelta(microseconds=1999)) == 1
        assert from_datetime(EPOCH - timedelta(microseconds=1)) == -1

    @pytest.mark.parametrize(
        ("text", "time"),
        [
            ("2024-01-31", ms(2024, 1, 31)),
            (" 2024-01-31 12:30 ", ms(2024, 1, 31, 12, 30)),
            ("2024-01-31T12:30:15.250Z", ms(2024, 1, 31, 12, 30, 15) + 250),
            ("2024-01-31T12:30+05:30", ms(2024, 1, 31, 7)),
        ],
    )
    def test_parse_time(self, text, time):
        assert parse_time(text) == time

    @pytest.mark.parametrize("text", ["", "now", "2024", "2024-02-30", "31.01.2024", "1706659200000", "12:30", "10000-01-01"])
    def test_what_is_no_time_is_refused(self, text):
        with pytest.raises(UsageError, match=rf"^'{text}' is no date"):
            parse_time(text)

    @pytest.mark.parametrize("text", ["1969-12-31T23:59:59.999", "0001-01-01T00:00+14:00", "9999-12-31T23:59-14:00"])
    def test_times_outside_the_exchanges_world_are_refused(self, text):
        with pytest.raises(UsageError, match="1970 … 9999"):
            parse_time(text)


class TestDurations:
    @pytest.mark.parametrize(
        ("text", "duration"),
        [
            ("250ms", 250),
            ("90s", 90_000),
            ("90", 90_000),
            ("15m", 900_000),
            ("15min", 900_000),
            ("12h", 43_200_000),
            ("3d", 259_200_000),
            ("2w", 1_209_600_000),
            (" 0 ", 0),
        ],
    )
    def test_parse_duration(self, text, duration):
        assert parse_duration(text) == duration

    @given(st.integers(0, 10**6), st.sampled_from([("s", "seconds"), ("m", "minutes"), ("h", "hours"), ("d", "days")]))
    def test_it_agrees_with_timedelta(self, number, unit):
        assert parse_duration(f"{number}{unit[0]}") == timedelta(**{unit[1]: number}) // MS

    @pytest.mark.parametrize("text", ["", "d", "-3d", "+3d", "1.5h", "3 d", "3D", "3mo", "3d12h", "٣d", "²"])
    def test_what_is_no_duration_is_refused(self, text):
        with pytest.raises(UsageError, match="is no duration"):
            parse_duration(text)
