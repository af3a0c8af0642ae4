"""A run folder that holds the weights to begin with: `moecli train RUN/recipe.yaml --out RUN --resume` trains it.

Knows the files of a run that has not taken a step. Must not know where its weights are from.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from moecli.errors import ConvertError
from moecli.model.checkpoint import save_model
from moecli.model.gpt import GPT
from moecli.recipe.load import dump_recipe
from moecli.recipe.schema import Recipe
from moecli.training.state import save_first_state
from moecli.workflows.environment import describe_environment
from moecli.workflows.run_dir import RunDir, atomic_folder, created, point_latest, write_atomically, writing


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


def check_is_free(path: Path) -> None:
    """Raises ConvertError if there is something at `path`; an empty folder is nothing."""
    nearest = next(parent for parent in path.absolute().parents if parent.exists())
    if not nearest.is_dir():
        raise ConvertError("is no folder, so nothing can be put into it", where=str(nearest), next_step="give another place")
    if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
        raise ConvertError("there is something here already", where=str(path), next_step="give another folder, or remove this one")


def write_first_checkpoint(path: Path, first: FirstCheckpoint) -> list[Path]:
    """Makes the run folder, whole or not at all. Returns its files.

    Raises:
        MachineError: the disk refuses.
    """
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        if partial.exists():
            shutil.rmtree(partial)
    with created(partial) as run:
        environment = describe_environment(torch.device("cpu"), first.recipe.seed) | {"data_fingerprint": first.data_fingerprint}
        write_atomically(run.recipe, dump_recipe(first.recipe))
        write_atomically(run.environment, json.dumps(environment, indent=2) + "\n")
        write_atomically(run.tokenizer, first.tokenizer_json)
        write_atomically(run.conversion, json.dumps(first.origin, indent=2, allow_nan=False) + "\n")
        with atomic_folder(run.checkpoint(0)) as folder:
            save_model(first.model, folder)
            save_first_state(first.recipe.seed, folder)
        point_latest(run, run.checkpoint(0))
    with writing(path):
        partial.replace(path)
    run = RunDir(path)
    files = [run.recipe, run.environment, run.tokenizer, run.conversion, *sorted(run.checkpoint(0).iterdir())]
    return [*files, run.latest]
