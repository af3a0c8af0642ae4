"""How a GPT's weights begin.

Knows the parameters by name and shape. Must not know how they are trained.
"""

from __future__ import annotations

import torch
from torch import nn

from moecli.model.config import GPTConfig
from moecli.model.gpt import GPT

# The projections whose output is added to the residual stream: 2 per layer, so their spread is divided by sqrt(2 * num_layers) (GPT-2).
RESIDUAL_PROJECTIONS = ("o_proj", "out_proj")


def build_gpt(config: GPTConfig, vocab_size: int, seed: int) -> GPT:
    """A GPT on the CPU with weights that depend on (config, vocab_size, seed) alone: the generator is its own."""
    with torch.device("meta"):
        model = GPT(config, vocab_size)
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:  # a bias, or the scale of a norm
            nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)
            continue
        is_residual = any(part in RESIDUAL_PROJECTIONS for part in name.split("."))
        std = config.init_std / (2 * config.num_layers) ** 0.5 if is_residual else config.init_std
        nn.init.normal_(parameter, std=std, generator=generator)
    for buffer in model.buffers():  # selection biases
        nn.init.zeros_(buffer)
    for ffn in model.feed_forwards():
        ffn.init_weights(generator)
    return model
