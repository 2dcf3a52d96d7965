r"""Faults to inject: rules from a file, or from code, that say which requests are answered wrongly and how.

A file is TOML (or JSON with the same keys), named by its suffix::

    seed = 7                      # of `probability`; 0 by default

    [[rule]]
    path = "klines"               # regular expression, searched in the request's path; any by default
    symbol = "BTCUSDT"            # exact symbol or pair; any by default
    after = 10                    # let the first 10 matching requests pass
    first = 2                     # then at most 2 of them
    every = 3                     # of these every third
    probability = 0.5             # and of these half
    action = "status"             # what happens; the other keys belong to the action
    status = 503
    body = "html"

Each rule counts the requests that match its path and symbol; the first rule, in the file's order, whose counts fit is
applied. Requests are charged as usual, and those that the exchange refuses anyway (a bad symbol, 429) are neither counted
nor touched. Actions and their keys, with defaults; `row` counts from 0, or from the end if negative:

======================  =============================================================================================
status                  status; body = "json" | "html" | "451" | "text" | "string-code"
retry_after             seconds = 1; form = "seconds" | "date"; status = 429
reset                   RST; when = "before" (any byte) | "headers" (after them) | "body" (in its middle)
timeout                 seconds = 3600 of silence, then the answer
stall                   seconds = 3600; when = "before" | "body" (silence in its middle)
slow_drip               bytes_per_second = 100; part = "body" | "headers"
truncated_json          keep = 0.5 of the body; length = "sent" (what goes out) | "none" (ends by closing) | "full"
empty_body, html_200    status 200 without a body, with an HTML page
body                    text = "null": status 200 with that body
fat_headers             megabytes = 20 of headers before the answer
hang_up                 the answer, and then the connection is closed without a word of it
object_instead_of_list  status 200 with an error object
wrong_width_row         row = -1; width = 11
wrong_type_row          row = -1; value = "abc" in place of a number
nan                     row = -1; bare = false: the text "NaN", true: the token NaN
short_page              drop = 1 rows at the end
drop_middle             drop = 1 rows in the middle
duplicate_rows          rows = 1: the last ones, twice
duplicate_page          all rows twice
overlap                 rows = 1: the page begins that many rows before startTime
shuffled                rows in another order
conflict                row = -1 and another row with its time
empty_page              []
stuck_page              the first page that the rule saw, for ever
open_bar_extra          the bar that is still open, after the last row
revise                  open_time (ms): that row, by default the last, with other values; with `after`: a late revision
redirect                location = "http://elsewhere.invalid/"; status = 302
gzip_bomb               megabytes = 64 of blanks, compressed
endless                 a body that never ends
clock_skew              ms: Date header and serverTime are that far off
======================  =============================================================================================

Rules work on paths of the bulk archive as well (`path = "\\.zip$"`); what edits rows leaves its objects as they are. What is
wrong with the archive's files themselves is said under [[archive]] (see `etl.sim.defects`).
"""

from __future__ import annotations

import json
import random
import re
import tomllib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, Literal, TypeAlias

from ..errors import UsageError
from ..ranges import HOUR, SECOND
from .defects import Defects
from .exchange import RESTRICTED_BODY, Answer, Request, http_date
from .tables import Expression, check_keys, fits, parse_table
from .world import INTERVALS


@dataclass(frozen=True, slots=True)
class Delivery:
    """How a response goes out; the default is at once and whole. Times in seconds."""

    stall_before: float = 0
    stall_body: float = 0
    reset: Literal["before", "headers", "body"] | None = None
    drip: Literal["headers", "body"] | None = None
    rate: float = 100
    cut: float | None = None
    """Share of the body that is sent."""
    length: Literal["sent", "full", "none"] = "sent"
    """What content-length claims."""
    endless: bool = False
    hangs_up: bool = False
    """Whether the connection is closed although the answer does not announce it."""

    @property
    def closes(self) -> bool:
        """Whether the connection cannot be used again."""
        return self.reset is not None or self.length != "sent" or self.endless

    def steps(self, head: bytes, body: bytes) -> Iterator[tuple[float, bytes]]:
        """What to send: (seconds to wait before, bytes)."""
        half = len(body) // 2
        if self.reset == "before":
            return
        if self.reset is not None:
            yield 0, head + (body[:half] if self.reset == "body" else b"")
            yield 0.05, b""  # an RST overtakes what has not arrived yet
        elif self.endless:
            yield 0, head
            while True:
                yield 0, body
        elif self.stall_body:
            yield 0, head + body[:half]
            yield self.stall_body, body[half:]
        elif self.drip is not None:
            fast, slow = (b"", head) if self.drip == "headers" else (head, body)
            yield 0, fast
            piece = max(int(self.rate / 20), 1)
            yield from ((piece / self.rate, slow[start : start + piece]) for start in range(0, len(slow), piece))
            yield 0, body if self.drip == "headers" else b""
        else:
            yield self.stall_before, head + body


