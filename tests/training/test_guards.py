"""What a training is warned of: made-up lines of a log, and the figures at which a warning begins."""

from __future__ import annotations

import pytest

from moecli.training.guards import TrainingWatch


def told(lines: list[dict], *, learns_routing: bool = True) -> list[str]:
    watch = TrainingWatch(learns_routing=learns_routing)
    return [text for step, line in enumerate(lines, start=1) for text in watch.look({"step": step} | line)]


def routed(load_cv: float = 0.3, dead: int = 0) -> dict:
    return {"loss": 3.0, "load_cv": load_cv, "dead_experts": dead}


# Losses 2 and 4 in turn: mean 3, standard deviation 1, so a spike begins above 10.
UP_AND_DOWN = [{"loss": 2.0 + 2 * (step % 2)} for step in range(20)]


def test_a_spike_is_told_from_seven_standard_deviations_on():
    assert told([*UP_AND_DOWN, {"loss": 10.0}]) == []
    (text,) = told([*UP_AND_DOWN, {"loss": 10.01}])
    assert text.startswith("step 21: the loss spiked to 10.010") and "mean 3.000" in text and "standard deviation 1.000" in text
    assert "training.learning_rate" in text


def test_a_spike_needs_something_to_be_compared_with():
    assert told([*UP_AND_DOWN[1:], {"loss": 1000.0}]) == []


def test_the_same_is_told_once():
    assert len(told([*UP_AND_DOWN, {"loss": 100.0}, *UP_AND_DOWN * 10, {"loss": 1000.0}])) == 1


def test_a_falling_loss_and_lines_of_validation_say_nothing():
    assert told([{"loss": 7 * 0.97**step} for step in range(200)]) == []
    assert told([{"val_loss": 9.9}, {"warning": "before"}, {"loss": "3.0", "load_cv": None, "dead_experts": []}]) == []


def test_tokens_that_pile_up_are_told_after_ten_lines():
    assert told([routed(load_cv=1.01)] * 9 + [routed(load_cv=1.0)] + [routed(load_cv=1.5)] * 9) == []
    (text,) = told([routed(load_cv=1.01)] * 10)
    assert text.startswith("step 10: few experts take most tokens") and "training.balance_loss" in text


def test_dead_experts_are_told_where_their_number_grows():
    assert told([routed(dead=dead) for dead in [1, 2, 0, 1, 3, 1, 2, 2, 1, 0] * 20]) == []
    (text,) = told([routed(dead=1)] * 10 + [routed(dead=2)] * 10)
    assert text.startswith("step 20: experts die: 2 or more") and "1 or fewer in the 10 before" in text
    assert told([routed(dead=5)] * 100) == []


@pytest.mark.parametrize("line", [routed(load_cv=3.0, dead=3)])
def test_a_router_that_cannot_learn_is_not_told_to(line):
    assert told([routed()] * 10 + [line] * 20, learns_routing=False) == []
    assert len(told([routed()] * 10 + [line] * 20)) == 2
