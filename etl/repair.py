"""Put right what can be: ask again for what is missing, and for what verify finds wrong, of one source after the other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from . import mend, verify
from .config import Settings
from .errors import EtlError
from .mend import Wrong
from .model import Finding, Series, Source
from .pipeline import Outcome, Pipeline, Progress, Stop, existing
from .ranges import TimeRange, union
from .sources import Choice
from .verify import Verified

# Where a source was compared with, its rows are the right ones.
_COMPARED = frozenset({"differs", "absent"})
# What may be the exchange's own doing, and is asked once.
_DOUBTS = frozenset({"sums"})
# What was asked for again and is still not there: no error, but to be told.
_TOLD = "funding_gap"


def repair(
    settings: Settings,
    chosen: Callable[[Series], bool],
    *,
    source: Choice = "auto",
    against: Source | None = None,
    stop: Stop | None = None,
    progress: Progress | None = None,
    dry_run: bool = False,
    wait: float = 0.0,
    run_id: str | None = None,
) -> Outcome:
    """Repair the chosen series of the lake that the settings name; `left` of the outcome is what stays wrong.

    With `against` the rows of that source take the place of those that differ. UsageError where there is no lake.
    """
    store, stop = existing(settings), stop or Stop()
    named: set[Series] = set()
    told: list[Finding] = []

    def check(which: Callable[[Series], bool]) -> Verified:
        found = verify.verify(store, which)
        return verify.compare(found, store, settings, against, stop=stop, chosen=which) if against else found

    def wrong() -> Wrong:
        first = not named
        found = check(chosen if first else named.__contains__)
        spans = wrong_rows(found, doubts=first)
        named.update(spans, (series for series, _ in found.damaged))
        return Wrong(spans, found.damaged)

    def left() -> tuple[list[Finding], tuple[tuple[Series, EtlError], ...]]:
        if not named:
            return [], ()
        found = check(named.__contains__)
        told.extend(finding for finding in found.findings if finding.check == _TOLD)
        return [finding for finding in found.findings if _is_wrong(finding)], found.failed

    with Pipeline(settings, source=against or source, stop=stop, progress=progress, run_id=run_id) as pipeline:
        outcome = pipeline.repair(wrong, chosen, left, against=against, dry_run=dry_run, wait=wait)
    outcome.findings += told
    return outcome


def wrong_rows(found: Verified, *, doubts: bool) -> dict[Series, tuple[TimeRange, ...]]:
    """What to ask for again, by series; with `doubts` also what may be wrong: bars that differ from the finer ones, and these,
    and settlements that seem to lack.
    """
    spans: dict[Series, list[TimeRange]] = defaultdict(list)
    for finding in found.findings:
        if finding.times and (_is_wrong(finding) or (doubts and finding.check in _DOUBTS)):
            spans[finding.series] += mend.about(finding.series, finding.times)
        elif _is_uncovered(finding):
            spans[finding.series].append(finding.span)
    for series, span in found.doubtful if doubts else ():
        spans[series].append(span)
    return {series: union(some) for series, some in spans.items()}


def _is_wrong(finding: Finding) -> bool:
    return finding.severity == "error" or finding.check in _COMPARED or _is_uncovered(finding)


def _is_uncovered(finding: Finding) -> bool:
    """Whether it names a time of which no file tells; for a folder without any file nobody knows one."""
    return finding.check == "uncovered" and bool(finding.span)
