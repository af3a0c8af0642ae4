"""Text of a trained run: the ids that the model says, decoded, ended and told about."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from moecli.data.tokenizer import END_OF_TEXT, Tokenizer
from moecli.errors import DataError, MachineError, RunError
from moecli.model.checkpoint import load_model, save_model
from moecli.model.generate import Sampling, generate
from moecli.recipe.load import load_recipe
from moecli.workflows import generate as generate_file
from moecli.workflows.events import Event, Progress, Stage
from moecli.workflows.generate import GenerateRequest, Prompt, generate_text
from moecli.workflows.generate_notes import ALONE, EVERY_PASS, MIXES_TEXTS, NO_CAPACITY, generate_notes
from moecli.workflows.train import train

GREEDY = Sampling(temperature=0)
RUN = Path("run")


@pytest.fixture
def trained(tiny_recipe):
    """Trains the tiny recipe with these overrides into "run", and returns its folder."""

    def run(*overrides: str) -> Path:
        train(load_recipe("tiny.yaml", list(overrides)).recipe, out=RUN, listener=quiet, should_stop=lambda: False)
        return RUN

    return run


def quiet(event: Event) -> None:
    pass


def nowhere(index: int, piece: str) -> None:
    pass


def written(tokenizer: Tokenizer, ids: list[int]) -> str:
    """What these tokens write, half a character at the end as U+FFFD."""
    decoder = tokenizer.piece_decoder()
    return "".join([*map(decoder.push, ids), decoder.rest()])


def speak(run: Path, text: str, *, then_end: bool = True) -> None:
    """Makes the run's model say this text of single-byte characters, each once, whatever came before it but for the last character."""
    checkpoint = (run / "checkpoints/latest").resolve()
    model = load_model(checkpoint)
    assert len(set(text)) == len(text)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.zeros_(parameter)
        # Blocks of zeros add nothing: the logits are those of the token alone, whose embedding is a one-hot of its place in the text.
        chain = [256, *text.encode(), *([256] if then_end else [])]
        for place, (number, following) in enumerate(pairwise(chain)):
            model.embedding.weight[number, place] = 1
            model.lm_head.weight[following, place] = 1
    save_model(model, checkpoint)


def test_the_text_is_what_the_model_says_token_for_token(trained):
    run = trained()
    model, tokenizer = load_model(run / "checkpoints/latest"), Tokenizer.load(run / "tokenizer.json")
    sampling = Sampling(temperature=1.0, top_k=50)
    prompts = [Prompt("Line "), Prompt("a cat")]
    result = generate_text(run, GenerateRequest(prompts, 2, 30, sampling, seed=3), nowhere)
    ids = [tokenizer.encode(prompt) for prompt in ("Line ", "Line ", "a cat", "a cat")]
    steps = list(generate(model, ids, max_tokens=30, sampling=sampling, seed=3))
    expected = []
    for row in torch.stack(steps, dim=1).tolist():
        row = row[: row.index(256)] if 256 in row else row
        expected.append(written(tokenizer, row))
    assert result.texts == expected
    assert result.prompts == ["Line ", "Line ", "a cat", "a cat"]
    assert len(set(result.texts)) == 4


def test_without_a_prompt_a_document_begins_and_the_end_of_text_ends_it(trained):
    run = trained()
    speak(run, "Hi, you!")
    grown = []
    result = generate_text(run, GenerateRequest(sampling=GREEDY), lambda index, piece: grown.append((index, piece)))
    assert result.texts == ["Hi, you!"] and result.finishes == ["end-of-text"]
    # Eight characters of a byte each, and the end.
    assert result.tokens == 9
    assert "".join(piece for _, piece in grown) == "Hi, you!" and {index for index, _ in grown} == {0}
    assert END_OF_TEXT not in result.texts[0]


def test_a_stop_text_is_cut_off_and_never_shown(trained):
    run = trained()
    speak(run, "Hi, you!")
    grown = []
    result = generate_text(run, GenerateRequest(sampling=GREEDY, stop=("yo", "zz")), lambda index, piece: grown.append(piece))
    assert (result.texts, result.finishes, result.tokens) == (["Hi, "], ["stop"], 6)
    assert "".join(grown) == "Hi, "


def test_what_was_held_back_for_a_stop_text_comes_at_the_end(trained):
    run = trained()
    speak(run, "Hi, you!")
    ended = generate_text(run, GenerateRequest(sampling=GREEDY, stop=("!!",)), nowhere)
    assert (ended.texts, ended.finishes) == (["Hi, you!"], ["end-of-text"])
    grown = []
    short = generate_text(run, GenerateRequest(max_tokens=5, sampling=GREEDY, stop=("you?",)), lambda index, piece: grown.append(piece))
    assert (short.texts, short.finishes, short.tokens) == (["Hi, y"], ["length"], 5)
    assert grown[-2:] == ["", "y"]


