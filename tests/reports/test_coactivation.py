"""The picture of co-activation."""

from __future__ import annotations

from moecli.reports.coactivation import draw_coactivation
from tests.reports.figures import cells, drawn, panels, small_print
from tests.reports.report_content import report_content


def test_cells_are_shares_over_chance_and_the_diagonal_is_empty():
    part = {
        "layer": 4, "share": [[None, 0.5, 0.1], [0.25, None, 0.2], [0.2, 0.0, None]], "tokens": 1234,
        "chance": [[None, 0.25, 0.2], [0.5, None, 0.2], [0.1, 0.0, None]],
        "special": [[1, 1, 0], [0, 0, -1], [0, 0, 1]],
    }  # fmt: skip
    axes = drawn(draw_coactivation, report_content() | {"coactivation": [part]}).axes[0]
    assert cells(axes) == [[None, 2.0, 0.5], [0.5, None, 1.0], [2.0, None, None]]
    assert axes.collections[0].get_offsets().tolist() == [[1, 0], [2, 1]]
    assert axes.get_title() == "layer 4 (1,234 tokens)"
    assert "95 % confidence for all pairs of all layers together; grey: an expert with itself" in small_print(axes.figure)


def test_of_many_layers_those_are_shown_that_a_page_holds():
    for num_experts, shown in ((8, 6), (64, 4)):
        figure = drawn(draw_coactivation, report_content(12, num_experts))
        assert len(panels(figure)) == shown
        assert f"shown: {shown} of 12 layers, evenly spread" in small_print(figure)
