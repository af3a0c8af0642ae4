"""What all pictures share: the paper, title and small print, fonts, and how a picture becomes a PNG or an SVG file.

Knows figures in inches, so that nothing depends on the size of the screen. Must not know what a report holds beyond its name and notes.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Content = dict[str, Any]
"""A report, or what a training knows of one, as JSON has it."""
Item = TypeVar("Item")

# The text width of A4 and of letter paper: printed at full size, so that a font size here is one on paper.
PAGE_INCHES = 7.2
MARGIN_INCHES = 0.15
DPI = 200
TITLE_POINTS, NOTE_POINTS = 10.0, 7.0
# Of the font size: the distance of two lines, and the width of a letter, on the wide side of the mean so that wrapped lines end in time.
LINE_HEIGHT, LETTER_WIDTH = 1.3, 0.57
# Small multiples: beyond so many a page is full.
MOST_PANELS = 6

STYLE: dict[str, Any] = {
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7,
    "font.family": "DejaVu Sans", "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "hatch.linewidth": 0.4,
    "lines.linewidth": 1.2, "lines.markersize": 4.0, "grid.color": "0.88", "grid.linewidth": 0.5, "axes.axisbelow": True,
    "text.parse_math": False,   # a label may hold "$"
    "svg.fonttype": "none",     # text stays text
    "svg.hashsalt": "moecli",   # equal reports give equal files
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layout:
    """Panels of one size in rows and columns; everything in inches."""

    panels: int
    columns: int
    panel_height: float
    left: float = 0.65
    """Before the first column: ticks and label of the y axis."""
    gap: float = 0.25
    """Between two columns."""
    above: float = 0.1
    """Over each panel: its title."""
    below: float = 0.42
    """Under each panel: ticks and label of the x axis."""
    band: float = 0.0
    """Under the last row: a colour bar or a legend."""
    width: float = PAGE_INCHES

    @property
    def panel_width(self) -> float:
        return (self.width - self.left - MARGIN_INCHES - (self.columns - 1) * self.gap) / self.columns

    @property
    def rows(self) -> int:
        return -(-self.panels // self.columns)

    @property
    def body_height(self) -> float:
        return self.rows * (self.above + self.panel_height + self.below) + self.band


@dataclass(frozen=True, slots=True)
class Sheet:
    """A figure with its empty panels, row by row."""

    figure: Figure
    axes: list[Axes]
    layout: Layout

    def label_outside(self, x: str, y: str) -> None:
        """Names the x axis under the last panel of each column and the y axis beside the first of each row."""
        for place, axes in enumerate(self.axes):
            if place + self.layout.columns >= len(self.axes):
                axes.set_xlabel(x)
            if place % self.layout.columns == 0:
                axes.set_ylabel(y)

    def band_inches(self, left: float, bottom: float, width: float, height: float) -> tuple[float, float, float, float]:
        """A place in the band as matplotlib wants it: parts of the figure."""
        figure_width, figure_height = self.figure.get_size_inches()
        return left / figure_width, bottom / figure_height, width / figure_width, height / figure_height


def new_sheet(report: Content, title: str, layout: Layout, remarks: Sequence[str] = ()) -> Sheet:
    """White paper with the title, under it in small print the model and text, the remarks, and the report's notes."""
    from matplotlib.figure import Figure

    title_lines = _wrapped(title, TITLE_POINTS, layout.width)
    notes = [*origin(report), *remarks, *report.get("notes", [])]
    note_lines = [line for note in notes for line in _wrapped(note, NOTE_POINTS, layout.width)]
    title_height, notes_height = _height(title_lines, TITLE_POINTS), _height(note_lines, NOTE_POINTS)
    header = MARGIN_INCHES + title_height + notes_height
    width, height = layout.width, header + MARGIN_INCHES + layout.body_height
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    top = MARGIN_INCHES / 2
    for lines, points, colour in ((title_lines, TITLE_POINTS, "black"), (note_lines, NOTE_POINTS, "0.3")):
        style: dict[str, Any] = {"fontsize": points, "color": colour, "va": "top", "linespacing": LINE_HEIGHT / 1.2}
        figure.text(MARGIN_INCHES / width, 1 - top / height, "\n".join(lines), **style)
        top += title_height
    panels: list[Axes] = []
    for place in range(layout.panels):
        row, column = divmod(place, layout.columns)
        left = layout.left + column * (layout.panel_width + layout.gap)
        bottom = height - header - (row + 1) * (layout.above + layout.panel_height + layout.below) + layout.below
        panels.append(figure.add_axes((left / width, bottom / height, layout.panel_width / width, layout.panel_height / height)))
    return Sheet(figure, panels, layout)


def save_picture(draw: Callable[[Content], Figure], report: Content, *paths: Path) -> None:
    """Draws once and writes a file for each path, in the format that its name ends with."""
    with house_style(), warnings.catch_warnings():
        # A character that the font lacks is a box in the PNG; the SVG has it as text.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = draw(report)
        for path in paths:
            figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


@contextmanager
def house_style() -> Iterator[None]:
    """Within it matplotlib draws as STYLE says and otherwise as it does by default, whatever the user's own settings are."""
    from matplotlib import rc_context, rcParamsDefault

    kept = ("backend", "backend_fallback", "interactive", "toolbar", "timezone")
    with rc_context({key: value for key, value in rcParamsDefault.items() if key not in kept} | STYLE):
        yield


def spread(items: Sequence[Item], most: int = MOST_PANELS) -> list[Item]:
    """At most so many of the items, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(place)] for place in np.linspace(0, len(items) - 1, most)]


def shown_of(shown: int, total: int, what: str) -> list[str]:
    """A remark where `spread` left something out."""
    return [] if shown == total else [f"shown: {shown} of {total} {what}, evenly spread"]


def visible(text: str) -> str:
    """A text from the data on one line: what can't be seen, such as what turns the direction of letters around, is written out."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def plain(text: str, most: int) -> str:
    """The same, its middle left out where it is longer than `most` letters."""
    whole = visible(text)
    if len(whole) <= most:
        return whole
    tail = (most - 1) // 2
    return whole[: most - 1 - tail] + "…" + whole[len(whole) - tail :]


def figure_text(value: float | None, digits: int) -> str:
    return "unknown" if value is None else f"{value:z.{digits}f}"


def say_missing(axes: Axes) -> None:
    axes.text(0.5, 0.5, "not known", transform=axes.transAxes, ha="center", va="center", color="0.4")


def of_the_model(report: Content) -> Content:
    """The same report without the notes on labels and on the sample, for pictures of something else."""
    return report | {"notes": report.get("model_notes", report.get("notes", []))}


def origin(report: Content) -> list[str]:
    """The line that says of what model and text a report is, as far as it holds that."""
    tokens = [f"{report['tokens']:,} tokens"] if "tokens" in report else []
    if "checkpoint" not in report:
        return tokens
    return [", ".join([f"{report['checkpoint']} on {text_of(report)}", *tokens])]


def text_of(report: Content) -> str:
    return f"{report['corpus']} ({report['split']})" if report["split"] else str(report["corpus"])


def _wrapped(text: str, points: float, width: float) -> list[str]:
    letters = int((width - 2 * MARGIN_INCHES) * 72 / (points * LETTER_WIDTH))
    return textwrap.wrap(plain(text, 10 * letters), letters)


def _height(lines: list[str], points: float) -> float:
    return len(lines) * points * LINE_HEIGHT / 72
