"""Whether a dense model and the config of an MoE fit, and why the MoE would not compute what the dense model does.

Knows both configs. Must not change any weight.
"""

from __future__ import annotations

from collections.abc import Iterator

from moecli.convert.upcycle import MoEConfig, UpcycleMethod, UpcycleOptions, num_shards, width_of_layer
from moecli.errors import FieldProblem
from moecli.model.config import GPTConfig
from moecli.model.gpt import GPT
from moecli.moe.layers import MLP, SoftMoEConfig, SparseMoEConfig
from moecli.moe.routers import ExpertChoiceConfig, NoisyTopKConfig, SigmoidTopKConfig
from moecli.moe.routers.base import TokenChoiceConfig

# What an MoE may have of its own. Everything else decides how copied weights are read.
OWN_FIELDS = {"ffn", "moe_layers", "dense_d_ff", "init_std", "causal"}


def upcycle_problems(dense: GPT, config: GPTConfig, method: UpcycleMethod) -> list[FieldProblem]:
    """Everything that keeps the model from becoming an MoE of this config; the fields are those of `model` in a recipe."""
    sparse_layers = [layer for layer, ffn in enumerate(dense.feed_forwards()) if not isinstance(ffn, MLP)]
    if sparse_layers:
        what = f"layer {sparse_layers[0]} of the source has experts already"
        return [FieldProblem("ffn.kind", what, allowed="a source with an mlp in every layer")]
    if not isinstance(config.ffn, MoEConfig):
        allowed = "an MoE, such as --set model.ffn.kind=sparse, or a recipe file that has one"
        return [FieldProblem("ffn.kind", f"{config.ffn.kind} has no experts", allowed=allowed)]
    problems = _problems_of_all_layers(dense.config, config)
    if dense.config.num_layers == config.num_layers:
        problems += _width_problems(dense.config, config, config.ffn, method)
    return problems + (_group_problems(dense.config, config, config.ffn) if method == "granular" and not problems else [])


def _problems_of_all_layers(dense: GPTConfig, config: GPTConfig) -> list[FieldProblem]:
    problems = []
    for field in [name for name in GPTConfig.model_fields if name not in OWN_FIELDS]:
        ours, theirs = getattr(config, field), getattr(dense, field)
        if ours != theirs:
            problems.append(FieldProblem(field, f"{ours} is not that of the source", allowed=f"{theirs}"))
    if dense.is_causal != config.is_causal:
        problems.append(FieldProblem("causal", f"{config.is_causal} is not that of the source", allowed=f"{dense.is_causal}"))
    return problems


def _width_problems(dense: GPTConfig, config: GPTConfig, ffn: MoEConfig, method: UpcycleMethod) -> Iterator[FieldProblem]:
    moe_widths: dict[int, None] = {}
    for layer in range(config.num_layers):
        d_ff = width_of_layer(dense, layer)
        if config.moe_layers.includes(layer):
            moe_widths[d_ff] = None
        elif d_ff != config.dense_d_ff:
            what = f"{config.dense_d_ff} is not the width of the source's layer {layer}"
            yield FieldProblem("dense_d_ff", what, allowed=f"{d_ff}")
    if len(moe_widths) > 1:
        widths = " and ".join(map(str, moe_widths))
        yield FieldProblem("moe_layers", f"the layers have networks of {widths} hidden units in the source", allowed="layers of one width")
        return
    [d_ff] = moe_widths
    yield from _expert_width_problems(d_ff, ffn, method)
    if isinstance(ffn, SparseMoEConfig) and ffn.num_shared_experts:
        assert ffn.d_shared_expert is not None
        joint = ffn.num_shared_experts * ffn.d_shared_expert
        if joint != d_ff:
            what = f"{ffn.num_shared_experts} x {ffn.d_shared_expert} hidden units can't be the source's network of {d_ff}"
            fits = d_ff % ffn.num_shared_experts == 0
            allowed = f"{d_ff // ffn.num_shared_experts}" if fits else f"a num_shared_experts that divides {d_ff}"
            yield FieldProblem("ffn.d_shared_expert", what, allowed=allowed)


