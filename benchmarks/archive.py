"""`python -m benchmarks.archive`: backfills from the bulk archive, their parts, and other readers of it, on the same files.

Each contestant is a process, measured from outside from start to end. It reads zips of the embedded exchange, which is a
process of its own, has made them beforehand and answers after 30 ms; its own CPU is in the column `exchange`. What was stored
is compared with the rows of the exchange; only right rows count.

    python -m benchmarks.archive                   all of the works below, and the parts
    python -m benchmarks.archive --works year      one of them
    python -m benchmarks.archive --peers           beside other packages, each installed into an environment of its own

Figures are those of the best of `--repeat` turns (peak MB, missing and wrong of the worst); `rows/CPU s` are rows a second a
core.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

from etl.model import Series
from etl.ranges import DAY, MINUTE, TimeRange, iso, months, parse_time
from etl.registry import DATASETS

from .archive_peers import PEERS, installed
from .race import LATENCY_MS, _ask, _measure

NOW = parse_time("2026-11-20T12:00")  # of the exchange: yesterday's file is there, today's bars have REST alone
BAR_ROWS_PER_CPU_S = 500_000
BAR_PEAK_MB = 419  # 400 MiB


@dataclass(frozen=True)
class Work:
    """1m bars of the exchange's first `symbols` contracts in [start, end); `lacks`: a day that its monthly files have not."""

    title: str
    symbols: int
    start: str
    end: str
    sources: tuple[str, ...] = ("archive", "auto")
    peers: bool = False
    lacks: str | None = None


WORKS = {
    "wide": Work("sixty symbols, 1m, three months", 60, "2026-08-01", "2026-11-01", peers=True),
    "year": Work("one symbol, 1m, twelve months", 1, "2025-11-01", "2026-11-01", peers=True),
    "quarter": Work("one symbol, 1m, three months", 1, "2026-08-01", "2026-11-01", peers=True),
    "hole": Work("the same, and the month's file lacks a day", 1, "2026-08-01", "2026-11-01", peers=True, lacks="2026-09-10"),
    "tail": Work("one symbol, 1m, three months up to now", 1, "2026-08-20", "2026-11-20T12:00", sources=("auto",)),
}

TABLE = {
    "turns": "{turns}",
    "best s": "{wall_s:.1f}",
    "median s": "{median_s:.1f}",
    "rows/s": "{rows_per_s:,.0f}",
    "rows/CPU s": "{rows_per_cpu_s:,.0f}",
    "× etl": "{ratio:.2f}",
    "CPU s": "{cpu_s:.1f}",
    "exchange": "{exchange_cpu_s:.1f}",
    "peak MB": "{peak_mb:.0f}",
    "requests": "{requests:,}",
    "zips": "{zips}",
    "REST pages": "{pages}",
    "missing": "{missing:,}",
    "wrong": "{wrong:,}",
}


def main() -> None:
    options = _options()
    peers = {}
    for name in PEERS if options.peers == [] else options.peers or ():
        if python := _environment(PEERS[name].package, options.environments):
            peers[name] = python
    results, wrong = {}, False
    for name in options.works:
        results[name] = _compete(WORKS[name], peers if WORKS[name].peers else {}, options.repeat)
        etl = [one for who, one in results[name]["contestants"].items() if who not in PEERS]
        wrong = wrong or any(one["exit_code"] or one["missing"] or one["wrong"] for one in etl)
        if not options.json:
            print(_text(results[name]), flush=True)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        parts = pool.submit(_parts).result() if options.parts else {}
    versions = {name: installed(python, PEERS[name].package) for name, python in peers.items()}
    host = {"python": platform.python_version(), "cpus": os.cpu_count(), **versions}
    if options.json:
        print(json.dumps({"host": host, "works": results, "parts": parts}, indent=2))
        return
    if parts:
        print("the parts, one thread, a month of 1m bars: rows a second of CPU\n")
        print("".join(f"{name:28}{value:12,.0f}\n" for name, value in parts.items()))
    print(", ".join(f"{name} {value}" for name, value in host.items()))
    if wrong:
        sys.exit("etl did not store what the exchange has")


# ---- works


