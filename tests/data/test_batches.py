"""Batches by hand, their order, and that it can be taken up anywhere."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moecli.data.batches import TrainBatches, validation_batches
from moecli.data.token_split import TokenSplit
from moecli.errors import DataError


def split_of(num_tokens, **labels):
    """A split whose ids are 0, 1, 2, ..., so that an id says where it stands."""
    arrays = {kind: np.array(values, dtype=np.uint16) for kind, values in labels.items()}
    return TokenSplit("train", np.arange(num_tokens, dtype=np.uint16), arrays, {}, num_tokens, 1)


def test_validation_by_hand():
    # 8 tokens, so 7 targets: two windows of 3 targets, and one of the 1 that is left.
    batches = list(validation_batches(split_of(8, k=[0, 1, 2, 3, 4, 5, 6, 7]), seq_len=3, batch_size=2))
    assert [batch.ids_BS.tolist() for batch in batches] == [[[0, 1, 2], [3, 4, 5]], [[6]]]
    assert [batch.targets_BS.tolist() for batch in batches] == [[[1, 2, 3], [4, 5, 6]], [[7]]]
    assert [batch.labels["k"].tolist() for batch in batches] == [[[0, 1, 2], [3, 4, 5]], [[6]]]
    assert batches[0].ids_BS.dtype == batches[0].targets_BS.dtype == batches[0].labels["k"].dtype == torch.int64


@settings(deadline=None)
@given(num_tokens=st.integers(2, 60), seq_len=st.integers(1, 70), batch_size=st.integers(1, 8))
def test_validation_has_every_target_once_in_order(num_tokens, seq_len, batch_size):
    batches = list(validation_batches(split_of(num_tokens), seq_len, batch_size))
    assert torch.cat([batch.targets_BS.flatten() for batch in batches]).tolist() == list(range(1, num_tokens))
    assert torch.cat([batch.ids_BS.flatten() for batch in batches]).tolist() == list(range(num_tokens - 1))
    assert all(len(batch.ids_BS) <= batch_size for batch in batches)
    assert all(batch.ids_BS.shape[1] == seq_len for batch in batches[:-1])


def test_train_windows_by_hand():
    # 10 tokens at seq_len 3: windows begin at 0, 3 and 6. An epoch is three windows, two batches of three are two epochs.
    batches = TrainBatches(split_of(10, k=range(10)), seq_len=3, batch_size=3, seed=0)
    assert batches.windows_per_epoch == 3
    for index in range(4):
        batch = batches.batch(index)
        assert sorted(batch.ids_BS.tolist()) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
        assert torch.equal(batch.targets_BS, batch.ids_BS + 1)
        assert torch.equal(batch.labels["k"], batch.ids_BS)
        assert batch.ids_BS.dtype == batch.targets_BS.dtype == batch.labels["k"].dtype == torch.int64


@settings(deadline=None)
@given(num_windows=st.integers(2, 20), data=st.data(), seed=st.integers(0, 2**31 - 1))
def test_every_epoch_has_every_window_once_also_where_a_batch_crosses_its_border(num_windows, data, seed):
    batch_size = data.draw(st.integers(1, num_windows))
    batches = TrainBatches(split_of(num_windows * 2 + 1), seq_len=2, batch_size=batch_size, seed=seed)
    num_epochs = 3
    starts = [row[0] for index in range(num_epochs * num_windows) for row in batches.batch(index).ids_BS.tolist()]
    for epoch in range(num_epochs):
        windows = starts[epoch * num_windows : (epoch + 1) * num_windows]
        assert sorted(windows) == list(range(0, 2 * num_windows, 2))


def order(seed, indices, num_tokens=201):
    batches = TrainBatches(split_of(num_tokens), seq_len=2, batch_size=7, seed=seed)
    return [batches.batch(index).ids_BS[:, 0].tolist() for index in indices]


def test_a_batch_depends_on_its_index_alone():
    whole = order(seed=5, indices=range(40))  # 100 windows: nearly three epochs, two borders crossed
    assert [order(seed=5, indices=[index])[0] for index in range(40)] == whole
    assert order(seed=5, indices=range(20, 40)) == whole[20:]
    assert order(seed=5, indices=reversed(range(40))) == whole[::-1]


def test_epochs_and_seeds_have_orders_of_their_own():
    first, second = ([start for batch in order(seed, range(100)) for start in batch] for seed in (1, 2))
    assert first != second
    epochs = [tuple(first[start : start + 100]) for start in range(0, 700, 100)]
    assert len(set(epochs)) == 7
    assert all(Counter(epoch) == Counter(range(0, 200, 2)) for epoch in epochs)


def test_the_order_of_an_epoch_is_drawn_once(monkeypatch):
    drawn = []
    default_rng = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: drawn.append(seed) or default_rng(seed))
    order(seed=3, indices=range(40))
    assert drawn == [[3, 0], [3, 1], [3, 2]]


def test_a_split_shorter_than_one_batch():
    assert len(TrainBatches(split_of(13), seq_len=4, batch_size=3, seed=0).batch(0).ids_BS) == 3
    with pytest.raises(DataError) as caught:
        TrainBatches(split_of(12), seq_len=4, batch_size=3, seed=0)
    assert "needs 13 tokens" in str(caught.value)
    assert "there are 12" in str(caught.value)
    assert "split train" in str(caught.value)
    assert "training.batch_size" in caught.value.next_step
    assert "data.seq_len" in caught.value.next_step


def test_a_batch_goes_to_a_device_with_all_it_has():
    batch = TrainBatches(split_of(10, k=range(10)), seq_len=3, batch_size=3, seed=0).batch(0).to(torch.device("meta"))
    assert batch.ids_BS.device.type == batch.targets_BS.device.type == batch.labels["k"].device.type == "meta"


def test_ids_beyond_sixteen_bits():
    split = TokenSplit("train", np.array([70_000, 1, 2**32 - 1], dtype=np.uint32), {}, {}, 1, 1)
    (batch,) = validation_batches(split, seq_len=2, batch_size=1)
    assert batch.targets_BS.tolist() == [[1, 2**32 - 1]]
