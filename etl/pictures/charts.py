"""Candlesticks with volume and funding: a `Chart` as SVG or PNG, by matplotlib. Pure: the same chart gives the same bytes.

Rising candles are hollow and falling ones filled, so that nothing is told by colour alone. The time axis is true: where candles
are absent there is a hatched gap, never a line across it.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from typing import TYPE_CHECKING

from .. import registry
from ..errors import UsageError
from ..model import Series
from ..ranges import DAY, iso
from ..text import visible
from .model import Candle, Chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PACKAGE = "matplotlib"
INSTALL = "pip install 'binance-futures-etl[report]'"


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours by their use."""

    paper: str
    ink: str
    muted: str
    grid: str
    up: str
    down: str
    volume: str
    funding: str
    gap: str


LIGHT = Theme("#ffffff", "#16191d", "#59616d", "#e4e7ec", "#0a7a55", "#c02942", "#8b95a5", "#2459a9", "#b9c0ca")
DARK = Theme("#0f1216", "#eceff3", "#a1abb8", "#262c35", "#45d19b", "#ff7b8c", "#66717f", "#7fb0ff", "#4a535f")
# In SVG these are stand-ins for variables of CSS, so that one drawing serves a light and a dark page.
_STAND_IN = Theme(*(f"#0a0b0{number}" for number in range(1, 10)))
_VARIABLE = {getattr(_STAND_IN, name): f"var(--{name})" for name in Theme.__slots__}


@dataclass(frozen=True, slots=True)
class _Frame:
    """The size of a picture in inches, the size of its text in points, and how much of it is above and left of the panels."""

    width: float
    height: float
    text: float
    left: float
    top: float


# Of an SVG in its own units (72 to the inch), of a PNG in pixels (125).
_SVG_SIZE = (1100, 560)
PNG_SIZE = (1600, 900)
_IN_SVG = _Frame(_SVG_SIZE[0] / 72, _SVG_SIZE[1] / 72, text=11.5, left=0.016, top=0.935)
_IN_PNG = _Frame(PNG_SIZE[0] / 125, PNG_SIZE[1] / 125, text=9.5, left=0.018, top=0.885)
# A candle needs four pixels to be one; with the axis at the right that many have room.
MOST_IN_PNG = 360
MOST_IN_SVG = 190
# Where the highest price is so many times the lowest one, a linear axis would flatten most of the chart.
LOGARITHMIC_FROM = 5


def require(find: Callable[[str], object] = find_spec) -> None:
    """UsageError where matplotlib is not installed."""
    if find(PACKAGE) is None:
        raise UsageError(f"charts need {PACKAGE}, which is not installed; {INSTALL} brings it")


def png(chart: Chart, *, dark: bool = False, about: str = "") -> bytes:
    """The chart as a PNG of 1600 × 900 pixels, with a title that says what the candles are, and `about` behind it."""
    theme = DARK if dark else LIGHT
    with _style(theme, _IN_PNG.text):
        figure, _ = _figure(chart, theme, _IN_PNG)
        subtitle = " · ".join(filter(None, (subtitle_of(chart), about)))
        family, title = _fonts_for(_title(chart.series))
        weight = "bold" if len(family) == 1 else "normal"
        figure.text(0.018, 0.955, title, size=15, weight=weight, color=theme.ink, va="center", family=family)
        figure.text(0.018, 0.915, subtitle, size=9, color=theme.muted, va="center")
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=125, metadata={"Software": None, "Title": title, "Description": subtitle})
        return out.getvalue()


def svg(chart: Chart, *, name: str, label: str) -> tuple[str, dict[str, str]]:
    """The chart as an `<svg>` element, and the rules of CSS by the classes it uses; its colours are variables of the page.

    It has no addresses and no inline styles, and its ids begin with `name`. `label` is what it is called to who cannot see it.
    Under the pointer each candle tells its values in a line at the top.
    """
    with _style(_STAND_IN, _IN_SVG.text):
        figure, axes = _figure(chart, _STAND_IN, _IN_SVG)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        hits = "".join(_hits(chart, axes))
    return _page_svg(out.getvalue(), hits, name, label)


