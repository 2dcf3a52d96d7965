"""Plans against a model that looks at every bar: what is asked, what is not, what it costs."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.model import ArchiveFile, Endpoint, Job, PageTier, Partition, Series, Window
from etl.plan import Want, closed_end, page_tier, pages, plan, wanted
from etl.ranges import ALWAYS, DAY, HOUR, MAX_TIME, MINUTE, TimeRange, months, parse_time, years
from etl.registry import INTERVALS

BARS = Series("um", "klines", "BTCUSDT", "1m")
LONGEST_CM = 200 * DAY  # binance-facts 8


def at(text: str) -> int:
    return parse_time(text)


def span(start: str, end: str) -> TimeRange:
    return TimeRange(at(start), at(end))


def by_year(series: Series, span: TimeRange) -> list[Partition]:
    return [Partition(series, name, period) for name, period in years(span)]


def by_month(series: Series, span: TimeRange) -> list[Partition]:
    return [Partition(series, name, period) for name, period in months(span)]


def plenty(_market: str) -> float:
    """So much weight that latency is the brake."""
    return 1e12


def scarce(_market: str) -> float:
    """So little weight that it is the brake."""
    return 0.0


def cost(limit: int, market: str = "um") -> int:
    """What a page costs, from binance-facts 2.1 and 8."""
    if market == "spot":
        return 2
    return 1 if limit < 100 else 2 if limit < 500 else 5 if limit <= 1000 else 10


def cost_of(rows: int, page: int) -> int:
    """What `rows` rows cost in pages of `page`."""
    return rows // page * cost(page) + (cost(rows % page) if rows % page else 0)


# ---- what is closed


@given(st.sampled_from(sorted(INTERVALS)), st.integers(at("2017-01-01"), at("2030-01-01")))
def test_the_closed_part_of_bars_ends_before_the_bar_that_is_open(name, now):
    interval = INTERVALS[name]
    end = closed_end(name, now)
    opens = interval.opens(TimeRange(now - 70 * DAY, now + 70 * DAY))
    # A bar closes one millisecond before the next one opens, and is closed when that lies before `now`.
    closed = [open for open, after in pairwise(opens) if after - 1 < now]
    assert end == interval.next(closed[-1])


@pytest.mark.parametrize(
    ("now", "end"),
    [
        ("2024-05-01T08:00", "2024-05-01T08:00"),
        ("2024-05-01T08:00:00.007", "2024-05-01T08:00:00.007"),  # a settlement of 8:00:00.031 would be lost beyond
        ("2024-05-01T08:00:59.999", "2024-05-01T08:00:59.999"),
        ("2024-05-01T08:01", "2024-05-01T08:01"),
        ("2024-05-01T08:01:30", "2024-05-01T08:01"),
        ("2024-05-01T08:59:59.999", "2024-05-01T08:01"),
    ],
)
def test_the_closed_part_of_settlements_ends_a_minute_after_the_hour(now, end):
    assert closed_end(None, at(now)) == at(end)


@given(
    st.sampled_from(["1m", "3m", "8h", "1d", "1w", "1M"]),
    st.integers(at("2022-01-01"), at("2022-03-01")),
    st.integers(-5 * DAY, 60 * DAY),
    st.integers(-5 * DAY, 60 * DAY),
)
def test_wanted_bars_open_in_the_range_and_are_closed(name, start, length, age):
    interval, end = INTERVALS[name], start + length
    now = start + age
    found = wanted(Series("um", "klines", "BTCUSDT", name), start, end, now)
    opens = interval.opens(TimeRange(at("2021-10-01"), at("2022-08-01")))
    expected = [open for open, after in pairwise(opens) if start <= open < end and after <= now]
    assert list(interval.opens(found)) == expected
    if expected:
        assert (found.start, found.end) == (expected[0], interval.next(expected[-1]))


@pytest.mark.parametrize(
    ("start", "end", "now", "found"),
    [
        ("2024-01-01T10:00:30", "2024-01-02T10:00:30", "2024-02-01", ("2024-01-01T10:00:30", "2024-01-02T10:00:30")),
        ("2024-01-01", "2024-02-01", "2024-01-10T08:00:20", ("2024-01-01", "2024-01-10T08:00:20")),
        ("2024-01-01", "2024-02-01", "2024-01-10T08:30", ("2024-01-01", "2024-01-10T08:01")),
    ],
)
def test_wanted_settlements_need_no_grid(start, end, now, found):
    assert wanted(Series("um", "funding", "BTCUSDT"), at(start), at(end), at(now)) == span(*found)


@pytest.mark.parametrize("series", [BARS, Series("um", "funding", "BTCUSDT")])
def test_nothing_is_wanted_of_the_future_or_of_an_empty_range(series):
    assert not wanted(series, at("2025-01-01"), at("2026-01-01"), at("2024-01-01"))
    assert not wanted(series, at("2023-01-01"), at("2023-01-01"), at("2024-01-01"))
    assert not wanted(series, at("2023-02-01"), at("2023-01-01"), at("2024-01-01"))
    assert not wanted(series, MAX_TIME, MAX_TIME, at("2024-01-01"))


# ---- what a want knows


def test_a_probe_is_needed_where_nothing_is_known_before_the_missing_range():
    year = span("2024-01-01", "2025-01-01")
    assert Want(BARS, year).needs_probe
    assert Want(BARS, year, first_row=at("2024-03-01")).needs_probe
    assert not Want(BARS, year, first_row=at("2024-03-01"), probed=True).needs_probe
    assert not Want(BARS, year, first_bar=year.start).needs_probe, "the listing tells it"
    assert not Want(BARS, year, first_row=at("2023-01-01")).needs_probe
    assert not Want(BARS, year, covered=(year,)).needs_probe
    assert not Want(Series("um", "funding", "BTCUSDT"), year).needs_probe


@pytest.mark.parametrize(
    ("want", "life"),
    [
        (Want(BARS, span("2024-01-01", "2025-01-01"), first_row=50, first_bar=40, probed=True), TimeRange(40, MAX_TIME)),
        (Want(BARS, span("2024-01-01", "2025-01-01"), first_row=30, first_bar=40, probed=True, ends=90), TimeRange(30, 90)),
        (Want(BARS, span("2024-01-01", "2025-01-01"), first_row=30), TimeRange(30, MAX_TIME)),
        (Want(BARS, span("2024-01-01", "2025-01-01"), first_row=95, ends=90), TimeRange(90, 90)),
    ],
)
def test_a_life_begins_with_the_first_known_bar_and_ends_as_announced(want, life):
    assert want.life == life


def test_a_series_without_any_bar_has_no_life_in_which_one_could_lack():
    want = Want(BARS, span("2024-01-01", "2025-01-01"), first_bar=None, probed=True)
    assert not want.life


# ---- page sizes


TIERS = (PageTier(99, 1), PageTier(499, 2), PageTier(1000, 5), PageTier(1500, 10))
KLINES = Endpoint("/fapi/v1/klines", TIERS)
counts_of_rows = st.lists(st.integers(0, 20_000), max_size=8)


@given(counts_of_rows, st.integers(0, 4000))
def test_the_largest_page_that_costs_half_a_minute_at_most_else_the_thriftiest(counts, minute):
    affordable = [page for page in (99, 499, 1000, 1500) if 2 * sum(cost_of(rows, page) for rows in counts) <= minute]
    assert page_tier(KLINES, counts, minute).limit == (max(affordable) if affordable else 499)


@pytest.mark.parametrize(
    ("counts", "minute", "limit"),
    [
        ([131_040], 2160, 1500),  # three months of 1m cost 874 in pages of 1500
        ([131_040] * 2, 2160, 499),  # 1748 is too much; so is 1312 in pages of 1000; 1052 in pages of 499
        ([43_200] * 60, 2160, 499),
        ([108_000, 108_000], 2160, 1000),  # 1440 in pages of 1500, 1080 in pages of 1000
        ([], 2160, 1500),
    ],
)
def test_page_sizes_by_hand(counts, minute, limit):
    assert page_tier(KLINES, counts, minute).limit == limit


def test_where_there_is_one_page_size_there_is_no_choice():
    assert page_tier(Endpoint("/api/v3/klines", (PageTier(1000, 2),)), [1_000_000], 100) == PageTier(1000, 2)


# ---- bars


@st.composite
def wants(draw):
    """A series in any state: some of it covered, on the grid or off it, its beginning and end known or not."""
    market = draw(st.sampled_from(["um", "cm", "spot"]))
    name = draw(st.sampled_from(["1m", "15m", "4h", "1d", "1w", "1M"]))
    step = INTERVALS[name].typical_step
    start = INTERVALS[name].ceil(draw(st.integers(at("2021-06-01"), at("2022-02-01"))))
    end = (
        INTERVALS[name].ceil(start + draw(st.integers(1, 4000)) * step)
        if step < DAY
        else start + draw(st.integers(1, 900)) * DAY
    )
    moments = st.integers(start - 5 * step, end + 5 * step) | st.integers(-5, 900).map(lambda n: start + n * step)
    pieces = draw(st.lists(st.tuples(moments, moments), max_size=5))
    probed = draw(st.booleans())
    return Want(
        series=Series(market, "klines", "BTCUSDT", name),
        span=TimeRange(start, INTERVALS[name].ceil(end)),
        covered=tuple(TimeRange(min(piece), max(piece)) for piece in pieces),
        first_row=draw(st.none() | moments),
        first_bar=draw(st.none() | moments) if probed else None,
        probed=probed,
        ends=draw(st.just(MAX_TIME) | moments),
    )


def missing_bars(want: Want) -> list[int]:
    """The opens that are wanted and in no covered range."""
    return [
        open
        for open in INTERVALS[want.series.interval].opens(want.span)
        if not any(one.start <= open < one.end for one in want.covered)
    ]


@given(wants(), st.sampled_from([by_year, by_month]), st.sampled_from([plenty, scarce]))
@settings(max_examples=150)
def test_every_missing_bar_is_asked_for_once_or_known_to_be_absent(want, partitions, minute_weight):
    jobs = plan([want], partitions, minute_weight)
    missing = missing_bars(want)
    known = [time for time in (want.first_bar, want.first_row) if time is not None]
    first = (min(known) if known else MAX_TIME) if want.probed else 0
    windows = [window for job in jobs for window in pages_of(job)]
    empty = [one for job in jobs for one in job.empty]

    asked = sorted(window.span for window in windows)
    assert [open for open in missing if open >= first] == [
        open for one in asked for open in INTERVALS[want.series.interval].opens(one)
    ]
    assert all(one.end <= other.start for one, other in pairwise(asked))
    assert all(not (one.start < hole.end and hole.start < one.end) for one in asked for hole in want.covered if hole)
    # Each empty range stands in one job, and together they are what is missing before the first bar.
    assert all(one.end <= other.start for one, other in pairwise(sorted(empty)))
    for open in missing:
        assert sum(open in one for one in empty) == (open < first)
    assert all(one.end <= first and one.start >= want.span.start for one in empty)


@given(wants(), st.sampled_from([by_year, by_month]), st.sampled_from([plenty, scarce]))
@settings(max_examples=150)
def test_every_window_is_one_page_that_the_exchange_can_answer(want, partitions, minute_weight):
    interval, market = INTERVALS[want.series.interval], want.series.market
    most = 1000 if market == "spot" else 1500 if minute_weight is plenty else 499
    for job in plan([want], partitions, minute_weight):
        assert job.series == (want.series,)
        assert job.sources == ("rest",)
        assert job.life == want.life
        assert len(job.partitions) == 1
        assert pages_of(job) or job.empty
        for window in pages_of(job):
            assert window.span
            assert job.partitions[0].period.intersect(window.span) == window.span
            assert market != "cm" or window.span.end - window.span.start <= LONGEST_CM
            opens = interval.opens(window.span)
            if window.rows:
                assert window.limit == window.rows == len(opens) <= most
                assert (window.requests, window.weight) == (1, cost(len(opens), market))
            else:  # after the end of the contract
                assert window.span.start >= want.ends + DAY
                assert (window.limit, window.requests, window.weight) == (1, 2, 2 * cost(1, market))


@given(wants(), st.sampled_from([by_year, by_month]))
def test_the_same_plan_for_the_same_want(want, partitions):
    assert plan([want], partitions, plenty) == plan([want], partitions, plenty)


def pages_of(job: Job) -> tuple[Window, ...]:
    return tuple(page for window in job.windows for page in pages(job.series[0], window))


def only(jobs: tuple[Job, ...]) -> Job:
    (job,) = jobs
    return job


def test_a_year_in_pages_of_499_where_weight_is_the_brake():
    job = only(plan([Want(BARS, span("2023-01-01", "2024-01-01"), first_row=0)], by_year, scarce))
    assert job.partitions == (Partition(BARS, "2023", span("2023-01-01", "2024-01-01")),)
    assert len(pages_of(job)) == 1054  # 525,600 = 1053 × 499 + 153
    assert {window.limit for window in pages_of(job)[:-1]} == {499}
    assert (pages_of(job)[-1].limit, pages_of(job)[-1].weight) == (153, 2)
    assert (job.requests, job.weight, job.rows) == (1054, 2108, 525_600)


def test_a_day_in_one_page_where_latency_is_the_brake():
    job = only(plan([Want(BARS, span("2023-01-01", "2023-01-02"), first_row=0)], by_year, lambda _: 2160.0))
    assert [(window.limit, window.weight) for window in pages_of(job)] == [(1440, 10)]


@pytest.mark.parametrize("rows", [1, 2, 98, 99, 100, 499, 500, 501, 1000, 1001, 1499, 1500])
def test_no_more_is_asked_than_is_missing(rows):
    start = at("2023-05-01")
    job = only(plan([Want(BARS, TimeRange(start, start + rows * MINUTE), first_row=0)], by_year, plenty))
    assert [(window.limit, window.weight) for window in pages_of(job)] == [(rows, cost(rows))]


@given(st.lists(st.integers(1, 30_000), min_size=1, max_size=8), st.integers(1, 2400))
@settings(max_examples=60)
def test_all_wants_share_a_page_size_and_cost_no_more_than_half_a_minute_or_the_thriftiest(rows, minute):
    start = at("2023-01-01")
    all_wants = [
        Want(Series("um", "klines", f"S{n}", "1m"), TimeRange(start, start + count * MINUTE), first_row=0)
        for n, count in enumerate(rows)
    ]
    jobs = plan(all_wants, by_year, lambda _: float(minute))
    assert [job.series[0].symbol for job in jobs] == [f"S{n}" for n in range(len(rows))]
    assert [job.rows for job in jobs] == rows
    weight = sum(job.weight for job in jobs)
    assert weight <= max(minute / 2, sum(cost_of(count, 499) for count in rows))


def test_the_market_says_how_much_weight_there_is():
    asked: list[str] = []

    def minute(market: str) -> float:
        asked.append(market)
        return 1e12 if market == "um" else 0

    day = span("2023-01-01", "2023-01-02")
    jobs = plan([Want(Series(m, "klines", "X", "1m"), day, first_row=0) for m in ("um", "cm")], by_year, minute)
    assert asked == ["um", "cm"]
    assert [max(window.limit for window in pages_of(job)) for job in jobs] == [1440, 499]


def test_a_job_a_partition():
    jobs = plan([Want(BARS, span("2023-12-31", "2024-01-02"), first_row=0)], by_year, plenty)
    assert [(job.partitions[0].name, job.rows) for job in jobs] == [("2023", 1440), ("2024", 1440)]
    jobs = plan([Want(BARS, span("2023-12-31", "2024-03-02"), first_row=0)], by_month, plenty)
    assert [(job.partitions[0].name, job.rows // 1440) for job in jobs] == [
        ("2023-12", 1),
        ("2024-01", 31),
        ("2024-02", 29),
        ("2024-03", 1),
    ]


def test_what_is_covered_is_not_asked_for():
    year = span("2023-01-01", "2024-01-01")
    assert plan([Want(BARS, year, covered=(year,), first_row=0)], by_year, plenty) == ()
    hole = span("2023-06-01", "2023-06-02")
    covered = (TimeRange(year.start, hole.start), TimeRange(hole.end, year.end))
    job = only(plan([Want(BARS, year, covered=covered, first_row=0)], by_year, plenty))
    assert [window.span for window in pages_of(job)] == [hole]


def test_nothing_is_planned_for_nothing():
    assert plan([], by_year, plenty) == ()
    assert plan([Want(BARS, span("2023-01-01", "2023-01-01"))], by_year, plenty) == ()


def test_a_stretch_in_which_no_bar_opens_needs_no_job():
    """The days between New Year and the first Monday lie in the new year's file; no week opens in them."""
    weekly = Series("um", "klines", "BTCUSDT", "1w")
    covered = (TimeRange(0, at("2025-01-01")),)
    assert plan([Want(weekly, TimeRange(at("2024-01-01"), at("2025-01-06")), covered, first_row=0)], by_year, plenty) == ()


