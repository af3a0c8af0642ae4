"""The proof of a conversion: both sides compute the same logits and choose the same experts on the same ids.

Knows a GPT and its counterpart. Must not know rules, formats or text.
Shape letters: see moe/routing.py; V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from moecli.errors import ConvertError
from moecli.model.generate import evaluating
from moecli.model.gpt import GPT
from moecli.moe.routing import Routing

# Of the root mean square of a position's logits, so that one large logit, or one loud position, hides nothing. Two programs that add up
# float32 numbers in another order differ: of tiny random models of every class by 0.05e-5 to 0.1e-5 of it where the weights' standard
# deviation is 0.02, by up to 2.1e-5 where it is 0.3; of 24 dense layers of width 128 with 0.3, the most that was seen, by 4.8e-5. So 1e-5
# would refuse models that nothing is wrong with. No trained model of size was measured.
TOLERANCE = 1e-4
# Experts whose scores for the choice are closer than this may change places with the order of a sum.
TIE = 1e-5
NUM_ROWS, MAX_LENGTH = 2, 64
REPORT = "nothing was written; this is a bug in the rules of the class: report it"

Counterpart = Callable[[Tensor], tuple[Tensor, dict[int, Tensor]]]
"""From ids [B, S] to logits [B, S, V] and, for each MoE layer, the experts of each token [T, K]."""


@dataclass(frozen=True, slots=True)
class Verification:
    """A proof that held."""

    max_abs_logit_diff: float
    largest_logit: float
    """What the difference is to be held against."""
    choices_compared: int
    """Choices of experts: tokens times MoE layers times experts per token. Those behind a tie are left out."""
    tokens: int
    visited: frozenset[tuple[int, int]]
    """The experts, as (layer, expert), that a compared token chose: of the others, the logits show nothing."""
    num_experts: int
    """Of all MoE layers together."""
    rounding_diff: float | None = None
    """How far a logit moved where the weights were rounded; None where they were not."""


def random_ids(vocab_size: int, max_seq_len: int, seed: int = 0) -> Tensor:
    """Ids that a conversion is proved on, int64 [B, S]: always the same for a seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocab_size, (NUM_ROWS, min(max_seq_len, MAX_LENGTH)), generator=generator)


@torch.inference_mode()
def verify(model: GPT, counterpart: Counterpart, ids_BS: Tensor) -> Verification:
    """Compares the two.

    Raises:
        ConvertError: a logit differs by more than rounding explains, or a token has other experts.
    """
    with evaluating(model):
        logits_BSV, records = model(ids_BS)
    their_logits_BSV, their_choices = counterpart(ids_BS)
    if logits_BSV.shape != their_logits_BSV.shape:
        what = f"logits of shape {list(their_logits_BSV.shape)} instead of {list(logits_BSV.shape)}"
        raise ConvertError(f"the conversion doesn't hold: {what}", next_step=REPORT)
    biases = [ffn.selection_bias_E for ffn in model.feed_forwards()]
    is_clean_BS = torch.ones(ids_BS.shape, dtype=torch.bool)
    compared = 0
    for layer, record in enumerate(records):
        if record is None:
            continue
        if layer not in their_choices:
            raise ConvertError(f"the conversion doesn't hold: layer {layer} has no experts there", next_step=REPORT)
        compared += _compare_choices(layer, record.routing, biases[layer], their_choices[layer], is_clean_BS)
    if not is_clean_BS.any():
        raise ConvertError("every token has experts that are tied, so that nothing can be compared", next_step="train the router first")
    difference, largest = _compare_logits(logits_BSV[is_clean_BS], their_logits_BSV[is_clean_BS])
    routings = {layer: record.routing for layer, record in enumerate(records) if record is not None}
    visited = {(layer, expert) for layer, routing in routings.items() for expert in _chosen(routing, is_clean_BS)}
    num_experts = sum(routing.logits_TE.shape[1] for routing in routings.values())
    return Verification(difference, largest, compared, int(is_clean_BS.sum()), frozenset(visited), num_experts)


def _compare_logits(ours_TV: Tensor, theirs_TV: Tensor) -> tuple[float, float]:
    """The largest difference and the largest logit. Raises ConvertError where rounding doesn't explain a difference."""
    largest = ours_TV.abs().max().item()
    if largest == 0:
        what = "every logit is 0, so that nothing can be compared"
        raise ConvertError(what, next_step="look at the last norm and the head, or give --no-verify")
    difference_T = (ours_TV - theirs_TV).abs().amax(dim=1)
    explained_T = TOLERANCE * ours_TV.square().mean(dim=1).sqrt()
    if not (difference_T <= explained_T).all():
        worst = int((difference_T - explained_T).argmax())
        what = f"logits differ by {difference_T[worst]:.3g}, where the largest is {ours_TV[worst].abs().max():.3g}"
        what = f"the conversion doesn't hold: {what}; rounding explains {explained_T[worst]:.2g}"
        raise ConvertError(what, next_step=REPORT)
    return difference_T.max().item(), largest


def _chosen(routing: Routing, is_clean_BS: Tensor) -> list[int]:
    """The experts that clean tokens chose, each once."""
    experts: list[int] = routing.expert_ids_A[is_clean_BS.flatten()[routing.token_ids_A]].unique().tolist()
    return experts


def _compare_choices(layer: int, routing: Routing, bias_E: Tensor | None, theirs_TK: Tensor, is_clean_BS: Tensor) -> int:
    """Compares the experts of each clean token; where only a tie sets them apart, it and those after it in its row are clean no more.

    Returns how many choices were compared.
    """
    shape_TE = routing.logits_TE.shape
    ours_TE = torch.zeros(shape_TE, dtype=torch.bool)
    ours_TE[routing.token_ids_A, routing.expert_ids_A] = True
    theirs_TE = torch.zeros(shape_TE, dtype=torch.bool).scatter_(1, theirs_TK, True)
    # The order of the choice: a bias comes on top of sigmoids; without one, logits and probabilities are in the same order.
    scores_TE = routing.logits_TE if bias_E is None else routing.logits_TE.sigmoid() + bias_E
    is_other_T = (ours_TE != theirs_TE).any(dim=1) & is_clean_BS.flatten()
    for token in is_other_T.nonzero()[:, 0].tolist():
        scores = scores_TE[token][ours_TE[token] != theirs_TE[token]]
        if scores.max() - scores.min() > TIE:
            ours, theirs = (chosen_TE[token].nonzero()[:, 0].tolist() for chosen_TE in (ours_TE, theirs_TE))
            what = f"in layer {layer}, token {token} has the experts {theirs} instead of {ours}"
            raise ConvertError(f"the conversion doesn't hold: {what}", next_step=REPORT)
        row, position = divmod(token, is_clean_BS.shape[1])
        is_clean_BS[row, position:] = False
    return int(is_clean_BS.sum()) * theirs_TK.shape[1]
