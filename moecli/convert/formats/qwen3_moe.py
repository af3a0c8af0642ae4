"""Qwen3MoeForCausalLM: MoE and dense layers in any order, a norm on each head of queries and keys, nothing shared.

Knows its names and keys. Must not know files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from moecli.convert.config_reader import ConfigReader
from moecli.convert.formats.base import (
    DECODER_RULES,
    MLP_RULES,
    Format,
    expert_rules,
    softmax_keys,
    softmax_router,
)
from moecli.convert.formats.limits import Limits
from moecli.convert.formats.mixed_layers import mixed_layer_keys, read_mixed_layers
from moecli.model.config import GPTConfig


class Qwen3MoeFormat(Format):
    """Biases of queries, keys and values come with one of the output, which is 0."""

    model_type = "qwen3_moe"
    architecture = "Qwen3MoeForCausalLM"
    limits = Limits(qk_norms=("head",), qkv_bias=True, score="softmax", can_be_unnormalized=True, dense_layers="any")
    rules = (*DECODER_RULES, *MLP_RULES, *expert_rules("mlp", gate="gate_proj", up="up_proj", down="down_proj"))
    defaults: ClassVar[Mapping[str, Any]] = {
        "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "attention_bias": False, "norm_topk_prob": False, "num_experts_per_tok": 8,
        "use_sliding_window": False, "intermediate_size": 6144,
    }  # fmt: skip

    def own_keys(self, config: GPTConfig) -> dict[str, Any]:
        return softmax_keys(config, expert_width_key="moe_intermediate_size") | mixed_layer_keys(config)

    def feed_forward(self, reader: ConfigReader) -> dict[str, Any]:
        ffn = {
            "kind": "sparse",
            "num_experts": reader.number("num_experts", "num_local_experts"),
            "d_expert": reader.number("moe_intermediate_size"),
            "router": softmax_router(reader),
        }
        return {"qk_norm": "head", "ffn": ffn} | read_mixed_layers(reader)
