"""What a whole training step costs on a GPU: our GPT with experts against the mlp of equal active width, eager and compiled, in bfloat16.

    python -m benchmarks step-cuda --rounds 11 --json step.json

Knows fresh models and random ids. The arms take turns where their weights fit beside each other; a figure is the median over rounds of
the ratio to the mlp in the same round, compiled against compiled. Compiling is not timed, but said. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path

import torch

from benchmarks.rounds import machine, milliseconds, number_of_rounds, ratios, seconds_of, spread, take_turns
from benchmarks.step import SameBatch
from moecli.data.batches import Batch
from moecli.model.accounting import model_cost
from moecli.model.config import GPTConfig
from moecli.model.init import build_gpt
from moecli.moe.layers import FeedForwardConfig, MLPConfig, SparseMoEConfig
from moecli.moe.routers import TopKConfig
from moecli.training.config import TrainingConfig
from moecli.training.trainer import Trainer

D_MODEL, NUM_LAYERS, NUM_HEADS, VOCAB_SIZE = 1024, 4, 16, 8192
SEQ_LEN, BATCH_SIZE = 1024, 32
MLP = "mlp 4096"
ARMS: dict[str, FeedForwardConfig] = {
    MLP: MLPConfig(d_ff=4096),
    "sparse 8 x 2048, top-2": SparseMoEConfig(num_experts=8, d_expert=2048, router=TopKConfig(top_k=2)),
    "sparse 64 x 512, top-8": SparseMoEConfig(num_experts=64, d_expert=512, router=TopKConfig(top_k=8)),
}


def config_of(name: str) -> GPTConfig:
    return GPTConfig(d_model=D_MODEL, num_layers=NUM_LAYERS, num_heads=NUM_HEADS, activation="swiglu", ffn=ARMS[name])


def trainer_of(name: str, batch: Batch, device: torch.device, *, compiled: bool) -> Trainer:
    training = TrainingConfig(steps=1000, batch_size=BATCH_SIZE, device="cuda", precision="bfloat16", compile=compiled)
    return Trainer(build_gpt(config_of(name), VOCAB_SIZE, seed=0).to(device), SameBatch(batch, SEQ_LEN), training)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=number_of_rounds, default=11)
    parser.add_argument("--json", type=Path, help="write every measured second there too")
    arguments = parser.parse_args()
    device = torch.device("cuda")
    print(f"{machine(device)}, {BATCH_SIZE} x {SEQ_LEN} tokens, d_model {D_MODEL}, {NUM_LAYERS} layers, {arguments.rounds} rounds\n")
    torch.manual_seed(0)
    ids_BS, targets_BS = torch.randint(VOCAB_SIZE, (2, BATCH_SIZE, SEQ_LEN)).unbind()
    batch = Batch(ids_BS, targets_BS, labels={})
    measured = {}
    print("| arm | ms per step | over the mlp | tokens/s | TFLOP/s | peak GB | seconds of the first step |\n|---|---|---|---|---|---|---|")
    for compiled in (False, True):
        trainers = {name: trainer_of(name, batch, device, compiled=compiled) for name in ARMS}
        began = {name: seconds_of_first_step(trainer) for name, trainer in trainers.items()}
        steps = {name: partial(seconds_of, partial(trainer.step, 1), device) for name, trainer in trainers.items()}
        taken = take_turns(steps, arguments.rounds)
        for name, trainer in trainers.items():
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            trainer.step(2)
            peak_gb = (torch.cuda.max_memory_allocated() - before + states_bytes(trainer)) / 1e9
            milliseconds_ = milliseconds(taken, name)
            tokens_per_s = BATCH_SIZE * SEQ_LEN / milliseconds_ * 1e3
            tflops = model_cost(config_of(name), VOCAB_SIZE, SEQ_LEN).train_flops_per_token * tokens_per_s / 1e12
            cells = [
                f"{milliseconds_:.1f}",
                spread(ratios(taken, name, MLP)),
                f"{tokens_per_s:,.0f}",
                f"{tflops:.0f}",
                f"{peak_gb:.1f}",
                f"{began[name]:.1f}",
            ]
            print(f"| {name}{', compiled' * compiled} | {' | '.join(cells)} |", flush=True)
        measured["compiled" if compiled else "eager"] = taken
        del trainers, steps
    if arguments.json:
        arguments.json.write_text(json.dumps(measured) + "\n", encoding="utf-8")


def seconds_of_first_step(trainer: Trainer) -> float:
    started = time.perf_counter()
    trainer.step(0).sums.losses["loss"].item()  # waits for the device
    return time.perf_counter() - started


def states_bytes(trainer: Trainer) -> int:
    """Weights and AdamW's two moments, which are there before a step begins; gradients come and go with it."""
    return 3 * sum(parameter.nbytes for parameter in trainer.model.parameters())


if __name__ == "__main__":
    main()
