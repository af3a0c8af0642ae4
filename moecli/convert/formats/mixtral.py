"""MixtralForCausalLM: every layer MoE, weights that sum to 1, nothing shared; what most programs can run.

Knows its names and keys. Must not know files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from moecli.convert.config_reader import ConfigReader
from moecli.convert.formats.base import DECODER_RULES, Format, expert_rules, softmax_keys
from moecli.convert.formats.limits import Limits
from moecli.model.config import GPTConfig


class MixtralFormat(Format):
    """w1 is the gate, w3 the up, w2 the down projection."""

    model_type = "mixtral"
    architecture = "MixtralForCausalLM"
    limits = Limits(qk_norms=("none",), qkv_bias=False, score="softmax")
    rules = (*DECODER_RULES, *expert_rules("block_sparse_moe", gate="w1", up="w3", down="w2"))
    defaults: ClassVar[Mapping[str, Any]] = {
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "rope_theta": 1e6,
        "num_experts_per_tok": 2,
    }
    bias_key = None

    def own_keys(self, config: GPTConfig) -> dict[str, Any]:
        return softmax_keys(config, expert_width_key="intermediate_size") | {"sliding_window": None, "router_jitter_noise": 0.0}

    def feed_forward(self, reader: ConfigReader) -> dict[str, Any]:
        router = {"kind": "topk", "top_k": reader.number("num_experts_per_tok"), "normalize_weights": True}
        ffn = {
            "kind": "sparse",
            "num_experts": reader.number("num_local_experts", "num_experts"),
            "d_expert": reader.number("intermediate_size"),
            "router": router,
        }
        return {"ffn": ffn}
