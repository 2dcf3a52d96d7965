"""Names that were meant."""

import pytest

from etl.text import meant


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("btcusdt", "; did you mean BTCUSDT?"),
        ("BTCUSD", "; did you mean BTCUSDT?"),
        ("1000PEPEUSDT", "; did you mean 1000PEPE?"),
        ("", ""),
        ("doge", ""),
    ],
)
def test_what_is_close_is_proposed_and_of_the_same_letters_that_alone(name, told):
    assert meant(name, ["BTCUSDT", "ETHBTC", "1000PEPE"]) == told
