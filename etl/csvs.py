"""Arrow as CSV: RFC 4180 with a header and plain line feeds; NULL is empty, text is quoted only where it must be."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.csv

_ROWS = 65_536


def write(out: BinaryIO, names: Sequence[str], parts: Iterable[pa.Table]) -> int:
    """Write a header and the rows of all parts, as they come, and how many rows there were. Names may come twice."""
    header = io.StringIO()
    csv.writer(header, lineterminator="\n").writerow(names)
    out.write(header.getvalue().encode())
    rows = 0
    for part in parts:
        for batch in part.to_batches(_ROWS):
            try:
                out.write(_lines(batch, "none"))
            except pa.ArrowInvalid:  # a quote, comma or line feed in a text
                out.write(_lines(batch, "needed"))
        rows += len(part)
    return rows


def _lines(batch: pa.RecordBatch, quoting: str) -> memoryview:
    text = io.BytesIO()
    pyarrow.csv.write_csv(batch, text, pyarrow.csv.WriteOptions(include_header=False, quoting_style=quoting))
    return text.getbuffer()
