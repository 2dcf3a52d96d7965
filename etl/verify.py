"""Is what is stored right? Every file of the lake, read whole and checked by content, on all cores."""

from __future__ import annotations

import os
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa

from . import coverage, mend, publication, registry
from . import plan as planning
from .config import Settings
from .errors import Cancelled, Damaged, EtlError, LakeError, Refused
from .extract.retry import Stop
from .grid import Times
from .lake.store import Store, Stored
from .lake.symbols import Row, Symbols, ended
from .model import Coverage, Finding, Series, Severity, Source, Window
from .ranges import ALWAYS, DAY, MAX_TIME, TimeRange, intersection, iso, subtract, union
from .schema import times as times_of
from .sources import Sources
from .transform import checks, normalize, quality
from .work import LISTED_LONG

SEVERITIES = ("error", "warning", "info")
# A listing may be dated a day off its first bar (binance-facts 5), and what ends in the middle of a bar has that bar.
_ROUND_A_LIFE = DAY
_NEVER = TimeRange(0, 0)


@dataclass(frozen=True, slots=True)
class Verified:
    """What was checked, and what was found, the worst first."""

    series: int
    files: int
    rows: int
    findings: tuple[Finding, ...]
    failed: tuple[tuple[Series, EtlError], ...] = ()
    """The series that could not be compared with a source, and why."""
    damaged: tuple[tuple[Series, Damaged], ...] = ()
    """The files that do not hold what they should."""
    doubtful: tuple[tuple[Series, TimeRange], ...] = ()
    """What may be wrong: finer bars that differ from a bar which they make up, and stretches in which settlements were due."""

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong for certain."""
        return not any(finding.severity == "error" for finding in self.findings)


def verify(store: Store, chosen: Callable[[Series], bool] = lambda _: True) -> Verified:
    """Check the chosen series of the lake. Nothing is written, and nobody is asked.

    What cannot be read is a finding, too. LakeError only where the symbols of a market cannot be read.
    """
    lives = {market: _lives(store, market) for market in registry.MARKETS}
    every = [series for series in store.series() if chosen(series)]
    units: dict[tuple[str, str, str, str], list[tuple[Series, Path]]] = defaultdict(list)
    unreadable = [(series, error) for series, error in store.strays(beside=True) if chosen(series)]
    readable: list[Series] = []
    for series in sorted(every, key=_step):
        try:
            paths = store.paths(series)
        except LakeError as error:
            unreadable.append((series, error))
            continue
        readable.append(series)
        for path in paths:
            year = path.stem[:4] if series.interval else ""
            units[series.market, series.dataset, series.symbol, year].append((series, path))
    contracts = {market: Symbols(store.root, market).contracts() for market in registry.MARKETS}

    def check(unit: Sequence[tuple[Series, Path]]) -> list[_Checked]:
        series, _ = unit[0]
        checked = list(_of_year(store, unit, lives[series.market].get(series.symbol, ())))
        if not series.interval:
            of_ticker = lives[series.market].get(series.symbol, ()), contracts[series.market].get(series.symbol, ())
            checked.append(_of_skips(series, checked, *of_ticker))
        return checked

    with ThreadPoolExecutor(os.cpu_count() or 1) as cores:
        checked = [one for unit in cores.map(check, units.values()) for one in unit]
    files: dict[Series, list[Stored]] = defaultdict(list)
    still: dict[Series, list[checks.Still]] = defaultdict(list)
    for one in checked:
        if one.stored:
            files[one.series].append(one.stored)
        if one.still:
            still[one.series].append(one.still)
    wanted = store.wanted()
    whole: list[Finding] = []
    finest: dict[tuple[str, str, str], Series] = {}
    for series in readable:  # the finest ones come first
        lived, rows = lives[series.market].get(series.symbol, ()), contracts[series.market].get(series.symbol, ())
        first = finest.setdefault((series.market, series.dataset, series.symbol), series)
        whole += _of_edges(series, files[series], rows, lived, finest=series == first)
        whole += _of_absent_files(store, series, files[series], lived, wanted.get(series))
        trades = any(row["status"] == "TRADING" for row in rows)
        whole += _of_still(series, files[series], still[series], trades=trades)
    strays = (Finding(series, "unreadable", "error", TimeRange(0, 0), 1, str(error)) for series, error in unreadable)
    findings = sorted([*(finding for one in checked for finding in one.findings), *whole, *strays], key=_rank)
    damaged = tuple((one.series, one.damaged) for one in checked if one.damaged)
    doubtful = tuple(span for one in checked for span in one.doubtful)
    count, read = sum(one.rows for one in checked), sum(len(unit) for unit in units.values())
    return Verified(len(every), read, count, tuple(findings), damaged=damaged, doubtful=doubtful)


@dataclass(frozen=True, slots=True)
class _Checked:
    """One file, or what its series shows as a whole."""

    series: Series
    rows: int
    findings: list[Finding]
    stored: Stored | None = None
    damaged: Damaged | None = None
    doubtful: Sequence[tuple[Series, TimeRange]] = ()
    settled: Times | None = None
    still: checks.Still | None = None


def compare(
    found: Verified, store: Store, settings: Settings, source: Source, *, stop: Stop, chosen: Callable[[Series], bool]
) -> Verified:
    """What was `found`, and what the source has otherwise than the lake.

    Of the archive every file that holds what is covered: its digest, and its rows. Of REST a sample: of each stored file the
    newest page, and one that its name decides, so that the same lake is always compared in the same places. What REST does not
    list any more is told, and not asked for. A series that cannot be asked for fails alone.
    """

    def ask(one: tuple[Series, Path]) -> list[Finding] | EtlError:
        try:
            stored = store.read(*one)
            rows = store.rows(stored.partition)
            rules = contracts[one[0].market].get(one[0].symbol, {})
            return list(_archived(sources, stored, rows, rules) if source == "archive" else _sampled(sources, stored, rows))
        except (Refused, Cancelled):
            raise
        except EtlError as error:
            return error

    contracts = {market: Symbols(store.root, market).rows() for market in registry.MARKETS}
    findings: list[Finding] = list(found.findings)
    failed: dict[Series, EtlError] = {}
    with closing(Sources(settings, stop, source)) as sources, ThreadPoolExecutor(settings.workers) as threads:
        asked: list[tuple[Series, Path]] = []
        listed: dict[str, set[str] | EtlError] = {}
        for series in filter(chosen, store.series()):
            if source == "rest" and series.market not in listed:
                listed[series.market] = _listed(sources, series.market)
            names = listed.get(series.market, {series.symbol})
            if isinstance(names, EtlError):
                failed[series] = names
            elif series.symbol not in names:
                findings.append(_unlisted(store, series))
            else:
                asked += [(series, path) for path in store.paths(series)]
        for (series, _), answer in zip(asked, threads.map(ask, asked), strict=True):
            if isinstance(answer, EtlError):
                failed.setdefault(series, answer)
            else:
                findings += answer
    return replace(found, findings=tuple(sorted(findings, key=_rank)), failed=tuple(failed.items()))


def _listed(sources: Sources, market: str) -> set[str] | EtlError:
    """The symbols and pairs of the market that REST lists, or why nobody could say."""
    try:
        rules = sources.exchange_info(market).symbols
    except (Refused, Cancelled):
        raise
    except EtlError as error:
        return error
    return {name for rule in rules for name in (rule.symbol, rule.pair) if name}


def _unlisted(store: Store, series: Series) -> Finding:
    periods = [period for path in store.paths(series) if (period := store.period(path))]
    span = TimeRange(periods[0].start, periods[-1].end) if periods else TimeRange(0, 0)
    message = "REST does not list it any more, and was not asked; --against archive compares it"
    return Finding(series, "unlisted", "info", span, 0, message)


def _archived(sources: Sources, stored: Stored, mine: pa.Table, rules: Row) -> Iterator[Finding]:
    """What each file of the archive says that holds a part of what is covered; `rules` are those of the contract, if known."""
    series, read = stored.partition.series, coverage.by_file(stored.coverage)
    covered = union(entry.span.intersect(stored.partition.period) for entry in stored.coverage)
    files, _ = sources.files(series, TimeRange(covered[0].start, covered[-1].end), alone=True) if covered else ((), True)
    onboard, ends = (time if isinstance(time := rules.get(name), int) else None for name in ("onboard_time", "delivery_time"))
    for file in files:
        if not (span := intersection(covered, [file.span])):
            continue
        zipped = sources.archive.fetch(series, file)
        rows, findings, _ = quality.admissible(
            series,
            zipped.rows,
            file,
            onboard=onboard,
            ends=ends,
            listed=rules.get("status") == "TRADING",
            has_days=lambda span: sources.archive.has_days(series, span),
        )
        entries = read.get(file.key, [])
        yield from (*findings, *_republications(series, entries, zipped.sha256))
        # What was read from that very file must be as it is there.
        own = intersection(span, subtract((entry.span for entry in entries if entry.sha256 == zipped.sha256), stored.holes))
        yield from _differences(series, mine, rows, own, "the file of the archive that they come from", worst="error")
        yield from _differences(series, mine, rows, subtract(span, own), "the archive")


def _republications(series: Series, entries: Sequence[Coverage], present: str) -> Iterator[Finding]:
    """Of which former publications of a file rows are stored, and whether the `present` one was read and lacks them."""
    former: dict[tuple[str | None, bool], list[TimeRange]] = defaultdict(list)
    for entry in entries:
        if entry.sha256 != present:
            former[entry.sha256, entry.latest == present].append(entry.span)
    for (digest, lacks), spans in former.items():
        message = f"{entries[0].key} was published again: its SHA-256 was {digest} and is {present}"
        message += ", which lacks these rows, so that they stay" if lacks else ""
        yield Finding(series, "republished", "warning", TimeRange(spans[0].start, spans[-1].end), 1, message)


def _sampled(sources: Sources, stored: Stored, mine: pa.Table) -> Iterator[Finding]:
    """What two pages say of what is stored: the newest, and one that the file's name decides."""
    series = stored.partition.series
    if stored.first is None or stored.last is None:
        return
    endpoint = registry.dataset(series.dataset).endpoints[series.market]
    limit = planning.page_tier(endpoint, (), 1.0).limit
    width = limit * (registry.interval(series.interval).typical_step if series.interval else planning.TYPICAL_SETTLEMENT)
    width = min(width, (registry.market(series.market).max_span or MAX_TIME) - 1)
    room = max(1, stored.last + 1 - stored.first - width)
    chosen = stored.first + zlib.crc32(f"{series} {stored.partition.name}".encode()) % room
    for start in {max(stored.first, stored.last + 1 - width), chosen}:
        span = TimeRange(start, min(start + width, stored.last + 1))
        rows = (span.end - span.start) // (width // limit) + 1
        pages = sources.rest.answer([series], Window(span, limit, 1, endpoint.weight(limit), rows))[series]
        merged, _, conflict = normalize.merge_pages(series, pages)
        if conflict:
            raise conflict
        yield from _differences(series, mine, merged, [span], "REST")


