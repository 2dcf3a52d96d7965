"""Recorded files as an exchange: text kept, preferences stated, nothing invented."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import feather

from etl.errors import UsageError
from etl.ranges import DAY, HOUR, MINUTE, parse_time
from etl.sim.replay import ReplayWorld
from etl.sim.server import Simulator

from .conftest import fetch

HEAD = "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore\n"
T = 1_700_000_040_000


def bar(time: int, close: str = "1.50", unit: int = 1) -> str:
    return f"{time * unit},1.00,2.00,0.50,{close},3.000,{(time + MINUTE) * unit - 1},4.50000,7,1.000,1.50000,0\n"


def wire(time: int, close: str = "1.50") -> list[Any]:
    return [time, "1.00", "2.00", "0.50", close, "3.000", time + MINUTE - 1, "4.50000", 7, "1.000", "1.50000", "0"]


@pytest.fixture
def replay(tmp_path: Path) -> Callable[..., ReplayWorld]:
    def make(**files: str | bytes) -> ReplayWorld:
        for name, text in files.items():
            file = tmp_path / "recorded" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return ReplayWorld(tmp_path / "recorded", quiet=True)

    return make


Replay = Callable[..., ReplayWorld]


def rows(
    world: ReplayWorld, symbol: str, dataset: str = "klines", interval: str | None = "1m", market: str = "um"
) -> list[Any]:
    return world.truth(market, dataset, symbol, interval, 0, 2**62)


def test_bars_with_and_without_header(replay: Replay) -> None:
    world = replay(
        **{
            "AUSDT-1m-2023-11.csv": HEAD + bar(T) + bar(T + MINUTE),
            "AUSDT-1m-2023-12-01.csv": bar(T + 2 * MINUTE),
            "spot/AUSDT-1m-2025-01.csv": bar(T, unit=1000),
            "x/BUSDT-1mo-2023-11.csv": "openTime,open,high,low,close,volume,closeTime,quoteVolume,trades,"
            "takerBuyBase,takerBuyQuote\n" + bar(T).replace(",0\n", "\n"),
            "markPriceKlines/AUSDT-1m-2023-11.csv": bar(T),
        }
    )
    assert rows(world, "AUSDT") == [wire(T), wire(T + MINUTE), wire(T + 2 * MINUTE)]
    assert rows(world, "AUSDT", market="spot") == [wire(T)]
    assert rows(world, "BUSDT", interval="1M") == [wire(T)]
    assert rows(world, "AUSDT", "mark_klines") == [wire(T)]
    assert not world.left_out


def test_the_preferred_file_stands(replay: Replay) -> None:
    world = replay(
        **{
            "AUSDT-1m-2023-11.csv": bar(T, "1.10"),
            "b/AUSDT-1m-2023-11.csv": bar(T, "1.20") + bar(T + MINUTE, "1.20"),
            "klines_1m/AUSDT.json": json.dumps([wire(T + at * MINUTE, "1.30") for at in range(3)]),
        }
    )
    assert [row[4] for row in rows(world, "AUSDT")] == ["1.10", "1.20", "1.30"]
    assert "1 of them stand as in a preferred file" in world.served["b/AUSDT-1m-2023-11.csv"]


def test_settlements_of_all_kinds_are_one_series(replay: Replay, tmp_path: Path) -> None:
    times = pa.array([T + 2 * HOUR, T + 3 * HOUR], pa.timestamp("ms", tz="UTC"))
    (tmp_path / "recorded").mkdir()
    table = pa.table({"date": times, "open": [0.0001, -4.758e-05], "close": [0.0, 0.0]})
    feather.write_feather(table, tmp_path / "recorded" / "A_USDT_USDT-8h-funding_rate.feather")
    raw = {"symbol": "AUSDT", "fundingTime": T + HOUR, "fundingRate": "0.00000200", "markPrice": "1.5", "rateType": "Regular"}
    world = replay(
        **{
            "AUSDT-fundingRate-2023-11.csv": f"calc_time,funding_interval_hours,last_funding_rate\n{T + 7},8,0.00000100\n",
            "fundingRate-AUSDT.json": json.dumps([{**raw, "fundingTime": T}, raw, {**raw, "rateType": "Special"}]),
            "other.csv": "timestamp,symbol,funding_rate\n"
            f"{T + HOUR + 9},AUSDT,0.00000900\n{T + 2 * HOUR + 5},AUSDT,0.00000300\n",
        }
    )
    common = {"symbol": "AUSDT", "markPrice": ""}
    assert rows(world, "AUSDT", "funding", None) == [
        {**common, "fundingTime": T + 7, "fundingRate": "0.00000100"},
        raw,
        {**raw, "rateType": "Special"},
        {**common, "fundingTime": T + 2 * HOUR + 5, "fundingRate": "0.00000300"},
        {**common, "fundingTime": T + 3 * HOUR, "fundingRate": "-0.00004758"},
    ]


def test_what_cannot_be_served_is_left_out(replay: Replay, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    world = replay(
        **{
            "AUSDT-1m-2023-11.csv": bar(T),
            "BUSDT-1m-2023-11.csv": "timestamp,open,high,low,close,volume\n1,2,3,4,5,6\n",
            "CUSDT.csv": bar(T),
            "DUSDT-1m-2023-11.csv": bar(T) + "1,2\n",
            "EUSDT-1m-2023-11.csv": bar(T, "abc"),
            "notes.txt": "x",
            "odd.json": "{",
            "empty.csv": "",
            "things.csv": "a,b\n1,2\n",
        }
    )
    assert set(world.served) == {"AUSDT-1m-2023-11.csv"}
    for name, reason in {
        "BUSDT-1m-2023-11.csv": "lack close_time, quote_volume, count, taker_buy_volume, taker_buy_quote_volume",
        "CUSDT.csv": "name does not say",
        "DUSDT-1m-2023-11.csv": "row 2 has 2 fields",
        "EUSDT-1m-2023-11.csv": "row 1 holds something that is no number",
        "notes.txt": "only .csv",
        "odd.json": "no JSON",
        "empty.csv": "empty",
        "things.csv": "neither bars nor settlements",
    }.items():
        assert reason in world.left_out[name]
    ReplayWorld(tmp_path / "recorded")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 9
    assert lines[0].startswith("serve AUSDT-1m-2023-11.csv: um klines AUSDT 1m 1 rows 2023-11-14T22:14:00Z")


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(UsageError, match="nothing that can be served"):
        ReplayWorld(tmp_path, quiet=True)
    with pytest.raises(UsageError, match="no folder"):
        ReplayWorld(tmp_path / "README.md", quiet=True)


def test_served_like_any_exchange(replay: Replay, start: Callable[..., Simulator]) -> None:
    sim = start(replay(**{"AUSDT-1m-2023-11.csv": "".join(bar(T + at * MINUTE) for at in range(10))}))
    options = {"symbol": "AUSDT", "interval": "1m"}
    assert fetch(sim, "/fapi/v1/klines", **options, startTime=T, limit=2).body == [wire(T), wire(T + MINUTE)]
    assert fetch(sim, "/fapi/v1/klines", **options, limit=1).body == [wire(T + 9 * MINUTE)]
    assert fetch(sim, "/fapi/v1/klines", **options, startTime=T + DAY).body == []
    assert fetch(sim, "/fapi/v1/klines", symbol="AUSDT", interval="1h").body == []
    assert fetch(sim, "/fapi/v1/klines", symbol="NOPE", interval="1h").body["code"] == -1121
    assert fetch(sim, "/fapi/v1/ticker/bookTicker", symbol="AUSDT").body["code"] == -1121
    assert fetch(sim, "/fapi/v1/ticker/bookTicker").body["code"] == -1121
    assert fetch(sim, "/fapi/v1/depth", symbol="AUSDT").body["code"] == -1121
    assert fetch(sim, "/fapi/v1/fundingInfo").body == []
    listed = fetch(sim, "/fapi/v1/exchangeInfo").body["symbols"]
    assert listed == [{"symbol": "AUSDT", "pair": "AUSDT", "status": "TRADING", "filters": []}]
    sim.clock.set(T + 4 * MINUTE)
    assert fetch(sim, "/fapi/v1/klines", **options, limit=1).body == [wire(T + 4 * MINUTE)]


# --- the recorded data


@pytest.fixture(scope="module")
def recorded(real_data: Path) -> ReplayWorld:
    return ReplayWorld(real_data, quiet=True)


@pytest.fixture
def exchange(recorded: ReplayWorld, start: Callable[..., Simulator]) -> Simulator:
    return start(recorded)


def texts(file: Path) -> Iterator[list[str]]:
    with file.open(newline="") as stream:
        yield from (line for line in csv.reader(stream) if line[0].isdecimal())


@pytest.mark.parametrize(
    ("file", "path", "interval"),
    [
        ("vision_um_csv/AVAXUSDT-1m-2026-06.csv", "/fapi/v1/klines", "1m"),
        ("klines_um/BTCUSDT-1h-2025-01_2026-07.csv", "/fapi/v1/klines", "1h"),
        ("vision_spot_csv/BTCUSDT-1h-2025-01.csv", "/api/v3/klines", "1h"),
    ],
)
def test_recorded_bars_keep_their_text(exchange: Simulator, real_data: Path, file: str, path: str, interval: str) -> None:
    expected = []
    for line in texts(real_data / file):
        unit = 1000 if len(line[0]) == 16 else 1
        expected.append([int(line[0]) // unit, *line[1:6], int(line[6]) // unit, line[7], int(line[8]), *line[9:12]])
    assert len(expected) > 700
    symbol = Path(file).name.partition("-")[0]
    cursor, served = expected[0][0], []
    while cursor <= expected[-1][0]:
        page = fetch(
            exchange, path, symbol=symbol, interval=interval, startTime=cursor, endTime=expected[-1][0], limit=1000
        ).body
        served += page
        cursor = page[-1][0] + 1
    assert served == expected


def test_recorded_settlements(exchange: Simulator, real_data: Path) -> None:
    expected = [(int(line[0]), line[2]) for line in texts(real_data / "funding/BTCUSDT-funding-2025-01_2026-07.csv")]
    served, cursor = [], expected[0][0]
    options = {"symbol": "BTCUSDT", "endTime": expected[-1][0], "limit": 1000}
    while cursor <= expected[-1][0]:
        page = fetch(exchange, "/fapi/v1/fundingRate", **options, startTime=cursor).body
        served += [(row["fundingTime"], row["fundingRate"]) for row in page]
        cursor = page[-1]["fundingTime"] + 1
    assert served == expected


def test_recorded_settlements_of_feather_equal_those_of_other_files(recorded: ReplayWorld, real_data: Path) -> None:
    """A renamed JSON file says only the coin; that its rates are those of the USDT contract is checked here."""
    table = feather.read_table(real_data / "funding/BTC_USDT_USDT-8h-funding_rate.feather").to_pylist()
    coin = json.loads((real_data / "funding/binance_BTC_funding_rates.json").read_text())
    rates = {int(row["date"].timestamp() * 1000) // MINUTE: row["open"] for row in table}
    both = [(rates[row["time"] // MINUTE], float(row["funding_rate"])) for row in coin if row["time"] // MINUTE in rates]
    assert len(both) > 3000
    assert all(one == other for one, other in both)
    served = {row["fundingTime"] // MINUTE: float(row["fundingRate"]) for row in rows(recorded, "BTCUSDT", "funding", None)}
    assert all(served[minute] == rate for minute, rate in rates.items())
    assert rows(recorded, "BTCUSDT", "funding", None)[0]["fundingTime"] == parse_time("2019-09-10T08:00")


def test_recorded_bodies(exchange: Simulator, real_data: Path) -> None:
    raw = real_data / "rest_raw"
    info = json.loads((raw / "exchangeInfo-20260703T170827Z.json").read_text())
    served = fetch(exchange, "/fapi/v1/exchangeInfo").body["symbols"]
    assert served[: len(info["symbols"])] == info["symbols"]
    added = {one["symbol"] for one in served[len(info["symbols"]) :]}
    assert {"BTCUSDT_250926", "BTCUSDT_251226"} <= added
    quotes = json.loads((raw / "bookTicker-all.json").read_text())
    assert fetch(exchange, "/fapi/v1/ticker/bookTicker").body == quotes
    assert fetch(exchange, "/fapi/v1/ticker/bookTicker", symbol="ETHUSDT").body == quotes[1]
    book = json.loads((raw / "depth-BTCUSDT-limit1000.json").read_text())
    assert fetch(exchange, "/fapi/v1/depth", symbol="BTCUSDT", limit=5).body["bids"] == book["bids"][:5]
    assert len(fetch(exchange, "/fapi/v1/fundingInfo").body) == 711
    daily = json.loads((raw / "klines_1d/ETHUSDT.json").read_text())
    assert fetch(exchange, "/fapi/v1/klines", symbol="ETHUSDT", interval="1d", startTime=1).body == daily


def test_recorded_files_without_all_fields_are_left_out(recorded: ReplayWorld) -> None:
    assert "taker_buy_volume" in recorded.left_out["klines_um/rest_1h/BTCUSDT.csv"]
    assert "quote_volume" in recorded.left_out["klines_um/feather/LTC_USDT_USDT-1h-futures.feather"]
    assert "klines_um/BTCUSDT-1h-2025-01_2026-07.csv" in recorded.served
