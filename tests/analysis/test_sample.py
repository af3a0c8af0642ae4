"""The sample of a text: what ran for each token, whole documents, an even choice of them, whatever the batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moecli.analysis import sample as sample_file
from moecli.analysis.sample import PIECE_TOKENS, SampleCollector, experts_that_ran
from moecli.data.batches import Batch
from moecli.moe.capacity import CapacityConfig
from moecli.moe.dense import record_of_all
from moecli.moe.dispatch import dispatch_dropless, dispatch_with_capacity
from moecli.moe.routers import ExpertChoiceConfig
from moecli.moe.routers.base import token_choice
from moecli.moe.routers.expert_choice import ExpertChoiceRouter

END = 0


def record_of(expert_ids_TK: list[list[int]], num_experts: int, capacity: CapacityConfig | None = None):
    ids_TK = torch.tensor(expert_ids_TK)
    probs_TE = torch.full((len(ids_TK), num_experts), 1 / num_experts)
    routing = token_choice(probs_TE.log(), probs_TE, ids_TK, torch.ones(ids_TK.shape), seq_len=len(ids_TK))
    return (dispatch_dropless(routing) if capacity is None else dispatch_with_capacity(routing, capacity, capacity.factor))[1]


def batch_of(ids: list[list[int]], labels: dict[str, list[list[int]]] | None = None) -> Batch:
    ids_BS = torch.tensor(ids)
    return Batch(ids_BS, ids_BS, {kind: torch.tensor(values) for kind, values in (labels or {}).items()})


def test_choices_stand_in_the_routers_order():
    assert experts_that_ran(record_of([[2, 0], [1, 2]], 3)).tolist() == [[2, 0], [1, 2]]


def test_what_is_dropped_is_no_expert():
    # Room for ceil(0.5 * 2 * 2 / 2) = 1 assignment per expert: token 0 takes both experts, token 1 finds both full.
    capacity = CapacityConfig(factor=0.5, eval_factor=0.5)
    assert experts_that_ran(record_of([[0, 1], [1, 0]], 2, capacity)).tolist() == [[0, 1], [-1, -1]]


def test_what_overflows_to_the_next_expert_is_where_it_ran():
    # Room for ceil(0.5 * 1 * 2 / 2) = 1 per expert: token 1 wanted expert 0 too, and ran on expert 1.
    capacity = CapacityConfig(factor=1.0, eval_factor=1.0, overflow="next")
    assert experts_that_ran(record_of([[0], [0]], 2, capacity)).tolist() == [[0], [1]]


def test_where_experts_choose_the_largest_weight_is_the_first_choice():
    router = ExpertChoiceRouter(ExpertChoiceConfig(experts_per_token=1.0), d_model=2, num_experts=2)
    with torch.no_grad():
        router.weight.copy_(torch.tensor([[1.0, 0.0], [0.5, 0.0]]))
    # The first logit is twice the second: expert 0 takes the two tokens with the largest x, expert 1 those with the smallest.
    x_BSD = torch.tensor([[[3.0, 0.0], [2.0, 0.0], [-2.0, 0.0], [-3.0, 0.0]]])
    record = dispatch_dropless(router(x_BSD))[1]
    assert experts_that_ran(record).tolist() == [[0, -1], [0, -1], [1, -1], [1, -1]]


def test_of_a_dense_layer_the_heaviest_experts_come_first():
    weights_TE = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]])
    record = record_of_all(weights_TE.log(), weights_TE, weights_TE, 2, None)
    assert experts_that_ran(record).tolist() == [[1, 2, 0], [0, 2, 1]]


def test_more_choices_than_are_kept_leave_the_best(monkeypatch):
    monkeypatch.setattr(sample_file, "MOST_CHOICES", 2)
    assert experts_that_ran(record_of([[3, 1, 0], [0, 1, 2]], 4)).tolist() == [[3, 1], [0, 1]]


def test_documents_positions_and_neighbours_by_hand():
    # Two windows of four, one after the other in the text: END a b END | c d e f
    collector = SampleCollector(PIECE_TOKENS, END, {"domain": ("", "x")})
    record = record_of([[0], [1], [0], [1], [0], [1], [0], [1]], 2)
    collector.add(batch_of([[END, 1, 2, END], [3, 4, 5, 6]], {"domain": [[0, 1, 1, 0], [1, 1, 1, 1]]}), [None, record])
    sample = collector.sample()
    assert sample.ids_N.tolist() == [END, 1, 2, END, 3, 4, 5, 6]
    assert sample.documents_N.tolist() == [1, 1, 1, 2, 2, 2, 2, 2]
    assert sample.positions_N.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    # The first of a sequence has no neighbour: the model did not see it so.
    assert sample.follows_N.tolist() == [False, True, True, True, False, True, True, True]
    assert sample.labels["domain"].tolist() == [0, 1, 1, 0, 1, 1, 1, 1]
    assert list(sample.experts) == [1] and sample.experts[1][:, 0].tolist() == [0, 1] * 4
    assert sample.num_experts == {1: 2} and sample.num_tokens_seen == 8 and sample.num_documents == 2


def collect(ids: np.ndarray, cuts: list[int], max_tokens: int, seq_len: int = 8) -> sample_file.RoutingSample:
    collector = SampleCollector(max_tokens, END, {})
    rows = ids.reshape(-1, seq_len)
    for first, last in zip([0, *cuts], [*cuts, len(rows)], strict=True):
        if last > first:
            experts = (rows[first:last].flatten() % 3)[:, None].tolist()
            collector.add(batch_of(rows[first:last].tolist()), [record_of(experts, 3)])
    return collector.sample()


@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, 20), max_size=4))
@settings(max_examples=30, deadline=None)
def test_batches_cut_another_way_give_the_same_sample(seed, cuts):
    ids = np.random.default_rng(seed).integers(0, 6, 160)
    whole, parts = collect(ids, [], PIECE_TOKENS), collect(ids, sorted(cuts), PIECE_TOKENS)
    for name in ("ids_N", "documents_N", "positions_N", "follows_N"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name)), name
    assert np.array_equal(whole.experts[0], parts.experts[0])


@given(seed=st.integers(0, 1000), size=st.integers(20, 300))
@settings(max_examples=10, deadline=None)
def test_the_sample_of_a_long_text_is_the_same_however_it_is_cut(seed, size):
    rng = np.random.default_rng(seed)
    ids = np.concatenate([np.r_[END, np.ones(length, dtype=int)] for length in rng.integers(10, 700, 60)])
    ids = ids[: len(ids) // 8 * 8]
    whole, parts = collect(ids, [], PIECE_TOKENS), collect(ids, list(range(size, len(ids) // 8, size)), PIECE_TOKENS)
    assert np.array_equal(whole.documents_N, parts.documents_N) and np.array_equal(whole.ids_N, parts.ids_N)
    assert len(whole.ids_N) <= PIECE_TOKENS


def test_hidden_ends_of_text_begin_documents_too():
    """masked-lm: the first end of text is shown as another id (9), and a token in the middle as an end of text."""
    shown = torch.tensor([[9, 1, END, 2], [END, 3, 4, 5]])
    targets = torch.tensor([[END, -100, 7, -100], [-100, -100, -100, -100]])
    collector = SampleCollector(PIECE_TOKENS, END, {})
    collector.add(Batch(shown, targets, {}, is_masked=True), [record_of([[0]] * 8, 2)])
    sample = collector.sample()
    assert sample.documents_N.tolist() == [1, 1, 1, 1, 2, 2, 2, 2]
    assert sample.ids_N.tolist() == [9, 1, END, 2, END, 3, 4, 5]


def test_a_document_that_goes_on_in_the_next_batch_keeps_its_pieces():
    """Pieces of 4,096 tokens are counted from the beginning of the document, not of the batch."""
    ids = np.r_[END, np.full(6 * PIECE_TOKENS - 1, 1)]
    whole, parts = collect(ids, [], 2 * PIECE_TOKENS), collect(ids, list(range(3, len(ids) // 8, 3)), 2 * PIECE_TOKENS)
    assert len(parts.ids_N) == 2 * PIECE_TOKENS
    assert np.array_equal(whole.follows_N, parts.follows_N) and np.array_equal(whole.positions_N, parts.positions_N)


@pytest.mark.parametrize("cuts", [[], [7, 100, 101, 900]])
def test_a_long_text_is_sampled_evenly_in_whole_documents(cuts):
    # 400 documents of 80 tokens: 32,000 tokens, of which 51 documents fit into 4,096.
    ids = np.tile(np.r_[END, np.arange(1, 80)], 400)
    sample = collect(ids, cuts, PIECE_TOKENS)
    documents, lengths = np.unique(sample.documents_N, return_counts=True)
    assert (lengths == 80).all()
    assert len(documents) == 51 and sample.num_tokens_seen == 32_000
    # Even: about a quarter of them in each quarter of the text. (13 +- 3 of 51; 4 standard deviations either side.)
    quarters = np.bincount((documents - 1) // 100, minlength=4)
    assert quarters.min() >= 2 and quarters.max() <= 25
    # Where a document was left out, the next token has no neighbour before it.
    begins = np.flatnonzero(np.diff(sample.documents_N, prepend=0) > 1)
    assert len(begins) > 10 and not sample.follows_N[begins].any()


def test_one_endless_document_is_taken_in_pieces():
    sample = collect(np.r_[END, np.full(40 * PIECE_TOKENS - 1, 1)], [], 3 * PIECE_TOKENS)
    assert len(sample.ids_N) == 3 * PIECE_TOKENS
    assert sample.num_documents == 1