def _differences(
    series: Series, mine: pa.Table, others: pa.Table, spans: Sequence[TimeRange], whose: str, *, worst: Severity = "warning"
) -> Iterator[Finding]:
    rows, theirs = (normalize.inside(series, table, spans) for table in (mine, others))
    yield from checks.of_difference(series, rows, theirs, whose, worst=worst)


def _of_year(store: Store, unit: Sequence[tuple[Series, Path]], lives: Sequence[TimeRange]) -> Iterator[_Checked]:
    """One symbol's files of a year, the finest interval first, so that the others can be compared with its sums."""
    sound: dict[Series, list[pa.Table]] = {}
    for series, path in unit:
        try:
            stored = store.read(series, path)
            rows = store.rows(stored.partition)
            if wrong := store.foreign_columns(stored.partition):
                raise Damaged(f"{path} has other columns than {series.dataset}: {wrong}; etl repair fetches it again", path)
        except LakeError as error:
            period = store.period(path) or TimeRange(0, 0)
            unreadable = Finding(series, "unreadable", "error", period, 1, str(error))
            yield _Checked(series, 0, [unreadable], None, error if isinstance(error, Damaged) else None)
            continue
        findings = list(_of_file(series, stored, rows, lives))
        if foreign := [replace(finding, times=()) for finding in findings if finding.check == "period"]:
            elsewhere = Damaged(f"{path} has rows that belong into other files", path)
            yield _Checked(series, len(rows), foreign, None, elsewhere)
            continue
        contradicted: list[tuple[Series, TimeRange]] = []
        left = good = _without_errors(series, rows, findings)
        for finer, tables in sound.items() if series.interval else ():
            if finer != series and len(left):
                sums, left = checks.of_intervals(series, left, finer, pa.concat_tables(tables))
                findings += sums
                contradicted += [(finer, span) for finding in sums for span in mend.about(series, finding.times)]
        sound.setdefault(series, []).append(good)
        settled = None if series.interval else times_of(series.dataset, rows)
        yield _Checked(series, len(rows), findings, stored, None, contradicted, settled, checks.still(series, rows))


