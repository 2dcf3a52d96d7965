"""Stored rows as the tables that each tool reads. Pure: rows of the lake in (times without zone), a table out."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from ..ranges import HOUR
from ..schema import arrow_schema

_PRICES = ("open", "high", "low", "close")
# The names of vectorbt.BinanceData, in its order.
_VECTORBT = {
    "open": "Open",
    "high": "High",
    "low": "Low",
    "close": "Close",
    "volume": "Volume",
    "close_time": "Close time",
    "quote_volume": "Quote volume",
    "count": "Number of trades",
    "taker_buy_volume": "Taker base volume",
    "taker_buy_quote_volume": "Taker quote volume",
}
_FREQTRADE_TIME = pa.timestamp("ms", "UTC")
_FREQTRADE = pa.schema(
    [("date", _FREQTRADE_TIME), *((name, pa.float64()) for name in ("open", "high", "low", "close", "volume"))]
)


def plain(dataset: str, rows: pa.Table) -> pa.Table:
    """The columns of the lake, times as ISO-8601 text with milliseconds and `Z`."""
    columns = [_iso(rows[field.name]) if pa.types.is_timestamp(field.type) else rows[field.name] for field in rows.schema]
    return pa.Table.from_arrays(columns, names=arrow_schema(dataset).names)


def backtesting(_: str, rows: pa.Table) -> pa.Table:
    """`Date` as text in UTC that pandas reads as a naive time, then Open, High, Low, Close, and Volume where there is one."""
    names = [*_PRICES, "volume"] if "volume" in rows.schema.names else [*_PRICES]
    date = pc.strftime(rows["open_time"].cast(pa.timestamp("s")), format="%Y-%m-%d %H:%M:%S")
    return pa.Table.from_arrays([date, *(rows[name] for name in names)], names=["Date", *(name.title() for name in names)])


def vectorbt(_: str, rows: pa.Table) -> pa.Table:
    """`Open time` in UTC, which pandas takes for the index, then the columns of vectorbt.BinanceData that the rows have."""
    import pandas as pd  # noqa: PLC0415 - 0.7 s that no other tool needs

    kept = {name: _VECTORBT[name] for name in _VECTORBT if name in rows.schema.names}
    # In ns, the unit that every version of pandas that vectorbt runs on computes with.
    instant = pa.timestamp("ns", "UTC")
    columns = [rows[name].cast(instant) if pa.types.is_timestamp(rows[name].type) else rows[name] for name in kept]
    table = pa.Table.from_arrays([rows["open_time"].cast(instant), *columns], names=["Open time", *kept.values()])
    like = table.slice(0, 0).to_pandas()
    index = pd.DatetimeIndex(like.pop("Open time"))
    described = pa.Schema.from_pandas(like.set_index(index))
    return table.replace_schema_metadata(described.metadata)


def freqtrade(dataset: str, rows: pa.Table) -> pa.Table:
    """`date` in UTC, open, high, low, close, volume; of prices that nobody trades the volume is 0, as the exchange has it.

    Funding has the same columns, which every version reads: the rate is in `open` and the rest is 0, its time is cut to the
    second as freqtrade does when it reads, and settlements of one second are added up, because freqtrade keeps one of them.
    """
    if dataset == "funding":
        second = pc.floor_temporal(rows["funding_time"], unit="second")
        paid = pa.Table.from_arrays([second, rows["funding_rate"]], names=["date", "open"])
        sums = paid.group_by("date", use_threads=False).aggregate([("open", "sum")])
        zero = pa.repeat(pa.scalar(0.0), len(sums))
        columns = [sums["date"], sums["open_sum"], zero, zero, zero, zero]
    else:
        volume = rows["volume"] if "volume" in rows.schema.names else pa.repeat(pa.scalar(0.0), len(rows))
        columns = [rows["open_time"], *(rows[name] for name in _PRICES), volume]
    return pa.Table.from_arrays([columns[0].cast(_FREQTRADE_TIME), *columns[1:]], schema=_FREQTRADE)


def doubles(rows: pa.Table) -> int:
    """How many settlements share their second with another one."""
    seconds = pc.floor_temporal(rows["funding_time"], unit="second")
    return len(rows) - int(pc.count_distinct(seconds).as_py())


def off_the_hour(rows: pa.Table) -> int:
    """How many settlements, cut to the second, fall on no full hour: freqtrade finds no mark price for them."""
    seconds = pc.floor_temporal(rows["funding_time"], unit="second").cast(pa.int64())
    return int(pc.sum(pc.not_equal(pc.multiply(pc.divide(seconds, HOUR), HOUR), seconds)).as_py() or 0)


def _iso(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.strftime(column, format="%Y-%m-%dT%H:%M:%SZ")
