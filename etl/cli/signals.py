"""How a command ends when it is signalled, or its time is over."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from ..errors import Cancelled, SeriesFailed

if TYPE_CHECKING:
    from ..pipeline import Stop

log = logging.getLogger("etl")

_ENDING = (signal.SIGINT, signal.SIGTERM)

# Of the process, which signals are sent to, not of a command.
_received: list[int] = []
_told = threading.Event()


@contextmanager
def stoppable(max_duration: float | None) -> Iterator[Stop]:
    """SIGINT, SIGTERM and --max-duration ask the run to end cleanly; a second signal ends it at once."""
    from ..pipeline import Stop  # noqa: PLC0415 - heavy

    stop = Stop()
    signals: list[int] = []

    def ask(exit_code: int, why: str) -> None:
        if stop.is_set():
            return
        log.warning("%s: what is under way is finished or dropped, what is done stays", why)
        stop.exit_code = exit_code
        stop.set()

    def signalled(number: int, _: object) -> None:
        if signals:
            os._exit(128 + number)
        signals.append(number)
        ask(128 + number, "stopping, once more ends it at once")

    before = {number: signal.signal(number, signalled) for number in _ENDING}
    timer = threading.Timer(max_duration or 0, ask, (SeriesFailed.exit_code, "--max-duration is over"))
    timer.daemon = True
    if max_duration:
        timer.start()
    try:
        yield stop
    except Cancelled as error:
        error.exit_code = stop.exit_code
        raise
    finally:
        timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def past_stopping() -> None:
    """The outcome stands and is being told: a signal comes too late to change it; a second one still ends it at once."""
    signals: list[int] = []

    def late(number: int, _: object) -> None:
        if signals:
            os._exit(128 + number)
        signals.append(number)

    for number in _ENDING:
        signal.signal(number, late)
    _told.set()


def told() -> bool:
    """Whether the outcome is told, or being told."""
    return _told.is_set()


def interrupting() -> None:
    """SIGINT and SIGTERM end a command in which nothing is to be brought to an end; whatever error comes of it, this is why."""

    def signalled(number: int, _: object) -> NoReturn:
        _received.append(number)
        raise KeyboardInterrupt

    for number in _ENDING:
        signal.signal(number, signalled)


def ended_by() -> int | None:
    """The signal that ended the command before its outcome was told; only after `interrupting`."""
    return _received[0] if _received and not told() else None
