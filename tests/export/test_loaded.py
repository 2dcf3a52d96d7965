"""What is exported, read by the real tools and compared with the exchange row by row."""

from __future__ import annotations

import json
import re
import subprocess
from decimal import Decimal

import pytest

from etl.model import Series
from etl.ranges import DAY, HOUR, MINUTE, iso, parse_time

from ..exchange import truth
from .conftest import HOURS, NOW, ask, python_of

START = parse_time("2026-07-28")


@pytest.fixture
def rows(exchange):
    """What the exchange has of a series."""

    def of(symbol, dataset="klines", interval="1h", market="um", start=START, end=NOW):
        series = Series(market, dataset, symbol, None if dataset == "funding" else interval)
        return truth(exchange, series, start, end)

    return of


def closed(rows, at):
    """Bars without those that are open at the exchange's time; `at` is the position of close_time."""
    return [row for row in rows if row[at] < NOW]


def test_backtesting(export, rows, tmp_path):
    python_of("backtesting")
    export(
        "klines", "--to", "backtesting", "--symbols", "BTCUSDT", "--interval", "1h", "-o", str(tmp_path / "exports/backtesting")
    )
    said = ask("backtesting", "backtesting.py", "load_backtesting.py", tmp_path)
    bars = closed(rows("BTCUSDT"), 6)
    assert len(bars) == (NOW - START) // HOUR
    assert said["columns"] == ["Open", "High", "Low", "Close", "Volume"]
    assert said["dtypes"] == ["datetime64", *["float64"] * 5]
    assert said["rows"] == [[iso(row[0])[:19].replace("T", " "), *row[1:6]] for row in bars]
    # It decides after the second bar, buys at the open of the third, and ends at the open of the last one.
    assert said["equity"] == pytest.approx(10_000_000 + bars[-1][1] - bars[2][1], abs=1e-6)


def test_vectorbt(export, rows, tmp_path):
    python_of("vectorbt")
    export("klines", "--to", "vectorbt", "--symbols", "BTCUSDT", "--interval", "1h", "-o", str(tmp_path / "exports/vectorbt"))
    said = ask("vectorbt", "vectorbt", "load_vectorbt.py", tmp_path)
    bars = closed(rows("BTCUSDT"), 6)
    assert said["index"] == ["Open time", "datetime64[ns, UTC]"]
    floats, instant = "float64", "datetime64[ns, UTC]"
    assert said["dtypes"] == {
        "Open": floats,
        "High": floats,
        "Low": floats,
        "Close": floats,
        "Volume": floats,
        "Close time": instant,
        "Quote volume": floats,
        "Number of trades": "int64",
        "Taker base volume": floats,
        "Taker quote volume": floats,
    }
    assert said["rows"] == [[row[0] * 10**6, *row[1:6], row[6] * 10**6, *row[7:]] for row in bars]
    assert said["return"] == pytest.approx(bars[-1][4] / bars[0][4] - 1, abs=1e-12)


