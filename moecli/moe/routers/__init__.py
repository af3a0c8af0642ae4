"""The routers by name. A new router is a file here and a line in ROUTERS; recipe, tests and reports follow from the table."""

from __future__ import annotations

from moecli.moe.routers.base import Router, RouterConfig
from moecli.moe.routers.expert_choice import ExpertChoiceConfig, ExpertChoiceRouter
from moecli.moe.routers.hash import HashConfig, HashRouter
from moecli.moe.routers.noisy_topk import NoisyTopKConfig, NoisyTopKRouter
from moecli.moe.routers.random import RandomConfig, RandomRouter
from moecli.moe.routers.sigmoid_topk import SigmoidTopKConfig, SigmoidTopKRouter
from moecli.moe.routers.topk import TopKConfig, TopKRouter
from moecli.moe.routers.vmoe_topk import VMoETopKConfig, VMoETopKRouter

ROUTERS: dict[str, type[Router]] = {
    "topk": TopKRouter,
    "noisy_topk": NoisyTopKRouter,
    "vmoe_topk": VMoETopKRouter,
    "sigmoid_topk": SigmoidTopKRouter,
    "expert_choice": ExpertChoiceRouter,
    "hash": HashRouter,
    "random": RandomRouter,
}

__all__ = [
    "ROUTERS",
    "ExpertChoiceConfig",
    "HashConfig",
    "NoisyTopKConfig",
    "RandomConfig",
    "Router",
    "RouterConfig",
    "SigmoidTopKConfig",
    "TopKConfig",
    "VMoETopKConfig",
]
