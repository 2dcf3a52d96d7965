"""Reading a lake with DuckDB: connections with its views, series as frames, and the queries of `etl sql` in their sandbox."""

from __future__ import annotations

import contextlib
import io
import json
import re
import secrets
import tempfile
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import date, datetime
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Self, TextIO, TypeVar
from urllib.parse import unquote

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from .. import registry
from ..errors import EtlError, LakeError, UsageError
from ..model import Series
from ..ranges import from_datetime, parse_time, to_datetime
from ..text import meant, padded, width
from . import hints
from .beside import again, held
from .files import MANIFEST, cure
from .store import Store
from .views import MACROS, VIEWS, catalog_sql, create_views, pattern, quoted

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

Format = Literal["table", "csv", "json", "parquet"]
Output = Literal["pandas", "arrow", "polars"]
OUTPUTS = ("pandas", "arrow", "polars")
Time = str | int | date
Parameters = Sequence[object] | Mapping[str, object]
T = TypeVar("T")

_BATCH = 50_000
# Where rows are only counted, it ends here: a look at a large view is not to read all of it.
_COUNTED = 1_000_000

# A CTE may hold COPY, INSERT and the like, and DuckDB calls the whole a SELECT; so what a query may consist of is listed.
_QUERY_NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
# Functions that one may select from: they read what the settings let them, or tell of the session. Others run text as SQL,
# write logs, or will do something in a later version.
_TABLE_FUNCTIONS = {
    *MACROS,
    *("read_parquet", "parquet_scan", "parquet_schema", "parquet_metadata", "parquet_kv_metadata", "parquet_file_metadata"),
    *("parquet_bloom_probe", "read_csv", "read_csv_auto", "sniff_csv", "read_text", "read_blob", "glob"),
    *("read_json", "read_json_auto", "read_json_objects", "read_ndjson", "read_ndjson_auto", "read_ndjson_objects"),
    *("range", "generate_series", "unnest", "repeat", "repeat_row", "summary", "histogram", "histogram_values", "json_each"),
    *("json_tree", "duckdb_columns", "duckdb_views", "duckdb_tables", "duckdb_functions", "duckdb_settings", "duckdb_types"),
    *("duckdb_schemas", "duckdb_databases", "duckdb_keywords", "duckdb_memory", "duckdb_variables", "pragma_version"),
}
_REFUSED_FUNCTIONS = {"write_log", "json_serialize_plan", "nextval", "currval", "getenv"}
_NO_FILES = re.compile(r'No files found that match the pattern ".*/(\w+)/market=([^/]*)/(?:interval=([^/]*)/)?symbol=([^/]*)/')


