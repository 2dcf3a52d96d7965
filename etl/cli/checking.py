"""`etl status` and `etl verify`: what is stored, and whether it is right."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any, Literal

import click

from .. import report
from ..errors import EtlError, SeriesFailed
from ..ranges import parse_duration
from .opening import load_settings, open_lake
from .options import against, as_time, check_names, choice, common
from .options import stored as selection
from .output import error_json, show, show_judged
from .signals import stoppable

log = logging.getLogger("etl")


@click.command()
@click.argument("datasets", nargs=-1)
@selection
@click.option("--max-lag", metavar="TIME", help="Exit 1 if a series lags more than this, e.g. 2d.")
@click.option("--at", callback=as_time, metavar="TIME", help="Count lags up to that time (default: now, by this machine).")
@click.option("--rebuild", is_flag=True, help="Write the catalog anew from the lake alone.")
@common
def status(datasets: tuple[str, ...], max_lag: str | None, at: int | None, *, rebuild: bool, **options: Any) -> None:
    """Say what is stored: per series first, last, rows, missing, lost, lag, bytes, sources.

    The lag is counted from the end of the last bar to now, or to the end of a contract that is over.
    """
    from .. import pipeline  # noqa: PLC0415 - heavy

    check_names(datasets, options)
    store = open_lake(load_settings(options))
    if rebuild:
        pipeline.rebuild(store)
    chosen = choice(datasets, options)
    chosen.require([*store.series(), *(series for series, _ in store.strays(beside=True))])
    rows = pipeline.status(store, int(time.time() * 1000) if at is None else at, chosen)
    wrong = [f"{row['dataset']} {row['symbol']} cannot be read: {row['error']}" for row in rows if "error" in row]
    if max_lag is not None:
        limit = parse_duration(max_lag) // 1000
        late = sorted((row for row in rows if (row["lag_s"] or 0) > limit), key=lambda row: -row["lag_s"])
        wrong += [f"{len(late)} of {len(rows)} series lag more than {max_lag}, most: {_series(late[0])}"] if late else []
    columns = ("market", "dataset", "symbol", "interval", *("lag" if name == "lag_s" else name for name in pipeline.STATUS))
    told = [{**row, "lag": None if row["lag_s"] is None else report.duration(row["lag_s"])} for row in rows]
    show_judged("series", rows if options["as_json"] else told, columns, wrong, EtlError, as_json=options["as_json"])


@click.command()
@click.argument("datasets", nargs=-1)
@selection
@against("Compare digests and rows with the archive, or a sample with REST.")
@common
def verify(datasets: tuple[str, ...], against: Literal["archive", "rest"] | None, **options: Any) -> None:
    """Check what is stored: keys, grid, values, gaps, footers, sums of finer bars, life spans.

    Exit 1 on a finding of severity error, 3 if some series could not be compared. Nothing is written; only --against asks.
    """
    from .. import verify as verifying  # noqa: PLC0415 - heavy

    check_names(datasets, options)
    settings = load_settings(options)
    store = open_lake(settings)
    chosen = choice(datasets, options)
    chosen.require([*store.series(), *(series for series, _ in store.strays(beside=True))])
    found = verifying.verify(store, chosen)
    if against:
        with stoppable(None) as stop:
            found = verifying.compare(found, store, settings, against, stop=stop, chosen=chosen)
    code = 1 if not found.sound else SeriesFailed.exit_code if found.failed else 0
    counts = {"series": found.series, "files": found.files, "rows": found.rows}
    findings = [report.finding_json(finding) for finding in found.findings]
    failures = [{**series.as_dict(), "error": str(error)} for series, error in found.failed]
    wrong = sum(finding.severity == "error" for finding in found.findings)
    failure: EtlError | None = EtlError(f"{wrong} findings of severity error") if wrong else None
    failure = failure or (SeriesFailed(f"{len(failures)} series could not be compared") if failures else None)
    document = {"findings": findings, "failed": failures, **counts, **error_json(failure), "exit_code": code}
    columns = ("severity", "market", "dataset", "symbol", "interval", "check", "count", "first", "message")
    told = [finding for finding in findings if finding["severity"] != "info" or not options["quiet"]]
    if told or options["as_json"]:
        show(document, told, columns, as_json=options["as_json"])
    counted = f"{found.rows:,} rows in {found.files:,} files of {found.series:,} series"
    log.info("verify read %s%s", counted, "" if findings or found.failed else ": nothing is wrong")
    for series, error in found.failed:
        log.error("%s: %s", series, error)
    sys.exit(code)


def _series(row: dict[str, Any]) -> str:
    return " ".join(row[key] for key in ("market", "dataset", "symbol", "interval") if row[key])
