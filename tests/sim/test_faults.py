"""Every fault, over the wire, and the rules that choose requests."""

from __future__ import annotations

import gzip
import http.client
import json
import random
import re
import socket
import time
from collections.abc import Callable
from contextlib import nullcontext
from email.utils import parsedate_to_datetime
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest

from etl.errors import UsageError
from etl.ranges import MINUTE, from_datetime, parse_time
from etl.sim import faults as module
from etl.sim.exchange import Request
from etl.sim.faults import ACTIONS, Delivery, Faults, parse_rule
from etl.sim.market import GeneratedWorld
from etl.sim.server import Simulator

from .conftest import NOW, Reply, fetch

KLINES = "/fapi/v1/klines"
START = parse_time("2024-03-01")
Start = Callable[..., Simulator]


@pytest.fixture
def answers(start: Start, world: GeneratedWorld) -> Callable[..., tuple[Reply, list[Any]]]:
    """The answer to a page of ten bars with one fault, and what it should have been."""

    def ask(action: str, **keys: Any) -> tuple[Reply, list[Any]]:
        sim = start(faults=Faults([{"action": action, **keys}]))
        truth = world.truth("um", "klines", "BTCUSDT", "1m", START, START + 10 * MINUTE)
        reply = page(sim)
        assert sim.requests[-1].fault == action
        return reply, truth

    return ask


def page(sim: Simulator, **params: Any) -> Reply:
    return fetch(sim, KLINES, **{"symbol": "BTCUSDT", "interval": "1m", "startTime": START, "limit": 10, **params})


Answers = Callable[..., tuple[Reply, list[Any]]]


# --- instead of the answer


@pytest.mark.parametrize("status", [403, 408, 418, 429, 451, 500, 502, 503, 504])
def test_status_with_json(answers: Answers, status: int) -> None:
    reply, _ = answers("status", status=status)
    assert reply.status == status
    assert isinstance(reply.body["code"], int)


def test_status_with_other_bodies(answers: Answers) -> None:
    html, _ = answers("status", status=403, body="html")
    assert (html.status, html.headers["content-type"]) == (403, "text/html")
    text, _ = answers("status", status=502, body="text")
    assert not text.raw.startswith((b"{", b"<"))
    odd, _ = answers("status", status=400, body="string-code")
    assert odd.body["code"] == "000002"
    restricted, _ = answers("status", status=451, body="451")
    assert (len(restricted.raw), restricted.body["code"]) == (224, 0)  # as recorded (binance-facts 4.3)


def test_retry_after(answers: Answers) -> None:
    reply, _ = answers("retry_after", seconds=7)
    assert (reply.status, reply.headers["retry-after"]) == (429, "7")
    dated, _ = answers("retry_after", seconds=7, form="date", status=503)
    assert dated.status == 503
    assert 7_000 <= from_datetime(parsedate_to_datetime(dated.headers["retry-after"])) - NOW < 8_000


def test_empty_html_and_object(answers: Answers) -> None:
    assert answers("empty_body")[0].raw == b""
    html, _ = answers("html_200")
    assert (html.status, html.raw[:9]) == (200, b"<!DOCTYPE")
    assert "code" in answers("object_instead_of_list")[0].body


def test_any_body(answers: Answers) -> None:
    reply, _ = answers("body", text='{"a": NaN}')
    assert (reply.status, reply.raw) == (200, b'{"a": NaN}')


def test_redirect(answers: Answers) -> None:
    reply, _ = answers("redirect", location="http://127.0.0.2/", status=307)
    assert (reply.status, reply.headers["location"]) == (307, "http://127.0.0.2/")


def test_gzip_bomb(answers: Answers) -> None:
    reply, _ = answers("gzip_bomb", megabytes=3)
    assert reply.headers["content-encoding"] == "gzip"
    assert len(reply.raw) < 10_000
    assert len(gzip.decompress(reply.raw)) == 3 * 2**20


# --- rows


def test_wrong_rows(answers: Answers) -> None:
    for keys, at in (({}, 9), ({"row": 2}, 2)):
        reply, truth = answers("wrong_width_row", width=9, **keys)
        assert [len(row) for row in reply.body] == [9 if number == at else 12 for number in range(10)]
        reply, truth = answers("wrong_type_row", **keys)
        assert reply.body[at][4] == "abc"
        assert [row for number, row in enumerate(reply.body) if number != at] == truth[:at] + truth[at + 1 :]
    assert [len(row) for row in answers("wrong_width_row", width=14)[0].body][-1] == 14
    assert answers("nan")[0].body[-1][4] == "NaN"
    assert b",NaN," in answers("nan", bare=True)[0].raw


