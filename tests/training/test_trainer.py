"""Steps: accumulation, determinism, figures, resuming, and a golden curve."""

from __future__ import annotations

import pytest
import torch

from moecli.data.batches import TrainBatches
from moecli.errors import Interrupted, MachineError, RunError, TrainingError
from moecli.model.checkpoint import load_model, save_model
from moecli.model.config import GPTConfig
from moecli.model.init import build_gpt
from moecli.moe.layers import DenseMoEConfig, FeedForwardConfig, MLPConfig, SparseMoEConfig
from moecli.moe.routers import NoisyTopKConfig
from moecli.training.config import TrainingConfig
from moecli.training.loop import Hooks, run_loop
from moecli.training.schedule import CosineConfig
from moecli.training.state import load_state, training_state, write_state
from moecli.training.trainer import Trainer
from tests.training.conftest import VOCAB

SEQ_LEN = 12
SPARSE = SparseMoEConfig(num_experts=4, d_expert=16)
FFNS = {"mlp": MLPConfig(d_ff=32), "dense": DenseMoEConfig(num_experts=2, d_expert=16), "sparse": SPARSE}


def trainer_of(split, ffn: FeedForwardConfig = SPARSE, seed: int = 0, **options: object) -> Trainer:
    config = TrainingConfig.model_validate(
        {
            "steps": 8,
            "batch_size": 8,
            "learning_rate": 0.01,
            "schedule": CosineConfig(warmup_fraction=0.25),
            "log_every": 1,
            "device": "cpu",
        }
        | options
    )
    model = build_gpt(GPTConfig(d_model=16, num_layers=2, num_heads=2, ffn=ffn), VOCAB, seed)
    return Trainer(model, TrainBatches(split, SEQ_LEN, config.micro_batch_size, seed), config)


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def run(trainer: Trainer, first_step: int = 0, should_stop=lambda: False) -> tuple[list[dict], list[int]]:
    lines: list[dict] = []
    saved: list[int] = []
    run_loop(trainer, first_step, 0, Hooks(log=lines.append, validate=lambda step: None, save=saved.append, should_stop=should_stop))
    return lines, saved


@pytest.mark.parametrize("ffn", FFNS)
def test_two_trainings_are_bit_identical(split, ffn):
    first, second = trainer_of(split, FFNS[ffn]), trainer_of(split, FFNS[ffn])
    first_lines, second_lines = run(first)[0], run(second)[0]
    for ours, theirs in zip(first_lines, second_lines, strict=True):
        assert {k: v for k, v in ours.items() if k != "tokens_per_s"} == {k: v for k, v in theirs.items() if k != "tokens_per_s"}
    assert all(torch.equal(tensor, weights(second)[name]) for name, tensor in weights(first).items())


def test_another_seed_is_another_training(split):
    assert run(trainer_of(split, seed=0))[0][-1]["loss"] != run(trainer_of(split, seed=1))[0][-1]["loss"]


@pytest.mark.parametrize("ffn", FFNS)
def test_the_loss_falls_on_text_that_repeats(split, ffn):
    # 40 steps of 8 windows over 49 windows of random tokens: only memory can beat ln(32).
    lines, _ = run(trainer_of(split, FFNS[ffn], steps=40))
    assert lines[0]["loss"] == pytest.approx(torch.tensor(float(VOCAB)).log().item(), abs=0.1)
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.2


def test_golden_curve(split):
    # Recorded from this very test on an x86-64 CPU: a change that is not meant to change numbers must not move it.
    lines, _ = run(trainer_of(split, steps=4))
    assert [line["loss"] for line in lines] == pytest.approx(GOLDEN_LOSSES, abs=2e-5)


@pytest.mark.parametrize("ffn", ["mlp", "sparse"])
def test_micro_batches_equal_one_batch(split, ffn):
    # Without balance loss: its product of two means over tokens is not a mean over tokens (scope micro-batch).
    whole = trainer_of(split, FFNS[ffn], balance_loss=0.0)
    parts = trainer_of(split, FFNS[ffn], balance_loss=0.0, gradient_accumulation=4)
    for step in range(3):
        one, four = whole.step(step), parts.step(step)
        torch.testing.assert_close(four.sums.losses["loss"] / 4, one.sums.losses["loss"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(four.grad_norm, one.grad_norm, rtol=1e-4, atol=1e-6)
        if ffn == "sparse" and step == 0:
            assert torch.equal(four.sums.load_LE, one.sums.load_LE)
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], tensor, rtol=1e-3, atol=1e-4)


def test_clipping_limits_the_step_and_reports_the_norm_before(split):
    free, clipped = trainer_of(split, clip_norm=None), trainer_of(split, clip_norm=0.01)
    assert clipped.step(0).grad_norm.item() == free.step(0).grad_norm.item() > 0.01
    norm = torch.linalg.vector_norm(torch.stack([parameter.grad.norm() for parameter in clipped.model.parameters()]))
    assert norm.item() == pytest.approx(0.01, rel=1e-3)


def test_figures_of_a_step_are_those_of_its_load(split):
    result = trainer_of(split).step(0)
    figures = result.figures()
    # 8 sequences of 12 tokens, top-2, in each of 2 layers.
    assert result.sums.load_LE.sum(dim=1).tolist() == [8 * 12 * 2] * 2
    counts = result.sums.load_LE.double()
    expected = (counts.std(dim=1, correction=0) / counts.mean(dim=1)).mean().item()
    assert figures["load_cv"] == pytest.approx(expected)
    assert figures["dropped_fraction"] == 0
    assert set(trainer_of(split, MLPConfig(d_ff=32)).step(0).figures()) == {"loss", "grad_norm", "learning_rate"}


