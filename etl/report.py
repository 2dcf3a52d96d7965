"""Outcomes and tables as text and as JSON documents. Pure: strings and plain values in, strings and plain values out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .model import Finding, Job, Series
from .ranges import TimeRange, iso
from .text import padded, width

# Bytes of a bar of JSON on the wire (binance-facts 11); settlements are about as long.
BYTES_PER_ROW = 147

Json = dict[str, Any]


def span_json(series: Series, span: TimeRange) -> Json:
    """A series and a range as the flat keys of every document."""
    return {**series.as_dict(), "start": iso(span.start), "end": iso(span.end)}


def finding_json(finding: Finding) -> Json:
    """A finding as one element of `findings` or `changed`."""
    return {
        **finding.series.as_dict(),
        "check": finding.check,
        "severity": finding.severity,
        "count": finding.count,
        "first": iso(finding.span.start),
        "message": finding.message,
    }


def plan_json(jobs: Sequence[Job], eta_s: float) -> Json:
    """The document of --dry-run."""
    return {
        "jobs": len(jobs),
        "requests": sum(job.requests for job in jobs),
        "weight": sum(job.weight for job in jobs),
        "bytes_estimated": sum(job.rows for job in jobs) * BYTES_PER_ROW,
        "eta_s": round(eta_s, 1),
        "plan": [
            {
                **(job.series[0].as_dict() if len(job.series) == 1 else {**job.series[0].as_dict(), "symbol": None}),
                "series": len(job.series),
                "partitions": sorted({partition.name for partition in job.partitions}),
                "source": job.source,
                "start": iso(job.windows[0].span.start) if job.windows else None,
                "end": iso(job.windows[-1].span.end) if job.windows else None,
                "page_limit": max((window.limit for window in job.windows), default=None),
                "requests": job.requests,
                "weight": job.weight,
                "rows_estimated": job.rows,
            }
            for job in jobs
        ],
    }


def plan_text(jobs: Sequence[Job], eta_s: float) -> str:
    """The plan as a table a person reads, with its totals below."""
    document = plan_json(jobs, eta_s)
    rows = [
        (
            str(job.series[0])
            if len(job.series) == 1
            else f"{job.series[0].market} {job.series[0].dataset} × {len(job.series)} symbols",
            _names(line["partitions"]),
            f"{line['start'] or '-'} .. {line['end'] or '-'}",
            f"{line['requests']:,}",
            f"{line['weight']:,}",
            f"{line['rows_estimated']:,}",
        )
        for job, line in zip(jobs, document["plan"], strict=True)
    ]
    total = (
        f"{document['jobs']:,} jobs, {document['requests']:,} requests, weight {document['weight']:,}, "
        f"about {_bytes(document['bytes_estimated'])}, at least {duration(eta_s)}; nothing was written"
    )
    if not rows:
        return "nothing to do: all of it is covered"
    return table(("series", "files", "range", "requests", "weight", "rows"), rows, right=(3, 4, 5)) + "\n" + total


def _names(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]}..{names[-1]}"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def gaps_text(gaps: Iterable[tuple[Series, TimeRange, str]], most: int = 20) -> list[str]:
    """One line a gap, the first `most` of them, and how many there are by verdict."""
    gaps = list(gaps)
    lines = [f"  {series}: {iso(span.start)} .. {iso(span.end)} {verdict}" for series, span, verdict in gaps[:most]]
    if len(gaps) > most:
        counts = Counter(verdict for _, _, verdict in gaps)
        lines.append(
            f"  … {len(gaps)} in all ({', '.join(f'{n} {verdict}' for verdict, n in counts.items())}); --json lists them"
        )
    return lines


def table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> str:
    """Aligned columns; those in `right` are flush right."""
    lines = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(width(line[column]) for line in lines) for column in range(len(header))]
    flush_right = set(right)
    return "\n".join(
        "  ".join(
            padded(cell, columns, right=column in flush_right)
            for column, (cell, columns) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def records(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Records as a table: numbers flush right, None as a dash."""
    numeric = [i for i, c in enumerate(columns) if any(isinstance(row[c], int | float) for row in rows)]
    return table(columns, ([_cell(row[column]) for column in columns] for row in rows), right=numeric)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