_OF_OBJECTS = {"etag", "last-modified", "accept-ranges", "content-range"}

Outcome: TypeAlias = tuple[Answer, Delivery]
Ask: TypeAlias = Callable[[Request], bytes]


@dataclass(frozen=True, slots=True)
class _Hit:
    """A request that a rule applies to, with all that an action may need."""

    request: Request
    answer: Answer
    now: int
    ask: Ask
    memory: dict[object, bytes]
    """What the rule remembers between requests."""

    def instead(self, body: bytes, status: int = 200, content_type: str = "application/json") -> Outcome:
        """Another body in the answer's place."""
        headers = {name: value for name, value in self.answer.headers.items() if name not in _OF_OBJECTS}
        headers["content-type"] = content_type
        return replace(self.answer, status=status, body=body, headers=headers), Delivery()

    def rows(self, change: Callable[[list[Any]], list[Any]]) -> Outcome:
        """The answer with its rows changed; what is no list of rows stays as it is."""
        try:
            rows = json.loads(self.answer.body)
        except ValueError:
            rows = None
        if not isinstance(rows, list) or not rows:
            return self.answer, Delivery()
        return self.instead(_json(change(rows)), content_type=self.answer.headers["content-type"])

    def row(self, index: int, change: Callable[[Any], list[Any]]) -> Outcome:
        """The answer with one row replaced by others."""

        def changed(rows: list[Any]) -> list[Any]:
            if not -len(rows) <= index < len(rows):
                return rows
            at = index % len(rows)
            return rows[:at] + change(rows[at]) + rows[at + 1 :]

        return self.rows(changed)


# --- actions: keyword parameters are the keys of the file, their annotations what is allowed


def _status(hit: _Hit, *, status: int, body: Literal["json", "html", "451", "text", "string-code"] = "json") -> Outcome:
    if body == "html":
        page = f"<html><head><title>{status}</title></head><body><h1>{status} ERROR</h1></body></html>".encode()
        return hit.instead(page, status, "text/html")
    if body == "text":
        return hit.instead(b"upstream connect error or disconnect before headers", status, "text/plain")
    if body == "451":
        return hit.instead(RESTRICTED_BODY, status)
    if body == "string-code":
        error: dict[str, object] = {"status": "ERROR", "type": "VALID", "code": "000002", "errorData": None, "data": None}
        return hit.instead(_json(error), status)
    messages = {
        418: (-1003, f"Way too many requests; IP banned until {hit.now + 120 * SECOND}."),
        429: (-1003, "Too many requests; current limit of IP(127.0.0.1) is 2400 requests per minute."),
        408: (-1007, "Timeout waiting for response from backend server."),
        503: (-1008, "Service Unavailable."),
    }
    code, text = messages.get(status, (-1001, "Internal error; unable to process your request. Please try again."))
    return hit.instead(_json({"code": code, "msg": text}), status)


def _retry_after(hit: _Hit, *, seconds: int = 1, form: Literal["seconds", "date"] = "seconds", status: int = 429) -> Outcome:
    answer, delivery = _status(hit, status=status)
    # A date is rounded up, so that it never promises less than `seconds`.
    value = str(seconds) if form == "seconds" else http_date(hit.now + seconds * SECOND + SECOND - 1)
    return replace(answer, headers=answer.headers | {"retry-after": value}), delivery


