"""Sparse MoE blocks against those of transformers on the same weights, and the Switch router with its capacity."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moecli.moe.capacity import CapacityConfig
from moecli.moe.layers import SparseMoE, SparseMoEConfig
from moecli.moe.routers import SigmoidTopKConfig, TopKConfig

D_MODEL, D_EXPERT, D_SHARED, NUM_EXPERTS = 12, 8, 16, 8
SIZES = {"hidden_size": D_MODEL, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 16, "hidden_act": "silu"}
QWEN = SIZES | {"moe_intermediate_size": D_EXPERT, "num_experts": NUM_EXPERTS, "num_experts_per_tok": 3}


def theirs_of(model: str, names: tuple[str, str], options: dict[str, Any]) -> nn.Module:
    """The class names[1] of transformers' model, built from its config class names[0]."""
    pytest.importorskip("transformers")
    config_class = getattr(importlib.import_module(f"transformers.models.{model}.configuration_{model}"), names[0])
    config = config_class(**options)
    config._experts_implementation = "eager"
    return getattr(importlib.import_module(f"transformers.models.{model}.modeling_{model}"), names[1])(config).eval()


def ours_of(**options: Any) -> SparseMoE:
    config = SparseMoEConfig(num_experts=NUM_EXPERTS, d_expert=D_EXPERT, **options).with_default_widths(D_MODEL)
    layer = SparseMoE(config, D_MODEL, "swiglu").eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    if layer.selection_bias_E is not None:
        layer.selection_bias_E.normal_(std=0.3, generator=generator)
    return layer


def copy_weights(ours: SparseMoE, theirs: nn.Module) -> None:
    weights = {
        "gate.weight": ours.router.weight,
        "experts.gate_up_proj": ours.experts.in_proj,
        "experts.down_proj": ours.experts.out_proj,
    }
    if ours.shared is not None:
        name = "shared_expert" if ours.shared_gate is not None else "shared_experts"
        gate, up = ours.shared.in_proj.weight.chunk(2)
        weights |= {f"{name}.gate_proj.weight": gate, f"{name}.up_proj.weight": up}
        weights[f"{name}.down_proj.weight"] = ours.shared.out_proj.weight
    if ours.shared_gate is not None:
        weights["shared_expert_gate.weight"] = ours.shared_gate.weight
    if ours.selection_bias_E is not None:
        weights["gate.e_score_correction_bias"] = ours.selection_bias_E
    theirs.load_state_dict({name: weight.detach().clone() for name, weight in weights.items()})


DEEPSEEK = SIZES | {
    "moe_intermediate_size": D_EXPERT, "n_routed_experts": NUM_EXPERTS, "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2,
    "routed_scaling_factor": 2.5, "n_shared_experts": 1, "norm_topk_prob": True,
}  # fmt: skip
BLOCKS: dict[str, tuple[dict[str, Any], str, tuple[str, str], dict[str, Any]]] = {
    "Mixtral": (
        {"router": TopKConfig(top_k=2)},
        "mixtral",
        ("MixtralConfig", "MixtralSparseMoeBlock"),
        SIZES | {"intermediate_size": D_EXPERT, "num_local_experts": NUM_EXPERTS, "num_experts_per_tok": 2},
    ),
    "OLMoE": (
        {"router": TopKConfig(top_k=3, normalize_weights=False)},
        "olmoe",
        ("OlmoeConfig", "OlmoeSparseMoeBlock"),
        SIZES | {"intermediate_size": D_EXPERT, "num_experts": NUM_EXPERTS, "num_experts_per_tok": 3, "norm_topk_prob": False},
    ),
    "Qwen2-MoE": (
        {
            "router": TopKConfig(top_k=3, normalize_weights=False),
            "num_shared_experts": 1, "d_shared_expert": D_SHARED, "shared_gate": True,
        },
        "qwen2_moe",
        ("Qwen2MoeConfig", "Qwen2MoeSparseMoeBlock"),
        QWEN | {"shared_expert_intermediate_size": D_SHARED, "norm_topk_prob": False},
    ),
    "Qwen3-MoE, normalised": (
        {"router": TopKConfig(top_k=3, normalize_weights=True)},
        "qwen3_moe",
        ("Qwen3MoeConfig", "Qwen3MoeSparseMoeBlock"),
        QWEN | {"norm_topk_prob": True},
    ),
    "Qwen3-MoE, as they are": (
        {"router": TopKConfig(top_k=3, normalize_weights=False)},
        "qwen3_moe",
        ("Qwen3MoeConfig", "Qwen3MoeSparseMoeBlock"),
        QWEN | {"norm_topk_prob": False},
    ),
    "DeepSeek-V3": (
        {"router": SigmoidTopKConfig(top_k=3, num_groups=4, top_groups=2, scale=2.5), "num_shared_experts": 1},
        "deepseek_v3",
        ("DeepseekV3Config", "DeepseekV3MoE"),
        DEEPSEEK,
    ),
}  # fmt: skip


