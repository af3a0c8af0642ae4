"""The load over training: the same text through the checkpoints of a run.

Knows `checkpoints` of a report. Must not compute anything that it doesn't hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moecli.reports.cells import colour_bar, draw_cells, even_share_scale, missing
from moecli.reports.heatmap import multiples, small_maps
from moecli.reports.picture import Content, figure_text, new_sheet, of_the_model, shown_of, spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_checkpoints(report: Content) -> Figure:
    """A small load heatmap for each of up to six checkpoints, all on one scale."""
    part = report["checkpoints"]
    shown = spread(part)
    maps = [multiples(checkpoint["layers"]) for checkpoint in shown]
    layout = small_maps(maps, above=0.25)
    remarks = [*shown_of(len(shown), len(part), "checkpoints"), *missing(*maps)]
    sheet = new_sheet(of_the_model(report), "Load per expert over training", layout, remarks)
    scale = even_share_scale()
    for axes, checkpoint, values_LE in zip(sheet.axes, shown, maps, strict=True):
        image = draw_cells(axes, values_LE, scale, layout, [str(layer["layer"]) for layer in checkpoint["layers"]])
        axes.set_title(f"step {checkpoint['step']:,}, mean CV {figure_text(checkpoint['mean'].get('cv_load'), 2)}")
    sheet.label_outside("expert", "layer")
    colour_bar(sheet, image, scale)
    return sheet.figure
