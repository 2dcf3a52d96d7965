"""Whole runs against the embedded exchange and its bulk archive: what ends in the lake, whom it names, what was asked."""

import hashlib
import json
import os
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from dataclasses import replace
from urllib.parse import quote

import pytest

from etl import publication, repair, report, verify
from etl.errors import Cancelled, Refused, UsageError
from etl.lake.query import connect
from etl.lake.store import Store
from etl.lake.symbols import Symbols
from etl.model import Series
from etl.pipeline import Pipeline, Selection, Stop, status
from etl.plan import closed_end
from etl.ranges import DAY, HOUR, MINUTE, TimeRange, iso, parse_time
from etl.sim.clock import Clock
from etl.sim.faults import Faults
from etl.sim.market import GeneratedWorld
from etl.sim.server import Simulator

from .exchange import StopAfter, nobody, pages, partitions, settings, stored, truth

# A Sunday: the month of February is published on Monday, its days are all there.
NOW = parse_time("2026-03-01T12:00:30")
HOURS = Series("um", "klines", "BTCUSDT", "1h")
MINUTES = Series("um", "klines", "BTCUSDT", "1m")
RATES = Series("um", "funding", "BTCUSDT")
JANUARY = ("2026-01-01", "2026-02-01")
BLOCKED = {"action": "status", "path": "fapi", "status": 451, "body": "451"}


@pytest.fixture(scope="module")
def world():
    return GeneratedWorld(seed=5, symbols=4)


@contextmanager
def serve(world, *defects, rules=(), now=NOW, **options):
    """The exchange at `now`, with what is wrong with its archive (`defects`) and with its answers (`rules`)."""
    clock = now if isinstance(now, Clock) else Clock(parse_time(now) if isinstance(now, str) else now, frozen=True)
    with Simulator(world, clock=clock, faults=Faults(list(rules), archive=list(defects)), **options) as running:
        yield running


@pytest.fixture(scope="module")
def many():
    return GeneratedWorld(seed=5)


@pytest.fixture(scope="module")
def all_symbols(many):
    with serve(many) as running:
        yield running


@pytest.fixture
def exchange(world):
    with serve(world) as running:
        yield running


def change(exchange, *defects, rules=()):
    """From now on this is wrong, and nothing else."""
    exchange.faults = Faults(list(rules), archive=list(defects))
    exchange.archive._defects = exchange.faults.defects


class Hasty(Stop):
    """Nobody stops, and nobody waits: what is asked again is asked again at once."""

    def wait(self, timeout=None):
        return self.is_set()


def run(exchange, lake, *selections, command="backfill", source="auto", stop=None, **options):
    chosen = {key: options.pop(key) for key in ("stored", "lookback", "dry_run") if key in options}
    with Pipeline(settings(exchange, lake, **options), source=source, stop=stop or Hasty()) as pipeline:
        return pipeline.sync(command, selections, **chosen)


def update(exchange, lake, lookback=3 * DAY, **options):
    return run(exchange, lake, command="update", stored=lambda _: True, lookback=lookback, **options)


def select(datasets, symbols, intervals="1m", start=None, end=None, market="um"):
    moment = [parse_time(time) if isinstance(time, str) else time for time in (start, end)]
    return Selection(market, tuple(datasets.split()), tuple(symbols.split()), tuple(intervals.split()), *moment)


def zips(exchange):
    return [request.path.removeprefix("/") for request in exchange.requests if request.path.endswith(".zip")]


def objects(exchange):
    return [request.path for request in exchange.requests if request.path.startswith("/data/")]


def rest(exchange):
    return [request.path for request in exchange.requests if request.path.startswith(("/fapi", "/dapi", "/api", "/futures"))]


def ledger(lake, where="true"):
    with connect(lake) as connection:
        return connection.sql(f"SELECT * FROM ledger WHERE {where} ORDER BY market, dataset, symbol, interval, day").fetchall()


def told(lake, where="true", columns="day::VARCHAR, source, source_url, missing, verdict"):
    with connect(lake) as connection:
        return connection.sql(f"SELECT {columns} FROM ledger WHERE {where} ORDER BY dataset, symbol, interval, day").fetchall()


def symbols_of(lake, symbol):
    return Symbols(lake, "um").contracts()[symbol]


def compared(exchange, lake):
    """What `etl verify --against archive` says."""
    store = Store.open(lake, network="mainnet", layout="year")
    found = verify.verify(store)
    return verify.compare(found, store, settings(exchange, lake), "archive", stop=Hasty(), chosen=lambda _: True)


def digest(exchange, key):
    """The SHA-256 that the exchange states for an object, which is also that of the object."""
    with urllib.request.urlopen(f"{exchange.url}/{quote(key)}.CHECKSUM") as answer:
        stated = answer.read().split()[0].decode()
    with urllib.request.urlopen(f"{exchange.url}/{quote(key)}") as answer:
        assert hashlib.sha256(answer.read()).hexdigest() == stated
    return stated


def assert_true(exchange, lake, series, start, end, now=NOW):
    """The lake holds exactly what the exchange has."""
    start, end = (parse_time(time) if isinstance(time, str) else time for time in (start, end))
    expected = truth(exchange, series, start, min(end, closed_end(series.interval, now)))
    assert expected
    assert stored(lake, series) == expected


def assert_archived(exchange, lake, series, start, end):
    """As `assert_true`, of settlements as the archive has them: without mark price and rate type."""
    start, end = parse_time(start), parse_time(end)
    expected = [(time, rate, None, None) for time, rate, _, kind in truth(exchange, series, start, end) if kind != "Special"]
    assert expected
    assert stored(lake, series) == expected


def in_order(outcome):
    assert [str(error) for _, error in outcome.failed] == []
    assert outcome.exit_code == 0
    return outcome


# ---- 1. a monthly file that lacks a day


def test_a_day_that_the_month_lacks_comes_from_its_own_file(world, tmp_path):
    """Three months of 1m: every minute there, the repair is named (known tools lose 1,440 bars here and report success)."""
    lake = tmp_path / "lake"
    lacks = {"key": "monthly/.*BTCUSDT-1m-2025-12", "defect": "missing_day", "day": "2025-12-17"}
    with serve(world, lacks) as exchange:
        outcome = in_order(run(exchange, lake, select("klines", "BTCUSDT", "1m", "2025-11-01", "2026-02-01")))
        assert outcome.gaps == []
        assert_true(exchange, lake, MINUTES, "2025-11-01", "2026-02-01")
        assert len(stored(lake, MINUTES)) == 92 * 1440
        day = "data/futures/um/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2025-12-17.zip"
        month = "data/futures/um/monthly/klines/BTCUSDT/1m/BTCUSDT-1m-2025-12.zip"
        columns = "day::VARCHAR, source, source_url, sha256, rows, missing, verdict"
        rows = told(lake, "day BETWEEN '2025-12-16' AND '2025-12-18'", columns)
        sums = {key: digest(exchange, key) for key in (day, month)}
        assert rows == [
            ("2025-12-16", "archive", month, sums[month], 1440, 0, "complete"),
            ("2025-12-17", "archive", day, sums[day], 1440, 0, "complete"),
            ("2025-12-18", "archive", month, sums[month], 1440, 0, "complete"),
        ]
        assert pages(exchange) <= 1  # the first bar


def test_a_day_that_neither_file_has_comes_from_rest(world, tmp_path):
    lake = tmp_path / "lake"
    lacks = {"key": "2025-12", "defect": "missing_day", "day": "2025-12-17"}
    with serve(world, lacks) as exchange:
        outcome = in_order(run(exchange, lake, select("klines", "BTCUSDT", "1m", "2025-12-01", "2026-01-01")))
        assert_true(exchange, lake, MINUTES, "2025-12-01", "2026-01-01")
        assert told(lake, "day = '2025-12-17'", "source, source_url, sha256, rows, verdict") == [
            ("rest", "/fapi/v1/klines", None, 1440, "complete")
        ]
        assert outcome.gaps == []
        assert "2025-12-17" in " ".join(finding.message for finding in outcome.findings if finding.check == "incomplete")


def test_the_repair_of_a_month_is_told(world, tmp_path):
    lacks = {"key": "monthly/.*2026-01", "defect": "missing_day", "day": "2026-01-17"}
    with serve(world, lacks) as exchange:
        outcome = in_order(run(exchange, tmp_path / "lake", select("klines", "BTCUSDT", "1h", *JANUARY)))
        assert_true(exchange, tmp_path / "lake", HOURS, *JANUARY)
        assert "2026-01-17" in " ".join(finding.message for finding in outcome.findings)


# ---- 2. every defect

DEFECTS = [
    {"defect": "missing_day", "day": "2026-01-17"},
    {"defect": "missing_rows", "start": "2026-01-17T03:00", "end": "2026-01-17T05:00"},
    {"defect": "missing_rows", "start": "2026-01-01", "end": "2026-01-17T05:00"},
    {"defect": "missing_rows", "start": "2026-01-17T05:00", "end": "2026-02-01"},
    {"defect": "duplicate_rows", "rows": 50},
    {"defect": "shuffled"},
    {"defect": "foreign_rows", "rows": 30},
    {"defect": "after_end"},
    {"defect": "placeholder"},
    *({"defect": "zero_style", "style": style} for style in ("0", "0.0", "0.00000000")),
    {"defect": "unit", "unit": "us"},
    {"defect": "header", "present": True},
    {"defect": "header", "present": False},
    {"defect": "crlf"},
    {"defect": "bom"},
    {"defect": "extra_column"},
    {"defect": "empty_member"},
    {"defect": "not_utf8"},
    {"defect": "ragged"},
    {"defect": "second_member"},
    {"defect": "member_path"},
    {"defect": "absolute_member"},
    {"defect": "wrong_member_name"},
    {"defect": "huge_member", "megabytes": 400, "honest": True},
    {"defect": "huge_member", "megabytes": 400, "honest": False},
    {"defect": "stored_method"},
    {"defect": "encrypted"},
    {"defect": "flipped_byte"},
    {"defect": "truncated_zip", "keep": 0.5},
    {"defect": "wrong_checksum"},
    {"defect": "wrong_name"},
    {"defect": "no_checksum"},
    {"defect": "never"},
    {"defect": "late", "days": 90},
    {"defect": "unlisted"},
    {"defect": "stale_listing", "until": "2025-12-15"},
]
# What is wrong with a file so that none of it can be used; that must be told.
USELESS = {
    "empty_member", "not_utf8", "ragged", "second_member", "member_path", "absolute_member", "wrong_member_name",
    "huge_member", "encrypted", "flipped_byte", "truncated_zip", "wrong_checksum", "wrong_name", "no_checksum",
}  # fmt: skip  # a table, read by its rows
NAMES = [" ".join(map(str, defect.values())) for defect in DEFECTS]


FILLED = {"defect": "after_end", "key": "monthly/.*(LUNA|SRM)USDT-(1h|fundingRate)-2022-(05|11)"}


@pytest.mark.parametrize("source", ["auto", "archive"])
def test_filling_after_the_end_of_a_contract_is_no_part_of_it(many, tmp_path, source):
    """By the month's file SRMUSDT lives for two days more, and the first LUNAUSDT until the end of May (binance-facts 9.6).

    Settlements at a rate of 0 may be true ones: these are kept, and verify tells of them.
    """
    lake = tmp_path / "lake"
    daily = FILLED | {"key": FILLED["key"].replace("monthly", "daily")}
    with serve(many, FILLED, daily) as exchange:
        wanted = select("klines funding", "LUNAUSDT SRMUSDT", "1h", "2022-04-01", "2022-12-31")
        outcome = in_order(run(exchange, lake, wanted, source=source))
        luna, srm = (Series("um", "klines", symbol, "1h") for symbol in ("LUNAUSDT", "SRMUSDT"))
        assert {finding.series for finding in outcome.findings if finding.check == "foreign"} == {luna, srm}
        more = {luna: [], srm: []}
        more[Series("um", "funding", "LUNAUSDT")] = hours("2022-05-13T08:00", "2022-06-01", 8)
        more[Series("um", "funding", "SRMUSDT")] = hours("2022-11-28T16:00", "2022-12-01", 8)
        for series, filled in more.items():
            rows = truth(exchange, series, parse_time("2022-04-01"), parse_time("2022-12-31"))
            assert [row[0] for row in stored(lake, series)] == sorted([row[0] for row in rows] + filled), series
        assert symbols_of(lake, "LUNAUSDT")[0]["last_time"] == parse_time("2022-05-13T00:00:00Z")
        verified = compared(exchange, lake)
        assert {finding.severity for finding in verified.findings} <= {"warning", "info"}
        warned = {(finding.check, finding.series): finding for finding in verified.findings if finding.severity == "warning"}
        assert warned["flat", Series("um", "funding", "LUNAUSDT")].count == 56
        # Nobody but the archive was asked what lies between the two contracts.
        between = {("missing", "LUNAUSDT"), ("funding_gap", "LUNAUSDT")}
        told_of = {(check, series.symbol) for check, series in warned}
        assert told_of - between == {(check, symbol) for check in ("foreign", "life") for symbol in ("LUNAUSDT", "SRMUSDT")} | {
            ("flat", "LUNAUSDT")
        }


def hours(start, end, step=1):
    return list(range(parse_time(start), parse_time(end), step * HOUR))


@pytest.mark.parametrize(
    ("start", "end"), [("2022-05-20", "2022-05-23"), ("2022-05-10", "2022-05-25"), ("2022-01-01", "2022-08-01")]
)
@pytest.mark.parametrize("source", ["auto", "archive"])
def test_filling_is_the_same_whatever_range_is_asked(many, tmp_path, source, start, end):
    lake, series = tmp_path / "lake", Series("um", "klines", "LUNAUSDT", "1h")
    daily = FILLED | {"key": FILLED["key"].replace("monthly", "daily")}
    with serve(many, FILLED, daily) as exchange:
        in_order(run(exchange, lake, select("klines", "LUNAUSDT", "1h", start, end), source=source))
        assert stored(lake, series) == truth(exchange, series, parse_time(start), parse_time(end))


