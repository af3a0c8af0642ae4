"""Processes that can't train together, lose each other, or wait: what is said, by whom, and that all end."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moecli.cli import app
from moecli.recipe.load import load_recipe
from moecli.training.metric_log import read_metrics
from moecli.workflows.train import train
from tests.workflows.test_train import train_tiny
from tests.workflows.test_train_distributed import ENDLESS, TIMEOUT_S, ended, started, wait_for

# A program that changes something in the second process alone, or in the first, and then is moecli.
OTHER_VERSION = "import os, moecli; moecli.__version__ += '.1' * int(os.environ['RANK']); from moecli.cli.app import main; main()"
SLOW_TO_READ = """
import os, time
from moecli.workflows import distributed
prepare = distributed.prepare
def slow(config):
    if os.environ["RANK"] == "0":
        time.sleep(6)
    return prepare(config)
distributed.prepare = slow
from moecli.cli.app import main
main()
"""


# An error in the step of one process, of which the others know nothing.
NO_COMPILER = """
import os
from moecli.errors import MachineError
from moecli.training.trainer import Trainer
step = Trainer.step
def broken(self, number):
    if number == 2 and os.environ["RANK"] == "1":
        raise MachineError("no compiler here", next_step="install one")
    return step(self, number)
Trainer.step = broken
from moecli.cli.app import main
main()
"""


@pytest.fixture
def torchrun():
    """Starts `moecli train`; what still runs when the test ends is ended, with its processes."""
    running: list[subprocess.Popen] = []

    def start(*arguments: str, processes: int, restarts: int = 0) -> subprocess.Popen:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command += ["--max-restarts", str(restarts), "-m", "moecli", "train", *arguments]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return running[-1]

    yield start
    for process in running:
        if process.poll() is None:
            process.terminate()
            process.communicate()


def our_words(error: str) -> list[str]:
    """What stderr has of ours: the rest is torchrun's own."""
    lines = error.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("error:"))
    last = next(number for number, line in enumerate(lines) if number > first and line.startswith("  next:"))
    assert sum(line.startswith("error:") for line in lines) == 1, error
    return lines[first : last + 1]


def contents(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def launched_alone(monkeypatch):
    """This process as one of two; the other never comes."""

    def launch(rank: int, port: int) -> None:
        values = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)

    return launch


