"""The options that commands share, what becomes of their values, and what they choose."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .. import registry
from ..errors import UsageError
from ..ranges import parse_duration, parse_time
from ..text import meant

if TYPE_CHECKING:
    from ..model import Series

Command = TypeVar("Command", bound=Callable[..., Any])

MARKETS = ", ".join(registry.MARKETS)
EVERY = frozenset({"all", "ever"})


def _stack(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for one in reversed(decorators):
            command = one(command)
        return command

    return decorate


def as_names(_: click.Context, __: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    """`A,B` and repeated options as one tuple; `@FILE` is one name a line."""
    names: list[str] = []
    for value in values:
        for name in value.split(","):
            if name.startswith("@"):
                try:
                    lines = Path(name[1:]).read_text("utf-8").splitlines()
                except (OSError, ValueError) as error:
                    raise click.BadParameter(f"cannot read the names in {name[1:]}: {error}") from None
                names += [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
            elif name.strip():
                names.append(name.strip())
    if values and not names:  # what is empty must not mean what is left out
        raise click.BadParameter("it names nothing; leave the option out for its default")
    return tuple(dict.fromkeys(names))


def as_time(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    """A time in ms UTC; None where it is left out, or now."""
    return None if value is None or value == "now" else parse_time(value)


def _wait(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    """Seconds to wait for the lock; `forever` is --wait without a value."""
    if value is None or value == "forever":
        return None if value is None else float("inf")
    try:
        return max(0.0, float(value))
    except ValueError:
        return parse_duration(value) / 1000


def _seconds(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    """A duration in seconds, longer than nothing."""
    if value is None:
        return None
    if (seconds := parse_duration(value) / 1000) == 0:
        raise UsageError("--max-duration must be longer than nothing, for example 50m")
    return min(seconds, threading.TIMEOUT_MAX)


common = _stack(
    click.option("--lake", metavar="FOLDER", help="Root folder of the lake."),
    click.option("--config", "config_file", metavar="FILE", help="TOML file with settings."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout."),
    click.option("-v", "--verbose", count=True, help="Say more on stderr."),
    click.option("-q", "--quiet", is_flag=True, help="Say only what went wrong."),
)


def _selection(market: str, symbols: str, intervals: str) -> Callable[[Command], Command]:
    return _stack(
        click.option("--market", metavar="NAME", help=f"{MARKETS} (default: {market})."),
        click.option("--symbols", multiple=True, callback=as_names, metavar="A,B", help=f"Symbols, or @FILE; {symbols}."),
        click.option(
            "--interval",
            "intervals",
            multiple=True,
            callback=as_names,
            metavar="1m,1h",
            help=f"Bar sizes (default: {intervals}).",
        ),
    )


wanted = _selection("um", "all = trading now, ever = ever known", "1m")
"""What is to be fetched, stored or not."""
stored = _selection("all", "default: all that are stored", "all that are stored")
"""What of the lake is meant."""
exported = _selection("um", "default: all that are stored", "all that are stored")
span = _stack(
    click.option("--start", callback=as_time, metavar="TIME", help="Date or date-time, UTC (default: the first bar)."),
    click.option(
        "--end", callback=as_time, metavar="TIME", help="Exclusive; date, date-time or now (default: the last closed bar)."
    ),
)
source = click.option(
    "--source",
    type=click.Choice(["auto", "rest", "archive"]),
    default="auto",
    help="Ask REST, the bulk archive, or (auto, the default) both: whichever is cheaper for each range.",
)
waiting = _stack(
    click.option(
        "--wait", is_flag=False, flag_value="forever", callback=_wait, metavar="[SECONDS]", help="Wait for the lake's lock."
    ),
    click.option("--max-duration", callback=_seconds, metavar="TIME", help="Stop cleanly after that time, e.g. 50m."),
)
writing = _stack(
    click.option("--dry-run", is_flag=True, help="Print the plan and its cost, write nothing."),
    waiting,
    click.option("--weight-share", type=float, help="Share of the exchange's weight limit to use."),
    click.option("--workers", type=int, help="Concurrent requests."),
    source,
)


def frozen(verb: str) -> Callable[[Command], Command]:
    """--snapshot, for a command that reads a lake."""
    return click.option("--snapshot", metavar="NAME", help=f"{verb} that frozen state of the lake.")


def against(what: str) -> Callable[[Command], Command]:
    """--against, for a command that compares what is stored with what a source has."""
    return click.option("--against", type=click.Choice(["archive", "rest"]), help=what)


def one_market(which: str) -> Callable[[Command], Command]:
    """--market, for a command that works with one."""
    return click.option("--market", default="um", metavar="NAME", help=f"{which} (default um).")


def check_names(datasets: Sequence[str], options: dict[str, Any]) -> None:
    """Refuse datasets, and intervals and a market of the selection options, that the registry does not know."""
    for name in datasets:
        registry.dataset(name)
    for name in options["intervals"]:
        registry.interval(name)
    if options["market"] is not None:
        registry.market(options["market"])


def check_span(start: int | None, end: int | None) -> None:
    """Refuse a range that holds no time."""
    if start is not None and end is not None and start >= end:
        raise UsageError("--start must lie before --end; the range is half-open, [start, end)")


@dataclass(frozen=True, slots=True)
class Choice:
    """Which stored series the selection options mean; empty means each, and so do the symbols `all` and `ever`."""

    datasets: tuple[str, ...]
    market: str | None
    symbols: tuple[str, ...]
    intervals: tuple[str, ...]

    def __call__(self, series: Series) -> bool:
        """Whether the series is meant."""
        return self._but_symbols(series) and (self._every or series.symbol in self.symbols)

    def require(self, there: Collection[Series]) -> None:
        """UsageError where a symbol, dataset or interval that is named has no such series: a mistyped name must not look like a
        lake in which all is well. What has no interval stands for a named one only where its dataset is named, too.
        """
        found = [
            series
            for series in there
            if self._but_symbols(series)
            and (not self.intervals or series.interval in self.intervals or series.dataset in self.datasets)
        ]
        for symbol in {*self.symbols} - EVERY - {series.symbol for series in found}:
            others = sorted({str(series) for series in there if series.symbol == symbol})
            near = meant(symbol, {series.symbol for series in there}) or "; etl status lists what it holds"
            told = f"of {symbol} the lake holds {', '.join(others)} and nothing else"
            raise UsageError(told if others else f"the lake holds nothing of {symbol!r}{near}")
        found = [series for series in found if self(series)]
        lacking = [name for name in self.datasets if name not in {series.dataset for series in found}]
        if not (self.datasets and all(not registry.dataset(name).has_interval for name in self.datasets)):
            lacking += [name for name in self.intervals if name not in {series.interval for series in found}]
        if self.market and not found:
            lacking.append(f"market {self.market}")
        if lacking:
            raise UsageError(f"the lake holds no such series of {', '.join(lacking)}; etl status lists what it holds")

    @property
    def _every(self) -> bool:
        return not self.symbols or bool(EVERY & {*self.symbols})

    def _but_symbols(self, series: Series) -> bool:
        return (
            (not self.datasets or series.dataset in self.datasets)
            and self.market in {None, series.market}
            and (not self.intervals or series.interval in {None, *self.intervals})
        )


def choice(datasets: Sequence[str], options: dict[str, Any]) -> Choice:
    """What the selection options mean of a lake."""
    return Choice(tuple(datasets), options["market"], options["symbols"], options["intervals"])
