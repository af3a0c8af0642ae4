"""Every recipe that ships is valid, says how to run it, and is found by its name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from moecli.recipe.load import dump_recipe, load_recipe, parse_recipe
from moecli.recipe.shipped import shipped_recipes
from moecli.workflows.plan import plan_training

RECIPES = shipped_recipes()


def test_the_recipes_are_those_of_the_folder():
    folder = Path(__file__).parent.parent / "recipes"
    assert sorted(path.stem for path in folder.glob("*.yaml")) == sorted(RECIPES)
    assert "quickstart" in RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_is_valid_named_like_its_file_and_says_what_it_costs(name):
    loaded = load_recipe(name)
    assert loaded.recipe.name == name
    assert parse_recipe(dump_recipe(loaded.recipe), "dump").recipe == loaded.recipe
    header = RECIPES[name].read_text(encoding="utf-8").split("\n\n")[0]
    assert re.search(r"^# cost: .*\d+ s", header, flags=re.MULTILINE)
    assert re.search(r"^# result: .*\d\.\d", header, flags=re.MULTILINE)
    assert f"moecli train recipes/{name}.yaml" in header
    cost = plan_training(loaded.recipe, tokenizer_vocab_size=1024).cost
    assert 0 < cost.params_active <= cost.params_total
