"""Glm4MoeForCausalLM: a sigmoid router with a bias for the choice and groups of experts, ungated shared experts, dense layers first.

Knows its names and keys. Must not know files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from moecli.convert.config_reader import ConfigReader
from moecli.convert.features import moe_features, moe_layers
from moecli.convert.formats.base import DECODER_RULES, MLP_RULES, Format, dense_layers, dense_width, expert_rules
from moecli.convert.formats.limits import Limits
from moecli.convert.rules import Filler, Rule
from moecli.model.config import GPTConfig
from moecli.moe.sparse import SparseMoEConfig

MLP = "model.layers.{layer}.mlp"
SHARED = f"{MLP}.shared_experts"
BIAS = f"{MLP}.gate.e_score_correction_bias"
SHARED_RULES = (
    Rule("blocks.{layer}.ffn.router.selection_bias_E", (BIAS,), keeps_float32=True),
    Rule("blocks.{layer}.ffn.shared.in_proj.weight", (f"{SHARED}.gate_proj.weight", f"{SHARED}.up_proj.weight")),
    Rule("blocks.{layer}.ffn.shared.out_proj.weight", (f"{SHARED}.down_proj.weight",)),
)


class Glm4MoeFormat(Format):
    """A router without a bias has one of 0, and comes back with it; without shared experts, there is one of width 0."""

    model_type = "glm4_moe"
    architecture = "Glm4MoeForCausalLM"
    limits = Limits(
        qk_norms=("none", "head"), qkv_bias=True, score="sigmoid", can_be_unnormalized=True, shared="ungated", dense_layers="first"
    )
    rules = (*DECODER_RULES, *MLP_RULES, *expert_rules("mlp", gate="gate_proj", up="up_proj", down="down_proj"), *SHARED_RULES)
    defaults: ClassVar[Mapping[str, Any]] = {
        "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "attention_bias": False, "norm_topk_prob": True, "num_experts_per_tok": 8,
        "partial_rotary_factor": 0.5, "use_qk_norm": False, "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 1,
        "topk_group": 1, "routed_scaling_factor": 1.0, "intermediate_size": 10944,
    }  # fmt: skip
    biases_output = False

    def fillers(self, config: GPTConfig) -> list[Filler]:
        features, fillers = moe_features(config), []
        has_bias = isinstance(config.ffn, SparseMoEConfig) and config.ffn.router.has_selection_bias
        for layer in moe_layers(config):
            if not has_bias:
                fillers.append(Filler(BIAS.format(layer=layer), (features.num_experts,)))
            if not features.d_shared:
                shared = SHARED.format(layer=layer)
                fillers += [Filler(f"{shared}.{name}_proj.weight", (0, config.d_model)) for name in ("gate", "up")]
                fillers.append(Filler(f"{shared}.down_proj.weight", (config.d_model, 0)))
        return fillers

    def own_keys(self, config: GPTConfig) -> dict[str, Any]:
        features = moe_features(config)
        return {
            "intermediate_size": dense_width(config),
            "moe_intermediate_size": features.d_expert,
            "n_routed_experts": features.num_experts,
            "num_local_experts": features.num_experts,
            "num_experts_per_tok": features.top_k,
            "n_shared_experts": features.d_shared // features.d_expert,
            "n_group": features.num_groups,
            "topk_group": features.top_groups,
            "norm_topk_prob": features.is_normalized,
            "routed_scaling_factor": features.scale,
            "first_k_dense_replace": len(dense_layers(config)),
            "use_qk_norm": config.qk_norm == "head",
            "num_nextn_predict_layers": 0,
            "partial_rotary_factor": 1.0,
            "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta, "partial_rotary_factor": 1.0},
        }

    def feed_forward(self, reader: ConfigReader) -> dict[str, Any]:
        extra = reader.optional("num_nextn_predict_layers", reader.optional("num_mtp_layers", 0))
        reader.refuse_unless(not extra, f"layers that predict several tokens (num_nextn_predict_layers {extra})")
        num_groups, top_groups = reader.number("n_group"), reader.number("topk_group")
        router = {
            "kind": "sigmoid_topk",
            "top_k": reader.number("num_experts_per_tok"),
            "normalize_weights": reader.flag("norm_topk_prob"),
            "scale": reader.positive("routed_scaling_factor"),
            "num_groups": num_groups if top_groups < num_groups else 1,
            "top_groups": top_groups if top_groups < num_groups else 1,
        }
        ffn = {
            "kind": "sparse",
            "num_experts": reader.number("n_routed_experts", "num_local_experts"),
            "d_expert": reader.number("moe_intermediate_size"),
            "router": router,
            "num_shared_experts": reader.number("n_shared_experts"),
        }
        return {
            "qk_norm": "head" if reader.flag("use_qk_norm") else "none",
            "ffn": ffn,
            "moe_layers": {"first_dense": reader.number("first_k_dense_replace")},
            "dense_d_ff": reader.number("intermediate_size"),
        }
