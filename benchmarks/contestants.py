"""Other clients, used as their documentation shows. As a script it runs one of them, which writes one Parquet file:
`python contestants.py NAME URL FILE START END SYMBOL…`, times in ms UTC, the end exclusive.

Only documented knobs are set: base URL, page size, ccxt's `rateLimit`. A client is imported only where it runs, because its
memory is measured.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

MINUTE = 60_000
COLUMNS = "open_time open high low close volume close_time quote_volume count taker_buy_volume taker_buy_quote_volume ignore"

Rows = list[list[Any]]
Fetch = Callable[[str, int, int], Rows]


class Peer(NamedTuple):
    """A way to use a package: `connect(url)` gives the function that fetches one symbol in [start, end)."""

    package: str
    how: str
    connect: Callable[[str], Fetch]
    paced: bool = True
    """Whether it sleeps of its own accord, which decides how long it takes."""


def _ccxt(url: str, **options: Any) -> Fetch:
    import ccxt

    limit = options.pop("limit")
    exchange = ccxt.binanceusdm({"enableRateLimit": True, **options})
    exchange.urls["api"]["fapiPublic"] = f"{url}/fapi/v1"
    exchange.load_markets()
    return _loop(lambda symbol, start, end: exchange.fetch_ohlcv(symbol, "1m", start, limit, {"until": end - 1}))


def _binance(url: str, *, plain: bool) -> Fetch:
    from binance.client import Client

    client = Client(ping=False)  # it would ping the spot market
    client.FUTURES_URL = f"{url}/fapi"
    if not plain:
        return lambda symbol, start, end: client.futures_historical_klines(symbol, "1m", start, end - 1)
    page = partial(client.futures_klines, interval="1m", limit=1500)
    return _loop(lambda symbol, start, end: page(symbol=symbol, startTime=start, endTime=end - 1))


def _loop(page: Fetch) -> Fetch:
    """The loop that both projects show: go on behind the last bar, until there is none."""

    def fetch(symbol: str, start: int, end: int) -> Rows:
        rows: Rows = []
        while start < end and (more := page(symbol, start, end)):
            rows += more
            start = more[-1][0] + MINUTE
        return rows

    return fetch


PEERS = {
    "ccxt 1500": Peer(
        "ccxt",
        "fetch_ohlcv with limit=1500, of which ccxt sends 1000, at its own pace of 50 ms a unit of weight: half the limit",
        partial(_ccxt, limit=1500),
    ),
    "ccxt 499": Peer("ccxt", "the same with limit=499, the page with the most rows per weight", partial(_ccxt, limit=499)),
    "ccxt 499 at 0.9": Peer(
        "ccxt", "the same with rateLimit=28: 0.9 of the limit, as etl's default", partial(_ccxt, limit=499, rateLimit=28)
    ),
    "python-binance": Peer(
        "python-binance",
        "futures_historical_klines: pages of 1000, after every third a second of sleep",
        partial(_binance, plain=False),
    ),
    "python-binance loop": Peer(
        "python-binance",
        "futures_klines in a plain loop with limit=1500: no pace, no retry",
        partial(_binance, plain=True),
        paced=False,
    ),
}


def main() -> None:
    name, url, file, start, end, *symbols = sys.argv[1:]
    fetch = PEERS[name].connect(url)

    import pandas as pd

    frames = []
    for symbol in symbols:
        rows = fetch(symbol, int(start), int(end))
        frame = pd.DataFrame(rows, columns=COLUMNS.split()[: len(rows[0])]).drop(columns="ignore", errors="ignore")
        texts = frame.columns.difference(["open_time", "close_time", "count"])
        frames.append(frame.astype(dict.fromkeys(texts, float)).assign(symbol=symbol))
    pd.concat(frames).to_parquet(file, index=False)


if __name__ == "__main__":
    main()
