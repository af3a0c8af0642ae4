"""Pictures of ablation: the increases as the report has them, on a scale that one large one does not spoil."""

from __future__ import annotations

import numpy as np
import pytest

from moecli.reports.ablation import draw_ablation, draw_ablation_by_load
from tests.reports.figures import cells, collisions, drawn, small_print
from tests.reports.report_content import report_content


def report_of(increases: list[list[float | None]], error: float | None = 0.002) -> dict:
    layers = [
        {
            "layer": number, "load": [1 / len(increase)] * len(increase), "loss_increase": increase,
            "standard_error": [error] * len(increase),
        }
        for number, increase in enumerate(increases)
    ]  # fmt: skip
    return report_content() | {"ablation": {"tokens": 4096, "loss": 3.25, "layers": layers}}


def test_cells_are_the_increases():
    figure = drawn(draw_ablation, report_of([[0.5, -0.01, None], [0.0, 0.02, 0.001], [-0.0001, None, None]]))
    assert cells(figure.axes[0]) == [[0.5, -0.01, None], [0.0, 0.02, 0.001], [-0.0001, None, None]]
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.500", "-0.010", "0.000", "0.020", "0.001", "0.000"]
    assert "on 4,096 tokens; loss with all experts 3.2500 nats/token" in small_print(figure)


def test_white_is_no_increase_and_the_scale_is_the_same_both_ways():
    """Even up to the standard error, 0.002: asinh(1) / asinh(0.5 / 0.002) of the way to the darkest."""
    norm = drawn(draw_ablation, report_of([[0.5, -0.01]])).axes[0].images[0].norm
    assert float(norm(0.0)) == pytest.approx(0.5)
    assert float(norm(0.5)) == pytest.approx(1.0) and float(norm(-0.5)) == pytest.approx(0.0)
    assert float(norm(0.002)) - 0.5 == pytest.approx(0.5 * np.arcsinh(1) / np.arcsinh(250))


@pytest.mark.parametrize("largest", [1e-5, 0.0021, 0.03, 0.1, 0.11, 0.99, 1.0, 12.0])
@pytest.mark.parametrize("error", [0.002, None, 0.0])
def test_ticks_of_any_scale_can_be_read(largest, error):
    report = report_of([[largest, 0.0, -largest / 3]], error)
    for draw in (draw_ablation, draw_ablation_by_load):
        figure = drawn(draw, report)
        assert not collisions(figure)
        bar = figure.axes[-1] if draw is draw_ablation else figure.axes[0].yaxis
        ticks = bar.get_xticks() if draw is draw_ablation else bar.get_ticklocs()
        assert 0.0 in ticks and max(ticks) == pytest.approx(largest)


@pytest.mark.parametrize("increase", [0.0, None])
def test_nothing_to_show_is_no_error(increase):
    for draw in (draw_ablation, draw_ablation_by_load):
        assert not collisions(drawn(draw, report_of([[increase, increase]], None)))


def test_points_are_load_and_increase_with_the_error():
    report = report_of([[0.02, 0.04, 0.06, 0.08]])
    report["ablation"]["layers"][0]["load"] = [0.5, 0.25, 0.125, 0.125]
    axes = drawn(draw_ablation_by_load, report).axes[0]
    assert axes.lines[0].get_xdata().tolist() == [2.0, 1.0, 0.5, 0.5]
    assert axes.lines[0].get_ydata().tolist() == [0.02, 0.04, 0.06, 0.08]
    ends = [segment[:, 1].tolist() for segment in axes.collections[0].get_segments()]
    assert ends == [pytest.approx([increase - 0.002, increase + 0.002]) for increase in (0.02, 0.04, 0.06, 0.08)]
    assert "bars: one standard error" in small_print(axes.figure)
    assert axes.get_ylabel() == "loss increase (nats/token)\nsymmetric-log scale, linear near 0"
    low, high = axes.get_ylim()
    assert low < 0 and high > 0.082


def test_many_experts_get_no_error_bars():
    figure = drawn(draw_ablation_by_load, report_of([[0.01] * 64] * 5))
    assert not figure.axes[0].collections
    assert "over documents: median 0.002 nats/token" in small_print(figure)
    assert "bars" not in small_print(figure)