def test_a_file_is_covered_from_its_beginning_also_where_no_bar_opens_there():
    weekly = Series("um", "klines", "BTCUSDT", "1w")
    first, second = plan([Want(weekly, span("2024-12-02", "2025-02-03"), first_row=0)], by_year, plenty)
    assert [window.span for window in pages_of(first)] == [span("2024-12-02", "2025-01-01")]
    assert [(window.span, window.rows) for window in pages_of(second)] == [(span("2025-01-01", "2025-02-03"), 4)]


def test_what_is_known_to_be_empty_goes_to_the_file_of_the_first_bar():
    want = Want(BARS, span("2020-01-01", "2024-03-01"), first_bar=at("2022-05-05T12:34"), probed=True)
    jobs = plan([want], by_year, plenty)
    assert [job.partitions[0].name for job in jobs] == ["2022", "2023", "2024"]
    assert [job.empty for job in jobs] == [(span("2020-01-01", "2022-05-05T12:34"),), (), ()]
    assert pages_of(jobs[0])[0].span.start == at("2022-05-05T12:34")
    assert pages_of(jobs[-1])[-1].span.end == at("2024-03-01")


def test_where_all_is_empty_the_last_file_says_so():
    want = Want(BARS, span("2020-01-01", "2024-03-01"), first_bar=None, probed=True)
    job = only(plan([want], by_year, plenty))
    assert (job.partitions[0].name, pages_of(job), job.empty) == ("2024", (), (span("2020-01-01", "2024-03-01"),))


