"""The layers x experts heatmap: how much of each layer's load every expert takes.

Knows a load report as plain data. Must not compute anything that the report doesn't hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moecli.reports.cells import BAR_BAND, colour_bar, draw_cells, even_share_scale, map_height, missing, padded
from moecli.reports.picture import PAGE_INCHES, Content, Layout, new_sheet, of_the_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CELL_INCHES, LEAST_WIDTH, MOST_HEIGHT = 0.8, 4.5, 7.5
# Of maps beside each other: experts in a third of the page, and inches.
MOST_EXPERTS_IN_A_THIRD, MOST_SMALL_HEIGHT = 32, 2.7


def draw_heatmap(report: Content) -> Figure:
    """Draws load times number of experts, so that 1 is the even share, on a scale where 1 is white, 0 blue and 2 or more red."""
    layers = report["layers"]
    values_LE = multiples(layers)
    sheet = new_sheet(of_the_model(report), "Load per expert", map_layout(*values_LE.shape), missing(values_LE))
    scale = even_share_scale()
    image = draw_cells(sheet.axes[0], values_LE, scale, sheet.layout, [str(layer["layer"]) for layer in layers])
    sheet.label_outside("expert", "layer")
    colour_bar(sheet, image, scale)
    return sheet.figure


def multiples(layers: list[Content]) -> np.ndarray:
    """[layers, experts]: each expert's load in multiples of the even share."""
    return padded([layer["load"] for layer in layers]) * np.array([[layer["num_experts"]] for layer in layers])


def map_layout(num_rows: int, num_columns: int) -> Layout:
    """One map as wide as its cells need, within the page."""
    width = float(np.clip(1.0 + MOST_CELL_INCHES * num_columns, LEAST_WIDTH, PAGE_INCHES))
    return Layout(panels=1, columns=1, panel_height=map_height(num_rows, MOST_HEIGHT), band=BAR_BAND, width=width)


def small_maps(maps: list[np.ndarray], above: float) -> Layout:
    """Maps side by side, as many in a row as stay readable, all of one size."""
    num_rows, num_columns = (max(values.shape[axis] for values in maps) for axis in (0, 1))
    columns = min(len(maps), 3 if num_columns <= MOST_EXPERTS_IN_A_THIRD else 2)
    height = map_height(num_rows, MOST_SMALL_HEIGHT)
    return Layout(len(maps), columns, height, gap=0.4, above=above, band=BAR_BAND)