def _expert_width_problems(d_ff: int, ffn: MoEConfig, method: UpcycleMethod) -> Iterator[FieldProblem]:
    assert ffn.d_expert is not None
    if method != "granular" and ffn.d_expert != d_ff:
        granular = ", or the method granular" if d_ff % ffn.d_expert == 0 else ""
        yield FieldProblem("ffn.d_expert", f"{ffn.d_expert} is not the width of the source's networks", allowed=f"{d_ff}{granular}")
    elif d_ff % ffn.d_expert:
        what = f"{ffn.d_expert} does not divide the {d_ff} hidden units of the source's networks"
        yield FieldProblem("ffn.d_expert", what, allowed=f"a divisor of {d_ff}")
    elif ffn.num_experts % (d_ff // ffn.d_expert):
        shards = d_ff // ffn.d_expert
        what = f"{ffn.num_experts} experts are no whole number of copies of {shards} shards"
        yield FieldProblem("ffn.num_experts", what, allowed=f"a multiple of {shards}")


def _group_problems(dense: GPTConfig, config: GPTConfig, ffn: MoEConfig) -> list[FieldProblem]:
    """Where the shards of one copy would not be chosen together."""
    shards = num_shards(dense, config)
    if shards == 1:
        return []
    if isinstance(ffn, SoftMoEConfig):
        return [FieldProblem("ffn.kind", "slots are not shared by the shards of a network", allowed="sparse or dense")]
    if not isinstance(ffn, SparseMoEConfig):
        return []
    if not ffn.router.learns:
        what = f"{ffn.router.kind} chooses experts one by one, not the shards of a network together"
        return [FieldProblem("ffn.router.kind", what, allowed="a router that learns")]
    problems = []
    if isinstance(ffn.router, TokenChoiceConfig) and ffn.router.top_k % shards:
        what = f"{ffn.router.top_k} experts are no whole number of copies of {shards} shards"
        problems.append(FieldProblem("ffn.router.top_k", what, allowed=f"a multiple of {shards}"))
    if isinstance(ffn.router, SigmoidTopKConfig) and (ffn.num_experts // ffn.router.num_groups) % shards:
        what = f"groups of {ffn.num_experts // ffn.router.num_groups} experts cut copies of {shards} shards apart"
        problems.append(FieldProblem("ffn.router.num_groups", what, allowed=f"groups of a multiple of {shards} experts"))
    return problems


def departures(config: GPTConfig, options: UpcycleOptions) -> list[str]:
    """Why the MoE does not, or need not, compute what the dense model does in evaluation; empty where it does."""
    ffn = config.ffn
    assert isinstance(ffn, MoEConfig)
    if isinstance(ffn, SoftMoEConfig):
        return ["the experts work on mixtures of tokens"]
    if isinstance(ffn, SparseMoEConfig) and ffn.num_shared_experts:
        return []
    reasons = [*_weight_departures(ffn, options)]
    if isinstance(ffn, SparseMoEConfig) and not isinstance(ffn.router, ExpertChoiceConfig):
        reasons += _sparse_departures(ffn, options)
    if options.method == "drop" and int(options.drop_ratio * (ffn.d_expert or 0)):
        reasons.append(f"a share of {options.drop_ratio:g} of each expert's hidden units begins anew")
    if options.noise_std:
        reasons.append("noise is added to the experts")
    return reasons


def _weight_departures(ffn: MoEConfig, options: UpcycleOptions) -> Iterator[str]:
    if isinstance(ffn, SparseMoEConfig) and isinstance(ffn.router, ExpertChoiceConfig):
        yield "experts choose tokens, and not every token equally often"
    elif not ffn.weight_sum.is_constant:
        scaled = "the outputs are scaled for the mean" if options.scale_outputs else "the outputs are not scaled"
        yield f"the combine weights add up to another number for each token, about {ffn.weight_sum.value:.4g}; {scaled}"
    elif not options.scale_outputs and (ffn.weight_sum.value != 1 or options.method == "granular"):
        yield f"the combine weights add up to {ffn.weight_sum.value:.4g} over the shards, and the outputs are not scaled"


def _sparse_departures(ffn: SparseMoEConfig, options: UpcycleOptions) -> Iterator[str]:
    capacity, router = ffn.capacity, ffn.router
    factor = None if capacity is None else capacity.eval_factor
    if factor is not None and isinstance(router, TokenChoiceConfig) and factor * router.top_k < ffn.num_experts:
        yield "the capacity may drop tokens in evaluation"
    if isinstance(router, NoisyTopKConfig) and options.method == "granular" and options.router_std is None:
        yield "the router begins at 0, where all experts tie and the shards of a network need not be chosen together"
