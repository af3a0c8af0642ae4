"""What each MoE layer does with a text: who gets the tokens, with what weight, and whom the router finds alike.

Knows models and ids. Must not know where the text is from.
Shape letters: see moe/routing.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from moecli.convert.resize.options import LayerStatistics
from moecli.model.gpt import GPT
from moecli.moe.dispatch import relative_prob
from moecli.moe.layers import SparseMoE, SparseMoEConfig
from moecli.moe.load import load_shares
from moecli.moe.routing import RoutingRecord


@torch.no_grad()
def measure(model: GPT, texts: Iterable[Tensor]) -> dict[int, LayerStatistics]:
    """For each layer that routes. `texts` are ids, [B, S] each; the model is in evaluation mode afterwards."""
    model.eval()
    gates: dict[int, list[Tensor]] = {}
    sums: dict[int, _Sums] = {}
    with ExitStack() as stack:
        for layer, ffn in enumerate(model.feed_forwards()):
            if isinstance(ffn, SparseMoE) and ffn.shared_gate is not None:
                gates[layer] = stack.enter_context(_heard(ffn.shared_gate))
        for ids_BS in texts:
            for layer, record in enumerate(model(ids_BS)[1]):
                if record is not None:
                    sums.setdefault(layer, _Sums(record.routing.num_experts)).add(record)
    ffn_config = model.config.ffn
    chooses = isinstance(ffn_config, SparseMoEConfig) and not ffn_config.router.fixes_load
    return {layer: one.reduce(chooses=chooses, gates=gates.get(layer, ())) for layer, one in sums.items()}


@contextmanager
def _heard(gate: nn.Module) -> Iterator[list[Tensor]]:
    """The means of what a gate lets through, a number for each time it runs, while the body runs."""
    means: list[Tensor] = []
    handle = gate.register_forward_hook(lambda module, inputs, logits: means.append(logits.cpu().double().sigmoid().mean()))
    try:
        yield means
    finally:
        handle.remove()


class _Sums:
    """Of one layer, on the CPU."""

    def __init__(self, num_experts: int) -> None:
        self.tokens = 0
        self.load_E = torch.zeros(num_experts, dtype=torch.float64)
        self.prob_E = torch.zeros(num_experts, dtype=torch.float64)
        self.weight_E = torch.zeros(num_experts, dtype=torch.float64)
        self.products_EE = torch.zeros(num_experts, num_experts, dtype=torch.float64)

    def add(self, record: RoutingRecord) -> None:
        routing, kept_A = record.routing, record.kept_A
        self.tokens += len(routing.logits_TE)
        self.load_E += record.load_E.cpu()
        self.prob_E += routing.probs_TE.cpu().double().sum(0)
        weights_A = routing.weights_A * relative_prob(routing, record.final_expert_ids_A)  # less where a full expert moved one
        self.weight_E.index_add_(0, record.final_expert_ids_A[kept_A].cpu(), weights_A[kept_A].cpu().double())
        logits_TE = routing.logits_TE.cpu().double()
        centered_TE = logits_TE - logits_TE.mean(1, keepdim=True)
        self.products_EE += centered_TE.T @ centered_TE

    def reduce(self, *, chooses: bool, gates: Sequence[Tensor]) -> LayerStatistics:
        return LayerStatistics(
            load_E=load_shares(self.load_E if chooses else self.prob_E),
            weight_E=self.weight_E / self.tokens,
            logit_products_EE=self.products_EE / self.tokens,
            shared_gate=torch.stack(list(gates)).mean().item() if gates else 1.0,
        )
