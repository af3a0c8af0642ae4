"""`moecli eval`: the loss of a trained run on its validation text, or on any other.

Knows run folders. Must not train.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moecli.data.corpora.files import FilesCorpus
from moecli.data.token_split import TokenSplit
from moecli.data.tokenizer import Tokenizer
from moecli.evaluation.audit import Audit
from moecli.evaluation.evaluate import Evaluation
from moecli.recipe.leak_notes import leaks_json
from moecli.recipe.schema import Recipe
from moecli.workflows.eval_sweep import SweepRow, SweepValues, sweep
from moecli.workflows.evaluate_split import audit_split, evaluate_split
from moecli.workflows.events import Listener, Stage
from moecli.workflows.opened_run import Split, open_run


@dataclass(frozen=True, slots=True)
class EvalResult:
    checkpoint: Path
    corpus: str
    """The kind of corpus, or the files that were given."""
    split: str
    evaluation: Evaluation
    recipe: Recipe
    unknown_fraction: float
    """Share of the text's tokens that stand for what the tokenizer can't write."""
    audit: Audit | None
    """None unless it was asked for."""
    sweep: list[SweepRow] | None
    """None unless it was asked for."""

    def to_json(self) -> dict[str, Any]:
        content: dict[str, Any] = {
            "checkpoint": str(self.checkpoint),
            "corpus": self.corpus,
            "split": self.split,
            "tokens": self.evaluation.tokens,
            "bytes": self.evaluation.num_bytes,
            "loss": self.evaluation.loss,
            "perplexity": self.evaluation.perplexity,
            "bits_per_byte": self.evaluation.bits_per_byte,
            "unknown_fraction": self.unknown_fraction,
            **leaks_json(self.recipe),
        }
        if self.audit is not None:
            declared = {"declared_leaks_future": self.recipe.leaks_future, "declared_mixes_rows": self.recipe.mixes_rows}
            content["audit"] = asdict(self.audit) | declared
        if self.sweep is not None:
            content["sweep"] = [row.to_json() for row in self.sweep]
        return content


def evaluate_run(
    run_path: Path,
    *,
    text: Sequence[str] = (),
    split: Split = "validation",
    audit: bool = False,
    values: SweepValues | None = None,
    listener: Listener = lambda event: None,
) -> EvalResult:
    """Evaluates the checkpoint that `run_path` means.

    Args:
        run_path: a run folder or a checkpoint in one.
        text: files to read instead of the recipe's corpus; all of their text is used.
        split: which part of the recipe's corpus.
        audit: measure as well what the tokens of the first batch depend on.
        values: evaluate in other settings of the routing too.
        listener: is told of stages and progress where there is more than one evaluation.
    """
    opened = open_run(run_path, text=FilesCorpus(paths=list(text)) if text else None, split=split)
    model, recipe, tokens, vocab_size = opened.model, opened.recipe, opened.tokens, opened.tokenizer.vocab_size
    rows = None if values is None else sweep(opened, values, listener)
    trained = next((row.evaluation for row in rows or () if row.is_trained), None)
    if audit and rows:
        listener(Stage("auditing"))
    return EvalResult(
        checkpoint=opened.checkpoint,
        corpus=opened.corpus,
        split=opened.split,
        evaluation=trained or evaluate_split(model, recipe, tokens, vocab_size),
        recipe=recipe,
        unknown_fraction=unknown_fraction(opened.tokens, opened.tokenizer),
        audit=audit_split(model, recipe, tokens, vocab_size) if audit else None,
        sweep=rows,
    )


def unknown_fraction(tokens: TokenSplit, tokenizer: Tokenizer) -> float:
    """Share of a text's tokens that stand for what the tokenizer can't write."""
    return 0.0 if tokenizer.unknown_id is None else float((tokens.ids == tokenizer.unknown_id).mean())
