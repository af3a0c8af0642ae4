"""Generation is timed side by side: who takes a turn when, what is computed in the timed part, what a median is of."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from moecli.evaluation import decode_speed as decode_speed_file
from moecli.evaluation.decode_speed import DecodeRate, DecodeSubject, decode_speeds
from moecli.model.gpt import GPT
from tests.model.test_kv_cache import FFNS, gpt, ids


def watched(model: GPT, name: str, calls: list[tuple[str, int, int]]) -> GPT:
    """The model, which notes the (rows, positions) of every pass."""
    model.register_forward_hook(lambda module, args, output: calls.append((name, *args[0].shape)))
    return model


def test_the_subjects_take_turns_and_go_on_from_the_same_prompt_in_every_round():
    calls: list[tuple[str, int, int]] = []
    subjects = [DecodeSubject(watched(gpt(FFNS[name]), name, calls), ids(4, 9)) for name in ("topk", "mlp")]
    speeds = decode_speeds(subjects, prompt_tokens=5, new_tokens=3, batch_size=2, rounds=2)
    assert len(speeds) == 2 and all(0 < speed.low <= speed.median <= speed.high for speed in speeds)
    # One round to warm up and two that count: the prompt at once, then one token at a time.
    assert calls == 3 * [(name, 2, length) for name in ("topk", "mlp") for length in (5, 1, 1, 1)]


def test_where_nothing_can_be_cached_each_row_goes_through_whole():
    calls: list[tuple[str, int, int]] = []
    subject = DecodeSubject(watched(gpt(FFNS["topk"]), "leak", calls), ids(2, 5), leaks_future=True)
    decode_speeds([subject], prompt_tokens=5, new_tokens=2, batch_size=2, rounds=1)
    assert calls == 2 * [("leak", 1, length) for length in (5, 5, 6, 6, 7, 7)]


def test_it_is_tokens_of_the_whole_batch_over_the_median_round(monkeypatch):
    # Readings before and after each timed part: 9 s to warm up, then 1, 5 and 2 s.
    readings: Iterator[float] = iter([0, 9, 10, 11, 20, 25, 30, 32])
    monkeypatch.setattr(decode_speed_file.time, "perf_counter", lambda: next(readings))
    speeds = decode_speeds([DecodeSubject(gpt(FFNS["mlp"]), ids(3, 4))], prompt_tokens=4, new_tokens=6, batch_size=3, rounds=3)
    # 3 rows of 6 tokens in 2 s; in 5 s at the slowest, in 1 s at the fastest.
    assert speeds == [DecodeRate(9.0, 3.6, 18.0)]
    assert next(readings, None) is None


def test_quick_models_have_more_rounds_until_their_time_is_spent(monkeypatch):
    calls: list[str] = []
    # A round of the quick one takes 2 s, of the slow one 5 s; both have their one round to warm up.
    seconds = {"quick": 2.0, "slow": 5.0}
    monkeypatch.setattr(decode_speed_file, "_decode_seconds", lambda subject, prompt_BS, new_tokens: turn(subject, seconds, calls))
    subjects = [DecodeSubject(gpt(FFNS["mlp"]), ids(1, 4), leaks_future=name == "slow") for name in seconds]
    speeds = decode_speeds(subjects, prompt_tokens=4, new_tokens=10, batch_size=1, rounds=2, seconds=7.0)
    # After two rounds each: 4 s and 10 s. The slow one is done, the quick one goes on to 8 s.
    assert calls == ["quick", "slow", "quick", "slow", "quick", "slow", "quick", "quick"]
    assert [speed.median for speed in speeds] == [5.0, 2.0]


def turn(subject: DecodeSubject, seconds: dict[str, float], calls: list[str]) -> float:
    name = "slow" if subject.leaks_future else "quick"
    calls.append(name)
    return seconds[name]


def test_the_text_to_go_on_from_has_to_be_long_enough():
    with pytest.raises(AssertionError, match="too little text"):
        decode_speeds([DecodeSubject(gpt(FFNS["mlp"]), ids(3, 4))], prompt_tokens=5, new_tokens=1, batch_size=3, rounds=1)


def test_the_models_stay_as_they_are():
    model = gpt(FFNS["noisy_topk"]).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    decode_speeds([DecodeSubject(model, ids(1, 4))], prompt_tokens=4, new_tokens=2, batch_size=1, rounds=1)
    assert model.training and all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
