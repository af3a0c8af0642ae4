"""A model with a cache against the same model on the whole sequence: every logit, for every kind and router that is causal."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from moecli.model.accounting import model_cost
from moecli.model.attention import visible
from moecli.model.config import GPTConfig
from moecli.model.gpt import GPT
from moecli.model.init import build_gpt
from moecli.model.kv_cache import KVCache
from moecli.moe.layers import FEED_FORWARDS, DenseMoEConfig, FeedForwardConfig, MLPConfig, SoftMoEConfig, SparseMoEConfig
from moecli.moe.routers import ROUTERS, ExpertChoiceConfig

VOCAB, ROWS, LENGTH = 31, 4, 14
CPU = torch.device("cpu")

FFNS: dict[str, FeedForwardConfig] = {
    "mlp": MLPConfig(),
    "dense": DenseMoEConfig(num_experts=4),
    "soft": SoftMoEConfig(num_experts=4, mixing="batch", group_size=2),
    "expert_choice": SparseMoEConfig(num_experts=4, router=ExpertChoiceConfig(pool="batch", experts_per_token=2)),
    "shared": SparseMoEConfig(num_experts=4, num_shared_experts=1, shared_gate=True),
} | {
    name: SparseMoEConfig(num_experts=4, d_expert=12, router=router.config_class())
    for name, router in ROUTERS.items()
    if not router.config_class().leaks(4)
}
ALONE = [name for name, ffn in FFNS.items() if not ffn.leaks()]
ATTENTIONS: dict[str, dict[str, object]] = {
    "plain": {},
    "grouped": {"num_kv_heads": 2},
    "one key head": {"num_kv_heads": 1, "qk_norm": "head", "qkv_bias": True},
    "full norm": {"qk_norm": "full", "num_kv_heads": 2},
    "tied": {"tie_embeddings": True, "head_dim": 6},
}


def gpt(ffn: FeedForwardConfig, **options: object) -> GPT:
    """Weights so large that every expert is chosen by some token."""
    config = GPTConfig(d_model=16, num_layers=2, num_heads=4, init_std=0.3, ffn=ffn, **options)
    model = build_gpt(config, VOCAB, seed=0)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "router" in name:  # noisy_topk begins with zeros, and would choose the same experts for every token
            nn.init.normal_(parameter, std=0.3, generator=generator)
    return model.eval()


def ids(rows: int = ROWS, length: int = LENGTH) -> Tensor:
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(1))


def in_parts(model: GPT, ids_BS: Tensor, sizes: list[int], is_padding_BS: Tensor | None = None) -> Tensor:
    """Logits [B, S, V], so many positions at a time through one cache."""
    cache = KVCache(model.config, len(ids_BS), ids_BS.shape[1], CPU)
    parts, start = [], 0
    for size in sizes:
        own = (slice(None), slice(start, start + size))
        parts.append(model(ids_BS[own], None if is_padding_BS is None else is_padding_BS[own], cache)[0])
        start += size
    assert start == ids_BS.shape[1] == cache.length
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("sizes", [[LENGTH], [5] + 9 * [1], [1] * LENGTH, [3, 6, 1, 4]], ids=str)
@pytest.mark.parametrize("name", FFNS)
@torch.no_grad()
def test_parts_through_a_cache_give_the_logits_of_the_whole(name, sizes):
    model, ids_BS = gpt(FFNS[name]), ids()
    expected_BSV, records = model(ids_BS)
    torch.testing.assert_close(in_parts(model, ids_BS, sizes), expected_BSV, rtol=0, atol=1e-5)
    for record in filter(None, records):
        assert (record.load_E > 0).all(), "an expert was never tried"


@pytest.mark.parametrize("sizes", [[5] + 9 * [1], [3, 6, 1, 4]], ids=str)
@pytest.mark.parametrize("attention", ATTENTIONS)
@torch.no_grad()
def test_every_kind_of_attention_can_be_cached(attention, sizes):
    model, ids_BS = gpt(FFNS["topk"], **ATTENTIONS[attention]), ids()
    torch.testing.assert_close(in_parts(model, ids_BS, sizes), model(ids_BS)[0], rtol=0, atol=1e-5)


def test_every_causal_kind_and_router_is_here():
    assert {ffn.kind for ffn in FFNS.values()} == set(FEED_FORWARDS)
    assert {ffn.router.kind for ffn in FFNS.values() if isinstance(ffn, SparseMoEConfig)} == set(ROUTERS)
    assert set(ROUTERS) - {"expert_choice"} <= set(ALONE)


# A long prompt, two with padding on the left, and one that is all but padding.
LEFT_PADDING = torch.tensor([[0] * 8, [1] * 3 + [0] * 5, [1] * 7 + [0], [1] * 2 + [0] * 6], dtype=torch.bool)


@pytest.mark.parametrize("sizes", [[8] + 6 * [1], [2, 4, 2] + 6 * [1]], ids=str)
@pytest.mark.parametrize("attention", ["plain", "grouped"])
@pytest.mark.parametrize("name", ALONE)
@torch.no_grad()
def test_a_padded_row_equals_the_same_tokens_alone(name, attention, sizes):
    model, ids_BS = gpt(FFNS[name], **ATTENTIONS[attention]), ids()
    is_padding_BS = torch.cat([LEFT_PADDING, torch.zeros(ROWS, 6, dtype=torch.bool)], dim=1)
    logits_BSV = in_parts(model, ids_BS, sizes, is_padding_BS)
    assert logits_BSV.isfinite().all()
    for row, is_padding_S in enumerate(is_padding_BS):
        alone_BSV, _ = model(ids_BS[row, ~is_padding_S][None])
        torch.testing.assert_close(logits_BSV[row, ~is_padding_S], alone_BSV[0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_last_position_alone_is_the_last_of_all():
    model, ids_BS = gpt(FFNS["topk"]), ids()
    last_BSV, _ = model(ids_BS, last_only=True)
    assert last_BSV.shape == (ROWS, 1, VOCAB)
    torch.testing.assert_close(last_BSV[:, 0], model(ids_BS)[0][:, -1], rtol=0, atol=1e-6)


@torch.no_grad()
def test_more_positions_than_there_is_room_for_and_a_model_that_sees_both_ways_are_refused():
    model = gpt(MLPConfig())
    cache = KVCache(model.config, 1, 3, CPU)
    model(ids(1, 3), None, cache)
    with pytest.raises(AssertionError, match="no room"):
        model(ids(1, 1), None, cache)
    with pytest.raises(AssertionError, match="later token"):
        KVCache(GPTConfig(causal=False), 1, 3, CPU)


def test_its_bytes_are_known_before_it_is_there():
    config = GPTConfig(d_model=16, num_layers=3, num_heads=4, num_kv_heads=2)
    # Keys and values of 3 layers, 5 sequences, 2 heads, 7 positions, 4 numbers of 4 bytes.
    assert KVCache.num_bytes(config, 5, 7) == 2 * 3 * 5 * 2 * 7 * 4 * 4
    cache = KVCache(config, 5, 7, CPU, torch.bfloat16)
    held = sum(tensor.numel() * tensor.itemsize for tensor in (cache._keys, cache._values))
    assert KVCache.num_bytes(config, 5, 7, torch.bfloat16) == held


def test_who_sees_whom_from_the_second_token_on_by_hand():
    is_padding_BS = torch.tensor([[True, False, False]])
    assert visible(is_padding_BS, is_causal=True, first_query=1).int().tolist() == [[[[0, 1, 0], [0, 1, 1]]]]


class Ops(TorchDispatchMode):
    """Every operation that runs, with the sizes of what comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        outputs = result if isinstance(result, tuple | list) else (result,)
        self.seen += [(str(func), tensor.numel()) for tensor in outputs if isinstance(tensor, Tensor)]
        return result