def _compete(work: Work, peers: dict[str, Path], repeat: int) -> dict[str, Any]:
    """Let the contestants take turns: the work, and a summary of each by name."""
    runs: dict[str, list[dict[str, Any]]] = {}
    with _exchange(work) as (url, spent), tempfile.TemporaryDirectory(prefix="bench-") as root:
        symbols = [one["symbol"] for one in _ask(f"{url}/fapi/v1/exchangeInfo")["symbols"]][: work.symbols]
        _warm(url, work, symbols, days=bool(peers))
        ways = {f"etl {source}": partial(_etl, source) for source in work.sources}
        ways |= {name: partial(_peer, name, python) for name, python in peers.items()}
        judges = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))  # judge.py says why
        with judges:
            for name, command in [*ways.items()] * repeat:
                folder = Path(tempfile.mkdtemp(dir=root))
                run = _turn(url, spent, command(url, work, symbols), folder)
                run |= judges.submit(_judge, work, symbols, folder / "output").result()
                runs.setdefault(name, []).append(run)
                print(f"{name}: {run['wall_s']:.1f} s, {run['cpu_s']:.1f} s of CPU {run['error']}", file=sys.stderr)
                shutil.rmtree(folder)
    summaries = {name: _summary(done) for name, done in runs.items()}
    first = next(iter(summaries.values()))
    for one in summaries.values():
        one["ratio"] = one["rows_per_s"] / (first["rows_per_s"] or 1)
    return {"title": work.title, "symbols": work.symbols, "start": work.start, "end": work.end, "contestants": summaries}


