"""`etl repair`: whatever is damaged becomes what it was, and nothing else is asked for."""

import json
import os
import subprocess
import sys
from datetime import UTC, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from etl.lake.store import Store
from etl.model import Series
from etl.pipeline import Pipeline, Selection
from etl.ranges import parse_time
from etl.repair import repair
from etl.sim.clock import Clock
from etl.sim.faults import Faults
from etl.sim.market import GeneratedWorld
from etl.sim.server import Simulator
from etl.verify import verify

from .exchange import pages, partitions, settings, stored, truth

NOW = parse_time("2026-03-01T12:00:30")
START, END = parse_time("2025-12-20"), parse_time("2026-02-20")
HOURS = Series("um", "klines", "BTCUSDT", "1h")
MINUTES = Series("um", "klines", "BTCUSDT", "1m")
RATES = Series("um", "funding", "BTCUSDT")
OTHER = Series("um", "klines", "ETHUSDT", "1h")
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def exchange():
    with Simulator(GeneratedWorld(seed=5, symbols=4), clock=Clock(NOW, frozen=True)) as running:
        yield running


@pytest.fixture
def lake(exchange, tmp_path):
    publish(exchange)
    lake = tmp_path / "lake"
    fill(exchange, lake, "klines funding", "BTCUSDT ETHUSDT")
    exchange.reset()
    return lake


def publish(exchange, *defects):
    """Let the archive have these defects, and no others."""
    exchange.faults = Faults([], archive=list(defects))
    exchange.archive._defects = exchange.faults.defects


def fill(exchange, lake, datasets, symbols, interval="1h", source="auto", start=START, end=END, market="um"):
    selection = Selection(market, tuple(datasets.split()), tuple(symbols.split()), (interval,), start, end)
    with Pipeline(settings(exchange, lake), source=source) as pipeline:
        assert pipeline.sync("backfill", [selection]).exit_code == 0


def mend(exchange, lake, chosen=lambda _: True, **options):
    return repair(settings(exchange, lake), chosen, **options)


def opened(lake):
    return Store.open(lake, network="mainnet", layout="year")


def rewrite(lake, series, change, year="2026"):
    """Let a file hold what `change` makes of its rows, with the footer that it had."""
    path = next(path for path in opened(lake).paths(series) if path.stem == year)
    table = pq.read_table(path, partitioning=None)
    footer = pq.read_metadata(path).metadata[b"etl"]
    rows = [
        {name: value.replace(tzinfo=UTC) if hasattr(value, "tzinfo") else value for name, value in row.items()}
        for row in table.to_pylist()
    ]
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(pa.Table.from_pylist(change(rows), schema=table.schema))
        writer.add_key_value_metadata({"etl": footer.decode()})


def is_whole(exchange, lake, *series):
    """Every row that was asked for, and nothing wrong around them: where a file does not tell, its whole year is fetched."""
    for one in series or (HOURS, OTHER, RATES):
        rows = stored(lake, one)
        assert rows == truth(exchange, one, min(START, rows[0][0]), max(END, rows[-1][0] + 1))
    assert verify(opened(lake)).sound


def with_one(rows, index, **fields):
    return [*rows[:index], rows[index] | fields, *rows[index + 1 :]]


