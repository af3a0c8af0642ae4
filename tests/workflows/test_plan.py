"""The plan of a training equals what the training then is."""

from __future__ import annotations

from pathlib import Path

import pytest

from moecli.recipe.load import load_recipe
from moecli.workflows.plan import plan_training
from moecli.workflows.train import train


@pytest.mark.parametrize("tokenizer", ["{kind: byte}", "{kind: bpe, vocab_size: 270}"])
def test_a_vocabulary_of_known_size_is_counted_without_reading_text(tiny_recipe, tokenizer, monkeypatch):
    cache = tiny_recipe.parent / "cache"
    monkeypatch.setenv("MOECLI_CACHE", str(cache))
    Path("text.txt").unlink()
    assert plan_training(load_recipe(tiny_recipe, [f"data.tokenizer={tokenizer}"]).recipe).vocab_size in (257, 270)
    assert not cache.exists()


@pytest.mark.parametrize("tokenizer", ["{kind: byte}", "{kind: char}", "{kind: bpe, vocab_size: 270}"])
def test_the_plan_is_what_training_reports(tiny_recipe, tokenizer):
    recipe = load_recipe(tiny_recipe, [f"data.tokenizer={tokenizer}"]).recipe
    plan = plan_training(recipe)
    assert not Path("outputs").exists()
    assert plan == train(recipe, listener=lambda event: None).plan
    content = plan.to_json()
    assert content["memory_bytes"]["weights"] == content["memory_bytes"]["gradients"] == 4 * content["params_total"]
    assert content["memory_bytes"]["optimizer"] == 8 * content["params_total"]
