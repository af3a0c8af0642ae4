"""What the tests of the pictures share: figures drawn as they are written, and what can be read off them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from moecli.reports.picture import house_style

# Texts may come as near as this to each other or to the edge, in inches.
SLACK_INCHES = 0.01


def drawn(draw: Callable[..., Figure], *content: Any) -> Figure:
    """As `save_picture` draws it; laid out."""
    with house_style():
        figure = draw(*content)
        figure.draw_without_rendering()
    return figure


def texts(figure: Figure) -> list[Text]:
    """All that can be read on the figure."""
    found = list(figure.texts)
    for legend in figure.legends:
        found += legend.get_texts()
    for axes in figure.axes:
        found += [*axes.texts, axes.title, axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            found += [tick.label1 for tick in axis.get_major_ticks() if low - 1e-9 <= tick.get_loc() <= high + 1e-9]
    return [text for text in found if text.get_visible() and text.get_text()]


def small_print(figure: Figure) -> str:
    """Title and remarks, as one line."""
    return " ".join(text.get_text() for text in figure.texts).replace("\n", " ")


def collisions(figure: Figure) -> list[str]:
    """Texts that overlap, and texts that leave the paper."""
    with house_style():
        boxes = [(text.get_text(), text.get_window_extent()) for text in texts(figure)]
    slack = SLACK_INCHES * figure.dpi
    paper = figure.bbox.padded(slack)
    outside = [text for text, box in boxes if not (paper.contains(*box.min) and paper.contains(*box.max))]
    overlapping = [f"{a!r} and {b!r}" for (a, box_a), (b, box_b) in combinations(boxes, 2) if _overlap(box_a, box_b, slack)]
    return outside + overlapping


def panels(figure: Figure) -> list:
    """The axes that show data, not the colour bar."""
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def cells(axes: Any) -> list[list[float | None]]:
    """The numbers behind the colours; None where there is none."""
    return axes.images[0].get_array().tolist()


def _overlap(a: Bbox, b: Bbox, slack: float) -> bool:
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return width > slack and height > slack
