"""`moecli generate`: streams, headings, what a terminal sees, bad input, Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from moecli.cli import stage_progress
from moecli.model.generate import CachedDecoding


@pytest.fixture
def run(tiny_recipe, inside) -> str:
    code, _, errors = inside("train", "tiny.yaml", "--out", "run")
    assert code == 0, errors
    return "run"


def said(inside, *arguments: str) -> dict:
    """The same command as JSON."""
    code, out, errors = inside("generate", "run", *arguments, "--json")
    assert code == 0 and out.count("\n") == 1, errors
    return json.loads(out)


def test_a_pipe_gets_the_text_alone_and_the_rest_goes_to_stderr(run, inside):
    options = ("--prompt", "a cat", "--max-tokens", "12", "--seed", "4")
    content = said(inside, *options)
    code, out, errors = inside("generate", run, *options)
    assert code == 0
    printable = "".join(character if character.isprintable() or character in "\n\t" else "?" for character in content["text"][0])
    assert len(out) >= len(printable) + 1 and out.endswith("\n") and "a cat" not in out
    assert errors.startswith(f"{content['tokens']} tokens, ") and " tokens/s, ended by: length\n" in errors
    assert "note: trained on 16 tokens at a time" in errors


def test_control_characters_are_spelled_out_but_for_line_breaks_and_tabs():
    from moecli.cli.generate import _printable

    assert _printable("a\tb\n\x1b[31mred\x07\r\n\u202e") == "a\tb\n\\x1b[31mred\\x07\\r\n\\u202e"


def test_several_texts_stand_under_headings(run, inside):
    options = ("--prompt", "cat", "--prompt", "tree", "--num-samples", "2", "--max-tokens", "5", "--temperature", "0")
    content = said(inside, *options)
    assert content["prompts"] == ["cat", "cat", "tree", "tree"]
    assert content["text"][0] == content["text"][1] and len(content["text"]) == 4
    _, out, _ = inside("generate", run, *options)
    prompts = ("prompt 1: cat", "prompt 1: cat", "prompt 2: tree", "prompt 2: tree")
    headings = [f"--- {number} of 4, {prompt} ---" for number, prompt in enumerate(prompts, start=1)]
    assert [line for line in out.splitlines() if line.startswith("---")] == headings
    _, out, _ = inside("generate", run, "--num-samples", "2", "--max-tokens", "5")
    assert [line for line in out.splitlines() if line.startswith("---")] == ["--- 1 of 2 ---", "--- 2 of 2 ---"]


def test_a_heading_has_the_beginning_of_its_prompt_as_it_can_be_seen(run, inside):
    _, out, _ = inside("generate", run, "--prompt", "a\n\x1b[31m" + "b" * 50, "--prompt", "", "--max-tokens", "2")
    headings = [line for line in out.splitlines() if line.startswith("---")]
    # 40 characters: "a\n\x1b[31m" takes 11 as it is shown, the mark at the end 1.
    assert headings == ["--- 1 of 2, prompt 1: a\\n\\x1b[31m" + "b" * 28 + "… ---", "--- 2 of 2, prompt 2: (a new document) ---"]


@pytest.mark.parametrize("options", [("--num-samples", "2"), ("--json",)])
def test_what_grows_unseen_tells_how_far_it_is(run, inside, monkeypatch, options):
    monkeypatch.setattr(stage_progress, "SECONDS_BETWEEN_LINES", 0.0)
    code, _, errors = inside("generate", run, "--max-tokens", "5", "--temperature", "0", *options)
    lines = errors.splitlines()
    counted = "2 texts" if "2" in options else "1 text"
    assert code == 0 and lines[0] == f"writing {counted} of up to 5 tokens"
    assert [line.split(" tokens")[0] for line in lines[1:6]] == [f"{done} of 5" for done in (1, 2, 3, 4, 5)]
    monkeypatch.undo()
    assert " of 5 tokens" not in inside("generate", run, "--max-tokens", "5", *options)[2]


def test_the_options_reach_the_draws(run, inside):
    base = said(inside, "--max-tokens", "30")
    assert said(inside, "--max-tokens", "30")["text"] == base["text"]
    assert base["seed"] == 0 and base["tokens"] <= 30
    greedy = said(inside, "--max-tokens", "30", "--temperature", "0")["text"]
    for options in (("--top-k", "1"), ("--top-p", "1e-9"), ("--temperature", "1e-9")):
        assert said(inside, "--max-tokens", "30", *options)["text"] == greedy, options
    for options in (("--seed", "1"), ("--temperature", "2"), ("--top-k", "2"), ("--top-p", "0.3")):
        assert said(inside, "--max-tokens", "30", *options)["text"] != base["text"], options


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # what torch.compile itself does
def test_a_compiled_step_says_what_it_waits_for_and_how_long_that_was(run, inside, monkeypatch):
    options = ("--prompt", "a cat", "--max-tokens", "12", "--seed", "4")
    text = inside("generate", run, *options)[1]
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    code, out, errors = inside("generate", run, *options, "--compile")
    assert (code, out) == (0, text)
    assert re.match(
        r"compiling the step of one token\n\d+ tokens, [\d,.]+ tokens/s, after \d+\.\d s of compiling, ended by: length\n", errors
    )


def test_a_machine_without_compiler_is_exit_code_1(run, inside, monkeypatch):
    from torch._dynamo.exc import TorchDynamoException

    def fails(*arguments: object, **options: object) -> object:
        raise TorchDynamoException("no working C++ compiler")

    monkeypatch.setattr(torch, "compile", lambda *arguments, **options: fails)
    code, out, errors = inside("generate", run, "--compile")
    assert (code, out) == (1, "") and "--compile: torch.compile fails here: no working C++ compiler" in errors


def test_a_stop_text_reaches_the_end(run, inside):
    text = said(inside, "--max-tokens", "30", "--seed", "2")["text"][0]
    stop = text[5]
    stopped = said(inside, "--max-tokens", "30", "--seed", "2", "--stop", "never there", "--stop", stop)
    assert stopped["text"] == [text[: text.index(stop)]] and stopped["finish"] == ["stop"]


def test_a_prompt_comes_from_a_file_or_from_stdin(run, inside):
    Path("prompt.txt").write_text("Line 3\n", encoding="utf-8")
    options = ("--max-tokens", "8")
    expected = said(inside, "--prompt", "Line 3\n", *options)
    from_file = said(inside, "--prompt-file", "prompt.txt", *options)
    assert (from_file["prompts"], from_file["text"]) == (["Line 3\n"], expected["text"])
    Path("marked.txt").write_text("\ufeffLine 3\n", encoding="utf-8")
    assert said(inside, "--prompt-file", "marked.txt", *options)["prompts"] == ["Line 3\n"]
    command = [sys.executable, "-m", "moecli", "generate", run, "--prompt-file", "-", *options, "--json"]
    done = subprocess.run(command, input=b"Line 3\n", capture_output=True, timeout=120, check=False)
    assert json.loads(done.stdout)["text"] == expected["text"], done.stderr


BAD_INPUT = {
    "too many tokens": (["run", "--max-tokens", "1000001"], "--max-tokens"),
    "too many samples": (["run", "--num-samples", "1001"], "--num-samples"),
    "no such run": (["nowhere"], "nowhere: there is no such folder"),
    "no run": (["."], "neither a run folder nor a checkpoint"),
    "no tokens": (["run", "--max-tokens", "0"], "--max-tokens"),
    "negative temperature": (["run", "--temperature", "-0.1"], "-0.1 is not a finite number of 0 or more."),
    "no temperature": (["run", "--temperature", "nan"], "nan is not a finite number of 0 or more."),
    "top_p of 0": (["run", "--top-p", "0"], "0.0 is not above 0 and at most 1."),
    "top_p over 1": (["run", "--top-p", "1.01"], "1.01 is not above 0 and at most 1."),
    "top_k of 0": (["run", "--top-k", "0"], "--top-k"),
    "no samples": (["run", "--num-samples", "0"], "--num-samples"),
    "negative seed": (["run", "--seed", "-1"], "--seed"),
    "empty stop text": (["run", "--stop", ""], "an empty text would stop everything at once."),
    "two kinds of prompt": (["run", "--prompt", "a", "--prompt-file", "b"], "not both"),
    "no such file": (["run", "--prompt-file", "gone.txt"], "gone.txt: can't be read: No such file or directory"),
    "a folder": (["run", "--prompt-file", "."], ".: can't be read: Is a directory"),
    "not UTF-8": (["run", "--prompt-file", "latin.txt"], "latin.txt: not UTF-8: byte 0xe9 at position 3"),
    "half a character": (["run", "--prompt", "caf\udce9"], "--prompt: not UTF-8"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_one_message_and_exit_code_2(run, inside, name):
    Path("latin.txt").write_bytes(b"caf\xe9")
    arguments, message = BAD_INPUT[name]
    code, out, errors = inside("generate", *arguments)
    assert (code, out) == (2, ""), errors
    assert message in errors
    assert "next:" in errors or "Try" in errors


def test_too_long_for_memory_is_exit_code_1(run, inside):
    # Keys and values: 256 bytes a position, 100,000 texts of a million: 25.6 TB.
    prompts = ["--prompt", "a"] * 100
    code, _, errors = inside("generate", run, *prompts, "--max-tokens", "1000000", "--num-samples", "1000")
    assert code == 1 and "lower --max-tokens" in errors


def test_masked_lm_has_no_text_to_go_on_with(tiny_recipe, inside):
    inside("train", "tiny.yaml", "--out", "run", "--set", "objective=masked-lm")
    code, out, errors = inside("generate", "run")
    assert (code, out) == (2, "") and "trained on masked-lm" in errors


def test_ctrl_c_ends_the_text_and_its_line(run):
    # The most probable token of a model that has hardly learned is never the end of a text.
    endless = ["--max-tokens", "100000", "--temperature", "0"]
    process = subprocess.Popen([sys.executable, "-m", "moecli", "generate", run, *endless], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    first = process.stdout.read(5)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert (first + rest).endswith(b"\n") and b"ended by: interrupted\n" in errors
    assert b"error" not in errors


@pytest.mark.parametrize("as_json", [True, False])
def test_ctrl_c_shows_what_there_is_of_several_texts(run, inside, monkeypatch, as_json):
    steps = []

    def step(self, ids_B):
        steps.append(1)
        if len(steps) == 3:
            signal.raise_signal(signal.SIGINT)
        return original(self, ids_B)

    original = CachedDecoding.step
    monkeypatch.setattr(CachedDecoding, "step", step)
    # The most probable token of a model that has hardly learned is never the end of a text.
    options = ("--num-samples", "2", "--max-tokens", "100000", "--temperature", "0")
    code, out, errors = inside("generate", run, *options, *["--json"] * as_json)
    assert code == 130 and "error" not in errors, errors
    if as_json:
        content = json.loads(out)
        assert out.count("\n") == 1
        # One token out of the pass over the prompt, and three steps.
        assert (content["finish"], content["tokens"], len(content["text"])) == (["interrupted"] * 2, 2 * 4, 2)
    else:
        assert "--- 2 of 2 ---" in out and "8 tokens, " in errors and "ended by: interrupted" in errors


def test_a_pipe_that_takes_ascii_alone_gets_characters_spelled_out(run):
    prompts = ["--prompt", "é€", "--prompt", "a", "--max-tokens", "2"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "moecli", "generate", run, *prompts]
    done = subprocess.run(command, capture_output=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0 and b"bug" not in done.stderr, done.stderr
    assert b"--- 1 of 2, prompt 1: \\xe9\\u20ac ---" in done.stdout


def test_ctrl_c_with_json_is_one_object(run, inside, monkeypatch):
    def interrupted(self, ids_B):
        raise KeyboardInterrupt

    monkeypatch.setattr(CachedDecoding, "step", interrupted)
    code, out, errors = inside("generate", run, "--json")
    assert (code, json.loads(out)) == (130, {"error": "interrupted"}) and errors.endswith("error: interrupted\n")


def test_a_terminal_sees_the_prompt_dim_and_the_text_behind_it(run):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "moecli", "generate", run, "--prompt", "a cat", "--max-tokens", "3", "--temperature", "0"]
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")} | {"TERM": "xterm"}
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, env=environment, timeout=120, check=False)
    seen = os.read(ours, 4096).decode()
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 0, done.stderr
    assert seen.startswith("\x1b[2ma cat\x1b[0m") and seen.endswith("\r\n")
