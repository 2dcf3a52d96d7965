"""Bodies → values: recorded ones, made ones, and everything that a body must not be."""

import contextlib
import json
import math

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.errors import BadAnswer, Transient
from etl.extract import wire
from etl.registry import DATASETS
from etl.schema import arrow_schema

# binance-facts 2.2: klines, mark, index and premium klines as captured.
KLINE = (
    '[1788975180000,"78745.80","78768.90","78736.40","78768.90","34.600",1788975239999,"2724821.57470",1324,'
    '"15.361","1209770.02020","0"]'
)
INDEX = (
    '[1788975180000,"78787.69869565","78800.12195652","78779.04456522","78798.99369565","0",1788975239999,"0",60,"0","0","0"]'
)


def ms(table: pa.Table, column: str) -> list[int]:
    return table[column].cast(pa.int64()).to_pylist()


def test_a_page_of_klines():
    table = wire.decoder("klines")(f"[{KLINE}]".encode())
    assert table.schema.equals(arrow_schema("klines"))
    assert ms(table, "open_time") == [1788975180000]
    assert ms(table, "close_time") == [1788975239999]
    names = ("open", "high", "low", "close", "volume", "quote_volume", "count", "taker_buy_volume", "taker_buy_quote_volume")
    assert [table[name][0].as_py() for name in names] == [
        78745.8, 78768.9, 78736.4, 78768.9, 34.6, 2724821.5747, 1324, 15.361, 1209770.0202,
    ]  # fmt: skip  # a table, read by its rows


@pytest.mark.parametrize("dataset", ["mark_klines", "index_klines", "premium_klines"])
def test_price_bars_leave_the_unused_fields_out(dataset):
    table = wire.decoder(dataset)(f"[{INDEX}]".encode())
    assert table.schema.equals(arrow_schema(dataset))
    assert table.drop_columns(["open_time", "close_time"]).to_pylist() == [
        {"open": 78787.69869565, "high": 78800.12195652, "low": 78779.04456522, "close": 78798.99369565}
    ]


def test_funding_with_and_without_the_optional_fields():
    rows = [
        {"symbol": "BTCUSDT", "fundingTime": 1678060800007, "fundingRate": "0.00004054", "markPrice": ""},
        {"symbol": "BTCUSDT", "fundingTime": 1, "fundingRate": "-0.001", "markPrice": "76907.97183333", "rateType": "Special"},
        {"symbol": "BTCUSDT", "fundingTime": 0, "fundingRate": "0", "rateType": "", "new": {"field": []}},
        {"symbol": "BTCUSDT", "fundingTime": 2, "fundingRate": 0.5, "rateType": None, "markPrice": None},
        {"symbol": "BTCUSDT", "fundingTime": 3, "fundingRate": 1, "rateType": "Regular", "markPrice": 7},
    ]
    table = wire.decoder("funding")(json.dumps(rows).encode())
    assert table.schema.equals(arrow_schema("funding"))
    assert ms(table, "funding_time") == [1678060800007, 1, 0, 2, 3]
    assert table["funding_rate"].to_pylist() == [0.00004054, -0.001, 0.0, 0.5, 1.0]
    assert table["mark_price"].to_pylist() == [None, 76907.97183333, None, None, 7.0]
    assert table["rate_type"].to_pylist() == [None, "Special", None, None, "Regular"]


def test_funding_of_many_symbols_in_the_order_sent():
    rows = [{"symbol": s, "fundingTime": t, "fundingRate": "0.1"} for s, t in [("B", 1), ("币安人生USDT", 1), ("B", 2)]]
    tables = wire.decoder_by_symbol("funding")(json.dumps(rows).encode())
    assert {symbol: ms(table, "funding_time") for symbol, table in tables.items()} == {"B": [1, 2], "币安人生USDT": [1]}
    assert all(table.schema.equals(arrow_schema("funding")) for table in tables.values())
    assert wire.decoder_by_symbol("funding")(b"[]") == {}
    with pytest.raises(BadAnswer, match="symbol"):
        wire.decoder_by_symbol("funding")(b'[{"fundingTime":1,"fundingRate":"1"}]')
    with pytest.raises(ValueError, match="klines"):
        wire.decoder_by_symbol("klines")


