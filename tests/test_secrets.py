"""Passwords in addresses are in nothing that is printed, logged or stored."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from etl.config import load
from etl.errors import UsageError
from etl.ranges import parse_time
from etl.sim.clock import Clock
from etl.sim.faults import Faults
from etl.sim.market import GeneratedWorld
from etl.sim.server import Simulator
from etl.text import masked

from .exchange import nobody

USER, PASSWORD = "canary-user", "canary-password"
PROXY_USER, PROXY_PASSWORD = "canary-proxy-user", "canary-proxy-password"
# As they are, and as a header holds them.
PAIRS = (f"{USER}:{PASSWORD}", f"{PROXY_USER}:{PROXY_PASSWORD}")
CANARIES = [b"canary", *(base64.b64encode(pair.encode()) for pair in PAIRS)]
BACKFILL = ("backfill", "klines", "funding", "--symbols", "BTCUSDT", "--interval", "1h", "--start", "2026-02-20")


@pytest.fixture(scope="module")
def world():
    return GeneratedWorld(seed=4)


@pytest.fixture
def exchange(world):
    with Simulator(world, clock=Clock(parse_time("2026-03-01T12:30:30"), frozen=True)) as running:
        yield running


@pytest.fixture
def etl(exchange, tmp_path):
    """Runs `etl` with passwords in every address; exit code, and all that was printed, after it was searched for them."""
    url = exchange.url.replace("://", f"://{USER}:{PASSWORD}@")

    def run(*arguments, **env):
        names = ("UM", "CM", "SPOT", "ARCHIVE", "ARCHIVE_INDEX")
        proxy = f"http://{PROXY_USER}:{PROXY_PASSWORD}@127.0.0.1:1"
        clean = {key: value for key, value in os.environ.items() if not key.startswith("ETL_")}
        finished = subprocess.run(
            [sys.executable, "-m", "etl", *arguments],
            cwd=tmp_path,
            env={
                **clean,
                **{f"ETL_{name}_URL": url for name in names},
                "HTTPS_PROXY": proxy,
                "ETL_LAKE": str(tmp_path / "lake"),
                "ETL_STATE_DIR": str(tmp_path / "state"),
                **env,
            },
            capture_output=True,
            timeout=300,
            check=False,
        )
        printed = finished.stdout + finished.stderr
        assert printed
        assert leaks(printed) == []
        return finished.returncode, printed.decode()

    return run


def leaks(content):
    return [word for word in CANARIES if word in content]


def searched(folder):
    """How many files there are below a folder, after their names and contents were searched."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    for path in files:
        assert leaks(str(path).encode()) == [], path
        assert leaks(path.read_bytes()) == [], path
    return len(files)


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_run_keeps_them_nowhere(etl, tmp_path, form):
    for arguments in (
        BACKFILL,
        (*BACKFILL, "--json", "-v", "--dry-run"),
        ("update", "-v"),
        ("repair", "--json"),
        ("verify", "--against", "rest", "--json"),
        ("symbols", "--json"),
        ("quote", "BTCUSDT", "--json"),
        ("snapshot", "create", "one"),
    ):
        code, printed = etl(*arguments, ETL_LOG_FORMAT=form)
        assert code == 0, printed
    kinds = {path.suffix for path in (tmp_path / "lake").rglob("*")}
    assert {".parquet", ".jsonl", ".duckdb", ".sql"} <= kinds
    assert searched(tmp_path / "lake") >= 8
    assert searched(tmp_path / "state") >= 2


FAULTS = {
    "refused": ({"action": "status", "status": 403, "body": "html"}, 4),
    "busy": ({"action": "status", "status": 503, "body": "html", "path": "klines|fundingRate|zip"}, 3),
    "no JSON": ({"action": "html_200", "path": "klines|fundingRate"}, 3),
    "cut off": ({"action": "truncated_json", "path": "klines|fundingRate"}, 3),
    "reset": ({"action": "reset", "path": "exchangeInfo", "first": 2}, 0),
    "redirected": ({"action": "redirect"}, 1),
    "another shape": ({"action": "object_instead_of_list", "path": "klines|fundingRate"}, 3),
    "too large": ({"action": "endless", "path": "klines"}, 3),
}


