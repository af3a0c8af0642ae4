"""A model on disk: `model.safetensors` and `config.json` in one folder, entered in its manifest.

Knows the two files. Must not know run folders, nor the state of training.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

import moecli
from moecli.data.json_file import read_object
from moecli.errors import MachineError, RunError
from moecli.model.config import GPTConfig
from moecli.model.device import check_memory
from moecli.model.gpt import GPT
from moecli.model.manifest import OTHER_CHECKPOINT as OTHER_CHECKPOINT
from moecli.model.manifest import add_to_manifest, check_manifest
from moecli.model.skeleton import skeleton

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"


def save_model(model: GPT, folder: Path) -> None:
    """Writes both files into an existing folder. Raises OSError where the disk refuses."""
    write_tensors(model.state_dict(), folder / WEIGHTS_FILE)
    config = {"moecli_version": moecli.__version__, "vocab_size": model.vocab_size, "model": model.config.model_dump()}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    add_to_manifest(folder, (WEIGHTS_FILE, CONFIG_FILE))


def load_model(folder: Path) -> GPT:
    """Reads a model back, on the CPU, in evaluation mode. What config.json says is held against the names and shapes in the header of the
    weights before anything is built.

    Raises:
        RunError: a file of the checkpoint, one of the training state included, is missing or not as it was written; or the two don't
            fit each other.
        MachineError: the weights are more than the memory.
    """
    if not folder.is_dir():
        raise RunError("there is no such folder", where=str(folder), next_step="give a folder that `moecli train` wrote")
    check_manifest(folder)
    config, vocab_size = read_config(folder / CONFIG_FILE)
    model = _fitting_skeleton(config, vocab_size, folder / WEIGHTS_FILE)
    num_bytes = sum(tensor.nbytes for tensor in model.state_dict().values())
    check_memory(num_bytes, torch.device("cpu"), f"the model in {folder}", "use a machine with more memory")
    # The tensors that were read are views of the file, which may be cut short or removed while the model lives: they are copied.
    weights = read_tensors(folder / WEIGHTS_FILE)
    model.to_empty(device="cpu")
    model.load_state_dict(weights, strict=True)
    return model.eval()


def _fitting_skeleton(config: GPTConfig, vocab_size: int, path: Path) -> GPT:
    """The model without memory, whose tensors are those of a file of weights.

    Raises:
        RunError: the file can't be read, or its tensors are others.
    """
    there = _shapes(path)
    num_layers = len({name.split(".")[1] for name in there if name.startswith("blocks.")})
    if num_layers != config.num_layers:  # first: time and memory grow with the layers also where they hold no numbers
        raise _misfit(f"it has {num_layers:,} layers, {CONFIG_FILE} says {config.num_layers:,}", path)
    try:
        model = skeleton(config, vocab_size)
    except MachineError as error:
        raise _misfit(error.what, path) from error
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in sorted(wanted.keys() | there.keys()):
        if wanted.get(name) != there.get(name):
            raise _misfit(f"{name} is {_shape_text(there.get(name))}, by {CONFIG_FILE} {_shape_text(wanted.get(name))}", path)
    return model


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """What the header of a safetensors file says; the numbers are not read."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except (SafetensorError, OSError) as error:
        raise RunError(f"damaged: {error}", where=str(path), next_step=OTHER_CHECKPOINT) from error


def _shape_text(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else f"of shape {list(shape)}"


def _misfit(what: str, path: Path) -> RunError:
    return RunError(f"the weights don't fit {CONFIG_FILE}: {what}", where=str(path), next_step=OTHER_CHECKPOINT)


def write_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Writes a safetensors file. Raises OSError where the disk refuses."""
    contents = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(contents, path, metadata={"format": "pt"})
    except SafetensorError as error:
        # The library's own class for any failed write; the system's number stands in its text only.
        number = re.search(r"os error (\d+)", str(error))
        raise (OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))) from error


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file.

    Raises:
        RunError: it is missing or damaged.
    """
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise RunError("there is no such file", where=str(path), next_step="give a folder that `moecli train` wrote") from error
    except (SafetensorError, OSError) as error:
        raise RunError(f"damaged: {error}", where=str(path), next_step=OTHER_CHECKPOINT) from error


def read_config(path: Path) -> tuple[GPTConfig, int]:
    """The shape and the size of the vocabulary that a config.json of moecli holds.

    Raises:
        RunError: it is missing or damaged.
    """
    file = read_object(path, OTHER_CHECKPOINT)
    vocab_size, shape = file.whole_number("vocab_size", least=1), file.value("model")
    try:
        return GPTConfig.model_validate(shape), vocab_size
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(["model", *(str(part) for part in first["loc"])])
        what = f"damaged or from another version of moecli: {key}: {first['msg']}"
        raise RunError(what[:300], where=str(path), next_step=OTHER_CHECKPOINT) from error
