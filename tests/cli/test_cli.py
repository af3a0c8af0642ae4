"""The command line as a program: exit codes, streams, --json, Ctrl-C, and the speed of --help."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moecli.cli import console

CONTROL_CODES = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def moecli(*arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "moecli", *arguments], capture_output=True, text=True, timeout=timeout, check=False)


def test_help_does_not_import_torch_and_answers_at_once():
    code = "import sys; from moecli.cli import app; print({'torch', 'numpy', 'pydantic', 'yaml', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "set()\n", done.stderr
    started = time.perf_counter()
    done = moecli("--help")
    assert done.returncode == 0 and "train" in done.stdout
    # 0.7 s is the promise; importing torch alone takes longer than that.
    assert time.perf_counter() - started < 0.7 * 3, "three times the promise: the machine may be busy"


def test_version():
    import moecli as package

    assert moecli("--version").stdout.strip() == f"moecli {package.__version__}"


def test_train_and_eval_as_json_agree_to_the_last_bit_in_every_process(tiny_recipe):
    trained = moecli("train", "tiny.yaml", "--out", "run", "--json")
    assert trained.returncode == 0, trained.stderr
    result = json.loads(trained.stdout)
    assert trained.stdout.count("\n") == 1
    assert "final evaluation" in trained.stderr
    evaluations = [json.loads(moecli("eval", "run", "--json").stdout) for _ in range(2)]
    assert evaluations[0] == evaluations[1]
    assert evaluations[0]["loss"] == result["val_loss"]
    assert evaluations[0]["bits_per_byte"] == result["bits_per_byte"]


def test_without_a_terminal_there_are_plain_lines(tiny_recipe):
    done = moecli("train", "tiny.yaml", "--out", "run")
    assert done.returncode == 0, done.stderr
    assert not CONTROL_CODES.search(done.stdout)
    assert "Expert load over" in done.stdout and "layer   1" in done.stdout
    assert "wrote run/routing/heatmap.png" in done.stdout


def test_dry_run_counts_and_makes_nothing(tiny_recipe, inside):
    code, out, _ = inside("train", "tiny.yaml", "--dry-run", "--json", "--out", "run")
    assert code == 0
    content = json.loads(out)
    assert {"params_total", "params_active", "flops_per_token", "memory_bytes"} <= content.keys()
    assert content["memory_bytes"].keys() == {"weights", "gradients", "optimizer", "activations"}
    assert not Path("run").exists() and not Path("outputs").exists()


def test_ctrl_c_saves_and_resume_finishes_bit_for_bit(tiny_recipe):
    import torch

    from moecli.model.checkpoint import load_model

    longer = ["--set", "training.steps=200", "--set", "evaluation.every=0", "--set", "training.checkpoint_every=0"]
    assert moecli("train", "tiny.yaml", "--out", "undisturbed", *longer).returncode == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "moecli", "train", "tiny.yaml", "--out", "stopped", *longer],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not (Path("stopped/metrics.jsonl").exists() and Path("stopped/metrics.jsonl").read_text().count("\n") > 20):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "the checkpoint is saved" in errors and "Traceback" not in errors
    stopped_at = int(Path("stopped/checkpoints/latest").readlink().name.removeprefix("step-"))
    assert 20 < stopped_at < 200
    assert moecli("train", "tiny.yaml", "--out", "stopped", "--resume", *longer).returncode == 0
    expected = load_model(Path("undisturbed/checkpoints/latest")).state_dict()
    for name, tensor in load_model(Path("stopped/checkpoints/latest")).state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_ctrl_c_before_training_leaves_nothing(tiny_recipe):
    process = subprocess.Popen(
        [sys.executable, "-m", "moecli", "train", "quickstart", "--out", "run"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert "reading" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors and "interrupted" in errors
    assert not Path("run").exists()


NOT_UTF8 = b"caf\xe9 \xff\xfe" * 100
BAD_INPUT = {
    "no such recipe": (["train", "nowhere.yaml"], "nowhere.yaml"),
    "recipe is a folder": (["train", "."], "."),
    "invalid YAML": (["train", "broken.yaml"], "broken.yaml:1"),
    "unknown key": (["train", "tiny.yaml", "--set", "model.num_expert=3"], "model.num_expert"),
    "wrong type": (["train", "tiny.yaml", "--set", "model.d_model=wide"], "model.d_model"),
    "top_k over num_experts": (["train", "tiny.yaml", "--set", "model.ffn.router.top_k=9"], "model.ffn.router.top_k"),
    "heads don't divide": (["train", "tiny.yaml", "--set", "model.num_heads=3"], "model.num_heads"),
    "missing text": (["train", "tiny.yaml", "--set", "data.corpus.paths=[gone.txt]"], "gone.txt"),
    "empty text": (["train", "tiny.yaml", "--set", "data.corpus.paths=[empty.txt]"], "empty.txt"),
    "not UTF-8": (["train", "tiny.yaml", "--set", "data.corpus.paths=[latin.txt]"], "latin.txt"),
    "shorter than a batch": (["train", "tiny.yaml", "--set", "training.batch_size=4096"], "training.batch_size"),
    "vocabulary too large": (["train", "tiny.yaml", "--set", "data.tokenizer={kind: bpe, vocab_size: 9999}"], "data.tokenizer.vocab_size"),
    "existing out": (["train", "tiny.yaml", "--out", "existing"], "existing"),
    "out below a file": (["train", "tiny.yaml", "--out", "text.txt/run"], "text.txt"),
    "no such home": (["train", "tiny.yaml", "--set", "data.corpus.paths=['~nobody-of-this-name/a.txt']"], "~nobody-of-this-name"),
    "ragged csv": (["train", "tiny.yaml", "--set", "data.corpus.paths=[ragged.csv]"], "ragged.csv, line 3"),
    "csv with a name twice": (["train", "tiny.yaml", "--set", "data.corpus.paths=[twice.csv]"], "twice.csv"),
    "no character kept": (["train", "tiny.yaml", "--set", "data.tokenizer={kind: char, min_count: 999999}"], "data.tokenizer.min_count"),
    "copy into no folder": (["recipes", "copy", "quickstart", "gone/mine.yaml"], "gone"),
    "one of two recipes is broken": (["recipes", "validate", "broken.yaml", "tiny.yaml"], "broken.yaml:1"),
    "eval of nothing": (["eval", "nowhere"], "nowhere"),
    "eval of a folder": (["eval", "existing"], "existing"),
    "unknown command": (["trian"], "trian"),
    "unknown option": (["train", "tiny.yaml", "--otu", "x"], "--otu"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_one_message_with_the_place_and_exit_code_2(tiny_recipe, inside, name):
    Path("broken.yaml").write_text("model: {d_model: [")
    Path("empty.txt").write_text("")
    Path("latin.txt").write_bytes(NOT_UTF8)
    Path("existing").mkdir()
    Path("existing/mine.txt").write_text("")
    Path("ragged.csv").write_text("text\nHello\nGoodbye, cruel world\n")
    Path("twice.csv").write_text("text,text\na,b\n")
    before = sorted(Path().rglob("*"))
    arguments, place = BAD_INPUT[name]
    code, out, errors = inside(*arguments)
    assert code == 2, errors
    assert out in ("", "reading and tokenizing the text\n", "tiny.yaml: valid\n")
    assert place in errors
    assert "Traceback" not in errors and "bug in moecli" not in errors
    assert "next:" in errors or "Try" in errors
    assert sorted(Path().rglob("*")) == before


def test_errors_under_json_are_one_object_too(tiny_recipe, inside):
    code, out, _ = inside("eval", "nowhere", "--json")
    assert code == 2
    assert "nowhere" in json.loads(out)["error"]


def test_usage_errors_under_json_are_one_object_too(inside):
    code, out, errors = inside("train", "--json", "--bogus")
    assert code == 2
    assert "bogus" in json.loads(out)["error"] and "bogus" in errors


def test_what_is_no_number_is_null_in_json(capsys):
    console.print_json({"loss": float("nan"), "layers": [{"load": [float("inf"), 0.5]}]})
    assert json.loads(capsys.readouterr().out) == {"loss": None, "layers": [{"load": [None, 0.5]}]}


def test_debug_shows_the_traceback(tiny_recipe):
    done = moecli("eval", "nowhere", "--debug")
    assert "Traceback" in done.stderr and done.returncode != 0
    assert "Traceback" not in moecli("eval", "nowhere").stderr


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a place that takes no folders, whoever asks")
def test_a_place_that_cannot_be_written_is_exit_code_1(tiny_recipe, inside):
    code, _, errors = inside("train", "tiny.yaml", "--out", "/proc/moecli-run")
    assert code == 1
    assert "/proc/moecli-run: can't read or write here" in errors


def test_recipes(tiny_recipe, inside):
    assert "quickstart" in inside("recipes", "list")[1]
    assert "num_experts: 8" in inside("recipes", "show", "quickstart")[1]
    assert "beta2: 0.95" in inside("recipes", "show", "quickstart", "--resolved")[1]
    assert inside("recipes", "copy", "quickstart", "mine.yaml")[0] == 0
    assert inside("recipes", "copy", "quickstart", "mine.yaml")[0] == 2
    assert inside("recipes", "validate", "mine.yaml", "tiny.yaml") == (0, "mine.yaml: valid\ntiny.yaml: valid\n", "")
    assert inside("recipes", "validate", "mine.yaml", "--set", "seed=-1")[0] == 2


def test_a_run_that_sees_its_future_says_so_everywhere(tiny_recipe, inside):
    router = "model.ffn={kind: sparse, num_experts: 4, d_expert: 16, router: {kind: expert_choice}}"
    code, out, errors = inside("train", "tiny.yaml", "--out", "run", "--set", router, "--set", "allow_future_leak=true")
    assert code == 0, errors
    note = "note: this model sees its future: its loss may be out of reach when generating (allow_future_leak)\n"
    assert out.count(note) == 1
    assert inside("eval", "run")[1].count(note) == 1
    audited = inside("eval", "run", "--audit")[1]
    assert audited.count(note) == 1 and "sees future   yes" in audited and "as declared" in audited
    code, out, _ = inside("eval", "run", "--audit", "--json")
    assert (code, out.count("\n")) == (0, 1)
    content = json.loads(out)
    assert content["leaks_future"] is True and content["audit"]["leaks_future"] is True


def test_a_causal_run_has_no_notes(tiny_recipe, inside):
    assert "note:" not in inside("train", "tiny.yaml", "--out", "run")[1]
    assert "note:" not in inside("eval", "run", "--audit")[1]


def test_profile_shows_the_dearest_operations_and_leaves_no_run(tiny_recipe, inside):
    code, out, _ = inside("train", "tiny.yaml", "--profile", "--out", "seen")
    assert code == 0
    assert "backward" in out and "aten::" in out and "wrote seen/trace.json" in out
    assert sorted(path.name for path in Path("seen").iterdir()) == ["profile.md", "trace.json"]
    code, out, _ = inside("train", "tiny.yaml", "--profile", "--out", "again", "--json")
    assert code == 0
    assert json.loads(out)["folder"] == "again"


@pytest.mark.parametrize("other", ["--resume", "--dry-run"])
def test_profile_goes_alone(other, tiny_recipe, inside):
    code, _, err = inside("train", "tiny.yaml", "--profile", other, "--out", "seen")
    assert code == 2
    assert "can't go together" in err and "--profile" in err and other in err
    assert not Path("seen").exists()
