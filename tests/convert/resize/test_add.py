"""Adding experts: the old ones stay bit for bit, the new ones are like the most used."""

from __future__ import annotations

import pytest
import torch

from moecli.convert.resize.add import with_copies
from moecli.convert.resize.options import ResizeOptions
from tests.convert.resize.moe_models import SIGMOID, TOPK, logits, moe_model, resized


def test_which_are_copied():
    # By load the order is 2, 0, 1, 3. Three more: 2, 0, 1.
    assert with_copies([0.3, 0.2, 0.4, 0.1], 7) == [0, 1, 2, 3, 2, 0, 1]
    # Five of two: 1 first, then 0, and again from the start.
    assert with_copies([0.4, 0.6], 7) == [0, 1, 1, 0, 1, 0, 1]
    # Groups {0, 1} and {2, 3} become groups of three each.
    assert with_copies([0.3, 0.2, 0.1, 0.4], 6, num_groups=2) == [0, 1, 0, 2, 3, 3]


@pytest.mark.parametrize("router", [TOPK, SIGMOID | {"num_groups": 2, "top_groups": 1}, {"kind": "noisy_topk", "top_k": 2}])
def test_pruning_what_was_added_gives_the_original_back(router):
    model = moe_model({"router": router, "num_experts": 6})
    larger, changes = resized(model, ResizeOptions("add", num_experts=10))
    added = {
        change.layer: tuple(place for place, made_of in enumerate(change.made_of) if made_of in change.made_of[:place])
        for change in changes
    }
    assert [len(places) for places in added.values()] == [4, 4]
    back, _ = resized(larger, ResizeOptions("prune", drop_experts=added))
    assert all(torch.equal(tensor, back.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_the_noise_is_as_large_as_asked_for_and_the_seed_decides_it():
    model = moe_model({"router": TOPK, "d_expert": 64})
    noisy = [resized(model, ResizeOptions("add", num_experts=8, noise_std=0.5, seed=seed))[0] for seed in (0, 0, 1)]
    old, new, again, other = (one.blocks[0].ffn for one in (model, *noisy))
    [change] = [change for change in resized(model, ResizeOptions("add", num_experts=8))[1] if change.layer == 0]
    sources = [expert for [expert] in change.made_of]
    for name in ("experts.in_proj", "experts.out_proj"):
        difference = (new.state_dict()[name] - old.state_dict()[name][sources])[4:]
        assert difference.std().item() == pytest.approx(0.5 * old.state_dict()[name].std().item(), rel=0.05)
        assert torch.equal(new.state_dict()[name], again.state_dict()[name])
        assert not torch.equal(new.state_dict()[name], other.state_dict()[name])
    assert (new.router.weight[4:] - old.router.weight[sources[4:]]).std().item() == pytest.approx(
        0.5 * old.router.weight.std().item(), rel=0.4
    )


def test_a_selection_bias_is_copied_and_the_function_is_another():
    model = moe_model({"router": SIGMOID})
    larger, changes = resized(model, ResizeOptions("add", num_experts=6))
    sources = [expert for [expert] in changes[0].made_of]
    assert torch.equal(larger.blocks[0].ffn.router.selection_bias_E, model.blocks[0].ffn.router.selection_bias_E[sources])
    assert not torch.allclose(logits(larger), logits(model), atol=1e-3)