def subtitle_of(chart: Chart) -> str:
    """What the candles are, from when to when, what they lack, and on which axis they stand."""
    parts = [chart.made_of, f"{_minute(chart.span.start)} to {_minute(chart.span.end)} UTC"]
    if chart.gaps:
        parts.append(f"{len(chart.gaps)} {'gap' if len(chart.gaps) == 1 else 'gaps'} without bars (hatched)")
    if chart.short:
        parts.append(f"{chart.short} {'candle lacks' if chart.short == 1 else 'candles lack'} some bars")
    if _logarithmic(chart):
        parts.append("prices on a logarithmic axis")
    return " · ".join(parts)


def price(value: float) -> str:
    """A price with the digits that it needs, at most ten of them."""
    return f"{value:,.10g}" if 1e-4 <= abs(value) < 1e10 or value == 0 else f"{value:.10g}"


def amount(value: float) -> str:
    """A quantity in four digits: 12.3k, 4.56M."""
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.4g}{unit}"
    return f"{value:.4g}"


def percent(rate: float) -> str:
    """A funding rate in percent."""
    return f"{rate * 100:+.4f} %"


def _minute(time: int) -> str:
    return iso(time)[:16].replace("T", " ")


def _title(series: Series) -> str:
    market = {"um": "USD-M", "cm": "COIN-M", "spot": "spot"}.get(series.market, series.market)
    return f"{visible(series.symbol)}  {market} {series.dataset.replace('_', ' ')}"


@contextmanager
def _style(theme: Theme, text: float) -> Iterator[None]:
    import matplotlib as mpl  # noqa: PLC0415 - it need not be installed, and takes 0.4 s
    from matplotlib import style  # noqa: PLC0415 - as above

    with (
        style.context("default"),
        mpl.rc_context(
            {
                "svg.fonttype": "none",
                "svg.hashsalt": "etl",
                "font.family": "DejaVu Sans",  # it comes with matplotlib: the same picture on every machine
                "font.size": text,
                "text.color": theme.ink,
                "text.parse_math": False,
                "axes.edgecolor": theme.grid,
                "axes.labelcolor": theme.muted,
                "axes.facecolor": "none",
                "figure.facecolor": theme.paper,
                "xtick.labelsize": "small",
                "ytick.labelsize": "small",
                "xtick.color": theme.muted,
                "ytick.color": theme.muted,
                "grid.color": theme.grid,
                "grid.linewidth": 0.8,
                "hatch.color": theme.gap,
                "hatch.linewidth": 0.8,
            }
        ),
    ):
        yield


def _figure(chart: Chart, theme: Theme, frame: _Frame) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter  # noqa: PLC0415 - as above
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    panels = ["price", *(["volume"] if chart.candles[0].volume is not None else []), *(["funding"] if chart.funding else [])]
    heights = {"price": 6, "volume": 1.5, "funding": 1.5}
    figure = Figure(figsize=(frame.width, frame.height))
    figure.subplots_adjust(hspace=0.09, left=frame.left, right=0.93, top=frame.top, bottom=0.055)
    ratios = [heights[panel] for panel in panels]
    axes = figure.subplots(len(panels), 1, height_ratios=ratios, squeeze=False)[:, 0].tolist()
    draw = {"price": _draw_candles, "volume": _draw_volume, "funding": _draw_funding}
    for axis, panel in zip(axes, panels, strict=True):
        axis.set_xlim(_day(chart.span.start), _day(chart.span.end))
        locator = AutoDateLocator(minticks=4, maxticks=10)  # type: ignore[no-untyped-call] # matplotlib's own types lack it
        axis.xaxis.set_major_locator(locator)
        axis.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))  # type: ignore[no-untyped-call] # as above
        axis.tick_params(length=0, labelbottom=axis is axes[-1])
        axis.yaxis.tick_right()
        axis.grid(visible=True, zorder=0)
        axis.set_axisbelow(True)
        for side in ("top", "left", "right"):
            axis.spines[side].set_visible(False)
        draw[panel](axis, chart, theme)
        for gap in chart.gaps:
            axis.axvspan(_day(gap.start), _day(gap.end), facecolor="none", edgecolor=theme.gap, hatch="////", linewidth=0)
    return figure, axes