@pytest.mark.parametrize("dataset", DATASETS)
def test_an_empty_page_has_the_schema(dataset):
    table = wire.decoder(dataset)(b"[]")
    assert table.num_rows == 0
    assert table.schema.equals(arrow_schema(dataset))


@given(st.lists(st.decimals(allow_nan=False, allow_infinity=False, places=8, min_value=-(10**9), max_value=10**9), max_size=20))
def test_decimals_become_the_nearest_double(numbers):
    rows = [[0, f"{n:f}", f"{n:f}", "1", "1", "1", 1, "1", 1, "1", "1"] for n in numbers]
    table = wire.decoder("klines")(json.dumps(rows).encode())
    assert table["open"].to_pylist() == [float(f"{n:f}") for n in numbers]


ROW = [0, "1", "1", "1", "1", "1", 1, "1", 1, "1", "1", "0"]


def row(**changes: object) -> bytes:
    changed = [changes.get(f"_{i}", value) for i, value in enumerate(ROW)]
    return json.dumps([ROW, changed]).encode()


def test_extra_trailing_fields_are_tolerated():
    assert wire.decoder("klines")(json.dumps([[*ROW, "new", {}]]).encode()).num_rows == 1
    assert wire.decoder("klines")(json.dumps([ROW[:11]]).encode()).num_rows == 1, "the unused twelfth field"


@pytest.mark.parametrize(
    "body",
    [
        b'{"code":-1121,"msg":"Invalid symbol."}',
        b"null",
        b"{}",
        b'"text"',
        b"1",
        b"[1,2]",
        b"[{}]",
        b"[[]]",
        json.dumps([ROW, ROW[:10]]).encode(),
        row(_0="x"),
        row(_0=None),
        row(_0=1.5),
        row(_0=-1),
        row(_0=True),
        row(_0=10**15),
        row(_0=10**30),
        row(_1="x"),
        row(_1=""),
        row(_1=None),
        row(_1="nan"),
        row(_1="-inf"),
        row(_1="Infinity"),
        row(_1="1e999"),
        row(_1=[]),
        row(_8=1.5),
        row(_8=-1),
        row(_8=2**63),
    ],
)
def test_json_of_another_shape_is_a_bad_answer_that_shows_its_first_bytes(body):
    with pytest.raises(BadAnswer) as caught:
        wire.decoder("klines")(body)
    assert repr(body[:120])[1:] in str(caught.value)
    assert "http" not in str(caught.value)


@pytest.mark.parametrize("price", ["x", "nan", "inf", [], True, {}])
def test_a_mark_price_that_is_no_number_is_a_bad_answer(price):
    with pytest.raises(BadAnswer):
        wire.decoder("funding")(json.dumps([{"fundingTime": 1, "fundingRate": "1", "markPrice": price}]).encode())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"<html>\r\n<head><title>502 Bad Gateway</title>",
        b"\xff\xfe\x00",
        b"[NaN]",
        b"[[",
        b"[[1,2],",
        f"[{KLINE}".encode(),
        f"[{KLINE}]x".encode(),
        b'{"code":-1',
        b"[" * 100_000,
        row()[:-1],
    ],
)
def test_what_is_no_json_is_transient(body):
    with pytest.raises(Transient) as caught:
        wire.decoder("klines")(body)
    assert repr(body[:120])[1:] in str(caught.value)


@given(st.integers(0, 2000))
def test_a_page_that_is_cut_anywhere_is_transient(at):
    body = f"[{','.join([KLINE] * 20)}]".encode()
    with pytest.raises(Transient):
        wire.decoder("klines")(body[: at % len(body)])


