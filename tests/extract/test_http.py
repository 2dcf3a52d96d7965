"""One GET against a server that does its worst."""

import gzip
import os
import socket
import ssl
import time
import zlib
from importlib.metadata import version
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etl.errors import BadAnswer, EtlError, Transient, UsageError
from etl.extract.http import Download, Http, translate

from ..exchange import nobody

BODY = b'[["' + b"binance " * 400 + b'"]]'


@pytest.fixture
def http():
    with Http(timeout=5, deadline=10) as http:
        yield http


def test_a_plain_answer(kit, http):
    server = kit.serve(kit.answer(BODY, 404, x_mbx_used_weight_1m="7"))
    answer = http.get(server.url + "/a", {"symbol": "币安人生USDT", "limit": 5, "startTime": None})
    assert (answer.status, answer.body, answer.downloaded) == (404, BODY, len(BODY))
    assert answer.headers["x-mbx-used-weight-1m"] == "7"
    assert answer.url == server.url + "/a?symbol=%E5%B8%81%E5%AE%89%E4%BA%BA%E7%94%9FUSDT&limit=5"
    (request,) = server.requests
    assert request.params == {"symbol": "币安人生USDT", "limit": "5"}
    assert request.headers.pop("user-agent") == f"binance-futures-etl/{version('binance-futures-etl')} (+python-httpx)"
    assert request.headers == {
        "host": server.url.removeprefix("http://"),
        "accept": "application/json",
        "accept-encoding": "gzip",
        "connection": "keep-alive",
    }


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(max_size=5), st.text(max_size=20) | st.integers(0, 2**63)))
def test_parameters_arrive_as_they_were_given(kit, http, params):
    server = kit.serve(kit.answer())
    http.get(server.url + "/a", params)
    sent = urlsplit(server.requests[0].line.split()[1])
    assert (sent.path, dict(parse_qsl(sent.query, keep_blank_values=True))) == ("/a", {k: str(v) for k, v in params.items()})


def test_cookies_are_neither_kept_nor_sent(kit, http):
    server = kit.serve(kit.answer(set_cookie="session=1; Path=/"))
    for _ in range(2):
        http.get(server.url)
    assert [request.headers.get("cookie") for request in server.requests] == [None, None]


PACKED = {"packed": gzip.compress(BODY), "stored": gzip.compress(BODY, 0), "packed nothing": gzip.compress(b""), "nothing": b""}


@pytest.mark.parametrize("packed", PACKED.values(), ids=PACKED.keys())
def test_gzip_is_unpacked(kit, http, packed):
    answer = http.get(kit.serve(kit.answer(packed, content_encoding="gzip")).url)
    assert answer.body == (gzip.decompress(packed) if packed else b"")
    assert answer.downloaded == len(packed)


def test_a_long_gzip_body_is_unpacked_whole(kit, http):
    body = os.urandom(3_000_000) + b"x" * 5_000_000
    assert http.get(kit.serve(kit.answer(gzip.compress(body), content_encoding="gzip")).url).body == body


def test_connections_are_kept_and_used_again(kit, http):
    server = kit.serve(kit.answer())
    for _ in range(5):
        http.get(server.url)
    assert {request.connection for request in server.requests} == {1}


def test_a_connection_that_was_closed_while_idle_is_replaced(kit, http):
    def last(peer: socket.socket) -> None:
        peer.sendall(kit.answer())

    server = kit.serve(last, kit.answer())
    http.get(server.url)
    time.sleep(0.05)  # the close is on its way
    assert http.get(server.url).status == 200
    assert [request.connection for request in server.requests] == [1, 2]


def cut(data: bytes):
    """Sends `data` and closes."""
    return lambda peer: peer.sendall(data)


