"""What evaluation computes in the feed-forward layers of a GPT, whatever kind and router a recipe calls it, and what no other project has.

Knows the configs of layers and routers. Must not know any format.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from moecli.model.config import GPTConfig
from moecli.moe.layers import DenseMoEConfig, MLPConfig, SparseMoEConfig
from moecli.moe.routers import NoisyTopKConfig, SigmoidTopKConfig, TopKConfig, VMoETopKConfig


@dataclass(frozen=True, slots=True)
class MoEFeatures:
    """Top-k of experts and the shared experts beside them, as evaluation has it: without noise and drops."""

    num_experts: int
    d_expert: int
    top_k: int
    score: Literal["softmax", "sigmoid"] = "softmax"
    is_normalized: bool = True
    """Whether the weights of a token's choices are divided by their sum."""
    scale: float = 1.0
    """Multiplies the weights after that."""
    num_groups: int = 1
    top_groups: int = 1
    d_shared: int = 0
    """Joint width of the shared experts; 0 for none."""
    has_shared_gate: bool = False


def moe_layers(config: GPTConfig) -> list[int]:
    """The layers, counted from 0, that are no plain MLP."""
    return [layer for layer in range(config.num_layers) if not isinstance(config.ffn_of_layer(layer), MLPConfig)]


def mlp_widths(config: GPTConfig) -> list[int]:
    """Every hidden width that the plain MLPs have, each once."""
    layers = [config.ffn_of_layer(layer) for layer in range(config.num_layers)]
    return sorted({ffn.d_ff for ffn in layers if isinstance(ffn, MLPConfig) and ffn.d_ff is not None})


def moe_features(config: GPTConfig) -> MoEFeatures:
    """Of a model for which `problems_for_all` finds nothing and `moe_layers` finds some."""
    ffn = config.ffn
    assert isinstance(ffn, DenseMoEConfig | SparseMoEConfig) and ffn.d_expert is not None
    if isinstance(ffn, DenseMoEConfig):  # a softmax over all experts is one over all of them chosen
        return MoEFeatures(ffn.num_experts, ffn.d_expert, top_k=ffn.num_experts)
    router = ffn.router
    assert isinstance(router, TopKConfig | NoisyTopKConfig | VMoETopKConfig | SigmoidTopKConfig) and ffn.d_shared_expert is not None
    features = MoEFeatures(
        ffn.num_experts,
        ffn.d_expert,
        router.top_k,
        d_shared=ffn.num_shared_experts * ffn.d_shared_expert,
        has_shared_gate=ffn.shared_gate,
    )
    if isinstance(router, NoisyTopKConfig):  # a softmax over the largest logits is one over all, normalised (Mixtral, section 2.1)
        return features
    if isinstance(router, VMoETopKConfig):
        return replace(features, is_normalized=False)
    features = replace(features, is_normalized=bool(router.normalize_weights))
    if isinstance(router, TopKConfig):
        return features
    features = replace(features, score="sigmoid", scale=router.scale)
    # Where a token may take its experts from every group, groups change nothing.
    has_groups = router.top_groups < router.num_groups
    return replace(features, num_groups=router.num_groups, top_groups=router.top_groups) if has_groups else features


def problems_for_all(config: GPTConfig) -> list[str]:
    """What no class of Hugging Face represents, each with the nearest setting that one does."""
    problems = []
    if config.activation != "swiglu":
        problems.append(f"activation {config.activation}: every class has swiglu; nearest: model.activation: swiglu")
    if not config.is_causal:
        problems.append("attention to both sides (objective masked-lm): every class is causal; nearest: objective: causal-lm")
    if not moe_layers(config):
        return problems
    ffn = config.ffn
    if isinstance(ffn, SparseMoEConfig):
        return [*problems, *_router_problems(ffn), *_capacity_problems(ffn)]
    if not isinstance(ffn, DenseMoEConfig):
        problems.append(f"ffn.kind {ffn.kind}: no class mixes tokens; nearest: ffn.kind: sparse with router.kind: topk")
    return problems


def left_behind(config: GPTConfig) -> list[str]:
    """What of a model that can be represented its conversion leaves out, because evaluation doesn't use it."""
    ffn = config.ffn
    if not moe_layers(config) or not isinstance(ffn, SparseMoEConfig):
        return []
    notes = []
    if isinstance(ffn.router, NoisyTopKConfig):
        notes.append("the noise of the router noisy_topk is left out, which evaluation doesn't use")
    if isinstance(ffn.router, VMoETopKConfig) and ffn.router.noise_std:
        notes.append("the noise of the router vmoe_topk is left out, which evaluation doesn't use")
    if isinstance(ffn.router, TopKConfig) and ffn.router.input_jitter:
        notes.append("the router's input_jitter is left out, which evaluation doesn't use")
    if isinstance(ffn.router, TopKConfig) and ffn.router.keep_threshold is not None:
        notes.append("the router's keep_threshold is left out: every choice is kept, as in evaluation")
    if ffn.capacity is not None:
        notes.append("the capacity of training is left out: every expert takes all tokens, as in evaluation")
    return notes


def _router_problems(ffn: SparseMoEConfig) -> list[str]:
    router = ffn.router
    if isinstance(router, TopKConfig) and router.selection_bias:
        return ["router.selection_bias with a softmax: no class has it; nearest: router.kind: sigmoid_topk, as glm4_moe has it"]
    if isinstance(router, SigmoidTopKConfig):
        group_size = ffn.num_experts // router.num_groups
        has_groups = router.top_groups < router.num_groups
        if has_groups and (router.group_score != "top2_sum" or group_size < 2):
            what = f"router.group_score {router.group_score} over groups of {group_size}"
            return [f"{what}: glm4_moe sums the two best experts of a group; nearest: group_score: top2_sum with groups of 2 or more"]
        if ffn.num_experts < 2:
            return ["router.kind sigmoid_topk with 1 expert: glm4_moe needs 2 or more; nearest: num_experts: 2"]
        return []
    if isinstance(router, TopKConfig | NoisyTopKConfig | VMoETopKConfig):
        return []
    return [f"router.kind {router.kind}: no class routes so; nearest: router.kind: topk"]


def _capacity_problems(ffn: SparseMoEConfig) -> list[str]:
    factor = None if ffn.capacity is None else ffn.capacity.eval_factor
    if factor is None or factor * getattr(ffn.router, "top_k", ffn.num_experts) >= ffn.num_experts:
        return []
    return [f"capacity.eval_factor {factor:g} can drop tokens in evaluation: no class drops any; nearest: capacity.eval_factor: null"]
