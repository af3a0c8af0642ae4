"""Settings of a sweep: every combination once, what is changed and what stays, and what is refused."""

from __future__ import annotations

import pytest
import torch

from moecli.evaluation.routing_setting import RoutingSetting, sweep_problems, sweep_settings, trained_setting, with_setting
from moecli.model.config import GPTConfig
from moecli.model.init import build_gpt
from moecli.model.rerouted import with_feed_forward
from moecli.moe.capacity import CapacityConfig
from moecli.moe.layers import SparseMoEConfig
from moecli.moe.routers import ROUTERS, ExpertChoiceConfig, NoisyTopKConfig, SigmoidTopKConfig, TopKConfig

TOP2 = SparseMoEConfig(num_experts=8, router=TopKConfig(top_k=2))
LIMITED = SparseMoEConfig(
    num_experts=8, router=TopKConfig(top_k=2), capacity=CapacityConfig(factor=1.5, eval_factor=2.0, group="batch", overflow="next")
)
EXPERT_CHOICE = SparseMoEConfig(num_experts=8, router=ExpertChoiceConfig(experts_per_token=2.0, pool="batch"))


def problems(config: SparseMoEConfig, top_ks=(), capacity_factors=()) -> list[str]:
    return [problem.what for problem in sweep_problems(config, top_ks, capacity_factors, batch_size=4, seq_len=16)]


def test_every_combination_comes_once_in_order_and_the_trained_setting_is_among_them():
    settings = sweep_settings(TOP2, [4, 1, 1.0], [None, 1.25])
    assert settings == [
        RoutingSetting(1, 1.25), RoutingSetting(1, None),
        RoutingSetting(2, None),
        RoutingSetting(4, 1.25), RoutingSetting(4, None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("config", "top_ks", "factors", "expected"),
    [
        (TOP2, [3], [], [(2, None), (3, None)]),
        (TOP2, [], [1.0], [(2, 1.0), (2, None)]),
        (LIMITED, [3], [], [(2, 2.0), (3, 2.0)]),
        (LIMITED, [], [None], [(2, 2.0), (2, None)]),
        (LIMITED, [2], [2.0], [(2, 2.0)]),
        (EXPERT_CHOICE, [1.5], [], [(1.5, None), (2.0, None)]),
    ],
)
def test_what_is_not_swept_stays_as_trained(config, top_ks, factors, expected):
    assert sweep_settings(config, top_ks, factors) == [RoutingSetting(*pair) for pair in expected]


@pytest.mark.parametrize("config", [TOP2, LIMITED, EXPERT_CHOICE], ids=["topk", "capacity", "expert_choice"])
def test_the_trained_setting_evaluates_as_the_config_does(config):
    same = with_setting(config, trained_setting(config))
    assert same.router == config.router
    assert (same.capacity and same.capacity.eval_factor) == (config.capacity and config.capacity.eval_factor)


@pytest.mark.parametrize("kind", ROUTERS)
def test_the_trained_setting_gives_the_same_logits_and_another_one_others_from_the_same_weights(kind):
    ffn = SparseMoEConfig(num_experts=4, router=ROUTERS[kind].config_class())
    model = build_gpt(GPTConfig(d_model=8, num_layers=2, num_heads=2, init_std=0.5, ffn=ffn), 11, seed=0).eval()
    for parameter in model.parameters():  # some routers begin at zero, where all experts are alike
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(parameter.numel()))
    ids_BS = torch.arange(22).view(2, 11) % 11
    config = model.config.ffn
    same = with_feed_forward(model, with_setting(config, trained_setting(config)))
    other = with_feed_forward(model, with_setting(config, RoutingSetting(3, None)))
    with torch.inference_mode():
        assert torch.equal(same(ids_BS)[0], model(ids_BS)[0])
        assert not torch.allclose(other(ids_BS)[0], model(ids_BS)[0])
        assert other(ids_BS)[1][0].chosen_load_E.sum() >= 3 * 22 > model(ids_BS)[1][0].chosen_load_E.sum()
    assert [parameter.data_ptr() for parameter in other.parameters()] == [parameter.data_ptr() for parameter in model.parameters()]


def test_a_capacity_of_the_recipe_keeps_its_rules_and_a_new_one_is_causal():
    changed = with_setting(LIMITED, RoutingSetting(2, 1.0)).capacity
    assert changed == CapacityConfig(factor=1.0, eval_factor=1.0, group="batch", overflow="next")
    assert with_setting(LIMITED, RoutingSetting(2, None)).capacity is None
    new = with_setting(TOP2, RoutingSetting(4, 1.0))
    assert new.capacity == CapacityConfig(factor=1.0, eval_factor=1.0, group="sequence", order="token", overflow="residual")
    assert new.leaks() == []


def test_leaks_are_those_of_the_setting_and_not_of_the_training():
    by_choice = TOP2.model_copy(update={"capacity": CapacityConfig(factor=1.0, eval_factor=None, order="choice")})
    assert [leak.sees for leak in by_choice.leaks()] == ["future"]
    assert with_setting(by_choice, trained_setting(by_choice)).leaks() == []
    assert [leak.sees for leak in with_setting(by_choice, RoutingSetting(2, 1.0)).leaks()] == ["future"]
    # An expert gets each of N tokens once at most, and with factor 4 it has room for 4 * 2 * N / 8 = N.
    assert with_setting(by_choice, RoutingSetting(2, 4.0)).leaks() == []


def test_rules_of_training_do_not_count():
    assert problems(TOP2, top_ks=[1]) == []
    router = with_setting(TOP2, RoutingSetting(1, None)).router
    assert isinstance(router, TopKConfig) and router.top_k == 1 and router.normalize_weights is True
    assert problems(SparseMoEConfig(num_experts=8, router=NoisyTopKConfig()), top_ks=[1]) == []


def test_all_problems_are_told():
    assert problems(TOP2, top_ks=[9, 1.5, 8], capacity_factors=[0.1]) == [
        "9: more experts per token than there are experts (8)",
        "1.5: the topk router takes whole experts",
    ]
    assert problems(EXPERT_CHOICE, top_ks=[9], capacity_factors=[None, 1.0]) == [
        "9: more experts per token than there are experts (8)",
        "none, 1: the expert_choice router gives every expert the same number of tokens, a capacity has nothing to limit",
    ]


def test_groups_and_pools_stay_as_trained():
    groups = SparseMoEConfig(num_experts=8, router=SigmoidTopKConfig(top_k=2, num_groups=4, top_groups=2))
    # 2 of 4 groups of 2 experts leave 4 to choose from.
    assert problems(groups, top_ks=[4]) == []
    (refused,) = sweep_problems(groups, [5], [], batch_size=4, seq_len=16)
    assert refused.what == "5: top_groups leaves 4 of 8 experts to choose from, too few for top_k 5"
    assert refused.allowed == "a smaller number"
    # Of the 4 sequences of a batch each of 8 experts takes 4 * 4 / 8 = 2, and 3 * 4 / 8 = 1.5 is no number of sequences.
    assert problems(EXPERT_CHOICE, top_ks=[4]) == []
    assert problems(EXPERT_CHOICE, top_ks=[3]) == ["3: leaves each of 8 experts 1.5 of evaluation.batch_size (4)"]
