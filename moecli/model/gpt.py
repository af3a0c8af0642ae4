"""The GPT: token ids to logits, and what its routed layers report.

What is unusual: the feed-forward block of each layer is of any kind in FEED_FORWARDS, and the records of all layers are returned, not kept.
Knows blocks. Must not know text, losses or training.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from moecli.model.attention import Attention
from moecli.model.config import GPTConfig
from moecli.model.kv_cache import FixedLayerCache, FixedStepCache, KVCache, LayerCache
from moecli.model.norm import RMSNorm
from moecli.moe.layers import FEED_FORWARDS, FeedForward, FeedForwardConfig
from moecli.moe.linear import linear
from moecli.moe.routing import RoutingRecord, Tokens


class Block(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x))."""

    def __init__(self, config: GPTConfig, ffn_config: FeedForwardConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.d_model, eps=config.norm_eps)
        self.attention = Attention(config)
        self.ffn_norm = RMSNorm(config.d_model, eps=config.norm_eps)
        self.ffn: FeedForward = FEED_FORWARDS[ffn_config.kind](ffn_config, config.d_model, config.activation)

    def forward(
        self, x_BSD: Tensor, tokens: Tokens, cache: LayerCache | FixedLayerCache | None = None
    ) -> tuple[Tensor, RoutingRecord | None]:
        x_BSD = x_BSD + self.attention(self.attention_norm(x_BSD), tokens.is_padding_BS, cache)
        y_BSD, record = self.ffn(self.ffn_norm(x_BSD), tokens)
        return x_BSD + y_BSD, record


class GPT(nn.Module):
    """A language model, causal or bidirectional.

    Args:
        config: the shape.
        vocab_size: V, from the tokenizer.
    """

    def __init__(self, config: GPTConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.embedding = nn.Embedding(vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config, config.ffn_of_layer(layer)) for layer in range(config.num_layers))
        self.norm = RMSNorm(config.d_model, eps=config.norm_eps)
        self.recomputes_activations = False
        """Whether training keeps the input of each block alone and computes the rest again for the gradient (arXiv 1604.06174)."""
        self.lm_head = None if config.tie_embeddings else nn.Linear(config.d_model, vocab_size, bias=False)

    def feed_forwards(self) -> list[FeedForward]:
        """The feed-forward block of each layer."""
        return [block.ffn for block in self.blocks if isinstance(block, Block)]

    @property
    def is_causal(self) -> bool:
        return self.config.is_causal

    def expert_outputs(self) -> dict[int, tuple[Tensor, ...]]:
        """For each layer that routes the weights whose slice [e] makes expert e's output."""
        return {layer: ffn.expert_outputs for layer, ffn in enumerate(self.feed_forwards()) if ffn.routes}

    def forward(
        self,
        ids_BS: Tensor,
        is_padding_BS: Tensor | None = None,
        cache: KVCache | FixedStepCache | None = None,
        *,
        last_only: bool = False,
    ) -> tuple[Tensor, tuple[RoutingRecord | None, ...]]:
        """Returns logits [B, S, V] and a record per layer, None where the layer does not route.

        Args:
            ids_BS: token ids.
            is_padding_BS: bool; where it is True, a token is seen by no other, takes no room at an expert and counts in no router loss; its
                own logits mean nothing.
            cache: holds the tokens that came before these, and takes these in.
            last_only: logits [B, 1, V] of the last position alone, which is all that generation asks for.
        """
        layer_caches: Sequence[LayerCache | FixedLayerCache] | None
        if cache is None:
            tokens, layer_caches = Tokens(ids_BS, is_padding_BS), None
        else:
            tokens, layer_caches = cache.begin(ids_BS, is_padding_BS)
        x_BSD = self.embedding(ids_BS)
        records = []
        for layer, block in enumerate(self.blocks):
            if layer_caches is not None:
                x_BSD, record = block(x_BSD, tokens, layer_caches[layer])
            elif self.recomputes_activations and torch.is_grad_enabled():
                x_BSD, record = checkpoint(block, x_BSD, tokens, use_reentrant=False)
            else:
                x_BSD, record = block(x_BSD, tokens)
            records.append(record)
        output_weight = self.embedding.weight if self.lm_head is None else self.lm_head.weight
        return linear(self.norm(x_BSD[:, -1:] if last_only else x_BSD), output_weight), tuple(records)
