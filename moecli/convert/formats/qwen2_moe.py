"""Qwen2MoeForCausalLM: MoE and dense layers in any order, shared experts with a gate.

Knows its names and keys. Must not know files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from moecli.convert.config_reader import ConfigReader
from moecli.convert.features import moe_features, moe_layers
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
from moecli.convert.rules import Filler, Rule
from moecli.model.config import GPTConfig

MLP = "model.layers.{layer}.mlp"
SHARED = f"{MLP}.shared_expert"
SHARED_GATE = f"{MLP}.shared_expert_gate.weight"
SHARED_IN = Rule("blocks.{layer}.ffn.shared.in_proj.weight", (f"{SHARED}.gate_proj.weight", f"{SHARED}.up_proj.weight"))
GATED = (
    SHARED_IN,
    Rule("blocks.{layer}.ffn.shared.out_proj.weight", (f"{SHARED}.down_proj.weight",)),
    Rule("blocks.{layer}.ffn.shared_gate.weight", (SHARED_GATE,)),
)
# The class always has a gate. With weights of 0 it is sigmoid(0) = 1/2 for every token, which twice the projection makes up for, exactly.
UNGATED = (SHARED_IN, Rule("blocks.{layer}.ffn.shared.out_proj.weight", (f"{SHARED}.down_proj.weight",), scale=2.0))


class Qwen2MoeFormat(Format):
    """Shared experts without a gate have a gate of 0 and a doubled projection; without shared experts, there is one of width 0."""

    model_type = "qwen2_moe"
    architecture = "Qwen2MoeForCausalLM"
    limits = Limits(qk_norms=("none",), qkv_bias=True, score="softmax", can_be_unnormalized=True, shared="any", dense_layers="any")
    rules = (*DECODER_RULES, *MLP_RULES, *expert_rules("mlp", gate="gate_proj", up="up_proj", down="down_proj"))
    defaults: ClassVar[Mapping[str, Any]] = {
        "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "qkv_bias": True, "norm_topk_prob": False, "num_experts_per_tok": 4,
        "use_sliding_window": False, "intermediate_size": 5632, "shared_expert_intermediate_size": 5632,
    }  # fmt: skip
    bias_key = "qkv_bias"
    biases_output = False

    def rules_of(self, config: GPTConfig) -> tuple[Rule, ...]:
        return (*self.rules, *(GATED if moe_features(config).has_shared_gate else UNGATED))

    def fillers(self, config: GPTConfig) -> list[Filler]:
        features = moe_features(config)
        fillers = []
        for layer in moe_layers(config):
            if not features.has_shared_gate:
                fillers.append(Filler(SHARED_GATE.format(layer=layer), (1, config.d_model)))
            if not features.d_shared:
                shared = SHARED.format(layer=layer)
                fillers += [Filler(f"{shared}.{name}_proj.weight", (0, config.d_model)) for name in ("gate", "up")]
                fillers.append(Filler(f"{shared}.down_proj.weight", (config.d_model, 0)))
        return fillers

    def own_keys(self, config: GPTConfig) -> dict[str, Any]:
        shared = {"shared_expert_intermediate_size": moe_features(config).d_shared}
        return softmax_keys(config, expert_width_key="moe_intermediate_size") | mixed_layer_keys(config) | shared

    def feed_forward(self, reader: ConfigReader) -> dict[str, Any]:
        layers = read_mixed_layers(reader)
        d_shared = reader.number("shared_expert_intermediate_size")
        gates = [SHARED_GATE.format(layer=layer) for layer in range(reader.number("num_hidden_layers"))]
        is_ungated = all(reader.is_zero(gate) for gate in gates)
        ffn = {
            "kind": "sparse",
            "num_experts": reader.number("num_experts", "num_local_experts"),
            "d_expert": reader.number("moe_intermediate_size"),
            "router": softmax_router(reader),
            "num_shared_experts": 1 if d_shared else 0,
            "d_shared_expert": d_shared or None,
            "shared_gate": bool(d_shared) and not is_ungated,
        }
        return {"ffn": ffn} | layers
