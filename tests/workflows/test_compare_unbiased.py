"""The measuring favours nobody: an MoE whose experts are all the twin's network has the twin's loss."""

from __future__ import annotations

import pytest
import torch

from moecli.data.prepare import prepare
from moecli.model.gpt import GPT
from moecli.model.init import build_gpt
from moecli.moe.layers import DenseMoEConfig, FeedForwardConfig, MLPConfig, SparseMoEConfig
from moecli.moe.routers import SigmoidTopKConfig, TopKConfig
from moecli.recipe.load import load_recipe
from moecli.workflows.evaluate_split import evaluate_split

D_FF = 24
NUM_EXPERTS = 4
VOCAB = 257


def sparse(top_k: int) -> SparseMoEConfig:
    # Top-1 with a weight of 1 could not be trained, so a config is not built with it; here nothing is trained.
    router = TopKConfig(top_k=top_k, normalize_weights=False).model_copy(update={"normalize_weights": True})
    return SparseMoEConfig(num_experts=NUM_EXPERTS, d_expert=D_FF, router=router)


MOES: dict[str, FeedForwardConfig] = {
    "top 1": sparse(1),
    "top 2": sparse(2),
    "all experts": sparse(NUM_EXPERTS),
    "sigmoid top 2": SparseMoEConfig(num_experts=NUM_EXPERTS, d_expert=D_FF, router=SigmoidTopKConfig(top_k=2)),
    "dense MoE": DenseMoEConfig(num_experts=NUM_EXPERTS, d_expert=D_FF),
}


def of_copies(twin: GPT, ffn: FeedForwardConfig) -> GPT:
    """The twin with its network copied into every expert. The router has weights of its own, so tokens go different ways."""
    moe = build_gpt(twin.config.model_copy(update={"ffn": ffn.with_default_widths(twin.config.d_model)}), VOCAB, seed=9)
    weights = twin.state_dict()
    with torch.no_grad():
        for name, parameter in moe.named_parameters():
            if ".experts." in name:
                parameter.copy_(weights[name.replace(".experts.", ".") + ".weight"].expand_as(parameter))
            elif name in weights:
                parameter.copy_(weights[name])
            else:
                parameter.normal_()
    return moe


@pytest.mark.parametrize("name", MOES)
def test_an_moe_of_copies_of_the_twin_has_the_loss_of_the_twin(tiny_recipe, name):
    recipe = load_recipe(tiny_recipe, ("model.init_std=0.3",)).recipe
    split = prepare(recipe.data).validation
    twin = build_gpt(recipe.model.model_copy(update={"ffn": MLPConfig(d_ff=D_FF)}), VOCAB, seed=0)
    moe = of_copies(twin, MOES[name])
    loads = []

    def observe(batch, records) -> None:
        loads.extend(record.load_E for record in records if record is not None)

    ours = evaluate_split(moe, recipe, split, VOCAB, observe)
    theirs = evaluate_split(twin, recipe, split, VOCAB)
    assert ours.loss == pytest.approx(theirs.loss, abs=1e-6)
    assert ours.bits_per_byte == pytest.approx(theirs.bits_per_byte, abs=2e-6)
    # Every expert has worked, and the feed-forward networks matter to the loss.
    assert all(torch.stack(loads).sum(dim=0) > 0)
    without = of_copies(twin, MOES[name])
    for parameter in (parameter for key, parameter in without.named_parameters() if key.endswith("experts.out_proj")):
        parameter.data.zero_()
    assert abs(evaluate_split(without, recipe, split, VOCAB).loss - theirs.loss) > 1e-3
