"""The counts of the limits in files, so that all processes of this host count together: a lock, a read, a write a time.

The system drops the lock with its process, so a dead one blocks nobody, and what it had in flight counts until `limits` lets it
land. Whatever is wrong with a file, the run goes on: with a count of its own, or a new file, and a warning that names it.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Literal
from urllib.parse import quote, urlsplit

import msgspec

from .. import registry
from ..model import Market
from .limits import Now, RequestPool, State, WeightBudget

_log = logging.getLogger("etl")

# Whoever holds a lock does so for 50 µs; only a process that was stopped in between can hold it for so many seconds.
_PATIENCE = 5.0
# A full window of settlements is 8 KB; whatever is larger than this is not ours.
_LARGEST = 1 << 16
# Local clocks gain or lose 100 ppm at most, when nobody sets them.
_DRIFT = 10_000


class Page(msgspec.Struct, forbid_unknown_fields=True):
    """What a file holds: a state, and where the exchange's clock was (`earliest` to `latest`) when the local one showed `wall`.

    A process that starts knows the local clock alone: from these it knows the exchange's, whatever zone or year ours is set to.
    All in ms UTC; `wall` is 0 while no clock was ever known.
    """

    version: Literal[1] = 1
    wall: int = 0
    earliest: int = 0
    latest: int = 0
    state: State = msgspec.field(default_factory=State)

    def seen(self, now: Now, wall: int) -> None:
        """The exchange's clock is at `now` when the local one shows `wall`."""
        self.wall, self.earliest, self.latest = wall, *now

    def expected(self, wall: int) -> Now:
        """Where the exchange's clock should be when the local one shows `wall`, which is all there is if none was ever seen.

        A local clock that was set back since has nothing to say: then the exchange's stands where it was, at least.
        """
        if not self.wall:
            return Now(wall, wall)
        age = max(0, wall - self.wall)
        return Now(self.earliest + age - age // _DRIFT, self.latest + age + age // _DRIFT)


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Page).decode
_version = msgspec.json.Decoder(dict[str, object]).decode


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class SharedFile:
    """A state in a file, for threads and processes alike; nothing stays open between two uses."""

    def __init__(self, path: Path, *, wall: Callable[[], int] = _wall_ms, patience: float = _PATIENCE) -> None:
        self._path = path
        self._wall = wall
        self._patience = patience
        self._threads = Lock()
        self._page = Page()
        self._size = 0
        self._alone = False
        self._warned = False

    @property
    def name(self) -> str:
        """The file's path."""
        return str(self._path)

    @contextmanager
    def open(self, now: Now | None) -> Iterator[State]:
        """The state as all processes left it, to be changed in place; written unless the caller raises."""
        with self._threads:
            handle = self._take()
            try:
                yield self._page.state
                if now is not None:
                    self._page.seen(now, self._wall())
                self._put(handle)
            finally:
                if handle is not None:
                    os.close(handle)  # and with it the lock

    def recall(self) -> Now:
        """Where the exchange's clock should be by the local one, and by what any process last knew of it."""
        with self._threads:
            handle = self._take()
            try:
                wall = self._wall()
                now = self._page.expected(wall)
                if (
                    wall < self._page.wall
                ):  # it was set back: what is to be waited for is waited for from here on, not from then
                    self._page.seen(now, wall)
                    self._put(handle)
                return now
            finally:
                if handle is not None:
                    os.close(handle)

    def _take(self) -> int | None:
        """Lock the file and read it; None where this process is on its own."""
        if self._alone:
            return None
        handle = None
        try:
            handle = self._opened()
            self._lock(handle)
            self._read(handle)
        except OSError as error:
            if handle is not None:
                os.close(handle)
            with suppress(OSError, msgspec.DecodeError, ValueError):  # what can be read is obeyed
                if self._path.is_file():
                    self._page = _decode(self._path.read_bytes())
            self._go_alone(error)
            return None
        return handle

    def _put(self, handle: int | None) -> None:
        if handle is None:
            return
        # One write, never shorter than the last one: a process that is killed leaves the old page or the new one.
        data = (_encode(self._page) + b"\n").ljust(self._size)
        try:
            written = os.pwrite(handle, data, 0)
        except OSError as error:
            self._go_alone(error)
        else:
            if written < len(data):
                self._go_alone(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    def _opened(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK  # what is no file, as a pipe, must not hold us up
        try:
            return os.open(self._path, flags, 0o666)
        except FileNotFoundError:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(self._path, flags, 0o666)

    def _lock(self, handle: int) -> None:
        deadline, pause = time.monotonic() + self._patience, 2e-5
        while True:
            try:
                return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        errno.ETIMEDOUT, f"another process has kept it locked for {self._patience:g} s"
                    ) from None
            time.sleep(pause)
            pause = min(2 * pause, 1e-3)

    def _read(self, handle: int) -> None:
        data = os.pread(handle, _LARGEST, 0)
        self._size = len(data)
        if not data:  # new, or removed meanwhile: what this process knows begins it
            return
        try:
            self._page = _decode(data)
        except (msgspec.DecodeError, ValueError) as error:
            if _is_newer(data) or len(data) == _LARGEST:
                raise OSError(errno.EINVAL, "it is of another version of this program, or of another program") from error
            self._warn(f"is damaged ({error}); it is begun anew")

    def _go_alone(self, error: OSError) -> None:
        """From now on count in this process only, beginning with what is known."""
        self._alone = True
        why = error.strerror or str(error)
        self._warn(f"cannot be used ({why}); this process counts alone, and others do not see what it sends")

    def _warn(self, what: str) -> None:
        if not self._warned:
            _log.warning("the weight budget %s %s", self._path, what)
        self._warned = True


def _is_newer(data: bytes) -> bool:
    with suppress(msgspec.DecodeError, ValueError):
        version = _version(data).get("version")
        return isinstance(version, int) and version > 1
    return False


class SharedPools:
    """The pools whose counts lie in `folder`, to be used up to `share`; those that are one for the exchange are one object."""

    def __init__(self, folder: Path, share: float) -> None:
        self._folder = folder
        self._share = share
        self._weights: dict[Path, WeightBudget] = {}
        self._fundings: dict[Path, RequestPool] = {}

    def weight(self, market: Market, url: str) -> WeightBudget:
        """The weight budget of the market at that base URL."""
        path = self._path(market.pool, market, url)
        if path not in self._weights:
            self._weights[path] = WeightBudget(market.weight_limit, self._share, SharedFile(path))
        return self._weights[path]

    def funding(self, market: Market, url: str) -> RequestPool:
        """The requests for settlements at that base URL."""
        path = self._path("funding", market, url)
        if path not in self._fundings:
            self._fundings[path] = RequestPool(share=self._share, shelf=SharedFile(path))
        return self._fundings[path]

    def _path(self, pool: str, market: Market, url: str) -> Path:
        return self._folder / f"{pool}@{quote(exchange_at(market, url), safe='')[-200:]}.json"


def exchange_at(market: Market, url: str) -> str:
    """What the pools of a base URL hang on: its host, port and path; for markets that share a pool of the exchange and lie at
    its own addresses, the first one's.
    """
    address = _address(url)
    siblings = [other for other in registry.MARKETS.values() if other.pool == market.pool]
    for known in ([_address(one.url) for one in siblings], [_address(one.testnet_url) for one in siblings]):
        if address in known:
            return known[0]
    return address


def _address(url: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2].lower()  # who asks is no part of where
    return host.removesuffix({"https": ":443", "http": ":80"}.get(parts.scheme, "")) + parts.path.rstrip("/")
