"""Rules: which part of ours becomes which tensor of theirs, in both directions, and what happens to tensors that no rule matches."""

from __future__ import annotations

import pytest
import torch

from moecli.convert.rules import Filler, Rule, check_shapes, expected_shapes, pieces_of, to_ours, to_theirs
from moecli.errors import ConvertError

EXPERTS = Rule("blocks.{layer}.experts.in", ("layers.{layer}.{expert}.gate", "layers.{layer}.{expert}.up"))


def test_experts_are_unstacked_and_their_rows_shared_out():
    # Two experts of 4 rows and 1 column: the first 2 rows are the gate, the others the up projection.
    ours = {"blocks.7.experts.in": torch.tensor([[[1.0], [2.0], [3.0], [4.0]], [[5.0], [6.0], [7.0], [8.0]]])}
    shapes = {name: tuple(tensor.shape) for name, tensor in ours.items()}
    pieces = pieces_of([EXPERTS], shapes)
    theirs = {made.name: made.make() for made in to_theirs(pieces, [], ours.__getitem__)}
    assert {name: tensor.flatten().tolist() for name, tensor in theirs.items()} == {
        "layers.7.0.gate": [1.0, 2.0], "layers.7.0.up": [3.0, 4.0], "layers.7.1.gate": [5.0, 6.0], "layers.7.1.up": [7.0, 8.0],
    }  # fmt: skip
    assert expected_shapes(pieces, []) == dict.fromkeys(theirs, (2, 1))
    back = to_ours(pieces, shapes, theirs.__getitem__)
    assert torch.equal(back["blocks.7.experts.in"], ours["blocks.7.experts.in"])


def test_a_scale_is_applied_one_way_and_taken_back_the_other():
    ours = {"a.1.w": torch.tensor([0.3, -7.0])}
    pieces = pieces_of([Rule("a.{layer}.w", ("b.{layer}.w",), scale=2.0)], {"a.1.w": (2,)})
    [made] = to_theirs(pieces, [], ours.__getitem__)
    assert torch.equal(made.make(), torch.tensor([0.6, -14.0]))
    assert torch.equal(to_ours(pieces, {"a.1.w": (2,)}, {"b.1.w": made.make()}.__getitem__)["a.1.w"], ours["a.1.w"])


def test_fillers_are_zeros():
    [made] = to_theirs([], [Filler("gate", (1, 3)), ], {}.__getitem__)  # fmt: skip
    assert torch.equal(made.make(), torch.zeros(1, 3))


def test_a_placeholder_stands_for_one_part_of_a_name():
    with pytest.raises(ConvertError, match="no rule"):
        pieces_of([Rule("a.{part}", ("b.{part}",))], {"a.x.y": (1,)})


def test_a_rule_without_theirs_drops_the_tensor():
    assert pieces_of([Rule("a.{layer}.noise", ())], {"a.0.noise": (3,)}) == []


def test_tensors_without_a_rule_or_with_two_are_refused_by_name():
    with pytest.raises(ConvertError, match=r"a\.0\.w: no rule"):
        pieces_of([EXPERTS], {"a.0.w": (1,)})
    with pytest.raises(ConvertError, match=r"a\.0\.w: two rules"):
        pieces_of([Rule("a.{layer}.w", ("b",)), Rule("a.0.{name}", ("c",))], {"a.0.w": (1,)})
    with pytest.raises(ConvertError, match="b: two tensors"):
        pieces_of([Rule("a.{layer}.w", ("b",))], {"a.0.w": (1,), "a.1.w": (1,)})


@pytest.mark.parametrize(
    ("there", "what"),
    [
        ({"x": (2,), "y": (3,)}, None),
        ({"x": (2,)}, "file of y: tensor y is missing"),
        ({}, "file of x: tensors x, y are missing"),
        ({"x": (2,), "y": (3,), "z": (1,)}, "file of z: tensor z is not part of the model"),
        ({"x": (2,), "y": (3, 1)}, r"file of y: tensor y has the shape \[3, 1\], by config.json it should be \[3\]"),
    ],
)
def test_shapes_are_checked_against_those_expected(there, what):
    if what is None:
        check_shapes(there, {"x": (2,), "y": (3,)}, lambda name: f"file of {name}")
        return
    with pytest.raises(ConvertError, match=what):
        check_shapes(there, {"x": (2,), "y": (3,)}, lambda name: f"file of {name}")
