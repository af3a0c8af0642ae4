"""What the objective of a recipe decides, and what contradicts it."""

from __future__ import annotations

import pytest

from moecli.errors import RecipeError
from moecli.recipe.load import dump_recipe, parse_recipe


def recipe_of(text: str):
    return parse_recipe(text, "my.yaml").recipe


@pytest.mark.parametrize(
    ("text", "causal"),
    [
        ("name: old", True),
        ("model: {d_model: 32}", True),
        ("model: {causal: null}", True),
        ("objective: causal-lm\nmodel: {causal: true}", True),
        ("objective: masked-lm", False),
        ("objective: masked-lm\nmodel: {d_model: 32}", False),
        ("objective: masked-lm\nmodel: {causal: false}", False),
    ],
)
def test_the_objective_decides_whether_the_model_is_causal_and_the_dump_says_so(text, causal):
    recipe = recipe_of(text)
    assert recipe.model.causal is causal
    assert f"causal: {str(causal).lower()}" in dump_recipe(recipe)
    assert recipe_of(dump_recipe(recipe)) == recipe


@pytest.mark.parametrize(("objective", "causal", "allowed"), [("causal-lm", "false", "true"), ("masked-lm", "true", "false")])
def test_a_contradiction_is_told_with_its_line_and_what_is_allowed(objective, causal, allowed):
    with pytest.raises(RecipeError) as caught:
        recipe_of(f"objective: {objective}\nmodel:\n  d_model: 32\n  causal: {causal}\n")
    message = str(caught.value)
    assert f"my.yaml:4: model.causal = {causal}: objective {objective} predicts tokens" in message
    assert f"(allowed: {allowed} with objective {objective}, or the key left out)" in message


@pytest.mark.parametrize("rate", ["0", "1", "-0.1", "1.5"])
def test_a_mask_rate_lies_between_0_and_1(rate):
    with pytest.raises(RecipeError, match=r"training\.mask_rate"):
        recipe_of(f"objective: masked-lm\ntraining: {{mask_rate: {rate}}}")
