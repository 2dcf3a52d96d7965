"""Pages into rows, against models made of dictionaries; the order in which pages come never matters."""

import random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.errors import BadAnswer
from etl.model import Series
from etl.ranges import MINUTE, TimeRange, parse_time
from etl.schema import arrow_schema, times
from etl.transform.normalize import closed, inside, merge, merge_pages, outside, within

BARS = Series("um", "klines", "BTCUSDT", "1m")
MARK = Series("um", "mark_klines", "BTCUSDT", "1m")
FUNDING = Series("um", "funding", "BTCUSDT")
START = parse_time("2024-03-01")

Row = tuple[Any, ...]


def bar(number: int, version: int = 0) -> Row:
    open = START + number * MINUTE
    return (open, 1.0, 3.0, 0.5, 2.0 + version, 10.0, open + MINUTE - 1, 20.0, 7, 4.0, 8.0)


def mark(number: int, version: int = 0) -> Row:
    open = START + number * MINUTE
    return (open, 1.0, 3.0, 0.5, 2.0 + version, open + MINUTE - 1)


def settled(number: int, kind: str | None = "Regular", price: float | None = 100.0, version: int = 0) -> Row:
    return (START + number * MINUTE + number % 47, 0.0001 + version, price, kind)


def table(series: Series, rows: list[Row]) -> pa.Table:
    schema = arrow_schema(series.dataset)
    columns = zip(*rows, strict=True) if rows else [[] for _ in schema]
    return pa.table([pa.array(list(column), field.type) for column, field in zip(columns, schema, strict=True)], schema=schema)


def plain(found: pa.Table) -> list[Row]:
    columns = [
        column.cast(pa.int64()).to_pylist() if pa.types.is_timestamp(column.type) else column.to_pylist()
        for column in found.columns
    ]
    return list(zip(*columns, strict=True))


def order(row: Row) -> tuple[int, str]:
    """By time, and at one time by rate type, of which none means Regular."""
    return row[0], (row[3] or "Regular") if len(row) == 4 else ""


def paged(rows: list[Row], seed: int) -> list[list[Row]]:
    """All rows, some of them several times, in pages of any size and order; some pages are empty."""
    dice = random.Random(seed)
    rows = [row for row in rows for _ in range(dice.choice([1, 1, 2, 3]))]
    dice.shuffle(rows)
    pages: list[list[Row]] = [[]]
    for row in rows:
        if dice.random() < 0.3:
            pages.append([])
        pages[-1].append(row)
    return pages


bars = st.sets(st.integers(0, 300), max_size=60).map(lambda numbers: [bar(number) for number in sorted(numbers)])
kinds = st.sampled_from(["Regular", "Special", None])
# One settlement a time and rate type, where none means Regular.
settlements = st.dictionaries(
    st.tuples(st.integers(0, 30), st.booleans()), st.tuples(kinds, st.none() | st.floats(1, 9)), max_size=40
).map(
    lambda found: sorted(
        (
            settled(time, "Special" if special else kind if kind != "Special" else None, price)
            for (time, special), (kind, price) in found.items()
        ),
        key=order,
    )
)


# ---- merge_pages


@given(bars, st.integers())
@settings(max_examples=60)
def test_pages_of_bars_become_sorted_unique_rows(rows, seed):
    found, disputed, error = merge_pages(BARS, [table(BARS, page) for page in paged(rows, seed)])
    assert (disputed, error) == ((), None)
    assert plain(found) == rows
    assert found.schema.equals(arrow_schema("klines"))


@given(settlements, st.integers())
@settings(max_examples=100)
def test_pages_of_settlements_become_sorted_unique_rows(rows, seed):
    found, disputed, error = merge_pages(FUNDING, [table(FUNDING, page) for page in paged(rows, seed)])
    assert (disputed, error) == ((), None)
    assert plain(found) == rows
    assert found.schema.equals(arrow_schema("funding"))


