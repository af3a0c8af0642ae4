"""The load of every layer as a table and as a heatmap for a terminal of any width.

Knows load figures. Must not compute them.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from moecli.analysis.load_report import LayerLoad, LoadReport

# Load in multiples of the even share: the shade for the first limit that is not reached.
SHADES = ((0.01, "·"), (0.5, "░"), (0.9, "▒"), (1.5, "▓"), (float("inf"), "█"))
# The same as colours, from no load over the even share to twice that and more: blue, white, red, told apart by colour-blind readers too.
COLOURS = ((33, 102, 172), (247, 247, 247), (178, 24, 43))
DEAD_MULTIPLE, DEAD_MARK = 0.01, "x"
# What a line begins with: "layer   0  ".
MARGIN = 11
WIDEST_CELL = 2


def load_table(report: LoadReport, which_tokens: str = "tokens") -> Table:
    """One line per layer that routes."""
    table = Table(title=f"Expert load over {report.tokens:,} {which_tokens}", title_justify="left")
    # Only a capacity with `overflow: next` moves anything.
    has_moved = any(layer.moved_fraction for layer in report.layers)
    headings = ["layer", "experts", "load CV", "MaxVio", "entropy (nats)", "effective experts", "dead", "dropped"]
    for heading in headings + ["moved"] * has_moved:
        table.add_column(heading, justify="right")
    for layer in report.layers:
        table.add_row(*_cells(layer), *[f"{layer.moved_fraction:.1%}"] * has_moved)
    return table


def print_heatmap(console: Console, report: LoadReport) -> None:
    """Layers x experts, each in multiples of the even share: in colour where the terminal has any, else in shades.

    Experts that don't fit into one line go on in the next.
    """
    room = max(1, console.width - MARGIN)
    most_experts = max(layer.num_experts for layer in report.layers)
    cell_width = max(1, min(WIDEST_CELL, room // most_experts))
    per_line = room // cell_width
    has_colour = console.color_system is not None
    for layer in report.layers:
        multiples = [share * layer.num_experts for share in layer.load]
        for first in range(0, layer.num_experts, per_line):
            label = f"layer {layer.layer:>3}  " if first == 0 else f"from {first:>4}  "
            cells = _cells_of(multiples[first : first + per_line], cell_width, has_colour)
            console.print(Text(label).append_text(cells), soft_wrap=True)
    console.print(_legend(has_colour), soft_wrap=True)


def _cells(layer: LayerLoad) -> tuple[str, ...]:
    return (
        str(layer.layer),
        str(layer.num_experts),
        f"{layer.cv_load:.3f}",
        f"{layer.max_violation:.3f}",
        f"{layer.entropy:.3f}",
        f"{layer.effective_experts:.2f}",
        str(layer.dead_experts),
        f"{layer.dropped_fraction:.1%}",
    )


def _cells_of(multiples: Sequence[float], width: int, has_colour: bool) -> Text:
    text = Text()
    for multiple in multiples:
        if has_colour:
            mark = DEAD_MARK if multiple < DEAD_MULTIPLE else " "
            text.append(mark * width, style=Style(color="white", bgcolor=_colour(multiple)))
        else:
            text.append(next(shade for limit, shade in SHADES if multiple < limit) * width)
    return text


def _colour(multiple: float) -> str:
    """As #rrggbb, between the two nearest of COLOURS."""
    place = min(multiple, 2.0)
    below, above = (COLOURS[0], COLOURS[1]) if place < 1 else (COLOURS[1], COLOURS[2])
    part = place if place < 1 else place - 1
    return "#" + "".join(f"{round(low + part * (high - low)):02x}" for low, high in zip(below, above, strict=True))


def _legend(has_colour: bool) -> Text:
    text = Text("load / even share:  ")
    if not has_colour:
        return text.append("· dead   ░ < 0.5   ▒ < 0.9   ▓ < 1.5   █ more")
    for multiple, name in ((0.0, "dead"), (0.5, "0.5"), (1.0, "1"), (1.5, "1.5"), (2.0, "2 or more")):
        text.append_text(_cells_of([multiple], WIDEST_CELL, has_colour=True)).append(f" {name}   ")
    return text
