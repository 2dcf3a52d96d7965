"""One job against sources that are plain objects: who is asked, in which order, and what of the answers ends in the lake."""

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
import pytest

from etl.errors import BadAnswer, Cancelled, NotPublished, NotServed, Refused, Rejected, Transient
from etl.lake.store import Store
from etl.model import ArchiveFile, Coverage, Job, Series, Window
from etl.ranges import DAY, HOUR, TimeRange, iso, parse_time
from etl.schema import arrow_schema
from etl.work import Listing, Worker

BARS = Series("um", "klines", "BTCUSDT", "1h")
RATES = Series("um", "funding", "BTCUSDT")
NOW = parse_time("2026-03-01T12:00:30")
TODAY = parse_time("2026-03-01")
JANUARY = parse_time("2026-01-01")
FOLDER = "data/futures/um"


def rows(opens, volume=1.0):
    """Bars of 1h that open then."""
    opens = list(opens)
    schema = arrow_schema("klines")
    values = {name: [volume] * len(opens) for name in schema.names}
    values |= {"open_time": opens, "close_time": [time + HOUR - 1 for time in opens], "count": [1] * len(opens)}
    return pa.Table.from_arrays([pa.array(values[field.name]).cast(field.type) for field in schema], schema=schema)


def settlements(times, mark_price):
    schema = arrow_schema("funding")
    values = {
        "funding_time": times,
        "funding_rate": [0.0001] * len(times),
        "mark_price": [mark_price] * len(times),
        "rate_type": [None] * len(times),
    }
    return pa.Table.from_arrays([pa.array(values[field.name]).cast(field.type) for field in schema], schema=schema)


def hours(span):
    return range(span.start, span.end, HOUR)


@dataclass
class Zip:
    rows: pa.Table
    sha256: str
    etag: str | None = None


@dataclass
class Sources:
    """Both sources, and in which order they were asked. `spoil(asked)` may raise instead, or return the opens to leave out."""

    spoil: object = lambda asked: ()
    files: dict = field(default_factory=dict)
    first: int | None = None
    asked: list = field(default_factory=list)

    def first_bar(self, series, start):
        self.asked.append(("first", start))
        return self.first

    def answer(self, series, window):
        self.asked.append(window.span)
        lacks = self.spoil(window.span) or ()
        return {one: [self._page(one, window.span, lacks)] for one in series}

    def _page(self, series, span, lacks):
        if series.interval is None:
            return settlements([time for time in range(span.start, span.end, 8 * HOUR) if time not in lacks], 5.0)
        return rows(time for time in hours(span) if time not in lacks)

    def daily(self, series, span):
        self.asked.append(("listing", span))
        self.spoil("listing")
        named = [one for one in days(400, parse_time("2025-06-01")) if one.start >= span.start and one.end <= span.end]
        files = [in_file("daily", iso(one.start)[:10], iso(one.start)[:10], iso(one.end)[:10]).file for one in named]
        return tuple(file for file in files if file.key.rpartition("/")[2] in self.files)

    def fetch(self, series, file):
        name = file.key.rpartition("/")[2]
        self.asked.append(name)
        lacks = self.spoil(name)
        if name not in self.files:
            raise NotPublished(f"no {file.key}")
        there = [time for time in self.files[name] if time not in (lacks or ())]
        return Zip(rows(there) if series.interval else settlements(there, None), f"sha of {name}")


@pytest.fixture
def lake(tmp_path):
    store = Store(tmp_path / "lake", "year")
    store.create("mainnet")
    return store


def work(lake, sources, job, threads=4, **options):
    with ThreadPoolExecutor(threads) as asking, ThreadPoolExecutor(1) as cores:
        return Worker(lake, sources, sources, asking, cores, now=lambda market: NOW, **options).run(job)


def over_rest(*spans, limit=99):
    return tuple(Window(span, limit, 1, 1, len(hours(span))) for span in spans)


def in_file(kind, name, start, end, listed=True):
    span = TimeRange(parse_time(start), parse_time(end))
    key = f"{FOLDER}/{kind}/klines/BTCUSDT/1h/BTCUSDT-1h-{name}.zip"
    file = ArchiveFile(span, key, 100 if listed else None, "v1" if listed else None)
    return Window(span, 0, 2, 0, len(hours(span)), file)


