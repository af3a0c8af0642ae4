"""Reports: draws numbers, computes none. A new report is a file here and a line in REPORTS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from moecli.reports.heatmap import draw_heatmap

REPORTS: dict[str, Callable[[dict[str, Any], Path], None]] = {
    "heatmap.png": draw_heatmap,
}
"""File name -> function(load report as JSON, path)."""
