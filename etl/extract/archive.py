"""The bulk archive: which files it names, and their rows, used only after digest and name were verified.

There is no weight to pay here, but a host that refuses us or fails again and again is left alone. Source: binance-facts 9.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from datetime import datetime
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote

import pyarrow as pa

from .. import publication, registry
from ..errors import BadAnswer, EtlError, NotPublished, Refused, Rejected, Transient, UsageError
from ..model import ArchiveFile, Series
from ..publication import Kind
from ..ranges import ALWAYS, TimeRange, from_datetime, parse_time
from ..text import masked
from . import bulk
from .conversation import Throttled, http_date, judge
from .http import MEBIBYTE, Answer, Download, Http, Params
from .retry import Effort, Persistence, Stats, Stop

_T = TypeVar("_T")

# So many questions in a row that were given up, and the archive is not asked any more.
_ENOUGH = 3
_MAX_CHECKSUM = 1024
_MAX_LISTING = 32 * MEBIBYTE
# Asked for where only the time of the answer matters, which a file that is not there has, too.
_SOME_FILE = publication.file_of(Series("um", "klines", "BTCUSDT", "1d"), "monthly", parse_time("2020-01-01"))


@dataclass(frozen=True, slots=True)
class Bulk:
    """A file of the archive: all its `rows` in file order, duplicates and strays included, typed as `arrow_schema(dataset)`.

    `sha256` and `size` (bytes) are those of the zip; `etag` is its version without quotes, None if the server names none.
    """

    rows: pa.Table
    sha256: str
    etag: str | None
    size: int


class ArchiveSource:
    """Reads the archive, from any number of threads at once; one for a run. Close it, or use it as a context manager.

    Files lie below `archive_url`, listings come from `index_url`. What is `Transient` is asked again, at most `attempts` times
    in all and for `patience` seconds of trying. `max_zip` caps a zip, in bytes. `cores` decodes.

    Every question raises Transient (after the last attempt; after three in a row for listings, or for files, at once without
    asking), Refused (403, 418 or 451; from then on at once), Rejected, BadAnswer and Cancelled (`stop` was set).
    """

    def __init__(
        self,
        archive_url: str,
        index_url: str,
        *,
        stop: Stop | None = None,
        http: Http | None = None,
        attempts: int = 6,
        patience: float = 120.0,
        max_zip: int = 64 * MEBIBYTE,
        cores: Executor | None = None,
    ) -> None:
        for url in (archive_url, index_url):
            if not url.startswith(("http://", "https://")):
                raise UsageError(f"the address '{masked(url)}' of the archive must begin with https:// or http://")
        self._archive_url = archive_url.rstrip("/")
        self._index_url = index_url
        self._persist = Persistence(stop, attempts, patience)
        self._http = http or Http()
        self._owns_http = http is None
        self._max_zip = max_zip
        self._cores = cores
        self._lock = threading.Lock()
        self._date: int | None = None
        self._given_up: Counter[str] = Counter()
        self._refused: Refused | None = None

    # ---- questions

    def now(self) -> int:
        """The archive's clock in ms UTC: the latest Date header of its answers; the local clock plays no part.

        Where the listing gives no answer at all, that of a file tells it.
        """
        failure: EtlError = BadAnswer(
            "the archive's answers carry no Date header: nothing tells which bars are closed; use --source rest"
        )
        for ask in (lambda: self._page("data/", ""), lambda: self.published(_SOME_FILE)):
            if self._date is None:
                try:
                    ask()
                except (Transient, BadAnswer, Rejected) as error:
                    failure = error
        if self._date is None:
            raise failure
        return self._date

    def symbols(self, market: str, dataset: str) -> tuple[str, ...]:
        """The symbols that have a folder of the dataset, sorted."""
        names = set()
        kinds: tuple[Kind, ...] = ("monthly", "daily") if registry.dataset(dataset).archive.daily else ("monthly",)
        for kind in kinds:
            folder = publication.folder(market, dataset, kind)
            for page in self._pages(folder, ""):
                names |= {each.removeprefix(folder).removesuffix("/") for each in page.folders}
        return tuple(sorted(names))

    def monthly(self, series: Series) -> tuple[ArchiveFile, ...]:
        """The monthly files that the listing names.

        Listings may be stale: what they do not name may be there. Names of another form are left out.
        """
        return tuple(self._listed(series, "monthly", ALWAYS))

    def daily(self, series: Series, span: TimeRange) -> tuple[ArchiveFile, ...]:
        """The daily files that the listing names of the days that `span` touches."""
        return tuple(self._listed(series, "daily", span)) if span else ()

    def has_days(self, series: Series, span: TimeRange) -> bool:
        """Whether the listing names daily files there; also where it fails: that there are none is not known then."""
        try:
            return bool(self.daily(series, span))
        except (Transient, BadAnswer, Rejected, Refused):
            return True

    def published(self, file: ArchiveFile) -> bool:
        """Whether the archive has the file, whatever its listing says: whether there is a CHECKSUM of it."""
        try:
            self._object(f"{file.key}.CHECKSUM", _MAX_CHECKSUM)
        except NotPublished:
            return False
        return True

    def digest(self, file: ArchiveFile) -> str:
        """The SHA-256 that the CHECKSUM of the file states; NotPublished if there is none."""
        name = file.key.rpartition("/")[2]
        try:
            return bulk.checksum(self._object(f"{file.key}.CHECKSUM", _MAX_CHECKSUM).body, name)
        except BadAnswer as error:
            raise BadAnswer(f"archive file {file.key}: {error}") from error

    def fetch(self, series: Series, file: ArchiveFile) -> Bulk:
        """The rows of `file`, from a zip whose SHA-256 and name are those of its CHECKSUM.

        NotPublished if there is none; BadAnswer if it cannot be verified or read, also after a second look.
        """
        name = file.key.rpartition("/")[2]
        try:
            try:
                digest, answer = self._verified(file, name)
            except _Mismatch:  # it may have been published anew between the two
                digest, answer = self._verified(file, name)
            rows = self._table(answer.body, name, series.dataset)
        except BadAnswer as error:
            raise BadAnswer(f"archive file {file.key}: {error}; it is not used") from error
        version = answer.headers.get("etag")
        return Bulk(rows, digest, bulk.etag(version) if version else None, len(answer.body))

    @property
    def refusal(self) -> Refused | None:
        """Why it refuses this host, if it does."""
        return self._refused

    @property
    def stats(self) -> Stats:
        """A consistent snapshot; `weight` stays 0."""
        return self._persist.stats

    def close(self) -> None:
        """Closes the connections, unless they were passed in."""
        if self._owns_http:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # ---- files

    def _verified(self, file: ArchiveFile, name: str) -> tuple[str, Answer]:
        """The zip, and its digest, which is the one that its CHECKSUM states."""
        key = file.key
        try:
            stated = self._object(f"{key}.CHECKSUM", _MAX_CHECKSUM).body
        except NotPublished:
            if not file.listed:  # nobody said that it is there
                raise
            with suppress(BadAnswer):  # too large, of course: this asks only whether there is a zip
                self._object(key, 0)
            raise BadAnswer("it has no CHECKSUM and cannot be verified") from None
        try:
            expected = bulk.checksum(stated, name)
        except BadAnswer as error:
            raise _Mismatch(str(error)) from error
        answer = self._object(key, self._max_zip)
        digest = hashlib.sha256(answer.body).hexdigest()
        if digest != expected:
            raise _Mismatch(f"its SHA-256 is {digest}, but its CHECKSUM says {expected}")
        return digest, answer

    def _table(self, zipped: bytes, name: str, dataset: str) -> pa.Table:
        return (
            self._cores.submit(bulk.table, zipped, name, dataset).result() if self._cores else bulk.table(zipped, name, dataset)
        )

    def _object(self, key: str, cap: int) -> Answer:
        """The file of that key; NotPublished if there is none."""
        try:
            return self._ask(Download(f"{self._archive_url}/{quote(key)}", cap), None, lambda answer: answer)
        except Rejected as error:
            if error.status == 404:
                raise NotPublished(f"the archive has no such file: {error}") from None
            raise

    # ---- listings

    def _listed(self, series: Series, kind: Kind, span: TimeRange) -> Iterator[ArchiveFile]:
        """The listed files of the periods that `span` touches."""
        first, last = publication.file_of(series, kind, span.start), publication.file_of(series, kind, span.end - 1)
        for page in self._pages(first.key.rpartition("/")[0] + "/", marker=first.key.removesuffix(".zip")):
            named = (_file(series, kind, each) for each in page.objects)
            yield from (file for file in named if file and first.span.start <= file.span.start <= last.span.start)
            if page.following and page.following >= last.key:
                return

    def _pages(self, folder: str, marker: str) -> Iterator[bulk.Page]:
        """The pages of what lies in `folder` behind `marker`."""
        following: str | None = marker
        while following is not None:
            page = self._page(folder, marker := following)
            yield page
            following = page.following
            if following is not None and following <= marker:
                raise BadAnswer(f"the listing of {folder} does not advance: behind '{marker}' follows '{following}'")

    def _page(self, folder: str, marker: str) -> bulk.Page:
        params = {"prefix": folder, "delimiter": "/", "marker": marker or None}
        try:
            return self._ask(Download(self._index_url, _MAX_LISTING), params, lambda answer: bulk.listing(answer.body))
        except (Transient, BadAnswer) as error:
            raise type(error)(f"the archive's listing of {folder} failed: {error}") from error

    # ---- asking

    def _ask(self, file: Download, params: Params | None, decode: Callable[[Answer], _T]) -> _T:
        host = "index" if params else "files"  # one may fail where the other answers, also at one address
        if self._given_up[host] >= _ENOUGH:
            raise Transient(
                f"GET {masked(file.url)}: not asked, as the archive failed {_ENOUGH} times in a row; run again later"
            )

        def attempt(effort: Effort) -> _T:
            return self._attempt(file, params, decode, effort)

        failed = False
        try:
            return self._persist(attempt)
        except Transient:
            failed = True
            raise
        finally:
            with self._lock:
                if self._given_up[host] < _ENOUGH:  # a row that is long enough stands
                    self._given_up[host] = self._given_up[host] + 1 if failed else 0

    def _attempt(self, file: Download, params: Params | None, decode: Callable[[Answer], _T], effort: Effort) -> _T:
        self._persist.go_on()
        if self._refused:
            raise copy(self._refused)
        self._persist.count(requests=1)
        began = time.monotonic()
        try:
            answer = self._http.download(file, params, arrived=self._arrived)
        finally:
            effort.spent += time.monotonic() - began
        if answer.status not in {200, 206}:  # the pieces of the others were counted as they came
            self._persist.count(bytes_downloaded=answer.downloaded)
        self._check(answer)
        try:
            return decode(answer)
        except Transient as wrong:
            file.body.clear()
            raise Transient(f"GET {answer.url}: {wrong}") from wrong
        except BadAnswer as wrong:
            raise BadAnswer(f"GET {answer.url}: {wrong}") from wrong

    def _check(self, answer: Answer) -> None:
        """Raises what the status means, and learns from the answer."""
        with self._lock:
            self._date = max(filter(None, (self._date, http_date(answer.headers.get("date")))), default=None)
        error = judge(answer, self._date)
        if isinstance(error, Throttled):  # there is no pool that could wait for it
            raise Transient(str(error), error.wait)
        if isinstance(error, Refused):
            refusal = f"GET {answer.url}: HTTP {answer.status}: the archive refuses this host"
            error = Refused(refusal, error.until, "use --source rest")
            self._refused = error
        if error:
            raise error

    def _arrived(self, size: int) -> None:
        self._persist.count(bytes_downloaded=size)
        self._persist.go_on()


class _Mismatch(BadAnswer):
    """CHECKSUM and zip do not belong together."""


# ---- pure parts


def _file(series: Series, kind: Kind, listed: bulk.Listed) -> ArchiveFile | None:
    """The file that the listing names, None if the name is of another form."""
    date = listed.key.removeprefix(publication.prefix(series, kind)).removesuffix(".zip")
    try:
        start = from_datetime(datetime.fromisoformat(date if kind == "daily" else f"{date}-01"))
    except ValueError:
        return None
    file = publication.file_of(series, kind, start)
    return replace(file, size=listed.size, etag=listed.etag) if file.key == listed.key else None
