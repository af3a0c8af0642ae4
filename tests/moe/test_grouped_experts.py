"""The grouped experts under torch.compile. What they compute: test_experts.py."""

from __future__ import annotations

import pytest
import torch

from moecli.moe import experts as experts_file
from moecli.moe.layers import SparseMoE, SparseMoEConfig
from moecli.moe.routers import TopKConfig


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # what torch.compile itself does
@pytest.mark.parametrize("top_k", [1, 3])
def test_a_layer_is_compiled_whole_and_computes_the_same(top_k, monkeypatch):
    monkeypatch.setattr(experts_file, "can_run_grouped", lambda *args: True)
    torch.manual_seed(0)
    config = SparseMoEConfig(num_experts=4, d_expert=16, router=TopKConfig(top_k=top_k)).with_default_widths(32)
    layer = SparseMoE(config, 32, "swiglu")
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x_BSD = torch.randn(2, 8, 32, requires_grad=True)

    def outputs_and_gradients(run: torch.nn.Module) -> list[torch.Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y_BSD, record = run(x_BSD)
        loss = y_BSD.float().square().sum() + record.routing.logits_TE.square().sum()
        return [y_BSD, *torch.autograd.grad(loss, [x_BSD, *layer.parameters()])]

    plain = outputs_and_gradients(layer)
    # fullgraph: an error where the compiler would have to break off, at a number that is read for instance.
    compiled = outputs_and_gradients(torch.compile(layer, fullgraph=True, backend="aot_eager"))
    for ours, expected in zip(compiled, plain, strict=True):
        assert (ours - expected).float().norm() <= 0.01 * expected.float().norm()
