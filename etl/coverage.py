"""Who answered for what: the entries of a file's footer, and what becomes of them when another source answers. Pure.

Where a source gave the rows, its entry stands alone; where no source has any, the entries of all that were asked stand side by
side. So the ledger can say whose a row is, and of an absent bar who was asked for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from .model import Coverage, Source
from .ranges import TimeRange, intersection, subtract


def owned(entries: Sequence[Coverage], source: Source, absent: Iterable[TimeRange]) -> tuple[TimeRange, ...]:
    """Where the rows are those of `source`, given where there are none."""
    return subtract((entry.span for entry in entries if entry.source == source), absent)


def after(
    entries: Sequence[Coverage],
    answers: Sequence[Coverage],
    *,
    gave: Sequence[TimeRange] = (),
    still: Sequence[TimeRange] = (),
) -> tuple[Coverage, ...]:
    """The entries when the `answers`, all of one source, have come too.

    `gave` is where the rows are those of the answers now, `still` where there are none yet.
    """
    for answer in answers:
        entries = _with(entries, answer, intersection(gave, [answer.span]), still)
    return tuple(entries)


def _with(
    entries: Sequence[Coverage], answer: Coverage, gave: Sequence[TimeRange], still: Sequence[TimeRange]
) -> list[Coverage]:
    far = [_republished(entry, answer) for entry in entries if not entry.span.intersect(answer.span)]
    near = [entry for entry in entries if entry.span.intersect(answer.span)]
    same = [entry for entry in near if entry.source == answer.source]
    others = [entry for entry in near if entry.source != answer.source]
    theirs = subtract((entry.span for entry in others), [*gave, *still])
    kept = [_republished(entry, answer) for entry in same]
    # A day's file stands over the month's that lacked the day.
    yields = [entry for entry in same if entry.source == "archive" and entry.key != answer.key]
    known = [*subtract((entry.span for entry in yields), gave), *(entry.span for entry in same if entry not in yields)]
    new = subtract([answer.span], [*theirs, *known])
    return [
        *far,
        *_cut(kept, new),
        *_cut(others, gave),
        *(replace(answer, span=span) for span in new),
    ]


def _republished(entry: Coverage, answer: Coverage) -> Coverage:
    """The entry, with version and digest of the file's present publication if the answer brought another one."""
    if entry.key is None or entry.key != answer.key:
        return entry
    if entry.sha256 == answer.sha256:
        return replace(entry, etag=answer.etag)
    former = (*entry.former, *([entry.sha256] if entry.sha256 else []))
    return replace(entry, sha256=answer.sha256, etag=answer.etag, checked=answer.checked, former=former)


def _cut(entries: Iterable[Coverage], spans: Sequence[TimeRange]) -> list[Coverage]:
    return [replace(entry, span=span) for entry in entries for span in subtract([entry.span], spans)]


def joined(entries: Iterable[Coverage]) -> tuple[Coverage, ...]:
    """Sorted by time; touching entries that say the same of their source are one."""
    result: list[Coverage] = []
    for one in sorted(entries, key=lambda entry: (entry.span, entry.source, entry.key or "")):
        last = result[-1] if result else None
        if last and last.span.end == one.span.start and replace(last, span=one.span) == one:
            result[-1] = replace(last, span=TimeRange(last.span.start, one.span.end))
        else:
            result.append(one)
    return tuple(result)
