"""Frozen states of a lake: what they hold, that they stay, that they are whole or not there, and in what they differ."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl import pipeline, verify
from etl.errors import Cancelled, Damaged, EtlError, LakeError, LakeLocked, UsageError
from etl.lake import snapshots
from etl.lake.query import connect, load, run, universe
from etl.lake.store import Store
from etl.lake.symbols import Symbols
from etl.lake.views import write_catalog
from etl.model import Coverage, Partition, Series
from etl.ranges import DAY, HOUR, MINUTE, TimeRange, parse_time, years
from etl.schema import arrow_schema

from .test_store import bars
from .test_views import write_run, write_symbols

BTC = Series("um", "klines", "BTCUSDT", "1m")
ETH = Series("um", "klines", "ETHUSDT", "1m")
FUNDING = Series("um", "funding", "BTCUSDT")
START = parse_time("2024-01-01")
CHECKED = parse_time("2024-06-01")


def put(store: Store, series: Series, rows: pa.Table, start: int = START, end: int | None = None) -> Path:
    """Replace the partition of `start` as a run would: covered from start to end, a day by default."""
    name, period = next(years(TimeRange(start, start + 1)))
    partition = Partition(series, name, period)
    store.replace(partition, rows, (Coverage(TimeRange(start, end or start + DAY), "rest", CHECKED),), ())
    return store.path(partition)


def settlements(*rows: tuple[int, float, str | None]) -> pa.Table:
    """Settlements of (ms after the start, rate, rate type)."""
    columns = [
        [START + late for late, _, _ in rows],
        [rate for _, rate, _ in rows],
        [None] * len(rows),
        [k for _, _, k in rows],
    ]
    schema = arrow_schema("funding")
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """BTCUSDT: three minutes of 2024 and two settlements; ETHUSDT: two minutes; rules of BTCUSDT; one run."""
    store = Store.open(tmp_path / "lake", network="mainnet", layout="year")
    store.create("mainnet")
    put(store, BTC, bars(range(START, START + 3 * MINUTE, MINUTE)))
    put(store, ETH, bars(range(START, START + 2 * MINUTE, MINUTE)))
    put(store, FUNDING, settlements((0, 0.0001, None), (8 * HOUR, 0.0002, None)), end=START + 2 * DAY)
    write_symbols(store.root, {"symbol": "BTCUSDT", "first_time": START})
    write_run(store.root, run_id="one", command="backfill")
    write_catalog(store.root)
    return store


def tree(folder: Path) -> dict[str, str]:
    """The digest of every file, by path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def left_over(store: Store) -> list[Path]:
    """What lies where files and snapshots are made."""
    return [path for lake in (store.root, store.root / "snapshots") for path in (lake / ".tmp").rglob("*")]


HELD = {
    "funding/market=um/symbol=BTCUSDT/2024.parquet": 2,
    "klines/market=um/interval=1m/symbol=BTCUSDT/2024.parquet": 3,
    "klines/market=um/interval=1m/symbol=ETHUSDT/2024.parquet": 2,
    "lake.json": None,
    "runs/2024-01.jsonl": None,
    "symbols/market=um/symbols.parquet": None,
}


# ---- create


def test_a_snapshot_is_the_lake_in_links_with_a_manifest(store):
    snapshots.create(store, "2024-q1")
    folder = store.root / "snapshots" / "2024-q1"
    digests = tree(folder)
    assert set(digests) == {*HELD, "catalog.duckdb", "catalog.sql", "manifest.json"}
    for path in HELD:
        assert (folder / path).samefile(store.root / path)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {name: value for name, value in manifest.items() if name != "files"} == {
        "format": 1,
        "name": "2024-q1",
        "as_of": "2024-01-03T00:00:00Z",
        "network": "mainnet",
        "partition": "year",
    }
    assert {file["path"]: file for file in manifest["files"]} == {
        path: {"path": path, "bytes": (folder / path).stat().st_size, "rows": rows, "sha256": digests[path]}
        for path, rows in HELD.items()
    }
    assert left_over(store) == []