def test_missing_rows(answers: Answers) -> None:
    reply, truth = answers("short_page", drop=3)
    assert reply.body == truth[:7]
    reply, _ = answers("drop_middle", drop=2)
    assert reply.body == truth[:4] + truth[6:]
    assert answers("empty_page")[0].body == []
    assert answers("short_page", drop=99)[0].body == []


def test_repeated_rows(answers: Answers, world: GeneratedWorld) -> None:
    reply, truth = answers("duplicate_rows", rows=2)
    assert reply.body == truth + truth[-2:]
    assert answers("duplicate_page")[0].body == truth + truth
    earlier = world.truth("um", "klines", "BTCUSDT", "1m", START - 2 * MINUTE, START + 8 * MINUTE)
    assert answers("overlap", rows=2)[0].body == earlier


def test_disorder_and_conflict(answers: Answers) -> None:
    reply, truth = answers("shuffled")
    assert reply.body != truth
    assert sorted(reply.body) == truth
    reply, _ = answers("conflict", row=4)
    assert len(reply.body) == 11
    assert reply.body[4] == truth[4]
    assert reply.body[5][0] == truth[4][0]
    assert reply.body[5] != truth[4]


def test_an_open_bar_after_the_last_row(answers: Answers) -> None:
    reply, truth = answers("open_bar_extra")
    assert reply.body[:-1] == truth
    assert reply.body[-1][0] <= NOW <= reply.body[-1][6]


def test_stuck_page(start: Start) -> None:
    sim = start(faults=Faults([{"action": "stuck_page"}]))
    first = page(sim).body
    assert page(sim, startTime=START + 10 * MINUTE).body == first
    other = page(sim, symbol="ETHUSDT").body
    assert other != first
    sim.reset()
    assert page(sim, startTime=START + 10 * MINUTE).body != first


def test_a_late_revision(start: Start) -> None:
    at = START + 3 * MINUTE
    sim = start(faults=Faults([{"action": "revise", "open_time": at, "after": 1}]))
    before, after, again = (page(sim).body for _ in range(3))
    assert [number for number in range(10) if before[number] != after[number]] == [3]
    assert after == again
    assert after[3][0] == at


@pytest.mark.parametrize("action", ["nan", "wrong_type_row", "wrong_width_row", "conflict", "revise", "short_page", "overlap"])
def test_faults_of_settlements(start: Start, action: str) -> None:
    options = {"symbol": "BTCUSDT", "startTime": START, "limit": 5}
    honest = fetch(start(), "/fapi/v1/fundingRate", **options).body
    reply = fetch(start(faults=Faults([{"action": action}])), "/fapi/v1/fundingRate", **options)
    assert reply.body != honest
    assert all(isinstance(row, dict) for row in reply.body)


# --- transport


