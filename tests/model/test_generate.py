"""Generation against full recomputation, token for token; the distribution that tokens are drawn from, by hand and by frequency."""

from __future__ import annotations

import math
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from moecli.errors import RunError
from moecli.model import generate as generate_file
from moecli.model.config import GPTConfig
from moecli.model.generate import CachedDecoding, Recomputation, Sampling, generate
from moecli.model.gpt import GPT
from moecli.model.init import build_gpt
from moecli.model.rerouted import with_feed_forward, without_capacity
from moecli.moe.capacity import CapacityConfig
from moecli.moe.layers import MLPConfig, SoftMoEConfig, SparseMoEConfig
from moecli.moe.routers import ExpertChoiceConfig, TopKConfig
from tests.model.test_kv_cache import ALONE, ATTENTIONS, FFNS, VOCAB, gpt, ids

GREEDY = Sampling(temperature=0)
PROMPTS = [[3, 1, 4, 1, 5], [9, 2], [6, 5, 3, 5, 8, 9, 7]]
MAX_TOKENS = 12


def texts(model: GPT, prompts: list[list[int]], sampling: Sampling = GREEDY, seed: int = 0, **options) -> list[list[int]]:
    steps = list(generate(model, prompts, max_tokens=MAX_TOKENS, sampling=sampling, seed=seed, **options))
    assert len(steps) == MAX_TOKENS
    return torch.stack(steps, dim=1).tolist()


@torch.no_grad()
def recomputed(model: GPT, prompt_BS: Tensor) -> Tensor:
    """The most probable continuation, with the whole batch of whole sequences through the model for each token."""
    ids_BS = prompt_BS
    for _ in range(MAX_TOKENS):
        ids_BS = torch.cat([ids_BS, model(ids_BS)[0][:, -1].argmax(dim=-1, keepdim=True)], dim=1)
    return ids_BS[:, prompt_BS.shape[1] :]


@pytest.mark.parametrize("name", FFNS)
def test_a_cached_batch_equals_recomputation_token_for_token(name):
    model, prompt_BS = gpt(FFNS[name]), ids(4, 5)
    assert texts(model, prompt_BS.tolist()) == recomputed(model, prompt_BS).tolist()


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_every_kind_of_attention_generates_what_recomputation_does(attention):
    model, prompt_BS = gpt(MLPConfig(), **ATTENTIONS[attention]), ids(4, 5)
    assert texts(model, prompt_BS.tolist()) == recomputed(model, prompt_BS).tolist()


@pytest.mark.parametrize("name", ALONE)
def test_prompts_of_different_lengths_are_continued_as_each_alone(name):
    model = gpt(FFNS[name])
    together = texts(model, PROMPTS)
    assert together == [texts(model, [prompt])[0] for prompt in PROMPTS]
    assert together == [recomputed(model, torch.tensor([prompt])).tolist()[0] for prompt in PROMPTS]


@pytest.mark.parametrize("name", ALONE)
def test_logits_along_the_way_are_those_of_recomputation(name):
    model = gpt(FFNS[name])
    cached, whole = CachedDecoding(model, len(PROMPTS), 7 + 6, "float32"), Recomputation(model, "float32")
    logits_BV, expected_BV = cached.begin(PROMPTS), whole.begin(PROMPTS)
    for number in range(6):
        torch.testing.assert_close(logits_BV, expected_BV, rtol=0, atol=1e-5)
        ids_B = torch.tensor([number, 30 - number, 11])
        logits_BV, expected_BV = cached.step(ids_B), whole.step(ids_B)
    torch.testing.assert_close(logits_BV, expected_BV, rtol=0, atol=1e-5)


def test_a_prompt_in_parts_is_the_same_prompt(monkeypatch):
    model = gpt(FFNS["random"])
    expected = texts(model, PROMPTS)
    monkeypatch.setattr(generate_file, "PROMPT_PART", 3)
    assert texts(model, PROMPTS) == expected


@torch.no_grad()
def test_other_prompts_begin_anew():
    decoding = CachedDecoding(gpt(FFNS["random"]), 3, 9, "float32")
    first_BV = decoding.begin(PROMPTS)
    decoding.step(torch.tensor([1, 2, 3]))
    assert not torch.equal(decoding.begin([[8], [7, 7, 7], [6]]), first_BV)
    assert torch.equal(decoding.begin(PROMPTS), first_BV)


