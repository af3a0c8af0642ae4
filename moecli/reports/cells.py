"""Heatmaps: cells with as many ticks, numbers and marks as fit, and the colour scales that all pictures use.

Knows matrices of numbers. Must not know reports.

Shape letters: R rows, C columns of cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from moecli.reports.picture import Layout, Sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.image import AxesImage

# Blue below, white at the middle, red above: both ends are equally dark, and no reader takes one for the other.
DIVERGING = "RdBu_r"
# Of cells without a value: no colour of the scale, and dark enough not to be taken for the white of its middle.
MISSING = "0.72"
# A ratio to chance beyond this has the darkest colour.
MOST_TIMES_CHANCE = 4.0
# What a tick label, a line of text and a letter of 7 points need, in inches.
TICK_WIDTH, TICK_HEIGHT, LETTER_WIDTH = 0.26, 0.13, 0.062
# Marks are so many times as wide as the smaller side of a cell, between a least and a largest width in points.
MARK_SIZE, MARK_POINTS = 0.4, (0.8, 3.5)
# Of a band under the panels: colour bar and its texts, in inches.
BAR_BAND, BAR_WIDTH, BAR_HEIGHT = 0.52, 3.5, 0.11


@dataclass(frozen=True, slots=True)
class Scale:
    """What the colours mean."""

    norm: Any
    label: str
    ticks: Sequence[float]
    tick_labels: Sequence[str]
    extend: str
    """The ends beyond which there may be values, as matplotlib has it."""


def even_share_scale() -> Scale:
    """Load in multiples of the even share: 0 is the darkest blue, 1 white, 2 and more the darkest red."""
    from matplotlib.colors import Normalize

    ticks = (0.0, 0.5, 1.0, 1.5, 2.0)
    return Scale(Normalize(0.0, 2.0), "load in multiples of the even share (1 = even)", ticks, [f"{tick:g}" for tick in ticks], "max")


def chance_scale() -> Scale:
    """A share over what chance gives: equal steps for equal factors, so that half is as blue as double is red."""
    from matplotlib.colors import LogNorm

    ticks = (1 / MOST_TIMES_CHANCE, 0.5, 1.0, 2.0, MOST_TIMES_CHANCE)
    norm = LogNorm(ticks[0], ticks[-1], clip=True)
    return Scale(norm, "share of tokens over chance (1 = chance)", ticks, ["1/4", "1/2", "1", "2", "4"], "both")


def draw_cells(
    axes: Axes, values_RC: np.ndarray, scale: Scale, layout: Layout, row_labels: Sequence[str], digits: int | None = 2
) -> AxesImage:
    """Colours the cells, numbers the experts below and names the rows beside. A cell without a value (NaN) is grey.

    Args:
        values_RC: may hold NaN.
        digits: after the point, of the values in the cells, which are written where they fit; None: nowhere.
    """
    if np.isnan(values_RC).any():
        axes.patch.set(facecolor=MISSING, hatch="//////", edgecolor="0.5", linewidth=0.0)
    image = axes.imshow(values_RC, cmap=DIVERGING, norm=scale.norm, aspect="auto", interpolation="none")
    num_rows, num_columns = values_RC.shape
    width, height = layout.panel_width / num_columns, layout.panel_height / num_rows
    number_each(axes.xaxis, [str(column) for column in range(num_columns)], width, TICK_WIDTH)
    number_each(axes.yaxis, row_labels, height, TICK_HEIGHT)
    axes.tick_params(length=2)
    if digits is not None and height >= TICK_HEIGHT:
        _write_numbers(axes, image, values_RC, digits, width)
    return image


def number_each(axis: Axis, labels: Sequence[str], inches: float, needed: float) -> None:
    """Names the places 0, 1, ... of an axis, which are so many inches apart: each, or every 2nd, 4th, ... so that the names don't touch."""
    step = 1
    while step * inches < needed:
        step *= 2
    axis.set_ticks(range(0, len(labels), step), labels[::step])


def mark_cells(axes: Axes, image: AxesImage, marked_RC: np.ndarray, layout: Layout) -> None:
    """A dot in each marked cell, black or white, whichever shows."""
    rows, columns = np.nonzero(marked_RC)
    smaller = min(layout.panel_width / marked_RC.shape[1], layout.panel_height / marked_RC.shape[0])
    points = float(np.clip(72 * smaller * MARK_SIZE, *MARK_POINTS))
    colours = _ink(image)[rows, columns]
    axes.scatter(columns, rows, s=points**2, c=colours, marker="o", linewidths=0)


def colour_bar(sheet: Sheet, image: AxesImage, scale: Scale) -> None:
    """In the sheet's band."""
    bar = sheet.figure.colorbar(image, cax=bar_axes(sheet), orientation="horizontal", extend=scale.extend)
    bar.set_ticks(list(scale.ticks), labels=list(scale.tick_labels))
    bar.minorticks_off()
    bar.ax.tick_params(length=2)
    bar.set_label(scale.label, labelpad=2)


def bar_axes(sheet: Sheet) -> Axes:
    """The place of a colour bar in a band of BAR_BAND inches."""
    left = (sheet.layout.width - BAR_WIDTH) / 2
    return sheet.figure.add_axes(sheet.band_inches(left, BAR_BAND - BAR_HEIGHT, BAR_WIDTH, BAR_HEIGHT), label="<colorbar>")


def padded(rows: Sequence[Sequence[float | None]]) -> np.ndarray:
    """Rows of any length as one matrix; what is missing is NaN."""
    values_RC = np.full((len(rows), max(len(row) for row in rows)), np.nan)
    for place, row in enumerate(rows):
        values_RC[place, : len(row)] = np.array(row, dtype=float)
    return values_RC


def missing(*maps: np.ndarray, why: str = "no such expert") -> list[str]:
    """A remark where a map has cells without a value."""
    return [f"grey: {why}, or not known"] if any(np.isnan(values_RC).any() for values_RC in maps) else []


def over_chance(share_RC: np.ndarray, chance_RC: np.ndarray) -> np.ndarray:
    """NaN where chance gives nothing."""
    return np.divide(share_RC, chance_RC, out=np.full(share_RC.shape, np.nan), where=chance_RC > 0)


def map_height(num_rows: int, most: float) -> float:
    """Inches of a map with so many rows: rows high enough for numbers where there are few, low ones where there are many."""
    return min(0.34 * num_rows, max(2.7, min(TICK_HEIGHT * 1.2 * num_rows, most)))


def _ink(image: AxesImage) -> np.ndarray:
    """Per cell the colour that shows on it."""
    values_RC = image.get_array()
    assert values_RC is not None
    colours_RC4 = image.to_rgba(values_RC)
    luminance_RC = colours_RC4[..., :3] @ np.array([0.2126, 0.7152, 0.0722])
    missing_RC = colours_RC4[..., 3] == 0
    return np.where((luminance_RC < 0.4) & ~missing_RC, "white", "black")


def _write_numbers(axes: Axes, image: AxesImage, values_RC: np.ndarray, digits: int, width: float) -> None:
    """Nothing where the longest number is wider than a cell."""
    texts_RC = [["" if np.isnan(value) else f"{value:z.{digits}f}" for value in row] for row in values_RC]
    if max(len(text) for row in texts_RC for text in row) * LETTER_WIDTH + 0.04 > width:
        return
    ink_RC = _ink(image)
    for (row, column), ink in np.ndenumerate(ink_RC):
        if texts_RC[row][column]:
            axes.text(column, row, texts_RC[row][column], ha="center", va="center", fontsize=7, color=ink)
