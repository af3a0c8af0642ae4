"""A profile sees every operation of the steps, and its parts add up."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from torch.autograd import DeviceType

from moecli.data.batches import TrainBatches
from moecli.model.config import GPTConfig
from moecli.model.init import build_gpt
from moecli.moe.layers import SparseMoEConfig
from moecli.training.config import TrainingConfig
from moecli.training.profile import PROFILED_STEPS, Operation, operations_of, profile_steps
from moecli.training.trainer import Trainer
from tests.training.conftest import VOCAB


@pytest.fixture
def profile(split, tmp_path):
    config = TrainingConfig(steps=20, batch_size=4, device="cpu")
    model = build_gpt(GPTConfig(d_model=32, num_layers=2, num_heads=2, ffn=SparseMoEConfig(num_experts=4, d_expert=32)), VOCAB, 0)
    return profile_steps(Trainer(model, TrainBatches(split, 32, 4, 0), config), tmp_path / "trace.json")


def test_phases_and_operations_share_the_same_time(profile):
    assert set(profile.phases) == {"forward", "backward", "optimizer"}
    assert all(milliseconds > 0 for milliseconds in profile.phases.values())
    assert sum(profile.phases.values()) == pytest.approx(sum(operation.milliseconds for operation in profile.operations))
    assert sum(operation.share for operation in profile.operations) == pytest.approx(1)
    milliseconds = [operation.milliseconds for operation in profile.operations]
    assert milliseconds == sorted(milliseconds, reverse=True)


def test_counts_are_per_step(profile, tmp_path):
    calls = {operation.name: operation.calls for operation in profile.operations}
    assert calls["BlockedExperts"] == calls["BlockedExpertsBackward"] == 2  # one for each layer
    assert calls["aten::_fused_adamw_"] == 2  # with decay and without
    trace = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert sum(event.get("name") == "BlockedExperts" for event in trace) == 2 * PROFILED_STEPS


def test_the_profilers_own_words_are_kept_from_stderr(profile, capfd):
    assert capfd.readouterr().err == ""


def test_kernels_of_a_device_count_once():
    add = SimpleNamespace(key="aten::add", count=20, device_type=DeviceType.CPU, self_cpu_time_total=50.0, self_device_time_total=3000.0)
    idle = SimpleNamespace(key="aten::view", count=20, device_type=DeviceType.CPU, self_cpu_time_total=50.0, self_device_time_total=0.0)
    kernel = SimpleNamespace(
        key="add_kernel", count=20, device_type=DeviceType.CUDA, self_cpu_time_total=0.0, self_device_time_total=3000.0
    )
    assert operations_of([add, idle, kernel], is_cuda=True) == (Operation("aten::add", 2, 0.3, 1),)  # 3,000 us in 10 steps
    assert [operation.share for operation in operations_of([add, idle, kernel], is_cuda=False)] == [0.5, 0.5]