def test_bfloat16_keeps_keys_and_values_in_bfloat16_and_follows_recomputation():
    model = gpt(FFNS["topk"], num_kv_heads=2, qk_norm="head")
    cached, whole = CachedDecoding(model, 3, 9, "bfloat16"), Recomputation(model, "bfloat16")
    logits_BV, expected_BV = cached.begin(PROMPTS), whole.begin(PROMPTS)
    assert cached._cache._keys.dtype == torch.bfloat16
    # bfloat16 keeps 8 bits: products round by up to 2^-8 of their size, and a masked row takes other sums than one alone.
    assert (logits_BV - expected_BV).norm() / expected_BV.norm() < 0.02
    assert not torch.equal(expected_BV.float(), Recomputation(model, "float32").begin(PROMPTS))


def full_experts(**capacity) -> SparseMoEConfig:
    return SparseMoEConfig(
        num_experts=4, router=TopKConfig(top_k=2), capacity=CapacityConfig(factor=1.0, eval_factor=0.5, **capacity) if capacity else None
    )


def test_a_capacity_is_left_off_while_generating():
    limited, free = gpt(full_experts(order="token")), gpt(full_experts())
    assert texts(limited, PROMPTS) == texts(free, PROMPTS)
    prompt_BS = torch.tensor(PROMPTS[:1])
    with torch.no_grad():
        assert not torch.allclose(limited(prompt_BS)[0], free(prompt_BS)[0], atol=1e-3), "the capacity dropped nothing"


def test_without_a_capacity_the_model_is_the_same_and_without_one_its_weights_are_shared():
    free, limited = gpt(full_experts()), gpt(full_experts(order="token"))
    assert without_capacity(free) is free and without_capacity(gpt(MLPConfig())).config.ffn.kind == "mlp"
    rerouted = without_capacity(limited)
    assert rerouted.config.ffn.capacity is None and limited.config.ffn.capacity is not None
    shared = zip(rerouted.parameters(), limited.parameters(), strict=True)
    assert all(ours.data_ptr() == theirs.data_ptr() for ours, theirs in shared)


def test_a_model_is_rerouted_in_the_mode_that_it_is_in():
    model = gpt(full_experts())
    top_1 = SparseMoEConfig(num_experts=4, d_expert=model.config.ffn.d_expert, router=TopKConfig(top_k=1), d_shared_expert=64)
    for training in (True, False):
        assert with_feed_forward(model.train(training), top_1).training == training
    _, records = with_feed_forward(model, top_1)(ids())
    assert {len(record.routing.token_ids_A) for record in records} == {ids().numel()}


