"""Whole runs in this process against the embedded exchange: what ends in the lake, what is asked, what is said."""

import itertools
from collections import Counter
from dataclasses import replace

import pytest

from etl.errors import BadAnswer, Cancelled, LakeError, Refused, UsageError
from etl.lake.query import connect
from etl.lake.store import Store
from etl.model import Series
from etl.pipeline import Pipeline, Selection, Stop, status
from etl.plan import closed_end
from etl.progress import Bar
from etl.ranges import DAY, HOUR, MINUTE, TimeRange, iso, parse_time
from etl.sim.clock import Clock
from etl.sim.faults import Faults
from etl.sim.market import GeneratedWorld
from etl.sim.server import Simulator

from .exchange import StopAfter, pages, partitions, settings, stored, truth

NOW = parse_time("2026-03-01T12:00:30")


@pytest.fixture(scope="module")
def world():
    return GeneratedWorld(seed=3)


@pytest.fixture
def exchange(world):
    with Simulator(world, clock=Clock(NOW, frozen=True)) as running:
        yield running


class Hasty(Stop):
    """Nobody stops, and nobody waits: what is asked again is asked again at once."""

    def wait(self, timeout=None):
        return self.is_set()


def run(exchange, lake, *selections, command="backfill", stop=None, source="rest", **options):
    chosen = {key: options.pop(key) for key in ("stored", "lookback", "dry_run") if key in options}
    with Pipeline(settings(exchange, lake, **options), source=source, stop=stop) as pipeline:
        return pipeline.sync(command, selections, **chosen)


def select(datasets, symbols, intervals="1m", start=None, end=None, market="um"):
    moment = [parse_time(time) if isinstance(time, str) else time for time in (start, end)]
    return Selection(market, tuple(datasets.split()), tuple(symbols.split()), tuple(intervals.split()), *moment)


# About every third answer is wrong in some way; what takes an attempt away is rarer than what only costs a question.
BAD_DAY = [
    {"action": "reset", "path": "lines", "every": 29, "when": "body"},
    {"action": "status", "path": "fapi", "every": 37, "status": 503, "body": "html"},
    {"action": "truncated_json", "path": "fapi", "every": 43},
    {"action": "truncated_json", "path": "fapi", "every": 53, "length": "none"},
    {"action": "empty_body", "path": "fapi", "every": 61},
    {"action": "html_200", "path": "fapi", "every": 67},
    {"action": "short_page", "path": "lines", "every": 15, "drop": 30},
    {"action": "short_page", "path": "funding", "every": 5, "drop": 2},
    {"action": "drop_middle", "path": "lines", "every": 16, "drop": 3},
    {"action": "duplicate_page", "path": "fapi", "every": 17},
    {"action": "overlap", "path": "fapi", "every": 18, "rows": 4},
    {"action": "shuffled", "path": "fapi", "every": 19},
    {"action": "empty_page", "path": "fapi", "every": 20},
    {"action": "open_bar_extra", "path": "lines", "every": 14},
]


@pytest.mark.parametrize("faults", [[], BAD_DAY], ids=["good day", "bad day"])
def test_every_dataset_equals_the_exchange(world, tmp_path, faults):
    start = parse_time("2026-02-20T05:00")
    wanted = select("klines funding mark_klines index_klines premium_klines", "ETHUSDT SOLUSDT", "1m 1h", start)
    with Simulator(world, clock=Clock(NOW, frozen=True), faults=Faults(faults)) as exchange:
        outcome = run(exchange, tmp_path / "lake", wanted)
        assert [str(error) for _, error in outcome.failed] == []
        assert (outcome.exit_code, outcome.gaps) == (0, [])
        for series in Store.open(tmp_path / "lake", network="mainnet", layout="year").series():
            assert stored(tmp_path / "lake", series) == truth(exchange, series, start, closed_end(series.interval, NOW)), series
        assert outcome.rows_written == sum(status_rows(tmp_path / "lake").values())
        assert not faults or sum(1 for request in exchange.requests if request.fault) > 10


