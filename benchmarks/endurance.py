"""Trains a tiny model for many steps and watches memory and open files: neither may grow.

    python -m benchmarks.endurance                                  # 10,000 steps; about three minutes on 2 CPU cores

Resident memory and open files are read from /proc after a step is logged, in the process that trains. By step 500 the training has
validated and saved, so all that is allocated once is there. Linux.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from benchmarks.tiny_training import tiny_recipe
from moecli.workflows.events import Event, StepLogged
from moecli.workflows.train import train

FIRST_LOOK = 500


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000)
    arguments = parser.parse_args()
    looks: dict[int, tuple[int, int]] = {}

    def watch(event: Event) -> None:
        if isinstance(event, StepLogged) and event.figures["step"] % FIRST_LOOK == 0:
            looks[event.figures["step"]] = (resident_bytes(), open_files())

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        recipe = tiny_recipe(Path(name), steps=arguments.steps, log_every=10, checkpoint_every=100, evaluate_every=200)
        train(recipe, out=Path(name) / "run", listener=watch)
    first_bytes, _ = looks[FIRST_LOOK]
    for step, (num_bytes, files) in looks.items():
        print(f"step {step:>6,}: {num_bytes / 1e6:7.1f} MB resident ({num_bytes / first_bytes - 1:+.2%}), {files} open files")
    print(f"{arguments.steps:,} steps, saved every 100 and validated every 200: {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
