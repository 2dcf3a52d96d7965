"""Every fault of the line, of the exchange's answers and of the archive's, through whole runs over real HTTP.

Whatever goes wrong: what is stored is true, what is not stored is named and has an exit code that is not 0, and a later run
without the fault completes it. What is wrong inside the archive's files is in test_archive_runs, in the same way.
"""

import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest

from etl.errors import BadAnswer, EtlError, Refused, Rejected, Transient
from etl.extract.http import Http
from etl.model import Series
from etl.pipeline import Pipeline, Selection, Stop
from etl.plan import closed_end
from etl.ranges import DAY, HOUR, MINUTE, parse_time
from etl.sim.clock import Clock
from etl.sim.faults import ACTIONS, Faults
from etl.sim.market import GeneratedWorld
from etl.sim.server import Simulator

from ..exchange import nobody, partitions, settings, stored, truth

# Two seconds before a minute is over: who is told to wait for the next one, does not wait for long.
NOW = parse_time("2026-03-01T12:00:58")
START = parse_time("2026-02-27")
BARS = tuple(Series("um", "klines", symbol, "1m") for symbol in ("BTCUSDT", "ETHUSDT"))
RATES = tuple(Series("um", "funding", symbol) for symbol in ("BTCUSDT", "ETHUSDT"))
WANTED = Selection("um", ("klines", "funding"), ("BTCUSDT", "ETHUSDT"), ("1m",), START)


SOAK = os.environ.get("ETL_SOAK") == "1"


class Hasty(Stop):
    """Nobody stops, and nobody waits: what is asked again is asked again at once."""

    def wait(self, timeout=None):
        return self.is_set()


@pytest.fixture(scope="module")
def world():
    return GeneratedWorld(seed=5, symbols=4)


@contextmanager
def serve(world, *rules, now=NOW, **options):
    with Simulator(world, clock=Clock(now, frozen=True), faults=Faults(rules), **options) as running:
        yield running


# Who is silent or slow is given up soon; all others have time enough also on a busy machine.
SOON, LATER = {"timeout": 0.3, "deadline": 0.5}, {"timeout": 10, "deadline": 30}
LARGEST = 2**21  # what never ends is cut off here
SLOW = {"timeout", "stall", "slow_drip"}


def run(exchange, lake, *selections, command="backfill", source="rest", lookback=0, **urls):
    """A run that never waits between attempts, and loses patience soon if the exchange is slow."""
    stored = (lambda _: True) if command == "update" else None
    slow = any(rule.action in SLOW for rule in exchange.faults.rules)
    with (
        Http(**(SOON if slow else LATER), max_body=LARGEST) as http,
        Pipeline(settings(exchange, lake, **urls), source=source, stop=Hasty(), http=http) as pipeline,
    ):
        return pipeline.sync(command, selections or (WANTED,), stored=stored, lookback=lookback)


def true(exchange, series, start=START, now=NOW):
    rows = truth(exchange, series, start, closed_end(series.interval, now))
    assert rows
    return rows


def assert_exact(exchange, lake, *every, start=START, now=NOW):
    for series in every:
        assert stored(lake, series) == true(exchange, series, start, now), series


def assert_no_lie(exchange, lake, outcome, *every, start=START, now=NOW):
    """What is stored is true and stored once; a series that lacks something has failed by name, or the run was refused."""
    for series in every:
        rows, all_rows = stored(lake, series), true(exchange, series, start, now)
        assert sorted(set(rows)) == rows
        assert set(rows) <= set(all_rows)
        if rows != all_rows:
            assert outcome.exit_code in {3, 4}
            assert any(gap.series == series and gap.verdict == "lost" for gap in outcome.gaps)
            if outcome.exit_code == 3:
                assert series in {failed for failed, _ in outcome.failed}


@dataclass(frozen=True)
class Row:
    """A fault, and how a run ends that meets it once, and one that meets it always: None is a good end."""

    action: str
    once: type[EtlError] | None
    always: type[EtlError] | None
    keys: dict[str, object]

    def __str__(self):
        return " ".join([self.action, *(str(value)[:30] for value in self.keys.values())])


def row(action, once, always, **keys):
    return Row(action, once, always, keys)