def status_rows(lake):
    return {
        (row["dataset"], row["symbol"], row["interval"]): row["rows"]
        for row in status(Store.open(lake, network="mainnet", layout="year"), NOW)
    }


@pytest.mark.parametrize(
    ("market", "symbol", "start"),
    [("cm", "BTCUSD_PERP", "2025-11-20"), ("spot", "BTCUSDT", "2026-02-20"), ("um", "币安人生USDT", "2026-02-20")],
)
def test_other_markets_and_symbols(exchange, tmp_path, market, symbol, start):
    wanted = select("klines", symbol, "5m 8h 1d", start, market=market)
    assert run(exchange, tmp_path / "lake", wanted).exit_code == 0
    for interval in ("5m", "8h", "1d"):
        series = Series(market, "klines", symbol, interval)
        assert stored(tmp_path / "lake", series) == truth(exchange, series, parse_time(start), closed_end(interval, NOW))
        assert stored(tmp_path / "lake", series)


def test_the_same_again_asks_nothing_and_writes_nothing(exchange, tmp_path):
    exchange.clock.set(parse_time("2026-11-20T12:30:30"))
    wanted = [
        select("klines funding", "BTCUSDT", "1m 1h", "2026-02-25", "2026-02-28"),
        select("klines funding", "LRCUSDT", "1h", "2026-07-01"),  # settled on 2026-08-03
        select("klines", "SOONUSDT", "1h"),  # never traded
        select("klines mark_klines", "ETHUSDT", "1h", "2000-01-01", "2019-12-20"),  # begins before the first bar
    ]
    lake = tmp_path / "lake"
    first = run(exchange, lake, *wanted)
    assert first.exit_code == 0
    before = partitions(lake)
    exchange.reset()
    second = run(exchange, lake, *wanted)
    assert (second.exit_code, second.rows_written, second.partitions_written) == (0, 0, 0)
    assert pages(exchange) == 0
    assert partitions(lake) == before


def test_a_hole_of_the_exchange_is_a_gap_that_is_not_asked_for_again(exchange, tmp_path):
    wanted = select("klines", "XLMUSDT", "1m", "2024-01-17", "2024-01-18")
    hole = TimeRange(parse_time("2024-01-17T03:05"), parse_time("2024-01-17T05:47"))
    outcome = run(exchange, tmp_path / "lake", wanted)
    assert [(gap.span, gap.verdict) for gap in outcome.gaps] == [(hole, "missing")]
    assert outcome.rows_written == 1440 - (5 * 60 + 47 - 3 * 60 - 5)
    exchange.reset()
    again = run(exchange, tmp_path / "lake", wanted)
    assert [(gap.span, gap.verdict) for gap in again.gaps] == [(hole, "missing")]
    assert pages(exchange) == 0


def test_no_open_bar_and_nothing_too_young_to_be_denied(world, tmp_path):
    clock = Clock(parse_time("2026-03-01T12:00:30"), frozen=True)  # the pipeline's own idea of it goes on
    late = [{"action": "short_page", "path": "klines", "drop": 2}]  # the last two closed bars are not there yet
    series = Series("um", "klines", "ETHUSDT", "1m")
    wanted = select("klines", "ETHUSDT", "1m", "2026-03-01T10:00")
    with Simulator(world, clock=clock, faults=Faults(late)) as exchange:
        outcome = run(exchange, tmp_path / "lake", wanted)
        assert outcome.gaps == []
        assert [row[0] for row in stored(tmp_path / "lake", series)][-1] < parse_time("2026-03-01T11:59")
        exchange.faults = Faults()
        run(exchange, tmp_path / "lake", wanted)
        assert stored(tmp_path / "lake", series) == truth(
            exchange, series, parse_time("2026-03-01T10:00"), parse_time("2026-03-01T12:00")
        )


