"""The exchange over the wire: ranges, open bars, errors, weights, headers, quirks, control."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from etl.ranges import DAY, HOUR, MINUTE, from_datetime, parse_time
from etl.sim.clock import Clock
from etl.sim.market import GeneratedWorld
from etl.sim.server import Simulator

from .conftest import NOW, Reply, fetch

Get = Callable[..., Reply]
KLINES = "/fapi/v1/klines"
BTC_FIRST = 1_567_965_420_000
START = parse_time("2024-03-01")


def bars(get: Get, path: str = KLINES, **params: Any) -> list[list[Any]]:
    reply = get(path, **{"symbol": "BTCUSDT", "interval": "1m", **params})
    assert reply.status == 200, reply.raw
    return reply.body


def times(rows: list[list[Any]]) -> list[int]:
    return [row[0] for row in rows]


# --- ranges (binance-facts 2.3)


def test_start_gives_the_oldest_rows(get: Get, world: GeneratedWorld) -> None:
    rows = bars(get, startTime=START, limit=3)
    assert rows == world.truth("um", "klines", "BTCUSDT", "1m", START, START + 3 * MINUTE)
    assert times(bars(get, startTime=START, endTime=START + 10 * DAY, limit=3)) == times(rows)


def test_without_start_the_newest_rows(get: Get) -> None:
    assert times(bars(get, endTime=START, limit=3)) == [START - 2 * MINUTE, START - MINUTE, START]
    assert times(bars(get, limit=2)) == [NOW - 30_000 - MINUTE, NOW - 30_000]


@pytest.mark.parametrize(("end", "count"), [(119_999, 2), (120_000, 3), (120_001, 3)])
def test_both_ends_are_inclusive(get: Get, end: int, count: int) -> None:
    assert len(bars(get, startTime=START, endTime=START + end)) == count


def test_start_between_bars_is_rounded_up(get: Get) -> None:
    assert times(bars(get, startTime=START + 1, limit=1)) == [START + MINUTE]


def test_default_limit_and_largest_page(get: Get) -> None:
    assert len(bars(get, startTime=START)) == 500
    assert len(bars(get, startTime=START, limit=1500)) == 1500
    assert len(bars(get, path="/api/v3/klines", startTime=START, limit=1000)) == 1000


def test_before_the_listing_after_now_and_in_a_hole(get: Get) -> None:
    assert times(bars(get, startTime=0, limit=1)) == [BTC_FIRST]
    assert bars(get, endTime=BTC_FIRST - 1) == []
    assert bars(get, startTime=NOW + DAY) == []
    hole = parse_time("2022-07-13")
    assert bars(get, "/fapi/v1/markPriceKlines", startTime=hole, endTime=hole + HOUR) == []
    after = bars(get, "/fapi/v1/markPriceKlines", startTime=hole, limit=1)
    assert times(after) == [parse_time("2022-07-13T09:13")]
    assert bars(get, symbol="SOONUSDT") == []


def test_first_mark_and_index_bars_are_later(get: Get) -> None:
    assert times(bars(get, "/fapi/v1/markPriceKlines", startTime=1, limit=1)) == [1_577_102_280_000]
    index = get("/fapi/v1/indexPriceKlines", pair="BTCUSDT", interval="1m", startTime=1, limit=1).body
    assert times(index) == [1_577_102_280_000]


def test_pages_that_follow_each_other_give_every_row_once(get: Get, world: GeneratedWorld) -> None:
    end, cursor, rows = START + 2 * DAY, START, []
    while page := bars(get, startTime=cursor, endTime=end - 1, limit=499):
        rows += page
        cursor = page[-1][0] + 1
    assert rows == world.truth("um", "klines", "BTCUSDT", "1m", START, end)


@pytest.mark.parametrize("interval", ["1m", "5m", "1h", "1d", "1w", "1M"])
@pytest.mark.parametrize("path", [KLINES, "/fapi/v1/markPriceKlines", "/dapi/v1/klines", "/api/v3/klines"])
def test_the_running_bar_is_partial(get: Get, world: GeneratedWorld, path: str, interval: str) -> None:
    market, dataset = {"fapi": "um", "dapi": "cm", "api": "spot"}[path.split("/")[1]], "klines"
    dataset = "mark_klines" if "mark" in path else "klines"
    symbol = "BTCUSD_PERP" if market == "cm" else "BTCUSDT"
    row = bars(get, path, symbol=symbol, interval=interval, limit=1)[0]
    final = world.truth(market, dataset, symbol, interval, row[0], row[0] + 1)[0]
    assert row[0] <= NOW <= row[6]
    assert row[:2] == final[:2]
    assert row[6] == final[6]
    assert row != final
    assert float(final[3]) <= float(row[3]) <= float(row[4]) <= float(row[2]) <= float(final[2])
    assert float(row[5]) <= float(final[5])
    assert row[8] <= final[8]


def test_the_running_hour_is_its_minutes_so_far(get: Get) -> None:
    hour = NOW // HOUR * HOUR
    minutes = bars(get, startTime=hour)
    row = bars(get, interval="1h", startTime=hour)[0]
    assert row[4] == minutes[-1][4]
    assert float(row[2]) == max(float(one[2]) for one in minutes)
    assert row[8] == sum(one[8] for one in minutes)


def test_a_bar_becomes_final_when_it_closes(start: Callable[..., Simulator], world: GeneratedWorld) -> None:
    sim = start()
    opens = NOW - 30_000
    sim.clock.set(opens + MINUTE)
    row = fetch(sim, KLINES, symbol="BTCUSDT", interval="1m", startTime=opens, limit=1).body[0]
    assert row == world.truth("um", "klines", "BTCUSDT", "1m", opens, opens + 1)[0]


# --- errors (binance-facts 4.4)


@pytest.mark.parametrize(
    ("path", "params", "code"),
    [
        (KLINES, {"symbol": "NOPE", "interval": "1m"}, -1121),
        (KLINES, {"symbol": "btcusdt", "interval": "1m"}, -1121),
        (KLINES, {"symbol": "BTCUSDT", "interval": "1mo"}, -1120),
        (KLINES, {"symbol": "BTCUSDT", "interval": "1s"}, -1120),
        (KLINES, {"symbol": "BTCUSDT", "interval": "1m", "limit": 1501}, -1130),
        (KLINES, {"symbol": "BTCUSDT", "interval": "1m", "limit": 0}, -1130),
        (KLINES, {"symbol": "BTCUSDT", "interval": "1m", "limit": "x"}, -1130),
        (KLINES, {"symbol": "BTCUSDT"}, -1102),
        (KLINES, {"interval": "1m"}, -1102),
        (KLINES, {"symbol": "", "interval": "1m"}, -1102),
        (KLINES, {"symbol": "BTCUSDT", "interval": "1m", "startTime": "yesterday"}, -1102),
        (KLINES, {"symbol": "BTCUSDT", "interval": "1m", "startTime": 2, "endTime": 1}, -1023),
        (KLINES, {"symbol": "XEMUSDT", "interval": "1m"}, -1122),
        ("/fapi/v1/indexPriceKlines", {"symbol": "BTCUSDT", "interval": "1m"}, -1102),
        ("/api/v3/klines", {"symbol": "BTCUSDT", "interval": "1m", "limit": 1001}, -1130),
        ("/fapi/v1/depth", {"symbol": "BTCUSDT", "limit": 3}, -4021),
        ("/fapi/v1/depth", {"symbol": "BTCUSDT", "limit": 1500}, -1130),
        ("/fapi/v1/ticker/bookTicker", {"symbol": "NOPE"}, -1121),
        ("/fapi/v1/fundingRate", {"symbol": "NOPE"}, -1121),
        ("/dapi/v1/fundingRate", {}, -1102),
        ("/api/v3/exchangeInfo", {"symbol": "NOPE"}, -1121),
    ],
)
def test_error_bodies(get: Get, path: str, params: dict[str, Any], code: int) -> None:
    reply = get(path, **params)
    assert (reply.status, reply.body["code"]) == (400, code)
    assert reply.body["msg"]


def test_unknown_path(get: Get) -> None:
    assert get("/fapi/v9/klines").status == 404


def test_the_error_of_its_own_of_funding_rate(get: Get) -> None:
    reply = get("/fapi/v1/fundingRate", symbol="BTCUSDT", limit=1001)
    assert (reply.status, reply.body["code"]) == (400, "000002")


# --- weights and headers (binance-facts 2.1, 4.1, 4.2)


@pytest.mark.parametrize(
    ("path", "params", "weight"),
    [
        *(
            (KLINES, {"symbol": "BTCUSDT", "interval": "1d", "limit": limit}, weight)
            for limit, weight in ((1, 1), (99, 1), (100, 2), (499, 2), (500, 5), (1000, 5), (1001, 10), (1500, 10))
        ),
        (KLINES, {"symbol": "BTCUSDT", "interval": "1d"}, 5),
        ("/dapi/v1/klines", {"symbol": "BTCUSD_PERP", "interval": "1d", "limit": 499}, 2),
        ("/dapi/v1/fundingRate", {"symbol": "BTCUSD_PERP"}, 1),
        ("/api/v3/klines", {"symbol": "BTCUSDT", "interval": "1d", "limit": 1}, 2),
        ("/api/v3/exchangeInfo", {}, 20),
        ("/fapi/v1/exchangeInfo", {}, 1),
        ("/fapi/v1/time", {}, 1),
        ("/fapi/v1/ping", {}, 1),
        ("/fapi/v1/ticker/bookTicker", {"symbol": "BTCUSDT"}, 2),
        ("/fapi/v1/ticker/bookTicker", {}, 5),
        ("/fapi/v1/depth", {"symbol": "BTCUSDT", "limit": 1000}, 20),
        ("/fapi/v1/depth", {"symbol": "BTCUSDT"}, 10),
    ],
)
def test_weight_is_charged_by_what_is_asked(
    start: Callable[..., Simulator], path: str, params: dict[str, Any], weight: int
) -> None:
    sim = start()
    replies = [fetch(sim, path, **params) for _ in range(2)]
    assert [int(reply.headers["x-mbx-used-weight-1m"]) for reply in replies] == [weight, 2 * weight]
    assert [request.weight for request in sim.requests] == [weight] * 2


def test_futures_share_a_pool_and_spot_has_its_own(start: Callable[..., Simulator]) -> None:
    sim = start()
    used = [fetch(sim, f"{prefix}/ping").headers["x-mbx-used-weight-1m"] for prefix in ("/fapi/v1", "/dapi/v1", "/api/v3")]
    assert used == ["1", "2", "1"]


def test_funding_has_no_weight_and_no_header(start: Callable[..., Simulator]) -> None:
    sim = start(funding_limit=2)
    replies = [fetch(sim, f"/fapi/v1/{path}") for path in ("fundingRate", "fundingInfo", "fundingRate")]
    assert [reply.status for reply in replies] == [200, 200, 429]
    assert not any(name.startswith("x-mbx") for reply in replies for name in reply.headers)
    assert replies[0].headers["content-type"] == "application/json;charset=UTF-8"
    sim.clock.advance(5 * MINUTE)
    assert fetch(sim, "/fapi/v1/fundingRate").status == 200


def test_429_then_418_then_free_again(start: Callable[..., Simulator]) -> None:
    sim = start(weight_limit=3, ban_after=1, retry_after=True)
    replies = [fetch(sim, "/fapi/v1/ping") for _ in range(5)]
    assert [reply.status for reply in replies] == [200, 200, 200, 429, 418]
    assert replies[3].body["code"] == replies[4].body["code"] == -1003
    assert replies[3].headers["x-mbx-used-weight-1m"] == "4"
    assert replies[3].headers["retry-after"] == "30"  # it is half past
    assert f"banned until {NOW + 120_000}." in replies[4].body["msg"]
    assert fetch(sim, "/dapi/v1/ping").status == fetch(sim, "/fapi/v1/fundingRate").status == 418
    counters = sim.counters()
    assert (counters["status_429"], counters["status_418"], counters["bans"]) == (1, 3, 1)
    sim.clock.advance(120_000)
    assert fetch(sim, "/fapi/v1/ping").status == 200


def test_the_limit_is_announced(start: Callable[..., Simulator]) -> None:
    limits = fetch(start(weight_limit=77), "/fapi/v1/exchangeInfo").body["rateLimits"]
    assert limits[0] == {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 77}


def test_the_date_is_the_exchanges_clock(get: Get) -> None:
    reply = get("/fapi/v1/time")
    assert reply.body == {"serverTime": NOW}
    assert from_datetime(parsedate_to_datetime(reply.headers["date"])) == NOW


def test_gzip_only_by_option(start: Callable[..., Simulator]) -> None:
    accept = {"Accept-Encoding": "gzip"}
    assert "content-encoding" not in fetch(start(), "/fapi/v1/time", accept).headers
    reply = fetch(start(gzip=True), "/fapi/v1/time", accept)
    assert reply.headers["content-encoding"] == "gzip"
    assert reply.raw[:2] == b"\x1f\x8b"


# --- endpoints


def test_exchange_info_ignores_the_symbol_on_futures(get: Get) -> None:
    whole = get("/fapi/v1/exchangeInfo")
    assert whole.raw == get("/fapi/v1/exchangeInfo", symbol="NOPE").raw
    assert whole.body["serverTime"] == NOW
    assert [one["symbol"] for one in get("/api/v3/exchangeInfo", symbol="ETHUSDT").body["symbols"]] == ["ETHUSDT"]
    coin = {one["symbol"]: one for one in get("/dapi/v1/exchangeInfo").body["symbols"]}
    assert (coin["BTCUSD_PERP"]["contractStatus"], coin["BTCUSD_PERP"]["contractSize"]) == ("TRADING", 100)
    assert "status" not in coin["BTCUSD_PERP"]


def test_non_ascii_symbols_travel_percent_encoded(get: Get) -> None:
    assert len(bars(get, symbol="币安人生USDT", limit=5)) == 5


def test_quotes_and_books(get: Get) -> None:
    quote = get("/fapi/v1/ticker/bookTicker", symbol="BTCUSDT").body
    assert float(quote["askPrice"]) - float(quote["bidPrice"]) == pytest.approx(0.1)
    listed = get("/fapi/v1/ticker/bookTicker").body
    assert next(one for one in listed if one["symbol"] == "BTCUSDT_260626")["bidPrice"] == "0.0"
    assert set(get("/api/v3/ticker/bookTicker", symbol="BTCUSDT").body) == {
        "symbol",
        "bidPrice",
        "bidQty",
        "askPrice",
        "askQty",
    }
    for path, symbol in (("/fapi/v1/depth", "BTCUSDT"), ("/dapi/v1/depth", "ETHUSD_PERP"), ("/api/v3/depth", "BTCUSDT")):
        book = get(path, symbol=symbol, limit=20).body
        bids, asks = ([float(price) for price, _ in book[side]] for side in ("bids", "asks"))
        assert len(bids) == len(asks) == 20
        assert bids == sorted(bids, reverse=True)
        assert asks == sorted(asks)
        assert bids[0] < asks[0]
        assert ("E" in book) == (not path.startswith("/api"))


# --- funding (binance-facts 2.4)


def test_funding_ranges(get: Get, world: GeneratedWorld) -> None:
    def ask(**params: Any) -> list[dict[str, Any]]:
        return get("/fapi/v1/fundingRate", **params).body

    truth = world.truth("um", "funding", "BTCUSDT", None, 0, NOW + 1)
    assert ask(symbol="BTCUSDT") == truth[-100:]
    assert ask(symbol="BTCUSDT", startTime=0, limit=1) == truth[-1:]
    assert ask(symbol="BTCUSDT", startTime=1, limit=1000) == truth[:1000]
    assert ask(symbol="BTCUSDT", endTime=START, limit=2) == [one for one in truth if one["fundingTime"] <= START][-2:]
    one = truth[500]
    assert ask(symbol="BTCUSDT", startTime=one["fundingTime"], endTime=one["fundingTime"]) == [one]


def test_funding_of_all_symbols(get: Get, world: GeneratedWorld) -> None:
    start, end = START + 7 * HOUR, START + 8 * HOUR + 59_999
    rows = get("/fapi/v1/fundingRate", startTime=start, endTime=end, limit=1000).body
    expected = [
        row
        for (market, symbol), contract in world.contracts.items()
        if market == "um" and contract.funding
        for row in world.truth("um", "funding", symbol, None, start, end + 1)
    ]
    assert rows == sorted(expected, key=lambda row: (row["fundingTime"], row["symbol"]))
    assert len(rows) > 40
    assert get("/fapi/v1/fundingRate", startTime=start, endTime=end, limit=7).body == rows[-7:]


def test_coin_margined_funding(get: Get, world: GeneratedWorld) -> None:
    rows = get("/dapi/v1/fundingRate", symbol="BTCUSD_PERP", limit=3).body
    assert rows == world.truth("cm", "funding", "BTCUSD_PERP", None, 0, NOW + 1)[-3:]


# --- COIN-M bars (binance-facts 8)


@pytest.mark.parametrize(
    ("params", "last"),
    [
        ({"startTime": START, "endTime": START + 10 * DAY}, START + 10 * DAY),
        ({"startTime": START}, START + 200 * DAY),
        ({"endTime": START}, START),
        ({}, NOW // HOUR * HOUR),
        ({"startTime": NOW - DAY}, NOW // HOUR * HOUR),
        ({"startTime": START, "endTime": START + 500 * DAY}, START + 500 * DAY),
    ],
)
def test_coin_margined_pages_hold_the_newest_rows(get: Get, params: dict[str, int], last: int) -> None:
    rows = bars(get, "/dapi/v1/klines", symbol="BTCUSD_PERP", interval="1h", limit=20, **params)
    assert times(rows) == [last - HOUR * back for back in reversed(range(20))]


def test_coin_margined_ranges_are_cut_to_200_days(get: Get) -> None:
    def ask(**params: int) -> list[int]:
        return times(bars(get, "/dapi/v1/klines", symbol="BTCUSD_PERP", interval="1d", **params))

    end = START + 1000 * DAY
    for params in ({"startTime": START, "endTime": end}, {"endTime": end}):
        assert ask(**params)[0] == end - 200 * DAY
    assert ask(startTime=START)[0] == START


# --- connections, log, control


def test_connections_are_kept_and_many_are_served_at_once(start: Callable[..., Simulator]) -> None:
    sim = start(latency_ms=50)

    def work(_: int) -> None:
        connection = http.client.HTTPConnection(sim.url.removeprefix("http://"), timeout=10)
        connection.connect()
        used = connection.sock
        for _ in range(3):
            connection.request("GET", "/fapi/v1/ping")
            assert connection.getresponse().read() == b"{}"
        assert connection.sock is used
        connection.close()

    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert time.monotonic() - began < 8 * 3 * 0.05  # less than one after the other
    assert sim.counters()["requests"] == 24


def test_requests_are_logged_and_pages_counted(start: Callable[..., Simulator]) -> None:
    sim = start()
    fetch(sim, KLINES, symbol="BTCUSDT", interval="1m", limit=1)
    fetch(sim, "/fapi/v1/time")
    fetch(sim, "/nowhere")
    log = fetch(sim, "/sim/requests").body
    assert [one["path"] for one in log] == [KLINES, "/fapi/v1/time", "/nowhere"] == [one.path for one in sim.requests]
    assert log[0] == {
        "time": NOW,
        "market": "um",
        "path": KLINES,
        "params": {"symbol": "BTCUSDT", "interval": "1m", "limit": "1"},
        "status": 200,
        "weight": 1,
        "page": True,
        "fault": None,
    }
    assert [one["path"] for one in fetch(sim, "/sim/requests", path="klines").body] == [KLINES]
    counters = fetch(sim, "/sim/counters").body
    assert counters == sim.counters()
    assert (counters["requests"], counters["pages"], counters["weight_max"]) == (3, 1, {"futures": 2})
    assert fetch(sim, "/sim/reset").body == {}
    assert sim.counters()["requests"] == 0
    assert fetch(sim, "/fapi/v1/ping").headers["x-mbx-used-weight-1m"] == "1"


def test_the_clock_is_set_over_http(start: Callable[..., Simulator]) -> None:
    sim = start()
    assert fetch(sim, "/sim/clock").body == {"now": NOW, "speed": 0}
    assert fetch(sim, "/sim/clock", set="2026-01-01").body["now"] == parse_time("2026-01-01")
    assert fetch(sim, "/sim/clock", set=NOW).body["now"] == NOW
    assert fetch(sim, "/sim/clock", advance="90s").body["now"] == NOW + 90_000
    assert fetch(sim, "/sim/clock", advance="-1h").body["now"] == NOW + 90_000 - HOUR
    assert fetch(sim, "/sim/clock", set="soon").status == 400
    assert fetch(sim, "/sim/else").status == 404
    assert fetch(sim, "/sim/clock", speed=2).body["speed"] == 2


def _ask(connection: http.client.HTTPConnection) -> bytes:
    connection.request("GET", "/fapi/v1/ping")
    return connection.getresponse().read()


def test_closing_cuts_connections_and_frees_the_port(world: GeneratedWorld) -> None:
    with Simulator(world, clock=Clock(NOW, frozen=True)) as sim:
        connection = http.client.HTTPConnection(sim.url.removeprefix("http://"), timeout=10)
        _ask(connection)
        port = int(sim.url.rpartition(":")[2])
    sim.close()
    with pytest.raises((http.client.HTTPException, OSError)):
        _ask(connection)
    connection.close()
    with Simulator(world, port=port) as again:
        assert again.url == sim.url


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_prints_its_url_and_ends_on_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    faults = tmp_path / "faults.json"
    faults.write_text(json.dumps({"rule": [{"action": "empty_body", "path": "ping"}]}))
    options = f"symbols=2, faults=Path({str(faults)!r}), start_ms={NOW}, frozen=True"
    code = f"from pathlib import Path; from etl.sim import serve; serve({options})"
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
        connection.request("GET", "/fapi/v1/time")
        assert json.loads(connection.getresponse().read()) == {"serverTime": NOW}
        connection.request("GET", "/fapi/v1/ping")
        assert connection.getresponse().read() == b""
        connection.close()
        process.send_signal(number)
        assert process.wait(10) == 0
        assert process.stdout.read() == ""


def test_ascending_and_unique_whatever_is_asked(get: Get) -> None:
    rows = bars(get, interval="3d", startTime=1, limit=1500)
    assert all(later[0] - row[0] == 3 * DAY for row, later in pairwise(rows))
