"""Frozen parts stay bit for bit what they were, all others move, and a resumed training is the same training."""

from __future__ import annotations

import pytest
import torch

from moecli.data.batches import TrainBatches
from moecli.errors import RecipeError
from moecli.model.checkpoint import load_model, save_model
from moecli.model.config import GPTConfig
from moecli.model.init import build_gpt
from moecli.moe.balancing import BiasUpdateConfig
from moecli.moe.layers import DenseMoEConfig, FeedForwardConfig, MLPConfig, SoftMoEConfig, SparseMoEConfig
from moecli.moe.routers import SigmoidTopKConfig
from moecli.recipe.load import parse_recipe
from moecli.training.config import TrainingConfig
from moecli.training.state import load_state, save_first_state, training_state, write_state
from moecli.training.trainer import Trainer
from tests.training.conftest import VOCAB

SPARSE = SparseMoEConfig(num_experts=4, d_expert=16, num_shared_experts=1, d_shared_expert=16, shared_gate=True, router=SigmoidTopKConfig())
FFNS = {
    "sparse": (SPARSE, ("router.", "shared_gate."), ("experts.", "shared.")),
    "dense": (DenseMoEConfig(num_experts=2, d_expert=16), ("gate_weight",), ("experts.",)),
    "soft": (SoftMoEConfig(num_experts=2, d_expert=16, mixing="batch"), ("mixer.",), ("experts.",)),
}
BIAS = "router.selection_bias_E"


def trainer_of(split, ffn: FeedForwardConfig, freeze: list[str], model=None) -> Trainer:
    bias_update = BiasUpdateConfig(rate=0.01) if ffn.has_selection_bias else None
    config = TrainingConfig(steps=6, batch_size=4, learning_rate=0.01, device="cpu", freeze=freeze, bias_update=bias_update)
    if model is None:
        model = build_gpt(GPTConfig(d_model=16, num_layers=2, num_heads=2, ffn=ffn), VOCAB, seed=0)
    return Trainer(model, TrainBatches(split, 12, 4, seed=0), config)


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


@pytest.mark.parametrize("freeze", [[], ["experts"], ["router"], ["all-but-router"], ["experts", "router"], ["experts", "all-but-router"]])
@pytest.mark.parametrize("kind", FFNS)
def test_frozen_parts_stay_and_all_others_move(split, kind, freeze):
    ffn, router_parts, expert_parts = FFNS[kind]
    trainer = trainer_of(split, ffn, freeze)
    before = weights(trainer)
    for step in range(4):
        trainer.step(step)
    for name, tensor in weights(trainer).items():
        inside = name.split("ffn.")[-1] if ".ffn." in name else ""
        is_router, is_expert = inside.startswith(router_parts), inside.startswith(expert_parts)
        is_frozen = (
            ("experts" in freeze and is_expert) or ("router" in freeze and is_router) or ("all-but-router" in freeze and not is_router)
        )
        assert torch.equal(tensor, before[name]) == is_frozen, name


def test_the_selection_bias_belongs_to_the_router(split):
    moved, frozen = trainer_of(split, SPARSE, ["all-but-router"]), trainer_of(split, SPARSE, ["router"])
    for trainer in (moved, frozen):
        trainer.step(0)
    biases = [name for name in weights(moved) if name.endswith(BIAS)]
    assert len(biases) == 2
    for name in biases:
        assert weights(moved)[name].abs().max() > 0
        assert weights(frozen)[name].abs().max() == 0


