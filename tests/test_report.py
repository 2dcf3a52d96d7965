"""What people and programs read of a plan, a gap or a table, letter by letter."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl import report
from etl.model import ArchiveFile, Finding, Job, Partition, Series, Window
from etl.ranges import MINUTE, TimeRange, parse_time

BARS = Series("um", "klines", "BTCUSDT", "1m")
FUNDING = Series("um", "funding", "BTCUSDT")


def span(start: str, end: str) -> TimeRange:
    return TimeRange(parse_time(start), parse_time(end))


def year(series: Series, name: str) -> Partition:
    return Partition(series, name, span(f"{name}-01-01", f"{int(name) + 1}-01-01"))


TWO_WINDOWS = Job(
    (BARS,),
    (year(BARS, "2024"),),
    ("rest",),
    (
        Window(span("2024-01-01", "2024-01-02T01:00"), 1500, 1, 10, 1500),
        Window(span("2024-01-02T01:00", "2024-01-02T01:05"), 5, 1, 1, 5),
    ),
)
EMPTY = Job((BARS,), (year(BARS, "2024"),), ("rest",), (), (span("2024-01-01", "2024-02-01"),))
SHARED = Job(
    (FUNDING, Series("um", "funding", "ETHUSDT")),
    tuple(year(Series("um", "funding", symbol), name) for symbol in ("BTCUSDT", "ETHUSDT") for name in ("2023", "2024")),
    ("rest",),
    (Window(span("2023-12-31T22:01", "2024-01-01T02:01"), 1000, 2, 2, 2),),
)


# ---- JSON


def test_a_plan_as_json():
    assert report.plan_json([TWO_WINDOWS, EMPTY, SHARED], 12.345) == {
        "jobs": 3,
        "requests": 4,
        "weight": 13,
        "bytes_estimated": 1507 * 147,
        "eta_s": 12.3,
        "preparation": {"requests": 0, "weight": 0},
        "plan": [
            {
                "market": "um",
                "dataset": "klines",
                "symbol": "BTCUSDT",
                "interval": "1m",
                "series": 1,
                "partitions": ["2024"],
                "source": "rest",
                "start": "2024-01-01T00:00:00Z",
                "end": "2024-01-02T01:05:00Z",
                "page_limit": 1500,
                "requests": 2,
                "weight": 11,
                "rows_estimated": 1505,
                "bytes_estimated": 1505 * 147,
            },
            {
                "market": "um",
                "dataset": "klines",
                "symbol": "BTCUSDT",
                "interval": "1m",
                "series": 1,
                "partitions": ["2024"],
                "source": "rest",
                "start": None,
                "end": None,
                "page_limit": None,
                "requests": 0,
                "weight": 0,
                "rows_estimated": 0,
                "bytes_estimated": 0,
            },
            {
                "market": "um",
                "dataset": "funding",
                "symbol": None,
                "interval": None,
                "series": 2,
                "partitions": ["2023", "2024"],
                "source": "rest",
                "start": "2023-12-31T22:01:00Z",
                "end": "2024-01-01T02:01:00Z",
                "page_limit": 1000,
                "requests": 2,
                "weight": 2,
                "rows_estimated": 2,
                "bytes_estimated": 2 * 147,
            },
        ],
    }


NOTHING = {"preparation": {"requests": 0, "weight": 0}, "plan": []}


def test_no_plan_as_json():
    document = report.plan_json([], 0.0)
    assert document == {"jobs": 0, "requests": 0, "weight": 0, "bytes_estimated": 0, "eta_s": 0.0, **NOTHING}
    assert json.loads(json.dumps(document)) == document


def test_a_range_of_a_series_as_json():
    assert report.span_json(FUNDING, span("2024-01-01", "2024-01-01T00:00:00.007")) == {
        "market": "um",
        "dataset": "funding",
        "symbol": "BTCUSDT",
        "interval": None,
        "start": "2024-01-01T00:00:00Z",
        "end": "2024-01-01T00:00:00.007Z",
    }


def test_a_finding_as_json():
    finding = Finding(BARS, "changed", "warning", span("2024-01-01", "2024-01-03"), 3, "3 stored rows were replaced")
    assert report.finding_json(finding) == {
        "market": "um",
        "dataset": "klines",
        "symbol": "BTCUSDT",
        "interval": "1m",
        "check": "changed",
        "severity": "warning",
        "count": 3,
        "first": "2024-01-01T00:00:00Z",
        "message": "3 stored rows were replaced",
    }


# ---- text


ZIP = ArchiveFile(span("2024-01-01", "2024-02-01"), "data/…/BTCUSDT-1m-2024-01.zip", 2_000_000, "etag")
TWO_SOURCES = Job(
    (BARS,),
    (year(BARS, "2024"),),
    ("rest", "archive"),
    (
        Window(ZIP.span, 0, 2, 0, 44_640, ZIP, 2_000_000),
        Window(span("2024-02-01", "2024-02-01T00:10"), 499, 1, 1, 10),
    ),
)


def test_a_plan_as_text():
    assert report.plan_text([TWO_WINDOWS, EMPTY, SHARED], 12.345, (3, 3)) == (
        "series                  files       range                                         source  requests  weight   rows\n"
        "um klines BTCUSDT 1m    2024        2024-01-01T00:00:00Z .. 2024-01-02T01:05:00Z  rest           2      11  1,505\n"
        "um klines BTCUSDT 1m    2024        - .. -                                        rest           0       0      0\n"
        "um funding × 2 symbols  2023..2024  2023-12-31T22:01:00Z .. 2024-01-01T02:01:00Z  rest           2       2      2\n"
        "3 jobs, 7 requests (3 of them to make this plan), weight 16, about 222 kB, at least 12.3 s; nothing was written"
    )


def test_a_job_of_two_sources_has_a_line_for_each():
    document = report.plan_json([TWO_SOURCES], 1.0)
    assert (document["jobs"], document["requests"], document["weight"]) == (1, 3, 1)
    assert document["bytes_estimated"] == 2_000_000 + 10 * 147
    lines = [(line["source"], line["page_limit"], line["requests"], line["bytes_estimated"]) for line in document["plan"]]
    assert lines == [("archive", None, 2, 2_000_000), ("rest", 499, 1, 1470)]


def test_no_plan_as_text():
    assert report.plan_text([], 0.0) == "nothing to do: all of it is covered"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.04, "0.0 s"),
        (12.34, "12.3 s"),
        (89.9, "89.9 s"),
        (90, "2 min"),
        (600, "10 min"),
        (5400, "1.5 h"),
        (36_000, "10.0 h"),
    ],
)
def test_durations(seconds, text):
    assert report.duration(seconds) == text


@pytest.mark.parametrize(
    ("rows", "text"),
    [(0, "0 B"), (6, "882 B"), (1_000, "147 kB"), (1_000_000, "147 MB"), (50_000_000, "7 GB"), (10_000_000_000, "1.5 TB")],
)
def test_sizes(rows, text):
    job = Job((BARS,), (year(BARS, "2024"),), ("rest",), (Window(TimeRange(0, MINUTE), 1, 1, 1, rows),))
    assert f", about {text}, " in report.plan_text([job], 0)


def test_tables():
    text = report.table(("name", "n", "note"), [("a", "1,000", ""), ("long name", "5", "x")], right=(1,))
    assert text == "name           n  note\na          1,000\nlong name      5  x"
    assert report.table(("a", "b"), []) == "a  b"


@given(st.lists(st.tuples(st.text("abc", max_size=8), st.text("xyz", max_size=3)), max_size=5))
def test_columns_of_a_table_begin_below_each_other(rows):
    lines = report.table(("first", "second"), rows).split("\n")
    begins = max([len("first"), *(len(first) for first, _ in rows)]) + 2
    assert [line[begins:] for line in lines] == ["second", *(second for _, second in rows)]
    assert [line[:begins].rstrip() for line in lines] == ["first", *(first for first, _ in rows)]


def test_records():
    rows = [
        {"symbol": "BTCUSDT", "rows": 1234567, "lag": None, "sources": ["rest", "archive"], "tick": 0.1, "more": 1},
        {"symbol": "ETHUSDT", "rows": None, "lag": None, "sources": [], "tick": 0.01, "more": 2},
    ]
    assert report.records(rows, ("symbol", "rows", "lag", "sources", "tick")) == (
        "symbol        rows  lag  sources       tick\n"
        "BTCUSDT  1,234,567  -    rest,archive   0.1\n"
        "ETHUSDT          -  -                  0.01"
    )
    assert report.records([], ("symbol", "rows")) == "symbol  rows"


def test_what_is_not_to_be_printed_raw_is_told_by_its_code_point():
    """The names of the exchange may hold anything: an escape sequence is for no terminal, a line break for no row."""
    rows = [{"symbol": "\x1b[31mRED", "names": ["x\ny", "\u202eTDSUCTB"]}]
    assert report.records(rows, ("symbol", "names")) == ("symbol           names\n⟨U+001B⟩[31mRED  x⟨U+000A⟩y,⟨U+202E⟩TDSUCTB")
    assert "x⟨U+000A⟩y 1m" in report.plan_text(
        [Job((Series("um", "klines", "x\ny", "1m"),), (year(BARS, "2024"),), ("rest",), ())], 0
    )


def gap(number: int, verdict: str = "missing") -> tuple[Series, TimeRange, str]:
    start = parse_time("2024-01-01") + number * MINUTE
    return BARS, TimeRange(start, start + MINUTE), verdict


def test_gaps():
    assert report.gaps_text([]) == []
    assert report.gaps_text([gap(0), gap(1, "lost")]) == [
        "  um klines BTCUSDT 1m: 2024-01-01T00:00:00Z .. 2024-01-01T00:01:00Z missing",
        "  um klines BTCUSDT 1m: 2024-01-01T00:01:00Z .. 2024-01-01T00:02:00Z lost",
    ]


def test_of_many_gaps_the_first_are_listed_and_all_are_counted():
    gaps = [gap(0), gap(1), gap(2, "lost"), gap(3)]
    assert report.gaps_text(iter(gaps), most=2) == [
        "  um klines BTCUSDT 1m: 2024-01-01T00:00:00Z .. 2024-01-01T00:01:00Z missing",
        "  um klines BTCUSDT 1m: 2024-01-01T00:01:00Z .. 2024-01-01T00:02:00Z missing",
        "  … 4 in all (3 missing, 1 lost); --json lists them",
    ]
    assert len(report.gaps_text(gaps, most=4)) == 4
