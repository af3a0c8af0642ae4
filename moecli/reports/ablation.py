"""What each expert is needed for: the loss that it costs to switch it off.

Knows `ablation` of a report. Must not compute anything that it doesn't hold.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from moecli.reports.cells import BAR_BAND, Scale, colour_bar, draw_cells, missing, padded
from moecli.reports.heatmap import map_layout
from moecli.reports.lines import layer_key, layer_styles
from moecli.reports.picture import Content, Layout, figure_text, new_sheet, of_the_model

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

UNIT, KIND_OF_SCALE = "loss increase (nats/token)", "symmetric-log scale, linear near 0"
# The scale is even up to the usual standard error, or up to this part of the largest increase if that is more; beyond, it is logarithmic.
LEAST_EVEN_PART = 1e-3
# Between two ticks at least, of the way from 0 to the end of the scale: a number's width on the colour bar, its height on the axis.
BAR_GAP, AXIS_GAP = 0.24, 0.08
# With more experts the errors would hide the points.
MOST_ERROR_BARS = 256


def draw_ablation(report: Content) -> Figure:
    """Layers x experts: white costs nothing, red costs, blue helps to switch off. What is within the error is pale."""
    part = report["ablation"]
    increase_LE, error_LE = _matrices(part)
    scale, digits = _scale(increase_LE, error_LE)
    remarks = [*_remarks(part, error_LE), *missing(increase_LE)]
    sheet = new_sheet(of_the_model(report), "What it costs to switch an expert off", map_layout(*increase_LE.shape), remarks)
    names = [str(layer["layer"]) for layer in part["layers"]]
    image = draw_cells(sheet.axes[0], increase_LE, scale, sheet.layout, names, digits)
    sheet.label_outside("expert", "layer")
    colour_bar(sheet, image, scale)
    return sheet.figure


def draw_ablation_by_load(report: Content) -> Figure:
    """A point for each expert: its load and what it costs to switch it off, with the standard error."""
    part = report["ablation"]
    increase_LE, error_LE = _matrices(part)
    scale, _ = _scale(increase_LE, error_LE)
    layout = Layout(panels=1, columns=1, panel_height=3.4, left=0.9, band=BAR_BAND)
    with_errors = increase_LE.size <= MOST_ERROR_BARS
    remarks = [*_remarks(part, error_LE), *(["bars: one standard error up and down"] if with_errors else [])]
    sheet = new_sheet(of_the_model(report), "What it costs to switch an expert off, beside its load", layout, remarks)
    axes = sheet.axes[0]
    numbers = [layer["layer"] for layer in part["layers"]]
    for layer, increase_E, error_E, style in zip(part["layers"], increase_LE, error_LE, layer_styles(numbers), strict=True):
        num_experts = len(layer["load"])
        load_E = np.array(layer["load"], dtype=float) * num_experts
        bars = error_E[:num_experts] if with_errors else None
        axes.errorbar(load_E, increase_E[:num_experts], bars, **(style | {"linestyle": ""}), elinewidth=0.6)
    _number_increases(axes, scale, *_reach(increase_LE, error_LE if with_errors else 0.0 * error_LE))
    axes.axhline(0.0, color="black", linewidth=0.6)
    axes.axvline(1.0, color="0.6", linewidth=0.6)
    axes.set_xlim(left=0.0)
    axes.grid(True)
    sheet.label_outside("load in multiples of the even share (1 = even)", f"{UNIT}\n{KIND_OF_SCALE}")
    layer_key(sheet, numbers, linestyle="")
    return sheet.figure


def _reach(increase_LE: np.ndarray, error_LE: np.ndarray) -> tuple[float, float]:
    """From where to where the points reach with their errors; 0 is always within."""
    ends = [0.0, *(increase_LE - np.nan_to_num(error_LE)).flat, *(increase_LE + np.nan_to_num(error_LE)).flat]
    return float(np.nanmin(ends)), float(np.nanmax(ends))


def _number_increases(axes: Axes, scale: Scale, lowest: float, highest: float) -> None:
    from matplotlib.ticker import NullLocator

    even = scale.norm.linear_width
    low, high = min(1.3 * lowest, -even / 2), max(1.3 * highest, even / 2)
    axes.set_yscale("asinh", linear_width=even)
    ticks = [tick for tick in _ticks(even, scale.norm.vmax, steps=(1, 3), gap=AXIS_GAP) if low <= tick <= high]
    axes.set_yticks(ticks, [_name(tick) for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(low, high)


def _matrices(part: Content) -> tuple[np.ndarray, np.ndarray]:
    increase_LE = padded([layer["loss_increase"] for layer in part["layers"]])
    return increase_LE, padded([layer["standard_error"] for layer in part["layers"]])


def _remarks(part: Content, error_LE: np.ndarray) -> list[str]:
    remarks = [
        f"one expert of one layer at a time, on {part['tokens']:,} tokens; loss with all experts {figure_text(part['loss'], 4)} nats/token"
    ]
    if np.isfinite(error_LE).any():
        remarks.append(f"standard error, over documents: median {np.nanmedian(error_LE):.2g} nats/token")
    return remarks


def _scale(increase_LE: np.ndarray, error_LE: np.ndarray) -> tuple[Scale, int]:
    """Even around 0, logarithmic beyond the errors: one expert that all depends on must not hide the others. With it, digits for a cell."""
    from matplotlib.colors import AsinhNorm

    largest = float(np.nanmax(np.abs(increase_LE))) if np.isfinite(increase_LE).any() else 0.0
    limit = largest or 1.0
    error = float(np.nanmedian(error_LE)) if np.isfinite(error_LE).any() else 0.0
    even = min(max(error, LEAST_EVEN_PART * limit), limit)
    ticks = _ticks(even, limit, steps=(1,), gap=BAR_GAP)
    norm = AsinhNorm(even, vmin=-limit, vmax=limit)
    digits = min(max(2 - math.floor(math.log10(limit)), 2), 5)
    return Scale(norm, f"{UNIT}; {KIND_OF_SCALE}", ticks, [_name(tick) for tick in ticks], "neither"), digits


def _ticks(even: float, limit: float, steps: tuple[int, ...], gap: float) -> list[float]:
    """0, the limits, and between them round numbers that stand apart by so much of the way from 0 to a limit."""
    decades = range(math.floor(math.log10(even)), math.ceil(math.log10(limit)) + 1)
    whole, last = math.asinh(limit / even), 0.0
    above = []
    for tick in (step * 10.0**power for power in decades for step in steps):
        place = math.asinh(tick / even) / whole
        if last + gap <= place <= 1 - gap:
            above.append(tick)
            last = place
    above.append(limit)
    return [*(-tick for tick in reversed(above)), 0.0, *above]


def _name(tick: float) -> str:
    return f"{tick:.2g}"
