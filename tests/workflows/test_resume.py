"""What --resume asks of a run before it goes on, and what it leaves as it was."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from moecli.errors import Interrupted, MachineError, RunError
from moecli.recipe.load import load_recipe
from moecli.workflows import checkpoints
from moecli.workflows.events import Stage
from moecli.workflows.resume import check_same_recipe
from moecli.workflows.run_dir import RunDir
from moecli.workflows.train import train
from tests.workflows.test_train import ignore, stop_after, train_tiny

LONGER = ("training.steps=8",)


@pytest.fixture
def run(tiny_recipe) -> RunDir:
    train_tiny(tiny_recipe, "run")
    return RunDir(Path("run"))


def refused(tiny_recipe: Path, message: str) -> None:
    """Refused, and nothing touched."""
    before = files()
    with pytest.raises(RunError, match=message):
        train_tiny(tiny_recipe, "run", LONGER, resume=True)
    assert files() == before


def files() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["recipe.yaml", "tokenizer.json", "environment.json"])
def test_a_file_that_says_what_the_run_is_is_never_made_anew(tiny_recipe, run, name):
    (run.path / name).unlink()
    refused(tiny_recipe, rf"{name}: there is no such file")


@pytest.mark.parametrize("text", ["", "{}", '"text"', "[" * 100_000])
def test_a_damaged_tokenizer_is_named(tiny_recipe, run, text):
    run.tokenizer.write_text(text)
    refused(tiny_recipe, r"tokenizer\.json: not a tokenizer.*\n.*a new run of run/recipe.yaml")


def test_another_tokenizer_of_as_many_ids_is_named(tiny_recipe, run):
    content = json.loads(run.tokenizer.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    run.tokenizer.write_text(json.dumps(content))
    refused(tiny_recipe, r"tokenizer\.json: not the tokenizer that the run was begun with")


def test_the_same_tokenizer_in_other_words_is_the_same(tiny_recipe, run):
    run.tokenizer.write_text(json.dumps(json.loads(run.tokenizer.read_text()), indent=7))
    assert train_tiny(tiny_recipe, "run", LONGER, resume=True).steps == 8


@pytest.mark.parametrize("name", ["recipe.yaml", "tokenizer.json", "environment.json", "metrics.jsonl", "result.json"])
def test_a_folder_in_the_place_of_a_file_is_named(tiny_recipe, run, name):
    (run.path / name).unlink()
    (run.path / name).mkdir()
    refused(tiny_recipe, rf"{name}: a folder, where a file of the run belongs\n  next: move it away")


def test_a_pipe_in_the_place_of_a_file_is_not_read(tiny_recipe, run):
    run.metrics.unlink()
    os.mkfifo(run.metrics)
    with pytest.raises(RunError, match=r"metrics\.jsonl: no regular file"):
        train_tiny(tiny_recipe, "run", LONGER, resume=True)


def test_metrics_that_are_a_link_out_of_the_run_are_not_written_to(tiny_recipe, run):
    run.metrics.rename("elsewhere.jsonl")
    run.metrics.symlink_to("../elsewhere.jsonl")
    refused(tiny_recipe, r"metrics\.jsonl: a link")


def test_a_recipe_of_another_model_than_the_checkpoint_is_refused(tiny_recipe, run):
    run.recipe.write_text(run.recipe.read_text().replace("rope_theta: 10000.0", "rope_theta: 20000.0"))
    with pytest.raises(
        RunError, match=r"of another model:\n  model\.rope_theta: 10000\.0 in the checkpoint, 20000\.0 in the recipe\n.*own recipe"
    ):
        train_tiny(tiny_recipe, "run", ("model.rope_theta=20000.0",), resume=True)


def test_checkpoints_of_another_run_are_refused_by_their_token_ids(tiny_recipe, run):
    train_tiny(tiny_recipe, "other", ("data.tokenizer.kind=char",))
    shutil.rmtree(run.checkpoints)
    shutil.copytree("other/checkpoints", run.checkpoints, symlinks=True)
    refused(tiny_recipe, r"the model has [0-9]+ token ids, the run's tokenizer\.json and objective make")


def test_a_finished_run_is_described_as_it_was(tiny_recipe, run):
    environment = json.loads(run.environment.read_text())
    run.environment.write_text(json.dumps(environment | {"cpus": 999}))
    run.recipe.write_text("# mine\n" + run.recipe.read_text())
    before = files()
    train_tiny(tiny_recipe, "run", resume=True)
    assert {path: content for path, content in files().items() if path in (run.environment, run.recipe)} == {
        path: before[path] for path in (run.environment, run.recipe)
    }


def test_a_run_that_is_cut_short_has_the_recipe_of_its_length(tiny_recipe):
    with pytest.raises(Interrupted):
        train_tiny(tiny_recipe, "run", **stop_after(3))
    train_tiny(tiny_recipe, "run", ("training.steps=3",), resume=True)
    check_same_recipe(RunDir(Path("run")), load_recipe(tiny_recipe, ("training.steps=3",)).recipe, may_differ=())


def test_a_disk_without_room_for_more_leaves_a_finished_run_finished(tiny_recipe, run, monkeypatch):
    before = files()
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(MachineError, match="a checkpoint takes"):
        train_tiny(tiny_recipe, "run", LONGER, resume=True)
    assert files() == before


def test_without_keep_best_no_link_to_the_best_is_left(tiny_recipe):
    train_tiny(tiny_recipe, "run", ("training.keep_best=true",))
    best = Path("run/checkpoints/best")
    assert best.is_symlink()
    train_tiny(tiny_recipe, "run", ("training.steps=8", "training.keep_last=1"), resume=True)
    assert not best.is_symlink()
    assert sorted(path.name for path in Path("run/checkpoints").iterdir()) == ["latest", "step-8"]


def test_a_newer_run_without_a_checkpoint_is_passed_over_and_named(tiny_recipe):
    recipe = load_recipe(tiny_recipe).recipe
    first = train(recipe, listener=ignore).run_dir
    older, newer = (first.with_name(f"{year}-01-01_00-00-00") for year in (2000, 9999))
    for path in (older, newer):
        (path / "checkpoints").mkdir(parents=True)
    events = []
    assert train(recipe, resume=True, listener=events.append).run_dir == first
    (said,) = [event.text for event in events if isinstance(event, Stage) and "is newer" in event.text]
    assert str(first) in said and f"--out {newer}" in said and str(older) not in said


def test_an_empty_folder_can_become_a_run(tiny_recipe):
    Path("run").mkdir()
    assert train_tiny(tiny_recipe, "run").steps == 6
