"""Several dense models of one shape to one MoE: the networks of model e become expert e of every MoE layer, all else is averaged.

Branch-Train-MiX (arXiv 2403.07816, section 3.2). Knows the weights of all models. Must not know recipes, run folders, texts, or whether the
models fit: that is mix_check.py's. Shape letters: see moe/routing.py; N models, as many as experts.

Experts. Each is a network as it was trained, with its output projection divided by s, what the combine weights of a token add up to
(moe/weight_sum.py), as in upcycling. So N equal models become an MoE that computes what they do, wherever s is the same for all tokens.
The paper's softmax over the two chosen has s = 1, and nothing is scaled.

The router begins as in a model that is trained from the start, which is the paper's choice, or with what text of each domain looks like to
it, after the gate mode `hidden` of mergekit-moe: row e is the mean router input over text of model e. Departures from mergekit: the hidden
states are those of the average of the models, as there is no base model whose attention the MoE has; they are taken after the norm, where
the router reads; the mean is over all tokens of training text, not over the last token of prompts; and what all rows have in common is
taken off, in the place of negative prompts, as it moves all logits alike. Rows then have length 1, as there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moecli.convert.upcycle import MoEConfig, moe_layers, scoring_weights
from moecli.model.config import GPTConfig
from moecli.model.gpt import GPT
from moecli.model.init import build_gpt
from moecli.moe.layers import MLP, DenseMoE, SparseMoE

RouterInit = Literal["random", "domain"]


@dataclass(frozen=True, slots=True)
class MixOptions:
    """What of an MoE the dense models don't decide."""

    router_init: RouterInit = "random"
    seed: int = 0
    """Of a router that begins at random."""


def average(models: Sequence[GPT]) -> GPT:
    """The dense model whose every weight is the mean of the models', on the CPU, in evaluation mode. Equal weights stay bit for bit."""
    model = build_gpt(models[0].config, models[0].vocab_size, seed=0)
    states = [source.state_dict() for source in models]
    # In float64 the sum of equal float32 numbers is exact.
    mean = {name: torch.stack([state[name].double() for state in states]).mean(dim=0) for name in states[0]}
    model.load_state_dict({name: tensor.to(states[0][name].dtype) for name, tensor in mean.items()})
    return model.eval()


def mix(models: Sequence[GPT], config: GPTConfig, options: MixOptions, router_rows: Mapping[int, Tensor] | None = None) -> GPT:
    """An MoE of this config, on the CPU, in evaluation mode; the models stay as they are. They must fit (mix_check.py).

    Args:
        models: one for each expert, all of one shape.
        config: of the MoE.
        options: how its router begins.
        router_rows: for the router init "domain", [E, D] of each MoE layer (`domain_rows`).
    """
    model = build_gpt(config, models[0].vocab_size, options.seed)
    layers = moe_layers(config)
    new = tuple(f"blocks.{layer}.ffn." for layer in layers)
    shared = {name: tensor for name, tensor in average(models).state_dict().items() if not name.startswith(new)}
    missing, unexpected = model.load_state_dict(shared, strict=False)
    assert not unexpected and all(name.startswith(new) for name in missing)
    with torch.no_grad():
        for layer in layers:
            moe = model.feed_forwards()[layer]
            assert isinstance(moe, SparseMoE | DenseMoE)
            for expert, mlp in enumerate(source.feed_forwards()[layer] for source in models):
                assert isinstance(mlp, MLP)
                moe.experts.in_proj[expert] = mlp.in_proj.weight
                moe.experts.out_proj[expert] = mlp.out_proj.weight * output_factor(config)
            if router_rows is not None:
                # The first matrix scores the experts; that of the noise, where there is one, begins as always.
                scoring_weights(moe)[0].copy_(router_rows[layer])
    return model.eval()


def output_factor(config: GPTConfig) -> float:
    """What the output projections of the experts are multiplied by: 1 / s."""
    assert isinstance(config.ffn, MoEConfig)
    return 1 / config.ffn.weight_sum.value


@torch.no_grad()
def mean_router_inputs(model: GPT, batches: Iterable[Tensor], layers: Sequence[int]) -> dict[int, Tensor]:
    """The mean over all tokens of what reaches a layer's feed-forward block, after the norm: float64 [D] of each of the layers.

    Args:
        model: a dense one, in evaluation mode.
        batches: ids [B, S] without padding, at least one.
        layers: counted from 0.
    """
    sums = {layer: torch.zeros(model.config.d_model, dtype=torch.float64) for layer in layers}
    num_tokens = 0

    def add(layer: int, ffn: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sums[layer].add_(inputs[0].flatten(0, 1).double().sum(dim=0))

    hooks = [model.feed_forwards()[layer].register_forward_pre_hook(partial(add, layer)) for layer in layers]
    try:
        for ids_BS in batches:
            model(ids_BS)
            num_tokens += ids_BS.numel()
    finally:
        for hook in hooks:
            hook.remove()
    return {layer: total_D / num_tokens for layer, total_D in sums.items()}


def domain_rows(means: Sequence[Mapping[int, Tensor]]) -> dict[int, Tensor]:
    """The router's first weights, float32 [E, D] of each layer: means of the domains, less what they share, of length 1.

    Args:
        means: `mean_router_inputs` of each expert's text. A row of equal means is 0.
    """
    rows = {}
    for layer in means[0]:
        means_ED = torch.stack([mean[layer] for mean in means])
        rows[layer] = F.normalize(means_ED - means_ED.mean(dim=0), dim=1).float()
    return rows
