"""Where a training goes: the folder of a new run, or of the one that is resumed.

Knows names, times and what a run folder has to hold. Must not write anything.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from moecli.errors import RunError
from moecli.workflows.run_dir import OUTPUTS, RunDir, checkpoint_steps, is_run_without_checkpoint


def new_run_path(name: str, out: Path | None, can_resume: bool = True) -> Path:
    """Where a new run goes, or what is no run and can't be resumed: `out`, which may be an empty folder, or outputs/<name>/<time>.

    Raises:
        RunError: there is something already.
    """
    path = out or _default_path(name)
    if can_resume and is_run_without_checkpoint(path):
        next_step = "add --resume to begin it again, remove the folder, or give another --out"
        raise RunError("a run that ended before its first checkpoint is here", where=str(path), next_step=next_step)
    is_empty = path.is_dir() and not path.is_symlink() and not any(path.iterdir())
    if not is_empty and (path.exists() or path.is_symlink()):
        next_step = "give another --out" + ", or add --resume to go on with this run" * can_resume
        raise RunError("there is something here already", where=str(path), next_step=next_step)
    nearest = next(parent for parent in path.absolute().parents if parent.exists())
    if not nearest.is_dir():
        raise RunError("is no folder, so nothing can be put into it", where=str(nearest), next_step="give another --out")
    return path


def find_run(name: str, out: Path | None) -> RunDir:
    """The run to resume: `out`, or the newest of outputs/<name>/ that has a checkpoint. A training that was killed before its first
    checkpoint is a run too, which begins again, if it is named.

    Raises:
        RunError: there is none.
    """
    if out is not None:
        if not is_begun(out):
            raise RunError("no run with a checkpoint to resume", where=str(out), next_step="leave --resume out to begin a new run")
        return RunDir(out)
    runs = sorted(path for path in (OUTPUTS / name).glob("*") if checkpoint_steps(RunDir(path)))
    if not runs:
        raise RunError("no run with a checkpoint to resume", where=str(OUTPUTS / name), next_step="name the run folder with --out")
    return RunDir(runs[-1])


def is_begun(path: Path) -> bool:
    """Whether there is a run to go on with, or one that was killed before its first checkpoint."""
    return bool(checkpoint_steps(RunDir(path))) or is_run_without_checkpoint(path)


def begun_later(run: RunDir, name: str) -> list[Path]:
    """Runs of outputs/<name>/ that are newer than this one, and were killed before their first checkpoint."""
    paths = sorted((OUTPUTS / name).glob("*"))
    return [path for path in paths if path.name > run.path.name and is_run_without_checkpoint(path)]


def _default_path(name: str) -> Path:
    """outputs/<name>/<time>, with a number behind it where another run began in the same second."""
    first = OUTPUTS / name / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    candidates = (first, *(first.with_name(f"{first.name}-{number}") for number in range(2, 1000)))
    return next(path for path in candidates if not path.exists())
