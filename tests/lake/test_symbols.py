"""The rules of symbols, kept over their end; expected rows are written out."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from etl.errors import LakeError
from etl.lake.symbols import Life, Symbols, alive, in_text
from etl.model import SymbolRules
from etl.ranges import parse_time

LISTED, ENDS = parse_time("2023-05-01T08:00"), parse_time("2024-06-28T08:00")
BTC = SymbolRules(
    symbol="BTCUSDT",
    pair="BTCUSDT",
    base_asset="BTC",
    quote_asset="USDT",
    contract_type="PERPETUAL",
    status="TRADING",
    onboard_time=LISTED,
    tick_size=0.1,
    step_size=0.001,
    min_qty=0.001,
    max_qty=1000.0,
    min_price=556.8,
    min_notional=50.0,
)
OLD = SymbolRules("OLDUSDT", base_asset="OLD", status="SETTLING", onboard_time=LISTED, delivery_time=ENDS)
BTC_ROW = {
    "symbol": "BTCUSDT",
    "base_asset": "BTC",
    "quote_asset": "USDT",
    "contract_type": "PERPETUAL",
    "status": "TRADING",
    "onboard_time": LISTED,
    "delivery_time": None,
    "tick_size": 0.1,
    "step_size": 0.001,
    "min_qty": 0.001,
    "max_qty": 1000.0,
    "min_price": 556.8,
    "min_notional": 50.0,
    "first_time": None,
    "last_time": None,
}


def path(lake: Path) -> Path:
    return lake / "symbols" / "market=um" / "symbols.parquet"


def test_nothing_is_stored_of_nothing(tmp_path):
    symbols = Symbols(tmp_path, "um")
    assert symbols.rows() == {}
    assert symbols.update([], {}) is False
    assert not path(tmp_path).exists()


def test_rules_come_back_as_they_were_stored(tmp_path):
    symbols = Symbols(tmp_path, "um")
    assert symbols.update([BTC], {}) is True
    assert symbols.rows() == Symbols(tmp_path, "um").rows() == {"BTCUSDT": BTC_ROW}
    assert Symbols(tmp_path, "cm").rows() == {}


def test_any_name_and_no_rules_at_all(tmp_path):
    names = ["币安人生USDT", "1000PEPEUSDT", "BTCUSD_240628", "a b%c"]
    Symbols(tmp_path, "um").update([SymbolRules(name) for name in names], {})
    rows = Symbols(tmp_path, "um").rows()
    assert list(rows) == sorted(names)
    assert all(row == {**dict.fromkeys(BTC_ROW), "symbol": name} for name, row in rows.items())


def test_the_same_again_does_not_touch_the_file(tmp_path):
    symbols = Symbols(tmp_path, "um")
    symbols.update([BTC, OLD], {"BTCUSDT": [Life(LISTED, LISTED + 59_999)]})
    before = path(tmp_path).stat().st_mtime_ns, path(tmp_path).stat().st_ino
    assert symbols.update([OLD, BTC], {"BTCUSDT": [Life(LISTED, LISTED + 59_999)]}) is False
    assert (path(tmp_path).stat().st_mtime_ns, path(tmp_path).stat().st_ino) == before


def test_who_vanishes_stays_and_who_changes_is_changed(tmp_path):
    symbols = Symbols(tmp_path, "um")
    symbols.update([BTC, OLD], {})
    assert symbols.update([replace(BTC, tick_size=0.01)], {}) is True
    rows = symbols.rows()
    assert rows["BTCUSDT"] == {**BTC_ROW, "tick_size": 0.01}
    assert rows["OLDUSDT"]["delivery_time"] == ENDS


def test_what_the_exchange_no_longer_says_is_forgotten_but_not_the_life(tmp_path):
    symbols = Symbols(tmp_path, "um")
    symbols.update([BTC], {"BTCUSDT": [Life(LISTED + 5, ENDS - 1)]})
    symbols.update([replace(BTC, max_qty=None)], {})
    assert symbols.rows()["BTCUSDT"] == {**BTC_ROW, "max_qty": None, "first_time": LISTED + 5}


@pytest.mark.parametrize(("status", "last"), [("TRADING", None), ("SETTLING", ENDS - 1), (None, ENDS - 1)])
def test_only_a_contract_that_no_longer_trades_has_a_last_bar(tmp_path, status, last):
    symbols = Symbols(tmp_path, "um")
    symbols.update([replace(BTC, status=status)], {"BTCUSDT": [Life(LISTED, ENDS - 1)]})
    row = symbols.rows()["BTCUSDT"]
    assert (row["first_time"], row["last_time"]) == (LISTED, last)


def test_a_symbol_of_which_only_bars_are_known(tmp_path):
    symbols = Symbols(tmp_path, "um")
    symbols.update([], {"SRMUSDT": [Life(LISTED, ENDS)]})
    assert symbols.rows() == {
        "SRMUSDT": {**dict.fromkeys(BTC_ROW), "symbol": "SRMUSDT", "first_time": LISTED, "last_time": ENDS}
    }


def test_a_ticker_that_two_contracts_used_has_a_row_for_each(tmp_path):
    symbols = Symbols(tmp_path, "um")
    symbols.update([BTC], {"BTCUSDT": [Life(1, 2), Life(LISTED, None)]})
    former = {**dict.fromkeys(BTC_ROW), "symbol": "BTCUSDT", "first_time": 1, "last_time": 2}
    assert symbols.contracts() == {"BTCUSDT": [former, {**BTC_ROW, "first_time": LISTED}]}
    assert symbols.rows() == {"BTCUSDT": {**BTC_ROW, "first_time": LISTED}}
    assert symbols.update([BTC], {"BTCUSDT": [Life(1, 2), Life(LISTED, None)]}) is False


def test_a_contract_that_is_listed_after_the_end_of_another_gets_its_own_row(tmp_path):
    symbols = Symbols(tmp_path, "um")
    symbols.update([OLD], {})
    symbols.update([replace(OLD, status="TRADING", onboard_time=ENDS + 1, delivery_time=None)], {})
    assert [(row["onboard_time"], row["delivery_time"]) for row in symbols.contracts()["OLDUSDT"]] == [
        (LISTED, ENDS),
        (ENDS + 1, None),
    ]


def test_a_contract_that_is_listed_again_has_no_life_before_its_own_bars(tmp_path):
    """Else it would have lived while the older one of its name did, and between the two."""
    symbols = Symbols(tmp_path, "um")
    older, last = LISTED + 7 * 3_600_000, ENDS - 60_000
    symbols.update([OLD], {"OLDUSDT": [Life(older, last)]})
    listed = parse_time("2024-09-10T08:00")
    again = SymbolRules("OLDUSDT", base_asset="OLD", status="TRADING", onboard_time=listed)
    symbols.update([again], {"OLDUSDT": [Life(older, last)]})
    first, second = symbols.contracts()["OLDUSDT"]
    assert (first["onboard_time"], first["first_time"], first["last_time"]) == (LISTED, older, last)
    assert (second["onboard_time"], second["first_time"], second["last_time"]) == (listed, None, None)
    assert [alive(first, at) for at in (older, ENDS + 86_400_000, listed)] == [True, False, False]
    assert [alive(second, at) for at in (older, ENDS + 86_400_000, listed)] == [False, False, True]
    begun = listed + 2 * 3_600_000
    symbols.update([again], {"OLDUSDT": [Life(older, last), Life(begun, None)]})
    assert [row["first_time"] for row in symbols.contracts()["OLDUSDT"]] == [older, begun]


def test_of_a_contract_that_only_bars_tell_of_the_next_one_takes_nothing(tmp_path):
    symbols = Symbols(tmp_path, "um")
    listed = parse_time("2024-09-10T08:00")
    symbols.update([SymbolRules("NEWUSDT", status="TRADING", onboard_time=listed)], {"NEWUSDT": [Life(LISTED, ENDS)]})
    rows = symbols.contracts()["NEWUSDT"]
    assert [(row["onboard_time"], row["first_time"], row["last_time"]) for row in rows] == [
        (None, LISTED, ENDS),
        (listed, None, None),
    ]


def test_without_a_listing_the_first_bar_that_is_known_stands_until_an_earlier_one_is(tmp_path):
    """Spot tells no listing: a contract lived at least since the first bar that is stored of it."""
    symbols, spot = Symbols(tmp_path, "spot"), replace(BTC, onboard_time=None)
    symbols.update([spot], {"BTCUSDT": [Life(None, None, LISTED + 50)]})
    for since, known in ((LISTED + 90, LISTED + 50), (LISTED + 20, LISTED + 20)):
        symbols.update([spot], {"BTCUSDT": [Life(None, None, since)]})
        assert symbols.rows()["BTCUSDT"]["first_time"] == known
    symbols.update([spot], {"BTCUSDT": [Life(LISTED + 3, None, LISTED + 3)]})
    assert symbols.rows()["BTCUSDT"]["first_time"] == LISTED + 3


def test_a_listing_stands_above_a_first_bar_that_may_not_be_the_first(tmp_path):
    symbols = Symbols(tmp_path, "um")
    symbols.update([], {"BTCUSDT": [Life(None, None, LISTED + 9 * 86_400_000)]})  # as by the archive alone
    assert symbols.rows()["BTCUSDT"]["first_time"] == LISTED + 9 * 86_400_000
    symbols.update([BTC], {})
    assert symbols.rows()["BTCUSDT"] == BTC_ROW
    symbols.update([BTC], {"BTCUSDT": [Life(None, None, LISTED + 9 * 86_400_000)]})
    assert symbols.rows()["BTCUSDT"] == BTC_ROW


def test_merged_writes_nothing(tmp_path):
    assert Symbols(tmp_path, "um").merged([BTC], {}) == {"BTCUSDT": [BTC_ROW]}
    assert not path(tmp_path).exists()


def test_times_are_without_zone_and_in_milliseconds(tmp_path):
    Symbols(tmp_path, "um").update([OLD], {})
    table = pq.ParquetFile(path(tmp_path)).read()
    assert {str(table.schema.field(name).type) for name in ("onboard_time", "delivery_time", "first_time", "last_time")} == {
        "timestamp[ms]"
    }
    assert table["delivery_time"][0].as_py().isoformat() == "2024-06-28T08:00:00"


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata"])
def test_the_bytes_do_not_depend_on_the_time_zone(tmp_path, zone):
    code = """
