"""The generated market: deterministic, consistent, and exact across intervals."""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal
from itertools import groupby, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.errors import UsageError
from etl.model import Series
from etl.ranges import DAY, HOUR, MINUTE, TimeRange, parse_time, to_datetime
from etl.sim.market import HOLES, GeneratedWorld, Hole
from etl.sim.world import INTERVALS, Selection

BTC_FIRST = 1_567_965_420_000  # 2019-09-08 17:57, as on the exchange (binance-facts 2.3)
END_2024 = parse_time("2025-01-01")

SERIES = [
    ("um", "klines", "BTCUSDT"),
    ("um", "klines", "ETHUSDT"),
    ("um", "klines", "1000PEPEUSDT"),
    ("um", "klines", "TSLAUSDT"),
    ("um", "klines", "币安人生USDT"),
    ("um", "mark_klines", "BTCUSDT"),
    ("um", "index_klines", "BTCUSDT"),
    ("um", "premium_klines", "BTCUSDT"),
    ("cm", "klines", "BTCUSD_PERP"),
    ("cm", "klines", "ADAUSD_PERP"),
    ("spot", "klines", "BTCUSDT"),
]


def exact(texts: list[str]) -> str:
    """Sum of decimal texts, with their places."""
    return str(sum(map(Decimal, texts)))


def fold(minutes: list[list[Any]], interval: str) -> list[list[Any]]:
    """Bars of an interval from one-minute rows, computed in decimals, a row at a time."""
    grid = INTERVALS[interval]
    bars = []
    for opens, group in groupby(minutes, key=lambda row: grid.floor(row[0])):
        rows = list(group)
        sums = [exact([row[at] for row in rows]) for at in (5, 7, 9, 10)]
        bars.append([
            opens, rows[0][1], max((row[2] for row in rows), key=Decimal), min((row[3] for row in rows), key=Decimal),
            rows[-1][4], sums[0], grid.next(opens) - 1, sums[1], sum(row[8] for row in rows), sums[2], sums[3], "0",
        ])  # fmt: skip  # a table, read by its rows
    return bars


@pytest.mark.parametrize(("market", "dataset", "symbol"), SERIES)
@pytest.mark.parametrize("interval", ["3m", "15m", "1h", "4h", "12h"])
def test_intervals_are_the_exact_aggregation_of_minutes(
    world: GeneratedWorld, market: str, dataset: str, symbol: str, interval: str
) -> None:
    start, end = parse_time("2026-03-30"), parse_time("2026-04-01")
    minutes = world.truth(market, dataset, symbol, "1m", start, end)
    assert len(minutes) == 2880
    assert world.truth(market, dataset, symbol, interval, start, end) == fold(minutes, interval)


@pytest.mark.parametrize("interval", ["1d", "3d", "1w", "1M"])
def test_long_intervals_begin_with_the_first_minute(world: GeneratedWorld, interval: str) -> None:
    end = parse_time("2019-11-04")  # a Monday; the month and the 3d bar that run then are left out below
    minutes = world.truth("um", "klines", "BTCUSDT", "1m", 0, end)
    assert minutes[0][0] == BTC_FIRST
    expected = [bar for bar in fold(minutes, interval) if bar[6] < end]
    assert [bar for bar in world.truth("um", "klines", "BTCUSDT", interval, 0, end) if bar[6] < end] == expected
    assert expected[0][0] <= BTC_FIRST < expected[0][6]


def test_grids_of_weeks_months_and_three_days(world: GeneratedWorld) -> None:
    def opens(interval: str) -> list[int]:
        return [row[0] for row in world.truth("um", "klines", "ETHUSDT", interval, parse_time("2024-01-01"), END_2024)]

    assert {to_datetime(time).weekday() for time in opens("1w")} == {0}
    assert [to_datetime(time).month for time in opens("1M")] == list(range(1, 13))
    assert {to_datetime(time).day for time in opens("1M")} == {1}
    assert {time % (3 * DAY) for time in opens("3d")} == {DAY}


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(SERIES), st.sampled_from(list(INTERVALS)), st.integers(0, 200), st.integers(0, 700), st.booleans())
def test_any_block_is_the_same_from_a_fresh_world(
    series: tuple[str, str, str], interval: str, day: int, limit: int, newest: bool
) -> None:
    """Random access: what a world says does not depend on what it was asked before."""
    start = parse_time("2026-02-01") + day * DAY
    span = TimeRange(start, start + 3 * DAY)
    asked = Series(*series, interval), Selection(span, limit, newest), parse_time("2026-11-20")
    used = SHARED.bars(*asked)
    fresh = GeneratedWorld(seed=7).bars(*asked)
    assert used == fresh
    rows = SHARED.truth(*series, interval, span.start, span.end)
    picked = rows[-limit:] if newest and limit else rows[:limit]
    assert json.loads(b"[" + used + b"]") == picked


SHARED = GeneratedWorld(seed=7)


