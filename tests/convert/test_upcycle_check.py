"""What keeps a dense model from becoming an MoE is told all at once, with what would fit."""

from __future__ import annotations

import pytest

from moecli.convert.upcycle_check import upcycle_problems
from moecli.model.init import build_gpt
from tests.convert.upcycle_models import D_FF, VOCAB, dense_model, moe_config

HALF, QUARTER = D_FF // 2, D_FF // 4
GROUPED = {"kind": "sigmoid_topk", "top_k": 4, "num_groups": 4, "top_groups": 2}

PROBLEMS = {
    # method, ffn, other fields: (field, what, allowed) of each problem
    "no experts": ("copies", {"kind": "mlp", "d_expert": None}, {}, [("ffn.kind", "mlp has no experts", "an MoE")]),
    "another shape": (
        "copies", {}, {"d_model": 16, "qk_norm": "head"},
        [("d_model", "16 is not that of the source", "8"), ("head_dim", "8", "4"), ("qk_norm", "head", "none")],
    ),
    "other layers": ("copies", {}, {"num_layers": 3}, [("num_layers", "3", "2")]),
    "both sides": ("copies", {}, {"causal": False}, [("causal", "False", "True")]),
    "another width": ("copies", {"d_expert": 24}, {}, [("ffn.d_expert", "24 is not the width", "16")]),
    "a width that granular takes": ("drop", {"d_expert": HALF}, {}, [("ffn.d_expert", "8 is not the width", "16, or the method granular")]),
    "no divisor": ("granular", {"d_expert": 3}, {}, [("ffn.d_expert", "3 does not divide the 16", "a divisor of 16")]),
    "a wider expert": ("granular", {"d_expert": 32}, {}, [("ffn.d_expert", "32 does not divide the 16", "a divisor of 16")]),
    "a part of a copy": (
        "granular", {"d_expert": QUARTER, "num_experts": 6}, {}, [("ffn.num_experts", "copies of 4 shards", "a multiple of 4")],
    ),
    "a part of a copy for a token": (
        "granular", {"d_expert": QUARTER, "router": {"kind": "topk", "top_k": 2}}, {},
        [("ffn.router.top_k", "2 experts are no whole number", "a multiple of 4")],
    ),
    "router groups across copies": (
        "granular", {"d_expert": QUARTER, "router": GROUPED}, {}, [("ffn.router.num_groups", "groups of 2", "a multiple of 4")],
    ),
    "experts one by one": (
        "granular", {"d_expert": HALF, "router": {"kind": "hash", "top_k": 2}}, {}, [("ffn.router.kind", "one by one", "learns")],
    ),
    "slots": ("granular", {"kind": "soft", "mixing": "batch", "d_expert": HALF}, {}, [("ffn.kind", "slots", "sparse or dense")]),
    "shared experts of another width": (
        "copies", {"num_shared_experts": 2}, {}, [("ffn.d_shared_expert", "2 x 16 hidden units", "8")],
    ),
    "shared experts that don't divide": (
        "copies", {"num_shared_experts": 3}, {}, [("ffn.d_shared_expert", "3 x 16", "a num_shared_experts that divides 16")],
    ),
    "a dense layer of another width": (
        "copies", {}, {"dense_d_ff": 32, "moe_layers": {"indices": [1]}}, [("dense_d_ff", "not the width of the source's layer 0", "16")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PROBLEMS)
def test_problems(case):
    method, ffn, fields, expected = PROBLEMS[case]
    problems = upcycle_problems(dense_model(), moe_config(ffn, **fields) if ffn.get("kind") != "mlp" else dense_model().config, method)
    assert [problem.field for problem in problems] == [field for field, _, _ in expected]
    for problem, (_, what, allowed) in zip(problems, expected, strict=True):
        assert what in problem.what and allowed in problem.allowed


def test_layers_of_two_widths_can_not_all_become_experts_of_one():
    dense = dense_model(dense_d_ff=32, moe_layers={"indices": [1]})  # layer 0: 32, layer 1: 16
    [problem] = upcycle_problems(dense, moe_config({}), "copies")
    assert problem.field == "moe_layers" and "32 and 16 hidden units" in problem.what
    assert upcycle_problems(dense, moe_config({}, dense_d_ff=32, moe_layers={"indices": [1]}), "copies") == []


def test_a_source_with_experts_is_refused():
    source = build_gpt(moe_config({"num_experts": 2}, moe_layers={"indices": [1]}), VOCAB, seed=0)
    [problem] = upcycle_problems(source, moe_config({}), "copies")
    assert problem.what == "layer 1 of the source has experts already"
