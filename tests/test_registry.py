"""The declarations against the numbers that the exchange documents (binance-facts 1-3, 7, 8)."""

from itertools import pairwise

import pytest

from etl import registry
from etl.errors import UsageError
from etl.registry import DATASETS, INTERVALS, MARKETS

# Weight by requested limit (binance-facts 2.1 and 8): the last limit of each step and the first of the next.
FUTURES = {1: 1, 99: 1, 100: 2, 499: 2, 500: 5, 1000: 5, 1001: 10, 1500: 10}
SPOT = {1: 2, 1000: 2}

ENDPOINTS = {
    ("klines", "um"): ("/fapi/v1/klines", "symbol", "weight", FUTURES),
    ("klines", "cm"): ("/dapi/v1/klines", "symbol", "weight", FUTURES),
    ("klines", "spot"): ("/api/v3/klines", "symbol", "weight", SPOT),
    ("mark_klines", "um"): ("/fapi/v1/markPriceKlines", "symbol", "weight", FUTURES),
    ("mark_klines", "cm"): ("/dapi/v1/markPriceKlines", "symbol", "weight", FUTURES),
    ("index_klines", "um"): ("/fapi/v1/indexPriceKlines", "pair", "weight", FUTURES),
    ("index_klines", "cm"): ("/dapi/v1/indexPriceKlines", "pair", "weight", FUTURES),
    ("premium_klines", "um"): ("/fapi/v1/premiumIndexKlines", "symbol", "weight", FUTURES),
    ("premium_klines", "cm"): ("/dapi/v1/premiumIndexKlines", "symbol", "weight", FUTURES),
    ("funding", "um"): ("/fapi/v1/fundingRate", "symbol", "funding", {1: 1, 1000: 1}),
    ("funding", "cm"): ("/dapi/v1/fundingRate", "symbol", "weight", {1: 1, 1000: 1}),
}


def test_every_endpoint_is_tested():
    assert {(dataset.name, market) for dataset in DATASETS.values() for market in dataset.endpoints} == set(ENDPOINTS)


@pytest.mark.parametrize(("dataset", "market"), ENDPOINTS)
def test_endpoints(dataset, market):
    path, symbol_param, pool, weights = ENDPOINTS[dataset, market]
    endpoint = DATASETS[dataset].endpoints[market]
    assert (endpoint.path, endpoint.symbol_param, endpoint.pool) == (path, symbol_param, pool)
    assert {limit: endpoint.weight(limit) for limit in weights} == weights
    assert endpoint.max_limit == max(weights)
    assert all(small.limit < large.limit and small.weight <= large.weight for small, large in pairwise(endpoint.tiers))
    assert endpoint.path.startswith(MARKETS[market].prefix)


def test_the_thriftiest_page_of_futures_holds_499_rows():
    endpoint = DATASETS["klines"].endpoints["um"]
    assert max(range(1, 1501), key=lambda limit: limit / endpoint.weight(limit)) == 499


def test_only_the_funding_of_um_answers_without_a_symbol():
    answers = {key for key in ENDPOINTS if DATASETS[key[0]].endpoints[key[1]].without_symbol}
    assert answers == {("funding", "um")}


@pytest.mark.parametrize(
    ("name", "url", "testnet_url", "weight_limit", "exchange_info_weight"),
    [
        ("um", "https://fapi.binance.com", "https://testnet.binancefuture.com", 2400, 1),
        ("cm", "https://dapi.binance.com", "https://testnet.binancefuture.com", 2400, 1),
        ("spot", "https://api.binance.com", "https://testnet.binance.vision", 6000, 20),
    ],
)
def test_markets(name, url, testnet_url, weight_limit, exchange_info_weight):
    market = MARKETS[name]
    assert (market.url, market.testnet_url) == (url, testnet_url)
    assert (market.weight_limit, market.exchange_info_weight) == (weight_limit, exchange_info_weight)


