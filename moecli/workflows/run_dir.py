"""The map of a run folder, and how one comes into being and is found again.

Knows every file name of a run. Must not know what is in the files.

    recipe.yaml  tokenizer.json  environment.json  metrics.jsonl
    checkpoints/step-N/  checkpoints/latest -> step-N  checkpoints/best -> step-N
    routing/load.json  routing/heatmap.png      by train
    conversion.json                             by convert
    result.json                                 by train, last of all: it is there where a training is finished
    route-stats/  route-stats-step-N/           by route-stats
    .lock                                       held by the process that trains here
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from moecli.data.disk import disk_errors, write_text_whole
from moecli.errors import RunError

OUTPUTS = Path("outputs")
NEXT_STEP = "free some space there, or name another folder"
LOCK_FILE = ".lock"


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
    def best(self) -> Path:
        return self.checkpoints / "best"

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


def is_run_without_checkpoint(path: Path) -> bool:
    """Whether a training was killed here before it had anything to go on with."""
    if not path.is_dir():
        return False
    has_nothing = {child.name for child in path.iterdir()} == {LOCK_FILE}
    return has_nothing or ((path / "checkpoints").is_dir() and not checkpoint_steps(RunDir(path)))


def checkpoint_steps(run: RunDir) -> dict[int, Path]:
    """The checkpoints that there are by their steps. They are whole: each was renamed into place."""
    numbered = ((step_of(path), path) for path in run.checkpoints.glob("step-*") if path.is_dir())
    return {step: path for step, path in numbered if step is not None}


def step_of(checkpoint: Path) -> int | None:
    """The step that a checkpoint folder is named after, as `RunDir.checkpoint` names it; None of any other name."""
    name = re.fullmatch(r"step-(0|[1-9][0-9]{0,9})", checkpoint.name)
    return None if name is None else int(name[1])


def find_checkpoint(path: Path, or_else: str = "") -> tuple[RunDir, Path]:
    """The run and the checkpoint that a RUN argument means: a run folder (its latest) or a checkpoint folder in one.

    `or_else` is what the caller takes beside them, for the message.

    Raises:
        RunError: it is neither.
    """
    if not path.exists():
        raise RunError("there is no such folder", where=str(path), next_step="`moecli train RECIPE` makes one and says where")
    if (path / "checkpoints" / "latest").exists():
        return RunDir(path), linked_checkpoint(RunDir(path).latest)
    if (path / "model.safetensors").is_file():
        checkpoint = path.resolve()
        run = RunDir(checkpoint.parent.parent)
        if run.recipe.is_file():
            return run, checkpoint
        raise RunError(
            "a checkpoint outside its run folder", where=str(path), next_step="give a checkpoint inside a run folder, with its recipe.yaml"
        )
    next_step = "give the run folder that `moecli train` named"
    if not or_else and (path / "config.json").is_file():
        next_step = f"if it is a Hugging Face folder: `moecli convert {path} NEW_RUN` makes a run of it"
    raise RunError(
        "neither a run folder nor a checkpoint",
        where=str(path),
        allowed=", or ".join(["a folder with checkpoints/latest in it", "one such as checkpoints/step-300", *filter(None, [or_else])]),
        next_step=next_step,
    )


def linked_checkpoint(link: Path) -> Path:
    """The checkpoint that `latest` or `best` points at.

    Raises:
        RunError: it lies elsewhere: a run from a stranger could name any folder of ours.
    """
    checkpoint = link.resolve()
    if checkpoint.parent != link.parent.resolve():
        next_step = f"remove the link, and give a checkpoint itself: {link.parent}/step-N"
        raise RunError("points out of the run's checkpoints", where=str(link), allowed="a link to a folder beside it", next_step=next_step)
    return checkpoint


@contextmanager
def created(path: Path, lock: AbstractContextManager[None] | None = None) -> Iterator[RunDir]:
    """A new run folder that goes away again, with the parents made for it, if the body fails before the first checkpoint.

    Args:
        path: where; an empty folder may be there, or one that holds no more than the lock.
        lock: held from before the folder is filled until after it has gone away.

    Raises:
        RunError: another process has begun a run there since the caller looked.
    """
    new_parents = [parent for parent in path.parents if not parent.exists()]
    run = RunDir(path)
    try:
        with lock or nullcontext():
            if run.checkpoints.exists():
                raise RunError("there is a run here already", where=str(path), next_step="give another --out")
            try:
                with writing(path):
                    run.checkpoints.mkdir(parents=True)
                yield run
            except BaseException:
                if not checkpoint_steps(run):
                    shutil.rmtree(path, ignore_errors=True)
                raise
    except BaseException:
        for folder in (path, *new_parents):
            with suppress(OSError):  # it is not empty, or gone
                folder.rmdir()
        raise


@contextmanager
def atomic_folder(target: Path, check: Callable[[Path], None] = lambda folder: None) -> Iterator[Path]:
    """A folder to write into, which becomes `target` when the body is done and its files are on the disk, and vanishes if it fails.

    A `target` that is there already is exchanged for the new one.

    Args:
        target: the folder's place.
        check: looks at the written folder, and raises where it must not become `target`.
    """
    partial = target.with_name(f".{target.name}.partial")
    old = target.with_name(f".{target.name}.old")
    if old.exists() and not target.exists():  # killed between the two renames below
        old.rename(target)
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
            check(partial)
            if target.exists():
                target.rename(old)
            partial.replace(target)
            shutil.rmtree(old, ignore_errors=True)
            _flush(target.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not target.exists():  # the second renaming failed
            old.rename(target)
        raise


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file's text; a reader sees the old or the new, never a part."""
    with writing(path):
        write_text_whole(path, text)


def point_latest(run: RunDir, checkpoint: Path) -> None:
    """Makes checkpoints/latest a link to this checkpoint."""
    point_at(run.latest, checkpoint)


def point_at(link: Path, checkpoint: Path) -> None:
    """Makes `link`, in the same folder, one to this checkpoint; a reader sees the old or the new."""
    partial = link.with_name(f".{link.name}.partial")
    with writing(link):
        partial.unlink(missing_ok=True)
        partial.symlink_to(checkpoint.name)
        partial.replace(link)
        _flush(link.parent)


def writing(path: Path) -> AbstractContextManager[None]:
    """Turns what the disk refuses inside the block into a message with the place."""
    return disk_errors(str(path), NEXT_STEP)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
