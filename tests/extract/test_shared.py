"""The state in a file: processes that share it, are killed, and find it damaged, foreign or out of reach; clocks that jump."""

import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from etl import registry
from etl.errors import Refused
from etl.extract.limits import Now, RequestPool, Ticket, WeightBudget
from etl.extract.shared import SharedFile, SharedPools, exchange_at

MINUTE = 60_000
DAY = 24 * 60 * MINUTE
START = 1_700_000_040_000
UM, CM, SPOT = (registry.market(name) for name in ("um", "cm", "spot"))


def exactly(time: int) -> Now:
    return Now(time, time)


def budget(path: Path, limit: int = 100, **options: object) -> WeightBudget:
    return WeightBudget(limit, 1.0, SharedFile(path, **options))


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "not" / "made yet" / "futures@x.json"


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.WARNING, "etl")
    return lambda: [record.getMessage() for record in caplog.records]


# ---- sharing


def test_what_one_process_reserves_the_other_cannot(path, warnings):
    one, two = budget(path), budget(path)
    ticket = one.reserve(60, exactly(START))
    assert two.reserve(60, exactly(START)) == MINUTE
    one.settle(ticket, exactly(START + 10))
    assert two.reserve(60, exactly(START + 10)) == MINUTE - 10
    assert isinstance(two.reserve(40, exactly(START + 10)), Ticket)
    assert not warnings()


HAMMER = """
import sys
from pathlib import Path
from etl.extract.limits import Now, WeightBudget
from etl.extract.shared import SharedFile
budget = WeightBudget(10**6, 1.0, SharedFile(Path(sys.argv[1])))
now = Now(1_700_000_040_000, 1_700_000_040_000)
print("ready", flush=True)
for _ in range(int(sys.argv[2])):
    budget.settle(budget.reserve(3, now), now)
"""


def hammer(path: Path, times: int) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", HAMMER, str(path), str(times)], stdout=subprocess.PIPE)