def test_several_empty_ranges_before_the_first_bar():
    want = Want(
        BARS,
        span("2020-01-01", "2024-03-01"),
        covered=(span("2020-06-01", "2021-06-01"),),
        first_bar=at("2022-01-01"),
        probed=True,
    )
    jobs = plan([want], by_year, plenty)
    assert [job.empty for job in jobs] == [
        (span("2020-01-01", "2020-06-01"), span("2021-06-01", "2022-01-01")),
        (),
        (),
    ]


def test_long_after_the_end_of_a_contract_one_row_is_asked_for():
    ends = at("2023-06-30T08:00")
    job = only(plan([Want(BARS, span("2023-06-29", "2024-01-01"), first_row=0, ends=ends)], by_year, plenty))
    *pages, last = pages_of(job)
    assert pages[-1].span.end == last.span.start == at("2023-07-01T08:00")
    assert (last.span.end, last.limit, last.rows, last.requests, last.weight) == (at("2024-01-01"), 1, 0, 2, 2)
    job = only(plan([Want(BARS, span("2023-08-01", "2023-09-01"), first_row=0, ends=ends)], by_year, plenty))
    assert [(window.span, window.limit) for window in pages_of(job)] == [(span("2023-08-01", "2023-09-01"), 1)]


@pytest.mark.parametrize("symbol", ["BTCUSD_PERP", "BTCUSD_240329"])
def test_no_request_to_coin_m_spans_more_than_200_days(symbol):
    for name in ("1m", "1h", "1d", "1w", "1M"):
        want = Want(Series("cm", "klines", symbol, name), span("2022-01-01", "2026-01-01"), first_row=0)
        ended = Want(want.series, want.span, first_row=0, ends=at("2022-03-01"))
        for one in (want, ended):
            windows = [window for job in plan([one], by_year, scarce) for window in pages_of(job)]
            assert max(window.span.end - window.span.start for window in windows) <= LONGEST_CM


