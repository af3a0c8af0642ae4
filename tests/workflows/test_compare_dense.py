"""A comparison as a whole: what it tells, that it is fair, and that it goes on where it was stopped or killed."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from moecli.errors import Interrupted, MachineError, TrainingError
from moecli.model.checkpoint import load_model
from moecli.recipe.load import load_recipe
from moecli.training import loop
from moecli.training.metric_log import read_metrics
from moecli.training.step_result import StepResult
from moecli.training.trainer import Trainer
from moecli.workflows import compare_dense as compare_dense_file
from moecli.workflows import compare_measures, train_job
from moecli.workflows.events import RunBegun, StepLogged, WorkDone
from moecli.workflows.train import train
from tests.workflows.comparisons import MLP, arm_recipe, compared, ignore, planned

ARM_KEYS = {
    "name", "match", "kind", "d_ff", "source", "params_total", "params_active", "flops_per_token", "steps", "tokens", "val_loss",
    "bits_per_byte", "train_seconds", "train_tokens_per_s", "decode_tokens_per_s", "decode_tokens_per_s_range",
    "decode_tokens_per_s_batched", "decode_tokens_per_s_batched_range", "weight_bytes", "peak_memory_bytes", "load", "notes", "curve",
    "run_dirs",
}  # fmt: skip


def snapshot(folder: str) -> dict[str, tuple[int, bytes]]:
    """Every file with its time and its bytes."""
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in Path(folder).rglob("*") if path.is_file()}


def test_a_comparison_tells_what_its_json_promises(tiny_recipe, monkeypatch):
    monkeypatch.setattr(compare_measures, "SECONDS", 0.0)
    events = []
    base = arm_recipe(tiny_recipe)
    result = compared(base, [arm_recipe(tiny_recipe, MLP, "name=given")], matches=("active", "time"), num_seeds=2, listener=events.append)
    content = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert [arm["name"] for arm in content["arms"]] == ["tiny", "dense-active", "dense-time", "given"]
    assert all(set(arm) == ARM_KEYS for arm in content["arms"])
    assert [comparison["arm"] for comparison in content["comparisons"]] == ["dense-active", "dense-time", "given"]
    assert content["tokens_to_equal_loss_speedup"] == content["comparisons"][0]["tokens_to_equal_loss"]["mean"]
    assert content["corpus"] == "files text.txt"
    assert content["decode"] == {"prompt_tokens": 16, "new_tokens": 64, "batch_size": 8}
    moe, dense, timed, given = content["arms"]
    assert (moe["source"], dense["source"], given["source"]) == (str(tiny_recipe), None, str(tiny_recipe))
    assert moe["load"].keys() == {"cv_load", "max_violation", "dead_experts", "dropped_fraction"} and dense["load"] is None
    for arm in content["arms"]:
        losses = [read_metrics(Path(run) / "metrics.jsonl")[-1]["val_loss"] for run in arm["run_dirs"]]
        assert arm["val_loss"]["per_seed"] == losses
        assert arm["curve"]["value"][-1] == arm["val_loss"]["mean"]
        assert arm["curve"]["seconds"][-1] == pytest.approx(arm["train_seconds"]["mean"])
        assert arm["curve"]["tokens"] == [64 * step for step in arm["curve"]["steps"]]
        assert arm["curve"]["flops"][-1] == arm["tokens"] * arm["flops_per_token"]
        assert arm["train_tokens_per_s"] == pytest.approx(arm["tokens"] / arm["train_seconds"]["mean"])
        assert arm["peak_memory_bytes"] > arm["weight_bytes"] == 4 * arm["params_total"]
        assert arm["decode_tokens_per_s"] > 0 and arm["decode_tokens_per_s_batched"] > 0
    # The twin of the same seconds is the active one, trained for longer.
    assert timed["decode_tokens_per_s"] == dense["decode_tokens_per_s"] and timed["peak_memory_bytes"] == dense["peak_memory_bytes"]
    match = content["matches"][1]
    assert (match["target"], match["got"]) == (moe["train_seconds"]["mean"], timed["train_seconds"]["mean"])
    is_far_off = abs(match["mismatch"]) > 0.05
    assert any("dense-time was to train for as long as tiny" in note for note in content["notes"]) == is_far_off
    # The files are there, and the report's JSON holds the same.
    report = json.loads(Path("comparison/report/compare-dense.json").read_text())
    assert {f"comparison/report/{name}" for name in report.pop("files")} == set(content["files"])
    assert report == {key: value for key, value in content.items() if key not in ("files", "folder")}
    assert all(Path(file).is_file() for file in content["files"])
    assert "comparison/report/compare-dense.html" in content["files"] and "comparison/report/compare-dense.md" in content["files"]
    begun = [(event.arm, event.seed, event.number, event.runs) for event in events if isinstance(event, RunBegun)]
    names = [arm["name"] for arm in content["arms"]]
    assert begun == [(name, seed, 4 * seed + place, 8) for seed in (0, 1) for place, name in enumerate(names, start=1)]
    done = [event for event in events if isinstance(event, WorkDone)]
    assert done[-1].done == done[-1].total and done[-1].seconds_left == 0
    assert all(before.done <= after.done for before, after in pairwise(done))


class Clock:
    """Stands still but in steps: the first of a training takes 5 s, as if it were compiled, the others of an MoE 0.3 s, of an MLP 0.2 s."""

    def __init__(self) -> None:
        self.now = 0.0
        self._begun: set[int] = set()

    def perf_counter(self) -> float:
        return self.now

    def pass_step(self, trainer: Trainer) -> None:
        is_first = id(trainer.batches) not in self._begun
        self._begun.add(id(trainer.batches))
        self.now += 5.0 if is_first else 0.3 if trainer.model.config.ffn.kind == "sparse" else 0.2


def test_the_twin_of_the_same_seconds_takes_them_within_a_step(tiny_recipe, quick, monkeypatch):
    clock, own_step, kept = Clock(), Trainer.step, []

    def step(trainer: Trainer, number: int) -> StepResult:
        kept.append(trainer)  # or another could get its id
        clock.pass_step(trainer)
        return own_step(trainer, number)

    monkeypatch.setattr(loop, "time", clock)
    monkeypatch.setattr(Trainer, "step", step)
    content = compared(arm_recipe(tiny_recipe, "training.steps=21"), matches=("active", "time")).content
    moe, dense, timed = content["arms"]
    # 5 s and 20 steps of 0.3 s; 5 s and 20 of 0.2 s.
    assert (moe["train_seconds"]["mean"], dense["train_seconds"]["mean"]) == (pytest.approx(11.0), pytest.approx(9.0))
    assert abs(timed["train_seconds"]["mean"] - moe["train_seconds"]["mean"]) <= 0.3
    (match,) = [match for match in content["matches"] if match["match"] == "time"]
    assert (match["target"], match["got"]) == (moe["train_seconds"]["mean"], timed["train_seconds"]["mean"])
    assert match["mismatch"] == pytest.approx(match["got"] / match["target"] - 1)


def test_a_final_loss_that_is_no_number_ends_the_comparison_each_time(tiny_recipe, quick, monkeypatch):
    own = train_job.evaluate_split
    monkeypatch.setattr(train_job, "evaluate_split", lambda *parts: replace(own(*parts), loss=math.nan))
    for trains in (True, False):
        events = []
        with pytest.raises(TrainingError, match=r"seed-0: the loss on the validation text is no number at the end\n.*next: lower"):
            compared(arm_recipe(tiny_recipe), listener=events.append)
        assert any(isinstance(event, RunBegun) for event in events) is trains


def test_two_identical_arms_come_out_equal(tiny_recipe, quick):
    result = compared(arm_recipe(tiny_recipe), [arm_recipe(tiny_recipe)], matches=(), num_seeds=3)
    comparison = result.content["comparisons"][0]
    assert comparison["difference"] == {"mean": 0.0, "ci95": [0.0, 0.0], "per_seed": [0.0, 0.0, 0.0], "p_value": 1.0}
    assert comparison["tokens_to_equal_loss"]["per_seed"] == [1.0, 1.0, 1.0]
    assert comparison["verdict"] == "undecided"
    assert comparison["sentence"] == "tiny and tiny-2 end equal, with 3 seeds"


def test_looking_more_often_changes_no_weight(tiny_recipe):
    plan = planned(arm_recipe(tiny_recipe, "model.ffn.router={kind: noisy_topk}"))
    train(load_recipe(tiny_recipe, ("model.ffn.router={kind: noisy_topk}", "evaluation.every=0")).recipe, out=Path("own"), listener=ignore)
    train(plan.arms[0].recipe, out=Path("often"), listener=ignore)
    assert len([line for line in read_metrics(Path("often/metrics.jsonl")) if "val_loss" in line]) == 6
    own, often = (load_model(Path(run) / "checkpoints" / "latest").state_dict() for run in ("own", "often"))
    assert all(torch.equal(tensor, often[name]) for name, tensor in own.items())


def test_other_tokens_are_compared_by_bits_per_byte(tiny_recipe, quick):
    result = compared(arm_recipe(tiny_recipe), [arm_recipe(tiny_recipe, "data.tokenizer={kind: bpe, vocab_size: 300}")])
    content = result.content
    ours, other = content["arms"][0], content["arms"][2]
    assert content["unit"] == "bits/byte"
    assert content["comparisons"][1]["difference"]["mean"] == pytest.approx(ours["bits_per_byte"]["mean"] - other["bits_per_byte"]["mean"])
    assert ours["curve"]["value"][-1] == pytest.approx(ours["bits_per_byte"]["mean"])
    assert "bits/byte" in content["comparisons"][0]["sentence"]


def test_masked_tokens_have_neither_bits_per_byte_nor_generation(tiny_recipe, quick):
    content = compared(arm_recipe(tiny_recipe, "objective=masked-lm")).content
    assert content["unit"] == "nats/masked token" and content["decode"] is None
    assert [(arm["bits_per_byte"], arm["decode_tokens_per_s"]) for arm in content["arms"]] == [(None, None)] * 2


def test_a_leak_is_stamped_on_the_sentence_of_its_arm(tiny_recipe, quick):
    leaking = arm_recipe(tiny_recipe, "model.ffn.router={kind: expert_choice}", "allow_future_leak=true")
    content = compared(leaking).content
    assert content["leaks_future"] and content["notes"][0].startswith("tiny: this model sees its future")
    assert content["comparisons"][0]["sentence"].endswith("; tiny sees its future, so its loss can't be reached in generation")
    assert content["arms"][0]["notes"] and not content["arms"][1]["notes"]


def test_a_model_beyond_the_machine_is_refused_before_any_is_trained(tiny_recipe, monkeypatch):
    monkeypatch.setattr(compare_dense_file, "bring_to_end", lambda *args: pytest.fail("trained"))
    huge = arm_recipe(tiny_recipe, "model.d_model=65536", "model.num_layers=64", "model.ffn={kind: mlp}")
    with pytest.raises(MachineError, match="training needs about"):
        compared(arm_recipe(tiny_recipe), [huge])


class TestGoingOn:
    """What is done is not done again, and what is half done is finished as if nothing had happened."""

    def test_a_finished_comparison_trains_nothing(self, tiny_recipe, quick):
        first = compared(arm_recipe(tiny_recipe), matches=("active", "time"))
        before, events = snapshot("comparison/runs"), []
        again = compared(arm_recipe(tiny_recipe), matches=("active", "time"), listener=events.append)
        assert snapshot("comparison/runs") == before
        assert not [event for event in events if isinstance(event, RunBegun | StepLogged)]
        assert [arm["val_loss"] for arm in again.content["arms"]] == [arm["val_loss"] for arm in first.content["arms"]]
        assert again.content["comparisons"] == first.content["comparisons"]

    def test_more_seeds_arms_and_matches_train_only_what_is_missing(self, tiny_recipe, quick):
        compared(arm_recipe(tiny_recipe))
        before, events = snapshot("comparison/runs"), []
        more = {"matches": ("active", "total"), "num_seeds": 2, "listener": events.append}
        compared(arm_recipe(tiny_recipe), [arm_recipe(tiny_recipe, MLP, "name=given")], **more)
        assert before.items() <= snapshot("comparison/runs").items()
        begun = [(event.arm, event.seed, event.number, event.runs) for event in events if isinstance(event, RunBegun)]
        assert begun == [
            ("dense-total", 0, 3, 8), ("given", 0, 4, 8), ("tiny", 1, 5, 8), ("dense-active", 1, 6, 8), ("dense-total", 1, 7, 8),
            ("given", 1, 8, 8),
        ]  # fmt: skip

    @pytest.mark.parametrize("steps", [0, 6, 20])
    def test_stopped_and_started_again(self, tiny_recipe, quick, steps):
        undisturbed = compared(arm_recipe(tiny_recipe), num_seeds=2, out=Path("undisturbed"))
        logged = []

        def listener(event: object) -> None:
            if isinstance(event, StepLogged):
                logged.append(event)

        with pytest.raises(Interrupted) as caught:
            compared(arm_recipe(tiny_recipe), num_seeds=2, listener=listener, should_stop=lambda: len(logged) >= steps)
        assert caught.value.exit_code == 130
        # 4 runs of 6 steps. A stop after a run's last step comes in its final evaluation, so that run is not done yet.
        assert f"{max(0, steps - 1) // 6} of 4 runs are done\n  next: the same command goes on" in str(caught.value)
        went_on = compared(arm_recipe(tiny_recipe), num_seeds=2)
        for ours, theirs in zip(went_on.content["arms"], undisturbed.content["arms"], strict=True):
            assert ours["val_loss"] == theirs["val_loss"]
            assert (ours["curve"]["steps"], ours["curve"]["value"]) == (theirs["curve"]["steps"], theirs["curve"]["value"])

    def test_stopped_while_measuring(self, tiny_recipe, quick):
        done = []

        def listener(event: object) -> None:
            if isinstance(event, WorkDone) and event.done == event.total:
                done.append(event)

        # The first full event comes with the last step, the second with the evaluation after it.
        with pytest.raises(Interrupted, match="all runs are done, the reports are not written yet"):
            compared(arm_recipe(tiny_recipe), listener=listener, should_stop=lambda: len(done) == 2)
        assert not Path("comparison/report").exists()
        assert planned(arm_recipe(tiny_recipe)).to_json()["finished_runs"] == 2

    def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(self, tiny_recipe, quick):
        (Path("comparison/runs/tiny/seed-0") / "checkpoints").mkdir(parents=True)
        Path("comparison/runs/tiny/seed-0/metrics.jsonl").write_text('{"step": 1, "loss": 99.0}\n')
        compared(arm_recipe(tiny_recipe))
        assert read_metrics(Path("comparison/runs/tiny/seed-0/metrics.jsonl"))[0]["loss"] < 99

    def test_a_result_that_is_damaged_is_made_again(self, tiny_recipe, quick):
        first = compared(arm_recipe(tiny_recipe))
        result = Path("comparison/runs/tiny/seed-0/result.json")
        result.write_text(result.read_text()[:100])
        assert planned(arm_recipe(tiny_recipe)).runs[0].state == "to go on"
        assert compared(arm_recipe(tiny_recipe)).content["comparisons"] == first.content["comparisons"]

    def test_killed_and_started_again(self, tiny_recipe, quick):
        longer = ("training.steps=60", "training.checkpoint_every=10", "training.log_every=10", "evaluation.every=0")
        script = (
            "from tests.workflows.comparisons import *\n"
            f"compared(arm_recipe(Path('tiny.yaml'), *{longer!r}))\n"
        )  # fmt: skip
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        killed = subprocess.Popen([sys.executable, "-c", script], env=environment)
        second_arm = Path("comparison/runs/dense-active/seed-0/checkpoints/latest")
        patience = time.monotonic() + 120
        while not second_arm.exists() and killed.poll() is None and time.monotonic() < patience:
            time.sleep(0.02)
        killed.send_signal(signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL, "it ended by itself"
        plan = planned(arm_recipe(tiny_recipe, *longer))
        assert [run.state for run in plan.runs] == ["finished", "to go on"]
        before = snapshot("comparison/runs/tiny")
        went_on = compared(arm_recipe(tiny_recipe, *longer))
        assert snapshot("comparison/runs/tiny") == before
        undisturbed = compared(arm_recipe(tiny_recipe, *longer), out=Path("undisturbed"))
        assert [arm["val_loss"] for arm in went_on.content["arms"]] == [arm["val_loss"] for arm in undisturbed.content["arms"]]
