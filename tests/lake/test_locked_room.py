"""`etl sql` is a locked room: what tries to leave it, to write in it or to learn of the machine outside is refused."""

import io
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from etl.errors import LakeError, UsageError
from etl.lake.query import connect, run, write_result

from .test_views import fill

CANARY = "canary-4711"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the lake that holds the canary in every form that DuckDB reads."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret.csv").write_text(f"a\n{CANARY}\n")
    (folder / "secret.json").write_text(json.dumps({"a": CANARY}))
    with duckdb.connect(folder / "secret.duckdb") as connection:
        connection.execute(f"CREATE TABLE t AS SELECT '{CANARY}' AS a")
        connection.execute(f"COPY t TO '{folder}/secret.parquet'")
    return folder


@pytest.fixture
def lake(tmp_path: Path, outside: Path) -> Path:
    """A lake with something in every view, and with links that lead out of it."""
    folder = tmp_path / "lake"
    folder.mkdir()
    fill(folder)
    (folder / "folder").symlink_to(outside)
    for kind in ("csv", "json", "duckdb", "parquet"):
        (folder / f"link.{kind}").symlink_to(outside / f"secret.{kind}")
    return folder


def answer(lake: Path, sql: str) -> str:
    out = io.BytesIO()
    with run(lake, sql) as result:
        write_result(result, "json", out)
    return out.getvalue().decode()