@pytest.mark.parametrize(
    "name",
    ["silent close", "reset", "short body", "cut chunk", "no http", "huge headers", "cut gzip", "bad gzip", "bad trailer"],
)
def test_what_a_broken_line_does_is_worth_another_attempt(kit, http, name):
    packed = gzip.compress(BODY)
    script = {
        "silent close": cut(b""),
        "reset": kit.reset,
        "short body": cut(kit.answer(BODY)[:-1]),
        "cut chunk": cut(b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\nff\r\nabc"),
        "no http": cut(b"SSH-2.0-OpenSSH\r\n\r\n"),
        "huge headers": cut(b"HTTP/1.1 200 X\r\n" + b"x-a: %s\r\n" % (b"a" * 1000) * 20_000),
        "cut gzip": kit.answer(packed[:-9], content_encoding="gzip"),
        "bad gzip": kit.answer(b"\x1f\x8b" + packed[:20], content_encoding="gzip"),
        "bad trailer": kit.answer(packed[:-8] + b"12345678", content_encoding="gzip"),
    }[name]
    server = kit.serve(script)
    with pytest.raises(Transient, match=f"GET {server.url}"):
        http.get(server.url)


def test_a_body_without_length_that_is_cut_looks_whole(kit, http):
    """So the JSON decoder must take a cut body for transient, too."""
    answer = http.get(kit.serve(cut(b"HTTP/1.1 200 X\r\n\r\n" + BODY[:100])).url)
    assert answer.body == BODY[:100]


def test_nobody_listens(http):
    with nobody() as url, pytest.raises(Transient, match="ConnectError"):
        http.get(url)


def test_an_unknown_host_is_worth_another_attempt(http):
    with pytest.raises(Transient):
        http.get("http://nowhere.invalid/")


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "127.0.0.1/x", "http://", "http://[::1", f"http://{'a' * 300}.com/"])
def test_an_address_that_is_none_is_a_mistake_of_the_caller(http, url):
    with pytest.raises(UsageError):
        http.get(url)


def test_silence_ends_with_the_timeout(kit):
    server = kit.serve(lambda peer: peer.recv(1) and None)
    with Http(timeout=0.2, deadline=10) as http, pytest.raises(Transient, match="ReadTimeout"):
        http.get(server.url)


HEAD = b"HTTP/1.1 200 X\r\nx: " + b"a" * 300  # six seconds of drip


@pytest.mark.parametrize("data", [HEAD, b"HTTP/1.1 200 X\r\n\r\n" + b"x" * 300], ids=["headers", "body"])
def test_what_drips_in_ends_with_the_deadline_although_no_read_is_slow(kit, data):
    server = kit.serve(kit.drip(data))
    with Http(timeout=5, deadline=0.5) as http:
        began = time.monotonic()
        with pytest.raises(Transient, match="ReadTimeout"):
            http.get(server.url)
        assert 0.4 < time.monotonic() - began < 2
        assert http.get(kit.serve(kit.answer()).url).status == 200, "the next request has its own deadline"


def test_the_deadline_holds_through_a_proxy(kit, monkeypatch):
    proxy = kit.serve(kit.drip(HEAD))
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy", "NO_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    with Http(timeout=5, deadline=0.3) as http:
        for scheme in ("http", "https"):
            began = time.monotonic()
            with pytest.raises(Transient, match="ReadTimeout"):
                http.get(f"{scheme}://exchange.invalid/x")
            assert time.monotonic() - began < 2
    assert [request.line.split()[0] for request in proxy.requests] == ["GET", "CONNECT"]


def test_a_bomb_meets_the_cap_before_it_is_unpacked(kit):
    packed = gzip.compress(bytes(200 * 2**20))
    with Http(max_body=2**20) as http, pytest.raises(BadAnswer, match="exceeds 1048576 bytes"):
        http.get(kit.serve(kit.answer(packed, content_encoding="gzip")).url)


def test_an_endless_plain_body_meets_the_cap(kit):
    def endless(peer: socket.socket) -> None:
        peer.sendall(b"HTTP/1.1 200 X\r\n\r\n")
        while True:
            peer.sendall(b"x" * 65536)

    with Http(max_body=2**20) as http, pytest.raises(BadAnswer, match="exceeds"):
        http.get(kit.serve(endless).url)


def test_another_packing_than_asked_for_is_refused(kit, http):
    with pytest.raises(BadAnswer, match="'br'"):
        http.get(kit.serve(kit.answer(b"??", content_encoding="br")).url)


def test_a_redirect_is_not_followed(kit, http):
    other = kit.serve(kit.answer())
    server = kit.serve(kit.answer(b"", 302, location=other.url))
    assert http.get(server.url).status == 302
    assert not other.requests


def test_a_certificate_that_nobody_vouches_for_is_an_error_with_a_cure(kit, http):
    server = kit.serve(kit.answer(), tls=True)
    with pytest.raises(EtlError, match="SSL_CERT_FILE") as caught:
        http.get(server.url)
    assert not isinstance(caught.value, Transient)
    assert not server.requests


@pytest.mark.parametrize("content", [None, "no certificate"], ids=["absent", "unreadable"])
def test_authorities_that_cannot_be_read_are_named(monkeypatch, tmp_path, content):
    authorities = tmp_path / "authorities.pem"
    if content is not None:
        authorities.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(authorities))
    with pytest.raises(UsageError, match="SSL_CERT_FILE") as caught:
        Http()
    assert str(authorities) in str(caught.value)


