"""What is asked again, what is not, how long is waited and who may still ask: against a server on loopback, in fake time."""

import gzip
import json
import logging
import threading
import time

import pytest

from etl import registry
from etl.errors import BadAnswer, Cancelled, Refused, Rejected, Transient, UsageError
from etl.extract import wire
from etl.extract.conversation import Conversation, http_date, judge, retry_after, used_weight
from etl.extract.http import Answer
from etl.extract.limits import Now, RequestPool, Ticket, WeightBudget

UM = registry.market("um")
SERVER_TIME = 1_700_000_000_000  # 22:13:20 UTC: forty seconds before the next minute
TO_NEXT_MINUTE = 40.0
SLACK = 0.1


@pytest.fixture
def talk(kit):
    """A conversation with a scripted server: (conversation, server, time)."""
    opened = []

    def start(*script, time=None, **options):
        server = kit.serve(*script)
        time = time or kit.FakeTime()
        conversation = Conversation(options.pop("market", UM), server.url, stop=time, clock=time, **options)
        opened.append(conversation)
        return conversation, server, time

    yield start
    for conversation in opened:
        conversation.close()


def klines(conversation: Conversation, weight: int = 1):
    return conversation.get("/fapi/v1/klines", {"symbol": "X"}, weight=weight, decode=wire.decoder("klines"))


def error(code: object, msg: str = "said") -> bytes:
    return json.dumps({"code": code, "msg": msg}).encode()


HTML = b"<html>\r\n<head><title>502 Bad Gateway</title></head>"


def transient_answers(kit) -> dict:
    return {
        "408": kit.answer(b"", 408),
        "500": kit.answer(b"", 500),
        "502 html": kit.answer(HTML, 502),
        "503 -1008": kit.answer(error(-1008), 503),
        "400 -1001": kit.answer(error(-1001), 400),
        "400 -1006": kit.answer(error(-1006), 400),
        "400 -1007": kit.answer(error(-1007), 400),
        "400 -1008": kit.answer(error(-1008), 400),
        "empty": kit.answer(b""),
        "cut json": kit.answer(b'[[1,"2"'),
        "html": kit.answer(HTML),
        "reset": kit.reset,
        "closed": lambda peer: None,
        "short": lambda peer: peer.sendall(kit.answer(b"[]" * 9)[:-1]),
        "cut gzip": kit.answer(gzip.compress(b"[]")[:-1], content_encoding="gzip"),
    }


NAMES = [
    "408", "500", "502 html", "503 -1008", "400 -1001", "400 -1006", "400 -1007", "400 -1008",
    "empty", "cut json", "html", "reset", "closed", "short", "cut gzip",
]  # fmt: skip  # a table, read by its rows


@pytest.mark.parametrize("name", NAMES)
def test_what_is_transient_is_asked_again_until_it_succeeds(kit, talk, name):
    bad = transient_answers(kit)[name]
    conversation, server, time = talk(bad, bad, kit.answer())
    assert klines(conversation, weight=3).num_rows == 0
    assert len(server.asked) == 3
    assert len(time.waits) == 2
    assert conversation.stats.retries == 2
    assert (conversation.stats.requests, conversation.stats.weight) == (3 + 1, 3 * 3 + 1), "and the time, once"
    assert conversation.stats.waited_s == pytest.approx(sum(time.waits))


@pytest.mark.parametrize("name", NAMES)
def test_what_stays_transient_is_given_up_after_six_attempts(kit, talk, name):
    conversation, server, time = talk(transient_answers(kit)[name])
    with pytest.raises(Transient, match="6 attempts") as caught:
        klines(conversation)
    assert f"GET {server.url}/fapi/v1/klines?symbol=X" in str(caught.value)
    assert len(server.asked) == 6
    assert len(time.waits) == conversation.stats.retries == 5
    for number, wait in enumerate(time.waits):
        assert 0 <= wait <= 0.5 * 2**number, "full jitter"


def test_the_number_of_attempts_is_a_setting(kit, talk):
    conversation, server, _ = talk(kit.answer(b"", 500), attempts=2)
    with pytest.raises(Transient, match="2 attempts"):
        klines(conversation)
    assert len(server.asked) == 2


def test_trying_is_bounded_in_time(kit, talk):
    time = kit.FakeTime()

    def slow(peer) -> bytes:
        time.seconds += 50
        return kit.answer(b"", 500)

    conversation, server, _ = talk(slow, time=time)
    with pytest.raises(Transient, match="3 attempts"):
        klines(conversation)
    assert len(server.asked) == 3