def per_token(token_ids: Tensor, expert_ids: Tensor, weights: Tensor, num_tokens: int) -> Tensor:
    """Weights [T, E], 0 where an expert was not chosen."""
    return torch.zeros(num_tokens, NUM_EXPERTS).index_put((token_ids, expert_ids), weights)


@pytest.mark.parametrize("name", BLOCKS)
def test_block_equals_that_of_transformers(name):
    options, model, names, peer_options = BLOCKS[name]
    theirs = theirs_of(model, names, peer_options)
    ours = ours_of(**options)
    copy_weights(ours, theirs)
    generator = torch.Generator().manual_seed(1)
    x_BSD = torch.randn(3, 17, D_MODEL, generator=generator, requires_grad=True)
    peer_x_BSD = x_BSD.detach().clone().requires_grad_()

    y_BSD, record = ours(x_BSD)
    _, peer_weights_TK, peer_experts_TK = theirs.gate(peer_x_BSD)
    expected_BSD = theirs(peer_x_BSD)

    routing = record.routing
    weights_TE = per_token(routing.token_ids_A, routing.expert_ids_A, routing.weights_A, 51)
    tokens_TK = torch.arange(51)[:, None].expand_as(peer_experts_TK)
    expected_TE = per_token(tokens_TK, peer_experts_TK, peer_weights_TK, 51)
    assert torch.equal(weights_TE > 0, expected_TE > 0), "other experts are chosen"
    torch.testing.assert_close(weights_TE, expected_TE, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(y_BSD, expected_BSD, rtol=1e-5, atol=1e-5 * expected_BSD.abs().max().item())

    direction_BSD = torch.randn(y_BSD.shape, generator=generator)
    y_BSD.backward(direction_BSD)
    expected_BSD.backward(direction_BSD)
    for ours_grad, theirs_grad in (
        (x_BSD.grad, peer_x_BSD.grad),
        (ours.router.weight.grad, theirs.gate.weight.grad),
        (ours.experts.in_proj.grad, theirs.experts.gate_up_proj.grad),
        (ours.experts.out_proj.grad, theirs.experts.down_proj.grad),
    ):
        torch.testing.assert_close(ours_grad, theirs_grad, rtol=1e-5, atol=1e-5 * theirs_grad.abs().max().item())


def test_the_bias_and_the_groups_of_deepseek_change_the_choice():
    # Or else the comparison above would prove nothing about them.
    options = BLOCKS["DeepSeek-V3"][0]
    x_BSD = torch.randn(3, 17, D_MODEL, generator=torch.Generator().manual_seed(1))
    chosen = ours_of(**options)(x_BSD)[1].routing.expert_ids_A
    unbiased = ours_of(**options)
    unbiased.selection_bias_E.zero_()
    assert not torch.equal(unbiased(x_BSD)[1].routing.expert_ids_A, chosen)
    ungrouped = ours_of(router=SigmoidTopKConfig(top_k=3, scale=2.5), num_shared_experts=1)
    assert not torch.equal(ungrouped(x_BSD)[1].routing.expert_ids_A, chosen)


@pytest.mark.parametrize("capacity", [1, 2, 3, 17])
def test_switch_router_and_its_capacity(capacity):
    theirs = theirs_of(
        "switch_transformers",
        ("SwitchTransformersConfig", "SwitchTransformersTop1Router"),
        {"hidden_size": D_MODEL, "num_experts": NUM_EXPERTS, "expert_capacity": capacity, "router_bias": False},
    )
    # Room for factor * 1 * 17 / 8 assignments per expert and sequence.
    factor = capacity * NUM_EXPERTS / 17
    ours = ours_of(router=TopKConfig(top_k=1), capacity=CapacityConfig(factor=1.0, eval_factor=factor, group="sequence", order="token"))
    with torch.no_grad():
        theirs.classifier.weight.copy_(ours.router.weight)
    x_BSD = torch.randn(3, 17, D_MODEL, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        routing = (record := ours(x_BSD)[1]).routing
        is_sent_BSE, expected_prob_BS1, expected_logits_BSE = theirs(x_BSD)
    torch.testing.assert_close(routing.logits_TE, expected_logits_BSE.flatten(0, 1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(routing.weights_A, expected_prob_BS1.flatten(), rtol=1e-5, atol=1e-5)
    ones_A = torch.ones(len(routing.token_ids_A))[record.kept_A]
    kept_TE = per_token(routing.token_ids_A[record.kept_A], routing.expert_ids_A[record.kept_A], ones_A, 51)
    assert torch.equal(kept_TE, is_sent_BSE.flatten(0, 1).float())
    assert record.kept_A.all() == (capacity == 17)