DAMAGE = {
    "a high below the low": lambda rows: with_one(rows, 53, high=0.5),
    "more takers than trades": lambda rows: with_one(rows, 53, taker_buy_volume=1e12),
    "a negative volume": lambda rows: with_one(rows, 0, volume=-1.0),
    "no price": lambda rows: with_one(rows, len(rows) - 1, close=float("nan")),
    "a wrong close time": lambda rows: with_one(rows, 53, close_time=rows[53]["open_time"]),
    "twice the same": lambda rows: [*rows[:50], rows[49], *rows[50:]],
    "twice, and different": lambda rows: [*rows[:50], rows[49] | {"volume": 1.5}, *rows[50:]],
    "two in the wrong order": lambda rows: [*rows[:50], rows[51], rows[50], *rows[52:]],
    "all in the wrong order": lambda rows: rows[::-1],
    "off the grid": lambda rows: with_one(rows, 50, open_time=rows[50]["open_time"] + HOUR / 7),
    "ten rows gone": lambda rows: [*rows[:50], *rows[60:]],
    "the first rows gone": lambda rows: rows[3:],
    "the last rows gone": lambda rows: rows[:-3],
    "all rows gone": lambda rows: [],
    "rows of another year": lambda rows: [rows[0] | {"open_time": rows[0]["open_time"] - timedelta(days=60)}, *rows[1:]],
    "a row that nobody asked for": lambda rows: [
        *rows,
        rows[-1] | {"open_time": rows[-1]["open_time"] + 2 * HOUR, "close_time": rows[-1]["close_time"] + 2 * HOUR},
    ],
}


@pytest.mark.parametrize("change", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("source", ["auto", "rest", "archive"])
def test_wrong_rows_give_way_to_those_of_the_source(exchange, lake, change, source):
    rewrite(lake, HOURS, change)
    others = {path: state for path, state in partitions(lake).items() if "klines" not in path or "ETHUSDT" in path}
    outcome = mend(exchange, lake, source=source)
    assert (outcome.exit_code, outcome.left, outcome.failed) == (0, [], [])
    is_whole(exchange, lake)
    assert partitions(lake).items() >= others.items()
    exchange.reset()
    again = mend(exchange, lake, source=source)
    assert (again.partitions_written, pages(exchange)) == (0, 0)


def test_each_thing_is_asked_for_alone(exchange, lake):
    rewrite(lake, HOURS, lambda rows: with_one(with_one(rows, 53, high=0.5), 700, volume=-1.0))
    exchange.reset()
    outcome = mend(exchange, lake, source="rest")
    asked = [request for request in exchange.requests if request.page]
    assert [request.params["limit"] for request in asked] == ["1", "1"]
    assert (outcome.rows_written, outcome.partitions_written) == (2, 1)
    (finding,) = outcome.findings
    assert (finding.check, finding.count) == ("mended", 2)


def test_settlements_that_are_gone(exchange, lake):
    rewrite(lake, RATES, lambda rows: [*rows[:20], *rows[23:]])
    assert [f.count for f in verify(opened(lake)).findings if f.check == "funding_gap"] == [3]
    assert mend(exchange, lake).exit_code == 0
    is_whole(exchange, lake)


LOST = {
    "the last ones": lambda rows: rows[:-30],
    "the first ones": lambda rows: rows[30:],
    "more than a week": lambda rows: [*rows[:50], *rows[75:]],
    "two of four": lambda rows: [*rows[:50], rows[51], *rows[53:]],
    "every second one": lambda rows: rows[::2],
    "all": lambda rows: [],
}


@pytest.mark.parametrize("change", LOST.values(), ids=LOST)
@pytest.mark.parametrize("source", ["auto", "rest"])
def test_settlements_that_are_gone_are_found_and_fetched_again(exchange, lake, change, source):
    right = stored(lake, RATES)
    rewrite(lake, RATES, change)
    lost = set(right) - set(stored(lake, RATES))
    (finding,) = [f for f in verify(opened(lake)).findings if f.series == RATES and f.severity != "info"]
    assert (finding.check, finding.count) == ("funding_gap", len(lost))
    assert {time for time, *_ in lost} == {row[0] for row in right if row[0] // 60_000 * 60_000 in finding.times}
    exchange.reset()
    outcome = mend(exchange, lake, source=source)
    asked = [request for request in exchange.requests if request.page]
    assert {(request.params.get("symbol"), "fundingRate" in request.path) for request in asked} == {("BTCUSDT", True)}
    assert (outcome.exit_code, outcome.rows_written, outcome.left) == (0, len(lost), [])
    assert stored(lake, RATES) == right
    is_whole(exchange, lake)


@pytest.mark.parametrize("change", [LOST["the last ones"], LOST["the first ones"], LOST["all"]])
def test_settlements_of_a_contract_that_is_over(exchange, lake, change):
    """When it lived its bars tell, and that there were some the files of the archive that were read."""
    series = Series("um", "funding", "SRMUSDT")
    fill(exchange, lake, "klines funding", "SRMUSDT", "1d", start=None, end=None)
    right = stored(lake, series)
    for year in ("2021", "2022"):
        rewrite(lake, series, change, year)
    lost = len(right) - len(stored(lake, series))
    (finding,) = [f for f in verify(opened(lake)).findings if f.series == series and f.severity != "info"]
    assert finding.check == "funding_gap"
    assert lost - 6 <= finding.count <= lost + 6  # in its first and last day nobody knows
    assert mend(exchange, lake).exit_code == 0
    assert stored(lake, series) == right
    assert [f for f in verify(opened(lake)).findings if f.severity != "info"] == []


def test_settlements_that_no_source_has_are_asked_for_and_told(exchange, lake):
    rewrite(lake, RATES, lambda rows: [*rows[:20], *rows[23:]])
    exchange.faults = Faults([{"action": "empty_page", "path": "fundingRate"}])
    outcome = mend(exchange, lake, source="rest")
    assert [(f.check, f.severity, f.count) for f in outcome.findings] == [("funding_gap", "warning", 3)]


@pytest.mark.parametrize("spans", [[], [[END - 86_400_000, END]]], ids=["no coverage", "a day of it"])
def test_settlements_without_their_coverage(exchange, lake, spans):
    right = stored(lake, RATES)
    path = next(path for path in opened(lake).paths(RATES) if path.stem == "2026")
    table, about = pq.read_table(path, partitioning=None), json.loads(pq.read_metadata(path).metadata[b"etl"])
    about["coverage"] = [about["coverage"][0] | {"start": start, "end": end} for start, end in spans]
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"etl": json.dumps(about)})
    uncovered = sum(row[0] >= parse_time("2026-01-01") and not any(a <= row[0] < b for a, b in spans) for row in right)
    (finding,) = [f for f in verify(opened(lake)).findings if f.severity == "error" and f.check == "footer"]
    assert (finding.series, finding.count) == (RATES, uncovered)
    assert mend(exchange, lake).exit_code == 0
    assert stored(lake, RATES) == right
    is_whole(exchange, lake)