def _turn(url: str, spent: Callable[[], float], command: Sequence[str], folder: Path) -> dict[str, Any]:
    _ask(f"{url}/sim/reset")
    _ask(f"{url}/sim/clock?set={NOW}")
    # Whatever asks for a real host meets a closed port.
    proxies = {name: "http://127.0.0.1:9" for both in ("http_proxy", "https_proxy") for name in (both, both.upper())}
    open_ = {"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
    urls = dict.fromkeys(("ETL_UM_URL", "ETL_ARCHIVE_URL", "ETL_ARCHIVE_INDEX_URL"), url)
    before = spent()
    took = _measure(command, folder, {**urls, **proxies, **open_, "ETL_STATE_DIR": "state"})
    took["exchange_cpu_s"] = spent() - before
    counters = _ask(f"{url}/sim/counters")
    if not took["exit_code"] and not counters["zips"]:
        raise RuntimeError(f"{command} read no zip of the exchange")
    asked = [one["params"]["startTime"] for one in _ask(f"{url}/sim/requests?path=/fapi/v1/klines")]
    first_page = iso(min(map(int, asked))) if asked else ""
    return took | {"first_page": first_page, **{name: counters[name] for name in ("requests", "zips", "pages")}}


def _etl(source: str, _url: str, work: Work, symbols: Sequence[str]) -> list[str]:
    span = ["--interval", "1m", "--start", work.start, "--end", work.end]
    chosen = ["--symbols", ",".join(symbols), "--source", source]
    return ["-m", "etl", "backfill", "klines", *chosen, *span, "--lake", "output", "--json", "-q"]


def _peer(name: str, python: Path, url: str, work: Work, symbols: Sequence[str]) -> list[str]:
    script = str(Path(__file__).with_name("archive_peers.py"))
    # The measured process starts as ours and becomes the one of the peer's environment: 20 ms.
    return [
        "-c",
        "import os, sys; os.execv(sys.argv[1], sys.argv[1:])",
        str(python),
        script,
        name,
        url,
        "output",
        work.start,
        work.end,
        *symbols,
    ]


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    best = max(runs, key=lambda run: run["right"] / run["wall_s"])
    thriftiest = max(runs, key=lambda run: run["right"] / run["cpu_s"])
    worst = {name: max(run[name] for run in runs) for name in ("peak_mb", "missing", "wrong", "pages")}
    failed = next((run for run in runs if run["exit_code"]), best)
    return {
        **best,
        **worst,
        **{name: thriftiest[name] for name in ("cpu_s", "exchange_cpu_s")},
        **{name: failed[name] for name in ("exit_code", "error")},
        "rows_per_s": best["right"] / best["wall_s"],
        "rows_per_cpu_s": thriftiest["right"] / thriftiest["cpu_s"],
        "median_s": median(run["wall_s"] for run in runs),
        "turns": len(runs),
    }


def _text(result: dict[str, Any]) -> str:
    found: dict[str, dict[str, Any]] = result["contestants"]
    lines = [["", *TABLE], *([name, *(cell.format_map(one) for cell in TABLE.values())] for name, one in found.items())]
    first, *rest = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [f"{result['title']}, {result['start']} … {result['end']}", ""]
    text += ["  ".join([name.ljust(first), *map(str.rjust, cells, rest)]) for name, *cells in lines]
    text += ["", *(f"{name}: {PEERS[name].how}" for name in found if name in PEERS)]
    for name, one in found.items():
        if one["exit_code"]:
            text.append(f"{name} ended with exit code {one['exit_code']}: {one['error']}")
        if one["first_page"]:
            text.append(f"{name}: the first page of REST begins at {one['first_page']}")
        if name not in PEERS:
            bars = [f"{one['peak_mb'] / BAR_PEAK_MB:.2f} of {BAR_PEAK_MB} MB"]
            if result["symbols"] > 1:  # elsewhere the start decides
                bars.append(f"{one['rows_per_cpu_s'] / BAR_ROWS_PER_CPU_S:.2f} of {BAR_ROWS_PER_CPU_S:,} rows a second a core")
            text.append(f"{name}, beside what was set: {', '.join(bars)}")
    return "\n".join([*text, ""])


# ---- the exchange


@contextmanager
def _exchange(work: Work) -> Iterator[tuple[str, Callable[[], float]]]:
    """The URL of an embedded exchange in a process of its own, and its CPU so far in seconds."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.archive", "--serve", work.lacks or ""],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        told, asked = process.stdout, process.stdin

        def spent() -> float:
            asked.write("\n")
            asked.flush()
            return float(told.readline())

        try:
            yield told.readline().strip(), spent
        finally:
            asked.close()


def _serve(lacks: str) -> None:
    """An exchange that keeps all its zips, until stdin ends; its URL, then for each line on stdin its CPU in seconds."""
    from etl.sim.archive import Archive
    from etl.sim.clock import Clock
    from etl.sim.faults import Faults
    from etl.sim.market import GeneratedWorld
    from etl.sim.server import Simulator

    defects = [{"key": f"/monthly/.*-{lacks[:7]}", "defect": "missing_day", "day": lacks}] if lacks else []
    faults = Faults(archive=defects)
    world = GeneratedWorld()
    with Simulator(world, clock=Clock(NOW), faults=faults, latency_ms=LATENCY_MS) as simulator:
        simulator.archive = Archive(world, faults.defects, cache_bytes=4 << 30)
        print(simulator.url, flush=True)
        for _ in sys.stdin:
            print(time.process_time(), flush=True)


def _warm(url: str, work: Work, symbols: Sequence[str], *, days: bool) -> None:
    """Let the exchange make its files beforehand: the real one has them."""
    span = TimeRange(parse_time(work.start), parse_time(work.end))
    dates = [("monthly", name) for name, _ in months(span)]
    dates += [("daily", iso(day)[:10]) for day in range(span.start, span.end, DAY)] if days or work.symbols == 1 else []
    keys = [
        f"{url}/data/futures/um/{kind}/klines/{quote(symbol)}/1m/{quote(symbol)}-1m-{date}.zip.CHECKSUM"
        for symbol in symbols
        for kind, date in dates
    ]
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(_get, keys):
            pass


def _get(url: str) -> bytes:
    try:
        with urlopen(url) as answer:
            body: bytes = answer.read()
            return body
    except OSError:  # what is not published yet
        return b""


# ---- judging


def _judge(work: Work, symbols: Sequence[str], output: Path) -> Counter[str]:
    """The bars that are `right`, `missing` and `wrong` (differing, doubled, never there) among those stored in [start, end)."""
    import pandas as pd

    from etl.sim.market import GeneratedWorld

    world = GeneratedWorld()
    start, end = parse_time(work.start), parse_time(work.end)
    count: Counter[str] = Counter(right=0, missing=0, wrong=0)
    for symbol in symbols:
        text = io.BytesIO(world.lines(Series("um", "klines", symbol, "1m"), TimeRange(start, end)))
        truth = pd.read_csv(text, names=[*_COLUMNS, "ignore"], usecols=_COLUMNS, dtype=float, float_precision="round_trip")
        stored = _stored(output, symbol)
        stored = stored[(stored["open_time"] >= start) & (stored["open_time"] < end)]
        unique = stored.drop_duplicates("open_time").set_index("open_time")
        truth = truth.set_index("open_time")
        kept = unique.columns.intersection(truth.columns)
        there = truth[kept].reindex(unique.index)  # no bar is equal to nothing
        right = int((unique[kept] == there).all(axis=1).sum())
        missing = len(truth) - int(truth.index.isin(unique.index).sum())
        count.update(right=right, missing=missing, wrong=len(stored) - right)
    return count


_COLUMNS = [column.name for column in DATASETS["klines"].columns]
# What others call them.
_NAMES = {"date": "open_time", "number_of_trades": "count", "trades": "count"}


def _stored(output: Path, symbol: str) -> Any:
    """The rows of a symbol in whatever files lie in its folder, all numbers, times as ms UTC."""
    import pandas as pd
    import pyarrow.parquet as pq

    readers: dict[str, Callable[[Path], pd.DataFrame]] = {
        ".parquet": lambda file: pq.ParquetFile(file).read().to_pandas(),
        ".feather": pd.read_feather,
        ".csv": lambda file: pd.read_csv(file, float_precision="round_trip"),
    }
    frames = []
    for file in sorted(output.rglob("*")):
        if file.suffix in readers and {symbol, f"symbol={symbol}"} & set(file.relative_to(output).parts):
            rows = readers[file.suffix](file).rename(columns=_NAMES)
            for name in ("open_time", "close_time"):
                if name in rows and not pd.api.types.is_numeric_dtype(rows[name]):
                    rows[name] = (
                        rows[name].astype("datetime64[ms, UTC]" if rows[name].dt.tz else "datetime64[ms]").astype("int64")
                    )
            frames.append(rows[[name for name in _COLUMNS if name in rows]].astype(float))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({"open_time": []}, dtype=float)


# ---- parts


def _parts() -> dict[str, float]:
    """What each step of a month's zip allows, in rows a second of CPU."""
    import hashlib

    from etl import publication
    from etl.extract import bulk
    from etl.lake.store import encode
    from etl.ranges import MAX_TIME
    from etl.schema import empty
    from etl.sim.archive import Archive
    from etl.sim.exchange import Request
    from etl.sim.market import GeneratedWorld
    from etl.transform import normalize, quality

    series, name = Series("um", "klines", "BTCUSDT", "1m"), "BTCUSDT-1m-2026-10.zip"
    path = f"/data/futures/um/monthly/klines/BTCUSDT/1m/{name}"
    zipped = Archive(GeneratedWorld()).answer(Request(path, {}, {}, "GET"), NOW).body
    file = publication.file_of(series, "monthly", parse_time("2026-10-01"))
    span = file.span
    csv = bulk.member(zipped, name)
    rows = bulk.rows(csv, series.dataset)

    def normalise() -> None:
        """What a job does with a file's rows, in the order of `work.py`."""
        inside = normalize.inside(series, quality.admissible(series, rows, file)[0], [span])
        quality.absent(series, normalize.moments(series, [inside]), [span])
        merged = normalize.closed(normalize.merge_pages(series, [inside])[0], MAX_TIME)
        normalize.merge(series, empty(series.dataset), normalize.within(series, merged, span))

    steps: dict[str, Callable[[], object]] = {
        "SHA-256": lambda: hashlib.sha256(zipped).digest(),
        "inflate, CRC": lambda: bulk.member(zipped, name),
        "CSV → Arrow": lambda: bulk.rows(csv, series.dataset),
        "normalise, merge": normalise,
        "Parquet": lambda: encode(rows, "{}"),
    }
    seconds = {name: _least(step) for name, step in steps.items()}
    count = (span.end - span.start) // MINUTE
    return {name: count / took for name, took in (seconds | {"all of them": sum(seconds.values())}).items()}


def _least(step: Callable[[], object], times: int = 20) -> float:
    """The least CPU of some repetitions, in seconds."""
    took = []
    for _ in range(times):
        before = time.process_time()
        step()
        took.append(time.process_time() - before)
    return min(took)


# ---- environments


def _environment(package: str, folder: Path) -> Path | None:
    """The Python of an environment that holds the package, made if need be; None, and why on stderr, where that fails."""
    home = folder / package
    python = home / "bin" / "python"
    if python.exists() and installed(python, package):
        return python
    steps = [[sys.executable, "-m", "venv", str(home)], [str(python), "-m", "pip", "install", "--quiet", package]]
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ["no message"])[-1]
            print(f"{package} is left out: {' '.join(step)} failed: {why}", file=sys.stderr)
            return None
    return python


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.archive", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    works = "; ".join(f"{name}: {work.title}" for name, work in WORKS.items())
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS), metavar="WORK", help=works)
    parser.add_argument("--peers", nargs="*", choices=PEERS, metavar="PEER", help=f"all, or some of {', '.join(PEERS)}")
    parser.add_argument(
        "--environments",
        type=Path,
        default=Path(tempfile.gettempdir()) / "etl-bench-peers",
        metavar="FOLDER",
        help="where the peers' environments are kept (default %(default)s)",
    )
    parser.add_argument("--no-parts", dest="parts", action="store_false", help="leave out the parts")
    parser.add_argument("--repeat", type=int, default=3, metavar="TURNS", help="of each contestant (default 3)")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    parser.add_argument("--serve", metavar="DAY", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        _serve(options.serve)
        sys.exit()
    return options


if __name__ == "__main__":
    main()
