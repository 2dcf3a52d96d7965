"""Other readers of the bulk archive. As a script, run by the Python where the package is, it fills a folder:
`python archive_peers.py NAME URL FOLDER START END SYMBOL…`, days as 2026-08-01, the end exclusive. A symbol's rows go to
`FOLDER/SYMBOL/`.

Addresses are set where the package has a setting for them, else in its constant or method that holds them; nothing else is
changed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

# url, folder of a symbol, symbol, first day, last day
Fetch = Callable[[str, Path, str, date, date], object]


class Peer(NamedTuple):
    """A way to use a package to store 1m bars of a USD-M contract."""

    package: str
    how: str
    fetch: Fetch


def _binance_vision(url: str, folder: Path, symbol: str, first: date, last: date) -> None:
    from binance_vision import _core, fetch_data

    _core.BASE_URL = url
    found = fetch_data(symbol, first, last, "um", "klines", "1m", output_path=str(folder / "bars.parquet"))
    if found.missing or found.failed:
        sys.exit(f"{found}")


def _nekojiru(url: str, folder: Path, symbol: str, first: date, last: date) -> None:
    from nekojiru_binance import sync

    sync("klines", "um", symbol, str(first), str(last), str(folder.resolve()), interval="1m", base_url=url)


def _historical_data(url: str, folder: Path, symbol: str, first: date, last: date) -> None:
    from xml.etree import ElementTree as ET

    from binance_historical_data import BinanceDataDumper

    class Dumper(BinanceDataDumper):  # type: ignore[misc]  # the peer is not installed where types are checked
        _base_url = property(lambda _: f"{url}/data", lambda *_: None)

        def get_list_all_trading_pairs(self) -> list[str]:
            return [symbol]  # it would ask ipinfo.io and the exchange

        def _get_list_all_available_files(self, prefix: str = "") -> list[str | None]:
            with urlopen(f"{url}/?delimiter=/&prefix=data/{prefix}/") as page:  # it reads this address from the site's HTML
                return [key.text for key in ET.fromstring(page.read()).iter("{http://s3.amazonaws.com/doc/2006-03-01/}Key")]

    dumper = Dumper(str(folder), asset_class="um", data_type="klines", data_frequency="1m")
    dumper.dump_data(tickers=[symbol], date_start=first, date_end=last)


def _freqtrade(url: str, folder: Path, symbol: str, first: date, last: date) -> None:
    import asyncio

    from freqtrade.data.history import get_datahandler
    from freqtrade.enums import CandleType
    from freqtrade.exchange import binance_public_data as public

    named = public.binance_vision_ohlcv_zip_url
    public.binance_vision_ohlcv_zip_url = lambda *given: named(*given).replace("https://data.binance.vision", url)
    since, until = (int(datetime(*day.timetuple()[:3], tzinfo=UTC).timestamp() * 1000) for day in (first, last + timedelta(1)))
    pair = f"{symbol.removesuffix('USDT')}/USDT:USDT"
    bars = asyncio.run(
        public.download_archive_ohlcv(
            CandleType.FUTURES, pair, "1m", since_ms=since, until_ms=until, markets={pair: {"id": symbol}}
        )
    )
    (folder / "futures").mkdir()
    get_datahandler(folder, "feather").ohlcv_store(pair, "1m", bars, CandleType.FUTURES)


PEERS = {
    "binance-vision": Peer("binance-vision", "fetch_data into a Parquet file: months, eight at once, pandas", _binance_vision),
    "nekojiru-binance": Peer("nekojiru-binance", "sync into Parquet files: months, written in Rust", _nekojiru),
    "binance-historical-data": Peer(
        "binance-historical-data", "dump_data: months, but days of the last one, left as CSV as they came", _historical_data
    ),
    "freqtrade": Peer(
        "freqtrade", "the archive's part of download-data: days, of which it keeps six columns, into a Feather file", _freqtrade
    ),
}


def main() -> None:
    name, url, output, start, end, *symbols = sys.argv[1:]
    first, last = date.fromisoformat(start), date.fromisoformat(end) - timedelta(1)
    for symbol in symbols:
        folder = Path(output, symbol)
        folder.mkdir(parents=True)
        PEERS[name].fetch(url, folder, symbol, first, last)


def installed(python: Path, package: str) -> Any:
    """The version of a package where `python` is, or None."""
    import subprocess

    asked = f"from importlib.metadata import version; print(version({package!r}))"
    found = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


if __name__ == "__main__":
    main()
