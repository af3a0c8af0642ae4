"""Counts against published models, against numel, against a counted run, against what autograd keeps."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from moecli.model.accounting import model_cost, training_memory
from moecli.model.config import GPTConfig, MoELayersConfig
from moecli.model.init import build_gpt
from moecli.moe.capacity import CapacityConfig
from moecli.moe.layers import DenseMoEConfig, MLPConfig, SoftMoEConfig, SparseMoEConfig
from moecli.moe.routers import ExpertChoiceConfig, NoisyTopKConfig, SigmoidTopKConfig, TopKConfig
from moecli.training.config import TrainingConfig
from moecli.training.objective import training_losses

# From the models' cards and papers; the exact totals are counts of the published shapes.
PUBLISHED = {
    "Mixtral-8x7B": (
        GPTConfig(d_model=4096, num_layers=32, num_heads=32, num_kv_heads=8, ffn=SparseMoEConfig(num_experts=8, d_expert=14336)),
        32000, 46_702_792_704, 12_879_925_248,
    ),
    "OLMoE-1B-7B": (
        GPTConfig(
            d_model=2048, num_layers=16, num_heads=16, qk_norm="full",
            ffn=SparseMoEConfig(num_experts=64, d_expert=1024, router=TopKConfig(top_k=8, normalize_weights=False)),
        ),
        50304, 6_919_161_856, 1_282_017_280,
    ),
    "Qwen3-30B-A3B": (
        GPTConfig(
            d_model=2048, num_layers=48, num_heads=32, num_kv_heads=4, head_dim=128, qk_norm="head",
            ffn=SparseMoEConfig(num_experts=128, d_expert=768, router=TopKConfig(top_k=8)),
        ),
        151936, 30_532_122_624, 3_353_032_704,
    ),
    "Qwen1.5-MoE-A2.7B": (
        GPTConfig(
            d_model=2048, num_layers=24, num_heads=16, qkv_bias=True,
            ffn=SparseMoEConfig(
                num_experts=60, d_expert=1408, router=TopKConfig(top_k=4), num_shared_experts=1, d_shared_expert=5632, shared_gate=True
            ),
        ),
        151936, 14_315_784_192, 2_689_173_504,
    ),
}  # fmt: skip

FFNS = {
    "mlp": MLPConfig(d_ff=96),
    "dense": DenseMoEConfig(num_experts=4, d_expert=24),
    "sparse": SparseMoEConfig(num_experts=8, d_expert=24, router=TopKConfig(top_k=2)),
    "many": SparseMoEConfig(num_experts=128, d_expert=8, router=TopKConfig(top_k=1)),
    "shared": SparseMoEConfig(num_experts=4, d_expert=24, num_shared_experts=2, shared_gate=True, router=TopKConfig(top_k=3)),
    "sigmoid": SparseMoEConfig(num_experts=8, d_expert=24, router=SigmoidTopKConfig(num_groups=4, top_groups=2)),
}
# Where a single token is not a fair sample of what is active: experts choose, or slots are shared.
MIXING_FFNS = {
    "expert choice": SparseMoEConfig(num_experts=8, d_expert=24, router=ExpertChoiceConfig(experts_per_token=2.0)),
    "expert choice over the batch": SparseMoEConfig(
        num_experts=4, d_expert=24, router=ExpertChoiceConfig(experts_per_token=2.0, pool="batch")
    ),
    "soft": SoftMoEConfig(num_experts=4, d_expert=24, slots_per_expert=4),
    "mixture of tokens": SoftMoEConfig(num_experts=8, d_expert=24, mixing="batch", group_size=4),
    "capacity": SparseMoEConfig(num_experts=8, d_expert=24, capacity=CapacityConfig(factor=4.0)),
    "noisy": SparseMoEConfig(num_experts=8, d_expert=24, router=NoisyTopKConfig()),
}
SHAPES = [
    {},
    {"num_kv_heads": 2, "qk_norm": "head"},
    {"qk_norm": "full", "tie_embeddings": True},
    {"activation": "gelu", "head_dim": 10},
    {"activation": "relu2", "qkv_bias": True},
]
VOCAB = 300


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_to_the_last_parameter(name):
    config, vocab_size, total, active = PUBLISHED[name]
    cost = model_cost(config, vocab_size, seq_len=1)
    assert (cost.params_total, cost.params_active) == (total, active)
    assert cost.params_active_without_embedding == active - vocab_size * config.d_model
    assert cost.params_active_without_embedding_and_head == active - 2 * vocab_size * config.d_model


# Factors of the matrix products of one token: in a layer queries and output, keys and values, what routes, the active experts; the head.
# Attention over a square of S adds 2 products of 2 * S * (query width) FLOPs in each layer.
FACTORS = {
    "Mixtral-8x7B": (
        32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 4096 * 8 + 2 * 3 * 4096 * 14336) + 4096 * 32000, 32 * 4096,
    ),
    "OLMoE-1B-7B": (
        16 * (2 * 2048 * 2048 + 2 * 2048 * 2048 + 2048 * 64 + 8 * 3 * 2048 * 1024) + 2048 * 50304, 16 * 2048,
    ),
    "Qwen3-30B-A3B": (
        48 * (2 * 2048 * 4096 + 2 * 2048 * 512 + 2048 * 128 + 8 * 3 * 2048 * 768) + 2048 * 151936, 48 * 4096,
    ),
    # A router of 60, the gate of the shared expert, 4 experts, and the shared one.
    "Qwen1.5-MoE-A2.7B": (
        24 * (2 * 2048 * 2048 + 2 * 2048 * 2048 + 2048 * 60 + 2048 + 4 * 3 * 2048 * 1408 + 3 * 2048 * 5632) + 2048 * 151936, 24 * 2048,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("seq_len", [1, 4096])
def test_published_models_to_the_last_flop(name, seq_len):
    config, vocab_size, _, _ = PUBLISHED[name]
    factors, query_width = FACTORS[name]
    cost = model_cost(config, vocab_size, seq_len)
    assert cost.forward_flops_per_token == 2 * factors + 2 * 2 * seq_len * query_width
    assert cost.train_flops_per_token == 3 * cost.forward_flops_per_token


@pytest.mark.parametrize("ffn", FFNS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_total_is_numel_and_active_is_what_a_token_touches(ffn, shape):
    config = GPTConfig(d_model=48, num_layers=2, ffn=FFNS[ffn], **shape)
    model = build_gpt(config, VOCAB, seed=0)
    logits, _ = model(torch.tensor([[7]]))
    logits.sum().backward()
    # One token: a parameter of an expert that it doesn't use gets no gradient, all others do. The output layer is used whole.
    touched = 0
    for name, parameter in model.named_parameters():
        is_expert = ".experts." in name
        used = parameter.grad.flatten(1).any(dim=1).sum() if is_expert else parameter.shape[0]
        touched += int(used) * (parameter.numel() // parameter.shape[0])
    cost = model_cost(config, VOCAB, seq_len=1)
    assert cost.params_total == sum(parameter.numel() for parameter in model.parameters())
    assert cost.params_active == touched


@pytest.mark.parametrize("ffn", [name for name in FFNS | MIXING_FFNS if name != "noisy"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_flops_are_those_of_a_counted_run(ffn, shape):
    config = GPTConfig(d_model=48, num_layers=2, ffn=(FFNS | MIXING_FFNS)[ffn], **shape)
    model = build_gpt(config, VOCAB, seed=0)
    ids_BS = torch.randint(VOCAB, (4, 16), generator=torch.Generator().manual_seed(0))
    # The plain attention kernel, so that the counter sees its two products.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as forward:
        logits, _ = model(ids_BS)
    with FlopCounterMode(display=False) as backward:
        logits.square().mean().backward()
    cost = model_cost(config, VOCAB, seq_len=16)
    assert forward.get_total_flops() == cost.forward_flops_per_token * ids_BS.numel()
    assert forward.get_total_flops() + backward.get_total_flops() == cost.train_flops_per_token * ids_BS.numel()


@pytest.mark.parametrize("ffn", FFNS | MIXING_FFNS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_activation_bytes_are_what_autograd_keeps(ffn, shape):
    config = GPTConfig(d_model=48, num_layers=3, ffn=(FFNS | MIXING_FFNS)[ffn], **shape)
    model = build_gpt(config, VOCAB, seed=0)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids_BS = torch.randint(VOCAB, (8, 128))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits, records = model(ids_BS)
        training_losses(logits, ids_BS, [record for record in records if record is not None], TrainingConfig())
    # What the count leaves out is small: routing indices, the norms' scales, one row of statistics per head.
    assert sum(kept.values()) == pytest.approx(training_memory(config, VOCAB, 128, 8).activations, rel=0.1)


def test_layers_that_stay_dense_are_counted_as_such():
    ffn = SparseMoEConfig(num_experts=4, d_expert=8)
    every_other = GPTConfig(d_model=16, num_layers=4, ffn=ffn, moe_layers=MoELayersConfig(every=2), dense_d_ff=32)
    model = build_gpt(every_other, VOCAB, seed=0)
    assert [block.ffn.config_class().kind for block in model.blocks] == ["mlp", "sparse", "mlp", "sparse"]
    assert model_cost(every_other, VOCAB, 8).params_total == sum(parameter.numel() for parameter in model.parameters())


def test_counting_allocates_nothing():
    # 4 bytes times 10^12 parameters fit no machine.
    config = GPTConfig(d_model=65536, num_layers=64, num_heads=64, ffn=SparseMoEConfig(num_experts=256, d_expert=65536))
    assert model_cost(config, 100_000, 4096).params_total > 10**14
    assert training_memory(config, 100_000, 4096, 1).total > 10**15
