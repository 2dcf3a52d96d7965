"""Charts: candles from stored bars on the exchange's grid, gaps that stay gaps, PNG and `etl plot` as a process."""

import contextlib
import io
import json
import os
import pty
import re
import shlex
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from PIL import Image

from etl import registry
from etl.cli import cli
from etl.errors import UsageError
from etl.lake import snapshots
from etl.lake.store import Store
from etl.model import Series
from etl.pictures import charts, making, reading
from etl.pictures.model import Candle, Chart
from etl.ranges import DAY, HOUR, MINUTE, TimeRange, parse_time
from etl.schema import arrow_schema

from .conftest import HOLE, NOW, SCRIPT

BTC = Series("um", "klines", "BTCUSDT", "1h")
MONDAY = parse_time("2026-01-19")


@pytest.fixture
def store(lake):
    return Store(lake.folder, "year")


def expected(bars, step, offset=0):
    """Candles of that grid by plain Python: (time, open, high, low, close, volume, bars)."""
    groups = {}
    for bar in bars:
        groups.setdefault((bar[0] - offset) // step * step + offset, []).append(bar)
    return [
        (time, some[0][1], max(b[2] for b in some), min(b[3] for b in some), some[-1][4], sum(b[5] for b in some), len(some))
        for time, some in groups.items()
    ]


def told(chart):
    return [(c.time, c.open, c.high, c.low, c.close, pytest.approx(c.volume), c.bars) for c in chart.candles]


@pytest.mark.parametrize(
    ("most", "interval", "step", "offset"),
    [
        (2000, "1h", HOUR, 0),
        (600, "2h", 2 * HOUR, 0),
        (190, "6h", 6 * HOUR, 0),
        (50, "1d", DAY, 0),
        (8, "1w", 7 * DAY, 4 * DAY),
    ],
)
def test_candles_are_those_of_the_exchange_s_grid_and_closed(store, lake, most, interval, step, offset):
    chart = reading.chart_of(store, BTC, None, None, most)
    end = parse_time("2026-03-01T12:00")
    whole = [one for one in expected(lake.bars, step, offset) if one[0] + step <= end]
    assert chart.interval == interval
    assert told(chart) == whole
    assert chart.span == TimeRange(whole[0][0], whole[-1][0] + step)
    assert len(chart.candles) <= most + 1
    absent = sum(gap.end - gap.start for gap in chart.gaps)
    assert absent == {"1h": 20 * HOUR, "2h": 18 * HOUR, "6h": 18 * HOUR}.get(interval, 0)
    # Short of bars are those that the hole cuts; the series may begin in the middle of a week, which lacks nothing.
    assert chart.short == {"1h": 0, "2h": 2, "6h": 2, "1d": 2, "1w": 1}[interval]
    paid = sum(rate for time, rate, *_ in lake.settlements if chart.span.start <= time < chart.span.end)
    assert sum(rate for _, rate in chart.funding) == pytest.approx(paid)
    assert chart.summed is (step > 6 * HOUR)


def test_a_range_is_kept_to(store, lake):
    start, end = parse_time("2026-01-20T01:00"), parse_time("2026-02-01T00:30")
    chart = reading.chart_of(store, BTC, start, end, 100)
    inside = [bar for bar in lake.bars if parse_time("2026-01-20T04:00") <= bar[0] < parse_time("2026-02-01")]
    assert (chart.interval, told(chart)) == ("4h", expected(inside, 4 * HOUR))
    with pytest.raises(UsageError, match="no whole"):
        reading.chart_of(store, BTC, HOLE[0], HOLE[1], 100)
    with pytest.raises(UsageError, match="no whole"):
        reading.chart_of(store, BTC, NOW + DAY, None, 100)


def stored(folder, spans, interval="1m"):
    """A lake with the bars of a series in [start, end), all alike."""
    store = Store(folder, "year")
    grid = registry.interval(interval)
    series = Series("um", "klines", "ONE", interval)
    for partition in store.partitions(series, TimeRange(parse_time("2024-01-01"), parse_time("2026-12-31"))):
        opens = [time for start, end in spans for time in grid.opens(TimeRange(parse_time(start), parse_time(end)))]
        inside = [time for time in opens if partition.period.start <= time < partition.period.end]
        ones = dict.fromkeys(arrow_schema("klines").names, [1] * len(inside))
        columns = ones | {"open_time": inside, "close_time": [grid.next(time) - 1 for time in inside]}
        if inside:
            store.replace(partition, pa.table(columns, arrow_schema("klines")), (), ())
    return store, series


def test_what_is_absent_at_either_end_is_a_gap(tmp_path):
    store, series = stored(tmp_path / "lake", [("2026-01-01", "2026-01-10"), ("2026-03-03T09:55", "2026-03-03T10:00")])
    start, end = parse_time("2026-01-05"), parse_time("2026-03-03T09:57")
    chart = reading.chart_of(store, series, start, end, 360)
    assert (chart.interval, chart.span) == ("4h", TimeRange(start, parse_time("2026-03-03T08:00")))
    assert chart.gaps == (TimeRange(parse_time("2026-01-10"), chart.span.end),)
    newest = reading.chart_of(store, series, parse_time("2026-02-01"), None, 360_000)
    assert (newest.interval, len(newest.candles), newest.span) == (
        "1m",
        5,
        TimeRange(parse_time("2026-02-01"), end + 3 * MINUTE),
    )
    assert newest.gaps == (TimeRange(parse_time("2026-02-01"), parse_time("2026-03-03T09:55")),)


@pytest.mark.parametrize(
    ("interval", "spans", "labels"),
    [
        (
            "1m",
            [("2026-01-01", "2026-01-10"), ("2026-03-03T09:55", "2026-03-03T10:00")],
            ["All", "7 days", "1 day"],
        ),  # 30 days: 4h
        ("1w", [("2024-01-01", "2026-03-02")], ["All"]),
        ("1M", [("2024-01-01", "2026-03-01")], ["All"]),
        ("1h", [("2024-01-01", "2026-03-01")], ["All", "90 days", "30 days", "7 days"]),
    ],
)
def test_a_stretch_without_a_whole_candle_is_left_out(tmp_path, interval, spans, labels):
    store, series = stored(tmp_path / "lake", spans, interval)
    assert [label for label, _ in reading.charts(store, series, 180)] == labels
    text, _ = making.report(store, NOW, [series], network="mainnet", version="1", checked=False)
    assert text.count("<figure ") == len(labels)


def test_another_interval_s_damage_is_no_matter(tmp_path):
    store, series = stored(tmp_path / "lake", [("2026-01-01", "2026-01-02")])
    _, hours = stored(tmp_path / "lake", [("2026-01-01", "2026-01-02")], "1h")
    (path,) = store.paths(hours)
    path.write_bytes(path.read_bytes()[:-9])
    assert reading.find(store, "klines", "ONE", "1m", "um") == series


def test_months_are_calendar_months(store):
    assert reading.coarser(registry.interval("1d"), TimeRange(0, 5000 * DAY), 200).name == "1M"
    assert reading.coarser(registry.interval("1w"), TimeRange(0, 5000 * DAY), 200).name == "1w"  # no week fills a month
    assert reading.coarser(registry.interval("1M"), TimeRange(0, 9000 * DAY), 2).name == "1M"
    chart = reading.chart_of(store, Series("um", "mark_klines", "BTCUSDT", "1d"), None, None, 2)
    assert [datetime.fromtimestamp(c.time / 1000, UTC).strftime("%Y-%m-%d") for c in chart.candles] == [
        "2026-01-01",
        "2026-02-01",
    ]
    assert [c.bars for c in chart.candles] == [17, 28]
    assert chart.candles[0].volume is None


def test_which_series_is_meant(store):
    assert reading.find(store, "klines", "BTCUSDT", None, "um") == BTC
    assert reading.find(store, "mark_klines", "BTCUSDT", None, "um").interval == "1d"
    assert reading.largest(store).interval == "1h"
    for arguments, message in {
        ("klines", "ETHUSDT", None, "um"): "BTCUSDT",
        ("klines", "BTCUSDT", "1m", "um"): "1h",
        ("klines", "BTCUSDT", None, "cm"): "none",
        ("mark_klines", "BTCUSDT", None, "spot"): "spot has no mark_klines",
        ("funding", "BTCUSDT", None, "um"): "no bars to draw",
        ("trades", "BTCUSDT", None, "um"): "unknown dataset",
    }.items():
        with pytest.raises(UsageError, match=message):
            reading.find(store, *arguments)


def picture(content):
    return Image.open(io.BytesIO(content)).convert("RGB")


def test_a_gap_stays_a_gap_in_the_picture():
    """Ten rising and ten falling candles of an hour with ten hours between: the columns between show neither colour."""
    hours = [*range(10), *range(20, 30)]
    candles = tuple(
        Candle(MONDAY + n * HOUR, *((100.0, 103.0, 99.0, 102.0) if n < 15 else (102.0, 103.0, 99.0, 100.0)), 5.0, 60)
        for n in hours
    )
    span = TimeRange(MONDAY, MONDAY + 30 * HOUR)
    chart = Chart(BTC, "1h", span, candles, (TimeRange(MONDAY + 10 * HOUR, MONDAY + 20 * HOUR),), 0, (), summed=False)
    for dark in (False, True):
        content = charts.png(chart, dark=dark)
        assert content == charts.png(chart, dark=dark)
        pixels = np.asarray(picture(content)).astype(int)
        assert pixels.shape == (900, 1600, 3)
        # More green than red, and the reverse: the colours of rising and of falling candles, also where they are blended.
        panel = pixels[110:560, :1480]
        green, red = (panel[:, :, one] - panel[:, :, other] > 40 for one, other in ((1, 0), (0, 1)))
        # The panels reach from 1.8 to 93 % of the width and are thirty hours long.
        left, hour = 0.018 * 1600, (0.93 - 0.018) * 1600 / 30
        assert {int((x - left) // hour) for x in np.flatnonzero(green.any(axis=0))} == set(range(10))
        assert {int((x - left) // hour) for x in np.flatnonzero(red.any(axis=0))} == set(range(20, 30))
        assert red.sum() > 5 * green.sum()  # falling bodies are filled, rising ones are hollow
    assert "1 gap without bars (hatched)" in Image.open(io.BytesIO(content)).text["Description"]


@pytest.mark.parametrize(
    "values", [(1e-9,) * 4, (0.0,) * 4, (5e9, 6e9, 4e9, 5e9), (-0.001, 0.002, -0.003, 0.001), (1.0, 900.0, 0.5, 2.0)]
)
def test_any_price_can_be_drawn(values):
    candle = Candle(MONDAY, *values, 0.0, 1)
    chart = Chart(BTC, "1h", TimeRange(MONDAY, MONDAY + HOUR), (candle,), (), 0, ((MONDAY, 0.0),), summed=False)
    assert picture(charts.png(chart)).size == (1600, 900)
    element, rules = charts.svg(chart, name="c", label='a "chart" <b>')
    assert element.startswith('<svg viewBox="0 0 1100 560" role="img" aria-label="a &quot;chart&quot; &lt;b&gt;">')
    assert "http" not in element
    assert "style=" not in element
    assert all("#" not in rule for rule in rules.values())
    assert ("logarithmic" in charts.subtitle_of(chart)) is (values[2] == 0.5)


@pytest.mark.parametrize("symbol", ["币安人生USDT", "\u202eسوقUSDT", "$x^2$", "a\nb", "\U0010fffdUSDT"])
def test_any_name_can_be_drawn(symbol):
    chart = Chart(
        Series("um", "klines", symbol, "1m"),
        "1m",
        TimeRange(MONDAY, MONDAY + MINUTE),
        (Candle(MONDAY, 1, 2, 1, 2, 3, 1),),
        (),
        0,
        (),
        summed=False,
    )
    content = charts.png(chart)
    assert picture(content).size == (1600, 900)
    title = Image.open(io.BytesIO(content)).text["Title"]
    assert "\n" not in title
    assert title.endswith("  USD-M klines")
    if symbol.startswith("\U0010fffd"):  # of private use, and in no font
        assert title.startswith("[U+10FFFD]USDT")


def test_a_missing_package_is_told_with_its_cure():
    with pytest.raises(UsageError, match=r"pip install 'binance-futures-etl\[report\]'"):
        charts.require(lambda _: None)
    charts.require()


@pytest.fixture
def etl(lake, tmp_path):
    def run(*arguments, check=0, **streams):
        env = {**{key: value for key, value in os.environ.items() if not key.startswith("ETL_")}, "ETL_LAKE": str(lake.folder)}
        command = [sys.executable, "-W", "error", "-m", "etl", *arguments]
        finished = subprocess.run(
            command, cwd=tmp_path, env=env, check=False, timeout=120, **{"capture_output": True, **streams}
        )
        assert finished.returncode == check, finished.stderr
        return finished

    return run


def test_plot_writes_a_file_or_to_a_pipe(etl, lake, tmp_path):
    runner = CliRunner(env={"ETL_LAKE": str(lake.folder)})
    piped = etl("plot", "BTCUSDT")
    with contextlib.chdir(tmp_path):
        document = json.loads(runner.invoke(cli, ["plot", "BTCUSDT", "--json"]).stdout)
        assert Path("BTCUSDT.png").read_bytes() == piped.stdout
        Path("x.png").write_bytes(b"old")
        Path("x.png").chmod(0o640)
        Path("link.png").symlink_to("x.png")
        range_ = ["--start", "2026-02-01", "--end", "2026-02-10"]
        assert runner.invoke(cli, ["plot", SCRIPT, *range_, "--dark", "-o", "link.png"]).exit_code == 0
    assert document["bytes"] == len(piped.stdout)
    # 45 days and a half are 546 of 2h, which have no room, and 273 of 4h, of which the hole takes four.
    assert (document["output"], document["candles"], document["candle_interval"]) == ("BTCUSDT.png", 273 - 4, "4h")
    assert document["gaps"] == [{"start": "2026-02-03T08:00:00Z", "end": "2026-02-04T00:00:00Z"}]
    assert (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "x.png").stat().st_mode & 0o777 == 0o640
    image = Image.open(tmp_path / "x.png")
    assert image.text["Description"] == "1h candles · 2026-02-01 00:00 to 2026-02-10 00:00 UTC"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["BTCUSDT.png", "link.png", "x.png"]


def test_plot_refuses_a_terminal(etl):
    ours, theirs = pty.openpty()
    finished = etl("plot", "BTCUSDT", "-o", "-", check=2, capture_output=False, stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    os.close(ours)
    assert b"not for a terminal" in finished.stderr


def test_what_is_asked_wrongly_is_told(lake, tmp_path):
    runner = CliRunner(env={"ETL_LAKE": str(lake.folder)})
    page = str(tmp_path / "r.html")
    for arguments, message in {
        ("plot", "ETHUSDT"): "symbols of its kind that are: ",
        ("plot", "BTCUSDT", "--start", "2026-02-02", "--end", "2026-02-01"): "--start must lie before --end",
        ("plot", "BTCUSDT", "--snapshot", "q0"): "q0",
        ("report", "-o", "-", "--json"): "cannot both",
        ("report", "-o", page, "--symbol", "BTCUSDT", "--interval", "1m"): "1h",
        ("report", "-o", page, "--lake", str(tmp_path)): "no lake",
    }.items():
        error = runner.invoke(cli, arguments).exception
        assert isinstance(error, UsageError)
        assert message in str(error)
    assert list(tmp_path.iterdir()) == []
    error = runner.invoke(cli, ["plot", "BTCUSDT", "-o", str(tmp_path / "no" / "such.png")]).exception
    assert isinstance(error, UsageError)
    assert "there is no folder" in str(error)


def test_a_report_without_charts_and_without_checks(lake):
    arguments = ["report", "-o", "-", "--no-charts", "--no-verify", "--at", "2026-03-01T13:00", "--lake", str(lake.folder)]
    first, second = (CliRunner().invoke(cli, arguments) for _ in range(2))
    assert first.exit_code == 0
    assert first.stdout == second.stdout
    assert "<svg" not in first.stdout
    assert "Not checked for this page" in first.stdout


def test_the_same_lake_and_time_make_the_same_page(store):
    days = [Series("um", "mark_klines", "BTCUSDT", "1d")]
    one, other = (making.report(store, NOW, days, network="mainnet", version="1", checked=True) for _ in range(2))
    assert one == other
    assert one[0].count("<svg") == 1
    with pytest.raises(UsageError, match="8 charts"):
        making.report(store, NOW, [BTC] * 9, network="mainnet", version="1", checked=False)


def test_a_chart_of_a_snapshot(lake, store):
    snapshots.create(store, "q1")
    try:
        content = (
            CliRunner(env={"ETL_LAKE": str(lake.folder)}).invoke(cli, ["plot", "BTCUSDT", "--snapshot", "q1"]).stdout_bytes
        )
        assert Image.open(io.BytesIO(content)).text["Description"].endswith("snapshot q1")
    finally:
        snapshots.drop(store, "q1")


def test_what_the_page_of_the_docs_shows_runs(lake, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "pictures.md").read_text()
    commands = [
        shlex.split(line)
        for block in re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]
    runner = CliRunner(env={"ETL_LAKE": str(lake.folder)})
    assert len(commands) == 6
    with contextlib.chdir(tmp_path):
        for executable, *arguments in commands:
            assert executable == ".venv/bin/etl"
            output = arguments.pop() if ">" in arguments else None
            finished = runner.invoke(cli, arguments[:-1] if output else arguments)
            assert finished.exit_code == 0, finished.output
            if output:
                assert finished.stdout_bytes == Path(output).read_bytes()  # of the first command, to a file
        assert sorted(path.name for path in Path().iterdir()) == ["btcusdt.png", "dark.png", "report.html"]
    document = runner.invoke(cli, ["report", "-o", str(tmp_path / "r"), "--no-verify", "--no-charts", "--json"]).stdout
    assert all(key in page for key in json.loads(document))


def test_a_report_is_replaced_as_a_whole(tmp_path):
    """Who reads while it is written sees the old page or the new one."""
    target = tmp_path / "report.html"
    making.write(target, b"a" * 1_000_000)
    seen = set()
    reader = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"while True:\n text = open({str(target)!r}, 'rb').read(); print(len(text), text[:1] == text[-1:], flush=True)",
        ],
        stdout=subprocess.PIPE,
    )
    with reader:
        reader.stdout.readline()
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            for letter in (b"a", b"b"):
                making.write(target, letter * 1_000_000)
        reader.kill()
        seen = set(reader.stdout.read().splitlines()[:-1])
    assert seen == {b"1000000 True"}
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
