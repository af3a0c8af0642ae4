"""Random routing: even and independent, fresh in training, fixed by the context and the layer in evaluation."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from moecli.config import LARGEST
from moecli.model.checkpoint import load_model, save_model
from moecli.model.config import GPTConfig
from moecli.model.gpt import GPT
from moecli.model.init import build_gpt
from moecli.moe.id_hash import prefix_after
from moecli.moe.layers import SparseMoEConfig
from moecli.moe.routers import HashConfig, RandomConfig, RouterConfig
from moecli.moe.routers.random import RandomRouter
from moecli.moe.routing import Tokens
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
    quick,
)
from tests.moe.routers.test_hash import chi_square, draws_of, signed, splitmix64

NUM_ROWS, SEQ_LEN = 250, 80


def layer(num_experts: int, number: int = 0, **options: int) -> RandomRouter:
    """A router with a key of its own, in evaluation."""
    router = build(RandomConfig(**options), num_experts)
    router.init_weights(Generator().manual_seed(number))
    return router.eval()


def oracle_of(case: Case):
    """The k largest of E even draws: in training from the global generator, in evaluation splitmix64 of a sum over the ids so far,
    each at its position among those that are no padding."""

    def oracle(router: RandomRouter, x_BSD: Tensor, padding_T: list[bool]) -> Expected:
        expected, top_k, num_experts = Expected(), router.config.top_k, router.num_experts
        fresh = torch.rand(len(padding_T), num_experts).tolist() if router.training else None
        key = position = 0
        for token, token_id in enumerate(case.tokens.ids_BS.flatten().tolist()):
            expected.probs += [torch.tensor(1 / num_experts, dtype=torch.float64)] * num_experts
            if token % x_BSD.shape[1] == 0:
                key, position = router.layer_key.item(), 0
            if not padding_T[token]:
                key += splitmix64(token_id + position * 2**32)
                position += 1
                draws = draws_of(key, num_experts, router.config.seed) if fresh is None else fresh[token]
                for choice, expert in enumerate(largest(draws, top_k)):
                    expected.add(token, expert, choice, torch.tensor(1 / top_k, dtype=torch.float64))
        return expected

    return oracle


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("top_k", [1, 2, 6])
def test_a_large_case_equals_the_oracle(top_k, train):
    case = large_case(top_k)
    assert_equals_oracle(layer(6, top_k=top_k, seed=3).train(train), oracle_of(case), case.x_BSD, case.tokens, case.seed)


@quick
@given(case=cases(), seed=st.integers(0, LARGEST), train=st.booleans())
def test_equals_the_oracle(case: Case, seed: int, train: bool):
    router = layer(case.num_experts, number=case.seed, top_k=case.top_k, seed=seed).train(train)
    assert_equals_oracle(router, oracle_of(case), case.x_BSD, case.tokens, case.seed)


def test_by_hand():
    router, x_BSD = layer(4, top_k=4), torch.randn(2, 1, D_MODEL)
    # The id 0 at position 0 adds 0 to the layer's key. The draws of key 0 are those of the hash router's id 0: experts 2, 3, 0, 1 from the
    # largest. The draws of key 1 are outputs 4 to 7 of splitmix64, published as f88b..., 1b39..., 53cb..., 2c82...; signed, f88b... is
    # negative.
    ids_BS = torch.tensor([[0], [1]])
    router.layer_key.fill_(0)
    assert entries_of(router(x_BSD, Tokens(ids_BS)))[:4] == [(0, 2, 0), (0, 3, 1), (0, 0, 2), (0, 1, 3)]
    router.layer_key.fill_(1)
    routing = router(x_BSD, Tokens(ids_BS))
    assert entries_of(routing)[:4] == [(0, 2, 0), (0, 3, 1), (0, 1, 2), (0, 0, 3)]
    assert routing.weights_A.tolist() == [0.25] * 8
    # The id 1 at position 0 adds output 1, and then the key is 0 again.
    router.layer_key.fill_(-signed(0xE220A8397B1DCDAF))
    assert entries_of(router(x_BSD, Tokens(ids_BS)))[4:] == [(1, 2, 0), (1, 3, 1), (1, 0, 2), (1, 1, 3)]


def text(num_ids: int = 50) -> Tensor:
    """Ids [B, S], few of them. Each sequence begins with an id of its own, as the same beginning would draw the same."""
    ids_BS = torch.randint(num_ids, (NUM_ROWS, SEQ_LEN), generator=Generator().manual_seed(1))
    ids_BS[:, 0] = 1000 + torch.arange(NUM_ROWS)
    return ids_BS


def choices(router: RandomRouter, ids_BS: Tensor) -> Tensor:
    """The experts [B, S, K], with other features at every call."""
    return router(torch.randn(*ids_BS.shape, D_MODEL), Tokens(ids_BS)).expert_ids_A.view(*ids_BS.shape, -1)


def limit(freedoms: int) -> float:
    """A chi square with so many degrees of freedom is above it with a probability below 1e-6 (Laurent and Massart 2000, lemma 1)."""
    x = math.log(1e6)
    return freedoms + 2 * math.sqrt(freedoms * x) + 2 * x


def assert_even(values: Tensor, num_values: int) -> None:
    assert chi_square(torch.bincount(values.flatten(), minlength=num_values)) < limit(num_values - 1)


def assert_independent(left: Tensor, right: Tensor) -> None:
    """Pearson's chi square of the table of both."""
    num_left, num_right = int(left.max()) + 1, int(right.max()) + 1
    counts_LR = torch.bincount((left * num_right + right).flatten(), minlength=num_left * num_right).view(num_left, num_right).double()
    expected_LR = counts_LR.sum(dim=1, keepdim=True) * counts_LR.sum(dim=0) / counts_LR.sum()
    assert ((counts_LR - expected_LR).square() / expected_LR).sum().item() < limit((num_left - 1) * (num_right - 1))


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("num_experts", [3, 8])
@pytest.mark.parametrize("num_ids", [1, 50])
def test_draws_are_even_and_independent_of_all_that_statistics_ask_about(num_ids, num_experts, train):
    torch.manual_seed(0)
    ids_BS = text(num_ids)
    experts_BSK = choices(layer(num_experts).train(train), ids_BS)
    first_BS, second_BS = experts_BSK.unbind(dim=-1)
    assert_even(first_BS, num_experts)
    assert_even(second_BS, num_experts)
    step_BS = (second_BS - first_BS) % num_experts
    assert (step_BS > 0).all()
    assert_even(first_BS * (num_experts - 1) + step_BS - 1, num_experts * (num_experts - 1))
    other_layer_BS = choices(layer(num_experts, number=1).train(train), ids_BS)[:, :, 0]
    assert_independent(first_BS, other_layer_BS)
    assert_independent(first_BS[:, :-1], first_BS[:, 1:])
    assert_independent(torch.arange(SEQ_LEN).expand_as(first_BS), first_BS)
    assert_independent(ids_BS[:, 1:], first_BS[:, 1:])