def test_ten_thousand_hourly_settlements_across_changes_of_interval(exchange, tmp_path):
    assert run(exchange, tmp_path / "lake", select("funding", "SOLUSDT LINKUSDT TSLAUSDT")).exit_code == 0
    for symbol in ("SOLUSDT", "LINKUSDT", "TSLAUSDT"):
        series = Series("um", "funding", symbol)
        rows = stored(tmp_path / "lake", series)
        assert rows == truth(exchange, series, 0, NOW)
        assert len({(row[0], row[3]) for row in rows}) == len(rows)
    assert len(stored(tmp_path / "lake", Series("um", "funding", "SOLUSDT"))) > 10_000


def test_the_funding_of_many_symbols_is_asked_for_at_once(exchange, tmp_path):
    lake, wanted = tmp_path / "lake", select("funding", "all", start="2026-02-25", end="2026-02-27")
    exchange.clock.set(parse_time("2026-02-27T00:30"))
    run(exchange, lake, wanted)
    symbols = {series.symbol for series in Store.open(lake, network="mainnet", layout="year").series()}
    assert len(symbols) > 60
    exchange.clock.set(parse_time("2026-02-28T00:30"))
    exchange.reset()
    outcome = run(exchange, lake, command="update", stored=lambda _: True, lookback=DAY)
    assert outcome.exit_code == 0
    asked = [request for request in exchange.requests if request.path.endswith("fundingRate")]
    assert len(asked) <= 2 * 2 * 24 // 4 + 2  # two days in windows of 4 h, each asked twice, not once a symbol
    for symbol in symbols:
        series = Series("um", "funding", symbol)
        assert stored(lake, series) == truth(exchange, series, parse_time("2026-02-25"), parse_time("2026-02-28T00:30"))


def test_update_adds_what_is_new_and_reports_what_changed(world, tmp_path):
    lake, series = tmp_path / "lake", Series("um", "klines", "ETHUSDT", "1h")
    with Simulator(world, clock=Clock(NOW, frozen=True)) as exchange:
        run(exchange, lake, select("klines", "ETHUSDT", "1h", "2026-02-20"))
        before = stored(lake, series)
        exchange.clock.advance(6 * HOUR)
        revised = parse_time("2026-03-01T03:00")
        exchange.faults = Faults([{"action": "revise", "path": "klines", "open_time": revised}])
        outcome = run(exchange, lake, command="update", stored=lambda _: True, lookback=DAY)
        after = stored(lake, series)
    assert [(finding.check, finding.count, finding.span.start) for finding in outcome.findings] == [("changed", 1, revised)]
    assert outcome.rows_written == 7
    assert [row for row in after if row in before] == [row for row in before if row[0] != revised]
    assert len(after) == len(before) + 6


def test_one_bad_series_fails_alone_and_is_completed_later(world, tmp_path):
    lake = tmp_path / "lake"
    wanted = select("klines", "BTCUSDT ETHUSDT", "1h", "2026-02-01", "2026-02-20")
    bad = Faults([{"action": "wrong_width_row", "symbol": "ETHUSDT", "path": "klines", "width": 4}])
    with Simulator(world, clock=Clock(NOW, frozen=True), faults=bad) as exchange:
        outcome = run(exchange, lake, wanted, stop=Hasty())
        assert (outcome.exit_code, outcome.rows_written) == (3, 19 * 24)
        assert [series.symbol for series, _ in outcome.failed] == ["ETHUSDT"]
        assert {gap.series.symbol: gap.verdict for gap in outcome.gaps} == {"ETHUSDT": "lost"}
        assert "klines" in str(outcome.failed[0][1])
        exchange.faults = Faults()
        assert run(exchange, lake, wanted).exit_code == 0
        for symbol in ("BTCUSDT", "ETHUSDT"):
            series = Series("um", "klines", symbol, "1h")
            assert stored(lake, series) == truth(exchange, series, parse_time("2026-02-01"), parse_time("2026-02-20"))