@pytest.mark.parametrize(("fault", "expected"), FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("form", ["text", "json"])
def test_no_failure_names_them(etl, exchange, tmp_path, fault, expected, form):
    exchange.faults = Faults([fault])
    limit = ("--max-duration", "4s") if expected == 3 else ()  # what is asked again and again
    code, printed = etl(*BACKFILL, "--source", "rest", "-v", "--json", *limit, ETL_LOG_FORMAT=form)
    assert code == expected, printed
    if code:
        assert "http://***@127.0.0.1:" in printed  # the address itself is named, and helps
    searched(tmp_path)


def test_nobody_there(etl, tmp_path):
    """A port where nobody listens, for the exchange and for the proxy."""
    with nobody() as closed:
        for url in (closed.replace("//", f"//{USER}:{PASSWORD}@"), f"https://{USER}:{PASSWORD}@exchange.invalid"):
            code, printed = etl("quote", "BTCUSDT", "-v", "--json", ETL_UM_URL=url)
            assert code == 1, printed
            assert "***@" in printed
    searched(tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        f"ftp://{USER}:{PASSWORD}@host",
        f"{USER}:{PASSWORD}@host",
        f"https://{USER}:{PASSWORD}/more@host",
        f"https://{USER}:{PASSWORD}?more@host",
        f"https://{USER}:{PASSWORD}#more@host",
        f"https://{USER}:two words {PASSWORD}@host",
        f"https://{USER}:{PASSWORD}@more@host?query",
    ],
)
def test_a_wrong_address_is_refused_without_being_quoted(etl, tmp_path, url):
    for form in ("text", "json"):
        code, printed = etl(*BACKFILL, "-v", ETL_UM_URL=url, ETL_LOG_FORMAT=form)
        assert code == 2
        assert "ETL_UM_URL" in printed
    (tmp_path / "settings.toml").write_text(f"um_url = {json.dumps(url)}\n")
    with pytest.raises(UsageError, match="um_url") as refused:
        load({"config": str(tmp_path / "settings.toml")}, env={}, cwd=tmp_path)
    assert leaks(str(refused.value).encode()) == []


@pytest.mark.parametrize(
    "proxy",
    [
        f"ftp://{PROXY_USER}:{PROXY_PASSWORD}@host:1",
        f"socks5://{PROXY_USER}:{PROXY_PASSWORD}@host:1",
        f"http://{PROXY_USER}:{PROXY_PASSWORD}/more@host:1",
        f"http://{PROXY_USER}:{PROXY_PASSWORD}@host:{PROXY_PASSWORD}",
    ],
)
@pytest.mark.parametrize("form", ["text", "json"])
def test_a_proxy_that_is_none_is_a_wrong_setting(etl, proxy, form):
    code, printed = etl(*BACKFILL, "-v", HTTPS_PROXY=proxy, ETL_LOG_FORMAT=form)
    assert code == 2
    assert "HTTPS_PROXY" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET http://me:secret@host:1/a?b=c: no", "GET http://***@host:1/a?b=c: no"),
        ("https://me@host", "https://***@host"),
        ("https://me:a@b/c@host/x", "https://***@host/x"),
        ("two: http://a:b@c and http://d:e@f", "two: http://***@c and http://***@f"),
        ("http://host/path and me@host", "http://host/path and me@host"),
        ("nothing", "nothing"),
    ],
)
def test_masked(text, shown):
    assert masked(text) == shown


def test_the_search_would_find_them(tmp_path):
    for content in (PASSWORD.encode(), base64.b64encode(f"{USER}:{PASSWORD}".encode())):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(AssertionError):
            searched(tmp_path)
