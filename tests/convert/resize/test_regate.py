"""Another gate: the experts stay bit for bit, the gate is that of a fresh model."""

from __future__ import annotations

import pytest
import torch

from moecli.convert.resize.operations import Measured, resize
from moecli.convert.resize.options import ResizeOptions
from moecli.model.init import build_gpt
from tests.convert.resize.moe_models import SIGMOID, TOPK, VOCAB, logits, moe_config, moe_model

SPARSE = {"router": TOPK}
SOFT = {"kind": "soft", "mixing": "sequence", "slots_per_expert": 2}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (SPARSE, SOFT),
        (SOFT, SPARSE),
        (SPARSE, {"router": SIGMOID}),
        (SPARSE, {"kind": "dense"}),
        (SPARSE, {"router": {"kind": "hash"}}),
        (SPARSE, SPARSE),
    ],
)
def test_experts_stay_and_the_gate_is_fresh(before, after):
    model, config = moe_model(before), moe_config(after)
    regated, changes = resize(model, config, ResizeOptions("regate", seed=5), Measured())
    fresh = build_gpt(config, VOCAB, seed=5).state_dict()
    assert changes[0].made_of == [[0], [1], [2], [3]]
    for name, tensor in regated.state_dict().items():
        is_gate = ".ffn." in name and ".experts." not in name
        assert torch.equal(tensor, fresh[name] if is_gate else model.state_dict()[name]), name
    if after != {"router": {"kind": "hash"}}:
        assert any(".ffn." in name and ".experts." not in name for name in fresh)
    assert torch.isfinite(logits(regated)).all()


def test_shared_experts_stay_and_their_gate_begins_anew():
    shared = {"num_shared_experts": 1, "shared_gate": True}
    model, config = moe_model(SPARSE | shared), moe_config({"router": SIGMOID} | shared)
    regated, _ = resize(model, config, ResizeOptions("regate"), Measured())
    assert torch.equal(regated.blocks[0].ffn.shared.in_proj.weight, model.blocks[0].ffn.shared.in_proj.weight)
    assert not torch.equal(regated.blocks[0].ffn.shared_gate.weight, model.blocks[0].ffn.shared_gate.weight)
