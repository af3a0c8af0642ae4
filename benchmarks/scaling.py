"""How the cost of a training step grows with the number of experts, of which each token uses as many as before, and with the tokens.

    python -m benchmarks scaling                            # about 2 minutes on 2 CPU cores

Knows fresh models and random ids. More experts are more weights: clipping and AdamW, which go through all of them, are timed by
themselves. Each arm is measured against the one above it, which does half.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from benchmarks.rounds import milliseconds, number_of_rounds, ratios, spread, take_turns
from benchmarks.step import SEQ_LEN, VOCAB_SIZE, our_trainer
from moecli.data.batches import Batch
from moecli.moe.layers import SparseMoEConfig
from moecli.moe.routers import TopKConfig
from moecli.training.trainer import Trainer

EXPERTS = (8, 16, 32, 64)
SEQUENCES = (16, 32, 64, 128)


def trainer(num_experts: int, num_sequences: int) -> Trainer:
    """Experts of width 256, of which each token uses two."""
    ids_BS, targets_BS = torch.randint(VOCAB_SIZE, (2, num_sequences, SEQ_LEN)).unbind()
    ffn = SparseMoEConfig(num_experts=num_experts, d_expert=256, router=TopKConfig(top_k=2))
    return our_trainer(ffn, "swiglu", Batch(ids_BS, targets_BS, labels={}))


def step_seconds(subject: Trainer) -> float:
    started = time.perf_counter()
    subject.step(100)
    return time.perf_counter() - started


def optimizer_seconds(subject: Trainer) -> float:
    """On the gradients that the step before has left."""
    started = time.perf_counter()
    nn.utils.clip_grad_norm_(subject.model.parameters(), 1.0)
    subject.optimizer.step()
    return time.perf_counter() - started


def table(head: str, subjects: dict[str, Trainer], rounds: int) -> list[str]:
    calls: dict[str, Callable[[], float]] = {}
    for name, subject in subjects.items():
        calls[name] = partial(step_seconds, subject)
        calls[f"optimizer {name}"] = partial(optimizer_seconds, subject)
    measured = take_turns(calls, rounds)
    for name in subjects:
        optimizer = measured[f"optimizer {name}"]
        measured[f"rest {name}"] = [whole - part for whole, part in zip(measured[name], optimizer, strict=True)]
    lines = [
        f"| {head} | ms per step | of which clipping and AdamW | step over the one above | the rest over the one above |",
        "|---" * 5 + "|",
    ]
    above = None
    for name in subjects:
        cells = [f"{milliseconds(measured, name):.1f}", f"{milliseconds(measured, f'optimizer {name}'):.1f}"]
        cells += ["", ""] if above is None else [spread(ratios(measured, kind + name, kind + above)) for kind in ("", "rest ")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        above = name
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=number_of_rounds, default=21)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, float32, {arguments.rounds} rounds\n")
    by_experts = {str(num_experts): trainer(num_experts, 64) for num_experts in EXPERTS}
    print("\n".join(table("experts", by_experts, arguments.rounds)), flush=True)
    by_tokens = {f"{num_sequences * SEQ_LEN:,}": trainer(8, num_sequences) for num_sequences in SEQUENCES}
    print("\n" + "\n".join(table("tokens", by_tokens, arguments.rounds)))


if __name__ == "__main__":
    main()