# ---- files of the archive


def month_of(name: str, series: Series = BARS) -> ArchiveFile:
    """The listed file of the month, with the size that a real one of BTCUSDT 1m has."""
    period = next(period for each, period in months(span("2025-01-01", "2026-01-01")) if each == name)
    key = f"data/futures/um/monthly/klines/BTCUSDT/{series.interval}/BTCUSDT-{series.interval}-{name}.zip"
    return ArchiveFile(period, key, 2_860_000, "v1")


def filed(*missing: tuple[str, str], sources=("rest", "archive"), files=("2025-05",), series=BARS) -> list[tuple[str, int]]:
    """The files, with their rows, and the rows over REST, that the plan takes where just that is missing of 2025."""
    whole = span("2025-01-01", "2026-01-01")
    spans = [span(*each) for each in missing]
    edges = [whole.start, *(edge for each in spans for edge in (each.start, each.end)), whole.end]
    covered = tuple(TimeRange(*each) for each in zip(edges[::2], edges[1::2], strict=True))
    want = Want(series, whole, covered, first_row=0, sources=sources, files=tuple(month_of(name, series) for name in files))
    windows = [window for job in plan([want], by_year, lambda _: 2160.0) for window in job.windows]
    return [(window.file.key.rpartition("/")[2] if window.file else "REST", window.rows) for window in windows]


