"""Which parameters decay, and that a step is AdamW's."""

from __future__ import annotations

import pytest
import torch

from moecli.model.config import GPTConfig
from moecli.model.init import build_gpt
from moecli.moe.layers import DenseMoEConfig, SoftMoEConfig, SparseMoEConfig
from moecli.moe.routers import NoisyTopKConfig
from moecli.training.config import AdamWConfig
from moecli.training.optimizer import build_adamw


def names_without_decay(ffn, **options) -> set[str]:
    model = build_gpt(GPTConfig(d_model=8, num_layers=1, num_heads=2, qk_norm="head", ffn=ffn), 20, seed=0)
    optimizer = build_adamw(model, AdamWConfig(**options))
    kept = {id(parameter) for group in optimizer.param_groups if group["weight_decay"] == 0 for parameter in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    return {name for name, parameter in model.named_parameters() if id(parameter) in kept}


SCALE = "blocks.0.ffn.mixer.scale"  # one number, which never decays
NORMS = {"norm.weight"} | {f"blocks.0.{name}.weight" for name in ("attention_norm", "ffn_norm", "attention.q_norm", "attention.k_norm")}


@pytest.mark.parametrize(
    ("ffn", "routers"),
    [
        (SparseMoEConfig(num_experts=2, num_shared_experts=1, shared_gate=True), {"router.weight", "shared_gate.weight"}),
        (SparseMoEConfig(num_experts=2, router=NoisyTopKConfig(top_k=2)), {"router.weight", "router.noise_weight"}),
        (DenseMoEConfig(num_experts=2), {"gate_weight"}),
        (SoftMoEConfig(num_experts=2), {"mixer.slot_weight"}),
        (SoftMoEConfig(num_experts=2, mixing="batch"), {"mixer.weight"}),
    ],
    ids=["sparse", "noisy", "dense", "soft over sequences", "soft over a batch"],
)
def test_norms_and_routers_do_not_decay(ffn, routers):
    assert names_without_decay(ffn) - {SCALE} == NORMS | {f"blocks.0.ffn.{name}" for name in routers}
    assert names_without_decay(ffn, decay_router=True) - {SCALE} == NORMS


def test_a_step_by_hand():
    # First step of AdamW: m / (1 - beta1) = g, v / (1 - beta2) = g^2, so w = w (1 - lr * decay) - lr * g / (|g| + eps)
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 2.0)
    optimizer = build_adamw(model, AdamWConfig(weight_decay=0.5, eps=1e-8))
    optimizer.param_groups[0]["lr"] = 0.1
    model.weight.grad = torch.tensor([[3.0]])
    optimizer.step()
    assert model.weight.item() == pytest.approx(2.0 * (1 - 0.1 * 0.5) - 0.1 * 3.0 / (3.0 + 1e-8))
