"""Each check finds what it is for, in rows that are right but for that, and nothing else."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.model import Series
from etl.ranges import DAY, HOUR, MAX_TIME, MINUTE, TimeRange, parse_time
from etl.schema import arrow_schema
from etl.transform import checks

START = parse_time("2024-03-01")
YEAR = TimeRange(parse_time("2024-01-01"), parse_time("2025-01-01"))
MINUTES, HOURS = (Series("um", "klines", "X", interval) for interval in ("1m", "1h"))
MARKS = Series("um", "mark_klines", "X", "1h")
PREMIUM = Series("um", "premium_klines", "X", "1h")
RATES = Series("um", "funding", "X")


def bar(time, step=MINUTE, **wrong):
    """A bar of 3 trades; `wrong` replaces fields."""
    right = {
        "open_time": time,
        "open": 2.0,
        "high": 4.0,
        "low": 1.0,
        "close": 3.0,
        "close_time": time + step - 1,
        "volume": 8.0,
        "quote_volume": 20.0,
        "count": 3,
        "taker_buy_volume": 5.0,
        "taker_buy_quote_volume": 12.0,
    }
    return right | wrong


def settlement(time, **wrong):
    return {"funding_time": time, "funding_rate": 0.0001, "mark_price": 50.0, "rate_type": "Regular"} | wrong


def table(series, rows):
    schema = arrow_schema(series.dataset)
    return pa.Table.from_pylist([{name: row[name] for name in schema.names} for row in rows], schema)


def found(findings):
    return [(one.check, one.severity, one.count, one.times) for one in findings]


def minutes(count=10):
    return [bar(START + i * MINUTE) for i in range(count)]


@pytest.mark.parametrize(
    ("series", "rows"),
    [
        (MINUTES, minutes()),
        (HOURS, [bar(START + i * HOUR, HOUR) for i in range(3)]),
        (Series("um", "klines", "X", "1M"), [bar(parse_time("2024-02-01"), 29 * DAY), bar(START, 31 * DAY)]),
        (Series("um", "klines", "X", "1w"), [bar(parse_time("2024-03-04"), 7 * DAY)]),
        (PREMIUM, [bar(START, HOUR, open=-0.5, high=0.1, low=-0.5, close=-0.1)]),
        (RATES, [settlement(START + i * 8 * HOUR + i) for i in range(5)]),
        (RATES, [settlement(START, mark_price=None, rate_type=None), settlement(START + 1, rate_type="Special")]),
        (MINUTES, []),
    ],
)
def test_right_rows_have_no_finding(series, rows):
    assert found(checks.of_rows(series, table(series, rows), YEAR)) == []


AT = START + 5 * MINUTE


@pytest.mark.parametrize(
    ("check", "wrong"),
    [
        ("grid", {"open_time": AT + 1, "close_time": AT + MINUTE - 1}),
        ("close_time", {"close_time": AT + MINUTE}),
        ("ohlc", {"high": 2.9}),
        ("ohlc", {"low": 2.1}),
        ("ohlc", {"open": 5.0}),
        ("ohlc", {"close": float("nan")}),
        ("ohlc", {"high": float("inf"), "open": float("inf")}),
        ("price", {"low": 0.0}),
        ("volume", {"volume": -1.0, "taker_buy_volume": 0.0}),
        ("volume", {"quote_volume": float("nan")}),
        ("volume", {"count": -1}),
        ("taker", {"taker_buy_volume": 8.1}),
        ("taker", {"taker_buy_quote_volume": 20.1}),
        ("trades", {"count": 0}),
        ("quote", {"quote_volume": 20_000.0}),
        ("quote", {"quote_volume": 0.0, "taker_buy_quote_volume": 0.0}),
    ],
)
def test_a_wrong_bar_is_found(check, wrong):
    rows = minutes()
    rows[5] |= wrong
    at = wrong.get("open_time", AT)
    severity = "warning" if check in {"trades", "quote"} else "error"
    assert found(checks.of_rows(MINUTES, table(MINUTES, rows), YEAR)) == [(check, severity, 1, (at,))]


def test_a_bar_without_a_trade_is_true_and_told():
    rows = minutes()
    rows[5] = bar(
        AT,
        open=3.0,
        high=3.0,
        low=3.0,
        close=3.0,
        volume=0.0,
        quote_volume=0.0,
        count=0,
        taker_buy_volume=0.0,
        taker_buy_quote_volume=0.0,
    )
    assert found(checks.of_rows(MINUTES, table(MINUTES, rows), YEAR)) == [("no_trade", "info", 1, (AT,))]


def test_order_duplicates_and_the_files_period():
    rows = minutes()
    swapped = [*rows[:4], rows[5], rows[4], *rows[6:]]
    assert found(checks.of_rows(MINUTES, table(MINUTES, swapped), YEAR)) == [("order", "error", 1, (START + 4 * MINUTE,))]
    twice = [*rows[:6], rows[5], *rows[6:]]
    assert found(checks.of_rows(MINUTES, table(MINUTES, twice), YEAR)) == [("duplicate", "error", 1, (AT,))]
    other = TimeRange(YEAR.start, AT)
    assert found(checks.of_rows(MINUTES, table(MINUTES, rows), other)) == [
        ("period", "error", 5, tuple(START + i * MINUTE for i in range(5, 10)))
    ]


@pytest.mark.parametrize(
    ("check", "severity", "rows", "times"),
    [
        ("duplicate", "error", [settlement(START), settlement(START + 7)], (START + 7,)),
        ("duplicate", "error", [settlement(START, rate_type=None), settlement(START + 7)], (START + 7,)),
        ("rate", "error", [settlement(START, funding_rate=float("nan"))], (START,)),
        ("rate", "warning", [settlement(START, funding_rate=-5.0)], (START,)),
        ("price", "error", [settlement(START, mark_price=0.0)], (START,)),
        ("price", "error", [settlement(START, mark_price=float("inf"))], (START,)),
        ("funding_time", "warning", [settlement(START + MINUTE)], (START + MINUTE,)),
        (
            "funding_step",
            "info",
            [settlement(START + hour * HOUR + 3) for hour in (0, 8, 16, 20, 24)],
            (START + 16 * HOUR,),
        ),
    ],
)
def test_a_wrong_settlement_is_found(check, severity, rows, times):
    assert found(checks.of_rows(RATES, table(RATES, rows), YEAR)) == [(check, severity, 1, times)]


def due(times, covered=None, life=None):
    """The settlements that seem to lack, in hours since START; all given in such hours, the times a few ms late."""
    late = np.array([START + hour * HOUR + hour % 7 for hour in times], dtype=np.int64)
    spans = [TimeRange(START + a * HOUR, START + b * HOUR) for a, b in covered or [(times[0], times[-1] + 1)]]
    lives = [TimeRange(START + a * HOUR, START + b * HOUR) for a, b in life or [(-10_000, 10_000)]]
    skips = checks.skipped(late, spans, lives)
    for skip in skips:  # what is to be asked for again holds what lacks, and nothing that is there
        assert all(time in skip.span for time in skip.due)
        assert not any(time in skip.span for time in late)
    return [(time - START) // HOUR for skip in skips for time in skip.due]


EIGHT, FOUR, ONE = (list(range(0, 240, step)) for step in (8, 4, 1))


@pytest.mark.parametrize(
    ("times", "lack"),
    [
        (EIGHT, []),
        (FOUR, []),
        (ONE, []),
        ([*range(0, 80, 8), *range(80, 160, 4), *range(160, 200)], []),  # the interval changes
        ([*range(160), *range(160, 240, 4), *range(240, 480, 8)], []),  # and back
        ([*range(43), *range(44, 100, 4)], []),  # hours end in the middle of the four
        (sorted([*EIGHT, 51, 52, 53]), []),  # settlements besides
        ([t for t in EIGHT if t != 80], [80]),
        ([t for t in FOUR if t != 80], [80]),
        ([t for t in ONE if t not in {80, 82}], [80, 82]),
        ([t for t in EIGHT if t not in {80, 96}], [80, 96]),
        ([t for t in FOUR if t not in {80, 88}], [80, 88]),
        (list(range(0, 240, 16)), list(range(8, 224, 16))),  # every second one
        ([t for t in EIGHT if not 16 <= t < 216], list(range(16, 216, 8))),  # more than a week
        ([*range(53), 56, 60, *range(61, 240)], []),  # two of four hours between hourly ones, as the exchange's rule may give
        ([*range(0, 80, 4), 80, 88, 96, *range(100, 200, 4)], []),
        ([*range(54), 58, 62, *range(63, 240)], [54, 55, 56, 57, 59, 60, 61]),  # four hours are settled at 0, 4, 8 …
        ([*range(53), 56, *range(57, 240)], [53, 54, 55]),  # one distance alone is no interval
    ],
)
def test_settlements_that_lack_between_others(times, lack):
    assert due(times) == lack


def test_settlements_that_lack_at_the_ends_of_what_was_answered():
    assert due(EIGHT, [(0, 240)]) == []
    assert due(EIGHT[3:-2], [(0, 240)]) == [0, 8, 16, 224, 232]
    assert due(EIGHT[3:-2], [(0, 240)], [(8, 230)]) == [8, 16, 224]  # only where the contract lived
    assert due(EIGHT, [(0, 100), (130, 240)]) == []  # what was not asked for does not lack
    assert due([*range(0, 100, 8), 232], [(0, 110), (130, 240)]) == [104, *range(136, 232, 8)]
    # Whatever the interval became: at 0, 8 and 16 h each of them is settled.
    assert due(ONE[:-7], [(0, 240)]) == []
    assert due(ONE[:-8], [(0, 240)]) == [*range(232, 240)]
    assert due(ONE[:-1], [(0, 241)]) == [239, 240]
    assert due(ONE[:-3], [(0, 240)]) == []
    assert due(ONE[1:], [(0, 240)]) == [0]
    assert due(ONE[9:], [(3, 240)]) == [3, 4, 5, 6, 7, 8]
    assert due(ONE[8:], [(3, 240)]) == []


def test_no_settlement_at_all():
    assert [skip.due for skip in checks.skipped(NOTHING, [TimeRange(START - 1, START + DAY)], [TimeRange(0, MAX_TIME)])] == [
        (START, START + 8 * HOUR, START + 16 * HOUR)
    ]
    assert checks.skipped(NOTHING, [TimeRange(START - 1, START + DAY)], []) == ()


NOTHING = np.empty(0, dtype=np.int64)
RATE_TIMES = np.array([START + 8 * HOUR * i + 3 for i in range(9)])


@pytest.mark.parametrize(
    ("covered", "count"),
    [
        ([TimeRange(START, START + 3 * DAY)], None),
        ([TimeRange(START, START + 64 * HOUR)], None),  # the youngest hour is not recorded: another rate may follow
        ([TimeRange(START, START + 60 * HOUR)], 1),
        ([TimeRange(START + 10 * HOUR, START + 3 * DAY)], 2),
        ([], 9),
    ],
)
def test_settlements_where_nobody_was_asked(covered, count):
    findings = list(checks.of_coverage(RATES, RATE_TIMES, covered, []))
    assert [(one.check, one.severity, one.count) for one in findings] == ([("footer", "error", count)] if count else [])


SPAN = TimeRange(START, START + 10 * MINUTE)


@pytest.mark.parametrize(
    ("covered", "holes", "absent", "count"),
    [
        ([SPAN], [], [], None),
        ([SPAN], [TimeRange(AT, AT + MINUTE)], [5], None),
        ([TimeRange(YEAR.start, YEAR.end)], [], [], None),  # before and behind there was no life
        ([SPAN], [TimeRange(AT, AT + MINUTE)], [], 1),  # a hole that has a row
        ([TimeRange(START, AT)], [], [], 5),  # rows that nobody answered
        ([SPAN], [], [5, 6], 2),  # an absence that is not recorded
    ],
)
def test_a_footer_that_says_otherwise(covered, holes, absent, count):
    times = checks.times_of("klines", table(MINUTES, [row for i, row in enumerate(minutes()) if i not in absent]))
    findings = list(checks.of_coverage(MINUTES, times, covered, holes))
    assert [(one.check, one.severity, one.count) for one in findings] == ([("footer", "error", count)] if count else [])


def test_rows_outside_of_every_life():
    times = checks.times_of("klines", table(MINUTES, minutes()))
    lives = [TimeRange(START, START + 3 * MINUTE), TimeRange(START + 6 * MINUTE, START + DAY)]
    assert found(checks.of_life(MINUTES, times, lives)) == [
        ("life", "warning", 3, tuple(START + i * MINUTE for i in (3, 4, 5)))
    ]
    assert found(checks.of_life(MINUTES, times, [])) == []


def test_rows_long_before_the_first_life_are_those_of_an_earlier_contract():
    """Nobody tells of it, as the exchange lists a ticker's present contract only; what fills a file adjoins the listing."""
    life = [TimeRange(START + 20 * DAY, START + 30 * DAY)]
    eights = np.arange(START, START + 30 * DAY, 8 * HOUR)
    for parted, outside in ((6, [14 * 3]), (8, []), (15, [])):
        times = eights[(eights < START + (20 - parted) * DAY) | (eights >= life[0].start)]
        assert [one.count for one in checks.of_life(RATES, times, life)] == outside
    both = eights[(eights < START + 5 * DAY) | (eights >= START + 14 * DAY)]  # an earlier contract, and what fills
    assert found(checks.of_life(RATES, both, life)) == [
        ("life", "warning", 18, tuple(range(START + 14 * DAY, life[0].start, 8 * HOUR)))
    ]
    after = eights + 31 * DAY  # behind the end the archive goes on, whoever asks from when on
    assert [one.count for one in checks.of_life(RATES, after, life)] == [90]