MATRIX = [
    # The exchange has no answer.
    row("status", None, Transient, status=400),  # its code says that it is the exchange's own fault
    row("status", Rejected, Rejected, status=400, body="string-code"),
    row("status", Rejected, Rejected, status=404, body="html"),
    row("status", None, Transient, status=408),
    row("status", None, Transient, status=500),
    row("status", None, Transient, status=502, body="html"),
    row("status", None, Transient, status=502, body="text"),
    row("status", None, Transient, status=503),
    row("retry_after", None, Transient, status=503),
    row("status", Refused, Refused, status=403, body="html"),
    row("status", Refused, Refused, status=418),
    row("status", Refused, Refused, status=451, body="451"),
    # The line.
    row("reset", None, Transient, when="before"),
    row("reset", None, Transient, when="headers"),
    row("reset", None, Transient, when="body"),
    row("hang_up", None, None),
    row("timeout", None, Transient),
    row("stall", None, Transient, when="body"),
    row("slow_drip", None, Transient, part="headers", bytes_per_second=40),
    row("slow_drip", None, Transient, part="body", bytes_per_second=40),
    row("endless", None, BadAnswer),
    row("fat_headers", None, Transient, megabytes=1),
    row("gzip_bomb", None, BadAnswer),
    row("truncated_json", None, Transient, length="sent"),
    row("truncated_json", None, Transient, length="full"),
    row("truncated_json", None, Transient, length="none"),
    # A body of another kind.
    row("empty_body", None, Transient),
    row("html_200", None, Transient),
    row("body", None, Transient, text="NaN"),
    row("body", None, BadAnswer, text="null"),
    row("body", None, BadAnswer, text="{}"),
    row("body", None, BadAnswer, text="[null]"),
    row("body", None, BadAnswer, text="[[]]"),
    row("object_instead_of_list", None, BadAnswer),
    row("redirect", None, BadAnswer),
    # Rows that are none.
    row("wrong_type_row", None, BadAnswer),
    row("wrong_type_row", None, BadAnswer, value="Infinity"),
    row("wrong_type_row", None, BadAnswer, value="1e999"),
    row("nan", None, BadAnswer),
    row("nan", None, Transient, bare=True),
    row("conflict", None, BadAnswer),
    # Pages that are not what was asked for.
    row("duplicate_rows", None, None),
    row("duplicate_page", None, None),
    row("overlap", None, None, rows=5),
    row("shuffled", None, None),
    row("open_bar_extra", None, None),
]


@pytest.mark.parametrize(
    ("path", "hit", "spared", "times"),
    [("klines", BARS, RATES, "once"), ("klines", BARS, RATES, "always"), ("fundingRate", RATES, BARS, "always")],
    ids=["bars-once", "bars-always", "rates-always"],
)
@pytest.mark.parametrize("fault", MATRIX, ids=str)
def test_a_fault_is_survived_or_told(world, tmp_path, fault, path, hit, spared, times):
    lake, expected = tmp_path / "lake", getattr(fault, times)
    rule = {"action": fault.action, "path": path, **fault.keys} | ({"first": 1} if times == "once" else {})
    with serve(world, rule) as exchange:
        outcome = run(exchange, lake)
        assert any(request.fault for request in exchange.requests)
        assert_no_lie(exchange, lake, outcome, *BARS, *RATES)
        if expected is None:
            assert (outcome.exit_code, outcome.failed, outcome.gaps) == (0, [], [])
            assert_exact(exchange, lake, *BARS, *RATES)
        elif expected is Refused:
            assert outcome.exit_code == 4
            assert isinstance(outcome.stopped, Refused)
            assert path in str(outcome.stopped)
        else:
            assert outcome.exit_code == 3
            assert len({series for series, _ in outcome.failed}) == (1 if times == "once" else 2)
            for series, error in outcome.failed:
                assert series in hit
                assert type(error) is expected
                assert series.symbol in str(error)
            assert_exact(exchange, lake, *spared)
        before = partitions(lake)
        exchange.faults = Faults()
        if expected is Refused and fault.keys["status"] != 451:
            exchange.reset()
            with pytest.raises(Refused, match="nothing is sent before"):
                run(exchange, lake)
            assert exchange.requests == []
            shutil.rmtree(tmp_path / "state")  # as the message advises to a host that has another address by now
        again = run(exchange, lake)
        assert (again.exit_code, again.failed, again.gaps) == (0, [], [])
        assert_exact(exchange, lake, *BARS, *RATES)
        if expected is None:
            assert partitions(lake) == before