def job_of(lake, *windows, sources=("rest", "archive"), series=BARS, **options):
    span = TimeRange(min(one.span.start for one in windows), max(one.span.end for one in windows))
    return Job((series,), tuple(lake.partitions(series, span)), sources, tuple(windows), **options)


def days(count, start=JANUARY):
    return [TimeRange(start + n * DAY, start + (n + 1) * DAY) for n in range(count)]


def opens(lake, series=BARS):
    column = "open_time" if series.interval else "funding_time"
    tables = [lake.rows(file.partition)[column].cast("int64") for file in lake.files(series)]
    return [time for table in tables for time in table.to_pylist()]


def lost(lake, series=BARS):
    return [span for file in lake.files(series) for span in file.lost]


def entries(lake, series=BARS):
    return [(entry.span, entry.source, entry.key) for file in lake.files(series) for entry in file.coverage]


# ---- windows and their failures


@pytest.mark.parametrize("error", [Rejected("no", 400, -1121), Transient("503"), BadAnswer("a row of 3"), NotServed("over")])
def test_a_failure_is_that_of_its_window_alone(lake, error):
    spans = days(5)

    def spoil(asked):
        if asked == spans[1]:
            raise error

    receipt = work(lake, Sources(spoil), job_of(lake, *over_rest(*spans), sources=("rest",)))
    assert receipt.error is error
    assert opens(lake) == [time for span in spans if span != spans[1] for time in hours(span)]
    assert receipt.rows_written == 4 * 24
    assert lost(lake) == [spans[1]]
    assert entries(lake) == [(spans[0], "rest", None), (TimeRange(spans[2].start, spans[4].end), "rest", None)]


def test_a_failure_of_one_page_of_a_window_is_that_of_the_page(lake):
    span = TimeRange(JANUARY, JANUARY + 30 * HOUR)

    def spoil(asked):
        if asked.start == JANUARY + 10 * HOUR:
            raise Transient("503")

    receipt = work(lake, Sources(spoil), job_of(lake, *over_rest(span, limit=10), sources=("rest",)))
    assert isinstance(receipt.error, Transient)
    assert lost(lake) == [TimeRange(JANUARY + 10 * HOUR, JANUARY + 20 * HOUR)]
    assert len(opens(lake)) == 20


def test_what_failed_is_stored_by_the_next_run(lake):
    spans, broken = days(3), [Transient("503")]

    def spoil(asked):
        if asked == spans[1] and broken:
            raise broken.pop()

    job = job_of(lake, *over_rest(*spans), sources=("rest",))
    assert work(lake, Sources(spoil), job).error
    again = work(lake, Sources(spoil), job_of(lake, *over_rest(spans[1]), sources=("rest",)))
    assert (again.error, again.rows_written, lost(lake)) == (None, 24, [])
    assert opens(lake) == list(hours(TimeRange(JANUARY, JANUARY + 3 * DAY)))


def test_the_same_answers_leave_the_file_untouched(lake):
    job = job_of(lake, *over_rest(*days(2)), sources=("rest",))
    work(lake, Sources(), job)
    path = lake.path(job.partitions[0])
    before = path.read_bytes(), path.stat().st_mtime_ns
    again = work(lake, Sources(), job)
    assert (again.rows_written, again.partitions_written) == (0, 0)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_windows_are_asked_at_the_same_time(lake):
    """Each of three requests waits until all three are there, of whatever source."""
    together = threading.Barrier(3, timeout=20)
    file = in_file("daily", "2026-01-03", "2026-01-03", "2026-01-04")
    sources = Sources(lambda asked: together.wait() and (), {"BTCUSDT-1h-2026-01-03.zip": hours(file.span)})
    receipt = work(lake, sources, job_of(lake, *over_rest(*days(2)), file), threads=3)
    assert receipt.error is None
    assert len(opens(lake)) == 3 * 24


def test_an_error_of_ours_is_no_answer(lake):
    def spoil(asked):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work(lake, Sources(spoil), job_of(lake, *over_rest(*days(2)), sources=("rest",)))
    assert lake.files(BARS) == []