def test_freqtrade(documented, rows, tmp_path):
    python_of("freqtrade")
    folder = str(tmp_path / "user_data/data/binance")
    perpetuals = [symbol for symbol in HOURS if "_" not in symbol]
    pairs = dict(
        zip(
            perpetuals,
            ("BTC/USDT:USDT", "币安人生/USDT:USDT", "1000PEPE/USDT:USDT", "TSLA/USDT:USDT", "LRC/USDT:USDT"),
            strict=True,
        )
    )
    # 1h mark klines come whichever interval is named; 1m does not.
    done = documented("--to", "freqtrade", "--symbols", ",".join(perpetuals), "--interval", "1h,1M", "-o", folder)
    # Of months there are more than of funding; nothing else is amiss.
    assert {re.match(r"(funding|mark_klines) of um BTCUSDT|um funding TSLAUSDT: 2 ", note)[0] for note in done["notes"]} == {
        "funding of um BTCUSDT",
        "mark_klines of um BTCUSDT",
        "um funding TSLAUSDT: 2 ",
    }
    assert all("1M bars from 2025-01-01T00:00:00Z" in note for note in done["notes"] if "BTCUSDT" in note)
    documented("--to", "freqtrade", "--symbols", "SRMUSDT", "-o", folder)
    documented("--to", "freqtrade", "--market", "spot", "-o", folder)

    wanted = [(pair, "1h", kind) for pair in pairs.values() for kind in ("futures", "funding_rate", "mark")]
    others = [("BTC/USDT:USDT", "1M", "futures"), ("SRM/USDT:USDT", "1h", "futures")]
    said = ask(
        "freqtrade", "freqtrade", "load_freqtrade.py", tmp_path, json.dumps([*wanted, *others, ("BTC/USDT", "1h", "spot")])
    )
    assert said["timeframes"] == ["1h", "1h"]
    assert said["columns"] == ["date", "open", "high", "low", "close", "volume"]
    assert said["found"] == {"spot": [["BTC/USDT", "1h", "spot"]], "futures": sorted(map(list, [*wanted, *others]))}
    loaded = said["loaded"]
    for symbol, pair in pairs.items():
        assert loaded[f"{pair} 1h futures"] == [list(row[:6]) for row in closed(rows(symbol), 6)]
        assert loaded[f"{pair} 1h mark"] == [[*row[:5], 0.0] for row in closed(rows(symbol, "mark_klines"), 5)]
        expected = {}
        for time, rate, *_ in rows(symbol, "funding"):
            expected.setdefault(time - time % 1000, []).append(rate)
        settled = {time: numbers[0] for time, *numbers in loaded[f"{pair} 1h funding_rate"]}
        assert settled == {time: pytest.approx(sum(rates), abs=1e-15) for time, rates in expected.items()}
        assert len(loaded[f"{pair} 1h funding_rate"]) == len(expected)
    assert len([rate for *_, rate in rows("TSLAUSDT", "funding") if rate == "Special"]) == 2
    assert len(loaded["BTC/USDT:USDT 1M futures"]) == 19
    assert loaded["BTC/USDT 1h spot"] == [
        list(row[:6]) for row in closed(rows("BTCUSDT", market="spot", start=parse_time("2026-08-01")), 6)
    ]
    # What freqtrade makes a short position of two coins earn, by hand: rate times the mark price at the settlement.
    bars, marks = closed(rows("BTCUSDT"), 6), {row[0]: row[1] for row in rows("BTCUSDT", "mark_klines")}
    opened, over = bars[10][0], bars[200][0]
    settled = [(time - time % 1000, rate) for time, rate, *_ in rows("BTCUSDT", "funding")]
    earned = sum(2 * rate * marks[time] for time, rate in settled if opened <= time <= over)
    assert len([1 for time, _ in settled if opened <= time <= over]) == 24
    assert said["paid"] == pytest.approx(earned, abs=1e-9)


