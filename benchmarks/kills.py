"""Kills one training again and again with SIGKILL, resumes it each time, and compares its end with that of an undisturbed one.

    python -m benchmarks.kills                                      # 100 kills; 14 minutes on 2 busy CPU cores
    python -m benchmarks.kills --kills 5 --steps 300 --seed 1

To start Python and torch takes seconds, so this process imports all once and forks a child for each attempt. The moments are random times,
drawn by --seed, and spread over the training as it comes on. Every third step is saved. After each kill the checkpoint that `latest` points
at is checked against its manifest, and what lies about says what the kill has interrupted. Linux and macOS.
"""

from __future__ import annotations

import argparse
import collections
import json
import os

# Read once, when torch is imported. Threads would not survive a fork.
os.environ["OMP_NUM_THREADS"] = "1"

import random
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.tiny_training import tiny_recipe
from moecli.model.checkpoint import read_tensors
from moecli.model.manifest import check_manifest
from moecli.recipe.schema import Recipe
from moecli.training.metric_log import read_metrics
from moecli.workflows.run_dir import RunDir, checkpoint_steps
from moecli.workflows.train import train

TENSOR_FILES = ("model.safetensors", "training_state.safetensors")


@dataclass
class Kills:
    """What became of one training."""

    interrupted: collections.Counter[str] = field(default_factory=collections.Counter)
    """How many kills fell into what."""
    resumes: int = 0
    failed_resumes: int = 0
    """Resumed trainings that ended by themselves with an error."""
    seconds: float = 0.0


def fork_training(recipe: Recipe, run: RunDir, *, resume: bool) -> int:
    """Trains in a child, which leaves with 0, or with 1 and a traceback in `errors.txt` beside the run. Returns its process id."""
    child = os.fork()
    if child:
        return child
    try:
        train(recipe, out=run.path, resume=resume, listener=lambda event: None)
        os._exit(0)
    except BaseException:
        (run.path.parent / "errors.txt").write_text(traceback.format_exc(), encoding="utf-8")
        os._exit(1)


def steps_done(run: RunDir) -> int:
    return max(checkpoint_steps(run), default=0)


def leftovers(run: RunDir) -> dict[tuple[str, int, int], str]:
    """What half-done writes there are, by name, place and time, and what each was."""
    kinds = {".step-*.partial": "a checkpoint's files", ".step-*.old": "a removal of an old one", ".*st.partial": "a link"}
    found = {path: kind for pattern, kind in kinds.items() for path in run.checkpoints.glob(pattern)}
    found |= dict.fromkeys(run.path.glob(".*-[0-9]*"), "a small file of the run")
    return {(str(path), path.lstat().st_ino, path.lstat().st_mtime_ns): kind for path, kind in found.items()}


def interrupted_by_kill(run: RunDir, before: dict[tuple[str, int, int], str], steps_before: int) -> str:
    """What the last kill has interrupted, as far as the folder tells."""
    new = [kind for key, kind in leftovers(run).items() if key not in before]
    if new:
        return new[0]
    steps = checkpoint_steps(run)
    if steps and (not run.latest.exists() or run.latest.resolve().name != steps[max(steps)].name):
        return "a whole checkpoint, not linked yet"
    if run.metrics.exists() and not run.metrics.read_bytes().endswith(b"\n") and run.metrics.stat().st_size:
        return "a line of metrics"
    return "steps, or a validation" if steps_done(run) > steps_before else "the start of the program, or its first steps"


def kill_training(recipe: Recipe, run: RunDir, kills: int, seconds: float, start: float, seed: int) -> Kills:
    """Kills and resumes, then lets the training come to its end.

    Args:
        recipe: of the training.
        run: its folder, not there yet.
        kills: how many.
        seconds: of the undisturbed training, `start` not counted.
        start: seconds until its first step.
        seed: decides the moments.
    """
    generator, result, began = random.Random(seed), Kills(), time.perf_counter()
    while sum(result.interrupted.values()) < kills:
        before, steps_before = leftovers(run), steps_done(run)
        share = seconds * (1 - steps_before / recipe.training.steps) / (kills - sum(result.interrupted.values()))
        child = fork_training(recipe, run, resume=run.path.exists())
        result.resumes += steps_before > 0
        time.sleep(generator.uniform(0, start + 0.9 * share))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status) == 0:
                break
            result.failed_resumes += 1
            print((run.path.parent / "errors.txt").read_text(encoding="utf-8"), file=sys.stderr)
            raise SystemExit("a resumed training failed")
        if run.latest.exists():
            check_manifest(run.latest.resolve())
        result.interrupted[interrupted_by_kill(run, before, steps_before)] += 1
    child = fork_training(recipe, run, resume=run.path.exists())
    result.resumes += 1
    result.failed_resumes += os.waitpid(child, 0)[1] != 0
    result.seconds = time.perf_counter() - began
    return result


def differences(first: RunDir, second: RunDir) -> list[str]:
    """What of two finished runs is not the same bit for bit: tensors of weights and state, and the figures of every step but its speed."""
    found = []
    for file in TENSOR_FILES:
        ours, theirs = (read_tensors(run.latest.resolve() / file) for run in (first, second))
        bits = [{name: tensor.numpy().tobytes() for name, tensor in tensors.items()} for tensors in (ours, theirs)]
        found += [f"{file}: {name}" for name in bits[0].keys() | bits[1].keys() if bits[0].get(name) != bits[1].get(name)]
    lines = [
        [{key: value for key, value in line.items() if key != "tokens_per_s"} for line in read_metrics(run.metrics)]
        for run in (first, second)
    ]
    return found + ["metrics.jsonl"] * (lines[0] != lines[1])


def time_undisturbed(recipe: Recipe, run: RunDir) -> tuple[float, float]:
    """Trains once. Returns the seconds until the first step, and those from there to the end."""
    began = time.perf_counter()
    child = fork_training(recipe, run, resume=False)
    while not (run.metrics.exists() and run.metrics.stat().st_size):
        time.sleep(0.002)
        if os.waitpid(child, os.WNOHANG)[0]:
            raise SystemExit((run.path.parent / "errors.txt").read_text(encoding="utf-8"))
    first_step = time.perf_counter()
    if os.waitpid(child, 0)[1]:
        raise SystemExit((run.path.parent / "errors.txt").read_text(encoding="utf-8"))
    return first_step - began, time.perf_counter() - first_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=6000, help="of the training")
    parser.add_argument("--seed", type=int, default=0, help="decides the moments")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = tiny_recipe(folder, steps=arguments.steps, log_every=1, checkpoint_every=3, evaluate_every=50)
        start, seconds = time_undisturbed(recipe, RunDir(folder / "undisturbed"))
        killed = RunDir(folder / "killed")
        result = kill_training(recipe, killed, arguments.kills, seconds, start, arguments.seed)
        different = differences(RunDir(folder / "undisturbed"), killed)
    kills = sum(result.interrupted.values())
    if arguments.json:
        print(json.dumps({"kills": kills, "resumes": result.resumes, "failed": result.failed_resumes, "different": different}))
    else:
        print(f"undisturbed: {arguments.steps:,} steps in {seconds:.1f} s after {start:.2f} s of start")
        print(f"{kills} kills, {result.resumes} resumes, {result.failed_resumes} of them failed; {result.seconds:.0f} s")
        for what, count in result.interrupted.most_common():
            print(f"  {count:>4} interrupted {what}")
        print(f"weights, optimizer state, random state and metrics: {', '.join(different) or 'the same, bit for bit'}")
    if different or result.failed_resumes:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
