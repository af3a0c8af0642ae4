"""What freezing means beyond a training: a dense twin has nothing of it, and a finished run can be evaluated and resumed."""

from __future__ import annotations

from pathlib import Path

import pytest

from moecli.errors import RecipeError
from moecli.model.checkpoint import read_tensors
from moecli.recipe.load import load_recipe
from moecli.workflows.compare_arms import ArmRecipe, build_arms
from moecli.workflows.events import Event
from moecli.workflows.train import train


def ignore(event: Event) -> None: ...


@pytest.mark.parametrize("part", ["experts", "router", "all-but-router"])
def test_a_dense_twin_freezes_nothing(tiny_recipe, part):
    recipe = load_recipe(tiny_recipe, [f"training.freeze=[{part}]"]).recipe
    arms, _ = build_arms(ArmRecipe(recipe, "tiny.yaml"), [], ["active"])
    assert [arm.recipe.training.freeze for arm in arms] == [[part], []]


def test_a_resumed_run_keeps_its_frozen_parts_and_can_not_change_them(tiny_recipe):
    train(load_recipe(tiny_recipe, ["training.freeze=[experts]"]).recipe, out=Path("run"), listener=ignore)
    longer = load_recipe(Path("run/recipe.yaml"), ["training.steps=9"]).recipe
    train(longer, out=Path("run"), resume=True, listener=ignore)
    at_four, at_nine = (read_tensors(Path(f"run/checkpoints/step-{step}/model.safetensors")) for step in (4, 9))
    unmoved = [name for name, tensor in at_four.items() if tensor.equal(at_nine[name])]
    assert unmoved == [f"blocks.{layer}.ffn.experts.{part}_proj" for layer in range(2) for part in ("in", "out")]
    with pytest.raises(RecipeError, match=r"training\.freeze: \['experts'\] in the run, \[\] now"):
        train(load_recipe(Path("run/recipe.yaml"), ["training.freeze=[]"]).recipe, out=Path("run"), resume=True, listener=ignore)