@pytest.mark.parametrize(("market", "dataset", "symbol"), SERIES)
def test_rows_look_like_the_exchange(world: GeneratedWorld, market: str, dataset: str, symbol: str) -> None:
    rows = world.truth(market, dataset, symbol, "1m", parse_time("2026-03-01"), parse_time("2026-03-02"))
    assert len(rows) == 1440
    assert all(later[0] - row[0] == MINUTE for row, later in pairwise(rows))
    places = {len(row[1].partition(".")[2]) for row in rows}
    assert len(places) == 1, "trailing zeros are kept"
    for row in rows:
        assert len(row) == 12
        assert [type(value) for value in row] == [int, *[str] * 5, int, str, int, str, str, str]
        opens, high, low, close, volume = map(Decimal, row[1:6])
        assert low <= min(opens, close) <= max(opens, close) <= high
        assert row[6] == row[0] + MINUTE - 1
        quote, taker, taker_quote = Decimal(row[7]), Decimal(row[9]), Decimal(row[10])
        if dataset != "klines":
            assert (row[5], row[7], row[9], row[10], row[11]) == ("0",) * 5
            assert row[8] == (12 if dataset == "premium_klines" else 60)
            continue
        assert low > 0
        assert 0 <= taker <= volume
        assert 0 <= taker_quote <= quote
        if volume == 0:
            assert opens == high == low == close
            assert (row[8], quote) == (0, 0)
        elif market != "cm":
            assert low * volume <= quote <= high * volume
        else:
            size = 100 if symbol.startswith("BTC") else 10
            assert volume * size / high - Decimal("1e-8") <= quote <= volume * size / low


def test_quiet_minutes_repeat_the_last_close(world: GeneratedWorld) -> None:
    rows = world.truth("um", "klines", "TSLAUSDT", "1m", parse_time("2026-03-01"), parse_time("2026-03-08"))
    quiet = [(before, row) for before, row in pairwise(rows) if Decimal(row[5]) == 0]
    assert len(quiet) > 1000
    assert all(row[1] == before[4] for before, row in quiet)


def test_premium_is_negative_at_times(world: GeneratedWorld) -> None:
    rows = world.truth("um", "premium_klines", "BTCUSDT", "1h", parse_time("2024-01-01"), END_2024)
    signs = Counter(row[4].startswith("-") for row in rows)
    assert signs[True] > 100
    assert signs[False] > 100


def test_markets_on_one_asset_move_together_but_differ(world: GeneratedWorld) -> None:
    span = parse_time("2026-03-01"), parse_time("2026-03-02")
    um = [float(row[4]) for row in world.truth("um", "klines", "BTCUSDT", "1m", *span)]
    spot = [float(row[4]) for row in world.truth("spot", "klines", "BTCUSDT", "1m", *span)]
    assert all(abs(one / other - 1) < 0.01 for one, other in zip(um, spot, strict=True))
    assert world.truth("um", "mark_klines", "BTCUSDT", "1m", *span) != world.truth("um", "index_klines", "BTCUSDT", "1m", *span)


def test_seeds_and_symbols_make_different_markets() -> None:
    span = parse_time("2024-01-01"), parse_time("2024-01-01T01:00")
    one = GeneratedWorld(seed=1).truth("um", "klines", "XRPUSDT", "1m", *span)
    assert one == GeneratedWorld(seed=1, symbols=12).truth("um", "klines", "XRPUSDT", "1m", *span)
    assert one != GeneratedWorld(seed=2).truth("um", "klines", "XRPUSDT", "1m", *span)
    assert one != GeneratedWorld(seed=1).truth("um", "klines", "ADAUSDT", "1m", *span)


