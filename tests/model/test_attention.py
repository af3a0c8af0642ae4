"""Attention against a softmax written out, in one direction and in both, with and without padding."""

from __future__ import annotations

import math

import pytest
import torch

from moecli.model.attention import Attention, rotary_angles, rotate, visible
from moecli.model.config import GPTConfig
from moecli.model.init import build_gpt
from moecli.moe.layers import MLPConfig, SparseMoEConfig

VOCAB = 31
PADDING = torch.tensor([[False] * 7, [False] * 5 + [True] * 2, [True] * 3 + [False] * 4])


def config_of(causal: bool | None, **options: object) -> GPTConfig:
    return GPTConfig.model_validate({"d_model": 16, "num_layers": 2, "num_heads": 4, "causal": causal, "init_std": 0.3} | options)


def attention_of(config: GPTConfig) -> Attention:
    torch.manual_seed(0)
    return Attention(config)


def oracle(attention: Attention, config: GPTConfig, x_SD: torch.Tensor, is_padding_S: torch.Tensor) -> torch.Tensor:
    """One sequence, one head, one query at a time: softmax over the tokens that it sees."""
    length, width = len(x_SD), config.head_dim
    cos_SK, sin_SK = rotary_angles(length, width, config.rope_theta, x_SD.device)
    heads = []
    for head in range(config.num_heads):
        own = slice(head * width, (head + 1) * width)
        shared_by = head // (config.num_heads // config.num_kv_heads)
        shared = slice(shared_by * width, (shared_by + 1) * width)
        q_SK = rotate((x_SD @ attention.q_proj.weight[own].T)[None, None], cos_SK, sin_SK)[0, 0]
        k_SK = rotate((x_SD @ attention.k_proj.weight[shared].T)[None, None], cos_SK, sin_SK)[0, 0]
        v_SK = x_SD @ attention.v_proj.weight[shared].T
        y_SK = []
        for query in range(length):
            seen = [key for key in range(query + 1 if config.is_causal else length) if key == query or not is_padding_S[key]]
            weights = torch.softmax(q_SK[query] @ k_SK[seen].T / math.sqrt(width), dim=0)
            y_SK.append(weights @ v_SK[seen])
        heads.append(torch.stack(y_SK))
    return torch.cat(heads, dim=1) @ attention.o_proj.weight.T


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("num_kv_heads", [4, 2])
@pytest.mark.parametrize("causal", [None, True, False])
def test_outputs_and_gradients_equal_a_softmax_written_out(causal, num_kv_heads, padded):
    config = config_of(causal, num_kv_heads=num_kv_heads)
    attention = attention_of(config)
    x_BSD = torch.randn(3, 7, 16, requires_grad=True)
    is_padding_BS = PADDING if padded else torch.zeros_like(PADDING)
    y_BSD = attention(x_BSD, is_padding_BS if padded else None)
    expected_BSD = torch.stack([oracle(attention, config, x_BSD[row], is_padding_BS[row]) for row in range(3)])
    torch.testing.assert_close(y_BSD, expected_BSD)
    upstream_BSD = torch.randn_like(y_BSD)
    inputs = [x_BSD, *attention.parameters()]
    for gradient, expected in zip(
        torch.autograd.grad(y_BSD, inputs, upstream_BSD), torch.autograd.grad(expected_BSD, inputs, upstream_BSD), strict=True
    ):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


def test_who_sees_whom_by_hand():
    # Three tokens, the middle one is padding: it is seen by itself alone.
    is_padding_BS = torch.tensor([[False, True, False]])
    assert visible(is_padding_BS, is_causal=True).int().tolist() == [[[[1, 0, 0], [1, 1, 0], [1, 0, 1]]]]
    assert visible(is_padding_BS, is_causal=False).int().tolist() == [[[[1, 0, 1], [1, 1, 1], [1, 0, 1]]]]


@pytest.mark.parametrize("causal", [True, False])
def test_a_mask_of_nothing_but_padding_leaves_numbers(causal):
    y_BSD = attention_of(config_of(causal))(torch.randn(2, 5, 16), torch.ones(2, 5, dtype=torch.bool))
    assert y_BSD.isfinite().all()


@pytest.mark.parametrize("ffn", [MLPConfig(), SparseMoEConfig(num_experts=4, num_shared_experts=1)], ids=lambda ffn: ffn.kind)
@pytest.mark.parametrize("causal", [True, False])
def test_padding_makes_no_difference_to_the_others(causal, ffn):
    model = build_gpt(config_of(causal, ffn=ffn), VOCAB, seed=0).eval()
    ids_BS = torch.randint(VOCAB, (3, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits_BSV, _ = model(ids_BS, PADDING)
        assert logits_BSV.isfinite().all()
        for row, is_padding_S in enumerate(PADDING):
            # Rotary positions are relative, so a sequence may begin anywhere.
            alone_BSV, _ = model(ids_BS[row, ~is_padding_S][None])
            torch.testing.assert_close(logits_BSV[row, ~is_padding_S], alone_BSV[0], rtol=1e-4, atol=1e-5)


def test_a_bidirectional_model_sees_the_future_but_no_other_row():
    model = build_gpt(config_of(False), VOCAB, seed=0).eval()
    ids_BS = torch.randint(VOCAB, (2, 7))
    changed_BS = ids_BS.clone()
    changed_BS[0, 6] = (ids_BS[0, 6] + 1) % VOCAB
    with torch.no_grad():
        logits_BSV, changed_BSV = model(ids_BS)[0], model(changed_BS)[0]
    assert ((changed_BSV - logits_BSV)[0].abs().amax(dim=-1) > 1e-4).all()
    torch.testing.assert_close(changed_BSV[1], logits_BSV[1])
