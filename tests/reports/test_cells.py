"""Cells, their marks and scales."""

from __future__ import annotations

import numpy as np
import pytest

from moecli.reports.cells import chance_scale, draw_cells, even_share_scale, map_height, mark_cells, over_chance, padded
from moecli.reports.picture import Layout, new_sheet

LAYOUT = Layout(panels=1, columns=1, panel_height=2.0)


def drawn_cells(values: list[list[float]], scale, digits: int | None = 2):
    values_RC = np.array(values)
    axes = new_sheet({}, "cells", LAYOUT).axes[0]
    return axes, draw_cells(axes, values_RC, scale, LAYOUT, [str(row) for row in range(len(values))], digits)


def test_rows_of_different_lengths_are_filled_up():
    assert np.array_equal(padded([[1.0, None], [3.0, 4.0, 5.0]]), [[1.0, np.nan, np.nan], [3.0, 4.0, 5.0]], equal_nan=True)


def test_a_share_over_no_chance_is_not_known():
    ratios = over_chance(np.array([[0.5, 0.5, np.nan, 0.0]]), np.array([[0.25, 0.0, 0.5, 0.5]]))
    assert np.array_equal(ratios, [[2.0, np.nan, np.nan, 0.0]], equal_nan=True)


def test_half_of_chance_is_as_far_from_white_as_double():
    norm = chance_scale().norm
    assert float(norm(1.0)) == pytest.approx(0.5)
    assert float(norm(2.0)) - 0.5 == pytest.approx(0.5 - float(norm(0.5)))
    assert (float(norm(0.0)), float(norm(100.0))) == (0.0, 1.0)


def test_numbers_and_marks_can_be_read_on_their_cells():
    """Dark ends get white, the light middle black."""
    axes, image = drawn_cells([[0.0, 1.0, 2.0]], even_share_scale())
    assert [text.get_color() for text in axes.texts] == ["white", "black", "white"]
    axes, image = drawn_cells([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]], even_share_scale(), digits=None)
    mark_cells(axes, image, np.array([[-1, 0, 1], [0, 1, 0]]), LAYOUT)
    marks = axes.collections[0]
    assert marks.get_offsets().tolist() == [[0, 0], [2, 0], [1, 1]]
    assert [tuple(colour[:3]) for colour in marks.get_facecolors()] == [(1, 1, 1), (1, 1, 1), (0, 0, 0)]
    assert not axes.texts


def test_a_cell_without_a_value_is_grey_and_has_no_number():
    axes, _ = drawn_cells([[0.5, np.nan]], even_share_scale())
    assert [text.get_text() for text in axes.texts] == ["0.50"]
    assert axes.patch.get_hatch() and axes.patch.get_facecolor()[:3] == (0.72, 0.72, 0.72)
    assert not drawn_cells([[0.5, 0.5]], even_share_scale())[0].patch.get_hatch()


def test_numbers_are_written_if_the_longest_fits():
    """6.4 inches of panel over 16 cells: 0.40 each. Of 0.062 inches a letter, 5 letters need 0.35 and 6 need 0.41."""
    assert drawn_cells([[0.5] * 15 + [10.0]], even_share_scale())[0].texts
    assert not drawn_cells([[0.5] * 15 + [100.0]], even_share_scale())[0].texts


@pytest.mark.parametrize(("rows", "inches"), [(1, 0.34), (3, 1.02), (8, 2.7), (32, 32 * 0.156), (94, 7.5)])
def test_maps_are_as_high_as_their_rows_need_up_to_a_page(rows, inches):
    assert map_height(rows, 7.5) == pytest.approx(inches)
