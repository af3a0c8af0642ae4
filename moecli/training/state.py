"""The part of a checkpoint that only a resumed training needs: optimizer moments, random generators, the step.

Knows two files in a folder. Must not know the model's own files, nor where the folder is.
The data's position follows from the step (data/batches.py), and so does the learning rate (schedule.py).
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from moecli.errors import RunError
from moecli.model.checkpoint import OTHER_CHECKPOINT, read_tensors, write_tensors
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
    (folder / STATE_FILE).write_text(json.dumps({"step": step}) + "\n", encoding="utf-8")


def save_first_state(seed: int, folder: Path) -> None:
    """Writes both files of a training that has not begun: no moments, and the random generator as the seed sets it."""
    write_tensors({"random.cpu": torch.Generator().manual_seed(seed).get_state()}, folder / TENSORS_FILE)
    (folder / STATE_FILE).write_text(json.dumps({"step": 0}) + "\n", encoding="utf-8")


def load_state(trainer: Trainer, folder: Path) -> int:
    """Puts the state back into a trainer that has the checkpoint's weights already. Returns the number of steps done.

    Raises:
        RunError: a file is missing, damaged, or doesn't fit the model.
    """
    tensors = read_tensors(folder / TENSORS_FILE)
    try:
        step = int(json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"missing or damaged: {error}", where=str(folder / STATE_FILE), next_step=OTHER_CHECKPOINT) from error
    _set_random_states(tensors, trainer.device)
    if step > 0:
        _set_moments(trainer, tensors, folder)
    return step


def _set_moments(trainer: Trainer, tensors: dict[str, Tensor], folder: Path) -> None:
    moments = {name: tensor for name, tensor in tensors.items() if name.startswith("optimizer.")}
    for name, parameter in trainer.model.named_parameters():
        if not parameter.requires_grad:
            continue
        try:
            state = {key: moments[f"optimizer.{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
        except KeyError as error:
            raise RunError(f"holds no {error}", where=str(folder / TENSORS_FILE), next_step=OTHER_CHECKPOINT) from error
        trainer.optimizer.state[parameter] = {key: value.to(trainer.device, copy=True) for key, value in state.items()}


def _random_states(device: torch.device) -> dict[str, Tensor]:
    states = {"random.cpu": torch.get_rng_state()}
    return states | ({"random.cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def _set_random_states(tensors: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(tensors["random.cpu"])
    if device.type == "cuda" and "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"], device)
