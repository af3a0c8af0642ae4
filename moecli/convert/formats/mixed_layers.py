"""How Qwen2-MoE and Qwen3-MoE say which layers are dense: a list, and a step.

Knows their keys. Must not know files.
"""

from __future__ import annotations

from typing import Any

from moecli.convert.config_reader import ConfigReader
from moecli.convert.formats.base import dense_layers, dense_width, without_layers
from moecli.model.config import GPTConfig


def mixed_layer_keys(config: GPTConfig) -> dict[str, Any]:
    """The dense layers by name, and no sliding window."""
    return {
        "intermediate_size": dense_width(config),
        "mlp_only_layers": dense_layers(config),
        "decoder_sparse_step": 1,
        "use_sliding_window": False,
        "sliding_window": None,
    }


def read_mixed_layers(reader: ConfigReader) -> dict[str, Any]:
    """`moe_layers` and `dense_d_ff`."""
    num_layers, step = reader.number("num_hidden_layers"), reader.optional_number("decoder_sparse_step", 1) or 1
    named = reader.optional_list("mlp_only_layers", int)
    dense = [layer for layer in range(num_layers) if layer in named or (layer + 1) % step]
    return {"moe_layers": without_layers(num_layers, dense), "dense_d_ff": reader.number("intermediate_size")}
