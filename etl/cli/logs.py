"""What a command says on stderr: one handler, as text or as JSON lines."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any, TextIO

import click

from ..errors import EtlError
from ..ranges import iso
from ..text import masked, visible

log = logging.getLogger("etl")


def _safe(text: str) -> str:
    """The text, line by line, without passwords and without what a terminal would obey: a name may hold anything."""
    return "\n".join(visible(line) for line in masked(text).split("\n"))


class _TextLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return _safe(super().format(record))


class _JsonLines(logging.Formatter):
    """One JSON object a line: time, level, message, what the record says in `fields`, and what all lines of a command share."""

    def __init__(self, shared: dict[str, Any]) -> None:
        super().__init__()
        self._shared = shared

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": iso(int(record.created * 1000)),
            "level": record.levelname.lower(),
            "message": record.getMessage().strip(),
            **self._shared,
            **getattr(record, "fields", {}),
            **({"traceback": self.formatException(record.exc_info)} if record.exc_info else {}),
        }
        # In ASCII: under a scheduler the encoding of stderr may be anything.
        return json.dumps({name: masked(value) if isinstance(value, str) else value for name, value in line.items()})


class _Lines(logging.StreamHandler[TextIO]):
    """Writes to what stderr is at the time: a progress bar takes its place, and lets lines go above it."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def start_log(form: str, *, verbose: int = 0, quiet: bool = False, run_id: str | None = None) -> None:
    """Everything that this process says on stderr goes through one handler: our lines, and warnings of libraries."""
    shared = {"command": _command(), **({"run_id": run_id} if run_id else {})}
    handler = _Lines()
    handler.setFormatter(_JsonLines(shared) if form == "json" else _TextLines("%(levelname).1s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.captureWarnings(capture=True)
    log.setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO)


def logs_json() -> bool:
    """Whether the lines are JSON."""
    return any(isinstance(handler.formatter, _JsonLines) for handler in logging.getLogger().handlers)


def _command() -> str | None:
    """The command that was typed, also where the rest of the line is not understood."""
    return next((word for word in sys.argv[1:] if not word.startswith("-")), None)


def fields(*parts: dict[str, Any]) -> dict[str, Any]:
    """The argument `extra` of a log call that gives the JSON line these fields."""
    return {"fields": {name: value for part in parts for name, value in part.items()}}


def error_fields(error: EtlError) -> dict[str, Any]:
    """What a JSON line about an error says of it beside the message."""
    return {"error_type": type(error).__name__}


def tell_error(error: EtlError, exit_code: int | None = None) -> None:
    """Say what went wrong; the exit code is that of the error's type if none is given."""
    if logs_json():
        log.error("%s", masked(str(error)), extra=fields(error_fields(error), {"exit_code": exit_code or error.exit_code}))
    else:
        click.echo(f"etl: {_safe(str(error))}", err=True)