def _without_errors(series: Series, rows: pa.Table, findings: Sequence[Finding]) -> pa.Table:
    """The rows that no error names, in order; none where they are in none."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if any(finding.check in {"order", "duplicate"} for finding in errors):
        return rows.slice(0, 0)
    return normalize.outside(series, rows, [TimeRange(time, time + 1) for finding in errors for time in finding.times])


def _of_file(series: Series, stored: Stored, rows: pa.Table, lives: Sequence[TimeRange]) -> Iterator[Finding]:
    times = times_of(series.dataset, rows)
    yield from checks.of_rows(series, rows, stored.partition.period)
    yield from checks.of_coverage(series, times, union(entry.span for entry in stored.coverage), stored.holes)
    yield from checks.of_life(series, times, lives)
    rest, archive = ([entry.span for entry in stored.coverage if entry.source == source] for source in ("rest", "archive"))
    denied = intersection(stored.holes, intersection(rest, archive))
    within = [hole for hole in denied if hole.end - hole.start < registry.BETWEEN_LIVES]
    yield from _absent(series, "outage", "info", within, "no source has them")
    one = subtract(stored.holes, denied)
    yield from _absent(series, "missing", "warning", one, "one source answered without them, the other was not asked")
    yield from _absent(series, "lost", "warning", stored.lost, "they could not be asked for; run etl update")


def _of_skips(series: Series, files: Sequence[_Checked], lives: Sequence[TimeRange], contracts: Sequence[Row]) -> _Checked:
    """The settlements that lack in a series, by all of its files: what is due at the end of one may stand in the next."""
    times = np.concatenate([np.empty(0, np.int64), *(one.settled for one in files if one.settled is not None)])
    entries = [entry for one in files if one.stored for entry in one.stored.coverage]
    rest, archive = ([entry.span for entry in entries if entry.source == source] for source in ("rest", "archive"))
    denied = intersection(rest, archive)
    due: list[int] = []
    stretches: list[TimeRange] = []
    outages: list[TimeRange] = []
    zipped = [span for one in files if one.stored for span in _zipped(one.stored)]
    emptied = [span for span in zipped if not ((times >= span.start) & (times < span.end)).any()]
    lived = union([*_settling(series, times, contracts), *intersection(emptied, lives or [ALWAYS])])
    for skip in checks.skipped(times, [*rest, *archive], lived):
        asked = [part for part in subtract([skip.span], denied) if any(time in part for time in skip.due)]
        stretches += asked
        due += [time for time in skip.due if any(time in part for part in asked)]
        if not asked and skip.span.end - skip.span.start < registry.BETWEEN_LIVES:
            outages.append(skip.span)
    findings = [*checks.of_skips(series, due), *_absent(series, "outage", "info", outages, "no source has them")]
    return _Checked(series, 0, findings, doubtful=[(series, stretch) for stretch in stretches])


def _settling(series: Series, times: Times, contracts: Sequence[Row]) -> list[TimeRange]:
    """When there were settlements for certain: from the first to the last one that is stored, and while a perpetual contract
    had bars.
    """
    known = [TimeRange(int(times.min()), int(times.max()) + 1)] if len(times) else []
    return known + [span for row in contracts if _is_perpetual(series, row) for span in _lived(row)]


def _lived(row: Row) -> list[TimeRange]:
    """While the contract had bars for certain: from when it was listed for long, or had a first one, until its last one, or for
    ever while it trades; nothing where nobody knows.
    """
    listed, first, last = ((time if isinstance(time, int) else None) for time in map(row.get, _BOUNDS))
    begins = [time + margin for time, margin in ((listed, LISTED_LONG), (first, DAY)) if time is not None]
    ends = MAX_TIME if row["status"] == "TRADING" else (last or 0) - DAY
    return [TimeRange(min(begins), ends)] if min(begins, default=MAX_TIME) < ends else []


_BOUNDS = ("onboard_time", "first_time", "last_time")


def _is_perpetual(series: Series, row: Row) -> bool:
    """Whether the contract has settlements; where nobody told its type, by its name: others end with their date of delivery."""
    told = row["contract_type"]
    return "PERPETUAL" in str(told) if told is not None else not _has_date(series)


def _has_date(series: Series) -> bool:
    return series.symbol.rpartition("_")[2].isdigit()


def _of_edges(
    series: Series, files: Sequence[Stored], contracts: Sequence[Row], lives: Sequence[TimeRange], *, finest: bool
) -> Iterator[Finding]:
    """Rows that are gone from the beginning or the end of a file, or all of them, where the series lived: between its first and
    its last row, and of klines while the latest contract lived, whose first and last bar the finest ones told; of other prices
    up to now if it trades; also where a file of the archive was read of which no row is left: that one had some. Where no file
    has any, on the last day that was asked.
    """
    rows = {
        file.path: TimeRange(file.first, _next(series, file.last))
        for file in files
        if file.first is not None and file.last is not None
    }
    certain = [span for row in contracts for span in _lived(row)]
    zipped = [span for file in files for span in _zipped(file) if not span.intersect(rows.get(file.path, _NEVER))]
    emptied = [part for span in zipped if intersection([span], certain) for part in intersection([span], lives)]
    latest = _lived(contracts[-1]) if contracts else []
    told = [time for name in _BOUNDS[1:] if finest and latest and isinstance(time := contracts[-1][name], int)]
    spans = [*rows.values(), *emptied]
    if series.dataset == "klines":
        spans += [*latest, *(TimeRange(time, time + 1) for time in told)]
    elif latest and contracts[-1]["status"] == "TRADING":
        if spans:
            spans.append(TimeRange(spans[0].start, MAX_TIME))
        elif not _has_date(series):  # a perpetual contract that trades has such prices now, whenever they began
            spans.append(TimeRange(max(_asked_last(files), latest[0].start), MAX_TIME))
    life = TimeRange(min((span.start for span in spans), default=0), max((span.end for span in spans), default=0))
    for file in files:
        # Of what the archive has no file for it proves nothing.
        entries = (entry.span for entry in file.coverage if entry.source == "rest" or entry.key)
        covered = intersection(entries, [file.partition.period])
        lived = [life] if file.rows else [life, *intersection(_zipped(file), lives or [ALWAYS])]
        yield from checks.of_edges(series, rows.get(file.path, _NEVER), covered, file.holes, lived)


def _of_still(series: Series, files: Sequence[Stored], parts: Sequence[checks.Still], *, trades: bool) -> Iterator[Finding]:
    """Rows of the archive that tell nothing new up to the end of a contract, or from its beginning, before which was asked."""
    week = registry.BETWEEN_LIVES
    lived = union(TimeRange(life.start, life.end + week) for part in parts for life in part.lived)
    entries = [entry for file in files for entry in file.coverage]
    asked, zipped = union(entry.span for entry in entries), [entry.span for entry in entries if entry.sha256]
    begins = {life.start for life in lived if any(span.start < life.start <= span.end for span in asked)}
    ends = {life.end - week for life in lived[: -1 if trades else None]}
    runs = [run for part in parts for run in part.runs]
    for span in union(span for span, _ in runs):
        if (span.start in begins or span.end in ends) and intersection([span], zipped):
            rows = sum(count for run, count in runs if intersection([run], [span]))
            what = f"{rows} bars without content" if series.interval else f"{rows} settlements of one rate"
            where = "at the end, up to" if span.end in ends else "at the beginning, until"
            why = "a quiet time, or the archive's filling outside of the contract's life"
            message = f"{what} {where} {iso(span.end)}, first {iso(span.start)}: {why}"
            yield Finding(series, "flat", "warning", span, rows, message)


def _asked_last(files: Sequence[Stored]) -> int:
    """The beginning of the last day that was asked for on that day or the next one, MAX_TIME where the past was asked for."""
    ends = [entry.span.end for file in files for entry in file.coverage if entry.checked - DAY < entry.span.end]
    return max(ends, default=MAX_TIME + DAY) - DAY


def _zipped(stored: Stored) -> list[TimeRange]:
    """The days and months of which the archive's file was read, and not only in part."""
    series = stored.partition.series
    read = [entry for entry in stored.coverage if entry.sha256]
    on_grid = registry.interval(series.interval).on_grid if series.interval else lambda span: span
    whole = {
        (on_grid(file.span), file.key)
        for entry in read
        for kind in get_args(publication.Kind)
        for file in [publication.file_of(series, kind, entry.span.start)]
    }
    return [entry.span for entry in read if (on_grid(entry.span), entry.key) in whole]


