"""The exchange and its archive, as one run sees them: who may be asked, what they list, and what time it is there."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from threading import Lock
from typing import Literal

from . import coverage, publication, registry
from .config import Settings
from .errors import BadAnswer, Cancelled, EtlError, NotPublished, Refused, Rejected, Transient, UsageError
from .extract.archive import ArchiveSource
from .extract.conversation import Conversation
from .extract.http import Http
from .extract.rest import RestSource
from .extract.retry import Stats, Stop
from .extract.shared import SharedPools
from .model import ArchiveFile, Coverage, ExchangeInfo, Series, Source
from .ranges import DAY, TimeRange, intersection, subtract

log = logging.getLogger("etl")

Choice = Literal["auto", "rest", "archive"]
CHOICES: tuple[Choice, ...] = ("auto", "rest", "archive")


class Sources:
    """What a run may ask, by the user's `choice`; of each market one conversation, and one archive for all, whose
    files are decoded by `cores`. Close it.

    Connections are those of `http` where one is passed in; who made it closes it.
    Under `auto`, a market whose REST interface refuses this host is served by the archive alone: `refusals` says why.
    """

    def __init__(
        self,
        settings: Settings,
        stop: Stop,
        choice: Choice = "auto",
        cores: Executor | None = None,
        http: Http | None = None,
    ) -> None:
        if settings.network == "testnet" and choice == "archive":
            raise UsageError("the archive holds data of mainnet only: use --source rest with the testnet")
        self.choice: Choice = "rest" if settings.network == "testnet" else choice
        self.refusals: dict[str, Refused] = {}
        self._settings = settings
        self._stop = stop
        self._http = http
        self._conversations: dict[str, Conversation] = {}
        self._pools = SharedPools(settings.state_dir, settings.weight_share)
        self._infos: dict[str, ExchangeInfo] = {}
        self._funding_steps: dict[str, dict[str, int]] = {}
        self._now: dict[str, int] = {}
        self._folders: dict[tuple[str, str], tuple[str, ...]] = {}
        self._unlisted_folders: set[tuple[str, str]] = set()
        self._warned = False
        self._lock = Lock()
        self.rest = RestSource(self.conversation)
        self.archive = ArchiveSource(settings.archive_url, settings.archive_index_url, stop=stop, http=http, cores=cores)

    def close(self) -> None:
        """Close every connection."""
        self.archive.close()
        for conversation in self._conversations.values():
            conversation.close()

    def conversation(self, market: str) -> Conversation:
        """The one conversation with a market; markets of one pool, and all processes of this host, share a budget.

        UsageError where the user's share of it can never pay what a run needs.
        """
        with self._lock:
            if market not in self._conversations:
                declared, url = registry.market(market), getattr(self._settings, f"{market}_url")
                budget, funding = self._pools.weight(declared, url), self._pools.funding(declared, url)
                budget.require(registry.heaviest(declared))
                self._conversations[market] = Conversation(
                    declared, url, stop=self._stop, http=self._http, budget=budget, funding=funding
                )
            return self._conversations[market]

    def stats(self) -> Iterator[Stats]:
        """What each conversation has cost."""
        yield from (conversation.stats for conversation in self._conversations.values())
        yield self.archive.stats

    # ---- who may be asked

    def asks_rest(self, market: str) -> bool:
        """Whether REST may be asked about the market."""
        return self.choice != "archive" and market not in self.refusals

    def asks_archive(self, market: str) -> bool:
        """Whether the archive may be asked about the market: under `auto` not beside another REST than the exchange's own,
        because an exchange of somebody's own (as etl sim) and the real archive are two histories.
        """
        if self.choice != "auto":
            return self.choice == "archive"
        own = getattr(self._settings, f"{market}_url") == registry.market(market).url
        return own or self._settings.archive_url != registry.ARCHIVE_URL

    def of(self, market: str, *, listed: bool) -> tuple[Source, ...]:
        """Who may be asked about a series; REST answers nothing about a symbol that exchangeInfo does not list."""
        archive = self.asks_archive(market)
        allowed: dict[Source, bool] = {"rest": self.asks_rest(market) and (listed or not archive), "archive": archive}
        return tuple(source for source, may in allowed.items() if may)

    def refused(self, market: str, error: Refused) -> None:
        """REST refuses this host: raises the error, unless the archive can go on."""
        if not self.goes_on(market, error):
            raise self.final(market, error)

    def final(self, market: str, error: Refused) -> Refused:
        """The refusal that ends a run: where both sources refuse this host, none is the cure for the other."""
        rest, archive = self.refusals.get(market), self.archive.refusal
        if rest is None or archive is None:
            return error
        return Refused(f"{rest.said}; {archive.said}; neither source serves this host: run where one does", error.until)

    def goes_on(self, market: str, error: Refused) -> bool:
        """Whether under `auto` the other source can still answer when one refuses this host."""
        if self.choice != "auto" or not self.asks_archive(market):
            return False
        archive, conversation = self.archive.refusal, self._conversations.get(market)
        if archive is not None and str(error) == str(archive):
            if conversation and conversation.refusal:
                self.refusals.setdefault(market, conversation.refusal)
            return market not in self.refusals
        if self.refusals.setdefault(market, error) is error and archive is None:
            log.warning("%s: the archive goes on alone", error)
        return archive is None

    # ---- what they say

    def exchange_info(self, market: str) -> ExchangeInfo:
        """The symbol rules, asked once a run; no symbols where REST may not be asked."""
        if market not in self._infos and self.asks_rest(market):
            try:
                info = self.conversation(market).exchange_info()
                declared = registry.market(market)  # the limit that the rules tell may be another one than was known
                self._pools.weight(declared, getattr(self._settings, f"{market}_url")).require(registry.heaviest(declared))
                self._infos[market] = info
            except Refused as error:
                self.refused(market, error)
        return self._infos.get(market) or ExchangeInfo(self.now(market), None, ())

    @property
    def infos(self) -> dict[str, ExchangeInfo]:
        """The rules that were asked for, by market."""
        return self._infos

    def funding_step(self, series: Series) -> int | None:
        """How far apart its settlements are now (ms), by REST; None where nobody says: then a plan is less exact."""
        if series.market not in self._funding_steps:
            try:
                self._funding_steps[series.market] = self.conversation(series.market).funding_steps()
            except (Transient, BadAnswer, Rejected) as error:
                log.info("%s; the plan reckons with a settlement every eight hours", error)
                self._funding_steps[series.market] = {}
        return self._funding_steps[series.market].get(series.symbol)

    def now(self, market: str) -> int:
        """The exchange's clock at the beginning of the run (ms UTC): one moment decides what is closed."""
        if market not in self._now:
            self._now[market] = self._ask_now(market)
        return self._now[market]

    def _ask_now(self, market: str) -> int:
        if self.asks_rest(market):
            try:
                return self.conversation(market).now()
            except Refused as error:
                self.refused(market, error)
        try:
            return self.archive.now()
        except Refused as error:
            raise self.final(market, error) from error

    @property
    def latest(self) -> int:
        """The latest time that any market told, 0 if none did."""
        return max(self._now.values(), default=0)

    def folders(self, market: str, dataset: str) -> tuple[str, ...]:
        """The symbols (or pairs) of which the archive has the dataset; none where it may not be asked.

        A listing that fails is an error: without it nobody knows of the symbols that the exchange has forgotten.
        """
        if not self.asks_archive(market):
            return ()
        if (market, dataset) not in self._folders:
            self._folders[market, dataset] = self.archive.symbols(market, dataset)
        return self._folders[market, dataset]

    def has(self, market: str, dataset: str, symbol: str) -> bool | None:
        """Whether the archive has the dataset of the symbol (or pair); None where no listing says it."""
        if (market, dataset) in self._unlisted_folders:
            return None
        try:
            return symbol in self.folders(market, dataset)
        except EtlError as error:
            self._listing_failed(error)
            self._unlisted_folders.add((market, dataset))
            return None

    def files(self, series: Series, span: TimeRange, *, alone: bool) -> tuple[tuple[ArchiveFile, ...], bool]:
        """What the archive has of the series: all its monthly files, daily ones where `span` has no month; and whether a
        listing, or the archive itself, said so. Without a listing: the files that should be there; where the archive is asked
        `alone`, and REST cannot say when the series lives, from the first to the last one that is.
        """
        now = self.now(series.market)
        try:
            months = self.archive.monthly(series)
            bare = subtract([span], (file.span for file in months))
            days = [file for each in bare for file in self.archive.daily(series, each)] if publication.has_daily(series) else []
            files = [*months, *(file for file in days if intersection(bare, [file.span]))]
            return publication.marked([*files, *self._unlisted(series, files, span, now)], now), True
        except EtlError as error:
            self._listing_failed(error)
            expected = tuple(publication.expected(series, span, now))
            found = self._by_name(series, expected) if alone else ()
            return (found, True) if found else (() if alone else expected, False)

    def lives(self, series: Series, *, begun: int | None = None) -> tuple[TimeRange, ...]:
        """When the archive has files of the series, to the day: one span for each contract that had the ticker.

        One listing; more for the edges and breaks, unless all of it is younger than `begun` (ms UTC): then nothing is said.
        """
        listed = [file.span for file in self.archive.monthly(series)]
        if begun is not None and all(month.end > begun for month in listed):
            return ()
        ever = TimeRange(registry.market(series.market).first_time, self.now(series.market))
        days = [file.span for edge in publication.edges(listed, ever) for file in self.archive.daily(series, edge)]
        return publication.lives(listed, days)

    def republished(self, series: Series, entries: Sequence[Coverage]) -> tuple[ArchiveFile, ...]:
        """The files behind the entries whose version in the archive is another one by now; none where no listing answers."""
        read = coverage.by_file(entries)
        days = [entry.span for entry in entries if entry.key and "/daily/" in entry.key]
        try:
            listed = [*self.archive.monthly(series)] if len(days) < len(entries) else []
            if days:
                listed += self.archive.daily(series, TimeRange(min(d.start for d in days), max(d.end for d in days)))
            newer = [file for file in listed if any(entry.etag != file.etag for entry in read.get(file.key, ()))]
            again = {file.key for file in newer if self._differs(file, read[file.key])}
            if not again:
                return ()
            found = {file.key: file for file in (*self.archive.monthly(series), *newer)}
            return tuple(file for file in publication.marked([*found.values()], self.now(series.market)) if file.key in again)
        except EtlError as error:
            self._listing_failed(error)
            return ()

    def _differs(self, file: ArchiveFile, read: Sequence[Coverage]) -> bool:
        """Whether the file is another one than was read: a host may name no versions, or others than its listing."""
        try:
            digest = self.archive.digest(file)
            return any(entry.latest != digest for entry in read)
        except (NotPublished, BadAnswer):  # reading it tells what is wrong
            return True

    def _by_name(self, series: Series, files: Sequence[ArchiveFile]) -> tuple[ArchiveFile, ...]:
        """The files from the first to the last one that is there; also a month whose day beside them is there."""
        there = self.archive.published
        first = next((index for index, file in enumerate(files) if there(file)), len(files))
        last = next((index for index in range(len(files) - 1, first, -1) if there(files[index])), first)
        while 0 < first < len(files) and self._in_days(series, files[first - 1], files[first - 1].span.end - DAY):
            first -= 1
        while last + 1 < len(files) and self._in_days(series, files[last + 1], files[last + 1].span.start):
            last += 1
        return tuple(files[first : last + 1])

    def _in_days(self, series: Series, month: ArchiveFile, day: int) -> bool:
        """Whether that day has a file of its own, where the month has none."""
        days = () if publication.is_daily(month) else publication.daily_files(series, TimeRange(day, day + DAY))
        return any(map(self.archive.published, days))

    def _unlisted(self, series: Series, files: Sequence[ArchiveFile], span: TimeRange, now: int) -> Iterator[ArchiveFile]:
        """Listings can be stale: the next files that should be there, as long as they are."""
        end = max(span.start, max((file.span.end for file in files), default=span.end))
        for file in publication.expected(series, TimeRange(end, max(end, min(span.end, now))), now):
            if not self.archive.published(file):
                return
            yield file

    def _listing_failed(self, error: EtlError) -> None:
        """What no listing names can be asked for all the same: a listing that fails stops nothing, where REST may be asked."""
        if isinstance(error, Cancelled) or (isinstance(error, Refused) and self.choice == "archive"):
            raise error
        with self._lock:
            if not self._warned:
                log.warning("%s; asking for the archive's files by their names", error)
            self._warned = True
