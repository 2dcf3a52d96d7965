"""One job: ask its windows, ask the next source for what they lack, and replace the partitions by what was answered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import pyarrow as pa

from . import coverage, mend, publication, registry
from . import plan as planning
from .errors import BadAnswer, Cancelled, EtlError, NotPublished, NotServed, Refused
from .grid import Times
from .lake.store import Store
from .mend import Fresh
from .model import ArchiveFile, Coverage, Finding, Job, Partition, Receipt, Series, Source, Window
from .ranges import DAY, MAX_TIME, TimeRange, intersection, iso, subtract, union
from .schema import times as times_of
from .transform import normalize, quality

# A contract that trades has bars since its listing. They begin up to a day after `onboardDate` (binance-facts 5); so long after
# it there is nothing to ask.
LISTED_LONG = 30 * DAY

# So many files of days are asked for by their names; of more a listing tells which there are.
FEW_FILES = 4


class Rest(Protocol):
    """The exchange's pages: `extract.rest.RestSource`."""

    def first_bar(self, series: Series, start: int) -> int | None:
        """The open of the first bar at or after `start` (ms UTC), None where there is none."""

    def answer(self, series: Sequence[Series], window: Window) -> dict[Series, list[pa.Table]]:
        """The pages that hold the rows of the window, by series."""


class Zip(Protocol):
    """A file of the archive, verified and decoded: `extract.archive.Bulk`."""

    @property
    def rows(self) -> pa.Table:
        """All rows of the file, in its order."""

    @property
    def sha256(self) -> str:
        """Its digest."""

    @property
    def etag(self) -> str | None:
        """Its version."""


class Archive(Protocol):
    """The bulk archive: `extract.archive.ArchiveSource`."""

    def daily(self, series: Series, span: TimeRange) -> Sequence[ArchiveFile]:
        """The files of days that the listing names."""

    def has_days(self, series: Series, span: TimeRange) -> bool:
        """Whether there are such files, as far as anybody knows."""

    def fetch(self, series: Series, file: ArchiveFile) -> Zip:
        """The file; NotPublished where there is none."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What the exchange says of a contract, ms UTC, None where it says nothing: since when it is listed, when it ends, since
    when it trades, if it does; and whether it knows of it at all.
    """

    onboard: int | None = None
    ends: int | None = None
    trades: int | None = None
    listed: bool = False


@dataclass(slots=True)
class _Group:
    """The answers of one source in one round, and the rows they brought; where only some was lacking, the rows of that."""

    source: Source
    answers: list[Coverage] = field(default_factory=list)
    tables: dict[Series, list[pa.Table]] = field(default_factory=lambda: defaultdict(list))
    has: dict[str | None, list[TimeRange]] = field(default_factory=lambda: defaultdict(list))
    """Where each file has such rows, by its key."""


class _Answer(NamedTuple):
    """What one window brought; `filled` as `quality.admissible` says it."""

    coverage: Coverage
    tables: dict[Series, list[pa.Table]]
    findings: Sequence[Finding] = ()
    filled: tuple[TimeRange, ...] = ()


