"""What a finished run tells: seconds across an interruption, by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from moecli.errors import RunError, TrainingError
from moecli.workflows.compare_runs import as_run_dir, read_finished, read_result
from moecli.workflows.run_dir import RunDir

MEAN = {"cv_load": 0.5, "max_violation": 1.0, "dead_experts": 2, "dropped_fraction": 0.0, "entropy": 1.3}
RESULT = {"steps": 8, "val_loss": 2.0, "bits_per_byte": 1.5, "load": {"layers": [{}], "mean": MEAN}}
MACHINE = {"device": "cpu", "threads": 2, "cpus": 4, "platform": "Linux", "products_in_c": True}
# 100 tokens a step. Logged every 3 steps and at the end; interrupted after step 4, so that the line of step 6 has the speed of 5 and 6.
LINES = [
    {"step": 2, "val_loss": 5.0},
    {"step": 3, "tokens": 300, "loss": 5.0, "tokens_per_s": 100.0},  # 3 s
    {"step": 4, "val_loss": 4.0},
    {"step": 6, "tokens": 600, "loss": 4.0, "tokens_per_s": 150.0},  # 2 s
    {"step": 6, "val_loss": 3.0},
    {"step": 8, "tokens": 800, "loss": 3.0, "tokens_per_s": 50.0},  # 4 s
    {"step": 8, "val_loss": 2.0},
]


@pytest.fixture
def run(tmp_path) -> RunDir:
    run = as_run_dir(tmp_path, "moe", 3)
    run.path.mkdir(parents=True)
    run.environment.write_text(json.dumps(MACHINE | {"seed": 3}))
    write(run, RESULT, LINES)
    return run


def write(run: RunDir, result: dict, lines: list[dict]) -> None:
    run.result.write_text(json.dumps(result))
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_place(run, tmp_path):
    assert run.path == tmp_path / Path("runs/moe/seed-3")


def test_a_finished_run_by_hand(run):
    finished = read_finished(run)
    assert (finished.val_loss, finished.bits_per_byte, finished.steps) == (2.0, 1.5, 8)
    assert finished.validated_steps == (2, 4, 6, 8) and finished.val_losses == (5.0, 4.0, 3.0, 2.0)
    # 2 of the first 3 steps: 2 s; 3 s and a third of the next 2 s; 5 s; 9 s.
    assert finished.validated_seconds == pytest.approx((2.0, 3 + 2 / 3, 5.0, 9.0))
    assert finished.seconds == pytest.approx(9.0)
    # A step of the windows after the first: 100 / 150 s and 100 / 50 s; half of their sum.
    assert finished.seconds_per_step == pytest.approx((2 / 3 + 2) / 2)
    assert finished.machine == MACHINE
    assert finished.load == {"cv_load": 0.5, "max_violation": 1.0, "dead_experts": 2, "dropped_fraction": 0.0}


def test_what_went_wrong_on_the_way_is_told(run):
    assert (read_finished(run).num_rewinds, read_finished(run).warnings) == (0, ())
    troubles = [{"step": 3, "rewind": 1, "learning_rate_factor": 0.5, "reason": "loss"}, {"step": 6, "warning": "a spike"}]
    write(run, RESULT, [*LINES, *troubles])
    assert (read_finished(run).num_rewinds, read_finished(run).warnings) == (1, ("a spike",))


def test_a_run_of_one_window_has_the_seconds_of_that(run):
    write(run, RESULT | {"steps": 4}, [{"step": 4, "tokens": 400, "loss": 3.0, "tokens_per_s": 50.0}, {"step": 4, "val_loss": 2.0}])
    assert read_finished(run).seconds_per_step == 2.0


def test_the_first_window_tells_nothing_of_the_pace(run):
    lines = [{"step": step, "tokens": 100 * step, "loss": 3.0, "tokens_per_s": 1.0 if step == 1 else 100.0} for step in range(1, 9)]
    write(run, RESULT, [*lines, {"step": 8, "val_loss": 2.0}])
    assert read_finished(run).seconds_per_step == 1.0


def test_a_final_loss_that_is_no_number_is_said(run):
    write(run, RESULT | {"val_loss": None, "bits_per_byte": None}, LINES)
    with pytest.raises(TrainingError, match=r"is no number at the end\n.*next: lower training\.learning_rate"):
        read_finished(run)


@pytest.mark.parametrize(("text", "message"), [(None, "there is no such file"), ("{", "damaged"), ("{}", "damaged: there is no device")])
def test_without_its_environment_a_run_can_not_be_compared(run, text, message):
    run.environment.unlink()
    if text is not None:
        run.environment.write_text(text)
    with pytest.raises(RunError, match=rf"environment\.json: {message}"):
        read_finished(run)


def test_a_run_from_before_there_were_products_in_c_was_made_without(run):
    run.environment.write_text(json.dumps({key: value for key, value in MACHINE.items() if key != "products_in_c"}))
    assert read_finished(run).machine == MACHINE | {"products_in_c": False}


@pytest.mark.parametrize(
    "change", [{"threads": 0}, {"threads": True}, {"cpus": "4"}, {"products_in_c": 1}, {"products_in_c": None}], ids=str
)
def test_a_machine_that_can_not_be_is_said(run, change):
    run.environment.write_text(json.dumps(MACHINE | change))
    with pytest.raises(RunError, match=rf"environment\.json: damaged: {next(iter(change))} is"):
        read_finished(run)


WRONG = [
    {"val_loss": "2"}, {"val_loss": math.nan}, {"bits_per_byte": math.inf}, {"bits_per_byte": [1.5]}, {"steps": True}, {"steps": 8.0},
    {"load": None}, {"load": {"mean": [0.5]}}, {"load": {"mean": {"cv_load": 0.5}}}, {"load": {"mean": MEAN | {"dead_experts": "2"}}},
]  # fmt: skip


@pytest.mark.parametrize("change", WRONG, ids=str)
def test_a_result_that_is_not_whole_is_none(run, change):
    assert read_result(run) == RESULT
    run.result.write_text(json.dumps(RESULT | change))
    assert read_result(run) is None


def test_a_run_without_routing_has_no_load(run):
    write(run, RESULT | {"load": {"layers": [], "mean": {}}}, LINES)
    assert read_finished(run).load is None


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (LINES[:-1], "does not reach the end"),
        (LINES[:3], "does not reach the end"),
        (LINES[:5] + LINES[6:], "does not reach the end"),
        ([], "does not reach the end"),
        ([*LINES[:-1], {"step": 8, "val_loss": None}], "damaged"),
        ([*LINES, {"step": 8, "tokens": 800, "tokens_per_s": 0.0}], "damaged"),
    ],
)
def test_metrics_that_do_not_tell_the_whole_training(run, lines, message):
    write(run, RESULT, lines)
    with pytest.raises(RunError, match=rf"metrics\.jsonl: {message}"):
        read_finished(run)
