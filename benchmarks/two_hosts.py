"""Two hosts train together over a network, lose each other, and go on: two network namespaces of this machine, joined by a cable.

    python -m benchmarks two-hosts          # Linux, as root, with iproute2; about a minute

Knows torchrun and `ip`. Shows three things: the losses of two hosts are those of one process; with the cable cut the trainings on both end
with a message within the recipe's timeout; with the cable back the same command with --resume goes on to the same losses. torchrun itself
stays for a minute and more after its training on the host that can't reach the meeting point: it is stopped here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HOSTS = {"moecli-a": "10.77.0.1", "moecli-b": "10.77.0.2"}
TIMEOUT_S, STEPS = 10, 400
RECIPE = """\
name: two-hosts
data: {corpus: {kind: stdlib}, tokenizer: {kind: byte}, seq_len: 64}
model: {d_model: 64, num_layers: 2, num_heads: 2, ffn: {kind: sparse, num_experts: 4, d_expert: 64}}
training: {steps: 400, batch_size: 8, log_every: 10, checkpoint_every: 20, device: cpu}
evaluation: {every: 0, batch_size: 64}
"""


def ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, capture_output=True)


@contextmanager
def cable() -> Iterator[None]:
    """The two hosts, each with its address at its end of the cable."""
    try:
        for host in HOSTS:
            ip("netns", "add", host)
        ip("link", "add", "cable-a", "netns", "moecli-a", "type", "veth", "peer", "name", "cable-b", "netns", "moecli-b")
        for (host, address), end in zip(HOSTS.items(), ("cable-a", "cable-b"), strict=True):
            ip("-n", host, "addr", "add", f"{address}/24", "dev", end)
            ip("-n", host, "link", "set", end, "up")
            ip("-n", host, "link", "set", "lo", "up")
        yield
    finally:
        for host in HOSTS:
            ip("netns", "del", host, check=False)


def plug(state: str) -> None:
    ip("-n", "moecli-a", "link", "set", "cable-a", state)


def start(host: str, recipe: Path, out: Path, log: Path, options: list[str]) -> subprocess.Popen[bytes]:
    end = "cable-a" if host == "moecli-a" else "cable-b"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d"]
    # The namespaces share this machine's name, by which torchrun would look for the host of the rendezvous.
    torchrun += ["--rdzv-conf", f"is_host={int(host == 'moecli-a')}"]
    torchrun += ["--rdzv-endpoint", f"{HOSTS['moecli-a']}:29500", "--local-addr", HOSTS[host], "--max-restarts", "0"]
    command = ["ip", "netns", "exec", host, *torchrun, "-m", "moecli", "train", str(recipe), "--out", str(out), *options]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": end, "OMP_NUM_THREADS": "1"}
    with log.open("wb") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)


def losses(out: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def wait_until(is_so: Callable[[], bool], what: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            raise SystemExit(f"{what}: not within {seconds:g} s")
        time.sleep(0.1)


def message(log: Path) -> str:
    """What moecli says of a lost process, in the output of torchrun; empty without."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line for line in lines if line.startswith("error: another process")), "")


def largest_difference(one: dict[int, float], other: dict[int, float]) -> float:
    assert one.keys() == other.keys()
    return max(abs(loss - other[step]) for step, loss in one.items())


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as folder, cable():
        recipe, alone, both = Path(folder, "recipe.yaml"), Path(folder, "alone"), Path(folder, "both")
        logs = {host: Path(folder, host) for host in HOSTS}
        recipe.write_text(RECIPE + f"parallel: {{expert: 2, timeout_s: {TIMEOUT_S}}}\n", encoding="utf-8")
        words = [sys.executable, "-m", "moecli", "train", str(recipe), "--set", "parallel.expert=1", "--out", str(alone)]
        subprocess.run(words, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        launched = [start(host, recipe, both, logs[host], []) for host in HOSTS]
        wait_until((both / "checkpoints" / "step-40").is_dir, "the checkpoint of step 40")
        plug("down")
        cut = time.monotonic()
        wait_until(lambda: all(message(log) for log in logs.values()), "a message on both hosts")
        print(f"cable cut after step 40 of {STEPS}: both trainings ended within {time.monotonic() - cut:.1f} s (timeout {TIMEOUT_S} s)")
        for host, log in logs.items():
            print(f"  {host}: {message(log)}")
        for torchrun in launched:
            torchrun.kill()
            torchrun.wait()
        plug("up")
        launched = [start(host, recipe, both, logs[host], ["--resume"]) for host in HOSTS]
        print(f"cable back, --resume: exit codes {[torchrun.wait() for torchrun in launched]}")
        ours, theirs = losses(alone), losses(both)
        print(f"largest difference of {len(ours)} losses to those of one process: {largest_difference(ours, theirs):.1e}")


if __name__ == "__main__":
    main()
