"""An exchange, a lake of it with every kind of series that an export must know, and the tools that read what is exported."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from etl.cli import cli
from etl.lake.symbols import Symbols
from etl.model import SymbolRules
from etl.pipeline import Pipeline, Selection
from etl.ranges import parse_time
from etl.sim.clock import Clock
from etl.sim.market import GeneratedWorld
from etl.sim.server import Simulator

from ..exchange import settings

ROOT = Path(__file__).parents[2]
NOW = parse_time("2026-08-10T12:30:30")
HOURS = ("BTCUSDT", "币安人生USDT", "1000PEPEUSDT", "TSLAUSDT", "LRCUSDT", "BTCUSDT_261225")

# One contract of each kind: an ordinary one, a name that is no ASCII, tiny prices, a share with special settlements, one that
# was delisted meanwhile, a dated one, one that only the archive remembers, one with a gap; calendar months; three markets.
LAKE = (
    ("auto", Selection("um", ("klines",), ("SRMUSDT",), ("1h",), parse_time("2022-11-20"), parse_time("2022-11-28"))),
    ("rest", Selection("um", ("klines", "funding", "mark_klines"), HOURS, ("1h",), parse_time("2026-07-28"))),
    ("rest", Selection("um", ("klines",), ("BTCUSDT",), ("1d",), parse_time("2025-12-01"))),
    ("rest", Selection("um", ("klines",), ("BTCUSDT",), ("1M",), parse_time("2025-01-01"))),
    ("rest", Selection("um", ("klines",), ("BTCUSDT",), ("1m",), parse_time("2026-07-31"), parse_time("2026-08-02"))),
    ("rest", Selection("um", ("mark_klines",), ("BTCUSDT",), ("1m",), parse_time("2026-07-31"), parse_time("2026-07-31T01"))),
    ("rest", Selection("um", ("klines",), ("XLMUSDT",), ("1h",), parse_time("2024-01-16"), parse_time("2024-01-18"))),
    ("rest", Selection("cm", ("klines", "funding"), ("BTCUSD_PERP",), ("1h",), parse_time("2026-08-01"))),
    ("rest", Selection("spot", ("klines",), ("BTCUSDT",), ("1h",), parse_time("2026-08-01"))),
)


@pytest.fixture(scope="session")
def exchange():
    with Simulator(GeneratedWorld(seed=12), clock=Clock(NOW, frozen=True)) as running:
        yield running


def fetch(exchange: Simulator, folder: Path, *selections: tuple[str, Selection]) -> None:
    """Backfill the lake at `folder`, each selection from its source."""
    for source, selection in selections:
        with Pipeline(settings(exchange, folder), source=source) as pipeline:
            assert pipeline.sync("backfill", [selection]).exit_code == 0


@pytest.fixture(scope="session")
def lake(exchange, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "lake"
    fetch(exchange, folder, *LAKE)
    # A tick and a step that the exchange has made coarser since: what is stored needs more places than the rules have now.
    known = Symbols(folder, "um")
    told = {name: value for name, value in known.rows()["1000PEPEUSDT"].items() if name not in {"first_time", "last_time"}}
    assert known.update([SymbolRules(**{**told, "tick_size": 0.001, "step_size": 100.0})], {})
    return folder


@pytest.fixture
def export(lake, tmp_path) -> Callable[..., Result]:
    """Runs `etl export` on the lake, in this process."""

    def run(*arguments: str, code: int = 0) -> Result:
        env = {"ETL_LAKE": str(lake), "HOME": str(tmp_path), "ETL_CONFIG": None}
        result = CliRunner(env=env).invoke(cli, ["export", *arguments])
        assert getattr(result.exception, "exit_code", result.exit_code) == code, (result.output, result.exception)
        return result

    return run


@pytest.fixture
def documented(export) -> Callable[..., dict[str, Any]]:
    """Runs it with --json and gives the document."""
    return lambda *arguments: json.loads(export(*arguments, "--json").stdout)


def python_of(tool: str) -> Path:
    """The interpreter of a tool's environment; the test is skipped, aloud, where there is none."""
    if not (ROOT / ".venv-tools" / tool / ".installed").exists():
        pytest.skip(f"{tool} is not installed: run make tools")
    return ROOT / ".venv-tools" / tool / "bin" / "python"


def snippet(heading: str) -> str:
    """The Python that docs/exports.md shows under a heading."""
    page = (ROOT / "docs" / "exports.md").read_text()
    part = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    (code,) = re.findall(r"^```python\n(.*?)^```", part[1], re.MULTILINE | re.DOTALL)
    return code


def ask(tool: str, heading: str, loader: str, folder: Path, *arguments: str) -> Any:
    """What the tool says that it has read: the Python of the page, then that of a loader, whose last line is JSON."""
    code = snippet(heading) + (Path(__file__).parent / loader).read_text()
    env = {name: value for name, value in os.environ.items() if not name.startswith(("ETL_", "PYTHON"))}
    env["NUMBA_DISABLE_JIT"] = "1"  # of vectorbt: for some hundred bars it compiles for longer than it computes
    finished = subprocess.run(
        [python_of(tool), "-c", code, *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])
