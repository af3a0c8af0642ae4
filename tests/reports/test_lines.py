"""Layers can be told apart without colours while they are few, and axes say what they count."""

from __future__ import annotations

import pytest

from moecli.reports.lines import draw_layers, from_zero, layer_key, layer_styles, number_percents, number_steps
from moecli.reports.picture import Layout, new_sheet
from tests.reports.figures import collisions, drawn

LAYOUT = Layout(panels=1, columns=1, panel_height=2.0, band=0.52)


def test_few_layers_differ_in_colour_marker_and_dashes():
    styles = layer_styles([0, 2, 5, 7, 8, 9])
    for key in ("color", "marker", "linestyle"):
        assert len({str(style[key]) for style in styles}) == 6


def test_many_layers_go_from_dark_to_light():
    lightness = [sum(style["color"][:3]) for style in layer_styles(list(range(32)))]
    assert lightness == sorted(lightness) and lightness[-1] > 1.5 * lightness[0]


def test_what_is_not_known_is_a_gap():
    axes = new_sheet({}, "lines", LAYOUT).axes[0]
    draw_layers(axes, [4], [[1, 2, 3]], [[0.5, None, 0.25]])
    x, y = axes.lines[0].get_data()
    assert x.tolist() == [1, 2, 3] and y[[0, 2]].tolist() == [0.5, 0.25] and y[1] != y[1]


@pytest.mark.parametrize("layers", [[5], [0, 1, 2, 3, 4, 126], list(range(7)), list(range(3, 97))])
def test_the_key_names_the_layers_and_fits(layers):
    def draw(report):
        sheet = new_sheet(report, "lines", LAYOUT)
        layer_key(sheet, layers)
        return sheet.figure

    figure = drawn(draw, {})
    if len(layers) <= 6:
        assert [text.get_text() for text in figure.legends[0].get_texts()] == [f"layer {layer}" for layer in layers]
    else:
        ticks = [label.get_text() for label in figure.axes[1].get_xticklabels()]
        assert ticks[0] == str(layers[0]) and len(ticks) <= 9
    assert not collisions(figure)


def test_one_logged_step_has_one_tick():
    def draw(report):
        sheet = new_sheet(report, "lines", LAYOUT)
        draw_layers(sheet.axes[0], [0], [[1000]], [[0.015]])
        from_zero(sheet.axes[0], least=0.01)
        number_steps(sheet.axes[0])
        number_percents(sheet.axes[0])
        return sheet.figure

    axes = drawn(draw, {}).axes[0]
    low, high = axes.get_xlim()
    shown = [tick.label1.get_text() for tick in axes.xaxis.get_major_ticks() if low <= tick.get_loc() <= high]
    assert len(shown) == len(set(shown)) and "1,000" in shown
    assert "1 %" in [label.get_text() for label in axes.get_yticklabels()]
    assert axes.get_ylim() == (0.0, pytest.approx(0.015 * 1.05))
