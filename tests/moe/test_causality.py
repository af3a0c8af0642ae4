"""What a layer declares about causality is what it does: no token sees its future, nor another row, unless the config says so.

The future of one row is changed, from a random place on. The past of that row, decisions and outputs, and all of the other rows must stay.
"""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from moecli.moe.capacity import CapacityConfig
from moecli.moe.causality import Leak
from moecli.moe.layers import FEED_FORWARDS, DenseMoEConfig, FeedForward, FeedForwardConfig, MLPConfig, SoftMoEConfig, SparseMoEConfig
from moecli.moe.routers import (
    ROUTERS,
    ExpertChoiceConfig,
    HashConfig,
    NoisyTopKConfig,
    RandomConfig,
    RouterConfig,
    TopKConfig,
    VMoETopKConfig,
)
from moecli.moe.routers.sigmoid_topk import SigmoidTopKConfig
from moecli.moe.routing import RoutingRecord, Tokens

NUM_ROWS, SEQ_LEN, NUM_EXPERTS, D_MODEL = 3, 12, 4, 6
# Trials of a config that must not leak; one that does leak shows it long before the second number, nearly all of them before the first.
TRIALS, MOST_TRIALS = 10, 150

ROUTER_CONFIGS: dict[str, RouterConfig] = {
    "topk-1": TopKConfig(top_k=1),
    "topk-2": TopKConfig(top_k=2, input_jitter=0.1, selection_bias=True),
    "topk-2-toss": TopKConfig(top_k=2, keep_threshold=0.5, normalize_weights=False),
    "noisy_topk-2": NoisyTopKConfig(top_k=2),
    "vmoe_topk-1": VMoETopKConfig(top_k=1),
    "vmoe_topk-2": VMoETopKConfig(top_k=2),
    "sigmoid_topk-1": SigmoidTopKConfig(top_k=1),
    "sigmoid_topk-2": SigmoidTopKConfig(top_k=2, num_groups=2, top_groups=1),
    "hash-1": HashConfig(top_k=1),
    "hash-2": HashConfig(top_k=2),
    "random-1": RandomConfig(top_k=1),
    "random-2": RandomConfig(top_k=2),
    "expert_choice-sequence": ExpertChoiceConfig(pool="sequence", experts_per_token=1.5),
    "expert_choice-batch": ExpertChoiceConfig(pool="batch", experts_per_token=1.5),
}
CAPACITIES: dict[str, CapacityConfig | None] = {"dropless": None} | {
    f"{order}-{group}-{overflow}": CapacityConfig(factor=1.0, eval_factor=1.0, order=order, group=group, overflow=overflow)
    for order, group, overflow in product(("token", "choice", "priority"), ("sequence", "batch"), ("residual", "next"))
}
CONFIGS: dict[str, FeedForwardConfig] = {
    "mlp": MLPConfig(),
    "dense": DenseMoEConfig(num_experts=NUM_EXPERTS),
    "soft-sequence": SoftMoEConfig(num_experts=NUM_EXPERTS),
    "soft-batch": SoftMoEConfig(num_experts=NUM_EXPERTS, mixing="batch", group_size=2),
} | {
    f"{name}-{dispatch}": SparseMoEConfig(num_experts=NUM_EXPERTS, d_expert=4, router=router, capacity=capacity)
    for (name, router), (dispatch, capacity) in product(ROUTER_CONFIGS.items(), CAPACITIES.items())
    if not (router.fixes_load and capacity is not None)
}


def build(config: FeedForwardConfig) -> FeedForward:
    config = config.with_default_widths(D_MODEL)
    layer = FEED_FORWARDS[config.kind](config, D_MODEL, "swiglu")
    generator = torch.Generator().manual_seed(0)
    for name, parameter in layer.named_parameters():
        # Logits of about 2, so that all experts are chosen by some tokens; outputs of about 1.
        nn.init.normal_(parameter, std=1.0 if "router" in name or "mixer" in name else 0.5, generator=generator)
    return layer


