"""Runs with random weights that have not taken a step: what conversions begin with, without a training."""

from __future__ import annotations

from pathlib import Path

from moecli.data.prepare import prepare
from moecli.recipe.load import load_recipe
from moecli.workflows.batches import model_vocab_size
from moecli.workflows.first_checkpoint import FirstCheckpoint, write_first_checkpoint
from moecli.workflows.run_dir import RunDir
from tests.convert.models import random_model


def first_run(recipe_file: Path, overrides: tuple[str, ...] = (), *, path: Path = Path("run")) -> RunDir:
    """A run folder of this recipe whose tensors are all random, biases and norms included."""
    recipe = load_recipe(recipe_file, overrides).recipe
    data = prepare(recipe.data)
    model = random_model(recipe.model, vocab_size=model_vocab_size(recipe, data.tokenizer.vocab_size))
    write_first_checkpoint(path, FirstCheckpoint(recipe, model, data.tokenizer.json, data.fingerprint, origin={}))
    return RunDir(path)