@pytest.mark.parametrize("sources", [("rest",), ("rest", "archive")])
def test_cancelled_ends_the_job_and_keeps_what_was_answered(lake, sources):
    spans, told = days(20), threading.Semaphore(0)

    def spoil(asked):
        if asked == spans[2]:
            assert told.acquire(timeout=20)  # both answers before it have been taken
            assert told.acquire(timeout=20)
            raise Cancelled("stopped")
        if asked.start > spans[2].start:
            time.sleep(0.05)  # under way before the end was noticed

    asked = Sources(spoil)
    job = job_of(lake, *over_rest(*spans), sources=sources)
    receipt = work(lake, asked, job, threads=1, answered=lambda rows: told.release())
    assert isinstance(receipt.error, Cancelled)
    assert opens(lake)[:48] == list(hours(TimeRange(JANUARY, JANUARY + 2 * DAY)))
    assert not any(span.intersect(spans[2]) for span, _, _ in entries(lake))
    assert spans[2].start in lost(lake)[0]
    assert asked.asked[:3] == spans[:3]
    assert len(asked.asked) < len(spans)
    assert not any(isinstance(one, str) for one in asked.asked)  # no other source is asked


def test_a_refusal_is_told_before_other_errors(lake):
    spans = days(3)

    def spoil(asked):
        raise Refused("418") if asked == spans[2] else Transient("503")

    receipt = work(lake, Sources(spoil), job_of(lake, *over_rest(*spans), sources=("rest",)), threads=1)
    assert isinstance(receipt.error, Refused)


def test_each_answered_window_is_told_with_its_rows(lake):
    told = []
    work(lake, Sources(), job_of(lake, *over_rest(*days(3)), sources=("rest",)), answered=told.append)
    assert Counter(told) == {24: 3}


def test_two_different_rows_for_one_bar_cost_that_bar_alone(lake):
    first, second = TimeRange(JANUARY, JANUARY + DAY), TimeRange(JANUARY + DAY, JANUARY + 2 * DAY)

    class Twice(Sources):
        def answer(self, series, window):
            found = super().answer(series, window)
            if window.span == second:
                found[BARS].append(rows([second.start + HOUR], volume=2.0))
            return found

    receipt = work(lake, Twice(), job_of(lake, *over_rest(first, second), sources=("rest",)))
    assert isinstance(receipt.error, BadAnswer)
    assert second.start + HOUR not in opens(lake)
    assert len(opens(lake)) == 47


# ---- the next source


MONTH = ("monthly", "2026-01", "2026-01-01", "2026-02-01")
WHOLE = TimeRange(JANUARY, parse_time("2026-02-01"))
DAY_17 = TimeRange(parse_time("2026-01-17"), parse_time("2026-01-18"))
MONTH_NAME, DAY_NAME = "BTCUSDT-1h-2026-01.zip", "BTCUSDT-1h-2026-01-17.zip"


def test_a_file_that_lacks_a_day_then_its_daily_file_then_rest(lake):
    """The month lacks the 17th, the daily file its last four hours, REST has those."""
    some = TimeRange(DAY_17.start, DAY_17.start + 20 * HOUR)
    rest = TimeRange(some.end, DAY_17.end)
    sources = Sources(files={MONTH_NAME: [time for time in hours(WHOLE) if time not in DAY_17], DAY_NAME: hours(some)})
    receipt = work(lake, sources, job_of(lake, in_file(*MONTH)))
    assert sources.asked == [MONTH_NAME, DAY_NAME, rest]
    assert receipt.error is None
    assert opens(lake) == list(hours(WHOLE))
    month, day = (f"{FOLDER}/{kind}/klines/BTCUSDT/1h/{name}" for kind, name in (("monthly", MONTH_NAME), ("daily", DAY_NAME)))
    assert entries(lake) == [
        (TimeRange(WHOLE.start, DAY_17.start), "archive", month),
        (some, "archive", day),
        (rest, "rest", None),
        (TimeRange(DAY_17.end, WHOLE.end), "archive", month),
    ]
    told = {finding.message.split(" ")[0].rpartition("/")[2] for finding in receipt.findings if finding.check == "incomplete"}
    assert told == {MONTH_NAME, DAY_NAME}


LAST_20 = TimeRange(parse_time("2026-01-12"), WHOLE.end)
NEXT_4 = TimeRange(LAST_20.start, LAST_20.start + 4 * DAY)


