"""What the crash tests share. `ETL_SOAK=1` (make soak) runs all of what is only sampled otherwise."""

import os

import pytest

from etl.ranges import parse_time
from etl.sim.clock import Clock
from etl.sim.market import GeneratedWorld
from etl.sim.server import Simulator

from . import strace as system_calls
from .processes import Parent, Shell

NOW = parse_time("2026-03-01T12:30:30")
SOAK = os.environ.get("ETL_SOAK") == "1"


@pytest.fixture(scope="session")
def world():
    return GeneratedWorld(seed=11, symbols=4)


@pytest.fixture
def exchange(world):
    with Simulator(world, clock=Clock(NOW, frozen=True), enforce=False) as running:
        yield running


@pytest.fixture(scope="session")
def parent():
    with Parent() as running:
        yield running


@pytest.fixture
def shell(parent, exchange, tmp_path):
    return Shell(parent, tmp_path, exchange.url)


@pytest.fixture(scope="session")
def strace():
    system_calls.need()
    return system_calls
