"""Who answered for what: the entries of a file's footer, and what becomes of them when another source answers. Pure.

Where a source gave the rows, its entry stands alone; where no source has any, the entries of all that were asked stand side by
side. So the ledger can say whose a row is, and of an absent bar who was asked for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from .model import Coverage, Source
from .ranges import TimeRange, intersection, subtract


def owned(entries: Sequence[Coverage], source: Source, absent: Iterable[TimeRange]) -> tuple[TimeRange, ...]:
    """Where the rows are those of `source`, given where there are none."""
    return subtract((entry.span for entry in entries if entry.source == source), absent)


def by_file(entries: Iterable[Coverage]) -> dict[str, list[Coverage]]:
    """The entries that name a file of the archive, by its key."""
    found: dict[str, list[Coverage]] = defaultdict(list)
    for entry in entries:
        if entry.key:
            found[entry.key].append(entry)
    return dict(found)


def after(
    entries: Sequence[Coverage],
    answers: Sequence[Coverage],
    *,
    gave: Sequence[TimeRange] = (),
    has: Mapping[str | None, Sequence[TimeRange]],
    still: Sequence[TimeRange] = (),
) -> tuple[Coverage, ...]:
    """The entries when the `answers`, all of one source, have come too.

    `gave` is where the rows are those of the answers now, `still` where there are none yet, `has` where the answers have rows,
    whether or not these stand, by the key of their file.
    """
    for answer in answers:
        entries = _with(entries, answer, gave, has, still)
    return tuple(entries)


def _with(
    entries: Sequence[Coverage],
    answer: Coverage,
    gave: Sequence[TimeRange],
    has: Mapping[str | None, Sequence[TimeRange]],
    still: Sequence[TimeRange],
) -> list[Coverage]:
    # Rows that their own file has lost are those of whoever has them.
    lost = (entry.span for entry in entries if entry.later)
    rows = intersection(has.get(answer.key, ()), [answer.span])
    gave, lacks = intersection([*gave, *lost], rows), subtract([answer.span], [*rows, *still])
    entries = [piece for entry in entries for piece in _republished(entry, answer, lacks)]
    far = [entry for entry in entries if not entry.span.intersect(answer.span)]
    near = [entry for entry in entries if entry.span.intersect(answer.span)]
    same = [entry for entry in near if entry.source == answer.source]
    others = [entry for entry in near if entry.source != answer.source]
    theirs = subtract((entry.span for entry in others), [*gave, *still])
    # A day's file stands over the month's that lacked the day.
    yields = [entry for entry in same if entry.source == "archive" and entry.key != answer.key]
    known = [*subtract((entry.span for entry in yields), gave), *(entry.span for entry in same if entry not in yields)]
    new = subtract([answer.span], [*theirs, *known])
    return [
        *far,
        *_cut(same, new),
        *_cut(others, gave),
        *(replace(answer, span=span) for span in new),
    ]


def _republished(entry: Coverage, answer: Coverage, lacks: Sequence[TimeRange]) -> list[Coverage]:
    """The entry; where the answer is of another publication of its file that one's, but for the rows which that `lacks`."""
    if answer.sha256 is None or entry.key != answer.key:
        return [entry]
    if entry.latest == answer.sha256:
        return [replace(entry, etag=answer.etag)]
    stays = replace(entry, etag=answer.etag, later=(*entry.later, answer.sha256))
    moves = replace(answer, former=tuple(digest for digest in (*entry.former, entry.sha256, *entry.later) if digest))
    read = intersection([entry.span], [answer.span])
    spans = ((entry, subtract([entry.span], read)), (stays, intersection(read, lacks)), (moves, subtract(read, lacks)))
    return [replace(piece, span=span) for piece, some in spans for span in some]


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
