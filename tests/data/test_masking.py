"""Masks by their properties: how many, what is shown, what is predicted, and what the draw depends on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moecli.data.batches import IGNORED, Batch, TrainBatches, validation_batches
from moecli.data.masking import MaskedBatches, Masking, masked_validation
from moecli.data.token_split import TokenSplit

VOCAB = 50


def split_of(num_tokens):
    ids = np.random.default_rng(0).integers(VOCAB, size=num_tokens).astype(np.uint16)
    return TokenSplit("train", ids, {"k": np.arange(num_tokens, dtype=np.uint16)}, {}, num_tokens, 1)


def masked_batches(split, batch_size, seq_len=8, seed=3):
    return MaskedBatches(TrainBatches(split, seq_len, batch_size, seed), Masking(0.3, VOCAB, seed))


def rows(batches) -> list[tuple]:
    return [row for batch in batches for row in zip(batch.ids_BS.tolist(), batch.targets_BS.tolist(), strict=True)]


def test_torch_leaves_ignored_targets_out_by_itself():
    assert torch.nn.CrossEntropyLoss().ignore_index == IGNORED


@settings(deadline=None)
@given(
    rate=st.floats(0.001, 0.999), length=st.integers(1, 40), seed=st.integers(0, 2**31 - 1), vocab_size=st.integers(2, 9), data=st.data()
)
def test_what_is_predicted_and_what_is_shown(rate, length, seed, vocab_size, data):
    ids_BS = torch.tensor(
        data.draw(st.lists(st.lists(st.integers(0, vocab_size - 1), min_size=length, max_size=length), min_size=1, max_size=3))
    )
    before = ids_BS.clone()
    batch = Masking(rate, vocab_size, seed).mask(Batch(ids_BS, ids_BS, {}), "train", first_number=5)
    is_predicted_BS = batch.targets_BS != IGNORED
    assert is_predicted_BS.sum(dim=1).tolist() == [max(1, round(rate * length))] * len(ids_BS)
    assert torch.equal(batch.targets_BS[is_predicted_BS], ids_BS[is_predicted_BS])
    assert torch.equal(batch.ids_BS[~is_predicted_BS], ids_BS[~is_predicted_BS])
    assert ((batch.ids_BS >= 0) & (batch.ids_BS <= vocab_size)).all()
    assert torch.equal(ids_BS, before)
    assert batch.ids_BS.dtype == batch.targets_BS.dtype == torch.int64


@pytest.mark.parametrize(("length", "rate", "count"), [(20, 0.15, 3), (512, 0.15, 77), (1, 0.15, 1), (3, 0.15, 1), (10, 0.99, 10)])
def test_number_of_predicted_tokens_by_hand(length, rate, count):
    # 20 * 0.15 = 3; 512 * 0.15 = 76.8; 0.15 and 0.45 round to 0, and one is predicted all the same; 9.9 rounds to all ten.
    assert Masking(rate, VOCAB, 0).num_predicted(length) == count


def test_of_many_predicted_tokens_80_percent_are_masked_and_10_percent_are_each_other_id_alike():
    ids_BS = torch.full((200, 1000), 7)
    batch = Masking(0.2, VOCAB, seed=0).mask(Batch(ids_BS, ids_BS, {}), "train", first_number=0)
    is_predicted_BS = batch.targets_BS != IGNORED
    shown_P = batch.ids_BS[is_predicted_BS]
    # 40,000 draws: a share p strays by sqrt(p (1 - p) / 40,000), 0.002 for 0.8 and 0.0015 for 0.1. Five times that is allowed.
    assert len(shown_P) == 40_000
    assert (shown_P == VOCAB).double().mean().item() == pytest.approx(0.8, abs=0.01)
    assert (shown_P == 7).double().mean().item() == pytest.approx(0.1, abs=0.0075)
    # 49 other ids share 4,000 draws: 82 each, give or take 5 * sqrt(82) = 45.
    counts_V = torch.bincount(shown_P, minlength=VOCAB + 1)[:VOCAB]
    others = torch.cat((counts_V[:7], counts_V[8:]))
    assert others.min() > 35 and others.max() < 130
    # 200 rows predict each position 40 times on average, give or take sqrt(200 * 0.2 * 0.8) = 5.7; six times that is allowed.
    per_position_S = is_predicted_BS.sum(dim=0)
    assert per_position_S.min() > 5 and per_position_S.max() < 75


def test_training_masks_do_not_depend_on_the_batch_size_and_are_new_in_every_epoch():
    split = split_of(24 * 8 + 1)
    small, large = masked_batches(split, batch_size=2), masked_batches(split, batch_size=6)
    assert rows(small.batch(index) for index in range(24)) == rows(large.batch(index) for index in range(8))
    windows = [tuple(np.where(np.array(targets) == IGNORED, ids, targets)) for ids, targets in rows(large.batch(i) for i in range(8))]
    masks = [tuple(np.array(targets) != IGNORED) for _, targets in rows(large.batch(i) for i in range(8))]
    first, second = dict(zip(windows[:24], masks[:24], strict=True)), dict(zip(windows[24:], masks[24:], strict=True))
    assert first.keys() == second.keys()
    assert sum(first[window] != second[window] for window in first) > 12


def test_training_masks_can_be_taken_up_anywhere():
    split = split_of(100)
    in_order, alone = masked_batches(split, 3), masked_batches(split, 3)
    expected = [in_order.batch(index) for index in range(6)][5]
    batch = alone.batch(5)
    assert torch.equal(batch.ids_BS, expected.ids_BS) and torch.equal(batch.targets_BS, expected.targets_BS)
    assert torch.equal(batch.labels["k"], TrainBatches(split, 8, 3, 3).batch(5).labels["k"])
    assert alone.seq_len == 8


def test_masks_depend_on_seed_stream_and_number():
    ids_BS = torch.arange(30).repeat(2, 1)
    batch = Batch(ids_BS, ids_BS, {})

    def mask_of(seed, stream, number):
        return tuple((Masking(0.3, VOCAB, seed).mask(batch, stream, number).targets_BS[0] != IGNORED).tolist())

    assert len({mask_of(seed, stream, number) for seed in (0, 1) for stream in ("train", "validation") for number in (0, 1)}) == 8
    both = Masking(0.3, VOCAB, 0).mask(batch, "train", 0).targets_BS != IGNORED
    assert tuple(both[1].tolist()) == mask_of(0, "train", 1)


@settings(deadline=None)
@given(num_tokens=st.integers(2, 60), seq_len=st.integers(1, 20), batch_size=st.integers(1, 8))
def test_validation_masks_do_not_depend_on_the_batch_size(num_tokens, seq_len, batch_size):
    split, masking = split_of(num_tokens), Masking(0.15, VOCAB, 0)
    batches = list(masked_validation(validation_batches(split, seq_len, batch_size), masking))
    assert rows(batches) == rows(masked_validation(validation_batches(split, seq_len, 1), masking))
    originals = [torch.where(batch.targets_BS == IGNORED, batch.ids_BS, batch.targets_BS).flatten() for batch in batches]
    assert torch.cat(originals).tolist() == split.ids[:-1].tolist()
