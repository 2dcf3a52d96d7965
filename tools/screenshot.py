"""Makes docs/report.png anew: a market with an outage in the embedded exchange, `etl report`, and Chromium's picture of it.

Usage: screenshot.py PNG
"""

import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

from PIL import Image

from etl import config
from etl.lake.store import Store
from etl.pictures import making, reading
from etl.pipeline import Pipeline, Selection
from etl.ranges import parse_time
from etl.sim.clock import Clock
from etl.sim.market import GeneratedWorld, Hole
from etl.sim.server import Simulator

NOW = parse_time("2026-03-01T12:00:30")
START = parse_time("2023-09-01")
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "UNFIUSDT")
HOLES = (
    Hole("um", "BTCUSDT", "klines", parse_time("2026-02-10T02:00"), parse_time("2026-02-11T14:00")),
    Hole("um", "SOLUSDT", "klines", parse_time("2024-08-05T01:00"), parse_time("2024-08-05T09:00")),
)
SIZE = (1300, 1420)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars", f"--window-size={SIZE[0]},{SIZE[1]}"),
)


def main(target: Path) -> None:
    """Write the picture to `target`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        page = folder / "report.html"
        page.write_text(report(folder / "lake"), encoding="utf-8")
        shot = folder / "shot.png"
        browser = shutil.which("chromium") or sys.exit("screenshot.py needs chromium")
        command = [browser, *FLAGS, f"--user-data-dir={folder / 'profile'}", f"--screenshot={shot}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)  # noqa: S603 - all of it is ours
        image = Image.open(shot).convert("RGB").quantize(256, dither=Image.Dither.NONE)
        out = BytesIO()
        image.save(out, "PNG", optimize=True)
        target.write_bytes(out.getvalue())


def report(lake: Path) -> str:
    """The page of a lake that is filled for it."""
    with Simulator(GeneratedWorld(seed=1, holes=HOLES), clock=Clock(NOW, frozen=True)) as exchange:
        settings = replace(
            config.load({"lake": str(lake)}, env={"HOME": str(lake.parent)}, cwd=lake.parent),
            **{f"{name}_url": exchange.url for name in ("um", "archive", "archive_index")},
            state_dir=lake.parent / "state",
        )
        with Pipeline(settings) as pipeline:
            pipeline.sync("backfill", [Selection("um", ("klines", "funding"), SYMBOLS, ("1h",), START)], stored=None)
    store = Store(lake, settings.partition)
    drawn = [reading.find(store, "klines", "BTCUSDT", None, "um")]
    text, _ = making.report(store, NOW, drawn, network="mainnet", version="0.1", checked=True)
    return text


if __name__ == "__main__":
    main(Path(sys.argv[1]))