class Result:
    """The rows of one query, in Arrow batches as they are computed; use it as a context, or close it."""

    def __init__(
        self,
        lake: Path,
        schema: pa.Schema,
        batches: Iterable[pa.RecordBatch],
        close: Callable[[], object],
        *,
        plan: bool,
    ) -> None:
        self.schema = schema
        self.plan = plan
        """Whether these are the lines of an EXPLAIN."""
        self._lake = lake
        self._batches = batches
        self._closes = [close]

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows, once; EtlError where the query fails half-way."""
        with _translated(self._lake):
            yield from self._batches

    def close(self) -> None:
        """End the query."""
        for close in self._closes:
            close()

    def then(self, close: Callable[[], object]) -> None:
        """Let this end with the query, too."""
        self._closes.append(close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def connect(lake: Path) -> duckdb.DuckDBPyConnection:
    """A new in-memory connection with the views and macros of the lake; it never opens `catalog.duckdb` and locks nothing.

    UsageError where there is no lake, LakeError if a file of it cannot be read.
    """
    if not lake.is_dir():
        raise UsageError(f"there is no lake at {lake}; make one with etl backfill, or name another with --lake or ETL_LAKE")
    connection = duckdb.connect()
    try:
        connection.execute("SET TimeZone = 'UTC'")
        # DuckDB takes a view of one symbol for one row and would join it with nested loops (design 4).
        connection.execute("SET asof_loop_join_threshold = 0")
        if (lake / MANIFEST).exists():
            # Threads add in the order in which they come, so that sums differ in their last bits from one time to the next; and
            # what is asked of a snapshot is to be the same for ever.
            connection.execute("SET threads = 1")
        # By default a query that outgrows the memory spills into the working directory.
        connection.execute(f"SET temp_directory = {quoted(str(Path(tempfile.gettempdir(), f'etl-{secrets.token_hex(8)}')))}")
        create_views(connection, catalog_sql(lake), lake)
    except BaseException:
        connection.close()
        raise
    return connection


def load(  # noqa: PLR0917 - what names a series and its range reads well in this order
    lake: Path,
    dataset: str,
    symbol: str,
    interval: str | None = None,
    start: Time | None = None,
    end: Time | None = None,
    *,
    market: str = "um",
    output: Output = "pandas",
) -> pd.DataFrame | pa.Table | pl.DataFrame:
    """The stored rows of one series in [start, end), sorted by time: the columns of its view, times tz-aware UTC.

    Times are text (UTC unless it says otherwise), dates, datetimes (naive is UTC) or ms UTC. Only the
    folder of the series is read. UsageError names what is stored where the series is not.
    """
    kind = registry.dataset(dataset)
    if kind.has_interval != (interval is not None):
        raise UsageError(f"{dataset} {'needs an interval, for example 1m' if kind.has_interval else 'has no interval'}")
    _check_output(output)
    series = Series(registry.market(market).name, dataset, symbol, registry.interval(interval).name if interval else None)
    files = Store(lake, "").paths(series)
    if not files:
        raise _no_series(lake, series)
    names = [f"?::VARCHAR AS {name}" if name in series.as_dict() else name for name in VIEWS[dataset]]
    known = [value for name, value in series.as_dict().items() if name in VIEWS[dataset]]
    if start is not None and end is not None and _moment(start) >= _moment(end):
        raise UsageError(f"start {start} must lie before end {end}; the range is half-open, [start, end)")
    bounds = [(sign, _moment(time)) for sign, time in ((">=", start), ("<", end)) if time is not None]
    where = " AND ".join(["true", *(f"{kind.time_column} {sign} ?" for sign, _ in bounds)])
    query = (
        f"SELECT {', '.join(names)} FROM read_parquet(?, hive_partitioning = false)"  # noqa: S608 - our own names; values are bound
        f" WHERE {where} ORDER BY {', '.join(kind.key)}"
    )
    with held(files) as opened, duckdb.connect() as connection:
        values = [*known, [*opened], *(moment for _, moment in bounds)]
        try:
            rows = connection.sql(query, params=values).to_arrow_table()
        except (duckdb.Error, pa.ArrowException) as error:
            text = re.sub(r"/proc/self/fd/\d+", lambda name: str(opened.get(name[0], name[0])), str(error).strip())
            raise _error(lake, text, ()) from error
    return _frame(rows, output)


def universe(lake: Path, at: Time, *, market: str = "um", output: Output = "pandas") -> pd.DataFrame | pa.Table | pl.DataFrame:
    """The contracts of the market that lived at that time, as rows of the view `symbols`, by symbol; times tz-aware UTC."""
    _check_output(output)
    question = "FROM universe(?, market := ?) ORDER BY symbol, first_time"

    def ask() -> pa.Table:
        with connect(lake) as connection, _translated(lake):
            return connection.sql(question, params=[_moment(at), registry.market(market).name]).to_arrow_table()

    return _frame(again(lake, ask), output)


def _check_output(output: str) -> None:
    if output not in OUTPUTS:
        raise UsageError(f"unknown output '{output}'; known are {', '.join(OUTPUTS)}")
    if output == "polars" and find_spec("polars") is None:
        raise UsageError("polars is not installed; pip install 'binance-futures-etl[polars]' brings it")


def _frame(table: pa.Table, output: Output) -> pd.DataFrame | pa.Table | pl.DataFrame:
    """The table in the form that was asked for; its times mean UTC, and say so there."""
    zoned = [f.with_type(pa.timestamp(f.type.unit, "UTC")) if pa.types.is_timestamp(f.type) else f for f in table.schema]
    table = table.cast(pa.schema(zoned))
    if output == "polars":
        import polars as pl  # noqa: PLC0415 - it need not be installed

        return pl.from_arrow(table)
    return table if output == "arrow" else table.to_pandas()


class Room:
    """A connection that can read the lake and nothing else, for one query after the other; use it as a context, or close it.

    UsageError where there is no lake, LakeError if a file of it cannot be read.
    """

    def __init__(self, lake: Path) -> None:
        self._lake = lake
        self._views = catalog_sql(lake) if lake.is_dir() else ""
        self._connection = again(lake, lambda: connect(lake))
        self._thread = ThreadPoolExecutor(1)
        root = lake.resolve()
        try:
            for setting in (
                "python_enable_replacements = false",  # our own variables are no tables
                "autoinstall_known_extensions = false",
                "autoload_known_extensions = false",
                f"allowed_directories = [{quoted(str(root))}, {quoted(pattern(root))}]",  # patterns are checked as they stand
                "enable_external_access = false",
                "http_proxy = ''",  # it comes from the environment, with its password
                "lock_configuration = true",  # the last one: nothing can be unset after it
            ):
                self._connection.execute(f"SET {setting}")
        except BaseException:
            self.close()
            raise

    def ask(self, sql: str, parameters: Parameters | None = None, *, strict: bool = True) -> Result:
        """The answer to one SELECT, or EXPLAIN of one, with values for its parameters; close it before the next question.

        Of named ones each must have its place in the query if `strict`, else those that have are taken.
        UsageError for any other statement, for a mistake in the SQL and for a series that is not stored. What was stored since
        the last question is there.
        """
        named: set[str] = set()

        def answer() -> tuple[pa.RecordBatchReader, pa.RecordBatch | None, bool]:
            with _translated(self._lake, named):
                return self._patiently(lambda: self._answer(sql, parameters, named, strict=strict))

        reader, first, plan = again(self._lake, answer)
        return Result(self._lake, reader.schema, self._batches(reader, first), reader.close, plan=plan)

    def close(self) -> None:
        """Leave it."""
        self._thread.shutdown()
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _answer(
        self, sql: str, parameters: Parameters | None, named: set[str], *, strict: bool
    ) -> tuple[pa.RecordBatchReader, pa.RecordBatch | None, bool]:
        self._renew()
        plan = _check(self._connection, sql, named)
        if isinstance(parameters, Mapping):
            asked = self._connection.extract_statements(sql)[0].named_parameters
            parameters = hints.chosen_parameters(asked, parameters, strict=strict)
        reader = self._connection.sql(sql, params=parameters or None).to_arrow_reader(_BATCH)
        try:
            first = next(reader, None)  # a query that fails at once fails here, before anything is printed
        except BaseException:
            reader.close()
            raise
        return reader, first, plan

    def _batches(self, reader: pa.RecordBatchReader, batch: pa.RecordBatch | None) -> Iterator[pa.RecordBatch]:
        while batch is not None:
            yield batch
            batch = self._patiently(lambda: next(reader, None))

    def _patiently(self, work: Callable[[], T]) -> T:
        """What `work` gives, computed in another thread: while DuckDB computes, this one would not hear of Ctrl-C."""
        future = self._thread.submit(work)
        try:
            return future.result()
        except KeyboardInterrupt:
            while not future.done():
                self._connection.interrupt()  # is forgotten by a query that begins after it
                wait([future], timeout=0.05)
            raise

    def _renew(self) -> None:
        """A view over no files has no rows for good; the first file of a dataset asks for another one."""
        views = catalog_sql(self._lake)
        if views != self._views:
            create_views(self._connection, views, self._lake)
            self._views = views


def run(lake: Path, sql: str, parameters: Parameters | None = None) -> Result:
    """The answer to one query in a room of its own, which is left with the result. Errors are those of `Room.ask`."""
    room = Room(lake)
    try:
        result = room.ask(sql, parameters)
    except BaseException:
        room.close()
        raise
    result.then(room.close)
    return result


def write_result(
    result: Result,
    form: Format,
    out: BinaryIO,
    *,
    limit: int | None = None,
    columns: int | None = None,
    notes: TextIO | None = None,
) -> int:
    """Write the rows in that form to a binary stream (text is UTF-8), and how many were read.

    table: aligned columns, times in UTC. With a `limit`, the first so many rows, and `notes` is told how many there are (beyond
    a million the others are not read); with `columns`, no more than fit on so many of a terminal.
    csv: RFC 4180 with a header and plain line feeds; NULL is empty. json: one array of objects; NaN is null.
    In both, times are ISO-8601 with `Z`. parquet: a file; the stream needs no seek.
    UsageError where the form cannot hold the result.
    """
    if form in ("json", "parquet") and len(set(result.schema.names)) < len(result.schema.names):
        raise UsageError(f"{form} needs a name of its own for every column; these are {', '.join(result.schema.names)}: use AS")
    if form == "table":
        return _write_table(result, out, limit, columns, notes)
    return {"csv": _write_csv, "json": _write_json, "parquet": _write_parquet}[form](result, out)


def _write_table(result: Result, out: BinaryIO, limit: int | None, columns: int | None, notes: TextIO | None) -> int:
    shown: list[list[str]] = []
    total = 0
    for batch in result.batches():
        total += batch.num_rows
        if limit is None or len(shown) < limit:
            part = batch if limit is None else batch.slice(0, limit - len(shown))
            shown.extend(map(list, zip(*(_cells(column) for column in part.columns), strict=True)))
        elif total > _COUNTED:
            break
    kept = len(result.schema)
    if result.plan:
        lines = [row[-1].rstrip() for row in shown]
    else:
        cells = [[_printable(cell) for cell in column] for column in zip(result.schema.names, *shown, strict=True)]
        right = [_is_number(field.type) for field in result.schema]
        cells, right, kept = _fitting(cells, right, columns)
        widths = [max(map(width, column)) for column in cells]
        lines = [
            " | ".join(padded(cell, size, right=flush) for cell, size, flush in zip(row, widths, right, strict=True)).rstrip()
            for row in zip(*cells, strict=True)
        ]
        lines.insert(1, "-+-".join("-" * width for width in widths))
    out.write("".join(f"{line}\n" for line in lines).encode())
    if notes is not None and limit is not None and not result.plan:
        out.flush()
        notes.write(f"{_counted(total, limit, kept, len(result.schema))}\n")
    return total


def _fitting(cells: list[list[str]], right: list[bool], columns: int | None) -> tuple[list[list[str]], list[bool], int]:
    """The first and the last columns that fit on so many of a terminal, with `…` for those between; and how many they are."""
    widths = [max(map(width, column)) for column in cells]
    if columns is None or len(cells) == 1 or sum(widths) + 3 * (len(widths) - 1) <= columns:
        return cells, right, len(cells)
    head, tail, room = 1, len(cells), columns - widths[0] - len(" | …")
    while head < tail:
        one = head if head <= len(cells) - tail else tail - 1
        if (room := room - widths[one] - 3) < 0:
            break
        head, tail = (head + 1, tail) if one == head else (head, tail - 1)
    between = ["…"] * len(cells[0])
    return [*cells[:head], between, *cells[tail:]], [*right[:head], False, *right[tail:]], len(cells) - (tail - head)


def _counted(total: int, limit: int, kept: int, columns: int) -> str:
    """`(3 rows)`, or how much of how many is shown."""
    many = f"more than {_COUNTED:,}" if total > _COUNTED else f"{total:,}"
    rows = f"{limit} of {many} rows" if total > limit else "1 row" if total == 1 else f"{total} rows"
    return f"({rows})" if kept == columns else f"({rows}, {kept} of {columns} columns)"


def _write_csv(result: Result, out: BinaryIO) -> int:
    from .. import csvs  # noqa: PLC0415 - only this form needs it

    places = [str(place) for place in range(len(result.schema))]  # its names may come twice
    flat = (pa.Table.from_arrays([_flat(column) for column in batch.columns], names=places) for batch in result.batches())
    return csvs.write(out, result.schema.names, flat)


def _write_json(result: Result, out: BinaryIO) -> int:
    encode = msgspec.json.Encoder(decimal_format="number").encode  # NaN and the infinities become null
    names = result.schema.names
    total = 0
    for batch in result.batches():
        columns = [_values(column) for column in batch.columns]
        rows = [encode(dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)]
        out.write((b",\n " if total else b"[") + b",\n ".join(rows) if rows else b"")
        total += len(rows)
    out.write(b"]\n" if total else b"[]\n")
    return total


def _write_parquet(result: Result, out: BinaryIO) -> int:
    import pyarrow.parquet as pq  # noqa: PLC0415 - only this form needs it

    total = 0
    try:
        with pq.ParquetWriter(_Forward(out), result.schema, compression="zstd") as writer:
            for batch in result.batches():
                writer.write_batch(batch)
                total += batch.num_rows
    except pa.ArrowNotImplementedError as error:
        raise UsageError(f"Parquet cannot hold a column of this result ({error}); cast it, for example to VARCHAR") from error
    return total


class _Forward(io.RawIOBase):
    """A stream that knows its position, which Parquet asks for and a pipe does not tell."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._position = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._out.write(data)
        self._position += len(data)
        return len(data)

    def tell(self) -> int:
        return self._position


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _iso(column: pa.Array, separator: str = "T", zone: str = "Z") -> pa.Array:
    """Times as ISO-8601 text in UTC, with a fraction only where there is one, as ranges.iso writes them."""
    times = column.cast(pa.timestamp("us"), safe=False)
    seconds = pc.floor_temporal(times, unit="second")
    rest = pc.subtract(times.cast(pa.int64()), seconds.cast(pa.int64()))
    digits = pc.utf8_lpad(rest.cast(pa.string()), 6, "0")
    whole_ms = pc.ends_with(digits, "000")
    fraction = pc.binary_join_element_wise("", pc.if_else(whole_ms, pc.utf8_slice_codeunits(digits, 0, 3), digits), ".")
    fraction = pc.if_else(pc.equal(rest, 0), "", fraction)
    text = pc.replace_substring(seconds.cast(pa.timestamp("s")).cast(pa.string()), " ", separator)
    return pc.binary_join_element_wise(text, fraction, zone, "")


