"""Capacity: who finds room, in which order, and where the overflow goes, against a walk with dicts that is easy to believe."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from moecli.moe.capacity import CapacityConfig, expert_capacity, keep_within_capacity, move_to_experts_with_room
from moecli.moe.dispatch import dispatch_dropless, dispatch_with_capacity
from moecli.moe.routers.base import token_choice
from moecli.moe.routers.topk import TopKConfig
from moecli.moe.routing import Routing, Tokens
from moecli.moe.sparse import SparseMoE, SparseMoEConfig

ORDERS = ["token", "choice", "priority"]
GROUPS = ["sequence", "batch"]
OVERFLOWS = ["residual", "next"]
D_MODEL = 8


def claims_in_order(routing: Routing, order: str) -> list[int]:
    """The assignments as they claim room, from the definition of each order; what ties keeps the routing's order."""
    tokens, choices, weights = routing.token_ids_A.tolist(), routing.choices_A.tolist(), routing.weights_A.tolist()
    first_weight = {tokens[index]: weights[index] for index in range(len(tokens)) if choices[index] == 0}
    keys = {
        "token": lambda index: (tokens[index], choices[index]),
        "choice": lambda index: (choices[index], tokens[index]),
        "priority": lambda index: (choices[index], -first_weight[tokens[index]], tokens[index]),
    }
    return sorted(range(len(tokens)), key=keys[order])


def walk(routing: Routing, order: str, group_size: int, capacity: int, overflow: str) -> dict[int, int]:
    """Where each kept assignment runs: {index of the assignment: expert}."""
    tokens, chosen, probs = routing.token_ids_A.tolist(), routing.expert_ids_A.tolist(), routing.probs_TE.tolist()
    used: Counter[tuple[int, int]] = Counter()
    experts_of = {token: {chosen[index] for index in range(len(tokens)) if tokens[index] == token} for token in tokens}
    runs_at = {}
    for index in claims_in_order(routing, order):
        token = tokens[index]
        group = token // group_size
        wanted = [chosen[index]]
        if overflow == "next":
            free = [expert for expert in range(routing.num_experts) if expert not in experts_of[token]]
            wanted += sorted(free, key=lambda expert: -probs[token][expert])
        with_room = [expert for expert in wanted if used[group, expert] < capacity]
        if with_room:
            runs_at[index] = with_room[0]
            used[group, with_room[0]] += 1
            experts_of[token].add(with_room[0])
    return runs_at


def routing_of(choices: list[list[int]], probs: list[list[float]], seq_len: int) -> Routing:
    """Tokens with these experts, best first, and their probabilities as weights."""
    probs_TE = torch.tensor(probs)
    expert_ids_TK = torch.tensor(choices)
    return token_choice(probs_TE.log(), probs_TE, expert_ids_TK, probs_TE.gather(1, expert_ids_TK), seq_len=seq_len)


@st.composite
def routings(draw) -> Routing:
    """Token choice with ties in the probabilities, choices that lost a toss, padding, and a bias that leaves experts empty."""
    num_experts = draw(st.integers(1, 5))
    top_k = draw(st.integers(1, num_experts))
    num_rows, seq_len = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    num_tokens = num_rows * seq_len
    logits_TE = torch.randint(-2, 3, (num_tokens, num_experts), generator=generator).float()  # five values: many ties
    probs_TE = logits_TE.softmax(dim=-1)
    crowding_E = torch.linspace(0, draw(st.sampled_from([0.0, 1.0])), num_experts)
    expert_ids_TK = (probs_TE + crowding_E).topk(top_k, dim=-1).indices
    is_kept_TK = None
    if draw(st.booleans()):
        is_kept_TK = torch.rand(num_tokens, top_k, generator=generator) < 0.7
        is_kept_TK[:, 0] = True
    is_padding_BS = None
    if draw(st.booleans()):
        is_padding_BS = torch.rand(num_rows, seq_len, generator=generator) < 0.3
    tokens = Tokens(torch.zeros(num_rows, seq_len, dtype=torch.int64), is_padding_BS)
    weights_TK = probs_TE.gather(1, expert_ids_TK)
    return token_choice(logits_TE, probs_TE, expert_ids_TK, weights_TK, seq_len=seq_len, tokens=tokens, is_kept_TK=is_kept_TK)