def test_a_server_that_asks_for_patience_gets_it(kit, talk):
    conversation, _, time = talk(kit.answer(b"", 503, retry_after="7"), kit.answer())
    klines(conversation)
    (wait,) = time.waits
    assert 7 <= wait <= 7.5


def test_a_server_that_asks_for_too_much_patience_is_given_up_at_once(kit, talk):
    conversation, server, time = talk(kit.answer(b"", 503, retry_after="3600"))
    with pytest.raises(Transient, match="1 attempts") as caught:
        klines(conversation)
    assert caught.value.retry_after == 3600
    assert (len(server.asked), time.waits) == (1, [])


@pytest.mark.parametrize(
    ("status", "body", "code", "shown"),
    [
        (400, error(-1121, "Invalid symbol."), -1121, "Invalid symbol."),
        (
            400,
            b'{"status":"ERROR","type":"VALID","code":"000002","errorData":{"limit":"limit can not"}}',
            "000002",
            "limit can not",
        ),
        (401, error(-2014), -2014, "said"),
        (404, b"<html>nothing here", None, "<html>nothing here"),
        (400, b"", None, "''"),
    ],
)
def test_what_is_our_fault_is_not_asked_again(kit, talk, status, body, code, shown):
    conversation, server, time = talk(kit.answer(body, status))
    with pytest.raises(Rejected) as caught:
        klines(conversation)
    assert (caught.value.status, caught.value.code) == (status, code)
    assert f"GET {server.url}/fapi/v1/klines?symbol=X: HTTP {status}" in str(caught.value)
    assert shown in str(caught.value)
    assert (len(server.asked), time.waits) == (1, [])


@pytest.mark.parametrize("body", [b'{"code":0}', b"[[1]]", b"null"])
def test_json_of_another_shape_is_asked_again_and_shown_with_its_url(kit, talk, body):
    conversation, server, time = talk(kit.answer(body))
    with pytest.raises(BadAnswer, match="given up after 6 answers") as caught:
        klines(conversation)
    assert f"GET {server.url}/fapi/v1/klines?symbol=X: " in str(caught.value)
    assert repr(body)[1:] in str(caught.value)
    assert (len(server.asked), len(time.waits)) == (6, 5)
    assert sum(time.waits) <= 0.1 + 0.2 + 0.4 + 0.8 + 1.6


def test_one_answer_of_another_shape_is_made_up_for(kit, talk):
    conversation, server, _ = talk(
        kit.answer(b"[[1]]"), kit.answer(b"", 302, location="https://elsewhere.example/"), kit.answer()
    )
    klines(conversation)
    assert len(server.asked) == 3


def test_a_redirect_is_named_and_not_followed(kit, talk):
    conversation, server, _ = talk(kit.answer(b"", 301, location="https://elsewhere.example/"))
    with pytest.raises(BadAnswer, match=r"https://elsewhere\.example/"):
        klines(conversation)
    assert {request.line.split()[1] for request in server.asked} == {"/fapi/v1/klines?symbol=X"}


BAN = "Way too much request weight used; IP banned until 1700000123456. Please use WebSocket Streams"


@pytest.mark.parametrize(
    ("status", "body", "headers", "until", "advice"),
    [
        (418, error(-1003, BAN), {}, 1_700_000_123_456, "2023-11-14T22:15:23.456Z"),
        (429, error(-1003, BAN), {"retry_after": "9"}, 1_700_000_123_456, "stop every client"),
        (418, b"<html>", {"retry_after": "120"}, SERVER_TIME + 120_000, "22:15:20"),
        (418, b"", {}, None, "3 days"),
        (403, HTML, {}, None, "firewall"),
        (451, error(0, "Service unavailable from a restricted location"), {}, None, "where Binance is served"),
    ],
)
def test_a_refusal_ends_the_conversation(kit, talk, status, body, headers, until, advice):
    conversation, server, time = talk(kit.answer(body, status, **headers), kit.answer())
    for _ in range(3):
        with pytest.raises(Refused) as caught:
            klines(conversation)
        assert f"GET {server.url}/fapi/v1/klines?symbol=X: HTTP {status}" in str(caught.value)
        assert advice in str(caught.value)
        assert caught.value.until == (until if until is None else pytest.approx(until, abs=200))
    with pytest.raises(Refused):
        conversation.get("/fapi/v1/fundingRate", weight=1, pool="funding", decode=wire.decoder("funding"))
    assert (len(server.asked), time.waits) == (1, [])