def test_what_is_stored_later_does_not_reach_it(store):
    before = tree(store.root)
    snapshots.create(store, "a")
    folder = store.root / "snapshots" / "a"
    frozen = tree(folder)
    answers = [load(folder, "klines", "BTCUSDT", "1m"), universe(folder, START)]
    put(store, BTC, bars(range(START, START + 5 * MINUTE, MINUTE), price=9.0))
    put(store, BTC, bars([parse_time("2025-01-01")]), parse_time("2025-01-01"))
    store.set_aside(put(store, ETH, bars([START])))
    (store.root / "symbols").rename(store.root / "gone")
    write_symbols(store.root, {"symbol": "NEWUSDT", "first_time": START})
    write_catalog(store.root)
    assert tree(folder) == frozen
    assert {path: frozen[path] for path in HELD} == {path: before[path] for path in HELD}
    for was, now in zip(answers, [load(folder, "klines", "BTCUSDT", "1m"), universe(folder, START)], strict=True):
        assert now.equals(was)
        assert len(now)
    assert len(load(store.root, "klines", "BTCUSDT", "1m")) == 6
    assert universe(store.root, START)["symbol"].tolist() == ["NEWUSDT"]


@pytest.mark.parametrize("relative", [True, False])
def test_a_partition_that_is_a_link_is_frozen_too(store, relative):
    """What it leads to is, under the name of the partition: the link itself would lead nowhere, or to what changes."""
    path = next(store.root.rglob("*.parquet"))
    rows = pq.read_table(path, partitioning=None)
    path.rename(far := store.root.parent / "far.parquet")
    path.symlink_to(os.path.relpath(far, path.parent) if relative else far)
    frozen = snapshots.create(store, "a")
    copy = frozen.folder / path.relative_to(store.root)
    assert not copy.is_symlink()
    assert copy.samefile(far)
    far.unlink()
    assert pq.read_table(copy, partitioning=None) == rows
    assert snapshots.verify(store.root, "a") == []


def test_the_same_lake_gives_the_same_manifest_linked_or_copied(store):
    def refused(source: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    manifest = store.root / "snapshots" / "a" / "manifest.json"
    snapshots.create(store, "a")
    linked = manifest.read_bytes()
    snapshots.drop(store, "a")
    snapshots.create(store, "a", link=refused)
    assert manifest.read_bytes() == linked
    for path in HELD:
        assert (manifest.parent / path).read_bytes() == (store.root / path).read_bytes()
        assert not (manifest.parent / path).samefile(store.root / path)
    assert snapshots.verify(store.root, "a") == []


def test_what_went_bad_since_the_former_snapshot_is_not_frozen_as_good(store):
    snapshots.create(store, "a")
    file = store.root / "klines/market=um/interval=1m/symbol=BTCUSDT/2024.parquet"
    content = bytearray(file.read_bytes())
    content[10] ^= 1
    file.write_bytes(content)  # in place, as no run does, but a disk may
    snapshots.create(store, "b")
    assert [found["path"] for found in snapshots.verify(store.root, "b")] == [str(file.relative_to(store.root))]


@pytest.mark.parametrize("name", ["", ".", "..", ".a", "a/b", "a b", "ä", "a\n", "a\0", "a=b", "now", "x" * 201])
def test_a_name_that_is_no_folder_everywhere_is_refused(store, name):
    with pytest.raises(UsageError, match="cannot be named"):
        snapshots.create(store, name)
    assert not (store.root / "snapshots").exists()


def test_a_name_is_given_once(store):
    snapshots.create(store, "Q1")
    for name in ("Q1", "q1"):
        with pytest.raises(UsageError, match="a snapshot 'Q1' already"):
            snapshots.create(store, name)
    assert snapshots.names(store.root) == ["Q1"]


def test_who_writes_is_waited_for(store):
    with store.lock():
        with pytest.raises(LakeLocked):
            snapshots.create(store, "a")
        with pytest.raises(Cancelled):
            snapshots.create(store, "a", wait=60, sleep=lambda _: True)
    assert snapshots.names(store.root) == []


def test_a_damaged_partition_is_told_and_not_frozen(store):
    file = put(store, ETH, bars([START]))
    file.write_bytes(b"torn")
    with pytest.raises(Damaged, match=r"ETHUSDT/2024\.parquet .* etl repair"):
        snapshots.create(store, "a")
    assert snapshots.names(store.root) == []


def test_an_end_half_way_leaves_nothing(store):
    calls: list[float] = []

    def third(seconds: float) -> bool:
        calls.append(seconds)
        return len(calls) == 3

    with pytest.raises(Cancelled, match="nothing was done"):
        snapshots.create(store, "a", sleep=third)
    assert snapshots.names(store.root) == []
    assert left_over(store) == []


def test_a_full_disk_leaves_nothing(store):
    def full(source: Path, target: Path) -> None:
        target.mkdir()  # neither a link nor a copy can have that name
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(LakeError, match="the snapshot a cannot be written"):
        snapshots.create(store, "a", link=full)
    assert snapshots.names(store.root) == []
    assert left_over(store) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from etl.lake import snapshots
from etl.lake.store import Store
left = int(sys.argv[2])
def link(source, target):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    os.link(source, target)
snapshots.create(Store.open(Path(sys.argv[1]), network="mainnet", layout="year"), sys.argv[3], link=link)
"""


@pytest.mark.parametrize("links", [0, 4])
def test_a_killed_create_leaves_nothing_that_is_seen(store, links):
    before = tree(store.root)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(store.root), str(links), "a"], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert len(left_over(store)) > links  # it was under way
    assert snapshots.names(store.root) == []
    snapshots.create(store, "a")
    assert snapshots.verify(store.root, "a") == []
    assert left_over(store) == []
    after = tree(store.root)
    assert {path: after[path] for path in HELD} == {path: before[path] for path in HELD}


def test_it_is_made_on_the_file_system_where_it_is_to_lie(store):
    made = []

    def link(source: Path, target: Path) -> None:
        made.append(target.relative_to(store.root).parts[:2])
        os.link(source, target)

    snapshots.create(store, "a", link=link)
    assert set(made) == {("snapshots", ".tmp")}


@pytest.fixture
def elsewhere(tmp_path):
    """A folder on another file system, which Linux has in memory."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK) or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system to write to")
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


