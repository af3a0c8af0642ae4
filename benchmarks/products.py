"""How fast float32 products are by the library that torch takes on this CPU, and by oneDNN: forward, and both gradients.

    python -m benchmarks products                           # seconds

Knows random matrices. A row is a product of so many rows with a weight; figures are billions of multiplications and additions per second,
medians over rounds in which all take turns. "dW, oneDNN" is what moecli does: small weight gradients are torch's there too.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.rounds import machine, number_of_rounds, seconds_of, take_turns
from moecli.moe import onednn

# (rows, inputs, outputs)
SHAPES = ((96, 128, 128), (192, 128, 512), (512, 256, 256), (768, 128, 512), (1024, 256, 1024), (4096, 512, 2048))
NAMES = ("y, torch", "y, oneDNN", "dx, torch", "dx, oneDNN", "dW, torch", "dW, oneDNN")


def calls(num_rows: int, num_inputs: int, num_outputs: int) -> dict[str, Callable[[], object]]:
    x_NI, weight_OI, dy_NO = torch.randn(num_rows, num_inputs), torch.randn(num_outputs, num_inputs), torch.randn(num_rows, num_outputs)
    ways = (
        partial(torch.mm, x_NI, weight_OI.t()),
        partial(onednn.product, x_NI, weight_OI),
        partial(torch.mm, dy_NO, weight_OI),
        partial(onednn.product, dy_NO, weight_OI.t()),
        partial(torch.mm, dy_NO.t(), x_NI),
        partial(onednn.weight_gradient, dy_NO, x_NI),
    )
    return dict(zip(NAMES, ways, strict=True))


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=number_of_rounds, default=51)
    arguments = parser.parse_args()
    cpu = torch.device("cpu")
    print(f"{machine(cpu)}, {arguments.rounds} rounds\n\n| rows, inputs, outputs | {' | '.join(NAMES)} |\n|---|{'---|' * len(NAMES)}")
    for shape in SHAPES:
        num_rows, num_inputs, num_outputs = shape
        measured = take_turns({name: partial(seconds_of, call, cpu) for name, call in calls(*shape).items()}, arguments.rounds)
        billions = [2e-9 * num_rows * num_inputs * num_outputs / statistics.median(seconds) for seconds in measured.values()]
        print(f"| {num_rows:,}, {num_inputs:,}, {num_outputs:,} | {' | '.join(f'{figure:.0f}' for figure in billions)} |")


if __name__ == "__main__":
    main()
