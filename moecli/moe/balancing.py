"""Loss-free balancing: after each step, experts with too much load get a lower selection bias, those with too little a higher one.

Knows a bias and a load. Must not know the model or when a step is done. Shape letters: see routing.py.
"""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Interval
from torch import Tensor

from moecli.config import Config


class BiasUpdateConfig(Config):
    """How the selection bias of the routers follows the load."""

    rule: Literal["sign", "proportional"] = "sign"
    """Move by the rate, up or down; or by the rate times the violation, in multiples of the even share."""
    rate: Annotated[float, Interval(gt=0, le=1)] = 0.001
    """Per step (DeepSeek-V3: 0.001)."""


def updated_bias(bias_E: Tensor, chosen_load_E: Tensor, config: BiasUpdateConfig) -> Tensor:
    """b_i + rate * sign(e_i), or b_i + rate * e_i, with e_i = (mean load - load_i) (arXiv 2408.15664, algorithm 1 and section 4.3).

    The load is that of the whole step, before drops, and moves the choices of the next step: no token sees its future through it.
    Departure: e_i is divided by the mean load, so that a proportional rate means the same for every batch size.
    """
    load_E = chosen_load_E.to(bias_E.dtype)
    mean_load = load_E.mean()
    violation_E = (mean_load - load_E) / mean_load.clamp(min=1)
    return bias_E + config.rate * (violation_E.sign() if config.rule == "sign" else violation_E)
