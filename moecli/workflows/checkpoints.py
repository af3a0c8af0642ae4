"""The checkpoints of a run: how one comes about whole, which of them stay, and which one a training goes on from.

Knows the folder `checkpoints` and its links. Must not know the metrics that decide which one is best.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from moecli.errors import MachineError, NotFinite, RunError
from moecli.model.checkpoint import save_model
from moecli.model.gpt import GPT
from moecli.model.manifest import check_manifest
from moecli.model.skeleton import skeleton
from moecli.parallel.whole_state import whole_model
from moecli.parallel.world import on_first
from moecli.training.state import TrainingState, training_state, write_state
from moecli.training.trainer import Trainer
from moecli.workflows.run_dir import RunDir, atomic_folder, checkpoint_steps, linked_checkpoint, point_at, writing

# For the small files of a checkpoint, and for what a file system adds to each.
SPARE_BYTES = 1 << 20


@contextmanager
def new_checkpoint(run: RunDir, step: int) -> Iterator[Path]:
    """A folder to write into, which becomes a checkpoint when its files are on the disk and are what its manifest says; then `latest`
    points at it.

    Raises:
        MachineError: the disk refuses.
        RunError: what the disk gives back is not what was written.
    """
    target = run.checkpoint(step)
    with atomic_folder(target, check=check_manifest) as folder:
        yield folder
    point_at(run.latest, target)


def save_checkpoint(run: RunDir, trainer: Trainer, step: int) -> Path:
    """Saves a training after `step` steps. A checkpoint that is there already stays: it is of this very state. Of a world every process
    has to call it, and the first one writes what all have.

    Raises:
        MachineError: there is too little room on the disk, or it refuses. The checkpoints before are as they were.
        NotFinite: a weight is no number.
    """
    target = run.checkpoint(step)
    world = trainer.world
    if on_first(world, lambda: _is_there(run, target)):
        return target
    state = training_state(trainer, step)
    model = trainer.model if world is None else whole_model(trainer.model, world)
    on_first(world, lambda: _write(run, trainer, model, state))
    return target


def _is_there(run: RunDir, target: Path) -> bool:
    if is_there := target.exists():
        point_at(run.latest, target)
    return is_there


def _write(run: RunDir, trainer: Trainer, model: GPT | None, state: TrainingState) -> None:
    assert model is not None, "the process that writes has the whole model"
    _check_weights(model, state.step)
    check_room(run, trainer)
    with new_checkpoint(run, state.step) as folder:
        save_model(model, folder)
        write_state(state, folder)


def check_room(run: RunDir, trainer: Trainer) -> None:
    """Raises MachineError where the disk has too little room for a checkpoint: weights, and two moments of each that is trained."""
    # A process of a world has only its share of some tensors.
    whole = trainer.model if trainer.world is None else skeleton(trainer.model.config, trainer.model.vocab_size)
    trained = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    weights = sum(tensor.nbytes for tensor in whole.state_dict().values())
    moments = sum(2 * parameter.nbytes for name, parameter in whole.named_parameters() if name in trained)
    needed = weights + moments + SPARE_BYTES
    with writing(run.checkpoints):
        free = shutil.disk_usage(run.checkpoints).free
    if free < needed:
        what = f"a checkpoint takes {needed / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free"
        again = "free some space and give the same command again, for `moecli train` with --resume if the run is there"
        next_step = f"{again}; training.keep_last limits how many checkpoints stay"
        raise MachineError(what, where=str(run.checkpoints), next_step=next_step)


def last_checkpoint(run: RunDir) -> Path | None:
    """The checkpoint to go on from: `latest`, or the newest one where a kill, a copy or a hand has left the link without its folder.
    None where there is none.

    Raises:
        RunError: a link is a folder, as a copy makes it that follows links: no new link could take its place. Or it points elsewhere.
    """
    for link in (run.latest, run.best):
        if link.is_dir() and not link.is_symlink():
            next_step = f"remove {link} where its checkpoint is beside it as step-N, and add --resume"
            raise RunError("a folder, where a link to a checkpoint belongs", where=str(link), next_step=next_step)
    if run.latest.exists():
        return linked_checkpoint(run.latest)
    steps = checkpoint_steps(run)
    return steps[max(steps)].resolve() if steps else None


def point_best(run: RunDir, val_losses: Mapping[int, float]) -> None:
    """Makes `best` a link to the checkpoint with the lowest validation loss; without one that was validated there is no link."""
    steps = checkpoint_steps(run)
    best = min((step for step in steps if step in val_losses), key=lambda step: (val_losses[step], step), default=None)
    with writing(run.best):
        if best is None:
            run.best.unlink(missing_ok=True)
        else:
            point_at(run.best, steps[best])


def prune(run: RunDir, keep_last: int | None) -> None:
    """Removes all checkpoints but the last so many, and those that `latest` and `best` point at. None: all stay."""
    if keep_last is None:
        return
    steps = checkpoint_steps(run)
    pointed_at = {link.resolve().name for link in (run.latest, run.best) if link.exists()}
    for step in sorted(steps)[:-keep_last]:
        if steps[step].name not in pointed_at:
            _remove(steps[step])


def begin_after(run: RunDir, step: int) -> None:
    """Readies a run to go on after `step` steps: what a kill has left half written goes, and the checkpoints of later steps. `latest`
    points at the checkpoint of this step, also where a kill came before the link."""
    with writing(run.path):
        for pattern in (".*.json-*", ".*.jsonl-*", ".*.yaml-*"):  # data/disk.py names them so
            for path in run.path.glob(pattern):
                path.unlink()
        for path in (*run.path.glob(".*.partial"), *run.checkpoints.glob(".*.partial"), *run.checkpoints.glob(".*.old")):
            path.unlink() if path.is_symlink() else shutil.rmtree(path)
        for later, path in checkpoint_steps(run).items():
            if later > step:
                _remove(path)
        if run.best.is_symlink() and not run.best.exists():
            run.best.unlink()
        if run.checkpoint(step).is_dir():
            point_at(run.latest, run.checkpoint(step))


def _remove(checkpoint: Path) -> None:
    """Under another name first: a kill half-way leaves nothing that looks like a checkpoint."""
    old = checkpoint.with_name(f".{checkpoint.name}.old")
    with writing(checkpoint):
        shutil.rmtree(old, ignore_errors=True)
        checkpoint.rename(old)
        shutil.rmtree(old)


def _check_weights(model: GPT, step: int) -> None:
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise NotFinite(f"{name} is not finite after step {step}", next_step="lower training.learning_rate")
