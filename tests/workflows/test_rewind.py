"""A training that leaves the finite numbers and goes back by itself: where to, at what rate, how often, and that it stays exact."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from moecli.errors import Interrupted, NotFinite, TrainingError
from moecli.training.metric_log import read_metrics
from moecli.training.trainer import Trainer
from moecli.workflows.events import Rewound
from tests.workflows.test_train import losses, stop_after, train_tiny, weights

REWIND = ("training.on_non_finite=rewind", "training.steps=8", "training.checkpoint_every=3", "evaluation.every=0")


@pytest.fixture
def breaks(monkeypatch):
    """Makes step number `step`, counted from 1, come out as no number in the first `times` tries."""

    def at(step: int, times: int) -> None:
        own_step = Trainer.step

        def poisoned(trainer: Trainer, number: int):
            if number == step - 1 and trainer.num_rewinds < times:
                with torch.no_grad():
                    trainer.model.embedding.weight.fill_(float("nan"))
            return own_step(trainer, number)

        monkeypatch.setattr(Trainer, "step", poisoned)

    return at


def rates(run: str) -> dict[int, float]:
    return {line["step"]: line["learning_rate"] for line in read_metrics(Path(run) / "metrics.jsonl") if "loss" in line}


def same_weights(first: str, second: str) -> bool:
    return all(torch.equal(tensor, weights(second)[name]) for name, tensor in weights(first).items())


def test_back_to_the_checkpoint_and_on_at_half_the_rate(tiny_recipe, breaks):
    train_tiny(tiny_recipe, "undisturbed", REWIND)
    breaks(step=5, times=1)
    events = []
    result = train_tiny(tiny_recipe, "run", REWIND, listener=events.append)
    assert [event for event in events if isinstance(event, Rewound)] == [
        Rewound(step=3, number=1, learning_rate_factor=0.5, reason="router logits of layer 0 are not finite at step 5")
    ]
    assert result.num_rewinds == json.loads(Path("run/result.json").read_text())["rewinds"] == 1
    before, now = rates("undisturbed"), rates("run")
    assert now == {step: rate * (1.0 if step <= 3 else 0.5) for step, rate in before.items()}
    assert losses("run")[:3] == losses("undisturbed")[:3]
    (line,) = [line for line in read_metrics(Path("run/metrics.jsonl")) if "rewind" in line]
    assert line == {"step": 3, "rewind": 1, "learning_rate_factor": 0.5, "reason": "router logits of layer 0 are not finite at step 5"}


def test_before_the_first_checkpoint_it_is_a_training_at_half_the_rate(tiny_recipe, breaks):
    # Half of a rate is exact in floating point, wherever it is taken.
    train_tiny(tiny_recipe, "half", (*REWIND, "training.learning_rate=5.0e-4"))
    breaks(step=2, times=1)
    train_tiny(tiny_recipe, "run", (*REWIND, "training.learning_rate=1.0e-3"))
    assert same_weights("run", "half")


@pytest.mark.parametrize("stop", [1, 3, 5, 7])
def test_stopped_before_or_after_a_rewind_it_ends_the_same(tiny_recipe, breaks, stop):
    breaks(step=5, times=1)
    train_tiny(tiny_recipe, "undisturbed", REWIND)
    with pytest.raises(Interrupted):
        train_tiny(tiny_recipe, "stopped", REWIND, **stop_after(stop))
    result = train_tiny(tiny_recipe, "stopped", REWIND, resume=True)
    assert result.num_rewinds == 1
    assert same_weights("stopped", "undisturbed")


def test_as_often_as_the_recipe_allows(tiny_recipe, breaks):
    breaks(step=5, times=3)
    assert train_tiny(tiny_recipe, "run", REWIND).num_rewinds == 3
    with pytest.raises(TrainingError, match=r"not finite at step 5; training\.max_rewinds \(2\) allows no more rewinds"):
        train_tiny(tiny_recipe, "ended", (*REWIND, "training.max_rewinds=2"))
    assert Path("ended/checkpoints/latest").readlink() == Path("step-3")


def test_by_default_it_ends_and_the_way_on_is_said_and_works(tiny_recipe, breaks):
    breaks(step=5, times=1)
    with pytest.raises(NotFinite, match=r"training\.on_non_finite: rewind"):
        train_tiny(tiny_recipe, "run", REWIND[1:])
    train_tiny(tiny_recipe, "run", REWIND, resume=True)
    train_tiny(tiny_recipe, "undisturbed", REWIND)
    assert same_weights("run", "undisturbed")
