"""A load report by hand, and independent of how the text is cut into batches."""

from __future__ import annotations

import json
import math

import pytest
import torch

from moecli.analysis.load_report import LoadCollector
from moecli.moe.capacity import CapacityConfig
from moecli.moe.dispatch import dispatch_dropless, dispatch_with_capacity
from moecli.moe.routers import TopKConfig
from moecli.moe.routers.base import token_choice
from moecli.moe.routers.topk import TopKRouter


def record_of(probs_TE: torch.Tensor, expert_ids: list[int]):
    expert_ids_TK = torch.tensor(expert_ids).view(len(probs_TE), -1)
    routing = token_choice(probs_TE.log(), probs_TE, expert_ids_TK, torch.ones(expert_ids_TK.shape), seq_len=len(probs_TE))
    return dispatch_dropless(routing)[1]


def test_report_by_hand():
    # Two batches of one layer that routes (layer 1), top-1 over 2 experts: experts 0, 0, 1 and then 0.
    # load (3, 1): shares 3/4 and 1/4, CV = 1/2, MaxVio 1/2. Probabilities sum to (2.4, 1.6): shares 0.6 and 0.4, CV = 0.2.
    collector = LoadCollector()
    collector.add([None, record_of(torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.4, 0.6]]), [0, 0, 1])])
    collector.add([None, record_of(torch.tensor([[0.6, 0.4]]), [0])])
    report = collector.report()
    assert report.tokens == 4
    (layer,) = report.layers
    assert (layer.layer, layer.num_experts, layer.top_k, layer.dead_experts) == (1, 2, 1.0, 0)
    assert layer.load == pytest.approx([0.75, 0.25])
    assert layer.importance == pytest.approx([0.6, 0.4])
    assert layer.cv_load == pytest.approx(0.5)
    assert layer.cv_importance == pytest.approx(0.2)
    assert layer.max_violation == pytest.approx(0.5)
    assert layer.entropy == pytest.approx(math.log(4) - 0.75 * math.log(3))
    assert layer.effective_experts == pytest.approx(math.exp(layer.entropy))
    assert layer.dropped_fraction == 0
    # MaxVio of the batches: loads (2, 1), so 2 / 1.5 - 1 = 1/3; then (1, 0), so 1. Weighted by 3 and 1 assignments: (1 + 1) / 4.
    assert layer.max_violation_batch == pytest.approx(0.5)
    # Largest probabilities 0.9, 0.5, 0.6, 0.6; less the others 0.1, 0.5, 0.4, 0.4.
    assert layer.confidence == pytest.approx(0.65)
    assert layer.margin == pytest.approx(0.3)


def test_drops_by_part_of_the_sequence_by_hand():
    # One sequence of 32 tokens, so 16 parts of 2; top-1, all on expert 0 of 2, which has room for 1.0 * 32 / 2 = 16: the second half drops.
    probs_TE = torch.tensor([[0.9, 0.1]]).expand(32, 2)
    routing = token_choice(probs_TE.log(), probs_TE, torch.zeros(32, 1, dtype=torch.int64), torch.ones(32, 1), seq_len=32)
    collector = LoadCollector()
    collector.add([dispatch_with_capacity(routing, CapacityConfig(), 1.0)[1]])
    report = collector.report()
    assert report.position_starts == list(range(0, 32, 2))
    assert report.layers[0].dropped_by_position == [0.0] * 8 + [1.0] * 8
    assert report.layers[0].dropped_fraction == 0.5


def test_what_a_model_does_not_tell_is_none_not_a_number():
    nan_TE = torch.full((3, 2), float("nan"))
    routing = token_choice(nan_TE, nan_TE, torch.tensor([[0], [0], [1]]), torch.ones(3, 1), seq_len=3)
    collector = LoadCollector()
    collector.add([dispatch_dropless(routing)[1]])
    (layer,) = collector.report().layers
    assert layer.load == pytest.approx([2 / 3, 1 / 3])
    assert (layer.importance, layer.cv_importance, layer.confidence, layer.margin) == (None, None, None, None)
    assert collector.report().mean()["confidence"] is None


def test_batches_cut_another_way_give_the_same_report():
    torch.manual_seed(0)
    router = TopKRouter(TopKConfig(), d_model=4, num_experts=5)
    torch.nn.init.normal_(router.weight)
    x_BSD = torch.randn(6, 3, 4)
    whole, parts = LoadCollector(), LoadCollector()
    whole.add([dispatch_dropless(router(x_BSD))[1]])
    for start in (0, 1, 4):
        parts.add([dispatch_dropless(router(x_BSD[start : {0: 1, 1: 4, 4: 6}[start]]))[1]])
    one, three = whole.report(), parts.report()
    assert one.layers[0].load == three.layers[0].load
    assert one.layers[0].importance == pytest.approx(three.layers[0].importance)


def test_a_model_without_routing_has_an_empty_report():
    collector = LoadCollector()
    collector.add([None, None])
    assert collector.report().to_json() == {"tokens": 0, "layers": [], "mean": {}, "position_starts": []}


def test_mean_is_over_layers_and_dead_experts_are_added_up():
    collector = LoadCollector()
    even = torch.full((200, 2), 0.5)
    collector.add([record_of(even, [0] * 200), record_of(even, [0, 1] * 100)])
    content = collector.report().to_json()
    # Layer 0: all on one of two experts, CV 1. Layer 1: even, CV 0.
    assert content["mean"]["cv_load"] == pytest.approx(0.5)
    assert content["mean"]["dead_experts"] == 1
    json.dumps(content)
