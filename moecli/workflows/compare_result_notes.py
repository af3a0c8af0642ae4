"""What a reader has to know of the figures that came out: which are bounds, which runs had trouble, and which machines they are of.

Knows results. Must not know how notes are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moecli.analysis.learning_curve import equal_level
from moecli.model.device import pick_device
from moecli.workflows.compare_equal_loss import curve_pairs
from moecli.workflows.compare_notes import Measure
from moecli.workflows.compare_results import ArmResult
from moecli.workflows.compare_runs import MACHINE
from moecli.workflows.environment import describe_machine

Machine = dict[str, Any]


def result_notes(results: Sequence[ArmResult], measure: Measure, seeds: Sequence[int]) -> list[str]:
    """The results begin with the base; their runs are in the order of the seeds."""
    return [note for other in results[1:] for note in _bound_notes(results[0], other, measure)] + [
        *_trouble_notes(results, seeds),
        *_machine_notes(results, seeds),
    ]


def _bound_notes(base: ArmResult, other: ArmResult, measure: Measure) -> list[str]:
    """Before the first validation nothing is known: who is below the level there has reached it with less."""
    pairs = curve_pairs(base, other, measure, over_seconds=False)
    notes = []
    for place, result, bound in ((0, base, "at least"), (1, other, "at most")):
        early = sum(pair[place].is_early(equal_level(*pair)) for pair in pairs)
        if early:
            notes.append(
                f"{base.arm.name} against {other.arm.name}: {result.arm.name} was below the equal loss before its first validation with "
                f"{early} of {len(pairs)} seed{'s' * (len(pairs) > 1)}, so the base is {bound} so many times as fast as is given"
            )
    return notes


def _trouble_notes(results: Sequence[ArmResult], seeds: Sequence[int]) -> list[str]:
    """The runs that went back to a checkpoint, or looked wrong on the way."""
    notes = []
    for result in results:
        for seed, run in zip(seeds, result.runs, strict=True):
            times = f"{run.num_rewinds} time{'s' * (run.num_rewinds > 1)}"
            rewinds = [f"numbers were not finite, and it went back to a checkpoint {times}"] * (run.num_rewinds > 0)
            notes += [f"{result.arm.name}, seed {seed}: {what}" for what in (*rewinds, *run.warnings)]
    return notes


def _machine_notes(results: Sequence[ArmResult], seeds: Sequence[int]) -> list[str]:
    runs_on: list[tuple[Machine, list[str]]] = []
    for result in results:
        for seed, run in zip(seeds, result.runs, strict=True):
            names = next((names for machine, names in runs_on if machine == run.machine), None)
            if names is None:
                names = []
                runs_on.append((run.machine, names))
            names.append(f"{result.arm.name} seed {seed}")
    notes = []
    if len(runs_on) > 1:
        told = "; ".join(f"{', '.join(names)} on {_words(machine)}" for machine, names in runs_on)
        notes.append(f"not all runs were trained alike (machine, threads, products in C), so their seconds can't be compared: {told}")
    if len({machine["products_in_c"] for machine, _ in runs_on}) > 1:
        why = "moe/grouped_product.c was not compiled there, is not for that device, or is newer than the run"
        notes.append(f"some runs had no products in C ({why}), so losses have other last digits, too")
    present = describe_machine(pick_device(results[0].arm.recipe.training.device))
    here = {key: present[key] for key in MACHINE}
    if here not in [machine for machine, _ in runs_on]:
        notes.append(f"memory and generation were measured on {_words(here)}, on which no run was trained")
    return notes


def _words(machine: Machine) -> str:
    threads, cpus = (f"{machine[key]} {noun}{'s' * (machine[key] != 1)}" for key, noun in (("threads", "thread"), ("cpus", "CPU")))
    products = ", products in C" if machine["products_in_c"] else ""
    return f"{machine['device']} ({threads}, {cpus}, {machine['platform']}{products})"
