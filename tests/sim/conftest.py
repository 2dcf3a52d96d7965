"""A client that knows nothing of the package, and exchanges at a fixed time."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import pytest

from etl.ranges import parse_time
from etl.sim.clock import Clock
from etl.sim.market import GeneratedWorld
from etl.sim.server import Simulator

NOW = parse_time("2026-11-20T12:00:30")


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


def fetch(sim: Simulator, path: str, /, headers: dict[str, str] | None = None, **params: object) -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", int(sim.url.rpartition(":")[2]), timeout=10)
    try:
        connection.request("GET", f"{path}?{urlencode(params)}", headers=headers or {})
        response = connection.getresponse()
        return Reply(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()


@pytest.fixture(scope="session")
def world() -> GeneratedWorld:
    return GeneratedWorld(seed=7)


@pytest.fixture
def start(world: GeneratedWorld) -> Iterator[Callable[..., Simulator]]:
    """Starts exchanges whose clock stands still at NOW; they are stopped after the test."""
    with ExitStack() as stack:

        def begin(market: Any = None, **options: Any) -> Simulator:
            options.setdefault("clock", Clock(NOW, frozen=True))
            return stack.enter_context(Simulator(market or world, **options))

        yield begin


@pytest.fixture(scope="session")
def sim(world: GeneratedWorld) -> Iterator[Simulator]:
    """One exchange without limits for tests that change nothing."""
    with Simulator(world, clock=Clock(NOW, frozen=True), enforce=False) as running:
        yield running


@pytest.fixture
def get(sim: Simulator) -> Callable[..., Reply]:
    return lambda path, **params: fetch(sim, path, **params)
