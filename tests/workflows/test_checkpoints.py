"""Which checkpoints of a training stay, what the links point at, and that nothing half written is ever taken for one."""

from __future__ import annotations

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moecli.errors import Interrupted, MachineError, NotFinite, RunError, TrainingError
from moecli.model.checkpoint import load_model
from moecli.training.trainer import Trainer
from moecli.workflows import checkpoints as checkpoints_file
from moecli.workflows.checkpoints import begin_after, last_checkpoint, new_checkpoint, point_best, prune
from moecli.workflows.eval import evaluate_run
from moecli.workflows.run_dir import RunDir, created, find_checkpoint, point_latest
from moecli.workflows.sole_use import sole_use
from moecli.workflows.train_job import TrainJob
from tests.workflows.test_train import losses, stop_after, train_tiny, weights

Usage = namedtuple("Usage", "total used free")


def saved(run: str = "run") -> set[str]:
    return {path.name for path in Path(run, "checkpoints").iterdir() if not path.is_symlink()}


@pytest.fixture
def ten(tmp_path) -> RunDir:
    """A run with ten empty checkpoints, step-10 to step-100."""
    run = RunDir(tmp_path)
    for step in range(10, 101, 10):
        run.checkpoint(step).mkdir(parents=True)
    point_latest(run, run.checkpoint(100))
    return run


def test_the_last_so_many_stay_by_number_not_by_name(ten):
    prune(ten, None)
    assert len(saved(ten.path)) == 10
    prune(ten, 3)
    assert saved(ten.path) == {"step-80", "step-90", "step-100"}


def test_what_a_link_points_at_stays(ten):
    point_latest(ten, ten.checkpoint(20))
    point_best(ten, {10: 3.0, 30: 2.0, 40: 2.0, 55: 1.0})
    assert ten.best.readlink() == Path("step-30")
    prune(ten, 1)
    assert saved(ten.path) == {"step-20", "step-30", "step-100"}
    point_best(ten, {40: 1.0})
    assert not ten.best.is_symlink()


def test_what_kills_leave_goes_and_nothing_else(ten):
    for name in (".step-110.partial", ".step-10.old", "notes", "step-x"):
        (ten.checkpoints / name).mkdir()
    (ten.checkpoints / ".latest.partial").symlink_to("step-90")
    for name in (".metrics.jsonl-123", ".recipe.yaml-9", "result.json", ".mine", "metrics.jsonl"):
        (ten.path / name).write_text("")
    point_best(ten, {90: 1.0})
    begin_after(ten, 80)
    steps = {f"step-{step}" for step in range(10, 81, 10)}
    assert {path.name for path in ten.checkpoints.iterdir()} == {*steps, "notes", "step-x", "latest"}
    assert {path.name for path in ten.path.iterdir()} == {"checkpoints", ".mine", "metrics.jsonl", "result.json"}
    # The link was to a checkpoint that is gone, and is now to the one that the training goes on from.
    assert ten.latest.readlink() == Path("step-80")
    assert last_checkpoint(ten) == ten.checkpoint(80).resolve()


def test_a_finished_run_that_was_killed_before_its_link_gets_it_back(tiny_recipe):
    train_tiny(tiny_recipe, "run")
    Path("run/checkpoints/latest").unlink()
    train_tiny(tiny_recipe, "run", resume=True)
    assert Path("run/checkpoints/latest").readlink() == Path("step-6")


@pytest.mark.parametrize("link", ["latest", "best"])
def test_a_link_that_a_copy_made_a_folder_is_refused_before_anything_is_trained(ten, link):
    (ten.checkpoints / link).unlink(missing_ok=True)
    (ten.checkpoints / link).mkdir()
    with pytest.raises(RunError, match="a link to a checkpoint belongs"):
        last_checkpoint(ten)