def test_snapshots_may_lie_on_another_file_system(store, elsewhere):
    (store.root / "snapshots").symlink_to(elsewhere)
    snapshots.create(store, "a")
    assert snapshots.verify(store.root, "a") == []
    with connect(elsewhere / "a") as connection:
        assert connection.execute("SELECT count(*) FROM klines").fetchone() == (5,)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(store.root), "4", "b"], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert len(left_over(store)) > 4
    assert snapshots.names(store.root) == ["a"]
    snapshots.drop(store, "a")
    assert snapshots.names(store.root) == left_over(store) == []


# ---- beside the lake


def test_the_lake_does_not_see_its_snapshots(store):
    def seen() -> tuple:
        found = verify.verify(store, lambda _: True)
        with connect(store.root) as connection:
            counts = [connection.execute(f"SELECT count(*) FROM {view}").fetchone() for view in ("klines", "ledger", "runs")]
        return pipeline.status(store, CHECKED), list(store.series()), found.files, found.rows, counts

    before = seen()
    assert before[2:4] == (3, 7)
    snapshots.create(store, "a")
    assert seen() == before


def test_a_snapshot_is_a_lake_that_nobody_writes(store):
    snapshots.create(store, "a")
    frozen = Store.open(store.root / "snapshots" / "a", network="mainnet", layout="month")
    assert frozen.layout == "year"
    assert [file.rows for series in frozen.series() for file in frozen.files(series)] == [3, 2, 2]
    before = tree(frozen.root)
    for write in (
        lambda: pipeline.rebuild(frozen),
        lambda: snapshots.create(frozen, "b"),
        lambda: snapshots.planned(frozen, "b"),
    ):
        with pytest.raises(UsageError, match="is a snapshot, which is never changed"):
            write()
    assert tree(frozen.root) == before


PLAIN = """
import sys, duckdb
with duckdb.connect(sys.argv[1], read_only=True) as connection:
    print(connection.execute("SELECT max(close) FROM bars('BTCUSDT', '1m')").fetchone()[0])
"""