import sys
from pathlib import Path
from etl.lake.symbols import Symbols
from etl.model import SymbolRules
Symbols(Path(sys.argv[1]), "um").update([SymbolRules("A", onboard_time=1682928000000)], {})
"""
    here, there = tmp_path / "here", tmp_path / "there"
    Symbols(here, "um").update([SymbolRules("A", onboard_time=LISTED)], {})
    subprocess.run([sys.executable, "-c", code, str(there)], env={**os.environ, "TZ": zone}, check=True, timeout=60)
    assert path(here).read_bytes() == path(there).read_bytes()


@pytest.mark.parametrize("content", [b"", b"no parquet", b"PAR1" + bytes(50) + b"PAR1"])
def test_a_corrupt_file_is_an_error_that_names_it(tmp_path, content):
    path(tmp_path).parent.mkdir(parents=True)
    path(tmp_path).write_bytes(content)
    with pytest.raises(LakeError, match=r"symbols\.parquet cannot be read"):
        Symbols(tmp_path, "um").rows()


def test_a_file_with_text_that_is_none_is_an_error_that_names_it(tmp_path):
    Symbols(tmp_path, "um").update([SymbolRules("BTCUSDT", onboard_time=LISTED)], {})
    path(tmp_path).write_bytes(path(tmp_path).read_bytes().replace(b"BTCUSDT", b"\x80TCUSDT"))
    with pytest.raises(LakeError, match=r"symbols\.parquet cannot be read"):
        Symbols(tmp_path, "um").rows()


def test_a_file_of_other_columns_is_an_error_that_names_it(tmp_path):
    path(tmp_path).parent.mkdir(parents=True)
    pq.write_table(pa.table({"symbol": ["A"]}), path(tmp_path))
    with pytest.raises(LakeError, match=r"symbols\.parquet cannot be read"):
        Symbols(tmp_path, "um").rows()


@pytest.mark.parametrize(
    ("known", "at", "lives"),
    [
        ({}, 5, False),  # nobody knows since when
        ({"delivery_time": 20, "last_time": 15}, 5, False),
        ({"onboard_time": 5}, 4, False),
        ({"onboard_time": 5}, 5, True),
        ({"onboard_time": 5, "first_time": 8}, 7, False),
        ({"onboard_time": 9, "first_time": 8}, 8, True),
        ({"first_time": 1, "delivery_time": 20}, 20, True),
        ({"first_time": 1, "delivery_time": 20}, 21, False),
        ({"first_time": 1, "delivery_time": 20, "last_time": 30}, 25, True),
        ({"first_time": 1, "delivery_time": 20, "last_time": 15}, 16, False),
        ({"first_time": 1, "last_time": 1}, 1, True),
    ],
)
def test_a_life_lasts_from_the_first_bar_to_the_last_as_far_as_they_are_known(known, at, lives):
    assert alive({**dict.fromkeys(BTC_ROW), **known}, at) is lives


def test_text():
    row = in_text({**BTC_ROW, "delivery_time": ENDS, "first_time": LISTED + 1})
    assert row["onboard_time"] == "2023-05-01T08:00:00Z"
    assert row["delivery_time"] == "2024-06-28T08:00:00Z"
    assert row["first_time"] == "2023-05-01T08:00:00.001Z"
    assert row["last_time"] is None
    assert {name: row[name] for name in ("symbol", "tick_size", "status")} == {
        "symbol": "BTCUSDT",
        "tick_size": 0.1,
        "status": "TRADING",
    }