def _of_absent_files(
    store: Store, series: Series, files: Sequence[Stored], lives: Sequence[TimeRange], waiting: int | None
) -> Iterator[Finding]:
    """The periods that lie between what is stored, or behind the time since when the series is wanted, and have no file; or
    that it has none at all, although it was asked for since the time for which it is `waiting`.
    """
    paths = store.paths(series)
    if not paths and waiting is not None:
        message = f"nothing is stored, although it was asked for since {iso(waiting)}: that run was cut short; run etl update"
        yield Finding(series, "lost", "warning", TimeRange(waiting, waiting), 1, message)
        return
    if not paths:
        message = "its folder is there and has no file; etl backfill with its name and its start fetches it again"
        yield Finding(series, "uncovered", "warning", TimeRange(0, 0), 1, message)
        return
    spans = [span for file in files for span in (*(entry.span for entry in file.coverage), *file.lost)]
    since = [file.wanted for file in files if file.wanted is not None]
    if not spans:
        return
    begin = max(min([*since, *(span.start for span in spans)]), registry.market(series.market).first_time)
    whole = TimeRange(min(begin, spans[0].start), max(span.end for span in spans))
    absent = intersection(subtract([whole], spans), lives or [whole])
    for partition in store.partitions(series, whole):
        gone = intersection(absent, [partition.period]) if store.path(partition) not in paths else ()
        count = sum(registry.interval(series.interval).count(span) for span in gone) if series.interval else len(gone)
        if count:
            what = f"{count} bars" if series.interval else "the settlements"
            span = TimeRange(gone[0].start, gone[-1].end)
            # No error: ranges apart may have been asked for on purpose, and nothing tells that from a file that was deleted.
            where = f"{store.path(partition)} is not there: it was deleted, or never fetched"
            message = f"{where}; {what} of {span} are in no other file; etl repair asks for them"
            yield Finding(series, "uncovered", "warning", span, count, message)