@given(settlements, st.data())
@settings(max_examples=60)
def test_a_settlement_with_and_without_its_rate_type_is_one_whichever_comes_first(rows, data):
    """The field is new: two servers of the exchange may differ in whether they send it. The one that says more stands."""
    regular = [row for row in rows if row[3] == "Regular"]
    bare = [(*row[:3], None) for row in (data.draw(st.lists(st.sampled_from(regular), max_size=5)) if regular else [])]
    pages = paged(rows + bare, data.draw(st.integers()))
    assert plain(merge_pages(FUNDING, [table(FUNDING, page) for page in pages])[0]) == rows


@pytest.mark.parametrize("series", [BARS, MARK, FUNDING])
def test_no_pages_are_no_rows(series):
    for pages in ([], [table(series, [])], [table(series, [])] * 2):
        found, _, _ = merge_pages(series, pages)
        assert len(found) == 0
        assert found.schema.equals(arrow_schema(series.dataset))


@pytest.mark.parametrize(
    ("series", "row", "other", "texts"),
    [
        (BARS, bar(5), bar(5, 1), ("2024-03-01T00:05:00", "close=2.0", "close=3.0", "um klines BTCUSDT 1m")),
        (MARK, mark(5), mark(5, 1), ("2024-03-01T00:05:00", "close=2.0", "close=3.0", "um mark_klines BTCUSDT 1m")),
        (
            FUNDING,
            settled(7),
            settled(7, version=1),
            ("00:07:00.007", "funding_rate=0.0001", "funding_rate=1.0001", "um funding"),
        ),
        (FUNDING, settled(7, None), settled(7, version=1), ("00:07:00.007", "funding_rate=0.0001", "funding_rate=1.0001")),
        (FUNDING, settled(7, price=None), settled(7, price=1.5), ("mark_price=None", "mark_price=1.5")),
    ],
)
def test_two_rows_of_one_key_are_an_error_that_names_both(series, row, other, texts):
    around = [bar(n) if series is BARS else mark(n) if series is MARK else settled(n) for n in range(12) if n not in {5, 7}]
    for first, second in ((row, other), (other, row)):
        found, disputed, error = merge_pages(series, [table(series, [*around, first]), table(series, [second])])
        assert isinstance(error, BadAnswer)
        assert all(text in str(error) for text in texts)
        assert len(disputed) == 1
        assert plain(found) == around  # the others stand


def test_rows_that_differ_in_one_field_only_differ():
    for field in range(1, 11):
        row = bar(1)
        other = (*row[:field], row[field] + 1, *row[field + 1 :])
        found, _, error = merge_pages(BARS, [table(BARS, [row]), table(BARS, [other])])
        assert isinstance(error, BadAnswer)
        assert len(found) == 0


def test_settlements_of_one_minute_are_one_although_their_milliseconds_differ():
    """The archive's calc_time and the exchange's fundingTime may differ (contract 5); the fresh row stands."""
    archived = (START + 3, 0.0001, None, None)
    served = (START + 5, 0.0001, 61_000.0, "Regular")
    merged = merge(FUNDING, table(FUNDING, [archived]), table(FUNDING, [served]))
    assert (plain(merged.rows), merged.new, merged.changed) == ([served], 0, (START + 5,))


def test_two_kinds_in_one_minute_are_in_the_order_of_their_times():
    late, early = (START + 5, 0.0001, 1.0, "Regular"), (START + 3, 0.02, 1.0, "Special")
    assert plain(merge_pages(FUNDING, [table(FUNDING, [late, early])])[0]) == [early, late]


@given(bars, st.lists(st.tuples(st.integers(-5, 320), st.integers(0, 90)), max_size=6))
def test_inside_and_outside_of_spans(rows, spans):
    ranges = [TimeRange(START + low * MINUTE, START + (low + length) * MINUTE) for low, length in spans]
    kept = [row for row in rows if any(row[0] in span for span in ranges)]
    assert plain(inside(BARS, table(BARS, rows), ranges)) == kept
    assert plain(outside(BARS, table(BARS, rows), ranges)) == [row for row in rows if row not in kept]


# ---- merge


def values(row: Row) -> Row:
    """The row but for its rate type, which is part of its key."""
    return row[:3] if len(row) == 4 else row