@pytest.mark.parametrize("ffn", FFNS)
def test_stopping_half_way_and_resuming_gives_the_same_weights_bit_for_bit(split, ffn, tmp_path):
    undisturbed = trainer_of(split, FFNS[ffn])
    lines, saved = run(undisturbed)
    assert saved == [8]

    stopped = trainer_of(split, FFNS[ffn])
    answers = iter([False] * 3 + [True])

    def save(step: int) -> None:
        save_model(stopped.model, tmp_path)
        write_state(training_state(stopped, step), tmp_path)

    hooks = Hooks(log=lambda line: None, validate=lambda step: None, save=save, should_stop=lambda: next(answers))
    with pytest.raises(Interrupted, match="after step 3 of 8"):
        run_loop(stopped, 0, 0, hooks)

    resumed = Trainer(load_model(tmp_path), TrainBatches(split, SEQ_LEN, 8, 0), stopped.config)
    assert load_state(resumed, tmp_path) == 3
    resumed_lines, _ = run(resumed, first_step=3)
    assert [line["loss"] for line in resumed_lines] == [line["loss"] for line in lines[3:]]
    assert all(torch.equal(tensor, weights(undisturbed)[name]) for name, tensor in weights(resumed).items())


def test_the_state_of_the_random_generator_comes_back(split, tmp_path):
    trainer = trainer_of(split)
    trainer.step(0)
    write_state(training_state(trainer, 1), tmp_path)
    expected = torch.rand(3)
    torch.manual_seed(123)
    load_state(trainer, tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_a_damaged_state_is_named(split, tmp_path):
    trainer = trainer_of(split)
    trainer.step(0)
    write_state(training_state(trainer, 1), tmp_path)
    path = tmp_path / "training_state.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match=r"training_state\.safetensors: damaged"):
        load_state(trainer, tmp_path)


def test_a_loss_that_is_no_number_stops_the_training(split):
    with pytest.raises(TrainingError, match="learning_rate"):
        run(trainer_of(split, steps=50, learning_rate=1e6, clip_norm=None))


def test_checkpoints_come_at_intervals_and_at_the_end(split):
    assert run(trainer_of(split, checkpoint_every=3))[1] == [3, 6, 8]
    assert run(trainer_of(split, checkpoint_every=0))[1] == [8]


RANDOM = SparseMoEConfig(num_experts=4, d_expert=16, router=NoisyTopKConfig(top_k=2))


@pytest.mark.parametrize("ffn", [*FFNS.values(), RANDOM], ids=[*FFNS, "noisy"])
@pytest.mark.parametrize("options", [{}, {"gradient_accumulation": 2, "balance_scope": "global-batch"}], ids=["plain", "accumulated"])
def test_recomputing_activations_changes_no_bit(split, ffn, options):
    kept, recomputed = (trainer_of(split, ffn, recompute_activations=recompute, **options) for recompute in (False, True))
    passes = []
    recomputed.model.blocks[0].register_forward_pre_hook(lambda *args: passes.append(torch.is_grad_enabled()))

    def lines_of(trainer: Trainer) -> list[dict]:
        torch.manual_seed(0)  # of the noise
        return run(trainer)[0]

    lines, lines_recomputed = lines_of(kept), lines_of(recomputed)
    assert [line["loss"] for line in lines] == [line["loss"] for line in lines_recomputed]
    for name, weight in weights(kept).items():
        assert torch.equal(weight, weights(recomputed)[name]), name
    # Each micro-batch goes through the blocks with gradient and once more in backward.
    assert sum(passes) == 2 * recomputed.config.steps * recomputed.config.gradient_accumulation


def test_bfloat16_trains(split):
    lines, _ = run(trainer_of(split, steps=20, precision="bfloat16"))
    exact, _ = run(trainer_of(split, steps=20))
    assert lines[-1]["loss"] != exact[-1]["loss"]
    assert lines[-1]["loss"] == pytest.approx(exact[-1]["loss"], abs=0.1)


GOLDEN_LOSSES = [3.4668381, 3.4603302, 3.4913061, 3.4807177]


def test_a_machine_that_cannot_compile_is_told(split, monkeypatch):
    from torch._dynamo.exc import TorchDynamoException

    def fails(model: torch.nn.Module) -> object:
        def call(ids_BS: torch.Tensor) -> None:
            raise TorchDynamoException("no working C++ compiler\nand a long story")

        return call

    monkeypatch.setattr(torch, "compile", fails)
    with pytest.raises(MachineError, match=r"training\.compile: torch\.compile fails here: no working C\+\+ compiler\n.*next: install"):
        trainer_of(split, compile=True).step(0)


@pytest.mark.slow
def test_compiled_training_is_the_same_training(split):
    plain, compiled = run(trainer_of(split))[0], run(trainer_of(split, compile=True))[0]
    assert [line["loss"] for line in compiled] == pytest.approx([line["loss"] for line in plain], abs=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_on_cuda_waits_for_nothing(split):
    on_cpu = trainer_of(split, device="cuda", precision="bfloat16")
    trainer = Trainer(on_cpu.model.cuda(), on_cpu.batches, on_cpu.config)
    trainer.step(0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.step(1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
