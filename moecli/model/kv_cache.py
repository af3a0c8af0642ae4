"""The key-value cache of generation: what attention needs of the tokens that went through the model in earlier passes.

Knows shapes, rotary angles and padding. Must not know what is generated. Shape letters: see moe/routing.py and attention.py;
L positions that the cache holds, R positions that it has room for, M key and value heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moecli.model.attention import rotary_angles, visible
from moecli.model.config import GPTConfig
from moecli.moe.id_hash import prefix_after
from moecli.moe.routing import Prefix, Tokens


@dataclass(frozen=True, slots=True)
class CachedPass:
    """What the attention of every layer goes by while some positions go through the model."""

    cos_SK: Tensor
    sin_SK: Tensor
    mask_B1SL: Tensor | None
    """bool; None where nothing has to be hidden but the future by `is_causal`."""
    is_causal: bool
    """Whether these are the first positions, so that a causal kernel without a mask does."""


@dataclass(frozen=True, slots=True)
class LayerCache:
    """One layer's keys and values during a pass: views of those of the whole cache."""

    keys_BMLK: Tensor
    values_BMLK: Tensor
    new_keys_BMSK: Tensor
    """The last of them, which this pass has to write."""
    new_values_BMSK: Tensor
    now: CachedPass

    def extend(self, k_BMSK: Tensor, v_BMSK: Tensor) -> tuple[Tensor, Tensor]:
        """Writes the keys (turned by their positions) and values of this pass, and returns those of all positions so far, [B, M, L, K]."""
        self.new_keys_BMSK.copy_(k_BMSK)
        self.new_values_BMSK.copy_(v_BMSK)
        return self.keys_BMLK, self.values_BMLK