def told_alone(recipe: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = app.run(["train", str(recipe), "--out", "run", "--set", "parallel.timeout_s=1"], debug=False)
    said, error = capsys.readouterr()
    assert said == "" and not Path("run").exists()
    return code, error


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_does_not_come_is_told_in_time(tiny_recipe, launched_alone, capsys, rank):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launched_alone(rank, port)
    code, error = told_alone(tiny_recipe, capsys)
    assert code == 1
    assert error.startswith(f"error: 127.0.0.1:{port}: not all 2 processes met within 1 s: ")
    assert len(error.splitlines()) == 2 and error.splitlines()[1].startswith("  next: look whether each was started")


def test_a_port_that_something_else_has_is_named(tiny_recipe, launched_alone, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        launched_alone(0, port)
        code, error = told_alone(tiny_recipe, capsys)
    assert code == 1
    assert error == f"error: 127.0.0.1:{port}: the port is in use\n  next: give torchrun another --master-port, or --rdzv-endpoint\n"


def test_an_environment_that_makes_no_sense_is_refused(tiny_recipe, launched_alone, capsys, monkeypatch):
    """Each process would train for itself otherwise, into one folder."""
    launched_alone(0, 29500)
    monkeypatch.setenv("WORLD_SIZE", "two")
    code, error = told_alone(tiny_recipe, capsys)
    assert code == 2 and "  WORLD_SIZE is 'two'; allowed: 1 or more\n" in error


def test_processes_that_may_be_started_again_have_to_find_their_run(tiny_recipe, launched_alone, capsys, monkeypatch):
    """The newest run of the recipe's name may be another one."""
    launched_alone(0, 29500)
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "1")
    assert app.run(["train", str(tiny_recipe)], debug=False) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --max-restarts: torchrun may start the processes again") and "add --out" in error


def test_a_training_that_is_started_again_goes_on_or_begins(tiny_recipe):
    train_tiny(tiny_recipe, "run", ("training.steps=2",))
    recipe = load_recipe(tiny_recipe).recipe
    for out in ("run", "new"):
        result = train(recipe, out=Path(out), restarted=True, listener=lambda event: None)
        assert result.steps == len([line for line in read_metrics(Path(out) / "metrics.jsonl") if "loss" in line]) == 6


@pytest.mark.slow
def test_an_error_of_one_process_alone_is_told_by_it(tiny_recipe):
    processes = started(["train", str(tiny_recipe), "--out", "run"], program=("-c", NO_COMPILER))
    (code, _, error), (other_code, _, other_error) = ended(processes)
    assert (code, other_code) == (1, 1)
    assert error.startswith("error: another process has ended or does not answer")
    assert other_error == "error: no compiler here\n  next: install one\n"


@pytest.mark.slow
def test_a_port_that_never_answers_ends_all(tiny_recipe):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        processes = started(["train", str(tiny_recipe), "--out", "run", "--set", "parallel.timeout_s=2"], port=port)
        (code, said, error), (other_code, other_said, other_error) = ended(processes)
    assert (code, other_code) == (1, 1) and said == other_said == ""
    assert error.startswith(f"error: 127.0.0.1:{port}: the port is in use\n")
    assert f"error: 127.0.0.1:{port}: not all 2 processes met within 2 s: what listens there does not answer\n" in other_error
    assert "Traceback" not in error + other_error


def test_processes_of_other_versions_are_told_once(tiny_recipe):
    processes = started(["train", str(tiny_recipe), "--out", "run"], program=("-c", OTHER_VERSION))
    (code, said, error), (other_code, *other_words) = ended(processes)
    assert (code, other_code) == (2, 2)
    first, second, third = error.splitlines()
    assert first == "error: the processes don't train the same:"
    assert second.startswith("  moecli: '") and second.endswith(".1' on process 1")
    assert third == "  next: give every process the same command, recipe, text and versions"
    assert said == "" and other_words == ["", ""] and not Path("run").exists()


@pytest.mark.slow
def test_every_problem_of_a_recipe_that_one_process_cannot_read_is_told_once(tiny_recipe):
    processes = started(["train", str(tiny_recipe), "--out", "run", "--set", "training.steps=-1"], ("--set", "training.stepz=1"))
    (code, said, error), (other_code, *other_words) = ended(processes)
    assert (code, other_code) == (2, 2)
    assert "training.steps" in error and "Error" not in error and said == "" and other_words == ["", ""]


@pytest.mark.slow
def test_the_others_wait_for_a_first_process_that_reads_for_long(tiny_recipe):
    processes = started(["train", str(tiny_recipe), "--out", "run", "--set", "parallel.timeout_s=3"], program=("-c", SLOW_TO_READ))
    assert [code for code, *_ in ended(processes)] == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_before_the_first_step_ends_all(tiny_recipe, rank):
    processes = started(["train", str(tiny_recipe), "--out", "run", *ENDLESS], program=("-c", SLOW_TO_READ))
    wait_for(Path("run/checkpoints"))
    time.sleep(1)
    processes[rank].send_signal(signal.SIGTERM)
    results = ended(processes)
    (code, _, error), (other_code, _, other_error) = results[rank], results[1 - rank]
    assert (code, other_code) == (143, 1)
    assert error == ("error: interrupted\n" if rank == 0 else "")
    assert other_error.startswith("error: another process has ended or does not answer") and len(other_error.splitlines()) == 2
    assert not Path("run").exists()


@pytest.mark.slow
def test_a_run_of_another_mesh_is_refused_with_what_is_allowed_and_stays_as_it_was(tiny_recipe, torchrun):
    done = torchrun(str(tiny_recipe), "--out", "run", "--set", "parallel.expert=4", processes=4)
    assert done.communicate(timeout=TIMEOUT_S) and done.returncode == 0
    before = contents(Path("run"))
    further = ("run/recipe.yaml", "--out", "run", "--resume", "--set", "training.steps=8")
    refused = torchrun(*further, processes=3)
    said, error = refused.communicate(timeout=TIMEOUT_S)
    assert refused.returncode == 1  # torchrun's own, whatever ours is
    assert our_words(error) == [
        "error: parallel.expert: 4 processes share out the experts of each layer, and 3 processes are no multiple of that; allowed: 1",
        "training.batch_size: 4 sequences in 1 micro-batches can't be shared out evenly to 3 processes; allowed: a multiple of 3",
        "  next: change the recipe, or start another number of processes",
    ]
    assert "exitcode  : 2 " in error and said == "" and contents(Path("run")) == before
    refused = torchrun(*further, "--set", "parallel.expert=3", processes=3)
    said, error = refused.communicate(timeout=TIMEOUT_S)
    assert any("parallel.expert" in line for line in our_words(error)) and any("allowed:" in line for line in our_words(error))
    assert "exitcode  : 2 " in error and said == "" and contents(Path("run")) == before


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds torchrun's children in /proc")
def test_torchrun_starts_them_again_after_a_kill_and_they_end_where_an_undisturbed_training_does(tiny_recipe, torchrun):
    options = ("training.steps=120", "training.checkpoint_every=10", "evaluation.every=0")
    settings = [part for option in options for part in ("--set", option)]
    process = torchrun(str(tiny_recipe), "--out", "two", *settings, processes=2, restarts=1)
    wait_for(Path("two/checkpoints/step-10"))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    said, error = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, error
    assert "going on after step" in said
    train_tiny(tiny_recipe, "one", options)
    ours, expected = (read_metrics(Path(run) / "metrics.jsonl") for run in ("two", "one"))
    assert [line["step"] for line in ours] == [line["step"] for line in expected]
    for line, expected_line in zip(ours, expected, strict=True):
        for name in line.keys() & {"loss", "val_loss"}:
            assert line[name] == pytest.approx(expected_line[name], abs=1e-5), f"{name} of step {line['step']}"