def test_nautilus(exchange, lake, rows, tmp_path):
    python = python_of("nautilus")
    folder = tmp_path / "exports/nautilus"

    def export(*arguments):
        command = [python, "-m", "etl", "export", "--to", "nautilus", "-o", folder, "--lake", lake, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)

    first = export("klines", "--symbols", "BTCUSDT", "--interval", "1h", "--start", "2026-08-09")  # the next one replaces it
    assert first.returncode == 0, first.stderr
    own = folder / "data" / "bar" / "MINE-PERP.BINANCE-1-HOUR-LAST-EXTERNAL" / "kept.parquet"
    own.parent.mkdir()
    own.write_bytes(b"mine")
    finished = export("--interval", "1h,1m,1M")
    assert finished.returncode == 0, finished.stderr
    assert "nautilus needs tick_size, step_size of SRMUSDT" in finished.stderr
    assert own.read_bytes() == b"mine"
    own.unlink()
    own.parent.rmdir()
    assert [path.name for path in folder.iterdir()] == ["data"]
    spot = export("--market", "spot", "--symbols", "BTCUSDT")
    assert spot.returncode == 0, spot.stderr

    said = ask("nautilus", "nautilus_trader", "load_nautilus.py", tmp_path)
    assert said["rules"].keys() == {f"{s}{'' if '_' in s else '-PERP'}.BINANCE" for s in (*HOURS, "XLMUSDT")} | {
        "BTCUSDT.BINANCE"
    }
    assert said["rules"]["BTCUSDT-PERP.BINANCE"] == ["CryptoPerpetual", "BTCUSDT", "USDT", 1, 3, 0.1, 0.001, None]
    assert said["rules"]["BTCUSDT_261225.BINANCE"][0] == "CryptoFuture"
    assert said["rules"]["BTCUSDT_261225.BINANCE"][-1] == parse_time("2026-12-25T08:00") * 10**6
    assert said["rules"]["BTCUSDT.BINANCE"][:3] == ["CurrencyPair", "BTCUSDT", "USDT"]
    # Its tick and step are coarser now than what was traded; the increment stays that of the rules.
    assert said["rules"]["1000PEPEUSDT-PERP.BINANCE"][3:7] == [7, 0, 0.001, 100.0]
    for symbol in HOURS:
        identity = f"{symbol}{'' if '_' in symbol else '-PERP'}.BINANCE"
        told = [
            [event, init, *map(Decimal, numbers)] for event, init, *numbers in said["bars"][f"{identity}-1-HOUR-LAST-EXTERNAL"]
        ]
        expected = [
            [(row[0] + HOUR) * 10**6] * 2 + [Decimal(repr(value)) for value in row[1:6]] for row in closed(rows(symbol), 6)
        ]
        assert told == expected
        settled = [[time * 10**6] * 2 + [Decimal(repr(rate))] for time, rate, *_ in rows(symbol, "funding")]
        paid = [[event, init, Decimal(rate)] for event, init, rate in said["paid"].get(identity, [])]
        assert paid == settled
    minutes = said["bars"]["BTCUSDT-PERP.BINANCE-1-MINUTE-LAST-EXTERNAL"]  # July and August are two files
    begin = parse_time("2026-07-31")
    assert [bar[0] for bar in minutes] == [(begin + minute * MINUTE) * 10**6 for minute in range(1, 2 * DAY // MINUTE + 1)]
    months = said["bars"]["BTCUSDT-PERP.BINANCE-1-MONTH-LAST-EXTERNAL"]
    assert [months[0][0], months[-1][1]] == [parse_time(text) * 10**6 for text in ("2025-02-01", "2026-08-01")]
    # Its engine gives each bar to a strategy when it closes.
    hours = closed(rows("BTCUSDT"), 6)
    assert [(time, float(close)) for time, close in said["seen"]] == [((row[0] + HOUR) * 10**6, row[4]) for row in hours]
    assert said["asked"] == len(rows("BTCUSDT", "funding"))


def test_nautilus_again(lake, tmp_path):
    """What was in the catalog: funding of another time goes with its bars, and a broken file is named."""
    python, folder = python_of("nautilus"), tmp_path / "catalog"

    def export(*arguments):
        command = [python, "-m", "etl", "export", "--to", "nautilus", "-o", folder, "--lake", lake, "--symbols", "BTCUSDT"]
        command += ["--interval", "1h", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)

    def kinds():
        return {path.parts[-3] for path in folder.rglob("*.parquet")}

    assert export().returncode == 0
    assert kinds() == {"bar", "crypto_perpetual", "funding_rate_update"}
    again = export("--start", "2026-08-09T01:00", "--end", "2026-08-09T07:00")  # it pays at 0, 8 and 16
    assert again.returncode == 0
    assert kinds() == {"bar", "crypto_perpetual"}
    assert (
        "BTCUSDT-PERP.BINANCE has no settlement in that time; the funding that the catalog had of it is removed" in again.stderr
    )

    (instrument,) = folder.glob("data/crypto_perpetual/*/*.parquet")
    instrument.write_bytes(instrument.read_bytes()[:100])
    broken = export()
    assert broken.returncode == 1
    assert broken.stderr.startswith(f"etl: {instrument} cannot be read (")
    assert "remove it, then export again" in broken.stderr
    instrument.unlink()
    assert export().returncode == 0
    assert kinds() == {"bar", "crypto_perpetual", "funding_rate_update"}
    assert [path.name for path in folder.iterdir()] == ["data"]
