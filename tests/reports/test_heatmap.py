"""The heatmap's picture holds the report's numbers: cells are read back from the image that matplotlib drew."""

from __future__ import annotations

import pytest

from moecli.reports.heatmap import draw_heatmap
from tests.reports.figures import cells, drawn, small_print


def report_of(loads: list[list[float]]) -> dict:
    layers = [{"layer": number, "num_experts": len(load), "load": load} for number, load in enumerate(loads)]
    return {"tokens": 1000, "layers": layers}


def test_cells_are_multiples_of_the_even_share():
    figure = drawn(draw_heatmap, report_of([[0.5, 0.25, 0.25, 0.0], [0.25] * 4]))
    axes = figure.axes[0]
    assert cells(axes) == [[2.0, 1.0, 1.0, 0.0], [1.0] * 4]
    assert [text.get_text() for text in axes.texts] == ["2.00", "1.00", "1.00", "0.00", *["1.00"] * 4]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("expert", "layer")
    assert "grey" not in small_print(figure)


def test_the_even_share_is_white_and_its_neighbours_are_equally_far():
    """0 and 2 times the even share are the ends of the scale; what is more looks like 2."""
    image = drawn(draw_heatmap, report_of([[0.5, 0.25, 0.25, 0.0]])).axes[0].images[0]
    assert (image.norm.vmin, image.norm.vmax) == (0.0, 2.0)
    assert min(image.cmap(image.norm(1.0))[:3]) > 0.95
    assert image.cmap(image.norm(5.0)) == image.cmap(image.norm(2.0))


def test_the_tokens_are_told_once():
    assert small_print(drawn(draw_heatmap, report_of([[0.5, 0.5]]))) == "Load per expert 1,000 tokens"


@pytest.mark.parametrize(
    ("num_experts", "has_numbers", "labelled"), [(16, True, 1), (24, False, 1), (32, False, 2), (64, False, 4), (128, False, 8)]
)
def test_many_experts_get_no_numbers_and_fewer_ticks(num_experts, has_numbers, labelled):
    axes = drawn(draw_heatmap, report_of([[1 / num_experts] * num_experts])).axes[0]
    assert bool(axes.texts) == has_numbers
    assert [label.get_text() for label in axes.get_xticklabels()] == [str(expert) for expert in range(0, num_experts, labelled)]


def test_layers_keep_their_numbers_and_may_have_fewer_experts():
    report = report_of([[0.5, 0.5], [0.5, 0.25, 0.25]])
    report["layers"][0]["layer"], report["layers"][1]["layer"] = 3, 7
    figure = drawn(draw_heatmap, report)
    assert cells(figure.axes[0]) == [[1.0, 1.0, None], [1.5, 0.75, 0.75]]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["3", "7"]
    assert figure.axes[0].patch.get_hatch() and "grey: no such expert" in small_print(figure)
