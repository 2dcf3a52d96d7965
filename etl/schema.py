"""The Arrow schema of each dataset, made from its declaration; no stored type depends on a library's guess."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

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


def times(dataset: str, rows: pa.Table) -> npt.NDArray[np.int64]:
    """The key times of the rows as ms UTC."""
    import numpy as np  # noqa: PLC0415 - as above
    import pyarrow as pa  # noqa: PLC0415 - as above

    return np.asarray(rows[registry.dataset(dataset).time_column].cast(pa.int64()).to_numpy())
