"""Masked-token training as a whole: it learns, eval repeats its loss, resuming is exact, and the mask id is counted everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from moecli.cli import app
from moecli.data.prepare import prepare
from moecli.errors import Interrupted
from moecli.model.checkpoint import load_model
from moecli.model.manifest import add_to_manifest
from moecli.recipe.load import load_recipe
from moecli.training.metric_log import read_metrics
from moecli.workflows.batches import evaluation_batches
from moecli.workflows.eval import evaluate_run
from moecli.workflows.events import StepLogged
from moecli.workflows.plan import plan_training
from moecli.workflows.train import train

MASKED = ("objective=masked-lm",)


def train_masked(recipe: Path, out: str, overrides: tuple[str, ...] = (), **options):
    options = {"listener": lambda event: None} | options
    return train(load_recipe(recipe, MASKED + overrides).recipe, out=Path(out), **options)


def losses(run: str) -> list[tuple]:
    return [(line["step"], line.get("loss"), line.get("val_loss")) for line in read_metrics(Path(run) / "metrics.jsonl")]


def weights(run: str) -> dict[str, torch.Tensor]:
    return load_model(Path(run) / "checkpoints" / "latest").state_dict()


def test_training_lowers_the_loss_and_eval_repeats_it_to_the_last_bit(tiny_recipe):
    longer = ("training.steps=60", "training.learning_rate=1e-2", "evaluation.every=0", "training.log_every=20")
    result = train_masked(tiny_recipe, "run", longer)
    # Guessing among 257 bytes costs ln 257 = 5.55 nats. The frequencies of the letters alone are worth more than a nat and a half.
    assert result.validation.loss < 4.0
    assert result.validation.bits_per_byte is None and result.to_json()["bits_per_byte"] is None
    again = evaluate_run(Path("run"))
    assert again.evaluation == result.validation
    assert again.to_json()["bits_per_byte"] is None
    assert result.load.layers


def test_validation_is_the_same_however_it_is_batched_and_predicts_the_share_that_it_should(tiny_recipe):
    recipe = load_recipe(tiny_recipe, MASKED).recipe
    data = prepare(recipe.data)
    tokens = [int((batch.targets_BS >= 0).sum()) for batch in evaluation_batches(recipe, data.validation, 257)]
    full, rest = divmod(len(data.validation.ids) - 1, 16)
    # 16 tokens at 0.15 are 2.4: two are predicted.
    assert sum(tokens) == 2 * full + (max(1, round(0.15 * rest)) if rest else 0)
    few = train_masked(tiny_recipe, "few", ("training.steps=2", "evaluation.batch_size=3"))
    many = train_masked(tiny_recipe, "many", ("training.steps=2", "evaluation.batch_size=20"))
    assert few.validation.tokens == many.validation.tokens == sum(tokens)
    assert few.validation.loss == pytest.approx(many.validation.loss, rel=1e-6)


@pytest.mark.parametrize("steps_before_stop", [2, 5])
def test_stopping_and_resuming_ends_in_the_same_weights_and_metrics(tiny_recipe, steps_before_stop):
    train_masked(tiny_recipe, "undisturbed")
    logged = []

    def listener(event: object) -> None:
        if isinstance(event, StepLogged):
            logged.append(event)

    with pytest.raises(Interrupted):
        train_masked(tiny_recipe, "stopped", listener=listener, should_stop=lambda: len(logged) >= steps_before_stop)
    train_masked(tiny_recipe, "stopped", resume=True)
    assert losses("stopped") == losses("undisturbed")
    assert all(torch.equal(tensor, weights("stopped")[name]) for name, tensor in weights("undisturbed").items())


@pytest.mark.parametrize("tokenizer", ["{kind: byte}", "{kind: char}", "{kind: bpe, vocab_size: 270}"])
def test_the_mask_id_is_one_more_than_the_tokenizer_knows(tiny_recipe, tokenizer):
    overrides = (f"data.tokenizer={tokenizer}", "training.steps=1")
    size = prepare(load_recipe(tiny_recipe, overrides).recipe.data).tokenizer.vocab_size
    plan = plan_training(load_recipe(tiny_recipe, MASKED + overrides).recipe)
    result = train_masked(tiny_recipe, "run", overrides)
    assert plan == result.plan
    assert plan.vocab_size == load_model(result.checkpoint).vocab_size == size + 1
    assert plan.cost.params_total == sum(tensor.numel() for tensor in weights("run").values())
    assert plan_training(load_recipe(tiny_recipe, overrides).recipe).vocab_size == size


def test_other_text_and_the_train_split_are_masked_too(tiny_recipe):
    train_masked(tiny_recipe, "run")
    Path("other.txt").write_text("Something else entirely.\n", encoding="utf-8")
    other = evaluate_run(Path("run"), text=["other.txt"]).evaluation
    # 26 targets from 27 tokens, the bytes and an end of text on each side: one window of 16 with 2, one of 10 with round(1.5) = 2.
    assert (other.tokens, other.num_bytes, other.is_masked) == (4, 25, True)
    assert evaluate_run(Path("run"), split="train").evaluation.tokens > evaluate_run(Path("run")).evaluation.tokens


def test_a_checkpoint_from_before_there_were_two_objectives_still_loads(tiny_recipe):
    train(load_recipe(tiny_recipe).recipe, out=Path("run"), listener=lambda event: None)
    before = evaluate_run(Path("run")).evaluation
    recipe, config = Path("run/recipe.yaml"), Path("run/checkpoints/step-6/config.json")
    lines = recipe.read_text().splitlines(keepends=True)
    recipe.write_text("".join(line for line in lines if not line.strip().startswith(("causal:", "mask_rate:"))))
    content = json.loads(config.read_text())
    assert content["model"].pop("causal") is True
    config.write_text(json.dumps(content))
    add_to_manifest(config.parent, [config.name])
    assert evaluate_run(Path("run")).evaluation == before
    train(load_recipe(tiny_recipe).recipe, out=Path("run"), listener=lambda event: None, resume=True)


def test_the_command_line_says_masked_tokens_and_no_bits_per_byte(tiny_recipe, capsys):
    masked = ["--set", MASKED[0]]
    assert app.run(["train", "tiny.yaml", *masked, "--dry-run", "--json"], debug=False) == 0
    assert json.loads(capsys.readouterr().out)["vocab_size"] == 258
    assert app.run(["train", "tiny.yaml", *masked, "--out", "run"], debug=False) == 0
    trained = capsys.readouterr().out
    assert "step 4: validation loss" in trained and "nats/masked token, perplexity" in trained and " masked tokens\n" in trained
    assert app.run(["eval", "run"], debug=False) == 0
    evaluated = capsys.readouterr().out
    assert "masked tokens, " in evaluated and "nats/masked token\n" in evaluated
    assert "bits" not in trained and "bits" not in evaluated
    assert app.run(["eval", "run", "--json"], debug=False) == 0
    assert json.loads(capsys.readouterr().out)["bits_per_byte"] is None
