"""`python -m benchmarks`: etl beside ccxt and python-binance, on the same work in the same run.

Each contestant is a process, measured from outside from start to end: wall clock, CPU, peak memory. It talks to a fresh
embedded exchange, again a process, that answers after 30 ms and enforces 2,400 weight a minute. What it stored (etl its lake,
the others one Parquet file) is compared with the exchange row by row; only right rows count.

    python -m benchmarks              one symbol, 1m, three months: fits into one minute's weight
    python -m benchmarks --long       two symbols, twelve months: does not; etl alone, with --peers the others too
    python -m benchmarks --wide       sixty symbols, one month
    python -m benchmarks --recent     two days up to now: who stores the bar that is still open?

Contestants take turns, `--repeat` each; those that sleep of their own accord only one, because their sleep decides. The figures
are those of the best turn (429, peak MB, missing, wrong and open of the worst), `median s` is of all; `× etl` is the ratio of
rows/s. Ratios within one run are worth more than figures, and nothing is worth much on a machine that is busy.

The limit counts by calendar minute, so the second at which a run starts (`--phase`) decides how soon it may spend a second
minute's weight. Where the work needs several minutes, the table is followed by what these minutes allow at best.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from etl.ranges import parse_time

from .contestants import PEERS
from .judge import judge
from .race import WEIGHT_LIMIT, WEIGHT_SHARE, Scenario, race

SCENARIOS = {
    "quick": Scenario("one symbol, 1m, three months", 1, "2026-08-01", "2026-11-01", peers=True),
    "long": Scenario("two symbols, 1m, twelve months", 2, "2025-11-01", "2026-11-01", peers=False),
    "wide": Scenario("sixty symbols, 1m, one month", 60, "2026-09-01", "2026-10-01", peers=False),
    "recent": Scenario("one symbol, 1m, two days up to now", 1, "2026-11-19", "2026-11-21", peers=True, frozen=True),
}

# heading → how a summary shows it
TABLE = {
    "turns": "{turns}",
    "best s": "{wall_s:.1f}",
    "median s": "{median_s:.1f}",
    "rows/s": "{rows_per_s:,.0f}",
    "× etl": "{ratio:.2f}",
    "requests": "{requests:,}",
    "weight": "{weight:,}",
    "rows/weight": "{rows_per_weight:.0f}",
    "429": "{refused}",
    "peak MB": "{peak_mb:.0f}",
    "CPU s": "{cpu_s:.1f}",
    "missing": "{missing:,}",
    "wrong": "{wrong:,}",
    "open": "{open}",
}


def main() -> None:
    options = _options()
    packages = {name: _version(name) for name in ("binance-futures-etl", *dict.fromkeys(p.package for p in PEERS.values()))}
    if absent := [name for name, found in packages.items() if not found]:
        print(f"not installed and left out: {', '.join(absent)}; make bench installs them", file=sys.stderr)
    results = []
    for name in [name for name in SCENARIOS if getattr(options, name)] or ["quick"]:
        scenario = SCENARIOS[name]
        chosen = (options.peers or PEERS) if scenario.peers or options.peers is not None else ()
        names = ["etl", *(peer for peer, of in PEERS.items() if peer in chosen and packages[of.package])]
        results.append(compete(scenario, names, options.repeat, options.phase))
        if not options.json:
            print(_text(results[-1]))
    host = {"python": platform.python_version(), "cpus": os.cpu_count(), **packages}
    if options.json:
        print(json.dumps({"host": host, "scenarios": results}, indent=2))
    else:
        print(", ".join(f"{name} {value}" for name, value in host.items() if value))
    if any(result["contestants"]["etl"][name] for result in results for name in ("exit_code", "missing", "wrong", "open")):
        sys.exit("etl did not store what the exchange has")


def compete(scenario: Scenario, names: Sequence[str], repeat: int, phase: int) -> dict[str, Any]:
    """Let the contestants take turns, then judge what they stored: the scenario, and a summary of each by name."""
    with tempfile.TemporaryDirectory(prefix="bench-") as root:
        for name in names:  # untimed and small: who comes first must not pay for reading the libraries from disk
            race(name, SCENARIOS["recent"], phase, Path(tempfile.mkdtemp(dir=root)))
        turns = [
            (name, Path(tempfile.mkdtemp(dir=root)))
            for turn in range(repeat)
            for name in names
            if turn == 0 or name not in PEERS or not PEERS[name].paced
        ]
        runs = []
        for name, folder in turns:
            runs.append(race(name, scenario, phase, folder))
            print(f"{name}: {runs[-1]['wall_s']:.1f} s {runs[-1]['error']}", file=sys.stderr)
        outputs = [folder / "output" for _, folder in turns]
        start, end, now = (parse_time(text) for text in (scenario.start, scenario.end, scenario.clock))
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:  # judge.py says why
            verdicts = pool.submit(judge, runs[0]["symbols"], start, end, now, outputs).result()
    judged: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for (name, _), run, verdict in zip(turns, runs, verdicts, strict=True):
        judged[name].append(run | verdict)
    summaries = {name: _summary(done) for name, done in judged.items()}
    for one in summaries.values():
        one["ratio"] = one["rows_per_s"] / (summaries["etl"]["rows_per_s"] or 1)
    weight, seconds = scenario.least(phase)
    return asdict(scenario) | {"phase": phase, "least_weight": weight, "least_s": seconds, "contestants": summaries}


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The best run with the median of the wall clocks; what must not happen is taken from the worst one."""
    best = max(runs, key=lambda run: run["right"] / run["wall_s"])
    worst = {name: max(run[name] for run in runs) for name in ("refused", "peak_mb", "missing", "wrong", "open")}
    failed = next((run for run in runs if run["exit_code"]), best)
    walls = [run["wall_s"] for run in runs]
    return {
        **best,
        **worst,
        "exit_code": failed["exit_code"],
        "error": failed["error"],
        "rows_per_s": best["right"] / best["wall_s"],
        "rows_per_weight": best["right"] / max(1, best["weight"]),
        "median_s": median(walls),
        "walls_s": walls,
        "turns": len(walls),
    }