def test_each_text_ends_by_itself(trained):
    run = trained()
    speak(run, "Hi, you!")
    prompts = [Prompt("o"), Prompt(""), Prompt("Hi")]
    result = generate_text(run, GenerateRequest(prompts, 1, 6, GREEDY, stop=(" ",)), nowhere)
    assert result.texts == ["u!", "Hi,", ","]
    assert result.finishes == ["end-of-text", "stop", "stop"]
    assert result.tokens == 3 + 4 + 2


def test_a_character_that_is_not_whole_at_the_end_is_shown_as_such(trained):
    run = trained()
    checkpoint = (run / "checkpoints/latest").resolve()
    speak(run, "a", then_end=False)
    model = load_model(checkpoint)
    with torch.no_grad():
        # After "a" comes the first byte of "€", and then its second.
        for place, (number, following) in enumerate([(ord("a"), 0xE2), (0xE2, 0x82)], start=5):
            model.embedding.weight[number] = 0
            model.embedding.weight[number, place] = 1
            model.lm_head.weight[following, place] = 1
    save_model(model, checkpoint)
    grown = []
    result = generate_text(run, GenerateRequest(max_tokens=3, sampling=GREEDY), lambda index, piece: grown.append(piece))
    assert (result.texts, result.tokens) == (["a\ufffd"], 3)
    assert grown == ["a", "", "", "\ufffd"]


def test_a_text_that_is_stopped_ends_where_it_is(trained):
    run = trained()
    speak(run, "Hi, you!")
    grown, events = [], []
    result = generate_text(
        run,
        GenerateRequest([Prompt(""), Prompt("u")], max_tokens=50, sampling=GREEDY, stop=(", ?",)),
        lambda index, piece: grown.append((index, piece)),
        events.append,
        should_stop=lambda: len(grown) >= 6,
    )
    # Four steps: "Hi, " and "!", whose end of text the second step brings; what was held back for the stop text comes too.
    assert (result.texts, result.finishes, result.tokens) == (["Hi, ", "!"], ["interrupted", "end-of-text"], 4 + 2)
    assert result.is_interrupted and grown[-1] == (0, ", ")
    unit = "tokens of the longest text"
    assert events == [Stage("writing 2 texts of up to 50 tokens"), *(Progress(done, 50, unit) for done in (1, 2, 3, 4))]