def test_what_failed_before_its_first_file_is_not_forgotten(world, tmp_path):
    lake, series = tmp_path / "lake", Series("um", "klines", "ETHUSDT", "1h")
    bad = Faults([{"action": "status", "symbol": "ETHUSDT", "path": "klines", "status": 500}])
    with Simulator(world, clock=Clock(NOW, frozen=True), faults=bad) as exchange:
        # It is not even known when its first bar was.
        assert run(exchange, lake, select("klines", "BTCUSDT ETHUSDT", "1h", "2019-10-01"), stop=Hasty()).exit_code == 3
        assert Store(lake, "year").wanted() == {series: parse_time("2019-10-01")}
        exchange.faults = Faults()
        # Another command leaves it as it is; another range of the same series is a part of what is wanted.
        assert run(exchange, lake, select("klines", "BTCUSDT", "1d", "2026-02-01")).exit_code == 0
        assert Store(lake, "year").wanted() == {series: parse_time("2019-10-01")}
        assert run(exchange, lake, select("klines", "ETHUSDT", "1h", "2026-02-01")).exit_code == 0
        assert not (lake / "wanted.json").exists()
        assert run(exchange, lake, command="update", stored=lambda one: one.symbol == "ETHUSDT").exit_code == 0
        assert stored(lake, series) == truth(exchange, series, 0, parse_time("2026-03-01T12:00"))


@pytest.mark.parametrize(("start", "end"), [("2015-01-01", "2016-01-01"), ("2026-03-01T12:00:10", "2026-03-01T12:00:20")])
def test_a_range_in_which_nothing_can_be_does_not_let_a_series_be_forgotten(exchange, tmp_path, start, end):
    lake, series = tmp_path / "lake", Series("um", "klines", "ETHUSDT", "1h")
    run(exchange, lake, select("klines", "BTCUSDT", "1h", "2026-02-20"))
    Store(lake, "year").want({series: parse_time("2026-02-01")})
    assert run(exchange, lake, select("klines", "ETHUSDT", "1h", start, end)).exit_code == 0
    assert Store(lake, "year").wanted() == {series: parse_time("2026-02-01")}
    assert run(exchange, lake, command="update", stored=lambda _: True).exit_code == 0
    assert stored(lake, series) == truth(exchange, series, parse_time("2026-02-01"), parse_time("2026-03-01T12:00"))


@pytest.mark.parametrize("content", [b"", b"[", b"{}", b'{"a": 1}', b"[1]", b'[{"market": "um"}]', b"[" * 100_000, b"\xff"])
def test_a_damaged_list_of_what_is_wanted_is_told(exchange, tmp_path, content):
    run(exchange, tmp_path / "lake", select("klines", "BTCUSDT", "1d", "2026-02-01"))
    (tmp_path / "lake" / "wanted.json").write_bytes(content)
    with pytest.raises(LakeError, match=r"wanted\.json cannot be read .*; remove it, and run the backfill again"):
        run(exchange, tmp_path / "lake", command="update", stored=lambda _: True)


def test_a_series_that_fails_in_many_ways_is_named_once(world, tmp_path):
    bad = Faults([{"action": "wrong_width_row", "symbol": "ETHUSDT", "path": "klines", "width": 4}])
    with Simulator(world, clock=Clock(NOW, frozen=True), faults=bad) as exchange:
        outcome = run(exchange, tmp_path / "lake", select("klines", "ETHUSDT", "1h", "2024-12-01", "2026-02-20"), stop=Hasty())
        ((series, error),) = outcome.failed
        assert (series.symbol, outcome.exit_code, type(error)) == ("ETHUSDT", 3, BadAnswer)
        assert "; also: " in str(error)
        with connect(tmp_path / "lake") as connection:
            assert connection.sql("SELECT failed FROM runs").fetchall() == [(1,)]