def _next(series: Series, time: int) -> int:
    return registry.interval(series.interval).next(time) if series.interval else time + 1


def _absent(series: Series, check: str, severity: Severity, spans: Sequence[TimeRange], why: str) -> Iterator[Finding]:
    count = sum(registry.interval(series.interval).count(span) for span in spans) if series.interval else len(spans)
    if not count:  # as where the sources' answers end between the opens of two weeks
        return
    what = "bars" if series.interval else "stretches of settlements"
    message = f"{count} {what} are not stored, first {iso(spans[0].start)}: {why}"
    yield Finding(series, check, severity, TimeRange(spans[0].start, spans[-1].end), count, message)


def _lives(store: Store, market: str) -> dict[str, list[TimeRange]]:
    """When contracts lived, by symbol, as far as the exchange's rules or the lake tell."""
    found: dict[str, list[TimeRange]] = {}
    for symbol, rows in Symbols(store.root, market).contracts().items():
        begins = [
            min((time for time in (row["onboard_time"], row["first_time"]) if isinstance(time, int)), default=0) for row in rows
        ]
        ends = [row["delivery_time"] if isinstance(row["delivery_time"], int) else ended(row) for row in rows]
        found[symbol] = [
            TimeRange(max(0, begin - _ROUND_A_LIFE), max(begin, min(MAX_TIME, end + _ROUND_A_LIFE)))
            for begin, end in zip(begins, ends, strict=True)
        ]
    return {symbol: list(union(lives)) for symbol, lives in found.items()}


def _rank(finding: Finding) -> tuple[int, str, int, str]:
    return SEVERITIES.index(finding.severity), str(finding.series), finding.span.start, finding.check


def _step(series: Series) -> int:
    return registry.interval(series.interval).typical_step if series.interval else 0
