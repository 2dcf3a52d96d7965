"""The public client against a small exchange on loopback that pages as the real one does."""

import json
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta, timezone

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl import registry
from etl.errors import BadAnswer, Rejected, UsageError
from etl.extract.client import BinanceFuturesClient, int_2_timestamp, spread_in_ticks, timestamp_2_int

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
NOW = 1_700_000_000_000
HOUR_NOW = NOW // HOUR * HOUR


def bar(time: int, step: int = HOUR) -> list:
    return [time, f"{time / 1e9:.2f}", "3", "1", "2", "10.5", time + step - 1, "21.25", 7, "5.5", "11.5", "0"]


def settlement(time: int, **more: str) -> dict:
    return {"symbol": "X", "fundingTime": time, "fundingRate": "0.0001", "markPrice": "", **more}


class Exchange:
    """Bars and settlements with the paging rules of binance-facts 2.3, 2.4 and 8; `twist` may spoil a page."""

    def __init__(self, kit, times=(), settlements=(), *, newest_first=False, cap=1500, twist=lambda rows, number: rows) -> None:
        self._kit, self._newest_first, self._cap, self._twist = kit, newest_first, cap, twist
        self._bars = [bar(time) for time in times]
        self._settlements = list(settlements)
        self.server = kit.serve(self._answer, server_time=NOW)

    @property
    def asked(self) -> list:
        return self.server.asked

    def _answer(self, peer, request) -> bytes:
        limit = int(request.params["limit"])
        start, end = (int(request.params[name]) if name in request.params else None for name in ("startTime", "endTime"))
        if request.path.endswith("/fundingRate"):
            rows, times = self._settlements, [row["fundingTime"] for row in self._settlements]
        else:
            rows = self._bars
            if request.params["interval"] == "1d":
                rows = [bar(day) for day in sorted({row[0] - row[0] % DAY for row in rows})]
            times = [row[0] for row in rows]
        if self._newest_first and start is not None and end is not None and end - start > 200 * DAY:
            return self._kit.answer(b'{"code":-1127,"msg":"too long"}', 400)
        rows = [r for r, t in zip(rows, times, strict=True) if (start is None or t >= start) and (end is None or t <= end)]
        newest = start is None or (self._newest_first and "Rate" not in request.path)
        page = rows[-min(limit, self._cap) :] if newest else rows[: min(limit, self._cap)]
        return self._kit.answer(json.dumps(self._twist(page, len(self.asked))).encode())


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    """Where the clients count: not in the folder of whoever runs the tests."""
    monkeypatch.setenv("ETL_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture
def client(kit):
    """A client of a server with one scripted answer."""
    opened = []

    def start(answer, market="um"):
        server = kit.serve(answer if not isinstance(answer, (dict, list)) else kit.answer(json.dumps(answer).encode()))
        opened.append(BinanceFuturesClient(base_url=server.url, market=market))
        return opened[-1], server

    yield start
    for one in opened:
        one.close()


def times(frame: pd.DataFrame, column: str = "open_time") -> list[int]:
    assert str(frame[column].dtype) == "datetime64[ms, UTC]"
    return frame[column].astype("int64").tolist()


def weight(client: BinanceFuturesClient, server) -> int:
    """What was spent on anything but the time."""
    return client.stats.weight - (len(server.requests) - len(server.asked))


# ---- the present


def test_addresses():
    for name, mainnet, testnet in [
        ("um", "https://fapi.binance.com", "https://testnet.binancefuture.com"),
        ("cm", "https://dapi.binance.com", "https://testnet.binancefuture.com"),
    ]:
        for flag, url in [(True, mainnet), (False, testnet)]:
            with BinanceFuturesClient(flag, market=name) as client:
                assert client._conversation._base_url == url
    with pytest.raises(UsageError, match="um, cm, spot"):
        BinanceFuturesClient(market="options")


def test_server_time(client):
    one, _ = client([])
    assert one.get_server_time() == pd.Timestamp("2023-11-14T22:13:20Z")


TICKER = {"symbol": "ETHUSDT", "bidPrice": "1881.38", "bidQty": "83.319", "askPrice": "1881.41", "askQty": "1"}


@pytest.mark.parametrize("shape", [lambda ticker: ticker, lambda ticker: [{**ticker, "symbol": "ETHUSDT_X"}, ticker]])
def test_best_price_of_one_symbol(client, shape):
    one, server = client(shape({**TICKER, "time": 1784098317819}))
    price = one.get_best_price("ETHUSDT")
    time = pd.Timestamp("2026-07-15T06:51:57.819Z")
    assert price == {"symbol": "ETHUSDT", "bid": 1881.38, "bid_qty": 83.319, "ask": 1881.41, "ask_qty": 1.0, "time": time}
    assert (server.asked[0].path, server.asked[0].params) == ("/fapi/v1/ticker/bookTicker", {"symbol": "ETHUSDT"})
    assert weight(one, server) == 2
    with pytest.raises(UsageError, match="BTCUSDT"):
        one.get_best_price("BTCUSDT")


def test_best_price_on_spot_has_no_time(client):
    one, server = client(TICKER, market="spot")
    assert one.get_best_price("ETHUSDT")["time"] is None
    assert server.asked[0].path == "/api/v3/ticker/bookTicker"


def test_best_prices_of_all_symbols(client):
    one, server = client([{**TICKER, "time": 1784098317819}, {**TICKER, "symbol": "币安人生USDT"}])
    frame = one.get_best_price()
    assert list(frame.columns) == ["symbol", "bid", "bid_qty", "ask", "ask_qty", "time"]
    assert frame["symbol"].tolist() == ["ETHUSDT", "币安人生USDT"]
    assert frame["ask"].tolist() == [1881.41, 1881.41]
    assert frame["time"][0] == pd.Timestamp("2026-07-15T06:51:57.819Z")
    assert frame["time"].isna().tolist() == [False, True]
    assert server.asked[0].params == {}


def test_order_book(client):
    one, server = client({"T": 1, "bids": [["76914.90", "5.878"], ["76914.80", "0.002"]], "asks": [["76915.00", "2.149"]]})
    book = one.get_order_book("ADAUSDT", limit=5)
    assert list(book) == ["bids", "asks"]
    assert book["bids"].to_dict("list") == {"price": [76914.9, 76914.8], "qty": [5.878, 0.002]}
    assert book["asks"].to_dict("list") == {"price": [76915.0], "qty": [2.149]}
    assert server.asked[0].params == {"symbol": "ADAUSDT", "limit": "5"}
    one.get_order_book("ADAUSDT")
    assert server.asked[1].params["limit"] == "100"
    assert weight(one, server) == 2 + 5


def test_an_empty_order_book_keeps_columns_and_types(client):
    one, _ = client({"bids": [], "asks": []}, market="spot")
    book = one.get_order_book("X", 5000)
    assert book["bids"].dtypes.to_dict() == {"price": "float64", "qty": "float64"}


def test_a_limit_that_the_exchange_does_not_have_is_refused_locally_with_the_list(client):
    for market, wrong, listed in [("um", 1500, "5, 10, 20, 50, 100, 500, 1000"), ("spot", 7, "1000, 5000")]:
        one, server = client({}, market=market)
        with pytest.raises(UsageError, match=listed):
            one.get_order_book("X", wrong)
        assert not server.requests


INFO = {
    "serverTime": 1,
    "rateLimits": [],
    "symbols": [
        {
            "symbol": "BTCUSDT",
            "pair": "BTCUSDT",
            "contractType": "PERPETUAL",
            "deliveryDate": 4133404800000,
            "onboardDate": 1567965300000,
            "status": "TRADING",
            "baseAsset": "BTC",
            "quoteAsset": "USDT",
            "filters": [
                {"filterType": "PRICE_FILTER", "minPrice": "556.80", "maxPrice": "4529764", "tickSize": "0.10"},
                {"filterType": "LOT_SIZE", "minQty": "0.001", "stepSize": "0.001", "maxQty": "1000"},
                {"filterType": "MIN_NOTIONAL", "notional": "50"},
            ],
        },
        {"symbol": "BTCUSDT_260925", "deliveryDate": 1790323200000, "filters": []},
    ],
}


def test_symbol_info(client):
    one, _ = client(INFO)
    frame = one.get_symbol_info()
    assert list(frame.columns) == [
        "symbol", "pair", "base_asset", "quote_asset", "contract_type", "status", "onboard_time", "delivery_time",
        "tick_size", "step_size", "min_qty", "max_qty", "min_price", "min_notional",
    ]  # fmt: skip  # a table, read by its rows
    assert frame["symbol"].tolist() == ["BTCUSDT", "BTCUSDT_260925"]
    assert frame["tick_size"].iloc[0] == 0.1
    assert frame["onboard_time"].iloc[0] == pd.Timestamp("2019-09-08T17:55Z")
    assert frame["delivery_time"].isna().tolist() == [True, False]
    assert frame["delivery_time"].iloc[1] == pd.Timestamp("2026-09-25T08:00Z")
    assert frame["tick_size"].isna().tolist() == [False, True]
    assert one.get_symbol_info("BTCUSDT_260925")["symbol"].tolist() == ["BTCUSDT_260925"]
    with pytest.raises(UsageError, match="NOPE"):
        one.get_symbol_info("NOPE")


def test_spread_of_a_symbol(kit):
    ticker = {"symbol": "BTCUSDT", "bidPrice": "64920.80", "bidQty": "3", "askPrice": "64921.10", "askQty": "1"}
    server = kit.serve(*(kit.answer(json.dumps(body).encode()) for body in (INFO, ticker)))
    with BinanceFuturesClient(base_url=server.url) as client:
        assert client.get_spread_in_ticks("BTCUSDT") == 3


def test_no_tick_size_no_spread(client):
    one, _ = client(INFO)
    with pytest.raises(UsageError, match="tick size"):
        one.get_spread_in_ticks("BTCUSDT_260925")


@given(st.integers(0, 10**9), st.integers(-(10**6), 10**6), st.integers(0, 8), st.sampled_from([1, 5, 25]))
def test_spreads_are_exact(bid, ticks, digits, tick):
    def price(units: int) -> float:
        return float(f"{units}e-{digits}")

    assert spread_in_ticks(price(bid * tick), price((bid + ticks) * tick), price(tick)) == ticks


@pytest.mark.parametrize(
    ("bid", "ask", "tick"), [(1, 2, 0), (1, 2, -0.1), (1, float("nan"), 0.1), (1, 2, float("inf")), (1, 1.15, 0.1)]
)
def test_a_spread_that_is_no_number_of_ticks(bid, ask, tick):
    with pytest.raises(UsageError):
        spread_in_ticks(bid, ask, tick)


# ---- bars

COLUMNS = {
    "open_time": "datetime64[ms, UTC]", "open": "float64", "high": "float64", "low": "float64", "close": "float64",
    "volume": "float64", "close_time": "datetime64[ms, UTC]", "quote_volume": "float64", "count": "int64",
    "taker_buy_volume": "float64", "taker_buy_quote_volume": "float64",
}  # fmt: skip  # a table, read by its rows


def dtypes(frame: pd.DataFrame) -> dict[str, str]:
    return {name: str(dtype) for name, dtype in frame.dtypes.items()}


def test_klines_are_numbers_and_utc_times_and_hold_the_open_bar(kit):
    exchange = Exchange(kit, range(HOUR_NOW - 9 * HOUR, HOUR_NOW + 1, HOUR))
    with BinanceFuturesClient(base_url=exchange.server.url) as client:
        frame = client.get_klines("X", "1h", limit=5)
        assert dtypes(frame) == COLUMNS
        assert times(frame) == list(range(HOUR_NOW - 4 * HOUR, HOUR_NOW + 1, HOUR))
        assert frame["close_time"].iloc[-1] > pd.Timestamp(NOW, unit="ms", tz="UTC")
        row = frame.iloc[0]
        assert row["open"] == float(f"{(HOUR_NOW - 4 * HOUR) / 1e9:.2f}")
        assert row["close_time"] - row["open_time"] == pd.Timedelta(hours=1) - pd.Timedelta(milliseconds=1)
        assert (row["count"], row["quote_volume"], row["taker_buy_volume"]) == (7, 21.25, 5.5)
        assert exchange.asked[0].params == {"symbol": "X", "interval": "1h", "limit": "5"}
        assert len(client.get_klines("X")) == 10
        assert exchange.asked[1].params == {"symbol": "X", "interval": "1h", "limit": "500"}
        assert times(client.get_klines("X", limit=2, end=HOUR_NOW)) == [HOUR_NOW - 2 * HOUR, HOUR_NOW - HOUR]


@pytest.mark.parametrize("market", ["um", "cm"])
def test_an_empty_answer_keeps_columns_and_types(kit, market):
    exchange = Exchange(kit, newest_first=market == "cm")
    with BinanceFuturesClient(base_url=exchange.server.url, market=market) as client:
        for frame in (
            client.get_klines("X"),
            client.get_klines("X", start="2023-01-01"),
            client.get_klines("X", start="2030-01-01"),
        ):
            assert frame.empty
            assert dtypes(frame) == COLUMNS
        funding = client.get_funding_rate("X", start="2023-01-01", end="2023-01-02")
        assert funding.empty
        assert str(funding["funding_time"].dtype) == "datetime64[ms, UTC]"
        assert dtypes(funding)["mark_price"] == dtypes(funding)["funding_rate"] == "float64"


GRID = list(range(HOUR_NOW - 5_000 * HOUR, HOUR_NOW + 1, HOUR))
HOLED = [time for i, time in enumerate(GRID) if not (700 <= i < 2600 or i % 97 == 0)]


@pytest.mark.parametrize("market", ["um", "cm"])
@pytest.mark.parametrize("cap", [1500, 333])
@pytest.mark.parametrize("all", [GRID, HOLED], ids=["whole", "holes"])
def test_a_range_comes_whole_however_many_pages_it_takes(kit, market, cap, all):
    exchange = Exchange(kit, all, newest_first=market == "cm", cap=cap)
    with BinanceFuturesClient(base_url=exchange.server.url, market=market) as client:
        assert times(client.get_klines("X", start="2020-01-01")) == all
        begin, end = GRID[10] + 1, GRID[4_000]
        assert times(client.get_klines("X", start=begin, end=end)) == [t for t in all if begin <= t < end]
        # Before the first bar there are years without any; cm allows 200 days a request.
        assert times(client.get_klines("X", start="2020-01-01", limit=1200)) == all[:1200]
        assert times(client.get_klines("X", start=GRID[3_000], limit=7)) == [t for t in all if t >= GRID[3_000]][:7]
        assert times(client.get_klines("X", limit=300)) == all[-300:]


def test_pages_are_no_larger_than_what_is_left(kit):
    exchange = Exchange(kit, GRID)
    with BinanceFuturesClient(base_url=exchange.server.url) as client:
        client.get_klines("X", start=GRID[0], end=GRID[1_510])
        assert [request.params["limit"] for request in exchange.asked] == ["1", "1500", "10"]
        assert weight(client, exchange.server) == 1 + 10 + 1


def test_one_empty_page_does_not_end_a_range(kit):
    exchange = Exchange(kit, GRID, twist=lambda rows, number: [] if number % 2 else rows)
    with BinanceFuturesClient(base_url=exchange.server.url) as client:
        assert times(client.get_klines("X", start=GRID[0])) == GRID


def test_rows_that_were_not_asked_for_are_dropped_and_repeats_too(kit):
    def twist(rows: list, number: int) -> list:
        return [bar(GRID[0] - HOUR), *reversed(rows), *rows[:3]]

    exchange = Exchange(kit, GRID, twist=twist)
    with BinanceFuturesClient(base_url=exchange.server.url) as client:
        assert times(client.get_klines("X", start=GRID[0], end=GRID[20])) == GRID[:20]


def test_a_server_that_repeats_itself_for_ever_does_not_hold_us(kit):
    exchange = Exchange(kit, GRID, twist=lambda rows, number: [bar(GRID[0])])
    with BinanceFuturesClient(base_url=exchange.server.url) as client, pytest.raises(BadAnswer, match="held other bars"):
        client.get_klines("X", start=GRID[0])
    assert len(exchange.asked) < 10


def test_months_are_paged_by_the_calendar(kit):
    months = [int(datetime(2020 + i // 12, i % 12 + 1, 1, tzinfo=UTC).timestamp() * 1000) for i in range(46)]
    exchange = Exchange(kit, months, cap=5)
    with BinanceFuturesClient(base_url=exchange.server.url) as client:
        assert times(client.get_klines("X", "1M", start=months[1])) == months[1:]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda c: c.get_klines("X", "3d"), "resample"),
        (lambda c: c.get_klines("X", "7m"), "1m"),
        (lambda c: c.get_klines("", "1h"), "empty"),
        (lambda c: c.get_klines("X", limit=1501), "1500"),
        (lambda c: c.get_klines("X", limit=0), "1500"),
        (lambda c: c.get_funding_rate("X", limit=1001), "1000"),
        (lambda c: c.get_funding_rate(""), "empty"),
        (lambda c: c.get_best_price(""), "empty"),
        (lambda c: c.get_klines("X", start="2024-01-02", end="2024-01-01"), "ends before"),
        (lambda c: c.get_klines("X", start="yesterday"), "no date"),
        (lambda c: c.get_klines("X", start=1_700_000_000, end=NOW), "seconds"),
        (lambda c: c.get_klines("X", start=1_700_000_000_000_000, end=NOW), "milliseconds"),
        (lambda c: c.get_klines("X", start=1.5, end=NOW), "no time"),
        (lambda c: c.get_klines("X", start=pd.NaT, end=NOW), "no time"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_sent(client, call, said):
    one, server = client([])
    with pytest.raises(UsageError, match=said):
        call(one)
    assert not server.requests


def test_spot_has_no_funding_and_smaller_pages(client):
    one, server = client([], market="spot")
    with pytest.raises(UsageError, match="spot has no funding"):
        one.get_funding_rate("X")
    with pytest.raises(UsageError, match="1000"):
        one.get_klines("X", limit=1001)
    assert not server.requests


@pytest.mark.parametrize(
    "start",
    [
        "2023-11-01",
        "2023-11-01T05:30+05:30",
        1_698_796_800_000,
        datetime(2023, 11, 1),  # noqa: DTZ001 - naive is UTC
        date(2023, 11, 1),
        datetime(2023, 10, 31, 20, tzinfo=timezone(timedelta(hours=-4))),
        pd.Timestamp("2023-11-01"),
        pd.Timestamp("2023-11-01T05:30", tz="Asia/Kolkata"),
    ],
)
def test_times_may_be_given_in_many_ways(kit, start):
    exchange = Exchange(kit, GRID)
    with BinanceFuturesClient(base_url=exchange.server.url) as client:
        assert times(client.get_klines("X", start=start, limit=1)) == [1_698_796_800_000]


def test_an_unknown_symbol(client, kit):
    one, _ = client(kit.answer(b'{"code":-1121,"msg":"Invalid symbol."}', 400))
    with pytest.raises(Rejected, match="Invalid symbol"):
        one.get_klines("NOPE")


def test_an_answer_of_another_shape(client):
    one, server = client({"code": 0})
    with pytest.raises(BadAnswer, match=server.url):
        one.get_klines("X")


# ---- funding


def changing() -> list[dict]:
    """Ten thousand settlements: every 8 hours, then 4, then 1, a few ms late, and a special one beside every 997th."""
    rows, time = [], 1_600_000_000_000 // HOUR * HOUR
    for number in range(10_000):
        rows.append(settlement(time + number * 7 % 32, rateType="Regular"))
        if number % 997 == 0:
            rows.append(settlement(time + number * 7 % 32, rateType="Special", markPrice="5.5"))
        time += HOUR * (8 if number < 1_000 else 4 if number < 4_000 else 1)
    return rows


def keys(frame: pd.DataFrame) -> list[tuple]:
    return list(zip(times(frame, "funding_time"), frame["rate_type"], strict=True))


@pytest.mark.parametrize("cap", [1000, 998, 3])
def test_all_settlements_across_changes_of_the_interval(kit, cap):
    rows = changing()[: 10_020 if cap > 3 else 60]
    expected = [(row["fundingTime"], row["rateType"]) for row in rows]
    exchange = Exchange(kit, settlements=rows, cap=cap)
    with BinanceFuturesClient(base_url=exchange.server.url) as client:
        frame = client.get_funding_rate("X", start="2020-01-01")
        assert keys(frame) == expected
        assert frame["mark_price"].notna().sum() == sum(kind == "Special" for _, kind in expected)
        begin, end = rows[5]["fundingTime"] + 1, rows[50]["fundingTime"]
        assert keys(client.get_funding_rate("X", begin, end)) == [key for key in expected if begin <= key[0] < end]
        assert keys(client.get_funding_rate("X", begin, limit=3)) == [key for key in expected if begin <= key[0]][:3]
        assert keys(client.get_funding_rate("X", end=end, limit=3)) == [key for key in expected if key[0] < end][-3:]
        if cap > 3:
            assert keys(client.get_funding_rate("X")) == expected[-cap:]
            assert keys(client.get_funding_rate("X", limit=4)) == expected[-4:]
    assert all(int(request.params.get("startTime", 1)) > 0 for request in exchange.asked)


def test_all_settlements_of_cm(kit):
    rows = [settlement(NOW - 3_000 * 8 * HOUR + i * 8 * HOUR) for i in range(3_000)]
    exchange = Exchange(kit, settlements=rows, newest_first=True)
    with BinanceFuturesClient(base_url=exchange.server.url, market="cm") as client:
        frame = client.get_funding_rate("X", start="2020-01-01")
    assert times(frame, "funding_time") == [row["fundingTime"] for row in rows]
    assert frame["rate_type"].isna().all()
    assert exchange.asked[0].path == "/dapi/v1/fundingRate"


# ---- times


def test_int_2_timestamp():
    assert int_2_timestamp(1753692520) == pd.Timestamp("2025-07-28T08:48:40Z")
    assert int_2_timestamp(1753692520860) == pd.Timestamp("2025-07-28T08:48:40.860Z")
    assert int_2_timestamp(1753692520860123) == pd.Timestamp("2025-07-28T08:48:40.860123Z")
    assert str(int_2_timestamp(1753692520860).tz) == "UTC"


@pytest.mark.parametrize(
    "wrong", [0, -1753692520, 175369252, 17536925208, 175369252086012345, 1753692520.0, "1753692520", None]
)
def test_a_wrong_number_of_digits_is_an_error(wrong):
    with pytest.raises(UsageError, match="10 digits"):
        int_2_timestamp(wrong)


def test_timestamp_2_int():
    moment = datetime(2025, 7, 28, 8, 48, 40, 860_999, tzinfo=UTC)
    assert timestamp_2_int(moment) == 1753692520860
    assert timestamp_2_int(moment, "s") == 1753692520
    assert timestamp_2_int(moment, unit="us") == 1753692520860999
    assert timestamp_2_int(moment.replace(tzinfo=None)) == 1753692520860
    assert timestamp_2_int(pd.Timestamp("2025-07-28T14:18:40.860999999", tz="Asia/Kolkata"), "us") == 1753692520860999
    assert timestamp_2_int(datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)) == -1
    for wrong in ("ns", ""):
        with pytest.raises(UsageError, match="s, ms, us"):
            timestamp_2_int(moment, wrong)
    for wrong in (pd.NaT, "2025-07-28", 1753692520860):
        with pytest.raises(UsageError):
            timestamp_2_int(wrong)


@given(st.integers(10**12, 10**13 - 1))
def test_times_go_there_and_back(ms):
    assert timestamp_2_int(int_2_timestamp(ms)) == ms
    assert timestamp_2_int(int_2_timestamp(ms * 1000 + 999), "us") == ms * 1000 + 999


def test_pandas_is_loaded_only_when_a_frame_is_made():
    code = "import sys, etl.extract.client; print('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


# ---- recorded


def test_recorded_answers_as_frames(kit, real_data):
    folder = real_data / "rest_raw"
    for name, call, column in [
        ("bookTicker-all.json", lambda c: c.get_best_price(), "symbol"),
        ("exchangeInfo-20260703T170827Z.json", lambda c: c.get_symbol_info(), "symbol"),
        ("fundingRate-BTCUSDT-30d-20260713.json", lambda c: c.get_funding_rate("BTCUSDT"), "funding_time"),
        ("klines_1d/BTCUSDT.json", lambda c: c.get_klines("BTCUSDT", "1d"), "open_time"),
        ("depth-BTCUSDT-limit1000.json", lambda c: c.get_order_book("BTCUSDT", 1000)["bids"], "price"),
    ]:
        raw = json.loads((folder / name).read_bytes())
        rows = raw if isinstance(raw, list) else raw.get("symbols") or raw["bids"]
        with BinanceFuturesClient(base_url=kit.serve(kit.answer((folder / name).read_bytes())).url) as client:
            frame = call(client)
        assert len(frame) == len(rows)
        assert frame[column].is_unique
    assert registry.market("um").weight_limit == 2400
