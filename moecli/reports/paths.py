"""The ways that tokens take through the layers, as a Sankey picture.

Knows `paths` of a report. Must not compute anything that it doesn't hold.

Shape letters: E experts of a layer. Heights are shares of the tokens, counted from the top of a column.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from moecli.reports.lines import shades
from moecli.reports.picture import MARGIN_INCHES, Content, Layout, new_sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.path import Path

MOST_LAYERS = 8
# Between two layers. Thinner ones would be a grey veil.
MOST_FLOWS = 150
MOST_PATHS_NAMED = 3
LEAST_SHARE = 1e-5
# Of the picture's body, in inches; of a column, in parts of the distance to the next; of all gaps, in parts of the height.
HEIGHT, COLUMN, GAPS = 6.0, 0.2, 0.12
NUMBER_INCHES = 0.12
# Colours that colour-blind readers tell apart (Okabe and Ito), for as many experts; more get shades of one scale.
COLOURS = ("#0072B2", "#E69F00", "#56B4E9", "#D55E00", "#CC79A7", "#009E73", "#F0E442", "#777777")


@dataclass(frozen=True, slots=True)
class Flow:
    """Tokens that went from an expert to an expert of the next layer."""

    source: int
    target: int
    share: float
    """Of the tokens."""
    source_top: float
    target_top: float


def draw_paths(report: Content) -> Figure:
    """Columns of experts, as high as their share of the tokens, and the flows between them, as thick as theirs."""
    part = report["paths"]
    transitions = part["transitions"][: MOST_LAYERS - 1]
    shares = [np.nan_to_num(np.array(transition["share"], dtype=float)) for transition in transitions]
    layers = [transition["from_layer"] for transition in transitions] + [transitions[-1]["to_layer"]]
    heights = column_heights(shares)
    tops = [_tops(heights_E) for heights_E in heights]
    flows = [flows_between(share_EE, *ends) for share_EE, ends in zip(shares, pairwise(tops), strict=True)]
    layout = Layout(panels=1, columns=1, panel_height=HEIGHT, left=MARGIN_INCHES)
    sheet = new_sheet(report, "Paths of the tokens through the layers", layout, _remarks(part, shares, flows))
    axes = sheet.axes[0]
    bottom = max(tops_E[-1] + heights_E[-1] for tops_E, heights_E in zip(tops, heights, strict=True))
    axes.set_xlim(-COLUMN / 2, len(layers) - 1 + COLUMN / 2)
    axes.set_ylim(bottom, 0.0)
    for place, some in enumerate(flows):
        _draw_flows(axes, place, some, len(heights[place]))
    for place, (tops_E, heights_E) in enumerate(zip(tops, heights, strict=True)):
        _draw_experts(axes, place, tops_E, heights_E, HEIGHT / bottom)
    axes.set_xticks(range(len(layers)), [str(layer) for layer in layers])
    axes.set_xlabel("layer")
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return sheet.figure


def column_heights(shares: list[np.ndarray]) -> list[np.ndarray]:
    """Per layer [E]: what leaves an expert or what comes to it, whichever is more."""
    leaving = [share_EE.sum(axis=1) for share_EE in shares]
    coming = [share_EE.sum(axis=0) for share_EE in shares]
    between = [np.maximum(come_E, leave_E) for come_E, leave_E in zip(coming, leaving[1:], strict=False)]
    return [leaving[0], *between, coming[-1]]


def flows_between(share_EE: np.ndarray, source_tops_E: np.ndarray, target_tops_E: np.ndarray) -> list[Flow]:
    """The MOST_FLOWS thickest, thickest last. Each keeps its place at both ends, so what is left out shows as white."""
    from_tops_EE = source_tops_E[:, None] + share_EE.cumsum(axis=1) - share_EE
    to_tops_EE = target_tops_E[None, :] + share_EE.cumsum(axis=0) - share_EE
    thickest = np.argsort(share_EE, axis=None, kind="stable")[-MOST_FLOWS:]
    places = [np.unravel_index(place, share_EE.shape) for place in thickest]
    return [
        Flow(
            int(source),
            int(target),
            float(share_EE[source, target]),
            float(from_tops_EE[source, target]),
            float(to_tops_EE[source, target]),
        )
        for source, target in places
        if share_EE[source, target] > 0
    ]


def _tops(heights_E: np.ndarray) -> np.ndarray:
    """Where each expert begins: one under the other with gaps between."""
    gap = GAPS * heights_E.sum() / len(heights_E)
    return heights_E.cumsum() - heights_E + gap * np.arange(len(heights_E))


def _remarks(part: Content, shares: list[np.ndarray], flows: list[list[Flow]]) -> list[str]:
    tokens, distinct = part["tokens"], part["distinct"]
    remarks = [f"boxes: first-choice experts by number; {distinct:,} different paths of {tokens:,} tokens with a choice in every layer"]
    total = sum(share_EE.sum() for share_EE in shares)
    left_out = total - sum(flow.share for some in flows for flow in some)
    if left_out > 1e-9 * total:
        remarks.append(f"drawn: the {MOST_FLOWS} thickest flows between two layers; left out: {100 * left_out / total:.2g} % of what flows")
    if len(part["layers"]) > MOST_LAYERS:
        remarks.append(f"drawn: the first {MOST_LAYERS} of {len(part['layers'])} layers that route")
    else:
        remarks.append(f"most travelled: {'; '.join(_described(path) for path in part['top'][:MOST_PATHS_NAMED])}")
    return remarks


def _described(path: Content) -> str:
    share, chance = (_percent(path[key]) for key in ("share", "chance"))
    return f"{' → '.join(map(str, path['experts']))} ({share}, chance {chance})"


def _percent(share: float | None) -> str:
    """With many layers chance is next to nothing; how near says nothing more."""
    if share is None:
        return "unknown"
    return "< 0.001 %" if 0 < share < LEAST_SHARE else f"{100 * share:.2g} %"


def _draw_flows(axes: Axes, place: int, flows: list[Flow], num_experts: int) -> None:
    from matplotlib.collections import PathCollection

    colours = _colours(num_experts)
    left, right = place + COLUMN / 2, place + 1 - COLUMN / 2
    paths = [_ribbon(flow, left, right) for flow in flows]
    axes.add_collection(PathCollection(paths, facecolors=[colours[flow.source] for flow in flows], alpha=0.5, linewidths=0))


def _ribbon(flow: Flow, left: float, right: float) -> Path:
    from matplotlib.path import Path

    middle = (left + right) / 2
    top, end = flow.source_top, flow.target_top
    points = [
        (left, top), (middle, top), (middle, end), (right, end),
        (right, end + flow.share), (middle, end + flow.share), (middle, top + flow.share), (left, top + flow.share), (left, top),
    ]  # fmt: skip
    return Path(points, [Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO, *[Path.CURVE4] * 3, Path.CLOSEPOLY])


def _draw_experts(axes: Axes, place: int, tops_E: np.ndarray, heights_E: np.ndarray, inches: float) -> None:
    """Boxes, with the expert's number as long as there is room under the last one. `inches`: of a height of 1."""
    axes.bar([place] * len(tops_E), heights_E, COLUMN, bottom=tops_E, color=_colours(len(tops_E)), linewidth=0)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.4, "alpha": 0.8}
    last = -np.inf
    for expert, (middle, height) in enumerate(zip(tops_E + heights_E / 2, heights_E, strict=True)):
        if height > 0 and (middle - last) * inches >= NUMBER_INCHES:
            axes.text(place, middle, str(expert), ha="center", va="center_baseline", fontsize=7, bbox=box)
            last = middle


def _colours(num_experts: int) -> list[Any]:
    if num_experts <= len(COLOURS):
        return list(COLOURS[:num_experts])
    return list(shades()(np.linspace(0.0, 1.0, num_experts)))
