"""LlamaForCausalLM: a dense decoder without norms on queries and keys.

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


class LlamaFormat(Format):
    """Biases of queries, keys and values come with one of the output, which is 0."""

    model_type = "llama"
    architecture = "LlamaForCausalLM"
    limits = Limits(qk_norms=("none",), qkv_bias=True, score=None, head_dim="divides")
    rules = (*DECODER_RULES, *MLP_RULES)
    defaults: ClassVar[Mapping[str, Any]] = {"rms_norm_eps": 1e-6, "tie_word_embeddings": False, "attention_bias": False}

    def own_keys(self, config: GPTConfig) -> dict[str, Any]:
        return {"intermediate_size": mlp_widths(config)[0], "mlp_bias": False}

    def feed_forward(self, reader: ConfigReader) -> dict[str, Any]:
        return {"ffn": {"kind": "mlp", "d_ff": reader.number("intermediate_size")}}
