"""The lake from Python: `etl.connect` for SQL, `etl.load` and `etl.universe` for frames.

All of them only read, and take no lock: they work while a backfill writes. `snapshot` names a frozen state of the lake
(`etl snapshot create`), which answers the same for ever.
"""

from __future__ import annotations

import os
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from . import config
from .lake import query, snapshots

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

Time = str | date | datetime | int


def connect(lake: str | Path | None = None, *, snapshot: str | None = None) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection with the views and macros of the lake; by default of the lake that the settings name.

    Close it, or use it in a `with` statement. UsageError where there is no such lake or snapshot.
    """
    return query.connect(_lake(lake, snapshot))


@overload
def load(
    dataset: str,
    symbol: str,
    interval: str | None = None,
    start: Time | None = None,
    end: Time | None = None,
    *,
    market: str = "um",
    output: Literal["pandas"] = "pandas",
    lake: str | Path | None = None,
    snapshot: str | None = None,
) -> pd.DataFrame: ...
@overload
def load(
    dataset: str,
    symbol: str,
    interval: str | None = None,
    start: Time | None = None,
    end: Time | None = None,
    *,
    market: str = "um",
    output: Literal["arrow", "polars"],
    lake: str | Path | None = None,
    snapshot: str | None = None,
) -> Any: ...
def load(
    dataset: str,
    symbol: str,
    interval: str | None = None,
    start: Time | None = None,
    end: Time | None = None,
    *,
    market: str = "um",
    output: query.Output = "pandas",
    lake: str | Path | None = None,
    snapshot: str | None = None,
) -> Any:
    """The stored rows of one series with start <= time < end (UTC), sorted and unique, in the columns of the view.

    A pandas DataFrame, with output="arrow" a pyarrow Table, with output="polars" a polars DataFrame, all with tz-aware UTC
    times. EtlError, with the symbols that there are, for a series that is not stored.
    """
    return query.load(_lake(lake, snapshot), dataset, symbol, interval, start, end, market=market, output=output)


@overload
def universe(
    at: Time,
    *,
    market: str = "um",
    output: Literal["pandas"] = "pandas",
    lake: str | Path | None = None,
    snapshot: str | None = None,
) -> pd.DataFrame: ...
@overload
def universe(
    at: Time,
    *,
    market: str = "um",
    output: Literal["arrow", "polars"],
    lake: str | Path | None = None,
    snapshot: str | None = None,
) -> Any: ...
def universe(
    at: Time,
    *,
    market: str = "um",
    output: query.Output = "pandas",
    lake: str | Path | None = None,
    snapshot: str | None = None,
) -> Any:
    """The contracts that lived at that time (UTC), delisted ones included: rows of the view `symbols`, by symbol.

    A life span begins with the first bar, or the listing, and ends with the last bar, or the delivery. Frames as of `load`.
    """
    return query.universe(_lake(lake, snapshot), at, market=market, output=output)


def _lake(lake: str | Path | None, snapshot: str | None) -> Path:
    root = config.load({"lake": lake}, env=os.environ, cwd=Path.cwd()).lake
    return snapshots.folder(root, snapshot) if snapshot is not None else root
