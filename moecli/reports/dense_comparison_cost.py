"""What the arms of a comparison cost: parameters, memory, and the speed of training and of generating.

Knows costs and speeds of a comparison. Must not compute anything that it doesn't hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from moecli.reports.cells import LETTER_WIDTH
from moecli.reports.dense_comparison import COLOURS, amount, machine, num_bytes, short_names, small_print
from moecli.reports.picture import Content, Layout, new_sheet, say_missing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LETTERS, ROW_HEIGHT = 20, 0.22
# Bars of values farther apart than this could not be told from nothing: points on a logarithmic axis are shown instead.
MOST_TIMES = 30
# Of a panel's width, for the number beside the longest bar.
ROOM_FOR_NUMBER = 1.45


def draw_speed_and_memory(content: Content) -> Figure:
    """A panel for each quantity with a row for each arm."""
    names = short_names(content, MOST_LETTERS)
    left = 0.25 + LETTER_WIDTH * max(len(name) for name in names)
    layout = Layout(6, 3, ROW_HEIGHT * len(names) + 0.1, left=left, gap=0.15, above=0.42, below=0.12)
    sheet = new_sheet(small_print(content, *_remarks(content)), "Speed and memory", layout)
    for place, (axes, (title, key, written)) in enumerate(zip(sheet.axes, _panels(content), strict=True)):
        is_log = _draw_rows(axes, [arm[key] for arm in content["arms"]], written)
        axes.set_title(f"{title}, log scale" if is_log else title)
        axes.set_yticks(range(len(names)), names if place % layout.columns == 0 else [""] * len(names))
        axes.set_ylim(len(names) - 0.45, -0.55)
        axes.tick_params(axis="y", length=0)
        axes.set_xticks([])
        axes.minorticks_off()
    return sheet.figure


def _panels(content: Content) -> list[tuple[str, str, Callable[[float | None], str]]]:
    """Title, key of the arm, and how the number is written."""
    batch = f"{content['decode']['batch_size']} texts" if content["decode"] else "a batch"
    return [
        ("training\ntokens/s", "train_tokens_per_s", amount),
        ("generating one text\ntokens/s", "decode_tokens_per_s", amount),
        (f"generating {batch}\ntokens/s in all", "decode_tokens_per_s_batched", amount),
        ("parameters\nall experts", "params_total", amount),
        ("weights\nfloat32", "weight_bytes", num_bytes),
        ("most memory\nin training", "peak_memory_bytes", num_bytes),
    ]


def _draw_rows(axes: Axes, values: list[float | None], written: Callable[[float | None], str]) -> bool:
    """Gives whether the axis is logarithmic."""
    numbers = np.array(values, dtype=float)
    known = numbers[np.isfinite(numbers)]
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    if not known.size:
        say_missing(axes)
        return False
    is_wide = known.min() > 0 and known.max() > MOST_TIMES * known.min()
    colours = [COLOURS[0] if row == 0 else "0.6" for row in range(len(numbers))]
    if is_wide:
        axes.set_xscale("log")
        axes.scatter(numbers, range(len(numbers)), c=colours, s=18, zorder=3)
        axes.set_xlim(known.min() / 1.5, known.max() * (known.max() / known.min()) ** (ROOM_FOR_NUMBER - 1))
    else:
        axes.barh(range(len(numbers)), np.nan_to_num(numbers), height=0.62, color=colours)
        axes.set_xlim(0.0, (known.max() or 1.0) * ROOM_FOR_NUMBER)
    for row, number in enumerate(numbers):
        x = number if np.isfinite(number) else known.min() if is_wide else 0.0
        axes.annotate(written(number), (x, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=7)
    return bool(is_wide)


def _remarks(content: Content) -> list[str]:
    decode, where = content["decode"], f"speeds are of this machine ({machine(content)})"
    generated = f"; generating: {decode['new_tokens']} tokens after {decode['prompt_tokens']}" if decode else ""
    return [f"{where}{generated}", "weights: all experts are loaded, however few of them a token runs; memory: most bytes of tensors alive"]