def test_ssl_cert_file_is_honoured_and_the_deadline_holds_inside_tls(kit, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(kit.certificate))
    with Http(timeout=5, deadline=0.5) as http:
        assert http.get(kit.serve(kit.answer(BODY), tls=True).url).body == BODY
        began = time.monotonic()
        with pytest.raises(Transient, match="ReadTimeout"):
            http.get(kit.serve(kit.drip(HEAD), tls=True).url)
        assert time.monotonic() - began < 2


def test_the_wrong_host_name_is_refused(kit, monkeypatch, http):
    monkeypatch.setenv("SSL_CERT_FILE", str(kit.certificate))
    server = kit.serve(kit.answer(), tls=True)
    with Http() as trusting, pytest.raises(EtlError, match="certificate"):
        trusting.get(server.url.replace("127.0.0.1", "localhost"))


def test_an_expired_certificate_is_refused_although_it_is_trusted(kit, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(kit.expired))
    server = kit.serve(kit.answer(), tls=kit.expired)
    with Http() as trusting, pytest.raises(EtlError, match="certificate has expired"):
        trusting.get(server.url)
    assert not server.requests


def subclasses(kind: type) -> list[type]:
    return [kind] + [leaf for child in kind.__subclasses__() for leaf in subclasses(child)]


def instance(kind: type) -> Exception:
    if issubclass(kind, httpx.HTTPStatusError):
        request = httpx.Request("GET", "http://x")
        return kind("m", request=request, response=httpx.Response(500, request=request))
    if issubclass(kind, httpx.StreamError) and kind is not httpx.StreamError:
        return kind()
    return kind("m")


ALL = [
    kind for base in (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, httpx.CookieConflict) for kind in subclasses(base)
]