@given(st.binary(max_size=200) | st.text().map(str.encode))
def test_no_body_whatever_raises_anything_else(body):
    for decode in (wire.decoder("klines"), wire.decoder("funding"), wire.exchange_info, wire.book_tickers, wire.depth):
        with pytest.raises((Transient, BadAnswer)):
            decode(body if body.strip() not in {b"[]", b"{}"} else b"")
    assert isinstance(wire.error_body(body), wire.ErrorBody)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=12) | st.dictionaries(st.text() | st.sampled_from(["symbol", "code", "msg"]), inner),
    max_leaves=30,
)


@given(values)
def test_no_json_whatever_raises_anything_but_bad_answer(value):
    body = json.dumps(value).encode()
    for decode in (
        wire.decoder("klines"),
        wire.decoder("funding"),
        wire.exchange_info,
        wire.book_tickers,
        wire.server_time,
        wire.funding_steps,
    ):
        with contextlib.suppress(BadAnswer):
            decode(body)
    wire.error_body(body)


def test_server_time():
    assert wire.server_time(b'{"serverTime":1789478299014}') == 1789478299014
    for wrong in (b'{"serverTime":"1789478299014"}', b'{"serverTime":-1}', b"{}", b"[]"):
        with pytest.raises(BadAnswer):
            wire.server_time(wrong)


def test_book_tickers_as_object_and_as_list():
    um = (
        b'{"symbol":"BTCUSDT","bidPrice":"76914.9","bidQty":"4.218","askPrice":"76915.0","askQty":"6.128","time":1789478303376}'
    )
    spot = b'{"symbol":"BTCUSDT","bidPrice":"1.50","bidQty":"2","askPrice":"1.60","askQty":"3"}'
    expected = wire.BookTicker("BTCUSDT", 76914.9, 4.218, 76915.0, 6.128, 1789478303376)
    assert wire.book_tickers(um) == [expected]
    assert wire.book_tickers(b"[%s,%s]" % (um, spot)) == [expected, wire.BookTicker("BTCUSDT", 1.5, 2.0, 1.6, 3.0, None)]
    with pytest.raises(BadAnswer, match="finite"):
        wire.book_tickers(um.replace(b"4.218", b"nan"))


def test_depth_of_futures_and_of_spot():
    book = wire.depth(
        b'{"lastUpdateId":1,"E":3,"T":2,"bids":[["76914.90","5.878"]],"asks":[["76915.00","2.149",[]],["76915.10","0"]]}'
    )
    assert book == wire.Depth([wire.Level(76914.9, 5.878)], [wire.Level(76915.0, 2.149), wire.Level(76915.1, 0.0)], 2)
    assert wire.depth(b'{"lastUpdateId":1,"bids":[],"asks":[]}') == wire.Depth([], [], None)
    for wrong in (b'{"bids":[["1"]],"asks":[]}', b'{"bids":[]}', b'{"bids":[["inf","1"]],"asks":[]}'):
        with pytest.raises(BadAnswer):
            wire.depth(wrong)


def info(*symbols: dict, **more: object) -> bytes:
    return json.dumps({"serverTime": 1, "symbols": symbols, **more}).encode()


def test_exchange_info_of_cm():
    (rules,) = wire.exchange_info(
        info(
            {
                "symbol": "BTCUSD_PERP",
                "pair": "BTCUSD",
                "contractType": "PERPETUAL",
                "deliveryDate": 4133404800000,
                "onboardDate": 1597042800000,
                "contractStatus": "TRADING",
                "contractSize": 100,
                "baseAsset": "BTC",
                "quoteAsset": "USD",
                "filters": [
                    {"minPrice": "1000", "maxPrice": "4520958", "filterType": "PRICE_FILTER", "tickSize": "0.1"},
                    {"stepSize": "1", "filterType": "LOT_SIZE", "maxQty": "60000", "minQty": "1"},
                ],
            }
        )
    ).symbols
    assert (rules.symbol, rules.pair, rules.base_asset, rules.quote_asset) == ("BTCUSD_PERP", "BTCUSD", "BTC", "USD")
    assert (rules.status, rules.contract_type) == ("TRADING", "PERPETUAL")
    assert (rules.onboard_time, rules.delivery_time) == (1597042800000, None)
    assert (rules.tick_size, rules.min_price, rules.step_size, rules.min_qty, rules.max_qty) == (0.1, 1000.0, 1.0, 1.0, 60000.0)
    assert rules.min_notional is None