def test_a_wrong_rate(exchange, lake):
    rewrite(lake, RATES, lambda rows: with_one(rows, 20, funding_rate=float("inf")))
    assert mend(exchange, lake).exit_code == 0
    is_whole(exchange, lake)


def test_an_hour_and_its_minutes(exchange, lake):
    fill(exchange, lake, "klines", "BTCUSDT", "1m", start=parse_time("2026-02-01"))
    minutes = stored(lake, MINUTES)
    rewrite(lake, MINUTES, lambda rows: with_one(rows, 600, volume=rows[600]["volume"] + 1))
    assert {f.check for f in verify(opened(lake)).findings if f.severity == "warning"} == {"sums", "quote"}
    outcome = mend(exchange, lake)
    assert (outcome.exit_code, outcome.rows_written) == (0, 1)
    assert stored(lake, MINUTES) == minutes


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not a file of ours"])
@pytest.mark.parametrize("year", ["2025", "2026"])
def test_a_damaged_file_is_set_aside_and_fetched_again(exchange, lake, content, year):
    path = next(path for path in opened(lake).paths(HOURS) if path.stem == year)
    path.write_bytes(content)
    outcome = mend(exchange, lake)
    assert (outcome.exit_code, [f.check for f in outcome.findings]) == (0, ["damaged"])
    assert (lake / "quarantine" / path.relative_to(lake)).read_bytes() == content
    is_whole(exchange, lake)


def test_a_flipped_byte(exchange, lake):
    path = opened(lake).paths(HOURS)[0]
    body = bytearray(path.read_bytes())
    body[200] ^= 1
    path.write_bytes(body)
    assert mend(exchange, lake).exit_code == 0
    assert (lake / "quarantine" / path.relative_to(lake)).read_bytes() == body
    is_whole(exchange, lake)


