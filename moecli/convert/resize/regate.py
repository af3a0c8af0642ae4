"""The same experts behind another gate, which begins as in a fresh model: another router, slots that mix tokens, or back from these.

Knows one layer before and after. Must not know gates.
"""

from __future__ import annotations

from moecli.convert.resize.layers import expert_tensors
from moecli.convert.upcycle import MoE
from moecli.moe.layers import SparseMoE


def regate(source: MoE, target: MoE) -> None:
    """Copies the experts, and shared ones, bit for bit; a gate before the shared ones is a gate too, and begins anew."""
    theirs = expert_tensors(source)
    for name, tensor in expert_tensors(target).items():
        tensor.copy_(theirs[name])
    if isinstance(target, SparseMoE) and target.shared is not None:
        assert isinstance(source, SparseMoE) and source.shared is not None
        target.shared.load_state_dict(source.shared.state_dict())
