"""The options that commands share, what becomes of their values, and what they choose."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .. import registry
from ..errors import UsageError
from ..ranges import parse_duration, parse_time

if TYPE_CHECKING:
    from ..model import Series

Command = TypeVar("Command", bound=Callable[..., Any])

MARKETS = ", ".join(registry.MARKETS)


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
selection = _stack(
    click.option("--market", metavar="NAME", help=f"{MARKETS} (default: um; update and status: all)."),
    click.option(
        "--symbols",
        multiple=True,
        callback=as_names,
        metavar="A,B",
        help="Symbols; all = trading now, ever = ever known, @FILE.",
    ),
    click.option("--interval", "intervals", multiple=True, callback=as_names, metavar="1m,1h", help="Bar sizes (default 1m)."),
)
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


def choice(datasets: Sequence[str], options: dict[str, Any]) -> Callable[[Series], bool]:
    """Whether the selection options mean a stored series; `all` and `ever` mean each."""
    symbols = set(options["symbols"])

    def chosen(series: Series) -> bool:
        return (
            (not datasets or series.dataset in datasets)
            and options["market"] in {None, series.market}
            and (not symbols or bool(symbols & {"all", "ever", series.symbol}))
            and (not options["intervals"] or series.interval in {None, *options["intervals"]})
        )

    return chosen
