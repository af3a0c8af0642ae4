"""AdamW over the parameters of a model, with decay where it belongs.

Knows parameters by name and shape. Must not know the schedule.
"""

from __future__ import annotations

import torch
from torch import nn

from moecli.training.config import AdamWConfig

FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")
ROUTER_PARTS = ("router", "gate_weight", "shared_gate", "mixer")


def build_adamw(model: nn.Module, config: AdamWConfig) -> torch.optim.AdamW:
    """An optimizer with two groups: parameters that decay, and norms, biases and (by default) routers, which don't."""
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_router = any(part in ROUTER_PARTS for part in name.split("."))
        decays = parameter.ndim >= 2 and (config.decay_router or not is_router)
        (decayed if decays else kept).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    fused = all(parameter.device.type in FUSED_DEVICES for parameter in model.parameters())
    return torch.optim.AdamW(groups, lr=0.0, betas=(config.beta1, config.beta2), eps=config.eps, fused=fused)
