"""Markdown that reads well as plain text too: aligned tables, and words that are no markup whatever they hold.

Knows texts and rows. Must not know what they say.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from moecli.reports.picture import visible

# What GitHub's Markdown gives a meaning inside of a line. "@" is not among them: a backslash would not keep it from naming a person.
MARKUP = re.compile(r"[\\`*_\[\]<>|~&#$]")
# Between it and the name that follows nothing is seen, and the name is no longer called.
WORD_JOINER = "\u2060"


def escaped(text: str) -> str:
    """A text on one line that is shown as it is: neither markup nor HTML, no column of a table, and nobody is called by name."""
    safe = MARKUP.sub(lambda found: f"\\{found.group()}", visible(text))
    return re.sub(r"@(?=\w)", f"@{WORD_JOINER}", safe)


def bullets(texts: Sequence[str]) -> str:
    """A list; the texts are escaped."""
    return "\n".join(f"- {_no_list(escaped(text))}" for text in texts)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, the first to the left and the others to the right; all cells are escaped."""
    cells = [[escaped(cell) for cell in row] for row in (header, *rows)]
    assert {len(row) for row in cells} == {len(header)}, "rows of different lengths"
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(header))]
    lines = [_line([_padded(cell, width, column) for column, (cell, width) in enumerate(zip(row, widths, strict=True))]) for row in cells]
    rule = _line(["-" * width if column == 0 else "-" * (width - 1) + ":" for column, width in enumerate(widths)])
    return "\n".join([lines[0], rule, *lines[1:]])


def _padded(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column == 0 else cell.rjust(width)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _no_list(text: str) -> str:
    """What would begin another list or a heading in a list begins with a backslash."""
    return re.sub(r"^(\d+)([.)])", r"\1\\\2", re.sub(r"^([-+=])", r"\\\1", text))
