"""Degenerate identities between the kinds, the sparse layer against its equation, and what every kind owes the contract."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from moecli.moe.activations import ACTIVATIONS
from moecli.moe.layers import FEED_FORWARDS, MLP, DenseMoE, DenseMoEConfig, MLPConfig, SparseMoE, SparseMoEConfig
from moecli.moe.routers import ROUTERS, TopKConfig
from tests.moe.oracle import expert_output, softmax_top_k

D_MODEL, D_EXPERT = 8, 4


def build(config, activation="swiglu", seed=0):
    config = config.with_default_widths(D_MODEL)
    layer = FEED_FORWARDS[config.kind](config, D_MODEL, activation)
    generator = torch.Generator().manual_seed(seed)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return layer


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


@pytest.mark.parametrize("kind", FEED_FORWARDS)
def test_every_kind_keeps_the_shape_and_says_which_experts_it_used(kind):
    layer = build(FEED_FORWARDS[kind].config_class())
    y_BSD, record = layer(torch.randn(3, 5, D_MODEL))
    assert y_BSD.shape == (3, 5, D_MODEL)
    assert (record is None) == (kind == "mlp")
    if record is not None:
        assert record.routing.probs_TE.shape[0] == 15
        assert record.load_E.sum() == record.kept_A.sum() == len(record.routing.token_ids_A)


@pytest.mark.parametrize(
    "config",
    [MLPConfig(), DenseMoEConfig(num_experts=4), *(SparseMoEConfig(router=router.config_class()) for router in ROUTERS.values())],
    ids=lambda config: getattr(getattr(config, "router", config), "kind", ""),
)
def test_the_past_does_not_see_the_future_nor_a_row_its_neighbour(config):
    layer = build(config)
    x_BSD = torch.randn(2, 8, D_MODEL)
    changed_BSD = x_BSD.clone()
    changed_BSD[0, 5:] = torch.randn(3, D_MODEL)
    y_BSD, _ = layer(x_BSD)
    y_changed_BSD, _ = layer(changed_BSD)
    torch.testing.assert_close(y_changed_BSD[0, :5], y_BSD[0, :5])
    torch.testing.assert_close(y_changed_BSD[1], y_BSD[1])
    assert not torch.allclose(y_changed_BSD[0, 5:], y_BSD[0, 5:])


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
