"""Which distribution is behind weights, by hand; and modules that don't do what transformers' experts do."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from moecli.analysis.hf_routing import distribution_behind, has_experts, routed_layers, routing_record, watching
from moecli.errors import RunError

IDS_BS = torch.zeros(1, 4, dtype=torch.int64)


class Experts(nn.Module):
    """What transformers' experts have in common, and nothing else."""

    def __init__(self, num_experts: int = 3) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.down_proj = nn.Parameter(torch.ones(num_experts, 2, 2))

    def _apply_gate(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x_TD: Tensor, expert_ids_TK: Tensor, weights_TK: Tensor) -> Tensor:
        return x_TD


class Layers(nn.Module):
    """Hands the same choices to its experts, layer by layer, each as many times as asked."""

    def __init__(self, *layers: nn.Module, times: int = 1) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.times = times

    def forward(self, expert_ids_TK: Tensor, weights_TK: Tensor) -> None:
        for layer in self.layers:
            for _ in range(self.times):
                layer(torch.zeros(len(expert_ids_TK), 2), expert_ids_TK, weights_TK)


def record_of(model: Layers, expert_ids: list[list[int]], weights: list[list[float]]):
    layers = routed_layers(model)
    with watching(layers) as seen:
        model(torch.tensor(expert_ids), torch.tensor(weights))
    return routing_record(0, layers[0].experts, seen[0], IDS_BS)


# Softmax (1/6, 2/6, 3/6); sigmoids 1/2, 2/3, 3/4, which add up to 23/12.
LOGITS_TE = torch.tensor([[1.0, 2.0, 3.0]]).log()
SOFTMAX = [1 / 6, 2 / 6, 3 / 6]
SIGMOID = [6 / 23, 8 / 23, 9 / 23]


@pytest.mark.parametrize(
    ("expert_ids", "weights", "expected"),
    [
        ([2, 1], [3 / 6, 2 / 6], SOFTMAX),  # as they are: OLMoE
        ([2, 1], [3 / 5, 2 / 5], SOFTMAX),  # divided by their sum: Mixtral
        ([2, 0], [3 / 4 * 2.5, 1 / 4 * 2.5], SOFTMAX),  # scaled
        ([2, 1], [9 / 17, 8 / 17], SIGMOID),  # divided by their sum: DeepSeek-V3
        ([1, 0], [2 / 3, 1 / 2], SIGMOID),  # as they are
        ([2, 1], [0.5, 0.5], None),
        ([2, 1], [2 / 5, 3 / 5], None),  # the other way round
        ([2, 1], [0.0, 0.0], None),
        ([2], [3 / 6], SOFTMAX),
        ([2], [3 / 4], SIGMOID),
        ([2], [1.0], None),  # divided by itself: no score is left in it
    ],
)
def test_distribution_by_hand(expert_ids, weights, expected):
    found_TE = distribution_behind(LOGITS_TE, torch.tensor([expert_ids]), torch.tensor([weights]))
    if expected is None:
        assert found_TE is None
    else:
        assert found_TE[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("score", [torch.softmax, lambda logits, dim: logits.sigmoid()], ids=["softmax", "sigmoid"])
def test_distribution_is_told_from_rounded_weights(dtype, score):
    logits_TE = torch.randn(200, 16, generator=torch.Generator().manual_seed(0)).mul(3).to(dtype)
    scores_TE = score(logits_TE.float(), dim=1)
    weights_TK, expert_ids_TK = scores_TE.topk(4)
    found_TE = distribution_behind(logits_TE, expert_ids_TK, weights_TK.to(dtype))
    torch.testing.assert_close(found_TE, scores_TE / scores_TE.sum(dim=1, keepdim=True))


def test_the_nearer_of_two_is_taken():
    # Softmax 0.515 and 0.485, sigmoids in proportion 0.5075 to 0.4925: rounded to bfloat16, both are near enough to be behind the weights.
    logits_TE = torch.tensor([[0.06, 0.0]])
    for scores_TE in (logits_TE.softmax(dim=1), logits_TE.sigmoid() / logits_TE.sigmoid().sum()):
        found_TE = distribution_behind(logits_TE, torch.tensor([[0, 1]]), scores_TE.bfloat16())
        torch.testing.assert_close(found_TE, scores_TE)


def test_one_token_that_does_not_fit_is_enough():
    logits_TE = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    weights_TK, expert_ids_TK = logits_TE.softmax(dim=1).topk(2)
    assert distribution_behind(logits_TE, expert_ids_TK, weights_TK) is not None
    weights_TK[17, 0] *= 1.01
    assert distribution_behind(logits_TE, expert_ids_TK, weights_TK) is None


def test_choices_are_ordered_by_weight_and_those_without_weight_left_out():
    # Token 2 passes over the experts with one of its choices, and token 3 with both.
    record = record_of(Layers(Experts()), [[0, 2], [1, 0], [2, 0], [0, 0]], [[0.1, 0.9], [0.6, 0.4], [0.0, 1.0], [0.0, 0.0]])
    routing = record.routing
    assert routing.token_ids_A.tolist() == [0, 0, 1, 1, 2]
    assert routing.expert_ids_A.tolist() == [2, 0, 1, 0, 0]
    assert routing.weights_A.tolist() == pytest.approx([0.9, 0.1, 0.6, 0.4, 1.0])
    assert routing.choices_A.tolist() == [0, 1, 0, 1, 0]
    assert record.load_E.tolist() == [3, 1, 1]
    # It has no router that declares its logits.
    assert routing.probs_TE.shape == (4, 3) and routing.probs_TE.isnan().all()


def test_experts_that_do_not_run_once_over_all_tokens_are_refused():
    choices = [[0], [1], [2], [0]], [[1.0], [1.0], [1.0], [1.0]]
    with pytest.raises(RunError, match="experts of layer 0 ran 2 times in one pass"):
        record_of(Layers(Experts(), times=2), *choices)
    with pytest.raises(RunError, match="experts of layer 0 ran 0 times in one pass"):
        record_of(Layers(Experts(), times=0), *choices)
    with pytest.raises(RunError, match=r"no choices of 4 tokens, but tensors of shapes \[\(2, 1\), \(2, 1\)\]"):
        record_of(Layers(Experts()), [[0], [1]], [[1.0], [1.0]])
    with pytest.raises(RunError, match="no choices of 4 tokens"):
        record_of(Layers(Experts()), [[0], [1], [2], [0]], [[math.inf, 1.0]] * 4)


def test_experts_that_can_not_be_told_apart_are_refused():
    with pytest.raises(RunError, match=r"layer 1 has more than one group of experts \(layers.1.1 is the second\)"):
        routed_layers(Layers(Experts(), nn.Sequential(Experts(), Experts())))
    model = nn.Module()
    model.experts = Experts()
    with pytest.raises(RunError, match="which layer the experts experts belong to"):
        routed_layers(model)


def test_experts_that_are_not_stacked_are_not_read_but_seen():
    experts = Experts()
    experts.num_experts = 4
    model = Layers(experts)
    assert routed_layers(model) == {} and has_experts(model)
    assert not has_experts(nn.Sequential(nn.Linear(2, 2)))
