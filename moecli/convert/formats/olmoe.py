"""OlmoeForCausalLM: every layer MoE, a norm over all heads of queries and keys together.

Knows its names and keys. Must not know files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from moecli.convert.config_reader import ConfigReader
from moecli.convert.formats.base import DECODER_RULES, Format, expert_rules, softmax_keys, softmax_router
from moecli.convert.formats.limits import Limits
from moecli.model.config import GPTConfig


class OlmoeFormat(Format):
    """Biases of queries, keys and values come with one of the output, which is 0."""

    model_type = "olmoe"
    architecture = "OlmoeForCausalLM"
    limits = Limits(qk_norms=("full",), qkv_bias=True, score="softmax", head_dim="share", can_be_unnormalized=True)
    rules = (*DECODER_RULES, *expert_rules("mlp", gate="gate_proj", up="up_proj", down="down_proj"))
    defaults: ClassVar[Mapping[str, Any]] = {
        "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "attention_bias": False, "norm_topk_prob": False, "num_experts_per_tok": 8,
    }  # fmt: skip

    def own_keys(self, config: GPTConfig) -> dict[str, Any]:
        return softmax_keys(config, expert_width_key="intermediate_size") | {"clip_qkv": None}

    def feed_forward(self, reader: ConfigReader) -> dict[str, Any]:
        ffn = {
            "kind": "sparse",
            "num_experts": reader.number("num_experts", "num_local_experts"),
            "d_expert": reader.number("intermediate_size"),
            "router": softmax_router(reader),
        }
        return {"qk_norm": "full", "ffn": ffn}
