"""Compares a router with an oracle that goes token by token: the list, the weights, the probabilities, the smooth load, every gradient.

An oracle is a function of (router, x_BSD, padding_T). It works in float64 on single numbers, and draws its noise as the router does:
the same shapes in the same order, from a global generator that is seeded alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor

from moecli.moe.routers import ROUTERS, RouterConfig
from moecli.moe.routers.base import Router
from moecli.moe.routing import Routing, Tokens

D_MODEL = 5
quick = settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@dataclass
class Expected:
    """What an oracle found."""

    entries: list[tuple[int, int, int]] = field(default_factory=list)
    """(token, expert, choice) in the order of the Routing."""
    weights: list[Tensor] = field(default_factory=list)
    """One scalar per entry."""
    probs: list[Tensor] = field(default_factory=list)
    """Scalars, token by token and expert by expert."""
    smooth_load: list[Tensor] = field(default_factory=list)
    """As `probs`; empty if there is none."""

    def add(self, token: int, expert: int, choice: int, weight: Tensor) -> None:
        self.entries.append((token, expert, choice))
        self.weights.append(weight)


Oracle = Callable[[Router, Tensor, list[bool]], Expected]


def logits_of(weight_ED: Tensor, x_D: Tensor) -> list[Tensor]:
    """x W^T, a sum over d for each expert."""
    return [sum((weight_ED[e, d].double() * x_D[d].double() for d in range(len(x_D))), torch.zeros(())) for e in range(len(weight_ED))]


def softmax(logits: Sequence[Tensor]) -> list[Tensor]:
    exponentials = [torch.exp(logit) for logit in logits]
    total = sum(exponentials)
    return [exponential / total for exponential in exponentials]


def largest(values: Sequence[Tensor | float], count: int) -> list[int]:
    """Where the `count` largest values are, the largest first."""
    numbers = [value.item() if isinstance(value, Tensor) else value for value in values]
    return sorted(range(len(numbers)), key=lambda index: -numbers[index])[:count]


def normal_cdf(z: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(z / 2**0.5))


def build(config: RouterConfig, num_experts: int, seed: int = 0) -> Router:
    """A router with random weights and, where it has one, a random selection bias."""
    router = ROUTERS[config.kind](config, D_MODEL, num_experts)
    generator = torch.Generator().manual_seed(seed)
    for parameter in router.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    if router.selection_bias_E is not None:
        router.selection_bias_E.normal_(std=0.4, generator=generator)
    return router


def entries_of(routing: Routing) -> list[tuple[int, int, int]]:
    """(token, expert, choice) of each assignment."""
    return list(zip(routing.token_ids_A.tolist(), routing.expert_ids_A.tolist(), routing.choices_A.tolist(), strict=True))


def assert_equals_oracle(router: Router, oracle: Oracle, x_BSD: Tensor, tokens: Tokens | None = None, seed: int = 0) -> Routing:
    x_BSD = x_BSD.clone().requires_grad_()
    no_padding = torch.zeros(x_BSD.shape[:2], dtype=torch.bool)
    is_padding_BS = no_padding if tokens is None or tokens.is_padding_BS is None else tokens.is_padding_BS
    torch.manual_seed(seed)
    routing = router(x_BSD, tokens)
    torch.manual_seed(seed)
    expected = oracle(router, x_BSD, is_padding_BS.flatten().tolist())

    assert entries_of(routing) == expected.entries
    assert (routing.smooth_load_TE is not None) == bool(expected.smooth_load)
    values = [routing.weights_A, routing.probs_TE.flatten()]
    if routing.smooth_load_TE is not None:
        values.append(routing.smooth_load_TE.flatten())
    ours, theirs = torch.cat(values), torch.stack([*expected.weights, *expected.probs, *expected.smooth_load])
    torch.testing.assert_close(ours, theirs.float(), rtol=1e-5, atol=2e-6)

    assert ours.requires_grad == theirs.requires_grad
    if ours.requires_grad:
        coefficients = torch.randn(len(ours), generator=torch.Generator().manual_seed(seed))
        inputs = [x_BSD, *router.parameters()]
        our_grads = torch.autograd.grad(ours, inputs, coefficients, allow_unused=True, materialize_grads=True)
        their_grads = torch.autograd.grad(theirs, inputs, coefficients.double(), allow_unused=True, materialize_grads=True)
        for our_grad, their_grad in zip(our_grads, their_grads, strict=True):
            torch.testing.assert_close(our_grad, their_grad, rtol=1e-4, atol=1e-5)
    return routing


@dataclass(frozen=True)
class Case:
    """An input drawn by hypothesis."""

    x_BSD: Tensor
    tokens: Tokens
    num_experts: int
    top_k: int
    seed: int


@st.composite
def cases(draw: st.DrawFn, num_experts: int | None = None, most_k: int | None = None, fewest_experts: int = 1) -> Case:
    """1 to 3 sequences of 1 to 6 positions, 1 to 6 experts, k from 1 to E; with padding here and there, or without."""
    batch_size, seq_len = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    num_experts = num_experts or draw(st.integers(fewest_experts, 6))
    top_k = draw(st.integers(1, most_k or num_experts))
    seed = draw(st.integers(0, 10**6))
    generator = torch.Generator().manual_seed(seed)
    ids_BS = torch.randint(1000, (batch_size, seq_len), generator=generator)
    is_padding_BS = torch.rand(batch_size, seq_len, generator=generator) < 0.3 if draw(st.booleans()) else None
    x_BSD = torch.randn(batch_size, seq_len, D_MODEL, generator=generator)
    return Case(x_BSD, Tokens(ids_BS, is_padding_BS), num_experts, top_k, seed)


def large_case(top_k: int, num_experts: int = 6) -> Case:
    """The largest input that `cases` draws, which it draws seldom: 18 tokens, three of them padding."""
    generator = torch.Generator().manual_seed(top_k)
    is_padding_BS = torch.zeros(3, 6, dtype=torch.bool)
    is_padding_BS[1, 0] = is_padding_BS[2, 4:] = True
    tokens = Tokens(torch.randint(1000, (3, 6), generator=generator), is_padding_BS)
    return Case(torch.randn(3, 6, D_MODEL, generator=generator), tokens, num_experts, top_k, seed=top_k)
