"""AdamW over the parameters of a model, with decay where it belongs.

Knows parameters by name and shape. Must not know the schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from moecli.training.config import AdamWConfig
from moecli.training.freezing import is_of_router

FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")


def build_adamw(model: nn.Module, config: AdamWConfig) -> torch.optim.AdamW:
    """An optimizer with two groups: parameters that decay, and norms, biases and (by default) routers, which don't. None that is frozen.
    Of a model that is spread over processes each group may be several, whose parameters lie alike."""
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = parameter.ndim >= 2 and (config.decay_router or not is_of_router(name))
        (decayed if decays else kept).append(parameter)
    groups = [
        {"params": alike, "weight_decay": weight_decay}
        for parameters, weight_decay in ((decayed, config.weight_decay), (kept, 0.0))
        for alike in _by_mesh(parameters)
    ]
    fused = all(parameter.device.type in FUSED_DEVICES for parameter in model.parameters())
    return torch.optim.AdamW(groups, lr=0.0, betas=(config.beta1, config.beta2), eps=config.eps, fused=fused)


def _by_mesh(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """In groups that one fused operation can take: sharded over one mesh of processes each. All whole ones are one group, also if empty."""
    groups: dict[Any, list[nn.Parameter]] = {}
    for parameter in parameters:
        groups.setdefault(getattr(parameter, "device_mesh", None), []).append(parameter)
    return list(groups.values()) or [[]]
