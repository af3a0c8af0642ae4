"""The number of a sequence of ids: a sum that can be taken in parts, and that padding has no part in."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from moecli.moe.id_hash import mixed_bits, prefix_after, prefix_bits
from moecli.moe.routing import Tokens


def random_tokens(rows: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = Generator().manual_seed(seed)
    return torch.randint(1000, (rows, length), generator=generator), torch.rand(rows, length, generator=generator) < 0.3


@given(rows=st.integers(1, 3), cuts=st.lists(st.integers(1, 4), min_size=1, max_size=4), seed=st.integers(0, 10**6), padded=st.booleans())
def test_parts_are_the_whole(rows, cuts, seed, padded):
    ids_BS, is_padding_BS = random_tokens(rows, sum(cuts), seed)
    before, parts = None, []
    for ids, is_padding in zip(ids_BS.split(cuts, dim=1), is_padding_BS.split(cuts, dim=1), strict=True):
        tokens = Tokens(ids, is_padding if padded else None, before)
        parts.append(prefix_bits(tokens))
        before = prefix_after(tokens)
    whole = Tokens(ids_BS, is_padding_BS if padded else None)
    assert torch.equal(torch.cat(parts, dim=1), prefix_bits(whole))
    num_padding_B = is_padding_BS.sum(dim=1) if padded else 0
    assert torch.equal(before.num_tokens_B, ids_BS.shape[1] - num_padding_B + torch.zeros(rows, dtype=torch.int64))
    assert torch.equal(before.bits_B, prefix_bits(whole)[:, -1])


def test_padding_has_no_part_in_it():
    ids_BS, is_padding_BS = random_tokens(1, 40, seed=2)
    bits_BS = prefix_bits(Tokens(ids_BS, is_padding_BS))
    assert torch.equal(bits_BS[~is_padding_BS], prefix_bits(Tokens(ids_BS[~is_padding_BS][None]))[0])


def test_by_hand():
    # The ids 5 and 6 at positions 0 and 1: the hash of 5, and that plus the hash of 6 + 2^32. A padding between them changes nothing.
    first, second = mixed_bits(torch.tensor([5, 6 + 2**32]), 1, 0).flatten()
    ids_BS, is_padding_BS = torch.tensor([[5, 9, 6]]), torch.tensor([[False, True, False]])
    assert prefix_bits(Tokens(ids_BS[:, [0, 2]])).tolist() == [[first, first + second]]
    assert prefix_bits(Tokens(ids_BS, is_padding_BS)).tolist() == [[first, first, first + second]]
