"""A generated market: every row is a pure function of (seed, market, symbol, minute), so any block can be made on its own.

Prices, quantities and sums are integers inside (ticks, steps and their products), so that every higher interval is exactly
the aggregation of its minutes. The figures are invented; only their shape follows the exchange (binance-facts 2, 3, 6).
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from ..model import Series
from ..ranges import DAY, HOUR, MAX_TIME, MINUTE, Interval, TimeRange, parse_time, subtract, union, years
from .contracts import Contract, decimals, default_contracts, entry
from .rows import Block, Decimal, Ints, block, joined, settlement_lines
from .world import INTERVALS, Selection


@dataclass(frozen=True, slots=True)
class Hole:
    """Minutes of a series that do not exist: no bar of any interval is made from them. Times in ms UTC, half-open."""

    market: str
    symbol: str
    dataset: str
    start: int
    end: int


HOLES = (
    # spot was down and made no bars; USD-M kept flat ones (binance-facts 10.2)
    *(
        Hole("spot", symbol, "klines", parse_time(start), parse_time(end))
        for symbol in ("BTCUSDT", "ETHUSDT", "BNBUSDT", "SOLUSDT", "AVAXUSDT")
        for start, end in (("2021-08-13T02:00", "2021-08-13T06:30"), ("2023-03-24T12:40", "2023-03-24T14:00"))
    ),
    # mark and index bars that neither REST nor the archive has (binance-facts 9.6)
    *(
        Hole("um", "BTCUSDT", dataset, parse_time("2022-07-12T23:10"), parse_time("2022-07-13T09:13"))
        for dataset in ("mark_klines", "index_klines")
    ),
    Hole("um", "XLMUSDT", "klines", parse_time("2024-01-17T03:05"), parse_time("2024-01-17T05:47")),
)

MARK_PRICE_FROM = parse_time("2023-10-31T16:00")
RATE_TYPE_FROM = parse_time("2026-07-23")

# Lanes keep the random numbers of one minute apart.
_PATH, _BAR, _SIZE, _WICK, _MARK, _INDEX, _PREMIUM, _RATE, _JITTER = range(1, 10)

# How late fundingTime is: cumulative share of 1,731 real BTCUSDT settlements by ms; the tail reaches 31 (binance-facts 6).
_LATE = np.cumsum([910, 251, 119, 90, 74, 75, 42, 48, 26, 27, 24, 18, 8, 6, 5, 4, 4])
_LATE_TOTAL = 1735


class Bars(NamedTuple):
    """Columns of bars as integers: prices in the text's last decimal, quantities and sums in theirs."""

    open_time: Ints
    open: Ints
    high: Ints
    low: Ints
    close: Ints
    volume: Ints
    quote_volume: Ints
    trades: Ints
    taker_volume: Ints
    taker_quote: Ints

    def take(self, which: slice | npt.NDArray[np.bool_]) -> Bars:
        """Some of the rows."""
        return Bars(*(column[which] for column in self))

    def between(self, start: int, end: int) -> Bars:
        """Rows whose open time lies in [start, end)."""
        low, high = np.searchsorted(self.open_time, [start, end])
        return self.take(slice(int(low), int(high)))


