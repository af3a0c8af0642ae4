"""Where a report goes, and how it gets there whole.

Knows run folders and the names of reports. Must not know what is in them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from moecli.analysis.hf_folder import is_huggingface_folder
from moecli.data.small_file import read_small
from moecli.errors import RunError
from moecli.reports import write_comparison, write_dense_comparison, write_reports
from moecli.workflows.run_dir import OUTPUTS, atomic_folder, find_checkpoint

STATS_FILE = "route-stats.json"
COMPARISON_FILE = "comparison.json"
DENSE_COMPARISON_FILE = "compare-dense.json"
OTHER_OUT = "give another --out"


def stats_target(path: Path, out: Path | None) -> Path:
    """`out`; else in the run folder, with the name of the checkpoint if one was given; else, for a Hugging Face folder, in outputs/.

    Raises:
        RunError: a report can't be put there without harm, or `path` is nothing that has a routing.
    """
    if is_huggingface_folder(path):
        return _checked(out or OUTPUTS / path.resolve().name / "route-stats", STATS_FILE)
    run, checkpoint = find_checkpoint(path, or_else="a Hugging Face folder with a config.json")
    is_whole_run = (path / "checkpoints").is_dir()
    return _checked(out or run.path / ("route-stats" if is_whole_run else f"route-stats-{checkpoint.name}"), STATS_FILE)


def comparison_target(out: Path | None) -> Path:
    """`out`, else outputs/comparison. Raises RunError where a comparison can't be put without harm."""
    return _checked(out or OUTPUTS / "comparison", COMPARISON_FILE)


def dense_comparison_target(folder: Path) -> Path:
    """report/ in the folder of a comparison with dense models. Raises RunError where it can't be put without harm."""
    return _checked(folder / "report", DENSE_COMPARISON_FILE)


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


def write_dense_comparison_files(content: dict[str, Any], target: Path) -> list[Path]:
    """The same for an MoE beside its dense twins."""
    with atomic_folder(target) as folder:
        names = [DENSE_COMPARISON_FILE, *write_dense_comparison(content, folder)]
        _write_json(content | {"files": names}, folder / DENSE_COMPARISON_FILE)
    return [target / name for name in names]


def _write_json(content: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")


def _checked(target: Path, mark: str) -> Path:
    """The folder, where it is not there yet, is empty, or holds a report of this kind and nothing else: it will be replaced as a whole."""
    # The folder that a link leads to is replaced, not the link; and "." and ".." are no names.
    target = target.resolve() if target.is_symlink() or target.name in ("", "..") else target
    nearest = next(place for place in (target, *target.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise RunError("is no folder, so no report can be put into it", where=str(nearest), next_step=OTHER_OUT)
    if Path.cwd().is_relative_to(target.resolve()) or target.is_mount():
        raise RunError(
            "this folder can't be replaced by a report: you work in it, or a disk begins here", where=str(target), next_step=OTHER_OUT
        )
    if not os.access(nearest if nearest != target else target.absolute().parent, os.W_OK):
        raise RunError("no permission to write here", where=str(nearest), next_step=OTHER_OUT)
    if target.is_dir():
        foreign = sorted({path.name for path in target.iterdir()} - _files_of_report(target, mark))
        if foreign:
            what = f"{foreign[0]} is here, which is not of a report of this kind, and would be lost"
            raise RunError(what, where=str(target), next_step=OTHER_OUT)
    return target


def _files_of_report(folder: Path, mark: str) -> set[str]:
    """The names of the files that the report in this folder consists of; none where there is no sound one."""
    try:
        files = json.loads(read_small(folder / mark))["files"]
        return {mark, *map(str, files)}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()
