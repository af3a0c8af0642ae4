"""Which parameters decay, and that a step is AdamW's."""

from __future__ import annotations

import pytest
import torch

from moecli.model.config import GPTConfig
from moecli.model.init import build_gpt
from moecli.moe.layers import DenseMoEConfig, SparseMoEConfig
from moecli.training.config import AdamWConfig
from moecli.training.optimizer import build_adamw


def names_without_decay(ffn, **options) -> set[str]:
    model = build_gpt(GPTConfig(d_model=8, num_layers=1, num_heads=2, qk_norm="head", ffn=ffn), 20, seed=0)
    optimizer = build_adamw(model, AdamWConfig(**options))
    kept = {id(parameter) for group in optimizer.param_groups if group["weight_decay"] == 0 for parameter in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    return {name for name, parameter in model.named_parameters() if id(parameter) in kept}


NORMS = {"norm.weight"} | {f"blocks.0.{name}.weight" for name in ("attention_norm", "ffn_norm", "attention.q_norm", "attention.k_norm")}


@pytest.mark.parametrize(
    ("ffn", "routers"),
    [
        (SparseMoEConfig(num_experts=2, num_shared_experts=1, shared_gate=True), {"router.weight", "shared_gate.weight"}),
        (DenseMoEConfig(num_experts=2), {"gate_weight"}),
    ],
    ids=["sparse", "dense"],
)
def test_norms_and_routers_do_not_decay(ffn, routers):
    assert names_without_decay(ffn) == NORMS | {f"blocks.0.ffn.{name}" for name in routers}
    assert names_without_decay(ffn, decay_router=True) == NORMS


def test_a_step_by_hand():
    # First step of AdamW: m / (1 - beta1) = g, v / (1 - beta2) = g^2, so w = w (1 - lr * decay) - lr * g / (|g| + eps)
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 2.0)
    optimizer = build_adamw(model, AdamWConfig(weight_decay=0.5, eps=1e-8))
    optimizer.param_groups[0]["lr"] = 0.1
    model.weight.grad = torch.tensor([[3.0]])
    optimizer.step()
    assert model.weight.item() == pytest.approx(2.0 * (1 - 0.1 * 0.5) - 0.1 * 3.0 / (3.0 + 1e-8))
