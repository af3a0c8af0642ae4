"""What all resizing shares: a model to fill, and the parts of its layers that belong to one expert each.

Knows models layer by layer. Must not know which experts go where.
Shape letters: see moe/routing.py; U hidden units of one network.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from moecli.convert.upcycle import MoE
from moecli.model.config import GPTConfig
from moecli.model.gpt import GPT
from moecli.model.init import build_gpt
from moecli.moe.layers import FeedForward

GATE_PARTS = ("router.", "gate_weight", "mixer.")
# Parts of a gate that all experts share.
OF_ALL_EXPERTS = ("mixer.scale", "router.layer_key")


def begin_model(source: GPT, config: GPTConfig, layers: Sequence[int], seed: int) -> GPT:
    """A model of this config on the CPU: these layers' feed-forward blocks as in a fresh one, everything else the source's."""
    model = build_gpt(config, source.vocab_size, seed)
    new = tuple(f"blocks.{layer}.ffn." for layer in layers)
    copied = {name: tensor for name, tensor in source.state_dict().items() if not name.startswith(new)}
    missing, unexpected = model.load_state_dict(copied, strict=False)
    assert not unexpected and all(name.startswith(new) for name in missing)
    return model.eval()


def moe_of(model: GPT, layer: int) -> MoE:
    ffn = model.feed_forwards()[layer]
    assert isinstance(ffn, MoE)
    return ffn


def gate_tensors(moe: MoE) -> dict[str, Tensor]:
    """What decides which tokens an expert gets, with a slice for each: scores, noise, selection bias, slots. In place, not copies."""
    state = moe.state_dict()
    return {name: tensor for name, tensor in state.items() if name.startswith(GATE_PARTS) and name not in OF_ALL_EXPERTS}


def expert_tensors(moe: MoE) -> dict[str, Tensor]:
    """The stacked weights, in place."""
    return {name: tensor for name, tensor in moe.state_dict().items() if name.startswith("experts.")}


def copy_what_all_share(source: FeedForward, target: FeedForward) -> None:
    """Copies what belongs to no single expert: shared experts with their gate, a mixer's scale, a layer's key."""
    theirs = source.state_dict()
    for name, tensor in target.state_dict().items():
        if name in theirs and (name in OF_ALL_EXPERTS or not name.startswith((*GATE_PARTS, "experts."))):
            tensor.copy_(theirs[name])


def take_experts(source: MoE, target: MoE, experts: Sequence[int]) -> None:
    """Fills the target with experts of the source, in this order, gate rows and weights; one may come several times."""
    copy_what_all_share(source, target)
    index_N = torch.tensor(experts)
    theirs = gate_tensors(source) | expert_tensors(source)
    for name, tensor in (gate_tensors(target) | expert_tensors(target)).items():
        tensor.copy_(theirs[name][index_N])