def plain(catalog: Path, folder: Path) -> str:
    """What a plain DuckDB says, from a working directory elsewhere."""
    asked = [sys.executable, "-c", PLAIN, str(catalog)]
    return subprocess.run(asked, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def test_its_own_catalog_reads_it_also_after_the_lake_was_moved(store, tmp_path):
    snapshots.create(store, "a")
    put(store, BTC, bars([START], price=77.0).set_column(4, "close", pa.array([77.0])))
    assert plain(store.root / "snapshots" / "a" / "catalog.duckdb", tmp_path) == "1.25"
    write_catalog(store.root)
    assert plain(store.root / "catalog.duckdb", tmp_path) == "77.0"
    moved = Store.open(store.root.rename(tmp_path / "moved"), network="mainnet", layout="year")
    pipeline.rebuild(moved)
    assert plain(moved.root / "snapshots" / "a" / "catalog.duckdb", tmp_path) == "1.25"
    assert snapshots.verify(moved.root, "a") == []
    assert not (moved.root / "snapshots" / "a" / ".tmp").exists()


KLINES = "klines/market=um/interval=1m/symbol=BTCUSDT/2024.parquet"
KEPT = "restore it from a backup, or drop the snapshot$"


def broken(store: Store, path: str, content: bytes = b"torn") -> Path:
    """The file of snapshot `a`, broken there alone."""
    file = store.root / "snapshots" / "a" / path
    file.unlink()
    file.write_bytes(content)
    return file


@pytest.mark.parametrize(
    "ask",
    [
        lambda lake: list(Store(lake, "year").files(BTC)),
        lambda lake: Store(lake, "year").rows(Partition(BTC, "2024", TimeRange(START, START + 366 * DAY))),
        lambda lake: load(lake, "klines", "BTCUSDT", "1m"),
        lambda lake: run(lake, "FROM klines").close(),
        connect,
    ],
)
def test_the_cure_of_a_broken_file_is_one_that_a_snapshot_has(store, ask):
    snapshots.create(store, "a")
    file = broken(store, KLINES)
    with pytest.raises(LakeError, match=KEPT) as error:
        ask(file.parents[4])
    assert "2024.parquet" in str(error.value)
    assert "repair" not in str(error.value)
    assert "fetches" not in str(error.value)


def test_the_cure_of_broken_rules_is_one_that_a_snapshot_has(store):
    snapshots.create(store, "a")
    broken(store, "symbols/market=um/symbols.parquet")
    with pytest.raises(LakeError, match=rf"symbols\.parquet .*{KEPT}"):
        Symbols(store.root / "snapshots" / "a", "um").rows()


# ---- list, verify, drop


def test_the_list_says_what_each_holds_and_alone(store):
    assert snapshots.listing(store.root) == []
    snapshots.create(store, "b")
    old = (store.root / "klines/market=um/interval=1m/symbol=BTCUSDT/2024.parquet").stat().st_size
    sizes = sum((store.root / path).stat().st_size for path in HELD)
    put(store, BTC, bars([START]))
    snapshots.create(store, "a")
    rows = snapshots.listing(store.root)
    assert [(row["name"], row["files"], row["rows"], row["own_bytes"]) for row in rows] == [("a", 6, 5, 0), ("b", 6, 7, old)]
    assert rows[1]["bytes"] == sizes
    assert rows[1]["as_of"] == "2024-01-03T00:00:00Z"
    made = (store.root / "snapshots" / "b" / "manifest.json").stat().st_mtime
    assert parse_time(rows[1]["created"]) == int(made) * 1000


def manifest(as_of: object = None, path: object = "lake.json", **fields: object) -> bytes:
    """A manifest of one file, which is right but for what is given."""
    file = {"path": path, "bytes": 70, "rows": None, "sha256": "0" * 64} | fields
    return json.dumps({"format": 1, "name": "a", "as_of": as_of, "files": [file]}).encode()


UNREADABLE = [
    *(
        b"",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b"\xff",
        b'{"format": 9}',
        b'{"format": "1"}',
        b'{"format": null}',
        b'{"format": true}',
    ),
    *(b'{"format": 1, "as_of": null, "files": [{}]}', b'{"format": 1, "as_of": null, "files": {"path": 1}}'),
    *(manifest(as_of=value) for value in (5, True, [], "", "yesterday", "9" * 5000)),
    *(
        manifest(path=value)
        for value in (None, 5, "", "a\0b", "/etc/passwd", "..", "../../../etc", "a/../../b", "a//b", "./a", "a/")
    ),
    *(manifest(bytes=value) for value in (None, "x", -1, 1.5, True)),
    *(manifest(rows=value) for value in ("x", -1, 1.5, True, [])),
    *(manifest(sha256=value) for value in (None, 5, [])),
]


@pytest.mark.parametrize(
    "content", [UNREADABLE[1], UNREADABLE[3], manifest(path=None), manifest(path="a\0b"), manifest(rows="x")]
)
def test_one_that_cannot_be_read_hides_no_other(store, content):
    snapshots.create(store, "a")
    snapshots.create(store, "b")
    (store.root / "snapshots" / "a" / "manifest.json").write_bytes(content)
    one, other = snapshots.listing(store.root)
    assert "manifest.json" in one["error"]
    assert "error" not in other
    with pytest.raises(LakeError, match=r"a/manifest\.json"):
        snapshots.diff(store, "a")
    snapshots.create(store, "c")
    snapshots.drop(store, "a")
    assert snapshots.names(store.root) == ["b", "c"]


@pytest.fixture(scope="module")
def lake_of_one(tmp_path_factory):
    """A lake whose one snapshot is `a`."""
    store = Store.open(tmp_path_factory.mktemp("one") / "lake", network="mainnet", layout="year")
    store.create("mainnet")
    put(store, BTC, bars([START]))
    snapshots.create(store, "a")
    return store


@pytest.mark.parametrize("content", UNREADABLE, ids=range(len(UNREADABLE)))
def test_a_manifest_that_cannot_be_read_is_told(lake_of_one, content):
    lake = lake_of_one.root
    (lake / "snapshots" / "a" / "manifest.json").write_bytes(content)
    (row,) = snapshots.listing(lake)
    assert {name: value for name, value in row.items() if value is not None} == {"name": "a", "error": row["error"]}
    with pytest.raises(LakeError, match=r"a/manifest\.json .*(etl snapshot drop a|use a newer version)$"):
        snapshots.read(lake, "a")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
PATHS = st.lists(
    st.sampled_from(["", ".", "..", "a", "klines", "market=um", "symbol=A%2F", "2024.parquet", "\0", "\udcff", "x" * 300])
)
FILES = st.fixed_dictionaries(
    {
        "path": JSON | PATHS.map("/".join) | st.sampled_from([KLINES, f"{KLINES}/x", KLINES.replace("2024", "x")]),
        "bytes": JSON | st.integers(),
        "rows": JSON | st.integers(0),
        "sha256": JSON | st.text("0123456789abcdef", min_size=64, max_size=64),
    }
)
MANIFESTS = JSON | st.fixed_dictionaries(
    {
        "format": JSON | st.integers(0, 2),
        "as_of": JSON | st.sampled_from(["2024-01-01T00:00:00Z", "0001-01-01", "9999-12-31T23:59:59Z"]),
        "files": JSON | st.lists(FILES | JSON, max_size=3),
    }
)


@given(about=MANIFESTS)
@settings(max_examples=300, deadline=None)
def test_whatever_a_manifest_says_is_read_or_told(lake_of_one, about):
    store = lake_of_one
    (store.root / "snapshots" / "a" / "manifest.json").write_text(json.dumps(about))
    (row,) = snapshots.listing(store.root)
    assert row["name"] == "a"
    for ask in (
        lambda: snapshots.read(store.root, "a").as_dict(),
        lambda: snapshots.verify(store.root, "a"),
        lambda: snapshots.diff(store, "a"),
        lambda: snapshots.diff(store, "now", "a"),
    ):
        with contextlib.suppress(EtlError):
            json.dumps(ask(), default=str)


def test_verify_finds_what_is_not_as_it_was(store):
    snapshots.create(store, "a")
    assert snapshots.verify(store.root, "a") == []
    folder = store.root / "snapshots" / "a"
    changed, gone, foreign = *sorted(HELD)[:2], "runs/2024-02.jsonl"
    (folder / changed).unlink()
    (folder / changed).write_bytes(b"other")
    (folder / gone).unlink()
    (folder / foreign).write_bytes(b"{}")
    assert {found["path"]: found["message"].partition(":")[0] for found in snapshots.verify(store.root, "a")} == {
        changed: "has changed",
        gone: "is gone",
        foreign: "does not belong to it",
    }


@pytest.mark.parametrize(
    "path",
    [
        "evil.csv",
        "evil.parquet",
        "klines/market=um/evil.txt",
        ".hidden",
        ".tmp/1-0",
        "manifest.json~",
        "snapshots/b/manifest.json",
    ],
)
def test_verify_finds_what_was_put_there(store, path):
    snapshots.create(store, "a")
    foreign = store.root / "snapshots" / "a" / path
    foreign.parent.mkdir(parents=True, exist_ok=True)
    foreign.write_bytes(b"x")
    assert snapshots.verify(store.root, "a") == [{"path": path, "message": "does not belong to it"}]


def test_verify_finds_links_that_were_put_there(store, tmp_path):
    snapshots.create(store, "a")
    for name, target in (("folder", tmp_path), ("file", store.root / "lake.json"), ("nowhere", tmp_path / "x")):
        (store.root / "snapshots" / "a" / name).symlink_to(target)
    assert [found["path"] for found in snapshots.verify(store.root, "a")] == ["file", "folder", "nowhere"]


@pytest.mark.parametrize("name", ["catalog.duckdb", "catalog.sql"])
@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"")])
def test_verify_finds_a_catalog_that_is_gone_or_empty(store, name, spoil):
    snapshots.create(store, "a")
    spoil(store.root / "snapshots" / "a" / name)
    (found,) = snapshots.verify(store.root, "a")
    assert (found["path"], found["message"].partition(": ")[2]) == (name, "etl status --rebuild makes it anew")


