"""AdamW over the parameters of a model, with decay where it belongs.

Knows parameters by name and shape. Must not know the schedule.
"""

from __future__ import annotations

import torch
from torch import nn

from moecli.training.config import AdamWConfig
from moecli.training.freezing import is_of_router

FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")


def build_adamw(model: nn.Module, config: AdamWConfig) -> torch.optim.AdamW:
    """An optimizer with two groups: parameters that decay, and norms, biases and (by default) routers, which don't. None that is frozen."""
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = parameter.ndim >= 2 and (config.decay_router or not is_of_router(name))
        (decayed if decays else kept).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    fused = all(parameter.device.type in FUSED_DEVICES for parameter in model.parameters())
    return torch.optim.AdamW(groups, lr=0.0, betas=(config.beta1, config.beta2), eps=config.eps, fused=fused)
