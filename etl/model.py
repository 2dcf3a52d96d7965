"""The nouns of the pipeline: frozen values, no behaviour that touches the world."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .errors import EtlError
from .ranges import ALWAYS, TimeRange

Severity = Literal["error", "warning", "info"]
Source = Literal["rest", "archive"]
SOURCES: tuple[Source, ...] = ("rest", "archive")
ColumnType = Literal["time", "float", "int", "text"]


@dataclass(frozen=True, slots=True)
class Column:
    """A stored column: `time` is timestamp[ms] without zone, `float` DOUBLE, `int` BIGINT, `text` UTF-8."""

    name: str
    type: ColumnType
    nullable: bool = False


@dataclass(frozen=True, slots=True)
class PageTier:
    """A page of up to `limit` rows costs `weight`."""

    limit: int
    weight: int


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How one market serves one dataset over REST: `path` below the base URL, the name of its symbol parameter,
    the page tiers in ascending order, and the pool that pays (`weight`: the market's minute, `funding`: its own counter).
    """

    path: str
    tiers: tuple[PageTier, ...]
    symbol_param: Literal["symbol", "pair"] = "symbol"
    pool: Literal["weight", "funding"] = "weight"
    without_symbol: bool = False
    """Whether a request without symbol answers with all symbols."""

    @property
    def max_limit(self) -> int:
        """The largest page."""
        return self.tiers[-1].limit

    @property
    def thriftiest(self) -> PageTier:
        """The page size with the most rows for its weight."""
        return max(self.tiers, key=lambda tier: tier.limit / tier.weight)

    def weight(self, limit: int) -> int:
        """What a page of `limit` rows costs; it is charged by what is asked, not by what comes back."""
        return next(tier.weight for tier in self.tiers if limit <= tier.limit)


@dataclass(frozen=True, slots=True)
class ArchiveLayout:
    """How the bulk archive keeps a dataset: the name of its `folder`, the field at each position of a CSV line (`_` where
    unused), and whether there are `daily` files besides the monthly ones.
    """

    folder: str
    fields: tuple[str, ...]
    daily: bool = True


@dataclass(frozen=True, slots=True)
class Market:
    """A market of the exchange: where it answers and how it limits."""

    name: str
    url: str
    testnet_url: str
    prefix: str
    """Path prefix of the REST interface, e.g. `/fapi/v1`."""
    archive_path: str
    """Path below `data/` in the bulk archive."""
    weight_limit: int
    """Documented weight a minute; the running limit is learned from exchangeInfo."""
    pool: str
    """Markets with the same pool name share one weight limit."""
    exchange_info_weight: int
    first_time: int
    """Nothing exists before this time (ms UTC)."""
    archived: int = 0
    """The archive begins here (ms UTC): that it has nothing from before says nothing of a contract."""
    max_span: int | None = None
    """Longest range of one request in ms, None if unlimited."""
    funding_info: str | None = None
    """Path that tells how far apart settlements are now, None where there is none."""
    newest_first: bool = False
    """Whether a page that cannot hold its range keeps the newest rows instead of the oldest."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """One kind of rows: how they look on the wire, in the lake, and where each market serves them."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    """Columns that identify a row within a series; the first one is its time."""
    endpoints: dict[str, Endpoint]
    """By market name; a market that is not here does not have the dataset."""
    wire: tuple[str, ...]
    """For rows that are arrays: the field at each position (`_` where unused).
    For rows that are objects: the field of each column, in the columns' order."""
    archive: ArchiveLayout
    has_interval: bool = True

    @property
    def time_column(self) -> str:
        """The column whose time decides to which file a row belongs."""
        return self.key[0]


@dataclass(frozen=True, slots=True, order=True)
class Series:
    """One stored series; `interval` is None for datasets without one. Names only, so that it can travel anywhere."""

    market: str
    dataset: str
    symbol: str
    interval: str | None = None

    def __str__(self) -> str:
        return " ".join(part for part in (self.market, self.dataset, self.symbol, self.interval) if part)

    def as_dict(self) -> dict[str, str | None]:
        """The flat keys that every JSON document uses for a series."""
        return {"market": self.market, "dataset": self.dataset, "symbol": self.symbol, "interval": self.interval}


@dataclass(frozen=True, slots=True, order=True)
class Partition:
    """The part of a series that lies in one file: a calendar year (`2024`) or month (`2024-01`)."""

    series: Series
    name: str
    period: TimeRange


@dataclass(frozen=True, slots=True)
class Coverage:
    """A source answered for `span`; `checked` is the UTC day of the answer by the exchange's clock (ms of its midnight).

    An answer of the archive names its file (`key`), the file's digest and version; all are None where there was no such file.
    """

    span: TimeRange
    source: Source
    checked: int
    key: str | None = None
    sha256: str | None = None
    etag: str | None = None
    former: tuple[str, ...] = ()
    """Digests of earlier publications of the file that were read, oldest first."""
    later: tuple[str, ...] = ()
    """Digests of later ones that were read and lack these rows, oldest first."""

    @property
    def latest(self) -> str | None:
        """The digest of the publication that was read last."""
        return self.later[-1] if self.later else self.sha256


