"""What the mixture-of-experts layers of a transformers model do in a forward pass: hooks for one call, and records of what they saw.

Knows the interface that the experts of transformers share (a class attribute `_apply_gate`; called with features, expert ids, weights) and
the table in which a model declares its routers. Must not know any architecture by name, nor how a model was loaded.
Shape letters: see moe/routing.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moecli.errors import RunError
from moecli.moe.dispatch import dispatch_dropless
from moecli.moe.routers.base import token_choice
from moecli.moe.routing import RoutingRecord

# How far a token's weights may be from what a distribution says they are, by the precision that they were rounded to.
TOLERANCES = {torch.float16: 4e-3, torch.bfloat16: 2e-2}
FULL_PRECISION_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class RoutedLayer:
    """The modules of one layer that are watched."""

    experts: nn.Module
    router: nn.Module | None
    """None: the model declares no router for this layer, or more than one."""
    logits_index: int
    """Where in the router's output the logits are."""


@dataclass(slots=True)
class Seen:
    """What the hooks of one layer saw."""

    choices: list[tuple[Tensor, ...]] = field(default_factory=list)
    """Each time that the experts ran: expert ids and weights [T, K]."""
    router_logits: list[Tensor] = field(default_factory=list)
    """Each time that the router ran."""


def routed_layers(model: nn.Module) -> dict[int, RoutedLayer]:
    """The layers with experts that can be watched, by number; empty where there are none.

    Raises:
        RunError: modules can't be told apart by their layer.
    """
    experts = [(name, module) for name, module in model.named_modules() if _is_readable(module)]
    recorders = _router_recorders(model)
    routers: dict[int | None, list[tuple[nn.Module, int]]] = {}
    for name, module in model.named_modules():
        for router_class, index in recorders:
            if isinstance(module, router_class):
                routers.setdefault(_layer_of(name), []).append((module, index))
    layers: dict[int, RoutedLayer] = {}
    for name, module in experts:
        layer = _layer_of(name)
        if layer is None:
            raise RunError(f"moecli can't tell which layer the experts {name} belong to")
        if layer in layers:
            raise RunError(f"layer {layer} has more than one group of experts ({name} is the second), which moecli can't tell apart")
        router, index = routers[layer][0] if len(routers.get(layer, [])) == 1 else (None, 0)
        layers[layer] = RoutedLayer(module, router, index)
    return layers


def has_experts(model: nn.Module) -> bool:
    """Whether there is anything in the model that looks like experts, readable or not."""
    router_classes = tuple(router_class for router_class, _ in _router_recorders(model))
    return any(isinstance(module, router_classes) or "expert" in type(module).__name__.lower() for module in model.modules())


@contextmanager
def watching(layers: dict[int, RoutedLayer]) -> Iterator[dict[int, Seen]]:
    """Hooks on the layers while the context lasts. What they see is in the dict."""
    seen = {layer: Seen() for layer in layers}
    with ExitStack() as stack:
        for layer, modules in layers.items():
            stack.callback(_watch_experts(modules.experts, seen[layer]).remove)
            if modules.router is not None:
                stack.callback(_watch_router(modules.router, modules.logits_index, seen[layer]).remove)
        yield seen


def routing_record(layer: int, experts: nn.Module, seen: Seen, ids_BS: Tensor) -> RoutingRecord:
    """What one layer did with the tokens. Where no distribution is known to explain its weights, logits and probabilities are NaN.

    Raises:
        RunError: the experts didn't get every token once.
    """
    if len(seen.choices) != 1:
        raise RunError(f"the experts of layer {layer} ran {len(seen.choices)} times in one pass; moecli can read those that run once")
    expert_ids_TK, weights_TK = _checked(layer, seen.choices[0], num_tokens=ids_BS.numel())
    # transformers has routers that don't sort. Equal weights stay in the router's order.
    order_TK = weights_TK.argsort(dim=1, descending=True, stable=True)
    expert_ids_TK, weights_TK = expert_ids_TK.gather(1, order_TK), weights_TK.gather(1, order_TK)
    shape_TE = (ids_BS.numel(), int(experts.num_experts))  # type: ignore[arg-type]
    logits_TE = torch.full(shape_TE, torch.nan, device=weights_TK.device)
    probs_TE = logits_TE
    if len(seen.router_logits) == 1 and seen.router_logits[0].numel() == logits_TE.numel():
        known_logits_TE = seen.router_logits[0].reshape(shape_TE)
        explained_by_TE = distribution_behind(known_logits_TE, expert_ids_TK, weights_TK)
        if explained_by_TE is not None:
            logits_TE, probs_TE = known_logits_TE.float(), explained_by_TE
    weights_TK = weights_TK.float()
    # A router that can pass over the experts (Zaya's) names one all the same, with a weight of 0.
    routing = token_choice(logits_TE, probs_TE, expert_ids_TK, weights_TK, seq_len=ids_BS.shape[1], is_kept_TK=weights_TK != 0)
    return dispatch_dropless(routing)[1]


