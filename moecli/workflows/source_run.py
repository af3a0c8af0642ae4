"""A run whose weights become the first ones of another run: what every conversion from run to run begins with.

Knows run folders and whether two of them read the same tokens. Must not know what becomes of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from moecli.data.prepare import prepare
from moecli.data.tokenizer import Tokenizer
from moecli.errors import ConvertError, RunError
from moecli.model.checkpoint import OTHER_CHECKPOINT, WEIGHTS_FILE, load_model
from moecli.model.gpt import GPT
from moecli.recipe.load import load_recipe
from moecli.recipe.schema import Recipe
from moecli.training.state import read_moments
from moecli.workflows.opened_run import check_fits
from moecli.workflows.resume import data_fingerprint
from moecli.workflows.run_dir import RunDir, find_checkpoint

# A notice where `data_fingerprint` gives None.
NO_TEXT = "the text of the source is not known: before it can be trained, the new run needs one (--set data.corpus...)"


@dataclass(frozen=True, slots=True)
class SourceRun:
    """A checkpoint, in memory, and its run."""

    run: RunDir
    checkpoint: Path
    recipe: Recipe
    model: GPT
    """On the CPU, in evaluation mode."""
    tokenizer: Tokenizer

    def data_fingerprint(self, recipe: Recipe) -> str | None:
        """Of the text that a recipe trains on, in this run's tokens; None where the recipe has this run's text and that is not known.

        Raises:
            ConvertError: the recipe's tokenizer is another.
            RunError: the run's environment.json is missing or damaged.
            DataError: the text can't be read.
        """
        own = self.recipe.data
        if recipe.data.model_copy(update={"cache_dir": own.cache_dir, "seq_len": own.seq_len}) == own:
            return data_fingerprint(self.run, next_step="use another run")
        data = prepare(recipe.data)
        if data.tokenizer.content_hash != self.tokenizer.content_hash:
            what = "the tokenizer of this recipe is not that of the source, so ids would mean other text"
            next_step = f"--set data.tokenizer.kind=file --set data.tokenizer.path={self.run.tokenizer}"
            raise ConvertError(what, where="data.tokenizer", next_step=next_step)
        return data.fingerprint

    def moments(self) -> dict[str, dict[str, Tensor]]:
        """AdamW's state of each parameter that was trained (training/state.py).

        Raises:
            ConvertError: there is none.
            RunError: it is damaged.
        """
        moments = read_moments(self.checkpoint)
        if not moments:
            what = "there is no optimizer state in it: nothing was trained before this checkpoint"
            raise ConvertError(what, where=str(self.checkpoint), next_step="leave --carry-optimizer out")
        return moments


def is_run(path: Path) -> bool:
    """Whether a path means a run, or a checkpoint in one."""
    try:
        find_checkpoint(path)
    except RunError:
        return False
    return True


def open_source(path: Path) -> SourceRun:
    """Reads a run folder, or a checkpoint in one.

    Raises:
        ConvertError: a weight is no number.
        RunError: there is no run, or it is damaged.
    """
    run, checkpoint = find_checkpoint(path)
    recipe, model, tokenizer = load_recipe(run.recipe).recipe, load_model(checkpoint), Tokenizer.load(run.tokenizer)
    check_fits(model.config, model.vocab_size, recipe, tokenizer, checkpoint)
    bad = _not_finite(model)
    if bad is not None:
        where = str(checkpoint / WEIGHTS_FILE)
        raise ConvertError(f"{bad} holds numbers that are none (NaN or infinite)", where=where, next_step=OTHER_CHECKPOINT)
    return SourceRun(run, checkpoint, recipe, model, tokenizer)


def _not_finite(model: GPT) -> str | None:
    """The name of the first tensor with a number that is none; None where all are well."""
    return next((name for name, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()), None)
