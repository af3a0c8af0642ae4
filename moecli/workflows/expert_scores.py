"""What a run's experts do with a sample of the text that it was trained on, for operations that go by it.

Training text, as a validation loss of the resized model is to be that of text that nothing was chosen by.
Knows run folders and text. Must not know what the scores decide.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from moecli.convert.resize.operations import Measured
from moecli.convert.resize.options import ResizeOptions
from moecli.convert.resize.statistics import measure
from moecli.data.batches import Batch
from moecli.data.prepare import prepare
from moecli.errors import DataError
from moecli.evaluation.ablation import ablate
from moecli.workflows.batches import evaluation_batches, spread_batches
from moecli.workflows.events import Listener, Progress, Stage
from moecli.workflows.resume import check_has_text, check_same_data
from moecli.workflows.source_run import SourceRun

SAMPLE_TOKENS = 65536


def measure_experts(source: SourceRun, device: torch.device, options: ResizeOptions, listener: Listener) -> Measured:
    """Runs the model over the sample once, and for scores by ablation once without each expert; it is on the CPU again afterwards.

    Raises:
        RunError: the text is not the one that the run was trained on, or not known.
        DataError: it can't be read, or is shorter than one sequence.
    """
    if not options.measures:
        return Measured()
    batches = _sample(source)
    source.model.to(device)
    try:
        if options.operation == "prune" and options.by == "ablation":
            return _costs(source, batches, listener)
        listener(Stage("looking at who gets the tokens"))
        return Measured(statistics=measure(source.model, (batch.ids_BS.to(device) for batch in batches)))
    finally:
        source.model.to("cpu")


def _costs(source: SourceRun, batches: Sequence[Batch], listener: Listener) -> Measured:
    listener(Stage("switching each expert off in turn"))

    def tell(done: int, total: int) -> None:
        listener(Progress(done, total, "experts"))

    found = ablate(source.model, batches, "float32", source.tokenizer.end_of_text_id, tell)
    return Measured(costs={layer.layer: layer.loss_increase for layer in found.layers})


def _sample(source: SourceRun) -> list[Batch]:
    """Batches from all over the training text, the same each time."""
    check_has_text(source.run)
    recipe = source.recipe
    data = prepare(recipe.data, tokenizer=source.tokenizer)
    check_same_data(
        source.run, data, next_step="bring the old text (for stdlib, the Python version) back; pruning by random or by list needs none"
    )
    if len(data.train.ids) <= recipe.data.seq_len:
        what = f"the training text has {len(data.train.ids):,} tokens, one sequence {recipe.data.seq_len:,} and one more"
        raise DataError(what, where=str(source.run.path), next_step="give a run with a longer text")
    return spread_batches(lambda: evaluation_batches(recipe, data.train, source.tokenizer.vocab_size), SAMPLE_TOKENS)
