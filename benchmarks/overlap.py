"""What it saves to compute shared experts while tokens travel to the routed ones: two hosts on a cable of a given speed.

    python -m benchmarks overlap                           # Linux, as root, with iproute2; about three minutes
    python -m benchmarks overlap --rates 1gbit 100mbit     # as `tc` takes them; "none" is a cable without a limit

Knows network namespaces and random ids. One process on each host, one thread each; two trainings of equal weights take turns, one of which
computes its shared experts after the routed ones. The figure is the median over rounds of the ratio of their steps.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.rounds import milliseconds, number_of_rounds, ratios, spread, take_turns
from benchmarks.step import SameBatch
from benchmarks.two_hosts import HOSTS, cable
from moecli.data.batches import Batch
from moecli.model.config import GPTConfig
from moecli.model.init import build_gpt
from moecli.moe.dispatch import ExpertQueues
from moecli.moe.layers import SparseMoE, SparseMoEConfig
from moecli.parallel.config import ParallelConfig
from moecli.parallel.expert_parallel import ExpertParallel
from moecli.parallel.meeting import begin_world
from moecli.parallel.sharding import spread as spread_model
from moecli.parallel.world import World
from moecli.training.config import TrainingConfig
from moecli.training.trainer import Trainer

RATES = ("none", "2gbit", "500mbit")
D_SHARED = (512, 1024, 2048)
D_MODEL, VOCAB_SIZE, SEQ_LEN, BATCH_SIZE = 256, 65, 256, 8
PORT = 29511


def in_turn(experts: ExpertParallel) -> Callable[..., Tensor]:
    """A forward pass that computes what is beside the experts after them."""

    def forward(x_TD: Tensor, queues: ExpertQueues, beside: Callable[[Tensor], Tensor]) -> Tensor:
        return ExpertParallel.forward(experts, x_TD, queues) + beside(x_TD)

    return forward


def build_trainer(world: World, d_shared: int, *, overlaps: bool) -> Trainer:
    ffn = SparseMoEConfig(num_experts=16, d_expert=256, num_shared_experts=1, d_shared_expert=d_shared)
    whole = build_gpt(GPTConfig(d_model=D_MODEL, num_layers=4, num_heads=4, ffn=ffn), VOCAB_SIZE, seed=0)
    model = spread_model(whole, world, ParallelConfig(expert=world.size))
    for ffn_module in model.feed_forwards():
        if isinstance(ffn_module, SparseMoE) and isinstance(ffn_module.experts, ExpertParallel) and not overlaps:
            ffn_module.experts.forward = in_turn(ffn_module.experts)  # type: ignore[method-assign]
    ids = torch.randint(VOCAB_SIZE, (BATCH_SIZE, SEQ_LEN + 1), generator=torch.Generator().manual_seed(0))
    batch = SameBatch(Batch(ids[:, :-1], ids[:, 1:], {}), SEQ_LEN)
    return Trainer(model, batch, TrainingConfig(steps=1000, batch_size=BATCH_SIZE, device="cpu"), world)


def seconds_of_step(trainer: Trainer) -> float:
    started = time.perf_counter()
    trainer.step(0)
    return time.perf_counter() - started


def measure(rank: int, rate: str, rounds: int) -> None:
    """One of the two processes."""
    torch.set_num_threads(1)
    names = {"RANK": rank, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": HOSTS["moecli-a"], "MASTER_PORT": PORT}
    os.environ |= {name: str(value) for name, value in names.items()}
    world = begin_world("cpu", timeout_s=60).with_expert(2)
    for d_shared in D_SHARED:
        trainers = {name: build_trainer(world, d_shared, overlaps=name == "overlaps") for name in ("overlaps", "in turn")}
        measured = take_turns({name: partial(seconds_of_step, trainer) for name, trainer in trainers.items()}, rounds)
        if world.is_first:
            figures = f"{milliseconds(measured, 'in turn'):8.0f} {milliseconds(measured, 'overlaps'):8.0f}"
            print(f"{rate:>8} {d_shared:6} {figures}   {spread(ratios(measured, 'overlaps', 'in turn'))}", flush=True)
    world.end()


def run_both(rate: str, rounds: int) -> None:
    with cable():
        processes = []
        for rank, (host, end) in enumerate(zip(HOSTS, ("cable-a", "cable-b"), strict=True)):
            if rate != "none":
                limit = ["tc", "-n", host, "qdisc", "add", "dev", end, "root", "tbf", "rate", rate, "burst", "256kb", "latency", "400ms"]
                subprocess.run(limit, check=True)
            command = ["ip", "netns", "exec", host, sys.executable, "-m", "benchmarks.overlap", "--rank", str(rank)]
            command += ["--rates", rate, "--rounds", str(rounds)]
            environment = os.environ | {"GLOO_SOCKET_IFNAME": end, "OMP_NUM_THREADS": "1"}
            processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL))
        codes = [process.wait() for process in processes]
        if any(codes):
            raise SystemExit(f"{rate}: a process failed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rates", nargs="+", default=RATES)
    parser.add_argument("--rounds", type=number_of_rounds, default=11)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank is not None:
        measure(options.rank, options.rates[0], options.rounds)
        return
    print(f"torch {torch.__version__}, two processes, one thread each\n    rate shared  in turn overlaps   ratio (quartiles); ms per step")
    for rate in options.rates:
        run_both(rate, options.rounds)


if __name__ == "__main__":
    main()