def test_futures_share_one_pool_and_spot_has_its_own():
    assert MARKETS["um"].pool == MARKETS["cm"].pool != MARKETS["spot"].pool


def test_cm_alone_pages_backwards_within_200_days():
    assert {market.name: (market.newest_first, market.max_span) for market in MARKETS.values()} == {
        "um": (False, None),
        "cm": (True, 17_280_000_000),
        "spot": (False, None),
    }


@pytest.mark.parametrize(
    ("market", "time"),
    [
        ("um", 1_567_296_000_000),  # the month of the first BTCUSDT bar opens a week before it: 2019-09-01
        ("um", 1_567_382_400_000),  # and its week: Monday 2019-09-02
        ("um", 1_567_965_420_000),  # first BTCUSDT minute, 2019-09-08 17:57
        ("um", 1_568_102_400_000),  # first settlement, 2019-09-10 08:00
        ("cm", 1_591_258_320_000),  # a bar of 2020-06-04
        ("spot", 1_501_545_600_000),  # the month of the first spot bar, 2017-08-01
    ],
)
def test_known_first_rows_are_not_before_the_markets_first_time(market, time):
    assert MARKETS[market].first_time <= time


def test_the_funding_pool():
    assert (registry.FUNDING_LIMIT, registry.FUNDING_WINDOW) == (500, 300_000)


def test_names_are_their_own_keys():
    for known in (MARKETS, DATASETS, INTERVALS):
        assert [one.name for one in known.values()] == list(known)


def test_each_dataset_is_consistent():
    for dataset in DATASETS.values():
        columns = [column.name for column in dataset.columns]
        assert set(dataset.key) <= set(columns)
        assert dataset.time_column == columns[0]
        assert dataset.columns[0].type == "time"
        assert set(dataset.endpoints) <= set(MARKETS)
        if dataset.has_interval:  # rows are arrays of at most 12 elements: the wire names the columns by position
            assert [field for field in dataset.wire if field != "_"] == columns
            assert len(dataset.wire) <= 12
        else:  # rows are objects: the wire names one field for each column
            assert len(dataset.wire) == len(columns)


@pytest.mark.parametrize(
    ("dataset", "wire"),
    [
        # binance-facts 2.2: twelve positions, of which the last is unused
        (
            "klines",
            "open_time open high low close volume close_time quote_volume count taker_buy_volume taker_buy_quote_volume",
        ),
        ("mark_klines", "open_time open high low close _ close_time"),
        ("index_klines", "open_time open high low close _ close_time"),
        ("premium_klines", "open_time open high low close _ close_time"),
        ("funding", "fundingTime fundingRate markPrice rateType"),
    ],
)
def test_fields_on_the_wire(dataset, wire):
    assert DATASETS[dataset].wire == tuple(wire.split())


def test_intervals():
    assert list(INTERVALS) == ["1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "1w", "1M"]


def test_known_names_are_found():
    assert registry.market("cm") is MARKETS["cm"]
    assert registry.dataset("funding") is DATASETS["funding"]
    assert registry.interval("1M") is INTERVALS["1M"]


@pytest.mark.parametrize(
    ("find", "name", "message"),
    [
        (registry.market, "UM", "unknown market 'UM'; known are um, cm, spot"),
        (
            registry.dataset,
            "trades",
            "unknown dataset 'trades'; known are klines, funding, mark_klines, index_klines, premium_klines",
        ),
        (registry.interval, "1s", "unknown interval '1s'; known are 1m, 3m, "),
        (registry.interval, "1mo", "unknown interval '1mo'; known are 1m, 3m, "),
        (registry.interval, "3d", r"3d is not stored: .* resample\(symbol, '1d', '3d'\)"),
    ],
)
def test_unknown_names_are_refused_with_the_known_ones(find, name, message):
    with pytest.raises(UsageError, match=message):
        find(name)
