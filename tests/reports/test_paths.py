"""The Sankey picture: boxes and flows are as high as the shares, and what is left out is said."""

from __future__ import annotations

import numpy as np
import pytest

from moecli.reports.paths import MOST_FLOWS, column_heights, draw_paths, flows_between
from tests.reports.figures import drawn, small_print
from tests.reports.report_content import report_content


def paths_of(*shares: list[list[float]], first_layer: int = 0) -> dict:
    transitions = [
        {"from_layer": first_layer + place, "to_layer": first_layer + place + 1, "share": share} for place, share in enumerate(shares)
    ]
    top = [{"experts": [1, 0], "count": 70, "share": 0.7, "chance": 0.025}]
    layers = list(range(first_layer, first_layer + len(shares) + 1))
    return {"layers": layers, "distinct": 3, "tokens": 100, "top": top, "transitions": transitions}


def test_flows_lie_in_their_boxes_in_the_order_of_the_experts():
    """Boxes begin at 0 and 0.5, then at 0 and 0.9. From 0 to 1 leaves under the 0.1 from 0 to 0, and comes first to 1."""
    flows = flows_between(np.array([[0.1, 0.2], [0.7, 0.0]]), np.array([0.0, 0.5]), np.array([0.0, 0.9]))
    assert [(flow.source, flow.target) for flow in flows] == [(0, 0), (0, 1), (1, 0)]
    assert [flow.share for flow in flows] == [0.1, 0.2, 0.7]
    assert [flow.source_top for flow in flows] == pytest.approx([0.0, 0.1, 0.5])
    assert [flow.target_top for flow in flows] == pytest.approx([0.0, 0.9, 0.1])


def test_boxes_are_as_high_as_what_leaves_or_comes():
    heights = column_heights([np.array([[0.5, 0.1], [0.4, 0.0]]), np.array([[0.8, 0.0, 0.0], [0.0, 0.1, 0.1]])])
    assert [height_E.tolist() for height_E in heights] == [
        pytest.approx([0.6, 0.4]),
        pytest.approx([0.9, 0.2]),
        pytest.approx([0.8, 0.1, 0.1]),
    ]


def test_drawn_boxes_and_flows_have_the_heights_of_the_shares():
    axes = drawn(draw_paths, report_content() | {"paths": paths_of([[0.1, 0.2], [0.7, 0.0]])}).axes[0]
    assert [box.get_height() for box in axes.patches] == pytest.approx([0.3, 0.7, 0.8, 0.2])
    ribbons = axes.collections[0].get_paths()
    # A ribbon begins at its upper left corner and ends at the lower left one, before it closes.
    assert [path.vertices[7][1] - path.vertices[0][1] for path in ribbons] == pytest.approx([0.1, 0.2, 0.7])
    assert [text.get_text() for text in axes.texts] == ["0", "1", "0", "1"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1"]


def test_the_most_travelled_paths_are_named():
    figure = drawn(draw_paths, report_content() | {"paths": paths_of([[0.1, 0.2], [0.7, 0.0]])})
    assert "most travelled: 1 → 0 (70 %, chance 2.5 %)" in small_print(figure)
    assert "left out" not in small_print(figure)


def test_next_to_no_chance_is_told_in_short():
    paths = paths_of([[0.1, 0.2], [0.7, 0.0]])
    paths["top"][0]["chance"] = 1e-20
    assert "(70 %, chance < 0.001 %)" in small_print(drawn(draw_paths, report_content() | {"paths": paths}))


def test_thin_flows_are_left_out_and_their_share_is_said():
    """16 x 16 flows: 150 of 0.4 % each are drawn, 100 of 0.4 % and 6 of nothing are not: 40 % left out."""
    shares = np.full(256, 0.004)
    shares[:6] = 0.0
    figure = drawn(draw_paths, report_content() | {"paths": paths_of(shares.reshape(16, 16).tolist())})
    assert len(figure.axes[0].collections[0].get_paths()) == MOST_FLOWS == 150
    assert "left out: 40 % of what flows" in small_print(figure)


def test_of_many_layers_the_first_eight_are_drawn():
    figure = drawn(draw_paths, report_content() | {"paths": paths_of(*[[[1.0]]] * 11, first_layer=3)})
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == [str(layer) for layer in range(3, 11)]
    assert "drawn: the first 8 of 12 layers that route" in small_print(figure)


def test_experts_that_nothing_goes_to_have_no_number():
    axes = drawn(draw_paths, report_content() | {"paths": paths_of([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]])}).axes[0]
    assert [text.get_text() for text in axes.texts] == ["0", "0", "1"]
    assert flows_between(np.zeros((2, 2)), np.zeros(2), np.zeros(2)) == []