def one_token(model: GPT, position: int) -> tuple[KVCache, Tensor]:
    """A cache that is filled up to `position`, and the id that comes there."""
    cache = KVCache(model.config, 1, 1002, CPU)
    model(ids(1, position), None, cache, last_only=True)
    return cache, torch.tensor([[7]])


@pytest.mark.parametrize("num_kv_heads", [4, 2])
@torch.no_grad()
def test_one_token_costs_the_same_products_wherever_it_stands_but_for_attention(num_kv_heads):
    model = gpt(SparseMoEConfig(num_experts=4, num_shared_experts=1), num_kv_heads=num_kv_heads)
    counted = {}
    for position in (16, 1000):
        cache, next_id = one_token(model, position)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(next_id, None, cache, last_only=True)
        # Scores and weighted sum: 2 layers, 4 heads of width 4, each a multiplication and an addition for every position so far.
        counted[position] = counter.get_total_flops() - 2 * 2 * 2 * 4 * 4 * (position + 1)
    # The rest is what the model counts for a token when a sequence is one long, less its attention to itself.
    forward = model_cost(model.config, VOCAB, seq_len=1).forward_flops_per_token - 2 * 2 * 2 * 4 * 4
    assert counted == {16: forward, 1000: forward}


@pytest.mark.parametrize("name", FFNS)
@torch.no_grad()
def test_no_tensor_grows_with_the_position_but_the_keys_and_values_that_attention_reads(name):
    model = gpt(FFNS[name])
    seen = {}
    for position in (16, 1000):
        cache, next_id = one_token(model, position)
        with Ops() as ops:
            model(next_id, None, cache, last_only=True)
        seen[position] = ops.seen
    assert len(seen[16]) == len(seen[1000]) > 50
    grown = {early[0] for early, late in zip(seen[16], seen[1000], strict=True) if early != late}
    assert grown == {"aten.slice.Tensor", "aten.unbind.int"}, "more than views"
    assert [name for name, _ in seen[16]] == [name for name, _ in seen[1000]]


@torch.no_grad()
def test_idle_experts_are_not_touched():
    model = gpt(SparseMoEConfig(num_experts=8))
    cache, next_id = one_token(model, 5)
    expected_BSV, records = model(torch.cat([ids(1, 5), next_id], dim=1), last_only=True)
    for ffn, record in zip(model.feed_forwards(), records, strict=True):
        chosen = record.final_expert_ids_A[record.routing.token_ids_A == 5].tolist()
        for expert in set(range(8)) - set(chosen):
            for weight in (ffn.experts.in_proj, ffn.experts.out_proj):
                weight[expert] = float("nan")
    logits_BSV, _ = model(next_id, None, cache)
    torch.testing.assert_close(logits_BSV, expected_BSV, rtol=0, atol=1e-5)
