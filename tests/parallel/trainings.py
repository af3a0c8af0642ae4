"""Tiny trainings, on one process and spread over a world, and what of them has to be equal.

Knows recipes by name. Must not know pytest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from moecli.data.batches import TrainBatches
from moecli.data.token_split import TokenSplit
from moecli.model.config import GPTConfig
from moecli.model.gpt import GPT
from moecli.model.init import build_gpt
from moecli.moe.balancing import BiasUpdateConfig
from moecli.moe.capacity import CapacityConfig
from moecli.moe.layers import FeedForwardConfig, MLPConfig, SparseMoEConfig
from moecli.moe.routers import NoisyTopKConfig, SigmoidTopKConfig, TopKConfig
from moecli.parallel.config import ParallelConfig
from moecli.parallel.sharding import spread
from moecli.parallel.whole_state import whole_model
from moecli.parallel.world import World
from moecli.training.config import TrainingConfig
from moecli.training.trainer import Trainer
from tests.parallel.world_of_processes import with_expert_degree

VOCAB, SEQ_LEN, BATCH, STEPS = 32, 12, 8, 20
IDS = np.random.default_rng(0).integers(0, VOCAB, 2000, dtype=np.uint16)
SPLIT = TokenSplit(ids=IDS, labels={}, label_names={}, num_bytes=2000, num_documents=1, name="train")


@dataclass(frozen=True, slots=True)
class Case:
    ffn: FeedForwardConfig
    options: dict[str, Any]
    """Of training."""


SIGMOID = SparseMoEConfig(
    num_experts=8, d_expert=8, router=SigmoidTopKConfig(top_k=2), num_shared_experts=1, d_shared_expert=16, shared_gate=True
)
CASES = {
    "topk": Case(SparseMoEConfig(num_experts=4, d_expert=16, router=TopKConfig(top_k=2)), {}),
    "capacity": Case(SparseMoEConfig(num_experts=4, d_expert=16, capacity=CapacityConfig(factor=1.0)), {"z_loss": 0.01}),
    "sigmoid-bias-shared": Case(SIGMOID, {"bias_update": BiasUpdateConfig(rate=0.05), "clip_norm": 0.2}),
    "accumulated-global": Case(
        SparseMoEConfig(num_experts=4, d_expert=16),
        {"gradient_accumulation": 2, "balance_scope": "global-batch", "importance_loss": 0.1, "balance_loss": 0.5},
    ),
}  # fmt: skip
NOISY = Case(SparseMoEConfig(num_experts=4, d_expert=16, router=NoisyTopKConfig(top_k=2)), {"load_loss": 0.1})
MLP = Case(MLPConfig(d_ff=48), {"clip_norm": None})

LAYOUTS = {
    "replicate": ParallelConfig(data="replicate"),
    "shard": ParallelConfig(data="shard"),
    "expert": ParallelConfig(data="replicate", expert=2),
    "expert-shard": ParallelConfig(data="shard", expert=2),
    "expert-4": ParallelConfig(data="shard", expert=4),
}


def build_trainer(case: Case, world: World | None = None, layout: ParallelConfig | None = None, model: GPT | None = None) -> Trainer:
    """On this process alone, or spread over the world. Without a model one with fresh weights is taken."""
    options = {"steps": STEPS, "batch_size": BATCH, "learning_rate": 3e-3} | case.options
    training = TrainingConfig(**options)
    whole = model or build_gpt(GPTConfig(d_model=32, num_layers=2, num_heads=2, ffn=case.ffn), VOCAB, seed=0)
    batches = TrainBatches(SPLIT, SEQ_LEN, training.micro_batch_size, seed=0)
    if world is None:
        return Trainer(whole, batches, training)
    assert layout is not None
    world = with_expert_degree(world, layout.expert)
    return Trainer(spread(whole, world, layout), batches, training, world)


@dataclass(slots=True)
class Curve:
    """What a training did, step by step."""

    losses: list[dict[str, float]]
    grad_norms: list[float]
    loads: list[Tensor | None]
    chosen_loads: list[Tensor | None]
    weights: dict[str, Tensor]
    """Whole, at the end; empty but on the first process."""


def train(trainer: Trainer, first: int = 0, last: int = STEPS) -> Curve:
    curve = Curve([], [], [], [], {})
    for step in range(first, last):
        result = trainer.step(step)
        curve.losses.append({name: loss.item() / result.num_micro_batches for name, loss in result.sums.losses.items()})
        curve.grad_norms.append(result.grad_norm.item())
        curve.loads.append(result.sums.load_LE)
        curve.chosen_loads.append(result.sums.chosen_load_LE)
    model = trainer.model if trainer.world is None else whole_model(trainer.model, trainer.world)
    curve.weights = {} if model is None else {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    return curve
