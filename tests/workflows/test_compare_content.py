"""A comparison's content from two arms of two hand-made runs each: every figure worked by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from moecli.evaluation.decode_speed import DecodeRate
from moecli.model.device import pick_device
from moecli.workflows.compare_content import comparison_content
from moecli.workflows.compare_measures import DecodeSpeed
from moecli.workflows.compare_plan import ComparisonPlan
from moecli.workflows.compare_results import ArmResult
from moecli.workflows.compare_runs import MACHINE, FinishedRun, as_run_dir
from moecli.workflows.environment import describe_machine
from tests.workflows.comparisons import arm_recipe, planned

STEPS = (2, 4, 6)  # of 4 sequences of 16 tokens: after 128, 256 and 384 tokens
LEAKING = ("model.ffn.router={kind: expert_choice}", "allow_future_leak=true")
# Final losses 3.5 and 3.4 of the MoE, 4.0 and 3.8 of the dense one; losses at 2, 4, 6 steps and the seconds by then.
MOE = [((5.0, 4.2, 3.5), (10.0, 20.0, 30.0)), ((5.0, 4.0, 3.4), (12.0, 24.0, 36.0))]
DENSE = [((6.0, 5.0, 4.0), (5.0, 10.0, 15.0)), ((5.8, 4.8, 3.8), (6.0, 12.0, 18.0))]
LOADS = [
    {"cv_load": 0.5, "max_violation": 1.0, "dead_experts": 2, "dropped_fraction": 0.0},
    {"cv_load": 0.7, "max_violation": 2.0, "dead_experts": 1, "dropped_fraction": 0.25},
]
# With two seeds the interval of mean m and half a difference h is m -+ t(0.975, 1) h, t = 12.7062 (any table).
T = 12.7062


def here() -> dict[str, Any]:
    present = describe_machine(pick_device("cpu"))
    return {key: present[key] for key in MACHINE}


def runs(curves: list, loads: list, plan: ComparisonPlan, name: str) -> tuple[FinishedRun, ...]:
    return tuple(
        FinishedRun(
            run=as_run_dir(plan.folder, name, seed),
            val_loss=losses[-1],
            bits_per_byte=losses[-1] / 2,
            load=load,
            seconds=seconds[-1],
            validated_steps=STEPS,
            val_losses=losses,
            validated_seconds=seconds,
            seconds_per_step=seconds[-1] / 6,
            machine=here(),
            num_rewinds=0,
            warnings=(),
        )
        for seed, ((losses, seconds), load) in enumerate(zip(curves, loads, strict=True))
    )


def results(plan: ComparisonPlan, curves: list = (MOE, DENSE)) -> list[ArmResult]:
    speeds = [
        DecodeSpeed(DecodeRate(10.0, 9.0, 12.0), DecodeRate(70.0, 60.0, 75.0)),
        DecodeSpeed(DecodeRate(20.0, 18.0, 21.0), DecodeRate(90.0, 80.0, 91.0)),
    ]
    loads = [LOADS, [None, None]]
    parts = zip(plan.arms, curves, loads, speeds, strict=True)
    return [ArmResult(arm, runs(curve, load, plan, arm.name), 1000 + place, speed) for place, (arm, curve, load, speed) in enumerate(parts)]


def test_what_went_wrong_in_a_run_is_told_with_its_name(plan):
    first, second = results(plan)
    runs_with_trouble = (second.runs[0], replace(second.runs[1], num_rewinds=2, warnings=("the loss jumped",)))
    notes = comparison_content(plan, [first, replace(second, runs=runs_with_trouble)])["notes"]
    name = second.arm.name
    assert [note for note in notes if "seed 1: " in note] == [
        f"{name}, seed 1: numbers were not finite, and it went back to a checkpoint 2 times",
        f"{name}, seed 1: the loss jumped",
    ]


def content_of(plan: ComparisonPlan, curves: list = (MOE, DENSE)) -> dict[str, Any]:
    return comparison_content(plan, results(plan, curves))


@pytest.fixture
def plan(tiny_recipe) -> ComparisonPlan:
    return planned(arm_recipe(tiny_recipe), num_seeds=2)


def test_the_difference_and_its_test(plan):
    content = content_of(plan)
    difference = content["comparisons"][0]["difference"]
    # 3.5 - 4.0 = -0.5 and 3.4 - 3.8 = -0.4: mean -0.45, half a difference 0.05. t = 0.45 / 0.05 = 9 with one degree of freedom,
    # which is Cauchy's: p = 1 - 2/pi * atan(9) = 0.0704466.
    assert difference["per_seed"] == pytest.approx([-0.5, -0.4])
    assert difference["mean"] == pytest.approx(-0.45)
    assert difference["ci95"] == pytest.approx([-0.45 - 0.05 * T, -0.45 + 0.05 * T], abs=1e-5)
    assert difference["p_value"] == pytest.approx(0.0704466, abs=1e-6)
    assert content["comparisons"][0]["verdict"] == "undecided"


def test_speed_ups_and_amounts_in_tokens_and_in_time(plan):
    content = content_of(plan)
    (comparison,) = content["comparisons"]
    # Seed 0: the MoE is at 4.0 after 4.2 - 3.5 = 0.7 of which 0.2 are gone: 2/7 of the way from 256 to 384 tokens, and from 20 to 30 s.
    # Seed 1: it is at 3.8 after 0.2 of 0.6: 1/3 of the way from 256 to 384 tokens, and from 24 to 36 s.
    tokens, seconds = [256 + 128 * 2 / 7, 256 + 128 / 3], [20 + 10 * 2 / 7, 24 + 12 / 3]
    assert comparison["tokens_at_equal_loss"]["base"] == pytest.approx(tokens)  # 292.571, 298.667
    assert comparison["seconds_at_equal_loss"]["base"] == pytest.approx(seconds)  # 22.857, 28
    # The dense one is there at its end: 384 tokens, 15 and 18 s.
    assert (comparison["tokens_at_equal_loss"]["arm"], comparison["seconds_at_equal_loss"]["arm"]) == ([384, 384], [15, 18])
    assert comparison["tokens_at_equal_loss"]["base_mean"] == pytest.approx((292.571 + 298.667) / 2, abs=1e-3)
    assert comparison["seconds_at_equal_loss"]["arm_mean"] == 16.5
    # 384 / 292.571 = 1.3125 and 384 / 298.667 = 1.285714; 15 / 22.857 = 0.65625 and 18 / 28 = 0.642857.
    assert comparison["tokens_to_equal_loss"]["per_seed"] == pytest.approx([1.3125, 1.285714], abs=1e-6)
    assert comparison["time_to_equal_loss"]["per_seed"] == pytest.approx([0.65625, 0.642857], abs=1e-6)
    # Geometric: sqrt(1.3125 * 1.285714) = 1.299038; half the difference of the logs (0.271934 - 0.251314) / 2 = 0.010310.
    assert comparison["tokens_to_equal_loss"]["mean"] == pytest.approx(1.299038, abs=1e-6)
    spread = [1.299038 * math.exp(sign * T * 0.010310) for sign in (-1, 1)]
    assert comparison["tokens_to_equal_loss"]["ci95"] == pytest.approx(spread, rel=1e-4)
    # sqrt(0.65625 * 0.642857) = 0.649519.
    assert comparison["time_to_equal_loss"]["mean"] == pytest.approx(0.649519, abs=1e-6)
    assert content["tokens_to_equal_loss_speedup"] == comparison["tokens_to_equal_loss"]["mean"]
    assert content["time_to_equal_loss_speedup"] == comparison["time_to_equal_loss"]["mean"]


def test_the_figures_of_an_arm(plan):
    moe, dense = content_of(plan)["arms"]
    # Means over both seeds.
    assert moe["load"] == pytest.approx({"cv_load": 0.6, "max_violation": 1.5, "dead_experts": 1.5, "dropped_fraction": 0.125})
    assert dense["load"] is None
    assert moe["val_loss"]["per_seed"] == [3.5, 3.4] and moe["bits_per_byte"]["mean"] == pytest.approx(1.725)
    assert moe["train_seconds"]["mean"] == 33.0 and moe["train_tokens_per_s"] == pytest.approx(384 / 33)
    assert moe["curve"]["seconds"] == [11.0, 22.0, 33.0] and moe["curve"]["value"] == pytest.approx([5.0, 4.1, 3.45])
    assert moe["curve"]["tokens"] == [128, 256, 384] and moe["curve"]["per_seed"][1] == [5.0, 4.0, 3.4]
    assert (moe["decode_tokens_per_s"], moe["decode_tokens_per_s_range"]) == (10.0, [9.0, 12.0])
    assert (dense["decode_tokens_per_s_batched"], dense["decode_tokens_per_s_batched_range"]) == (90.0, [80.0, 91.0])
    assert (moe["peak_memory_bytes"], dense["peak_memory_bytes"]) == (1000, 1001)


@pytest.mark.parametrize(("base_leaks", "arm_leaks"), [(True, False), (False, True)])
def test_whoever_leaks_is_named(tiny_recipe, base_leaks, arm_leaks):
    base, arm = (
        arm_recipe(tiny_recipe, *(LEAKING if leaks else ()), f"name={name}")
        for leaks, name in ((base_leaks, "ours"), (arm_leaks, "theirs"))
    )
    content = content_of(planned(base, [arm], matches=(), num_seeds=2))
    leaking, sound = ("ours", "theirs") if base_leaks else ("theirs", "ours")
    sentence = content["comparisons"][0]["sentence"]
    assert f"; {leaking} sees its future" in sentence and f"{sound} sees its future" not in sentence
    assert [bool(entry["notes"]) for entry in content["arms"]] == [base_leaks, arm_leaks]
    assert content["leaks_future"] is base_leaks


def test_arms_of_other_tokens_have_no_speed_up_in_tokens(tiny_recipe):
    other = arm_recipe(tiny_recipe, "data.tokenizer={kind: bpe, vocab_size: 300}")
    content = content_of(planned(arm_recipe(tiny_recipe), [other], matches=(), num_seeds=2))
    (comparison,) = content["comparisons"]
    assert comparison["tokens_to_equal_loss"] == {"mean": None, "ci95": None, "per_seed": [None, None]}
    assert comparison["tokens_at_equal_loss"] == {"base": [None, None], "arm": [None, None], "base_mean": None, "arm_mean": None}
    assert content["tokens_to_equal_loss_speedup"] is None
    # Bits per byte are half of the loss in every run, so that seconds are as before.
    assert comparison["difference"]["mean"] == pytest.approx(-0.45 / 2)
    assert content["time_to_equal_loss_speedup"] == pytest.approx(0.649519, abs=1e-6)


def test_what_was_reached_before_the_first_validation_makes_a_bound(plan):
    early = [((3.9, 3.8, 3.5), (10.0, 20.0, 30.0)), MOE[1]]
    assert not [note for note in content_of(plan)["notes"] if "first validation" in note]
    (note,) = [note for note in content_of(plan, (early, DENSE))["notes"] if "first validation" in note]
    # 3.9 after 2 steps is below 4.0, where the dense one ends.
    assert note.startswith("tiny against dense-active: tiny was below the equal loss before its first validation with 1 of 2 seeds")
    assert note.endswith("the base is at least so many times as fast as is given")
    (note,) = [note for note in content_of(plan, (DENSE, early))["notes"] if "first validation" in note]
    assert "dense-active was below" in note and note.endswith("at most so many times as fast as is given")


def test_the_machine_is_that_of_the_runs(plan):
    elsewhere = here() | {"device": "Abacus", "threads": 7}
    arms = [replace(result, runs=tuple(replace(run, machine=elsewhere) for run in result.runs)) for result in results(plan)]
    content = comparison_content(plan, arms)
    assert (content["device"], content["threads"]) == ("Abacus", 7)
    (note,) = [note for note in content["notes"] if "Abacus" in note or "measured on" in note]
    assert note.startswith(f"memory and generation were measured on cpu ({torch.get_num_threads()} thread")
    content = content_of(plan)
    assert (content["device"], content["threads"]) == ("cpu", torch.get_num_threads())
    assert not [note for note in content["notes"] if "machine" in note or "measured on" in note]


@pytest.mark.parametrize("change", [{"device": "Abacus"}, {"threads": 77}, {"cpus": 55}, {"platform": "Plan 9"}])
def test_runs_of_other_machines_are_told(plan, change):
    moe, dense = results(plan)
    other = replace(dense.runs[1], machine=here() | change)
    content = comparison_content(plan, [moe, replace(dense, runs=(dense.runs[0], other))])
    (note,) = [note for note in content["notes"] if "their seconds can't be compared" in note]
    assert "tiny seed 0, dense-active seed 0, tiny seed 1" in note or "tiny seed 0, tiny seed 1, dense-active seed 0 on cpu" in note
    assert f"dense-active seed 1 on {other.machine['device']}" in note and str(next(iter(change.values()))) in note


@pytest.mark.parametrize("in_c", [True, False])
def test_runs_with_and_without_products_in_c_are_told(plan, in_c):
    moe, dense = results(plan)
    one, other = (replace(run, machine=here() | {"products_in_c": has}) for run, has in zip(dense.runs, (in_c, not in_c), strict=True))
    moe = replace(moe, runs=tuple(replace(run, machine=one.machine) for run in moe.runs))
    notes = comparison_content(plan, [moe, replace(dense, runs=(one, other))])["notes"]
    (seconds,) = [note for note in notes if "their seconds can't be compared" in note]
    with_c = "dense-active seed 0" if in_c else "dense-active seed 1"
    assert [with_c in part for part in seconds.split("; ") if "products in C)" in part.split(" on cpu")[-1]] == [True]
    assert len([note for note in notes if "last digits" in note]) == 1
    alike = comparison_content(plan, [moe, replace(dense, runs=(one, replace(other, machine=one.machine)))])["notes"]
    assert not [note for note in alike if "last digits" in note or "can't be compared" in note]
