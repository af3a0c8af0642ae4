"""A sample of a text with what ran for each of its tokens: what specialisation, structure and the text view are computed from.

Knows batches and routing records. Must not know the model that made them, nor what is computed from the sample.

Shape letters: N tokens of the sample, otherwise as in moe/routing.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from moecli.data.batches import Batch
from moecli.moe.routing import RoutingRecord

# Of a token's choices the best so many are kept.
MOST_CHOICES = 16
# Documents are taken or left in pieces of so many tokens, so that one of any length fits.
PIECE_TOKENS = 4096
# Multiplier of a hash that spreads consecutive numbers evenly (2^64 over the golden ratio), and the room for pieces in a document's key.
SPREAD = np.uint64(0x9E3779B97F4A7C15)
MOST_PIECES = 1 << 24


@dataclass(frozen=True, slots=True)
class RoutingSample:
    """Tokens in the order of the text, whole documents, and what ran for them in each layer that routes."""

    ids_N: np.ndarray
    """int64 token ids, as the model saw them."""
    positions_N: np.ndarray
    """int64: the place in the sequence that went through the model."""
    documents_N: np.ndarray
    """int64: the number of the document in the text, ascending."""
    follows_N: np.ndarray
    """bool: the token before this one, here, is also the one before it in its sequence."""
    labels: dict[str, np.ndarray]
    """From the name of a label to int64 [N]; 0 is unlabelled."""
    label_names: dict[str, tuple[str, ...]]
    """From the name of a label to its values by number; the first is "", unlabelled."""
    experts: dict[int, np.ndarray]
    """From the layer to int16 [N, K]: the experts that ran, best choice first; -1 where there is none (dropped, or fewer than K)."""
    num_experts: dict[int, int]
    """From the layer to E."""
    num_tokens_seen: int
    """Tokens of the whole text."""

    @property
    def num_documents(self) -> int:
        return len(np.unique(self.documents_N))


class SampleCollector:
    """Keeps a sample of a text that comes in consecutive windows. What is in it depends on the text alone, not on the model.

    A document (what lies between two end-of-text tokens) is taken or left in pieces of PIECE_TOKENS tokens, by a hash of its number: those
    with the smallest hashes stay, as many as fit. So the sample is an even one however long the text is, and memory does not grow with it.

    Args:
        max_tokens: the most tokens to keep, PIECE_TOKENS or more.
        end_of_text_id: the token that begins a document.
        label_names: as in TokenSplit.
    """

    def __init__(self, max_tokens: int, end_of_text_id: int, label_names: dict[str, tuple[str, ...]]) -> None:
        assert max_tokens >= PIECE_TOKENS
        self._max_tokens = max_tokens
        self._end_of_text_id = end_of_text_id
        self._label_names = label_names
        self._first_left_out = 2**64  # a hash; one more than there are, while all fit
        self._num_seen = 0
        self._document, self._tokens_of_document = 0, 0
        self._num_experts: dict[int, int] = {}
        self._chunks: list[dict[str, np.ndarray]] = []

    def add(self, batch: Batch, records: Sequence[RoutingRecord | None]) -> None:
        """Takes one batch of consecutive windows and the records of all layers."""
        batch_size, seq_len = batch.ids_BS.shape
        ids_N = batch.ids_BS.cpu().flatten().numpy()
        documents_N, pieces_N = self._place(batch.text_ids_BS.cpu().flatten().numpy())
        hashes_N = _mixed(documents_N * MOST_PIECES + pieces_N)
        places_N = np.arange(self._num_seen, self._num_seen + len(ids_N))
        self._num_seen += len(ids_N)
        positions_N = np.tile(np.arange(seq_len), batch_size)
        chunk = {"ids": ids_N, "positions": positions_N, "documents": documents_N, "hashes": hashes_N, "places": places_N}
        chunk |= {f"label {kind}": label_BS.cpu().flatten().numpy() for kind, label_BS in batch.labels.items()}
        for layer, record in enumerate(records):
            if record is not None:
                self._num_experts[layer] = record.routing.num_experts
                chunk[f"experts {layer}"] = experts_that_ran(record)
        self._chunks.append(_with_small_hashes(chunk, self._first_left_out))
        self._make_room()

    def sample(self) -> RoutingSample:
        """What has been kept so far."""
        joined = {name: np.concatenate([chunk[name] for chunk in self._chunks]) for name in self._chunks[0]}
        is_next_N = np.diff(joined["places"], prepend=-2) == 1
        layers = sorted(self._num_experts)
        return RoutingSample(
            ids_N=joined["ids"],
            positions_N=joined["positions"],
            documents_N=joined["documents"],
            follows_N=is_next_N & (joined["positions"] > 0),
            labels={kind: joined[f"label {kind}"] for kind in self._label_names},
            label_names=dict(self._label_names),
            experts={layer: joined[f"experts {layer}"] for layer in layers},
            num_experts={layer: self._num_experts[layer] for layer in layers},
            num_tokens_seen=self._num_seen,
        )

    def _make_room(self) -> None:
        """Gives up the pieces with the largest hashes until the rest fits."""
        if sum(len(chunk["ids"]) for chunk in self._chunks) <= self._max_tokens:
            return
        hashes_N = np.concatenate([chunk["hashes"] for chunk in self._chunks])
        hashes, sizes = np.unique(hashes_N, return_counts=True)
        num_fitting = int(np.searchsorted(np.cumsum(sizes), self._max_tokens, side="right"))
        self._first_left_out = int(hashes[num_fitting])
        self._chunks = [_with_small_hashes(chunk, self._first_left_out) for chunk in self._chunks]

    def _place(self, ids_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The document of each token, and the piece of the document. Both go on from batch to batch."""
        numbers_N = np.arange(len(ids_N))
        begins_N = ids_N == self._end_of_text_id
        documents_N = self._document + np.cumsum(begins_N)
        first_N = np.maximum.accumulate(np.where(begins_N, numbers_N, -self._tokens_of_document))
        self._document, self._tokens_of_document = int(documents_N[-1]), int(numbers_N[-1] - first_N[-1]) + 1
        return documents_N, (numbers_N - first_N) // PIECE_TOKENS


