"""Any order of backfills, updates, damage and repairs: at the end the lake holds exactly what the exchange has."""

import os
import shutil
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from etl.lake.store import Store
from etl.model import Series
from etl.pipeline import Pipeline, Selection
from etl.ranges import DAY, HOUR, MINUTE, iso, parse_time, union
from etl.ranges import TimeRange as Span
from etl.repair import repair
from etl.sim.clock import Clock
from etl.sim.market import GeneratedWorld
from etl.sim.server import Simulator
from etl.verify import verify

from .exchange import settings as settings_of
from .exchange import stored, truth

LONG = os.environ.get("ETL_SOAK") == "1"
WORLD = GeneratedWorld(seed=5, symbols=4)
FIRST, NOW = parse_time("2025-12-01"), parse_time("2026-02-01T12:00:30")
SERIES = [
    Series("um", "klines", "BTCUSDT", "1h"),
    Series("um", "klines", "ETHUSDT", "4h"),
    Series("um", "mark_klines", "BTCUSDT", "1h"),
    Series("um", "funding", "ETHUSDT"),
]
one_of_them = st.sampled_from(SERIES)
sources = st.sampled_from(["auto", "rest", "archive"])
days = st.integers(0, (NOW - FIRST) // DAY - 1)
fractions = st.floats(0, 0.999)


def compared(series, rows):
    """The archive has the minute of a settlement and its rate, and nothing else of it."""
    return rows if series.interval else [(row[0] // MINUTE * MINUTE, row[1]) for row in rows]


class Lake(RuleBasedStateMachine):
    """What was asked for is all the model knows; the exchange says what must be there."""

    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp())
        self.exchange = Simulator(WORLD, clock=Clock(NOW, frozen=True))
        self.exchange.__enter__()
        self.lake = self.folder / "lake"
        self.settings = settings_of(self.exchange, self.lake)
        self.asked: dict[Series, list[Span]] = {}
        self.damaged = self.lost = False

    # ---- what users do

    @rule(series=one_of_them, start=days, length=st.integers(1, 40), source=sources)
    def backfill(self, series, start, length, source):
        span = Span(FIRST + start * DAY, min(FIRST + (start + length) * DAY, self.exchange.clock.now() // DAY * DAY))
        self.run_backfill(series, span, source)
        if source == "auto":
            self.asked.setdefault(series, []).append(span)

    @rule(hours=st.integers(1, 60))
    def time_passes(self, hours):
        self.exchange.clock.advance(hours * HOUR)

    @precondition(lambda self: self.asked and not self.lost)
    @rule()
    def update(self):
        with Pipeline(self.settings) as pipeline:
            outcome = pipeline.sync("update", stored=lambda _: True, lookback=3 * DAY)
        assert outcome.exit_code == 0, outcome.failed

    @precondition(lambda self: self.damaged)
    @rule()
    def repair(self):
        outcome = repair(self.settings, lambda _: True)
        assert (outcome.exit_code, outcome.left) == (0, []), (outcome.left, outcome.failed)
        assert verify(self.opened()).sound
        self.damaged = False

    # ---- what happens to files

    @precondition(lambda self: self.files())
    @rule(which=fractions, at=fractions)
    def a_byte_flips(self, which, at):
        path = self.pick(which)
        body = bytearray(path.read_bytes())
        body[int(at * len(body))] ^= 1 << int(at * 1000) % 8
        path.write_bytes(body)
        self.damaged = True

    @precondition(lambda self: self.files())
    @rule(which=fractions, at=fractions)
    def a_file_is_cut(self, which, at):
        path = self.pick(which)
        path.write_bytes(path.read_bytes()[: int(at * path.stat().st_size)])
        self.damaged = True

    @precondition(lambda self: self.files() and not self.damaged)
    @rule(which=fractions, at=fractions, what=st.sampled_from(["gone", "twice", "nonsense", "disorder"]))
    def rows_are_edited(self, which, at, what):
        path = self.pick(which)
        footer = pq.read_metadata(path).metadata[b"etl"]
        table = pq.ParquetFile(path).read()
        rows, index = table.to_pylist(), int(at * len(table))
        price = "funding_rate" if "funding_rate" in table.column_names else "high"
        if what == "gone" and price == "high":
            del rows[index : index + 5]
        elif what == "twice":
            rows.insert(index, rows[index])
        elif what == "nonsense":
            rows[index][price] = float("-inf")
        elif what == "disorder":
            rows.reverse()
        with pq.ParquetWriter(path, table.schema) as writer:
            writer.write_table(pa.Table.from_pylist(rows, schema=table.schema))
            writer.add_key_value_metadata({"etl": footer.decode()})
        self.damaged = True

    @precondition(lambda self: self.files())
    @rule(which=fractions)
    def a_file_is_deleted(self, which):
        self.pick(which).unlink()
        self.lost = True

    # ---- what must hold

    @invariant()
    def what_is_stored_is_true(self):
        if getattr(self, "damaged", True) or not self.lake.exists():
            return
        for series in SERIES:
            if rows := self.rows(series):
                assert set(rows) <= set(self.truth(series, Span(rows[0][0], rows[-1][0] + 2 * HOUR))), series

    def teardown(self):
        try:
            if getattr(self, "asked", None):
                self.at_the_end_all_is_there()
        finally:
            if hasattr(self, "exchange"):
                self.exchange.__exit__(None, None, None)
                shutil.rmtree(self.folder)

    def at_the_end_all_is_there(self):
        if self.damaged or self.lost:  # a file that is gone from between others, or before them, is an error
            self.repair()
        for series, spans in self.asked.items():
            for span in union(spans):
                self.run_backfill(series, span, "auto")
                rows = [row for row in self.rows(series) if row[0] in span]
                assert rows == self.truth(series, span), f"{series} {iso(span.start)}"
        assert verify(self.opened()).sound
        assert not list((self.lake / ".tmp").iterdir())

    # ---- parts

    def run_backfill(self, series, span, source):
        selection = Selection(
            series.market, (series.dataset,), (series.symbol,), (series.interval or "1h",), span.start, span.end
        )
        with Pipeline(self.settings, source=source) as pipeline:
            outcome = pipeline.sync("backfill", [selection])
        assert outcome.exit_code == 0, outcome.failed

    def rows(self, series):
        return compared(series, stored(self.lake, series))

    def truth(self, series, span):
        return compared(series, truth(self.exchange, series, span.start, span.end))

    def opened(self):
        return Store.open(self.lake, network="mainnet", layout="year")

    def files(self):
        if not self.lake.exists():
            return []
        return [path for series in SERIES for path in self.opened().paths(series) if path.stat().st_size]

    def pick(self, which):
        files = self.files()
        return files[int(which * len(files))]


TestLake = Lake.TestCase
TestLake.settings = settings(
    max_examples=500 if LONG else 12,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # the steps tell enough, and shrinking them takes minutes
)
