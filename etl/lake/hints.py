"""What DuckDB says of a mistake, and what is known instead, what is close to it first. Pure."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping

from ..errors import UsageError
from ..text import meant
from .views import MACROS, VIEWS

_TABLE = re.compile(r'(?:Table|Table Function) with name "?([^\s"]+)"? (?:does not exist|is not in the catalog)')
_COLUMN = re.compile(r'(?:column(?: named)?|Column) "([^"]+)"')
# DuckDB's own proposals also come from its system tables and functions, which nobody means here.
_PROPOSAL = re.compile(r'\n(Did you mean "|Candidate bindings: )[^\n]*')


def of_catalog(text: str) -> str:
    """An error about a name that is no view, no macro and no function."""
    if not (named := _TABLE.search(text)):
        return text
    return f"{_headed(text, meant(named[1], [*VIEWS, *MACROS]))}\nviews: {', '.join(VIEWS)}; macros: {', '.join(MACROS)}"


def of_columns(text: str, tables: Container[str]) -> str:
    """An error about a column of the views and macros that the query names in `tables`."""
    rows = {name: columns for name, columns in (VIEWS | MACROS).items() if name in tables}
    missing = _COLUMN.search(text)
    if not missing or not rows:
        return text
    proposed = meant(missing[1], [column for columns in rows.values() for column in columns])
    return "".join([_headed(text, proposed), *(f"\ncolumns of {name}: {', '.join(columns)}" for name, columns in rows.items())])


def chosen_parameters(asked: Iterable[str], given: Mapping[str, object], *, strict: bool) -> dict[str, object]:
    """The values that the query asks for by `$name`; case does not matter, as in DuckDB.

    UsageError where one has no value, and if `strict` where a value has no `$name`.
    """
    wanted, names = {one.lower(): one for one in sorted(asked)}, {one.lower(): one for one in given}
    unknown = [names[one] for one in names if one not in wanted]
    if lacking := [wanted[one] for one in wanted if one not in names]:
        cure = " ".join(f"-p {one}=VALUE" for one in lacking)
        raise UsageError(f"the query needs a value for ${', $'.join(lacking)}; give it with {cure}{meant(lacking[0], unknown)}")
    if strict and unknown:
        there = f"it has ${', $'.join(wanted.values())}" if wanted else "it has none"
        raise UsageError(f"the query has no ${', $'.join(unknown)}; {there}{meant(unknown[0], wanted.values())}")
    return {name: given[names[one]] for one, name in wanted.items()}


def _headed(text: str, proposed: str) -> str:
    """The text with our proposals in place of DuckDB's, behind its first line."""
    first, *rest = _PROPOSAL.sub("", text).split("\n")
    return "\n".join([first.rstrip("!") + proposed if proposed else first, *rest])
