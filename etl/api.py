"""The lake from Python: `etl.connect` for SQL, `etl.load` for frames."""

from __future__ import annotations

import os
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from . import config
from .lake import query

if TYPE_CHECKING:
    import duckdb


def connect(lake: str | Path | None = None) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection with the views and macros of the lake; by default of the lake that the settings name.

    It reads only the lake's files, so it works while a backfill writes. Close it, or use it in a `with` statement.
    """
    return query.connect(_lake(lake))


def load(
    dataset: str,
    symbol: str,
    interval: str | None = None,
    start: str | date | datetime | int | None = None,
    end: str | date | datetime | int | None = None,
    *,
    market: str = "um",
    output: Literal["pandas", "arrow"] = "pandas",
    lake: str | Path | None = None,
) -> Any:
    """The stored rows of one series with start <= time < end (UTC), sorted and unique, in the columns of the view.

    A pandas DataFrame, or with output="arrow" a pyarrow Table, both with tz-aware UTC times. EtlError, with the
    symbols that there are, for a series that is not stored.
    """
    return query.load(_lake(lake), dataset, symbol, interval, start, end, market=market, output=output)


def _lake(lake: str | Path | None) -> Path:
    return config.load({"lake": lake}, env=os.environ, cwd=Path.cwd()).lake
