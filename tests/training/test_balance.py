"""Balance over steps: scopes over micro-batches, recomputed activations, padding, the bias update, and logits that are no numbers."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from moecli.errors import TrainingError
from moecli.model.config import GPTConfig
from moecli.model.init import build_gpt
from moecli.moe.balance_sums import balance_sums
from moecli.moe.balancing import BiasUpdateConfig
from moecli.moe.layers import DenseMoEConfig, SparseMoEConfig
from moecli.moe.load import max_violation
from moecli.moe.losses import cv_squared, router_z_loss, switch_balance_loss
from moecli.moe.routers import NoisyTopKConfig, SigmoidTopKConfig, TopKConfig, VMoETopKConfig
from moecli.training.config import TrainingConfig
from moecli.training.objective import training_losses
from tests.training.conftest import VOCAB
from tests.training.test_trainer import run, trainer_of

HEAVY = {"balance_loss": 0.5, "z_loss": 0.1, "clip_norm": None}
CASES = {
    "switch": (SparseMoEConfig(num_experts=4, d_expert=8, router=TopKConfig(top_k=1)), {}),
    "first choices": (SparseMoEConfig(num_experts=4, d_expert=8), {"balance_counts": "first"}),
    "unbiased": (SparseMoEConfig(num_experts=4, d_expert=8, router=SigmoidTopKConfig()), {"balance_counts": "unbiased"}),
    "importance of weights": (SparseMoEConfig(num_experts=4, d_expert=8), {"importance_loss": 0.5}),
    "importance of probs": (SparseMoEConfig(num_experts=4, d_expert=8), {"importance_loss": 0.5, "importance_of": "probs"}),
    "dense": (DenseMoEConfig(num_experts=4, d_expert=8), {"importance_loss": 0.5}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("num_parts", [2, 4])
def test_micro_batches_under_global_scope_are_one_big_batch(split, case, num_parts):
    ffn, options = CASES[case]
    whole = trainer_of(split, ffn, **HEAVY, **options, balance_scope="global-batch")
    parts = trainer_of(split, ffn, **HEAVY, **options, balance_scope="global-batch", gradient_accumulation=num_parts)
    one, several = whole.step(0).figures(), parts.step(0).figures()
    assert one.keys() == several.keys()
    for name, value in one.items():
        assert several[name] == pytest.approx(value, abs=1e-6), name
    for (name, first), second in zip(whole.model.named_parameters(), parts.model.parameters(), strict=True):
        assert first.grad.abs().max() > 0
        torch.testing.assert_close(second.grad, first.grad, rtol=0, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("case", CASES)
def test_the_scope_makes_a_difference_to_the_gradient(split, case):
    # So the test above can fail: judged by micro-batch, the same step has other gradients.
    ffn, options = CASES[case]
    trainers = [
        trainer_of(split, ffn, **HEAVY, **options, balance_scope=scope, gradient_accumulation=4)
        for scope in ("micro-batch", "global-batch")
    ]
    for trainer in trainers:
        trainer.step(0)
    grads = [torch.cat([parameter.grad.flatten() for parameter in trainer.model.parameters()]) for trainer in trainers]
    assert (grads[0] - grads[1]).abs().max() > 1e-5


def test_per_sequence_does_not_depend_on_how_a_step_is_cut(split):
    whole = trainer_of(split, **HEAVY, balance_scope="sequence")
    parts = trainer_of(split, **HEAVY, balance_scope="sequence", gradient_accumulation=4)
    assert whole.step(0).figures()["balance_loss"] == pytest.approx(parts.step(0).figures()["balance_loss"], abs=1e-6)
    for first, second in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(second.grad, first.grad, rtol=0, atol=1e-6)


@pytest.mark.parametrize("router", [NoisyTopKConfig(), VMoETopKConfig(), TopKConfig(input_jitter=0.5)], ids=lambda router: router.kind)
def test_the_pass_ahead_sees_the_draws_that_training_sees(split, router):
    load_loss = 0.5 if router.kind != "topk" else 0.0
    trainer = trainer_of(
        split, SparseMoEConfig(num_experts=4, d_expert=8, router=router), **HEAVY, load_loss=load_loss, importance_loss=0.5,
        balance_scope="global-batch", gradient_accumulation=2,
    )  # fmt: skip
    trainer.model.train()
    torch.manual_seed(3)
    ahead = trainer._sums_ahead(range(2))
    records = [trainer._run(index)[2] for index in range(2)]
    for layer, whole in enumerate(ahead):
        parts = [balance_sums(records[index][layer], counts="chosen", per_sequence=False) for index in range(2)]
        torch.testing.assert_close(whole.count_GE, parts[0].count_GE + parts[1].count_GE, rtol=0, atol=0)
        torch.testing.assert_close(whole.weight_GE, parts[0].weight_GE + parts[1].weight_GE)
        if load_loss:
            torch.testing.assert_close(whole.smooth_load_GE, parts[0].smooth_load_GE + parts[1].smooth_load_GE)


def test_recomputed_activations_count_once():
    ffn = SparseMoEConfig(num_experts=4, d_expert=8, router=NoisyTopKConfig())
    config = TrainingConfig(balance_loss=0.5, importance_loss=0.5, load_loss=0.5)
    ids_BS = torch.randint(VOCAB, (3, 10), generator=torch.Generator().manual_seed(0))
    results = []
    for recompute in (False, True):
        model = build_gpt(GPTConfig(d_model=16, num_layers=2, num_heads=2, ffn=ffn), VOCAB, seed=0).train()
        torch.nn.init.normal_(model.blocks[0].ffn.router.weight, generator=torch.Generator().manual_seed(1))
        if recompute:
            for block in model.blocks:
                forward = block.forward
                block.forward = lambda *args, forward=forward: checkpoint(forward, *args, use_reentrant=False)
        torch.manual_seed(7)
        logits_BSV, records = model(ids_BS)
        losses = training_losses(logits_BSV, ids_BS, records, config)
        losses.total.backward()
        results.append((losses, records, [parameter.grad for parameter in model.parameters()]))
    (plain, plain_records, plain_grads), (again, again_records, again_grads) = results
    assert plain.router.keys() == {"balance_loss", "importance_loss", "load_loss", "z_loss"}
    for name, loss in plain.router.items():
        assert torch.equal(loss, again.router[name])
    for first, second in zip(plain_records, again_records, strict=True):
        assert torch.equal(first.load_E, second.load_E) and first.load_E.sum() == 60
    for first, second in zip(plain_grads, again_grads, strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("per_sequence", [False, True])
def test_padding_counts_in_no_router_loss(per_sequence):
    # A batch with padding at the end has the losses of its real tokens alone: here both sequences have 6 of 9.
    ffn = SparseMoEConfig(num_experts=4, d_expert=8, router=SigmoidTopKConfig())
    model = build_gpt(GPTConfig(d_model=16, num_layers=1, num_heads=2, ffn=ffn, init_std=0.5), VOCAB, seed=0)
    ids_BS = torch.randint(VOCAB, (2, 9), generator=torch.Generator().manual_seed(0))
    is_padding_BS = torch.zeros(2, 9, dtype=torch.bool)
    is_padding_BS[:, 6:] = True
    _, (padded,) = model(ids_BS, is_padding_BS)
    _, (alone,) = model(ids_BS[:, :6])
    _, (counted,) = model(ids_BS)
    for counts in ("chosen", "first", "unbiased"):
        sums, expected, wrong = (balance_sums(record, counts=counts, per_sequence=per_sequence) for record in (padded, alone, counted))
        torch.testing.assert_close(sums.count_GE, expected.count_GE)
        torch.testing.assert_close(sums.prob_GE, expected.prob_GE)
        torch.testing.assert_close(
            switch_balance_loss(sums.count_GE, sums.prob_GE), switch_balance_loss(expected.count_GE, expected.prob_GE)
        )
        torch.testing.assert_close(cv_squared(sums.weight_GE), cv_squared(expected.weight_GE))
        assert not torch.allclose(sums.prob_GE, wrong.prob_GE)
    torch.testing.assert_close(router_z_loss(padded), router_z_loss(alone))
    assert not torch.allclose(router_z_loss(padded), router_z_loss(counted))


@pytest.mark.parametrize("router", [TopKConfig(top_k=1, selection_bias=True), SigmoidTopKConfig(top_k=1)], ids=lambda router: router.kind)
@pytest.mark.parametrize("rule", ["sign", "proportional"])
def test_the_bias_update_evens_a_collapsed_load(split, router, rule):
    # A bias of 1 beats every difference between probabilities or sigmoids: expert 0 begins with everything.
    ffn = SparseMoEConfig(num_experts=4, d_expert=8, router=router)
    options = {"balance_loss": 0.0, "z_loss": 0.0, "steps": 60, "learning_rate": 1e-9}
    update = BiasUpdateConfig(rule=rule, rate=0.02)
    balanced = trainer_of(split, ffn, **options, bias_update=update)
    alone = trainer_of(split, ffn, **options)
    for trainer in (balanced, alone):
        for block in trainer.model.blocks:
            torch.nn.init.normal_(block.ffn.router.weight, std=0.3, generator=torch.Generator().manual_seed(2))
            block.ffn.selection_bias_E[0] = 1.0
        run(trainer)
    evened, left = (max_violation(trainer.step(59).sums.chosen_load_LE) for trainer in (balanced, alone))
    assert left.tolist() == [3.0, 3.0]  # all on one of four experts
    assert evened.max() < 0.3
    for block in alone.model.blocks:
        assert block.ffn.selection_bias_E.tolist() == [1.0, 0.0, 0.0, 0.0]


def test_the_bias_moves_after_the_step_by_the_load_of_all_micro_batches(split):
    ffn = SparseMoEConfig(num_experts=4, d_expert=8, router=SigmoidTopKConfig())
    trainer = trainer_of(split, ffn, gradient_accumulation=4, bias_update=BiasUpdateConfig(rule="sign", rate=0.25))
    result = trainer.step(0)
    for block, load_E in zip(trainer.model.blocks, result.sums.chosen_load_LE, strict=True):
        # 8 sequences of 12 tokens, top-2 of 4 experts: the even share is 48.
        assert load_E.sum() == 8 * 12 * 2
        assert block.ffn.selection_bias_E.tolist() == [0.25 * ((load < 48) - (load > 48)) for load in load_E.tolist()]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("parameter", ["weight", "noise_weight"])
def test_a_router_that_computes_no_numbers_is_named_with_step_and_layer_and_nothing_is_saved(split, value, parameter):
    ffn = SparseMoEConfig(num_experts=4, d_expert=8, router=NoisyTopKConfig())
    trainer = trainer_of(split, ffn, steps=8, log_every=4, checkpoint_every=2)
    step = trainer.step

    def poisoned(number: int):
        if number == 2:
            with torch.no_grad():
                getattr(trainer.model.blocks[1].ffn.router, parameter)[0] = value
        return step(number)

    trainer.step = poisoned
    saved: list[int] = []
    with pytest.raises(
        TrainingError, match=r"router logits of layer 1 are not finite at step 3\n.*training\.learning_rate.*training\.z_loss"
    ):
        run_saving(trainer, saved)
    assert saved == [2]


def run_saving(trainer, saved: list[int]) -> None:
    from moecli.training.loop import Hooks, run_loop

    run_loop(trainer, 0, 0, Hooks(log=lambda line: None, validate=lambda step: None, save=saved.append, should_stop=lambda: False))