@pytest.mark.parametrize("target", ["/", "..", "../elsewhere"])
def test_latest_that_points_out_of_the_run_is_refused_and_named(ten, target):
    (ten.path / "elsewhere").mkdir()
    ten.latest.unlink()
    ten.latest.symlink_to(target)
    for look in (last_checkpoint, lambda run: find_checkpoint(run.path)):
        with pytest.raises(RunError, match=r"checkpoints/latest: points out of the run"):
            look(ten)


def test_a_lock_that_is_a_link_is_refused_and_what_it_points_at_stays(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(RunError, match="a link"), sole_use(tmp_path / "run", "another training"):
        pass
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_checkpoint_that_is_not_what_was_written_never_appears(ten):
    with pytest.raises(RunError, match="manifest"), new_checkpoint(ten, 110) as folder:
        (folder / "model.safetensors").write_bytes(b"without a manifest")
    assert not ten.checkpoint(110).exists() and ten.latest.readlink() == Path("step-100")
    assert [path.name for path in ten.checkpoints.glob(".*")] == []


def test_a_training_keeps_the_last_and_the_best(tiny_recipe):
    train_tiny(tiny_recipe, "all", ("training.checkpoint_every=1", "evaluation.every=2"))
    val_losses = {step: loss for step, _, loss in losses("all") if loss is not None}
    assert saved("all") == {f"step-{step}" for step in range(1, 7)}
    overrides = ("training.keep_last=2", "training.keep_best=true", "training.checkpoint_every=1", "evaluation.every=2")
    train_tiny(tiny_recipe, "run", overrides)
    best = min(val_losses, key=val_losses.__getitem__)
    assert saved() == {"step-5", "step-6", f"step-{best}"}
    assert Path("run/checkpoints/best").readlink() == Path(f"step-{best}")
    assert evaluate_run(Path("run/checkpoints/best")).evaluation.loss == val_losses[best]
    assert losses("run") == losses("all")


def lowest_at(step: int):
    """Validation losses that fall to a step and rise from there."""
    own_evaluate = TrainJob._evaluate

    def evaluate(job: TrainJob, *arguments: object):
        moments = next(iter(job.trainer.optimizer.state.values()))
        return replace(own_evaluate(job, *arguments), loss=abs(moments["step"].item() - step) + 1.0)

    return evaluate


def test_a_validation_that_is_the_best_so_far_is_saved(tiny_recipe, monkeypatch):
    monkeypatch.setattr(TrainJob, "_evaluate", lowest_at(4))
    overrides = ("training.keep_best=true", "training.checkpoint_every=0", "evaluation.every=1", "training.keep_last=1")
    train_tiny(tiny_recipe, "run", overrides)
    assert saved() == {"step-4", "step-6"}
    assert {link.name: str(link.readlink()) for link in Path("run/checkpoints").iterdir() if link.is_symlink()} == {
        "best": "step-4",
        "latest": "step-6",
    }
    # Stopped and resumed, the best is still known.
    with pytest.raises(Interrupted):
        train_tiny(tiny_recipe, "stopped", overrides, **stop_after(5))
    train_tiny(tiny_recipe, "stopped", overrides, resume=True)
    assert saved("stopped") == saved()


def test_how_many_stay_can_change_on_resume(tiny_recipe):
    train_tiny(tiny_recipe, "run", ("training.checkpoint_every=1",))
    train_tiny(tiny_recipe, "run", ("training.checkpoint_every=1", "training.keep_last=1", "training.steps=7"), resume=True)
    assert saved() == {"step-7"}


def test_too_little_room_is_told_before_the_first_step(tiny_recipe, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 1000))
    with pytest.raises(MachineError, match=r"a checkpoint takes 1\.\d MB, and 0\.0 MB are free") as caught:
        train_tiny(tiny_recipe, "deep/run")
    assert caught.value.exit_code == 1 and not Path("deep").exists()


