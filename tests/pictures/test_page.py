"""The page as a value: what it holds of a lake of any size, of any name, in any scheme."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from etl.model import Finding, Series
from etl.pictures.model import Gap, Gaps, Kept, Kind, Month, State
from etl.pictures.page import page
from etl.ranges import HOUR, TimeRange, parse_time

AT = parse_time("2026-01-01T00:10")
MONTHS = [f"{year}-{month:02}" for year in range(2020, 2026) for month in range(1, 13)]
COMPLETE = Month("complete", {"complete": 31}, 0)
MISSING = Month("missing", {"missing": 2, "complete": 29}, 77)


def kept(symbol, months, size=1000, **values):
    series = Series("um", "klines", symbol, "1m")
    told = {"first": "2020-01-01T00:00:00Z", "last": "2025-12-31T23:59:00Z", "rows": 10, "lag_s": 600}
    return Kept(
        series, months, expected=1000, missing=sum(m.missing for m in months.values()), bytes=size, **{**told, **values}
    )


def state(*series, findings=(), gaps=None):
    kind = Kind("um", "klines", "1m", len(series), 10, 1000, dict.fromkeys(MONTHS, COMPLETE), {"archive": 3, "rest": 1})
    return State("lake", "mainnet", AT, "1.0", tuple(series), (kind,), gaps or Gaps((), 0), findings, 5)


@pytest.fixture(scope="module")
def large():
    """500 symbols over six years, everything that can be listed a thousand times."""
    series = [kept(f"S{number:03}USDT", dict.fromkeys(MONTHS, MISSING if number < 7 else COMPLETE)) for number in range(1000)]
    gaps = Gaps(tuple(Gap(one.series, "2020-01-01", "2020-01-02", "missing", 77) for one in series[:100]), 4321)
    findings = [
        Finding(one.series, "ohlc", "error", TimeRange(AT, AT + HOUR), 3, f"the {number}th of them")
        for number, one in enumerate(series)
    ]
    return page(state(*series, findings=tuple(findings), gaps=gaps))


def test_a_large_lake_makes_no_large_page_and_says_what_is_left_out(large):
    assert len(large.encode()) < 1_000_000
    assert large.count('<td class="v-') > 10_000
    assert "150 of 1,000 series" in large
    assert "The other 850 are not drawn; by their worst month: 850 complete." in large
    assert "4,221 more are not listed" in large
    assert "The last 850 are not listed; <code>etl verify</code> lists all." in large
    assert large.count("the largest first.") + large.count("The largest series first. The other 850 are not listed") == 1
    assert "S006USDT" in large
    assert "S999USDT" not in large


def test_the_same_state_makes_the_same_page(large):
    one = state(kept("BTCUSDT", {"2025-12": COMPLETE}))
    assert page(one) == page(replace(one))
    assert page(one) != page(replace(one, at=AT + HOUR))


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self.attributes = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append(tag)
        self.attributes += attrs


@pytest.mark.parametrize(
    "symbol",
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "</style><b>",
        "a\x00\x1b[31mb",
        "\u202eTDSU",
        "<!--",
        "&lt;",
    ],
)
def test_no_name_becomes_a_part_of_the_page(symbol):
    series = Series("um", "klines", symbol, "1m")
    finding = Finding(series, symbol, "error", TimeRange(AT, AT + HOUR), 1, symbol)
    gap = Gap(series, "2025-12-01", "2025-12-02", "lost", None)
    plain, odd = (
        page(replace(state(kept(name, {"2025-12": MISSING}), findings=(f,), gaps=Gaps((g,), 1)), lake=name))
        for name, f, g in (
            (
                "BTCUSDT",
                replace(finding, series=replace(series, symbol="B"), check="c", message="m"),
                replace(gap, series=replace(series, symbol="B")),
            ),
            (symbol, finding, gap),
        )
    )
    assert Tags(odd).found == Tags(plain).found
    assert {name for name, _ in Tags(odd).attributes} == {name for name, _ in Tags(plain).attributes}
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", odd)


def test_it_has_no_addresses_and_only_the_style_that_its_policy_names(large):
    assert "http" not in large.lower().replace("http-equiv", "")
    (style,) = re.findall(r"<style>(.*?)</style>", large, re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', large)
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    assert large.index("Content-Security-Policy") < large.index("<title>")
    assert not {"script", "link", "img", "iframe", "object", "embed"} & set(
        Tags(large.replace('<link rel="icon" href="data:,">', "")).found
    )


def test_what_is_not_known_is_not_claimed():
    unchecked = page(state(kept("BTCUSDT", {}), findings=None))
    assert "Not checked for this page" in unchecked
    assert "<dt>Errors found</dt><dd>–</dd>" in unchecked
    empty = page(replace(state(findings=()), kept=(), kinds=()))
    assert "Nothing is stored yet." in empty
    assert "100 %" not in empty


def luminance(colour):
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_told_apart(scheme):
    """WCAG 2.2: 4.5 for text, also on patterns (1.4.3), 3 for what a picture needs to be understood (1.4.11)."""
    css = (files("etl.pictures") / "page.css").read_text()
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#\w{6})\b", part)) for part in css.split("@media (prefers-color-scheme: dark)")
    )
    assert set(dark) == set(light) - {"hover"}
    colours = light if scheme == "light" else dark
    for verdict in ("complete", "partial", "missing", "outage", "lost", "not_listed"):
        assert contrast(colours[verdict], colours[f"on-{verdict}"]) >= 4.5, verdict
    assert contrast(colours["complete"], colours["on-partial"]) >= 4.5  # its pattern has both
    for ink in ("ink", "muted", "link"):
        for paper in ("paper", "page", "grid"):
            assert contrast(colours[ink], colours[paper]) >= 4.5, (ink, paper)
    for shape in ("up", "down", "volume", "funding", "focus", "rest", "missing" if scheme == "dark" else "lost"):
        assert contrast(colours[shape], colours["paper"]) >= 3, shape
