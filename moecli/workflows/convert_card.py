"""What the card of an exported model says of its run and its proof.

Knows run folders. Must not know Markdown, nor how a conversion is made.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from moecli.convert.verify import Verification
from moecli.data.small_file import read_small
from moecli.recipe.schema import Recipe
from moecli.workflows.imported_recipe import is_without_text
from moecli.workflows.run_dir import RunDir

RESULTS = {"val_loss": "loss, nats per token", "perplexity": "perplexity", "bits_per_byte": "bits per byte"}


def measured(run: RunDir | None, checkpoint: Path) -> dict[str, float]:
    """What the training measured in its end, by name; empty where that was not of this checkpoint, or can't be read."""
    if run is None:
        return {}
    try:
        result = json.loads(read_small(run.result))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(result, dict) or type(result.get("steps")) is not int or run.checkpoint(result["steps"]).name != checkpoint.name:
        return {}
    found = {words: result.get(key) for key, words in RESULTS.items()}
    return {words: value for words, value in found.items() if isinstance(value, float) and math.isfinite(value)}


def data_of(recipe: Recipe | None) -> str | None:
    """The corpus in a few words; None where it is not known."""
    return None if recipe is None or is_without_text(recipe) else recipe.data.corpus.describe()


def proof_sentences(proof: Verification) -> str:
    """How a folder was verified, and against what."""
    is_rounded = proof.rounding_diff is not None
    against = "moecli with the weights rounded as they are here" if is_rounded else "moecli"
    text = (
        f"Verified against {against}, on {proof.tokens} tokens: logits differ by {proof.max_abs_logit_diff:.2g} at most "
        f"(the largest is {proof.largest_logit:.3g})"
    )
    if proof.choices_compared:
        text += f", and all {proof.choices_compared:,} choices of experts are the same"
        text += f"; {len(proof.visited):,} of {proof.num_experts:,} experts were chosen"
    if is_rounded:
        text += f". The rounding itself moved a logit by {proof.rounding_diff:.2g} at most"
    return f"{text}."
