"""`moecli eval`: the loss of a trained run on its validation text, or on any other.

Knows run folders. Must not train.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from moecli.data.corpora.files import FilesCorpus
from moecli.data.prepare import prepare, prepare_text
from moecli.data.tokenizer import Tokenizer
from moecli.evaluation.audit import Audit
from moecli.evaluation.evaluate import Evaluation
from moecli.model.checkpoint import load_model
from moecli.model.device import pick_device
from moecli.recipe.leak_notes import leaks_json
from moecli.recipe.load import load_recipe
from moecli.recipe.schema import Recipe
from moecli.workflows.evaluate_split import audit_split, evaluate_split
from moecli.workflows.resume import check_same_data
from moecli.workflows.run_dir import find_checkpoint

Split = Literal["validation", "train"]


@dataclass(frozen=True, slots=True)
class EvalResult:
    checkpoint: Path
    corpus: str
    """The kind of corpus, or the files that were given."""
    split: str
    evaluation: Evaluation
    recipe: Recipe
    audit: Audit | None
    """None unless it was asked for."""

    def to_json(self) -> dict[str, Any]:
        content = {
            "checkpoint": str(self.checkpoint),
            "corpus": self.corpus,
            "split": self.split,
            "tokens": self.evaluation.tokens,
            "bytes": self.evaluation.num_bytes,
            "loss": self.evaluation.loss,
            "perplexity": self.evaluation.perplexity,
            "bits_per_byte": self.evaluation.bits_per_byte,
            **leaks_json(self.recipe),
        }
        if self.audit is None:
            return content
        declared = {"declared_leaks_future": self.recipe.leaks_future, "declared_mixes_rows": self.recipe.mixes_rows}
        return content | {"audit": asdict(self.audit) | declared}


def evaluate_run(run_path: Path, *, text: Sequence[str] = (), split: Split = "validation", audit: bool = False) -> EvalResult:
    """Evaluates the checkpoint that `run_path` means.

    Args:
        run_path: a run folder or a checkpoint in one.
        text: files to read instead of the recipe's corpus; all of their text is used.
        split: which part of the recipe's corpus.
        audit: measure as well what the tokens of the first batch depend on.
    """
    run, checkpoint = find_checkpoint(run_path)
    recipe = load_recipe(run.recipe).recipe
    model = load_model(checkpoint).to(pick_device(recipe.training.device))
    tokenizer = Tokenizer.load(run.tokenizer)
    if text:
        tokens = prepare_text(FilesCorpus(paths=list(text)), tokenizer, recipe.data.cache_dir)
    else:
        data = prepare(recipe.data, tokenizer=tokenizer)
        # With other documents the split is another, and text that was trained on could count as held out.
        check_same_data(run, data, next_step="bring the old text (for stdlib, the Python version) back, or name files with --text")
        tokens = data.validation if split == "validation" else data.train
    return EvalResult(
        checkpoint=checkpoint,
        corpus=", ".join(text) or recipe.data.corpus.kind,
        split="all" if text else split,
        evaluation=evaluate_split(model, recipe, tokens, tokenizer.vocab_size),
        recipe=recipe,
        audit=audit_split(model, recipe, tokens, tokenizer.vocab_size) if audit else None,
    )