def agreement(left: Tensor, right: Tensor) -> float:
    return (left == right).double().mean().item()


def by_chance(num_draws: int):
    """How often independent draws out of 8 agree. A normal number is outside of five deviations with a probability of 6e-7."""
    return pytest.approx(1 / 8, abs=5 * math.sqrt(1 / 8 * 7 / 8 / num_draws))


def test_training_draws_afresh_and_the_seed_of_the_run_repeats_it():
    router, x_BSD = layer(8).train(), torch.zeros(2, 500, D_MODEL)
    torch.manual_seed(0)
    first, second = router(x_BSD).expert_ids_A, router(x_BSD).expert_ids_A
    torch.manual_seed(0)
    assert torch.equal(router(x_BSD).expert_ids_A, first)
    assert agreement(first.view(-1, 2)[:, 0], second.view(-1, 2)[:, 0]) == by_chance(1000)
    rows = first.view(2, 500, 2)[:, :, 0]
    assert agreement(rows[0], rows[1]) == by_chance(500)


def test_evaluation_draws_the_same_for_the_same_beginning_whatever_comes_after_and_beside_it():
    router, ids_BS = layer(8), text()
    whole = choices(router, ids_BS)
    assert torch.equal(choices(router, ids_BS), whole)
    assert torch.equal(choices(router, ids_BS[3:4]), whole[3:4])
    assert torch.equal(choices(router, ids_BS[[9, 4, 9]]), whole[[9, 4, 9]])
    assert torch.equal(choices(router, ids_BS[:, :7]), whole[:, :7])
    assert torch.equal(choices(router, ids_BS[5:6, :1]), whole[5:6, :1])


