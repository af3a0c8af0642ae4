"""Whether dense models and the config of an MoE that they are to become fit together.

Knows their configs. Must not change any weight, nor know where a model is from.
"""

from __future__ import annotations

import torch

from moecli.convert.mix import RouterInit
from moecli.convert.upcycle import MoEConfig, moe_layers, width_of_layer
from moecli.convert.upcycle_check import OWN_FIELDS
from moecli.errors import FieldProblem
from moecli.model.config import GPTConfig
from moecli.model.gpt import GPT
from moecli.moe.layers import DenseMoEConfig, MLPConfig, SparseMoEConfig

MIXABLE = SparseMoEConfig | DenseMoEConfig


def source_problems(first: GPT, other: GPT) -> list[FieldProblem]:
    """Everything that keeps a model from being mixed with the first; the fields are those of `model` in a recipe."""
    with_experts = [layer for layer, ffn in enumerate(other.feed_forwards()) if ffn.routes]
    if with_experts:
        return [FieldProblem("ffn.kind", f"layer {with_experts[0]} has experts already", allowed="mlp in every layer")]
    problems = _differences(first.config, other.config, ignored=OWN_FIELDS)
    if first.config.num_layers == other.config.num_layers and isinstance(first.config.ffn, MLPConfig):
        for layer in range(first.config.num_layers):
            ours, theirs = width_of_layer(other.config, layer), width_of_layer(first.config, layer)
            if ours != theirs:
                problems.append(FieldProblem("ffn.d_ff", f"{ours} in layer {layer}", allowed=f"{theirs}"))
                break
    return problems


def mix_problems(model: GPTConfig, config: GPTConfig, num_models: int, router_init: RouterInit) -> list[FieldProblem]:
    """Everything that keeps models of one shape from becoming an MoE; the fields are those of `model` in a recipe.

    Args:
        model: the shape of the dense models.
        config: of the MoE.
        num_models: how many there are, one for each expert.
        router_init: how the router begins.
    """
    ffn = config.ffn
    if not isinstance(ffn, MIXABLE):
        lacks = "has no experts" if not isinstance(ffn, MoEConfig) else "gives the experts mixtures of tokens, not tokens"
        return [FieldProblem("ffn.kind", f"{ffn.kind} {lacks}", allowed="sparse or dense")]
    problems = _differences(model, config, ignored=OWN_FIELDS)
    if ffn.num_experts != num_models:
        problems.append(FieldProblem("ffn.num_experts", f"{ffn.num_experts} is not the number of sources", allowed=f"{num_models}"))
    if model.num_layers == config.num_layers:
        problems += _width_problems(model, config, ffn)
    if isinstance(ffn, SparseMoEConfig) and ffn.num_shared_experts:
        what = f"{ffn.num_shared_experts} shared experts would have no source"
        problems.append(FieldProblem("ffn.num_shared_experts", what, allowed="0"))
    if router_init == "domain" and not ffn.learns_routing:
        assert isinstance(ffn, SparseMoEConfig)
        what = f"{ffn.router.kind} does not score experts by weights that a domain's text could give"
        problems.append(FieldProblem("ffn.router.kind", what, allowed="a router that learns, or --router-init random"))
    return problems


def settings_that_fit(model: GPTConfig, num_models: int) -> dict[str, object]:
    """What makes the dense models' own recipe that of the MoE, by key."""
    return {
        "model.ffn.kind": "sparse",
        "model.ffn.num_experts": num_models,
        "model.ffn.d_expert": width_of_layer(model, moe_layers(model)[0]),
    }


def are_equal(models: list[GPT]) -> bool:
    """Whether all have the same weights, bit for bit."""
    first, *others = (model.state_dict() for model in models)
    return all(torch.equal(tensor, other[name]) for other in others for name, tensor in first.items())


def _differences(expected: GPTConfig, config: GPTConfig, ignored: set[str]) -> list[FieldProblem]:
    """The fields in which a config is not the expected one."""
    facts = {name: (getattr(config, name), getattr(expected, name)) for name in GPTConfig.model_fields if name not in ignored}
    facts["causal"] = (config.is_causal, expected.is_causal)
    return [
        FieldProblem(name, f"{ours} is not that of the first source", allowed=f"{theirs}")
        for name, (ours, theirs) in facts.items()
        if ours != theirs
    ]


def _width_problems(model: GPTConfig, config: GPTConfig, ffn: SparseMoEConfig | DenseMoEConfig) -> list[FieldProblem]:
    """One for each field; where layers want different widths, that of the first is told."""
    problems: dict[str, FieldProblem] = {}
    for layer in range(config.num_layers):
        d_ff = width_of_layer(model, layer)
        field, width = ("ffn.d_expert", ffn.d_expert) if config.moe_layers.includes(layer) else ("dense_d_ff", config.dense_d_ff)
        if width != d_ff:
            what = f"{width} is not the width of the sources' layer {layer}"
            problems.setdefault(field, FieldProblem(field, what, allowed=f"{d_ff}"))
    return list(problems.values())
