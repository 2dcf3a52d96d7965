"""The composition root: owns what is open, turns a selection into wants, a plan into jobs, and jobs into files of the lake."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from copy import copy
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from . import execute, publication, registry
from . import plan as planning
from .config import Settings
from .errors import (
    BadAnswer,
    Cancelled,
    Damaged,
    EtlError,
    LakeError,
    LakeLocked,
    NotPublished,
    NotServed,
    Refused,
    SeriesFailed,
    UsageError,
)
from .extract.http import Http
from .lake import snapshots, views
from .lake.files import check_file, listed, looking_at, quarantined, replace_file
from .lake.store import Store, Stored
from .lake.symbols import Life, Row, Symbols, alive, ended, in_text
from .mend import Wrong
from .model import SOURCES, ArchiveFile, Coverage, Finding, Job, Partition, Receipt, Series, Source
from .plan import Want
from .ranges import DAY, MAX_TIME, MINUTE, TimeRange, intersection, iso, subtract, union
from .sources import Choice, Sources
from .text import meant
from .work import LISTED_LONG, Listing, Worker

_log = logging.getLogger("etl")

# A round trip to the exchange, for the estimate of --dry-run only.
TYPICAL_LATENCY_S = 0.15
# The archive's files for so short a time are asked for by their names: a listing would cost as much.
FEW_DAYS = 3 * DAY

# What stays wrong after a repair, and the series of which nobody could say.
Left = Callable[[], tuple[Sequence[Finding], Sequence[tuple[Series, EtlError]]]]


@dataclass(frozen=True, slots=True)
class Selection:
    """What a user asks for: every combination of datasets, symbols and intervals of one market in [start, end) (ms UTC).

    `symbols` may hold `all` (trading now) and `ever` (all that the exchange or this lake has known). A start of None is the
    first bar of each series.
    """

    market: str
    datasets: tuple[str, ...]
    symbols: tuple[str, ...]
    intervals: tuple[str, ...]
    start: int | None = None
    end: int | None = None

    def named(self) -> Iterator[Series]:
        """The series that it names, `all` and `ever` as they stand."""
        for dataset, symbol in product(self.datasets, self.symbols):
            for interval in self.intervals if registry.dataset(dataset).has_interval else (None,):
                yield Series(self.market, dataset, symbol, interval)


@dataclass(frozen=True, slots=True)
class Gap:
    """Bars that are not stored: `missing` (the source answered without them) or `lost` (it could not be asked)."""

    series: Series
    span: TimeRange
    verdict: str


@dataclass(frozen=True, slots=True)
class Contract:
    """Until when a contract trades, since when it is listed (ms UTC), and whether the exchange still lists it."""

    ends: int = MAX_TIME
    listed: bool = True
    onboard: int | None = None
    last: int = MAX_TIME
    """Where its bars ended, as far as the lake proves."""


@dataclass(slots=True)
class Outcome:
    """What a run did, or with `dry_run` what it would do."""

    command: str
    run_id: str
    jobs: tuple[Job, ...] = ()
    dry_run: bool = False
    eta_s: float = 0.0
    rows_written: int = 0
    partitions_written: int = 0
    requests: int = 0
    weight: int = 0
    bytes_downloaded: int = 0
    elapsed_s: float = 0.0
    gaps: list[Gap] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    failed: list[tuple[Series, EtlError]] = field(default_factory=list)
    left: list[Finding] = field(default_factory=list)
    """What a repair could not put right."""
    stopped: EtlError | None = None
    """What ended the run before its work was done: the exchange's refusal, a signal, --max-duration."""

    @property
    def exit_code(self) -> int:
        """0 all done, 1 a repair left something, 3 some series failed, 4 refused, 130 interrupted (contract 4)."""
        if isinstance(self.stopped, Refused | Cancelled):
            return self.stopped.exit_code
        if self.failed:
            return SeriesFailed.exit_code
        return self.stopped.exit_code if self.stopped else EtlError.exit_code if self.left else 0


@dataclass(frozen=True, slots=True)
class _Round:
    """What is asked for in one go: series with start and end (ms UTC), how far back to read again, what is to come anew, and
    of whom, where not every source may be asked.
    """

    asked: Sequence[tuple[Series, int, int]]
    lookback: int = 0
    anew: Mapping[Series, tuple[TimeRange, ...]] = field(default_factory=dict)
    by: Source | None = None
    republished: bool = False

    @property
    def looks_back(self) -> bool:
        """Whether to notice what the archive has published again."""
        return self.lookback > 0 or self.republished


class Stop(threading.Event):
    """Set to end a run cleanly, by a signal or a deadline; `exit_code` says which."""

    exit_code = Cancelled.exit_code


class Progress:
    """What a run tells while it works; this one keeps silent."""

    def start(self, jobs: Sequence[Job], weight: Callable[[], int]) -> None:
        """The plan is made; `weight` tells from now on what was spent."""

    def page(self, rows: int) -> None:
        """A window was answered that the plan expected to bring so many rows. Called from several threads."""

    def receipt(self, receipt: Receipt) -> None:
        """A job is done."""

    def finish(self) -> None:
        """The run ends, in whatever way."""


