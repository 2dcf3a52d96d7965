"""The page of `etl report` as people meet it: in a browser, light and dark, by keyboard, by pointer, by screen reader."""

import itertools
import json
import os
import subprocess
import sys

import pytest

from etl.ranges import HOUR, iso, parse_time

from .browser import started
from .conftest import ARABIC, HOLE, NOW, SCRIPT, START, SYMBOLS

# WCAG 2.2, 1.4.3: text against what lies behind it. Backgrounds with a pattern are in test_page.py.
CONTRASTS = """
(() => {
  const light = c => { const v = c / 255; return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4 };
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => .2126 * light(r) + .7152 * light(g) + .0722 * light(b);
  const behind = element => {
    for (let one = element; one; one = one.parentElement) {
      const style = getComputedStyle(one);
      if (style.backgroundImage !== 'none') return null;
      const colour = parse(style.backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement, style = getComputedStyle(element);
    if (!texts.currentNode.data.trim() || style.visibility === 'hidden') continue;
    const back = behind(element);
    if (!back) continue;
    const ink = parse(element.closest('svg') ? style.fill : style.color);
    const [low, high] = [luminance(ink), luminance(back)].sort((a, b) => a - b);
    found.push([(high + .05) / (low + .05), texts.currentNode.data.trim(), element.closest('svg') ? 'svg' : element.tagName]);
  }
  return found;
})()
"""


