"""Who a symbol is to each tool: expected names are written by hand."""

import pytest

from etl.errors import UsageError
from etl.export import tools
from etl.export.contracts import contract
from etl.model import Series
from etl.ranges import ALWAYS, TimeRange

TIMES = ("first_time", "last_time", "onboard_time", "delivery_time")
UNKNOWN = dict.fromkeys(("base_asset", "quote_asset", "contract_type", *TIMES))


def told(base, quote, kind, **more):
    rules = {"tick_size": 0.1, "step_size": 0.001}
    return [{**UNKNOWN, **rules, "base_asset": base, "quote_asset": quote, "contract_type": kind, **more}]


@pytest.mark.parametrize(
    ("market", "symbol", "rows", "pair", "file"),
    [
        ("um", "BTCUSDT", told("BTC", "USDT", "PERPETUAL"), "BTC/USDT:USDT", "futures/BTC_USDT_USDT-1M-futures"),
        ("um", "ETHBTC", told("ETH", "BTC", "PERPETUAL"), "ETH/BTC:BTC", "futures/ETH_BTC_BTC-1M-futures"),
        ("um", "TSLAUSDT", told("TSLA", "USDT", "TRADIFI_PERPETUAL"), "TSLA/USDT:USDT", "futures/TSLA_USDT_USDT-1M-futures"),
        (
            "um",
            "币安人生USDT",
            told("币安人生", "USDT", "PERPETUAL"),
            "币安人生/USDT:USDT",
            "futures/币安人生_USDT_USDT-1M-futures",
        ),
        ("um", "LUNAUSDT", told("LUNA2", "USDT", "PERPETUAL"), "LUNA2/USDT:USDT", "futures/LUNA2_USDT_USDT-1M-futures"),
        ("um", "SRMUSDT", [UNKNOWN], "SRM/USDT:USDT", "futures/SRM_USDT_USDT-1M-futures"),
        ("um", "USDCUSDT", [], "USDC/USDT:USDT", "futures/USDC_USDT_USDT-1M-futures"),
        ("spot", "BTCUSDT", told("BTC", "USDT", None), "BTC/USDT", "BTC_USDT-1M"),
        ("spot", "A.BUSD", [UNKNOWN], "A./BUSD", "A__BUSD-1M"),
    ],
)
def test_pairs_of_freqtrade(market, symbol, rows, pair, file):
    series = Series(market, "klines", symbol, "1M")
    of = contract(series, rows, {"USDT"})
    assert tools.freqtrade_pair(of) == pair
    assert tools.tool("freqtrade").path(series, of) == f"{file.replace('1M', '1Mo')}.feather"
    assert of.told == bool(rows and rows[0]["base_asset"])


@pytest.mark.parametrize(
    ("symbol", "rows", "words"),
    [
        ("BTCUSDT_261225", told("BTC", "USDT", "CURRENT_QUARTER"), "perpetuals only"),
        ("BTCUSDT_210625", [UNKNOWN], "perpetuals only"),
        ("ICPUSDT_SETTLED", [UNKNOWN], "does not tell"),
        ("USDT", [UNKNOWN], "does not tell"),
    ],
)
def test_what_freqtrade_cannot_represent(symbol, rows, words):
    with pytest.raises(UsageError, match=words):
        tools.freqtrade_pair(contract(Series("um", "klines", symbol, "1h"), rows, {"USDT"}))


def test_ids_of_nautilus():
    def bars(symbol, rows, interval="1h", market="um"):
        series = Series(market, "klines", symbol, interval)
        return tools.tool("nautilus").path(series, contract(series, rows, ()))

    assert bars("BTCUSDT", told("BTC", "USDT", "PERPETUAL"), "15m") == "BTCUSDT-PERP.BINANCE-15-MINUTE-LAST-EXTERNAL"
    assert bars("BTCUSDT", told("BTC", "USDT", None), "1w", "spot") == "BTCUSDT.BINANCE-1-WEEK-LAST-EXTERNAL"
    dated = told("BTC", "USDT", "CURRENT_QUARTER", delivery_time=1)
    assert bars("BTCUSDT_261225", dated, "1M") == "BTCUSDT_261225.BINANCE-1-MONTH-LAST-EXTERNAL"
    with pytest.raises(UsageError, match="tick_size, step_size of SRMUSDT"):
        bars("SRMUSDT", [UNKNOWN])
    with pytest.raises(UsageError, match="delivery_time of BTCUSDT_261225"):
        bars("BTCUSDT_261225", told("BTC", "USDT", "CURRENT_QUARTER"))


@pytest.mark.parametrize(
    ("span", "base", "lives"),
    [
        (ALWAYS, "C", (1_000_000, 3_000_000, 5_000_000)),
        (TimeRange(0, 500_000), "A", (1_000_000,)),  # none had begun
        (TimeRange(0, 3_000_000), "A", (1_000_000,)),
        (TimeRange(0, 3_000_001), "B", (1_000_000, 3_000_000)),
        (TimeRange(2_000_000, 4_000_000), "B", (1_000_000, 3_000_000)),  # in which the last bar of A opened
        (TimeRange(2_060_000, 4_000_000), "B", (3_000_000,)),
        (TimeRange(2_060_000, 2_900_000), "A", (1_000_000,)),  # none lived
        (TimeRange(4_500_000, 9_000_000), "C", (5_000_000,)),
    ],
)
def test_the_contract_of_a_time(span, base, lives):
    """Of three that had one name after the other; of the last nobody has told an end."""
    rows = [
        *told("A", "USDT", "PERPETUAL", first_time=1_000_000, last_time=2_000_000),
        *told("B", "USDT", "PERPETUAL", first_time=3_000_000, delivery_time=4_000_000),
        *told("C", "USDT", "PERPETUAL", onboard_time=5_000_000),
    ]
    of = contract(Series("um", "klines", "XUSDT", "1m"), rows, {"USDT"}, span)
    assert (of.base, of.rules["base_asset"], of.lives) == (base, base, lives)


def test_names_of_files():
    of = contract(Series("um", "klines", "X", "1h"), [], ())
    path = tools.tool("csv").path
    assert path(Series("um", "klines", "币安人生USDT", "1M"), of) == "um/klines/币安人生USDT-1mo.csv"
    assert path(Series("um", "funding", "../A/B"), of) == "um/funding/%2E.%2FA%2FB.csv"
    assert tools.tool("vectorbt").path(Series("cm", "klines", "BTCUSD_PERP", "1m"), of) == "cm/klines/BTCUSD_PERP-1m.parquet"