def test_two_rows_for_one_bar_are_an_error_that_names_both(world, tmp_path):
    with Simulator(world, clock=Clock(NOW, frozen=True), faults=Faults([{"action": "conflict", "path": "klines"}])) as exchange:
        outcome = run(exchange, tmp_path / "lake", select("klines", "BTCUSDT", "1h", "2026-02-01", "2026-02-03"))
        assert outcome.exit_code == 3
        assert str(outcome.failed[0][1]).count("open_time=") == 2
        assert outcome.rows_written == 2 * 24 - 1  # the others stand
        assert [gap.verdict for gap in outcome.gaps] == ["lost"]
        exchange.faults = Faults()
        healed = run(exchange, tmp_path / "lake", select("klines", "BTCUSDT", "1h", "2026-02-01", "2026-02-03"))
        assert (healed.exit_code, healed.rows_written, healed.gaps) == (0, 1, [])


@pytest.mark.parametrize("code", [403, 418, 451])
def test_a_refusal_stops_everything_and_keeps_what_is_done(world, tmp_path, code):
    body = {403: "html", 418: "json", 451: "451"}[code]
    faults = Faults([{"action": "status", "path": "klines", "after": 4, "status": code, "body": body}])
    with Simulator(world, clock=Clock(NOW, frozen=True), faults=faults) as exchange:
        outcome = run(exchange, tmp_path / "lake", select("klines", "BTCUSDT ETHUSDT", "1m", "2026-02-27"), workers=1)
        assert (outcome.exit_code, type(outcome.stopped)) == (4, Refused)
        refused = [request for request in exchange.requests if request.status == code]
        assert len(refused) == 1
        assert outcome.rows_written > 0


def test_a_stopped_run_keeps_its_pages_and_the_next_one_asks_for_the_rest_only(exchange, tmp_path):
    lake, stop = tmp_path / "lake", Stop()
    wanted = select("klines", "BTCUSDT", "1m", "2026-02-01", "2026-02-11")
    exchange.faults = Faults([{"action": "stall", "path": "klines", "after": 4, "first": 1, "seconds": 0.3}])
    with Pipeline(settings(exchange, lake, workers=1), stop=stop, progress=StopAfter(stop, 4)) as pipeline:
        outcome = pipeline.sync("backfill", [wanted])
    assert isinstance(outcome.stopped, Cancelled)
    assert 0 < outcome.rows_written < 14_400
    assert {gap.verdict for gap in outcome.gaps} == {"lost"}
    kept = outcome.rows_written
    again = run(exchange, lake, wanted)
    assert (again.exit_code, again.rows_written) == (0, 14_400 - kept)


def test_a_month_lake_equals_a_year_lake(exchange, tmp_path):
    wanted = select("klines funding", "BTCUSDT", "15m 1h", "2025-12-15", "2026-01-20")
    run(exchange, tmp_path / "year", wanted)
    run(exchange, tmp_path / "month", wanted, partition="month")
    names = {path.name for path in (tmp_path / "month" / "klines").rglob("symbol=BTCUSDT/*") if "interval=15m" in str(path)}
    assert names == {"2025-12.parquet", "2026-01.parquet"}
    for series in (
        Series("um", "klines", "BTCUSDT", "15m"),
        Series("um", "klines", "BTCUSDT", "1h"),
        Series("um", "funding", "BTCUSDT"),
    ):
        assert stored(tmp_path / "month", series) == stored(tmp_path / "year", series) != []


def test_pieces_in_any_order_equal_the_whole(exchange, tmp_path):
    cuts = ["2025-12-30", "2025-12-31T07:31", "2026-01-01T00:00", "2026-01-02T11:11", "2026-01-03"]
    pieces = list(itertools.pairwise(cuts))
    for start, end in [pieces[2], pieces[0], pieces[3], pieces[1]]:
        run(exchange, tmp_path / "pieces", select("klines", "BTCUSDT", "1m", start, end))
    series = Series("um", "klines", "BTCUSDT", "1m")
    expected = truth(exchange, series, parse_time(cuts[0]), parse_time(cuts[-1]))
    assert stored(tmp_path / "pieces", series) == expected
    exchange.reset()
    run(exchange, tmp_path / "pieces", select("klines", "BTCUSDT", "1m", cuts[0], cuts[-1]))
    assert pages(exchange) == 0


