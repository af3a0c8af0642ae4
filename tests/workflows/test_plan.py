"""The plan of a training equals what the training then is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from moecli.cli.app import run
from moecli.data.batches import Batch
from moecli.model.init import build_gpt
from moecli.recipe.load import load_recipe
from moecli.training.trainer import Trainer
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


class RandomBatches:
    """Two sequences of 16 tokens at a time."""

    seq_len = 16

    def batch(self, index: int) -> Batch:
        ids = torch.randint(257, (2, 17), generator=torch.Generator().manual_seed(index))
        return Batch(ids[:, :-1], ids[:, 1:], {})


@pytest.mark.parametrize(
    ("scope", "accumulation", "passes"), [("micro-batch", 2, 3), ("global-batch", 1, 3), ("global-batch", 2, 4), ("global-batch", 4, 4)]
)
def test_the_flops_of_the_plan_are_those_of_a_counted_step(tiny_recipe, scope, accumulation, passes):
    sizes = (f"training.gradient_accumulation={accumulation}", f"training.batch_size={2 * accumulation}")
    recipe = load_recipe(tiny_recipe, (f"training.balance_scope={scope}", *sizes)).recipe
    cost = plan_training(recipe).cost
    assert cost.train_flops_per_token == passes * cost.forward_flops_per_token
    trainer = Trainer(build_gpt(recipe.model, 257, 0), RandomBatches(), recipe.training)
    # The plain attention kernel, so that the counter sees its two products.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        trainer.step(0)
    assert counter.get_total_flops() == cost.train_flops_per_token * 2 * accumulation * 16


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--processes", "2"], "torchrun --nproc-per-node 2"),
        (["--dry-run", "--bandwidth", "10"], "--processes N"),
        (["--dry-run", "--processes", "2", "--speed", "0"], "a number above 0"),
        (["--dry-run", "--processes", "3"], "training.batch_size"),
        (["--dry-run", "--processes", "2", "--set", "parallel.expert=4"], "parallel.expert"),
        (["--dry-run", "--set", "parallel.expert=3"], "a divisor of num_experts"),
    ],
)
def test_what_cannot_be_planned_is_told(tiny_recipe, arguments, said, capsys):
    assert run(["train", str(tiny_recipe), *arguments], debug=False) == 2
    assert said in capsys.readouterr().err.replace("\n", " ")


def test_the_plan_of_several_processes_is_in_the_json(tiny_recipe, capsys):
    assert run(["train", str(tiny_recipe), "--dry-run", "--processes", "4", "--set", "parallel.expert=2", "--json"], debug=False) == 0
    content = json.loads(capsys.readouterr().out)["parallel"]
    assert (content["processes"], content["expert"], content["sequences_per_micro_batch"]) == (4, 2, 1)
    assert content["communication_share"] is None and content["all_to_all_leaving_share"] == 0.5
    assert content["memory_bytes"]["total"] == sum(size for part, size in content["memory_bytes"].items() if part != "total")
