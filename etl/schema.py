"""The Arrow schema of each dataset, made from its declaration, and the ways between Arrow and numpy that share memory.

`pa.array`, `pa.scalar` and `to_numpy` import pandas where it is installed: 0.3 s and 33 MB that a run has no use for. What
stands here does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from . import registry

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa


@cache
def arrow_schema(dataset: str) -> pa.Schema:
    """Columns of the dataset: times are `timestamp[ms]` without zone (UTC), numbers float64 or int64."""
    import pyarrow as pa  # noqa: PLC0415 - 260 ms of CPU that `etl --help` must not pay

    types = {"time": pa.timestamp("ms"), "float": pa.float64(), "int": pa.int64(), "text": pa.string()}
    return pa.schema([pa.field(c.name, types[c.type], nullable=c.nullable) for c in registry.dataset(dataset).columns])


def empty(dataset: str) -> pa.Table:
    """A table of the dataset without rows."""
    import pyarrow as pa  # noqa: PLC0415 - as above

    return pa.Table.from_batches([], schema=arrow_schema(dataset))


def times(dataset: str, rows: pa.Table) -> npt.NDArray[np.int64]:
    """The key times of the rows as ms UTC."""
    return integers(rows[registry.dataset(dataset).time_column])


def integers(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """A column of times or whole numbers without nulls, times as ms UTC; it shares the memory of a column in one piece."""
    import numpy as np  # noqa: PLC0415 - as above

    pieces = [
        np.frombuffer(chunk.buffers()[1], np.int64, len(chunk), chunk.offset * 8) for chunk in column.chunks if len(chunk)
    ]
    return pieces[0] if len(pieces) == 1 else np.concatenate([np.empty(0, np.int64), *pieces])


def numbers(values: npt.NDArray[np.int64] | npt.NDArray[np.float64], type: pa.DataType) -> pa.Array:
    """The values as an array of a type of eight bytes, in the same memory."""
    import pyarrow as pa  # noqa: PLC0415 - as above

    return pa.Array.from_buffers(type, len(values), [None, pa.py_buffer(values)])


def array(values: Sequence[Any], type: pa.DataType) -> pa.Array:
    """Texts, or numbers of a type of eight bytes, as an array of that type; None is null."""
    import numpy as np  # noqa: PLC0415 - as above
    import pyarrow as pa  # noqa: PLC0415 - as above

    valid = _bits(np.array([value is not None for value in values], np.bool_))
    if pa.types.is_string(type):
        texts = [(value or "").encode() for value in values]
        ends = np.cumsum([0, *map(len, texts)], dtype=np.int32)
        return pa.Array.from_buffers(type, len(values), [valid, pa.py_buffer(ends), pa.py_buffer(b"".join(texts))])
    plain = np.array([0 if value is None else value for value in values], float if pa.types.is_floating(type) else np.int64)
    return pa.Array.from_buffers(type, len(values), [valid, pa.py_buffer(plain)])


def mask(values: npt.NDArray[np.bool_]) -> pa.Array:
    """The values as an array by which a table can be filtered."""
    import pyarrow as pa  # noqa: PLC0415 - as above

    return pa.Array.from_buffers(pa.bool_(), len(values), [None, _bits(values)])


def booleans(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """A column of truth values without nulls."""
    import numpy as np  # noqa: PLC0415 - as above

    pieces = [
        np.unpackbits(np.frombuffer(chunk.buffers()[1], np.uint8), bitorder="little")[chunk.offset :][: len(chunk)]
        for chunk in column.chunks
        if len(chunk)
    ]
    return np.concatenate([np.empty(0, np.uint8), *pieces]).astype(np.bool_)


def _bits(values: npt.NDArray[np.bool_]) -> pa.Buffer:
    import numpy as np  # noqa: PLC0415 - as above
    import pyarrow as pa  # noqa: PLC0415 - as above

    return pa.py_buffer(np.packbits(values, bitorder="little"))
