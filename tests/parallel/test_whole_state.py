"""A checkpoint of many processes is one of a single process, and goes on in any world."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file
from torch import Tensor

from moecli.model.checkpoint import load_model, save_model
from moecli.training.state import load_state, training_state, write_state
from tests.parallel.equality import assert_close
from tests.parallel.in_each_process import CHECKPOINT, RESUMED_CASE, SAVED_AT, of_two_after_four
from tests.parallel.resuming import resume_and_validate, validation_loss
from tests.parallel.trainings import Curve, build_trainer, train
from tests.parallel.world_of_processes import in_world

CASE = RESUMED_CASE


def resumed_alone(launch) -> Curve:
    checkpoint = launch.folder / CHECKPOINT
    trainer = build_trainer(CASE, model=load_model(checkpoint))
    assert load_state(trainer, checkpoint) == SAVED_AT
    return train(trainer, first=SAVED_AT, last=SAVED_AT + 4)


def assert_goes_on(ours: Curve, undisturbed: Curve) -> None:
    for losses, expected in zip(ours.losses, undisturbed.losses, strict=True):
        assert losses == pytest.approx(expected, abs=1e-6)
    assert_close(ours.weights, undisturbed.weights, tolerance=1e-5)


def test_experts_shared_out_over_two_processes_go_on_on_one(two):
    assert_goes_on(resumed_alone(two), two.returned[0]["saved"])


def test_and_sharded_over_two(two):
    assert_goes_on(two.returned[0]["resumed"], two.returned[0]["saved"])


def test_the_files_are_those_of_one_process(two, tmp_path):
    trainer = build_trainer(CASE)
    train(trainer, last=SAVED_AT)
    save_model(trainer.model, tmp_path)
    write_state(training_state(trainer, SAVED_AT), tmp_path)
    checkpoint = two.folder / CHECKPOINT
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in checkpoint.iterdir()}
    for name in ("model.safetensors", "training_state.safetensors"):
        ours, expected = load_file(checkpoint / name), load_file(tmp_path / name)
        assert ours.keys() == expected.keys()
        assert_close(_numbers(ours), _numbers(expected))


def test_a_checkpoint_that_the_first_process_cannot_read_is_told_by_all(two):
    assert [returned["unreadable"] for returned in two.returned] == ["there is no such file"] * 2


def _numbers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the states of random generators."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("random.")}


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 8])
def test_experts_of_four_processes_go_on_in_any_world_and_a_text_costs_the_same(four, size):
    saved = four.returned[0]["saved"]
    undisturbed = build_trainer(CASE).model
    undisturbed.load_state_dict(saved.weights)
    results = in_world(size, resume_and_validate, four.folder)
    for curve, val_loss in results:  # every process sees the figures of all
        for losses, expected in zip(curve.losses, saved.losses, strict=True):
            assert losses == pytest.approx(expected, abs=1e-5)
        assert val_loss == pytest.approx(validation_loss(undisturbed), abs=1e-5)
    assert_close(results[0][0].weights, saved.weights, tolerance=1e-5)


@pytest.mark.slow
def test_experts_shared_out_over_four_processes_go_on_on_one_two_and_four(four):
    undisturbed = four.returned[0]["saved"]
    assert_goes_on(four.returned[0]["resumed"], undisturbed)
    assert_goes_on(resumed_alone(four), undisturbed)
    assert_goes_on(in_world(2, of_two_after_four, four.folder)[0], undisturbed)
