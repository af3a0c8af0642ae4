"""What a comparison must not harm: runs of another process, weights without their link, and figures of one text mixed with another's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from moecli.errors import RunError, TrainingError
from moecli.workflows.events import RunBegun, StepLogged
from moecli.workflows.sole_use import sole_use
from tests.workflows.comparisons import arm_recipe, compared, planned

RUN = Path("comparison/runs/tiny/seed-0")


class KilledError(BaseException):
    """Ends a training as nothing in moecli can catch it."""


def kill_at_step(step: int):
    def listener(event: object) -> None:
        if isinstance(event, StepLogged) and event.figures["step"] == step:
            raise KilledError

    return listener


def test_a_second_process_is_refused_and_the_folder_is_free_afterwards(tmp_path):
    with sole_use(tmp_path / "new", "another comparison"):
        with (
            pytest.raises(RunError, match="another comparison is at work in this folder"),
            sole_use(tmp_path / "new", "another comparison"),
        ):
            pytest.fail("two at once")
        with sole_use(tmp_path / "elsewhere", "another comparison"):
            pass
    with sole_use(tmp_path / "new", "another comparison"):
        pass


@pytest.mark.usefixtures("quick")
def test_a_comparison_in_use_is_not_begun_a_second_time(tiny_recipe):
    with sole_use(Path("comparison"), "another comparison"), pytest.raises(RunError, match="another comparison"):
        compared(arm_recipe(tiny_recipe))
    assert not RUN.exists()


@pytest.mark.usefixtures("quick")
def test_text_that_changes_between_two_runs_stops_the_comparison(tiny_recipe):
    def listener(event: object) -> None:
        if isinstance(event, RunBegun) and event.number == 2:
            Path("text.txt").write_text("Other words. " * 2000, encoding="utf-8")

    with pytest.raises(RunError, match="the text has changed since this comparison was begun") as caught:
        compared(arm_recipe(tiny_recipe), listener=listener)
    assert "dense-active, seed 0" in caught.value.where and "1 of 2 runs are done" in caught.value.what


def test_a_training_that_diverges_is_named(tiny_recipe):
    with pytest.raises(TrainingError) as caught:
        compared(arm_recipe(tiny_recipe, "training.learning_rate=1e30", "training.clip_norm=null"))
    assert caught.value.where.startswith("tiny, seed 0") and "0 of 2 runs are done" in caught.value.what


@pytest.mark.usefixtures("quick")
def test_a_run_whose_link_was_lost_in_copying_goes_on_from_its_last_checkpoint(tiny_recipe):
    with pytest.raises(KilledError):
        compared(arm_recipe(tiny_recipe), listener=kill_at_step(5))
    (RUN / "checkpoints/latest").unlink()  # it was of step 4
    assert planned(arm_recipe(tiny_recipe)).runs[0].state == "to go on"
    first_steps = []
    compared(
        arm_recipe(tiny_recipe),
        listener=lambda event: first_steps.append(event.figures["step"]) if isinstance(event, StepLogged) else None,
    )
    assert first_steps[:2] == [5, 6]


@pytest.mark.usefixtures("quick")
def test_foreign_files_among_the_checkpoints_are_never_removed(tiny_recipe):
    with pytest.raises(KilledError):
        compared(arm_recipe(tiny_recipe), listener=kill_at_step(5))
    shutil.rmtree(RUN / "checkpoints/step-4")
    (RUN / "checkpoints/latest").unlink()
    kept = RUN / "checkpoints/mine.txt"
    kept.write_text("mine", encoding="utf-8")
    with pytest.raises(RunError, match=r"checkpoints/mine\.txt is here"):
        compared(arm_recipe(tiny_recipe))
    assert kept.read_text(encoding="utf-8") == "mine"
