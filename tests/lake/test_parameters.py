"""What a value of `-p name=value` becomes."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.errors import UsageError
from etl.lake.parameters import parse, typed

from .test_views import at


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-3", -3),
        ("+0", 0),
        ("999999999999999999", 999_999_999_999_999_999),
        ("1.5", 1.5),
        ("-.5", -0.5),
        ("2.", 2.0),
        ("1e-4", 0.0001),
        ("6.02E23", 6.02e23),
        ("2024-01-31", date(2024, 1, 31)),
        ("2024-01-31T12:00", at("2024-01-31T12:00")),
        ("2024-01-31 12:00:30.25", at("2024-01-31T12:00:30.25")),
        ("2024-01-31T12:00Z", at("2024-01-31T12:00")),
        ("2024-01-31T00:30+05:30", at("2024-01-30T19:00")),
        # and text
        ("BTCUSDT", "BTCUSDT"),
        ("1m", "1m"),
        ("1000SHIBUSDT", "1000SHIBUSDT"),
        ("007", "007"),
        ("12345678901234567890", "12345678901234567890"),
        ("nan", "nan"),
        ("1_000", "1_000"),
        ("٣", "٣"),  # a digit elsewhere
        ("2024-W05", "2024-W05"),
        ("20240131", 20240131),
        ("", ""),
        ("'5'", "5"),
        ("'2024-01-31'", "2024-01-31"),
        ("'o'x'", "o'x"),
        ("'", "'"),
        ("''", ""),
        ("'; DROP VIEW klines; --", "'; DROP VIEW klines; --"),
    ],
)
def test_a_value_becomes_what_it_looks_like(text, value):
    assert typed(text) == value
    assert type(typed(text)) is type(value)


@pytest.mark.parametrize("text", ["2024-02-30", "2024-13-01", "2024-01-01T25:00", "0001-01-01T00:00+05:00"])
def test_a_time_that_the_calendar_lacks_is_told(text):
    with pytest.raises(UsageError, match="looks like a time and is none"):
        typed(text)


@given(st.text())
def test_what_stands_in_quotes_stays(text):
    assert typed(f"'{text}'") == text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["symbol"], "-p takes name=value"),
        (["=5"], "-p takes name=value"),
        (["a b=5"], "-p takes name=value"),
        (["a=1", "A=2"], "-p A is given twice"),
    ],
)
def test_mistakes_are_told(given, message):
    with pytest.raises(UsageError, match=message):
        parse(given)


def test_a_value_may_hold_what_it_likes():
    assert parse(["a=b=c", "n=1", "1=x"]) == {"a": "b=c", "n": 1, "1": "x"}
