"""What to ask: wanted minus covered, cut into jobs and page windows, with its cost. Pure: a plan can be printed and tested."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

from . import publication, registry
from .model import ArchiveFile, Endpoint, Job, PageTier, Partition, Series, Source, Window
from .ranges import DAY, HOUR, MAX_TIME, MINUTE, SECOND, Interval, TimeRange, intersection, months, subtract, union

# Few pages in all: latency is the brake, take the largest page. That is so while the whole plan costs at most this share of one
# minute's weight; beyond it weight is the brake, and the thriftiest page brings the most rows (binance-facts 11).
LATENCY_SHARE = 0.5

# Settlements of one symbol are 8 h apart or less; the estimate feeds --dry-run only. A longer range may need several pages.
TYPICAL_SETTLEMENT = 8 * HOUR
SEVERAL_PAGES = registry.DEFAULT_SETTLEMENTS * HOUR
# All symbols at once: 4 h hold one settlement of most symbols, about 711 rows of the 1,000 that fit (binance-facts 2.5).
SHARED_SPAN = 4 * HOUR
SHARED_LONGEST = 7 * DAY

# A history worth a listing of the archive.
MONTH = 31 * DAY

# Rows after the announced end of a contract are not expected, but looked for from here on with one cheap request.
AFTERLIFE = DAY

# What decides between the sources, in seconds of a run that keeps several requests going: a round trip's share, a byte of the
# archive's, and (from the market) a unit of weight. A file is two requests, for its CHECKSUM and itself.
TRIP_S = 0.02
BYTE_S = 1e-7
FILE_REQUESTS = 2
# A zipped bar: 48 bytes in a real day of 1m bars (binance-facts 9.3).
BYTES_PER_BAR = 48
# What no allowed source but the archive can bring is worth any file.
UNREACHABLE_S = 1e6

Partitions = Callable[[Series, TimeRange], list[Partition]]


@dataclass(frozen=True, slots=True)
class Want:
    """One series as the planner sees it: the wanted `span`, what the lake has of it, and what is known of its life (ms UTC)."""

    series: Series
    span: TimeRange
    covered: tuple[TimeRange, ...] = ()
    first_row: int | None = None
    """The first row that is stored."""
    ends: int = MAX_TIME
    """When the contract was delivered or delisted."""
    onboard: int | None = None
    """When the contract was listed, where the exchange says it."""
    first_bar: int | None = None
    """The first bar at or after the beginning of what is missing: the answer of a probe, or what needs none."""
    probed: bool = False
    wanted: int | None = None
    """Since when the series is wanted, by this run or an earlier one."""
    sources: tuple[Source, ...] = ("rest",)
    """Who may be asked."""
    files: tuple[ArchiveFile, ...] = ()
    """What the archive has of the series, or should have; of files that overlap the plan takes the cheapest."""
    reread: tuple[ArchiveFile, ...] = ()
    """Files that were read, and published again since."""
    silent: tuple[TimeRange, ...] = ()
    """Where a listing names no file, and none is to come."""
    rest_only: tuple[TimeRange, ...] = ()
    """What the archive is not asked for: the look-back of what came from REST, and what the archive answered without."""
    archive_only: tuple[TimeRange, ...] = ()
    """What REST is not asked for, because it answered without."""
    settles: int = TYPICAL_SETTLEMENT
    """How far apart settlements are, as far as anybody says (ms)."""
    anew: tuple[TimeRange, ...] = ()
    """What is covered, and missing all the same, because the stored rows there are wrong."""

    @property
    def missing(self) -> tuple[TimeRange, ...]:
        """Wanted and not covered; what holds no open, as a part of a week, is not."""
        spans = subtract([self.span], subtract(self.covered, self.anew))
        return tuple(span for span in spans if _grid(self.series).count(span)) if self.series.interval else spans

    @property
    def needs_probe(self) -> bool:
        """Whether REST should be asked for the first bar: something is missing before anything is known of the series."""
        if self.series.interval is None or self.probed or self.first_bar is not None or "rest" not in self.sources:
            return False
        missing = self.missing
        if not missing or (self.first_row is not None and missing[0].start >= self.first_row):
            return False
        return not any(file.listed and file.span.end <= missing[0].start for file in self.files)

    @property
    def empty(self) -> tuple[TimeRange, ...]:
        """The missing ranges that were answered with nothing: those before the first bar that a probe found, outside of files.

        Where only the archive may be asked: those where it is silent.
        """
        left_to_archive = intersection(self.missing, self.archive_only if "rest" in self.sources else self.missing)
        unfiled = subtract(self.missing, [file.span for file in self.files])
        return union([*intersection(left_to_archive, self.silent), *intersection(unfiled, [TimeRange(0, self.rest_from)])])

    @property
    def rest_from(self) -> int:
        """REST has nothing before this, as far as a probe has shown."""
        known = (time for time in (self.first_row, self.first_bar) if time is not None)
        return min(known, default=MAX_TIME) if self.probed else 0

    @property
    def rest_missing(self) -> tuple[TimeRange, ...]:
        """What of `missing` REST may be asked for."""
        return subtract(self.missing, self.archive_only) if "rest" in self.sources else ()

    def in_reach(self, spans: Iterable[TimeRange]) -> tuple[TimeRange, ...]:
        """The parts of the spans that REST can be asked for."""
        return subtract(spans, [TimeRange(0, self.rest_from), *self.archive_only]) if "rest" in self.sources else ()

    @property
    def life(self) -> TimeRange:
        """From the first known row, or the first file, to the announced end; empty where a probe found no row at all."""
        known = [time for time in (self.first_row, self.first_bar) if time is not None]
        unknown = 0 if "rest" in self.sources and not self.probed else self.ends
        told = (file.span.start for file in self.files if file.listed or "rest" not in self.sources)
        first = min([*known, *told], default=unknown)
        if "rest" not in self.sources and abs(first - registry.market(self.series.market).archived) < registry.BETWEEN_LIVES:
            first = 0  # the archive's first files: the contract may have lived before
        return TimeRange(min(first, self.ends), self.ends)

    def is_before_listing(self, span: TimeRange) -> bool:
        """Whether some of the span lies before the contract was listed: only files tell what was there."""
        return self.onboard is not None and span.start < self.onboard

    @property
    def loose(self) -> bool:
        """Whether only the files tell when `life` begins or ends."""
        known = (time for time in (self.first_row, self.first_bar) if time is not None)
        return "rest" not in self.sources or (self.probed and self.life.start < min(known, default=self.ends))


def closed_end(interval_name: str | None, now: int) -> int:
    """Where the closed part of a series ends at the exchange's time `now`: the open of the running bar.

    Settlements come at full hours, up to 47 ms late: the minute after the hour belongs to it, the rest of the hour holds none.
    """
    if interval_name is not None:
        return registry.interval(interval_name).floor(now)
    hour = now - now % HOUR
    return min(now, hour + MINUTE)


def wanted(series: Series, start: int, end: int, now: int) -> TimeRange:
    """The part of [start, end) that is closed at `now`, on the grid of the series."""
    end = min(end, closed_end(series.interval, now))
    span = TimeRange(min(start, end), end)
    return _grid(series).on_grid(span) if series.interval else span


def page_tier(endpoint: Endpoint, counts: Sequence[int], minute_weight: float) -> PageTier:
    """The page size for ranges of so many rows: the largest where latency is the brake, the thriftiest where weight is."""
    for tier in reversed(endpoint.tiers):
        if sum(_weight(endpoint, tier, count) for count in counts) <= minute_weight * LATENCY_SHARE:
            return tier
    return endpoint.thriftiest


def _weight(endpoint: Endpoint, tier: PageTier, count: int) -> int:
    pages, rest = divmod(count, tier.limit)
    return pages * tier.weight + (endpoint.weight(rest) if rest else 0)


def plan(wants: Iterable[Want], partitions: Partitions, minute_weight: Callable[[str], float]) -> tuple[Job, ...]:
    """The jobs that fetch what is missing, in the order of the wants; `minute_weight(market)` is what may be spent in a minute.

    What the archive brings more cheaply comes from there. All wants of one dataset and market share a page size for the rest,
    because together they decide which brake holds.
    """
    jobs: list[Job] = []
    for (market, dataset), group in groupby(wants, key=lambda want: (want.series.market, want.series.dataset)):
        todo = [want for want in group if want.missing or want.reread]
        endpoint, weight = registry.dataset(dataset).endpoints[market], minute_weight(market)
        if not registry.dataset(dataset).has_interval:
            jobs += _settlements([want for want in todo if want.rest_missing], endpoint, partitions)
            jobs += [job for want in todo for job in _archived_settlements(want, endpoint, partitions)]
            continue
        pieces = [list(_pieces(want, endpoint, partitions, weight)) for want in todo]
        counts = [
            _grid(want.series).count(span)
            for want, some in zip(todo, pieces, strict=True)
            for piece in some
            for span in piece.rest
        ]
        tier = page_tier(endpoint, counts, weight)
        jobs += [job for want, some in zip(todo, pieces, strict=True) for job in _jobs(want, some, endpoint, tier, partitions)]
    return tuple(jobs)


@dataclass(frozen=True, slots=True)
class _Piece:
    """What is missing of a partition, by who is to bring it."""

    partition: Partition
    archive: list[Window]
    rest: list[TimeRange]


def _grid(series: Series) -> Interval:
    assert series.interval is not None  # noqa: S101 - the caller asks for bars only
    return registry.interval(series.interval)


def _pieces(want: Want, endpoint: Endpoint, partitions: Partitions, minute_weight: float) -> Iterator[_Piece]:
    ask = subtract(want.missing, want.empty)
    price, by_month = _Price(want, endpoint, minute_weight), _by_month(want.files)
    for partition in _places(want, partitions):
        inside = intersection(ask, [partition.period])
        windows = list(_files(want, by_month, price, subtract(inside, want.rest_only)))
        windows += _windows(want.series, want.reread, [partition.period])
        left = subtract(want.in_reach(inside), [window.span for window in windows])
        yield _Piece(partition, _whole(windows), [span for span in left if _grid(want.series).count(span)])


def _places(want: Want, partitions: Partitions) -> list[Partition]:
    return partitions(want.series, _hull([*want.missing, *(file.span for file in want.reread)]))


def _hull(spans: Sequence[TimeRange]) -> TimeRange:
    return TimeRange(min(span.start for span in spans), max(span.end for span in spans))


@dataclass(frozen=True, slots=True)
class _Price:
    """What ways to bring the rows of a span cost, in seconds."""

    want: Want
    endpoint: Endpoint
    minute_weight: float

    def rest(self, spans: Iterable[TimeRange]) -> float:
        """Over REST, in the thriftiest pages; a part of a page costs its part, because the rest of it serves the neighbours."""
        spans = tuple(spans)
        rows, asked = (sum(_grid(self.want.series).count(span) for span in some) for some in (self.want.in_reach(spans), spans))
        tier = self.endpoint.thriftiest
        weight_s = tier.weight * MINUTE / SECOND / max(self.minute_weight, 1e-9)
        return (asked - rows) * UNREACHABLE_S + rows / tier.limit * (weight_s + TRIP_S)

    def files(self, windows: Iterable[Window]) -> float:
        """From the archive."""
        return sum(window.requests * TRIP_S + window.bytes * BYTE_S for window in windows)


def _by_month(files: Iterable[ArchiveFile]) -> dict[str, list[ArchiveFile]]:
    found: dict[str, list[ArchiveFile]] = defaultdict(list)
    for file in files:
        for name, _ in months(file.span):
            found[name].append(file)
    return found


def _files(
    want: Want, by_month: Mapping[str, Sequence[ArchiveFile]], price: _Price, spans: Sequence[TimeRange]
) -> Iterator[Window]:
    """The files that serve the spans more cheaply than REST: month by month the month's zip, those of days, or none.

    Of a month that is only partly wanted the days are asked for by their names: those that would pay are too few for a listing.
    But for one in which a contract may begin or end: only the month's file shows where.
    """
    for name, month in months(_hull(spans)) if spans else ():
        parts = intersection(spans, [month])
        inside = [file for file in by_month.get(name, ()) if intersection([file.span], parts)]
        wholes = [file for file in inside if not publication.is_daily(file)]
        days = [file for file in inside if publication.is_daily(file)]
        if wholes and not days and parts != (month,) and not any(file.opens or file.closes for file in wholes):
            days = [file for part in parts for file in publication.daily_files(want.series, part)]
        by_day = [_whole(_windows(want.series, [day], parts)) for day in dict.fromkeys(days)]
        daily = [
            window for day in by_day for window in day if price.files(day) < price.rest(intersection(parts, [window.span]))
        ]
        ways = [daily, *(_whole(_windows(want.series, [file], parts)) for file in wholes), []]
        yield from min(ways, key=lambda way: price.files(way) + price.rest(subtract(parts, [window.span for window in way])))


def _windows(series: Series, files: Iterable[ArchiveFile], spans: Sequence[TimeRange]) -> list[Window]:
    return [archive_window(series, file, part) for file in files for part in intersection(spans, [file.span])]


def archive_window(series: Series, file: ArchiveFile, span: TimeRange) -> Window:
    """The window that reads the file for what of `span` it holds."""
    span = file.span.intersect(span)
    rows = _grid(series).count(span) if series.interval else max(1, (span.end - span.start) // TYPICAL_SETTLEMENT)
    whole = _grid(series).count(file.span) if series.interval else rows
    return Window(span, 0, FILE_REQUESTS, 0, rows, file, whole * BYTES_PER_BAR if file.size is None else file.size)


def _whole(windows: Iterable[Window]) -> list[Window]:
    """Each file once, for all that is asked of it."""
    by_file: dict[str, Window] = {}
    for window in windows:
        assert window.file is not None  # noqa: S101 - the caller has windows of the archive only
        known = by_file.setdefault(window.file.key, window)
        if known is not window:
            hull = _hull([known.span, window.span])
            by_file[window.file.key] = replace(known, span=hull, rows=known.rows + window.rows)
    return list(by_file.values())


def _jobs(want: Want, pieces: Sequence[_Piece], endpoint: Endpoint, tier: PageTier, partitions: Partitions) -> Iterator[Job]:
    """One job a partition; what is known to be empty goes to the first partition after it, or to the last one there is."""
    empty = want.empty
    for piece in pieces:
        period = piece.partition.period
        rest = [window for span in piece.rest for window in _asks(want, endpoint, tier, span)]
        within_life = period.start > want.life.start and intersection(empty, [period])
        if piece.archive or rest or within_life:  # no bar may open, as between New Year and the first Monday
            before = intersection(empty, [TimeRange(0, period.end)])
            yield _job(want, (piece.partition,), (*piece.archive, *rest), before)
            empty = subtract(empty, before)
    if empty:
        yield _job(want, tuple(partitions(want.series, TimeRange(empty[-1].end - 1, empty[-1].end))), (), empty)


def _job(want: Want, places: tuple[Partition, ...], windows: tuple[Window, ...], empty: tuple[TimeRange, ...] = ()) -> Job:
    rest_from = want.rest_from if "rest" in want.sources else 0
    return Job(
        (want.series,),
        places,
        want.sources,
        windows,
        empty,
        want.life,
        want.loose,
        want.wanted,
        rest_from,
        want.silent,
        want.anew,
        want.files,
    )


def _asks(want: Want, endpoint: Endpoint, tier: PageTier, span: TimeRange) -> Iterator[Window]:
    """`span` over REST; what lies well behind the end of the contract in requests for one row: nothing is denied twice."""
    afterlife = min(_grid(want.series).ceil(min(max(want.ends + AFTERLIFE, span.start), span.end)), span.end)
    alive = TimeRange(span.start, afterlife)
    if _grid(want.series).count(alive):
        yield rest_window(want.series, endpoint, tier, alive)
    if dead := TimeRange(afterlife, span.end):
        requests = 2 * -(-(dead.end - dead.start) // _longest(want.series))
        yield Window(dead, 1, requests, requests * endpoint.weight(1), 0)


def rest_window(series: Series, endpoint: Endpoint, tier: PageTier, span: TimeRange) -> Window:
    """The window that asks REST for the bars of `span` in pages of that tier."""
    rows = _rows_a_page(series, tier.limit)
    full, last = divmod(_grid(series).count(span), rows)
    weight = full * endpoint.weight(rows) + (endpoint.weight(last) if last else 0)
    return Window(span, rows, full + (last > 0), weight, full * rows + last)


def _longest(series: Series) -> int:
    return registry.market(series.market).max_span or MAX_TIME


def _rows_a_page(series: Series, limit: int) -> int:
    """A page's rows where the market also bounds the range; one less, because a span may begin between two opens."""
    return min(limit, _longest(series) // _grid(series).typical_step - 1)


def pages(series: Series, window: Window) -> Iterator[Window]:
    """A window of the plan in pages: of bars over REST one request each. Others are whole.

    They are cut when they are asked, because the pages of a whole universe would fill the memory.
    """
    if window.file is not None or series.interval is None:
        yield window
        return
    endpoint = registry.dataset(series.dataset).endpoints[series.market]
    if not window.rows:
        longest = _longest(series)
        for start in range(window.span.start, window.span.end, longest):
            yield replace(
                window, span=TimeRange(start, min(start + longest, window.span.end)), requests=2, weight=2 * endpoint.weight(1)
            )
        return
    opens = _grid(series).opens(window.span)
    for index in range(0, len(opens), window.limit):
        page = opens[index : index + window.limit]
        end = opens[index + window.limit] if index + window.limit < len(opens) else window.span.end
        start = page[0] if index else window.span.start
        yield Window(TimeRange(start, end), len(page), 1, endpoint.weight(len(page)), len(page))


def next_windows(
    job: Job,
    lacking: Sequence[TimeRange],
    denied: Sequence[TimeRange],
    tried: Collection[str],
    now: int,
    *,
    unread: Sequence[TimeRange] = (),
) -> tuple[Window, ...]:
    """Who is asked next for what the answers lack. For bars: the archive's files of days, or of whole months, that were not
    `tried`, of months also where a day's file could not be had (`unread`); then REST, where it was not asked yet (`denied`).

    Of settlements REST was asked first.
    """
    series = job.series[0]
    named = {file.key: file for file in job.files}
    finest = (file for span in subtract(lacking, job.silent) for file in _finest(series, span, tried))
    months = (file for span in intersection(lacking, unread) for file in publication.monthly_files(series, span))
    names = {file.key: named.get(file.key, file) for file in (*finest, *months)}
    files = [file for key, file in names.items() if key not in tried and publication.due(file, now)]
    windows = [archive_window(series, file, span) for file in files for span in intersection(lacking, [file.span])]
    left = subtract(lacking, [TimeRange(0, job.rest_from), *denied, *(window.span for window in windows)])
    left = left if "rest" in job.sources and series.interval else ()
    endpoint = registry.dataset(series.dataset).endpoints[series.market]
    return (
        *_whole(windows),
        *(rest_window(series, endpoint, endpoint.thriftiest, span) for span in left if _grid(series).count(span)),
    )


def _finest(series: Series, span: TimeRange, tried: Collection[str]) -> Iterator[ArchiveFile]:
    """The smallest files that hold `span`, whether or not the archive has them: of a whole month its own, if untried."""
    for _, month in months(span):
        whole = publication.file_of(series, "monthly", month.start)
        if whole.key not in tried and (month == span.intersect(month) or not publication.has_daily(series)):
            yield whole
        else:
            yield from publication.daily_files(series, span.intersect(month))


def listing_helps(want: Want, minute_weight: float, now: int) -> bool:
    """Whether to ask what the archive has: where only it may be asked, where it would be the cheaper source, and where history
    may reach back to a contract that REST does not know.
    """
    missing = subtract(want.missing, want.rest_only)
    if "archive" not in want.sources or not missing:
        return False
    span = _hull(missing)
    if "rest" not in want.sources or (span.end - span.start > MONTH and span.start < (want.first_row or MAX_TIME)):
        return True
    if want.is_before_listing(span):
        return True
    if want.series.interval is None:
        return False
    want = replace(want, files=tuple(publication.expected(want.series, span, now)))
    endpoint = registry.dataset(want.series.dataset).endpoints[want.series.market]
    price, by_month = _Price(want, endpoint, minute_weight), _by_month(want.files)
    return any(True for _ in _files(want, by_month, price, missing))


def _settlements(wants: Sequence[Want], endpoint: Endpoint, partitions: Partitions) -> list[Job]:
    """One job a series, because its pages cross the years; or one for all, where that takes fewer requests."""
    together = _together(wants, endpoint)
    jobs = []
    if together:
        span = _hull([missing for want in together for missing in want.rest_missing])
        cuts = [*range(span.start, span.end, SHARED_SPAN), span.end]
        windows = tuple(
            Window(TimeRange(start, end), endpoint.max_limit, 2, 2 * _price(endpoint), len(together))
            for start, end in pairwise(cuts)
        )
        places = tuple(place for want in together for place in partitions(want.series, span))
        jobs.append(Job(tuple(want.series for want in together), places, ("rest",), windows))
    shared = {want.series for want in together}
    for want in wants:
        if want.series not in shared:
            windows = tuple(_settlement_window(want, endpoint, piece) for piece in want.rest_missing)
            places = tuple(partitions(want.series, _hull(want.rest_missing)))
            job = Job((want.series,), places, want.sources, windows, wanted=want.wanted, silent=want.silent)
            jobs.append(replace(job, anew=want.anew, files=want.files))
    return jobs


def _archived_settlements(want: Want, endpoint: Endpoint, partitions: Partitions) -> Iterator[Job]:
    """What REST cannot be asked for: REST is the better source, it also has mark prices."""
    missing = subtract(want.missing, want.rest_missing)
    pieces = []
    for partition in _places(want, partitions):
        windows = _windows(want.series, want.files, intersection(missing, [partition.period]))
        pieces.append(_Piece(partition, _whole([*windows, *_windows(want.series, want.reread, [partition.period])]), []))
    return _jobs(want, pieces, endpoint, endpoint.thriftiest, partitions)


def _price(endpoint: Endpoint) -> int:
    """Weight of a page of settlements; nothing where they have a pool of their own."""
    return endpoint.weight(endpoint.max_limit) if endpoint.pool == "weight" else 0


def _settlement_window(want: Want, endpoint: Endpoint, span: TimeRange) -> Window:
    since = max(span.start, registry.market(want.series.market).first_time)
    lived = span.intersect(TimeRange(min(max(since, want.onboard or 0), want.ends), want.ends))
    rows = (lived.end - lived.start) // want.settles
    # A full page goes on from its last row. The last page is asked for again, a long one goes on, too; where more should
    # follow, several answers must deny it.
    full, rest = divmod(max(0, rows - 1), endpoint.max_limit - 1)
    overdue = span.end - (lived.end if rows else since) > registry.LONGEST_FUNDING + MINUTE
    last = registry.EXPECTED_DENIALS + (rest + 1 >= registry.DEFAULT_SETTLEMENTS)
    requests = full + (registry.DENIALS if overdue else last)
    # Where the contract was not there the archive is asked for another one of the name.
    others = [one for one in subtract([span], [lived]) if one.end - one.start > DAY]
    filed = [file for file in want.files if "archive" in want.sources and intersection([file.span], others)]
    asked = sum(FILE_REQUESTS if file.listed else 1 for file in filed)
    return Window(span, endpoint.max_limit, requests + asked, requests * _price(endpoint), rows)


def _together(wants: Sequence[Want], endpoint: Endpoint) -> Sequence[Want]:
    """The series whose missing settlements are best asked for without symbol, window by window."""
    if not endpoint.without_symbol:
        return ()
    newest = max((want.rest_missing[-1].end for want in wants), default=0)
    recent = [want for want in wants if want.rest_missing[0].start >= newest - SHARED_LONGEST and not want.anew]
    if not recent:
        return ()
    windows = -(-(newest - min(want.rest_missing[0].start for want in recent)) // SHARED_SPAN)
    return recent if len(recent) > windows else ()


def with_lost(jobs: Sequence[Job], refused: Iterable[Want], partitions: Partitions) -> tuple[Job, ...]:
    """The jobs, and for each want whose REST source refuses this host what nobody is asked for: that is recorded as lost."""
    found = list(jobs)
    for want in refused:
        asked = (span for job in jobs if want.series in job.series for span in (*(w.span for w in job.windows), *job.empty))
        left = [span for span in subtract(want.missing, asked) if not want.series.interval or _grid(want.series).count(span)]
        for place in dict.fromkeys(place for span in left for place in partitions(want.series, span)):
            at = next((index for index, job in enumerate(found) if place in job.partitions), len(found))
            job = found[at] if at < len(found) else _job(want, (place,), ())
            found[at:] = [replace(job, lost=union([*job.lost, *intersection(left, [place.period])])), *found[at + 1 :]]
    return tuple(found)
