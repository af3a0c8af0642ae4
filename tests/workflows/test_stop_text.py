"""A text ends at the stop text that is complete first, however it is cut into pieces, and nothing is passed on too early."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moecli.workflows.stop_text import StopText


def passed(stops: list[str], pieces: list[str]) -> tuple[list[str], str, bool]:
    """What each piece let through until the end, what was held back then, and whether a stop text came."""
    stop, grown = StopText(stops), []
    for piece in pieces:
        grown.append(stop.push(piece))
        if stop.is_reached:
            break
    return grown, stop.rest(), stop.is_reached


@pytest.mark.parametrize(
    ("stops", "pieces", "expected"),
    [
        ([], ["ab", "c"], (["ab", "c"], "", False)),
        (["\n\n"], ["a\n", "b", "\n", "\nc"], (["a", "\nb", "", ""], "", True)),
        (["END"], ["xE", "N", "EN", "D!"], (["x", "", "EN", ""], "", True)),  # "ENEN": the first EN can't be the beginning of END any more
        (["END"], ["x EN"], (["x "], "EN", False)),
        (["END"], ["one END two END"], (["one "], "", True)),
        (["abcX", "bc"], ["abcX"], (["a"], "", True)),  # bc is complete before abcX
        (["c", "abc"], ["xabc"], (["x"], "", True)),  # both are complete at once: the longer one
        (["aab"], ["aa", "ab"], (["", "a"], "", True)),
    ],
)
def test_by_hand(stops, pieces, expected):
    assert passed(stops, pieces) == expected


@given(stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), pieces=st.lists(st.text("abc", max_size=4), max_size=12))
def test_the_pieces_make_no_difference_and_nothing_is_held_without_need(stops, pieces):
    text = "".join(pieces)
    # The definition, one character at a time: the text ends where it first ends with a stop text, the longest of those.
    ends = [(end, text[:end]) for end in range(1, len(text) + 1) if text[:end].endswith(tuple(stops))]
    expected = text if not ends else ends[0][1][: -max(len(stop) for stop in stops if ends[0][1].endswith(stop))]
    grown, rest, is_reached = passed(stops, pieces)
    assert ("".join(grown) + rest, is_reached) == (expected, bool(ends))
    if not is_reached:
        beginnings = {stop[:length] for stop in stops for length in range(1, len(stop))}
        assert rest == max((text[start:] for start in range(len(text)) if text[start:] in beginnings), key=len, default="")