def _draw_candles(axis: Axes, chart: Chart, theme: Theme) -> None:
    low, high = min(c.low for c in chart.candles), max(c.high for c in chart.candles)
    if _logarithmic(chart):
        from matplotlib.ticker import LogLocator, NullLocator  # noqa: PLC0415 - as above

        axis.set_yscale("log")
        room = (high / low) ** 0.04
        axis.set_ylim(low / room, high * room)
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_minor_locator(NullLocator())
    else:
        room = (high - low) * 0.04 or abs(high) * 0.01 or 1.0
        axis.set_ylim(low - room, high + room)
    axis.yaxis.set_major_formatter(lambda value, _: price(float(f"{value:.8g}")))
    for rising, colour in ((True, theme.up), (False, theme.down)):
        some = [c for c in chart.candles if (c.close >= c.open) is rising]
        wicks = [[(x, a), (x, b)] for c in some for x in [_middle(chart, c)] for a, b in _wicks(c) if a != b]
        _draw(axis, wicks, edge=colour, face="none")
        # A body that has no height is a line all the same.
        bodies = [_box(chart, c, min(c.open, c.close), max(c.open, c.close), 0.68) for c in some]
        _draw(axis, bodies, edge=colour, face="none" if rising else colour)
    last = chart.candles[-1]
    axis.axhline(last.close, color=theme.ink, linewidth=0.8, linestyle=(0, (2, 3)), alpha=0.7)
    axis.annotate(
        price(last.close),
        (1, last.close),
        xycoords=("axes fraction", "data"),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        size="small",
        color=theme.paper,
        annotation_clip=False,
        bbox={"boxstyle": "round,pad=0.25", "facecolor": theme.ink, "edgecolor": "none"},
    )


def _logarithmic(chart: Chart) -> bool:
    low, high = min(c.low for c in chart.candles), max(c.high for c in chart.candles)
    return low > 0 and high / low >= LOGARITHMIC_FROM


def _draw_volume(axis: Axes, chart: Chart, theme: Theme) -> None:
    highest = max(c.volume or 0.0 for c in chart.candles)
    axis.set_ylim(0, highest * 1.12 or 1.0)
    axis.locator_params(axis="y", nbins=3)
    axis.yaxis.set_major_formatter(lambda value, _: amount(value))
    _draw(axis, [_box(chart, c, 0, c.volume, 0.68) for c in chart.candles if c.volume], edge="none", face=theme.volume)
    _name(axis, "volume, contracts" if chart.series.market == "cm" else "volume", theme)


