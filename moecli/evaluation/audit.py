"""The causality audit: changes a token's future and its neighbours in the batch, and measures what that changes of the token.

Knows models and the ids of a batch. Must not know recipes or run folders, nor what a configuration declares about itself.
Shape letters: see moe/routing.py; V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from moecli.errors import DataError
from moecli.model.device import Precision, autocast
from moecli.model.gpt import GPT
from moecli.moe.routing import RoutingRecord

# A logit that differs by more than this, times the largest absolute logit where that is above 1, has changed. The audited copy computes in
# float64 but for what the router rounds to float32 (6e-8 of a weight), so what is no leak stays below.
TOLERANCE = 1e-7
# Where the changed part of a sequence begins, as parts of its length.
CUTS = (0.25, 0.5, 0.75)
# Sequences that are changed, one at a time. A full expert turns away tokens of one sequence alone, so some have to be tried.
CHANGED_SEQUENCES = 4
# Of the losses. Each position of the step-by-step loss is a forward pass of its own.
LOSS_SEQUENCES, MOST_LOSS_POSITIONS = 2, 128
# Of the other ids that are put in, and of noise in training mode.
SEED = 0


@dataclass(frozen=True, slots=True)
class Audit:
    """What a model's tokens were seen to depend on."""

    leaks_future: bool
    """Changing later tokens of a sequence changed a logit by more than the tolerance, or a choice, at an earlier one."""
    mixes_rows: bool | None
    """The same for changing one sequence and looking at the others. None: the batch has one sequence."""
    max_abs_diff_past: float
    """Largest change of any logit before the changed tokens, over all changes, in evaluation and in training mode."""
    max_abs_diff_rows: float | None
    """The same for all logits of the other sequences."""
    past_choices_changed: int
    """Kept assignments (token, expert it ran on) before the changed tokens that came or went, over all layers, changes and both modes."""
    row_choices_changed: int | None
    """The same for the other sequences."""
    teacher_forced_loss: float | None
    """Nats per token as `evaluate` has it: the whole window and the whole batch go through the model at once. None: bidirectional."""
    stepwise_loss: float | None
    """Nats per token over the same tokens, each predicted from the tokens before it alone, as in generation. None: bidirectional."""


