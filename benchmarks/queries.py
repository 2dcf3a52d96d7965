"""`python -m benchmarks.queries`: SQL through the lake's views and macros beside plain `read_parquet`, and `etl verify`.

The lake is generated once, outside of the repository: 500 symbols, three years of 1m. Twenty of them have every minute, the
others one bar in six hours, so that there is everything to list and little to read; all have funding every eight hours.
Contestants answer the same question and must give the same answer; they take turns, each on a warm connection of its own.

    python -m benchmarks.queries                    the lake (1 GB) is made in a temporary folder in a minute, and removed
    python -m benchmarks.queries --lake FOLDER      it is made there, or used if it is there, and stays

Figures are milliseconds, the least and the median of `--turns`. `× best` is the ratio to the best of the question's first
contestant, `× median` the median of the ratios of single turns, and what counts for the bar. Ratios of one run are worth more
than figures, and nothing is worth much on a machine that is busy.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

import etl
from etl.lake.store import Store
from etl.lake.views import quoted, write_catalog
from etl.model import Coverage, Series
from etl.ranges import HOUR, MINUTE, TimeRange, parse_time
from etl.schema import arrow_schema
from etl.verify import verify

SYMBOLS, FULL = 500, 20
START, END = parse_time("2022-01-01"), parse_time("2025-01-01")
ASKED = "SYM003USDT"  # one of the full ones
BAR_VERIFY_ROWS_PER_S = 5_000_000


@dataclass(frozen=True)
class Contestant:
    """One way to ask; `bar` is how many times the first contestant's time it may take."""

    name: str
    sql: str
    plain: bool = False
    bar: float | None = None


@dataclass(frozen=True)
class Question:
    """What is asked, and the ways to ask it; the first one sets the measure."""

    title: str
    contestants: tuple[Contestant, ...]


