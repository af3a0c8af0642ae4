"""Small trainings of three feed-forward blocks, the ways in which two processes share one out, and the plan of each.

Knows fresh models and random ids. Must not know who measures them.
"""

from __future__ import annotations

import torch

from benchmarks.step import SameBatch
from moecli.data.batches import Batch
from moecli.model.accounting import model_cost
from moecli.model.config import GPTConfig
from moecli.model.init import build_gpt
from moecli.moe.layers import FeedForwardConfig, MLPConfig, SparseMoEConfig
from moecli.moe.routers import TopKConfig
from moecli.parallel.config import ParallelConfig
from moecli.parallel.plan import ParallelPlan, Speeds, plan_parallel
from moecli.parallel.plan_traffic import StepShape
from moecli.parallel.sharding import spread
from moecli.parallel.world import World
from moecli.training.config import TrainingConfig
from moecli.training.trainer import Trainer

D_MODEL, VOCAB_SIZE, SEQ_LEN, SEQUENCES = 256, 1024, 256, 8
COARSE = SparseMoEConfig(num_experts=8, d_expert=256, router=TopKConfig(top_k=2))
FINE = SparseMoEConfig(num_experts=32, d_expert=64, router=TopKConfig(top_k=4), num_shared_experts=1, d_shared_expert=256)
SHAPES: dict[str, FeedForwardConfig] = {
    "mlp 512": MLPConfig(d_ff=512),
    "sparse 8 x 256, top-2": COARSE,
    "sparse 32 x 64, top-4, shared 256": FINE,
}
TINY = GPTConfig(d_model=32, num_layers=1, num_heads=1, ffn=SparseMoEConfig(num_experts=2, d_expert=32, router=TopKConfig(top_k=1)))
REPLICATE, SHARD, EXPERT = ParallelConfig(data="replicate"), ParallelConfig(data="shard"), ParallelConfig(data="replicate", expert=2)
# Of both processes: sequences by what it is called.
BATCHES = {"same batch": SEQUENCES, "twice the batch": 2 * SEQUENCES}


def gpt(ffn: FeedForwardConfig) -> GPTConfig:
    return GPTConfig(d_model=D_MODEL, num_layers=4, num_heads=4, ffn=ffn)


def layouts_of(ffn: FeedForwardConfig) -> dict[str, ParallelConfig]:
    layouts = {"replicate": REPLICATE, "shard": SHARD}
    return layouts | {"replicate, expert 2": EXPERT} if isinstance(ffn, SparseMoEConfig) else layouts


def build_trainer(shape: GPTConfig, sequences: int, world: World | None = None, layout: ParallelConfig = REPLICATE) -> Trainer:
    """`sequences`: of all processes of the world."""
    ids = torch.randint(VOCAB_SIZE, (sequences, SEQ_LEN + 1), generator=torch.Generator().manual_seed(0))
    batch = SameBatch(Batch(ids[:, :-1], ids[:, 1:], {}), SEQ_LEN)
    training = TrainingConfig(steps=1000, batch_size=sequences, device="cpu")
    model = build_gpt(shape, VOCAB_SIZE, seed=0)
    if world is None:
        return Trainer(model, batch, training)
    world = world.with_expert(layout.expert)
    return Trainer(spread(model, world, layout), batch, training, world)


def flops_per_token(ffn: FeedForwardConfig) -> int:
    """Of training."""
    return model_cost(gpt(ffn), VOCAB_SIZE, SEQ_LEN).train_flops_per_token


def planned(ffn: FeedForwardConfig, sequences: int, layout: ParallelConfig, speeds: Speeds | None = None) -> ParallelPlan:
    """Of two processes; `sequences`: of both."""
    step = StepShape(SEQ_LEN, sequences, gradient_accumulation=1, passes_ahead=0, recomputes=False, row_bytes=4)
    return plan_parallel(gpt(ffn), VOCAB_SIZE, step, layout, 2, flops_per_token(ffn), speeds or Speeds())