def _values(column: pa.Array) -> list[Any]:
    """Values that JSON can hold."""
    if pa.types.is_timestamp(column.type):
        return list(_iso(column).to_pylist())
    if pa.types.is_nested(column.type) or pa.types.is_interval(column.type) or pa.types.is_binary(column.type):
        return [_value(value) for value in column.to_pylist(maps_as_pydicts="lossy")]
    return list(column.to_pylist())


def _value(value: Any) -> Any:
    if isinstance(value, datetime):
        return _iso(pa.array([value])).to_pylist()[0]
    if isinstance(value, pa.MonthDayNano):
        return f"P{value.months}M{value.days}DT{value.nanoseconds / 1e9:g}S"
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return [_value(one) for one in value]
    if isinstance(value, dict):
        return {str(name): _value(one) for name, one in value.items()}
    return value


def _flat(column: pa.Array) -> pa.Array:
    """A column that CSV can hold."""
    kind = column.type
    if pa.types.is_timestamp(kind):
        return _iso(column)
    if pa.types.is_dictionary(kind):
        return column.cast(kind.value_type)
    if pa.types.is_nested(kind) or pa.types.is_interval(kind) or pa.types.is_binary(kind):
        return pa.array([_text(value) for value in _values(column)], pa.string())
    return column


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode()