def files_below(folder: Path) -> set[tuple[str, int, int]]:
    """Every file with its size and the time of its last change."""
    return {(str(path), path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*")}


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    before = files_below(folder)
    yield
    assert files_below(folder) == before


MADE = "COPY (SELECT 1) TO '{lake}/made.csv'"

OTHER_FILES = [
    "FROM '{outside}/secret.csv'",
    'FROM "{outside}/secret.parquet"',
    "FROM '{outside}/secret.duckdb'",
    "FROM '../outside/secret.csv'",
    "FROM 'outside/secret.csv'",
    "FROM '{lake}/link.csv'",
    "FROM '{lake}/link.duckdb'",
    "FROM read_csv('{lake}/../outside/secret.csv')",
    "FROM read_csv('{lake}/klines/../../outside/secret.csv')",
    "FROM read_csv('{lake}x/secret.csv')",
    "FROM read_csv('file://{outside}/secret.csv')",
    "FROM read_csv('file:{outside}/secret.csv')",
    "FROM read_csv('file://localhost{outside}/secret.csv')",
    "FROM read_csv('file://{lake}/../outside/secret.csv')",
    "FROM read_csv('{lake}/fol*/secret.csv')",
    "FROM read_csv('{lake}/*.csv')",
    "FROM read_csv_auto('{lake}/link.csv')",
    "FROM read_csv(chr(47) || 'etc/passwd')",
    "FROM read_csv(getvariable('lake') || '/../outside/secret.csv')",
    "FROM read_json('{lake}/link.json')",
    "FROM read_ndjson_objects('{lake}/folder/secret.json')",
    "FROM read_text(['{lake}/lake.json', '{outside}/secret.csv'])",
    "FROM read_text('{lake}/./link.csv')",
    "FROM read_text('{lake}//link.csv')",
    "FROM read_blob('/proc/self/environ')",
    "FROM read_blob('{lake}/../../../../../../proc/self/environ')",
    "FROM read_csv('/dev/stdin')",
    "FROM read_duckdb('{outside}/secret.duckdb', table_name := 't')",
    "FROM read_duckdb('{lake}/link.duckdb', table_name := 't')",
    "FROM read_parquet('{lake}/link.parquet')",
    "FROM read_parquet(['{lake}/link.parquet'])",
    "FROM parquet_scan('{lake}/folder/secret.parquet')",
    "FROM parquet_schema('{lake}/link.parquet')",
    "FROM parquet_metadata('{lake}/link.parquet')",
    "FROM parquet_kv_metadata('{outside}/secret.parquet')",
    "FROM parquet_file_metadata('{lake}/folder/secret.parquet')",
    "FROM parquet_bloom_probe('{lake}/link.parquet', 'a', 'x')",
    "FROM sniff_csv('{lake}/link.csv')",
    "FROM glob('{outside}/*')",
    "FROM glob('{lake}/../outside/*')",
    "FROM glob('*')",
    "FROM query_table('{outside}/secret.csv')",
    "FROM query_table(['{lake}/link.csv'])",
    "SUMMARIZE '{outside}/secret.csv'",
    "DESCRIBE '{outside}/secret.csv'",
    "SUMMARIZE FROM read_csv('{lake}/link.csv')",
    "SELECT (SELECT a FROM '{outside}/secret.csv')",
    "SELECT * FROM klines, LATERAL read_text('{outside}/secret.csv')",
    "WITH s AS MATERIALIZED (FROM '{outside}/secret.csv') FROM s",
    "EXPLAIN ANALYZE FROM '{outside}/secret.csv'",
    "EXPLAIN FROM read_text('{lake}/link.csv')",
    "FROM bars('../../../../outside', '1m')",
    "FROM bars('BTCUSDT', '1m', market := '../../../outside')",
]

STATEMENTS = [
    MADE,
    "COPY klines TO '{outside}/made.parquet'",
    "COPY klines FROM '{outside}/secret.csv'",
    "COPY FROM DATABASE memory TO made",
    "ATTACH '{outside}/secret.duckdb' AS made",
    "ATTACH '{lake}/made.duckdb' AS made",
    "ATTACH '{lake}/catalog.duckdb' AS made (READ_ONLY)",
    "ATTACH ':memory:' AS made",
    "DETACH memory",
    "USE memory",
    "INSTALL httpfs",
    "FORCE INSTALL httpfs",
    "LOAD httpfs",
    "LOAD '{lake}/made.duckdb_extension'",
    "UPDATE EXTENSIONS",
    "SET lock_configuration = false",
    "SET GLOBAL enable_external_access = true",
    "SET SESSION allowed_directories = ['/']",
    "SET temp_directory = '{outside}'",
    "SET VARIABLE lake = '{outside}'",
    "RESET lock_configuration",
    "PRAGMA enable_profiling = 'json'",
    "PRAGMA database_list",
    "PRAGMA import_database('{outside}')",
    "CALL pragma_version()",
    "CALL query('SELECT 1')",
    "CALL enable_logging(storage := 'file', storage_path := '{lake}/made')",
    "EXPORT DATABASE '{lake}/made'",
    "IMPORT DATABASE '{outside}'",
    "CREATE TABLE made AS SELECT 1",
    "CREATE TEMP TABLE made AS SELECT 1",
    "CREATE OR REPLACE VIEW klines AS SELECT 1",
    "CREATE MACRO made() AS 1",
    "CREATE PERSISTENT SECRET (TYPE s3)",
    "INSERT INTO klines VALUES (1)",
    "UPDATE klines SET close = 0",
    "DELETE FROM klines",
    "MERGE INTO klines USING klines AS k ON true WHEN MATCHED THEN DELETE",
    "TRUNCATE klines",
    "DROP VIEW klines",
    "ALTER VIEW klines RENAME TO made",
    "COMMENT ON VIEW klines IS 'made'",
    "PREPARE made AS SELECT 1",
    "EXECUTE made",
    "DEALLOCATE made",
    "BEGIN",
    "CHECKPOINT",
    "VACUUM",
    "ANALYZE",
    "SELECT 1; SELECT 2",
    f"SELECT 1; {MADE}",
    f"{MADE}; SELECT 1",
    f"SELECT 1 /* ; */ ; {MADE}",
    f"SELECT 1 -- \n; {MADE}",
    f"SELECT 1 --\r; {MADE}",
    f"SELECT $$;$$; {MADE}",
    f"EXPLAIN SELECT 1; {MADE}",
    f"SELECT 1\0; {MADE}",
    "",
    ";",
    "-- nothing",
    "/* nothing */",
]

WRITING_QUERIES = [
    f"WITH made AS ({MADE}) SELECT 1",
    f"WITH made AS MATERIALIZED ({MADE}) SELECT 1",
    f"WITH RECURSIVE made AS ({MADE}) SELECT 1",
    "WITH made AS (INSERT INTO klines VALUES (1) RETURNING *) FROM made",
    "WITH made AS (DELETE FROM klines RETURNING *) FROM made",
    f"SELECT * FROM ({MADE})",
    f"SELECT * FROM (WITH made AS ({MADE}) SELECT 1)",
    f"SELECT EXISTS (WITH made AS ({MADE}) SELECT 1)",
    f"VALUES ((WITH made AS ({MADE}) SELECT 1))",
    f"SELECT 1 UNION ALL (WITH made AS ({MADE}) SELECT 1)",
    f"DESCRIBE {MADE}",
    f"SUMMARIZE WITH made AS ({MADE}) SELECT 1",
    f"FROM (SUMMARIZE WITH made AS ({MADE}) SELECT 1)",
    f"PIVOT (WITH made AS ({MADE}) SELECT 1 AS a) ON a",
    "SELECT 1 AS a INTO made",
]

EXPLAINED = [
    f"EXPLAIN {MADE}",
    f"EXPLAIN ANALYZE {MADE}",
    f"explain analyze {MADE}",
    f"EXPLAIN (ANALYZE) {MADE}",
    f"EXPLAIN (ANALYZE, FORMAT json) {MADE}",
    f"EXPLAIN ANALYZE -- x\n {MADE}",
    f"EXPLAIN --\n ANALYZE {MADE}",
    f"EXPLAIN /* SELECT 1 */ ANALYZE {MADE}",
    f"/**/ EXPLAIN ANALYZE {MADE}",
    f"EXPLAIN ANALYZE EXPLAIN ANALYZE {MADE}",
    f"EXPLAIN (FORMAT /*) SELECT '*/ json) ANALYZE {MADE} --'",
    # To DuckDB a carriage return ends a comment: what follows it is the statement, and the rest an option's text.
    "--\rEXPLAIN ANALYZE COPY (SELECT 1) TO '{lake}/made.csv' (FORMAT csv, NULLSTR '\nEXPLAIN SELECT 1 -- ')",
    "EXPLAIN --\rANALYZE COPY (SELECT 1) TO '{lake}/made.csv' (FORMAT csv, NULLSTR '\nSELECT 1 -- ')",
    f"EXPLAIN ANALYZE (WITH made AS ({MADE}) SELECT 1)",
    f"EXPLAIN ANALYZE WITH made AS ({MADE}) SELECT 1",
    "EXPLAIN ANALYZE ATTACH '{lake}/made.duckdb' AS made",
    "EXPLAIN ANALYZE EXPORT DATABASE '{lake}/made'",
    "EXPLAIN ANALYZE SET lock_configuration = false",
    "EXPLAIN ANALYZE INSTALL httpfs",
    f"EXPLAIN ANALYZE PREPARE made AS {MADE}",
    "EXPLAIN ANALYZE CALL enable_logging(storage := 'file', storage_path := '{lake}/made')",
    "EXPLAIN ANALYZE FROM enable_profiling(save_location := '{lake}/made.json')",
]

FUNCTIONS = [
    "FROM query('SELECT 1')",
    "FROM QUERY('SELECT 1')",
    "FROM system.main.\"QuErY\"('SELECT 1')",
    "SELECT * FROM klines, LATERAL query('SELECT 1')",
    "FROM (DESCRIBE FROM query('SELECT 1'))",
    "FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
    "SELECT json_serialize_plan('SELECT 1')",
    "SELECT write_log('made')",
    "SELECT getenv('CANARY')",
    "SELECT nextval('made')",
    "FROM enable_logging(storage := 'file', storage_path := '{lake}/made')",
    "FROM ENABLE_LOGGING('QueryLog', storage := 'file', storage_path := '{lake}/made')",
    "FROM enable_profiling(save_location := '{lake}/made.json')",
    "FROM disable_logging()",
    "FROM truncate_duckdb_logs()",
    "FROM checkpoint()",
    "FROM force_checkpoint()",
    "FROM arrow_scan(1, 2, 3)",
    "FROM pandas_scan(1)",
    "FROM python_map_function(1)",
    "FROM duckdb_secrets()",
    "FROM which_secret('s3://made', 's3')",
    "FROM register_external_resource_type('made', kind := 'x', create_function := 'query')",
    "FROM create_external_resource('made')",
    "FROM a_function_of_a_later_version()",
]


@pytest.mark.parametrize("sql", [*OTHER_FILES, *STATEMENTS, *WRITING_QUERIES, *EXPLAINED, *FUNCTIONS])
def test_the_room_stays_locked(lake, outside, tmp_path, monkeypatch, sql):
    monkeypatch.chdir(tmp_path)
    sql = sql.replace("{lake}", str(lake)).replace("{outside}", str(outside))
    with unchanged(tmp_path), pytest.raises((UsageError, LakeError)) as error:
        answer(lake, sql)
    assert CANARY not in str(error.value)


def test_python_variables_are_no_tables(lake):
    mine = duckdb.sql(f"SELECT '{CANARY}' AS a").to_arrow_table()
    assert duckdb.sql("FROM mine").fetchall() == [(CANARY,)]  # elsewhere they are
    with pytest.raises(UsageError, match="mine does not exist"):
        answer(lake, "FROM mine")
    assert mine.num_rows == 1


def test_a_linked_file_in_place_of_data_is_not_followed(lake, outside):
    folder = lake / "klines" / "market=um" / "interval=1m" / "symbol=EVIL"
    folder.mkdir(parents=True)
    (folder / "2024.parquet").symlink_to(outside / "secret.parquet")
    for sql in ("FROM bars('EVIL', '1m')", "FROM klines"):
        with pytest.raises(UsageError, match="and nothing else") as error:
            answer(lake, sql)
        assert CANARY not in str(error.value)


@pytest.mark.parametrize("scheme", ["http", "https", "s3", "hf", "gcs", "az", "ftp"])
@pytest.mark.parametrize(
    "ask", ["'{url}'", "read_csv('{url}')", "read_parquet('{url}')", "read_text('{url}')", "glob('{url}')"]
)
def test_nobody_is_called(lake, scheme, ask):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(UsageError):
            answer(lake, f"FROM {ask.format(url=f'{scheme}://{host}/x.csv')}")
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody waits to be accepted
            listener.accept()


ENVIRONMENT = {
    "HTTP_PROXY": f"http://user:{CANARY}@127.0.0.1:9",
    "HTTPS_PROXY": f"http://user:{CANARY}@127.0.0.1:9",
    "ETL_UM_URL": f"https://user:{CANARY}@127.0.0.1:9",
    "AWS_SECRET_ACCESS_KEY": CANARY,
    "MOTHERDUCK_TOKEN": CANARY,
    "CANARY": CANARY,
}


@pytest.fixture
def etl_sql(lake: Path, tmp_path: Path):
    """Runs `etl sql` as a user with secrets in the environment would."""

    def run(*arguments: str, stdin: str | bytes = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "etl", "sql", *arguments, "--lake", str(lake)],
            cwd=tmp_path,
            env={**os.environ, **ENVIRONMENT},
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            timeout=60,
            check=False,
        )

    (lake / "lake.json").write_text('{"format": 1, "network": "mainnet", "partition": "year"}\n')
    return run


@pytest.mark.parametrize(
    "sql",
    [
        "FROM read_blob('/proc/self/environ')",
        "FROM '{lake}/link.csv'",
        "EXPLAIN ANALYZE " + MADE,
        "--\rEXPLAIN ANALYZE COPY (SELECT 1) TO '{lake}/made.csv' (FORMAT csv, NULLSTR '\nEXPLAIN SELECT 1 -- ')",
        "WITH made AS (" + MADE + ") SELECT 1",
        "UPDATE EXTENSIONS",
        "SET lock_configuration = false",
        "SELECT '" + "\ud800" + "'",
    ],
)
def test_the_command_refuses_with_exit_2(etl_sql, lake, tmp_path, sql):
    sql = sql.replace("{lake}", str(lake))
    with unchanged(tmp_path):
        finished = etl_sql("-", stdin=sql.encode(errors="surrogatepass"))
    assert (finished.returncode, finished.stdout) == (2, b""), finished.stderr
    assert finished.stderr.startswith(b"etl: ")
    assert b"this is a bug" not in finished.stderr
    assert CANARY.encode() not in finished.stderr


def test_a_deeply_nested_query_is_answered_or_refused(etl_sql):
    finished = etl_sql("-", stdin=b"SELECT " + b" + ".join([b"1"] * 900) + b" AS found")
    if finished.returncode:  # up to Python 3.11, whose JSON ends at a depth of 1,000
        assert (finished.returncode, finished.stdout) == (2, b"")
        assert finished.stderr == b"etl: this query is nested too deeply for etl sql\n"
    else:
        assert finished.stdout.split() == [b"found", b"900"]


def test_an_argument_that_is_no_text_is_a_mistake_of_usage(etl_sql):
    finished = etl_sql(os.fsdecode(b"SELECT '\xff'"))
    assert finished.returncode == 2, finished.stderr
    assert b"this is a bug" not in finished.stderr


def test_settings_tell_nothing_of_the_environment(etl_sql):
    finished = etl_sql("SELECT name, value FROM duckdb_settings()", "--json")
    settings = {row["name"]: row["value"] for row in json.loads(finished.stdout)}
    assert settings["enable_external_access"] == "false"
    assert settings["lock_configuration"] == "true"
    assert CANARY.encode() not in finished.stdout
    assert CANARY.encode() not in etl_sql("SELECT current_setting('http_proxy')").stdout


def test_questions_to_the_lake_are_answered_all_the_same(lake):
    allowed = {
        "SELECT count(*) AS n FROM klines": [{"n": 1440}],
        "/* a */ SELECT 1 AS n -- b": [{"n": 1}],
        "FROM range(2) AS r(n)": [{"n": 0}, {"n": 1}],
        "SELECT unnest([1, 2]) AS n": [{"n": 1}, {"n": 2}],
        "SELECT count(*) AS n FROM bars('BTCUSDT', '1m')": [{"n": 1440}],
        f"SELECT count(*) AS n FROM read_parquet('{lake}/klines/*/*/*/*.parquet')": [{"n": 1440}],
        f"SELECT count(*) AS n FROM glob('{lake}/klines/**/*.parquet')": [{"n": 1}],
        f"SELECT DISTINCT num_rows AS n FROM parquet_file_metadata('{lake}/klines/*/*/*/*.parquet')": [{"n": 1440}],
        "SELECT DISTINCT table_name AS n FROM duckdb_columns() WHERE table_name = 'funding'": [{"n": "funding"}],
    }
    for sql, rows in allowed.items():
        assert json.loads(answer(lake, sql)) == rows, sql
    for sql in (
        "EXPLAIN SELECT max(close) FROM klines",
        "EXPLAIN -- why\n ANALYZE SELECT close FROM klines LIMIT 1;",
        "EXPLAIN (ANALYZE, FORMAT json) (FROM klines)",
        "/* why */ EXPLAIN SELECT 1",
        "--\rEXPLAIN SELECT 1",
    ):
        assert "explain_value" in answer(lake, sql), sql


def test_what_outgrows_the_memory_goes_to_a_folder_that_is_removed(lake, tmp_path, monkeypatch):
    elsewhere = tmp_path / "temporary"
    elsewhere.mkdir()
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    monkeypatch.setattr(tempfile, "tempdir", None)  # read anew from the environment
    monkeypatch.chdir(tmp_path)
    with unchanged(lake):
        connection = connect(lake)
        connection.execute("SET memory_limit = '60MB'")
        rows = connection.execute("SELECT i, hash(i)::VARCHAR AS h FROM range(3_000_000) AS r(i) ORDER BY h")
        assert len(rows.fetchmany(10)) == 10
        (folder,) = elsewhere.iterdir()
        assert list(folder.iterdir())
        connection.close()
    assert not list(elsewhere.iterdir())
