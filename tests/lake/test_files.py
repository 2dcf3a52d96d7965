"""Files are replaced whole: under readers, under failures, from several threads."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from etl.errors import LakeError
from etl.lake.files import publish, replace_file, set_aside, temporary


def left_over(lake: Path) -> list[str]:
    return [path.name for path in (lake / ".tmp").glob("*")]


def test_a_file_is_made_with_its_folders(tmp_path):
    target = tmp_path / "a" / "b" / "c.txt"
    replace_file(tmp_path, target, b"one")
    assert target.read_bytes() == b"one"
    assert left_over(tmp_path) == []


def test_content_is_replaced_whole(tmp_path):
    target = tmp_path / "file"
    replace_file(tmp_path, target, b"a long first content")
    replace_file(tmp_path, target, memoryview(b"short"))
    assert target.read_bytes() == b"short"
    replace_file(tmp_path, target, b"")
    assert target.read_bytes() == b""
    assert left_over(tmp_path) == []


def test_who_reads_the_old_file_goes_on_reading_it(tmp_path):
    target = tmp_path / "file"
    replace_file(tmp_path, target, b"old")
    with target.open("rb") as reader:
        replace_file(tmp_path, target, b"new and longer")
        assert reader.read() == b"old"
    assert target.read_bytes() == b"new and longer"


def test_a_reader_sees_one_content_or_the_other(tmp_path):
    target = tmp_path / "file"
    contents = [bytes([n]) * (50_000 + n) for n in range(60)]
    replace_file(tmp_path, target, contents[0])
    done, seen = threading.Event(), set()

    def read() -> None:
        while not done.is_set():
            seen.add(target.read_bytes())

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        for content in contents:
            replace_file(tmp_path, target, content)
        done.set()
        reader.result(30)
    assert seen <= set(contents)


def test_temporary_files_lie_apart_and_have_names_of_their_own(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda _: temporary(tmp_path), range(200)))
    assert len(set(names)) == 200
    assert {name.parent for name in names} == {tmp_path / ".tmp"}
    assert not any(name.suffix == ".parquet" for name in names)


def test_several_threads_replace_several_files(tmp_path):
    def work(number: int) -> None:
        replace_file(tmp_path, tmp_path / "d" / str(number % 7), str(number).encode())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(200)))
    for name in range(7):
        assert int((tmp_path / "d" / str(name)).read_bytes()) % 7 == name
    assert left_over(tmp_path) == []


def test_what_cannot_be_renamed_is_an_error_that_names_the_file(tmp_path):
    target = tmp_path / "in the way"
    target.mkdir()
    (target / "content").write_bytes(b"kept")
    with pytest.raises(LakeError, match=r"cannot write .*in the way: .*untouched"):
        replace_file(tmp_path, target, b"new")
    assert (target / "content").read_bytes() == b"kept"
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("in_the_way", [".tmp", "a", "a/b"])
def test_a_file_where_a_folder_belongs_is_an_error_that_names_the_file(tmp_path, in_the_way):
    (tmp_path / "a").mkdir(exist_ok=True)
    blocked = tmp_path / in_the_way
    if blocked.is_dir():
        blocked.rmdir()
    blocked.write_bytes(b"kept")
    with pytest.raises(LakeError, match=r"cannot write .*c\.txt: .* is no folder; move it away") as caught:
        replace_file(tmp_path, tmp_path / "a" / "b" / "c.txt", b"new")
    assert f": {blocked} is no folder" in str(caught.value)
    assert blocked.read_bytes() == b"kept"
    assert not (tmp_path / ".tmp").is_dir() or left_over(tmp_path) == []


def test_a_full_disk_leaves_the_old_file_and_no_rest(tmp_path):
    """No file may grow beyond 1,000 bytes in that process: the write fails in its middle, as on a full disk."""
    replace_file(tmp_path, tmp_path / "file", b"old")
    code = """
import resource, signal, sys
from pathlib import Path
from etl.errors import LakeError
from etl.lake.files import replace_file
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
lake = Path(sys.argv[1])
try:
    replace_file(lake, lake / "file", b"x" * 5000)
except LakeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60)
    assert "cannot write" in done.stdout
    assert "File too large" in done.stdout
    assert (tmp_path / "file").read_bytes() == b"old"
    assert left_over(tmp_path) == []


def test_publish_takes_the_file_from_where_it_was_made(tmp_path):
    beside = temporary(tmp_path)
    beside.write_bytes(b"made elsewhere")
    publish(beside, tmp_path / "x" / "y")
    assert (tmp_path / "x" / "y").read_bytes() == b"made elsewhere"
    assert not beside.exists()


def test_what_is_set_aside_keeps_its_content_and_displaces_nothing(tmp_path):
    path = tmp_path / "klines" / "symbol=A" / "2024.parquet"
    for content in (b"first", b"second", b"third"):
        replace_file(tmp_path, path, content)
        set_aside(tmp_path, path)
        assert not path.exists()
    aside = tmp_path / "quarantine" / "klines" / "symbol=A"
    assert {file.name: file.read_bytes() for file in aside.iterdir()} == {
        "2024.parquet": b"first",
        "2024.parquet.1": b"second",
        "2024.parquet.2": b"third",
    }


def test_what_cannot_be_set_aside_stays(tmp_path):
    replace_file(tmp_path, tmp_path / "a", b"one")
    (tmp_path / "quarantine").write_bytes(b"no folder")
    with pytest.raises(LakeError, match=r"cannot move .*; move it away by hand"):
        set_aside(tmp_path, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"one"
