"""The rules of every symbol that was ever seen, kept with the data: who vanishes from the exchange stays here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import LakeError
from ..model import SymbolRules
from ..ranges import MAX_TIME, MINUTE, iso
from ..schema import array
from .files import check_file, cure, is_there, replace_file

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
    """The open times of the first and of the last bar of a contract (ms UTC); None for what is not known, or not over.

    `since` is the first bar that anybody has seen of it, though there may be earlier ones.
    """

    first: int | None
    last: int | None
    since: int | None = None


class Symbols:
    """The contracts of one market in one lake, one row each, times in ms UTC; a re-used ticker has several, oldest first."""

    def __init__(self, lake: Path, market: str) -> None:
        self._lake = lake
        self._path = lake / "symbols" / f"market={market}" / "symbols.parquet"

    def rows(self) -> dict[str, Row]:
        """The latest contract of each stored symbol."""
        return {symbol: rows[-1] for symbol, rows in self.contracts().items()}

    def contracts(self) -> dict[str, list[Row]]:
        """What is stored, by symbol; nothing where nothing is."""
        if not is_there(self._path):
            return {}
        check_file(self._path)
        try:
            table = pq.ParquetFile(self._path).read()
            table = table.cast(pa.schema([(f.name, pa.int64() if pa.types.is_timestamp(f.type) else f.type) for f in SCHEMA]))
            rows = table.to_pylist()
        except (OSError, pa.ArrowException, ValueError) as error:
            helps = cure(self._lake, "move it away, the next run makes it anew")
            raise LakeError(f"{self._path} cannot be read ({error}); {helps}") from error
        contracts: dict[str, list[Row]] = {}
        for row in rows:
            contracts.setdefault(row["symbol"], []).append(row)
        return contracts

    def merged(self, rules: Sequence[SymbolRules], lives: Mapping[str, Sequence[Life]]) -> dict[str, list[Row]]:
        """The stored contracts with the present rules, if anybody told them, and the lives that are known, over them."""
        contracts = {symbol: [dict(row) for row in rows] for symbol, rows in self.contracts().items()}
        for rows in contracts.values():
            for row in rows:
                if rules and row["status"] == "TRADING":
                    row["status"] = None  # so it was; whether it still does, only the present rules can say
        for rule in rules:
            rows = contracts.setdefault(rule.symbol, [])
            if not rows or (rule.onboard_time is not None and ended(rows[-1]) < rule.onboard_time):
                rows.append(dict.fromkeys(SCHEMA.names))
            if rows[-1]["onboard_time"] is None and rule.onboard_time is not None:
                rows[-1]["first_time"] = None  # it may have been the first stored bar only; the listing says more
            rows[-1].update({name: getattr(rule, name) for name in (*_TEXT, *_TIMES, *_NUMBERS)})
        for symbol, lived in lives.items():
            rows = contracts.setdefault(symbol, [])
            nobody = dict.fromkeys(SCHEMA.names) | {"symbol": symbol}
            # A contract that was listed after the last of these lives has no bars yet.
            unlived = [rows.pop()] if rows and _before(lived[-1].last, rows[-1]["onboard_time"]) else []
            rows[:0] = [dict(nobody) for _ in range(len(lived) - len(rows))]
            for row, life in zip(rows[-len(lived) :], lived, strict=True):
                row["first_time"] = _first(row, life)
                row["last_time"] = None if row["status"] == "TRADING" else life.last
            rows += unlived
        return dict(sorted(contracts.items()))

    def update(self, rules: Sequence[SymbolRules], lives: Mapping[str, Sequence[Life]]) -> bool:
        """Store what `merged` gives; whether that changed the file."""
        contracts = self.merged(rules, lives)
        if not contracts or contracts == self.contracts():
            return False
        rows = [[row[name] for name in SCHEMA.names] for each in contracts.values() for row in each]
        columns = list(zip(*rows, strict=True))
        table = pa.Table.from_arrays(
            [array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
        )
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", store_schema=False)
        replace_file(self._lake, self._path, memoryview(sink.getvalue()))
        return True


def _first(row: Row, life: Life) -> object:
    """The first bar. Of a contract of which nobody tells the listing the first one that is known: it surely lived then."""
    known = row["first_time"]
    if life.first is not None or row["onboard_time"] is not None or life.since is None:
        return known if life.first is None else life.first
    return min(known, life.since) if isinstance(known, int) else life.since


def _before(time: int | None, other: object) -> bool:
    return time is not None and isinstance(other, int) and time < other


def ended(row: Mapping[str, object]) -> int:
    """When the contract was over (ms UTC): after its last bar, or its delivery; MAX_TIME where neither is known."""
    last, delivery = row["last_time"], row["delivery_time"]
    known = [last + MINUTE] if isinstance(last, int) else []
    return min([*known, *([delivery] if isinstance(delivery, int) else [])], default=MAX_TIME)


def alive(row: Row, at: int) -> bool:
    """Whether the life span of the row holds `at` (ms UTC): from its first bar, or its listing, to its last bar or delivery.

    Where neither bar nor listing is known it holds nothing: it may not have begun then.
    """
    begins = row["first_time"] if row["first_time"] is not None else row["onboard_time"]
    ends = row["last_time"] if row["last_time"] is not None else row["delivery_time"]
    return isinstance(begins, int) and begins <= at and (not isinstance(ends, int) or at <= ends)


def in_text(row: Row) -> Row:
    """The row with its times as ISO texts."""
    times = {field.name for field in SCHEMA if pa.types.is_timestamp(field.type)}
    return {name: iso(value) if name in times and isinstance(value, int) else value for name, value in row.items()}
