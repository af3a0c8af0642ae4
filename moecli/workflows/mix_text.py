"""The texts of several runs that are to become one: a sample of what each was trained on, and what of the held-out text that was.

Knows run folders and splits. Must not know models.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from torch import Tensor

from moecli.data.config import DataConfig
from moecli.data.prepare import prepare
from moecli.data.small_file import read_small
from moecli.data.split import TRAIN, VALIDATION, SplitCorpus
from moecli.errors import ConvertError, DataError, RunError
from moecli.recipe.schema import Recipe
from moecli.workflows.batches import evaluation_batches, spread_batches
from moecli.workflows.resume import check_same_data
from moecli.workflows.source_run import SourceRun

SAMPLE_TOKENS = 65536
OTHER_INIT = "give --router-init random"


def has_text(source: SourceRun) -> bool:
    """Whether the text that a run was trained on is known; that of an imported checkpoint is not."""
    try:
        return json.loads(read_small(source.run.environment))["data_fingerprint"] is not None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def training_sample(source: SourceRun) -> list[Tensor]:
    """Ids [B, S] from all over the training text of a run, the same each time.

    Raises:
        ConvertError: the text is not known.
        RunError: it is not the one that the run was trained on.
        DataError: it can't be read, or is shorter than one sequence.
    """
    if not has_text(source):
        raise ConvertError("the text that it was trained on is not known", where=str(source.run.path), next_step=OTHER_INIT)
    recipe = source.recipe
    data = prepare(recipe.data, tokenizer=source.tokenizer)
    check_same_data(source.run, data, next_step=f"bring the old text back, or {OTHER_INIT}")
    if len(data.train.ids) <= recipe.data.seq_len:
        what = f"the training text has {len(data.train.ids):,} tokens, one sequence {recipe.data.seq_len:,} and one more"
        raise DataError(what, where=str(source.run.path), next_step=OTHER_INIT)
    batches = spread_batches(lambda: evaluation_batches(recipe, data.train, source.tokenizer.vocab_size), SAMPLE_TOKENS)
    return [batch.ids_BS for batch in batches]


def overlap_notes(recipe: Recipe, sources: Sequence[SourceRun]) -> list[str]:
    """What a reader of the new run's validation loss has to know: which sources were trained on text that it holds out.

    The split is by document, within the documents of a corpus: in another selection of the same texts its border lies elsewhere.
    """
    notes = []
    held_out = _digests(recipe.data, VALIDATION)
    for source in sources:
        digests = _trained_on(source)
        if digests is None:
            notes.append(f"the text of {source.run.path} is not at hand, so it may have been trained on what is held out here")
        elif seen := len(held_out & digests):
            notes.append(f"{seen} of {len(held_out)} held-out documents were trained on by {source.run.path}: its loss there flatters")
    return notes


def _trained_on(source: SourceRun) -> frozenset[bytes] | None:
    """The documents that a run was trained on; None where its text is not known, is gone, or is another by now."""
    if not has_text(source):
        return None
    try:
        check_same_data(source.run, prepare(source.recipe.data, tokenizer=source.tokenizer), next_step=OTHER_INIT)
        return _digests(source.recipe.data, TRAIN)
    except (DataError, RunError):
        return None


def _digests(data: DataConfig, split: str) -> frozenset[bytes]:
    corpus = SplitCorpus.hold_out(data.corpus, data.validation_fraction, data.validation_max_bytes)
    return frozenset(digest for digest, name in corpus.split_of.items() if name == split)
