"""One self-contained HTML page per report: its data, its style and its script are all in the file, and nothing is loaded from elsewhere.

Knows a report as plain data, and the templates beside this file. Must not compute anything that the report doesn't hold.
"""

from __future__ import annotations

import base64
import math
from pathlib import Path
from typing import Any

import numpy as np

from moecli.reports.comparison import texts_differ
from moecli.reports.picture import visible

# In the order in which they are put together: pieces before what is built of them.
PIECES = ("data.js", "format.js", "dom.js", "tooltip.js", "colours.js", "table.js", "heatmap.js", "frame.js", "lines.js", "intervals.js")
REPORT_SCRIPTS = (
    *PIECES, "figures.js", "load.js", "training.js", "specialisation.js", "structure.js", "flows.js", "cause.js", "text.js", "main.js",
)  # fmt: skip
COMPARISON_SCRIPTS = (*PIECES, "figures.js", "load.js", "comparison.js")
DENSE_COMPARISON_SCRIPTS = (
    "data.js", "format.js", "dom.js", "tooltip.js", "table.js", "frame.js", "arms.js", "curves.js", "finals.js", "dense_comparison.js",
)  # fmt: skip

SIGNIFICANT_DIGITS = 5
# Lists of a checkpoint's layers that no drawing over training needs.
NOT_OVER_TRAINING = {"load", "importance", "dropped_by_position"}


def write_html(report: dict[str, Any], path: Path) -> None:
    """The page of one report. Parts that the report doesn't have are left out."""
    checkpoints = [
        step | {"layers": [{key: layer[key] for key in layer.keys() - NOT_OVER_TRAINING} for layer in step["layers"]]}
        for step in report["checkpoints"]
    ]
    _write_page("report.html", REPORT_SCRIPTS, path, report | {"checkpoints": checkpoints})


def write_comparison_html(comparison: dict[str, Any], path: Path) -> None:
    """The page that puts several runs side by side: their figures and their loads."""
    shown = ("name", "checkpoint", "corpus", "split", "tokens", "loss", "perplexity", "notes", "layers", "mean")
    runs = [{key: run[key] for key in shown} for run in comparison["runs"]]
    _write_page("comparison.html", COMPARISON_SCRIPTS, path, {"runs": runs, "texts_differ": texts_differ(runs)})


def write_dense_comparison_html(comparison: dict[str, Any], path: Path) -> None:
    """The page of a comparison with dense twins."""
    _write_page("dense_comparison.html", DENSE_COMPARISON_SCRIPTS, path, comparison)


def _write_page(template: str, scripts: tuple[str, ...], path: Path, content: dict[str, Any]) -> None:
    import jinja2

    loader = jinja2.PackageLoader("moecli.reports", "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.filters.update(number=_number, whole=_whole, visible=visible)

    def source(name: str) -> str:
        return loader.get_source(environment, name)[0]

    page = environment.get_template(template).render(
        report=content,
        data=compact(content),
        style="\n".join(source(name) for name in ("page.css", "figures.css")),
        script="\n".join(source(name) for name in scripts),
    )
    # A path may hold bytes that are no text; they are shown as they are written in Python.
    path.write_text(page, encoding="utf-8", errors="backslashreplace")


def _number(value: float | None) -> str:
    """With four significant digits; "–" where there is no number."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.4g}"


def _whole(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def compact(value: Any) -> Any:
    """The same data in less space: floats with SIGNIFICANT_DIGITS digits, matrices packed, None for what is no number."""
    if isinstance(value, float):
        return float(f"{value:.{SIGNIFICANT_DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: compact(content) for key, content in value.items()}
    if isinstance(value, list):
        return _packed(value) if _is_matrix(value) else [compact(content) for content in value]
    return value


def _is_matrix(rows: list[Any]) -> bool:
    """Whether all rows are lists of numbers and of equal length."""
    if not rows or not all(isinstance(row, list) and row and len(row) == len(rows[0]) for row in rows):
        return False
    return all(value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)) for row in rows for value in row)


def _packed(rows: list[list[float | None]]) -> dict[str, Any]:
    """A matrix as base64 of its little-endian numbers, about half of what digits take: int16 if that holds them, or else float32."""
    matrix = np.array([[math.nan if value is None else value for value in row] for row in rows], dtype=np.float64)
    is_small_int = bool((np.isfinite(matrix) & (matrix == np.round(matrix)) & (np.abs(matrix) < 2**15)).all())
    numbers = matrix.astype("<i2" if is_small_int else "<f4")
    return {
        "matrix": base64.b64encode(numbers.tobytes()).decode("ascii"),
        "kind": "int16" if is_small_int else "float32",
        "columns": matrix.shape[1],
    }
