"""The error tree: its exit codes, what errors carry, and that the module's picture of it is true."""

import pickle
import re

import pytest

from etl import errors
from etl.errors import Cancelled, EtlError, Refused, Rejected, SeriesFailed, Transient, UsageError

CLASSES = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, EtlError)]


def test_every_error_stands_in_the_picture_below_its_base():
    drawn, above = {}, {}
    for line in re.search(r"^EtlError\n(?:[│├└].*\n)*", errors.__doc__, flags=re.MULTILINE)[0].splitlines():
        branch, name = re.match(r"([│├└─ ]*)(\w+)", line).groups()
        drawn[name] = above.get(len(branch) - 4, "Exception")
        above[len(branch)] = name
    assert drawn == {one.__name__: one.__base__.__name__ for one in CLASSES}


def test_exit_codes_are_those_of_the_contract_and_of_the_picture():
    codes = {UsageError: 2, SeriesFailed: 3, Refused: 4, Cancelled: 130}
    for one in CLASSES:
        code = codes.get(one, 1)
        assert one.exit_code == code
        if one is not EtlError:
            assert re.search(rf"── {one.__name__} .* exit {code}\b", errors.__doc__)


@pytest.mark.parametrize(
    ("error", "carried"),
    [
        (Refused("banned", until=1_516_180_405_741), {"until": 1_516_180_405_741}),
        (Refused("banned"), {"until": None}),
        (Transient("429", retry_after=1.5), {"retry_after": 1.5}),
        (Rejected("Invalid symbol.", 400, -1121), {"status": 400, "code": -1121}),
        (Rejected("limit", 400, "000002"), {"status": 400, "code": "000002"}),
    ],
)
def test_errors_carry_facts_also_to_another_process(error, carried):
    travelled = pickle.loads(pickle.dumps(error))
    for one in (error, travelled):
        assert type(one) is type(error)
        assert str(one) == error.args[0]
        assert {name: getattr(one, name) for name in carried} == carried