def main() -> None:
    """Generate, race, verify, print; exit 1 where answers differ or a bar is missed."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="etl-bench-") as scratch:
        lake = options.lake or Path(scratch, "lake")
        _generate(lake)
        results = [_race(lake, question, options.turns) for question in _questions(lake)]
        verified = _verify(lake, min(options.turns, 5))
    host = {"python": platform.python_version(), "duckdb": duckdb.__version__, "cpus": os.cpu_count()}
    document = {"host": host, "questions": results, "verify": verified}
    if options.json:
        print(json.dumps(document, indent=2))
    else:
        print(_text(document))
    missed = [
        one["name"] for result in results for one in result["contestants"] if one["bar"] and one["times_median"] > one["bar"]
    ]
    if missed:
        sys.exit(f"slower than the bar: {', '.join(missed)}")


def _questions(lake: Path) -> list[Question]:
    exact = quoted(str(lake / f"klines/market=um/interval=1m/symbol={ASKED}/2023.parquet"))
    series = quoted(str(lake / f"klines/market=um/interval=1m/symbol={ASKED}/*.parquet"))
    every = f"read_parquet({quoted(str(lake / 'klines/market=*/interval=*/symbol=*/*.parquet'))}, hive_partitioning = true)"
    funding = quoted(str(lake / f"funding/market=um/symbol={ASKED}/*.parquet"))
    hour = "open_time >= '2023-05-10 12:00' AND open_time < '2023-05-10 13:00'"
    named = f"market = 'um' AND interval = '1m' AND symbol = '{ASKED}'"

    def month(rows: str, where: str = "true") -> str:
        return (
            f"SELECT open_time, open, high, low, close, volume FROM {rows}"
            f" WHERE {where} AND open_time >= '2023-05-01' AND open_time < '2023-06-01' ORDER BY open_time"
        )

    def section(rows: str) -> str:
        columns = "symbol, sum(quote_volume) AS turnover, arg_max(close, open_time) AS close"
        return f"SELECT {columns} FROM {rows} WHERE {hour} GROUP BY symbol ORDER BY symbol"

    def whole(rows: str) -> str:
        return f"SELECT count(*) AS bars, max(high) AS high, round(sum(volume)) AS volume FROM {rows}"

    hours = f"""SELECT time_bucket(INTERVAL 1 HOUR, open_time) AS open_time, arg_min(open, open_time) AS open,
        max(high) AS high, min(low) AS low, arg_max(close, open_time) AS close, round(sum(volume), 3) AS volume
        FROM read_parquet({series}) GROUP BY ALL ORDER BY 1"""
    resampled = "SELECT open_time, open, high, low, close, round(volume, 3) AS volume"
    joined = f"""SELECT b.open_time, b.close, f.funding_time, f.funding_rate FROM read_parquet({series}) AS b
        ASOF LEFT JOIN read_parquet({funding}) AS f ON b.close_time >= f.funding_time ORDER BY b.open_time"""
    funded = "SELECT open_time, close, funding_time, funding_rate"
    return [
        Question(
            "One symbol, one month",
            (
                Contestant("read_parquet of the exact file", month(f"read_parquet({exact})"), plain=True),
                Contestant("bars(symbol, interval)", month(f"bars('{ASKED}', '1m')"), bar=3),
                Contestant("klines, by the names in WHERE", month("klines", named), bar=15),
            ),
        ),
        Question(
            "All symbols at one hour",
            (
                Contestant("read_parquet of all files", section(every), plain=True),
                Contestant("klines", section("klines")),
            ),
        ),
        Question(
            "An aggregate of every row of the lake",
            (
                Contestant("read_parquet of all files", whole(every), plain=True),
                Contestant("klines", whole("klines"), bar=1.2),
            ),
        ),
        Question(
            "One symbol, three years of hours from minutes",
            (
                Contestant("time_bucket over its files", hours, plain=True),
                Contestant("resample(symbol, '1m', '1h')", f"{resampled} FROM resample('{ASKED}', '1m', '1h') ORDER BY 1"),
            ),
        ),
        Question(
            "One symbol, three years of minutes with their funding",
            (
                Contestant("ASOF join of its files", joined, plain=True),
                Contestant("bars_with_funding(symbol, '1m')", f"{funded} FROM bars_with_funding('{ASKED}', '1m')"),
            ),
        ),
    ]


# ---- racing


def _race(lake: Path, question: Question, turns: int) -> dict[str, Any]:
    """Let the contestants of a question take turns, in another order each time, after a turn that does not count."""
    took: dict[str, list[float]] = {one.name: [] for one in question.contestants}
    answers: dict[str, pa.Table] = {}
    connections = {one.name: duckdb.connect() if one.plain else etl.connect(lake) for one in question.contestants}
    for connection in connections.values():
        connection.execute("SET asof_loop_join_threshold = 0")
    for turn in range(-1, turns):
        ways = question.contestants if turn % 2 else question.contestants[::-1]
        for one in ways:
            begun = time.perf_counter()
            table = connections[one.name].sql(one.sql).to_arrow_table()
            if turn >= 0:
                took[one.name].append(1000 * (time.perf_counter() - begun))
            answers[one.name] = table
    for connection in connections.values():
        connection.close()
    first = question.contestants[0]
    rows = {name: [tuple(row.values()) for row in table.slice(0, 50_000).to_pylist()] for name, table in answers.items()}
    for name, answer in rows.items():
        if answer != rows[first.name] or answers[name].num_rows != answers[first.name].num_rows or not answer:
            sys.exit(f"{question.title}: {name} answers otherwise than {first.name}")
    least, middle = ({name: how(times) for name, times in took.items()} for how in (min, median))
    results = [
        {
            "name": one.name,
            "bar": one.bar,
            "best_ms": least[one.name],
            "median_ms": middle[one.name],
            "times_best": least[one.name] / least[first.name],
            "times_median": median(mine / its for mine, its in zip(took[one.name], took[first.name], strict=True)),
        }
        for one in question.contestants
    ]
    return {"title": question.title, "rows": answers[first.name].num_rows, "turns": turns, "contestants": results}


def _verify(lake: Path, turns: int) -> list[dict[str, Any]]:
    """`etl verify` of the full symbols, in this process, and of one of them."""
    store = Store.open(lake, network="mainnet", layout="year")
    results = []
    for title, symbols in (("twenty full symbols", {_name(i) for i in range(FULL)}), ("one of them", {ASKED})):
        took = []

        def chosen(series: Series, symbols: set[str] = symbols) -> bool:
            return series.dataset == "klines" and series.symbol in symbols

        for _ in range(turns):
            begun, cpu = time.perf_counter(), time.process_time()
            found = verify(store, chosen)
            took.append((time.perf_counter() - begun, time.process_time() - cpu))
            if not found.sound or found.rows != len(symbols) * ((END - START) // MINUTE):
                sys.exit(f"verify: {found.rows} rows, {found.findings[:3]}")
        wall, spent = min(took)[0], min(spent for _, spent in took)
        results.append(
            {
                "title": title,
                "rows": found.rows,
                "best_s": wall,
                "median_s": median(one for one, _ in took),
                "cpu_s": spent,
                "rows_per_s": found.rows / wall,
                "rows_per_cpu_s": found.rows / spent,
            }
        )
    return results


def _text(document: dict[str, Any]) -> str:
    lines = []
    for result in document["questions"]:
        lines += [f"{result['title']}: {result['rows']:,} rows, {result['turns']} turns", ""]
        lines.append(f"{'':36}{'best ms':>10}{'median ms':>11}{'× best':>9}{'× median':>10}{'bar':>6}")
        for one in result["contestants"]:
            bar = one["bar"] or ""
            lines.append(
                f"{one['name']:36}{one['best_ms']:10.1f}{one['median_ms']:11.1f}{one['times_best']:9.2f}{one['times_median']:10.2f}{bar:>6}"
            )
        lines.append("")
    for one in document["verify"]:
        lines.append(
            f"etl verify, {one['title']}: {one['rows']:,} rows in {one['best_s']:.2f} s (median {one['median_s']:.2f} s, CPU"
            f" {one['cpu_s']:.2f} s): {one['rows_per_s']:,.0f} rows/s, {one['rows_per_cpu_s']:,.0f} a second of CPU;"
            f" the bar is {BAR_VERIFY_ROWS_PER_S:,} on two cores"
        )
    return "\n".join([*lines, "", ", ".join(f"{name} {value}" for name, value in document["host"].items())])


# ---- the lake


def _generate(lake: Path) -> None:
    """The lake at that place, unless it is there."""
    store = Store(lake, "year")
    if (lake / "catalog.duckdb").exists():
        return
    begun = time.perf_counter()
    store.create("mainnet")
    with ThreadPoolExecutor(os.cpu_count() or 1) as cores:
        for _ in cores.map(lambda number: _write(store, number), range(SYMBOLS)):
            pass
    write_catalog(lake)
    print(f"generated {lake} in {time.perf_counter() - begun:.0f} s", file=sys.stderr)


def _name(number: int) -> str:
    return f"SYM{number:03}USDT"


def _write(store: Store, number: int) -> None:
    random = np.random.default_rng(number)
    for dataset, make in (("klines", _bars), ("funding", _settlements)):
        series = Series("um", dataset, _name(number), "1m" if dataset == "klines" else None)
        for partition in store.partitions(series, TimeRange(START, END)):
            step = (MINUTE if number < FULL else 6 * HOUR) if dataset == "klines" else 8 * HOUR
            times = np.arange(partition.period.start, partition.period.end, step, dtype=np.int64)
            columns = dict(make(random, times))
            table = pa.table(columns, schema=arrow_schema(dataset))
            store.replace(partition, table, [Coverage(partition.period, "rest", END)], [])


def _bars(random: np.random.Generator, times: np.ndarray) -> Iterator[tuple[str, Any]]:
    """A random walk, in prices of two decimals and quantities of three, as exchanges have them."""
    closes = np.round(100 * np.exp(np.cumsum(random.normal(0, 3e-4, len(times)))), 2)
    opens = np.append(closes[:1], closes[:-1])
    spread = np.round(random.exponential(0.03, (2, len(times))), 2)
    volume = np.round(random.exponential(50, len(times)), 3) + 0.001
    taker = np.round(volume * random.uniform(0.2, 0.8, len(times)), 3)
    yield "open_time", times.astype("datetime64[ms]")
    yield "open", opens
    yield "high", np.round(np.maximum(opens, closes) + spread[0], 2)
    yield "low", np.round(np.minimum(opens, closes) - spread[1], 2)
    yield "close", closes
    yield "volume", volume
    yield "close_time", (times + MINUTE - 1).astype("datetime64[ms]")
    yield "quote_volume", volume * closes
    yield "count", random.integers(1, 500, len(times))
    yield "taker_buy_volume", taker
    yield "taker_buy_quote_volume", taker * closes


def _settlements(random: np.random.Generator, times: np.ndarray) -> Iterator[tuple[str, Any]]:
    yield "funding_time", (times + random.integers(0, 20, len(times))).astype("datetime64[ms]")
    yield "funding_rate", np.round(random.normal(1e-4, 1e-4, len(times)), 8)
    yield "mark_price", random.uniform(90, 110, len(times))
    yield "rate_type", ["Regular"] * len(times)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queries", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lake", type=Path, metavar="FOLDER", help="where the lake is made, or lies; it stays")
    parser.add_argument("--turns", type=int, default=15, help="of each contestant (default 15)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser.parse_args()


if __name__ == "__main__":
    main()
