"""What a config says of its combine weights is what its router does."""

from __future__ import annotations

import pytest
import torch

from moecli.moe.routers import ROUTERS
from moecli.moe.routing import Tokens

NUM_EXPERTS, D_MODEL = 4, 8
CASES = [
    ("topk", {}),
    ("topk", {"top_k": 1}),
    ("topk", {"top_k": 3, "normalize_weights": False}),
    ("topk", {"top_k": 4, "normalize_weights": False}),
    ("sigmoid_topk", {"scale": 2.5}),
    ("sigmoid_topk", {"top_k": 3, "scale": 2.0, "normalize_weights": False}),
    ("noisy_topk", {"top_k": 3}),
    ("vmoe_topk", {"top_k": 2}),
    ("vmoe_topk", {"top_k": 4}),
    ("hash", {"top_k": 2}),
    ("random", {"top_k": 3}),
    ("expert_choice", {"experts_per_token": 2.0}),
    ("expert_choice", {"experts_per_token": 4.0}),
]


def test_every_router_is_here():
    assert {kind for kind, _ in CASES} == set(ROUTERS)


@pytest.mark.parametrize(("kind", "options"), CASES, ids=str)
def test_the_weights_add_up_to_what_the_config_says(kind, options):
    config = ROUTERS[kind].config_class(**options)
    router = ROUTERS[kind](config, D_MODEL, NUM_EXPERTS).eval()
    declared = config.weight_sum(NUM_EXPERTS)
    tokens = Tokens(torch.randint(50, (2, 6), generator=torch.Generator().manual_seed(0)))
    x_BSD = torch.randn(2, 6, D_MODEL, generator=torch.Generator().manual_seed(1))

    def sums(std: float) -> torch.Tensor:
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in router.parameters():
                parameter.normal_(std=std, generator=generator)
            routing = router(x_BSD, tokens)
        return torch.zeros(12).index_add(0, routing.token_ids_A, routing.weights_A)

    torch.testing.assert_close(sums(0.0).mean(), torch.tensor(declared.value))
    assert torch.allclose(sums(1.0), torch.tensor(declared.value), atol=1e-5) == declared.is_constant
