"""Do branches that were trained apart make a good MoE? Branch-Train-MiX on domains that are known, stage by stage.

    python -m benchmarks.mixing                   # seeds 1 2 3, each in a process with one thread: about 8 core-minutes
    python -m benchmarks.mixing --branch-steps 100 --branch-learning-rate 3e-4       # branches that stay near the seed model

Of each seed: a dense seed model, a branch of it for each domain, the average of their weights, their mixture with a router that begins at
random and with one that begins with text of the domains, each after mixing, after the gate stage and after joint training; and a dense
model of the branches' shape that sees as many tokens of all domains as all stages together.
Every loss is of the same held-out text of all domains, none of which any of the models was trained on.
Knows the command line alone, which it calls without a new process for each command. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.runs import RECIPES

BRANCH, GATE, JOINT = (RECIPES / f"mix-{stage}.yaml" for stage in ("branch", "gate", "joint"))
DOMAINS = range(4)
SEED_STEPS, GATE_STEPS, JOINT_STEPS = 400, 200, 300
# The text that mix-gate and mix-joint hold out.
UNION = ("--set", "data.corpus.domains=null", "--set", "data.validation_fraction=0.05")
QUIET = ("--set", "evaluation.every=0")


@dataclass(frozen=True)
class Branching:
    """How each branch is trained."""

    steps: int
    learning_rate: float


class Stages:
    """The trainings of one seed, in one folder."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.seed = seed
        self.losses: dict[str, float] = {}
        self.domains: dict[str, list[dict[str, Any]]] = {}

    def command(self, *arguments: str | Path) -> dict[str, Any]:
        from moecli.cli import app

        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = app.run([*map(str, arguments), "--json"], debug=False)
        if code:
            raise RuntimeError(f"moecli {' '.join(map(str, arguments))} failed: {out.getvalue()} {err.getvalue()}")
        result: dict[str, Any] = json.loads(out.getvalue())
        return result

    def note(self, name: str, loss: float) -> None:
        self.losses[name] = loss
        print(f"seed {self.seed}: {name} {loss:.4f}", flush=True)

    def resumed(self, run: Path) -> dict[str, Any]:
        return self.command("train", run / "recipe.yaml", "--out", run, "--resume")

    def on_union(self, run: Path) -> float:
        """The loss of a run on the held-out text of all domains."""
        there = run.with_name(f"{run.name}-union")
        self.command("convert", run, there, "--to", "moecli", *UNION)
        loss: float = self.command("eval", there)["loss"]
        return loss

    def dense(self, name: str, steps: int, *options: str) -> Path:
        settings = (f"training.steps={steps}", f"seed={self.seed}", "evaluation.every=0", *options)
        self.command("train", BRANCH, "--out", self.folder / name, *(text for setting in settings for text in ("--set", setting)))
        return self.folder / name

    def branches(self, source: Path, branching: Branching) -> list[Path]:
        paths = [self.folder / f"branch-{domain}" for domain in DOMAINS]
        for domain, path in zip(DOMAINS, paths, strict=True):
            length = (f"training.steps={branching.steps}", f"training.learning_rate={branching.learning_rate}")
            settings = (f"data.corpus.domains=[{domain}]", f"seed={self.seed + 1000}", *length)
            self.command("convert", source, path, "--to", "moecli", *(text for setting in settings for text in ("--set", setting)))
            self.resumed(path)
        return paths

    def measure(self, name: str, run: Path) -> None:
        """Notes the loss after a training of the run, and which expert has which domain."""
        self.note(name, self.resumed(run)["val_loss"])
        specialisation = self.command("route-stats", run, "--by", "domain")["specialisation"][0]
        order = [specialisation["values"].index(f"domain-{domain}") for domain in DOMAINS]
        for layer in specialisation["layers"]:
            layer["shares"] = [layer["share_of_tokens"][place] for place in order]
        self.domains[name] = specialisation["layers"]

    def staged(self, branches: list[Path], router_init: str) -> None:
        run, joint = self.folder / f"mixed-{router_init}", self.folder / f"joint-{router_init}"
        options = ("--router-init", router_init, "--seed", str(self.seed), *QUIET, "--set", f"seed={self.seed + 2000}")
        result = self.command("convert", *branches, run, "--mix", "--recipe", GATE, *options)
        assert not result["notes"], result["notes"]  # of held-out text that was trained on
        self.note(f"mixed, router {router_init}", self.command("eval", run)["loss"])
        self.measure(f"after the gate stage, router {router_init}", run)
        self.command("convert", run, joint, "--to", "moecli", "--recipe", JOINT, *QUIET, "--set", f"seed={self.seed + 3000}")
        self.measure(f"after joint training, router {router_init}", joint)