def _cells(column: pa.Array) -> list[str]:
    if pa.types.is_timestamp(column.type):
        column = _iso(column, " ", "")
    return ["NULL" if value is None else str(value) for value in _flat(column).to_pylist()]


def _printable(text: str) -> str:
    """The text on one line, without what a terminal would obey."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _check(connection: duckdb.DuckDBPyConnection, sql: str, tables: set[str]) -> bool:
    """Refuse what is not one query; collect the tables and table functions that it names; whether it is an EXPLAIN."""
    if "\0" in sql:  # DuckDB 1.5 reads up to it, 2.0 beyond
        raise UsageError("etl sql takes exactly one SELECT, or EXPLAIN of one; this text holds a NUL")
    try:
        sql.encode()
        kinds = [statement.type for statement in connection.extract_statements(sql)]
    except ValueError as error:  # no text that can be written in UTF-8, or a kind that DuckDB's own Python does not know
        raise UsageError(f"etl sql takes exactly one SELECT, or EXPLAIN of one, and reads only: {error}") from error
    if kinds == [duckdb.StatementType.EXPLAIN]:
        # DuckDB says EXPLAIN of EXPLAIN ANALYZE COPY too, and would write: what is explained must pass by itself.
        _check(connection, _explained(sql), tables)
        return True
    if kinds != [duckdb.StatementType.SELECT]:
        found = ", ".join(str(kind).rpartition(".")[2] for kind in kinds) or "nothing"
        raise UsageError(f"etl sql takes exactly one SELECT, or EXPLAIN of one, and reads only; this is {found}")
    try:
        tree = json.loads(connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()[0][0])
    except RecursionError:
        raise UsageError("this query is nested too deeply for etl sql") from None
    if tree.get("error", True):
        raise UsageError(f"etl sql cannot read this query: {tree.get('error_message')}")
    for node in _nodes(tree):
        if str(node.get("type", "")).endswith("_NODE") and node["type"] not in _QUERY_NODES:
            raise UsageError("etl sql reads only; a WITH that writes is no query")
        if refused := _refused(node):
            known = f"macros: {', '.join(MACROS)}"
            close = meant(refused, MACROS)
            raise UsageError(f"etl sql does not run {refused}(): it reads the lake and nothing else{close}\n{known}")
        tables.update(name.lower() for name in (node.get("table_name"), _function(node)) if name)
    return False


def _explained(sql: str) -> str:
    """What is explained, by DuckDB's own tokens: to it a carriage return ends a comment, and comments may be nested."""
    text = sql.encode()
    places = [place for place, kind in duckdb.tokenize(sql) if kind != duckdb.token_type.comment]
    words = [re.match(rb"\w+|.|$", text[place:], re.DOTALL) for place in places]
    found = [word[0].upper() for word in words if word]
    rest = 1
    if found[:1] != [b"EXPLAIN"]:
        raise UsageError("etl sql cannot tell what this explains")
    if found[rest : rest + 1] == [b"ANALYZE"]:
        rest += 1
    if found[rest : rest + 1] == [b"("] and found[rest + 1 : rest + 2] in ([b"ANALYZE"], [b"FORMAT"]):
        rest = found.index(b")") + 1 if b")" in found else len(found)
    return text[places[rest] :].decode() if rest < len(places) else ""


