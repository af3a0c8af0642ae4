"""How fast float32 products of experts' rows are, many and few: by torch and by oneDNN expert by expert, and in C in one call.

    python -m benchmarks products                           # a minute, 2 GB

Knows random matrices. A line of the first table is so many products of so many rows with a weight each; figures are billions of
multiplications and additions per second, medians over rounds in which all take turns. "dW, oneDNN" is what moecli does beside experts:
small ones are torch's there too. With few rows, as in generation, reading the weights is the work: the second table has the gigabytes of
weights per second, and those of their sum.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.rounds import machine, number_of_rounds, seconds_of, take_turns
from moecli.cli.freed_memory import keep_freed_memory
from moecli.moe import grouped_product, onednn

# (experts, rows of each, inputs, outputs)
SHAPES = (
    (64, 96, 128, 128),
    (32, 256, 128, 128),
    (8, 192, 128, 512),
    (64, 512, 256, 256),
    (8, 1024, 512, 2048),
    (1, 96, 128, 128),
    (1, 768, 128, 512),
    (1, 1024, 256, 1024),
    (1, 4096, 512, 2048),
)
# Of the second table: weights that no cache holds, and rows of each expert.
LARGE, ROWS_OF_EACH = (32, 1024, 4096), (1, 2, 4, 8, 16)
LIBRARIES = ("torch", "oneDNN", "C")
PRODUCTS = ("y", "dx", "dW")


def calls(num_experts: int, num_rows: int, num_inputs: int, num_outputs: int) -> dict[str, Callable[[], object]]:
    x_ENI, dy_ENO = torch.randn(num_experts, num_rows, num_inputs), torch.randn(num_experts, num_rows, num_outputs)
    weights_EOI, lengths = torch.randn(num_experts, num_outputs, num_inputs), num_experts * [num_rows]
    x_NI, dy_NO, gradients_EOI = x_ENI.flatten(0, 1), dy_ENO.flatten(0, 1), torch.empty_like(weights_EOI)
    ways: tuple[Callable[[], object], ...] = (
        partial(each, torch.mm, x_ENI, weights_EOI.transpose(1, 2)),
        partial(each, onednn.product, x_ENI, weights_EOI),
        partial(grouped_product.product, x_NI, weights_EOI.transpose(1, 2), lengths),
        partial(each, torch.mm, dy_ENO, weights_EOI),
        partial(each, onednn.product, dy_ENO, weights_EOI.transpose(1, 2)),
        partial(grouped_product.product, dy_NO, weights_EOI, lengths),
        partial(each, torch.mm, dy_ENO.transpose(1, 2), x_ENI),
        partial(each, onednn.weight_gradient, dy_ENO, x_ENI),
        partial(grouped_product.write_weight_gradients, dy_NO, x_NI, lengths, gradients_EOI),
    )
    names = [f"{product}, {library}" for product in PRODUCTS for library in LIBRARIES]
    return {name: way for name, way in zip(names, ways, strict=True) if grouped_product.LIBRARY or not name.endswith("C")}


def print_table_of_few_rows(rounds: int, cpu: torch.device) -> None:
    num_experts, num_inputs, num_outputs = LARGE
    names = [*(name for name in calls(1, 1, 1, 1) if name.startswith("y")), "their sum"]
    print(f"\nGB/s of weights, {rounds} rounds\n")
    print(f"| rows of each of {num_experts} experts, {num_inputs:,}, {num_outputs:,} | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for num_rows in ROWS_OF_EACH:
        speeds = gigabytes_per_second(num_rows, names, rounds, cpu)
        print(f"| {num_rows} | {' | '.join(f'{speed:.1f}' for speed in speeds)} |")


def gigabytes_per_second(num_rows: int, names: list[str], rounds: int, cpu: torch.device) -> list[float]:
    """Of weights that are read, in each of these ways."""
    num_experts, num_inputs, num_outputs = LARGE
    weights = torch.ones(num_experts, num_outputs, num_inputs)
    ways = calls(num_experts, num_rows, num_inputs, num_outputs) | {"their sum": weights.sum}
    measured = take_turns({name: partial(seconds_of, ways[name], cpu) for name in names}, rounds)
    return [1e-9 * weights.nbytes / statistics.median(seconds) for seconds in measured.values()]


def each(product: Callable[[Tensor, Tensor], Tensor], left_E: Tensor, right_E: Tensor) -> None:
    for left, right in zip(left_E, right_E, strict=True):
        product(left, right)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=number_of_rounds, default=51)
    arguments = parser.parse_args()
    keep_freed_memory()  # else whoever has a large result waits for the system to clear its pages
    cpu = torch.device("cpu")
    names = list(calls(1, 1, 1, 1))
    print(f"{machine(cpu)}; billions per second, {arguments.rounds} rounds\n")
    print(f"| experts, rows of each, inputs, outputs | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for shape in SHAPES:
        measured = take_turns({name: partial(seconds_of, call, cpu) for name, call in calls(*shape).items()}, arguments.rounds)
        num_experts, num_rows, num_inputs, num_outputs = shape
        work = 2e-9 * num_experts * num_rows * num_inputs * num_outputs
        billions = [work / statistics.median(seconds) for seconds in measured.values()]
        print(f"| {', '.join(f'{size:,}' for size in shape)} | {' | '.join(f'{figure:.0f}' for figure in billions)} |")
    print_table_of_few_rows(max(2, arguments.rounds // 5), cpu)


if __name__ == "__main__":
    main()
