"""The proxy variables, through whole runs; CONNECT, TLS and SSL_CERT_FILE are in tests/extract/test_http.py."""

import pytest

from etl.errors import Transient
from etl.sim.clock import Clock
from etl.sim.market import GeneratedWorld
from etl.sim.server import Simulator

from .test_matrix import BARS, NOW, RATES, assert_exact, nobody, run

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")


def test_the_proxy_is_asked_unless_the_host_is_excepted(tmp_path, monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    world = GeneratedWorld(seed=5, symbols=2)
    with Simulator(world, clock=Clock(NOW, frozen=True)) as exchange, nobody() as dead:
        monkeypatch.setenv("HTTP_PROXY", dead)
        with pytest.raises(Transient):
            run(exchange, tmp_path / "lake")
        assert exchange.requests == []
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert run(exchange, tmp_path / "lake").exit_code == 0
        assert_exact(exchange, tmp_path / "lake", *BARS, *RATES)
