"""A table as a CSV file that spreadsheets open without harm.

Knows rows. Must not know what they say.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

# A spreadsheet takes a cell that begins so for a formula.
FORMULA_BEGINNINGS = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")


def write_csv(rows: Iterable[dict[str, Any]], path: Path) -> bool:
    """UTF-8 with one header row, as RFC 4180 has it. What is not known is an empty cell; what looks like a formula gets a quote in front.

    Args:
        rows: all with the same keys, the names of the columns.
        path: of the file.

    Returns:
        Whether there were any rows; else there is no file.
    """
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        return False
    # A token of a byte-level tokenizer may be half a character.
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(first))
        writer.writeheader()
        for row in chain([first], rows):
            writer.writerow({column: _safe(cell) for column, cell in row.items()})
    return True


def _safe(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.lstrip("\n").startswith(FORMULA_BEGINNINGS) else cell
