"""Which changes of a config leave a model's weights their meaning, and which their function."""

from __future__ import annotations

from typing import Any

import pytest

from moecli.convert.hf_folder import gpt_shapes
from moecli.convert.start import ROUTING_FIELDS, TRAINING_FIELDS, changed_fields, changes_function, start_problems
from moecli.model.config import GPTConfig
from moecli.moe.capacity import CapacityConfig
from moecli.moe.routers import ROUTERS
from tests.convert.models import MLP, RAW, SIGMOID, SIZES, SPARSE


def config(ffn: dict[str, Any], **fields: Any) -> GPTConfig:
    return GPTConfig.model_validate(SIZES | {"ffn": ffn} | fields)


def routed(**router: Any) -> dict[str, Any]:
    return SPARSE | {"router": {"kind": "topk", "top_k": 2} | router}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (config(SPARSE), config(SPARSE, init_std=0.5)),
        (config(SPARSE), config(routed(input_jitter=0.01))),
        (config(SPARSE), config(routed(keep_threshold=0.2))),
        (config(SPARSE | {"capacity": {"factor": 1.0}}), config(SPARSE | {"capacity": {"factor": 2.0}})),
        (config(routed(kind="vmoe_topk")), config(routed(kind="vmoe_topk", noise_std=0.5))),
        # The same layers by another rule; a width of dense layers, of which there are none.
        (config(SPARSE, moe_layers={"every": 2}), config(SPARSE, moe_layers={"indices": [1]})),
        (config(SPARSE), config(SPARSE, dense_d_ff=99)),
        (config(SPARSE), config(SPARSE, causal=True)),
    ],
)
def test_what_evaluation_does_not_compute_with(old, new):
    changed = changed_fields(old, new)
    assert start_problems(changed) == [] and not changes_function(changed)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (config(SPARSE), config(routed(top_k=3))),
        (config(SPARSE | {"router": RAW}), config(SPARSE | {"router": RAW | {"normalize_weights": True}})),
        (config(SPARSE), config(SPARSE | {"capacity": {}})),
        (config(SPARSE | {"capacity": {}}), config(SPARSE | {"capacity": {"overflow": "next"}})),
        (config(SPARSE | {"router": SIGMOID}), config(SPARSE | {"router": SIGMOID | {"scale": 1.0, "num_groups": 2}})),
    ],
)
def test_routing_may_change_and_counts(old, new):
    changed = changed_fields(old, new)
    assert start_problems(changed) == [] and changes_function(changed)
    assert gpt_shapes(old, 64) == gpt_shapes(new, 64)


@pytest.mark.parametrize(
    ("old", "new", "fields"),
    [
        (config(SPARSE), config(SPARSE, norm_eps=1e-6, rope_theta=500.0), ["rope_theta", "norm_eps"]),
        (config(SPARSE), config(SPARSE, activation="gelu"), ["activation"]),
        (config(SPARSE), config(SPARSE, tie_embeddings=True), ["tie_embeddings"]),
        (config(SPARSE), config(SPARSE, causal=False), ["causal"]),
        (config(SPARSE), config(SPARSE, num_heads=2, head_dim=4), ["num_heads"]),
        (config(SPARSE), config(SPARSE, moe_layers={"every": 3}), ["moe_layers"]),
        (config(SPARSE, moe_layers={"every": 2}), config(SPARSE, moe_layers={"every": 2}, dense_d_ff=99), ["dense_d_ff"]),
        (config(SPARSE), config(SPARSE | {"num_experts": 9}), ["ffn.num_experts"]),
        (config(SPARSE), config(routed(selection_bias=True)), ["ffn.router.selection_bias"]),
        # Of the same shapes, but the weights would mean something else.
        (config(SPARSE), config(routed(kind="vmoe_topk")), ["ffn.router.kind"]),
        (config(routed(kind="hash")), config(routed(kind="hash", seed=1)), ["ffn.router.seed"]),
        (config(MLP), config(SPARSE), ["ffn.kind"]),
        (config(MLP), config(SPARSE, qkv_bias=True), ["qkv_bias", "ffn.kind"]),
    ],
)
def test_what_gives_the_weights_another_shape_or_meaning(old, new, fields):
    problems = start_problems(changed_fields(old, new))
    assert [problem.field for problem in problems] == fields


def test_every_name_is_one_of_a_config():
    names = {f"ffn.router.{name}" for router in ROUTERS.values() for name in router.config_class.model_fields}
    names |= {f"ffn.capacity.{name}" for name in CapacityConfig.model_fields} | {"ffn.capacity"} | set(GPTConfig.model_fields)
    assert names >= TRAINING_FIELDS | ROUTING_FIELDS