@pytest.fixture(scope="module")
def report(lake, tmp_path_factory):
    """The page, and the document about it."""
    page = tmp_path_factory.mktemp("page") / "report.html"
    command = ["report", "-o", str(page), "--lake", str(lake.folder), "--at", iso(NOW), "--json"]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("ETL_")}
    finished = subprocess.run([sys.executable, "-m", "etl", *command], env=clean, capture_output=True, text=True, check=True)
    return page, json.loads(finished.stdout)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with started(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_asked_for_nothing_is_complained_about_and_all_can_be_read(browser, report, scheme):
    page, _ = report
    browser.open(page, scheme)
    background = browser.value("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(background) < 64) is (scheme == "dark")
    contrasts = browser.value(CONTRASTS)
    assert len(contrasts) > 200
    assert {kind for *_, kind in contrasts} >= {"svg", "TD", "TH", "DD", "A", "SMALL", "FIGCAPTION", "LABEL", "CODE"}
    # The last price of each chart is paper on a tag of ink, which is a shape and no background (test_page.py has the two).
    tags = [one for one in contrasts if one[0] == 1]
    assert len(tags) == 3
    assert [one for one in contrasts if one[0] < 4.5] == tags
    # The page may be wider than a narrow window only in the parts of it that scroll.
    browser.ask("Emulation.setDeviceMetricsOverride", width=360, height=800, deviceScaleFactor=1, mobile=False)
    assert browser.value("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    browser.ask("Emulation.clearDeviceMetricsOverride")

    asked = [
        event["params"]["request"]["url"] for event in browser.events if event.get("method") == "Network.requestWillBeSent"
    ]
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    complaints = {"Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Page.javascriptDialogOpening"}
    assert [event for event in browser.events if event.get("method") in complaints] == []


def test_the_policy_of_the_page_forbids_scripts_styles_and_requests(browser, report):
    browser.open(report[0], "light")
    for attempt in (
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))",
        "document.body.append(Object.assign(document.createElement('img'), {src: 'http://127.0.0.1:9/x.png'}))",
        "fetch('http://127.0.0.1:9/').catch(() => 0)",
        "document.body.insertAdjacentHTML('beforeend', '<p style=\"color: red\">x</p>')",
    ):
        browser.value(f"void ({attempt})")
    assert browser.value("window.ran") is None
    assert browser.value("getComputedStyle(document.body.lastElementChild).color") != "rgb(255, 0, 0)"
    refused = [event["params"]["entry"]["text"] for event in browser.events if event.get("method") == "Log.entryAdded"]
    assert len(refused) >= 4  # one refusal may be told of twice
    assert all("Content Security Policy" in text for text in refused)


def test_what_it_says_is_what_the_exchange_had(browser, report, lake):
    page, document = report
    browser.open(page, "light")
    text = browser.value("document.body.innerText")
    hours = (parse_time("2026-03-01T12:00") - START) // HOUR
    bars, absent = hours * len(SYMBOLS) - 20, 20
    assert document["series"] == 2 * len(SYMBOLS) + 1
    assert (document["gaps"], document["charts"][0]["symbol"]) == (1, "BTCUSDT")
    tiles = dict(browser.value("[...document.querySelectorAll('.tiles div')].map(d => [...d.children].map(c => c.innerText))"))
    days = (parse_time("2026-03-01") - START) // (24 * HOUR)
    assert tiles["Series"] == str(document["series"])
    assert tiles["Bars missing"] == str(absent)
    assert tiles["Bars there"] == f"{(bars + days) / (bars + days + absent) * 100:.2f} %"
    assert tiles["Errors found"] == "0"

    def rows(section):
        cells = "[...row.children].map(cell => cell.innerText)"
        return browser.value(f"[...document.querySelectorAll('#{section} tbody tr')].map(row => {cells})")

    assert rows("gaps") == [["BTCUSDT um klines 1h", "missing", "2026-02-03", "2026-02-04", str(absent)]]
    stored = {name: rest for name, *rest in rows("series")}
    assert stored["BTCUSDT um klines 1h"][:5] == ["2026-01-15 00:00", "2026-03-01 11:00", "30 min", f"{len(lake.bars):,}", "20"]
    assert stored["BTCUSDT um funding"][3] == str(len(lake.settlements))
    assert any("missing" in cell for row in rows("quality") for cell in row)
    assert [row[4] for row in rows("sources")] == ["rest 100 %"] * 3
    heat = {name: cells for name, *cells in rows("coverage")}
    *kinds, worst, second, third = [name.split(" um ")[-1] for name in heat][:6]
    assert kinds == ["um klines 1h 3 series", "um funding 3 series", "um mark_klines 1d 1 series"]
    assert (worst, second, third) == ("klines 1h",) * 3  # what lacks bars, then the largest
    assert list(heat)[3].startswith("BTCUSDT ")
    assert heat["BTCUSDT um klines 1h"] == ["partial", "missing; 20 bars absent", "partial"]
    assert heat[f"{SCRIPT} um klines 1h"] == ["partial", "complete", "partial"]
    assert heat[f"⟨U+202E⟩{ARABIC[1:]} um klines 1h"] == ["partial", "complete", "partial"]
    assert heat["um klines 1h 3 series"] == ["partial", "missing; 20 bars absent", "partial"]
    assert browser.value("getComputedStyle(document.querySelector('td[data-n]'), '::before').content").startswith('"1"')

    first, last = lake.bars[0], lake.bars[-1]
    paid = sum(rate for _, rate, *_ in lake.settlements) * 100
    assert f"From {first[1]:,.10g} to {last[4]:,.10g}" in text
    assert f"highest {max(bar[2] for bar in lake.bars):,.10g}, lowest {min(bar[3] for bar in lake.bars):,.10g}" in text
    assert f"a long position paid {paid:+.4f} % of funding" in text
    assert "6h candles made from 1h bars" in text
    assert "1 gap without bars (hatched) · 2 candles lack some bars" in text


def test_its_structure_is_told_to_a_screen_reader(browser, report):
    browser.open(report[0], "light")
    tree = [node for node in browser.ask("Accessibility.getFullAXTree")["nodes"] if not node.get("ignored")]
    named = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree]
    roles = [role for role, _ in named]
    for landmark in ("banner", "main", "contentinfo", "navigation"):
        assert roles.count(landmark) == 1, landmark
    must = {
        "image",
        "region",
        "table",
        "radio",
        "link",
        "heading",
        "navigation",
        "columnheader",
        "rowheader",
        "DisclosureTriangle",
    }
    assert must <= set(roles)
    assert [pair for pair in named if pair[0] in must and not pair[1]] == []
    regions = [name for role, name in named if role == "region"]
    assert len(regions) == len(set(regions))
    assert browser.value("document.documentElement.lang") == "en"
    levels = browser.value("[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    for selector, why in {
        "table:not(:has(> caption))": "a table without caption",
        "th:not([scope])": "a header that does not say of what",
        "tbody tr:not(:has(> th[scope=row]))": "a row without header",
        "svg:not([role=img][aria-label])": "a chart without name",
        "figure:not(:has(table))": "a chart without its numbers",
        "[style], script, iframe, object, embed, [onclick]": "what the policy of the page refuses",
    }.items():
        assert browser.value(f"document.querySelectorAll({json.dumps(selector)}).length") == 0, why
    ids = browser.value("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    # Names written from right to left do not turn round what stands beside them.
    assert browser.value("[...document.querySelectorAll('bdi')].every(e => getComputedStyle(e).unicodeBidi === 'isolate')")


def test_it_is_used_by_keyboard(browser, report):
    browser.open(report[0], "light")
    where = "(e => e.id || e.getAttribute('href') || e.getAttribute('aria-label') || e.tagName)(document.activeElement)"
    marked = "(e => e.matches('input') ? e.nextElementSibling : e)(document.activeElement)"
    stops = []
    for _ in range(60):
        browser.press("Tab", 9)
        stops.append(browser.value(where))
        if stops[-1] == "BODY":
            break
        width = browser.value(f"parseFloat(getComputedStyle({marked}).outlineWidth)")
        assert width >= 2, f"{stops[-1]} does not show the focus"
    else:
        pytest.fail(f"the focus does not come to an end: {stops}")
    assert stops[0] == "#main"
    wanted = ["#coverage", "#sources", "Heat map of the coverage", "z-0-0", "Chart, All", "SUMMARY", "The largest series first"]
    assert [stop for stop in stops if stop in wanted] == wanted

    visible = "[...document.querySelectorAll('.zooms figure')].map(f => f.offsetHeight > 0)"
    browser.value("document.getElementById('z-0-0').focus()")
    assert browser.value(visible) == [True, False, False]
    browser.press("ArrowRight", 39)
    assert browser.value(visible) == [False, True, False]
    browser.value("document.querySelector('.f1 summary').focus()")
    table = "document.querySelector('.f1 details table')"
    assert browser.value(f"{table}.checkVisibility()") is False
    browser.press(" ", 32)
    assert browser.value(f"{table}.checkVisibility()") is True


def test_a_candle_tells_its_values_under_the_pointer(browser, report, lake):
    browser.open(report[0], "light")
    browser.value("document.querySelector('.f0 svg').scrollIntoView()")
    texts = "[...document.querySelectorAll('.f0 .hit text')]"
    shown = f"{texts}.filter(t => getComputedStyle(t).visibility === 'visible').map(t => t.textContent)"
    browser.point(1, 1)
    assert browser.value(shown) == []
    rect = browser.value(
        "(r => [r.x, r.y, r.width, r.height])(document.querySelector('.f0 .hit rect').getBoundingClientRect())"
    )
    assert rect[3] > 200  # it reaches over all panels
    browser.point(rect[0] + rect[2] / 2, rect[1] + rect[3] / 2)
    six = lake.bars[:6]
    high, low = max(bar[2] for bar in six), min(bar[3] for bar in six)
    prices = f"O {six[0][1]:,.10g}  H {high:,.10g}  L {low:,.10g}  C {six[-1][4]:,.10g}"
    (told,) = browser.value(shown)
    assert told.startswith(f"2026-01-15 00:00  {prices}  V ")


def test_the_gap_is_where_nothing_is_stored(browser, report):
    """Between the columns of the candles lies the hole, as long on the axis as in time."""
    browser.open(report[0], "light")
    rects = "[...document.querySelectorAll('.f0 .hit rect')]"
    columns = browser.value(f"{rects}.map(r => [+r.getAttribute('x'), +r.getAttribute('width')])")
    widths = [width for _, width in columns]
    jumps = [after[0] - before[0] - before[1] for before, after in itertools.pairwise(columns)]
    (at,) = [index for index, jump in enumerate(jumps) if jump > 1]
    # Of the hole three whole candles of 6 h are absent: 06:00, 12:00 and 18:00.
    assert jumps[at] == pytest.approx(3 * sum(widths) / len(widths), rel=0.05)
    assert at == (HOLE[0] - START) // (6 * HOUR)
