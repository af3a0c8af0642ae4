"""The part of a checkpoint that only a resumed training needs: optimizer moments, random generators, the step, rewinds.

Knows two files in a folder. Must not know the model's own files, nor where the folder is.
The data's position follows from the step (data/batches.py), and so does the learning rate (schedule.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from moecli.data.json_file import read_object
from moecli.errors import RunError
from moecli.model.checkpoint import OTHER_CHECKPOINT, read_tensors, write_tensors
from moecli.model.manifest import add_to_manifest
from moecli.training.trainer import Trainer

TENSORS_FILE = "training_state.safetensors"
STATE_FILE = "training_state.json"


def save_state(trainer: Trainer, step: int, folder: Path) -> None:
    """Writes both files into an existing folder. Raises OSError where the disk refuses."""
    tensors = _random_states(trainer.device)
    for name, parameter in trainer.model.named_parameters():
        for key, value in trainer.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = value
    write_tensors(tensors, folder / TENSORS_FILE)
    _write_steps({"step": step, "rewinds": trainer.num_rewinds}, folder)


def save_first_state(seed: int, folder: Path, moments: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Writes both files of a training that has not begun: the random generator as the seed sets it, and moments, if there are any."""
    tensors = {f"optimizer.{key}.{name}": value for name, state in moments.items() for key, value in state.items()}
    write_tensors(tensors | {"random.cpu": torch.Generator().manual_seed(seed).get_state()}, folder / TENSORS_FILE)
    _write_steps({"step": 0, "rewinds": 0}, folder)


def _write_steps(content: dict[str, int], folder: Path) -> None:
    (folder / STATE_FILE).write_text(json.dumps(content) + "\n", encoding="utf-8")
    add_to_manifest(folder, (TENSORS_FILE, STATE_FILE))


def load_state(trainer: Trainer, folder: Path) -> int:
    """Puts the state back into a trainer that has the checkpoint's weights already. Returns the number of steps done.

    Raises:
        RunError: a file is missing, damaged, or doesn't fit the model.
    """
    tensors = read_tensors(folder / TENSORS_FILE)
    content = read_object(folder / STATE_FILE, OTHER_CHECKPOINT)
    step, num_rewinds = content.whole_number("step"), content.whole_number("rewinds", default=0)
    try:
        _set_random_states(tensors, trainer.device)
    except (KeyError, RuntimeError, TypeError) as error:
        what = f"holds no state of the random generator: {error}"
        raise RunError(what, where=str(folder / TENSORS_FILE), next_step=OTHER_CHECKPOINT) from error
    trainer.num_rewinds = num_rewinds
    _set_moments(trainer, _moments(tensors), folder, is_complete=step > 0)
    return step


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


def _set_moments(trainer: Trainer, moments: dict[str, dict[str, Tensor]], folder: Path, *, is_complete: bool) -> None:
    """Only before the first step may a parameter have none: it begins anew."""
    for name, parameter in trainer.model.named_parameters():
        if not parameter.requires_grad or not (is_complete or name in moments):
            continue
        try:
            state = {key: moments[name][key] for key in ("step", "exp_avg", "exp_avg_sq")}
        except KeyError as error:
            what = f"holds no optimizer state {error} of {name}"
            raise RunError(what, where=str(folder / TENSORS_FILE), next_step=OTHER_CHECKPOINT) from error
        trainer.optimizer.state[parameter] = {key: value.to(trainer.device, copy=True) for key, value in state.items()}


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
