"""Who is named for what, against a model that keeps for each bar who was asked and whose row stands."""

from itertools import groupby, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from etl.coverage import after, joined, owned
from etl.model import Coverage
from etl.ranges import MINUTE, TimeRange, subtract, union

LENGTH = 24


def runs(places) -> tuple[TimeRange, ...]:
    return union(TimeRange(place * MINUTE, (place + 1) * MINUTE) for place in places)


def entry(low: int, high: int, source="rest", key=None, sha=None, checked=0) -> Coverage:
    return Coverage(TimeRange(low * MINUTE, high * MINUTE), source, checked, key, sha)


def named(entries, place: int) -> set[tuple[str, str | None]]:
    return {(one.source, one.key) for one in entries if place * MINUTE in one.span}


@st.composite
def rounds(draw):
    """Answers that come one after the other; each has some of the bars of its span, and an archive's file is read once."""
    found = []
    for number in range(draw(st.integers(1, 5))):
        low = draw(st.integers(0, LENGTH - 1))
        high = draw(st.integers(low + 1, LENGTH))
        source = draw(st.sampled_from(["rest", "archive"]))
        has = draw(st.sets(st.integers(low, high - 1)))
        found.append((source, f"file {number}" if source == "archive" else None, low, high, has))
    return found


@given(rounds())
@settings(max_examples=400)
def test_each_row_has_one_source_and_each_absent_bar_all_that_were_asked(answers):
    entries: tuple[Coverage, ...] = ()
    rows: dict[int, tuple[str, str | None]] = {}
    asked: dict[int, set[str]] = {place: set() for place in range(LENGTH)}
    for source, key, low, high, sent in answers:
        span = range(low, high)
        # A row of REST stands over one of the archive.
        has = {place for place in sent if source == "rest" or rows.get(place, ("archive",))[0] != "rest"}
        # Stored rows of the other source that REST gives anew are different ones here: they change owner.
        changed = [place for place in sorted(has) if place in rows and (source, rows[place][0]) == ("rest", "archive")]
        given = [place for place in sorted(has) if place not in rows or place in changed]
        for place in span:
            asked[place].add(source)
        rows |= dict.fromkeys(given, (source, key))
        still = runs(place for place in span if place not in rows)
        answer = entry(low, high, source, key, "digest" if key else None)
        entries = after(entries, [answer], gave=runs(given), has={key: runs(sent)}, still=still)
    for place in range(LENGTH):
        if place in rows:
            assert named(entries, place) == {rows[place]}
        else:
            assert {source for source, _ in named(entries, place)} == asked[place]
    for source in ("rest", "archive"):  # of one source no two entries overlap: the ledger adds their lengths
        spans = sorted(one.span for one in entries if one.source == source)
        assert all(one.end <= other.start for one, other in pairwise(spans))


@st.composite
def publications(draw):
    """Parts of files that come one after the other, each of one of several publications, and pages of REST; with the values
    of the bars which they have.
    """
    places = st.integers(0, LENGTH - 1)
    bars = st.dictionaries(places, st.sampled_from([1.0, 2.0]))
    said = {(key, digest): draw(bars) for key in ("month", "day") for digest in ("aa", "bb", "cc")}
    found = []
    for _ in range(draw(st.integers(1, 8))):
        low, high = sorted(draw(st.tuples(places, places)))
        file = draw(st.sampled_from([None, *said]))
        has = draw(bars) if file is None else said[file]
        found.append((file, low, high + 1, {place: has[place] for place in has if low <= place <= high}))
    return found


@given(publications())
@settings(max_examples=400)
def test_the_digest_at_a_row_is_that_of_a_publication_which_has_it(answers):
    entries: tuple[Coverage, ...] = ()
    rows: dict[int, float] = {}
    of_rest: set[int] = set()
    having: dict[tuple[str, str] | None, dict[int, float]] = {file: {} for file, *_ in answers}
    read: dict[tuple[str, int], str] = {}
    for file, low, high, has in answers:
        having[file] |= has
        came = {place: bar for place, bar in has.items() if file is None or place not in of_rest}
        given = {place: bar for place, bar in came.items() if rows.get(place) != bar}
        rows |= given
        still = runs(place for place in range(low, high) if place not in rows)
        answer = entry(low, high, "archive", *file) if file else entry(low, high)
        where = {answer.key: runs(has)}
        entries = joined(after(entries, [answer], gave=runs(given), has=where, still=still))
        assert joined(after(entries, [answer], has=where, still=still)) == entries
        of_rest = {place for place in rows if {source for source, _ in named(entries, place)} == {"rest"}}
        read |= {(file[0], place): file[1] for place in range(low, high)} if file else {}
    for place in range(LENGTH):
        here = [one for one in entries if place * MINUTE in one.span]
        if place in rows:
            (one,) = here
            assert having[(one.key, one.sha256) if one.key else None][place] == rows[place]
        for one in here:
            assert one.key is None or one.latest == read[one.key, place]


def test_an_answer_that_is_known_leaves_the_day_of_the_first():
    before = (entry(0, 10, checked=1),)
    assert after(before, [entry(0, 12, checked=2)], gave=runs([10, 11]), has={None: runs(range(12))}) == (
        *before,
        entry(10, 12, checked=2),
    )


def test_a_day_that_the_months_file_lacked_is_that_of_its_own_file():
    month, day = entry(0, 20, "archive", "month", "aa"), entry(5, 8, "archive", "day", "bb")
    lacked = runs([5, 6, 7])
    rest = subtract(runs(range(20)), lacked)
    first = after((), [month], gave=rest, has={"month": rest}, still=lacked)
    found = joined(after(first, [day], gave=lacked, has={"day": lacked}))
    assert [(one.span, one.key) for one in found] == [
        (TimeRange(0, 5 * MINUTE), "month"),
        (TimeRange(5 * MINUTE, 8 * MINUTE), "day"),
        (TimeRange(8 * MINUTE, 20 * MINUTE), "month"),
    ]


def test_a_file_that_was_published_again_keeps_the_digest_of_before():
    old = (entry(0, 5, "archive", "month", "aa"), entry(7, 20, "archive", "month", "aa"), entry(5, 7, checked=3))
    new = entry(0, 20, "archive", "month", "bb", checked=9)
    found = joined(after(old, [new], gave=runs([8]), has={"month": runs(range(20))}))
    assert [(one.span.start // MINUTE, one.sha256, one.former, one.checked) for one in found] == [
        (0, "bb", ("aa",), 9),
        (5, None, (), 3),
        (7, "bb", ("aa",), 9),
    ]


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 5), st.sampled_from("ab")), max_size=8))
def test_joined_entries_say_the_same_with_the_fewest_words(pieces):
    spans: list[Coverage] = []
    for low, length, key in pieces:  # disjoint, as entries of one source are
        free = subtract([TimeRange(low * MINUTE, (low + length) * MINUTE)], [one.span for one in spans])
        spans += [Coverage(span, "archive", 0, key, key) for span in free]
    found = joined(spans)
    places = [next((one.key for one in spans if place * MINUTE in one.span), None) for place in range(26)]
    assert [next((one.key for one in found if place * MINUTE in one.span), None) for place in range(26)] == places
    assert len(found) == sum(1 for key, _ in groupby(places) if key)


def test_owned_is_where_rows_of_a_source_are():
    entries = (entry(0, 10), entry(3, 20, "archive", "month", "aa"))
    assert owned(entries, "rest", runs([4, 5])) == runs([0, 1, 2, 3, 6, 7, 8, 9])