@pytest.mark.parametrize("change", ["another id", "two ids change places"])
def test_another_id_changes_the_draws_from_there_on_and_none_before(change):
    ids_BS, cut = text(), 30
    ids_BS[:, cut + 1] = 60
    changed_BS = ids_BS.clone()
    if change == "another id":
        changed_BS[:, cut] += 1
    else:
        changed_BS[:, [cut, cut + 1]] = ids_BS[:, [cut + 1, cut]]
    router = layer(8)
    before, after = choices(router, ids_BS), choices(router, changed_BS)
    assert torch.equal(before[:, :cut], after[:, :cut])
    at, later = (slice(None), cut, 0), (slice(None), slice(cut + 1, None), 0)
    assert agreement(before[at], after[at]) == by_chance(NUM_ROWS)
    assert agreement(before[later], after[later]) == by_chance(NUM_ROWS * (SEQ_LEN - cut - 1))


def test_nobody_sees_what_the_padding_is():
    router, ids_BS = layer(8), text()
    is_padding_BS = torch.rand(NUM_ROWS, SEQ_LEN, generator=Generator().manual_seed(2)) < 0.3
    x_BSD = torch.zeros(NUM_ROWS, SEQ_LEN, D_MODEL)
    one, other = (router(x_BSD, Tokens(ids_BS.masked_fill(is_padding_BS, pad), is_padding_BS)) for pad in (0, 7))
    assert entries_of(one) == entries_of(other)
    assert len(one.token_ids_A) == 2 * int((~is_padding_BS).sum())


def test_padding_on_the_left_changes_no_draw_and_a_sequence_may_come_in_parts():
    router, ids_BS, cut = layer(8), text(), 30
    whole = choices(router, ids_BS)
    padded_BS = torch.nn.functional.pad(ids_BS, (5, 0), value=3)
    is_padding_BS = torch.arange(padded_BS.shape[1]).expand_as(padded_BS) < 5
    x_BSD = torch.zeros(*padded_BS.shape, D_MODEL)
    assert torch.equal(router(x_BSD, Tokens(padded_BS, is_padding_BS)).expert_ids_A.view_as(whole), whole)
    first = Tokens(padded_BS[:, :cut], is_padding_BS[:, :cut])
    rest = Tokens(padded_BS[:, cut:], before=prefix_after(first))
    assert torch.equal(router(x_BSD[:, cut:], rest).expert_ids_A.view(NUM_ROWS, -1, 2), whole[:, cut - 5 :])


def test_another_seed_draws_otherwise():
    ids_BS = text()
    assert agreement(choices(layer(8), ids_BS)[..., 0], choices(layer(8, seed=1), ids_BS)[..., 0]) == by_chance(ids_BS.numel())


def gpt(router: RouterConfig) -> GPT:
    ffn = SparseMoEConfig(num_experts=8, d_expert=4, router=router)
    return build_gpt(GPTConfig(d_model=8, num_layers=2, num_heads=2, ffn=ffn), 2000, seed=0).eval()


def experts_by_layer(model: GPT, ids_BS: Tensor) -> list[Tensor]:
    return [record.routing.expert_ids_A for record in model(ids_BS)[1]]


def test_the_layers_of_a_model_differ_and_a_checkpoint_keeps_how(tmp_path):
    model, ids_BS = gpt(RandomConfig(top_k=1)), text()
    first, second = experts_by_layer(model, ids_BS)
    assert agreement(first, second) == by_chance(ids_BS.numel())
    save_model(model, tmp_path)
    reloaded, rebuilt = load_model(tmp_path), gpt(RandomConfig(top_k=1))
    for same in (reloaded, rebuilt, copy.deepcopy(reloaded).double()):
        assert torch.equal(torch.stack(experts_by_layer(same, ids_BS)), torch.stack([first, second]))


def test_the_layers_keys_leave_the_initial_weights_alone():
    random, hashed = dict(gpt(RandomConfig()).named_parameters()), dict(gpt(HashConfig()).named_parameters())
    assert random.keys() == hashed.keys()
    assert all(torch.equal(random[name], hashed[name]) for name in random)


def test_evaluation_needs_the_ids():
    with pytest.raises(AssertionError, match="goes by token ids"):
        layer(4)(torch.zeros(1, 1, D_MODEL))
