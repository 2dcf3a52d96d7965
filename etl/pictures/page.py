"""The state of a lake as one HTML page that needs nothing else: no script, no font, no address is fetched. Pure.

What is drawn is also told in words: the heat map is a table whose cells hold their verdicts, and every chart has a table of its
numbers. A large lake makes no large page: what asks for attention comes first, the rest is counted, and the page says so.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

from ..model import Finding, Series
from ..ranges import DAY, HOUR, MINUTE, iso
from ..text import masked, visible
from . import charts
from .model import ABSENT, VERDICTS, Gap, Kept, Kind, Month, State, Zoom

# A heat map of so many cells is 0.4 MB.
MOST_CELLS = 12_000
MOST_ROWS = 150
# Of more months the cells are made small, so that seven years have room side by side.
LARGE_CELLS = 42
MOST_FINDINGS = 150

MEANING = {
    "complete": "every bar of the month is there",
    "partial": "partly asked for, or it began or ended",
    "missing": "bars are absent, a source is left to ask",
    "outage": "bars are absent, no source has them",
    "lost": "not fetched yet; the next run goes on",
    "not_listed": "the contract did not trade",
}
_LAGS = (("up to 1 hour", HOUR), ("up to 1 day", DAY), ("up to 3 days", 3 * DAY), ("up to 30 days", 30 * DAY))


@dataclass(frozen=True, slots=True)
class Drawn:
    """The charts of one series; `rules` are the CSS of the classes in them."""

    series: Series
    zooms: tuple[Zoom, ...]
    rules: Mapping[str, str]


def page(state: State, drawn: Sequence[Drawn] = ()) -> str:
    """The page, as text to be written in UTF-8. The same values give the same text."""
    parts = {
        "coverage": ("Coverage", _coverage(state)),
        "charts": ("Charts", _charts(drawn)) if drawn else None,
        "gaps": ("Gaps", _gaps(state)),
        "quality": ("Data quality", _quality(state.findings, state.rows_checked)),
        "series": ("Lag and size", _stored(state)),
        "sources": ("Sources", _sources(state.kinds)),
    }
    shown = {name: part for name, part in parts.items() if part}
    body = "".join(
        f'<section id="{name}" aria-labelledby="h-{name}"><h2 id="h-{name}">{title}</h2>{text}</section>\n'
        for name, (title, text) in shown.items()
    )
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, (title, _) in shown.items())
    style = _style(body, drawn)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    name = _text(state.lake)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f'<title>Lake report: {name}</title>\n<link rel="icon" href="data:,">\n<style>{style}</style>\n</head>\n<body>\n'
        '<a class="skip" href="#main">Skip to the report</a>\n'
        f'<header class="wide"><h1>Lake report: <bdi>{name}</bdi></h1>'
        f'<p class="quiet">As of {_time(state.at)} UTC · {_text(state.network)} · all times UTC</p>'
        f"{_summary(state)}{_tiles(state)}"
        f'<nav aria-label="Contents"><ul>{links}</ul></nav></header>\n'
        f'<main id="main" class="wide">\n{body}</main>\n'
        f'<footer class="wide">Made by <code>etl report</code> {_text(state.version)} from the lake alone. '
        "Market data belongs to the exchange.</footer>\n</body>\n</html>\n"
    )


def _style(body: str, drawn: Sequence[Drawn]) -> str:
    css = (files(__package__) / "page.css").read_text(encoding="utf-8")
    rules = {name: rule for one in drawn for name, rule in one.rules.items()}
    widths = [f".w{n}{{width:{n}%}}" for n in range(101) if f'w{n}"' in body]
    return css + "".join(f".{name}{{{rule}}}\n" for name, rule in sorted(rules.items())) + "".join(widths)


# The top


def _summary(state: State) -> str:
    counts: Counter[str] = Counter()
    for one in state.kept:
        counts.update(verdict for verdict in ABSENT if any(verdict in m.cells for m in one.months.values()))
    if not state.kept:
        return '<p class="sum">Nothing is stored yet.</p>'
    told = {
        "lost": "{} lost a part, which the next run asks for again",
        "missing": "in {} bars are absent that another source may have: <code>etl repair</code> asks",
        "outage": "in {} bars are absent that no source has",
    }
    text = "; ".join(told[verdict].format(_of(counts[verdict], "series")) for verdict in ABSENT if counts[verdict])
    return f'<p class="sum">{text[0].upper() + text[1:] if text else "Nothing that was asked for is missing"}.</p>'


def _tiles(state: State) -> str:
    kept = state.kept
    expected = sum(one.expected or 0 for one in kept)
    missing = sum(one.missing or 0 for one in kept)
    lag = max((one.lag_s for one in kept if one.lag_s is not None), default=None)
    errors = None if state.findings is None else sum(finding.severity == "error" for finding in state.findings)
    tiles = [
        ("Series", f"{len(kept):,}", False),
        ("Rows", charts.amount(sum(one.rows for one in kept)), False),
        ("Size", _size(sum(one.bytes for one in kept)), False),
        ("Bars there", _share(expected - missing, expected), False),
        ("Bars missing", charts.amount(missing), missing > 0),
        ("Largest lag", "–" if lag is None else _lag(lag), False),
        ("Errors found", "–" if errors is None else f"{errors:,}", bool(errors)),
    ]
    cells = (f"<div{' class=bad' if bad else ''}><dt>{name}</dt><dd>{value}</dd></div>" for name, value, bad in tiles)
    return f'<dl class="tiles">{"".join(cells)}</dl>'


# Coverage


def _coverage(state: State) -> str:
    if not state.kept:
        return "<p>No series is stored.</p>"
    months = _every_month(state.kept)
    most = max(10, min(MOST_ROWS, MOST_CELLS // max(1, len(months))))
    shown, rest = state.kept[:most], state.kept[most:]
    key = "".join(
        f'<li><i class="v-{verdict}"></i><b>{verdict.replace("_", " ")}</b>&ensp;{MEANING[verdict]}</li>'
        for verdict in sorted(VERDICTS, key=list(MEANING).index)
    )
    note = (
        f"{len(shown):,} of {_of(len(state.kept), 'series')}: absences first, then the longest lags, then the largest. "
        f"{_left_out(rest)} <code>etl status</code> and the view <code>ledger</code> have them all."
        if rest
        else "Absences first, then the longest lags, then the largest."
    )
    look = "heat dense" if len(months) > LARGE_CELLS else "heat"
    years = Counter(month[:4] for month in months)
    head = "".join(f'<th scope="colgroup" colspan="{count}">{year}</th>' for year, count in years.items())
    names = "".join(f'<th scope="col">{month[5:]}</th>' for month in months)
    kinds = "".join(
        _row(f"{_text(kind.name)} <small>{_of(kind.series, 'series')}</small>", kind.months, months, "series")
        for kind in state.kinds
    )
    rows = "".join(_row(_name(one.series), one.months, months, "days") for one in shown)
    return (
        '<p class="quiet">Each month by its worst day, as the ledger has it. Blank: never asked for. A number: of series.</p>'
        f'<ul class="key">{key}</ul><p class="quiet">{note}</p>'
        '<div class="scroll" tabindex="0" role="region" aria-label="Heat map of the coverage">'
        f'<table class="{look}"><caption>Worst verdict by series and month</caption>'
        f"<thead><tr><td></td>{head}</tr><tr><td></td>{names}</tr></thead>\n<tbody>{kinds}</tbody>\n<tbody>{rows}</tbody></table></div>"
    )


def _left_out(rest: Sequence[Kept]) -> str:
    worst = Counter(
        next((v for v in VERDICTS if any(month.verdict == v for month in one.months.values())), "not_listed") for one in rest
    )
    told = ", ".join(f"{worst[v]:,} {v.replace('_', ' ')}" for v in VERDICTS if worst[v])
    return f"The other {len(rest):,} are not drawn; by their worst month: {told}."


def _every_month(kept: Iterable[Kept]) -> list[str]:
    """All months from the first to the last, also those in which nothing was asked for."""
    names = {month for one in kept for month in one.months}
    if not names:
        return []
    first, last = (int(name[:4]) * 12 + int(name[5:]) - 1 for name in (min(names), max(names)))
    return [f"{number // 12:04}-{number % 12 + 1:02}" for number in range(first, last + 1)]


def _row(name: str, told: Mapping[str, Month], months: Iterable[str], unit: str) -> str:
    """A cell a month. End tags are left out, as HTML allows: there are thousands."""
    cells = (_cell(month, told[month], unit) if month in told else "<td>" for month in months)
    return f'<tr><th scope="row">{name}</th>{"".join(cells)}\n'


def _cell(name: str, month: Month, unit: str) -> str:
    word = month.verdict.replace("_", " ")
    if month.verdict in {"complete", "not_listed"} and len(month.cells) == 1:
        return f'<td class="v-{month.verdict}">{word}'
    counts = ", ".join(f"{count:,} {verdict.replace('_', ' ')}" for verdict, count in month.cells.items())
    bars = f"; {_of(month.missing, 'bar')} absent" if month.missing else ""
    number = f' data-n="{affected}"' if unit == "series" and (affected := month.cells[month.verdict]) and word in ABSENT else ""
    return f'<td class="v-{month.verdict}"{number} title="{name}: {counts} ({unit}){bars}">{word}{bars}'


# Charts


def _charts(drawn: Sequence[Drawn]) -> str:
    return '<p class="quiet">Rising candles are hollow, falling ones filled. Point at a candle for its values.</p>' + "".join(
        f"<h3>{_name(one.series)}</h3>{_zooms(one, number)}" for number, one in enumerate(drawn)
    )


def _zooms(one: Drawn, number: int) -> str:
    group = f"z-{number}"
    buttons = "".join(
        f'<input type="radio" class="z{i}" name="{group}" id="{group}-{i}"{" checked" if i == 0 else ""}>'
        f'<label for="{group}-{i}">{zoom.label}</label>'
        for i, zoom in enumerate(one.zooms)
    )
    figures = "".join(f'<figure class="f{i}">{_figure(zoom)}</figure>' for i, zoom in enumerate(one.zooms))
    return f'<fieldset class="zooms"><legend>Show</legend>{buttons}{figures}</fieldset>'


def _figure(zoom: Zoom) -> str:
    chart = zoom.chart
    caption = charts.subtitle_of(chart)
    candles, summed = chart.candles, dict(chart.funding) if chart.summed else {}
    change = candles[-1].close / candles[0].open - 1 if candles[0].open else 0.0
    paid = sum(rate for _, rate in chart.funding)
    words = (
        f"From {charts.price(candles[0].open)} to {charts.price(candles[-1].close)} ({change * 100:+.2f} %), "
        f"highest {charts.price(max(c.high for c in candles))}, lowest {charts.price(min(c.low for c in candles))}"
        + (f"; a long position paid {charts.percent(paid)} of funding" if chart.funding else "; no funding is stored for it")
    )
    columns = ("open time", "open", "high", "low", "close", "volume", "bars", *(["funding"] if summed else []))
    rows = (
        (
            _time(c.time),
            *map(charts.price, (c.open, c.high, c.low, c.close)),
            "–" if c.volume is None else charts.amount(c.volume),
            f"{c.bars:,}",
            *([charts.percent(summed[c.time]) if c.time in summed else "–"] if summed else []),
        )
        for c in reversed(candles)
    )
    table = _table(f"{chart.made_of}, the newest first", columns, rows, numbers=range(1, len(columns)))
    return (
        f"<figcaption>{_text(caption)}<br>{_text(words)}.</figcaption>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="Chart, {_text(zoom.label)}">{zoom.svg}</div>'
        f"<details><summary>The numbers of this chart</summary>{table}</details>"
    )


# Lists


def _gaps(state: State) -> str:
    gaps = state.gaps
    if not gaps.total:
        return "<p>None: every bar that was asked for, and that traded, is there.</p>"
    left = (
        f" {gaps.total - len(gaps.largest):,} more are not listed; the macro <code>gaps</code> has them by the bar."
        if (gaps.total > len(gaps.largest))
        else " The macro <code>gaps</code> has them by the bar."
    )

    def row(gap: Gap) -> tuple[str, ...]:
        missing = "–" if gap.missing is None else f"{gap.missing:,}"
        word = f'<span class="word v-{gap.verdict}">{gap.verdict}</span>'
        return _name(gap.series), word, gap.first, gap.last, missing

    caption = f"{_of(gaps.total, 'gap')} in runs of days, what was lost first, then the largest.{left}"
    return _table(
        caption, ("series", "verdict", "first day", "last day", "bars"), map(row, gaps.largest), numbers=(4,), plain=False
    )


def _quality(findings: Sequence[Finding] | None, rows: int) -> str:
    if findings is None:
        return "<p>Not checked for this page, because of <code>--no-verify</code>; <code>etl verify</code> does.</p>"
    if not findings:
        return f"<p>Nothing: <code>etl verify</code> read {rows:,} rows and found no fault.</p>"
    left = len(findings) - MOST_FINDINGS
    counts = Counter(finding.severity for finding in findings)
    told = ", ".join(f"{counts[one]:,} {one}" for one in ("error", "warning", "info") if counts[one])
    caption = f"Findings of <code>etl verify</code> in {rows:,} rows, the worst first: {told}." + (
        f" The last {left:,} are not listed; <code>etl verify</code> lists all." if left > 0 else ""
    )
    columns = ("severity", "series", "check", "count", "first", "what was found")

    def row(finding: Finding) -> tuple[str, ...]:
        return (
            finding.severity,
            _name(finding.series),
            _text(finding.check),
            f"{finding.count:,}",
            iso(finding.span.start)[:16].replace("T", " "),
            f"<bdi>{_text(finding.message)}</bdi>",
        )

    return _table(caption, columns, map(row, findings[:MOST_FINDINGS]), numbers=(3,), plain=False)


def _stored(state: State) -> str:
    kept = sorted(state.kept, key=lambda one: -one.bytes)
    largest = max((one.bytes for one in kept), default=0)
    shown = kept[:MOST_ROWS]
    left = (
        f" The other {len(kept) - len(shown):,} are not listed; <code>etl status</code> lists all."
        if len(kept) > len(shown)
        else ""
    )

    def row(one: Kept) -> tuple[str, ...]:
        return (
            _name(one.series),
            one.first[:16].replace("T", " ") if one.first else "–",
            one.last[:16].replace("T", " ") if one.last else "–",
            "–" if one.lag_s is None else _lag(one.lag_s),
            f"{one.rows:,}",
            "–" if one.missing is None else f"{one.missing:,}",
            f"{_size(one.bytes)}",
            f'<span class="bar"><span class="w{_percent(one.bytes, largest)}"></span></span>',
        )

    columns = ("series", "first", "last", "lag", "rows", "missing", "size", "of the largest")
    caption = f"The largest series first.{left}"
    return _lags(state.kept) + _table(caption, columns, map(row, shown), numbers=(3, 4, 5, 6), plain=False)


def _lags(kept: Sequence[Kept]) -> str:
    lags = [one.lag_s * 1000 for one in kept if one.lag_s is not None]
    if not lags:
        return ""
    counts: list[tuple[str, int]] = []
    before = -1
    for name, limit in (*_LAGS, ("more", 1 << 62)):
        counts.append((name, sum(before < lag <= limit for lag in lags)))
        before = limit
    rows = (
        (name, f"{count:,}", f'<span class="bar"><span class="w{_percent(count, len(lags))}"></span></span>')
        for name, count in counts
    )
    caption = "How far the series lie behind that time: from the end of the last bar, for contracts that are over to their end."
    return _table(caption, ("lag", "series", "share"), rows, numbers=(1,), plain=False)


def _sources(kinds: Sequence[Kind]) -> str:
    if not kinds:
        return "<p>Nobody was asked yet.</p>"

    def row(kind: Kind) -> tuple[str, ...]:
        total = sum(kind.by_source.values())
        words = ", ".join(f"{_text(name)} {_share(count, total)}" for name, count in kind.by_source.items())
        bars = "".join(
            f'<span class="{name} w{_percent(count, total)}"></span>' for name, count in sorted(kind.by_source.items())
        )
        return (
            _text(kind.name),
            f"{kind.series:,}",
            f"{kind.rows:,}",
            _size(kind.bytes),
            words,
            f'<span class="bar">{bars}</span>',
        )

    caption = "Who answered, by the days of all series (months, for bars of a day and longer). Archive is hatched, REST plain."
    columns = ("dataset", "series", "rows", "size", "answered by", "share")
    return _table(caption, columns, map(row, kinds), numbers=(1, 2, 3), plain=False)


# Pieces


def _table(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Iterable[int], plain: bool = True
) -> str:
    """A list with a row header in front; `plain` cells are escaped here. It scrolls in a region that the keyboard reaches."""
    flush = dict.fromkeys(numbers, ' class="n"')
    told: Callable[[str], str] = _text if plain else str
    head = "".join(f'<th scope="col"{flush.get(i, "")}>{name}</th>' for i, name in enumerate(columns))
    lines = "".join(
        f'<tr><th scope="row">{told(first)}</th>'
        + "".join(f"<td{flush.get(index, '')}>{told(cell)}</td>" for index, cell in enumerate(rest, 1))
        + "</tr>\n"
        for first, *rest in rows
    )
    label = escape(re.split(r"[.:]", re.sub(r"</?code>", "", caption), maxsplit=1)[0])
    return (
        f'<div class="scroll tall" tabindex="0" role="region" aria-label="{label}"><table class="list">'
        f"<caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>\n{lines}</tbody></table></div>"
    )


def _name(series: Series) -> str:
    """A symbol may be written from right to left, and must not turn round what follows."""
    rest = " ".join(part for part in (series.market, series.dataset, series.interval) if part)
    return f"<bdi>{_text(series.symbol)}</bdi> <small>{_text(rest)}</small>"


def _text(text: str) -> str:
    """Any text for HTML: escaped, and without control characters, which no page may hold."""
    return escape(visible(masked(text)))


def _of(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 or noun == 'series' else 's'}"


def _time(time: int) -> str:
    return iso(time)[:16].replace("T", " ")


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _lag(seconds: int) -> str:
    for unit, length in (("d", DAY), ("h", HOUR), ("min", MINUTE)):
        if seconds * 1000 >= 2 * length:
            return f"{seconds * 1000 // length:,} {unit}"
    return f"{seconds} s"


def _share(part: int, whole: int) -> str:
    """In percent; 100 is said of all only, and 0 of none."""
    if not whole:
        return "–"
    if part == whole:
        return "100 %"
    percent = part / whole * 100
    return f"{min(percent, 99.99):.2f} %" if percent >= 99 else f"{max(percent, 0.01 if part else 0):.3g} %"


def _percent(part: int, whole: int) -> int:
    return 0 if not part or not whole else max(1, round(part / whole * 100))