@pytest.mark.parametrize(
    ("interval", "opens", "outside"),
    [
        ("1w", ["2025-12-22", "2025-12-29", "2026-01-05", "2026-02-02", "2026-02-09"], ["2025-12-22", "2026-02-09"]),
        ("1M", ["2025-11-01", "2025-12-01", "2026-01-01", "2026-02-01", "2026-03-01"], ["2025-11-01", "2026-03-01"]),
    ],
)
def test_a_bar_that_holds_a_part_of_a_life_is_not_outside(interval, opens, outside):
    """The life begins on a Wednesday and ends on another one, both in the middle of a week and of a month."""
    lives = [TimeRange(0, DAY), TimeRange(parse_time("2025-12-31T12:00"), parse_time("2026-02-04T09:00"))]
    series = Series("um", "klines", "X", interval)
    times = np.array([parse_time(open) for open in opens])
    expected = tuple(parse_time(open) for open in outside)
    assert found(checks.of_life(series, times, lives)) == [("life", "warning", 2, expected)]


def test_a_bar_that_only_touches_a_life_is_outside():
    times = np.array([START - HOUR, START, START + HOUR, START + 2 * HOUR])
    lives = [TimeRange(START, START + 2 * HOUR)]
    assert found(checks.of_life(HOURS, times, lives)) == [("life", "warning", 2, (START - HOUR, START + 2 * HOUR))]