@pytest.mark.parametrize("sources", [("rest", "archive"), ("archive",)])
def test_of_a_month_that_is_partly_wanted_the_files_of_days_are_taken_where_they_are_cheaper(sources):
    """A day is 2 x 0.02 s + 69,120 bytes, 0.047 s; the month 0.04 s + 2.86 MB, 0.326 s: so many are six days."""
    may = [(f"BTCUSDT-1m-2025-05-{day}.zip", 1440) for day in range(10, 17)]
    assert filed(("2025-05-10", "2025-05-12"), sources=sources) == may[:2]
    assert filed(("2025-05-10", "2025-05-16"), sources=sources) == may[:6]
    assert filed(("2025-05-10", "2025-05-17"), sources=sources) == [("BTCUSDT-1m-2025-05.zip", 7 * 1440)]
    assert filed(("2025-05-10", "2025-05-11"), sources=sources) == may[:1]
    assert filed(("2025-05-10", "2025-05-10T12:00"), sources=sources) == [(may[0][0], 720)]
    assert filed(("2025-05-10T23:00", "2025-05-12"), sources=("archive",)) == [(may[0][0], 60), may[1]]
    assert filed(("2025-05-10T23:00", "2025-05-12"), sources=("rest", "archive")) == [may[1], ("REST", 60)]


