"""Router saturation by hand, against loops, and its chance level against all ways to pair tokens."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moecli.analysis.saturation import saturation
from tests.analysis.samples import layers, random_routing, sample_of


def test_saturation_by_hand():
    # Last step: {0, 1}, {1}, {2, 0} and a token without experts, which doesn't count. At step 5 the others have {1, 0}, {2, 1}, {2}.
    # In common, of the last step's: 2/2, 1/1, 1/2; mean 2.5 / 3. First choices 1 for 0, 2 for 1, 2 for 2: one of three is the same.
    # Chance: at step 5 experts 0, 1, 2 ran for 1/3, 2/3, 2/3 of the tokens. Of a token's one, the last step gives expert 0 1/2 + 1/2,
    # expert 1 1/2 + 1, expert 2 1/2, over three tokens 1/3, 1/2, 1/6. Together 1/3 * 1/3 + 2/3 * 1/2 + 2/3 * 1/6 = 5/9.
    # First choices: step 5 has 1/3 on expert 1 and 2/3 on expert 2, the last step 1/3 on each: 1/3 * 1/3 + 2/3 * 1/3 = 1/3.
    earlier = sample_of({1: [[1, 0], [2, 1], [2, -1], [0, 1]]}, 3)
    last = sample_of({1: [[0, 1], [1, -1], [2, 0], [-1, -1]]}, 3)
    (layer,) = saturation({9: last, 5: earlier})
    assert (layer.layer, layer.steps) == (1, [5, 9])
    assert layer.top_k == [pytest.approx(2.5 / 3), 1]
    assert layer.top_k_chance[0] == pytest.approx(5 / 9)
    assert layer.first == [pytest.approx(1 / 3), 1]
    assert layer.first_chance[0] == pytest.approx(1 / 3)
    json.dumps(asdict(layer))


@given(st.data())
def test_saturation_is_that_of_a_loop_and_chance_that_of_all_pairs_of_tokens(data):
    num_tokens, num_experts = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 5))
    routings = [data.draw(layers(num_tokens, num_experts)) for _ in range(3)]
    found = saturation({step: sample_of({0: routing}, num_experts) for step, routing in enumerate(routings)})
    counted = [token for token in range(num_tokens) if routings[-1][token][0] >= 0]
    if not counted:
        assert found == []
        return
    last = [routings[-1][token] for token in counted]
    for step, routing in enumerate(routings):
        now = [routing[token] for token in counted]
        common = np.array([[len(set(one) & set(other) - {-1}) / len(set(other) - {-1}) for other in last] for one in now])
        same = np.array([[one[0] == other[0] for other in last] for one in now])
        assert found[0].top_k[step] == pytest.approx(common.diagonal().mean())
        assert found[0].first[step] == pytest.approx(same.diagonal().mean())
        # Independent: any token's routing at this step with any token's at the last.
        assert found[0].top_k_chance[step] == pytest.approx(common.mean())
        assert found[0].first_chance[step] == pytest.approx(same.mean())
    assert (found[0].top_k[-1], found[0].first[-1]) == (1, 1)


def test_random_routings_share_what_chance_says():
    # Even load: k / E = 2 / 8 and 1 / 8.
    one, other = (sample_of({0: random_routing(np.random.default_rng(seed), 20_000, [1] * 8, 2)}, 8) for seed in (0, 1))
    (layer,) = saturation({1: one, 2: other})
    assert layer.top_k_chance == pytest.approx([0.25, 0.25], abs=0.001)
    assert layer.first_chance == pytest.approx([0.125, 0.125], abs=0.001)
    assert layer.top_k[0] == pytest.approx(0.25, abs=0.01)
    assert layer.first[0] == pytest.approx(0.125, abs=0.01)


def test_where_one_expert_takes_all_chance_is_one_too():
    (layer,) = saturation({step: sample_of({0: [[1]] * 4}, 2) for step in (10, 20)})
    assert layer.top_k == layer.top_k_chance == layer.first == layer.first_chance == [1, 1]


def test_layers_may_differ_and_steps_go_up():
    samples = {step: sample_of({0: [[0], [1]], 2: [[3, 1], [0, 2]]}, {0: 2, 2: 4}) for step in (100, 20, 3)}
    assert [(layer.layer, layer.steps, layer.top_k) for layer in saturation(samples)] == [
        (0, [3, 20, 100], [1, 1, 1]),
        (2, [3, 20, 100], [1, 1, 1]),
    ]


def test_samples_must_be_of_the_same_tokens():
    with pytest.raises(AssertionError, match="tokens"):
        saturation({1: sample_of({0: [[0]]}, 2, ids=[4]), 2: sample_of({0: [[0]]}, 2, ids=[5])})


def test_samples_must_be_of_the_same_layers():
    with pytest.raises(AssertionError, match="models"):
        saturation({1: sample_of({0: [[0]]}, 2), 2: sample_of({1: [[0]]}, 2)})