def test_room_that_goes_leaves_the_checkpoint_before(tiny_recipe, monkeypatch):
    answers = iter([10**9, 10**9, 1000])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 0, next(answers)))
    with pytest.raises(MachineError, match="a checkpoint takes"):
        train_tiny(tiny_recipe, "run")
    monkeypatch.undo()
    monkeypatch.chdir(tiny_recipe.parent)
    assert saved() == {"step-4"}
    train_tiny(tiny_recipe, "run", resume=True)
    train_tiny(tiny_recipe, "undisturbed")
    assert losses("run") == losses("undisturbed")


def test_weights_that_are_no_numbers_are_not_saved_where_the_loss_still_was(tiny_recipe, monkeypatch):
    own_step = Trainer.step

    def breaks_at_the_end(trainer: Trainer, step: int):
        result = own_step(trainer, step)
        if step == 5:
            with torch.no_grad():
                trainer.model.embedding.weight[3, 3] = float("nan")
        return result

    monkeypatch.setattr(Trainer, "step", breaks_at_the_end)
    with pytest.raises(NotFinite, match=r"embedding\.weight is not finite after step 6") as caught:
        train_tiny(tiny_recipe, "run")
    assert isinstance(caught.value, TrainingError) and caught.value.exit_code == 1
    assert saved() == {"step-4"}


def test_a_link_that_is_gone_loses_nothing(tiny_recipe):
    train_tiny(tiny_recipe, "run")
    expected = weights("run")
    Path("run/checkpoints/latest").unlink()
    shutil.rmtree("run/checkpoints/step-6")
    train_tiny(tiny_recipe, "run", resume=True)
    assert Path("run/checkpoints/latest").readlink() == Path("step-6")
    assert all(torch.equal(tensor, weights("run")[name]) for name, tensor in expected.items())


def test_a_damaged_checkpoint_is_refused_on_resume_with_the_way_on(tiny_recipe):
    train_tiny(tiny_recipe, "run")
    state = Path("run/checkpoints/step-6/training_state.json")
    state.write_text(state.read_text().replace("6", "5"))
    with pytest.raises(RunError, match=r"training_state\.json: damaged.*\n.*next: remove .*step-6; --resume then goes on"):
        train_tiny(tiny_recipe, "run", resume=True)
    with pytest.raises(RunError, match=r"training_state\.json: damaged"):
        evaluate_run(Path("run"))
    shutil.rmtree("run/checkpoints/step-6")
    train_tiny(tiny_recipe, "run", resume=True)
    load_model(Path("run/checkpoints/latest"))


def test_a_second_process_is_refused(tiny_recipe):
    train_tiny(tiny_recipe, "run")
    files = sorted(Path("run").rglob("*"))
    with sole_use(Path("run"), "another training"):
        for resume in (True, False):
            with pytest.raises(RunError, match="another training is at work in this folder"):
                train_tiny(tiny_recipe, "run", resume=resume)
    assert sorted(Path("run").rglob("*")) == files
    assert train_tiny(tiny_recipe, "run", resume=True).steps == 6


def test_of_two_that_begin_at_once_the_second_leaves_the_first_alone(tmp_path):
    path = tmp_path / "run"
    with sole_use(path, "another training"):
        (path / "checkpoints").mkdir()
        with pytest.raises(RunError, match="another training"), created(path, sole_use(path, "another training")):
            pytest.fail("two are in the folder")
    with pytest.raises(RunError, match="there is a run here already"), created(path, sole_use(path, "another training")):
        pytest.fail("a run is begun twice")
    assert (path / "checkpoints").is_dir()


def test_a_checkpoint_of_the_state_that_is_there_already_is_not_written_twice(tiny_recipe, monkeypatch):
    train_tiny(tiny_recipe, "run")
    before = Path("run/checkpoints/step-6").stat().st_ino
    monkeypatch.setattr(checkpoints_file, "save_model", lambda model, folder: pytest.fail("written again"))
    with pytest.raises(Interrupted):
        train_tiny(tiny_recipe, "run", ("training.steps=9",), resume=True, should_stop=lambda: True)
    assert Path("run/checkpoints/step-6").stat().st_ino == before