def test_a_day_beside_a_whole_month_is_a_day():
    got = filed(("2025-04-30", "2025-06-02"), sources=("archive",), files=("2025-04", "2025-05", "2025-06"))
    assert got == [
        ("BTCUSDT-1m-2025-04-30.zip", 1440), ("BTCUSDT-1m-2025-05.zip", 44_640), ("BTCUSDT-1m-2025-06-01.zip", 1440)
    ]  # fmt: skip  # by month


@pytest.mark.parametrize("interval", ["1w", "1M"])
def test_what_has_no_files_of_days_comes_from_the_month(interval):
    series = Series("um", "klines", "BTCUSDT", interval)
    got = filed(("2025-05-01", "2025-05-12"), sources=("archive",), series=series)
    assert [name for name, _ in got] == [f"BTCUSDT-{interval}-2025-05.zip"]


def test_without_a_month_no_file_of_days_is_made_up():
    assert filed(("2025-05-10", "2025-05-12"), files=()) == [("REST", 2880)]


def test_a_month_that_is_missing_in_parts_is_fetched_and_paid_for_once():
    """Eight days apart: each is cheapest as a day (0.047 s), all eight (0.376 s) are not cheaper than the month (0.326 s)."""
    parts = [(f"2025-05-{day:02d}", f"2025-05-{day + 1:02d}") for day in range(1, 17, 2)]
    assert filed(*parts) == [("BTCUSDT-1m-2025-05.zip", 8 * 1440)]
    assert [name for name, _ in filed(*parts[:6])] == [f"BTCUSDT-1m-2025-05-{day:02d}.zip" for day in range(1, 12, 2)]


