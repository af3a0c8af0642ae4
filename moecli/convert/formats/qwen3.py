"""Qwen3ForCausalLM: a dense decoder with a norm on each head of queries and keys.

Knows its names and keys. Must not know files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from moecli.convert.config_reader import ConfigReader
from moecli.convert.features import mlp_widths
from moecli.convert.formats.base import DECODER_RULES, MLP_RULES, Format
from moecli.convert.formats.limits import Limits
from moecli.model.config import GPTConfig


class Qwen3Format(Format):
    """Biases of queries, keys and values come with one of the output, which is 0."""

    model_type = "qwen3"
    architecture = "Qwen3ForCausalLM"
    limits = Limits(qk_norms=("head",), qkv_bias=True, score=None)
    rules = (*DECODER_RULES, *MLP_RULES)
    defaults: ClassVar[Mapping[str, Any]] = {
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "use_sliding_window": False,
        "head_dim": 128,
    }

    def own_keys(self, config: GPTConfig) -> dict[str, Any]:
        return {"intermediate_size": mlp_widths(config)[0], "use_sliding_window": False, "sliding_window": None}

    def feed_forward(self, reader: ConfigReader) -> dict[str, Any]:
        return {"qk_norm": "head", "ffn": {"kind": "mlp", "d_ff": reader.number("intermediate_size")}}