def test_every_action_of_the_simulator_is_met_here():
    """A fault that is added to the simulator is added to a table."""
    elsewhere = {"clock_skew", "revise", "wrong_width_row", "short_page", "drop_middle", "empty_page", "stuck_page"}
    assert {fault.action for fault in MATRIX} | elsewhere == ACTIONS.keys()


def test_a_429_without_a_time_is_waited_out(world, tmp_path):
    """Nobody asks again before the minute is over in which it came."""
    with serve(world, {"action": "status", "status": 429, "path": "klines", "first": 1}) as exchange:
        assert run(exchange, tmp_path / "lake").exit_code == 0
        assert_exact(exchange, tmp_path / "lake", *BARS, *RATES)
        assert exchange.counters()["status_429"] == 1


def test_a_429_with_a_time_is_waited_out_each_time(world, tmp_path):
    with serve(world, {"action": "retry_after", "seconds": 1, "path": "klines", "first": 2}) as exchange:
        assert run(exchange, tmp_path / "lake").exit_code == 0
        assert_exact(exchange, tmp_path / "lake", *BARS, *RATES)


# ---- answers that lack something: believed only after many of them, and told


LACKING = [
    ({"action": "short_page"}, "klines"),
    ({"action": "short_page", "drop": 50}, "klines"),
    ({"action": "short_page"}, "fundingRate"),
    ({"action": "drop_middle", "drop": 30}, "klines"),
    ({"action": "drop_middle"}, "fundingRate"),
    ({"action": "empty_page"}, "klines"),
    ({"action": "empty_page"}, "fundingRate"),
    ({"action": "stuck_page"}, "klines"),
    ({"action": "stuck_page"}, "fundingRate"),
    ({"action": "wrong_width_row", "width": 8}, "klines"),
]


@pytest.mark.parametrize(
    ("rule", "path"), LACKING, ids=[f"{path} {' '.join(map(str, rule.values()))}" for rule, path in LACKING]
)
@pytest.mark.parametrize("after", [0, 1])
def test_an_answer_that_lacks_rows_is_not_believed(world, tmp_path, rule, path, after):
    """One of them, at the beginning or in the middle."""
    with serve(world, rule | {"path": path, "first": 1, "after": after}) as exchange:
        outcome = run(exchange, tmp_path / "lake")
        assert_no_lie(exchange, tmp_path / "lake", outcome, *BARS, *RATES)
        assert outcome.exit_code == 0
        exchange.faults = Faults()
        assert run(exchange, tmp_path / "lake").exit_code == 0
        assert_exact(exchange, tmp_path / "lake", *BARS, *RATES)


@pytest.mark.parametrize(
    "rule",
    [
        {"action": "short_page"},
        {"action": "short_page", "drop": 50},
        {"action": "drop_middle", "drop": 30},
        {"action": "empty_page"},
        {"action": "stuck_page"},
        {"action": "wrong_width_row", "width": 8},
    ],
    ids=lambda rule: " ".join(map(str, rule.values())),
)
def test_bars_that_every_answer_lacks_are_named_and_read_again(world, tmp_path, rule):
    """An exchange that denies them six times is believed, and yet every bar that lacks is told."""
    lake = tmp_path / "lake"
    with serve(world, rule | {"path": "klines"}) as exchange:
        outcome = run(exchange, lake)
        failed = {series for series, _ in outcome.failed}
        for series in BARS:
            rows, all_rows = stored(lake, series), true(exchange, series)
            assert set(rows) <= set(all_rows)
            lacking = {row[0] for row in set(all_rows) - set(rows)}
            told = [gap for gap in outcome.gaps if gap.series == series]
            young = {
                time for time in lacking if time > NOW - 11 * MINUTE
            }  # they are asked for again, and nothing is said of them
            assert lacking - young <= {time for time in lacking for gap in told if time in gap.span}
            assert series in failed or all(gap.verdict == "missing" for gap in told)
        assert outcome.exit_code == (3 if failed else 0)
        assert_exact(exchange, lake, *RATES)
        exchange.faults = Faults()
        run(exchange, lake)
        assert run(exchange, lake, command="update", lookback=NOW - START).exit_code == 0
        assert_exact(exchange, lake, *BARS, *RATES)


def test_two_empty_pages_of_settlements_are_no_truth(world, tmp_path):
    """Perpetuals that trade have settlements each day; with empty pages now and then both answers may be empty."""
    with serve(world, {"action": "empty_page", "path": "fundingRate", "symbol": "BTCUSDT", "first": 2}) as exchange:
        outcome = run(exchange, tmp_path / "lake")
        assert_no_lie(exchange, tmp_path / "lake", outcome, *RATES)


