"""What every router owes the contract. What each of them computes is proved in tests/moe/routers."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from moecli.moe.layers import SparseMoEConfig
from moecli.moe.routers import ROUTERS, ExpertChoiceConfig, NoisyTopKConfig, RouterConfig, SigmoidTopKConfig, TopKConfig
from moecli.moe.routers.base import Router, TokenChoiceConfig
from moecli.moe.routing import Routing, Tokens

D_MODEL, NUM_EXPERTS = 6, 4
CONFIGS = {kind: router.config_class() for kind, router in ROUTERS.items()} | {
    "topk with all options": TopKConfig(top_k=3, selection_bias=True, input_jitter=0.1, keep_threshold=0.5, normalize_weights=False),
    "sigmoid_topk with groups": SigmoidTopKConfig(num_groups=2, top_groups=1, scale=2.5),
    "expert_choice over the batch": ExpertChoiceConfig(pool="batch"),
}
TOKEN_CHOICE = [name for name, config in CONFIGS.items() if isinstance(config, TokenChoiceConfig)]
UNLEARNED = {"hash", "random"}


def build(config: RouterConfig, num_experts: int = NUM_EXPERTS) -> Router:
    router = ROUTERS[config.kind](config, D_MODEL, num_experts)
    generator = torch.Generator().manual_seed(0)
    for parameter in router.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    if router.selection_bias_E is not None:
        router.selection_bias_E.normal_(std=0.4, generator=generator)
    return router


def inputs(batch_size: int = 3, seq_len: int = 5) -> tuple[Tensor, Tokens]:
    generator = torch.Generator().manual_seed(1)
    x_BSD = torch.randn(batch_size, seq_len, D_MODEL, generator=generator)
    return x_BSD, Tokens(torch.randint(1000, (batch_size, seq_len), generator=generator))


def pairs_of(routing: Routing) -> list[tuple[int, int]]:
    return list(zip(routing.token_ids_A.tolist(), routing.expert_ids_A.tolist(), strict=True))


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", CONFIGS)
def test_routing_keeps_the_contract(name, train):
    torch.manual_seed(0)
    router = build(CONFIGS[name]).train(train)
    routing = router(*inputs())
    assert routing.logits_TE.shape == routing.probs_TE.shape == (15, NUM_EXPERTS)
    assert routing.num_experts == NUM_EXPERTS
    assert routing.logits_TE.dtype == routing.probs_TE.dtype == routing.weights_A.dtype == torch.float32
    assert routing.token_ids_A.dtype == routing.expert_ids_A.dtype == routing.choices_A.dtype == torch.int64
    shapes = {len(routing.token_ids_A), len(routing.expert_ids_A), len(routing.weights_A), len(routing.choices_A)}
    assert len(shapes) == 1
    assert set(routing.token_ids_A.tolist()) <= set(range(15))
    assert set(routing.expert_ids_A.tolist()) <= set(range(NUM_EXPERTS))
    pairs = pairs_of(routing)
    assert len(set(pairs)) == len(pairs), "a token has the same expert twice"
    assert (routing.weights_A > 0).all()
    torch.testing.assert_close(routing.probs_TE.sum(dim=1), torch.ones(15))
    assert (routing.probs_TE > 0).all()
    assert routing.seq_len == 5
    assert routing.is_padding_T is None
    assert (routing.smooth_load_TE is not None) == (train and CONFIGS[name].estimates_load(NUM_EXPERTS))
    if routing.smooth_load_TE is not None:
        assert routing.smooth_load_TE.shape == (15, NUM_EXPERTS) and routing.smooth_load_TE.dtype == torch.float32
        assert ((routing.smooth_load_TE >= 0) & (routing.smooth_load_TE <= 1)).all()
    most = max(Counter(routing.token_ids_A.tolist()).values())
    assert most <= routing.top_k


@pytest.mark.parametrize("name", TOKEN_CHOICE)
def test_tokens_list_their_experts_from_the_best(name):
    router = build(CONFIGS[name]).eval()
    top_k = CONFIGS[name].top_k
    routing = router(*inputs())
    assert routing.top_k == top_k == router.assignments_per_token
    assert routing.token_ids_A.tolist() == [token for token in range(15) for _ in range(top_k)]
    assert routing.choices_A.tolist() == list(range(top_k)) * 15
    if router.selection_bias_E is None:
        weights_TK = routing.weights_A.view(15, top_k)
        assert (weights_TK.diff(dim=1) <= 0).all()


@pytest.mark.parametrize("name", ["expert_choice", "expert_choice over the batch"])
def test_experts_choose_as_many_tokens_each_and_make_no_second_choices(name):
    routing = build(CONFIGS[name])(*inputs(4, 4))
    # 2 experts per token * 4 tokens in a pool / 4 experts = 2 of each of the 4 pools.
    assert torch.bincount(routing.expert_ids_A).tolist() == [8] * NUM_EXPERTS
    assert len(routing.token_ids_A) == 16 * build(CONFIGS[name]).assignments_per_token
    assert not routing.choices_A.any()
    assert routing.top_k == NUM_EXPERTS


@pytest.mark.parametrize("name", CONFIGS)
def test_the_router_computes_in_float32_under_autocast(name):
    router = build(CONFIGS[name]).eval()
    x_BSD, tokens = inputs()
    x_BSD = x_BSD.bfloat16()
    exact = router(x_BSD.float(), tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for x in (x_BSD, x_BSD.float()):
            under_autocast = router(x, tokens)
            assert torch.equal(under_autocast.logits_TE, exact.logits_TE)
            assert torch.equal(under_autocast.probs_TE, exact.probs_TE)
            assert torch.equal(under_autocast.weights_A, exact.weights_A)
            assert pairs_of(under_autocast) == pairs_of(exact)
        in_training = router.train()(x_BSD, tokens)
    assert in_training.logits_TE.dtype == in_training.probs_TE.dtype == in_training.weights_A.dtype == torch.float32
    assert in_training.smooth_load_TE is None or in_training.smooth_load_TE.dtype == torch.float32


@pytest.mark.parametrize("name", CONFIGS)
def test_noise_is_for_training_alone(name):
    router = build(CONFIGS[name]).eval()
    x_BSD, tokens = inputs()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = router(x_BSD, tokens)
    assert torch.equal(torch.get_rng_state(), before), "evaluation draws from the generator"
    torch.manual_seed(1)
    second = router(x_BSD, tokens)
    assert pairs_of(first) == pairs_of(second)
    assert torch.equal(first.weights_A, second.weights_A)
    before = torch.get_rng_state()
    in_training = [router.train()(x_BSD, tokens) for _ in range(2)]
    is_noisy = name in {"noisy_topk", "vmoe_topk", "random", "topk with all options"}
    differs = pairs_of(in_training[0]) != pairs_of(in_training[1]) or not torch.equal(in_training[0].weights_A, in_training[1].weights_A)
    assert differs == is_noisy == (not torch.equal(torch.get_rng_state(), before))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_weights_teach_the_router(name):
    router = build(CONFIGS[name])
    torch.manual_seed(0)
    routing = router(*inputs())
    if CONFIGS[name].kind in UNLEARNED:
        assert not list(router.parameters())
        assert not routing.weights_A.requires_grad
        return
    (routing.weights_A * torch.linspace(-1, 1, len(routing.weights_A))).sum().backward()
    assert list(router.parameters())
    for parameter_name, parameter in router.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 1e-3, parameter_name


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", CONFIGS)
def test_padding_has_no_assignments(name, train):
    x_BSD, tokens = inputs()
    is_padding_BS = torch.zeros(3, 5, dtype=torch.bool)
    is_padding_BS[0, 3:] = is_padding_BS[2] = True
    routing = build(CONFIGS[name]).train(train)(x_BSD, Tokens(tokens.ids_BS, is_padding_BS))
    assert torch.equal(routing.is_padding_T, is_padding_BS.flatten())
    assert set(routing.token_ids_A.tolist()) <= {0, 1, 2, 5, 6, 7, 8, 9}
    assert len(routing.token_ids_A) == len(routing.expert_ids_A) == len(routing.weights_A) == len(routing.choices_A) > 0
    assert routing.probs_TE.shape == (15, NUM_EXPERTS)


@pytest.mark.parametrize("name", TOKEN_CHOICE)
def test_removing_the_padding_changes_nothing_for_the_others(name):
    router = build(CONFIGS[name]).eval()
    x_BSD, tokens = inputs()
    lengths = [3, 5, 1]
    is_padding_BS = torch.arange(5) >= torch.tensor(lengths)[:, None]
    padded = router(x_BSD, Tokens(tokens.ids_BS, is_padding_BS))
    for row, length in enumerate(lengths):
        alone = router(x_BSD[row : row + 1, :length], Tokens(tokens.ids_BS[row : row + 1, :length]))
        is_mine_A = padded.token_ids_A // 5 == row
        assert torch.equal(padded.token_ids_A[is_mine_A] % 5, alone.token_ids_A)
        assert torch.equal(padded.expert_ids_A[is_mine_A], alone.expert_ids_A)
        assert torch.equal(padded.choices_A[is_mine_A], alone.choices_A)
        torch.testing.assert_close(padded.weights_A[is_mine_A], alone.weights_A)


def with_top_k(kind: str, top_k: int) -> RouterConfig:
    config_class = ROUTERS[kind].config_class
    return ExpertChoiceConfig(experts_per_token=float(top_k)) if kind == "expert_choice" else config_class(top_k=top_k)


@pytest.mark.parametrize("kind", ROUTERS)
def test_more_choices_than_experts_are_refused(kind):
    assert SparseMoEConfig(num_experts=3, router=with_top_k(kind, 3)).num_experts == 3
    with pytest.raises(ValueError, match="more experts per token than there are experts"):
        SparseMoEConfig(num_experts=3, router=with_top_k(kind, 4))


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("num_experts", [1, 4])
@pytest.mark.parametrize("kind", ROUTERS)
def test_all_experts_can_be_chosen(kind, num_experts, train):
    router = build(with_top_k(kind, num_experts), num_experts).train(train)
    routing = router(*inputs())
    assert sorted(pairs_of(routing)) == [(token, expert) for token in range(15) for expert in range(num_experts)]
    # Whether they are normalised or not, weights of all experts sum to 1; except a single sigmoid, which stays as it is.
    sums_T = torch.zeros(15).index_add(0, routing.token_ids_A, routing.weights_A)
    expected_T = routing.logits_TE.sigmoid().squeeze(1) if kind == "sigmoid_topk" and num_experts == 1 else torch.ones(15)
    torch.testing.assert_close(sums_T, expected_T)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", CONFIGS)
def test_one_token_is_enough(name, train):
    x_BSD, tokens = inputs(1, 1)
    routing = build(CONFIGS[name]).train(train)(x_BSD, tokens)
    assert routing.probs_TE.shape == (1, NUM_EXPERTS)
    assert routing.token_ids_A.tolist() == [0] * len(routing.expert_ids_A)
    assert 1 <= len(set(routing.expert_ids_A.tolist())) == len(routing.expert_ids_A) <= routing.top_k


@pytest.mark.parametrize("kind", ["topk", "sigmoid_topk"])
def test_top_1_is_not_normalised_unless_it_would_teach_nothing(kind):
    config_class = ROUTERS[kind].config_class
    assert config_class(top_k=1).normalize_weights is False
    assert config_class(top_k=2).normalize_weights is True
    with pytest.raises(ValueError, match="would learn nothing"):
        config_class(top_k=1, normalize_weights=True)


def test_only_the_noise_of_shazeer_starts_at_zero():
    for kind, router_class in ROUTERS.items():
        router = build(router_class.config_class())
        before = {name: parameter.clone() for name, parameter in router.named_parameters()}
        router.init_weights(torch.Generator())
        for name, parameter in router.named_parameters():
            expected = torch.zeros_like(parameter) if kind == NoisyTopKConfig().kind else before[name]
            assert torch.equal(parameter, expected), (kind, name)
