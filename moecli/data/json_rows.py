"""How deep the values of a JSON file are nested and how long its rows are, known before a library reads it that takes any depth and
ends the whole process where its stack ends.

Knows bytes. Must not know what is in a row.
"""

from __future__ import annotations

import re
from pathlib import Path

from moecli.errors import DataError

# Arrow passes on 64 at most.
MOST_LEVELS = 50
# Of a row in bytes: the library holds it several times.
LONGEST_ROW = 1 << 28
BLOCK = 1 << 20

_ESCAPED = re.compile(rb"\\.", re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def check_json_rows(path: Path, *, is_one_value: bool) -> None:
    """Reads a file to its end.

    Args:
        path: of a file with a JSON value on each line, or with one value over all lines.
        is_one_value: the latter. Then there is no longest row.

    Raises:
        DataError: a value is nested deeper than MOST_LEVELS, or a row is longer than LONGEST_ROW.
    """
    levels = length = number = 0
    rest = b""
    with path.open("rb") as file:
        # A string can't go on beyond a line's end, so that each line begins outside of one.
        while block := file.readline(BLOCK):
            if not rest and not length:
                number += 1
            length += len(block)
            levels, deepest, rest = _nesting(rest + block, levels)
            if deepest > MOST_LEVELS:
                raise _refusal(path, number, f"nested deeper than {MOST_LEVELS} levels")
            if length > LONGEST_ROW and not is_one_value:
                raise _refusal(path, number, f"longer than {LONGEST_ROW / 1e6:,.0f} MB")
            if block.endswith(b"\n"):
                length, rest = 0, b""
                levels = levels if is_one_value else 0


def _nesting(block: bytes, levels: int) -> tuple[int, int, bytes]:
    """Levels at the end of a block that begins outside of a string, the most of them, and what the next block begins with: a quote where
    this one ends in a string, and a backslash of which it has only the first half."""
    unescaped = _ESCAPED.sub(b"", block)
    pieces = unescaped.split(b'"')
    deepest = levels
    for bracket in b"".join(pieces[::2]).translate(None, _NO_BRACKETS):
        levels = levels + 1 if bracket in b"[{" else max(levels - 1, 0)
        deepest = max(deepest, levels)
    return levels, deepest, (b'"' if len(pieces) % 2 == 0 else b"") + (b"\\" if unescaped.endswith(b"\\") else b"")


def _refusal(path: Path, number: int, what: str) -> DataError:
    return DataError(what, where=f"{path}, line {number}", next_step="put the row right, or leave the file out")
