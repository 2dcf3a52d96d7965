"""Names and times of the archive's files, against paths that the archive really has (binance-facts 9.2) and the calendar."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl import publication
from etl.model import Series
from etl.ranges import DAY, HOUR, TimeRange, months, parse_time


def span(start: str, end: str) -> TimeRange:
    return TimeRange(parse_time(start), parse_time(end))


MONTH = span("2024-02-01", "2024-03-01")
X = Series("um", "klines", "X", "1h")


@pytest.mark.parametrize(
    ("series", "key"),
    [
        (Series("um", "klines", "BTCUSDT", "1m"), "data/futures/um/monthly/klines/BTCUSDT/1m/BTCUSDT-1m-2024-02.zip"),
        (Series("um", "funding", "BTCUSDT"), "data/futures/um/monthly/fundingRate/BTCUSDT/BTCUSDT-fundingRate-2024-02.zip"),
        (Series("cm", "index_klines", "X", "1h"), "data/futures/cm/monthly/indexPriceKlines/X/1h/X-1h-2024-02.zip"),
        (Series("um", "mark_klines", "X", "1d"), "data/futures/um/monthly/markPriceKlines/X/1d/X-1d-2024-02.zip"),
        (Series("um", "premium_klines", "X", "1d"), "data/futures/um/monthly/premiumIndexKlines/X/1d/X-1d-2024-02.zip"),
        (Series("spot", "klines", "BTCUSDT", "1M"), "data/spot/monthly/klines/BTCUSDT/1mo/BTCUSDT-1mo-2024-02.zip"),
        (Series("um", "klines", "币安USDT", "1m"), "data/futures/um/monthly/klines/币安USDT/1m/币安USDT-1m-2024-02.zip"),
    ],
)
def test_a_month_has_the_archives_name(series, key):
    (file,) = publication.monthly_files(series, MONTH)
    assert (file.key, file.span, file.listed) == (key, MONTH, False)


def test_days_have_the_archives_names():
    found = list(publication.daily_files(Series("um", "klines", "BTCUSDT", "1m"), span("2023-12-31T23:00", "2024-01-01T00:01")))
    assert [file.key.rpartition("/")[2] for file in found] == ["BTCUSDT-1m-2023-12-31.zip", "BTCUSDT-1m-2024-01-01.zip"]
    assert [file.span for file in found] == [span("2023-12-31", "2024-01-01"), span("2024-01-01", "2024-01-02")]
    assert found[0].key.startswith("data/futures/um/daily/klines/BTCUSDT/1m/")


@pytest.mark.parametrize(("dataset", "interval"), [("funding", None), ("klines", "1w"), ("klines", "1M")])
def test_some_series_have_no_daily_files(dataset, interval):
    assert list(publication.daily_files(Series("um", dataset, "X", interval), MONTH)) == []


@pytest.mark.parametrize(("now", "there"), [("2024-03-02T09:59", False), ("2024-03-02T10:00", True)])
def test_yesterdays_file_is_due_at_ten(now, there):
    (file,) = publication.daily_files(Series("um", "klines", "X", "1m"), span("2024-03-01", "2024-03-02"))
    assert publication.due(file, parse_time(now)) is there


@pytest.mark.parametrize(("now", "there"), [("2024-03-08T09:59", False), ("2024-03-08T10:00", True)])
def test_a_month_is_due_after_the_latest_first_monday(now, there):
    (file,) = publication.monthly_files(Series("um", "klines", "X", "1m"), MONTH)
    assert publication.due(file, parse_time(now)) is there


def test_absence_is_an_answer_after_seven_days():
    yesterday = span("2024-03-01", "2024-03-02")
    assert not publication.overdue(yesterday, parse_time("2024-03-09T09:59"))
    assert publication.overdue(yesterday, parse_time("2024-03-09T10:00"))


@given(st.integers(0, 900), st.integers(1, 400), st.integers(0, 24 * 500))
def test_expected_files_follow_each_other_and_are_all_due(first, days, hours):
    start = parse_time("2022-01-01") + first * DAY
    wanted, now = TimeRange(start, start + days * DAY), start + hours * HOUR
    files = list(publication.expected(Series("um", "klines", "X", "1m"), wanted, now))
    assert all(one.span.end == other.span.start for one, other in pairwise(files))
    assert all(publication.due(file, now) for file in files)
    assert not files or files[0].span.start <= start
    # Nothing that is due is left out: the next day's file is not due, or not wanted.
    end = files[-1].span.end if files else start
    assert end >= wanted.end or now < end + DAY + 10 * HOUR


YEAR = span("2024-01-01", "2025-01-01")
MONTHS = [range_ for _, range_ in months(YEAR)]
DAYS = [TimeRange(start, start + DAY) for start in range(YEAR.start, YEAR.end, DAY)]


@st.composite
def contracts(draw):
    """Which days of a year a ticker was traded: up to three contracts in turn, weeks apart."""
    cuts = sorted(
        draw(st.lists(st.integers(0, len(DAYS)), min_size=2, max_size=6, unique=True).filter(lambda c: len(c) % 2 == 0))
    )
    lived = list(zip(cuts[::2], cuts[1::2], strict=True))
    kept = [one for before, one in zip([(-99, -99), *lived], lived, strict=False) if one[0] - before[1] >= 62]
    return kept or lived[:1]


@given(lived=contracts(), lacking=st.sets(st.integers(0, len(DAYS) - 1), max_size=3))
def test_lives_are_those_of_the_contracts_to_the_day(lived, lacking):
    """Whatever days inside of a life the archive lacks; breaks are 62 days at least, so that some month has no file."""
    traded = [DAYS[day] for begin, end in lived for day in range(begin, end)]
    listed = [month for month in MONTHS if any(month.intersect(day) for day in traded)]
    edges = publication.edges(listed, YEAR)
    inner = {day for begin, end in lived for day in range(begin + 3, end - 3)}
    there = [day for day in traded if DAYS.index(day) not in lacking & inner and any(edge.intersect(day) for edge in edges)]
    found = publication.lives(listed, there)
    assert [(one.start, one.end) for one in found] == [(DAYS[begin].start, DAYS[end - 1].end) for begin, end in lived]


def test_a_month_without_a_listed_day_counts_whole_and_a_short_break_is_none():
    assert publication.lives([MONTHS[0]], []) == (MONTHS[0],)
    assert publication.lives([], [DAYS[0], DAYS[7]]) == (TimeRange(DAYS[0].start, DAYS[7].end),)
    assert publication.lives([], [DAYS[0], DAYS[8]]) == (DAYS[0], DAYS[8])
    assert publication.lives([], []) == ()


def test_where_contracts_may_begin_and_end():
    """At a month that lacks; at the end only where the next one will never come."""
    files = [
        replace(publication.file_of(X, "monthly", parse_time(f"2024-{month}-01")), etag="v") for month in ("02", "03", "05")
    ]
    for now, last in (("2024-07-15T09:59", False), ("2024-07-15T10:00", True)):
        marked = publication.marked(files, parse_time(now))
        assert [(file.opens, file.closes) for file in marked] == [(True, False), (False, True), (True, last)]
        assert {file.begun for file in marked} == {parse_time("2024-02-01")}
    assert publication.marked(list(publication.monthly_files(X, MONTH)), parse_time("2024-03-02"))[0].begun is None
