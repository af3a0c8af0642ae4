"""What a profile leaves: two files, and no run."""

from __future__ import annotations

from pathlib import Path

import pytest

from moecli.errors import RunError
from moecli.recipe.load import load_recipe
from moecli.workflows import profile as profile_file
from moecli.workflows.profile import profile_training


def ignore(event: object) -> None:
    pass


def test_two_files_and_no_run(tiny_recipe):
    result = profile_training(load_recipe(tiny_recipe).recipe, out=None, listener=ignore)
    assert sorted(path.name for path in result.folder.iterdir()) == ["profile.md", "trace.json"]
    assert result.folder.parent == Path("outputs/tiny-profile")
    lines = (result.folder / "profile.md").read_text().splitlines()
    assert len(lines) == 4 + len(result.profile.operations)
    assert f"| `{result.profile.operations[0].name}` |" in lines[4]
    assert set(result.to_json()) == {"folder", "device", "threads", "steps", "phases", "operations"}


def test_a_place_that_is_taken_is_refused_and_a_failure_leaves_nothing(tiny_recipe, monkeypatch):
    recipe = load_recipe(tiny_recipe).recipe
    Path("taken").mkdir()
    Path("taken/file").touch()
    with pytest.raises(RunError, match="something here already") as error:
        profile_training(recipe, out=Path("taken"), listener=ignore)
    assert error.value.next_step == "give another --out"

    def fail(trainer: object, trace: Path) -> None:
        trace.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(profile_file, "profile_steps", fail)
    before = sorted(Path().rglob("*"))
    with pytest.raises(KeyboardInterrupt):
        profile_training(recipe, out=Path("new"), listener=ignore)
    assert sorted(Path().rglob("*")) == before
