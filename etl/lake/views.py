"""The SQL face of a lake: the text of its views and macros, and `catalog.duckdb`, which keeps them for any DuckDB client."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from .. import registry
from ..errors import LakeError, UsageError
from ..model import Column, Dataset
from ..ranges import DAY, MAX_TIME
from .files import check_file, cure, looking_at, replace_file

if TYPE_CHECKING:
    import duckdb

CATALOG = ("catalog.duckdb", "catalog.sql")

_SQL_TYPES = {"time": "TIMESTAMP", "float": "DOUBLE", "int": "BIGINT", "text": "VARCHAR"}


def _typed(columns: Iterable[Column]) -> dict[str, str]:
    return {column.name: _SQL_TYPES[column.type] for column in columns}


def _typed_names(text: str) -> dict[str, str]:
    return {name: sql_type for line in text.split(",") for *names, sql_type in [line.split()] for name in names}


def _of_dataset(dataset: Dataset) -> dict[str, str]:
    keys = ("market", "symbol", "interval") if dataset.has_interval else ("market", "symbol")
    return dict.fromkeys(keys, "VARCHAR") | _typed(dataset.columns)


# Every view with its columns and their SQL types, in order (contract 5).
VIEWS: dict[str, dict[str, str]] = {
    **{dataset.name: _of_dataset(dataset) for dataset in sorted(registry.DATASETS.values(), key=lambda d: not d.has_interval)},
    "symbols": _typed_names(
        "market symbol base_asset quote_asset contract_type status VARCHAR, onboard_time delivery_time TIMESTAMP,"
        "tick_size step_size min_qty max_qty min_price min_notional DOUBLE, first_time last_time TIMESTAMP"
    ),
    "ledger": _typed_names(
        "market dataset symbol interval VARCHAR, day DATE, source source_url sha256 VARCHAR,"
        "rows expected missing BIGINT, verdict VARCHAR, checked_at TIMESTAMP"
    ),
    "runs": _typed_names(
        "run_id command VARCHAR, started_at TIMESTAMP, elapsed_s DOUBLE,"
        "rows_written partitions_written requests weight bytes_downloaded failed exit_code BIGINT"
    ),
}
# Every macro with the columns of its rows; its parameters stand in its template.
MACROS: dict[str, dict[str, str]] = {
    "bars": VIEWS["klines"],
    "resample": VIEWS["klines"] | _typed_names("bars bars_expected BIGINT"),
    "bars_with_funding": VIEWS["klines"] | _typed_names("funding_time TIMESTAMP, funding_rate DOUBLE"),
    "gaps": _typed_names("gap_start gap_end TIMESTAMP, missing BIGINT, verdict VARCHAR"),
    "universe": VIEWS["symbols"],
}

_FOOTER = (
    '{"market":"VARCHAR","symbol":"VARCHAR","interval":"VARCHAR","holes":["BIGINT[]"],"lost":["BIGINT[]"],"coverage":'
    '[{"start":"BIGINT","end":"BIGINT","source":"VARCHAR","source_url":"VARCHAR","sha256":"VARCHAR","checked":"BIGINT"}]}'
)
_PARQUET = "SELECT $names FROM read_parquet($files, hive_partitioning = true, hive_types_autocast = false) AS r"
# A line that a crash has torn is NULL all over here, where else it would hide all the others; every whole one has a run_id.
_JSON = (
    "SELECT $names FROM read_json($files, format = 'newline_delimited', columns = $declared, ignore_errors = true) AS r"
    " WHERE r.run_id IS NOT NULL"
)
_DECODED = {"interval": "CASE r.interval WHEN '1mo' THEN '1M' ELSE r.interval END AS \"interval\""}

# What the ledger takes from elsewhere than coverage: the first and the last row of a file of bars stand in its statistics;
# settlements have no grid, so they are counted; a series of them begins with the first one, and ends a day after the last one,
# unless that contract still trades, and less than a day without any shows neither: they are at most eight hours apart
# (binance-facts 6).
_LEDGER_OF = {
    True: {
        "settled": "",
        "first": "SELECT m.file_name, min(epoch_ms(m.stats_min_value::TIMESTAMP)) AS first,"
        " max(epoch_ms(m.stats_max_value::TIMESTAMP)) + 1 AS past, NULL AS quiet\n  FROM parquet_metadata($files) AS m"
        " WHERE m.path_in_schema = 'open_time' GROUP BY m.file_name",
        "first_of": "r.file_name = p.file_name",
        "bare": "",
        "rows": "c.expected - c.missing",
        "counts": "",
    },
    False: {
        "settled": "settled AS (\n  SELECT s.market, s.symbol, date_trunc('day', s.funding_time) AS cell, count(*) AS rows,"
        " min(epoch_ms(date_trunc('minute', s.funding_time))) AS first, max(epoch_ms(s.funding_time)) + 86400000 AS past\n"
        "  FROM read_parquet($files, hive_partitioning = true, hive_types_autocast = false) AS s\n  GROUP BY ALL\n),\n",
        "first": "SELECT s.market, s.symbol, min(s.first) AS first, max(s.past) - 86400000 AS quiet,\n"
        "    max(CASE WHEN t.symbol IS NULL THEN s.past ELSE $never END) AS past\n  FROM settled AS s LEFT JOIN $symbols AS t"
        " ON t.market = s.market AND t.symbol = s.symbol AND t.status = 'TRADING' AND epoch_ms(t.onboard_time) < s.past\n"
        "  GROUP BY ALL",
        "first_of": "r.market = p.etl.market AND r.symbol = p.etl.symbol",
        "bare": "\n  UNION ALL\n  SELECT b.file, 'bare', b.low, b.high, NULL FROM ("
        "SELECT s.file, s.start AS low, least(s.stop, s.begin) AS high FROM spans AS s UNION ALL "
        "SELECT s.file, greatest(s.start, s.finish - 86400000), s.stop FROM spans AS s) AS b WHERE b.high - b.low >= 86400000",
        "rows": "coalesce(k.rows, 0)",
        "counts": "\nLEFT JOIN settled AS k ON k.market = c.market AND k.symbol = c.symbol AND k.cell = c.cell",
    },
}


def catalog_sql(lake: Path, home: Path | None = None) -> str:
    """The SQL that makes every view and macro of the lake as it is now; a dataset without a file gets a view without rows.

    `home` is where the lake is going to lie, if not where it is. UsageError for a path that DuckDB would misread, LakeError for
    a folder that cannot be read.
    """
    root = lake.resolve()
    home = home.resolve() if home else root
    _check_path(home)
    with looking_at(root):
        sql = _Sql(root, home)
        views = [f"CREATE OR REPLACE VIEW {view} AS\n{sql.select(view)};\n" for view in VIEWS]
        return "\n".join([sql.fill("-- Views and macros of the lake at $here.\n"), *views, *map(sql.macro, MACROS)])


def write_catalog(lake: Path, home: Path | None = None) -> bool:
    """Bring `catalog.duckdb` up to date, and whether that was needed; it is replaced as a whole, so readers never block.

    `home` is where the lake is going to lie, if not where it is. LakeError if a file of the lake cannot be read or the catalog
    cannot be written.
    """
    kept, catalog = lake / "catalog.sql", lake / "catalog.duckdb"
    text = catalog_sql(lake, home)
    with looking_at(kept):
        if catalog.is_file() and kept.is_file() and kept.read_bytes() == text.encode():
            return False
    replace_file(lake, catalog, _database(text, lake.resolve()))
    replace_file(lake, kept, text.encode())
    return True


def unusable_catalog(lake: Path) -> dict[str, str]:
    """The files of the catalog that are gone, cannot be read, or make no view, and why, whichever version wrote them."""
    found = {}
    for name in CATALOG:
        try:
            check_file(lake / name)
            content = (lake / name).read_bytes()
        except LakeError:
            found[name] = "is no regular file"
        except FileNotFoundError:
            found[name] = "is gone"
        except OSError as error:
            found[name] = f"cannot be read ({error.strerror})"
        else:
            if not (content.strip() if name == "catalog.sql" else _has_views(content)):
                found[name] = "makes no view"
    return found


def create_views(connection: duckdb.DuckDBPyConnection, text: str, lake: Path) -> None:
    """Run the text of `catalog_sql` of that lake; LakeError if the file that shows a view its columns cannot be read, and if
    any that it reads is none: DuckDB leaves out a pipe without a word.
    """
    import duckdb  # noqa: PLC0415 - 80 ms that a run whose catalog stands need not pay

    for view in VIEWS:
        if view != "ledger":
            _check_files(lake, _files_of(view).split("/"))
    try:
        connection.execute(text)
    except duckdb.Error as error:
        helps = cure(lake, "move the broken file away, a backfill fetches it anew")
        raise LakeError(f"the views cannot be made: {error}; {helps}") from error


def _check_files(folder: Path, names: Sequence[str]) -> None:
    """LakeError for what has the name of a file below the folder, and is none; sound ones cost no look at themselves."""
    try:
        with os.scandir(folder) as listed:
            entries = [entry for entry in listed if fnmatchcase(entry.name, names[0])]
    except OSError:  # nothing to read there, or who reads it hears of it
        return
    for entry in entries:
        if len(names) > 1:
            _check_files(Path(entry.path), names[1:])
        elif not entry.is_file() and not entry.is_dir():
            check_file(Path(entry.path))


def signature(macro: str) -> str:
    """How the macro is called: its name, its parameters, and what they are if they are left out."""
    found = re.search(r"MACRO (.*) AS TABLE", _template(macro))
    return found[1] if found else macro


def quoted(text: str) -> str:
    """The text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def pattern(path: Path) -> str:
    """The path as DuckDB's pattern for it and nothing else: `[` stands for itself as `[[]`."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in str(path))


def _database(text: str, root: Path) -> bytes:
    """A DuckDB file with those views and macros, made while the lake lies at `root`.

    It has the oldest storage version that holds them, so that an older DuckDB opens it (else 1.5 could not open a file of 2.0),
    and only unqualified names, so that it works under whatever name a reader attaches it.
    """
    import duckdb  # noqa: PLC0415 - as above

    # Not built inside the lake: DuckDB puts the log of a file whose path has a `?` into another folder.
    try:
        with tempfile.TemporaryDirectory() as folder, duckdb.connect() as connection:
            path = Path(folder, "catalog.duckdb")
            connection.execute(f"ATTACH {quoted(str(path))} AS catalog (STORAGE_VERSION 'v1.0.0')")
            connection.execute("USE catalog")
            connection.execute(f"SET VARIABLE lake = {quoted(pattern(root))}")  # it is not kept in the file
            create_views(connection, text, root)
            connection.execute("USE memory")
            connection.execute("DETACH catalog")
            return path.read_bytes()
    except (OSError, duckdb.Error) as error:
        raise LakeError(
            f"the catalog of {root} cannot be made in the folder for temporary files: {error}; TMPDIR names another"
        ) from error


def _has_views(database: bytes) -> bool:
    """Whether it is a DuckDB file with views; asked of a copy, because a client may hold the lock of the file itself."""
    import duckdb  # noqa: PLC0415 - as above

    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "catalog.duckdb")
            path.write_bytes(database)
            with duckdb.connect(str(path), read_only=True) as connection:
                return bool(connection.execute("FROM duckdb_views() WHERE NOT internal LIMIT 1").fetchall())
    except duckdb.Error:
        return False
    except OSError as error:
        raise LakeError(f"the folder for temporary files cannot be used: {error}; TMPDIR names another") from error


def _check_path(root: Path) -> None:
    columns = {name for columns in VIEWS.values() for name in columns}
    for part in root.parts:
        if "\\" in part:
            raise UsageError(f"the lake cannot lie at {root}: DuckDB cannot list a folder with a backslash in its name")
        if "=" in part and part.split("=")[0] in columns:
            raise UsageError(f"the lake cannot lie at {root}: DuckDB would take '{part}' for the value of a column; rename it")


class _Sql:
    """Fills the templates in `sql/` for one lake."""

    def __init__(self, root: Path, home: Path) -> None:
        self.root = root
        bars = registry.DATASETS["klines"]
        self.lake = f"coalesce(getvariable('lake'), {quoted(pattern(home))})"
        self.words = {
            "here": str(home).replace("\n", " "),
            "footer": _FOOTER,
            "never": str(MAX_TIME),
            "between": str(registry.BETWEEN_LIVES),
            "unarchived": "epoch_ms(c.cell) < CASE c.market "
            + " ".join(f"WHEN '{market.name}' THEN {market.archived}" for market in registry.MARKETS.values())
            + " ELSE 0 END",
            "stored": ", ".join(f"b.{column.name}" for column in bars.columns),
            "unknown": ", ".join(
                f"make_timestamp(n.i) AS {name}" if kind == "TIMESTAMP" else f"n.i::{kind} AS {name}"
                for name, kind in _typed(bars.columns).items()
            ),
            "series": f"{self.lake} || '/klines/market=' || url_encode(market) || '/interval=' || url_encode({_IN_PATH})"
            " || '/symbol=' || url_encode(symbol) || '/*.parquet'",
            "step": _steps('"interval"'),
            "width": _widths('"interval"'),
            "to_step": _steps("to_interval"),
            "to_width": _widths("to_interval"),
            "targets": ", ".join(_TARGETS),
            "overlap": "epoch_ms(least(g.gap_end, a.stop)) - epoch_ms(greatest(g.gap_start, a.start))",
            "grids": ", ".join(f"('{i.name}', {i.step}, {i.offset})" for i in registry.INTERVALS.values()),
            "symbols": f"({self.select('symbols')})",
            "funding": f"({self.select('funding')})",
        }

    def fill(self, template: str, **words: str) -> str:
        return _filled(template, **self.words, **words)

    def macro(self, name: str) -> str:
        return self.fill(_template(name))

    def select(self, view: str) -> str:
        """The query of a view. Every column is qualified, because inside a macro a bare name may mean the parameter."""
        if view == "ledger":
            parts = [self.ledger(dataset) for name, dataset in registry.DATASETS.items() if self.holds(name)]
            return "\nUNION ALL\n".join(parts) or _no_rows(view)
        if not self.holds(view):
            return _no_rows(view)
        if view == "runs":
            declared = ", ".join(f"{name}: '{kind}'" for name, kind in VIEWS[view].items())
            return _filled(_JSON, names="r.*", files=self.glob(view), declared=f"{{{declared}}}")
        names = ", ".join(_DECODED.get(name, f"r.{name}") for name in VIEWS[view])
        return _filled(_PARQUET, names=names, files=self.glob(view))

    def ledger(self, dataset: Dataset) -> str:
        found = self.glob(dataset.name)
        parts = {name: self.fill(text, files=found) for name, text in _LEDGER_OF[dataset.has_interval].items()}
        return self.fill(_template("ledger"), dataset=dataset.name, files=found, **parts)

    def glob(self, view: str) -> str:
        return f"{self.lake} || {quoted('/' + _files_of(view))}"

    def holds(self, view: str) -> bool:
        """Whether a file is there: a view over none cannot be made."""
        return next(self.root.glob(_files_of(view)), None) is not None


_IN_PATH = "CASE \"interval\" WHEN '1M' THEN '1mo' ELSE \"interval\" END"
_TARGETS = {interval.name: interval.step for interval in registry.INTERVALS.values()} | {"3d": 3 * DAY}


def _steps(name: str) -> str:
    cases = " ".join(f"WHEN '{target}' THEN {step}" for target, step in _TARGETS.items() if step)
    return f"(CASE {name} {cases} END)"


def _widths(name: str) -> str:
    return f"(CASE {name} WHEN '1M' THEN INTERVAL 1 MONTH ELSE to_milliseconds({_steps(name)}) END)"


def _files_of(view: str) -> str:
    """Where the files of a view lie, of fixed depth: `**` would list quarantine and snapshots too."""
    if view == "runs":
        return "runs/*.jsonl"
    if view == "symbols":
        return "symbols/market=*/symbols.parquet"
    return f"{view}/market=*/{'interval=*/' if registry.DATASETS[view].has_interval else ''}symbol=*/*.parquet"


def _filled(template: str, **words: str) -> str:
    return Template(template).substitute(words)


def _no_rows(view: str) -> str:
    return f"SELECT {', '.join(f'NULL::{kind} AS {name}' for name, kind in VIEWS[view].items())} WHERE false"


def _template(name: str) -> str:
    return (files(__package__) / "sql" / f"{name}.sql").read_text(encoding="utf-8")