def _refused(node: dict[str, Any]) -> str | None:
    """The name of the function that the node calls, if it may not."""
    name = str(node.get("function_name", "")).lower()
    if node.get("type") != "TABLE_FUNCTION":
        return name if name in _REFUSED_FUNCTIONS else None
    name = _function(node)
    return None if name in _TABLE_FUNCTIONS else name or "this function"


def _function(node: dict[str, Any]) -> str:
    """The name of the function that the node selects from, else nothing."""
    function = node.get("function")
    return str(function.get("function_name", "")).lower() if isinstance(function, dict) else ""


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    pending = [tree]
    while pending:
        one = pending.pop()
        if isinstance(one, dict):
            yield one
            pending.extend(one.values())
        elif isinstance(one, list):
            pending.extend(one)


@contextlib.contextmanager
def _translated(lake: Path, tables: Container[str] = ()) -> Iterator[None]:
    """Errors of DuckDB as ours, with what is known instead."""
    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise _error(lake, str(error).strip(), tables) from error


def _error(lake: Path, text: str, tables: Container[str]) -> EtlError:
    if missing := _NO_FILES.search(text):
        dataset, market, interval, symbol = (unquote(part or "") for part in missing.groups())
        return _no_series(lake, Series(market, dataset, symbol, "1M" if interval == "1mo" else interval or None))
    # By the text, because Arrow's stream hands over nothing else of an error that comes up half-way.
    kind = text.partition(" Error:")[0]
    if kind == "IO" or (kind == "Invalid Input" and re.search(rf"{re.escape(str(lake.resolve()))}/.*\.parquet", text)):
        return LakeError(f"{text}; {cure(lake, 'move a broken file away, the next backfill fetches it anew')}")
    if kind in ("Out of Memory", "INTERNAL", "FATAL"):
        return EtlError(text)
    if kind == "Permission":
        text = f"etl sql reads the lake at {lake} and nothing else: {text}"
    elif kind == "Catalog":
        text = hints.of_catalog(text)
    elif kind == "Binder":
        text = hints.of_columns(text, tables)
    return UsageError(text)


