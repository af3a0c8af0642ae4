"""How the load changed while the model was trained, as the training itself wrote it down.

Knows `training` of a report. Must not compute anything that it doesn't hold.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from moecli.reports.lines import draw_record, number_percents, number_steps
from moecli.reports.picture import Content, Layout, new_sheet, of_the_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Key, name, and how far the axis reaches at the least, so that noise around nothing looks like nothing.
CURVES = (
    ("load_cv", "load CV", 0.1),
    ("max_violation", "MaxVio", 0.1),
    ("dropped_fraction", "dropped assignments", 0.01),
    ("dead_experts", "dead experts", 1.0),
)


def draw_training(report: Content) -> Figure:
    """Four curves over the steps."""
    part = report["training"]
    layout = Layout(panels=len(CURVES), columns=2, panel_height=1.7, gap=0.65, below=0.45)
    remarks = [
        "of the batches that were trained on; dead experts are counted over all layers, the rest are means over layers",
        "CV: standard deviation over mean; MaxVio: (largest - mean) over mean",
    ]
    sheet = new_sheet(of_the_model(report), "Load while training", layout, remarks)
    draw_record(sheet, part, CURVES, {"dropped_fraction": number_percents, "dead_experts": partial(number_steps, axis="y")})
    return sheet.figure
