"""Self-attention, causal or in both directions, with grouped queries, rotary positions and optional norms on queries and keys.

Knows one sequence tensor at a time. Must not know the block around it.
Shape letters beyond moe/routing.py: N heads, K head width, V vocabulary; see kv_cache.py for those of the cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moecli.model.config import GPTConfig
from moecli.model.norm import RMSNorm
from moecli.moe.linear import Linear

if TYPE_CHECKING:
    from moecli.model.kv_cache import LayerCache


class Attention(nn.Module):
    """softmax(q k^T / sqrt(K) + mask) v, with num_heads / num_kv_heads queries to a key (GQA, arXiv 2305.13245)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        assert config.head_dim is not None and config.num_kv_heads is not None
        self.is_causal = config.is_causal
        self.head_dim = config.head_dim
        self.rope_theta = config.rope_theta
        self.is_grouped = config.num_kv_heads < config.num_heads
        query_width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.q_proj = Linear(config.d_model, query_width, bias=config.qkv_bias)
        self.k_proj = Linear(config.d_model, kv_width, bias=config.qkv_bias)
        self.v_proj = Linear(config.d_model, kv_width, bias=config.qkv_bias)
        self.o_proj = Linear(query_width, config.d_model, bias=False)
        self.norms_whole_width = config.qk_norm == "full"
        self.q_norm = _qk_norm(config, query_width)
        self.k_norm = _qk_norm(config, kv_width)

    def forward(self, x_BSD: Tensor, is_padding_BS: Tensor | None = None, cache: LayerCache | None = None) -> Tensor:
        """Where `is_padding_BS` (bool) is True, a token is seen by no other. A `cache` knows that already, and the earlier tokens."""
        q_BNSK = self._heads(self.q_proj(x_BSD), self.q_norm)
        k_BNSK = self._heads(self.k_proj(x_BSD), self.k_norm)
        v_BNSK = self._heads(self.v_proj(x_BSD), norm=None)
        if cache is not None:
            y_BNSK = self._with_cache(q_BNSK, k_BNSK, v_BNSK, cache)
            return self.o_proj(y_BNSK.transpose(1, 2).flatten(2))
        cos_SK, sin_SK = rotary_angles(x_BSD.shape[1], self.head_dim, self.rope_theta, x_BSD.device)
        # Kernels that need no mask are the fast ones: there is one only where there is padding.
        mask_B1SS = None if is_padding_BS is None else visible(is_padding_BS, self.is_causal)
        y_BNSK = F.scaled_dot_product_attention(
            rotate(q_BNSK, cos_SK, sin_SK),
            rotate(k_BNSK, cos_SK, sin_SK),
            v_BNSK,
            attn_mask=mask_B1SS,
            is_causal=self.is_causal and mask_B1SS is None,
            enable_gqa=self.is_grouped,
        )
        return self.o_proj(y_BNSK.transpose(1, 2).flatten(2))

    def _with_cache(self, q_BNSK: Tensor, k_BMSK: Tensor, v_BMSK: Tensor, cache: LayerCache) -> Tensor:
        """The same [B, N, S, K] for the positions that follow on those in the cache, which takes the new ones in."""
        now = cache.now
        q_BNSK = rotate(q_BNSK, now.cos_SK, now.sin_SK)
        k_BMLK, v_BMLK = cache.extend(rotate(k_BMSK, now.cos_SK, now.sin_SK), v_BMSK)
        if q_BNSK.shape[2] == 1:
            # The queries of a key head as if they were its positions: then the kernel reads each key once.
            q_BMGK = q_BNSK.unflatten(1, (k_BMLK.shape[1], -1)).squeeze(3)
            y_BMGK = F.scaled_dot_product_attention(q_BMGK, k_BMLK, v_BMLK, attn_mask=now.mask_B1SL)
            return y_BMGK.flatten(1, 2).unsqueeze(2)
        return F.scaled_dot_product_attention(
            q_BNSK, k_BMLK, v_BMLK, attn_mask=now.mask_B1SL, is_causal=now.is_causal, enable_gqa=self.is_grouped
        )

    def _heads(self, x_BSW: Tensor, norm: RMSNorm | None) -> Tensor:
        """[B, S, N * K] -> [B, N, S, K], normed over the whole width before, or over each head after."""
        if norm is not None and self.norms_whole_width:
            x_BSW = _in_own_precision(norm, x_BSW)
        x_BNSK = x_BSW.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        return _in_own_precision(norm, x_BNSK) if norm is not None and not self.norms_whole_width else x_BNSK


def visible(is_padding_BL: Tensor, is_causal: bool, first_query: int = 0) -> Tensor:
    """Which token from `first_query` on (third axis) sees which of all (last axis), bool [B, 1, S, L].

    A token always sees itself: a softmax over none is no number.
    """
    keys_L = torch.arange(is_padding_BL.shape[1], device=is_padding_BL.device)
    queries_S1 = keys_L[first_query:, None]
    visible_BSL = ~is_padding_BL[:, None, :]
    if is_causal:
        visible_BSL = visible_BSL & (keys_L <= queries_S1)
    return (visible_BSL | (keys_L == queries_S1))[:, None]


def rotary_angles(length: int, head_dim: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin of position * theta^(-2i/K), float32 [S, K], for features i and i + K/2 (RoFormer, arXiv 2104.09864).

    The first half of the sines is negative: feature i gets x_i cos - x_(i + K/2) sin, feature i + K/2 gets x_(i + K/2) cos + x_i sin.
    """
    frequencies = theta ** (-torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
    angles = torch.outer(torch.arange(length, device=device, dtype=torch.float32), frequencies)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x_BNSK: Tensor, cos_SK: Tensor, sin_SK: Tensor) -> Tensor:
    """Turns each pair of features (i, i + K/2) by its angle; the halves are split as in Llama, not interleaved."""
    other_half = x_BNSK.roll(x_BNSK.shape[-1] // 2, dims=-1)
    return torch.addcmul(x_BNSK * cos_SK, other_half, sin_SK).to(x_BNSK.dtype)


def _in_own_precision(norm: RMSNorm, x: Tensor) -> Tensor:
    """The norm in the precision of its weight, whatever autocast made of its input."""
    return norm(x.to(norm.weight.dtype)).to(x.dtype)


def _qk_norm(config: GPTConfig, width: int) -> RMSNorm | None:
    if config.qk_norm == "none":
        return None
    assert config.head_dim is not None
    return RMSNorm(width if config.qk_norm == "full" else config.head_dim, eps=config.norm_eps)
