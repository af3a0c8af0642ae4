"""Lines over steps, positions or layers: how layers are told apart, whether there are three or thirty, and how axes are numbered.

Knows axes and the numbers of layers. Must not know what is drawn of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from moecli.reports.cells import BAR_BAND, bar_axes
from moecli.reports.picture import Content, Sheet, say_missing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import ListedColormap

Numbers = Sequence[float | None]

# So many layers get a colour, a marker and a dash pattern of their own; more get a colour from dark (first) to light (last).
OWN_STYLES: tuple[dict[str, Any], ...] = (
    {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    {"color": "#D55E00", "marker": "s", "linestyle": "--"},
    {"color": "#000000", "marker": "^", "linestyle": "-."},
    {"color": "#56B4E9", "marker": "D", "linestyle": (0, (1, 1))},
    {"color": "#CC79A7", "marker": "v", "linestyle": (0, (5, 1, 1, 1, 1, 1))},
    {"color": "#E69F00", "marker": "P", "linestyle": (0, (3, 1))},
)
# What is measured and what chance gives, where layers need no telling apart.
MEASURED, CHANCE = "#0072B2", "0.65"
CHANCE_LINE = {"marker": "", "linestyle": ":", "linewidth": 0.8}
# The lightest of viridis would not show on white.
LIGHTEST = 0.88
# With more points than these, markers would hide the line.
MOST_MARKED_POINTS = 40
# Labels that fit under a colour bar.
MOST_BAR_TICKS = 9


def layer_styles(layers: Sequence[int]) -> list[dict[str, Any]]:
    """Keyword arguments of `Axes.plot`, one for each layer."""
    if len(layers) <= len(OWN_STYLES):
        return [dict(style) for style in OWN_STYLES[: len(layers)]]
    colours = shades()(np.linspace(0.0, 1.0, len(layers)))
    return [{"color": tuple(colour), "marker": "o", "linestyle": "-", "linewidth": 0.8, "markersize": 2.0} for colour in colours]


def draw_layers(axes: Axes, layers: Sequence[int], x: Sequence[Numbers], y: Sequence[Numbers], **other: Any) -> None:
    """A line for each layer; a value that is not known is a gap. `other`: of `Axes.plot`, for all lines."""
    for style, x_values, y_values in zip(layer_styles(layers), x, y, strict=True):
        draw_line(axes, x_values, y_values, **(style | other))


def draw_line(axes: Axes, x: Numbers, y: Numbers, **style: Any) -> None:
    if len(x) > MOST_MARKED_POINTS:
        style["marker"] = ""
    axes.plot(np.array(x, dtype=float), np.array(y, dtype=float), clip_on=False, **style)


def draw_record(
    sheet: Sheet, part: Content, curves: Sequence[tuple[str, str, float]], numbering: Mapping[str, Callable[[Axes], None]]
) -> None:
    """A panel for each curve over the training steps in `part`: its key there, its name, how far the axis reaches at the least.

    Args:
        numbering: how numbers stand beside the axis, by key, where they are not plain ones.
    """
    for axes, (key, name, least) in zip(sheet.axes, curves, strict=True):
        draw_line(axes, part["steps"], part[key], color=MEASURED, marker="o", markersize=2.5)
        from_zero(axes, least)
        number_steps(axes)
        if all(value is None for value in part[key]):
            say_missing(axes)
        if key in numbering:
            numbering[key](axes)
        axes.set_ylabel(name)
        axes.set_xlabel("training step")


def layer_key(sheet: Sheet, layers: Sequence[int], **other: Any) -> None:
    """In the sheet's band, of BAR_BAND inches: which line is which layer. `other`: as in draw_layers."""
    if len(layers) <= len(OWN_STYLES):
        from matplotlib.lines import Line2D

        styles = zip(layers, layer_styles(layers), strict=True)
        handles = [Line2D([], [], label=f"layer {layer}", **(style | other)) for layer, style in styles]
        legend_below(sheet, handles)
        return
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    colours = ScalarMappable(Normalize(0, len(layers) - 1), shades())
    bar = sheet.figure.colorbar(colours, cax=bar_axes(sheet), orientation="horizontal")
    places = range(0, len(layers), -(-len(layers) // MOST_BAR_TICKS))
    bar.set_ticks(list(places), labels=[str(layers[place]) for place in places])
    bar.ax.tick_params(length=2)
    bar.set_label("layer", labelpad=2)


def legend_below(sheet: Sheet, handles: list[Any]) -> None:
    """In the sheet's band, of BAR_BAND inches."""
    place = sheet.band_inches(sheet.layout.width / 2, BAR_BAND * 0.6, 0.0, 0.0)[:2]
    sheet.figure.legend(handles=handles, loc="center", bbox_to_anchor=place, ncols=len(handles), frameon=False, handlelength=3.2)


def number_steps(axes: Axes, axis: str = "x") -> None:
    """Whole numbers with thousands apart."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    numbered = axes.xaxis if axis == "x" else axes.yaxis
    numbered.set_major_locator(MaxNLocator(nbins=5, integer=True, steps=[1, 2, 2.5, 5, 10], min_n_ticks=1))
    numbered.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def number_percents(axes: Axes) -> None:
    """Shares on the y axis as percents."""
    from matplotlib.ticker import FuncFormatter

    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.4g} %"))


def from_zero(axes: Axes, least: float, most: float | None = None) -> None:
    """The y axis begins at 0 and reaches `least`, or as far as the data (up to `most`) where that is more."""
    top = max(least, axes.dataLim.y1 * 1.05 if np.isfinite(axes.dataLim.y1) else least)
    axes.set_ylim(0.0, top if most is None else min(top, most))
    axes.grid(True)


def shades() -> ListedColormap:
    """Dark to light, in equal steps for the eye."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps["viridis"](np.linspace(0.0, LIGHTEST, 256)))
