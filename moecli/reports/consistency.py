"""How often consecutive tokens go to the same expert, against chance.

Knows `consistency` of a report. Must not compute anything that it doesn't hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from moecli.reports.cells import BAR_BAND, TICK_WIDTH, number_each
from moecli.reports.lines import CHANCE, MEASURED, from_zero, legend_below, number_percents
from moecli.reports.picture import Content, Layout, new_sheet, say_missing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = (("first", "same first choice"), ("first_or_second", "first or second choice in common"))


def draw_consistency(report: Content) -> Figure:
    """A point for each layer, with the interval that chance gives behind it."""
    part = report["consistency"]
    fewest, most = (choose(layer["pairs"] for layer in part) for choose in (min, max))
    pairs = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
    layout = Layout(panels=len(PANELS), columns=2, panel_height=2.4, gap=0.5, above=0.25, band=BAR_BAND)
    sheet = new_sheet(report, "Consistency: consecutive tokens with the same expert", layout, [f"pairs of tokens in each layer: {pairs}"])
    for axes, (key, name) in zip(sheet.axes, PANELS, strict=True):
        handles = _draw_points(axes, part, key, layout.panel_width)
        axes.set_title(name)
    sheet.label_outside("layer", "share of the pairs of tokens")
    legend_below(sheet, handles)
    return sheet.figure


def _draw_points(axes: Axes, part: list[Content], key: str, width: float) -> list[Any]:
    """Gives the handles of a legend. `width`: of the panel, in inches."""
    places = range(len(part))
    measured = np.array([layer[key] for layer in part], dtype=float)
    chance = {end: np.array([(layer[f"{key}_chance"] or {}).get(end) for layer in part], dtype=float) for end in ("mean", "low", "high")}
    interval = axes.vlines(places, chance["low"], chance["high"], color=CHANCE, linewidth=5, label="chance: 95 % interval")
    (mean,) = axes.plot(places, chance["mean"], marker="_", linestyle="", color="black", markersize=6, label="chance: mean")
    (points,) = axes.plot(places, measured, marker="o", linestyle="", color=MEASURED, label="measured")
    if np.isnan(measured).all():
        say_missing(axes)
    from_zero(axes, least=0.05)
    number_percents(axes)
    number_each(axes.xaxis, [str(layer["layer"]) for layer in part], width / len(part), TICK_WIDTH)
    axes.set_xlim(-0.5, len(part) - 0.5)
    return [points, mean, interval]