@pytest.mark.parametrize("sources", [("rest", "archive"), ("archive",)])
def test_many_days_beyond_what_is_listed_are_looked_up_in_a_listing(lake, sources):
    """The month ends with the 11th; of the rest there is one day more."""
    asked = Sources(files={MONTH_NAME: hours(TimeRange(WHOLE.start, LAST_20.start)), DAY_NAME: hours(DAY_17)})
    receipt = work(lake, asked, job_of(lake, in_file(*MONTH), sources=sources))
    over_rest = [TimeRange(LAST_20.start, DAY_17.start), TimeRange(DAY_17.end, WHOLE.end)] if "rest" in sources else []
    assert asked.asked[:2] == [MONTH_NAME, ("listing", LAST_20)]
    assert sorted(map(str, asked.asked[2:])) == sorted(map(str, [DAY_NAME, *over_rest]))
    assert receipt.error is None
    missing = [] if "rest" in sources else [*hours(LAST_20)]
    assert opens(lake) == [time for time in hours(WHOLE) if time not in missing or time in DAY_17]
    assert {source for span, source, _ in entries(lake) if span.intersect(LAST_20)} == {"archive", *sources}


def test_a_few_days_and_those_of_a_listing_that_fails_are_asked_for_by_their_names(lake):
    def spoil(asked):
        if asked == "listing":
            raise Transient("503")

    month = {MONTH_NAME: [time for time in hours(WHOLE) if time not in NEXT_4]}
    few = Sources(files=month)
    work(lake, few, job_of(lake, in_file(*MONTH), sources=("archive",)))
    assert set(few.asked) == {MONTH_NAME, *(f"BTCUSDT-1h-2026-01-{day}.zip" for day in range(12, 16))}
    many = Sources(spoil, {MONTH_NAME: hours(TimeRange(WHOLE.start, LAST_20.start))})
    work(lake, many, job_of(lake, in_file(*MONTH), sources=("archive",)))
    assert len([one for one in many.asked if isinstance(one, str)]) == 1 + 20


def test_what_nobody_has_is_a_hole_that_both_were_asked_for(lake):
    sources = Sources(lambda asked: hours(DAY_17), {MONTH_NAME: hours(WHOLE), DAY_NAME: hours(DAY_17)})
    receipt = work(lake, sources, job_of(lake, in_file(*MONTH), life=TimeRange(0, NOW)))
    assert sources.asked == [MONTH_NAME, DAY_NAME, DAY_17]
    assert receipt.error is None
    assert [file.holes for file in lake.files(BARS)] == [(DAY_17,)]
    assert {source for span, source, _ in entries(lake) if span.intersect(DAY_17)} == {"rest", "archive"}
    assert [finding.check for finding in receipt.findings] == []


def test_only_the_archive_may_be_asked(lake):
    sources = Sources(lambda asked: hours(DAY_17), {MONTH_NAME: hours(WHOLE), DAY_NAME: hours(DAY_17)})
    receipt = work(lake, sources, job_of(lake, in_file(*MONTH), sources=("archive",)))
    assert (sources.asked, receipt.error) == ([MONTH_NAME, DAY_NAME], None)
    assert {source for _, source, _ in entries(lake)} == {"archive"}


def test_only_rest_may_be_asked(lake):
    sources = Sources(lambda asked: hours(DAY_17), {DAY_NAME: hours(DAY_17)})
    work(lake, sources, job_of(lake, *over_rest(WHOLE, limit=1000), sources=("rest",)))
    assert sources.asked == [WHOLE]


def test_a_spoilt_file_is_replaced_and_told(lake):
    def spoil(asked):
        if asked == MONTH_NAME:
            raise BadAnswer("its SHA-256 is another")

    sources = Sources(spoil, {f"BTCUSDT-1h-2026-01-{day:02}.zip": hours(days(31)[day - 1]) for day in range(1, 31)})
    receipt = work(lake, sources, job_of(lake, in_file(*MONTH)))
    assert receipt.error is None
    assert opens(lake) == list(hours(WHOLE))
    assert sources.asked[-1] == days(31)[30]  # the last day has no file: REST
    assert [finding.check for finding in receipt.findings if "SHA-256" in finding.message] == ["archive"]


def test_a_file_that_is_too_young_to_be_missed_denies_nothing(lake):
    young = in_file("daily", "2026-02-27", "2026-02-27", "2026-02-28", listed=False)
    receipt = work(lake, Sources(), job_of(lake, young, sources=("archive",)))
    assert (receipt.error, entries(lake)) == (None, [])


