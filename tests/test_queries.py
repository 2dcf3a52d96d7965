"""docs/queries.md: every block runs as it stands, and what the important ones answer is computed here in another way."""

import math
import os
import re
import subprocess
import sys
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from itertools import accumulate, groupby, pairwise
from pathlib import Path

import pytest

from etl.lake.query import run
from etl.model import Series
from etl.ranges import parse_time
from etl.sim.clock import Clock
from etl.sim.market import GeneratedWorld
from etl.sim.server import Simulator

from .exchange import truth

PAGE = (Path(__file__).parents[1] / "docs" / "queries.md").read_text()
START, NOW = parse_time("2026-07-01"), parse_time("2026-08-06T00:10")
SYMBOLS = ("BTCUSDT", "ETHUSDT", "LRCUSDT")
MS = timedelta(milliseconds=1)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

Bar = dict[str, object]


def blocks(language: str) -> dict[str, list[str]]:
    """The blocks of that language by the heading that they stand under."""
    found, heading = defaultdict(list), ""
    for title, code in re.findall(rf"^## ([^\n]*)$|^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        heading = title or heading
        if code:
            found[heading].append(code)
    return dict(found)


class Place:
    """A folder to work in, with the exchange that `etl` asks from there."""

    def __init__(self, folder: Path, exchange: Simulator) -> None:
        self.folder, self.exchange = folder, exchange
        self._bars: dict[tuple[str, str], list[Bar]] = {}
        clean = {key: value for key, value in os.environ.items() if not key.startswith("ETL_")}
        urls = {f"ETL_{name}_URL": exchange.url for name in ("UM", "CM", "SPOT", "ARCHIVE", "ARCHIVE_INDEX")}
        self.env = clean | urls | {"ETL_STATE_DIR": str(folder / "state"), "ETL_LAKE": "data/lake"}

    def run(self, *command: str) -> str:
        done = subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        return done.stdout

    def sh(self, code: str) -> str:
        return self.run("bash", "-euc", code.replace(".venv/bin/etl", f"'{sys.executable}' -m etl"))

    def bars(self, symbol: str, interval: str) -> list[Bar]:
        """What the exchange has, without our reader: bars with times as datetimes."""
        if (symbol, interval) not in self._bars:
            self._bars[symbol, interval] = self._truth(symbol, interval)
        return self._bars[symbol, interval]

    def _truth(self, symbol: str, interval: str) -> list[Bar]:
        names = ("open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "count")
        rows = truth(self.exchange, Series("um", "klines", symbol, interval), START, NOW)
        made = [dict(zip(names, row, strict=False)) for row in rows]
        closed = [row for row in made if row["close_time"] < NOW]
        return [row | {name: moment(row[name]) for name in ("open_time", "close_time")} for row in closed]

    def settlements(self, symbol: str) -> list[tuple[datetime, float, float | None, str | None]]:
        rows = truth(self.exchange, Series("um", "funding", symbol, None), START, NOW)
        return [(moment(time), rate, mark, kind) for time, rate, mark, kind in rows]


def moment(ms: int) -> datetime:
    """As DuckDB gives times: UTC, without a zone."""
    return datetime.fromtimestamp(ms / 1000, UTC).replace(tzinfo=None)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("queries")
    with Simulator(GeneratedWorld(seed=5), clock=Clock(NOW, frozen=True)) as exchange:
        made = Place(folder, exchange)
        made.sh(blocks("sh")[""][0])
        yield made


@pytest.fixture(scope="module")
def answers(place):
    """What each query of the page answers, by its heading; the traps have a lake of their own."""
    found = {heading: queries for heading, queries in blocks("sql").items() if heading != "Traps"}
    return {heading: [rows_of(place, sql) for sql in queries] for heading, queries in found.items()}


def rows_of(place: Place, sql: str, **parameters: object) -> list[Bar]:
    with run(place.folder / "data" / "lake", sql, parameters) as result:
        return [row for batch in result.batches() for row in batch.to_pylist()]


@pytest.fixture(scope="module")
def minutes(place):
    return place.bars("BTCUSDT", "1m")


def close_to(found: list[dict], expected: list[dict]) -> None:
    """Times, texts and counts are equal, numbers up to the order of a sum."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name, value in other.items():
            near = isinstance(value, float) and math.isclose(one[name], value, rel_tol=1e-9, abs_tol=1e-12)
            assert near or one[name] == value, (name, one, other)


# The page


def test_commands(place):
    found = blocks("sh")
    tables, shell = found["Asking"]
    counts = dict.fromkeys(SYMBOLS[:2], (len(place.bars("ETHUSDT", "1m")), 864))
    told = place.sh(tables)
    for symbol, (of_minutes, of_hours) in counts.items():
        assert re.search(rf"{symbol} \| 1h +\| +{of_hours}\n{symbol} \| 1m +\| +{of_minutes}\n", told)
    assert told.splitlines()[-5:][0].startswith("um,ETHUSDT,1m,2026-07-15T00:00:00Z,")
    assert (place.folder / "hours.parquet").stat().st_size > 10_000
    told = place.sh(shell)
    assert re.search(r"gap_start +TIMESTAMP\n", told)
    assert re.search(rf"^{len(place.bars('BTCUSDT', '1m')):>5} \| 2026-08-06 00:09:59\.999$", told, re.MULTILINE)
    assert re.search(r"^complete +\| ", told, re.MULTILINE)
    (quote,) = found["In ticks"]
    assert "spread_ticks" in place.sh(quote)


def test_python(place):
    code = "\n".join(code for group in blocks("python").values() for code in group)
    check = "\nprint(len(frame), frame['open_time'].dt.tz, len(month), month['bars'][0], 'LRCUSDT' in set(alive['symbol']))"
    strictly = ("-W", "error", "-W", "ignore:The inplace keyword in DataFrame.drop:DeprecationWarning")
    told = place.run(sys.executable, *strictly, "-c", code + check)
    assert re.search(rf"LRCUSDT │ +{len(place.bars('LRCUSDT', '1m')) + len(place.bars('LRCUSDT', '1h'))} ", told)
    assert told.splitlines()[-1] == "44640 UTC 36 1440 True"


def test_every_query_answers(answers):
    assert sum(map(len, answers.values())) >= 14
    for heading, results in answers.items():
        for rows in results:
            assert rows or heading == "Is the data complete?", heading  # there are no gaps


# What they answer


def bucket(time: datetime, grid: str) -> tuple[datetime, datetime]:
    """Where the bar of that grid begins that holds the time, and where the next one does: by the calendar, not by the epoch."""
    midnight = datetime(time.year, time.month, time.day)  # noqa: DTZ001 - as the lake has it
    if grid == "1M":
        first = midnight.replace(day=1)
        return first, (first + 32 * DAY).replace(day=1)
    if grid == "1w":
        monday = midnight - time.weekday() * DAY
        return monday, monday + 7 * DAY
    if grid == "3d":
        first = midnight - (time.date() - date(1970, 1, 2)).days % 3 * DAY
        return first, first + 3 * DAY
    width = int(grid[:-1]) * {"m": MINUTE, "h": HOUR, "d": DAY}[grid[-1]]
    begin = midnight + (time - midnight) // width * width  # all of these divide the day
    return begin, begin + width


def coarser(bars: list[Bar], step: timedelta, grid: str) -> list[Bar]:
    """Coarser bars of those that are sorted; none that is not over when the last bar is."""
    until = bars[-1]["open_time"] + step
    made = []
    for (begin, end), group in groupby(bars, key=lambda bar: bucket(bar["open_time"], grid)):
        parts = list(group)
        if end <= until:
            made.append(
                {
                    "open_time": begin,
                    "open": parts[0]["open"],
                    "high": max(bar["high"] for bar in parts),
                    "low": min(bar["low"] for bar in parts),
                    "close": parts[-1]["close"],
                    "volume": math.fsum(bar["volume"] for bar in parts),
                    "close_time": end - MS,
                    "quote_volume": math.fsum(bar["quote_volume"] for bar in parts),
                    "count": sum(bar["count"] for bar in parts),
                    "bars": len(parts),
                    "bars_expected": (end - begin) // step,
                }
            )
    return made


def test_coarser_bars(place, answers, minutes):
    four_hours, long_ones = answers["Coarser bars"]
    names = ("open_time", "open", "high", "low", "close", "volume", "bars", "bars_expected")
    close_to(four_hours, [{name: bar[name] for name in names} for bar in coarser(minutes, MINUTE, "4h")])
    assert long_ones == [
        {"grid": grid, **{name: bar[name] for name in ("open_time", "close_time", "bars")}}
        for grid in ("1M", "1w", "3d")
        for bar in coarser(minutes, MINUTE, grid)
    ]


MINUTES = {"3m", "5m", "15m", "30m"}


@pytest.mark.parametrize("grid", [*sorted(MINUTES), "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1M"])
def test_every_interval_has_the_edges_of_the_exchange(place, minutes, grid):
    """The last minute stored is 00:09 of a Thursday: but for 5m, all grids have a bucket that is not over."""
    names = "open_time, open, high, low, close, volume, close_time, quote_volume, count, bars, bars_expected"
    asked = [(MINUTE, "1m", minutes)] + ([(HOUR, "1h", place.bars("BTCUSDT", "1h"))] if grid not in MINUTES | {"1h"} else [])
    for step, interval, bars in asked:
        found = rows_of(place, f"SELECT {names} FROM resample('BTCUSDT', $stored, $grid)", stored=interval, grid=grid)
        close_to(found, coarser(bars, step, grid))
        assert found[-1]["close_time"] <= bars[-1]["close_time"]


def test_returns_and_volatility(answers, minutes):
    closes = [(bar["open_time"], bar["close"]) for bar in coarser(minutes, MINUTE, "5m")]
    returns = defaultdict(list)
    for (_, before), (time, after) in pairwise(closes):
        returns[time.date()].append(math.log(after / before))
    expected = [
        {"day": day, "log_return": math.fsum(some), "volatility": math.sqrt(365 * math.fsum(one * one for one in some))}
        for day, some in sorted(returns.items())
        if len(some) == 288
    ]
    assert len(expected) == 35
    close_to(answers["Returns and realised volatility"][0], expected)


def known_at(settlements, time: datetime):
    """The last regular settlement at or before that time."""
    return max(
        ((at, rate) for at, rate, _, kind in settlements if kind in {None, "Regular"} and at <= time), default=(None, None)
    )


def test_what_a_signal_could_have_known(place, answers, minutes):
    settlements = place.settlements("BTCUSDT")
    day = [bar for bar in minutes if bar["open_time"].date() == date(2026, 7, 15)]
    expected = []
    for bar in day:
        at, rate = known_at(settlements, bar["close_time"])
        expected.append({"open_time": bar["open_time"], "close": bar["close"], "funding_time": at, "funding_rate": rate})
    assert answers["What a signal could have known"][0] == expected
    assert len({row["funding_time"] for row in expected}) == 3


def test_what_a_position_paid(place, answers, minutes):
    first, last = datetime(2026, 7, 10), datetime(2026, 7, 20)  # noqa: DTZ001 - as the lake has it
    opens = {bar["open_time"]: bar["open"] for bar in minutes}
    some = [one for one in place.settlements("BTCUSDT") if first <= one[0] < last]
    paid = [rate * (mark or opens[at.replace(second=0, microsecond=0)]) for at, rate, mark, _ in some]
    expected = [
        {"funding_time": at, "funding_rate": rate, "paid": cost, "paid_so_far": so_far}
        for (at, rate, _, _), cost, so_far in zip(some, paid, accumulate(paid), strict=True)
    ]
    assert len(expected) == 30
    close_to(answers["What a position paid"][0], expected)


def test_a_cross_section(place, answers):
    noon = datetime(2026, 7, 15, 12)  # noqa: DTZ001 - as the lake has it
    expected = []
    for symbol in SYMBOLS:
        day = [bar for bar in place.bars(symbol, "1m") if noon - DAY <= bar["open_time"] < noon]
        turnover = math.fsum(bar["quote_volume"] for bar in day)
        change = day[-1]["close"] / day[0]["open"] - 1
        expected.append({"symbol": symbol, "price": day[-1]["close"], "day_return": change, "turnover": turnover, "bars": 1440})
    close_to(answers["A cross-section at a time"][0], sorted(expected, key=lambda row: -row["day_return"]))


def test_a_ranking_of_what_lived_then(place, answers):
    universe, ranking = answers["The universe of a day, and a ranking without survivorship bias"]
    (gone,) = [row for row in universe if row["symbol"] == "LRCUSDT"]
    assert gone["last_time"] == datetime(2026, 8, 3, 8, 59)  # noqa: DTZ001 - as the lake has it
    assert {row["symbol"] for row in universe} > set(SYMBOLS)
    later = rows_of(place, "SELECT symbol FROM universe($at)", at=date(2026, 8, 5))
    assert "LRCUSDT" not in {row["symbol"] for row in later}
    turnover = {}
    for symbol in SYMBOLS:
        week = [bar for bar in place.bars(symbol, "1h") if date(2026, 7, 8) <= bar["open_time"].date() < date(2026, 7, 15)]
        turnover[symbol] = math.fsum(bar["quote_volume"] for bar in week)
    order = sorted(SYMBOLS, key=lambda symbol: -turnover[symbol])
    close_to(ranking, [{"rank": i + 1, "symbol": symbol, "turnover": turnover[symbol]} for i, symbol in enumerate(order)])


def test_ticks(answers, minutes):
    expected = []
    for day, group in groupby(minutes, key=lambda bar: bar["open_time"].date()):
        bars = list(group)
        ranges, moves = [bar["high"] - bar["low"] for bar in bars], [abs(bar["close"] - bar["open"]) for bar in bars]
        mean, moved = (10 * math.fsum(some) / len(bars) for some in (ranges, moves))  # the tick of BTCUSDT is 0.10
        expected.append({"day": day, "mean_range_ticks": mean, "mean_move_ticks": moved})
    close_to(answers["In ticks"][0], expected)


def test_funding_on_coarser_bars(place, answers, minutes):
    settlements, four_hours = place.settlements("BTCUSDT"), timedelta(hours=4)
    expected = []
    for bar in coarser(minutes, MINUTE, "4h"):
        end = bar["open_time"] + four_hours
        paid = [rate for at, rate, _, _ in settlements if bar["open_time"] < at.replace(second=0, microsecond=0) <= end]
        _, known = known_at(settlements, bar["close_time"])
        told = {name: bar[name] for name in ("open_time", "close")}
        expected.append(told | {"known_rate": known, "paid_rate": math.fsum(paid)})
    assert len([row for row in expected if row["paid_rate"]]) == 108  # three a day; of the first one no bar is there
    close_to(answers["Funding on coarser bars"][0], expected)


@pytest.mark.parametrize("hole", [None, (datetime(2026, 7, 20, 10), datetime(2026, 7, 20, 13))])  # noqa: DTZ001 - as the lake has it
def test_a_backtest_that_pays_its_funding(place, minutes, hole):
    hours, settlements = coarser(minutes, MINUTE, "1h"), place.settlements("BTCUSDT")
    (sql,) = blocks("sql")["A backtest that pays its funding"]
    if hole:
        hours = [bar for bar in hours if not hole[0] <= bar["open_time"] < hole[1]]
        outside = f"(open_time < '{hole[0]}' OR open_time >= '{hole[1]}')"
        sql = sql.replace("bars_expected\n", f"bars_expected AND {outside}\n", 1)
    known = {bar["open_time"]: bar for bar in hours}

    def wanted(time):
        """Whether the hour that begins then is held: decided at the close of the one before, from 24 hours in a row."""
        day = [known.get(time - HOUR * back) for back in range(1, 25)]
        if time not in known or None in day:
            return 0
        _, rate = known_at(settlements, day[0]["close_time"])
        return int(rate is not None and rate < 0.0002 and day[0]["close"] > math.fsum(bar["close"] for bar in day) / 24)

    total = dict.fromkeys(("hours", "hours_long"), 0) | dict.fromkeys(("price", "funding", "fees"), 0.0)
    for time, bar in known.items():
        total["hours"] += 1
        if wanted(time):
            due = [rate for at, rate, _, _ in settlements if time + HOUR <= at < time + 2 * HOUR]
            total["hours_long"] += 1
            total["price"] += (known[time + HOUR]["open"] if time + HOUR in known else bar["close"]) / bar["open"] - 1
            total["funding"] -= math.fsum(due)
            total["fees"] -= 0.0004 * (2 - wanted(time - HOUR) - wanted(time + HOUR))
    assert 100 < total["hours_long"] < total["hours"] - 100
    assert total["funding"]
    assert not hole or wanted(hole[0] - HOUR)  # and it would be held behind the gap, but for the warm-up
    close_to(rows_of(place, sql), [total | {"net": total["price"] + total["funding"] + total["fees"]}])


def test_a_ticker_that_was_used_again(place, tmp_path):
    """The two contracts called LUNAUSDT, by the days on which they had bars."""
    other = Place(tmp_path, place.exchange)
    other.sh(blocks("sh")["Traps"][0])
    (sql,) = blocks("sql")["Traps"]
    lives = [(date(2021, 3, 3), date(2022, 5, 13)), (date(2022, 9, 10), date(2026, 8, 5))]
    assert [(row["first"].date(), row["last"].date(), row["bars"]) for row in rows_of(other, sql)] == [
        (first, last, (last - first).days + 1) for first, last in lives
    ]
    (gap,) = rows_of(other, "FROM gaps('LUNAUSDT', '1d')")
    assert (gap["gap_start"].date(), gap["gap_end"].date()) == (date(2022, 5, 14), date(2022, 9, 10))
    assert gap["verdict"] == "not_listed"


def test_completeness(place, answers):
    ledger, gaps = answers["Is the data complete?"]
    counted = defaultdict(int)
    for row in ledger:
        counted[row["dataset"], row["symbol"], row["interval"]] += row["rows"]
    assert counted == {
        **{("klines", symbol, interval): len(place.bars(symbol, interval)) for symbol in SYMBOLS for interval in ("1m", "1h")},
        **{("funding", symbol, None): len(place.settlements(symbol)) for symbol in SYMBOLS},
    }
    assert gaps == []
    (over,) = answers["Contracts that are over"][0]
    assert over["symbol"] == "LRCUSDT"
    assert sum(row["rows"] for row in answers["Whose rows are these?"][0]) == len(place.bars("BTCUSDT", "1m"))