def stages_of_seed(folder: Path, branching: Branching, seed: int) -> Stages:
    stages = Stages(folder / str(seed), seed)
    stages.folder.mkdir()
    source = stages.dense("seed", SEED_STEPS)
    stages.note("seed model", stages.on_union(source))
    branches = stages.branches(source, branching)
    losses = [stages.on_union(branch) for branch in branches]
    for domain, loss in zip(DOMAINS, losses, strict=True):
        stages.note(f"branch of domain {domain}", loss)
    stages.note("mean of the branches' losses", sum(losses) / len(losses))
    stages.staged(branches, "random")
    average = stages.folder / "average"
    stages.command("convert", stages.folder / "mixed-random/checkpoints/step-0", average, "--resize", "dense", "--merge-by", "average")
    stages.note("average of the branches' weights", stages.command("eval", average)["loss"])
    stages.staged(branches, "domain")
    steps = SEED_STEPS + len(DOMAINS) * branching.steps + GATE_STEPS + JOINT_STEPS
    dense = stages.dense("dense", steps, "data.validation_fraction=0.05")
    stages.note("dense model on all domains, as many tokens", stages.command("eval", dense)["loss"])
    return stages


def loss_row(name: str, per_seed: list[Stages]) -> str:
    from moecli.analysis.seeds import seed_mean

    losses = [stages.losses[name] for stages in per_seed]
    mean = seed_mean(losses)
    interval = f" ({mean.ci95[0]:.4f} to {mean.ci95[1]:.4f})" if mean.ci95 else ""
    return f"| {name} | {mean.mean:.4f}{interval} | {' '.join(f'{loss:.4f}' for loss in losses)} |"


def domain_row(name: str, layer: int, per_seed: list[Stages]) -> str:
    found = [stages.domains[name][layer] for stages in per_seed]
    own = [one["shares"][domain][domain] for one in found for domain in DOMAINS]
    largest = sum(one["shares"][domain][domain] == max(one["shares"][domain]) for one in found for domain in DOMAINS)
    cells = [
        name,
        str(found[0]["layer"]),
        f"{sum(own) / len(own):.3f} ({min(own):.3f} to {max(own):.3f})",
        f"{largest} of {len(own)}",
        " ".join(f"{one['nmi_corrected']:.3f}" for one in found),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=2, help="seeds at a time, one thread each")
    parser.add_argument("--branch-steps", type=int, default=300)
    parser.add_argument("--branch-learning-rate", type=float, default=3e-3)
    arguments = parser.parse_args()
    branching = Branching(arguments.branch_steps, arguments.branch_learning_rate)
    os.environ["OMP_NUM_THREADS"] = "1"
    pool = ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn"))
    with tempfile.TemporaryDirectory() as folder, pool:
        per_seed = list(pool.map(partial(stages_of_seed, Path(folder), branching), arguments.seeds))
    print("\n| model | held-out loss, all domains (95 % over seeds) | per seed |\n|---|---|---|")
    for name in per_seed[0].losses:
        print(loss_row(name, per_seed))
    print("\n| model | layer | share of a domain's tokens that its branch's expert runs for | is the largest | NMI per seed, corrected |")
    print("|---" * 5 + "|")
    for name, layers in per_seed[0].domains.items():
        for layer in range(len(layers)):
            print(domain_row(name, layer, per_seed))


if __name__ == "__main__":
    main()
