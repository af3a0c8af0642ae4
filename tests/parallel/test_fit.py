"""What can't be spread over processes is told with its keys, all at once."""

from __future__ import annotations

import pytest
import torch

from moecli.data.batches import IGNORED, TrainBatches
from moecli.errors import RecipeError
from moecli.moe.capacity import CapacityConfig
from moecli.moe.layers import SparseMoEConfig
from moecli.parallel.fit import check_world, world_problems
from moecli.parallel.rank_batches import RankBatches, evaluation_rows, evaluation_share
from moecli.parallel.world import World
from tests.parallel.trainings import SEQ_LEN, SPLIT

ROWS = SparseMoEConfig(num_experts=8, d_expert=8, capacity=CapacityConfig(group="batch"))


def test_every_problem_is_told_at_once():
    with pytest.raises(RecipeError) as caught:
        check_world(ROWS, batch_size=12, gradient_accumulation=2, world_size=4)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("training.batch_size: 12 sequences in 2 micro-batches can't be shared out evenly to 4 processes")
    assert lines[0].endswith("allowed: a multiple of 8")
    assert lines[1].startswith("model.ffn.capacity.group: the sequences of a batch share the experts' room")


def test_one_process_can_do_everything():
    assert world_problems(ROWS, batch_size=3, gradient_accumulation=1, world_size=1) == []


def test_even_shares_fit():
    check_world(SparseMoEConfig(num_experts=8, d_expert=8), batch_size=16, gradient_accumulation=2, world_size=4)


def test_processes_together_have_the_batch_of_one():
    batches = TrainBatches(SPLIT, SEQ_LEN, batch_size=8, seed=0)
    worlds = [World(rank=rank, size=4, local_rank=rank, device=torch.device("cpu"), seed=0, mesh=None) for rank in range(4)]
    parts = [RankBatches(batches, world).batch(5) for world in worlds]
    whole = batches.batch(5)
    assert all(len(part.ids_BS) == 2 for part in parts)
    assert torch.equal(torch.cat([part.ids_BS for part in parts]), whole.ids_BS)
    assert torch.equal(torch.cat([part.targets_BS for part in parts]), whole.targets_BS)
    assert RankBatches(batches, worlds[0]).seq_len == SEQ_LEN


@pytest.mark.parametrize("num_rows", [1, 3, 4, 7])
def test_every_row_is_evaluated_once_and_every_process_has_one_to_run(num_rows):
    worlds = [World(rank=rank, size=4, local_rank=rank, device=torch.device("cpu"), seed=0, mesh=None) for rank in range(4)]
    whole = TrainBatches(SPLIT, SEQ_LEN, batch_size=num_rows, seed=0).batch(5)
    shares = [evaluation_share(whole, world) for world in worlds]
    counted = [share for share, world in zip(shares, worlds, strict=True) if evaluation_rows(num_rows, world)]
    assert torch.equal(torch.cat([share.ids_BS for share in counted]), whole.ids_BS)
    assert torch.equal(torch.cat([share.targets_BS for share in counted]), whole.targets_BS)
    assert len(counted) == min(num_rows, 4) and all(len(share.ids_BS) >= 1 for share in shares)
    assert sum(int((share.targets_BS != IGNORED).sum()) for share in shares) == whole.targets_BS.numel()