DAYS = Series("um", "klines", "BTCUSDT", "1d")


@pytest.mark.parametrize(("symbol", "years"), [("BTCUSDT", [2025, 2026]), ("SRMUSDT", [2021, 2022])])
def test_files_without_any_of_their_rows(exchange, lake, symbol, years):
    """Of a contract that trades and of one that is over, and none of its files has a row."""
    series, end = Series("um", "klines", symbol, "1d"), parse_time(f"{years[1]}-02-01")
    fill(exchange, lake, "klines", symbol, "1d", start=parse_time(f"{years[0]}-11-01"), end=end)
    right = stored(lake, series)
    for year in years:
        rewrite(lake, series, lambda rows: [], str(year))
    errors = [f for f in verify(opened(lake)).findings if f.severity == "error"]
    assert {(f.series, f.check) for f in errors} == {(series, "footer")}
    assert sorted(time for f in errors for time in f.times) == [row[0] for row in right]
    outcome = mend(exchange, lake)
    assert (outcome.exit_code, outcome.rows_written, outcome.left, outcome.gaps) == (0, len(right), [], [])
    assert stored(lake, series) == right
    assert verify(opened(lake)).sound


@pytest.mark.parametrize("dataset", ["mark_klines", "index_klines", "premium_klines"])
def test_prices_that_are_all_gone(exchange, lake, dataset):
    series = Series("um", dataset, "BTCUSDT", "1d")
    fill(exchange, lake, dataset, "BTCUSDT", "1d", start=parse_time("2025-11-01"), end=None, source="rest")
    right = stored(lake, series)
    for year in ("2025", "2026"):
        rewrite(lake, series, lambda rows: [], year)
    errors = [f for f in verify(opened(lake)).findings if f.severity == "error"]
    assert [(f.series, f.check) for f in errors] == [(series, "footer")]
    assert mend(exchange, lake).exit_code == 0
    assert stored(lake, series) == right


def footers(lake, series):
    """How many bars of the series lack without a record."""
    return [f.count for f in verify(opened(lake)).findings if (f.series, f.check, f.severity) == (series, "footer", "error")]


def test_the_last_bars_of_a_contract_that_is_over(exchange, lake):
    """When it ended the lake knows by its klines; of other prices, that some were in a file of the archive that was read."""
    several = [Series("um", dataset, "SRMUSDT", "4h") for dataset in ("klines", "mark_klines")]
    fill(exchange, lake, "klines mark_klines", "SRMUSDT", "4h", start=None, end=None)
    assert verify(opened(lake)).sound
    right = {series: stored(lake, series) for series in several}
    for series in several:
        rewrite(lake, series, lambda rows: rows[:-900], "2022")
    for series in several:
        assert [900 <= count <= 906 for count in footers(lake, series)] == [True]  # of the day after its last bar nobody knows
    outcome = mend(exchange, lake)
    assert (outcome.exit_code, outcome.left) == (0, [])
    assert {series: stored(lake, series) for series in several} == right
    assert verify(opened(lake)).sound


def test_all_bars_of_a_symbol_that_trades_and_whose_listing_nobody_tells(exchange, lake):
    series = Series("spot", "klines", "BTCUSDT", "1h")
    fill(exchange, lake, "klines", "BTCUSDT", start=parse_time("2026-02-10"), end=None, source="rest", market="spot")
    right = stored(lake, series)
    for change, gone in ((lambda rows: rows[:-5], 5), (lambda rows: rows[30:], 30), (lambda rows: [], len(right))):
        rewrite(lake, series, change)
        assert footers(lake, series) == [gone]
        assert mend(exchange, lake, source="rest").exit_code == 0
        assert footers(lake, series) == []
        assert stored(lake, series) == right


