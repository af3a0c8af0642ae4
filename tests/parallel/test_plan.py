"""The plan of several processes: by hand, against what two processes were measured to exchange, and how it scales."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from moecli.model.accounting import model_cost
from moecli.model.init import build_gpt
from moecli.parallel.config import ParallelConfig
from moecli.parallel.expert_parallel import ExpertParallel
from moecli.parallel.plan import ParallelPlan, Speeds, plan_parallel
from moecli.parallel.plan_traffic import StepShape
from tests.parallel.trainings import BATCH, CASES, SEQ_LEN, VOCAB, build_trainer

CONFIG = build_trainer(CASES["topk"]).model.config
STEP = StepShape(seq_len=SEQ_LEN, micro_batch_size=BATCH, gradient_accumulation=1, passes_ahead=0, recomputes=False, row_bytes=4)


def plan(num_processes: int, data: str = "shard", expert: int = 1, step: StepShape = STEP, **speeds: float) -> ParallelPlan:
    flops = model_cost(CONFIG, VOCAB, SEQ_LEN).train_flops_per_token
    return plan_parallel(CONFIG, VOCAB, step, ParallelConfig(data=data, expert=expert), num_processes, flops, Speeds(**speeds))


@pytest.mark.parametrize(("name", "recomputes"), [("expert", False), ("expert-recomputed", True)])
def test_the_planned_all_to_all_is_what_two_processes_hand_over(two, name, recomputes):
    planned = plan(2, "replicate", expert=2, step=StepShape(SEQ_LEN, BATCH, 1, 0, recomputes, 4)).traffic.all_to_all
    assert 2 * planned.handed == sum(returned["step_traffic"][name]["all_to_all"]["bytes"] for returned in two.returned)


@pytest.mark.parametrize("kind", ["all_gather", "reduce_scatter"])
def test_the_planned_shards_are_what_two_processes_hand_over(two, kind):
    planned = getattr(plan(2).traffic, kind)
    assert [planned.handed] * 2 == [returned["step_traffic"]["shard"][kind]["bytes"] for returned in two.returned]


@pytest.mark.parametrize(("name", "expert"), [("replicate", 1), ("expert", 2)])
def test_the_planned_sums_are_what_two_processes_hand_over(two, name, expert):
    # Sharded, nothing is all-reduced but losses, loads and norm, of which there are as many in every layout; with experts on 2 processes
    # also how many assignments each ran in 2 layers, in int64.
    planned = plan(2, "replicate", expert=expert).traffic.all_reduce
    measured = [returned["step_traffic"][name]["all_reduce"]["bytes"] for returned in two.returned]
    small = [returned["step_traffic"]["shard"]["all_reduce"]["bytes"] for returned in two.returned]
    rows = 8 * 2 * 2 if expert == 2 else 0
    assert [planned.handed + rest + rows for rest in small] == measured


def test_gradients_of_experts_that_one_process_holds_stay_there():
    model = model_cost(CONFIG, VOCAB, SEQ_LEN).params_total
    stacks = 2 * 4 * 3 * 32 * 16  # in 2 layers 4 experts of 3 matrices
    planned = plan(2, "replicate", expert=2).traffic.all_reduce
    assert planned.handed == 4 * (model - stacks // 2)
    assert planned.leaving == 4 * (model - stacks)  # in a ring of two, as much as is handed over
    assert plan(1, "replicate").traffic.all_reduce.handed == 0


def test_all_to_all_by_hand():
    # 8 sequences of 12 tokens on 2 processes: 48 tokens each, 2 choices, 32 numbers of 4 bytes, 4 passes; and 4 counts of 8 bytes.
    layer = plan(2, expert=2).all_to_all_layer
    assert layer.handed == 4 * 48 * 2 * 32 * 4 + 4 * 8
    assert layer.leaving == layer.handed / 2
    assert plan(2, expert=1).traffic.all_to_all.handed == 0


def test_seconds_by_hand():
    planned = plan(2, "replicate", expert=2, bytes_per_s=1e6, flops_per_s=1e9)
    assert planned.time.all_to_all_s == 2 * (4 * 48 * 2 * 32 * 4 + 4 * 8) / 2 / 1e6  # 2 layers, of which one half leaves
    assert planned.time.computation_s == 48 * model_cost(CONFIG, VOCAB, SEQ_LEN).train_flops_per_token / 1e9
    both = planned.time.communication_s, planned.time.computation_s
    assert planned.time.step_s == sum(both) and planned.time.communication_share == both[0] / sum(both)
    assert plan(2).time.step_s is None


@pytest.fixture
def group_of_one():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


def test_planned_activations_are_what_autograd_keeps_of_rows_that_travel(group_of_one):
    # As many tokens as each of two processes has, all of whose rows stay here; the blocks are alike.
    planned = [plan(2, "replicate", expert=expert).memory.activations for expert in (1, 2)]
    kept = []
    for travels in (False, True):
        ffn = build_gpt(CONFIG, VOCAB, seed=0).feed_forwards()[0]
        ffn.experts = ExpertParallel(ffn.experts, group_of_one) if travels else ffn.experts
        kept.append(bytes_kept_by(ffn, torch.randn(BATCH // 2, SEQ_LEN, CONFIG.d_model)))
    assert planned[1] - planned[0] == pytest.approx(CONFIG.num_layers * (kept[1] - kept[0]), rel=0.02)


def bytes_kept_by(ffn: nn.Module, x_BSD: Tensor) -> int:
    """Each storage once, those of weights and input not."""
    known = {tensor.untyped_storage().data_ptr() for tensor in (x_BSD, *ffn.parameters())}
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        returned = ffn(x_BSD)
    del returned
    return sum(storage.nbytes() for storage in storages.values())


def test_a_shard_is_the_nth_part_and_a_replica_the_whole():
    weights = [plan(num_processes).memory.weights for num_processes in (1, 2, 4)]
    assert weights[0] == 4 * model_cost(CONFIG, VOCAB, SEQ_LEN).params_total
    assert weights == [weights[0], weights[0] // 2, weights[0] // 4]
    assert plan(4, "replicate").memory.weights == weights[0]
    # Experts are shared out whether the rest is or not: 4 experts of 3 * 32 * 16 weights in each of 2 layers.
    assert plan(4, "replicate", expert=4).memory.weights == weights[0] - 4 * 2 * (4 - 1) * 3 * 32 * 16


def test_rows_grow_with_tokens_and_with_the_width_of_a_number():
    once, twice = (plan(2, expert=2, step=StepShape(SEQ_LEN, rows, 1, 0, False, 4)).all_to_all_layer.handed for rows in (8, 16))
    assert twice - 4 * 8 == 2 * (once - 4 * 8)
    bfloat16 = plan(2, expert=2, step=StepShape(SEQ_LEN, BATCH, 1, 0, False, 2)).all_to_all_layer.handed
    assert 2 * (bfloat16 - 4 * 8) == once - 4 * 8
