"""A checkpoint and the recipe beside it are of one model, or nothing is made of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from moecli.errors import RunError
from moecli.model.config import GPTConfig
from moecli.recipe.schema import Recipe
from moecli.workflows.convert_export import plan_export
from moecli.workflows.convert_request import ConvertRequest
from moecli.workflows.eval import evaluate_run
from moecli.workflows.generate import GenerateRequest, generate_text
from moecli.workflows.opened_run import check_same_model
from moecli.workflows.source_run import open_source
from tests.workflows.test_train import train_tiny

OPENERS: dict[str, Callable[[Path], object]] = {
    "eval": evaluate_run,
    "generate": lambda run: generate_text(run, GenerateRequest(max_tokens=1), lambda number, text: None),
    "convert to a run": open_source,
    "convert to Hugging Face": lambda run: plan_export(ConvertRequest(run, Path("target"))),
}


@pytest.mark.parametrize("opener", OPENERS)
def test_a_recipe_of_another_model_is_refused_with_the_key(tiny_recipe, opener):
    train_tiny(tiny_recipe, "run")
    OPENERS[opener](Path("run"))
    recipe = Path("run/recipe.yaml")
    recipe.write_text(recipe.read_text().replace("top_k: 2", "top_k: 3"))
    with pytest.raises(RunError, match=r"of another model:\n  model\.ffn\.router\.top_k: 2 in the checkpoint, 3 in the recipe\n  next:"):
        OPENERS[opener](Path("run"))


@pytest.mark.parametrize("opener", OPENERS)
def test_a_tokenizer_of_another_run_is_refused(tiny_recipe, opener):
    train_tiny(tiny_recipe, "run")
    train_tiny(tiny_recipe, "other", ("data.tokenizer.kind=char",))
    shutil.copy("other/tokenizer.json", "run/tokenizer.json")
    with pytest.raises(RunError, match=r"token ids, the run's tokenizer\.json and objective make [0-9]+\n  next:"):
        OPENERS[opener](Path("run"))


def test_a_checkpoint_from_before_there_were_objectives_is_causal():
    assert GPTConfig().causal is None
    check_same_model(GPTConfig(), Recipe(), Path("step-1"))
    with pytest.raises(RunError, match=r"model\.causal: True in the checkpoint, False in the recipe"):
        check_same_model(GPTConfig(), Recipe(objective="masked-lm"), Path("step-1"))