def test_a_file_that_cannot_come_any_more_is_an_answer(lake):
    old = in_file("daily", "2026-01-17", "2026-01-17", "2026-01-18", listed=False)
    receipt = work(lake, Sources(), job_of(lake, old, sources=("archive",)))
    assert (receipt.error, entries(lake)) == (None, [(DAY_17, "archive", None)])


def test_a_listed_file_that_is_not_there_fails(lake):
    listed = in_file("daily", "2026-01-17", "2026-01-17", "2026-01-18")
    receipt = work(lake, Sources(), job_of(lake, listed, sources=("archive",)))
    assert isinstance(receipt.error, NotPublished)
    assert lost(lake) == [DAY_17]


def test_a_day_that_cannot_be_read_comes_from_the_month(lake):
    day = in_file("daily", "2026-01-17", "2026-01-17", "2026-01-18", listed=False)
    sources = Sources(files={MONTH_NAME: hours(WHOLE)})
    receipt = work(lake, sources, job_of(lake, day))
    assert (sources.asked, receipt.error) == ([DAY_NAME, MONTH_NAME], None)
    assert opens(lake) == list(hours(DAY_17))
    assert entries(lake) == [(DAY_17, "archive", f"{FOLDER}/monthly/klines/BTCUSDT/1h/{MONTH_NAME}")]


def test_a_file_that_fails_is_lost_also_where_no_other_file_is(lake):
    def spoil(asked):
        if asked == MONTH_NAME:
            raise Transient("503")

    receipt = work(lake, Sources(spoil), job_of(lake, in_file(*MONTH), sources=("archive",)))
    assert isinstance(receipt.error, Transient)
    assert (lost(lake), entries(lake)) == ([WHOLE], [])


@pytest.mark.parametrize("files", [{}, {DAY_NAME: ()}], ids=["no file", "an empty file"])
def test_a_failure_of_rest_is_not_replaced_by_the_nothing_of_the_archive(lake, files):
    def spoil(asked):
        if isinstance(asked, TimeRange):
            raise Transient("503")

    receipt = work(lake, Sources(spoil, files), job_of(lake, *over_rest(DAY_17)))
    assert isinstance(receipt.error, Transient)
    assert lost(lake) == [DAY_17]
    assert (opens(lake), entries(lake)) == ([], [])


def test_a_failure_of_rest_is_replaced_by_the_rows_of_the_archive(lake):
    def spoil(asked):
        if isinstance(asked, TimeRange):
            raise Transient("503")

    some = TimeRange(DAY_17.start, DAY_17.start + 20 * HOUR)
    receipt = work(lake, Sources(spoil, {DAY_NAME: hours(some)}), job_of(lake, *over_rest(DAY_17)))
    assert isinstance(receipt.error, Transient)
    assert opens(lake) == list(hours(some))
    assert lost(lake) == [TimeRange(some.end, DAY_17.end)]


def test_the_end_of_a_contract_is_an_answer(lake):
    """Behind it REST does not tell: a window that expects no row."""
    dead = Window(TimeRange(DAY_17.end, DAY_17.end + DAY), 1, 2, 2, 0)

    def spoil(asked):
        if asked == dead.span:
            raise NotServed("over")

    life = TimeRange(JANUARY, DAY_17.end)
    receipt = work(lake, Sources(spoil), job_of(lake, *over_rest(DAY_17), dead, sources=("rest",), life=life))
    assert receipt.error is None
    assert entries(lake) == [(TimeRange(DAY_17.start, dead.span.end), "rest", None)]
    assert [file.holes for file in lake.files(BARS)] == [()]


# ---- what may not be believed


def test_an_empty_answer_of_a_contract_that_trades_is_no_answer(lake):
    """Nobody probed, because it was listed long before: then the first bar is asked for after all."""
    sources = Sources(hours, first=DAY_17.start)
    job = job_of(lake, *over_rest(DAY_17), sources=("rest",), life=TimeRange(DAY_17.start, NOW))
    receipt = work(lake, sources, job, listing=lambda series: Listing(trades=parse_time("2020-01-01")))
    assert sources.asked == [DAY_17, ("first", DAY_17.start)]
    assert isinstance(receipt.error, BadAnswer)
    assert lake.files(BARS) == []


