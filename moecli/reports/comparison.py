"""Several runs side by side: their load heatmaps on one scale.

Knows the reports of the runs. Must not compute anything that they don't hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moecli.reports.cells import colour_bar, draw_cells, even_share_scale, missing
from moecli.reports.heatmap import multiples, small_maps
from moecli.reports.picture import Content, figure_text, new_sheet, origin, plain, text_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Letters of a run's name that fit over its map.
MOST_LETTERS = 28
LOSSES_DIFFER = "losses on different texts or tokenizers do not compare"


def draw_comparison(comparison: Content) -> Figure:
    """The heatmaps in the order of the runs, each with its name, loss and mean CV."""
    runs = comparison["runs"]
    maps = [multiples(run["layers"]) for run in runs]
    layout = small_maps(maps, above=0.5)
    sheet = new_sheet({}, "Load per expert, run by run", layout, [*_remarks(runs), *missing(*maps)])
    scale = even_share_scale()
    for axes, run, values_LE in zip(sheet.axes, runs, maps, strict=True):
        image = draw_cells(axes, values_LE, scale, layout, [str(layer["layer"]) for layer in run["layers"]])
        axes.set_title("\n".join([plain(run["name"], MOST_LETTERS), plain(text_of(run), MOST_LETTERS), _figures(run)]))
    sheet.label_outside("expert", "layer")
    colour_bar(sheet, image, scale)
    return sheet.figure


def _figures(run: Content) -> str:
    unit = "" if run["loss"] is None else " nats/token"
    return f"loss {figure_text(run['loss'], 3)}{unit}, CV {figure_text(run['mean'].get('cv_load'), 2)}"


def texts_differ(runs: list[Content]) -> bool:
    """One text in two numbers of tokens is of two tokenizers."""
    return len({(run["corpus"], run["split"], run["tokens"]) for run in runs}) > 1


def _remarks(runs: list[Content]) -> list[str]:
    """What each run is of, and its notes; a note that several have is said once."""
    names: dict[str, list[str]] = {}
    for run in runs:
        for note in (*origin(run), *run["notes"]):
            names.setdefault(note, []).append(run["name"])
    warning = [LOSSES_DIFFER] if texts_differ(runs) else []
    notes = [note if len(owners) == len(runs) else f"{', '.join(owners)}: {note}" for note, owners in names.items()]
    return [*notes, "CV: of the load, mean over layers", *warning]
