"""`etl report`, `etl plot` and `etl export`: files made of the lake."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote as encoded

import click

from .. import __version__, report
from ..errors import UsageError
from ..ranges import MAX_TIME, TimeRange
from .logs import fields
from .opening import load_settings, open_lake
from .options import MARKETS, as_names, as_time, check_names, check_span, common, frozen, one_market, selection, span
from .output import print_json, show
from .signals import stoppable

log = logging.getLogger("etl")


@click.command("report")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", required=True, help="The page; - is stdout.")
@click.option(
    "--symbols",
    "--symbol",
    "symbols",
    multiple=True,
    callback=as_names,
    metavar="A,B",
    help="Whose bars to draw (default: the largest).",
)
@click.option("--interval", metavar="1h", help="Which of their bars (default: the finest).")
@one_market(f"Of these symbols: {MARKETS}")
@click.option("--at", callback=as_time, metavar="TIME", help="Count lags up to that time (default: now).")
@click.option("--no-verify", is_flag=True, help="Do not read every row to look for faults, which takes as long as etl verify.")
@click.option("--no-charts", is_flag=True, help="Draw no bars; then matplotlib is not needed.")
@common
def report_(output: Path, symbols: tuple[str, ...], interval: str | None, **options: Any) -> None:
    """Write one HTML page on the state of the lake: coverage, gaps, lag, size, sources, faults, and a chart.

    The page needs nothing else: it holds no script and asks no network. Whole months and series that are missing come first.
    """
    from ..pictures import charts, making, reading  # noqa: PLC0415 - heavy

    if str(output) == "-" and options["as_json"]:
        raise UsageError("--json and the page cannot both go to stdout; name a file with -o")
    if not options["no_charts"]:
        charts.require()
    settings = load_settings(options)
    store = open_lake(settings)
    named = tuple(reading.find(store, "klines", symbol, interval, options["market"]) for symbol in symbols)
    drawn = () if options["no_charts"] else named or tuple(filter(None, [reading.largest(store)]))
    now = int(time.time() * 1000) if options["at"] is None else options["at"]
    text, document = making.report(
        store, now, drawn, network=settings.network, version=__version__, checked=not options["no_verify"]
    )
    _put(output, text.encode(), document, options)


@click.command()
@click.argument("symbol")
@click.option("--dataset", default="klines", show_default=True, metavar="NAME", help="Any dataset of bars.")
@one_market(MARKETS)
@click.option("--interval", metavar="1h", help="Which stored bars (default: the finest that reach back as far as the others).")
@span
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Default: SYMBOL.png; - is stdout.")
@click.option("--dark", is_flag=True, help="Light on dark.")
@frozen("Draw")
@common
def plot(symbol: str, output: Path | None, snapshot: str | None, **options: Any) -> None:
    """Draw candles, volume and funding of a symbol as a PNG of 1600 × 900.

    Without -o it goes to SYMBOL.png in the working directory (percent-encoded as in the lake), or to stdout where that is no
    terminal. More bars than there is room for are drawn as candles of a coarser grid of the exchange; the title says which.
    """
    from ..pictures import charts, making, reading  # noqa: PLC0415 - heavy

    to_stdout = str(output) == "-" or (output is None and not sys.stdout.isatty() and not options["as_json"])
    if to_stdout and (options["as_json"] or sys.stdout.isatty()):
        raise UsageError("a picture is not for a terminal, nor beside --json on stdout; name a file with -o")
    check_span(options["start"], options["end"])
    charts.require()
    store = open_lake(load_settings(options), snapshot)
    series = reading.find(store, options["dataset"], symbol, options["interval"], options["market"])
    chart = reading.chart_of(store, series, options["start"], options["end"], charts.MOST_IN_PNG)
    content, document = making.plot(chart, dark=options["dark"], about=f"snapshot {snapshot}" if snapshot else "")
    _put(Path("-") if to_stdout else output or Path(f"{encoded(symbol, safe='')}.png"), content, document, options)


@click.command("export")
@click.argument("datasets", nargs=-1)
@click.option("--to", "tool", required=True, metavar="TOOL", help="freqtrade, nautilus, backtesting, vectorbt or csv.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="FOLDER", help="Where it goes.")
@frozen("Export")
@selection
@span
@common
def export_(datasets: tuple[str, ...], tool: str, output: Path, snapshot: str | None, **options: Any) -> None:
    """Write series for a backtesting tool, in the files that it reads.

    Without DATASETS what the tool needs, without --symbols every stored symbol, without --interval every stored interval of one
    market (default um). Files of the same names are replaced, each as a whole; nothing else in FOLDER is touched.
    """
    from ..export import run, tools  # noqa: PLC0415 - heavy

    check_names(datasets, options)
    chosen = tools.tool(tool)
    start, end = options["start"] or 0, MAX_TIME if options["end"] is None else options["end"]
    check_span(start, end)
    wish = run.Wish(options["market"] or "um", datasets, options["symbols"], options["intervals"], TimeRange(start, end))
    store = open_lake(load_settings(options), snapshot)
    with stoppable(None) as stop:
        done = run.export(store, chosen, wish, output, stop.is_set)
    rows = [one.as_dict() for one in done.files]
    left = [{**series.as_dict(), "reason": reason} for series, reason in done.left_out]
    gaps = [report.span_json(series, gap) for series, gap in done.gaps]
    document = {"tool": tool, "folder": str(output), "files": rows, "left_out": left, "gaps": gaps, "notes": done.notes}
    show(document, rows, ("dataset", "symbol", "interval", "rows", "first", "last", "path"), as_json=options["as_json"])
    for series, reason in done.left_out:
        log.warning("%s is left out: %s", series, reason, extra=fields(series.as_dict()))
    for line in report.gaps_text((series, gap, "is not in the lake") for series, gap in done.gaps):
        log.warning("gap %s", line.strip())
    for note in done.notes:
        log.warning("%s", note)


def _put(output: Path, content: bytes, document: dict[str, Any], options: dict[str, Any]) -> None:
    """Write a picture to a file, or to stdout where it is `-`, and say so."""
    from ..pictures import making  # noqa: PLC0415 - heavy

    if str(output) == "-":
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    making.write(output, content)
    log.info("wrote %s (%s bytes)", output, f"{len(content):,}")
    if options["as_json"]:
        print_json({"output": str(output), **document})
