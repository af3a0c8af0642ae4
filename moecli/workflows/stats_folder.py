"""Where a report on routing goes, and how it gets there whole.

Knows run folders and the names of reports. Must not know what is in them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from moecli.analysis.hf_model import is_huggingface_folder
from moecli.errors import RunError
from moecli.reports import write_comparison, write_reports
from moecli.workflows.run_dir import OUTPUTS, atomic_folder, find_checkpoint

STATS_FILE = "route-stats.json"
COMPARISON_FILE = "comparison.json"


def stats_target(path: Path, out: Path | None) -> Path:
    """`out`; else in the run folder, with the name of the checkpoint if one was given; else, for a Hugging Face folder, in outputs/.

    Raises:
        RunError: something that is no report is there, or `path` is nothing that has a routing.
    """
    if out is not None:
        return _checked(out, STATS_FILE)
    if is_huggingface_folder(path):
        return _checked(OUTPUTS / path.resolve().name / "route-stats", STATS_FILE)
    run, checkpoint = find_checkpoint(path)
    is_whole_run = (path / "checkpoints").is_dir()
    return _checked(run.path / ("route-stats" if is_whole_run else f"route-stats-{checkpoint.name}"), STATS_FILE)


def comparison_target(out: Path | None) -> Path:
    """`out`, else outputs/comparison. Raises RunError where something else is there."""
    return _checked(out or OUTPUTS / "comparison", COMPARISON_FILE)


def write_stats(report: dict[str, Any], target: Path) -> list[Path]:
    """The report as JSON, CSV, pictures and a page. A report that was there before makes way."""
    with atomic_folder(target) as folder:
        names = [STATS_FILE, *write_reports(report, folder)]
        _write_json(report | {"files": names}, folder / STATS_FILE)
    return [target / name for name in names]


def write_comparison_files(comparison: dict[str, Any], target: Path) -> list[Path]:
    """The same for several reports beside each other."""
    with atomic_folder(target) as folder:
        names = [COMPARISON_FILE, *write_comparison(comparison, folder)]
        _write_json(comparison | {"files": names}, folder / COMPARISON_FILE)
    return [target / name for name in names]


def _write_json(content: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")


def _checked(target: Path, mark: str) -> Path:
    is_empty = target.is_dir() and not any(target.iterdir())
    if (target.exists() or target.is_symlink()) and not is_empty and not (target / mark).is_file():
        raise RunError(
            "there is something here that is no report of this kind, and it would be replaced",
            where=str(target),
            next_step="give another --out",
        )
    return target