def test_what_the_archive_has_no_file_for_is_not_gone(exchange, lake):
    """REST told of minutes before the archive began; of hours the archive alone was asked."""
    early = parse_time("2019-09-01"), parse_time("2020-02-01")
    fill(exchange, lake, "klines", "BTCUSDT", "4h", start=early[0], end=early[1], source="rest")
    fill(exchange, lake, "klines", "BTCUSDT", "12h", start=early[0], end=early[1], source="archive")
    assert [f for f in verify(opened(lake)).findings if f.severity == "error"] == []


@pytest.mark.parametrize("year", ["2022", "2024"], ids=["the first one", "one between others"])
def test_a_file_that_is_gone(exchange, lake, year):
    fill(exchange, lake, "klines funding", "BTCUSDT", "1d", start=parse_time("2022-03-01"))
    for series in (DAYS, RATES):
        right = stored(lake, series)
        (path,) = [path for path in opened(lake).paths(series) if path.stem == year]
        path.unlink()
        (finding,) = [f for f in verify(opened(lake)).findings if f.severity != "info"]
        assert (finding.series, finding.check, finding.severity) == (series, "uncovered", "warning")
        days = {"2022": 306, "2024": 366}[year]
        assert finding.count == days if series == DAYS else 1
        assert (finding.span.end - finding.span.start) // (24 * 3_600_000) == days
        outcome = mend(exchange, lake)
        assert (outcome.exit_code, outcome.left) == (0, [])
        assert stored(lake, series) == right
        assert [f for f in verify(opened(lake)).findings if f.severity != "info"] == []


def test_ranges_that_were_asked_for_apart_are_no_error(exchange, lake):
    for year in ("2022", "2024"):
        times = [parse_time(f"{year}-03-01"), parse_time(f"{year}-05-01")]
        fill(exchange, lake, "klines", "BTCUSDT", "1d", start=times[0], end=times[1])
    found = verify(opened(lake))
    assert found.sound
    assert [f.check for f in found.findings if f.severity != "info"] == ["uncovered"]


def test_a_file_that_is_gone_and_nobody_brings(exchange, lake):
    fill(exchange, lake, "klines", "BTCUSDT", "1d", start=parse_time("2022-03-01"))
    next(path for path in opened(lake).paths(DAYS) if path.stem == "2024").unlink()
    exchange.faults = Faults([{"action": "status", "status": 503, "path": "klines"}])
    outcome = mend(exchange, lake, source="rest")
    assert (outcome.exit_code, [series for series, _ in outcome.failed]) == (3, [DAYS])


def test_series_whose_files_are_all_gone_are_told(exchange, lake):
    for path in opened(lake).paths(OTHER):
        path.unlink()
    (finding,) = [f for f in verify(opened(lake)).findings if f.severity != "info"]
    assert (finding.series, finding.check, finding.severity) == (OTHER, "uncovered", "warning")


TWICE = ["mended", "mended", "republished", "republished"]  # of both symbols
FLAT = {"defect": "flat_bar", "key": "-1h-2026-01", "time": "2026-01-17T20:00"}


def test_the_other_source_is_taken_where_it_is_named(exchange, lake):
    publish(exchange, FLAT)
    right, at = stored(lake, HOURS), parse_time(FLAT["time"])
    outcome = mend(exchange, lake, against="archive")
    assert (outcome.exit_code, outcome.rows_written, sorted(f.check for f in outcome.findings)) == (0, 2, TWICE)
    (flat,) = [row for row in stored(lake, HOURS) if row not in right]
    assert (flat[0], flat[5]) == (at, 0.0)
    assert mend(exchange, lake).rows_written == 0  # a bar without trades is no error
    assert mend(exchange, lake, against="rest").exit_code == 0
    assert mend(exchange, lake, against="archive").exit_code == 0