def _no_series(lake: Path, series: Series) -> UsageError:
    """What is not there, and what is stored instead that it could have meant."""
    if series.interval is not None:
        registry.interval(series.interval)  # an interval that cannot be stored at all has a message of its own
    stored = [s for s in Store(lake, "").series() if (s.market, s.dataset) == (series.market, series.dataset)]
    others = [s.interval for s in stored if s.symbol == series.symbol and s.interval]
    finer = [one for one in others if series.interval and registry.fills(one, series.interval)]
    symbols = sorted({s.symbol for s in stored})
    if not stored:
        hint = f"the lake at {lake} holds no {series.dataset} of {series.market}; etl backfill fetches them"
    elif others:
        hint = f"stored intervals of {series.symbol} are {', '.join(others)}"
        if finer and series.dataset == "klines":
            hint += f"; resample('{series.symbol}', '{finer[-1]}', '{series.interval}') makes these bars of them"
    elif close := meant(series.symbol, symbols):
        hint = close.removeprefix("; ")
    else:
        hint = f"stored are {', '.join(symbols[:10])}" + (f" and {len(symbols) - 10} more" if len(symbols) > 10 else "")
    return UsageError(f"no such series in the lake: {series}; {hint}")


def _moment(time: Time) -> datetime:
    """A naive UTC datetime, as DuckDB compares the stored times."""
    if isinstance(time, str):
        time = parse_time(time)
    elif isinstance(time, date):
        time = from_datetime(time if isinstance(time, datetime) else datetime(time.year, time.month, time.day))  # noqa: DTZ001 - naive is UTC there
    return to_datetime(time).replace(tzinfo=None)
