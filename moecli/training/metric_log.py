"""metrics.jsonl: one JSON object a line, whole lines only.

Knows lines and steps. Must not know what the figures mean.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from moecli.data.disk import write_text_whole
from moecli.data.small_file import read_small
from moecli.errors import RunError

# A line has some 300 bytes: millions of them.
LARGEST_LOG = 2**30


class MetricLog:
    """Appends figures to a file; on resume, cuts back what lies after the checkpoint.

    Args:
        path: the file; made if it isn't there.
        last_step: lines of later steps are removed, and so is a last line that was cut off.
    """

    def __init__(self, path: Path, last_step: int) -> None:
        self.path = path
        kept = [figures for figures in read_metrics(path) if figures["step"] <= last_step]
        write_text_whole(path, "".join(map(_line, kept)))
        self._last = {_line(figures) for figures in kept if figures["step"] == last_step}

    def append(self, figures: dict[str, Any]) -> None:
        """Adds one line, unless a resumed run has it already. Floats are written so that they read back bit for bit."""
        line = _line(figures)
        if line in self._last:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line)

    def lines(self) -> list[dict[str, Any]]:
        """All there is, in the order of the file."""
        return read_metrics(self.path)

    def flush(self) -> None:
        """Returns when all lines are on the disk."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metric log; an incomplete last line is left out, a missing file is empty.

    Raises:
        RunError: a line is not an object with a step of 0 or more, or it is no file, or too large a one.
    """
    if not path.exists():
        return []
    try:
        lines = read_small(path, errors="replace", largest=LARGEST_LOG).splitlines(keepends=True)
    except OSError as error:
        what = f"can't be read: {error.strerror}"
        raise RunError(what, where=str(path), next_step="remove it: without metrics there are no curves") from error
    return [_parsed(line, f"{path}:{number}") for number, line in enumerate(lines, start=1) if line.endswith("\n")]


def _parsed(line: str, where: str) -> dict[str, Any]:
    try:
        figures = json.loads(line)
        if type(figures["step"]) is int and figures["step"] >= 0:
            return dict(figures)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise RunError("not a line of metrics", where=where, next_step="remove the line")


def _line(figures: dict[str, Any]) -> str:
    return json.dumps(figures) + "\n"