def run(layer: FeedForward, x_BSD: Tensor, ids_BS: Tensor) -> tuple[Tensor, RoutingRecord | None]:
    torch.manual_seed(7)  # the same noise in every run
    with torch.no_grad():
        return layer(x_BSD, Tokens(ids_BS))


def decisions(record: RoutingRecord | None, is_watched_T: Tensor) -> list[list[float]]:
    """(token, expert, weight) of the kept assignments of the watched tokens, in an order of their own; exact."""
    if record is None:
        return []
    routing = record.routing
    kept_A = record.kept_A & is_watched_T[routing.token_ids_A]
    lists = (routing.token_ids_A, record.final_expert_ids_A, routing.weights_A)
    return sorted(zip(*(list_A[kept_A].tolist() for list_A in lists), strict=True))


def leaks_seen(layer: FeedForward, declared: set[str]) -> set[str]:
    """What changed in the past of the row whose future was changed, and in the other rows, over many trials."""
    generator = torch.Generator().manual_seed(1)
    seen: set[str] = set()
    num_reached = 0
    for trial in range(MOST_TRIALS):
        if trial >= TRIALS and seen >= declared:
            break
        x_BSD = torch.randn(NUM_ROWS, SEQ_LEN, D_MODEL, generator=generator)
        ids_BS = torch.randint(100, (NUM_ROWS, SEQ_LEN), generator=generator)
        row, cut = trial % NUM_ROWS, int(torch.randint(1, SEQ_LEN, (1,), generator=generator))
        x_changed_BSD, ids_changed_BS = x_BSD.clone(), ids_BS.clone()
        x_changed_BSD[row, cut:] = torch.randn(SEQ_LEN - cut, D_MODEL, generator=generator)
        ids_changed_BS[row, cut:] = torch.randint(100, (SEQ_LEN - cut,), generator=generator)
        y_BSD, record = run(layer, x_BSD, ids_BS)
        y_changed_BSD, record_changed = run(layer, x_changed_BSD, ids_changed_BS)
        num_reached += not torch.equal(y_changed_BSD[row, cut:], y_BSD[row, cut:])

        is_past_BS = torch.zeros(NUM_ROWS, SEQ_LEN, dtype=torch.bool)
        is_past_BS[row, :cut] = True
        is_other_BS = torch.ones(NUM_ROWS, SEQ_LEN, dtype=torch.bool)
        is_other_BS[row] = False
        for sees, is_watched_BS in (("future", is_past_BS), ("rows", is_other_BS)):
            is_watched_T = is_watched_BS.flatten()
            same = decisions(record, is_watched_T) == decisions(record_changed, is_watched_T)
            if not same or (y_changed_BSD - y_BSD)[is_watched_BS].abs().max() > 1e-5:
                seen.add(sees)
    # Not in every trial: a capacity may drop all of a short future.
    assert num_reached > TRIALS // 2, "the changes reached nothing"
    return seen


