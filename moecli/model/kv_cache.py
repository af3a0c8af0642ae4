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
    """What the attention of every layer goes by while the positions from `start` to `end` go through the model."""

    start: int
    end: int
    cos_SK: Tensor
    sin_SK: Tensor
    mask_B1SL: Tensor | None
    """bool; None where nothing has to be hidden but the future by `is_causal`."""
    is_causal: bool
    """Whether these are the first positions, so that a causal kernel without a mask does."""


@dataclass(frozen=True, slots=True)
class LayerCache:
    """One layer's keys and values during a pass."""

    keys_BMRK: Tensor
    values_BMRK: Tensor
    now: CachedPass

    def extend(self, k_BMSK: Tensor, v_BMSK: Tensor) -> tuple[Tensor, Tensor]:
        """Writes the keys (turned by their positions) and values of this pass, and returns those of all positions so far, [B, M, L, K]."""
        start, end = self.now.start, self.now.end
        self.keys_BMRK[:, :, start:end] = k_BMSK
        self.values_BMRK[:, :, start:end] = v_BMSK
        return self.keys_BMRK[:, :, :end], self.values_BMRK[:, :, :end]


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
        self._keys = torch.empty(shape, device=device, dtype=dtype).unbind()
        self._values = torch.empty(shape, device=device, dtype=dtype).unbind()
        self._cos_RK, self._sin_RK = rotary_angles(room, config.head_dim, config.rope_theta, device)
        self._is_padding_BR = torch.zeros(batch_size, room, device=device, dtype=torch.bool)
        self._has_padding = False
        self._before: Prefix | None = None
        self.length = 0
        """Positions that are filled."""

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
            start=start,
            end=end,
            cos_SK=self._cos_RK[start:end],
            sin_SK=self._sin_RK[start:end],
            mask_B1SL=visible(self._is_padding_BR[:, :end], is_causal=True, first_query=start) if needs_mask else None,
            is_causal=start == 0 and end > 1 and not needs_mask,
        )
        self._before = prefix_after(tokens)
        self.length = end
        return tokens, [LayerCache(keys, values, now) for keys, values in zip(self._keys, self._values, strict=True)]