def test_a_refusal_ends_the_conversations_that_share_the_pool(kit, talk):
    budget = WeightBudget(2400, 0.9)
    um, _, _ = talk(kit.answer(b"", 418), budget=budget)
    cm, server, _ = talk(kit.answer(), budget=budget, market=registry.market("cm"))
    with pytest.raises(Refused):
        klines(um)
    with pytest.raises(Refused):
        klines(cm)
    assert not server.requests, "not even for the time"


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({}, TO_NEXT_MINUTE),
        ({"retry_after": "13"}, 13.0),
        ({"retry_after": "Tue, 14 Nov 2023 22:13:50 GMT"}, 30.0),
        ({"retry_after": "Mon, 06 Jul 2026 00:00:17 GMT", "date": "Mon, 06 Jul 2026 00:00:00 GMT"}, 17.0),
        ({"retry_after": "soon"}, TO_NEXT_MINUTE),
    ],
)
@pytest.mark.parametrize(("status", "code"), [(429, -1003), (400, -1003), (429, 0)])
def test_a_429_blocks_the_pool_until_the_server_allows(kit, talk, headers, wait, status, code, caplog):
    conversation, server, time = talk(kit.answer(error(code), status, **headers), kit.answer())
    with caplog.at_level(logging.WARNING, "etl"):
        klines(conversation)
    assert wait <= sum(time.waits) <= wait + SLACK
    assert len(server.asked) == 2
    assert any("nobody asks again before" in record.message for record in caplog.records)


def test_a_429_holds_every_thread_back(kit, talk):
    """Eight threads ask at once while the first answer is a 429: nobody is heard before its Retry-After is over."""
    refused_at = []

    def refuse(peer) -> bytes:
        refused_at.append(time.monotonic())
        return kit.answer(error(-1003), 429, retry_after="1")

    server = kit.serve(refuse, kit.answer())
    arrivals = []
    with Conversation(UM, server.url) as conversation:
        conversation.now()
        first = threading.Thread(target=klines, args=[conversation])
        first.start()
        while not conversation.stats.retries:
            time.sleep(0.005)

        def ask() -> None:
            klines(conversation)
            arrivals.append(time.monotonic())

        threads = [threading.Thread(target=ask) for _ in range(7)]
        for thread in threads:
            thread.start()
        for thread in [first, *threads]:
            thread.join()
    assert len(arrivals) == 7
    assert min(arrivals) - refused_at[0] >= 1.0
    assert len(server.asked) == 9


def test_a_429_on_funding_leaves_the_weight_alone(kit, talk):
    conversation, _, time = talk(kit.answer(error(-1003), 429, retry_after="500"), kit.answer(), attempts=1)
    with pytest.raises(Transient):
        conversation.get("/fapi/v1/fundingRate", weight=1, pool="funding", decode=wire.decoder("funding"))
    klines(conversation)
    assert time.waits == []
    assert conversation.stats.weight == 2, "the klines and the time; funding has no weight"
    with pytest.raises(Transient, match="1 attempts"):
        conversation.get("/fapi/v1/fundingRate", weight=1, pool="funding", decode=lambda body: wire.server_time(b""))
    assert sum(time.waits) == pytest.approx(500, abs=1), "waiting for the pool is no trying: it does not count"


def test_a_429_on_the_very_first_request_is_waited_for_by_the_answers_own_date(kit):
    time = kit.FakeTime()
    limited = kit.answer(error(-1003), 429, date="Mon, 06 Jul 2026 00:00:35 GMT")
    server = kit.serve(limited, kit.answer(b'{"serverTime":1}'), kit.answer(), server_time=None)
    with Conversation(UM, server.url, stop=time, clock=time) as conversation:
        assert conversation.now() == 1
    (wait,) = time.waits
    assert 25 <= wait <= 25.5


def test_the_budget_is_kept_across_minutes(kit, talk):
    conversation, server, time = talk(kit.answer(), budget=WeightBudget(10, 1.0))
    for _ in range(9):
        klines(conversation)
    assert time.waits == [], "nine, and one for the time"
    klines(conversation)
    assert TO_NEXT_MINUTE <= sum(time.waits) <= TO_NEXT_MINUTE + SLACK
    for _ in range(9):
        klines(conversation)
    assert sum(time.waits) <= TO_NEXT_MINUTE + SLACK
    klines(conversation)
    assert sum(time.waits) >= TO_NEXT_MINUTE + 60
    assert len(server.asked) == 20


