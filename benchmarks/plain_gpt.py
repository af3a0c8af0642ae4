"""A GPT as a tutorial writes it, in one file: what a training step is measured against.

Learned positions, LayerNorm, GELU, biases, tied embeddings, one product for queries, keys and values, torch's own attention.
Shape letters: see moecli/moe/routing.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainBlock(nn.Module):
    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.attention_out = nn.Linear(d_model, d_model)
        self.ffn_norm = nn.LayerNorm(d_model)
        self.ffn = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x_BSD: Tensor) -> Tensor:
        heads = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in self.qkv(self.attention_norm(x_BSD)).chunk(3, dim=-1))
        y_BNSK = F.scaled_dot_product_attention(*heads, is_causal=True)
        x_BSD = x_BSD + self.attention_out(y_BNSK.transpose(1, 2).flatten(2))
        return x_BSD + self.ffn(self.ffn_norm(x_BSD))


class PlainGPT(nn.Module):
    def __init__(self, d_model: int, num_layers: int, num_heads: int, seq_len: int, vocab_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.position_embedding = nn.Embedding(seq_len, d_model)
        self.blocks = nn.Sequential(*(PlainBlock(d_model, num_heads) for _ in range(num_layers)))
        self.norm = nn.LayerNorm(d_model)

    def forward(self, ids_BS: Tensor) -> Tensor:
        """Logits [B, S, V]."""
        positions_S = torch.arange(ids_BS.shape[1], device=ids_BS.device)
        x_BSD = self.blocks(self.embedding(ids_BS) + self.position_embedding(positions_S))
        return F.linear(self.norm(x_BSD), self.embedding.weight)