@dataclass(frozen=True, slots=True, order=True)
class ArchiveFile:
    """A zip of the bulk archive: the rows of one series in one UTC day or calendar month."""

    span: TimeRange
    key: str
    """Where it lies below the archive's base URL, not percent-encoded."""
    size: int | None = None
    """Bytes of the zip, None where no listing told."""
    etag: str | None = None
    """The object's version in the archive, without quotes; it changes when the file is published again."""
    begun: int | None = None
    """Since when a listing names files of the series (ms UTC), None where no listing was asked."""
    opens: bool = False
    """Whether a contract may begin in it: there is no file before it."""
    closes: bool = False
    """Whether a contract may end in it: there is no file after it, and no month will ever come."""

    @property
    def listed(self) -> bool:
        """Whether a listing named it; what it did not name may be there all the same, because listings can be stale."""
        return self.etag is not None


@dataclass(frozen=True, slots=True)
class Window:
    """A range to ask for, in pages of `limit` rows over REST, or in a `file` of the archive.

    `requests`, `weight`, `rows` and `bytes` are what that is expected to take and bring. For bars over REST this is one page
    that holds the whole range.
    """

    span: TimeRange
    limit: int
    requests: int
    weight: int
    rows: int
    file: ArchiveFile | None = None
    bytes: int = 0

    @property
    def source(self) -> Source:
        """Who is asked."""
        return "rest" if self.file is None else "archive"


@dataclass(frozen=True, slots=True)
class Job:
    """Fill some partitions: the windows to ask, and the ranges that are known to be empty. Picklable and repeatable.

    A job is about one series; only where the exchange answers for all symbols at once it may be about many.
    """

    series: tuple[Series, ...]
    partitions: tuple[Partition, ...]
    sources: tuple[Source, ...]
    """Who may be asked, also for what the windows turn out not to bring."""
    windows: tuple[Window, ...]
    empty: tuple[TimeRange, ...] = ()
    """Ranges that REST, or the archive where only it may be asked, already answered with nothing: to be recorded as covered."""
    life: TimeRange = ALWAYS
    """Absent bars are gaps only inside this."""
    loose: bool = False
    """Whether `life` only says which files there are: then it begins with the first row in it, and ends with the last one."""
    wanted: int | None = None
    """Since when the series is wanted (ms UTC); kept with the data, so that a later run knows of a lost beginning."""
    rest_from: int = 0
    """REST is known to have no bar before this (ms UTC)."""
    silent: tuple[TimeRange, ...] = ()
    """Where a listing names no file of the archive, and none is to come."""
    anew: tuple[TimeRange, ...] = ()
    """Where the stored rows are wrong: what the answers bring takes their place."""
    files: tuple[ArchiveFile, ...] = ()
    """What a listing has named."""
    lost: tuple[TimeRange, ...] = ()
    """What only a source has that refuses this host: nobody is asked for it, and it is recorded as lost."""

    @property
    def requests(self) -> int:
        """Planned page requests."""
        return sum(window.requests for window in self.windows)

    @property
    def weight(self) -> int:
        """Planned cost in the pool of the endpoint."""
        return sum(window.weight for window in self.windows)

    @property
    def rows(self) -> int:
        """About how many rows the planned windows bring."""
        return sum(window.rows for window in self.windows)

    @property
    def bytes(self) -> int:
        """About how many bytes of zips are planned to be downloaded."""
        return sum(window.bytes for window in self.windows)


@dataclass(frozen=True, slots=True)
class SymbolRules:
    """The trading rules of one symbol, as exchangeInfo gives them; what the exchange leaves out is None. Times in ms UTC."""

    symbol: str
    pair: str | None = None
    base_asset: str | None = None
    quote_asset: str | None = None
    contract_type: str | None = None
    status: str | None = None
    onboard_time: int | None = None
    delivery_time: int | None = None
    tick_size: float | None = None
    step_size: float | None = None
    min_qty: float | None = None
    max_qty: float | None = None
    min_price: float | None = None
    min_notional: float | None = None


@dataclass(frozen=True, slots=True)
class ExchangeInfo:
    """What exchangeInfo says: the exchange's clock (ms UTC), its weight limit a minute (None if absent), the symbols."""

    server_time: int
    weight_limit: int | None
    symbols: tuple[SymbolRules, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something a reader of the data must know: a gap, a changed row, a broken invariant."""

    series: Series
    check: str
    severity: Severity
    span: TimeRange
    count: int
    message: str
    times: tuple[int, ...] = ()
    """The times of the rows, where they are listed (ms UTC)."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a job did; `error` says why it could not do all of it (what it could is stored)."""

    job: Job
    rows_written: int = 0
    """New or changed rows."""
    partitions_written: int = 0
    findings: tuple[Finding, ...] = ()
    error: EtlError | None = None
    failed: tuple[tuple[Series, EtlError], ...] = ()
    """Which of the series failed, and why."""
