"""Peak memory against a tensor of known size, against torch's own count, and against what is planned."""

from __future__ import annotations

import json

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from moecli.data.batches import TrainBatches
from moecli.model.accounting import training_memory
from moecli.model.config import GPTConfig
from moecli.model.init import build_gpt
from moecli.moe.layers import DenseMoEConfig, FeedForwardConfig, MLPConfig, SoftMoEConfig, SparseMoEConfig
from moecli.training.config import TrainingConfig
from moecli.training.peak_memory import LiveTensors, peak_training_memory
from moecli.training.trainer import Trainer
from tests.training.conftest import VOCAB

CPU = torch.device("cpu")
FFNS = {
    "mlp": MLPConfig(d_ff=64),
    "sparse": SparseMoEConfig(num_experts=4, d_expert=32),
    "dense": DenseMoEConfig(num_experts=4, d_expert=32),
    "soft": SoftMoEConfig(num_experts=4, d_expert=32, mixing="batch"),
}


def builder(split, ffn: FeedForwardConfig, batch_size: int = 8, num_layers: int = 2, **training):
    def build() -> Trainer:
        config = TrainingConfig(steps=4, batch_size=batch_size, device="cpu", **training)
        model = build_gpt(GPTConfig(d_model=32, num_layers=num_layers, num_heads=2, ffn=ffn), VOCAB, 0)
        return Trainer(model, TrainBatches(split, 32, batch_size, 0), config)

    return build


def test_tensors_are_counted_while_they_live():
    with LiveTensors() as tensors:
        first = torch.zeros(1000)  # 4,000 bytes
        view = first[10:20].view(2, 5)  # the same storage
        second = first + 1  # 4,000 more: 8,000 are alive
        del first, second
        assert tensors.peak_bytes == 8000
        third = torch.zeros(500)  # the view keeps the first 4,000: 6,000
        assert tensors.peak_bytes == 8000
        fourth = torch.zeros(1000)  # 10,000
    assert tensors.peak_bytes == 10_000
    del view, third, fourth


@pytest.mark.parametrize("ffn", FFNS)
def test_agrees_with_torchs_own_count(split, ffn, tmp_path):
    build = builder(split, FFNS[ffn])
    build()  # what is made once and kept is made now
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        trainer = build()
        for step in range(2):
            trainer.step(step)
    del trainer
    profiler.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    changes = [(event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]"]
    alive = peak = 0
    for _, change in sorted(changes, key=lambda pair: pair[0]):
        alive += change
        peak = max(peak, alive)
    # Kernels have room of their own that no operation returns, and small tensors are rounded.
    assert peak_training_memory(build, CPU) == pytest.approx(peak, rel=0.02)


@pytest.mark.parametrize("ffn", FFNS)
def test_is_what_is_planned_and_a_little_more(split, ffn):
    config = builder(split, FFNS[ffn])().model.config
    planned = training_memory(config, VOCAB, 32, 8).total
    measured = peak_training_memory(builder(split, FFNS[ffn]), CPU)
    # Beside what autograd keeps there are the logits, their gradient and the tensors of the block that backward is in, one of 2 here.
    assert 0.95 * planned < measured < 1.6 * planned


@pytest.mark.parametrize("ffn", FFNS)
def test_recomputed_activations_are_those_of_one_block(split, ffn):
    build = builder(split, FFNS[ffn], num_layers=6, recompute_activations=True)
    planned = training_memory(build().model.config, VOCAB, 32, 8, recompute_activations=True).total
    measured = peak_training_memory(build, CPU)
    assert 0.95 * planned < measured < 1.6 * planned
    kept = peak_training_memory(builder(split, FFNS[ffn], num_layers=6), CPU)
    states = 16 * sum(parameter.numel() for parameter in build().model.parameters())
    assert measured - states < 0.5 * (kept - states)


def test_activations_grow_with_the_batch_and_weights_do_not(split):
    one, two, three = (peak_training_memory(builder(split, FFNS["mlp"], size), CPU) for size in (4, 8, 12))
    assert three - two == pytest.approx(two - one, rel=0.02)
    assert one < two < 2 * one


def test_random_generators_are_left_as_they_were(split):
    def noisy() -> Trainer:
        torch.manual_seed(7)
        return builder(split, SparseMoEConfig(num_experts=4, d_expert=32))()

    torch.manual_seed(123)
    before = torch.get_rng_state()
    peak_training_memory(noisy, CPU)
    assert torch.equal(torch.get_rng_state(), before)
