"""Where the arms of a comparison end: each seed, mean and interval, and how far the base lies from each of the others.

Knows final values and differences of a comparison. Must not compute anything that it doesn't hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moecli.reports.cells import LETTER_WIDTH
from moecli.reports.dense_comparison import COLOURS, final, interval_remark, short_names, small_print
from moecli.reports.picture import Content, Layout, new_sheet, plain, say_missing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Letters of a name beside a row; inches of a row.
MOST_LETTERS, ROW_HEIGHT = 26, 0.3
# Seeds lie this part of a row below their mean.
SEEDS_BELOW = 0.27


def draw_final(content: Content) -> Figure:
    """A row for each arm: at the left its final value, at the right the difference base - arm with a line at zero."""
    names = short_names(content, MOST_LETTERS)
    differences = {comparison["arm"]: comparison["difference"] for comparison in content["comparisons"]}
    left = 0.25 + LETTER_WIDTH * max(len(name) for name in names)
    layout = Layout(2, 2, ROW_HEIGHT * len(names) + 0.15, left=left, gap=0.3, above=0.4, below=0.45)
    remark = f"right: differences between runs of the same seed; left of 0 {content['base']} is better"
    sheet = new_sheet(small_print(content, interval_remark(content), remark), "Final validation loss", layout)
    finals, apart = sheet.axes
    for row, arm in enumerate(content["arms"]):
        _draw_row(finals, row, final(content, arm))
        if arm["name"] in differences:
            _draw_row(apart, row, differences[arm["name"]])
    apart.axvline(0.0, color="black", linewidth=0.8)
    _label(finals, names, "final value\n(lower is better)", content["unit"])
    _label(apart, [""] * len(names), f"{plain(content['base'], MOST_LETTERS)} less the arm", f"difference, {content['unit']}")
    return sheet.figure


def _draw_row(axes: Axes, row: int, figure: Content) -> None:
    colour = COLOURS[0] if row == 0 else COLOURS[1]
    seeds = np.array(figure["per_seed"], dtype=float)
    axes.plot(seeds, np.full(len(seeds), row + SEEDS_BELOW), "o", markersize=3, markerfacecolor="none", color="0.35", markeredgewidth=0.7)
    if figure["ci95"]:
        axes.plot(figure["ci95"], [row, row], "-", color=colour, linewidth=2.2, solid_capstyle="butt")
    if figure["mean"] is not None:
        axes.plot([figure["mean"]], [row], "o" if row == 0 else "D", color=colour, markersize=5)


def _label(axes: Axes, names: list[str], title: str, x: str) -> None:
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.xaxis.set_major_formatter(ScalarFormatter(useOffset=False))
    axes.margins(x=0.08)
    axes.grid(True, axis="x")
    axes.set_title(title)
    axes.set_xlabel(x)
    if not np.isfinite(axes.dataLim.x1):
        axes.set_xlim(-1.0, 1.0)
        say_missing(axes)
