"""A data catalog of nautilus_trader, written by its own ParquetDataCatalog: instruments, bars and funding rates.

Import it only where nautilus_trader is installed. Importing it also lets the versions that cannot keep a FundingRateUpdate in a
catalog (1.221, the last one for Python 3.11) write and read them, in the columns of later versions, which need no help.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from nautilus_trader.model.data import Bar, BarType, FundingRateUpdate
from nautilus_trader.model.identifiers import InstrumentId, Symbol
from nautilus_trader.model.instruments import CryptoFuture, CryptoPerpetual, CurrencyPair
from nautilus_trader.model.objects import FIXED_PRECISION, PRICE_MAX, QUANTITY_MAX, Currency, Money, Price, Quantity
from nautilus_trader.persistence.catalog import ParquetDataCatalog
from nautilus_trader.serialization.arrow.serializer import list_schemas, register_arrow

from .. import registry
from ..errors import EtlError, UsageError
from ..model import Series
from ..ranges import HOUR, TimeRange, months, years
from ..schema import integers
from . import folders
from .contracts import Contract
from .tools import nautilus_bars, nautilus_id

_PRICES = ("open", "high", "low", "close")
_NS = 1_000_000  # of a millisecond

Reads = Mapping[Series, Callable[[], Iterator[pa.Table]]]


@dataclass(frozen=True, slots=True)
class Piece:
    """One file that was written: how many objects, and the times of the first and the last row in the lake (ms UTC)."""

    series: Series
    path: Path
    rows: int
    first: int | None
    last: int | None


@dataclass(frozen=True, slots=True)
class _Places:
    """Decimal places of prices and of quantities."""

    price: int
    size: int


def write(folder: Path, contract: Contract, reads: Reads, tell: Callable[[str], None]) -> list[Piece]:
    """Put the instrument, and the rows that `reads` gives of series of it, into the catalog in `folder`.

    What the catalog has of the same instrument, bar types and funding is replaced as a whole, everything else in it stays.
    `tell` hears what of it does not fit any more. Bars are stamped when they close. EtlError where it cannot be written, or
    where the rows changed meanwhile; UsageError for numbers that nautilus cannot hold.
    """
    with folders.workplace(folder) as part:
        places = _places(contract, reads)
        before = _before(folder, contract)
        if before:
            places = _Places(max(places.price, before.price), max(places.size, before.size))
        made = part / "new"
        made.mkdir()
        catalog = ParquetDataCatalog(str(made))
        instrument = _instrument(contract, places)
        pieces = [Piece(Series(contract.market, "symbols", contract.symbol), _put(catalog, made, [instrument]), 1, None, None)]
        for one, read in reads.items():
            for rows in read():
                times = integers(rows[registry.dataset(one.dataset).time_column])
                for start, stop in _periods(one, times):
                    objects = _objects(contract, one, rows.slice(start, stop - start), places)
                    path = _put(catalog, made, objects)
                    pieces.append(Piece(one, path, len(objects), int(times[start]), int(times[stop - 1])))
        gone = _unpaid(folder, contract, reads, pieces)
        replaced = folders.replace(part, folder, gone)
    if gone:
        tell(f"{nautilus_id(contract)} has no settlement in that time; the funding that the catalog had of it is removed")
    left = sorted(path.name for path in folder.glob(f"data/bar/{nautilus_id(contract)}-*") if path not in replaced)
    if before and before != places and left:
        tell(f"the numbers of {nautilus_id(contract)} have more places now than in {', '.join(left)}: export those again, too")
    return pieces


def _put(catalog: ParquetDataCatalog, made: Path, objects: Sequence[Any]) -> Path:
    """Write the objects, of one class and instrument, to a file of their own; where it lies below the catalog."""
    before = set(made.rglob("*.parquet"))
    catalog.write_data(objects)
    (path,) = set(made.rglob("*.parquet")) - before
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return path.relative_to(made)


def _unpaid(folder: Path, contract: Contract, reads: Reads, pieces: Sequence[Piece]) -> list[Path]:
    """The catalog's folder of funding, where funding was asked for and there is none: it is not that of these bars."""
    if "funding" not in {one.dataset for one in reads} - {one.series.dataset for one in pieces}:
        return []
    place = Path("data", "funding_rate_update", nautilus_id(contract))
    return [place] if (folder / place).exists() else []


