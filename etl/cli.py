"""The command line: parse, call the pipeline, print, exit. Data goes to stdout, talk to stderr.

Everything heavy is imported inside the commands, so that `etl --help` answers at once (tests/test_cli.py holds the list).
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NoReturn, TypeVar, cast
from urllib.parse import quote as encoded

import click

from . import __version__, config, registry, report
from .errors import Cancelled, EtlError, SeriesFailed, UsageError
from .ranges import MAX_TIME, TimeRange, from_datetime, iso, parse_duration, parse_time
from .text import masked

if TYPE_CHECKING:
    from .config import Settings
    from .model import Finding, Series
    from .pipeline import Outcome, Progress, Selection, Stop

Command = TypeVar("Command", bound=Callable[..., Any])

log = logging.getLogger("etl")

Format = Literal["table", "csv", "json", "parquet"]
FORMATS: tuple[Format, ...] = ("table", "csv", "json", "parquet")

# A terminal is for looking: so many rows of a table are shown there.
TERMINAL_ROWS = 60
# A JSON answer of more bytes waits in a file until it is whole.
_SPOOLED = 64 * 2**20


# Options


def _stack(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for one in reversed(decorators):
            command = one(command)
        return command

    return decorate


def _names(_: click.Context, __: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
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


def _time(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
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
    click.option("--market", metavar="NAME", help=f"{', '.join(registry.MARKETS)} (default: um; update and status: all)."),
    click.option(
        "--symbols", multiple=True, callback=_names, metavar="A,B", help="Symbols; all = trading now, ever = ever known, @FILE."
    ),
    click.option("--interval", "intervals", multiple=True, callback=_names, metavar="1m,1h", help="Bar sizes (default 1m)."),
)
span = _stack(
    click.option("--start", callback=_time, metavar="TIME", help="Date or date-time, UTC (default: the first bar)."),
    click.option(
        "--end", callback=_time, metavar="TIME", help="Exclusive; date, date-time or now (default: the last closed bar)."
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
question = _stack(
    click.option("-p", "--parameter", "parameters", multiple=True, metavar="NAME=VALUE", help="Value of $NAME in the query."),
    click.option("--snapshot", metavar="NAME", help="Ask that frozen state of the lake."),
)


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise _ReaderLeft from None  # of a BrokenPipeError click itself would make exit code 1


class _ReaderLeft(Exception):
    """Whoever read stdout went away, as `| head` does."""


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="etl")
def cli() -> None:
    """Historical bars and funding of Binance futures: extracted, verified, stored as Parquet, queried in SQL.

    \b
    etl demo                                              everything once, without the internet
    etl backfill klines funding --symbols BTCUSDT --start 2024-01-01
    etl update                                            bring the lake up to the last closed bar
    etl sql "SELECT * FROM bars('BTCUSDT', '1m') LIMIT 5"
    """  # noqa: D301 - \b is click's mark for lines that are not to be wrapped


# Commands


@cli.command()
@click.argument("datasets", nargs=-1, required=True)
@selection
@span
@writing
@common
def backfill(datasets: tuple[str, ...], **options: Any) -> None:
    """Fill what the lake lacks of the selection."""
    from .pipeline import Selection  # noqa: PLC0415 - heavy

    if not options["symbols"]:
        raise UsageError("backfill needs --symbols, for example --symbols BTCUSDT or --symbols all")
    _check_names(datasets, options)
    chosen = Selection(
        options["market"] or "um",
        tuple(dict.fromkeys(datasets)),
        options["symbols"],
        options["intervals"] or ("1m",),
        options["start"],
        options["end"],
    )
    if chosen.start is not None and chosen.end is not None and chosen.start >= chosen.end:
        raise UsageError("--start must lie before --end; the range is half-open, [start, end)")
    _sync("backfill", options, [chosen], stored=None)


@cli.command()
@click.argument("datasets", nargs=-1)
@selection
@click.option(
    "--lookback", default="3d", metavar="TIME", help="Read the last stretch again and report what changed (default 3d)."
)
@writing
@common
def update(datasets: tuple[str, ...], lookback: str, **options: Any) -> None:
    """Bring every series in the lake, and those of config/universe.toml, up to the last closed bar.

    A series begins where it was first asked for. DATASETS, --market, --symbols and --interval narrow both.
    """
    from .pipeline import Selection  # noqa: PLC0415 - heavy

    _check_names(datasets, options)
    path = config.universe_path(Path.cwd())
    selections = [
        Selection(entry.market, kept, symbols, intervals, entry.start)
        for entry in (config.load_universe(path) if path else ())
        if (kept := _narrowed(entry.datasets, datasets))
        and (symbols := _narrowed(entry.symbols, options["symbols"]))
        and (intervals := _narrowed(entry.intervals, options["intervals"]))
        and options["market"] in {None, entry.market}
    ]
    _sync("update", options, selections, stored=_chosen(datasets, options), lookback=parse_duration(lookback))


@cli.command()
@click.argument("query")
@click.option("--format", "form", type=click.Choice(FORMATS), help="Default: by the ending of FILE, else table.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write to a file instead of stdout.")
@question
@common
def sql(query: str, form: Format | None, output: Path | None, **options: Any) -> None:
    """Run one query over the views; `-` reads it from stdin.

    A value of -p becomes what it looks like: a whole number, a number, a date, a date-time (UTC), else text, as is what stands
    in single quotes. It is bound, never put into the text of the query.
    """
    from .lake import parameters  # noqa: PLC0415 - heavy
    from .lake import query as querying  # noqa: PLC0415 - heavy

    values = parameters.parse(options["parameters"])
    _, lake = _asked(options)
    text = sys.stdin.read() if query == "-" else query
    by_ending: list[Format] = [one for one in FORMATS if output and output.suffix == f".{one}"]
    form = "json" if options["as_json"] else form or [*by_ending, FORMATS[0]][0]
    if form == "parquet" and output is None and sys.stdout.isatty():
        raise UsageError("Parquet is not for a terminal; name a file with -o")
    with querying.run(lake, text, values) as result:
        if output is None:
            if form == "json":  # whatever ends the query before all rows are there, half a document is none
                with tempfile.SpooledTemporaryFile(_SPOOLED) as whole:
                    querying.write_result(result, form, cast("BinaryIO", whole))
                    whole.seek(0)
                    _past_stopping()
                    shutil.copyfileobj(whole, sys.stdout.buffer)
            else:
                limit, columns = _screen()
                querying.write_result(result, form, sys.stdout.buffer, limit=limit, columns=columns, notes=sys.stderr)
            sys.stdout.buffer.flush()
            return
        try:
            with output.open("wb") as file:
                querying.write_result(result, form, file)
        except OSError as error:
            raise UsageError(f"cannot write {output}: {error.strerror}") from error


@cli.command()
@question
@common
def shell(**options: Any) -> None:
    """Ask one query after the other, each ended by `;`, in a session; from a pipe without prompts.

    \b
    \\d, \\d NAME    the views and macros, the columns of one
    Ctrl-C         ends the query, not the session
    \\q, Ctrl-D     leave

    From a pipe, the exit code is that of the first query that failed; the others are answered all the same.
    """  # noqa: D301 - as above
    from . import shell as sessions  # noqa: PLC0415 - heavy
    from .lake import parameters  # noqa: PLC0415 - heavy

    if options["as_json"]:
        raise UsageError("etl shell is for people; etl sql --format json answers in JSON")
    values = parameters.parse(options["parameters"])
    settings, lake = _asked(options)
    limit, _ = _screen()
    session = sessions.Session(
        lake, values, sys.stdout.buffer, sys.stderr, _tell_error, limit=limit, columns=lambda: _screen()[1]
    )
    with closing(session):
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            sessions.run(session, sessions.piped(sys.stdin), None, lambda _: None)
            sys.exit(session.exit_code)
        if not options["quiet"]:
            click.echo(f"the lake at {lake}; \\? for help, Ctrl-D leaves", err=True)
        with sessions.terminal(settings.state_dir / "shell_history") as (read, remember):
            sessions.run(session, read, sys.stderr, remember)


@cli.command()
@click.argument("datasets", nargs=-1)
@selection
@click.option("--max-lag", metavar="TIME", help="Exit 1 if a series lags more than this behind this machine's clock, e.g. 2d.")
@click.option("--rebuild", is_flag=True, help="Write the catalog anew from the lake alone.")
@common
def status(datasets: tuple[str, ...], max_lag: str | None, *, rebuild: bool, **options: Any) -> None:
    """Say what is stored: per series first, last, rows, missing, lag, bytes, sources.

    The lag is counted from the end of the last bar to now, or to the end of a contract that is over.
    """
    from . import pipeline  # noqa: PLC0415 - heavy

    _check_names(datasets, options)
    settings = _settings(options)
    store = pipeline.existing(settings)
    if rebuild:
        pipeline.rebuild(store)
    rows = pipeline.status(store, int(time.time() * 1000), _chosen(datasets, options))
    wrong = [f"{row['dataset']} {row['symbol']} cannot be read: {row['error']}" for row in rows if "error" in row]
    if max_lag is not None:
        limit = parse_duration(max_lag) // 1000
        late = sorted((row for row in rows if (row["lag_s"] or 0) > limit), key=lambda row: -row["lag_s"])
        wrong += [f"{len(late)} of {len(rows)} series lag more than {max_lag}, most: {_series(late[0])}"] if late else []
    if options["as_json"]:
        failure = {"error": {"type": "EtlError", "message": "; ".join(wrong)}, "exit_code": 1} if wrong else {}
        _print_json({"series": rows, **failure})
    else:
        click.echo(report.records(rows, ("market", "dataset", "symbol", "interval", *pipeline.STATUS)))
    for message in wrong:
        log.error(message)
    sys.exit(1 if wrong else 0)


@cli.command()
@click.argument("datasets", nargs=-1)
@selection
@click.option(
    "--against",
    type=click.Choice(["archive", "rest"]),
    help="Compare digests and rows with the archive, or a sample with REST.",
)
@common
def verify(datasets: tuple[str, ...], against: Literal["archive", "rest"] | None, **options: Any) -> None:
    """Check what is stored: keys, grid, values, gaps, footers, sums of finer bars, life spans.

    Exit 1 on a finding of severity error, 3 if some series could not be compared. Nothing is written; only --against asks.
    """
    from . import pipeline  # noqa: PLC0415 - heavy
    from . import verify as verifying  # noqa: PLC0415 - heavy

    _check_names(datasets, options)
    settings = _settings(options)
    store = pipeline.existing(settings)
    found = verifying.verify(store, _chosen(datasets, options))
    if against:
        with _stoppable(None) as stop:
            found = verifying.compare(found, store, settings, against, stop=stop, chosen=_chosen(datasets, options))
    code = 1 if not found.sound else SeriesFailed.exit_code if found.failed else 0
    if options["as_json"]:
        counts = {"series": found.series, "files": found.files, "rows": found.rows}
        findings = [report.finding_json(finding) for finding in found.findings]
        failures = [{**series.as_dict(), "error": str(error)} for series, error in found.failed]
        _print_json({"findings": findings, "failed": failures, **counts, "exit_code": code})
    else:
        columns = ("severity", "market", "dataset", "symbol", "interval", "check", "count", "first", "message")
        click.echo(report.records([report.finding_json(finding) for finding in found.findings], columns))
    log.info("verify read %s rows in %s files of %s series", f"{found.rows:,}", f"{found.files:,}", f"{found.series:,}")
    for series, error in found.failed:
        log.error("%s: %s", series, error)
    sys.exit(code)


@cli.command()
@click.argument("datasets", nargs=-1)
@selection
@click.option(
    "--against",
    type=click.Choice(["archive", "rest"]),
    help="Let the rows of that source take the place of those that differ (a sample with REST).",
)
@writing
@common
def repair(datasets: tuple[str, ...], against: Literal["archive", "rest"] | None, **options: Any) -> None:
    """Fetch again what verify and status find missing or wrong, of one source after the other, and say what stays.

    Damaged files are moved to the lake's quarantine folder; a file that loses rows is copied there before. Exit 1 if something
    stays wrong.
    """
    from . import repair as repairing  # noqa: PLC0415 - heavy

    _check_names(datasets, options)
    run_id = uuid.uuid4().hex
    settings = _settings(options, run_id)
    quiet = options["quiet"] or options["dry_run"]
    with _stoppable(options["max_duration"]) as stop:
        outcome = repairing.repair(
            settings,
            _chosen(datasets, options),
            source=options["source"],
            against=against,
            stop=stop,
            progress=_progress(settings, quiet=quiet),
            dry_run=options["dry_run"],
            wait=options["wait"] or 0.0,
            run_id=run_id,
        )
    _tell(outcome, options)


@cli.command()
@click.option("--market", default="um", metavar="NAME", help=f"{', '.join(registry.MARKETS)} (default um).")
@click.option("--at", callback=_time, metavar="TIME", help="Only what traded at that time.")
@source
@common
def symbols(market: str, at: int | None, **options: Any) -> None:
    """Print symbol rules and life spans, also of symbols that the exchange has forgotten but the archive or the lake knows.

    That takes a listing of the archive for each symbol; with --source rest none.
    """
    from .pipeline import Pipeline  # noqa: PLC0415 - heavy

    registry.market(market)
    with Pipeline(_settings(options), source=options["source"]) as pipeline:
        rows = pipeline.symbols(market, at)
    if options["as_json"]:
        _print_json(rows)
    else:
        columns = (
            "symbol",
            "status",
            "contract_type",
            "onboard_time",
            "delivery_time",
            "first_time",
            "last_time",
            "tick_size",
            "step_size",
            "min_notional",
        )
        click.echo(report.records(rows, columns))


@cli.command()
@click.argument("symbol")
@click.option("--market", default="um", metavar="NAME", help="um, cm or spot (default um).")
@common
def quote(symbol: str, market: str, **options: Any) -> None:
    """Print best bid and ask, and the spread in ticks."""
    from .extract.client import spread_in_ticks  # noqa: PLC0415 - heavy

    with _client(market, options) as client:
        rules = client.get_symbol_info(symbol)  # first: it knows which symbols there are
        price = client.get_best_price(symbol)
    if not price["bid"] or not price["ask"]:
        log.warning("%s has no quotes: its status is %s", symbol, rules["status"].iloc[0])
    moment = price["time"]
    row = {
        **price,
        "spread_ticks": spread_in_ticks(price["bid"], price["ask"], float(rules["tick_size"].iloc[0])),
        "time": None if moment is None else iso(from_datetime(moment.to_pydatetime())),
    }
    columns = ("symbol", "bid", "bid_qty", "ask", "ask_qty", "spread_ticks", "time")
    if options["as_json"]:
        _print_json({name: row[name] for name in columns})
    else:
        click.echo(report.records([row], columns))


@cli.command()
@click.argument("symbol")
@click.option("--limit", default=10, show_default=True, help="Levels of each side.")
@click.option("--market", default="um", metavar="NAME", help="um, cm or spot (default um).")
@common
def depth(symbol: str, limit: int, market: str, **options: Any) -> None:
    """Print the order book as a ladder, best prices in the middle."""
    from .extract.client import depth_limits  # noqa: PLC0415 - heavy

    sizes = [size for size in depth_limits(registry.market(market).name) if size >= limit > 0]
    if not sizes:
        raise UsageError(f"--limit {limit} is not in 1 … {max(depth_limits(market))}")
    with _client(market, options) as client:
        client.get_symbol_info(symbol)  # refuses what is not listed
        book = client.get_order_book(symbol, limit=sizes[0])
        now = client.get_server_time()
    sides = {side: book[side][["price", "qty"]].head(limit).to_numpy().tolist() for side in ("bids", "asks")}
    if options["as_json"]:
        _print_json({"symbol": symbol, "time": iso(from_datetime(now.to_pydatetime())), **sides})
        return
    rows = [{"side": "ask", "price": price, "qty": qty} for price, qty in reversed(sides["asks"])]
    rows += [{"side": "bid", "price": price, "qty": qty} for price, qty in sides["bids"]]
    click.echo(report.records(rows, ("side", "price", "qty")))


@cli.command("report")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", required=True, help="The page; - is stdout.")
@click.option(
    "--symbols",
    "--symbol",
    "symbols",
    multiple=True,
    callback=_names,
    metavar="A,B",
    help="Whose bars to draw (default: the largest).",
)
@click.option("--interval", metavar="1h", help="Which of their bars (default: the finest).")
@click.option("--market", default="um", metavar="NAME", help=f"Of these symbols: {', '.join(registry.MARKETS)} (default um).")
@click.option("--at", callback=_time, metavar="TIME", help="Count lags up to that time (default: now).")
@click.option("--no-verify", is_flag=True, help="Do not read every row to look for faults, which takes as long as etl verify.")
@click.option("--no-charts", is_flag=True, help="Draw no bars; then matplotlib is not needed.")
@common
def report_(output: Path, symbols: tuple[str, ...], interval: str | None, **options: Any) -> None:
    """Write one HTML page on the state of the lake: coverage, gaps, lag, size, sources, faults, and a chart.

    The page needs nothing else: it holds no script and asks no network. Whole months and series that are missing come first.
    """
    from .pictures import charts, making, reading  # noqa: PLC0415 - heavy
    from .pipeline import existing  # noqa: PLC0415 - heavy

    if str(output) == "-" and options["as_json"]:
        raise UsageError("--json and the page cannot both go to stdout; name a file with -o")
    if not options["no_charts"]:
        charts.require()
    settings = _settings(options)
    store = existing(settings)
    named = tuple(reading.find(store, "klines", symbol, interval, options["market"]) for symbol in symbols)
    drawn = () if options["no_charts"] else named or tuple(filter(None, [reading.largest(store)]))
    now = int(time.time() * 1000) if options["at"] is None else options["at"]
    text, document = making.report(
        store, now, drawn, network=settings.network, version=__version__, checked=not options["no_verify"]
    )
    _put(output, text.encode(), document, options)


@cli.command()
@click.argument("symbol")
@click.option("--dataset", default="klines", show_default=True, metavar="NAME", help="Any dataset of bars.")
@click.option("--market", default="um", metavar="NAME", help=f"{', '.join(registry.MARKETS)} (default um).")
@click.option("--interval", metavar="1h", help="Which stored bars (default: the finest that reach back as far as the others).")
@span
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Default: SYMBOL.png; - is stdout.")
@click.option("--dark", is_flag=True, help="Light on dark.")
@click.option("--snapshot", metavar="NAME", help="Draw that frozen state of the lake.")
@common
def plot(symbol: str, output: Path | None, snapshot: str | None, **options: Any) -> None:
    """Draw candles, volume and funding of a symbol as a PNG of 1600 × 900.

    Without -o it goes to SYMBOL.png in the working directory (percent-encoded as in the lake), or to stdout where that is no
    terminal. More bars than there is room for are drawn as candles of a coarser grid of the exchange; the title says which.
    """
    from .lake import snapshots  # noqa: PLC0415 - heavy
    from .lake.store import Store  # noqa: PLC0415 - heavy
    from .pictures import charts, making, reading  # noqa: PLC0415 - heavy
    from .pipeline import existing  # noqa: PLC0415 - heavy

    to_stdout = str(output) == "-" or (output is None and not sys.stdout.isatty() and not options["as_json"])
    if to_stdout and (options["as_json"] or sys.stdout.isatty()):
        raise UsageError("a picture is not for a terminal, nor beside --json on stdout; name a file with -o")
    if options["start"] is not None and options["end"] is not None and options["start"] >= options["end"]:
        raise UsageError("--start must lie before --end; the range is half-open, [start, end)")
    charts.require()
    store = existing(_settings(options))
    if snapshot:
        store = Store(snapshots.folder(store.root, snapshot), store.layout)
    series = reading.find(store, options["dataset"], symbol, options["interval"], options["market"])
    chart = reading.chart_of(store, series, options["start"], options["end"], charts.MOST_IN_PNG)
    content, document = making.plot(chart, dark=options["dark"], about=f"snapshot {snapshot}" if snapshot else "")
    _put(Path("-") if to_stdout else output or Path(f"{encoded(symbol, safe='')}.png"), content, document, options)


@cli.command()
@click.option("--port", default=0, show_default=True, help="Port on loopback; 0 takes a free one.")
@click.option(
    "--replay", type=click.Path(path_type=Path), metavar="FOLDER", help="Serve recorded files instead of a generated market."
)
@click.option("--faults", type=click.Path(path_type=Path), metavar="FILE", help="TOML or JSON file of faults to inject.")
@click.option("--seed", default=0, show_default=True, help="Of the generated market.")
@click.option("--clock", callback=_time, metavar="TIME", help="The exchange's time at the start (default: now).")
@click.option("--frozen", is_flag=True, help="Let the exchange's clock stand still.")
@click.option("--latency", default=0.0, metavar="MS", help="Milliseconds that each answer takes longer.")
@click.option("--weight-limit", default=2400, show_default=True, help="Weight a minute of um and cm together.")
@click.option("-q", "--quiet", is_flag=True, help="Do not say which recorded files are left out.")
def sim(clock: int | None, latency: float, **options: Any) -> None:
    """Run the embedded exchange on loopback; the first line on stdout is its base URL.

    Point etl at it: ETL_UM_URL, ETL_CM_URL, ETL_SPOT_URL, ETL_ARCHIVE_URL and ETL_ARCHIVE_INDEX_URL all take that URL.
    """
    from . import sim as exchange  # noqa: PLC0415 - heavy

    exchange.serve(start_ms=clock, latency_ms=latency, **options)


@cli.command()
@common
def demo(**options: Any) -> None:
    """Backfill, update and query against the embedded exchange, without the internet, and compare every row."""
    from . import demo as showing  # noqa: PLC0415 - heavy

    if options["as_json"]:
        raise UsageError("the demo is for people; it has no JSON document")
    settings = _settings({**options, "quiet": not options["verbose"]})
    lake = Path(options["lake"]) if options["lake"] else None
    showing.run(settings, click.echo, lambda: _progress(settings, quiet=options["quiet"] or not sys.stderr.isatty()), lake)


@cli.group("snapshot")
def snapshot_() -> None:
    """Frozen states of the lake, which stay as they are whatever is stored later.

    \b
    etl snapshot create 2026-q1
    etl sql --snapshot 2026-q1 "SELECT * FROM bars('BTCUSDT', '1m') LIMIT 5"
    etl snapshot diff 2026-q1 now
    """  # noqa: D301 - as above


@snapshot_.command("create")
@click.argument("name")
@click.option("--dry-run", is_flag=True, help="Say what it would hold, write nothing.")
@waiting
@common
def snapshot_create(name: str, *, dry_run: bool, **options: Any) -> None:
    """Freeze the lake as it is under that name: hard links, which take no space while the lake has the same files."""
    from .lake import snapshots  # noqa: PLC0415 - heavy
    from .pipeline import existing  # noqa: PLC0415 - heavy

    store = existing(_settings(options))
    if dry_run:
        made = snapshots.planned(store, name)
    else:
        with _stoppable(options["max_duration"]) as stop:
            made = snapshots.create(store, name, wait=options["wait"] or 0.0, sleep=stop.wait)
    document = made.as_dict()
    if options["as_json"]:
        _print_json(document)
    else:
        click.echo(report.records([document], tuple(document)))


@snapshot_.command("list")
@common
def snapshot_list(**options: Any) -> None:
    """Say which there are; `own_bytes` is what nothing else holds, and dropping it sets free."""
    from .lake import snapshots  # noqa: PLC0415 - heavy
    from .pipeline import existing  # noqa: PLC0415 - heavy

    rows = snapshots.listing(existing(_settings(options)).root)
    wrong = [f"snapshot {row['name']} cannot be read: {row['error']}" for row in rows if "error" in row]
    if options["as_json"]:
        failure = {"error": {"type": "LakeError", "message": "; ".join(wrong)}, "exit_code": 1} if wrong else {}
        _print_json({"snapshots": rows, **failure})
    else:
        click.echo(report.records(rows, snapshots.LISTED))
    for message in wrong:
        log.error(message)
    sys.exit(1 if wrong else 0)


@snapshot_.command("diff")
@click.argument("before")
@click.argument("after", default="now")
@common
def snapshot_diff(before: str, after: str, **options: Any) -> None:
    """Say which series and rows differ between two; `now`, the default of the second, is the lake as it is."""
    from .lake import snapshots  # noqa: PLC0415 - heavy
    from .pipeline import existing  # noqa: PLC0415 - heavy

    found = snapshots.diff(existing(_settings(options)), before, after)
    rows = [change.as_dict() for change in found.series]
    files = [{"path": path, "change": change} for path, change in found.files.items()]
    if options["as_json"]:
        _print_json({"before": before, "after": after, "series": rows, "files": files})
        return
    click.echo(report.records([_change_row(row) for row in rows], _CHANGE))
    for file in files:
        click.echo(f"{file['path']} {file['change']}")


_CHANGE = ("market", "dataset", "symbol", "interval", "partitions", "added", "removed", "changed", "first", "example")


def _change_row(row: dict[str, Any]) -> dict[str, Any]:
    """What a terminal shows of a series that differs: partitions as `+new -gone ~changed`, of the example what changed."""
    marks = {"+": "added", "-": "removed", "~": "changed"}
    partitions = [f"{mark}{name}" for mark, kind in marks.items() for name in row[f"partitions_{kind}"]]
    counts = {kind: row[f"rows_{kind}"] for kind in marks.values()}
    example = row["example"]
    if example is not None:
        before, after = example["before"], example["after"]
        values = (f"{name} {before[name]} → {after[name]}" for name in before if before[name] != after[name])
        example = f"{example['time']}: {', '.join(values)}"
    return {**row, **counts, "partitions": partitions, "example": example}


@snapshot_.command("drop")
@click.argument("name")
@waiting
@common
def snapshot_drop(name: str, **options: Any) -> None:
    """Take a snapshot away; what it shares with the lake and with other snapshots stays there."""
    from .lake import snapshots  # noqa: PLC0415 - heavy
    from .pipeline import existing  # noqa: PLC0415 - heavy

    store = existing(_settings(options))
    with _stoppable(options["max_duration"]) as stop:
        snapshots.drop(store, name, wait=options["wait"] or 0.0, sleep=stop.wait)
    if options["as_json"]:
        _print_json({"dropped": name})
    log.info("snapshot %s is dropped", name)


@snapshot_.command("verify")
@click.argument("name")
@common
def snapshot_verify(name: str, **options: Any) -> None:
    """Compare every file of a snapshot with the SHA-256 in its manifest; exit 1 if one is not as it was."""
    from .lake import snapshots  # noqa: PLC0415 - heavy
    from .pipeline import existing  # noqa: PLC0415 - heavy

    found = snapshots.verify(existing(_settings(options)).root, name)
    if options["as_json"]:
        _print_json({"findings": found, "exit_code": 1 if found else 0})
    else:
        click.echo(report.records(found, ("path", "message")))
    sys.exit(1 if found else 0)


@cli.command("export")
@click.argument("datasets", nargs=-1)
@click.option("--to", "tool", required=True, metavar="TOOL", help="freqtrade, nautilus, backtesting, vectorbt or csv.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="FOLDER", help="Where it goes.")
@click.option("--snapshot", metavar="NAME", help="Export that frozen state of the lake.")
@selection
@span
@common
def export_(datasets: tuple[str, ...], tool: str, output: Path, snapshot: str | None, **options: Any) -> None:
    """Write series for a backtesting tool, in the files that it reads.

    Without DATASETS what the tool needs, without --symbols every stored symbol, without --interval every stored interval of one
    market (default um). Files of the same names are replaced, each as a whole; nothing else in FOLDER is touched.
    """
    from .export import run, tools  # noqa: PLC0415 - heavy
    from .lake import snapshots  # noqa: PLC0415 - heavy
    from .lake.store import Store  # noqa: PLC0415 - heavy
    from .pipeline import existing  # noqa: PLC0415 - heavy

    _check_names(datasets, options)
    chosen = tools.tool(tool)
    start, end = options["start"] or 0, MAX_TIME if options["end"] is None else options["end"]
    if start >= end:
        raise UsageError("--start must lie before --end; the range is half-open, [start, end)")
    wish = run.Wish(options["market"] or "um", datasets, options["symbols"], options["intervals"], TimeRange(start, end))
    settings = _settings(options)
    store = existing(settings)
    if snapshot:
        store = Store(snapshots.folder(store.root, snapshot), store.layout)
    with _stoppable(None) as stop:
        done = run.export(store, chosen, wish, output, stop.is_set)
    rows = [one.as_dict() for one in done.files]
    if options["as_json"]:
        left = [{**series.as_dict(), "reason": reason} for series, reason in done.left_out]
        gaps = [report.span_json(series, gap) for series, gap in done.gaps]
        _print_json({"tool": tool, "folder": str(output), "files": rows, "left_out": left, "gaps": gaps, "notes": done.notes})
    else:
        click.echo(report.records(rows, ("dataset", "symbol", "interval", "rows", "first", "last", "path")))
    for series, reason in done.left_out:
        log.warning("%s is left out: %s", series, reason, extra=_fields(series.as_dict()))
    for line in report.gaps_text((series, gap, "is not in the lake") for series, gap in done.gaps):
        log.warning("gap %s", line.strip())
    for note in done.notes:
        log.warning("%s", note)


# What the commands share


def _check_names(datasets: Sequence[str], options: dict[str, Any]) -> None:
    for name in datasets:
        registry.dataset(name)
    for name in options["intervals"]:
        registry.interval(name)
    if options["market"] is not None:
        registry.market(options["market"])


def _narrowed(kept: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[str, ...]:
    """What of `kept` is wanted; everything where nothing is named, and whatever is wanted where all are kept."""
    if not wanted or set(wanted) & {"all", "ever"}:
        return kept
    return wanted if "all" in kept else tuple(name for name in kept if name in wanted)


def _chosen(datasets: Sequence[str], options: dict[str, Any]) -> Callable[[Series], bool]:
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


def _series(row: dict[str, Any]) -> str:
    return " ".join(row[key] for key in ("market", "dataset", "symbol", "interval") if row[key])


def _settings(options: dict[str, Any], run_id: str | None = None) -> Settings:
    given = {name: options.get(name) for name in ("lake", "weight_share", "workers")}
    settings = config.load({**given, "config": options["config_file"]}, env=os.environ, cwd=Path.cwd())
    _start_log(settings.log_format, verbose=options["verbose"], quiet=options["quiet"], run_id=run_id)
    return settings


def _asked(options: dict[str, Any]) -> tuple[Settings, Path]:
    """The settings, and the folder of the lake, or of its snapshot, that is to be read."""
    from .lake import snapshots  # noqa: PLC0415 - heavy
    from .pipeline import existing  # noqa: PLC0415 - heavy

    settings = _settings(options)
    existing(settings)  # the lake is there, and of the network that the settings name
    name = options["snapshot"]
    return settings, snapshots.folder(settings.lake, name) if name else settings.lake


def _screen() -> tuple[int | None, int | None]:
    """How many rows and how many columns of a terminal a table may have; None where stdout is none."""
    if not sys.stdout.isatty():
        return None, None
    return TERMINAL_ROWS, os.get_terminal_size(sys.stdout.fileno()).columns or None


@contextmanager
def _client(market: str, options: dict[str, Any]) -> Iterator[Any]:
    from .extract.client import BinanceFuturesClient  # noqa: PLC0415 - heavy

    settings = _settings(options)
    registry.market(market)
    with BinanceFuturesClient(base_url=getattr(settings, f"{market}_url"), market=market, settings=settings) as client:
        yield client


def _sync(
    command: str,
    options: dict[str, Any],
    selections: list[Selection],
    *,
    stored: Callable[[Series], bool] | None,
    lookback: int = 0,
) -> NoReturn:
    """Run, print the outcome in the way that was asked for, and exit with its code."""
    from .pipeline import Pipeline  # noqa: PLC0415 - heavy

    run_id = uuid.uuid4().hex
    settings = _settings(options, run_id)
    progress = _progress(settings, quiet=options["quiet"] or options["dry_run"])
    with (
        _stoppable(options["max_duration"]) as stop,
        Pipeline(settings, source=options["source"], stop=stop, progress=progress, run_id=run_id) as pipeline,
    ):
        outcome = pipeline.sync(
            command, selections, stored=stored, lookback=lookback, dry_run=options["dry_run"], wait=options["wait"] or 0.0
        )
    _tell(outcome, options)


def _tell(outcome: Outcome, options: dict[str, Any]) -> NoReturn:
    """Print the outcome in the way that was asked for, and exit with its code."""
    if outcome.dry_run:
        prepared = outcome.requests, outcome.weight
        if options["as_json"]:
            document = report.plan_json(outcome.jobs, outcome.eta_s, prepared)
            _print_json({**document, **_failures(outcome)})
        else:
            click.echo(report.plan_text(outcome.jobs, outcome.eta_s, prepared))
        for series, error in outcome.failed:
            log.error("%s cannot be planned: %s", series, error, extra=_fields(series.as_dict(), _error_fields(error)))
        sys.exit(outcome.exit_code)
    if options["as_json"]:
        _print_json(_outcome_json(outcome))
    _say_outcome(outcome)
    sys.exit(outcome.exit_code)


def _numbers(outcome: Outcome) -> dict[str, Any]:
    return {
        "rows_written": outcome.rows_written,
        "partitions_written": outcome.partitions_written,
        "requests": outcome.requests,
        "weight": outcome.weight,
        "bytes_downloaded": outcome.bytes_downloaded,
        "elapsed_s": round(outcome.elapsed_s, 3),
    }


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    document: dict[str, Any] = {
        "run_id": outcome.run_id,
        **_numbers(outcome),
        "gaps": [{**report.span_json(gap.series, gap.span), "verdict": gap.verdict} for gap in outcome.gaps],
        "changed": [report.finding_json(finding) for finding in outcome.findings if finding.check == "changed"],
        "findings": [report.finding_json(finding) for finding in outcome.findings if finding.check != "changed"],
        **({"left": [report.finding_json(finding) for finding in outcome.left]} if outcome.command == "repair" else {}),
        **_failures(outcome),
    }
    return document


def _failures(outcome: Outcome) -> dict[str, Any]:
    failures: dict[str, Any] = {
        "failed": [{**series.as_dict(), "error": str(error)} for series, error in outcome.failed],
        "exit_code": outcome.exit_code,
    }
    if outcome.exit_code:
        error = outcome.stopped or (
            SeriesFailed(f"{len(outcome.failed)} series failed; what could be fetched is stored")
            if outcome.failed
            else EtlError(f"{len(outcome.left)} findings stay, because no source has it otherwise")
        )
        failures["error"] = {"type": type(error).__name__, "message": str(error)}
    return failures


def _say_outcome(outcome: Outcome) -> None:
    for finding in outcome.findings:
        log.warning("%s: %s", finding.series, finding.message, extra=_fields(_finding_fields(finding)))
    for finding in outcome.left:
        log.error(
            "%s stays as it is, because every source that was asked has it so: %s",
            finding.series,
            finding.message,
            extra=_fields(_finding_fields(finding)),
        )
    for series, error in outcome.failed:
        log.error("%s failed: %s", series, error, extra=_fields(series.as_dict(), _error_fields(error)))
    for line in report.gaps_text((gap.series, gap.span, gap.verdict) for gap in outcome.gaps):
        log.warning("gap %s", line.strip())
    if outcome.stopped is not None:
        log.error("%s", outcome.stopped, extra=_fields(_error_fields(outcome.stopped)))
    counts = {"failed": len(outcome.failed), "gaps": len(outcome.gaps), "findings": len(outcome.findings)}
    # The last line of every run; -q leaves it out where nothing went wrong.
    log.log(
        logging.ERROR if outcome.exit_code else logging.INFO,
        "%s %s: %s rows in %s files, %s requests, weight %s, %s, run %s",
        outcome.command,
        f"ended with exit code {outcome.exit_code}" if outcome.exit_code else "done",
        f"{outcome.rows_written:,}",
        f"{outcome.partitions_written:,}",
        f"{outcome.requests:,}",
        f"{outcome.weight:,}",
        report.duration(outcome.elapsed_s),
        outcome.run_id,
        extra=_fields(_numbers(outcome), counts, {"exit_code": outcome.exit_code}),
    )


def _fields(*parts: dict[str, Any]) -> dict[str, Any]:
    """The argument `extra` of a log call that gives the JSON line these fields."""
    return {"fields": {name: value for part in parts for name, value in part.items()}}


def _error_fields(error: EtlError) -> dict[str, Any]:
    return {"error_type": type(error).__name__}


def _finding_fields(finding: Finding) -> dict[str, Any]:
    return {name: value for name, value in report.finding_json(finding).items() if name not in {"message", "times"}}


@contextmanager
def _stoppable(max_duration: float | None) -> Iterator[Stop]:
    """SIGINT, SIGTERM and --max-duration ask the run to end cleanly; a second signal ends it at once."""
    from .pipeline import Stop  # noqa: PLC0415 - heavy

    stop = Stop()
    signals: list[int] = []

    def ask(exit_code: int, why: str) -> None:
        if stop.is_set():
            return
        log.warning("%s: what is under way is finished or dropped, what is done stays", why)
        stop.exit_code = exit_code
        stop.set()

    def signalled(number: int, _: object) -> None:
        if signals:
            os._exit(128 + number)
        signals.append(number)
        ask(128 + number, "stopping, once more ends it at once")

    before = {number: signal.signal(number, signalled) for number in (signal.SIGINT, signal.SIGTERM)}
    timer = threading.Timer(max_duration or 0, ask, (SeriesFailed.exit_code, "--max-duration is over"))
    timer.daemon = True
    if max_duration:
        timer.start()
    try:
        yield stop
    except Cancelled as error:
        error.exit_code = stop.exit_code
        raise
    finally:
        timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def _progress(settings: Settings, *, quiet: bool) -> Progress:
    from . import pipeline, progress  # noqa: PLC0415 - heavy

    if quiet:
        return pipeline.Progress()
    if sys.stderr.isatty() and settings.log_format == "text":
        return progress.Bar()
    return progress.Lines()


def _put(output: Path, content: bytes, document: dict[str, Any], options: dict[str, Any]) -> None:
    """Write a picture to a file, or to stdout where it is `-`, and say so."""
    from .pictures import making  # noqa: PLC0415 - heavy

    if str(output) == "-":
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    making.write(output, content)
    log.info("wrote %s (%s bytes)", output, f"{len(content):,}")
    if options["as_json"]:
        _print_json({"output": str(output), **document})


def _print_json(document: object) -> None:
    """The one document of the command."""
    text = json.dumps(document, ensure_ascii=False, allow_nan=False)
    _past_stopping()
    click.echo(text)


_told = threading.Event()


def _past_stopping() -> None:
    """The outcome stands and is being told: a signal comes too late to change it; a second one still ends it at once."""
    signals: list[int] = []

    def late(number: int, _: object) -> None:
        if signals:
            os._exit(128 + number)
        signals.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, late)
    _told.set()


_signals: list[int] = []


def _signalled(number: int, _: object) -> NoReturn:
    """End a command in which nothing is to be brought to an end; whatever error comes of it, this is why."""
    _signals.append(number)
    raise KeyboardInterrupt


class _TextLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))


class _JsonLines(logging.Formatter):
    """One JSON object a line: time, level, message, what the record says in `fields`, and what all lines of a command share."""

    def __init__(self, shared: dict[str, Any]) -> None:
        super().__init__()
        self._shared = shared

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": iso(int(record.created * 1000)),
            "level": record.levelname.lower(),
            "message": record.getMessage().strip(),
            **self._shared,
            **getattr(record, "fields", {}),
            **({"traceback": self.formatException(record.exc_info)} if record.exc_info else {}),
        }
        # In ASCII: under a scheduler the encoding of stderr may be anything.
        return json.dumps({name: masked(value) if isinstance(value, str) else value for name, value in line.items()})


def _start_log(form: str, *, verbose: int = 0, quiet: bool = False, run_id: str | None = None) -> None:
    """Everything that this process says on stderr goes through one handler: our lines, and warnings of libraries."""
    shared = {"command": _command(), **({"run_id": run_id} if run_id else {})}
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines(shared) if form == "json" else _TextLines("%(levelname).1s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.captureWarnings(capture=True)
    log.setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO)


def _logs_json() -> bool:
    return any(isinstance(handler.formatter, _JsonLines) for handler in logging.getLogger().handlers)


def _command() -> str | None:
    """The command that was typed, also where the rest of the line is not understood."""
    return next((word for word in sys.argv[1:] if not word.startswith("-")), None)


def main() -> NoReturn:
    """Run a command; errors become one message on stderr, one document with --json, and the exit code of their type."""
    as_json = "--json" in sys.argv[1:]
    try:
        if as_json:  # a document is owed, whatever ends the command
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, _signalled)
        _run(as_json=as_json)
    except (click.Abort, KeyboardInterrupt):
        _fail(Cancelled("interrupted"), 130, as_json=as_json)


def _run(*, as_json: bool) -> NoReturn:
    # Until the settings are known: what is wrong with them must be said in the same form.
    _start_log("json" if os.environ.get("ETL_LOG_FORMAT") == "json" else "text")
    try:
        cli.main(standalone_mode=False)
    except SystemExit as end:
        _leave(int(end.code or 0))
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.Abort:
        raise
    except click.ClickException as error:
        if not (as_json or _logs_json()):
            error.show()
            sys.exit(error.exit_code)
        _fail(UsageError(error.format_message()), error.exit_code, as_json=as_json)
    except _ReaderLeft:  # nothing is wrong, and nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except EtlError as error:
        _fail(error, error.exit_code, as_json=as_json)
    except OSError as error:
        log.debug("where it happened:", exc_info=error)
        told = EtlError(f"the system refuses: {error}; look at the disk, and at the limits and rights of this process")
        _fail(told, EtlError.exit_code, as_json=as_json)
    except Exception as error:
        log.debug("where it happened:", exc_info=error)
        told = EtlError(
            f"unexpected {type(error).__name__}: {error}; this is a bug: run again with -v and report what it prints"
        )
        _fail(told, EtlError.exit_code, as_json=as_json)
    sys.exit(0)


def _leave(exit_code: int) -> NoReturn:
    """End the process without the interpreter's teardown, which takes 0.1 to 0.2 s after a large run and finds nothing to do.

    A command that exits has left all its contexts: files are closed and synced, the lock is dropped, threads are joined.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def _fail(error: EtlError, exit_code: int, *, as_json: bool) -> NoReturn:
    if _signals and not _told.is_set():
        error, exit_code = Cancelled("interrupted" if _signals[0] == signal.SIGINT else "terminated"), 128 + _signals[0]
    message = masked(str(error))
    if as_json and not _told.is_set():
        _print_json({"error": {"type": type(error).__name__, "message": message}, "exit_code": exit_code})
    _tell_error(error, exit_code)
    _leave(exit_code)


def _tell_error(error: EtlError, exit_code: int | None = None) -> None:
    message = masked(str(error))
    if _logs_json():
        log.error("%s", message, extra=_fields(_error_fields(error), {"exit_code": exit_code or error.exit_code}))
    else:
        click.echo(f"etl: {message}", err=True)