class Filled(GeneratedWorld):
    """SRMUSDT is over since 2022-11-28T09:00, and the archive goes on with rows that say nothing until 2023-04-15."""

    goes_on = TimeRange(parse_time("2022-11-28T09:00"), parse_time("2023-04-15"))

    def __init__(self):
        super().__init__(seed=5, symbols=4)
        self.tag += "filled"

    def extent(self, series):
        found = super().extent(series)
        return TimeRange(found.start, self.goes_on.end) if series.symbol == "SRMUSDT" else found

    def lines(self, series, span, unit=1):
        more, step = span.intersect(self.goes_on), HOUR if series.interval else 8 * HOUR
        text = super().lines(series, span, unit)
        for time in range(-(-more.start // step) * step, more.end, step) if series.symbol == "SRMUSDT" else ():
            bar = f"{time * unit},2,2,2,2,0,{(time + step) * unit - 1},0,0,0,0,0\n"
            text += (bar if series.interval else f"{time},8,0.00010000\n").encode()
        return text

    def room(self, series):
        return None if series.symbol == "SRMUSDT" else super().room(series)

    def count(self, series, span):
        return super().count(series, span) or int(series.symbol == "SRMUSDT" and bool(span.intersect(self.goes_on)))


@pytest.mark.parametrize("end", ["2023-02-01", "2023-06-01"])
def test_filling_of_which_nothing_proves_when_it_began_is_kept_and_told(tmp_path, end):
    """As of LITUSDT 417 settlements at 0.0001 (binance-facts 6): no file holds the end of both the contract and its filling."""
    lake = tmp_path / "lake"
    with serve(Filled()) as exchange:
        outcome = in_order(run(exchange, lake, select("klines funding", "SRMUSDT", "1h", "2022-10-01", end), source="archive"))
        assert outcome.findings == []
        until = iso(min(parse_time(end), Filled.goes_on.end))
        for series, since, step in (
            (Series("um", "klines", "SRMUSDT", "1h"), "2022-11-28T09:00", 1),
            (Series("um", "funding", "SRMUSDT"), "2022-11-28T16:00", 8),
        ):
            filled = hours(since, until, step)
            assert [row[0] for row in stored(lake, series)][-len(filled) :] == filled
            (told_of,) = [one for one in compared(exchange, lake).findings if (one.check, one.series) == ("flat", series)]
            # The last true settlement had that rate by chance.
            assert (told_of.severity, told_of.count - len(filled)) in {("warning", 0), ("warning", 1)}


class Quiet(GeneratedWorld):
    """The rows of `quiet` (symbol, dataset, start, end) are true, and have no content."""

    def __init__(self, *quiet):
        super().__init__(seed=5, symbols=4)
        self.quiet = [(symbol, dataset, TimeRange(parse_time(start), parse_time(end))) for symbol, dataset, start, end in quiet]
        self.tag += repr(quiet)

    def lines(self, series, span, unit=1):
        spans = [span for symbol, dataset, span in self.quiet if (symbol, dataset) == (series.symbol, series.dataset)]
        text = ""
        for line in super().lines(series, span, unit).decode().splitlines():
            cells = line.split(",")
            if any(int(cells[0]) // unit in quiet for quiet in spans):
                cells = (
                    [cells[0], "2", "2", "2", "2", "0", cells[6], *"00000"] if series.interval else [*cells[:2], "0.00000000"]
                )
            text += ",".join(cells) + "\n"
        return text.encode()


def assert_all_times(exchange, lake, series, start, end):
    """No row is left out, whatever it says."""
    expected = [row[0] for row in truth(exchange, series, parse_time(start), parse_time(end))]
    assert expected
    assert [row[0] for row in stored(lake, series)] == expected


@pytest.mark.parametrize("source", ["auto", "archive"])
@pytest.mark.parametrize(
    ("symbol", "month", "quiet", "span", "now"),
    [
        # Longer than a week, and not at an end: files of days bridge the month that lacks.
        ("SRMUSDT", "2022-04", [("2022-03-20", "2022-04-01"), ("2022-05-01", "2022-05-12")], ("2022-03-01", "2022-06-01"), NOW),
        ("SRMUSDT", "2022-04", [("2022-03-31T10:00", "2022-04-01")], ("2022-03-01", "2022-06-01"), NOW),
        # A month that lacks is the last one that there could be; the contract trades.
        ("XAUUSDT", "2026-02", [("2026-01-31", "2026-02-01")], ("2026-01-01", "2026-04-01"), "2026-04-20T12:00"),
        ("XAUUSDT", "2026-02", [("2026-01-20", "2026-02-01")], ("2026-01-01", "2026-02-01"), "2026-04-20T12:00"),
    ],
)
def test_quiet_bars_beside_a_month_that_lacks(tmp_path, source, symbol, month, quiet, span, now):
    lake, world = tmp_path / "lake", Quiet(*[(symbol, "klines", *one) for one in quiet])
    with serve(world, {"defect": "never", "key": f"monthly/.*{symbol}-1h-{month}"}, now=now) as exchange:
        outcome = in_order(run(exchange, lake, select("klines", symbol, "1h", *span), source=source))
        assert (outcome.findings, outcome.gaps) == ([], [])
        assert_all_times(exchange, lake, Series("um", "klines", symbol, "1h"), *span)


@pytest.mark.parametrize("source", ["auto", "archive"])
def test_settlements_at_a_rate_of_zero_beside_a_month_that_lacks(tmp_path, source):
    world = Quiet(("BTCUSDT", "funding", "2025-10-20", "2025-11-01"), ("BTCUSDT", "funding", "2025-12-01", "2025-12-01T08:00"))
    never = {"defect": "never", "key": "monthly/.*BTCUSDT-fundingRate-2025-11"}
    with serve(world, never, rules=[BLOCKED]) as exchange:
        outcome = run(
            exchange, tmp_path / "lake", select("funding", "BTCUSDT", start="2025-09-01", end="2026-01-01"), source=source
        )
        assert outcome.findings == []
        found = [row[0] for row in stored(tmp_path / "lake", RATES)]
        expected = truth(exchange, RATES, parse_time("2025-09-01"), parse_time("2026-01-01"))
        assert found == [row[0] for row in expected if iso(row[0])[:7] != "2025-11"]


@pytest.mark.parametrize("source", ["auto", "archive"])
@pytest.mark.parametrize(
    ("dataset", "interval"), [("klines", "1m"), ("klines", "1h"), ("mark_klines", "1m"), ("funding", None)]
)
@pytest.mark.parametrize(
    ("quiet", "span"),
    [
        (("2022-03-09", "2022-03-10"), ("2022-03-08", "2022-03-12")),
        (("2022-03-09", "2022-03-10"), ("2022-03-09", "2022-03-10")),
        (("2021-08-01", "2021-09-01"), ("2021-08-01", "2021-08-03")),
        (("2021-08-01", "2021-09-01"), ("2021-07-28", "2021-09-02")),
    ],
)
def test_a_quiet_time_of_the_older_contract_of_a_ticker(tmp_path, source, dataset, interval, quiet, span):
    """The exchange lists the LUNAUSDT of 2022-09-10; the older one ended on 2022-05-13."""
    lake, world = tmp_path / "lake", Quiet(("LUNAUSDT", dataset, *quiet))
    with serve(world) as exchange:
        outcome = in_order(run(exchange, lake, select(dataset, "LUNAUSDT", interval or "1h", *span), source=source))
        assert [finding for finding in outcome.findings if finding.check == "foreign"] == []
        assert_all_times(exchange, lake, Series("um", dataset, "LUNAUSDT", interval), *span)


@pytest.mark.parametrize("source", ["auto", "archive"])
@pytest.mark.parametrize("dataset", ["klines", "mark_klines", "index_klines", "premium_klines", "funding"])
@pytest.mark.parametrize(
    ("start", "end"), [("2020-04-01", "2020-07-01"), ("2020-05-03", "2020-05-05"), ("2020-05-03", "2020-05-20")]
)
def test_placeholders_before_a_contract_are_no_part_of_it(many, tmp_path, source, dataset, start, end):
    """The exchange tells when it was listed, and so do six days of bars in the first of all files; settlements may be at 0."""
    lake, series = tmp_path / "lake", Series("um", dataset, "XRPUSDT", None if dataset == "funding" else "1h")
    first, step = ("2020-05-07T08:00", 8) if dataset == "funding" else ("2020-05-07T07:00", 1)
    key = "XRPUSDT-(1h|fundingRate)-2020-05.zip"
    daily = {"defect": "placeholder", "key": "XRPUSDT-1h-2020-05-07.zip"}
    with serve(many, {"defect": "placeholder", "key": key}, daily) as exchange:
        outcome = in_order(run(exchange, lake, select(dataset, "XRPUSDT", "1h", start, end), source=source))
        rows = [row[0] for row in truth(exchange, series, parse_time(start), parse_time(end))]
        made_up = hours(max(start, "2020-05-01"), min(first, end), step)
        if source == "auto" or series.interval:
            made_up = []
        assert [row[0] for row in stored(lake, series)] == made_up + rows
        verified = compared(exchange, lake)
        assert verified.sound
        told_of = {finding.check for finding in outcome.findings}
        assert ("foreign" in told_of) == (source == "auto" or dataset != "funding")


@pytest.mark.parametrize("defect", DEFECTS, ids=NAMES)
@pytest.mark.parametrize(
    ("key", "interval", "start", "end"),
    [("monthly/.*-1h-2026-01", "1h", *JANUARY), ("-1m-2026-01-17", "1m", "2026-01-16T09:00", "2026-01-19")],
    ids=["month", "day"],
)
def test_a_defect_is_met_by_content(world, tmp_path, defect, key, interval, start, end):
    lake, series = tmp_path / "lake", Series("um", "klines", "BTCUSDT", interval)
    wanted = select("klines", "BTCUSDT", interval, start, end)
    # At that time January is not published as a month.
    now = parse_time("2026-02-01T12:00:30") if interval == "1m" else NOW
    with serve(world, defect | {"key": key}, now=now) as exchange:
        outcome = in_order(run(exchange, lake, wanted))
        assert outcome.gaps == []
        assert_true(exchange, lake, series, start, end)
        assert {row[0] for row in told(lake, columns="verdict")} <= {"complete", "partial"}
        said = [finding for finding in outcome.findings if finding.check in {"archive", "foreign"}]
        empty = interval == "1m" and defect["defect"] == "missing_day"
        # What was asked for by its name is not there where its CHECKSUM is not.
        silent = interval == "1m" and defect["defect"] == "no_checksum"
        assert bool(said) == (empty or (defect["defect"] in USELESS | {"foreign_rows"} and not silent))
        if defect["defect"] in USELESS:
            assert all("2026-01" in finding.message for finding in said)
        before = partitions(lake)
        exchange.reset()
        again = run(exchange, lake, wanted)
        assert (again.rows_written, again.partitions_written, pages(exchange), zips(exchange)) == (0, 0, 0, [])
        assert partitions(lake) == before


@pytest.mark.parametrize("defect", DEFECTS, ids=NAMES)
def test_a_defect_where_only_the_archive_may_be_asked(world, tmp_path, defect):
    """Whatever cannot be had is told, and a later run without the defect completes it."""
    lake, wanted = tmp_path / "lake", select("klines", "BTCUSDT", "1h", "2025-12-01", "2026-02-10")
    with serve(world, defect | {"key": "-1h-2026-01"}) as exchange:
        outcome = run(exchange, lake, wanted, source="archive")
        expected = truth(exchange, HOURS, parse_time("2025-12-01"), parse_time("2026-02-10"))
        had = stored(lake, HOURS)
        assert set(had) <= set(expected)
        lost = set(expected) - set(had)
        gaps = {(gap.span.start, gap.span.end, gap.verdict) for gap in outcome.gaps}
        assert {row[0] for row in lost} == {time for start, end, _ in gaps for time in range(start, end, HOUR)}
        if defect["defect"] in USELESS:
            assert outcome.exit_code == 3
            assert {series for series, _ in outcome.failed} == {HOURS}
            assert all(error for _, error in outcome.failed)
            assert {verdict for _, _, verdict in gaps} == {"lost"}
            assert {row[4] for row in told(lake, "day BETWEEN '2026-01-02' AND '2026-01-30'")} == {"lost"}
        else:
            assert outcome.exit_code == 0
            assert {verdict for _, _, verdict in gaps} <= {"missing"}
        change(exchange)
        if defect["defect"] in USELESS:
            in_order(run(exchange, lake, wanted, source="archive"))
            assert_true(exchange, lake, HOURS, "2025-12-01", "2026-02-10")
            assert outcome.failed


@pytest.mark.parametrize("defect", [*sorted(USELESS - {"huge_member"}), "never", "late"])
def test_a_defect_of_a_settlement_file(world, tmp_path, defect):
    lake, wanted = tmp_path / "lake", select("funding", "BTCUSDT", start="2025-12-01", end="2026-02-01")
    spoilt = {"defect": defect, "key": "fundingRate-2026-01"} | ({"days": 90} if defect == "late" else {})
    with serve(world, spoilt) as exchange:
        outcome = run(exchange, lake, wanted, source="archive")
        assert_archived(exchange, lake, RATES, "2025-12-01", "2026-01-01")
        assert outcome.exit_code == (3 if defect in USELESS else 0)
        change(exchange)
        later = in_order(run(exchange, lake, wanted, source="archive"))
        if defect in USELESS:
            assert_archived(exchange, lake, RATES, "2025-12-01", "2026-02-01")
        assert later.failed == []


def test_a_checksum_that_is_wrong_at_first_heals(world, tmp_path):
    lake = tmp_path / "lake"
    with serve(world, {"defect": "wrong_checksum", "key": "2026-01", "first": 1}) as exchange:
        outcome = in_order(run(exchange, lake, select("klines", "BTCUSDT", "1h", *JANUARY), source="archive"))
        assert outcome.findings == []
        assert_true(exchange, lake, HOURS, *JANUARY)


@pytest.mark.parametrize(
    "rule",
    [
        {"action": "reset", "when": "before", "first": 2},
        {"action": "reset", "when": "headers", "first": 2},
        {"action": "reset", "when": "body", "first": 2},
        {"action": "truncated_json", "first": 2},
        {"action": "truncated_json", "first": 2, "length": "full"},
        {"action": "truncated_json", "first": 2, "length": "none"},
        {"action": "slow_drip", "bytes_per_second": 200_000},
        {"action": "slow_drip", "bytes_per_second": 1000, "part": "headers"},
        {"action": "stall", "seconds": 0.3, "when": "body"},
        {"action": "timeout", "seconds": 0.3},
        {"action": "status", "status": 503, "first": 3},
        {"action": "status", "status": 503, "body": "html"},
        {"action": "status", "status": 404, "first": 1},
        {"action": "status", "status": 404},
        {"action": "retry_after", "first": 1},
        {"action": "empty_body", "first": 1},
        {"action": "html_200"},
        {"action": "endless", "first": 1},
        {"action": "gzip_bomb", "first": 1},
        {"action": "redirect"},
    ],
    ids=lambda rule: " ".join(map(str, rule.values())),
)
@pytest.mark.parametrize("of", [r"\.zip$", r"\.CHECKSUM$"], ids=["zip", "CHECKSUM"])
def test_a_fault_of_a_download(world, tmp_path, rule, of):
    lake = tmp_path / "lake"
    with serve(world, rules=[rule | {"path": of}]) as exchange:
        in_order(run(exchange, lake, select("klines", "BTCUSDT", "1h", "2025-12-01", "2026-02-01")))
        assert_true(exchange, lake, HOURS, "2025-12-01", "2026-02-01")


def test_a_download_that_is_cut_off_goes_on_where_it_was(world, tmp_path):
    lake = tmp_path / "lake"
    with serve(world, rules=[{"action": "reset", "when": "body", "path": r"\.zip$", "first": 1}]) as exchange:
        outcome = in_order(run(exchange, lake, select("klines", "BTCUSDT", "1h", *JANUARY), source="archive"))
        assert_true(exchange, lake, HOURS, *JANUARY)
        assert [request.status for request in exchange.requests if request.path.endswith(".zip")] == [200, 206]
        smooth = run(exchange, tmp_path / "other", select("klines", "BTCUSDT", "1h", *JANUARY), source="archive")
        assert outcome.bytes_downloaded < smooth.bytes_downloaded + 2000


@pytest.mark.parametrize("status", [403, 418, 451])
def test_an_archive_that_refuses(world, tmp_path, status):
    lake, wanted = tmp_path / "lake", select("klines", "BTCUSDT", "1h", *JANUARY)
    with serve(world, rules=[{"action": "status", "status": status, "path": r"\.(zip|CHECKSUM)$"}]) as exchange:
        outcome = run(exchange, lake, wanted, source="archive")
        assert outcome.exit_code == 4
        assert len([request for request in exchange.requests if request.status == status]) == 1
        in_order(run(exchange, lake, wanted))
        assert_true(exchange, lake, HOURS, *JANUARY)


# ---- 3. where the two disagree


def test_where_they_disagree_a_row_stands_whole_and_the_ledger_says_whose(world, tmp_path):
    lake, at = tmp_path / "lake", parse_time("2026-01-17T20:00")
    flat = {"defect": "flat_bar", "key": "-1h-2026-01", "time": "2026-01-17T20:00"}
    with serve(world, flat) as exchange:
        true = truth(exchange, HOURS, parse_time(JANUARY[0]), parse_time(JANUARY[1]))
        in_order(run(exchange, lake, select("klines", "BTCUSDT", "1h", *JANUARY)))
        rows = stored(lake, HOURS)
        (index,) = [index for index, row in enumerate(rows) if row != true[index]]
        opens = true[index][1]
        assert rows[index] == (at, opens, opens, opens, opens, 0.0, at + HOUR - 1, 0.0, 0, 0.0, 0.0)
        assert told(lake, "day = '2026-01-17'", "source, verdict") == [("archive", "complete")]
        outcome = in_order(update(exchange, lake, lookback=NOW - parse_time("2026-01-17T12:00"), source="rest"))
        changed = [finding for finding in outcome.findings if finding.check == "changed"]
        assert [finding.times for finding in changed] == [(at,)]
        assert_true(exchange, lake, HOURS, JANUARY[0], NOW)
        with connect(lake) as connection:
            assert connection.sql("SELECT DISTINCT source FROM ledger WHERE day = '2026-01-16'").fetchall() == [("archive",)]
        before = partitions(lake)
        quiet = in_order(update(exchange, lake, source="rest", lookback=NOW - parse_time("2026-01-17T12:00")))
        assert (quiet.findings, quiet.rows_written, partitions(lake)) == ([], 0, before)
        # And the archive does not take it back.
        in_order(update(exchange, lake))
        assert_true(exchange, lake, HOURS, JANUARY[0], NOW)


# ---- 4. delisted and re-used


@pytest.mark.parametrize("source", ["auto", "archive"])
def test_an_earlier_year_that_comes_later_makes_a_contract_older(exchange, tmp_path, source):
    lake = tmp_path / "lake"
    for start in ("2022-01-01", None):
        in_order(run(exchange, lake, select("klines", "SRMUSDT", "1h", start), source=source))
    (row,) = symbols_of(lake, "SRMUSDT")
    assert (iso(row["first_time"]), iso(row["last_time"])) == ("2021-01-12T07:00:00Z", "2022-11-28T08:00:00Z")


@pytest.mark.parametrize("source", ["auto", "archive"])
def test_a_delisted_symbol_is_backfilled_whole(exchange, tmp_path, source):
    lake = tmp_path / "lake"
    outcome = in_order(run(exchange, lake, select("klines funding", "SRMUSDT", "1h"), source=source))
    assert outcome.gaps == []
    assert_true(exchange, lake, Series("um", "klines", "SRMUSDT", "1h"), "2021-01-01", NOW)
    assert_archived(exchange, lake, Series("um", "funding", "SRMUSDT"), "2021-01-01", "2026-01-01")
    bars = stored(lake, Series("um", "klines", "SRMUSDT", "1h"))
    assert (iso(bars[0][0]), iso(bars[-1][0])) == ("2021-01-12T07:00:00Z", "2022-11-28T08:00:00Z")
    with connect(lake) as connection:
        rows = connection.sql("SELECT first_time::VARCHAR, last_time::VARCHAR FROM symbols WHERE symbol = 'SRMUSDT'").fetchall()
        alive = [
            connection.sql(f"SELECT count(*) FROM universe('{at}') WHERE symbol = 'SRMUSDT'").fetchall()[0][0]
            for at in ("2021-01-12 06:00", "2021-01-13", "2022-11-28 08:00", "2022-11-30", "2025-01-01")
        ]
    assert rows == [("2021-01-12 07:00:00", "2022-11-28 08:00:00")]
    assert alive == [0, 1, 1, 0, 0]
    verdicts = set(told(lake, "dataset = 'klines'", "verdict"))
    assert verdicts == {("complete",), ("partial",), ("not_listed",)}
    assert told(lake, "dataset = 'klines' AND day >= '2022-11-27'", "rows, missing, verdict") == [
        (24, 0, "complete"),
        (9, 0, "partial"),
        (0, 0, "not_listed"),
        (0, 0, "not_listed"),
    ]
    exchange.reset()
    before = partitions(lake)
    again = run(exchange, lake, select("klines funding", "SRMUSDT", "1h"), source=source)
    assert (again.exit_code, again.rows_written, zips(exchange), pages(exchange)) == (0, 0, [], 0)
    assert partitions(lake) == before
    shown = {row["dataset"]: row for row in status(Store.open(lake, network="mainnet", layout="year"), NOW)}
    assert shown["klines"]["lag_s"] == 0
    assert shown["funding"]["lag_s"] < 8 * HOUR // 1000
    later = run(exchange, lake, select("klines", "SRMUSDT", "1h", "2025-01-01"), source=source)
    (over,) = later.findings
    assert (over.check, later.exit_code) == ("over", 0)
    assert "was over at 2022-1" in over.message


def test_an_earlier_bar_of_a_contract_that_is_over_is_its_first_known_one(exchange, tmp_path):
    lake = tmp_path / "lake"
    for since in ("2022-02-01", "2021-06-01"):
        in_order(run(exchange, lake, select("klines", "SRMUSDT", "1h", since), source="archive"))
        (row,) = symbols_of(lake, "SRMUSDT")
        assert (iso(row["first_time"])[:10], iso(row["last_time"])[:10]) == (since, "2022-11-28")


@pytest.mark.parametrize("source", ["auto", "archive"])
def test_a_re_used_ticker_has_two_lives(exchange, tmp_path, source):
    lake = tmp_path / "lake"
    bars, rates = Series("um", "klines", "LUNAUSDT", "1h"), Series("um", "funding", "LUNAUSDT")
    outcome = in_order(run(exchange, lake, select("klines funding", "LUNAUSDT", "1h", None, "2023-01-01"), source=source))
    # The archive alone cannot prove that nothing was there.
    apart = TimeRange(parse_time("2022-05-13T01:00"), parse_time("2022-09-10T10:00"))
    unfiled = TimeRange(parse_time("2022-06-01"), parse_time("2022-09-01"))
    unproven = [("funding", unfiled, "missing"), ("klines", apart, "missing")]
    told_gaps = [(gap.series.dataset, gap.span, gap.verdict) for gap in outcome.gaps]
    assert told_gaps == ([] if source == "auto" else unproven)
    assert_true(exchange, lake, bars, "2021-01-01", "2023-01-01")
    settled = truth(exchange, rates, 0, parse_time("2023-01-01"))
    first = [row for row in settled if row[0] < parse_time("2022-06-01")]
    assert [row[:2] for row in stored(lake, rates)] == [row[:2] for row in settled]
    assert first
    assert len(settled) > len(first)
    with connect(lake) as connection:
        lives = connection.sql(
            "SELECT first_time::VARCHAR, last_time::VARCHAR FROM symbols WHERE symbol = 'LUNAUSDT' ORDER BY 1"
        ).fetchall()
        alive = [
            connection.sql(f"SELECT count(*) FROM universe('{at}') WHERE symbol = 'LUNAUSDT'").fetchall()[0][0]
            for at in ("2021-03-03 05:00", "2021-06-01", "2022-05-12", "2022-07-01", "2022-09-12", "2022-12-01")
        ]
    assert lives == [("2021-03-03 07:00:00", "2022-05-13 00:00:00"), ("2022-09-10 10:00:00", None)]
    assert alive == [0, 1, 1, 0, 1, 1]
    between = told(lake, "dataset = 'klines' AND day BETWEEN '2022-05-14' AND '2022-09-09'", "verdict")
    assert set(between) == {("not_listed" if source == "auto" else "missing",)}
    assert len(between) == 119
    edges = told(lake, "dataset = 'klines' AND day IN ('2022-05-13', '2022-09-10')", "day::VARCHAR, rows, missing, verdict")
    if source == "auto":
        assert edges == [("2022-05-13", 1, 0, "partial"), ("2022-09-10", 14, 0, "partial")]
    with connect(lake) as connection:
        gaps = connection.sql("SELECT gap_start::VARCHAR, missing, verdict FROM gaps('LUNAUSDT', '1h')").fetchall()
    hours = (apart.end - apart.start) // HOUR
    assert gaps == [("2022-05-13 01:00:00", hours, "not_listed" if source == "auto" else "missing")]
    row = next(iter(status(Store.open(lake, network="mainnet", layout="year"), NOW)))
    assert (row["missing"], row["lost"]) == (0 if source == "auto" else hours, 0)
    before = partitions(lake)
    exchange.reset()
    again = run(exchange, lake, select("klines funding", "LUNAUSDT", "1h", None, "2023-01-01"), source=source)
    assert (again.exit_code, again.rows_written, zips(exchange), pages(exchange)) == (0, 0, [], 0)
    assert again.gaps == outcome.gaps
    assert partitions(lake) == before


def test_weeks_of_two_contracts_have_no_gap_between(exchange, tmp_path):
    """Files of months end between the opens of two weeks: both sources answered all the same."""
    lake = tmp_path / "lake"
    assert in_order(run(exchange, lake, select("klines", "LUNAUSDT", "1w", None, "2023-06-01"))).gaps == []
    between = told(lake, "day BETWEEN '2022-06-01' AND '2022-08-01'", "day::VARCHAR, rows, missing, verdict")
    assert between == [(f"2022-{month}-01", 0, 0, "not_listed") for month in ("06", "07", "08")]


def test_a_renamed_folder_is_a_symbol_of_its_own(exchange, tmp_path):
    lake, series = tmp_path / "lake", Series("um", "klines", "ICPUSDT_SETTLED", "1h")
    in_order(run(exchange, lake, select("klines", "ICPUSDT_SETTLED", "1h", "2022-01-01")))
    assert_true(exchange, lake, series, "2022-01-01", NOW)
    assert iso(stored(lake, series)[-1][0]) == "2022-06-10T08:00:00Z"


@pytest.mark.parametrize("source", ["auto", "archive"])
def test_ever_is_whatever_the_exchange_or_the_archive_has_known(exchange, tmp_path, source):
    lake = tmp_path / "lake"
    outcome = in_order(run(exchange, lake, select("klines", "ever", "1d", "2022-04-01", "2022-07-01"), source=source))
    symbols = {series.symbol for series in Store.open(lake, network="mainnet", layout="year").series()}
    assert {"BTCUSDT", "SRMUSDT", "LUNAUSDT", "ICPUSDT_SETTLED", "OCEANUSDT"} <= symbols
    for symbol in symbols:
        series = Series("um", "klines", symbol, "1d")
        assert stored(lake, series) == truth(exchange, series, parse_time("2022-04-01"), parse_time("2022-07-01")), symbol
    assert {gap.series.symbol for gap in outcome.gaps} == (set() if source == "auto" else {"LUNAUSDT"})
    with connect(lake) as connection:
        names = {name for (name,) in connection.sql("SELECT DISTINCT symbol FROM symbols").fetchall()}
    assert {"SRMUSDT", "LUNAUSDT", "ICPUSDT_SETTLED"} <= names


FORMER = [("1d", "2021-04-20"), ("1h", "2021-04-03"), ("5m", "2021-04-02"), ("1m", "2021-04-02")]


@pytest.mark.parametrize(("interval", "end"), FORMER)
def test_a_former_contract_over_a_short_range(exchange, tmp_path, interval, end):
    """REST knows only the present contract of the name; that it has nothing before says nothing of the archive."""
    lake = tmp_path / "lake"
    in_order(run(exchange, lake, select("klines", "LUNAUSDT", interval, "2021-04-01", end)))
    assert_true(exchange, lake, Series("um", "klines", "LUNAUSDT", interval), "2021-04-01", end)


def test_settlements_of_a_former_contract(exchange, tmp_path):
    lake, series = tmp_path / "lake", Series("um", "funding", "LUNAUSDT")
    for end in ("2021-04-20", "2021-06-01", "2021-12-01"):
        in_order(run(exchange, lake, select("funding", "LUNAUSDT", start="2021-04-01", end=end)))
        assert_archived(exchange, lake, series, "2021-04-01", end)
    in_order(run(exchange, lake, select("klines", "LUNAUSDT", "1d", "2021-04-01", "2021-05-01")))
    in_order(run(exchange, lake, select("klines", "LUNAUSDT", "1d", "2021-03-10", "2021-05-01")))
    assert_true(exchange, lake, Series("um", "klines", "LUNAUSDT", "1d"), "2021-03-10", "2021-05-01")


@pytest.mark.parametrize(
    ("first", "symbol", "start", "end"),
    [("rest", "LUNAUSDT", "2021-04-01", "2022-10-01"), ("archive", "BTCUSDT", "2019-09-01", "2020-02-01")],
)
def test_an_answer_of_nothing_by_one_source_is_none_of_the_other(exchange, tmp_path, first, symbol, start, end):
    lake, wanted = tmp_path / "lake", select("klines funding", symbol, "1h", start, end)
    in_order(run(exchange, lake, wanted, source=first))
    in_order(run(exchange, lake, wanted))
    assert_true(exchange, lake, Series("um", "klines", symbol, "1h"), start, end)
    rates = Series("um", "funding", symbol)
    assert [row[:2] for row in stored(lake, rates)] == [
        row[:2] for row in truth(exchange, rates, parse_time(start), parse_time(end))
    ]
    before = partitions(lake)
    exchange.reset()
    in_order(run(exchange, lake, wanted))
    assert (partitions(lake), zips(exchange)) == (before, [])


def test_finer_bars_of_a_delisted_symbol_are_not_clipped_by_coarser_ones(exchange, tmp_path):
    lake = tmp_path / "lake"
    for interval, start in (("1M", None), ("1w", None), ("1d", None), ("1h", "2022-10-01"), ("1m", "2022-11-20")):
        in_order(run(exchange, lake, select("klines", "SRMUSDT", interval, start)))
        assert_true(exchange, lake, Series("um", "klines", "SRMUSDT", interval), start or "2021-01-01", NOW)


def test_a_ticker_that_is_used_again_is_noticed_without_rest(world, tmp_path):
    lake, series = tmp_path / "lake", Series("um", "klines", "LUNAUSDT", "1h")
    with serve(world, now="2022-07-15T12:00:30") as exchange:
        in_order(run(exchange, lake, select("klines", "LUNAUSDT", "1h", "2022-04-01"), source="archive"))
        exchange.clock.set(parse_time("2022-12-01T12:00:30"))
        in_order(update(exchange, lake, source="archive"))
        assert_true(exchange, lake, series, "2022-04-01", "2022-12-01", parse_time("2022-12-01T12:00:30"))


LIVES = {
    "SRMUSDT": [("2021-01-12T00:00:00Z", "2022-11-28T00:00:00Z")],
    "LUNAUSDT": [("2021-03-03T00:00:00Z", "2022-05-13T00:00:00Z"), ("2022-09-10T00:00:00Z", None)],
    "ICPUSDT_SETTLED": [("2021-05-11T00:00:00Z", "2022-06-10T00:00:00Z")],
    "OCEANUSDT": [("2020-10-14T00:00:00Z", "2024-07-01T00:00:00Z")],
    "BTCUSDT": [("2020-01-01T00:00:00Z", None)],  # the archive's first file
}


@pytest.mark.parametrize("source", ["auto", "archive"])
def test_symbols_are_told_with_their_lives_without_a_lake(world, tmp_path, source):
    with serve(world, rules=[BLOCKED] * (source == "archive")) as exchange:
        with Pipeline(settings(exchange, tmp_path / "lake"), source=source) as pipeline:
            rows = pipeline.symbols("um")
            then = {row["symbol"] for row in pipeline.symbols("um", parse_time("2022-06-01"))}
            # OCEANUSDT traded until 09:00 of its last day; of whom only days are known, the whole day counts.
            last_day = [
                "OCEANUSDT" in {row["symbol"] for row in pipeline.symbols("um", parse_time(at))}
                for at in ("2024-07-01T00:00", "2024-07-01T08:00", "2024-07-02")
            ]
        lived = {}
        for row in rows:
            begins = row["first_time"] or row["onboard_time"]
            ends = row["last_time"] or (row["delivery_time"] if row["status"] != "TRADING" else None)
            lived.setdefault(row["symbol"], []).append((begins[:10], ends and ends[:10]))
        day = {symbol: [tuple(time and time[:10] for time in life) for life in lives] for symbol, lives in LIVES.items()}
        day["BTCUSDT"] = day["BTCUSDT"] if source == "archive" else [("2019-09-08", None)]
        assert {symbol: lived[symbol] for symbol in LIVES} == day
        assert {"SRMUSDT", "ICPUSDT_SETTLED", "OCEANUSDT", "BTCUSDT"} <= then
        assert not {"LUNAUSDT", "TSLAUSDT"} & then
        assert last_day == [True, True, False]
        assert (rest(exchange) == []) == (source == "archive")
        assert not (tmp_path / "lake").exists()


# By its month: spot's exchangeInfo has no time of listing.
SPOT = {"BTCUSDT": "2017-08", "ETHUSDT": "2017-08", "BNBUSDT": "2017-11", "SOLUSDT": "2020-08", "AVAXUSDT": "2020-09"}


@pytest.mark.parametrize("source", ["auto", "archive"])
def test_spot_which_tells_no_listing_does_not_look_ahead(world, tmp_path, source):
    lake = tmp_path / "lake"

    def told():
        with Pipeline(settings(exchange, lake), source=source) as pipeline:
            then = {row["symbol"] for row in pipeline.symbols("spot", parse_time("2019-10-01"))}
            return {row["symbol"]: row["first_time"] for row in pipeline.symbols("spot")}, then

    with serve(world) as exchange:
        first, then = told()
        assert {symbol: time[:7] for symbol, time in first.items()} == SPOT
        assert then == {"BTCUSDT", "ETHUSDT", "BNBUSDT"}
        # A lake that begins later says what it can: since the first stored bar.
        in_order(run(exchange, lake, select("klines", "BTCUSDT", "1d", "2024-01-01", market="spot"), source=source))
        in_order(run(exchange, lake, select("klines", "AVAXUSDT", "1h", "2020-09-01", "2020-10-01", "spot"), source=source))
        with connect(lake) as connection:
            alive = {
                at: {row[0] for row in connection.sql(f"SELECT symbol FROM universe('{at}', market := 'spot')").fetchall()}
                for at in ("2019-10-01", "2020-09-22 05:59", "2020-09-22 06:00", "2024-01-01")
            }
        assert alive == {
            "2019-10-01": set(),
            "2020-09-22 05:59": set(),
            "2020-09-22 06:00": {"AVAXUSDT"},
            "2024-01-01": {"AVAXUSDT", "BTCUSDT"},
        }
        first, then = told()
        assert {symbol: time[:7] for symbol, time in first.items()} == SPOT
        assert first["AVAXUSDT"] == "2020-09-22T06:00:00Z"
        assert then == {"BTCUSDT", "ETHUSDT", "BNBUSDT"}


def test_symbols_without_the_archive_ask_no_listing(exchange, tmp_path):
    with Pipeline(settings(exchange, tmp_path / "lake"), source="rest") as pipeline:
        assert "SRMUSDT" not in {row["symbol"] for row in pipeline.symbols("um")}
    assert len(exchange.requests) == len(rest(exchange)) <= 3


# ---- 5. no REST at all


def test_the_archive_alone_asks_nothing_of_rest(world, tmp_path):
    lake = tmp_path / "lake"
    wanted = select("klines funding", "BTCUSDT SRMUSDT", "1h", "2022-10-15")
    with serve(world, rules=[BLOCKED]) as exchange:
        outcome = in_order(run(exchange, lake, wanted, source="archive"))
        assert rest(exchange) == []
        assert outcome.gaps == []
        # Yesterday's file is there; nothing of today.
        assert_true(exchange, lake, HOURS, "2022-10-15", "2026-03-01")
        assert_archived(exchange, lake, RATES, "2022-10-15", "2026-03-01")  # settlements come by the month, on its first day
        assert_true(exchange, lake, Series("um", "klines", "SRMUSDT", "1h"), "2022-10-15", NOW)
        before = partitions(lake)
        exchange.reset()
        again = in_order(run(exchange, lake, wanted, source="archive"))
        assert (again.rows_written, again.partitions_written, zips(exchange), rest(exchange)) == (0, 0, [], [])
        assert partitions(lake) == before
        exchange.clock.set(parse_time("2026-03-02T12:30"))
        exchange.reset()
        in_order(update(exchange, lake, source="archive"))
        assert rest(exchange) == []
        assert_true(exchange, lake, HOURS, "2022-10-15", "2026-03-02", now=parse_time("2026-03-02T12:30"))
        assert_archived(exchange, lake, RATES, "2022-10-15", "2026-03-01")


def test_all_symbols_of_the_archive_are_those_that_still_get_files(world, tmp_path):
    lake = tmp_path / "lake"
    with serve(world, rules=[BLOCKED]) as exchange:
        in_order(run(exchange, lake, select("klines", "all", "1d", "2026-02-20"), source="archive"))
        assert rest(exchange) == []
        listed = {one["symbol"] for one in exchange.market.exchange_info("um", NOW)["symbols"] if one["status"] == "TRADING"}
        symbols = {series.symbol for series in Store.open(lake, network="mainnet", layout="year").series()}
        assert symbols == listed
        for symbol in symbols:
            series = Series("um", "klines", symbol, "1d")
            assert stored(lake, series) == truth(exchange, series, parse_time("2026-02-20"), parse_time("2026-03-01")), symbol


def test_where_rest_is_refused_the_archive_goes_on_and_the_rest_is_lost(world, tmp_path):
    lake, wanted = tmp_path / "lake", select("klines", "BTCUSDT", "1h", "2026-01-01")
    with serve(world, rules=[BLOCKED]) as exchange:
        outcome = run(exchange, lake, wanted)
        assert outcome.exit_code == 3
        assert [(series, type(error)) for series, error in outcome.failed] == [(HOURS, Refused)]
        assert_true(exchange, lake, HOURS, "2026-01-01", "2026-03-01")
        tail = TimeRange(parse_time("2026-03-01"), parse_time("2026-03-01T12:00"))
        assert [(gap.span, gap.verdict) for gap in outcome.gaps] == [(tail, "lost")]
        assert len(rest(exchange)) == 1
        change(exchange)
        healed = in_order(run(exchange, lake, wanted))
        assert (healed.rows_written, healed.gaps) == (12, [])
        assert_true(exchange, lake, HOURS, "2026-01-01", NOW)


def test_the_document_of_a_refused_run(world, tmp_path):
    command = ["backfill", "klines", "--symbols", "BTCUSDT", "--interval", "1h", "--start", "2026-02-01", "--json"]
    with serve(world, rules=[BLOCKED]) as exchange:
        urls = {f"ETL_{name}_URL": exchange.url for name in ("UM", "CM", "SPOT", "ARCHIVE", "ARCHIVE_INDEX")}
        clean = {key: value for key, value in os.environ.items() if not key.startswith("ETL_")}
        finished = subprocess.run(
            [sys.executable, "-m", "etl", *command],
            cwd=tmp_path,
            env={**clean, **urls, "ETL_STATE_DIR": str(tmp_path / "state")},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert finished.returncode == 3, finished.stderr
    document = json.loads(finished.stdout)
    assert document["rows_written"] == 28 * 24
    assert [(gap["start"], gap["end"], gap["verdict"]) for gap in document["gaps"]] == [
        ("2026-03-01T00:00:00Z", "2026-03-01T12:00:00Z", "lost")
    ]
    assert [(one["symbol"], "451" in one["error"]) for one in document["failed"]] == [("BTCUSDT", True)]


@pytest.mark.parametrize("status", [403, 418, 451])
def test_a_tail_that_only_rest_has_is_lost(world, tmp_path, status):
    """The archive, which may be asked, has said all that it can: the run is not refused, and the lake says what is lacking."""
    lake, wanted = tmp_path / "lake", select("klines funding", "BTCUSDT", "1h", "2026-01-20")
    tail = parse_time("2026-03-01")  # from where the archive has nothing yet
    body = {403: "html", 418: "json", 451: "451"}[status]
    with serve(world, rules=[{"action": "status", "path": "fapi", "status": status, "body": body}]) as exchange:
        before = {}
        for _ in range(3):
            exchange.reset()
            outcome = run(exchange, lake, wanted)
            assert outcome.exit_code == 3
            assert {(series, type(error)) for series, error in outcome.failed} == {(HOURS, Refused), (RATES, Refused)}
            assert {(gap.series, gap.verdict, gap.span.start) for gap in outcome.gaps} == {
                (series, "lost", tail) for series in (HOURS, RATES)
            }
            assert len(rest(exchange)) <= 1
            assert before in ({}, partitions(lake))
            before = partitions(lake)
        assert told(lake, "verdict = 'lost' AND dataset = 'klines'", "day::VARCHAR, rows, expected, missing") == [
            ("2026-03-01", 0, 12, 12)
        ]
        assert told(lake, "verdict = 'lost' AND dataset = 'funding'", "day::VARCHAR, rows") == [("2026-03-01", 0)]
        shown = {row["dataset"]: row for row in status_of(lake)}
        assert (shown["klines"]["lost"], shown["klines"]["missing"]) == (12, 0)
        # The clock goes on, and so does what is lost.
        exchange.clock.advance(2 * HOUR)
        assert update(exchange, lake).exit_code == 3
        assert told(lake, "verdict = 'lost' AND dataset = 'klines'", "missing") == [(14,)]
        change(exchange)
        later = settings(exchange, lake, state_dir=str(tmp_path / "pardoned"))
        with Pipeline(later, stop=Hasty()) as pipeline:
            in_order(pipeline.sync("backfill", [wanted]))
        assert told(lake, "verdict = 'lost'") == []
        assert_true(exchange, lake, HOURS, "2026-01-20", NOW + 2 * HOUR, NOW + 2 * HOUR)


def status_of(lake):
    return status(Store.open(lake, network="mainnet", layout="year"), NOW)


def test_a_tail_of_a_lake_of_the_archive_is_lost_where_rest_is_refused(world, tmp_path):
    lake = tmp_path / "lake"
    with serve(world, rules=[BLOCKED]) as exchange:
        in_order(run(exchange, lake, select("klines", "BTCUSDT", "1h", "2026-02-25"), source="archive"))
        assert update(exchange, lake).exit_code == 3
        assert told(lake, "verdict = 'lost'", "day::VARCHAR, missing") == [("2026-03-01", 12)]
        assert update(exchange, lake, source="archive").exit_code == 0
        with pytest.raises(Refused):
            update(exchange, lake, source="rest")


def test_what_the_archive_lacks_is_no_success_while_rest_is_refused(world, tmp_path):
    lake, wanted = tmp_path / "lake", select("klines", "BTCUSDT", "1h", *JANUARY)
    lacks = {"key": "2026-01", "defect": "missing_day", "day": "2026-01-17"}
    with serve(world, lacks, rules=[BLOCKED]) as exchange:
        for _ in range(2):
            outcome = run(exchange, lake, wanted)
            assert (outcome.exit_code, [gap.verdict for gap in outcome.gaps]) == (3, ["missing"])
        change(exchange, lacks)
        assert in_order(run(exchange, lake, wanted)).rows_written == 24


@pytest.mark.parametrize("after", [0, 2])  # the clock and the rules may still have been told
@pytest.mark.parametrize("archive", [r"\.(zip|CHECKSUM)$", "^/(data/.*)?$"])
def test_where_both_refuse_the_run_is_refused(world, tmp_path, archive, after):
    """And neither is named as the cure for the other."""
    refuses = [BLOCKED | {"after": after}, {"action": "status", "status": 403, "body": "html", "path": archive}]
    with serve(world, rules=refuses) as exchange:
        try:
            error = run(exchange, tmp_path / "lake", select("klines", "BTCUSDT", "1h", *JANUARY)).stopped
        except Refused as refused:
            error = refused
    assert error.exit_code == 4
    assert "HTTP 451" in str(error)
    assert "HTTP 403" in str(error)
    assert "neither source serves this host" in str(error)
    assert "--source" not in str(error)


def test_before_the_archive_begins_it_proves_nothing(world, tmp_path):
    """BTCUSDT traded since 2019-09-08, which only REST knows: that the archive has nothing of then says nothing of it."""
    lake, wanted = tmp_path / "lake", select("klines funding", "BTCUSDT", "1h", "2019-10-01", "2020-02-01")
    with serve(world) as exchange:
        outcome = in_order(run(exchange, lake, wanted, source="archive"))
        first = stored(lake, HOURS)[0][0]
        assert iso(first) in {"2019-12-31T00:00:00Z", "2020-01-01T00:00:00Z"}
        assert [(gap.span, gap.verdict) for gap in outcome.gaps if gap.series == HOURS] == [
            (TimeRange(parse_time("2019-10-01"), first), "missing")
        ]
        early = "day < '2019-12-31' AND dataset = "
        assert set(told(lake, f"{early}'klines'", "rows, expected, missing, verdict")) == {(0, 24, 24, "missing")}
        assert len(told(lake, f"{early}'klines'")) == 91
        assert set(told(lake, f"{early}'funding'", "rows, verdict")) == {(0, "missing")}
        before = partitions(lake)
        exchange.reset()
        in_order(run(exchange, lake, wanted, source="archive"))
        assert (partitions(lake), zips(exchange)) == (before, [])
        # REST knows better, and is asked for all of it.
        assert in_order(run(exchange, lake, wanted)).gaps == []
        assert_true(exchange, lake, HOURS, "2019-10-01", "2020-02-01")
        assert {verdict for (verdict,) in told(lake, columns="verdict")} == {"complete"}


def test_the_archives_first_file_is_no_first_bar(world, tmp_path):
    lake = tmp_path / "lake"

    def lives():
        with connect(lake) as connection:
            row = connection.sql("SELECT first_time::VARCHAR FROM symbols WHERE symbol = 'BTCUSDT'").fetchall()
            then = connection.sql("SELECT symbol FROM universe('2019-11-01') WHERE symbol = 'BTCUSDT'").fetchall()
        return row, then

    with serve(world) as exchange:
        in_order(run(exchange, lake, select("klines", "BTCUSDT SRMUSDT", "1d", None, "2022-02-01"), source="archive"))
        with connect(lake) as connection:
            srm = connection.sql("SELECT first_time::VARCHAR FROM symbols WHERE symbol = 'SRMUSDT'").fetchall()
        assert srm == [("2021-01-12 00:00:00",)]
        assert told(lake, "symbol = 'SRMUSDT' AND verdict = 'missing'") == []
        # With the exchange's listing, though no bar of then is there.
        in_order(run(exchange, lake, select("klines", "ETHUSDT", "1d", "2026-02-20")))
        assert lives() == ([(None,)], [("BTCUSDT",)])
        in_order(run(exchange, lake, select("klines", "BTCUSDT", "1d", None, "2022-02-01")))
        assert lives() == ([("2019-09-08 00:00:00",)], [("BTCUSDT",)])


@pytest.mark.parametrize("end", ["2019-12-01", "2020-01-01"])
def test_a_range_before_the_archive_begins_is_missing(world, tmp_path, end):
    lake = tmp_path / "lake"
    with serve(world) as exchange:
        in_order(run(exchange, lake, select("klines funding", "BTCUSDT", "1h", "2019-10-01", end), source="archive"))
        assert set(told(lake, "day < '2019-12-31'", "verdict")) == {("missing",)}


# ---- 6. the plan says what the server counts


@pytest.mark.parametrize(
    ("wanted", "source"),
    [
        ([("klines", "BTCUSDT", "1h", "2025-10-01", "2026-02-01")], "auto"),
        ([("klines", "BTCUSDT", "1m", "2026-02-20", None)], "auto"),
        ([("klines", "TSLAUSDT", "1m", None, None)], "auto"),
        ([("klines mark_klines", "XAUUSDT", "1h 1d", None, None)], "auto"),
        ([("klines funding", "ETHUSDT", "5m", "2025-11-20", "2026-01-10")], "auto"),
        ([("funding", "BTCUSDT TSLAUSDT", "1m", "2025-01-01", None)], "auto"),
        ([("klines", "SRMUSDT", "1h", None, None), ("klines", "BTCUSDT", "1d", "2025-01-01", None)], "auto"),
        ([("klines funding", "BTCUSDT", "1h", "2025-10-01", None)], "archive"),
        ([("klines", "SRMUSDT", "1h", None, None)], "archive"),
        ([("klines funding", "BTCUSDT", "1h", "2025-12-01", None)], "rest"),
        # Listed in January 2026, over in December 2024.
        ([("klines funding", "TSLAUSDT", "1d", "2022-05-01", "2022-12-01")], "auto"),
        ([("funding", "XEMUSDT", "1d", "2024-11-01", "2025-02-01")], "rest"),
        # A settlement every hour, and every four hours; of a short range it does not matter.
        ([("funding", "BTCUSDT NEARUSDT AVAXUSDT", "1d", None, None)], "auto"),
        ([("funding", "NEARUSDT", "1d", "2025-01-01", None)], "rest"),
        ([("funding", "NEARUSDT AVAXUSDT", "1d", "2026-01-25", "2026-02-25")], "auto"),
    ],
    ids=str,
)
def test_the_plan_is_what_the_exchange_then_counts(all_symbols, tmp_path, wanted, source):
    exchange, lake, wanted = all_symbols, tmp_path / "lake", [select(*one) for one in wanted]
    exchange.reset()
    with Pipeline(settings(exchange, lake), source=source) as pipeline:
        planned = pipeline.sync("backfill", wanted, dry_run=True)
    assert not lake.exists()
    assert planned.findings == planned.gaps == planned.failed == []
    series = sum(len(one.datasets) * len(one.symbols) * len(one.intervals) for one in wanted)
    assert pages(exchange) <= series
    assert zips(exchange) == []
    asked = looks_at_the_clock(exchange)
    exchange.reset()
    document = report.plan_json(planned.jobs, planned.eta_s, (planned.requests, planned.weight))
    done = in_order(run(exchange, lake, *wanted, source=source))
    assert done.requests == len(exchange.requests)
    assert done.weight == sum(request.weight for request in exchange.requests)
    more = looks_at_the_clock(exchange) - asked
    assert (document["requests"], document["weight"]) == (done.requests - more, done.weight - more)
    assert done.bytes_downloaded > 0


@pytest.mark.parametrize("action", [{"action": "status", "status": 404}, {"action": "html_200"}])
def test_a_plan_of_settlements_does_without_their_interval(many, tmp_path, action):
    wanted = select("funding", "NEARUSDT", "1d", "2025-12-01")
    with serve(many, rules=[action | {"path": "fundingInfo"}]) as exchange:
        assert in_order(run(exchange, tmp_path / "lake", wanted)).gaps == []
        near = Series("um", "funding", "NEARUSDT")
        assert stored(tmp_path / "lake", near) == truth(exchange, near, parse_time("2025-12-01"), NOW)


@pytest.mark.parametrize(
    ("dataset", "symbol", "interval", "start"),
    [
        ("klines", "SOLUSDT", "1w", "2020-01-01"),  # between the last day of March and the first Monday of April nothing opens
        ("klines", "OCEANUSDT", "1h", "2024-07-05"),  # behind its end
        ("mark_klines", "OCEANUSDT", "1h", "2024-07-05"),
        ("funding", "OCEANUSDT", "1h", "2024-07-05"),
    ],
)
def test_the_same_again_is_quiet_also_beside_a_life(all_symbols, tmp_path, dataset, symbol, interval, start):
    lake, wanted = tmp_path / "lake", select(dataset, symbol, interval, start)
    in_order(run(all_symbols, lake, wanted))
    before = partitions(lake)
    all_symbols.reset()
    in_order(run(all_symbols, lake, wanted))
    assert (zips(all_symbols), pages(all_symbols), objects(all_symbols)) == ([], 0, [])
    assert partitions(lake) == before


def test_settlements_from_before_the_first_one_are_asked_for_once(all_symbols, tmp_path):
    """The first one of AVAXUSDT came five milliseconds late: these belong to it, and not to what the archive may still have."""
    lake = tmp_path / "lake"
    in_order(run(all_symbols, lake, select("funding", "AVAXUSDT", "1h", "2020-01-20", "2020-04-29")))
    in_order(update(all_symbols, lake))
    assert stored(lake, Series("um", "funding", "AVAXUSDT"))[0][0] % 1000 == 5
    all_symbols.reset()
    in_order(update(all_symbols, lake))
    assert zips(all_symbols) == []


@pytest.mark.parametrize(("source", "answers"), [("auto", 3), ("archive", 4)])
def test_a_listing_that_fails_later_costs_no_file(world, tmp_path, source, answers):
    """Whether flat bars at the end of a file are filling cannot be told then: they stay, and the file is used all the same."""
    lake, failing = tmp_path / "lake", LISTINGS["503"][1][0] | {"after": answers}
    defect = {"defect": "after_end", "key": "monthly/klines/SRMUSDT/1h/.*2022-11"}
    with serve(world, defect, rules=[failing]) as exchange:
        assert (
            in_order(run(exchange, lake, select("klines", "SRMUSDT", "1h", "2022-10-01", "2022-12-01"), source=source)).gaps
            == []
        )
        rows = [row[0] for row in stored(lake, Series("um", "klines", "SRMUSDT", "1h"))]
        assert rows[:1401] == [row[0] for row in truth(exchange, Series("um", "klines", "SRMUSDT", "1h"), rows[0], NOW)]


def looks_at_the_clock(exchange):
    """One; or two, where the first answer took long."""
    return sum(request.path.endswith("/time") for request in exchange.requests)


def test_a_plan_of_what_is_covered_is_empty(exchange, tmp_path):
    lake, wanted = tmp_path / "lake", select("klines", "BTCUSDT", "1h", "2025-12-20", "2026-02-10")
    in_order(run(exchange, lake, wanted))
    before = partitions(lake)
    exchange.reset()
    planned = run(exchange, lake, wanted, dry_run=True)
    assert (planned.jobs, objects(exchange), pages(exchange)) == ((), [], 0)
    assert partitions(lake) == before


# ---- 7. who is asked for what


def asked_for(exchange, lake, *selection, **options):
    exchange.reset()
    in_order(run(exchange, lake, select(*selection), **options))
    return [key.rpartition("/")[2] for key in sorted(zips(exchange))], pages(exchange)


def test_the_plan_takes_the_cheapest_source(exchange, tmp_path):
    lake = tmp_path / "lake"
    assert asked_for(exchange, lake, "klines", "ETHUSDT", "1m", *JANUARY) == (["ETHUSDT-1m-2026-01.zip"], 0)
    assert asked_for(exchange, lake, "klines", "ETHUSDT", "1d", "2025-01-01", "2026-01-01") == ([], 1)
    days = [f"ETHUSDT-1m-2026-02-{day}.zip" for day in (26, 27, 28)]
    found, asked = asked_for(exchange, lake, "klines", "ETHUSDT", "1m", "2026-02-26")
    assert (found, asked) == (days, 1)  # 12 hours of today
    assert asked_for(exchange, lake, "klines", "BTCUSDT", "1m", "2026-03-01")[0] == []
    for series, start, end in [
        (Series("um", "klines", "ETHUSDT", "1d"), "2025-01-01", "2026-01-01"),
        (Series("um", "klines", "BTCUSDT", "1m"), "2026-03-01", NOW),
    ]:
        assert_true(exchange, lake, series, start, end)


PAST = ("2025-05-10", "2025-05-12")
PAST_DAYS = [f"BTCUSDT-1m-2025-05-{day}.zip" for day in (10, 11)]


@pytest.mark.parametrize("source", ["auto", "archive"])
@pytest.mark.parametrize(("start", "end"), [PAST, ("2025-05-10", "2025-05-11T12:00"), ("2025-05-10T07:30", "2025-05-12")])
def test_some_days_of_a_past_month_come_from_their_own_files(exchange, tmp_path, source, start, end):
    lake = tmp_path / "lake"
    planned = run(exchange, lake, select("klines", "BTCUSDT", "1m", start, end), source=source, dry_run=True)
    assert (sum(job.requests for job in planned.jobs), sum(job.weight for job in planned.jobs)) == (4, 0)
    assert asked_for(exchange, lake, "klines", "BTCUSDT", "1m", start, end, source=source) == (PAST_DAYS, 0)
    assert_true(exchange, lake, MINUTES, start, end)
    before = partitions(lake)
    assert asked_for(exchange, lake, "klines", "BTCUSDT", "1m", start, end, source=source) == ([], 0)
    assert partitions(lake) == before


@pytest.mark.parametrize("source", ["auto", "archive"])
@pytest.mark.parametrize("start", ["2025-05-10", "2025-05-09"])
@pytest.mark.parametrize("defect", ["never", "wrong_checksum", "no_checksum", "truncated_zip"])
def test_a_day_whose_file_cannot_be_had_comes_from_the_month(world, tmp_path, source, start, defect):
    """Also the first one, where nothing but the files tells when the series began."""
    lake = tmp_path / "lake"
    with serve(world, {"defect": defect, "key": "daily/.*BTCUSDT-1m-2025-05-(09|10)"}) as exchange:
        found, asked = asked_for(exchange, lake, "klines", "BTCUSDT", "1m", start, PAST[1], source=source)
        assert [name for name in found if name[-6:] not in {"09.zip", "10.zip"}] == [
            "BTCUSDT-1m-2025-05-11.zip",
            "BTCUSDT-1m-2025-05.zip",
        ]
        assert asked == 0
        assert_true(exchange, lake, MINUTES, start, PAST[1])
        assert set(told(lake, columns="verdict")) == {("complete",)}
        before = partitions(lake)
        assert asked_for(exchange, lake, "klines", "BTCUSDT", "1m", start, PAST[1], source=source) == ([], 0)
        assert partitions(lake) == before


def test_a_day_without_any_file_comes_from_rest(world, tmp_path):
    lake = tmp_path / "lake"
    with serve(world, {"defect": "never", "key": "BTCUSDT-1m-2025-05(-10)?.zip"}) as exchange:
        in_order(run(exchange, lake, select("klines", "BTCUSDT", "1m", *PAST)))
        assert_true(exchange, lake, MINUTES, *PAST)
        assert told(lake, columns="source, verdict") == [("rest", "complete"), ("archive", "complete")]


@pytest.mark.parametrize("source", ["auto", "archive"])
def test_a_day_of_a_past_month_that_was_published_again(world, tmp_path, source):
    lake, again = tmp_path / "lake", {"defect": "republished", "key": "daily/.*-1m-2025-05-10", "at": "2026-03-01T18:00"}
    with serve(world, again) as exchange:
        in_order(run(exchange, lake, select("klines", "BTCUSDT", "1m", *PAST), source=source))
        exchange.clock.set(parse_time("2026-03-01T20:00:30"))
        outcome = in_order(update(exchange, lake, source=source))
        assert [finding.check for finding in outcome.findings] == ["republished", "changed"]


@pytest.mark.parametrize(
    ("hour", "files"),
    [("09", ["BTCUSDT-1m-2026-02-26.zip"]), ("11", ["BTCUSDT-1m-2026-02-26.zip", "BTCUSDT-1m-2026-02-27.zip"])],
)
def test_yesterday_comes_from_the_archive_when_its_file_can_be_there(world, tmp_path, hour, files):
    now = parse_time(f"2026-02-28T{hour}:00:30")
    with serve(world, now=now) as exchange:
        found, _ = asked_for(exchange, tmp_path / "lake", "klines", "BTCUSDT", "1m", "2026-02-26")
        assert found == files
        assert_true(exchange, tmp_path / "lake", MINUTES, "2026-02-26", now, now)


@pytest.mark.parametrize("start", ["2026-02-26", "2026-02-27"])  # with a listing, and over a range that is too short for one
def test_what_is_published_late_comes_from_rest_and_nothing_is_denied(world, tmp_path, start):
    lake = tmp_path / "lake"
    with serve(world, {"defect": "late", "days": 4, "key": "2026-02-28"}) as exchange:
        outcome = in_order(run(exchange, lake, select("klines", "BTCUSDT", "1m", start)))
        assert outcome.gaps == []
        assert_true(exchange, lake, MINUTES, start, NOW)
        assert told(lake, "day = '2026-02-28'", "source, verdict") == [("rest", "complete")]
        (file,) = Store.open(lake, network="mainnet", layout="year").files(MINUTES)
        assert [entry for entry in file.coverage if entry.source == "archive" and entry.sha256 is None] == []


def test_the_archive_alone_is_asked_for_a_late_file_until_it_cannot_come_any_more(world, tmp_path):
    lake, wanted = tmp_path / "lake", select("klines", "BTCUSDT", "1m", "2026-02-26", "2026-03-01")
    with serve(
        world, {"defect": "late", "days": 30, "key": "1m-2026-02-27"}, {"defect": "never", "key": "1m-2026-02.zip"}
    ) as exchange:
        for day in range(6):
            exchange.clock.set(parse_time("2026-03-01T12:00:30") + day * DAY)
            exchange.reset()
            outcome = in_order(run(exchange, lake, wanted, source="archive"))
            assert any(request.path == "/" for request in exchange.requests), day
            assert {row[0] for row in stored(lake, MINUTES)} & set(
                range(parse_time("2026-02-27"), parse_time("2026-02-28"), MINUTE)
            ) == set()
            assert told(lake, "day = '2026-02-27'") == []
            if day:
                assert zips(exchange) == []
        exchange.clock.set(parse_time("2026-03-09T12:00:30"))
        outcome = in_order(run(exchange, lake, wanted, source="archive"))
        assert [(gap.span, gap.verdict) for gap in outcome.gaps] == [
            (TimeRange(parse_time("2026-02-27"), parse_time("2026-02-28")), "missing")
        ]
        assert told(lake, "day = '2026-02-27'", "verdict") == [("missing",)]
        exchange.reset()
        in_order(run(exchange, lake, wanted, source="archive"))
        assert objects(exchange) == []
        # Another source fills it.
        filled = in_order(run(exchange, lake, wanted, source="rest"))
        assert told(lake, "day = '2026-02-27'", "verdict") in ([("missing",)], [("complete",)])
        healed = in_order(update(exchange, lake, source="rest", lookback=12 * DAY))
        assert filled.rows_written + healed.rows_written >= 1440
        assert_true(
            exchange, lake, MINUTES, "2026-02-26", parse_time("2026-03-09T12:00"), now=parse_time("2026-03-09T12:00:30")
        )


def assert_settled(exchange, lake, start, end):
    """Every settlement with its rate; the archive has no mark prices."""
    assert [row[:2] for row in stored(lake, RATES)] == [row[:2] for row in truth(exchange, RATES, start, end)]


def test_settlements_that_only_rest_has_are_lost_where_it_refuses(world, tmp_path):
    """As bars are: the archive lacks a month of which REST, which refuses this host, might have the settlements."""
    lake, wanted = tmp_path / "lake", select("funding", "BTCUSDT", "1h", "2025-09-01", "2026-02-01")
    november = {"defect": "never", "key": "monthly/.*BTCUSDT-fundingRate-2025-11"}
    with serve(world, november, rules=[BLOCKED]) as exchange:
        outcome = run(exchange, lake, wanted)
        assert outcome.exit_code == 3
        assert [(gap.span, gap.verdict) for gap in outcome.gaps] == [
            (TimeRange(parse_time("2025-11-01"), parse_time("2025-12-01")), "missing")
        ]
        change(exchange, november)
        assert in_order(run(exchange, lake, wanted)).gaps == []
        assert_settled(exchange, lake, parse_time("2025-09-01"), parse_time("2026-02-01"))


FEBRUARY = parse_time("2026-02-15T12:00:30")
LATE_JANUARY = {"defect": "never", "key": "monthly/.*BTCUSDT-(fundingRate|1w|1mo)-2026-01"}


@pytest.mark.parametrize("source", ["auto", "archive"])
def test_a_month_that_comes_late_is_no_end_of_a_life(world, tmp_path, source):
    """Where a series has no files of days, its newest one is a month and more old before the next can be there."""
    lake, wanted = tmp_path / "lake", select("funding klines", "BTCUSDT", "1w", "2025-11-03")
    with serve(world, LATE_JANUARY, rules=[BLOCKED], now=FEBRUARY) as exchange:
        outcome = run(exchange, lake, wanted, source=source)
        assert outcome.exit_code == (3 if source == "auto" else 0)
        assert {gap.series.dataset for gap in outcome.gaps} == {"funding", "klines"}
        if source == "auto":
            assert {verdict for (verdict,) in told(lake, "day >= '2026-02-02'", "verdict")} == {"lost"}
        for row in status(Store.open(lake, network="mainnet", layout="year"), FEBRUARY):
            assert row["lag_s"] > 40 * DAY // 1000
        assert symbols_of(lake, "BTCUSDT")[0]["last_time"] is None
        with connect(lake) as connection:
            assert connection.sql("SELECT symbol FROM universe('2026-02-10')").fetchall() == [("BTCUSDT",)]
        change(exchange, LATE_JANUARY)
        in_order(update(exchange, lake))
        assert_settled(exchange, lake, parse_time("2025-11-03"), FEBRUARY)
        weeks = Series("um", "klines", "BTCUSDT", "1w")
        assert stored(lake, weeks) == truth(exchange, weeks, parse_time("2025-11-03"), parse_time("2026-02-09"))


# ---- 8. listings that are stale, or fail

LISTINGS = {
    "stale": ([{"defect": "stale_listing", "until": "2025-12-15"}], []),
    "unlisted": ([{"defect": "unlisted"}], []),
    "503": ([], [{"action": "status", "status": 503, "path": "^/?$"}]),
    "403": ([], [{"action": "status", "status": 403, "body": "html", "path": "^/?$"}]),
    "html": ([], [{"action": "html_200", "path": "^/?$"}]),
    "reset": ([], [{"action": "reset", "path": "^/?$"}]),
    "truncated": ([], [{"action": "truncated_json", "path": "^/?$"}]),
    "endless": ([], [{"action": "endless", "path": "^/?$"}]),
}


@pytest.mark.parametrize("how", LISTINGS)
def test_what_no_listing_names_is_asked_for_by_its_name(world, tmp_path, how):
    lake, wanted = tmp_path / "lake", select("klines", "BTCUSDT", "1h", "2025-11-10", "2026-02-12")
    defects, rules = LISTINGS[how]
    with serve(world, *defects, rules=rules) as exchange:
        outcome = in_order(run(exchange, lake, wanted))
        assert outcome.gaps == []
        assert_true(exchange, lake, HOURS, "2025-11-10", "2026-02-12")
        exchange.reset()
        again = in_order(run(exchange, lake, wanted))
        assert (again.rows_written, zips(exchange), pages(exchange)) == (0, [], 0)


@pytest.mark.parametrize("how", ["stale", "503", "html"])
def test_the_archive_alone_without_a_listing(world, tmp_path, how):
    """The clock comes from any answer; by name everything due is found, or the run says what it could not ask for."""
    lake, wanted = tmp_path / "lake", select("klines", "BTCUSDT", "1h", "2025-11-10", "2026-02-12")
    with serve(world) as exchange:
        in_order(run(exchange, lake, select("klines", "BTCUSDT", "1h", "2025-11-09", "2025-11-10"), source="archive"))
        defects, rules = LISTINGS[how]
        change(exchange, *defects, rules=rules)
        outcome = run(exchange, lake, wanted, source="archive")
        expected = truth(exchange, HOURS, parse_time("2025-11-09"), parse_time("2026-02-12"))
        lost = sum((gap.span.end - gap.span.start) // HOUR for gap in outcome.gaps)
        assert len(stored(lake, HOURS)) + lost == len(expected)
        assert outcome.exit_code == (3 if lost else 0)


def test_where_the_listing_cannot_be_reached_a_file_tells_the_time(exchange, tmp_path):
    lake = tmp_path / "lake"
    with nobody() as address:
        wanted = select("klines", "BTCUSDT", "1h", "2025-11-10", "2026-02-12")
        in_order(run(exchange, lake, wanted, source="archive", archive_index_url=address))
    assert_true(exchange, lake, HOURS, "2025-11-10", "2026-02-12")


@pytest.mark.parametrize("how", ["503", "html"])
@pytest.mark.parametrize("source", ["auto", "archive"])
@pytest.mark.parametrize(
    ("symbol", "interval", "start", "end"),
    [
        ("BTCUSDT", "1d", "2026-02-20", "2026-03-01"),
        ("BTCUSDT", "1h", "2025-11-10", "2026-02-12"),
        ("SRMUSDT", "1h", "2022-09-15", None),
        ("TSLAUSDT", "1d", None, "2026-03-01"),
    ],
)
def test_a_named_symbol_needs_no_listing(world, tmp_path, how, source, symbol, interval, start, end):
    """What is named is looked for by the names of its files, also in a new lake; the end of a life is found, too."""
    lake, series = tmp_path / "lake", Series("um", "klines", symbol, interval)
    defects, rules = LISTINGS[how]
    with serve(world, *defects, rules=rules) as exchange:
        outcome = in_order(run(exchange, lake, select("klines", symbol, interval, start, end), source=source))
        assert outcome.gaps == []
        assert_true(exchange, lake, series, start or 0, end or NOW)
        before = partitions(lake)
        again = in_order(run(exchange, lake, select("klines", symbol, interval, start, end), source=source))
        assert (again.rows_written, partitions(lake)) == (0, before)


@pytest.mark.parametrize("source", ["auto", "archive"])
@pytest.mark.parametrize(
    ("months", "start", "end"),
    [("0[45]", "2022-04-01", "2022-08-01"), ("0[67]", "2022-04-01", "2022-08-01"), ("1[01]", "2022-07-01", None)],
)
def test_days_of_a_month_without_a_file_are_found_by_name(world, tmp_path, source, months, start, end):
    """At the edges, too, of a symbol that only the archive knows: else they would seem to lie outside of its life."""
    lake, series = tmp_path / "lake", Series("um", "klines", "SRMUSDT", "1h")
    with serve(world, {"defect": "never", "key": f"monthly/.*SRM.*2022-{months}"}, rules=LISTINGS["503"][1]) as exchange:
        assert in_order(run(exchange, lake, select("klines", "SRMUSDT", "1h", start, end), source=source)).gaps == []
        assert_true(exchange, lake, series, start, end or NOW)
        last = symbols_of(lake, "SRMUSDT")[0]["last_time"]
        assert (last and iso(last)[:10]) == (None if end else "2022-11-28")


def test_the_end_of_what_is_asked_for_by_name_is_no_end_of_a_life(world, tmp_path):
    lake, rules = tmp_path / "lake", LISTINGS["503"][1]
    with serve(world, rules=rules) as exchange:
        in_order(run(exchange, lake, select("klines", "BTCUSDT", "1h", "2024-01-01", "2024-02-01"), source="archive"))
        with connect(lake) as connection:
            assert connection.sql("SELECT last_time FROM symbols WHERE symbol = 'BTCUSDT'").fetchall() == [(None,)]
        change(exchange)
        in_order(run(exchange, lake, select("klines", "BTCUSDT", "1h", "2024-01-01", "2024-03-01"), source="archive"))
        assert_true(exchange, lake, HOURS, "2024-01-01", "2024-03-01")


@pytest.mark.parametrize("missing", ["monthly/klines/BTCUSDT/1h", "monthly/klines/BTCUSDT/1h/BTCUSDT-1h-202[56]"])
def test_the_end_of_the_days_that_are_asked_for_is_no_end_of_a_life(world, tmp_path, missing):
    """The newest file that is seen of a range of the past says nothing of the time since."""
    lake = tmp_path / "lake"
    with serve(world, {"defect": "never", "key": missing}) as exchange:
        in_order(run(exchange, lake, select("klines", "BTCUSDT", "1h", "2025-06-01", "2025-06-20"), source="archive"))
        with connect(lake) as connection:
            assert connection.sql("SELECT last_time FROM symbols WHERE symbol = 'BTCUSDT'").fetchall() == [(None,)]
            assert connection.sql("SELECT count(*) FROM universe('2026-01-01')").fetchall() == [(1,)]
        (row,) = status(Store.open(lake, network="mainnet", layout="year"), NOW)
        assert row["lag_s"] * 1000 == NOW - parse_time("2025-06-20")


@pytest.mark.parametrize("source", ["auto", "archive"])
@pytest.mark.parametrize("dataset", ["klines", "funding"])
def test_a_symbol_that_has_no_file_is_told_where_no_listing_knows_it(world, tmp_path, source, dataset):
    lake, wanted = tmp_path / "lake", select(f"{dataset}", "NOSUCHUSDT BTCUSDT", "1h", "2025-12-01", "2026-01-10")
    with serve(world, rules=LISTINGS["503"][1]) as exchange:
        outcome = run(exchange, lake, wanted, source=source)
        assert outcome.exit_code == 3
        ((series, error),) = outcome.failed
        assert series.symbol == "NOSUCHUSDT"
        assert "NOSUCHUSDT" in str(error)
        assert len([path for path in objects(exchange) if "NOSUCHUSDT" in path]) < 20
        assert {one.symbol for one in Store.open(lake, network="mainnet", layout="year").series() if files(lake, one)} == {
            "BTCUSDT"
        }
        change(exchange)
        with pytest.raises(UsageError, match="NOSUCHUSDT"):
            run(exchange, tmp_path / "other", wanted, source=source)


# ---- 9. published again


def test_update_notices_a_file_that_was_published_again(world, tmp_path):
    lake, again = tmp_path / "lake", {"defect": "republished", "key": "monthly/.*-1h-2026-01", "at": "2026-03-03"}
    key = "data/futures/um/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2026-01.zip"
    with serve(world, again) as exchange:
        in_order(run(exchange, lake, select("klines", "BTCUSDT", "1h", "2025-12-01")))
        old = digest(exchange, key)
        true = truth(exchange, HOURS, parse_time("2025-12-01"), NOW)
        exchange.clock.set(parse_time("2026-03-03T12:00:30"))
        new = digest(exchange, key)
        assert old != new
        exchange.reset()
        outcome = in_order(update(exchange, lake))
        assert [path for path in zips(exchange) if "2026-01" in path] == [key]
        said = {finding.check: finding for finding in outcome.findings}
        assert set(said) == {"republished", "changed"}
        assert old in said["republished"].message
        assert new in said["republished"].message
        january = range(parse_time("2026-01-01"), parse_time("2026-02-01"), HOUR)
        assert said["changed"].times == tuple(january[::100])
        assert said["changed"].count == 8
        rows = {row[0]: row for row in stored(lake, HOURS)}
        differ = [row[0] for row in true if row[0] < NOW - NOW % HOUR and rows[row[0]] != row]
        assert differ == list(january[::100])
        (entry,) = [entry for file in files(lake, HOURS) for entry in file.coverage if entry.key == key]
        assert (entry.sha256, entry.former) == (new, (old,))
        assert told(lake, "day = '2026-01-17'", "source_url, sha256") == [(key, new)]
        before = partitions(lake)
        exchange.reset()
        quiet = in_order(update(exchange, lake))
        assert (quiet.findings, quiet.rows_written, zips(exchange)) == ([], 0, [])
        assert partitions(lake) == before
        # A backfill does not look for it.
        in_order(run(exchange, lake, select("klines", "BTCUSDT", "1h", *JANUARY)))
        assert partitions(lake) == before


def files(lake, series):
    return Store.open(lake, network="mainnet", layout="year").files(series)


@pytest.mark.parametrize("source", ["auto", "archive"])
def test_a_daily_file_that_was_published_again(world, tmp_path, source):
    lake, series = tmp_path / "lake", Series("um", "klines", "BTCUSDT", "5m")
    again = {"defect": "republished", "key": "daily/.*-5m-2026-02-10", "at": "2026-03-01T18:00"}
    with serve(world, again) as exchange:
        in_order(run(exchange, lake, select("klines", "BTCUSDT", "5m", "2026-02-05", "2026-02-20"), source=source))
        exchange.clock.set(parse_time("2026-03-01T20:00:30"))
        outcome = in_order(update(exchange, lake, source=source))
        changed = [finding for finding in outcome.findings if finding.check == "changed"]
        day = parse_time("2026-02-10")
        assert [finding.times for finding in changed] == [(day, day + 500 * MINUTE, day + 1000 * MINUTE)]
        true = {row[0]: row for row in truth(exchange, series, parse_time("2026-02-05"), parse_time("2026-02-20"))}
        rows = {row[0]: row for row in stored(lake, series) if row[0] < parse_time("2026-02-20")}
        assert rows.keys() == true.keys()
        assert sorted(time for time in rows if rows[time] != true[time]) == list(changed[0].times)


@pytest.mark.parametrize("version", [None, "a version of the host's own"])
@pytest.mark.parametrize("source", ["auto", "archive"])
def test_another_version_with_the_same_digest_is_not_read_again(world, tmp_path, version, source):
    """As a host leaves a lake that names no versions, or others than its listing does."""
    lake, wanted = tmp_path / "lake", select("klines", "BTCUSDT", "1h", "2025-12-01", "2026-02-10")
    again = {"defect": "republished", "key": "monthly/.*-1h-2026-01", "at": "2026-03-01T18:00"}
    with serve(world, again) as exchange:
        in_order(run(exchange, lake, wanted, source=source))
        in_order(update(exchange, lake, source=source))
        store = Store.open(lake, network="mainnet", layout="year")
        for file in store.files(HOURS):
            entries = [replace(entry, etag=version) if entry.sha256 else entry for entry in file.coverage]
            store.replace(file.partition, store.rows(file.partition), entries, file.holes, wanted=file.wanted)
        before = partitions(lake)
        exchange.reset()
        outcome = in_order(update(exchange, lake, source=source))
        assert (outcome.findings, zips(exchange), partitions(lake)) == ([], [], before)
        # The CHECKSUMs of two months, and of the days since; of these an hour's bars are a page of REST.
        assert len(objects(exchange)) == 2 + (28 if source == "archive" else 0)
        exchange.clock.set(parse_time("2026-03-01T20:00:30"))
        exchange.reset()
        outcome = in_order(update(exchange, lake, source=source))
        assert [key.rpartition("/")[2] for key in zips(exchange)] == ["BTCUSDT-1h-2026-01.zip"]
        assert {finding.check for finding in outcome.findings} == {"republished", "changed"}


def test_settlements_that_were_published_again(world, tmp_path):
    lake = tmp_path / "lake"
    again = {"defect": "republished", "key": "fundingRate-2026-01", "at": "2026-03-01T18:00"}
    with serve(world, again) as exchange:
        wanted = select("funding", "BTCUSDT", start="2025-12-01", end="2026-02-01")
        in_order(run(exchange, lake, wanted, source="archive"))
        assert_archived(exchange, lake, RATES, "2025-12-01", "2026-02-01")
        exchange.clock.set(parse_time("2026-03-01T20:00:30"))
        outcome = in_order(update(exchange, lake, source="archive"))
        assert {finding.check for finding in outcome.findings} == {"republished", "changed"}
        rows = [row for row in stored(lake, RATES) if parse_time("2026-01-01") <= row[0] < parse_time("2026-02-01")]
        assert len(rows) == 93
        assert rows[0][1] in {0.00010001, 0.00010002}


def test_settlements_that_their_file_lost_are_named_with_the_former_one(world, tmp_path):
    lake, key = tmp_path / "lake", "data/futures/um/monthly/fundingRate/BTCUSDT/BTCUSDT-fundingRate-2026-01.zip"
    with serve(world) as exchange:
        in_order(run(exchange, lake, select("funding", "BTCUSDT", start="2025-12-01", end="2026-02-01"), source="archive"))
        old, rows = digest(exchange, key), stored(lake, RATES)
        change(exchange, {"defect": "missing_day", "key": "fundingRate-2026-01", "day": "2026-01-17"})
        new = digest(exchange, key)
        in_order(update(exchange, lake, source="archive"))
        assert stored(lake, RATES)[: len(rows)] == rows
        assert of_days(lake, 15, 17, 19) == [(key, new), (key, old), (key, new)]
        assert_quiet(exchange, lake, "archive")
        assert compared(exchange, lake).sound


def test_a_row_of_rest_survives_a_new_publication(world, tmp_path):
    """REST's rows of a look-back stand: the archive takes back its own rows only."""
    lake, series = tmp_path / "lake", Series("um", "klines", "BTCUSDT", "5m")
    again = {"defect": "republished", "key": "daily/.*-5m-2026-02-2[0-7]", "at": "2026-03-01T18:00"}
    with serve(world, again) as exchange:
        in_order(run(exchange, lake, select("klines", "BTCUSDT", "5m", "2026-02-20", "2026-02-28")))
        # Rows that REST has otherwise.
        at = parse_time("2026-02-25T12:00")
        change(exchange, again, rules=[{"action": "revise", "path": "klines", "open_time": at}])
        first = in_order(update(exchange, lake, lookback=6 * DAY, source="rest"))
        assert [finding.times for finding in first.findings if finding.check == "changed"] == [(at,)]
        revised = {row[0]: row for row in stored(lake, series)}[at]
        exchange.clock.set(parse_time("2026-03-01T20:00:30"))
        change(exchange, again)
        in_order(update(exchange, lake, lookback=HOUR))
        assert {row[0]: row for row in stored(lake, series)}[at] == revised


FILE = "data/futures/um/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2026-01.zip"
OF_DAYS = {"defect": "never", "key": "daily/.*-1h-2026-01"}


def without(day):
    """The month's file, published again without that day of January."""
    return {"defect": "missing_day", "key": "monthly/.*-1h-2026-01", "day": f"2026-01-{day}"}


def of_days(lake, *days):
    """Whose file, and of which digest, the ledger names for those days of January."""
    where = ", ".join(f"'2026-01-{day}'" for day in days)
    return told(lake, f"day IN ({where})", "source_url, sha256")


def assert_quiet(exchange, lake, source):
    """Another update asks for no file, says nothing and changes nothing."""
    before = partitions(lake)
    exchange.reset()
    outcome = in_order(update(exchange, lake, source=source))
    assert (outcome.findings, zips(exchange), partitions(lake)) == ([], [], before)


@pytest.mark.parametrize(
    ("source", "never", "whose"), [("archive", True, "former"), ("archive", False, "daily"), ("auto", True, "rest")]
)
def test_the_ledger_names_whoever_has_the_rows_that_a_file_lost(world, tmp_path, source, never, whose):
    lake, days = tmp_path / "lake", [OF_DAYS] * never
    with serve(world, *days) as exchange:
        in_order(run(exchange, lake, select("klines", "BTCUSDT", "1h", *JANUARY), source=source))
        old, rows = digest(exchange, FILE), stored(lake, HOURS)
        change(exchange, *days, without(17))
        new = digest(exchange, FILE)
        assert old != new
        outcome = in_order(update(exchange, lake, source=source))
        (said,) = [finding for finding in outcome.findings if finding.check == "republished"]
        assert f"its SHA-256 was {old} and is {new}" in said.message
        assert stored(lake, HOURS)[: len(rows)] == rows
        daily = FILE.replace("monthly", "daily").replace("2026-01", "2026-01-17")
        owner = {
            "former": (FILE, old),
            "daily": (daily, None if never else digest(exchange, daily)),
            "rest": ("/fapi/v1/klines", None),
        }[whose]
        assert of_days(lake, 16, 17, 18) == [(FILE, new), owner, (FILE, new)]
        assert_quiet(exchange, lake, source)
        found = compared(exchange, lake)
        assert found.sound
        named = [finding for finding in found.findings if finding.check == "republished"]
        day = TimeRange(parse_time("2026-01-17"), parse_time("2026-01-18"))
        assert [(finding.severity, finding.span) for finding in named] == [("warning", day)] * (whose == "former")
        assert all(old in finding.message and new in finding.message for finding in named)
        assert [finding.count for finding in found.findings if finding.check == "extra"] == [24]
        repaired = repair.repair(settings(exchange, lake), lambda _: True, against="archive", stop=Hasty())
        assert (repaired.exit_code, zips(exchange).count(daily)) == (0, 0)
        assert of_days(lake, 16, 17, 18) == [(FILE, new), owner, (FILE, new)]


def test_a_day_of_its_own_file_stays_so_when_the_month_brings_it(world, tmp_path):
    """The month's new file has the day that its old one lacked, and lacks another one."""
    lake, daily = tmp_path / "lake", FILE.replace("monthly", "daily").replace("2026-01", "2026-01-17")
    with serve(world, without(17)) as exchange:
        in_order(run(exchange, lake, select("klines", "BTCUSDT", "1h", *JANUARY), source="archive"))
        old, of_day, rows = digest(exchange, FILE), digest(exchange, daily), stored(lake, HOURS)
        assert of_days(lake, 16, 17, 18) == [(FILE, old), (daily, of_day), (FILE, old)]
        change(exchange, OF_DAYS, without(20))
        new = digest(exchange, FILE)
        in_order(update(exchange, lake, source="archive"))
        assert stored(lake, HOURS)[: len(rows)] == rows
        assert of_days(lake, 16, 17, 18, 20, 21) == [
            (FILE, new),
            (daily, of_day),
            (FILE, new),
            (FILE, old),
            (FILE, new),
        ]
        assert_quiet(exchange, lake, "archive")
        assert compared(exchange, lake).sound


def test_a_file_is_published_again_and_again(world, tmp_path):
    """Each time it lacks other days; once it is as it was at first."""
    lake = tmp_path / "lake"
    with serve(world, OF_DAYS) as exchange:
        in_order(run(exchange, lake, select("klines", "BTCUSDT", "1h", *JANUARY), source="archive"))
        rows, known = stored(lake, HOURS), [digest(exchange, FILE)]
        # What it lacks, and which publication was the last one with the 16th, the 17th and the 18th.
        for lacks, last in [([17], [1, 0, 1]), ([17, 18], [2, 0, 1]), ([18], [3, 3, 1]), ([], [4, 4, 4]), ([17], [5, 4, 5])]:
            change(exchange, OF_DAYS, *map(without, lacks))
            known.append(digest(exchange, FILE))
            outcome = in_order(update(exchange, lake, source="archive"))
            said = [finding.message for finding in outcome.findings if finding.check == "republished"]
            assert [f"was {known[-2]} and is {known[-1]}" in message for message in said] == [True]
            assert of_days(lake, 16, 17, 18) == [(FILE, known[which]) for which in last]
            assert stored(lake, HOURS)[: len(rows)] == rows
            assert_quiet(exchange, lake, "archive")
            assert compared(exchange, lake).sound
        assert known[4] == known[0]


def test_of_two_files_that_are_read_together_each_is_named_for_its_own_rows(world, tmp_path):
    """A month and a day in it were published again, and the month lacks what the day has."""
    lake, daily = tmp_path / "lake", FILE.replace("monthly", "daily").replace("2026-01", "2026-01-17")
    hours = {"defect": "missing_rows", "key": "monthly/.*-1h-2026-01", "start": "2026-01-17T03:00", "end": "2026-01-17T05:00"}
    with serve(world, hours) as exchange:
        in_order(run(exchange, lake, select("klines", "BTCUSDT", "1h", *JANUARY), source="archive"))
        assert of_days(lake, 16, 17, 18) == [(FILE, digest(exchange, FILE))] * 3
        change(exchange, without(17), {"defect": "republished", "key": "daily/.*-1h-2026-01-17", "at": "2026-03-01"})
        in_order(update(exchange, lake, source="archive"))
        new = digest(exchange, FILE)
        assert of_days(lake, 16, 17, 18) == [(FILE, new), (daily, digest(exchange, daily)), (FILE, new)]
        assert_quiet(exchange, lake, "archive")
        assert compared(exchange, lake).sound


def test_what_was_not_read_of_a_new_publication_is_not_of_it(world, tmp_path):
    """The beginning of a month is asked for when its file is another one than brought the end; the next update reads all."""
    lake, again = tmp_path / "lake", {"defect": "republished", "key": "monthly/.*-1h-2026-01", "at": "2026-03-01"}
    with serve(world, OF_DAYS) as exchange:
        in_order(run(exchange, lake, select("klines", "BTCUSDT", "1h", "2026-01-17", "2026-02-01"), source="archive"))
        old = digest(exchange, FILE)
        change(exchange, OF_DAYS, again)
        new = digest(exchange, FILE)
        in_order(run(exchange, lake, select("klines", "BTCUSDT", "1h", *JANUARY), source="archive"))
        assert of_days(lake, 16, 17) == [(FILE, new), (FILE, old)]
        assert {finding.check for finding in in_order(update(exchange, lake, source="archive")).findings} == {"changed"}
        assert of_days(lake, 16, 17) == [(FILE, new), (FILE, new)]
        assert_quiet(exchange, lake, "archive")


def test_a_file_that_was_published_again_is_named_for_its_own_rows_only(world, tmp_path):
    """Of a day whose first half REST gave, the file with other values and without the next day has what REST has not."""
    lake = tmp_path / "lake"
    with serve(world, OF_DAYS) as exchange:
        of_rest = ("2026-01-16", "2026-01-17T18:00")
        in_order(run(exchange, lake, select("klines", "BTCUSDT", "1h", *of_rest), source="rest"))
        in_order(run(exchange, lake, select("klines", "BTCUSDT", "1h", *JANUARY), source="archive"))
        old, rows = digest(exchange, FILE), stored(lake, HOURS)
        again = {"defect": "republished", "key": "monthly/.*-1h-2026-01", "at": "2026-03-01"}
        change(exchange, OF_DAYS, without(18), again)
        new = digest(exchange, FILE)
        outcome = in_order(update(exchange, lake, source="archive"))
        (changed,) = [finding for finding in outcome.findings if finding.check == "changed"]
        apart = [row[0] for row, other in zip(rows, stored(lake, HOURS), strict=False) if row != other]
        assert list(changed.times) == apart
        assert not any(parse_time(of_rest[0]) <= time < parse_time(of_rest[1]) for time in apart)
        assert not any(iso(time).startswith("2026-01-18") for time in apart)
        page = ("/fapi/v1/klines", None)
        assert of_days(lake, 15, 16, 17, 18, 19) == [(FILE, new), page, page, (FILE, old), (FILE, new)]
        assert_quiet(exchange, lake, "archive")
        assert compared(exchange, lake).sound


# ---- 10. the same again


@pytest.mark.parametrize("sources", [["auto"], ["archive", "auto", "rest"], ["rest", "archive", "auto"]], ids=" ".join)
def test_the_same_again_asks_nothing_whoever_was_asked(many, tmp_path, sources):
    lake = tmp_path / "lake"
    wanted = [
        select("klines", "BTCUSDT XLMUSDT", "1h", "2024-01-01", "2024-02-10"),
        select("mark_klines", "BTCUSDT", "1h", "2022-07-01", "2022-08-01"),
        select("funding", "BTCUSDT", start="2024-01-01", end="2024-03-01"),
        select("klines", "OCEANUSDT", "1h", "2024-06-01", "2024-09-01"),
        select("klines", "TSLAUSDT", "1h", None, "2026-02-15"),
    ]
    with serve(many) as exchange:
        in_order(run(exchange, lake, *wanted, source=sources[0]))
        for source in sources[1:]:  # may be asked for what the one before had not
            assert in_order(run(exchange, lake, *wanted, source=source)).rows_written == 0
        for source in sources:
            before = partitions(lake)
            exchange.reset()
            again = in_order(run(exchange, lake, *wanted, source=source))
            assert (again.rows_written, again.partitions_written) == (0, 0)
            assert (pages(exchange), zips(exchange)) == (0, [])
            assert partitions(lake) == before


@pytest.mark.parametrize(
    ("interval", "end"), [("5m", "2023-04-21"), ("1m", "2023-04-19"), ("1h", "2023-04-20"), ("5m", "2023-05-06")]
)
def test_the_same_again_asks_nothing_of_the_days_before_a_listing(many, tmp_path, interval, end):
    """1000PEPEUSDT was listed on 2023-05-05; what is stored begins later."""
    lake = tmp_path / "lake"
    with serve(many) as exchange:
        in_order(run(exchange, lake, select("klines", "1000PEPEUSDT", interval, "2023-05-21", "2023-05-22")))
        early = select("klines", "1000PEPEUSDT", interval, "2023-04-18", end)
        in_order(run(exchange, lake, early))
        before = partitions(lake)
        for _ in range(2):
            exchange.reset()
            again = in_order(run(exchange, lake, early))
            assert (again.rows_written, again.partitions_written) == (0, 0)
            assert (pages(exchange), objects(exchange), partitions(lake)) == (0, [], before)


# ---- 11. settlements of both


@pytest.mark.parametrize("first", ["archive", "rest"])
def test_rows_of_rest_win_among_settlements(world, tmp_path, first):
    lake, now = tmp_path / "lake", parse_time("2026-10-08T12:00:30")
    series = Series("um", "funding", "TSLAUSDT")
    wanted = select("funding", "TSLAUSDT", start="2026-07-01", end="2026-10-01")
    with serve(world, now=now) as exchange:
        in_order(run(exchange, lake, wanted, source=first))
        if first == "archive":
            assert_archived(exchange, lake, series, "2026-07-01", "2026-10-01")
            outcome = in_order(update(exchange, lake, source="rest", lookback=now - parse_time("2026-07-01")))
            assert {finding.check for finding in outcome.findings} == {"changed"}
        else:
            before = stored(lake, series)
            in_order(run(exchange, lake, wanted, source="archive"))
            in_order(update(exchange, lake, source="archive"))
            assert stored(lake, series)[: len(before)] == before
            in_order(update(exchange, lake, source="rest"))
        assert_true(exchange, lake, series, "2026-07-01", now, now)
        assert {kind for _, _, _, kind in stored(lake, series)} == {None, "Regular", "Special"}
        days = told(lake, "day BETWEEN '2026-07-02' AND '2026-09-30'", "source, verdict")
        assert set(days) == {("rest", "complete")}


def test_an_earlier_start_from_the_archive_beside_settlements_of_rest(exchange, tmp_path):
    lake = tmp_path / "lake"
    in_order(run(exchange, lake, select("funding", "BTCUSDT", start="2026-01-10", end="2026-02-01"), source="rest"))
    in_order(run(exchange, lake, select("funding", "BTCUSDT", start="2025-12-01", end="2026-02-01"), source="archive"))
    rows = stored(lake, RATES)
    cut = parse_time("2026-01-10")
    expected = truth(exchange, RATES, parse_time("2025-12-01"), parse_time("2026-02-01"))
    assert rows == [row if row[0] >= cut else (*row[:2], None, None) for row in expected]
    assert told(lake, "day = '2026-01-09'", "source") == [("archive",)]
    assert told(lake, "day = '2026-01-11'", "source") == [("rest",)]


# ---- 12. verdicts


HOLES = [
    ("um", "mark_klines", "BTCUSDT", "2022-07-12T23:10", "2022-07-13T09:13"),
    ("um", "klines", "XLMUSDT", "2024-01-17T03:05", "2024-01-17T05:47"),
    ("spot", "klines", "BTCUSDT", "2021-08-13T02:00", "2021-08-13T06:30"),
]


@pytest.mark.parametrize(("market", "dataset", "symbol", "start", "end"), HOLES)
@pytest.mark.parametrize("source", ["auto", "archive", "rest"])
def test_a_hole_is_an_outage_when_everybody_was_asked(many, tmp_path, market, dataset, symbol, start, end, source):
    lake, series = tmp_path / "lake", Series(market, dataset, symbol, "1m")
    hole = TimeRange(parse_time(start), parse_time(end))
    span = hole.start - hole.start % DAY - DAY, hole.end - hole.end % DAY + 2 * DAY
    with serve(many) as exchange:
        outcome = in_order(run(exchange, lake, select(dataset, symbol, "1m", *span, market=market), source=source))
        verdict = "outage" if source == "auto" else "missing"
        assert [(gap.span, gap.verdict) for gap in outcome.gaps] == [(hole, verdict)]
        assert_true(exchange, lake, series, *span)
        minutes = range(hole.start, hole.end, MINUTE)
        absent = {}
        for minute in minutes:
            day = iso(minute)[:10]
            absent[day] = absent.get(day, 0) + 1
        days = {iso(time)[:10]: (0, "complete") for time in range(*span, DAY)}
        days |= {day: (count, verdict) for day, count in absent.items()}
        assert {day: (missing, said) for day, _, _, missing, said in told(lake)} == days


def test_what_failed_is_lost_and_what_is_not_over_is_partial(world, tmp_path):
    lake, wanted = tmp_path / "lake", select("klines", "BTCUSDT", "1m", "2026-02-26")
    bad = {"defect": "flipped_byte", "key": "2026-02-27"}
    rules = [{"action": "wrong_width_row", "path": "klines", "width": 4}]
    with serve(world, bad, rules=rules) as exchange:
        outcome = run(exchange, lake, wanted)
        assert outcome.exit_code == 3
        verdicts = {day: verdict for day, _, _, _, verdict in told(lake)}
        assert verdicts == {"2026-02-26": "complete", "2026-02-27": "lost", "2026-02-28": "complete", "2026-03-01": "lost"}
        assert {gap.verdict for gap in outcome.gaps} == {"lost"}
        assert sum(gap.span.end - gap.span.start for gap in outcome.gaps) == DAY + 12 * HOUR
        change(exchange)
        in_order(run(exchange, lake, wanted))
        assert_true(exchange, lake, MINUTES, "2026-02-26", NOW)
        verdicts = {day: verdict for day, _, _, _, verdict in told(lake)}
        assert set(verdicts.values()) == {"complete", "partial"}
        assert verdicts["2026-03-01"] == "partial"


# ---- 13. other markets, datasets, intervals, layouts


@pytest.mark.parametrize(
    ("market", "datasets", "symbols", "intervals", "start", "end"),
    [
        ("um", "mark_klines index_klines premium_klines", "BTCUSDT", "1h", "2025-12-20", None),
        ("um", "klines mark_klines index_klines premium_klines", "BTCUSDT", "1m", "2026-02-27", None),
        ("um", "klines", "币安人生USDT 1000PEPEUSDT BTCUSDT_260626", "1h", "2025-12-20", None),
        ("um", "klines", "BTCUSDT", "5m 1d 1w 1M", "2025-11-03", None),
        ("um", "klines", "BTCUSDT", "2h 4h 6h 8h 12h", "2025-12-31T18:00", "2026-02-03T18:00"),
        ("cm", "klines mark_klines premium_klines", "BTCUSD_PERP", "1h", "2025-12-20", None),
        ("cm", "index_klines", "BTCUSD", "1h", "2025-12-20", None),
        ("cm", "klines", "BTCUSD_PERP", "1m 1d", "2026-02-20", None),
        ("cm", "klines", "BTCUSD_PERP", "1w 1M", "2025-11-20", None),
        ("spot", "klines", "BTCUSDT ETHUSDT", "1h", "2024-11-20", "2025-02-10"),
        ("spot", "klines", "BTCUSDT", "1m 1d", "2026-02-20", None),
        ("spot", "klines", "BTCUSDT", "1w 1M", "2025-11-20", None),
    ],
    ids=str,
)
@pytest.mark.parametrize("source", ["auto", "archive"])
def test_every_dataset_and_market_equals_the_exchange(
    exchange, tmp_path, market, datasets, symbols, intervals, start, end, source
):
    lake = tmp_path / "lake"
    outcome = in_order(run(exchange, lake, select(datasets, symbols, intervals, start, end, market), source=source))
    assert outcome.findings == []
    last = parse_time(end) if end else (NOW if source == "auto" else parse_time("2026-03-01"))
    stored_series = list(Store.open(lake, network="mainnet", layout="year").series())
    assert len(stored_series) == len(datasets.split()) * len(symbols.split()) * len(intervals.split())
    for series in stored_series:
        expected = truth(exchange, series, parse_time(start), min(last, closed_end(series.interval, NOW)))
        if source == "archive" and series.interval in {"1w", "1M"}:  # those come by the month, and February is not there
            expected = [row for row in expected if row[0] < parse_time("2026-02-01")]
        assert stored(lake, series) == expected, series
    if source == "auto":
        assert outcome.gaps == []


def test_a_month_lake_equals_a_year_lake(exchange, tmp_path):
    wanted = select("klines funding", "BTCUSDT", "15m 1h", "2025-12-15", "2026-02-20")
    for layout in ("year", "month"):
        in_order(run(exchange, tmp_path / layout, wanted, partition=layout))
    series = [Series("um", "klines", "BTCUSDT", "15m"), HOURS, RATES]
    for one in series:
        assert stored(tmp_path / "month", one) == stored(tmp_path / "year", one) != []
        assert_true(exchange, tmp_path / "month", one, "2025-12-15", "2026-02-20")
    assert told(tmp_path / "month") == told(tmp_path / "year")


# ---- 14. interrupted


@pytest.mark.parametrize("source", ["auto", "archive"])
@pytest.mark.parametrize("after", [1, 3, 7])
def test_an_interrupted_run_goes_on_where_it_was(exchange, tmp_path, after, source):
    wanted = select("klines", "BTCUSDT ETHUSDT", "1m", "2026-02-22", "2026-02-27")
    whole, lake, stop = tmp_path / "whole", tmp_path / "lake", Stop()
    in_order(run(exchange, whole, wanted, source=source))
    exchange.reset()
    chosen = settings(exchange, lake, workers=1)
    with Pipeline(chosen, source=source, stop=stop, progress=StopAfter(stop, after)) as pipeline:
        outcome = pipeline.sync("backfill", [wanted])
    assert isinstance(outcome.stopped, Cancelled)
    assert outcome.exit_code == 130
    assert {gap.verdict for gap in outcome.gaps} == {"lost"}
    assert outcome.rows_written > 0
    done = {
        entry.key
        for series in (MINUTES, Series("um", "klines", "ETHUSDT", "1m"))
        for file in files(lake, series)
        for entry in file.coverage
    }
    assert done
    exchange.reset()
    again = in_order(run(exchange, lake, wanted, source=source))
    assert again.rows_written + outcome.rows_written == 2 * 5 * 1440
    assert not done & set(zips(exchange))
    assert {name: value[0] for name, value in partitions(lake).items()} == {
        name: value[0] for name, value in partitions(whole).items()
    }


def test_publication_facts_that_these_tests_rest_on():
    """The month of February 2026 is due after NOW, its last day before."""
    assert not publication.due(publication.file_of(MINUTES, "monthly", parse_time("2026-02-01")), NOW)
    assert publication.due(publication.file_of(MINUTES, "daily", parse_time("2026-02-28")), NOW)