def test_bars_that_closed_just_now_are_not_denied(lake):
    """The bar of 11 h closed half a minute ago; that it is not there says nothing yet."""
    span = TimeRange(TODAY, TODAY + 12 * HOUR)
    receipt = work(lake, Sources(lambda asked: [span.end - HOUR]), job_of(lake, *over_rest(span), sources=("rest",)))
    assert receipt.error is None
    assert entries(lake) == [(TimeRange(span.start, span.end - HOUR), "rest", None)]


def test_rows_that_cannot_be_true_stay_out(lake):
    """Of the archive's rows those after the contract's end."""
    ends = DAY_17.start + 10 * HOUR
    file = in_file("daily", "2026-01-17", "2026-01-17", "2026-01-18")
    sources = Sources(files={DAY_NAME: hours(DAY_17)})
    job = job_of(lake, file, sources=("archive",), life=TimeRange(JANUARY, ends))
    receipt = work(lake, sources, job, listing=lambda series: Listing(ends=ends))
    assert opens(lake) == list(hours(TimeRange(DAY_17.start, ends)))
    assert [finding.check for finding in receipt.findings] == ["foreign"]


def test_a_row_of_rest_stands_over_one_of_the_archive(lake):
    work(lake, Sources(), job_of(lake, *over_rest(DAY_17), sources=("rest",)))

    class Other(Sources):
        def fetch(self, series, file):
            return Zip(rows(hours(file.span), volume=7.0), "other")

    two = in_file("daily", "2026-01-17", "2026-01-17", "2026-01-18"), in_file("daily", "2026-01-18", "2026-01-18", "2026-01-19")
    receipt = work(lake, Other(), job_of(lake, *two))
    (file,) = lake.files(BARS)
    assert lake.rows(file.partition)["volume"].to_pylist() == [1.0] * 24 + [7.0] * 24
    assert receipt.rows_written == 24
    assert [(span, source) for span, source, _ in entries(lake)] == [
        (DAY_17, "rest"),
        (TimeRange(DAY_17.end, DAY_17.end + DAY), "archive"),
    ]


# ---- places


def test_rows_go_to_the_year_of_their_open(lake):
    turn = TimeRange(parse_time("2025-12-31"), parse_time("2026-01-02"))
    receipt = work(lake, Sources(), job_of(lake, *over_rest(turn), sources=("rest",)))
    assert receipt.partitions_written == 2
    assert [(file.partition.name, file.rows) for file in lake.files(BARS)] == [("2025", 24), ("2026", 24)]
    assert [entry.checked for file in lake.files(BARS) for entry in file.coverage] == [TODAY, TODAY]


def test_years_without_rows_get_no_file(lake):
    early = TimeRange(parse_time("2023-01-01"), JANUARY)
    job = Job((BARS,), tuple(lake.partitions(BARS, TimeRange(early.start, DAY_17.end))), ("rest",), over_rest(DAY_17), (early,))
    work(lake, Sources(), job)
    (file,) = lake.files(BARS)
    assert file.partition.name == "2026"
    assert file.coverage == (
        Coverage(early, "rest", TODAY),
        Coverage(DAY_17, "rest", TODAY),
    )


def test_settlements_come_from_rest_and_what_it_forgot_from_the_month(lake):
    """REST knows the present contract only; the file begins two weeks earlier."""
    start, end = WHOLE.start, WHOLE.end
    known = start + 14 * DAY
    name = "BTCUSDT-fundingRate-2026-01.zip"
    sources = Sources(lambda asked: () if asked == name else range(start, known), {name: range(start, end, 8 * HOUR)})
    job = job_of(lake, Window(WHOLE, 1000, 2, 0, 93), series=RATES)
    receipt = work(lake, sources, job)
    assert sources.asked == [WHOLE, name]
    assert receipt.error is None
    assert opens(lake, RATES) == list(range(start, end, 8 * HOUR))
    marks = lake.rows(lake.files(RATES)[0].partition)["mark_price"].to_pylist()
    assert marks == [None] * 42 + [5.0] * 51


def test_a_span_that_is_known_to_be_empty_is_recorded_without_asking(lake):
    sources = Sources()
    job = Job((BARS,), tuple(lake.partitions(BARS, DAY_17)), ("rest", "archive"), (), (DAY_17,), life=TimeRange(NOW, NOW))
    receipt = work(lake, sources, job)
    assert (sources.asked, receipt.rows_written) == ([], 0)
    assert entries(lake) == [(DAY_17, "rest", None)]