def test_a_revised_row_is_replaced_by_the_look_back_and_told(world, tmp_path):
    """One wrong close inside its bar's range, which no check of the row can tell from a true one."""
    lake = tmp_path / "lake"
    with serve(world, {"action": "revise", "path": "klines", "symbol": "BTCUSDT", "first": 1}) as exchange:
        assert run(exchange, lake).exit_code == 0
        (wrong,) = set(stored(lake, BARS[0])) - set(true(exchange, BARS[0]))
        outcome = run(exchange, lake, command="update", lookback=NOW - START)
        assert [finding.times for finding in outcome.findings if finding.check == "changed"] == [(wrong[0],)]
        assert_exact(exchange, lake, *BARS, *RATES)


# ---- a storm


STORM = [
    {"action": "status", "status": 500},
    {"action": "status", "status": 502, "body": "html"},
    {"action": "status", "status": 408},
    {"action": "reset", "when": "body"},
    {"action": "hang_up"},
    {"action": "truncated_json", "length": "none"},
    {"action": "html_200"},
    {"action": "empty_body"},
    {"action": "short_page", "drop": 7, "path": "lines"},
    {"action": "drop_middle", "drop": 3, "path": "lines"},
    {"action": "duplicate_page"},
    {"action": "shuffled"},
    {"action": "overlap", "rows": 3},
    {"action": "body", "text": "{}"},
    {"action": "body", "text": "[[]]"},
    {"action": "object_instead_of_list"},
    {"action": "wrong_type_row"},
    {"action": "nan"},
    {"action": "redirect"},
    {"action": "conflict", "path": "lines|funding"},
]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("gzip", [False, True], ids=["plain", "gzip"])
def test_one_answer_of_five_is_wrong_in_some_way(world, tmp_path, seed, gzip):
    with serve(world, gzip=gzip) as exchange:
        exchange.faults = Faults([{**rule, "probability": 0.2 / len(STORM)} for rule in STORM], seed=seed)
        wanted = Selection("um", ("klines", "mark_klines", "funding"), ("BTCUSDT", "ETHUSDT"), ("1m", "1h"), START)
        outcome = run(exchange, tmp_path / "lake", wanted)
        assert any(request.fault for request in exchange.requests)
        assert (outcome.exit_code, outcome.failed) == (0, [])
        marks = [Series("um", "mark_klines", symbol, "1h") for symbol in ("BTCUSDT", "ETHUSDT")]
        assert_exact(exchange, tmp_path / "lake", *BARS, *RATES, *marks)


OFTEN = [
    *((fault.action, fault.keys, "klines|fundingRate") for fault in MATRIX if fault.always not in {Refused, Rejected}),
    *(
        (rule["action"], {key: value for key, value in rule.items() if key != "action"}, "klines")
        for rule, path in LACKING
        if path == "klines"
    ),
]


@pytest.mark.skipif(not SOAK, reason="make soak takes each fault alone; the storm above has a part of them")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.01, 0.1])  # at 0.2 six answers in a row lack the same bars in one of 16,000 pages
@pytest.mark.parametrize(
    ("action", "keys", "path"), OFTEN, ids=[f"{action} {' '.join(map(str, keys.values()))}" for action, keys, _ in OFTEN]
)
def test_a_fault_in_so_many_answers_changes_nothing(world, tmp_path, action, keys, path, share, seed):
    with serve(world) as exchange:
        exchange.faults = Faults([{"action": action, **keys, "path": path, "probability": share}], seed=seed)
        outcome = run(exchange, tmp_path / "lake", replace(WANTED, start=parse_time("2026-02-15")))
        assert any(request.fault for request in exchange.requests) or share < 0.1
        assert (outcome.exit_code, outcome.failed, outcome.gaps) == (0, [], [])
        assert_exact(exchange, tmp_path / "lake", *BARS, *RATES, start=parse_time("2026-02-15"))


def test_20_megabytes_of_headers(world, tmp_path):
    with serve(world, {"action": "fat_headers", "path": "klines", "first": 1}) as exchange:
        assert run(exchange, tmp_path / "lake").exit_code == 0
        assert_exact(exchange, tmp_path / "lake", *BARS, *RATES)