def _periods(series: Series, times: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """The rows of each calendar month, or of the year where bars are long or few: objects of a year of minutes take 0.5 GB."""
    short = series.interval is not None and 0 < registry.interval(series.interval).step < HOUR
    for _, period in (months if short else years)(TimeRange(int(times[0]), int(times[-1]) + 1)):
        start, stop = np.searchsorted(times, (period.start, period.end))
        if start < stop:
            yield int(start), int(stop)


def _objects(contract: Contract, series: Series, rows: pa.Table, places: _Places) -> list[Any]:
    identity = InstrumentId.from_str(nautilus_id(contract))
    if series.interval is None:
        stamps = (integers(rows["funding_time"]) * _NS).tolist()
        rates = rows["funding_rate"].to_pylist()
        return [
            FundingRateUpdate(instrument_id=identity, rate=Decimal(repr(rate)), ts_event=stamp, ts_init=stamp)
            for stamp, rate in zip(stamps, rates, strict=True)
        ]
    kind = BarType.from_str(nautilus_bars(series, contract))
    interval = registry.interval(series.interval)
    opens = integers(rows["open_time"])
    closes = ((opens + interval.step) if interval.step else np.array([interval.next(int(one)) for one in opens])) * _NS
    prices = [rows[name].to_numpy() for name in _PRICES]
    volumes = rows["volume"].to_numpy()
    if not all(_exact(column, places.price) for column in prices) or not _exact(volumes, places.size):
        raise EtlError(f"{series} was changed while it was exported; run again, or export a snapshot with --snapshot")
    lists = [column.tolist() for column in (*prices, volumes, closes)]
    p, s = places.price, places.size
    return [
        Bar(kind, Price(first, p), Price(high, p), Price(low, p), Price(last, p), Quantity(volume, s), stamp, stamp)
        for first, high, low, last, volume, stamp in zip(*lists, strict=True)
    ]


# Rules


def _instrument(contract: Contract, places: _Places) -> Any:
    rules = contract.rules
    identity = InstrumentId.from_str(nautilus_id(contract))
    base, quote = _currency(str(contract.base)), _currency(str(contract.quote))
    onboard = (contract.lives[-1] or 0) * _NS
    common = {
        "instrument_id": identity,
        "raw_symbol": Symbol(contract.symbol),
        "quote_currency": quote,
        "price_precision": places.price,
        "size_precision": places.size,
        "price_increment": Price(rules["tick_size"], places.price),
        "size_increment": Quantity(rules["step_size"], places.size),
        "min_quantity": _some(rules["min_qty"], lambda qty: Quantity(qty, places.size)),
        "max_quantity": _some(rules["max_qty"], lambda qty: Quantity(min(qty, QUANTITY_MAX), places.size)),
        "min_price": _some(rules["min_price"], lambda price: Price(price, places.price)),
        "min_notional": _some(rules["min_notional"], lambda value: Money(value, quote)),
        # Margins and fees are those of an account, so they stay zero.
        "ts_event": onboard,
        "ts_init": onboard,
    }
    if contract.kind == "spot":
        return CurrencyPair(base_currency=base, **common)
    common |= {"settlement_currency": quote, "is_inverse": False}
    if contract.kind == "perpetual":
        return CryptoPerpetual(base_currency=base, **common)
    return CryptoFuture(underlying=base, activation_ns=onboard, expiration_ns=rules["delivery_time"] * _NS, **common)


def _currency(code: str) -> Currency:
    return Currency.from_str(code)  # an unknown code is a crypto currency with eight places


def _some(value: float | None, made: Callable[[float], Any]) -> Any:
    return None if value is None else made(value)


# Decimal places


def _places(contract: Contract, reads: Reads) -> _Places:
    """So many as the rules and every stored number need: a tick may have been finer in former years, and nothing is rounded."""
    rules = [rule for rule in (contract.rules["tick_size"], contract.rules["min_price"]) if rule is not None]
    sizes = [rule for rule in (contract.rules["step_size"], contract.rules["min_qty"]) if rule is not None]
    price, size = _needed(np.array(rules), 0), _needed(np.array(sizes), 0)
    for one, read in reads.items():
        for rows in read() if one.interval else ():
            for name in _PRICES:
                price = _needed(rows[name].to_numpy(), price, PRICE_MAX)
            size = _needed(rows["volume"].to_numpy(), size, QUANTITY_MAX)
    return _Places(price, size)


def _needed(values: npt.NDArray[np.float64], least: int, most: float = PRICE_MAX) -> int:
    if len(values) and values.max() > most:
        raise UsageError(f"nautilus cannot hold {values.max():g}, its largest number is {most:g}; --to csv takes the bars")
    places = next((places for places in range(least, FIXED_PRECISION + 1) if _exact(values, places)), None)
    if places is None:
        raise UsageError(f"nautilus cannot hold more than {FIXED_PRECISION} decimal places; --to csv takes the bars")
    return places


def _exact(values: npt.NDArray[np.float64], places: int) -> bool:
    """Whether all values are the nearest doubles of decimals with so many places."""
    scale = 10.0**places
    return bool(np.all(np.rint(values * scale) / scale == values))


def _before(folder: Path, contract: Contract) -> _Places | None:
    """Places of the instrument that the catalog has already."""
    identity = nautilus_id(contract)
    if not list(folder.glob(f"data/*/{identity}")):
        return None
    try:
        known = ParquetDataCatalog(str(folder)).instruments(instrument_ids=[identity])
    except (pa.ArrowException, OSError) as error:
        broken = [path for path in sorted(folder.glob(f"data/*/{identity}/*.parquet")) if not _readable(path)]
        raise EtlError(
            f"{', '.join(map(str, broken)) or folder / 'data'} cannot be read ({error}), so it is not known how many places its"
            " numbers have; remove it, then export again"
        ) from error
    return _Places(max(one.price_precision for one in known), max(one.size_precision for one in known)) if known else None


def _readable(path: Path) -> bool:
    try:
        pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError):
        return False
    return True


