"""Signals: the first finishes the step and saves, the second leaves at once, each with its own exit code. In this process, so that
torch is imported once: a thread sends what a system or a person would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from moecli.cli.stop import SIGNALS, StopRequest
from moecli.errors import Interrupted
from moecli.model.checkpoint import load_model

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
LONG = ("--set", "training.steps=400", "--set", "evaluation.every=0", "--set", "training.checkpoint_every=0")


@contextmanager
def sent(number: int, *, after_lines: int, run: str, times: int = 1) -> Iterator[None]:
    """Sends a signal to this process when a run has logged so many lines."""

    def send() -> None:
        path = Path(run, "metrics.jsonl").absolute()
        while not (path.exists() and path.read_text().count("\n") >= after_lines):
            time.sleep(0.005)
        for _ in range(times):
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    yield
    thread.join(timeout=10)


@pytest.fixture(autouse=True)
def signals_are_given_back() -> Iterator[None]:
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before


def weights(run: str) -> dict[str, torch.Tensor]:
    return load_model(Path(run, "checkpoints", "latest")).state_dict()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_saves_and_resume_ends_the_same(tiny_recipe, inside, number):
    short = ("--set", "training.steps=60", *LONG[2:])
    assert inside("train", "tiny.yaml", "--out", "undisturbed", *short)[0] == 0
    with sent(number, after_lines=10, run="stopped"):
        code, _, errors = inside("train", "tiny.yaml", "--out", "stopped", *short)
    assert code == EXIT_CODES[number]
    assert "the checkpoint is saved" in errors and "add --resume" in errors
    assert 10 <= int(Path("stopped/checkpoints/latest").readlink().name.removeprefix("step-")) < 60
    assert inside("train", "tiny.yaml", "--out", "stopped", "--resume", *short)[0] == 0
    assert all(torch.equal(tensor, weights("undisturbed")[name]) for name, tensor in weights("stopped").items())


@pytest.mark.parametrize("number", EXIT_CODES, ids=lambda number: number.name)
def test_the_second_leaves_at_once_and_harms_nothing(tiny_recipe, inside, monkeypatch, number):
    settings = (*LONG, "--set", "training.checkpoint_every=20")
    own_step, steps = torch.optim.AdamW.step, []

    def slow(*arguments: object, **options: object):
        """The first signal comes while a step is at work, and the second before it ends."""
        steps.append(None)
        if len(steps) == 30:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)
        return own_step(*arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", slow)
    code, _, errors = inside("train", "tiny.yaml", "--out", "run", *settings)
    assert code == EXIT_CODES[number] and "interrupted" in errors and "Traceback" not in errors
    assert Path("run/checkpoints/latest").readlink() == Path("step-20")
    assert inside("eval", "run")[0] == 0


def test_a_terminal_that_is_gone_does_not_keep_the_steps_from_being_saved(tiny_recipe, inside, monkeypatch):
    from moecli.cli.train_progress import TrainProgress

    own_show = TrainProgress.show

    def gone(progress: TrainProgress, event: object) -> None:
        if Path("run/metrics.jsonl").exists() and Path("run/metrics.jsonl").read_text().count("\n") > 10:
            raise OSError(5, "Input/output error")
        own_show(progress, event)

    monkeypatch.setattr(TrainProgress, "show", gone)
    with sent(signal.SIGHUP, after_lines=12, run="run"):
        code, _, _ = inside("train", "tiny.yaml", "--out", "run", *LONG)
    assert code == 129
    assert int(Path("run/checkpoints/latest").readlink().name.removeprefix("step-")) >= 12


def test_a_reader_of_the_pipe_that_is_gone_does_not_end_the_training(tiny_recipe):
    command = [sys.executable, "-m", "moecli", "train", "tiny.yaml", "--out", "run"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 0 and errors == b""


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT], ids=lambda number: number.name)
def test_what_is_switched_off_stays_off(number):
    """As nohup does with SIGHUP, and a script with SIGINT for what it runs in the background."""
    stop = StopRequest(Console(file=StringIO()))
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stop.armed():
            stop.begin()
            os.kill(os.getpid(), number)
            assert not stop.is_requested()
            assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_before_there_is_anything_to_save_a_signal_ends_at_once(number):
    stop = StopRequest(Console(file=StringIO()))
    with pytest.raises(Interrupted) as caught, stop.armed():
        os.kill(os.getpid(), number)
        pytest.fail("went on")
    assert caught.value.exit_code == stop.exit_code == EXIT_CODES[number]


def test_ctrl_c_stays_ctrl_c():
    with pytest.raises(KeyboardInterrupt), StopRequest(Console(file=StringIO())).armed():
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("went on")


def test_a_console_that_is_at_work_is_not_in_the_way():
    class Busy(StringIO):
        def write(self, text: str) -> int:
            raise RuntimeError("reentrant call inside <_io.BufferedWriter>")

    stop = StopRequest(Console(file=Busy()))
    with stop.armed():
        stop.begin()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_requested()
