"""`moecli train` in several processes: the training of one process, told by one voice, and ended by all together."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moecli.cli import app, launcher
from moecli.errors import RecipeError
from moecli.training.metric_log import read_metrics
from moecli.workflows.eval import evaluate_run
from tests.workflows.test_train import train_tiny

TIMEOUT_S = 120
ENDLESS = ("--set", "training.steps=100000", "--set", "training.checkpoint_every=20", "--set", "evaluation.every=0")


def started(
    arguments: list[str], of_second: tuple[str, ...] = (), *, port: int | None = None, program: tuple[str, ...] = ("-m", "moecli")
) -> list[subprocess.Popen]:
    """Two processes as torchrun starts them, but without its watch over them; `of_second` are further arguments of the second."""
    if port is None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [sys.executable, *program, *arguments, *(of_second if rank else ())],
            env=os.environ | world | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def ended(processes: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each."""
    told = [process.communicate(timeout=TIMEOUT_S) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, told, strict=True)]


def test_torchrun_trains_what_one_process_trains(tiny_recipe):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "moecli", "train"]
    options = ["--out", "two", "--json", "--set", "parallel.expert=2", "--set", "parallel.data=shard"]
    done = subprocess.run([*command, str(tiny_recipe), *options], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)  # one object: the second process is silent
    alone = train_tiny(tiny_recipe, "one")
    ours, expected = (read_metrics(Path(run) / "metrics.jsonl") for run in ("two", "one"))
    assert [line["step"] for line in ours] == [line["step"] for line in expected]
    for line, expected_line in zip(ours, expected, strict=True):
        of_processes = {"processes", "communication_bytes", "communication_share", "process_max_violation"} if "loss" in line else set()
        assert line.keys() == expected_line.keys() | of_processes
        for name in line.keys() & {"loss", "balance_loss", "z_loss", "grad_norm", "val_loss"}:
            assert line[name] == pytest.approx(expected_line[name], abs=1e-5), f"{name} of step {line['step']}"
        for name in line.keys() & {"tokens", "val_tokens", "learning_rate", "load_cv", "dropped_fraction", "dead_experts"}:
            assert line[name] == expected_line[name], f"{name} of step {line['step']}"
    watched = [line for line in ours if "processes" in line]
    for key in ("communication_bytes", "communication_share", "process_max_violation"):
        assert result["communication"][key] == pytest.approx(sum(line[key] for line in watched) / len(watched))
    assert alone.communication is None
    layers = [counted_load(layer) for layer in json.loads(Path("two/routing/load.json").read_text())["layers"]]
    assert layers == [counted_load(layer) for layer in alone.load.to_json()["layers"]]
    assert {path.name for path in Path("two").iterdir()} == {path.name for path in Path("one").iterdir()}
    assert evaluate_run(Path("two")).evaluation.loss == pytest.approx(result["val_loss"], abs=1e-6)
    train_tiny(tiny_recipe, "two", ("training.steps=8",), resume=True)
    train_tiny(tiny_recipe, "one", ("training.steps=8",), resume=True)
    goes_on, expected_on = (read_metrics(Path(run) / "metrics.jsonl")[-1]["val_loss"] for run in ("two", "one"))
    assert goes_on == pytest.approx(expected_on, abs=1e-5)


def counted_load(layer: dict) -> dict:
    """What is counted, not summed: exactly equal."""
    counted = ("load", "cv_load", "max_violation", "max_violation_batch", "top_k", "dropped_fraction", "dropped_by_position")
    return {name: layer[name] for name in counted}


def test_processes_with_other_recipes_are_told_once_what_differs(tiny_recipe):
    processes = started(["train", str(tiny_recipe), "--out", "run"], ("--set", "training.learning_rate=0.5", "--set", "parallel.expert=2"))
    (code, said, error), (other_code, *other_words) = ended(processes)
    assert (code, other_code) == (2, 2)
    assert error.splitlines() == [
        "error: the processes don't train the same:",
        "  parallel.expert: 1 on process 0, 2 on process 1",
        "  training.learning_rate: 0.001 on process 0, 0.5 on process 1",
        "  next: give every process the same command, recipe, text and versions",
    ]
    assert said == "" and other_words == ["", ""]
    assert not Path("run").exists()


def test_experts_of_several_processes_in_one(tiny_recipe):
    with pytest.raises(RecipeError, match=r"parallel\.expert is 4, and there is 1 process") as caught:
        train_tiny(tiny_recipe, "run", ("parallel.expert=4",))
    assert "torchrun --nproc-per-node 4 -m moecli train RECIPE, or --set parallel.expert=1" in str(caught.value)
    assert not Path("run").exists()


@pytest.mark.parametrize("arguments", [["eval", "run"], ["recipes", "list"], ["train", "quickstart", "--dry-run"]])
@pytest.mark.parametrize("rank", ["0", "1"])
def test_other_commands_are_for_one_process(arguments, rank, monkeypatch, capsys):
    monkeypatch.setattr(launcher, "SECONDS_TO_SPEAK", 0.0)
    for name, value in {"WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank}.items():
        monkeypatch.setenv(name, value)
    assert app.run(arguments, debug=False) == 2
    said, error = capsys.readouterr()
    assert said == ""
    assert ("runs in one process, and the launcher has started 2" in error) if rank == "0" else error == ""


@pytest.mark.parametrize("launched", [{"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}, {"WORLD_SIZE": "2"}])
def test_a_launcher_of_one_process_changes_nothing(launched, monkeypatch, capsys):
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    assert app.run(["recipes", "list"], debug=False) == 0
    assert "quickstart" in capsys.readouterr().out


def wait_for(path: Path) -> None:
    until = time.monotonic() + TIMEOUT_S
    while not path.exists():
        assert time.monotonic() < until, f"there is no {path}"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "expected_code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_to_one_process_makes_all_save_and_stop(tiny_recipe, number, expected_code):
    processes = started(["train", str(tiny_recipe), "--out", "run", *ENDLESS])
    wait_for(Path("run/checkpoints/step-20"))
    processes[1].send_signal(number)
    (code, _, error), (other_code, *other_words) = ended(processes)
    assert (code, other_code) == (expected_code, expected_code)
    assert "the checkpoint is saved" in error and other_words == ["", ""]
    last_step = read_metrics(Path("run/metrics.jsonl"))[-1]["step"]
    assert Path("run/checkpoints/latest").resolve().name == f"step-{last_step}"


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_other_with_a_word(tiny_recipe, killed):
    processes = started(["train", str(tiny_recipe), "--out", "run", *ENDLESS])
    wait_for(Path("run/checkpoints/step-20"))
    processes[killed].kill()
    code, _, error = ended(processes)[1 - killed]
    assert code == 1
    assert error.startswith("error: another process has ended or does not answer") and len(error.splitlines()) == 2
    assert not list(Path("run/checkpoints").glob(".*"))
    steps = int(Path("run/checkpoints/latest").resolve().name.removeprefix("step-")) + 5
    assert train_tiny(Path("run/recipe.yaml"), "run", (f"training.steps={steps}",), resume=True).steps == steps
