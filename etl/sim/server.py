"""The embedded exchange as a real HTTP/1.1 server on loopback, REST and bulk archive: sockets, request log, control."""

from __future__ import annotations

import gzip
import json
import socket
import sys
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from ..errors import UsageError
from ..ranges import parse_duration, parse_time
from ..registry import FUNDING_LIMIT, MARKETS
from .archive import Archive
from .clock import Clock
from .exchange import Answer, Exchange, Request, http_date
from .faults import Delivery, Faults
from .world import World

_REMEMBERED = 50_000  # requests in the log; older ones are dropped, their counters stay


@dataclass(frozen=True, slots=True)
class Logged:
    """One answered request. `time` is the exchange's clock in ms UTC; `fault` names the injected action, if any."""

    time: int
    market: str | None
    path: str
    params: Mapping[str, str]
    status: int
    weight: int
    page: bool
    fault: str | None


class Simulator:
    """Serves a world at `url` until closed; a context manager.

    `latency_ms` is slept in each request. `weight_limit` is that of um and cm together; `enforce=False` counts but never
    refuses. `ban_after` refused requests in a minute bring a ban. `retry_after=True` sends that header with 429 and 418.
    `gzip=True` compresses for clients that accept it. The control endpoints are `/sim/requests`, `/sim/counters`,
    `/sim/reset` and `/sim/clock?set=TIME|advance=DURATION|speed=X`; they are neither logged nor counted.
    """

    def __init__(
        self,
        market: World,
        *,
        port: int = 0,
        clock: Clock | None = None,
        faults: Faults | None = None,
        latency_ms: float = 0,
        weight_limit: int = MARKETS["um"].weight_limit,
        spot_weight_limit: int = MARKETS["spot"].weight_limit,
        funding_limit: int = FUNDING_LIMIT,
        ban_after: int = 10,
        enforce: bool = True,
        retry_after: bool = False,
        gzip: bool = False,
    ) -> None:
        self.market = market
        self.clock = clock or Clock()
        self.faults = faults or Faults()
        self.latency_ms = latency_ms
        self.gzip = gzip
        self.exchange = Exchange(
            market,
            weight_limit=weight_limit,
            spot_weight_limit=spot_weight_limit,
            funding_limit=funding_limit,
            ban_after=ban_after,
            enforce=enforce,
            retry_after=retry_after,
        )
        self.archive = Archive(market, self.faults.defects)
        self.stopping = Event()
        self._lock = Lock()
        self._reset_log()
        self._server = _Server(self, port)
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving: open connections are cut, their threads end."""
        if self.stopping.is_set():
            return
        self.stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.cut_connections()
        self._server.server_close()

    # --- what tests look at

    @property
    def requests(self) -> list[Logged]:
        """The answered requests, oldest first."""
        with self._lock:
            return list(self._log)

    def counters(self) -> dict[str, Any]:
        """Requests, pages, downloads of zips, by path and by status, refused ones, the highest weight of a window by pool."""
        with self._lock:
            paths, statuses, pages, zips = dict(self._paths), dict(self._statuses), self._pages, self._zips
        return {
            "requests": sum(paths.values()),
            "pages": pages,
            "zips": zips,
            "paths": paths,
            "statuses": {str(status): count for status, count in statuses.items()},
            "status_429": statuses.get(429, 0),
            "status_418": statuses.get(418, 0),
            **self.exchange.limits.counters(),
        }

    def reset(self) -> None:
        """Forget the log, the counters, the weights and bans, and the state of the faults."""
        with self._lock:
            self._reset_log()
        self.exchange.limits.reset()
        self.faults.reset()

    def _reset_log(self) -> None:
        self._log: deque[Logged] = deque(maxlen=_REMEMBERED)
        self._paths: Counter[str] = Counter()
        self._statuses: Counter[int] = Counter()
        self._pages = 0
        self._zips = 0

    # --- answering

    def respond(self, request: Request) -> tuple[Answer, Delivery]:
        """The answer to a request, faults applied, and how to send it; logged."""
        if request.path.startswith("/sim/"):
            return self._control(request), Delivery()
        now = self.clock.now()
        answer = (self.archive if self.archive.serves(request) else self.exchange).answer(request, now)
        answer, delivery, fault = self.faults.apply(request, answer, now, lambda other: self._ask(other, now))
        page = self.exchange.is_page(request.path)
        entry = Logged(now, answer.market, request.path, request.params, answer.status, answer.weight, page, fault)
        with self._lock:
            self._log.append(entry)
            self._paths[request.path] += 1
            self._statuses[answer.status] += 1
            self._pages += page
            self._zips += request.path.endswith(".zip") and request.method == "GET" and answer.status in {200, 206}
        return replace(answer, headers={"date": http_date(now + answer.skew_ms), **answer.headers}), delivery

    def _ask(self, request: Request, now: int) -> bytes:
        """The body of another request, free of charge and unlogged; faults that shift a page need it."""
        return Exchange(self.market, enforce=False).answer(request, now).body

    def _control(self, request: Request) -> Answer:
        actions: dict[str, Callable[[Mapping[str, str]], object]] = {
            "/sim/requests": lambda params: [asdict(one) for one in self.requests if params.get("path", "") in one.path],
            "/sim/counters": lambda _: self.counters(),
            "/sim/reset": self._forget,
            "/sim/clock": self._set_clock,
        }
        action = actions.get(request.path)
        try:
            status, value = (200, action(request.params)) if action else (404, {"error": f"use one of {', '.join(actions)}"})
        except (UsageError, ValueError) as error:
            status, value = 400, {"error": str(error)}
        return Answer(status, json.dumps(value, ensure_ascii=False).encode(), {"content-type": "application/json"})

    def _forget(self, _params: Mapping[str, str]) -> object:
        self.reset()
        return {}

    def _set_clock(self, params: Mapping[str, str]) -> object:
        if "set" in params:
            self.clock.set(int(params["set"]) if params["set"].isdecimal() else parse_time(params["set"]))
        if "advance" in params:
            text = params["advance"]
            self.clock.advance(-parse_duration(text[1:]) if text.startswith("-") else parse_duration(text))
        if "speed" in params:
            self.clock.run(float(params["speed"]))
        return {"now": self.clock.now(), "speed": self.clock.speed}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, simulator: Simulator, port: int) -> None:
        self.simulator = simulator
        self._connections: dict[socket.socket, Thread | None] = {}
        self._lock = Lock()
        super().__init__(("127.0.0.1", port), _Handler)

    def server_bind(self) -> None:
        # HTTPServer would look its own name up in the DNS.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = Thread(target=self.process_request_thread, args=(request, client_address), daemon=True)
        with self._lock:
            self._connections[request] = thread
        thread.start()

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error; anything else is ours and is shown."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def cut_connections(self) -> None:
        with self._lock:
            connections = dict(self._connections)
        for connection, thread in connections.items():
            with suppress(OSError):  # it may be closed already: that is what we want
                connection.shutdown(socket.SHUT_RDWR)
            if thread is not None:
                thread.join(timeout=5)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        simulator = self.server.simulator
        if simulator.latency_ms:
            simulator.stopping.wait(simulator.latency_ms / 1000)
        target = urlsplit(self.path)
        params = dict(parse_qsl(target.query, keep_blank_values=True))
        asked = {name.lower(): value for name, value in self.headers.items()}
        answer, delivery = simulator.respond(Request(unquote(target.path), params, asked, self.command))
        body, headers = answer.body, answer.headers
        # Objects of the archive are never compressed once more: their ranges count the bytes that are stored.
        if simulator.gzip and "gzip" in asked.get("accept-encoding", "") and not {"content-encoding", "etag"} & headers.keys():
            body, headers = gzip.compress(body, 1), {**headers, "content-encoding": "gzip"}
        self.close_connection = self.close_connection or delivery.closes
        head, body = message(answer.status, headers, body, delivery, close=self.close_connection)
        if self.command == "HEAD":
            body = b""
        for pause, data in delivery.steps(head, body):
            if pause and simulator.stopping.wait(pause):
                break
            self.connection.sendall(data)
        self.close_connection = self.close_connection or delivery.hangs_up
        if delivery.reset is not None:
            self._reset()

    do_HEAD = do_GET  # noqa: N815 - the name that http.server asks for

    def _reset(self) -> None:
        """Close with RST instead of FIN."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.rfile.close()  # it holds the socket open
        self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the simulator keeps its own log."""


def message(status: int, headers: Mapping[str, str], body: bytes, delivery: Delivery, *, close: bool) -> tuple[bytes, bytes]:
    """Head and body of a response as bytes; the delivery decides which length is claimed and how much is sent."""
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = ""
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers.items())]
    sent = body if delivery.cut is None else body[: int(len(body) * delivery.cut)]
    length = {"sent": len(sent), "full": len(body), "none": None}[delivery.length]
    if length is not None:
        lines.append(f"content-length: {length}")
    if close:
        lines.append("connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"), sent