@pytest.mark.parametrize(
    "filter", [{"filterType": "NOTIONAL", "minNotional": "5.0"}, {"filterType": "MIN_NOTIONAL", "minNotional": "5"}]
)
def test_exchange_info_of_spot(filter):
    (rules,) = wire.exchange_info(
        info({"symbol": "ETHBTC", "status": "BREAK", "baseAsset": "ETH", "quoteAsset": "BTC", "filters": [filter]})
    ).symbols
    assert (rules.base_asset, rules.quote_asset, rules.status, rules.min_notional) == ("ETH", "BTC", "BREAK", 5.0)
    assert (rules.pair, rules.contract_type, rules.onboard_time, rules.delivery_time) == (None, None, None, None)


def test_exchange_info_tolerates_what_is_new_or_absent():
    odd = {"symbol": "X", "settlePlan": {}, "filters": [{"filterType": "NEW", "tickSize": {}}, {}, {"filterType": "LOT_SIZE"}]}
    (rules,) = wire.exchange_info(info(odd)).symbols
    assert rules.symbol == "X"
    assert rules.tick_size is rules.step_size is rules.status is None
    assert wire.exchange_info(info(rateLimits=[{"new": 1}])).weight_limit is None


@pytest.mark.parametrize(
    "wrong",
    [
        info({"status": "TRADING"}),
        info({"symbol": "X", "filters": [{"filterType": "PRICE_FILTER", "tickSize": "nan"}]}),
        info({"symbol": "X", "filters": [{"filterType": "PRICE_FILTER", "tickSize": []}]}),
        info({"symbol": "X", "filters": [{"filterType": "PRICE_FILTER", "tickSize": "x"}]}),
        info({"symbol": "X", "filters": [{"filterType": []}]}),
        info({"symbol": 1}),
        b'{"serverTime":1}',
        b'{"symbols":[]}',
    ],
)
def test_exchange_info_of_another_shape_is_a_bad_answer(wrong):
    with pytest.raises(BadAnswer):
        wire.exchange_info(wrong)


@pytest.mark.parametrize(
    ("body", "code", "msg"),
    [
        (b'{"code":-1121,"msg":"Invalid symbol."}', -1121, "Invalid symbol."),
        (b'{"msg":"m","code":-1130}', -1130, "m"),
        (b'{"status":"ERROR","type":"VALID","code":"000002","errorData":{"limit":"x"},"data":null}', "000002", None),
        (b"<html>", None, None),
        (b"", None, None),
        (b"[]", None, None),
        (b'{"code":{}}', None, None),
        (b"[" * 100_000, None, None),
    ],
)
def test_error_bodies(body, code, msg):
    assert wire.error_body(body) == wire.ErrorBody(code, msg)


# ---- recorded bodies


def test_recorded_klines(real_data):
    files = sorted((real_data / "rest_raw" / "klines_1d").glob("*.json"))
    assert files
    for file in files:
        rows = json.loads(file.read_bytes())
        table = wire.decoder("klines")(file.read_bytes())
        columns = [table[i].cast(pa.int64()) if i in {0, 6} else table[i] for i in range(11)]
        convert = [int, *[float] * 5, int, float, int, float, float]
        expected = [[convert[i](row[i]) for i in range(11)] for row in rows]
        assert [list(row) for row in zip(*(c.to_pylist() for c in columns), strict=True)] == expected


def test_recorded_funding(real_data):
    files = sorted((real_data / "rest_raw").glob("fundingRate-*.json"))
    assert files
    for file in files:
        rows = json.loads(file.read_bytes())
        table = wire.decoder("funding")(file.read_bytes())
        assert ms(table, "funding_time") == [row["fundingTime"] for row in rows]
        assert table["funding_rate"].to_pylist() == [float(row["fundingRate"]) for row in rows]
        assert table["mark_price"].to_pylist() == [float(row["markPrice"]) if row["markPrice"] else None for row in rows]
        assert table["rate_type"].to_pylist() == [row.get("rateType") for row in rows]
        assert list(wire.decoder_by_symbol("funding")(file.read_bytes())) == [file.name.split("-")[1]]