@pytest.mark.parametrize("hole", HOLES, ids=lambda hole: f"{hole.market}-{hole.symbol}-{hole.dataset}-{hole.start}")
def test_holes_have_no_bars_of_any_interval(world: GeneratedWorld, hole: Hole) -> None:
    start, end = hole.start - HOUR, hole.end + HOUR
    minutes = world.truth(hole.market, hole.dataset, hole.symbol, "1m", start, end)
    assert len(minutes) == 120
    assert not any(hole.start <= row[0] < hole.end for row in minutes)
    wide = HOUR * (start // HOUR), HOUR * (end // HOUR + 1)
    hours = world.truth(hole.market, hole.dataset, hole.symbol, "1h", *wide)
    assert hours == fold(world.truth(hole.market, hole.dataset, hole.symbol, "1m", *wide), "1h")


def test_the_default_market_has_enough_and_odd_symbols(world: GeneratedWorld) -> None:
    listed = {one["symbol"]: one for one in world.exchange_info("um", parse_time("2026-11-20"))["symbols"]}
    perpetuals = [one for one in listed.values() if (one["status"], one["contractType"]) == ("TRADING", "PERPETUAL")]
    assert len(listed) >= 80
    assert sum(one["onboardDate"] < END_2024 for one in perpetuals) >= 60
    assert listed["BTCUSDT_260925"]["status"] == "SETTLING"
    assert listed["BTCUSDT_261225"]["contractType"] == "CURRENT_QUARTER"
    assert listed["TSLAUSDT"]["contractType"] == "TRADIFI_PERPETUAL"
    assert listed["SOONUSDT"]["status"] == "PENDING_TRADING"
    assert listed["LRCUSDT"]["deliveryDate"] < parse_time("2026-11-20")
    assert listed["BTCUSDT"]["deliveryDate"] == 4_133_404_800_000
    assert listed["BTCUSDT"]["onboardDate"] < BTC_FIRST
    assert "币安人生USDT" in listed
    orders = {tuple(one) for symbol in perpetuals for one in symbol["filters"] if one["filterType"] == "LOT_SIZE"}
    assert len(orders) > 5, "the keys of filters come in any order"
    assert "SIM_UNKNOWN_FILTER" in {one["filterType"] for one in listed["ETHBTC"]["filters"]}
    assert "MIN_NOTIONAL" not in {one["filterType"] for one in listed["ETHBTC"]["filters"]}
    before = {one["symbol"]: one["status"] for one in world.exchange_info("um", parse_time("2024-01-01"))["symbols"]}
    assert before["OCEANUSDT"] == "TRADING"


def test_the_number_of_symbols_is_a_setting() -> None:
    def count(symbols: int) -> int:
        return len(GeneratedWorld(symbols=symbols).exchange_info("um", 0)["symbols"])

    assert count(200) - count(3) == 197


def test_settled_contracts_end(world: GeneratedWorld) -> None:
    rows = world.truth("um", "klines", "OCEANUSDT", "1h", parse_time("2024-06-30"), parse_time("2026-01-01"))
    assert rows[-1][0] == parse_time("2024-07-01T08:00")


def test_an_unknown_symbol_has_no_truth(world: GeneratedWorld) -> None:
    with pytest.raises(UsageError, match="NOPE"):
        world.truth("um", "klines", "NOPE", "1m", 0, 1)


# --- funding


def settlements(world: GeneratedWorld, symbol: str, start: str = "2019-01-01", end: str = "2026-11-20") -> list[dict[str, Any]]:
    return world.truth("um", "funding", symbol, None, parse_time(start), parse_time(end))


def hours_between(rows: list[dict[str, Any]]) -> list[int]:
    boundaries = [row["fundingTime"] // HOUR for row in rows]
    return [later - earlier for earlier, later in pairwise(boundaries)]


def test_settlements_come_every_eight_hours_and_a_little_late(world: GeneratedWorld) -> None:
    rows = settlements(world, "BTCUSDT")
    assert rows[0]["fundingTime"] // HOUR * HOUR == 1_568_102_400_000  # 2019-09-10 08:00, as on the exchange
    assert set(hours_between(rows)) == {8}
    late = Counter(row["fundingTime"] % HOUR for row in rows)
    assert set(late) <= set(range(32))
    assert max(late) > 12
    # 910 of 1,731 real settlements are exactly on time, 251 are 1 ms late (binance-facts 6)
    assert late[0] / len(rows) == pytest.approx(910 / 1731, abs=0.03)
    assert late[1] / len(rows) == pytest.approx(251 / 1731, abs=0.03)


def test_settlement_fields_by_date(world: GeneratedWorld) -> None:
    rows = settlements(world, "BTCUSDT")
    for row in rows:
        assert len(row["fundingRate"].partition(".")[2]) == 8
        assert (row["markPrice"] == "") == (row["fundingTime"] < parse_time("2023-10-31T16:00"))
        assert ("rateType" in row) == (row["fundingTime"] >= parse_time("2026-07-23"))
    assert any(row["fundingRate"].startswith("-") for row in rows)


def test_the_interval_changes_within_a_history(world: GeneratedWorld) -> None:
    faster = hours_between(settlements(world, "SOLUSDT"))
    assert [hours for hours, _ in groupby(faster)] == [8, 4, 2, 1]  # from 00:00 over 02:00 to every hour
    assert faster.count(1) > 10_000
    assert set(hours_between(settlements(world, "AVAXUSDT"))) == {4}
    assert set(hours_between(settlements(world, "NEARUSDT"))) == {1}
    steps = [hours for hours, _ in groupby(hours_between(settlements(world, "LINKUSDT")))]
    assert steps.count(1) >= 3
    assert steps.count(4) >= 4
    assert {1, 2, 3, 4, 8} <= set(steps)


def test_special_settlements_share_the_time_of_a_regular_one(world: GeneratedWorld) -> None:
    rows = settlements(world, "TSLAUSDT", start="2026-07-23")
    special = [row for row in rows if row["rateType"] == "Special"]
    regular = {row["fundingTime"]: row for row in rows if row["rateType"] == "Regular"}
    assert special
    assert all(row["fundingRate"] != regular[row["fundingTime"]]["fundingRate"] for row in special)


def test_delivery_contracts_do_not_settle(world: GeneratedWorld) -> None:
    assert settlements(world, "BTCUSDT_261225") == []