def test_a_settlement_is_a_moment_of_a_life():
    times = np.array([START - 1, START, START + 8 * HOUR])
    lives = [TimeRange(START, START + 8 * HOUR)]
    assert found(checks.of_life(RATES, times, lives)) == [("life", "warning", 2, (START - 1, START + 8 * HOUR))]


def hour_of(parts):
    """The hour that those minutes make, by Python's own arithmetic."""
    return bar(
        parts[0]["open_time"],
        HOUR,
        open=parts[0]["open"],
        close=parts[-1]["close"],
        high=max(part["high"] for part in parts),
        low=min(part["low"] for part in parts),
        **{
            name: sum(part[name] for part in parts)
            for name in ("volume", "quote_volume", "count", "taker_buy_volume", "taker_buy_quote_volume")
        },
    )


@given(data=st.data(), wrong=st.sampled_from(["open", "high", "low", "close", "volume", "quote_volume", "count"]))
def test_an_hour_that_is_not_the_sum_of_its_minutes(data, wrong):
    prices = st.integers(10, 99).map(float)
    parts = []
    for i in range(240):
        a, b, c, d = sorted(data.draw(st.lists(prices, min_size=4, max_size=4))) if i % 60 < 3 else (1.0, 2.0, 3.0, 4.0)
        parts.append(bar(START + i * MINUTE, open=b, close=c, low=a, high=d))
    hours = [hour_of(parts[i : i + 60]) for i in range(0, 240, 60)]
    fine = [*parts[:70], *parts[71:]]  # the second hour lacks a minute, and is not compared

    def sums():
        return found(checks.of_intervals(HOURS, table(HOURS, hours), MINUTES, table(MINUTES, fine))[0])

    assert sums() == []
    for index in (1, 2):
        hours[index][wrong] += 1
    assert sums() == [("sums", "warning", 1, (START + 2 * HOUR,))]


