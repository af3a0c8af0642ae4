"""Whether a model and its batches can be spread over so many processes and stay what they are on one.

Knows configs. Must not know torch.distributed: what can't be spread is told before any process meets another.
"""

from __future__ import annotations

import math

from moecli.errors import FieldProblem, RecipeError
from moecli.moe.feed_forward import FeedForwardConfig
from moecli.parallel.config import ParallelConfig


def world_problems(ffn: FeedForwardConfig, batch_size: int, gradient_accumulation: int, world_size: int) -> list[FieldProblem]:
    """What a world of more than one process can't do, by the keys of the recipe."""
    if world_size == 1:
        return []
    problems = []
    if batch_size % (gradient_accumulation * world_size):
        what = f"{batch_size} sequences in {gradient_accumulation} micro-batches can't be shared out evenly to {world_size} processes"
        allowed = f"a multiple of {gradient_accumulation * world_size}"
        problems.append(FieldProblem("training.batch_size", what, allowed=allowed, involves=("training.gradient_accumulation",)))
    for leak in ffn.leaks():
        if leak.sees == "rows":
            what = f"{leak.why}, and each of {world_size} processes has sequences of its own"
            problems.append(FieldProblem(f"model.ffn.{leak.field}", what, allowed=leak.instead))
    return problems


def problems_with_world(
    ffn: FeedForwardConfig, parallel: ParallelConfig, batch_size: int, gradient_accumulation: int, world_size: int
) -> list[FieldProblem]:
    """Everything in a recipe that so many processes can't do, by its keys: what `world_problems` tells, and how experts are shared out."""
    problems = []
    if world_size % parallel.expert:
        processes = "1 process is" if world_size == 1 else f"{world_size} processes are"
        what = f"{parallel.expert} processes share out the experts of each layer, and {processes} no multiple of that"
        common = math.gcd(world_size, ffn.num_routed_experts)
        allowed = ", ".join(str(degree) for degree in range(1, common + 1) if common % degree == 0)
        problems.append(FieldProblem("parallel.expert", what, allowed=allowed))
    return problems + world_problems(ffn, batch_size, gradient_accumulation, world_size)


def check_world(ffn: FeedForwardConfig, batch_size: int, gradient_accumulation: int, world_size: int) -> None:
    """Raises RecipeError with every problem."""
    refuse(world_problems(ffn, batch_size, gradient_accumulation, world_size))


def refuse(problems: list[FieldProblem]) -> None:
    """Raises RecipeError with every problem, if there is one."""
    if problems:
        lines = [f"{problem.field}: {problem.what}; allowed: {problem.allowed}" for problem in problems]
        raise RecipeError("\n".join(lines), next_step="change the recipe, or start another number of processes")
