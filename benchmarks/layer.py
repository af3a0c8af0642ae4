"""What a sparse layer costs: ours, the dense MLP of equal active width (the floor), and the experts of transformers on the same weights.

    python -m benchmarks layer                                  # four shapes, about 3 minutes on 2 CPU cores
    python -m benchmarks layer --shapes e64k8 --rounds 5 --json layer.json
    python -m benchmarks layer --device cuda                    # two shapes, with bfloat16 weights, and float32 ones under autocast

Knows layers alone, with random weights: the router chooses evenly up to chance. All run in one process and take turns; a figure is the
median over rounds of the ratio to the floor in the same round. The floor is our MLP, whose products are those of our experts; on a CPU the
same MLP in plain PyTorch runs beside it. Peak memory is in multiples of the floor's: what is alive at once in
forward and backward beside weights and input, gradients of the weights included. On a CPU all is float32. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.rounds import Seconds, machine, milliseconds, number_of_rounds, ratios, seconds_of, spread, take_turns
from moecli.model.device import autocast
from moecli.moe.layers import MLP, MLPConfig, SparseMoE, SparseMoEConfig
from moecli.moe.routers import TopKConfig
from moecli.training.peak_memory import LiveTensors

FLOOR, PLAIN, OURS = "equal mlp", "equal mlp in plain PyTorch", "moecli"
COMPILED = ", compiled"
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
CUDA_SHAPES = {
    "e8k2d1024": Shape(32768, 8, 2, 1024, 2048),
    "e64k8d1024": Shape(32768, 64, 8, 1024, 512),
}


@dataclass(frozen=True)
class Setting:
    """Where the layers run, and in which numbers."""

    device: torch.device
    weights: torch.dtype
    is_autocast: bool
    """Products in bfloat16 whatever the weights are."""

    def __str__(self) -> str:
        return f"{str(self.weights).removeprefix('torch.')} weights" + ", bfloat16 autocast" * self.is_autocast


def settings_of(device: str) -> list[Setting]:
    if device == "cpu":
        return [Setting(torch.device("cpu"), torch.float32, is_autocast=False)]
    cuda = torch.device(device)
    return [Setting(cuda, torch.bfloat16, is_autocast=False), Setting(cuda, torch.float32, is_autocast=True)]


def our_layer(shape: Shape) -> SparseMoE:
    config = SparseMoEConfig(num_experts=shape.num_experts, d_expert=shape.d_expert, router=TopKConfig(top_k=shape.top_k))
    layer = SparseMoE(config.with_default_widths(shape.d_model), shape.d_model, "swiglu")
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.05)
    return layer


class PlainMLP(nn.Module):
    """The floor as PyTorch's own modules make it."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        d_ff = shape.top_k * shape.d_expert
        self.in_proj = nn.Linear(shape.d_model, 2 * d_ff, bias=False)
        self.out_proj = nn.Linear(d_ff, shape.d_model, bias=False)

    def forward(self, x_BSD: Tensor) -> Tensor:
        gate_BSH, up_BSH = self.in_proj(x_BSD).chunk(2, dim=-1)
        y_BSD: Tensor = self.out_proj(F.silu(gate_BSH) * up_BSH)
        return y_BSD


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


def layers_of(shape: Shape, setting: Setting) -> dict[str, nn.Module]:
    """The floor first. Those of transformers don't run under autocast."""
    ours = our_layer(shape)
    floor = MLP(MLPConfig(d_ff=shape.top_k * shape.d_expert), shape.d_model, "swiglu")
    layers: dict[str, nn.Module] = {FLOOR: floor, OURS: ours}
    if setting.device.type == "cpu":
        layers[PLAIN] = PlainMLP(shape)
    for name in () if setting.is_autocast else THEIRS:
        if name != "batched_mm" or shape.copied_bytes <= MOST_COPIED_BYTES:
            layers[name] = their_layer(shape, ours, name)
    layers = {name: layer.to(setting.device, setting.weights) for name, layer in layers.items()}
    if setting.device.type == "cuda":
        layers |= {name + COMPILED: torch.compile(layers[name]) for name in (FLOOR, OURS)}  # type: ignore[misc]
    return layers


def check_same(layers: dict[str, nn.Module], x_BSD: Tensor) -> None:
    """The MoE layers compute the same, or the times mean nothing. In bfloat16 routers differ for tokens near a border."""
    largest = 1e-4 if x_BSD.dtype == torch.float32 else 0.05
    expected_BSD = output(layers[OURS], x_BSD)
    for name in THEIRS:
        if name in layers:
            difference = (output(layers[name], x_BSD) - expected_BSD).float().norm() / expected_BSD.float().norm()
            assert difference < largest, f"{name} is {difference:.2g} off"


