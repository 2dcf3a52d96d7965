"""The whole product once, against the embedded exchange: backfill under faults, update, compare row by row, ask a question."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa

from . import registry, report
from .config import Settings
from .errors import EtlError, UsageError
from .lake import query
from .lake.store import Store
from .model import Series
from .pipeline import Outcome, Pipeline, Progress, Selection
from .plan import closed_end
from .ranges import DAY, iso, parse_time
from .sim.clock import Clock
from .sim.faults import Faults
from .sim.market import GeneratedWorld
from .sim.server import Simulator

# Says that a folder was made by a demo and may be cleared by the next one.
MARK = ".demo"

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
START = parse_time("2026-01-01")
NOW = parse_time("2026-03-01T12:00:30")

# What the exchange does to a client on a bad day; each of it costs a known tool rows (binance-facts 10).
FAULTS = [
    {"action": "reset", "path": "klines", "every": 23, "when": "body"},
    {"action": "status", "path": "klines", "every": 31, "status": 503, "body": "html"},
    {"action": "truncated_json", "path": "klines", "every": 37},
    {"action": "short_page", "path": "klines", "every": 17, "drop": 20},
    {"action": "duplicate_rows", "path": "klines", "every": 19, "rows": 5},
    {"action": "empty_page", "path": "klines", "every": 41},
    {"action": "retry_after", "path": "klines", "after": 60, "first": 1, "seconds": 1},
    {"action": "open_bar_extra", "path": "klines", "every": 13},
]

QUESTION = """
SELECT b.symbol,
       count(*)                                                       AS bars,
       round(100 * (last(b.close ORDER BY b.open_time) / first(b.open ORDER BY b.open_time) - 1), 2)
                                                                      AS price_pct,
       round(100 * f.paid, 3)                                         AS funding_pct,
       round(100 * (last(b.close ORDER BY b.open_time) / first(b.open ORDER BY b.open_time) - 1 - f.paid), 2)
                                                                      AS long_net_pct,
       round(100 * stddev(ln(b.close / b.open)) * sqrt(365 * 24), 1)  AS volatility_pct
FROM klines b
JOIN (SELECT symbol, sum(funding_rate) AS paid FROM funding WHERE market = 'um' GROUP BY symbol) f ON f.symbol = b.symbol
WHERE b.market = 'um' AND b.interval = '1h'
GROUP BY b.symbol, f.paid
ORDER BY long_net_pct DESC
"""

NEXT = (
    "status --lake {lake}",
    """sql --lake {lake} "SELECT * FROM bars_with_funding('BTCUSDT', '1h') LIMIT 5\"""",
    """sql --lake {lake} "SELECT * FROM resample('BTCUSDT', '1m', '4h') ORDER BY open_time DESC LIMIT 5\"""",
    "backfill klines funding --symbols BTCUSDT --interval 1m --start 2024-01-01   (the same job, live)",
)


class Mismatch(EtlError):
    """The lake differs from the exchange."""


def run(settings: Settings, say: Callable[[str], object], progress: Callable[[], Progress], lake: Path | None = None) -> None:
    """Run the demo into `lake`, by default `demo` beside the configured one; Mismatch if a row differs from the exchange's.

    UsageError if something is there already that no earlier demo made.
    """
    lake = settings.lake.parent / "demo" if lake is None else lake
    _clear(lake)
    started = time.monotonic()
    world = GeneratedWorld(seed=1)
    with Simulator(world, clock=Clock(NOW, frozen=True), faults=Faults(FAULTS), latency_ms=5) as exchange:
        say(f"The embedded exchange is at {exchange.url}: invented prices, real protocol, and a bad day (resets, 503, 429, …)")
        settings = replace(
            settings,
            lake=lake,
            um_url=exchange.url,
            archive_url=exchange.url,
            archive_index_url=exchange.url,
            network="mainnet",
            state_dir=lake / ".state",
            workers=max(8, settings.workers),
        )
        wanted = [
            Selection("um", ("klines",), SYMBOLS, ("1m", "1h"), START),
            Selection("um", ("funding",), SYMBOLS, (), START),
        ]
        say(f"\n1. backfill klines funding --symbols {','.join(SYMBOLS)} --interval 1m,1h --start {iso(START)[:10]}")
        say(_told(_sync(settings, progress(), "backfill", wanted)))
        say("\n2. a day later: update")
        exchange.clock.advance(DAY)
        say(_told(_sync(settings, progress(), "update", [], lookback=DAY)))
        say(f"   the exchange injected {_injected(exchange)} faults in all")
        say("\n3. compare the lake with the exchange, row by row and field by field")
        store = Store.open(lake, network=settings.network, layout=settings.partition)
        say(f"   {_compare(store, world, exchange.clock.now()):,} rows, all equal")
    say("\n4. ask: what did a long position earn, after funding?\n")
    with query.connect(lake) as connection:
        found = connection.sql(QUESTION).to_arrow_table()
    say(report.records(found.to_pylist(), found.column_names))
    shown = _shown(lake)
    say(f"\nThe lake lies in {shown} ({report.duration(time.monotonic() - started)} in all). Try next:")
    for line in NEXT:
        say("  .venv/bin/etl " + line.format(lake=shown))


