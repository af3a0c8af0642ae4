"""`moecli eval`: the loss of a trained run on its validation text, or on any other.

Knows run folders. Must not train.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from moecli.data.batches import validation_batches
from moecli.data.corpora.files import FilesCorpus
from moecli.data.prepare import prepare, prepare_text
from moecli.data.tokenizer import Tokenizer
from moecli.evaluation.evaluate import Evaluation, evaluate
from moecli.model.checkpoint import load_model
from moecli.model.device import pick_device
from moecli.recipe.load import load_recipe
from moecli.workflows.run_dir import find_checkpoint

Split = Literal["validation", "train"]


@dataclass(frozen=True, slots=True)
class EvalResult:
    checkpoint: Path
    corpus: str
    """The kind of corpus, or the files that were given."""
    split: str
    evaluation: Evaluation

    def to_json(self) -> dict[str, Any]:
        return {
            "checkpoint": str(self.checkpoint),
            "corpus": self.corpus,
            "split": self.split,
            "tokens": self.evaluation.tokens,
            "bytes": self.evaluation.num_bytes,
            "loss": self.evaluation.loss,
            "perplexity": self.evaluation.perplexity,
            "bits_per_byte": self.evaluation.bits_per_byte,
        }


def evaluate_run(run_path: Path, *, text: Sequence[str] = (), split: Split = "validation") -> EvalResult:
    """Evaluates the checkpoint that `run_path` means.

    Args:
        run_path: a run folder or a checkpoint in one.
        text: files to read instead of the recipe's corpus; all of their text is used.
        split: which part of the recipe's corpus.
    """
    run, checkpoint = find_checkpoint(run_path)
    recipe = load_recipe(run.recipe).recipe
    model = load_model(checkpoint).to(pick_device(recipe.training.device))
    tokenizer = Tokenizer.load(run.tokenizer)
    if text:
        tokens = prepare_text(FilesCorpus(paths=list(text)), tokenizer, recipe.data.cache_dir)
    else:
        data = prepare(recipe.data, tokenizer=tokenizer)
        tokens = data.validation if split == "validation" else data.train
    batches = validation_batches(tokens, recipe.data.seq_len, recipe.evaluation.batch_size)
    evaluation = evaluate(model, batches, tokens.num_bytes, recipe.training.precision)
    return EvalResult(
        checkpoint=checkpoint,
        corpus=", ".join(text) or recipe.data.corpus.kind,
        split="all" if text else split,
        evaluation=evaluation,
    )