def test_dry_run_writes_nothing_and_says_what_the_exchange_will_count(exchange, tmp_path):
    lake = tmp_path / "lake"
    wanted = select("klines mark_klines funding", "BTCUSDT ETHUSDT", "1m 1h", "2026-02-20", "2026-02-25")
    plan = run(exchange, lake, wanted, dry_run=True)
    assert not lake.exists()
    probes = 4
    assert pages(exchange) == probes  # one row for each series whose first bar neither the lake nor its listing tells
    exchange.reset()
    run(exchange, lake, wanted)
    asked = [request for request in exchange.requests if request.page]
    assert sum(job.requests for job in plan.jobs) == len(asked) - probes
    bars = [request for request in asked if request.path.lower().endswith("klines")]
    planned = sum(job.weight for job in plan.jobs if job.series[0].dataset != "funding")
    assert planned == sum(request.weight for request in bars) - probes


def test_what_the_exchange_does_not_know_is_refused_before_anything_starts(exchange, tmp_path):
    with pytest.raises(UsageError, match="BTCUSDT"):
        run(exchange, tmp_path / "lake", select("klines", "BTCUSD", "1m"))
    with pytest.raises(UsageError, match="spot has no funding"):
        run(exchange, tmp_path / "lake", select("funding", "BTCUSDT", market="spot"))
    with pytest.raises(UsageError, match="known are"):
        run(exchange, tmp_path / "lake", select("klines", "BTCUSDT", "7m"))
    assert not (tmp_path / "lake").exists()


def test_a_lake_belongs_to_one_network(exchange, tmp_path):
    run(exchange, tmp_path / "lake", select("klines", "BTCUSDT", "1h", "2026-02-28"))
    other = replace(settings(exchange, tmp_path / "lake"), network="testnet")
    with Pipeline(other) as pipeline, pytest.raises(UsageError, match="mainnet"):
        pipeline.sync("backfill", [select("klines", "BTCUSDT", "1h", "2026-02-28")])


def test_a_symbol_that_the_exchange_forgets_keeps_its_rows_and_its_rules(world, tmp_path):
    lake, series = tmp_path / "lake", Series("um", "klines", "LRCUSDT", "1d")
    later = parse_time("2026-08-20T12:30")
    with Simulator(world, clock=Clock(later, frozen=True)) as exchange:
        run(exchange, lake, select("klines", "LRCUSDT BTCUSDT", "1d", "2026-07-01"))
        rows = stored(lake, series)
    smaller = GeneratedWorld(seed=3, symbols=[c for c in world.contracts.values() if c.symbol != "LRCUSDT"])
    with Simulator(smaller, clock=Clock(later + 3 * DAY, frozen=True)) as exchange:
        outcome = run(exchange, lake, command="update", stored=lambda _: True, lookback=DAY)
        with Pipeline(settings(exchange, lake)) as pipeline:
            known = {row["symbol"]: row for row in pipeline.symbols("um")}
            alive = {row["symbol"] for row in pipeline.symbols("um", parse_time("2026-08-02"))}
            after = {row["symbol"] for row in pipeline.symbols("um", parse_time("2026-08-20"))}
    assert (outcome.exit_code, outcome.failed) == (0, [])
    assert iso(rows[-1][0]) == "2026-08-03T00:00:00Z"
    assert stored(lake, series) == rows
    assert (known["LRCUSDT"]["status"], known["LRCUSDT"]["delivery_time"]) == ("SETTLING", "2026-08-03T09:00:00Z")
    assert "LRCUSDT" in alive
    assert "LRCUSDT" not in after


