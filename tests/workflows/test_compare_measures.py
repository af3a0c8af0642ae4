"""What is measured once for arms that share it, and with which text."""

from __future__ import annotations

from pathlib import Path

import pytest

from moecli.evaluation.decode_speed import DecodeRate
from moecli.workflows import compare_measures
from moecli.workflows.compare_measures import DecodeSpeed, measure_decode_speed, measure_peak_memory
from moecli.workflows.run_dir import RunDir
from moecli.workflows.train import train
from tests.workflows.comparisons import arm_recipe, ignore, planned


def test_memory_is_measured_once_for_each_shape(tiny_recipe, monkeypatch):
    measured = []

    def peak(arm) -> int:
        measured.append(arm.name)
        return len(measured)

    others = [
        arm_recipe(tiny_recipe, "seed=4", "training.steps=9", "name=longer"),
        arm_recipe(tiny_recipe, "training.batch_size=8", "name=bigger"),
        arm_recipe(tiny_recipe, "data.seq_len=8", "name=shorter"),
    ]
    arms = planned(arm_recipe(tiny_recipe), others, matches=("active", "time")).arms
    monkeypatch.setattr(compare_measures, "_peak_memory", peak)
    assert measure_peak_memory(arms) == [1, 2, 2, 1, 3, 4]
    assert measured == ["tiny", "dense-active", "bigger", "shorter"]


def test_a_compiled_training_is_measured_as_it_stands(tiny_recipe):
    eager, compiled = (planned(arm_recipe(tiny_recipe, f"training.compile={word}")).arms[0] for word in ("false", "true"))
    first, second = measure_peak_memory([eager, compiled])
    assert first == second > 4 * eager.plan.cost.params_total


def test_generation_is_timed_side_by_side_and_once_for_each_model(tiny_recipe, monkeypatch):
    arms = planned(arm_recipe(tiny_recipe), [arm_recipe(tiny_recipe, "training.learning_rate=0.1")], matches=("active", "time")).arms
    runs = [RunDir(Path(name)) for name in ("moe", "dense", "longer", "given")]
    for arm, run in zip(arms[:2], runs[:2], strict=True):
        train(arm.recipe, out=run.path, listener=ignore)
    calls = []

    def rate(speed: float) -> DecodeRate:
        return DecodeRate(speed, speed - 1, speed + 1)

    def speeds(subjects, **numbers) -> list[DecodeRate]:
        calls.append(numbers | {"kinds": [subject.model.config.ffn.kind for subject in subjects]})
        assert all(subject.ids_BS.shape == (8, 16) for subject in subjects)
        return [rate(10.0 * numbers["batch_size"] + place) for place in range(len(subjects))]

    monkeypatch.setattr(compare_measures, "decode_speeds", speeds)
    moe, dense = DecodeSpeed(rate(10.0), rate(80.0)), DecodeSpeed(rate(11.0), rate(81.0))
    # The last two have no runs here: nothing of them is read.
    assert measure_decode_speed(arms, runs) == [moe, dense, dense, moe]
    assert [call["batch_size"] for call in calls] == [1, 8]
    assert all(call["kinds"] == ["sparse", "mlp"] and (call["prompt_tokens"], call["new_tokens"]) == (16, 64) for call in calls)
    assert all((call["rounds"], call["seconds"]) == (3, 2.0) for call in calls)


@pytest.mark.parametrize("validation_tokens", [50, 1000])
def test_prompts_come_from_the_validation_text_however_short(tiny_recipe, validation_tokens):
    arm = planned(arm_recipe(tiny_recipe)).arms[0]
    data = arm.data.validation
    object.__setattr__(data, "ids", data.ids[:validation_tokens])
    prompts = compare_measures._prompts(arm).flatten().tolist()
    assert prompts == [int(data.ids[place % validation_tokens]) for place in range(8 * 16)]


def test_each_arm_generates_in_its_own_precision_and_one_that_sees_its_future_without_a_cache(tiny_recipe, monkeypatch):
    leaking = ("model.ffn.router={kind: expert_choice}", "allow_future_leak=true", "training.precision=bfloat16")
    arms = planned(arm_recipe(tiny_recipe), [arm_recipe(tiny_recipe, *leaking, "name=leaking")]).arms
    runs = [RunDir(Path(arm.name)) for arm in arms]
    for arm, run in zip(arms, runs, strict=True):
        train(arm.recipe, out=run.path, listener=ignore)
    seen = []

    def speeds(subjects, **numbers) -> list[DecodeRate]:
        seen.append([(subject.leaks_future, subject.precision) for subject in subjects])
        return [DecodeRate(1.0, 1.0, 1.0)] * len(subjects)

    monkeypatch.setattr(compare_measures, "decode_speeds", speeds)
    measure_decode_speed(arms, runs)
    assert seen == 2 * [[(False, "float32"), (False, "float32"), (True, "bfloat16")]]
