"""The block renderer writes what plain formatting writes."""

from __future__ import annotations

from decimal import Decimal as Exact

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from etl.sim.rows import Decimal, block, joined

NUMBERS = st.lists(st.integers(-(10**17), 10**17) | st.integers(-20, 20), min_size=1, max_size=20)


@given(NUMBERS, st.integers(0, 10), st.integers(0, 12))
def test_numbers_are_written_with_all_their_places(values: list[int], places: int, width: int) -> None:
    made = block(np.arange(len(values)), ["<", Decimal(np.array(values, np.int64), places, width), ">"])
    for at, value in enumerate(values):
        text = made.rows(at, at + 1).decode()[1:-1]
        assert Exact(text) == Exact(value).scaleb(-places)
        assert len(text.partition(".")[2]) == max(places, width)
        assert not text.lstrip("-").startswith("00")
    assert made.text.count(b",") == len(values) - 1
    assert made.rows(0, len(values)) == made.text


def test_no_rows() -> None:
    assert block(np.empty(0, np.int64), ["x"]).text == b""
    assert joined([], []).text == b""


def test_joined_rows_keep_their_bounds() -> None:
    made = joined([1, 2, 3], [b"a", b"bcd", b"ef"])
    assert [made.rows(at, at + 1) for at in range(3)] == [b"a", b"bcd", b"ef"]
    assert made.rows(1, 3) == b"bcd,ef"