def output(layer: nn.Module, x_BSD: Tensor) -> Tensor:
    y = layer(x_BSD)
    return y[0] if isinstance(y, tuple) else y


def forward(layer: nn.Module, x_BSD: Tensor, grad_BSD: Tensor, setting: Setting) -> float:
    with torch.no_grad(), autocast(setting.device, "bfloat16" if setting.is_autocast else "float32"):
        return seconds_of(partial(output, layer, x_BSD), setting.device)


def forward_backward(layer: nn.Module, x_BSD: Tensor, grad_BSD: Tensor, setting: Setting) -> float:
    """With gradients of input and weights, which are new each time."""
    x_BSD = x_BSD.detach().requires_grad_()

    def both() -> None:
        layer.zero_grad(set_to_none=True)
        x_BSD.grad = None
        with autocast(setting.device, "bfloat16" if setting.is_autocast else "float32"):
            y_BSD = output(layer, x_BSD)
        y_BSD.backward(grad_BSD.to(y_BSD.dtype))

    return seconds_of(both, setting.device)


def peak_bytes(layer: nn.Module, x_BSD: Tensor, grad_BSD: Tensor, setting: Setting) -> int:
    """The most bytes alive at once in forward and backward, beside the weights, the input and its upstream gradient."""
    if setting.device.type == "cuda":
        layer.zero_grad(set_to_none=True)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        forward_backward(layer, x_BSD, grad_BSD, setting)
        return torch.cuda.max_memory_allocated() - before
    with LiveTensors() as tensors:
        forward_backward(layer, x_BSD, grad_BSD, setting)
    return tensors.peak_bytes


def fastest(measured: Seconds) -> str:
    """Of the experts of transformers."""
    return min((name for name in THEIRS if name in measured), key=lambda name: milliseconds(measured, name))


def measure_shape(name: str, rounds: int, setting: Setting) -> dict[str, Any]:
    """Prints the table of one shape, and returns what it is made of."""
    shape = (SHAPES | CUDA_SHAPES)[name]
    torch.manual_seed(0)
    layers = layers_of(shape, setting)
    x_BSD, grad_BSD = torch.randn(2, 4, shape.num_tokens // 4, shape.d_model).to(setting.device, setting.weights).unbind()
    check_same(layers, x_BSD)
    passes = {"forward": forward, "forward + backward": forward_backward}
    measured = {
        what: take_turns({layer: partial(measure, layers[layer], x_BSD, grad_BSD, setting) for layer in layers}, rounds)
        for what, measure in passes.items()
    }
    peaks = {layer: peak_bytes(layers[layer], x_BSD, grad_BSD, setting) for layer in layers}
    print(f"\n{name}: {shape}, {setting}\n\n| layer | forward | forward + backward | ms | peak memory |\n|---|---|---|---|---|")
    both = measured["forward + backward"]
    for layer in layers:
        floor = FLOOR + COMPILED * layer.endswith(COMPILED)  # compiled against compiled
        cells = [spread(ratios(measured[what], layer, floor)) for what in passes]
        cells += [f"{milliseconds(both, layer):.1f}", f"{peaks[layer] / peaks[floor]:.2f}"]
        print(f"| {layer} | {' | '.join(cells)} |")
    if PLAIN in layers:
        print(f"\nmoecli over the {PLAIN}: {spread(ratios(both, OURS, PLAIN))}")
    if not setting.is_autocast:
        rival = fastest(both)
        print(f"\nmoecli over the fastest of transformers, {rival}: {spread(ratios(both, OURS, rival))}")
    return {"seconds": measured, "peak_bytes": peaks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES | CUDA_SHAPES, help="default: all that are meant for the device")
    parser.add_argument("--rounds", type=number_of_rounds, default=21)
    parser.add_argument("--json", type=Path, help="write every measured second there too")
    arguments = parser.parse_args()
    settings = settings_of(arguments.device)
    names = arguments.shapes or list(SHAPES if arguments.device == "cpu" else CUDA_SHAPES)
    print(f"{machine(settings[0].device)}, {arguments.rounds} rounds")
    measured = {f"{name}, {setting}": measure_shape(name, arguments.rounds, setting) for name in names for setting in settings}
    if arguments.json:
        arguments.json.write_text(json.dumps(measured) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