def test_a_truncated_gzip_body_is_asked_for_again(world, tmp_path):
    with serve(world, {"action": "truncated_json", "path": "klines", "first": 3}, gzip=True) as exchange:
        assert run(exchange, tmp_path / "lake").exit_code == 0
        assert_exact(exchange, tmp_path / "lake", *BARS, *RATES)


# ---- a clock that is wrong


def test_an_exchange_whose_clock_is_behind_is_followed_and_then_caught_up_with(world, tmp_path):
    lake = tmp_path / "lake"
    with serve(world, {"action": "clock_skew", "ms": -HOUR}) as exchange:
        assert run(exchange, lake).exit_code == 0
        assert_exact(exchange, lake, *BARS, *RATES, now=NOW - HOUR)
        exchange.faults = Faults()
        assert run(exchange, lake).exit_code == 0
        assert_exact(exchange, lake, *BARS, *RATES)


def test_what_an_exchange_whose_clock_was_ahead_denied_is_read_again(world, tmp_path):
    """Its word is the only one on what is closed (contract 2); the look-back of `update` puts right what came of it."""
    lake, later = tmp_path / "lake", NOW + 2 * HOUR
    with serve(world, {"action": "clock_skew", "ms": HOUR}) as exchange:
        outcome = run(exchange, lake)
        assert outcome.gaps
        rows = [row for row in stored(lake, BARS[0]) if row[6] < NOW]
        assert rows == true(exchange, BARS[0])
    with serve(world, now=later) as exchange:
        assert run(exchange, lake, command="update", lookback=3 * DAY).exit_code == 0
        assert_exact(exchange, lake, *BARS, *RATES, now=later)


# ---- nobody there


@contextmanager
def unknown():
    yield "http://nowhere.invalid"


@contextmanager
def no_tls():
    """A server that takes no part in TLS."""
    with Simulator(GeneratedWorld(seed=5, symbols=1)) as plain:
        yield plain.url.replace("http://", "https://")


@pytest.mark.parametrize("where", [nobody, unknown, no_tls])
def test_nobody_answers_for_the_exchange(world, tmp_path, where):
    """Nothing is known of any series, so none is named: the run ends, says whom it asked, and has made nothing."""
    with serve(world) as exchange, where() as url:
        with pytest.raises(Transient, match=url) as raised:
            run(exchange, tmp_path / "lake", um_url=url)
        assert raised.value.exit_code == 1
        assert not (tmp_path / "lake").exists()
        assert run(exchange, tmp_path / "lake").exit_code == 0
        assert_exact(exchange, tmp_path / "lake", *BARS, *RATES)


@pytest.mark.parametrize("path", ["/time$", "/exchangeInfo$"])
@pytest.mark.parametrize(
    ("rule", "error"),
    [
        ({"action": "body", "text": "null"}, BadAnswer),
        ({"action": "body", "text": "{}"}, BadAnswer),
        ({"action": "body", "text": '{"serverTime":-1,"symbols":[]}'}, BadAnswer),
        ({"action": "html_200"}, Transient),
        ({"action": "reset"}, Transient),
        ({"action": "redirect"}, BadAnswer),
        ({"action": "status", "status": 418}, Refused),
    ],
    ids=lambda one: " ".join(map(str, one.values())) if isinstance(one, dict) else "",
)
def test_without_clock_or_rules_nothing_is_started(world, tmp_path, path, rule, error):
    with serve(world, rule | {"path": path}) as exchange:
        with pytest.raises(error, match="fapi") as raised:
            run(exchange, tmp_path / "lake")
        assert type(raised.value) is error
        assert not (tmp_path / "lake").exists()


# ---- a redirect


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_to_another_host_is_refused(world, tmp_path, status):
    with serve(world) as elsewhere, serve(world) as exchange:
        rule = {"action": "redirect", "location": f"{elsewhere.url}/fapi/v1/klines", "status": status, "path": "klines"}
        exchange.faults = Faults([rule])
        outcome = run(exchange, tmp_path / "lake")
        assert outcome.exit_code == 3
        assert {series for series, _ in outcome.failed} == {*BARS}
        assert all(elsewhere.url in str(error) for _, error in outcome.failed)
        assert elsewhere.requests == []


# ---- the archive


