"""What contestants stored beside what the exchange has: every row, and every column that they kept.

Run in a process of its own, hence the late imports: a child inherits the peak memory of the process that starts it, so the one
that starts contestants must stay small.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from etl.ranges import DAY, MINUTE
from etl.registry import DATASETS

if TYPE_CHECKING:
    import pandas as pd

WIRE = DATASETS["klines"].wire


def judge(symbols: Sequence[str], start: int, end: int, now: int, outputs: Sequence[Path]) -> list[Counter[str]]:
    """Per output the bars that are `right`, `missing`, `open` at `now`, and `wrong` (differing, doubled, never there)."""
    import pandas as pd

    from etl.sim.market import GeneratedWorld

    world = GeneratedWorld()
    counts: list[Counter[str]] = [Counter() for _ in outputs]
    closed = min(end, now - now % MINUTE)
    for symbol in symbols:
        rows: list[pd.DataFrame] = []
        for day in range(start, closed, DAY):  # a year of texts at once would fill the memory
            texts = world.truth("um", "klines", symbol, "1m", day, min(day + DAY, closed))
            rows.append(pd.DataFrame([text[: len(WIRE)] for text in texts], columns=WIRE).astype(float))
        truth = pd.concat(rows, ignore_index=True)
        for output, count in zip(outputs, counts, strict=True):
            count.update(_compare(truth, _stored(output, symbol), now))
    return counts


def _stored(output: Path, symbol: str) -> pd.DataFrame:
    """The rows of a lake's folder or of a peer's file, all numbers, times as ms UTC."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = output.glob(f"klines/market=um/interval=1m/symbol={symbol}/*.parquet") if output.is_dir() else [output]
    tables = [pq.ParquetFile(file).read() for file in sorted(files) if file.exists()]
    if not tables:
        return pd.DataFrame({"open_time": []}, dtype=float)
    table = pa.concat_tables(tables)
    types = [pa.int64() if pa.types.is_timestamp(field.type) else field.type for field in table.schema]
    rows: pd.DataFrame = table.cast(pa.schema(zip(table.column_names, types, strict=True))).to_pandas()
    return (rows[rows.pop("symbol") == symbol] if "symbol" in rows else rows).astype(float)


def _compare(truth: pd.DataFrame, stored: pd.DataFrame, now: int) -> dict[str, int]:
    running = int((stored["open_time"] + MINUTE > now).sum())
    right = len(stored.drop_duplicates("open_time").merge(truth, how="inner", on=list(stored.columns)))
    missing = len(truth) - int(truth["open_time"].isin(stored["open_time"]).sum())
    return {"right": right, "missing": missing, "wrong": len(stored) - right - running, "open": running}