@dataclass(slots=True)
class _Found:
    """What a job has learnt so far."""

    groups: list[_Group] = field(default_factory=list)
    failures: list[tuple[Window, EtlError]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    tried: set[str] = field(default_factory=set)
    filled: tuple[TimeRange, ...] = ()
    """Where files held only filling, outside of the contract's life."""
    unread: list[TimeRange] = field(default_factory=list)
    """What of the last round's files of days could not be had, which the month's file may hold."""

    def spans(self, source: Source) -> tuple[TimeRange, ...]:
        """What the source was asked for, whatever it answered."""
        answered = [answer.span for group in self.groups if group.source == source for answer in group.answers]
        return union([*answered, *(window.span for window, _ in self.failures if window.source == source)])

    def nothing(self, source: Source, spans: Sequence[TimeRange], today: int) -> None:
        """The source is known to have nothing there."""
        if spans:
            self.groups.append(_Group(source, [Coverage(span, source, today) for span in spans]))

    def unanswered(self, lacking: Sequence[TimeRange]) -> None:
        """What REST failed to answer stays so, where the archive did not bring it; so does what a file that could not be read
        may hold, where all that is known besides is that there is no other file.
        """

        def lost(source: Source) -> tuple[TimeRange, ...]:
            failed = (
                window.span for window, error in self.failures if window.source == source and not isinstance(error, NotServed)
            )
            return intersection(lacking, failed)

        of_rest, of_archive = lost("rest"), lost("archive")
        for group in self.groups:
            unfiled = of_archive if group.source == "archive" else ()
            group.answers = [
                replace(answer, span=span)
                for answer in group.answers
                for span in subtract([answer.span], [*of_rest, *(() if answer.key else unfiled)])
            ]


@dataclass(frozen=True, slots=True)
class Worker:
    """Runs jobs against one lake, from several threads at once.

    `threads` ask the windows of a job, `cores` bring its rows together and write them; `now(market)` is the exchange's clock,
    `listing(series)` what is known of the contract; `answered(rows)` is told of each window that was answered, with the rows
    that the plan expected.
    """

    store: Store
    rest: Rest
    archive: Archive
    threads: Executor
    cores: Executor
    now: Callable[[str], int]
    listing: Callable[[Series], Listing] = lambda _: Listing()
    answered: Callable[[int], None] = lambda _: None

    def run(self, job: Job) -> Receipt:
        """Fetch what the job asks for and store it; what was answered is kept also when a part of it failed."""
        first = job.series[0]
        now = self.now(first.market)
        today = now - now % DAY
        found = _Found()
        found.nothing("rest", job.empty if "rest" in job.sources else (), today)
        found.nothing("archive", intersection(job.empty, job.silent), today)
        windows: Iterable[Window] = job.windows
        lacking: tuple[TimeRange, ...] | None = None
        rounds: list[tuple[list[_Group], tuple[TimeRange, ...]]] = []
        while windows:
            known = len(found.groups)
            self._round(job, [page for window in windows for page in planning.pages(first, window)], lacking, found)
            if "archive" not in job.sources or any(isinstance(error, Cancelled) for _, error in found.failures):
                break
            lacking = _lacking(job, found)
            rounds.append((found.groups[known:], lacking))
            windows = self._next(job, lacking, found, now)
            found.unread.clear()
            if not windows:
                # Also outside of the contract's life, where nothing can lack: else it would be asked again.
                failed = [window.span for window, _ in found.failures]
                asked = [*lacking, *subtract((window.span for window in job.windows), failed)]
                found.nothing("rest", intersection(asked, [TimeRange(0, job.rest_from)]), today)
                found.nothing("archive", intersection(asked, job.silent), today)
        if first.interval and rounds:
            found.findings += _incomplete(first, rounds)
            found.unanswered(rounds[-1][1])
        return self.cores.submit(self._store, job, found).result()

    # Asking

    def _next(self, job: Job, lacking: Sequence[TimeRange], found: _Found, now: int) -> tuple[Window, ...]:
        """Who is asked next; of many days that are no news only those that a listing names, as beyond the end of a contract."""
        windows = planning.next_windows(job, lacking, found.spans("rest"), found.tried, now, unread=found.unread)
        files = [window.file for window in windows if window.file and publication.is_daily(window.file)]
        old = [file for file in files if publication.overdue(file.span, now)]
        if len(old) <= FEW_FILES:
            return windows
        try:
            span = TimeRange(min(file.span.start for file in old), max(file.span.end for file in old))
            listed = {file.key for file in self.archive.daily(job.series[0], span)}
        except EtlError:  # then each is asked for, and says itself what is wrong
            return windows
        absent = [file for file in old if file.key not in listed]
        found.tried.update(file.key for file in absent)
        found.nothing("archive", intersection(lacking, [file.span for file in absent]), now - now % DAY)
        return planning.next_windows(job, lacking, found.spans("rest"), found.tried, now, unread=found.unread)

    def _round(self, job: Job, windows: Sequence[Window], lacking: tuple[TimeRange, ...] | None, found: _Found) -> None:
        groups: dict[Source, _Group] = {"archive": _Group("archive"), "rest": _Group("rest")}
        futures = {self.threads.submit(self._answer, job, window, found.filled): window for window in windows}
        try:
            for future in as_completed(futures):
                window = futures[future]
                if future.cancelled():
                    continue
                if window.file is not None:
                    found.tried.add(window.file.key)
                try:
                    answer, tables, findings, filled = future.result()
                except EtlError as error:
                    self._failed(job, window, error, groups, found)
                    if isinstance(error, Cancelled):  # those that are done already count
                        for waiting in futures:
                            waiting.cancel()
                    continue
                group = groups[window.source]
                group.answers.append(answer)
                found.findings += findings
                found.filled += filled
                for series, some in tables.items():
                    came = some if lacking is None else [normalize.inside(series, one, lacking) for one in some]
                    group.tables[series] += came
                    if answer.key:
                        bare = _nothing(series, normalize.moments(series, came), [answer.span])
                        group.has[answer.key] += subtract([answer.span], bare)
                self.answered(window.rows)
        finally:
            for future in futures:
                future.cancel()
        found.groups += [group for group in groups.values() if group.answers]

    def _answer(self, job: Job, window: Window, filled: Sequence[TimeRange]) -> _Answer:
        first = job.series[0]
        now = self.now(first.market)
        today = now - now % DAY
        interval = registry.interval(first.interval) if first.interval else None
        # A file of a month ends within a week: what follows up to the next open is told, too.
        span = TimeRange(window.span.start, interval.ceil(window.span.end)) if interval else window.span
        if window.file is None:
            return _Answer(Coverage(span, "rest", today), self.rest.answer(job.series, window))
        zipped = self.archive.fetch(first, window.file)
        listing = self.listing(first)
        rows, findings, outside = quality.admissible(
            first,
            zipped.rows,
            window.file,
            onboard=listing.onboard,
            ends=listing.ends,
            listed=listing.listed,
            filled=filled,
            has_days=lambda span: self.archive.has_days(first, span),
        )
        # The listing's version, where it has named one: it is what later listings are compared with.
        version = window.file.etag or zipped.etag
        answer = Coverage(span, "archive", today, window.file.key, zipped.sha256, version)
        return _Answer(answer, {first: [normalize.inside(first, rows, [window.span])]}, findings, outside)

    def _failed(self, job: Job, window: Window, error: EtlError, groups: dict[Source, _Group], found: _Found) -> None:
        """A file that is not there is an answer, if it is too old to come and no listing named it; so is the refusal to tell
        of a contract what lies behind its end.
        """
        now = self.now(job.series[0].market)
        if window.file is not None and publication.is_daily(window.file):
            found.unread.append(window.span)
        if isinstance(error, NotServed) and window.file is None:
            behind = subtract([window.span], [TimeRange(0, job.life.end)])
            groups["rest"].answers += [Coverage(span, "rest", now - now % DAY) for span in behind]
            if behind == (window.span,):
                return
        if isinstance(error, NotPublished) and window.file is not None and not window.file.listed:
            if publication.overdue(window.file.span, now):
                groups["archive"].answers.append(Coverage(window.span, "archive", now - now % DAY))
            return
        found.failures.append((window, error))

    # Storing

    def _store(self, job: Job, found: _Found) -> Receipt:
        written = partitions = 0
        errors: list[tuple[Series, EtlError]] = []
        for series in job.series:
            try:
                mine = [partition for partition in job.partitions if partition.series == series]
                fresh = []
                for group in found.groups:
                    rows, answers, conflict = self._rows(series, group)
                    errors += [(series, conflict)] if conflict else []
                    fresh.append(Fresh(group.source, answers, rows, group.has))
                if not (errors or found.failures or any(len(one.rows) for one in fresh)):
                    self._doubt(job)
                failed = (window.span for window, _ in found.failures)
                lost = subtract((*job.lost, *failed), [answer.span for one in fresh for answer in one.answers])
                for partition, since in self._places(mine, fresh, lost):
                    replaced = self._replace(partition, since, fresh, lost, job)
                    if replaced is not None:
                        partitions += 1
                        written += replaced.rows
                        found.findings += replaced.findings
            except EtlError as error:
                errors.append((series, error))
        covered = [answer.span for group in found.groups for answer in group.answers]
        for window, failure in found.failures:
            if subtract([window.span], covered):
                errors += [(series, _hopeless(failure, window, job)) for series in job.series]
            else:
                found.findings.append(_replaced(job.series[0], window, failure))
        worst = next(
            (each for each in errors if isinstance(each[1], Refused | Cancelled)), errors[0] if errors else (None, None)
        )
        return Receipt(job, written, partitions, tuple(found.findings), worst[1], tuple(dict(reversed(errors)).items()))

    def _doubt(self, job: Job) -> None:
        """Where no probe was needed and yet no bar came, ask for the first one after all: a burst of empty pages is no hole."""
        series, since = job.series[0], self.listing(job.series[0]).trades
        if series.dataset != "klines" or not job.windows or any(window.file for window in job.windows):
            return
        start, end = job.windows[0].span.start, job.windows[-1].span.end
        if job.life.start != start or since is None or since + LISTED_LONG > start:
            return
        first = self.rest.first_bar(series, start)
        if first is None or first < end:
            raise BadAnswer(
                f"{series}: the exchange answered no bar from {iso(start)} on, but it trades since {iso(since)}; run again"
            )

    def _rows(self, series: Series, group: _Group) -> tuple[pa.Table, list[Coverage], BadAnswer | None]:
        """The rows of a group, sorted, unique and closed, and its answers without the times for which two rows came."""
        rows, disputed, conflict = normalize.merge_pages(series, group.tables.pop(series, []))
        rows = normalize.closed(rows, self.now(series.market))
        if not disputed:
            return rows, group.answers, conflict
        doubt = [TimeRange(time, time + 1) for time in disputed]
        return rows, [replace(one, span=span) for one in group.answers for span in subtract([one.span], doubt)], conflict

    def _places(
        self, partitions: Sequence[Partition], fresh: Sequence[Fresh], lost: Sequence[TimeRange]
    ) -> Iterator[tuple[Partition, int]]:
        """Which partitions record the answers, and since when: its own period's, and what was answered with nothing before it.

        So a series that began in 2024 has no files for the years before; a file has no rows only where it must be the last.
        """
        since = 0
        for index, partition in enumerate(partitions):
            has_rows = any(len(normalize.within(partition.series, one.rows, partition.period)) for one in fresh)
            failed = intersection(lost, [partition.period])
            if has_rows or failed or index == len(partitions) - 1 or self.store.holds(partition):
                yield partition, since
                since = partition.period.end

    def _replace(
        self, partition: Partition, since: int, fresh: Sequence[Fresh], lost: Sequence[TimeRange], job: Job
    ) -> _Written | None:
        """Bring one file up to what was answered; None, and the file untouched, if it says all that already."""
        series = partition.series
        now = self.now(series.market)
        before = self.store.stored(partition)
        entries: Sequence[Coverage] = before.coverage if before else ()
        stored = self.store.rows(partition)
        mended = mend.without(partition, stored, entries, fresh, job.anew) if job.anew else None
        if mended:
            entries = mended.entries
        merged = normalize.Merged(mended.kept if mended else stored, 0, ())
        for one in fresh:
            merged, entries = _with(partition, one, merged, entries, since=since, now=now)
        entries = coverage.joined(entries)
        covered = union(entry.span for entry in entries)
        life = job.life.intersect(partition.period)
        holes = quality.absent(series, times_of(series.dataset, merged.rows), intersection(covered, [life]))
        if not fresh and before:  # nobody was asked: what is absent stays what it was
            holes = before.holes
        elif job.loose:
            holes = _between(holes, times_of(series.dataset, merged.rows), job.life, partition.period)
        wanted = job.wanted if job.wanted is not None or before is None else before.wanted
        answered = [*covered, *(answer.span for one in fresh for answer in one.answers)]  # also what is too young to be denied
        failed = subtract(intersection([*lost, *(before.lost if before else ())], [partition.period]), answered)
        known = (before.coverage, before.holes, before.lost) if before else None
        same, findings = mend.told(series, mended, merged.rows) if mended else (0, [])
        written = merged.new + len(merged.changed) - same
        if not written and known == (entries, holes, failed) and not (mended and not merged.rows.equals(stored)):
            return None
        if not len(merged.rows) and not entries and not failed:
            return None
        if findings:  # wrong as they are: a row is never thrown away
            self.store.keep(partition)
        self.store.replace(partition, merged.rows, entries, holes, wanted=wanted, lost=failed)
        findings += [*_republications(series, before.coverage if before else (), entries), *_changes(series, merged)]
        return _Written(written, findings)


def _with(
    partition: Partition, one: Fresh, merged: normalize.Merged, entries: Sequence[Coverage], *, since: int, now: int
) -> tuple[normalize.Merged, Sequence[Coverage]]:
    """The rows and entries of a file when one source's answers have come, too."""
    series, place = partition.series, TimeRange(since, partition.period.end)
    answers = [replace(answer, span=span) for answer in one.answers for span in intersection([answer.span], [place])]
    if not answers:
        return merged, entries
    spans = union(answer.span for answer in answers)
    # Before the file's period lies only what was answered with nothing.
    early = intersection(spans, [TimeRange(since, partition.period.start)]) if since < partition.period.start else ()
    spans = subtract(spans, early)
    absent = (*early, *_nothing(series, times_of(series.dataset, merged.rows), spans))
    rows, has = normalize.within(series, one.rows, partition.period), one.has
    if one.source == "archive":  # a row of REST stands
        rows = normalize.outside(series, rows, coverage.owned(entries, "rest", absent))
    more = normalize.merge(series, merged.rows, rows)
    times = times_of(series.dataset, more.rows)
    if one.source == "rest":
        young = quality.too_young(series, times, spans, now)
        answers = [replace(answer, span=span) for answer in answers for span in subtract([answer.span], young)]
        has = {None: subtract(spans, _nothing(series, times_of(series.dataset, rows), spans))}
    still = (*early, *_nothing(series, times, spans))
    gave = [*subtract(absent, still), *_moments(series, more.changed)]
    if series.interval is None and one.source == "rest":  # also where they only replaced rows of the archive
        gave = [*has[None]]
    entries = coverage.after(entries, coverage.joined(answers), gave=gave, has=has, still=still)
    return normalize.Merged(more.rows, merged.new + more.new, (*merged.changed, *more.changed)), entries


def _nothing(series: Series, times: Times, spans: Iterable[TimeRange]) -> tuple[TimeRange, ...]:
    """Where in `spans` there are no rows, though there could be, given the sorted `times` of all."""
    return quality.absent(series, times, spans) if series.interval else quality.unsettled(times, spans)


def _moments(series: Series, times: Iterable[int]) -> list[TimeRange]:
    """What rows of those times are about."""
    interval = registry.interval(series.interval) if series.interval else None
    return [TimeRange(time, interval.next(time) if interval else time + 1) for time in times]


@dataclass(frozen=True, slots=True)
class _Written:
    """What a file has got: how many new or changed rows, and what is to be told of them."""

    rows: int
    findings: list[Finding]


def _lacking(job: Job, found: _Found) -> tuple[TimeRange, ...]:
    """What the answers lack so far, and another source may have."""
    series = job.series[0]
    times = normalize.moments(series, (table for group in found.groups for table in group.tables.get(series, ())))
    if series.interval is None:
        return quality.unsettled(times, found.spans("rest"))  # of a re-used ticker REST knows the present contract only
    asked = intersection(union([*found.spans("archive"), *found.spans("rest"), *found.unread]), [job.life])
    runs = quality.absent(series, times, asked)
    unread = intersection(runs, found.unread)
    if job.loose and len(times):
        first, last = int(times[0]), int(times[-1])
        begins = bool(asked) and iso(asked[0].start)[:7] == iso(job.life.start)[:7]
        ends = bool(asked) and asked[-1].end >= job.life.end
        edges = [TimeRange(0, first)] * begins + [TimeRange(last, job.life.end)] * ends
        # A file that is not there says nothing of where the life begins or ends in its month.
        runs = subtract(
            runs, intersection(edges, [answer.span for group in found.groups for answer in group.answers if answer.key])
        )
    return union([*runs, *unread])


def _between(holes: Iterable[TimeRange], times: Times, life: TimeRange, period: TimeRange) -> tuple[TimeRange, ...]:
    """The holes between rows, where a life that only files tell of begins or ends in the period."""
    first, last = (int(times[0]), int(times[-1])) if len(times) else (MAX_TIME, -1)
    begins, ends = life.start >= period.start, life.end <= period.end
    return tuple(hole for hole in holes if not (begins and hole.end <= first) and not (ends and hole.start > last))


def _incomplete(series: Series, rounds: Sequence[tuple[list[_Group], tuple[TimeRange, ...]]]) -> Iterator[Finding]:
    """The files that lack bars which were found elsewhere; what nobody has is a gap and told as such."""
    interval = registry.interval(series.interval or "")
    for groups, lacking in rounds:
        found = subtract(lacking, rounds[-1][1])
        for answer in (answer for group in groups for answer in group.answers if answer.key):
            if spans := intersection(found, [answer.span]):
                rows = sum(interval.count(span) for span in spans)
                message = f"{answer.key} lacks {rows} bars that are there elsewhere, the first of {iso(spans[0].start)}"
                yield Finding(series, "incomplete", "warning", TimeRange(spans[0].start, spans[-1].end), rows, message)


def _changes(series: Series, merged: normalize.Merged) -> list[Finding]:
    if not merged.changed:
        return []
    times = tuple(sorted(merged.changed))
    message = f"{len(times)} stored rows were replaced by different ones, the first of {iso(times[0])}"
    return [Finding(series, "changed", "warning", TimeRange(times[0], times[-1] + 1), len(times), message, times)]


def _republications(series: Series, before: Sequence[Coverage], entries: Sequence[Coverage]) -> list[Finding]:
    known = {key: [entry.latest for entry in some] for key, some in coverage.by_file(before).items()}
    new = {entry.key: entry for entry in entries if entry.key in known and entry.latest not in known[entry.key]}
    return [
        Finding(
            series,
            "republished",
            "warning",
            entry.span,
            1,
            f"{key} was published again: its SHA-256 was {known[key][-1]} and is {entry.latest}",
        )
        for key, entry in sorted(new.items())
    ]


def _hopeless(error: EtlError, window: Window, job: Job) -> EtlError:
    """A file's error with its cure, where no other source has the rows."""
    if window.file is None or not isinstance(error, BadAnswer):
        return error
    return BadAnswer(f"{error}; run again later" + ("" if "rest" in job.sources else ", or without --source archive"))


def _replaced(series: Series, window: Window, error: EtlError) -> Finding:
    """A file that could not be used, where the next source had the rows."""
    rows = registry.interval(series.interval).count(window.span) if series.interval else 0
    return Finding(series, "archive", "warning", window.span, rows, f"another source stands in, because {error}")