def raw(sim: Simulator, seconds: float = 5) -> tuple[bytes, type[Exception] | None]:
    """What arrives on a bare socket until the other end stops, and how it ends."""
    received = b""
    with socket.create_connection(("127.0.0.1", int(sim.url.rpartition(":")[2])), timeout=seconds) as connection:
        query = f"symbol=BTCUSDT&interval=1m&startTime={START}&limit=10"
        connection.sendall(f"GET {KLINES}?{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        try:
            while piece := connection.recv(65536):
                received += piece
        except OSError as error:
            return received, type(error)
    return received, None


@pytest.mark.parametrize(("when", "head", "body"), [("before", False, False), ("headers", True, False), ("body", True, True)])
def test_reset(start: Start, when: str, head: bool, body: bool) -> None:
    received, error = raw(start(faults=Faults([{"action": "reset", "when": when}])))
    assert error is ConnectionResetError
    start_line, _, rest = received.partition(b"\r\n\r\n")
    assert (bool(start_line), bool(rest)) == (head, body)


def test_fat_headers(start: Start) -> None:
    received, error = raw(start(faults=Faults([{"action": "fat_headers", "megabytes": 3}])))
    head, _, body = received.partition(b"\r\n\r\n")
    assert error is None
    assert len(head) > 3 * 2**20
    assert len(json.loads(body)) == 10


@pytest.mark.parametrize("action", ["hang_up", None])
def test_a_connection_that_ends_without_a_word(start: Start, action: str | None) -> None:
    sim = start(faults=Faults([{"action": action}] if action else []))
    connection = http.client.HTTPConnection("127.0.0.1", int(sim.url.rpartition(":")[2]), timeout=5)
    connection.request("GET", "/fapi/v1/time")
    response = connection.getresponse()
    assert response.read()
    assert response.getheader("connection") is None  # which means: it stays
    connection.sock.settimeout(5 if action else 0.2)
    with nullcontext() if action else pytest.raises(TimeoutError):
        assert connection.sock.recv(1) == b""
    connection.close()


@pytest.mark.parametrize(("action", "keys"), [("timeout", {}), ("stall", {}), ("stall", {"when": "body"})])
def test_silence(start: Start, action: str, keys: dict[str, str]) -> None:
    sim = start(faults=Faults([{"action": action, **keys}]))
    received, error = raw(sim, seconds=0.3)
    assert error is TimeoutError
    assert bool(received) == ("when" in keys)
    assert fetch(sim, "/sim/counters").status == 200, "the others are served meanwhile"


def test_a_short_stall_ends_with_the_answer(answers: Answers) -> None:
    for keys in ({}, {"when": "body"}):
        began = time.monotonic()
        reply, truth = answers("stall", seconds=0.2, **keys)
        assert reply.body == truth
        assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize("part", ["headers", "body"])
def test_slow_drip(answers: Answers, part: str) -> None:
    began = time.monotonic()
    reply, truth = answers("slow_drip", bytes_per_second=2000 if part == "body" else 500, part=part)
    assert reply.body == truth
    assert time.monotonic() - began > 0.2


def test_truncated_json(answers: Answers) -> None:
    whole = len(answers("clock_skew", ms=0)[0].raw)
    reply, _ = answers("truncated_json", keep=0.4)
    assert len(reply.raw) == int(reply.headers["content-length"]) == int(whole * 0.4)
    reply, _ = answers("truncated_json", length="none")
    assert (len(reply.raw), "content-length" in reply.headers) == (whole // 2, False)
    with pytest.raises(json.JSONDecodeError):
        _ = reply.body
    with pytest.raises(http.client.IncompleteRead):
        answers("truncated_json", length="full")


def test_endless_body(start: Start) -> None:
    sim = start(faults=Faults([{"action": "endless"}]))
    connection = http.client.HTTPConnection(sim.url.removeprefix("http://"), timeout=5)
    connection.request("GET", f"{KLINES}?symbol=BTCUSDT&interval=1m")
    response = connection.getresponse()
    assert len(response.read(5_000_000)) == 5_000_000
    response.close()
    connection.close()


def test_clock_skew(start: Start) -> None:
    sim = start(faults=Faults([{"action": "clock_skew", "ms": -43_400}]))
    reply = fetch(sim, "/fapi/v1/time")
    assert reply.body["serverTime"] == NOW - 43_400
    assert from_datetime(parsedate_to_datetime(reply.headers["date"])) == (NOW - 43_400) // 1000 * 1000
    info = fetch(sim, "/fapi/v1/exchangeInfo")
    assert info.body["serverTime"] == NOW - 43_400


def test_steps_of_a_delivery() -> None:
    assert list(Delivery().steps(b"head", b"body")) == [(0, b"headbody")]
    drip = list(Delivery(drip="body", rate=40).steps(b"head", b"body"))
    assert b"".join(data for _, data in drip) == b"headbody"
    assert sum(pause for pause, _ in drip) == pytest.approx(4 / 40)
    assert len(list(islice(Delivery(endless=True).steps(b"h", b"b"), 100))) == 100


# --- rules


def fired(rule: dict[str, Any], count: int, seed: int = 0) -> list[int]:
    parsed = parse_rule({"action": "empty_body", **rule}, "here")
    return [n for n in range(1, count + 1) if parsed.fires(n, random.Random(f"{seed}/{n}"))]


def test_which_requests_are_hit() -> None:
    assert fired({}, 3) == [1, 2, 3]
    assert fired({"first": 2}, 5) == [1, 2]
    assert fired({"after": 2}, 5) == [3, 4, 5]
    assert fired({"every": 3}, 10) == [3, 6, 9]
    assert fired({"after": 1, "every": 2, "first": 4}, 20) == [3, 5]
    half = fired({"probability": 0.5}, 1000)
    assert 400 < len(half) < 600
    assert half == fired({"probability": 0.5}, 1000) != fired({"probability": 0.5}, 1000, seed=1)


def test_path_and_symbol_are_matched() -> None:
    rule = parse_rule({"action": "empty_body", "path": "mark.*Klines$", "symbol": "BTCUSDT"}, "here")
    assert rule.matches(Request("/fapi/v1/markPriceKlines", {"symbol": "BTCUSDT"}))
    assert rule.matches(Request("/fapi/v1/markPriceKlines", {"pair": "BTCUSDT"}))
    assert not rule.matches(Request("/fapi/v1/markPriceKlines", {"symbol": "ETHUSDT"}))
    assert not rule.matches(Request("/fapi/v1/klines", {"symbol": "BTCUSDT"}))


def test_the_first_fitting_rule_is_applied_and_all_count(start: Start) -> None:
    rules = [
        {"action": "empty_page", "path": "klines", "after": 1, "first": 1},
        {"action": "short_page", "path": "klines", "first": 2},
    ]
    sim = start(faults=Faults(rules))
    assert [len(page(sim).body) for _ in range(3)] == [9, 0, 10]
    assert [one.fault for one in sim.requests] == ["short_page", "empty_page", None]


def test_refused_requests_are_left_alone(start: Start) -> None:
    sim = start(faults=Faults([{"action": "empty_body", "first": 1}]))
    assert page(sim, symbol="NOPE").body["code"] == -1121
    assert page(sim).raw == b""


@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_files(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"faults{suffix}"
    toml = 'seed = 3\n[[rule]]\npath = "klines"\nevery = 2\naction = "status"\nstatus = 503\nbody = "html"\n'
    rule = {"path": "klines", "every": 2, "action": "status", "status": 503, "body": "html"}
    file.write_text(toml if suffix == ".toml" else json.dumps({"seed": 3, "rule": [rule]}))
    (loaded,) = Faults.load(file).rules
    assert (loaded.action, loaded.path, loaded.every, loaded.args) == ("status", "klines", 2, {"status": 503, "body": "html"})


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"action": "explode"}, "unknown action 'explode'; known are status, retry_after, reset"),
        ({}, "unknown action None"),
        ({"action": "reset", "wen": "body"}, "unknown key 'wen'; known are action, after, every, first"),
        ({"action": "reset", "when": "never"}, "when must be one of 'before', 'headers', 'body', not 'never'"),
        ({"action": "status"}, "action status needs status"),
        ({"action": "status", "status": "503"}, "status must be a whole number"),
        ({"action": "status", "status": True}, "status must be a whole number"),
        ({"action": "empty_body", "every": 0}, "every"),
        ({"action": "empty_body", "path": "("}, "no regular expression"),
        ({"action": "empty_body", "path": "[[a]"}, "no regular expression"),  # Python will read it in another way some day
        ({"action": "empty_body", "probability": "often"}, "probability must be a number"),
    ],
)
def test_bad_rules_are_named(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        Faults([{"action": "empty_body"}, rule], origin="faults.toml")
    assert "faults.toml: rule 2" in str(caught.value)


def test_bad_files_are_named(tmp_path: Path) -> None:
    file = tmp_path / "faults.toml"
    wrong = {
        "[[rule": "cannot read",
        "rules = []": "unknown key 'rules'; known are archive, rule, seed",
        "seed = 'x'": "seed must be",
    }
    for text, message in wrong.items():
        file.write_text(text)
        with pytest.raises(UsageError, match=message) as caught:
            Faults.load(file)
        assert "faults.toml" in str(caught.value)
    with pytest.raises(UsageError, match="cannot read"):
        Faults.load(tmp_path / "nowhere.toml")


def test_every_action_is_documented() -> None:
    assert module.__doc__ is not None
    rows = module.__doc__.partition("=====")[2].splitlines()
    documented = {name for row in rows for name in re.findall(r"[a-z_0-9]+", row[:23])}
    assert set(ACTIONS) <= documented


def test_pages_of_a_faulty_exchange_can_still_be_completed(start: Start, world: GeneratedWorld) -> None:
    """Transient faults leave the data whole for a client that asks again."""
    sim = start(faults=Faults([{"action": "status", "status": 500, "path": "klines", "every": 2}]))
    rows = []
    for at in range(6):
        while (reply := page(sim, startTime=START + at * 10 * MINUTE)).status != 200:
            pass
        rows += reply.body
    assert rows == world.truth("um", "klines", "BTCUSDT", "1m", START, START + 60 * MINUTE)
    assert all(later[0] - row[0] == MINUTE for row, later in pairwise(rows))