def test_a_symbol_that_vanishes_before_its_end_is_lost_and_says_so(world, tmp_path):
    lake = tmp_path / "lake"
    with Simulator(world, clock=Clock(NOW, frozen=True)) as exchange:
        run(exchange, lake, select("klines", "LRCUSDT", "1h", "2026-02-20"))
    smaller = GeneratedWorld(seed=3, symbols=[c for c in world.contracts.values() if c.symbol != "LRCUSDT"])
    with Simulator(smaller, clock=Clock(NOW + DAY, frozen=True)) as exchange:
        outcome = run(exchange, lake, command="update", stored=lambda _: True, lookback=HOUR)
    assert outcome.exit_code == 3
    assert {gap.verdict for gap in outcome.gaps} == {"lost"}
    assert "LRCUSDT" in str(outcome.failed[0][1])


def test_memory_of_time_is_the_exchanges(world, tmp_path):
    """A clock that is an hour behind ours decides: nothing of the hour that it has not reached is stored."""
    with Simulator(world, clock=Clock(NOW - HOUR, frozen=True)) as exchange:
        run(exchange, tmp_path / "lake", select("klines", "BTCUSDT", "1m", NOW - 2 * HOUR - 30_000))
    times = [row[0] for row in stored(tmp_path / "lake", Series("um", "klines", "BTCUSDT", "1m"))]
    assert times[-1] == NOW - 30_000 - HOUR - MINUTE


