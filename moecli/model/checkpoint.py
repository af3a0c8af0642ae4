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
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import moecli
from moecli.errors import RunError
from moecli.model.config import GPTConfig
from moecli.model.gpt import GPT
from moecli.model.manifest import OTHER_CHECKPOINT as OTHER_CHECKPOINT
from moecli.model.manifest import add_to_manifest, check_manifest

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"


def save_model(model: GPT, folder: Path) -> None:
    """Writes both files into an existing folder. Raises OSError where the disk refuses."""
    write_tensors(model.state_dict(), folder / WEIGHTS_FILE)
    config = {"moecli_version": moecli.__version__, "vocab_size": model.vocab_size, "model": model.config.model_dump()}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    add_to_manifest(folder, (WEIGHTS_FILE, CONFIG_FILE))


def load_model(folder: Path) -> GPT:
    """Reads a model back, on the CPU, in evaluation mode.

    Raises:
        RunError: a file of the checkpoint, one of the training state included, is missing or not as it was written; or the two don't
            fit each other.
    """
    if not folder.is_dir():
        raise RunError("there is no such folder", where=str(folder), next_step="give a folder that `moecli train` wrote")
    check_manifest(folder)
    config, vocab_size = read_config(folder / CONFIG_FILE)
    weights = read_tensors(folder / WEIGHTS_FILE)
    with torch.device("meta"):
        model = GPT(config, vocab_size)
    # The tensors that were read are views of the file, which may be cut short or removed while the model lives: they are copied.
    model.to_empty(device="cpu")
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        first_line = " ".join(str(error).split())[:300]
        what = f"the weights don't fit {CONFIG_FILE}: {first_line}"
        raise RunError(what, where=str(folder / WEIGHTS_FILE), next_step=OTHER_CHECKPOINT) from error
    return model.eval()


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
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return GPTConfig.model_validate(content["model"]), int(content["vocab_size"])
    except FileNotFoundError as error:
        raise RunError("there is no such file", where=str(path), next_step="give a folder that `moecli train` wrote") from error
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError, ValidationError) as error:
        what = f"damaged or from another version of moecli: {' '.join(str(error).split())[:300]}"
        raise RunError(what, where=str(path), next_step=OTHER_CHECKPOINT) from error
