"""What the tests look at that takes several processes: as much as can be in one launch, because each costs seconds.

Knows the pieces by what they return. Must not know what is right: the tests do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moecli.errors import DataError, MoecliError, RunError
from moecli.model.checkpoint import load_model, save_model
from moecli.moe.dispatch import ExpertQueues, dispatch_dropless
from moecli.moe.experts import Experts
from moecli.moe.routers.base import token_choice
from moecli.parallel.expert_parallel import ExpertParallel
from moecli.parallel.traffic import Traffic
from moecli.parallel.whole_state import whole_model
from moecli.parallel.world import World
from moecli.training.state import load_state, training_state, write_state
from moecli.training.step_result import StepResult
from tests.operations import Operations
from tests.parallel.trainings import CASES, LAYOUTS, MLP, NOISY, Case, Curve, build_trainer, train
from tests.parallel.world_of_processes import with_expert_degree

D_MODEL, D_EXPERT, NUM_EXPERTS, NUM_TOKENS, TOP_K = 8, 4, 4, 6, 2
SAVED_AT = 4
CHECKPOINT = "checkpoint"


def of_two(world: World, folder: Path) -> dict[str, Any]:
    return {
        "curves": curves(world, ("replicate", "shard", "expert", "expert-shard")),
        "mlp": train(build_trainer(MLP, world, LAYOUTS["shard"]), last=5),
        "recomputed": train(build_trainer(_with(CASES["topk"], recompute_activations=True), world, LAYOUTS["expert-shard"]), last=5),
        "frozen": {part: train(build_trainer(_with(CASES["topk"], freeze=[part]), world, LAYOUTS["expert"]), last=5) for part in FROZEN},
        "layers": {name: layer_results(world, expert_ids) for name, expert_ids in CHOICES.items()},
        "order": order_of_a_layer(world),
        "traffic": traffic_of_a_layer(world),
        "step_traffic": {name: traffic_of_a_step(world, *what) for name, what in STEPS_TO_WATCH.items()},
        "watched": {name: watched_step(world, *STEPS_TO_WATCH[name]) for name in ("shard", "expert")},
        "saved": save_and_go_on(world, folder / CHECKPOINT, "expert"),
        "resumed": resume(world, folder / CHECKPOINT, "shard"),
        "unreadable": unreadable(world, folder / "nowhere"),
        "noisy": noisy(world),
        "words": words(world),
    }


def of_four(world: World, folder: Path) -> dict[str, Any]:
    """A grid of 2 x 2: "expert" there is two groups of two processes that have all experts between them."""
    recomputing = _with(CASES["accumulated-global"], recompute_activations=True)
    return {
        "curves": curves(world, ("expert", "expert-shard", "expert-4")),
        "recomputed": train(build_trainer(recomputing, world, LAYOUTS["expert-shard"]), last=5),
        "watched": watched_step(world, "expert", {}),
        "saved": save_and_go_on(world, folder / CHECKPOINT, "expert-4"),
        "resumed": resume(world, folder / CHECKPOINT, "expert-shard"),
    }


def of_one_gpu(world: World, folder: Path) -> list[Curve]:
    """Alone on the GPU, and as a world of one over nccl."""
    case = _with(CASES["sigmoid-bias-shared"], precision="bfloat16")
    model = build_trainer(case).model.to(world.device)
    layouts = [LAYOUTS[name] for name in ("replicate", "shard")]
    curves = [train(build_trainer(case, model=model)), *(train(build_trainer(case, world, layout)) for layout in layouts)]
    save_and_go_on(world, folder / CHECKPOINT, "shard")
    return [*curves, resume(world, folder / CHECKPOINT, "replicate")]


COMPILED = (("topk", "shard"), ("sigmoid-bias-shared", "expert"))


def of_two_compiled(world: World, folder: Path) -> dict[tuple[str, str], tuple[Curve, list[int]]]:
    """Five steps, and how many compiled graphs the next four call, of which the second is watched as the logged ones of a training are."""
    called = []

    def counting(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        def call(*arguments: Any) -> Any:
            called.append(graph)
            return graph.forward(*arguments)

        return call

    torch.compile = partial(torch.compile, backend=counting)  # of this process, which ends with the test
    trainings = {}
    for case, layout in COMPILED:
        trainer = build_trainer(_with(CASES[case], compile=True), world, LAYOUTS[layout])
        curve, counts = train(trainer, last=5), []
        for step in range(5, 9):
            called.clear()
            _ = trainer.watched_step(step) if step == 6 else trainer.step(step)
            counts.append(len(called))
        trainings[case, layout] = curve, counts
    return trainings


def of_two_after_four(world: World, folder: Path) -> Curve:
    return resume(world, folder / CHECKPOINT, "replicate")


FROZEN = ("experts", "router", "all-but-router")


def curves(world: World, layouts: Sequence[str]) -> dict[tuple[str, str], Curve]:
    return {(case, layout): train(build_trainer(CASES[case], world, LAYOUTS[layout])) for case in CASES for layout in layouts}


def _with(case: Case, **options: Any) -> Case:
    return dataclasses.replace(case, options=case.options | options)


# The two choices of each of a process's tokens, by rank. Experts 0 and 1 live on process 0.
CHOICES = {
    "all": [[[0, 2], [1, 3], [2, 1], [3, 0], [0, 1], [2, 3]], [[3, 1], [2, 0], [1, 0], [0, 3], [1, 2], [3, 2]]],
    "one-expert-idle": [[[0, 2], [1, 2], [2, 1], [2, 0], [0, 1], [2, 1]], [[2, 1], [2, 0], [1, 0], [0, 2], [1, 2], [1, 2]]],
    "one-process-idle": [[[0, 1]] * 6, [[1, 0]] * 6],
}  # fmt: skip


def layer_inputs(rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, logits of all experts and the gradient that comes back, of one process."""
    generator = torch.Generator().manual_seed(10 + rank)
    shapes = (NUM_TOKENS, D_MODEL), (NUM_TOKENS, NUM_EXPERTS), (NUM_TOKENS, D_MODEL)
    x_TD, logits_TE, upstream_TD = (torch.randn(shape, generator=generator) for shape in shapes)
    return x_TD.requires_grad_(), logits_TE.requires_grad_(), upstream_TD


