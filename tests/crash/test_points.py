"""A crash, a full disk and a broken one at every system call on the lake, and what must be caught by that."""

import shutil
from pathlib import Path

import pytest

from .battery import BROKEN, FULL, KILL, Program, assault, digests, unreadable, unsynced
from .conftest import SOAK

PARTS = {KILL: 3, FULL: 1, BROKEN: 1}  # so that several processors share the work
FIRST = ["backfill", "klines", "--symbols", "BTCUSDT", "--interval", "1d", "--start", "2025-11-01", "--end", "2025-12-01"]
# One worker, so that each run makes the same calls.
WHOLE = [*FIRST[:2], "funding", *FIRST[2:-2], "--end", "2026-02-20", "--source", "rest", "--workers", "1"]


@pytest.fixture
def program(request, shell, tmp_path):
    """The command line, which makes a lake, or replaces one partition of an older one and adds three; by request.param."""
    before, after, lake = tmp_path / "before", tmp_path / "after", tmp_path / "lake"
    if request.param == "extended":
        shell.run("etl", *FIRST, "--lake", str(before))
    made = Program(shell, ("etl", *WHOLE, "--lake", str(lake)), lake, before, after, unreadable)
    made.reset()
    assert made.run().code == 0
    lake.rename(after)
    assert len(list(after.glob("*/**/20*.parquet"))) == 4
    made.reset()
    return made


@pytest.fixture
def naive(shell, tmp_path):
    before, after, lake = tmp_path / "before", tmp_path / "after", tmp_path / "lake"
    script = str(Path(__file__).with_name("naive.py"))
    made = Program(shell, (script, str(lake)), lake, before, after)
    assert made.run().code == 0
    lake.rename(after)
    return made


def reads(point):
    """Whether the call only looks at the lake."""
    return point.kind in {"openat", "close", "read"} and not point.path.startswith((".tmp/", ".lock"))


def sample(points, injection):
    """Every rename and sync is a moment to die; of the other moments, and of the disk's failures, some."""
    sure = [point for point in points if point.kind in {"rename", "fsync"}]
    changing = [point for point in points if point not in sure and not reads(point)]
    reading = [point for point in points if reads(point)]
    if injection == KILL:
        return [*sure, *changing[::4], *reading[7::48]]
    return [*sure[::3], *changing[1::5]]


def assert_survives(program, points, injection):
    met, wrong = assault(program, points, injection)
    assert wrong == []
    assert met >= 0.9 * len(points) > 0  # threads share the work a little differently each time


@pytest.mark.slow
@pytest.mark.parametrize("program", ["extended"], indirect=True)
@pytest.mark.parametrize(("injection", "part"), [(injection, part) for injection in PARTS for part in range(PARTS[injection])])
def test_a_run_may_be_disturbed_at_any_system_call(strace, program, injection, part):
    points = strace.points(strace.survey(program.shell, program.argv, program.lake))
    if injection != KILL:
        points = [point for point in points if not reads(point)]
    assert_survives(program, (points if SOAK else sample(points, injection))[part :: PARTS[injection]], injection)


@pytest.mark.slow
@pytest.mark.parametrize("program", ["new"], indirect=True)
@pytest.mark.parametrize("injection", [KILL, FULL, BROKEN])
def test_the_making_of_a_lake_may_be_disturbed(strace, program, injection):
    points = strace.points(strace.survey(program.shell, program.argv, program.lake))
    points = [point for point in points if not reads(point)]
    made = next(index for index, point in enumerate(points) if point.kind == "rename")  # lake.json
    assert_survives(program, points if SOAK else points[: made + 1][:: 2 if injection == KILL else 4], injection)


# Looking at folders, reading what is derived, and the end of the lock.
LOOKS = [("openat", "klines"), ("openat", "symbols"), ("openat", "catalog.sql"), ("close", ".lock")]


@pytest.mark.parametrize("program", ["extended"], indirect=True)
def test_what_cannot_be_looked_at_is_named(strace, program):
    points = strace.points(strace.survey(program.shell, program.argv, program.lake))
    looks = [point for point in points if (point.kind, point.path) in LOOKS and (SOAK or point.when == 1)]
    assert {(point.kind, point.path) for point in looks} == {*LOOKS}
    assert_survives(program, looks, BROKEN)


# One file each, after which nothing but the symbols is left to be written.
DELISTED = ["SRMUSDT", "--interval", "1d", "--start", "2022-01-01"]
ARCHIVED = ["BTCUSDT", "--interval", "4h", "--start", "2026-01-01", "--end", "2026-02-01", "--source", "archive"]


@pytest.mark.parametrize("wanted", [DELISTED, ARCHIVED], ids=["delisted", "archive alone"])
def test_what_is_known_of_symbols_outlives_a_kill_that_leaves_nothing_else_to_do(strace, shell, tmp_path, wanted):
    lake, smooth = tmp_path / "lake", tmp_path / "smooth"
    command = ["etl", "backfill", "klines", "--symbols", *wanted, "--lake"]
    shell.run(*command, str(smooth))
    calls = strace.survey(shell, [*command, str(lake)], lake)
    (told,) = [call for call in calls if call.kind == "rename" and call.paths[-1] == "symbols/market=um/symbols.parquet"]
    shutil.rmtree(lake)
    killed = strace.disturb(shell, [*command, str(lake)], lake, strace.Point("rename", told.path, 1), KILL)
    assert killed.code == -9
    shell.run(*command, str(lake))
    assert digests(lake) == digests(smooth)


def test_the_battery_catches_a_naive_writer(strace, naive):
    calls = strace.survey(naive.shell, naive.argv, naive.lake)
    writing = [point for point in strace.points(calls) if point.kind in {"openat", "write"} and point.path.endswith(".parquet")]
    met, wrong = assault(naive, writing[::3], KILL)
    assert met == len(writing[::3])
    assert [complaint for complaint in wrong if complaint.endswith("is torn")]
    assert [complaint for complaint in wrong if complaint.endswith("differs from that of a smooth run")]
    naive.reset()
    assert unsynced(strace.survey(naive.shell, naive.argv, naive.lake))


@pytest.mark.parametrize("program", ["new", "extended"], indirect=True)
def test_what_is_renamed_into_the_lake_survives_a_power_cut(strace, program):
    calls = strace.survey(program.shell, program.argv, program.lake)
    assert unsynced(calls) == []
    renamed = {call.paths[-1] for call in calls if call.kind == "rename"}
    assert {path for path in renamed if path.endswith(".parquet")} >= {
        f"{folder}/{year}.parquet"
        for folder in ("klines/market=um/interval=1d/symbol=BTCUSDT", "funding/market=um/symbol=BTCUSDT")
        for year in (2025, 2026)
    }
    for seen in (".tmp/", ""):  # without the syncs of files, and without those of folders
        fewer = [call for call in calls if call.kind != "fsync" or call.path.startswith(".tmp/") != (seen == ".tmp/")]
        assert len(unsynced(fewer)) >= 4