def test_a_month_is_the_sum_of_its_days():
    month, days = Series("um", "klines", "X", "1M"), Series("um", "klines", "X", "1d")
    parts = [bar(START + i * DAY, DAY, volume=float(i), taker_buy_volume=0.0) for i in range(31)]
    whole = hour_of(parts) | {"close_time": START + 31 * DAY - 1}
    assert found(checks.of_intervals(month, table(month, [whole]), days, table(days, parts))[0]) == []
    assert found(checks.of_intervals(month, table(month, [whole | {"volume": 1.0}]), days, table(days, parts))[0]) == [
        ("sums", "warning", 1, (START,))
    ]
    assert found(checks.of_intervals(month, table(month, [whole | {"volume": 1.0}]), days, table(days, parts[:-1]))[0]) == []


def test_bars_are_not_compared_with_those_that_do_not_make_them_up():
    """No weeks make up a month, and no eight hours twelve, though the second half of a day holds the open of one."""
    month, week, twelve, eight = (Series("um", "klines", "X", interval) for interval in ("1M", "1w", "12h", "8h"))
    weeks = [bar(parse_time("2024-03-04") + i * 7 * DAY, 7 * DAY) for i in range(4)]
    whole = bar(START, 31 * DAY, volume=99.0)
    assert found(checks.of_intervals(month, table(month, [whole]), week, table(week, weeks))[0]) == []
    thirds = [bar(START + i * 8 * HOUR, 8 * HOUR) for i in range(3)]
    halves = [bar(START + i * 12 * HOUR, 12 * HOUR, volume=12.0) for i in range(2)]
    assert found(checks.of_intervals(twelve, table(twelve, halves), eight, table(eight, thirds))[0]) == []