# ---- settlements


def funding(symbol: str = "BTCUSDT", market: str = "um") -> Series:
    return Series(market, "funding", symbol)


def test_settlements_of_one_series_are_one_job_over_all_its_files():
    want = Want(funding(), span("2019-09-01", "2024-03-01"), covered=(span("2020-05-01", "2021-02-01"),))
    job = only(plan([want], by_year, plenty))
    assert [partition.name for partition in job.partitions] == ["2019", "2020", "2021", "2022", "2023", "2024"]
    assert [window.span for window in job.windows] == [span("2019-09-01", "2020-05-01"), span("2021-02-01", "2024-03-01")]
    assert {window.limit for window in job.windows} == {1000}
    # 243 and 1124 days at three settlements a day; the last page is asked for again, and one of 100 rows or more goes on.
    assert [(window.rows, window.requests, window.weight) for window in job.windows] == [(729, 3, 0), (3372, 6, 0)]
    assert (job.life, job.empty) == (ALWAYS, ())


@pytest.mark.parametrize(
    ("life", "rows", "requests"),
    [
        (("2023-01-01", "2030-01-01"), 642, 3),  # 214 days; the page again, and what follows its last row
        (("2023-01-01", "2023-06-01"), 93, 6),  # 31 days, then nothing: six answers in all must deny the rest
        (("2024-01-01", "2030-01-01"), 0, 6),
        (("2022-01-01", "2023-01-01"), 0, 6),
        (("2023-11-10", "2030-01-01"), 63, 2),
    ],
)
def test_an_empty_answer_is_planned_as_often_as_it_is_asked_for(life, rows, requests):
    onboard, ends = map(at, life)
    job = only(plan([Want(funding(), span("2023-05-01", "2023-12-01"), onboard=onboard, ends=ends)], by_year, plenty))
    assert [(window.rows, window.requests) for window in job.windows] == [(rows, requests)]


def recent(number: int, start: str = "2024-03-01T00:01", end: str = "2024-03-02T00:01") -> list[Want]:
    return [Want(funding(f"S{n}"), span(start, end)) for n in range(number)]


def requests_each(all_wants: list[Want]) -> int:
    """What the settlements cost one by one: a page and the one that proves the end, for each missing range."""
    return sum(2 * len(want.missing) for want in all_wants)