def audit(model: GPT, ids_BS: Tensor, precision: Precision) -> Audit:
    """Measures what the tokens of one batch depend on.

    Changes up to 4 sequences, one at a time and from each of three places on, and compares what came before and the other sequences, in
    evaluation and in training mode with the same noise. That is done in float64: in lower precision a token's output depends by rounding on
    how many tokens share a matrix product with it, and between experts that are nearly equal rounding can decide.

    The two losses are of the first and the last sequence, the first 128 positions of each at most, in the precision of the run.

    Args:
        model: left as it is. A copy in float64 is made beside it.
        ids_BS: windows as they are evaluated.
        precision: of matrix products, for the two losses.

    Raises:
        DataError: the windows have one token, which has no past.
    """
    if ids_BS.shape[1] < 2:
        raise DataError("an audit needs windows of 2 tokens or more", where="--audit", next_step="leave --audit out")
    ids_BS = ids_BS.to(_device(model))
    past, others = _measure(model, ids_BS)
    losses = _losses(model, ids_BS, precision) if model.config.is_causal else (None, None)
    has_others = len(ids_BS) > 1
    return Audit(
        leaks_future=past.is_dependent,
        mixes_rows=others.is_dependent if has_others else None,
        max_abs_diff_past=past.max_abs_diff,
        max_abs_diff_rows=others.max_abs_diff if has_others else None,
        past_choices_changed=past.choices,
        row_choices_changed=others.choices if has_others else None,
        teacher_forced_loss=losses[0],
        stepwise_loss=losses[1],
    )


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a forward pass said of every token."""

    logits_BSV: Tensor
    is_assigned_BSN: Tensor
    """bool; N counts the experts of all layers that route."""


@dataclass(slots=True)
class _Differences:
    """How a part of the tokens differs, over all comparisons."""

    max_abs_diff: float = 0.0
    choices: int = 0
    is_dependent: bool = False

    def add(self, before: _Outcome, after: _Outcome, is_watched_BS: Tensor) -> None:
        pairs = zip(before.logits_BSV, after.logits_BSV, strict=True)
        # Sequence by sequence: the difference of all logits at once would be as large as they are.
        diff_BS = torch.stack([(old_SV - new_SV).abs().amax(dim=-1) for old_SV, new_SV in pairs])
        diff = diff_BS[is_watched_BS].max().item()
        choices = int((before.is_assigned_BSN ^ after.is_assigned_BSN)[is_watched_BS].sum())
        scale = max(1.0, before.logits_BSV.abs().max().item())
        self.max_abs_diff = max(self.max_abs_diff, diff)
        self.choices += choices
        self.is_dependent |= diff > TOLERANCE * scale or choices > 0


@torch.no_grad()
def _measure(model: GPT, ids_BS: Tensor) -> tuple[_Differences, _Differences]:
    """How the past of changed tokens differs, and how the other sequences do."""
    # Metal has no float64.
    device = torch.device("cpu") if ids_BS.device.type == "mps" else ids_BS.device
    model = copy.deepcopy(model).to(device, torch.float64)
    ids_BS = ids_BS.to(device)
    past, others = _Differences(), _Differences()
    for training in (False, True):
        model.train(training)
        before = _outcome(model, ids_BS)
        for row, cut, changed_BS in _changed_futures(ids_BS, model.vocab_size):
            after = _outcome(model, changed_BS)
            is_past_BS = torch.zeros_like(ids_BS, dtype=torch.bool)
            is_past_BS[row, :cut] = True
            past.add(before, after, is_past_BS)
            if len(ids_BS) > 1:
                is_other_BS = torch.ones_like(is_past_BS)
                is_other_BS[row] = False
                others.add(before, after, is_other_BS)
    return past, others


def _changed_futures(ids_BS: Tensor, vocab_size: int) -> Iterator[tuple[int, int, Tensor]]:
    """(row, cut, ids in which every token of this row from position `cut` on is another), the same at every call."""
    generator = torch.Generator().manual_seed(SEED)
    seq_len = ids_BS.shape[1]
    for row in _spread_rows(len(ids_BS), CHANGED_SEQUENCES):
        for cut in sorted({max(1, int(part * seq_len)) for part in CUTS}):
            steps = torch.randint(1, vocab_size, (seq_len - cut,), generator=generator)
            changed_BS = ids_BS.clone()
            changed_BS[row, cut:] = (changed_BS[row, cut:] + steps.to(ids_BS.device)) % vocab_size
            yield row, cut, changed_BS


def _outcome(model: GPT, ids_BS: Tensor) -> _Outcome:
    with torch.random.fork_rng(devices=[ids_BS.device] if ids_BS.is_cuda else []):
        torch.manual_seed(SEED)
        logits_BSV, records = model(ids_BS)
    assigned = [_assignments(record) for record in records if record is not None]
    none_T0 = torch.zeros(ids_BS.numel(), 0, dtype=torch.bool, device=ids_BS.device)
    return _Outcome(logits_BSV, torch.cat([none_T0, *assigned], dim=1).unflatten(0, ids_BS.shape))


def _assignments(record: RoutingRecord) -> Tensor:
    """Which tokens ran on which experts, bool."""
    is_assigned_TE = torch.zeros_like(record.routing.probs_TE, dtype=torch.bool)
    is_assigned_TE[record.routing.token_ids_A[record.kept_A], record.final_expert_ids_A[record.kept_A]] = True
    return is_assigned_TE


@torch.no_grad()
def _losses(model: GPT, ids_BS: Tensor, precision: Precision) -> tuple[float, float]:
    """Teacher-forced and step by step, in nats per token, in evaluation mode."""
    was_training = model.training
    model.eval()
    rows = _spread_rows(len(ids_BS), LOSS_SEQUENCES)
    steps = min(MOST_LOSS_POSITIONS, ids_BS.shape[1] - 1)
    targets_N = ids_BS[rows, 1 : steps + 1].flatten()
    with autocast(ids_BS.device, precision):
        at_once_NV = model(ids_BS)[0][rows, :steps].flatten(0, 1)
        alone_NV = torch.stack([model(ids_BS[row : row + 1, : step + 1])[0][0, -1] for row in rows for step in range(steps)])
    model.train(was_training)
    at_once, alone = (F.cross_entropy(logits_NV.float(), targets_N).item() for logits_NV in (at_once_NV, alone_NV))
    return at_once, alone


def _spread_rows(batch_size: int, count: int) -> list[int]:
    """`count` rows spread from the first to the last, which fare the most differently in a room that all rows share."""
    return sorted({number * (batch_size - 1) // (count - 1) for number in range(count)})


def _device(model: GPT) -> torch.device:
    return next(model.parameters()).device