def test_what_a_source_has_otherwise_or_besides():
    rows = minutes()
    others = [rows[3] | {"close": 3.5}, rows[4], bar(START + 20 * MINUTE)]
    assert found(checks.of_difference(MINUTES, table(MINUTES, rows), table(MINUTES, others), "the archive")) == [
        ("differs", "warning", 1, (START + 3 * MINUTE,)),
        ("extra", "info", 8, tuple(START + i * MINUTE for i in (0, 1, 2, 5, 6, 7, 8, 9))),
        ("absent", "error", 1, (START + 20 * MINUTE,)),
    ]
    assert found(checks.of_difference(MINUTES, table(MINUTES, rows), table(MINUTES, rows), "REST")) == []


# What tells nothing new


def test_days_without_a_trade_are_found_apart_from_the_breaks_between_contracts():
    flat = {"open": 2.0, "high": 2.0, "low": 2.0, "close": 2.0, "count": 0}
    quiet = {5, *range(24, 72), *range(264, 288)}  # the hour is not worth a word; between 96 and 264 lies a week without rows
    bars = [bar(START + i * HOUR, HOUR, **(flat if i in quiet else {})) for i in (*range(96), *range(264, 312))]
    found = checks.still(HOURS, table(HOURS, bars))
    assert found.lived == (TimeRange(START, START + 4 * DAY), TimeRange(START + 11 * DAY, START + 13 * DAY))
    assert found.runs == (
        (TimeRange(START + DAY, START + 3 * DAY), 48),
        (TimeRange(START + 11 * DAY, START + 12 * DAY), 24),
    )


@pytest.mark.parametrize("count", [20, 21])
def test_a_week_of_one_rate_is_found(count):
    times = [START + i * 8 * HOUR + i % 3 for i in range(count + 2)]
    rows = [settlement(time, funding_rate=0.0001 if 0 < i <= count else 0.0002) for i, time in enumerate(times)]
    week = (TimeRange(START + 8 * HOUR, START + 8 * HOUR + 7 * DAY), 21)
    assert checks.still(RATES, table(RATES, rows)).runs == ((week,) if count == 21 else ())


def test_no_row_tells_nothing():
    assert checks.still(RATES, table(RATES, [])) == checks.Still((), ())
