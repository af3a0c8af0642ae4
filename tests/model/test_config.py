"""Which shapes are possible, which defaults follow, and which layers are MoE."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from moecli.model.config import GPTConfig, MoELayersConfig
from moecli.moe.layers import SparseMoEConfig


def problem_of(**options: object) -> str:
    with pytest.raises(ValidationError) as caught:
        GPTConfig.model_validate(options)
    return str(caught.value.errors()[0]["ctx"]["error"])


def test_default_widths_follow_from_d_model():
    config = GPTConfig.model_validate({"d_model": 48, "num_heads": 6, "ffn": {"kind": "sparse"}})
    assert (config.head_dim, config.num_kv_heads, config.dense_d_ff) == (8, 6, 192)
    assert (config.ffn.d_expert, config.ffn.d_shared_expert) == (192, 192)
    assert GPTConfig.model_validate({"d_model": 48}).ffn.d_ff == 192


def test_a_dump_builds_the_same_config():
    config = GPTConfig.model_validate({"d_model": 48, "ffn": {"kind": "sparse", "router": {"top_k": 1}}, "moe_layers": {"every": 2}})
    assert GPTConfig.model_validate(config.model_dump()) == config


@pytest.mark.parametrize(
    ("options", "is_causal"), [({}, True), ({"causal": None}, True), ({"causal": True}, True), ({"causal": False}, False)]
)
def test_a_config_without_an_objective_is_causal_unless_it_says_no(options, is_causal):
    config = GPTConfig.model_validate(options)
    assert config.is_causal == is_causal
    assert GPTConfig.model_validate(config.model_dump()) == config


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"d_model": 100, "num_heads": 3}, "num_heads"),
        ({"num_heads": 4, "num_kv_heads": 3}, "num_kv_heads"),
        ({"d_model": 12, "num_heads": 4}, "head_dim"),
        ({"ffn": SparseMoEConfig(), "moe_layers": {"indices": [9]}}, "moe_layers.indices"),
        ({"ffn": SparseMoEConfig(), "moe_layers": {"indices": []}}, "moe_layers"),
        ({"ffn": SparseMoEConfig(), "moe_layers": {"indices": [1, 4]}}, "moe_layers.indices"),
        ({"ffn": SparseMoEConfig(), "moe_layers": {"first_dense": 4}}, "moe_layers"),
    ],
)
def test_impossible_shapes_name_the_field(options, field):
    assert problem_of(**options).startswith(f"{field}: ")


def test_top_k_beyond_num_experts_names_both():
    with pytest.raises(ValidationError, match=r"router\.top_k: more experts per token than there are experts \(2\)"):
        SparseMoEConfig.model_validate({"num_experts": 2, "router": {"top_k": 3}})


@pytest.mark.parametrize(
    ("options", "layers"),
    [({}, [0, 1, 2, 3, 4, 5]), ({"every": 2}, [1, 3, 5]), ({"first_dense": 1}, [1, 2, 3, 4, 5]), ({"first_dense": 1, "every": 2}, [2, 4]),
     ({"indices": [0, 5]}, [0, 5])],
)  # fmt: skip
def test_moe_layers(options, layers):
    choice = MoELayersConfig.model_validate(options)
    assert [layer for layer in range(6) if choice.includes(layer)] == layers
