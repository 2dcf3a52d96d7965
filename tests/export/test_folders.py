"""Folders of a catalog are replaced all or none: a disk that fails, a process that is killed, a link in the way."""

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from etl.errors import EtlError
from etl.export import folders
from etl.lake.files import publish_folder

from .conftest import ROOT

KINDS = ("bar", "crypto_perpetual", "funding_rate_update")
OLD, NEW = dict.fromkeys(KINDS, "old"), dict.fromkeys(KINDS, "new")


def fill(below: Path, text: str) -> None:
    for kind in KINDS:
        file = below / "data" / kind / "X.BINANCE" / "0.parquet"
        file.parent.mkdir(parents=True)
        file.write_text(text)


def content(folder: Path) -> dict[str, str]:
    assert [path.name for path in folder.iterdir()] == ["data"]
    return {path.parts[-3]: path.read_text() for path in sorted(folder.rglob("*.parquet"))}


def replace(folder: Path, place=publish_folder, gone=()) -> None:
    with folders.workplace(folder) as part:
        fill(part / "new", "new")
        assert folders.replace(part, folder, gone, place) == {folder / "data" / kind / "X.BINANCE" for kind in KINDS}


def failing(at: int, then=lambda: None):
    """A disk that takes the first `at` folders; before it fails it does something else."""
    placed = []

    def place(new: Path, target: Path) -> None:
        if len(placed) == at:
            then()
            raise OSError(errno.EIO, "Input/output error")
        publish_folder(new, target)
        placed.append(target)

    return place


def test_folders_take_the_place_of_older_ones(tmp_path):
    replace(tmp_path)
    assert content(tmp_path) == NEW
    gone = tmp_path / "data" / "bar" / "Y.BINANCE"
    gone.mkdir()
    replace(tmp_path, gone=[gone.relative_to(tmp_path), Path("data/bar/never")])
    assert content(tmp_path) == NEW
    assert not gone.exists()


@pytest.mark.parametrize("at", [0, 1, 2])
def test_where_the_disk_fails_all_of_the_old_stays(tmp_path, at):
    fill(tmp_path, "old")
    with pytest.raises(EtlError, match=r"Input/output error; what was exported there before, if anything, stays"):
        replace(tmp_path, failing(at))
    assert content(tmp_path) == OLD


def test_what_cannot_be_put_back_is_kept_and_not_said_to_stay(tmp_path):
    fill(tmp_path, "old")
    perpetuals = tmp_path / "data" / "crypto_perpetual"

    def block():
        perpetuals.rmdir()
        perpetuals.write_text("in the way")

    with pytest.raises(EtlError, match=r"before lies in .*/old, and the next export into the folder puts it back"):
        replace(tmp_path, failing(1, block))
    perpetuals.unlink()
    with folders.workplace(tmp_path):
        pass
    assert content(tmp_path) == OLD


@pytest.mark.parametrize("at", [0, 1, 2])
def test_what_a_killed_run_had_moved_away_is_put_back(tmp_path, at):
    fill(tmp_path, "old")
    script = (
        "import os, pathlib, signal, sys\n"
        "from tests.export.test_folders import failing, replace\n"
        "replace(pathlib.Path(sys.argv[1]), failing(int(sys.argv[2]), lambda: os.kill(os.getpid(), signal.SIGKILL)))\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, tmp_path, str(at)], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    with folders.workplace(tmp_path) as part:  # before anything new exists
        part.rmdir()
        assert content(tmp_path) == OLD
    replace(tmp_path)
    assert content(tmp_path) == NEW


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("there", ["bar", "crypto_perpetual", "funding_rate_update", "order_book"])
def test_what_has_no_predecessor_goes_with_the_rest(tmp_path, at, there):
    """Where the run is killed, the disk fails or all is well: what was there is there, alone, or what is new is."""
    was = tmp_path / "data" / there / "X.BINANCE" / "0.parquet"
    was.parent.mkdir(parents=True)
    was.write_text("old")
    with pytest.raises(EtlError, match="Input/output error"):
        replace(tmp_path, failing(at))
    assert content(tmp_path) == {there: "old"}
    with pytest.raises(Killed):
        kill(tmp_path, at)
    with folders.workplace(tmp_path) as part:
        part.rmdir()
        assert content(tmp_path) == {there: "old"}
    replace(tmp_path)
    assert content(tmp_path) == {there: "old"} | NEW


class Killed(Exception):
    """Ends the run without what it would do at its end."""


def kill(folder, at):
    part = folder / ".etl-export.part"
    fill(part / "new", "new")

    def die():
        raise Killed

    folders.replace(part, folder, (), failing(at, die))


def test_a_link_in_the_place_of_the_workplace_is_not_followed(tmp_path):
    folder, other = tmp_path / "catalog", tmp_path / "other"
    fill(other / "old", "other")
    folder.mkdir()
    (folder / ".etl-export.part").symlink_to(other)
    replace(folder)
    assert content(folder) == NEW
    assert content(other / "old") == dict.fromkeys(KINDS, "other")
    assert [path.name for path in other.iterdir()] == ["old"]