def test_the_norm_of_the_gradient_is_of_what_is_trained(split):
    whole, part = trainer_of(split, SPARSE, []), trainer_of(split, SPARSE, ["all-but-router"])
    whole.step(0)
    norm = part.step(0).grad_norm
    # The first step's gradients are the same, those of routers alone count (before clipping, whose factor `whole` has applied).
    routers = [parameter.grad for name, parameter in whole.model.named_parameters() if "router" in name or "shared_gate" in name]
    everything = [parameter.grad for parameter in whole.model.parameters()]
    ratio = torch.linalg.vector_norm(torch.stack([grad.norm() for grad in routers])) / torch.linalg.vector_norm(
        torch.stack([grad.norm() for grad in everything])
    )
    fresh = trainer_of(split, SPARSE, [])
    torch.testing.assert_close(norm, fresh.step(0).grad_norm * ratio, rtol=1e-4, atol=0)
    assert all(parameter.grad is None for name, parameter in part.model.named_parameters() if "experts" in name)


@pytest.mark.parametrize("freeze", [["experts"], ["all-but-router"]])
def test_a_resumed_training_is_the_same_bit_for_bit(split, freeze, tmp_path):
    undisturbed = trainer_of(split, SPARSE, freeze)
    for step in range(6):
        undisturbed.step(step)
    stopped = trainer_of(split, SPARSE, freeze)
    for step in range(3):
        stopped.step(step)
    save_model(stopped.model, tmp_path)
    write_state(training_state(stopped, 3), tmp_path)
    resumed = trainer_of(split, SPARSE, freeze, load_model(tmp_path))
    assert load_state(resumed, tmp_path) == 3
    for step in range(3, 6):
        resumed.step(step)
    assert all(torch.equal(tensor, weights(undisturbed)[name]) for name, tensor in weights(resumed).items())


def test_what_was_frozen_before_moves_again_in_a_training_that_does_not_say_so(split):
    first = trainer_of(split, SPARSE, ["experts"])
    first.step(0)
    second = trainer_of(split, SPARSE, [], first.model)
    before = weights(second)
    second.step(0)
    assert not torch.equal(weights(second)["blocks.0.ffn.experts.in_proj"], before["blocks.0.ffn.experts.in_proj"])


def test_the_first_state_is_that_of_a_training_that_has_not_begun(split, tmp_path):
    trainer = trainer_of(split, SPARSE, [])
    save_first_state(7, tmp_path, {})
    assert load_state(trainer, tmp_path) == 0
    drawn = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(3), drawn)


@pytest.mark.parametrize(
    ("ffn", "freeze", "reason"),
    [
        ("{kind: mlp}", "[experts]", "there are no experts to freeze"),
        ("{kind: mlp}", "[router]", "no router with weights"),
        ("{kind: sparse, router: {kind: hash}}", "[all-but-router]", "no router with weights"),
        ("{kind: sparse}", "[router, all-but-router]", "leaves nothing to train"),
        ("{kind: sparse}", "[expert]", "one of experts, router, all-but-router"),
        ("{kind: sparse}", "experts", "list"),
    ],
)
def test_a_recipe_that_freezes_what_is_not_there_is_refused(ffn, freeze, reason):
    with pytest.raises(RecipeError) as refused:
        parse_recipe(f"model: {{ffn: {ffn}}}\ntraining: {{freeze: {freeze}}}", "r.yaml")
    assert "training.freeze" in str(refused.value) and reason in str(refused.value)


@pytest.mark.parametrize("ffn", ["{kind: sparse, router: {kind: hash}, num_shared_experts: 1, shared_gate: true}", "{kind: dense}"])
def test_a_gate_alone_can_be_trained(ffn):
    recipe = parse_recipe(f"model: {{ffn: {ffn}}}\ntraining: {{freeze: [all-but-router]}}", "r.yaml").recipe
    assert recipe.training.freeze == ["all-but-router"]


def test_mlp_layers_beside_experts_are_not_experts(split):
    config = GPTConfig(d_model=16, num_layers=2, num_heads=2, ffn=SPARSE, moe_layers={"indices": [1]}, dense_d_ff=16)
    trainer = trainer_of(split, SPARSE, ["experts"], build_gpt(config, VOCAB, seed=0))
    assert isinstance(config.ffn_of_layer(0), MLPConfig)
    assert trainer.model.blocks[0].ffn.in_proj.weight.requires_grad
