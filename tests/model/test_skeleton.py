"""A model without memory: the names and shapes of the real one, however large, up to what can be counted."""

from __future__ import annotations

import pytest

from moecli.errors import MachineError
from moecli.model.config import GPTConfig
from moecli.model.init import build_gpt
from moecli.model.skeleton import skeleton
from moecli.moe.layers import MLPConfig, SparseMoEConfig


def test_it_has_the_names_and_shapes_of_the_model():
    config = GPTConfig(d_model=16, num_layers=2, num_heads=2, ffn=SparseMoEConfig(num_experts=2))
    shapes = [[(name, tensor.shape) for name, tensor in tensors(config).items()] for tensors in (_empty, _real)]
    assert shapes[0] == shapes[1] and all(tensor.is_meta for tensor in _empty(config).values())


def test_a_model_of_any_size_has_one():
    config = GPTConfig(d_model=2**20, num_layers=1, num_heads=2, ffn=MLPConfig())
    assert sum(parameter.numel() for parameter in skeleton(config, 50).parameters()) > 2**40


def test_a_tensor_that_64_bits_can_not_count_is_refused():
    # The input projection, with its gate, has 8 x 2 x 2^31 x 2^28 numbers of 4 bytes: 2^65 bytes.
    ffn = SparseMoEConfig(num_experts=8, d_expert=2**31 - 1)
    with pytest.raises(MachineError, match=r"more than 2\*\*63 bytes"):
        skeleton(GPTConfig(d_model=2**28, num_layers=1, num_heads=2, ffn=ffn), 50)


def _empty(config):
    return skeleton(config, 50).state_dict()


def _real(config):
    return build_gpt(config, 50, seed=0).state_dict()
