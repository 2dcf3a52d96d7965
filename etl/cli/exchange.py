"""`etl symbols`, `etl quote` and `etl depth` ask the exchange; `etl sim` and `etl demo` are one without the internet."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from .. import registry
from ..errors import UsageError
from ..ranges import from_datetime, iso
from .opening import load_settings, progress_for
from .options import MARKETS, as_time, common, one_market, source
from .output import show

log = logging.getLogger("etl")


@click.command()
@one_market(MARKETS)
@click.option("--at", callback=as_time, metavar="TIME", help="Only what traded at that time.")
@source
@common
def symbols(market: str, at: int | None, **options: Any) -> None:
    """Print symbol rules and life spans, also of symbols that the exchange has forgotten but the archive or the lake knows.

    That takes a listing of the archive for each symbol; with --source rest none.
    """
    from ..pipeline import Pipeline  # noqa: PLC0415 - heavy

    registry.market(market)
    with Pipeline(load_settings(options), source=options["source"]) as pipeline:
        rows = pipeline.symbols(market, at)
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
    show(rows, rows, columns, as_json=options["as_json"])


@click.command()
@click.argument("symbol")
@one_market("um, cm or spot")
@common
def quote(symbol: str, market: str, **options: Any) -> None:
    """Print best bid and ask, and the spread in ticks."""
    from ..extract.client import spread_in_ticks  # noqa: PLC0415 - heavy

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
    show({name: row[name] for name in columns}, [row], columns, as_json=options["as_json"])


@click.command()
@click.argument("symbol")
@click.option("--limit", default=10, show_default=True, help="Levels of each side.")
@one_market("um, cm or spot")
@common
def depth(symbol: str, limit: int, market: str, **options: Any) -> None:
    """Print the order book as a ladder, best prices in the middle."""
    from ..extract.client import depth_limits  # noqa: PLC0415 - heavy

    sizes = [size for size in depth_limits(registry.market(market).name) if size >= limit > 0]
    if not sizes:
        raise UsageError(f"--limit {limit} is not in 1 … {max(depth_limits(market))}")
    with _client(market, options) as client:
        client.get_symbol_info(symbol)  # refuses what is not listed
        book = client.get_order_book(symbol, limit=sizes[0])
        now = client.get_server_time()
    sides = {side: book[side][["price", "qty"]].head(limit).to_numpy().tolist() for side in ("bids", "asks")}
    document = {"symbol": symbol, "time": iso(from_datetime(now.to_pydatetime())), **sides}
    rows = [{"side": "ask", "price": price, "qty": qty} for price, qty in reversed(sides["asks"])]
    rows += [{"side": "bid", "price": price, "qty": qty} for price, qty in sides["bids"]]
    show(document, rows, ("side", "price", "qty"), as_json=options["as_json"])


@click.command()
@click.option("--port", default=0, show_default=True, help="Port on loopback; 0 takes a free one.")
@click.option(
    "--replay", type=click.Path(path_type=Path), metavar="FOLDER", help="Serve recorded files instead of a generated market."
)
@click.option("--faults", type=click.Path(path_type=Path), metavar="FILE", help="TOML or JSON file of faults to inject.")
@click.option("--seed", default=0, show_default=True, help="Of the generated market.")
@click.option("--clock", callback=as_time, metavar="TIME", help="The exchange's time at the start (default: now).")
@click.option("--frozen", is_flag=True, help="Let the exchange's clock stand still.")
@click.option("--latency", default=0.0, metavar="MS", help="Milliseconds that each answer takes longer.")
@click.option("--weight-limit", default=2400, show_default=True, help="Weight a minute of um and cm together.")
@click.option("-q", "--quiet", is_flag=True, help="Do not say which recorded files are left out.")
def sim(clock: int | None, latency: float, **options: Any) -> None:
    """Run the embedded exchange on loopback; the first line on stdout is its base URL.

    Point etl at it: ETL_UM_URL, ETL_CM_URL, ETL_SPOT_URL, ETL_ARCHIVE_URL and ETL_ARCHIVE_INDEX_URL all take that URL.
    """
    from .. import sim as exchange  # noqa: PLC0415 - heavy

    exchange.serve(start_ms=clock, latency_ms=latency, **options)


@click.command()
@common
def demo(**options: Any) -> None:
    """Backfill, update and query against the embedded exchange, without the internet, and compare every row."""
    from .. import demo as showing  # noqa: PLC0415 - heavy

    if options["as_json"]:
        raise UsageError("the demo is for people; it has no JSON document")
    settings = load_settings({**options, "quiet": not options["verbose"]})
    lake = Path(options["lake"]) if options["lake"] else None
    showing.run(settings, click.echo, lambda: progress_for(settings, quiet=options["quiet"] or not sys.stderr.isatty()), lake)


@contextmanager
def _client(market: str, options: dict[str, Any]) -> Iterator[Any]:
    from ..extract.client import BinanceFuturesClient  # noqa: PLC0415 - heavy

    settings = load_settings(options)
    registry.market(market)
    with BinanceFuturesClient(base_url=getattr(settings, f"{market}_url"), market=market, settings=settings) as client:
        yield client
