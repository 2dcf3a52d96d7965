"""What a command prints on stdout: one JSON document or a table; and how the outcome of a run is told."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

from .. import report
from ..errors import EtlError, SeriesFailed
from .logs import error_fields, fields
from .signals import past_stopping

if TYPE_CHECKING:
    from ..model import Finding
    from ..pipeline import Outcome

log = logging.getLogger("etl")


def print_json(document: object) -> None:
    """The one document of the command."""
    text = json.dumps(document, ensure_ascii=False, allow_nan=False)
    past_stopping()
    click.echo(text)


def show(document: object, rows: Sequence[dict[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """The document with --json, else the table of these columns."""
    if as_json:
        print_json(document)
    else:
        click.echo(report.records(rows, columns))


def error_json(error: EtlError | None) -> dict[str, Any]:
    """What a document says of a failure (contract 4); nothing where all is well."""
    return {} if error is None else {"error": {"type": type(error).__name__, "message": str(error)}}


def show_judged(
    name: str,
    rows: Sequence[dict[str, Any]],
    columns: Sequence[str],
    wrong: Sequence[str],
    error_type: type[EtlError],
    *,
    as_json: bool,
) -> NoReturn:
    """Rows, as `name` in the document, and what is wrong with them; exit 1 if something is."""
    failure = {**error_json(error_type("; ".join(wrong))), "exit_code": 1} if wrong else {}
    show({name: rows, **failure}, rows, columns, as_json=as_json)
    for message in wrong:
        log.error(message)
    sys.exit(1 if wrong else 0)


def tell_outcome(outcome: Outcome, options: dict[str, Any]) -> NoReturn:
    """Print the outcome in the way that was asked for, and exit with its code."""
    if outcome.dry_run:
        prepared = outcome.requests, outcome.weight
        if options["as_json"]:
            document = report.plan_json(outcome.jobs, outcome.eta_s, prepared)
            print_json({**document, **_failures(outcome)})
        else:
            click.echo(report.plan_text(outcome.jobs, outcome.eta_s, prepared))
        for series, error in outcome.failed:
            log.error("%s cannot be planned: %s", series, error, extra=fields(series.as_dict(), error_fields(error)))
        sys.exit(outcome.exit_code)
    if options["as_json"]:
        print_json(_outcome_json(outcome))
    _say_outcome(outcome)
    sys.exit(outcome.exit_code)


def _numbers(outcome: Outcome) -> dict[str, Any]:
    return {
        "rows_written": outcome.rows_written,
        "partitions_written": outcome.partitions_written,
        "requests": outcome.requests,
        "weight": outcome.weight,
        "bytes_downloaded": outcome.bytes_downloaded,
        "elapsed_s": round(outcome.elapsed_s, 3),
    }


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    document: dict[str, Any] = {
        "run_id": outcome.run_id,
        **_numbers(outcome),
        "gaps": [{**report.span_json(gap.series, gap.span), "verdict": gap.verdict} for gap in outcome.gaps],
        "changed": [report.finding_json(finding) for finding in outcome.findings if finding.check == "changed"],
        "findings": [report.finding_json(finding) for finding in outcome.findings if finding.check != "changed"],
        **({"left": [report.finding_json(finding) for finding in outcome.left]} if outcome.command == "repair" else {}),
        **_failures(outcome),
    }
    return document


def _failures(outcome: Outcome) -> dict[str, Any]:
    failures: dict[str, Any] = {
        "failed": [{**series.as_dict(), "error": str(error)} for series, error in outcome.failed],
        "exit_code": outcome.exit_code,
    }
    if outcome.exit_code:
        error = outcome.stopped or (
            SeriesFailed(f"{len(outcome.failed)} series failed; what could be fetched is stored")
            if outcome.failed
            else EtlError(f"{len(outcome.left)} findings stay, because no source has it otherwise")
        )
        failures |= error_json(error)
    return failures


def _say_outcome(outcome: Outcome) -> None:
    for finding in outcome.findings:
        log.warning("%s: %s", finding.series, finding.message, extra=fields(_finding_fields(finding)))
    for finding in outcome.left:
        log.error(
            "%s stays as it is, because every source that was asked has it so: %s",
            finding.series,
            finding.message,
            extra=fields(_finding_fields(finding)),
        )
    for series, error in outcome.failed:
        log.error("%s failed: %s", series, error, extra=fields(series.as_dict(), error_fields(error)))
    for line in report.gaps_text((gap.series, gap.span, gap.verdict) for gap in outcome.gaps):
        log.warning("gap %s", line.strip())
    if any(gap.verdict == "lost" for gap in outcome.gaps):
        log.warning("what is lost was not fetched yet: the same command again, or etl update, goes on with it")
    if outcome.stopped is not None:
        log.error("%s", outcome.stopped, extra=fields(error_fields(outcome.stopped)))
    counts = {"failed": len(outcome.failed), "gaps": len(outcome.gaps), "findings": len(outcome.findings)}
    # The last line of every run; -q leaves it out where nothing went wrong.
    log.log(
        logging.ERROR if outcome.exit_code else logging.INFO,
        "%s %s: %s rows in %s files, %s requests, weight %s, %s, run %s",
        outcome.command,
        f"ended with exit code {outcome.exit_code}" if outcome.exit_code else "done",
        f"{outcome.rows_written:,}",
        f"{outcome.partitions_written:,}",
        f"{outcome.requests:,}",
        f"{outcome.weight:,}",
        report.duration(outcome.elapsed_s),
        outcome.run_id,
        extra=fields(_numbers(outcome), counts, {"exit_code": outcome.exit_code}),
    )


def _finding_fields(finding: Finding) -> dict[str, Any]:
    return {name: value for name, value in report.finding_json(finding).items() if name not in {"message", "times"}}
