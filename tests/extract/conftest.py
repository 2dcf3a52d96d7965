"""A server on loopback that sends exactly the bytes it is told to, and a clock that only moves when somebody waits."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest

# Signs itself for 127.0.0.1, from 2020 to 2120; it protects nothing.
CERTIFICATE = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgLhsD1VrSqbDXsSC5
wu6WRwISdWAcCY1wRuuMOi67dGGhRANCAAQMNOb5WrgXh8yM9nkPvX88msYZcVz5
uQBpfDDqD7/98fHxQzFHTPkQrMb5LgUHbcRwv2YxKC7OAMc8WHsPfCFO
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBbDCCARKgAwIBAgIBATAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAkxMjcuMC4w
LjEwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBQxEjAQBgNVBAMM
CTEyNy4wLjAuMTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABAw05vlauBeHzIz2
eQ+9fzyaxhlxXPm5AGl8MOoPv/3x8fFDMUdM+RCsxvkuBQdtxHC/ZjEoLs4AxzxY
ew98IU6jUzBRMA8GA1UdEwEB/wQFMAMBAf8wDwYDVR0RBAgwBocEfwAAATAdBgNV
HQ4EFgQUN8FxSMkEC6kL4dzGLXoWJcM1WNYwDgYDVR0PAQH/BAQDAgKEMAoGCCqG
SM49BAMCA0gAMEUCIQCXbsShoSYAysY/br77Ud1V6ThOjU/bXF1N0NNl+/fVbgIg
NLgtHOQMVGjmJL4EtXofFfkHPVEskF41+/k21rnx3rg=
-----END CERTIFICATE-----
"""
# The same key, on the first of January 2020 only.
EXPIRED = (
    CERTIFICATE.partition("-----BEGIN CERTIFICATE")[0]
    + """\
-----BEGIN CERTIFICATE-----
MIIBjjCCATSgAwIBAgIUfyhTqHCzqrS2s43sbmkm7pwVinkwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJMTI3LjAuMC4xMB4XDTIwMDEwMTAwMDAwMFoXDTIwMDEwMjAw
MDAwMFowFDESMBAGA1UEAwwJMTI3LjAuMC4xMFkwEwYHKoZIzj0CAQYIKoZIzj0D
AQcDQgAEDDTm+Vq4F4fMjPZ5D71/PJrGGXFc+bkAaXww6g+//fHx8UMxR0z5EKzG
+S4FB23EcL9mMSguzgDHPFh7D3whTqNkMGIwHQYDVR0OBBYEFDfBcUjJBAupC+Hc
xi16FiXDNVjWMB8GA1UdIwQYMBaAFDfBcUjJBAupC+Hcxi16FiXDNVjWMA8GA1Ud
EwEB/wQFMAMBAf8wDwYDVR0RBAgwBocEfwAAATAKBggqhkjOPQQDAgNIADBFAiEA
0wzQfA+bNHIoKmTkzliGR6gOsay3KOqAeIDSZ596D58CIFZLGGcjZx4qiftkFE8a
YFsEMa98AOCJii7VZ51IsheJ
-----END CERTIFICATE-----
"""
)


@dataclass(frozen=True)
class Request:
    line: str
    headers: dict[str, str]
    connection: int

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.line.split()[1]).path)

    @property
    def params(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.line.split()[1]).query))


def answer(body: bytes = b"[]", status: int = 200, **headers: str) -> bytes:
    """A well-formed answer; underscores in header names stand for hyphens."""
    named = {"content-type": "application/json", "content-length": str(len(body))}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in named.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def reset(peer: socket.socket) -> None:
    """Ends the connection with a reset instead of a close."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.close()


Script = bytes | Callable[..., bytes | None]


class Loopback:
    """Answers requests in turn from `script`, the last entry for ever. An entry is the answer's bytes, or a function of
    (socket) or (socket, request) that returns them, or None after which the connection is closed. `/time` is answered with
    `server_time` unless the script is to see it.
    """

    def __init__(self, *script: Script, server_time: int | None, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self._script = list(script)
        self._server_time = server_time
        self._tls = tls
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._closing = threading.Event()
        self._start(self._accept)

    @property
    def asked(self) -> list[Request]:
        """The requests other than for the time."""
        return [request for request in self.requests if not request.path.endswith("/time")]

    def close(self) -> None:
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            peers = list(self._open)
        for peer in peers:
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        number = 0
        while not self._closing.is_set():
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            number += 1
            self._start(self._serve, peer, number)

    def _serve(self, peer: socket.socket, number: int) -> None:
        with peer, contextlib.suppress(OSError):
            if self._tls:
                peer = self._tls.wrap_socket(peer, server_side=True)
            with peer:
                with self._lock:
                    self._open.append(peer)
                data = b""
                while not self._closing.is_set():
                    while b"\r\n\r\n" not in data:
                        got = peer.recv(65536)
                        if not got:
                            return
                        data += got
                    head, _, data = data.partition(b"\r\n\r\n")
                    reply = self._reply(self._record(head, number), peer)
                    if reply is None:
                        return
                    peer.sendall(reply)

    def _record(self, head: bytes, number: int) -> Request:
        first, *lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        request = Request(first, headers, number)
        with self._lock:
            self.requests.append(request)
        return request

    def _reply(self, request: Request, peer: socket.socket) -> bytes | None:
        if self._server_time is not None and request.path.endswith("/time"):
            return answer(b'{"serverTime":%d}' % self._server_time)
        with self._lock:
            entry = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        if isinstance(entry, bytes):
            return entry
        return entry(peer, request) if entry.__code__.co_argcount > 1 else entry(peer)


@dataclass
class FakeTime:
    """Clock and `Stop` in one: waiting takes no time and moves the clock."""

    seconds: float = 1_000.0
    waits: list[float] = field(default_factory=list)
    stop_after: int | None = None

    def __call__(self) -> float:
        return self.seconds

    def is_set(self) -> bool:
        return self.stop_after is not None and len(self.waits) >= self.stop_after

    def wait(self, timeout: float) -> bool:
        self.waits.append(timeout)
        self.seconds += timeout
        return self.is_set()


class Kit:
    """What the tests of this folder build with."""

    answer = staticmethod(answer)
    reset = staticmethod(reset)
    FakeTime = FakeTime
    Request = Request

    def __init__(self, folder) -> None:
        self._servers: list[Loopback] = []
        self._closing = threading.Event()
        self.certificate = folder / "certificate.pem"
        self.certificate.write_text(CERTIFICATE)
        self.expired = folder / "expired.pem"
        self.expired.write_text(EXPIRED)

    def serve(self, *script: Script, server_time: int | None = 1_700_000_000_000, tls: bool | Path = False) -> Loopback:
        context = None
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate if tls is True else tls)
        server = Loopback(*script, server_time=server_time, tls=context)
        self._servers.append(server)
        return server

    def drip(self, data: bytes, pause: float = 0.02) -> Callable[[socket.socket], None]:
        """A script entry that sends byte by byte until the other side has had enough."""

        def entry(peer: socket.socket) -> None:
            for byte in data:
                peer.sendall(bytes([byte]))
                if self._closing.wait(pause):
                    return

        return entry

    def close(self) -> None:
        self._closing.set()
        for server in self._servers:
            server.close()


@pytest.fixture
def kit(tmp_path):
    kit = Kit(tmp_path)
    yield kit
    kit.close()
