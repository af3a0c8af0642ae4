"""Where in the sequence assignments are dropped because an expert was full.

Knows `dropped_by_position` of a report's layers. Must not compute anything that it doesn't hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moecli.reports.cells import BAR_BAND
from moecli.reports.lines import draw_layers, from_zero, layer_key, number_percents, number_steps
from moecli.reports.picture import Content, Layout, new_sheet, of_the_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def anything_dropped(report: Content) -> bool:
    return any(share for layer in report["layers"] for share in layer.get("dropped_by_position") or [])


def draw_dropped(report: Content) -> Figure:
    """A line for each layer over the parts of the sequence."""
    layers = [layer for layer in report["layers"] if layer["dropped_by_position"]]
    numbers = [layer["layer"] for layer in layers]
    sheet = new_sheet(of_the_model(report), "Dropped assignments by position", Layout(panels=1, columns=1, panel_height=2.6, band=BAR_BAND))
    axes = sheet.axes[0]
    draw_layers(axes, numbers, [report["position_starts"]] * len(layers), [layer["dropped_by_position"] for layer in layers])
    from_zero(axes, least=0.001)
    number_percents(axes)
    number_steps(axes)
    sheet.label_outside("position in the sequence (first token of each part)", "dropped share of the chosen assignments")
    layer_key(sheet, numbers)
    return sheet.figure
