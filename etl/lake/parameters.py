"""Values for the `$name` of a query, as they are typed on a command line. Pure.

A value becomes what it looks like: a whole number, a number, a date, a date-time (UTC unless it carries a zone), else text.
What stands in single quotes is text whatever it looks like.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime

from ..errors import UsageError

Value = int | float | date | datetime | str

_NAME = re.compile(r"\w+")
_WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]{0,17})")  # what BIGINT holds
_NUMBER = re.compile(r"[+-]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][+-]?[0-9]+)?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIME = re.compile(rf"{_DATE.pattern}[T ][0-9]{{2}}:[0-9]{{2}}(:[0-9]{{2}}(\.[0-9]{{1,6}})?)?(Z|[+-][0-9]{{2}}:?[0-9]{{2}})?")


def parse(texts: Iterable[str]) -> dict[str, Value]:
    """Each `name=value` as a name and a typed value.

    UsageError for what is none, for a name that comes twice, and for a date that the calendar lacks.
    """
    values: dict[str, Value] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise UsageError(f"-p takes name=value, for example -p symbol=BTCUSDT for $symbol; this is '{text}'")
        if name.lower() in map(str.lower, values):
            raise UsageError(f"-p {name} is given twice")
        values[name] = typed(value)
    return values


def typed(text: str) -> Value:
    """The value that the text looks like; date-times come in UTC and without a zone. UsageError as above."""
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1]
    if _WHOLE.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text):
        return float(text)
    try:
        if _DATE.fullmatch(text):
            return date.fromisoformat(text)
        if _TIME.fullmatch(text):
            moment = datetime.fromisoformat(text)
            return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
    except (ValueError, OverflowError) as error:
        raise UsageError(f"'{text}' looks like a time and is none ({error}); put it in single quotes if it is text") from None
    return text
