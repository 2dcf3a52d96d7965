"""From a lake to the file: the page of `etl report` and the picture of `etl plot`, and how a file is put in its place."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import EtlError, UsageError
from ..lake import files
from ..lake.store import Store
from ..model import Series
from ..ranges import iso
from . import charts, page, reading
from .model import Chart, Zoom

# Each of them is up to half a megabyte of the page.
MOST_CHARTS = 8


def report(
    store: Store, now: int, drawn: Sequence[Series], *, network: str, version: str, checked: bool
) -> tuple[str, dict[str, Any]]:
    """The page as of `now` (ms UTC) with charts of these series, and what `--json` says of it.

    UsageError where there are charts to draw and no matplotlib; LakeError where a file of the lake cannot be read.
    """
    if len(drawn) > MOST_CHARTS:
        raise UsageError(f"a page has room for {MOST_CHARTS} charts, these are {len(drawn)}; etl plot draws any other")
    if drawn:
        charts.require()
    state = reading.state(store, now, network=network, version=version, checked=checked)
    text = page.page(state, [_drawn(store, series, f"c{number}") for number, series in enumerate(drawn)])
    document = {
        "at": iso(now),
        "series": len(state.kept),
        "gaps": state.gaps.total,
        "findings": None if state.findings is None else len(state.findings),
        "charts": [series.as_dict() for series in drawn],
        "bytes": len(text.encode()),
    }
    return text, document


def plot(chart: Chart, *, dark: bool, about: str) -> tuple[bytes, dict[str, Any]]:
    """The picture, and what `--json` says of it."""
    content = charts.png(chart, dark=dark, about=about)
    document = {
        **chart.series.as_dict(),
        "candles": len(chart.candles),
        "candle_interval": chart.interval,
        "start": iso(chart.span.start),
        "end": iso(chart.span.end),
        "gaps": [{"start": iso(gap.start), "end": iso(gap.end)} for gap in chart.gaps],
        "candles_short_of_bars": chart.short,
        "funding": len(chart.funding),
        "bytes": len(content),
    }
    return content, document


def write(target: Path, content: bytes) -> None:
    """Put `content` at `target`, whole or not at all; a device or a pipe is written to. EtlError where that cannot be done."""
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(content)
            return
        if not target.parent.is_dir():
            raise UsageError(
                f"cannot write {target}: there is no folder {target.parent}; make it, or name another file with -o"
            )
        target = target.resolve()  # a link stays, and what it names is replaced
        handle, name = tempfile.mkstemp(prefix=f".{target.name[:80]}.", dir=target.parent)
        beside = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.chmod(target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask())
            files.publish(beside, target)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise EtlError(f"cannot write {target}: {error.strerror or error}; the old file, if any, is untouched") from error


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _drawn(store: Store, series: Series, name: str) -> page.Drawn:
    zooms: list[Zoom] = []
    rules: dict[str, str] = {}
    for number, (label, chart) in enumerate(reading.charts(store, series, charts.MOST_IN_SVG)):
        svg, used = charts.svg(chart, name=f"{name}-{number}", label=f"{series}: {charts.subtitle_of(chart)}")
        zooms.append(Zoom(label, chart, svg))
        rules |= used
    return page.Drawn(series, tuple(zooms), rules)