def concat(parts: Sequence[Bars]) -> Bars:
    """The rows of all parts, in their order."""
    return Bars(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def aggregate(bars: Bars, opens: Sequence[int]) -> Bars:
    """Bars of a coarser grid: those of `opens` (ascending, from the first row on) in which there is any row."""
    if not len(bars.open_time):
        return bars
    grid = np.asarray(opens, np.int64)
    group = np.searchsorted(grid, bars.open_time, "right") - 1
    first = np.flatnonzero(np.diff(group, prepend=-1))
    last = np.append(first[1:], len(group)) - 1
    return Bars(
        grid[group[first]],
        bars.open[first],
        np.maximum.reduceat(bars.high, first),
        np.minimum.reduceat(bars.low, first),
        bars.close[last],
        *(np.add.reduceat(column, first) for column in bars[5:]),
    )


class _Line(NamedTuple):
    """One series of one contract; its blocks change only by the world, never by time."""

    contract: Contract
    dataset: str
    interval: str | None


class GeneratedWorld:
    """An exchange of invented, deterministic data.

    `symbols` is the number of ordinary USD-M contracts (the odd ones, COIN-M and spot come on top) or the very contracts to
    list. `holes` says which minutes do not exist. `mark_price_from` and `rate_type_from` (ms UTC) say since when settlements
    carry these fields. `cache_blocks` bounds the memory of rendered rows, about 0.2 MB each.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        symbols: int | Sequence[Contract] = 64,
        holes: Sequence[Hole] = HOLES,
        mark_price_from: int = MARK_PRICE_FROM,
        rate_type_from: int = RATE_TYPE_FROM,
        cache_blocks: int = 768,
    ) -> None:
        everything = default_contracts(symbols) if isinstance(symbols, int) else symbols
        contracts = [one for one in everything if not one.forgotten]
        self.seed = seed
        self.tag = hashlib.sha256(repr((seed, tuple(everything), tuple(holes))).encode()).hexdigest()
        self.recorded: Mapping[str, bytes] = {}
        self.contracts = {(one.market, one.symbol): one for one in contracts}
        self._holes = tuple(holes)
        self._mark_price_from = mark_price_from
        self._rate_type_from = rate_type_from
        # Index bars belong to the pair; its perpetual (or first contract) gives the price.
        self._pairs: dict[tuple[str, str], Contract] = {}
        for one in contracts:
            if one.first is not None:
                self._pairs.setdefault((one.market, one.pair), one)
        # By dataset family (index_klines or any other), market and name: the contracts of each folder of the archive in turn.
        self._folders: dict[tuple[bool, str, str], list[Contract]] = defaultdict(list)
        for one in sorted((one for one in everything if one.first is not None), key=lambda one: one.first or 0):
            self._folders[False, one.market, one.symbol].append(one)
            if one.forgotten or self._pairs[one.market, one.pair] is one:
                self._folders[True, one.market, one.pair].append(one)
        # exchangeInfo changes at these times only
        moments = {m for c in contracts for m in (c.first, c.end, c.end and c.end - 7 * DAY) if m is not None}
        self._moments = np.array(sorted(moments), np.int64)
        self._keys = lru_cache(4096)(self._make_key)
        # One thread generates at a time: numpy gives the interpreter lock away at every operation, and threads that hand it
        # to each other a thousand times a block take twice as long.
        self._making = Lock()
        self._block = lru_cache(cache_blocks)(self._make_block)
        self._hours = lru_cache(2048)(self._make_hours)
        self._minutes = lru_cache(64)(self._make_day)
        self._runs = lru_cache(4096)(self._make_runs)
        self._info = lru_cache(8)(self._make_info)

    # --- what is listed

    def exchange_info(self, market: str, now: int) -> dict[str, Any]:
        """Body of exchangeInfo but for server time and rate limits."""
        moment = int(np.searchsorted(self._moments, now, "right"))
        return self._info(market, int(self._moments[moment - 1]) if moment else 0)

    def _make_info(self, market: str, now: int) -> dict[str, Any]:
        symbols = [entry(one, now) for one in self.contracts.values() if one.market == market]
        if market == "spot":
            return {"exchangeFilters": [], "symbols": symbols}
        assets = [{"asset": "USDT", "marginAvailable": True, "autoAssetExchange": "-10000"}]
        um = {"futuresType": "U_MARGINED", "exchangeFilters": [], "assets": assets, "symbols": symbols}
        return um if market == "um" else {"exchangeFilters": [], "symbols": symbols}

    def known(self, market: str, dataset: str, symbol: str) -> bool:
        """Whether the market lists this symbol, or pair for index_klines."""
        return (market, symbol) in (self._pairs if dataset == "index_klines" else self.contracts)

    def closed(self, market: str, symbol: str, now: int) -> bool:
        """Whether bars are refused with -1122."""
        contract = self.contracts.get((market, symbol))
        return contract is not None and contract.closed_error and contract.end is not None and now >= contract.end

    def _contract(self, market: str, dataset: str, symbol: str) -> Contract:
        known = self._pairs if dataset == "index_klines" else self.contracts
        try:
            return known[market, symbol]
        except KeyError:
            raise UsageError(f"the generated market {market} does not list {symbol} for {dataset}") from None

    # --- pages

    def bars(self, series: Series, selection: Selection, now: int) -> bytes:
        """Bars whose open time lies in the selection; the bar that is running at `now` holds what has happened so far."""
        contract, grid = self._contract(series.market, series.dataset, series.symbol), INTERVALS[series.interval or ""]
        line, span, limit = _Line(contract, series.dataset, series.interval), selection.span, selection.limit
        running = grid.floor(now)
        closed = TimeRange(span.start, max(span.start, min(span.end, running)))
        open_now = span.start <= running < span.end
        last = self._so_far(line, now) if open_now and selection.newest else b""
        parts, count = self._pick(line, closed, limit - bool(last), newest=selection.newest)
        if open_now and not selection.newest and count < limit:
            last = self._so_far(line, now)
        return b",".join([*parts, last] if last else parts)

    def funding(self, market: str, symbol: str | None, selection: Selection, now: int) -> bytes:
        """Settlements of one symbol, or of all of them by time and then symbol."""
        span = selection.span
        span = TimeRange(span.start, max(span.start, min(span.end, now + 1)))
        if symbol is not None:
            line = _Line(self._contract(market, "funding", symbol), "funding", None)
            return b",".join(self._pick(line, span, selection.limit, newest=selection.newest)[0])
        rows: list[tuple[int, str, bytes]] = []
        for (of, name), contract in self.contracts.items():
            if of == market and contract.funding:
                line = _Line(contract, "funding", None)
                rows += ((time, name, row) for time, row in self._pick_rows(line, span, selection.limit, selection.newest))
        chosen = heapq.nlargest(selection.limit, rows) if selection.newest else heapq.nsmallest(selection.limit, rows)
        return b",".join(row for _, _, row in sorted(chosen))

    def truth(self, market: str, dataset: str, symbol: str, interval: str | None, start_ms: int, end_ms: int) -> list[Any]:  # noqa: PLR0917 - the six names of a slice, in their usual order
        """Every final row in [start_ms, end_ms) that REST or the archive has; the clock plays no part."""
        lines = self._lines(Series(market, dataset, symbol, interval))
        if not lines:
            self._contract(market, dataset, symbol)  # listed, but it never traded
        span = TimeRange(start_ms, end_ms)
        parts = [part for line in lines for part in self._pick(line, span)[0]]
        rows: list[Any] = json.loads(b"[" + b",".join(parts) + b"]")
        return rows

    # --- the archive

    def _lines(self, series: Series) -> list[_Line]:
        """The contracts that had the symbol, oldest first."""
        contracts = self._folders.get((series.dataset == "index_klines", series.market, series.symbol), [])
        return [_Line(contract, series.dataset, series.interval) for contract in contracts]

    def folders(self, market: str, dataset: str) -> Sequence[str]:
        """The symbols that have rows; COIN-M has premium bars of perpetuals only (binance-facts 9.2)."""

        def has(contract: Contract) -> bool:
            if dataset == "funding":
                return bool(contract.funding)
            return not (dataset == "premium_klines" and market == "cm") or contract.symbol.endswith("_PERP")

        index = dataset == "index_klines"
        return [name for (i, m, name), of in self._folders.items() if (i, m) == (index, market) and any(map(has, of))]

    def extent(self, series: Series) -> TimeRange:
        """From the first bar to the end of the last contract."""
        lives = [self._life(line) for line in self._lines(series)]
        return TimeRange(lives[0].start, lives[-1].end) if lives else TimeRange(0, 0)

    def count(self, series: Series, span: TimeRange) -> int:
        """How many lines `span` has, without making them."""
        if series.interval is None:
            return sum(len(self._due(line, span)) for line in self._lines(series))
        grid = INTERVALS[series.interval]
        return sum(grid.count(span.intersect(run)) for run in self._runs(series) if run.intersect(span))

    def _make_runs(self, series: Series) -> tuple[TimeRange, ...]:
        """The ranges in which every bar of the grid exists."""
        grid = INTERVALS[series.interval or ""]
        holes = [
            TimeRange(hole.start, hole.end)
            for hole in self._holes
            if (hole.market, hole.symbol, hole.dataset) == (series.market, series.symbol, series.dataset)
        ]
        minutes = [self._life(line._replace(interval="1m")) for line in self._lines(series)]
        return union(TimeRange(grid.floor(run.start), run.end) for run in subtract(minutes, holes))

    def room(self, series: Series) -> int | None:
        """How many bytes of a zip a line needs; seen were up to 61 in spot, 54 in futures, 34 in bars without volume."""
        if series.market == "spot":
            return 72
        return {"klines": 64, "funding": 32}.get(series.dataset, 44)

    def lines(self, series: Series, span: TimeRange, unit: int = 1) -> bytes:
        """The rows of `span` as lines of CSV."""
        parts = []
        for line in self._lines(series):
            if line.interval is None:
                parts.append(settlement_lines(b",".join(self._pick(line, span)[0])))
                continue
            run, grid = span.intersect(self._life(line)), INTERVALS[line.interval]
            run = TimeRange(grid.ceil(run.start), grid.ceil(run.end))  # of the bars that open here all minutes
            with self._making:
                bars = self._bars(line, run) if run else None
            if bars is not None and len(bars.open_time):
                parts.append(render(line.contract, line.dataset, grid, bars, csv=unit).text + b"\n")
        return b"".join(parts)

    def _pick(self, line: _Line, span: TimeRange, limit: int = 1 << 62, *, newest: bool = False) -> tuple[list[bytes], int]:
        parts, count = [], 0
        for made, low, high in self._slices(line, span, limit, newest=newest):
            parts.append(made.rows(low, high))
            count += high - low
        return (parts[::-1] if newest else parts), count

    def _pick_rows(self, line: _Line, span: TimeRange, limit: int, newest: bool) -> Iterator[tuple[int, bytes]]:  # noqa: FBT001 - as in Selection
        for made, low, high in self._slices(line, span, limit, newest=newest):
            for row in range(low, high):
                yield int(made.times[row]), made.rows(row, row + 1)

    def _slices(
        self, line: _Line, span: TimeRange, limit: int = 1 << 62, *, newest: bool = False
    ) -> Iterator[tuple[Block, int, int]]:
        """Where the first or last `limit` rows of `span` lie; blocks in the order of walking."""
        life = self._life(line)
        start, end = max(span.start, life.start), min(span.end, life.end)
        if start >= end:
            return
        for bounds in _blocks(line.interval, TimeRange(start, end), newest=newest):
            if limit <= 0:
                return
            with self._making:
                made = self._block(line, bounds)
            low, high = (int(index) for index in np.searchsorted(made.times, [start, end]))
            low, high = (max(low, high - limit), high) if newest else (low, min(high, low + limit))
            if low < high:
                limit -= high - low
                yield made, low, high

    def _life(self, line: _Line) -> TimeRange:
        """From the open of the first bar to the end of the contract."""
        contract = line.contract
        first = contract.first
        if first is None:
            return TimeRange(0, 0)
        if line.dataset in {"mark_klines", "index_klines"}:
            first = contract.mark_first or first
        end = MAX_TIME if contract.end is None else contract.end
        return TimeRange(INTERVALS[line.interval].floor(first) if line.interval else first, end)

    # --- rendering

    def _make_block(self, line: _Line, bounds: TimeRange) -> Block:
        if line.interval is None:
            return self._settlements(line, bounds)
        return render(line.contract, line.dataset, INTERVALS[line.interval], self._bars(line, bounds))

    def _bars(self, line: _Line, span: TimeRange) -> Bars:
        """Bars that open in `span`, whose bounds lie on the line' grid."""
        grid = INTERVALS[line.interval or ""]
        if not grid.step or grid.step >= HOUR:
            fine = concat([self._hours(line.contract, line.dataset, start) for start in _chunks(span)])
        elif span.end - span.start == DAY and not span.start % DAY:
            fine = self._minutes(line.contract, line.dataset, span.start)
        else:
            fine = self._make_minutes(line.contract, line.dataset, span)
        fine = fine.between(span.start, span.end)
        return fine if grid.step == MINUTE else aggregate(fine, grid.opens(span))

    def _so_far(self, line: _Line, now: int) -> bytes:
        with self._making:
            return self._running(line, now)

    def _running(self, line: _Line, now: int) -> bytes:
        """The bar that is open at `now`, rendered; nothing where there is none."""
        grid = INTERVALS[line.interval or ""]
        start, minute, hour = grid.floor(now), now - now % MINUTE, now - now % HOUR
        whole = [self._hours(line.contract, line.dataset, chunk) for chunk in _chunks(TimeRange(start, max(start, hour)))]
        fine = self._minutes(line.contract, line.dataset, now - now % DAY)
        parts = [bars.between(start, hour) for bars in whole] + [fine.between(max(start, hour), minute)]
        unit = _tick_units(line.contract) if line.dataset == "klines" else 1
        running = aggregate(concat([*parts, _partial(fine.between(minute, minute + 1), now, unit)]), [start])
        return render(line.contract, line.dataset, grid, running).text

    # --- generation

    def _make_key(self, *names: str) -> int:
        text = json.dumps([self.seed, *names], ensure_ascii=False)
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")

    def _make_hours(self, contract: Contract, dataset: str, start: int) -> Bars:
        span = TimeRange(start, start + _CHUNK)
        return aggregate(self._make_minutes(contract, dataset, span), range(span.start, span.end, HOUR))

    def _make_day(self, contract: Contract, dataset: str, day: int) -> Bars:
        return self._make_minutes(contract, dataset, TimeRange(day, day + DAY))

    def _make_minutes(self, contract: Contract, dataset: str, span: TimeRange) -> Bars:
        """The minutes of `span` that exist."""
        minutes = np.arange(span.start // MINUTE, span.end // MINUTE, dtype=np.int64)
        symbol = contract.pair if dataset == "index_klines" else contract.symbol
        life = self._life(_Line(contract, dataset, "1m"))
        times = minutes * MINUTE
        lives = (times >= life.start) & (times < life.end)
        for hole in self._holes:
            if (hole.market, hole.symbol, hole.dataset) == (contract.market, symbol, dataset):
                lives &= (times < hole.start) | (times >= hole.end)
        if not lives.any():
            return Bars(*(np.empty(0, np.int64) for _ in Bars._fields))
        make = self._trades if dataset == "klines" else self._samples
        return make(contract, dataset, minutes).take(lives)

    def _path(self, contract: Contract, minutes: Ints) -> Ints:
        """Price in ticks at the start of each minute: contracts on one asset move together."""
        centre = _ticks(contract)
        path: Ints = centre + centre * _wander(self._keys(contract.base), minutes) // (1 << 26) * 4 // 5
        return path

    def _trades(self, contract: Contract, _: str, minutes: Ints) -> Bars:
        back = 64  # far enough to find the last trade before a quiet minute
        span = np.arange(minutes[0] - back, minutes[-1] + 2, dtype=np.int64)
        path = self._path(contract, span)
        key = self._keys(contract.market, contract.symbol)
        dice, size, wick = (_dice(key, lane, span[:-1]) for lane in (_BAR, _SIZE, _WICK))
        quiet = _bits(dice, 0, 10) < contract.quiet
        # A quiet minute repeats the last close, which is the path's value after the last minute with trades.
        index = np.arange(len(quiet))
        traded = np.maximum.accumulate(np.where(quiet, -1, index))
        after = np.where(quiet & (traded >= 0), traded + 1, index)
        gap = np.array([-1, 1, 0, 0, 0, 0, 0, 0])[_bits(dice, 10, 3)]
        open_ = np.where(quiet, path[after], np.maximum(path[:-1] + gap, 2))
        close = np.where(quiet, open_, path[1:])
        reach = np.maximum(open_ // 2000, 3)
        high = np.maximum(open_, close) + np.where(quiet, 0, _bits(wick, 0, 8) * reach >> 8)
        low = np.maximum(np.minimum(open_, close) - np.where(quiet, 0, _bits(wick, 8, 8) * reach >> 8), 1)
        # Volumes have a long tail: the square of one number times another.
        burst = _bits(size, 0, 6)
        volume = 1 + (_usual_volume(contract) * _bits(size, 8, 16) * (burst * burst + 8) >> 26)
        volume = np.where(quiet, 0, volume)
        taker = volume * _bits(size, 24, 10) >> 10
        price = (low + (high - low) * _bits(size, 34, 8) // 255) * _tick_units(contract)
        count = np.where(quiet, 0, np.minimum(volume, 1 + (_bits(size, 42, 9) * (burst + 2) >> 2)))
        if contract.market == "cm":  # contracts are worth a fixed sum of USD; the sums are base asset, 8 decimals
            worth = contract.contract_size * 10 ** (8 + decimals(contract.tick))
            quote, taker_quote = volume * worth // price, taker * worth // price
        else:
            quote, taker_quote = volume * price, taker * price
        unit = _tick_units(contract)
        columns = (open_ * unit, high * unit, low * unit, close * unit, volume, quote, count, taker, taker_quote)
        return Bars(span[:-1] * MINUTE, *columns).take(slice(back, None))

    def _samples(self, contract: Contract, dataset: str, minutes: Ints) -> Bars:
        """Mark, index and premium bars: sampled values with 8 decimals, no volume, the count of samples."""
        edges = np.arange(minutes[0], minutes[-1] + 2, dtype=np.int64)
        lane = {"mark_klines": _MARK, "index_klines": _INDEX, "premium_klines": _PREMIUM}[dataset]
        key = self._keys(contract.market, contract.pair if dataset == "index_klines" else contract.symbol, dataset)
        if dataset == "premium_klines":
            value = _wander(key, edges, octaves=6) >> 4  # a day or less: it comes back to zero
            reach = np.full(len(minutes), 20_000)
        else:
            value = self._mark(contract, edges, lane)
            reach = np.maximum(value[:-1] // 2000, 3)
        wick = _dice(key, _WICK, minutes)
        open_, close = value[:-1], value[1:]
        high = np.maximum(open_, close) + (_bits(wick, 0, 8) * reach >> 8)
        low = np.minimum(open_, close) - (_bits(wick, 8, 8) * reach >> 8)
        nothing = np.zeros(len(minutes), np.int64)
        count = np.full(len(minutes), 12 if dataset == "premium_klines" else 60, np.int64)
        return Bars(minutes * MINUTE, open_, high, low, close, nothing, nothing, count, nothing, nothing)

    def _mark(self, contract: Contract, minutes: Ints, lane: int = _MARK) -> Ints:
        """Mark or index price at the start of each minute, 8 decimals: near the path, up to 0.02 % off."""
        price = self._path(contract, minutes) * _tick_units(contract) * 10 ** (8 - decimals(contract.tick))
        off = _bits(_dice(self._keys(contract.market, contract.pair), lane, minutes), 0, 12) - 2048
        mark: Ints = price + price // 10_000_000 * off + off
        return mark

    # --- funding

    def _due(self, line: _Line, bounds: TimeRange) -> list[int]:
        """The full hours in `bounds` at which the contract settles."""
        life, hours = self._life(line), list[int]()
        for (since, step), (until, _) in pairwise([*line.contract.funding, (MAX_TIME, 0)]):
            start = max(since, bounds.start, life.start + 1)
            hours += Interval("", step * HOUR).opens(TimeRange(start, max(start, min(until, bounds.end, life.end))))
        return hours

    def _settlements(self, line: _Line, bounds: TimeRange) -> Block:
        """The settlements that are due in `bounds`."""
        contract, hours = line.contract, self._due(line, bounds)
        if not hours:
            return joined([], [])
        due = np.array(hours, np.int64)
        late = np.searchsorted(
            _LATE, _bits(_dice(self._keys("settlement"), _JITTER, due // HOUR), 0, 32) % _LATE_TOTAL, "right"
        )
        late = np.where(late == len(_LATE), 17 + _bits(_dice(self._keys("settlement"), _JITTER, due // HOUR), 32, 8) % 15, late)
        dice = _dice(self._keys(contract.market, contract.symbol), _RATE, due // HOUR)
        # Half of the rates stand at the interest rate of 0.01 %, as they do in quiet markets; the others fall below or above.
        rate = np.where(_bits(dice, 0, 1) == 0, 10_000, _bits(dice, 1, 15) - 12_000)
        marks = self._mark(contract, due // MINUTE)
        rows: list[tuple[int, bytes]] = []
        for time, value, mark, special in zip(
            (due + late).tolist(), rate.tolist(), marks.tolist(), (_bits(dice, 20, 5) == 0).tolist(), strict=True
        ):
            rows.append((time, self._settlement(contract, time, value, mark, "Regular")))
            # A dividend of a share settles beside the regular rate, at the same time (binance-facts 6).
            if special and contract.kind == "TRADIFI_PERPETUAL" and time >= self._rate_type_from:
                rows.append((time, self._settlement(contract, time, -(value * 7 + 1), mark, "Special")))
        return joined([time for time, _ in rows], [row for _, row in rows])

    def _settlement(self, contract: Contract, time: int, rate: int, mark: int, rate_type: str) -> bytes:
        price = _fixed(mark, 8) if time >= self._mark_price_from else ""
        kind = f',"rateType":"{rate_type}"' if time >= self._rate_type_from else ""
        head = f'{{"symbol":"{contract.symbol}","fundingTime":{time},"fundingRate":"{_fixed(rate, 8)}"'
        return f'{head},"markPrice":"{price}"{kind}}}'.encode()

    def funding_info(self, now: int) -> list[dict[str, Any]]:
        """Rows of fundingInfo: the interval that holds at `now`."""
        return [
            {
                "symbol": one.symbol,
                "adjustedFundingRateCap": "0.02000000",
                "adjustedFundingRateFloor": "-0.02000000",
                "fundingIntervalHours": next((hours for since, hours in reversed(one.funding) if since <= now), 8),
                "disclaimer": one.base in {"BTC", "ETH"},
                "updateTime": None if one.base in {"BTC", "ETH"} else 1758377721362,
            }
            for one in self.contracts.values()
            if one.market == "um" and one.funding and one.status(now) == "TRADING"
        ]

    # --- quotes

    def _quote(self, contract: Contract, now: int) -> tuple[int, int] | None:
        """Best bid in ticks and a random number; None where nothing trades."""
        if contract.status(now) != "TRADING":
            return None
        minute = np.array([now // MINUTE, now // MINUTE + 1], np.int64)
        here, there = self._path(contract, minute).tolist()
        dice = int(_dice(self._keys(contract.market, contract.symbol), _SIZE, np.array([now // 1000]))[0])
        return here + (there - here) * (now % MINUTE) // MINUTE, dice

    def book_ticker(self, market: str, symbol: str | None, now: int) -> dict[str, Any] | list[dict[str, Any]] | None:
        """Best bid and ask, one tick apart; zeros for what no longer trades."""
        if symbol is None:
            return [self._ticker(one, now) for (of, _), one in self.contracts.items() if of == market]
        contract = self.contracts.get((market, symbol))
        return None if contract is None else self._ticker(contract, now)

    def _ticker(self, contract: Contract, now: int) -> dict[str, Any]:
        quote = self._quote(contract, now)
        bid, ask, bid_qty, ask_qty = "0.0", "0.0", "0.000", "0.000"
        if quote is not None:
            ticks, dice = quote
            bid, ask = _price(contract, ticks), _price(contract, ticks + 1)
            bid_qty, ask_qty = _quantity(contract, 1 + dice % 5000), _quantity(contract, 1 + dice // 5000 % 5000)
        row = {"symbol": contract.symbol, "bidPrice": bid, "bidQty": bid_qty, "askPrice": ask, "askQty": ask_qty}
        if contract.market == "cm":
            row = {"symbol": contract.symbol, "pair": contract.pair} | row
        return row if contract.market == "spot" else row | {"time": now, "lastUpdateId": now * 7}

    def depth(self, market: str, symbol: str, limit: int, now: int) -> dict[str, Any] | None:
        """A ladder one tick apart around the best prices; empty sides where nothing trades."""
        contract = self.contracts.get((market, symbol))
        if contract is None:
            return None
        bids, asks = [], []
        quote = self._quote(contract, now)
        if quote is not None:
            ticks, dice = quote
            sizes = _dice(dice, _SIZE, np.arange(2 * limit)).tolist()
            bids = [
                [_price(contract, ticks - i), _quantity(contract, 1 + sizes[i] % 9000)] for i in range(min(limit, ticks - 1))
            ]
            asks = [[_price(contract, ticks + 1 + i), _quantity(contract, 1 + sizes[limit + i] % 9000)] for i in range(limit)]
        head: dict[str, Any] = {"lastUpdateId": now * 7}
        if market == "cm":
            head |= {"symbol": symbol, "pair": contract.pair}
        if market != "spot":
            head |= {"E": now, "T": now}
        return head | {"bids": bids, "asks": asks}


# --- integer noise


def _dice(key: int, lane: int, points: Ints) -> npt.NDArray[np.uint64]:
    """64 random bits for each point: the finaliser of splitmix64 over a counter."""
    with np.errstate(over="ignore"):
        x = points.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64((key + lane * 0xD1342543DE82EF95) % (1 << 64))
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def _bits(dice: npt.NDArray[np.uint64], shift: int, width: int) -> Ints:
    return ((dice >> np.uint64(shift)) & np.uint64((1 << width) - 1)).astype(np.int64)


def _wander(key: int, minutes: Ints, octaves: int = 11) -> Ints:
    """A random walk that needs no walking, within ±2^(15 + octaves): noise of periods 1, 4, 16 … minutes, larger when slower.

    Eleven octaves reach two years.
    """
    total = np.zeros(len(minutes), np.int64)
    for octave in range(octaves):
        period = 4**octave
        cell = minutes // period
        low = int(cell[0])
        lattice = _bits(_dice(key, _PATH + 16 * octave, np.arange(low, int(cell[-1]) + 2, dtype=np.int64)), 0, 16) - (1 << 15)
        cell = cell - low
        before, after = lattice[cell], lattice[cell + 1]
        total += (before + (after - before) * (minutes % period) // period) << octave
    return total


# --- units and text


def _tick_units(contract: Contract) -> int:
    """A tick in units of the last decimal of the price text: 10 for "0.10"."""
    return int(contract.tick.replace(".", ""))


def _ticks(contract: Contract) -> int:
    scale = decimals(contract.tick)
    whole, _, part = contract.price.partition(".")
    return int(f"{whole}{part:0<{scale}}") // _tick_units(contract)


def _usual_volume(contract: Contract) -> int:
    """Steps that change hands in a usual minute."""
    if contract.market == "cm":
        return max(contract.turnover // contract.contract_size, 1)
    price = _ticks(contract) * _tick_units(contract)
    unit = int(f"1{0:0{decimals(contract.tick) + decimals(contract.step)}d}")  # 10 to the places of the product
    return max(contract.turnover * unit // price, 1)


def _fixed(value: int, scale: int, width: int = 0) -> str:
    """An integer of 10^-scale as decimal text, padded with zeros to `width` places."""
    sign, value = ("-", -value) if value < 0 else ("", value)
    text = f"{sign}{value // 10**scale}"
    places = f"{value % 10**scale:0{scale}d}" if scale else ""
    places = places.ljust(width, "0")
    return f"{text}.{places}" if places else text


def _width(contract: Contract) -> int:
    return 8 if contract.market == "spot" else 0  # spot pads every decimal text to 8 places


def _price(contract: Contract, ticks: int) -> str:
    return _fixed(ticks * _tick_units(contract), decimals(contract.tick), _width(contract))


def _quantity(contract: Contract, steps: int) -> str:
    return _fixed(steps * int(contract.step.replace(".", "")), decimals(contract.step), _width(contract))


def render(contract: Contract, dataset: str, grid: Interval, bars: Bars, *, csv: int = 0) -> Block:
    """Bars as JSON arrays, each number in the decimal text of the exchange (binance-facts 2.2).

    Or as lines of CSV, with `csv` = 1 in ms, 1000 in µs (binance-facts 9.4).
    """
    opens = bars.open_time
    after = opens + grid.step if grid.step else np.array([grid.next(time) for time in opens.tolist()], np.int64)
    closes = after * (csv or 1) - 1
    price, step, width = decimals(contract.tick), decimals(contract.step), _width(contract)
    traded = dataset == "klines"
    sums = 8 if contract.market == "cm" else price + step
    quantities = (bars.volume, step), (bars.quote_volume, sums), (bars.taker_volume, step), (bars.taker_quote, sums)
    volume, quote, taker, taker_quote = (Decimal(column, places, width) if traded else "0" for column, places in quantities)
    prices = (Decimal(column, price if traded else 8, width) for column in bars[1:5])
    mark = "" if csv else '"'
    cells: list[str | Decimal] = ["" if csv else "[", Decimal(opens * (csv or 1))]
    for one in (*prices, volume):
        cells += [f",{mark}", one, mark]
    cells += [",", Decimal(closes), f",{mark}", quote, f"{mark},", Decimal(bars.trades)]
    for one in (taker, taker_quote, "0"):
        cells += [f",{mark}", one, mark]
    return block(opens, [*cells, "" if csv else "]"], "\n" if csv else ",")


def _partial(minute: Bars, now: int, unit: int) -> Bars:
    """What has happened at `now` of a minute: the same open, no more volume or reach than in the end; prices in `unit`."""
    if not len(minute.open_time):
        return minute
    done = now % MINUTE
    row = {name: int(column[0]) for name, column in minute._asdict().items()}

    def so_far(value: int) -> int:
        return value * done // MINUTE

    def moved(price: int) -> int:
        return row["open"] + so_far((price - row["open"]) // unit) * unit

    close = moved(row["close"])
    volume = so_far(row["volume"])
    values = (
        row["open_time"],
        row["open"],
        max(close, moved(row["high"])),
        min(close, moved(row["low"])),
        close,
        volume,
        row["quote_volume"] * volume // row["volume"] if row["volume"] else 0,
        so_far(row["trades"]),
        so_far(row["taker_volume"]),
        row["taker_quote"] * so_far(row["taker_volume"]) // row["taker_volume"] if row["taker_volume"] else 0,
    )
    return Bars(*(np.array([value], np.int64) for value in values))


# --- blocks: the unit of caching

_CHUNK = 32 * DAY  # hours are made for so long at once: a third of the time that it takes day by day


def _chunks(span: TimeRange) -> range:
    """The starts of the chunks that hold `span`; none where it is empty."""
    return range(span.start - span.start % _CHUNK, span.end, _CHUNK) if span else range(0)


# How long a block of rendered rows is, by interval; some 1,000 rows, and few enough minutes to aggregate.
_BLOCK_DAYS = {"1m": 1, "3m": 2, "5m": 4, "15m": 8, "30m": 16, "3d": 48, "1w": 56}


def _blocks(interval: str | None, span: TimeRange, *, newest: bool) -> Iterator[TimeRange]:
    """The blocks that hold the rows of `span`, in the order of walking; calendar years for months and settlements."""
    if interval is None or INTERVALS[interval].step == 0:
        walk = [year for _, year in years(span)]
        yield from reversed(walk) if newest else walk
        return
    grid = Interval("", _BLOCK_DAYS.get(interval, 32) * DAY, INTERVALS[interval].offset)
    starts = range(grid.floor(span.start), span.end, grid.step)
    for start in reversed(starts) if newest else starts:
        yield TimeRange(start, start + grid.step)
