"""Runs a benchmark by its name: `python -m benchmarks layer --rounds 5` is `python -m benchmarks.layer --rounds 5`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# Files of this folder that benchmarks share.
SHARED = {"__init__", "__main__", "layouts", "pairs", "plain_gpt", "process_memory", "rounds", "runs", "tiny_training"}


def main() -> None:
    names = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in SHARED)
    name = sys.argv[1].replace("-", "_") if len(sys.argv) > 1 else ""
    if name not in names:
        sys.exit(f"python -m benchmarks NAME [OPTIONS], NAME one of {', '.join(names)}")
    sys.exit(subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *sys.argv[2:]], check=False).returncode)


if __name__ == "__main__":
    main()