def distribution_behind(logits_TE: Tensor, expert_ids_TK: Tensor, weights_TK: Tensor) -> Tensor | None:
    """The distribution over the experts that the weights were taken from, float32; None if it is none of those that are tried.

    Tried are the softmax, and the sigmoids divided by their sum. It is the one if the scores of each token's choices are in proportion to
    their weights; where a token has one choice, if its weight is its score (a weight that is always 1 says nothing of the scores).
    """
    is_single = weights_TK.shape[1] == 1
    weights = weights_TK.float()
    found_TK = weights if is_single else weights / weights.sum(dim=1, keepdim=True)
    tolerance = max(TOLERANCES.get(tensor.dtype, FULL_PRECISION_TOLERANCE) for tensor in (logits_TE, weights_TK))
    best_TE = None
    for log_scores_TE in (F.log_softmax(logits_TE.float(), dim=1), F.logsigmoid(logits_TE.float())):
        chosen_TK = log_scores_TE.gather(1, expert_ids_TK)
        expected_TK = chosen_TK.exp() if is_single else chosen_TK.softmax(dim=1)
        error = (found_TK - expected_TK).abs().max().item()
        if error < tolerance:
            best_TE, tolerance = log_scores_TE.softmax(dim=1), error
    return best_TE


def _is_readable(module: nn.Module) -> bool:
    """Whether these are experts with the interface that transformers' experts share, stacked along the first dimension."""
    if not hasattr(type(module), "_apply_gate"):
        return False
    down_proj = getattr(module, "down_proj", None)
    return isinstance(down_proj, nn.Parameter) and down_proj.shape[0] == getattr(module, "num_experts", None)


def _router_recorders(model: nn.Module) -> list[tuple[type[nn.Module], int]]:
    """The classes of the routers that the model declares, and where in their output the logits are."""
    found: dict[type[nn.Module], int] = {}
    for module_class in {type(module) for module in model.modules()}:
        declared = (getattr(module_class, "_can_record_outputs", None) or {}).get("router_logits", [])
        for recorder in declared if isinstance(declared, list) else [declared]:
            if getattr(recorder, "target_class", None) is not None:
                found[recorder.target_class] = recorder.index
    return list(found.items())


def _layer_of(name: str) -> int | None:
    """The first number in a module's dotted name: 3 of model.layers.3.mlp.experts."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def _watch_experts(experts: nn.Module, seen: Seen) -> torch.utils.hooks.RemovableHandle:
    return experts.register_forward_pre_hook(lambda _, inputs: seen.choices.append(inputs[1:3]))


def _watch_router(router: nn.Module, logits_index: int, seen: Seen) -> torch.utils.hooks.RemovableHandle:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        seen.router_logits.append(output[logits_index])

    return router.register_forward_hook(hook)


def _checked(layer: int, choices: tuple[Tensor, ...], num_tokens: int) -> tuple[Tensor, Tensor]:
    """Expert ids and weights of all tokens, [T, K]."""
    shapes = [tuple(tensor.shape) for tensor in choices]
    if len(shapes) != 2 or shapes[0] != shapes[1] or len(shapes[0]) != 2 or shapes[0][0] != num_tokens:
        raise RunError(f"the experts of layer {layer} were handed no choices of {num_tokens} tokens, but tensors of shapes {shapes}")
    return choices[0].long(), choices[1]