def test_the_announced_limit_is_kept_across_a_minute_of_the_exchange(world, tmp_path):
    """More than one minute's weight: what the exchange counts in each of its minutes stays below the share."""
    clock = Clock(parse_time("2026-03-01T12:29:56"))  # running: the minute ends in four seconds
    with Simulator(world, clock=clock, weight_limit=100) as exchange:
        outcome = run(exchange, tmp_path / "lake", select("klines", "BTCUSDT ETHUSDT", "1m", "2026-02-20", "2026-03-01"))
        counters = exchange.counters()
        minutes = Counter()
        for request in exchange.requests:
            minutes[request.time // MINUTE] += request.weight
    assert outcome.exit_code == 0
    assert outcome.rows_written == 2 * 9 * 1440
    assert (counters["status_429"], counters["status_418"]) == (0, 0)
    assert len(minutes) == 2
    assert max(minutes.values()) <= 90
    assert outcome.rows_written / outcome.weight > 230  # the thriftiest page, because weight is the brake


def test_a_burst_of_empty_answers_does_not_erase_a_history(world, tmp_path):
    lake, wanted = tmp_path / "lake", select("klines", "BTCUSDT", "1h", "2026-02-01")
    with Simulator(world, clock=Clock(NOW, frozen=True)) as exchange:
        exchange.faults = Faults([{"action": "empty_page", "path": "klines", "first": 6}])
        outcome = run(exchange, lake, wanted)
        assert (outcome.exit_code, [gap.verdict for gap in outcome.gaps]) == (3, ["lost"])
        assert run(exchange, lake, wanted).rows_written == 28 * 24 + 12
        exchange.faults = Faults([{"action": "empty_page", "path": "klines", "first": 6}])
        assert run(exchange, lake, select("klines", "BTCUSDT", "1h", "2026-01-01")).exit_code == 3
        assert run(exchange, lake, select("klines", "BTCUSDT", "1h", "2026-01-01")).rows_written == 31 * 24


def test_update_asks_again_for_a_lost_beginning(world, tmp_path):
    lake, series = tmp_path / "lake", Series("um", "klines", "BTCUSDT", "1m")
    broken = [{"action": "wrong_width_row", "path": "klines", "first": 6, "width": 4}]  # the first page, for good
    start = parse_time("2026-02-20")
    with Simulator(world, clock=Clock(NOW, frozen=True), faults=Faults(broken)) as exchange:
        outcome = run(exchange, lake, select("klines", "BTCUSDT", "1m", start), workers=1)
        assert outcome.exit_code == 3
        assert stored(lake, series)[0][0] > start
        exchange.faults = Faults()
        assert run(exchange, lake, command="update", stored=lambda _: True, lookback=HOUR).exit_code == 0
        assert stored(lake, series) == truth(exchange, series, start, closed_end("1m", NOW))


def test_a_life_is_what_the_finest_bars_prove(exchange, tmp_path):
    exchange.clock.set(parse_time("2026-08-20T12:30"))
    lake = tmp_path / "lake"
    run(exchange, lake, select("klines", "LRCUSDT", "1d 1w", None, "2024-01-01"))
    with Pipeline(settings(exchange, lake)) as pipeline:
        row = next(row for row in pipeline.symbols("um") if row["symbol"] == "LRCUSDT")
        assert "LRCUSDT" in {one["symbol"] for one in pipeline.symbols("um", parse_time("2026-01-01"))}
    assert (row["first_time"], row["last_time"]) == ("2020-10-12T00:00:00Z", None)
    told = lake / "symbols" / "market=um" / "symbols.parquet"
    early = told.read_bytes()
    run(exchange, lake, select("klines", "LRCUSDT", "1d"))
    with Pipeline(settings(exchange, lake)) as pipeline:
        row = next(row for row in pipeline.symbols("um") if row["symbol"] == "LRCUSDT")
    assert (row["first_time"], row["last_time"]) == ("2020-10-12T00:00:00Z", "2026-08-03T00:00:00Z")
    run(exchange, lake, select("klines", "LRCUSDT", "1d"))  # which has nothing to do
    assert told.read_bytes() != early
    whole = told.read_bytes()
    told.write_bytes(early)  # as a kill after the last partition leaves it
    run(exchange, lake, select("klines", "LRCUSDT", "1d"))
    assert told.read_bytes() == whole


def test_all_pairs_are_those_of_which_a_contract_trades(exchange, tmp_path):
    for _ in range(2):
        outcome = run(exchange, tmp_path / "lake", select("index_klines", "all", "1d", "2026-02-27"))
        assert outcome.exit_code == 0
    symbols = {series.symbol for series in Store.open(tmp_path / "lake", network="mainnet", layout="year").series()}
    assert {"BTCUSDT", "ETHUSDT"} <= symbols
    assert not [symbol for symbol in symbols if "_" in symbol]


def test_a_bar_of_progress_bears_a_run_without_expected_rows(exchange, tmp_path):
    exchange.clock.set(parse_time("2026-08-20T12:30"))
    run(exchange, tmp_path / "lake", select("klines", "LRCUSDT", "1h", "2026-08-01"))
    exchange.clock.advance(DAY)
    with Pipeline(settings(exchange, tmp_path / "lake"), progress=Bar()) as pipeline:
        assert pipeline.sync("update", stored=lambda _: True, lookback=HOUR).exit_code == 0


def test_a_week_across_new_year_is_complete_in_the_ledger(exchange, tmp_path):
    run(exchange, tmp_path / "lake", select("klines funding", "ETHUSDT", "1w", "2025-11-03", "2026-02-23"))
    with connect(tmp_path / "lake") as connection:
        weeks = connection.sql("SELECT day, verdict FROM ledger WHERE dataset = 'klines' ORDER BY day").fetchall()
        days = connection.sql("SELECT DISTINCT verdict FROM ledger WHERE dataset = 'funding'").fetchall()
    assert [verdict for day, verdict in weeks] == ["partial", "complete", "complete", "partial"]
    assert days == [("complete",)]


def test_no_first_bar_is_asked_for_where_the_listing_tells_it(exchange, tmp_path):
    run(exchange, tmp_path / "lake", select("klines", "BTCUSDT ETHUSDT", "1h", "2026-02-20", "2026-02-21"))
    assert pages(exchange) == 2
    listed = {one["symbol"]: one["onboardDate"] for one in exchange.market.exchange_info("um", NOW)["symbols"]}
    young = max((time, name) for name, time in listed.items() if time < NOW - 20 * DAY)[1]
    exchange.reset()
    run(exchange, tmp_path / "lake", select("klines", young, "1h", listed[young] + 29 * DAY, "2026-03-01"), dry_run=True)
    assert pages(exchange) == 1