def _draw_funding(axis: Axes, chart: Chart, theme: Theme) -> None:
    rates = [rate * 100 for _, rate in chart.funding]
    low, high = min(0.0, *rates), max(0.0, *rates)
    room = (high - low) * 0.15 or 0.01
    axis.set_ylim(low - room, high + room)
    axis.locator_params(axis="y", nbins=4)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.3g} %")
    axis.axhline(0, color=theme.muted, linewidth=0.8)
    step = registry.interval(chart.interval).typical_step if chart.summed else 0
    half = _day(step) * 0.34 or (_day(chart.span.end) - _day(chart.span.start)) / 1100
    boxes = [_rectangle(_day(time + step // 2), half, 0, rate * 100) for time, rate in chart.funding]
    _draw(axis, boxes, edge=theme.funding, face=theme.funding)
    _name(axis, f"funding, {f'sum of each {chart.interval} candle' if chart.summed else 'each settlement'}", theme)


def _name(axis: Axes, text: str, theme: Theme) -> None:
    axis.text(
        0.004,
        0.94,
        text,
        transform=axis.transAxes,
        va="top",
        size="small",
        color=theme.muted,
        bbox={"facecolor": theme.paper, "edgecolor": "none", "pad": 1.5},
    )


def _draw(axis: Axes, shapes: Sequence[Sequence[tuple[float, float]]], *, edge: str, face: str) -> None:
    """All shapes of one look as one path: an element for each of them would make a page ten times as large."""
    from matplotlib.patches import PathPatch  # noqa: PLC0415 - as above
    from matplotlib.path import Path  # noqa: PLC0415 - as above

    if not shapes:
        return
    corners = [corner for shape in shapes for corner in shape]
    codes = [Path.MOVETO if first else Path.LINETO for shape in shapes for first in (True, *[False] * (len(shape) - 1))]
    axis.add_patch(PathPatch(Path(corners, codes), edgecolor=edge, facecolor=face, linewidth=0.9, clip_on=False, zorder=3))


def _wicks(candle: Candle) -> tuple[tuple[float, float], ...]:
    top, bottom = max(candle.open, candle.close), min(candle.open, candle.close)
    return ((candle.low, bottom), (top, candle.high))


def _box(chart: Chart, candle: Candle, low: float, high: float, share: float) -> Sequence[tuple[float, float]]:
    half = _width(chart, candle) * share / 2
    return _rectangle(_middle(chart, candle), half, low, high)


def _rectangle(middle: float, half: float, low: float, high: float) -> Sequence[tuple[float, float]]:
    left, right = middle - half, middle + half
    return [(left, low), (right, low), (right, high), (left, high), (left, low)]


def _width(chart: Chart, candle: Candle) -> float:
    return _day(registry.interval(chart.interval).next(candle.time)) - _day(candle.time)


def _middle(chart: Chart, candle: Candle) -> float:
    return _day(candle.time) + _width(chart, candle) / 2


def _day(time: int) -> float:
    """Matplotlib counts days from the epoch."""
    return time / DAY


def _fonts_for(text: str) -> tuple[list[str], str]:
    """Families that can draw the text together, and the text; where no installed font has a character, its code point."""
    from matplotlib import font_manager  # noqa: PLC0415 - as above
    from matplotlib.ft2font import FT2Font  # noqa: PLC0415 - as above

    families = ["DejaVu Sans"]
    lacking = {ord(c) for c in text} - FT2Font(font_manager.findfont("DejaVu Sans")).get_charmap().keys()
    # Those that are found by the name alone; Last Resort, which comes with matplotlib, draws a frame for every character.
    fonts = [
        entry
        for entry in font_manager.fontManager.ttflist
        if (entry.weight, entry.style, entry.stretch) == (400, "normal", "normal") and not entry.name.startswith("Last Resort")
    ]
    for entry in sorted(fonts, key=lambda entry: (entry.name, entry.fname)) if lacking else ():
        found = lacking & FT2Font(entry.fname).get_charmap().keys()
        if found:
            families.append(entry.name)
            lacking -= found
    return families, "".join(f"[U+{ord(c):04X}]" if ord(c) in lacking else c for c in text)


def _hits(chart: Chart, axes: Sequence[Axes]) -> Iterator[str]:
    """For each candle an invisible column over all panels, and the line that is shown while the pointer is in it."""
    top, bottom = axes[0].get_window_extent(), axes[-1].get_window_extent()
    scale = 72 / axes[0].figure.dpi
    y, tall = _SVG_SIZE[1] - top.y1 * scale, (top.y1 - bottom.y0) * scale
    sums = dict(chart.funding) if chart.summed else {}
    for candle in chart.candles:
        left, _ = axes[0].transData.transform((_day(candle.time), candle.close)) * scale
        right, _ = axes[0].transData.transform((_day(candle.time) + _width(chart, candle), candle.close)) * scale
        prices = zip("OHLC", (candle.open, candle.high, candle.low, candle.close), strict=True)
        values = "  ".join([_minute(candle.time), *(f"{letter} {price(value)}" for letter, value in prices)])
        if candle.volume is not None:
            values += f"  V {amount(candle.volume)}"
        if candle.time in sums:
            values += f"  F {percent(sums[candle.time])}"
        yield (
            f'<g class="hit"><rect x="{left:.1f}" y="{y:.0f}" width="{right - left:.1f}" height="{tall:.0f}"/>'
            f'<text x="3" y="22">{escape(values)}</text></g>'
        )


def _page_svg(text: str, hits: str, name: str, label: str) -> tuple[str, dict[str, str]]:
    """What matplotlib wrote, as an element inside a page: without header, metadata, ids, and with classes for styles."""
    body = text[text.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r"<svg[^>]*>", "", body, count=1).rsplit("</svg>", 1)[0]
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    # A tenth of a unit is about a tenth of a pixel.
    body = re.sub(r' (?:d|x|y|transform)="[^"]*"', lambda match: re.sub(r"(\.\d)\d+", r"\1", match[0]), body)
    body = re.sub(r' id="(?!h)[^"]*"| clip-path="[^"]*"', "", body)
    body = re.sub(r'( id="|url\(#)(h\w+)', rf"\1{name}-\2", body)  # the hatching of the gaps
    rules: dict[str, str] = {}

    def named(match: re.Match[str]) -> str:
        style = match[1]
        for stand_in, variable in _VARIABLE.items():
            style = style.replace(stand_in, variable)
        style = re.sub(r"font(-family)?: [^;]*", lambda m: re.sub(r"'DejaVu Sans'.*", "inherit", m[0]), style)
        return f'class="{rules.setdefault(style, f"m{_digest(style)}")}"'

    body = re.sub(r'style="([^"]*)"', named, body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    width, height = _SVG_SIZE
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(visible(label))}">'
    return f"{head}{body}{hits}</svg>", {name: style for style, name in rules.items()}


def _digest(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