def group_size_of(routing: Routing, group: str) -> int:
    return routing.seq_len if group == "sequence" else routing.probs_TE.shape[0]


@pytest.mark.parametrize("order", ORDERS)
@given(routing=routings(), group=st.sampled_from(GROUPS), capacity=st.integers(1, 6))
def test_keeps_and_moves_what_the_walk_does(order, routing, group, capacity):
    group_size = group_size_of(routing, group)
    runs_at = walk(routing, order, group_size, capacity, "residual")
    kept_A = keep_within_capacity(routing, order, group_size, capacity)
    assert kept_A.dtype == torch.bool
    assert kept_A.tolist() == [index in runs_at for index in range(len(kept_A))]

    runs_at = walk(routing, order, group_size, capacity, "next")
    final_A, kept_A = move_to_experts_with_room(routing, order, group_size, capacity)
    assert final_A.dtype == torch.int64 and kept_A.dtype == torch.bool
    assert kept_A.tolist() == [index in runs_at for index in range(len(kept_A))]
    # What found no place stays on record under the expert that it chose.
    assert final_A.tolist() == [runs_at.get(index, chosen) for index, chosen in enumerate(routing.expert_ids_A.tolist())]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("overflow", OVERFLOWS)
@given(routing=routings(), factor=st.integers(4, 100).map(lambda twentieths: twentieths / 20))
def test_dispatch_does_what_the_walk_does(order, group, overflow, routing, factor):
    config = CapacityConfig(order=order, group=group, overflow=overflow)
    queues, record = dispatch_with_capacity(routing, config, factor)
    group_size, num_experts = group_size_of(routing, group), routing.num_experts
    capacity = math.ceil(Fraction(str(factor)) * routing.top_k * group_size / num_experts)
    runs_at = walk(routing, order, group_size, capacity, overflow)

    tokens, chosen, probs = routing.token_ids_A.tolist(), routing.expert_ids_A.tolist(), routing.probs_TE
    in_queue_order = sorted(sorted(runs_at), key=lambda index: runs_at[index])
    assert queues.token_ids_A.tolist() == [tokens[index] for index in in_queue_order]
    # The weights are unnormalised here, so a moved assignment has the probability of the expert where it runs. (The crowding makes
    # tokens choose less probable experts than they might: there the weight does not grow.)
    expected = torch.tensor(
        [min(float(probs[tokens[index], expert]) for expert in (runs_at[index], chosen[index])) for index in in_queue_order]
    )
    torch.testing.assert_close(queues.weights_A, expected)

    load = Counter(runs_at.values())
    assert record.load_E.tolist() == queues.load_E.tolist() == [load[expert] for expert in range(num_experts)]
    assert record.chosen_load_E.tolist() == [chosen.count(expert) for expert in range(num_experts)]
    assert record.chosen_load_E.sum() == len(chosen)
    assert record.load_E.sum() == record.kept_A.sum() == len(runs_at)
    final = record.final_expert_ids_A.tolist()
    per_group = Counter((tokens[index] // group_size, final[index]) for index, kept in enumerate(record.kept_A.tolist()) if kept)
    assert all(count <= capacity for count in per_group.values())
    pairs = [(tokens[index], final[index]) for index in runs_at]
    assert len(set(pairs)) == len(pairs), "a token has the same expert twice"
    if routing.is_padding_T is not None:
        assert not routing.is_padding_T[queues.token_ids_A].any(), "padding took room"


@pytest.mark.parametrize("order", ORDERS)
@given(routing=routings(), group=st.sampled_from(GROUPS), capacity=st.integers(1, 6))
def test_moving_never_costs_an_expert_a_token_and_leaves_no_room_that_anyone_wants(order, routing, group, capacity):
    group_size = group_size_of(routing, group)
    final_A, kept_A = move_to_experts_with_room(routing, order, group_size, capacity)
    residual_A = keep_within_capacity(routing, order, group_size, capacity)
    groups_A = routing.token_ids_A // group_size

    def loads(expert_ids, kept):
        return Counter(zip(groups_A[kept].tolist(), expert_ids[kept].tolist(), strict=True))

    moved, plain = loads(final_A, kept_A), loads(routing.expert_ids_A, residual_A)
    # Every chooser asks its own expert first: in the end that is full, or has all its choosers, as without moving.
    assert all(moved[queue] >= count for queue, count in plain.items())
    for index in (~kept_A).nonzero().flatten().tolist():
        is_own = routing.token_ids_A == routing.token_ids_A[index]
        own = {*routing.expert_ids_A[is_own].tolist(), *final_A[is_own].tolist()}
        others = set(range(routing.num_experts)) - own
        assert all(moved[int(groups_A[index]), expert] == capacity for expert in others), "dropped beside an expert with room"


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("group", GROUPS)
@given(routing=routings().filter(lambda routing: routing.top_k == 1), factor=st.integers(20, 60).map(lambda twentieths: twentieths / 20))
def test_moving_drops_nothing_of_top_1_where_there_is_room_for_all(order, group, routing, factor):
    # E * ceil(factor * N / E) >= N: as long as an assignment is without a place, some expert has room, and top-1 may go anywhere.
    _, record = dispatch_with_capacity(routing, CapacityConfig(order=order, group=group, overflow="next"), factor)
    assert record.kept_A.all()


def test_moving_can_drop_of_top_2_though_there_is_room_for_all():
    # Two tokens, three experts, top-2 and factor 1: C = ceil(1 * 2 * 2 / 3) = 2, room for 6. Nothing can overflow (2 tokens, room 2).
    # Four tokens, top-2 of three experts, C = ceil(2 * 4 / 3) = 3, room 9 for 8 assignments. Token order:
    #   t0 0,1  t1 0,1  t2 0,1: experts 0 and 1 are full with 3 each. t3 wants 0 and 1: the first goes to 2, the second has no expert left.
    routing = routing_of([[0, 1]] * 4, [[0.5, 0.3, 0.2]] * 4, seq_len=4)
    _, record = dispatch_with_capacity(routing, CapacityConfig(overflow="next"), factor=1.0)
    assert record.kept_A.tolist() == [True] * 7 + [False]
    assert record.final_expert_ids_A.tolist() == [0, 1, 0, 1, 0, 1, 2, 1]
    assert record.chosen_load_E.tolist() == [4, 4, 0]
    assert record.load_E.tolist() == [3, 3, 1]


@pytest.mark.parametrize(
    ("factor", "top_k", "group_size", "num_experts", "capacity"),
    [
        (1.0, 1, 12, 4, 3),  # 12 / 4
        (1.0, 2, 12, 4, 6),  # 24 / 4
        (1.25, 1, 10, 4, 4),  # 12.5 / 4 = 3.125, rounded up
        (1.1, 1, 20, 2, 11),  # 1.1 * 20 / 2 = 11.000000000000002 in floating point, and yet 11
        (1.1, 1, 10, 1, 10),  # 11, but there are 10 tokens
        (1e308, 2, 10, 1, 10),  # beyond any number
        (0.2, 1, 1, 8, 1),  # 0.025, rounded up: never without any room
        (1e-12, 1, 1, 8, 1),  # nor here
        (2.0, 2, 8, 4, 8),  # 32 / 4: every token fits
    ],
)
def test_expert_capacity_by_hand(factor, top_k, group_size, num_experts, capacity):
    assert expert_capacity(factor, top_k, group_size, num_experts) == capacity


@given(st.integers(1, 500), st.integers(1, 8), st.integers(1, 16384), st.integers(1, 256))
def test_expert_capacity_is_the_exact_product_rounded_up(hundredths, top_k, group_size, num_experts):
    exact = Fraction(hundredths, 100) * top_k * group_size / num_experts
    assert expert_capacity(hundredths / 100, top_k, group_size, num_experts) == min(group_size, math.ceil(exact))


# Three tokens of one sequence and two experts, room for 1 each. Rows: token 0, 1, 2; the first choice's weight grows with the token.
#   t0: expert 0 (0.6), then 1 (0.4)    t1: expert 0 (0.7), then 1 (0.3)    t2: expert 1 (0.8), then 0 (0.2)
# As listed: t0->0, t0->1, t1->0, t1->1, t2->1, t2->0.
THREE_TOKENS = ([[0, 1], [0, 1], [1, 0]], [[0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])


@pytest.mark.parametrize(
    ("order", "kept"),
    [
        # t0 comes first and takes both experts.
        ("token", [True, True, False, False, False, False]),
        # First choices in turn: t0->0 fits, t1->0 does not, t2->1 fits. Nothing is left for the second choices.
        ("choice", [True, False, False, False, True, False]),
        # First choices by weight: t2->1 (0.8) fits, t1->0 (0.7) fits, t0->0 (0.6) does not.
        ("priority", [False, False, True, False, True, False]),
    ],
)
def test_orders_by_hand(order, kept):
    routing = routing_of(*THREE_TOKENS, seq_len=3)
    assert keep_within_capacity(routing, order, group_size=3, capacity=1).tolist() == kept


def test_priority_sorts_second_choices_by_the_weight_of_the_first():
    # Two tokens, three experts, room for 1 each. t0: expert 0 (0.5), then 2 (0.4). t1: expert 1 (0.8), then 2 (0.1).
    # Both second choices want expert 2. t0's weighs more there, but t1 is surer of its first choice and comes first.
    routing = routing_of([[0, 2], [1, 2]], [[0.5, 0.1, 0.4], [0.1, 0.8, 0.1]], seq_len=2)
    assert keep_within_capacity(routing, "priority", group_size=2, capacity=1).tolist() == [True, False, True, True]
    assert keep_within_capacity(routing, "choice", group_size=2, capacity=1).tolist() == [True, True, True, False]


def test_groups_by_hand():
    # Two sequences of two tokens, all four want expert 0 of two; factor 1 and top-1.
    # group: sequence: C = 2 / 2 = 1 in each, so the first token of each sequence stays. group: batch: C = 4 / 2 = 2, the first two tokens.
    routing = routing_of([[0]] * 4, [[0.9, 0.1]] * 4, seq_len=2)
    kept = {group: dispatch_with_capacity(routing, CapacityConfig(group=group), factor=1.0)[1].kept_A.tolist() for group in GROUPS}
    assert kept == {"sequence": [True, False, True, False], "batch": [True, True, False, False]}


@pytest.mark.parametrize(
    ("overflow", "kept", "final", "load", "weights"),
    [
        # C = ceil(1 * 1 * 3 / 3) = 1. t0 fills expert 0, t1 and t2 find no room.
        ("residual", [True, False, False], [0, 0, 0], [1, 0, 0], [0.5]),
        # t1's next most probable expert is 2 (0.3); then t2's is 2 as well (0.25), which is full by now, so it goes to 1 (0.15).
        ("next", [True, True, True], [0, 2, 1], [1, 1, 1], [0.5, 0.15, 0.3]),
    ],
)
def test_overflows_by_hand(overflow, kept, final, load, weights):
    routing = routing_of([[0], [0], [0]], [[0.5, 0.2, 0.3], [0.6, 0.1, 0.3], [0.6, 0.15, 0.25]], seq_len=3)
    queues, record = dispatch_with_capacity(routing, CapacityConfig(overflow=overflow), factor=1.0)
    assert record.kept_A.tolist() == kept
    assert record.final_expert_ids_A.tolist() == final
    assert record.chosen_load_E.tolist() == [3, 0, 0]
    assert record.load_E.tolist() == queues.load_E.tolist() == load
    torch.testing.assert_close(queues.weights_A, torch.tensor(weights))  # by expert


@pytest.mark.parametrize("normalize", [False, True])
def test_the_weight_of_a_moved_assignment_and_its_gradient(normalize):
    # Two tokens, four experts, top-2 and factor 0.5: C = ceil(0.5 * 2 * 2 / 4) = 1. Both tokens want 0, then 1; t1 moves to 2 and 3.
    # Unnormalised, its weights are p(2) and p(3); normalised, p(2) / (p(0) + p(1)) and p(3) / (p(0) + p(1)): the divisor of the choice.
    logits_TE = torch.tensor([[2.0, 1.0, 0.5, 0.0], [2.0, 1.5, 0.5, -0.5]], requires_grad=True)
    probs_TE = logits_TE.softmax(dim=-1)
    expert_ids_TK = torch.tensor([[0, 1], [0, 1]])
    divisor_T1 = probs_TE[:, :2].sum(dim=-1, keepdim=True) if normalize else 1.0
    routing = token_choice(logits_TE, probs_TE, expert_ids_TK, probs_TE[:, :2] / divisor_T1, seq_len=2)
    queues, record = dispatch_with_capacity(routing, CapacityConfig(overflow="next"), factor=0.5)
    assert record.final_expert_ids_A.tolist() == [0, 1, 2, 3]
    expected_E = torch.cat([(probs_TE / divisor_T1)[0, :2], (probs_TE / divisor_T1)[1, 2:]])
    torch.testing.assert_close(queues.weights_A, expected_E)
    upstream_E = torch.tensor([1.0, -2.0, 3.0, 0.5])
    (gradient_TE,) = torch.autograd.grad(queues.weights_A, logits_TE, upstream_E, retain_graph=True)
    (expected_TE,) = torch.autograd.grad(expected_E, logits_TE, upstream_E)
    torch.testing.assert_close(gradient_TE, expected_TE)


@pytest.mark.parametrize("logit", [-200.0, -103.0, -88.0, -87.0, -60.0, -46.0, -5.0])
@pytest.mark.parametrize("normalize", [False, True])
def test_moving_to_a_more_probable_expert_leaves_the_weight_as_it_is(logit, normalize):
    # Noise or a bias can choose an expert that the clean distribution hardly knows: p(new) / p(chosen) has no bound.
    logits_TE = torch.tensor([[0.0, logit]] * 2, requires_grad=True)
    probs_TE = logits_TE.softmax(dim=-1)
    weights_TK = torch.ones(2, 1) if normalize else probs_TE[:, 1:]
    routing = token_choice(logits_TE, probs_TE, torch.tensor([[1], [1]]), weights_TK, seq_len=2)
    queues, record = dispatch_with_capacity(routing, CapacityConfig(overflow="next"), factor=1.0)
    assert record.final_expert_ids_A.tolist() == [1, 0]
    # Below the smallest positive number both are 0 of 0, and an assignment that weighs nothing still weighs nothing.
    torch.testing.assert_close(queues.weights_A, weights_TK.flatten())
    (gradient_TE,) = torch.autograd.grad(queues.weights_A.sum(), logits_TE, retain_graph=True)
    (expected_TE,) = torch.autograd.grad(weights_TK.sum() + 0 * logits_TE.sum(), logits_TE)
    torch.testing.assert_close(gradient_TE, expected_TE, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("logit", [-200.0, -103.0, -88.0, -87.0, -60.0, -5.0])
def test_moving_to_a_next_to_impossible_expert_has_finite_gradients(logit):
    # Both choices and the next expert are improbable: the chosen one, which is divided by, is about as small as float32 goes.
    logits_TE = torch.tensor([[0.0, logit, logit - 1.0]] * 2, requires_grad=True)
    probs_TE = logits_TE.softmax(dim=-1)
    routing = token_choice(logits_TE, probs_TE, torch.tensor([[0, 1], [0, 1]]), probs_TE[:, :2], seq_len=2)
    # C = ceil(0.75 * 2 * 2 / 3) = 1: the second token's first choice moves from 0 to 2, its second choice is dropped.
    queues, record = dispatch_with_capacity(routing, CapacityConfig(overflow="next"), factor=0.75)
    assert record.final_expert_ids_A.tolist() == [0, 1, 2, 1]
    assert record.kept_A.tolist() == [True, True, True, False]
    torch.testing.assert_close(queues.weights_A, torch.stack([probs_TE[0, 0], probs_TE[0, 1], probs_TE[1, 2]]))
    (gradient_TE,) = torch.autograd.grad(queues.weights_A.sum(), logits_TE)
    assert gradient_TE.isfinite().all()


def layer_of(capacity: CapacityConfig | None, top_k: int) -> SparseMoE:
    config = SparseMoEConfig(num_experts=4, d_expert=6, router=TopKConfig(top_k=top_k), capacity=capacity).with_default_widths(D_MODEL)
    layer = SparseMoE(config, D_MODEL, "swiglu")
    generator = torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.7, generator=generator)
    return layer


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("overflow", OVERFLOWS)
@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_room_for_everyone_is_dropless_bit_for_bit(order, group, overflow, top_k):
    factor = 4 / top_k
    capacity = CapacityConfig(factor=factor, order=order, group=group, overflow=overflow)
    results = []
    for layer in (layer_of(capacity, top_k), layer_of(None, top_k)):
        x_BSD = torch.randn(2, 7, D_MODEL, generator=torch.Generator().manual_seed(1)).requires_grad_()
        y_BSD, record = layer(x_BSD)
        y_BSD.backward(torch.linspace(-1, 1, y_BSD.numel()).view_as(y_BSD))
        gradients = [parameter.grad for parameter in layer.parameters()]
        results.append([y_BSD, x_BSD.grad, record.load_E, record.chosen_load_E, record.kept_A, record.final_expert_ids_A, *gradients])
    for limited, dropless in zip(*results, strict=True):
        assert torch.equal(limited, dropless)


@pytest.mark.parametrize("overflow", OVERFLOWS)
def test_training_and_evaluation_have_their_own_factors(overflow):
    # 12 tokens of a sequence, 4 experts, top-1. Factor 1/3: C = 1 each, 4 kept at most. 4 and null: all.
    x_BSD = torch.randn(1, 12, D_MODEL, generator=torch.Generator().manual_seed(1))
    for eval_factor, num_kept in ((4.0, 12), (None, 12), (1 / 3, 4)):
        layer = layer_of(CapacityConfig(factor=1 / 3, eval_factor=eval_factor, overflow=overflow), top_k=1)
        _, record = layer(x_BSD)
        assert record.load_E.max() == 1
        _, record = layer.eval()(x_BSD)
        if num_kept == 12:
            assert record.load_E.sum() == 12
        else:
            assert record.load_E.max() == 1


@pytest.mark.parametrize("overflow", OVERFLOWS)
@pytest.mark.parametrize("order", ORDERS)
def test_no_assignment_at_all_is_fine(order, overflow):
    routing = routing_of([[0]], [[1.0]], seq_len=1)
    nothing = {name: getattr(routing, name)[:0] for name in ("token_ids_A", "expert_ids_A", "weights_A", "choices_A")}
    empty = dataclasses.replace(routing, **nothing)
    queues, record = dispatch_with_capacity(empty, CapacityConfig(order=order, overflow=overflow), factor=1.0)
    assert len(queues.token_ids_A) == record.load_E.sum() == record.chosen_load_E.sum() == 0
    assert dispatch_dropless(empty)[1].load_E.tolist() == [0]


@given(st.integers(1, 100), st.one_of(st.none(), st.integers(1, 100)), st.integers(1, 16), st.integers(1, 16))
def test_can_drop_says_whether_any_expert_can_ever_overflow(twentieths, eval_twentieths, num_experts, top_k):
    top_k = min(top_k, num_experts)
    eval_factor = None if eval_twentieths is None else eval_twentieths / 20
    config = CapacityConfig(factor=twentieths / 20, eval_factor=eval_factor)
    # An expert gets each of the N tokens of a group at most once, so it overflows where C < N for some N.
    # factor * top_k / E is a multiple of 1 / (20 * 16), so a group of 320 * E tokens shows it if any does.
    factors = [factor for factor in (config.factor, config.eval_factor) if factor is not None]
    sizes = [1, 2, 3, 17, 320 * num_experts]
    overflows = any(expert_capacity(factor, top_k, size, num_experts) < size for factor in factors for size in sizes)
    assert config.can_drop(top_k, num_experts) == overflows


@pytest.mark.parametrize(
    "wrong", [{"factor": 0.0}, {"factor": -1.0}, {"eval_factor": 0.0}, {"order": "loss"}, {"group": "all"}, {"overflow": "x"}]
)
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        CapacityConfig(**wrong)