def test_the_rate_is_of_the_tokens_after_the_pass_over_the_prompt(trained, monkeypatch):
    run = trained()
    # Begun at 10, the first tokens there at 14, the end at 16.
    clock = iter([10.0, 14.0, 16.0])
    monkeypatch.setattr(generate_file, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    result = generate_text(run, GenerateRequest([Prompt("x")], 2, 4, seed=9), nowhere)
    # 2 texts of 4 tokens, the first of each out of the pass over the prompt: 6 in 2 seconds.
    assert result.tokens == 8
    content = result.to_json()
    assert (content["tokens_per_s"], content["prompt_seconds"]) == (3.0, 4.0)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # what torch.compile itself does
def test_a_compiled_step_writes_the_same_text_and_its_seconds_are_its_own(trained, monkeypatch):
    run, events = trained(), []
    request = GenerateRequest([Prompt("x"), Prompt("cat")], 2, 9, seed=9)
    expected = generate_text(run, request, nowhere)
    assert expected.to_json()["compile_seconds"] is None
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    # Compiling from 1 to 8; begun at 10, the first tokens there at 14, the end at 16.
    clock = iter([1.0, 8.0, 10.0, 14.0, 16.0])
    monkeypatch.setattr(generate_file, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    result = generate_text(run, replace(request, compiles=True), nowhere, events.append)
    assert result.texts == expected.texts
    content = result.to_json()
    assert (content["compile_seconds"], content["prompt_seconds"]) == (7.0, 4.0)
    assert content["tokens_per_s"] == (result.tokens - 4) / 2.0
    assert events[:2] == [Stage("compiling the step of one token"), Stage("writing 4 texts of up to 9 tokens")]


def test_a_model_that_sees_its_future_has_no_step_to_compile(trained):
    run = trained(EXPERT_CHOICE + "}", LEAK)
    with pytest.raises(RunError, match=r"sees its future.* no step of one size to compile\n.*next: leave --compile out"):
        generate_text(run, GenerateRequest(compiles=True), nowhere)


def test_one_token_has_no_rate(trained):
    content = generate_text(trained(), GenerateRequest([Prompt("x")], 2, 1), nowhere).to_json()
    assert (content["tokens"], content["tokens_per_s"]) == (2, None)


def test_a_prompt_is_encoded_once_for_all_its_texts(trained, monkeypatch):
    run, encoded, encode = trained(), [], Tokenizer.encode
    monkeypatch.setattr(Tokenizer, "encode", lambda self, text: encoded.append(text) or encode(self, text))
    result = generate_text(run, GenerateRequest([Prompt("x"), Prompt("y"), Prompt("x")], 3, 2), nowhere)
    assert encoded == ["x", "y"]
    assert result.prompts == ["x"] * 3 + ["y"] * 3 + ["x"] * 3


def test_json(trained):
    run = trained()
    content = generate_text(run, GenerateRequest([Prompt("x")], 2, 4, seed=9), nowhere).to_json()
    assert json.loads(json.dumps(content)) == content
    assert content.keys() == {
        "checkpoint", "prompts", "text", "finish", "tokens", "tokens_per_s", "prompt_seconds", "compile_seconds", "seed", "notes",
        "objective", "leaks_future", "mixes_rows",
    }  # fmt: skip
    assert (content["prompts"], content["seed"], content["notes"]) == (["x", "x"], 9, [])
    assert content["tokens_per_s"] > 0 and content["tokens"] == 8


CAPACITY = "model.ffn.capacity={factor: 1.0, eval_factor: 1.0"
EXPERT_CHOICE = "model.ffn.router={kind: expert_choice, experts_per_token: 2"
LEAK = "allow_future_leak=true"


@pytest.mark.parametrize(
    ("overrides", "num_texts", "longest", "begins"),
    [
        ([], 1, 16, []),
        ([], 1, 17, ["trained on 16 tokens at a time"]),
        ([CAPACITY + "}"], 1, 9, [NO_CAPACITY]),
        (["model.ffn.capacity={factor: 1.0, eval_factor: null}"], 1, 9, []),
        ([CAPACITY + ", group: batch}"], 2, 9, [NO_CAPACITY]),  # without the capacity no text is in another's way
        ([CAPACITY + ", order: priority, group: batch}", LEAK], 2, 9, ["this model sees its future", ALONE]),
        ([EXPERT_CHOICE + "}", LEAK], 1, 9, ["this model sees its future"]),
        ([EXPERT_CHOICE + ", pool: batch}"], 2, 9, [MIXES_TEXTS]),
        ([EXPERT_CHOICE + ", pool: batch}"], 1, 9, [ALONE]),
    ],
)
def test_notes(tiny_recipe, overrides, num_texts, longest, begins):
    notes = generate_notes(load_recipe("tiny.yaml", overrides).recipe, num_texts, longest)
    assert len(notes) == len(begins)
    assert all(note.startswith(begin) for note, begin in zip(notes, begins, strict=True))


def test_a_run_that_sees_its_future_is_generated_from_by_whole_prefixes(trained):
    run = trained(EXPERT_CHOICE + "}", LEAK)
    result = generate_text(run, GenerateRequest([Prompt("Line 7")], 1, 12, GREEDY), nowhere)
    assert EVERY_PASS in result.notes[0]
    model, ids = load_model(run / "checkpoints/latest"), list(b"Line 7")
    with torch.no_grad():
        while len(ids) < len("Line 7") + result.tokens:
            ids.append(int(model(torch.tensor([ids]))[0][0, -1].argmax()))
    assert result.texts == [written(Tokenizer.load(run / "tokenizer.json"), ids[6:])]


def test_what_cannot_be_generated_from_is_told(trained):
    with pytest.raises(RunError, match="there is no such folder"):
        generate_text(Path("nowhere"), GenerateRequest(), nowhere)
    run = trained("objective=masked-lm")
    with pytest.raises(RunError, match="trained on masked-lm"):
        generate_text(run, GenerateRequest(), nowhere)


def test_a_damaged_run_is_told(trained):
    run = trained()
    (run / "checkpoints/latest/model.safetensors").write_bytes(b"no")
    with pytest.raises(RunError, match="damaged"):
        generate_text(run, GenerateRequest(), nowhere)


def test_more_positions_than_memory_are_refused_before_anything_is_written(trained):
    run = trained()
    # Keys and values: 2 x 2 layers x 16 numbers of 4 bytes = 256 bytes a position, so 2.56e17 bytes.
    with pytest.raises(MachineError, match=r"1 x 1,000,000,000,000,001 tokens, prompts included, needs about 256,000,000\.0 GB"):
        generate_text(run, GenerateRequest(max_tokens=10**15), nowhere)
    with pytest.raises(MachineError, match=r"2,000,000,000,000 x 201 tokens"):
        generate_text(run, GenerateRequest([Prompt(""), Prompt("x")], num_samples=10**12), nowhere)


def test_what_cannot_be_cached_needs_memory_too(trained):
    run = trained(EXPERT_CHOICE + "}", LEAK)
    # 10^12 texts with 257 logits, four times 8 bytes each: 8,224 TB.
    with pytest.raises(MachineError, match=r"needs about 8,224,000\.0 GB"):
        generate_text(run, GenerateRequest(num_samples=10**12), nowhere)


def test_prompts_that_the_tokenizer_cannot_take_are_told(trained):
    run = trained("data.tokenizer={kind: char}")
    with pytest.raises(DataError, match="--prompt: the run's tokenizer has no token for 'é', '€'\n"):
        generate_text(run, GenerateRequest([Prompt("cat é€é")]), nowhere)
    with pytest.raises(DataError, match=r"own\.txt: not UTF-8"):
        generate_text(run, GenerateRequest([Prompt("cat \udce9", "own.txt")]), nowhere)
    assert generate_text(run, GenerateRequest([Prompt("cat")], max_tokens=2), nowhere).tokens <= 2
