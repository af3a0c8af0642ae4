"""A run folder that holds the weights to begin with: `moecli train RUN/recipe.yaml --out RUN --resume` trains it.

Knows the files of a run that has not taken a step. Must not know where its weights are from.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moecli.data.tokenizer_config import TokenizerFileConfig
from moecli.errors import ConvertError
from moecli.model.checkpoint import CONFIG_FILE, WEIGHTS_FILE, save_model
from moecli.model.gpt import GPT
from moecli.model.manifest import MANIFEST_FILE
from moecli.recipe.load import dump_recipe
from moecli.recipe.schema import Recipe
from moecli.training.state import STATE_FILE, TENSORS_FILE, save_first_state
from moecli.workflows.checkpoints import new_checkpoint
from moecli.workflows.environment import describe_environment
from moecli.workflows.run_dir import RunDir, created, write_atomically, writing


@dataclass(frozen=True, slots=True)
class FirstCheckpoint:
    """What a run begins with."""

    recipe: Recipe
    model: GPT
    tokenizer_json: str
    data_fingerprint: str | None
    """Of the text that it will be trained on (data/prepare.py); None where that is not known."""
    origin: Mapping[str, Any]
    """How the weights came about, for conversion.json."""
    moments: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """AdamW's state of each parameter that does not begin anew (training/state.py)."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """What environment.json says beside the machine and the text."""


def first_files(run: RunDir) -> list[Path]:
    """What `write_first_checkpoint` makes."""
    names = (CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE, STATE_FILE, TENSORS_FILE)
    of_run = [run.recipe, run.environment, run.tokenizer, run.conversion]
    return [*of_run, *(run.checkpoint(0) / name for name in names), run.latest]


def check_is_free(path: Path) -> None:
    """Raises ConvertError if there is something at `path`, or it is among a run's checkpoints; an empty folder is nothing."""
    other = "name a folder that isn't there yet"
    if path.name in ("", ".."):
        raise ConvertError("names no folder to be made", where=str(path), next_step=other)
    try:
        is_taken = path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir())))
    except OSError as error:
        raise ConvertError(f"can't be made: {error.strerror}", where=str(path), next_step="name another folder") from error
    if is_taken:
        raise ConvertError("there is something here already", where=str(path), next_step=other)
    folder = path.absolute().parent
    if folder.name == "checkpoints" and RunDir(folder.parent).recipe.is_file():
        raise ConvertError("is among the checkpoints of a run", where=str(path), next_step="name a folder outside that run")
    nearest = next(parent for parent in path.absolute().parents if parent.exists())
    if not nearest.is_dir():
        raise ConvertError("is no folder, so nothing can be put into it", where=str(nearest), next_step="name another folder")


def write_first_checkpoint(path: Path, first: FirstCheckpoint) -> list[Path]:
    """Makes the run folder, whole or not at all. Returns its files.

    A recipe that reads its tokenizer from a file reads the run's own, so that the new run needs no other folder.

    Raises:
        MachineError: the disk refuses.
    """
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        if partial.exists():
            shutil.rmtree(partial)
    try:
        _fill(partial, path, first)
        with writing(path):
            partial.replace(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return first_files(RunDir(path))


def _fill(partial: Path, path: Path, first: FirstCheckpoint) -> None:
    """Writes the run that will be at `path` into another folder, which may be left half-written."""
    with created(partial) as run:
        machine = describe_environment(torch.device("cpu"), first.recipe.seed)
        environment = machine | dict(first.environment) | {"data_fingerprint": first.data_fingerprint}
        write_atomically(run.recipe, dump_recipe(_with_own_tokenizer(first.recipe, RunDir(path))))
        write_atomically(run.environment, json.dumps(environment, indent=2) + "\n")
        write_atomically(run.tokenizer, first.tokenizer_json)
        write_atomically(run.conversion, json.dumps(first.origin, indent=2, allow_nan=False) + "\n")
        with new_checkpoint(run, 0) as folder:
            save_model(first.model, folder)
            save_first_state(first.recipe.seed, folder, first.moments)


def _with_own_tokenizer(recipe: Recipe, run: RunDir) -> Recipe:
    if not isinstance(recipe.data.tokenizer, TokenizerFileConfig):
        return recipe
    own = TokenizerFileConfig(path=str(run.tokenizer.absolute()))
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"tokenizer": own})})
