"""Every recipe that trains on a small machine, trained as it is: loss, load, time, memory.

    python -m benchmarks.recipes                 # all, two at a time with one thread each: about 20 minutes on 2 CPU cores
    python -m benchmarks.recipes mlp mixtral     # these alone
    python -m benchmarks.recipes --write         # and put what was measured into the recipes' headers

Knows the command line alone (runs.py). Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.runs import RECIPES, Measured, train

COST, RESULT = "# cost:    ", "# result:  "
# quickstart.py, decode.py and `moecli compare-dense` measure these.
MEASURED_ELSEWHERE = ("quickstart", "decode", "compare-quick")


def trainable() -> list[str]:
    """The recipes whose header has a cost: all but the full-size shapes."""
    names = [path.stem for path in sorted(RECIPES.glob("*.yaml")) if COST in path.read_text(encoding="utf-8")]
    return [name for name in names if name not in MEASURED_ELSEWHERE]


def cost_line(measured: Measured) -> str:
    return f"{measured.result['wall_s']:.0f} s on one CPU core, {measured.peak_bytes / 1e6:,.0f} MB"


def result_line(measured: Measured) -> str:
    result = measured.result
    mean = result["load"]["mean"]
    kind = "nats/token" if result["bits_per_byte"] is not None else "nats/masked token"
    routing = f"; load CV {mean['cv_load']:.2f}, MaxVio {mean['max_violation']:.2f}, dropped {mean['dropped_fraction']:.1%}" if mean else ""
    return f"val {result['val_loss']:.3f} {kind} at seed 0{routing} (python -m benchmarks.recipes)"


def row(name: str, measured: Measured) -> str:
    result, mean = measured.result, measured.result["load"]["mean"]
    load = [f"{mean[key]:.3f}" for key in ("cv_load", "max_violation", "dropped_fraction")] if mean else ["", "", ""]
    counts = [f"{result[key]:,}" for key in ("params_active", "params_total", "flops_per_token")]
    cells = [name, f"{result['val_loss']:.4f}", *counts, *load, f"{result['tokens_per_s']:,.0f}", f"{result['wall_s']:.0f}"]
    return f"| {' | '.join(cells)} |"


def write_header(name: str, measured: Measured) -> None:
    path = RECIPES / f"{name}.yaml"
    text = path.read_text(encoding="utf-8")
    for label, line in ((COST, cost_line(measured)), (RESULT, result_line(measured))):
        text = re.sub(rf"^{re.escape(label)}.*$", label + line, text, count=1, flags=re.MULTILINE)
    path.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=trainable())
    parser.add_argument("--write", action="store_true", help="put what was measured into the recipes' headers")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, one thread each")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.jobs) as pool:
        runs = pool.map(lambda name: train(RECIPES / f"{name}.yaml", (), Path(folder) / name, threads=1), arguments.names)
        lines = [
            "| recipe | val loss | active | total | FLOPs/token | load CV | MaxVio | dropped | tokens/s | seconds |",
            "|---" * 10 + "|",
        ]
        for name, measured in zip(arguments.names, runs, strict=True):
            lines.append(row(name, measured))
            if arguments.write:
                write_header(name, measured)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
