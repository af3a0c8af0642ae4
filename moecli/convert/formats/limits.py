"""What a class of Hugging Face can represent, as plain facts, and what of a model lies beyond them.

Knows features of models. Must not know how a class writes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from moecli.convert.features import MoEFeatures, mlp_widths, moe_features, moe_layers
from moecli.model.config import GPTConfig

NEAREST_BY_QK_NORM = {
    ("dense", "none"): "llama",
    ("dense", "head"): "qwen3",
    ("softmax", "none"): "mixtral or qwen2_moe",
    ("softmax", "head"): "qwen3_moe",
    ("softmax", "full"): "olmoe",
    ("sigmoid", "none"): "glm4_moe",
    ("sigmoid", "head"): "glm4_moe",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one class."""

    qk_norms: tuple[str, ...]
    """The settings of qk_norm that it has."""
    qkv_bias: bool
    """Whether it can have biases on queries, keys and values."""
    score: Literal["softmax", "sigmoid"] | None
    """Of its router; None for a dense class."""
    head_dim: Literal["any", "divides", "share"] = "any"
    """Any width of a head; any where num_heads divides d_model; or d_model / num_heads alone."""
    can_be_unnormalized: bool = False
    """Whether the weights of the experts need not sum to 1."""
    shared: Literal["none", "any", "ungated"] = "none"
    """Which shared experts it has."""
    dense_layers: Literal["none", "first", "any"] = "none"
    """Which layers may be dense beside MoE layers."""


def problems_of_limits(config: GPTConfig, name: str, limits: Limits) -> list[str]:
    """The features of a model beyond the limits of the class `name`, each with the nearest class or setting."""
    routed = moe_layers(config)
    if limits.score is None and routed:
        return [f"MoE layers (ffn.kind {config.ffn.kind}): {name} is dense; nearest: a class with experts, which --to auto picks"]
    if limits.score is not None and not routed:
        return [f"no MoE layer: every {name} has some; nearest: llama or qwen3"]
    problems = _attention_problems(config, name, limits)
    if len(mlp_widths(config)) > 1:
        widths = " and ".join(map(str, mlp_widths(config)))
        problems.append(f"dense layers of widths {widths}: {name} has one width; nearest: model.dense_d_ff equal to model.ffn.d_ff")
    return [*problems, *_moe_problems(config, name, limits)] if routed else problems


def _attention_problems(config: GPTConfig, name: str, limits: Limits) -> list[str]:
    problems = []
    if config.qk_norm not in limits.qk_norms:
        kind = moe_features(config).score if moe_layers(config) else "dense"
        nearest = NEAREST_BY_QK_NORM.get((kind, config.qk_norm), f"model.qk_norm: {limits.qk_norms[0]}")
        problems.append(f"qk_norm {config.qk_norm}: {name} has {' or '.join(limits.qk_norms)}; nearest: {nearest}")
    if config.qkv_bias and not limits.qkv_bias:
        problems.append(f"qkv_bias: {name} has no biases; nearest: qwen2_moe or olmoe")
    share, rest = divmod(config.d_model, config.num_heads)
    if (rest and limits.head_dim != "any") or (limits.head_dim == "share" and config.head_dim != share):
        what = f"head_dim {config.head_dim} with d_model {config.d_model} and {config.num_heads} heads"
        problems.append(f"{what}: {name} has heads of d_model / num_heads; nearest: leave model.head_dim out")
    return problems


def _moe_problems(config: GPTConfig, name: str, limits: Limits) -> list[str]:
    features = moe_features(config)
    if features.score != limits.score:
        nearest = "glm4_moe" if features.score == "sigmoid" else "a class with a softmax, which --to auto picks"
        return [f"router with a {features.score}: {name} has a {limits.score}; nearest: {nearest}"]
    problems = []
    if not (features.is_normalized or limits.can_be_unnormalized):
        problems.append(f"router.normalize_weights false: {name} divides by the sum; nearest: olmoe, qwen2_moe or qwen3_moe")
    return [*problems, *_shared_problems(features, name, limits), *_dense_layer_problems(config, name, limits)]


def _shared_problems(features: MoEFeatures, name: str, limits: Limits) -> list[str]:
    if not features.d_shared or limits.shared == "any":
        return []
    if limits.shared == "none":
        return [f"shared experts: {name} has none; nearest: qwen2_moe with model.qk_norm: none"]
    if features.has_shared_gate:
        return [f"shared_gate: {name} has shared experts without one; nearest: qwen2_moe with router.kind: topk"]
    if features.d_shared % features.d_expert:
        what = f"shared experts of joint width {features.d_shared} beside experts of {features.d_expert}"
        return [f"{what}: {name} has a multiple of it; nearest: leave model.ffn.d_shared_expert out"]
    return []


def _dense_layer_problems(config: GPTConfig, name: str, limits: Limits) -> list[str]:
    routed = moe_layers(config)
    if len(routed) == config.num_layers or limits.dense_layers == "any":
        return []
    if limits.dense_layers == "none":
        return [f"dense layers beside MoE layers: {name} has none; nearest: qwen2_moe, or qwen3_moe with model.qk_norm: head"]
    if routed[0] + len(routed) != config.num_layers:
        return [f"dense layers after MoE layers: {name} has them first; nearest: model.moe_layers.first_dense"]
    return []
