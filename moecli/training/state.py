"""The part of a checkpoint that only a resumed training needs: optimizer moments, random generators, the step, rewinds.

Knows two files in a folder. Must not know the model's own files, nor where the folder is.
The data's position follows from the step (data/batches.py), and so does the learning rate (schedule.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from moecli.data.json_file import read_object
from moecli.errors import RunError
from moecli.model.checkpoint import OTHER_CHECKPOINT, read_tensors, write_tensors
from moecli.model.manifest import add_to_manifest
from moecli.parallel.whole_state import place_moments, reshard, whole_tensors
from moecli.parallel.world import World
from moecli.training.trainer import Trainer

TENSORS_FILE = "training_state.safetensors"
STATE_FILE = "training_state.json"


@dataclass(frozen=True, slots=True)
class TrainingState:
    """What both files hold, as one process has it, however many train."""

    step: int
    """Steps done."""
    num_rewinds: int
    tensors: dict[str, Tensor]
    """`optimizer.{key}.{name of the parameter}`, and `random.{device}`."""


def training_state(trainer: Trainer, step: int) -> TrainingState:
    """After `step` steps. Of a world every process has to call it, and the first one's has the tensors of all, on the CPU."""
    if trainer.world is not None:
        reshard(trainer.model)
    tensors = _random_states(trainer.device)
    moments: dict[str, dict[str, Tensor]] = {}
    for name, parameter in trainer.model.named_parameters():
        for key, value in trainer.optimizer.state.get(parameter, {}).items():
            moments.setdefault(key, {})[name] = value
    for key, of_parameters in moments.items():
        if trainer.world is not None:
            of_parameters = whole_tensors(trainer.model, of_parameters, trainer.world)
        tensors |= {f"optimizer.{key}.{name}": value for name, value in of_parameters.items()}
    return TrainingState(step, trainer.num_rewinds, tensors)


def write_state(state: TrainingState, folder: Path) -> None:
    """Writes both files into an existing folder. Raises OSError where the disk refuses."""
    write_tensors(state.tensors, folder / TENSORS_FILE)
    content = {"step": state.step, "rewinds": state.num_rewinds}
    (folder / STATE_FILE).write_text(json.dumps(content) + "\n", encoding="utf-8")
    add_to_manifest(folder, (TENSORS_FILE, STATE_FILE))


def save_first_state(seed: int, folder: Path, moments: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Writes both files of a training that has not begun: the random generator as the seed sets it, and moments, if there are any."""
    tensors = {f"optimizer.{key}.{name}": value for name, state in moments.items() for key, value in state.items()}
    write_state(TrainingState(0, 0, tensors | {"random.cpu": torch.Generator().manual_seed(seed).get_state()}), folder)


def load_state(trainer: Trainer, folder: Path) -> int:
    """Puts the state back into a trainer that has the checkpoint's weights already. Returns the number of steps done.

    Of a world every process has to call it; the first one alone reads the folder.

    Raises:
        RunError: a file is missing, damaged, or doesn't fit the model.
    """
    if trainer.world is not None:
        return _load_into_world(trainer, trainer.world, folder)
    state = _read_state(folder)
    try:
        _set_random_states(state.tensors, trainer.device)
    except (KeyError, RuntimeError, TypeError) as error:
        what = f"holds no state of the random generator: {error}"
        raise RunError(what, where=str(folder / TENSORS_FILE), next_step=OTHER_CHECKPOINT) from error
    trainer.num_rewinds = state.num_rewinds
    for name, moments in _fitting_moments(trainer, state, folder).items():
        parameter = trainer.model.get_parameter(name)
        trainer.optimizer.state[parameter] = {key: value.to(trainer.device, copy=True) for key, value in moments.items()}
    return state.step


def _load_into_world(trainer: Trainer, world: World, folder: Path) -> int:
    """Random generators are not set back: each step of a world sets its own."""
    moments: dict[str, dict[str, Tensor]] | None = None
    numbers = (0, 0)
    with world.together():
        if world.is_first:
            state = _read_state(folder)
            numbers, moments = (state.step, state.num_rewinds), _fitting_moments(trainer, state, folder)
    step, trainer.num_rewinds = world.broadcast_object(numbers)
    reshard(trainer.model)
    place_moments(trainer.model, trainer.optimizer, moments, world)
    return step


def _read_state(folder: Path) -> TrainingState:
    tensors = read_tensors(folder / TENSORS_FILE)
    content = read_object(folder / STATE_FILE, OTHER_CHECKPOINT)
    return TrainingState(content.whole_number("step"), content.whole_number("rewinds", default=0), tensors)


def read_moments(folder: Path) -> dict[str, dict[str, Tensor]]:
    """AdamW's `step`, `exp_avg` and `exp_avg_sq` of each parameter that a checkpoint has them of, by the parameter's name.

    Raises:
        RunError: the file is missing or damaged.
    """
    return _moments(read_tensors(folder / TENSORS_FILE))


def _moments(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    moments: dict[str, dict[str, Tensor]] = {}
    for full_name, tensor in tensors.items():
        kind, key, name = (*full_name.split(".", 2), "")[:3]
        if kind == "optimizer":
            moments.setdefault(name, {})[key] = tensor
    return moments


def _fitting_moments(trainer: Trainer, state: TrainingState, folder: Path) -> dict[str, dict[str, Tensor]]:
    """By the parameter's name. Only before the first step may a parameter have none: it begins anew."""
    moments, fitting = _moments(state.tensors), {}
    for name, parameter in trainer.model.named_parameters():
        if not parameter.requires_grad or not (state.step > 0 or name in moments):
            continue
        try:
            fitting[name] = {key: moments[name][key] for key in ("step", "exp_avg", "exp_avg_sq")}
        except KeyError as error:
            what = f"holds no optimizer state {error} of {name}"
            raise RunError(what, where=str(folder / TENSORS_FILE), next_step=OTHER_CHECKPOINT) from error
    return fitting


def _random_states(device: torch.device) -> dict[str, Tensor]:
    states = {"random.cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["random.cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        states["random.mps"] = torch.mps.get_rng_state()
    return states


def _set_random_states(tensors: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(tensors["random.cpu"])
    if device.type == "cuda" and "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"], device)
    if device.type == "mps" and "random.mps" in tensors:
        torch.mps.set_rng_state(tensors["random.mps"])