LEAKS = {
    "soft": SoftMoEConfig(num_experts=4),
    "expert_choice": SparseMoEConfig(num_experts=4, router=ExpertChoiceConfig(pool="sequence")),
    "priority": full_experts(order="priority", group="batch"),
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_model_that_sees_its_future_is_run_again_on_each_whole_prefix_alone(name):
    model = gpt(LEAKS[name])
    assert texts(model, PROMPTS, leaks_future=True) == [recomputed(model, torch.tensor([prompt])).tolist()[0] for prompt in PROMPTS]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_computes_in_evaluation_mode_and_keeps_its_own(training):
    model = gpt(FFNS["noisy_topk"])
    expected = texts(model, PROMPTS)
    steps = generate(model.train(training), PROMPTS, max_tokens=MAX_TOKENS, sampling=GREEDY, seed=0)
    first = next(steps)
    assert model.training == training
    assert torch.stack([first, *steps], dim=1).tolist() == expected
    assert model.training == training


def test_nothing_but_the_seed_decides_the_draws():
    model, sampling = gpt(FFNS["topk"]), Sampling(temperature=1.0)
    torch.manual_seed(1)
    first = texts(model, PROMPTS, sampling, seed=5)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert texts(model, PROMPTS, sampling, seed=5) == first
    assert texts(model, PROMPTS, sampling, seed=6) != first
    assert torch.equal(torch.get_rng_state(), state)


def test_the_same_prompt_twice_is_continued_in_two_ways():
    one, other = texts(gpt(FFNS["topk"]), [PROMPTS[0]] * 2, Sampling(temperature=1.0))
    assert one != other


def test_no_more_is_computed_than_is_asked_for():
    model, calls = gpt(MLPConfig()), []
    model.register_forward_hook(lambda module, args, output: calls.append(args[0].shape[1]))
    assert len(list(islice(generate(model, [[1, 2, 3]], max_tokens=9, sampling=GREEDY, seed=0), 2))) == 2
    assert calls == [3, 1]
    calls.clear()
    assert len(list(generate(model, [[1, 2, 3]], max_tokens=2, sampling=GREEDY, seed=0))) == 2
    assert calls == [3, 1]


def test_a_model_that_diverged_is_told():
    model = build_gpt(GPTConfig(d_model=8, num_layers=1, num_heads=2), VOCAB, seed=0)
    torch.nn.init.constant_(model.norm.weight, math.nan)
    with pytest.raises(RunError, match="no numbers"):
        texts(model, PROMPTS)


def by_hand(probs: list[float], **options) -> list[float]:
    """What is left of a distribution, at temperature 1 unless it is given."""
    return Sampling(**options).probabilities(torch.tensor([probs], dtype=torch.float64).log())[0].tolist()


def approx(*probs: float):
    return pytest.approx(list(probs), abs=1e-12)


def test_sampling_by_hand():
    probs = [0.1, 0.4, 0.2, 0.3]
    assert by_hand(probs) == approx(*probs)
    # Temperature 0.5 squares: 0.01, 0.16, 0.04, 0.09, in sum 0.30.
    assert by_hand(probs, temperature=0.5) == approx(1 / 30, 16 / 30, 4 / 30, 9 / 30)
    # The two most probable, 0.4 and 0.3, in sum 0.7.
    assert by_hand(probs, top_k=2) == approx(0, 4 / 7, 0, 3 / 7)
    assert by_hand(probs, top_k=1) == approx(0, 1, 0, 0)
    assert by_hand(probs, top_k=4) == by_hand(probs, top_k=9) == approx(*probs)
    # 0.4 does not reach 0.65, 0.4 + 0.3 does; 0.4 reaches 0.39 alone.
    assert by_hand(probs, top_p=0.65) == approx(0, 4 / 7, 0, 3 / 7)
    assert by_hand(probs, top_p=0.39) == approx(0, 1, 0, 0)
    assert by_hand(probs, top_p=1e-9) == approx(0, 1, 0, 0)
    # 0.4 + 0.3 + 0.2 = 0.9 does not reach 0.91.
    assert by_hand(probs, top_p=0.91) == by_hand(probs, top_p=1.0) == approx(*probs)
    # In order: of the three most probable, 4/9, 3/9 and 2/9, the first two reach 0.75. Without top-k 0.7 would not.
    assert by_hand(probs, top_k=3, top_p=0.75) == approx(0, 4 / 7, 0, 3 / 7)
    assert by_hand(probs, top_p=0.75) == approx(0, 4 / 9, 2 / 9, 3 / 9)
    # Temperature comes first: squared, 16/30 reaches 0.5 alone.
    assert by_hand(probs, temperature=0.5, top_p=0.5) == approx(0, 1, 0, 0)
    # Of equal tokens as many are left as are needed.
    assert sorted(by_hand([0.25] * 4, top_p=0.5)) == approx(0, 0, 0.5, 0.5)
    assert sorted(by_hand([0.25] * 4, top_k=3)) == approx(0, 1 / 3, 1 / 3, 1 / 3)


@given(
    logits=st.lists(st.integers(-60, 60), min_size=1, max_size=9),
    temperature=st.floats(5e-324, 1e6),
    top_k=st.none() | st.integers(1, 12),
    top_p=st.none() | st.floats(0, 1, exclude_min=True),
)
def test_it_is_a_distribution_over_the_most_probable_whatever_the_options(logits, temperature, top_k, top_p):
    logits_V = torch.tensor(logits, dtype=torch.float32)
    probs_V = Sampling(temperature, top_k, top_p).probabilities(logits_V[None])[0]
    assert probs_V.sum().item() == pytest.approx(1)
    kept_V = probs_V > 0
    assert (probs_V >= 0).all() and logits_V[kept_V].max() == logits_V.max()
    assert top_k is None or kept_V.sum() <= top_k
    if not kept_V.all():
        assert logits_V[kept_V].min() >= logits_V[~kept_V].max()


def test_frequencies_are_the_probabilities():
    logits_BV, draws = torch.tensor([[0.0, 1.0, -1.0, 2.0, 0.5]]), 20_000
    sampling = Sampling(temperature=0.9, top_k=4, top_p=0.95)
    drawn_N = sampling.next_ids(logits_BV.expand(draws, -1), Generator().manual_seed(0))
    probs_V = sampling.probabilities(logits_BV)[0]
    counts_V = drawn_N.bincount(minlength=5).double()
    assert ((probs_V > 0) == (counts_V > 0)).all() and (probs_V == 0).any()
    # A frequency is a normal number; five deviations are a probability of 6e-7.
    assert ((counts_V / draws - probs_V).abs() <= 5 * (probs_V * (1 - probs_V) / draws).sqrt()).all()


@pytest.mark.parametrize(
    "sampling", [GREEDY, Sampling(temperature=1e-12), Sampling(temperature=5e-324), Sampling(top_k=1), Sampling(top_p=1e-9)]
)
def test_greedy_and_its_limits_take_the_largest_logit(sampling):
    logits_BV = torch.randn(50, 7, generator=Generator().manual_seed(3))
    assert torch.equal(sampling.next_ids(logits_BV, Generator().manual_seed(0)), logits_BV.argmax(dim=-1))
