"""What each expert is sent of each kind of token, against what chance would send it.

Knows one part of `specialisation` in a report. Must not compute anything that it doesn't hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moecli.reports.cells import BAR_BAND, LETTER_WIDTH, TICK_HEIGHT, chance_scale, colour_bar, draw_cells, mark_cells, missing, over_chance
from moecli.reports.picture import Content, Layout, figure_text, new_sheet, plain, shown_of, spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Beyond so many values the rows are too low for their names; the rarest are left out.
MOST_VALUES = 16
MOST_LETTERS = 18
# In inches; three rows of panels fill a page.
MOST_PANEL_HEIGHT = 2.1


def draw_specialisation(report: Content, part: Content) -> Figure:
    """Values x experts for up to six layers: share of the value's tokens that the expert ran for, over the same with exchanged documents.

    A dot marks a cell beyond chance. Each layer says its mutual information and whether that is beyond chance.
    """
    layers = spread(part["layers"])
    values = _most_frequent(part["counts"])
    names = [f"{plain(part['values'][value], MOST_LETTERS)} ({part['counts'][value]:,})" for value in values]
    ratios = [over_chance(_rows(layer["share_of_tokens"], values), _rows(layer["chance"], values)) for layer in layers]
    remarks = [*_remarks(part, len(layers), len(values)), *missing(*ratios, why="chance gives none")]
    sheet = new_sheet(report, f"Specialisation by {part['label']}", _layout(layers, names), remarks)
    scale = chance_scale()
    for place, (axes, layer, ratio_VE) in enumerate(zip(sheet.axes, layers, ratios, strict=True)):
        first_in_row = place % sheet.layout.columns == 0
        image = draw_cells(axes, ratio_VE, scale, sheet.layout, names if first_in_row else [""] * len(names), None)
        mark_cells(axes, image, np.nan_to_num(_rows(layer["special"], values)), sheet.layout)
        axes.set_title(_verdict(layer))
    sheet.label_outside("expert", "")
    colour_bar(sheet, image, scale)
    return sheet.figure


def _most_frequent(counts: list[int]) -> list[int]:
    """Places of the values that are shown, in their own order."""
    return sorted(sorted(range(len(counts)), key=lambda value: -counts[value])[:MOST_VALUES])


def _rows(table: list[list[float | None]], places: list[int]) -> np.ndarray:
    return np.array(table, dtype=float)[places]


def _layout(layers: list[Content], names: list[str]) -> Layout:
    num_experts = len(layers[0]["share_of_tokens"][0])
    columns = min(len(layers), 3 if num_experts <= 16 else 2)
    left = 0.25 + LETTER_WIDTH * max(len(name) for name in names)
    height = min(1.4 * TICK_HEIGHT * len(names), MOST_PANEL_HEIGHT)
    return Layout(len(layers), columns, height, left=left, gap=0.15, above=0.36, below=0.36, band=BAR_BAND)


def _remarks(part: Content, num_layers: int, num_values: int) -> list[str]:
    label = part["label"]
    remarks = [
        f"rows: {label} (tokens); chance: {_chance(part)}",
        "a dot: beyond chance; on routing that has nothing to do with the labels a report claims anything at all in 5 of 100 cases",
        f"NMI: normalised mutual information of {label} and first-choice expert, chance taken off (0 = chance, 1 = most)",
        *shown_of(num_layers, len(part["layers"]), "layers"),
    ]
    if num_values < len(part["values"]):
        remarks.append(f"shown: the {num_values} most frequent of {len(part['values'])} values")
    if part["too_rare"]:
        remarks.append(f"{part['too_rare']} values left out: fewer than {part['min_count']} tokens, or not among the 50 most frequent")
    return remarks


def _chance(part: Content) -> str:
    if part["label"] == "position":
        return f"{part['documents']:,} documents moved along the sequences at random, {part['permutations']} times"
    return f"labels of {part['documents']:,} documents exchanged at random, {part['permutations']} times"


def _verdict(layer: Content) -> str:
    beyond = ": not beyond chance" if layer["significant"] is False else ""
    return f"layer {layer['layer']}{beyond}\nNMI {figure_text(layer['nmi_corrected'], 4)}, p {figure_text(layer['p_value'], 3)}"
