"""How processes meet, and what they say when they don't."""

from __future__ import annotations

import os
import signal
import socket
import threading

import pytest
import torch

from moecli.errors import MachineError, RecipeError
from moecli.parallel import meeting
from moecli.parallel.meeting import begin_world
from moecli.parallel.peers import lost_peers


@pytest.fixture
def launched(monkeypatch):
    """Sets what a launcher would; the values given stand in for its own."""

    def launch(**values: object) -> None:
        defaults = {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 0}
        for name, value in (defaults | values).items():
            monkeypatch.setenv(name, str(value))

    return launch


def test_processes_talk(two):
    for returned in two.returned:
        words = returned["words"]
        assert words["one"] is True and words["none"] is False
        assert words["objects"] == ["rank 0", "rank 1"]
        assert words["first"] == {"of": 0}
        assert words["sums"] == [[2, 4], [[1]]]


def test_an_error_of_one_is_raised_by_all(two):
    text = "DataError: file.txt: no text\n  next: write one"
    assert [returned["words"]["together"] for returned in two.returned] == [text, text]


def test_processes_that_experts_cannot_be_shared_out_to(launched):
    launched(WORLD_SIZE=6)
    with pytest.raises(RecipeError, match=r"parallel\.expert: 4 processes .* 6 processes are no multiple of that\n  allowed: 1, 2, 3, 6"):
        begin_world("cpu", expert=4)


def test_a_device_that_processes_cannot_share(launched):
    launched()
    with pytest.raises(MachineError, match=r"training\.device: several processes don't train on mps\n  allowed: cpu, cuda"):
        begin_world("mps")


def test_more_processes_than_gpus(launched, monkeypatch):
    launched(LOCAL_WORLD_SIZE=4, WORLD_SIZE=4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(MachineError, match="4 processes on this machine, which has 2 GPUs"):
        begin_world("cuda")


def test_a_port_in_use(launched):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        launched(MASTER_PORT=port)
        with pytest.raises(MachineError, match=rf"127\.0\.0\.1:{port}: the port is in use\n  next: give torchrun another --master-port"):
            begin_world("cpu", timeout_s=2)


def test_something_that_listens_and_never_answers(launched, monkeypatch):
    """torch's own wait for it has no end."""
    monkeypatch.setattr(meeting, "SPARE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        launched(MASTER_PORT=port, RANK=1)
        with pytest.raises(
            MachineError, match=rf"127\.0\.0\.1:{port}: not all 2 processes met within 0.5 s: what listens there does not answer"
        ):
            begin_world("cpu", timeout_s=0.5)


def test_a_wait_in_torch_ends_with_a_signal(launched):
    """It may last for minutes, and a person who presses Ctrl-C wants to leave."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        launched(MASTER_PORT=server.getsockname()[1], RANK=1)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            begin_world("cpu", timeout_s=60)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_does_not_come(launched, rank):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launched(MASTER_PORT=port, RANK=rank)
    with pytest.raises(MachineError, match="not all 2 processes met within 1 s"):
        begin_world("cpu", timeout_s=1)


def test_a_process_that_goes_is_told():
    text = "[/build/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.2]:55960. Check the logs"
    with pytest.raises(MachineError) as caught, lost_peers():
        raise RuntimeError(text)
    first, *rest = str(caught.value).splitlines()
    assert first == "another process has ended or does not answer: Connection closed by peer [10.0.0.2]:55960. Check the logs"
    assert rest == ["  next: look at what that process said; then give the same command again with --resume"]


def test_other_errors_are_not_blamed_on_processes():
    with pytest.raises(RuntimeError, match="shapes"), lost_peers():
        raise RuntimeError("shapes don't fit")
