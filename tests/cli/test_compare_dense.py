"""`moecli compare-dense` as a program: what its options mean, its streams, stopping and going on, and what is refused."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moecli.cli.compare_dense_progress import CompareProgress
from moecli.workflows import compare_dense as compare_dense_workflow
from moecli.workflows import compare_measures, compare_plan
from tests.cli.test_cli import CONTROL_CODES

KEYS = {
    "name", "base", "objective", "leaks_future", "mixes_rows", "corpus", "split", "seq_len", "device", "threads", "seeds", "measure",
    "unit", "notes", "matches", "arms", "decode", "comparisons", "tokens_to_equal_loss_speedup", "time_to_equal_loss_speedup", "files",
    "folder",
}  # fmt: skip


class PlannedError(Exception):
    """Ends a command where its plan would be made."""


@pytest.fixture
def planned(tiny_recipe, inside, monkeypatch):
    """What the command line asks the plan for."""
    asked: list[dict] = []

    def plan_comparison(base, others, **options):
        asked.append({"base": base, "others": others, **options})
        raise PlannedError

    monkeypatch.setattr(compare_plan, "plan_comparison", plan_comparison)

    def call(*arguments: str) -> dict:
        code, _, errors = inside("compare-dense", *arguments)
        assert code == 1 and "PlannedError" in errors, errors
        return asked[-1]

    return call


@pytest.mark.parametrize(
    ("arguments", "matches"),
    [
        ((), ["active", "time"]),
        (("--match", "total"), ["total"]),
        (("--match", "time,total, active"), ["active", "total", "time"]),
        (("--match", "flops", "--match", "active,FLOPS"), ["active", "flops"]),
        (("--match", "none", "--arm", "tiny.yaml"), []),
    ],
)
def test_matches_are_a_comma_list_that_can_be_repeated(planned, arguments, matches):
    assert planned("tiny.yaml", *arguments)["matches"] == matches


def test_overrides_seeds_and_folder_reach_the_plan_and_every_arm(planned):
    arguments = ["--arm", "quickstart", "--arm", "tiny.yaml", "--set", "seed=7", "--seeds", "5", "--out", "there"]
    asked = planned("tiny.yaml", *arguments)
    assert (asked["num_seeds"], asked["out"]) == (5, Path("there"))
    arms = [asked["base"], *asked["others"]]
    assert [arm.recipe.name for arm in arms] == ["tiny", "quickstart", "tiny"]
    assert [arm.recipe.seed for arm in arms] == [7, 7, 7]
    assert arms[0].source == "tiny.yaml" and Path(arms[1].source).name == "quickstart.yaml"
    assert planned("tiny.yaml")["num_seeds"] == 3 and planned("tiny.yaml")["out"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("tiny.yaml", "--seeds", "0"), ("--seeds", "0 runs of each arm show nothing")),
        (("tiny.yaml", "--seeds", "-3"), ("--seeds", "-3 runs")),
        (("tiny.yaml", "--seeds", "1001"), ("--seeds", "1,001 runs", "1,000 or fewer")),
        (("tiny.yaml", "--match", "activ,size"), ("'activ' (did you mean active?)", "'size'", "active, flops, total, time")),
        (("tiny.yaml", "--match", ""), ("''", "active, flops, total, time")),
        (("tiny.yaml", "--match", "\x1b[2J"), ("\\x1b[2J",)),
        (("tiny.yaml", "--match", "none"), ("give recipes with --arm",)),
        (("tiny.yaml", "--match", "none,active", "--arm", "quickstart"), ("'none'", '"none" alone')),
        (("nowhere.yaml",), ("nowhere.yaml",)),
        (("tiny.yaml", "--arm", "nowhere.yaml"), ("--arm nowhere.yaml", "there is no such file")),
        (("tiny.yaml", "--arm", "mlp.yaml", "--set", "model.ffn.num_experts=2"), ("--arm mlp.yaml: --set model.ffn.num_experts=2",)),
        (("mlp.yaml",), ("mlp",)),
    ],
)
def test_wrong_input_ends_with_2_and_one_message_before_anything_is_made(tiny_recipe, inside, arguments, words):
    Path("mlp.yaml").write_text(tiny_recipe.read_text().split("  ffn:")[0] + "  ffn: {kind: mlp}\n")
    before = sorted(Path().rglob("*"))
    code, out, errors = inside("compare-dense", *arguments)
    unbroken = " ".join(errors.replace("│", " ").split())
    assert code == 2 and out == "", errors
    assert all(word in unbroken for word in words), unbroken
    assert "\x1b" not in errors and "Traceback" not in errors and "bug in moecli" not in errors
    assert sorted(Path().rglob("*")) == before


def test_a_plan_trains_nothing(tiny_recipe, inside):
    before = sorted(Path().rglob("*"))
    code, out, _ = inside("compare-dense", "tiny.yaml", "--plan", "--match", "active,total", "--json")
    assert (code, out.count("\n")) == (0, 1)
    plan = json.loads(out)
    assert {"folder", "seeds", "measure", "unit", "notes", "matches", "arms", "runs", "finished_runs", "train_flops"} <= plan.keys()
    assert [arm["name"] for arm in plan["arms"]] == ["tiny", "dense-active", "dense-total"]
    assert (plan["runs"], plan["finished_runs"]) == (9, 0)
    code, out, _ = inside("compare-dense", "tiny.yaml", "--plan", "--match", "active,total")
    assert code == 0 and "0 of 9 runs are done" in out and "dense-total" in out
    assert sorted(Path().rglob("*")) == before


def test_a_comparison_is_one_object_and_the_same_command_reads_it_again(tiny_recipe, inside, monkeypatch):
    monkeypatch.setattr(compare_measures, "SECONDS", 0.0)
    command = ["compare-dense", "tiny.yaml", "--seeds", "2", "--match", "active", "--out", "compared"]
    code, out, errors = inside(*command, "--json")
    assert (code, out.count("\n")) == (0, 1), errors
    content = json.loads(out)
    assert content.keys() >= KEYS
    assert all(Path(path).is_file() for path in content["files"]) and content["folder"] == "compared"
    assert "4 runs, 0 of them done; folder compared" in errors
    assert "run 3 of 4: tiny, seed 1" in errors and not CONTROL_CODES.search(errors)
    code, out, errors = inside(*command)
    assert code == 0 and "4 runs, 4 of them done" in errors and "run 1 of 4" not in errors
    assert out.startswith(content["comparisons"][0]["sentence"])
    assert f"{content['arms'][1]['val_loss']['mean']:.4f}" in out
    assert "wrote" in out and not CONTROL_CODES.search(out)
    assert "4 of 4 runs are done" in inside(*command, "--plan")[1]


def test_ctrl_c_saves_the_step_and_the_same_command_goes_on(tiny_recipe, inside):
    options = ["--match", "active", "--out", "compared", "--seeds", "1", "--set", "training.steps=120", "--set", "evaluation.every=0"]
    command = ["compare-dense", "tiny.yaml", *options]
    process = subprocess.Popen([sys.executable, "-m", "moecli", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = Path("compared/runs/dense-active/seed-0/metrics.jsonl")
    while not (metrics.exists() and metrics.read_text().count("\n") > 20):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and out == "", errors
    assert "1 of 2 runs are done" in errors and "next: the same command goes on" in errors and "Traceback" not in errors
    code, out, errors = inside(*command)
    assert code == 0, errors
    assert "2 runs, 1 of them done" in errors and "run 1 of 2" not in errors
    assert "run 2 of 2: dense-active, seed 0\n  going on after step" in errors


def test_a_reader_of_its_progress_that_is_gone_does_not_end_the_runs(tiny_recipe, inside, monkeypatch):
    def gone(progress, event):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    def interrupted(arms):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(CompareProgress, "show", gone)
    monkeypatch.setattr(compare_dense_workflow, "measure_peak_memory", interrupted)
    code, _, errors = inside("compare-dense", "tiny.yaml", "--match", "active", "--out", "compared", "--seeds", "1")
    assert code == 130 and "the runs are done" in errors
    assert len(list(Path("compared/runs").glob("*/seed-0/result.json"))) == 2


def test_ctrl_c_while_measuring_says_that_the_runs_are_done(tiny_recipe, inside, monkeypatch):
    def interrupted(arms):
        signal.raise_signal(signal.SIGINT)

    command = ["compare-dense", "tiny.yaml", "--match", "active", "--out", "compared", "--seeds", "1"]
    monkeypatch.setattr(compare_dense_workflow, "measure_peak_memory", interrupted)
    for words in ("run 2 of 2: dense-active", "2 runs, 2 of them done"):
        code, out, errors = inside(*command)
        assert (code, out) == (130, "") and words in errors
        assert "error: the runs are done; measuring is stopped, and no report is written\n  next: the same command goes on\n" in errors
        assert "stopping after this step" not in errors
    monkeypatch.undo()
    assert not Path("compared/report").exists()
