"""A trained run with the text to look at: what `eval` and `route-stats` begin with.

Knows run folders. Must not know what is measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from moecli.data.batches import Batch
from moecli.data.corpora.files import FilesCorpus
from moecli.data.prepare import prepare, prepare_text
from moecli.data.token_split import TokenSplit
from moecli.data.tokenizer import Tokenizer
from moecli.errors import RunError
from moecli.model.checkpoint import OTHER_CHECKPOINT, load_model
from moecli.model.config import GPTConfig
from moecli.model.device import pick_device
from moecli.model.gpt import GPT
from moecli.recipe.load import load_recipe
from moecli.recipe.schema import Recipe
from moecli.workflows.batches import evaluation_batches, model_vocab_size
from moecli.workflows.resume import check_same_data, flat
from moecli.workflows.run_dir import RunDir, find_checkpoint

Split = Literal["validation", "train"]


@dataclass(frozen=True, slots=True)
class OpenedRun:
    """A checkpoint, its recipe, and a text in its tokens."""

    run: RunDir
    checkpoint: Path
    recipe: Recipe
    model: GPT
    tokenizer: Tokenizer
    tokens: TokenSplit
    corpus: str
    """The kind of corpus, or the files that were given."""
    split: str

    def batches(self) -> Iterator[Batch]:
        """The text as it is evaluated, the same at every call."""
        return evaluation_batches(self.recipe, self.tokens, self.tokenizer.vocab_size)


def open_run(run_path: Path, *, text: FilesCorpus | None = None, split: Split = "validation") -> OpenedRun:
    """Loads the checkpoint that `run_path` means, and the text.

    Args:
        run_path: a run folder or a checkpoint in one.
        text: files to read instead of the recipe's corpus; all of their text is used.
        split: which part of the recipe's corpus.

    Raises:
        RunError: no run, a damaged one, or the corpus is not the one that it was trained on.
        DataError: the text can't be read.
    """
    run, checkpoint = find_checkpoint(run_path)
    recipe = load_recipe(run.recipe).recipe
    model = load_model(checkpoint)
    tokenizer = Tokenizer.load(run.tokenizer)
    check_fits(model.config, model.vocab_size, recipe, tokenizer, checkpoint)
    if text is not None:
        tokens = prepare_text(text, tokenizer, recipe.data.cache_dir)
    else:
        data = prepare(recipe.data, tokenizer=tokenizer)
        # With other documents the split is another, and text that was trained on could count as held out.
        check_same_data(run, data, next_step="bring the old text (for stdlib, the Python version) back, or name files with --text")
        tokens = data.validation if split == "validation" else data.train
    return OpenedRun(
        run=run,
        checkpoint=checkpoint,
        recipe=recipe,
        model=model.to(pick_device(recipe.training.device)),
        tokenizer=tokenizer,
        tokens=tokens,
        corpus=recipe.data.corpus.kind if text is None else ", ".join(text.paths),
        split=split if text is None else "all",
    )


def check_fits(config: GPTConfig, vocab_size: int, recipe: Recipe, tokenizer: Tokenizer, checkpoint: Path) -> None:
    """Raises RunError where the run's recipe is of another model than the checkpoint, or the tokenizer's ids are not those that it was
    trained on."""
    check_same_model(config, recipe, checkpoint)
    needed = model_vocab_size(recipe, tokenizer.vocab_size)
    if vocab_size != needed:
        raise RunError(
            f"the model has {vocab_size:,} token ids, the run's tokenizer.json and objective make {needed:,}",
            where=str(checkpoint),
            next_step=f"bring the run's own tokenizer.json back, or {OTHER_CHECKPOINT}",
        )


def check_same_model(config: GPTConfig, recipe: Recipe, checkpoint: Path) -> None:
    """Raises RunError, with the keys that differ, where a checkpoint is not of its recipe's model."""
    before = flat({"model": config.model_copy(update={"causal": config.is_causal}).model_dump()})
    now = flat({"model": recipe.model.model_dump()})
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if changed:
        lines = [f"  {key}: {before.get(key, 'absent')!r} in the checkpoint, {now.get(key, 'absent')!r} in the recipe" for key in changed]
        next_step = f"bring the run's own recipe.yaml back, or {OTHER_CHECKPOINT}"
        raise RunError("\n".join(["the run's recipe.yaml is of another model:", *lines]), where=str(checkpoint), next_step=next_step)
