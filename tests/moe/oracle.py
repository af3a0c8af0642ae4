"""The MoE layer written straight from its equation, one token and one expert at a time: slow, and easy to believe."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from moecli.moe.routing import Routing


def activation(name: str, in_F: Tensor) -> Tensor:
    """The activations from their definitions."""
    if name == "swiglu":
        hidden = in_F.shape[-1] // 2
        gate, up = in_F[:hidden], in_F[hidden:]
        return gate / (1 + torch.exp(-gate)) * up
    if name == "gelu":
        return 0.5 * in_F * (1 + torch.erf(in_F / math.sqrt(2)))
    relu = torch.where(in_F > 0, in_F, torch.zeros_like(in_F))
    return relu if name == "relu" else relu * relu


def expert_output(name: str, x_D: Tensor, in_proj_FD: Tensor, out_proj_DH: Tensor) -> Tensor:
    return out_proj_DH @ activation(name, in_proj_FD @ x_D)


def weighted_experts(name: str, x_TD: Tensor, routing: Routing, in_proj_EFD: Tensor, out_proj_EDH: Tensor) -> Tensor:
    """y_t = sum over the assignments (t, e, w) of w * expert_e(x_t), in a double loop over tokens and assignments."""
    rows = []
    for token in range(x_TD.shape[0]):
        y_D = torch.zeros_like(x_TD[token])
        for index in range(len(routing.token_ids_A)):
            if routing.token_ids_A[index] == token:
                expert = int(routing.expert_ids_A[index])
                y_D = y_D + routing.weights_A[index] * expert_output(name, x_TD[token], in_proj_EFD[expert], out_proj_EDH[expert])
        rows.append(y_D)
    return torch.stack(rows)


def softmax_top_k(x_D: Tensor, weight_ED: Tensor, top_k: int, normalize: bool) -> list[tuple[int, Tensor]]:
    """(expert, weight) of one token, best first: p = softmax(W x), the k largest, divided by their sum if asked."""
    logits = [weight_ED[expert] @ x_D for expert in range(weight_ED.shape[0])]
    denominator = sum(torch.exp(logit) for logit in logits)
    probs = [torch.exp(logit) / denominator for logit in logits]
    chosen = sorted(range(len(probs)), key=lambda expert: -probs[expert].item())[:top_k]
    total = sum(probs[expert] for expert in chosen) if normalize else 1.0
    return [(expert, probs[expert] / total) for expert in chosen]