def _clear(lake: Path) -> None:
    """Make room where an earlier demo was, and nowhere else."""
    if lake.exists() and any(lake.iterdir()):
        if not (lake / MARK).exists():
            raise UsageError(f"{lake} is there already and was not made by a demo: name another folder with --lake")
        shutil.rmtree(lake)
    lake.mkdir(parents=True, exist_ok=True)
    (lake / MARK).touch()


def _sync(settings: Settings, progress: Progress, command: str, wanted: list[Selection], lookback: int = 0) -> Outcome:
    with Pipeline(settings, progress=progress) as pipeline:
        outcome = pipeline.sync(command, wanted, stored=None if wanted else lambda _: True, lookback=lookback)
    for _, error in outcome.failed:
        raise error
    if outcome.stopped:
        raise outcome.stopped
    return outcome


def _told(outcome: Outcome) -> str:
    rate = outcome.rows_written / max(outcome.elapsed_s, 0.001)
    return (
        f"   {outcome.rows_written:,} rows into {outcome.partitions_written} files in {report.duration(outcome.elapsed_s)} "
        f"({rate:,.0f} rows/s), {outcome.requests:,} requests, weight {outcome.weight:,}"
    )


def _injected(exchange: Simulator) -> int:
    return sum(1 for request in exchange.requests if request.fault)


def _compare(store: Store, world: GeneratedWorld, now: int) -> int:
    """Compare what should be stored by now with what is; the number of rows."""
    compared = 0
    wanted = [Series("um", "klines", symbol, interval) for symbol in SYMBOLS for interval in ("1m", "1h")]
    for series in (*wanted, *(Series("um", "funding", symbol) for symbol in SYMBOLS)):
        files = store.files(series)
        end = closed_end(series.interval, now)
        served = world.truth(series.market, series.dataset, series.symbol, series.interval, START, end)
        truth = [_expected(series, row) for row in served]
        rows = [row for file in files for row in _plain(store.rows(file.partition))]
        if rows != truth:
            differing = ((mine, theirs) for mine, theirs in zip_longest(rows, truth) if mine != theirs)
            mine, theirs = next(differing)
            raise Mismatch(f"{series}: {mine} is stored, the exchange has {theirs}")
        compared += len(rows)
    return compared


def _plain(rows: pa.Table) -> Iterator[tuple[object, ...]]:
    columns = [column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column for column in rows.columns]
    return zip(*(column.to_pylist() for column in columns), strict=True)


def _expected(series: Series, row: Any) -> tuple[object, ...]:
    """A row of the wire as the lake should hold it, by Python's own conversion: not by the code that is being checked."""
    dataset = registry.dataset(series.dataset)
    values = row if isinstance(row, dict) else dict(zip(dataset.wire, row, strict=False))
    fields = dataset.wire if isinstance(row, dict) else [column.name for column in dataset.columns]
    convert: dict[str, Callable[[Any], object]] = {"time": int, "int": int, "float": float, "text": str}
    return tuple(
        None if values.get(name) in {None, ""} else convert[column.type](values[name])
        for name, column in zip(fields, dataset.columns, strict=True)
    )


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