def test_what_the_server_counted_counts(kit, talk):
    conversation, _, time = talk(kit.answer(x_mbx_used_weight_1m="2160"), kit.answer(x_mbx_used_weight_1m="-1"))
    klines(conversation)
    assert time.waits == []
    klines(conversation)
    assert TO_NEXT_MINUTE <= sum(time.waits) <= TO_NEXT_MINUTE + SLACK


def test_each_attempt_pays_anew(kit, talk):
    conversation, _, time = talk(kit.answer(b"", 500), kit.answer(), budget=WeightBudget(10, 1.0))
    klines(conversation, weight=6)
    assert TO_NEXT_MINUTE <= sum(time.waits) <= TO_NEXT_MINUTE + SLACK + 0.5


def test_exchange_info_teaches_the_limit(kit, talk):
    limits = [{"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 20}]
    body = json.dumps({"serverTime": 1, "rateLimits": limits, "symbols": [{"symbol": "BTCUSDT"}]}).encode()
    conversation, server, time = talk(kit.answer(body), kit.answer(), share=0.5)
    assert [rules.symbol for rules in conversation.exchange_info().symbols] == ["BTCUSDT"]
    assert server.asked[0].path == "/fapi/v1/exchangeInfo"
    klines(conversation, weight=8)
    assert time.waits == [], "one for the time and one for the rules are spent: ten is the share"
    klines(conversation)
    assert time.waits


def test_a_long_wait_for_the_budget_is_told_once_a_pool(kit, talk, caplog):
    budget, time = WeightBudget(20, 0.5), kit.FakeTime()
    um, _, _ = talk(kit.answer(), budget=budget, time=time)
    cm, server, _ = talk(kit.answer(), budget=budget, time=time, market=registry.market("cm"))
    with caplog.at_level(logging.INFO, "etl"):
        for conversation in (um, cm, um):
            klines(conversation, weight=8)
    assert sum(time.waits) >= TO_NEXT_MINUTE + 60, "they waited twice"
    (told,) = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    for part in ("cm waits 40 s", server.url, "10 of 20 weight a minute", "ETL_WEIGHT_SHARE is 0.5", "all others that share"):
        assert part in told


def test_a_short_wait_for_the_budget_is_not_told(kit, talk, caplog):
    time = kit.FakeTime()
    conversation, _, _ = talk(kit.answer(), budget=WeightBudget(10, 1.0), time=time)
    conversation.now()
    time.wait(TO_NEXT_MINUTE - 4)
    with caplog.at_level(logging.INFO, "etl"):
        klines(conversation, weight=8)
        klines(conversation, weight=8)
    assert 3 < max(time.waits[1:]) < 5
    assert caplog.records == []


def test_a_wait_for_settlements_is_told_too(kit, talk, caplog):
    conversation, _, time = talk(kit.answer(), funding=RequestPool(2, 300_000, 0.5))
    with caplog.at_level(logging.INFO, "etl"):
        for _ in range(2):
            conversation.get("/fapi/v1/fundingRate", weight=1, pool="funding", decode=wire.decoder("funding"))
    assert sum(time.waits) >= 300
    assert ["1 of 2 requests in 300 s" in record.getMessage() for record in caplog.records] == [True]


def test_a_wait_because_of_a_429_says_nothing_of_a_budget(kit, talk, caplog):
    conversation, _, time = talk(kit.answer(error(-1003), 429, retry_after="30"), kit.answer())
    with caplog.at_level(logging.DEBUG, "etl"):
        klines(conversation)
    assert sum(time.waits) >= 30
    assert [record.getMessage() for record in caplog.records if "budget" in record.getMessage()] == []
    assert [record.getMessage() for record in caplog.records if "ETL_WEIGHT_SHARE" in record.getMessage()] == []


def test_two_conversations_share_a_budget(kit, talk):
    budget, time = WeightBudget(10, 1.0), kit.FakeTime()
    um, _, _ = talk(kit.answer(), budget=budget, time=time)
    cm, server, _ = talk(kit.answer(), budget=budget, time=time, market=registry.market("cm"))
    klines(um, weight=5)
    klines(cm, weight=3)
    assert time.waits == []
    klines(um)
    assert sum(time.waits) >= TO_NEXT_MINUTE
    assert server.requests[0].path == "/dapi/v1/time"


def test_a_stop_ends_every_wait(kit, talk):
    conversation, server, time = talk(kit.answer(b"", 500), time=kit.FakeTime(stop_after=1))
    with pytest.raises(Cancelled):
        klines(conversation)
    assert len(server.asked) == 1
    with pytest.raises(Cancelled):
        klines(conversation)
    assert (len(server.asked), len(time.waits)) == (1, 1)


def test_a_real_event_interrupts_the_wait_for_the_budget(kit):
    stop = threading.Event()
    server = kit.serve(kit.answer(x_mbx_used_weight_1m="99999"))
    with Conversation(UM, server.url, stop=stop) as conversation:
        klines(conversation)
        threading.Timer(0.1, stop.set).start()
        with pytest.raises(Cancelled):
            klines(conversation)


def test_now_is_what_the_exchange_has_surely_reached(kit):
    time = kit.FakeTime()
    server_time = SERVER_TIME

    def tell(peer) -> bytes:
        time.seconds += 0.040  # half of the way there, half back
        return kit.answer(b'{"serverTime":%d}' % server_time)

    server = kit.serve(tell, server_time=None)
    with Conversation(UM, server.url, stop=time, clock=time) as conversation:
        assert conversation.now() == server_time
        time.seconds += 100
        assert server_time + 100_000 - 20 <= conversation.now() <= server_time + 100_000
        assert len(server.requests) == 1
        time.seconds += 600
        server_time += 690_000  # our clock was ten seconds fast
        assert conversation.now() == server_time
        assert len(server.requests) == 2


def test_a_slow_first_answer_is_followed_by_another_for_a_better_clock(kit):
    time = kit.FakeTime()
    delays = [2.0, 0.020]

    def tell(peer) -> bytes:
        time.seconds += delays.pop(0)
        return kit.answer(b'{"serverTime":%d}' % SERVER_TIME)

    server = kit.serve(tell, server_time=None)
    with Conversation(UM, server.url, stop=time, clock=time) as conversation:
        assert conversation.now() == SERVER_TIME
    assert len(server.requests) == 2


def test_the_time_is_asked_for_once_by_many_threads(kit):
    server = kit.serve(kit.answer())
    tables = []
    with Conversation(UM, server.url) as conversation:
        threads = [threading.Thread(target=lambda: tables.extend(klines(conversation) for _ in range(20))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(tables) == len(server.asked) == 160
        asked_for_time = len(server.requests) - 160
        assert asked_for_time in {1, 2}
        stats = conversation.stats
        assert (stats.requests, stats.weight) == (160 + asked_for_time, 160 + asked_for_time)
        assert stats.bytes_downloaded == 160 * 2 + asked_for_time * len(b'{"serverTime":1700000000000}')
    assert len({request.connection for request in server.requests}) <= 9


def test_downloaded_bytes_are_those_on_the_wire(kit, talk):
    packed = gzip.compress(b"[" + b" " * 10_000 + b"]")
    conversation, _, _ = talk(kit.answer(packed, content_encoding="gzip"))
    before = conversation.now() and conversation.stats.bytes_downloaded
    klines(conversation)
    assert conversation.stats.bytes_downloaded - before == len(packed)


def test_retries_are_logged(kit, talk, caplog):
    conversation, _, _ = talk(kit.answer(HTML, 502), kit.answer())
    with caplog.at_level(logging.INFO, "etl"):
        klines(conversation)
    (record,) = [record for record in caplog.records if record.name == "etl"]
    assert "attempt 1 of 6" in record.message
    assert "HTTP 502" in record.message


def test_a_base_url_without_scheme_is_refused():
    with pytest.raises(UsageError, match="https://"):
        Conversation(UM, "fapi.binance.com")


def test_a_trailing_slash_of_the_base_url_does_not_matter(kit):
    server = kit.serve(kit.answer())
    with Conversation(UM, server.url + "/") as conversation:
        klines(conversation)
    assert [request.path for request in server.requests] == ["/fapi/v1/time", "/fapi/v1/klines"]


# ---- the pure parts


def test_junk_in_headers_is_no_count():
    for junk in ("", "-1", "x", "1.5", "9" * 5000, "١"):
        assert used_weight({"x-mbx-used-weight-1m": junk}) is None
    assert used_weight({}) is None
    assert used_weight({"x-mbx-used-weight-1m": " 503 "}) == 503


def test_retry_after_and_dates():
    date = {"date": "Mon, 06 Jul 2026 00:00:00 GMT"}
    assert retry_after({}, 0) is None
    assert retry_after({"retry-after": "1.5"}, 0) == 1.5
    assert retry_after({"retry-after": "-5"}, 0) is None
    assert retry_after({"retry-after": "9" * 12}, 0) == 3 * 86_400
    assert retry_after({"retry-after": "Sun, 05 Jul 2026 00:00:00 GMT", **date}, None) == 0
    assert retry_after({"retry-after": "Mon, 06 Jul 2026 00:01:00 GMT"}, None) is None
    assert retry_after({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT", **date}, None) == 3 * 86_400
    assert http_date("Mon, 06 Jul 2026 00:00:00 GMT") == 1_783_296_000_000
    assert http_date("Mon, 06 Jul 2026 02:00:00 +0200") == 1_783_296_000_000
    for junk in (None, "", "yesterday", "Mon, 06 Jul 99999 00:00:00 GMT", "Mon, 99 Jul 2026 00:00:00 GMT"):
        assert http_date(junk) is None


def test_recorded_error_bodies(real_data):
    expected = {
        (429, -1003): Transient,
        (418, -1003): Refused,
        (451, 0): Refused,
        (400, -1121): Rejected,
        (400, -1130): Rejected,
        (502, None): Transient,
        (401, -2015): Rejected,
    }
    bodies = json.loads((real_data / "rest_raw" / "error_bodies.json").read_text())
    met = set()
    for recorded in bodies:
        body = recorded["body"].encode()
        code = wire.error_body(body).code
        error = judge(Answer("http://x/y", recorded["status"], {}, body, len(body)), SERVER_TIME)
        assert isinstance(error, expected[recorded["status"], code])
        met.add((recorded["status"], code))
        if recorded["status"] == 418:
            assert error.until == 1_748_592_527_333
        if recorded["status"] == 429:
            assert error.wait == TO_NEXT_MINUTE
    assert met == set(expected)


def test_recorded_headers(real_data):
    counts = {}
    for file in sorted((real_data / "rest_raw").glob("*.headers")):
        lines = file.read_text().split("\n\n")[1].splitlines()
        assert lines[0].split()[:2] == ["HTTP/2", "200"]
        headers = dict(line.split(": ", 1) for line in lines[1:])
        assert http_date(headers["date"]) > 1_783_000_000_000
        assert retry_after(headers, None) is None
        counts[file.name.split("-")[0], used_weight(headers)] = judge(Answer("u", 200, headers, b"", 0), None)
    assert counts == dict.fromkeys(
        [("bookTicker", 2), ("bookTicker", 5), ("exchangeInfo", 503), ("fundingRate", None), ("premiumIndex", 34)]
    )


def test_recorded_answers_over_the_wire(kit, real_data):
    """Each recorded body with its recorded headers, packed and plain, through the whole client."""
    folder = real_data / "rest_raw"
    decoders = {"bookTicker": wire.book_tickers, "exchangeInfo": wire.exchange_info, "fundingRate": wire.decoder("funding")}
    for file in sorted(folder.glob("*.headers")):
        decode = decoders.get(file.name.split("-")[0])
        if decode is None:
            continue
        body = file.with_suffix(".json").read_bytes()
        lines = file.read_text().strip().split("\n\n")[1].splitlines()
        headers = [line for line in lines[1:] if not line.startswith("content-length")]
        for packed, encoding in ((body, "identity"), (gzip.compress(body), "gzip")):
            head = ["HTTP/1.1 200 OK", *headers, f"content-encoding: {encoding}", f"content-length: {len(packed)}"]
            server = kit.serve("\r\n".join(head).encode() + b"\r\n\r\n" + packed)
            with Conversation(UM, server.url) as conversation:
                assert conversation.get("/x", weight=1, decode=decode) == decode(body)


def test_a_ticket_is_given_back_whatever_happens(kit, talk):
    """Were a failed request to stay in flight, the budget would shrink for ever."""
    budget = WeightBudget(10, 1.0)
    odd = [kit.answer(b"{}")] * 6
    conversation, _, _ = talk(kit.reset, kit.answer(HTML, 404), *odd, kit.answer(), budget=budget)
    for expected in (Rejected, BadAnswer):
        with pytest.raises(expected):
            klines(conversation)
    klines(conversation)
    later = SERVER_TIME + 600_000
    assert isinstance(budget.reserve(10, Now(later, later)), Ticket)
