"""AdamW's moments of a dense model to those of the MoE that it became: for each parameter, what belongs to the weights that it got.

Knows parameters by name. Must not know files, nor the optimizer. Shape letters: see moe/routing.py.

What is copied carries its moments, and every expert those of the units that it is a copy of. A weight that was multiplied by c computes
what it computed with 1 / c of the gradient, as dL/d(cw) = (1 / c) dL/dw. So its mean is divided by c and its mean square by c^2. This holds
exactly for shards that all tokens use with weights of 1 / c; elsewhere an expert sees a share of the tokens and another gradient, of which
the dense one is a guess. What has no counterpart begins as in a training from the start: the router and gates, hidden units that begin
anew, and routed experts beside shared ones, whose output is 0. AdamW counts steps for each parameter: those begin at 0.

The authors of sparse upcycling found that the optimizer's state helps vision models, and not language models (arXiv 2212.05055).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from moecli.convert.upcycle import MoE, Upcycled, UpcycleOptions, expert_copies, moe_layers, output_factor
from moecli.model.config import GPTConfig
from moecli.moe.layers import SparseMoE

Moments = Mapping[str, Mapping[str, Tensor]]
"""For each parameter by name: step, exp_avg and exp_avg_sq, as AdamW calls them. One that was never trained is not there."""

# Each moment, and the power of c that it is divided by.
POWERS = {"exp_avg": 1, "exp_avg_sq": 2}


def carried_moments(moments: Moments, dense: GPTConfig, upcycled: Upcycled, options: UpcycleOptions) -> Moments:
    """The MoE's moments. Those of `moments` are the dense model's, and stay as they are."""
    config = upcycled.model.config
    layers = moe_layers(config)
    new = tuple(f"blocks.{layer}.ffn." for layer in layers)
    carried = {name: state for name, state in moments.items() if not name.startswith(new)}
    factor = output_factor(dense, config, options)
    for layer in layers:
        prefix, moe = f"blocks.{layer}.ffn.", upcycled.model.feed_forwards()[layer]
        assert isinstance(moe, MoE)
        names = [f"{prefix}{part}.weight" for part in ("in_proj", "out_proj")]
        if not moments.keys() >= set(names):  # frozen in the dense training
            continue
        in_state, out_state = (moments[name] for name in names)
        if factor:
            of_experts = _of_experts(in_state, out_state, moe, upcycled.new_units[layer], factor)
            carried |= {f"{prefix}experts.{part}": state for part, state in of_experts.items()}
        if isinstance(moe, SparseMoE) and moe.shared is not None:
            carried[f"{prefix}shared.in_proj.weight"] = in_state
            carried[f"{prefix}shared.out_proj.weight"] = _scaled(out_state, 1.0 if moe.shared_gate is None else 2.0)
    return carried


def _of_experts(
    in_state: Mapping[str, Tensor], out_state: Mapping[str, Tensor], moe: MoE, is_new_EH: Tensor, factor: float
) -> dict[str, dict[str, Tensor]]:
    states = {part: {"step": state["step"]} for part, state in (("in_proj", in_state), ("out_proj", out_state))}
    num_parts = 2 if moe.experts.activation.is_gated else 1
    is_new_EF = is_new_EH.repeat(1, num_parts)  # gate rows, then up rows
    for key, power in POWERS.items():
        in_EFD, out_EDH = expert_copies(in_state[key], out_state[key], moe.experts, is_gated=num_parts == 2)
        states["in_proj"][key] = in_EFD.masked_fill(is_new_EF[:, :, None], 0)
        states["out_proj"][key] = (out_EDH / factor**power).masked_fill(is_new_EH[:, None, :], 0)
    return states


def _scaled(state: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
    """Moments of a weight that was multiplied by `factor`."""
    return {key: value / factor ** POWERS[key] if key in POWERS else value for key, value in state.items()}