def layer_queues(logits_TE: Tensor, expert_ids_TK: list[list[int]]) -> ExpertQueues:
    probs_TE = logits_TE.softmax(dim=-1)
    ids_TK = torch.tensor(expert_ids_TK)
    return dispatch_dropless(token_choice(logits_TE, probs_TE, ids_TK, probs_TE.gather(1, ids_TK), seq_len=len(ids_TK)))[0]


def whole_experts() -> Experts:
    torch.manual_seed(0)
    experts = Experts(NUM_EXPERTS, D_MODEL, D_EXPERT, "swiglu")
    torch.nn.init.normal_(experts.in_proj)
    torch.nn.init.normal_(experts.out_proj)
    return experts


BESIDE = torch.sin  # no expert has a sine, nor its gradient's cosine


def order_of_a_layer(world: World) -> list[str]:
    with Operations() as operations:
        layer_results(world, CHOICES["all"])
    return operations.names


def layer_results(world: World, expert_ids: list[list[list[int]]], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Output and every gradient of the layer that is shared out, with something computed beside it, on this process."""
    x_TD, logits_TE, upstream_TD = layer_inputs(world.rank)
    experts = ExpertParallel(whole_experts(), with_expert_degree(world, 2).expert_group)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        y_TD = experts(x_TD, layer_queues(logits_TE, expert_ids[world.rank]), BESIDE)
    y_TD.backward(upstream_TD)
    gradients = {"x": x_TD.grad, "logits": logits_TE.grad, "in_proj": experts.in_proj.grad, "out_proj": experts.out_proj.grad}
    return {"y": y_TD.detach()} | gradients


def traffic_of_a_layer(world: World) -> dict[str, Any]:
    """Forward and backward, in float32 and in bfloat16."""
    counted = {}
    for dtype in (torch.float32, torch.bfloat16):
        with Traffic() as traffic:
            layer_results(world, CHOICES["all"], dtype)
        counted[dtype] = {name: dataclasses.asdict(kind) for name, kind in traffic.kinds.items()}
    return counted


STEPS_TO_WATCH: dict[str, tuple[str, dict[str, Any]]] = {
    "replicate": ("replicate", {}),
    "replicate-accumulated": ("replicate", {"gradient_accumulation": 2}),
    "shard": ("shard", {}),
    "expert": ("expert", {}),
    "expert-recomputed": ("expert", {"recompute_activations": True}),
}


def traffic_of_a_step(world: World, layout: str, options: dict[str, Any]) -> dict[str, Any]:
    trainer = build_trainer(_with(CASES["topk"], **options), world, LAYOUTS[layout])
    trainer.step(0)
    with Traffic() as traffic:
        trainer.step(1)
    return {name: dataclasses.asdict(kind) for name, kind in traffic.kinds.items()}


def watched_step(world: World, layout: str, options: dict[str, Any]) -> StepResult:
    """The same step, as it tells of itself."""
    trainer = build_trainer(_with(CASES["topk"], **options), world, LAYOUTS[layout])
    trainer.step(0)
    return trainer.watched_step(1)


RESUMED_CASE = CASES["sigmoid-bias-shared"]


def save_and_go_on(world: World, checkpoint: Path, layout: str) -> Curve:
    """A training is saved on the way, and goes on undisturbed."""
    trainer = build_trainer(RESUMED_CASE, world, LAYOUTS[layout])
    train(trainer, last=SAVED_AT)
    assert trainer.world is not None
    with torch.no_grad():  # a validation, which fetches parameters and brings none back
        trainer.model(torch.zeros(1, 4, dtype=torch.int64))
    state, model = training_state(trainer, SAVED_AT), whole_model(trainer.model, trainer.world)
    if model is not None:
        checkpoint.mkdir()
        save_model(model, checkpoint)
        write_state(state, checkpoint)
    return train(trainer, first=SAVED_AT, last=SAVED_AT + 4)


def resume(world: World, checkpoint: Path, layout: str) -> Curve:
    """The first process alone reads."""
    trainer = build_trainer(RESUMED_CASE, world, LAYOUTS[layout], load_model(checkpoint) if world.is_first else None)
    assert load_state(trainer, checkpoint) == SAVED_AT
    return train(trainer, first=SAVED_AT, last=SAVED_AT + 4)


def unreadable(world: World, checkpoint: Path) -> str:
    """What each process says of a checkpoint that the first one can't read."""
    try:
        load_state(build_trainer(RESUMED_CASE, world, LAYOUTS["shard"]), checkpoint)
    except RunError as error:
        return error.what
    return "read"


def noisy(world: World) -> dict[str, Any]:
    """The noise of a step depends on step and process alone, whatever was drawn before."""
    trainer = build_trainer(NOISY, world, LAYOUTS["replicate"])
    whole = train(trainer, last=4)
    again = build_trainer(NOISY, world, LAYOUTS["replicate"])
    train(again, last=2)
    torch.manual_seed(99)
    return {"whole": whole, "again": train(again, first=2, last=4), "draw": _draw(world, 5), "other_step": _draw(world, 6)}


def _draw(world: World, step: int) -> Tensor:
    world.seed_step(step)
    return torch.rand(3)


def words(world: World) -> dict[str, Any]:
    try:
        with world.together():
            if world.rank == 1:
                raise DataError("no text", where="file.txt", next_step="write one")
        together = "nothing raised"
    except MoecliError as error:
        together = f"{type(error).__name__}: {error}"
    return {
        "one": world.agree(world.rank == 1),
        "none": world.agree(False),
        "objects": world.gather_objects(f"rank {world.rank}"),
        "first": world.broadcast_object({"of": world.rank}),
        "sums": [tensor.tolist() for tensor in world.add_up([torch.tensor([1, 2]), torch.tensor([[world.rank]])])],
        "together": together,
    }