def test_nothing_is_lost_between_processes_and_threads(path):
    processes = [hammer(path, 500) for _ in range(3)]
    pool = WeightBudget(10**6, 1.0, SharedFile(path))

    def work() -> None:
        for _ in range(250):
            pool.settle(pool.reserve(3, exactly(START)), exactly(START))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    state = json.loads(path.read_text())["state"]
    assert state["charged"] == {str(START // MINUTE): 3 * (3 * 500 + 2 * 250)}
    assert state["flights"] == {}


def test_a_process_that_is_killed_leaves_a_sound_file_and_no_lock(path, warnings):
    for _ in range(8):
        with hammer(path, 10**9) as process:
            assert process.stdout.readline() == b"ready\n"
            before = path.stat().st_mtime_ns if path.exists() else 0
            while not path.exists() or path.stat().st_mtime_ns == before:
                pass
            process.send_signal(signal.SIGKILL)
    # Whatever was in flight: three of weight each, at most.
    assert isinstance(budget(path, 10**6).reserve(1, exactly(START)), Ticket)
    state = json.loads(path.read_text())["state"]
    assert sum(weight for weight, _ in state["flights"].values()) <= 3 * 8 + 1
    assert isinstance(budget(path, 100).reserve(100, exactly(START + 4 * MINUTE)), Ticket), "nothing leaks for ever"
    assert not warnings()


def test_threads_that_find_the_lock_taken_wait_for_it(path):
    shared = budget(path)
    shared.learn(100)
    with path.open("r+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        found = []
        thread = threading.Thread(target=lambda: found.append(shared.reserve(60, exactly(START))))
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
        fcntl.flock(other, fcntl.LOCK_UN)
        thread.join(5)
    assert isinstance(found[0], Ticket)


def test_a_lock_that_nobody_gives_back_is_not_waited_for_for_ever(path, warnings):
    shared = budget(path, patience=0.05)
    first = shared.reserve(60, exactly(START))
    with path.open("r+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert shared.reserve(60, exactly(START)) == MINUTE, "what it knew it still knows"
    shared.settle(first, exactly(START + 10))
    (told,) = warnings()
    assert str(path) in told
    assert "locked for 0.05 s" in told


# ---- files that are not as they should be

DAMAGED = {
    "cut": lambda data: data[: len(data) // 2],
    "noise": lambda data: os.urandom(200),
    "nul": lambda data: bytes(len(data)),
    "null": lambda data: b"null",
    "text": lambda data: b"mine",
    "tail": lambda data: data + b"}",
    "types": lambda data: data.replace(b'"limit":0', b'"limit":"0"'),
    "negative": lambda data: data.replace(b":60", b":-60"),
    "key": lambda data: data.replace(b'"wall"', b'"wail"'),
    "version": lambda data: data.replace(b'"version":1', b'"version":0'),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_begun_anew_with_a_warning(path, warnings, damage):
    former = budget(path)
    former.settle(former.reserve(60, exactly(START)), exactly(START))
    data = path.read_bytes()
    path.write_bytes(damaged := damage(data))
    assert damaged != data
    one, two = budget(path), budget(path)
    assert isinstance(one.reserve(80, exactly(START)), Ticket)
    assert two.reserve(80, exactly(START)) == MINUTE, "they share again"
    (told,) = warnings()
    assert str(path) in told
    assert "begun anew" in told


def test_what_a_running_process_knows_survives_the_damage_and_the_loss_of_the_file(path, warnings):
    one = budget(path)
    one.reserve(60, exactly(START))
    path.write_bytes(b"?")
    assert one.reserve(60, exactly(START)) == MINUTE
    assert budget(path).reserve(60, exactly(START)) == MINUTE
    path.unlink()
    path.parent.rmdir()
    assert one.reserve(60, exactly(START)) == MINUTE
    assert budget(path).reserve(60, exactly(START)) == MINUTE
    assert len(warnings()) == 1


@pytest.mark.parametrize("content", [b'{"version":2,"more":[]}', b"x" * 70_000], ids=["newer", "large"])
def test_what_others_keep_there_is_left_alone(path, warnings, content):
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    shared = budget(path)
    assert isinstance(shared.reserve(60, exactly(START)), Ticket)
    assert shared.reserve(60, exactly(START)) == MINUTE
    assert path.read_bytes() == content
    (told,) = warnings()
    assert str(path) in told
    assert "counts alone" in told


def a_folder(path: Path) -> None:
    path.mkdir(parents=True)


def a_file_above(path: Path) -> None:
    path.parent.parent.write_bytes(b"")


def a_pipe(path: Path) -> None:
    path.parent.mkdir(parents=True)
    os.mkfifo(path)


def a_loop(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.symlink_to(path)


@pytest.mark.parametrize("obstacle", [a_folder, a_file_above, a_pipe, a_loop])
def test_where_no_file_can_be_each_process_counts_alone(path, warnings, obstacle):
    obstacle(path)
    shared = budget(path)
    ticket = shared.reserve(60, exactly(START))
    assert shared.reserve(60, exactly(START)) == MINUTE
    shared.settle(ticket, exactly(START))
    shared.refuse(Refused("HTTP 418"), exactly(START))
    (told,) = warnings()
    assert str(path) in told


@pytest.fixture
def unprivileged():
    """A folder of somebody else, and not to be root in it."""
    folder = Path(tempfile.mkdtemp())
    mask = os.umask(0o022)
    yield folder
    os.umask(mask)
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def test_bans_in_a_file_that_can_only_be_read_are_obeyed(unprivileged, warnings):
    path = unprivileged / "futures@x.json"
    budget(path, wall=lambda: START).refuse(Refused("HTTP 418", START + MINUTE), exactly(START))
    path.chmod(0o444)
    unprivileged.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65_534)
    try:
        shared = budget(path, wall=lambda: START)
        with pytest.raises(Refused, match="HTTP 418"):
            shared.check()
        new = budget(unprivileged / "spot@x.json")
        assert isinstance(new.reserve(1, exactly(START)), Ticket)
    finally:
        if root:
            os.seteuid(0)
    assert [name in told for name, told in zip(("futures@x", "spot@x"), warnings(), strict=True)] == [True, True]


# ---- clocks


class Wall:
    """A local clock that shows what it is told."""

    def __init__(self, time: int) -> None:
        self.time = time

    def __call__(self) -> int:
        return self.time


def is_banned(path: Path, wall: int) -> bool:
    """Whether a process that starts when the local clock shows `wall` sends nothing."""
    try:
        budget(path, wall=lambda: wall).check()
    except Refused:
        return True
    return False


@pytest.mark.parametrize("error", [0, -400 * DAY, 43_400, 30_000 * DAY])
def test_a_process_that_starts_during_a_ban_knows_it_whatever_the_local_clock_shows(path, error):
    """The ban was told 10 s after the exchange's clock was last known; the local clock is off by `error`."""
    wall = START + error
    budget(path, wall=lambda: wall).refuse(Refused("HTTP 418", START + 2 * MINUTE), exactly(START))
    assert is_banned(path, wall)
    assert is_banned(path, wall + 2 * MINUTE - 1_000)
    assert not is_banned(path, wall + 2 * MINUTE + 1_000)


def test_a_ban_of_unknown_end_is_kept_too_and_the_next_one_lasts_longer(path):
    budget(path, wall=lambda: START).refuse(Refused("HTTP 403"), exactly(START))
    assert is_banned(path, START + 119_000)
    assert not is_banned(path, START + 121_000)
    again = START + 600_000
    budget(path, wall=lambda: again).refuse(Refused("HTTP 403"), exactly(again))
    assert is_banned(path, again + 239_000)
    assert not is_banned(path, again + 241_000)


def test_without_any_clock_a_ban_counts_from_the_local_one(path):
    budget(path, wall=lambda: START).refuse(Refused("HTTP 418"))
    assert is_banned(path, START + 119_000)
    assert not is_banned(path, START + 121_000)


def test_a_local_clock_that_is_set_back_prolongs_a_ban_by_its_length_at_most(path):
    """It was a year ahead when the ban was told; whoever looks first afterwards starts the waiting anew."""
    budget(path, wall=lambda: START + 365 * DAY).refuse(Refused("HTTP 418", START + 2 * MINUTE), exactly(START))
    assert is_banned(path, START + 60_000)
    assert is_banned(path, START + 60_000 + 119_000)
    assert not is_banned(path, START + 60_000 + 121_000)


def test_no_ban_outlasts_three_days(path):
    budget(path, wall=lambda: START).refuse(Refused("HTTP 418", START + 4_000 * DAY), exactly(START))
    assert is_banned(path, START + 3 * DAY - MINUTE)
    assert not is_banned(path, START + 3 * DAY + MINUTE)


def test_a_process_that_knows_the_exchanges_clock_goes_by_it(path):
    budget(path, wall=lambda: START).refuse(Refused("HTTP 418", START + 2 * MINUTE), exactly(START))
    other = budget(path, wall=lambda: START - 10 * DAY)
    with pytest.raises(Refused):
        other.reserve(1, exactly(START + 119_999))
    assert isinstance(other.reserve(1, exactly(START + 120_000)), Ticket)


def test_the_exchanges_clock_is_told_to_the_next_process_with_its_uncertainty(path):
    wall = Wall(5_000)
    assert SharedFile(path, wall=wall).recall() == Now(5_000, 5_000), "the local clock is all there is"
    budget(path, wall=wall).reserve(1, Now(START - 20, START + 30))
    wall.time += 1_000_000
    assert SharedFile(path, wall=wall).recall() == Now(START + 999_880, START + 1_000_130)


# ---- places


@pytest.mark.parametrize(
    ("market", "url", "same"),
    [
        (UM, "https://fapi.binance.com", "fapi.binance.com"),
        (UM, "https://FAPI.binance.com:443/", "fapi.binance.com"),
        (CM, "https://dapi.binance.com", "fapi.binance.com"),
        (SPOT, "https://api.binance.com", "api.binance.com"),
        (UM, "https://testnet.binancefuture.com", "testnet.binancefuture.com"),
        (CM, "https://testnet.binancefuture.com", "testnet.binancefuture.com"),
        (UM, "http://127.0.0.1:8700", "127.0.0.1:8700"),
        (CM, "http://127.0.0.1:8701", "127.0.0.1:8701"),
        (UM, "https://user:secret@proxy.example:8443/binance/", "proxy.example:8443/binance"),
    ],
)
def test_what_counts_as_one_exchange(market, url, same):
    assert exchange_at(market, url) == same


def test_one_file_a_pool_and_exchange(tmp_path):
    pools = SharedPools(tmp_path / "state", 1.0)
    one, two = "https://one.example/a b", "http://127.0.0.1:8700"
    assert pools.weight(UM, UM.url) is pools.weight(CM, CM.url)
    assert pools.weight(UM, one) is not pools.weight(UM, two)
    assert pools.funding(UM, one) is pools.funding(CM, one)
    for pool in (pools.weight(UM, UM.url), pools.weight(UM, one), pools.weight(SPOT, one), pools.funding(UM, two)):
        assert isinstance(pool.reserve(pool_limit(pool), exactly(START)), Ticket)
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == [
        "funding@127.0.0.1%3A8700.json",
        "futures@fapi.binance.com.json",
        "futures@one.example%2Fa%20b.json",
        "spot@one.example%2Fa%20b.json",
    ]


def pool_limit(pool: WeightBudget | RequestPool) -> int:
    return 2400 if isinstance(pool, WeightBudget) else 1
