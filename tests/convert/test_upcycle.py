"""A dense model becomes an MoE: which weights end up where, and that the function stays where it must."""

from __future__ import annotations

import pytest
import torch

from moecli.convert.upcycle import UpcycleOptions, cut, output_factor, upcycle
from moecli.convert.upcycle_check import departures
from moecli.convert.upcycle_proof import logit_difference
from moecli.moe.activations import ACTIVATIONS
from tests.convert.upcycle_models import D_FF, SEQ_LEN, dense_config, dense_model, moe_config

COPIES, DROP, GRANULAR = UpcycleOptions("copies"), UpcycleOptions("drop"), UpcycleOptions("granular")
HALF, QUARTER = D_FF // 2, D_FF // 4

SAME_FUNCTION = {
    "top-2": (COPIES, {"num_experts": 4, "router": {"kind": "topk", "top_k": 2}}),
    "top-3": (COPIES, {"num_experts": 4, "router": {"kind": "topk", "top_k": 3}}),
    "all, not normalised": (COPIES, {"num_experts": 4, "router": {"kind": "topk", "top_k": 4, "normalize_weights": False}}),
    "sigmoid times 2.5": (COPIES, {"num_experts": 4, "router": {"kind": "sigmoid_topk", "top_k": 2, "scale": 2.5}}),
    "noisy": (COPIES, {"num_experts": 4, "router": {"kind": "noisy_topk", "top_k": 2}}),
    "hash": (COPIES, {"num_experts": 4, "router": {"kind": "hash", "top_k": 1}}),
    "random": (COPIES, {"num_experts": 4, "router": {"kind": "random", "top_k": 2}}),
    "dense MoE": (COPIES, {"kind": "dense", "num_experts": 3}),
    "capacity in training alone": (COPIES, {"num_experts": 4, "capacity": {"factor": 0.5, "eval_factor": None}}),
    "capacity with room for all": (COPIES, {"num_experts": 4, "capacity": {"factor": 0.5, "eval_factor": 2.0}}),
    "a drop of nothing": (UpcycleOptions("drop", drop_ratio=0.05), {"num_experts": 4}),  # int(0.05 * 16) = 0
    "two shards, one copy": (GRANULAR, {"num_experts": 8, "d_expert": HALF, "router": {"kind": "topk", "top_k": 2}}),
    "two shards, two copies": (GRANULAR, {"num_experts": 8, "d_expert": HALF, "router": {"kind": "topk", "top_k": 4}}),
    "four shards": (GRANULAR, {"num_experts": 8, "d_expert": QUARTER, "router": {"kind": "topk", "top_k": 4}}),
    "one shard": (GRANULAR, {"num_experts": 4}),
    "shards, sigmoid": (GRANULAR, {"num_experts": 8, "d_expert": HALF, "router": {"kind": "sigmoid_topk", "top_k": 2, "scale": 3.0}}),
    "shards, groups": (
        GRANULAR,
        {"num_experts": 8, "d_expert": HALF, "router": {"kind": "sigmoid_topk", "top_k": 4, "num_groups": 2, "top_groups": 1}},
    ),
    "shards, noisy": (
        UpcycleOptions("granular", router_std=0.5),
        {"num_experts": 8, "d_expert": HALF, "router": {"kind": "noisy_topk", "top_k": 2}},
    ),
    "shards, dense MoE": (GRANULAR, {"kind": "dense", "num_experts": 6, "d_expert": HALF}),
    "shared expert": (COPIES, {"num_experts": 4, "num_shared_experts": 1}),
    "two shared experts behind a gate": (
        COPIES,
        {"num_experts": 4, "num_shared_experts": 2, "d_shared_expert": HALF, "shared_gate": True},
    ),
    "shared, and all that would not": (
        UpcycleOptions("drop", noise_std=0.5),
        {"num_experts": 4, "num_shared_experts": 1, "router": {"kind": "vmoe_topk", "top_k": 1}, "capacity": {"eval_factor": 1.0}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("case", SAME_FUNCTION)
def test_the_function_stays(case, activation):
    options, ffn = SAME_FUNCTION[case]
    dense, config = dense_model(activation=activation), moe_config(ffn, activation=activation)
    assert departures(config, options) == []
    difference = logit_difference(dense, upcycle(dense, config, options).model, SEQ_LEN)
    assert difference.is_rounding and difference.max_abs <= 1e-5 * max(1, difference.largest)


def test_without_its_feed_forward_networks_the_model_would_be_another():
    # So that the test above can fail.
    dense, other = dense_model(), dense_model()
    with torch.no_grad():
        for ffn in other.feed_forwards():
            ffn.out_proj.weight.zero_()
    assert logit_difference(dense, other, SEQ_LEN).max_abs > 0.1


ANOTHER_FUNCTION = {
    "top-1": (COPIES, {"num_experts": 4, "router": {"kind": "topk", "top_k": 1}}, "about 0.25; the outputs are scaled"),
    "not normalised": (
        UpcycleOptions("copies", scale_outputs=False),
        {"num_experts": 4, "router": {"kind": "topk", "top_k": 2, "normalize_weights": False}}, "about 0.5; the outputs are not scaled",
    ),
    "V-MoE": (COPIES, {"num_experts": 4, "router": {"kind": "vmoe_topk", "top_k": 2}}, "another number for each token"),
    "sigmoid, not scaled": (
        UpcycleOptions("copies", scale_outputs=False),
        {"num_experts": 4, "router": {"kind": "sigmoid_topk", "scale": 2.5}}, "add up to 2.5 over the shards",
    ),
    "shards, not scaled": (
        UpcycleOptions("granular", scale_outputs=False), {"num_experts": 8, "d_expert": HALF}, "the outputs are not scaled",
    ),
    "shards of noisy experts that tie": (
        GRANULAR, {"num_experts": 8, "d_expert": HALF, "router": {"kind": "noisy_topk", "top_k": 6}}, "begins at 0",
    ),
    "experts choose": (COPIES, {"num_experts": 4, "router": {"kind": "expert_choice"}}, "not every token equally often"),
    "capacity": (COPIES, {"num_experts": 4, "capacity": {"eval_factor": 0.5}}, "may drop tokens"),
    "drop": (DROP, {"num_experts": 4}, "a share of 0.5"),
    "noise": (UpcycleOptions("copies", noise_std=0.1), {"num_experts": 4}, "noise is added"),
    "soft": (COPIES, {"kind": "soft", "num_experts": 4, "mixing": "batch"}, "mixtures of tokens"),
}  # fmt: skip


@pytest.mark.parametrize("case", ANOTHER_FUNCTION)
def test_where_the_function_changes_the_reason_is_given(case):
    options, ffn, reason = ANOTHER_FUNCTION[case]
    dense, config = dense_model(), moe_config(ffn)
    assert [why for why in departures(config, options) if reason in why] == departures(config, options) != []
    difference = logit_difference(dense, upcycle(dense, config, options).model, SEQ_LEN)
    # Where all experts tie, whole copies may be chosen by chance.
    assert case == "shards of noisy experts that tie" or (difference.max_abs > 1e-3 and not difference.is_rounding)


def test_scaling_brings_a_switch_nearer_to_the_dense_model():
    dense, config = dense_model(), moe_config({"num_experts": 8, "router": {"kind": "topk", "top_k": 1}}, init_std=0.02)
    scaled, plain = (
        logit_difference(dense, upcycle(dense, config, UpcycleOptions("copies", scale_outputs=scale)).model, SEQ_LEN).max_abs
        for scale in (True, False)
    )
    assert scaled < plain / 4


def test_everything_but_the_chosen_layers_is_copied_bit_for_bit_and_the_source_stays():
    dense = dense_model(num_layers=3)
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    model = upcycle(dense, moe_config({"num_experts": 4}, num_layers=3, moe_layers={"indices": [1]}), DROP).model
    assert [type(ffn).__name__ for ffn in model.feed_forwards()] == ["MLP", "SparseMoE", "MLP"]
    for name, tensor in dense.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert name.startswith("blocks.1.ffn.") or torch.equal(model.state_dict()[name], tensor)


def test_every_copy_is_the_dense_network():
    dense = dense_model()
    model = upcycle(dense, moe_config({"num_experts": 4}), COPIES).model
    for mlp, moe in zip(dense.feed_forwards(), model.feed_forwards(), strict=True):
        assert all(torch.equal(weight, mlp.in_proj.weight) for weight in moe.experts.in_proj)
        assert all(torch.equal(weight, mlp.out_proj.weight) for weight in moe.experts.out_proj)
    # A router is drawn for each layer.
    first, second = (moe.router.weight for moe in model.feed_forwards())
    assert not torch.equal(first, second)


def test_a_gated_network_is_cut_by_hand():
    # 4 hidden units: gate rows 0 to 3, up rows 4 to 7. Two shards: units 0, 1 and units 2, 3.
    in_FD, out_DH = torch.arange(8.0)[:, None], torch.tensor([[10.0, 11.0, 12.0, 13.0]])
    in_GFD, out_GDH = cut(in_FD, out_DH, 2, is_gated=True)
    assert in_GFD[..., 0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert out_GDH.tolist() == [[[10, 11]], [[12, 13]]]
    in_GFD, _ = cut(in_FD[:4], out_DH, 2, is_gated=False)
    assert in_GFD[..., 0].tolist() == [[0, 1], [2, 3]]


def test_shards_of_one_copy_follow_each_other_and_share_a_router_row():
    dense = dense_model()
    model = upcycle(dense, moe_config({"num_experts": 6, "d_expert": HALF}), GRANULAR).model
    mlp, moe = dense.feed_forwards()[0], model.feed_forwards()[0]
    for expert in range(6):
        units = slice(HALF * (expert % 2), HALF * (expert % 2) + HALF)
        assert torch.equal(moe.experts.in_proj[expert, :HALF], mlp.in_proj.weight[:D_FF][units])
        assert torch.equal(moe.experts.in_proj[expert, HALF:], mlp.in_proj.weight[D_FF:][units])
        assert torch.equal(moe.experts.out_proj[expert], 2 * mlp.out_proj.weight[:, units])
        assert torch.equal(moe.router.weight[expert], moe.router.weight[expert // 2 * 2])
    assert len(moe.router.weight.unique(dim=0)) == 3


@pytest.mark.parametrize(
    ("ffn", "factor"),
    [
        ({"num_experts": 8, "d_expert": HALF}, 2.0),  # normalised: G = 2
        # softmax before top-k: N G^2 / T = 4 * 2^2 / 2
        ({"num_experts": 8, "d_expert": HALF, "router": {"kind": "topk", "top_k": 2, "normalize_weights": False}}, 8.0),
        ({"num_experts": 8, "router": {"kind": "topk", "top_k": 1}}, 8.0),  # G = 1: N / T
        ({"num_experts": 8, "router": {"kind": "sigmoid_topk", "scale": 2.5}}, 0.4),
        ({"num_experts": 8, "router": {"kind": "sigmoid_topk", "normalize_weights": False}}, 1.0),  # 2 experts of sigmoid(0) = 1/2
        ({"num_experts": 8, "num_shared_experts": 1}, 0.0),
    ],
)
def test_output_factors_by_hand(ffn, factor):
    assert output_factor(dense_config(), moe_config(ffn), GRANULAR) == pytest.approx(factor)


def test_a_routed_expert_beside_shared_ones_learns_from_the_first_step():
    dense = dense_model()
    model = upcycle(dense, moe_config({"num_experts": 4, "num_shared_experts": 1}), COPIES).model
    model(torch.arange(SEQ_LEN)[None])[0].square().mean().backward()
    assert model.feed_forwards()[0].experts.out_proj.grad.abs().max() > 0
