"""Trainings that are spread over processes against the same on one: losses, norms, loads and weights."""

from __future__ import annotations

import dataclasses
from functools import cache

import pytest
import torch

from tests.parallel.equality import assert_same_training
from tests.parallel.in_each_process import FROZEN, of_one_gpu, of_two_compiled
from tests.parallel.trainings import CASES, MLP, STEPS, Curve, build_trainer, train
from tests.parallel.world_of_processes import in_world

LAYOUTS_OF_TWO = ("replicate", "shard", "expert", "expert-shard")


@cache
def alone(name: str) -> Curve:
    """The training on one process."""
    return train(build_trainer(CASES[name]))


@pytest.mark.parametrize("layout", LAYOUTS_OF_TWO)
@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(two, case, layout):
    curve = two.returned[0]["curves"][case, layout]
    assert len(curve.losses) == STEPS
    assert_same_training(curve, alone(case))


@pytest.mark.parametrize("case", CASES)
def test_all_processes_see_the_same_figures(two, case):
    for layout in LAYOUTS_OF_TWO:
        first, second = (returned["curves"][case, layout] for returned in two.returned)
        assert first.losses == second.losses and first.grad_norms == second.grad_norms
        assert all(torch.equal(a, b) for a, b in zip(first.loads, second.loads, strict=True))


def test_a_case_has_what_it_is_there_for():
    """Drops, a bias that moves, a norm that is clipped; else the equalities would say nothing of them."""
    capacity = alone("capacity")
    assert any(not torch.equal(load, chosen) for load, chosen in zip(capacity.loads, capacity.chosen_loads, strict=True))
    sigmoid = alone("sigmoid-bias-shared")
    assert all(sigmoid.weights[f"blocks.{layer}.ffn.router.selection_bias_E"].abs().max() > 0.05 for layer in range(2))
    assert min(sigmoid.grad_norms) > 0.2, "its clip_norm"


def test_a_model_without_experts(two):
    assert_same_training(two.returned[0]["mlp"], train(build_trainer(MLP), last=5))


def test_recomputed_activations_change_nothing(two):
    curve = train(build_trainer(CASES["topk"]), last=5)
    assert_same_training(two.returned[0]["recomputed"], curve)


@pytest.mark.parametrize("part", FROZEN)
def test_what_is_frozen_stays(two, part):
    case = dataclasses.replace(CASES["topk"], options={"freeze": [part]})
    assert_same_training(two.returned[0]["frozen"][part], train(build_trainer(case), last=5))


def test_noise_follows_from_seed_step_and_rank(two):
    first, second = (returned["noisy"] for returned in two.returned)
    assert first["again"].losses == first["whole"].losses[2:]
    assert not torch.equal(first["draw"], second["draw"]) and not torch.equal(first["draw"], first["other_step"])


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["expert", "expert-shard", "expert-4"])
@pytest.mark.parametrize("case", CASES)
def test_four_processes_train_as_one(four, case, layout):
    assert_same_training(four.returned[0]["curves"][case, layout], alone(case))


@pytest.mark.slow
def test_recomputed_activations_change_nothing_on_four_processes(four):
    assert_same_training(four.returned[0]["recomputed"], train(build_trainer(CASES["accumulated-global"]), last=5))


@pytest.mark.slow
def test_compiled_models_train_as_one_that_is_not(tmp_path):
    for (case, _), (curve, graph_calls) in in_world(2, of_two_compiled, tmp_path)[0].items():
        assert_same_training(curve, train(build_trainer(CASES[case]), last=5))
        assert min(graph_calls) == graph_calls[0] > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_world_of_one_gpu_trains_as_the_gpu_alone(tmp_path):
    alone_there, *spread = in_world(1, of_one_gpu, tmp_path, device_type="cuda")[0]
    for curve in spread[:2]:
        for step, (ours, expected) in enumerate(zip(curve.losses, alone_there.losses, strict=True)):
            assert ours == pytest.approx(expected, abs=2e-2), f"step {step}: bfloat16 keeps 8 bits"
    assert len(spread[2].losses) == 4
