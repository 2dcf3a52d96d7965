"""Outcomes and tables as text and as JSON documents. Pure: strings and plain values in, strings and plain values out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .model import Finding, Job, Series, Source, Window
from .ranges import TimeRange, iso
from .text import padded, visible, width

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
        **({"times": [iso(time) for time in finding.times]} if finding.times else {}),
    }


def plan_json(jobs: Sequence[Job], eta_s: float, prepared: tuple[int, int] = (0, 0)) -> Json:
    """The document of --dry-run; `prepared` are the requests and the weight that making the plan took, and will take again."""
    requests, weight = prepared
    return {
        "jobs": len(jobs),
        "requests": requests + sum(job.requests for job in jobs),
        "weight": weight + sum(job.weight for job in jobs),
        "bytes_estimated": sum(_size(job.windows) for job in jobs),
        "eta_s": round(eta_s, 1),
        "preparation": {"requests": requests, "weight": weight},
        "plan": [_line(job, source) for job in jobs for source in _asked(job)],
    }


def _asked(job: Job) -> Sequence[Source]:
    """Who is asked; a job that only records what is known already has one line all the same."""
    sources = {window.source for window in job.windows}
    return sorted(sources) or job.sources[:1]


def _line(job: Job, source: Source) -> Json:
    windows = [window for window in job.windows if window.source == source]
    return {
        **(job.series[0].as_dict() if len(job.series) == 1 else {**job.series[0].as_dict(), "symbol": None}),
        "series": len(job.series),
        "partitions": sorted({partition.name for partition in job.partitions}),
        "source": source,
        "start": iso(min(window.span.start for window in windows)) if windows else None,
        "end": iso(max(window.span.end for window in windows)) if windows else None,
        "page_limit": max((window.limit for window in windows), default=0) or None,
        "requests": sum(window.requests for window in windows),
        "weight": sum(window.weight for window in windows),
        "rows_estimated": sum(window.rows for window in windows),
        "bytes_estimated": _size(windows),
    }


def _size(windows: Iterable[Window]) -> int:
    return sum(window.bytes if window.source == "archive" else window.rows * BYTES_PER_ROW for window in windows)


def plan_text(jobs: Sequence[Job], eta_s: float, prepared: tuple[int, int] = (0, 0)) -> str:
    """The plan as a table a person reads, with its totals below."""
    document = plan_json(jobs, eta_s, prepared)
    rows = [
        (
            " ".join(str(line[key]) for key in ("market", "dataset", "symbol", "interval") if line[key])
            if line["series"] == 1
            else f"{line['market']} {line['dataset']} × {line['series']} symbols",
            _names(line["partitions"]),
            f"{line['start'] or '-'} .. {line['end'] or '-'}",
            line["source"],
            f"{line['requests']:,}",
            f"{line['weight']:,}",
            f"{line['rows_estimated']:,}",
        )
        for line in document["plan"]
    ]
    total = (
        f"{document['jobs']:,} jobs, {document['requests']:,} requests ({prepared[0]:,} of them to make this plan), weight "
        f"{document['weight']:,}, about {_bytes(document['bytes_estimated'])}, at least {duration(eta_s)}; nothing was written"
    )
    if not rows:
        return "nothing to do: all of it is covered"
    return table(("series", "files", "range", "source", "requests", "weight", "rows"), rows, right=(4, 5, 6)) + "\n" + total


def _names(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]}..{names[-1]}"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    if minutes < 90:
        return f"{minutes:.0f} min"
    hours = minutes / 60
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:,.1f} d"


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
    """Aligned columns; those in `right` are flush right. What a terminal would obey is told by its code point."""
    lines = [tuple(visible(cell) for cell in line) for line in (header, *rows)]
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
