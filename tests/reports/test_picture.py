"""What all pictures share: choice of panels, texts from the data on one line, titles that wrap."""

from __future__ import annotations

import pytest

from moecli.reports.picture import Layout, new_sheet, plain, save_picture, shown_of, spread
from tests.reports.figures import collisions, drawn


@pytest.mark.parametrize(
    ("count", "chosen"),
    [
        (1, [0]),
        (6, [0, 1, 2, 3, 4, 5]),
        (7, [0, 1, 2, 4, 5, 6]),  # 6 / 5 = 1.2 apart: 0, 1.2, 2.4, 3.6, 4.8, 6
        (32, [0, 6, 12, 19, 25, 31]),  # 31 / 5 = 6.2 apart: 0, 6.2, 12.4, 18.6, 24.8, 31
    ],
)
def test_panels_are_evenly_spread_from_the_first_to_the_last(count, chosen):
    assert spread(range(count)) == chosen


def test_what_is_left_out_is_said():
    assert shown_of(6, 6, "layers") == []
    assert shown_of(6, 32, "layers") == ["shown: 6 of 32 layers, evenly spread"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("prose", "prose"),
        ("a\nb\t\x00", "a\\nb\\t\\x00"),
        ("\ud800", "\\ud800"),
        ("0123456789", "0123456789"),
        ("0123456789x", "01234…789x"),  # 10 letters: 5, the sign, 4
        ("日本", "日本"),
    ],
)
def test_a_text_from_the_data_is_one_short_line(text, shown):
    assert plain(text, 10) == shown


def test_panels_fill_the_page():
    """7.2 - 0.65 before the first column - 0.15 margin - 2 gaps of 0.25 = 5.9 inches for three."""
    layout = Layout(panels=4, columns=3, panel_height=1.0)
    assert layout.panel_width == pytest.approx(5.9 / 3)
    assert layout.rows == 2
    assert layout.body_height == pytest.approx(2 * (0.1 + 1.0 + 0.42))


def test_long_titles_and_notes_wrap():
    report = {"notes": ["it was seen that " * 30, "x" * 400]}
    figure = drawn(lambda content: new_sheet(content, "A title about experts " * 20, Layout(1, 1, 1.0)).figure, report)
    assert [len(text.get_text().splitlines()) > 3 for text in figure.texts] == [True, True]
    assert not collisions(figure)


def test_only_outer_panels_are_labelled():
    """Panels 0 1 2 above 3: below 1 and 2 there is none."""
    sheet = new_sheet({}, "title", Layout(panels=4, columns=3, panel_height=1.0))
    sheet.label_outside("x", "y")
    assert [axes.get_xlabel() for axes in sheet.axes] == ["", "x", "x", "x"]
    assert [axes.get_ylabel() for axes in sheet.axes] == ["y", "", "", "y"]


def test_a_character_that_the_font_lacks_is_no_error(tmp_path):
    save_picture(lambda content: new_sheet(content, "日本", Layout(1, 1, 1.0)).figure, {}, tmp_path / "a.png", tmp_path / "a.svg")
    assert "日本" in (tmp_path / "a.svg").read_text(encoding="utf-8")
