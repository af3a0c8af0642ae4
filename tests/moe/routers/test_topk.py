"""Top-k on a softmax with each of its options, against the equations of Switch, GShard, ST-MoE and the loss-free bias."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from moecli.moe.routers import TopKConfig
from moecli.moe.routers.topk import TopKRouter
from tests.moe.routers.against_oracle import (
    D_MODEL,
    Case,
    Expected,
    assert_equals_oracle,
    build,
    cases,
    entries_of,
    large_case,
    largest,
    logits_of,
    quick,
    softmax,
)


def oracle(router: TopKRouter, x_BSD: Tensor, padding_T: list[bool]) -> Expected:
    config, expected = router.config, Expected()
    x_TD = x_BSD.flatten(0, 1)
    num_tokens, num_experts = len(x_TD), len(router.weight)
    if router.training and config.input_jitter:
        factors = torch.empty(x_BSD.shape).uniform_(1 - config.input_jitter, 1 + config.input_jitter)
        x_TD = x_TD * factors.flatten(0, 1)
    tosses = torch.rand(num_tokens, config.top_k).tolist() if router.training and config.keep_threshold else None
    bias = [0.0] * num_experts if router.selection_bias_E is None else router.selection_bias_E.tolist()
    for token in range(num_tokens):
        probs = softmax(logits_of(router.weight, x_TD[token]))
        expected.probs += probs
        chosen = largest([prob.item() + b for prob, b in zip(probs, bias, strict=True)], config.top_k)
        total = sum(probs[expert] for expert in chosen)
        for choice, expert in enumerate(chosen):
            keep = 1.0
            if tosses is not None and choice > 0:
                keep = min(1.0, (probs[expert] / total).item() / config.keep_threshold)
            is_kept = tosses is None or tosses[token][choice] < keep
            if is_kept and not padding_T[token]:
                expected.add(token, expert, choice, probs[expert] / total if config.normalize_weights else probs[expert])
    return expected


@pytest.mark.parametrize("top_k", [2, 3, 6])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalize_weights": False},
        {"selection_bias": True},
        {"input_jitter": 0.1},
        {"keep_threshold": 0.5},
        {"normalize_weights": False, "selection_bias": True, "input_jitter": 0.1, "keep_threshold": 0.2},
    ],
)
def test_a_large_case_equals_the_oracle(options, top_k):
    case = large_case(top_k)
    routing = assert_equals_oracle(build(TopKConfig(top_k=top_k, **options), 6), oracle, case.x_BSD, case.tokens, case.seed)
    # 15 tokens that are not padding; the toss loses some of their choices.
    assert (len(routing.token_ids_A) < 15 * top_k) == ("keep_threshold" in options)


@pytest.mark.parametrize("jitter", [0.0, 0.1])
def test_a_large_case_of_switch_equals_the_oracle(jitter):
    case = large_case(1)
    assert_equals_oracle(build(TopKConfig(top_k=1, input_jitter=jitter), 6), oracle, case.x_BSD, case.tokens, case.seed)


@quick
@given(
    case=cases(),
    normalize=st.booleans(),
    bias=st.booleans(),
    jitter=st.sampled_from([0.0, 0.1, 1.0]),
    threshold=st.sampled_from([None, 0.2, 0.5]),
    train=st.booleans(),
)
def test_equals_the_oracle_with_every_gradient(
    case: Case, normalize: bool, bias: bool, jitter: float, threshold: float | None, train: bool
):
    config = TopKConfig(
        top_k=case.top_k,
        normalize_weights=normalize and case.top_k > 1,
        selection_bias=bias,
        input_jitter=jitter,
        keep_threshold=threshold if case.top_k > 1 else None,
    )
    router = build(config, case.num_experts, case.seed).train(train)
    assert_equals_oracle(router, oracle, case.x_BSD, case.tokens, case.seed)


def router_with_probs(config: TopKConfig, probs: list[float]) -> TopKRouter:
    """A router of one feature, whose probabilities for the input 1 are these."""
    router = TopKRouter(config, d_model=1, num_experts=len(probs))
    with torch.no_grad():
        router.weight.copy_(torch.tensor(probs)[:, None].log())
    return router


@pytest.mark.parametrize(("normalize_weights", "weights"), [(False, [4 / 8, 3 / 8]), (True, [4 / 7, 3 / 7])])
def test_top_2_by_hand(normalize_weights, weights):
    # Probabilities 4/8, 1/8, 3/8: the two best are experts 0 and 2; normalised 4/(4+3) and 3/(4+3).
    router = router_with_probs(TopKConfig(top_k=2, normalize_weights=normalize_weights), [4 / 8, 1 / 8, 3 / 8])
    routing = router(torch.ones(1, 1, 1))
    assert entries_of(routing) == [(0, 0, 0), (0, 2, 1)]
    torch.testing.assert_close(routing.weights_A, torch.tensor(weights))
    torch.testing.assert_close(routing.probs_TE, torch.tensor([[4 / 8, 1 / 8, 3 / 8]]))


def test_the_bias_chooses_and_does_not_weigh_by_hand():
    # p + b = 0.50 - 0.40, 0.30 + 0.00, 0.20 + 0.25 = 0.10, 0.30, 0.45: experts 2 and 1, in this order.
    # Their weights are from p alone: 0.2 / (0.2 + 0.3) = 0.4 and 0.3 / 0.5 = 0.6.
    router = router_with_probs(TopKConfig(top_k=2, selection_bias=True), [0.5, 0.3, 0.2])
    router.selection_bias_E.copy_(torch.tensor([-0.4, 0.0, 0.25]))
    routing = router(torch.ones(1, 1, 1))
    assert entries_of(routing) == [(0, 2, 0), (0, 1, 1)]
    torch.testing.assert_close(routing.weights_A, torch.tensor([0.4, 0.6]))
    torch.testing.assert_close(routing.probs_TE, torch.tensor([[0.5, 0.3, 0.2]]))


def test_the_bias_is_a_buffer_that_no_gradient_moves():
    router = build(TopKConfig(selection_bias=True), 4)
    assert "selection_bias_E" in router.state_dict()
    assert "selection_bias_E" not in dict(router.named_parameters())
    assert "selection_bias_E" not in build(TopKConfig(), 4).state_dict()


@pytest.mark.parametrize("options", [{"selection_bias": True}, {"input_jitter": 1e-9}, {"keep_threshold": 1e-6}])
def test_options_that_do_nothing(options):
    # A bias of zero, a jitter below what float32 can hold beside 1, and a threshold below any of the weights.
    router, plain = build(TopKConfig(**options), 4), build(TopKConfig(), 4)
    if router.selection_bias_E is not None:
        router.selection_bias_E.zero_()
    x_BSD = torch.randn(3, 8, D_MODEL, generator=torch.Generator().manual_seed(0))
    ours, theirs = router(x_BSD), plain(x_BSD)
    assert theirs.weights_A.min() > 1e-5
    assert entries_of(ours) == entries_of(theirs)
    assert torch.equal(ours.weights_A, theirs.weights_A)


def test_jitter_and_toss_are_for_training_alone():
    router, plain = build(TopKConfig(input_jitter=0.5, keep_threshold=0.9), 4), build(TopKConfig(), 4)
    x_BSD = torch.randn(3, 8, D_MODEL, generator=torch.Generator().manual_seed(0))
    expected = plain(x_BSD)
    torch.manual_seed(0)
    in_training = router(x_BSD)
    assert len(in_training.weights_A) < len(expected.weights_A)
    assert not torch.allclose(in_training.logits_TE, expected.logits_TE)
    in_evaluation = router.eval()(x_BSD)
    assert entries_of(in_evaluation) == entries_of(expected)
    assert torch.equal(in_evaluation.weights_A, expected.weights_A)


def test_jitter_is_uniform_around_one():
    # One feature x = 1 with weight 1: the logit is the factor itself, uniform on 0.9 to 1.1.
    # Mean 1; deviation 0.1 / sqrt(3). Of n draws the mean deviates by 0.1 / sqrt(3 n), the spread by about as much.
    router = TopKRouter(TopKConfig(top_k=1, input_jitter=0.1), d_model=1, num_experts=1)
    torch.nn.init.ones_(router.weight)
    torch.manual_seed(0)
    draws = router(torch.ones(1, 20_000, 1)).logits_TE.detach().flatten()
    sigma = 0.1 / math.sqrt(3)
    assert 0.9 <= draws.min() < 0.9001 and 1.0999 < draws.max() <= 1.1 + 1e-6
    assert draws.mean().item() == pytest.approx(1, abs=4 * sigma / math.sqrt(20_000))
    assert draws.std().item() == pytest.approx(sigma, abs=4 * sigma / math.sqrt(20_000))


@pytest.mark.parametrize("threshold", [0.2, 0.5])
@pytest.mark.parametrize("normalize_weights", [True, False])
def test_a_later_choice_is_kept_as_often_as_its_normalised_weight_says(threshold, normalize_weights):
    # Probabilities 0.6, 0.2, 0.11 (and 0.09, not chosen) sum to 0.91: normalised 0.6593, 0.2198, 0.1209.
    # Kept with GShard's 0.5: 1, 0.2198 / 0.5 = 0.4396, 0.1209 / 0.5 = 0.2418; with ST-MoE's 0.2: 1, 1 (0.2198 > 0.2), 0.6044.
    config = TopKConfig(top_k=3, keep_threshold=threshold, normalize_weights=normalize_weights)
    router = router_with_probs(config, [0.6, 0.2, 0.11, 0.09])
    normalised = [0.6 / 0.91, 0.2 / 0.91, 0.11 / 0.91]
    torch.manual_seed(0)
    num_tokens = 20_000
    routing = router(torch.ones(1, num_tokens, 1))
    for choice, weight in enumerate(normalised):
        is_choice_A = routing.choices_A == choice
        chance = 1.0 if choice == 0 else min(1.0, weight / threshold)
        sigma = math.sqrt(chance * (1 - chance) / num_tokens)
        assert is_choice_A.sum().item() / num_tokens == pytest.approx(chance, abs=4 * sigma)
        # A choice that is kept keeps the weight that it had before the toss.
        unscaled = weight if normalize_weights else weight * 0.91
        torch.testing.assert_close(routing.weights_A[is_choice_A], torch.full((int(is_choice_A.sum()),), unscaled))
