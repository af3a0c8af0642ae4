"""Compiled steps against steps as they stand: the same logits, for every kind and router that is causal. aot_eager captures the step as the
compiler does, whole and with what it writes, and then runs it without the seconds of making a program."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import Tensor

from moecli.errors import MachineError, RunError
from moecli.model import compiled_decoding
from moecli.model.compiled_decoding import CompiledDecoding, rounded_up
from moecli.model.generate import CachedDecoding
from moecli.model.gpt import GPT
from tests.model.test_kv_cache import ALONE, ATTENTIONS, FFNS, gpt

pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # what torch.compile itself does
PROMPTS = [[3, 1, 4, 1, 5], [9, 2], [6, 5, 3, 5, 8, 9, 7]]
ROOM = 7 + 4


@pytest.fixture(autouse=True)
def captured_alone(monkeypatch) -> Iterator[None]:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def logits_along(decoding: CachedDecoding, prompts: list[list[int]]) -> Tensor:
    """After the prompts, and after each of some tokens."""
    logits = [decoding.begin(prompts)]
    logits += [decoding.step(torch.tensor([number, 30 - number, 11])[: len(prompts)]) for number in range(4)]
    return torch.stack(logits)


def check(model: GPT, prompts: list[list[int]]) -> None:
    expected = logits_along(CachedDecoding(model, len(prompts), ROOM, "float32"), prompts)
    torch.testing.assert_close(logits_along(CompiledDecoding(model, len(prompts), ROOM, "float32"), prompts), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", FFNS)
def test_every_kind_and_router_gives_the_same_logits(name):
    """Prompts of different lengths, so with padding, where rows don't mix; with 6 assignments to 4 experts where tokens have 2."""
    check(gpt(FFNS[name]), PROMPTS if name in ALONE else [[1, 2, 3], [3, 4, 5], [7, 8, 9]])


@pytest.mark.parametrize("attention", ["one key head", "full norm"])
def test_kinds_of_attention_give_the_same_logits(attention):
    """With 4 assignments to 4 experts, which two texts may share."""
    check(gpt(FFNS["topk"], **ATTENTIONS[attention]), PROMPTS[:2])


def test_other_texts_begin_anew():
    decoding = CompiledDecoding(gpt(FFNS["random"]), 3, ROOM, "float32")
    first = logits_along(decoding, PROMPTS)
    other = logits_along(decoding, [[8], [7, 7, 7], [6]])
    assert not torch.equal(first, other)
    assert torch.equal(logits_along(decoding, PROMPTS), first)


def test_bfloat16_stays_bfloat16():
    model = gpt(FFNS["topk"], num_kv_heads=2, qk_norm="head")
    expected = logits_along(CachedDecoding(model, 3, ROOM, "bfloat16"), PROMPTS)
    decoding = CompiledDecoding(model, 3, ROOM, "bfloat16")
    ours = logits_along(decoding, PROMPTS)
    assert ours.dtype == expected.dtype == torch.bfloat16 and decoding._cache._keys.dtype == torch.bfloat16
    # bfloat16 keeps 8 bits: products round by up to 2^-8 of their size, in another order of sums.
    assert (ours - expected).norm() / expected.norm() < 0.02


def test_rooms_are_rounded_up():
    assert [rounded_up(room) for room in (1, 128, 129)] == [128, 128, 256]


def test_a_machine_that_cannot_compile_is_told(monkeypatch):
    from torch._dynamo.exc import TorchDynamoException

    def fails(step: object, **options: object) -> object:
        def call(ids_B1: Tensor) -> None:
            raise TorchDynamoException("backend='inductor' raised:\nno working C++ compiler\nand a long story")

        return call

    monkeypatch.setattr(compiled_decoding.torch, "compile", fails)
    with pytest.raises(MachineError, match=r"--compile: torch\.compile fails here: no working C\+\+ compiler\n.*next: install"):
        CompiledDecoding(gpt(FFNS["mlp"]), 1, 4, "float32")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "shared", "random"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what the compiler imports
def test_the_program_itself_gives_the_same_logits(name, monkeypatch):
    monkeypatch.undo()
    check(gpt(FFNS[name]), PROMPTS[:1])


def test_more_texts_than_it_is_for_are_refused():
    # 1,024 assignments at most, 2 of each text.
    with pytest.raises(RunError, match=r"513 texts at once: .*\n  allowed: 512 texts or fewer"):
        CompiledDecoding(gpt(FFNS["topk"]), 513, ROOM, "float32")
