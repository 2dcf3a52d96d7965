"""One GET over kept connections, with every end a request can come to inside bounds; the only module that knows httpx."""

from __future__ import annotations

import os
import re
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.cookiejar import CookieJar
from importlib.metadata import version
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import httpcore
import httpx

from ..errors import BadAnswer, EtlError, Transient, UsageError
from ..text import masked

USER_AGENT = f"binance-futures-etl/{version('binance-futures-etl')} (+python-httpx)"
MEBIBYTE = 2**20
_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "gzip",
    "Connection": "keep-alive",
    "User-Agent": USER_AGENT,
}

Params = Mapping[str, str | int | None]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: `url` without user and password, `headers` by lower-case name, `body` unpacked, `downloaded` the bytes of
    the body on the wire.
    """

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes
    downloaded: int


@dataclass(slots=True)
class Download:
    """A file on its way: `body` is what has arrived so far of its version `etag` (None if it cannot be resumed)."""

    url: str
    cap: int
    """Most bytes that it may have."""
    body: bytearray = field(default_factory=bytearray)
    etag: str | None = None


class Http:
    """A pool of at most `connections` kept connections for any number of threads. Close it, or use it as a context manager.

    `timeout` bounds, in seconds, connecting and each silence of the server, `deadline` the whole request: neither headers nor
    a body that drip in byte by byte can hold it longer. `max_body` caps the unpacked body in bytes. Redirects are not followed;
    TLS is always verified; HTTPS_PROXY, NO_PROXY and SSL_CERT_FILE are honoured.
    """

    def __init__(
        self, *, connections: int = 32, timeout: float = 10.0, deadline: float = 60.0, max_body: int = 32 * MEBIBYTE
    ) -> None:
        self._deadline = deadline
        self._max_body = max_body
        try:
            self._client = httpx.Client(
                cookies=_NoCookies(),
                timeout=httpx.Timeout(timeout, pool=deadline),
                limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=30),
                follow_redirects=False,
                verify=_authorities(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")),
            )
        except (httpx.InvalidURL, ValueError, ImportError):
            # Not said why, and without the cause: it may quote what was taken for a host or a port, and is a password.
            raise UsageError(
                "HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names no proxy that can be used; write http://host:port or "
                "http://user:password@host:port, with special characters of the password percent-encoded (/ is %2F)"
            ) from None
        _enforce_deadline(self._client)

    def get(self, url: str, params: Params | None = None) -> Answer:
        """The answer to GET `url` with those `params` that are not None, whatever its status.

        Transient where connection, TLS or time failed or the body was cut off, BadAnswer for a body that is too large or packed
        in a way nobody asked for, EtlError for a certificate that cannot be verified, UsageError for a URL that is none.
        """
        return self._get(url, params, _HEADERS, self._read)

    def download(
        self, file: Download, params: Params | None = None, *, arrived: Callable[[int], None] = lambda _: None
    ) -> Answer:
        """Like `get`, unpacked as it lies on the server, and capped by `file`; what was cut off can be gone on with.

        After a Transient `file` keeps what arrived, and the next call asks for the rest only, if the server names versions and
        the file still has the same one. `arrived` is told the size of each piece, and ends the download where it raises.
        """
        headers = _HEADERS | {"Accept": "*/*", "Accept-Encoding": "identity"}
        if file.body and file.etag:
            headers |= {"Range": f"bytes={len(file.body)}-", "If-Range": file.etag}
        else:
            file.body.clear()

        def receive(url: str, response: httpx.Response) -> Answer:
            return self._receive(url, response, file, arrived)

        return self._get(file.url, params, headers, receive)

    def _get(
        self, url: str, params: Params | None, headers: Mapping[str, str], read: Callable[[str, httpx.Response], Answer]
    ) -> Answer:
        try:
            request = _request(url, params, headers)
            url = masked(str(request.url))
            with _deadline(self._deadline):
                response = self._client.send(request, stream=True)
                try:
                    return read(url, response)
                finally:
                    response.close()
        except _ERRORS as error:
            raise translate(error, url) from error

    def _read(self, url: str, response: httpx.Response) -> Answer:
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in {"identity", "gzip", "x-gzip"}:
            raise BadAnswer(f"GET {url}: the body is packed as '{encoding}', but gzip was asked for")
        body = bytearray()
        pieces: Iterable[bytes] = response.iter_raw()
        if encoding != "identity":
            pieces = _gunzip(pieces)
        for piece in pieces:
            body += piece
            if len(body) > self._max_body:
                raise BadAnswer(f"GET {url}: the body exceeds {self._max_body} bytes; it begins {bytes(body[:60])!r}")
        return Answer(url, response.status_code, response.headers, bytes(body), response.num_bytes_downloaded)

    def _receive(self, url: str, response: httpx.Response, file: Download, arrived: Callable[[int], None]) -> Answer:
        if response.status_code not in {200, 206, 416}:
            return self._read(url, response)
        total = self._begin(url, response, file)
        if total is not None and total > file.cap:
            raise BadAnswer(f"GET {url}: the file has {total} bytes, more than {file.cap}")
        for piece in response.iter_raw():
            file.body += piece
            if len(file.body) > file.cap:
                raise BadAnswer(f"GET {url}: the file exceeds {file.cap} bytes")
            arrived(len(piece))
        if total is not None and len(file.body) != total:
            raise Transient(f"GET {url}: {len(file.body)} of {total} bytes arrived")
        return Answer(url, response.status_code, response.headers, bytes(file.body), response.num_bytes_downloaded)

    @staticmethod
    def _begin(url: str, response: httpx.Response, file: Download) -> int | None:
        """Makes `file` ready for the body of `response`; the size of the whole, if it is said."""
        if (encoding := response.headers.get("content-encoding", "identity").strip().lower()) != "identity":
            raise BadAnswer(f"GET {url}: the body is packed as '{encoding}', which was not asked for")
        etag, length = response.headers.get("etag"), response.headers.get("content-length", "")
        if response.status_code == 200:
            file.body.clear()
            file.etag = None if etag is None or etag.startswith("W/") else etag  # a weak one does not vouch for bytes
            return int(length) if length.isdecimal() else None
        span = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18})", response.headers.get("content-range", "").strip())
        if response.status_code == 416 or not span or int(span[1]) != len(file.body) or etag not in {None, file.etag}:
            file.body.clear()
            raise Transient(f"GET {url}: HTTP {response.status_code}: not the rest that was asked for; it is fetched anew")
        return int(span[2])

    def close(self) -> None:
        """Closes all connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


