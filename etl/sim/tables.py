"""Tables of a faults file: which one of several functions is meant, and whether its keys fit the function's parameters."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any, Literal, NewType, get_args, get_origin, get_type_hints

from ..errors import UsageError
from ..ranges import parse_time

Time = NewType("Time", int)
"""Milliseconds UTC; in a table a date or date-time as text."""
Expression = NewType("Expression", str)
"""A regular expression."""


def parse_table(
    table: object, key: str, functions: Mapping[str, Callable[..., Any]], match: Mapping[str, Any], where: str
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The function that `key` names, its arguments, and the table's other keys, which are those of `match` (name → type).

    The keyword-only parameters of a function are its keys. UsageError that names an unknown or unfit key and the known ones.
    """
    if not isinstance(table, Mapping):
        raise UsageError(f"{where}: a rule is a table of keys, not {table!r}")
    name = table.get(key)
    if not isinstance(name, str) or name not in functions:
        raise UsageError(f"{where}: unknown {key} {name!r}; known are {', '.join(functions)}")
    parameters = inspect.signature(functions[name]).parameters.values()
    keys = {one.name: one.default for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY}
    hints = {**match, **{one: hint for one, hint in get_type_hints(functions[name]).items() if one in keys}}
    check_keys(table, {key, *hints}, f"{where} ({name})")
    values = {}
    for one, value in table.items():
        if one != key:
            if not fits(value, hints[one]):
                raise UsageError(f"{where} ({name}): {one} must be {_described(hints[one])}, not {value!r}")
            values[one] = parse_time(value) if hints[one] is Time else value
            if hints[one] is Expression:
                _compile(value, f"{where} ({name}): {one}")
    missing = [one for one, default in keys.items() if default is inspect.Parameter.empty and one not in table]
    if missing:
        raise UsageError(f"{where}: {key} {name} needs {', '.join(missing)}")
    arguments = {one: value for one, value in values.items() if one in keys}
    return name, arguments, {one: value for one, value in values.items() if one not in keys}


def check_keys(table: Mapping[str, object], known: set[str], where: str) -> None:
    """UsageError if the table has a key that is not known."""
    unknown = sorted(set(table) - known)
    if unknown:
        raise UsageError(f"{where}: unknown key {', '.join(map(repr, unknown))}; known are {', '.join(sorted(known))}")


def fits(value: object, hint: Any) -> bool:
    """Whether the value may stand where a parameter is annotated so."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint is Time:
        try:
            return isinstance(value, str) and parse_time(value) >= 0
        except UsageError:
            return False
    if hint is Expression:
        return isinstance(value, str)
    kinds = tuple(kind for kind in get_args(hint) or (hint,) if kind is not NoneType)
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, (*kinds, int) if float in kinds else kinds)


def _compile(text: str, where: str) -> None:
    try:
        with warnings.catch_warnings():  # what a later Python reads in another way
            warnings.simplefilter("error", FutureWarning)
            re.compile(text)
    except (re.error, FutureWarning) as error:
        raise UsageError(f"{where} is no regular expression: {error}") from error


def _described(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not NoneType]
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", Expression: "text"}
    names[Time] = 'a date or date-time in quotes, "2024-05-17" or "2024-05-17T08:00" (UTC)'
    return " or ".join(names[kind] for kind in kinds)