def test_a_short_range_of_many_symbols_is_asked_for_together():
    all_wants = recent(50)
    job = only(plan(all_wants, by_year, plenty))
    assert job.series == tuple(want.series for want in all_wants)
    assert [partition.series for partition in job.partitions] == [want.series for want in all_wants]
    assert [window.span.end - window.span.start for window in job.windows] == [4 * HOUR] * 6
    assert (job.windows[0].span.start, job.windows[-1].span.end) == (at("2024-03-01T00:01"), at("2024-03-02T00:01"))
    assert all(one.span.end == other.span.start for one, other in pairwise(job.windows))
    assert {(window.limit, window.requests, window.weight) for window in job.windows} == {(1000, 2, 0)}


def test_what_ends_within_a_window_is_asked_for_to_its_end():
    job = only(plan(recent(50, end="2024-03-01T09:30"), by_year, plenty))
    assert [window.span for window in job.windows] == [
        span("2024-03-01T00:01", "2024-03-01T04:01"),
        span("2024-03-01T04:01", "2024-03-01T08:01"),
        span("2024-03-01T08:01", "2024-03-01T09:30"),
    ]


@given(st.integers(1, 60), st.integers(1, 10 * 24))
@settings(max_examples=60)
def test_together_only_where_that_takes_fewer_requests(number, hours):
    start = at("2024-03-01")
    all_wants = [Want(funding(f"S{n}"), TimeRange(start, start + hours * HOUR)) for n in range(number)]
    jobs = plan(all_wants, by_year, plenty)
    assert sum(job.requests for job in jobs) <= requests_each(all_wants)
    assert sorted(one for job in jobs for one in job.series) == sorted(want.series for want in all_wants)


@pytest.mark.parametrize(("number", "jobs"), [(5, 5), (7, 1)])
def test_six_windows_are_worth_it_for_seven_symbols(number, jobs):
    assert len(plan(recent(number), by_year, plenty)) == jobs


def test_together_all_that_each_one_misses():
    hours = [f"2024-03-0{day}T{hour:02d}:01" for day in (1, 2) for hour in (0, 4, 8, 12, 16, 20)]
    all_wants = [Want(funding(f"S{n}"), span(hours[0], hours[n % 6 + 6]), (span(hours[1], hours[5]),)) for n in range(60)]
    job = only(plan(all_wants, by_year, plenty))
    assert (job.windows[0].span.start, job.windows[-1].span.end) == (at(hours[0]), at(hours[11]))


def test_who_misses_a_long_range_is_asked_for_alone():
    long = Want(funding("OLD"), span("2023-01-01", "2024-03-02"))
    together, alone = plan([*recent(50), long], by_year, plenty)
    assert len(together.series) == 50
    assert (alone.series, alone.windows[0].span) == ((funding("OLD"),), long.span)


def test_only_usd_m_answers_without_symbol():
    jobs = plan([Want(funding(f"S{n}", "cm"), span("2024-03-01", "2024-03-02")) for n in range(50)], by_year, plenty)
    assert [len(job.series) for job in jobs] == [1] * 50


def test_windows_together_cover_all_that_any_series_misses():
    all_wants = [*recent(40), *recent(41, "2024-03-01T20:01", "2024-03-02T20:01")[40:]]
    job = only(plan(all_wants, by_year, plenty))
    assert (job.windows[0].span.start, job.windows[-1].span.end) == (at("2024-03-01T00:01"), at("2024-03-02T20:01"))


def test_new_year_belongs_to_two_files_of_each_series():
    job = only(plan(recent(50, "2023-12-31T12:01", "2024-01-01T12:01"), by_year, plenty))
    assert [partition.name for partition in job.partitions] == ["2023", "2024"] * 50


def test_datasets_and_markets_are_planned_side_by_side():
    day = span("2024-03-01", "2024-03-02")
    mixed = [
        Want(Series("um", "funding", "BTCUSDT"), day),
        Want(Series("um", "klines", "BTCUSDT", "1h"), day, first_row=0),
        Want(Series("um", "mark_klines", "BTCUSDT", "1h"), day, first_row=0),
    ]
    assert [job.series[0].dataset for job in plan(mixed, by_year, plenty)] == ["funding", "klines", "mark_klines"]
