"""An export: what of the lake is chosen, whether the tool can take it, and what it should know about it; then it is written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa

from .. import grid, registry
from ..errors import Cancelled, UsageError
from ..lake.store import Store, Stored
from ..lake.symbols import Symbols, ended
from ..model import Series
from ..ranges import ALWAYS, DAY, HOUR, MAX_TIME, MINUTE, TimeRange, iso, subtract, union
from ..schema import times
from . import files, tables, tools
from .contracts import Contract, contract

EVERY = frozenset({"all", "ever"})
_MOST = 5  # contracts of a kind that are told one by one


@dataclass(frozen=True, slots=True)
class Wish:
    """What to export; empty means what the tool usually takes, every symbol, every stored interval."""

    market: str = "um"
    datasets: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()
    intervals: tuple[str, ...] = ()
    span: TimeRange = ALWAYS


@dataclass(frozen=True, slots=True)
class Written:
    """A file that was written, below the folder; times are those of the first and the last row in the lake (ms UTC)."""

    series: Series
    path: str
    rows: int
    first: int | None
    last: int | None

    def as_dict(self) -> dict[str, Any]:
        """One element of `files` in the document of `etl export`."""
        first, last = (None if time is None else iso(time) for time in (self.first, self.last))
        return {**self.series.as_dict(), "path": self.path, "rows": self.rows, "first": first, "last": last}


@dataclass(slots=True)
class Exported:
    """What was written, what could not be, the gaps in what was, and what else is worth knowing before a backtest."""

    files: list[Written] = field(default_factory=list)
    left_out: list[tuple[Series, str]] = field(default_factory=list)
    gaps: list[tuple[Series, TimeRange]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Job:
    series: Series
    contract: Contract
    path: str


class _Reader:
    """The rows of a series in a span, a file of the lake at a time, and what was seen of them."""

    def __init__(self, store: Store, series: Series, span: TimeRange, stopped: Callable[[], bool]) -> None:
        self._store, self._series, self._span, self._stopped = store, series, span, stopped
        self.first: int | None = None
        self.last: int | None = None
        self.gaps: list[TimeRange] = []
        self.doubles = self.off_the_hour = 0

    def tables(self) -> Iterator[pa.Table]:
        """The rows of each file that has any, from the first one each time; Cancelled when the run is to end."""
        self.first = self.last = None
        self.gaps = []
        self.doubles = self.off_the_hour = 0
        stored = self._store.files(self._series)
        for file in stored:
            if self._stopped():
                raise Cancelled("stopped; the files that were complete are exported")
            if file.first is None or file.last is None or not TimeRange(file.first, file.last + 1).intersect(self._span):
                continue
            rows = self._store.rows(file.partition)
            start, stop = (int(at) for at in times(self._series.dataset, rows).searchsorted((self._span.start, self._span.end)))
            if start < stop:
                rows = rows.slice(start, stop - start)
                self._look(rows)
                yield rows
        if self._series.interval is None:
            self.gaps += self._unasked(stored)

    def holds(self) -> bool:
        """Whether a file of the series reaches into the span."""
        return any(
            file.first is not None and file.last is not None and TimeRange(file.first, file.last + 1).intersect(self._span)
            for file in self._store.files(self._series)
        )

    def _unasked(self, stored: Sequence[Stored]) -> tuple[TimeRange, ...]:
        """Of settlements, which have no grid: the times between them that nobody was asked about."""
        if self.first is None or self.last is None:
            return ()
        covered = union(coverage.span for file in stored for coverage in file.coverage)
        # Settlements are stamped some ms late, beyond the minute that was asked for.
        return subtract([TimeRange(self.first, max(self.first, self.last - self.last % MINUTE))], covered)

    def _look(self, rows: pa.Table) -> None:
        opens = times(self._series.dataset, rows)
        if self._series.interval is None:
            self.doubles += tables.doubles(rows)
            self.off_the_hour += tables.off_the_hour(rows)
        else:
            interval = registry.interval(self._series.interval)
            start = int(opens[0]) if self.last is None else interval.next(self.last)
            self.gaps += grid.absent(interval, TimeRange(start, int(opens[-1]) + 1), opens)
        self.first = int(opens[0]) if self.first is None else self.first
        self.last = int(opens[-1])


Read = Callable[[Series], _Reader]


def export(store: Store, tool: tools.Tool, wish: Wish, folder: Path, stopped: Callable[[], bool] = lambda: False) -> Exported:
    """Write what is wished into `folder`, each file whole or not at all; older ones of the same names are replaced.

    UsageError, before anything is written, where the lake lacks what was named or the tool cannot take it.
    """
    tools.check(tool, wish.market, wish.datasets)
    if tool.form == "catalog" and find_spec("nautilus_trader") is None:
        raise UsageError(
            "nautilus_trader, which writes its own catalog, is not installed; pip install 'binance-futures-etl[nautilus]'"
            " brings it, best in an environment of its own"
        )
    for parent in (folder.resolve(), *folder.resolve().parents):
        if (parent / "lake.json").exists():
            raise UsageError(f"{folder} lies in the lake {parent}, where nothing else belongs; name another folder with -o")
    done = Exported()
    jobs = _jobs(store, tool, wish, done)

    def read(series: Series) -> _Reader:
        return _Reader(store, series, wish.span, stopped)

    nothing = f"the lake at {store.root} has no row of this selection; etl status shows what it has"
    if not any(read(job.series).holds() for job in jobs):
        raise UsageError(nothing)
    with files.alone(folder):
        if tool.form == "catalog":
            _write_catalog(jobs, read, folder, done)
        else:
            _write_files(tool, jobs, read, folder, done)
    if not done.files:
        raise UsageError(nothing)
    done.notes += _notes(tool, jobs, wish.span, done, lambda series: read(series).holds())
    return done


# What is chosen


def _jobs(store: Store, tool: tools.Tool, wish: Wish, done: Exported) -> list[_Job]:
    """The series to export, in order; the others that were wished for are told in `done`."""
    chosen = [series for series in store.series() if _wished(series, tool, wish)]
    _check_named(store, chosen, wish, tool)
    rows = Symbols(store.root, wish.market).contracts()
    quotes = {str(row["quote_asset"]) for each in rows.values() for row in each if row["quote_asset"]}
    # Of all its series together: whatever is exported of a symbol gets one name.
    spans = {
        symbol: _held(store, [one for one in chosen if one.symbol == symbol], wish.span)
        for symbol in {one.symbol for one in chosen}
        if len(rows.get(symbol, [])) > 1
    }
    jobs: dict[str, _Job] = {}
    for series in chosen:
        of = contract(series, rows.get(series.symbol, []), quotes, spans.get(series.symbol, ALWAYS))
        try:
            path = tool.path(series, of)
            _check_free(tool, series, jobs.get(path))
        except UsageError as error:
            if series.symbol in wish.symbols:
                raise
            done.left_out.append((series, str(error)))
        else:
            jobs[path] = _Job(series, of, path)
    return list(jobs.values())


def _held(store: Store, several: Sequence[Series], span: TimeRange) -> TimeRange:
    """From the first row that is stored of the series in the span to the end of the last, as far as the files tell."""
    held = []
    for series in several:
        times = [(file.first, file.last) for file in store.files(series) if file.first is not None and file.last is not None]
        first, last = (max(times[0][0], span.start), min(times[-1][1], span.end - 1)) if times else (1, 0)
        if series.interval is not None:
            interval = registry.interval(series.interval)
            first, last = interval.ceil(first), interval.next(last) - 1
        if first <= last:
            held.append(TimeRange(first, last + 1))
    return TimeRange(min(one.start for one in held), max(one.end for one in held)) if held else ALWAYS


def _check_free(tool: tools.Tool, series: Series, other: _Job | None) -> None:
    if other is not None:
        raise UsageError(f"{tool.name} has one name for {series} and {other.series}; export them into two folders")


def _wished(series: Series, tool: tools.Tool, wish: Wish) -> bool:
    needed = tool.needs.get(series.dataset)
    return (
        series.market == wish.market
        and series.dataset in (wish.datasets or tool.usual)
        and (not wish.symbols or bool(EVERY & {*wish.symbols}) or series.symbol in wish.symbols)
        and (series.interval == needed if needed else not wish.intervals or series.interval in {None, *wish.intervals})
    )


def _check_named(store: Store, chosen: Sequence[Series], wish: Wish, tool: tools.Tool) -> None:
    """UsageError for what was named and is not stored: each symbol with each dataset and interval, or where no dataset is named
    each symbol at any of the intervals, and each interval of any symbol.

    What has no interval stands for a named one only where its dataset is named, too; what the tool needs at one interval is
    asked for at that one.
    """
    symbols = [symbol for symbol in wish.symbols if symbol not in EVERY] or [""]
    each: list[tuple[str, ...]] = [(interval,) for interval in wish.intervals] or [()]
    if wish.datasets:
        named = [
            (symbol, dataset, (tool.needs[dataset],) if dataset in tool.needs else intervals)
            for symbol, dataset, intervals in product(symbols, wish.datasets, each)
        ]
    else:
        named = [*product(symbols, [""], [wish.intervals]), *product([""], [""], each)]
    for symbol, dataset, intervals in named:
        found = (
            one
            for one in chosen
            if symbol in {"", one.symbol}
            and dataset in {"", one.dataset}
            and (not intervals or one.interval in intervals or (dataset and one.interval is None))
        )
        if next(found, None) is None:
            asked = dataset or " or ".join(tool.usual)
            of, at = f" of {symbol}" if symbol else "", f" at {', '.join(intervals)}" if intervals else ""
            words = [dataset or " ".join(tool.usual), "--symbols", symbol or "all", "--interval", ",".join(intervals) or "1m"]
            words += ["--market", wish.market] if wish.market != "um" else []
            raise UsageError(
                f"the lake at {store.root} has no {asked}{of}{at} in {wish.market}; etl status shows what it has, etl backfill"
                f" {' '.join(words)} fetches it"
            )


# Writing


def _write_files(tool: tools.Tool, jobs: Sequence[_Job], read: Read, folder: Path, done: Exported) -> None:
    for job in jobs:
        reader = read(job.series)
        written = (tool.table(job.series.dataset, rows) for rows in reader.tables())
        rows = files.write(folder / job.path, tool.form, written)
        _told(job.series, reader, done)
        if reader.first is not None:
            done.files.append(Written(job.series, job.path, rows, reader.first, reader.last))
            done.notes += _about_settlements(job.series, reader) if tool.name == "freqtrade" else ()


def _write_catalog(jobs: Sequence[_Job], read: Read, folder: Path, done: Exported) -> None:
    from . import nautilus  # noqa: PLC0415 - it need not be installed

    of_symbol: dict[str, list[_Job]] = defaultdict(list)
    for job in jobs:
        of_symbol[job.series.symbol].append(job)
    for group in of_symbol.values():
        readers = {job.series: read(job.series) for job in group}
        if any(reader.holds() for reader in readers.values()):
            tables_of = {series: reader.tables for series, reader in readers.items()}
            pieces = nautilus.write(folder, group[0].contract, tables_of, done.notes.append)
            done.files += [Written(one.series, str(one.path), one.rows, one.first, one.last) for one in pieces]
        for job in group:
            _told(job.series, readers[job.series], done)


def _told(series: Series, reader: _Reader, done: Exported) -> None:
    if reader.first is None:
        done.left_out.append((series, "the lake has no row of it in that time"))
    done.gaps += [(series, gap) for gap in reader.gaps]


# What is worth knowing


def _about_settlements(series: Series, reader: _Reader) -> Iterator[str]:
    if reader.doubles:
        yield (
            f"{series}: {reader.doubles} settlements share their time with another one, as special ones of stocks do; freqtrade"
            " holds one rate a time, so it gets their sum"
        )
    if reader.off_the_hour:
        yield (
            f"{series}: {reader.off_the_hour} settlements fall on no full hour; freqtrade finds no mark price for them and"
            " counts them as nothing"
        )


def _notes(
    tool: tools.Tool, jobs: Sequence[_Job], asked: TimeRange, done: Exported, stored: Callable[[Series], bool]
) -> list[str]:
    spans: dict[Series, tuple[int, int]] = {}
    for one in done.files:  # of a series there may be many, in their order
        if one.first is not None and one.last is not None:
            spans[one.series] = (spans.get(one.series, (one.first, 0))[0], one.last)
    notes: dict[str, None] = {}
    for job in jobs:
        if job.series in spans:
            notes |= dict.fromkeys(_about_contract(tool, job, spans[job.series][0]))
    notes |= dict.fromkeys(_about_ends(jobs, asked, spans))
    return [*notes, *(_about_funding(spans, stored) if tool.name == "freqtrade" else ())]


def _about_contract(tool: tools.Tool, job: _Job, first: int) -> Iterator[str]:
    of, latest = job.contract, job.contract.lives[-1]
    if len(of.lives) > 1 and (latest is None or first < latest):
        alone = f"; --start {iso(latest)} takes the last one alone" if latest is not None else ""
        yield f"{of.market} {of.symbol} is {len(of.lives)} contracts, one after the other, in one series{alone}"
    if tool.name in {"freqtrade", "nautilus"} and not of.told:
        yield f"the exchange has told no assets of {of.market} {of.symbol}; by its name they are {of.base} and {of.quote}"


def _about_ends(jobs: Sequence[_Job], asked: TimeRange, spans: dict[Series, tuple[int, int]]) -> Iterator[str]:
    """Where what is exported does not reach --start or --end."""
    unlisted: dict[str, int] = {}
    lacking: dict[tuple[Series, bool, int], list[str]] = defaultdict(list)
    for job in jobs:
        if job.series not in spans:
            continue
        first, until = _short(job.series, asked, *spans[job.series])
        began, over = job.contract.lives[0], ended(job.contract.rules) if job.contract.rules else MAX_TIME
        name, alike = f"{job.series.market} {job.series.symbol}", replace(job.series, symbol="")
        if first is not None and began is not None and asked.start < began and first <= began + DAY:
            unlisted.setdefault(f"{name} trades since", first)
        elif first is not None:
            lacking[alike, False, first].append(job.series.symbol)
        if until is not None and over < asked.end and until >= over - DAY:
            unlisted.setdefault(f"{name} traded until", until)
        elif until is not None:
            lacking[alike, True, until].append(job.series.symbol)
    if unlisted:
        more = f" (and so on: {len(unlisted) - _MOST} more)" if len(unlisted) > _MOST else ""
        told = ", ".join(f"{words} {iso(time)}" for words, time in [*unlisted.items()][:_MOST])
        yield f"{told}{more}; the rest of the time that was asked for is not there to be had"
    for (alike, over_early, time), symbols in lacking.items():
        yield _lacking(alike, symbols, asked, time, over_early=over_early)


def _short(series: Series, asked: TimeRange, first: int, last: int) -> tuple[int | None, int | None]:
    """Where the rows begin and end, if that is after --start and before --end by a bar, or by the longest time between two
    settlements; None where they reach it, or where it was not named.
    """
    if series.interval is None:
        first, until = first - first % MINUTE, last - last % MINUTE  # they are stamped some ms late
        starts, ends = asked.start + registry.LONGEST_FUNDING, until + registry.LONGEST_FUNDING
    else:
        interval = registry.interval(series.interval)
        starts, until = interval.ceil(asked.start), interval.next(last)
        ends = interval.next(until) - 1  # the bar in which --end lies need not be over
    begins = first if asked.start > ALWAYS.start and first > starts else None
    return begins, until if asked.end < ALWAYS.end and asked.end > ends else None


def _lacking(alike: Series, symbols: Sequence[str], asked: TimeRange, time: int, *, over_early: bool) -> str:
    """What to say of series, the same but for their symbols, that begin too late or end too early at that time."""
    interval, option = (f" {alike.interval}", f" --interval {alike.interval}") if alike.interval else ("", "")
    option += f" --market {alike.market}" if alike.market != "um" else ""
    what = f"{alike.dataset}{interval} of {alike.market} {', '.join(symbols)}"
    command = f"etl backfill {alike.dataset} --symbols {','.join(symbols)}{option}"
    if over_early:
        return (
            f"{what} end at {iso(time)}, before --end {iso(asked.end)}; {command} --start {iso(time)} --end {iso(asked.end)}"
            " fetches what there is since"
        )
    start = iso(asked.start)
    return f"{what} begin at {iso(time)}, after --start {start}; {command} --start {start} fetches what there is before"


def _about_funding(spans: dict[Series, tuple[int, int]], stored: Callable[[Series], bool]) -> Iterator[str]:
    """Where freqtrade would count a position's funding as nothing: it joins settlements with mark bars of one hour."""
    lacking: dict[tuple[str, bool], list[str]] = defaultdict(list)
    for bars, (first, last) in spans.items():
        if bars.market != "um" or bars.dataset != "klines":
            continue
        # The hour that has begun when the bars end has no mark bar yet, and no settlement need have been fetched of it.
        until = registry.interval(bars.interval or "").next(last) // HOUR * HOUR
        for dataset, interval, slack in (
            ("funding", None, registry.LONGEST_FUNDING),
            ("mark_klines", tools.FREQTRADE_FUNDING, HOUR),
        ):
            needed = Series("um", dataset, bars.symbol, interval)
            span = spans.get(needed)
            if span is None:
                lacking[dataset, stored(needed)].append(bars.symbol)
            elif span[0] > first + slack or span[1] + slack < until:
                yield (
                    f"{dataset} of um {bars.symbol} is there from {iso(span[0])} to {iso(span[1])}, {bars.interval} bars from"
                    f" {iso(first)} to {iso(last)}; outside of it freqtrade counts no funding"
                )
    for (dataset, there), symbols in lacking.items():
        names = ",".join(dict.fromkeys(symbols))
        at = f" --interval {tools.FREQTRADE_FUNDING}" if dataset == "mark_klines" else ""
        need = f"freqtrade's backtests of futures need {dataset}, which is"
        if there:
            yield f"{need} stored for {names} and was not named; name {dataset}, too, or no dataset, and export again"
        else:
            yield (
                f"{need} not exported for {names}; etl backfill {dataset} --symbols {names}{at} fetches it, then export again"
            )