def model(stored: list[Row], fresh: list[Row]) -> tuple[list[Row], int, tuple[int, ...]]:
    """All rows by key, the fresh one where both have it; how many are new; the times of those whose values changed."""
    before, after = {order(row): row for row in stored}, {order(row): row for row in fresh}
    changed = [key for key in after if key in before and values(before[key]) != values(after[key])]
    rows = before | after
    return [rows[key] for key in sorted(rows)], len(after.keys() - before.keys()), tuple(key[0] for key in sorted(changed))


def check(series: Series, stored: list[Row], fresh: list[Row]) -> None:
    merged = merge(series, table(series, stored), table(series, fresh))
    assert (plain(merged.rows), merged.new, merged.changed) == model(stored, fresh)
    assert merged.rows.schema.equals(arrow_schema(series.dataset))


@given(bars, bars, st.sets(st.integers(0, 300)))
@settings(max_examples=100)
def test_stored_and_fresh_bars(stored, fresh, revised):
    check(BARS, stored, [bar((row[0] - START) // MINUTE, 1) if (row[0] - START) // MINUTE in revised else row for row in fresh])


@given(settlements, settlements)
@settings(max_examples=100)
def test_stored_and_fresh_settlements(stored, fresh):
    check(FUNDING, stored, fresh)


def test_nothing_fresh_leaves_what_is_stored():
    stored = table(BARS, [bar(1), bar(2)])
    merged = merge(BARS, stored, table(BARS, []))
    assert merged.rows is stored
    assert (merged.new, merged.changed) == (0, ())


def test_the_same_again_changes_nothing():
    rows = [bar(n) for n in range(50)]
    merged = merge(BARS, table(BARS, rows), table(BARS, rows))
    assert (plain(merged.rows), merged.new, merged.changed) == (rows, 0, ())


def test_a_rate_type_that_is_sent_at_last_is_taken_and_is_no_change():
    merged = merge(FUNDING, table(FUNDING, [settled(1, None)]), table(FUNDING, [settled(1)]))
    assert (plain(merged.rows), merged.new, merged.changed) == ([settled(1)], 0, ())


def test_a_mark_price_that_is_sent_at_last_is_a_change():
    merged = merge(FUNDING, table(FUNDING, [settled(1, price=None)]), table(FUNDING, [settled(1)]))
    assert (plain(merged.rows), merged.new, merged.changed) == ([settled(1)], 0, (START + MINUTE + 1,))


# ---- cuts


@given(bars, st.integers(-5, 305), st.integers(-5, 305))
@settings(max_examples=60)
def test_rows_within_a_range(rows, one, other):
    span = TimeRange(START + min(one, other) * MINUTE, START + max(one, other) * MINUTE)
    assert plain(within(BARS, table(BARS, rows), span)) == [row for row in rows if span.start <= row[0] < span.end]


def test_the_ends_of_a_range_to_the_millisecond():
    rows = table(FUNDING, [settled(0), settled(1), settled(2)])
    assert plain(within(FUNDING, rows, TimeRange(START + MINUTE + 1, START + MINUTE + 2))) == [settled(1)]


@given(bars, st.integers(-MINUTE, 301 * MINUTE))
@settings(max_examples=60)
def test_closed_bars_are_those_whose_close_lies_before_now(rows, age):
    now = START + age
    assert plain(closed(table(BARS, rows), now)) == [row for row in rows if row[6] < now]


def test_a_bar_is_closed_one_millisecond_after_its_last_one():
    rows = table(MARK, [mark(0)])
    assert plain(closed(rows, START + MINUTE - 1)) == []
    assert plain(closed(rows, START + MINUTE)) == [mark(0)]


def test_settlements_are_always_closed():
    rows = table(FUNDING, [settled(5)])
    assert closed(rows, START) is rows


def test_times_are_milliseconds():
    assert times(BARS.dataset, table(BARS, [bar(0), bar(2)])).tolist() == [START, START + 2 * MINUTE]
    assert times(FUNDING.dataset, table(FUNDING, [settled(46)])).tolist() == [START + 46 * MINUTE + 46]
