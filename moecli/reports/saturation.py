"""How early in training the router chose as it does at the end.

Knows `saturation` of a report. Must not compute anything that it doesn't hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moecli.reports.cells import BAR_BAND
from moecli.reports.lines import CHANCE_LINE, draw_layers, from_zero, layer_key, number_percents, number_steps
from moecli.reports.picture import Content, Layout, new_sheet, of_the_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_saturation(report: Content) -> Figure:
    """Per layer the share of each checkpoint's choices that are those of the last one, with what chance gives as thin dots."""
    part = report["saturation"]
    layers = [layer["layer"] for layer in part]
    steps = [layer["steps"] for layer in part]
    remarks = ["thin dotted lines: chance, from the loads of both checkpoints"]
    layout = Layout(panels=2, columns=2, panel_height=2.4, gap=0.5, above=0.25, band=BAR_BAND)
    sheet = new_sheet(of_the_model(report), "Router saturation: choices as at the last checkpoint", layout, remarks)
    for axes, key, title in zip(sheet.axes, ("top_k", "first"), ("all choices of a token", "first choice"), strict=True):
        draw_layers(axes, layers, steps, [layer[key] for layer in part])
        draw_layers(axes, layers, steps, [layer[f"{key}_chance"] for layer in part], **CHANCE_LINE)
        axes.set_title(title)
        from_zero(axes, least=1.05)
        number_percents(axes)
        number_steps(axes)
    sheet.label_outside("training step", "share of the choices")
    layer_key(sheet, layers)
    return sheet.figure