# Funding rates in a catalog, for versions that have no columns for them

_FUNDING = pa.schema(
    [
        pa.field("rate", pa.binary(), nullable=False),
        pa.field("interval", pa.uint16()),
        pa.field("next_funding_ns", pa.uint64()),
        pa.field("ts_event", pa.uint64(), nullable=False),
        pa.field("ts_init", pa.uint64(), nullable=False),
    ]
)


def _encoded(update: FundingRateUpdate) -> pa.RecordBatch:
    row = {
        "rate": json.dumps(str(update.rate)).encode(),
        "interval": None,
        "next_funding_ns": update.next_funding_ns,
        "ts_event": update.ts_event,
        "ts_init": update.ts_init,
    }
    return pa.RecordBatch.from_pylist([row], schema=_FUNDING.with_metadata({"instrument_id": update.instrument_id.value}))


def _decoded(rows: pa.Table) -> list[FundingRateUpdate]:
    identity = InstrumentId.from_str(rows.schema.metadata[b"instrument_id"].decode())
    return [
        FundingRateUpdate(
            instrument_id=identity,
            rate=Decimal(json.loads(row["rate"])),
            ts_event=row["ts_event"],
            ts_init=row["ts_init"],
            next_funding_ns=row["next_funding_ns"],
        )
        for row in rows.to_pylist()
    ]


if FundingRateUpdate not in list_schemas():
    register_arrow(FundingRateUpdate, _FUNDING, encoder=_encoded, decoder=_decoded)
