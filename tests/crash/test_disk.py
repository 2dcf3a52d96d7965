"""Disks that are full or read-only, and things in the lake that are no partition: said clearly, nothing lost, others done."""

import itertools
import json
import os
import shutil
import subprocess
from contextlib import suppress

import pytest

from .battery import digests

NOBODY = 65534
PAIR = ["backfill", "klines", "--symbols", "BTCUSDT,ETHUSDT", "--interval", "4h", "--start", "2025-02-01"]
PLACE = "klines/market=um/interval=4h/symbol={}/{}.parquet"
BITCOIN = PLACE.format("BTCUSDT", 2025)
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="mounting, and becoming somebody else, need root")


@pytest.fixture
def lake(tmp_path):
    return tmp_path / "lake"


@pytest.fixture
def smooth(shell, tmp_path):
    """The lake as it should be."""
    lake = tmp_path / "smooth"
    shell.run("etl", *PAIR, "--lake", str(lake))
    return lake


@pytest.fixture
def half(shell, lake):
    """The lake after a part of the work."""
    shell.run("etl", *PAIR, "--end", "2025-06-01", "--lake", str(lake))
    return lake


@pytest.fixture
def mounted(tmp_path):
    """Mounts with the given arguments, until the test is over."""
    places = []

    def mount(place, *arguments):
        done = subprocess.run(["mount", *arguments, str(place)], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
        places.append(place)

    yield mount
    for place in reversed(places):
        subprocess.run(["umount", str(place)], check=True)


def fill_bytes(filler):
    (filler / "large").write_bytes(bytes(shutil.disk_usage(filler).free - 20_000))


def fill_names(filler):
    """As a disk of many small files, which has bytes but no inodes left."""
    with suppress(OSError):
        for number in itertools.count():
            (filler / str(number)).touch()


@root_only
@pytest.mark.parametrize("fill", [fill_bytes, fill_names])
def test_a_full_disk(shell, lake, mounted, smooth, fill):
    lake.mkdir()
    mounted(lake, "-t", "tmpfs", "-o", "size=4m,nr_inodes=200", "tmpfs")
    shell.run("etl", *PAIR, "--end", "2025-06-01", "--lake", str(lake))
    before = digests(lake)
    filler = lake / "filler"
    filler.mkdir()
    fill(filler)
    failed = shell.run("etl", *PAIR, "--lake", str(lake), "--json", check=None)
    assert failed.code in {1, 3}
    assert "No space left on device" in failed.stderr
    assert str(lake) in failed.stderr
    assert json.loads(failed.stdout)["exit_code"] == failed.code
    after, whole = digests(lake), digests(smooth)
    assert {path for path in after if after[path] not in (before.get(path), whole.get(path))} <= {
        "symbols/market=um/symbols.parquet"
    }
    assert set(before) <= set(after)
    assert list((lake / ".tmp").glob("*")) == []
    shutil.rmtree(filler)
    shell.run("etl", *PAIR, "--lake", str(lake))
    assert digests(lake) == whole


@root_only
def test_a_read_only_lake(shell, half, mounted, smooth):
    before = digests(half)
    mounted(half, "--bind", str(half))
    subprocess.run(["mount", "-o", "remount,ro,bind", str(half)], check=True)
    failed = shell.run("etl", *PAIR, "--lake", str(half), "--json", check=1)
    assert "Read-only file system" in failed.stderr
    assert str(half) in failed.stderr
    assert json.loads(failed.stdout)["error"]["type"] == "LakeError"
    assert digests(half) == before
    shell.run("etl", "sql", "SELECT count(*) FROM klines", "--lake", str(half))


@root_only
def test_a_lake_of_somebody_else(shell, tmp_path, half):
    before = digests(half)
    for folder in [one for one in (tmp_path, *tmp_path.parents) if one.stat().st_mode & 0o005 != 0o005]:
        folder.chmod(0o755)
    state = tmp_path / "state"
    state.mkdir(exist_ok=True)
    state.chmod(0o777)
    tmp_path.chmod(0o777)
    failed = shell.start("etl", *PAIR, "--lake", str(half), "--json", user=NOBODY)
    assert failed.wait() == 1, failed.stderr
    assert "Permission denied" in failed.stderr
    assert str(half) in failed.stderr
    assert json.loads(failed.stdout)["error"]["type"] == "LakeError"
    assert digests(half) == before


def others_done(lake, smooth):
    """Whether the other symbol's partitions are as they should be."""
    mine, whole = digests(lake), digests(smooth)
    return all(mine.get(path) == whole[path] for path in whole if "symbol=ETHUSDT" in path)


def holds(shell, lake, smooth):
    """Whether the lake is sound and has every row of the smooth one; of a file that told nothing its whole year is fetched."""
    rows = "SELECT symbol, interval, open_time, close, volume FROM klines"
    mine, whole = (json.loads(shell.run("etl", "sql", rows, "--json", "--lake", str(one)).stdout) for one in (lake, smooth))
    as_set = [{json.dumps(row, sort_keys=True) for row in some} for some in (mine, whole)]
    return as_set[1] <= as_set[0] and shell.run("etl", "verify", "--lake", str(lake), check=None).code == 0


@pytest.mark.parametrize("what", ["folder", "dangling symlink"])
def test_no_file_in_place_of_a_partition(shell, half, smooth, what):
    path = half / BITCOIN
    path.unlink()
    if what == "folder":
        (path / "mine").mkdir(parents=True)
    else:
        path.symlink_to(half.parent / "elsewhere")
    done = shell.run("etl", *PAIR, "--lake", str(half), "--json", check=None)
    assert others_done(half, smooth)
    if done.code == 0:
        assert holds(shell, half, smooth)
    else:
        assert done.code == 3
        assert str(path) in done.stderr
        assert [one["symbol"] for one in json.loads(done.stdout)["failed"]] == ["BTCUSDT"]
    assert what != "folder" or list(half.rglob("mine"))  # what somebody has put there is not ours to delete
    assert not (half.parent / "elsewhere").exists()


@pytest.mark.parametrize("what", ["truncated", "foreign", "empty"])
def test_a_corrupt_partition_is_set_aside_and_fetched_again(shell, half, smooth, what):
    path, stranger = half / BITCOIN, half / PLACE.format("ETHUSDT", 2025)
    content = {"truncated": path.read_bytes()[:-100], "foreign": stranger.read_bytes(), "empty": b""}[what]
    path.write_bytes(content)
    done = shell.run("etl", *PAIR, "--lake", str(half), "--json")
    aside = [one for one in (half / "quarantine").rglob("*") if one.is_file()]
    assert [one.read_bytes() for one in aside] == [content]
    assert BITCOIN.removesuffix(".parquet") in str(aside[0].relative_to(half / "quarantine"))
    assert BITCOIN in done.stderr
    assert any("quarantine" in json.dumps(finding) for finding in json.loads(done.stdout)["findings"])
    assert holds(shell, half, smooth)