def test_the_list_of_errors_of_httpx_is_complete():
    public = {kind for kind in vars(httpx).values() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert public <= set(ALL)


@pytest.mark.parametrize("kind", [*ALL, zlib.error, UnicodeError])
def test_every_error_of_httpx_has_a_meaning(kind):
    error = translate(instance(kind), "http://x/y?z=1")
    ours = kind in {httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError}
    assert type(error) is (UsageError if ours else Transient)
    assert "GET http://x/y?z=1" in str(error)


def test_a_certificate_error_is_found_however_deep_it_lies():
    outer = httpx.ConnectError("m")
    outer.__cause__ = OSError("middle")
    outer.__cause__.__context__ = ssl.SSLCertVerificationError(1, "self-signed certificate")
    assert type(translate(outer, "https://x")) is EtlError


# ---- downloads

ETAG = '"version-1"'


def fetched(http, file: Download, **options) -> bytes:
    return http.download(file, **options).body


def broken_off(data: bytes, length: int):
    """Sends an answer up to `length` bytes of its body and closes."""
    head = data.index(b"\r\n\r\n") + 4
    return lambda peer: peer.sendall(data[: head + length])


def rest(kit, start: int, total: int = len(BODY), **headers: str) -> bytes:
    return kit.answer(BODY[start:], 206, content_range=f"bytes {start}-{len(BODY) - 1}/{total}", **headers)


def test_a_download_comes_as_it_lies_there(kit, http):
    server = kit.serve(kit.answer(BODY, etag=ETAG))
    pieces: list[int] = []
    answer = http.download(Download(server.url + "/a", len(BODY)), {"prefix": "币/"}, arrived=pieces.append)
    assert (answer.status, answer.body, answer.downloaded, sum(pieces)) == (200, BODY, len(BODY), len(BODY))
    (request,) = server.requests
    assert request.params == {"prefix": "币/"}
    assert request.headers["accept-encoding"] == "identity"
    assert "range" not in request.headers


@pytest.mark.parametrize("etag", [ETAG, None])
def test_a_download_that_was_cut_off_goes_on_where_it_was(kit, http, etag):
    """An answer that says the version again, or not."""
    tags = {"etag": etag} if etag else {}
    server = kit.serve(broken_off(kit.answer(BODY, etag=ETAG), 1000), rest(kit, 1000, **tags))
    file = Download(server.url, len(BODY))
    with pytest.raises(Transient):
        http.download(file)
    assert bytes(file.body) == BODY[:1000]
    answer = http.download(file)
    assert (answer.body, answer.downloaded) == (BODY, len(BODY) - 1000)
    assert (server.requests[1].headers["range"], server.requests[1].headers["if-range"]) == ("bytes=1000-", ETAG)


def test_a_download_is_cut_off_twice(kit, http):
    server = kit.serve(
        broken_off(kit.answer(BODY, etag=ETAG), 1000), broken_off(rest(kit, 1000), 500), rest(kit, 1500, etag=ETAG)
    )
    file = Download(server.url, len(BODY))
    for _ in range(2):
        with pytest.raises(Transient):
            http.download(file)
    assert fetched(http, file) == BODY
    assert server.requests[2].headers["range"] == "bytes=1500-"


def test_a_file_that_was_replaced_meanwhile_starts_over(kit, http):
    new = b"another one" * 50
    server = kit.serve(broken_off(kit.answer(BODY, etag=ETAG), 1000), kit.answer(new, etag='"version-2"'))
    file = Download(server.url, len(BODY))
    with pytest.raises(Transient):
        http.download(file)
    assert fetched(http, file) == new
    assert file.etag == '"version-2"'


@pytest.mark.parametrize("tags", [{}, {"etag": 'W/"weak"'}])
def test_without_a_strong_version_a_download_starts_over(kit, http, tags):
    server = kit.serve(broken_off(kit.answer(BODY, **tags), 1000), kit.answer(BODY, **tags))
    file = Download(server.url, len(BODY))
    with pytest.raises(Transient):
        http.download(file)
    assert fetched(http, file) == BODY
    assert "range" not in server.requests[1].headers


@pytest.mark.parametrize("name", ["other start", "no range", "odd range", "other version", "416", "part"])
def test_another_rest_than_asked_for_is_not_glued_on(kit, http, name):
    second = {
        "other start": rest(kit, 999),
        "no range": kit.answer(BODY[1000:], 206),
        "odd range": kit.answer(BODY[1000:], 206, content_range="bytes */3206"),
        "other version": rest(kit, 1000, etag='"version-2"'),
        "416": kit.answer(b"<Error/>", 416),
        "part": kit.answer(BODY[1000:1500], 206, content_range=f"bytes 1000-1499/{len(BODY)}"),
    }[name]
    server = kit.serve(broken_off(kit.answer(BODY, etag=ETAG), 1000), second, kit.answer(BODY, etag=ETAG))
    file = Download(server.url, len(BODY))
    for _ in range(2):
        with pytest.raises(Transient, match=f"GET {server.url}"):
            http.download(file)
    assert bytes(file.body) == (BODY[:1500] if name == "part" else b"")
    assert fetched(http, file) == BODY


def test_an_error_instead_of_the_rest_leaves_what_arrived(kit, http):
    server = kit.serve(broken_off(kit.answer(BODY, etag=ETAG), 1000), kit.answer(b"oops", 500), rest(kit, 1000))
    file = Download(server.url, len(BODY))
    with pytest.raises(Transient):
        http.download(file)
    answer = http.download(file)
    assert (answer.status, answer.body) == (500, b"oops")
    assert fetched(http, file) == BODY


def test_a_file_that_says_it_is_too_large_is_not_read(kit, http):
    server = kit.serve(kit.answer(BODY))
    file = Download(server.url, len(BODY) - 1)
    with pytest.raises(BadAnswer, match=f"{len(BODY)} bytes"):
        http.download(file)
    assert not file.body


def test_a_rest_that_makes_it_too_large_is_not_read(kit, http):
    server = kit.serve(broken_off(kit.answer(BODY, etag=ETAG), 1000), rest(kit, 1000, total=10**9))
    file = Download(server.url, len(BODY))
    with pytest.raises(Transient):
        http.download(file)
    with pytest.raises(BadAnswer, match="1000000000 bytes"):
        http.download(file)


def test_an_endless_download_meets_the_cap(kit, http):
    def endless(peer: socket.socket) -> None:
        peer.sendall(b"HTTP/1.1 200 X\r\n\r\n")
        while True:
            peer.sendall(b"x" * 65536)

    file = Download(kit.serve(endless).url, 2**20)
    with pytest.raises(BadAnswer, match="exceeds 1048576 bytes"):
        http.download(file)
    assert len(file.body) < 2**21


def test_a_packed_download_was_not_asked_for(kit, http):
    with pytest.raises(BadAnswer, match="gzip"):
        http.download(Download(kit.serve(kit.answer(gzip.compress(BODY), content_encoding="gzip")).url, 10**6))


def test_a_download_ends_where_the_listener_raises(kit, http):
    class Enough(Exception):
        pass

    def arrived(size: int) -> None:
        raise Enough

    server = kit.serve(kit.answer(BODY))
    with pytest.raises(Enough):
        http.download(Download(server.url, len(BODY)), arrived=arrived)
    assert http.get(server.url).body == BODY, "the connection is not left half read"
