"""Degenerate identities between the kinds, the sparse layer against its equation, and what every kind owes the contract."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from moecli.moe.activations import ACTIVATIONS
from moecli.moe.capacity import CapacityConfig
from moecli.moe.layers import FEED_FORWARDS, MLP, DenseMoE, DenseMoEConfig, MLPConfig, SoftMoEConfig, SparseMoE, SparseMoEConfig
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
from moecli.moe.routing import Routing, RoutingRecord, Tokens
from tests.moe.oracle import expert_output, softmax_top_k, weighted_experts

D_MODEL, D_EXPERT = 8, 4

# Every router with its main options. Keys are test ids.
ROUTER_CONFIGS: dict[str, RouterConfig] = {
    "topk": TopKConfig(),
    "topk-1": TopKConfig(top_k=1),
    "topk-unnormalised": TopKConfig(normalize_weights=False),
    "topk-jitter": TopKConfig(input_jitter=0.3),
    "topk-toss": TopKConfig(keep_threshold=0.8),
    "topk-bias": TopKConfig(selection_bias=True),
    "noisy_topk": NoisyTopKConfig(),
    "vmoe_topk": VMoETopKConfig(noise_std=3.0),
    "sigmoid_topk": SigmoidTopKConfig(),
    "sigmoid_topk-1": SigmoidTopKConfig(top_k=1),
    "sigmoid_topk-groups": SigmoidTopKConfig(num_groups=2, top_groups=1, scale=2.5, selection_bias=False),
    "sigmoid_topk-groups-max": SigmoidTopKConfig(num_groups=2, top_groups=1, group_score="max", normalize_weights=False),
    "hash": HashConfig(),
    "hash-2": HashConfig(top_k=2),
    "random": RandomConfig(),
    "expert_choice": ExpertChoiceConfig(),
    "expert_choice-batch": ExpertChoiceConfig(pool="batch", experts_per_token=1.5),
}
# 6 tokens of a sequence and 4 experts at half the even share: C = ceil(0.5 * 2 * 6 / 4) = 2 with top-2, 1 with top-1: not all can stay.
CAPACITIES: dict[str, CapacityConfig | None] = {
    "dropless": None,
    "token": CapacityConfig(factor=0.5, eval_factor=0.5),
    "choice": CapacityConfig(factor=0.5, eval_factor=0.5, order="choice"),
    "priority": CapacityConfig(factor=0.5, eval_factor=0.5, order="priority"),
    "next": CapacityConfig(factor=0.5, eval_factor=0.5, overflow="next"),
    "next-batch": CapacityConfig(factor=0.5, eval_factor=0.5, overflow="next", group="batch"),
}
ROUTED = [
    pytest.param(SparseMoEConfig(num_experts=4, d_expert=D_EXPERT, router=router, capacity=capacity), id=f"{name}-{dispatch}")
    for name, router in ROUTER_CONFIGS.items()
    for dispatch, capacity in CAPACITIES.items()
    if not (router.fixes_load and capacity is not None)
]


def test_every_router_is_here():
    assert {config.kind for config in ROUTER_CONFIGS.values()} == set(ROUTERS)


def build(config, activation="swiglu", seed=0, d_model=D_MODEL):
    config = config.with_default_widths(d_model)
    layer = FEED_FORWARDS[config.kind](config, d_model, activation)
    generator = torch.Generator().manual_seed(seed)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    if layer.selection_bias_E is not None:
        layer.selection_bias_E.copy_(torch.linspace(-0.1, 0.1, len(layer.selection_bias_E)))
    return layer


def tokens_of(batch_size: int, seq_len: int, padding: list[int] | None = None) -> Tokens:
    """Random ids; `padding` tells how many tokens at the end of each sequence are padding."""
    ids_BS = torch.randint(50, (batch_size, seq_len), generator=torch.Generator().manual_seed(2))
    if padding is None:
        return Tokens(ids_BS)
    return Tokens(ids_BS, torch.arange(seq_len) >= seq_len - torch.tensor(padding)[:, None])


def inputs(batch_size: int, seq_len: int, d_model: int = D_MODEL, seed: int = 1) -> Tensor:
    return torch.randn(batch_size, seq_len, d_model, generator=torch.Generator().manual_seed(seed))


def sparse(num_experts=4, top_k=2, **options):
    normalize = options.pop("normalize_weights", None)
    router = TopKConfig(top_k=top_k, normalize_weights=normalize)
    return SparseMoEConfig(num_experts=num_experts, d_expert=D_EXPERT, router=router, **options)


def gradients(layer: nn.Module, x_BSD: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Output, gradient of the input, gradients of the parameters."""
    x_BSD = x_BSD.clone().requires_grad_()
    y_BSD, _ = layer(x_BSD)
    layer.zero_grad()
    y_BSD.backward(torch.linspace(-1, 1, y_BSD.numel()).view_as(y_BSD))
    return y_BSD.detach(), x_BSD.grad, {name: parameter.grad for name, parameter in layer.named_parameters()}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("top_k", "normalize_weights"), [(1, False), (2, True), (2, False), (4, False)])