@pytest.mark.parametrize("change", ["half", "other", "no views"])
def test_verify_finds_a_catalog_that_cannot_be_used(store, tmp_path, change):
    snapshots.create(store, "a")
    catalog = store.root / "snapshots" / "a" / "catalog.duckdb"
    if change == "no views":
        duckdb.connect(str(tmp_path / "other.duckdb")).close()
        shutil.copyfile(tmp_path / "other.duckdb", catalog)
    else:
        content = catalog.read_bytes()
        catalog.write_bytes(content[: len(content) // 2] if change == "half" else b"no catalog")
    (found,) = snapshots.verify(store.root, "a")
    assert (found["path"], found["message"].partition(": ")[2]) == ("catalog.duckdb", "etl status --rebuild makes it anew")
    pipeline.rebuild(store)
    assert snapshots.verify(store.root, "a") == []


def test_verify_minds_no_client_that_has_the_catalog_open(store):
    snapshots.create(store, "a")
    catalog = store.root / "snapshots" / "a" / "catalog.duckdb"
    with subprocess.Popen(
        [sys.executable, "-c", OPENED, str(catalog)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as client:
        assert client.stdout.readline() == b"opened\n"
        assert snapshots.verify(store.root, "a") == []


OPENED = """
import sys, duckdb
with duckdb.connect(sys.argv[1]):
    print("opened", flush=True)
    sys.stdin.read()
"""


def test_a_rebuild_clears_what_a_killed_one_left(store):
    snapshots.create(store, "a")
    (store.root / "snapshots" / "a" / ".tmp").mkdir()
    (store.root / "snapshots" / "a" / ".tmp" / "1-0").write_bytes(b"torn")
    pipeline.rebuild(store)
    assert snapshots.verify(store.root, "a") == []


def test_drop_takes_the_one_and_leaves_what_it_shares(store):
    snapshots.create(store, "a")
    snapshots.create(store, "b")
    lake = tree(store.root)
    snapshots.drop(store, "a")
    assert tree(store.root) == {path: digest for path, digest in lake.items() if not path.startswith("snapshots/a/")}
    assert left_over(store) == []
    for unknown in ("a", "..", "", "now"):
        with pytest.raises(UsageError, match=rf"no snapshot '{unknown}'; it has b$"):
            snapshots.drop(store, unknown)
    with store.lock(), pytest.raises(LakeLocked):
        snapshots.drop(store, "b")


# ---- diff


def found(store: Store, before: str, after: str = "now") -> dict[str, tuple]:
    """By series: partitions and rows that were added, removed, changed."""
    return {
        str(one.series): (
            one.partitions_added,
            one.partitions_removed,
            one.partitions_changed,
            one.rows_added,
            one.rows_removed,
            one.rows_changed,
        )
        for one in snapshots.diff(store, before, after).series
    }


def test_diff_counts_rows_and_shows_the_first(store):
    snapshots.create(store, "a")
    assert snapshots.diff(store, "a") == snapshots.Difference((), {})
    price = bars([START, START + 2 * MINUTE, START + 3 * MINUTE, START + 4 * MINUTE])
    closes = pa.array([1.25, 2.5, 1.25, 1.25])
    counts = pa.array([0, 2, 3, 4])
    put(store, BTC, price.set_column(4, "close", closes).set_column(8, "count", counts))
    put(store, BTC, bars([START + 366 * DAY]), START + 366 * DAY)
    store.set_aside(store.root / "klines/market=um/interval=1m/symbol=ETHUSDT/2024.parquet")
    write_run(store.root, run_id="two", command="update")
    snapshots.create(store, "b")
    for after in ("b", "now"):
        assert found(store, "a", after) == {
            "um klines BTCUSDT 1m": (("2025",), (), ("2024",), 2 + 1, 1, 1),
            "um klines ETHUSDT 1m": ((), ("2024",), (), 0, 2, 0),
        }
    assert found(store, "now", "a")["um klines BTCUSDT 1m"] == ((), ("2025",), ("2024",), 1, 2 + 1, 1)
    assert found(store, "b") == {}
    one, other = snapshots.diff(store, "a", "b").series
    assert (one.first, other.first, other.example) == (START + MINUTE, START, None)
    example = one.as_dict()["example"]
    assert example["time"] == "2024-01-01T00:02:00Z"
    assert {
        name: (example["before"][name], value) for name, value in example["after"].items() if value != example["before"][name]
    } == {"close": (1.25, 2.5)}
    assert example["after"]["close_time"] == "2024-01-01T00:02:59.999Z"


def test_a_settlement_is_one_by_its_minute_and_kind(store):
    snapshots.create(store, "a")
    put(
        store,
        FUNDING,
        settlements((7, 0.0001, "Regular"), (9, 0.5, "Extra"), (8 * HOUR, 0.0002, None)),
        end=START + 2 * DAY,
    )
    assert found(store, "a") == {"um funding BTCUSDT": ((), (), ("2024",), 1, 0, 1)}
    (change,) = snapshots.diff(store, "a").series
    assert (change.example["before"]["rate_type"], change.example["after"]["rate_type"]) == (None, "Regular")


def test_a_footer_alone_is_a_partition_without_rows(store):
    snapshots.create(store, "a")
    put(store, BTC, bars(range(START, START + 3 * MINUTE, MINUTE)), end=START + 9 * DAY)
    assert found(store, "a") == {"um klines BTCUSDT 1m": ((), (), ("2024",), 0, 0, 0)}
    assert snapshots.diff(store, "a").series[0].first is None


def test_symbols_that_changed_are_told_by_their_file(store):
    snapshots.create(store, "a")
    shutil.rmtree(store.root / "symbols")
    write_symbols(store.root, {"symbol": "NEWUSDT"})
    write_symbols(store.root, {"symbol": "NEWUSD_PERP"}, market="cm")
    assert snapshots.diff(store, "a").files == {
        "symbols/market=um/symbols.parquet": "changed",
        "symbols/market=cm/symbols.parquet": "added",
    }


def test_diff_reads_only_what_differs(store):
    snapshots.create(store, "a")
    put(store, BTC, bars([START]))
    snapshots.create(store, "b")
    for name in ("a", "b"):
        (store.root / "snapshots" / name / "klines/market=um/interval=1m/symbol=ETHUSDT/2024.parquet").write_bytes(b"")
    assert found(store, "a", "b") == {"um klines BTCUSDT 1m": ((), (), ("2024",), 0, 2, 0)}
    path = store.root / "snapshots" / "a" / "klines/market=um/interval=1m/symbol=BTCUSDT/2024.parquet"
    path.unlink()
    path.write_bytes(b"torn")
    with pytest.raises(Damaged, match=r"snapshots/a/.*BTCUSDT/2024\.parquet"):
        snapshots.diff(store, "a", "b")


def go_on(store: Store) -> None:
    """Let a file of bars and one of rules become others."""
    put(store, BTC, bars([START]))
    shutil.rmtree(store.root / "symbols")
    write_symbols(store.root, {"symbol": "NEWUSDT", "first_time": START})


@pytest.mark.parametrize("path", [KLINES, "symbols/market=um/symbols.parquet"])
@pytest.mark.parametrize("other", ["b", "now", "empty"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_file_of_a_snapshot_that_is_gone_makes_no_rows(store, path, other, turned):
    snapshots.create(store, "a")
    go_on(store)
    snapshots.create(store, "b")
    if other == "empty":
        (store.root / path).unlink()
        snapshots.create(store, "empty")
    (store.root / "snapshots" / "a" / path).unlink()
    with pytest.raises(LakeError, match=rf"snapshots/a/{path} is gone: {KEPT[:-1]}; etl snapshot verify a tells"):
        snapshots.diff(store, *((other, "a") if turned else ("a", other)))


@pytest.mark.parametrize("path", [KLINES, "symbols/market=um/symbols.parquet"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_file_of_the_lake_that_vanishes_meanwhile_is_told(store, path, turned):
    snapshots.create(store, "a")
    go_on(store)
    states = snapshots.read(store.root, "a"), snapshots.live(store)
    (store.root / path).unlink()
    with pytest.raises(LakeError, match=rf"lake/{path} is gone since .*: run etl snapshot diff again"):
        snapshots.compare(*(reversed(states) if turned else states), store.layout)


def test_a_file_of_the_lake_that_is_replaced_meanwhile_is_read_as_it_is(store):
    snapshots.create(store, "a")
    states = snapshots.read(store.root, "a"), snapshots.live(store)
    put(store, BTC, bars([START]))
    (change,) = snapshots.compare(*states, store.layout).series
    assert (change.series, change.rows_removed) == (BTC, 2)


@given(
    before=st.dictionaries(st.integers(0, 12), st.sampled_from([1.0, 2.0])),
    after=st.dictionaries(st.integers(0, 12), st.sampled_from([1.0, 2.0])),
)
@settings(max_examples=25)
def test_diff_is_that_of_the_rows(tmp_path_factory, before, after):
    store = Store.open(tmp_path_factory.mktemp("lake"), network="mainnet", layout="year")
    store.create("mainnet")

    def hold(rows: dict[int, float]) -> None:
        minutes = sorted(rows)
        table = bars(START + minute * MINUTE for minute in minutes)
        closes = pa.array([rows[minute] for minute in minutes], pa.float64())
        counts = pa.array(minutes, pa.int64())
        put(store, BTC, table.set_column(4, "close", closes).set_column(8, "count", counts))

    hold(before)
    snapshots.create(store, "a")
    hold(after)
    changed = sorted(minute for minute in before.keys() & after.keys() if before[minute] != after[minute])
    different = sorted({*changed, *(before.keys() ^ after.keys())})
    if not different:
        assert found(store, "a") == {}
        return
    (change,) = snapshots.diff(store, "a").series
    counts = (change.rows_added, change.rows_removed, change.rows_changed)
    assert counts == (len(after.keys() - before.keys()), len(before.keys() - after.keys()), len(changed))
    assert change.first == START + different[0] * MINUTE
    if changed:
        assert change.example["before"]["close"] == before[changed[0]]
        assert change.example["after"]["close"] == after[changed[0]]
    else:
        assert change.example is None


def test_an_unknown_name_is_told_with_those_that_there_are(store):
    with pytest.raises(UsageError, match=r"has no snapshot 'a'; it has none"):
        snapshots.diff(store, "a")
    snapshots.create(store, "x")
    for ask in (snapshots.diff, lambda store, name: snapshots.verify(store.root, name)):
        with pytest.raises(UsageError, match=r"has no snapshot 'a'; it has x"):
            ask(store, "a")
