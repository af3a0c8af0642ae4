"""A training that goes on from a checkpoint, and what a text that it has not seen costs it then.

Knows trainings by name. Must not know what is right: the tests do.
"""

from __future__ import annotations

from pathlib import Path

from moecli.data.batches import validation_batches
from moecli.evaluation.evaluate import evaluate
from moecli.model.checkpoint import load_model
from moecli.model.gpt import GPT
from moecli.parallel.world import World
from moecli.training.state import load_state
from tests.parallel.in_each_process import CHECKPOINT, RESUMED_CASE, SAVED_AT
from tests.parallel.trainings import LAYOUTS, SEQ_LEN, SPLIT, Curve, build_trainer, train

FURTHER_STEPS = 4
# Fewer rows at a time than the most processes: some have none.
VALIDATION_ROWS = 6


def resume_and_validate(world: World, folder: Path) -> tuple[Curve, float]:
    """Of as many processes as there are: each holds a share of the experts where there are four or more."""
    layout = LAYOUTS["expert-4" if world.size % 4 == 0 else "expert" if world.size % 2 == 0 else "replicate"]
    checkpoint = folder / CHECKPOINT
    trainer = build_trainer(RESUMED_CASE, world, layout, load_model(checkpoint) if world.is_first else None)
    assert load_state(trainer, checkpoint) == SAVED_AT
    curve = train(trainer, first=SAVED_AT, last=SAVED_AT + FURTHER_STEPS)
    return curve, validation_loss(trainer.model, trainer.world)


def validation_loss(model: GPT, world: World | None = None) -> float:
    return evaluate(model, validation_batches(SPLIT, SEQ_LEN, VALIDATION_ROWS), SPLIT.num_bytes, "float32", world=world).loss
