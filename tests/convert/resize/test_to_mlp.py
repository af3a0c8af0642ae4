"""An MoE to an mlp: what is exact where the experts are all the same, and what it is made of where they are not."""

from __future__ import annotations

import pytest
import torch

from moecli.convert.resize.options import LayerStatistics, ResizeOptions
from moecli.convert.resize.to_mlp import parts_of_mlp, side_by_side
from moecli.moe.layers import MLPConfig
from tests.convert.resize.moe_models import SIGMOID, TOPK, logits, moe_model, resized, same_experts

WAYS = ("average", "load", "heaviest", "concatenate")


@pytest.mark.parametrize("merge_by", WAYS)
@pytest.mark.parametrize(
    "ffn",
    [{"router": TOPK}, {"router": SIGMOID | {"scale": 2.5}, "num_shared_experts": 2, "d_shared_expert": 4}, {"kind": "dense"}],
    ids=["topk", "scaled, with shared", "dense"],
)
@pytest.mark.parametrize("activation", ["swiglu", "relu2"])
def test_experts_that_are_all_the_same_make_the_same_function(ffn, merge_by, activation):
    model = same_experts(moe_model(ffn, activation=activation))
    mlp, changes = resized(model, ResizeOptions("dense", merge_by=merge_by))
    assert isinstance(mlp.config.ffn, MLPConfig)
    torch.testing.assert_close(logits(mlp), logits(model), rtol=1e-4, atol=1e-4)
    assert sum(changes[0].output_factors) == pytest.approx(2.5 if "num_shared_experts" in ffn else 1)


def test_which_experts_and_how_much():
    load = torch.tensor([0.1, 0.5, 0.4], dtype=torch.float64)
    weight = torch.tensor([0.3, 0.6, 0.2], dtype=torch.float64)
    layer = LayerStatistics(load, weight, torch.zeros(3, 3), 1.0)
    # 1.1 is what a token's weights sum to; side by side, experts 1 and 2 get it as 0.6 to 0.2.
    parts = parts_of_mlp(0, layer, "concatenate", 2)
    assert parts.made_of == [[1], [2]] and parts.output_factors == pytest.approx([1.1 * 0.75, 1.1 * 0.25])
    heaviest, average = (parts_of_mlp(0, layer, merge_by, 2) for merge_by in ("heaviest", "average"))
    assert heaviest.made_of == [[1]] and heaviest.output_factors == pytest.approx([1.1])
    assert average.made_of == [[1, 2, 0]] and average.scores == pytest.approx([0.1, 0.5, 0.4])


def test_heaviest_is_that_expert():
    model = moe_model({"router": TOPK})
    mlp, changes = resized(model, ResizeOptions("dense", merge_by="heaviest"))
    for change in changes:
        [[expert]] = change.made_of
        assert change.scores[expert] == max(change.scores)
        assert torch.equal(mlp.blocks[change.layer].ffn.in_proj.weight, model.blocks[change.layer].ffn.experts.in_proj[expert])


@pytest.mark.parametrize("merge_by", ["average", "load"])
def test_means_are_weighted_as_told(merge_by):
    """Of experts with the same input projection, hidden units are in order, and the mean of the outputs is what it says."""
    model = moe_model({"router": TOPK})
    with torch.no_grad():
        for block in model.feed_forwards():
            block.experts.in_proj.copy_(10 * block.experts.in_proj[:1])
    mlp, [change, _] = resized(model, ResizeOptions("dense", merge_by=merge_by))
    shares = torch.tensor([0.25] * 4 if merge_by == "average" else change.scores, dtype=torch.float32)
    mean_DH = (shares[:, None, None] * model.blocks[0].ffn.experts.out_proj).sum(0)
    torch.testing.assert_close(mlp.blocks[0].ffn.out_proj.weight, mean_DH)


def test_a_gate_before_shared_experts_leaves_its_mean():
    model = moe_model({"router": TOPK, "num_shared_experts": 1, "shared_gate": True})
    with torch.no_grad():
        for block in model.feed_forwards():
            block.shared_gate.weight.zero_()  # sigmoid(0) = 1/2 for every token
    mlp, _ = resized(same_experts(model), ResizeOptions("dense", merge_by="average"))
    torch.testing.assert_close(logits(mlp), logits(model), rtol=1e-4, atol=1e-4)


def test_mlp_layers_among_them_stay():
    model = moe_model({"router": TOPK}, moe_layers={"indices": [1]})
    mlp, changes = resized(model, ResizeOptions("dense", merge_by="concatenate"))
    assert [change.layer for change in changes] == [1]
    assert [block.out_proj.in_features for block in mlp.feed_forwards()] == [16, 2 * 8]
    assert torch.equal(mlp.blocks[0].ffn.in_proj.weight, model.blocks[0].ffn.in_proj.weight)


def test_side_by_side_is_the_sum():
    """Gate rows of both, then up rows of both: widths 1 and 2 of a gated network make gate 0-2 and up 3-5."""
    narrow, wide = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [4.0], [5.0], [6.0]])
    in_FD, out_DH = side_by_side([(narrow, torch.tensor([[7.0]])), (wide, torch.tensor([[8.0, 9.0]]))], is_gated=True)
    assert in_FD[:, 0].tolist() == [1, 3, 4, 2, 5, 6] and out_DH.tolist() == [[7, 8, 9]]