def _reset(hit: _Hit, *, when: Literal["before", "headers", "body"] = "before") -> Outcome:
    return hit.answer, Delivery(reset=when)


def _timeout(hit: _Hit, *, seconds: float = 3600) -> Outcome:
    return hit.answer, Delivery(stall_before=seconds)


def _stall(hit: _Hit, *, seconds: float = 3600, when: Literal["before", "body"] = "before") -> Outcome:
    return hit.answer, Delivery(stall_before=seconds) if when == "before" else Delivery(stall_body=seconds)


def _slow_drip(hit: _Hit, *, bytes_per_second: float = 100, part: Literal["headers", "body"] = "body") -> Outcome:
    return hit.answer, Delivery(drip=part, rate=bytes_per_second)


def _truncated(hit: _Hit, *, keep: float = 0.5, length: Literal["sent", "full", "none"] = "sent") -> Outcome:
    return hit.answer, Delivery(cut=keep, length=length)


def _empty_body(hit: _Hit) -> Outcome:
    return hit.instead(b"")


def _html(hit: _Hit) -> Outcome:
    return hit.instead(b"<!DOCTYPE html><html><body>Please wait while we check your browser</body></html>", 200, "text/html")


def _body(hit: _Hit, *, text: str = "null") -> Outcome:
    return hit.instead(text.encode())


def _fat_headers(hit: _Hit, *, megabytes: int = 20) -> Outcome:
    fat = {f"x-fat-{number}": "a" * 1_048_576 for number in range(megabytes)}
    return replace(hit.answer, headers=hit.answer.headers | fat), Delivery()


def _hang_up(hit: _Hit) -> Outcome:
    return hit.answer, Delivery(hangs_up=True)


def _object(hit: _Hit) -> Outcome:
    return hit.instead(b'{"code":-1000,"msg":"An unknown error occurred while processing the request."}')


def _wrong_width(hit: _Hit, *, row: int = -1, width: int = 11) -> Outcome:
    def change(one: Any) -> list[Any]:
        if isinstance(one, list):
            return [(one + ["0"] * width)[:width]]
        return [dict(list(one.items())[:-1])]  # an object lacks its last field

    return hit.row(row, change)


def _wrong_type(hit: _Hit, *, row: int = -1, value: str = "abc") -> Outcome:
    return hit.row(row, lambda one: [_with_number(one, value)])


def _nan(hit: _Hit, *, row: int = -1, bare: bool = False) -> Outcome:
    return hit.row(row, lambda one: [_with_number(one, float("nan") if bare else "NaN")])


def _short_page(hit: _Hit, *, drop: int = 1) -> Outcome:
    return hit.rows(lambda rows: rows[: max(len(rows) - drop, 0)])


