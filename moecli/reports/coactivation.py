"""Which experts run for the same tokens, against what chance would give.

Knows `coactivation` of a report. Must not compute anything that it doesn't hold.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from moecli.reports.cells import BAR_BAND, chance_scale, colour_bar, draw_cells, mark_cells, over_chance
from moecli.reports.heatmap import LEAST_WIDTH
from moecli.reports.picture import MOST_PANELS, PAGE_INCHES, Content, Layout, new_sheet, shown_of, spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# With more experts the panels have to be larger, so there are fewer.
MOST_EXPERTS_IN_A_SMALL_PANEL, MOST_LARGE_PANELS = 32, 4
MOST_PANEL_HEIGHT = 3.1


def draw_coactivation(report: Content) -> Figure:
    """Experts x experts: share of the row's tokens that the column's expert ran for too, over the same by chance; dots as marks."""
    part = report["coactivation"]
    num_experts = max(len(layer["share"]) for layer in part)
    is_large = num_experts > MOST_EXPERTS_IN_A_SMALL_PANEL
    layers = spread(part, MOST_LARGE_PANELS if is_large else MOST_PANELS)
    columns = min(len(layers), 2 if is_large else 3)
    width = LEAST_WIDTH if len(layers) == 1 and not is_large else PAGE_INCHES
    layout = Layout(len(layers), columns, panel_height=MOST_PANEL_HEIGHT, gap=0.35, above=0.25, band=BAR_BAND, width=width)
    layout = replace(layout, panel_height=min(layout.panel_width, MOST_PANEL_HEIGHT))
    remarks = [
        "rows: of the tokens of this expert, the share that the column's expert ran for too",
        "a dot: beyond chance, with 95 % confidence for all pairs of all layers together; grey: an expert with itself, or not known",
        *shown_of(len(layers), len(part), "layers"),
    ]
    sheet = new_sheet(report, "Experts that run for the same tokens", layout, remarks)
    scale = chance_scale()
    for axes, layer in zip(sheet.axes, layers, strict=True):
        share_EE, chance_EE, special_EE = (np.array(layer[key], dtype=float) for key in ("share", "chance", "special"))
        names = [str(expert) for expert in range(len(share_EE))]
        image = draw_cells(axes, over_chance(share_EE, chance_EE), scale, layout, names, None)
        np.fill_diagonal(special_EE, 0)
        mark_cells(axes, image, np.nan_to_num(special_EE), layout)
        axes.set_title(f"layer {layer['layer']} ({layer['tokens']:,} tokens)")
    sheet.label_outside("expert", "of the tokens of expert")
    colour_bar(sheet, image, scale)
    return sheet.figure