@pytest.mark.parametrize("shared", [{}, {"num_shared_experts": 2, "d_shared_expert": 3}, {"num_shared_experts": 1, "shared_gate": True}])
def test_sparse_equals_a_per_token_double_loop_with_every_gradient(activation, top_k, normalize_weights, shared):
    layer = build(sparse(top_k=top_k, normalize_weights=normalize_weights, **shared), activation)
    x_BSD = torch.randn(2, 5, D_MODEL, generator=torch.Generator().manual_seed(1))

    class Oracle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x_BSD: Tensor) -> tuple[Tensor, None]:
            experts, rows = layer.experts, []
            for x_D in x_BSD.flatten(0, 1):
                y_D = torch.zeros(D_MODEL)
                for expert, weight in softmax_top_k(x_D, layer.router.weight, top_k, normalize_weights):
                    y_D = y_D + weight * expert_output(activation, x_D, experts.in_proj[expert], experts.out_proj[expert])
                if layer.shared is not None:
                    shared_D = expert_output(activation, x_D, layer.shared.in_proj.weight, layer.shared.out_proj.weight)
                    gate = 1.0 if layer.shared_gate is None else 1 / (1 + torch.exp(-(layer.shared_gate.weight @ x_D)))
                    y_D = y_D + gate * shared_D
                rows.append(y_D)
            return torch.stack(rows).view_as(x_BSD), None

    y, x_grad, param_grads = gradients(layer, x_BSD)
    expected_y, expected_x_grad, expected_param_grads = gradients(Oracle(), x_BSD)
    torch.testing.assert_close(y, expected_y, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(x_grad, expected_x_grad, rtol=1e-4, atol=1e-5)
    for name, grad in param_grads.items():
        torch.testing.assert_close(
            grad, expected_param_grads[f"layer.{name}"], rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_one_expert_is_the_mlp(activation):
    layer = build(sparse(num_experts=1, top_k=1), activation)
    mlp = MLP(MLPConfig(d_ff=D_EXPERT), D_MODEL, activation)
    mlp.load_state_dict({"in_proj.weight": layer.experts.in_proj[0], "out_proj.weight": layer.experts.out_proj[0]})
    x_BSD = torch.randn(2, 3, D_MODEL)
    y, x_grad, param_grads = gradients(layer, x_BSD)
    mlp_y, mlp_x_grad, mlp_grads = gradients(mlp, x_BSD)
    torch.testing.assert_close(y, mlp_y)
    torch.testing.assert_close(x_grad, mlp_x_grad)
    torch.testing.assert_close(param_grads["experts.in_proj"][0], mlp_grads["in_proj.weight"])
    torch.testing.assert_close(param_grads["experts.out_proj"][0], mlp_grads["out_proj.weight"])
    # softmax over one expert is 1 whatever the logit, so the router can't learn.
    assert torch.equal(param_grads["router.weight"], torch.zeros(1, D_MODEL))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("normalize_weights", [True, False])
def test_all_experts_chosen_is_the_dense_moe(activation, normalize_weights):
    # The probabilities of all experts sum to 1 already, so both settings are the dense MoE.
    layer = build(sparse(num_experts=4, top_k=4, normalize_weights=normalize_weights), activation)
    dense = DenseMoE(DenseMoEConfig(num_experts=4, d_expert=D_EXPERT), D_MODEL, activation)
    dense.load_state_dict(
        {
            "gate_weight": layer.router.weight,
            "experts.in_proj": layer.experts.in_proj,
            "experts.out_proj": layer.experts.out_proj,
        }
    )
    x_BSD = torch.randn(2, 3, D_MODEL)
    y, x_grad, param_grads = gradients(layer, x_BSD)
    dense_y, dense_x_grad, dense_grads = gradients(dense, x_BSD)
    torch.testing.assert_close(y, dense_y)
    torch.testing.assert_close(x_grad, dense_x_grad)
    for name, dense_name in {
        "router.weight": "gate_weight",
        "experts.in_proj": "experts.in_proj",
        "experts.out_proj": "experts.out_proj",
    }.items():
        torch.testing.assert_close(param_grads[name], dense_grads[dense_name], rtol=1e-4, atol=1e-5)


def test_dense_record_gives_every_token_to_every_expert():
    layer = build(DenseMoEConfig(num_experts=3, d_expert=D_EXPERT))
    _, record = layer(torch.randn(2, 2, D_MODEL))
    assert record.load_E.tolist() == [4, 4, 4]
    assert record.routing.token_ids_A.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    torch.testing.assert_close(record.routing.weights_A.view(4, 3), record.routing.probs_TE)


def kept_assignments(record: RoutingRecord) -> Routing:
    """The assignments that were computed, as a routing of their own: where they ran, and what they weigh there.

    A moved assignment weighs w * p(where it ran) / p(where it was to run), and never more than w.
    """
    routing, kept = record.routing, record.kept_A.nonzero().flatten().tolist()
    weights = []
    for index in kept:
        token, chosen, final = (int(list_A[index]) for list_A in (routing.token_ids_A, routing.expert_ids_A, record.final_expert_ids_A))
        weight, prob_E = routing.weights_A[index], routing.probs_TE[token]
        weights.append(weight * prob_E[final] / prob_E[chosen] if prob_E[final] < prob_E[chosen] else weight)
    return dataclasses.replace(
        routing,
        token_ids_A=routing.token_ids_A[kept],
        expert_ids_A=record.final_expert_ids_A[kept],
        weights_A=torch.stack(weights),
        choices_A=routing.choices_A[kept],
    )


@pytest.mark.parametrize("mode", ["training", "evaluation"])
@pytest.mark.parametrize("config", ROUTED)
def test_sparse_is_the_sum_over_its_record_with_every_gradient(config, mode):
    layer = build(config).train(mode == "training")
    x_BSD = inputs(2, 6).requires_grad_()
    tokens = tokens_of(2, 6)
    leaves = [x_BSD, *layer.parameters()]
    names = ["x", *(name for name, _ in layer.named_parameters())]
    upstream_BSD = torch.linspace(-1, 1, x_BSD.numel()).view_as(x_BSD)

    def gradients_of(y_BSD: Tensor) -> list[Tensor | None]:
        return list(torch.autograd.grad(y_BSD, leaves, upstream_BSD, allow_unused=True))

    torch.manual_seed(3)
    y_BSD, record = layer(x_BSD, tokens)
    torch.manual_seed(3)
    _, again = layer(x_BSD, tokens)
    assert torch.equal(again.routing.weights_A, record.routing.weights_A)
    expected_TD = weighted_experts("swiglu", x_BSD.flatten(0, 1), kept_assignments(again), layer.experts.in_proj, layer.experts.out_proj)
    torch.testing.assert_close(y_BSD, expected_TD.view_as(x_BSD), rtol=1e-4, atol=1e-5)
    for name, ours, expected in zip(names, gradients_of(y_BSD), gradients_of(expected_TD.view_as(x_BSD)), strict=True):
        if name == "router.noise_weight" and mode == "evaluation":
            assert ours is None and expected is None
            continue
        assert ours.abs().sum() > 0, f"{name} learns nothing"
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")

    if config.capacity is None:
        assert record.kept_A.all()
        assert torch.equal(record.final_expert_ids_A, record.routing.expert_ids_A)
    else:
        # Without the toss there are more choices than room; with it there may be less.
        tossed = isinstance(config.router, TopKConfig) and config.router.keep_threshold is not None and mode == "training"
        assert tossed or not record.kept_A.all()
        moved_A = record.final_expert_ids_A != record.routing.expert_ids_A
        assert not (moved_A & ~record.kept_A).any()
        assert moved_A.any() == (config.capacity.overflow == "next")


@pytest.mark.parametrize("config", ROUTED)
def test_widths_that_are_no_multiples_of_anything_and_expanded_gradients(config):
    layer = build(config.model_copy(update={"d_expert": 3}), d_model=7).eval()
    x_BSD = inputs(2, 5, d_model=7).requires_grad_()
    y_BSD, _ = layer(x_BSD, tokens_of(2, 5))
    # The gradient of a sum is one number, expanded: all its strides are 0. So is that of a mean over a repeated output.
    leaves = [parameter for name, parameter in layer.named_parameters() if name != "router.noise_weight"]
    of_sum = torch.autograd.grad(y_BSD.sum(), [x_BSD, *leaves], retain_graph=True)
    of_expanded = torch.autograd.grad(y_BSD[None].expand(3, -1, -1, -1).sum(), [x_BSD, *leaves], retain_graph=True)
    plain = torch.autograd.grad(y_BSD, [x_BSD, *leaves], torch.ones(2, 5, 7))
    for summed, expanded, expected in zip(of_sum, of_expanded, plain, strict=True):
        torch.testing.assert_close(summed, expected)
        torch.testing.assert_close(expanded, 3 * expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", ROUTED)
def test_padding_takes_no_room_and_appears_in_no_load(config):
    layer = build(config)
    tokens = tokens_of(3, 6, padding=[0, 2, 6])
    x_BSD = inputs(3, 6)
    torch.manual_seed(3)
    y_BSD, record = layer(x_BSD, tokens)
    is_padding_T = tokens.is_padding_BS.flatten()
    assert torch.equal(record.routing.is_padding_T, is_padding_T)
    assert not is_padding_T[record.routing.token_ids_A].any()
    assert record.chosen_load_E.sum() == len(record.routing.token_ids_A) == len(record.kept_A)
    assert record.load_E.sum() == record.kept_A.sum()
    assert (y_BSD[tokens.is_padding_BS] == 0).all(), "padding went to an expert"
    if config.capacity is not None and config.capacity.overflow == "residual" and config.capacity.group == "sequence":
        # Room is used up by the tokens alone.
        group_A = record.routing.token_ids_A // 6
        room = 2 if config.router.top_k == 2 else 1
        for group in range(3):
            for expert in range(4):
                is_here_A = (group_A == group) & (record.routing.expert_ids_A == expert)
                assert (is_here_A & record.kept_A).sum() == min(room, int(is_here_A.sum()))
    # What padding looks like changes nothing. (Expert choice: another padding could only lose against the tokens, too.)
    changed_BSD = x_BSD.masked_fill(tokens.is_padding_BS[..., None], 7.0)
    torch.manual_seed(3)
    changed_y_BSD, changed = layer(changed_BSD, tokens)
    assert torch.equal(changed.routing.token_ids_A, record.routing.token_ids_A)
    assert torch.equal(changed.final_expert_ids_A, record.final_expert_ids_A)
    torch.testing.assert_close(changed_y_BSD, y_BSD)


@pytest.mark.parametrize(
    "config",
    [
        *(
            pytest.param(SparseMoEConfig(num_experts=4, d_expert=D_EXPERT, router=router, num_shared_experts=1), id=name)
            for name, router in ROUTER_CONFIGS.items()
            if not router.fixes_load
        ),
        pytest.param(MLPConfig(), id="mlp"),
        pytest.param(DenseMoEConfig(num_experts=3, d_expert=D_EXPERT), id="dense"),
    ],
)
def test_with_padding_every_token_is_computed_as_in_the_sequence_cut_short(config):
    layer = build(config).eval()
    x_BSD, tokens = inputs(2, 6), tokens_of(2, 6, padding=[0, 2])
    y_BSD, record = layer(x_BSD, tokens)
    short_BSD, short = layer(x_BSD[1:, :4], Tokens(tokens.ids_BS[1:, :4]))
    whole_BSD, whole = layer(x_BSD[:1], Tokens(tokens.ids_BS[:1]))
    torch.testing.assert_close(y_BSD[1:, :4], short_BSD)
    torch.testing.assert_close(y_BSD[:1], whole_BSD)
    if record is not None:
        assert torch.equal(record.load_E, short.load_E + whole.load_E)
        assert torch.equal(record.routing.expert_ids_A, torch.cat([whole.routing.expert_ids_A, short.routing.expert_ids_A]))
        torch.testing.assert_close(record.routing.weights_A, torch.cat([whole.routing.weights_A, short.routing.weights_A]))


EVERY_CONFIG = [
    pytest.param(MLPConfig(), id="mlp"),
    pytest.param(DenseMoEConfig(num_experts=4), id="dense"),
    pytest.param(SoftMoEConfig(num_experts=4), id="soft-sequence"),
    pytest.param(SoftMoEConfig(num_experts=4, mixing="batch", group_size=2), id="soft-batch"),
    *ROUTED,
]


def test_every_kind_is_here():
    assert {param.values[0].kind for param in EVERY_CONFIG} == set(FEED_FORWARDS)


@pytest.mark.parametrize("config", EVERY_CONFIG)
def test_every_layer_keeps_the_shape_and_says_which_experts_it_used(config):
    layer = build(config)
    y_BSD, record = layer(inputs(3, 5), tokens_of(3, 5))
    assert y_BSD.shape == (3, 5, D_MODEL)
    assert y_BSD.isfinite().all()
    assert (record is None) == (config.kind == "mlp") == (not layer.routes)
    if record is not None:
        routing = record.routing
        assert routing.logits_TE.shape == routing.probs_TE.shape == (15, 4)
        torch.testing.assert_close(routing.probs_TE.sum(dim=-1), torch.ones(15))
        lists = (routing.token_ids_A, routing.expert_ids_A, routing.weights_A, routing.choices_A, record.kept_A, record.final_expert_ids_A)
        assert {len(list_A) for list_A in lists} == {len(routing.token_ids_A)}
        assert routing.seq_len == 5
        assert record.load_E.sum() == record.kept_A.sum()
        assert record.chosen_load_E.sum() == len(routing.token_ids_A)
        assert torch.equal(record.load_E, torch.bincount(record.final_expert_ids_A[record.kept_A], minlength=4))
        assert torch.equal(record.chosen_load_E, torch.bincount(routing.expert_ids_A, minlength=4))


@pytest.mark.parametrize("config", EVERY_CONFIG)
def test_one_token_is_enough(config):
    layer = build(config)
    y_BSD, _ = layer(inputs(1, 1).requires_grad_(), tokens_of(1, 1))
    y_BSD.sum().backward()
    assert y_BSD.isfinite().all()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in layer.parameters())


@pytest.mark.parametrize("capacity", CAPACITIES.values(), ids=CAPACITIES)
@pytest.mark.parametrize(
    "router", [TopKConfig(top_k=1), SigmoidTopKConfig(top_k=1), VMoETopKConfig(top_k=1), HashConfig()], ids=lambda r: r.kind
)
def test_one_expert_keeps_as_many_tokens_as_it_has_room_for(capacity, router):
    # One expert: C = ceil(0.5 * 6) = 3 of the 6 tokens of a sequence, 6 of the batch; there is no other expert to go to.
    layer = build(SparseMoEConfig(num_experts=1, d_expert=D_EXPERT, router=router, capacity=capacity)).eval()
    y_BSD, record = layer(inputs(2, 6), tokens_of(2, 6))
    assert record.load_E.tolist() == [12 if capacity is None else 6]
    assert (y_BSD != 0).any(dim=-1).sum() == record.load_E.sum()


def test_active_params_leave_out_the_idle_experts():
    # swiglu expert: in [2*4, 8] + out [8, 4] = 96 numbers. Router [4, 8] = 32.
    # total = 32 + 4 * 96 = 416; top-2 of 4 leaves 2 * 96 = 192 idle.
    layer = build(sparse(num_experts=4, top_k=2))
    assert sum(parameter.numel() for parameter in layer.parameters()) == 416
    assert layer.num_active_params == 416 - 192


def test_two_layers_do_not_share_anything():
    first, second = build(sparse(), seed=0), build(sparse(), seed=0)
    x_BSD = torch.randn(1, 4, D_MODEL)
    before, _ = first(x_BSD)
    second(torch.randn(1, 4, D_MODEL))
    after, _ = first(x_BSD)
    assert torch.equal(before, after)
    assert isinstance(first, SparseMoE)
