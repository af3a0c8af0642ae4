"""The GPT against transformers on the same weights, and what it promises by itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from moecli.model.config import GPTConfig
from moecli.model.gpt import GPT
from moecli.model.init import build_gpt
from moecli.moe.layers import DenseMoEConfig, FeedForwardConfig, MLPConfig, SparseMoEConfig
from moecli.moe.routers import TopKConfig

VOCAB = 97
ATTENTION = {"attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}


def config_of(ffn: FeedForwardConfig, **options: object) -> GPTConfig:
    return GPTConfig.model_validate({"d_model": 32, "num_layers": 2, "num_heads": 4, "ffn": ffn, "norm_eps": 1e-6} | options)


def peer_weights(model: GPT) -> dict[str, torch.Tensor]:
    """Our weights under the names of transformers' Llama-like classes, experts in their fused form."""
    weights = {"model.embed_tokens.weight": model.embedding.weight, "model.norm.weight": model.norm.weight}
    if model.lm_head is not None:
        weights["lm_head.weight"] = model.lm_head.weight
    for layer, block in enumerate(model.blocks):
        prefix = f"model.layers.{layer}."
        for ours, theirs in ATTENTION.items():
            weights[f"{prefix}{theirs}.weight"] = getattr(block, ours).weight
        for name, parameter in block.attention.named_parameters():
            weights[f"{prefix}self_attn.{name}"] = parameter
        ffn = block.ffn
        if hasattr(ffn, "router"):
            weights[f"{prefix}mlp.gate.weight"] = ffn.router.weight
            weights[f"{prefix}mlp.experts.gate_up_proj"] = ffn.experts.in_proj
            weights[f"{prefix}mlp.experts.down_proj"] = ffn.experts.out_proj
            shared = ffn.shared
            mlp_prefix = f"{prefix}mlp.shared_expert."
        else:
            shared, mlp_prefix = ffn, f"{prefix}mlp."
        if shared is not None:
            gate, up = shared.in_proj.weight.chunk(2)
            weights |= {f"{mlp_prefix}gate_proj.weight": gate, f"{mlp_prefix}up_proj.weight": up}
            weights[f"{mlp_prefix}down_proj.weight"] = shared.out_proj.weight
        if getattr(ffn, "shared_gate", None) is not None:
            weights[f"{prefix}mlp.shared_expert_gate.weight"] = ffn.shared_gate.weight
    return {name: tensor.detach().clone() for name, tensor in weights.items()}


def peer(name: str, model: GPT, **options: object) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = model.config
    shape = {
        "vocab_size": VOCAB,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "tie_word_embeddings": config.tie_embeddings,
        "max_position_embeddings": 64,
    }
    theirs = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**shape | options)).eval()
    result = theirs.load_state_dict(peer_weights(model), strict=False)
    assert not result.unexpected_keys
    assert set(result.missing_keys) <= {"lm_head.weight"} if config.tie_embeddings else not result.missing_keys
    return theirs


MOE_SIZES = {"moe_intermediate_size": 12, "num_experts": 4, "num_experts_per_tok": 2, "decoder_sparse_step": 1, "mlp_only_layers": []}
PEERS = {
    "Llama": ({"num_kv_heads": 2}, MLPConfig(d_ff=40), {"intermediate_size": 40}),
    "Llama tied": ({"tie_embeddings": True, "rope_theta": 500.0}, MLPConfig(d_ff=40), {"intermediate_size": 40}),
    "Qwen3": ({"num_kv_heads": 2, "qk_norm": "head", "head_dim": 12}, MLPConfig(d_ff=40), {"intermediate_size": 40}),
    "Mixtral": (
        {"num_kv_heads": 1},
        SparseMoEConfig(num_experts=4, d_expert=12),
        {"intermediate_size": 12, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "Olmoe": (
        {"qk_norm": "full"},
        SparseMoEConfig(num_experts=8, d_expert=12, router=TopKConfig(top_k=3, normalize_weights=False)),
        {"intermediate_size": 12, "num_experts": 8, "num_experts_per_tok": 3, "norm_topk_prob": False},
    ),
    "Qwen2Moe": (
        {},
        SparseMoEConfig(
            num_experts=4, d_expert=12, num_shared_experts=1, d_shared_expert=16, shared_gate=True,
            router=TopKConfig(normalize_weights=False),
        ),
        MOE_SIZES | {"shared_expert_intermediate_size": 16, "norm_topk_prob": False, "qkv_bias": False},
    ),
    "Qwen3Moe": (
        {"qk_norm": "head", "num_kv_heads": 2},
        SparseMoEConfig(num_experts=4, d_expert=12),
        MOE_SIZES | {"norm_topk_prob": True},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PEERS)
def test_logits_equal_those_of_transformers(name):
    options, ffn, peer_options = PEERS[name]
    model = build_gpt(config_of(ffn, init_std=0.3, **options), VOCAB, seed=1).eval()
    theirs = peer(name.split()[0], model, **peer_options)
    ids_BS = torch.randint(VOCAB, (2, 17), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits_BSV, records = model(ids_BS)
        expected_BSV = theirs(ids_BS).logits
    torch.testing.assert_close(logits_BSV, expected_BSV, rtol=1e-4, atol=1e-4 * expected_BSV.abs().max().item())
    assert [record is not None for record in records] == [ffn.kind != "mlp"] * 2


@pytest.mark.parametrize("ffn", [MLPConfig(), DenseMoEConfig(), SparseMoEConfig()], ids=lambda ffn: ffn.kind)
def test_logits_do_not_see_the_future_nor_another_row(ffn):
    model = build_gpt(config_of(ffn, init_std=0.3), VOCAB, seed=0).eval()
    ids_BS = torch.randint(VOCAB, (2, 12))
    changed_BS = ids_BS.clone()
    changed_BS[0, 7:] = (ids_BS[0, 7:] + 1) % VOCAB
    with torch.no_grad():
        logits, _ = model(ids_BS)
        changed, _ = model(changed_BS)
    torch.testing.assert_close(changed[0, :7], logits[0, :7])
    torch.testing.assert_close(changed[1], logits[1])
    assert not torch.allclose(changed[0, 7:], logits[0, 7:])


def test_initial_weights_depend_on_the_seed_alone_and_have_the_spread_they_should():
    config = config_of(SparseMoEConfig(num_experts=8, d_expert=64), d_model=64, num_layers=8, init_std=0.02)
    torch.manual_seed(5)
    first = build_gpt(config, VOCAB, seed=3).state_dict()
    torch.manual_seed(6)
    second = build_gpt(config, VOCAB, seed=3).state_dict()
    other = build_gpt(config, VOCAB, seed=4).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["embedding.weight"], other["embedding.weight"])
    assert first["blocks.0.ffn.experts.in_proj"].std().item() == pytest.approx(0.02, rel=0.05)
    # Into the residual stream: 0.02 / sqrt(2 * 8 layers) = 0.005.
    assert first["blocks.0.ffn.experts.out_proj"].std().item() == pytest.approx(0.005, rel=0.05)
    assert first["blocks.0.attention.o_proj.weight"].std().item() == pytest.approx(0.005, rel=0.05)
    assert torch.equal(first["norm.weight"], torch.ones(64))


def test_bfloat16_autocast_trains_every_parameter():
    model = build_gpt(config_of(SparseMoEConfig(num_experts=2, num_shared_experts=1, shared_gate=True)), VOCAB, seed=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, records = model(torch.randint(VOCAB, (2, 16)))
    assert records[0].routing.logits_TE.dtype == torch.float32
    logits.float().square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.dtype == torch.float32
