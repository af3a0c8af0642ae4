"""What a sparse layer costs: ours, the dense MLP of equal active width (the floor), and the experts of transformers on the same weights.

    python -m benchmarks layer                                  # four shapes, about 3 minutes on 2 CPU cores
    python -m benchmarks layer --shapes e64k8 --rounds 5 --json layer.json

Knows layers alone, with random weights: the router chooses evenly up to chance. All run in one process and take turns; a figure is the
median over rounds of the ratio to the floor in the same round. Peak memory is in multiples of the floor's: what is alive at once in
forward and backward beside weights and input, gradients of the weights included. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.rounds import Seconds, milliseconds, number_of_rounds, ratios, spread, take_turns
from moecli.moe.layers import MLP, MLPConfig, SparseMoE, SparseMoEConfig
from moecli.moe.routers import TopKConfig
from moecli.training.peak_memory import LiveTensors

FLOOR, OURS = "equal mlp", "moecli"
THEIRS = ("eager", "batched_mm", "grouped_mm")
# batched_mm copies the weights of an expert for each of its assignments: at these shapes gigabytes, and 100 times the time.
MOST_COPIED_BYTES = 2**30


@dataclass(frozen=True)
class Shape:
    num_tokens: int
    num_experts: int
    top_k: int
    d_model: int
    d_expert: int

    @property
    def copied_bytes(self) -> int:
        return self.num_tokens * self.top_k * 3 * self.d_model * self.d_expert * torch.float32.itemsize


SHAPES = {
    "e8k2d256": Shape(4096, 8, 2, 256, 512),
    "e8k2d512": Shape(4096, 8, 2, 512, 1024),
    "e64k8": Shape(4096, 64, 8, 256, 128),
    "e32k4": Shape(2048, 32, 4, 128, 64),
}


def our_layer(shape: Shape) -> SparseMoE:
    config = SparseMoEConfig(num_experts=shape.num_experts, d_expert=shape.d_expert, router=TopKConfig(top_k=shape.top_k))
    layer = SparseMoE(config.with_default_widths(shape.d_model), shape.d_model, "swiglu")
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.05)
    return layer


def their_layer(shape: Shape, ours: SparseMoE, implementation: str) -> nn.Module:
    """Mixtral's block with our weights."""
    from transformers.models.mixtral.configuration_mixtral import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    config = MixtralConfig(
        hidden_size=shape.d_model,
        intermediate_size=shape.d_expert,
        num_local_experts=shape.num_experts,
        num_experts_per_tok=shape.top_k,
        num_attention_heads=1,
    )
    config._experts_implementation = implementation
    block = MixtralSparseMoeBlock(config)
    weights = {
        "gate.weight": ours.router.weight,
        "experts.gate_up_proj": ours.experts.in_proj,
        "experts.down_proj": ours.experts.out_proj,
    }
    block.load_state_dict({name: weight.detach().clone() for name, weight in weights.items()})
    return block


def layers_of(shape: Shape) -> dict[str, nn.Module]:
    """The floor first."""
    ours = our_layer(shape)
    floor = MLP(MLPConfig(d_ff=shape.top_k * shape.d_expert), shape.d_model, "swiglu")
    layers: dict[str, nn.Module] = {FLOOR: floor, OURS: ours}
    for name in THEIRS:
        if name != "batched_mm" or shape.copied_bytes <= MOST_COPIED_BYTES:
            layers[name] = their_layer(shape, ours, name)
    return layers


def check_same(layers: dict[str, nn.Module], x_BSD: Tensor) -> None:
    """The MoE layers compute the same, or the times mean nothing."""
    expected_BSD = output(layers[OURS], x_BSD)
    for name in THEIRS:
        if name in layers:
            torch.testing.assert_close(output(layers[name], x_BSD), expected_BSD, rtol=1e-4, atol=1e-5)


def output(layer: nn.Module, x_BSD: Tensor) -> Tensor:
    y = layer(x_BSD)
    return y[0] if isinstance(y, tuple) else y


def forward(layer: nn.Module, x_BSD: Tensor, grad_BSD: Tensor) -> float:
    started = time.perf_counter()
    with torch.no_grad():
        output(layer, x_BSD)
    return time.perf_counter() - started


def forward_backward(layer: nn.Module, x_BSD: Tensor, grad_BSD: Tensor) -> float:
    """With gradients of input and weights, which are new each time."""
    layer.zero_grad(set_to_none=True)
    x_BSD = x_BSD.detach().requires_grad_()
    started = time.perf_counter()
    output(layer, x_BSD).backward(grad_BSD)
    return time.perf_counter() - started


def peak_bytes(layer: nn.Module, x_BSD: Tensor, grad_BSD: Tensor) -> int:
    """The most bytes alive at once in forward and backward, beside the weights, the input and its upstream gradient."""
    with LiveTensors() as tensors:
        forward_backward(layer, x_BSD, grad_BSD)
    return tensors.peak_bytes


def fastest(measured: Seconds) -> str:
    """Of the experts of transformers."""
    return min((name for name in THEIRS if name in measured), key=lambda name: milliseconds(measured, name))


def measure_shape(name: str, rounds: int) -> dict[str, Any]:
    """Prints the table of one shape, and returns what it is made of."""
    shape = SHAPES[name]
    torch.manual_seed(0)
    layers = layers_of(shape)
    x_BSD, grad_BSD = torch.randn(2, 4, shape.num_tokens // 4, shape.d_model).unbind()
    check_same(layers, x_BSD)
    passes = {"forward": forward, "forward + backward": forward_backward}
    measured = {
        what: take_turns({layer: partial(measure, layers[layer], x_BSD, grad_BSD) for layer in layers}, rounds)
        for what, measure in passes.items()
    }
    peaks = {layer: peak_bytes(layers[layer], x_BSD, grad_BSD) for layer in layers}
    print(f"\n{name}: {shape}\n\n| layer | forward | forward + backward | ms | peak memory |\n|---|---|---|---|---|")
    both = measured["forward + backward"]
    for layer in layers:
        cells = [spread(ratios(measured[what], layer, FLOOR)) for what in passes]
        cells += [f"{milliseconds(both, layer):.1f}", f"{peaks[layer] / peaks[FLOOR]:.2f}"]
        print(f"| {layer} | {' | '.join(cells)} |")
    rival = fastest(both)
    print(f"\nmoecli over the fastest of transformers, {rival}: {spread(ratios(both, OURS, rival))}", flush=True)
    return {"seconds": measured, "peak_bytes": peaks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rounds", type=number_of_rounds, default=21)
    parser.add_argument("--json", type=Path, help="write every measured second there too")
    arguments = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, float32, {arguments.rounds} rounds")
    measured = {name: measure_shape(name, arguments.rounds) for name in arguments.shapes}
    if arguments.json:
        arguments.json.write_text(json.dumps(measured) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
