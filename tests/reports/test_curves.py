"""Pictures of lines and points: training, saturation, drops, consistency. What is drawn is what the report holds."""

from __future__ import annotations

import numpy as np
import pytest

from moecli.reports.communication import draw_communication
from moecli.reports.consistency import draw_consistency
from moecli.reports.dropped import anything_dropped, draw_dropped
from moecli.reports.saturation import draw_saturation
from moecli.reports.training import draw_training
from tests.reports.figures import drawn, panels, small_print
from tests.reports.report_content import report_content


def lines(axes) -> list[tuple[list[float], list[float]]]:
    return [(line.get_xdata().tolist(), line.get_ydata().tolist()) for line in axes.lines]


def test_training_has_a_curve_for_each_figure():
    axes = panels(drawn(draw_training, report_content()))
    steps = [10, 20, 30]
    assert [lines(panel) for panel in axes] == [
        [(steps, [0.9, 0.5, 0.3])], [(steps, [2.0, 1.0, 0.6])], [(steps, [0.0, 0.0, 0.0])], [(steps, [3, 1, 0])],
    ]  # fmt: skip
    assert [panel.get_ylabel() for panel in axes] == ["load CV", "MaxVio", "dropped assignments", "dead experts"]
    assert all(panel.get_ylim()[0] == 0 for panel in axes)


def test_a_curve_that_was_not_logged_says_so():
    report = report_content()
    report["training"]["dropped_fraction"] = [None, None, None]
    axes = panels(drawn(draw_training, report))
    assert [[text.get_text() for text in panel.texts] for panel in axes] == [[], [], ["not known"], []]


def test_communication_has_a_curve_for_each_figure_and_says_how_many_processes():
    sheet = drawn(draw_communication, report_content())
    axes = panels(sheet)
    steps = [10, 20, 30]
    assert [lines(panel) for panel in axes] == [[(steps, [6.2e6, 6.1e6, 4.0e6])], [(steps, [0.21, 0.2, 0.35])], [(steps, [0.4, 0.1, 0.3])]]
    assert "2, then 4 processes" in small_print(sheet)
    sheet.canvas.draw()
    assert [axes[0].yaxis.get_major_formatter()(value) for value in (0, 6.2e6)] == ["0 B", "6.2 MB"]


def test_communication_on_an_accelerator_has_no_share():
    report = report_content()
    report["communication"]["communication_share"] = [None, None, None]
    axes = panels(drawn(draw_communication, report))
    assert [[text.get_text() for text in panel.texts] for panel in axes] == [[], ["not known"], []]


def test_saturation_has_two_lines_for_each_layer():
    report = report_content(num_layers=2)
    report["saturation"][1] |= {"top_k": [0.4, 1.0], "first_chance": [0.2, 0.3]}
    all_choices, first = panels(drawn(draw_saturation, report))
    steps = [300, 600]
    assert lines(all_choices) == [(steps, [0.7, 1.0]), (steps, [0.4, 1.0]), (steps, [0.25, 0.25]), (steps, [0.25, 0.25])]
    assert lines(first) == [(steps, [0.6, 1.0]), (steps, [0.6, 1.0]), (steps, [0.13, 0.13]), (steps, [0.2, 0.3])]
    assert [line.get_linestyle() for line in all_choices.lines[2:]] == [":", ":"]
    assert all_choices.lines[0].get_color() == all_choices.lines[2].get_color()


def test_drops_by_position_are_a_line_for_each_layer():
    report = report_content(num_layers=2)
    report["layers"][1]["dropped_by_position"] = [0.1, 0.2, 0.3, 0.4]
    axes = drawn(draw_dropped, report).axes[0]
    starts = [0, 32, 64, 96]
    assert lines(axes) == [(starts, [0.0, 0.01, 0.02, 0.05]), (starts, [0.1, 0.2, 0.3, 0.4])]
    assert axes.get_ylim() == (0.0, pytest.approx(0.42))


def test_drops_are_drawn_if_there_are_any():
    report = report_content(num_layers=2)
    assert anything_dropped(report)
    report["layers"][0]["dropped_by_position"] = [0.0, 0.0, 0.0, 0.0]
    report["layers"][1]["dropped_by_position"] = [None, 0.0, None, 0.0]
    assert not anything_dropped(report)


def test_consistency_is_a_point_for_each_layer_before_its_chance():
    report = report_content(num_layers=2)
    report["consistency"][1] |= {"first": 0.5, "first_or_second": None, "first_or_second_chance": None, "pairs": 80_000}
    figure = drawn(draw_consistency, report)
    first, either = panels(figure)
    assert lines(first) == [([0, 1], [0.13, 0.13]), ([0, 1], [0.27, 0.5])]
    assert [segment.tolist() for segment in first.collections[0].get_segments()] == [[[x, 0.128], [x, 0.133]] for x in (0, 1)]
    assert np.array_equal(either.lines[1].get_ydata(), [0.6, np.nan], equal_nan=True)
    assert [label.get_text() for label in first.get_xticklabels()] == ["1", "2"]
    assert "pairs of tokens in each layer: 75,000 to 80,000" in figure.texts[1].get_text()


def test_one_choice_per_token_has_no_second_choice():
    report = report_content(num_layers=2)
    for layer in report["consistency"]:
        layer |= {"first_or_second": None, "first_or_second_chance": None}
    first, either = panels(drawn(draw_consistency, report))
    assert [text.get_text() for text in (*first.texts, *either.texts)] == ["not known"]
