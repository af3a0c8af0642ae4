"""The map of a run folder, and how one comes into being and is found again.

Knows every file name of a run. Must not know what is in the files.

    recipe.yaml  tokenizer.json  environment.json  metrics.jsonl
    checkpoints/step-N/  checkpoints/latest -> step-N
    routing/load.json  routing/heatmap.png      by train
    conversion.json                             by convert
    result.json                                 by train, last of all: it is there where a training is finished
    route-stats/  route-stats-step-N/           by route-stats
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from moecli.data.disk import disk_errors, write_text_whole
from moecli.errors import RunError

OUTPUTS = Path("outputs")
NEXT_STEP = "give another --out, or free some space there"
REMOVE_OR_RENAME = "remove the folder, or give another --out"


@dataclass(frozen=True, slots=True)
class RunDir:
    """Where everything of one run lies."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer.json"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def latest(self) -> Path:
        return self.checkpoints / "latest"

    @property
    def routing(self) -> Path:
        return self.path / "routing"

    @property
    def conversion(self) -> Path:
        return self.path / "conversion.json"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step-{step}"


def new_run_path(name: str, out: Path | None) -> Path:
    """Where a new run goes: `out`, or outputs/<name>/<time>.

    Raises:
        RunError: there is something already.
    """
    path = out or _default_path(name)
    if is_run_without_checkpoint(path):
        raise RunError("a run that ended before its first checkpoint is here", where=str(path), next_step=REMOVE_OR_RENAME)
    if path.exists() or path.is_symlink():
        raise RunError(
            "there is something here already", where=str(path), next_step="give another --out, or add --resume to go on with this run"
        )
    nearest = next(parent for parent in path.absolute().parents if parent.exists())
    if not nearest.is_dir():
        raise RunError("is no folder, so nothing can be put into it", where=str(nearest), next_step="give another --out")
    return path


def find_run(name: str, out: Path | None) -> RunDir:
    """The run to resume: `out`, or the newest of outputs/<name>/ that has a checkpoint.

    Raises:
        RunError: there is none.
    """
    if out is not None:
        if is_run_without_checkpoint(out):
            raise RunError("this run ended before its first checkpoint", where=str(out), next_step=REMOVE_OR_RENAME)
        if not (out / "checkpoints" / "latest").exists():
            raise RunError("no run with a checkpoint to resume", where=str(out), next_step="leave --resume out to begin a new run")
        return RunDir(out)
    runs = sorted(path for path in (OUTPUTS / name).glob("*") if (path / "checkpoints" / "latest").exists())
    if not runs:
        raise RunError("no run with a checkpoint to resume", where=str(OUTPUTS / name), next_step="name the run folder with --out")
    return RunDir(runs[-1])


def is_run_without_checkpoint(path: Path) -> bool:
    """Whether a training was killed here before it had anything to go on with."""
    return (path / "checkpoints").is_dir() and not (path / "checkpoints" / "latest").exists()


def _default_path(name: str) -> Path:
    """outputs/<name>/<time>, with a number behind it where another run began in the same second."""
    first = OUTPUTS / name / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    candidates = (first, *(first.with_name(f"{first.name}-{number}") for number in range(2, 1000)))
    return next(path for path in candidates if not path.exists())


def find_checkpoint(path: Path, or_else: str = "") -> tuple[RunDir, Path]:
    """The run and the checkpoint that a RUN argument means: a run folder (its latest) or a checkpoint folder in one.

    `or_else` is what the caller takes beside them, for the message.

    Raises:
        RunError: it is neither.
    """
    if not path.exists():
        raise RunError("there is no such folder", where=str(path), next_step="`moecli train RECIPE` makes one and says where")
    if (path / "checkpoints" / "latest").exists():
        return RunDir(path), (path / "checkpoints" / "latest").resolve()
    if (path / "model.safetensors").is_file():
        checkpoint = path.resolve()
        run = RunDir(checkpoint.parent.parent)
        if run.recipe.is_file():
            return run, checkpoint
        raise RunError(
            "a checkpoint outside its run folder", where=str(path), next_step="give a checkpoint inside a run folder, with its recipe.yaml"
        )
    raise RunError(
        "neither a run folder nor a checkpoint",
        where=str(path),
        allowed=", or ".join(["a folder with checkpoints/latest in it", "one such as checkpoints/step-300", *filter(None, [or_else])]),
        next_step="give the run folder that `moecli train` named",
    )


@contextmanager
def created(path: Path) -> Iterator[RunDir]:
    """A new run folder that goes away again, with the parents made for it, if the body fails before the first checkpoint."""
    new_parents = [parent for parent in path.parents if not parent.exists()]
    run = RunDir(path)
    try:
        with writing(path):
            run.checkpoints.mkdir(parents=True)
        yield run
    except BaseException:
        if not run.latest.exists():
            shutil.rmtree(path, ignore_errors=True)
            with suppress(OSError):
                for parent in new_parents:
                    parent.rmdir()
        raise


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `target` when the body is done and its files are on the disk, and vanishes if it fails.

    A `target` that is there already is exchanged for the new one.
    """
    partial = target.with_name(f".{target.name}.partial")
    old = target.with_name(f".{target.name}.old")
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        with writing(target):
            partial.mkdir(parents=True)
            yield partial
            for path in partial.iterdir():
                # safetensors makes files that their owner alone can read: they get the permissions of the folder.
                path.chmod(partial.stat().st_mode & 0o666)
                _flush(path)
            _flush(partial)
            if target.exists():
                target.rename(old)
            partial.replace(target)
            shutil.rmtree(old, ignore_errors=True)
            _flush(target.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file's text; a reader sees the old or the new, never a part."""
    with writing(path):
        write_text_whole(path, text)


def remove_what_came_after(run: RunDir, step: int) -> None:
    """Removes the checkpoints of steps after this one, and the result: a training that goes on from here will make its own."""
    with writing(run.path):
        run.result.unlink(missing_ok=True)
        for path in run.checkpoints.glob("step-*"):
            if path.name.removeprefix("step-").isdigit() and int(path.name.removeprefix("step-")) > step:
                shutil.rmtree(path)


def point_latest(run: RunDir, checkpoint: Path) -> None:
    """Makes checkpoints/latest a link to this checkpoint."""
    link = run.checkpoints / ".latest.partial"
    with writing(run.latest):
        link.unlink(missing_ok=True)
        link.symlink_to(checkpoint.name)
        link.replace(run.latest)


def writing(path: Path) -> AbstractContextManager[None]:
    """Turns what the disk refuses inside the block into a message with the place."""
    return disk_errors(str(path), NEXT_STEP)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
