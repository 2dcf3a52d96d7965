"""What the server needs to know about a market, whether generated or recorded; rows travel as rendered text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .. import registry
from ..model import Series
from ..ranges import DAY, Interval, TimeRange

# The exchange serves 3d too; its documented grid counts from 1970-01-02 (binance-facts 3).
INTERVALS = {**registry.INTERVALS, "3d": Interval("3d", 3 * DAY, DAY)}


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows of a range a page holds: those of `span` (half-open), at most `limit`, the oldest or the newest ones."""

    span: TimeRange
    limit: int
    newest: bool = False


class World(Protocol):
    """A market as the server sees it. `now` is the exchange's clock in ms UTC; pages are JSON rows joined by commas."""

    def exchange_info(self, market: str, now: int) -> dict[str, Any]:
        """Body of exchangeInfo but for server time and rate limits; the same object as long as nothing changes."""

    def known(self, market: str, dataset: str, symbol: str) -> bool:
        """Whether the market lists this symbol (or pair, for index_klines) for the dataset."""

    def closed(self, market: str, symbol: str, now: int) -> bool:
        """Whether bars of the symbol are refused with -1122, because it no longer trades."""

    def bars(self, series: Series, selection: Selection, now: int) -> bytes:
        """Bars whose open time lies in the selection, the running one included."""

    def funding(self, market: str, symbol: str | None, selection: Selection, now: int) -> bytes:
        """Settlements by time, then symbol; of all symbols where `symbol` is None."""

    def funding_info(self, now: int) -> list[dict[str, Any]]:
        """Rows of fundingInfo."""

    def book_ticker(self, market: str, symbol: str | None, now: int) -> dict[str, Any] | list[dict[str, Any]] | None:
        """Best bid and ask, of all symbols where `symbol` is None; None where there is nothing to serve."""

    def depth(self, market: str, symbol: str, limit: int, now: int) -> dict[str, Any] | None:
        """Order book of `limit` levels a side; None where there is nothing to serve."""

    # --- what the bulk archive holds: final rows only, also those of symbols that REST no longer knows

    tag: str
    """Worlds with the same tag hold the same rows."""
    recorded: Mapping[str, bytes]
    """Objects of the archive that were recorded as they are, by key."""

    def folders(self, market: str, dataset: str) -> Sequence[str]:
        """The symbols (or pairs, for index_klines) that have rows."""

    def extent(self, series: Series) -> TimeRange:
        """From the first row to the end of the last one; empty where there is none."""

    def count(self, series: Series, span: TimeRange) -> int:
        """How many lines `span` has."""

    def room(self, series: Series) -> int | None:
        """How many bytes of a zip a line needs at most; None where only making the zip can tell."""

    def lines(self, series: Series, span: TimeRange, unit: int = 1) -> bytes:
        """The rows of `span` as lines of CSV in the archive's columns; of settlements the regular ones.

        `unit` 1 writes the times of bars in ms, 1000 in µs.
        """

    def truth(self, market: str, dataset: str, symbol: str, interval: str | None, start_ms: int, end_ms: int) -> list[Any]:  # noqa: PLR0917 - the six names of a slice, in their usual order
        """Every final row in [start_ms, end_ms) that REST or the archive has, as on the wire: lists for bars, dicts for
        funding; of a re-used ticker the rows of all its contracts.
        """
