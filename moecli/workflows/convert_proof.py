"""Verifies a Hugging Face folder against a GPT, on random ids and on those of a text.

Knows which ids. Must not know how the two are compared, nor which was made from which.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from moecli.convert.peer import load_peer
from moecli.convert.verify import Verification, random_ids, verify
from moecli.data.tokenizer import Tokenizer
from moecli.model.device import check_memory
from moecli.model.gpt import GPT

# A router may send no token to an expert, whatever the ids: more would not help then.
MORE_BATCHES = 8
TEXT = "def mean(numbers):\n    return sum(numbers) / len(numbers)\n\nThe mean of three numbers is their sum, divided by three."


def proof_ids(vocab_size: int, max_seq_len: int, tokenizer: Tokenizer | None) -> list[Tensor]:
    """Batches of ids [B, S]."""
    batches = [random_ids(vocab_size, max_seq_len)]
    text_ids = [] if tokenizer is None else tokenizer.encode(TEXT)[:max_seq_len]
    if text_ids and max(text_ids) < vocab_size:
        batches.append(torch.tensor([text_ids]))
    return batches


def prove(folder: Path, model: GPT, batches: list[Tensor]) -> Verification:
    """Holds a folder against a model that computes what it should; both are in memory at once, in float32.

    Where no token of the batches chose some expert, more random ids follow, up to MORE_BATCHES times.

    Raises:
        ConvertError: they don't compute the same.
        MachineError: transformers is missing, or there is too little memory.
    """
    one_model = sum(parameter.numel() * torch.float32.itemsize for parameter in model.parameters())
    check_memory(2 * one_model, torch.device("cpu"), what="verifying", next_step="give --no-verify")
    peer = load_peer(folder)
    proofs = [verify(model, peer, ids_BS) for ids_BS in batches]
    for seed in range(1, MORE_BATCHES + 1):
        if len(_visited(proofs)) == proofs[0].num_experts:
            break
        proofs.append(verify(model, peer, random_ids(model.vocab_size, batches[0].shape[1], seed)))
    return Verification(
        max_abs_logit_diff=max(proof.max_abs_logit_diff for proof in proofs),
        largest_logit=max(proof.largest_logit for proof in proofs),
        choices_compared=sum(proof.choices_compared for proof in proofs),
        tokens=sum(proof.tokens for proof in proofs),
        visited=_visited(proofs),
        num_experts=proofs[0].num_experts,
    )


def _visited(proofs: list[Verification]) -> frozenset[tuple[int, int]]:
    return frozenset().union(*(proof.visited for proof in proofs))
