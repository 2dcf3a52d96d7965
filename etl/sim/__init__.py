"""The embedded exchange: a real HTTP server on loopback that answers like Binance, REST and bulk archive, for demos, tests
and users' own CI.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from threading import Event
from types import FrameType


def serve(
    *,
    port: int = 0,
    replay: Path | None = None,
    faults: Path | None = None,
    seed: int = 0,
    symbols: int = 64,
    latency_ms: float = 0,
    weight_limit: int = 2400,
    enforce: bool = True,
    gzip: bool = False,
    start_ms: int | None = None,
    frozen: bool = False,
    speed: float = 1.0,
    quiet: bool = False,
) -> None:
    """Serve until SIGINT or SIGTERM; the base URL is the first line on stdout, what a replay leaves out goes to stderr.

    `replay` is a folder of recorded files instead of the generated market of `seed` and `symbols`, `faults` a file of rules
    (see `etl.sim.faults`), `start_ms`, `frozen` and `speed` are the exchange's clock. UsageError for a bad file or folder.
    """
    from .clock import Clock  # noqa: PLC0415 - numpy and the server are for this command alone
    from .faults import Faults  # noqa: PLC0415 - heavy
    from .market import GeneratedWorld  # noqa: PLC0415 - heavy
    from .replay import ReplayWorld  # noqa: PLC0415 - heavy
    from .server import Simulator  # noqa: PLC0415 - heavy

    world = ReplayWorld(replay, quiet=quiet) if replay else GeneratedWorld(seed=seed, symbols=symbols)
    stop = Event()

    def stopped(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, stopped) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with Simulator(
            world,
            port=port,
            clock=Clock(start_ms, frozen=frozen, speed=speed),
            faults=Faults.load(faults) if faults else None,
            latency_ms=latency_ms,
            weight_limit=weight_limit,
            enforce=enforce,
            gzip=gzip,
        ) as simulator:
            sys.stdout.write(f"{simulator.url}\n")
            sys.stdout.flush()
            stop.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
