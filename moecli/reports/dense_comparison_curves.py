"""The learning curves of a comparison: validation loss over tokens, training FLOPs, or seconds.

Knows the curves of a comparison. Must not compute anything that they don't hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from moecli.reports.dense_comparison import (
    amount,
    arm_styles,
    draw_key,
    final,
    key_height,
    near_arms,
    outside_remarks,
    short_names,
    small_print,
)
from moecli.reports.lines import MOST_MARKED_POINTS
from moecli.reports.picture import Content, Layout, new_sheet, say_missing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OVER = {"tokens": "tokens trained on", "flops": "training FLOPs", "seconds": "seconds of training, on this machine"}
# The first values of a training would press everything else flat: the axis is chosen by what comes after this part of the steps.
FIRST_PART = 0.2
# Of the range of values, left empty below and above.
PADDING = 0.04
# Between the marks of arms that lie outside, and from the edge, as a part of the picture's height or width.
MARK_STEP, MARK_EDGE = 0.05, 0.01
# Bands of more arms would cover each other.
MOST_BANDS = 6


def draw_curves(content: Content, over: str) -> Figure:
    """A line for each arm, the mean over seeds, in a band from the smallest to the largest seed.

    Args:
        content: a comparison.
        over: a key of OVER, the x axis.
    """
    arms, names = content["arms"], short_names(content)
    limits = value_range(content)
    styles, has_bands = arm_styles(len(arms)), len(arms) <= MOST_BANDS and len(content["seeds"]) > 1
    layout = Layout(panels=1, columns=1, panel_height=3.2, band=key_height(names))
    sheet = new_sheet(small_print(content, *_remarks(content, limits, has_bands)), f"Validation loss over {OVER[over]}", layout)
    axes = sheet.axes[0]
    for arm, style in zip(arms, styles, strict=True):
        x = np.array(arm["curve"][over], dtype=float)
        marker = "" if len(x) > MOST_MARKED_POINTS else style["marker"]
        axes.plot(x, np.array(arm["curve"]["value"], dtype=float), markersize=2.5, **(style | {"marker": marker}))
        if has_bands:
            _draw_band(axes, x, arm["curve"]["per_seed"], style["color"])
    if not np.isfinite(_values(arms)).any():
        say_missing(axes)
    _mark_outside(axes, content, limits)
    axes.set_ylim(*limits)
    axes.set_xlim(0.0, 1.02 * axes.dataLim.x1 if np.isfinite(axes.dataLim.x1) else 1.0)
    axes.grid(True)
    number_amounts(axes)
    sheet.label_outside(OVER[over], f"{content['unit']} (lower is better)")
    draw_key(sheet.figure, names, styles)
    return sheet.figure


def value_range(content: Content) -> tuple[float, float]:
    """Of the y axis: from the smallest value to the largest that comes after FIRST_PART of the steps, over the near arms and all seeds."""
    near = near_arms(content)
    arms = [arm for arm in content["arms"] if arm["name"] in near]
    later, everything = np.concatenate([_later(arm["curve"]) for arm in arms]), _values(arms)
    if not np.isfinite(everything).any():
        return 0.0, 1.0
    low = float(np.nanmin(everything))
    high = float(np.nanmax(later if np.isfinite(later).any() else everything))
    padding = PADDING * (high - low) or 0.05
    return low - padding, high + padding


def number_amounts(axes: Axes) -> None:
    """The x axis in thousands, millions and so on, the y axis in plain numbers."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, ScalarFormatter

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "0" if value == 0 else amount(value)))
    axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))


def _later(curve: Content) -> np.ndarray:
    steps = np.array(curve["steps"], dtype=float)
    is_later = steps >= FIRST_PART * steps.max(initial=0.0)
    return np.concatenate([np.array(values, dtype=float)[is_later] for values in (curve["value"], *curve["per_seed"])])


def _values(arms: list[Content]) -> np.ndarray:
    curves = [arm["curve"] for arm in arms]
    return np.concatenate([np.array(values, dtype=float) for curve in curves for values in (curve["value"], *curve["per_seed"])])


def _mark_outside(axes: Axes, content: Content, limits: tuple[float, float]) -> None:
    """Arms that end outside the limits: an arrow with name and value, where curves leave room: above at the right, below at the left."""
    ends = [final(content, arm)["mean"] for arm in content["arms"]]
    arms = [arm for arm in zip(ends, short_names(content), arm_styles(len(ends)), strict=True) if arm[0] is not None]
    look: dict[str, Any] = {"transform": axes.transAxes, "fontsize": 7, "zorder": 5}
    look |= {"bbox": {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8}}
    above, below = ([arm for arm in arms if arm[0] > limits[1]], [arm for arm in arms if arm[0] < limits[0]])
    for place, (end, name, style) in enumerate(above):
        y = 1 - MARK_EDGE - MARK_STEP * place
        axes.text(1 - MARK_EDGE, y, f"▲ {name} {end:.4f}", ha="right", va="top", color=style["color"], **look)
    for place, (end, name, style) in enumerate(below):
        axes.text(MARK_EDGE, MARK_EDGE + MARK_STEP * place, f"▼ {name} {end:.4f}", ha="left", va="bottom", color=style["color"], **look)


def _draw_band(axes: Axes, x: np.ndarray, per_seed: list[list[float | None]], colour: str) -> None:
    values_SN = np.array(per_seed, dtype=float)
    known = np.isfinite(values_SN).all(axis=0)
    axes.fill_between(x[known], values_SN[:, known].min(axis=0), values_SN[:, known].max(axis=0), color=colour, alpha=0.18, linewidth=0)


def _remarks(content: Content, limits: tuple[float, float], has_bands: bool) -> list[str]:
    remarks = []
    if len(content["seeds"]) > 1:
        remarks.append(f"lines: means over seeds{'; bands: from the smallest to the largest seed' if has_bands else ''}")
    near = near_arms(content)
    values = [value for arm in content["arms"] if arm["name"] in near for value in arm["curve"]["value"]]
    above = sum(value is not None and value > limits[1] for value in values)
    if above:
        lie = "value lies" if above == 1 else "values lie"
        remarks.append(f"{above} early {lie} above the picture, whose axis is chosen by what comes after the first fifth")
    return remarks + outside_remarks(content, limits)
