"""Paths through layers by hand and against loops."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given

from moecli.analysis.paths import Path, paths
from tests.analysis.samples import sample_of, samples


def test_paths_by_hand():
    # First choices in layers 1 and 3: (0, 2) for three tokens, (1, 0) for one, and one token has none in layer 3.
    # Of the 4 tokens layer 1 sends 3/4 to expert 0, layer 3 sends 3/4 to expert 2: chance of (0, 2) is 9/16, of (1, 0) 1/4 * 1/4 = 1/16.
    experts = {1: [[0, 1], [0, 1], [1, 0], [0, -1], [1, 0]], 3: [[2], [2], [0], [2], [-1]]}
    found = paths(sample_of(experts, {1: 2, 3: 3}))
    assert (found.layers, found.distinct, found.tokens) == ([1, 3], 2, 4)
    assert found.top == [Path([0, 2], 3, 0.75, 9 / 16), Path([1, 0], 1, 0.25, 1 / 16)]
    (transition,) = found.transitions
    assert (transition.from_layer, transition.to_layer) == (1, 3)
    assert transition.share == [[0, 0, 0.75], [0.25, 0, 0]]
    json.dumps(asdict(found))


@given(samples())
def test_paths_are_those_of_a_loop(sample):
    found = paths(sample, most=3)
    layers = sorted(sample.experts)
    firsts = [[int(sample.experts[layer][token, 0]) for layer in layers] for token in range(len(sample.ids_N))]
    firsts = [path for path in firsts if min(path) >= 0]
    if len(layers) < 2 or not firsts:
        assert found is None
        return
    counts = Counter(tuple(path) for path in firsts)
    in_order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    assert found.tokens == len(firsts)
    assert found.distinct == len(counts)
    assert [(tuple(path.experts), path.count) for path in found.top] == in_order[:3]
    for path in found.top:
        assert path.share == path.count / len(firsts)
        shares = [sum(other[place] == expert for other in firsts) / len(firsts) for place, expert in enumerate(path.experts)]
        assert path.chance == pytest.approx(np.prod(shares), rel=1e-12)
    for place, (transition, pair) in enumerate(zip(found.transitions, pairwise(layers), strict=True)):
        assert (transition.from_layer, transition.to_layer) == pair
        assert np.shape(transition.share) == (sample.num_experts[pair[0]], sample.num_experts[pair[1]])
        for one, row in enumerate(transition.share):
            for other, share in enumerate(row):
                assert share == sum(path[place] == one and path[place + 1] == other for path in firsts) / len(firsts)


def test_chances_of_all_paths_sum_to_one():
    grid = [[one, two, three] for one in range(2) for two in range(3) for three in range(4)]
    tokens = np.array(grid + grid[:7])
    found = paths(sample_of({layer: tokens[:, [layer]] for layer in range(3)}, {0: 2, 1: 3, 2: 4}), most=100)
    assert len(found.top) == found.distinct == 24
    assert sum(path.chance for path in found.top) == pytest.approx(1)
    assert sum(path.share for path in found.top) == pytest.approx(1)


def test_many_layers_do_not_run_out_of_numbers():
    # 64^40 paths are more than an int64 can tell apart. Two tokens that part in the first layer only, one that parts in the last.
    tokens = np.full((4, 40), 63)
    tokens[0, 0], tokens[1, 39] = 0, 0
    found = paths(sample_of({layer: tokens[:, [layer]] for layer in range(40)}, 64))
    assert found.distinct == 3
    assert [path.count for path in found.top] == [2, 1, 1]
    assert [path.experts for path in found.top] == [tokens[2].tolist(), tokens[0].tolist(), tokens[1].tolist()]


def test_at_most_so_many_are_named_but_all_are_counted():
    found = paths(sample_of({0: [[0], [1], [2]], 1: [[0], [0], [0]]}, 3), most=2)
    assert [path.experts for path in found.top] == [[0, 0], [1, 0]]
    assert found.distinct == 3


def test_one_expert_per_layer_leaves_one_path():
    found = paths(sample_of({0: [[0]] * 3, 1: [[0]] * 3}, 1))
    assert found.top == [Path([0, 0], 3, 1, 1)]
    assert found.transitions[0].share == [[1]]


def test_no_paths_without_two_layers_or_a_token_that_all_have_an_expert_for():
    assert paths(sample_of({2: [[0], [1]]}, 2)) is None
    assert paths(sample_of({0: [[0], [-1]], 1: [[-1], [0]]}, 2)) is None
