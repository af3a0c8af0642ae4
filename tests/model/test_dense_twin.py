"""Twins: a width by hand, and every MoE recipe that ships against the cost of its neighbours."""

from __future__ import annotations

from fractions import Fraction
from typing import get_args

import pytest

from moecli.model.accounting import model_cost
from moecli.model.config import GPTConfig, MoELayersConfig
from moecli.model.dense_twin import QUANTITIES, CostMatch, dense_twin
from moecli.moe.layers import DenseMoEConfig, MLPConfig, SoftMoEConfig, SparseMoEConfig
from moecli.moe.routers import ExpertChoiceConfig, TopKConfig
from moecli.recipe.load import load_recipe
from moecli.recipe.shipped import shipped_recipes
from tests.model.test_accounting import PUBLISHED

QUICKSTART = GPTConfig(d_model=64, num_layers=4, num_heads=4, ffn=SparseMoEConfig(num_experts=8, d_expert=128, router=TopKConfig(top_k=2)))
RECIPES = {name: load_recipe(name).recipe for name in shipped_recipes()}
MOES = {name: recipe for name, recipe in RECIPES.items() if recipe.model.ffn.kind != "mlp"}


def width_error(config: GPTConfig, vocab_size: int, seq_len: int, match: CostMatch) -> tuple[int, Fraction]:
    """The twin's width, and how far that is from the exact one, from the cost of the twin and of the same model one wider."""
    twin = dense_twin(config, vocab_size, seq_len, match)
    wider = twin.config.model_copy(update={"ffn": MLPConfig(d_ff=twin.d_ff + 1)})
    step = QUANTITIES[match](model_cost(wider, vocab_size, seq_len)) - twin.got
    assert step > 0
    return twin.d_ff, Fraction(twin.got - twin.target, step)


def test_quickstart_by_hand():
    # A unit of width costs 3 * 64 = 192 parameters in each of 4 layers (gate, up, down). A layer of the MoE has per token 2 experts of
    # 3 * 64 * 128 = 24,576 and a router of 64 * 8 = 512: 49,664 = 192 * 258.67. 256 is 1.03 % away, so it is 259, a third too wide:
    active = dense_twin(QUICKSTART, 1024, 128, "active")
    assert (active.d_ff, active.got - active.target) == (259, 4 * (192 * 259 - 49_664))
    assert active.got - active.target == 256
    # All 8 experts and the router: 197,120 = 192 * 1026.67. 1024 is 0.26 % away and a multiple of 8.
    total = dense_twin(QUICKSTART, 1024, 128, "total")
    assert (total.d_ff, total.got - total.target) == (1024, 4 * (192 * 1024 - 197_120))
    # 2 * 3 FLOPs per active parameter; attention and the output layer are the same in both.
    flops = dense_twin(QUICKSTART, 1024, 128, "flops")
    assert (flops.d_ff, flops.got - flops.target) == (259, 6 * 256)
    assert active.mismatch == active.got / active.target - 1 > 0 > total.mismatch


@pytest.mark.parametrize("match", get_args(CostMatch))
@pytest.mark.parametrize("name", MOES)
def test_every_recipe_that_ships_has_twins_of_the_nearest_width(name, match):
    recipe = MOES[name]
    d_ff, error = width_error(recipe.model, 1000, recipe.data.seq_len, match)
    exact = d_ff - error
    nearest_round = 8 * round(exact / 8)
    if abs(nearest_round - exact) <= exact / 100:
        assert d_ff == nearest_round
    else:
        assert abs(error) <= Fraction(1, 2)


def test_the_recipes_have_every_kind_of_moe():
    assert {recipe.model.ffn.kind for recipe in MOES.values()} == {"sparse", "dense", "soft"}


@pytest.mark.parametrize("match", get_args(CostMatch))
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes_to_a_hundredth(name, match):
    config, vocab_size, total, active = PUBLISHED[name]
    twin = dense_twin(config, vocab_size, 4096, match)
    assert abs(twin.mismatch) < 0.01
    assert twin.target == {"total": total, "active": active}.get(match, twin.target)
    d_ff, error = width_error(config, vocab_size, 4096, match)
    assert abs(error) <= max(Fraction(1, 2), (d_ff - error) / 100)


def test_a_twin_is_the_same_model_but_for_its_moe_layers():
    config = GPTConfig(
        d_model=16, num_layers=4, num_heads=4, num_kv_heads=2, qk_norm="head", activation="relu2", tie_embeddings=True, init_std=0.05,
        ffn=SparseMoEConfig(num_experts=4, d_expert=32), moe_layers=MoELayersConfig(first_dense=1, every=2), dense_d_ff=40, causal=False,
    )  # fmt: skip
    twin = dense_twin(config, 100, 8, "active")
    assert twin.config.model_dump(exclude={"ffn"}) == config.model_dump(exclude={"ffn"})
    assert [twin.config.ffn_of_layer(layer) for layer in range(4)] == [
        MLPConfig(d_ff=40), MLPConfig(d_ff=40), MLPConfig(d_ff=twin.d_ff), MLPConfig(d_ff=40),
    ]  # fmt: skip


def test_one_expert_is_its_own_twin():
    # One expert on every token, without a choice: a dense MoE of E = 1 has a router of 16 weights more than the mlp of its width.
    config = GPTConfig(d_model=16, num_layers=2, num_heads=2, ffn=DenseMoEConfig(num_experts=1, d_expert=64))
    for match in get_args(CostMatch):
        assert dense_twin(config, 50, 8, match).d_ff == 64


def test_fewer_slots_than_tokens_make_a_narrower_twin_by_flops():
    # 2 experts with 1 slot each over 8 tokens: an expert's FLOPs are spread over 8 tokens, its parameters are not.
    config = GPTConfig(
        d_model=16, num_layers=2, num_heads=2, ffn=SoftMoEConfig(num_experts=2, d_expert=64, slots_per_expert=1), causal=False
    )
    assert dense_twin(config, 50, 8, "flops").d_ff < 64 / 2 < dense_twin(config, 50, 8, "active").d_ff


def test_the_smallest_moe_has_a_twin():
    # A unit of width costs 2 * 4 = 8 without a gate. Half a token in 8 for an expert of width 1, and a router of 4: 0.5 + 8 / 16 = 1.
    ffn = SparseMoEConfig(num_experts=1, d_expert=1, router=ExpertChoiceConfig(experts_per_token=0.0625, pool="batch"))
    config = GPTConfig(d_model=4, num_layers=1, num_heads=2, activation="gelu", ffn=ffn)
    assert dense_twin(config, 50, 8, "active").d_ff == 1