def experts_that_ran(record: RoutingRecord) -> np.ndarray:
    """int16 [T, K]: for each token the experts that ran, best choice first, then -1; K is the most a token can have, up to MOST_CHOICES."""
    routing = record.routing
    num_tokens, top_k = routing.logits_TE.shape[0], min(routing.top_k, MOST_CHOICES)
    ran_A = torch.where(record.kept_A, record.final_expert_ids_A, -1).to(torch.int16)
    if top_k == routing.top_k and len(ran_A) == num_tokens * top_k and _is_token_by_token(routing.choices_A, top_k):
        return ran_A.view(num_tokens, top_k).cpu().numpy()
    experts_TK = torch.full((num_tokens, top_k), -1, dtype=torch.int16, device=ran_A.device)
    place_A, order_A = _places(routing.token_ids_A, routing.choices_A, routing.weights_A)
    is_kept_A = place_A < top_k
    experts_TK[routing.token_ids_A[order_A][is_kept_A], place_A[is_kept_A]] = ran_A[order_A][is_kept_A]
    return experts_TK.cpu().numpy()


def _is_token_by_token(choices_A: Tensor, top_k: int) -> bool:
    """Whether the list is T times 0, 1, ..., K-1, as token choice writes it. (Where experts choose, all are 0.)"""
    return bool((choices_A.view(-1, top_k) == torch.arange(top_k, device=choices_A.device)).all())


def _places(token_ids_A: Tensor, choices_A: Tensor, weights_A: Tensor) -> tuple[Tensor, Tensor]:
    """An order of the assignments, token by token and best first, and the place of each, in that order, among its token's."""
    order_A = weights_A.argsort(descending=True, stable=True)
    order_A = order_A[choices_A[order_A].argsort(stable=True)]
    order_A = order_A[token_ids_A[order_A].argsort(stable=True)]
    sorted_A = token_ids_A[order_A]
    return torch.arange(len(sorted_A), device=sorted_A.device) - torch.searchsorted(sorted_A, sorted_A), order_A


def _mixed(keys_N: np.ndarray) -> np.ndarray:
    """uint64: a number per key that looks random, and is different for different keys."""
    mixed_N = keys_N.astype(np.uint64) * SPREAD
    mixed_N ^= mixed_N >> np.uint64(32)
    return mixed_N * SPREAD


def _with_small_hashes(chunk: dict[str, np.ndarray], first_left_out: int) -> dict[str, np.ndarray]:
    is_kept_N = chunk["hashes"] <= np.uint64(first_left_out - 1)
    return chunk if is_kept_N.all() else {name: array[is_kept_N] for name, array in chunk.items()}
