"""Writing what is exported: each file whole or not at all, nothing else in the folder touched, one export at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from ..errors import EtlError, UsageError
from ..lake.files import publish
from .tools import Form

_BATCH = 65_536


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the only export into the folder, which is made if need be; EtlError where another one is at work.

    The system drops the lock with the process. UsageError where the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise UsageError(f"cannot export into {folder}: {error.strerror}; name another folder with -o") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise EtlError(f"another export is writing into {folder}; wait for it, or name another folder with -o") from None
    finally:
        os.close(handle)


def write(target: Path, form: Form, tables: Iterable[pa.Table]) -> int:
    """Put the tables into `target` in that form, one after the other, and how many rows they have.

    Without any row no file is made and none is touched. EtlError where it cannot be written: an older file stays as it was.
    """
    filled = (table for table in tables if len(table))
    first = next(filled, None)
    if first is None:
        return 0
    writer = {"csv": _write_csv, "parquet": _write_parquet, "feather": _write_feather}[form]
    # Hidden and with another ending, so that no tool takes it for data; the next export writes over what a crash left.
    part = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            rows = writer(file, first, filled)
            file.flush()
            os.fsync(file.fileno())
        publish(part, target)
    except OSError as error:
        raise unwritten(target, error) from error
    finally:
        part.unlink(missing_ok=True)
    return rows


def unwritten(target: Path, error: OSError) -> EtlError:
    """What to raise where `target` could not be written."""
    return EtlError(f"cannot write {target}: {error.strerror or error}; what was exported there before, if anything, stays")


def _write_csv(file: BinaryIO, first: pa.Table, more: Iterable[pa.Table]) -> int:
    from .. import csvs  # noqa: PLC0415 - only this form needs it

    return csvs.write(file, first.schema.names, chain((first,), more))


def _write_parquet(file: BinaryIO, first: pa.Table, more: Iterable[pa.Table]) -> int:
    import pyarrow.parquet as pq  # noqa: PLC0415 - only this form needs it

    rows = 0
    with pq.ParquetWriter(file, first.schema, compression="zstd") as writer:
        for table in chain((first,), more):
            writer.write_table(table)
            rows += len(table)
    return rows


def _write_feather(file: BinaryIO, first: pa.Table, more: Iterable[pa.Table]) -> int:
    """Feather is Arrow's file format; compressed as freqtrade compresses it, but written piece by piece."""
    import pyarrow.ipc  # noqa: PLC0415 - only this form needs it

    options = pyarrow.ipc.IpcWriteOptions(compression=pa.Codec("lz4", compression_level=9))
    rows = 0
    with pyarrow.ipc.new_file(file, first.schema, options=options) as writer:
        for table in chain((first,), more):
            writer.write_table(table, max_chunksize=_BATCH)
            rows += len(table)
    return rows
