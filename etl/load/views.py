"""The SQL face of a lake: the text of its views and macros, and `catalog.duckdb`, which keeps that text for any DuckDB client."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from string import Template

import duckdb

from .. import registry
from ..errors import LakeError, UsageError
from ..model import Column, Dataset
from ..ranges import DAY
from .files import publish, replace_file, temporary

_TYPES = {"time": "TIMESTAMP", "float": "DOUBLE", "int": "BIGINT", "text": "VARCHAR"}
_SERIES = (Column("market", "text"), Column("symbol", "text"))


def _columns(text: str) -> tuple[Column, ...]:
    kinds = {"t": "text", "f": "float", "i": "int", "@": "time"}
    return tuple(Column(name, kinds[kind]) for name, kind in (word.split(":") for word in text.split()))  # type: ignore[arg-type] # the four kinds above


def _view_columns(dataset: Dataset) -> tuple[Column, ...]:
    interval = (Column("interval", "text"),) if dataset.has_interval else ()
    return (*_SERIES, *interval, *dataset.columns)
