"""What the end-to-end tests share: settings that point at a simulator, and the exchange's truth beside what a lake holds."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from etl import config, registry
from etl.config import Settings
from etl.lake.store import Store
from etl.model import Series
from etl.pipeline import Progress, Stop
from etl.sim.server import Simulator


def settings(exchange: Simulator, lake: Path, **options: object) -> Settings:
    """Settings for one lake and the simulator, free of this machine's environment and files."""
    urls = {f"ETL_{name.upper()}_URL": exchange.url for name in (*registry.MARKETS, "archive", "archive_index")}
    env = urls | {"HOME": str(lake.parent), "ETL_STATE_DIR": str(lake.parent / "state")}
    return config.load({"lake": str(lake), **options}, env=env, cwd=lake.parent)


@contextmanager
def nobody(scheme: str = "http") -> Iterator[str]:
    """An address of this machine at which nobody listens, nor begins to: the port is taken."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"{scheme}://127.0.0.1:{taken.getsockname()[1]}"


def stored(lake: Path, series: Series) -> list[tuple[object, ...]]:
    """Every stored row of the series, times as ms UTC, in the order of the files."""
    store = Store.open(lake, network="mainnet", layout="year")
    rows: list[tuple[object, ...]] = []
    for file in store.files(series):
        table = store.rows(file.partition)
        columns = [c.cast("int64") if str(c.type).startswith("timestamp") else c for c in table.columns]
        rows += zip(*(column.to_pylist() for column in columns), strict=True)
    return rows


def truth(exchange: Simulator, series: Series, start: int, end: int) -> list[tuple[object, ...]]:
    """What the exchange has in [start, end), by Python's own conversion of its texts."""
    wire = exchange.market.truth(series.market, series.dataset, series.symbol, series.interval, start, end)
    if series.dataset == "funding":
        return [_settlement(row) for row in wire]
    bars = [(int(r[0]), *map(float, r[1:6]), int(r[6]), float(r[7]), int(r[8]), float(r[9]), float(r[10])) for r in wire]
    return bars if series.dataset == "klines" else [(*bar[:5], bar[6]) for bar in bars]


def _settlement(row: dict[str, Any]) -> tuple[object, ...]:
    mark = row.get("markPrice")
    return int(row["fundingTime"]), float(row["fundingRate"]), float(mark) if mark else None, row.get("rateType")


def partitions(lake: Path) -> dict[str, tuple[str, int]]:
    """Digest and modification time of every data file."""
    found = {}
    for path in sorted(lake.rglob("*.parquet")):
        found[str(path.relative_to(lake))] = (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
    return found


def pages(exchange: Simulator) -> int:
    """How many page requests the exchange has answered since its last reset."""
    return sum(1 for request in exchange.requests if request.page)


class StopAfter(Progress):
    """Ends a run when so many windows were answered."""

    def __init__(self, stop: Stop, windows: int) -> None:
        self.stop, self.left = stop, windows

    def page(self, rows: int) -> None:
        self.left -= 1
        if self.left == 0:
            self.stop.set()
