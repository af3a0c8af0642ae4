"""Every recipe that ships is valid, says how to run it, trains, and is found by its name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from moecli.cli import app
from moecli.recipe.load import dump_recipe, load_recipe, parse_recipe
from moecli.recipe.shipped import shipped_recipes
from moecli.workflows.plan import plan_training
from tests.conftest import TINY_TEXT

RECIPES = shipped_recipes()
# Total and active parameters: both embeddings counted; without the input embedding; without the output layer too.
SHAPES = {
    "mixtral-8x7b": (46_702_792_704, 12_879_925_248, 12_748_853_248, 12_617_781_248),
    "olmoe-1b-7b": (6_919_161_856, 1_282_017_280, 1_178_994_688, 1_075_972_096),
    "qwen1.5-moe-a2.7b": (14_315_784_192, 2_689_173_504, 2_378_008_576, 2_066_843_648),
    "qwen3-30b-a3b": (30_532_122_624, 3_353_032_704, 3_041_867_776, 2_730_702_848),
}
TRAINABLE = [name for name in RECIPES if name not in SHAPES]
STAGES = {"mix-branch", "mix-gate", "mix-joint"}
METHODS = {
    "shazeer-noisy-topk", "gshard", "switch", "st-moe", "vmoe-bpr", "soft-moe", "mixture-of-tokens", "expert-choice", "glam", "mixtral",
    "qwen2-moe", "qwen3-moe", "deepseek-moe", "deepseek-v3", "olmoe", "dense-moe", "mlp",
}  # fmt: skip


def header(name: str) -> str:
    return RECIPES[name].read_text(encoding="utf-8").split("\n\n")[0]


def test_the_recipes_are_those_of_the_folder():
    folder = Path(__file__).parent.parent / "recipes"
    assert sorted(path.stem for path in folder.glob("*.yaml")) == sorted(RECIPES)
    assert set(RECIPES) == {"quickstart", "synthetic", "compare-quick", "decode"} | STAGES | METHODS | set(SHAPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_is_valid_and_named_like_its_file(name):
    loaded = load_recipe(name)
    assert loaded.recipe.name == name
    assert not loaded.notices
    assert parse_recipe(dump_recipe(loaded.recipe), "dump").recipe == loaded.recipe
    assert f"moecli train recipes/{name}.yaml" in header(name)
    cost = plan_training(loaded.recipe, tokenizer_vocab_size=1024).cost
    assert 0 < cost.params_active <= cost.params_total


@pytest.mark.parametrize("name", TRAINABLE)
def test_a_recipe_that_trains_says_what_it_costs_and_what_came_out(name):
    assert re.search(r"^# cost: .*\d\d s .*\d MB", header(name), flags=re.MULTILINE)
    assert re.search(r"^# result: .*\d\.\d", header(name), flags=re.MULTILINE)


@pytest.mark.parametrize("name", METHODS)
def test_a_published_method_names_its_source_and_no_causal_model_sees_its_future(name):
    assert re.search(r"^# source: .*\S", header(name), flags=re.MULTILINE)
    recipe = load_recipe(name).recipe
    assert not recipe.allow_future_leak
    assert recipe.leaks_future == (name in {"vmoe-bpr", "soft-moe", "expert-choice"}) == (recipe.objective == "masked-lm")


@pytest.mark.parametrize("name", METHODS)
def test_a_published_method_trains(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TINY_TEXT * 2, encoding="utf-8")
    overrides = [
        "data.corpus={kind: files, paths: [text.txt]}", "data.tokenizer={kind: byte}", "data.seq_len=16", "training.steps=2",
        "training.log_every=1", "evaluation.every=0", "training.device=cpu",
    ]  # fmt: skip
    arguments = [text for override in overrides for text in ("--set", override)]
    assert app.run(["train", name, *arguments, "--out", "run", "--json"], debug=False) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["val_loss"] < 7
    assert bool(result["load"]["layers"]) == (name != "mlp")
    model = load_recipe(name).recipe.model
    assert [layer["layer"] for layer in result["load"]["layers"]] == [
        layer for layer in range(model.num_layers) if model.ffn_of_layer(layer).kind != "mlp"
    ]


@pytest.mark.parametrize("name", SHAPES)
def test_a_full_size_shape_is_counted_to_the_last_parameter(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "shape only" in header(name)
    assert app.run(["train", name, "--dry-run", "--json"], debug=False) == 0
    counted = json.loads(capsys.readouterr().out)
    keys = ("params_total", "params_active", "params_active_without_embedding", "params_active_without_embedding_and_head")
    assert tuple(counted[key] for key in keys) == SHAPES[name]
    assert counted["memory_bytes"]["weights"] == 4 * SHAPES[name][0]
    assert list(tmp_path.iterdir()) == []