def test_the_former_digest_of_a_row_that_is_put_right_is_kept(exchange, lake):
    fill(exchange, lake, "klines", "BTCUSDT", "5m", source="archive")

    def of_january():
        entries = opened(lake).files(Series("um", "klines", "BTCUSDT", "5m"))[-1].coverage
        return [(entry.sha256, entry.former) for entry in entries if entry.key and "monthly" in entry.key]

    ((old, _),) = of_january()
    of_days = {"defect": "never", "key": "daily/.*-5m-2026-01"}
    publish(exchange, of_days, {"defect": "flat_bar", "key": "-5m-2026-01", "time": "2026-01-17T20:00"})
    assert mend(exchange, lake, lambda series: series.interval == "5m", against="archive").rows_written == 1
    ((new, former),) = of_january()
    assert (new != old, former) == (True, (old,))


def test_what_cannot_be_asked_stays_as_it_is(exchange, lake):
    rewrite(lake, HOURS, lambda rows: with_one(rows, 53, high=0.5))
    wrong = stored(lake, HOURS)
    exchange.faults = Faults([{"action": "status", "status": 503, "path": "klines"}])
    outcome = mend(exchange, lake, source="rest")
    assert (outcome.exit_code, [series for series, _ in outcome.failed]) == (3, [HOURS])
    assert [f.check for f in outcome.left] == ["ohlc"]
    assert stored(lake, HOURS) == wrong
    exchange.faults = Faults([])
    assert mend(exchange, lake).exit_code == 0
    is_whole(exchange, lake)


def test_what_another_source_does_not_have_is_no_reason_to_lose_a_row(exchange, lake):
    fill(exchange, lake, "klines", "BTCUSDT", start=END, end=NOW, source="rest")
    rewrite(lake, HOURS, lambda rows: with_one(rows, len(rows) - 1, high=0.5))
    wrong = stored(lake, HOURS)
    outcome = mend(exchange, lake, source="archive")
    assert (outcome.exit_code, [f.check for f in outcome.left]) == (1, ["ohlc"])
    assert stored(lake, HOURS) == wrong
    assert mend(exchange, lake).exit_code == 0
    assert stored(lake, HOURS) == truth(exchange, HOURS, START, parse_time("2026-03-01T12:00"))


def test_dry_run_writes_nothing_and_says_what_it_would_ask(exchange, lake):
    rewrite(lake, HOURS, lambda rows: with_one(rows, 53, high=0.5))
    path = opened(lake).paths(OTHER)[0]
    path.write_bytes(b"")
    before = partitions(lake)
    exchange.reset()
    outcome = mend(exchange, lake, dry_run=True)
    assert (partitions(lake), pages(exchange)) == (before, 0)
    assert not (lake / "quarantine").exists()
    assert {job.series[0] for job in outcome.jobs} == {HOURS, OTHER}


def test_the_command(exchange, lake):
    urls = {f"ETL_{name}_URL": exchange.url for name in ("UM", "CM", "SPOT", "ARCHIVE", "ARCHIVE_INDEX")}
    clean = {key: value for key, value in os.environ.items() if not key.startswith("ETL_")}

    def etl(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "etl", *arguments, "--lake", str(lake)],
            env={**clean, **urls, "ETL_STATE_DIR": str(lake.parent / "state")},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    rewrite(lake, HOURS, lambda rows: with_one(rows, 53, high=0.5))
    assert etl("verify").returncode == 1
    plan = json.loads(etl("repair", "--dry-run", "--json").stdout)
    assert (plan["jobs"], len(plan["plan"])) == (1, 1)
    done = etl("repair", "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["rows_written"], document["left"], document["gaps"]) == (0, 1, [], [])
    assert etl("verify").returncode == 0
    assert etl("repair").returncode == 0
    assert etl("repair", "candles").returncode == 2


def test_a_series_whose_first_run_was_killed_is_fetched(exchange, lake):
    series = Series("um", "klines", "BTCUSDT", "1d")
    Store(lake, "year").want({series: START})
    outcome = repair(settings(exchange, lake), lambda _: True)
    assert (outcome.exit_code, outcome.left) == (0, [])
    assert stored(lake, series) == truth(exchange, series, START, parse_time("2026-03-01"))
    assert not (lake / "wanted.json").exists()
