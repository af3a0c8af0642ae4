"""The whole of a training on a tiny text: what it writes, resuming, and what it leaves behind when it fails."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch

from moecli.errors import DataError, Interrupted, MachineError, RecipeError, RunError, TrainingError
from moecli.model.checkpoint import load_model
from moecli.moe import grouped_product
from moecli.recipe.load import load_recipe
from moecli.training.metric_log import read_metrics
from moecli.workflows import checkpoints, run_dir, run_path
from moecli.workflows import train as train_file
from moecli.workflows.eval import evaluate_run
from moecli.workflows.events import CheckpointSaved, Stage, StepLogged, TrainingStarted, Validated
from moecli.workflows.run_dir import RunDir, find_checkpoint
from moecli.workflows.train import train


def ignore(event: object) -> None:
    pass


def train_tiny(recipe: Path, out: str, overrides: tuple[str, ...] = (), **options):
    options = {"listener": ignore} | options
    return train(load_recipe(recipe, overrides).recipe, out=Path(out), **options)


def stop_after(steps: int):
    """A listener and a should_stop that ask to stop when so many steps are logged."""
    logged = []

    def listener(event: object) -> None:
        if isinstance(event, StepLogged):
            logged.append(event)

    return {"listener": listener, "should_stop": lambda: len(logged) >= steps}


def losses(run: str | Path) -> list[tuple]:
    return [(line["step"], line.get("loss"), line.get("val_loss")) for line in read_metrics(Path(run) / "metrics.jsonl")]


def weights(run: str | Path) -> dict[str, torch.Tensor]:
    return load_model(Path(run) / "checkpoints" / "latest").state_dict()


def test_a_run_folder_holds_what_the_map_says(tiny_recipe):
    events = []
    result = train_tiny(tiny_recipe, "run", listener=events.append)
    files = sorted(str(path.relative_to("run")) for path in Path("run").rglob("*"))
    step_files = ["config.json", "manifest.json", "model.safetensors", "training_state.json", "training_state.safetensors"]
    assert files == sorted([
        ".lock", "checkpoints", "checkpoints/latest",
        *(f"checkpoints/step-{step}" for step in (4, 6)), *(f"checkpoints/step-{step}/{name}" for step in (4, 6) for name in step_files),
        "environment.json", "metrics.jsonl", "recipe.yaml", "tokenizer.json", "routing", "routing/heatmap.png", "routing/load.json",
        "result.json",
    ])  # fmt: skip
    assert Path("run/checkpoints/latest").readlink() == Path("step-6")
    assert [event.path.name for event in events if isinstance(event, CheckpointSaved)] == ["step-4", "step-6"]
    assert [event.step for event in events if isinstance(event, Validated)] == [4, 6]
    assert [event.figures["step"] for event in events if isinstance(event, StepLogged)] == [1, 2, 3, 4, 5, 6]
    assert sum(isinstance(event, TrainingStarted) for event in events) == 1
    content = json.loads(json.dumps(result.to_json()))
    for key in ("run_dir", "checkpoint", "steps", "tokens", "val_loss", "perplexity", "bits_per_byte", "tokens_per_s", "wall_s",
                "params_total", "params_active", "flops_per_token"):  # fmt: skip
        assert content[key] is not None, key
    assert content["tokens"] == 6 * 4 * 16
    assert json.loads(Path("run/result.json").read_text()) == content
    assert losses("run")[-1] == (6, None, content["val_loss"])
    environment = json.loads(Path("run/environment.json").read_text())
    assert environment["seed"] == 0 and environment["packages"]["torch"] == torch.__version__
    assert environment["products_in_c"] is (grouped_product.LIBRARY is not None)


def test_the_resolved_recipe_trains_the_same_run_again(tiny_recipe):
    train_tiny(tiny_recipe, "first")
    train_tiny(Path("first/recipe.yaml"), "second")
    assert losses("first") == losses("second")
    assert Path("first/recipe.yaml").read_text() == Path("second/recipe.yaml").read_text()


@pytest.mark.parametrize(
    "ffn", ["{kind: mlp, d_ff: 32}", "{kind: dense, num_experts: 2, d_expert: 8}", "{kind: sparse, num_experts: 2, d_expert: 8}"]
)
@pytest.mark.parametrize("tokenizer", ["{kind: byte}", "{kind: char}", "{kind: bpe, vocab_size: 270}"])
def test_every_kind_trains_with_every_tokenizer_and_eval_agrees(tiny_recipe, ffn, tokenizer):
    result = train_tiny(tiny_recipe, "run", (f"model.ffn={ffn}", f"data.tokenizer={tokenizer}"))
    evaluation = evaluate_run(Path("run")).evaluation
    assert evaluation.loss == result.validation.loss
    assert evaluation.num_bytes == result.validation.num_bytes
    assert bool(result.load.layers) == ("mlp" not in ffn)


def test_a_tokenizer_file_can_be_used_again(tiny_recipe):
    train_tiny(tiny_recipe, "first", ("data.tokenizer={kind: bpe, vocab_size: 270}",))
    result = train_tiny(tiny_recipe, "second", ("data.tokenizer={kind: file, path: first/tokenizer.json}",))
    assert losses("first") == losses("second")
    assert result.plan.vocab_size == 270


@pytest.mark.parametrize("steps_before_stop", [0, 2, 4, 5])
def test_stopping_and_resuming_ends_in_the_same_weights_and_metrics(tiny_recipe, steps_before_stop):
    train_tiny(tiny_recipe, "undisturbed")
    with pytest.raises(Interrupted) as caught:
        train_tiny(tiny_recipe, "stopped", **stop_after(steps_before_stop))
    assert caught.value.exit_code == 130
    assert Path("stopped/checkpoints/latest").readlink() == Path(f"step-{steps_before_stop}")
    train_tiny(tiny_recipe, "stopped", resume=True)
    assert losses("stopped") == losses("undisturbed")
    assert all(torch.equal(tensor, weights("stopped")[name]) for name, tensor in weights("undisturbed").items())


RESUMED = {
    "noise": ("model.ffn.router={kind: noisy_topk}", "training.load_loss=0.1", "training.importance_loss=0.1"),
    "bias": ("model.ffn.router={kind: sigmoid_topk}", "training.bias_update.rate=0.1"),
    "random": ("model.ffn.router={kind: random}",),
    "capacity": ("model.ffn.capacity={factor: 1.0, overflow: next}", "model.ffn.router.keep_threshold=0.5"),
    "global batch": ("training.balance_scope=global-batch", "training.gradient_accumulation=2", "model.ffn.router={kind: vmoe_topk}"),
    "mixture of tokens": ("model.ffn.kind=soft", "model.ffn.mixing=batch"),
}


@pytest.mark.parametrize("name", RESUMED)
def test_every_state_of_a_router_comes_back_with_resume(tiny_recipe, name):
    overrides = RESUMED[name]
    train_tiny(tiny_recipe, "undisturbed", overrides)
    with pytest.raises(Interrupted):
        train_tiny(tiny_recipe, "stopped", overrides, **stop_after(3))
    train_tiny(tiny_recipe, "stopped", overrides, resume=True)
    assert losses("stopped") == losses("undisturbed")
    assert all(torch.equal(tensor, weights("stopped")[name]) for name, tensor in weights("undisturbed").items())
    if name == "bias":
        biases = [tensor for key, tensor in weights("stopped").items() if key.endswith("selection_bias_E")]
        assert len(biases) == 2 and any(bias.abs().max() > 0 for bias in biases)


def test_a_checkpoint_after_the_resumed_one_is_made_anew(tiny_recipe):
    train_tiny(tiny_recipe, "run")
    expected = weights("run")
    damaged = Path("run/checkpoints/step-6/model.safetensors")
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"model\.safetensors: damaged"):
        train_tiny(tiny_recipe, "run", resume=True)
    Path("run/checkpoints/latest").unlink()
    Path("run/checkpoints/latest").symlink_to("step-4")
    train_tiny(tiny_recipe, "run", resume=True)
    assert all(torch.equal(tensor, weights("run")[name]) for name, tensor in expected.items())


def test_weights_that_are_no_numbers_are_never_saved(tiny_recipe):
    diverging = ("training.learning_rate=1e30", "training.clip_norm=null", "training.log_every=6", "training.checkpoint_every=2")
    with pytest.raises(TrainingError):
        train_tiny(tiny_recipe, "run", diverging)
    assert not Path("run").exists()


def test_a_stop_right_after_a_checkpoint_says_once_that_it_is_saved(tiny_recipe):
    events = []

    def should_stop() -> bool:
        return any(isinstance(event, CheckpointSaved) for event in events)

    with pytest.raises(Interrupted, match="after step 4 of 6"):
        train_tiny(tiny_recipe, "run", listener=events.append, should_stop=should_stop)
    assert [event.path.name for event in events if isinstance(event, CheckpointSaved)] == ["step-4"]


def test_stopping_in_the_final_evaluation_keeps_the_finished_training(tiny_recipe):
    asked = []

    def listener(event: object) -> None:
        if isinstance(event, Stage) and event.text == "final evaluation":
            asked.append(event)

    with pytest.raises(Interrupted, match="all steps are done and saved"):
        train_tiny(tiny_recipe, "run", listener=listener, should_stop=lambda: bool(asked))
    train_tiny(tiny_recipe, "run", resume=True)
    train_tiny(tiny_recipe, "undisturbed")
    assert losses("run") == losses("undisturbed")


def test_a_run_killed_before_its_first_checkpoint_is_told_apart_and_begins_again(tiny_recipe):
    Path("run/checkpoints").mkdir(parents=True)
    with pytest.raises(RunError, match=r"before its first checkpoint.*\n.*--resume"):
        train_tiny(tiny_recipe, "run")
    Path("run/mine.txt").write_text("mine")
    train_tiny(tiny_recipe, "run", resume=True)
    train_tiny(tiny_recipe, "undisturbed")
    assert losses("run") == losses("undisturbed") and Path("run/mine.txt").read_text() == "mine"


def test_two_runs_in_the_same_second_get_folders_of_their_own(tiny_recipe, monkeypatch):
    taken = run_path._default_path("tiny")
    for path in (taken, taken.with_name(f"{taken.name}-2")):
        path.mkdir(parents=True)
    frozen = type("Frozen", (), {"now": staticmethod(lambda: type("Now", (), {"strftime": lambda self, form: taken.name})())})
    monkeypatch.setattr(run_path, "datetime", frozen)
    assert run_path.new_run_path("tiny", None).name == f"{taken.name}-3"


def test_resuming_a_finished_run_trains_nothing_and_says_the_same(tiny_recipe):
    first = train_tiny(tiny_recipe, "run")
    lines, result = Path("run/metrics.jsonl").read_text(), Path("run/result.json").read_text()
    again = train_tiny(tiny_recipe, "run", resume=True)
    assert again.validation == first.validation
    assert Path("run/metrics.jsonl").read_text() == lines
    assert again.tokens_per_s is None
    assert Path("run/result.json").read_text() == result


def test_a_result_is_there_only_while_the_training_is_finished(tiny_recipe):
    with pytest.raises(Interrupted):
        train_tiny(tiny_recipe, "run", **stop_after(3))
    assert not Path("run/result.json").exists()
    train_tiny(tiny_recipe, "run", resume=True)
    assert json.loads(Path("run/result.json").read_text())["steps"] == 6
    with pytest.raises(Interrupted):
        train_tiny(tiny_recipe, "run", ("training.steps=9",), resume=True, **stop_after(1))
    assert not Path("run/result.json").exists()


def test_resuming_can_extend(tiny_recipe):
    train_tiny(tiny_recipe, "run")
    train_tiny(tiny_recipe, "run", ("training.steps=9",), resume=True)
    assert [step for step, loss, _ in losses("run") if loss is not None] == list(range(1, 10))
    with pytest.raises(RunError, match=r"9 steps are done already, more than training.steps \(6\)"):
        train_tiny(tiny_recipe, "run", resume=True)


def test_resuming_with_another_recipe_shows_the_difference(tiny_recipe):
    train_tiny(tiny_recipe, "run")
    with pytest.raises(RecipeError, match=r"training.learning_rate: 0.001 in the run, 0.5 now"):
        train_tiny(tiny_recipe, "run", ("training.learning_rate=0.5",), resume=True)


def test_resuming_with_another_text_is_refused(tiny_recipe):
    train_tiny(tiny_recipe, "run")
    text = Path("text.txt")
    text.write_text(text.read_text() + "\n\nOne more paragraph.")
    with pytest.raises(RunError, match="the text or its tokens are not those"):
        train_tiny(tiny_recipe, "run", resume=True)


def test_evaluating_on_a_changed_text_is_refused(tiny_recipe):
    train_tiny(tiny_recipe, "run")
    text = Path("text.txt")
    text.write_text(text.read_text() + "\n\nOne more paragraph.")
    with pytest.raises(RunError, match=r"not those that the run was begun with.*\n.*--text"):
        evaluate_run(Path("run"))
    assert evaluate_run(Path("run"), text=["text.txt"]).split == "all"


def test_without_out_the_run_lands_in_outputs_and_the_newest_is_resumed(tiny_recipe):
    recipe = load_recipe(tiny_recipe).recipe
    first = train(recipe, listener=ignore)
    assert first.run_dir.parent == Path("outputs/tiny")
    assert train(recipe, resume=True, listener=ignore).run_dir == first.run_dir


def test_an_existing_out_is_refused_and_left_alone(tiny_recipe):
    Path("run").mkdir()
    Path("run/precious.txt").write_text("mine")
    with pytest.raises(RunError, match="run: there is something here already"):
        train_tiny(tiny_recipe, "run")
    assert [path.name for path in Path("run").iterdir()] == ["precious.txt"]


def test_nothing_to_resume_is_said(tiny_recipe):
    with pytest.raises(RunError, match="no run with a checkpoint"):
        train_tiny(tiny_recipe, "nowhere", resume=True)


def test_a_text_shorter_than_one_batch_leaves_nothing(tiny_recipe):
    with pytest.raises(DataError, match=r"training\.batch_size"):
        train_tiny(tiny_recipe, "deep/run", ("training.batch_size=4096",))
    assert not Path("deep").exists()


def test_a_model_beyond_the_machine_is_refused_before_it_is_built(tiny_recipe):
    with pytest.raises(MachineError, match="training needs about"):
        train_tiny(tiny_recipe, "run", ("model.d_model=65536", "model.num_layers=64", "model.ffn={kind: mlp}"))
    assert not Path("run").exists()


@pytest.mark.parametrize("failing", ["save_model", "write_state"])
def test_a_full_disk_at_the_first_checkpoint_leaves_nothing(tiny_recipe, monkeypatch, failing):
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, failing, full)
    with pytest.raises(MachineError, match=r"step-4: can.t read or write here: the disk is full"):
        train_tiny(tiny_recipe, "deep/run")
    assert not Path("deep").exists()


def test_a_full_disk_at_a_later_checkpoint_keeps_the_earlier(tiny_recipe, monkeypatch):
    saved = []
    save_model = checkpoints.save_model

    def full_after_one(model, folder):
        save_model(model, folder)
        saved.append(folder)
        if len(saved) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_model", full_after_one)
    with pytest.raises(MachineError):
        train_tiny(tiny_recipe, "run")
    assert sorted(path.name for path in Path("run/checkpoints").iterdir()) == ["latest", "step-4"]
    monkeypatch.undo()
    os.chdir(tiny_recipe.parent)
    train_tiny(tiny_recipe, "run", resume=True)
    assert Path("run/checkpoints/latest").readlink() == Path("step-6")


def test_a_failure_that_is_a_bug_is_not_hidden_but_leaves_nothing(tiny_recipe, monkeypatch):
    def broken(*args: object, **options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(train_file, "train_with_rewinds", broken)
    with pytest.raises(ZeroDivisionError):
        train_tiny(tiny_recipe, "run")
    assert not Path("run").exists()


def test_eval_on_other_text_and_on_the_train_split(tiny_recipe):
    train_tiny(tiny_recipe, "run")
    Path("other.txt").write_text("Something else entirely.\n", encoding="utf-8")
    other = evaluate_run(Path("run"), text=["other.txt"])
    assert (other.corpus, other.split, other.evaluation.num_bytes) == ("other.txt", "all", 25)
    train_split = evaluate_run(Path("run"), split="train")
    validation = evaluate_run(Path("run"))
    assert train_split.evaluation.tokens > validation.evaluation.tokens
    assert validation.to_json().keys() == {
        "checkpoint", "corpus", "split", "tokens", "bytes", "loss", "perplexity", "bits_per_byte", "objective", "leaks_future",
        "mixes_rows", "unknown_fraction",
    }  # fmt: skip


def test_run_arguments(tiny_recipe):
    train_tiny(tiny_recipe, "run")
    run, checkpoint = find_checkpoint(Path("run"))
    assert (run, checkpoint) == (RunDir(Path("run")), Path("run/checkpoints/step-6").resolve())
    assert find_checkpoint(Path("run/checkpoints/step-4"))[1].name == "step-4"
    assert find_checkpoint(Path("run/checkpoints/latest"))[1].name == "step-6"
    for path, message in ((Path("nowhere"), "no such folder"), (Path("run/routing"), "neither a run folder nor a checkpoint")):
        with pytest.raises(RunError, match=message):
            find_checkpoint(path)
    Path("theirs").mkdir()
    Path("theirs/config.json").write_text("{}")
    with pytest.raises(RunError, match="neither a run folder nor a checkpoint") as caught:
        find_checkpoint(Path("theirs"))
    assert caught.value.next_step is not None and "`moecli convert theirs NEW_RUN`" in caught.value.next_step


def test_an_atomic_folder_is_whole_or_not_there(tmp_path):
    target = tmp_path / "step-1"
    with pytest.raises(ZeroDivisionError), run_dir.atomic_folder(target) as folder:
        (folder / "half").write_text("half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with run_dir.atomic_folder(target) as folder:
        (folder / "whole").write_text("whole")
        assert not target.exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["step-1", "whole"]


def test_an_atomic_folder_takes_the_place_of_an_older_one_and_of_what_a_crash_left(tmp_path):
    target = tmp_path / "step-1"
    for leftover in (target, tmp_path / ".step-1.old", tmp_path / ".step-1.partial"):
        leftover.mkdir()
        (leftover / "before").write_text("before")
    with run_dir.atomic_folder(target) as folder:
        (folder / "after").write_text("after")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["after", "step-1"]