HOURS = Series("um", "klines", "BTCUSDT", "1h")
# Few enough days to be asked for one by one: a month that fails would be asked for again in 31 files.
OLD, END = parse_time("2026-02-25"), parse_time("2026-02-28")
ARCHIVED = Selection("um", ("klines",), ("BTCUSDT",), ("1h",), OLD, END)
LONG = Selection("um", ("klines",), ("BTCUSDT",), ("1h",), parse_time("2025-12-01"), parse_time("2026-02-01"))
ZIP, SUM, LIST = r"\.zip$", r"\.CHECKSUM$", r"^/$"


def archived(exchange):
    return truth(exchange, HOURS, OLD, END)


ARCHIVE = [
    ({"action": "status", "status": 500}, Transient),
    ({"action": "status", "status": 429}, Transient),
    ({"action": "reset", "when": "before"}, Transient),
    ({"action": "timeout"}, Transient),
    ({"action": "slow_drip", "bytes_per_second": 40, "part": "headers"}, Transient),
    ({"action": "truncated_json", "length": "full"}, Transient),
    ({"action": "endless"}, BadAnswer),
    ({"action": "fat_headers", "megabytes": 1}, Transient),
    ({"action": "redirect"}, BadAnswer),
    ({"action": "html_200"}, BadAnswer),
    ({"action": "gzip_bomb"}, BadAnswer),
    ({"action": "body", "text": "this is neither a digest nor a zip"}, BadAnswer),
]
ARCHIVE_IDS = [" ".join(map(str, rule.values())) for rule, _ in ARCHIVE]


@pytest.mark.parametrize("path", [ZIP, SUM], ids=["zip", "CHECKSUM"])
@pytest.mark.parametrize(("rule", "error"), ARCHIVE, ids=ARCHIVE_IDS)
def test_the_archive_alone_with_a_fault(world, tmp_path, rule, error, path):
    lake = tmp_path / "lake"
    with serve(world, rule | {"path": path}) as exchange:
        outcome = run(exchange, lake, ARCHIVED, source="archive")
        assert stored(lake, HOURS) == []
        assert outcome.exit_code == 3
        assert [(series, type(one)) for series, one in outcome.failed] == [(HOURS, error)]
        assert "BTCUSDT-1h" in str(outcome.failed[0][1])
        assert {(gap.series, gap.verdict) for gap in outcome.gaps} == {(HOURS, "lost")}
        exchange.faults = Faults()
        assert run(exchange, lake, ARCHIVED, source="archive").exit_code == 0
        assert stored(lake, HOURS) == archived(exchange)


@pytest.mark.parametrize("path", [ZIP, SUM, LIST], ids=["zip", "CHECKSUM", "listing"])
@pytest.mark.parametrize(("rule", "error"), ARCHIVE, ids=ARCHIVE_IDS)
def test_an_archive_with_a_fault_beside_rest(world, tmp_path, rule, error, path):
    with serve(world, rule | {"path": path}) as exchange:
        wanted = LONG if path == LIST else replace(ARCHIVED, intervals=("1m",))
        outcome = run(exchange, tmp_path / "lake", wanted, source="auto")
        assert (outcome.exit_code, outcome.failed, outcome.gaps) == (0, [], [])
        assert any(request.fault for request in exchange.requests)
        series = replace(HOURS, interval=wanted.intervals[0])
        assert stored(tmp_path / "lake", series) == truth(exchange, series, wanted.start, wanted.end)


@pytest.mark.parametrize("rule", [rule for rule, _ in ARCHIVE], ids=ARCHIVE_IDS)
def test_the_archive_alone_with_a_listing_that_fails(world, tmp_path, rule):
    """What is named is found by the names of its files, which also tell the time."""
    with serve(world, rule | {"path": LIST}) as exchange:
        outcome = run(exchange, tmp_path / "lake", ARCHIVED, source="archive")
        assert (outcome.exit_code, outcome.gaps) == (0, [])
        assert stored(tmp_path / "lake", HOURS) == archived(exchange)


@pytest.mark.parametrize("where", [nobody, unknown])
def test_nobody_answers_for_the_archive(world, tmp_path, where):
    lake = tmp_path / "lake"
    with serve(world) as exchange, where() as url:
        alone = run(exchange, lake, ARCHIVED, source="archive", archive_url=url)
        assert alone.exit_code == 3
        assert [series for series, _ in alone.failed] == [HOURS]
        assert "BTCUSDT-1h" in str(alone.failed[0][1])
        assert stored(lake, HOURS) == []
        assert run(exchange, lake, ARCHIVED, source="auto", archive_url=url, archive_index_url=url).exit_code == 0
        assert stored(lake, HOURS) == archived(exchange)