class Pipeline:
    """Runs selections against one lake. Use as a context manager; one thread at a time.

    `http` stands in for connections of its own, with other bounds of time and size; who made it closes it. `run_id` is what the
    run is called in the view `runs`; by default a random one.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        source: Choice = "auto",
        stop: Stop | None = None,
        progress: Progress | None = None,
        http: Http | None = None,
        run_id: str | None = None,
    ) -> None:
        self.settings = settings
        self.run_id = run_id or uuid.uuid4().hex
        self._is_recorded = False
        self._stop = stop or Stop()
        self._progress = progress or Progress()
        # As many threads as there are cores do what needs one, because each keeps the memory of the largest table it has met.
        self._cores = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="core")
        self._sources = Sources(settings, self._stop, source, self._cores, http)
        self._contracts: dict[str, dict[str, Contract]] = {}
        self._stored_rows: dict[Partition, int] = {}
        self._before: dict[Series, list[Stored]] = {}
        self._over: dict[Series, int] = {}
        self._whole: set[Series] = set()  # asked for from where they were first wanted
        self._as_given: set[str] = set()
        self._threads = ThreadPoolExecutor(settings.workers, thread_name_prefix="ask")
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._stop.set()
        self._threads.shutdown(cancel_futures=True)
        self._cores.shutdown()
        self._sources.close()

    # Runs

    def sync(
        self,
        command: str,
        selections: Sequence[Selection] = (),
        *,
        stored: Callable[[Series], bool] | None = None,
        lookback: int = 0,
        dry_run: bool = False,
        wait: float = 0.0,
    ) -> Outcome:
        """Fetch what the lake lacks of the selections, and of the series in the lake for which `stored` is true.

        With `lookback` (ms) the last stretch before now is read again. UsageError, before anything is written, for what the
        exchange does not know; what fails later is in the outcome.
        """
        store = self._open()
        outcome = Outcome(command, self.run_id, dry_run=dry_run)
        with self._recorded(outcome):
            asked = self._asked(store, selections, stored, outcome)
            if not asked and not outcome.failed:
                place = self.settings.lake
                found = f"the lake at {place} holds no such series" if store.exists else f"there is no lake at {place}"
                raise UsageError(f"nothing to do: {found}; etl backfill, or config/universe.toml, adds series")
            if dry_run:
                self._only_plan(outcome, store, _Round(asked, lookback))
                return outcome
            with store.lock(wait, sleep=self._stop.wait), self._recorded(outcome, locked=True):
                store = self._open()  # another writer may have made it meanwhile
                store.create(self.settings.network)
                self._expect_record(store)
                self._round(outcome, store, _Round(asked, lookback))
                self._finish(outcome, store)
        return outcome

    def repair(
        self,
        wrong: Callable[[], Wrong],
        stored: Callable[[Series], bool],
        left: Left,
        *,
        against: Source | None = None,
        dry_run: bool = False,
        wait: float = 0.0,
    ) -> Outcome:
        """Fetch what is missing of the stored series for which `stored` is true, and anew what `wrong` names: of the cheapest
        source, then of each one, as long as something is named. With `against` of that source alone; then its rows stand.

        `left` is asked at the end: what stays wrong, and of which series nobody can say.
        """
        store = self._open()
        outcome = Outcome("repair", self.run_id, dry_run=dry_run)
        outcome.failed += _strays(store, stored)
        if dry_run:
            asked, anew = self._asked_again(store, list(filter(stored, store.series())), wrong(), outcome)
            self._only_plan(outcome, store, _Round(asked, republished=bool(against), anew=anew, by=against))
            return outcome
        with store.lock(wait, sleep=self._stop.wait), self._recorded(outcome, locked=True):
            # REST is the last one, because its settlements say more, and its rows stand elsewhere, too.
            for turn, by in enumerate((against,) if against else (None, "archive", "rest")):
                named = wrong()
                chosen = filter(named.spans.__contains__ if turn else stored, store.series())
                asked, anew = self._asked_again(store, list(chosen), named, outcome)
                outcome.failed = [(series, error) for series, error in outcome.failed if series not in named.spans]
                for series, error in named.damaged:
                    self._set_aside(store, series, error, outcome)
                self._round(outcome, store, _Round(asked, republished=bool(against), anew=anew, by=by))
                if outcome.stopped or not named.spans:
                    break
            if outcome.stopped is None:
                found, failed = left()
                outcome.left += found
                outcome.failed += failed
            self._finish(outcome, store)
        return outcome

    def _open(self) -> Store:
        return Store.open(self.settings.lake, network=self.settings.network, layout=self.settings.partition)

    def _only_plan(self, outcome: Outcome, store: Store, turn: _Round) -> None:
        wants = self._filed(self._wants(store, turn, outcome), outcome, looks_back=turn.looks_back)
        wants = self._probe(wants, outcome)
        asked = self._asked_so_far()
        wants = [self._settling(want) for want in wants]
        only_here = self._asked_so_far() - asked
        outcome.jobs = self._plan(wants, store)
        outcome.eta_s = self._eta(outcome.jobs)
        self._count(outcome)
        outcome.requests -= only_here  # what the plan tells is what the run will ask
        for want in wants:
            if want.probed and want.first_bar is None and not registry.market(want.series.market).newest_first:
                # The run itself believes only so many empty answers.
                more = registry.DENIALS - 1
                outcome.requests += more
                outcome.weight += more * registry.dataset(want.series.dataset).endpoints[want.series.market].weight(1)

    def _round(self, outcome: Outcome, store: Store, turn: _Round) -> None:
        """Do what is asked; then again what failed because a file turned out to be damaged, which is set aside."""
        wants = self._wants(store, turn, outcome)
        self._want(store, wants)
        try:
            filed = {want.series: want for want in self._filed(wants, outcome, looks_back=turn.looks_back)}
            wants = [filed.get(want.series, want) for want in wants]
            outcome.findings += [_too_late(want) for want in wants if not want.span and want.ends < MAX_TIME]
            self._run(outcome, store, list(filed.values()))
        except (Refused, Cancelled) as error:
            outcome.stopped = error
        finally:
            self._progress.finish()
        if isinstance(outcome.stopped, Cancelled):
            outcome.stopped.exit_code = self._stop.exit_code
        damaged = [(series, error) for series, error in outcome.failed if isinstance(error, Damaged)]
        outcome.failed = [(series, error) for series, error in outcome.failed if not isinstance(error, Damaged)]
        held = [(series, _held(store, series, error)) for series, error in damaged]
        moved = {series for series, error in damaged if self._set_aside(store, series, error, outcome)}
        self._known_gaps(outcome, store, [want for want in wants if want.series not in moved])
        if moved:
            asked = [one for one in turn.asked if one[0] in moved]
            again = [(series, span.start, span.end) for series, span in held if series in moved and span]
            self._round(outcome, store, replace(turn, asked=[*asked, *again]))

    def _want(self, store: Store, wants: Sequence[Want]) -> None:
        """Keep of which series nothing is stored yet: else nobody would know of them if this run is cut short."""
        new = {
            want.series: want.wanted
            for want in wants
            if want.span and want.wanted is not None and not self._before[want.series]
        }
        if new:
            store.want(store.wanted() | new)

    def _forget(self, outcome: Outcome, store: Store) -> None:
        """What is stored, or was answered with nothing to fetch, needs not to be kept any more."""
        unfinished = {series for series, _ in outcome.failed}
        store.want(
            {
                series: since
                for series, since in store.wanted().items()
                if not store.paths(series) and (outcome.stopped or series in unfinished or series not in self._whole)
            }
        )

    def _set_aside(self, store: Store, series: Series, error: Damaged, outcome: Outcome) -> bool:
        """Move a damaged file out of the way; whether that could be done."""
        try:
            place = store.set_aside(error.path)
        except LakeError as failure:
            outcome.failed.append((series, failure))
            return False
        period = store.period(error.path) or TimeRange(0, 0)
        message = (
            f"{error.path} was damaged ({error.__cause__ or error}); it lies in {place} now, and its rows are fetched again"
        )
        outcome.findings.append(Finding(series, "damaged", "warning", period, 1, message))
        return True

    def _run(self, outcome: Outcome, store: Store, wants: Sequence[Want]) -> None:
        wants = self._probe(wants, outcome)
        refused = [want for want in wants if want.series.market in self._sources.refusals and "rest" not in want.sources]
        jobs = planning.with_lost(self._plan(wants, store), refused, store.partitions)
        outcome.jobs += jobs
        self._progress.start(jobs, self._spent)
        worker = Worker(
            store,
            self._sources.rest,
            self._sources.archive,
            self._threads,
            self._cores,
            now=self._sources.now,
            listing=lambda series: self._listing(store, series),
            answered=self._progress.page,
        )
        receipts = execute.in_threads(worker.run, jobs, workers=self.settings.workers, load=self._load)
        # With the first file of each dataset: the catalog is made while the other jobs wait, and need not change again.
        fileless, derived = {series.dataset for job in jobs for series in job.series}, False
        try:
            for receipt in receipts:
                self._progress.receipt(receipt)
                self._account(outcome, receipt)
                if receipt.partitions_written:
                    fileless -= {series.dataset for series in receipt.job.series}
                if outcome.partitions_written and not (fileless or derived):
                    derived = True
                    with suppress(EtlError):  # what is wrong with it ends the run, but at its end
                        self._derive(outcome, store)
        except BaseException:
            self._stop.set()  # whatever it is, the other jobs must not go on for long
            raise

    def _load(self, job: Job) -> int:
        """Rows that the job holds in memory: what it fetches and what its partitions hold already."""
        return job.rows + sum(self._stored_rows.get(partition, 0) for partition in job.partitions)

    def _asked_so_far(self) -> int:
        return sum(stats.requests for stats in self._sources.stats())

    def _spent(self) -> int:
        return sum(stats.weight for stats in self._sources.stats())

    def _account(self, outcome: Outcome, receipt: Receipt) -> None:
        outcome.rows_written += receipt.rows_written
        outcome.partitions_written += receipt.partitions_written
        outcome.findings += receipt.findings
        if receipt.error is None:
            return
        market, error = receipt.job.series[0].market, receipt.error
        if isinstance(error, Cancelled) or (isinstance(error, Refused) and not self._sources.goes_on(market, error)):
            final = error if isinstance(error, Cancelled) else self._sources.final(market, error)
            outcome.stopped = outcome.stopped or final
            self._stop.set()
        else:
            outcome.failed += sorted(receipt.failed, key=lambda each: each[0])

    def _finish(self, outcome: Outcome, store: Store) -> None:
        """What is derived: symbol rules, views, and the record of this run. What of it fails ends the run with that error."""
        error = self._underived(outcome, store)
        if error and not outcome.stopped:  # the views read a file of each dataset, which may be damaged
            damaged = [(series, one) for series in store.series() for one in store.sound(series)[1]]
            held = [(series, _held(store, series, one)) for series, one in damaged]
            self._round(outcome, store, _Round([(series, span.start, span.end) for series, span in held]))
            error = self._underived(outcome, store)
        outcome.stopped = outcome.stopped or error
        self._count(outcome)
        self._record(outcome, store, outcome.exit_code)

    def _count(self, outcome: Outcome) -> None:
        outcome.failed = _once(outcome.failed)
        outcome.elapsed_s = time.monotonic() - self._started
        outcome.requests = outcome.weight = outcome.bytes_downloaded = 0
        for stats in self._sources.stats():
            outcome.requests += stats.requests
            outcome.weight += stats.weight
            outcome.bytes_downloaded += stats.bytes_downloaded

    def _underived(self, outcome: Outcome, store: Store) -> LakeError | None:
        try:
            self._derive(outcome, store)
            self._forget(outcome, store)
        except LakeError as error:
            return error
        return None

    def _derive(self, outcome: Outcome, store: Store) -> None:
        for market in sorted({*self._sources.infos, *(series.market for series in self._before)}):
            rules = self._sources.exchange_info(market).symbols
            Symbols(store.root, market).update(rules, self._lives(outcome, store, market))
        views.write_catalog(store.root)

    @contextmanager
    def _recorded(self, outcome: Outcome, *, locked: bool = False) -> Iterator[None]:
        """Let the lake have its record of a run that an error ends, too; but not of one that never started: a dry run, a wrong
        command, a lake that somebody else is writing to, or none.
        """
        try:
            yield
        except BaseException as error:
            if not (self._is_recorded or outcome.dry_run or isinstance(error, UsageError | LakeLocked)):
                code = error.exit_code if isinstance(error, EtlError) else EtlError.exit_code
                code = Cancelled.exit_code if isinstance(error, KeyboardInterrupt) else code
                with suppress(EtlError):  # the error itself is what the user must hear of
                    self._record_end(outcome, self._stop.exit_code if isinstance(error, Cancelled) else code, locked=locked)
            raise

    def _record_end(self, outcome: Outcome, exit_code: int, *, locked: bool) -> None:
        store = self._open()
        if not store.exists:
            return
        self._count(outcome)
        with nullcontext() if locked else store.lock():
            self._record(outcome, store, exit_code)

    def _began(self) -> int:
        """When the run began (ms UTC); one that failed before the exchange told the time has only this machine's clock."""
        return self._sources.latest or int((time.time() - (time.monotonic() - self._started)) * 1000)

    def _expect_record(self, store: Store) -> None:
        """An empty file of run records, if there is none: without a file the view would have to be made again after the run."""
        if not any(path.suffix == ".jsonl" for path in listed(store.root / "runs")):
            replace_file(store.root, store.root / "runs" / f"{iso(self._began())[:7]}.jsonl", b"")

    def _record(self, outcome: Outcome, store: Store, exit_code: int) -> None:
        """Add this run to the month's file of run records, by replacing it."""
        self._is_recorded = True
        now = self._began()
        path = store.root / "runs" / f"{iso(now)[:7]}.jsonl"
        record = {
            "run_id": outcome.run_id,
            "command": outcome.command,
            "started_at": iso(now),
            "elapsed_s": round(outcome.elapsed_s, 3),
            "rows_written": outcome.rows_written,
            "partitions_written": outcome.partitions_written,
            "requests": outcome.requests,
            "weight": outcome.weight,
            "bytes_downloaded": outcome.bytes_downloaded,
            "failed": len(outcome.failed),
            "exit_code": exit_code,
        }
        before = _records(store, path)
        replace_file(store.root, path, before + json.dumps(record).encode() + b"\n")
        if not before:  # the view that was made without a record has no rows for ever
            with suppress(LakeError):  # which the outcome has already
                views.write_catalog(store.root)

    # Wants

    def _asked(
        self, store: Store, selections: Sequence[Selection], stored: Callable[[Series], bool] | None, outcome: Outcome
    ) -> list[tuple[Series, int, int]]:
        """The series that are asked for, with start and end; a stored one starts where it was first wanted."""
        asked: list[tuple[Series, int, int]] = []
        outcome.failed += _strays(store, stored) if stored else ()
        for series in store.series() if stored else ():
            if stored and stored(series):
                try:
                    asked.append((series, _wanted_since(store, series), self._sources.now(series.market)))
                except LakeError as error:
                    outcome.failed.append((series, error))
        for selection in selections:
            now = self._sources.now(selection.market)
            if selection.start is not None and selection.start >= now:
                raise UsageError(f"--start {iso(selection.start)} lies in the future: the exchange's clock says {iso(now)}")
            end = now if selection.end is None else selection.end
            asked += [(series, selection.start or 0, end) for series in self._expand(store, selection, outcome)]
        return asked

    def _asked_again(
        self, store: Store, chosen: Sequence[Series], named: Wrong, outcome: Outcome
    ) -> tuple[list[tuple[Series, int, int]], dict[Series, tuple[TimeRange, ...]]]:
        """The series, from where each was first wanted to where its answers end or its wrong rows do; and what is wrong."""
        asked: list[tuple[Series, int, int]] = []
        anew: dict[Series, tuple[TimeRange, ...]] = {}
        waiting = store.wanted()
        for series in chosen:
            whole = (_held(store, series, error) for one, error in named.damaged if one == series)
            wrong = anew[series] = union([*named.spans.get(series, ()), *whole])
            try:
                since = _wanted_since(store, series)
                ends = [entry.span.end for file in store.sound(series)[0] for entry in file.coverage]
                ends += [self._sources.now(series.market)] if series in waiting and not store.paths(series) else []
            except LakeError as error:
                outcome.failed.append((series, error))
                continue
            spans = (*wrong, TimeRange(since, max([since, *ends])))
            asked.append((series, min(span.start for span in spans), max(span.end for span in spans)))
        return asked, anew

    def _wants(self, store: Store, turn: _Round, outcome: Outcome) -> list[Want]:
        """What is wanted of each series, each series once; a series whose files cannot be read fails alone.

        A damaged file is set aside, and its rows are wanted, too.
        """
        wants: dict[Series, Want] = {}
        waiting = store.wanted()
        for series, start, end in turn.asked:
            now = self._sources.now(series.market)
            try:
                files, damaged = store.sound(series)
            except LakeError as error:
                outcome.failed.append((series, error))
                continue
            if not outcome.dry_run and not all(self._set_aside(store, series, error, outcome) for error in damaged):
                continue
            if start <= waiting.get(series, start) < end:
                self._whole.add(series)
            held = [span for error in damaged if (span := _held(store, series, error))]
            since = max(min([start, *(span.start for span in held)]), registry.market(series.market).first_time)
            span = planning.wanted(series, since, max([end, *(span.end for span in held)]), now)
            if series in wants:
                before = wants[series].span
                span = TimeRange(min(span.start, before.start), max(span.end, before.end))
            covered = union(c.span for file in files for c in file.coverage)
            contract = self._contract(store, series)
            sources = self._sources.of(series.market, listed=contract.listed)
            if turn.by:
                sources = tuple(source for source in sources if source == turn.by)
            if not sources:
                continue
            entries = [entry for file in files for entry in file.coverage]
            first_row = min((file.first for file in files if file.first is not None), default=None)
            nothing = _nothing(series, files, first_row)
            denied = {by: intersection(nothing, (entry.span for entry in entries if entry.source == by)) for by in SOURCES}
            again: tuple[TimeRange, ...] = ()
            if turn.lookback and "rest" in sources:
                recent = TimeRange(max(0, (now - turn.lookback) // MINUTE * MINUTE), MAX_TIME)
                # What a file of the archive brought is read again where it was published again, and not over REST.
                final = (entry.span for entry in entries if entry.sha256 and series.interval and "archive" in sources)
                again = intersection(covered, subtract([recent], final))
            covered = subtract(covered, [*again, *(span for by in sources for span in subtract(nothing, denied[by]))])
            span = _until(span, contract, sources)
            self._stored_rows |= {file.partition: file.rows for file in files}
            wanted = min(span.start, _since(files) if files else waiting.get(series, span.start))
            anew = intersection([span], turn.anew.get(series, ()))
            want = Want(
                series, span, covered, first_row, contract.ends, contract.onboard, wanted=wanted, sources=sources, anew=anew
            )
            wants[series] = replace(
                want,
                rest_only=union([*again, *denied["archive"]]),
                # Rows that are wrong by what else is known were answered, whatever the file says.
                archive_only=subtract(denied["rest"], [*again, *anew]),
            )
            self._before[series] = files
        return sorted(wants.values(), key=lambda want: (want.series.market, want.series.dataset))

    def _settling(self, want: Want) -> Want:
        """The want with what the exchange says of its settlements, where the number of pages depends on it."""
        if want.series.interval or not any(span.end - span.start > planning.SEVERAL_PAGES for span in want.rest_missing):
            return want
        try:
            return replace(want, settles=self._sources.funding_step(want.series) or want.settles)
        except Refused as error:
            self._sources.refused(want.series.market, error)
            return want

    def _contract(self, store: Store, series: Series) -> Contract:
        """What is known of the contract; a pair never ends. What nobody lists may still trade where REST may not be asked."""
        market = series.market
        if market not in self._contracts:
            known: dict[str, Contract] = {}
            for symbol, row in Symbols(store.root, market).rows().items():
                delivery = row["delivery_time"]
                known[symbol] = Contract(delivery if isinstance(delivery, int) else MAX_TIME, listed=False, last=ended(row))
            for rule in self._sources.exchange_info(market).symbols:
                known[rule.pair or rule.symbol] = Contract()
            for rule in self._sources.exchange_info(market).symbols:
                known[rule.symbol] = Contract(rule.delivery_time or MAX_TIME, onboard=rule.onboard_time)
            self._contracts[market] = known
        return self._contracts[market].get(series.symbol, Contract(listed=False))

    def _listing(self, store: Store, series: Series) -> Listing:
        contract = self._contract(store, series)
        ends = contract.ends if contract.ends < MAX_TIME and contract.listed else None
        return Listing(contract.onboard, ends, self._trading_since(series), contract.listed)

    def _filed(self, wants: Sequence[Want], outcome: Outcome, *, looks_back: bool) -> list[Want]:
        """The wants with what the archive has for them, where that can be worth a listing, or was published again."""

        def helps(want: Want) -> bool:
            market = want.series.market
            return planning.listing_helps(want, self._minute_weight(market), self._sources.now(market))

        def file(want: Want) -> Want:
            found = self._files(want) if helps(want) else want
            read = [entry for file in self._before[want.series] for entry in file.coverage if entry.sha256]
            again = looks_back and read and "archive" in want.sources
            return replace(found, reread=self._sources.republished(want.series, read)) if again else found

        futures = [self._threads.submit(file, want) if helps(want) or looks_back else None for want in wants]
        return _results(wants, futures, outcome)

    def _files(self, want: Want) -> Want:
        missing, now = subtract(want.missing, want.rest_only), self._sources.now(want.series.market)
        if not missing:
            return want
        span = TimeRange(missing[0].start, missing[-1].end)
        if "rest" in want.sources and span.end - span.start <= FEW_DAYS and not want.is_before_listing(span):
            return replace(want, files=tuple(publication.expected(want.series, span, now)))
        files, listed = self._sources.files(want.series, span, alone="rest" not in want.sources)
        if not files and want.series.symbol in self._as_given and not self._before[want.series]:
            raise NotPublished(
                f"{want.series}: the exchange does not list the symbol, the archive's listing failed, and none of the files "
                f"for {span} is there; look at the name, or run again later"
            )
        told = [span.intersect(TimeRange(0, publication.silent_before(want.series, now)))] if listed else []
        want = replace(want, files=files, silent=subtract(told, [file.span for file in files]))
        # What was found by name ends where it was looked for.
        to_the_end = any(file.listed for file in files) or span.end > publication.over_before(want.series, now)
        if "rest" not in want.sources and to_the_end and publication.is_over(want.series, files, now):
            known = [*files, *self._since(want.series, span.end)]
            if publication.is_over(want.series, known, now):
                ends = self._over[want.series] = min(want.ends, max(file.span.end for file in known))
                want = replace(want, ends=ends, span=TimeRange(min(want.span.start, ends), min(want.span.end, ends)))
        return want

    def _since(self, series: Series, start: int) -> tuple[ArchiveFile, ...]:
        """What the archive has of the time since then, of which the newest files may tell that the contract goes on."""
        now = self._sources.now(series.market)
        if start >= publication.over_before(series, now):
            return ()
        return self._sources.files(series, TimeRange(start, now), alone=True)[0]

    def _expand(self, store: Store, selection: Selection, outcome: Outcome) -> Iterable[Series]:
        """The series that are meant; a symbol that cannot be a folder's name is an error where it was asked for by name, and
        fails alone where it is one of all.
        """
        rules = self._sources.exchange_info(selection.market).symbols
        for name in selection.datasets:
            dataset = registry.dataset(name)
            if selection.market not in dataset.endpoints:
                raise UsageError(f"market {selection.market} has no {name}; it is there for {', '.join(dataset.endpoints)}")
            by_pair = dataset.endpoints[selection.market].symbol_param == "pair"
            names: dict[str, bool] = {}
            for rule in rules:  # a pair trades if any of its contracts does
                listed = (rule.pair or rule.symbol) if by_pair else rule.symbol
                names[listed] = names.get(listed, False) or rule.status == "TRADING"
            stored = set() if by_pair else set(Symbols(store.root, selection.market).rows())
            for symbol in self._symbols(selection, name, names, stored):
                for interval in selection.intervals if dataset.has_interval else (None,):
                    series = Series(selection.market, name, symbol, interval and registry.interval(interval).name)
                    try:
                        store.folder(series)
                    except UsageError as error:
                        if symbol in selection.symbols:
                            raise
                        outcome.failed.append((series, error))
                    else:
                        yield series

    def _symbols(self, selection: Selection, dataset: str, names: dict[str, bool], stored: set[str]) -> list[str]:
        market = selection.market
        chosen: list[str] = []
        for symbol in selection.symbols:
            if symbol == "all":
                trading = [name for name, trades in names.items() if trades]
                chosen += sorted(trading if self._sources.asks_rest(market) else self._alive(market, dataset))
            elif symbol == "ever":
                chosen += sorted({*names, *stored, *self._sources.folders(market, dataset)})
            elif symbol in names or symbol in stored or self._is_archived(market, dataset, symbol):
                chosen.append(symbol)
            else:
                hint = meant(symbol, {*names, *self._sources.folders(market, dataset)}) or "; etl symbols lists what there is"
                raise UsageError(f"market {market} has no symbol {symbol!r} for {dataset}{hint}")
        return list(dict.fromkeys(chosen))

    def _is_archived(self, market: str, dataset: str, symbol: str) -> bool:
        """Whether the archive has it; where no listing says so the name is taken as it is given."""
        has = self._sources.has(market, dataset, symbol)
        if has is None:
            self._as_given.add(symbol)
        return has is not False

    def _alive(self, market: str, dataset: str) -> list[str]:
        """The symbols (or pairs) of which the archive still gets new files."""
        now = self._sources.now(market)
        interval = "1d" if registry.dataset(dataset).has_interval else None

        def alive(symbol: str) -> bool:
            series = Series(market, dataset, symbol, interval)
            files, _ = self._sources.files(series, TimeRange(publication.over_before(series, now), now), alone=True)
            return bool(files) and not publication.is_over(series, files, now)

        symbols = self._sources.folders(market, dataset)
        return [symbol for symbol, lives in zip(symbols, self._threads.map(alive, symbols), strict=True) if lives]

    def _probe(self, wants: Sequence[Want], outcome: Outcome) -> list[Want]:
        """Ask for the first bar of every series of which nothing is known before what is missing; a failed one fails alone."""
        answers = (1,) if outcome.dry_run else ()  # a plan may err; a run must not take one empty answer for the truth
        wants = [replace(want, first_bar=want.missing[0].start) if self._has_begun(want) else want for want in wants]
        futures = [self._threads.submit(self._begin, want, *answers) if want.needs_probe else None for want in wants]
        return _results(wants, futures, outcome)

    def _begin(self, want: Want, *answers: int) -> Want:
        """The want with its first bar; with the archive alone where REST does not tell."""
        try:
            first = self._sources.rest.first_bar(want.series, want.missing[0].start, *answers)
        except (Refused, NotServed) as error:
            if isinstance(error, Refused):
                self._sources.refused(want.series.market, error)
            if "archive" not in want.sources:
                raise
            return self._files(replace(want, sources=("archive",)))
        if "archive" in want.sources and not want.files and (first is None or first > want.missing[0].start):
            want = self._files(want)  # there may have been another contract before
        if not want.files and (first is None or (want.first_row is not None and first > want.first_row)):
            self._doubt(want, first)
        return replace(want, first_bar=first, probed=True)

    def _has_begun(self, want: Want) -> bool:
        """Whether it is known without a probe that the bars of a series began before what is missing.

        Only bars of trades go by the listing; mark, index and premium prices of old contracts begin later.
        """
        if want.series.dataset != "klines" or not want.needs_probe:
            return False
        since = self._trading_since(want.series)
        return since is not None and since + LISTED_LONG <= want.missing[0].start

    def _trading_since(self, series: Series) -> int | None:
        """When the contract was listed that trades under the symbol now (ms UTC); None where none does, or nobody says."""
        rules = (rule for rule in self._sources.exchange_info(series.market).symbols if rule.symbol == series.symbol)
        return next((rule.onboard_time for rule in rules if rule.status == "TRADING"), None)

    def _doubt(self, want: Want, first: int | None) -> None:
        """An answer without a first bar must not erase what is known to be there: BadAnswer, and the series is asked again."""
        since = want.first_row
        if since is None:
            listed = self._trading_since(want.series)
            if listed is None or listed + DAY >= want.span.end:
                return
            since = listed + DAY
        answered = "no bar at all" if first is None else f"{iso(first)} as its first bar"
        raise BadAnswer(
            f"{want.series}: the exchange answered {answered} from {iso(want.missing[0].start)} on, "
            f"but there are bars since {iso(since)} at the latest; run again"
        )

    def _plan(self, wants: Sequence[Want], store: Store) -> tuple[Job, ...]:
        return planning.plan(wants, store.partitions, self._minute_weight)

    def _minute_weight(self, market: str) -> float:
        limit = self._sources.exchange_info(market).weight_limit or registry.market(market).weight_limit
        return limit * self.settings.weight_share

    def _eta(self, jobs: Sequence[Job]) -> float:
        """Seconds: what the weight limits and the round trips allow, whichever takes longer."""
        weight: dict[str, int] = defaultdict(int)
        settlements = 0
        for job in jobs:
            market, dataset = job.series[0].market, job.series[0].dataset
            weight[market] += job.weight
            if registry.dataset(dataset).endpoints[market].pool == "funding":
                settlements += job.requests
        minutes = sum((total - 1) // self._minute_weight(market) for market, total in weight.items() if total)
        windows = max(0, settlements - 1) // (registry.FUNDING_LIMIT * self.settings.weight_share)
        trips = sum(job.requests for job in jobs) * TYPICAL_LATENCY_S / self.settings.workers
        return float(max(minutes * MINUTE / 1000, windows * registry.FUNDING_WINDOW / 1000, trips))

    def symbols(self, market: str, at: int | None = None) -> list[dict[str, Any]]:
        """The contracts that the exchange, the archive or this lake knows, as rows of the `symbols` view; times are ISO texts.

        What only the archive knows lived from the day of its first file to the end of that of its last one. With `at` (ms UTC)
        only those whose life span holds that time.
        """
        stored, rules = Symbols(self.settings.lake, market), self._sources.exchange_info(market).symbols
        found = stored.merged(rules, self._archived_lives(market, stored.contracts()))
        rows = (row for contracts in found.values() for row in contracts)
        return [{"market": market, **in_text(row)} for row in rows if at is None or alive(row, at)]

    def _archived_lives(self, market: str, stored: Mapping[str, Sequence[Row]]) -> dict[str, list[Life]]:
        """By the archive's listings, the lives of contracts for which neither the exchange nor the lake has a better answer."""
        listed = {rule.symbol: rule.onboard_time for rule in self._sources.exchange_info(market).symbols}

        def lives(symbol: str) -> list[Life]:
            known, onboard = stored.get(symbol, ()), listed.get(symbol)
            if known and all(row["first_time"] is not None and row["onboard_time"] is not None for row in known):
                return []
            spans = self._sources.lives(Series(market, "klines", symbol, "1d"), begun=onboard)
            latest = self._sources.now(market) - publication.OVER
            found = [Life(span.start, span.end - 1 if span.end < latest else None) for span in spans]
            if spans and onboard is not None:  # of the present contract the exchange knows better
                return [*found[:-1], Life(None, None)] if spans[-1].end > onboard else [*found, Life(None, None)]
            return _as_exact(found, known)

        symbols = self._sources.folders(market, "klines")
        found = zip(symbols, self._threads.map(lives, symbols), strict=True)
        return {symbol: lived for symbol, lived in found if lived}

    # What is known afterwards

    def _known_gaps(self, outcome: Outcome, store: Store, wants: Sequence[Want]) -> None:
        """Every absence inside the wanted ranges: what the lake records as holes, and what could not be asked."""
        worked = {series for job in outcome.jobs for series in job.series}
        failed = {series for series, _ in outcome.failed}
        mine = {want.series for want in wants}
        outcome.gaps = [gap for gap in outcome.gaps if gap.series not in mine]
        for want in wants:
            refusal = self._sources.refusals.get(want.series.market)
            unfinished = want.series in failed or outcome.stopped is not None or refusal is not None
            try:
                files = store.files(want.series) if unfinished or want.series in worked else self._before[want.series]
            except LakeError as error:
                outcome.failed.append((want.series, error))
                continue
            entries = [entry for file in files for entry in file.coverage]
            holes = [hole for file in files for hole in file.holes]
            holes += () if want.series.interval else _unfiled(files, self._ends(store, want.series))
            gaps = list(_gaps(want.series, intersection(holes, [want.span]), entries))
            lost = subtract([want.span], (entry.span for entry in entries)) if unfinished else ()
            gaps += [Gap(want.series, span, "lost") for span in lost]
            outcome.gaps += gaps
            # Also what the archive lacks: REST, which might have it, could not be asked.
            if refusal and want.series not in failed and any(gap.verdict != "outage" for gap in gaps):
                outcome.failed.append((want.series, refusal))

    def _lives(self, outcome: Outcome, store: Store, market: str) -> dict[str, list[Life]]:
        """First and last bars of the contracts of each symbol that was asked for, as far as its finest klines prove it.

        Also of those that had nothing to be done: a run that was killed may have left out what it would have told of them.
        """
        worked = {series for job in outcome.jobs for series in job.series}
        asked = {series.symbol for series in (*worked, *self._before) if series.market == market}
        finest: dict[str, Series] = {}
        for series in store.series():
            if (series.market, series.dataset) == (market, "klines") and series.symbol in asked and store.paths(series):
                known = finest.setdefault(series.symbol, series)
                if _step(series) < _step(known):
                    finest[series.symbol] = series
        beginning = registry.market(market).first_time
        told = Symbols(store.root, market).rows()
        lives: dict[str, list[Life]] = {}
        for symbol, series in sorted(finest.items()):
            read = series in worked or series not in self._before
            files, damaged = store.sound(series) if read else (self._before[series], [])
            ends = min(self._ends(store, series), self._sources.now(market))
            lives[symbol] = [Life(None, None)] if damaged else _lives(series, files, beginning, ends)
            last = max((file.last for file in files if file.last is not None), default=None)
            if (
                last is not None and symbol in told and told[symbol]["last_time"] == last
            ):  # so it stays, although nobody was asked
                lives[symbol][-1] = lives[symbol][-1]._replace(last=last)
        return lives

    def _ends(self, store: Store, series: Series) -> int:
        return min(self._contract(store, series).ends, self._over.get(series, MAX_TIME))


def _records(store: Store, path: Path) -> bytes:
    """The whole lines of the file; where one is torn, as after a crash of the disk, the file as it was is set aside."""
    check_file(path)
    with looking_at(path):
        before = path.read_bytes() if path.exists() else b""
    lines = [line for line in before.split(b"\n") if line]
    whole = [line for line in lines if _is_record(line)]
    if torn := len(lines) - len(whole):
        aside = quarantined(store.root, path)
        replace_file(store.root, aside, before)
        _log.warning("%s has %d torn lines, which are left out from now on; %s is the file as it was", path, torn, aside)
    return b"".join(line + b"\n" for line in whole)


def _is_record(line: bytes) -> bool:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and "run_id" in record


def _results(wants: Sequence[Want], futures: Sequence[Future[Want] | None], outcome: Outcome) -> list[Want]:
    """The wants as the futures made them; a series whose future failed fails alone."""
    made: list[Want] = []
    try:
        for want, future in zip(wants, futures, strict=True):
            try:
                made.append(future.result() if future else want)
            except (Refused, Cancelled):
                raise
            except EtlError as error:
                outcome.failed.append((want.series, error))
    finally:
        for waiting in filter(None, futures):
            waiting.cancel()
    return made


def _once(failed: Sequence[tuple[Series, EtlError]]) -> list[tuple[Series, EtlError]]:
    """One entry a series: its first error, whose message ends with what the others say, if that is something else."""
    errors: dict[Series, list[EtlError]] = {}
    for series, error in failed:
        known = errors.setdefault(series, [])
        if str(error) not in (str(one) for one in known):
            known.append(error)
    told: list[tuple[Series, EtlError]] = []
    for series, (first, *others) in errors.items():
        error = copy(first)
        if others:
            error.args = (f"{first}; also: {others[0]}" + (f", and {len(others) - 1} more" if others[1:] else ""),)
        told.append((series, error))
    return told


def _too_late(want: Want) -> Finding:
    over = TimeRange(want.ends, want.ends)
    return Finding(want.series, "over", "info", over, 0, f"nothing to fetch: the contract was over at {iso(want.ends)}")


def _until(span: TimeRange, contract: Contract, sources: Sequence[Source]) -> TimeRange:
    """What of the wanted span can be asked for: nothing long after the end, nor of REST once the exchange has forgotten it."""
    ends = min(MAX_TIME, contract.ends + publication.OVER) if contract.listed or "rest" not in sources else contract.last
    return TimeRange(min(span.start, ends), min(span.end, ends))


def _nothing(series: Series, files: Sequence[Stored], first_row: int | None) -> tuple[TimeRange, ...]:
    """What was answered without rows: recorded holes, what REST had not before the first row, and the archive no file for."""
    entries = [entry for file in files for entry in file.coverage if entry.key is None]
    first = MAX_TIME if first_row is None else first_row // MINUTE * MINUTE
    early = intersection((entry.span for entry in entries), [TimeRange(0, first)])
    unfiled = (entry.span for entry in entries if entry.source == "archive")
    if series.interval is None:  # a settlement may be late, and the first one need not come at once
        early = tuple(span for span in early if span.end - span.start > DAY)
    return union([*(hole for file in files for hole in file.holes), *early, *unfiled])


def _step(series: Series) -> int:
    return registry.interval(series.interval or "1d").typical_step


def _strays(store: Store, chosen: Callable[[Series], bool], *, beside: bool = False) -> list[tuple[Series, EtlError]]:
    """What of the chosen is no series of the lake, although the views show it: nobody can bring that up to date."""
    return [(series, error) for series, error in store.strays(beside=beside) if chosen(series)]


def _wanted_since(store: Store, series: Series) -> int:
    """Since when a stored series is wanted, as far as its files, or the run that did not come to it, can say it."""
    files, damaged = store.sound(series)
    if not (files or damaged):
        return store.wanted().get(series, 0)
    held = [span for error in damaged if (span := _held(store, series, error))]
    return min([*([_since(files)] if files or not held else []), *(span.start for span in held)])


def _held(store: Store, series: Series, error: Damaged) -> TimeRange:
    """What a damaged file was about: by its footer, where that can be read, or its name; nothing where neither says it."""
    try:
        spans = [entry.span for entry in store.read(series, error.path).coverage]
        return TimeRange(min(span.start for span in spans), max(span.end for span in spans))
    except (LakeError, ValueError):
        return store.period(error.path) or TimeRange(0, 0)


def _since(files: Sequence[Stored]) -> int:
    """Since when a series is wanted: by what its files say, or since its first coverage."""
    since = [file.wanted for file in files if file.wanted is not None]
    asked = [span.start for file in files for span in (*(c.span for c in file.coverage), *file.lost)]
    return min([*since, *asked], default=0)


def _lives(series: Series, files: Sequence[Stored], beginning: int, ends: int) -> list[Life]:
    """The first bar, if nothing before it was left out, and the last one, if nothing after it up to `ends` was; an absence too
    long for an outage parts two contracts.
    """
    entries = [entry for file in files for entry in file.coverage]
    # Of the time before the archive begins only REST knows.
    unknown = [TimeRange(0, registry.market(series.market).archived)]
    covered = union(span for c in entries for span in ([c.span] if c.source == "rest" else subtract([c.span], unknown)))
    first = min((file.first for file in files if file.first is not None), default=None)
    last = max((file.last for file in files if file.last is not None), default=None)
    if first is None or last is None:
        return [Life(None, None)]
    interval = registry.interval(series.interval or "1d")
    parts = [hole for hole in union(hole for file in files for hole in file.holes) if first < hole.start and hole.end <= last]
    parts = [hole for hole in parts if hole.end - hole.start >= registry.BETWEEN_LIVES]
    proven = TimeRange(first, first) if not covered else covered[0]
    # As between two contracts: so long without a bar, and then the first one.
    begins = proven.start <= beginning or first - proven.start >= registry.BETWEEN_LIVES
    firsts = [first if begins and first in proven else None, *(hole.end for hole in parts)]
    over = any(last in span and span.end >= ends for span in covered)
    lasts = [*(interval.floor(hole.start - 1) for hole in parts), last if over else None]
    since = [first, *(hole.end for hole in parts)]
    return [Life(*each) for each in zip(firsts, lasts, since, strict=True)]


def _as_exact(found: Sequence[Life], known: Sequence[Row]) -> list[Life]:
    """The lives, which the archive tells to the day, with the bars of those days that the lake knows."""
    bars = [bar for row in known for bar in (row["first_time"], row["last_time"]) if isinstance(bar, int)]

    def exact(time: int | None) -> int | None:
        return next((bar for bar in bars if time is not None and bar // DAY == time // DAY), time)

    return [Life(exact(life.first), exact(life.last)) for life in found]


def _gaps(series: Series, holes: Sequence[TimeRange], entries: Sequence[Coverage]) -> Iterable[Gap]:
    """The holes by who was asked for them: of an outage every source was. Between two contracts there is no gap."""
    denied = _denied(entries)
    for hole in subtract(holes, _between_lives(holes, entries)):
        yield from (Gap(series, span, "outage") for span in intersection([hole], denied))
        yield from (Gap(series, span, "missing") for span in subtract([hole], denied))


def _unfiled(files: Sequence[Stored], ends: int) -> tuple[TimeRange, ...]:
    """Where the archive has no file of settlements, and REST was not asked, from the first one that is stored to the end."""
    first = min((file.first for file in files if file.first is not None), default=0)
    entries = [entry for file in files for entry in file.coverage]
    silent = (entry.span for entry in entries if entry.source == "archive" and entry.key is None)
    others = (entry.span for entry in entries if entry.source == "rest" or entry.key is not None)
    return intersection(subtract(silent, others), [TimeRange(first, max(first, ends))])


def _denied(entries: Iterable[Coverage]) -> tuple[TimeRange, ...]:
    """What both sources were asked for."""
    rest, archive = ([entry.span for entry in entries if entry.source == source] for source in ("rest", "archive"))
    return intersection(rest, archive)


def _between_lives(holes: Iterable[TimeRange], entries: Sequence[Coverage]) -> tuple[TimeRange, ...]:
    """Absences that both sources confirm and that are too long for an outage: one contract ended there, another began."""
    denied = _denied(entries)
    return tuple(
        hole
        for hole in union(holes)
        if hole.end - hole.start >= registry.BETWEEN_LIVES and intersection([hole], denied) == (hole,)
    )


def existing(settings: Settings) -> Store:
    """The lake that the settings name; UsageError where there is none."""
    store = Store.open(settings.lake, network=settings.network, layout=settings.partition)
    if not store.exists:
        raise UsageError(f"there is no lake at {settings.lake}; name one with --lake or ETL_LAKE, or make it with etl backfill")
    return store


def rebuild(store: Store, wait: float = 0.0) -> None:
    """Write the catalog anew from the lake's files alone, as after the lake was moved."""
    with store.lock(wait):
        with looking_at(store.root):
            (store.root / "catalog.sql").unlink(missing_ok=True)
        views.write_catalog(store.root)
        snapshots.rebuild(store)


def status(store: Store, now: int, chosen: Callable[[Series], bool] = lambda _: True) -> list[dict[str, Any]]:
    """What is stored of the chosen series, one row a series, from the footers alone; the lag is against `now` (ms UTC).

    `expected` counts the grid from the first to the last row, without the time between two contracts; `lost` counts the bars,
    there or elsewhere, that were to come and could not be fetched yet. They and `missing` are None for a series without a grid.
    The lag of a contract that is over ends with it. A series of a run that was cut short before its first file was there
    lags, and has lost bars, since it was asked for. What cannot be read, or is none of the lake's and yet shown by its views,
    has an `error` and nothing else.
    """
    ends = {market: _over(store, market) for market in registry.MARKETS}
    rows: list[dict[str, Any]] = []
    wanted = store.wanted()
    for series in filter(chosen, store.series()):
        row: dict[str, Any] = {**series.as_dict(), **dict.fromkeys(STATUS)}
        rows.append(row)
        try:
            files = store.files(series)
        except LakeError as error:
            row["error"] = str(error)
            continue
        first = min((file.first for file in files if file.first is not None), default=None)
        last = max((file.last for file in files if file.last is not None), default=None)
        row["rows"] = sum(file.rows for file in files)
        row["bytes"] = sum(file.size for file in files)
        row["sources"] = sorted({c.source for file in files for c in file.coverage})
        interval = registry.interval(series.interval) if series.interval else None
        if interval:
            row["lost"] = sum(interval.count(span) for span in union(span for file in files for span in file.lost))
        until = min(now, ends[series.market].get(series.symbol, now))
        if not files and series in wanted:
            never = TimeRange(wanted[series], max(wanted[series], until))
            row["lost"] = interval.count(never) if interval else None
            row["lag_s"] = (never.end - never.start) // 1000
        if first is None or last is None:
            continue
        row["first"], row["last"] = iso(first), iso(last)
        following = interval.next(last) if interval else last
        if interval:
            entries = [entry for file in files for entry in file.coverage]
            apart = _between_lives([hole for file in files for hole in file.holes], entries)
            spans = subtract([TimeRange(first, following)], apart)
            row["expected"] = sum(interval.count(span) for span in spans)
            row["missing"] = row["expected"] - row["rows"]
        row["lag_s"] = max(0, until - following) // 1000
    rows += [
        {**series.as_dict(), **dict.fromkeys(STATUS), "error": str(error)}
        for series, error in _strays(store, chosen, beside=True)
    ]
    return rows


STATUS = ("first", "last", "rows", "expected", "missing", "lost", "lag_s", "bytes", "sources")


def _over(store: Store, market: str) -> dict[str, int]:
    """When the contract of each symbol was, or will be, over: after its last bar, or its delivery; else MAX_TIME."""
    return {symbol: ended(row) for symbol, row in Symbols(store.root, market).rows().items()}