def _text(result: dict[str, Any]) -> str:
    found: dict[str, dict[str, Any]] = result["contestants"]
    lines = [["", *TABLE], *([name, *(cell.format_map(one) for cell in TABLE.values())] for name, one in found.items())]
    first, *rest = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [f"{result['title']}, {result['start']} … {result['end']}", ""]
    text += ["  ".join([name.ljust(first), *map(str.rjust, cells, rest)]) for name, *cells in lines]
    text += ["", *(f"{name}: {PEERS[name].how}" for name in found if name in PEERS)]
    text += [
        f"{name} ended with exit code {one['exit_code']}: {one['error']}" for name, one in found.items() if one["exit_code"]
    ]
    if result["least_s"]:
        budget = f"{WEIGHT_LIMIT * WEIGHT_SHARE:,.0f} a minute, from second {result['phase']} of a minute on"
        text.append(
            f"at best: weight {result['least_weight']:,}, {budget}: the last requests leave after {result['least_s']} s"
        )
    return "\n".join([*text, ""])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, scenario in SCENARIOS.items():
        parser.add_argument(f"--{name}", action="store_true", help=scenario.title + (" (default)" if name == "quick" else ""))
    parser.add_argument(
        "--peers", nargs="*", choices=[*PEERS, "none"], metavar="PEER", help=f"all, or some of {', '.join(PEERS)}; or none"
    )
    parser.add_argument("--repeat", type=int, default=3, metavar="TURNS", help="of each contestant (default 3)")
    parser.add_argument("--phase", type=int, default=30, metavar="SECOND", help="of the minute at the start (default 30)")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    return parser.parse_args()


if __name__ == "__main__":
    main()
