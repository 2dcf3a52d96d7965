"""What the README shows runs: its shell commands and its Python, in order, against the embedded exchange."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from etl.ranges import parse_time
from etl.sim.clock import Clock
from etl.sim.faults import Faults
from etl.sim.market import GeneratedWorld
from etl.sim.server import Simulator

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder to work in, and the environment of a user whose exchange is the embedded one."""
    folder = tmp_path_factory.mktemp("readme")
    with Simulator(GeneratedWorld(seed=5), clock=Clock(parse_time("2026-03-01T12:30:30"), frozen=True)) as exchange:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("ETL_")}
        yield (
            folder,
            {**clean, "ETL_UM_URL": exchange.url, "ETL_STATE_DIR": str(folder / "state"), "ETL_LAKE": str(folder / "lake")},
        )


def blocks(language, text=README):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_commands_and_python(place):
    folder, env = place
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith(".venv/bin/etl ")]
    assert len(commands) >= 10
    for command in commands:
        spelled = command.replace(".venv/bin/etl", f"'{sys.executable}' -m etl", 1)
        finished = subprocess.run(spelled, shell=True, cwd=folder, env=env, capture_output=True, text=True, check=False)
        assert finished.returncode == 0, f"{command}\n{finished.stderr}"
        assert finished.stdout or re.search(r" (backfill|update|verify|repair|-o) ", f"{command} "), command
    for query in blocks("sql"):
        finished = subprocess.run(
            [sys.executable, "-m", "etl", "sql", "-", "--format", "json"],
            cwd=folder,
            env=env,
            input=query,
            capture_output=True,
            text=True,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr
        (row,) = json.loads(finished.stdout)
        assert (row["hours"], row["net"]) == (9 * 24 + 12, pytest.approx(row["price"] + row["funding"]))
        assert 0 < row["hours_long"] < row["hours"]
    for code in blocks("python"):
        client = f"etl.BinanceFuturesClient(base_url={env['ETL_UM_URL']!r})"
        spelled = code.replace("etl.BinanceFuturesClient()", client)
        assert client in spelled
        finished = subprocess.run(
            [sys.executable, "-W", "error", "-c", spelled], cwd=folder, env=env, capture_output=True, text=True, check=False
        )
        assert finished.returncode == 0, finished.stderr
        assert finished.stdout.startswith("1440 ")


def test_make_targets_and_files_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make ([a-z]+)", README):
        assert re.search(rf"^{target}:.*## ", makefile, re.MULTILINE), target
    for path in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / path).exists(), path


def test_the_page_of_the_simulator(tmp_path):
    page = (ROOT / "docs" / "simulator.md").read_text()
    (rules,) = blocks("toml", page)
    (tmp_path / "faults.toml").write_text(rules)
    assert Faults.load(tmp_path / "faults.toml")
    (shell,) = blocks("sh", page)
    (time,) = re.findall(r"etl sim .*--clock (\S+)$", page, re.MULTILINE)
    with Simulator(GeneratedWorld(seed=1), clock=Clock(parse_time(time))) as exchange:
        for old, new in {"http://127.0.0.1:8700": exchange.url, "/tmp/trial": f"{tmp_path}/trial"}.items():
            assert old in shell
            shell = shell.replace(old, new)
        shell = shell.replace(".venv/bin/etl", f"'{sys.executable}' -m etl")
        env = {key: value for key, value in os.environ.items() if not key.startswith(("ETL_", "XDG_"))}
        home = tmp_path / "home"
        home.mkdir()
        told = subprocess.run(
            ["bash", "-euc", shell], cwd=home, env={**env, "HOME": str(home)}, capture_output=True, text=True, check=True
        )
    assert f"{time[:10]}T11:00:00Z" in told.stdout  # the last bar is that of the exchange's clock
    assert list(home.iterdir()) == []
    (code,) = blocks("python", page)
    finished = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.startswith("http://127.0.0.1:")
