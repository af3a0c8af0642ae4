"""Where the arms of a comparison end: each seed, mean and interval, and how far the base lies from each of the others.

Knows final values and differences of a comparison. Must not compute anything that it doesn't hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from moecli.reports.cells import LETTER_WIDTH
from moecli.reports.dense_comparison import COLOURS, UNKNOWN, final, interval_remark, near_arms, outside_remarks, short_names, small_print
from moecli.reports.picture import Content, Layout, new_sheet, plain, say_missing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Letters of a name beside a row; inches of a row.
MOST_LETTERS, ROW_HEIGHT = 26, 0.3
# Of the range of values, left empty at both sides.
PADDING = 0.08
# Seeds lie this part of a row below their mean.
SEEDS_BELOW = 0.27


def draw_final(content: Content) -> Figure:
    """A row for each arm: at the left its final value, at the right the difference base - arm with a line at zero."""
    names = short_names(content, MOST_LETTERS)
    differences = {comparison["arm"]: comparison["difference"] for comparison in content["comparisons"]}
    left = 0.25 + LETTER_WIDTH * max(len(name) for name in names)
    layout = Layout(2, 2, ROW_HEIGHT * len(names) + 0.15, left=left, gap=0.3, above=0.4, below=0.45)
    remark = f"right: differences between runs of the same seed; left of 0 {content['base']} is better"
    arms, near = content["arms"], near_arms(content)
    is_near = [arm["name"] in near for arm in arms]
    ends, distances = [final(content, arm) for arm in arms], [differences.get(arm["name"], UNKNOWN) for arm in arms]
    limits = _limits(ends, is_near)
    remarks = [interval_remark(content), remark, *(outside_remarks(content, limits) if limits else [])]
    sheet = new_sheet(small_print(content, *remarks), "Final validation loss", layout)
    finals, apart = sheet.axes
    _draw_rows(finals, ends, limits, "")
    _draw_rows(apart, distances, _limits(distances, is_near, (0.0,)), "+")
    apart.axvline(0.0, color="black", linewidth=0.8)
    _label(finals, names, "final value\n(lower is better)", content["unit"])
    _label(apart, [""] * len(names), f"{plain(content['base'], MOST_LETTERS)} − the arm", f"difference, {content['unit']}")
    return sheet.figure


def _limits(figures: list[Content], is_near: list[bool], also: tuple[float, ...] = ()) -> tuple[float, float] | None:
    """Of an axis that fits the figures that are near, and `also` these values; None where no value is known."""
    near = [figure for figure, is_one in zip(figures, is_near, strict=True) if is_one]
    values = [value for figure in near for value in (figure["mean"], *(figure["ci95"] or ()), *figure["per_seed"]) if value is not None]
    if not values:
        return None
    low, high = min([*values, *also]), max([*values, *also])
    padding = PADDING * (high - low) or 0.01 * abs(high) or 0.05
    return low - padding, high + padding


def _draw_rows(axes: Axes, figures: list[Content], limits: tuple[float, float] | None, sign: str) -> None:
    """A mean outside the limits is an arrow at the edge, with its value."""
    if limits is None:
        say_missing(axes)
        return
    axes.set_xlim(*limits)
    look: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 7}
    for row, figure in enumerate(figures):
        if figure["per_seed"]:
            _draw_row(axes, row, figure)
        value = "" if figure["mean"] is None else f"{figure['mean']:{sign}.4f}".replace("-", "−")
        if figure["mean"] is not None and figure["mean"] > limits[1]:
            axes.text(0.98, row, f"{value} ▶", ha="right", **look)
        elif figure["mean"] is not None and figure["mean"] < limits[0]:
            axes.text(0.02, row, f"◀ {value}", ha="left", **look)


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
    axes.grid(True, axis="x")
    axes.set_title(title)
    axes.set_xlabel(x)