def test_recorded_exchange_info(real_data):
    (file,) = (real_data / "rest_raw").glob("exchangeInfo-*.json")
    raw = json.loads(file.read_bytes())
    info = wire.exchange_info(file.read_bytes())
    assert (info.server_time, info.weight_limit) == (raw["serverTime"], 2400)
    assert [rules.symbol for rules in info.symbols] == [symbol["symbol"] for symbol in raw["symbols"]]
    for rules, symbol in zip(info.symbols, raw["symbols"], strict=True):
        filters = {filter["filterType"]: filter for filter in symbol["filters"]}
        assert rules.tick_size == float(filters["PRICE_FILTER"]["tickSize"])
        assert rules.min_price == float(filters["PRICE_FILTER"]["minPrice"])
        lot = filters["LOT_SIZE"]
        assert (rules.step_size, rules.min_qty, rules.max_qty) == tuple(
            map(float, (lot["stepSize"], lot["minQty"], lot["maxQty"]))
        )
        assert rules.min_notional == float(filters["MIN_NOTIONAL"]["notional"])
        delivery = None if symbol["deliveryDate"] == 4133404800000 else symbol["deliveryDate"]
        assert (rules.onboard_time, rules.delivery_time) == (symbol["onboardDate"], delivery)
        texts = (symbol["pair"], symbol["baseAsset"], symbol["quoteAsset"], symbol["contractType"], symbol["status"])
        assert (rules.pair, rules.base_asset, rules.quote_asset, rules.contract_type, rules.status) == texts


def test_recorded_quotes(real_data):
    for name in ("bookTicker-BTCUSDT.json", "bookTicker-all.json"):
        body = (real_data / "rest_raw" / name).read_bytes()
        raw = json.loads(body)
        expected = [
            (r["symbol"], *(float(r[k]) for k in ("bidPrice", "bidQty", "askPrice", "askQty")), r["time"])
            for r in (raw if isinstance(raw, list) else [raw])
        ]
        assert [(t.symbol, t.bid, t.bid_qty, t.ask, t.ask_qty, t.time) for t in wire.book_tickers(body)] == expected
    body = (real_data / "rest_raw" / "depth-BTCUSDT-limit1000.json").read_bytes()
    raw = json.loads(body)
    book = wire.depth(body)
    assert [[level.price, level.qty] for level in book.bids] == [[float(x) for x in level] for level in raw["bids"]]
    assert [[level.price, level.qty] for level in book.asks] == [[float(x) for x in level] for level in raw["asks"]]
    assert book.time == raw["T"]
    assert all(math.isfinite(level.price) for level in book.bids)


def test_recorded_bodies_of_other_endpoints_are_no_page(real_data):
    for name in ("fundingInfo-20260704.json", "premiumIndex-20260704T044945Z.json"):
        for dataset in DATASETS:
            with pytest.raises(BadAnswer):
                wire.decoder(dataset)((real_data / "rest_raw" / name).read_bytes())


def test_the_distance_of_settlements():
    """The rows of binance-facts 2.5: one more is there than was asked for, and a time may be null."""
    body = b"""[{"symbol":"GTCUSDT","adjustedFundingRateCap":"0.02000000","adjustedFundingRateFloor":"-0.02000000",
    "fundingIntervalHours":8,"disclaimer":false,"updateTime":1758377721362},{"symbol":"LABUSDT","fundingIntervalHours":1,
    "updateTime":null}]"""
    assert wire.funding_steps(body) == {"GTCUSDT": 28_800_000, "LABUSDT": 3_600_000}


@pytest.mark.parametrize("hours", ["0", "-8", "25", '"8"', "null", "1e99"])
def test_a_distance_that_is_none(hours):
    with pytest.raises(BadAnswer):
        wire.funding_steps(f'[{{"symbol":"A","fundingIntervalHours":{hours}}}]'.encode())
