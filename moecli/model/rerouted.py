"""A trained model routed in another way: other experts per token, another capacity.

Knows the model's config. Must not know which change makes sense: the caller does.
"""

from __future__ import annotations

import torch

from moecli.model.gpt import GPT
from moecli.moe.layers import FeedForwardConfig, SparseMoEConfig


def with_feed_forward(model: GPT, ffn: FeedForwardConfig) -> GPT:
    """The same weights, shared and not copied, behind another config of the MoE layers, which must ask for the same shapes."""
    with torch.device("meta"):
        rerouted = GPT(model.config.model_copy(update={"ffn": ffn}), model.vocab_size)
    rerouted.load_state_dict(model.state_dict(), assign=True)
    return rerouted.train(model.training)


def without_capacity(model: GPT) -> GPT:
    """The model with room for all tokens at every expert, as one token at a time finds it; itself where there is no capacity."""
    ffn = model.config.ffn
    if not isinstance(ffn, SparseMoEConfig) or ffn.capacity is None:
        return model
    return with_feed_forward(model, ffn.model_copy(update={"capacity": None}))