def _drop_middle(hit: _Hit, *, drop: int = 1) -> Outcome:
    def change(rows: list[Any]) -> list[Any]:
        start = max((len(rows) - drop) // 2, 1)
        return rows[:start] + rows[start + drop :]

    return hit.rows(change)


def _duplicate_rows(hit: _Hit, *, rows: int = 1) -> Outcome:
    return hit.rows(lambda page: page + page[-rows:])


def _duplicate_page(hit: _Hit) -> Outcome:
    return hit.rows(lambda rows: rows + rows)


def _overlap(hit: _Hit, *, rows: int = 1) -> Outcome:
    params = hit.request.params
    if not params.get("startTime", "").isdecimal():
        return hit.answer, Delivery()
    step = INTERVALS[params["interval"]].typical_step if "interval" in params else 8 * HOUR
    earlier = {**params, "startTime": str(int(params["startTime"]) - rows * step)}
    return replace(hit.answer, body=hit.ask(replace(hit.request, params=earlier))), Delivery()


def _shuffled(hit: _Hit) -> Outcome:
    def change(rows: list[Any]) -> list[Any]:
        mixed = random.Random(len(rows)).sample(rows, len(rows))
        return mixed if mixed != rows else rows[::-1]

    return hit.rows(change)


def _conflict(hit: _Hit, *, row: int = -1) -> Outcome:
    return hit.row(row, lambda one: [one, _altered(one)])


def _empty_page(hit: _Hit) -> Outcome:
    return hit.rows(lambda _: [])


def _stuck_page(hit: _Hit) -> Outcome:
    params = hit.request.params
    key = (hit.request.path, params.get("symbol"), params.get("pair"), params.get("interval"))
    return replace(hit.answer, body=hit.memory.setdefault(key, hit.answer.body)), Delivery()


def _open_bar(hit: _Hit) -> Outcome:
    interval = hit.request.params.get("interval", "")
    if interval not in INTERVALS:
        return hit.answer, Delivery()
    grid = INTERVALS[interval]
    opens = grid.floor(hit.now)

    def change(rows: list[Any]) -> list[Any]:
        bar = [opens, *rows[-1][1:6], grid.next(opens) - 1, *rows[-1][7:]]
        return rows if rows[-1][0] >= opens else [*rows, bar]

    return hit.rows(change)


def _revise(hit: _Hit, *, open_time: int | None = None) -> Outcome:
    def change(rows: list[Any]) -> list[Any]:
        last = len(rows) - 1
        return [
            _altered(row) if _time_of(row) == open_time or (open_time is None and n == last) else row
            for n, row in enumerate(rows)
        ]

    return hit.rows(change)


def _redirect(hit: _Hit, *, location: str = "http://elsewhere.invalid/", status: int = 302) -> Outcome:
    answer, delivery = hit.instead(b"", status, "text/html")
    return replace(answer, headers=answer.headers | {"location": location}), delivery


def _gzip_bomb(hit: _Hit, *, megabytes: int = 64) -> Outcome:
    answer, delivery = hit.instead(_blanks(megabytes))
    return replace(answer, headers=answer.headers | {"content-encoding": "gzip"}), delivery


def _endless(hit: _Hit) -> Outcome:
    return replace(hit.answer, body=b" " * 65536), Delivery(endless=True, length="none")


def _clock_skew(hit: _Hit, *, ms: int) -> Outcome:
    body = re.sub(rb'("serverTime":)(\d+)', lambda found: b"%s%d" % (found[1], int(found[2]) + ms), hit.answer.body)
    return replace(hit.answer, body=body, skew_ms=ms), Delivery()


ACTIONS: dict[str, Callable[..., Outcome]] = {
    "status": _status, "retry_after": _retry_after, "reset": _reset, "timeout": _timeout, "stall": _stall,
    "slow_drip": _slow_drip, "truncated_json": _truncated, "empty_body": _empty_body, "html_200": _html,
    "body": _body, "fat_headers": _fat_headers, "hang_up": _hang_up, "object_instead_of_list": _object,
    "wrong_width_row": _wrong_width, "wrong_type_row": _wrong_type, "nan": _nan,
    "short_page": _short_page, "drop_middle": _drop_middle, "duplicate_rows": _duplicate_rows,
    "duplicate_page": _duplicate_page, "overlap": _overlap, "shuffled": _shuffled, "conflict": _conflict,
    "empty_page": _empty_page, "stuck_page": _stuck_page, "open_bar_extra": _open_bar, "revise": _revise,
    "redirect": _redirect, "gzip_bomb": _gzip_bomb, "endless": _endless, "clock_skew": _clock_skew,
}  # fmt: skip  # a table, read by its rows


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _time_of(row: Any) -> object:
    return row[0] if isinstance(row, list) else row.get("fundingTime")


def _with_number(row: Any, value: object) -> Any:
    """The row with `value` as its close, or its funding rate."""
    return [*row[:4], value, *row[5:]] if isinstance(row, list) else {**row, "fundingRate": value}


def _altered(row: Any) -> Any:
    """A row of the same time that a consistency check cannot tell from a true one: another close, or another rate."""
    if isinstance(row, list):
        high, low, close = row[2], row[3], row[4]
        other = low if close == high else high
        # A flat bar has no other close inside its range: take one more trade instead.
        return [*row[:4], other, *row[5:]] if other != close else [*row[:8], row[8] + 1, *row[9:]]
    return {**row, "fundingRate": "0.00010001" if row["fundingRate"] != "0.00010001" else "0.00010002"}


@cache
def _blanks(megabytes: int) -> bytes:
    deflate = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join([*(deflate.compress(b" " * 1_048_576) for _ in range(megabytes)), deflate.flush()])


# --- rules


@dataclass(frozen=True, slots=True)
class Rule:
    """Which requests are hit (see the module's docstring), and the action with its keys."""

    action: str
    args: Mapping[str, object] = field(default_factory=dict)
    path: str = ""
    symbol: str | None = None
    after: int = 0
    first: int | None = None
    every: int = 1
    probability: float = 1.0

    def matches(self, request: Request) -> bool:
        """Whether the request counts for this rule."""
        symbol = request.params.get("symbol") or request.params.get("pair")
        return re.search(self.path, request.path) is not None and self.symbol in {None, symbol}

    def fires(self, number: int, dice: random.Random) -> bool:
        """Whether the rule applies to the `number`-th matching request (from 1)."""
        number -= self.after
        if number < 1 or number % self.every or (self.first is not None and number > self.first):
            return False
        return dice.random() < self.probability


class Faults:
    """Rules and their counts; thread-safe. `rules` and `archive` are tables with the keys of the file."""

    def __init__(
        self,
        rules: Sequence[Mapping[str, object]] = (),
        *,
        archive: Sequence[Mapping[str, object]] = (),
        seed: int = 0,
        origin: str = "faults",
    ) -> None:
        self.rules = [parse_rule(rule, f"{origin}: rule {number}") for number, rule in enumerate(rules, 1)]
        self.defects = Defects(archive, origin=origin)
        self._seed = seed
        self._lock = Lock()
        self.reset()

    @classmethod
    def load(cls, path: Path | str) -> Faults:
        """The rules of a TOML or JSON file; UsageError that names what is wrong with it."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
            table = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        except (OSError, ValueError, RecursionError) as error:
            raise UsageError(f"cannot read the fault rules in {path}: {error}") from error
        lists = ("rule", "archive")
        if not isinstance(table, dict) or not all(isinstance(table.get(name, []), list) for name in lists):
            raise UsageError(f"{path}: fault rules are tables, each under [[rule]] or [[archive]]")
        check_keys(table, {"seed", *lists}, str(path))
        seed = table.get("seed", 0)
        if not fits(seed, int):
            raise UsageError(f"{path}: seed must be a whole number, not {seed!r}")
        return cls(table.get("rule", []), archive=table.get("archive", []), seed=seed, origin=str(path))

    def reset(self) -> None:
        """Count from the beginning, forget remembered pages."""
        self.defects.reset()
        with self._lock:
            self._counts = [0] * len(self.rules)
            self._memories: list[dict[object, bytes]] = [{} for _ in self.rules]

    def apply(self, request: Request, answer: Answer, now: int, ask: Ask) -> tuple[Answer, Delivery, str | None]:
        """What to send instead of `answer`, how, and the action that made it so (None: no rule applies)."""
        if not self.rules or answer.status not in {200, 206}:
            return answer, Delivery(), None
        with self._lock:
            chosen = None
            for index, rule in enumerate(self.rules):
                if rule.matches(request):
                    self._counts[index] += 1
                    number = self._counts[index]
                    if chosen is None and rule.fires(number, random.Random(f"{self._seed}/{index}/{number}")):
                        chosen = index
            if chosen is None:
                return answer, Delivery(), None
            memory = self._memories[chosen]
        rule = self.rules[chosen]
        changed, delivery = ACTIONS[rule.action](_Hit(request, answer, now, ask, memory), **rule.args)
        return changed, delivery, rule.action


_MATCH = {"path": Expression, "symbol": str, "after": int, "first": int, "every": int, "probability": float}


def parse_rule(table: Mapping[str, object], where: str) -> Rule:
    """A rule from its table; UsageError that names an unknown or unfit key and lists the known ones."""
    action, args, match = parse_table(table, "action", ACTIONS, _MATCH, where)
    if match.get("every", 1) <= 0 or args.get("bytes_per_second", 1) <= 0:
        raise UsageError(f"{where} ({action}): every and bytes_per_second must be greater than 0")
    return Rule(action, args, **match)
