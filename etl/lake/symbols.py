"""The rules of every symbol that was ever seen, kept with the data: who vanishes from the exchange stays here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import LakeError
from ..model import SymbolRules
from ..ranges import iso
from ..schema import array
from .files import replace_file

_TEXT = ("symbol", "base_asset", "quote_asset", "contract_type", "status")
_TIMES = ("onboard_time", "delivery_time")
_NUMBERS = ("tick_size", "step_size", "min_qty", "max_qty", "min_price", "min_notional")
SCHEMA = pa.schema(
    [(name, pa.string()) for name in _TEXT]
    + [(name, pa.timestamp("ms")) for name in _TIMES]
    + [(name, pa.float64()) for name in _NUMBERS]
    + [(name, pa.timestamp("ms")) for name in ("first_time", "last_time")]
)

Row = dict[str, object]


class Life(NamedTuple):
    """The open times of the first and of the last bar of a contract (ms UTC); None for what is not known, or not over."""

    first: int | None
    last: int | None


class Symbols:
    """The symbols of one market in one lake, one row a contract, times in ms UTC."""

    def __init__(self, lake: Path, market: str) -> None:
        self._lake = lake
        self._path = lake / "symbols" / f"market={market}" / "symbols.parquet"

    def rows(self) -> dict[str, Row]:
        """What is stored, by symbol; nothing where nothing is."""
        if not self._path.exists():
            return {}
        try:
            table = pq.ParquetFile(self._path).read()
            table = table.cast(pa.schema([(f.name, pa.int64() if pa.types.is_timestamp(f.type) else f.type) for f in SCHEMA]))
        except (OSError, pa.ArrowException, ValueError) as error:
            raise LakeError(f"{self._path} cannot be read ({error}); move it away, the next run makes it anew") from error
        return {row["symbol"]: row for row in table.to_pylist()}

    def merged(self, rules: Iterable[SymbolRules], lives: Mapping[str, Life]) -> dict[str, Row]:
        """The stored rows with the present rules, and what is known of lives, over them."""
        rows = {symbol: dict(row) for symbol, row in self.rows().items()}
        for row in rows.values():
            if row["status"] == "TRADING":
                row["status"] = None  # so it was; whether it still does, only the present rules can say
        for rule in rules:
            row = rows.setdefault(rule.symbol, dict.fromkeys(SCHEMA.names))
            row.update({name: getattr(rule, name) for name in (*_TEXT, *_TIMES, *_NUMBERS)})
        for symbol, life in lives.items():
            if symbol in rows:
                if life.first is not None:
                    rows[symbol]["first_time"] = life.first
                rows[symbol]["last_time"] = None if rows[symbol]["status"] == "TRADING" else life.last
        return dict(sorted(rows.items()))

    def update(self, rules: Iterable[SymbolRules], lives: Mapping[str, Life]) -> bool:
        """Store what `merged` gives; whether that changed the file."""
        rows = self.merged(rules, lives)
        if not rows or rows == self.rows():
            return False
        columns = list(zip(*([row[name] for name in SCHEMA.names] for row in rows.values()), strict=True))
        table = pa.Table.from_arrays(
            [array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
        )
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", store_schema=False)
        replace_file(self._lake, self._path, memoryview(sink.getvalue()))
        return True


def alive(row: Row, at: int) -> bool:
    """Whether the life span of the row holds `at` (ms UTC): from its first bar, or its listing, to its last bar or delivery."""
    begins = row["first_time"] if row["first_time"] is not None else row["onboard_time"]
    ends = row["last_time"] if row["last_time"] is not None else row["delivery_time"]
    return (not isinstance(begins, int) or begins <= at) and (not isinstance(ends, int) or at <= ends)


def in_text(row: Row) -> Row:
    """The row with its times as ISO texts."""
    times = {field.name for field in SCHEMA if pa.types.is_timestamp(field.type)}
    return {name: iso(value) if name in times and isinstance(value, int) else value for name, value in row.items()}
