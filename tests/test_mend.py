"""What gives way to the answers of a source, and what does not."""

import pyarrow as pa
import pytest

from etl.mend import Fresh, about, told, without
from etl.model import Coverage, Partition, Series
from etl.ranges import DAY, HOUR, MINUTE, TimeRange, parse_time
from etl.schema import arrow_schema, times

BARS = Series("um", "klines", "BTCUSDT", "1h")
RATES = Series("um", "funding", "BTCUSDT")
T = parse_time("2024-01-01")
YEAR = Partition(BARS, "2024", TimeRange(T, parse_time("2025-01-01")))


def at(hour, volume=1.0):
    return (T + hour * HOUR, 1.0, 1.0, 1.0, 1.0, volume, T + (hour + 1) * HOUR - 1, 1.0, 1, 1.0, 1.0)


def table(*rows):
    schema = arrow_schema("klines")
    columns = zip(*rows, strict=True)
    return pa.Table.from_arrays([pa.array(c).cast(f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)


def entry(source, start, end):
    return Coverage(TimeRange(T + start * HOUR, T + end * HOUR), source, T)


def hours(rows):
    return [(time - T) // HOUR for time in times("klines", rows).tolist()]


def span(start, end):
    return TimeRange(T + start * HOUR, T + end * HOUR)


@pytest.mark.parametrize(
    ("owner", "asked", "there", "taken"),
    [
        ("rest", "rest", [2], [2]),  # the same source has it otherwise
        ("rest", "rest", [], [2]),  # and where it has it no more, nobody has
        ("rest", "archive", [2], [2]),
        ("rest", "archive", [], []),  # that another one lacks it proves nothing
        ("archive", "rest", [], []),
        (None, "rest", [], [2]),  # nobody was asked for it
    ],
)
def test_a_row_goes_where_another_stands_or_its_own_source_has_none(owner, asked, there, taken):
    stored = table(*(at(hour) for hour in range(4)))
    entries = [entry(owner, 0, 4)] if owner else []
    fresh = [Fresh(asked, [entry(asked, 2, 3)], table(*(at(hour, 9.0) for hour in there)) if there else stored.slice(0, 0))]
    mended = without(YEAR, stored, entries, fresh, [span(2, 3)])
    assert hours(mended.taken) == taken
    assert hours(mended.kept) == [hour for hour in range(4) if hour not in taken]
    left = [(e.span, e.source) for e in mended.entries]
    assert left == ([(span(0, 2), owner), (span(3, 4), owner)] if taken and owner else [(span(0, 4), owner)] if owner else [])


def test_nothing_goes_that_was_not_answered():
    stored = table(*(at(hour) for hour in range(4)))
    mended = without(YEAR, stored, [entry("rest", 0, 4)], [], [span(0, 4)])
    assert mended.kept.equals(stored)
    assert mended.entries == (entry("rest", 0, 4),)


def test_what_is_kept_is_sorted_unique_and_of_the_period():
    stored = table(at(3), at(1), at(1), at(2), at(-30))
    mended = without(YEAR, stored, [entry("rest", 0, 4)], [], [])
    assert hours(mended.kept) == [1, 2, 3]


def test_of_two_different_rows_of_a_bar_neither_is_kept():
    mended = without(YEAR, table(at(1), at(1, 5.0), at(2)), [entry("rest", 0, 4)], [], [])
    assert hours(mended.kept) == [2]
    assert [e.span for e in mended.entries] == [span(0, 1), span(2, 4)]


def test_told_is_what_differs():
    stored = table(*(at(hour) for hour in range(4)))
    fresh = [Fresh("rest", [entry("rest", 0, 4)], table(at(0), at(1, 9.0), at(3)))]
    mended = without(YEAR, stored, [entry("rest", 0, 4)], fresh, [span(0, 4)])
    same, (finding,) = told(BARS, mended, fresh[0].rows)
    assert (same, finding.check, finding.count) == (2, "mended", 2)
    assert told(BARS, without(YEAR, stored, [], [], []), stored) == (0, [])


def test_what_is_asked_for_again():
    assert about(BARS, [T + 5, T + 2 * HOUR]) == (span(0, 1), span(2, 3))
    assert about(RATES, [T + 7]) == (TimeRange(T, T + MINUTE),)
    assert about(Series("um", "klines", "A", "1d"), [T + HOUR]) == (TimeRange(T, T + DAY),)