@cache
def _authorities(file: str | None, folder: str | None) -> ssl.SSLContext:
    """Whose certificates count, by those two variables, as httpx reads them; once, because reading them takes 20 ms of CPU."""
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        raise UsageError(
            f"SSL_CERT_FILE or SSL_CERT_DIR ({file or folder}) cannot be read as certificates: {error.strerror or error}; "
            "name a PEM file, or unset the variable"
        ) from error


def _gunzip(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Inflates in steps of at most a mebibyte, so that a bomb meets the cap and not the memory; no bytes at all are no body."""
    inflate = zlib.decompressobj(wbits=31)
    empty = True
    for piece in pieces:
        packed = piece
        while packed and not inflate.eof:
            empty = False
            yield inflate.decompress(packed, MEBIBYTE)
            packed = inflate.unconsumed_tail
    if not (empty or inflate.eof):
        raise zlib.error("it ends in the middle")


def _request(url: str, params: Params | None, headers: Mapping[str, str]) -> httpx.Request:
    """Without client.build_request, which parses the address twice and merges headers: 0.05 ms more a request."""
    given = {name: value for name, value in (params or {}).items() if value is not None}
    request = httpx.Request("GET", f"{url}?{urlencode(given)}" if given else url, headers=headers)
    if not request.url.host:
        raise httpx.InvalidURL("it names no host")
    return request


class _NoCookies(CookieJar):
    """Keeps nothing, so that no answer shapes a later question; looking for cookies would take 0.02 ms a request."""

    def extract_cookies(self, response: object, request: object) -> None:
        pass


# ---- errors

_ERRORS = (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, httpx.CookieConflict, zlib.error, UnicodeError)


def translate(error: Exception, url: str) -> EtlError:
    """What `error`, met while asking `url`, means to a caller who does not know httpx; it names no user and no password."""
    url, told = masked(url), masked(str(error))
    certificate: BaseException | None = error
    while certificate is not None and not isinstance(certificate, ssl.SSLCertVerificationError):
        certificate = certificate.__cause__ or certificate.__context__
    if certificate is not None:
        return EtlError(
            f"GET {url}: the server's certificate cannot be verified ({certificate}); if a proxy of yours signs it, "
            "set SSL_CERT_FILE to that authority; otherwise check this machine's clock and network"
        )
    if isinstance(error, (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError)):
        return UsageError(f"GET {url}: this is no address that can be asked: {told}")
    if isinstance(error, zlib.error):
        return Transient(f"GET {url}: the gzip body is damaged or cut off: {told}")
    return Transient(f"GET {url}: {type(error).__name__}: {told}")


# ---- the deadline
#
# httpx bounds each read, so a server that sends a byte now and then is never too slow for it. Our streams also know when the
# whole request must be over, and shorten every wait to what is left. A thread has one request at a time: hence thread-local.

_thread = threading.local()


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    _thread.ends = time.monotonic() + seconds
    try:
        yield
    finally:
        _thread.ends = None


def _left(timeout: float | None, expired: type[Exception]) -> float | None:
    """`timeout`, but no longer than until the deadline; `expired` if that has passed."""
    ends: float | None = getattr(_thread, "ends", None)
    if ends is None:
        return timeout
    left = ends - time.monotonic()
    if left <= 0:
        raise expired("the deadline of the whole request has passed")
    return left if timeout is None else min(timeout, left)


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, _left(timeout, httpcore.WriteTimeout))

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, _left(timeout, httpcore.ConnectTimeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)

    def close(self) -> None:
        self._inner.close()


class _Backend(httpcore.NetworkBackend):
    def __init__(self, inner: httpcore.NetworkBackend) -> None:
        self._inner = inner

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        left = _left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._inner.connect_tcp(host, port, left, local_address, socket_options))


def _enforce_deadline(client: httpx.Client) -> None:
    """No public way leads from httpx to the network backend of transports that also follow the proxy variables, so it is
    put where httpx keeps it, for the direct transport and every proxy; an httpx that keeps it elsewhere fails here, at once.
    """
    for transport in (client._transport, *client._mounts.values()):  # noqa: SLF001 - see above
        if isinstance(transport, httpx.HTTPTransport):
            pool = transport._pool  # noqa: SLF001 - httpx offers no public way
            pool._network_backend = _Backend(pool._network_backend)  # noqa: SLF001 - httpx offers no public way