class KVCache:
    """Keys and values of all layers for a fixed number of positions, written from the first on.

    Args:
        config: of the model, which must be causal.
        batch_size: B.
        room: R, the most positions.
        device: where the model is.
        dtype: that in which the model computes keys and values.
    """

    def __init__(self, config: GPTConfig, batch_size: int, room: int, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        assert config.is_causal, "a later token would change the earlier ones"
        assert config.num_kv_heads is not None and config.head_dim is not None
        shape = (config.num_layers, batch_size, config.num_kv_heads, room, config.head_dim)
        # Zeros: a step of fixed size weighs the positions to come with 0, which makes 0 of any number, but not of what is none.
        self._keys = torch.zeros(shape, device=device, dtype=dtype)
        self._values = torch.zeros(shape, device=device, dtype=dtype)
        self._cos_RK, self._sin_RK = rotary_angles(room, config.head_dim, config.rope_theta, device)
        self._is_padding_BR = torch.zeros(batch_size, room, device=device, dtype=torch.bool)
        self._has_padding = False
        self._before: Prefix | None = None
        self._keeps_prefix = config.ffn.goes_by_prefix
        self.length = 0
        """Positions that are filled."""

    def clear(self) -> None:
        """Room for other sequences."""
        self.length = 0
        self._is_padding_BR.zero_()
        self._has_padding = False
        self._before = None

    @staticmethod
    def num_bytes(config: GPTConfig, batch_size: int, room: int, dtype: torch.dtype = torch.float32) -> int:
        """Bytes of the keys and values, known before they are allocated."""
        assert config.num_kv_heads is not None and config.head_dim is not None
        return 2 * config.num_layers * batch_size * config.num_kv_heads * room * config.head_dim * dtype.itemsize

    def begin(self, ids_BS: Tensor, is_padding_BS: Tensor | None) -> tuple[Tokens, list[LayerCache]]:
        """Takes the next S positions in: returns them as the layers know them, and each layer's cache."""
        start, end = self.length, self.length + ids_BS.shape[1]
        assert end <= self._cos_RK.shape[0], "the cache has no room for so many positions"
        tokens = Tokens(ids_BS, is_padding_BS, self._before)
        if is_padding_BS is not None:
            self._is_padding_BR[:, start:end] = is_padding_BS
            self._has_padding = True
        # A single query sees all positions so far, and kernels that need no mask are the fast ones.
        needs_mask = self._has_padding or (start > 0 and end - start > 1)
        now = CachedPass(
            cos_SK=self._cos_RK[start:end],
            sin_SK=self._sin_RK[start:end],
            mask_B1SL=visible(self._is_padding_BR[:, :end], is_causal=True, first_query=start) if needs_mask else None,
            is_causal=start == 0 and end > 1 and not needs_mask,
        )
        if self._keeps_prefix:
            self._before = prefix_after(tokens)
        self.length = end
        # Of all layers at once: a view costs as much as a small product.
        views = [kept.narrow(3, *part).unbind() for part in ((0, end), (start, end - start)) for kept in (self._keys, self._values)]
        return tokens, [
            LayerCache(keys, values, new_keys, new_values, now) for keys, values, new_keys, new_values in zip(*views, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class FixedLayerCache:
    """One layer's keys and values for a step of fixed size: of all R positions, of which those to come are hidden."""

    keys_BMRK: Tensor
    values_BMRK: Tensor
    position_1: Tensor
    now: CachedPass

    def extend(self, k_BM1K: Tensor, v_BM1K: Tensor) -> tuple[Tensor, Tensor]:
        """Writes the key and value of the new position, and returns those of all, [B, M, R, K]."""
        self.keys_BMRK.index_copy_(2, self.position_1, k_BM1K)
        self.values_BMRK.index_copy_(2, self.position_1, v_BM1K)
        return self.keys_BMRK, self.values_BMRK


class FixedStepCache:
    """A cache whose next positions come one by one, each by the same operations on tensors of the same sizes: what a compiler wants.

    The price is that attention reads the keys of the whole room at each of them.

    Args:
        cache: whose room this is. It takes in the prompts; then `follow` it.
    """

    def __init__(self, cache: KVCache) -> None:
        self._cache = cache
        self._keys, self._values = cache._keys.unbind(), cache._values.unbind()
        batch_size, self._room = cache._is_padding_BR.shape
        self._position_1 = torch.zeros(1, dtype=torch.int64, device=cache._keys.device)
        none_B = torch.zeros(batch_size, dtype=torch.int64, device=cache._keys.device)
        self._before = Prefix(none_B, none_B.clone()) if cache._keeps_prefix else None

    def follow(self) -> None:
        """Takes over where the cache stands."""
        self._position_1.fill_(self._cache.length)
        if self._before is not None and self._cache._before is not None:
            self._keep(self._cache._before)

    def begin(self, ids_B1: Tensor, is_padding_B1: Tensor | None) -> tuple[Tokens, list[FixedLayerCache]]:
        """Takes the next position in, as KVCache.begin does."""
        assert is_padding_B1 is None and ids_B1.shape[1] == 1
        # What is kept from step to step is written anew in this one, before the layers read what it was.
        before, position_1 = self._before, self._position_1.clone()
        tokens = Tokens(ids_B1, before=before and Prefix(before.num_tokens_B.clone(), before.bits_B.clone()))
        is_seen_R = torch.arange(self._room, device=ids_B1.device) <= position_1
        now = CachedPass(
            cos_SK=self._cache._cos_RK.index_select(0, position_1),
            sin_SK=self._cache._sin_RK.index_select(0, position_1),
            mask_B1SL=(is_seen_R & ~self._cache._is_padding_BR)[:, None, None],
            is_causal=False,
        )
        if before is not None:
            self._keep(prefix_after(tokens))
        self._position_1.add_(1)
        return tokens, [FixedLayerCache(*own, position_1, now) for own in zip(self._keys, self._values, strict=True)]

    def _keep(self, before: Prefix) -> None:
        assert self._before is not None
        self._before.num_tokens_B.copy_(before.num_tokens_B)
        self._before.bits_B.copy_(before.bits_B)
