"""Switching experts off: against removing them by hand, and the model is left as it was."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from moecli.data.batches import Batch
from moecli.evaluation.ablation import ablate
from moecli.model.config import GPTConfig, MoELayersConfig
from moecli.model.gpt import GPT
from moecli.model.init import build_gpt
from moecli.moe.layers import DenseMoEConfig, FeedForwardConfig, SoftMoEConfig, SparseMoEConfig
from moecli.moe.routers import TopKConfig

END = 10
SPARSE = SparseMoEConfig(num_experts=3, d_expert=8, router=TopKConfig(top_k=2))


def model_of(ffn: FeedForwardConfig, causal: bool = True) -> GPT:
    config = GPTConfig(d_model=8, num_layers=2, num_heads=2, ffn=ffn, moe_layers=MoELayersConfig(indices=[1]), causal=causal, init_std=0.3)
    return build_gpt(config, 11, seed=0).eval()


def batches_of(count: int = 2) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(count):
        ids = torch.randint(11, (3, 7), generator=generator)
        batches.append(Batch(ids[:, :-1], ids[:, 1:], {}))
    return batches


def mean_loss(model: GPT, batches: list[Batch]) -> float:
    nats = sum(F.cross_entropy(model(b.ids_BS)[0].flatten(0, 1), b.targets_BS.flatten(), reduction="sum").item() for b in batches)
    return nats / sum(batch.targets_BS.numel() for batch in batches)


@pytest.mark.parametrize(
    "ffn",
    [SPARSE, DenseMoEConfig(num_experts=3, d_expert=8), SoftMoEConfig(num_experts=3, d_expert=8, mixing="batch", group_size=3)],
    ids=["sparse", "dense", "soft"],
)
def test_the_cost_is_that_of_a_model_whose_expert_gives_zeros(ffn):
    model, batches = model_of(ffn), batches_of()
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        found = ablate(model, batches, "float32", END)
        assert found.tokens == 36 and found.loss == pytest.approx(mean_loss(model, batches), abs=1e-6)
        (layer,) = found.layers
        assert layer.layer == 1
        for expert, increase in enumerate(layer.loss_increase):
            maimed = copy.deepcopy(model)
            maimed.feed_forwards()[1].experts.out_proj[expert] = 0
            assert increase == pytest.approx(mean_loss(maimed, batches) - found.loss, abs=1e-6)
            assert abs(increase) > 1e-4
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_an_expert_without_tokens_costs_nothing_and_is_not_run():
    config = SparseMoEConfig(num_experts=3, d_expert=8, router=TopKConfig(top_k=1, selection_bias=True, normalize_weights=False))
    model = model_of(config)
    bias_E = model.feed_forwards()[1].selection_bias_E
    assert bias_E is not None
    bias_E.copy_(torch.tensor([0.0, 0.0, -10.0]))
    told: list[tuple[int, int]] = []
    (layer,) = ablate(model, batches_of(1), "float32", END, lambda done, total: told.append((done, total))).layers
    assert (layer.loss_increase[2], layer.standard_error[2]) == (0, 0)
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_the_standard_error_is_that_of_documents():
    model = model_of(SPARSE)
    # Two batches of two windows. Documents: [10 1 2 | 3], [10 4 | 10 5 6 7] of the first, and [8 9 1 2 | 3], [10 4 5] of the second.
    rows = [[[10, 1, 2, 3], [10, 4, 10, 5]], [[8, 9, 1, 2], [3, 10, 4, 5]]]
    batches = [Batch(torch.tensor(ids), torch.tensor(ids).roll(-1), {}) for ids in rows]
    documents = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 3, 3, 4, 4, 4])
    with torch.no_grad():
        (layer,) = ablate(model, batches, "float32", END).layers
        maimed = copy.deepcopy(model)
        maimed.feed_forwards()[1].experts.out_proj[0] = 0

        def nats(of: GPT) -> torch.Tensor:
            losses = [F.cross_entropy(of(b.ids_BS)[0].flatten(0, 1), b.targets_BS.flatten(), reduction="none") for b in batches]
            return torch.cat(losses).double()

        increase_N = nats(maimed) - nats(model)
    mean = increase_N.mean().item()
    residuals = [(increase_N[documents == number] - mean).sum().item() for number in range(5)]
    # Of a ratio of sums over 5 documents: sqrt(5/4 sum r^2) / 16.
    expected = math.sqrt(5 / 4 * sum(residual**2 for residual in residuals)) / 16
    assert layer.loss_increase[0] == pytest.approx(mean, abs=1e-6)
    assert layer.standard_error[0] == pytest.approx(expected, rel=1e-3)


def test_one_document_has_no_standard_error():
    ids = torch.arange(7)[None]
    (layer,) = ablate(model_of(SPARSE), [Batch(ids[:, :-1], ids[:, 1:], {})], "float32", END).layers
    assert any(math.isnan(error) for error in layer.standard_error)


def test_a_failure_inside_leaves_the_weights_as_they_were():
    model, batches = model_of(SPARSE), batches_of(1)
    before = copy.deepcopy(model.state_dict())

    def fail(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ablate(model, batches, "float32", END, fail)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