@pytest.mark.parametrize("mode", ["training", "evaluation"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_layer_leaks_what_its_config_declares_and_nothing_else(config, mode):
    declared = {leak.sees for leak in config.leaks()}
    if mode == "training" and isinstance(config, SparseMoEConfig) and config.router.kind == "random":
        declared = set()  # fresh draws know nothing of the tokens; what is declared is of evaluation
    seen = leaks_seen(build(config).train(mode == "training"), declared)
    assert seen == declared


def test_every_kind_and_router_is_here():
    assert {config.kind for config in CONFIGS.values()} == set(FEED_FORWARDS)
    assert {config.kind for config in ROUTER_CONFIGS.values()} == set(ROUTERS)


def sparse(router: RouterConfig, **capacity) -> SparseMoEConfig:
    return SparseMoEConfig(num_experts=NUM_EXPERTS, router=router, capacity=CapacityConfig(**capacity) if capacity else None)


TOP_1, TOP_2 = TopKConfig(top_k=1), TopKConfig(top_k=2)


@pytest.mark.parametrize(
    ("config", "declared"),
    [
        (MLPConfig(), []),
        (DenseMoEConfig(), []),
        (SoftMoEConfig(), [("future", "mixing")]),
        (SoftMoEConfig(mixing="batch"), [("rows", "mixing")]),
        *((sparse(router.config_class()), []) for kind, router in ROUTERS.items() if kind != "expert_choice"),
        (sparse(ExpertChoiceConfig(pool="sequence")), [("future", "router.pool")]),
        (sparse(ExpertChoiceConfig(pool="batch")), [("rows", "router.pool")]),
        (sparse(TOP_1, factor=1.0, order="token"), []),
        (sparse(TOP_2, factor=1.0, order="token"), []),
        (sparse(TOP_2, factor=1.0, order="token", overflow="next"), []),
        (sparse(TOP_1, factor=1.0, order="token", group="batch"), [("rows", "capacity.group")]),
        (sparse(TOP_1, factor=1.0, order="choice"), []),  # there are first choices alone
        (sparse(TOP_2, factor=1.0, order="choice"), [("future", "capacity.order")]),
        (sparse(TOP_2, factor=1.25, order="choice", overflow="next"), [("future", "capacity.order")]),
        (sparse(TOP_2, factor=1.0, order="choice", group="batch"), [("future", "capacity.order"), ("rows", "capacity.group")]),
        (sparse(TOP_1, factor=1.0, order="priority"), [("future", "capacity.order")]),
        (sparse(TOP_2, factor=1.0, order="priority", group="batch"), [("future", "capacity.order"), ("rows", "capacity.group")]),
        # Where all weights are even, no token has priority.
        *((sparse(router(top_k=1), factor=1.0, order="priority"), []) for router in (HashConfig, RandomConfig)),
        *((sparse(router(top_k=2), factor=1.0, order="token"), []) for router in (HashConfig, RandomConfig)),
        *((sparse(router(top_k=2), factor=1.0, order="choice"), [("future", "capacity.order")]) for router in (HashConfig, RandomConfig)),
        *((sparse(router(top_k=1), factor=1.0, group="batch"), [("rows", "capacity.group")]) for router in (HashConfig, RandomConfig)),
    ],
)
def test_declarations(config, declared):
    leaks = config.leaks()
    assert [(leak.sees, leak.field) for leak in leaks] == declared
    assert all(isinstance(leak, Leak) and leak.why and leak.instead for leak in leaks)


@pytest.mark.parametrize("order", ["token", "choice", "priority"])
@pytest.mark.parametrize("group", ["sequence", "batch"])
@pytest.mark.parametrize("overflow", ["residual", "next"])
@pytest.mark.parametrize(("top_k", "factor", "eval_factor"), [(1, 4.0, 4.0), (2, 2.0, None), (2, 2.5, 2.0), (4, 1.0, 7.0)])
def test_a_capacity_that_never_drops_declares_nothing_and_leaks_nothing(order, group, overflow, top_k, factor, eval_factor):
    config = sparse(TopKConfig(top_k=top_k), factor=factor, eval_factor=eval_factor, order=order, group=group, overflow=overflow)
    assert config.leaks() == []
    layer = build(config.model_copy(update={"d_expert": 4}))
    for training in (True, False):
        assert leaks_seen(layer.train(training), set()) == set()


@pytest.mark.parametrize(("factor", "eval_factor"), [(2.0, 1.9), (1.9, 2.0), (1.9, None)])
def test_room_in_one_mode_alone_does_not_silence_the_declaration(factor, eval_factor):
    # Top-2 of 4 experts: a factor of 2 is the least that never drops.
    config = sparse(TOP_2, factor=factor, eval_factor=eval_factor, order="priority", group="batch")
    assert {leak.sees for leak in config.leaks()} == {"future", "rows"}
