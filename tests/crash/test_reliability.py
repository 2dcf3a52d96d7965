"""docs/reliability.md names tests that exist, and leaves no guarantee out."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
TEXT = (TESTS.parent / "docs" / "reliability.md").read_text("utf-8")


def test_every_test_that_is_named_is_there():
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", TEXT)
    assert len(named) > 30
    assert [f"{file}::{name}" for file, name in named if f"\ndef {name}(" not in (TESTS / file).read_text("utf-8")] == []


def test_every_guarantee_has_a_row():
    rows = re.findall(r"^\| G(\d+) .*`[\w/]+\.py::", TEXT, re.MULTILINE)
    assert sorted({int(number) for number in rows}) == list(range(1, 13))
